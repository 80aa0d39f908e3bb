"""Layer gradient SHAP: gradients at random places between a layer's activations for references and for the image."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..attributor import register
from ..path.expected_gradients import number_of, references_of
from ..path.gradient_shap import GradientSHAP
from ._layer import Carried


@register(
    "layer_gradient_shap",
    family="layer",
    needs=("gradient", "references", "layer"),
    stochastic=True,
    granularity="cell",
    at_most=True,
    samples="samples",
    kinds=("image", "tokens"),
    small={"samples": 64},
    paper="Lundberg and Lee 2017, arXiv:1705.07874, with the sampling of Erion et al. 2021, arXiv:1906.10670, at a layer",
)
class LayerGradientSHAP(Carried, GradientSHAP):
    """Gradient SHAP at a layer, on lines from its activations for the references to that for the image.

    Args:
        references: Images, as in `gradient_shap`: the layer's activations for them are where lines start.
        stdevs: Standard deviation of the noise that is added to the activation, as a part of its own range, or in its unit
            if not `relative`.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. Details as in `gradient_shap`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> made = attribution.create("layer_gradient_shap", network, references=0.0, samples=4)
        >>> found = made.explain(torch.rand(1, 3, 8, 8), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-5)  # all behind the layer is linear
        True
    """

    def carry(self, images: Tensor, through: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What the layer makes of the references."""
        given = self.references
        if isinstance(given, Tensor) and given.ndim == images.ndim:
            return {"references": through(given.to(images).expand(-1, *images.shape[1:]))}
        all_of_them = range(number_of(given, images.ndim))
        made = references_of(given, all_of_them, images, self.model, seed=self.seed)
        return {"references": tuple(through(one.expand(-1, *images.shape[1:])) for one in made)}

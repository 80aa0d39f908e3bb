"""Layer integrated gradients: the line runs through a layer's activation."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import baselines
from ..attributor import register
from ..path.integrated_gradients import IntegratedGradients
from ._layer import Carried


@register(
    "layer_integrated_gradients",
    family="layer",
    aliases=("layer_ig",),
    needs=("gradient", "layer"),
    granularity="cell",
    at_most=True,
    samples="steps",
    kinds=("image", "tokens"),
    small={"steps": 16},
    paper="Sundararajan, Taly and Yan 2017, arXiv:1703.01365, equation 1, from a layer's activation at the baseline",
)
class LayerIntegratedGradients(Carried, IntegratedGradients):
    """Integrated gradients at a layer, on the line from its activation for the baseline to that for the image.

    Values sum to the score minus the baseline's, up to `details["convergence_delta"]`. Activations on the line are blends
    of two images' and need be no image's: `layer_conductance` runs through images. `integrated_gradients(layer=...)` is
    the same from a baseline in the activation itself, as 0.

    Args:
        baseline: An image, as in `integrated_gradients`, or several in a tuple: the layer's activation for it is where the
            line starts.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `native` has what sums to the difference of the scores, `maps` what
        is resized from it. Details as in `integrated_gradients`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> found = attribution.create("layer_integrated_gradients", network, steps=4).explain(x, target=0)
        >>> difference = network(x)[0, 0] - network(torch.zeros_like(x))[0, 0]
        >>> torch.allclose(found.native.sum(), difference, atol=1e-5)
        True
    """

    def carry(self, images: Tensor, through: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What the layer makes of the baselines."""
        starts = baselines.make_each(self.baseline, images, self.model)
        return {"baseline": tuple(through(one.expand(-1, *images.shape[1:])) for one in starts)}

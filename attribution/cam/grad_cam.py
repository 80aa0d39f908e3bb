"""Grad-CAM: feature maps, each weighed by its mean gradient."""

from typing import Any

import torch
from torch import Tensor, nn

from ..attributor import Attributor, Computed, Resize, register
from ..model import Model
from ..targets import Output, Target


def grad_cam(model: Model, inputs: Tensor, target: Target, *, layer: str, output: Output) -> Tensor:
    r"""Weigh a layer's feature maps by their mean gradients (equations 1 and 2 of the paper, without the ReLU).

    .. math:: \sum_k \Bigl(\frac{1}{hw} \sum_{ij} \frac{\partial f}{\partial A^k_{ij}}\Bigr) A^k

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        layer: The layer's name.
        output: Which score.

    Returns:
        `(N, 1, h, w)`, signed. The backward pass ends at the layer.
    """
    trunk, head = model.split(layer)
    maps = []
    for part in torch.arange(len(inputs)).split(model.batch("forward")):
        features = trunk.outputs(inputs[part], rows=target.rows[part], count=target.count)
        if features.ndim != 4:
            raise ValueError(
                f"grad_cam needs a layer of shape (N, K, h, w), and {layer!r} gives {tuple(features.shape)}: pass another "
                "layer=; model.layers() lists them with their shapes"
            )
        _, gradients = head.gradients(features, target.take(part), output=output)
        maps.append((gradients.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True))
    return torch.cat(maps)


@register(
    "grad_cam",
    family="cam",
    aliases=("gradcam",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2",
)
class GradCAM(Attributor):
    """Feature maps of a late layer, each weighed by its mean gradient.

    As coarse as the layer. Weights are means over the whole map, so a place may light up for a feature that mattered
    elsewhere.

    Args:
        output: Which score is differentiated.
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last spatial one before
            pooling.
        relu: Whether negative values are cut off, as the paper's equation 2 does.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, in the unit of the score times that of the features; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("grad_cam", network).explain(torch.rand(1, 3, 8, 8), target=0)
        >>> found.details["layer"], found.native.shape
        ('1', torch.Size([1, 1, 6, 6]))
    """

    layer: str = "auto"
    relu: bool = True
    resize: Resize | None = "bilinear"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks that end in a spatial layer with nothing but pooling and classification after it."""
        reason = super().supports(model)
        if reason is not None or not isinstance(model.network, nn.Module):
            return reason
        if model.shape is None:
            convolutions = any(isinstance(m, nn.Conv2d) for m in model.network.modules())
            return None if convolutions else "no convolution was found in it"
        try:
            model.auto_layer()
        except ValueError as error:
            return str(error)
        return None

    def _refusal(self) -> str | None:
        """A layer that the user names is not looked for."""
        return type(self).supports(self.model) if self.layer == "auto" else super().supports(self.model)

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.model.auto_layer(inputs) if self.layer == "auto" else self.layer
        maps = grad_cam(self.model, inputs, target, layer=layer, output=self.output)
        return Computed(maps.relu() if self.relu else maps, {"layer": layer})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

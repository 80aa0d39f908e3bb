"""Layer activation: what a layer hands on."""

from typing import Any

from torch import Tensor

from ..attributor import Channels, Computed, register
from ..targets import Target
from ._layer import Layered


@register(
    "layer_activation",
    family="layer",
    needs=("layer",),
    granularity="cell",
    signed=False,
    targeted=False,
    paper="the activation itself; Simonyan, Vedaldi and Zisserman 2014, arXiv:1312.6034, on what to compare it with",
)
class LayerActivation(Layered):
    """What a layer hands on, whatever the target.

    Where a layer is active, not what it is active for: a control that says how much of another map is the features' own.

    Args:
        output: Without effect on the map.
        channels: How the feature maps become one; "keep" leaves every one of them, `(N, K, H, W)`.

    Returns:
        `(N, 1, H, W)`, in the unit of the features.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> look = attribution.create("layer_activation", network, layer="0", channels="keep")
        >>> look.explain(torch.rand(1, 3, 8, 8)).native.shape
        torch.Size([1, 4, 6, 6])
    """

    channels: Channels = "mean"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        layout = self.model.layout(layer)
        maps = layout.maps(self.model.activations(inputs, layer, rows=target.rows, count=target.count))
        return Computed(maps, {"layer": layer})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 0

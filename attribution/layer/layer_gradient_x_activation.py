"""Layer gradient x activation: a first order guess at what each unit of a layer adds to the score."""

from typing import Any

import torch
from torch import Tensor

from ..attributor import Channels, Computed, register
from ..targets import Target
from ._layer import Layered


def layer_gradient_x_activation(features: Tensor, gradients: Tensor) -> Tensor:
    """Multiply every unit's activation by its gradient, `(N, K, h, w)`.

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, likewise.
    """
    return features * gradients


@register(
    "layer_gradient_x_activation",
    family="layer",
    aliases=("layer_grad_x_activation",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Shrikumar, Greenside, Shcherbina and Kundaje 2016, arXiv:1605.01713, at a layer",
)
class LayerGradientXActivation(Layered):
    """Gradient times activation for every unit of a layer.

    Summed over the feature maps, as by default, it is HiResCAM without its cut-off. Where the rest of the network is
    linear the values sum to the score minus its bias; elsewhere `layer_conductance` is the one that sums to something.

    Args:
        output: Which score is differentiated.
        channels: How the feature maps become one; "keep" leaves every one of them, `(N, K, H, W)`.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("layer_gradient_x_activation", network).explain(torch.rand(1, 3, 8, 8), target=0)
        >>> torch.allclose(found.native.sum(), found.scores - network[4].bias[0], atol=1e-5)
        True
    """

    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        parts = self.model.features(
            inputs, target, layer, lambda _, a, g, __: layer_gradient_x_activation(a, g), output=self.output
        )
        return Computed(torch.cat(parts), {"layer": layer})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

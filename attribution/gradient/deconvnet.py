"""Deconvnet: a gradient that forgets which rectifiers were open, and is cut off below zero instead."""

from typing import Any

from torch import Tensor

from ..attributor import Attributor, Channels, Computed, register
from ..targets import Target
from .guided_backprop import modified_gradient


@register(
    "deconvnet",
    family="gradient",
    aliases=("deconvolution", "deconv"),
    needs="gradient",
    localizes=False,
    kinds=("image", "table", "tokens"),
    paper="Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1",
)
class Deconvnet(Attributor):
    r"""What comes back where rectifiers cut off negative signals on the way back, instead of those they cut off before.

    Which rectifiers were open does not matter, so that only max pooling, norms and smooth functions tell one image from
    another: on a network of convolutions, ReLUs and average pooling the map is the same for every image. A picture of what
    excites the network, nearly the same for every class; like `guided_backprop` it is not changed by replacing upper layers'
    weights by random ones. Do not reason from it.

    What counts as a rectifier is told at `guided_backprop`. All of them hand back what is positive as if they were the
    identity, smooth and leaky ones too; sigmoid, tanh, softmax, norms and attention have their ordinary gradient.

    Args:
        output: Which score is handed back.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed; `details["activations"]` has how many rectifiers were met.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> maps = attribution.create("deconvnet", network).attribute(torch.rand(2, 3, 2, 2), target=0)
        >>> bool((maps[0] == maps[1]).all())
        True
    """

    tried = "rectifiers"

    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        maps, count = modified_gradient(self.model, inputs, target, way="deconv", output=self.output, name="deconvnet")
        return Computed(maps, {"activations": count})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

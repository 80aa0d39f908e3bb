"""Saliency: the size of the gradient at every pixel."""

from typing import Any

from torch import Tensor

from ..attributor import Attributor, Channels, Computed, register
from ..targets import Target
from .gradient import gradient


@register(
    "saliency",
    family="gradient",
    aliases=("vanilla_gradient",),
    needs="gradient",
    signed=False,
    kinds=("image", "table", "tokens"),
    paper="Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034, section 3",
)
class Saliency(Attributor):
    r"""How much the score changes with each pixel: :math:`\max_c |\partial f / \partial x_c|`.

    Unsigned: a pixel that speaks against the target counts as much as one that speaks for it. Where the score is
    saturated the gradient is small, however important the pixel is.

    Args:
        output: Which score is differentiated.
        channels: How the channels' absolute gradients become one map; the paper takes the largest.

    Returns:
        `(N, 1, H, W)`, score per unit of pixel value.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> attribution.create("saliency", network).attribute(torch.rand(1, 3, 2, 2), target=0).shape
        torch.Size([1, 1, 2, 2])
    """

    channels: Channels = "max_abs"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Absolute gradients, `(N, C, H, W)`."""
        return Computed(gradient(self.model, inputs, target, self.output).abs(), {})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

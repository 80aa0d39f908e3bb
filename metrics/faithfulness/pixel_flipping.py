"""Pixel flipping: the score that is left, on average, while the most important pixels are flipped."""

from typing import ClassVar

from torch import Tensor

from ..metric import register
from .curve import Curve


@register(
    "pixel_flipping",
    family="faithfulness",
    aliases=("morf",),
    paper="Bach et al. 2015, PLoS ONE 10(7):e0130140",
)
class PixelFlipping(Curve):
    """Mean score over the steps of flipping pixels to a baseline, most important first.

    Lower is better. Between 0 and 1 for probabilities; other outputs and `normalize=True` have no bounds. The mean is over
    the flipped images alone, k = 1..n, the image as it is not among them: the area of rectangles where `deletion` takes
    trapezoids, lower than it by (f(x) - f(x')) / 2n, and f(x) minus `aopc`. Numbers elsewhere are often sums over the steps,
    or flip single channels: here a step flips pixels with all of their channels, and how many steps there are does not
    scale the score.

    Least important first would be better the higher it is: that is `insertion` into the same baseline, or
    `aopc` with `order="least"`. Next to `deletion` with the same options it costs nothing.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metrics.create("pixel_flipping", output="logit").score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    higher_is_better: ClassVar[bool] = False
    inserts: ClassVar[bool | None] = False
    is_area: ClassVar[bool] = False

    def read(self, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of all points but the first."""
        return values[:, 1:].mean(1), {}

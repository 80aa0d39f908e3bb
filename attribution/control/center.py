"""Center: photographers put the object in the middle."""

from typing import Annotated

import torch
from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..model import map_type
from ..targets import Target
from ._control import Control, alike


def gaussian(height: int, width: int, sigma: float) -> Tensor:
    r"""A Gaussian around the middle, `(H, W)` float64, as wide along either side as that side is long.

    .. math:: \exp\left(-\frac{1}{2 \sigma^2}\left(\frac{(y - \bar y)^2}{H^2} + \frac{(x - \bar x)^2}{W^2}\right)\right)

    Example:
        >>> gaussian(1, 5, 0.2).mul(1000).round().int().tolist()
        [[135, 607, 1000, 607, 135]]
    """
    y, x = (
        torch.exp(-0.5 * ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (sigma * n)) ** 2)
        for n in (height, width)
    )
    return y[:, None] * x


@register(
    "center",
    family="control",
    aliases=("centre", "center_gaussian"),
    signed=False,
    targeted=False,
    localizes=False,
    blind=True,
)
class Center(Control):
    """A Gaussian in the middle of the image: what a map scores that knows how photographs are taken, and nothing else.

    Objects are in the middle of most photographs, so that this beats `random` wherever objects count: a method has to beat
    this one.

    Args:
        sigma: Its standard deviation as a share of the image: of the height downwards, of the width across.

    Returns:
        `(N, 1, H, W)`, between 0 and 1. Far outside a narrow one all pixels are 0, and equal.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> maps = attribution.create("center", torch.nn.Flatten()).attribute(torch.rand(1, 3, 5, 7), target=0)
        >>> maps.flatten().argmax().item(), maps.max().item()
        (17, 1.0)
    """

    sigma: Annotated[float, Range(0, open=True)] = 0.25

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The Gaussian, the same for every image."""
        del target
        one = gaussian(inputs.shape[2], inputs.shape[3], self.sigma)[None]
        return Computed(alike(one.to(map_type(inputs)), inputs), {})

"""Effective complexity: how many pixels a map uses at all."""

from typing import ClassVar

import torch
from attriscope.attribution._parameters import Fraction
from torch import Tensor

from ..metric import Scored, register
from ._mass import OfMagnitudes


@register(
    "effective_complexity",
    family="complexity",
    paper="Nguyen and Rodríguez Martínez 2020, arXiv:2007.07584: the number of features that matter, here by size",
)
class EffectiveComplexity(OfMagnitudes):
    """How many pixels have more than a small share of the map's largest absolute value.

    Between 1 and the number of pixels. Lower is called better, since a short answer is easier to read; it says nothing of
    whether it is right. It hangs on the threshold: a map with a faint tail everywhere uses every pixel at 0.00001, and few
    at 0.1. Each map is measured by its own largest value.

    The details hold `share`: the count over the number of pixels, which maps of other sizes compare by.

    Args:
        threshold: The share of the map's largest absolute value that a pixel must exceed.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[8.0, 0.0], [0.1, -3.0]]]])
        >>> metrics.create("effective_complexity").score(network, torch.rand(1, 1, 2, 2), maps, target=0).tolist()
        [3.0]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (1.0, float("inf"))

    threshold: Fraction = 1e-5

    def found(self, shares: Tensor) -> Scored:
        """The count, NaN for a map of zeros."""
        count = (shares > self.threshold).sum(1).double()
        count = torch.where(shares.isnan().any(1), torch.nan, count)
        return Scored(count, details={"share": count / shares.shape[1]})

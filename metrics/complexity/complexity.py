"""Complexity: over how many pixels a map's mass is spread."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..metric import Scored, register
from ._mass import OfMagnitudes


def entropy(values: Tensor) -> Tensor:
    r"""Shannon's entropy of numbers that are not negative, as shares of their sum.

    .. math:: H = -\sum_i p_i \ln p_i, \qquad p_i = a_i / \sum_j a_j, \qquad 0 \ln 0 = 0

    Args:
        values: `(N, n)`.

    Returns:
        `(N,)` in nats: 0 where one has everything, ln n where all are equal.

    Example:
        >>> entropy(torch.tensor([[0.0, 5.0], [1.0, 1.0]])).tolist()
        [0.0, 0.6931471824645996]
    """
    shares = values / values.sum(1, keepdim=True)
    return torch.xlogy(shares, shares).sum(1).abs()


@register(
    "complexity",
    family="complexity",
    aliases=("entropy",),
    paper="Bhatt, Weller and Moura 2020, arXiv:2005.00631, definition 4",
)
class Complexity(OfMagnitudes):
    """How evenly a map's mass is spread: the entropy of its absolute values, as a share of the largest possible.

    Between 0 (one pixel has everything) and 1 (all n pixels alike), which is the entropy over ln n: nats grow with the
    number of pixels, so that maps of other sizes would not compare. The paper's value, in nats, is in the details. Lower is
    called better, since a short answer is easier to read; it says nothing of whether it is right. A coarse map that was
    enlarged cannot be low.

    The details hold `nats`. A map of a single pixel has no entropy, and is NaN like a map of zeros.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
        >>> metrics.create("complexity").score(network, torch.rand(1, 1, 2, 2), maps, target=0).tolist()
        [0.5]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    undefined: ClassVar[str] = "a map of zeros, or of one pixel, has no mass to spread"

    def found(self, shares: Tensor) -> Scored:
        """The entropy, in both units."""
        nats = entropy(shares)
        most = math.log(shares.shape[1]) or math.nan
        return Scored((nats / most).clamp_max(1), details={"nats": nats})

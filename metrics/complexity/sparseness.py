"""Sparseness: on how few pixels a map's mass lies."""

from typing import ClassVar

import torch
from torch import Tensor

from ..metric import Scored, register
from ._mass import OfMagnitudes


def gini(values: Tensor) -> Tensor:
    r"""The Gini index of numbers that are not negative.

    .. math:: G = \frac{\sum_{i=1}^{n} (2 i - n - 1)\, a_{(i)}}{n \sum_i a_i}, \qquad a_{(1)} \le \dots \le a_{(n)}

    Args:
        values: `(N, n)`.

    Returns:
        `(N,)`: 0 where all are equal, 1 - 1/n where one has everything.

    Example:
        >>> gini(torch.tensor([[0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])).tolist()
        [0.75, 0.0, 0.25]
    """
    n = values.shape[1]
    place = torch.arange(1, n + 1, dtype=values.dtype, device=values.device)
    return (values.sort(1).values * (2 * place - n - 1)).sum(1) / (n * values.sum(1))


@register(
    "sparseness",
    family="complexity",
    aliases=("gini",),
    paper="Chalasani et al. 2020, arXiv:1810.06583, section 4; Hurley and Rickard 2009, arXiv:0811.4706",
)
class Sparseness(OfMagnitudes):
    """How unequally a map's mass is spread: the Gini index of its absolute values.

    Between 0 (all pixels alike) and 1 - 1/n (one of n pixels has everything). Higher is called better, since a short answer
    is easier to read; it says nothing of whether it is right. Blurring or enlarging a map lowers it, whatever was explained.
    Noise has a value too: 1/3 where it is uniform from 0, 0.41 where it is normal.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[0.0, 0.0], [0.0, -3.0]]]])
        >>> metrics.create("sparseness").score(network, torch.rand(1, 1, 2, 2), maps, target=0).tolist()
        [0.75]
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def found(self, shares: Tensor) -> Scored:
        """The index."""
        return Scored(gini(shares).clamp_min(0))  # the sum over equal values may round below 0

"""Intervals of what was drawn at random."""

from functools import cache

from scipy import stats
from torch import Tensor

__all__ = ["half_width", "student"]


@cache
def student(draws: int) -> float:
    """How many standard errors the half of a 95% interval is, of a mean of so many independent draws: at least two.

    Example:
        >>> round(student(2), 2), round(student(10), 3)
        (12.71, 2.262)
    """
    return float(stats.t.ppf(0.975, draws - 1))


def half_width(draws: Tensor) -> Tensor:
    """Of the 95% interval of a mean of independent draws, `(n, d)` to `(d,)`.

    Example:
        >>> import torch
        >>> half_width(torch.tensor([[0.0], [2.0]]).double()).round(decimals=2).tolist()
        [12.71]
    """
    found: Tensor = student(len(draws)) * draws.std(0) / len(draws) ** 0.5
    return found

"""How sure a mean is."""

import math

import numpy as np
from scipy import stats

RESAMPLES = 10_000

__all__ = ["bootstrap_mean"]


def bootstrap_mean(
    scores: "np.ndarray[tuple[int], np.dtype[np.float64]]", *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean over units; `(nan, nan)` for fewer than two.

    Args:
        scores: One number per unit, NaN where there is none.
        level: How often it should hold the true mean.
        seed: Of the resampling.

    Example:
        >>> low, high = bootstrap_mean(np.arange(20.0))
        >>> bool(low < 9.5 < high)
        True
    """
    known = scores[~np.isnan(scores)]
    if len(known) < 2:
        return math.nan, math.nan
    found = stats.bootstrap(
        (known,),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)

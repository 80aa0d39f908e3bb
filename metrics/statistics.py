"""How sure a number is, and whether two methods can be told apart: intervals, tests and ranks over units.

A unit is what is drawn from a population: an image, or a cluster of images (a grid, a weight seed) whose scores depend on
each other. Scores are `(U, M)`, a column for each method, or `(U,)`; NaN is where a score is undefined.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats: TypeAlias = NDArray[np.float64]
Method = Literal["bca", "percentile"]

RESAMPLES = 10_000
PERMUTATIONS = 10_000
CHUNK = 1 << 21  # numbers of one draw that are held at a time

__all__ = [
    "Friedman",
    "agreement",
    "better_share",
    "cliques",
    "common",
    "friedman",
    "holm",
    "interval",
    "is_hits",
    "needed",
    "nemenyi",
    "ranks",
    "sign_flip",
    "split_half",
    "wilcoxon_holm",
    "wilson",
]


# -- intervals ---------------------------------------------------------------------------------------------------------


def interval(
    scores: Any,
    *,
    level: float = 0.95,
    method: Method = "bca",
    hits: bool = False,
    clusters: Any = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """Bootstrap intervals of the mean over units, one for each column; Wilson's for what is said to be hits and misses.

    Every column is resampled in the same way, over the units for which it is defined. A bootstrap of few units is too
    narrow: of normal scores a 95% interval holds the mean 91 times in 100 with 16 units, 94 with 50. What the units are
    not drawn from (other data, other networks) no interval here speaks of.

    Args:
        scores: `(U, M)` or `(U,)`.
        level: How often an interval should hold the true mean.
        method: "bca" (bias-corrected and accelerated, Efron 1987: for skewed scores) or "percentile".
        hits: Whether scores are hits, 1, and misses, 0. It is a fact of the metric and not guessed from scores: ten scores
            of a number that happens to be 0 are no ten misses.
        clusters: An id for each unit: clusters are resampled as a whole. Hits then get a bootstrap interval too.
        seed: Of the resampling.
        resamples: How many.

    Returns:
        The lower and the upper ends, `(M,)` each, or of no dimension; NaN for fewer than two units or clusters. Scores that
        are all the same have an interval of no width.

    Raises:
        ValueError: Anything does not fit.

    Example:
        >>> low, high = interval([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        >>> bool(low[0] < 1.5 < high[0]), low[1], high[1]
        (True, np.float64(5.0), np.float64(5.0))
    """
    table, shape = _table(scores)
    _check_level(level)
    if method not in ("bca", "percentile"):
        raise ValueError(f"method={method!r}: choose 'bca' or 'percentile'")
    groups = _groups(clusters, len(table))
    known = ~np.isnan(table)
    if hits and not np.isin(table[known], (0.0, 1.0)).all():
        raise ValueError("hits=True, but some scores are neither 0 nor 1: leave it out for shares and other numbers")
    ends = np.full((2, table.shape[1]), math.nan)
    for rows, columns in _patterns(known, at_once=max(1, CHUNK // resamples)):
        own = table[np.ix_(rows, columns)]
        if groups is not None:
            sums, sizes = _sums(own, groups[rows])
        else:
            sums, sizes = own, np.ones(len(own))
        if len(sums) < 2:
            continue
        if hits and groups is None:
            ends[:, columns] = np.transpose([wilson(int(h), len(own), level) for h in own.sum(0)])
            continue
        ends[:, columns] = _bootstrap(sums, sizes, level, method, _counts(len(sums), resamples, seed))
        constant = own.min(0) == own.max(0)
        ends[:, columns[constant]] = own[0, constant]
    return ends[0].reshape(shape), ends[1].reshape(shape)


def is_hits(scores: Any, *, both: bool = True) -> bool:
    """Whether every score there is, is 0 or 1, and there are both.

    Args:
        scores: Of all methods: those of one may be all the same.
        both: Whether both must occur. Of a number that may be anything, zeros alone say nothing; where a metric can give
            nothing but hits and misses, they do.

    Example:
        >>> is_hits([0.0, 1.0, float("nan")]), is_hits([0.5, 1.0]), is_hits([0.0, 0.0]), is_hits([0.0, 0.0], both=False)
        (True, False, False, True)
    """
    table = np.asarray(scores, dtype=np.float64)
    known = np.unique(table[~np.isnan(table)])
    return bool(len(known)) and bool(np.isin(known, (0.0, 1.0)).all()) and (len(known) == 2 or not both)


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share, `hits` of `n`; it has a width also where all or none are hits.

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
    """
    found = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def _bootstrap(sums: Floats, sizes: Floats, level: float, method: Method, draws: Iterator[Floats]) -> Floats:
    """Both ends, `(2, M)`, from what the units add to the sum, `(U, M)`, and to the count, `(U,)`."""
    means = np.concatenate([(c @ sums) / (c @ sizes)[:, None] for c in draws])
    means.sort(axis=0)
    tail = (1 - level) / 2
    at = np.array([[tail], [1 - tail]])
    if method == "bca":
        mean = sums.sum(0) / sizes.sum()
        # two means that are equal may differ by this, as sums in another order
        near = len(sums) * np.finfo(np.float64).eps * np.abs(sums).max(0)
        below = ((means < mean - near).mean(0) + (means <= mean + near).mean(0)) / 2
        bias = stats.norm.ppf(np.clip(below, 0.5 / len(means), 1 - 0.5 / len(means)))
        without = (sums.sum(0) - sums) / (sizes.sum() - sizes)[:, None]
        away = without.mean(0) - without
        spread = (away**2).sum(0)
        safe = np.where(spread > 0, spread, 1)
        acceleration = (away**3).sum(0) / (6 * safe**1.5)
        z = bias + stats.norm.ppf(at)
        at = stats.norm.cdf(bias + z / (1 - acceleration * z))
    return _quantiles(means, np.broadcast_to(at, (2, sums.shape[1])))


def _counts(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of `n` units is drawn in each resample, `(k, n)` at a time."""
    rng, at_once = np.random.default_rng(seed), max(1, CHUNK // n)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _quantiles(ordered: Floats, at: Floats) -> Floats:
    """Quantiles `(Q, M)` of sorted columns `(R, M)`, each column at places of its own, between neighbours in proportion."""
    place = at * (len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[below, columns], ordered[above, columns]
    found: Floats = low + (high - low) * (place - below)
    return found


# -- tests of two ------------------------------------------------------------------------------------------------------


def sign_flip(differences: Any, *, permutations: int = PERMUTATIONS, seed: int = 0, clusters: Any = None) -> Floats:
    """Two-sided p of a mean difference of zero, by flipping the signs of the units' differences.

    If neither of two methods is better, a unit's difference is as likely as its negative. All sign patterns are counted
    where there are at most `permutations`; otherwise so many are drawn, the observed one is added to them, and p is never
    below 1 / (`permutations` + 1).

    Args:
        differences: Paired, `(U, P)` or `(U,)`; undefined ones take no part.
        permutations: How many patterns.
        seed: Of the draw, which is the same for all columns.
        clusters: An id for each unit: a cluster's differences have one sign.

    Returns:
        `(P,)`, or of no dimension; NaN where there is no difference to test, 1 where all are zero.

    Example:
        >>> float(sign_flip([1.0, 2.0, 0.5, 1.5, 1.0, 2.5]))  # 2 of 64 patterns
        0.03125
    """
    table, shape = _table(differences)
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: at least one is needed")
    groups = _groups(clusters, len(table))
    none = np.isnan(table).all(0)
    units = np.nan_to_num(table, nan=0.0)
    if groups is not None:
        units, _ = _sums(units, groups)
    limit = np.abs(units.sum(0)) - len(units) * np.finfo(np.float64).eps * np.abs(units).sum(0)  # rounding
    moving = units != 0
    exact = 2.0 ** moving.sum(0) <= permutations
    p = np.empty(units.shape[1])
    for k in np.flatnonzero(exact):
        own = units[moving[:, k], k]
        p[k] = (np.abs(_all_signs(len(own)) @ own) >= limit[k]).mean()
    drawn = np.flatnonzero(~exact)
    if len(drawn):
        rng, hits = np.random.default_rng(seed), np.zeros(units.shape[1])
        at_once = max(1, CHUNK // len(units))
        for start in range(0, permutations, at_once):
            rows = min(at_once, permutations - start)
            signs = 1.0 - 2.0 * rng.integers(0, 2, (rows, len(units)), dtype=np.int8)
            for part in np.array_split(drawn, -(-len(drawn) * rows // CHUNK)):
                hits[part] += (np.abs(signs @ units[:, part]) >= limit[part]).sum(0)
        p[drawn] = (hits[drawn] + 1) / (permutations + 1)
    p[none] = math.nan
    return p.reshape(shape)


@lru_cache(maxsize=4)
def _all_signs(n: int) -> Floats:
    """Every pattern of `n` signs, `(2^n, n)`."""
    return (1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)


def holm(p: Any) -> Floats:
    """Holm's step-down correction (1979) of p values for all of them together; NaN is no test and stays.

    Example:
        >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03]).tolist()]
        [0.03, 0.06, 0.06]
    """
    given = np.asarray(p, dtype=np.float64)
    flat = given.ravel()
    found = np.full(flat.shape, math.nan)
    order = np.argsort(flat, kind="stable")[: int((~np.isnan(flat)).sum())]
    steps = len(order) - np.arange(len(order))
    found[order] = np.minimum(np.maximum.accumulate(steps * flat[order]), 1)
    return found.reshape(given.shape)


def better_share(a: Any, b: Any) -> float:
    """How likely `a` is above `b` on a unit, an equal score counting half; NaN where they share no unit.

    Example:
        >>> better_share([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 1.0])
        0.625
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    known = difference[~np.isnan(difference)]
    return float(((known > 0) + 0.5 * (known == 0)).mean()) if len(known) else math.nan


def needed(differences: Any, delta: float | None = None, *, power: float = 0.8, level: float = 0.05) -> float:
    """How many units would tell two methods apart, if their difference is what it seems.

    It is `((z(1 - level/2) + z(power)) SD / delta)^2` with half of `z(1 - level/2)^2` added, since the SD is estimated too,
    and no fewer than a sign-flip test can reject with at all. A hint: the difference seen is uncertain itself.

    Args:
        differences: Paired, `(U,)`.
        delta: The difference to find; `None`: the mean seen.
        power: How likely it is to be found.
        level: Of the two-sided test; after a correction for many tests, the corrected one.

    Returns:
        A whole number; infinite where the difference is zero, NaN for fewer than two units.

    Example:
        >>> needed([0.0, 1.0, 2.0, -1.0])  # a mean of 0.5, a standard deviation of 1.3
        55.0
    """
    known = np.asarray(differences, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return math.nan
    size = abs(float(known.mean()) if delta is None else delta)
    if size == 0:
        return math.inf
    critical = float(stats.norm.ppf(1 - level / 2))
    total = critical + float(stats.norm.ppf(power))
    least = 1 - math.floor(math.log2(level) + 1e-9)  # 2 of 2^n patterns are as extreme as can be
    return float(max(math.ceil((total * float(known.std(ddof=1)) / size) ** 2 + critical**2 / 2), least))


# -- ranks of many -----------------------------------------------------------------------------------------------------


def ranks(scores: Any, higher_is_better: bool = True) -> Floats:
    """The columns' ranks within each unit, 1 the best, equals sharing the mean; a unit with a NaN has none at all.

    Example:
        >>> ranks([[0.5, 0.9, 0.5], [0.1, float("nan"), 0.2]]).tolist()
        [[2.5, 1.0, 2.5], [nan, nan, nan]]
    """
    table = np.asarray(scores, dtype=np.float64)
    found: Floats = stats.rankdata(-table if higher_is_better else table, axis=-1)
    return found


def common(scores: Any) -> Floats:
    """The units that are defined for all columns.

    Example:
        >>> common([[1.0, 2.0], [float("nan"), 3.0]]).tolist()
        [[1.0, 2.0]]
    """
    table = np.asarray(scores, dtype=np.float64)
    return table[~np.isnan(table).any(1)]


class Friedman(NamedTuple):
    """What Friedman's test found.

    Attributes:
        statistic: Iman and Davenport's F.
        p: How likely one as large is, if the methods do not differ.
    """

    statistic: float
    p: float


def friedman(ranks: Any) -> Friedman:
    """Whether methods differ at all: Friedman's test on ranks `(U, M)` in the form of Iman and Davenport (1980).

    Ties are corrected for. If every unit has the same order, p is the chance of that, `(1 / M!)^(U - 1)`. NaN for fewer than
    two units or two methods.

    Example:
        >>> round(friedman([[1, 2, 3], [1, 2, 3], [1, 3, 2], [2, 1, 3]]).p, 3)
        0.084
    """
    table = common(ranks)
    n, k = table.shape
    if n < 2 or k < 2:
        return Friedman(math.nan, math.nan)
    centre = (k + 1) / 2
    within = ((table - centre) ** 2).sum()
    if within == 0:
        return Friedman(0.0, 1.0)
    chi2 = (k - 1) * ((table.sum(0) - n * centre) ** 2).sum() / within
    rest = n * (k - 1) - chi2
    if rest <= 1e-9 * chi2:  # rounding of a perfect agreement
        return Friedman(math.inf, math.exp(-(n - 1) * math.lgamma(k + 1)))
    statistic = (n - 1) * chi2 / rest
    return Friedman(float(statistic), float(stats.f.sf(statistic, k - 1, (n - 1) * (k - 1))))


def nemenyi(k: int, n: int, level: float = 0.95) -> float:
    """How far the mean ranks of two of `k` methods over `n` units must lie apart to tell them apart (Demsar 2006).

    It depends on who else is compared.

    Example:
        >>> round(nemenyi(5, 30), 3)
        1.114
    """
    if k < 2 or n < 1:
        raise ValueError(f"k={k}, n={n}: a critical difference takes at least two methods and one unit")
    q = float(stats.studentized_range.ppf(level, k, math.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def wilcoxon_holm(scores: Any) -> Floats:
    """Wilcoxon's signed-rank test of every two columns: p, corrected by Holm for all, `(M, M)`, 1 on the diagonal.

    Units that are undefined for any column are dropped for all. Zero differences are ranked and then dropped (Pratt 1959),
    and ties are corrected for. NaN where no unit is left.

    Example:
        >>> scores = np.arange(20.0)[:, None] + [0.0, 0.0, 1.0]
        >>> wilcoxon_holm(scores).round(4).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    table = common(scores)
    m = table.shape[1]
    above = np.triu_indices(m, 1)
    found = np.ones((m, m))
    found[above] = holm([_wilcoxon(table[:, i] - table[:, j]) for i, j in zip(*above, strict=True)])
    found.T[above] = found[above]
    return found


def _wilcoxon(difference: Floats) -> float:
    if not len(difference):
        return math.nan
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, zero_method="pratt").pvalue)


def cliques(mean_ranks: Sequence[float] | Floats, apart: Any) -> list[tuple[int, ...]]:
    """The largest groups of neighbours in the order of mean ranks, of which no two are told apart.

    Args:
        mean_ranks: `(M,)`.
        apart: `(M, M)` bool: which two are told apart.

    Returns:
        Places in `mean_ranks`, the best first, for each group of at least two; none lies inside another.

    Example:
        >>> cliques([1.0, 3.0, 2.0], [[False, True, False], [True, False, False], [False, False, False]])
        [(0, 2), (2, 1)]
    """
    order = np.argsort(np.asarray(mean_ranks, dtype=np.float64), kind="stable")
    split = np.asarray(apart, dtype=bool)[np.ix_(order, order)]
    found: list[tuple[int, ...]] = []
    reached = 0
    for first in range(len(order)):
        last = first + 1
        while last < len(order) and not split[last, first:last].any():
            last += 1
        if last > reached and last - first > 1:
            found.append(tuple(int(i) for i in order[first:last]))
        reached = max(reached, last)
    return found


# -- does the metric itself say the same twice? ------------------------------------------------------------------------


def agreement(ranks: Any) -> float:
    """How far units agree on the order of the methods: the mean Spearman correlation over pairs of units.

    1 where all have one order, 0 where they know nothing of each other. Units in which all methods are equal have no order and
    are left out; NaN where fewer than two are left.

    Example:
        >>> round(agreement([[1, 2, 3], [1, 2, 3], [3, 2, 1]]), 3)  # 1, -1 and -1
        -0.333
    """
    table = common(ranks)
    if not table.size:
        return math.nan
    away = table - table.mean(1, keepdims=True)
    length = np.sqrt((away**2).sum(1))
    away = away[length > 0] / length[length > 0, None]
    n = len(away)
    return float(((away.sum(0) ** 2).sum() - n) / (n * (n - 1))) if n > 1 else math.nan


def split_half(scores: Any, *, splits: int = 1000, seed: int = 0) -> float:
    """How stable the order of the methods' means is: its mean Spearman correlation between two halves of the units.

    Units that are undefined for any method are dropped. NaN for fewer than two units or methods, or where
    no half has an order.

    Args:
        scores: `(U, M)`.
        splits: Into how many random halves.
        seed: Of the draw.

    Example:
        >>> split_half([[0.1, 0.5, 0.9], [0.2, 0.4, 0.8], [0.1, 0.6, 0.7], [0.0, 0.5, 0.9]])
        1.0
    """
    table = common(scores)
    n, m = table.shape
    if n < 2 or m < 2:
        return math.nan
    rng, half = np.random.default_rng(seed), n // 2
    first = np.argsort(rng.random((splits, n)), axis=1)
    orders = [
        stats.rankdata(np.stack([table[rows].mean(0) for rows in part]), axis=1) - (m + 1) / 2
        for part in (first[:, :half], first[:, half : 2 * half])
    ]
    lengths = np.sqrt((orders[0] ** 2).sum(1) * (orders[1] ** 2).sum(1))
    good = lengths > 0
    return float(((orders[0] * orders[1]).sum(1)[good] / lengths[good]).mean()) if good.any() else math.nan


# -- what they share ---------------------------------------------------------------------------------------------------


def _table(scores: Any) -> tuple[Floats, tuple[int, ...]]:
    """Scores as `(U, M)`, and the shape of what is found for each column."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim not in (1, 2):
        raise ValueError(f"scores of shape {table.shape}: pass (units, methods), or (units,) for one method")
    if np.isinf(table).any():
        raise ValueError("scores hold infinite values: NaN is what stands for an undefined score")
    return (table, table.shape[1:]) if table.ndim == 2 else (table[:, None], ())


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: choose one between 0 and 1, such as 0.95")


def _groups(clusters: Any, n: int) -> NDArray[np.int64] | None:
    """Clusters as numbers from 0."""
    if clusters is None:
        return None
    found = np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.int64)
    if found.shape != (n,):
        raise ValueError(f"clusters of shape {found.shape} for {n} units: pass one id for each")
    return found


def _sums(table: Floats, groups: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Each cluster's sums, `(C, M)`, and sizes, `(C,)`; empty clusters are left out."""
    numbers, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(numbers), table.shape[1]))
    np.add.at(sums, inverse, table)
    return sums, sizes.astype(np.float64)


def _patterns(known: Any, at_once: int) -> Iterator[tuple[Any, Any]]:
    """Columns that are defined for the same units, some at a time: those units and those columns, as indices."""
    patterns: dict[bytes, list[int]] = {}
    for k in range(known.shape[1]):
        patterns.setdefault(known[:, k].tobytes(), []).append(k)
    for same in patterns.values():
        rows = np.flatnonzero(known[:, same[0]])
        if len(rows):
            for start in range(0, len(same), at_once):
                yield rows, np.array(same[start : start + at_once])

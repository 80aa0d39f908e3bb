"""Searches for an order of regions: each asks for the scores of sets of regions, and tells what it found.

A search is a generator. It yields sets `(m, d)` bool, is sent what these are worth `(m,)` float64, and returns the order, a
list of all d regions. What it asks for twice is evaluated once, by the game. Ties, and what float32 does not tell apart, go
to the region with the lower number.
"""

import heapq
import math
from collections.abc import Callable, Generator, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .. import designs
from ..games import ends
from ..randomness import uniforms

Search: TypeAlias = Generator[Tensor, Tensor, list[int]]
Extra: TypeAlias = Callable[[Tensor], Tensor]
REACH, RIDGE = 0.1, 0.2  # of the guided search: of all regions; of the mean variance of a region's presence
TIE = 1e-6  # of the largest value: below that two are equal
Strategy = Literal["greedy", "bidirectional", "guided", "lazy", "stochastic"]

__all__ = [
    "Extra",
    "Search",
    "Strategy",
    "bidirectional",
    "bidirectional_sets",
    "greedy",
    "greedy_sets",
    "guided",
    "guided_sets",
    "lazy",
    "nothing",
    "stochastic",
]


def nothing(sets: Tensor) -> Tensor:
    """What sets are worth besides what the network says: nothing, `(m,)`."""
    return torch.zeros(len(sets), dtype=torch.float64)


def _with(chosen: Sequence[int], candidates: Sequence[int], d: int) -> Tensor:
    """What was chosen and one candidate more, for each of them, `(m, d)`."""
    sets = torch.zeros(len(candidates), d, dtype=torch.bool)
    sets[:, list(chosen)] = True
    sets[range(len(candidates)), list(candidates)] = True
    return sets


def _first(values: Tensor) -> int:
    """The place of the largest value; of several the first."""
    return int((values >= values.max() - TIE * values.abs().max()).int().argmax())


def _ranked(values: Tensor) -> list[int]:
    """Places from the largest value to the smallest; equal ones in their order."""
    if not len(values):
        return []
    steps = (values / (TIE * values.abs().max()).clamp_min(torch.finfo(values.dtype).tiny)).round()
    found: list[int] = steps.argsort(descending=True, stable=True).tolist()
    return found


def _flat(values: Tensor, plateau: float | None) -> bool:
    """Whether values differ by no more than this share of the largest."""
    return plateau is not None and bool(values.max() - values.min() <= plateau * values.abs().max())


def greedy(d: int, *, extra: Extra = nothing, top: int | None = None, plateau: float | None = None) -> Search:
    r"""The region that adds most comes next, again and again (Chen et al. 2024, algorithm 1).

    .. math:: s_{k+1} = \arg\max_{c \notin S_k} F(S_k \cup \{c\})

    It asks for d (d + 1) / 2 - 1 sets: the last region is the one that is left.

    Args:
        d: How many regions there are.
        extra: What sets are worth besides.
        top: How many are searched for; the rest comes in the order of the last comparison.
        plateau: Where the candidates' values differ by no more than this share of the largest, the search ends, and the rest
            comes in the order of the comparison before.
    """
    order: list[int] = []
    rest = list(range(d))
    before: Tensor | None = None  # of what is left, as it was last compared
    while len(rest) > 1 and len(order) != top:
        sets = _with(order, rest, d)
        values = (yield sets) + extra(sets)
        if _flat(values, plateau):
            before = values if before is None else before
            break
        best = _first(values)
        order.append(rest.pop(best))
        before = torch.cat([values[:best], values[best + 1 :]])
    return order + (rest if before is None else [rest[i] for i in _ranked(before)])


def greedy_sets(d: int, top: int | None = None) -> int:
    """How many sets `greedy` asks for."""
    steps = min(d - 1, d if top is None else top)
    return steps * d - steps * (steps - 1) // 2


def bidirectional(d: int, *, pending: int, extra: Extra = nothing, plateau: float | None = None) -> Search:
    r"""Both ends at once: the most important regions and the least (Chen et al. 2025, LiMA).

    Each step appends to S the region with the largest :math:`F(S \cup \{c\})`; of the `pending` regions with the smallest
    it then appends to D the one with the smallest :math:`F(D \cup \{c\})`. No more regions join D once no more than
    `pending` are left. The order is S, then D backwards. What is chosen for D is what makes the poorest image, not what
    is missed least.

    Args:
        d: How many regions there are.
        pending: Candidates for D that are looked at in each step; 0: none, and it is `greedy`.
        extra: What sets are worth besides.
        plateau: As in `greedy`, of the candidates for S.
    """
    first: list[int] = []
    last: list[int] = []
    rest = list(range(d))
    before: dict[int, float] = {}
    while len(rest) > 1:
        sets = _with(first, rest, d)
        values = yield sets
        worth = values + extra(sets)
        if _flat(worth, plateau):
            old = worth if not before else torch.tensor([before[c] for c in rest], dtype=torch.float64)
            rest = [rest[i] for i in _ranked(old)]
            break
        before = dict(zip(rest, worth.tolist(), strict=True))
        best = rest[_first(worth)]
        candidates: list[int] = []
        if 0 < pending < len(rest):
            estimates = -(values + extra(_with(last, rest, d)))
            candidates = [rest[i] for i in _ranked(estimates)[:pending] if rest[i] != best]
        first.append(best)
        rest.remove(best)
        if candidates:
            candidates.sort()
            sets = _with(last, candidates, d)
            worst = candidates[_first(-((yield sets) + extra(sets)))]
            last.append(worst)
            rest.remove(worst)
    return first + rest + last[::-1]


def bidirectional_sets(d: int, pending: int) -> int:
    """The most sets that `bidirectional` asks for; those of one region it asks for twice."""
    left, sets = d, 0
    while left > 1:
        both = 0 < pending < left
        sets += left + (pending if both else 0)
        left -= 2 if both else 1
    return sets


def lazy(d: int, *, refresh: int, rounds: int = 1, extra: Extra = nothing, top: int | None = None) -> Search:
    """Greedy with old gains as bounds (CELF, Leskovec et al. 2007): only what could still be the best is looked at again.

    Where gains never grow, as submodular functions have it, the order is that of `greedy`. Those of networks do grow,
    and what was small once may not be looked at again for long.

    Args:
        d: How many regions there are.
        refresh: How many old gains are renewed at a time.
        rounds: Steps at the beginning in which all are.
        extra: What sets are worth besides.
        top: How many are searched for; the rest comes in the order of their last gains.
    """
    none = torch.zeros(1, d, dtype=torch.bool)
    now = float((yield none) + extra(none))
    order: list[int] = []
    # minus the gain, the region, and how many were chosen when that was found
    heap = [(-math.inf, c, -1) for c in range(d)]
    while len(heap) > 1 and len(order) != top:
        number = len(order)
        while heap[0][2] < number:
            some = len(heap) if number < rounds else refresh
            old: list[tuple[float, int, int]] = []
            fresh: list[tuple[float, int, int]] = []
            while heap and len(old) < some:
                one = heapq.heappop(heap)
                (old if one[2] < number else fresh).append(one)
            for one in fresh:
                heapq.heappush(heap, one)
            candidates = sorted(c for _, c, _ in old)
            sets = _with(order, candidates, d)
            for c, value in zip(candidates, ((yield sets) + extra(sets)).tolist(), strict=True):
                heapq.heappush(heap, (now - value, c, number))
        gain, best, _ = heapq.heappop(heap)
        now -= gain
        order.append(best)
    return order + [c for _, c, _ in sorted(heap)]


def stochastic(d: int, *, epsilon: float, seed: int, extra: Extra = nothing, top: int | None = None) -> Search:
    r"""Greedy among a few regions drawn anew in each step (Mirzasoleiman et al. 2015).

    In each step it looks at :math:`\lceil d / k \cdot \ln(1 / \epsilon) \rceil` regions. Of a monotone submodular function
    it keeps :math:`1 - 1/e - \epsilon` of the best k regions on average. It says nothing of an order of all regions, where
    it looks at no more than three at a time.

    Args:
        d: How many regions there are.
        epsilon: As above.
        seed: Of the draws.
        extra: What sets are worth besides.
        top: k, how many are searched for; the rest comes in the order of the last gain that each had, those that it never
            looked at in the end.
    """
    k = d if top is None else min(top, d)
    number = math.ceil(d / k * math.log(1 / epsilon))
    draws = uniforms(seed, k, d, stream=5)
    none = torch.zeros(1, d, dtype=torch.bool)
    now = float((yield none) + extra(none))
    order: list[int] = []
    rest = list(range(d))
    gains = torch.zeros(d, dtype=torch.float64)
    seen: set[int] = set()
    while len(rest) > 1 and len(order) < k:
        drawn = draws[len(order), rest].argsort(stable=True)[:number].sort().values
        candidates = [rest[i] for i in drawn.tolist()]
        sets = _with(order, candidates, d)
        gains[candidates] = (yield sets) + extra(sets) - now
        seen.update(candidates)
        best = candidates[_first(gains[candidates])]
        now += float(gains[best])
        order.append(best)
        rest.remove(best)
    known = [c for c in rest if c in seen]
    return order + [known[i] for i in _ranked(gains[known])] + [c for c in rest if c not in seen]


def guided(
    d: int, *, samples: int, candidates: int, seed: int, extra: Extra = nothing, top: int | None = None
) -> Search:
    r"""Greedy among the few regions that a linear model, fitted to what was seen so far, finds best.

    First it looks at random sets of all sizes. Then in each step a ridge regression on all that was seen, weighted by how
    near each set is to the regions chosen so far, ranks those that are left; the best few are looked at, and the best of
    these is next. What they are worth is part of what the next step's model is fitted to.

    .. math:: \min_\beta \sum_T e^{-|T \triangle S| / \tau} \bigl(F(T) - \beta_0 - \beta^\top 1_T\bigr)^2 + \rho \|\beta\|^2

    It asks for every set together with its complement: where both consistency and collaboration count, one costs what
    both do.

    Args:
        d: How many regions there are.
        samples: Random sets, complements among them.
        candidates: Regions that are looked at in each step.
        seed: Of the sets.
        extra: What sets are worth besides.
        top: How many are searched for; the rest comes in the order of the last model.
    """
    half = designs.uniform_sizes(seed, max(samples // 2, 1), d)
    sets = torch.cat([ends(d), half, ~half])
    values = (yield sets) + extra(sets)
    order: list[int] = []
    rest = list(range(d))
    while len(rest) > 1 and len(order) != top:
        gains = _fit(sets, values, order)[rest]
        tried = sorted(rest[i] for i in _ranked(gains)[:candidates])
        new = _with(order, tried, d)
        new = torch.cat([new, ~new])
        found = (yield new) + extra(new)
        sets, values = torch.cat([sets, new]), torch.cat([values, found])
        best = tried[_first(found[: len(tried)])]
        order.append(best)
        rest.remove(best)
    return order + [rest[i] for i in _ranked(_fit(sets, values, order)[rest])]


def guided_sets(d: int, samples: int, candidates: int, top: int | None = None) -> int:
    """The most sets that `guided` asks for, a set and its complement as one where both are looked at anyway."""
    steps = min(d - 1, d if top is None else top)
    return max(samples // 2, 1) + sum(min(candidates, d - k) for k in range(steps))


def _fit(sets: Tensor, values: Tensor, order: Sequence[int]) -> Tensor:
    """What each region adds near the set of those chosen, `(d,)`."""
    x = sets.double()
    now = torch.zeros(x.shape[1], dtype=torch.float64)
    now[list(order)] = 1
    weight = (-(x - now).abs().sum(1) / (REACH * x.shape[1])).exp()
    weight = weight / weight.sum()
    x, y = x - weight @ x, values - weight @ values
    weighted = x * weight[:, None]
    ridge = RIDGE * weighted.mul(x).sum() / x.shape[1]
    found: Tensor = torch.linalg.solve(weighted.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), weighted.T @ y)
    return found

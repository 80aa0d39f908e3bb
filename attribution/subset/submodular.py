"""Submodular subset selection: regions ordered by a greedy search."""

from typing import Annotated, Any

from .._parameters import Count, Fraction, Range
from ..attributor import register
from ._search import (
    Extra,
    Search,
    Strategy,
    bidirectional,
    bidirectional_sets,
    greedy,
    greedy_sets,
    guided,
    guided_sets,
    lazy,
    stochastic,
)
from ._subset import Subset, weigh


@register(
    "submodular",
    family="subset",
    aliases=("smdl", "submodular_subset_selection", "visual_precision_search", "vps"),
    granularity="region",
    signed=False,
    at_most=True,
    samples="n_regions",
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 16},
    paper="Chen et al. 2024, arXiv:2402.09164; weights 1/1: Chen et al. 2025, arXiv:2411.16198",
)
class Submodular(Subset):
    r"""Regions in the order of a greedy search: the next is the one with which the set is worth most.

    .. math:: F(S) = \lambda_1 \, p(S) + \lambda_2 \, (1 - p(V \setminus S))
        + \lambda_3 \, \mathrm{confidence}(S) + \lambda_4 \, E(S)

    S is shown and the rest is replaced, or the other way round; E says how different the regions' features are. The papers'
    guarantee is for submodular functions, and the score of a network is none: one minus the score of the rest is
    supermodular where the score is submodular. What the search finds best is so on its own baseline.

    The default is that of Visual Precision Search, without confidence and features; `preset="smdl"` takes all four terms.

    Args:
        search: "greedy": every region that is left, in every step. "bidirectional": both ends, as `lima`. "lazy": only
            regions whose last gain could still make them the best; on networks gains grow, so that this is a heuristic.
            "guided": only the few that a linear model of all that was seen so far finds best; ours. "stochastic": a
            few, drawn anew in each step; for `top` far below the number of regions.
        top: How many regions are searched for; the rest comes in the order of what is known of them. `None`: all. Not of
            the bidirectional search.
        pending: Of the bidirectional search, as in `lima`.
        plateau: Of the greedy and the bidirectional search, as in `lima`.
        samples: Of the guided search: random sets that the model is fitted to at first.
        candidates: Of the guided search: regions that are looked at in each step.
        refresh: Of the lazy search: how many gains are renewed at a time.
        rounds: Of the lazy search: how many steps renew all.
        epsilon: Of the stochastic search: what part of the best it may miss on average, on submodular functions.
        seed: Of the guided and the stochastic search, and of the "noise" baseline.

    Returns:
        As `lima`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> made = attribution.create("submodular", network, regions="grid", n_regions=9)
        >>> found = made.explain(torch.rand(1, 3, 8, 8), target=1)
        >>> int(found.forwards), found.details["order"].shape, float(found.details["areas"][0, 9])
        (86, torch.Size([1, 9]), 1.0)
    """

    search: Strategy = "greedy"
    top: Count | None = None
    pending: Annotated[int, Range(0)] = 8
    plateau: Annotated[float, Range(0)] | None = None
    samples: Count = 150
    candidates: Count = 6
    refresh: Count = 8
    rounds: Count = 1
    epsilon: Fraction = 0.1

    def searched(self, d: int, extra: Extra) -> Search:
        """As `search` says."""
        if self.search == "bidirectional":
            return bidirectional(d, pending=self.pending, extra=extra, plateau=self.plateau)
        if self.search == "guided":
            return guided(
                d, samples=self.samples, candidates=self.candidates, seed=self.seed, extra=extra, top=self.top
            )
        if self.search == "lazy":
            return lazy(d, refresh=self.refresh, rounds=self.rounds, extra=extra, top=self.top)
        if self.search == "stochastic":
            return stochastic(d, epsilon=self.epsilon, seed=self.seed, extra=extra, top=self.top)
        return greedy(d, extra=extra, top=self.top, plateau=self.plateau)

    @classmethod
    def _sets(cls, options: Any, d: int) -> int:
        if options.search == "bidirectional":
            return bidirectional_sets(d, options.pending)
        if options.search == "guided":
            number, weights = guided_sets(d, options.samples, options.candidates, options.top), weigh(options)
            return number if weights.collaboration and weights.consistency + weights.confidence else 2 * number
        return greedy_sets(d, options.top)

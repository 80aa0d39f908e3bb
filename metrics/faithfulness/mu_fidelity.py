"""MuFidelity: whether what a map gives to a subset of cells is what the score loses without them."""

from typing import Any, Literal

from attriscope.attribution import regions
from attriscope.attribution._parameters import Count, Fraction

from ..metric import register
from ._subsets import Bernoulli, Correlation, Draws, Fixed, Plan, SubsetCorrelation

Preset = Literal["paper", "xplique"]
Cardinality = Literal["fixed", "random"]

# cardinality, correlation
PRESETS: dict[Preset, tuple[Cardinality, Correlation]] = {
    "paper": ("fixed", "pearson"),
    "xplique": ("random", "spearman"),
}


@register(
    "mu_fidelity",
    family="faithfulness",
    aliases=("mufidelity",),
    paper="Bhatt, Weller and Moura 2020, arXiv:2005.00631; Fel et al. 2022, arXiv:2206.04394 (Xplique)",
)
class MuFidelity(SubsetCorrelation):
    r"""The correlation of the map's sum over random cells with what the score loses without them.

    .. math:: \mu = \mathrm{corr}_S \Bigl( \sum_{i \in S} a_i,\; f(x) - f(x_{S \to x'}) \Bigr)

    Higher is better, between -1 and 1. Only how sums order or line up is judged: a map times a positive number scores the
    same. It says nothing of single pixels within a cell, and the holes are unlike any image that the network has seen.

    Random cardinality has a trap: larger subsets have larger sums in any map that is nowhere negative, and lose more of
    the score whatever they hold, so that a map of ones scores above 0. What it scores is in `details["constant"]`, beside
    every number; read the difference. With fixed cardinality a constant map has no score.

    Args:
        preset: "paper" (subsets of fixed size, Pearson) or "xplique" (each cell is removed with probability `share`,
            Spearman).
        grid: Cells per side, at most one for each pixel.
        share: Which part of the cells is removed, or how likely each is.
        samples: How many subsets.
        cardinality: Whether subsets have one size ("fixed") or cells are drawn by themselves ("random"); `None`: the
            preset's.
        correlation: "pearson" or "spearman"; `None`: the preset's.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> weight = torch.rand(64)
        >>> images = torch.rand(3, 1, 8, 8)
        >>> mu = metrics.create("mu_fidelity", grid=4)
        >>> exact = mu.score(lambda x: (x.flatten(1) @ weight)[:, None], images, images * weight.reshape(8, 8), target=0)
        >>> [round(v, 4) for v in exact.tolist()]
        [1.0, 1.0, 1.0]
    """

    preset: Preset = "paper"
    grid: Count = 9
    share: Fraction = 0.2
    samples: Count = 200
    cardinality: Cardinality | None = None
    correlation: Correlation | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        cardinality, correlation = PRESETS[self.preset]
        own = {k: v for k, v in self.params.items() if k != "preset"}
        return own | {
            "cardinality": self.cardinality or cardinality,
            "correlation": self.correlation or correlation,
        }

    def plan(self, shape: tuple[int, ...]) -> Plan:
        """Subsets of the grid's cells: at least one cell, and never all of them, where the size is fixed."""
        rows, columns = regions.layout(self.grid, shape)
        cells = rows * columns
        protocol = self.protocol
        draws: Draws
        if protocol["cardinality"] == "random":
            draws = Bernoulli(cells, self.samples, self.share, self.seed)
        else:
            take = max(1, min(round(self.share * cells), cells - 1))
            draws = Fixed(cells, self.samples, take, self.seed)
        return Plan((rows, columns), [draws], protocol["correlation"])

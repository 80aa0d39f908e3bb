"""Sensitivity-n: whether what a map gives to any n cells is what the score loses without them."""

from typing import Annotated

from attriscope.attribution import regions
from attriscope.attribution._parameters import Count, Range

from ..metric import register
from ._subsets import Correlation, Fixed, Plan, SubsetCorrelation


@register(
    "sensitivity_n",
    family="faithfulness",
    paper="Ancona, Ceolini, Öztireli and Gross 2018, arXiv:1711.06104; cells as in SMDL's protocol",
)
class SensitivityN(SubsetCorrelation):
    """The correlation of the map's sum over n cells with what the score loses without them.

    Higher is better, between -1 and 1. A map fulfils sensitivity-n where the two are equal for every subset of n; as no map
    of a network that is not linear does so for all n, the correlation says how near it is. Small n asks for what cells do
    alone, large n for what they do together: maps change places between the two, so name n beside the number, or give
    several, of which the mean is the score and the curve over n tells the rest.

    Args:
        n: Cells in a subset, or several such numbers; `None`: a tenth of the cells.
        grid: Cells per side, at most one for each pixel.
        samples: How many subsets, of each n.
        correlation: "pearson" or "spearman".

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> images, maps = torch.rand(3, 3, 8, 8), torch.rand(3, 1, 8, 8)
        >>> several = metrics.create("sensitivity_n", grid=4, n=(1, 4, 8))
        >>> found = several.score(network, images, maps, target=0, curves=True)
        >>> found.fractions.tolist(), found.values.shape
        ([0.0625, 0.25, 0.5], torch.Size([3, 3]))
    """

    n: Annotated[int, Range(1)] | tuple[int, ...] | None = None
    grid: Count = 10
    samples: Count = 100
    correlation: Correlation = "pearson"

    def validate(self) -> None:
        """Several numbers are numbers of cells, all of them."""
        if isinstance(self.n, tuple | list) and not (
            self.n and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.n)
        ):
            raise ValueError(f"sensitivity_n: n={self.n!r}: give a number of cells, or several: (1, 10, 50)")

    def plan(self, shape: tuple[int, ...]) -> Plan:
        """Subsets of the grid's cells.

        Raises:
            ValueError: n leaves no choice.
        """
        rows, columns = regions.layout(self.grid, shape)
        cells = rows * columns
        given = self.n if self.n is not None else max(1, round(cells / 10))
        several = tuple(given) if isinstance(given, tuple | list) else (given,)
        if self.n is not None and max(several) >= cells:
            raise ValueError(
                f"sensitivity_n: n={max(several)} of the {cells} cells of {rows} x {columns} leaves no choice: take fewer"
            )
        draws = [Fixed(cells, self.samples, n, self.seed) for n in several]
        fractions = [n / cells for n in several]
        return Plan((rows, columns), draws, self.correlation, fractions)

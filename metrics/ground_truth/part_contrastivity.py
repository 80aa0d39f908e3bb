"""Part contrastivity: does the map follow the class that is asked about?"""

from typing import ClassVar

import torch
from attriscope.attribution.attributor import Attributor
from torch import Tensor

from ..metric import Scored, register
from ._parts import PARTS, Parts

SAME = 1e-5  # of what a map adds up to without signs: so much two maps may differ in that were made alike


def target_sensitivity(one: Tensor, other: Tensor, shared: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Whether parts that a picture shares with a class get more when that class is asked about.

    Args:
        one: `(U, P)` float64, importances for the first of two classes, and
        other: for the second.
        shared: `(U, P)` bool, whether a part looks as the first class has it; the others look as the second has them.
        same: `(U,)`: sums that differ by no more are the same.

    Returns:
        `(U,)`: 1 where both comparisons hold, 1/2 where one does, an equality being half of one; and how many are equal.

    Example:
        >>> one, other = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
        >>> target_sensitivity(one, other, torch.tensor([[True, False]]), torch.zeros(1))[0].tolist()
        [1.0]
        >>> target_sensitivity(one, one, torch.tensor([[True, False]]), torch.zeros(1))[0].tolist()
        [0.5]
    """
    more = (one - other) * torch.where(shared, 1.0, -1.0)
    sides = torch.stack([(more * shared).sum(1), (more * ~shared).sum(1)])
    equal = sides.abs() <= same
    return torch.where(equal, 0.5, (sides > 0).double()).mean(0), equal.sum(0).double()


@register(
    "part_contrastivity",
    family="ground_truth",
    aliases=("part_target_sensitivity",),
    paper="Hesse, Schaub-Meyer and Roth 2023, arXiv:2308.06248, target sensitivity (TS)",
)
class PartContrastivity(Parts):
    """Whether the map follows the class that is asked about: higher is better.

    For each picture there are two other classes, a and b: each of the figure's parts looks as a has it or as b has it, and
    never both. Asked about a, the map must give the parts of a more than it gives them when it is asked about b, and the parts
    of b less. Each of the two counts for half; :func:`metrics.part_scenes` shows the pictures, and `part_correctness` says
    how parts and margins are added up.

    A map that is the same for both classes has 0.5, as one has that changes at random: equal sums count for half, and the
    details hold how many of the two were `equal`. (Hesse et al. give them nothing.) It compares two maps without a common
    scale, as they do: of maps that are normalised the sums say less.

    It costs two explanations for each picture. A method for which `with_model` does not give a working one on the small
    network is refused.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> whatever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = metrics.create("part_contrastivity", pictures=4)
        >>> made.score(attribution.create("occlusion", whatever)).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> made.score(attribution.create("edge", whatever)).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """

    chance: ClassVar[float | None] = 0.5

    @property
    def explanations(self) -> int:
        """For both classes."""
        return 2

    def measure(self, attributor: Attributor) -> Scored:
        """Two explanations of every picture, in one call."""
        scenes = self.scenes(attributor)
        found = self.explained(attributor, scenes, scenes.rivals.T.flatten())
        one, other = found.things[:, : len(PARTS)].chunk(2)
        same = SAME * torch.maximum(*found.size.chunk(2))
        scores, equal = target_sensitivity(one, other, scenes.shared(scenes.rivals[:, 0]), same)
        return Scored(scores, details={"equal": equal})

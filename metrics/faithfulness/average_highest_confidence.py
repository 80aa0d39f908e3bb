"""Average highest confidence: how sure a network gets of a class from part of an image."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import Scored, register
from .curve import Curve


@register(
    "average_highest_confidence",
    family="faithfulness",
    aliases=("highest_confidence",),
    paper="Chen, Zhang, Liang, Li and Cao 2024, arXiv:2402.09164",
)
class AverageHighestConfidence(Curve):
    """Highest score on the way of insertion within a share of the pixels, averaged over several shares.

    Higher is better. Between 0 and 1 for probabilities; other outputs and `normalize=True` have no bounds. It is meant
    for images that the network gets wrong, with the true class as the target: a map that finds what speaks for that class
    makes a part of the image say what the whole does not. On images that it gets right the whole image is hard to beat,
    and most maps score alike.

    It says how high the score can be driven, not that the map tells why the network decided: a part outside of all that
    was seen in training may have a high score too. A highest of more points is higher, so compare equal `steps` alone.
    The baseline, with nothing inserted, is not among the points; the whole image is, within a share of 1.

    Papers report one number for each share: they are beside the score for every image (`highest_25`, ... in per cent of
    the pixels), with the share of pixels at which that height is first reached (`area_25`, ...). Next to `insertion` with the
    same options it costs nothing.

    Args:
        budgets: The shares of inserted pixels, above 0 and at most 1; each must leave at least one step.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metric = metrics.create("average_highest_confidence", budgets=(0.5, 1.0))
        >>> found = metric.score(network, images, maps, target=0, curves=True)
        >>> sorted(found.details)
        ['area_100', 'area_50', 'clean', 'highest_100', 'highest_50', 'removed']
    """

    higher_is_better: ClassVar[bool] = True
    inserts: ClassVar[bool | None] = True
    is_area: ClassVar[bool] = False

    budgets: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)

    def validate(self) -> None:
        """Check the budgets, and that the protocol's steps leave points within each."""
        wrong = [b for b in self.budgets if isinstance(b, bool) or not isinstance(b, int | float) or not 0 < b <= 1]
        if wrong or not self.budgets:
            raise ValueError(f"budgets={self.budgets}: give shares of the pixels, above 0 and at most 1")
        if len({f"{100 * b:g}" for b in self.budgets}) < len(self.budgets):
            raise ValueError(f"budgets={self.budgets}: one is there twice")
        self._within(self.protocol["steps"])

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        return {**super().protocol, "budgets": self.budgets}

    def _within(self, steps: int) -> list[int]:
        """How many steps there are within each budget."""
        numbers = [int(b * steps + 1e-9) for b in self.budgets]  # 0.29 * 100 is 28.999999999999996
        if min(numbers) < 1:
            raise ValueError(
                f"{self.name}: {steps} steps leave none within {min(self.budgets):g} of the pixels: give more steps (at "
                "most one per pixel) or larger budgets"
            )
        return numbers

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the curve of insertion, if the images have pixels enough.

        Raises:
            ValueError: They have not.
        """
        self._within(len(self.points(maps[0].numel())) - 1)
        return super().prepare(todo, images, maps)

    def read(self, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the highest points within each budget."""
        steps = values.shape[1] - 1
        every, details = [], {}
        for budget, number in zip(self.budgets, self._within(steps), strict=True):
            highest, where = values[:, 1 : number + 1].max(1)
            every.append(highest)
            details[f"highest_{100 * budget:g}"] = highest
            details[f"area_{100 * budget:g}"] = torch.where(highest.isnan(), torch.nan, (where + 1).double() / steps)
        return torch.stack(every).mean(0), details

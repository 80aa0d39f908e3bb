"""What metrics of the map alone share: the map without its signs and its scale."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import MapMetric, Scored


def magnitudes(maps: Tensor) -> Tensor:
    """Absolute values as shares of each map's largest, `(N, P)` float64 on the CPU; a map of zeros is NaN.

    Example:
        >>> import torch
        >>> magnitudes(torch.tensor([[[-4.0, 1.0]], [[0.0, 0.0]]])).tolist()
        [[1.0, 0.25], [nan, nan]]
    """
    flat = maps.flatten(1).abs().cpu().double()
    return flat / flat.amax(1, keepdim=True)


class OfMagnitudes(MapMetric):
    """A number of a map's absolute values: no network is asked, and no scale counts."""

    faithful: ClassVar[bool] = False
    constant: ClassVar[Literal["undefined", "scored"]] = "scored"
    undefined: ClassVar[str] = "a map of zeros has no largest value"

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Nothing."""
        del shape
        return 0

    @abstractmethod
    def found(self, shares: Tensor) -> Scored:
        """The scores of `(N, P)` shares of the largest value, float64; a row of NaN is a map of zeros."""

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Nothing is asked."""
        del todo, images
        scored = self.found(magnitudes(maps))
        return lambda: scored

"""What metrics that know the object share."""

from typing import ClassVar, Literal

import torch
from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import MapMetric


class OnObject(MapMetric):
    """A metric that asks whether a map lies on the object: no network is asked.

    What the network looks at need not be the object: a low score may be the network's, not the map's.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    constant: ClassVar[Literal["undefined", "scored"]] = "scored"
    undefined: ClassVar[str] = "there is no object in the image's mask"

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Nothing."""
        del shape
        return 0


def objects(todo: Evaluations, maps: Tensor) -> Tensor:
    """Where the objects are, `(N, H, W)` bool beside the maps.

    Raises:
        ValueError: Nobody said.
    """
    if todo.mask is None:
        raise ValueError("where the object is must be known: Evaluations(..., mask=(N, H, W) bool)")
    return todo.mask.to(maps.device)


def share(of: Tensor, mask: Tensor) -> Tensor:
    """The mean of `of`, `(N, H, W)` bool, as `(N,)` float64 on the CPU; NaN where the mask is empty.

    Example:
        >>> mask = torch.tensor([[[True, False]], [[False, False]]])
        >>> share(mask, mask).tolist()
        [0.5, nan]
    """
    found = of.flatten(1).sum(1).double().cpu() / of[0].numel()
    return torch.where(mask.flatten(1).any(1).cpu(), found, torch.nan)

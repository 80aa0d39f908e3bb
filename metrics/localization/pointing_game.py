"""Pointing game: does the largest value lie on the object?"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from attriscope.attribution._parameters import Range
from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import Scored, register
from ._object import OnObject, objects, share


def near(mask: Tensor, tolerance: float) -> Tensor:
    """Where a pixel is on the object, or strictly closer than `tolerance` pixels to one that is (Euclidean).

    Args:
        mask: `(N, H, W)` bool.
        tolerance: In pixels.

    Example:
        >>> near(torch.tensor([[[True, False, False, False]]]), 2).int().tolist()
        [[[1, 1, 0, 0]]]
    """
    height, width = mask.shape[1:]
    found = mask.clone()
    before = torch.nn.functional.pad(mask.int().cumsum(2), (1, 0))  # how many lie left of a column
    column = torch.arange(width, device=mask.device)
    reach = min(math.ceil(tolerance) - 1, height - 1)
    for down in range(-reach, reach + 1):
        across = math.ceil(math.sqrt(tolerance**2 - down**2)) - 1  # whole pixels of the disk's chord
        left, right = (column - across).clamp_min(0), (column + across + 1).clamp_max(width)
        row = before.index_select(2, right) > before.index_select(2, left)
        if down >= 0:
            found[:, down:] |= row[:, : height - down]
        else:
            found[:, :down] |= row[:, -down:]
    return found


@register(
    "pointing_game",
    family="localization",
    needs="annotations",
    paper="Zhang et al. 2016, arXiv:1608.00507, section 4.1",
)
class PointingGame(OnObject):
    """Whether the pixel with the largest value lies on the object, or close to it.

    1 is a hit, 0 a miss. Where several pixels share the largest value it is the share of them that hit, so that a constant
    map gets what chance gives. A network may well look beside the object, and then a miss is the better map. Benchmarks
    average over the images of each class first, then over classes.

    The details hold `chance`, the share of the image that is a hit (the score that a random point expects), and `ties`, how
    many pixels share the largest value. An image whose mask is empty is NaN.

    Args:
        tolerance: A point hits that is strictly closer than so many pixels to the object (Euclidean), in the image's own
            pixels; 0: it must be on it. The 15 of the paper are for photographs of about 500 pixels: in small images nearly
            every point hits.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[1.0, 5.0], [5.0, 0.0]]]])
        >>> game = metrics.create("pointing_game", tolerance=0)
        >>> boxes = {"boxes": [[(1, 0, 2, 1)]]}
        >>> game.score(network, torch.rand(1, 1, 2, 2), maps, target=0, annotations=boxes).tolist()
        [0.5]
    """

    ranks: ClassVar[bool] = True
    small: ClassVar[dict[str, float]] = {"tolerance": 2}

    tolerance: Annotated[float, Range(0)] = 15

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Nothing is asked."""
        del images
        mask = objects(todo, maps)
        hits = near(mask, self.tolerance)
        largest = maps == maps.amax((1, 2), keepdim=True)
        ties = largest.flatten(1).sum(1).double().cpu()
        scores = share(largest & hits, mask) * hits[0].numel() / ties
        chance = share(hits, mask)
        return lambda: Scored(scores, details={"chance": chance, "ties": ties})

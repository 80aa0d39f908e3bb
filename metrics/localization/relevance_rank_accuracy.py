"""Relevance rank accuracy: how many of the first pixels lie on the object."""

from collections.abc import Callable
from typing import ClassVar

from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import Scored, register
from ._object import OnObject, objects, share


def first_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Of the K pixels that come first, where K is the object's size, the share on the object, `(N,)` float64 on the CPU.

    Pixels that tie with the K-th take the places that are left in equal parts.

    Args:
        maps: `(N, H, W)`.
        mask: `(N, H, W)` bool; an empty one is NaN.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[[True, True, False, False]]])
        >>> first_inside(torch.tensor([[[9.0, 1.0, 1.0, 0.0]]]), mask).tolist()
        [0.75]
    """
    flat, inside = maps.flatten(1), mask.flatten(1)
    size = inside.sum(1, keepdim=True)
    last = flat.sort(1, descending=True).values.gather(1, (size - 1).clamp_min(0))
    above, tied = flat > last, flat == last
    counts = [c.sum(1).cpu().double() for c in (above, tied, above & inside, tied & inside)]
    places = size[:, 0].cpu().double()
    return (counts[2] + counts[3] * (places - counts[0]) / counts[1]) / places  # 0 of 0 places: NaN


@register(
    "relevance_rank_accuracy",
    family="localization",
    aliases=("rank_accuracy",),
    needs="annotations",
    paper="Arras, Osman and Samek 2022, arXiv:2003.07258, equation 2",
)
class RelevanceRankAccuracy(OnObject):
    """The share of the first K pixels that lie on the object, where K is the object's size in pixels.

    Between 0 and 1, where every pixel of the object comes before all others. It takes the order alone; a map without
    preference gets the object's share of the image, which is the details' `chance`. Where pixels tie with the last that
    counts, it is what a random order of them expects. An image whose mask is empty is NaN.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[1.0, 3.0], [0.0, -9.0]]]])
        >>> boxes = {"boxes": [[(1, 0, 2, 2)]]}
        >>> accuracy = metrics.create("relevance_rank_accuracy")
        >>> accuracy.score(network, torch.rand(1, 1, 2, 2), maps, target=0, annotations=boxes).tolist()
        [0.5]
    """

    ranks: ClassVar[bool] = True

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Nothing is asked."""
        del images
        mask = objects(todo, maps)
        scores, chance = first_inside(maps, mask), share(mask, mask)
        return lambda: Scored(scores, details={"chance": chance})

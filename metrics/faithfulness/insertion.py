"""Insertion: how fast the score rises when the most important pixels come first."""

from typing import ClassVar

from ..metric import register
from .curve import Curve


@register(
    "insertion",
    family="faithfulness",
    aliases=("insertion_auc",),
    paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421",
)
class Insertion(Curve):
    """Area under the score while the image's pixels are put into a baseline, most important first.

    Higher is better. Between 0 and 1 for probabilities; logits, log-probabilities and margins have no bounds, and with
    `normalize=True` the area may leave that range too. It speaks of one baseline: a method that searched with the same
    one looks better than it is, so name the baseline beside the number and look at several.

    Beside the score are where it ends (`clean`, the score of the image) and where it starts (`removed`, that of the
    baseline, which for a blurred image may be far above 0: part of the area is nobody's merit).

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metrics.create("insertion").score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    higher_is_better: ClassVar[bool] = True
    inserts: ClassVar[bool | None] = True

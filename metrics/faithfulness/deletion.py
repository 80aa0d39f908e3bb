"""Deletion: how fast the score falls when the most important pixels go first."""

from typing import ClassVar

from ..metric import register
from .curve import Curve


@register(
    "deletion", family="faithfulness", aliases=("deletion_auc",), paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421"
)
class Deletion(Curve):
    """Area under the score while the image's pixels are replaced by a baseline, most important first.

    Lower is better. Between 0 and 1 for probabilities; logits, log-probabilities and margins have no bounds, and with
    `normalize=True` the area may leave that range too. Images with holes are unlike any the network has seen: some of
    the fall is the holes', whatever pixels they cover, so compare with a random map.

    Beside the score are what it starts from (`clean`, the score of the image) and what is left of it when all is removed
    (`removed`): where that is no small part of `clean`, the baseline says something of the class itself.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metrics.create("deletion").score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    higher_is_better: ClassVar[bool] = False
    inserts: ClassVar[bool | None] = False

"""Energy-based pointing game: how much of the map's positive mass lies on the object."""

from collections.abc import Callable
from typing import ClassVar

import torch
from attriscope.attribution.masking import Evaluations
from torch import Tensor

from ..metric import Scored, register
from ._object import OnObject, objects, share


@register(
    "energy_pointing_game",
    family="localization",
    aliases=("relevance_mass_accuracy", "mass_accuracy"),
    needs="annotations",
    paper="Wang et al. 2020, arXiv:1910.01279, section 4.3; Arras, Osman and Samek 2022, arXiv:2003.07258, equation 1",
)
class EnergyPointingGame(OnObject):
    """The share of the map's positive mass that lies on the object.

    Between 0 and 1; what is negative counts for nothing. A map without preference gets the object's share of the image, so
    that large objects score well by themselves: compare with the details' `chance`, or take their `ratio` (1 is chance).
    Adding a constant to a map moves the score: maps with an offset of no meaning should lose it first.

    A map without positive mass is NaN, as is an image whose mask is empty.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> maps = torch.tensor([[[[1.0, 3.0], [0.0, -9.0]]]])
        >>> game = metrics.create("energy_pointing_game")
        >>> boxes = {"boxes": [[(1, 0, 2, 1)]]}
        >>> game.score(network, torch.rand(1, 1, 2, 2), maps, target=0, annotations=boxes).tolist()
        [0.75]
    """

    undefined: ClassVar[str] = "no value of the map is positive, or there is no object in the image's mask"

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Nothing is asked."""
        del images
        mask = objects(todo, maps)
        mass = maps.clamp_min(0).flatten(1).cpu().double()
        inside = (mass * mask.flatten(1).cpu()).sum(1)
        chance = share(mask, mask)
        scores = torch.where(chance.isnan(), torch.nan, inside / mass.sum(1))
        return lambda: Scored(scores, details={"chance": chance, "ratio": scores / chance})

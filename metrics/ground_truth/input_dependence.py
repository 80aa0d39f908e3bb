"""Input dependence: does a place become less important when something is put there that the network cannot see?"""

from typing import ClassVar

import torch
from attriscope.attribution.attributor import Attributor

from ..metric import Scored, register
from ._pasted import OnPasted


@register(
    "input_dependence",
    family="ground_truth",
    aliases=("idr", "input_dependence_rate"),
    paper="Yang and Kim 2019, arXiv:1907.09701, input dependence rate",
)
class InputDependence(OnPasted):
    r"""Whether a method calls a place less important once an object covers the scene there, to a network of scenes.

    .. math:: g(f_s, x_{scene}) > g(f_s, x)

    g is the mean, over the object's place, of the map's positive part between its smallest value (0) and its 99th percentile
    (1). The scene network is written by hand (`metrics.pasted`), so that it is certain: every part of the plain scene
    speaks for its class, and the object's pixels, whatever they show, for nothing. The scene's class is explained.

    1 for a picture where it is so, 0 where the object is called more important than the scene that it covers: a false
    positive. Objects are brighter than the scenes and have stronger edges, so that maps that show the picture fail. A
    tie is 0.5, so that a map that does not look at the picture has what a coin would have; the paper's strict
    inequality gives it 0.

    The details hold both sides, `plain` and `pasted`. A picture is NaN where one of its maps has no scale.

    Example:
        >>> from attriscope import attribution, metrics
        >>> network = attribution.conformance.Detector()  # any: the metric brings its own
        >>> dependence = metrics.create("input_dependence", pictures=12)
        >>> scores = [dependence.score(attribution.create(n, network)) for n in ("input_x_gradient", "random", "input")]
        >>> [s.mean().item() for s in scores]
        [1.0, 0.5, 0.0]
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = 0.5

    def measure(self, attributor: Attributor) -> Scored:
        """Explain the scenes, and the same with the object."""
        made = self.pasted()
        plain, pasted = self.of_scenes(attributor, made, made.images)
        scores = ((plain - pasted).sign() + 1) / 2
        return Scored(
            torch.where((plain + pasted).isnan(), torch.nan, scores), details={"plain": plain, "pasted": pasted}
        )

"""Input independence: does what the network cannot see leave the map as it is?"""

from typing import ClassVar

import torch
from attriscope.attribution._parameters import Fraction
from attriscope.attribution.attributor import Attributor

from ..metric import Scored, register
from ._pasted import OnPasted


@register(
    "input_independence",
    family="ground_truth",
    aliases=("iir", "input_independence_rate"),
    paper="Yang and Kim 2019, arXiv:1907.09701, input independence rate",
)
class InputIndependence(OnPasted):
    r"""Whether a method leaves a place as important as it was, once it looks different in a way the network does not see.

    .. math:: |g(f_s, x_{scene}) - g(f_s, x_{patch})| < t\, g(f_s, x_{scene})

    g is the mean, over the patch, of the map's positive part between its smallest value (0) and its 99th percentile (1). The
    paper searches for a patch that leaves the trained network's outputs nearly as they are. Here none is searched: the scene
    network is written by hand (`metrics.pasted`), and its first layer gives the very same numbers for a colour and for
    the colour with a multiple of (4, -1, 0) added. The patch is such a multiple, in the object's shape and texture:
    a red object that everybody sees, and which changes nothing behind the first layer. The scene's class is explained.

    1 for a picture where the change is smaller than t, 0 elsewhere: there the method shows the picture, not the network.
    A map that does not look at the picture passes too, as `random` does: read it beside `input_dependence`,
    which such maps do not pass. A map with nothing in the patch's place is 0: to the network it is as important as others.

    The details hold both sides, `plain` and `patched`. A picture is NaN where one of its maps has no scale.

    Args:
        threshold: t, the relative change of g that is too large.

    Example:
        >>> from attriscope import attribution, metrics
        >>> network = attribution.conformance.Detector()  # any: the metric brings its own
        >>> independence = metrics.create("input_independence", pictures=12)
        >>> scores = [independence.score(attribution.create(n, network)) for n in ("input_x_gradient", "random", "input")]
        >>> [s.mean().item() for s in scores]
        [1.0, 1.0, 0.0]
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    threshold: Fraction = 0.1

    def measure(self, attributor: Attributor) -> Scored:
        """Explain the scenes, and the same with the patch."""
        made = self.pasted()
        plain, patched = self.of_scenes(attributor, made, made.patched)
        scores = ((plain - patched).abs() < self.threshold * plain).double()
        return Scored(
            torch.where((plain + patched).isnan(), torch.nan, scores), details={"plain": plain, "patched": patched}
        )

"""Model contrast: is the object more important to the network that tells objects than to the one that tells scenes?"""

from typing import ClassVar

from attriscope.attribution.attributor import Attributor

from ..metric import Scored, register
from ._pasted import OnPasted, importance


@register(
    "model_contrast",
    family="ground_truth",
    aliases=("mcs", "model_contrast_score"),
    paper="Yang and Kim 2019, arXiv:1907.09701, model contrast score",
)
class ModelContrast(OnPasted):
    r"""How much more important a method calls an object to a network that sees nothing else than to one that cannot see it.

    .. math:: g(f_o, x) - g(f_s, x)

    g is the mean, over the object, of the map's positive part between its smallest value (0) and its 99th percentile (1). The
    paper trains both networks, and trusts that they rely on what they were trained for. Here pictures are drawn and the
    networks are written by hand (`metrics.pasted`), so that this is certain: no output of the first depends on what the scene
    shows, and none of the second on what the object shows. Each network's own class is explained.

    1 is the best: all of the object and nothing else to the one network, nothing of it to the other. A map that does not
    look at the network is exactly 0, as it is the same for both, and less than 0 speaks against the method. Objects have
    pixels of which some say half as much as others, so that exact shares of the logit, as those of
    `input_x_gradient`, have 0.75 or so, and coarse maps less. Every map has a scale of its own: how small a map is as a
    whole does not count.

    The details hold both terms, `object` and `scene`. A picture is NaN where one of its maps has no scale.

    Example:
        >>> from attriscope import attribution, metrics
        >>> network = attribution.conformance.Detector()  # any: the metric brings its own
        >>> contrast = metrics.create("model_contrast", pictures=12)
        >>> contrast.score(attribution.create("input", network)).abs().max().item()
        0.0
        >>> round(contrast.score(attribution.create("grad_cam", network)).mean().item(), 1)
        0.7
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    chance: ClassVar[float | None] = 0.0

    def measure(self, attributor: Attributor) -> Scored:
        """Explain the same pictures by both networks."""
        made = self.pasted()
        on, off = (
            importance(self.explained(attributor, network, made.images, labels), made.mask)
            for network, labels in (
                (made.object_network, made.object_labels),
                (made.scene_network, made.scene_labels),
            )
        )
        return Scored(on - off, details={"object": on, "scene": off})

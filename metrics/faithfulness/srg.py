"""Symmetric relevance gain: how far apart the two orders of removal are."""

from typing import Any, ClassVar

from attriscope.attribution import baselines

from ..metric import register
from .curve import PRESETS, Difference


@register(
    "srg",
    family="faithfulness",
    aliases=("symmetric_relevance_gain",),
    paper="Bluecher, Vielhaben and Strodthoff 2024, arXiv:2401.06654",
)
class SymmetricRelevanceGain(Difference):
    """Area under the score while the least important pixels go first, minus that while the most important do.

    Higher is better, between -1 and 1 for probabilities; other outputs and `normalize=True` have no bounds. A map that
    knows nothing scores 0 on average whatever the network and the baseline, and the negated map scores minus as much:
    what the baseline itself does to the score falls out, unlike in `insertion` or `deletion`.

    Least important first is most important first the other way round, ties as well, and its images are those of insertion
    into the same baseline. So it equals `insertion` minus `deletion` of one baseline, and costs nothing beside them; with
    two baselines that difference is `insertion_minus_deletion`.

    The curve is insertion's height minus deletion's. Beside the score are both areas (`insertion`, `deletion`) and the
    scores of the image (`clean`) and of the baseline (`removed`, `start`).

    Args:
        baseline: What stands for a removed pixel in both; `None`: what the preset has for deletion.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> one, other = (metrics.create("srg").score(network, images, m, target=0) for m in (maps, -maps))
        >>> bool(torch.allclose(one, -other))
        True
    """

    higher_is_better: ClassVar[bool] = True
    chance: ClassVar[float | None] = 0.0

    baseline: baselines.Baseline | None = None

    @property
    def pair(self) -> tuple[Any, Any]:
        """The baseline, for both."""
        baseline = PRESETS[self.preset][3] if self.baseline is None else self.baseline
        return baseline, baseline

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        return {**super().protocol, "baseline": self.pair[0]}

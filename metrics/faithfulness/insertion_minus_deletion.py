"""Insertion minus deletion: both of RISE's areas in one number."""

from typing import Any, ClassVar

from attriscope.attribution import baselines

from ..metric import register
from .curve import PRESETS, Difference


@register(
    "insertion_minus_deletion",
    family="faithfulness",
    aliases=("ins_minus_del",),
    paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421",
)
class InsertionMinusDeletion(Difference):
    """Area under insertion from one baseline, minus area under deletion to another.

    Higher is better, between -1 and 1 for probabilities; other outputs and `normalize=True` have no bounds. The
    baselines are the protocol's own, RISE's a blurred image and the mean colour, so a random map has no score that is
    known beforehand: `srg` takes one baseline for both, and a random map scores 0 there.

    The curve is insertion's height minus deletion's. Beside the score are both areas (`insertion`, `deletion`), the score
    of the image (`clean`) and of the two baselines (`start` is insertion's, `removed` deletion's). Next to `insertion` and
    `deletion` with the same options it costs nothing.

    Args:
        insertion_baseline: What insertion starts from; `None`: the preset's.
        deletion_baseline: What stands for a deleted pixel; `None`: the preset's.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metrics.create("insertion_minus_deletion").score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    higher_is_better: ClassVar[bool] = True

    insertion_baseline: baselines.Baseline | None = None
    deletion_baseline: baselines.Baseline | None = None

    @property
    def pair(self) -> tuple[Any, Any]:
        """The baselines of insertion and of deletion."""
        _, _, insertion, deletion = PRESETS[self.preset]
        into, to = self.insertion_baseline, self.deletion_baseline
        return insertion if into is None else into, deletion if to is None else to

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        into, to = self.pair
        return {**super().protocol, "insertion_baseline": into, "deletion_baseline": to}

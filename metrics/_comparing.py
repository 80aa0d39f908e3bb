"""What metrics share that compare a method's maps with others of the same images."""

from typing import Annotated

from attriscope.attribution._parameters import Range
from torch import Tensor

from ._similarity import Similarity, checked, compared, described
from .metric import MethodMetric


class Comparing(MethodMetric):
    """A metric by the similarity of maps, with the options of `metrics.similarity`.

    Args:
        similarity: `"spearman"`, `"pearson"`, `"ssim"`, `"hog"` or `"top_k"`; `metrics.similarity` says more.
        absolute: Whether signs are dropped: a map and its negative are then the same.
        smooth: The standard deviation in pixels of the blur that both maps get before.
    """

    similarity: Similarity = "spearman"
    absolute: bool = False
    smooth: Annotated[float, Range(0)] = 0.0

    def described(self, maps: Tensor) -> Tensor:
        """What is compared of maps: found once of those that meet many others."""
        flat = checked(maps, self.similarity, self.smooth)
        return described(flat, self.similarity, absolute=self.absolute, smooth=self.smooth)

    def alike(self, one: Tensor, other: Tensor) -> Tensor:
        """The similarity of described maps, `(N,)` float64, NaN where it is undefined."""
        return compared(one, other, self.similarity, absolute=self.absolute)

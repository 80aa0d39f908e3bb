"""What methods on regions share: the options that name regions and baseline, and the game that they play."""

from typing import Any

from torch import Tensor

from .. import baselines
from .. import regions as maps_of_regions
from .._parameters import Count
from ..attributor import Attributor
from ..games import Game
from ..regions import Regions
from ..targets import Target


class Regional(Attributor):
    """A method that keeps and removes whole regions.

    Args:
        regions: Which pixels are removed together: "slic", "grid", "felzenszwalb", a tensor of labels (H, W) or (N, H, W),
            or a callable, which makes n_regions at most. In a table every column, in tokens every token is a region.
        n_regions: The most regions of an image; superpixels give about as many.
        baseline: What stands in for a removed region: "zero", "black", "white", "mean", "blur", "noise", "region_mean", a
            number, a tensor or a callable.
    """

    regions: Regions = "slic"
    n_regions: Count = 49
    baseline: baselines.Baseline = "mean"

    def label_maps(self, inputs: Tensor) -> Tensor:
        """The regions of every image."""
        labels = maps_of_regions.make(self.regions, inputs, self.model, n_regions=self.n_regions)
        made, most = max(maps_of_regions.sizes(labels)), self.players(self, tuple(inputs.shape[1:]))
        if made > most:  # a callable's: what it costs must be known beforehand
            raise ValueError(
                f"{self.name}: the regions callable made {made} regions, and n_regions={self.n_regions}: pass "
                f"n_regions={made}"
            )
        return labels

    def game(self, inputs: Tensor, target: Target) -> Game:
        """The score of every image as a function of the regions that are kept."""
        labels = self.label_maps(inputs)
        baseline = baselines.make(self.baseline, inputs, self.model, seed=getattr(self, "seed", 0), labels=labels)
        return Game(self.model, inputs, baseline, labels, target, output=self.output)

    @classmethod
    def players(cls, options: Any, shape: tuple[int, ...]) -> int:
        """The most regions that an input of this shape has."""
        return maps_of_regions.most(options.regions, options.n_regions, shape)

"""Faithfulness correlation: whether what a map gives to random pixels is what the score loses without them."""

from attriscope.attribution import baselines
from attriscope.attribution._parameters import Count

from ..metric import register
from ._subsets import Correlation, Fixed, Plan, SubsetCorrelation


@register(
    "faithfulness_correlation",
    family="faithfulness",
    paper="Bhatt, Weller and Moura 2020, arXiv:2005.00631; the protocol is Quantus'",
)
class FaithfulnessCorrelation(SubsetCorrelation):
    """The correlation of the map's sum over random single pixels with what the score loses without them.

    Higher is better, between -1 and 1. A few pixels scattered over a photograph change a network's score by little more
    than their noise does: numbers are small also for good maps, and 100 subsets leave a standard error of 0.1 for each
    image. Compare means over many images, or take `mu_fidelity`, which removes cells. A pixel goes with all its channels;
    Quantus draws channels by themselves.

    Args:
        samples: How many subsets.
        subset: Pixels in a subset; in small images at most half of them.
        correlation: "pearson" or "spearman".
        baseline: What stands for removed pixels.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> faithful = metrics.create("faithfulness_correlation", subset=5, baseline="zero")
        >>> faithful.score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    samples: Count = 100
    subset: Count = 224
    correlation: Correlation = "pearson"
    baseline: baselines.Baseline = "black"

    def plan(self, shape: tuple[int, ...]) -> Plan:
        """Subsets of single pixels."""
        pixels = shape[-2] * shape[-1]
        take = max(1, min(self.subset, pixels // 2))
        return Plan(None, [Fixed(pixels, self.samples, take, self.seed)], self.correlation)

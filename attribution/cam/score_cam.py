"""Score-CAM: feature maps, each weighed by the score of the image that it masks."""

from typing import Any, Literal

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count
from ..attributor import Computed, register
from ..model import Model
from ..targets import Output, Target
from ._cam import ClassActivation, largest

Weights = Literal["increase", "softmax"]
NEGLIGIBLE = (
    1e-5  # of the layer's largest value: a map that varies less is rounding, which stretching would make a mask of
)


def score_cam(
    model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, maps: list[Tensor], output: Output
) -> list[Tensor]:
    """The scores of images seen through feature maps, `(k,)` for each image.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        baseline: What is seen where a map is low, broadcastable to the inputs.
        target: Frozen, one row per image.
        maps: For each image `(k, h, w)`, none constant.
        output: Which score.
    """
    return masking.evaluate_each(masking.Enlarged(inputs, baseline, maps), model, target, output=output)


@register(
    "score_cam",
    family="cam",
    aliases=("scorecam",),
    needs=("layer",),
    granularity="cell",
    at_most=True,
    samples="top",
    paper="Wang et al. 2020, arXiv:1910.01279",
)
class ScoreCAM(ClassActivation):
    r"""Feature maps of a late layer, each weighed by the score of the image that is seen through it; no gradient.

    .. math:: \sum_k w_k A^k, \qquad w_k = f(x \odot H_k) - f(x')

    where :math:`H_k` is map k, enlarged to the image and stretched to [0, 1], and x' the baseline. A mask keeps much of the
    image or little of it: its score speaks of the feature and of how large its area is.

    The paper defines weights as this increase and, in its algorithm, puts them through a softmax over the maps. That hangs
    on the scale of the score: on probabilities weights are then all but equal, and the map is little more than the
    features' mean, whatever the target; on logits a single feature may take it all. See `details["weights"]`.

    Args:
        output: Which score weighs; the paper takes the probability.
        top: The most feature maps that are tried, those with the largest range of values; each costs one forward. The
            others, and those that are constant, have weight 0. Few layers have more than the default.
        weights: The "increase" over the baseline's score, which may be negative, or its "softmax" over the maps that are
            tried, as in the paper's algorithm.
        baseline: What is seen where a map is low; the paper's zero is the mean colour.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`. In the details `"weights"` `(N, K)`, and `"channels"` `(N,)`: how many maps were tried.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("score_cam", network, layer="0", top=2).explain(torch.rand(1, 3, 8, 8))
        >>> found.details["weights"].shape, int((found.details["weights"] != 0).sum()), int(found.forwards)
        (torch.Size([1, 4]), 2, 4)
    """

    output: Output = "probability"
    top: Count = 2048
    weights: Weights = "increase"
    baseline: baselines.Baseline = "mean"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        features = self.looked_at(inputs, target, layer)
        start = baselines.make(self.baseline, inputs, self.model)
        spread = features.amax((2, 3)) - features.amin((2, 3))
        spread = spread.where(spread > NEGLIGIBLE * features.abs().amax((1, 2, 3))[:, None], 0)
        channels = largest(spread, self.top)
        scores = score_cam(
            self.model,
            inputs,
            start,
            target,
            maps=[one[own] for one, own in zip(features, channels, strict=True)],
            output=self.output,
        )
        if self.weights == "increase":
            ground = masking.evaluate(masking.Clean(inputs, start), self.model, target, output=self.output)
            scores = [one - own for one, own in zip(scores, ground, strict=True)]
        else:
            scores = [one.softmax(0) for one in scores]
        weights = features.new_zeros(features.shape[:2])
        for row, own, one in zip(weights, channels, scores, strict=True):
            row[own] = one.to(row)
        maps = (weights[:, :, None, None] * features).sum(1, keepdim=True)
        return self.finished([maps], layer, weights=weights, channels=torch.tensor([len(own) for own in channels]))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1 + options.top + (options.weights == "increase"), 0

"""Uniform score: are the values of the useful features those that a known function gives them?"""

from typing import Annotated, ClassVar

import torch
from attriscope.attribution._parameters import Range
from attriscope.attribution.attributor import Attributor
from torch import Tensor

from ..metric import Scored, register
from ._noise import OnSymbolic, Truth


def agreement(maps: Tensor, truth: Tensor) -> Tensor:
    r"""How far each feature's share of a map agrees with its share of the truth, in [0, 1].

    .. math:: 1 - \frac{|a_i - t_i|}{|a_i| + |t_i|}, \qquad \textstyle\sum_i |a_i| = \sum_i |t_i| = 1

    Two zeros agree exactly, and have 1; no number is added to what is divided by. One zero beside another number has 0, as
    have two shares with different signs.

    Args:
        maps: `(U, F)`.
        truth: `(U, F)`.

    Returns:
        `(U, F)` float64 on the CPU; NaN for a map of zeros.

    Example:
        >>> agreement(torch.tensor([[3.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
        [[0.8, 0.0, 1.0]]
    """
    a, t = (of.cpu().double() / of.cpu().double().abs().sum(1, keepdim=True) for of in (maps, truth))
    both = a.abs() + t.abs()
    return 1 - (a - t).abs() / torch.where(both == 0, 1.0, both)


@register(
    "uniform_score",
    family="ground_truth",
    aliases=("uscore", "uniformity_score"),
    paper="Shi, Kan, Smucny and Davidson 2024, arXiv:2406.12150, uniform score (UScore)",
)
class UniformScore(OnSymbolic):
    r"""How well the values of the useful features are those that the function gives them: higher is better.

    .. math:: \frac{1}{k} \sum_{i \in S} 1 - \frac{|a_i - t_i|}{|a_i| + |t_i|}

    a and the truth t are divided by the sum of their absolute values over all F features, so that what a map gives to noise is
    missing where it belongs. Then every one of the k features in S, that the function reads, counts the same, small ones too.
    1 is the truth, 0 a map with every sign wrong. A map has no scale, and signs count but with `absolute`.

    What is true depends on what a method estimates, and `truth` must be chosen by it:

    - "gradient", the derivative at the input, for `gradient` and, with `absolute`, `saliency`;
    - "path", the derivative averaged along the line from a baseline, times the way, for `integrated_gradients`;
    - "ablation", the fall of the function when the feature alone is set to a baseline, for `feature_ablation`, and for
      `occlusion` with `window=1, stride=1`.

    Another method is told how far it is from them: Shapley values lie between "path" and "ablation", and are neither. The
    logit is explained, which has the function's value: a method with output="probability" explains something else. The
    baseline here must be the method's. Inputs are in [0, 1] and the model has no mean: the baselines "zero", "black" and
    "mean" are all 0, which is the default here; for others pass both the same number.

    The functions are a network written by hand (`metrics.symbolic_scenes`), and the truth is in closed form: no training is
    in it. `functional_precision` says more of the inputs.

    The details hold `all`, the mean over all F features as in S: a useless feature has 1 where the map has exactly 0 there,
    and 0 for whatever else, were it rounding, so that it is the share of exact zeros for the most part. The mean over S is
    the published code's, which adds 1e-7 to what is divided by; here nothing is added, and two zeros have 1. A map of zeros
    is NaN. Inputs about the same function are a cluster. It costs one explanation of each input.

    Args:
        truth: "gradient", "path" or "ablation".
        baseline: The value of a feature that is not there, for the last two: what the method has, too.
        absolute: Whether signs are dropped on both sides, for methods without them.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> whatever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> gradients = attribution.create("integrated_gradients", whatever)
        >>> kinds = ("path", "gradient", "ablation")
        >>> scores = [metrics.create("uniform_score", truth=truth).score(gradients) for truth in kinds]
        >>> [round(found.mean().item(), 2) for found in scores]
        [1.0, 0.49, 0.77]
    """

    undefined: ClassVar[str] = "a map of zeros has no shares"

    truth: Truth = "path"
    baseline: Annotated[float, Range(0, 1)] = 0.0
    absolute: bool = False

    def measure(self, attributor: Attributor) -> Scored:
        """One explanation of every input."""
        scenes = self.scenes(attributor)
        maps = self.explained(attributor, scenes.model, scenes.inputs, scenes.targets)
        truth = scenes.truth(self.truth, self.baseline)
        agreed = agreement(maps.abs(), truth.abs()) if self.absolute else agreement(maps, truth)
        useful = (agreed * scenes.useful.cpu()).sum(1) / self.useful
        return Scored(useful, details={"all": agreed.mean(1)}, clusters=scenes.targets.cpu())

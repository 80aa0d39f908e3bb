"""Functional precision: are the features with the largest values those that the function reads?"""

from typing import ClassVar

import torch
from attriscope.attribution.attributor import Attributor
from torch import Tensor

from ..metric import Scored, register
from ._noise import OnSymbolic, first


def functional_precision(maps: Tensor, useful: Tensor) -> Tensor:
    """The share of useful features among the k with the largest absolute values, where k of them are useful.

    Args:
        maps: `(U, F)`.
        useful: `(U, F)` bool, with the same number k in every row.

    Returns:
        `(U,)` float64 on the CPU: of features with equal values the expected number counts.

    Example:
        >>> useful = torch.tensor([[True, True, False, False]] * 3)
        >>> maps = torch.tensor([[1.0, -2.0, 0.5, 0.0], [3.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
        >>> functional_precision(maps, useful).tolist()
        [1.0, 0.75, 0.5]
    """
    count = int(useful[0].sum())
    return (first(maps.abs(), count) * useful.cpu()).sum(1) / count


@register(
    "functional_precision",
    family="ground_truth",
    aliases=("fprec",),
    paper="Shi, Kan, Smucny and Davidson 2024, arXiv:2406.12150, functional precision (FPrec)",
)
class FunctionalPrecision(OnSymbolic):
    r"""Whether the features with the largest absolute values are those that the function reads: higher is better.

    .. math:: \tfrac1k \, \bigl| \operatorname{top}_k |a| \cap S \bigr|, \qquad k = |S|

    S holds the k features, of F, that a function depends on. The paper trains networks on such functions. Here the network is
    the function, written by hand (`metrics.symbolic_scenes`), so that a feature outside of S changes nothing, exactly, and a
    low score is the method's. There are several functions, each with other features, as outputs of one network: a map that
    does not look at the output that is asked about finds the features of all.

    1 is a map with the useful features first, k/F what a map has on average that knows nothing, and a constant map always: of
    equal values the expected number counts. Signs and sizes do not count; `uniform_score` looks at them. Inputs are in [0, 1]
    and the model has no mean, so that the baselines "zero", "black" and "mean" are all 0.

    As images, of 10 x 10 pixels at the defaults, nearly all methods run, also those that read a layer with a map: that is the
    input itself. Options in pixels are for larger images, as are superpixels: pass occlusion `window=1, stride=1`, and others
    a `regions` with every pixel, or take layout="table".

    The details hold `chance`. Inputs about the same function are a cluster. It costs one explanation of each input.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> whatever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> precision = metrics.create("functional_precision", samples=20)
        >>> [precision.score(attribution.create(name, whatever)).mean().item() for name in ("gradient", "constant")]
        [1.0, 0.1]
    """

    chance: ClassVar[float | None] = 0.1  # k/F at the defaults

    def measure(self, attributor: Attributor) -> Scored:
        """One explanation of every input."""
        scenes = self.scenes(attributor)
        maps = self.explained(attributor, scenes.model, scenes.inputs, scenes.targets)
        scores = functional_precision(maps, scenes.useful)
        chance = torch.full_like(scores, self.useful / self.features)
        return Scored(scores, details={"chance": chance}, clusters=scenes.targets.cpu())

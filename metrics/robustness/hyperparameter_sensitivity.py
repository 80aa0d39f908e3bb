"""Hyper-parameter sensitivity: how alike a method's maps are under settings that its user picks by habit."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from attriscope.attribution._parameters import parameters
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.external import FromCaptum
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.targets import Target
from torch import Tensor

from .._comparing import Comparing
from .._similarity import similarity
from ..metric import MapMetric, Scored, check_maps, create, register


def pairwise(maps: Sequence[Tensor], similar: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The similarity of every two settings' maps, `(N, pairs)`, 1 exactly where they are equal.

    Args:
        maps: One `(N, H, W)` for each setting.
        similar: Of two of them, `(N,)`; NaN where it is undefined.

    Example:
        >>> ones = torch.ones(1, 2, 2)
        >>> pairwise([ones, ones, 3 * ones], lambda a, b: 1 / (1 + (a - b).abs().amax((1, 2)))).tolist()
        [[1.0, 0.3333333432674408, 0.3333333432674408]]
    """
    found = []
    for one, other in itertools.combinations(maps, 2):
        value = similar(one, other)
        equal = (one == other).flatten(1).all(1).to(value.device) & ~value.isnan()
        found.append(torch.where(equal, 1.0, value))
    return torch.stack(found, 1)


@register(
    "hyperparameter_sensitivity",
    family="robustness",
    aliases=("sam",),
    paper="Bansal, Agarwal and Nguyen 2020, arXiv:2003.08754: similarity of maps over settings, and the spread of scores",
)
class HyperparameterSensitivity(Comparing):
    r"""The mean similarity of an image's maps over settings of one hyper-parameter: 1 if the setting does not matter.

    .. math:: \frac{2}{S (S - 1)} \sum_{i < j} s\bigl(a_i(x), a_j(x)\bigr)

    Higher is steadier, and a steady map need not be a right one. A mean score over images can stay where it is while
    every map changes: so `metric` also tells how far another metric's score moves within an image.

    The details hold `lowest`, the least similar pair, and `undefined`, how many pairs have no similarity (one of the maps
    is constant): one such pair makes the score NaN, since other methods would be judged by other pairs. With `metric` also
    `metric_mean` and `spread`, the mean of its scores over the settings and their standard deviation (over S - 1).

    A method without a seed has the similarity 1 over seeds, and is not run again; without any other parameter it is
    refused. The setting that the method has already is not explained again either.

    What settings evaluate alike is paid once, if it is the same image under the same baseline, target and output: RISE,
    KernelSHAP, LIME, Shapley sampling, Sobol and WCAM draw sample n by the seed and n alone, so that a sweep over their
    number of samples takes the evaluations of the largest. Methods that average gradients over noise, and HSIC, pay for
    each setting.

    Args:
        parameter: The name of one of the method's options.
        values: S settings of it, at least two.
        similarity: s: "spearman", "pearson", "ssim", "hog" or "top_k".
        absolute: Whether maps are compared by their absolute values.
        smooth: Standard deviation, in pixels, of a Gaussian that maps are smoothed with before they are compared.
        metric: What else is told of each setting's maps: the name of a metric that scores maps, with its defaults, or one
            with options.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> rise = attribution.create("rise", network, masks=64, grid=4)
        >>> sweep = metrics.create("hyperparameter_sensitivity", parameter="masks", values=(64, 128, 256))
        >>> bool(sweep.score(rise, torch.rand(1, 3, 8, 8), target=0) < 1), rise.model.forwards
        (True, 256)
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "the map of one of the settings has no similarity to another, as a constant map has none"
    at_most: ClassVar[bool] = True

    parameter: str = "seed"
    values: tuple[Any, ...] = (0, 1, 2)
    metric: str | MapMetric | None = None

    def validate(self) -> None:
        """Two settings, and a metric that can score maps alone."""
        if len(self.values) < 2:
            raise ValueError(f"{self.name}: values={self.values!r}: give at least two, to compare")
        made = create(self.metric) if isinstance(self.metric, str) else self.metric
        if made is not None and (not isinstance(made, MapMetric) or "annotations" in made.facts.needs):
            raise ValueError(
                f"{self.name}: metric={made.name!r} needs more than maps: name one that scores maps without annotations"
            )

    @property
    def judge(self) -> MapMetric | None:
        """The metric that scores each setting's maps."""
        made = create(self.metric) if isinstance(self.metric, str) else self.metric
        assert made is None or isinstance(made, MapMetric)
        return made

    @property
    def explanations(self) -> int:
        """At most one for each value: a method is spared the setting that it has."""
        return len(self.values)

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """What the metric takes for the maps of all settings, if they share nothing."""
        return 0 if self.judge is None else len(self.values) * self.judge.cost(shape)

    def accept(self, attributor: Attributor) -> None:
        """The method must take every setting."""
        super().accept(attributor)
        self.settings(attributor)

    def settings(self, attributor: Attributor) -> list[Attributor]:
        """The method under each value; of one that has no seed the method itself.

        Raises:
            ValueError: It lacks the parameter, or a value is out of range.
            TypeError: A value is of the wrong type.
        """
        own = parameters(type(attributor))
        if self.parameter in own:
            return [type(attributor)(attributor.model, **{**attributor.params, self.parameter: v}) for v in self.values]
        if self.parameter != "seed" or isinstance(attributor, FromCaptum):  # Captum draws, and takes no seed
            raise ValueError(
                f"{attributor.name} has no option {self.parameter!r}: give parameter= one of {', '.join(own)}"
            )
        return [attributor] * len(self.values)

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain the images under every setting that is new, and compare the maps."""
        settings = self.settings(attributor)
        made = {attributor: maps}
        for setting in settings:
            if setting not in made:
                made[setting] = setting.attribute(images, target)
        found = [check_maps(made[setting], images) for setting in settings]

        def similar(one: Tensor, other: Tensor) -> Tensor:
            return similarity(one, other, self.similarity, absolute=self.absolute, smooth=self.smooth)

        pairs = pairwise(found, similar)
        details = {"lowest": pairs.amin(1), "undefined": pairs.isnan().sum(1).double()}
        if self.judge is not None:
            todo = Evaluations(attributor.model, target)
            ready = [check_maps(made[s], images, channels=self.judge.keeps_channels) for s in settings]
            finish = [self.judge.prepare(todo, images, m) for m in ready]
            todo.run()
            scores = torch.stack([done().scores for done in finish], 1)
            details |= {"metric_mean": scores.mean(1), "spread": scores.std(1)}
        return Scored(pairs.mean(1), details=details)

"""Integrated gradients: the gradient averaged along the straight line from a baseline."""

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count, Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target
from ._line import integrate

Rule = Literal["gauss_legendre", "midpoint", "trapezoid", "left", "right"]
STARTS, ENDS = {"left", "trapezoid"}, {"right", "trapezoid"}  # rules that look at the line's start, and at its end


def nodes(rule: Rule, steps: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights that sum to 1, float64, `steps` of each.

    Example:
        >>> at, weights = nodes("trapezoid", 3)
        >>> at.tolist(), weights.tolist()
        ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    if rule == "gauss_legendre":
        x, w = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((1 + x) / 2), torch.from_numpy(w / 2)
    k = torch.arange(steps, dtype=torch.float64)
    even = torch.full((steps,), 1 / steps, dtype=torch.float64)
    if rule == "trapezoid":
        weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
        weights[[0, -1]] /= 2
        return k / (steps - 1), weights
    return (k + {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]) / steps, even


def refined(rule: Rule, steps: int) -> tuple[Tensor, int]:
    """The places that a finer rule has besides those of this one, and its number of steps.

    The midpoint rule has three times the steps, the others twice (the trapezoid rule one less): all that was evaluated is
    used again, with the weight that it has among as many equal ones.

    Example:
        >>> refined("trapezoid", 3)
        (tensor([0.2500, 0.7500], dtype=torch.float64), 5)
    """
    if rule == "midpoint":
        k = torch.arange(3 * steps, dtype=torch.float64)
        return (k[k % 3 != 1] + 0.5) / (3 * steps), 3 * steps
    gaps = steps - (rule == "trapezoid")
    return (torch.arange(gaps, dtype=torch.float64) + 0.5) / gaps, steps + gaps


def integrated_gradients(
    model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, at: Tensor, weights: Tensor, output: Output
) -> Tensor:
    r"""Integrate the gradient along the straight line (equation 1 of the paper).

    .. math:: (x - x') \odot \sum_k w_k \, \nabla f\bigl(x' + \alpha_k (x - x')\bigr)

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        baseline: Broadcastable to the inputs.
        target: Frozen, one row per image.
        at: The places :math:`\alpha_k`, `(K,)`.
        weights: The weights :math:`w_k`, `(K,)`.
        output: Which score.

    Returns:
        `(N, C, H, W)`. Images and steps go through the model in full batches; memory grows with neither.
    """
    total, _ = integrate(model, inputs, baseline, target, at=at, weights=weights, output=output)
    return total * (inputs - baseline)


class Integral(NamedTuple):
    """The gradient averaged along one line for each image.

    Attributes:
        mean: `(N, C, H, W)`.
        gain: The score minus the baseline's, `(N,)`.
        delta: By how much `mean * (inputs - baseline)` misses it, `(N,)`.
        steps: Gradients taken, `(N,)`.
    """

    mean: Tensor
    gain: Tensor
    delta: Tensor
    steps: Tensor


@register(
    "integrated_gradients",
    family="path",
    aliases=("ig",),
    needs="gradient",
    complete=True,
    at_most=True,
    samples="steps",
    kinds=("image", "table", "tokens"),
    small={"steps": 16},
    paper="Sundararajan, Taly and Yan 2017, arXiv:1703.01365, equation 1",
)
class IntegratedGradients(Attributor):
    r"""The gradient averaged along the straight line from a baseline, times the way.

    The map sums to the score minus the baseline's score, up to the error of the sum over steps, which is
    `details["convergence_delta"]` `(N,)`: on networks with kinks a fixed number of steps guarantees nothing, so look at
    it, or ask for a `tolerance`. A pixel that equals the baseline gets exactly 0, whatever it means to the network: with a
    black baseline, black things cannot matter. Several baselines, as `baseline=("black", "white")`, leave nothing out.

    Args:
        output: Which score is integrated.
        steps: Gradients along the line; with a `tolerance`, how many each image begins with.
        rule: How they are placed and weighed. The ends of the line are used by `trapezoid` (both), `left` and `right`.
            `gauss_legendre` is far ahead on smooth networks, and no better than `midpoint` where there are kinks.
        baseline: Where the line starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable; or several of them in a tuple, whose maps are averaged, each at full cost.
        tolerance: Steps are added for each image until the map's sum misses the difference of the scores by at most this
            part of it, or `max_steps` would be passed. For rules whose steps are among those of a finer one: `midpoint`
            (three times as many), `trapezoid`, `left` and `right` (twice). `None`: `steps` for all.
        max_steps: The most steps, with a `tolerance`.
        multiply_by_inputs: Whether the average gradient is multiplied by the way; without, the map is in score per unit
            of pixel value and sums to nothing.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details, each `(N,)`: `"convergence_delta"`, the map's sum
        minus the difference of the scores (with several baselines the mean over them); `"steps"`, the gradients taken, and,
        with a tolerance, `"converged"`, both over all baselines; `"gain"` `(N, B)`, the score minus each baseline's.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = attribution.create("ig", network, steps=4).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-6)
        True
        >>> ig = attribution.create("ig", network, rule="trapezoid", steps=3, tolerance=0.01, baseline=(0.0, 1.0))
        >>> ig.explain(torch.rand(1, 3, 2, 2), target=0).details["steps"]
        tensor([6])
    """

    steps: Annotated[int, Range(1)] = 50
    rule: Rule = "gauss_legendre"
    baseline: baselines.Baselines = "zero"
    tolerance: Annotated[float, Range(0, open=True)] | None = None
    max_steps: Count = 800
    multiply_by_inputs: bool = True
    channels: Channels = "sum"

    def validate(self) -> None:
        """The trapezoid rule needs both ends; a tolerance needs a rule that can be refined."""
        baselines.each(self.baseline)
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(
                "integrated_gradients: rule='trapezoid' needs steps of at least 2, for both ends of the line"
            )
        if self.tolerance is None:
            return
        if self.rule == "gauss_legendre":
            raise ValueError(
                "integrated_gradients: a tolerance adds steps between those that were taken, and gauss_legendre has no such "
                "places: pass rule='trapezoid' or 'midpoint'"
            )
        if self.steps > self.max_steps:
            raise ValueError(
                f"integrated_gradients: steps={self.steps} is more than max_steps={self.max_steps}: with a tolerance, steps "
                "is where an image begins"
            )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, and by how much their sum misses the difference of the scores."""
        starts = baselines.make_each(self.baseline, inputs, self.model)
        ends = masking.Evaluations(self.model, target, output=self.output)
        known = [None if self.rule in STARTS else ends.ask(masking.Clean(inputs, start)) for start in starts]
        last = None if self.rule in ENDS else ends.ask(masking.Clean(inputs))
        ends.run()
        maps: Tensor | None = None
        found = []
        for start, first in zip(starts, known, strict=True):
            one = self._along(inputs, start, target, first and first()[:, 0], last and last()[:, 0])
            own = one.mean.mul_(inputs - start) if self.multiply_by_inputs else one.mean
            maps = own if maps is None else maps.add_(own)
            found.append(one._replace(mean=torch.empty(0)))
        assert maps is not None
        gain, delta, steps = (torch.stack([one[i] for one in found], 1) for i in (1, 2, 3))
        details = {"convergence_delta": delta.mean(1), "steps": steps.sum(1), "gain": gain}
        if self.tolerance is not None:
            details["converged"] = (delta.abs() <= self.tolerance * gain.abs()).all(1)
        return Computed(maps.div_(len(starts)), details)

    def _along(
        self, inputs: Tensor, start: Tensor, target: Target, first: Tensor | None, last: Tensor | None
    ) -> Integral:
        """Integrate along one line for each image; scores of its ends that the rule does not see are given."""
        at, weights = nodes(self.rule, self.steps)
        mean, scores = integrate(self.model, inputs, start, target, at=at, weights=weights, output=self.output)
        gain = (scores[:, -1] if last is None else last) - (scores[:, 0] if first is None else first)
        gain = gain.to(mean)

        def misses(mean: Tensor, rows: Tensor | slice) -> Tensor:
            begin = start[rows] if len(start) > 1 else start
            return (mean * (inputs[rows] - begin)).flatten(1).sum(1) - gain[rows]

        delta = misses(mean, slice(None))
        steps = torch.full((len(inputs),), self.steps)
        now = self.steps
        while self.tolerance is not None:
            at, more = refined(self.rule, now)
            running = (delta.abs() > self.tolerance * gain.abs()).nonzero()[:, 0]
            if more > self.max_steps or not len(running):
                break
            begin = start[running] if len(start) > 1 else start
            rows = running.cpu()
            weights = torch.full_like(at, 1 / len(at))
            new, _ = integrate(
                self.model, inputs[running], begin, target.take(rows), at=at, weights=weights, output=self.output
            )
            # of the finer rule's weight, the new places have two thirds (midpoint) or one half
            finer = torch.lerp(mean[running], new, 2 / 3 if self.rule == "midpoint" else 1 / 2)
            mean[running], delta[running], steps[rows] = finer, misses(finer, running), more
            now = more
        return Integral(mean, gain, delta, steps)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        lines = len(options.baseline) if isinstance(options.baseline, tuple | list) else 1
        steps = options.steps if options.tolerance is None else max(options.steps, options.max_steps)
        ends = (0 if options.rule in STARTS else lines) + (0 if options.rule in ENDS else 1)
        return lines * steps + ends, lines * steps

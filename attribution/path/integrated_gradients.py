"""Integrated gradients: the gradient averaged along the straight line from a baseline."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target

Rule = Literal["gauss_legendre", "midpoint", "trapezoid", "left", "right"]


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
        `(N, C, H, W)`. Images and steps go through the model in full batches; memory does not grow with either.
    """
    difference = inputs - baseline
    total = torch.zeros_like(inputs, memory_format=torch.contiguous_format)
    n, steps = len(inputs), len(at)
    at, weights = at.to(inputs), weights.to(inputs)
    done = 0
    while done < n * steps:
        index = torch.arange(done, min(done + model.batch("gradient"), n * steps))
        rows, step = index // steps, index % steps
        shape = (-1, *[1] * (inputs.ndim - 1))
        points = torch.lerp(baseline.expand_as(inputs)[rows], inputs[rows], at[step].reshape(shape))
        _, gradients = model.gradients(points, target.take(rows), output=output)
        for row in rows.unique().tolist():
            own = rows == row
            total[row] += torch.tensordot(weights[step[own]], gradients[own].to(total.dtype), dims=1)
        done += len(index)
    return total * difference


@register(
    "integrated_gradients",
    family="path",
    aliases=("ig",),
    needs="gradient",
    complete=True,
    samples="steps",
    kinds=("image", "table", "tokens"),
    small={"steps": 16},
    paper="Sundararajan, Taly and Yan 2017, arXiv:1703.01365, equation 1",
)
class IntegratedGradients(Attributor):
    r"""The gradient averaged along the straight line from a baseline, times the way.

    The map sums to the score minus the baseline's score, up to the error of the sum over steps, which is
    `details["convergence_delta"]` `(N,)`: on networks with kinks a fixed number of steps guarantees nothing, so look at
    it. A pixel that equals the baseline gets exactly 0, whatever it means to the network: with a black baseline, black
    things cannot matter.

    Args:
        output: Which score is integrated.
        steps: Gradients along the line.
        rule: How they are placed and weighed. The ends of the line are used by `trapezoid` (both), `left` and `right`.
        baseline: Where the line starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = attribution.create("ig", network, steps=4).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-6)
        True
    """

    steps: Annotated[int, Range(1)] = 50
    rule: Rule = "gauss_legendre"
    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def validate(self) -> None:
        """The trapezoid rule needs both ends."""
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(
                "integrated_gradients: rule='trapezoid' needs steps of at least 2, for both ends of the line"
            )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, and by how much their sum misses the difference of the scores."""
        start = baselines.make(self.baseline, inputs, self.model)
        at, weights = nodes(self.rule, self.steps)
        maps = integrated_gradients(self.model, inputs, start, target, at=at, weights=weights, output=self.output)
        ends = masking.Evaluations(self.model, target, output=self.output)
        first, last = ends.ask(masking.Clean(inputs, start)), ends.ask(masking.Clean(inputs))
        ends.run()
        delta = maps.flatten(1).sum(1) - (last() - first()).squeeze(1).to(maps)
        return Computed(maps, {"convergence_delta": delta})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps + 2, options.steps

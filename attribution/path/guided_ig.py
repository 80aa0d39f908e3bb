"""Guided integrated gradients: a path that moves first what the score does not mind, kept near the straight line."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model, map_type
from ..targets import Output, Target

CLOSE = 1e-9  # of the whole way: a step this near to its goal has reached it


class Step(NamedTuple):
    """One step of a path, for all images at once.

    Attributes:
        points: Where it starts, `(N, C, H, W)`, float64.
        gradients: Of the scores there, in the inputs' dtype.
        scores: There, `(N,)`.
        after: Where it ends and the next one starts.
    """

    points: Tensor
    gradients: Tensor
    scores: Tensor
    after: Tensor


def walk(
    model: Model,
    inputs: Tensor,
    baseline: Tensor,
    target: Target,
    *,
    steps: int,
    fraction: float,
    max_dist: float,
    output: Output,
) -> Iterator[Step]:
    """The path from the baseline to the inputs, step by step; the last one ends at the inputs exactly.

    Positions are kept in float64 where the device has it, since which pixel is moved hangs on comparisons; the model
    sees them in the inputs' dtype.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        baseline: Broadcastable to the inputs.
        target: Frozen, one row per image.
        steps: Gradients along the path.
        fraction: The part of all features that is moved at a time: those with the smallest gradients.
        max_dist: How far a feature may be ahead of or behind the straight line, as a part of its way.
        output: Which score.
    """
    kind = torch.float32 if inputs.device.type == "mps" else torch.float64
    end = inputs.to(kind).flatten(1)
    start = baseline.to(kind).expand(inputs.shape).flatten(1)
    x = start
    for step in range(steps):
        points = x.reshape(inputs.shape)
        scores, gradients = model.gradients(points.to(inputs.dtype), target, output=output)
        if step == steps - 1:
            x = end
        else:
            sizes = gradients.to(kind).flatten(1).abs()
            x = _advance(x, sizes, start, end, at=(step + 1) / steps, fraction=fraction, max_dist=max_dist)
        yield Step(points, gradients, scores, x.reshape(inputs.shape))


def _advance(
    x: Tensor, sizes: Tensor, start: Tensor, end: Tensor, *, at: float, fraction: float, max_dist: float
) -> Tensor:
    """The next point of every image, `(N, M)`: `1 - at` of the whole L1 distance away from its end.

    What fell behind the band around the straight line is taken along; then the features with the smallest gradients go
    to the band's front, a fraction at a time, until the distance is right. Images whose distance is right drop out.
    """
    whole = (end - start).abs().sum(1)
    back, front = (torch.lerp(start, end, min(max(at + side, 0.0), 1.0)) for side in (-max_dist, max_dist))
    x = torch.where(end > start, torch.maximum(x, back), torch.minimum(x, back))
    k = int(fraction * (sizes.shape[1] - 1)) + 1
    rows = torch.arange(len(x), device=x.device)
    while len(rows):
        here, ahead = x[rows], front[rows]
        excess = (here - end[rows]).abs().sum(1) - whole[rows] * (1 - at)
        size = sizes[rows].masked_fill(here == ahead, torch.inf)
        chosen = (size <= size.kthvalue(k, 1).values[:, None]) & size.isfinite()
        going = (excess > CLOSE * whole[rows]) & chosen.any(1)
        reach = ((ahead - here).abs() * chosen).sum(1)
        part = excess / reach
        moved = torch.where((part >= 1)[:, None], ahead, here + (ahead - here) * part[:, None])
        x[rows] = torch.where(chosen & going[:, None], moved, here)
        rows = rows[going & (part > 1)]
    return x


@register(
    "guided_ig",
    family="path",
    aliases=("gig", "guided_integrated_gradients"),
    needs="gradient",
    complete=True,
    samples="steps",
    kinds=("image", "table", "tokens"),
    small={"steps": 16},
    paper="Kapishnikov et al. 2021, arXiv:2106.09788, algorithm 1",
)
class GuidedIG(Attributor):
    r"""The gradient summed along a path that moves first the pixels that the score minds least.

    Where the straight line of integrated gradients crosses regions of large gradients that have nothing to do with the
    image, this path goes around them, so that maps are less noisy. The gradients choose the path, so that a pixel's value
    also tells when it was moved, and the map of a sum of two scores is not the sum of their maps.

    The map sums to the score minus the baseline's score up to the error of the sum over steps, which is
    `details["convergence_delta"]` `(N,)`: each step is weighed by the gradient where it starts, so that the error shrinks
    only as fast as the steps, and look at it. A pixel that equals the baseline gets exactly 0.

    Args:
        output: Which score is integrated; the paper takes the probability.
        steps: Gradients along the path, one after the other.
        fraction: The part of all features (pixels times channels) that is moved at a time, those with the smallest
            gradients; 0 moves them one by one.
        max_dist: How far a feature may be ahead of or behind the straight line, as a part of its way: at 0 the path is
            the straight line, at 1 it may go anywhere between baseline and image.
        baseline: Where the path starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = attribution.create("guided_ig", network, steps=8).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-5)
        True
    """

    steps: Annotated[int, Range(1)] = 200
    fraction: Annotated[float, Range(0, 1)] = 0.25
    max_dist: Annotated[float, Range(0, 1)] = 0.02
    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, and by how much their sum misses the difference of the scores."""
        start = baselines.make(self.baseline, inputs, self.model)
        how: dict[str, Any] = {"steps": self.steps, "fraction": self.fraction, "max_dist": self.max_dist}
        maps, first = torch.zeros_like(inputs, dtype=map_type(inputs)), None
        for step in walk(self.model, inputs, start, target, **how, output=self.output):
            first = step.scores if first is None else first
            maps += (step.after - step.points).to(maps.dtype) * step.gradients
        last = masking.evaluate(masking.Clean(inputs), self.model, target, output=self.output).squeeze(1)
        assert first is not None
        return Computed(maps, {"convergence_delta": maps.flatten(1).sum(1) - (last - first).to(maps)})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps + 1, options.steps

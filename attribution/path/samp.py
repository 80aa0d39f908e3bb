"""SAMP: a path that moves next the pixels that are seen to move the score most."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import masking
from .._parameters import Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model, map_type
from ..targets import Output, Target
from ._extremes import Ends, ends

Directions = Literal["both", "deletion", "insertion"]
PER_STEP = 224 * 16 / (3 * 224 * 224)  # the paper's number of elements for ImageNet


class Walked(NamedTuple):
    """A path that was walked to its end.

    Attributes:
        maps: `(N, C, H, W)`: how much of the difference of the scores each feature carries.
        steps: Gradients taken, `LongTensor (N,)`.
    """

    maps: Tensor
    steps: Tensor


def samp(
    model: Model,
    start: Tensor,
    end: Tensor,
    target: Target,
    *,
    per_step: float,
    output: Output,
    eta: float | None = None,
    momentum: float = 0.0,
    momentum_attribution: bool = False,
) -> Walked:
    r"""Move the features with the largest :math:`|\partial_i f \cdot (e_i - x_i)|` to their end, until all are there.

    Each feature gets, summed over the steps, its gradient where the step starts times the way it went. Images are walked
    side by side, and those that have arrived leave the batch.

    Args:
        model: The model.
        start: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        end: Of the same shape.
        target: Frozen, one row per image.
        per_step: The part of all features that is moved in one step, at least one feature.
        output: Which score.
        eta: The longest step in L1, as a part of the whole way; a longer one is cut short, and its features are chosen
            again. `None`: no limit.
        momentum: How much of the former steps' gradients is mixed into the one that chooses.
        momentum_attribution: Whether the mixed gradient is also what is attributed.
    """
    kind = map_type(start)
    x, goal = start.to(kind).flatten(1).clone(), end.to(kind).flatten(1)
    maps, mixed = torch.zeros_like(x), torch.zeros_like(x)
    count = per_count(per_step, x.shape[1])
    limit = None if eta is None else eta * (goal - x).abs().sum(1)
    steps = torch.zeros(len(x), dtype=torch.long)
    rows = (x != goal).any(1).nonzero().squeeze(1)
    while len(rows):
        here, aim, few = x[rows], goal[rows], rows.cpu()
        _, gradients = model.gradients(
            here.reshape(-1, *start.shape[1:]).to(start.dtype), target.take(few), output=output
        )
        new = gradients.to(kind).flatten(1)
        first = (steps[few] == 0).to(rows.device)[:, None]
        mixed[rows] = torch.where(first, new, momentum * mixed[rows] + (1 - momentum) * new)
        way = aim - here
        chosen = largest((mixed[rows] * way).abs(), way != 0, count)
        there = torch.where(chosen, aim, here)
        if limit is not None:
            length = (way.abs() * chosen).sum(1)
            share = (limit[rows] / length)[:, None]
            there = torch.where(chosen & (share < 1), here + way * share, there)
        maps[rows] += (mixed[rows] if momentum_attribution else new) * (there - here)
        x[rows] = there
        steps[few] += 1
        rows = rows[(there != aim).any(1)]
    return Walked(maps.reshape(start.shape), steps)


def per_count(per_step: float, features: int) -> int:
    """How many features one step moves.

    Example:
        >>> per_count(0.25, 12), per_count(0.0, 12)
        (3, 1)
    """
    return max(1, round(per_step * features))


def largest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Which `count` entries of each row are largest of those that are `among`; of equal ones the first. All if fewer are.

    Example:
        >>> values = torch.tensor([[3.0, 1.0, 1.0, 9.0]])
        >>> largest(values, torch.tensor([[True, True, True, False]]), 2).tolist()
        [[True, True, False, False]]
    """
    values = values.masked_fill(~among, -torch.inf)
    count = min(count, values.shape[1])
    least = values.kthvalue(values.shape[1] - count + 1, 1).values[:, None]
    above, equal = values > least, values == least
    return among & (above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True))))


@register(
    "samp",
    family="path",
    needs="gradient",
    at_most=True,
    kinds=("image", "table", "tokens"),
    small={"per_step": 0.05},
    paper="Zhang, Zheng, Zhou and Lu 2024, arXiv:2401.10442, algorithm 1",
)
class SAMP(Attributor):
    r"""The gradient summed along a path that moves first the pixels that seem to move the score most.

    Of all orders in which pixels can be taken to a baseline the path looks for the one that concentrates the map on few
    of them: at every step those with the largest :math:`|\partial_i f \cdot \Delta_i|` go all the way at once. The maps of
    two such paths are averaged: one takes the image to black (deletion), the other brings it back from white (insertion).

    Few and large steps are taken, each weighed by the gradient where it starts, so that the map's sum can be far from the
    difference of the scores: `details["convergence_delta"]` `(N,)` says how far, and `samp_pp` walks more carefully. The
    path is greedy for what insertion and deletion scores reward: a method that wins there has been shown to do what it
    was made for.

    Written from the paper's text, there being no published code to compare with.

    Args:
        output: Which score.
        per_step: The part of all features (pixels times channels) that one step moves; the default is the paper's 224 * 16
            elements of an image of 3 x 224 x 224. 0 moves them one by one.
        directions: "deletion", "insertion", or the mean of both.
        baseline: Where deletion goes and insertion comes from. "extremes": deletion goes to black and insertion comes from
            white; a model without bounds takes an image's smallest and largest value, and 0 for tables and tokens. Any
            other baseline, as "mean", a number or a tensor, is both.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; its sum approaches the score minus the mean score of the
        baselines. In the details `"convergence_delta"` and `"steps"`, the gradients that were taken, `(N,)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = attribution.create("samp", network, per_step=0.25).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> found.details["steps"].tolist(), bool(found.details["convergence_delta"].abs() < 1e-5)
        ([8], True)
    """

    per_step: Annotated[float, Range(0, 1)] = PER_STEP
    directions: Directions = "both"
    baseline: Ends = "extremes"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, by how much their sum misses the difference of the scores, and the steps taken."""
        black, white = (b.expand(inputs.shape) for b in (ends(self.baseline, inputs, self.model) * 2)[:2])
        scores = masking.Evaluations(self.model, target, output=self.output)
        clean = scores.ask(masking.Clean(inputs))
        maps, steps = torch.zeros_like(inputs, dtype=map_type(inputs)), torch.zeros(len(inputs), dtype=torch.long)
        asked = []
        how = {"output": self.output, "per_step": self.per_step, **self._care()}
        if self.directions != "insertion":
            removed = samp(self.model, inputs, black, target, **how)
            maps, steps = maps - removed.maps, steps + removed.steps
            asked.append(scores.ask(masking.Clean(inputs, black)))
        if self.directions != "deletion":
            brought = samp(self.model, white, inputs, target, **how)
            maps, steps = maps + brought.maps, steps + brought.steps
            asked.append(scores.ask(masking.Clean(inputs, white)))
        scores.run()
        maps = maps / len(asked)
        expected = clean() - sum(ask() for ask in asked) / len(asked)
        delta = maps.flatten(1).sum(1) - expected.squeeze(1).to(maps)
        return Computed(maps, {"convergence_delta": delta, "steps": steps})

    def _care(self) -> dict[str, Any]:
        """How carefully `samp` walks."""
        return {}

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        paths = 2 if options.directions == "both" else 1
        features = math.prod(shape)
        steps = paths * (math.ceil(features / per_count(options.per_step, features)) + cls._more(options))
        return steps + paths + 1, steps

    @classmethod
    def _more(cls, options: Any) -> int:
        """Steps of one path that may be cut short."""
        return 0

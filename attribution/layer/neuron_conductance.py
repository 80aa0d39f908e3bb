"""Neuron conductance: what flows from each pixel through one unit of a layer to the score."""

from typing import Any

import torch
from torch import Tensor

from .. import baselines
from .._layers import AroundError, Layout, named
from .._parameters import Count
from ..attributor import Channels, Computed, register
from ..model import Model, map_type
from ..path.integrated_gradients import Rule, nodes
from ..targets import Output, Target
from ._layer import Layered

Unit = tuple[int, ...]  # (channel,) or (channel, row, column)


def neuron_conductance(
    halves: tuple[Model, Model],
    inputs: Tensor,
    start: Tensor,
    target: Target,
    *,
    layout: Layout,
    unit: Unit,
    at: Tensor,
    weights: Tensor,
    output: Output,
) -> Tensor:
    r"""Integrate, along straight lines, what reaches the score through some units.

    .. math:: (x - x') \odot \sum_k w_k \sum_{y} \frac{\partial f}{\partial y}(x_k) \, \nabla_x y(x_k)

    Args:
        halves: The network up to a layer, and the rest of it.
        inputs: `(N, C, H, W)`.
        start: Where the lines start, broadcastable to the inputs.
        target: Frozen, one row per image.
        layout: Where the layer's maps lie in what the first half hands on.
        unit: Which units y: `()` for all, `(channel,)`, or `(channel, row, column)`.
        at: Places on the lines, `(K,)`.
        weights: Their weights, `(K,)`.
        output: Which score.

    Returns:
        `(N, C, H, W)`.
    """
    trunk, head = halves
    begin, steps = start.expand_as(inputs), len(at)
    total = torch.zeros(inputs.shape, dtype=map_type(inputs), device=inputs.device)
    places, weights = at.to(inputs).reshape(-1, *[1] * (inputs.ndim - 1)), weights.to(total)

    def along(rows: Tensor, step: Tensor) -> None:
        own = target.take(rows)

        def work(part: slice, x: Tensor, run: Any) -> Tensor:
            activation = run(x)
            _, gradient = head.gradients(activation.detach(), own.take(part), output=output)
            through = layout.maps(activation) * layout.maps(gradient)
            for one in unit:
                through = through[:, one]
            through = through.sum()
            (found,) = torch.autograd.grad(through, x)
            return found

        found = torch.cat(trunk.passes(torch.lerp(begin[rows], inputs[rows], places[step]), own, work)).to(total)
        total.index_add_(0, rows.to(total.device), found * weights[step].reshape(-1, *[1] * (inputs.ndim - 1)))

    done = 0
    while done < len(inputs) * steps:
        index = torch.arange(done, min(done + trunk.batch("gradient"), len(inputs) * steps))
        along(index // steps, index % steps)
        done += len(index)
    return total * (inputs - start)


@register(
    "neuron_conductance",
    family="layer",
    needs=("gradient", "layer"),
    samples="steps",
    small={"steps": 8},
    paper="Dhamdhere, Sundararajan and Yan 2019, arXiv:1805.12233",
)
class NeuronConductance(Layered):
    """What flows from each pixel through one unit of a layer to the score, along the line from a baseline.

    All units of a layer that everything passes through add up to integrated gradients, and one unit's map sums to what
    `layer_conductance` has there; both up to the error of the sum over steps.

    Args:
        output: Which score.
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map before
            pooling, or where a connection leads around that one, the last that everything passes through.
        unit: (channel, row, column) of the layer's map, or a channel alone: all of its units. `None`: all units, which
            makes it integrated gradients.
        steps: Gradients along the line.
        rule: How they are placed and weighed, as in `integrated_gradients`.
        baseline: Where the line starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the image's channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. `details["sum"]` `(N,)` is what flows in all.

    Raises:
        ValueError: A connection leads around the layer, or there is no such unit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> one = attribution.create("neuron_conductance", network, layer="0", unit=(2, 1, 1), steps=4)
        >>> found = one.attribute(torch.rand(1, 3, 8, 8), target=0)
        >>> found.shape, int((found != 0).sum()) <= 9  # the pixels that the unit sees
        (torch.Size([1, 1, 8, 8]), True)
    """

    cut = True

    unit: int | tuple[int, ...] | None = None
    steps: Count = 50
    rule: Rule = "gauss_legendre"
    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def validate(self) -> None:
        """A unit is a channel, or a place in one."""
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(
                "neuron_conductance: rule='trapezoid' needs steps of at least 2, for both ends of the line"
            )
        if isinstance(self.unit, tuple | list):
            whole = all(isinstance(one, int) and not isinstance(one, bool) for one in self.unit)
            if len(self.unit) not in {1, 3} or not whole:
                raise ValueError(
                    f"neuron_conductance: unit={self.unit!r}: give a channel, or whole numbers (channel, row, column)"
                )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        layer = self.where(inputs)
        layout = self.model.layout(layer)
        try:
            halves = self.model.split(layer)
        except AroundError as error:
            raise ValueError(
                f"neuron_conductance runs what follows a layer by itself, and a connection leads around {layer!r}: take the "
                "end of a block, or at='final'"
            ) from error
        unit = self._chosen(layer, layout)
        layout = layout if layout.form == "tokens" else Layout("first", layout.grid)
        at, weights = nodes(self.rule, self.steps)
        maps = neuron_conductance(
            halves,
            inputs,
            baselines.make(self.baseline, inputs, self.model),
            target,
            layout=layout,
            unit=unit,
            at=at,
            weights=weights,
            output=self.output,
        )
        return Computed(maps, {"layer": layer, "sum": maps.flatten(1).sum(1)})

    def _chosen(self, layer: str, layout: Layout) -> Unit:
        """The unit, if the layer has it."""
        if self.unit is None:
            return ()
        unit = (self.unit,) if isinstance(self.unit, int) else tuple(self.unit)
        shape = (1, *(self.model.shape or ())) if layer == "input" else named(self.model.layers(), layer).shape
        sizes = (shape[1] if layout.form == "first" else shape[-1], *layout.grid)
        if any(not -size <= one < size for one, size in zip(unit, sizes, strict=False)):
            raise ValueError(
                f"neuron_conductance: unit={self.unit!r}: layer {layer!r} has {sizes[0]} channels of {sizes[1]} x {sizes[2]}"
            )
        return unit

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps, options.steps

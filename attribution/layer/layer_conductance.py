"""Conductance: what flows through each unit of a layer, from a baseline to the image."""

from typing import Any, Literal

import torch
from torch import Tensor

from .. import baselines
from .._parameters import Count
from ..attributor import Channels, Computed, register
from ..model import Model, map_type
from ..targets import Output, Target
from ._layer import Layered, along

Side = Literal["trapezoid", "left", "right"]
SIDES: dict[str, float] = {"left": 0.0, "trapezoid": 0.5, "right": 1.0}  # the later gradient's part


def layer_conductance(
    model: Model,
    inputs: Tensor,
    start: Tensor,
    target: Target,
    *,
    layer: str,
    steps: int,
    rule: Side,
    output: Output,
) -> tuple[Tensor, Tensor]:
    r"""Sum a layer's gradients times how far its activation moves.

    .. math:: \sum_{k=1}^{n} \tfrac{1}{2} \Bigl(\frac{\partial f}{\partial y}(x_{k-1}) +
        \frac{\partial f}{\partial y}(x_k)\Bigr) \odot \bigl(y(x_k) - y(x_{k-1})\bigr)

    with :math:`x_k = x' + \tfrac{k}{n} (x - x')`, both ends among them: what the activation does before the first and
    after the last of them would be lost. The mean of both gradients makes the error shrink with the square of n where
    the network is smooth.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        start: Where the lines start, broadcastable to the inputs.
        target: Frozen, one row per image.
        layer: The layer.
        steps: Parts of the line.
        rule: Which gradient goes with a part: that of its start, its end, or the mean.
        output: Which score.

    Returns:
        `(N, K, h, w)`, and the scores at all places, `(N, steps + 1)`.
    """
    totals: list[Tensor] = []
    values: list[Tensor] = []
    last: list[Tensor] = []  # the place before the batch's first: features and gradients
    part = SIDES[rule]

    def work(rows: Tensor, places: Tensor, features: Tensor, gradients: Tensor, scores: Tensor) -> None:
        if not totals:
            values.append(scores.new_zeros(len(inputs), steps + 1))
            totals.append(features.new_zeros(len(inputs), *features.shape[1:], dtype=map_type(inputs)))
            last.extend([features[:1], gradients[:1]])
        y, g = torch.cat([last[0], features]), torch.cat([last[1], gradients])
        flow = torch.lerp(g[:-1], g[1:], part) * (y[1:] - y[:-1])
        own = (places > 0).to(flow.device)  # between two images nothing flows
        totals[0].index_add_(0, rows.to(flow.device)[own], flow[own].to(totals[0]))
        values[0][rows.to(scores.device), places.to(scores.device)] = scores
        last[:] = [features[-1:].clone(), gradients[-1:].clone()]

    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    along(model, inputs, start, target, at=at, layer=layer, work=work, output=output)
    return totals[0], values[0]


@register(
    "layer_conductance",
    family="layer",
    aliases=("conductance",),
    needs=("gradient", "layer"),
    granularity="cell",
    samples="steps",
    small={"steps": 8},
    paper="Dhamdhere, Sundararajan and Yan 2019, arXiv:1805.12233",
)
class LayerConductance(Layered):
    """What flows through each unit of a layer: integrated gradients cut at the layer instead of at the pixels.

    Over a layer that everything passes through, values sum to the score minus the baseline's, up to
    `details["convergence_delta"]`; where a connection leads around it they leave out what takes that way, and the delta
    says so. The path runs straight through images: the layer's activation moves as these make it. Compare
    `layer_integrated_gradients`, whose path is straight in the activation.

    Args:
        output: Which score.
        steps: Parts of the line; there is one more gradient.
        rule: Which gradient goes with each part: "trapezoid" takes the mean of its ends, whose error is by far the
            smallest; "left" and "right" take one.
        baseline: Where the line starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the feature maps become one; "keep" leaves every one of them, `(N, K, H, W)`.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `native` has what sums to the difference of the scores, `maps` what
        is resized from it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("conductance", network, steps=4).explain(torch.rand(1, 3, 8, 8), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-5)  # all behind the layer is linear
        True
    """

    steps: Count = 50
    rule: Side = "trapezoid"
    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size, and by how much their sum misses the difference of the scores."""
        layer = self.where(inputs)
        start = baselines.make(self.baseline, inputs, self.model)
        maps, scores = layer_conductance(
            self.model,
            inputs,
            start,
            target,
            layer=layer,
            steps=self.steps,
            rule=self.rule,
            output=self.output,
        )
        delta = maps.flatten(1).sum(1) - (scores[:, -1] - scores[:, 0]).to(maps)
        return Computed(maps, {"layer": layer, "convergence_delta": delta})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps + 1, options.steps + 1

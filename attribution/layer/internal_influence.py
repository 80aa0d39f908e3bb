"""Internal influence: the gradient with respect to a layer, averaged along a path of images."""

from typing import Any

from torch import Tensor

from .. import baselines
from .._parameters import Count
from ..attributor import Channels, Computed, register
from ..model import Model, map_type
from ..path.integrated_gradients import Rule, nodes
from ..targets import Output, Target
from ._layer import Layered, along


def internal_influence(
    model: Model,
    inputs: Tensor,
    start: Tensor,
    target: Target,
    *,
    layer: str,
    at: Tensor,
    weights: Tensor,
    output: Output,
) -> Tensor:
    r"""Average a layer's gradients over the images on straight lines.

    .. math:: \sum_k w_k \, \frac{\partial f}{\partial y}\Bigl(y\bigl(x' + \alpha_k (x - x')\bigr)\Bigr)

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        start: Where the lines start, broadcastable to the inputs.
        target: Frozen, one row per image.
        layer: The layer.
        at: The places :math:`\alpha_k`, `(K,)`.
        weights: Their weights, `(K,)`.
        output: Which score.

    Returns:
        `(N, K, h, w)`.
    """
    totals: list[Tensor] = []

    def work(rows: Tensor, steps: Tensor, features: Tensor, gradients: Tensor, scores: Tensor) -> None:
        del scores
        if not totals:
            totals.append(features.new_zeros(len(inputs), *features.shape[1:], dtype=map_type(inputs)))
        own = weights[steps].to(totals[0]).reshape(-1, 1, 1, 1)
        totals[0].index_add_(0, rows.to(gradients.device), own * gradients)

    along(model, inputs, start, target, at=at, layer=layer, work=work, output=output)
    return totals[0]


@register(
    "internal_influence",
    family="layer",
    needs=("gradient", "layer"),
    granularity="cell",
    samples="steps",
    localizes=False,
    small={"steps": 8},
    paper="Leino, Sen, Datta, Fredrikson and Li 2018, arXiv:1802.03788, for a line of images",
)
class InternalInfluence(Layered):
    """How the score reacts to a layer's units, averaged over the images between a baseline and the image.

    A reaction, not a contribution: a unit that is 0 on all of these images has influence all the same, and in front of a
    global pooling all places of a map have the same. Values sum to nothing.

    Args:
        output: Which score is differentiated.
        steps: Images on the line.
        rule: How they are placed and weighed, as in `integrated_gradients`.
        baseline: Where the line starts: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the feature maps become one; "keep" leaves every one of them, `(N, K, H, W)`.

    Returns:
        `(N, 1, H, W)`, signed, in score per unit of activation.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> made = attribution.create("internal_influence", network, steps=4)
        >>> found = made.explain(torch.rand(1, 3, 8, 8), target=0)
        >>> torch.allclose(found.native, network[4].weight[0].sum() / 36, atol=1e-6)
        True
    """

    steps: Count = 50
    rule: Rule = "gauss_legendre"
    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def validate(self) -> None:
        """The trapezoid rule needs both ends."""
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(
                "internal_influence: rule='trapezoid' needs steps of at least 2, for both ends of the line"
            )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        start = baselines.make(self.baseline, inputs, self.model)
        at, weights = nodes(self.rule, self.steps)
        maps = internal_influence(
            self.model, inputs, start, target, layer=layer, at=at, weights=weights, output=self.output
        )
        return Computed(maps, {"layer": layer})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps, options.steps

"""Iterated integrated attributions: gradients averaged over images on a line and over activations on lines from there."""

from typing import Any, Literal

import torch
from torch import Tensor

from .. import baselines
from .._layers import AroundError, Layout
from .._parameters import Count
from ..attributor import Computed, register
from ..cam._cam import ClassActivation
from ..model import Model, map_type
from ..targets import Output, Target

Base = Literal["zero", "min", "official"]


def iia(
    halves: tuple[Model, Model],
    inputs: Tensor,
    start: Tensor,
    target: Target,
    *,
    layout: Layout,
    steps: int,
    base: Base,
    output: Output,
) -> Tensor:
    r"""Average gradients times activations over a grid of blends (two levels of the paper's iteration).

    .. math:: \frac{1}{n (n + 1)} \sum_{a=0}^{n} \sum_{b=1}^{n} \sum_k G(A_{ab})^k \odot (A_{ab}^k - A_{a0}^k)^+,
        \qquad A_{ab} = A_{a0} + \tfrac{b}{n} (A_a - A_{a0})

    with :math:`A_a` the layer's activation for the image :math:`x' + \tfrac{a}{n} (x - x')`.

    Args:
        halves: The network up to a layer, and the rest of it.
        inputs: `(N, C, H, W)`.
        start: The image x', broadcastable to the inputs.
        target: Frozen, one row per image.
        layout: Where the layer's maps lie in what the first half hands on.
        steps: n, on both levels.
        base: What :math:`A_{a0}` is: 0, the least activation over all a of every unit, or :math:`A_a` itself, of which the
            authors' code keeps :math:`\tfrac{1}{n + 1} \sum_a \sum_k G(A_a)^k \odot (A_a^k)^+`.
        output: Which score.

    Returns:
        `(N, 1, h, w)`.
    """
    trunk, head = halves
    places = torch.arange(steps + 1, dtype=torch.float64).to(inputs)
    parts = [1.0] if base == "official" else [b / steps for b in range(1, steps + 1)]
    found = inputs.new_zeros(len(inputs), 1, *layout.grid, dtype=map_type(inputs))

    def seen(rows: Tensor, a: Tensor) -> Tensor:
        at = places[a].reshape(-1, *[1] * (inputs.ndim - 1)) / steps
        images = torch.lerp(start.expand_as(inputs)[rows], inputs[rows], at)
        out: Tensor = trunk.outputs(images, rows=target.rows[rows], count=target.count)
        return out

    def add(rows: Tensor, activation: Tensor, least: Tensor, b: Tensor) -> None:
        points = torch.lerp(least, activation, b.reshape(-1, *[1] * (activation.ndim - 1)))
        _, gradients = head.gradients(points, target.take(rows), output=output)
        way = points if base == "official" else points - least
        product = (layout.maps(gradients) * layout.maps(way).relu()).sum(1, keepdim=True)
        found.index_add_(0, rows.to(found.device), product.to(found))

    for block in torch.arange(len(inputs)).split(head.batch("gradient")):
        least: Tensor | None = None
        for a in range(steps + 1 if base == "min" else 0):
            new = seen(block, torch.full_like(block, a))
            least = new if least is None else torch.minimum(least, new)
        for a in range(steps + 1):
            activation = seen(block, torch.full_like(block, a))
            ground = torch.zeros_like(activation) if least is None else least
            pairs = torch.cartesian_prod(torch.arange(len(block)), torch.arange(len(parts)))
            for some in pairs.split(head.batch("gradient")):
                own, b = some[:, 0], torch.tensor(parts, dtype=torch.float64)[some[:, 1]].to(activation)
                add(block[own], activation[own], ground[own], b)
    return found / (len(parts) * (steps + 1))


@register(
    "iia",
    family="path",
    aliases=("iterated_integrated_attributions",),
    needs=("gradient", "layer"),
    granularity="cell",
    samples="steps",
    small={"steps": 4},
    paper="Barkan, Elisha, Asher, Eshel and Koenigstein 2023, ICCV, two levels, for convolutional networks",
)
class IIA(ClassActivation):
    r"""Gradient times activation, averaged over images on the line from a baseline and activations on lines of their own.

    HiResCAM on a grid of blends, of which only what rises above the base counts. The rest of the network is run by itself,
    so that the layer must be one that everything passes through. Values sum to nothing.

    Args:
        output: Which score is differentiated.
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map before
            pooling, or where a connection leads around that one, the last that everything passes through.
        steps: Parts of both lines, n: n (n + 1) gradients of the network after the layer, each charged as a whole one.
        base: Where an activation's line starts: "zero", "min" (for every unit its least activation for the images on the
            line), or "official": the authors' code takes that minimum over an axis of length one, so that the line shrinks
            to its end, and what is left of it is n + 1 gradients at the activations themselves.
        baseline: Where the line of images starts; the paper's zero is the mean colour.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; not negative with `relu`.

    Raises:
        ValueError: A connection leads around the named layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("iia", network, steps=3).explain(torch.rand(1, 3, 8, 8))
        >>> found.forwards, found.backwards
        (tensor([12]), tensor([12]))
    """

    cut = True

    steps: Count = 10
    base: Base = "zero"
    baseline: baselines.Baseline = "mean"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        layout = self.model.layout(layer)
        try:
            halves = self.model.split(layer)
        except AroundError as error:
            raise ValueError(
                f"iia runs what follows a layer by itself, and a connection leads around {layer!r}: take the end of a block, "
                "or at='final'"
            ) from error
        maps = iia(
            halves,
            inputs,
            baselines.make(self.baseline, inputs, self.model),
            target,
            layout=layout if layout.form == "tokens" else Layout("first", layout.grid),
            steps=self.steps,
            base=self.base,
            output=self.output,
        )
        return self.finished([maps], layer)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        gradients = (options.steps + 1) * (1 if options.base == "official" else options.steps)
        return gradients, gradients

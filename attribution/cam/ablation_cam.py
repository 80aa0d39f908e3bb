"""Ablation-CAM: feature maps, each weighed by how far the score falls without it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import masking
from .._layers import AroundError, Layout
from .._parameters import Count
from ..attributor import Computed, register
from ..model import Model
from ..targets import Output, Target
from ._cam import ClassActivation, largest

EPSILON = 1e-6  # of the largest fall: what falls are divided by at least
SMALLEST = 1e-30  # where nothing falls


@dataclass(eq=False)
class Ablated:
    """A layer's activation without one of its feature maps, the others as they are; last of all whole.

    Args:
        images: The activation as the network's rest takes it, `(N, K, h, w)` or `(N, T, K)`.
        channels: Which of its maps are taken away, for each image.
        layout: Where the maps lie in it.
    """

    images: Tensor
    channels: list[list[int]]
    layout: Layout

    @property
    def count(self) -> list[int]:
        """One more than channels, for each image."""
        return [len(own) + 1 for own in self.channels]

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Copy the activation and set one map of each copy to 0."""
        out.copy_(self.images[row])
        maps = self.layout.grid[0] * self.layout.grid[1]
        for one, channel in zip(out, self.channels[row][items], strict=False):
            if self.layout.form == "tokens":
                one[self.layout.prefix : self.layout.prefix + maps, channel] = 0
            else:
                one[channel] = 0


def ablation_cam(
    head: Model, activation: Tensor, target: Target, *, channels: list[Tensor], layout: Layout, output: Output
) -> list[Tensor]:
    """The scores without each of some feature maps, and last of all with all, `(k + 1,)` for each image.

    Args:
        head: The network after the layer.
        activation: What the layer hands on.
        target: Frozen, one row per image.
        channels: The maps, for each image.
        layout: Where the maps lie in the activation.
        output: Which score.
    """
    source = Ablated(activation, [own.tolist() for own in channels], layout)
    return masking.evaluate_each(source, head, target, output=output)


@register(
    "ablation_cam",
    family="cam",
    aliases=("ablationcam",),
    needs=("layer",),
    granularity="cell",
    at_most=True,
    samples="top",
    paper="Desai and Ramaswamy 2020, WACV",
)
class AblationCAM(ClassActivation):
    r"""Feature maps of a late layer, each weighed by how far the score falls without it; no gradient.

    .. math:: \sum_k w_k A^k, \qquad w_k = \frac{f(A) - f(A \text{ without } A^k)}{|f(A)|}

    The paper divides by the score itself, which turns all signs where a score is negative; without its sign, a positive
    weight always speaks for the target. Where the score is near 0, weights are large, all of an image alike.
    Only what follows the layer is run again, which must be a layer that everything passes through; each run counts as a
    whole forward all the same, so that the cost is an upper bound. Maps that stand in for one another have no weight, each
    of them.

    Args:
        output: Which score.
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map before
            pooling, or where a connection leads around that one, the last that everything passes through.
        top: The most feature maps that are taken away, those with the largest mean without signs; each costs one run. The
            others have weight 0. Few layers have more than the default.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`. In the details `"weights"` `(N, K)`, and `"channels"` `(N,)`: how many maps were taken away.

    Raises:
        ValueError: A connection leads around the named layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("ablation_cam", network).explain(torch.rand(1, 3, 8, 8), target=1)
        >>> features = network[:2](torch.rand(1, 3, 8, 8))
        >>> found.details["weights"].shape, bool(found.forwards <= 5)
        (torch.Size([1, 4]), True)
    """

    cut = True

    top: Count = 2048

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        layout = self.model.layout(layer)
        try:
            trunk, head = self.model.split(layer)
        except AroundError as error:
            raise ValueError(
                f"ablation_cam runs what follows a layer again, and a connection leads around {layer!r}: take the end of a "
                "block, or at='final'"
            ) from error
        activation = head.check(trunk.outputs(inputs, rows=target.rows, count=target.count))
        layout = layout if layout.form == "tokens" else Layout("first", layout.grid)
        features = layout.maps(activation)
        channels = largest(features.abs().mean((2, 3)), self.top)
        scores = ablation_cam(head, activation, target, channels=channels, layout=layout, output=self.output)
        weights = features.new_zeros(features.shape[:2])
        for row, own, one in zip(weights, channels, scores, strict=True):
            falls = one[-1] - one[:-1]
            if len(falls):
                falls = falls / one[-1].abs().clamp_min(max(EPSILON * float(falls.abs().amax()), SMALLEST))
            row[own] = falls.to(row)
        maps = (weights[:, :, None, None] * features).sum(1, keepdim=True)
        return self.finished([maps], layer, weights=weights, channels=torch.tensor([len(own) for own in channels]))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1 + options.top, 0

"""What class activation maps share: the layer whose feature maps they weigh."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attributor import Computed
from ..layer._layer import Layered
from ..targets import Target

__all__ = ["ClassActivation", "largest"]


def largest(amounts: Tensor, top: int) -> list[Tensor]:
    """The channels of each image with the largest amounts, in their order: at most `top`, none with 0.

    Args:
        amounts: `(N, K)`, not negative.
        top: How many at most.

    Example:
        >>> [one.tolist() for one in largest(torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 4.0, 0.0]]), 2)]
        [[1, 3], [2]]
    """
    chosen = amounts.argsort(dim=1, descending=True, stable=True)[:, :top]
    return [one[own[one] > 0].sort().values for one, own in zip(chosen, amounts, strict=True)]


class ClassActivation(Layered):
    """Weighs the feature maps of one layer.

    Args:
        relu: Whether negative values are cut off.
    """

    relu: bool = True

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

    def weighed(self, inputs: Tensor, target: Target, weigh: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Computed:
        """The map that `weigh(features, gradients, scores)` makes, batch by batch; cut off at 0 if so wished."""
        layer = self.where(inputs)
        return self.finished(
            self.model.features(inputs, target, layer, lambda _, a, g, s: weigh(a, g, s), output=self.output), layer
        )

    def looked_at(self, inputs: Tensor, target: Target, layer: str) -> Tensor:
        """The layer's feature maps, `(N, K, h, w)`, without a gradient."""
        layout = self.model.layout(layer)
        return layout.maps(self.model.activations(inputs, layer, rows=target.rows, count=target.count))

    def finished(self, maps: list[Tensor], layer: str, **details: Tensor) -> Computed:
        """Maps of batches end to end, and what is told of them."""
        found = torch.cat(maps)
        return Computed(found.relu() if self.relu else found, {"layer": layer, **details})

"""What class activation maps share: the layer whose feature maps they weigh."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..attributor import Attributor, Computed, Resize
from ..model import Model
from ..targets import Target


class ClassActivation(Attributor):
    """Weighs the feature maps of one layer.

    Args:
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map before
            pooling; where only the class token is read after the last block, what stands before the last attention.
        at: The layer by its depth: "input", "middle" or "final".
        relu: Whether negative values are cut off.
        resize: How the map is brought to the image's size; `None` leaves it.
    """

    layers = "own"

    layer: str = "auto"
    relu: bool = True
    resize: Resize | None = "bilinear"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks with a layer whose map leads to the output."""
        reason = super().supports(model)
        if reason is not None or not isinstance(model.network, nn.Module):
            return reason
        if model.shape is None:
            maps = any(
                isinstance(m, nn.Conv2d) or "attention" in type(m).__name__.lower() for m in model.network.modules()
            )
            return None if maps else "no convolution and no attention was found in it"
        try:
            model.auto_layer()
        except ValueError as error:
            return str(error)
        return None

    def _refusal(self) -> str | None:
        """A layer that the user names is not looked for."""
        return (
            type(self).supports(self.model)
            if self.layer == "auto" and self.at is None
            else super().supports(self.model)
        )

    def where(self, inputs: Tensor) -> str:
        """The layer's name."""
        if self.at is not None:
            return self.model.place(self.at, inputs)
        return self.model.auto_layer(inputs) if self.layer == "auto" else self.layer

    def weighed(self, inputs: Tensor, target: Target, weigh: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Computed:
        """The map that `weigh(features, gradients, scores)` makes, batch by batch; cut off at 0 if so wished."""
        layer = self.where(inputs)
        self.model.layers(inputs)  # which shows it an image
        maps = torch.cat(
            self.model.features(inputs, target, layer, lambda _, a, g, s: weigh(a, g, s), output=self.output)
        )
        return Computed(maps.relu() if self.relu else maps, {"layer": layer})

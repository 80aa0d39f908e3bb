"""What methods that look at a layer share: which layer it is, and paths of images as they look there."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attributor import Attributor, Layers, Resize
from ..model import Model
from ..targets import Output, Target

__all__ = ["Carried", "Layered", "along"]


class Layered(Attributor):
    """Looks at the feature maps of one layer.

    Args:
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map before
            pooling; where only the class token is read after the last block, what stands before the last attention.
        at: The layer by its depth: "input", "middle" or "final".
        resize: How the map is brought to the image's size; `None` leaves it.
    """

    layers: ClassVar[Layers] = "own"
    cut: ClassVar[bool] = False  # whether the network after the layer must run by itself

    layer: str = "auto"
    resize: Resize | None = "bilinear"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks with a layer whose map leads to the output."""
        reason = super().supports(model)
        if reason is not None or not isinstance(model.network, nn.Module):
            return reason
        if model.kind != "image" and not model._takes_any:
            return f"it looks at maps of images, and the model takes {model.kind}"
        if model.shape is None:
            maps = any(
                isinstance(m, nn.Conv2d) or "attention" in type(m).__name__.lower() for m in model.network.modules()
            )
            return None if maps else "no convolution and no attention was found in it"
        try:
            model.auto_layer(cut=cls.cut)
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

    def within(self, head: Model, stride: tuple[float, float]) -> Attributor:
        """The activation that takes the image's place is the map that is looked at."""
        if self.layers == "head":
            return super().within(head, stride)
        return type(self)(head, **{**self._inner(), "layer": "input"})

    def beside(self, network: Model) -> Attributor:
        """The image is the map that is looked at: what the network makes of its part lies elsewhere."""
        if self.layers == "head":
            return super().beside(network)
        return type(self)(network, **{**self.params, "layer": "input", "at": None})

    def where(self, inputs: Tensor) -> str:
        """The layer's name."""
        if self.at is not None:
            return self.model.place(self.at, inputs)
        self.model.layers(inputs)  # which shows it an image
        return self.model.auto_layer(cut=self.cut) if self.layer == "auto" else self.layer


class Carried(Layered):
    """Runs a method of pixels on the network after a layer, with what the layer makes of its baselines as baselines.

    Args:
        layer: The layer's name in the network (`"name@k"` for its k-th call), or "auto": the last with a map that
            everything passes through.
    """

    layers = "head"
    cut = True

    layer: str | None = "auto"  # type: ignore[assignment]  # the network after the layer has none


def along(
    model: Model,
    images: Tensor,
    start: Tensor,
    target: Target,
    *,
    at: Tensor,
    layer: str,
    work: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None],
    output: Output,
) -> None:
    """Feature maps and gradients at places on the straight lines from `start` to the images, in full batches.

    Args:
        model: The model.
        images: `(N, C, H, W)`.
        start: Broadcastable to the images.
        target: Frozen, one row per image.
        at: The places, `(K,)`: 0 is the start.
        layer: Where features are looked at.
        work: `work(rows, steps, features, gradients, scores)` gets each batch: which images and places, `(n,)` each,
            `(n, k, h, w)` twice, and `(n,)`. An image's places come in their order, one image after the other.
        output: Which score.
    """
    begin, steps = start.expand_as(images), len(at)
    at = at.to(images).reshape(-1, *[1] * (images.ndim - 1))

    def look(rows: Tensor, step: Tensor) -> None:
        model.features(
            torch.lerp(begin[rows], images[rows], at[step]),
            target.take(rows),
            layer,
            lambda part, *found: work(rows[part], step[part], *found),
            output=output,
        )

    done = 0
    while done < len(images) * steps:
        index = torch.arange(done, min(done + model.batch_at(layer), len(images) * steps))
        look(index // steps, index % steps)
        done += len(index)

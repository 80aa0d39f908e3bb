"""Somebody else's maps and methods as attributors, so that every metric, study and plot takes them."""

import contextlib
from collections.abc import Iterator
from dataclasses import field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .attributor import Attributor, Channels, Computed, Layers, Resize
from .model import Model, Network
from .targets import Target

__all__ = ["FromCaptum", "FromMaps", "from_captum", "from_maps"]


class FromMaps(Attributor):
    """Maps that exist already; see `from_maps`."""

    maps: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1, 1))
    label: str = "maps"
    channels: Channels = "sum"
    resize: Resize | None = "bilinear"

    def validate(self) -> None:
        """Finite maps, one per image."""
        if self.maps.ndim not in (2, 3, 4):
            raise ValueError(f"maps must be (N, C, H, W) or (N, H, W), got shape {tuple(self.maps.shape)}")
        if not bool(self.maps.isfinite().all()):
            raise ValueError("maps hold NaN or infinite values: a metric could not rank their pixels")
        self.name = self.label

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The maps as they are."""
        del target
        if len(self.maps) != len(inputs):
            raise ValueError(f"{self.name} holds {len(self.maps)} maps and was asked about {len(inputs)} images")
        if inputs.ndim == 4 and self.maps.ndim == 2:
            raise ValueError(
                f"{self.name}: maps of shape {tuple(self.maps.shape)} are no maps of images: pass (N, C, H, W)"
            )
        maps = self.maps[:, None] if self.maps.ndim == 3 and inputs.ndim == 4 else self.maps
        return Computed(maps.to(inputs), {})

    def for_rows(self, rows: slice | Tensor) -> "FromMaps":
        """The maps of some of the images."""
        return FromMaps(self.model, **{**self.params, "maps": self.maps[rows]})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 0, 0


def from_maps(
    maps: Tensor,
    model: Model | Network,
    *,
    name: str = "maps",
    channels: Channels = "sum",
    resize: Resize | None = "bilinear",
) -> FromMaps:
    """Maps made elsewhere as an attributor for the images that they belong to.

    Args:
        maps: `(N, 1, H, W)`, `(N, C, H, W)` or `(N, H, W)`, in the order of the images, of any resolution.
        model: The model that they explain.
        name: What to call them in tables and figures.
        channels: How channels become one map.
        resize: How other resolutions are brought to the images' size.

    Example:
        >>> images = torch.rand(2, 3, 4, 4)
        >>> mine = from_maps(torch.rand(2, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), name="mine")
        >>> mine.attribute(images).shape
        torch.Size([2, 1, 4, 4])
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError("maps must be a floating point tensor")
    return FromMaps(Model.wrap(model), maps=maps.detach(), label=name, channels=channels, resize=resize)


class FromCaptum(Attributor):
    """A Captum object behind our interface; see `from_captum`."""

    layers: ClassVar[Layers] = "none"  # it names the layers of its own network

    source: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    label: str = "captum"
    channels: Channels = "sum"
    resize: Resize | None = "bilinear"

    def validate(self) -> None:
        """Anything with Captum's `attribute`."""
        if not callable(getattr(self.source, "attribute", None)):
            raise TypeError(f"{self.source!r} has no attribute() method, so it is no Captum object")
        self.name = self.label

    def with_model(self, model: "Model | Network") -> Self:
        """The same object on another `Model` of its network.

        Raises:
            ValueError: The network is another one: the object would go on explaining its own.
        """
        other = Model.wrap(model)
        if other.network is not self.model.network:
            raise ValueError(
                f"{self.label} is a Captum object, which stays on the network that it was made for: make one for the other "
                "network"
            )
        return super().with_model(other)

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Call Captum on the inputs as the network sees them."""
        if target.index is None:
            raise ValueError("a Captum object takes class numbers or index tuples, not a callable target")
        index = target.value()
        assert index is not None
        tuples = [tuple(i) for i in target.index.tolist()]
        wanted = None if self.model.output_shape == () else index if index.ndim == 1 else tuples
        scale, shift = self.model._normalisation(inputs)
        with _watched(self.source, self.model, target), torch.inference_mode(mode=False), torch.enable_grad():
            x = torch.addcmul(shift, inputs, scale).clone().requires_grad_()  # Captum warns of any other
            found = self.source.attribute(x, target=wanted, **self.options)
        found = found[0] if isinstance(found, tuple) else found
        if not isinstance(found, Tensor) or len(found) != len(inputs):
            raise ValueError(f"{self.label} returned no tensor with one map per image")
        return Computed(found.detach(), {})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        raise ValueError("what a Captum object costs is known when it has run: Explanation.forwards and .backwards")


@contextlib.contextmanager
def _watched(source: Any, model: Model, target: Target) -> Iterator[None]:
    """Count what somebody else does with a network: forwards as they run, backwards by the gradients of the outputs."""
    network = getattr(source, "forward_func", None)
    ran = {"forward": 0, "backward": 0}

    def see(out: Any) -> Any:
        if isinstance(out, Tensor) and out.ndim:
            ran["forward"] += len(out)
            if out.requires_grad:
                out.register_hook(lambda g: ran.__setitem__("backward", ran["backward"] + len(g)))
        return out

    with contextlib.ExitStack() as undo:
        if isinstance(network, nn.Module):
            for module in network.modules():
                undo.callback(setattr, module, "training", module.training)
            network.eval()
            undo.callback(network.register_forward_hook(lambda _m, _i, out: see(out)).remove)
        elif callable(network):
            source.forward_func = lambda *a, **k: see(network(*a, **k))
            undo.callback(setattr, source, "forward_func", network)
        yield
    for _ in range(ran["forward"] // len(target)):
        model._charge(target.rows, backward=False)
    for _ in range(ran["backward"] // len(target)):
        model._charge(target.rows, backward=True, forward=False)


def from_captum(
    source: Any,
    model: Model | None = None,
    *,
    name: str | None = None,
    channels: Channels = "sum",
    resize: Resize | None = "bilinear",
    **options: Any,
) -> FromCaptum:
    """A Captum object as an attributor.

    Args:
        source: For example `captum.attr.IntegratedGradients(network)`.
        model: The model, which knows the normalisation: the object gets normalised images, as its network expects.
            `None` takes the object's own network, unnormalised.
        name: What to call it in tables and figures; the class's name if not given.
        channels: How channels become one map.
        resize: How a layer's maps are brought to the images' size.
        options: Passed on to the object's `attribute`.

    Example:
        >>> from captum.attr import Saliency
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> from_captum(Saliency(network)).attribute(torch.rand(2, 3, 4, 4), target=1).shape
        torch.Size([2, 1, 4, 4])
    """
    if model is None:
        network = getattr(source, "forward_func", None)
        if network is None:
            raise TypeError("this object names no network: pass from_captum(source, model)")
        model = Model.wrap(network)
    return FromCaptum(
        model, source=source, options=options, label=name or type(source).__name__, channels=channels, resize=resize
    )

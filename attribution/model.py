"""The model as every method sees it: everything that lies between an image and the scores that explain it."""

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import torch
from torch import Tensor, fx, nn

from . import _backends, _layers, _lean
from ._backends import Backend
from ._parameters import canonical, is_plain
from .targets import Activation, Output, Target, TargetLike, read, read_all, resolve

Kind = Literal["image", "table", "tokens"]
Network: TypeAlias = nn.Module | Callable[..., Any] | str | os.PathLike[str]  # a path is an ONNX file's
RANKS: dict[Kind, int] = {"image": 4, "table": 2, "tokens": 3}
SHAPES: dict[Kind, str] = {"image": "(N, C, H, W)", "table": "(N, F)", "tokens": "(N, T, D)"}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TRIES = 24  # layers at which a network is tried to be cut
TOLERANCE = 1e-4  # of the largest output: what the fast copy may differ by

__all__ = ["Kind", "Ledger", "Model", "Network", "map_type"]

F = TypeVar("F", bound=Callable[..., Any])


def plainly(function: F) -> F:
    """Run outside the caller's gradient mode: tensors made in inference mode could never serve a gradient later."""

    @functools.wraps(function)
    def run(*args: Any, **more: Any) -> Any:
        with torch.inference_mode(mode=False), torch.no_grad():
            return function(*args, **more)

    return cast("F", run)


@dataclass(eq=False)
class Ledger:
    """What was asked of a model while it was open: evaluations per image."""

    forwards: Tensor
    backwards: Tensor


@dataclass
class _Pace:
    """Which batch size is fastest, learnt from the first calls."""

    fixed: int | None = None
    limit: int = SIZES[-1]
    best: dict[int, list[float]] = field(default_factory=dict)
    settled: int | None = None

    def size(self) -> int:
        if self.fixed is not None:
            return min(self.fixed, self.limit)
        return min(self.settled or self._next(), self.limit)

    def learning(self) -> bool:
        return self.fixed is None and self.settled is None

    def observe(self, size: int, seconds: float) -> None:
        """Keep the time per image; settle once both neighbours of the best size are known to be slower."""
        if size not in SIZES:
            return
        self.best.setdefault(size, []).append(seconds / size)
        self._next()

    def _known(self, size: int) -> bool:
        return len(self.best.get(size, ())) >= 3

    def _next(self) -> int:
        """The next size to try, from 4 outwards; larger ones must be 5% faster to be worth their memory."""
        start = 4
        if not self._known(start):
            return start
        cost = {s: min(t) for s, t in self.best.items() if self._known(s)}
        best = min(cost, key=lambda s: cost[s] * (1.05 if s > start else 1.0))
        at = SIZES.index(best)
        for neighbour in (SIZES[min(at + 1, len(SIZES) - 1)], SIZES[max(at - 1, 0)]):
            if not self._known(neighbour) and neighbour <= self.limit:
                return neighbour
        self.settled = best
        return best


class Model:
    """A network with what every method and metric needs to know of it.

    Images are in `bounds`; the model normalises them. The caller's network is never changed: it is run through a private
    copy, which is checked against it on the first call and made anew when the network's parameters change.

    Args:
        network: An `nn.Module`, any callable `Tensor -> Tensor`, or the path of an `.onnx` file, which onnxruntime runs. A
            file, or a callable that autograd cannot see through, serves the methods that need no gradients. Of a file's
            outputs the first has the scores; its other inputs are passed in `forward`.
        mean: Per-channel mean that the network's inputs are normalised with; `None`: not normalised.
        std: The standard deviation beside it.
        bounds: Smallest and largest pixel value, or `None` if there are none.
        activation: What makes probabilities of the outputs: `"softmax"`, `"sigmoid"`, or `"none"` for a network that
            already ends in one. A network with one output is taken for a sigmoid.
        kind: `"image"` (N, C, H, W), `"table"` (N, F) or `"tokens"` (N, T, D).
        adapter: Picks the tensor from the network's output: `None` (a tensor, the first of a tuple, the logits of a
            dictionary or `ModelOutput`), a key or an index, a callable, or `"raw"`: callable targets get what the
            network returns.
        forward: Further keyword arguments of the network. Tensors with one entry per image follow their images.
        batch_size: Images in one forward. `None` measures which size is fastest on the first calls.
        fast: Whether a fast copy may be used (batch norms folded, channels last): it is compared with the network on the
            first call and dropped, with a warning, where it differs.
        backend: What runs passes without gradients: `"torch"`, or, on a CPU often 1.2 to 1.5 times as fast, `"onnx"` or
            `"openvino"`, which get the network exported on the first call, once for each shape of input, and
            `"openvino-bf16"`, which is faster yet and keeps two digits. It is compared with torch there (1e-4 of the
            largest output; 0.15 for bfloat16), and torch is used, with a warning, where it differs or cannot be had;
            without one for networks in double precision. Gradients, layers and the halves of `split` are torch's.
        fingerprint: A name for the weights of a bare callable; modules have one of their own.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> model = Model(network, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> images = torch.rand(2, 3, 2, 2)
        >>> model.scores(images, 4).shape
        torch.Size([2])
        >>> scores, gradients = model.gradients(images, [0, 1], output="probability")
        >>> gradients.shape
        torch.Size([2, 3, 2, 2])
        >>> model.forwards, model.backwards
        (4, 2)
    """

    def __init__(
        self,
        network: Network,
        *,
        mean: Sequence[float] | Tensor | float | None = None,
        std: Sequence[float] | Tensor | float | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        activation: Activation = "softmax",
        kind: Kind = "image",
        adapter: str | int | Callable[[Any], Any] | None = None,
        forward: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        fast: bool = True,
        backend: Backend = "torch",
        fingerprint: str | None = None,
    ) -> None:
        if isinstance(network, Model):
            raise TypeError("network is a Model already: use it as it is")
        network = _backends.opened(network, forward or ())
        if not callable(network):
            raise TypeError(f"network must be an nn.Module, a callable or an .onnx file, not {type(network).__name__}")
        if activation not in get_args(Activation):
            raise ValueError(f"activation={activation!r}: choose one of {get_args(Activation)}")
        if kind not in RANKS:
            raise ValueError(f"kind={kind!r}: choose one of {tuple(RANKS)}")
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ValueError(f"bounds={bounds!r}: give (smallest, largest) pixel value, or None")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size={batch_size!r}: give a whole number of at least 1, or None to measure")
        if std is not None and bool((torch.as_tensor(std) <= 0).any()):
            raise ValueError(f"std={std!r}: every standard deviation must be positive")
        if isinstance(network, _backends.OnnxFile):
            network.fits(RANKS[kind], kind)
            adapter = network.outputs[0] if adapter is None and len(network.outputs) > 1 else adapter
        self.network, self.mean, self.std, self.bounds = network, mean, std, bounds
        self.activation, self.kind, self.adapter = activation, kind, adapter
        # constants of the network: nothing differentiates them, wherever they were made
        self.forward = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in (forward or {}).items()}
        self.batch_size, self.fast = batch_size, fast
        self._fingerprint = fingerprint
        self.backend = backend
        self._start()

    def _start(self) -> None:
        """Everything that is not an argument, as it is before the first call."""
        self.forwards = 0
        self.backwards = 0
        self.shape: tuple[int, ...] | None = None  # of one input, once one was seen
        self.output_shape: tuple[int, ...] | None = None  # of one output; None until seen, or where it is no tensor
        self.notes: list[str] = []
        plain = isinstance(self.network, nn.Module)
        self.differentiable: bool | None = True if plain else getattr(self.network, "differentiable", None)
        self._paces = {k: _Pace(self.batch_size) for k in ("forward", "gradient")}
        self._ledgers: list[Ledger] = []
        self._muted = 0
        self.shared: dict[Any, Any] | None = None  # what methods that run together have evaluated; see `sharing`
        self.saved = 0
        self._listeners: list[Callable[[int], Any]] = []
        self._parent: Model | None = (
            None  # whose ledger pays: a head's pass is one of the whole, its trunk's is part of it
        )
        self._affine: dict[Any, tuple[Tensor, Tensor]] = {}
        self._stamp: list[Any] | None = None
        self._sums: Tensor | None = None
        self._told: list[dict[str, Any]] = []
        self._twin: nn.Module | None = None
        self._engines: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._checked: dict[Any, tuple[int, ...] | None] = {}  # the output's shape for every shape of input seen
        self._count: int | None = None  # images in the set last seen, which further arguments are for
        self._cells: tuple[int, int] | None = None  # a grid's trunk: rows and columns
        self._splits: dict[Any, tuple[Model, Model]] = {}
        self._learnt: dict[Any, Any] = {}  # what methods found out about the network; see `learn`
        self._takes_any = False  # a head: its kind is the rank of the activation that it gets
        self._kept: Any = None  # what must live as long as an altered copy does
        self._own = False  # its network is nobody else's; see `copy`

    @classmethod
    def wrap(cls, network: "Model | Network") -> "Model":
        """The model itself, or a plain network as one: no normalisation and no bounds."""
        return network if isinstance(network, Model) else cls(network, bounds=None)

    def __repr__(self) -> str:
        network = self.network
        name = type(network).__name__ if isinstance(network, nn.Module) else getattr(network, "__name__", repr(network))
        return f"Model({name}, activation={self.activation!r}, kind={self.kind!r}, bounds={self.bounds})"

    def __getstate__(self) -> dict[str, Any]:
        keep = (
            "network",
            "mean",
            "std",
            "bounds",
            "activation",
            "kind",
            "adapter",
            "forward",
            "batch_size",
            "fast",
            "_backend",
            "_fingerprint",
            "_takes_any",
            "_cells",
            "_count",
        )
        return {k: getattr(self, k) for k in keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
        self.__dict__.update(state)

    @property
    def backend(self) -> Backend:
        """What runs passes without gradients; it can be set, and is checked on the next call."""
        return self._backend

    @backend.setter
    def backend(self, name: Backend) -> None:
        _backends.check(name, self.network)
        self._backend = name
        self._stamp = None  # everything is made anew

    # -- what the network is -------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """What tells this network from others: modules with their plain attributes, weights, or a file's bytes; normalisation.

        Raises:
            ValueError: The network is a bare callable and nobody named it.
        """
        numbers = [
            None if v is None else torch.as_tensor(v, dtype=torch.float32).flatten() for v in (self.mean, self.std)
        ]
        own = [numbers, self.bounds, self.activation, self.kind, self.adapter, self.forward]
        own += [self.backend] if self.backend in _backends.TOLERANCES else []  # the others give the same numbers
        digest = hashlib.sha256(json.dumps(canonical(own), sort_keys=True).encode())
        if self._fingerprint is not None:
            digest.update(self._fingerprint.encode())
        elif isinstance(self.network, _backends.OnnxFile):
            digest.update(self.network.digest.encode())
        elif isinstance(self.network, nn.Module):
            for module in self.network.modules():
                digest.update(f"{type(module).__module__}.{type(module).__qualname__}({module.extra_repr()})".encode())
                digest.update(json.dumps(canonical(_settings(module)), sort_keys=True).encode())
            for name, tensor in sorted(self.network.state_dict().items()):
                if isinstance(tensor, Tensor):
                    digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            raise ValueError(
                "a bare callable has no fingerprint, so results on disk could not be told apart: "
                "pass Model(..., fingerprint='a name for these weights')"
            )
        return digest.hexdigest()[:32]

    @property
    def device(self) -> torch.device | None:
        """Where the network's first parameter lies; `None` for a bare callable."""
        tensor = self._example()
        return None if tensor is None else tensor.device

    def _example(self) -> Tensor | None:
        if not isinstance(self.network, nn.Module):
            return None
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        return next((t for t in tensors if t.is_floating_point()), None)

    @plainly
    def refresh(self) -> None:
        """Make the private copies anew if the network changed since they were made; cheap where it did not."""
        network = self.network
        if self._own or not isinstance(network, nn.Module):
            return
        tensors = [*network.parameters(), *network.buffers()]
        hooks = [h for m in network.modules() for kind in _lean.HOOKS for h in getattr(m, kind).values()]
        stamp: list[Any] = [
            *network.modules(),
            *hooks,
            *tensors,
            *(t._version for t in tensors if not t.is_inference()),
        ]
        same = self._stamp is not None and len(stamp) == len(self._stamp)
        same = same and all(
            a is b or (type(a) is int and a == b) for a, b in zip(stamp, self._stamp or [], strict=False)
        )
        # writing to a parameter's `.data` moves no version: its digest does
        floats = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
        sums = torch.stack([_digest(t).to(floats[0].device) for t in floats]) if floats else None
        # what `forward` goes by; where the network itself runs, for want of a copy, it may count its own calls
        told = [_settings(m) for m in network.modules()]
        same = same and (self._twin is None or told == self._told)
        if same and (sums is None or (self._sums is not None and torch.equal(sums, self._sums))):
            return
        self._stamp, self._sums, self._told = stamp, sums, copy.deepcopy(told)
        self._twin = _lean.shadow(network)
        self._engines = None
        self._checked.clear()
        self._splits.clear()
        self._learnt.clear()
        self.output_shape = None
        if self.shared is not None:
            self.shared.clear()  # what another network was seen to do

    # -- checking what comes in ----------------------------------------------------------------------------------------

    def check(self, images: Tensor) -> Tensor:
        """The images, if they are what the model takes: the right rank, floating point, finite, inside the bounds.

        Raises:
            TypeError: Not a tensor of floating point numbers.
            ValueError: Anything else that is wrong, in a sentence that says what to do.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"inputs must be a tensor of shape {SHAPES[self.kind]}, not {type(images).__name__}")
        if self._takes_any:
            self.kind = next((k for k, rank in RANKS.items() if rank == images.ndim), self.kind)
        if images.ndim != RANKS[self.kind]:
            one = images.ndim == RANKS[self.kind] - 1
            hint = "add the batch axis with inputs[None]" if one else f"this model's kind is {self.kind!r}"
            raise ValueError(f"inputs must be {SHAPES[self.kind]}, got shape {tuple(images.shape)}: {hint}")
        if not images.is_floating_point():
            raise TypeError(
                f"inputs are {images.dtype}: convert them to floating point in the model's bounds, "
                "for 8-bit images as images.float() / 255"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            number = 1 if values is None else torch.as_tensor(values).numel()
            axis = images.shape[-1 if self.kind == "tokens" else 1]
            if number not in {1, axis}:
                raise ValueError(
                    f"the model's {name} has {number} values and the inputs have {axis} channels: pass one for each, or one"
                )
        if images.numel() == 0:
            raise ValueError(f"inputs are empty, shape {tuple(images.shape)}: pass at least one")
        if not bool(images.isfinite().all()):
            bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(f"inputs {bad[:5]} hold NaN or infinite values: clean or drop them first")
        if self.bounds is not None:
            low, high = self.bounds
            slack = 0.01 * (high - low)
            least, most = float(images.min()), float(images.max())
            if least < low - slack or most > high + slack:
                raise ValueError(
                    f"inputs go from {least:.3g} to {most:.3g}, outside the model's bounds [{low:g}, {high:g}]: pass images "
                    "that are not normalised yet and give mean and std to Model, or pass Model(bounds=...)"
                )
        if self._cells is not None and any(size % n for size, n in zip(images.shape[2:], self._cells, strict=True)):
            raise ValueError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels do not divide into a grid of {self._cells[0]} x "
                f"{self._cells[1]} cells: crop or resize them first"
            )
        return images.detach().clone() if images.is_inference() else images.detach()

    @plainly
    def resolve(self, images: Tensor, target: TargetLike | Target = None) -> Target:
        """Check the target and freeze it: `None` becomes the class that the network names on these images."""
        if isinstance(target, Target):
            if len(target) != len(images):
                raise ValueError(f"the target is for {len(target)} rows, the inputs are {len(images)}")
            return target
        self.refresh()
        self._prepare(images, torch.arange(len(images)), len(images))
        if target is None:
            with self.uncounted():
                outputs = self.outputs(images, rows=torch.arange(len(images)))
            if not isinstance(outputs, Tensor) or outputs.ndim > 2:
                raise ValueError(
                    f"target=None takes the largest class of an (N, C) output; this one is {_describe(outputs)}: "
                    "pass an index tuple or a callable `outputs -> (N,)`"
                )
            target = outputs.reshape(len(images), -1).argmax(1).cpu()
        return resolve(target, len(images), self.output_shape)

    @plainly
    def know(self, images: Tensor, target: Target) -> None:
        """Learn what the outputs are, if inputs of this shape were not seen: what checks of a method may ask for."""
        self._enter(images)
        self._prepare(images, target.rows, target.count)

    # -- the three calls -----------------------------------------------------------------------------------------------

    @plainly
    def outputs(self, images: Tensor, *, rows: Tensor | None = None, count: int | None = None) -> Any:
        """What the network returns for these images, `(N, ...)`, adapted and without gradients.

        Args:
            images: `(N, C, H, W)`.
            rows: `LongTensor (N,)`, the image that each one is made from: it pays, and further arguments are its own.
            count: How many images there are in all.
        """
        if rows is None:
            images = self.check(images)
            self.refresh()
            rows = torch.arange(len(images))
        self._enter(images)
        parts = self._map(images, rows, count or len(images), "forward", lambda _part, x, run: run(x))
        self._charge(rows, backward=False)
        return _join([_clone(p) for p in parts])

    @plainly
    def scores(
        self, images: Tensor, target: TargetLike | Target = None, *, output: Output = "logit", every: bool = False
    ) -> Tensor:
        """One score per image, `(N,)`, on the network's device, in inference mode.

        Args:
            images: `(N, C, H, W)` in the model's bounds.
            target: Any form of target, or one that `resolve` has frozen: then nothing is checked again.
            output: `"logit"`, `"probability"`, `"log_probability"` or `"margin"`.
            every: Whether to score every class, `(N, classes)`, instead of the target.
        """
        images, frozen = self._freeze(images, target, output)

        def work(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
            out = run(x)
            return (
                read_all(out, output, self.activation)
                if every
                else read(out, frozen.take(part), output, self.activation)
            )

        parts = self._map(images.detach(), frozen.rows, frozen.count, "forward", work)
        self._charge(frozen.rows, backward=False)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).clone()

    @plainly
    def gradients(
        self, images: Tensor, target: TargetLike | Target = None, *, output: Output = "logit"
    ) -> tuple[Tensor, Tensor]:
        """Scores `(N,)` and their gradients with respect to the images, `(N, C, H, W)`; nothing else gets a gradient.

        Raises:
            ValueError: The network is a callable that autograd cannot see through.
        """
        images, frozen = self._freeze(images, target, output)

        def differentiate(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
            score = read(run(x), frozen.take(part), output, self.activation)
            found = torch.autograd.grad(score.sum(), x, allow_unused=True)[0] if score.requires_grad else None
            if found is None:
                self.differentiable = False
                raise ValueError(
                    "the scores do not depend on the input in a way autograd can follow: use a method that needs no "
                    "gradients, attribution.available(needs=())"
                )
            return score.detach(), found

        parts = self._map(images.detach(), frozen.rows, frozen.count, "gradient", differentiate)
        self._charge(frozen.rows, backward=True)
        if len(parts) == 1:
            return cast("tuple[Tensor, Tensor]", parts[0])
        return torch.cat([s for s, _ in parts]), torch.cat([g for _, g in parts])

    @plainly
    def passes(
        self,
        images: Tensor,
        target: Target,
        work: Callable[[slice, Tensor, Callable[[Tensor], Any]], Any],
        *,
        forwards: int = 1,
        backwards: int = 1,
        fast: bool = True,
    ) -> list[Any]:
        """Batches of images with the network in a method's own hands: for rules on operations and for inner values.

        Args:
            images: Checked before, `(N, C, H, W)`.
            target: Frozen, one row per image.
            work: `work(part, x, run)` gets each batch, with gradients on: `part` says which images they are, `x` has
                them as a leaf that takes a gradient, and `run(x)` is what the network, normalisation and adapter
                included, makes of them or of others of their shape. It is called again where memory ran out.
            forwards: What `work` runs for each image, and
            backwards: how often it goes back.
            fast: Whether it may be the fast copy, with batch norms folded.

        Returns:
            What `work` returned, batch by batch.
        """
        self._enter(images)
        engine = None if fast else self._plain_engine()
        parts = self._map(images.detach(), target.rows, target.count, "gradient", work, engine=engine)
        for i in range(max(forwards, backwards)):
            self._charge(target.rows, forward=i < forwards, backward=i < backwards)
        return parts

    @plainly
    def learn(self, key: Any, work: Callable[[Tensor, Callable[[Tensor], Any]], Any]) -> Any:
        """What a method finds out about the network itself: once for each shape of input, at nobody's cost.

        Args:
            key: Its name.
            work: `work(x, run)` as in `passes`, on one arbitrary input of the shape last seen.

        Returns:
            What `work` returned, until `refresh` finds the network changed.

        Raises:
            ValueError: The model has not seen an input.
        """
        if self.shape is None:
            raise ValueError("this is known once the model has seen an input")
        at = (key, self.shape)
        if at not in self._learnt:
            one = Target(torch.zeros(1, dtype=torch.long), self._count or 1)
            with self.uncounted():
                self._learnt[at] = self.passes(self._blank(), one, lambda _part, x, run: work(x, run))[0]
        return self._learnt[at]

    @plainly
    def activations(
        self, images: Tensor, layer: str, *, rows: Tensor | None = None, count: int | None = None
    ) -> Tensor:
        """What `layer` hands on for these images, without gradients. Names are the network's own; see `layers`.

        Args:
            images: `(N, C, H, W)`.
            layer: Its name.
            rows: As in `outputs`, and
            count: likewise.
        """
        if rows is None:
            images = self.check(images)
            self.refresh()
        self._enter(images)
        self._count = count or len(images)
        if self._own:  # it would be cut anew after every change
            return self._seen(images, layer, torch.arange(len(images)) if rows is None else rows, self._count)
        key = ("trunk", layer)
        if key not in self._splits:
            network = self._module("activations")
            with _lean.evaluating(network):
                trunk = _layers.trunk(network, layer, self.forward)
            self._splits[key] = self._halves(trunk, trunk, layer)
            self._splits[key][0]._parent = self
        out: Tensor = self._splits[key][0].outputs(images, rows=rows, count=count)
        return out

    def _seen(self, images: Tensor, layer: str, rows: Tensor, count: int) -> Tensor:
        """A layer's output in whole passes of the network."""
        network = self._module("activations")
        tap = _layers.Tap(network, *_layers.parse(layer))

        def look(_part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
            run(x)
            return tap.leaf.clone()

        with _lean.evaluating(network):
            found = self._map(images.detach(), rows, count, "forward", look, engine=tap)
        self._charge(rows, backward=False)
        return torch.cat(found)

    # -- layers --------------------------------------------------------------------------------------------------------

    @plainly
    def layers(self, images: Tensor | None = None) -> "list[_layers.Call]":
        """Every module call of one forward, in the order of execution, with the shape of its output.

        Args:
            images: `(N, C, H, W)`; needed only if the model has not seen one.
        """
        self.refresh()
        if images is not None and self._has_seen(images):
            self._enter(images)  # what a method makes of images may lie outside the bounds
        elif images is not None:
            images = self.check(images)
            self._enter(images)
            self._prepare(images, torch.arange(len(images)), len(images))
        network = self._module("layers")
        if self.shape is None:
            raise ValueError("layers are known once the model has seen an input: pass layers(images)")
        key = ("layers", self.shape)
        if key not in self._learnt:
            with _lean.evaluating(network):
                self._learnt[key] = _layers.calls(network, lambda n: self.try_out(n, self._blank()))
        found: list[_layers.Call] = self._learnt[key]
        return found

    @plainly
    def auto_layer(self, images: Tensor | None = None, *, cut: bool = False) -> str:
        """Where class activation maps are read: the last layer with a map, before pooling.

        Where only the class token is read after the last block, no map of its tokens says anything of the class: then it is
        what stands before the last attention.

        Args:
            images: Needed only if the model has not seen one.
            cut: Whether the rest of the network must run by itself: where a connection leads around that layer, it is
                `place("final")` then.

        Raises:
            ValueError: There is none; the message lists what could be passed.
        """
        found = self.layers(images)
        assert self.shape is not None
        key = ("auto", self.shape)
        if key not in self._learnt:
            places = _layers.spatial(found, self.shape)
            if not places:
                raise _layers.none_found(found, self.shape, "no layer was found with a map of the image")
            name: str | None = found[places[-1]].name
            if name is not None and self.layout(name).form == "tokens" and not self._reaches(name):
                name = _layers.before_attention(found)
            if name is None or _layers.layout(_layers.named(found, name), found, self.shape) is None:
                raise _layers.none_found(found, self.shape, "no layer was found whose map leads to the output")
            self._learnt[key] = name
        name = str(self._learnt[key])
        return name if not cut or self._can_be_cut(name) else self.place("final")

    @plainly
    def place(self, at: Literal["input", "middle", "final"], images: Tensor | None = None) -> str:
        """The layer at a depth where this network can be cut in two.

        Args:
            at: `"input"`; `"final"`, the last layer with a map that everything passes through and that leads to the output;
                `"middle"`, the one with half of that one's layers before it.
            images: Needed only if the model has not seen one.

        Raises:
            ValueError: There is none.
        """
        if at == "input":
            return at
        found = self.layers(images)
        assert self.shape is not None
        key = ("place", at, self.shape)
        if key not in self._learnt:
            network = self._module("layers")
            with _lean.evaluating(network):
                through = _layers.cuts(network, self.forward)
            names = {c.same for c in found if through is None or c.name in through}
            places = [i for i in _layers.spatial(found, self.shape) if found[i].same in names]
            if at == "final":
                tried = [found[i].name for i in reversed(places)]
            else:
                depth = {found[i].name: sum(c.parameters for c in found[: i + 1]) for i in reversed(places)}
                half = depth[self.place("final")] / 2
                tried = sorted((n for n in depth if depth[n] <= 2 * half), key=lambda n: _rank(depth[n] / half - 1, n))
            name = next((n for n in tried[:TRIES] if self._can_be_cut(n)), None)
            if name is None:
                raise _layers.none_found(
                    found, self.shape, f"no layer was found {at} in this network that all passes through"
                )
            self._learnt[key] = name
        return str(self._learnt[key])

    def _can_be_cut(self, name: str) -> bool:
        """Whether the network can be cut at a layer whose map leads to the output."""
        key = ("cut", name, self.shape)
        if key not in self._learnt:
            try:
                self.split(name)
            except ValueError:
                self._learnt[key] = False
            else:
                self._learnt[key] = self.layout(name).form != "tokens" or self._reaches(name)
        return bool(self._learnt[key])

    def layout(self, layer: str) -> "_layers.Layout":
        """Where the map lies in what a layer hands on.

        Raises:
            ValueError: There is no such layer, or it has no map of the image.
        """
        found = self.layers()
        assert self.shape is not None
        if layer == "input":
            return _layers.Layout("first", (self.shape[1], self.shape[2]))
        call = _layers.named(found, layer)
        made = _layers.layout(call, found, self.shape)
        if made is None:
            raise _layers.none_found(found, self.shape, f"layer {layer!r} hands on {call.shape}, no map of the image")
        return made

    def _reaches(self, layer: str) -> bool:
        """Whether the outputs depend on the map that a layer hands on, on an arbitrary image."""
        network = self._module("layers")
        tap = _layers.Tap(network, *_layers.parse(layer))
        blank = self._blank()
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(blank.shape, generator=generator, dtype=blank.dtype)
        with _lean.evaluating(network), torch.enable_grad():
            out = self.try_out(tap, image)
            if not isinstance(out, Tensor) or not out.requires_grad:
                return not isinstance(out, Tensor)  # an output that cannot be looked at may depend on it
            weights = torch.rand(out.shape, generator=generator).to(out)
            (gradient,) = torch.autograd.grad((out * weights).sum(), tap.leaf, allow_unused=True)
        return gradient is not None and bool(self.layout(layer).maps(gradient).any())

    def batch_at(self, layer: str) -> int:
        """How many images to put into the next call of `features`: what the rest of the network is fastest with.

        Args:
            layer: The layer's name.
        """
        try:
            return self.split(layer)[1].batch("gradient")
        except _layers.AroundError:
            return self.batch("gradient")

    @plainly
    def features(
        self,
        images: Tensor,
        target: Target,
        layer: str,
        work: Callable[[slice, Tensor, Tensor, Tensor], Any],
        *,
        output: Output = "logit",
    ) -> list[Any]:
        """A layer's feature maps and the scores' gradients with respect to them, batch by batch.

        The way back ends at the layer, whatever leads around it.

        Args:
            images: Checked before, `(N, C, H, W)`.
            target: Frozen, one row per image.
            layer: The layer's name.
            work: `work(part, features, gradients, scores)` gets each batch: which images, `(n, K, h, w)` twice, `(n,)`.
            output: Which score.

        Returns:
            What `work` returned, batch by batch.
        """
        self.know(images, target)
        layout = self.layout(layer)
        try:
            trunk, head = self.split(layer)
        except _layers.AroundError:
            return self._tapped(images, target, layer, work, output)
        tokens = layout if layout.form == "tokens" else _layers.Layout("first", layout.grid)
        found = []
        at = 0
        while at < len(images):
            part = slice(at, min(at + self.batch_at(layer), len(images)))
            activation = trunk.outputs(images[part], rows=target.rows[part], count=target.count)
            scores, gradients = head.gradients(activation, target.take(part), output=output)
            found.append(work(part, tokens.maps(activation), tokens.maps(gradients), scores))
            at = part.stop
        return found

    def _tapped(self, images: Tensor, target: Target, layer: str, work: Any, output: Output) -> list[Any]:
        """The same where a connection leads around the layer: in one pass of the whole network."""
        layout = self.layout(layer)
        network = self._module("features")
        tap = _layers.Tap(network, *_layers.parse(layer))

        def look(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Any:
            score = read(run(x.detach()), target.take(part), output, self.activation)
            gradient = None
            if score.requires_grad:  # otherwise the layer does not lead to the output
                (gradient,) = torch.autograd.grad(score.sum(), tap.leaf, allow_unused=True)
            gradient = torch.zeros_like(tap.leaf) if gradient is None else gradient
            with torch.no_grad():
                return work(part, layout.maps(tap.leaf.detach()), layout.maps(gradient), score.detach())

        with _lean.evaluating(network):
            found = self._map(images.detach(), target.rows, target.count, "gradient", look, engine=tap)
        self._charge(target.rows, backward=True)
        return found

    @plainly
    def split(
        self,
        at: str,
        *,
        grid: int | tuple[int, int] | None = None,
        head: int | None = None,
        crop: str | None = None,
    ) -> "tuple[Model, Model]":
        """Cut the network at a layer: `(trunk, head)`, two models.

        The trunk takes images and its `outputs` are the layer's activation, channels first, where a layer has maps and the
        model has seen an image; the head takes that activation. A pass of the head is charged as one of the whole, to
        which the trunk's belongs. With `grid`, the trunk runs every cell of an image of `grid` x `grid` cells by itself and
        puts the activations side by side, and the head sees the cell number `head` (row by row) and nothing else.

        Args:
            at: A layer's name (`"name@k"` for its k-th call), or `"input"`.
            grid: Cells per side, or (rows, columns).
            head: Which cell the head sees; needs `grid`.
            crop: A later layer: the trunk, and the head up to there, see the whole image as one, and what follows sees the
                cell of that layer's map.

        Raises:
            ValueError: No such layer (the message lists close ones), or a skip connection leads around it.
        """
        self.refresh()
        if (grid is None) != (head is None):
            raise ValueError("grid and head go together: which cell of which grid")
        if crop is not None and head is None:
            raise ValueError("crop cuts a cell out of a layer's map: say which, with grid and head")
        key = (at, grid, head, self.shape) if crop is None else (at, (grid, crop), head, self.shape)
        if (refused := self._learnt.get(("around", key))) is not None:
            raise refused  # cutting is tried once
        if key not in self._splits:
            network = self._module("split")
            rows, columns = (grid, grid) if isinstance(grid, int) else (grid or (1, 1))
            if head is not None and not 0 <= head < rows * columns:
                raise ValueError(f"head={head}: a grid of {rows} x {columns} has cells 0..{rows * columns - 1}")
            with _lean.evaluating(network):
                try:
                    trunk, rest = _layers.split(self, network, at)
                except _layers.AroundError as error:
                    self._learnt["around", key] = error.with_traceback(None)
                    raise
            if self.shape is not None and at != "input" and self._channels_last(at):
                trunk, rest = _layers.FirstTrunk(trunk), _layers.FirstHead(rest)
            if crop is not None and head is not None:
                between, tail = self._between(at, crop)
                rest = _layers.PartHead(between, _layers.GridHead(tail, rows, columns, head))
            elif head is not None:
                trunk, rest = _layers.GridTrunk(trunk, rows, columns), _layers.GridHead(rest, rows, columns, head)
            shapes = [k[3] for k in self._splits if len(k) == 4]
            if self.shape not in shapes:  # halves for the shape seen last and this one: each has weights of its own
                self._splits = {k: v for k, v in self._splits.items() if len(k) != 4 or k[3] == shapes[-1]}
            self._splits[key] = self._halves(trunk, rest, at)
            self._splits[key][0]._cells = None if grid is None else (rows, columns)
        return self._splits[key]

    def _between(self, at: str, crop: str) -> tuple[nn.Module, nn.Module]:
        """What follows the layer `at`, cut once more: up to the layer `crop`, channels first, and what follows that."""
        if self.layout(crop).form == "tokens":
            raise ValueError(f"layer {crop!r} hands on tokens, and a cell is cut out of a map: choose another layer")
        trunk, whole = self.split(at)
        network = whole._module("split")
        if at == crop:
            return nn.Identity(), network
        if whole.shape is None:
            with self.uncounted():
                whole.shape = tuple(
                    trunk.outputs(self._blank(), rows=torch.zeros(1, dtype=torch.long), count=1).shape[1:]
                )
        with _lean.evaluating(network):
            between, tail = _layers.split(whole, network, _layers.inner_name(network, self.layers(), at, crop))
        return (_layers.FirstTrunk(between), _layers.FirstHead(tail)) if self._channels_last(crop) else (between, tail)

    def _channels_last(self, layer: str) -> bool:
        found = self.layers()
        assert self.shape is not None
        made = _layers.layout(_layers.named(found, layer), found, self.shape)
        return made is not None and made.form == "last"

    def _halves(self, trunk: nn.Module, rest: nn.Module, at: str) -> "tuple[Model, Model]":
        whole: dict[str, Any] = {"mean": self.mean, "std": self.std, "bounds": self.bounds, "kind": self.kind}
        how: dict[str, Any] = {"batch_size": self.batch_size, "fast": self.fast}
        if at == "input":
            first = Model(trunk, bounds=self.bounds, kind=self.kind, adapter=_layers.identity, **how)
            second = Model(
                rest, **whole, activation=self.activation, adapter=self.adapter, forward=self.forward, **how
            )  # fmt: skip
        else:
            first = Model(trunk, **whole, adapter=_layers.identity, forward=self.forward, **how)
            wanted = _layers.arguments(rest)
            forward = {k: v for k, v in self.forward.items() if k in wanted}
            second = Model(
                rest, bounds=None, activation=self.activation, adapter=self.adapter, forward=forward, **how
            )  # fmt: skip
            second._takes_any = True
        first._count = second._count = self._count
        second._parent = self
        return first, second

    @plainly
    def variant(self, name: str, change: Callable[[nn.Module], Any]) -> "Model":
        """This model over a private copy of its network that `change` has altered; its evaluations are counted here.

        Made on the first call, and anew when the network has changed. It runs without the fast copy, which is compared by
        what it returns alone: an altered gradient would not be missed.

        Args:
            name: Of what is changed: the same change has the same name.
            change: Called with the copy, whose parameters share the network's memory: it may replace them, never write to
                them. What it returns is kept as long as the copy is.

        Raises:
            ValueError: The network is a bare callable, or cannot be copied.
        """
        self.refresh()
        key = ("variant", name)
        if key not in self._splits:
            network = _lean.shadow(self._module(name))
            if network is None:
                raise ValueError(f"{name} needs a private copy of the network, and this one cannot be copied")
            kept = change(network)
            made = self._halves(network, network, "input")[1]
            made.fast, made._kept = False, kept
            self._splits[key] = made, made
        return self._splits[key][1]

    @plainly
    def copy(self) -> "Model":
        """This model over a copy of its network, for one who writes to the copy and calls `changed` then.

        No tensor is shared with the network. What is evaluated is counted here too. The copy is run as it is: a fast one, or
        an export, of a network that changes again and again takes longer than it saves.

        Raises:
            ValueError: The network is a bare callable, or cannot be copied.
        """
        network = _lean.shadow(self.network) if isinstance(self.network, nn.Module) else None
        if network is None:
            raise ValueError("this network cannot be copied: a bare callable, or a module that deepcopy fails on")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()
        made = object.__new__(type(self))
        plain = {"network": network, "fast": False, "_backend": "torch", "_fingerprint": None}
        made.__setstate__({**self.__getstate__(), **plain})
        made._twin, made._own, made._parent, made._paces = network, True, self, self._paces
        return made

    def changed(self) -> None:
        """Forget what was found out of the weights of a copy, which have been written to."""
        self._splits.clear()
        self._learnt.clear()

    def _module(self, what: str) -> nn.Module:
        if not isinstance(self.network, nn.Module):
            raise ValueError(f"{what} needs an nn.Module: a bare callable has no layers")
        return self._twin if self._twin is not None else self.network

    # -- cost ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ledger(self, count: int) -> Iterator[Ledger]:
        """Count what is asked for each of `count` images while this is open."""
        ledger = Ledger(torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long))
        self._ledgers.append(ledger)
        try:
            yield ledger
        finally:
            self._ledgers.remove(ledger)

    def _charge(self, rows: Tensor, *, backward: bool, forward: bool = True, paid: bool = True) -> None:
        if self._muted or not len(rows):
            return
        for tell in self._listeners:
            tell(len(rows) * (forward + backward))
        self.forwards += len(rows) if forward and paid else 0
        self.backwards += len(rows) if backward else 0
        rows = rows.cpu()
        for ledger in self._ledgers:
            one = torch.ones_like(rows)
            if forward:
                ledger.forwards.index_add_(0, rows, one)
            if backward:
                ledger.backwards.index_add_(0, rows, one)
        if self._parent is not None:
            self._parent._charge(rows, backward=backward, forward=forward, paid=paid)

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Within, methods that evaluate the same things pay for them once; each one's own ledger still counts them."""
        outer, self.shared = self.shared, {} if self.shared is None else self.shared
        try:
            yield
        finally:
            self.shared = outer

    def reuse(self, rows: Tensor) -> None:
        """Count evaluations of these images that somebody else had paid for already."""
        self.saved += 0 if self._muted else len(rows)
        self._charge(rows, backward=False, paid=False)

    @contextlib.contextmanager
    def listen(self, tell: Callable[[int], Any]) -> Iterator[None]:
        """Call `tell(n)` after every n evaluations while this is open: what a progress bar shows."""
        self._listeners.append(tell)
        try:
            yield
        finally:
            self._listeners.remove(tell)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Run without counting: what the model finds out for itself is nobody's cost."""
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def batch(self, purpose: Literal["forward", "gradient"] = "forward") -> int:
        """How many images to put into the next call: what was measured to be fastest, or what is being tried."""
        return self._paces[purpose].size()

    def _freeze(self, images: Tensor, target: TargetLike | Target, output: Output) -> tuple[Tensor, Target]:
        """Check what comes from outside; what a method hands on was checked before."""
        _check_output(output)
        if not isinstance(target, Target):
            images = self.check(images)
            target = self.resolve(images, target)
        self._enter(images)
        return images, target

    # -- running -------------------------------------------------------------------------------------------------------

    def _enter(self, images: Tensor) -> None:
        """What must be known before anything runs."""
        self.shape = tuple(images.shape[1:])
        if isinstance(self.network, nn.Module) and self._stamp is None:
            self.refresh()

    @_lean.seeded_aside()
    def _map(
        self,
        images: Tensor,
        rows: Tensor,
        count: int,
        purpose: Literal["forward", "gradient"],
        work: Callable[[slice, Tensor, Callable[[Tensor], Any]], Any],
        *,
        engine: Callable[..., Any] | None = None,
    ) -> list[Any]:
        """Run all images in batches of the measured size; halve the batch when memory runs out.

        `work(slice, input, run)` runs a batch and says what is kept of it; for gradients, the input is a leaf.
        """
        self._prepare(images, rows, count)
        engine = self._engine(purpose) if engine is None else engine
        pace = self._paces[purpose]
        # a network that keeps what it made on its first call must not keep tensors that no gradient can use
        lean = isinstance(engine, fx.GraphModule) and engine is not self._twin and self._engines is not None
        done = []
        at = 0
        while at < len(images):
            size = min(pace.size(), len(images) - at)
            part = slice(at, at + size)
            timed = pace.learning() and size == pace.size()
            start = self._clock() if timed else 0.0
            run = functools.partial(self._through, engine, rows=rows[part], count=count)
            try:
                if purpose == "forward":
                    with torch.inference_mode(mode=lean):
                        x = images[part]
                        done.append(work(part, x, run))
                else:
                    with torch.enable_grad():
                        x = images[part]
                        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
                        done.append(work(part, x, run))
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error) or size == 1:
                    raise
                pace.limit = max(size // 2, 1)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            if timed:
                pace.observe(size, self._clock() - start)
            at += size
        return done

    def _clock(self) -> float:
        device = self.device
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def _engine(self, purpose: Literal["forward", "gradient"]) -> Callable[..., Any]:
        return self._plain_engine() if self._engines is None else self._engines[0 if purpose == "forward" else 1]

    def _plain_engine(self) -> Callable[..., Any]:
        """The network as it was written: its copy, or itself."""
        return self._twin if self._twin is not None else self._guarded

    def _guarded(self, x: Tensor, **more: Any) -> Any:
        """The caller's own network, in evaluation mode for the time of one call."""
        network = self.network
        if not isinstance(network, nn.Module):
            return network(x, **more)
        with _lean.evaluating(network):
            return network(x, **more)

    def try_out(self, engine: Callable[..., Any], x: Tensor) -> Any:
        """Run something in the network's place on one arbitrary input, with the first image's further arguments."""
        return self._through(engine, x, torch.zeros(len(x), dtype=torch.long), self._count or 1)

    def _through(
        self, engine: Callable[..., Any], x: Tensor, rows: Tensor | None = None, count: int | None = None
    ) -> Any:
        """Normalise, run, adapt."""
        example = self._example()
        given = x
        if example is not None:
            x = x.to(example.device, example.dtype, non_blocking=True)
        if self.mean is not None or self.std is not None:
            scale, shift = self._normalisation(x)
            x = torch.addcmul(shift, x, scale)
        elif x is given:
            x = x.clone()  # a network may work in place on its input
        more = self.forward
        if more and rows is not None:
            more = {k: _rows(v, rows, count or len(rows)) for k, v in more.items()}
        return _adapt(engine(x, **more), self.adapter)

    def _normalisation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift that normalise, shaped for `x`."""
        key = (x.device, x.dtype, x.ndim)
        if key not in self._affine:
            with torch.inference_mode(mode=False):
                mean = torch.as_tensor(0.0 if self.mean is None else self.mean, dtype=torch.float64)
                std = torch.as_tensor(1.0 if self.std is None else self.std, dtype=torch.float64)
                shape = (1, -1, *[1] * (x.ndim - 2)) if self.kind != "tokens" else (1,) * (x.ndim - 1) + (-1,)
                scale, shift = (1 / std).reshape(shape), (-mean / std).reshape(shape)
                self._affine[key] = scale.to(x.device, x.dtype), shift.to(x.device, x.dtype)
        return self._affine[key]

    def pixels(self, values: Sequence[float] | Tensor | float | None) -> Tensor:
        """Per-channel values shaped to stand beside a batch of inputs: `(1, C, 1, 1)`, `(1, F)` or `(1, 1, D)`."""
        tensor = torch.as_tensor(0.0 if values is None else values, dtype=torch.float64)
        if self.kind == "table":
            return tensor.reshape(1, -1)
        return tensor.reshape(1, -1, 1, 1) if self.kind == "image" else tensor.reshape(1, 1, -1)

    def _blank(self) -> Tensor:
        """A batch of one input of the shape last seen, of moderate values."""
        assert self.shape is not None
        low, high = self.bounds or (0.0, 1.0)
        return torch.full((1, *self.shape), (low + high) / 2)

    # -- the first call ------------------------------------------------------------------------------------------------

    def _prepare(self, images: Tensor, rows: Tensor, count: int) -> None:
        """On the first images of a shape: learn the outputs' shape, compare the fast copy, look at batch mates."""
        key = (tuple(images.shape[1:]), images.dtype, images.device)
        self._count = count
        if self._has_seen(images):
            self.output_shape = self._checked[key]
            return
        self.shape = tuple(images.shape[1:])
        try:
            with _lean.seeded_aside():
                self._try_first(images, rows, count)
        except BaseException:
            self.shape = next(reversed(self._checked))[0] if self._checked else None  # one that the network does take
            raise
        self._checked[key] = self.output_shape

    def _has_seen(self, images: Tensor) -> bool:
        """Whether images of this shape were run before."""
        key = (tuple(images.shape[1:]), images.dtype, images.device) if isinstance(images, Tensor) else None
        return key in self._checked

    def _try_first(self, images: Tensor, rows: Tensor, count: int) -> None:
        """Run one image and two, and learn from what comes out."""
        first = images[:1].detach()
        pair = torch.cat([first, images[1:2].detach() if len(images) > 1 else first.flip(-1)])
        rows = torch.stack([rows[0], rows[min(1, len(rows) - 1)]])
        original = self._plain_engine()
        single = self._through(original, first, rows[:1], count)
        try:
            both = self._through(original, pair, rows, count)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            pair, rows, both = first, rows[:1], single  # one image is all that fits
        self._learn(single, both, pair, rows, count)

    def _learn(self, single: Any, both: Any, pair: Tensor, rows: Tensor, count: int) -> None:
        """What the first outputs tell: of one image, and of two (or again of one)."""
        original = self._plain_engine()
        if not isinstance(single, Tensor) or not isinstance(both, Tensor):
            self.output_shape = None
            self._engines = (original, original)
            self._compile(pair, rows, count, both)
            return
        if single.ndim == 0 or single.shape[0] != 1 or both.shape[0] != len(pair):
            raise ValueError(
                f"the network returned shape {tuple(both.shape)} for {len(pair)} images and {tuple(single.shape)} for one: "
                "its first axis must be the batch"
            )
        if single.shape[1:] != both.shape[1:]:
            raise ValueError(
                f"an output of shape {tuple(single.shape[1:])} for one image is {tuple(both.shape[1:])} for two: a tensor in "
                "forward= with as many rows as there are images follows them, row by row; one that does not, prompts say, "
                "is better held by the network, as a buffer"
            )
        self.output_shape = tuple(single.shape[1:])
        if _distance(single, both[:1]) > 1e-3:
            warnings.warn(
                "the output for an image changes with the images beside it in the batch, or from call to call: results "
                "will depend on the batch; run it with Model(batch_size=1), and look for batch norm or dropout at work",
                RuntimeWarning,
                stacklevel=_outside(),
            )
        fresh = self._engines is None
        if self._twin is None:
            if isinstance(self.network, nn.Module):
                self._note("the network cannot be copied: it is run itself, in evaluation mode, and put back")
            self._engines = (self._guarded, self._guarded)
        elif self._engines is None:
            self._engines = self._compare(pair, rows, count, both)
        if fresh or (self._engines is not None and isinstance(self._engines[0], _backends.Compiled)):
            self._compile(pair, rows, count, both)

    def _compare(self, pair: Tensor, rows: Tensor, count: int, expected: Tensor) -> tuple[Any, Any]:
        """The fast copies, if they give what the network gives; otherwise the plain one."""
        assert self._twin is not None
        hooks = any(getattr(m, kind) for m in self._twin.modules() for kind in _lean.HOOKS)
        half = expected.dtype not in {torch.float32, torch.float64}  # rounding alone is above the tolerance
        if not self.fast or hooks or half:
            if hooks and self.fast:
                self._note("the network has hooks: it is run without the fast copy, so that they are called")
            return self._twin, self._twin
        try:
            forward, gradient, note = _lean.lean(self._twin, self.forward)
            found = [self._through(engine, pair, rows, count) for engine in (forward, gradient)]
            worst = max(_distance(f, expected) for f in found)
        except Exception as error:  # noqa: BLE001  the copy is a luxury: whatever it raises, the network itself is there
            self._note(f"no fast copy: {type(error).__name__}: {error}")
            return self._twin, self._twin
        if not worst <= TOLERANCE:
            warnings.warn(
                f"the fast copy of the network differs from it by {worst:.1e} of its largest output and is not used",
                RuntimeWarning,
                stacklevel=_outside(),
            )
            return self._twin, self._twin
        if note is not None:
            self._note(note)
        return forward, gradient

    def _compile(self, pair: Tensor, rows: Tensor, count: int, expected: Any) -> None:
        """Let the backend run inputs of this shape if it gives what torch gives; otherwise torch runs all of them."""
        double = isinstance(expected, Tensor) and expected.dtype == torch.float64
        if self.backend == "torch" or not isinstance(self.network, nn.Module) or double:
            return
        assert self._engines is not None
        forward, gradient = self._engines
        why = _backends.unfit(self.backend, self, expected)
        if why is None:
            try:
                if not isinstance(forward, _backends.Compiled):
                    forward = _backends.Compiled(self, forward, _adapt)
                found = self._through(forward.build, pair, rows, count)
                # three images: an export that froze its example's batch would pass with two
                more = torch.cat([pair, pair[:1]]), torch.cat([rows, rows[:1]]), torch.cat([expected, expected[:1]])
                wider = self._through(forward, more[0], more[1], count)
                worst = max(_distance(found, expected), _distance(wider, more[2]))
                within = worst <= _backends.TOLERANCES.get(self.backend, TOLERANCE)
                why = None if within else f"it differs from torch by {worst:.1e} of the largest output"
            except Exception as error:  # noqa: BLE001  exporters raise whatever they like, and torch is there
                why = _backends.reason(error)
        plain = forward.plain if isinstance(forward, _backends.Compiled) else forward
        self._engines = (forward if why is None else plain, gradient)
        text = f"backend={self.backend!r} is not used, torch is: {why}"
        if why is not None and text not in self.notes:
            self._note(text)
            warnings.warn(text, RuntimeWarning, stacklevel=_outside())

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _rank(off: float, layer: str) -> tuple[int, int, float]:
    """How good a layer is whose depth is off by a part of what is wanted: near, a whole stage or block, nearest."""
    return int(abs(off) * 6), layer.count("."), abs(off)


def map_type(inputs: Tensor) -> torch.dtype:
    """What maps of these inputs are in: float64 for float64, float32 for all others."""
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def _settings(module: nn.Module) -> dict[str, Any]:
    """A module's public attributes that are plain values: `forward` may do one thing or another by them."""
    return {k: v for k, v in vars(module).items() if k != "training" and not k.startswith("_") and is_plain(v)}


def _digest(tensor: Tensor) -> Tensor:
    """A number that changes when values do, or change places; one pass over the tensor."""
    flat = tensor.reshape(-1)
    side = min(4096, len(flat))
    body = flat[: len(flat) // side * side].reshape(-1, side).float()
    tail = flat[len(body) * side :].float()
    whole: Tensor = (body @ _weights(side, flat.device)) @ _weights(len(body), flat.device)
    return whole + tail @ _weights(len(tail), flat.device) if len(tail) else whole


@functools.lru_cache(maxsize=1024)
def _weights(n: int, device: torch.device) -> Tensor:
    """The golden ratio's multiples: no two alike."""
    return (torch.arange(1, n + 1, device=device, dtype=torch.float32) * 0.618034).frac_() + 0.5


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, over the largest finite value of `b`; where both are infinite or NaN they agree."""
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    worst = float(torch.where(same, 0.0, (a - b).abs()).max()) if a.numel() else 0.0
    largest = float(torch.where(b.isfinite(), b.abs(), 0.0).max()) if b.numel() else 0.0
    return worst / largest if largest else worst


def _clone(out: Any) -> Any:
    """An output as normal tensors: those of inference mode could not serve a gradient."""
    if isinstance(out, Tensor):
        return out.clone()
    if isinstance(out, Mapping):
        return {k: _clone(v) for k, v in out.items()}
    return _like(out, [_clone(v) for v in out]) if isinstance(out, list | tuple) else out


def _like(container: Any, entries: list[Any]) -> Any:
    """Entries in a container of the same kind; a named tuple takes them one by one."""
    return type(container)(*entries) if hasattr(container, "_fields") else type(container)(entries)


def _join(parts: list[Any]) -> Any:
    """Outputs of several batches as one: tensors end to end, containers entry by entry, lists of images end to end."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(parts) if first.ndim else first
    if isinstance(first, Mapping):
        return {k: _join([p[k] for p in parts]) for k in first}
    if isinstance(first, list) and (not first or not isinstance(first[0], Tensor)):
        return [one for part in parts for one in part]  # one entry per image, as detectors give
    if type(first) is tuple and first and all(isinstance(one, Mapping) for one in first):
        return tuple(one for part in parts for one in part)  # the same
    if isinstance(first, list | tuple):
        return _like(first, [_join([p[i] for p in parts]) for i in range(len(first))])
    return first


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def _rows(value: Any, rows: Tensor, count: int) -> Any:
    """A keyword tensor for these rows, if it has one entry per image."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape[0] == 1:
        return value.expand(len(rows), *value.shape[1:])
    return value[rows.to(value.device)] if value.shape[0] == count else value


def _adapt(out: Any, adapter: str | int | Callable[[Any], Any] | None) -> Any:
    """The tensor of scores in what a network returned."""
    if adapter == "raw":
        return out
    if callable(adapter):
        return adapter(out)
    if adapter is not None:
        try:
            return out[adapter]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"adapter={adapter!r} finds nothing in {_describe(out)}") from error
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Mapping):
        for key in ("logits", "out", "output", "scores"):
            if isinstance(out.get(key), Tensor):
                return out[key]
        tensors = [v for v in out.values() if isinstance(v, Tensor)]
        return tensors[0] if len(tensors) == 1 else out
    if hasattr(out, "logits") and isinstance(out.logits, Tensor):
        return out.logits
    if isinstance(out, tuple) and out and isinstance(out[0], Tensor):
        return out[0]
    if isinstance(out, list | tuple | Mapping):
        return out
    raise TypeError(
        f"the network returned {_describe(out)}: it must return a tensor, or a tuple, dictionary or ModelOutput with one; "
        "pass Model(adapter=...) to pick it"
    )


def _describe(out: Any) -> str:
    if isinstance(out, Tensor):
        return f"a tensor of shape {tuple(out.shape)}"
    if isinstance(out, Mapping):
        return f"a dictionary with {list(out)[:6]}"
    return f"a {type(out).__name__}"


def _check_output(output: str) -> None:
    if output not in get_args(Output):
        raise ValueError(f"output={output!r}: choose one of {get_args(Output)}")


def _outside() -> int:
    """How many frames up the first caller outside this package stands: where a warning should point."""
    import sys

    depth, frame = 1, cast("Any", sys._getframe(1))
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("attriscope."):
        depth, frame = depth + 1, frame.f_back
    return depth

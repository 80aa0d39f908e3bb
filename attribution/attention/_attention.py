"""Attention as a network computes it: found by rules on operations, whatever the library and its modules are called.

What a softmax over the last axis of a square of tokens returns is an attention, `(N, heads, T, T)`: row i says where token
i looks. It stays on the graph, so the score can be differentiated with respect to it. Patches come last among the tokens,
row by row of the image; what stands before them (class, distillation, registers) is the prefix.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._rules import Apply, Rules
from ..attributor import Attributor, Computed, Resize
from ..model import Model
from ..randomness import uniforms
from ..targets import Output, Target, read

Fusion = Literal["mean", "max", "min"]

UNNAMED = (
    "none of its modules is called attention, and it has not seen an input yet: for convolutional networks use grad_cam"
)
NONE = (
    "no attention from all of its tokens to all of them was met in it: use grad_cam for convolutional networks, or "
    "integrated_gradients"
)
CHANGING = (
    "its attention stays within windows, or its tokens change from layer to layer, and attention methods follow one set of "
    "tokens through all layers: use grad_cam or integrated_gradients"
)
MIXED = (
    "its attention has the heads outside of the images in one axis, and attention methods need each image's heads side by "
    "side, (images * heads, tokens, tokens): use integrated_gradients"
)
LAST = (
    "the tokens that its head reads stand behind the patches, and attention methods take the last tokens for the patches: put "
    "class tokens first, or use integrated_gradients"
)
FRONT = 8  # tokens before the patches, at most


@dataclass(frozen=True)
class Layout:
    """What is known of a network's attention.

    Attributes:
        layers: How many attentions there are.
        tokens: Between how many tokens.
        prefix: How many of them stand before the patches.
        grid: Rows and columns of patches; `None` where inputs are tokens.
        read: `BoolTensor (T,)`, the tokens that the head reads after the last attention: the class token, or all patches
            where it takes their mean.
    """

    layers: int
    tokens: int
    prefix: int
    grid: tuple[int, int] | None
    read: Tensor


class Recorder(Rules):
    """Keeps the attentions of a run.

    Args:
        images: How many images are in the batch.
        keep: What is kept of each.
        rules: What a class of rules beside this one takes.

    Attributes:
        found: What was kept, from the first layer to the last.
        grids: Heights and widths of the maps that were met before the first one.
    """

    opens_attention = True

    def __init__(self, images: int, keep: Callable[[Tensor], Tensor] | None = None, **rules: Any) -> None:
        super().__init__(**rules)
        self.images, self.keep = images, keep
        self.found: list[Tensor] = []
        self.grids: list[tuple[int, int]] = []
        self.whole = True  # whether all that were kept are between all tokens of one image
        self.seen: torch.Size | None = None  # by the last linear layer, without the features

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """Queries and keys are made of tokens by a linear layer, tokens of an image often by a convolution."""
        out = super().linear(apply, x, weight, bias, name)
        self.seen = x.shape[:-1] if name == "linear" else None
        return self._map(out)

    def affine(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """Pooling may make the grid."""
        return self._map(super().affine(apply, x, name))

    def max_pool(self, apply: Callable[..., Any], x: Tensor, name: str) -> Any:
        """Pooling may make the grid."""
        out = super().max_pool(apply, x, name)
        self._map(out if isinstance(out, Tensor) else out[0])
        return out

    def softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """An attention, if it is over a square of as many tokens as queries were made of."""
        out = super().softmax(apply, x, dim)
        tokens = x.shape[-1]
        square = x.ndim >= 3 and dim in {-1, x.ndim - 1} and x.shape[-2] == tokens > 1
        if square and (self.seen is None or tokens in self.seen):
            self.whole &= x.ndim <= 4 and (self.seen is None or self.seen.numel() == self.images * tokens)
            self.found.append(out if self.keep is None else self.keep(out.detach()))
        return out

    def verify(self, out: Tensor, x: Tensor) -> None:
        """Refuse a graph from `out` to `x` that its rules do not cover; it has none."""

    def _map(self, out: Tensor) -> Tensor:
        if out.ndim == 4 and not self.found:
            self.grids.append((out.shape[2], out.shape[3]))
        return out


# -- what a network does -----------------------------------------------------------------------------------------------


def layout(model: Model, inputs: Tensor | None = None) -> Layout:
    """How a network attends; found out once for each shape of input, on noise.

    Args:
        model: The model.
        inputs: Needed if the model has not seen such.

    Raises:
        ValueError: It does not attend in a way that these methods can follow; the message says what to use instead.
    """
    if inputs is not None and model.shape != tuple(inputs.shape[1:]):
        model.layers(inputs)  # which shows it an image
    found: Layout | str = model.learn("attention", lambda x, run: _explore(x, run, model))
    if not isinstance(found, Layout):
        raise ValueError(f"attention methods do not run on this network: {found}")
    return found


def _explore(x: Tensor, run: Callable[[Tensor], Any], model: Model) -> Layout | str:
    """The layout, or why there is none."""
    low, high = model.bounds or (0.0, 1.0)
    noise = uniforms(0, 1, x.numel()).reshape(x.shape).to(x) * (high - low) + low
    with Recorder(1) as recorder:
        out = run(noise.requires_grad_())
    found = recorder.found
    if not found:
        return NONE
    windows = any(p.ndim == 4 and len(p) > 1 for p in found)
    if windows or not recorder.whole or len({p.shape[-1] for p in found}) > 1:
        return CHANGING
    if any(p.ndim == 3 and len(p) > 1 for p in found):
        reason = _mixed([p.detach() for p in found], x, noise.detach(), model)
        if reason is not None:
            return reason
    tokens = found[0].shape[-1]
    if x.ndim == 4:
        grid = _grid(recorder.grids, (x.shape[2], x.shape[3]), tokens)
        patches = None if grid is None else prod(grid)
    else:
        grid, patches = None, x.shape[1] if x.shape[1] <= tokens else None
    if patches is None:
        return f"its {tokens} tokens cannot be laid out over an input of shape {tuple(x.shape[1:])}: use integrated_gradients"
    read = _read(out, found[-1])
    if _behind(read, tokens - patches):
        return LAST
    return Layout(len(found), tokens, tokens - patches, grid, read)


def _mixed(first: list[Tensor], x: Tensor, noise: Tensor, model: Model) -> str | None:
    """Whether heads and images are one axis with the heads outside: by two images, alone and together."""
    low, high = model.bounds or (0.0, 1.0)
    other = uniforms(0, 1, x.numel(), start=1).reshape(x.shape).to(x) * (high - low) + low
    runs = []
    for images in (other, torch.cat([noise, other])):
        with _unsaved(), Recorder(len(images), Tensor.clone) as recorder:
            try:
                model.try_out(model._plain_engine(), images.requires_grad_())
            except (RuntimeError, ValueError):
                return None  # it takes one image at a time: there is nothing to mix
        runs.append(recorder.found)
    second, both = runs
    if not len(first) == len(second) == len(both):
        return CHANGING
    for a, b, two in zip(first, second, both, strict=True):
        if not a.numel() == b.numel() == two.numel() / 2:
            return CHANGING
        if _outside(two, torch.cat([heads(a, 1), heads(b, 1)])):
            return MIXED
    return None


def _outside(both: Tensor, alone: Tensor) -> bool:
    """Whether an attention of two images is theirs alone, `(2, heads, T, T)`, only with the heads outside of the images."""
    inside = float((heads(both, 2) - alone).abs().max())
    outside = float((heads(both, alone.shape[1]).transpose(0, 1) - alone).abs().max())
    # what fits better; where all are alike both do, up to rounding
    return inside > max(2 * outside, 16 * torch.finfo(both.dtype).eps * float(alone.max()))


def _behind(read: Tensor, prefix: int) -> bool:
    """Whether the head reads a few tokens that are neither the first ones nor all patches, or all tokens but the last ones."""
    patches = len(read) - prefix
    if bool(read[prefix:].all()) or bool(read[:prefix].any() and not read[:patches].all()):
        return False
    return int(read.sum()) <= prefix or bool(read[:patches].all() and not read[patches:].any())


def _grid(seen: list[tuple[int, int]], size: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """A map that was met, or, where none was, square patches that fill the image: what leaves the fewest tokens in front.

    Where a map that was met would leave some in front and square patches fewer, it is another map, as of a thumbnail.
    """
    sides = [p for p in range(1, min(size) + 1) if size[0] % p == 0 and size[1] % p == 0]
    cut = [(size[0] // p, size[1] // p) for p in sides]
    met, cut = ([g for g in grids if tokens - FRONT <= prod(g) <= tokens] for grids in (seen, cut))
    return None if seen and not met else max(met + cut, key=prod, default=None)


def _read(out: Any, last: Tensor) -> Tensor:
    """Which rows of the last attention any output depends on, `BoolTensor (T,)`."""
    outputs = [t.flatten() for t in _tensors(out) if t.requires_grad]
    # weights without symmetry: outputs that sum to 1 have no gradient in their sum
    total = sum(((t * torch.linspace(1, 2, len(t)).to(t)).sum() for t in outputs), torch.zeros(()))
    gradient = torch.autograd.grad(total, last, allow_unused=True)[0] if total.requires_grad else None
    rows = torch.zeros(last.shape[-1], dtype=torch.bool) if gradient is None else rows_read(heads(gradient, 1))[0].cpu()
    return rows if bool(rows.any()) else torch.ones_like(rows)


def _tensors(out: Any) -> list[Tensor]:
    """All tensors in what a network returned."""
    if isinstance(out, Tensor):
        return [out]
    entries = out.values() if hasattr(out, "values") else out if isinstance(out, list | tuple) else ()
    return [t for entry in entries for t in _tensors(entry)]


# -- what methods make of it -------------------------------------------------------------------------------------------

Make = Callable[[list[Tensor], Tensor], Tensor]


def attentions(model: Model, inputs: Tensor, target: Target, make: Make, *, fusion: Fusion) -> Tensor:
    """Run the network and make something of its attentions, batch by batch, without a backward pass.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        make: Gets `(N, T, T)` of every layer, from the first on, and weights of the tokens that the head reads,
            `(N, 1, T)`, which sum to 1.
        fusion: How the heads become one.
    """
    known = layout(model, inputs)

    def work(_: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
        recorder = Recorder(len(x), lambda p: fuse(heads(p, len(x)), fusion))
        with _unsaved(), recorder:
            run(x)
        found = _checked(recorder.found, known)
        return make(found, _weights(known.read.expand(len(x), -1).to(found[0])))

    return torch.cat(model.passes(inputs, target, work, backwards=0))


def weighed(
    model: Model,
    inputs: Tensor,
    target: Target,
    make: Make,
    *,
    output: Output,
    rules: Callable[[Tensor], Recorder] | None = None,
) -> Tensor:
    r"""The same with attentions weighed by the score's gradients: :math:`E_h (\nabla P \odot P)^+`, `(N, T, T)`.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        make: As above; the tokens are those that the score itself reads.
        output: Which score.
        rules: Makes a recorder with rules of relevance for a batch. Then the network runs once more, and the
            gradients weigh the attentions' relevances, of which the score has 1.
    """
    known = layout(model, inputs)

    def work(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
        def back(recorder: Recorder, share: Callable[[Tensor], Tensor]) -> list[Tensor]:
            with recorder:
                out = run(x)
            score = read(out, target.take(part), output, model.activation)
            found = _checked(recorder.found, known)
            if not score.requires_grad:
                raise ValueError(
                    "the scores do not depend on the input in a way autograd can follow: use raw_attention"
                )
            for one in _tensors(out):
                recorder.verify(one, x)
            given = torch.autograd.grad(score, found, share(score), allow_unused=True, materialize_grads=True)
            return [heads(g, len(x)) for g in given]

        recorder = Recorder(len(x))
        gradients = back(recorder, torch.ones_like)
        which = rows_read(gradients[-1])
        which = torch.where(which.any(1, keepdim=True), which, known.read.to(which.device))
        values = [heads(p.detach(), len(x)) for p in recorder.found]
        if rules is not None:
            del recorder  # and its graph
            coefficients = back(rules(x), _over)
            values = [p * c for p, c in zip(values, coefficients, strict=True)]
        layers = [(g * v).relu().mean(1) for g, v in zip(gradients, values, strict=True)]
        return make(layers, _weights(which.to(layers[0])))

    times = 1 if rules is None else 2
    return torch.cat(model.passes(inputs, target, work, forwards=times, backwards=times))


def follow(layers: Sequence[Tensor], start: Tensor) -> Tensor:
    r"""Follow tokens through the layers beside the residual connections: :math:`s (I + A_L) \cdots (I + A_1)`.

    Args:
        layers: :math:`A_1 \ldots A_L`, each `(N, T, T)`.
        start: :math:`s`, `(N, K, T)`: the identity gives the whole matrix.

    Example:
        >>> follow([torch.ones(1, 2, 2)], torch.eye(2)[None]).tolist()
        [[[2.0, 1.0], [1.0, 2.0]]]
    """
    for layer in reversed(layers):
        start = start + start @ layer
    return start


def fuse(attention: Tensor, how: Fusion) -> Tensor:
    """Heads `(N, heads, T, T)` to `(N, T, T)`."""
    if how == "mean":
        return attention.mean(1)
    return attention.amax(1) if how == "max" else attention.amin(1)


def heads(attention: Tensor, n: int) -> Tensor:
    """An attention as `(N, heads, T, T)`, in float32 at least."""
    attention = attention.float() if attention.dtype in {torch.float16, torch.bfloat16} else attention
    return attention.reshape(n, -1, *attention.shape[-2:])


def rows_read(gradient: Tensor) -> Tensor:
    """Rows of an attention that something depends on, by its gradient `(N, heads, T, T)`: `BoolTensor (N, T)`."""
    return gradient.ne(0).any(3).any(1)


def _over(score: Tensor) -> Tensor:
    """What makes a relevance of 1 of each score."""
    score = score.detach()
    return torch.where(score == 0, 0.0, 1 / score)


def _weights(which: Tensor) -> Tensor:
    """Which tokens, `(N, T)`, as weights `(N, 1, T)` that sum to 1."""
    return (which / which.sum(1, keepdim=True)).unsqueeze(1)


def _checked(found: list[Tensor], known: Layout) -> list[Tensor]:
    """What was found, if it is what is known."""
    if len(found) != known.layers or any(p.shape[-1] != known.tokens for p in found):
        raise ValueError(f"the number of attentions or tokens changes from input to input: {CHANGING}")
    return found


def _unsaved() -> contextlib.AbstractContextManager[Any]:
    """A graph that tells what depends on the input but keeps nothing to go back with."""
    return torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0))


class Attending(Attributor):
    """A method that gives every token a number and lays those of the patches out over the image.

    Args:
        resize: How the map is brought to the image's size; `None` leaves it.
    """

    stretched: ClassVar[bool] = True

    resize: Resize | None = "bilinear"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Transformers whose attention is between the same tokens in all layers."""
        reason = super().supports(model)
        return reason if reason is not None else _unfit(model)

    def _refusal(self) -> str | None:
        """A network whose modules have other names is tried."""
        reason = type(self).supports(self.model)
        return None if reason == UNNAMED else reason

    def lay_out(self, values: Tensor) -> Computed:
        """The map of `(N, 1, T)`."""
        known = layout(self.model)
        patches = values[:, :, known.prefix :]
        maps = patches.squeeze(1) if known.grid is None else patches.unflatten(2, known.grid)
        return Computed(maps, {"layers": known.layers, "prefix": known.prefix, "grid": known.grid})

    def number(self, layer: int, inputs: Tensor) -> int:
        """An attention's number, if there is one."""
        known = layout(self.model, inputs)
        if not -known.layers <= layer < known.layers:
            raise ValueError(
                f"{self.name}: layer {layer} is out of range: the network has {known.layers} attention layers"
            )
        return layer


def _unfit(model: Model) -> str | None:
    """Why a network's attention cannot be followed: by a trial once it has seen an input, before by its modules' names."""
    model.refresh()
    if model.shape is not None:
        found = model.learn("attention", lambda x, run: _explore(x, run, model))
        return found if isinstance(found, str) else None
    assert isinstance(model.network, nn.Module)
    kinds = {type(m).__name__ for m in model.network.modules() if re.search("(?i)attention|attn", type(m).__name__)}
    if any(re.search("(?i)window|swin", kind) for kind in kinds):
        return CHANGING
    return None if kinds else UNNAMED

"""What is explained: a class, an entry of a dense output, or any number that a callable makes of the outputs.

A target comes as an `int`, one per image (a sequence or a `LongTensor (N,)`), an index tuple into a dense output, a
callable `outputs -> (N,)`, or `None` for the class that the network itself names on the clean image. `resolve` checks it
once and freezes it; from then on every method carries a `Target`, which also remembers the image each row belongs to.

What is no single class has a callable ready: a regression's `value`, one `label` of many, several `classes` at once, the
`contrast` of two, a `segment` of a dense output, the `similarity` of an embedding with a given one, a `box` that a
detector finds. They can be pickled, equal ones are equal, and they are checked against the outputs before anything runs. A
callable says by itself what is read (`of="probability"`): the `output=` of methods and metrics does not act on it.

One map for each of K classes is K rows, not a target: `attribute(images.repeat_interleave(K, 0), target=classes * N)` with a
list of K classes gives image by image the K maps.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ._parameters import canonical

Output = Literal["logit", "probability", "log_probability", "margin"]
Activation = Literal["softmax", "sigmoid", "none"]
Of = Literal["logit", "probability", "log_probability"]
TargetLike: TypeAlias = (
    int | Sequence[int] | Sequence[tuple[int, ...]] | tuple[int, ...] | Tensor | Callable[[Any], Tensor] | None
)

__all__ = [
    "Activation",
    "Output",
    "Scalar",
    "Target",
    "TargetLike",
    "box",
    "classes",
    "confidence",
    "contrast",
    "label",
    "read",
    "read_all",
    "resolve",
    "segment",
    "similarity",
    "value",
]


@dataclass(frozen=True, eq=False)
class Target:
    """A target that was checked against the outputs and frozen.

    Attributes:
        rows: `LongTensor (M,)`, the image that each row belongs to, in the whole set.
        count: How many images the whole set has.
        index: `LongTensor (M, k)`, the entry of each row's output, or `None` where `function` says what to read.
        function: A callable `outputs -> (M,)`. If it has a method `take(rows)`, that gives the callable for those rows.
        confident: Whether `read` gives each score together with the outputs' `confidence`, `(M, 2)`.
    """

    rows: Tensor
    count: int
    index: Tensor | None = None
    function: Callable[[Any], Tensor] | None = None
    confident: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor | slice) -> "Target":
        """The same target for these rows (`LongTensor (M,)` or a slice), in this order."""
        function = self.function
        if function is not None and hasattr(function, "take"):
            function = cast("Callable[[Any], Tensor]", function.take(rows))
        return replace(
            self, rows=self.rows[rows], index=None if self.index is None else self.index[rows], function=function
        )

    def value(self) -> Tensor | None:
        """The frozen classes `(M,)` or index tuples `(M, k)`; `None` for a callable."""
        if self.index is None:
            return None
        return self.index[:, 0] if self.index.shape[1] == 1 else self.index


def resolve(target: TargetLike, count: int, shape: Sequence[int] | None) -> Target:
    """Check a target of any form against outputs of `shape` (without the batch axis; `None`: not a tensor).

    Raises:
        ValueError: An entry is out of range, the number of targets is not the number of images, or the form does not
            fit the outputs. The message says what to pass.
    """
    rows = torch.arange(count)
    if callable(target) and not isinstance(target, Tensor):
        if isinstance(target, Scalar):
            target.check(count, shape)
        return Target(rows, count, function=target)
    if shape is None:
        raise ValueError(
            "the network's output is no tensor, so a class number means nothing: pass target=a callable that turns the "
            "outputs into one score per image (for a detector targets.box), or Model(adapter=...) that picks the tensor"
        )
    sizes = list(shape) or [1]
    index = _index(target, count, sizes)
    if index.shape[0] != count:
        raise ValueError(f"there are {index.shape[0]} targets for {count} images: pass one for all, or one for each")
    if index.shape[1] != len(sizes):
        raise ValueError(
            f"an output of shape {tuple(sizes)} per image needs an index of {len(sizes)} numbers, not {index.shape[1]}: "
            "pass an index tuple such as (class, row, column), or a callable `outputs -> (N,)`"
        )
    for axis, size in enumerate(sizes):
        column = index[:, axis]
        bad = (column < 0) | (column >= size)
        if bool(bad.any()):
            value = int(column[bad][0])
            hint = "a model with one output has target 0 only" if size == 1 else f"it must lie in 0..{size - 1}"
            raise ValueError(f"target {value} is out of range for outputs of shape {tuple(sizes)}: {hint}")
    return Target(rows, count, index=index)


def _index(target: TargetLike, count: int, sizes: list[int]) -> Tensor:
    """The target as a `LongTensor (N, k)`."""
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise ValueError(f"target is a {target.dtype} tensor: pass class numbers, as target.long()")
        index = target.detach().cpu().long().clone()  # one of inference mode could serve no gradient
        index = index.reshape(1, 1).expand(count, 1) if index.ndim == 0 else index
        return index.reshape(len(index), -1)
    if target is None:
        raise ValueError("target=None needs the outputs: pass a class number, an index tuple or a callable here")
    if isinstance(target, int) or (hasattr(target, "__index__") and getattr(target, "ndim", 0) == 0):
        return torch.tensor([[int(cast("int", target))]]).expand(count, 1)
    if (
        isinstance(target, tuple)
        and all(hasattr(t, "__index__") for t in target)
        and not (len(sizes) == 1 and len(target) == count)
    ):
        return torch.tensor([[int(cast("int", t)) for t in target]]).expand(count, len(target))
    if not hasattr(target, "__iter__"):
        raise ValueError(f"target={target!r} is no target: pass an int, one per image, an index tuple or a callable")
    entries = [tuple(t) if isinstance(t, tuple | list) else (t,) for t in cast("Sequence[Any]", target)]
    if len({len(e) for e in entries}) != 1 or not all(_is_whole(t) for e in entries for t in e):
        raise ValueError(
            f"target={target!r} is no target: pass whole numbers, or index tuples of one length, one per image"
        )
    return torch.tensor([[int(t) for t in e] for e in entries])


def _is_whole(value: Any) -> bool:
    """Whether a value is one whole number."""
    if getattr(value, "ndim", 0) != 0 or (isinstance(value, Tensor) and value.is_floating_point()):
        return False
    return hasattr(value, "__index__") and not isinstance(value, bool)


def read(outputs: Any, target: Target, output: Output, activation: Activation) -> Tensor:
    """One score per row, `(M,)`, from a network's outputs.

    Args:
        outputs: `(M, C)`, `(M,)` or `(M, C, ...)`; anything for a callable target.
        target: Which entry, or the callable.
        output: `"logit"` (what the network gives), `"probability"`, `"log_probability"`, or `"margin"` (the target's
            logit minus the largest of the others).
        activation: What makes probabilities of logits. One output counts as `"sigmoid"` unless it is `"none"`.
    """
    if target.confident:
        score = read(outputs, replace(target, confident=False), output, activation)
        return torch.stack([score, confidence(outputs, activation).to(score.dtype)], 1)
    if target.function is not None:
        scores = target.function(outputs)
        if not isinstance(scores, Tensor) or scores.shape != (len(target),):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"the target callable returned {got} for {len(target)} images: it must return one score per image, "
                f"shape ({len(target)},)"
            )
        return scores
    assert target.index is not None
    index = target.index.to(outputs.device, non_blocking=True)
    outputs = outputs.float() if outputs.dtype in {torch.float16, torch.bfloat16} else outputs
    logits: Tensor = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
    if logits.ndim > 2:
        # one column of classes per row, at the place that the rest of the index names
        place = index[:, 1]
        for axis in range(2, index.shape[1]):
            place = place * logits.shape[axis + 1] + index[:, axis]
        logits = logits.flatten(2).gather(2, place[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
    column = index[:, :1]
    chosen = logits.gather(1, column).squeeze(1)
    if output == "logit":
        return chosen
    if output == "margin":
        if logits.shape[1] == 1:
            return chosen
        others = logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter(1, column, 1), -torch.inf)
        return chosen - others.amax(1)
    if activation == "none":
        return chosen if output == "probability" else chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log()
    single = activation == "sigmoid" or logits.shape[1] == 1
    log = functional.logsigmoid(chosen) if single else chosen - logits.logsumexp(1)
    return log.exp() if output == "probability" else log


def read_all(outputs: Any, output: Output, activation: Activation) -> Tensor:
    """The score of every class, `(M, C)`; arguments as in `read`.

    Raises:
        ValueError: The outputs are no `(M, C)`.

    Example:
        >>> read_all(torch.tensor([[2.0, 0.0, 1.0]]), "margin", "softmax").tolist()
        [[1.0, -2.0, -1.0]]
    """
    if not isinstance(outputs, Tensor) or outputs.ndim > 2:
        raise ValueError("all classes at once need outputs of shape (N, C): name one target instead")
    logits = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
    logits = logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits
    if output == "margin" and logits.shape[1] == 1:
        return logits
    if output == "margin":
        best = logits.topk(2, 1)
        others = torch.where(logits == best.values[:, :1], best.values[:, 1:], best.values[:, :1])
        return logits - others
    return _activated(logits, output, activation)


def confidence(outputs: Any, activation: Activation) -> Tensor:
    r"""How far class probabilities are from telling nothing, :math:`1 + \sum_c p_c \ln p_c / \ln C`, `(M,)` in [0, 1].

    Args:
        outputs: `(M, C)`, C at least 2, of classes that exclude each other.
        activation: As in `read`.

    Example:
        >>> confidence(torch.tensor([[0.0, 0.0], [0.0, 50.0]]), "softmax").tolist()
        [0.0, 1.0]
    """
    p = read_all(outputs, "probability", activation)
    entropy: Tensor = torch.special.entr(p).sum(1)
    return 1 - entropy / math.log(p.shape[1])


def _activated(logits: Tensor, of: Output, activation: Activation) -> Tensor:
    """Logits `(M, C, ...)`, or what the activation makes of them."""
    if of == "logit":
        return logits
    if activation == "none":
        return logits if of == "probability" else logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
    single = activation == "sigmoid" or logits.shape[1] == 1
    log = functional.logsigmoid(logits) if single else logits.log_softmax(1)
    return log.exp() if of == "probability" else log


# -- what is no single class -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Scalar:
    """A callable that makes one number per image of the outputs: `scalar(outputs) -> (N,)`.

    Its tensors may have one entry for each image; then `take` gives the same callable for some of them.
    """

    def __call__(self, outputs: Tensor) -> Tensor:
        """One score per image, `(N,)`, in float32 for outputs of half precision."""
        if not isinstance(outputs, Tensor):
            self.check(0, None)
        self.fit(len(outputs), tuple(outputs.shape[1:]))
        return self.read(outputs.float() if outputs.dtype in {torch.float16, torch.bfloat16} else outputs)

    def read(self, outputs: Tensor) -> Tensor:
        """The score of outputs that fit."""
        raise NotImplementedError

    def per_image(self) -> dict[str, Tensor]:
        """The fields that have one entry for each image."""
        return {}

    def fit(self, count: int, shape: tuple[int, ...]) -> None:
        """Raise a `ValueError` unless outputs of `shape`, for `count` images, can be read."""
        del shape
        for name, tensor in self.per_image().items():
            if len(tensor) != count:
                raise ValueError(
                    f"targets.{self.name}: {name} has entries for {len(tensor)} images and there are {count}: give one for "
                    "all, or one for each"
                )

    def check(self, count: int, shape: Sequence[int] | None) -> None:
        """The same before anything runs, where it may take its time; `shape` is `None` for outputs that are no tensor."""
        if shape is None:
            raise ValueError(
                f"targets.{self.name} reads a tensor, and the network's output is none: pass Model(adapter=...) that picks it"
            )
        self.fit(count, tuple(shape))

    def take(self, rows: Tensor | slice) -> Self:
        """The same callable for these images."""
        own = self.per_image()
        if not own:
            return self
        made = object.__new__(type(self))  # its tensors were checked with the whole
        made.__dict__.update(self.__dict__, **{name: tensor[rows] for name, tensor in own.items()})
        return made

    @property
    def name(self) -> str:
        """What makes it."""
        return type(self).__name__.lower()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and canonical(self) == canonical(other)

    def __hash__(self) -> int:
        return hash(json.dumps(canonical(self)))

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return f"{self.name}({', '.join(f'{k}={_brief(v)}' for k, v in given.items())})"


def _brief(given: Any) -> str:
    if isinstance(given, Tensor):
        return str(given.tolist()) if given.numel() <= 8 else f"a tensor of shape {tuple(given.shape)}"
    return repr(given)


def _numbers(given: Any, what: str) -> Tensor:
    """Class numbers as a `LongTensor` of any shape.

    Raises:
        ValueError: They are no whole numbers, or below 0.
    """
    try:
        found = torch.as_tensor(given).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"targets.{what}: {given!r} is no class number and no list of them") from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or not found.numel():
        raise ValueError(f"targets.{what}: give whole numbers from 0, not {_brief(given)}")
    if int(found.min()) < 0:
        raise ValueError(f"targets.{what}: class {int(found.min())} is below 0: classes are counted from 0")
    return found.long()


def _shared(tensor: Tensor, rank: int) -> Tensor:
    """A batch of one as what holds for all images."""
    return tensor[0] if tensor.ndim == rank + 1 and len(tensor) == 1 else tensor


def _check_of(what: str, of: str, activation: str) -> None:
    if of not in get_args(Of):
        raise ValueError(f"targets.{what}: of={of!r}: choose one of {get_args(Of)}")
    if activation not in get_args(Activation):
        raise ValueError(f"targets.{what}: activation={activation!r}: choose one of {get_args(Activation)}")


def _check_class(what: str, index: Tensor, count: int) -> None:
    most = int(index.max())
    if most >= count:
        raise ValueError(f"targets.{what}: class {most} is out of range for outputs of {count} classes: 0..{count - 1}")


@dataclass(frozen=True, eq=False, repr=False)
class Value(Scalar):
    """One entry of the outputs; see `value`."""

    index: tuple[int, ...]

    def fit(self, count: int, shape: tuple[int, ...]) -> None:
        """As many numbers as axes, each in range."""
        super().fit(count, shape)
        shape = shape or (1,)
        if len(self.index) != len(shape) or any(i >= size for i, size in zip(self.index, shape, strict=True)):
            raise ValueError(f"targets.value: index {self.index} names no entry of outputs of shape {shape} per image")

    def read(self, outputs: Tensor) -> Tensor:
        """That entry."""
        for index in self.index if outputs.ndim > 1 else ():
            outputs = outputs[:, index]
        return outputs


def value(index: int | tuple[int, ...] = 0) -> Value:
    """A number that a network predicts: an age, a price, a depth at one place; read as it is, with no activation.

    It differs from `target=index` where a method or metric asks for `output="probability"`: a value stays a value.

    Args:
        index: Which entry of an output `(N, C)`, or an index tuple into `(N, C, ...)`. An output `(N,)` has entry 0.

    Example:
        >>> value(1)(torch.tensor([[0.5, 30.0], [0.1, 44.0]]))
        tensor([30., 44.])
    """
    found = _numbers(index, "value")
    if found.ndim > 1:
        raise ValueError(f"targets.value: index={index!r}: give a number, or an index tuple")
    return Value(tuple(found.reshape(-1).tolist()))


@dataclass(frozen=True, eq=False, repr=False)
class Classes(Scalar):
    """A weighted sum over classes; see `classes`."""

    index: Tensor  # (K,) or (N, K)
    weights: tuple[float, ...]
    of: Of
    activation: Activation

    def per_image(self) -> dict[str, Tensor]:
        """Classes that differ between images."""
        return {"index": self.index} if self.index.ndim == 2 else {}

    def fit(self, count: int, shape: tuple[int, ...]) -> None:
        """Outputs `(N, C)` that have these classes."""
        super().fit(count, shape)
        if len(shape) > 1:
            raise ValueError(
                f"targets.classes reads outputs of shape (N, classes), these are (N, {', '.join(map(str, shape))}): use "
                "targets.segment or targets.value, or pass Model(adapter=...)"
            )
        _check_class("classes", self.index, shape[0] if shape else 1)

    def read(self, outputs: Tensor) -> Tensor:
        """Activate, pick, weigh."""
        scores = _activated(outputs.unsqueeze(1) if outputs.ndim == 1 else outputs, self.of, self.activation)
        index = self.index.to(outputs.device, non_blocking=True)
        picked = scores.gather(1, index) if index.ndim == 2 else scores[:, index]
        return picked @ torch.tensor(self.weights, dtype=picked.dtype, device=picked.device)


def classes(
    index: Sequence[int] | Sequence[Sequence[int]] | Tensor,
    weights: Sequence[float] | Tensor | None = None,
    *,
    of: Of = "logit",
    activation: Activation = "softmax",
) -> Classes:
    """Several classes as one: the sum of their scores, "any kind of dog".

    Args:
        index: The classes `(K,)`, or each image's own, `(N, K)`.
        weights: What each counts, `(K,)`; `None`: 1. `(1 / K,) * K` makes the mean, `(1, -1)` a contrast.
        of: What is summed: `"logit"`, `"probability"` (with a softmax the probability of any of them) or
            `"log_probability"`.
        activation: What makes probabilities of the logits: `"softmax"`, `"sigmoid"`, or `"none"` for outputs that are
            probabilities already. The model's own is not asked.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
        >>> classes([0, 2])(logits), classes([0, 2], weights=[0.5, 0.5])(logits)
        (tensor([5.]), tensor([2.5000]))
        >>> classes([0, 1, 2], of="probability")(logits)
        tensor([1.])
    """
    found = _shared(_numbers(index, "classes"), 1)
    if found.ndim not in {1, 2}:
        raise ValueError(f"targets.classes: index has shape {tuple(found.shape)}: give classes (K,), or (N, K)")
    number = found.shape[-1]
    given = torch.ones(number) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if given.shape != (number,) or not bool(given.isfinite().all()):
        raise ValueError(
            f"targets.classes: weights={_brief(weights)}: give {number} finite numbers, one for each class"
        )
    _check_of("classes", of, activation)
    return Classes(found, tuple(given.tolist()), of, activation)


def label(index: int | Sequence[int] | Tensor, *, of: Of = "logit") -> Classes:
    """One label of a network that may give several: its logit, or the sigmoid of it, whatever the others are.

    Args:
        index: The label, or one for each image, `(N,)`.
        of: `"logit"`, `"probability"` (the sigmoid) or `"log_probability"`.

    Example:
        >>> label(1, of="probability")(torch.tensor([[9.0, 0.0, 9.0]]))
        tensor([0.5000])
    """
    return classes(_column(index, "label")[..., None], of=of, activation="sigmoid")


def contrast(
    a: int | Sequence[int] | Tensor,
    b: int | Sequence[int] | Tensor,
    *,
    of: Of = "logit",
    activation: Activation = "softmax",
) -> Classes:
    """Why `a` and not `b`: the score of one class minus that of another.

    Positive places of a map speak for `a`, negative ones for `b`; what speaks for both cancels. Of log-probabilities (with a
    softmax) it is the same as of logits.

    Args:
        a: The class that is asked for, or one for each image, `(N,)`.
        b: The class that it is compared with, or one for each image.
        of: `"logit"`, `"probability"` or `"log_probability"`.
        activation: What makes probabilities of the logits.

    Example:
        >>> contrast(2, 0)(torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([3.])
    """
    first, second = _column(a, "contrast"), _column(b, "contrast")
    if first.ndim and second.ndim and len(first) != len(second):
        raise ValueError(
            f"targets.contrast: a has {len(first)} classes and b has {len(second)}: give one for each image"
        )
    if bool((first == second).any()):
        raise ValueError("targets.contrast: a class is compared with itself: give two different ones")
    return classes(
        torch.stack(torch.broadcast_tensors(first, second), -1), (1.0, -1.0), of=of, activation=activation
    )  # fmt: skip


def _column(index: Any, what: str) -> Tensor:
    """A class for all images `()`, or one for each `(N,)`."""
    found = _shared(_numbers(index, what), 0)
    if found.ndim > 1:
        raise ValueError(
            f"targets.{what}: a class has shape {tuple(found.shape)}: give a number, or one for each image (N,)"
        )
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Segment(Scalar):
    """A class over a region of a dense output; see `segment`."""

    label: Tensor  # () or (N,)
    mask: Tensor | None  # (H, W) or (N, H, W)
    reduce: Literal["sum", "mean"]
    of: Of
    activation: Activation

    def per_image(self) -> dict[str, Tensor]:
        """Labels and masks that differ between images."""
        own = {"label": self.label} if self.label.ndim else {}
        return own | ({"mask": self.mask} if self.mask is not None and self.mask.ndim == 3 else {})

    def fit(self, count: int, shape: tuple[int, ...]) -> None:
        """Outputs `(N, K, H, W)` that have these classes."""
        super().fit(count, shape)
        if len(shape) != 3:
            raise ValueError(
                f"targets.segment reads outputs of shape (N, classes, H, W), these are (N, {', '.join(map(str, shape))}): "
                "pass Model(adapter=...) that picks the dense output"
            )
        _check_class("segment", self.label, shape[0])

    def check(self, count: int, shape: Sequence[int] | None) -> None:
        """Also that every region has a pixel at the outputs' resolution."""
        super().check(count, shape)
        if self.mask is not None and shape is not None:
            empty = ~self._at(tuple(shape[1:]), self.mask.dtype).flatten(1).any(1)
            if bool(empty.any()):
                which = f" of image {int(empty.nonzero()[0])}" if self.mask.ndim == 3 else ""
                raise ValueError(
                    f"targets.segment: the mask{which} marks no pixel at the outputs' {shape[1]} x {shape[2]}: give a larger "
                    "region, or the mask at that size"
                )

    def _at(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The mask at a size, `(N or 1, H, W)`."""
        assert self.mask is not None
        mask = (self.mask if self.mask.ndim == 3 else self.mask[None]).to(dtype)
        if tuple(mask.shape[1:]) == size:
            return mask
        return functional.interpolate(mask[:, None], size, mode="nearest-exact")[:, 0]

    def read(self, outputs: Tensor) -> Tensor:
        """Activate, pick the class, weigh its pixels."""
        scores = _activated(outputs, self.of, self.activation)
        index = self.label.to(outputs.device, non_blocking=True).expand(len(outputs))
        picked = scores[torch.arange(len(outputs), device=outputs.device), index]
        if self.mask is None:
            return picked.flatten(1).sum(1) if self.reduce == "sum" else picked.flatten(1).mean(1)
        mask = self._at(tuple(outputs.shape[2:]), outputs.dtype).to(outputs.device, non_blocking=True)
        total = (picked * mask).flatten(1).sum(1)
        return total if self.reduce == "sum" else total / mask.flatten(1).sum(1)


def segment(
    label: int | Sequence[int] | Tensor,
    mask: Tensor | None = None,
    *,
    reduce: Literal["sum", "mean"] = "sum",
    of: Of = "logit",
    activation: Activation = "softmax",
) -> Segment:
    """A class over a region of a segmentation: why are these pixels road?

    Args:
        label: The class, or one for each image, `(N,)`.
        mask: The region, `(H, W)` for all images or `(N, H, W)`: `True` inside, or a weight of at least 0 for each pixel.
            A mask of another size than the outputs is brought to theirs, each pixel taking the nearest of the mask.
            `None`: everywhere.
        reduce: `"sum"` over the region, or its (weighted) `"mean"`.
        of: What is summed: `"logit"`, `"probability"` or `"log_probability"`, of each pixel.
        activation: What makes probabilities of a pixel's logits.

    Example:
        >>> outputs = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> region = torch.tensor([[True, False], [False, True]])
        >>> segment(1, region)(outputs), segment(1, region, reduce="mean")(outputs)
        (tensor([11.]), tensor([5.5000]))
    """
    found = None
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.is_complex():
            raise TypeError(
                f"targets.segment: the mask must be a tensor of bools or weights, not {type(mask).__name__}"
            )
        found = _shared(mask.detach().clone(), 2)
        found = found if found.dtype == torch.float64 else found.float()
        if found.ndim not in {2, 3} or not found.numel():
            raise ValueError(f"targets.segment: the mask has shape {tuple(mask.shape)}: give (H, W), or (N, H, W)")
        if not bool((found.isfinite() & (found >= 0)).all()):
            raise ValueError("targets.segment: the mask's weights must be finite and at least 0")
    if reduce not in {"sum", "mean"}:
        raise ValueError(f"targets.segment: reduce={reduce!r}: choose 'sum' or 'mean'")
    _check_of("segment", of, activation)
    return Segment(_column(label, "segment"), found, reduce, of, activation)


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Scalar):
    """How near an embedding is to a given one; see `similarity`."""

    reference: Tensor  # (D,) or (N, D)
    kind: Literal["cosine", "dot"]

    def per_image(self) -> dict[str, Tensor]:
        """References that differ between images."""
        return {"reference": self.reference} if self.reference.ndim == 2 else {}

    def fit(self, count: int, shape: tuple[int, ...]) -> None:
        """Outputs `(N, D)` of the reference's length."""
        super().fit(count, shape)
        length = self.reference.shape[-1]
        if shape != (length,):
            raise ValueError(
                f"targets.similarity compares with an embedding of {length} numbers, and the outputs are of shape {shape} per "
                "image: they must be (N, D) with the same D; pass Model(adapter=...) that picks the embedding"
            )

    def read(self, outputs: Tensor) -> Tensor:
        """The cosine, or the scalar product."""
        reference = self.reference.to(outputs.device, outputs.dtype, non_blocking=True)
        product = (outputs * reference).sum(1)
        if self.kind == "dot":
            return product
        lengths: Tensor = torch.linalg.vector_norm(outputs, dim=1) * torch.linalg.vector_norm(reference, dim=-1)
        return product / lengths.masked_fill(lengths == 0, torch.inf)  # an embedding of zeros has no direction: 0


def similarity(reference: Tensor, kind: Literal["cosine", "dot"] = "cosine") -> Similarity:
    """How near the network's embedding of an image is to a given one: of another image, or of a text (CLIP).

    The network's outputs must be embeddings: of a model with two towers, explain the tower of images.

    Args:
        reference: The embedding, `(D,)`, or each image's own, `(N, D)`. It is held fixed: it gets no gradient.
        kind: `"cosine"`, in [-1, 1], or `"dot"`, the scalar product.

    Example:
        >>> similarity(torch.tensor([3.0, 4.0]))(torch.tensor([[6.0, 8.0], [4.0, -3.0]]))
        tensor([1., 0.])
    """
    if not isinstance(reference, Tensor) or not reference.is_floating_point():
        raise TypeError("targets.similarity: the reference must be a floating point tensor, (D,) or (N, D)")
    found = _shared(reference.detach().clone(), 1)
    if found.ndim not in {1, 2} or not found.numel():
        raise ValueError(f"targets.similarity: the reference has shape {tuple(reference.shape)}: give (D,), or (N, D)")
    if not bool(found.isfinite().all()):
        raise ValueError("targets.similarity: the reference holds NaN or infinite values")
    if kind not in {"cosine", "dot"}:
        raise ValueError(f"targets.similarity: kind={kind!r}: choose 'cosine' or 'dot'")
    if kind == "cosine" and not bool(found.abs().amax(-1).gt(0).all()):
        raise ValueError(
            "targets.similarity: a reference of zeros has no direction: use kind='dot', or another reference"
        )
    return Similarity(found, kind)


@dataclass(frozen=True, eq=False, repr=False)
class Box(Scalar):
    """A box that a detector finds; see `box`."""

    box: Tensor  # (4,) or (N, 4)
    label: Tensor  # () or (N,)

    def per_image(self) -> dict[str, Tensor]:
        """Boxes and labels that differ between images."""
        own = {"box": self.box} if self.box.ndim == 2 else {}
        return own | ({"label": self.label} if self.label.ndim else {})

    def check(self, count: int, shape: Sequence[int] | None) -> None:
        """Outputs that are no tensor; what they hold is seen when they are read."""
        if shape is not None:
            raise _no_detections(f"a tensor of shape (N, {', '.join(map(str, shape))})")
        self.fit(count, ())

    def __call__(self, outputs: Any) -> Tensor:
        """One score per image, `(N,)`, in float32 for boxes and scores of half precision."""
        if isinstance(outputs, Tensor):
            raise _no_detections(f"a tensor of shape {tuple(outputs.shape)}")
        if not isinstance(outputs, list | tuple):
            raise _no_detections(f"a {type(outputs).__name__}")
        if not outputs:
            raise _no_detections("empty")
        for found in outputs:
            _check_detections(found)
        self.fit(len(outputs), ())
        return self.read(outputs)

    def read(self, outputs: Any) -> Tensor:
        """The best box of each image."""
        boxes, labels = self.box.expand(len(outputs), 4), self.label.expand(len(outputs))
        return torch.stack([_best(*each) for each in zip(outputs, boxes, labels, strict=True)])


def box(box: Sequence[float] | Sequence[Sequence[float]] | Tensor, label: int | Sequence[int] | Tensor) -> Box:
    """One detection of a detector: why does it see this object here?

    The score is the largest IoU(box, found) * score(found) over the boxes that the detector finds with that label, and 0
    where it finds none (Visual Precision Search, Chen et al., CVPR 2025, arXiv:2411.16198). It falls when the object is
    found less surely, when its box moves away, and when it is called something else. A gradient follows the best
    box alone, and there is none where none is found: methods that only ask for scores see more.

    The network's outputs are what torchvision's detectors return in evaluation mode: a list with one dictionary per
    image, `{"boxes": (K, 4), "scores": (K,), "labels": (K,)}`, boxes as x1, y1, x2, y2 in pixels, K any number, also 0.
    `Model(adapter=...)` makes these of what other detectors return.

    Args:
        box: The box that is asked for, x1, y1, x2, y2 as the network's are, `(4,)`, or one for each image, `(N, 4)`. It is
            held fixed: it gets no gradient.
        label: Its label, as the network numbers them, or one for each image, `(N,)`.

    Example:
        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 0.0, 5.0, 2.0]]),
        ...     "scores": torch.tensor([0.5, 0.75]),
        ...     "labels": torch.tensor([3, 1]),
        ... }
        >>> box((0, 0, 4, 4), 3)([found]), box((0, 0, 4, 4), 7)([found])
        (tensor([0.2500]), tensor([0.]))
    """
    found, labels = _corners(box), _column(label, "box")
    if found.ndim == 2 and labels.ndim and len(found) != len(labels):
        raise ValueError(
            f"targets.box: there are {len(found)} boxes and {len(labels)} labels: give one of each for every image"
        )
    return Box(found, labels)


def _corners(given: Any) -> Tensor:
    """A box for all images `(4,)`, or one for each `(N, 4)`."""
    try:
        several = isinstance(given, list | tuple) and bool(given) and all(isinstance(one, Tensor) for one in given)
        tensor = torch.stack(list(given)) if several else torch.as_tensor(given)
        found = _shared(tensor.detach().cpu().to(torch.float64, copy=True), 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"targets.box: {given!r} is no box: give x1, y1, x2, y2 in pixels") from error
    if found.ndim not in {1, 2} or found.shape[-1] != 4 or not found.numel():
        raise ValueError(
            f"targets.box: the box has shape {tuple(tensor.shape)}: give x1, y1, x2, y2, or one box for each image (N, 4)"
        )
    bad = ~(found.isfinite().all(-1) & (found[..., :2] < found[..., 2:]).all(-1))
    if bool(bad.any()):
        first = found if found.ndim == 1 else found[bad][0]
        raise ValueError(
            f"targets.box: {first.tolist()} is no box: give finite x1, y1, x2, y2 with x1 < x2 and y1 < y2; that of x, y, "
            "width, height is (x, y, x + width, y + height)"
        )
    return found


def _no_detections(got: str) -> ValueError:
    return ValueError(
        f"targets.box needs a detector that returns a list of dictionaries, one per image, and its outputs are {got}: "
        'pass Model(adapter=...) that makes of them "boxes" (K, 4), "scores" (K,) and "labels" (K,) for each image'
    )


def _check_detections(found: Any) -> None:
    """Raise a `ValueError` unless this is what a detector found in an image."""
    if not isinstance(found, Mapping):
        raise _no_detections(f"a list with a {type(found).__name__}")
    tensors = [found.get(key) for key in ("boxes", "scores", "labels")]
    if not all(isinstance(one, Tensor) for one in tensors):
        raise ValueError(
            'targets.box reads the tensors "boxes" (K, 4), "scores" (K,) and "labels" (K,) of each image, and one has '
            f"{list(found)[:6]}: pass Model(adapter=...) that makes them"
        )
    shapes = [tuple(cast("Tensor", one).shape) for one in tensors]
    number = shapes[1][:1]
    if shapes != [(*number, 4), number, number] or not number:
        raise ValueError(
            f"targets.box: boxes of shape {shapes[0]}, scores {shapes[1]} and labels {shapes[2]} of one image do not fit "
            "together: they must be (K, 4), (K,) and (K,); pass Model(adapter=...) that makes them so"
        )


def _best(found: Mapping[str, Tensor], box: Tensor, label: Tensor) -> Tensor:
    """The largest overlap times score, `()`, of the boxes with that label in one image."""
    boxes = found["boxes"]
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    box, label = box.to(boxes.device, boxes.dtype, non_blocking=True), label.to(boxes.device, non_blocking=True)
    sides = torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])
    both = sides.clamp_min(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1)
    iou = both / (areas + (box[2:] - box[:2]).prod() - both)  # the given box has an area: never 0 / 0
    each = (iou * found["scores"]).masked_fill(found["labels"] != label, -torch.inf)
    best = each.amax() if len(each) else each.sum()
    return best.masked_fill(best == -torch.inf, 0)

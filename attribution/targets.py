"""What is explained: a class, an entry of a dense output, or any number that a callable makes of the outputs.

A target comes as an `int`, one per image (a sequence or a `LongTensor (N,)`), an index tuple into a dense output, a
callable `outputs -> (N,)`, or `None` for the class that the network itself names on the clean image. `resolve` checks it
once and freezes it; from then on every method carries a `Target`, which also remembers the image each row belongs to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional

Output = Literal["logit", "probability", "log_probability", "margin"]
Activation = Literal["softmax", "sigmoid", "none"]
TargetLike: TypeAlias = (
    int | Sequence[int] | Sequence[tuple[int, ...]] | tuple[int, ...] | Tensor | Callable[[Any], Tensor] | None
)

__all__ = ["Activation", "Output", "Target", "TargetLike", "read", "read_all", "resolve"]


@dataclass(frozen=True, eq=False)
class Target:
    """A target that was checked against the outputs and frozen.

    Attributes:
        rows: `LongTensor (M,)`, the image that each row belongs to, in the whole set.
        count: How many images the whole set has.
        index: `LongTensor (M, k)`, the entry of each row's output, or `None` where `function` says what to read.
        function: A callable `outputs -> (M,)`. If it has a method `take(rows)`, that gives the callable for those rows.
    """

    rows: Tensor
    count: int
    index: Tensor | None = None
    function: Callable[[Any], Tensor] | None = None

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
        return Target(rows, count, function=target)
    if shape is None:
        raise ValueError(
            "the network's output is no tensor, so a class number means nothing: pass target=a callable that turns the "
            "outputs into one score per image, or Model(adapter=...) that picks the tensor"
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
        index = target.detach().cpu().long()
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
    if output == "logit" or (output == "margin" and logits.shape[1] == 1):
        return logits
    if output == "margin":
        best = logits.topk(2, 1)
        others = torch.where(logits == best.values[:, :1], best.values[:, 1:], best.values[:, :1])
        return logits - others
    if activation == "none":
        return logits if output == "probability" else logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
    single = activation == "sigmoid" or logits.shape[1] == 1
    log = functional.logsigmoid(logits) if single else logits.log_softmax(1)
    return log.exp() if output == "probability" else log

"""The way from the image to the layers that first see it: there relevance itself is handed back, not a coefficient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._rules import LINEAR, Rules, _in_place, applied, depends, own

# what only moves values about, copies or drops them: relevance goes back the way they came
MOVES = frozenset(
    [
        "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "swapaxes", "swapdims", "movedim",
        "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as", "contiguous", "clone", "to",
        "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda", "pad", "__getitem__", "narrow", "select",
        "index_select", "split", "chunk", "unbind", "tensor_split", "flip", "roll", "rot90", "cat", "concat", "concatenate",
        "stack", "repeat", "tile", "repeat_interleave", "unfold", "pixel_unshuffle", "pixel_shuffle",
    ]
)  # fmt: skip
# with a constant for each channel, these change the unit that pixels are in
SCALES = frozenset(
    [
        "add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "neg", "negative", "addcmul",
        "__radd__", "__rsub__", "__rmul__",
    ]
)  # fmt: skip

WRITES = frozenset(["__setitem__", "copy_"])

MARK = 0.7265625  # no constant that a network pads with


@own
class Hand(torch.autograd.Function):
    """A value whose coefficient is handed, scaled, to what stands for it: `(value, part, scale, part, scale, ...)`.

    A scale of `None` is 1. `value` has no graph; each part has its shape.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, *pairs: Tensor | None) -> Tensor:
        """The value."""
        ctx.save_for_backward(*pairs[1::2])
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *coefficients: Tensor) -> tuple[Tensor | None, ...]:
        """The coefficient times every scale."""
        (c,) = coefficients
        found: list[Tensor | None] = [None]
        for scale in ctx.saved_tensors:
            found += [c if scale is None else c * scale, None]
        return tuple(found)


def hand(value: Tensor, *pairs: Tensor | None) -> Tensor:
    """`Hand`, typed."""
    return applied(Hand, value.detach(), *pairs)


class Pixels(NamedTuple):
    """A tensor that holds pixels, moved about or in another unit.

    Attributes:
        tensor: It.
        handed: The same values for a layer that hands back a coefficient: relevance is value times coefficient.
        beside: The least and the most that each value could be, where a rule asks for them.
        marks: `MARK` where there is a pixel, and something else where there is padding or another constant.
    """

    tensor: Tensor
    handed: Tensor
    beside: tuple[Tensor, ...]
    marks: Tensor


class Known(NamedTuple):
    """What is known of a tensor that holds pixels. Views of it have views of this, and writing goes to all of them.

    Attributes:
        tensor: It.
        beside: Two that each value could be, the least and the most in either order, where a rule asks for them.
        marks: As in `Pixels`.
    """

    tensor: Tensor
    beside: tuple[Tensor, ...]
    marks: Tensor


class FromPixels(Rules):
    """Rules under which the gradient at the image is the relevance of its pixels, whatever scales and pads them first.

    Normalisation by the model or by the network's first lines, padding and copies are no layers: relevance passes them. The
    first operation of any other kind is where a coefficient becomes relevance.

    Args:
        image: The leaf.
        bounds: The least and the largest value of a pixel, if a rule asks for them.
    """

    def __init__(self, image: Tensor, bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        values = image.detach()
        beside = () if bounds is None else tuple(torch.full_like(values, b) for b in bounds)
        self._pixels: dict[int, Known] = {}
        self._keep(image, beside, torch.full_like(values, MARK))

    def pixels(self, x: Tensor) -> Pixels | None:
        """What is known of a tensor that still holds pixels, `None` for all others."""
        known = self._pixels.get(id(x))
        if known is None:
            return None
        beside = known.beside
        if beside:
            beside = torch.minimum(*beside), torch.maximum(*beside)
        values = x.detach().clone()  # x may be written to later
        return Pixels(x, hand(values, x, values), beside, known.marks)

    def _keep(self, x: Tensor, beside: tuple[Tensor, ...], marks: Tensor) -> None:
        self._pixels[id(x)] = Known(x, beside, marks)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call; those on pixels are told apart from the layers."""
        kwargs = kwargs or {}
        held = [t for t in _tensors((args, kwargs)) if id(t) in self._pixels]
        name = getattr(func, "__name__", "")
        if not held or name in LINEAR:
            return super().__torch_function__(func, types, args, kwargs)
        plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        if name == "__get__" and not depends(found := func(*args, **kwargs)):  # its shape, say
            return found
        if (name in MOVES or name == "__get__") and self._only_pixels(args, kwargs):
            return self._moved(func, args, kwargs)
        if name in WRITES and args[0].is_floating_point() and self._only_pixels(args, kwargs):
            return self._written(func, args, kwargs)
        if plain != name and args[0] is not held[0]:  # what is written to holds none
            args, kwargs = _replaced((args, kwargs), self._handed)
            return super().__torch_function__(func, types, args, kwargs)
        if plain in SCALES and len(held) == 1 and _per_channel(held[0], plain, args, kwargs):
            return self._scaled(func, args, kwargs, held[0], within=plain != name)
        if args and args[0] is held[0] and (name == "__setitem__" or plain != name or _in_place(plain, args, kwargs)):
            return self._overwritten(func, types, args, kwargs)
        args, kwargs = _replaced((args, kwargs), self._handed)
        return super().__torch_function__(func, types, args, kwargs)

    def _handed(self, t: Tensor) -> Tensor:
        known = self.pixels(t)
        return t if known is None else known.handed

    def _only_pixels(self, args: Any, kwargs: Any) -> bool:
        """Whether nothing that came out of a layer is among them."""
        return not any(depends(t) and id(t) not in self._pixels for t in _tensors((args, kwargs)))

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Pixels in other places, beside others or constants; what is known of them goes there."""
        found = func(*args, **kwargs)

        def along(what: Callable[[Known], Tensor]) -> list[Tensor]:
            return _tensors(self._with(what, func, args, kwargs))

        ends = [along(lambda p, i=i: p.beside[i]) for i in range(self._ends)]  # type: ignore[misc]
        marks = along(lambda p: p.marks)
        for i, result in enumerate(_tensors(found)):
            self._keep(result, tuple(e[i] for e in ends), marks[i])
        return found

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Pixels or constants written into pixels, or pixels into a constant: what is known of them is written as well."""
        x = args[0]
        if id(x) not in self._pixels:
            self._admit(x)
        found = func(*args, **kwargs)
        for i in range(self._ends):
            self._with(lambda p, i=i: p.beside[i], func, args, kwargs)  # type: ignore[misc]
        self._with(lambda p: p.marks, func, args, kwargs)
        return found

    def _admit(self, x: Tensor) -> None:
        """A constant that pixels are about to be written into; a view belongs to what it is a view of."""
        base = x._base if x._base is not None else x
        if id(base) not in self._pixels:
            values = base.detach()
            self._keep(base, tuple(values.clone() for _ in range(self._ends)), values.clone())
        if base is not x:
            known, offset = self._pixels[id(base)], x.storage_offset() - base.storage_offset()
            ends = tuple(b.as_strided(x.shape, x.stride(), offset) for b in known.beside)
            self._keep(x, ends, known.marks.as_strided(x.shape, x.stride(), offset))

    def _scaled(self, func: Any, args: Any, kwargs: Any, x: Tensor, *, within: bool) -> Tensor:
        """Pixels in another unit: relevance passes unchanged."""
        ends = tuple(self._with(lambda p, i=i: p.beside[i], func, args, kwargs) for i in range(self._ends))  # type: ignore[misc]
        value = self._with(lambda p: p.tensor.detach().clone() if within else p.tensor.detach(), func, args, kwargs)
        found = hand(value, x.expand_as(value), None)
        if within:
            x.copy_(found)
            return x
        self._keep(found, ends, self._pixels[id(x)].marks.expand_as(value).clone())
        return found

    def _overwritten(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """A layer that works in place: from here on the tensor holds no pixels.

        Where it is a part of another that holds some still, its values count as such.
        """
        x = args[0]
        values = x.detach().clone()
        fresh = hand(values.clone(), x, values)
        rest, named = _replaced((args[1:], kwargs), self._handed)
        found = super().__torch_function__(func, types, (fresh, *rest), named)
        place = x.untyped_storage().data_ptr()
        same = [k for k in self._pixels.values() if k.tensor.untyped_storage().data_ptr() == place]
        if any(k.tensor.numel() > x.numel() for k in same):
            zero = fresh.detach() == 0
            x.copy_(hand(fresh, fresh, torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, fresh.detach()))))
            for end in self._pixels[id(x)].beside:
                end.zero_()
        else:
            x.copy_(fresh)
            for known in same:
                del self._pixels[id(known.tensor)]
        return x if found is fresh else found

    @property
    def _ends(self) -> int:
        """How many bounds are known."""
        return len(next(iter(self._pixels.values())).beside)

    def _with(self, what: Callable[[Known], Tensor], func: Any, args: Any, kwargs: Any) -> Any:
        """The same call with something else in the pixels' place, without a graph; what works in place does so there."""

        def other(t: Tensor) -> Tensor:
            return what(self._pixels[id(t)]) if id(t) in self._pixels else t

        with torch.no_grad():
            moved, named = _replaced((args, kwargs), other)
            return func(*moved, **named)


def _tensors(values: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _replaced(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested values with every tensor changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {k: _replaced(v, change) for k, v in values.items()}
    return type(values)(_replaced(v, change) for v in values) if type(values) in {list, tuple} else values


def _per_channel(x: Tensor, name: str, args: Any, kwargs: Any) -> bool:
    """Whether the others are numbers, or constants with no more than one axis, and none that was learnt."""
    if name in {"div", "divide", "true_divide"} and (args[0] is not x or kwargs.get("rounding_mode") is not None):
        return False
    others = [t for t in _tensors((args, kwargs)) if t is not x]
    return all(
        not t.requires_grad and not isinstance(t, nn.Parameter) and sum(size > 1 for size in t.shape) <= 1
        for t in others
    )

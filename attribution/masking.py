"""Perturbed images in one place: composed lazily, on the device, and run through the model in full batches.

A `Source` says what is kept of each image; an `Evaluations` collects the sources of any number of methods and metrics and
runs all of them as one stream. Nothing here ever holds all masks or all perturbed images.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ._parameters import canonical
from .model import Model
from .targets import Output, Target

T = TypeVar("T")

__all__ = [
    "Clean", "Coalitions", "Enlarged", "Evaluations", "Masks", "Ranks", "Source", "Windows",
    "beside", "evaluate", "evaluate_each", "identities",
]  # fmt: skip


class Source(Protocol):
    """Perturbed versions of every image of a set: `count` of each of `images`."""

    images: Tensor

    @property
    def count(self) -> Any:
        """Versions of each image: a number, or one for each where they differ."""

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Compose versions `items` of image `row` into `out`, `(len(items), C, H, W)`."""


def _mix(out: Tensor, image: Tensor, baseline: Tensor, keep: Tensor) -> None:
    """`out = keep * image + (1 - keep) * baseline`, exact to the bit where keep is 0 or 1."""
    torch.lerp(baseline, image, keep.to(out.dtype), out=out)  # ten times faster than where, and as exact


def beside(keep: Tensor, images: Tensor) -> Tensor:
    """One number per pixel, token or column, `(n, ...)`, shaped to stand beside a batch of the images' kind."""
    if images.ndim == 4:
        return keep.unsqueeze(1)
    return keep.unsqueeze(-1) if images.ndim == 3 else keep


@dataclass(eq=False)
class _Composed:
    """What all sources share: images `(N, C, H, W)` and the baseline that stands in, broadcastable to them."""

    images: Tensor
    baseline: Tensor

    def _of(self, row: int, n: int) -> tuple[Tensor, Tensor]:
        """Image and baseline of one row, `(n, C, H, W)` without copying."""
        shape = (n, *self.images.shape[1:])
        baseline = self.baseline[row if self.baseline.shape[0] > 1 else 0]
        return self.images[row].expand(shape), baseline.expand(shape)


@dataclass(eq=False)
class Clean:
    """Each image as it is, or a given stand-in for it, once."""

    images: Tensor
    stand_in: Tensor | None = None
    count: int = 1

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Copy the image, or its stand-in."""
        del items
        value = self.images if self.stand_in is None else self.stand_in
        out.copy_(value[row if value.shape[0] > 1 else 0].expand(out.shape[1:]).unsqueeze(0))


@dataclass(eq=False)
class Masks(_Composed):
    """Soft masks, made when they are needed.

    Args:
        masks: `masks(items)` gives `(len(items), 1, H, W)` in [0, 1], 1 keeps the pixel; the same for every image (for
            tables `(len(items), F)`, for tokens `(len(items), T, 1)`).
        count: How many there are.
    """

    masks: Callable[[slice], Tensor]
    count: int

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Blend image and baseline by the masks."""
        image, baseline = self._of(row, len(out))
        _mix(out, image, baseline, self.masks(items).to(out.device, out.dtype))


@dataclass(eq=False)
class Enlarged(_Composed):
    """Soft masks of each image's own, kept small: enlarged and stretched to [0, 1] when they are needed.

    Args:
        maps: For each image `(k, h, w)`, of any values but none constant: largest where the image is kept.
    """

    maps: Sequence[Tensor]

    @property
    def count(self) -> list[int]:
        """How many masks there are of each image."""
        return [len(own) for own in self.maps]

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Enlarge some of them and blend image and baseline."""
        image, baseline = self._of(row, len(out))
        maps = self.maps[row][items][:, None].to(out.device, out.dtype)
        size = (out.shape[2], out.shape[3])
        maps = (
            functional.interpolate(maps, size, mode="bilinear", align_corners=False) if maps.shape[2:] != size else maps
        )
        least, most = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
        _mix(out, image, baseline, (maps - least) / (most - least).clamp_min(torch.finfo(out.dtype).tiny))


@dataclass(eq=False)
class Coalitions(_Composed):
    """Regions of a label map, each kept to a degree.

    Args:
        labels: `LongTensor (N, H, W)` (or one for all), numbered without gaps; `(N, F)` for tables, `(N, T)` for tokens.
        coalitions: `coalitions(row, items)` gives `(len(items), d)`, how much of each region is kept: bool or in [0, 1].
        count: How many coalitions there are for each image; where the images differ, one number for each.
    """

    labels: Tensor
    coalitions: Callable[[int, slice], Tensor]
    count: int | Sequence[int]

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Look up every pixel's region."""
        image, baseline = self._of(row, len(out))
        labels = self.labels[row if self.labels.shape[0] > 1 else 0]
        keep = self.coalitions(row, items).to(out.device, out.dtype)
        keep = keep.index_select(1, labels.flatten()).reshape(-1, *labels.shape)
        _mix(out, image, baseline, beside(keep, self.images))


@dataclass(eq=False)
class Ranks(_Composed):
    """The curves of insertion and deletion: pixels in an order, cut at given points.

    Args:
        ranks: Integers `(N, H, W)`, 0 for the pixel that comes first.
        cuts: `LongTensor (K,)`: version k differs in the first `cuts[k]` pixels.
        insert: Whether those pixels are the image's (insertion), the rest the baseline's, or the other way round.
    """

    ranks: Tensor
    cuts: Tensor
    insert: bool

    @property
    def count(self) -> int:
        """How many cut points there are."""
        return len(self.cuts)

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Compare ranks with the cut points."""
        image, baseline = self._of(row, len(out))
        cuts = self.cuts[items].to(self.ranks.dtype).to(self.ranks.device)
        first = self.ranks[row][None, None] < cuts[:, None, None, None]
        _mix(out, image, baseline, first if self.insert else ~first)


@dataclass(eq=False)
class Windows(_Composed):
    """One rectangle removed at a time, written as a slice.

    Args:
        corners: `(K, 2)` tops and lefts.
        size: (height, width); what hangs over the border is cut off.
    """

    corners: list[tuple[int, int]]
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.corners)

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Copy the image and overwrite one slice of each copy."""
        image, baseline = self._of(row, len(out))
        out.copy_(image)
        for i, (top, left) in enumerate(self.corners[items]):
            place = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
            out[i][place] = baseline[i][place]


class Evaluations:
    """Everything that is to be evaluated on one set of images, as one stream of full batches.

    Args:
        model: The model.
        target: Frozen, one row per image.
        output: Which score, where a source is not asked for with one of its own.
        mask: Where the object is, `(N, H, W)` bool, for metrics that need to know.

    Example:
        >>> images = torch.rand(2, 1, 4, 4)
        >>> model = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
        >>> todo = Evaluations(model, model.resolve(images, 0))
        >>> clean = todo.ask(Clean(images), key="clean")
        >>> again = todo.ask(Clean(images), key="clean")  # asked for twice, paid once
        >>> todo.run()
        >>> clean().shape, model.forwards
        (torch.Size([2, 1]), 2)
    """

    def __init__(
        self, model: Model, target: Target, *, output: Output = "probability", mask: Tensor | None = None
    ) -> None:
        self.model, self.target, self.output, self.mask = model, target, output, mask
        self._waiting: list[tuple[Source, Output, Callable[[Tensor], None]]] = []
        self._tickets: dict[Hashable, Callable[[], Tensor]] = {}
        self._made: dict[Hashable, Any] = {}

    def ask(self, source: Source, *, output: Output | None = None, key: Hashable | None = None) -> Callable[[], Tensor]:
        """Put a source on the list; what comes back gives its scores `(N, count)` once `run` was called.

        Args:
            source: Versions of this set's images.
            output: Which score; the default is this object's.
            key: Sources with the same key and output are the same: only the first is evaluated.
        """
        _same_for_all(source)
        output = output or self.output
        key = None if key is None else (key, output)
        if key is not None and key in self._tickets:
            return self._tickets[key]
        box: list[Tensor] = []

        def ticket() -> Tensor:
            if not box:
                self.run()
            return box[0]

        self._waiting.append((source, output, box.append))
        if key is not None:
            self._tickets[key] = ticket
        return ticket

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made of these images the first time it is asked for, and held: a baseline, the order of a map's pixels.

        Args:
            key: What is made, all that it depends on besides the images among it.
            make: Makes it.
        """
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def run(self) -> None:
        """Evaluate all that was asked for."""
        waiting, self._waiting = self._waiting, []
        for output in dict.fromkeys(o for _, o, _ in waiting):
            group = [(source, give) for source, o, give in waiting if o == output]
            found = _scores([s for s, _ in group], self.model, self.target, output)
            for (source, give), scores in zip(group, found, strict=True):
                give(scores.reshape(len(source.images), source.count))


def evaluate(
    source: Source,
    model: Model,
    target: Target,
    *,
    output: Output,
    start: int = 0,
    stop: int | None = None,
    key: Hashable | None = None,
    every: bool = False,
) -> Tensor:
    """The scores of one source, `(N, stop - start)`, on the model's device.

    Args:
        source: Versions of the images.
        model: The model.
        target: Frozen, one row per image.
        output: Which score.
        start: The first version, and
        stop: the one after the last; `None` for all.
        key: Names what is done to an image, so that within `Model.sharing` methods that do the same, to the same images
            with the same baseline, pay for it once: version n must be the same under equal keys.
        every: Whether every class is scored instead of the target: `(N, stop - start, classes)`.
    """
    _same_for_all(source)
    stop = source.count if stop is None else stop
    if key is None or model.shared is None:
        (found,) = _scores([_Part.of(source, start, stop)], model, target, output, every=every)
        return found.reshape(len(source.images), stop - start, *found.shape[1:])
    baseline = getattr(source, "baseline", getattr(source, "stand_in", None))
    places = [(key, every, one) for one in identities(source.images, baseline, target, output)]
    known = [model.shared.get(place) for place in places]
    have = [0 if one is None else len(one) for one in known]
    # what was forgotten before `start` is not evaluated again: nobody asked for it here
    begin = [min(n, stop) if n >= start else start for n in have]
    part = _Part(source, begin, [stop - at for at in begin])
    (new,) = _scores([part], model, target, output, every=every)
    model.reuse(target.rows.repeat_interleave(torch.tensor(begin) - start))
    found_each = []
    for place, old, at, more in zip(places, known, begin, new.split(part.count), strict=True):
        if old is None or not len(more):
            whole = more if old is None else old
        else:
            whole = torch.cat([old, more]) if at == len(old) else old
        if at == (0 if old is None else len(old)):
            model.shared[place] = whole
        found_each.append(whole[start:stop] if len(whole) >= stop else more)
    return torch.stack(found_each)


def evaluate_each(source: Source, model: Model, target: Target, *, output: Output) -> list[Tensor]:
    """The scores of a source whose images have different numbers of versions: one `(count_i,)` for each image."""
    (found,) = _scores([source], model, target, output)
    return list(found.split(_counts(source)))


def identities(images: Tensor, baseline: Tensor | None, target: Target, output: Output) -> list[Hashable]:
    """What tells one image with its baseline, target and score from another, for each image of a set."""
    found: list[Hashable] = []
    for row, image in enumerate(images):
        own = None if baseline is None else baseline[row if baseline.shape[0] > 1 else 0]
        aim = _Same(target.function) if target.index is None else tuple(target.index[row].tolist())
        found.append((canonical(image), canonical(own), aim, int(target.rows[row]), output))
    return found


class _Same:
    """A callable that equals itself alone, and is held: an address alone would be another's one day."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.function is self.function

    def __hash__(self) -> int:
        return id(self.function)


def _same_for_all(source: Source) -> None:
    if not isinstance(source.count, int):
        raise ValueError("this source has other numbers of versions for other images: use evaluate_each")


def _counts(source: Any) -> list[int]:
    """How many versions there are of each image."""
    count = source.count
    return [count] * len(source.images) if isinstance(count, int) else list(count)


def _scores(sources: list[Any], model: Model, target: Target, output: Output, *, every: bool = False) -> list[Tensor]:
    """The scores of every source, end to end.

    They are written into one tensor: thousands of small ones would each keep a page of the heap from being used again.
    """
    total = [sum(_counts(s)) for s in sources]
    ends = torch.tensor([0, *total]).cumsum(0).tolist()
    at = ends[:-1]
    device = model.device or sources[0].images.device
    all_of_them: Tensor | None = None
    for sizes, batch in _stream(sources, model, target, output, every=every):
        if all_of_them is None:
            all_of_them = batch.new_empty(ends[-1], *batch.shape[1:], device=device)
        read = 0
        for which, size in sizes:
            all_of_them[at[which] : at[which] + size] = batch[read : read + size]
            at[which] += size
            read += size
    if all_of_them is None:
        all_of_them = torch.zeros(0, device=device)
    return [all_of_them[a:b] for a, b in itertools.pairwise(ends)]


@dataclass(eq=False)
class _Part:
    """Some of a source's versions: for each image so many from a start of its own."""

    source: Source
    starts: list[int]
    count: list[int]

    @classmethod
    def of(cls, source: Source, start: int, stop: int) -> "_Part":
        """The same versions of every image."""
        n = len(source.images)
        return cls(source, [start] * n, [stop - start] * n)

    @property
    def images(self) -> Tensor:
        return self.source.images

    def write(self, out: Tensor, row: int, items: slice) -> None:
        start = self.starts[row]
        self.source.write(out, row, slice(items.start + start, items.stop + start))


def _stream(
    sources: list[Any], model: Model, target: Target, output: Output, *, every: bool = False
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Fill one buffer again and again, across images and sources, and score it.

    Yields which source each part of the batch belongs to, as (source, size), and the batch's scores.
    """
    images = sources[0].images
    device = model.device or images.device
    shape = images.shape[1:]
    pieces = ((i, row, n) for i, s in enumerate(sources) for row, n in enumerate(_counts(s)) if n)
    piece = next(pieces, None)
    at = 0
    buffer = torch.empty(0)
    while piece is not None:
        size = model.batch("forward")
        if len(buffer) < size:
            # channel by channel: masks are the same for all channels, and a first layer reorders its input anyway
            buffer = torch.empty((size, *shape), dtype=images.dtype, device=device)
        filled, rows, sizes = 0, [], []
        while piece is not None and filled < size:
            which, row, count = piece
            take = min(size - filled, count - at)
            sources[which].write(buffer[filled : filled + take], row, slice(at, at + take))
            rows += [row] * take
            sizes.append((which, take))
            filled, at = filled + take, at + take
            if at == count:
                piece, at = next(pieces, None), 0
        yield sizes, model.scores(buffer[:filled], target.take(torch.tensor(rows)), output=output, every=every)

"""What path methods share: points on paths run through the model in full batches, and sums that are kept in place.

A `Path` writes the points of a block of images; `walk` runs them and hands back scores and gradients, tile by tile. A
method adds each tile to its sums and forgets it, so that memory grows with neither steps nor samples. A path that cannot
be written beforehand, since its next point depends on the last gradient, yields tiles of its own.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..model import Model, map_type
from ..targets import Output, Target

__all__ = ["Line", "Path", "Tile", "add", "integrate", "spread", "walk"]


class Tile(NamedTuple):
    """Scores and gradients at the points `items` of the images `rows`: k points of each of r images.

    Attributes:
        rows: Which images.
        items: Which points; those of an image come in their order.
        scores: `(k, r)`.
        gradients: `(k, r, C, H, W)`, to be read only.
        ways: What the path wrote beside its points, `(k, r, C, H, W)`, to be used up; `None` if nobody asked for it.
    """

    rows: slice
    items: slice
    scores: Tensor
    gradients: Tensor
    ways: Tensor | None = None


class Path(Protocol):
    """A path for every image, `count` points of each of `images`."""

    images: Tensor

    @property
    def count(self) -> int:
        """Points on each path."""

    def enter(self, block: slice) -> None:
        """From here on points of these images are asked for, in their order; those before are done."""

    def write(self, points: Tensor, ways: Tensor | None, rows: slice, items: slice) -> None:
        """Write points `items` of images `rows` into `points`, `(k, r, C, H, W)`, and what goes with each into `ways`."""


class Line:
    """Straight lines.

    Args:
        images: Where they end, `(N, C, H, W)`.
        start: Where they start, broadcastable to the images.
        at: Places on them, `(K,)`: 0 is the start, 1 the end, both exact to the bit.
    """

    def __init__(self, images: Tensor, start: Tensor, at: Tensor) -> None:
        self.images, self.start = images, start
        self.at = at.to(images).reshape(-1, *[1] * images.ndim)

    @property
    def count(self) -> int:
        """How many places there are."""
        return len(self.at)

    def enter(self, block: slice) -> None:
        """Nothing is kept."""

    def write(self, points: Tensor, ways: Tensor | None, rows: slice, items: slice) -> None:
        """Blend start and end."""
        del ways
        start = self.start[rows] if len(self.start) > 1 else self.start
        torch.lerp(start, self.images[rows], self.at[items], out=points)


def walk(model: Model, path: Path, target: Target, *, output: Output, ways: bool = False) -> Iterator[Tile]:
    """Run all points of all images through the model in full batches.

    Blocks of as many images as a batch holds are taken one after the other, and within a block point after point: what a
    path makes for a point serves the whole block, and a batch is made of few tiles, whatever the numbers.

    Args:
        model: The model.
        path: The paths.
        target: Frozen, one row per image.
        output: Which score.
        ways: Whether the path writes a second buffer beside the points.

    Yields:
        Tiles, which hold until the next one is asked for.
    """
    images, count = path.images, path.count
    shape = images.shape[1:]
    left = len(images) * count
    block, width, at = slice(0, 0), 0, 0
    points = beside = images.new_empty(0)
    while left:
        size = min(model.batch("gradient"), left)
        if len(points) < size:
            points = images.new_empty(size, *shape)
            beside = images.new_empty(size, *shape) if ways else beside
        tiles, rows, filled = [], [], 0
        while filled < size:
            if at == width * count:
                width, at = min(model.batch("gradient"), len(images) - block.stop), 0
                block = slice(block.stop, block.stop + width)
                path.enter(block)
            item, row = divmod(at, width)
            if row == 0 and size - filled >= width:
                many, wide = min((size - filled) // width, count - item), width
            else:
                many, wide = 1, min(width - row, size - filled)
            part, tall = slice(filled, filled + many * wide), (many, wide)
            own, items = slice(block.start + row, block.start + row + wide), slice(item, item + many)
            path.write(points[part].unflatten(0, tall), beside[part].unflatten(0, tall) if ways else None, own, items)
            tiles.append((own, items, part, tall))
            rows.append(torch.arange(own.start, own.stop).repeat(many))
            filled, at = part.stop, at + many * wide
        scores, gradients = model.gradients(points[:filled], target.take(torch.cat(rows)), output=output)
        for own, items, part, tall in tiles:
            yield Tile(
                own,
                items,
                scores[part].unflatten(0, tall),
                gradients[part].unflatten(0, tall),
                beside[part].unflatten(0, tall) if ways else None,
            )
        left -= filled


def add(total: Tensor, values: Tensor, weights: Sequence[float]) -> None:
    """`total += sum_k weights[k] values[k]`, in place: `(r, ...)` and `(k, r, ...)`."""
    if len(values) > 1 and values.dtype == total.dtype and values.is_contiguous() and total.is_contiguous():
        total.view(-1).addmv_(values.flatten(1).T, torch.tensor(weights, dtype=total.dtype).to(total.device))
        return
    for value, weight in zip(values, weights, strict=True):
        total.add_(value, alpha=weight)


def integrate(
    model: Model, images: Tensor, start: Tensor, target: Target, *, at: Tensor, weights: Tensor, output: Output
) -> tuple[Tensor, Tensor]:
    """The weighted sum of the gradients along straight lines `(N, C, H, W)`, and the scores there, `(N, K)`.

    Arguments as in `integrated_gradients`.
    """
    total = scores = torch.empty(0)
    weight = weights.tolist()
    for tile in walk(model, Line(images, start, at), target, output=output):
        if not total.numel():
            total = _zeros(images, like=tile.gradients)
            scores = tile.scores.new_empty(len(images), len(weight))
        add(total[tile.rows], tile.gradients, weight[tile.items])
        scores[tile.rows, tile.items] = tile.scores.T
    return total.contiguous(), scores


def spread(values: Tensor, images: Tensor) -> Tensor:
    """One number per image, `(..., r)`, shaped to stand beside `(..., r, C, H, W)`."""
    return values.reshape(*values.shape, *[1] * (images.ndim - 1))


def _zeros(images: Tensor, *, like: Tensor) -> Tensor:
    """Zeros for every image, laid out as the gradients `(k, r, ...)` are, so that sums run straight through memory."""
    last = images.ndim == 4 and not like.is_contiguous() and like[0].is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(images.shape, dtype=map_type(images), device=like.device, memory_format=layout).zero_()

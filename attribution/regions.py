"""Label maps: which pixels are removed together."""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .model import Model, map_type

Name = Literal["grid", "slic", "felzenszwalb"]
Regions: TypeAlias = Name | Tensor | Callable[[Tensor], Tensor]

__all__ = [
    "Name", "Picture", "Regions",
    "cells", "grid", "layout", "make", "most", "paint", "sides", "sizes", "superpixels", "table", "unit_range",
]  # fmt: skip


def make(regions: Regions, images: Tensor, model: Model, *, n_regions: int = 49) -> Tensor:
    """Label maps `(N, H, W)`, `LongTensor` on the images' device, each numbered 0, 1, ... without gaps.

    Tables have a region for every column, `(N, F)`, and tokens one for every token, `(N, T)`, unless labels are given.

    Args:
        regions: `"grid"`, `"slic"`, `"felzenszwalb"`, an integer `(H, W)` or `(N, H, W)` map with any labels (`(F,)` or
            `(T,)` for tables and tokens), or a callable `images -> map`.
        images: `(N, C, H, W)` in the model's bounds, `(N, F)` or `(N, T, D)`.
        model: Knows the bounds, so that colours are compared on one scale.
        n_regions: The most regions that are made of an image: superpixels give about as many, the grid has the last
            square, or a column more, that does not exceed it.

    Raises:
        ValueError: An unknown name or a map that does not fit the images.

    Example:
        >>> images = torch.rand(2, 3, 12, 12)
        >>> make("grid", images, Model(torch.nn.Flatten()), n_regions=9).amax()
        tensor(8)
    """
    n, space = len(images), images.shape[2:] if images.ndim == 4 else images.shape[1:2]
    if isinstance(regions, str):
        if regions not in get_args(Name):
            raise ValueError(f"regions={regions!r}: choose one of {get_args(Name)}, a label map or a callable")
        if n_regions < 1:
            raise ValueError(f"n_regions={n_regions}: at least one region is needed")
        if images.ndim != 4:
            return cells(space, images).expand(n, -1)
        if regions == "grid":
            rows, columns = sides(n_regions)
            return grid(space[0], space[1], rows, columns).to(images.device).expand(n, -1, -1)
        unit = unit_range(images, model).cpu()
        labels = torch.stack([superpixels(regions, Picture(image), n_regions) for image in unit])
        return labels.to(images.device)
    labels = regions if isinstance(regions, Tensor) else regions(images)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise ValueError("regions must be a tensor of whole numbers, one label per pixel")
    labels = labels if labels.ndim == 1 + len(space) else labels[None]
    if labels.ndim != 1 + len(space) or labels.shape[1:] != space or labels.shape[0] not in (1, n):
        one, all_of_them = ", ".join(map(str, space)), ", ".join(map(str, (n, *space)))
        raise ValueError(
            f"a label map of shape {tuple(labels.shape)} does not fit images of shape {tuple(images.shape)}: pass "
            f"({one}) or ({all_of_them})"
        )
    numbered = [torch.unique(one, return_inverse=True)[1] for one in labels.long()]
    return torch.stack(numbered).to(images.device).expand(n, *space)


def sides(n_regions: int) -> tuple[int, int]:
    """Rows and columns of the grid with at most so many cells.

    Example:
        >>> sides(49), sides(50), sides(56)
        ((7, 7), (7, 7), (7, 8))
    """
    rows = math.isqrt(n_regions)
    return rows, n_regions // rows


def layout(side: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Cells of an input of this shape, without the batch axis: (rows, columns), or columns of a table, or tokens.

    Example:
        >>> layout(8, (3, 5, 224)), layout(8, (12,))
        ((5, 8), (12,))
    """
    return (min(side, shape[1]), min(side, shape[2])) if len(shape) == 3 else (shape[0],)


def cells(layout: Sequence[int], inputs: Tensor) -> Tensor:
    """The cell of each pixel, column or token, the same for all inputs: `(H, W)`, `(F,)` or `(T,)`.

    Example:
        >>> cells((1, 2), torch.zeros(3, 1, 2, 4)).tolist(), cells((3,), torch.zeros(5, 3)).tolist()
        ([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 1, 2])
    """
    if inputs.ndim == 4:
        return grid(inputs.shape[2], inputs.shape[3], layout[0], layout[1])[0].to(inputs.device)
    return torch.arange(layout[0], device=inputs.device)


def unit_range(images: Tensor, model: Model) -> Tensor:
    """Images between 0 and 1 by the model's bounds; without bounds each by its own range, whatever is beside it."""
    if model.bounds is None:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    else:
        low, high = (torch.tensor(b, dtype=images.dtype, device=images.device) for b in model.bounds)
    return ((images - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def most(regions: Regions, n_regions: int, shape: Sequence[int]) -> int:
    """The most regions that an input of this shape, without the batch axis, can have: what a cost is reckoned with.

    Example:
        >>> most("slic", 49, (3, 224, 224)), most("slic", 49, (8,)), most(torch.tensor([4, 4, 7]), 49, (3,))
        (49, 8, 2)
    """
    if isinstance(regions, Tensor):
        many = regions if regions.ndim == (2 if len(shape) == 3 else 1) + 1 else regions[None]
        return max(len(one.unique()) for one in many)
    return min(n_regions, shape[1] * shape[2]) if len(shape) == 3 else shape[0]


def sizes(labels: Tensor) -> list[int]:
    """How many regions each label map has.

    Example:
        >>> sizes(torch.tensor([[0, 1, 2], [0, 0, 1]]))
        [3, 2]
    """
    return [int(top) + 1 for top in labels.flatten(1).amax(1)]


def paint(
    values: Sequence[Tensor], labels: Tensor, inputs: Tensor, *, share: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Regions' values as maps, and as one table.

    Args:
        values: `(d_i,)` for every image.
        labels: `(N, H, W)`, or `(N, F)`, `(N, T)`.
        inputs: What is explained; maps are on its device.
        share: Whether a pixel gets its share of the region's value, so that the map sums to the values' sum, or all of it.

    Returns:
        Maps `(N, 1, H, W)`, or `(N, F)`, `(N, T)`; and for the details `"values"`, `(N, regions)` float64 with NaN where
        an image has fewer regions than another, and `"labels"`.

    Example:
        >>> values, labels = [torch.tensor([2.0, 6.0])], torch.tensor([[0, 0, 1]])
        >>> maps, details = paint(values, labels, torch.zeros(1, 3), share=True)
        >>> maps.tolist(), details["values"].tolist()
        ([[1.0, 1.0, 6.0]], [[2.0, 6.0]])
    """
    whole = table(values)
    flat = labels.flatten(1)
    filled = whole
    if share:
        area = torch.zeros_like(whole).scatter_add_(1, flat.cpu(), torch.ones(flat.shape, dtype=whole.dtype))
        filled = whole / (area * (inputs.shape[-1] if inputs.ndim == 3 else 1))
    maps = filled.to(inputs.device, map_type(inputs)).gather(1, flat).reshape(labels.shape)
    return (maps[:, None] if inputs.ndim == 4 else maps), {"values": whole, "labels": labels}


def table(values: Sequence[Tensor]) -> Tensor:
    """Regions' values of several images as one `(N, regions)` float64, NaN where an image has fewer than another.

    Example:
        >>> table([torch.tensor([1.0]), torch.tensor([2.0, 3.0])]).tolist()
        [[1.0, nan], [2.0, 3.0]]
    """
    return torch.nn.utils.rnn.pad_sequence([v.double() for v in values], batch_first=True, padding_value=torch.nan)


def grid(height: int, width: int, rows: int, columns: int) -> Tensor:
    """A grid of `rows` x `columns` cells, numbered row by row; sizes differ by a pixel where it does not divide.

    Returns:
        `LongTensor (1, H, W)`.

    Example:
        >>> grid(2, 4, 1, 2).tolist()
        [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    """
    rows, columns = min(rows, height), min(columns, width)
    y = torch.arange(height) * rows // height
    x = torch.arange(width) * columns // width
    return (y[:, None] * columns + x[None, :])[None]


class Picture:
    """An image to cut up, known by its pixels' digest: who cuts it lets the pixels go, so that a cache need not hold them."""

    def __init__(self, image: Tensor) -> None:
        self.pixels: Any = image.permute(1, 2, 0).contiguous().float().numpy()
        self.digest = hashlib.sha256(self.pixels.tobytes() + repr(self.pixels.shape).encode()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@lru_cache(maxsize=256)
def superpixels(name: str, image: Picture, n_regions: int) -> Tensor:
    """Superpixels of one image; kept, since several methods cut the same image the same way."""
    from skimage.segmentation import felzenszwalb, slic

    pixels, image.pixels = image.pixels, None
    n_regions = min(n_regions, pixels.shape[0] * pixels.shape[1])
    if name == "slic":
        # it gives a few more or fewer than it is asked for
        asked, labels = n_regions, np.zeros(pixels.shape[:2], np.int64)
        for _ in range(12):
            labels = slic(pixels, n_segments=asked, slic_zero=True, start_label=0, channel_axis=-1)
            found = len(np.unique(labels))
            if found <= n_regions or asked == 1:
                break
            asked = max(1, min(asked - 1, asked * n_regions // found))
    else:
        # felzenszwalb has a scale instead of a number: double or halve it until the number is about right
        scale, labels = 100.0, np.zeros(pixels.shape[:2], np.int64)
        smallest = max(1, pixels.shape[0] * pixels.shape[1] // (n_regions * 8))
        best: Any = None
        for _ in range(16):
            cut = felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=smallest, channel_axis=-1)
            found = int(cut.max()) + 1
            if found <= n_regions and (best is None or found > best.max() + 1):
                best = cut
            if 0.75 * n_regions <= found <= n_regions:
                break
            scale *= float(np.clip(found / (0.875 * n_regions), 0.5, 2.0))
        labels = labels if best is None else best
    numbered = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)  # torch's takes tens of times as long
    return _joined(torch.from_numpy(numbered), n_regions)


def _joined(labels: Tensor, most: int) -> Tensor:
    """The same regions, the smallest joined to a neighbour until there are no more than `most`."""
    while (number := int(labels.max()) + 1) > most:
        areas = torch.bincount(labels.flatten(), minlength=number)
        small = int(areas.argmin())
        pairs = torch.cat(
            [
                torch.stack([a.flatten(), b.flatten()], 1)
                for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
            ]
        )
        touching = pairs[(pairs == small).any(1) & (pairs[:, 0] != pairs[:, 1])].sum(1) - small
        labels = torch.where(labels == small, int(touching.bincount().argmax()), labels)
        labels = torch.unique(labels, return_inverse=True)[1]
    return labels

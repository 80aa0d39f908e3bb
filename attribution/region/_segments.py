"""Overlapping regions of an image at six scales, from its colours alone."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..model import Model
from ..regions import Picture, unit_range

Segments: TypeAlias = Literal["felzenszwalb"] | Tensor | Callable[[Tensor], Tensor]
SCALES = (50, 100, 150, 250, 500, 1200)
SIDE = 224  # of the square in which images are cut, so that the scales mean the same for all


def masks_of(regions: Segments, images: Tensor, model: Model, *, dilation: float) -> list[Tensor]:
    """The regions of every image as masks, bool `(S_i, H, W)` on the CPU; they may overlap.

    Args:
        regions: `"felzenszwalb"`; labels, whole numbers `(H, W)` or `(N, H, W)`; masks, bool `(S, H, W)` or
            `(N, S, H, W)`; or a callable `images -> labels or masks`.
        images: `(N, C, H, W)`.
        model: Knows the bounds.
        dilation: How far felzenszwalb's regions are widened, in pixels of an image of 224 x 224.

    Raises:
        ValueError: Regions that do not fit the images.
    """
    n, size = len(images), tuple(images.shape[2:])
    if isinstance(regions, str):
        radius = round(dilation * min(size) / SIDE)
        return [_unpacked(cut(Picture(image), radius), size) for image in unit_range(images, model).cpu()]
    given = regions if isinstance(regions, Tensor) else regions(images)
    if not isinstance(given, Tensor) or given.is_floating_point() or given.is_complex():
        raise ValueError("regions must be a tensor: whole numbers, one label per pixel, or masks of dtype bool")
    rank = 3 if given.dtype == torch.bool else 2
    fits = given.ndim in {rank, rank + 1} and given.shape[-2:] == size and (given.ndim == rank or len(given) in {1, n})
    if not fits:
        what = "masks (S, H, W) or (N, S, H, W)" if rank == 3 else "labels (H, W) or (N, H, W)"
        raise ValueError(
            f"regions of shape {tuple(given.shape)} do not fit {n} images of {size[0]} x {size[1]} pixels: pass {what}"
        )
    each = (given if given.ndim == rank + 1 else given[None]).cpu().expand(n, *given.shape[-rank:])
    return list(each) if rank == 3 else [one == one.unique()[:, None, None] for one in each]


@lru_cache(maxsize=64)
def cut(image: Picture, radius: int) -> Any:
    """Felzenszwalb's regions of one image at all scales, widened by a disk: masks `(S, H * W)`, eight pixels to a byte.

    Kept, since xrai and xrai_fast cut the same image the same way.
    """
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    pixels, image.pixels = image.pixels, None
    size, low, high = pixels.shape[:2], pixels.min(), pixels.max()
    pixels = (pixels - low) / (high - low if high > low else 1) * 2 - 1
    square = resize(pixels, (SIDE, SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    masks = []
    for scale in SCALES:
        labels = felzenszwalb(square, scale=scale, sigma=0.8, min_size=150)
        labels = resize(labels, size, order=0, preserve_range=True, mode="constant", anti_aliasing=False).astype(int)
        masks.append(labels == np.unique(labels)[:, None, None])
    return np.packbits(_widened(np.concatenate(masks), radius).reshape(-1, size[0] * size[1]), axis=1)


def _widened(masks: Any, radius: int) -> Any:
    """Masks `(S, H, W)` and every pixel within a distance of `radius`."""
    if radius == 0:
        return masks
    at = torch.arange(-radius, radius + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).float()
    parts = torch.from_numpy(masks).split(16)
    near = [functional.conv2d(p[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5 for p in parts]
    return torch.cat(near).numpy()


def _unpacked(packed: Any, size: tuple[int, ...]) -> Tensor:
    bits = np.unpackbits(packed, axis=1, count=size[0] * size[1])
    return torch.from_numpy(bits.astype(bool)).reshape(-1, *size)

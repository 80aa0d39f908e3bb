"""Label maps: which pixels are removed together."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from .model import Model

Name = Literal["grid", "slic", "felzenszwalb"]
Regions: TypeAlias = Name | Tensor | Callable[[Tensor], Tensor]

__all__ = ["Name", "Regions", "grid", "make"]


def make(regions: Regions, images: Tensor, model: Model, *, n_regions: int = 49) -> Tensor:
    """Label maps `(N, H, W)`, `LongTensor` on the images' device, each numbered 0, 1, ... without gaps.

    Args:
        regions: `"grid"`, `"slic"`, `"felzenszwalb"`, an integer `(H, W)` or `(N, H, W)` map with any labels, or a
            callable `images -> map`.
        images: `(N, C, H, W)` in the model's bounds.
        model: Knows the bounds, so that colours are compared on one scale.
        n_regions: How many regions are aimed at; superpixels give about as many. The grid takes the next square.

    Raises:
        ValueError: An unknown name or a map that does not fit the images.

    Example:
        >>> images = torch.rand(2, 3, 12, 12)
        >>> make("grid", images, Model(torch.nn.Flatten()), n_regions=9).amax()
        tensor(8)
    """
    n, _, height, width = images.shape
    if isinstance(regions, str):
        if regions not in get_args(Name):
            raise ValueError(f"regions={regions!r}: choose one of {get_args(Name)}, a label map or a callable")
        if n_regions < 1:
            raise ValueError(f"n_regions={n_regions}: at least one region is needed")
        if regions == "grid":
            side = int(np.ceil(np.sqrt(n_regions)))
            return grid(height, width, side, side).to(images.device).expand(n, -1, -1)
        if model.bounds is None:  # each image by itself: its neighbours must not move its regions
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        else:
            low, high = (torch.tensor(b, dtype=images.dtype, device=images.device) for b in model.bounds)
        unit = ((images - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).cpu()
        labels = torch.stack([_superpixels(regions, _key(image), n_regions) for image in unit])
        return labels.to(images.device)
    labels = regions if isinstance(regions, Tensor) else regions(images)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise ValueError("regions must be a tensor of whole numbers, one label per pixel")
    labels = labels if labels.ndim == 3 else labels[None]
    if labels.ndim != 3 or labels.shape[1:] != (height, width) or labels.shape[0] not in (1, n):
        raise ValueError(
            f"a label map of shape {tuple(labels.shape)} does not fit images of shape {tuple(images.shape)}: pass "
            f"({height}, {width}) or ({n}, {height}, {width})"
        )
    numbered = [torch.unique(one, return_inverse=True)[1] for one in labels.long()]
    return torch.stack(numbered).to(images.device).expand(n, -1, -1)


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


def _key(image: Tensor) -> tuple[bytes, tuple[int, ...]]:
    """An image as something that can be looked up."""
    pixels = image.permute(1, 2, 0).contiguous().float().numpy()
    return pixels.tobytes(), pixels.shape


@lru_cache(maxsize=256)
def _superpixels(name: str, image: tuple[bytes, tuple[int, ...]], n_regions: int) -> Tensor:
    """Superpixels of one image; kept, since several methods cut the same image the same way."""
    from skimage.segmentation import felzenszwalb, slic

    pixels = np.frombuffer(image[0], np.float32).reshape(image[1])
    if name == "slic":
        labels = slic(pixels, n_segments=n_regions, slic_zero=True, start_label=0, channel_axis=-1)
    else:
        # felzenszwalb has a scale instead of a number: halve or double it until the number is about right
        scale, labels = 100.0, np.zeros(pixels.shape[:2], np.int64)
        smallest = max(1, pixels.shape[0] * pixels.shape[1] // (n_regions * 8))
        for _ in range(12):
            labels = felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=smallest, channel_axis=-1)
            found = int(labels.max()) + 1
            if 0.75 * n_regions <= found <= 1.25 * n_regions:
                break
            scale *= float(np.clip(found / n_regions, 0.5, 2.0))
    numbered: Tensor = torch.unique(torch.from_numpy(np.ascontiguousarray(labels)).long(), return_inverse=True)[1]
    return numbered

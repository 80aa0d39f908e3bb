"""How alike two maps of one image are."""

import math
from typing import Literal, get_args

import torch
from attriscope.attribution.baselines import gaussian_blur
from torch import Tensor

from .faithfulness._subsets import ranks

Similarity = Literal["spearman", "pearson", "ssim", "hog", "top_k"]

NUMBERS = 1 << 18  # values at a time: two megabytes in float64, which caches hold
ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a blurred map whose largest value is 1
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # of SSIM, as Wang, Bovik, Sheikh and Simoncelli 2004 have them
ORIENTATIONS, CELL, BLOCK, LEAST, CUT = 9, 16, 3, 1e-5, 0.2  # of HOG, as Dalal and Triggs 2005; cells as Adebayo et al.

__all__ = ["Similarity", "checked", "compared", "described", "similarity"]


def similarity(
    maps: Tensor,
    others: Tensor,
    how: Similarity = "spearman",
    *,
    absolute: bool = False,
    smooth: float = 0.0,
    share: float = 0.1,
) -> Tensor:
    r"""How alike each map is to the other of the same place: 1 for the same map, whatever its positive scale.

    - `"spearman"`: the correlation of the pixels' ranks, equals sharing the mean of theirs, in [-1, 1]. Any increasing
      function leaves it. Independent maps have 0, with a standard deviation of :math:`1 / \sqrt{P - 1}` over P pixels that
      know nothing of their neighbours, and more where maps are smooth.
    - `"pearson"`: the correlation of the values, in [-1, 1]; few large values decide it.
    - `"ssim"`: the structural similarity of Wang et al. 2004, in [-1, 1]: the mean over the places of an 11 x 11 Gaussian
      window (sigma 1.5, K1 0.01, K2 0.03) that lie inside the map. The range of the data is that of the scale, 2, or 1 with
      `absolute`, whatever the maps hold. The window is the largest odd one that fits a smaller map. Of a map and its
      negative it is not -1: where means and deviations both change signs, the two make up for each other.
    - `"hog"`: the correlation, in [-1, 1], of the histograms of oriented gradients of Dalal and Triggs 2005: 9 orientations,
      cells of 16 x 16 pixels, L2-Hys over blocks of 3 x 3 cells. Cells are a quarter of the shorter side in maps below 64
      pixels, and blocks no larger than the map. An edge has no sign: a map and its negative are alike. Independent noise
      has a little more than 0, since all noise is rough: 0.03 to 0.1 at 224 x 224 pixels, 0.16 at 16 x 16.
    - `"top_k"`: which share of the pixels that come first are the same in both, in [0, 1]. Independent maps share
      `share`. Among equals at the border places are drawn by lot, in each map for itself, and the value is what is expected
      of the lot: a map that is tied there is not quite like itself.

    Maps are divided by their largest absolute value first, so that none is too small, as Adebayo et al. (2018) do for SSIM.
    A map that is constant is NaN, and for SSIM one that is zero; what blurring leaves of it is never taken for a pattern.

    Args:
        maps: `(N, 1, H, W)` or `(N, H, W)`, of any floating point type and device.
        others: As many, of the same size.
        how: Which similarity.
        absolute: Whether signs are dropped, before anything else: a map and its negative are then alike.
        smooth: Of a Gaussian in pixels that blurs both maps, after the signs are dropped: noise from pixel to pixel makes
            any two maps unlike, and maps of different smoothness compare after the same blur alone.
        share: Of the pixels, for `"top_k"`.

    Returns:
        `(N,)` float64 on the CPU, NaN where it is undefined.

    Raises:
        TypeError: Maps that are no floating point tensors.
        ValueError: Maps that do not fit each other or are not finite, an option out of range, or SSIM of maps with a side
            below 3.

    Example:
        >>> one = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
        >>> similarity(one, one.exp()).tolist(), similarity(one, -one).tolist()
        ([1.0], [-1.0])
        >>> similarity(one, torch.zeros_like(one)).tolist()
        [nan]
    """
    pair = [checked(m, how, smooth, share) for m in (maps, others)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"maps of shapes {tuple(maps.shape)} and {tuple(others.shape)}: pass as many of the same size, (N, 1, H, W)"
        )
    rows = max(1, NUMBERS // (pair[0].shape[1] * pair[0].shape[2]))
    found = []
    for some in zip(*(m.split(rows) for m in pair), strict=True):
        one, other = (described(m, how, absolute=absolute, smooth=smooth, share=share) for m in some)
        found.append(compared(one, other, how, absolute=absolute))
    return torch.cat(found)


def checked(maps: Tensor, how: Similarity, smooth: float = 0.0, share: float = 0.1) -> Tensor:
    """Maps as `(N, H, W)`, if they and the options are what `similarity` takes."""
    if how not in get_args(Similarity):
        raise ValueError(f"how={how!r}: choose one of {', '.join(get_args(Similarity))}")
    if not 0 <= smooth < math.inf:
        raise ValueError(f"smooth={smooth!r}: the sigma of a blur in pixels is at least 0 and finite")
    if not 0 < share < 1:
        raise ValueError(f"share={share!r}: choose the share of the pixels between 0 and 1")
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError("maps must be a floating point tensor of shape (N, 1, H, W)")
    flat = maps.detach()
    flat = flat[:, 0] if flat.ndim == 4 and flat.shape[1] == 1 else flat
    if flat.ndim != 3 or not flat.shape[1] * flat.shape[2]:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: pass (N, 1, H, W) or (N, H, W)")
    if how == "ssim" and min(flat.shape[1:]) < 3:
        raise ValueError(f"maps of {flat.shape[1]} x {flat.shape[2]}: ssim takes sides of at least 3 pixels")
    if not bool(flat.isfinite().all()):
        raise ValueError("maps hold NaN or infinite values: nothing is like them")
    return flat


def described(
    maps: Tensor, how: Similarity, *, absolute: bool = False, smooth: float = 0.0, share: float = 0.1
) -> Tensor:
    """What `compared` compares, of checked maps `(N, H, W)`: so many maps are described once for all their pairs.

    Returns:
        `(N, D)` float64 on the CPU; for SSIM the maps to scale, `(N, H, W)`. NaN where it is undefined.
    """
    values = maps.cpu().double()
    values = scaled(values.abs() if absolute else values)
    low, high = values.amin((1, 2)), values.amax((1, 2))
    defined = (low != 0) | (high != 0) if how == "ssim" else high > low
    if smooth:
        values = scaled(gaussian_blur(values[:, None], smooth)[:, 0])
    rounding = values.new_full((len(values),), ROUNDING if smooth else 0.0)
    if how == "ssim":
        found = values
    elif how == "spearman":
        found = centred(ranks(values.flatten(1), rounding))
    elif how == "pearson":
        found = centred(values.flatten(1))
    elif how == "hog":
        found = centred(oriented(values))
    else:
        found = top(values.flatten(1), share, rounding[:, None])
    return torch.where(defined.reshape(-1, *[1] * (found.ndim - 1)), found, torch.nan)


def compared(one: Tensor, other: Tensor, how: Similarity, *, absolute: bool = False) -> Tensor:
    """The similarity of maps that were `described` in the same way, `(N,)` float64."""
    if how == "ssim":
        return structural(one, other, 1.0 if absolute else 2.0)
    product = (one * other).sum(1)
    if how == "top_k":
        return product / one.sum(1)
    return (product / (one.square().sum(1) * other.square().sum(1)).sqrt()).clamp(-1, 1)


def scaled(maps: Tensor) -> Tensor:
    """Maps `(N, H, W)` over their largest absolute value; zeros stay zeros."""
    largest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1.0)


def centred(rows: Tensor) -> Tensor:
    """Rows without their mean, `(N, D)`; NaN for a row that does not vary."""
    away = rows - rows.mean(1, keepdim=True)
    return torch.where((rows.amax(1) > rows.amin(1))[:, None], away, torch.nan)


def top(rows: Tensor, share: float, rounding: Tensor) -> Tensor:
    """How likely each value is among the first, `(N, P)`.

    Args:
        rows: `(N, P)`.
        share: Of the values; at least one comes first.
        rounding: `(N, 1)`: values that close to the last of the first are equal to it.
    """
    count = max(1, round(share * rows.shape[1]))
    last = rows.topk(count, dim=1).values[:, -1:]
    above, tied = rows > last + rounding, (rows - last).abs() <= rounding
    left = (count - above.sum(1, keepdim=True)).to(rows.dtype) / tied.sum(1, keepdim=True)
    return above + tied * left


def structural(one: Tensor, other: Tensor, data_range: float) -> Tensor:
    """The mean structural similarity, `(N,)`, of `(N, H, W)`, over the places of a window that lie inside."""
    size = min(WINDOW, (min(one.shape[1:]) - 1) // 2 * 2 + 1)
    offsets = torch.arange(size, dtype=one.dtype) - size // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights: list[float] = (kernel / kernel.sum()).tolist()
    a, b, aa, bb, ab = (averaged(m, weights) for m in (one, other, one * one, other * other, one * other))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    places = ((2 * a * b + c1) * (2 * (ab - a * b) + c2)) / ((a * a + b * b + c1) * ((aa - a * a) + (bb - b * b) + c2))
    return places.mean((1, 2)).clamp(-1, 1)


def averaged(maps: Tensor, weights: list[float]) -> Tensor:
    """Weighted means of `(N, H, W)` at the places where both axes have all neighbours; torch's float64 convolution is slow."""
    for axis in (1, 2):
        length = maps.shape[axis] - len(weights) + 1
        total = weights[0] * maps.narrow(axis, 0, length)
        for k, weight in enumerate(weights[1:], 1):
            total.add_(maps.narrow(axis, k, length), alpha=weight)
        maps = total
    return maps


def oriented(maps: Tensor) -> Tensor:
    """Histograms of oriented gradients, `(N, D)`, of `(N, H, W)`.

    Central differences, none at the border; each pixel adds its gradient's length to one bin of its cell; each block is
    normalised, cut at 0.2 and normalised again. What is left of a cell at the right and below takes no part.
    """
    n, height, width = maps.shape
    cell = max(1, min(CELL, min(height, width) // 4))
    rows, columns = height // cell, width // cell
    down, right = torch.zeros_like(maps), torch.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    right[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    down, right = (d[:, : rows * cell, : columns * cell] for d in (down, right))
    bins = (torch.atan2(down, right) / torch.pi * ORIENTATIONS).floor().long() % ORIENTATIONS  # an edge has no sign
    row, column = torch.arange(rows * cell) // cell, torch.arange(columns * cell) // cell
    index = (row[:, None] * columns + column) * ORIENTATIONS + bins
    votes = torch.hypot(down, right) / cell**2
    cells = votes.new_zeros(n, rows * columns * ORIENTATIONS).scatter_add_(1, index.flatten(1), votes.flatten(1))
    block = min(BLOCK, rows, columns)
    blocks = cells.reshape(n, rows, columns, ORIENTATIONS).unfold(1, block, 1).unfold(2, block, 1).flatten(3)
    blocks = blocks / (blocks.square().sum(3, keepdim=True) + LEAST**2).sqrt()
    blocks = blocks.clamp_max(CUT)
    return (blocks / (blocks.square().sum(3, keepdim=True) + LEAST**2).sqrt()).flatten(1)

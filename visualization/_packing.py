"""Maps, photographs and numbers in few bytes, for a page that holds them all."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torch.nn import functional

from ._style import Pixels

ZERO = 128  # the grey of the value 0
FULL = 127  # greys from there to the full scale, on either side
LEVELS = (FULL, 63, 31, 15, 7)  # how finely a map is stored: steps from 0 to its scale
LEAST = 28  # pixels along the longer side, below which maps are not made smaller
COARSE = 28  # pixels along a side at which maps are compared
TINY = 64 * 64  # pixels of a photograph that is stored without loss

__all__ = ["Disagreement", "Packed", "embed", "fit", "greys", "pack", "photograph", "shrink", "values"]


# -- maps --------------------------------------------------------------------------------------------------------------


def greys(maps: Tensor, scales: Sequence[float], levels: int = FULL) -> Pixels:
    """Maps `(N, h, w)` as greys, uint8: 128 is exactly 0, 255 the scale of each map and above, 1 minus it and below.

    Args:
        maps: Finite.
        scales: The value of each map that gets the last grey; a map with scale 0 is all 0.
        levels: Steps from 0 to the scale: fewer take fewer bytes, and round to half a step.

    Example:
        >>> greys(torch.tensor([[[-1.0, 0.0, 0.25, 3.0]]]), [0.5]).tolist()
        [[[1, 128, 192, 255]]]
    """
    top = torch.as_tensor(scales, dtype=torch.float64).reshape(-1, 1, 1)
    share = torch.where(top > 0, maps.double() / top.where(top > 0, 1.0), 0.0).clamp(-1, 1)
    return _stepped(share.numpy(), levels)


def _stepped(share: Pixels, levels: int) -> Pixels:
    """Shares of the full scale as greys, in so many steps."""
    return np.asarray(ZERO + np.rint(np.rint(share * levels) * (FULL / levels)), np.uint8)


def values(stored: Pixels, scales: Sequence[float]) -> Pixels:
    """What greys `(N, h, w)` stand for; a page does the same.

    Example:
        >>> values(np.array([[[1, 128, 255]]], np.uint8), [0.5]).tolist()
        [[[-0.5, 0.0, 0.5]]]
    """
    return (stored.astype(np.float64) - ZERO) / FULL * np.asarray(scales, np.float64).reshape(-1, 1, 1)


def shrink(maps: Tensor, side: int) -> Tensor:
    """Maps or images `(..., h, w)` whose longer side is at most `side` pixels, by means over areas.

    Example:
        >>> shrink(torch.rand(2, 1, 60, 80), 40).shape
        torch.Size([2, 1, 30, 40])
    """
    height, width = maps.shape[-2:]
    part = side / max(height, width)
    if part >= 1:
        return maps
    return functional.adaptive_avg_pool2d(maps, (max(1, round(height * part)), max(1, round(width * part))))


@dataclass
class Packed:
    """A method's maps as files.

    Attributes:
        greys: `(N, h, w)`, uint8, in all steps that there are.
        levels: Steps from 0 to the scale that they are stored in.
        files: One WebP file each, without loss.
    """

    greys: Pixels
    levels: int
    files: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of all files, in base 64."""
        return sum(4 * math.ceil(len(f) / 3) for f in self.files)

    def store(self, levels: int) -> None:
        """Write the files again, in so many steps."""
        self.levels = levels
        self.files = [_webp(_restepped(g, levels)) for g in self.greys]


def pack(stored: Pixels) -> Packed:
    """Greys `(N, h, w)` as files."""
    return Packed(stored, FULL, [_webp(g) for g in stored])


def fit(packed: Mapping[str, Packed], budget: float) -> None:
    """Store maps more coarsely, in place, until all together take at most `budget` bytes.

    Noise is what takes bytes, and what loses nothing that an eye sees: the method whose maps take most of them is the next
    to get fewer steps. Where the fewest steps are not enough, all maps are made half as large, down to 28 pixels; smaller
    they do not get, whatever the budget.
    """
    while True:
        _coarser(packed, budget)
        side = max((max(p.greys.shape[1:]) for p in packed.values() if p.greys.size), default=0)
        if sum(p.size for p in packed.values()) <= budget or side // 2 < LEAST:
            return
        for one in packed.values():
            small = shrink(torch.from_numpy(one.greys.astype(np.float32) - ZERO)[:, None], side // 2)[:, 0] / FULL
            one.greys = _stepped(small.numpy(), FULL)
            one.store(LEVELS[1])


def _coarser(packed: Mapping[str, Packed], budget: float) -> None:
    """Fewer steps for the largest, until all fit or have the fewest.

    How many bytes fewer steps will take is told from the entropy of the greys, so that few files are written in vain.
    """
    while sum(p.size for p in packed.values()) > budget:
        planned = {m: p.levels for m, p in packed.items()}
        expected = {m: float(p.size) for m, p in packed.items()}
        while sum(expected.values()) > budget and (able := [m for m in packed if planned[m] > LEVELS[-1]]):
            most = max(able, key=lambda m: expected[m])
            planned[most] = LEVELS[LEVELS.index(planned[most]) + 1]
            one = packed[most]
            now, then = (_entropy(one.greys, levels) for levels in (one.levels, planned[most]))
            expected[most] = one.size * (then / now if now else 1.0)
        if all(planned[m] == p.levels for m, p in packed.items()):
            return
        for method, one in packed.items():
            if planned[method] != one.levels:
                one.store(planned[method])


def _entropy(stored: Pixels, levels: int) -> float:
    """Bits that a pixel takes at least, if nothing is known of its neighbours."""
    shares = np.bincount(stored.ravel(), minlength=256) / max(stored.size, 1)
    coarse = np.bincount(_restepped(np.arange(256), levels), weights=shares, minlength=256)
    return float(-(coarse[coarse > 0] * np.log2(coarse[coarse > 0])).sum())


def _restepped(stored: Pixels, levels: int) -> Pixels:
    """Greys in fewer steps."""
    return _stepped((stored.astype(np.float64) - ZERO) / FULL, levels)


def _webp(grey: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "WEBP", lossless=True, method=2, quality=40)
    return file.getvalue()


# -- everything else ---------------------------------------------------------------------------------------------------


def photograph(pixels: Pixels) -> bytes:
    """A photograph `(h, w, 3)` in [0, 1] as a WebP file; a tiny one without loss."""
    file = io.BytesIO()
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.save(file, "WEBP", quality=82, lossless=pixels.shape[0] * pixels.shape[1] <= TINY)
    return file.getvalue()


def base64_of(file: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(file).decode("ascii")


def embed(value: Any) -> str:
    r"""JSON that cannot end the script element it stands in, whatever the names in it: it is ASCII without `<`, `>` and `&`.

    Numbers that are not finite become `null`.

    Example:
        >>> print(embed({"</script>": [float("nan"), "\u2028"]}))
        {"\u003c/script\u003e":[null,"\u2028"]}
    """
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


class Disagreement:
    """How little methods agree on each image: 1 minus the mean Spearman correlation of all pairs of their maps.

    Methods come one at a time: of unit vectors, the sum of all products of two is known from their sum alone.

    Example:
        >>> ramp, found = torch.linspace(0, 1, 16).reshape(1, 4, 4), Disagreement()
        >>> for maps in (ramp, 2 * ramp + 1, -ramp):
        ...     found.add(maps)
        >>> round(float(found.value[0]), 3)  # one pair agrees, and two are opposites
        1.333
    """

    def __init__(self) -> None:
        self._sum: Pixels | None = None
        self._count: Pixels | None = None

    def add(self, maps: Tensor) -> None:
        """Another method's maps `(N, h, w)`, finite; constant ones rank nothing, and do not count."""
        height, width = maps.shape[-2:]
        small = functional.adaptive_avg_pool2d(
            maps[:, None].double(), (min(COARSE, height), min(COARSE, width))
        ).flatten(1)
        ranks = stats.rankdata(small.numpy(), axis=1)
        ranks -= ranks.mean(1, keepdims=True)
        length = np.linalg.norm(ranks, axis=1, keepdims=True)
        unit = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
        if self._sum is None or self._count is None:
            self._sum, self._count = np.zeros_like(unit), np.zeros(len(unit))
        self._sum += unit
        self._count += length[:, 0] > 0

    @property
    def value(self) -> Pixels:
        """For each image, from 0 where all order the pixels alike; NaN where fewer than two maps can be compared."""
        if self._sum is None or self._count is None:
            return np.zeros(0)
        n = self._count
        pairs = n * (n - 1)
        mean = np.divide((self._sum**2).sum(1) - n, pairs, out=np.full(len(n), np.nan), where=pairs > 0)
        return np.asarray(1 - mean)

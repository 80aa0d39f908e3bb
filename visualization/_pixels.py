"""Maps and photographs as pixels; how a map becomes colours is said in `attribution._picture` alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from attriscope.attribution import _picture
from attriscope.metrics.study import Pictures
from torch import Tensor
from torch.nn import functional

from ._style import Box, Pixels

PALE = 0.65  # how much white there is over what the model did not see
FRAME = "#bdbdbd"  # around a map on white

SIGNED, OFFSET, UNSIGNED = "for and against", "above and below its mean", "importance, unsigned"
ENDS = {SIGNED: ("against", "for"), OFFSET: ("below its mean", "above its mean"), UNSIGNED: ("", "important")}

__all__ = ["ENDS", "FRAME", "OFFSET", "SIGNED", "UNSIGNED", "Drawn", "Photographs", "bar", "drawn", "on_white"]


@dataclass
class Drawn:
    """Maps as they are drawn.

    Attributes:
        maps: `(N, h, w)`, 0 where they say nothing.
        meaning: What their colours mean.
        empty: Why a map has no colours; `None` for a map that has.
    """

    maps: Tensor
    meaning: str
    empty: list[str | None]

    def limit(self, images: Sequence[int], percentile: float) -> float | None:
        """The value that gets the full colour on these images; `None` if none of them has colours."""
        some = [i for i in images if self.empty[i] is None]
        return _picture.limit(self.maps[some], percentile) if some else None

    def only(self, images: Sequence[int]) -> "Drawn":
        """Some of the maps, numbered anew."""
        return Drawn(self.maps[list(images)].clone(), self.meaning, [self.empty[i] for i in images])

    def values(self, most: int) -> Tensor:
        """The values of all maps that have colours, evenly thinned to about so many."""
        some = self.maps[[i for i, why in enumerate(self.empty) if why is None]].flatten()
        return some[:: max(1, -(-len(some) // most))]

    @property
    def measure(self) -> str:
        """What the limit is a percentile of."""
        return "|map \N{MINUS SIGN} its mean|" if self.meaning == OFFSET else "|map|"


def drawn(maps: Tensor, method: str, params: Mapping[str, Any] | None = None) -> Drawn:
    """Maps `(N, C, H, W)` as they are drawn; those that are constant or not finite are told apart.

    Example:
        >>> drawn(torch.zeros(1, 1, 2, 2), "saliency").empty
        ['the map is constant: every pixel is 0']
    """
    flat = maps.detach().float().cpu().sum(1)
    empty: list[str | None] = []
    for one in flat:
        low, high = float(one.amin()), float(one.amax())
        if not np.isfinite(low) or not np.isfinite(high):
            empty.append("the map holds NaN or infinite values")
        elif high - low <= 4 * torch.finfo(torch.float32).eps * max(abs(low), abs(high)):
            empty.append(f"the map is constant: every pixel is {high:.3g}")
        else:
            empty.append(None)
    finite = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    shown, meaning = _picture.shown(finite, method, params)
    return Drawn(shown, meaning, empty)


class Photographs:
    """What maps are drawn over: the images that the model saw, or photographs of which it saw a part.

    Args:
        inputs: `(N, C, H, W)`, or `None` where there are photographs.
        photographs: One `(H, W, 3)` array in [0, 1] per image, of any size.
        boxes: The part of each photograph that the model saw, `(left, top, right, bottom)` in pixels; `None`: all of it.
        bounds: Smallest and largest value of `inputs`; `None`: each image's own.
        count: How many images there are.
        sharp: Pixels along the longer side of a photograph that a figure shows; larger ones are made smaller.
        cure: What to do where there are neither inputs nor photographs.

    Raises:
        ValueError: Anything that does not fit.
    """

    def __init__(
        self,
        inputs: Tensor | Pictures | None,
        photographs: Sequence[Any] | None,
        boxes: Sequence[Sequence[float]] | None,
        bounds: tuple[float, float] | None,
        *,
        count: int,
        sharp: int,
        cure: str,
    ) -> None:
        if photographs is None and inputs is None:
            raise ValueError(f"there are no images to draw over: they are not saved with everything else; set {cure}")
        if photographs is None and boxes is not None:
            raise ValueError("boxes say which part of a photograph the model saw: pass photographs=[...] with them")
        if inputs is not None and (inputs.ndim != 4 or len(inputs) != count):
            raise ValueError(f"inputs of shape {tuple(inputs.shape)} are not {count} images (N, C, H, W)")
        for name, given in (("photographs", photographs), ("boxes", boxes)):
            if given is not None and len(given) != count:
                raise ValueError(f"there are {len(given)} {name} for {count} images: give one for each, in their order")
        self.inputs, self.photographs, self.boxes, self.bounds = inputs, photographs, boxes, bounds
        self.sharp = sharp
        self._last: tuple[int, tuple[Pixels, Box | None]] | None = None

    @property
    def framed(self) -> bool:
        """Whether there are boxes."""
        return self.boxes is not None

    def load(self, i: int) -> "tuple[Pixels, Box | None]":
        """A photograph, `(H, W, 3)` in [0, 1], at a size that fits a figure, and its box; the last one is kept."""
        if self._last is None or self._last[0] != i:
            self._last = (i, self._read(i))
        return self._last[1]

    def _read(self, i: int) -> "tuple[Pixels, Box | None]":
        if self.photographs is None:
            assert self.inputs is not None
            return _picture.photograph(self.inputs[i], self.bounds).astype(np.float32), None
        pixels = np.asarray(self.photographs[i])
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype.kind != "f":
            raise ValueError(
                f"photograph {i} has shape {pixels.shape} and {pixels.dtype}: give floats (H, W, 3) in [0, 1]"
            )
        if not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
            raise ValueError(
                f"photograph {i} goes from {pixels.min():.3g} to {pixels.max():.3g}: give floats in [0, 1]"
            )
        height, width = pixels.shape[:2]
        box = None if self.boxes is None else _checked(self.boxes[i], i, width, height)
        shrink = max(height, width) / self.sharp
        if shrink > 1:
            size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
            small = functional.adaptive_avg_pool2d(torch.from_numpy(pixels).float().permute(2, 0, 1), size)
            pixels = small.permute(1, 2, 0).numpy()
            fy, fx = size[0] / height, size[1] / width
            box = box and (box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy)
        return pixels.clip(0, 1).astype(np.float32), box and _whole(box)

    def over(self, i: int, one: Tensor, top: float) -> "tuple[Pixels, Box | None]":
        """A map `(h, w)` over its photograph in grey; what the model did not see is paler."""
        pixels, box = self.load(i)
        left, upper, right, lower = (int(v) for v in box or (0, 0, pixels.shape[1], pixels.shape[0]))
        image = torch.from_numpy(np.ascontiguousarray(pixels)).float().permute(2, 0, 1)
        if one.shape != (lower - upper, right - left):
            one = functional.interpolate(
                one[None, None], (lower - upper, right - left), mode="bilinear", antialias=True
            )[0, 0]
        full = torch.zeros(image.shape[1:])
        full[upper:lower, left:right] = one
        over = _picture.overlay(image, full, top, (0.0, 1.0))
        if box is not None:
            pale = over * (1 - PALE) + PALE
            pale[upper:lower, left:right] = over[upper:lower, left:right]
            over = pale
        return over.clip(0, 1).astype(np.float32), box


def _checked(given: Sequence[float], i: int, width: int, height: int) -> Box:
    """A box inside its photograph."""
    if len(given) != 4:
        raise ValueError(f"box {i} is {given!r}: give (left, top, right, bottom) in pixels")
    left, top, right, bottom = (float(v) for v in given)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box {i} is {tuple(given)!r}, the photograph is {width} x {height} pixels: give (left, top, right, bottom) in it"
        )
    return left, top, right, bottom


def _whole(box: Box) -> Box:
    """A box in whole pixels, at least one wide and high."""
    left, top = round(box[0]), round(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def bar(*, signed: bool) -> Pixels:
    """The colours from full blue, or from none, to full red over a middle grey, as `(1, 256, 3)`."""
    ramp = torch.linspace(-1 if signed else 0, 1, 256)[None]
    return _picture.overlay(torch.full((3, 1, 256), 0.5), ramp, 1.0, (0.0, 1.0))


def on_white(one: Tensor, top: float) -> Pixels:
    """A map on white, `(H, W, 3)`."""
    rgba = _picture.colours(one, top)
    return np.asarray(1 - rgba[..., 3:] * (1 - rgba[..., :3]))

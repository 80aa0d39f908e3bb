"""A map over a photograph, pixel for pixel."""

from typing import Any

import numpy as np
import torch
from attriscope.attribution import _picture
from attriscope.attribution.explanation import Explanation
from attriscope.metrics.photographs import Box, Pixels
from torch.nn import functional

ROWS = 256  # of the photograph at a time: colours take eight bytes a channel
PALE = 0.65  # how much white there is over what the model did not see

__all__ = ["overlay"]


def overlay(found: Explanation, pixels: Pixels, box: Box) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """The first map of an explanation over the whole photograph in grey, at the photograph's size; the rest is paler.

    Args:
        found: The explanation.
        pixels: The photograph, `(H, W, 3)` in [0, 1].
        box: The part of it that the model saw: there lies the map.

    Returns:
        `(H, W, 3)` uint8.
    """
    height, width = pixels.shape[:2]
    maps, _ = _picture.shown(found.maps[:1].float().cpu().sum(1), found.method, found.params)
    top = _picture.limit(maps)
    left, upper = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    right, lower = max(left + 1, round(box[2])), max(upper + 1, round(box[3]))
    full = torch.zeros(height, width)
    size = (lower - upper, right - left)
    full[upper:lower, left:right] = functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0, 0]
    seen = np.zeros((height, width, 1), dtype=bool)
    seen[upper:lower, left:right] = True
    result = np.empty((height, width, 3), dtype=np.uint8)
    for at in range(0, height, ROWS):
        rows = slice(at, at + ROWS)
        image = torch.from_numpy(np.ascontiguousarray(pixels[rows])).permute(2, 0, 1)
        over = _picture.overlay(image, full[rows], top, (0.0, 1.0))
        over = np.where(seen[rows], over, over * (1 - PALE) + PALE)
        result[rows] = (over.clip(0, 1) * 255).round().astype(np.uint8)
    return result

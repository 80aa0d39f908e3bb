"""Cascade: every method's map while the network is randomised, layer by layer."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from attriscope.attribution import _picture
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from . import _style
from ._pixels import ENDS, FRAME, OFFSET, SIGNED, UNSIGNED, Drawn, drawn, on_white
from ._steps import SPACE, typeset
from ._style import BODY, GREY, MARGIN, SMALL, TITLE, Pixels, Place, Sheet

NAME, GAP = 1.25, 0.08  # inches: the column of names, between panels
WIDEST, LEAST, MOST = 13.0, 0.95, 1.9  # inches: the figure at most, a panel's width
IMAGE = 1.4  # inches: the image's greatest height
NARROW = 7.5  # inches of width, so that the text beside the image fits
BAR = 2.2  # inches: the colour bar
ACROSS = int((WIDEST - 2 * MARGIN - NAME + GAP) / (LEAST + GAP))  # panels in a row
TRAINED = "trained"

__all__ = ["cascade"]


def cascade(
    image: Tensor,
    maps: Mapping[str, Tensor],
    *,
    stages: Sequence[str],
    similarities: Mapping[str, Any] | None = None,
    how: str = "Spearman",
    label: str | None = None,
    title: str | None = None,
    bounds: tuple[float, float] | None = None,
    percentile: float = 99.0,
) -> Figure:
    """One image's maps, a row for each method and a column for each stage of a network that is randomised more and more.

    Figure 2 of Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292). A method whose maps look the same when nothing is
    left of what the network learned does not explain what it learned. Maps are drawn on white, not over the image: its
    edges would show in every panel. Each panel has its own scale, since maps of random networks may be as small as 1e-10;
    a map that is 0 everywhere stays white and says so.

    Args:
        image: `(C, H, W)` or `(1, C, H, W)`.
        maps: For each method `(K + 1, H, W)` or `(K + 1, 1, H, W)`: the trained network's map, then one for each stage.
        stages: K names: what each stage randomises beyond the stage before it.
        similarities: For each method, or some, K numbers, which are printed below the panels; NaN is undefined.
        how: What the similarities are called.
        label: What is explained, the name of a class.
        title: A sentence in place of the usual one.
        bounds: Smallest and largest value of the image; `None`: its own.
        percentile: Of |map|, for each panel: what has the full colour.

    Raises:
        ValueError: No methods or stages, a map that is not finite, or anything that does not fit; the message says what.

    Example:
        >>> import torch
        >>> image, maps = torch.rand(3, 8, 8), {"saliency": torch.rand(3, 8, 8)}
        >>> figure = cascade(image, maps, stages=["fc", "layer4"], similarities={"saliency": [0.4, float("nan")]})
        >>> [axes.get_label() for axes in figure.axes]
        ['image', 'colour bar', 'saliency: trained', 'saliency: fc', 'saliency: layer4']
    """
    _style.check_percentile(percentile)
    names = [str(s) for s in stages]
    plain = _image(image, bounds)
    rows = {str(m): _read(str(m), one, (len(names) + 1, *plain.shape[:2])) for m, one in maps.items()}
    if not rows or not names:
        raise ValueError(f"there are {len(rows)} methods and {len(names)} stages: cascade draws at least one of each")
    printed = _numbers(similarities or {}, rows, len(names))

    with _style.style():
        bands = _bands(len(names))
        across = max(map(len, bands))
        width, height = _size(plain, across)
        column = max(width, LEAST)
        sheet = Sheet(max(NARROW, 2 * MARGIN + NAME + across * (column + GAP) - GAP))
        y = _head(sheet, plain, rows, title or _title(label), _reading(percentile, how if printed else None))
        for band in bands:
            y = _columns(sheet, y, [TRAINED, *names], band, column)
            for method, row in rows.items():
                end = _named(sheet, y, method, row)
                for x, k in zip(_lefts(len(band), column), band, strict=True):
                    place = (x, y, width, height)
                    pixels = _pixels(row, k, percentile)
                    sheet.axes(place, partial(_draw, pixels=pixels), f"{method}: {[TRAINED, *names][k]}")
                    _reason(sheet, place, row.empty[k])
                    if k and method in printed:
                        sheet.text(x, y + height + 0.02, printed[method][k - 1], column, size=SMALL, lines=1)
                y = max(end, y + height + (SPACE + 0.02 if printed else 0.0)) + GAP
            y += 0.15
        return sheet.figure(y - 0.15 - GAP + MARGIN)


# -- what is given -----------------------------------------------------------------------------------------------------


def _image(image: Tensor, bounds: tuple[float, float] | None) -> Pixels:
    """The image as it is shown."""
    one = image[0] if image.ndim == 4 and len(image) == 1 else image
    if one.ndim != 3 or 0 in one.shape:
        raise ValueError(f"the image has shape {tuple(image.shape)}: give one image, (C, H, W) or (1, C, H, W)")
    if not bool(one.isfinite().all()):
        raise ValueError("the image holds NaN or infinite values")
    return np.asarray(_picture.photograph(one, bounds))


def _read(method: str, maps: Tensor, shape: tuple[int, ...]) -> Drawn:
    """A method's maps, each with a largest |value| of 1, since float32 does not hold the smallest."""
    some = maps.detach().cpu().double()
    some = some[:, 0] if some.ndim == 4 and some.shape[1] == 1 else some
    if some.shape != shape:
        raise ValueError(
            f"the maps of {method} have shape {tuple(maps.shape)}: for {shape[0] - 1} stages and an image of {shape[1]} x "
            f"{shape[2]} pixels give {shape}, the trained network's map first"
        )
    if not bool(some.isfinite().all()):
        raise ValueError(f"the maps of {method} hold NaN or infinite values, which have no colour")
    top = some.abs().amax((1, 2), keepdim=True)
    row = drawn((some / top.where(top > 0, 1.0))[:, None], method)
    for k, why in enumerate(row.empty):
        row.empty[k] = "all zero" if top[k] == 0 else why and "the same everywhere"
    return row


def _numbers(similarities: Mapping[str, Any], rows: Mapping[str, Drawn], count: int) -> dict[str, list[str]]:
    """What is printed below a method's panels."""
    found = {}
    for method, given in similarities.items():
        if method not in rows:
            raise ValueError(f"there are similarities of {method!r}, and maps of: {', '.join(rows)}")
        own = _style.numbers(given)
        if own.shape != (count,):
            raise ValueError(
                f"the similarities of {method} have shape {own.shape}: give one for each of {count} stages"
            )
        found[method] = [
            _style.UNDEFINED if math.isnan(v) else typeset(f"{round(v, 2) + 0.0:.2f}") for v in own.tolist()
        ]
    return found


# -- the figure --------------------------------------------------------------------------------------------------------


def _bands(count: int) -> list[list[int]]:
    """Which maps stand in a row; where they need more rows than one, each starts with the trained network's.

    Example:
        >>> _bands(3), [len(band) for band in _bands(19)]
        ([[0, 1, 2, 3]], [11, 10])
    """
    many = -(-count // (ACROSS - 1))
    return [[0, *(int(k) + 1 for k in part)] for part in np.array_split(np.arange(count), many)]


def _size(plain: Pixels, across: int) -> tuple[float, float]:
    """A panel's width and height: as large as the figure lets it be."""
    room = (WIDEST - 2 * MARGIN - NAME + GAP) / across - GAP
    return _style.fit(plain, min(room, MOST), 1.5 * MOST)


def _lefts(count: int, column: float) -> list[float]:
    return [MARGIN + NAME + k * (column + GAP) for k in range(count)]


def _title(label: str | None) -> str:
    what = "" if label is None else f" that explain {label}"
    return f"Maps{what} while the network is randomised, layer by layer"


def _reading(percentile: float, how: str | None) -> list[str]:
    """How to read the figure, in short lines."""
    most = "largest value" if percentile == 100 else _style.ordinal(percentile)
    full = f"full colour: the {most} of its |map|"
    said = [
        "Left to right, more of the network is random: a column randomises what it names and all that is named before.",
        f"Each panel has its own scale ({full}), so colours say where, not how much. White is 0.",
    ]
    if how is not None:
        said.append(f"Number: similarity to the trained network's map ({how}).")
    return said


def _head(sheet: Sheet, plain: Pixels, rows: Mapping[str, Drawn], title: str, said: Sequence[str]) -> float:
    """The image, and beside it the title, how to read the figure, and the colours; where they end."""
    width, height = _style.fit(plain, 1.5 * IMAGE, IMAGE)
    sheet.picture((MARGIN, MARGIN, width, height), plain, "image")
    x = MARGIN + width + 0.2
    wide = sheet.width - x - MARGIN
    y = sheet.text(x, MARGIN, title, wide, size=TITLE, bold=True) + 0.04
    for line in said:
        y = sheet.text(x, y, line, wide, size=SMALL, lines=3)
    meanings = {row.meaning for row in rows.values()}
    ends = [ENDS[m] for m in (SIGNED, UNSIGNED, OFFSET) if m in meanings]
    low, high = (" / ".join(e[side] for e in ends if e[side]) for side in (0, 1))
    signed = meanings != {UNSIGNED}
    wide = _style.extent(low, SMALL)[0] + 0.08 if signed else 0.0
    y += 0.06
    sheet.text(x, y, low, wide, size=SMALL, lines=1)
    ramp = torch.linspace(-1 if signed else 0, 1, 256)[None]
    sheet.picture((x + wide, y + 0.01, BAR, 0.13), on_white(ramp, 1.0), "colour bar")
    y = sheet.text(x + wide + BAR + 0.08, y, high, sheet.width - x - wide - BAR - MARGIN, size=SMALL, lines=2)
    return max(y, MARGIN + height) + 0.2


def _columns(sheet: Sheet, y: float, names: Sequence[str], band: Sequence[int], column: float) -> float:
    """The names of the columns, which all end where the panels begin."""
    texts = [_style.wrap(names[k], column, SMALL, lines=4, bold=not k) for k in band]
    most = max(text.count("\n") for text in texts)
    for x, k, text in zip(_lefts(len(band), column), band, texts, strict=True):
        top = y + (most - text.count("\n")) * SPACE
        sheet.text(x, top, text, column, size=SMALL, bold=not k, lines=4)
    return y + (most + 1) * SPACE + _style.LEADING


def _named(sheet: Sheet, y: float, method: str, row: Drawn) -> float:
    """A method's name, and what its colours mean; where they end."""
    y = sheet.text(MARGIN, y, method, NAME - 0.1, size=BODY, bold=True, lines=4)
    return sheet.text(MARGIN, y, row.meaning, NAME - 0.1, size=SMALL, colour=GREY, lines=3)


def _pixels(row: Drawn, k: int, percentile: float) -> Pixels:
    """One map by its own scale; white where it has no colours."""
    top = row.limit([k], percentile)
    return on_white(row.maps[k] * (top is not None), top or 1.0)


def _reason(sheet: Sheet, place: Place, why: str | None) -> None:
    """Why a map has no colours, in the middle of its panel."""
    x, y, width, height = place
    if why is not None:
        many = _style.wrap(why, width, SMALL).count("\n") + 1
        sheet.text(x, y + (height - many * SPACE) / 2, why, width, size=SMALL, colour=GREY, centred=True)


def _draw(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, aspect="auto", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FRAME, linewidth=0.6)

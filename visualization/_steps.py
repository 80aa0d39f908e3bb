"""What figures share that show an image by and by, and the score beside it: a row of pictures, and a plot with named lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from . import _style
from ._style import SMALL, Pixels, Sheet

WIDE, GAP = 11.0, 0.2  # inches: all pictures at most, between two
CELL, HIGHEST, LEAST = 2.2, 2.6, 1.25  # inches: a picture's greatest width and height, and its least room
ACROSS = 7  # pictures in a row
PLOT, HEIGHT = 7.0, 2.7  # inches: with all that belongs to it at least, and without
AXIS, BELOW, LINES = 0.95, 0.62, 2.0  # inches beside and below the plot for numbers, and for its lines' names
APART = 0.5  # inches between the areas that are named below the plot
PALE = 0.8  # how much white there is over what is hidden
BLUE, ORANGE = "#0072B2", "#C04A00"
SPACE = SMALL * _style.SPACING / 72  # inches from line to line
SHARP = 1200  # pixels along the longer side of a photograph
CURE = "found.inputs = images"


def picture_size(plain: Pixels, count: int) -> tuple[float, float, int]:
    """A picture's width and height, and how many stand in a row: rows are of about the same length."""
    across = -(-count // -(-count // ACROSS))
    width, height = _style.fit(plain, min(CELL, (WIDE + GAP) / across - GAP), HIGHEST)
    return width, height, across


def with_room(values: Sequence[float]) -> tuple[float, float]:
    """A range with some room around all that is finite."""
    finite = [float(v) for v in values if np.isfinite(v)] or [0.0]
    room = 0.08 * (max(finite) - min(finite)) or 0.1 * abs(finite[0]) or 1.0
    return min(finite) - room, max(finite) + room


def typeset(number: str) -> str:
    """A number as it is typeset."""
    return number.replace("-", "\N{MINUS SIGN}")


def line_names(
    sheet: Sheet,
    at: tuple[float, float],
    named: Sequence[tuple[float, str, str]],
    limits: tuple[float, float],
    *,
    height: float = HEIGHT,
    dashes: Mapping[str, Any] | None = None,
) -> None:
    """The names of horizontal lines at the right of a plot: at their lines, or as near as others let them.

    Args:
        sheet: Where.
        at: The plot's upper right corner.
        named: Values, names and colours.
        limits: Of the plot's values.
        height: Of the plot, in inches.
        dashes: By name, of the line from there to the plot.
    """
    (x, y), (low, high) = at, limits
    gap = 0.3
    named = sorted(named, key=lambda n: -n[0])
    wanted = [(high - v) / (high - low) * height for v, *_ in named]
    texts = [_style.wrap(text, LINES - gap, SMALL, lines=3) for _, text, _ in named]
    sizes = [SPACE * (1 + text.count("\n")) + _style.LEADING for text in texts]
    tops = spread([w - s / 2 for w, s in zip(wanted, sizes, strict=True)], sizes, height)
    for (_, _, colour), text, top in zip(named, texts, tops, strict=True):
        sheet.text(x + gap, y + top, text, LINES - gap + 0.05, size=SMALL, colour=colour, lines=3)
    middles = [t + s / 2 for t, s in zip(tops, sizes, strict=True)]

    def leaders(axes: Axes) -> None:
        axes.set_axis_off()
        for (_, name, colour), start, end in zip(named, wanted, middles, strict=True):
            look = (dashes or {}).get(name, "-")
            axes.plot([0, 1], [start, end], color=colour, linestyle=look, linewidth=0.8, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(height, 0)

    sheet.axes((x, y, gap - 0.06, height), leaders, "names")


def spread(tops: list[float], sizes: list[float], most: float) -> list[float]:
    """Tops, from above downwards, moved until nothing overlaps and nothing is below `most`, as far as there is room."""
    moved = list(tops)
    for k in range(1, len(moved)):
        moved[k] = max(moved[k], moved[k - 1] + sizes[k - 1])
    limit = most
    for k in reversed(range(len(moved))):
        moved[k] = min(moved[k], limit - sizes[k])
        limit = moved[k]
    return moved


def percent(area: float) -> str:
    """An area by its name."""
    return f"{100 * area:.3g}%"


def with_names(places: Pixels, first: int | None) -> list[int]:
    """The areas, at so many inches, that have room for their names; one of them for certain."""
    chosen = [] if first is None else [first]
    for k, place in enumerate(places):
        if all(abs(place - places[other]) >= APART for other in chosen):
            chosen.append(k)
    return sorted(chosen)

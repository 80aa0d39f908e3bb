"""Subset path: an image that grows region by region, in the order in which a method on submodular subsets chose them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from attriscope.attribution.explanation import Explanation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from . import _style
from ._pixels import Photographs
from ._steps import (
    AXIS,
    BELOW,
    BLUE,
    CURE,
    GAP,
    HEIGHT,
    LEAST,
    LINES,
    ORANGE,
    PALE,
    PLOT,
    SHARP,
    SPACE,
    line_names,
    percent,
    picture_size,
    typeset,
    with_names,
    with_room,
)  # fmt: skip
from ._style import FONT, GREY, MARGIN, SMALL, TITLE, Pixels, Sheet
from ._words import BASELINES

EFFECT, TALLEST = 3.4, 3.2  # inches: the greatest width and height of a picture of what regions add or take
DEEP = 0.8  # how much of the full colour lies over the image in grey
CROWD = 80  # regions whose borders are thinner, that something is seen of the image
BAR = 0.15  # inches: the height of a colour bar
SPAN = (-1.5, 101.5)  # percent: the areas that the plot has room for
WORDS = 0.7  # inches between the area of the highest score, which has words, and the others that are named
RING = 0.09  # inches: half the width of the mark at the highest score
CLEAR = 0.06  # inches between a name and the lines of the plot
AFTER = 2  # pictures between the highest score and the whole image, where it falls
NEEDED = ("labels", "order", "consistency", "collaboration", "areas", "best_prefix")  # of the details
PURPLE = "#8F3F7B"
GREYS = np.array([0.299, 0.587, 0.114])

__all__ = ["subset_path"]


@dataclass
class _Path:
    """One image's regions in their order, and the scores along it.

    Attributes:
        unit: What the score is called.
        labels: `(H, W)`, each pixel's region.
        rank: `(H, W)`, which its region was in the order, from 0.
        areas: `(d + 1,)`, of the first 0, 1, ... d regions, as parts of the image.
        alone: `(d + 1,)`, the score of these regions alone.
        without: `(d + 1,)`, the score of the image without them.
        best: How many regions have the highest score; all, where it is the same all along.
    """

    unit: str
    labels: Pixels
    rank: Pixels
    areas: Pixels
    alone: Pixels
    without: Pixels
    best: int

    @property
    def count(self) -> int:
        """How many regions there are."""
        return len(self.alone) - 1

    @property
    def finite(self) -> Pixels:
        """All scores that have a place in a plot."""
        values = np.concatenate([self.alone, self.without])
        return np.asarray(values[np.isfinite(values)])

    @property
    def flat(self) -> bool:
        """Whether the score is the same all along, to the precision of the maps."""
        if (self.alone == self.alone[0]).all():
            return True
        most = np.abs(self.alone).max()
        return bool(np.isfinite(most) and np.ptp(self.alone) <= 4 * np.finfo(np.float32).eps * most)

    def number(self, score: float) -> str:
        """A score with three digits of the range that all scores have, so that they can be compared."""
        if not np.isfinite(score):
            return typeset(f"{score}".replace("inf", "\N{INFINITY}"))
        values = self.finite
        scale = (0.0 if self.flat else float(np.ptp(values))) or float(np.abs(values).max(initial=0.0)) or 1.0
        decimals = max(0, 2 - int(np.floor(np.log10(scale))))
        text = f"{score:.{decimals}f}" if decimals <= 7 else f"{score:.3g}"
        if float(text) == 0 and score > 0 and self.unit == "probability":
            return f"<{text[:-1]}1"
        return text.lstrip("-") if float(text) == 0 else typeset(text)


def subset_path(
    found: Explanation,
    image: int = 0,
    *,
    steps: int = 7,
    name: str | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Figure:
    """One image that grows by its most important regions, the score on the way, and what brings the score up and down.

    Regions are shown in the order in which the method chose them. The first ones with the highest score are framed, and
    marked in the curve. Of the regions up to there, a picture says what each added to the score when it came; of those
    after it, what each took away: for a wrong prediction, what the network was misled by.

    Args:
        found: What `explain` of `submodular` or `lima` returned.
        image: Which image, from 0.
        steps: How many pictures of the growing image there are at most: the first regions, those with the highest score,
            where it has fallen by parts, and the whole image.
        name: Of the image.
        classes: Class names.
        bounds: Smallest and largest value of the images; `None`: the image's own.

    Raises:
        ValueError: Another method's explanation, regions of tables or tokens, no images to draw, too few steps, or no such
            image; the message says what to do.

    Example:
        >>> import torch
        >>> def rows(*values):
        ...     return torch.tensor([values], dtype=torch.float64)
        >>> one, maps = torch.zeros(1), torch.zeros(1, 1, 8, 8)
        >>> details = {
        ...     "labels": torch.arange(8).expand(1, 8, 8) // 4, "order": torch.tensor([[1, 0]]),
        ...     "consistency": rows(0.1, 0.8, 0.6), "collaboration": rows(0.4, 0.7, 0.9), "areas": rows(0, 0.5, 1),
        ...     "best_prefix": torch.tensor([1]), "best_area": torch.tensor([0.5]),
        ... }
        >>> found = Explanation(maps, maps, None, one, one.long(), one.long(), 0.1, details, method="submodular")
        >>> found.inputs = torch.rand(1, 3, 8, 8)
        >>> [axes.get_label() for axes in subset_path(found).figure.axes]
        ['image', '1 region', '2 regions', 'curve', 'names', 'up', 'bar of up', 'down', 'bar of down']
    """
    _check(found)
    if steps < 2:
        raise ValueError(f"steps={steps}: at least 2, for the highest score and for the whole image")
    label = f"image {image}" if name is None else name
    _style.pick_images([image], len(found), [f"image {i}" for i in range(len(found))])
    plain, _ = Photographs(found.inputs, None, None, bounds, count=len(found), sharp=SHARP, cure=CURE).load(image)
    path = _read(found, image, plain)

    with _style.style():
        shown = _steps(path.alone, path.best, steps)
        width, height, across = picture_size(plain, len(shown) + 1)
        step = max(width, LEAST) + GAP
        sheet = Sheet(2 * MARGIN + max(PLOT, across * step - GAP))
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, f"{found.method} of {label}", wide, size=TITLE, bold=True)
        y = sheet.text(MARGIN, y, _facts(found, image, classes), wide, size=SMALL, colour=GREY, lines=3)
        y = sheet.text(MARGIN, y, _reading(found), wide, size=SMALL, colour=GREY, lines=3) + 0.12

        pictures = [(None, 0), *zip(shown, [0, *shown], strict=False)]
        for at in range(0, len(pictures), across):
            row = pictures[at : at + across]
            lefts = [MARGIN + k * step for k in range(len(row))]
            ends = [_over_picture(sheet, (x, y), path, k, step - GAP / 2) for x, (k, _) in zip(lefts, row, strict=True)]
            top = max(ends) + 0.04
            for x, (k, before) in zip(lefts, row, strict=True):
                draw = partial(_whole, plain, path) if k is None else partial(_grown, plain, path, k, before)
                sheet.axes((x, top, width, height), draw, "image" if k is None else _regions(k))
            y = top + height + 0.06
            framed = [x for x, (k, _) in zip(lefts, row, strict=True) if k == path.best and not path.flat]
            for x in framed:
                y = sheet.text(x, y, "highest score", step - GAP / 2, bold=True, colour=BLUE, lines=1)
            y += 0.1

        y = sheet.text(MARGIN, y + 0.05, _sentence(path), wide, bold=True, lines=3) + 0.12
        y = _plot(sheet, y, path)
        if not path.flat:
            y = _effects(sheet, y + 0.15, plain, path)
        return sheet.figure(y + MARGIN)


def _check(found: Explanation) -> None:
    """Refuse what has no path of regions of an image."""
    if not set(NEEDED) <= set(found.details):
        raise ValueError(
            f"subset_path draws what submodular or lima found, not {found.method or 'maps from elsewhere'}: pass the "
            "explanation of attribution.create('submodular', model), or draw this one with heatmap"
        )
    if found.details["labels"].ndim != 3:
        raise ValueError(
            "subset_path draws regions of images, and these are columns of a table, or tokens: read "
            "found.details['order'] and found.details['consistency']"
        )


def _read(found: Explanation, image: int, plain: Pixels) -> _Path:
    """What is drawn of one image."""
    details = found.details
    order = details["order"][image].detach().cpu()
    order = order[order >= 0]
    labels = details["labels"][image].detach().cpu()
    if tuple(labels.shape) != plain.shape[:2]:
        raise ValueError(
            f"the regions are of images of {tuple(labels.shape)} pixels, and found.inputs has {plain.shape[:2]}: set "
            "found.inputs to the images that were explained"
        )
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    kept, removed, areas = (
        details[key][image, : len(order) + 1].detach().double().cpu().numpy()
        for key in ("consistency", "collaboration", "areas")
    )
    path = _Path(
        unit=found.output.replace("_", " "),
        labels=labels.numpy(),
        rank=rank[labels].numpy(),
        areas=areas,
        alone=kept,
        without=1 - removed,
        best=int(details["best_prefix"][image]),
    )
    if path.flat:
        path.best = path.count  # no number of regions is better than another
    return path


def _steps(alone: Pixels, best: int, most: int) -> list[int]:
    """The numbers of regions to show: geometrically up to the best, then as the score falls, and all.

    Example:
        >>> scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.9, 0.6, 0.6, 0.2, 0.1])
        >>> _steps(scores, 5, 7), _steps(scores, 5, 3)
        ([1, 2, 3, 5, 7, 9, 10], [1, 5, 10])
    """
    count = len(alone) - 1
    spare = most - 1 - (best < count)
    before, after = max(0, best - 1), max(0, count - best - 1)
    least = min(AFTER, spare // 2) if alone[-1] < alone[best] else 0
    after = min(after, max(least, spare - before))
    ahead = _spaced(best, min(before, spare - after))
    return [*ahead, best, *_falling(alone, best, after), *([count] if best < count else [])]


def _falling(alone: Pixels, best: int, many: int) -> list[int]:
    """So many numbers of regions after the best, short of all: where parts of the fall are first reached, else the next."""
    last, chosen = len(alone) - 1, set[int]()
    for k in range(1, many + 1):
        level = alone[best] + (alone[-1] - alone[best]) * k / (many + 1)
        with_less = np.flatnonzero(alone[best + 1 : last] <= level)  # none where the score is infinite
        if len(with_less):
            chosen.add(best + 1 + int(with_less[0]))
    others = [k for k in range(best + 1, last) if k not in chosen]
    return sorted([*chosen, *others[: many - len(chosen)]])


def _spaced(end: int, many: int) -> list[int]:
    """So many different numbers from 1 on, below the end, as near to geometrically spaced as whole numbers can be."""
    chosen: list[int] = []
    for k in range(many):
        least, top = (chosen[-1] if chosen else 0) + 1, end - many + k
        chosen.append(min(max(round(end ** (k / many)), least), top))
    return chosen


# -- pictures ----------------------------------------------------------------------------------------------------------


def _over_picture(sheet: Sheet, at: tuple[float, float], path: _Path, k: int | None, wide: float) -> float:
    """What stands above a picture; where it ends."""
    x, y = at
    best = k == path.best and not path.flat
    colour = BLUE if best else "black"
    if k is None:
        y = sheet.text(x, y, "the image", wide, bold=True, lines=1)
        return sheet.text(x, y, f"in {_regions(path.count)}", wide, size=SMALL)
    head = f"all {_regions(k)}" if k == path.count > 1 else _regions(k)
    y = sheet.text(x, y, head, wide, bold=True, colour=colour, lines=1)
    y = sheet.text(x, y, f"{percent(path.areas[k])} of the image", wide, size=SMALL, colour=colour)
    return sheet.text(x, y, f"{path.unit} {path.number(path.alone[k])}", wide, size=SMALL, colour=colour)


def _whole(plain: Pixels, path: _Path, axes: Axes) -> None:
    """The image with the borders of its regions."""
    _draw(axes, plain)
    _outline(axes, np.pad(path.labels, 1, mode="edge"), thick=0.5 if path.count <= CROWD else 0.25)


def _grown(plain: Pixels, path: _Path, k: int, before: int, axes: Axes) -> None:
    """The first k regions, all else faded, with an outline around what came after the picture before."""
    _draw(axes, np.where((path.rank < k)[..., None], plain, _faded(plain)))
    _outline(axes, np.pad((path.rank >= before) & (path.rank < k), 1), thick=0.8)
    if k == path.best and not path.flat:
        look: dict[str, Any] = {"fill": False, "edgecolor": BLUE, "linewidth": 3.0, "clip_on": False}
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=5, **look))


def _draw(axes: Axes, pixels: Pixels) -> None:
    axes.set_axis_off()
    axes.imshow(pixels.clip(0, 1), aspect="auto", vmin=0, vmax=1)


def _faded(plain: Pixels) -> Pixels:
    """The image as it looks where it is not shown."""
    return np.asarray(((plain @ GREYS) * (1 - PALE) + PALE)[..., None])


def _outline(axes: Axes, parts: Pixels, *, thick: float) -> None:
    """Black lines on white ones between pixels of different parts, which have one pixel more on each side."""
    lines = _borders(parts)
    limits = axes.get_xlim(), axes.get_ylim()
    look: dict[str, Any] = {"capstyle": "projecting", "clip_on": False}
    for colour, width in (("white", 2.5 * thick), ("black", thick)):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, **look), autolim=False)
    axes.set(xlim=limits[0], ylim=limits[1])


def _borders(parts: Pixels) -> list[Pixels]:
    """Line segments between pixels of different parts, each as long as can be; the outermost pixels lie outside.

    Example:
        >>> [line.tolist() for line in _borders(np.pad(np.array([[0, 1]]), 1))][:2]
        [[[0.5, -0.5], [1.5, -0.5]], [[0.5, 0.5], [1.5, 0.5]]]
    """
    whole, found = parts.astype(np.int64), list[Pixels]()
    for values, flip in ((whole, False), (whole.T, True)):
        differ = np.diff(values, axis=0)[:, 1:-1] != 0  # whether a line runs along the lower side of a row
        change = np.diff(np.pad(differ, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        (rows, starts), (_, ends) = np.nonzero(change == 1), np.nonzero(change == -1)
        lines = np.stack([np.stack([starts, rows], 1), np.stack([ends, rows], 1)], 1) - 0.5
        found.extend(lines[..., ::-1] if flip else lines)
    return found


# -- the curves --------------------------------------------------------------------------------------------------------


def _plot(sheet: Sheet, y: float, path: _Path) -> float:
    """Both scores over the area, with their names; where it ends."""
    left, wide = MARGIN + AXIS, sheet.width - 2 * MARGIN - AXIS - LINES
    limits = _range(path)
    sheet.axes((left, y, wide, HEIGHT), partial(_curves, path=path, limits=limits, wide=wide), "curve")
    ends = [(path.alone[-1], "whole image", "black"), (path.alone[0], "nothing shown", GREY)]
    named = [(float(v), f"{what}: {path.number(v)}", colour) for v, what, colour in ends if np.isfinite(v)]
    line_names(sheet, (left + wide, y), named, limits)

    _name_curves(sheet, (left, y, wide), path, [v for v, *_ in named], limits)
    return y + HEIGHT + BELOW + (0 if path.flat else SPACE)


def _name_curves(
    sheet: Sheet, at: tuple[float, float, float], path: _Path, flat: Sequence[float], limits: tuple[float, float]
) -> None:
    """The two curves' names, each beside its own.

    Args:
        sheet: Where.
        at: The plot's left and top, and its width.
        path: What is plotted.
        flat: Where there are horizontal lines.
        limits: Of the plot's values.
    """
    (left, y, wide), (low, high) = at, limits

    def inches(corners: Any) -> Pixels:
        """Points along a line, from the plot's upper left corner."""
        points = np.asarray(corners, float).reshape(-1, 2) - [SPAN[0], high]
        return _dense(points * [wide / (SPAN[1] - SPAN[0]), -HEIGHT / (high - low)])

    percents, best = 100 * path.areas, path.best
    first = slice(best + 1 if best else None)  # in the colour of the name
    alone, rest = (
        inches(_stairs(percents[first], path.alone[first])),
        inches(_stairs(percents[best:], path.alone[best:])),
    )
    without = inches(_stairs(percents, path.without))
    lines = [inches([(SPAN[0], v), (SPAN[1], v)]) for v in flat]
    if not path.flat:
        mark = (percents[best], path.alone[best])
        turn = np.linspace(0, 2 * np.pi, 16)
        lines.append(inches([(mark[0], low), mark]))
        lines.append(inches([mark])[:1] + RING * np.stack([np.cos(turn), np.sin(turn)], 1))
    boxes: list[tuple[float, float, float, float]] = []
    for text, colour, own, others in (
        ("only the regions shown", BLUE if best else ORANGE, alone, [without, *([rest] if best else []), *lines]),
        ("without the regions shown", PURPLE, without, [alone, rest, *lines]),
    ):
        if not len(own):  # infinite all along
            continue
        size = (_style.extent(text, SMALL)[0] + 0.02, SPACE)
        x, top = _beside(size, own, others, boxes, (wide, HEIGHT))
        sheet.text(left + x, y + top, text, size[0] + 0.05, size=SMALL, colour=colour, lines=1, plate=True)
        boxes.append((x, top, x + size[0], top + size[1]))


def _range(path: _Path) -> tuple[float, float]:
    """From the least to the most that is plotted; a probability from 0."""
    low, high = with_room([float(v) for v in path.finite])
    if path.unit == "probability":
        most = max((float(v) for v in path.finite), default=0.0)
        high = 1.0 if most >= 0.5 or most <= 0 else 1.08 * most
        return -0.02 * high, 1.02 * high
    return low, high


def _stairs(x: Pixels, values: Pixels) -> Pixels:
    """The corners of a curve that stays until the next value comes, `(2 n - 1, 2)`; what is not finite is left out."""
    x, values = x[np.isfinite(values)], values[np.isfinite(values)]
    return np.stack([np.repeat(x, 2)[1:], np.repeat(values, 2)[:-1]], 1) if len(x) else np.zeros((0, 2))


def _dense(corners: Pixels) -> Pixels:
    """Points along a line through corners in inches, `CLEAR` from one to the next or a little less."""
    if len(corners) < 2:
        return corners
    along = np.concatenate([[0.0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])
    places = np.linspace(0, along[-1], int(along[-1] / CLEAR) + 2)
    return np.stack([np.interp(places, along, corners[:, 0]), np.interp(places, along, corners[:, 1])], 1)


def _beside(
    size: tuple[float, float],
    own: Pixels,
    others: Sequence[Pixels],
    boxes: Sequence[tuple[float, float, float, float]],
    room: tuple[float, float],
) -> tuple[float, float]:
    """Where a name stands: near its own curve, on no line and on no other name, and nearer to its own than to others.

    Everything is in inches from the upper left corner of the plot.

    Args:
        size: Of the name.
        own: Points along its curve.
        others: Along the other lines.
        boxes: Left, top, right and bottom of the other names.
        room: Of the plot.
    """
    x, y = (g.ravel() for g in np.meshgrid(
        np.arange(0.08, max(0.09, room[0] - size[0] - 0.04), 0.08), np.arange(0.02, room[1] - size[1], 0.04)
    ))  # fmt: skip

    def distance(points: Pixels) -> Pixels:
        least = np.full(len(x), np.inf)
        for part in np.array_split(points, -(-len(points) // 500) or 1):
            across = np.maximum(np.maximum(x[:, None] - part[:, 0], part[:, 0] - x[:, None] - size[0]), 0)
            down = np.maximum(np.maximum(y[:, None] - part[:, 1], part[:, 1] - y[:, None] - size[1]), 0)
            least = np.minimum(least, np.hypot(across, down).min(1, initial=np.inf))
        return least

    mine = distance(own)
    other = np.min([distance(points) for points in others], axis=0)
    taken = np.zeros(len(x), bool)
    for left, top, right, bottom in boxes:
        apart = (x > right + CLEAR) | (x + size[0] + CLEAR < left) | (y > bottom) | (y + size[1] < top)
        taken |= ~apart
    cost = mine - 0.3 * np.minimum(other, 0.5)
    cost += 100 * taken + 10 * (np.minimum(mine, other) < CLEAR) + 2 * (other < mine + 0.1)
    at = int(np.nan_to_num(cost, posinf=1e6).argmin())
    return float(x[at]), float(y[at])


def _curves(axes: Axes, path: _Path, limits: tuple[float, float], wide: float) -> None:
    """Both scores over the area: each stays until the next region comes."""
    percents, best = 100 * path.areas, path.best
    for value, colour, dashes in ((path.alone[-1], "black", "-"), (path.alone[0], GREY, (0, (5, 2)))):
        if np.isfinite(value):
            axes.axhline(value, color=colour, linestyle=dashes, linewidth=0.9, zorder=1.5)
    look: dict[str, Any] = {"drawstyle": "steps-post", "solid_joinstyle": "miter"}
    axes.plot(
        percents, path.without, color=PURPLE, linewidth=1.4, linestyle=(0, (3, 1)), label="without", zorder=2.5, **look
    )
    look |= {"linewidth": 2.0, "marker": "o", "markersize": 3.5 if path.count <= 60 else 2.0, "zorder": 3}
    axes.plot(percents[best:], path.alone[best:], color=ORANGE, label="after the best", **look)
    axes.plot(percents[: best + 1], path.alone[: best + 1], color=BLUE, label="up to the best", **look)
    marks = np.arange(0, 101, 20.0)
    chosen: int | None = None
    if not path.flat:
        at = (percents[best], path.alone[best])
        marks = np.array(sorted([at[0], *marks[np.abs(marks - at[0]) / (SPAN[1] - SPAN[0]) * wide > WORDS]]))
        chosen = int(np.abs(marks - at[0]).argmin())
        axes.plot([at[0], at[0]], [limits[0], at[1]], color=BLUE, linewidth=1.1, zorder=2)
        ring: dict[str, Any] = {"markersize": 144 * RING - 2.4, "markerfacecolor": "white", "markeredgecolor": BLUE}
        ring |= {"marker": "o", "markeredgewidth": 2.4, "linestyle": "", "zorder": 4, "clip_on": False}
        axes.plot(*at, label="highest score", **ring)
    axes.set_xlim(*SPAN)
    axes.set_ylim(*limits)
    ticks = with_names(marks / (SPAN[1] - SPAN[0]) * wide, chosen)
    axes.set_xticks(marks[ticks], [percent(marks[k] / 100) + ("\nhighest score" if k == chosen else "") for k in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _digits(v, 5)))
    axes.set_xlabel("area shown, in percent of the image; each dot is one more region", fontsize=SMALL)
    axes.set_ylabel(path.unit, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
    for k, text in zip(ticks, axes.get_xticklabels(), strict=True):
        if k == chosen:
            text.set(color=BLUE, fontweight="bold")
    axes.grid(visible=True, axis="y", color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# -- what brings the score up and down ---------------------------------------------------------------------------------


def _effects(sheet: Sheet, y: float, plain: Pixels, path: _Path) -> float:
    """Two pictures: what the regions up to the highest score added, and what those after it took; where they end."""
    wide = (sheet.width - 2 * MARGIN - 2 * GAP) / 2
    width, height = _style.fit(plain, min(EFFECT, wide), TALLEST)
    with np.errstate(invalid="ignore"):  # from one infinite score to the next
        gains = np.nan_to_num(np.diff(path.alone), nan=0.0, posinf=np.inf, neginf=-np.inf)
    sides = [
        ("up", BLUE, gains, np.arange(path.count) < path.best),
        ("down", ORANGE, -gains, np.arange(path.count) >= path.best),
    ]
    lefts = [MARGIN, MARGIN + wide + 2 * GAP]
    said = [_effect(path, way, values[some]) for way, _, values, some in sides]
    ends = []
    for x, (_, colour, _, _), (head, note) in zip(lefts, sides, said, strict=True):
        end = sheet.text(x, y, head, wide, bold=True, colour=colour, lines=4)
        ends.append(sheet.text(x, end, note, wide, size=SMALL, colour=GREY, lines=4))
    top = max(ends) + 0.06
    bottoms = [top]
    for x, (way, colour, values, some) in zip(lefts, sides, strict=True):
        if not some.any():
            continue
        finite = values[some & np.isfinite(values)]
        most = max(0.0, finite.max(initial=0.0))
        even = np.ptp(path.alone[np.isfinite(path.alone)]) / path.count  # full colour at least, so that noise has none
        most = most and max(most, even)
        strength = np.where(some, (values / (most or 1.0)).clip(0, 1), np.nan)
        sheet.axes((x, top, width, height), partial(_tinted, plain, path, strength, colour), way)
        bottoms.append(top + height)
        if most:
            at = top + height + 0.08
            long = max(width, LEAST)
            sheet.axes((x, at, long, BAR), partial(_bar, colour), f"bar of {way}")
            at += BAR + 0.04
            sheet.text(x, at, "0", long, size=SMALL)
            sign = "+" if way == "up" else "\N{MINUS SIGN}"
            more = " or more" if np.isinf(values[some]).any() else ""
            bottoms.append(sheet.right(x, at, f"{sign}{_digits(most, 2)}{more} {path.unit}", long, size=SMALL))
    return max(bottoms)


def _effect(path: _Path, way: str, values: Pixels) -> tuple[str, str]:
    """What regions come to together, and how their colours are read."""
    many, best = len(values), path.number(path.alone[path.best])
    if not many:
        what = "the whole image" if way == "down" else "the image with nothing shown"
        return f"Nothing brings the {path.unit} {way}:\n{what} has the highest.", ""
    start, end = (path.number(path.alone[0]), best) if way == "up" else (best, path.number(path.alone[-1]))
    if many == path.count:
        who = f"All {_regions(many)}" if many > 1 else "The only region"
    else:
        who = f"The {'first' if way == 'up' else 'other'} {_regions(many) if many > 1 else 'region'}"
    head = f"{who} {'bring' if many > 1 else 'brings'} the {path.unit}\n{way} from {start} to {end}"
    if start == end:
        head = f"{who} {'leave' if many > 1 else 'leaves'} the {path.unit}\nat {end}"
    none, did = int((values <= 0).sum()), "added" if way == "up" else "took"
    note = f"Colour: what each region {did} when it came." if none < many else ""
    return head, f"{note} Grey: {none} that {did} nothing.".strip() if none else note


def _tinted(plain: Pixels, path: _Path, strength: Pixels, colour: str, axes: Axes) -> None:
    """Regions in colour over the image in grey; those without a strength are faded."""
    amount = strength[path.rank]
    tinted = _tint(plain @ GREYS, np.nan_to_num(amount), colour)
    _draw(axes, np.where(np.isnan(amount)[..., None], _faded(plain), tinted))
    _outline(axes, np.pad(~np.isnan(amount), 1), thick=0.8)


def _tint(grey: Pixels, amount: Pixels, colour: str) -> Pixels:
    """A grey image, `(H, W)`, in a colour by an amount from 0 to 1."""
    part = DEEP * amount[..., None]
    return np.asarray((0.35 + 0.55 * grey)[..., None] * (1 - part) + np.array(to_rgb(colour)) * part)


def _bar(colour: str, axes: Axes) -> None:
    """The colours from 0 to the most."""
    _draw(axes, _tint(np.full((1, 256), 0.5), np.linspace(0, 1, 256)[None], colour))


# -- words -------------------------------------------------------------------------------------------------------------


def _regions(count: int) -> str:
    return f"{count} region{'' if count == 1 else 's'}"


def _digits(number: float, many: int) -> str:
    """So many digits of a number, and no power of ten unless it would have many zeros.

    Example:
        >>> _digits(0.000025, 5), _digits(1234.5, 2), _digits(3e9, 2)
        ('0.000025', '1200', '3e+09')
    """
    if number and not 1e-7 <= abs(number) < 1e7:
        return typeset(f"{number:.{many}g}")
    return typeset(np.format_float_positional(number, many, unique=False, fractional=False, trim="-"))


def _sentence(path: _Path) -> str:
    """What the path comes to."""
    best = path.number(path.alone[path.best])
    if path.flat:
        return f"The {path.unit} is {best} however many regions are shown: nothing brings it up or down."
    which = (
        f"with {path.best} of {_regions(path.count)}, {percent(path.areas[path.best])} of the image"
        if 0 < path.best < path.count
        else "of the whole image" if path.best else "with nothing shown"
    )  # fmt: skip
    return f"Highest {path.unit}: {best}, {which}."


def _reading(found: Explanation) -> str:
    """How to read the pictures."""
    baseline = _style.short(found.params.get("baseline", "its baseline"))
    return (
        f"Regions are shown one after another, in the order in which {found.method} chose them. Faded: not shown yet; the "
        f"network saw {BASELINES.get(baseline, baseline.replace('_', ' '))} there. Outlined: shown since the picture before."
    )


def _facts(found: Explanation, image: int, classes: Sequence[str] | Mapping[int, str] | None) -> str:
    what = _style.explained(found, image, classes)
    cost = _style.cost(float(found.forwards[image]), float(found.backwards[image]))
    score = typeset(f"{float(found.scores[image]):.3g}")
    options = [
        f"{k} {_style.short(found.params[k])}" for k in ("regions", "n_regions", "baseline") if k in found.params
    ]
    return "; ".join([f"explained: {what}, {found.output.replace('_', ' ')} {score}", *options, cost])

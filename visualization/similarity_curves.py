"""Similarity curves: how like the trained network's maps stay while the network is randomised, with how sure it is."""

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from attriscope.metrics.statistics import interval
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import _style
from ._steps import LINES, SPACE, line_names
from ._style import BODY, FONT, GREY, MARGIN, SMALL, TITLE, Pixels, Sheet
from .cost import INKS as ALL
from .curves import DASHES

INKS = (*ALL[:5], ALL[6], "#7B3FBF", "#8B1A1A")  # two others for the second blue

LEVEL = 0.95
STEP, LEAST, MOST, HEIGHT, AXIS = 1.05, 4.6, 8.4, 3.6, 0.55  # inches: between stages, the plot, room for its numbers
DODGE, SPREAD = 0.045, 0.5  # from one method's bar to the next in inches, and of all of them at most in steps
FLOOR = 0.38  # steps on either side of the last stage: how long a floor's line is
ALIKE = 0.1  # floors whose means differ by no more are one band
SLOPE = math.sqrt(0.5)  # across and down, of a name that stands askew
SLANTED = 2.2  # inches: the longest name of a stage that stands askew
LONGEST = 3  # lines of a name that stands upright
FEW = 0.05  # of the images: as many may be undefined without a word
TRAINED = "trained"
TITLED = "How similar maps stay to the trained network's while the network is randomised, layer by layer"

__all__ = ["similarity_curves"]


def similarity_curves(
    curves: Mapping[str, Any],
    *,
    stages: Sequence[str],
    ceiling: Mapping[str, Any] | None = None,
    floor: Mapping[str, Any] | None = None,
    controls: Collection[str] = (),
    how: str = "Spearman",
    title: str | None = None,
) -> Figure:
    """Each method's mean similarity to the trained network's map, over the stages of a network that is randomised.

    Bars are 95% bootstrap intervals of the mean over the images that are defined; methods are set side by side at each
    stage. A line that falls to the floor belongs to maps that depend on what the network learned, which does not make them
    right: a map of noise falls too. Control methods, which know nothing of the network, are grey and dashed.

    Args:
        curves: For each method `(N, K)`: of N images, the similarity of the map at each stage to the trained network's; NaN
            is undefined.
        stages: K names: what each stage randomises beyond the stage before it.
        ceiling: For each method, or some, `(N,)`: the similarity of two maps of the trained network. It is where a line
            starts.
        floor: For each method, or some, `(N,)`: the similarity of the maps of two networks that are both random. Means that
            differ by no more than 0.1 are drawn as one band with all their intervals, others as a dotted line each.
        controls: Which methods are controls.
        how: What the similarity is called.
        title: A sentence in place of the usual one.

    Raises:
        ValueError: No methods or stages, nothing but NaN, infinite values, or anything that does not fit; the message says
            what.

    Example:
        >>> figure = similarity_curves({"saliency": [[0.9, 0.2], [0.7, 0.1]]}, stages=["fc", "layer4"])
        >>> figure.axes[0].lines[-1].get_ydata().round(2).tolist()
        [0.8, 0.15]
    """
    names = [str(s) for s in stages]
    lines = _read(curves, names, ceiling or {}, floor or {}, controls)
    with _style.style():
        return _Plot(lines, names, how).draw(title or TITLED)


@dataclass
class _Line:
    """One method.

    Attributes:
        name: Of the method.
        look: Colour and dashes.
        mean: `(K + 2,)`: at the ceiling, at each stage and at the floor; NaN where there is none.
        low: The lower end of its interval.
        high: The upper end.
        undefined: `(K,)`, how many images are.
        shift: To the side, in steps.
    """

    name: str
    look: dict[str, Any]
    mean: Pixels
    low: Pixels
    high: Pixels
    undefined: Pixels
    images: int
    shift: float = 0.0

    @property
    def last(self) -> int | None:
        """The last stage that is defined, from 1."""
        known = np.flatnonzero(~np.isnan(self.mean[1:-1]))
        return int(known[-1]) + 1 if len(known) else None


def _read(
    curves: Mapping[str, Any],
    stages: Sequence[str],
    ceiling: Mapping[str, Any],
    floor: Mapping[str, Any],
    controls: Collection[str],
) -> list[_Line]:
    """What is drawn of each method."""
    if not curves or not stages:
        raise ValueError(
            f"there are {len(curves)} methods and {len(stages)} stages: similarity_curves draws at least one of each"
        )
    known = [controls] if isinstance(controls, str) else list(controls)
    for what, given in (("a ceiling", ceiling), ("a floor", floor), ("a control", known)):
        for name in given:
            if name not in curves:
                raise ValueError(f"there is {what} {name!r}, and curves of: {', '.join(map(str, curves))}")
    tables = {m: _numbers(given, f"the curves of {m}", (None, len(stages))) for m, given in curves.items()}
    count = len(next(iter(tables.values())))
    lines: list[_Line] = []
    plain = 0
    for method, table in tables.items():
        if len(table) != count:
            raise ValueError(
                f"the curves of {method} are of {len(table)} images, and others of {count}: give the same images"
            )
        none = np.full(count, np.nan)
        ends = [
            _numbers(given[method], f"the {what} of {method}", (count,)) if method in given else none
            for what, given in (("ceiling", ceiling), ("floor", floor))
        ]
        whole = np.column_stack([ends[0], table, ends[1]])
        defined = ~np.isnan(whole)
        counts = defined.sum(0)
        mean = np.where(defined, whole, 0).sum(0) / np.where(counts, counts, np.nan)
        low, high = interval(whole, level=LEVEL)
        if method in known:
            look = {"color": GREY, "linestyle": DASHES[1 + known.index(method) % (len(DASHES) - 1)]}
        else:
            look = {"color": INKS[plain % len(INKS)], "linestyle": DASHES[plain // len(INKS) % len(DASHES)]}
            plain += 1
        lines.append(_Line(str(method), look, mean, low, high, count - counts[1:-1], count))
    if all(line.last is None for line in lines):
        raise ValueError("every similarity is NaN: there is nothing to draw")
    return lines


def _numbers(given: Any, what: str, shape: tuple[int | None, ...]) -> Pixels:
    """Similarities as they should be, NaN or finite."""
    table = _style.numbers(given)
    fits = table.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, table.shape, strict=True))
    if not fits or not len(table):
        wanted = shape if len(shape) == 1 else f"(images, {shape[1]} stages)"
        raise ValueError(f"{what}: the shape is {table.shape}, and should be {wanted}")
    if np.isinf(table).any():
        raise ValueError(f"{what}: a similarity is finite, or NaN where it is undefined, and some are infinite")
    return table


class _Plot:
    """The figure's parts."""

    def __init__(self, lines: list[_Line], stages: list[str], how: str) -> None:
        self.lines, self.stages = lines, stages
        self.ceiling = any(not np.isnan(line.mean[0]) for line in lines)
        self.floors = [line for line in lines if not np.isnan(line.mean[-1])]
        self.band = len(self.floors) > 1 and bool(np.ptp([line.mean[-1] for line in self.floors]) <= ALIKE)
        ends = np.concatenate([np.concatenate([line.mean, line.low, line.high]) for line in lines])
        self.limits = min(-0.06, float(np.nanmin(ends)) - 0.04), max(1.04, float(np.nanmax(ends)) + 0.04)

        self.first = 0 if self.ceiling else 1
        self.span = self.first - 0.4, len(stages) + 0.5
        steps = self.span[1] - self.span[0]
        self.wide = min(max(STEP * steps, LEAST), MOST)
        step = self.wide / steps  # inches
        apart = min(DODGE / step, SPREAD / len(lines))
        for k, line in enumerate(lines):
            line.shift = apart * (k - (len(lines) - 1) / 2)

        self.named = [(float(one.mean[one.last]), self.label(one), one) for one in lines if one.last is not None]
        rows = sum(1 + _style.wrap(text, LINES - 0.3, SMALL, lines=3).count("\n") for _, text, _ in self.named)
        self.height = max(HEIGHT, rows * SPACE + len(self.named) * _style.LEADING)
        self.title = f"similarity to the trained network's map ({how})"
        if _style.extent(self.title, BODY)[0] > self.height:
            self.title = _style.wrap(self.title.replace(" (", "\n("), self.height, BODY, lines=3)
        self.axis = AXIS + _style.extent(self.title, BODY)[1]

        names = [TRAINED, *stages][self.first :]
        self.askew = _askew(names, step - 0.08)
        if self.askew:
            # the first stage's name ends at the figure's edge, if it is that long
            room = min(SLANTED, (self.axis + (1 - self.span[0]) * step) / SLOPE - SPACE)
            self.texts = [_end(name, room) for name in names]
        else:
            self.texts = [_style.wrap(name, step - 0.08, SMALL, lines=LONGEST) for name in names]

    def draw(self, title: str) -> Figure:
        """The whole figure."""
        left = MARGIN + self.axis
        sheet = Sheet(left + self.wide + LINES + MARGIN)
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, title, wide, size=TITLE, bold=True, lines=3) + 0.02
        for said in self.says():
            y = sheet.text(MARGIN, y, said, wide, size=SMALL, colour=GREY, lines=4)
        y += 0.12
        sheet.axes((left, y, self.wide, self.height), self.plot, "similarity")
        line_names(
            sheet, (left + self.wide, y), [(value, text, one.look["color"]) for value, text, one in self.named],
            self.limits, height=self.height, dashes={text: one.look["linestyle"] for _, text, one in self.named},
        )  # fmt: skip
        return sheet.figure(y + self.height + self.below() + MARGIN)

    def label(self, line: _Line) -> str:
        """What stands at a line's end."""
        return line.name if line.last == len(self.stages) else f"{line.name}, undefined at the end"

    def below(self) -> float:
        """Inches for the names of the stages and for what they are."""
        sizes = [_style.extent(text, SMALL) for text in self.texts]
        return (SLOPE * max(w + h for w, h in sizes) if self.askew else max(h for _, h in sizes)) + 0.3

    def says(self) -> list[str]:
        """How to read the figure, in short lines."""
        images = self.lines[0].images
        bars = f"mean over {images} images; bar: {LEVEL:.0%} bootstrap interval of the mean"
        said = [f"Point: {bars if images > 1 else 'one image, without an interval'}."]
        ends = [f"At \u201c{TRAINED}\u201d: two maps of the trained network, the ceiling."] if self.ceiling else []
        if self.floors:
            ends.append(f"{'Grey band' if self.band else 'Dotted'}: maps of two random networks, the floor.")
        said.append(" ".join(ends))
        if any(line.look["color"] == GREY for line in self.lines):
            said.append("Grey, dashed: controls, which know nothing of the network.")
        missing = []
        for line in self.lines:
            worst = int(line.undefined.argmax())
            if line.last is not None and line.undefined[worst] > FEW * images:
                missing.append(f"{line.name} on {line.undefined[worst]} of {images} images at {self.stages[worst]}")
        if missing:
            said.append(f"Undefined, and left out of the mean, at the worst stage: {'; '.join(missing)}.")
        none = [line.name for line in self.lines if line.last is None]
        if none:
            said.append(f"Undefined on every image: {', '.join(none)}.")
        return said

    def plot(self, axes: Axes) -> None:
        """The axes with all that is in them."""
        axes.set_xlim(*self.span)
        axes.set_ylim(*self.limits)
        places = range(self.first, len(self.stages) + 1)
        drawn = [_style.fonts(text) for text in self.texts]
        axes.set_xticks(list(places), [text for text, _ in drawn])
        axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
        for tick, (_, families) in zip(axes.get_xticklabels(), drawn, strict=True):
            tick.set(fontfamily=families)
            if self.askew:
                tick.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
        axes.set_xlabel("randomised: what is named, and all that is named before it")
        title, families = _style.fonts(self.title)
        axes.set_ylabel(title, fontfamily=families)
        axes.grid(visible=True, axis="y", color="#e3e3e3", linewidth=0.7)
        axes.axhline(0, color="#a6a6a6", linewidth=0.8, zorder=1, label="zero")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if self.band:
            ends = np.array([[line.mean[-1], line.low[-1], line.high[-1]] for line in self.floors])
            axes.axhspan(np.nanmin(ends), np.nanmax(ends), color="#d9d9d9", linewidth=0, zorder=0, label="floor")
        for line in self.lines:
            self.curve(axes, line)

    def curve(self, axes: Axes, line: _Line) -> None:
        """One method."""
        x = np.arange(len(line.mean) - 1) + line.shift
        kept = slice(self.first, None)
        colour = line.look["color"]
        axes.plot(
            x[kept], line.mean[:-1][kept], marker="o", markersize=3.6, markeredgewidth=0, linewidth=1.5, label=line.name,
            zorder=3, **line.look,
        )  # fmt: skip
        known = ~np.isnan(line.low[:-1])
        axes.vlines(
            x[known], line.low[:-1][known], line.high[:-1][known], color=colour, linewidth=1.1, alpha=0.7, zorder=2
        )
        if not self.band and not np.isnan(line.mean[-1]):
            last = len(self.stages)
            axes.plot(
                [last - FLOOR, last + FLOOR], [line.mean[-1]] * 2, color=colour, linewidth=1.6, linestyle=(0, (1, 1.2)),
                zorder=4, label=f"floor of {line.name}",
            )  # fmt: skip


def _end(name: str, room: float) -> str:
    """The end of a name that fits into so many inches: it says more of a module than its beginning.

    Example:
        >>> with _style.style():
        ...     _end("features.denseblock4.denselayer16.conv2", 1.5), _end("fc", 1.5)
        ('…k4.denselayer16.conv2', 'fc')
    """

    def over(start: int) -> float:
        return _style.extent(f"\N{HORIZONTAL ELLIPSIS}{name[start:]}", SMALL)[0] - room

    if _style.extent(name, SMALL)[0] <= room:
        return name
    start = bisect_left(range(len(name)), 0.0, key=lambda k: -over(k))
    return f"\N{HORIZONTAL ELLIPSIS}{name[start:]}"


def _askew(names: Sequence[str], room: float) -> bool:
    """Whether names of stages do not fit upright into so many inches: a name is not broken inside a word for that."""
    words = [word.rstrip() for name in names for word in _style.BREAK.sub("\\g<0>\n", name).split("\n")]
    if max(_style.extent(word, SMALL)[0] for word in words) > room:
        return True
    return any(_style.wrap(name, room, SMALL, lines=LONGEST).endswith("\N{HORIZONTAL ELLIPSIS}") for name in names)

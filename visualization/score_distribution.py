"""Score distribution: how a method's scores on grids spread, for many methods and layers at once."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import _style, _words
from ._located import Scored, layered, own, rows, several
from ._steps import BLUE, SPACE
from ._style import BODY, FONT, GREY, MARGIN, SMALL, TITLE, Pixels, Sheet

Order: TypeAlias = Literal["given", "median"]
NAME, ROW, APART = 1.7, 0.34, 0.3  # inches: the column of names, a row, between layers
AXIS, SIDE = 0.5, 0.08  # inches: below a plot for its numbers, and beside it
WIDEST, MOST = 14.0, 5.0  # inches: the figure and a plot at most
TOGETHER = 3  # layers side by side
LIMITS = (-0.02, 1.02)
HALF = 0.1  # inches: half a box's height
PALE = "#cfe3f1"
FEW = 20  # scores, up to which every one is drawn
ENDS = (5, 25, 50, 75, 95)  # percentiles: whisker, box, median, box, whisker
TITLED = "How scores on grids spread, for each method"

__all__ = ["Order", "Scored", "score_distribution"]


def score_distribution(
    found: Mapping[str, Scored] | Mapping[str, Mapping[str, Scored]],
    *,
    head: int | None = None,
    order: Order = "given",
    title: str | None = None,
) -> Figure:
    """Every method's scores as a box, a row for each method and a plot for each layer, on one axis from 0 to 1.

    Rao, Böhle and Schiele 2022 (https://arxiv.org/abs/2205.10435) compare methods by such boxes. A box holds the middle half
    of the scores, with their median; whiskers go to the 5th and the 95th percentile, the ends of the bins of `aggregate`, and
    what is beyond is a dot. Up to 20 scores are all dots. Scores of one grid's heads are not independent: a box is no
    interval of confidence.

    Args:
        found: For each method's name its scores, an object with the attributes of `Scored`: `scores (U,)`, `cells (U,)`,
            `grid`, `chance`, `attainable`; what `aggregate` takes fits. Or such mappings by the name of a layer.
        head: The cell, row by row, whose scores are taken; `None`: all.
        order: Of the rows: "given", or "median", the best first: by the mean over layers of the medians, and methods that
            have no score last.
        title: A sentence in place of the usual one.

    Raises:
        ValueError: No method, no score of that head, grids of different sizes, or anything that does not fit; the message
            says what.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> found = SimpleNamespace(
        ...     scores=torch.tensor([0.9, 0.4, torch.nan]), cells=torch.zeros(3).long(), grid=2, chance=0.25, attainable=1.0
        ... )
        >>> score_distribution({"input": {"saliency": found}, "final": {"saliency": found}}).axes[1].get_label()
        'final'
    """
    if order not in get_args(Order):
        raise ValueError(f"order={order!r}: choose one of {', '.join(get_args(Order))}")
    layers = layered(found)
    taken = {
        layer: {m: _scores(one, head, f"{m} at {layer}" if layer else m) for m, one in methods.items()}
        for layer, methods in layers.items()
    }
    methods = rows(layers)
    if order == "median":
        methods.sort(key=lambda m: -_middle([some[m] for some in taken.values() if m in some]))
    with _style.style():
        return _Plot(layers, taken, methods, head).draw(title or TITLED)


def _scores(one: Scored, head: int | None, what: str) -> Pixels:
    """All scores, or those of a head."""
    scores = one.scores if head is None else one.scores[own(one, head, what).to(one.scores.device)]
    return _style.numbers(scores)


def _middle(some: Sequence[Pixels]) -> float:
    """The mean of the medians of what is defined; where nothing is, less than any."""
    medians = [np.nanmedian(scores) for scores in some if not np.isnan(scores).all()]
    return float(np.mean(medians)) if medians else -np.inf


class _Plot:
    """The figure's parts."""

    def __init__(
        self,
        layers: Mapping[str, Mapping[str, Scored]],
        taken: Mapping[str, Mapping[str, Pixels]],
        methods: list[str],
        head: int | None,
    ) -> None:
        self.layers, self.taken, self.methods, self.head = layers, taken, methods, head
        many = -(-len(layers) // TOGETHER)
        self.bands = [[str(n) for n in part] for part in np.array_split(np.array(list(layers), dtype=object), many)]
        across = len(self.bands[0])
        self.beside = 0.1 + max(_style.extent(_facts(s), SMALL)[0] for some in taken.values() for s in some.values())
        room = WIDEST - 2 * MARGIN - NAME - (across - 1) * APART
        self.wide = min(room / across - self.beside, MOST)
        self.names = [_style.wrap(m, NAME - 0.1, BODY, lines=3) for m in methods]
        heights = [max(ROW, _style.extent(n, BODY)[1] + 0.06) for n in self.names]
        self.tops = np.concatenate([[0.0], np.cumsum(heights)])
        self.sheet = Sheet(2 * MARGIN + NAME + across * (self.wide + self.beside + APART) - APART)

    def draw(self, title: str) -> Figure:
        """The whole figure."""
        sheet, wide = self.sheet, self.sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, title, wide, size=TITLE, bold=True, lines=3) + 0.02
        for line in self.says():
            y = sheet.text(MARGIN, y, line, wide, size=SMALL, lines=3)
        y += 0.1
        for band in self.bands:
            y = self.band(y, band) + 0.1
        return sheet.figure(y - 0.1 + MARGIN)

    def says(self) -> list[str]:
        """How to read the figure, in short lines."""
        counts = sorted({len(s) for some in self.taken.values() for s in some.values()})
        maps = f"{counts[0]} to {counts[-1]} maps" if len(counts) > 1 else _words.count(counts[0], "map")
        which = "all heads" if self.head is None else f"head {self.head}"
        return [
            f"Score: the share of a map's positive attribution that is inside the cell its head sees; {maps} of {which}.",
            f"Box: quartiles, with the median, which is printed; diamond: mean; whiskers: {ENDS[0]}% to {ENDS[-1]}%.",
            f"Dots: scores beyond the whiskers; where there are at most {FEW}, every score and no whiskers.",
            "Dashed: a map that is the same everywhere (chance); solid: a map that is perfect (attainable).",
        ]

    def band(self, y: float, band: list[str]) -> float:
        """Layers side by side, with the names of the rows; where they end."""
        sheet = self.sheet
        places = [(MARGIN + NAME + k * (self.wide + self.beside + APART), layer) for k, layer in enumerate(band)]
        y = max(sheet.text(x, y, layer, self.wide + self.beside, size=BODY + 1, bold=True) for x, layer in places)
        y = max(self.labels(x, y, layer) for x, layer in places)
        for name, top, next_top in zip(self.names, self.tops, self.tops[1:], strict=False):
            middle = y + (top + next_top) / 2
            sheet.text(MARGIN, middle - _style.extent(name, BODY)[1] / 2, name, NAME - 0.1, lines=3)
        for x, layer in places:
            place = (x, y, self.wide, float(self.tops[-1]))
            sheet.axes(place, partial(self.plot, layer=layer), layer or "scores")
            for method, middle in zip(self.methods, self.middles, strict=True):
                if method in self.taken[layer]:
                    said = _facts(self.taken[layer][method])
                    sheet.text(x + self.wide + SIDE, y + middle - SPACE / 2, said, self.beside, size=SMALL, lines=1)
        return y + float(self.tops[-1]) + AXIS

    @property
    def middles(self) -> Pixels:
        """Of the rows, in inches from the plot's top."""
        return np.asarray((self.tops[1:] + self.tops[:-1]) / 2)

    def labels(self, x: float, y: float, layer: str) -> float:
        """Above a plot what its lines are, at the lines, or in two rows where they are too near; where they end."""
        end = -np.inf  # of the label before
        for name in ("chance", "attainable"):
            values = [getattr(one, name) for one in self.layers[layer].values()]
            if said := several(values):
                text = f"{name} {said}"
                wide = _style.extent(text, SMALL)[0] + 0.02
                left = self.across(np.nanmean(values)) - wide / 2
                left = x + min(max(left, 0.0), self.wide + self.beside - wide)
                y += SPACE if left < end + 0.1 else 0.0
                self.sheet.text(left, y, text, wide, size=SMALL, colour=GREY, lines=1)
                end = left + wide
        return y + SPACE + 0.04

    def across(self, score: Any) -> Any:
        """Inches from a plot's left."""
        return (score - LIMITS[0]) / (LIMITS[1] - LIMITS[0]) * self.wide

    def plot(self, axes: Axes, layer: str) -> None:
        """A layer's boxes."""
        axes.set_xlim(*LIMITS)
        axes.set_ylim(self.tops[-1], 0)
        axes.set_yticks([])
        axes.set_xticks(np.linspace(0, 1, 5), ["0", "0.25", "0.5", "0.75", "1"])
        axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
        axes.set_xlabel("score")
        axes.grid(visible=True, axis="x", color="#e9e9e9", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        for k, method in enumerate(self.methods):
            if method in self.taken[layer]:
                one, ends = self.layers[layer][method], self.tops[k : k + 2]
                axes.vlines(
                    one.chance, *ends, color=GREY, linewidth=1.1, linestyle=(0, (4, 3)), label="chance", zorder=1
                )
                axes.vlines(one.attainable, *ends, color="black", linewidth=1.1, label="attainable", zorder=1)
                _box(axes, self.middles[k], self.taken[layer][method], method)


def _box(axes: Axes, y: float, scores: Pixels, method: str) -> None:
    """A method's box at a height."""
    known = scores[~np.isnan(scores)]
    if not len(known):
        return
    low, first, median, third, high = np.percentile(known, ENDS)
    few = len(known) <= FEW
    dots = known if few else known[(known < low) | (known > high)]
    axes.plot(
        dots, np.full(len(dots), y), "o", color=BLUE, markersize=3, alpha=0.5, markeredgewidth=0, label=f"{method}: dots",
        zorder=5,
    )  # fmt: skip
    if not few:
        axes.hlines(
            [y, y], [low, third], [first, high], color=BLUE, linewidth=1.2, label=f"{method}: whiskers", zorder=2
        )
    axes.add_patch(
        Rectangle(
            (first, y - HALF), third - first, 2 * HALF, facecolor=PALE, edgecolor=BLUE, linewidth=1.1, zorder=3,
            label=f"{method}: box",
        )
    )  # fmt: skip
    axes.vlines(median, y - HALF, y + HALF, color=BLUE, linewidth=2.4, label=f"{method}: median", zorder=4)
    axes.plot(
        known.mean(), y, "D", color="white", markeredgecolor="black", markeredgewidth=0.8, markersize=3.6, zorder=6,
        label=f"{method}: mean",
    )  # fmt: skip


def _facts(scores: Pixels) -> str:
    """The median, and how many scores are undefined.

    Example:
        >>> _facts(np.array([0.5, np.nan])), _facts(np.array([np.nan, np.nan]))
        ('0.500, 1 undefined', 'all 2 undefined')
    """
    undefined = int(np.isnan(scores).sum())
    if undefined == len(scores):
        return f"all {undefined} undefined"
    return f"{np.nanmedian(scores):.3f}" + (f", {undefined} undefined" if undefined else "")

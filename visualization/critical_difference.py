"""Critical difference: methods on an axis of mean ranks, with bars over those that are not told apart."""

from collections.abc import Sequence

import numpy as np
from attriscope.metrics import analysis
from attriscope.metrics.analysis import Ranking, Studied, Test
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import _style
from ._style import BODY, FONT, GREY, MARGIN, SMALL, Sheet

NAME, AXIS, PAD = 2.1, 4.6, 0.55  # inches: a column of names, the axis of ranks, room beside it for a rank's number
SCALE, LANE, ROW = 0.34, 0.13, 0.27  # inches: above the axis, from bar to bar, from name to name
TICKS = 13
BAR = "#0072B2"
SHOWN = 3  # pairs that are named in the notes

__all__ = ["critical_difference"]


def critical_difference(study: Studied, metric: str, *, test: Test = "wilcoxon", level: float = 0.95) -> Figure:
    """Each method at its mean rank over images, the best on the left; a bar joins methods that are not told apart.

    A bar is no proof that methods are equal, and methods without one may differ by little: the figure shows ranks, not by how
    much a method is better.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        test: "wilcoxon" (signed ranks of every two methods, Holm's correction) or "nemenyi" (one critical difference, which
            is drawn above the axis).
        level: 1 - level is the chance that any two methods are told apart wrongly.

    Raises:
        ValueError: No such metric or test, or fewer than two methods that have scores on one image.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> methods = ["saliency", "input_x_gradient"]
        >>> study = metrics.compare(network, torch.rand(2, 3, 4, 4), attributors=methods, progress=False)
        >>> critical_difference(study, "insertion").axes[0].get_label()
        'insertion'
    """
    found = analysis.ranking(study, metric, test=test, level=level)
    if len(found.methods) < 2 or not found.images:
        raise ValueError(
            f"{metric} ranks {len(found.methods)} methods on {found.images} images that are defined for all: a ranking takes "
            "two methods and an image"
        )
    with _style.style():
        return _Diagram(found, analysis.controls(study), bool(study.metrics[metric]["higher_is_better"])).draw()


class _Diagram:
    """The figure's parts."""

    def __init__(self, found: Ranking, controls: Sequence[str], higher: bool) -> None:
        self.found, self.controls, self.higher = found, controls, higher
        self.sheet = Sheet(2 * (MARGIN + NAME + PAD) + AXIS)
        half = (len(found.methods) + 1) // 2
        self.sides = (list(range(half)), list(range(len(found.methods) - 1, half - 1, -1)))  # the outermost first
        self.bars = _lanes(found)
        self.first = SCALE + 0.16 + LANE * (1 + max((lane for _, _, lane in self.bars), default=-1)) + 0.12

    def draw(self) -> Figure:
        """The whole figure."""
        sheet, found = self.sheet, self.found
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, f"{found.metric}: mean ranks", wide, size=BODY + 1.5, bold=True)
        y = sheet.text(MARGIN, y, self.says(), wide, size=SMALL, lines=4)
        y = sheet.text(MARGIN, y, self.notes(), wide, size=SMALL, colour=GREY, lines=6) + 0.1
        top = y + (0.34 if found.critical_difference is not None else 0.08)
        rows: dict[int, float] = {}
        ends = [self.names(top + self.first, side, rows, left=side is self.sides[0]) for side in self.sides]
        left = MARGIN + NAME
        span = AXIS + 2 * PAD
        if found.critical_difference is not None:
            said = f"critical difference {found.critical_difference:.2f}"
            sheet.text(left + PAD, y - 0.02, said, AXIS, size=SMALL, lines=1)
        place = (left, top, span, max(ends) - top)
        sheet.axes(place, lambda axes: self.ranks(axes, {k: v - top for k, v in rows.items()}, place[3]), found.metric)
        third = AXIS / 2
        sheet.text(left + PAD, top, "\N{LEFTWARDS ARROW} better", third, size=SMALL, lines=1)
        sheet.right(left + PAD + third, top, "worse \N{RIGHTWARDS ARROW}", third, size=SMALL)
        return sheet.figure(max(ends) + MARGIN)

    def says(self) -> str:
        """What is drawn, in words."""
        found = self.found
        images = f"{found.images} image{'' if found.images == 1 else 's'}"
        rest = f"{1 - found.level:.2g}"
        how = (
            f"Wilcoxon's signed-rank tests of every two methods, corrected by Holm, p \N{GREATER-THAN OR EQUAL TO} {rest}"
            if found.test == "wilcoxon"
            else f"Nemenyi's test, p \N{GREATER-THAN OR EQUAL TO} {rest}"
        )
        return (
            f"Mean rank over {images} ({'higher' if self.higher else 'lower'} {found.metric} is better): 1, on the left, is "
            f"the best on every image. A bar joins methods that are not told apart ({how})."
        )

    def notes(self) -> str:
        """What else is known: the test of all together, what is left out, what no bar could show."""
        found = self.found
        said = []
        if not np.isnan(found.friedman_p):
            said.append(f"Friedman's test that no method differs: p = {found.friedman_p:.2g}.")
        if found.dropped:
            said.append(f"{_plural(found.dropped, 'image')} on which a method is undefined left out for all.")
        if found.undefined:
            said.append(f"Undefined on every image: {', '.join(found.undefined)}.")
        if found.outside:
            shown = "; ".join(f"{a} and {b}" for a, b in found.outside[:SHOWN])
            more = f"; and {_plural(len(found.outside) - SHOWN, 'more pair')}" if len(found.outside) > SHOWN else ""
            said.append(f"Not told apart either, though one between them is: {shown}{more}.")
        if any(m in self.controls for m in found.methods):
            said.append("Grey: controls, which know nothing of the network.")
        return " ".join(said)

    def names(self, y: float, side: Sequence[int], rows: dict[int, float], *, left: bool) -> float:
        """A column of names, each at the height that `rows` gets; where it ends."""
        x = MARGIN if left else MARGIN + NAME + 2 * PAD + AXIS
        for k in side:
            name = self.found.methods[k]
            colour = GREY if name in self.controls else "black"
            lines = _style.wrap(name, NAME - 0.1, BODY, lines=3).split("\n")
            line = 1.25 * BODY / 72
            rows[k] = y + len(lines) * line / 2
            at = y
            for part in lines:
                if left:
                    self.sheet.right(x, at, part, NAME - 0.08, colour=colour)
                else:
                    self.sheet.text(x + 0.08, at, part, NAME - 0.08, lines=1, colour=colour)
                at += line
            y += max(ROW, len(lines) * line + 0.08)
        return y

    def ranks(self, axes: Axes, rows: dict[int, float], height: float) -> None:
        """The axis, the methods' lines and the bars, in ranks across and inches down."""
        found, count = self.found, len(self.found.methods)
        unit = AXIS / (count - 1)  # inches
        edge = PAD / unit
        axes.set_xlim(1 - edge, count + edge)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        axes.plot([1, count], [SCALE, SCALE], color="black", linewidth=1.2)
        step = -(-(count - 1) // (TICKS - 1))
        ticks = [*range(1, count, step), count]
        if len(ticks) > 2 and count - ticks[-2] < step:
            del ticks[-2]
        for tick in ticks:
            axes.plot([tick, tick], [SCALE - 0.05, SCALE], color="black", linewidth=1)
            axes.text(tick, SCALE - 0.06, str(tick), ha="center", va="bottom", fontsize=SMALL, fontfamily=FONT)
        for side, end, align in ((self.sides[0], 1 - edge, "left"), (self.sides[1], count + edge, "right")):
            for k in side:
                rank = found.mean_ranks[k]
                colour = GREY if found.methods[k] in self.controls else "black"
                axes.plot(
                    [rank, rank, end], [SCALE, rows[k], rows[k]], color=colour, linewidth=0.9, label=found.methods[k]
                )
                axes.text(
                    end,
                    rows[k] - 0.015,
                    f"{rank:.2f}",
                    ha=align,
                    va="bottom",
                    fontsize=SMALL - 1,
                    color=GREY,
                    fontfamily=FONT,
                )
        for low, high, lane in self.bars:
            y = SCALE + 0.16 + LANE * lane
            axes.plot(
                [low - 0.05 / unit, high + 0.05 / unit],
                [y, y],
                color=BAR,
                linewidth=4,
                solid_capstyle="butt",
                zorder=3,
                label="not told apart",
            )
        if found.critical_difference is not None:
            ends = 1, min(1 + found.critical_difference, count)
            axes.plot(
                ends, [-0.1, -0.1], color="black", linewidth=1.5, clip_on=False, label="critical difference", marker="|"
            )


def _lanes(found: Ranking) -> list[tuple[float, float, int]]:
    """Bars with their ends and the lane in which each touches no other."""
    rank = dict(zip(found.methods, found.mean_ranks, strict=True))
    apart = 0.2 * (len(found.methods) - 1) / AXIS  # of one bar's end from the next bar's beginning
    free: list[float] = []
    bars = []
    for clique in found.cliques:
        low, high = rank[clique[0]], rank[clique[-1]]
        lane = next((k for k, end in enumerate(free) if end + apart <= low), len(free))
        free[lane : lane + 1] = [high]
        bars.append((low, high, lane))
    return bars


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

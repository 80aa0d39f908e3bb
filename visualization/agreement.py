"""Agreement: a matrix of methods by methods, of how alike their maps are, like ones side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from attriscope.metrics.agreement import Agreement
from attriscope.metrics.agreement import agreement as compare
from attriscope.metrics.study import Study
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from . import _style
from ._style import BODY, FONT, GREY, MARGIN, SMALL, TITLE, Sheet

NAME, HEAD, TREE, GAP = 2.2, 1.5, 1.1, 0.08  # inches: names beside the rows and over the columns, the branches, between
WIDE, NARROW, FEW = 0.95, 0.47, 6  # inches of a cell: of few methods, whose names stand upright, and of more
LEGEND, LEAST = 3.2, 6.4  # inches: the colour bar, the figure's width, so that the text fits
COLOURS = LinearSegmentedColormap.from_list("agreement", ["#2166ac", "white", "#b2182b"])
DARK = 0.75  # from here on the numbers are white
EMPTY = "#d9d9d9"

MINUS = "\N{MINUS SIGN}"

WORDS = {  # what a number is, what its ends mean, and what a negative one does where signs count
    "spearman": (
        "the rank correlation (Spearman)",
        "1 is the same order of pixels, 0 unrelated",
        f", {MINUS}1 the opposite",
    ),
    "pearson": ("the correlation (Pearson)", "1 is the same map, 0 unrelated", f", {MINUS}1 the opposite"),
    "ssim": ("the structural similarity (SSIM)", "1 is the same map, near 0 unrelated", ""),
    "hog": ("the correlation of edges (HOG)", "1 is the same edges, near 0 unrelated", ""),
    "top_k": ("the common share of the first tenth of the pixels", "1 is the same pixels, 0.1 unrelated", ""),
}

__all__ = ["agreement"]


def agreement(maps: Agreement | Mapping[str, Tensor] | Study, **options: Any) -> Figure:
    """Every method against every other: how alike their maps are, in the mean over the images, like ones side by side.

    The colours have one scale in all figures: white is 0, full red 1, full blue -1. Branches on the right join what is most
    alike first.

    Args:
        maps: What `metrics.agreement` returned, or what it takes: each method's maps by its name, or a study.
        **options: Of `metrics.agreement` (`how`, `absolute`, `smooth`), if it is not done yet.

    Raises:
        TypeError: Options for an agreement that is done.
        ValueError: Maps or options that `metrics.agreement` does not take.

    Example:
        >>> import torch
        >>> ramp = torch.arange(12.0).reshape(1, 3, 4)
        >>> figure = agreement({"up": ramp, "down": -ramp, "faster": ramp.exp()}, how="pearson")
        >>> [axes.get_label() for axes in figure.axes]
        ['colour bar', 'matrix', 'branches']
    """
    if isinstance(maps, Agreement) and options:
        raise TypeError(f"this agreement is done, {', '.join(options)} come too late: pass them to metrics.agreement")
    found = maps if isinstance(maps, Agreement) else compare(maps, **options)
    with _style.style():
        return _Matrix(found).draw()


class _Matrix:
    """The figure's parts."""

    def __init__(self, found: Agreement) -> None:
        self.found, self.count = found, len(found.methods)
        self.means, self.missing = found.mean().to_numpy(), found.counts.to_numpy()
        self.few = self.count <= FEW
        self.cell = WIDE if self.few else NARROW
        self.side = self.count * self.cell
        self.tall = self.count * (0.5 if self.few else NARROW)
        self.branches = self.count > 2
        self.sheet = Sheet(max(LEAST, 2 * MARGIN + NAME + GAP + self.side + self.branches * (GAP + TREE + 0.25)))

    def draw(self) -> Figure:
        """The whole figure."""
        sheet, wide = self.sheet, self.sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, "Which methods draw the same map?", wide, size=TITLE, bold=True)
        y = sheet.text(MARGIN, y, self.says(), wide, size=BODY, lines=6)
        y = sheet.text(MARGIN, y, self.notes(), wide, size=SMALL, colour=GREY, lines=6) + 0.08
        y = self.legend(y) + 0.16
        left = MARGIN + NAME + GAP
        top = self.heads(left, y) + GAP
        row = self.tall / self.count
        for k, name in enumerate(self.found.methods):
            lines = _style.wrap(name, NAME, SMALL).split("\n")
            at = top + (k + 0.5) * row - len(lines) * _style.SPACING * SMALL / 144
            for part in lines:
                sheet.right(MARGIN, at, part, NAME, size=SMALL)
                at += _style.SPACING * SMALL / 72
        sheet.axes((left, top, self.side, self.tall), self.cells, "matrix")
        if self.branches:
            sheet.axes((left + self.side + GAP, top, TREE, self.tall), self.tree, "branches")
        return sheet.figure(top + self.tall + (0.42 if self.branches else 0) + MARGIN)

    def says(self) -> str:
        """What is drawn, in words."""
        found = self.found
        what, ends, opposite = WORDS[found.how]
        details = ["absolute values"] if found.absolute else []
        details += [f"both blurred by a Gaussian of sigma {found.smooth:g} pixels"] if found.smooth else []
        images = found.values.shape[2]
        aside = f" ({', '.join(details)})" if details else ""
        last = " Methods with like maps stand side by side." if self.branches else ""
        return (
            f"Each cell: {what} of two methods' maps{aside}, mean over {images} image{'' if images == 1 else 's'}. "
            f"{ends}{'' if found.absolute else opposite}.{last}"
        )

    def notes(self) -> str:
        """What the matrix does not say."""
        said = ["That methods agree does not make them right."]
        if self.branches:
            said.append(
                "Branches on the right join methods, and then groups, at their mean similarity: the most alike first."
            )
        lost = int(np.tril(self.missing).sum())
        if lost:
            every = self.found.values.shape[2] * self.count * (self.count + 1) // 2
            said.append(f"{lost} of {every} comparisons are undefined (a constant map) and left out of the means.")
        if np.isnan(self.means).any():
            said.append("Grey: undefined on every image.")
        return " ".join(said)

    def legend(self, y: float) -> float:
        """The colour bar; where it ends."""
        sheet, third = self.sheet, LEGEND / 3
        ramp = COLOURS(np.linspace(0, 1, 256))[None, :, :3]
        sheet.picture((MARGIN, y, LEGEND, 0.14), ramp, "colour bar")
        y += 0.17
        sheet.text(MARGIN, y, f"{MINUS}1", third, size=SMALL)
        sheet.text(MARGIN + third, y, "0", third, size=SMALL, centred=True)
        return sheet.right(MARGIN + 2 * third, y, "1", third, size=SMALL)

    def heads(self, x: float, y: float) -> float:
        """The names over the columns, upright where there is room; where they end."""
        if not self.few:

            def turned(axes: Axes) -> None:
                axes.set_axis_off()
                axes.set_xlim(0, self.count)
                axes.set_ylim(0, 1)
                for k, name in enumerate(self.found.methods):
                    text, families = _style.fonts(_style.wrap(name, HEAD, SMALL))
                    axes.text(
                        k + 0.5, 0, text, rotation=90, ha="center", va="bottom", fontsize=SMALL, fontfamily=families,
                        linespacing=1.1,
                    )  # fmt: skip

            self.sheet.axes((x, y, self.side, HEAD), turned, "names")
            return y + HEAD
        wrapped = [_style.wrap(name, self.cell - 0.08, SMALL, lines=4) for name in self.found.methods]
        line = _style.SPACING * SMALL / 72
        most = max(text.count("\n") + 1 for text in wrapped)
        for k, text in enumerate(wrapped):
            at = y + (most - text.count("\n") - 1) * line
            for part in text.split("\n"):
                self.sheet.text(x + k * self.cell, at, part, self.cell, size=SMALL, lines=1, centred=True)
                at += line
        return y + most * line

    def cells(self, axes: Axes) -> None:
        """The matrix with its numbers."""
        axes.set_axis_off()
        axes.set_facecolor(EMPTY)
        shown = COLOURS((self.means + 1) / 2)
        shown[np.isnan(self.means)] = (*(int(EMPTY[1:3], 16) / 255,) * 3, 1.0)
        axes.imshow(shown, aspect="auto", interpolation="nearest")
        for place in np.arange(1, self.count) - 0.5:
            axes.axhline(place, color="white", linewidth=1)
            axes.axvline(place, color="white", linewidth=1)
        for (i, j), value in np.ndenumerate(self.means):
            text = "\N{EN DASH}" if np.isnan(value) else signed(value)
            axes.text(
                j, i, text, ha="center", va="center", fontsize=SMALL, fontfamily=FONT,
                color="white" if abs(value) > DARK else "black",
            )  # fmt: skip

    def tree(self, axes: Axes) -> None:
        """The clusters, from 1 at the left to the similarity at which all are one."""
        least = 1 - float(self.found.linkage[-1, 2])
        low = np.floor(10 * least) / 10
        ticks = [tick for tick in (1.0, 0.5, 0.0, -0.5, -1.0) if tick > low - 0.01]
        ticks = ticks if len(ticks) > 1 else [1.0, float(low)]
        axes.set_xlim(1, low)
        axes.set_ylim(self.count, 0)
        middle = dict(enumerate(np.arange(self.count) + 0.5))
        at = dict.fromkeys(range(self.count), 1.0)
        for k, (a, b, height, _) in enumerate(self.found.linkage, self.count):
            one, other, joined = int(a), int(b), 1 - float(height)
            axes.plot(
                [at[one], joined, joined, at[other]], [middle[one], middle[one], middle[other], middle[other]],
                color=GREY, linewidth=1.2, solid_capstyle="round", clip_on=False,
            )  # fmt: skip
            middle[k], at[k] = (middle[one] + middle[other]) / 2, joined
        for spine in ("top", "left", "right"):
            axes.spines[spine].set_visible(False)
        axes.set_yticks([])
        axes.set_xticks(ticks, [f"{tick:.1g}".replace("-", MINUS) for tick in ticks], fontsize=SMALL, fontfamily=FONT)
        axes.set_xlabel("similarity", fontsize=SMALL, fontfamily=FONT, labelpad=2)


def signed(value: float) -> str:
    """Two decimals; what rounds to zero has no sign.

    Example:
        >>> signed(0.123), signed(-0.004)
        ('0.12', '0.00')
    """
    return f"{value:z.2f}".replace("-", MINUS)

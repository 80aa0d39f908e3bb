"""Cost: how well methods do against what they ask of the network."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from attriscope.metrics import analysis
from attriscope.metrics.analysis import Studied
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from . import _style
from ._style import BODY, FONT, GREY, MARGIN, SMALL, Box, Sheet

WIDTH, HEIGHT, AXIS, BELOW = 7.4, 4.0, 0.72, 0.5  # inches: the plot, room for numbers beside and below it
FULL = 0.28  # the share of the plot that names may cover: it grows with them
FREE = 0.75  # inches: the strip of methods that cost nothing, left of the break
LABEL = 1.7  # inches: the widest line of a label
DOT, DODGE = 0.055, 0.1  # inches: half a point, between points of one cost
INKS = ("#0072B2", "#C24E00", "#00805D", "#B0578A", "#A87000", "#2F7FAE", "#000000")  # dark enough for letters
NEAR = 0.12  # inches: a label further off has a line to its point
RINGS = tuple(0.03 + 0.07 * k for k in range(100))  # inches: from a point to where its label may be

__all__ = ["cost"]


def cost(study: Studied, metric: str, *, level: float = 0.95, seed: int = 0) -> Figure:
    """Each method's mean score with its interval over images, against forwards + backwards per image on a log axis.

    Methods that cost nothing (controls, somebody's own maps) lie left of a break in the axis, and a line goes from the best
    control through the plot: what lies on its wrong side is not worth its evaluations.

    Args:
        study: What `metrics.compare` returned.
        metric: Which.
        level: Of the interval.
        seed: Of its bootstrap.

    Raises:
        ValueError: No such metric, or no method that has both a score and a cost.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = metrics.compare(network, torch.rand(2, 3, 4, 4), attributors=["saliency", "occlusion"], progress=False)
        >>> cost(study, "insertion").axes[0].get_label()
        'insertion'
    """
    table = analysis.summary(study, level=level, seed=seed, metrics=[metric]).loc[metric]
    table = table.assign(price=table["forwards"] + table["backwards"])
    drawn = table[table["mean"].notna() & table["price"].notna()]
    if not len(drawn):
        raise ValueError(f"no method has both a cost and a {metric} score")
    with _style.style():
        sheet = Sheet(2 * MARGIN + AXIS + WIDTH)
        facts = study.metrics[metric]
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, f"{metric} against cost", wide, size=BODY + 1.5, bold=True)
        y = sheet.text(MARGIN, y, _says(drawn, metric, facts, level), wide, size=SMALL, lines=3)
        known = [c for c in analysis.controls(study) if c in drawn.index]
        y = sheet.text(MARGIN, y, _notes(table, drawn, known), wide, size=SMALL, colour=GREY, lines=6) + 0.1
        names = sum(math.prod(_style.extent(_label(m), SMALL)) for m in drawn.index)
        height = max(HEIGHT, names / (FULL * WIDTH))
        plot = _Plot(drawn, list(study.methods), known, bool(facts["higher_is_better"]), height)
        sheet.axes((MARGIN + AXIS, y, WIDTH, height), lambda axes: plot.draw(axes, metric), metric)
        return sheet.figure(y + height + BELOW + MARGIN)


def _says(drawn: pd.DataFrame, metric: str, facts: Any, level: float) -> str:
    """What is drawn, in words."""
    few, many = int(drawn["images"].min()), int(drawn["images"].max())
    images = f"{many} image{'' if many == 1 else 's'}" if few == many else f"{few} to {many} images"
    bar = f" with its {level:.0%} interval" if drawn["low"].notna().any() else ""
    arrow = "\N{UPWARDS ARROW} higher is better" if facts["higher_is_better"] else "\N{DOWNWARDS ARROW} lower is better"
    return (
        f"Point: mean {metric} over {images}{bar} ({arrow}), against what the method asks of the network for one image, "
        "run alone."
    )


def _notes(table: pd.DataFrame, drawn: pd.DataFrame, controls: Sequence[str]) -> str:
    """What is left out, and who the controls are."""
    said = []
    if controls:
        said.append(
            f"Grey: controls, which know nothing of the network ({', '.join(controls)}); broken line: the best one."
        )
    missing = [str(m) for m in table.index if m not in drawn.index]
    if missing:
        said.append(f"Not drawn, without a score or a cost: {', '.join(missing)}.")
    if drawn.loc[drawn["price"] > 0, "price"].duplicated().any():
        said.append("Methods of one cost are set side by side.")
    part = [f"{m} ({int(k)})" for m, k in drawn["undefined"].items() if k]
    if part:
        said.append(f"Undefined on some images: {', '.join(part)}.")
    return " ".join(said)


def _label(method: Any) -> str:
    """A method's name in lines."""
    return _style.wrap(str(method), LABEL, SMALL, lines=3)


class _Placed(NamedTuple):
    text: str
    box: Box  # left, bottom, right, top, in inches from the lower left corner
    far: bool


class _Plot:
    """The plot, laid out in inches."""

    def __init__(
        self, table: pd.DataFrame, methods: list[str], controls: list[str], higher: bool, height: float
    ) -> None:
        self.table, self.methods, self.controls, self.higher, self.height = table, methods, controls, higher, height
        price = table["price"].to_numpy(dtype=np.float64)
        paid = price[price > 0]
        free = int((price == 0).sum())
        self.strip = 0.0 if not free else WIDTH if not len(paid) else min(FREE + 0.12 * free, WIDTH / 3)
        low, high = (math.log10(paid.min()), math.log10(paid.max())) if len(paid) else (0.0, 0.0)
        room = max(0.06 * (high - low), 0.35 - (high - low) / 2, 0.05)
        self.logs = low - room, high + room
        ends = table[["mean", "low", "high"]].to_numpy(dtype=np.float64)
        bottom, top = float(np.nanmin(ends)), float(np.nanmax(ends))
        room = 0.08 * (top - bottom) or 0.1 * abs(top) or 0.1
        self.scores = bottom - room, top + room
        self.xs = self.across(price)
        self.dodge()

    def across(self, price: "np.ndarray[Any, np.dtype[np.float64]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Inches from the left; what costs nothing is spread over its strip."""
        low, high = self.logs
        free = price == 0
        logs = np.log10(np.where(free, 1, price))
        xs = self.strip + (logs - low) / (high - low) * (WIDTH - self.strip)
        xs[free] = self.strip * (np.arange(free.sum()) + 0.5) / max(free.sum(), 1)
        return xs

    def dodge(self) -> None:
        """Set points that share a cost side by side, the best on the left."""
        order = np.argsort(self.xs, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(self.xs[order]) > DODGE / 2) + 1):
            apart = min(DODGE, 1 / len(same))
            self.xs[same] = self.xs[same].mean() + apart * (np.arange(len(same)) - (len(same) - 1) / 2)
        self.xs = self.xs.clip(DOT, WIDTH - DOT)

    def up(self, score: Any) -> Any:
        """Inches from below."""
        low, high = self.scores
        return (score - low) / (high - low) * self.height

    def draw(self, axes: Axes, metric: str) -> None:
        """All of it."""
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(*self.scores)
        arrow = "\N{UPWARDS ARROW}" if self.higher else "\N{DOWNWARDS ARROW}"
        axes.set_ylabel(f"{metric} {arrow}")
        axes.set_xlabel("forwards + backwards per image")
        axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
        axes.grid(visible=True, color="#e9e9e9", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        self.ticks(axes)
        if self.controls:
            axes.axhline(self.floor(), color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="best control")
        for x, (method, row) in zip(self.xs, self.table.iterrows(), strict=True):
            colour = self.colour(str(method))
            if not np.isnan(row["low"]):
                axes.plot([x, x], [row["low"], row["high"]], color=colour, linewidth=1.3, alpha=0.75, label="interval")
            axes.plot(
                x, row["mean"], "o", color=colour, markersize=2 * DOT * 72, markeredgewidth=0, zorder=4, label=method
            )
        for k, label in enumerate(self.labels()):
            left, bottom, right, top = label.box
            colour = self.colour(str(self.table.index[k]))
            if label.far:
                to = _edge((float(self.xs[k]), float(self.up(self.table["mean"].iloc[k]))), label.box)
                axes.plot(
                    [self.xs[k], to[0]], [self.table["mean"].iloc[k], self.down(to[1])],
                    color=colour, linewidth=0.8, zorder=3, label="leader",
                )  # fmt: skip
            drawn, families = _style.fonts(label.text)
            axes.text(
                (left + right) / 2, self.down((bottom + top) / 2), drawn, ha="center", va="center", fontsize=SMALL,
                fontfamily=families, color=colour, linespacing=1.3, zorder=5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip

    def floor(self) -> float:
        """The best control's mean."""
        means = self.table.loc[self.controls, "mean"]
        return float(means.max() if self.higher else means.min())

    def down(self, inches: float) -> float:
        """A score at so many inches from below."""
        low, high = self.scores
        return low + inches / self.height * (high - low)

    def colour(self, method: str) -> str:
        """A method's colour; controls are grey."""
        return GREY if method in self.controls else INKS[self.methods.index(method) % len(INKS)]

    def ticks(self, axes: Axes) -> None:
        """Round costs, 0 in the middle of its strip, and the break."""
        places, names = ([self.strip / 2], ["0"]) if self.strip else ([], [])
        if self.strip < WIDTH:
            for value in _round(*self.logs):
                places.append(float(self.across(np.array([value]))[0]))
                names.append(f"{value:,.0f}")
        axes.set_xticks(places, names)
        if 0 < self.strip < WIDTH:
            axes.axvline(self.strip, color=GREY, linewidth=0.8, linestyle=":", zorder=1, label="break")
            for shift in (-0.03, 0.03):
                x = self.strip + shift
                axes.plot(
                    [x - 0.03, x + 0.03], [-0.015, 0.015], transform=axes.get_xaxis_transform(), color="black",
                    linewidth=1, clip_on=False, label="break",
                )  # fmt: skip

    def labels(self) -> list[_Placed]:
        """Where the names go: as near to their points as there is room, on no other name and no point."""
        ys = self.up(self.table["mean"].to_numpy(dtype=np.float64))
        points = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in zip(self.xs, ys, strict=True)]
        bars = [
            (x - 0.01, self.up(row["low"]), x + 0.01, self.up(row["high"]))
            for x, (_, row) in zip(self.xs, self.table.iterrows(), strict=True)
            if not np.isnan(row["low"])
        ]
        if self.controls:
            bars += [(0.0, self.up(self.floor()) - 0.02, WIDTH, self.up(self.floor()) + 0.02)] * 2
        bars += [(self.strip - 0.01, 0.0, self.strip + 0.01, self.height)]
        self.bars, self.points = np.array(bars), np.stack([self.xs, ys], 1)
        texts = [_label(m) for m in self.table.index]
        crowd = (np.hypot(self.xs[:, None] - self.xs, ys[:, None] - ys) < 1).sum(1)  # the loneliest are placed first
        placed: dict[int, _Placed] = {}
        for k in sorted(range(len(texts)), key=lambda k: (crowd[k], k)):
            taken = np.array([*points, *(p.box for p in placed.values())])
            placed[k] = self._place(texts[k], (float(self.xs[k]), float(ys[k])), taken)
        return [placed[k] for k in range(len(texts))]

    def _place(self, text: str, point: tuple[float, float], taken: Any) -> _Placed:
        """The nearest free place; a bar in the way costs as much as some distance."""
        width, height = _style.extent(text, SMALL)
        best, least = _Placed(text, (0.0, 0.0, width, height), far=True), math.inf  # where nothing is free
        for distance, box in _around(point, width, height):
            if distance >= least:
                break
            left, bottom, right, top = box
            if left < 0 or bottom < 0 or right > WIDTH or top > self.height or _hits(box, taken):
                continue
            price = distance + 0.25 * _hits(box, self.bars)
            if distance > NEAR and price < least:  # a line that runs through another point would name that one
                price += 2 * _runs_through(point, _edge(point, box), self.points)
            if price < least:
                best, least = _Placed(text, box, distance > NEAR), price
        return best


def _around(point: tuple[float, float], width: float, height: float) -> Iterator[tuple[float, Box]]:
    """Places for a label of a size around a point, the nearest first."""
    x, y = point
    for ring in RINGS:
        many = 24 if ring < 0.5 else 72
        for angle in (2 * math.pi * k / many for k in range(many)):
            dx, dy = math.cos(angle), math.sin(angle)
            # the label's middle, so that the gap between the dot and the label's edge is the ring's
            reach = min(
                width / 2 / abs(dx) if abs(dx) > 1e-9 else math.inf,
                height / 2 / abs(dy) if abs(dy) > 1e-9 else math.inf,
            )
            middle = DOT + ring + reach
            cx, cy = x + dx * middle, y + dy * middle
            yield ring, (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def _edge(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """The place of a box that is nearest to a point."""
    left, bottom, right, top = box
    return min(max(point[0], left), right), min(max(point[1], bottom), top)


def _runs_through(start: tuple[float, float], end: tuple[float, float], points: Any) -> int:
    """How many points other than its start a line touches."""
    a, along = np.array(start), np.array(end) - start
    away = points - a
    share = np.clip(away @ along / max(along @ along, 1e-12), 0, 1)
    near = np.hypot(*(away - share[:, None] * along).T) < 1.3 * DOT
    return int((near & (np.hypot(*away.T) > 1e-9)).sum())


def _hits(box: Box, others: Any) -> int:
    """How many boxes a box overlaps."""
    if not len(others):
        return 0
    left, bottom, right, top = box
    wide = np.minimum(right, others[:, 2]) > np.maximum(left, others[:, 0])
    tall = np.minimum(top, others[:, 3]) > np.maximum(bottom, others[:, 1])
    return int((wide & tall).sum())


def _round(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: at most about eight.

    Example:
        >>> _round(0, 4), _round(1.1, 2.1)
        ([1.0, 10.0, 100.0, 1000.0, 10000.0], [20.0, 50.0, 100.0])
    """
    for steps in ((1, 2, 5), (1,)):
        found = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in steps]
        found = [v for v in found if low <= math.log10(v) <= high]
        if len(found) <= 8:
            break
    return found

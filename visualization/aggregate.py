"""Aggregate: the mean maps of a method on grids, from those that score best to those that score worst (AggAtt)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from attriscope.attribution import _picture
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from . import _style, _words
from ._located import Located, bounds, layered, own, rows
from ._pixels import ENDS, FRAME, SIGNED, on_white
from ._steps import SPACE
from ._style import BODY, GREY, MARGIN, SMALL, TITLE, Pixels, Sheet

Edges: TypeAlias = tuple[int, ...]
EDGES: Edges = (0, 2, 5, 50, 95, 98, 100)  # percent of the maps, the best first
EQUAL = 9  # decimals to which scores are compared, since sums round
MANY = 32  # maps that are read at a time
NAME, GAP, APART = 1.3, 0.05, 0.22  # inches: the column of names, between panels, between layers
WIDEST, MOST = 14.0, 1.35  # inches: the figure at most, a panel's side
TOGETHER = 3  # layers side by side
MEAN = 0.95  # inches: a method's mean score
BAR = 2.2  # inches: the colour bar
FINE = 2  # pixels of a map for each of a panel, from which on it is smoothed; fewer are drawn as squares
TITLED = "Mean attribution on grids, from the maps that score best to those that score worst"

__all__ = ["EDGES", "Located", "aggregate", "bins"]


def bins(scores: Tensor, mass: Tensor, edges: Edges = EDGES) -> list[Tensor]:
    """Which maps are in each bin: of six, the best 2%, up to 5, 50, 95 and 98%, and the worst 2%.

    The sizes of the bins are rounded by largest remainders (of two equal ones the better bin gets the map), so that few
    maps leave the smallest bins empty.

    Args:
        scores: `(U,)`; NaN is in no bin.
        mass: `(U,)`, by which maps of the same score, to nine decimals, are sorted, the largest first; then the first comes
            first.
        edges: Where bins begin and end, in percent of the maps, from 0 to 100.

    Returns:
        A tensor of indices for each, the best first.

    Example:
        >>> [len(b) for b in bins(torch.rand(500), torch.ones(500))]
        [10, 15, 225, 225, 15, 10]
        >>> bins(torch.tensor([0.2, torch.nan, 0.9]), torch.ones(3))[2:4]
        [tensor([2]), tensor([0])]
    """
    order = mass.double().cpu().argsort(descending=True, stable=True)
    keys = scores.double().cpu()[order].round(decimals=EQUAL)
    order = order[keys.argsort(descending=True, stable=True)]
    order = order[~scores.cpu()[order].isnan()]
    quotas = [len(order) * (b - a) for a, b in pairwise(edges)]  # hundredths of a map, so that nothing is rounded
    sizes = [q // 100 for q in quotas]
    for k in sorted(range(len(sizes)), key=lambda k: -(quotas[k] % 100))[: len(order) - sum(sizes)]:
        sizes[k] += 1
    return list(order.split(sizes))


def aggregate(
    found: Mapping[str, Located] | Mapping[str, Mapping[str, Located]],
    *,
    head: int = 0,
    signed: bool = False,
    normalise: bool = False,
    percentile: float = 99.5,
    edges: Sequence[int] = EDGES,
    title: str | None = None,
) -> Figure:
    """AggAtt: a row for each method, whose maps on grids are sorted by score, binned, and drawn as the mean of each bin.

    Rao, Böhle and Schiele 2022 (https://arxiv.org/abs/2205.10435) and 2023 (https://arxiv.org/abs/2303.11884). One image
    proves nothing of a method and a mean over all hides where it fails; the bins are small where the best and the worst
    are. Maps of one head alone are taken, so that the cell in which all attribution should be, outlined, is at one place.
    Maps whose score is undefined are left out and counted.

    The panels of a method at a layer share one scale: full colour is a percentile of |value| over all pixels of the pictures
    that are drawn (interpolated; where it is 0, the largest). Maps are drawn at their own resolution, each value a square.

    Args:
        found: For each method's name its maps and scores, an object with the attributes of `Located`: `maps (U, h, w)`,
            `scores (U,)`, `cells (U,)`, `grid`, `chance`, `attainable`. Or such mappings by the name of a layer, which are
            set side by side.
        head: The cell, row by row, whose maps are taken.
        signed: Draw the means of the maps; else of their positive parts, which are what is scored.
        normalise: Divide each map by the sum of its |values| first, so that maps of large values do not outweigh the
            others, in means as in ties.
        percentile: Of |value|: what has the full colour.
        edges: Where bins begin and end, in percent of the maps; the paper's suit some hundred maps, of few the outer bins get
            none.
        title: A sentence in place of the usual one.

    Raises:
        ValueError: No method, no map of that head, grids of different sizes, maps that are not finite, or anything that does
            not fit; the message says what.

    Example:
        >>> from types import SimpleNamespace
        >>> maps = torch.rand(8, 4, 4)
        >>> maps[:4, 2:], maps[:4, :, 2:] = 0, 0
        >>> found = SimpleNamespace(
        ...     maps=maps, scores=maps[:, :2, :2].sum((1, 2)) / maps.sum((1, 2)), cells=torch.zeros(8).long(), grid=2,
        ...     chance=0.25, attainable=1.0,
        ... )
        >>> figure = aggregate({"saliency": found})
        >>> [axes.get_label() for axes in figure.axes][3:5]
        ['saliency: 5 to 50%', 'saliency: 50 to 95%']
    """
    _style.check_percentile(percentile)
    given = tuple(edges)
    if given[:1] != (0,) or given[-1:] != (100,) or any(a >= b for a, b in pairwise(given)):
        raise ValueError(f"edges={given}: give whole percents that grow from 0 to 100")
    layers = layered(found)
    blocks: dict[str, dict[str, _Block]] = {layer: {} for layer in layers}
    for layer, methods in layers.items():
        for method, one in methods.items():
            what = f"{method} at {layer}" if layer else method
            how: dict[str, Any] = {"signed": signed, "normalise": normalise, "percentile": percentile}
            blocks[layer][method] = _block(one, head, what, given, **how)
    ends = ("chance", "attainable")
    scores = [bounds(n, {k: [getattr(s, n) for s in ms.values()] for k, ms in layers.items()}) for n in ends]
    grid = next(iter(next(iter(layers.values())).values())).grid
    with _style.style():
        plot = _Plot(blocks, rows(layers), grid, head, given)
        some = any(block.undefined for ms in blocks.values() for block in ms.values())
        said = [s for s in scores if s]
        says = _says(said, percentile, signed=signed, normalise=normalise, undefined=some)
        return plot.draw(title or TITLED, says, signed=signed)


@dataclass
class _Block:
    """A method at a layer.

    Attributes:
        pictures: `(B, h, w)`, 0 where a bin is empty.
        counts: Maps in each bin.
        means: Of the scores of each bin, NaN where it is empty.
        mean: Of all scores.
        undefined: How many are.
        total: Maps of the head.
        top: The value that has the full colour; `None`: there is none.
    """

    pictures: Tensor
    counts: list[int]
    means: list[float]
    mean: float
    undefined: int
    total: int
    top: float | None


def _block(
    one: Located, head: int, what: str, edges: Edges, *, signed: bool, normalise: bool, percentile: float
) -> _Block:
    """What is drawn of a method at a layer."""
    maps = one.maps
    if maps.ndim != 3 or len(maps) != len(one.scores) or not maps.numel() or any(n % one.grid for n in maps.shape[1:]):
        raise ValueError(
            f"{what}: the maps have shape {tuple(maps.shape)}; for {len(one.scores)} scores on {one.grid} x {one.grid} cells "
            "give (U, h, w) of so many, whose sides the cells divide"
        )
    chosen = own(one, head, what).to(maps.device)
    scores = one.scores.detach().double().cpu()[chosen.cpu()]
    kept = ~scores.isnan()
    undefined = int((~kept).sum())
    chosen, scores = chosen[kept.to(maps.device)], scores[kept]
    inside, weights = _masses(maps.detach(), chosen, _cell(head, one.grid, maps), what)
    if not normalise:
        weights = torch.ones_like(weights)
    members = bins(scores, inside * weights, edges)
    pictures = torch.stack([_mean(maps.detach(), chosen, weights, b, signed=signed) for b in members])
    counts = [len(b) for b in members]
    big = float(pictures.abs().max())
    top = None
    if big:  # float32, which percentiles are taken of, does not hold the smallest
        top = big * _picture.limit(pictures[torch.tensor(counts) > 0] / big, percentile)
    means = [float(scores[b].mean()) for b in members]
    return _Block(pictures, counts, means, float(scores.mean()), undefined, len(kept), top)


def _cell(head: int, grid: int, maps: Tensor) -> tuple[slice, slice]:
    """The rows and columns of a head's cell."""
    row, column = divmod(head, grid)
    high, wide = (n // grid for n in maps.shape[1:])
    return slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide)


def _masses(maps: Tensor, chosen: Tensor, cell: tuple[slice, slice], what: str) -> tuple[Tensor, Tensor]:
    """Of each chosen map the positive mass inside the cell, and 1 over the sum of its |values|, 0 where that is 0."""
    inside, every = [torch.zeros(0).double()], [torch.zeros(0).double()]
    for part in chosen.split(MANY):
        some = maps[part].double()
        every.append(some.abs().sum((1, 2)).cpu())
        inside.append(some[:, cell[0], cell[1]].clamp(min=0).sum((1, 2)).cpu())
    total = torch.cat(every)
    if not bool(total.isfinite().all()):
        raise ValueError(f"{what}: maps that have a score hold NaN or infinite values, which have no colour")
    return torch.cat(inside), torch.where(total > 0, 1 / total, 0.0)


def _mean(maps: Tensor, chosen: Tensor, weights: Tensor, members: Tensor, *, signed: bool) -> Tensor:
    """A bin's picture."""
    total = torch.zeros(maps.shape[1:], dtype=torch.float64, device=maps.device)
    for part in members.split(MANY):
        some = maps[chosen[part.to(maps.device)]].double()
        some = some if signed else some.clamp(min=0)
        total += (some * weights[part].to(maps.device)[:, None, None]).sum(0)
    return total.cpu() / max(len(members), 1)


# -- the figure --------------------------------------------------------------------------------------------------------


def _named(k: int, edges: Edges = EDGES, dash: str = " to ") -> str:
    """A bin's name.

    Example:
        >>> [_named(k) for k in (0, 1, 5)]
        ['best 2%', '2 to 5%', 'worst 2%']
    """
    low, high = edges[k : k + 2]
    return f"best {high}%" if not low else f"worst {high - low}%" if high == edges[-1] else f"{low}{dash}{high}%"


def _says(scores: list[str], percentile: float, *, signed: bool, normalise: bool, undefined: bool) -> list[str]:
    """How to read the figure, in short lines."""
    parts = "" if signed else "the positive parts of "
    each = " (each map divided by the sum of its |values|)" if normalise else ""
    most = "largest value" if percentile == 100 else _style.ordinal(percentile)
    said = [
        "Score: the share of a map's positive attribution that is inside the outlined cell, which the head sees.",
        f"Each panel is the mean of {parts}a bin's maps{each}; below it is their mean score.",
        f"The panels of a method at a layer share one scale; full colour: the {most} of their |values|. White is 0.",
    ]
    said += [f"{'; '.join(scores).capitalize()}."] if scores else []
    return [*said, "Maps whose score is undefined are left out."] if undefined else said


class _Plot:
    """The figure's parts."""

    def __init__(
        self, blocks: Mapping[str, Mapping[str, _Block]], methods: list[str], grid: int, head: int, edges: Edges
    ) -> None:
        self.blocks, self.methods, self.grid, self.head, self.edges = blocks, methods, grid, head, edges
        names = list(blocks)
        many = -(-len(names) // TOGETHER)
        self.bands = [[str(n) for n in part] for part in np.array_split(np.array(names, dtype=object), many)]
        across, count = len(self.bands[0]), len(edges) - 1
        room = WIDEST - 2 * MARGIN - NAME - (across - 1) * APART
        self.side = min((room / across + GAP) / count - GAP, MOST)
        self.wide = count * (self.side + GAP) - GAP
        largest = max((b.pictures[0] for ms in blocks.values() for b in ms.values()), key=torch.numel)
        self.size = _style.fit(largest.numpy(), self.side, 1.5 * self.side)
        self.sheet = Sheet(2 * MARGIN + NAME + across * (self.wide + APART) - APART)

    def draw(self, title: str, says: list[str], *, signed: bool) -> Figure:
        """The whole figure."""
        y = self.top(title, says, signed=signed)
        for band in self.bands:
            y = self.columns(y, band)
            for method in self.methods:
                there = [(self.left(k), layer) for k, layer in enumerate(band) if method in self.blocks[layer]]
                if there:
                    end = self.sheet.text(MARGIN, y, method, NAME - 0.1, bold=True, lines=5)
                    ends = [self.block(x, y, layer, method) for x, layer in there]
                    y = max(end, *ends) + 0.1
            y += 0.15
        return self.sheet.figure(y - 0.25 + MARGIN)

    def left(self, k: int) -> float:
        """Where a layer begins."""
        return MARGIN + NAME + k * (self.wide + APART)

    def top(self, title: str, says: list[str], *, signed: bool) -> float:
        """The title, how to read the figure, and the colours; where they end."""
        sheet, wide = self.sheet, self.sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, title, wide, size=TITLE, bold=True, lines=3) + 0.02
        for line in says:
            y = sheet.text(MARGIN, y, line, wide, size=SMALL, lines=3)
        low, high = ENDS[SIGNED] if signed else ("0", "positive attribution")
        y += 0.06
        start = _style.extent(low, SMALL)[0] + 0.08
        sheet.text(MARGIN, y, low, start, size=SMALL, lines=1)
        ramp = torch.linspace(-1 if signed else 0, 1, 256)[None]
        sheet.picture((MARGIN + start, y + 0.01, BAR, 0.13), on_white(ramp, 1.0), "colour bar")
        return sheet.text(MARGIN + start + BAR + 0.08, y, high, 2.0, size=SMALL, lines=1) + 0.14

    def columns(self, y: float, band: list[str]) -> float:
        """The names of the layers and of the bins; where they end."""
        places = [(self.left(k), layer) for k, layer in enumerate(band)]
        y = max(self.sheet.text(x, y, layer, self.wide, size=BODY + 1, bold=True) for x, layer in places)
        ends = []
        for x, layer in places:
            for b in range(len(self.edges) - 1):
                at, some = x + b * (self.side + GAP), {block.counts[b] for block in self.blocks[layer].values()}
                low, high = min(some), max(some)
                maps = f"{low}\N{EN DASH}{high} maps" if low < high else _words.count(low, "map")
                below = self.sheet.text(at, y, _named(b, self.edges, "\N{EN DASH}"), self.side, size=SMALL)
                ends.append(self.sheet.text(at, below, maps, self.side, size=SMALL, colour=GREY))
        return max(ends) + 0.06

    def block(self, x: float, y: float, layer: str, method: str) -> float:
        """A method at a layer: what is known of all its maps, and a panel for each bin; where it ends."""
        one, (width, height) = self.blocks[layer][method], self.size
        mean = "" if one.undefined == one.total else f"mean {one.mean:.3f}"
        said = [f"{one.undefined} of {one.total} undefined"] if one.undefined else []
        said += [f"full colour {one.top:.3g}"] if one.top is not None else []
        self.sheet.text(x, y, mean, MEAN, size=SMALL, bold=True, lines=1)
        self.sheet.text(x + MEAN, y, ", ".join(said), self.wide - MEAN, size=SMALL, colour=GREY, lines=1)
        y += SPACE + 0.03
        for b, score in enumerate(one.means):
            at = x + b * (self.side + GAP)
            pixels = (on_white(one.pictures[b], one.top or 1.0) * 255).round().astype(np.uint8)
            called = _named(b, self.edges)
            label = f"{method} at {layer}: {called}" if layer else f"{method}: {called}"
            self.sheet.axes((at, y, width, height), partial(self.panel, pixels=pixels, empty=not one.counts[b]), label)
            if one.counts[b]:
                self.sheet.text(at, y + height + 0.02, f"{score:.3f}", width, size=SMALL, lines=1, centred=True)
            else:
                self.sheet.text(at, y + height / 2 - SPACE / 2, "no map", width, size=SMALL, colour=GREY, centred=True)
        return y + height + 0.02 + SPACE

    def panel(self, axes: Axes, pixels: Pixels, empty: bool) -> None:
        """A bin's picture with the cells' borders."""
        high, wide = pixels.shape[:2]
        fine = max(high, wide) > FINE * max(self.size) * _style.DPI
        axes.imshow(pixels, aspect="auto", interpolation="hanning" if fine else "nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=FRAME, linewidth=0.6)
        if empty:
            return
        for k in range(1, self.grid):
            axes.axhline(k * high / self.grid - 0.5, color=FRAME, linewidth=0.6)
            axes.axvline(k * wide / self.grid - 0.5, color=FRAME, linewidth=0.6)
        row, column = divmod(self.head, self.grid)
        size = wide / self.grid, high / self.grid
        corner = column * size[0] - 0.5, row * size[1] - 0.5
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=1.2, clip_on=False, zorder=4))

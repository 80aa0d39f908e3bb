"""Side by side: images down, methods across, with scores, costs and one scale of colours."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from attriscope.attribution._picture import limit
from attriscope.metrics.study import Study
from matplotlib.figure import Figure
from torch import Tensor

from . import _style
from ._pixels import ENDS, OFFSET, SIGNED, UNSIGNED, Drawn, Photographs, bar, drawn
from ._style import GREY, MARGIN, SMALL, Sheet

Scale: TypeAlias = Literal["method", "map", "all"]
GAP = 0.16  # inches between cells
LEAST = 6.0  # inches of width, so that the notes fit
SHARP = 600  # pixels along the longer side of a photograph: twice what is seen
LEGEND, SCORE = 4.4, 0.8  # inches: the colour bar, room for a score
POOLED = 20_000_000  # values that a common limit is taken of
HEAD = 10.0  # points
CURE = "study.inputs = images, or pass photographs=[...]"

__all__ = ["Scale", "side_by_side"]


def side_by_side(
    study: Study,
    *,
    images: Sequence[int] | None = None,
    methods: Iterable[str] | None = None,
    scale: Scale = "method",
    percentile: float = 99.0,
    photographs: Sequence[Any] | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
) -> Figure:
    """Every image with the maps of every method, their scores below and their costs above; the figure grows with both.

    Args:
        study: What `metrics.compare` returned.
        images: Which images, from 0; `None`: all, at most 12.
        methods: Which methods, in this order; `None`: all.
        scale: What shares one limit of the colours: "method" (a method's maps on all images of the study, so that its
            images compare), "map" (each map by itself) or "all" (everything drawn, if the methods have one unit).
        percentile: Of |map| over what shares a limit: what has the full colour.
        photographs: One `(H, W, 3)` array in [0, 1] for each image of the study, to draw over in place of `study.inputs`.
        boxes: For each photograph the part that the model saw, `(left, top, right, bottom)` in pixels.

    Raises:
        ValueError: No such image, method or scale, no images to draw over, or anything that does not fit.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = metrics.compare(network, torch.rand(2, 3, 4, 4), attributors=["saliency", "occlusion"], progress=False)
        >>> len(side_by_side(study, methods=["saliency"]).axes)  # two photographs, two maps, one colour bar
        5
    """
    _style.check_percentile(percentile)
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r}: choose one of {', '.join(get_args(Scale))}")
    chosen, more = _style.pick_images(images, len(study), study.names)
    columns = _style.pick("method", methods, study.methods)
    over = Photographs(
        study.inputs, photographs, boxes, study.bounds, count=len(study), sharp=SHARP, cure=CURE
    )
    maps: dict[str, Drawn] = {}
    tops: dict[str, float | None] = {}
    together: list[Tensor] = []
    for m in columns:  # of a large study one method's maps at a time
        every = drawn(study.maps[m], **_style.identity(study, m))
        tops[m] = every.limit(range(len(study)), percentile)
        if scale == "all":
            together.append(every.values(POOLED // len(columns)))
        maps[m] = every.only(chosen)
    if scale == "all":
        pooled = torch.cat(together)
        tops = dict.fromkeys(maps, limit(pooled, percentile) if len(pooled) else None)

    with _style.style():
        return _Comparison(study, maps, tops, scale, percentile).draw(over, chosen, more)


@dataclass
class _Comparison:
    """The figure's parts, which share the study, the maps that are drawn and their limits."""

    study: Study
    maps: dict[str, Drawn]  # of the images that are drawn
    tops: dict[str, float | None]
    scale: Scale
    percentile: float

    def __post_init__(self) -> None:
        self.cell = 3.0 if len(self.maps) <= 2 else 2.5 if len(self.maps) <= 4 else 2.2
        self.xs = [MARGIN + k * (self.cell + GAP) for k in range(len(self.maps) + 1)]
        self.sheet = Sheet(max(LEAST, self.xs[-1] + self.cell + MARGIN))

    def draw(self, over: Photographs, chosen: Sequence[int], more: int) -> Figure:
        """The whole figure."""
        sheet, cell = self.sheet, self.cell
        y = self.columns(self.head(more, framed=over.framed))
        for k, i in enumerate(chosen):
            name = self.study.names[i]
            plain, frame = over.load(i)
            width, height = _style.fit(plain, cell, cell * 1.5)
            sheet.picture((self.xs[0], y, width, height), plain, f"{name}: photograph", frame)
            below = y + height + 0.05
            end = self.facts(below, i)
            for x, (method, maps) in zip(self.xs[1:], self.maps.items(), strict=True):
                top = maps.limit([k], self.percentile) if self.scale == "map" else self.tops[method]
                reason = maps.empty[k]
                one = maps.maps[k] if reason is None else torch.zeros_like(maps.maps[k])
                pixels, _ = over.over(i, one, top or 1.0)
                sheet.picture((x, y, width, height), pixels, f"{name}: {method}", frame)
                if reason is not None:
                    sheet.text(x, y + 0.1, reason, width, size=SMALL, lines=4, centred=True, plate=True)
                at = self.scores(x, below, i, method)
                if self.scale == "map" and top is not None:
                    at = sheet.text(x, at, f"full colour {top:.3g}", cell, size=SMALL, colour=GREY, lines=1)
                end = max(end, at)
            y = end + 0.22
        return sheet.figure(y - 0.22 + MARGIN)

    def head(self, more: int, *, framed: bool) -> float:
        """The legend of the colours, their limit in a line of text, and what is not shown; where they end."""
        sheet, study = self.sheet, self.study
        meanings = {d.meaning for d in self.maps.values()}
        ends = [ENDS[m] for m in (SIGNED, UNSIGNED, OFFSET) if m in meanings]
        low, high = (" / ".join(e[side] for e in ends if e[side]) for side in (0, 1))
        half = LEGEND / 2
        sheet.text(MARGIN, MARGIN, low, half, size=SMALL)
        y = sheet.right(MARGIN + half, MARGIN, high, half, size=SMALL)
        sheet.picture((MARGIN, y, LEGEND, 0.14), bar(signed=meanings != {UNSIGNED}), "colour bar")
        y += 0.14 + 0.05
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, y, self.limits(), wide, size=SMALL, lines=3)
        judged = [f"{m} {'higher' if f['higher_is_better'] else 'lower'} is better" for m, f in study.metrics.items()]
        bold = "; bold: the best method of the image" if len(self.maps) > 1 else ""
        if judged:
            y = sheet.text(MARGIN, y, f"Below each map: {', '.join(judged)}{bold}.", wide, size=SMALL, lines=3)
        notes = [_style.hidden(more), "frame: what the model saw of the photograph" if framed else ""]
        if study.left_out:
            notes.append(f"methods that were not run: {', '.join(study.left_out)}")
        return sheet.text(MARGIN, y, "; ".join(n for n in notes if n), wide, size=SMALL, colour=GREY, lines=3) + 0.14

    def limits(self) -> str:
        """What the colours' limit is, in a line."""
        measures = sorted({d.measure for d in self.maps.values()}, key=len)
        shifted = ", ".join(m for m, d in self.maps.items() if d.meaning == OFFSET)
        of = f"full colour is the {_style.ordinal(self.percentile)} of {measures[0]}"
        of += f" ({shifted}: {measures[1]})" if len(measures) > 1 else ""
        images = "the image" if len(self.study) == 1 else f"all {len(self.study)} images"
        if self.scale == "method":
            own = "(scale='map': each map by itself)"
            return f"One colour limit per method: {of} over {images} of the study {own}. Grey is 0."
        if self.scale == "map":
            return f"Each map has its own colour limit: {of} of that map. Grey is 0."
        top = next(iter(self.tops.values()))
        value = "" if top is None else f", {top:.3g}"
        return (
            f"One colour limit for all maps: {of} over these methods and {images} of the study{value}. Grey is 0. "
            "Methods of different units do not compare."
        )

    def columns(self, y: float) -> float:
        """Above each column the method, its mean cost, and what its colours mean; where they end."""
        sheet, cell = self.sheet, self.cell
        ends = [sheet.text(self.xs[0], y, "photograph", cell, size=HEAD, bold=True)]
        for x, (method, maps) in zip(self.xs[1:], self.maps.items(), strict=True):
            end = sheet.text(x, y, method, cell, size=HEAD, bold=True, lines=3)
            own = self.study.costs[self.study.costs["method"] == method]
            if len(own):
                end = sheet.text(x, end, _style.cost(own["forwards"].mean(), own["backwards"].mean()), cell, size=SMALL)
                end = sheet.text(x, end, f"{_style.duration(own['seconds'].mean())} per image", cell, size=SMALL)
            end = sheet.text(x, end, maps.meaning, cell, size=SMALL, colour=GREY)
            top = self.tops[method]
            if self.scale == "method" and top is not None:
                end = sheet.text(x, end, f"full colour {top:.3g}", cell, size=SMALL, colour=GREY, lines=1)
            ends.append(end)
        return max(ends) + 0.05

    def facts(self, y: float, i: int) -> float:
        """Below a photograph its name, what was explained, and what the network says of it; where they end."""
        sheet, study, x = self.sheet, self.study, self.xs[0]
        y = sheet.text(x, y, study.names[i], self.cell, bold=True)
        y = sheet.text(x, y, f"explained: {study.label(i)}", self.cell, size=SMALL)
        y = sheet.text(x, y, _style.chance(float(study.probabilities[i])), self.cell, size=SMALL)
        if study.predicted is None:
            return y
        predicted = int(study.predicted[i])
        if study.target is not None and study.target.ndim == 1 and int(study.target[i]) == predicted:
            return y
        return sheet.text(x, y, f"predicted: {study.class_name(predicted)}", self.cell, size=SMALL)

    def scores(self, x: float, y: float, i: int, method: str) -> float:
        """Below a map its scores, a line for each metric, bold where no other column is better; where they end."""
        table = self.study.scores
        for metric, facts in self.study.metrics.items():
            rows = table[(table["image"] == i) & (table["metric"] == metric)]
            own = rows.set_index("method")["score"].reindex(list(self.maps)).astype(float)
            score = _style.number(float(own[method]), facts["range"])
            best = _style.number(float(own.max() if facts["higher_is_better"] else own.min()), facts["range"])
            bold = len(self.maps) > 1 and score == best != _style.UNDEFINED
            label = _style.wrap(metric, self.cell - SCORE, SMALL, bold=True)  # shortened here, so that the score stays
            y = self.sheet.text(x, y, f"{label} {score}", self.cell, size=SMALL, bold=bold)
        return y

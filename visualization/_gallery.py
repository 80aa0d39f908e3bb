"""What a report's gallery holds: every map, photograph, score and curve, as JSON can hold them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attriscope.attribution import _picture
from attriscope.metrics.study import Study
from torch import Tensor

from . import _packing, _style
from ._packing import FULL, Disagreement, Packed
from ._pixels import ENDS, Drawn, drawn
from .curves import COLOURS, DASHES, sides

PERCENTILE = 99.0  # of |map|: the value that gets the full colour
SIDE = 320  # pixels along the longer side of what is stored; more are not seen
POINTS = 101  # of a curve, at most
CELLS = 3000  # maps that a gallery holds, unless asked for more
DIGITS = 4

__all__ = ["CELLS", "Gallery", "choose"]


def choose(wanted: "Sequence[int] | None", images: int, methods: int) -> list[int]:
    """Which images the gallery holds: all, or as many as fit, evenly spread.

    Example:
        >>> len(choose(None, 64, 8)), choose(None, 10_000, 1000)
        (64, [0, 5000, 9999])
    """
    if wanted is not None:
        return list(wanted)
    most = max(1, CELLS // max(methods, 1))
    return list(range(images)) if images <= most else np.linspace(0, images - 1, most).round().astype(int).tolist()


class Gallery:
    """The gallery of a study; it reads each method's maps once, one method at a time.

    Args:
        study: The study.
        images: Which images.
        methods: Which methods, in their order.
        controls: Those among them that know nothing: they do not count where methods disagree.
    """

    def __init__(self, study: Study, images: Sequence[int], methods: Sequence[str], controls: Sequence[str]) -> None:
        self.study, self.images, self.methods = study, list(images), list(methods)
        self.size: tuple[int, int] = (1, 1)
        self.packed: dict[str, Packed] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.cells: dict[str, list[dict[str, Any]]] = {}
        serious = [m for m in methods if m not in controls]
        compared = serious if len(serious) > 1 else self.methods
        differ = Disagreement()
        for method in self.methods:
            maps = study.maps[method]
            shown = drawn(maps, **_style.identity(study, method))
            if method in compared:
                differ.add(shown.maps[self.images])
            self._add(method, shown)
        self.disagreement = differ.value
        self.photographs = [] if study.inputs is None else [self._photograph(study.inputs[i]) for i in self.images]

    def _add(self, method: str, shown: Drawn) -> None:
        """One method's maps."""
        together = shown.limit(range(len(shown.maps)), PERCENTILE)
        alone = [shown.limit([i], PERCENTILE) or 0.0 for i in self.images]
        maps = _packing.shrink(shown.maps[self.images], SIDE)
        self.size = (max(self.size[0], maps.shape[1]), max(self.size[1], maps.shape[2]))
        largest = maps.abs().amax((1, 2)).tolist()
        # what lies beyond both limits has the full colour on either scale, so that its value need not be known
        scales = [
            min(most, max(own, together or 0.0)) if own else 0.0 for most, own in zip(largest, alone, strict=True)
        ]
        self.packed[method] = _packing.pack(_packing.greys(maps, scales))
        self.facts[method] = {"meaning": shown.meaning, "ends": ENDS[shown.meaning], "limit": together}
        self.cells[method] = [
            {"scale": scale, "limit": own or None, "empty": shown.empty[i]}
            for i, scale, own in zip(self.images, scales, alone, strict=True)
        ]

    def _photograph(self, image: Tensor) -> bytes:
        pixels = _picture.photograph(_packing.shrink(image[None].float(), SIDE)[0], self.study.bounds)
        return _packing.photograph(pixels)

    def fit(self, budget: float) -> None:
        """Store the maps more coarsely, where all that the gallery holds takes more than `budget` bytes."""
        _packing.fit(self.packed, budget - sum(4 * math.ceil(len(p) / 3) for p in self.photographs))

    @property
    def loss(self) -> dict[str, str]:
        """How maps are stored that are not at full size in 127 steps, and whose they are."""
        said: dict[str, str] = {}
        for method, one in self.packed.items():
            height, width = one.greys.shape[1:]
            parts = []
            if max(height, width) < max(self.size):
                parts.append(f"{width} \N{MULTIPLICATION SIGN} {height} pixels")
            if one.levels < FULL:
                parts.append(f"{one.levels} steps on either side of 0")
            if parts:
                how = ", ".join(parts)
                said[how] = f"{said[how]}, {method}" if how in said else method
        return said

    def payload(self, order: Sequence[str], *, files: bool = True) -> dict[str, Any]:
        """All of it; `order` is that of the leaderboard. Without `files`, all but maps and photographs."""
        study = self.study
        return {
            "size": self.size,
            "colours": _colours(),
            "steps": FULL,
            "images": [self._image(k, i, files=files) for k, i in enumerate(self.images)],
            "methods": [self._method(m) for m in self.methods],
            "order": [self.methods.index(m) for m in order if m in self.methods],
            "maps": [
                [
                    cell | {"file": _packing.base64_of(file) if files else ""}
                    for cell, file in zip(self.cells[m], self.packed[m].files, strict=True)
                ]
                for m in self.methods
            ],
            "metrics": [{"label": m, "higher": f["higher_is_better"]} for m, f in study.metrics.items()],
            "scores": [self._scores(m) for m in study.metrics],
            "curves": [c for m in study.metrics if (c := self._curves(m)) is not None],
        }

    def _image(self, k: int, i: int, *, files: bool) -> dict[str, Any]:
        study = self.study
        predicted = None
        if study.predicted is not None:
            index = int(study.predicted[i])
            same = study.target is not None and study.target.ndim == 1 and int(study.target[i]) == index
            predicted = None if same else study.class_name(index)
        return {
            "name": str(study.names[i]),
            "number": i,
            "explained": study.label(i),
            "predicted": predicted,
            "probability": _short(float(study.probabilities[i])),
            "disagreement": _short(float(self.disagreement[k])) if len(self.disagreement) else None,
            "file": _packing.base64_of(self.photographs[k]) if self.photographs and files else None,
        }

    def _method(self, method: str) -> dict[str, Any]:
        place = list(self.study.methods).index(method)
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        return {
            "label": method,
            "colour": COLOURS[place % len(COLOURS)],
            "dash": "" if isinstance(dash, str) else " ".join(f"{2 * v:g}" for v in dash[1]),
            **self.facts[method],
        }

    def _scores(self, metric: str) -> list[dict[str, Any]]:
        """For each image the scores as they are read, and which methods are best."""
        facts = self.study.metrics[metric]
        rows = self.study.scores[self.study.scores["metric"] == metric]
        scores = {
            (int(i), str(m)): float(s) for i, m, s in zip(rows["image"], rows["method"], rows["score"], strict=True)
        }
        found = []
        for i in self.images:
            own = [scores.get((i, m), math.nan) for m in self.methods]
            said = [_style.number(v, facts["range"]) for v in own]
            known = [v for v in own if not math.isnan(v)]
            ranked = len(self.methods) > 1 and known and facts["higher_is_better"] is not None
            best = _style.number((max if facts["higher_is_better"] else min)(known), facts["range"]) if ranked else None
            found.append({"text": said, "best": [s == best for s in said]})
        return found

    def _curves(self, metric: str) -> dict[str, Any] | None:
        """The curves of a metric, with at most 101 points each; `None` where it has none."""
        there = [m for m in self.methods if (m, metric) in self.study.curves]
        if not there:
            return None
        fractions = self.study.curves[there[0], metric][0]
        at = np.unique(np.linspace(0, len(fractions) - 1, min(POINTS, len(fractions))).round().astype(int))
        across, up = sides(self.study, metric)
        return {
            "metric": list(self.study.metrics).index(metric),
            "across": across,
            "up": up,
            "probability": self.study.metrics[metric]["protocol"].get("output") == "probability",
            "x": [_short(float(v)) for v in fractions[at]],
            "y": [self._values(m, metric, at) if m in there else None for m in self.methods],
        }

    def _values(self, method: str, metric: str, at: "np.ndarray[Any, Any]") -> list[list[float | None]]:
        found = self.study.curves[method, metric][1][self.images][:, at]
        return [[_short(v) for v in row] for row in found.tolist()]


def _short(value: float) -> float | None:
    """A number with few digits; `None` where it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _colours() -> list[list[float]]:
    """The colour of each grey from 1 to 255: red, green, blue from 0 to 255, and how far it covers what is below."""
    ramp = _picture.colours(torch.arange(-FULL, FULL + 1)[None] / FULL, 1.0)[0]
    return [[*(round(float(v) * 255, 2) for v in c[:3]), round(float(c[3]), 4)] for c in ramp]

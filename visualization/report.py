"""A report that one can send: everything that a study says, in one file of HTML that loads nothing."""

import base64
import contextlib
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from attriscope.attribution._files import atomic
from attriscope.metrics import analysis
from attriscope.metrics.study import Study
from markupsafe import Markup

from . import _gallery, _packing, _style, _svg, _words
from ._gallery import PERCENTILE, Gallery
from ._pixels import ENDS, OFFSET, SIGNED, UNSIGNED, bar
from ._words import DASH, count, key, listed, plain
from .cost import cost
from .critical_difference import critical_difference

LEVEL = 0.95
MEGABYTES = 14.0
NAMED = 6  # images that are named before the others are counted
UNFINISHED = "This study is not finished: there are images that it has not looked at yet. The same comparison goes on."
BAR = (6.0, 130.0)  # where an interval's bar may begin and end, in a drawing 136 wide
ACCENT, GREY = "#0b5cab", "#6b6b6b"

__all__ = ["report"]


def report(
    study: Study,
    path: str | os.PathLike[str],
    *,
    images: Sequence[int] | None = None,
    methods: Iterable[str] | None = None,
    title: str | None = None,
    model: str | None = None,
    size: float = MEGABYTES,
) -> Path:
    """Write a study as one file of HTML that can be sent: it loads nothing, and opens wherever there is a browser.

    It says what is known and what is not, ranks the methods with intervals and tests, and has a gallery of maps. Tables speak
    of all images and methods of the study, whatever the gallery shows. What is in the study is data: names of files,
    classes and methods are never taken as HTML.

    Args:
        study: What `metrics.compare` returned.
        path: The file.
        images: Which images the gallery holds; `None`: all, and of very many as many as fit, evenly spread.
        methods: Which methods the gallery holds; `None`: all.
        title: The report's title.
        model: What was explained, in words.
        size: Megabytes that the file may take, about: maps are stored in fewer steps until they fit, and the page says so.

    Returns:
        The file.

    Raises:
        ValueError: No such image or method, or no size.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = metrics.compare(network, torch.rand(2, 3, 4, 4), attributors=["saliency", "occlusion"], progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(study, f"{folder}/report.html").stat().st_size < 200_000
        True
    """
    if not size > 0:
        raise ValueError(f"size={size!r}: how many megabytes the file may take, above 0")
    shown = _style.pick("method", methods, study.methods)
    chosen = _gallery.choose(images, len(study), len(shown))
    _style.pick_images(chosen, len(study), study.names)
    page = _Page(study, title, model)
    text = page.render(Gallery(study, chosen, shown, page.controls), size * 1e6)
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return Path(path)


class _Page:
    """What the template is given."""

    def __init__(self, study: Study, title: str | None, model: str | None) -> None:
        self.study, self.title, self.model = study, title, model
        now = datetime.now(UTC)
        self.when = f"{now.day} {now:%B %Y, %H:%M} UTC"
        self.controls = analysis.controls(study)
        self.board = _rows(analysis.leaderboard(study))
        self.judged = [c.removeprefix("rank/") for c in next(iter(self.board.values()), {}) if c.startswith("rank/")]
        summary = analysis.summary(study, level=LEVEL)
        self.summary: dict[str, dict[str, dict[str, Any]]] = {
            metric: _rows(summary.loc[[metric]].droplevel("metric")) for metric in study.metrics
        }

    def render(self, gallery: Gallery, most: float) -> str:
        """The whole file, of about at most so many bytes."""
        study = self.study
        script = Markup(_file("report.js"))  # noqa: S704  our own files, which hold nothing of a study
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        pairs = {m: analysis.pairs(study, m, level=LEVEL) for m in study.metrics}
        metrics = [self._metric(m, table.to_dict("records")) for m, table in pairs.items()]
        order = list(self.board)
        bare = _packing.embed(gallery.payload(order, files=False))
        gallery.fit(most - len(bare) - len(script) - sum(len(f) for m in metrics for f in m["figures"]) - 100_000)
        return _template().render(
            title=plain(self.title or "Attribution methods compared"),
            lede=self._lede(),
            facts=[(term, [plain(line) for line in lines]) for term, lines in self._facts() if lines],
            known=[
                {"metric": m, "lines": analysis.sentences(study, m, level=LEVEL, compared=table)}
                for m, table in pairs.items()
            ],
            board=self._board(),
            metrics=metrics,
            gallery=self._gallery(gallery),
            missing=[(plain(what), plain(why)) for what, why in self._missing()],
            again=self._again(),
            version=version("attriscope"),
            when=self.when,
            hash=f"sha256-{digest}",
            css=Markup(_file("report.css")),  # noqa: S704  likewise
            script=script,
            data=Markup(_packing.embed(gallery.payload(order))),  # noqa: S704  it holds no character that HTML knows
        )

    # -- the head ------------------------------------------------------------------------------------------------------

    def _lede(self) -> str:
        study = self.study
        judged = listed(list(study.metrics)) if study.metrics else "no metric"
        return f"{count(len(study.methods), 'method')} on {count(len(study), 'image')}, judged by {judged}"

    def _facts(self) -> list[tuple[str, list[str]]]:
        study = self.study
        named = [str(n) for n in study.names[:NAMED]]
        more = len(study) - len(named)
        images = [f"{len(study):,}: {', '.join(named)}{f' and {more:,} more' if more else ''}"]
        if study.inputs is not None:
            channels, height, width = study.inputs.shape[1:]
            images.append(
                f"The network sees {width} \N{MULTIPLICATION SIGN} {height} pixels of {count(channels, 'channel')}."
            )
        if study.predicted is not None and study.target is not None and study.target.ndim == 1:
            right = int((study.predicted == study.target).sum())
            images.append(
                f"The class that is explained is the one that the network names on {right:,} of {len(study):,}."
            )
        serious = [m for m in study.methods if m not in self.controls]
        methods = [", ".join(serious)] if serious else []
        if self.controls:
            methods.append(f"Controls, which know nothing of the network: {', '.join(self.controls)}")
        paid = []
        if study.paid:
            paid.append(
                f"{study.paid:,} evaluations of the network were paid; each method and metric by itself would have paid "
                f"{study.alone:,}."
            )
        if study.seconds:
            paid.append(f"It took {_style.duration(study.seconds)}.")
        versions = ", ".join(f"{name} {number}" for name, number in study.versions.items())
        return [
            ("State", [] if study.finished else [UNFINISHED]),
            ("Model", [self.model] if self.model else []),
            ("Images", images),
            ("Methods", methods),
            ("Metrics", [f"{m}: {_words.protocol(f['protocol'])}" for m, f in study.metrics.items()]),
            ("Cost", paid),
            ("Made with", [versions] if versions else []),
            ("Report", [f"{self.when}, attriscope {version('attriscope')}"]),
        ]

    # -- tables --------------------------------------------------------------------------------------------------------

    def _board(self) -> dict[str, Any] | None:
        """Methods over all metrics; with one metric its own table says it all."""
        if len(self.judged) < 2:
            return None
        rows: list[dict[str, Any]] = []
        for method, own in self.board.items():
            spread = f"{_words.rank(own['best'])} to {_words.rank(own['worst'])}" if own["metrics"] else DASH
            cells = [(key(own["rank"]), _words.rank(own["rank"]), ""), (key(own["worst"] - own["best"]), spread, "")]
            for metric in self.judged:
                place = own[f"rank/{metric}"]
                cells.append(
                    (key(place), _words.rank(place), self._score(metric, self.summary[metric][method]["mean"]))
                )
            marks = self._marks(method, own["own_baseline"], named=True)
            rows.append({"method": method, "cells": cells, "marks": marks})
        heads = [("mean rank", "ascending", "over metrics"), ("spread", "ascending", "best to worst")]
        note = (
            f"Methods by their mean rank over {count(len(self.judged), 'metric')}, 1 the best; a metric with several "
            "baselines counts once. A wide spread means that who wins depends on the metric."
        )
        legend = []
        if any(kind == "own" for r in rows for kind, _ in r["marks"]):
            legend.append(
                "own baseline: the method replaced pixels by what this metric replaces them by, so that it looks better there "
                "than it is."
            )
        if self.controls:
            legend.append("Controls know nothing of the network: a method that does not beat them says nothing either.")
        return {
            "heads": [*heads, *((m, "ascending", "rank, mean") for m in self.judged)],
            "rows": [r for r in rows if r["method"] not in self.controls],
            "controls": [r for r in rows if r["method"] in self.controls],
            "notes": [note],
            "legend": legend,
        }

    def _marks(self, method: str, own: Sequence[str], *, named: bool) -> list[tuple[str, str]]:
        marks = [("control", "control")] if method in self.controls else []
        if own:
            marks.append(("own", f"own baseline: {', '.join(own)}" if named else "own baseline"))
        return marks

    def _metric(self, metric: str, pairs: Any) -> dict[str, Any]:
        """A metric's section, of what `analysis.pairs` gave row by row."""
        facts, table = self.study.metrics[metric], self.summary[metric]
        higher, chance = facts["higher_is_better"], facts.get("chance")
        ends = [float(own[c]) for own in table.values() for c in ("mean", "low", "high") if not math.isnan(own[c])]
        if chance is not None and ends:
            ends.append(float(chance))
        axis = (min(ends), max(ends)) if ends else (0.0, 1.0)
        serious = [m for m in table if m not in self.controls]
        control = next((m for m in table if m in self.controls and not math.isnan(table[m]["mean"])), None)
        following = dict(itertools.pairwise(serious))
        rows = [self._row(metric, m, axis) for m in table]
        for row in rows:
            method = row["method"]
            row["next_p"], row["next"] = _words.against(pairs, method, following.get(method))
            row["control_p"], row["control"] = _words.against(pairs, method, control if method in serious else None)
        lines = [_words.description(facts), f"Protocol: {_words.protocol(facts['protocol'])}."]
        if chance is not None:
            lines.append(f"Chance, the dashed line, is {chance:g}.")
        if pairs:
            dropped = f" ({pairs[0]['dropped']} left out)" if pairs[0]["dropped"] else ""
            lines.append(
                f"Tests compare methods on the {count(pairs[0]['images'], 'image')} that all are defined for{dropped}; p is "
                f"corrected for all {count(len(pairs), 'pair')} of methods (Holm)."
            )
        return {
            "label": metric,
            "better": "no better direction" if higher is None else f"{'higher' if higher else 'lower'} is better",
            "first": "ascending" if higher is False else "descending",
            "lines": [plain(line) for line in lines if line],
            "axis": f"{self._score(metric, axis[0])} to {self._score(metric, axis[1])}" if ends else "",
            "compared": len(serious) > 1 or (control is not None and bool(serious)),
            "against_controls": control is not None,
            "rows": [r for r in rows if r["method"] in serious],
            "controls": [r for r in rows if r["method"] not in serious],
            "figures": self._figures(metric),
        }

    def _row(self, metric: str, method: str, axis: tuple[float, float]) -> dict[str, Any]:
        facts, own = self.study.metrics[metric], self.summary[metric][method]

        def at(value: float | None) -> float | None:
            if value is None or math.isnan(value):
                return None
            share = (value - axis[0]) / (axis[1] - axis[0]) if axis[1] > axis[0] else 0.5
            return round(BAR[0] + (BAR[1] - BAR[0]) * share, 1)

        mean, low, high = (self._score(metric, own[c]) for c in ("mean", "low", "high"))
        between = "" if math.isnan(own["low"]) else f"{low} to {high}"
        ran = not math.isnan(own["forwards"])
        return {
            "method": method,
            "rank": "" if math.isnan(own["rank"]) else f"{own['rank']:.0f}",
            "marks": self._marks(method, [k for k in self.board[method]["own_baseline"] if k == metric], named=False),
            "value": key(own["mean"]),
            "mean": mean,
            "interval": between,
            "bar": {
                "low": at(own["low"]),
                "mean": at(own["mean"]),
                "high": at(own["high"]),
                "chance": at(facts.get("chance")),
                "colour": GREY if method in self.controls else ACCENT,
                "words": f"mean {mean}" + (f", {between}" if between else ""),
            },
            "images": int(own["images"]),
            "undefined": self._undefined(metric, method),
            "evaluations": key(own["forwards"] + own["backwards"]),
            "cost": _words.cost(own["forwards"], own["backwards"]) if ran else DASH,
            "seconds": key(own["seconds"]),
            "time": _style.duration(own["seconds"]) if ran else DASH,
        }

    def _score(self, metric: str, value: float) -> str:
        return _style.number(float(value), self.study.metrics[metric]["range"])

    def _figures(self, metric: str) -> list[Markup]:
        """What can be drawn of a metric."""
        if self.study.metrics[metric]["higher_is_better"] is None:
            return []
        place = list(self.study.metrics).index(metric)
        made = []
        for draw, words in ((cost, "mean scores against the cost of each method"), (critical_difference, "mean ranks")):
            with contextlib.suppress(ValueError):  # too little is defined
                made.append(
                    _svg.inline(draw(self.study, metric), f"{draw.__name__}-{place}", plain(f"{metric}: {words}"))
                )
        return made

    # -- the gallery, and what is missing ------------------------------------------------------------------------------

    def _gallery(self, gallery: Gallery) -> dict[str, Any]:
        study, shown = self.study, len(gallery.images)
        meanings = {f["meaning"] for f in gallery.facts.values()}
        colours = (
            "Red speaks for what is explained and blue against it" if meanings != {UNSIGNED} else "Red is important"
        )
        if len(meanings) > 1 and UNSIGNED in meanings:
            colours += "; in a map that is unsigned, red is important"
        notes = [
            f"{colours}. Where a map is 0 the photograph stays grey. Full colour is the {_style.ordinal(PERCENTILE)}"
        ]
        notes[0] += " of the values' size, over all images of the study or in each map by itself."
        if study.metrics and len(gallery.methods) > 1:
            notes.append("Bold: no method of the gallery scores better on the image.")
        if shown < len(study):
            notes.append(f"The gallery holds {shown} of {count(len(study), 'image')}; tables and figures speak of all.")
        if len(gallery.methods) < len(study.methods):
            notes.append(f"It holds {len(gallery.methods)} of {count(len(study.methods), 'method')}.")
        comparable = bool(np.isfinite(gallery.disagreement).any())
        if comparable:
            aside = ", controls aside" if self.controls else ""
            notes.append(f"Disagreement is 1 minus the mean rank correlation of all pairs of methods' maps{aside}.")
        if gallery.loss:
            stored = "; ".join(f"{how} ({whose})" for how, whose in gallery.loss.items())
            notes.append(f"So that the file stays small, some maps are stored coarsely, and 0 stays 0: {stored}.")
        return {
            "notes": [plain(n) for n in notes],
            "photographs": bool(gallery.photographs),
            "disagreement": comparable,
            "legend": _legend(signed=meanings != {UNSIGNED}),
            "ends": [ENDS[m] for m in (SIGNED, UNSIGNED, OFFSET) if m in meanings],
        }

    def _missing(self) -> list[tuple[str, str]]:
        """What was not run, what failed, and what is undefined, each with the reason."""
        study = self.study
        rows = [(str(m), f"left out: {reason}") for m, reason in study.left_out.items()]
        rows += [(str(name), f"skipped: {reason}") for name, reason in study.skipped.items()]
        failures: dict[tuple[str, str], list[str]] = {}
        for (image, what), message in study.failed.items():
            failures.setdefault((str(what), str(message)), []).append(str(image))
        pairs = {f"{method}, {metric}": f"{metric} of {method}" for method in study.methods for metric in study.metrics}
        for (what, message), where in failures.items():
            more = f" and {len(where) - NAMED:,} more" if len(where) > NAMED else ""
            named = ", ".join(where[:NAMED]) if more else listed(where)
            label = what if what in study.methods else pairs.get(what, what)
            rows.append((label, f"failed on {named}{more}: {message}"))
        for metric, table in self.summary.items():
            for method in table:
                undefined = self._undefined(metric, method)
                if undefined > 0:
                    why = _words.undefined(study.metrics[metric])
                    rows.append(
                        (f"{metric} of {method}", f"undefined on {undefined:,} of {count(len(study), 'image')}: {why}")
                    )
        if not study.finished:
            rows.append(("Images", UNFINISHED))
        return rows

    def _undefined(self, metric: str, method: str) -> int:
        """Images whose score is NaN; one that failed, or that there is not yet, is no undefined one."""
        scores = self.study.scores
        own = scores[(scores["metric"] == metric) & (scores["method"] == method)]
        return int(own["score"].isna().sum())

    def _again(self) -> dict[str, Any]:
        study = self.study
        toml = plain(study.configuration.strip())
        return {
            "lines": [] if toml else ["The study does not hold the file that it was made with; its options are these."],
            "toml": toml or None,
            "methods": [(m, plain(_words.settings(f.get("params", {})))) for m, f in study.methods.items()],
            "metrics": [(m, plain(_words.settings(f["protocol"]))) for m, f in study.metrics.items()],
        }


def _rows(table: Any) -> dict[str, dict[str, Any]]:
    """A table's rows by its index, in their order."""
    return {str(name): dict(row) for name, row in table.to_dict("index").items()}


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["breakable"] = _words.breakable
    return environment.from_string(_file("report.html"))


def _file(name: str) -> str:
    return resources.files("attriscope.visualization").joinpath("templates", name).read_text(encoding="utf-8")


def _legend(*, signed: bool) -> Markup:
    """The colours over a middle grey, from left to right."""
    pixels = (bar(signed=signed)[0, ::15] * 255).round().astype(int)
    stops = [
        Markup('<stop offset="{}" stop-color="rgb({},{},{})"/>').format(
            k / (len(pixels) - 1), *(int(v) for v in colour)
        )
        for k, colour in enumerate(pixels)
    ]
    return Markup(
        '<svg viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="Colours, from {} to full colour"><defs>'
        '<linearGradient id="colours">{}</linearGradient></defs><rect width="100" height="12" fill="url(#colours)"/></svg>'
    ).format("full colour against" if signed else "0", Markup("").join(stops))

"""Curves: how the score moves while pixels come or go, the mean over images with how sure it is."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from attriscope.metrics.metric import REGISTRY
from attriscope.metrics.statistics import interval
from attriscope.metrics.study import Study
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import _style
from ._style import BODY, FONT, GREY, MARGIN, SMALL, Sheet

# Okabe and Ito 2008, the ones that are hardest to see on white last
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES: "tuple[Any, ...]" = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
RESAMPLES = 2000
LEVEL = 0.95
PANEL, HEIGHT, AXIS, GAP = 4.9, 3.0, 0.62, 0.35  # inches: a panel, its plot's height, room for numbers, between panels
ACROSS = 3  # panels

__all__ = ["curves"]


def curves(study: Study, *, metrics: Iterable[str] | None = None, methods: Iterable[str] | None = None) -> Figure:
    """One panel for each metric that has curves: each method's mean over images, with a 95% bootstrap band over images.

    A method has the same colour in every panel and every figure of a study.

    Args:
        study: What `metrics.compare` returned.
        metrics: Which metrics; `None`: all that have curves.
        methods: Which methods; `None`: all.

    Raises:
        ValueError: No such metric or method, or a metric without curves.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = metrics.compare(network, torch.rand(2, 3, 4, 4), attributors=["saliency", "occlusion"], progress=False)
        >>> [axes.get_label() for axes in curves(study).axes if axes.lines][:1]
        ['insertion']
    """
    having = [m for m in study.metrics if any(metric == m for _, metric in study.curves)]
    wanted = None if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    for name in _style.pick("metric", wanted, study.metrics):
        if wanted is not None and name not in having:
            raise ValueError(f"{name} has no curves; there are curves of: {', '.join(having) or 'no metric'}")
    panels = _style.pick("metric with curves", wanted, having)
    chosen = _style.pick("method", methods, study.methods)
    table = study.summary(level=LEVEL)
    looks = _looks(study, chosen)

    with _style.style():
        across = min(ACROSS, len(panels))
        sheet = Sheet(2 * MARGIN + across * PANEL + (across - 1) * GAP)
        band = (
            f"band: {LEVEL:.0%} bootstrap interval of the mean over images"
            if len(study) > 1
            else "one image: no interval"
        )
        count = f"{len(study)} image{'' if len(study) == 1 else 's'}"
        y = sheet.text(
            MARGIN, MARGIN, f"Line: mean over {count}; {band}.", sheet.width - 2 * MARGIN, size=SMALL, colour=GREY
        )
        y += 0.1
        for at in range(0, len(panels), across):
            row = panels[at : at + across]
            xs = [MARGIN + k * (PANEL + GAP) for k in range(len(row))]
            top = max(_title(sheet, x, y, study, name) for x, name in zip(xs, row, strict=True))
            for x, name in zip(xs, row, strict=True):
                place = (x + AXIS, top, PANEL - AXIS - 0.1, HEIGHT)
                sheet.axes(place, partial(_panel, study=study, name=name, looks=looks), name)
            ends = [
                _legend(sheet, (x, top + HEIGHT + 0.62), study, _rows(table, name, chosen), name, looks=looks)
                for x, name in zip(xs, row, strict=True)
            ]
            y = max(ends) + GAP
        return sheet.figure(y - GAP + MARGIN)


def _title(sheet: Sheet, x: float, y: float, study: Study, name: str) -> float:
    """A metric, its direction, and its protocol in small type; where they end."""
    facts = study.metrics[name]
    arrow = "\N{UPWARDS ARROW} higher is better" if facts["higher_is_better"] else "\N{DOWNWARDS ARROW} lower is better"
    y = sheet.text(x, y, name, PANEL, size=BODY + 1.5, bold=True)
    y = sheet.text(x, y, arrow, PANEL)
    options = ", ".join(f"{k} {_style.short(v)}" for k, v in facts["protocol"].items() if v is not False)
    return sheet.text(x, y, options, PANEL, size=SMALL, colour=GREY, lines=3) + 0.08


def _panel(axes: Axes, study: Study, name: str, looks: dict[str, Any]) -> None:
    """The curves of one metric."""
    there = [m for m in looks if (m, name) in study.curves]
    for method in there:
        look = looks[method]
        fractions, mean, low, high = _curve(study, method, name)
        if len(mean):
            axes.plot(fractions, mean, linewidth=1.8, label=method, **look)
        if len(low):
            light = max(0.06, 0.2 - 0.02 * len(there))
            axes.fill_between(fractions, low, high, color=look["color"], alpha=light, linewidth=0, zorder=1)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    probability = study.metrics[name]["protocol"].get("output") == "probability"
    if probability and axes.dataLim.y0 >= 0:  # differences of probabilities may be negative
        axes.set_ylim(bottom=0)
    across, up = sides(study, name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
    axes.grid(visible=True, color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def sides(study: Study, name: str) -> tuple[str, str]:
    """What goes across and up in a metric's curves."""
    protocol = study.metrics[name]["protocol"]
    output = str(protocol.get("output", "score")).replace("_", " ")
    verb = {True: "inserted", False: "removed", None: "exchanged"}[_fact(study, name, "inserts", None)]
    pixels = f"share of pixels {verb}, {protocol.get('order', 'most')} important first"
    normalized = ", normalized" if protocol.get("normalize") else ""
    up = _fact(study, name, "shows", "{output} of the target").format(output=output) + normalized
    return _fact(study, name, "along", pixels), up


def _fact(study: Study, name: str, fact: str, unknown: Any) -> Any:
    """What a metric's class says of its curves; somebody's own metric may say nothing."""
    try:
        return getattr(REGISTRY.find(study.metrics[name]["name"]), fact, unknown)
    except ValueError:
        return unknown


def _looks(study: Study, chosen: list[str]) -> dict[str, dict[str, Any]]:
    """The colour and dashes of each method that is drawn: by its place in the study, or among those that are drawn.

    The latter where a study has more methods than there are looks, so that no two in a figure share one.
    """
    order = list(study.methods) if len(study.methods) <= len(COLOURS) * len(DASHES) else chosen
    found = {}
    for method in chosen:
        dashes, colour = divmod(order.index(method), len(COLOURS))
        found[method] = {"color": COLOURS[colour], "linestyle": DASHES[dashes % len(DASHES)]}
    return found


def _curve(study: Study, method: str, metric: str) -> "tuple[np.ndarray[Any, Any], ...]":
    """Fractions, the mean over the images that have a score, and its band, which is empty for fewer than two images."""
    fractions, values = study.curves[method, metric]
    rows = study.scores[(study.scores["method"] == method) & (study.scores["metric"] == metric)]
    score = rows.set_index("image")["score"].reindex(range(len(values))).to_numpy(dtype=np.float64)
    known = values.double().numpy()[~np.isnan(score)]
    none = np.zeros(0)
    if not len(known):
        return fractions.numpy(), none, none, none
    if len(known) < 2:
        return fractions.numpy(), known.mean(0), none, none
    low, high = interval(known, level=LEVEL, method="percentile", resamples=RESAMPLES)
    return fractions.numpy(), known.mean(0), low, high


def _legend(
    sheet: Sheet, at: tuple[float, float], study: Study, table: pd.DataFrame, name: str, *, looks: dict[str, Any]
) -> float:
    """Below a plot its methods, the best first, with the mean area and its interval; where it ends."""
    x, y = at
    sample, area = 0.5, 1.75
    wide = PANEL - sample - area
    interval = f" [{LEVEL:.0%} interval]" if len(study) > 1 else ""
    y = sheet.right(
        x, y, f"mean {'area' if _fact(study, name, 'is_area', False) else 'score'}{interval}", PANEL, size=SMALL
    )
    for method, row in table.droplevel("metric").iterrows():
        sheet.axes((x, y, sample - 0.12, 0.16), partial(_sample, look=looks[str(method)]), f"legend: {method}")
        end = sheet.text(x + sample, y, str(method), wide)
        text = "undefined" if np.isnan(row["mean"]) else f"{row['mean']:.3f}"
        if not np.isnan(row["low"]):
            text += f" [{row['low']:.3f}, {row['high']:.3f}]"
        y = max(end, sheet.right(x + sample + wide, y, text, area))
        if row["images"] < len(study):
            y = sheet.right(x, y, f"on {int(row['images'])} of {len(study)} images", PANEL, size=SMALL)
        y += 0.02
    return y


def _rows(table: pd.DataFrame, name: str, chosen: list[str]) -> pd.DataFrame:
    """The chosen methods' rows of one metric, in the table's order."""
    return table.loc[[(metric, method) for metric, method in table.index if metric == name and method in chosen]]


def _sample(axes: Axes, look: dict[str, Any]) -> None:
    """A method's line in the legend."""
    axes.set_axis_off()
    axes.plot([0, 1], [0, 0], linewidth=2.2, **look)
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, 1)

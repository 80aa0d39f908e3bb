"""Area sweep: how much of an image is enough, as an explanation of extremal_perturbation says it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from attriscope.attribution.explanation import Explanation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch.nn import functional

from . import _style
from ._pixels import Photographs
from ._steps import (
    AXIS,
    BELOW,
    BLUE,
    CURE,
    GAP,
    HEIGHT,
    LEAST,
    LINES,
    ORANGE,
    PALE,
    PLOT,
    SHARP,
    SPACE,
    line_names,
    percent,
    picture_size,
    typeset,
    with_names,
    with_room,
)  # fmt: skip
from ._style import FONT, GREY, MARGIN, SMALL, TITLE, Pixels, Sheet

__all__ = ["area_sweep"]


@dataclass
class _Sweep:
    """One image's masks from the smallest to the largest, in terms of the score.

    Attributes:
        variant: What was searched for.
        unit: What the score is called.
        of: What areas are parts of.
        areas: `(K,)`.
        scores: Of what is kept; for "delete" of what is left; for "dual" their difference.
        shown: `(K, h, w)`, the part of every pixel that is not faded.
        whole: The score of the image.
        ends: The two scores between which all should lie: of nothing hidden and of all hidden.
        enough: The score that a mask must reach, or fall to; `None` where the hidden image scores no lower than the whole.
        minimal: Which mask is the smallest that does; `None`: none does.
    """

    variant: str
    unit: str
    of: str
    areas: Pixels
    scores: Pixels
    shown: Pixels
    whole: float
    ends: tuple[float, float]
    enough: float | None
    minimal: int | None

    @property
    def verb(self) -> str:
        """What became of the mask's part of the image."""
        return "deleted" if self.variant == "delete" else "kept"

    @property
    def short(self) -> str:
        """The score's name below a picture."""
        return "difference" if self.variant == "dual" else self.unit.split(" over ")[0]

    @property
    def measure(self) -> str:
        """The score's name beside the curve."""
        left = "left without the mask" if self.variant == "delete" else "kept"
        return f"{self.unit} of what is {left}" + (", less that of the rest" if self.variant == "dual" else "")

    def number(self, score: float) -> str:
        """A score with as many digits as tell it from the others: three, or up to seven where all are much alike."""
        values = np.array([v for v in (*self.scores, *self.ends) if np.isfinite(v)])
        spread, most = (np.ptp(values), np.abs(values).max()) if len(values) else (0.0, 0.0)
        more = int(np.log10(most / spread)) if 0 < spread < most else 0
        return typeset(f"{score:#.{3 + min(more, 4)}g}".rstrip("."))


def area_sweep(
    found: Explanation,
    image: int = 0,
    *,
    name: str | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Figure:
    """One image under the mask of every area, from small to large, and the score over the area.

    What a mask keeps is shown in full; with `variant="delete"`, what it leaves. The rest is faded: the network saw it blurred,
    or as the mean. The smallest area that is enough, by `threshold`, is framed, and marked in the curve. The masks of an
    inner layer are enlarged to the image.

    Args:
        found: What `explain` of `extremal_perturbation` returned; best with many `areas`.
        image: Which image, from 0.
        name: Of the image.
        classes: Class names.
        bounds: Smallest and largest value of the images; `None`: the image's own.

    Raises:
        ValueError: Another method's explanation, masks of channels, no images to draw, or no such image; the message says
            what to do.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = attribution.create("extremal_perturbation", network, steps=50, areas=(0.1, 0.25))
        >>> figure = area_sweep(made.explain(torch.rand(1, 3, 16, 16), target=0))
        >>> [axes.get_label() for axes in figure.axes]
        ['image', '10%', '25%', 'curve', 'names']
    """
    if found.method != "extremal_perturbation" or "masks" not in found.details:
        raise ValueError(
            f"area_sweep draws what extremal_perturbation found, not {found.method or 'maps from elsewhere'}: pass the "
            "explanation of attribution.create('extremal_perturbation', model), or draw this one with heatmap"
        )
    if found.details["masks"].ndim != 4:
        raise ValueError(
            "area_sweep draws masks of places, and these are of a layer's channels: explain with over='space', or draw this "
            "one with heatmap"
        )
    label = f"image {image}" if name is None else name
    _style.pick_images([image], len(found), [f"image {i}" for i in range(len(found))])
    over = Photographs(found.inputs, None, None, bounds, count=len(found), sharp=SHARP, cure=CURE)
    plain, _ = over.load(image)
    sweep = _read(found, image, plain.shape[:2])

    with _style.style():
        width, height, across = picture_size(plain, len(sweep.areas) + 1)
        step = max(width, LEAST) + GAP
        sheet = Sheet(2 * MARGIN + max(PLOT, across * step - GAP))
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, f"extremal_perturbation of {label}", wide, size=TITLE, bold=True)
        y = sheet.text(MARGIN, y, _facts(found, image, classes), wide, size=SMALL, colour=GREY, lines=3)
        y = sheet.text(MARGIN, y, _reading(found), wide, size=SMALL, colour=GREY, lines=3) + 0.12

        pictures = [None, *range(len(sweep.areas))]
        for at in range(0, len(pictures), across):
            row = pictures[at : at + across]
            lefts = [MARGIN + k * step for k in range(len(row))]
            ends = [_over_picture(sheet, (x, y), sweep, k, step - GAP / 2) for x, k in zip(lefts, row, strict=True)]
            top = max(ends) + 0.04
            for x, k in zip(lefts, row, strict=True):
                if k is None:
                    sheet.picture((x, top, width, height), plain, "image")
                else:
                    sheet.axes((x, top, width, height), _masked(plain, sweep, k), percent(sweep.areas[k]))
            y = top + height + 0.06
            if sweep.minimal is not None and sweep.minimal in row:
                x = lefts[row.index(sweep.minimal)]
                y = sheet.text(x, y, "minimal area", step - GAP / 2, bold=True, colour=ORANGE, lines=1)
            y += 0.1

        y = sheet.text(MARGIN, y + 0.05, _sentence(sweep), wide, bold=True, colour=ORANGE, lines=3) + 0.12
        return sheet.figure(_plot(sheet, y, sweep) + MARGIN)


def _read(found: Explanation, image: int, size: tuple[int, ...]) -> _Sweep:
    """What is drawn of one image of `size`."""
    details, variant = found.details, str(found.params["variant"])
    order = details["areas"].argsort().tolist()
    areas = details["areas"].double().cpu().numpy()[order]
    rewards = details["rewards"][image].detach().double().cpu().numpy()[order]
    masks = details["masks"][image].detach().float().cpu()[order]
    if tuple(masks.shape[1:]) != tuple(size):
        masks = functional.interpolate(masks[None], size, mode="bilinear", antialias=True)[0]
    whole, hidden, least = (float(details[k][image]) for k in ("whole", "hidden", "minimal_area"))
    ends = (whole - hidden, hidden - whole) if variant == "dual" else (whole, hidden)
    start, end = ends if variant == "delete" else ends[::-1]
    unit = found.output.replace("_", " ")
    return _Sweep(
        variant=variant,
        unit=f"lead in {unit} over the best other class" if found.params["reward"] == "contrastive" else unit,
        of="the image" if found.params["area_of"] == "image" else "the image with its frame",
        areas=areas,
        scores=-rewards if variant == "delete" else rewards,
        shown=(1 - masks if variant == "delete" else masks).numpy(),
        whole=whole,
        ends=ends,
        enough=start + float(found.params["threshold"]) * (end - start) if whole > hidden else None,
        minimal=None if np.isnan(least) else int(np.abs(areas - least).argmin()),
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


def _over_picture(sheet: Sheet, at: tuple[float, float], sweep: _Sweep, k: int | None, wide: float) -> float:
    """What stands above a picture; where it ends."""
    x, y = at
    if k is None:
        y = sheet.text(x, y, "the image", wide, bold=True, lines=1)
        return sheet.text(x, y, f"{sweep.unit.split(' over ')[0]} {sweep.number(sweep.whole)}", wide, size=SMALL)
    colour = ORANGE if k == sweep.minimal else "black"
    y = sheet.text(x, y, f"{percent(sweep.areas[k])} {sweep.verb}", wide, bold=True, colour=colour, lines=1)
    return sheet.text(x, y, f"{sweep.short} {sweep.number(sweep.scores[k])}", wide, size=SMALL, colour=colour)


def _masked(plain: Pixels, sweep: _Sweep, k: int) -> Callable[[Axes], None]:
    """Draws the image with all faded that a mask hides, and the line along which half is hidden."""
    shown = sweep.shown[k]
    grey = plain @ np.array([0.299, 0.587, 0.114])
    faded = (grey * (1 - PALE) + PALE)[..., None]
    pixels = plain * shown[..., None] + faded * (1 - shown[..., None])

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.imshow(pixels.clip(0, 1), aspect="auto", vmin=0, vmax=1)
        if min(shown.shape) > 1 and shown.min() < 0.5 < shown.max():
            for colour, thick in (("white", 2.0), ("black", 0.8)):
                axes.contour(shown, [0.5], colors=[colour], linewidths=[thick])
        if k == sweep.minimal:
            look: dict[str, Any] = {"fill": False, "edgecolor": ORANGE, "linewidth": 3.0, "clip_on": False}
            axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, **look))

    return draw


# -- the curve ---------------------------------------------------------------------------------------------------------


def _plot(sheet: Sheet, y: float, sweep: _Sweep) -> float:
    """The curve, with its lines' names at the right; where it ends."""
    left, wide = MARGIN + AXIS, sheet.width - 2 * MARGIN - AXIS - LINES
    named = [
        (v, f"{what}: {sweep.number(v)}", colour, dashes) for v, what, colour, dashes in _lines(sweep) if np.isfinite(v)
    ]  # a log probability may be infinite
    low, high = with_room([*sweep.scores, *(v for v, *_ in named)])
    sheet.axes(
        (left, y, wide, HEIGHT),
        partial(_curve, sweep=sweep, lines=[(v, c, d) for v, _, c, d in named], limits=(low, high), wide=wide),
        "curve",
    )
    line_names(sheet, (left + wide, y), [(v, text, colour) for v, text, colour, _ in named], (low, high))
    return y + HEIGHT + BELOW + (0 if sweep.minimal is None else SPACE)


def _lines(sweep: _Sweep) -> list[tuple[float, str, str, Any]]:
    """The horizontal lines: where, what they are, their colours and dashes."""
    dual, delete = sweep.variant == "dual", sweep.variant == "delete"
    found: list[tuple[float, str, str, Any]] = [
        (sweep.ends[0], "all kept, nothing left" if dual else "whole image", "black", "-"),
        (sweep.ends[1], "nothing kept, all left" if dual else "hidden image", GREY, (0, (5, 2))),
    ]
    if sweep.enough is not None:
        found.append((sweep.enough, f"enough {'below' if delete else 'above'} the threshold", ORANGE, (0, (1.5, 1.5))))
    return found


def _curve(
    axes: Axes, sweep: _Sweep, lines: Sequence[tuple[float, str, Any]], limits: tuple[float, float], wide: float
) -> None:
    """The scores over the areas."""
    percents = 100 * sweep.areas
    for value, colour, dashes in lines:
        axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.1, zorder=1.5)
    axes.plot(percents, sweep.scores, color=BLUE, linewidth=1.8, marker="o", markersize=5, label="score", zorder=3)
    if sweep.minimal is not None:
        at = (percents[sweep.minimal], sweep.scores[sweep.minimal])
        axes.plot([at[0], at[0]], [limits[0], at[1]], color=ORANGE, linewidth=1.1, zorder=2)
        look: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": ORANGE, "markeredgewidth": 2.4}
        axes.plot(*at, marker="o", markersize=10, linestyle="", label="minimal area", zorder=4, **look)
    axes.set_xscale("log")
    reach = max(percents[-1] / percents[0], 1.5) ** 0.06
    axes.set_xlim(percents[0] / reach, percents[-1] * reach)
    axes.set_ylim(*limits)
    ticks = with_names(np.log(percents) / np.log(percents[-1] / percents[0] * reach**2) * wide, sweep.minimal)
    texts = [percent(sweep.areas[k]) + ("\nminimal area" if k == sweep.minimal else "") for k in ticks]
    axes.set_xticks(percents[ticks], texts)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: typeset(f"{v:.5g}")))
    axes.set_xlabel(f"area of the mask, in percent of {sweep.of}, logarithmic", fontsize=SMALL)
    axes.set_ylabel(_style.wrap(sweep.measure, HEIGHT, SMALL, lines=3), fontsize=SMALL)
    axes.tick_params(labelsize=SMALL, labelfontfamily=FONT, color=GREY)
    for k, text in zip(ticks, axes.get_xticklabels(), strict=True):
        if k == sweep.minimal:
            text.set(color=ORANGE, fontweight="bold")
    axes.grid(visible=True, axis="y", color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# -- words -------------------------------------------------------------------------------------------------------------


def _sentence(sweep: _Sweep) -> str:
    """What the sweep comes to."""
    if sweep.enough is None:
        return (
            "No minimal area: with all of it hidden, the image scores as high as it does whole, or higher, so that no area is "
            "enough."
        )
    if not np.isfinite(sweep.enough):
        return "The threshold is a part of the way to an infinite score, and says nothing: explain output='logit'."
    enough = sweep.number(sweep.enough)
    does = {
        "preserve": f"keeps the {sweep.short} at {enough} or higher",
        "delete": f"brings the {sweep.short} to {enough} or lower",
        "dual": f"brings the difference to {enough} or higher",
    }[sweep.variant]
    if sweep.minimal is None:
        return f"No minimal area: no mask of these {does}. Try larger areas, or more steps."
    return f"Minimal area: {percent(sweep.areas[sweep.minimal])}, the smallest mask here that {does}."


def _reading(found: Explanation) -> str:
    """How to read the pictures."""
    seen = {"blur": "blurred", "fade": "as the mean"}[found.params["perturbation"]]
    how = {
        "preserve": f"In full: what a mask keeps. Faded: what it hides, which the network saw {seen}.",
        "delete": f"Faded: what a mask deletes, which the network saw {seen}. In full: what is left.",
        "dual": f"In full: what a mask keeps. Faded: the rest. The network saw each of them, with the other {seen}.",
    }[found.params["variant"]]
    layer = found.details.get("layer")
    of = "" if layer is None else f" The masks are of layer {layer}'s activation, enlarged to the image."
    return f"{how} Outline: where half is hidden.{of}"


def _facts(found: Explanation, image: int, classes: Sequence[str] | Mapping[int, str] | None) -> str:
    what = _style.explained(found, image, classes)
    cost = _style.cost(float(found.forwards[image]), float(found.backwards[image]))
    said = ("variant", "perturbation", "reward", "threshold")
    options = ", ".join(f"{k} {_style.short(found.params[k])}" for k in said)
    score = typeset(f"{float(found.scores[image]):.3g}")
    return f"explained: {what}, {found.output.replace('_', ' ')} {score}; {options}; {cost}"

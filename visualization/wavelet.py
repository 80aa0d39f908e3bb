"""Wavelet: what the network reads at which scale, as an explanation of WCAM says it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from attriscope.attribution import _picture, regions
from attriscope.attribution.explanation import Explanation
from attriscope.attribution.perturbation.wcam import bands, fitting, haar
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from . import _style
from ._pixels import Photographs, bar
from ._style import GREY, MARGIN, SMALL, TITLE, Pixels, Sheet

CELL, HIGHEST, SCALE, GAP = 3.0, 4.2, 2.2, 0.2  # inches: a picture's width and greatest height, a scale's width, between
ROOM = 0.35  # inches that a band must have for its name
SHARP = 1200  # pixels along the longer side of a photograph
CURE = "found.inputs = images"

__all__ = ["wavelet"]


def wavelet(
    found: Explanation,
    image: int = 0,
    *,
    name: str | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    bounds: tuple[float, float] | None = None,
    percentile: float = 99.0,
) -> Figure:
    """One image's WCAM: the map over the image, the indices of the wavelet plane, and a map for every scale.

    Scales are named by the side, in pixels, of the squares within which a coefficient compares; each says its share of the
    sum of all indices. One scale often has nearly all of it, so every picture has its own colours: grey is its lowest value,
    not 0, and a scale that is a single cell has no places to tell apart.

    Args:
        found: What `explain` of `wcam` returned.
        image: Which image, from 0.
        name: Of the image.
        classes: Class names.
        bounds: Smallest and largest value of the images; `None`: the image's own.
        percentile: Of a map's values, less the lowest: what has the full colour. In the plane it is the largest index of a
            detail; the approximation may have more.

    Raises:
        ValueError: Another method's explanation, no images to draw over, or no such image; the message says what to do.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> wcam = attribution.create("wcam", network, grid=4, levels=2, designs=8)
        >>> figure = wavelet(wcam.explain(torch.rand(1, 3, 8, 8)))
        >>> [axes.get_label() for axes in figure.axes][-4:]
        ['coarser', '4 px', '2 px', 'colour bar']
    """
    if found.method != "wcam" or "levels" not in found.details:
        raise ValueError(
            f"wavelet draws what wcam found, not {found.method or 'maps from elsewhere'}: pass the explanation of "
            "attribution.create('wcam', model), or draw this one with heatmap"
        )
    _style.check_percentile(percentile)
    label = f"image {image}" if name is None else name
    _style.pick_images([image], len(found), [f"image {i}" for i in range(len(found))])
    over = Photographs(found.inputs, None, None, bounds, count=len(found), sharp=SHARP, cure=CURE)
    scales = found.details["levels"][image].detach().float().cpu()
    total, indices = scales.sum(0), found.details["indices"][image].detach().float().cpu()
    shares = _shares(indices, len(scales) - 1, tuple(scales.shape[1:]))

    with _style.style():
        sheet = Sheet(2 * MARGIN + max(3 * CELL + 2 * GAP, len(scales) * (SCALE + GAP) - GAP))
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, f"wcam of {label}", wide, size=TITLE, bold=True)
        y = sheet.text(MARGIN, y, _facts(found, image, classes), wide, size=SMALL, colour=GREY) + 0.12

        plain, _ = over.load(image)
        width, height = _style.fit(plain, CELL, HIGHEST)
        lefts = [MARGIN + k * (CELL + GAP) for k in range(3)]
        titles = (
            "image",
            "all scales together, over the image in grey",
            "indices of the wavelet plane; coarser: top left",
        )
        y = max(sheet.text(x, y, t, CELL, size=SMALL, colour=GREY) for x, t in zip(lefts, titles, strict=True))
        most = _most(indices, len(scales) - 1, tuple(total.shape))
        sheet.picture((lefts[0], y, width, height), plain, "image")
        sheet.picture((lefts[1], y, width, height), _over(over, image, total, percentile), "map")
        sheet.axes((lefts[2], y, width, height), _plane(found, image, indices, len(scales) - 1, most), "plane")
        for k in range(1, len(scales)):  # each in the corner of its scale's upper right band, where there is room for it
            part = 2.0 ** -(len(scales) - k)
            if min(width, height) * part >= ROOM:
                at = (lefts[2] + width * part, y + 0.05)
                sheet.text(*at, _named(k, len(scales) - 1), width * part, size=SMALL, lines=1, centred=True, plate=True)
        if not bool(indices.any()):
            reason = "the score does not vary: every index is 0"
            sheet.text(lefts[1], y + 0.1, reason, width, lines=4, centred=True, plate=True)
        elif _flat(total):
            sheet.text(lefts[1], y + 0.1, "the same everywhere", width, lines=4, centred=True, plate=True)
        y += height + 0.25

        y = _by_scale(sheet, y, over, image, scales=scales, shares=shares, percentile=percentile)
        return sheet.figure(_legend(sheet, y, most, percentile) + MARGIN)


def _by_scale(
    sheet: Sheet, y: float, over: Photographs, image: int, *, scales: Tensor, shares: list[float], percentile: float
) -> float:
    """The row of scales; where it ends."""
    wide = sheet.width - 2 * MARGIN
    y = sheet.text(MARGIN, y, "by scale, from coarse to fine, each in its own colours", wide, size=SMALL, colour=GREY)
    small = _style.fit(over.load(image)[0], SCALE, HIGHEST)
    ends = []
    for k, (one, part) in enumerate(zip(scales, shares, strict=True)):
        x = MARGIN + k * (SCALE + GAP)
        which = _named(k, len(scales) - 1)
        below = sheet.text(x, y, which, SCALE, bold=True)
        below = sheet.text(x, below, f"{part:.0%} of the sum of indices", SCALE, size=SMALL, colour=GREY)
        sheet.picture((x, below, *small), _over(over, image, one, percentile), which)
        if _flat(one):
            reason = "nothing" if part == 0 else "the same everywhere: too few cells to tell places apart"
            sheet.text(x, below + 0.1, reason, small[0], size=SMALL, lines=4, centred=True, plate=True)
        ends.append(below + small[1])
    return max(ends) + 0.2


def _legend(sheet: Sheet, y: float, most: float, percentile: float) -> float:
    """What the colours mean; where it ends."""
    wide = sheet.width - 2 * MARGIN
    sheet.picture((MARGIN, y, CELL, 0.15), bar(signed=False), "colour bar")
    said = (
        "red: takes part in the score's variance, unsigned. Maps go from their lowest value to the "
        f"{_style.ordinal(percentile)}; the plane from 0 to the largest index of a detail, {most:.3g}"
    )
    room = wide - CELL - 3 * GAP  # letters are wider at less than 100 dots an inch
    after = sheet.text(MARGIN + CELL + GAP, y - 0.02, said, room, size=SMALL, colour=GREY, lines=4)
    y = sheet.text(MARGIN, y + 0.19, "least", CELL / 2, size=SMALL)
    sheet.right(MARGIN + CELL / 2, y - SMALL * 1.25 / 72 - _style.LEADING, "important", CELL / 2, size=SMALL)
    return max(y, after)


def _named(k: int, levels: int) -> str:
    """A scale by the side of what it compares."""
    return "coarser" if k == 0 else f"{2 ** (levels - k + 1)} px"


def _flat(one: Tensor) -> bool:
    """Whether a map tells no places apart."""
    return float(one.max() - one.min()) <= 1e-6 * float(one.abs().max())


def _over(over: Photographs, image: int, one: Tensor, percentile: float) -> Pixels:
    """A map's rise above its lowest value, over the image."""
    above = torch.zeros_like(one) if _flat(one) else one - one.min()
    return over.over(image, above, _picture.limit(above, percentile))[0]


def _most(indices: Tensor, levels: int, size: tuple[int, ...]) -> float:
    """The largest index of a detail; of all where no detail has one."""
    labels = _labels(indices, levels, size)
    coarse = labels[bands(levels, *labels.shape)[0][0]]
    fine = torch.ones(indices.numel(), dtype=torch.bool)
    fine[coarse.flatten()] = False
    fine = fine & (indices.flatten() > 0)
    return float(indices.flatten()[fine].max()) if bool(fine.any()) else float(indices.max())


def _labels(indices: Tensor, levels: int, size: tuple[int, ...]) -> Tensor:
    """The cell of every coefficient."""
    _, height, width = fitting(levels, size[0], size[1])
    return regions.grid(height, width, *indices.shape)[0]


def _shares(indices: Tensor, levels: int, size: tuple[int, ...]) -> list[float]:
    """Every scale's part of the sum of all indices; cells that straddle bands are split by area."""
    labels = _labels(indices, levels, size)
    spread = (indices.flatten() / torch.bincount(labels.flatten()))[labels]
    whole = max(float(spread.abs().sum()), 1e-30)
    found = bands(levels, *labels.shape)
    return [sum(float(spread[y, x].sum()) for y, x in scale) / whole for scale in found]


def _plane(found: Explanation, image: int, indices: Tensor, levels: int, most: float) -> Callable[[Axes], None]:
    """Draws the packed plane with its bands."""
    labels = _labels(indices, levels, tuple(found.maps.shape[2:]))
    assert found.inputs is not None
    pixels = found.inputs[image].detach().float().cpu().mean(0)
    pad = (0, labels.shape[1] - pixels.shape[1], 0, labels.shape[0] - pixels.shape[0])
    padded = torch.nn.functional.pad(pixels[None, None], pad, mode="replicate")[0, 0]
    sizes = haar(padded - padded.mean(), levels).abs()
    # each band by its own largest coefficients: fine ones are far smaller, and would all be black
    shade = torch.zeros_like(sizes)
    for scale in bands(levels, *labels.shape):
        for y, x in scale:
            band = sizes[y, x]
            shade[y, x] = (band / band.quantile(0.99).clamp_min(1e-12)).clamp(0, 1).sqrt()
    # paler than an image, so that the colours lead
    drawn = _picture.overlay(0.55 + 0.45 * shade[None], indices.flatten()[labels], max(most, 1e-12), (0.0, 1.0))

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.imshow(drawn.clip(0, 1), aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        height, width = labels.shape
        for level in range(1, levels + 1):
            y, x = height >> level, width >> level
            for xs, ys in (((x, x), (0, 2 * y)), ((0, 2 * x), (y, y))):
                for colour, thick in (("white", 2.0), ("black", 0.8)):
                    axes.plot(np.array(xs) - 0.5, np.array(ys) - 0.5, color=colour, linewidth=thick, clip_on=True)
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)

    return draw


def _facts(found: Explanation, image: int, classes: Sequence[str] | Mapping[int, str] | None) -> str:
    what = _style.explained(found, image, classes)
    cost = _style.cost(float(found.forwards[image]), float(found.backwards[image]))
    options = ", ".join(f"{k} {_style.short(v)}" for k, v in found.params.items() if k in {"levels", "grid", "designs"})
    return f"explained: {what}, {found.output.replace('_', ' ')} {float(found.scores[image]):.3g}; {options}; {cost}"

"""Heatmap: an explanation, image by image, with all that is needed to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from attriscope.attribution.explanation import Explanation
from matplotlib.figure import Figure
from torch import Tensor

from . import _style
from ._pixels import ENDS, UNSIGNED, Drawn, Photographs, bar, drawn
from ._style import BODY, GREY, MARGIN, SMALL, TITLE, Sheet

CELL, HIGHEST, FACTS, GAP = 3.1, 4.2, 3.6, 0.2  # inches: a picture's width and greatest height, the text's width, between
NAMES = 0.95
SHARP = 1200  # pixels along the longer side of a photograph
CURE = "found.inputs = images, or pass photographs=[...]"

__all__ = ["heatmap"]


def heatmap(
    found: Explanation,
    *,
    images: Sequence[int] | None = None,
    photographs: Sequence[Any] | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    probabilities: Sequence[float] | Tensor | None = None,
    predicted: Sequence[int] | Tensor | None = None,
    bounds: tuple[float, float] | None = None,
    percentile: float = 99.0,
) -> Figure:
    """Each image beside its map, which lies in colour over the image in grey: red for, blue against, 0 is grey.

    Args:
        found: What `Attributor.explain` returned.
        images: Which images, from 0; `None`: all, at most 12.
        photographs: One `(H, W, 3)` array in [0, 1] for each image of `found`, of any size, to draw over in place of
            `found.inputs`.
        boxes: For each photograph the part that the model saw, `(left, top, right, bottom)` in pixels. Its map is resized
            into it and the rest is paler. `None`: the model saw all of it.
        names: A name for each image.
        classes: Class names.
        probabilities: Of what was explained, for each image.
        predicted: The class that the network names, for each image.
        bounds: Smallest and largest value of the images; `None`: each image's own.
        percentile: Of |map|, for each image: what has the full colour.

    Raises:
        ValueError: No image maps, no images to draw over, or anything that does not fit; the message says what to do.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> found = attribution.create("saliency", network).explain(torch.rand(1, 3, 4, 4))
        >>> heatmap(found, names=["noise.png"], classes=["cat", "dog"]).texts[0].get_text()
        'saliency'
    """
    if found.maps.ndim != 4:
        raise ValueError(
            f"heatmap draws maps of images, (N, C, H, W); these maps of {found.method or 'a method'} have shape "
            f"{tuple(found.maps.shape)}: they are of a table or of tokens"
        )
    _style.check_percentile(percentile)
    count = len(found)
    given = {"names": names, "probabilities": probabilities, "predicted": predicted}
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(f"there are {len(values)} {name} for {count} images: give one for each, in their order")
    labels = [f"image {i}" for i in range(count)] if names is None else [str(n) for n in names]
    chosen, more = _style.pick_images(images, count, labels)
    over = Photographs(found.inputs, photographs, boxes, bounds, count=count, sharp=SHARP, cure=CURE)
    maps = drawn(found.maps, found.method, found.params)

    with _style.style():
        facts_at = MARGIN + 2 * (CELL + GAP)
        sheet = Sheet(facts_at + FACTS + MARGIN)
        wide = sheet.width - 2 * MARGIN
        y = sheet.text(MARGIN, MARGIN, found.method or "map", wide, size=TITLE, bold=True)
        y = sheet.text(MARGIN, y, _options(found.params), wide, size=SMALL, colour=GREY)
        y = sheet.text(MARGIN, y, _note(more, framed=over.framed), wide, size=SMALL, colour=GREY) + 0.12
        sheet.text(MARGIN, y, "photograph", CELL, size=SMALL, colour=GREY)
        y = sheet.text(MARGIN + CELL + GAP, y, "its map, over the photograph in grey", CELL, size=SMALL, colour=GREY)
        for i in chosen:
            top = maps.limit([i], percentile)
            plain, frame = over.load(i)
            pixels, _ = over.over(i, maps.maps[i], top) if top is not None else over.over(i, maps.maps[i] * 0, 1.0)
            width, height = _style.fit(plain, CELL, HIGHEST)
            sheet.picture((MARGIN, y, width, height), plain, f"{labels[i]}: photograph", frame)
            sheet.picture((MARGIN + CELL + GAP, y, width, height), pixels, f"{labels[i]}: map", frame)
            reason = maps.empty[i]
            if reason is not None:
                sheet.text(MARGIN + CELL + GAP, y + 0.1, reason, width, size=BODY, lines=4, centred=True, plate=True)
            lines = {
                "explained": _style.explained(found, i, classes),
                "probability": None if probabilities is None else f"{float(probabilities[i]):.2g}",
                "predicted": None if predicted is None else _style.class_name(classes, int(predicted[i])),
                "score": f"{found.output.replace('_', ' ')} {float(found.scores[i]):.3g}",
                "cost": _style.cost(float(found.forwards[i]), float(found.backwards[i])),
                "time": f"{_style.duration(found.seconds / count)}" + (" (mean per image)" if count > 1 else ""),
            }
            end = sheet.text(facts_at, y, labels[i], FACTS, size=BODY + 1, bold=True) + 0.04
            for name, value in lines.items():
                if value is not None:
                    sheet.text(facts_at, end, name, NAMES, colour=GREY)
                    end = sheet.text(facts_at + NAMES, end, value, FACTS - NAMES)
            if top is not None:
                end = _bar(sheet, (facts_at, end + 0.14), maps, top, percentile)
            y = max(y + height, end) + 0.3
        return sheet.figure(y - 0.3 + MARGIN)


def _bar(sheet: Sheet, at: tuple[float, float], maps: Drawn, top: float, percentile: float) -> float:
    """A colour bar with what its ends mean, and what the full colour is; where it ends."""
    x, y = at
    signed = maps.meaning != UNSIGNED
    low, high = ENDS[maps.meaning]
    half = FACTS / 2
    sheet.text(x, y, low, half, size=SMALL)
    y = sheet.right(x + half, y, high, half, size=SMALL)
    pixels = bar(signed=signed)
    sheet.picture((x, y, FACTS, 0.15), pixels, "colour bar")
    y += 0.15 + 0.04
    sheet.text(x, y, f"\N{MINUS SIGN}{top:.3g}" if signed else "0", half, size=SMALL)
    if signed:
        sheet.text(x, y, "0", FACTS, size=SMALL, centred=True)
    y = sheet.right(x + half, y, f"{top:.3g}", half, size=SMALL)
    colours = "red and blue" if signed else "red"
    full = f"full colour: the {_style.ordinal(percentile)} of {maps.measure}, {top:.3g}"
    return sheet.text(x, y, f"{colours}: {maps.meaning}\n{full}", FACTS, size=SMALL, colour=GREY, lines=4)


# what every method has, and nobody asked for
UNUSED = [("layer", None), ("at", None), ("smooth", 0.0)]


def _options(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_style.short(v)}" for k, v in params.items() if (k, v) not in UNUSED)


def _note(more: int, *, framed: bool) -> str:
    parts = [_style.hidden(more), "frame: what the model saw of the photograph" if framed else ""]
    return "; ".join(p for p in parts if p)

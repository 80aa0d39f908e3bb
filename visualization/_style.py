"""What all figures share: a sheet laid out in inches, text that fits and is drawn as it is, and the choice of rows."""

import contextlib
import io
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import matplotlib as mpl
import numpy as np
import torch
from attriscope.attribution.explanation import Explanation
from attriscope.metrics.study import Study
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

DPI = 120
LARGEST = 2**16 - 1  # pixels that Agg draws in one direction
MOST = 12  # images in a figure, unless asked for more
FONT = "DejaVu Sans"  # comes with matplotlib, so that texts have the same size everywhere
GREY = "#595959"
ASCENT, SPACING = 0.95, 1.25  # of the font's size: from a line's top to its baseline, and to the next line's top
LEADING = 0.03  # inches between one text and the next
MARGIN = 0.2  # inches
TITLE, BODY, SMALL = 12.0, 9.5, 8.5  # points
FALLBACKS = 3  # other fonts that one text may take characters from
UNDEFINED = "undefined"  # in place of a score

BREAK = re.compile(r"[\s_/(=]|[-,.](?=[^\d\s])")  # a line may end behind these, but not inside a number

Pixels: TypeAlias = np.ndarray[Any, Any]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Place: TypeAlias = tuple[float, float, float, float]  # left, top, width, height, in inches


class Page(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the caller has set, which comes back in the end."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {"font.family": [FONT], "font.size": BODY, "text.parse_math": False, "axes.formatter.use_mathtext": False}
        )
        yield


# -- text --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _characters(path: str) -> frozenset[int]:
    """The characters that a font file can draw at any size."""
    try:
        font = font_manager.get_font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=4096)
def _fallback(character: str) -> str | None:
    """The family of an installed font that has a character."""
    for font in font_manager.fontManager.ttflist:
        if not font.name.startswith("Last Resort") and ord(character) in _characters(font.fname):  # that one has boxes only
            return str(font.name)
    return None


def fonts(text: str) -> tuple[str, list[str]]:
    """A text that can be drawn, and the fonts for it: a character that no installed font has becomes a box.

    Example:
        >>> fonts("R$_2$")
        ('R$_2$', ['DejaVu Sans'])
    """
    known = _characters(font_manager.findfont(FontProperties(family=FONT)))
    families, drawn = [FONT], []
    for character in text:
        if ord(character) in known or character == "\n":
            drawn.append(character)
        elif character.isspace():
            drawn.append(" ")
        elif (family := _fallback(character)) is not None and (family in families or len(families) <= FALLBACKS):
            families = families if family in families else [*families, family]
            drawn.append(character)
        elif unicodedata.category(character) != "Cf":  # nothing is seen of these
            drawn.append("\N{WHITE SQUARE}")
    return "".join(drawn), families


def _weight(families: list[str], *, bold: bool) -> str:
    """Bold where it exists: matplotlib complains of a font that has none."""
    return "bold" if bold and families == [FONT] else "normal"


@lru_cache(maxsize=1)
def _renderer() -> Any:
    untyped: Any = RendererAgg
    return untyped(100, 100, DPI)


def extent(text: str, size: float) -> tuple[float, float]:
    """The width and height in inches of a text with its lines; under `style`.

    Example:
        >>> with style():
        ...     extent("ant", 9.0) < extent("anteater", 9.0)
        True
    """
    lines = text.split("\n")
    return max(_width(line, size, False) for line in lines), len(lines) * SPACING * size / 72


@lru_cache(maxsize=1 << 14)
def _width(text: str, size: float, bold: bool) -> float:
    """In inches; under `style`, since hinting is a setting."""
    drawn, families = fonts(text)
    prop = FontProperties(family=families, size=size, weight=_weight(families, bold=bold))
    return float(_renderer().get_text_width_height_descent(drawn, prop, ismath=False)[0]) / DPI


def wrap(text: str, width: float, size: float, *, lines: int = 2, bold: bool = False) -> str:
    """A text in lines of at most `width` inches; what does not fit in so many lines ends in an ellipsis.

    Lines are broken behind spaces and the signs that hold names together, and inside a word where there are none.

    Example:
        >>> wrap("soft-coated wheaten terrier", 1.0, 9.0).splitlines()
        ['soft-coated', 'wheaten terrier']
        >>> wrap("integrated_gradients_of_many_steps", 1.0, 9.0, lines=1)
        'integrated_gr…'
    """
    left = "\n".join(text.expandtabs(1).splitlines())
    done: list[str] = []
    while left:
        first, _, after = left.partition("\n")
        fits = _width(first.rstrip(), size, bold) <= width
        if len(done) == lines - 1 and not (fits and not after):
            left = " ".join(left.split("\n"))
            done.append(left[: _fitting(left, width, size, bold, "…")].rstrip() + "…")
            break
        if fits:
            done.append(first)
            left = after
            continue
        cut = _fitting(first, width, size, bold)
        cut = max((m.end() for m in BREAK.finditer(first) if m.end() <= cut), default=cut)
        done.append(first[:cut].rstrip())
        left = first[cut:].lstrip() + ("\n" + after if after else "")
    return "\n".join(done)


def _fitting(text: str, width: float, size: float, bold: bool, end: str = "") -> int:
    """How many characters fit with `end` behind them, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _width(text[:middle].rstrip() + end, size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return low


class _Text(NamedTuple):
    x: float
    y: float
    text: str
    look: dict[str, Any]


class _Axes(NamedTuple):
    place: Place
    draw: Callable[[Axes], None]
    label: str


class Sheet:
    """A figure that grows downwards: everything is put at inches from its top left corner, and nothing moves later."""

    def __init__(self, width: float) -> None:
        self.width = width
        self._texts: list[_Text] = []
        self._axes: list[_Axes] = []

    def text(
        self, x: float, y: float, text: str, width: float, *, size: float = BODY, bold: bool = False, colour: str = "black",
        lines: int = 2, centred: bool = False, plate: bool = False,
    ) -> float:
        """Put a text, wrapped to `width` inches, with its top at `y`; where it ends. A plate sets it off a picture."""
        wrapped, families = fonts(wrap(text, width, size, lines=lines, bold=bold))
        if not wrapped.strip():
            return y
        look: dict[str, Any] = {
            "fontsize": size, "fontweight": _weight(families, bold=bold), "fontfamily": families, "color": colour,
            "ha": "center" if centred else "left", "va": "baseline",
        }
        if plate:
            look["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        for line in wrapped.split("\n"):
            self._texts.append(_Text(x + width / 2 if centred else x, y + ASCENT * size / 72, line, look))
            y += SPACING * size / 72
        return y + LEADING

    def right(self, x: float, y: float, text: str, width: float, *, size: float = BODY, colour: str = "black") -> float:
        """Put one line that ends at `x + width`; where it ends downwards."""
        end = self.text(x, y, text, width, size=size, colour=colour, lines=1)
        if text.strip():
            last = self._texts[-1]
            self._texts[-1] = last._replace(x=x + width, look={**last.look, "ha": "right"})
        return end

    def axes(self, place: Place, draw: Callable[[Axes], None], label: str = "") -> None:
        """Axes that `draw` will fill."""
        self._axes.append(_Axes(place, draw, label))

    def picture(self, place: Place, pixels: Pixels, label: str, frame: "Box | None" = None) -> None:
        """Pixels `(H, W, 3)`, with a thin frame around a part."""

        def draw(axes: Axes) -> None:
            axes.set_axis_off()
            axes.imshow(pixels, aspect="auto", vmin=0, vmax=1)
            if frame is not None:
                left, top, right, bottom = frame
                for colour, line_width in (("white", 2.2), ("black", 0.9)):
                    axes.add_patch(
                        Rectangle(
                            (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour,
                            linewidth=line_width, clip_on=False,
                        )
                    )

        self.axes(place, draw, label)

    def figure(self, height: float) -> Page:
        """The figure.

        Raises:
            ValueError: It is larger than can be drawn.
        """
        if max(self.width, height) * DPI > LARGEST:
            raise ValueError(
                f"the figure would be {self.width:.0f} x {height:.0f} inches, more than can be drawn: choose fewer images "
                "with images=[...], or fewer methods"
            )
        page = Page(figsize=(self.width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(page)
        for (x, y, w, h), draw, label in self._axes:
            axes = page.add_axes((x / self.width, 1 - (y + h) / height, w / self.width, h / height))
            axes.set_label(label)
            draw(axes)
        for x, y, text, look in self._texts:
            page.text(x / self.width, 1 - y / height, text, **look)
        return page


# -- the choice of rows ------------------------------------------------------------------------------------------------


def pick(what: str, wanted: "Iterable[str] | str | None", there: Iterable[str]) -> list[str]:
    """Chosen names in the order in which they were given, `None` is all.

    Raises:
        ValueError: A name that is not there.

    Example:
        >>> pick("method", ["rise"], ["sobol", "rise"])
        ['rise']
    """
    there = list(there)
    names = there if wanted is None else [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    for name in names:
        if name not in there:
            raise ValueError(f"there is no {what} {name!r}; there are: {', '.join(there)}")
    if not names:
        raise ValueError(f"no {what} is left to draw; there are: {', '.join(there) or 'none'}")
    return names


def pick_images(wanted: "Sequence[int] | None", count: int, names: Sequence[str]) -> tuple[list[int], int]:
    """Chosen images, and how many of all are not shown; `None` is the first ones.

    Raises:
        ValueError: An image that is not there.

    Example:
        >>> pick_images(None, 14, [f"{i}.png" for i in range(14)])[1]
        2
    """
    if wanted is None:
        wanted = range(min(count, MOST))
    chosen = [operator.index(i) for i in ([wanted] if isinstance(wanted, int) else wanted)]
    for i in chosen:
        if not 0 <= i < count:
            some = ", ".join(f"{k} ({n})" for k, n in enumerate(names[:MOST])) + (", ..." if count > MOST else "")
            raise ValueError(f"there is no image {i}; there are {count}, from 0: {some}")
    if not chosen:
        raise ValueError(f"no image is left to draw; there are {count}, from 0")
    return chosen, count - len(set(chosen))


def class_name(classes: "Sequence[str] | Mapping[int, str] | None", index: int) -> str:
    """A class's name, or its number."""
    table = classes if isinstance(classes, Mapping) else dict(enumerate(classes or ()))
    return str(table.get(index, f"class {index}"))


def explained(found: Explanation, image: int, classes: "Sequence[str] | Mapping[int, str] | None") -> str:
    """What of an image was explained, in words."""
    if found.target is None:
        return "a score of the caller's own"
    index = found.target[image]
    return class_name(classes, int(index)) if index.ndim == 0 else f"output {tuple(index.tolist())}"


def hidden(count: int) -> str:
    """A note on what is not shown.

    Example:
        >>> hidden(1)
        '1 more image is not shown (images=[...] chooses)'
    """
    if not count:
        return ""
    return f"{count} more image{'s are' if count > 1 else ' is'} not shown (images=[...] chooses)"


def amount(number: float, unit: str) -> str:
    """A mean count with its unit.

    Example:
        >>> amount(1, "forward"), amount(2.5, "backward")
        ('1 forward', '2.5 backwards')
    """
    return f"{round(number, 1):g} {unit}{'' if number == 1 else 's'}" if number < 1e5 else f"{number:.0f} {unit}s"


def cost(forwards: float, backwards: float) -> str:
    """What a method asks of the network for one image."""
    return f"{amount(forwards, 'forward')} + {amount(backwards, 'backward')}"


def duration(seconds: float) -> str:
    """A time that can be read.

    Example:
        >>> duration(0.01234), duration(1.234), duration(83)
        ('12 ms', '1.2 s', '83 s')
    """
    if seconds < 0.1:
        return f"{seconds * 1000:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def chance(probability: float) -> str:
    """A probability in words."""
    return "probability unknown" if math.isnan(probability) else f"probability {probability:.2g}"


def short(value: Any) -> str:
    """An option's value in a few signs.

    Example:
        >>> short(0.30000001), short(torch.zeros(2, 3)), short(None)
        ('0.3', 'tensor (2, 3)', 'none')
    """
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, str) and value.startswith("tensor:"):  # as a study writes it
        return f"tensor {value[7:13]}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "none" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:39] + "\N{HORIZONTAL ELLIPSIS}"


def fit(pixels: Pixels, width: float, height: float) -> tuple[float, float]:
    """The size in inches of a picture that keeps its shape inside a cell.

    Example:
        >>> fit(np.zeros((20, 10, 3)), 3, 4)
        (2.0, 4.0)
    """
    rows, columns = pixels.shape[:2]
    scale = min(width / columns, height / rows)
    return columns * scale, rows * scale


def check_percentile(percentile: float) -> None:
    """Refuse what is no percentile.

    Raises:
        ValueError: It is not above 0 and at most 100.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: which share of |map| gets less than the full colour, above 0 to 100")


def ordinal(percentile: float) -> str:
    """A percentile in words.

    Example:
        >>> ordinal(99.0), ordinal(92), ordinal(99.5)
        ('99th percentile', '92nd percentile', '99.5th percentile')
    """
    last = int(percentile) % 10 if percentile == int(percentile) and int(percentile) % 100 not in (11, 12, 13) else 0
    end = {1: "st", 2: "nd", 3: "rd"}.get(last, "th")
    return f"{percentile:g}{end} percentile"


def number(score: float, limits: Sequence[float]) -> str:
    """Three decimals where a metric has bounds near 1, unless it is small, else three digits.

    Example:
        >>> number(0.61234, (0, 1)), number(0.001234, (0, 1)), number(12.345, (0, float("inf")))
        ('0.612', '0.0012', '12.3')
    """
    if math.isnan(score):
        return UNDEFINED
    near = max(abs(v) for v in limits) <= 1
    return f"{score:.3f}" if near and (abs(score) >= 0.1 or score == 0) else f"{score:#.2g}" if near else f"{score:.3g}"


def numbers(given: Any) -> Pixels:
    """Numbers of a tensor, wherever it lies, or of anything else that holds some.

    Example:
        >>> numbers(torch.ones(2)).dtype
        dtype('float64')
    """
    return np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given, dtype=np.float64)


def identity(study: Study, label: str) -> dict[str, Any]:
    """The method behind a label, by which its colours are understood."""
    facts = study.methods[label]
    return {"method": facts.get("name", label), "params": facts.get("params")}

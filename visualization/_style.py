"""What all figures share: a sheet laid out in inches, text that fits and is drawn as it is, and the choice of rows."""

import contextlib
import io
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

DPI = 120
LARGEST = 2**16 - 1  # pixels that Agg draws in one direction
MOST = 12  # images in a figure, unless asked for more
FONT = "DejaVu Sans"  # comes with matplotlib, so that texts have the same size everywhere
GREY = "#595959"
SPACING = 1.25
MARGIN = 0.2  # inches
TITLE, BODY, SMALL = 12.0, 9.5, 8.5  # points
FALLBACKS = 3  # other fonts that one text may take characters from

Pixels = np.ndarray[Any, Any]


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
        if ord(character) in _characters(font.fname):
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
        elif character.isspace() or unicodedata.category(character) in ("Cf", "Mn"):  # nothing is seen of these
            drawn.append(" " if character.isspace() else "")
        elif (family := _fallback(character)) is not None and (family in families or len(families) <= FALLBACKS):
            families = families if family in families else [*families, family]
            drawn.append(character)
        else:
            drawn.append("\N{WHITE SQUARE}")
    return "".join(drawn), families


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    return FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()


@lru_cache(maxsize=1 << 14)
def _width(text: str, size: float, bold: bool) -> float:
    """In inches."""
    with style():
        drawn, families = fonts(text)
        prop = FontProperties(family=families, size=size, weight="bold" if bold else "normal")
        return float(_renderer().get_text_width_height_descent(drawn, prop, ismath=False)[0]) / DPI


def wrap(text: str, width: float, size: float, *, lines: int = 2, bold: bool = False) -> str:
    """A text in lines of at most `width` inches; what does not fit in so many lines ends in an ellipsis.

    Lines are broken after spaces and after the signs that hold names together, and inside a word where there are none.

    Example:
        >>> wrap("soft-coated wheaten terrier", 1.0, 9.0).splitlines()
        ['soft-coated', 'wheaten terrier']
        >>> wrap("integrated_gradients_of_many_steps", 1.0, 9.0, lines=1)
        'integrated_gra…'
    """
    done: list[str] = []
    for part in text.expandtabs(1).splitlines() or [""]:
        line = ""
        for piece in re.findall(r"[^\s_\-/,.(=]*[\s_\-/,.(=]?", part):
            rest = piece
            while _width((line + rest).rstrip(), size, bold) > width:
                if line:
                    done.append(line.rstrip())
                    line, rest = "", rest.lstrip()
                    continue
                cut = _fitting(rest, width, size, bold)
                done.append(rest[:cut])
                rest = rest[cut:]
            line += rest
        done.append(line.rstrip())
    if len(done) > lines:
        last = done[lines - 1]
        shown = [*done[:lines], done[lines]]
        last = (last + " " + shown[-1]) if last.endswith(("…",)) else last + shown[-1]
        done = [*done[: lines - 1], last[: _fitting(last, width, size, bold, "…")].rstrip() + "…"]
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

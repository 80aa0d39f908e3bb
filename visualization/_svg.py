"""Figures inside a page: text stays text, and no name in one figure is another's."""

import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text

from . import _style

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INHERITED = (
    "stroke-linejoin: round; stroke-linecap: butt"  # what matplotlib says of all elements, which would be the page's
)
ALLOWED = frozenset({"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "circle", "image"})

__all__ = ["inline"]


def inline(figure: Figure, prefix: str, words: str) -> Markup:
    """A figure as an SVG element, at its own size.

    Nothing but shapes and text gets through, whatever the names in the figure.

    Args:
        figure: What a function of this package returned; a halo of its texts is left to the page's style.
        prefix: Put before every name that one part of the figure calls another by.
        words: What it shows, for those who do not see it.

    Example:
        >>> figure = Figure(figsize=(1, 1))
        >>> _ = figure.text(0, 0, "a < b")
        >>> "a &lt; b</text></g></g></svg>" in inline(figure, "f", "nothing")
        True
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_path_effects([])  # with one it would be drawn as outlines
    file = io.StringIO()
    with _style.style(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(file.getvalue())  # noqa: S314  matplotlib has just written it
    _keep(root)
    used = set(re.findall(r"[#]([^\s\")]+)", " ".join(v for e in root.iter() for v in e.attrib.values())))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{prefix}-{name}")
        for key, value in list(element.attrib.items()):
            if key == f"{{{LINK}}}href" and value.startswith("#"):
                del element.attrib[key]
                element.set("href", f"#{prefix}-{value[1:]}")
            else:
                changed = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
                element.set(
                    key, changed.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana")
                )  # as wide, where it is missing
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    for key in ("width", "height"):
        root.set(key, f"{float(root.attrib[key].removesuffix('pt')) * 4 / 3:.0f}")
    root.attrib.update({"role": "img", "aria-label": words, "style": INHERITED})
    root.attrib.pop("version", None)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704  it was parsed, and written with everything escaped


def _keep(element: ET.Element) -> None:
    """Remove what is no shape."""
    for child in list(element):
        if child.tag.removeprefix(f"{{{SVG}}}") not in ALLOWED:
            element.remove(child)
        else:
            _keep(child)

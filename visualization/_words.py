"""What a report says, in words and numbers."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attriscope.metrics.analysis import about
from attriscope.metrics.metric import REGISTRY
from markupsafe import Markup

from . import _style

ALPHA = 0.05
DASH = "\N{EN DASH}"
MOST = 1e5  # images beyond which nobody counts how many more would tell
FIRST = ("steps", "output", "baseline", "ties")  # of a protocol's options, in this order
BASELINES = {
    "rise-blur": "the blurred image of RISE", "mean": "the mean colour", "black": "black", "white": "white", "zero": "0",
    "blur": "a blurred image", "noise": "noise",
}  # fmt: skip

Row = Mapping[str, Any]


def plain(text: str) -> str:
    """A text that UTF-8 can hold: names of files may hold bytes that are no text."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def breakable(text: str) -> Markup:
    """A name, escaped, whose lines may be broken behind underscores.

    Example:
        >>> breakable("a_<b>")
        Markup('a_<wbr>&lt;b&gt;')
    """
    return Markup("_<wbr>").join(text.split("_"))


# -- numbers -----------------------------------------------------------------------------------------------------------


def count(number: int, unit: str) -> str:
    """A number with its unit.

    Example:
        >>> count(1, "image"), count(2000, "image")
        ('1 image', '2,000 images')
    """
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def key(number: float) -> str:
    """A number to sort by; nothing where there is none."""
    return "" if math.isnan(number) else f"{number:.9g}"


def rank(mean: float) -> str:
    """A rank, with one decimal where it is a mean.

    Example:
        >>> rank(2.0), rank(2.25)
        ('2', '2.2')
    """
    return DASH if math.isnan(mean) else f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"


def cost(forwards: float, backwards: float) -> str:
    """Evaluations, f forward and b backward.

    Example:
        >>> cost(1000, 0), cost(1, 1), cost(0, 0)
        ('1,000f', '1f + 1b', '0')
    """
    parts = [f"{round(number, 1):,g}{unit}" for number, unit in ((forwards, "f"), (backwards, "b")) if number]
    return " + ".join(parts) or "0"


def p_value(p: float) -> str:
    """A p-value.

    Example:
        >>> p_value(0.0123), p_value(0.0001), p_value(1.0)
        ('p = 0.012', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def signed(difference: float) -> str:
    """A difference in the metric's units, positive where the method is better.

    Example:
        >>> signed(0.0312), signed(0.0)
        ('+0.031', '0')
    """
    text = f"{abs(difference):.2g}"
    return "0" if float(text) == 0 else ("+" if difference > 0 else "\N{MINUS SIGN}") + text


# -- words -------------------------------------------------------------------------------------------------------------


def listed(names: Sequence[str]) -> str:
    """Names in a row.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def against(pairs: Sequence[Row], method: str, other: str | None) -> tuple[str, str]:
    """How a method compares with another: the p-value to sort by, and what is known.

    Args:
        pairs: The rows of `analysis.pairs`.
        method: Who.
        other: With whom; `None`: there is nobody.
    """
    if other is None:
        return "", DASH
    row = next((r for r in pairs if {r["a"], r["b"]} == {method, other}), None)
    if row is None or math.isnan(row["difference"]):
        return "", f"no images to compare it with {other} on"
    if row["images"] < 2 or math.isnan(row["p_holm"]):
        return "", f"one image is no test against {other}"
    better = row["a"] == method
    sign = 1 if better else -1
    low, high = sorted((sign * row["low"], sign * row["high"]))
    between = "" if math.isnan(low) else f" [{signed(low)}, {signed(high)}]"
    size = f"{signed(sign * row['difference'])}{between}, {p_value(row['p_holm'])}"
    if row["p_holm"] < ALPHA:
        return key(row["p_holm"]), f"{'better' if better else 'worse'} than {other}: {size}"
    needed = row["needed"]
    hint = ""
    if not math.isnan(needed):
        hint = (
            f"; about {about(needed)} more images would tell"
            if needed <= MOST
            else "; no number of images in reach would tell"
        )
    return key(row["p_holm"]), f"not told apart from {other}: {size}{hint}"


def protocol(options: Row) -> str:
    """A metric's protocol in words.

    Example:
        >>> protocol({"baseline": "mean", "steps": 28, "output": "probability", "ties": "index", "window_size": 3})
        '28 steps, on the probability, pixels become the mean colour, equal pixels from the top left, window size 3'
        >>> protocol({"steps": 28, "normalize": False, "flip": True})
        '28 steps, flip'
    """
    said = []
    for name in [*(f for f in FIRST if f in options), *(o for o in options if o not in FIRST)]:
        text = _style.short(options[name])
        if name == "steps":
            said.append(f"{text} steps")
        elif name == "output":
            said.append(f"on the {text.replace('_', ' ')}")
        elif name == "baseline":
            said.append(f"pixels become {BASELINES.get(text, text)}")
        elif name == "ties":
            said.append(f"equal pixels {'in a random order' if text == 'random' else 'from the top left'}")
        elif options[name] is True:
            said.append(name.replace("_", " "))
        elif options[name] is False:
            continue
        else:
            said.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(said) or "no options"


def settings(options: Row) -> str:
    """Options as they are typed."""
    return ", ".join(f"{name} = {_style.short(option)}" for name, option in options.items()) or "none"


def description(facts: Row) -> str:
    """The first paragraph of what a registered metric says of itself."""
    try:
        documented = inspect.getdoc(REGISTRY.find(facts["name"])) or ""
    except (ValueError, KeyError):
        return ""
    return " ".join(documented.split("\n\n", maxsplit=1)[0].replace("`", "").split())


def undefined(facts: Row) -> str:
    """Why a metric may have no score."""
    try:
        return str(REGISTRY.find(facts["name"]).undefined)
    except (ValueError, KeyError):
        return "the metric gave no number"

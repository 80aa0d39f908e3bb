"""Plain text tables, and what the registries know as text."""

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from attriscope.attribution import attributor as methods
from attriscope.attribution._parameters import Parameter, parameters
from attriscope.attribution.registry import Registry
from attriscope.metrics import metric as metrics

from .problems import explained

UNTYPED = {"tensor", "callable"}  # what a parameter takes in Python and nobody can type

__all__ = ["cost", "describe_method", "describe_metric", "list_methods", "list_metrics", "price", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns side by side: numbers to the right, all else to the left; on a terminal the last one is cut to fit.

    Example:
        >>> print(table(["method", "cost"], [["rise", 4000], ["sobol", 80]]))
        method  cost
        rise    4000
        sobol     80
    """
    cells = [[str(c) for c in row] for row in (head, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    right = [len(cells) > 1 and all(_number(row[k]) for row in cells[1:]) for k in range(len(head))]
    columns = list(zip(widths, right, strict=True))
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, (w, r) in zip(row, columns, strict=True)).rstrip() for row in cells
    ]
    if sys.stdout.isatty():
        most = shutil.get_terminal_size().columns
        lines = [line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}" for line in lines]
    return "\n".join(lines)


def _number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,]+%?|[-+]?[\d.]+e[-+]?\d+|nan|-|", text) is not None


def cost(forwards: float, backwards: float) -> str:
    """What one image costs, short.

    Example:
        >>> cost(52, 50)
        '52f + 50b'
    """
    return f"{forwards:.0f}f" + (f" + {backwards:.0f}b" if backwards else "")


def sentence(text: str) -> str:
    r"""A docstring's text without its mark-up for formulas.

    Example:
        >>> sentence(r"How much it changes: :math:`x \odot y`.")
        'How much it changes.'
    """
    return re.sub(r":?\s*:math:`[^`]*`", "", text).replace("`", "")


def matching(registry: "Registry[Any]", pattern: str | None) -> list[str]:
    """The names that a pattern or an exact name finds.

    Raises:
        Problem: There are none.
    """
    if pattern is None:
        return registry.names()
    found = registry.names(pattern)
    if found:
        return found
    with explained():
        if re.search(r"[*?\[/]", pattern):
            raise ValueError(f"no {registry.what} matches {pattern!r}; there are {', '.join(registry.names())}")
        return [registry.find(pattern).name]


def list_methods(names: Sequence[str]) -> str:
    """A table of methods."""
    rows = []
    for name in names:
        facts = methods.REGISTRY.facts(name)
        needs = ", ".join(sorted(facts.needs)) or "nothing"
        rows.append([name, facts.family, needs, _price(name), sentence(methods.REGISTRY.describe(name)["summary"])])
    return table(["method", "family", "needs", "cost", "what it shows"], rows)


def _price(name: str) -> str:
    try:
        return cost(*methods.REGISTRY.find(name).cost())
    except (ValueError, NotImplementedError):  # somebody else's method, which knows its cost when it has run
        return "?"


def list_metrics(names: Sequence[str]) -> str:
    """A table of metrics."""
    rows = []
    for name in names:
        known = metrics.describe(name)
        better = "higher" if known["higher_is_better"] else "lower"
        rows.append([name, known["family"], better, price(known), sentence(known["summary"])])
    return table(["metric", "family", "better", "cost", "what it measures"], rows)


def price(known: Mapping[str, Any]) -> str:
    """What a metric costs for one map: forwards, and how often the method runs again.

    Example:
        >>> price({"cost": 28, "explanations": 0}), price({"cost": 0, "explanations": 10})
        ('28f', '10E')
    """
    parts = [f"{known['cost']}f"] if known["cost"] or not known["explanations"] else []
    return " + ".join([*parts, *([f"{known['explanations']}E"] if known["explanations"] else [])])


def describe_method(name: str) -> str:
    """All that is known of one method."""
    cls = methods.REGISTRY.find(name)
    known = methods.REGISTRY.describe(name)
    kinds = {"pixel": "every pixel by itself", "cell": "cells or smooth blobs", "region": "whole regions"}
    facts = {
        "family": known["family"],
        "paper": known["paper"],
        "also called": ", ".join(known["aliases"]),
        "needs": ", ".join(known["needs"]) or "nothing but the model's scores",
        "cost": f"{_price(name)} for each image of 224 x 224 (f: forward, b: backward evaluations)",
        "--budget picks": known["samples"] or "",
        "resolution": kinds.get(known["granularity"], known["granularity"]),
        "values": "for (+) and against (-) the class" if known["signed"] else "importance, unsigned",
        "random": "yes, the same for the same seed" if known["stochastic"] else "no",
    }
    return _describe(name, sentence(known["summary"]), facts, parameters(cls), "attriscope explain IMAGE -m")


def describe_metric(name: str) -> str:
    """All that is known of one metric."""
    known = metrics.describe(name)
    low, high = known["range"]
    facts = {
        "family": known["family"],
        "paper": known["paper"],
        "also called": ", ".join(known["aliases"]),
        "better": "higher" if known["higher_is_better"] else "lower",
        "range": f"{low:g} to {high:g}",
        "needs": ", ".join(known["needs"]),
        "cost": f"{price(known)} for each map (f: forward evaluations, which methods share in part)"
        if not known["explanations"]
        else f"{price(known)} for each map (f: forward evaluations, E: explanations by the method again)",
    }
    options = parameters(metrics.REGISTRY.find(name))
    return _describe(name, sentence(known["summary"]), facts, options, "attriscope compare IMAGE... -m METHOD --metric")


def _describe(name: str, summary: str, facts: Mapping[str, str], options: Mapping[str, Parameter], usage: str) -> str:
    wide = max(len(k) for k in facts)
    lines = [name, "=" * len(name), summary, ""]
    lines += [f"{k.ljust(wide)}  {v}" for k, v in facts.items() if v]
    lines += ["", "Options, set with -o:" if options else "It has no options."]
    for option in options.values():
        takes = ", ".join(t for t in option.type_text.split(", ") if t not in UNTYPED)
        lines += [f"  {option.name}={_default(option.default)}    ({takes})"]
        if option.help:
            lines += textwrap.wrap(sentence(option.help), 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if options:
        first = next((o for o in options.values() if type(o.default) is int and o.default > 1), next(iter(options.values())))
        value = first.default // 2 if type(first.default) is int else _default(first.default)
        prefix = "" if "explain" in usage else f"{name}."
        lines += ["", f"For example: {usage} {name} -o {prefix}{first.name}={value} --out DIR"]
    return "\n".join(lines)


def _default(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


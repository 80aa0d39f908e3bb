"""The README's tables of methods and metrics, from the registry: `python -m benchmarks.readme` writes them.

With `--check` nothing is written, and the exit code says whether they are up to date.
"""

import re
import sys
from pathlib import Path

from attriscope import attribution, metrics

README = Path(__file__).parents[1] / "README.md"


def method_table() -> str:
    """One row per method."""
    lines = ["| name | family | needs | cost per image | what it gives | paper |", "|---|---|---|---|---|---|"]
    for name in sorted(attribution.available(), key=lambda n: (attribution.describe(n)["family"], n)):
        facts = attribution.describe(name)
        forwards, backwards = facts["cost"]
        cost = f"{forwards} f" + (f" + {backwards} b" if backwards else "")
        also = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
        needs = ", ".join(facts["needs"]) or "nothing"
        summary = re.sub(r":math:`([^`]*)`", r"", facts["summary"]).replace(" :", ":").rstrip(": .") + "."
        lines.append(f"| `{name}`{also} | {facts['family']} | {needs} | {cost} | {summary} | {facts['paper']} |")
    return "\n".join(lines)


def metric_table() -> str:
    """One row per metric."""
    lines = [
        "| name | family | better | range | chance | cost per map | what it gives | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(metrics.available(), key=lambda n: (metrics.describe(n)["family"], n)):
        facts = metrics.describe(name)
        better = "higher" if facts["higher_is_better"] else "lower"
        low, high = ("any" if abs(v) == float("inf") else f"{v:g}" for v in facts["range"])
        also = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
        again = f"{facts['explanations']} explanation{'s' * (facts['explanations'] > 1)}" if facts["explanations"] else ""
        again += "" if facts["unit"] == "images" else f" for each of its {facts['unit']}"
        price = " + ".join(t for t in (f"{facts['cost']} f" if facts["cost"] else "", again) if t) or "nothing"
        price += "; masks or boxes" if "annotations" in facts["needs"] else ""
        chance = "" if facts["chance"] is None else f"{facts['chance']:g}"
        lines.append(
            f"| `{name}`{also} | {facts['family']} | {better} | {low} to {high} | {chance} | {price} | {facts['summary']} "
            f"| {facts['paper']} |"
        )
    return "\n".join(lines)


def written(text: str) -> str:
    """The README with fresh tables between its markers."""
    for name, table in (("methods", method_table()), ("metrics", metric_table())):
        pattern = rf"(<!-- {name}: [^>]*-->\n)(?:(?!<!--).)*?(\n<!-- end -->)"
        text = re.sub(pattern, lambda m, table=table: m[1] + table + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> None:
    old = README.read_text(encoding="utf-8")
    new = written(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            sys.exit("README.md is behind the registry: run python -m benchmarks.readme")
        return
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

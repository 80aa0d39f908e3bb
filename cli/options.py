"""What is typed behind -m, -o, --metric, --target and --labels, checked before anything runs."""

import contextlib
import difflib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attriscope.attribution import attributor as methods
from attriscope.attribution._parameters import parameters, validate
from attriscope.attribution.registry import Registry
from attriscope.metrics import metric as metrics
from attriscope.metrics._readers import labels_beside
from attriscope.metrics.configuration import Entry

from .problems import Problem, explained
from .tables import matching

__all__ = ["Choice", "choose", "configure", "from_file", "labels", "target", "writable"]


@dataclass
class Choice:
    """One method or metric that was asked for.

    Attributes:
        cls: Its class.
        family: Its family.
        asked: Whether it was named; otherwise a pattern found it, and it is left out where it does not run.
        options: Its options that were typed.
    """

    cls: type[Any]
    family: str
    asked: bool
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.cls.name)


def choose(given: Sequence[str], registry: "Registry[Any]" = methods.REGISTRY) -> dict[str, Choice]:
    """The methods (or metrics) that names and patterns find, in their order, each once.

    Raises:
        Problem: A name or pattern finds none; close ones are listed.
    """
    chosen: dict[str, Choice] = {}
    for one in given:
        pattern = re.search(r"[*?\[/]", one) is not None
        if not pattern:
            with explained():
                found = [registry.find(one).name]
        else:
            found = matching(registry, one)
        for name in found:
            known = chosen.setdefault(name, Choice(registry.find(name), registry.facts(name).family, asked=False))
            known.asked = known.asked or not pattern
    return chosen


def from_file(given: Mapping[str, Entry], registry: "Registry[Any]" = methods.REGISTRY) -> dict[str, Choice]:
    """The methods (or metrics) of a TOML file, by label; those that are registered nowhere are somebody's own."""
    chosen: dict[str, Choice] = {}
    for label, entry in given.items():
        if entry.pattern:
            for name, choice in choose([entry.name], registry).items():
                chosen.setdefault(name, choice)
            continue
        with contextlib.suppress(ValueError):
            cls = registry.find(entry.name)
            chosen[label] = Choice(cls, registry.facts(entry.name).family, asked=True, options=dict(entry.params))
    return chosen


def configure(
    settings: Sequence[str], chosen: dict[str, Choice], judges: dict[str, Choice] | None = None, preset: str | None = None,
    *, mild: bool = False,
) -> None:
    """Give `key=value` to every method that has the key, and `name.key=value` to one method or metric.

    Args:
        settings: As typed.
        chosen: The methods.
        judges: The metrics.
        preset: The protocol of every metric that has presets.
        mild: Whether a metric keeps one of its own.

    Raises:
        Problem: Nobody has the key, it is not among those that run, or the value is none that it takes.
    """
    judges = judges or {}
    if preset is not None:
        having = [j for j in judges.values() if "preset" in parameters(j.cls)]
        if not having:
            raise Problem(f"--preset {preset}: none of {', '.join(judges)} has presets")
        for judge in having:
            if not (mild and "preset" in judge.options):
                _set(judge, "preset", preset)
    split = []
    for text in settings:
        left, equals, value = text.partition("=")
        if not equals or not left:
            raise Problem(f"-o {text}: write it as key=value, for example -o masks=2000 or -o rise.masks=2000")
        owner, _, key = left.strip().rpartition(".")
        split.append((owner, key, value.strip(), text))
    for owner, key, value, text in sorted(split, key=lambda s: bool(s[0])):  # what is said of one counts more
        for choice in _owners(owner, key, text, chosen, judges):
            _set(choice, key, value)
    for choice in (*chosen.values(), *judges.values()):
        own = {n: p.default for n, p in parameters(choice.cls).items()}
        with explained():
            validate(choice.name, choice.cls, own | choice.options)


def _owners(owner: str, key: str, text: str, chosen: dict[str, Choice], judges: dict[str, Choice]) -> list[Choice]:
    """Whose option this is."""
    if owner:
        named = _named(owner, chosen, judges)
        if not named:
            everybody = ", ".join((*chosen, *judges))
            raise Problem(f"-o {text}: {owner} is not among what is run ({everybody}){_close(owner, [*chosen, *judges])}")
        own = parameters(named[0].cls)
        if key not in own:
            raise Problem(f"-o {text}: {named[0].name} has no option {key}{_close(key, own) or _has(own)}")
        return named
    found = [c for c in chosen.values() if key in parameters(c.cls)]
    if not found:
        judge = next((j.name for j in judges.values() if key in parameters(j.cls)), None)
        if judge is not None:
            raise Problem(f"-o {text}: no method here has an option {key}; for the metric write -o {judge}.{text}")
        known = dict.fromkeys(k for c in chosen.values() for k in parameters(c.cls))
        has = f"none of {', '.join(chosen)} has an" if len(chosen) > 1 else f"{', '.join(chosen)} has no"
        raise Problem(f"-o {text}: {has} option {key}{_close(key, known) or _has(known)}")
    return found


def _named(name: str, *tables: dict[str, Choice]) -> list[Choice]:
    """What is run under a label, or under a name or an alias: of a method there may be several."""
    labelled = [choices[name] for choices in tables if name in choices]
    if labelled:
        return labelled
    registries: tuple[Registry[Any], ...] = (methods.REGISTRY, metrics.REGISTRY)
    for registry, choices in zip(registries, tables, strict=True):
        with contextlib.suppress(ValueError):
            found = [c for c in choices.values() if c.cls is registry.find(name)]
            if found:
                return found
    return []


def _set(choice: Choice, key: str, value: str) -> None:
    with explained(f"{choice.name}: "):
        choice.options[key] = parameters(choice.cls)[key].parse(value)


def _close(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _has(own: Any) -> str:
    return f"; there is {', '.join(own)}"


# -- classes -----------------------------------------------------------------------------------------------------------


def labels(path: Path) -> list[str]:
    """Class names from a file: one a line, or JSON: a list, `{"0": "tench"}` or `{"0": ["n01440764", "tench"]}`.

    Raises:
        Problem: It cannot be read, or is something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return _lines(path, text)
        data = json.loads(text)
        if isinstance(data, dict):
            data = [data[str(i)] for i in range(len(data))]
        return _lines(path, "\n".join(" ".join(str(n[-1] if isinstance(n, list) else n).split()) for n in data))
    except OSError as error:
        raise Problem(f"--labels {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Problem(f"--labels {path} is no text file: give one class name a line") from error
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise Problem(f'--labels {path} is not a list of names, nor {{"0": name, "1": name, ...}}') from error


def _lines(path: Path, text: str) -> list[str]:
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not names or "\0" in text:
        raise Problem(f"--labels {path} holds no names: give one class name a line, the first for class 0")
    return names


def target(text: str | None, classes: Sequence[str], images: Sequence[Path]) -> int | list[int] | None:
    """What `--target` names: a class by number or name, `label` for that of labels.csv, or nothing.

    Raises:
        Problem: There is no such class (close ones are listed), or several have the name.
    """
    if text is None:
        return None
    if re.fullmatch(r"[-+]?\d+", text.strip()):
        return int(text)
    if text == "label":
        return _listed(images)
    if not classes:
        raise Problem(f"--target {text}: the classes of this model have no names; give a number, or names with --labels FILE")
    exact = [i for i, c in enumerate(classes) if c == text]
    found = exact or [i for i, c in enumerate(classes) if c.casefold() == text.strip().casefold()]
    if len(found) > 1:
        raise Problem(f"--target {text}: the classes {', '.join(map(str, found))} have this name; give the number")
    if not found:
        folded = {c.casefold(): c for c in classes}
        word = text.strip().casefold()
        within = sorted((c for c in classes if word in c.casefold()), key=lambda c: word not in c.casefold().split())
        close = within[:5] or [folded[f] for f in difflib.get_close_matches(text.casefold(), folded, n=5)]
        hint = f"did you mean {' or '.join(close)}?" if close else "give a number, or a name as it stands in --labels"
        raise Problem(f"--target {text}: no class has this name; {hint}")
    return found[0]


def _listed(images: Sequence[Path]) -> list[int]:
    """The classes of images in the `labels.csv` beside them, in its columns `file` and `class_index`."""
    beside = labels_beside(images)
    missing = next((p for p in images if p not in beside.numbers), None)
    if missing is not None:
        raise Problem(f"--target label: {beside.reason(missing)}")
    return [beside.numbers[p] for p in images]


# -- where results go --------------------------------------------------------------------------------------------------


def writable(out: Path) -> None:
    """Make sure that a folder can be made and written to, without making it yet.

    Raises:
        Problem: It cannot.
    """
    there = out.absolute()
    try:
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise Problem(f"--out {out}: {there} is a file, and a folder is wanted")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise Problem(f"--out {out}: it cannot be written to ({error.strerror or error})") from error

"""What a study is, as a TOML file: written beside every study, read to run it again, or written by hand.

    [study]
    model = "timm:resnet50"
    images = ["photos"]
    limit = 200

    [[methods]]
    name = "rise"
    masks = 2000

    [metrics."insertion, 50 steps"]
    name = "insertion"
    steps = 50

Methods and metrics are a list, where the name is the label, or tables, where the label is the table's. An option that is
not given has its default; what a study writes has all of them. `"none"` is `None` where an option can be that. Paths are
relative to the file. What cannot be in TOML, a tensor or a callable, stands in `[omitted]` with a word on what it was.
"""

import difflib
import os
import platform
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from attriscope.attribution import attributor as methods
from attriscope.attribution._files import atomic
from attriscope.attribution._parameters import Parameter, Range, _problem, parameters
from attriscope.attribution.registry import Registry
from torch import Tensor

from . import metric as metrics

PACKAGES = ("attriscope", "torch", "numpy", "scipy", "captum")
TABLES = ("study", "methods", "metrics", "model", "versions", "omitted")
PATHS = ("images", "labels", "annotations", "out")  # keys of [study] that name files
WHOLE = {"limit": Range(1), "size": Range(1), "budget": Range(1), "block": Range(1)}
TEXTS = ("model", "labels", "annotations", "out", "preset", "backend", "dask", "title")
LISTS = ("images", "baselines")
KEYS = (*TEXTS, *LISTS, *WHOLE, "target", "jobs", "report")
NONE = "none"

__all__ = ["Configuration", "Entry", "read", "write"]


@dataclass
class Entry:
    """One method or metric.

    Attributes:
        name: Its name, or a pattern such as "cam/*": all that it finds and that run.
        params: Its options; those that are not there have their defaults.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def pattern(self) -> bool:
        """Whether the name is a pattern."""
        return re.search(r"[*?\[/]", self.name) is not None


@dataclass
class Configuration:
    """What a study is.

    Attributes:
        study: What runs on what: model, images, limit, ...; paths are whole.
        methods: By label.
        metrics: By label.
        model: What is known of the model: its fingerprint.
        versions: Of what wrote it; empty in a file that was written by hand.
        omitted: What could not be written, by its place ("methods.rise.baseline"), with what it was.
    """

    study: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Entry] = field(default_factory=dict)
    metrics: dict[str, Entry] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)

    def complete(self) -> None:
        """Make sure that nothing is missing that a run needs.

        Raises:
            ValueError: Something could not be written when this was; the message says what, and what it was.
        """
        if self.omitted:
            missing = ", ".join(f"{k} ({v.removeprefix('not in TOML: ')})" for k, v in self.omitted.items())
            raise ValueError(
                f"the study was run with what a TOML file cannot hold: {missing}: run it from Python, or give others"
            )


# -- writing -----------------------------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str],
    *,
    study: Mapping[str, Any],
    methods: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any] | None = None,
) -> Configuration:
    """Write what a study is, with all options of every method and metric.

    Args:
        path: The file.
        study: What goes into `[study]`. Paths among it are of the current folder; in the file they are relative to it.
        methods: By label, `{"name": ..., "params": {...}}`.
        metrics: Likewise.
        model: What is known of the model.

    Returns:
        What `read` will find.

    Raises:
        ValueError: An entry of `study` that there is not.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "study.toml"
        >>> made = write(place, study={"limit": 3}, methods={"rise": {"name": "rise", "params": {"masks": 9}}}, metrics={})
        >>> read(place) == made
        True
    """
    path = Path(path)
    omitted: dict[str, str] = {}
    own = {}
    for key, value in study.items():
        if key not in KEYS:
            raise ValueError(f"[study] has no {key!r}{_close(key, KEYS)}")
        plain = _plain(value)
        if plain is None or isinstance(plain, _Omitted):
            if plain is not None:
                omitted[f"study.{key}"] = str(plain)
            continue
        own[key] = _checked(key, _resolved(key, plain, Path()))
    made = Configuration(
        own,
        _entries("methods", methods, omitted),
        _entries("metrics", metrics, omitted),
        {k: str(v) for k, v in (model or {}).items()},
        _versions(),
        omitted,
    )
    told = {
        "study": {k: _relative(k, v, path) for k, v in made.study.items()},
        "model": made.model,
        **{
            kind: {label: {"name": e.name, **{k: _none(v) for k, v in e.params.items()}} for label, e in table.items()}
            for kind, table in (("methods", made.methods), ("metrics", made.metrics))
        },
        "versions": made.versions,
        "omitted": made.omitted,
    }
    text = "# What this study is. Run it again, here or elsewhere: attriscope compare study.toml --out DIR\n\n"
    text += tomli_w.dumps({k: v for k, v in told.items() if v})
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return made


class _Omitted(str):
    """What stands for a value that TOML cannot hold."""

    __slots__ = ()


def _plain(value: Any) -> Any:
    """A value of TOML's own kinds; `None` as it is, and `_Omitted` for what is none."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _Omitted(f"not in TOML: the number {value}")
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Tensor | np.ndarray):
        if isinstance(value, Tensor) and value.ndim <= 1 and not value.is_floating_point():
            return _plain(value.tolist())  # class numbers
        return _Omitted(f"not in TOML: a tensor of shape {tuple(value.shape)}")
    if isinstance(value, Sequence):
        parts = [_plain(v) for v in value]
        odd = next((p for p in parts if p is None or isinstance(p, _Omitted)), "")
        return _Omitted(odd or "not in TOML: a list with None in it") if odd is None or odd else parts
    if hasattr(value, "params") and hasattr(value, "name"):
        return _Omitted(f"not in TOML: {value!r}")
    name = getattr(value, "__qualname__", None)
    return _Omitted(f"not in TOML: {f'the callable {name}' if name else f'a {type(value).__name__}'}")


def _none(value: Any) -> Any:
    return NONE if value is None else value


def _entries(kind: str, table: Mapping[str, Mapping[str, Any]], omitted: dict[str, str]) -> dict[str, Entry]:
    registry = _registry(kind)
    found = {}
    for label, told in table.items():
        entry = Entry(str(told["name"]))
        known = _options(registry, entry.name)
        for option, value in told.get("params", {}).items():
            plain = _plain(value)
            if plain == NONE and _nullable(known.get(option)):
                plain = _Omitted("not in TOML: the text 'none'")
            if isinstance(plain, _Omitted):
                omitted[f"{kind}.{label}.{option}"] = str(plain)
            elif plain is None and not _nullable(known.get(option)):
                omitted[f"{kind}.{label}.{option}"] = "not in TOML: None"
            else:
                entry.params[option] = _typed(plain)
        found[label] = entry
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that is not installed
            continue
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


# -- reading -----------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Configuration:
    """Read what a study is.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no TOML, or holds what a study has not: a table, a key, a method or an option; the message names the
            line and close ones.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        told = tomllib.loads(text)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    return _Read(path, text).all(told)


class _Read:
    """One file while it is understood."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.splitlines()

    def all(self, told: dict[str, Any]) -> Configuration:
        for key in told:
            if key not in TABLES:
                raise self.error(f"there is no table [{key}]{_close(key, TABLES)}", key)
        strings = {k: self.strings(k, told.get(k, {})) for k in ("model", "versions", "omitted")}
        return Configuration(
            self.study(told.get("study", {})),
            self.entries("methods", told.get("methods", {}), strings["omitted"]),
            self.entries("metrics", told.get("metrics", {}), strings["omitted"]),
            **strings,
        )

    def error(self, text: str, table: str, key: str | None = None, *, at: int = 0) -> ValueError:
        """An error with the line and the table that it is about."""
        line = self.line(table, key, at)
        where = f"{self.path}, line {line}" if line else str(self.path)
        return ValueError(f"{where}: {text}")

    def line(self, table: str, key: str | None, at: int) -> int:
        """Where a key stands, or its table; 0 where it was not found. `at` counts tables of one name."""
        wanted, here, found = _dotted(table), _dotted(""), 0
        for number, line in enumerate(self.lines, 1):
            header = re.match(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(#.*)?$", line)
            if header:
                here = _dotted(header[1])
                if here == wanted:
                    at -= 1
                    found = number if at < 0 and not found else found
            pair = re.match(r"\s*([^=#\[]+?)\s*=", line)
            if pair and key is not None and at < 0 and (*here, *_dotted(pair[1]))[: len(wanted) + 1] == (*wanted, key):
                return number
            if pair and not found and here != wanted and (*here, *_dotted(pair[1]))[: len(wanted)] == wanted:
                found = number
        return found

    def study(self, told: Any) -> dict[str, Any]:
        if not isinstance(told, dict):
            raise self.error("[study] must be a table", "study")
        found = {}
        for key, value in told.items():
            if key not in KEYS:
                raise self.error(f"[study] has no {key!r}{_close(key, KEYS)}", "study", key)
            try:
                found[key] = _checked(key, _resolved(key, value, self.path.parent))
            except (ValueError, TypeError) as error:
                raise self.error(f"[study] {error}", "study", key) from error
        return found

    def strings(self, table: str, told: Any) -> dict[str, str]:
        if not isinstance(told, dict) or not all(isinstance(v, str) for v in told.values()):
            raise self.error(f"[{table}] must be a table of texts", table)
        return told

    def entries(self, kind: str, told: Any, omitted: Mapping[str, str]) -> dict[str, Entry]:
        """Methods or metrics, from a list or from tables by label."""
        if isinstance(told, dict):
            pairs = [(k, v, f"{kind}.{_quoted(k)}", 0) for k, v in told.items()]
        elif isinstance(told, list):
            pairs = [(None, v, kind, i) for i, v in enumerate(told)]
        else:
            raise self.error(f"{kind} must be tables, [[{kind}]] or [{kind}.LABEL], or a list of names", kind)
        found: dict[str, Entry] = {}
        for label, own, table, at in pairs:
            entry = {"name": own} if isinstance(own, str) else own
            if not isinstance(entry, dict):
                raise self.error(f"[{table}] must be a table with a name", table)
            entry = dict(entry)
            name = entry.pop("name", label)
            if not isinstance(name, str):
                raise self.error(f"[{table}] must have a name", table, "name" if "name" in own else None, at=at)
            given = entry.pop("label", label or name) if label is None else label
            if given in found:
                raise self.error(f"[{table}] {given!r} is there twice: give one of them another label", table, at=at)
            odd = any(k.startswith(f"{kind}.{given}.") for k in omitted)
            found[given] = self.entry(kind, Entry(name, entry), table, at, omitted=odd)
        return found

    def entry(self, kind: str, entry: Entry, table: str, at: int, *, omitted: bool) -> Entry:
        """One entry, if there is such a thing and it has these options; somebody's own maps are not there to be found."""
        registry = _registry(kind)
        if entry.pattern:
            if not registry.names(entry.name):
                raise self.error(f"[{table}] no {registry.what} matches {entry.name!r}", table, "name", at=at)
            if entry.params:
                raise self.error(
                    f"[{table}] {entry.name!r} finds several: options are for one, by its name",
                    table,
                    next(iter(entry.params)),
                    at=at,
                )
            return entry
        try:
            known = parameters(registry.find(entry.name))
        except ValueError as error:
            if omitted:
                return entry
            raise self.error(f"[{table}] {error}", table, "name", at=at) from error
        for option, value in entry.params.items():
            if option not in known:
                hint = _close(option, known) or f"; it has {', '.join(known)}"
                raise self.error(f"[{table}] {entry.name} has no option {option!r}{hint}", table, option, at=at)
            typed = None if value == NONE and _nullable(known[option]) else _typed(value)
            problem = _problem(known[option], typed)
            if problem is not None:
                raise self.error(f"[{table}] {option} = {value!r}: {problem[1]}", table, option, at=at)
            entry.params[option] = typed
        return entry


def _dotted(name: str) -> tuple[str, ...]:
    """The parts of a dotted key, `a."b.c"`."""
    return tuple(a or b or c for a, b, c in re.findall(r'"([^"]*)"|\'([^\']*)\'|([^.\s"\']+)', name))


def _quoted(label: str) -> str:
    return label if re.fullmatch(r"[\w-]+", label, re.ASCII) else f'"{label}"'


def _close(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _registry(kind: str) -> "Registry[Any]":
    return methods.REGISTRY if kind == "methods" else metrics.REGISTRY


def _options(registry: "Registry[Any]", name: str) -> dict[str, Parameter]:
    """The options of a method, or nothing for one that is not registered (somebody's own maps)."""
    try:
        return parameters(registry.find(name))
    except ValueError:
        return {}


def _nullable(option: Parameter | None) -> bool:
    return option is not None and "none" in option.type_text.split(", ") and NONE not in option.choices


def _typed(value: Any) -> Any:
    """Lists as tuples, as options are."""
    return tuple(map(_typed, value)) if isinstance(value, list) else value


# -- [study] -----------------------------------------------------------------------------------------------------------


def _checked(key: str, value: Any) -> Any:
    """A value of `[study]`, if it can be one.

    Raises:
        ValueError: It cannot.
    """
    if key in LISTS:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{key} = {value!r}: give a list of texts")
        return value
    if key in WHOLE or key == "jobs":
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or (value == 0 if key == "jobs" else value not in WHOLE[key]):
            raise ValueError(
                f"{key} = {value!r}: give a whole number {'other than 0' if key == 'jobs' else WHOLE[key]}"
            )
    elif key == "target":
        entries = value if isinstance(value, list) else [value]
        fits = all(isinstance(v, int | list) and not isinstance(v, bool) for v in entries) or isinstance(value, str)
        if not fits:
            raise ValueError(f"target = {value!r}: give a class by number or name, 'label', or a number for each image")
    elif key == "report":
        if not isinstance(value, bool):
            raise ValueError(f"report = {value!r}: give true or false")
    elif not isinstance(value, str):
        raise ValueError(f"{key} = {value!r}: give a text")
    return value


def _resolved(key: str, value: Any, base: Path) -> Any:
    """Paths as whole ones; `base` is what they are relative to."""
    if key not in PATHS and not (key == "model" and isinstance(value, str) and value.lower().endswith(".onnx")):
        return value
    if isinstance(value, list):
        return [_resolved(key, v, base) for v in value]
    return os.path.abspath(base / value) if isinstance(value, str) else value  # noqa: PTH100  `..` is taken out, links stay


def _relative(key: str, value: Any, path: Path) -> Any:
    """Whole paths as seen from the folder that a file lies in."""
    if isinstance(value, list):
        return [_relative(key, v, path) for v in value]
    if not isinstance(value, str) or _resolved(key, value, Path()) != value or not Path(value).is_absolute():
        return value
    try:
        return Path(os.path.relpath(value, path.absolute().parent)).as_posix()
    except ValueError:  # on another drive
        return value

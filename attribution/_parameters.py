"""Hyper-parameters: declared once as annotated fields; from these come the constructor, its checks and the CLI's options."""

import dataclasses
import dis
import functools
import hashlib
import inspect
import json
import re
import sysconfig
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """What a number may be: `Annotated[int, Range(1)]`.

    Attributes:
        low: The smallest value.
        high: The largest, or `None`.
        open: Whether the ends themselves are excluded.
        power: Whether it must be a power of two.
        doubles: Whether a budget picks a power of two, where others are good too.
    """

    low: float
    high: float | None = None
    open: bool = False
    power: bool = False
    doubles: bool = False

    def __contains__(self, value: float) -> bool:
        if self.open and value in (self.low, self.high):
            return False
        if self.power and (int(value) & (int(value) - 1) or value < 1):
            return False
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        text = f"more than {self.low:g}" if self.open else f"at least {self.low:g}"
        if self.high is not None:
            text = f"between {self.low:g} and {self.high:g}" + (", ends excluded" if self.open else "")
        return text + (" and a power of two" if self.power else "")


Count = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1, open=True)]
Seed = Annotated[int, Range(0)]


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter of a method or metric, as its class declares it."""

    name: str
    default: Any
    annotation: Any
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that it can take, where they are few."""
        return tuple(c for member in _members(self.annotation) for c in _literals(member))

    @property
    def type_text(self) -> str:
        """What it takes, in words."""
        texts = []
        for member in _members(self.annotation):
            base, limits = _base(member)
            if get_origin(base) is Literal:
                texts += [str(a) for a in get_args(base)]
            elif get_origin(base) is not None and "Callable" in str(get_origin(base)):
                texts.append("callable")
            elif base is type(None):
                texts.append("none")
            else:
                name = getattr(base, "__name__", str(base)).lower()
                texts.append(f"{name} {limits}" if limits else name)
        return ", ".join(dict.fromkeys(texts))

    def parse(self, text: str) -> Any:
        """A value typed on a command line.

        Raises:
            ValueError: It is none that this parameter takes.
        """
        members = _members(self.annotation)
        if text.lower() == "none" and type(None) in members:  # first: strings and sequences take any text
            return None
        for member in members:
            base, _ = _base(member)
            for choice in _literals(member):
                if str(choice) == text:
                    return choice
            if base is bool and text.lower() in {"true", "false", "yes", "no", "1", "0"}:
                return text.lower() in {"true", "yes", "1"}
            if base in {int, float}:
                try:
                    return base(text)
                except ValueError:
                    continue
            if get_origin(base) in {tuple, list} or base in {tuple, list}:
                return tuple(_number(part) for part in text.split(","))
            if base is str:
                return text
        raise ValueError(f"{self.name}={text}: expected {self.type_text}")


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _members(annotation: Any) -> list[Any]:
    """The members of a union, flat."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return [m for a in get_args(annotation) for m in _members(a)]
    return [annotation]


def _base(member: Any) -> tuple[Any, Range | None]:
    if get_origin(member) is Annotated:
        base, *notes = get_args(member)
        return base, next((n for n in notes if isinstance(n, Range)), None)
    return member, None


def _literals(member: Any) -> tuple[Any, ...]:
    base, _ = _base(member)
    return get_args(base) if get_origin(base) is Literal else ()


def parameters(cls: type) -> dict[str, Parameter]:
    """The hyper-parameters of a dataclass of ours, in the order of its signature."""
    return _parameters(cls)


@cache
def _parameters(cls: Any) -> dict[str, Parameter]:
    hints = get_type_hints(cls, include_extras=True)
    helps = _helps(cls)
    return {
        f.name: Parameter(f.name, _default(f), hints[f.name], helps.get(f.name, ""))
        for f in dataclasses.fields(cls)
        if f.init and f.name != "model"
    }


def _default(f: "dataclasses.Field[Any]") -> Any:
    # a class that came from another process by value brings its own copy of `dataclasses.MISSING`
    return f.default_factory() if callable(f.default_factory) else f.default


def _helps(cls: type) -> dict[str, str]:
    """What the `Args:` sections of the class and its bases say of each parameter."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        if section is not None:
            for name, text in re.findall(r"^ {4}(\w+):\s+((?:.*\n?)(?:^ {8}.*\n?)*)", section[1], re.MULTILINE):
                found[name] = " ".join(text.split())
    return found


def validate(owner: str, cls: type, values: Mapping[str, Any]) -> None:
    """Check values against the annotations.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: One out of range or no choice.
    """
    for name, parameter in parameters(cls).items():
        problem = _problem(parameter, values[name])
        if problem is not None:
            raise problem[0](f"{owner}: {name}={_short(values[name])}: {problem[1]}")


def _problem(parameter: Parameter, value: Any) -> tuple[type[Exception], str] | None:
    members = [_base(m) for m in _members(parameter.annotation)]
    for base, limits in members:
        if not _is(value, base):
            continue
        if limits is not None and value not in limits:
            return ValueError, f"must be {limits}"
        return None
    choices = parameter.choices
    if choices and isinstance(value, str):
        return ValueError, f"choose one of {', '.join(map(str, choices))}"
    return TypeError, f"expected {parameter.type_text}"


def _is(value: Any, base: Any) -> bool:
    """Whether a value is what one member of an annotation names."""
    origin = get_origin(base)
    if base is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(a) and value == a for a in get_args(base))
    if origin is not None and isinstance(origin, type):
        if origin in {tuple, list}:
            return isinstance(value, tuple | list)
        return isinstance(value, origin) if str(origin) != str(Callable) else callable(value)
    if base in {int, float}:
        number = isinstance(value, int if base is int else int | float) and not isinstance(value, bool)
        return number and abs(value) != float("inf") and value == value  # noqa: PLR0124  neither is a number here
    if base is Callable or "Callable" in str(base):
        return callable(value) and not isinstance(value, type | Tensor)
    return isinstance(value, base) if isinstance(base, type) else base is None and value is None


def _short(value: Any) -> str:
    if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
        return f"({', '.join(map(_short, value))})"
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def canonical(value: Any) -> Any:  # noqa: C901  one branch for each kind of value
    """A value as JSON can hold it, the same for equal values: tensors by digest, callables by name.

    Example:
        >>> canonical({"b": (1, 2), "a": torch.zeros(2)})["b"]
        [1, 2]
    """
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        raw = data.reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode() + raw).hexdigest()[:16]
        return f"tensor:{digest}"
    if isinstance(value, Mapping):
        return {str(k): canonical(value[k]) for k in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if isinstance(value, np.ndarray):
        return (
            canonical(torch.from_numpy(np.ascontiguousarray(value))) if value.dtype.kind in "fiub" else value.tolist()
        )
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if hasattr(value, "params") and hasattr(value, "name"):  # an attributor inside another
        return {"name": value.name, "params": canonical(value.params)}
    if isinstance(value, functools.partial):
        return {"partial": [canonical(v) for v in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": [canonical(value.__func__), canonical(value.__self__)]}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if hasattr(value, "state_dict") and hasattr(value, "named_modules"):
        modules = [f"{n}:{type(m).__qualname__}({m.extra_repr()})" for n, m in value.named_modules()]
        return {"network": modules, "state": canonical(dict(value.state_dict()))}
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, set | frozenset):
        return sorted((canonical(v) for v in value), key=repr)
    held = getattr(value, "__dict__", None)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if held is None:
        return f"{name}:{value!r}" if " at 0x" not in repr(value) else name
    return {name: {k: "itself" if v is value else _held(value, v) for k, v in sorted(held.items())}}


PLAIN = (type(None), str, bytes, int, float, complex, np.generic)  # a tuple: a union takes far longer to look through


def is_plain(value: Any, depth: int = 8) -> bool:
    """Whether a value is a number, a text, `None`, or tuples, lists and dicts of these."""
    if isinstance(value, PLAIN):
        return True
    if isinstance(value, dict):
        return depth > 0 and all(is_plain(v, depth - 1) for pair in value.items() for v in pair)
    return isinstance(value, tuple | list) and depth > 0 and all(is_plain(v, depth - 1) for v in value)


def _held(owner: Any, value: Any) -> Any:
    """An attribute of an object; a module by its name in the object's network, where it has one."""
    network: Any = getattr(owner, "forward_func", None)
    if value is not network and hasattr(value, "named_modules") and hasattr(network, "named_modules"):
        found = next((n for n, m in network.named_modules() if m is value), None)
        if found is not None:
            return {"layer": found}
    return canonical(value)


_SEEN: ContextVar[list[types.FunctionType] | None] = ContextVar("_SEEN", default=None)  # inside one function's text


def _function(value: types.FunctionType) -> Any:
    """A function by what it does: code, defaults, what it closes over and the globals that it reads, never its address."""
    seen = _SEEN.get()
    if seen is not None:
        if value in seen:  # it calls itself, or two functions call it
            return f"function {seen.index(value)}"
        seen.append(value)
        return _told(value)
    token = _SEEN.set([value])
    try:
        return _told(value)
    finally:
        _SEEN.reset(token)


def _told(value: types.FunctionType) -> str:
    def code(c: types.CodeType) -> Any:
        return [
            c.co_code.hex(),
            c.co_names,
            [code(k) if isinstance(k, types.CodeType) else repr(k) for k in c.co_consts],
        ]

    held = []
    for cell in value.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # still empty
            held.append(None)
    inner = [_outside(c) if isinstance(c, types.FunctionType) else canonical(c) for c in held]
    read = {n: _outside(value.__globals__[n]) for n in _globals(value.__code__) if n in value.__globals__}
    text = json.dumps(
        [code(value.__code__), canonical(value.__defaults__), canonical(value.__kwdefaults__ or {}), inner, read]
    )
    return f"callable:{value.__module__}.{value.__qualname__}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@cache
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """Names that code, and what is defined in it, reads as globals; those that it writes itself, as counters, are left out."""
    parts, read, written = [code], set[str](), set[str]()
    while parts:
        part = parts.pop()
        parts += [k for k in part.co_consts if isinstance(k, types.CodeType)]
        for step in dis.get_instructions(part):
            if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                read.add(step.argval)
            elif step.opname == "STORE_GLOBAL":
                written.add(step.argval)
    return tuple(sorted(read - written))


def _outside(value: Any) -> Any:
    """What a function finds outside itself: plain values, tensors, networks and somebody's own functions are told whole."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    own = isinstance(value, types.FunctionType) and not _is_library(value)
    network = hasattr(value, "state_dict") and hasattr(value, "named_modules") and not isinstance(value, type)
    if own or network or is_plain(value) or isinstance(value, Tensor | np.ndarray | functools.partial):
        return canonical(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _is_library(function: types.FunctionType) -> bool:
    """Whether a function is part of an installed package, of Python or of attriscope, whose versions tell what it does."""
    path = Path(function.__code__.co_filename)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or str(path).startswith("<frozen")
    package = (function.__module__ or "").partition(".")[0]
    return installed or package == "attriscope" or path.is_relative_to(sysconfig.get_path("stdlib"))


class Configured:
    """Base of attributors and metrics: keyword-only fields, checked, printable, comparable.

    A subclass declares its hyper-parameters as annotated fields and becomes a dataclass by itself.
    """

    name: str = ""

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters as they were given."""
        return {n: getattr(self, n) for n in parameters(type(self))}

    @property
    def canonical(self) -> str:
        """Name and hyper-parameters as one line of JSON: equal for equal configurations."""
        return json.dumps({"name": self.name, "params": canonical(self.params)}, sort_keys=True)

    def __repr__(self) -> str:
        own = parameters(type(self))
        changed = [f"{n}={_short(v)}" for n, v in self.params.items() if canonical(v) != canonical(own[n].default)]
        return f"{self.name or type(self).__name__}({', '.join(changed)})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Configured) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

"""Names of methods and metrics: registered by a decorator or an entry point, found by pattern and by what they need."""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from ._parameters import Configured, parameters

C = TypeVar("C", bound=Configured)
T = TypeVar("T", bound=type)

__all__ = ["Facts", "Registry"]


@dataclass(frozen=True)
class Facts:
    """What a registry knows of one entry.

    Attributes:
        name: The name, in snake case.
        family: The folder it lives in.
        paper: Where it was published.
        aliases: Other names; case, hyphens and underscores never matter.
        needs: What a model or a user must supply: `"gradient"`, `"layer"`, `"regions"`, `"references"`, `"attention"`,
            `"annotations"`.
        tags: Everything else, by name.
    """

    name: str
    family: str
    paper: str
    aliases: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    tags: dict[str, Any] = field(default_factory=dict)


def simplify(name: str) -> str:
    """A name without case, hyphens, underscores and spaces; plus signs are letters."""
    return re.sub(r"[-_ ]", "", name.lower()).replace("+", "p")


class Registry(Generic[C]):
    """Classes by name.

    Args:
        what: What the entries are, for messages.
        group: The entry point group of third parties.
    """

    def __init__(self, what: str, group: str) -> None:
        self.what, self.group = what, group
        self._classes: dict[str, type[C]] = {}
        self._facts: dict[str, Facts] = {}
        self._names: dict[str, str] = {}
        self._loaded = False

    def add(self, cls: type[C], facts: Facts) -> None:
        """Register a class under its names.

        Raises:
            ValueError: A name is taken by another class.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", facts.name):
            raise ValueError(f"{facts.name!r} is no good name for a {self.what}: use lower-case words_with_underscores")
        for name in (facts.name, *facts.aliases):
            owner = self._names.get(simplify(name))
            if owner is not None and not _same(self._classes[owner], cls):
                raise ValueError(f"the name {name!r} belongs to the {self.what} {owner!r} already")
        for name in (facts.name, *facts.aliases):
            self._names[simplify(name)] = facts.name
        self._classes[facts.name], self._facts[facts.name] = cls, facts
        cls.name = facts.name

    def remove(self, name: str) -> None:
        """Forget a class and its names: for tests and notebooks."""
        name = self.find(name).name
        del self._classes[name], self._facts[name]
        self._names = {alias: owner for alias, owner in self._names.items() if owner != name}

    def load(self) -> None:
        """Import what other packages offer; a package that fails is named and passed over."""
        if self._loaded:
            return
        self._loaded = True
        for point in entry_points(group=self.group):
            try:
                point.load()
            except Exception as error:  # noqa: BLE001  somebody else's package must not take ours down
                warnings.warn(
                    f"{self.what} {point.name!r} from {point.value} could not be loaded: {error}",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def find(self, name: str) -> type[C]:
        """The class of a name or an alias.

        Raises:
            ValueError: There is none; the message lists close ones.
        """
        self.load()
        if not isinstance(name, str):
            raise TypeError(f"a {self.what} is named by a string, not {type(name).__name__}")
        key = simplify(name)
        if key not in self._names:
            close = difflib.get_close_matches(key, self._names, n=5, cutoff=0.5)
            names = list(dict.fromkeys(self._names[c] for c in close)) or sorted(self._classes)
            raise ValueError(f"no {self.what} {name!r}; did you mean {' or '.join(map(repr, names))}?")
        return self._classes[self._names[key]]

    def facts(self, name: str) -> Facts:
        """What is known of a name."""
        return self._facts[self.find(name).name]

    def names(self, pattern: str = "*", **tags: Any) -> list[str]:
        """Sorted names that match a pattern (of `name` or `family/name`) and every tag."""
        self.load()
        found = []
        for name, facts in self._facts.items():
            if not (fnmatchcase(name, pattern) or fnmatchcase(f"{facts.family}/{name}", pattern)):
                continue
            if all(self._matches(facts, tag, wanted) for tag, wanted in tags.items()):
                found.append(name)
        return sorted(found)

    def _matches(self, facts: Facts, tag: str, wanted: Any) -> bool:
        if tag == "needs":
            wanted = {wanted} if isinstance(wanted, str) else set(wanted)
            return bool(wanted <= facts.needs) if wanted else not facts.needs
        if tag == "family":
            return bool(facts.family == wanted)
        known = sorted({t for f in self._facts.values() for t in f.tags} | {"needs", "family"})
        if tag not in known:
            raise TypeError(f"no tag {tag!r}: choose among {', '.join(known)}")
        value = facts.tags.get(tag)
        return bool(wanted in value if isinstance(value, tuple) and not isinstance(wanted, tuple) else value == wanted)

    def describe(self, name: str) -> dict[str, Any]:
        """Everything that is known of a name: facts, parameters with defaults, the first paragraph of its docstring."""
        cls = self.find(name)
        facts = asdict(self._facts[cls.name])
        tags = facts.pop("tags")
        doc = (cls.__doc__ or "").strip()
        return {
            **facts,
            "needs": sorted(facts["needs"]),
            **tags,
            "parameters": {
                n: {"default": p.default, "takes": p.type_text, "help": p.help} for n, p in parameters(cls).items()
            },
            "summary": " ".join(doc.split("\n\n")[0].split()),
        }

    def build(self, name: str, given: dict[str, Any], build: Callable[[type[C]], C]) -> C:
        """Make an instance; unknown options raise with close matches.

        Raises:
            TypeError: An option that the class does not have.
        """
        cls = self.find(name)
        own = parameters(cls)
        for option in given:
            if option not in own:
                close = difflib.get_close_matches(option, own, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(own)}"
                raise TypeError(f"{cls.name} has no option {option!r}; {hint}")
        return build(cls)


def _same(a: type, b: type) -> bool:
    """Whether two classes are one, defined again (a notebook cell run twice)."""
    return a.__module__ == b.__module__ and a.__qualname__ == b.__qualname__


def as_tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)

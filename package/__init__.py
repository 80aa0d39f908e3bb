"""attriscope: which parts of an input made a network decide as it did, and how far that can be believed.

The rooms are loaded when they are first used:

>>> import attriscope
>>> "rise" in attriscope.attribution.available()
True
"""

from importlib import import_module
from importlib.metadata import version as _version
from types import ModuleType

__version__ = _version("attriscope")
__all__ = ["attribution", "metrics", "visualization"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

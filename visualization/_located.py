"""What figures of localisation on grids are given: maps and their scores for each method, or for each layer and method."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

SLACK = 1e-6  # how far sums of float32 may carry a share out of [0, 1]

__all__ = ["Located", "Scored", "bounds", "layered", "own", "rows", "several"]


class Scored(Protocol):
    """How well a method's maps are localised, one map for each head of each grid."""

    @property
    def scores(self) -> Tensor:
        """`(U,)`: the share of a map's positive attribution that is inside the cell its head sees; NaN is undefined."""

    @property
    def cells(self) -> Tensor:
        """`(U,)`, integers: which cell that is, row by row."""

    @property
    def grid(self) -> int:
        """Cells per side."""

    @property
    def chance(self) -> float:
        """The score of a map that is the same everywhere."""

    @property
    def attainable(self) -> float:
        """The score of a map that is perfect; NaN is unknown."""


class Located(Scored, Protocol):
    """The same with the maps."""

    @property
    def maps(self) -> Tensor:
        """`(U, h, w)`, signed, of whole cells: the grid divides h and w."""


S = TypeVar("S", bound=Scored)


def layered(found: Mapping[str, S] | Mapping[str, Mapping[str, S]]) -> dict[str, dict[str, S]]:
    """By layer and method; without layers, one that has no name.

    Raises:
        ValueError: Nothing, layers beside methods, or anything that does not fit.
    """
    given: Mapping[str, Any] = found
    nested = {isinstance(one, Mapping) for one in given.values()}
    if not nested:
        raise ValueError("there is no method: give scores by the method's name, or such mappings by the layer's name")
    if len(nested) > 1:
        raise ValueError("some values are methods and others are layers: give scores by method, or by layer and method")
    layers = {str(k): {str(m): s for m, s in one.items()} for k, one in given.items()} if nested == {True} else {}
    layers = layers or {"": {str(m): one for m, one in given.items()}}
    grids: dict[int, str] = {}
    for layer, methods in layers.items():
        if not methods:
            raise ValueError(f"the layer {layer!r} has no method: leave it out, or give scores by the method's name")
        for method, one in methods.items():
            what = f"{method} at {layer}" if layer else method
            _check(one, what)
            grids.setdefault(one.grid, what)
    if len(grids) > 1:
        (a, first), (b, second), *_ = grids.items()
        raise ValueError(f"{first} has {a} x {a} cells and {second} has {b} x {b}: draw grids of one size together")
    return layers


def _check(one: Scored, what: str) -> None:
    """Refuse scores that are none, and cells that are not there."""
    if one.grid < 1 or one.scores.ndim != 1 or not len(one.scores) or one.cells.shape != one.scores.shape:
        raise ValueError(
            f"{what}: scores of shape {tuple(one.scores.shape)} and cells of shape {tuple(one.cells.shape)} on a grid of side "
            f"{one.grid}; give (U,) of both, at least one, and a grid of at least 1"
        )
    if not bool(((one.cells >= 0) & (one.cells < one.grid**2)).all()):
        raise ValueError(f"{what}: a cell is a number from 0 to {one.grid**2 - 1}, row by row, and some are not")
    if not bool((one.scores.isnan() | ((one.scores >= -SLACK) & (one.scores <= 1 + SLACK))).all()):
        raise ValueError(f"{what}: a score is a share from 0 to 1, or NaN where it is undefined, and some are not")


def own(one: Scored, head: int, what: str) -> Tensor:
    """Which maps are of a head.

    Raises:
        ValueError: None.
    """
    chosen = (one.cells == head).nonzero()[:, 0]
    if not len(chosen):
        there = ", ".join(str(k) for k in one.cells.unique().tolist())
        raise ValueError(f"{what} has no map of the head {head!r}; there are maps of: {there}")
    return chosen


def rows(layers: Mapping[str, Mapping[str, S]]) -> list[str]:
    """The methods of all layers, in the order in which they come."""
    return list(dict.fromkeys(method for methods in layers.values() for method in methods))


def bounds(name: str, values: Mapping[str, Iterable[float]]) -> str:
    """What a chance or an attainable score is, said once: by layer where only layers differ, else as a range.

    Example:
        >>> bounds("chance", {"input": [0.25, 0.25], "final": [0.25]})
        'chance 0.25'
        >>> bounds("attainable", {"input": [1.0], "middle": [0.9646], "final": [0.9646, 0.9646]})
        'attainable 1 (input), 0.965 (middle, final)'
    """
    texts: dict[str, list[str]] = {}
    for layer, some in values.items():
        if text := several(some):
            texts.setdefault(text, []).append(layer)
    if len(texts) < 2:
        return "".join(f"{name} {text}" for text in texts)
    return f"{name} " + ", ".join(f"{text} ({', '.join(some)})" for text, some in texts.items())


def several(values: Iterable[float]) -> str:
    """A number, or a range of some; nothing where all are NaN.

    Example:
        >>> several([0.5, 0.25, float("nan")]), several([1.0, 1.0])
        ('0.25 to 0.5', '1')
    """
    texts = list(dict.fromkeys(f"{v:.3g}" for v in sorted(values) if not math.isnan(v)))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}" if texts else ""

"""Replicated designs, Sobol indices with intervals, and which rows are worth an evaluation: for pixels and for wavelets."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import masking
from ..designs import Sampler, points
from ..model import Model, map_type
from ..targets import Output, Target

Estimator = Literal["jansen", "homma", "saltelli", "janon", "glen"]
Index = Literal["total", "first"]

RESAMPLES = 200
FIRST = 8  # designs before anything is decided


# -- the design --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Design:
    """A replicated design, every distinct row of it once.

    Point j has the rows `a_j`, then `a_j` with coordinate i from `b_j`, for every i; where first-order indices are wanted,
    `b_j` too. Rows go point by point, so that a longer design begins with a shorter one.

    Attributes:
        a: `(n, d)` in [0, 1].
        b: `(n, d)`.
        rows: The numbers of those rows of a and its exchanges that are new when they come, `LongTensor (U,)`: row
            `j * (d + 1)` is `a_j`, the d behind it are its exchanges, and `n * (d + 1) + j` is `b_j`.
        place: `LongTensor (n, d + 1)`: the evaluation, among `rows`, that each row's score comes from.
        ends: For each number of points 0 ... n, how many of `rows` they need.
        b_rows: The numbers of those b that are no row that came before, `LongTensor (V,)`.
        b_place: `LongTensor (n,)`: likewise for b; from `U` on they count `b_rows`.
        b_ends: Likewise.
        key: What tells this design from others.
    """

    a: Tensor
    b: Tensor
    rows: Tensor
    place: Tensor
    ends: list[int]
    b_rows: Tensor
    b_place: Tensor
    b_ends: list[int]
    key: Hashable

    def parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows by number: the point, the coordinate that was exchanged (-1: none), and whether it is b itself."""
        n, d = self.a.shape
        second = numbers >= n * (d + 1)
        point = torch.where(second, numbers - n * (d + 1), numbers // (d + 1))
        return point, torch.where(second, -1, numbers % (d + 1) - 1), second

    def take(self, numbers: Tensor) -> Tensor:
        """Rows by number, `(len(numbers), d)`."""
        point, column, second = self.parts(numbers)
        exchanged = (torch.arange(self.a.shape[1]) == column[:, None]) | second[:, None]
        return torch.where(exchanged, self.b[point], self.a[point])

    def cost(self, index: Index) -> int:
        """Evaluations for one image."""
        return self.ends[-1] + (self.b_ends[-1] if index == "first" else 0)


@lru_cache(maxsize=8)
def design(dimensions: int, designs: int, sampler: Sampler, seed: int) -> Design:
    """The design of `designs` points in `dimensions` coordinates: a and b are the halves of points in twice as many.

    Example:
        >>> one = design(64, 32, "official", 0)
        >>> one.cost("total"), 32 * (64 + 2)
        (1692, 2112)
    """
    both = points(2 * dimensions, designs, sampler, seed)
    a, b = both[:, :dimensions].contiguous(), both[:, dimensions:].contiguous()
    n, d = a.shape
    names = _names(a.numpy(), b.numpy())
    _, first, inverse = np.unique(names[:, :-1].ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    place = number[inverse].reshape(n, d + 1)
    come = dict(zip(names[:, :-1].ravel()[first].tolist(), first.tolist(), strict=True))
    fresh: dict[Any, int] = {}
    b_place, b_ends = np.empty(n, np.int64), [0]
    for j, name in enumerate(names[:, -1].tolist()):
        before = come.get(name)
        if before is not None and before // (d + 1) <= j:
            b_place[j] = place.ravel()[before]
        else:
            b_place[j] = len(first) + fresh.setdefault(name, len(fresh))
        b_ends.append(len(fresh))
    b_rows = n * (d + 1) + np.flatnonzero(np.diff(b_ends))
    ends = [0, *(np.maximum.accumulate(place.max(1)) + 1).tolist()]
    # a Latin hypercube is no sequence, and the unscrambled one has no seed
    key = (dimensions, sampler, None if sampler == "official" else seed, designs if sampler == "lhs" else None)
    long = [torch.from_numpy(np.ascontiguousarray(v)).long() for v in (first[order], place, b_rows, b_place)]
    return Design(a, b, long[0], long[1], ends, long[2], long[3], b_ends, key)


def _names(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """128 bits for every row of a replicated design, `(n, d + 2)`, b's last: equal rows have equal names.

    A name is a sum over coordinates, so that exchanging one costs one addition and no row need be made. Coordinates are
    scrambled first, since the unscrambled sequence's end in many zero bits; then two rows that differ share their name with
    a probability of about 2^-120.
    """
    rng = np.random.default_rng(0)
    n, d = a.shape
    found = np.empty((n, d + 2), dtype=[("low", np.uint64), ("high", np.uint64)])
    for part in ("low", "high"):
        factor, salt = rng.integers(1, 2**63, size=(2, d), dtype=np.uint64)
        one, other = ((_mixed(p.view(np.uint32).astype(np.uint64) + salt)) * (2 * factor + np.uint64(1)) for p in (a, b))
        found[part][:, 0] = one.sum(1)
        found[part][:, 1:-1] = one.sum(1, keepdims=True) - one + other
        found[part][:, -1] = other.sum(1)
    return found


def _mixed(bits: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def check_designs(owner: str, designs: int, sampler: Sampler) -> None:
    """Refuse a number of points at which a Sobol sequence is not balanced."""
    if sampler in {"sobol", "official"} and designs & (designs - 1):
        below = 1 << designs.bit_length() - 1
        raise ValueError(
            f"{owner}: designs={designs} must be a power of two for sampler={sampler!r}: take {below} or {2 * below}, or "
            "sampler='halton', 'lhs' or 'mc'"
        )


# -- the indices -------------------------------------------------------------------------------------------------------


def total_order(a: Tensor, c: Tensor, estimator: Estimator) -> Tensor:
    r"""Total Sobol indices from the scores of a replicated design.

    Args:
        a: Scores at the first points, `(..., n)`.
        c: Scores where coordinate i was taken from the second points, `(..., n, d)`.
        estimator: By whom.

    Returns:
        `(..., d)` float64. A constant score has no variance to share: all zeros.

    Example:
        >>> a = torch.tensor([0.0, 1.0])
        >>> total_order(a, torch.stack([a.flip(0), a], -1), "jansen").tolist()  # the first decides alone
        [1.0, 0.0]
    """
    return _indices(a, c, estimator, "total").squeeze(-2).nan_to_num(0.0)


def first_order(b: Tensor, c: Tensor, estimator: Estimator) -> Tensor:
    r"""First-order Sobol indices: one minus the total index of all other coordinates together.

    `b` and `c` share coordinate i alone, where `a` and `c` share all others: the same formulas serve.

    Args:
        b: Scores at the second points, `(..., n)`.
        c: As for `total_order`.
        estimator: By whom.

    Returns:
        `(..., d)` float64; all zeros for a constant score.

    Example:
        >>> b = torch.tensor([1.0, 0.0])
        >>> first_order(b, torch.stack([b, b.flip(0)], -1), "glen").tolist()
        [1.0, -1.0]
    """
    return _indices(b, c, estimator, "first").squeeze(-2).nan_to_num(0.0)


def _indices(a: Tensor, c: Tensor, estimator: Estimator, index: Index, counts: Tensor | None = None) -> Tensor:
    """Indices under each of `counts`, `(R, n)`: how often each point is taken. `(..., R, d)`, NaN without variance."""
    a, c = a.cpu().double(), c.cpu().double()
    # what varies by no more than float32 rounds is constant
    least, most = torch.minimum(a.amin(-1), c.amin((-2, -1))), torch.maximum(a.amax(-1), c.amax((-2, -1)))
    varies = (most - least > 1e-6 * torch.maximum(most.abs(), least.abs()))[..., None, None]
    n = a.shape[-1]
    weights = (torch.ones(1, n) if counts is None else counts).double() / n
    centre = a.mean(-1)[..., None, None]
    x, y = a.unsqueeze(-1) - centre, c - centre
    mean_x, mean_y = weights @ x, weights @ y
    unbiased = n / max(n - 1, 1)
    variance = (weights @ x**2 - mean_x**2) * unbiased
    if estimator == "jansen":
        top = weights @ (x - y) ** 2 / 2
    elif estimator in {"homma", "saltelli"}:  # the same number, written in two ways
        top = variance - weights @ (x * y) + mean_x**2 + centre * (mean_x - mean_y)
    elif estimator == "janon":
        mean = centre + (mean_x + mean_y) / 2
        variance = weights @ ((x + centre) ** 2 + (y + centre) ** 2) / 2 * unbiased - mean**2
        top = variance - weights @ ((x + centre) * (y + centre)) + mean**2
    else:  # glen: one minus the correlation
        variance = ((weights @ x**2 - mean_x**2).clamp_min(0) * (weights @ y**2 - mean_y**2).clamp_min(0)).sqrt()
        top = variance - (weights @ (x * y) - mean_x * mean_y)
    variance = variance.expand(top.shape)
    # a resample of one point again and again leaves rounding, no variance
    full = (x**2).mean(-2, keepdim=True)
    found = torch.where(varies & (variance > 1e-12 * full), top / variance, torch.nan)
    return 1 - found if index == "first" else found


def interval(a: Tensor, c: Tensor, estimator: Estimator, index: Index, seed: int) -> Tensor:
    """95% percentile intervals over resampled points, lower and upper, `(2, d)` float64.

    Points are drawn with replacement, the same for every image. A quasi-random design errs less than independent points
    do, so there the intervals are too wide rather than too narrow.

    Args:
        a: Scores `(n,)` at the first points; at the second for first-order indices.
        c: `(n, d)`.
        estimator: As for `total_order`.
        index: Which.
        seed: Of the resampling.
    """
    n = len(a)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 1_000_003, n)))
    counts = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES))
    drawn = _indices(a, c, estimator, index, counts)
    valid = (~drawn.isnan()).sum(0)
    drawn = drawn.sort(0).values  # NaN come last
    place = torch.tensor([[0.025], [0.975]], dtype=torch.float64) * (valid - 1).clamp_min(0)
    low, high = drawn.gather(0, place.floor().long()), drawn.gather(0, place.ceil().long())
    return torch.lerp(low, high, place - place.floor()).nan_to_num(0.0)


# -- the evaluations ---------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Indices and what they rest on, on the CPU.

    Attributes:
        values: What was asked for, `(N, d)` float64.
        interval: `(N, 2, d)`, lower and upper.
        total: Total indices, `(N, d)`.
        first: First-order ones, if asked for.
        designs: Points that each image used, `LongTensor (N,)`.
        cells: Points that each cell's number comes from, `LongTensor (N, d)`.
    """

    values: Tensor
    interval: Tensor
    total: Tensor
    first: Tensor | None
    designs: Tensor
    cells: Tensor


@dataclass(eq=False)
class Versions:
    """Which rows of a design are evaluated, as a `masking.Coalitions` asks for them.

    Attributes:
        plan: The design.
        numbers: Of the rows: for every image alike, or a list with one tensor for each.
    """

    plan: Design
    numbers: "Tensor | list[Tensor]"

    @property
    def count(self) -> "int | list[int]":
        """How many there are of each image."""
        return len(self.numbers) if isinstance(self.numbers, Tensor) else [len(one) for one in self.numbers]

    def of(self, row: int, items: slice) -> Tensor:
        """The numbers of versions `items` of image `row`."""
        return (self.numbers if isinstance(self.numbers, Tensor) else self.numbers[row])[items]

    def __call__(self, row: int, items: slice) -> Tensor:
        """How much of every cell is kept, `(len(items), d)`."""
        return self.plan.take(self.of(row, items))


Make = Callable[[Tensor, Versions], masking.Source]


def measure(
    make: Make, model: Model, target: Target, plan: Design, *, output: Output, estimator: Estimator, seed: int,
    key: Hashable, index: Index = "total", tolerance: float | None = None, racing: int | None = None,
) -> Found:  # fmt: skip
    """Evaluate a design on every image and estimate.

    Args:
        make: `make(images, versions)` gives a source of these versions of the images with these numbers.
        model: The model.
        target: Frozen, one row per image.
        plan: The design.
        output: Which score.
        estimator: By whom.
        seed: Of the intervals.
        key: Names what `make` does, for sharing.
        index: Which index.
        tolerance: An image stops where no interval's half-width is above this part of its largest index.
        racing: Cells that are surely not among the so many most important ones are not evaluated further.
    """
    count, (n, d) = len(target), plan.a.shape
    kept = torch.ones(count, d, dtype=torch.bool)
    known = torch.full((count, len(plan.rows) + len(plan.b_rows)), torch.nan, dtype=torch.float64)
    values, total, first = (torch.zeros(count, d, dtype=torch.float64) for _ in range(3))
    between = torch.zeros(count, 2, d, dtype=torch.float64)
    used, cells = torch.zeros(count, dtype=torch.long), torch.zeros(count, d, dtype=torch.long)
    going = torch.arange(count)
    stages = _stages(n) if tolerance is not None or racing is not None else [n]
    for start, stop in pairwise([0, *stages]):
        scores = _Stage(make, model, target, plan, output, key, going, start, stop)
        if bool(kept[going].all()):
            scores.all_rows(known)
        else:
            scores.some_rows(known, kept)
        if index == "first":
            scores.second_points(known)
        left = []
        for i in going.tolist():
            column = kept[i].nonzero().flatten()
            a = known[i, plan.place[:stop, 0]]
            c = known[i, plan.place[:stop, 1:][:, column]]
            b = known[i, plan.b_place[:stop]] if index == "first" else a
            if not bool(torch.cat([a, b, c.flatten()]).isfinite().all()):  # the map will say so
                total[i] = first[i] = values[i] = torch.nan
                continue
            total[i, column] = total_order(a, c, estimator)
            if index == "first":
                first[i, column] = first_order(b, c, estimator)
            values[i, column] = (first if index == "first" else total)[i, column]
            low, high = interval(b, c, estimator, index, seed)
            between[i, 0, column], between[i, 1, column] = low, high
            used[i], cells[i, column] = stop, stop
            if racing is not None and len(column) > racing:
                kept[i, column] = high >= low.sort(descending=True).values[racing - 1]
            wide = float((high - low).max()) / 2
            if tolerance is None or wide > tolerance * float(values[i].max()):
                left.append(i)
        going = torch.tensor(left, dtype=torch.long)
        if not left:
            break
    return Found(values, between, total, first if index == "first" else None, used, cells)


def _stages(n: int) -> list[int]:
    """Where a design is looked at: 8, 16, 32, ... and all of it."""
    found = [FIRST]
    while found[-1] < n:
        found.append(2 * found[-1])
    return [*found[:-1], n]


@dataclass(eq=False)
class _Stage:
    """Points `start ... stop` of a design, for the images that go on."""

    make: Make
    model: Model
    target: Target
    plan: Design
    output: Output
    key: Hashable
    going: Tensor
    start: int
    stop: int

    def __post_init__(self) -> None:
        self.whole = len(self.going) == len(self.target)
        self.aim = self.target if self.whole else self.target.take(self.going)
        # a part of a callable lives as long as this stage: nothing may be remembered under its address
        self.named = self.whole or self.target.function is None

    def all_rows(self, known: Tensor) -> None:
        """Every new row, for all these images alike."""
        self._evaluate(known, self.plan.rows, self.plan.ends, 0)

    def second_points(self, known: Tensor) -> None:
        """The second points themselves."""
        self._evaluate(known, self.plan.b_rows, self.plan.b_ends, len(self.plan.rows))

    def some_rows(self, known: Tensor, kept: Tensor) -> None:
        """The new rows of the cells that are still in the race, which differ from image to image."""
        lists = []
        for i in self.going.tolist():
            column = torch.cat([torch.zeros(1, dtype=torch.long), kept[i].nonzero().flatten() + 1])
            wanted = self.plan.place[self.start : self.stop][:, column].unique()
            lists.append(wanted[known[i, wanted].isnan()])
        source = self.make(self.going, Versions(self.plan, [self.plan.rows[one] for one in lists]))
        found = masking.evaluate_each(source, self.model, self.aim, output=self.output)
        for i, one, scores in zip(self.going.tolist(), lists, found, strict=True):
            known[i, one] = scores.cpu().double()

    def _evaluate(self, known: Tensor, numbers: Tensor, ends: list[int], at: int) -> None:
        first, last = ends[self.start], ends[self.stop]
        if first == last:
            return
        scores = masking.evaluate(
            self.make(self.going, Versions(self.plan, numbers)),
            self.model,
            self.aim,
            output=self.output,
            start=first,
            stop=last,
            key=(self.key, self.plan.key, at > 0) if self.named else None,
        )
        known[self.going, at + first : at + last] = scores.cpu().double()


def share(values: Tensor, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers `(N, ..., d)` with their cells laid out, on the inputs' device."""
    return values.to(like.device, map_type(like)).reshape(*values.shape[:-1], *shape)

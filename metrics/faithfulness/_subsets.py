"""What a map adds up to over subsets of the image, beside what the score loses with them.

Subsets are drawn by (seed, draw) alone: the same for every image and every method, so that their forwards are paid once for
all methods and differences between methods are not differences of draws.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from attriscope.attribution import baselines, regions
from attriscope.attribution._parameters import Seed
from attriscope.attribution.masking import Clean, Coalitions, Evaluations, Masks, Source
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Output
from torch import Tensor

from ..metric import MapMetric, Scored
from .curve import stand_in

Correlation = Literal["pearson", "spearman"]
Layout = tuple[int, int]

STREAM = 2_000_001  # no method draws from it: a method must not have seen the subsets that judge it
BITS = 1 << 22  # of a block of subsets, at most: half a megabyte
NUMBERS = 1 << 22  # of a chunk of subsets beside the maps: 32 megabytes in float64


@dataclass(frozen=True)
class Draws:
    """Subsets of so many cells or pixels: `draws(slice(0, 10))` is the first ten, `(10, size)` bool on the CPU.

    Equal ones hold the same subsets, which makes them a key of `Evaluations`. Subset n is the same for any number of
    samples. Blocks of them are kept as bits: what several images and methods ask for is drawn once.

    Attributes:
        size: Cells or pixels to choose from.
        samples: How many subsets.
    """

    size: int
    samples: int

    @abstractmethod
    def draw(self, start: int, count: int) -> Tensor:
        """Subsets from `start` on, `(count, size)` bool."""

    def __call__(self, items: slice) -> Tensor:
        """Some of the subsets, `(len(items), size)` bool, True for what is removed."""
        length = max(1, min(64, BITS // self.size))
        numbers = range(items.start // length, -(-items.stop // length))
        blocks = np.concatenate([_bits(self, number, length) for number in numbers])
        wanted = blocks[items.start - numbers.start * length : items.stop - numbers.start * length]
        return torch.from_numpy(np.unpackbits(wanted, axis=1, count=self.size)).bool()


@lru_cache(maxsize=64)
def _bits(draws: Draws, number: int, length: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """One block of subsets, eight to a byte."""
    start = number * length
    return np.packbits(draws.draw(start, min(length, draws.samples - start)).numpy(), axis=1)


@dataclass(frozen=True)
class Fixed(Draws):
    """Subsets of `take` members each, all as likely; those of more members contain those of fewer.

    Example:
        >>> Fixed(size=9, samples=100, take=4)(slice(0, 100)).sum(1).unique().tolist()
        [4]
    """

    take: int
    seed: int = 0

    def draw(self, start: int, count: int) -> Tensor:
        """The `take` smallest of `size` uniforms."""
        first = uniforms(self.seed, count, self.size, start=start, stream=STREAM).argsort(dim=1, stable=True)
        chosen = torch.zeros(count, self.size, dtype=torch.bool)
        return chosen.scatter_(1, first[:, : self.take], value=True)


@dataclass(frozen=True)
class Bernoulli(Draws):
    """Subsets in which every cell is with probability `share`, whatever the others do: of random size."""

    share: float
    seed: int = 0

    def draw(self, start: int, count: int) -> Tensor:
        """The uniforms below `share`."""
        return uniforms(self.seed, count, self.size, start=start, stream=STREAM) < self.share


@dataclass(frozen=True)
class Singles(Draws):
    """Every cell by itself, in its order.

    Example:
        >>> Singles(size=3, samples=3)(slice(1, 3)).int().tolist()
        [[0, 1, 0], [0, 0, 1]]
    """

    def draw(self, start: int, count: int) -> Tensor:
        """One True in a row."""
        return torch.arange(self.size) == torch.arange(start, start + count)[:, None]


# -- what the score loses ----------------------------------------------------------------------------------------------


def removed(images: Tensor, baseline: Tensor, layout: Layout | None, draws: Draws) -> Source:
    """The images with each subset replaced by the baseline.

    Args:
        images: `(N, C, H, W)`.
        baseline: Broadcastable to them.
        layout: Rows and columns of the grid whose cells are chosen from; `None`: single pixels.
        draws: The subsets.
    """
    if layout is None:
        shape = (-1, 1, *images.shape[2:])
        return Masks(images, baseline, lambda items: (~draws(items)).reshape(shape), draws.samples)
    labels = regions.cells(layout, images)[None]
    return Coalitions(images, baseline, labels, lambda _, items: ~draws(items), draws.samples)


def losses(
    todo: Evaluations, images: Tensor, source: Source, *, output: Output, key: Any
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Ask for f(x) - f(perturbed x); the image itself is shared with whoever else wants it.

    Returns:
        What gives the losses, `(N, count)` float64 on the CPU, and for each image what rounding may amount to, `(N,)`.
    """
    whole = todo.ask(Clean(images), output=output, key="clean")
    cut = todo.ask(source, output=output, key=key)

    def found() -> tuple[Tensor, Tensor]:
        step = torch.finfo(whole().dtype).eps
        scores = torch.cat([whole(), cut()], 1).cpu().double()
        return scores[:, :1] - scores[:, 1:], 4 * step * scores.abs().amax(1)

    return found


# -- what the map adds up to -------------------------------------------------------------------------------------------


def wide(values: Tensor) -> Tensor:
    """Float64, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()


def chunks(samples: int, size: int) -> list[slice]:
    """Draws in runs whose numbers stay within a chunk."""
    step = max(1, NUMBERS // size)
    return [slice(at, min(at + step, samples)) for at in range(0, samples, step)]


def sums(maps: Tensor, layout: Layout | None, draws: Draws) -> tuple[Tensor, Tensor]:
    """What each map adds up to over each subset.

    Args:
        maps: `(N, H, W)`.
        layout: As of `removed`.
        draws: The subsets.

    Returns:
        `(N, samples)` float64 on the CPU, and what rounding may amount to, `(N,)`.

    Example:
        >>> sums(torch.arange(8.0).reshape(1, 2, 4), (1, 2), Singles(size=2, samples=2))[0].tolist()
        [[10.0, 18.0]]
    """
    flat = wide(maps.flatten(1))
    rounding = 64 * torch.finfo(flat.dtype).eps * flat.abs().sum(1)
    if layout is not None:
        labels = regions.cells(layout, maps[:, None]).flatten()
        flat = flat.new_zeros(len(flat), draws.size).index_add_(1, labels, flat)
    found = [flat @ draws(items).to(flat.device, flat.dtype).T for items in chunks(draws.samples, draws.size)]
    return torch.cat(found, 1).cpu().double(), rounding.cpu().double()


# -- how the two go together -------------------------------------------------------------------------------------------


def ranks(values: Tensor, rounding: Tensor) -> Tensor:
    """Ranks within each row from 0, equals sharing the mean of theirs, `(N, S)` float64.

    Args:
        values: `(N, S)`.
        rounding: `(N,)`: values that follow each other closer than this are equal. Otherwise ranks of what cells without
            any effect lose would be those of rounding errors, and change with the batch.

    Example:
        >>> ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]]), torch.zeros(1)).tolist()
        [[2.5, 0.0, 2.5, 1.0]]
    """
    ordered, order = values.sort(dim=1, stable=True)
    group = torch.zeros_like(order)
    group[:, 1:] = (ordered.diff(dim=1) > rounding[:, None]).cumsum(1)
    place = torch.arange(values.shape[1], dtype=torch.float64).expand(values.shape)
    total = torch.zeros(values.shape, dtype=torch.float64).scatter_add_(1, group, place)
    members = torch.zeros(values.shape, dtype=torch.float64).scatter_add_(1, group, torch.ones_like(place))
    return torch.empty_like(place).scatter_(1, order, (total / members.clamp_min(1)).gather(1, group))


def correlate(
    one: Tensor,
    other: Tensor,
    kind: Correlation = "pearson",
    *,
    rounding: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The correlation of each row with the other's, `(N,)` float64, NaN where one of the two does not vary.

    Args:
        one: `(N, S)` float64.
        other: `(N, S)` float64.
        kind: `"pearson"`, or `"spearman"`: that of the ranks, equals sharing the mean of theirs.
        rounding: What rounding may amount to in each row of both, `(N,)` each: what varies by no more does not vary.

    Example:
        >>> one, other = torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([[1.0, 4.0, 9.0]]).double()
        >>> round(correlate(one, other).item(), 4), correlate(one, other, "spearman").item()
        (0.9897, 1.0)
    """
    still = rounding or (one.new_zeros(len(one)), other.new_zeros(len(other)))
    varies = one.new_ones(len(one)).bool()
    sides = []
    for values, least in zip((one, other), still, strict=True):
        varies &= values.amax(1) - values.amin(1) > 2 * least
        side = ranks(values, least) if kind == "spearman" else values
        side = side - side.mean(1, keepdim=True)
        sides.append(side / side.abs().amax(1, keepdim=True))  # whose squares neither vanish nor overflow
    a, b = sides
    found = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(varies, found.clamp(-1, 1), torch.nan)


# -- the metrics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is correlated with what.

    Attributes:
        layout: Rows and columns of the grid; `None`: single pixels.
        draws: The subsets; of several kinds, the score is the mean of their correlations.
        correlation: Which.
        fractions: For several kinds of subsets, which share of the image each removes.
    """

    layout: Layout | None
    draws: Sequence[Draws]
    correlation: Correlation
    fractions: Sequence[float] = ()


class SubsetCorrelation(MapMetric):
    """A correlation, over subsets of the image, of what the map adds up to with what the score loses.

    Args:
        baseline: What stands for what is removed. Papers' zero, after normalisation, is the mean colour.
        output: Which score.
        seed: Of the subsets, where they are drawn, and of a noise baseline.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    chance: ClassVar[float | None] = 0.0
    undefined: ClassVar[str] = "the map adds up to the same, or the score loses the same, whatever is removed"

    baseline: baselines.Baseline = "mean"
    output: Output = "logit"
    seed: Seed = 0

    @abstractmethod
    def plan(self, shape: tuple[int, ...]) -> Plan:
        """What is done with images of this shape, without the batch axis."""

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The image itself, and every subset; paid once for any number of methods."""
        return 1 + sum(draws.samples for draws in self.plan(shape).draws)

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the losses, shared by all methods, and add up the maps."""
        plan = self.plan(tuple(images.shape[1:]))
        name, baseline = stand_in(todo, images, self.baseline, self.seed, plan.layout)
        lost = [
            losses(
                todo,
                images,
                removed(images, baseline.tensor, plan.layout, d),
                output=self.output,
                key=("removed", d, plan.layout, name),
            )
            for d in plan.draws
        ]
        added = [sums(maps, plan.layout, draws) for draws in plan.draws]
        by_size = isinstance(plan.draws[0], Bernoulli)
        flat = maps.flatten(1)
        # of a constant map nothing but the cells' sizes is left, which differ where the grid does not divide the image
        defined = ((flat.amax(1) > flat.amin(1)) | by_size).cpu()
        level = sums(torch.ones_like(maps[:1]), plan.layout, plan.draws[0]) if by_size else None

        def one(added: tuple[Tensor, Tensor], lost: tuple[Tensor, Tensor]) -> Tensor:
            return correlate(added[0], lost[0], plan.correlation, rounding=(added[1], lost[1]))

        def finish() -> Scored:
            found = [get() for get in lost]
            each = torch.stack([one(a, b) for a, b in zip(added, found, strict=True)], 1)
            each = torch.where(defined[:, None], each, torch.nan)
            details = {}
            if level is not None:
                of_all = (level[0].expand(len(images), -1), level[1].expand(len(images)))
                details["constant"] = one(of_all, found[0])
            if len(plan.draws) == 1:
                return Scored(each[:, 0], details=details)
            return Scored(each.mean(1), torch.tensor(plan.fractions, dtype=torch.float64), each, details=details)

        return finish

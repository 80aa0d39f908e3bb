"""Curves: the score while pixels come or go in the order of a map.

An image where the first pixels of an order are inserted is one where the last ones of the reversed order were removed, so
insertion and deletion are one thing: `Exchange` asks for the images of an order in which some pixels are kept, by the order
itself, the baseline and the numbers kept. Whatever method or metric asks for the same is told the same, for nothing.
"""

from collections.abc import Callable, Hashable
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from attriscope.attribution import baselines, regions
from attriscope.attribution._parameters import Range, Seed, canonical
from attriscope.attribution.masking import Clean, Evaluations, Ranks
from attriscope.attribution.model import Model
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Output
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..metric import MapMetric, Scored
from ._alike import Alike

Preset = Literal["rise", "rise-large", "xplique", "smdl-50"]
Ties = Literal["random", "index"]

# steps, score, baseline of insertion, baseline of deletion
PRESETS: dict[Preset, tuple[int, Output, str, str]] = {
    "rise": (224, "probability", "rise-blur", "mean"),
    "rise-large": (28, "probability", "rise-blur", "mean"),
    "xplique": (10, "logit", "mean", "mean"),
    "smdl-50": (50, "probability", "black", "black"),
}
SMALL = 1e-3  # by what a score must change when all is removed: less, and its rounding would be seen when it divides


def rise_blur(images: Tensor, model: Model) -> Tensor:
    """The blurred image that the official RISE metric starts insertion from.

    Its kernel is a Gaussian of 5 pixels, filtered from a point in an 11 x 11 square whose border reflects, which folds
    the tails back; outside the image it sees the mean colour.
    """
    point = np.zeros((11, 11))
    point[5, 5] = 1.0
    kernel = torch.from_numpy(ndimage.gaussian_filter(point, 5)).to(images)
    mean = model.pixels(model.mean).to(images)
    weight = kernel.expand(images.shape[1], 1, 11, 11)
    return functional.conv2d(images - mean, weight, padding=5, groups=images.shape[1]) + mean


def ranks(maps: Tensor, *, ties: Ties = "random", seed: int = 0) -> Tensor:
    """Each pixel's place in the order of decreasing value, `(N, H, W)` int32, 0 first.

    Args:
        maps: `(N, H, W)`, finite.
        ties: Who comes first of equals: `"random"`, drawn once by `seed` for all images, or `"index"`, from the top left,
            which is a bias wherever a map is flat.
        seed: Of the draw.

    Example:
        >>> ranks(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])).tolist()
        [[[2, 0], [1, 3]]]
    """
    return _sorted(maps, ties, seed)[0]


@lru_cache(maxsize=4)
def _shuffle(seed: int, pixels: int) -> Tensor:
    """The order in which pixels of equal value come."""
    return uniforms(seed, 1, pixels, stream=1_000_002)[0].argsort(stable=True)


def _sorted(maps: Tensor, ties: Ties, seed: int) -> tuple[Tensor, Tensor]:
    """`ranks`, and the values in that order, `(N, H * W)`: sorting is most of what a curve costs beside its forwards."""
    flat = maps.flatten(1)
    n, pixels = flat.shape
    if ties == "random":
        shuffle = _shuffle(seed, pixels).to(flat.device)
        values, order = flat[:, shuffle].sort(dim=1, descending=True, stable=True)
        order = shuffle[order]
    else:
        values, order = flat.sort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order, dtype=torch.int32)
    numbers = torch.arange(pixels, dtype=torch.int32, device=flat.device).expand(n, -1)
    return place.scatter_(1, order, numbers).reshape(maps.shape), values


def cut_points(pixels: int, steps: int) -> Tensor:
    """How many pixels have been exchanged at each of `steps` + 1 points, from none to all, `LongTensor`.

    The steps are even to a pixel, and the same from either end, so that what is left at one point is what was exchanged at
    another; but for the middle of an even number of steps through an odd number of pixels.

    Example:
        >>> cut_points(10, 4).tolist()
        [0, 2, 5, 8, 10]
    """
    steps = min(steps, pixels)
    at = torch.arange(steps + 1)
    down = (2 * at * pixels + steps - 1) // (2 * steps)  # rounded, halves down
    return torch.where(2 * at < steps, down, pixels - down.flip(0))


def tied_share(values: Tensor) -> Tensor:
    """The share of pixels that have the value of another, `(N,)`, of sorted values `(N, P)`.

    Example:
        >>> tied_share(torch.tensor([[4.0, 3.0, 3.0, 1.0]])).tolist()
        [0.5]
    """
    same = values[:, 1:] == values[:, :-1]
    both = torch.zeros_like(values, dtype=torch.bool)
    both[:, 1:] |= same
    both[:, :-1] |= same
    return both.float().mean(1)


def area(values: Tensor) -> Tensor:
    """The area under curves `(N, K)` over the unit interval, `(N,)`: every step counts the same.

    Example:
        >>> area(torch.tensor([[0.0, 1.0, 1.0]])).tolist()
        [0.75]
    """
    return torch.trapezoid(values, dx=1 / (values.shape[1] - 1), dim=1)


def normalized(rising: Tensor) -> Tensor:
    """Curves `(N, K)` from the baseline to the image, moved and stretched so that they begin at 0 and end at 1.

    NaN where the ends differ by less than `SMALL`.

    Example:
        >>> normalized(torch.tensor([[2.0, 5.0, 4.0], [1.0, 3.0, 1.0]])).tolist()
        [[0.0, 1.5, 1.0], [nan, nan, nan]]
    """
    start, whole = rising[:, :1], rising[:, -1:] - rising[:, :1]
    return (rising - start) / torch.where(whole.abs() < SMALL, torch.nan, whole)


def identity(baseline: Any) -> Hashable:
    """What tells one baseline from another: its name or values, and of callables, which may draw, the object."""
    if callable(baseline) and isinstance(baseline, Hashable):
        return baseline
    return str(canonical(baseline))


def stand_in(
    todo: Evaluations, images: Tensor, spec: Any, seed: int, layout: tuple[int, int] | None = None
) -> tuple[Hashable, Alike]:
    """What stands for removed pixels, made once for all methods and metrics of these images, and a key that names it.

    Args:
        todo: Shared.
        images: `(N, C, H, W)`.
        spec: The baseline.
        seed: Of noise; others do not depend on it.
        layout: Rows and columns of the cells that are removed, for a baseline that goes by regions.
    """
    key = ("baseline", identity(spec), seed if isinstance(spec, str) and spec == "noise" else 0, layout)

    def make() -> Alike:
        if isinstance(spec, str) and spec == "rise-blur":
            return Alike(rise_blur(images, todo.model))
        labels = None if layout is None else regions.cells(layout, images).expand(len(images), -1, -1)
        return Alike(baselines.make(spec, images, todo.model, seed=seed, labels=labels))

    return key, todo.once(key, make)


class Order:
    """In which order the pixels of some maps come.

    Attributes:
        maps: `(N, H, W)`.
        most: Each pixel's place if the most important comes first.
        defined: Whether a map puts any pixel before another, `(N,)`.
        tied: `tied_share`.
    """

    def __init__(self, maps: Tensor, ties: Ties, seed: int) -> None:
        self.maps = maps  # held, so that its address is nobody else's
        place, values = _sorted(maps, ties, seed)
        self.most = Alike(place)
        self.defined = (values[:, 0] > values[:, -1]).cpu()
        self.tied = tied_share(values).cpu()

    @cached_property
    def least(self) -> Alike:
        """Each pixel's place if the least important comes first: exactly the other way round, ties as well."""
        return Alike(self.maps[0].numel() - 1 - self.most.tensor)


def ordered(todo: Evaluations, maps: Tensor, ties: Ties, seed: int) -> Order:
    """The order of some maps' pixels, once for all metrics that ask for it."""
    return todo.once(("order", id(maps), ties, seed), lambda: Order(maps, ties, seed))


class Exchange(MapMetric):
    """What all metrics share that exchange an image's pixels for a baseline's in the order of a map.

    Args:
        preset: Whose protocol: "rise" (224 steps), "rise-large" (28 steps, RISE's own for many images), "xplique" (10
            steps, raw scores, mean colour), "smdl-50" (50 steps, black). Numbers of different protocols do not compare.
            RISE takes as many pixels a step as a row of 224 has, or 8 rows; images of other sizes keep the number of
            steps, not the pixels, so that their curves have as many points. For a row a step give `steps` = the height.
        steps: Points on the curve besides the first; `None`: the preset's. At most one per pixel.
        output: Which score; `None`: the preset's.
        ties: Who comes first of pixels with equal values: "random" (drawn by `seed`) or "index" (from the top left).
        seed: For ties and for a noise baseline.
        normalize: Whether every curve is moved and stretched so that it is 0 for the baseline f(x') and 1 for the image
            f(x), which makes logits of different images comparable. Where the two differ by less than 0.001 it is NaN.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    ranks: ClassVar[bool] = True
    undefined: ClassVar[str] = (
        "constant maps rank no pixel before another, and normalize=True needs a score that changes when all is removed"
    )
    inserts: ClassVar[bool | None] = None  # whether the curve shows pixels that come, or go; `None`: neither
    is_area: ClassVar[bool] = False  # whether the score is the area under the curve that it hands back
    shows: ClassVar[str] = "{output} of the target"  # the curve's values, for figures

    preset: Preset = "rise-large"
    steps: Annotated[int, Range(1)] | None = None
    output: Output | None = None
    ties: Ties = "random"
    seed: Seed = 0
    normalize: bool = False

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        steps, output, _, _ = PRESETS[self.preset]
        return {
            "steps": self.steps or steps,
            "output": self.output or output,
            "ties": self.ties,
            "seed": self.seed,
            "normalize": self.normalize,
        }

    def points(self, pixels: int) -> Tensor:
        """`cut_points` of the protocol."""
        return cut_points(pixels, self.protocol["steps"])

    def ordered(self, todo: Evaluations, maps: Tensor) -> Order:
        """The order of the maps' pixels, once for all metrics that ask for it."""
        return ordered(todo, maps, self.ties, self.seed)

    def rising(self, todo: Evaluations, images: Tensor, maps: Tensor, spec: Any, *, most: bool) -> Callable[[], Tensor]:
        """Ask for the scores of images that begin as the baseline and end as they are, `(N, K)` float64 on the CPU.

        Args:
            todo: Shared; what is asked for by several is paid once.
            images: `(N, C, H, W)`.
            maps: `(N, H, W)`.
            spec: The baseline.
            most: Whether the most important pixels are put in first, or taken out first: read backwards, that is the
                curve of deletion.
        """
        key, baseline = stand_in(todo, images, spec, self.seed)
        order, output = self.ordered(todo, maps), self.protocol["output"]
        place, cuts = order.most, self.points(maps[0].numel())
        if not most:
            place, cuts = order.least, maps[0].numel() - cuts.flip(0)
        start = todo.ask(Clean(images, baseline.tensor), output=output, key=key)
        between = todo.ask(
            Ranks(images, baseline.tensor, place.tensor, cuts[1:-1], True),
            output=output,
            key=("curve", place, baseline, tuple(cuts.tolist())),
        )
        end = todo.ask(Clean(images), output=output, key="clean")
        return lambda: torch.cat([start(), between(), end()], 1).cpu().double()


class Curve(Exchange):
    """What insertion, deletion and other metrics of one curve share.

    Args:
        baseline: What stands for a missing pixel; `None`: the preset's.
    """

    is_area: ClassVar[bool] = True

    baseline: baselines.Baseline | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        _, _, insertion, deletion = PRESETS[self.preset]
        given = self.baseline
        return {
            **super().protocol,
            "baseline": given if given is not None else (insertion if self.inserts else deletion),
        }

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Both ends and the points between them."""
        return len(self.points(shape[-2] * shape[-1]))

    @property
    def keeps_most(self) -> bool:
        """Whether the most important pixels come first or go last."""
        return bool(self.inserts)

    def read(self, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scores of curves `(N, K)` in the order in which they are drawn, and more numbers by name."""
        return area(values), {}

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the ends, shared by all methods, and the points between."""
        rising = self.rising(todo, images, maps, self.protocol["baseline"], most=self.keeps_most)
        order, shares = self.ordered(todo, maps), self.points(maps[0].numel()).double() / maps[0].numel()

        def finish() -> Scored:
            raw = rising()
            values = normalized(raw) if self.normalize else raw
            fractions = shares if self.inserts == self.keeps_most else 1 - shares.flip(0)
            values = values if self.inserts else values.flip(1)
            scores, details = self.read(values)
            details = {"clean": raw[:, -1], "removed": raw[:, 0], **details}
            return Scored(torch.where(order.defined, scores, torch.nan), fractions, values, order.tied, details)

        return finish


class Difference(Exchange):
    """What metrics share that take the area under deletion from the area under insertion."""

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    is_area: ClassVar[bool] = True
    shows: ClassVar[str] = "insertion \N{MINUS SIGN} deletion: {output}"

    @property
    def pair(self) -> tuple[Any, Any]:
        """The baselines of insertion and of deletion."""
        raise NotImplementedError(f"{type(self).__name__} must define pair")

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The image, the baselines and the points between them on both curves."""
        into, to = self.pair
        return 1 + len({identity(into), identity(to)}) + 2 * (len(self.points(shape[-2] * shape[-1])) - 2)

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for both curves, which are those of insertion and of deletion."""
        into, to = self.pair
        coming = self.rising(todo, images, maps, into, most=True)
        going = self.rising(todo, images, maps, to, most=False)
        order, fractions = self.ordered(todo, maps), self.points(maps[0].numel()).double() / maps[0].numel()

        def finish() -> Scored:
            raw = coming(), going()
            inserted, deleted = (normalized(r) if self.normalize else r for r in raw)
            values = inserted - deleted.flip(1)
            found = {"insertion": area(inserted), "deletion": area(deleted)}
            found = {k: torch.where(order.defined, v, torch.nan) for k, v in found.items()}
            details = {**found, "clean": raw[0][:, -1], "start": raw[0][:, 0], "removed": raw[1][:, 0]}
            return Scored(found["insertion"] - found["deletion"], fractions, values, order.tied, details)

        return finish

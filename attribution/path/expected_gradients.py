"""Expected gradients: integrated gradients averaged over references, each gradient from a reference of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count, Seed
from ..attributor import Attributor, Channels, Computed, register
from ..intervals import student
from ..model import Model, map_type
from ..randomness import uniforms
from ..targets import Output, Target
from ._line import add, walk

NOISE = 10  # images that stand in where no references are given
ALPHA, ORDER, IMAGES = 11, 12, 1_000_000  # streams of draws; the last one within those of the baseline "noise"

References = baselines.Baselines | None


def number_of(given: Any, inputs: int) -> int:
    """How many references there are; inputs have so many axes, with that of the batch."""
    if given is None:
        return NOISE
    if isinstance(given, Tensor):
        return len(given) if given.ndim == inputs else 1
    return len(baselines.each(given))


def references_of(given: Any, which: Sequence[int], inputs: Tensor, model: Model, *, seed: int) -> list[Tensor]:
    """Some of the references, each broadcastable to the inputs.

    Args:
        given: A tensor with one reference for each of its entries, one or several baselines, or `None` for noise.
        which: The numbers of those that are wanted.
        inputs: `(N, C, H, W)`.
        model: Knows bounds and mean.
        seed: For the noise.
    """
    if given is None:
        return [baselines.make("noise", inputs, model, seed=seed, draw=IMAGES + one) for one in which]
    if isinstance(given, Tensor) and given.ndim == inputs.ndim:
        return [baselines.make(given[one : one + 1], inputs, model) for one in which]
    made = baselines.make_each(given, inputs, model)
    return [made[one] for one in which]


def stratified(samples: int, references: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1) and the reference that each goes with, `(samples,)` each.

    One place falls into each of `samples` equal parts. As many neighbours as there are references have one each, in an
    order drawn anew: every reference sees all of the line, and is used as often as any other, or once more.

    Example:
        >>> at, which = stratified(6, 3, 0)
        >>> (at * 6).long().tolist(), which[:3].sort().values.tolist()
        ([0, 1, 2, 3, 4, 5], [0, 1, 2])
    """
    at = (torch.arange(samples) + uniforms(seed, samples, 1, stream=ALPHA)[:, 0].double()) / samples
    orders = uniforms(seed, -(-samples // references), references, stream=ORDER).argsort(1)
    return at, orders.flatten()[:samples]


def independent(samples: int, references: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1) and references, each drawn by itself; more samples go on where fewer ended."""
    at = uniforms(seed, samples, 1, stream=ALPHA)[:, 0].double()
    return at, (uniforms(seed, samples, 1, stream=ORDER)[:, 0].double() * references).long()


class Draws:
    """For every draw a place on the line from a reference of its own, and the way from there.

    Args:
        images: `(N, C, H, W)`.
        references: Each broadcastable to the images.
        at: Places, `(S,)`.
        which: The reference of each, `(S,)`.
        noise: `noise(draw, rows)` is added to the images, which are the lines' ends, `(r, C, H, W)`.
    """

    def __init__(
        self,
        images: Tensor,
        references: Sequence[Tensor],
        at: Tensor,
        which: Tensor,
        noise: Callable[[int, slice], Tensor] | None = None,
    ) -> None:
        self.images, self.references, self.noise = images, references, noise
        self.back = (at - 1).to(images).reshape(-1, *[1] * images.ndim)
        self.which = which.tolist()

    @property
    def count(self) -> int:
        """How many draws there are."""
        return len(self.which)

    def enter(self, block: slice) -> None:
        """Nothing is kept."""

    def write(self, points: Tensor, ways: Tensor | None, rows: slice, items: slice) -> None:
        """Ends first, then the ways, then back along them."""
        assert ways is not None
        points.copy_(self.images[rows])
        for k, item in enumerate(range(items.start, items.stop)):
            reference = self.references[self.which[item]]
            ways[k] = reference[rows] if len(reference) > 1 else reference
            if self.noise is not None:
                points[k] += self.noise(item, rows)
        torch.sub(points, ways, out=ways)
        points.addcmul_(ways, self.back[items])


@dataclass(eq=False)
class _Stills:
    """The references themselves, to be scored."""

    images: Tensor
    references: Sequence[Tensor]

    @property
    def count(self) -> int:
        return len(self.references)

    def write(self, out: Tensor, row: int, items: slice) -> None:
        for one, reference in zip(out, self.references[items], strict=True):
            one.copy_(reference[row if len(reference) > 1 else 0])


def expected_gradients(model: Model, path: Draws, target: Target, *, output: Output) -> tuple[Tensor, Tensor]:
    r"""Average the gradient times the way over draws.

    .. math:: \frac{1}{S} \sum_s (x - x'_s) \odot \nabla f\bigl(x'_s + \alpha_s (x - x'_s)\bigr)

    Args:
        model: The model.
        path: The draws.
        target: Frozen, one row per image.
        output: Which score.

    Returns:
        Maps `(N, C, H, W)`, and what each draw's map sums to, `(N, S)`.
    """
    images = path.images
    maps = torch.zeros(images.shape, dtype=map_type(images), device=images.device)
    sums = torch.zeros(len(images), path.count, dtype=maps.dtype, device=images.device)
    for rows, items, _, gradients, ways in walk(model, path, target, output=output, ways=True):
        assert ways is not None
        ways.mul_(gradients)
        add(maps[rows], ways, [1 / path.count] * len(ways))
        sums[rows, items] = ways.flatten(2).sum(2, dtype=sums.dtype).T
    return maps, sums


class _Referred(Attributor):
    """What the methods on references share."""

    references: References = None
    samples: Count = 100
    seed: Seed = 0
    channels: Channels = "sum"

    def validate(self) -> None:
        """References are checked as far as they can be without images."""
        if self.references is not None:
            baselines.each(self.references)

    def _estimate(self, inputs: Tensor, target: Target, *, spread_evenly: bool, noise: Any = None) -> Computed:
        """Maps, and what is known of their error."""
        number = number_of(self.references, inputs.ndim)
        if not number:
            raise ValueError(f"{self.name}: references has no entries: pass at least one")
        at, which = (stratified if spread_evenly else independent)(self.samples, number, self.seed)
        used, own = which.unique(return_inverse=True)
        references = references_of(self.references, used.tolist(), inputs, self.model, seed=self.seed)
        ends = masking.Evaluations(self.model, target, output=self.output)
        stills, clean = ends.ask(_Stills(inputs, references)), ends.ask(masking.Clean(inputs))
        path = Draws(inputs, references, at, own, noise)
        maps, sums = expected_gradients(self.model, path, target, output=self.output)
        gain = (clean() - stills()[:, own].mean(1, keepdim=True)).squeeze(1).to(maps)
        # one draw alone tells nothing of its error
        error = sums.std(1) / self.samples**0.5 if self.samples > 1 else torch.full_like(gain, torch.inf)
        half_width = error * student(max(self.samples, 2))
        delta = maps.flatten(1).sum(1) - gain
        return Computed(maps, {"convergence_delta": delta, "half_width": half_width, "gain": gain})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        references = number_of(options.references, 1 + len(shape))
        return options.samples + min(options.samples, references) + 1, options.samples


@register(
    "expected_gradients",
    family="path",
    aliases=("eg",),
    needs=("gradient", "references"),
    stochastic=True,
    at_most=True,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"samples": 64},
    paper="Erion, Janizek, Sturmfels, Lundberg and Lee 2021, arXiv:1906.10670",
)
class ExpectedGradients(_Referred):
    r"""Integrated gradients averaged over references: what a pixel adds, against all that might stand there.

    Every draw takes one gradient, somewhere on the line from one of the references. The map sums to the score minus the
    references' mean score, up to an error that `details["convergence_delta"]` tells. It is as good as the references:
    pass a hundred or more inputs like the one that is explained, from the data that the network was trained on. What
    stands in where there are none, ten images of noise, is nothing that the network ever saw.

    Args:
        output: Which score is integrated.
        references: What the inputs are compared with: a tensor with one reference for each entry, `(M, C, H, W)`; a name, a
            number or a callable as for a baseline, or several of them in a tuple, as `("black", "white")`. `None`: noise,
            uniform within the model's bounds, or without bounds normal around its mean.
        samples: Gradients. Where there are more references, so many are used.
        stratified: Places are spread evenly over the line and over the references, so that the error of the sum over
            places shrinks with the number of samples instead of its root; without, all is drawn independently, as in the
            paper.
        seed: Places, orders and noise depend on the seed and the draw alone (evenly spread, also on `samples`).
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details, each `(N,)`: `"gain"`, the score minus the mean
        score of the references that were used, as often as they were; `"convergence_delta"`, the map's sum minus this;
        `"half_width"` of the sum's 95% interval, taking draws as independent: what other draws of references and places
        would change, too wide where places are spread evenly.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> eg = attribution.create("eg", network, references=torch.rand(20, 3, 2, 2), samples=40)
        >>> found = eg.explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-6)
        True
    """

    stratified: bool = True

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        return self._estimate(inputs, target, spread_evenly=self.stratified)

"""What methods that average over noise share: noisy copies in full batches, and the moments of what is said of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from .._parameters import Count, Range, Seed
from ..attributor import REGISTRY, Attributor, Channels, create, reduce_channels
from ..baselines import gaussian_blur
from ..intervals import student
from ..model import map_type
from ..randomness import gaussians
from ..targets import Target

STREAM = 4  # of the draws: other numbers than the masks or baselines of a method that is wrapped
PLAIN = (str, int, float, type(None))  # hyper-parameters that say the same of every image


class Stretch(NamedTuple):
    """What a method said of consecutive images under one draw of the noise."""

    number: int  # of the draw, from 1: how many of these images' maps there are by now
    rows: slice
    maps: Tensor
    delta: Tensor | None  # by how much each map misses completeness, where the method tells


def deviations(inputs: Tensor, noise: float, *, absolute: bool) -> Tensor:
    """The noise's standard deviation for each image, shaped to stand beside them: a part of the image's own range.

    Example:
        >>> deviations(torch.tensor([[0.0, 2.0], [1.0, 1.5]]), 0.1, absolute=False).flatten().tolist()
        [0.20000000298023224, 0.05000000074505806]
    """
    flat = inputs.flatten(1)
    sizes = torch.ones_like(flat[:, 0]) if absolute else flat.amax(1) - flat.amin(1)
    return (noise * sizes).reshape(-1, *[1] * (inputs.ndim - 1))


def noisy(
    base: Attributor, inputs: Tensor, target: Target, *, samples: int, sigma: Tensor, seed: int
) -> Iterator[Stretch]:
    r"""Explain :math:`x + \sigma \xi_k` for k in 1..samples, where :math:`\xi_k` is the same for every image.

    All images under the first draw come first, so that a draw is made once for all of them; (image, draw) pairs go through
    the method in full batches, and no more than a batch of copies is held. A method that was given something for each image
    (a baseline, regions) gets all images at once, draw by draw. Copies may leave the model's bounds, and are not cut off.

    Args:
        base: The method, on the model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        target: Frozen, one row per image.
        samples: How many draws.
        sigma: Standard deviations, broadcastable to the inputs, one row per image.
        seed: Draw k depends on the seed and k alone.
    """
    model, n = base.model, len(inputs)
    apart = all(isinstance(value, PLAIN) for value in base.params.values())
    done = 0
    while done < n * samples:
        size = model.batch("gradient" if "gradient" in base.facts.needs else "forward") if apart else n
        stop = min(done + size, n * samples)
        first = done // n
        drawn = gaussians(seed, -(-stop // n) - first, inputs[0].numel(), like=inputs, start=first, stream=STREAM)
        pairs = torch.arange(done, stop, device=inputs.device)
        rows = pairs % n
        noise = drawn[pairs // n - first].reshape(-1, *inputs.shape[1:])
        points = torch.addcmul(inputs[rows], sigma[rows], noise)
        # nobody meets these copies again: to keep their scores for others would only fill memory
        shared, model.shared = model.shared, None
        try:
            maps, details = base._computed(points, target.take(rows.to(target.rows.device)))
        finally:
            model.shared = shared
        delta = details.get("convergence_delta")
        for draw in range(first, -(-stop // n)):
            low, high = max(done, draw * n), min(stop, (draw + 1) * n)
            part = slice(low - done, high - done)
            yield Stretch(
                draw + 1,
                slice(low - draw * n, high - draw * n),
                maps[part].to(map_type(inputs)),
                None if delta is None else delta[part],
            )
        done = stop


class Moments:
    """Mean and sums of powers of the differences from it, of values that come one after the other.

    Each value moves the mean and the sums by its difference from the mean so far (Welford 1962, Pébay 2008): nothing large
    is subtracted from something large, and nothing but the sums is held.

    Args:
        count: How many images.
        fourth: Whether the third and fourth power are summed too.

    Example:
        >>> moments = Moments(1)
        >>> for number, value in enumerate([1.0, 2.0, 6.0], start=1):
        ...     moments.add(number, slice(0, 1), torch.tensor([[value]]))
        >>> moments.mean.item(), moments.variance().item(), moments.variance(unbiased=True).item()
        (3.0, 4.666666507720947, 7.0)
    """

    def __init__(self, count: int, *, fourth: bool = False) -> None:
        self.count, self.number, self.fourth = count, 0, fourth
        self.mean = self.second = self.third = self.last = torch.empty(0)

    def add(self, number: int, rows: slice, values: Tensor) -> None:
        """The values of some images, which with these have `number` of them."""
        if self.number == 0:
            start = values.new_zeros(self.count, *values.shape[1:])
            self.mean, self.second = start, start.clone()
            self.third, self.last = (start.clone(), start.clone()) if self.fourth else (start[:0], start[:0])
        self.number = number
        change = values - self.mean[rows]
        step = change / number
        grown = change * (change - step)
        if self.fourth:
            square = step * step
            second, third = self.second[rows], self.third[rows]
            self.last[rows] += grown * square * (number * number - 3 * number + 3) + 6 * square * second
            self.last[rows] -= 4 * step * third
            third += grown * step * (number - 2) - 3 * step * second
        self.second[rows] += grown
        self.mean[rows] += step

    def variance(self, *, unbiased: bool = False) -> Tensor:
        """The mean square difference from the mean; `unbiased` divides by one less than the number."""
        return self.second / (self.number - unbiased)

    def half_width(self) -> Tensor:
        """Of the 95% interval of the mean; NaN for one value."""
        if self.number < 2:
            return torch.full_like(self.mean, torch.nan)
        return student(self.number) * (self.variance(unbiased=True) / self.number).sqrt()

    def half_width_of_variance(self) -> Tensor:
        """Of the 95% interval of the variance, from the fourth power; NaN for one value."""
        if self.number < 2:
            return torch.full_like(self.mean, torch.nan)
        spread = self.last / self.number - self.variance().square()
        return student(self.number) * (spread.clamp_min(0) / self.number).sqrt()


def gather(
    stretches: Iterable[Stretch], count: int, of: Callable[[Tensor], Tensor], *, fourth: bool = False
) -> tuple[Moments, dict[str, Tensor]]:
    """The moments over noise of a function of the maps, and, where the method has one, the mean convergence delta.

    Args:
        stretches: As `noisy` yields them.
        count: How many images.
        of: What is done to maps before they are averaged.
        fourth: Whether the interval of the variance is wanted.
    """
    values, deltas = Moments(count, fourth=fourth), Moments(count)
    for stretch in stretches:
        values.add(stretch.number, stretch.rows, of(stretch.maps))
        if stretch.delta is not None:
            deltas.add(stretch.number, stretch.rows, stretch.delta)
    return values, {"convergence_delta": deltas.mean} if deltas.number else {}


class Noisy(Attributor):
    """A method that is asked about noisy copies of the input.

    Args:
        samples: How many noisy copies.
        noise: The noise's standard deviation, as a part of each image's own range from its smallest to its largest value.
        absolute: Whether `noise` is in the unit of pixel values instead, the same for every image.
        channels: How the channels become one map; `None`: as the method that is asked does it.
        seed: The noise of copy n depends on the seed and n alone, and is the same for every image.
    """

    samples: Count = 50
    noise: Annotated[float, Range(0)] = 0.15
    absolute: bool = False
    channels: Channels | None = None
    seed: Seed = 0
    _base: Attributor | None = field(default=None, init=False)

    def validate(self) -> None:
        """Make the method that is asked: it checks its own options, and whether it runs on the model."""
        self._base = self._make()

    def _make(self) -> Attributor:
        """The method that is asked, on the model."""
        raise NotImplementedError

    @property
    def base(self) -> Attributor:
        """The method that is asked, on the model."""
        assert self._base is not None
        return self._base

    def _refusal(self) -> str | None:
        """What the method that is asked has to say was said when it was made."""
        return None

    def _stretches(self, inputs: Tensor, target: Target) -> Iterator[Stretch]:
        """The method's answers, as they come."""
        kinds = self.base.facts.tags["kinds"]
        if self.model.kind not in kinds:
            raise ValueError(
                f"{self.base.name} explains {' and '.join(kinds)} inputs, the model takes {self.model.kind}"
            )
        sigma = deviations(inputs, self.noise, absolute=self.absolute)
        return noisy(self.base, inputs, target, samples=self.samples, sigma=sigma, seed=self.seed)

    @property
    def _how(self) -> Channels:
        own: Channels = getattr(self.base, "channels", "sum")
        return own if self.channels is None else self.channels

    def _early(self, values: Tensor) -> Tensor:
        """One map of the channels where that may come before the mean over noise: the interval is then the map's own."""
        return reduce_channels(values, self._how) if values.ndim == 4 and self._how in {"sum", "mean"} else values

    def _reduce(self, maps: Tensor) -> Tensor:
        return reduce_channels(maps, self._how) if maps.ndim == 4 else maps

    def _resize(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """As the method that is asked does it, which may smooth its maps too."""
        maps = self.base._resize(maps, size)
        return gaussian_blur(maps, self.base.smooth) if self.base.smooth else maps


class Wrapping(Noisy):
    """A method that asks any other about noisy copies of the input.

    Args:
        output: Which score, for a method that is given by its name.
        method: What is asked: the name of a method, with its defaults and this `output`, or an attributor, whose
            configuration is put on this model and whose `output` must be this one's. Each copy costs what the method does.
            A `layer` or `at` of its own is where each copy is explained; its `smooth`, like its `resize`, comes after the
            mean or the variance.
    """

    method: str | Attributor = "gradient"

    def _make(self) -> Attributor:
        if isinstance(self.method, str):
            return create(self.method, self.model, output=self.output)
        if self.method.output != self.output:
            raise ValueError(
                f"{self.name}: output={self.output!r}, but that of its method is {self.method.output!r}: give both the same"
            )
        return self.method.with_model(self.model)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        method = options.method
        one = REGISTRY.find(method).cost(shape) if isinstance(method, str) else method.cost(shape, **method.params)
        return options.samples * one.forwards, options.samples * one.backwards

"""The search for extremal perturbations: what a mask shows of an image, what it earns, how far it is from its area."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .. import baselines
from ..model import Model
from ..targets import Output, Target
from ._smooth import SmoothMasks

Variant = Literal["preserve", "delete", "dual"]
Perturbation = Literal["blur", "fade"]
Measure = Literal["image", "padded"]
Over = Literal["space", "channels"]

LEVELS, MOST = 8, 20 / 224  # of the pyramid of blurs, and the widest one's sigma, of the shorter side
WEIGHT, GROWTH = 15.0, 1.0035**799  # of the area in units of the score's range: at the first step, and by the last
RATE, MEMORY, SEEDS = 0.2, 0.9, 1024  # of the ascent, which goes as far for any number of seeds, and
LEAST = 0.25  # of the mean: what a seed at the border has of pixels at least, for its own rate
FOLLOW = 0.25  # of all steps: what a mask that starts from the one before takes
WINDOW, LOOK = 20, 10  # steps that are averaged, and between looks whether a mask is flat
CLOSE = 40  # steps that a flat mask has left, with the largest weights
TIE = 1e-5  # between pixels of a mask that float32 does not tell apart
SIDES: dict[Variant, tuple[int, ...]] = {"preserve": (1,), "delete": (-1,), "dual": (1, -1)}

__all__ = [
    "LEVELS",
    "SIDES",
    "Found",
    "Measure",
    "Over",
    "Perturbation",
    "Search",
    "Variant",
    "area_loss",
    "blend",
    "follow",
]


class Masks(Protocol):
    """How numbers between 0 and 1 make a mask: `SmoothMasks`, or one for each channel."""

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the numbers."""

    @property
    def inside(self) -> tuple[slice, ...]:
        """The part of a mask that is the image's."""

    def make(self, seeds: Tensor) -> tuple[Tensor, Any]:
        """Masks `(M, ...)`, and what `pull` needs."""

    def pull(self, slopes: Tensor, state: Any) -> Tensor:
        """The gradient of the seeds, of that of the masks."""


class ChannelMasks:
    """One number for each channel."""

    def __init__(self, channels: int) -> None:
        self.grid, self.inside = (channels,), (slice(None),)

    def make(self, seeds: Tensor) -> tuple[Tensor, None]:
        """The seeds."""
        return seeds, None

    def pull(self, slopes: Tensor, state: None) -> Tensor:
        """The slopes."""
        del state
        return slopes


def pyramid(image: Tensor, model: Model, perturbation: Perturbation) -> Tensor:
    """An image `(C, H, W)` from nothing to all, `(L, C, H, W)`: ever less blurred, or the model's mean and the image."""
    one = image[None]
    if perturbation == "fade":
        return torch.cat([baselines.make("mean", one, model).expand_as(one), one])
    widest = MOST * min(image.shape[1:])
    return torch.cat([baselines.gaussian_blur(one, widest * (1 - k / (LEVELS - 1))) for k in range(LEVELS)])


def blend(levels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a mask `(1, H, W)` or `(C, 1, 1)` shows of an image with levels `(L, C, H, W)`, and how that changes with the mask.

    Example:
        >>> levels = torch.tensor([0.0, 1.0, 4.0])[:, None, None, None]  # linear between any two
        >>> [float(v) for v in blend(levels, torch.tensor([[[0.75]]]))]
        [2.5, 6.0]
    """
    steps = len(levels) - 1
    if steps == 1:
        low, high, part = levels[0], levels[1], mask
    else:
        below = (mask * steps).floor_().clamp_(0, steps - 1)
        index = below.long()[None].expand(1, *levels.shape[1:])
        low, high = levels.gather(0, index)[0], levels.gather(0, index + 1)[0]
        part = mask * steps - below
    slope = high - low
    return torch.addcmul(low, slope, part), slope.mul_(steps)


def area_loss(masks: Tensor, areas: Sequence[float]) -> tuple[Tensor, Tensor]:
    r"""How far masks are from being 1 on a part of all pixels and 0 on the rest, with its gradient (the paper's constraint).

    .. math:: \frac{1}{n} \sum_i (m_{(i)} - r_i)^2, \quad r_i = [i > \lfloor n (1 - a) \rfloor]

    over the sorted mask; no sort is needed: pixels below the order statistic at the jump are compared with 0, those above
    with 1, and pixels equal to it, alike, with the part of them that is above.

    Args:
        masks: `(M, ...)`.
        areas: M of them.

    Returns:
        `(M,)`, and `(M, ...)`.

    Example:
        >>> loss, _ = area_loss(torch.full((1, 10), 0.3), [0.2])  # a (1 - c)^2 + (1 - a) c^2
        >>> round(float(loss), 3)
        0.17
    """
    flat = masks.flatten(1)
    n = flat.shape[1]
    low = [int(n * (1 - area) + 1e-9) for area in areas]
    jump = torch.stack([one.kthvalue(max(k, 1)).values for one, k in zip(flat, low, strict=True)])[:, None]
    above, equal = flat > jump + TIE, (flat - jump).abs() <= TIE
    share = (n - flat.new_tensor(low) - above.sum(1)) / equal.sum(1)
    wanted = torch.where(equal, share[:, None], above.to(flat.dtype))
    loss = (flat.square() - wanted * (2 * flat - 1)).mean(1)
    return loss, (2 / n * (flat - wanted)).reshape(masks.shape)


@dataclass(eq=False)
class Found:
    """Of N images and K areas.

    Attributes:
        masks: `(N, K, H, W)`, or `(N, K, C)` of channels.
        rewards: What each earns in the end, on the image as it is, `(N, K)`.
        regularisers: How far each is from its area, `(N, K)`.
        history: Rewards and regularisers in every step, `(2, N, K, T)`; NaN after the last.
        steps: How many each took, `(N, K)`.
        whole: The score of the image, `(N,)`.
        hidden: The score of what is left of it without a mask, `(N,)`.
    """

    masks: Tensor
    rewards: Tensor
    regularisers: Tensor
    history: Tensor
    steps: Tensor
    whole: Tensor
    hidden: Tensor


@dataclass
class _Running:
    """M masks that are being searched for.

    Attributes:
        rows: Whose images they are for.
        which: Their areas, by number.
        limits: Their steps, if none is flat before.
        left: How many of these they have left.
        done: How many they have made.
        seeds: Where they are.
        speeds: Where they go.
    """

    rows: list[int] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    seeds: list[Tensor] = field(default_factory=list)
    speeds: list[Tensor] = field(default_factory=list)

    def start(self, row: int, which: int, limit: int, seeds: Tensor) -> None:
        """One more."""
        new = (row, which, limit, limit, 0, seeds, torch.zeros_like(seeds))
        for some, one in zip(vars(self).values(), new, strict=True):
            some.append(one)

    def leave(self, at: int) -> None:
        """One less."""
        for some in vars(self).values():
            del some[at]


def follow(steps: int) -> int:
    """How many steps a mask takes that starts from the one before."""
    return max(1, int(FOLLOW * steps))


def rates(masks: Masks, like: Tensor) -> Tensor:
    """How far each seed goes, `masks.grid`: the farther, the fewer pixels are its own."""
    seeds = like.new_ones(1, *masks.grid)
    shown, state = masks.make(seeds)
    pixels = masks.pull(torch.ones_like(shown), state)[0]
    return RATE / SEEDS * shown[0].numel() / pixels.clamp_min(LEAST * pixels.mean())


class Search:
    r"""Climbs to the mask of each area that earns most (section 3 of the paper).

    .. math:: \bar m \leftarrow \mathrm{clip}(\bar m + \eta \odot v), \quad v \leftarrow 0.9 v + 0.1 \nabla_{\bar m} \Bigl(
        \frac{r(m)}{s} - \lambda_t \, \| \mathrm{sort}(m) - r_a \|^2 / n \Bigr)

    where s is the spread of the image's scores over the levels of the pyramid. :math:`\lambda_t` grows from 15 to 245 however
    many steps there are, and :math:`\eta` is 0.2 for 1024 seeds: for a score that spreads over 20, what was published. It is
    larger for seeds that have fewer pixels, at the border, which would else be late to go, and stay.

    As many images are searched at a time as fill a batch, and one that is done makes room for the next.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        areas: K parts of the image.
        variant: What earns: the score of what is kept, the loss of what is deleted, or both.
        perturbation: What becomes of the rest.
        steps: The most for a mask that starts from ones; a mask that starts from the one before takes a quarter.
        tolerance: When a mask is flat, as `ExtremalPerturbation` says; 0: never.
        continuation: Whether each area starts from the mask of the next larger one.
        jitter: Whether every second step sees the mirror image.
        area_of: What an area is a part of.
        over: What a mask has a number for.
        output: Which score.
    """

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        target: Target,
        *,
        areas: Sequence[float],
        variant: Variant,
        perturbation: Perturbation,
        steps: int,
        tolerance: float,
        continuation: bool,
        jitter: bool,
        area_of: Measure,
        over: Over,
        output: Output,
    ) -> None:
        self.model, self.inputs, self.target, self.output = model, inputs, target, output
        self.areas, self.steps, self.tolerance = areas, steps, tolerance
        self.continuation, self.jitter = continuation, jitter
        self.sides = SIDES[variant]
        self.order = sorted(range(len(areas)), key=lambda k: -areas[k])
        size = tuple(inputs.shape[2:])
        self.masks: Masks
        self.exact: Masks
        if over == "space":
            how: dict[str, Any] = {"padded": area_of == "padded", "dtype": inputs.dtype, "device": inputs.device}
            self.masks, self.exact = SmoothMasks(size, **how), SmoothMasks(size, places=None, **how)
            self.perturbation, self.shape, self.beside = perturbation, size, (1, *size)
        else:
            self.masks = self.exact = ChannelMasks(inputs.shape[1])
            self.perturbation, self.shape, self.beside = "fade", self.masks.grid, (inputs.shape[1], 1, 1)
        self.rates = rates(self.masks, inputs)
        self.running = _Running()
        self.levels: dict[int, Tensor] = {}
        self.spread: dict[int, Tensor] = {}
        self.ended: dict[int, dict[int, Tensor]] = {}
        n, k = len(inputs), len(areas)
        empty = inputs.new_full((2, n, k, steps), torch.nan)
        self.found = Found(
            masks=inputs.new_empty(n, k, *self.shape),
            rewards=inputs.new_empty(n, k),
            regularisers=inputs.new_empty(n, k),
            history=empty,
            steps=torch.zeros(n, k, dtype=torch.long),
            whole=inputs.new_empty(n),
            hidden=inputs.new_empty(n),
        )

    def run(self) -> Found:
        """Search for all masks of all images."""
        running, waiting = self.running, iter(range(len(self.inputs)))
        row = next(waiting, None)
        while row is not None or running.rows:
            room = max(1, self.model.batch("gradient") // len(self.sides))
            while row is not None and len(running.rows) < room:
                self._enter(row)
                row = next(waiting, None)
            self._climb()
            for at, flat in reversed(list(enumerate(self._flat()))):
                running.left[at] = min(running.left[at], CLOSE) if flat else running.left[at]
                if not running.left[at]:
                    self._end(at)
        return self.found

    def _enter(self, row: int) -> None:
        """Begin with an image."""
        levels = self.levels[row] = pyramid(self.inputs[row], self.model, self.perturbation)
        scores = self.model.scores(levels, self._aim([row] * len(levels)), output=self.output).to(levels)
        if not bool(scores.isfinite().all()):
            raise ValueError(
                f"extremal_perturbation: the score of image {row}, or of what is left of it when it is hidden, is one of "
                "NaN or infinite values: look at the network's outputs there"
            )
        self.found.hidden[row], self.found.whole[row] = scores[0], scores[-1]
        wide = scores.max() - scores.min()
        self.spread[row] = torch.where(wide > 0, wide, torch.ones_like(wide))
        self.ended[row] = {}
        for k in self.order[:1] if self.continuation else self.order:
            self.running.start(row, k, self.steps, self.inputs.new_ones(self.masks.grid))

    def _aim(self, rows: Sequence[int]) -> Target:
        return self.target.take(torch.tensor(rows))

    def _shown(self, row: int, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What is looked at of one image under one mask, each with its slope."""
        mask = mask.reshape(self.beside)
        return [blend(self.levels[row], mask if side > 0 else 1 - mask) for side in self.sides]

    def _earned(self, scores: Tensor) -> Tensor:
        """Rewards `(M,)` of the scores of what is looked at, mask by mask."""
        scores = scores.to(self.inputs).reshape(-1, len(self.sides))
        return (scores * scores.new_tensor(self.sides)).sum(1)

    def _climb(self) -> None:
        """One step of every mask."""
        running = self.running
        seeds = torch.stack(running.seeds)
        masks, state = self.masks.make(seeds)
        inside = (slice(None), *self.masks.inside)
        mirrored = [self.jitter and done % 2 == 0 for done in running.done for _ in self.sides]
        shown = [s for row, mask in zip(running.rows, masks[inside], strict=True) for s in self._shown(row, mask)]
        images = torch.stack([i.flip(-1) if flip else i for (i, _), flip in zip(shown, mirrored, strict=True)])
        changes = [change for _, change in shown]
        del shown  # the images are in the batch: one copy of each is enough
        aim = self._aim([row for row in running.rows for _ in self.sides])
        scores, gradients = self.model.gradients(images, aim, output=self.output)
        loss, slopes = area_loss(masks, [self.areas[k] for k in running.which])
        left = [(left - 1) / max(limit - 1, 1) for left, limit in zip(running.left, running.limits, strict=True)]
        weights = WEIGHT * GROWTH ** (1 - torch.tensor(left, dtype=torch.float64))
        slopes.mul_(-weights.to(slopes).reshape(-1, *[1] * (slopes.ndim - 1)))
        for at, (flip, change) in enumerate(zip(mirrored, changes, strict=True)):
            gradient = gradients[at].flip(-1) if flip else gradients[at]
            one = slopes[inside][at // len(self.sides)]
            along = change.mul_(gradient).sum_to_size(self.beside).reshape(one.shape)
            one.addcdiv_(along, self.spread[running.rows[at // len(self.sides)]])
        push = self.masks.pull(slopes, state)
        for at, done in enumerate(running.done):
            speed = running.speeds[at].lerp(push[at], 1 - MEMORY) if done else push[at].clone()
            running.speeds[at] = speed
            running.seeds[at] = (seeds[at] + self.rates * speed).clamp_(0, 1)
        self.found.history[:, running.rows, running.which, running.done] = torch.stack([self._earned(scores), loss])
        running.done = [done + 1 for done in running.done]
        running.left = [left - 1 for left in running.left]

    def _flat(self) -> list[bool]:
        """Which masks have nothing more to gain."""
        running = self.running
        old = [done >= 2 * WINDOW and done % LOOK == 0 for done in running.done]
        if not self.tolerance or not any(old):
            return [False] * len(old)
        changes = []
        for row, k, done in zip(running.rows, running.which, running.done, strict=True):
            window = self.found.history[:, row, k, max(done - 2 * WINDOW, 0) : done]
            change = (window[:, -WINDOW:].mean(1) - window[:, :-WINDOW].mean(1)).abs()
            shapeless = self.areas[k] * (1 - self.areas[k])  # what a constant mask is away from its area
            changes.append(change / torch.stack([self.spread[row], change.new_tensor(shapeless)]))
        flat = (torch.stack(changes) < self.tolerance).all(1).tolist()
        return [a and b for a, b in zip(old, flat, strict=True)]

    def _end(self, at: int) -> None:
        """One mask is done; the next begins where it is, or the image is done."""
        running, row = self.running, self.running.rows[at]
        ended, seeds = self.ended[row], running.seeds[at]
        ended[running.which[at]] = seeds
        self.found.steps[row, running.which[at]] = running.done[at]
        running.leave(at)
        if len(ended) == len(self.areas):
            self._finish(row)
        elif self.continuation:
            running.start(row, self.order[len(ended)], follow(self.steps), seeds)

    def _finish(self, row: int) -> None:
        """All masks of an image are done: make them at every pixel, and score them."""
        masks, _ = self.exact.make(torch.stack([self.ended[row][k] for k in range(len(self.areas))]))
        masks.clamp_(0, 1)
        self.found.regularisers[row] = area_loss(masks, self.areas)[0]
        self.found.masks[row] = masks[(slice(None), *self.exact.inside)]
        images = torch.stack([image for mask in self.found.masks[row] for image, _ in self._shown(row, mask)])
        scores = self.model.scores(images, self._aim([row] * len(images)), output=self.output)
        self.found.rewards[row] = self._earned(scores)
        del self.levels[row], self.spread[row], self.ended[row]

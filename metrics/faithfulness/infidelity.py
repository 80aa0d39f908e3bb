"""Infidelity: how far what a map says of a change is from what the change does to the score."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from attriscope.attribution import baselines
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.randomness import gaussians, uniforms
from attriscope.attribution.targets import Output
from torch import Tensor

from ..metric import MapMetric, Scored, register
from ._subsets import Draws, chunks, losses, removed, sums, wide
from .curve import stand_in

STREAM = 2_000_002  # of the squares and of the noise


@dataclass(frozen=True)
class Squares(Draws):
    """One square of pixels each: its side is uniform on 1 ... `largest`, then its place on those within the image.

    Example:
        >>> squares = Squares(size=12, samples=50, height=3, width=4, largest=2)
        >>> squares(slice(0, 50)).sum(1).unique().tolist()
        [1, 4]
    """

    height: int
    width: int
    largest: int
    seed: int = 0

    def draw(self, start: int, count: int) -> Tensor:
        """`(count, height * width)` bool."""
        drawn, top, left = uniforms(self.seed, count, 3, start=start, stream=STREAM).double().unbind(1)
        side = 1 + (drawn * self.largest).floor()
        inside: list[Tensor] = []
        for length, at in ((self.height, top), (self.width, left)):
            first = (at * (length - side + 1)).floor()[:, None]
            place = torch.arange(length)
            inside.append((place >= first) & (place < first + side[:, None]))
        return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


@dataclass(eq=False)
class Noisy:
    """Gaussian noise around the image, or around what stands for it: the same noise for every image.

    Args:
        images: `(N, C, H, W)`.
        around: What the noise is added to, broadcastable to them.
        noise: Its standard deviation.
        count: How many draws.
        seed: Of the noise.
    """

    images: Tensor
    around: Tensor
    noise: float
    count: int
    seed: int

    def drawn(self, items: slice) -> Tensor:
        """The noise of some draws, `(len(items), C * H * W)`."""
        size, like = self.images[0].numel(), self.images
        found = gaussians(self.seed, items.stop - items.start, size, like=like, start=items.start, stream=STREAM)
        return found.mul_(self.noise)

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """What the noise is around, and the noise."""
        around = self.around[row if self.around.shape[0] > 1 else 0]
        torch.add(around, self.drawn(items).reshape(out.shape), out=out)


def infidelity(said: Tensor, lost: Tensor, *, normalize: bool = True, flip: bool = False) -> tuple[Tensor, Tensor]:
    """The mean squared distance between what maps say and what the score loses, and the scales that maps were given.

    Args:
        said: What each map says of each change, I . a, `(N, S)` float64.
        lost: What the score loses, f(x) - f(x - I), `(N, S)` float64.
        normalize: Whether every map is given the scale that suits it best.
        flip: Whether that scale may be negative.

    Returns:
        The infidelity and the scale, `(N,)` each; a map that says 0 of everything has scale 0.

    Example:
        >>> said, lost = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 6.0]]).double()
        >>> infidelity(said, lost, normalize=False)[0].item(), infidelity(said, lost)[0].item()
        (10.0, 0.0)
    """
    scale = torch.ones(len(said), dtype=said.dtype)
    if normalize:
        size = said.square().sum(1)
        scale = torch.where(size > 0, (said * lost).sum(1) / size, 0.0)
        scale = scale if flip else scale.clamp_min(0)
    return (scale[:, None] * said - lost).square().mean(1), scale


@register("infidelity", family="faithfulness", paper="Yeh et al. 2019, arXiv:1901.09392, definition 2.1")
class Infidelity(MapMetric):
    r"""The mean squared distance between what the map says of a change and what the change does to the score.

    .. math:: \mathrm{INFD} = E_I \Bigl[ \bigl( \beta \, I^T a - (f(x) - f(x - I)) \bigr)^2 \Bigr]

    Lower is better, from 0 on, in the unit of the score squared: numbers of two networks do not compare, and those of
    two images hardly. `details["relative"]` is free of units: the share of the squared losses that the map leaves
    unexplained; 1 is what a map of zeros has. Without `normalize` the map must be in the unit of the score: maps that only
    rank (class activation maps, RISE) then are worse than a map of zeros.

    What the map says of a change depends on what kind of map it is, and taking one for the other is the commonest
    mistake. A gradient (`local=True`) says `I . a`. A map that is multiplied by the input already, or tells what pixels
    contribute (`local=False`: integrated gradients, SHAP, occlusion, class activation maps), says what it adds up to over
    the pixels that were removed.

    Args:
        perturbation: "square": a square of random side and place is removed. "noise": Gaussian noise is added to the image.
            "baseline": the whole image is replaced by the baseline with Gaussian noise around it. The last two need
            `local=True`: they remove no pixel, they change all of them.
        local: Whether the map is like a gradient, or multiplied by the input already.
        samples: How many changes.
        normalize: Whether each map is multiplied by the scale that suits it best, which is in `details["beta"]`, as in the
            paper's experiments.
        flip: Whether that scale may be negative, as in the authors' code and in captum: a map and its negative then score
            the same. Otherwise it is 0 at least, and a map that points the other way scores as a map of zeros.
        largest: The largest square's side, as a share of the image's shorter side; the authors' 10 of 28 pixels.
        noise: Standard deviation of the noise, in the unit of the image's pixels.
        split: A map with one channel of an image with several: whether each channel gets its share of a pixel's value
            ("equal", the sum stays) or all of it ("repeat").
        baseline: What stands for removed pixels. The paper's zero, after normalisation, is the mean colour.
        output: Which score.
        seed: Of the changes, and of a noise baseline.

    Returns:
        `details["beta"]`, `(N,)`, is 1 without `normalize`.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> weight = torch.rand(64)
        >>> images = torch.rand(3, 1, 8, 8)
        >>> gradient = weight.reshape(1, 1, 8, 8).expand(3, 1, 8, 8)
        >>> exact = metrics.create("infidelity", perturbation="noise", local=True, normalize=False)
        >>> bool((exact.score(lambda x: (x.flatten(1) @ weight)[:, None], images, gradient, target=0) < 1e-9).all())
        True
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    undefined: ClassVar[str] = "the score loses nothing whatever is changed, and any map explains that with scale 0"
    keeps_channels: ClassVar[bool] = True
    constant: ClassVar[Literal["undefined", "scored"]] = "scored"

    perturbation: Literal["square", "noise", "baseline"] = "square"
    local: bool = False
    samples: Count = 200
    normalize: bool = True
    flip: bool = False
    largest: Annotated[float, Range(0, 1)] = 0.36
    noise: Annotated[float, Range(0)] = 0.2
    split: Literal["equal", "repeat"] = "equal"
    baseline: baselines.Baseline = "mean"
    output: Output = "logit"
    seed: Seed = 0

    def validate(self) -> None:
        """Noise changes all pixels: what a map that tells of removed pixels says of that is not known.

        Raises:
            ValueError: Options that do not go together.
        """
        if self.perturbation != "square" and not self.local:
            raise ValueError(
                f"infidelity: perturbation={self.perturbation!r} is for maps that are like a gradient: pass local=True if "
                "yours are, or perturbation='square'"
            )
        if self.perturbation == "noise" and not self.noise:
            raise ValueError("infidelity: perturbation='noise' with noise=0 changes nothing: pass more")
        if self.flip and not self.normalize:
            raise ValueError("infidelity: flip=True is about the scale of normalize=True: pass that too")

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The image itself, and every change; paid once for any number of methods."""
        del shape
        return self.samples + 1

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the losses, shared by all methods, and find what the maps say."""
        channels, height, width = images.shape[1:]
        name, held = stand_in(todo, images, self.baseline, self.seed)
        baseline = held.tensor
        full = maps / channels if maps.shape[1] < channels and self.split == "equal" else maps
        full = wide(full.expand(images.shape))
        if self.perturbation == "square":
            largest = max(1, int(self.largest * min(height, width)))
            draws = Squares(height * width, self.samples, height, width, largest, self.seed)
            source: Any = removed(images, baseline, None, draws)
            lost = losses(todo, images, source, output=self.output, key=("removed", draws, None, name))
            of_pixels = full * (wide(images) - wide(baseline)) if self.local else full
            said = sums(of_pixels.sum(1), None, draws)[0]
        else:
            around = images if self.perturbation == "noise" else baseline
            source = Noisy(images, around, self.noise, self.samples, self.seed)
            key = ("noise", self.perturbation, self.noise, self.samples, self.seed, name)
            lost = losses(todo, images, source, output=self.output, key=key)
            flat = full.flatten(1)
            whole = (flat * (wide(images) - wide(around).expand(images.shape)).flatten(1)).sum(1, keepdim=True)
            parts = [flat @ wide(source.drawn(items)).T for items in chunks(self.samples, flat.shape[1])]
            said = (whole - torch.cat(parts, 1)).cpu().double()

        def finish() -> Scored:
            losses_now, rounding = lost()
            scores, beta = infidelity(said, losses_now, normalize=self.normalize, flip=self.flip)
            changes = losses_now.abs().amax(1) > rounding
            relative = torch.where(changes, scores / losses_now.square().mean(1), torch.nan)
            scores = torch.where(changes, scores, torch.nan) if self.normalize else scores
            return Scored(scores, details={"beta": beta, "relative": relative})

        return finish

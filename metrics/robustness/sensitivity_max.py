"""Max-sensitivity: how far a map changes when the image hardly does."""

from typing import Annotated, ClassVar

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Target
from torch import Tensor

from .._again import explained, reseeded
from ..metric import MethodMetric, Scored, register

STREAM = 900_003  # of the draws: other numbers than those of methods and of other metrics


def disturbed(
    images: Tensor, radius: float, draw: int, *, seed: int, bounds: tuple[float, float] | None = None
) -> Tensor:
    """Images with every value moved by up to `radius`, uniformly: draw `draw`, the same for every image.

    Args:
        images: `(N, C, H, W)`.
        radius: As a share of the bounds' range; in the images' own unit where there are none.
        draw: Which; it depends on the seed and its number alone.
        seed: Of the draws.
        bounds: What leaves them is set to the nearer one.

    Example:
        >>> moved = disturbed(torch.ones(2, 1, 2, 2), 0.1, 0, seed=0, bounds=(0.0, 1.0))
        >>> bool((moved[0] == moved[1]).all()), bool((moved >= 0.9).all() & (moved <= 1).all())
        (True, True)
    """
    width = radius if bounds is None else radius * (bounds[1] - bounds[0])
    drawn = uniforms(seed, 1, images[0].numel(), start=draw, stream=STREAM).reshape(1, *images.shape[1:])
    moved = images + (2 * drawn - 1).to(images) * width
    return moved if bounds is None else moved.clamp(*bounds)


def change(maps: Tensor, others: Tensor) -> Tensor:
    """The length of the difference over that of the first, `(N,)` float64 on the CPU; NaN for maps of zeros.

    Example:
        >>> change(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 5.0], [1.0, 0.0]])).tolist()
        [0.2, nan]
    """
    first, second = (m.flatten(1).cpu().double() for m in (maps, others))
    length = first.norm(dim=1)
    return torch.where(length > 0, (second - first).norm(dim=1) / length, torch.nan)


@register(
    "sensitivity_max",
    family="robustness",
    aliases=("max_sensitivity",),
    paper="Yeh, Hsieh, Suggala, Inouye and Ravikumar 2019, arXiv:1901.09392, definition 2.2",
)
class SensitivityMax(MethodMetric):
    r"""The largest relative change of a map over images that are nearly the same: lower is steadier.

    .. math:: \max_{k \le r} \frac{\lVert a(x + d_k) - a(x) \rVert}{\lVert a(x) \rVert}, \qquad d_k \sim U[-\rho, \rho]

    0 is a map that does not change at all, 1 a change as long as the map itself. The target stays what it was on the clean
    image. A steady map need not be a right one: the constant map is the steadiest. It is the largest of few draws, and so
    smaller than the largest there is: it grows with `samples`.

    What leaves the model's bounds is set to the nearer one, so that at black and white pixels the change is smaller; a model
    without bounds gets everything. A method that draws draws the same each time, so that its noise does not count; how
    far another seed alone moves its maps is told by `floor`.

    The details hold `mean` over the draws and, if asked for, `floor`. A map of zeros is NaN.

    Args:
        radius: How far a value moves at most, as a share of the range of the model's bounds (of 1 where there are none).
        samples: How many images are drawn around each: r explanations.
        floor: Whether to explain the clean image once more with another seed; 0 for a method without one.
        seed: Draw k depends on the seed and k alone, and is the same for every image and method.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> gradient = attribution.create("gradient", network)  # of a line: the same everywhere
        >>> metrics.create("sensitivity_max").score(gradient, torch.rand(2, 3, 2, 2), target=0).tolist()
        [0.0, 0.0]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    undefined: ClassVar[str] = "a map of zeros has no length to compare a change with"

    radius: Annotated[float, Range(0)] = 0.02
    samples: Count = 10
    floor: bool = False
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """One for each draw, and one for the floor, which a method without a seed is spared."""
        return self.samples + self.floor

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain every draw, as many at a time as fill a batch."""
        bounds = attributor.model.bounds

        def moved(draw: int) -> tuple[Tensor, Target]:
            return disturbed(images, self.radius, draw, seed=self.seed, bounds=bounds), target

        total = most = torch.zeros(len(images), dtype=torch.float64)
        for others in explained(attributor, self.samples, moved, len(images)):
            one = change(maps, others)
            total, most = total + one, torch.maximum(most, one)
        details = {"mean": total / self.samples}
        if self.floor:
            details["floor"] = self._floor(attributor, images, target, maps)
        return Scored(most, details=details)

    def _floor(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Tensor:
        """The change where nothing but the method's seed does."""
        other = reseeded(attributor)
        if other is attributor:
            return change(maps, maps)
        (again,) = explained(other, 1, lambda _: (images, target), len(images))
        return change(maps, again)

"""Smooth MPRT: model parameter randomization on maps that are averaged over noisy inputs."""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from attriscope.attribution._parameters import Count, Range
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.randomness import gaussians
from attriscope.attribution.targets import Target
from torch import Tensor

from .._again import explained
from ..metric import Scored, register
from .model_randomization import ModelRandomization, Order

STREAM = 900_009  # of the draws: other numbers than those of methods and of other metrics

__all__ = ["SmoothMPRT"]


@register(
    "smooth_mprt",
    family="randomization",
    aliases="smprt",
    paper="Hedström, Weber, Lapuschkin and Höhne 2023, arXiv:2401.06465, section 3.1",
)
class SmoothMPRT(ModelRandomization):
    r"""`model_randomization` with maps that are means over noisy inputs: noise of the gradient alone does not pass for change.

    .. math:: \bar a(x; \theta) = \frac1n \sum_{i=1}^{n} a(x + \varepsilon_i; \theta), \qquad
              \varepsilon_i \sim N\bigl(0, (\sigma (\max x - \min x))^2\bigr)

    Every network, the trained one too, is asked about the same noisy inputs, so that they do not differ by their draws. What
    leaves the model's bounds stays there. Scores, details and further options are those of `model_randomization`.

    Args:
        order: As there; the paper goes from the bottom up.
        samples: n noisy inputs for each map.
        noise: The noise's standard deviation as a share of each image's range.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> metric = metrics.create("smooth_mprt", samples=3, seeds=2)
        >>> metric.score(attribution.create("gradient", network), torch.rand(2, 3, 4, 4), target=0).shape
        torch.Size([2])
    """

    small: ClassVar[dict[str, object]] = {"stages": 1, "seeds": 2, "samples": 2}

    order: Order = "bottom_up"
    samples: Count = 50
    noise: Annotated[float, Range(0)] = 0.1

    @property
    def explanations(self) -> int:
        """`samples` for each network, the trained one twice."""
        return self.samples * (super().explanations + 1)

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """The maps of the clean images are not used."""
        del maps
        return super().measure(attributor, images, target, self._maps(attributor, images, target))

    def _maps(self, attributor: Attributor, images: Tensor, target: Target) -> Tensor:
        made = explained(attributor, self.samples, self._noisy(attributor.model.bounds, images, target), len(images))
        total = next(made)
        for maps in made:
            total = total + maps
        return total / self.samples

    def _noisy(
        self, bounds: tuple[float, float] | None, images: Tensor, target: Target
    ) -> Callable[[int], tuple[Tensor, Target]]:
        width = self.noise * (images.flatten(1).amax(1) - images.flatten(1).amin(1)).reshape(-1, 1, 1, 1)

        def make(k: int) -> tuple[Tensor, Target]:
            drawn = gaussians(self.seed, 1, images[0].numel(), like=images, start=k, stream=STREAM)
            noisy = images + width * drawn.reshape(1, *images.shape[1:])
            return noisy if bounds is None else torch.clamp(noisy, *bounds), target

        return make

"""Efficient MPRT: how much more complex a map becomes when the network is random altogether."""

from typing import ClassVar

import torch
from attriscope.attribution._parameters import Count, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.targets import Target
from torch import Tensor

from .._again import explained
from ..metric import MethodMetric, Scored, register
from ._networks import Randomized, stages

__all__ = ["EfficientMPRT", "histogram_entropy"]


def histogram_entropy(maps: Tensor, bins: int) -> Tensor:
    """The entropy in nats of every map's histogram, whose bins span the map's own values, `(N,)` float64 on the CPU.

    A constant map has 0, no map more than log(bins). It depends neither on scale nor on offset, but on the resolution.

    Args:
        maps: `(N, ...)`.
        bins: Of the histogram.

    Example:
        >>> histogram_entropy(torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]]), 4).exp().round().tolist()
        [4.0, 1.0]
    """
    flat = maps.flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    place = ((flat - low) / (high - low).where(high > low, 1.0) * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(len(flat), bins, dtype=torch.float64, device=flat.device)
    shares = counts.scatter_add_(1, place, torch.ones_like(flat)) / flat.shape[1]
    return -torch.xlogy(shares, shares).sum(1).cpu()


@register(
    "efficient_mprt",
    family="randomization",
    aliases="emprt",
    paper="Hedström, Weber, Lapuschkin and Höhne 2023, arXiv:2401.06465, section 3.2",
)
class EfficientMPRT(MethodMetric):
    r"""The relative rise of a map's complexity when all weights are random: what was learned makes maps simpler.

    .. math:: \frac1S \sum_{s=1}^{S} \frac{H(a(x; \theta^{(s)})) - H(a(x; \theta))}{H(a(x; \theta))}

    H is the entropy of the map's histogram. Higher means that the map depends on what was learned; noise has 0, as it is as
    complex as can be before and after, which `model_randomization` alone would take for a good sign. A map that
    holds few different values, such as a class activation map of 7 x 7, fills few bins: compare methods of one resolution.

    The details hold both entropies, `trained` and `randomized`, in nats, and `spread`, the standard deviation over
    seeds. A constant map of the trained network is NaN.

    Args:
        bins: Of the histogram.
        seeds: S: how many random networks.
        seed: Of the weights, as in `model_randomization`.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> edges = attribution.create("edge", network)  # looks at the image alone
        >>> metrics.create("efficient_mprt").score(edges, torch.rand(2, 3, 4, 4), target=0).tolist()
        [0.0, 0.0]
    """

    range: ClassVar[tuple[float, float]] = (-1.0, float("inf"))
    chance: ClassVar[float | None] = 0.0
    undefined: ClassVar[str] = "a constant map has no complexity to rise from"
    small: ClassVar[dict[str, object]] = {"seeds": 2}

    bins: Count = 100
    seeds: Count = 5
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """One for each random network."""
        return self.seeds

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain by every random network."""
        (everything,) = stages(attributor.model, images, 1)
        randomized = Randomized(attributor.model)
        method = attributor.with_model(randomized.model)
        trained, random = histogram_entropy(maps, self.bins), []
        for s in range(self.seeds):
            randomized.draw(everything.modules, self.seed + s)
            (drawn,) = explained(method, 1, lambda _: (images, target), len(images))
            random.append(histogram_entropy(drawn, self.bins))
        rises = torch.stack([(each - trained) / trained.where(trained > 0, torch.nan) for each in random])
        details = {
            "trained": trained,
            "randomized": torch.stack(random).mean(0),
            "spread": rises.std(0) if self.seeds > 1 else torch.full_like(trained, torch.nan),
        }
        return Scored(rises.mean(0), details=details)

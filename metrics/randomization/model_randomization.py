"""Model parameter randomization: whether a map changes when the network's weights are drawn anew."""

import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from attriscope.attribution._parameters import Count, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model
from attriscope.attribution.targets import Target, TargetLike
from torch import Tensor

from .._again import explained, reseeded
from .._comparing import Comparing
from .._similarity import similarity
from ..metric import Scored, register
from ._networks import Randomized, Stage, stages

Order = Literal["top_down", "bottom_up", "independent", "full"]

__all__ = ["ModelRandomization", "Order"]


@register(
    "model_randomization",
    family="randomization",
    aliases=("mprt", "cascading_randomization"),
    paper="Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim 2018, arXiv:1810.03292, section 3.1; reported as Binder, Weber, "
    "Lapuschkin, Montavon, Müller and Samek 2023, arXiv:2211.12486, ask for",
)
class ModelRandomization(Comparing):
    r"""How alike maps of the trained and of randomized networks are: a map that does not change does not depend on them.

    .. math:: \frac{1}{SK} \sum_{s=1}^{S} \sum_{k=1}^{K} \mathrm{sim}\bigl(a(x; \theta), a(x; \theta_k^{(s)})\bigr)

    The weights of the network's stages are drawn anew by their own initialisers, and the same class is explained again. Lower
    means that the map depends on what was learned. It is evidence, not a rank: noise has 0, and where lower layers keep their
    weights, as from the top down, the strengths of their channels survive and maps that use them must stay partly alike.
    So the details tell, for each image,

    - `ceiling`: the similarity to a second run on the trained network with another seed, which a method that draws must be
      measured by: a noisy method is not alike to itself;
    - `floor`: that of maps of two networks that are random altogether, which similar pictures alone can bring about;
    - `survival`: the rank correlation of the last map's channel lengths before and after, over the stages;
    - `spread`: the standard deviation over seeds;
    - `undefined`: of how many stages a map had no similarity, above all because it was zero everywhere. These are left out.

    Controls (`"random"`, `"edge"`, `"input"`, ...) are methods like any other: compare with theirs.
    `metrics.sanity_report` puts them together. With `curves=True` the values are those of every stage, `(N, K)`, and the
    fractions how much of the stages is random. The network and the global generators are left as they are.

    Args:
        order: `"top_down"` draws the last stage first and keeps it; `"bottom_up"` the first; `"independent"` draws each by
            itself, the others trained; `"full"` all at once, the cleanest.
        similarity: `"spearman"`, `"pearson"`, `"ssim"`, `"hog"` or `"top_k"`.
        absolute: Whether signs are dropped: a map and its negative are then the same.
        smooth: The standard deviation in pixels of the blur that both maps get before.
        seeds: How many times the weights are drawn: S.
        stages: K at most: a network's blocks are put together to so many; a large number takes every layer by itself.
        seed: Of the weights; every layer's is made of it and the layer's name.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> edges = attribution.create("edge", network)  # looks at the image alone
        >>> metrics.create("model_randomization").score(edges, torch.rand(2, 3, 4, 4), target=0).tolist()
        [1.0, 1.0]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "a map, or all of those of random networks, is the same everywhere"
    at_most: ClassVar[bool] = True  # a network may have fewer stages
    along: ClassVar[str] = "share of the stages drawn anew"  # across and up in figures
    shows: ClassVar[str] = "similarity to the trained network's map"
    small: ClassVar[dict[str, object]] = {"stages": 1, "seeds": 2}

    order: Order = "top_down"
    seeds: Count = 5
    stages: Count = 6
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """One for each stage and seed, and one for the ceiling: at most, as a network may have fewer stages."""
        per_seed = {"full": 1, "independent": self.stages + 1}.get(self.order, self.stages)
        return 1 + self.seeds * per_seed

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """One forward for each stage and seed and for the trained network: channel lengths. At most, as above."""
        del shape
        return 1 + self.seeds * (1 if self.order == "full" else self.stages)

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain by every network; all images of a stage together."""
        found = stages(attributor.model, images, self.stages)
        everything = [m for stage in found for m in stage.modules]
        own = self.described(maps)
        ceiling = self.alike(own, self.described(self._maps(reseeded(attributor), images, target)))
        randomized = Randomized(attributor.model)
        method = attributor.with_model(randomized.model)
        lengths = _channels(attributor.model, randomized.model, images)
        trained, survival = lengths(), []
        every, last = [], []
        for s in range(self.seeds):
            curve = []
            for _ in self._networks(randomized, found, self.seed + s):
                random = self.described(self._maps(method, images, target))
                curve.append(self.alike(own, random))
                survival.append(similarity(trained, lengths()))
            if self.order == "independent":
                randomized.draw(everything, self.seed + s)
                random = self.described(self._maps(method, images, target))
            randomized.restore(everything)
            last.append(random)
            every.append(torch.stack(curve, 1))
        values = torch.stack(every)  # (S, N, K)
        nothing = torch.full((len(images),), torch.nan, dtype=torch.float64)
        floor = [self.alike(a, b) for a, b in itertools.pairwise(last)]
        details = {
            "ceiling": ceiling,
            "floor": torch.stack(floor).nanmean(0) if floor else nothing,
            "survival": torch.stack(survival).nanmean(0),
            "spread": values.nanmean(2).std(0) if self.seeds > 1 else nothing,
            "undefined": values.isnan().sum((0, 2)).double(),
        }
        share = torch.arange(1, values.shape[2] + 1, dtype=torch.float64) / values.shape[2]
        return Scored(values.nanmean((0, 2)), share, values.nanmean(0), details=details)

    def maps_by_stage(
        self, attributor: Attributor, images: Tensor, target: TargetLike | Target = None
    ) -> tuple[list[str], Tensor]:
        """What `visualization.cascade` shows: the maps that the first seed's networks give.

        Args:
            attributor: The method, on the trained network.
            images: `(N, C, H, W)`.
            target: What is explained; `None` is the class that the trained network names.

        Returns:
            The names of the K stages in their order, and the maps `(N, K + 1, H, W)`, those of the trained network first.
        """
        model = attributor.model
        images = model.check(images)
        frozen = model.resolve(images, target)
        found = stages(model, images, self.stages)
        randomized = Randomized(model)
        method = attributor.with_model(randomized.model)
        maps = [self._maps(attributor, images, frozen)]
        names = []
        for name in self._networks(randomized, found, self.seed):
            names.append(name)
            maps.append(self._maps(method, images, frozen))
        return names, torch.cat(maps, 1)

    def _maps(self, attributor: Attributor, images: Tensor, target: Target) -> Tensor:
        """A method's maps, made again."""
        (maps,) = explained(attributor, 1, lambda _: (images, target), len(images))
        return maps

    def _networks(self, randomized: Randomized, found: list[Stage], seed: int) -> Iterator[str]:
        """Bring the copy from one stage to the next, whose name is given."""
        if self.order == "full":
            found = [Stage("all", tuple(m for stage in found for m in stage.modules))]
        for stage in reversed(found) if self.order == "top_down" else found:
            randomized.draw(stage.modules, seed)
            yield stage.name
            if self.order == "independent":
                randomized.restore(stage.modules)


def _channels(trained: Model, copied: Model, images: Tensor) -> Callable[[], Tensor]:
    """What gives the lengths of the channels of the last map that the copy has now, `(N, K, 1)`; one channel of 0 for none."""
    try:
        layer = trained.auto_layer(images)
    except ValueError:
        return lambda: torch.zeros(len(images), 1, 1)
    layout, rows = trained.layout(layer), torch.arange(len(images))

    def lengths() -> Tensor:
        activation = copied.activations(images, layer, rows=rows, count=len(images))
        return layout.maps(activation).flatten(2).double().square().sum(2, keepdim=True).sqrt()

    return lengths

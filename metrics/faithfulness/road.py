"""ROAD: how the score falls while pixels are removed and imputed from their neighbours."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from attriscope.attribution._parameters import Range, Seed
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.randomness import gaussians
from attriscope.attribution.targets import Output
from torch import Tensor

from ..metric import MapMetric, Scored, register
from ._imputation import Imputed
from .curve import Ties, ordered

Preset = Literal["few", "quantus"]
Read = Literal["accuracy", "probability", "logit", "log_probability", "margin"]

# percentages, score
PRESETS: dict[Preset, tuple[tuple[float, ...], Read]] = {
    "few": ((1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90), "probability"),
    "quantus": (tuple(range(1, 100, 2)), "accuracy"),
}
STREAM = 900_002  # of the draws: other numbers than those of methods and of other metrics
PAPER = "Rong, Leemann, Borisov, Kasneci and Kasneci 2022, arXiv:2202.00449"


def removed(pixels: int, percentages: tuple[float, ...]) -> Tensor:
    """How many pixels go at each percentage, `LongTensor (K,)`; one always stays.

    Example:
        >>> removed(50, (0, 1, 50, 99.9)).tolist()
        [0, 1, 25, 49]
    """
    return torch.tensor([min(int(p * pixels / 100 + 0.5), pixels - 1) for p in percentages])


class Removal(MapMetric):
    """What removing the most and the least important pixels first share.

    Args:
        preset: Whose percentages and score: "few" (11 percentages from 1 to 90, the target's probability) or "quantus" (1, 3,
            ... 99, accuracy: 50 forwards). Numbers of different presets do not compare.
        percentages: How many percent of the pixels are removed, rising, from 0 to below 100; `None`: the preset's.
        output: Which score; `None`: the preset's. "accuracy" is 1 where the network names the target (no class above it)
            and else 0, as in the paper; it is coarse for a single image.
        noise: Standard deviation of what is added to imputed pixels, as a share of the model's bounds (of 1 where there are
            none); the same noise for every image and percentage. It is not cut off at the bounds.
        ties: Who comes first of pixels with equal values: "random" (drawn by `seed`) or "index" (from the top left).
        seed: For ties and noise.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    ranks: ClassVar[bool] = True
    orders: ClassVar[tuple[Literal["most", "least"], ...]] = ("most",)

    preset: Preset = "few"
    percentages: tuple[float, ...] | None = None
    output: Read | None = None
    noise: Annotated[float, Range(0)] = 0.01
    ties: Ties = "random"
    seed: Seed = 0

    def validate(self) -> None:
        """Percentages rise, and leave something."""
        given = self.percentages
        if given is None:
            return
        numbers = all(isinstance(p, int | float) and not isinstance(p, bool) for p in given)
        if not given or not numbers or not all(a < b for a, b in itertools.pairwise(given)):
            raise ValueError(f"{self.name}: percentages={given!r}: give one or more numbers that rise")
        if not (given[0] >= 0 and given[-1] < 100):
            raise ValueError(
                f"{self.name}: percentages={given!r}: they lie between 0 and 100, and 100 leaves nothing to impute from"
            )

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        percentages, output = PRESETS[self.preset]
        return {
            "percentages": list(self.percentages or percentages),
            "output": self.output or output,
            "noise": self.noise,
            "ties": self.ties,
            "seed": self.seed,
        }

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """One for each percentage, in each order."""
        del shape
        return len(self.orders) * len(self.protocol["percentages"])

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the images with holes imputed, which are made a few at a time."""
        protocol = self.protocol
        if protocol["output"] == "accuracy" and todo.target.function is not None:
            raise ValueError(f"{self.name}: accuracy needs a class as target: pass output='probability' for a callable")
        output: Output = "margin" if protocol["output"] == "accuracy" else protocol["output"]
        percentages = tuple(protocol["percentages"])
        cuts = removed(maps[0].numel(), percentages)
        low, high = todo.model.bounds or (0.0, 1.0)
        like = images if images.dtype == torch.float64 else images.float()
        noise = gaussians(self.seed, 1, images[0].numel(), like=like, stream=STREAM).reshape(images.shape[1:])
        noise = noise * (self.noise * (high - low))
        places = ordered(todo, maps, self.ties, self.seed)
        curves = []
        for order in self.orders:
            first = places.most if order == "most" else places.least
            key = ("road", percentages, self.noise, self.seed, first)
            curves.append(todo.ask(Imputed(images, first.tensor, cuts, noise), output=output, key=key))
        at = torch.tensor(percentages, dtype=torch.float64) / 100

        def finish() -> Scored:
            found = [curve().cpu().double() for curve in curves]
            if protocol["output"] == "accuracy":
                found = [(f >= 0).double() for f in found]
            values = (found[1] - found[0]) / 2 if len(found) > 1 else found[0]
            scores = torch.where(places.defined, area(values, at), torch.nan)
            more: dict[str, Tensor] = {order: area(f, at) for order, f in zip(self.orders, found, strict=True)}
            return Scored(scores, at, values, places.tied, more if len(found) > 1 else {})

        return finish


def area(values: Tensor, at: Tensor) -> Tensor:
    """The mean height of curves `(N, K)` between their first and last point, `(N,)`; of a single point its height.

    Example:
        >>> area(torch.tensor([[1.0, 0.5, 0.5]]), torch.tensor([0.0, 0.2, 1.0])).tolist()
        [0.550000011920929]
    """
    return torch.trapezoid(values, at, dim=1) / (at[-1] - at[0]) if len(at) > 1 else values[:, 0]


@register("road", family="faithfulness", aliases=("road_most", "road_morf"), paper=PAPER)
class Road(Removal):
    """The score while the most important pixels are removed first and imputed from their neighbours: the curve's mean height.

    Every removed pixel becomes the weighted mean of its eight neighbours, all of them at once, and a little noise: unlike a
    hole in one colour this leaves no shape behind that tells which pixels went. Lower is better; between 0 and 1 for
    accuracy and probability. What a network can guess from the surroundings stays high whatever the map says: compare with a
    random map, and with `road_least`.

    The curve is weighed by the trapezoid rule over the percentages, so that where they are dense they do not count more.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> metrics.create("road", percentages=(10, 50, 90)).score(network, images, maps, target=0).shape
        torch.Size([3])
    """

    higher_is_better: ClassVar[bool] = False


@register("road_least", family="faithfulness", aliases=("road_lerf",), paper=PAPER)
class RoadLeast(Removal):
    """The same as `road`, the least important pixels first: higher is better.

    A map that names too little of what counts loses it early here, where `road` forgives it.

    Example:
        >>> from attriscope import metrics
        >>> metrics.create("road_least", preset="quantus").cost()
        50
    """

    orders: ClassVar[tuple[Literal["most", "least"], ...]] = ("least",)


@register("road_difference", family="faithfulness", aliases=("road_combined",), paper=PAPER)
class RoadDifference(Removal):
    """Half of `road_least` minus `road`: between -0.5 and 0.5, and 0 for a random map of any network.

    Higher is better. What the network guesses from the surroundings is in both and goes out. The details hold both by
    `most` and `least`.

    Example:
        >>> from attriscope import metrics
        >>> metrics.describe("road_combined")["chance"]
        0.0
    """

    range: ClassVar[tuple[float, float]] = (-0.5, 0.5)
    chance: ClassVar[float | None] = 0.0
    orders: ClassVar[tuple[Literal["most", "least"], ...]] = ("most", "least")

"""What both subset selections share: what sets of regions are worth, the search of many images at once, path and map."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import baselines
from .. import regions as maps_of_regions
from .._parameters import Range, Seed
from ..attributor import REGISTRY, Computed, create
from ..games import Game
from ..masking import Coalitions
from ..perturbation._regional import Regional
from ..regions import Regions, paint, table
from ..targets import Output, Target
from ._search import Extra, Search, nothing

Preset = Literal["smdl", "lima", "vps"]
Painting = Literal["gain", "rank"]
CELLS = 2  # along each side: a region of the prior has as many cells as fit into such a square
TIE = 1e-4  # of a map's range: what tells regions of equal gain apart, first to last

__all__ = ["PRESETS", "Games", "Subset", "Weights", "describe", "diversity", "path_map", "ranked_cells", "run", "weigh"]


class Weights(NamedTuple):
    """What each of the four terms counts."""

    consistency: float
    collaboration: float
    confidence: float
    effectiveness: float


PRESETS: dict[Preset, Weights] = {
    "smdl": Weights(1.0, 1.0, 1.0, 1.0),
    "lima": Weights(20.0, 5.0, 0.01, 0.0),
    "vps": Weights(1.0, 1.0, 0.0, 0.0),
}


def weigh(options: Any) -> Weights:
    """The weights that options name: those of the preset, where they are `None`."""
    given = [getattr(options, name) for name in Weights._fields]
    return Weights(*(p if g is None else g for g, p in zip(given, PRESETS[options.preset], strict=True)))


@dataclass
class Games:
    """The same regions under one or several baselines: scores are means over these.

    Attributes:
        each: One game per baseline.
    """

    each: Sequence[Game]

    @property
    def sizes(self) -> list[int]:
        """How many regions each image has."""
        return self.each[0].sizes

    def values(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        """Scores of sets, as `Game.values`."""
        return _mean([game.values(wanted) for game in self.each])

    def confidences(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        """Confidences of sets, as `Game.confidences`."""
        return _mean([game.confidences(wanted) for game in self.each])

    def worth(self, wanted: Sequence[Tensor], weights: Weights) -> list[Tensor]:
        r"""What the network says of sets, `(m_i,)` for each image.

        .. math:: \lambda_1 \, p(S) + \lambda_2 \, (1 - p(V \setminus S)) + \lambda_3 \, \mathrm{confidence}(S)

        A term that counts nothing is not evaluated.
        """
        both = [torch.cat([w, ~w]) if weights.collaboration else w for w in wanted]
        if not (weights.consistency or weights.confidence):
            both = [~w for w in wanted]
        found = []
        for w, values in zip(wanted, self.values(both), strict=True):
            shown, hidden = values[: len(w)], values[len(values) - len(w) :]
            found.append(weights.consistency * shown + weights.collaboration * (1 - hidden))
        if weights.confidence:
            sure = self.confidences(wanted)
            found = [f + weights.confidence * s for f, s in zip(found, sure, strict=True)]
        return found


def _mean(found: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(one).mean(0) for one in zip(*found, strict=True)]


def run(searches: Sequence[Search], games: Games, weights: Weights) -> list[list[int]]:
    """All images' searches, one step of each at a time, their questions in one stream of full batches.

    Returns:
        Each image's order.

    Raises:
        ValueError: A set's score is NaN.
    """
    orders: list[list[int]] = [[] for _ in searches]
    asked: dict[int, Tensor] = {}

    def go_on(at: int, step: Callable[[], Tensor]) -> None:
        try:
            asked[at] = step()
        except StopIteration as end:
            orders[at] = end.value

    for at, search in enumerate(searches):
        go_on(at, partial(next, search))
    while asked:
        now, asked = asked, {}
        wanted = [now.get(at, torch.zeros(0, d, dtype=torch.bool)) for at, d in enumerate(games.sizes)]
        worth = games.worth(wanted, weights)
        lost = [at for at in now if bool(worth[at].isnan().any())]
        if lost:
            raise ValueError(
                f"the score of a part of images {lost[:5]} is NaN, which has no place in an order: look at the network's "
                "outputs there"
            )
        for at in now:
            go_on(at, partial(searches[at].send, worth[at]))
    return orders


def diversity(features: Tensor, weight: float) -> Extra:
    r"""How different regions' features are, as a function of sets (the effectiveness score).

    .. math:: E(S) = \sum_{i \in S} \min_{j \in S, j \ne i} \arccos(\phi_i \cdot \phi_j) / \pi

    It is 0 for fewer than two regions, and neither monotone nor submodular.

    Args:
        features: `(d, D)`, of images that show one region each.
        weight: What it counts.

    Example:
        >>> worth = diversity(torch.eye(2), 1.0)
        >>> worth(torch.tensor([[True, False], [True, True]])).tolist()
        [0.0, 1.0]
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    apart = (unit @ unit.T).clamp(-1, 1).arccos() / math.pi
    apart.fill_diagonal_(torch.inf)

    def extra(sets: Tensor) -> Tensor:
        nearest = apart.expand(len(sets), -1, -1).masked_fill(~sets[:, None], torch.inf).amin(2)
        inside = nearest.masked_fill(~sets | nearest.isinf(), 0)
        return weight * inside.sum(1)

    return extra


def path_map(order: Sequence[int], gains: Tensor, how: Painting) -> Tensor:
    """Each region's value in [0, 1], from the order, `(d,)` float64.

    Args:
        order: The regions.
        gains: `(d + 1,)`, consistency plus collaboration after 0 ... d regions.
        how: `"rank"`: evenly from 1 to 1/d. `"gain"`: each region is as far below the one before it as the gains of the
            two differ, the first is 1 and the last 0; equal ones are told apart by a ten-thousandth of the range. Where all
            gains are alike it is the rank.

    Example:
        >>> path_map([1, 0, 2], torch.tensor([0.0, 1.0, 1.5, 2.0]).double(), "gain").tolist()
        [0.5, 1.0, 0.0]
    """
    d = len(order)
    values = -gains.diff().abs().cumsum(0)
    spread = values[0] - values[-1]
    if how == "rank" or not bool(spread > 0):
        values = torch.arange(d, 0, -1, dtype=torch.float64) / d
    else:
        evenly = torch.linspace(1, 0, d, dtype=torch.float64)
        values = ((values - values[-1]) / spread + TIE * evenly) / (1 + TIE)
    found = torch.empty(d, dtype=torch.float64)
    found[list(order)] = values
    return found


def ranked_cells(maps: Tensor, n_regions: int) -> Tensor:
    """Regions of what a map finds equally important: the cells of a grid, ranked by the map, cut into groups of one size.

    The grid has twice as many rows and columns as one with `n_regions` cells.

    Args:
        maps: `(N, 1, H, W)`.
        n_regions: The most groups; where there are fewer cells, each is one.

    Returns:
        `LongTensor (N, H, W)`; region 0 is the most important.

    Example:
        >>> ranked_cells(torch.tensor([[[[0.0, 3.0], [1.0, 2.0]]]]), 2).tolist()
        [[[1, 0], [1, 0]]]
    """
    rows, columns = (CELLS * n for n in maps_of_regions.sides(n_regions))
    cells = maps_of_regions.grid(maps.shape[2], maps.shape[3], rows, columns)[0].to(maps.device)
    number = int(cells.max()) + 1
    flat = cells.flatten().expand(len(maps), -1)
    total = maps.new_zeros(len(maps), number, dtype=torch.float64).scatter_add_(1, flat, maps.flatten(1).double())
    means = total / torch.bincount(cells.flatten(), minlength=number)
    ranks = means.argsort(dim=1, descending=True, stable=True).argsort(1)
    groups: Tensor = ranks * min(n_regions, number) // number
    return groups.gather(1, flat).reshape(len(maps), *cells.shape)


def describe(orders: Sequence[Sequence[int]], games: Games, inputs: Tensor, *, how: Painting) -> Computed:
    """Maps and details of orders: the path of scores from nothing to everything, which the search has paid for."""
    labels = games.each[0].labels
    paths = [_prefixes(order) for order in orders]
    values = games.values([torch.cat([p, ~p]) for p in paths])
    shown = [v[: len(p)] for v, p in zip(values, paths, strict=True)]
    hidden = [1 - v[len(p) :] for v, p in zip(values, paths, strict=True)]
    areas = [_areas(order, one) for order, one in zip(orders, labels, strict=True)]
    maps = [path_map(o, a + b, how) for o, a, b in zip(orders, shown, hidden, strict=True)]
    painted, _ = paint(maps, labels, inputs)
    best = torch.tensor([int(s[1:].argmax()) + 1 for s in shown])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(o) for o in orders], batch_first=True, padding_value=-1)
    return Computed(
        painted,
        {
            "order": padded,
            "labels": labels,
            "consistency": table(shown),
            "collaboration": table(hidden),
            "areas": table(areas),
            "best_prefix": best,
            "best_area": torch.stack([a[k] for a, k in zip(areas, best.tolist(), strict=True)]),
            "insertion": torch.stack([torch.trapezoid(s, a) for s, a in zip(shown, areas, strict=True)]),
            "deletion": torch.stack([torch.trapezoid(1 - h, a) for h, a in zip(hidden, areas, strict=True)]),
        },
    )


def _prefixes(order: Sequence[int]) -> Tensor:
    """The first 0, 1, ... d regions, `(d + 1, d)`."""
    rank = torch.empty(len(order), dtype=torch.long)
    rank[list(order)] = torch.arange(len(order))
    return rank < torch.arange(len(order) + 1)[:, None]


def _areas(order: Sequence[int], labels: Tensor) -> Tensor:
    """The part of the image that the first 0, 1, ... d regions cover, `(d + 1,)`."""
    pixels = torch.bincount(labels.flatten().cpu(), minlength=len(order))[list(order)].double()
    return torch.cat([pixels.new_zeros(1), pixels.cumsum(0)]) / labels.numel()


class Subset(Regional):
    """A method that orders regions by a search.

    Args:
        regions: Which pixels are ranked together: "slic", "grid", "felzenszwalb", a tensor of labels (H, W) or (N, H, W), a
            callable, which makes n_regions at most, or "prior": what another method's map finds equally important, wherever
            it lies.
        prior: For "prior": the name of that method, with its defaults.
        baseline: What stands in for regions that are not shown: "zero", "black", "white", "mean", "blur", "noise",
            "region_mean", a number, a tensor or a callable; or several in a tuple: then a score is the mean over these.
        output: Which score is looked at; what papers mean is the probability.
        preset: The weights of all four terms: "smdl" (1, 1, 1, 1), "lima" (20, 5, .01, 0) or "vps" (1, 1, 0, 0).
        consistency: What counts the score of what is shown; `None`: as in the preset.
        collaboration: What counts one minus the score of the rest; `None`: as in the preset.
        confidence: What counts how far the class probabilities are from telling nothing, whatever the class; `None`: as in
            the preset. The term is 0 where the target is no class out of several that exclude each other.
        effectiveness: What counts how different the regions' features are; `None`: as in the preset. It needs `features`.
        features: A layer's name, or a callable from images `(M, C, H, W)` to `(M, D)`.
        map: "gain": how much the score changes from region to region. "rank": the order alone.
    """

    regions: Regions | Literal["prior"] = "slic"  # type: ignore[assignment]  # one more than Regional's
    baseline: baselines.Baselines = "mean"  # type: ignore[assignment]  # Regional's, or several
    output: Output = "probability"
    prior: str = "hsic"
    preset: Preset = "vps"
    consistency: Annotated[float, Range(0)] | None = None
    collaboration: Annotated[float, Range(0)] | None = None
    confidence: Annotated[float, Range(0)] | None = None
    effectiveness: Annotated[float, Range(0)] | None = None
    features: str | Callable[[Tensor], Tensor] | None = None
    map: Painting = "gain"
    seed: Seed = 0

    def validate(self) -> None:
        """Something counts; what is needed for it is there."""
        weights = weigh(self)
        if not (weights.consistency or weights.collaboration):
            raise ValueError(f"{self.name}: consistency and collaboration are both 0: one of them must count")
        if weights.effectiveness and self.features is None:
            raise ValueError(
                f"{self.name}: effectiveness={weights.effectiveness:g} compares features: name a layer, features='...', give "
                "a callable from images to (M, D), or set effectiveness=0"
            )
        baselines.each(self.baseline)
        if self.regions == "prior":
            REGISTRY.find(self.prior)

    @abstractmethod
    def searched(self, d: int, extra: Extra) -> Search:
        """The search of one image with d regions."""

    def games(self, inputs: Tensor, target: Target) -> Games:
        """The score of every image as a function of the regions that are shown."""
        labels = self._labels(inputs, target)
        confident = weigh(self).confidence > 0
        made = baselines.make_each(self.baseline, inputs, self.model, seed=self.seed, labels=labels)
        return Games(
            [Game(self.model, inputs, b, labels, target, output=self.output, confident=confident) for b in made]
        )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        games = self.games(inputs, target)
        searches = [self.searched(d, e) for d, e in zip(games.sizes, self._extras(games, target), strict=True)]
        orders = run(searches, games, weigh(self))
        return describe(orders, games, inputs, how=self.map)

    def _labels(self, inputs: Tensor, target: Target) -> Tensor:
        """The regions of every image."""
        if self.regions != "prior" or inputs.ndim != 4:
            return self.label_maps(inputs)
        maps = create(self.prior, self.model).attribute(inputs, target)
        return ranked_cells(maps, self.n_regions)

    def _extras(self, games: Games, target: Target) -> list[Extra]:
        """What sets of each image's regions are worth besides what the network says."""
        weight = weigh(self).effectiveness
        if not weight:
            return [nothing] * len(games.sizes)
        game = games.each[0]
        single = [torch.eye(d, dtype=torch.bool, device=game.inputs.device) for d in games.sizes]
        source = Coalitions(game.inputs, game.baseline, game.labels, lambda row, items: single[row][items], games.sizes)
        found = []
        for row, d in enumerate(games.sizes):
            images = game.inputs.new_empty(d, *game.inputs.shape[1:])
            source.write(images, row, slice(0, d))
            found.append(diversity(self._features(images, target.rows[[row] * d], target.count), weight))
        return found

    def _features(self, images: Tensor, rows: Tensor, count: int) -> Tensor:
        """`(M, D)`, on the CPU."""
        if isinstance(self.features, str):
            found = self.model.activations(images, self.features, rows=rows, count=count)
            found = found.flatten(2).mean(2) if found.ndim == 4 else found.mean(1) if found.ndim == 3 else found
        else:
            assert self.features is not None
            found = self.features(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{self.name}: features gave {got} for {len(images)} images: they must be (M, D)")
        return found.detach().cpu()

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        d, weights = cls.players(options, shape), weigh(options)
        games = len(baselines.each(options.baseline))
        asked = cls._sets(options, d)
        sides = (weights.consistency + weights.confidence > 0) + (weights.collaboration > 0)
        forwards = games * (sides * asked + (2 - sides) * d + 2)
        backwards = 0
        if weights.effectiveness and isinstance(options.features, str):
            forwards += d
        if options.regions == "prior" and len(shape) == 3:
            cost = REGISTRY.find(options.prior).cost(shape)
            forwards, backwards = forwards + cost.forwards, cost.backwards
        return forwards, backwards

    @classmethod
    @abstractmethod
    def _sets(cls, options: Any, d: int) -> int:
        """The most sets of d regions that the search asks for, without the empty and the whole one."""

    @classmethod
    def players(cls, options: Any, shape: tuple[int, ...]) -> int:
        """The most regions that an input of this shape has."""
        if options.regions == "prior":
            return maps_of_regions.most("grid", options.n_regions, shape)
        return super().players(options, shape)

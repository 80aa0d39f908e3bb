"""ShapBPT: Owen values on a binary tree of the image's regions, refined where they are largest."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import baselines, games, trees
from .._parameters import Count, Range
from ..attributor import Attributor, Computed, register
from ..targets import Target
from ..trees import Tree

Play = Callable[[Sequence[Tensor]], list[Tensor]]


class Owen(NamedTuple):
    """Owen values of one game, as far as they were refined.

    Attributes:
        values: `(leaves,)` float64: of one pixel of each leaf.
        remaining: What is held by pieces that could still be split: the sum of their `weight * |difference|`.
        evaluations: How many coalitions were asked for, the empty and the whole one included.
        pieces: `(leaves,)`: the leaves that nothing has told apart have the same number.
    """

    values: Tensor
    remaining: float
    evaluations: int
    pieces: Tensor


def owen(
    forest: Sequence[Tree],
    play: Play,
    *,
    evaluations: int,
    splits: int = 8,
    tolerance: float | None = None,
    noise: float = 1e-6,
) -> list[Owen]:
    """Owen values of the leaves of trees, best first, all games in lock-step.

    An item is a node T beside a set Q of other nodes, with a weight w; it holds `w (v(Q + T) - v(Q))`. Splitting T into A
    and B evaluates `v(Q + A)` and `v(Q + B)` and leaves four items of weight w / 2: A and B, each beside Q and beside Q and
    the other one. What they hold sums to what it held, so that the values sum to `v(all) - v(none)` at every moment.

    Args:
        forest: The tree of each game.
        play: `play(wanted)`: for each game the scores `(m,)`, float64, of its coalitions `(m, leaves)`, bool.
        evaluations: The most coalitions of each game.
        splits: Items of each game that are split at a time: those that hold the most in absolute value.
        tolerance: A game is left alone when no item holds more than this part of `|v(all) - v(none)|`.
        noise: Items are taken as equal, and the older one is split, where they differ by less than this part of the
            game's largest score: so that the rounding of scores does not decide.

    Example:
        >>> tree = trees.halve(1, 4)
        >>> together = lambda wanted: [(w[:, 0] & w[:, 1] & w[:, 2]).double() for w in wanted]
        >>> owen([tree], together, evaluations=100)[0].values.tolist()
        [0.25, 0.25, 0.5, 0.0]
    """
    first = play([games.ends(len(tree.areas)) for tree in forest])
    found = [_Search(tree, *both.tolist(), room=evaluations) for tree, both in zip(forest, first, strict=True)]
    while True:
        wanted = [one.ask(splits, tolerance, noise) for one in found]
        if not any(map(len, wanted)):
            break
        for one, scores in zip(found, play(wanted), strict=True):
            one.tell(scores.numpy())
    return [one.result() for one in found]


class _Search:
    """The items of one game; those of one split follow one another."""

    def __init__(self, tree: Tree, empty: float, whole: float, *, room: int) -> None:
        self.tree, self.room, self.spent = tree, room, 2
        self.difference = whole - empty
        self.largest: Any = np.max(np.abs([empty, whole]))
        self.nodes: list[int] = []
        self.weights: list[float] = []
        self.below: list[float] = []  # v(Q)
        self.above: list[float] = []  # v(Q + T)
        self.beside: list[npt.NDArray[np.uint8]] = []  # Q, as bits
        self.open: list[bool] = []
        self.mass = np.full(1 + 2 * room, -np.inf)  # w |v(Q + T) - v(Q)| of what can be split
        self.picked: list[int] = []
        self.asked: npt.NDArray[np.bool_] = np.zeros((0, len(tree.areas)), np.bool_)
        self._push(0, 1.0, empty, whole, np.packbits(np.zeros(len(tree.areas), np.bool_)))

    def _push(self, node: int, weight: float, below: float, above: float, beside: npt.NDArray[np.uint8]) -> None:
        if self.tree.children[node, 0] >= 0:
            self.mass[len(self.nodes)] = weight * abs(above - below)
        self.nodes.append(node)
        self.weights.append(weight)
        self.below.append(below)
        self.above.append(above)
        self.beside.append(beside)
        self.open.append(True)

    def ask(self, splits: int, tolerance: float | None, noise: float) -> Tensor:
        """The coalitions that split the next items, `(2 * items, leaves)`; none when the search is over."""
        self.picked = []
        least = -np.inf if tolerance is None else tolerance * abs(self.difference)
        rest = self.mass[: len(self.nodes)].copy()
        for _ in range(min(splits, (self.room - self.spent) // 2)):
            top = rest.max()
            # a score that is no number: the map will say so
            if top < least or top == -np.inf or not np.isfinite(self.largest):
                break
            first = int(np.argmax(rest >= top - noise * self.largest))
            rest[first] = -np.inf
            self.picked.append(first)
        self.picked.sort()  # the order within a round is nobody's business: children are numbered by their parents' age
        leaves = len(self.tree.areas)
        self.asked = np.zeros((2 * len(self.picked), leaves), np.bool_)
        for at, item in enumerate(self.picked):
            rows = self.asked[2 * at : 2 * at + 2]
            rows[:] = np.unpackbits(self.beside[item], count=leaves)
            for row, child in zip(rows, self.tree.children[self.nodes[item]], strict=True):
                row[slice(*self.tree.spans[child])] = True
        return torch.from_numpy(self.asked)

    def tell(self, scores: npt.NDArray[np.float64]) -> None:
        """Split what was picked, by the scores of what was asked for."""
        for at, item in enumerate(self.picked):
            one, other = self.tree.children[self.nodes[item]].tolist()
            with_one, with_other = scores[2 * at : 2 * at + 2].tolist()
            one_kept, other_kept = np.packbits(self.asked[2 * at : 2 * at + 2], axis=1)
            half, low, high, beside = self.weights[item] / 2, self.below[item], self.above[item], self.beside[item]
            self._push(one, half, low, with_one, beside)
            self._push(other, half, low, with_other, beside)
            self._push(one, half, with_other, high, other_kept)
            self._push(other, half, with_one, high, one_kept)
            self.open[item] = False
            self.mass[item] = -np.inf
        self.spent += len(scores)
        self.largest = np.max(np.abs([self.largest, *scores]))

    def result(self) -> Owen:
        """Every item that was not split gives what it holds to its pixels, each the same."""
        held = np.zeros(len(self.tree.spans))
        for item, node in enumerate(self.nodes):
            if self.open[item]:
                held[node] += self.weights[item] * (self.above[item] - self.below[item])
        starts = np.concatenate([[0], self.tree.areas.cumsum()])
        values, cuts = np.zeros(len(self.tree.areas)), np.zeros(len(self.tree.areas), np.int64)
        for node in sorted(set(self.nodes)):
            start, stop = self.tree.spans[node]
            # slice by slice: one sum of differences would carry the rounding of the largest values through all pixels
            values[start:stop] += held[node] / (starts[stop] - starts[start])
            cuts[start] = 1
        remaining = float(self.mass[self.mass > -np.inf].sum())
        return Owen(torch.from_numpy(values), remaining, self.spent, torch.from_numpy(cuts.cumsum() - 1))


@register(
    "shap_bpt",
    family="perturbation",
    aliases=("bpt", "owen"),
    granularity="region",
    complete=True,
    at_most=True,
    samples="evaluations",
    kinds=("image", "table", "tokens"),
    small={"evaluations": 100},
    paper="Rashid, Amparore, Ferrari and Verda 2026, arXiv:2602.07047, the Owen formula on a binary partition tree",
)
class ShapBPT(Attributor):
    r"""Owen values on a binary tree of the image's regions: coarse everywhere, fine where the score hangs on it.

    The score's difference to the baseline's is shared out from the top of the tree: a region T with halves A and B, beside
    others Q that are shown, holds

    .. math::
        \Omega(T, Q) = v(Q \cup T) - v(Q)
        = \tfrac12 \bigl[\Omega(A, Q) + \Omega(A, Q \cup B) + \Omega(B, Q) + \Omega(B, Q \cup A)\bigr]

    and what holds the most is split next. A pixel has its region's value over the region's area, so that the map sums to
    the difference of the two scores whatever was spent; with few evaluations it is coarser, not noisier.

    Values compare within one map by area: a small region is brighter than a large one of the same value. They are
    Owen's, not Shapley's: regions are judged with their branch of the tree all in or all out, so that another tree gives
    another map. What is in a region that was not split is not known, and a region whose halves speak against each other
    may hold nothing and be split late. Edges are the tree's: that a map follows the object's outline says that the
    image has an edge there, not that the network looks at it.

    Args:
        output: Which score; the authors' notebooks take the logit.
        evaluations: The most forwards for each image, with the image itself and the baseline; two for each split.
        tree: "bpt" joins alike neighbours, so that regions follow the image's edges; "axis" halves rectangles. For tables
            and tokens both halve the order of columns or tokens.
        leaves: The most regions at the bottom of the tree. Larger images start from so many superpixels, or rectangles.
        splits: Regions of each image that are split before the next are chosen. Fewer choose better, more fill the batches
            of a single image; it changes the map, as the batch size does not.
        tolerance: An image is left alone when no region holds more than this part of the score's difference.
        baseline: What stands in for a region that is left out.

    Returns:
        `(N, 1, H, W)`, `(N, F)` or `(N, T, D)`, in the score's unit per pixel, column or number. In the details: `leaves`,
        the label map of the tree's leaves, and `regions`, that of the pieces that were told apart; `evaluations` `(N,)`;
        and `remaining` `(N,)`, what is held by regions that could still be split, in absolute value: how much of the map is
        not yet as fine as it could be.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> images = torch.rand(1, 3, 8, 8)
        >>> found = attribution.create("shap_bpt", network, budget=40).explain(images, target=1)
        >>> difference = network(images)[0, 1] - network(0 * images)[0, 1]
        >>> bool((found.maps.sum() - difference).abs() < 1e-5), found.forwards.tolist()
        (True, [40])
    """

    evaluations: Annotated[int, Range(2)] = 500
    tree: trees.Kind = "bpt"
    leaves: Count = 2048
    splits: Count = 8
    tolerance: Annotated[float, Range(0)] | None = None
    baseline: baselines.Baseline = "mean"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        made = trees.make(self.tree, inputs, self.model, leaves=self.leaves)
        labels = torch.stack([tree.labels for tree in made]).to(inputs.device)
        baseline = baselines.make(self.baseline, inputs, self.model)
        game = games.Game(self.model, inputs, baseline, labels, target, output=self.output)
        found = owen(
            made,
            game.values,
            evaluations=self.evaluations,
            splits=self.splits,
            tolerance=self.tolerance,
            noise=8 * torch.finfo(inputs.dtype).eps,
        )
        # all of a token's numbers are one leaf
        share = inputs.shape[2] if inputs.ndim == 3 else 1
        maps = torch.stack([one.values[tree.labels] for one, tree in zip(found, made, strict=True)]) / share
        details = {
            "leaves": labels,
            "regions": torch.stack([one.pieces[tree.labels] for one, tree in zip(found, made, strict=True)]).to(inputs.device),
            "remaining": torch.tensor([one.remaining for one in found], dtype=torch.float64),
            "evaluations": torch.tensor([one.evaluations for one in found]),
        }
        return Computed((maps[:, None] if inputs.ndim == 4 else maps).to(inputs), details)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.evaluations, 0

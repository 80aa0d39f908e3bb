"""Shapley sampling: what each region adds when regions appear one after the other in random orders."""

from typing import Any

import torch
from torch import Tensor

from .._parameters import Count, Seed
from ..attributor import Computed, register
from ..games import Game
from ..intervals import half_width
from ..randomness import uniforms
from ..regions import paint, table
from ..targets import Target
from ._regional import Regional


def orders(d: int, permutations: int, seed: int) -> Tensor:
    """When each region appears, `(permutations, d)`: order 2k is drawn, order 2k + 1 is the same backwards.

    Example:
        >>> orders(3, 2, 0).sum(0).tolist()
        [2, 2, 2]
    """
    drawn = uniforms(seed, -(-permutations // 2), d, stream=3).argsort(dim=1, stable=True).argsort(1)
    return torch.stack([drawn, d - 1 - drawn], 1).flatten(0, 1)[:permutations]


def shapley_sampling(game: Game, *, permutations: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Shapley values of the regions of every image, and the half-widths of their 95% intervals, `(d,)` each.

    Args:
        game: The score as a function of the regions that are kept.
        permutations: How many orders; each costs d - 1 evaluations.
        seed: Of the orders.
    """
    ranks = [orders(d, permutations, seed) for d in game.sizes]
    # version t of an order: the t regions that appear first
    wanted = [r[:, None] < torch.arange(d + 1)[None, :, None] for r, d in zip(ranks, game.sizes, strict=True)]
    scores = game.values([w.flatten(0, 1) for w in wanted])
    values, widths = [], []
    for rank, found in zip(ranks, scores, strict=True):
        along = found.reshape(permutations, -1)
        added = (along[:, 1:] - along[:, :-1]).gather(1, rank)
        values.append(added.mean(0))
        pairs = added[: permutations // 2 * 2].reshape(-1, 2, rank.shape[1]).mean(1)
        widths.append(half_width(pairs) if len(pairs) > 1 else torch.full_like(values[-1], torch.nan))
    return values, widths


@register(
    "shapley_sampling",
    family="perturbation",
    aliases=("shapley_value_sampling",),
    stochastic=True,
    granularity="region",
    complete=True,
    at_most=True,
    samples="permutations",
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 9, "permutations": 12},
    paper="Castro, Gomez and Tejada 2009, doi:10.1016/j.cor.2008.04.004; orders and their reverses: Mitchell, Cooper, Frank "
    "and Holmes 2022, arXiv:2104.12199",
)
class ShapleySampling(Regional):
    r"""What each region adds to the score when regions appear one by one, averaged over random orders and their reverses.

    .. math:: \phi_i = \frac{1}{M} \sum_{\pi} v(\mathrm{before}_\pi(i) \cup i) - v(\mathrm{before}_\pi(i))

    Every single order sums to the score minus the baseline's, so the map does, whatever the number of orders. An order and
    its reverse together are exact where regions act alone or in pairs. The values depend on the baseline: what looks like
    it gets nothing.

    Args:
        output: Which score.
        permutations: How many orders, each reversed before the next is drawn; an order costs regions - 1 forwards.
        seed: Order n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, signed: a pixel has its region's value over the region's area, so that the map sums to the score of
        the image minus the baseline's. `details["values"]` has the regions' values `(N, regions)`,
        `details["half_width"]` that of their 95% intervals over pairs of orders (NaN for fewer than two pairs),
        `details["labels"]` the regions.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> made = attribution.create("shapley_sampling", network, regions="grid", n_regions=4, permutations=2)
        >>> made.explain(torch.rand(1, 3, 8, 8)).details["values"].shape
        torch.Size([1, 4])
    """

    permutations: Count = 20
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        game = self.game(inputs, target)
        values, widths = shapley_sampling(game, permutations=self.permutations, seed=self.seed)
        maps, details = paint(values, game.labels, inputs, share=True)
        return Computed(maps, {**details, "half_width": table(widths)})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.permutations * (cls.players(options, shape) - 1) + 2, 0

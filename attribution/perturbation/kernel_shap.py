"""KernelSHAP: Shapley values of regions by a weighted regression whose sum is fixed."""

import itertools
import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import designs
from .._parameters import Range, Seed
from ..attributor import Computed, register
from ..games import Game, ends
from ..intervals import student
from ..randomness import uniforms
from ..regions import paint, table
from ..targets import Target
from ._regional import Regional

Sampling = Literal["kernel", "uniform"]
GROUPS = 10  # of draws, for the intervals


class Bank(NamedTuple):
    """Coalitions with what each weighs.

    Attributes:
        rows: `(m, d)` bool, each once, neither empty nor whole.
        fixed: `(m,)` the weight of those of sizes that are there completely; 0 for others.
        times: `(m, groups)` how often each of the others was drawn, in each group of draws.
        mass: What all drawn ones weigh together.
    """

    rows: Tensor
    fixed: Tensor
    times: Tensor
    mass: float


def sizes_law(d: int) -> list[float]:
    """How much the Shapley kernel weighs all coalitions of size 1 ... d - 1 together, summing to 1.

    Example:
        >>> [round(p, 3) for p in sizes_law(4)]
        [0.364, 0.273, 0.364]
    """
    raw = [1 / (k * (d - k)) for k in range(1, d)]
    return [p / math.fsum(raw) for p in raw]


def bank(d: int, samples: int, seed: int) -> Bank:
    """At most so many coalitions of d regions, for the regression.

    Sizes are taken whole, from the outside in (1 and d - 1, then 2 and d - 2), while drawing would spend as many samples
    on them as they have coalitions; the rest is drawn, each coalition together with its complement, by the kernel.

    Args:
        d: Regions, at least 2.
        samples: The most coalitions.
        seed: Draw n depends on seed and n alone.

    Example:
        >>> bank(4, 100, 0).rows.shape, float(bank(4, 100, 0).fixed.sum().round(decimals=9))  # all of them
        (torch.Size([14, 4]), 1.0)
    """
    law = sizes_law(d)
    rest, left = 1.0, samples
    taken: list[int] = []
    for k in range(1, d // 2 + 1):
        both = [k] if 2 * k == d else [k, d - k]
        number, share = sum(math.comb(d, s) for s in both), sum(law[s - 1] for s in both)
        last = k == d // 2
        if number > left or (not last and number > left * share / rest):
            break
        taken += both
        rest, left = (0.0 if last else rest - share), left - number
    kept = [_all_of_size(d, k) for k in taken]
    rows = torch.cat(kept) if kept else torch.zeros(0, d, dtype=torch.bool)
    each = [law[k - 1] / len(r) for r, k in zip(kept, taken, strict=True) for _ in r]
    drawn, times = _draw(d, [k for k in range(1, d) if k not in taken], law, left, seed)
    return Bank(
        torch.cat([rows, drawn]),
        torch.tensor(each + [0.0] * len(drawn), dtype=torch.float64),
        torch.cat([torch.zeros(len(rows), GROUPS, dtype=torch.float64), times]),
        rest if len(drawn) else 0.0,
    )


def uniform_bank(d: int, samples: int, seed: int) -> Bank:
    """The coalitions that LIME's stratified sampling draws, each weighed by how much likelier the kernel makes its size.

    Args:
        d: Regions, at least 2.
        samples: Draws; the empty and the whole image among them count for nothing here.
        seed: Draw n depends on seed and n alone.

    Example:
        >>> uniform_bank(9, 60, 0).mass
        1.0
    """
    drawn = designs.uniform_sizes(seed, samples, d)
    sizes = drawn.sum(1)
    numbers = torch.arange(samples)
    inside = (sizes > 0) & (sizes < d)
    rows, place = torch.unique(drawn[inside], dim=0, return_inverse=True)
    times = torch.zeros(len(rows), GROUPS, dtype=torch.float64)
    weight = 1 / (sizes[inside] * (d - sizes[inside])).double()
    times.index_put_((place, numbers[inside] % GROUPS), weight, accumulate=True)
    if len(rows) == 2**d - 2:  # all of them: then nothing is left to chance
        law = torch.tensor([p / math.comb(d, k) for k, p in enumerate(sizes_law(d), 1)], dtype=torch.float64)
        return Bank(rows, law[rows.sum(1) - 1], torch.zeros_like(times), 0.0)
    return Bank(rows, torch.zeros(len(rows), dtype=torch.float64), times, 1.0)


def _all_of_size(d: int, k: int) -> Tensor:
    """Every coalition of k out of d, `(C(d, k), d)`."""
    members = torch.tensor(list(itertools.combinations(range(d), k)))
    return torch.zeros(len(members), d, dtype=torch.bool).scatter_(1, members, value=True)


def _draw(d: int, allowed: list[int], law: list[float], most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of coalitions and complements until `most` different ones are there; how often each came, by group."""
    none = torch.zeros(0, d, dtype=torch.bool), torch.zeros(0, GROUPS, dtype=torch.float64)
    if not allowed or most < 2:
        return none
    numbers = uniforms(seed, 2 * most, d + 1, stream=2)  # twice what is needed if none came twice
    ends = torch.tensor([law[k - 1] for k in allowed], dtype=torch.float64).cumsum(0)
    place = torch.searchsorted(ends / ends[-1], numbers[:, 0].double(), right=True).clamp_max(len(allowed) - 1)
    sizes = torch.tensor(allowed)[place]
    ranks = numbers[:, 1:].argsort(dim=1, stable=True).argsort(1)
    first = ranks < sizes[:, None]
    pairs = torch.stack([first, ~first], 1).flatten(0, 1)
    index: dict[bytes, int] = {}
    times: list[list[float]] = []
    at = []
    packed = pairs.numpy()
    for n in range(len(first)):
        keys = [packed[2 * n].tobytes(), packed[2 * n + 1].tobytes()]
        if len(index) + sum(key not in index for key in set(keys)) > most:
            break
        for offset, key in enumerate(keys):
            if key not in index:
                index[key] = len(times)
                times.append([0.0] * GROUPS)
                at.append(2 * n + offset)
            times[index[key]][n % GROUPS] += 1
    return (pairs[at], torch.tensor(times, dtype=torch.float64)) if at else none


def solve(rows: Tensor, scores: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """The values that fit best under their fixed sum, `(d,)`.

    They are the mean share plus what is orthogonal to it, so that the sum is exact, and with fewer coalitions than regions
    the smallest solution treats all regions alike.

    Args:
        rows: `(m, d)` bool.
        scores: `(m,)` each coalition's score, less that of the empty image.
        weights: `(m,)`.
        total: The whole image's score, less that of the empty image.

    Example:
        >>> rows = torch.tensor([[True, False], [False, True]])
        >>> solve(rows, torch.tensor([2.0, 5.0]).double(), torch.ones(2).double(), torch.tensor(9.0).double()).tolist()
        [3.0, 6.0]
    """
    z = rows.double()
    d = z.shape[1]
    frame = torch.eye(d, dtype=torch.float64)
    frame[:, 0] = 1.0
    across = torch.linalg.qr(frame).Q[:, 1:]  # what sums to zero
    x = z @ across
    y = scores - z.sum(1) * total / d
    weighted = x * weights[:, None]
    found: Tensor = total / d + across @ (torch.linalg.pinv(x.T @ weighted, hermitian=True) @ (weighted.T @ y))
    return found


def kernel_shap(
    game: Game, *, samples: int, seed: int, sampling: Sampling = "kernel"
) -> tuple[list[Tensor], list[Tensor]]:
    """Shapley values of the regions of every image, and the half-widths of their 95% intervals, `(d,)` each.

    Args:
        game: The score as a function of the regions that are kept.
        samples: The most coalitions, the empty and the whole image among them.
        seed: Of the draws.
        sampling: `"kernel"` or `"uniform"`: see `bank` and `uniform_bank`.
    """
    make = bank if sampling == "kernel" else uniform_bank
    made = {d: make(d, samples - 2, seed) for d in set(game.sizes) if d > 1}
    banks = [made.get(d) for d in game.sizes]
    wanted = [
        ends(d) if one is None else torch.cat([ends(d), one.rows]) for d, one in zip(game.sizes, banks, strict=True)
    ]
    values, widths = [], []
    for scores, one in zip(game.values(wanted), banks, strict=True):
        total, above = scores[1] - scores[0], scores[2:] - scores[0]
        if one is None:
            values.append(total[None])
            widths.append(torch.zeros(1, dtype=torch.float64))
            continue
        values.append(solve(one.rows, above, _weights(one), total))
        widths.append(_jackknife(one, above, total))
    return values, widths


def _weights(one: Bank, without: int | None = None) -> Tensor:
    """What every coalition weighs, with all draws or without one group of them."""
    times = one.times.sum(1) if without is None else one.times.sum(1) - one.times[:, without]
    number = times.sum()
    return one.fixed + (one.mass * times / number if number > 0 else 0.0)


def _jackknife(one: Bank, above: Tensor, total: Tensor) -> Tensor:
    """Half-widths from leaving out one group of draws at a time; 0 where nothing was drawn, NaN where too few were."""
    d = one.rows.shape[1]
    if one.mass == 0:
        enough = math.isclose(float(one.fixed.sum()), 1.0)
        return torch.full((d,), 0.0 if enough else torch.nan, dtype=torch.float64)
    if int((one.times.sum(0) > 0).sum()) < GROUPS:
        return torch.full((d,), torch.nan, dtype=torch.float64)
    found = torch.stack([solve(one.rows, above, _weights(one, group), total) for group in range(GROUPS)])
    return student(GROUPS) * ((GROUPS - 1) * found.var(0, correction=0)).sqrt()


@register(
    "kernel_shap",
    family="perturbation",
    stochastic=True,
    granularity="region",
    complete=True,
    at_most=True,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 16, "samples": 200},
    paper="Lundberg and Lee 2017, arXiv:1705.07874, theorem 2; paired draws: Covert and Lee 2021, arXiv:2012.01536",
)
class KernelSHAP(Regional):
    r"""Shapley values of regions, by a regression on coalitions weighed by the Shapley kernel, its sum held exactly.

    .. math:: \min_\phi \sum_z \frac{d - 1}{\binom{d}{|z|} |z| (d - |z|)} \bigl(v(z) - v(\emptyset) - z^\top\phi\bigr)^2
              \quad \text{with} \quad \sum_i \phi_i = v(\text{all}) - v(\emptyset)

    A value is what the region adds to the score, averaged over all orders in which regions could appear. It says nothing
    about where in the region it comes from, and much about the baseline: what looks like the baseline gets nothing. Where
    the samples cover all coalitions the values are exact.

    Args:
        output: Which score.
        samples: The most forwards: the empty and the whole image, coalitions of the outer sizes all at once, and pairs of
            a coalition and its complement, drawn by the kernel.
        sampling: "kernel", or "uniform": the coalitions of LIME's "stratified", reweighed. Its intervals are wider, and in one
            comparison it shares its evaluations with LIME on the same regions, baseline, score, seed and samples.
        seed: Draw n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, signed: a pixel has its region's value over the region's area, so that the map sums to the score of
        the image minus the baseline's. `details["values"]` has the regions' values `(N, regions)`,
        `details["half_width"]` that of their 95% intervals (a jackknife over ten groups of draws; 0 where all coalitions
        were taken), `details["labels"]` the regions.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> made = attribution.create("kernel_shap", network, regions="grid", n_regions=4, baseline="zero")
        >>> x = torch.rand(1, 3, 8, 8)
        >>> bool(torch.isclose(made.attribute(x, 1).sum(), (network(x) - network(0 * x))[0, 1], atol=1e-5))
        True
    """

    samples: Annotated[int, Range(4)] = 1000
    sampling: Sampling = "kernel"
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        game = self.game(inputs, target)
        values, widths = kernel_shap(game, samples=self.samples, seed=self.seed, sampling=self.sampling)
        maps, details = paint(values, game.labels, inputs, share=True)
        return Computed(maps, {**details, "half_width": table(widths)})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        d = cls.players(options, shape)
        return min(options.samples, 2**d if d < 60 else options.samples), 0

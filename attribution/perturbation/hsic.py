"""HSIC attribution: how far the score depends on whether a cell is shown."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import baselines, regions
from .._parameters import Count, Range, Seed
from ..attributor import Attributor, Computed, Resize, register
from ..designs import DIMENSIONS, Sampler, bernoulli, points
from ..games import Game
from ..model import map_type
from ..targets import Target

Bandwidth = Literal["median_distance", "median_score"]
STREAM = 1_000_002  # of the permutations, apart from the design's
NUMBERS = 1 << 19  # in one chunk of permuted features: larger ones are new memory each time


def width(y: Tensor, bandwidth: Bandwidth = "median_distance") -> float:
    """The width of the scores' Gaussian kernel; 0 where the scores are constant.

    Args:
        y: Scores `(p,)`.
        bandwidth: `"median_distance"`: the median of `|y_j - y_k|` over j < k, and where that is 0 their mean.
            `"median_score"`: the size of the scores' median, as in the authors' code; where that is next to nothing beside
            the scores' range, the kernel would call no two scores alike, so the distances are taken after all.

    Example:
        >>> width(torch.tensor([0.0, 0.0, 1.0, 4.0])), width(torch.tensor([1.0, 2.0, 6.0]), "median_score")
        (2.0, 2.0)
    """
    scores = y.double().cpu().numpy()
    span, largest = np.ptp(scores), np.abs(scores).max()
    if span <= 1e-6 * largest:  # what varies by no more than float32 rounds is constant
        return 0.0
    if bandwidth == "median_score" and abs(np.median(scores)) > 1e-6 * span:
        return float(abs(np.median(scores)))
    distances = torch.nn.functional.pdist(torch.from_numpy(scores)[:, None]).numpy()
    return float(np.median(distances) or distances.mean())


def features(y: Tensor, scale: float) -> Tensor:
    r"""Numbers of each score whose products are the Gaussian kernel: :math:`L = \Phi \Phi^T`, columns centred.

    A Gaussian kernel of numbers has a small rank: some 20 columns give it to 14 digits, by a Cholesky decomposition that
    takes the worst fitted score next. Then nothing of size p x p is made, and a permutation costs a few columns, not p.

    Args:
        y: Scores `(p,)`.
        scale: The kernel's width; 0 gives no features.

    Returns:
        `(p, r)` float64.

    Example:
        >>> y = torch.tensor([0.0, 0.5, 2.0]).double()
        >>> kernel = torch.exp(-((y[:, None] - y) ** 2) / 2)
        >>> centre = torch.eye(3) - 1 / 3
        >>> phi = features(y, 1.0)
        >>> torch.allclose(phi @ phi.T, centre.double() @ kernel @ centre.double())
        True
    """
    unit = y.double() / scale if scale else torch.zeros(0).double()
    left = torch.ones_like(unit)
    found = unit.new_empty(len(unit), 0)
    columns: list[Tensor] = []
    while len(columns) < len(unit) and float(left.max()) > 1e-14:
        at = int(left.argmax())
        kernel = torch.exp(-0.5 * (unit - unit[at]) ** 2)
        columns.append((kernel - found @ found[at]) / left[at].sqrt())
        found = torch.stack(columns, 1)
        left = (left - columns[-1] ** 2).clamp_min(0)
        left[at] = 0
    found = found if scale else y.new_zeros(len(y), 0).double()
    return found - found.mean(0) if found.shape[1] else found


def hsic_dirac(z: Tensor, y: Tensor, bandwidth: Bandwidth = "median_distance") -> Tensor:
    r"""How far scores depend on each coordinate of a binary design.

    With the Dirac kernel all but the cross term vanishes by centring, and
    :math:`\mathrm{HSIC}_i = \frac1p \mathrm{tr}(K_i H L H) = \frac2p \tilde z_i^T L \tilde z_i`.

    Args:
        z: Coalitions `(p, d)`, 0 or 1.
        y: Scores `(..., p)`.
        bandwidth: See `width`.

    Returns:
        `(..., d)` float64, at least 0; zeros where the scores are constant.

    Example:
        >>> z = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> hsic_dirac(z, z[:, 0].float(), "median_score").round(decimals=6).tolist()
        [0.864665, 0.0]
    """
    centred = _centred(z)
    flat = y.reshape(-1, y.shape[-1])
    found = [_dependence(centred, features(one, width(one, bandwidth))) for one in flat]
    return torch.stack(found).reshape(*y.shape[:-1], z.shape[1])


def permutation_p_values(z: Tensor, phi: Tensor, permutations: Tensor) -> Tensor:
    """How often scores that were dealt out anew depend on a coordinate as much as these, `(d,)`.

    Args:
        z: Coalitions `(p, d)`.
        phi: The scores' `features`, `(p, r)`.
        permutations: `LongTensor (B, p)`.

    Returns:
        `(1 + how many of B) / (1 + B)`: uniform where the score does not depend on the coordinate, never 0.

    Example:
        >>> z = torch.tensor([[0], [1]] * 8)
        >>> deals = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(s)) for s in range(99)])
        >>> permutation_p_values(z, features(z[:, 0].double(), 0.5), deals)
        tensor([0.0100], dtype=torch.float64)
    """
    centred = _centred(z)
    # equal numbers that were added up in another order count as equal
    observed = _dependence(centred, phi) * (1 - 1e-9)
    exceeded = torch.zeros_like(observed)
    for some in permutations.split(max(1, NUMBERS // max(phi.numel(), 1))):
        exceeded += (_dependence(centred, phi[some]) >= observed).sum(0)
    return (1 + exceeded) / (1 + len(permutations))


def interactions_dirac(z: Tensor, phi: Tensor) -> Tensor:
    r"""How far scores depend on two cells being shown or hidden alike, beyond what each does alone, `(d, d)`.

    The kernel of a pair less the two of its members is :math:`k_i k_j`, a quarter of the kernel of
    :math:`w = s_i s_j, s = 2z - 1`: :math:`\frac{1}{4p} \tilde w^T L \tilde w`.

    Args:
        z: Coalitions `(p, d)`.
        phi: The scores' `features`, `(p, r)`.

    Example:
        >>> z = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> different = (z[:, 0] != z[:, 1]).double()
        >>> hsic_dirac(z, different).tolist(), interactions_dirac(z, features(different, 1.0)).round(decimals=4).tolist()
        ([0.0, 0.0], [[0.0, 0.1967], [0.1967, 0.0]])
    """
    s = 2 * z.double() - 1
    found = s.new_zeros(z.shape[1], z.shape[1])
    for column in phi.T:  # centred, so the mean of w falls out
        found += (s.T @ (column[:, None] * s)) ** 2
    return (found / (4 * len(z))).fill_diagonal_(0)


def _centred(z: Tensor) -> Tensor:
    z = z.double()
    return z - z.mean(0)


def _dependence(centred: Tensor, phi: Tensor) -> Tensor:
    """`(..., d)` of features `(..., p, r)`."""
    return 2 / len(centred) * (phi.mT @ centred).square().sum(-2)


def design(cells: int, count: int, sampler: Sampler, seed: int) -> tuple[Tensor, Sampler]:
    """Coalitions `(count, cells)` in which a cell is kept half of the time, and the sampler that they are from.

    A point keeps a cell from 1/2 on. Rounding halves to even instead would make one coalition of the first two unscrambled
    Sobol points, 0 and 1/2, and keep fewer than half.

    A sequence has only so many different first bits: 64 cells are kept apart by 129 Sobol points or more, 212 by 257.
    Where two cells would be shown together in every coalition, or never, a Latin hypercube is taken instead.

    Example:
        >>> coalitions, sampler = design(16, 64, "sobol", 0)
        >>> coalitions.double().mean(0).unique().tolist(), sampler
        ([0.5], 'sobol')
        >>> design(64, 64, "sobol", 0)[1]
        'lhs'
    """
    if sampler == "mc":  # the coalitions that others draw too
        return bernoulli(seed, count, cells), sampler
    if sampler == "lhs" or cells <= DIMENSIONS:
        found = points(cells, count, sampler, seed) >= 0.5
        if sampler == "lhs" or _distinct(found) == cells:
            return found, sampler
    return points(cells, count, "lhs", seed) >= 0.5, "lhs"


def _distinct(columns: Tensor) -> int:
    """How many of them differ, where a column and its complement are the same."""
    relative = (columns ^ columns[:1]).numpy()
    return len(np.unique(np.packbits(relative, axis=0), axis=1).T)


def _check_pairs(coalitions: Tensor, sampler: str) -> None:
    """Refuse a design in which one pair's joint effect is another's, or a cell's."""
    count, cells = coalitions.shape
    first, second = torch.triu_indices(cells, cells, 1)
    together = torch.cat([coalitions, coalitions[:, first] ^ coalitions[:, second]], 1)
    apart = _distinct(together)
    if apart < together.shape[1]:
        raise ValueError(
            f"hsic: interactions=True with {count} {sampler} designs tells {apart} of {together.shape[1]} cells and pairs "
            f"of cells apart: take {'' if sampler == 'mc' else 'sampler=' + repr('mc') + ', '}more designs or a coarser grid"
        )


@register(
    "hsic",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    signed=False,
    at_most=True,
    samples="designs",
    kinds=("image", "table", "tokens"),
    small={"grid": 4, "designs": 128, "permutations": 19},
    paper="Novello, Fel and Vigouroux 2022, arXiv:2206.06219",
)
class HSIC(Attributor):
    r"""How far the score depends on whether a cell is shown, by the Hilbert-Schmidt independence criterion.

    .. math:: \mathrm{HSIC}_i = \frac2p \, \tilde z_i^T L \, \tilde z_i,
        \qquad L_{jk} = \exp\Bigl(-\frac{(y_j - y_k)^2}{2 w^2}\Bigr)

    z are the centred coalitions (a cell is shown or hidden, half of the time each), y their scores. It sees any change of
    the score's distribution, not only of its mean: with a wide kernel it is the square of the covariance of cell and score.

    Unsigned: a cell that speaks against the target has a value as large as one that speaks for it. Values grow with the
    number of designs and have no unit: compare them within one map, or by their p-values. A cell that matters only together
    with another gets nothing by itself: look at `interactions`.

    Args:
        output: Which score; the paper takes the logit.
        grid: Cells per side; in tables every column is a cell, in tokens every token.
        designs: How many coalitions; equal ones are evaluated once. Powers of two balance a Sobol sequence.
        sampler: What the coalitions are drawn by: "sobol", "official" (unscrambled), "halton", "lhs" or "mc" (independent:
            the coalitions that other methods on the same grid draw too). Where a sequence would show two cells always
            together or never, as Sobol's does with more than 212 cells in 512 designs, a Latin hypercube is taken;
            `details["sampler"]` says which was.
        bandwidth: The kernel's width: the median distance between scores, or the size of their median as in the authors'
            code, by which a constant added to the score changes the map; it is there for comparison.
        permutations: How often the scores are dealt out anew for the p-values; 0 for none.
        interactions: Whether pairs of cells are looked at too. A Sobol sequence keeps cells apart, but not their pairs:
            with more than a few cells take sampler="mc".
        baseline: What is seen where a cell is hidden.
        resize: How the map is brought to the image's size; `None` leaves it at the grid's.
        seed: For the design and the permutations.

    Returns:
        `(N, 1, H, W)`, at least 0. In the details `"indices"` `(N, grid, grid)`, or one for every column or token;
        `"p_values"` likewise: how likely so large a value is for a cell that the score does not depend on, not corrected
        for the number of cells; `"interactions"` `(N, cells, cells)`; `"bandwidth"` `(N,)`, 0 for a constant score, whose
        indices are 0 and p-values 1; `"sampler"`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> hsic = attribution.create("hsic", network, grid=2, designs=16)
        >>> hsic.explain(torch.rand(1, 3, 8, 8)).details["p_values"].shape
        torch.Size([1, 2, 2])
    """

    grid: Count = 8
    designs: Annotated[int, Range(4)] = 512
    sampler: Sampler = "sobol"
    bandwidth: Bandwidth = "median_distance"
    permutations: Annotated[int, Range(0)] = 199
    interactions: bool = False
    baseline: baselines.Baseline = "mean"
    resize: Resize | None = "bilinear"
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, grid, grid)`, `(N, F)` or `(N, T)`."""
        native = regions.layout(self.grid, inputs.shape[1:])
        labels = regions.cells(native, inputs)
        labels = labels.expand(len(inputs), *labels.shape)
        coalitions, sampler = design(int(np.prod(native)), self.designs, self.sampler, self.seed)
        if self.interactions:
            _check_pairs(coalitions, sampler)
        baseline = baselines.make(self.baseline, inputs, self.model, seed=self.seed, labels=labels)
        game = Game(self.model, inputs, baseline, labels, target, output=self.output)
        scores = game.values([coalitions] * len(inputs))
        widths = [width(y, self.bandwidth) for y in scores]
        found = [features(y, w) for y, w in zip(scores, widths, strict=True)]
        indices = torch.stack([_dependence(_centred(coalitions), phi) for phi in found])
        indices = indices.to(inputs.device, map_type(inputs)).reshape(-1, *native)
        details: dict[str, Any] = {"indices": indices, "bandwidth": torch.tensor(widths), "sampler": sampler}
        if self.permutations:
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, STREAM)))
            order = torch.from_numpy(np.stack([rng.permutation(self.designs) for _ in range(self.permutations)]))
            p_values = torch.stack([permutation_p_values(coalitions, phi, order) for phi in found])
            details["p_values"] = p_values.to(inputs.device, map_type(inputs)).reshape(indices.shape)
        if self.interactions:
            pairs = torch.stack([interactions_dirac(coalitions, phi) for phi in found])
            details["interactions"] = pairs.to(inputs.device, map_type(inputs))
        return Computed(indices[:, None] if inputs.ndim == 4 else indices, details)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.designs, 0

"""Sobol attribution: the share of the score's variance in which each cell takes part."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from .. import baselines, masking, regions
from .._parameters import Range, Seed
from ..attributor import Attributor, Computed, Resize, register
from ..targets import Target

Estimator = Literal["jansen", "homma", "saltelli", "janon", "glen"]


def design(dimensions: int, designs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two independent sets of points in [0, 1]^d, `(designs, d)` each: one scrambled Sobol sequence of 2d dimensions."""
    points = qmc.Sobol(2 * dimensions, scramble=True, rng=np.random.default_rng(seed)).random(designs)
    both = torch.from_numpy(points).float()
    return both[:, :dimensions], both[:, dimensions:]


def total_order(a: Tensor, c: Tensor, estimator: Estimator) -> Tensor:
    r"""Total Sobol indices from the scores of a replicated design.

    Args:
        a: Scores at the first points, `(..., n)`.
        c: Scores where coordinate i was taken from the second points, `(..., n, d)`.
        estimator: By whom.

    Returns:
        `(..., d)`. A constant score has no variance to share: all zeros.

    Example:
        >>> a = torch.tensor([0.0, 1.0])
        >>> total_order(a, torch.stack([a.flip(0), a], -1), "jansen").tolist()  # the first decides alone
        [1.0, 0.0]
    """
    if a.device.type != "mps":  # which has no float64
        a, c = a.double(), c.double()
    # what varies by no more than float32 rounds is constant
    least, most = torch.minimum(a.amin(-1), c.amin((-2, -1))), torch.maximum(a.amax(-1), c.amax((-2, -1)))
    varies = (most - least > 1e-6 * torch.maximum(most.abs(), least.abs())).unsqueeze(-1)
    n = a.shape[-1]
    wide, mean = a.unsqueeze(-1), a.mean(-1, keepdim=True)
    variance = ((a - mean) ** 2).sum(-1, keepdim=True) / max(n - 1, 1)
    product = (wide * c).mean(-2)
    if estimator == "jansen":
        top = ((wide - c) ** 2).mean(-2) / 2
    elif estimator in {"homma", "saltelli"}:  # the same number, written in two ways
        top = variance - product + mean**2
    elif estimator == "janon":
        mean = ((wide + c) / 2).mean(-2)
        variance = (wide**2 + c**2).sum(-2) / (2 * max(n - 1, 1)) - mean**2
        top = variance - product + mean**2
    else:  # glen: one minus the correlation
        other = c - c.mean(-2, keepdim=True)
        variance = (((wide - mean.unsqueeze(-1)) ** 2).sum(-2) * (other**2).sum(-2)).sqrt()
        top = variance - ((wide - mean.unsqueeze(-1)) * other).sum(-2)
    return torch.where(varies & (variance > 0), top / variance.clamp_min(torch.finfo(variance.dtype).tiny), 0.0)


class Replicated:
    """The rows of a design as coalitions: all points of `a`, then for each point every one-coordinate exchange."""

    def __init__(self, a: Tensor, b: Tensor, device: torch.device) -> None:
        self.a, self.b = a.to(device), b.to(device)
        self.n, self.d = a.shape

    def __len__(self) -> int:
        return self.n * (self.d + 1)

    def __call__(self, row: int, items: slice) -> Tensor:
        """Rows `items`, `(len(items), d)`; the same for every image."""
        del row
        index = torch.arange(items.start, items.stop, device=self.a.device)
        exchanged = index >= self.n
        point = torch.where(exchanged, (index - self.n) // self.d, index)
        column = torch.arange(self.d, device=index.device)
        taken = exchanged[:, None] & (((index - self.n) % self.d)[:, None] == column)
        return torch.where(taken, self.b[point], self.a[point])


@register(
    "sobol",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    signed=False,
    samples="designs",
    small={"grid": 4, "designs": 32},
    paper="Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre 2021, arXiv:2111.04138, equations 5 and 6",
)
class Sobol(Attributor):
    r"""The share of the score's variance in which each cell takes part, under random blends with a baseline.

    .. math:: S_{T_i} = \frac{E\bigl[(f(A) - f(A^{(i)}_B))^2\bigr]}{2 \, \mathrm{Var}(f)} \quad \text{(Jansen)}

    Unsigned: a cell that speaks against the target has an index as large as one that speaks for it. The indices sum to
    1 or more, since an interaction counts for every cell in it.

    Args:
        output: Which score; the paper takes the logit.
        grid: Cells per side.
        designs: Points of the design, a power of two; each costs grid * grid + 1 forwards.
        estimator: Which estimator of the total index.
        baseline: What a cell is blended with.
        resize: How the map is brought to the image's size; `None` leaves it at the grid's.
        seed: For scrambling the design.

    Returns:
        `(N, 1, H, W)`, at least 0 with Jansen's estimator; `details["indices"]` is `(N, grid, grid)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> sobol = attribution.create("sobol", network, grid=2, designs=8)
        >>> sobol.explain(torch.rand(1, 3, 8, 8)).details["indices"].shape
        torch.Size([1, 2, 2])
    """

    grid: Annotated[int, Range(1, 102)] = 8  # the Sobol sequence has 21201 dimensions
    designs: Annotated[int, Range(2, power=True)] = 32
    estimator: Estimator = "jansen"
    baseline: baselines.Baseline = "mean"
    resize: Resize | None = "bilinear"
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, grid, grid)`."""
        height, width = inputs.shape[2:]
        rows, columns = min(self.grid, height), min(self.grid, width)
        points = Replicated(*design(rows * columns, self.designs, self.seed), inputs.device)
        source = masking.Coalitions(
            inputs,
            baselines.make(self.baseline, inputs, self.model, seed=self.seed),
            regions.grid(height, width, rows, columns).to(inputs.device),
            points,
            len(points),
        )
        scores = masking.evaluate(source, self.model, target, output=self.output)
        a, c = scores[:, : self.designs], scores[:, self.designs :].reshape(len(inputs), self.designs, -1)
        indices = total_order(a, c, self.estimator).to(inputs).reshape(len(inputs), rows, columns)
        return Computed(indices[:, None], {"indices": indices})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        cells = min(options.grid, shape[-2]) * min(options.grid, shape[-1])
        return options.designs * (cells + 1), 0

"""Sobol attribution: the share of the score's variance in which each cell takes part."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .. import baselines, masking, regions
from .._parameters import Count, Range, Seed
from ..attributor import Attributor, Computed, Resize, register
from ..designs import Sampler
from ..targets import Target
from ._sobol import Design, Estimator, Index, Versions, check_designs, design, measure, share

Perturbation = Literal["inpaint", "blur", "amplitude"]
BLUR = 10 / 224  # side of the box, as a part of the image's shorter one


def box_blur(images: Tensor, side: int) -> Tensor:
    """The mean over a square of `side` pixels around each, the edge pixels repeated, `(N, C, H, W)`.

    Example:
        >>> box_blur(torch.tensor([[[[0.0, 0.0, 9.0]]]]), 3).tolist()
        [[[[0.0, 3.0, 6.0]]]]
    """
    before, after = side // 2, side - 1 - side // 2
    padded = functional.pad(images, (before, after, before, after), mode="replicate")
    return functional.avg_pool2d(padded, side, 1)


@dataclass(eq=False)
class Amplitudes:
    """Every cell brighter or darker: `x + (M - 1/2) * amplitude`.

    Args:
        images: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        labels: The cell of each pixel, column or token, `(H, W)`, `(F,)` or `(T,)`.
        versions: Says M for every cell.
        amplitude: The whole range of what is added.
    """

    images: Tensor
    labels: Tensor
    versions: Versions
    amplitude: float

    @property
    def count(self) -> "int | list[int]":
        """How many versions there are of each image."""
        return self.versions.count

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Look up every pixel's cell and add."""
        added = (self.versions(row, items).to(out.device, out.dtype) - 0.5) * self.amplitude
        added = added.index_select(1, self.labels.flatten()).reshape(-1, *self.labels.shape)
        torch.add(self.images[row], masking.beside(added, self.images), out=out)


@register(
    "sobol",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    signed=False,
    samples="designs",
    kinds=("image", "table", "tokens"),
    small={"grid": 4, "designs": 32},
    paper="Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre 2021, arXiv:2111.04138, equations 5 and 6",
)
class Sobol(Attributor):
    r"""The share of the score's variance in which each cell takes part, under random blends with a baseline.

    .. math:: S_{T_i} = \frac{E\bigl[(f(A) - f(A^{(i)}_B))^2\bigr]}{2 \, \mathrm{Var}(f)} \quad \text{(Jansen)}

    Unsigned: a cell that speaks against the target has an index as large as one that speaks for it. The total indices sum
    to 1 or more, since an interaction counts for every cell in it; first-order ones, what each cell does by itself, to 1
    or less. Both are shares of the variance that the perturbation makes: they compare cells of one image, not images, and
    do not say how large the score is. A score that does not vary gives zeros.

    A cell is a square of the grid, a column of a table or a token. Rows of the design that are equal are evaluated once,
    which changes no number. Intervals come from resampling the design's points and cost nothing; Sobol and Halton points
    err less than independent ones, so with those the intervals are wider than they need be.

    Args:
        output: Which score; the paper takes the logit.
        grid: Cells per side of an image; tables and tokens have their own.
        designs: Points of the design; each costs cells + 1 forwards. A power of two for the samplers "sobol" and
            "official", and whatever the sampler where a budget picks it.
        estimator: Which estimator of the index. Jansen's and Glen's do not move when a constant is added to the score; the
            other three do, by their formulas, and much so with few points.
        index: "total" (with all interactions) or "first" (alone; one forward more for every point).
        sampler: "sobol" (scrambled), "official" (unscrambled, as the authors' code: its first points are 0 and 1/2
            everywhere, so indices come out too small by a share of about 2 / designs, and up to a fifth of the calls is
            saved), "halton", "lhs" (Latin hypercube) or "mc" (independent points).
        perturbation: "inpaint" blends a cell with the baseline, "blur" with a box blur (10 pixels for 224, the edge
            repeated; images only), "amplitude" adds to it, x + (M - 1/2) * amplitude, as the paper says (the authors' code
            multiplies instead); what is added may leave the model's bounds.
        amplitude: The range of what is added.
        baseline: What a cell is blended with.
        tolerance: Look at the intervals after 8, 16, 32, ... points and stop, image by image, where the widest one's half
            is no more than this part of the image's largest index; `designs` is then the most.
        racing: For who wants to know the so many most important cells: after 8, 16, 32, ... points, cells whose upper
            bound is below that many lower bounds are not evaluated further. This changes numbers: the dropped cells' come
            from fewer points.
        resize: How the map is brought to the image's size; `None` leaves it at the grid's.
        seed: For the points and the intervals.

    Returns:
        `(N, 1, H, W)`, at least 0 with Jansen's estimator of the total index. In the details `"indices"` is
        `(N, grid, grid)`, `"interval"` `(N, 2, grid, grid)` its 95% interval, lower and upper, `"designs"` `(N,)` how many
        points each image used; with `index="first"` also `"total"` and `"first"`, with `racing` `"points"`, from how many
        each cell's index comes.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> sobol = attribution.create("sobol", network, grid=2, designs=8)
        >>> sobol.explain(torch.rand(1, 3, 8, 8)).details["indices"].shape
        torch.Size([1, 2, 2])
    """

    grid: Annotated[int, Range(1, 102)] = 8  # the Sobol sequence has 21201 dimensions
    designs: Annotated[int, Range(2, doubles=True)] = 32
    estimator: Estimator = "jansen"
    index: Index = "total"
    sampler: Sampler = "sobol"
    perturbation: Perturbation = "inpaint"
    amplitude: Annotated[float, Range(0, open=True)] = 1.0
    baseline: baselines.Baseline = "mean"
    tolerance: Annotated[float, Range(0, open=True)] | None = None
    racing: Count | None = None
    resize: Resize | None = "bilinear"
    seed: Seed = 0

    def validate(self) -> None:
        """Options that fit each other."""
        check_designs("sobol", self.designs, self.sampler)
        if self.perturbation != "inpaint" and not (isinstance(self.baseline, str) and self.baseline == "mean"):
            raise ValueError(
                f"sobol: perturbation={self.perturbation!r} blends with no baseline: leave baseline out, or take "
                "perturbation='inpaint'"
            )
        if self.perturbation != "amplitude" and self.amplitude != 1.0:
            raise ValueError("sobol: amplitude is for perturbation='amplitude': pass that too, or leave amplitude out")

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, grid, grid)`, `(N, F)` or `(N, T)`."""
        cells = regions.layout(self.grid, inputs.shape[1:])
        labels = regions.cells(cells, inputs)
        key: tuple[Hashable, ...]
        if self.perturbation == "amplitude":
            key = ("amplitude", self.amplitude, cells)

            def make(images: Tensor, versions: Versions) -> masking.Source:
                return Amplitudes(inputs[images], labels, versions, self.amplitude)

        else:
            fill, key = self._fill(inputs), ("blend", cells)

            def make(images: Tensor, versions: Versions) -> masking.Source:
                behind = fill if len(fill) == 1 else fill[images]
                return masking.Coalitions(inputs[images], behind, labels[None], versions, versions.count)

        found = measure(
            make,
            self.model,
            target,
            _plan(self, cells),
            output=self.output,
            estimator=self.estimator,
            seed=self.seed,
            key=("sobol", *key),
            index=self.index,
            tolerance=self.tolerance,
            racing=self.racing,
        )
        numbers = {"indices": found.values, "interval": found.interval}
        if found.first is not None:
            numbers |= {"total": found.total, "first": found.first}
        details = {name: share(value, inputs, cells) for name, value in numbers.items()}
        details["designs"] = found.designs
        if self.racing is not None:
            details["points"] = found.cells.reshape(len(inputs), *cells)
        indices = details["indices"]
        return Computed(indices[:, None] if inputs.ndim == 4 else indices, details)

    def _fill(self, inputs: Tensor) -> Tensor:
        if self.perturbation == "inpaint":
            return baselines.make(self.baseline, inputs, self.model, seed=self.seed)
        if inputs.ndim != 4:
            raise ValueError("sobol: perturbation='blur' is for images: take 'inpaint' or 'amplitude' here")
        return box_blur(inputs, max(2, round(BLUR * min(inputs.shape[2:]))))  # one pixel would blur nothing

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return _plan(options, regions.layout(options.grid, shape)).cost(options.index), 0


def _plan(options: Any, cells: tuple[int, ...]) -> Design:
    number = cells[0] * cells[1] if len(cells) == 2 else cells[0]
    return design(number, options.designs, options.sampler, options.seed)

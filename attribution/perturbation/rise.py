"""RISE: the score averaged over random soft masks, at every pixel over those that show it."""

from typing import Any, Literal

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count, Fraction, Seed
from ..attributor import Attributor, Computed, register
from ..model import Model
from ..randomness import uniforms
from ..targets import Output, Target


class MaskBank:
    """Random soft masks as small grids and shifts; full-size ones are made for a batch at a time.

    A mask is a grid of cells, each on with probability `keep`, enlarged linearly and shifted by a random part of a cell.
    Enlarging and shifting is linear and separable: mask n is `A[shift_y] @ grid_n @ A[shift_x].T`.

    Args:
        height: Of the image, in pixels.
        width: Likewise.
        grid: Cells per side.
        keep: The probability that a cell is on, hence the mean of every pixel.
        masks: How many.
        seed: Mask n depends on the seed and n alone.
        device: Where the masks are made.
        dtype: Of the masks.

    Example:
        >>> bank = MaskBank(8, 8, grid=2, keep=0.5, masks=5, seed=0)
        >>> bank(slice(1, 3)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        grid: int,
        keep: float,
        masks: int,
        seed: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        drawn = uniforms(seed, masks, grid * grid + 2)
        self.grids = (drawn[:, :-2] < keep).reshape(masks, grid, grid).to(device)
        self.cell = (-(-height // grid), -(-width // grid))
        shifts = (drawn[:, -2:] * torch.tensor(self.cell)).long()
        # float32 times the cell may round up to the cell itself
        self.shifts = torch.minimum(shifts, torch.tensor(self.cell) - 1).to(device)
        self.rows = enlargement(height, grid, self.cell[0]).to(device, dtype)  # (cell, H, grid)
        self.columns = enlargement(width, grid, self.cell[1]).to(device, dtype)

    def __call__(self, items: slice) -> Tensor:
        """Masks `(len(items), 1, H, W)`."""
        shifts = self.shifts[items]
        rows, columns = self.rows[shifts[:, 0]], self.columns[shifts[:, 1]]
        return (rows @ self.grids[items].to(rows.dtype) @ columns.mT)[:, None]

    def combine(self, weights: Tensor) -> Tensor:
        """`sum_n weights[i, n] * mask_n` for every i, `(I, H, W)`, without making a single mask.

        Masks with the same shift enlarge alike, so their grids are added up first, each weighed: one number for every
        shift and cell, `cell * grid` squared of them. Two matrix products then enlarge all of them at once.
        """
        cells_y, cells_x = self.cell
        grid = self.grids.shape[-1]
        wide = torch.float32 if weights.device.type == "mps" else torch.float64  # which has no float64
        phases = torch.zeros(len(weights), cells_y * cells_x, grid * grid, dtype=wide, device=weights.device)
        for some in torch.arange(len(self.grids), device=weights.device).split(1024):
            place = self.shifts[some, 0] * cells_x + self.shifts[some, 1]
            part = weights[:, some, None].to(wide) * self.grids[some].flatten(1)
            phases.index_add_(1, place, part)
        # (I, shift_y, shift_x, i, j) to a matrix over (shift_y, i) and (shift_x, j)
        table = phases.reshape(-1, cells_y, cells_x, grid, grid).permute(0, 1, 3, 2, 4)
        table = table.reshape(-1, cells_y * grid, cells_x * grid)
        rows = self.rows.to(wide).permute(1, 0, 2).reshape(self.rows.shape[1], -1)
        columns = self.columns.to(wide).permute(1, 0, 2).reshape(self.columns.shape[1], -1)
        return rows @ table @ columns.T


def enlargement(length: int, grid: int, cell: int) -> Tensor:
    """The matrices that enlarge a grid and shift it, for every shift: `(cell, length, grid)`, rows sum to 1.

    The grid is stretched to `(grid + 1) * cell` pixels with its cells' centres half a cell from the edges, mirrored
    beyond the outer centres; shift s starts at pixel s.
    """
    size = (grid + 1) * cell
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * grid / size - 0.5
    low = place.floor()
    part = place - low
    matrix = torch.zeros(size, grid, dtype=torch.float64)
    for index, weight in ((low, 1 - part), (low + 1, part)):
        inside = index.long().abs()  # -1 mirrors to 1
        inside = torch.where(inside >= grid, 2 * (grid - 1) - inside, inside).clamp(0, grid - 1)
        matrix.scatter_add_(1, inside[:, None], weight[:, None])
    return torch.stack([matrix[s : s + length] for s in range(cell)])


def rise(model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, bank: MaskBank, output: Output) -> Tensor:
    """The scores of all masked images, `(N, masks)`.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        baseline: What is seen through the dark part of a mask, broadcastable to the inputs.
        target: Frozen, one row per image.
        bank: The masks, the same for every image.
        output: Which score.
    """
    source = masking.Masks(inputs, baseline, bank, len(bank.grids))
    return masking.evaluate(source, model, target, output=output)


@register(
    "rise",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    offset=True,
    samples="masks",
    small={"masks": 512, "grid": 4},
    paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421, equation 6",
)
class RISE(Attributor):
    r"""The score averaged over random soft masks: at each pixel, over those that show it.

    .. math:: S(p) = \sum_n f(x \odot M_n) \, M_n(p) \Bigm/ \sum_n M_n(p)

    Read the map as an order. Every pixel has a large constant part (the mean score of a masked image) and a blurred
    copy of its neighbours' values: only differences within one map mean something, and few masks leave visible noise.

    Args:
        output: Which score; the paper takes the probability.
        masks: How many masks; the paper takes 4000 to 8000.
        grid: Cells per side of a mask's grid.
        keep: The probability that a cell is shown.
        normalize: Divide by the sum of the masks at each pixel ("sum": a weighted mean, lower variance), by their
            expected sum masks * keep ("count": the paper's), or not ("none").
        baseline: What is seen where a mask is dark; the paper's zero is the mean colour.
        seed: Mask n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> attribution.create("rise", network, masks=20, grid=4).attribute(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """

    output: Output = "probability"
    masks: Count = 4000
    grid: Count = 7
    keep: Fraction = 0.5
    normalize: Literal["sum", "count", "none"] = "sum"
    baseline: baselines.Baseline = "mean"
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`; the scores' standard deviation over masks is in the details."""
        height, width = inputs.shape[2:]
        bank = MaskBank(
            height,
            width,
            grid=min(self.grid, height, width),
            keep=self.keep,
            masks=self.masks,
            seed=self.seed,
            device=inputs.device,
            dtype=inputs.dtype,
        )
        scores = rise(
            self.model,
            inputs,
            baselines.make(self.baseline, inputs, self.model, seed=self.seed),
            target,
            bank=bank,
            output=self.output,
        )
        maps = bank.combine(scores)
        if self.normalize == "count":
            maps = maps / (self.masks * self.keep)
        elif self.normalize == "sum":
            shown = bank.combine(torch.ones(1, self.masks, device=scores.device))
            maps = torch.where(shown > 1e-9, maps / shown.clamp_min(1e-9), maps.new_zeros(()))
        return Computed(maps[:, None].to(inputs), {"mean": scores.mean(1), "std": scores.std(1, correction=0)})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.masks, 0

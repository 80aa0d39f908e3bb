"""Random masks that are kept as small grids, and what their scores estimate."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..intervals import student
from ..randomness import uniforms

Normalize = Literal["sum", "count", "none"]
GROUPS = 10  # of masks, whose differences give the interval

__all__ = ["CellBank", "Estimate", "MaskBank", "Normalize", "divide", "enlargement", "estimate"]


class CellBank:
    """Random masks of columns or tokens: each is shown with probability `keep`, wholly or not at all.

    Args:
        cells: How many columns or tokens.
        shape: Of one mask, as it stands beside the inputs: `(F,)`, or `(T, 1)`.
        keep: The probability that one is shown.
        masks: How many.
        seed: Mask n depends on the seed and n alone.
        antithetic: Whether every second mask is the complement of the one before.
        device: Where the masks are.

    Example:
        >>> bank = CellBank(6, (6,), keep=0.5, masks=4, seed=0, antithetic=True)
        >>> (bank(slice(0, 2)).sum(0) == 1).all()
        tensor(True)
    """

    def __init__(
        self,
        cells: int,
        shape: tuple[int, ...],
        *,
        keep: float,
        masks: int,
        seed: int,
        antithetic: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.together = 2 if antithetic else 1
        self.shape = shape
        self.grids = _pairs(uniforms(seed, -(-masks // self.together), cells) < keep, masks, antithetic).to(device)

    def __call__(self, items: slice) -> Tensor:
        """Masks `(len(items), F)` or `(len(items), T, 1)`."""
        return self.grids[items].reshape(-1, *self.shape)

    def combine(self, weights: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        """`sum_n weights[i, n] * mask_n` over the masks `items`, of the first that there are weights for, `(I, cells)`."""
        return _wide(weights)[:, items] @ self.grids[: weights.shape[1]][items].to(_wide(weights))


class MaskBank:
    """Random soft masks as small grids and shifts; full-size ones are made for a batch at a time.

    A mask is a grid of cells, each on with probability `keep`, enlarged linearly and shifted by a random part of a cell.
    Enlarging and shifting is linear and separable: mask n is `A[shift_y] @ grid_n @ A[shift_x].T`. As the rows of A sum to
    1, the mask of the complementary grid is the complement of the mask.

    Args:
        height: Of the image, in pixels.
        width: Likewise.
        grid: Cells per side.
        keep: The probability that a cell is on, hence the mean of every pixel.
        masks: How many.
        seed: Mask n depends on the seed and n alone.
        antithetic: Whether every second mask is the complement of the one before.
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
        antithetic: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.together = 2 if antithetic else 1
        drawn = uniforms(seed, -(-masks // self.together), grid * grid + 2)
        self.grids = _pairs(drawn[:, :-2] < keep, masks, antithetic).reshape(masks, grid, grid).to(device)
        self.cell = (-(-height // grid), -(-width // grid))
        shifts = (drawn[:, -2:] * torch.tensor(self.cell)).long()
        # float32 times the cell may round up to the cell itself
        shifts = torch.minimum(shifts, torch.tensor(self.cell) - 1)
        self.shifts = shifts.repeat_interleave(self.together, 0)[:masks].to(device)
        self.rows = enlargement(height, grid, self.cell[0]).to(device, dtype)  # (cell, H, grid)
        self.columns = enlargement(width, grid, self.cell[1]).to(device, dtype)

    def __call__(self, items: slice) -> Tensor:
        """Masks `(len(items), 1, H, W)`."""
        shifts = self.shifts[items]
        rows, columns = self.rows[shifts[:, 0]], self.columns[shifts[:, 1]]
        return (rows @ self.grids[items].to(rows.dtype) @ columns.mT)[:, None]

    def combine(self, weights: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        """`sum_n weights[i, n] * mask_n` over the masks `items`, `(I, H, W)`, without making a single mask.

        Masks with the same shift enlarge alike, so their grids are added up first, each weighed: one number for every
        shift and cell, `cell * grid` squared of them. Two matrix products then enlarge all of them at once.

        Args:
            weights: `(I, n)`, for the first n masks.
            items: Which of those n.
        """
        (cells_y, cells_x), grid = self.cell, self.grids.shape[-1]
        weights, n = _wide(weights), weights.shape[1]
        shifts, grids = self.shifts[:n][items], self.grids[:n][items].flatten(1)
        place, weights = shifts[:, 0] * cells_x + shifts[:, 1], weights[:, items]
        phases = weights.new_zeros(len(weights), cells_y * cells_x, grid * grid)
        for some in torch.arange(len(place), device=place.device).split(1024):
            phases.index_add_(1, place[some], weights[:, some, None] * grids[some])
        # (I, shift_y, shift_x, i, j) to a matrix over (shift_y, i) and (shift_x, j)
        table = phases.reshape(-1, cells_y, cells_x, grid, grid).transpose(2, 3)
        table = table.reshape(-1, cells_y * grid, cells_x * grid)
        rows = self.rows.to(table).permute(1, 0, 2).reshape(self.rows.shape[1], -1)
        columns = self.columns.to(table).permute(1, 0, 2).reshape(self.columns.shape[1], -1)
        return rows @ table @ columns.T


def _wide(weights: Tensor) -> Tensor:
    """In float64, where there is one."""
    return weights.to(torch.float32 if weights.device.type == "mps" else torch.float64)


def _pairs(shown: Tensor, masks: int, antithetic: bool) -> Tensor:
    """Each grid, and after it its complement where masks are antithetic."""
    return torch.stack([shown, ~shown], 1).flatten(0, 1)[:masks] if antithetic else shown


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


class Estimate(NamedTuple):
    """Maps `(I, ...)` and the half-width of their 95% interval at every pixel.

    It is infinite where more than half of the groups of masks never show the pixel.
    """

    maps: Tensor
    half_width: Tensor


def estimate(
    bank: MaskBank | CellBank, scores: Tensor, *, keep: float, normalize: Normalize, control_variate: bool
) -> Estimate:
    r"""The maps of scores, and how far they may be off by the draw of the masks.

    The map is a ratio :math:`\sum_n w_n M_n / \sum_n D_n`, w the score, D the mask or its expectation. Masks are dealt
    out to ten groups; what each adds to numerator minus map times denominator has mean 0, and the standard error of the
    ratio is the groups' standard deviation of that, over the denominator: linear in what varies, so that no group needs
    a map of its own.

    Args:
        bank: The masks; the first n of them were scored.
        scores: `(I, n)`.
        keep: The probability that a cell is shown.
        normalize: As in `RISE`.
        control_variate: As in `RISE`.

    Example:
        >>> bank = CellBank(2, (2,), keep=0.5, masks=400, seed=0)
        >>> scores = 3.0 + bank.grids[None, :, 0]
        >>> found = estimate(bank, scores, keep=0.5, normalize="sum", control_variate=False)
        >>> bool(((found.maps - torch.tensor([4.0, 3.5])).abs() <= 1.5 * found.half_width + 1e-9).all())
        True
    """
    n = scores.shape[1]
    weights = _wide(scores)
    if control_variate:
        weights = weights - weights.mean(1, keepdim=True)
    groups = min(GROUPS, -(-n // bank.together))
    group = torch.arange(n, device=scores.device) // bank.together % groups
    members = [(group == g).nonzero().flatten() for g in range(groups)]
    ones = weights.new_ones(1, n)
    shown = [bank.combine(ones, some)[0] for some in members]
    below = shown if normalize == "sum" else [torch.full_like(shown[0], len(some) * keep) for some in members]
    everywhere, divisor = torch.stack(shown).sum(0), torch.stack(below).sum(0)
    # a pixel that few groups show has few differences, and one that a single one shows has none
    seen = torch.stack([part > 1e-9 for part in shown]).sum(0) * 2 >= groups
    maps, half = [], []
    for one in weights:  # group by group: ten maps at once would each be new memory
        found = divide(bank.combine(one[None])[0], divisor)
        error = torch.zeros_like(found)
        for some, under in zip(members, below, strict=True):
            part = bank.combine(one[None], some)[0]
            if control_variate:  # the mean that was subtracted varies with the draw as well
                part -= (everywhere / n) * one[some].sum()
            error += (part - found * under).square_()
        maps.append(found)
        if groups == 1:
            half.append(torch.full_like(found, torch.inf))
            continue
        width = student(groups) * (error * groups / (groups - 1)).sqrt() / divisor.clamp_min(1e-9)
        half.append(torch.where(seen, width, torch.inf))
    scale = n * keep if normalize == "none" else 1.0
    return Estimate(torch.stack(maps) * scale, torch.stack(half) * scale)


def divide(total: Tensor, divisor: Tensor) -> Tensor:
    """The ratio, 0 where nothing was shown."""
    return torch.where(divisor > 1e-9, total / divisor.clamp_min(1e-9), 0.0)

"""RISE: the score averaged over random soft masks, at every pixel over those that show it."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count, Fraction, Range, Seed
from ..attributor import Attributor, Computed, register
from ..model import Model
from ..randomness import uniforms
from ..targets import Output, Target

Normalize = Literal["sum", "count", "none"]
GROUPS = 10  # of masks, whose differences give the interval
ROUND = (
    200  # masks between two looks at the interval; whatever the batch, so that the same images stop at the same masks
)
CLASSES = 32  # whose phases are summed at a time

__all__ = ["RISE", "CellBank", "Estimate", "MaskBank", "enlargement", "estimate", "rise"]


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

    def combine(self, weights: Tensor, *, groups: int = 1) -> Tensor:
        """`sum_n weights[i, n] * mask_n` over the masks of each interleaved group, `(I, groups, cells)`."""
        place = _group(weights.shape[1], groups, self.together, weights.device)
        return _collect(weights, self.grids, place, groups)


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

    def combine(self, weights: Tensor, *, groups: int = 1) -> Tensor:
        """`sum_n weights[i, n] * mask_n` over the masks of each group, `(I, groups, H, W)`, without making a single mask.

        Masks with the same shift enlarge alike, so their grids are added up first, each weighed: one number for every
        shift and cell, `cell * grid` squared of them. Two matrix products then enlarge all of them at once.

        Args:
            weights: `(I, n)`, for the first n masks.
            groups: Masks are dealt out to so many groups in turn, complementary ones together.
        """
        cells_y, cells_x = self.cell
        grid, n = self.grids.shape[-1], weights.shape[1]
        place = _group(n, groups, self.together, weights.device) * cells_y * cells_x
        place = place + self.shifts[:n, 0] * cells_x + self.shifts[:n, 1]
        phases = _collect(weights, self.grids.flatten(1), place, groups * cells_y * cells_x)
        # (I, groups, shift_y, shift_x, i, j) to a matrix over (shift_y, i) and (shift_x, j)
        table = phases.reshape(-1, groups, cells_y, cells_x, grid, grid).transpose(3, 4)
        table = table.reshape(-1, groups, cells_y * grid, cells_x * grid)
        rows = self.rows.to(table).permute(1, 0, 2).reshape(self.rows.shape[1], -1)
        columns = self.columns.to(table).permute(1, 0, 2).reshape(self.columns.shape[1], -1)
        return rows @ table @ columns.T


def _pairs(shown: Tensor, masks: int, antithetic: bool) -> Tensor:
    """Each grid, and after it its complement where masks are antithetic."""
    return torch.stack([shown, ~shown], 1).flatten(0, 1)[:masks] if antithetic else shown


def _group(masks: int, groups: int, together: int, device: torch.device) -> Tensor:
    """The group of each mask."""
    return torch.arange(masks, device=device) // together % groups


def _collect(weights: Tensor, grids: Tensor, place: Tensor, places: int) -> Tensor:
    """Grids `(n, k)` weighed and added up where they belong, `(I, places, k)`."""
    wide = torch.float32 if weights.device.type == "mps" else torch.float64  # which has no float64
    found = torch.zeros(len(weights), places, grids.shape[1], dtype=wide, device=weights.device)
    for some in torch.arange(weights.shape[1], device=weights.device).split(1024):
        found.index_add_(1, place[some], weights[:, some, None].to(wide) * grids[some])
    return found


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
    """Maps `(I, ...)` and the half-width of their 95% interval at every pixel, infinite where nothing is known of it."""

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
    groups = min(GROUPS, -(-n // bank.together))
    wide = torch.float32 if scores.device.type == "mps" else torch.float64
    weights = scores.to(wide)
    if control_variate:
        weights = weights - weights.mean(1, keepdim=True)
    shown = bank.combine(weights.new_ones(1, n), groups=groups)
    own = _group(n, groups, bank.together, scores.device)
    pixels = (1,) * (shown.ndim - 2)
    number = torch.bincount(own, minlength=groups).to(wide).reshape(1, -1, *pixels)
    below = shown if normalize == "sum" else number * keep
    divisor = below.sum(1)
    maps, half = [], []
    for one in weights:  # ten phase grids of one image at a time
        parts = bank.combine(one[None], groups=groups)
        found = _divide(parts.sum(1), divisor)
        maps.append(found)
        if groups == 1:
            half.append(torch.full_like(found, torch.inf))
            continue
        if control_variate:  # the mean that was subtracted varies with the draw as well
            sums = torch.zeros(groups, dtype=wide, device=one.device).index_add_(0, own, one)
            parts = parts - shown.sum(1, keepdim=True) / n * sums.reshape(1, -1, *pixels)
        error = ((parts - found[:, None] * below).square().sum(1) * groups / (groups - 1)).sqrt()
        t = float(stats.t.ppf(0.975, groups - 1))
        half.append(torch.where(divisor > 1e-9, t * error / divisor.clamp_min(1e-9), torch.inf))
    scale = n * keep if normalize == "none" else 1.0
    return Estimate(torch.cat(maps) * scale, torch.cat(half) * scale)


def _divide(total: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(divisor > 1e-9, total / divisor.clamp_min(1e-9), 0.0)


def rise(
    model: Model,
    inputs: Tensor,
    baseline: Tensor,
    target: Target,
    *,
    bank: MaskBank | CellBank,
    output: Output,
    start: int = 0,
    stop: int | None = None,
    every: bool = False,
    key: Any = None,
) -> Tensor:
    """The scores of masked images, `(N, stop - start)`, or `(N, stop - start, classes)`.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        baseline: What is seen through the dark part of a mask, broadcastable to the inputs.
        target: Frozen, one row per image.
        bank: The masks, the same for every image.
        output: Which score.
        start: The first mask, and
        stop: the one after the last; `None` for all.
        every: Whether every class is scored.
        key: Names the bank, for those who share evaluations.
    """
    source = masking.Masks(inputs, baseline, bank, len(bank.grids))
    return masking.evaluate(source, model, target, output=output, start=start, stop=stop, every=every, key=key)


@register(
    "rise",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    offset=True,
    at_most=True,
    samples="masks",
    kinds=("image", "table", "tokens"),
    small={"masks": 512, "grid": 4},
    paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421, equation 6",
)
class RISE(Attributor):
    r"""The score averaged over random soft masks: at each pixel, over those that show it.

    .. math:: S(p) = \sum_n f(x \odot M_n) \, M_n(p) \Bigm/ \sum_n M_n(p)

    Read the map as an order. Every pixel has a large constant part (the mean score of a masked image) and a blurred
    copy of its neighbours' values: only differences within one map mean something, and few masks leave visible noise.
    How much is told by `details["half_width"]`: it covers the draw of the masks and nothing else.

    In tables a column is a cell, in tokens a token: shown or not, nothing is enlarged, and `grid` says nothing.

    Args:
        output: Which score; the paper takes the probability.
        masks: How many masks; the paper takes 4000 to 8000.
        grid: Cells per side of a mask's grid.
        keep: The probability that a cell is shown.
        normalize: Divide by the sum of the masks at each pixel ("sum": a weighted mean, lower variance), by their
            expected sum masks * keep ("count": the paper's), or not ("none").
        control_variate: Whether an image's mean score is subtracted before masks are combined. With "sum" this takes off
            the map's constant, and the interval is that of differences; with "count" and "none" also the noise of how
            often each pixel happened to be shown.
        antithetic: Whether every second mask is the complement of the one before; for keep = 0.5. That takes off the same
            noise as the control variate, and all that cells do in pairs; but of what they do alone both masks say the same,
            so that where a score is nearly linear the control variate by itself does better.
        tolerance: Stops an image, after a multiple of 200 masks, when the half-width of the 95% interval is at most this
            part of the map's range at every pixel; `masks` is then the most. `None`: all masks. Each image decides for
            itself. As it stops when the interval happens to be small, that interval is a little too short.
        classes: "all" makes the map of every class of the same evaluations, in `details["classes"]`: for 1000 classes
            200 MB for each image of 224 x 224.
        baseline: What is seen where a mask is dark; the paper's zero is the mean colour.
        seed: Mask n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; `(N, F)` for tables, `(N, T)` for tokens. In the details `"half_width"` of
        the 95% interval at every pixel, shaped as the map (Student's t over ten groups of masks, each pixel by itself);
        `"masks"`, `"mean"` and `"std"`, `(N,)`: how many masks an image took, and their scores' mean and standard
        deviation; `"classes"`, `(N, classes, H, W)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> rise = attribution.create("rise", network, masks=4000, grid=4, tolerance=0.5)
        >>> found = rise.explain(torch.rand(1, 3, 8, 8))
        >>> found.maps.shape, int(found.forwards) == int(found.details["masks"]) < 4000
        (torch.Size([1, 1, 8, 8]), True)
    """

    output: Output = "probability"
    masks: Count = 4000
    grid: Count = 7
    keep: Fraction = 0.5
    normalize: Normalize = "sum"
    control_variate: bool = False
    antithetic: bool = False
    tolerance: Annotated[float, Range(0, open=True)] | None = None
    classes: Literal["target", "all"] = "target"
    baseline: baselines.Baseline = "mean"
    seed: Seed = 0

    def validate(self) -> None:
        """A complement is as likely as its mask at one half alone."""
        if self.antithetic and self.keep != 0.5:
            raise ValueError(f"rise: antithetic=True with keep={self.keep}: complements need keep=0.5")

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        every = self.classes == "all"
        if every and target.index is None:
            raise ValueError("rise: classes='all' needs a class as the target, not a callable")
        bank, name = self._bank(inputs)
        baseline = baselines.make(self.baseline, inputs, self.model, seed=self.seed)

        def look(rows: list[int], start: int, stop: int) -> Tensor:
            return rise(
                self.model,
                inputs if len(rows) == len(inputs) else inputs[rows],
                baseline[rows] if len(baseline) > 1 else baseline,
                target if len(rows) == len(inputs) else target.take(torch.tensor(rows)),
                bank=bank,
                output=self.output,
                start=start,
                stop=stop,
                every=every,
                key=("rise", name, self.keep, self.seed, self.antithetic),
            )

        def own(scores: Tensor, rows: list[int]) -> Tensor:
            """The target's column."""
            if not every:
                return scores
            assert target.index is not None
            column = target.index[rows, 0].to(scores.device)
            return scores.take_along_dim(column[:, None, None], 2).squeeze(2)

        def judge(scores: Tensor) -> Estimate:
            return estimate(
                bank, scores, keep=self.keep, normalize=self.normalize, control_variate=self.control_variate
            )

        running = list(range(len(inputs)))
        scores: list[Tensor] = [torch.empty(0)] * len(inputs)
        found: list[Estimate] = [Estimate(torch.empty(0), torch.empty(0))] * len(inputs)
        step = self.masks if self.tolerance is None else ROUND
        for start in range(0, self.masks, step):
            stop = min(start + step, self.masks)
            new = look(running, start, stop)
            for row, more in zip(running, new, strict=True):
                scores[row] = torch.cat([scores[row], more]) if start else more
            current = torch.stack([scores[row] for row in running])
            judged = judge(own(current, running))
            for row, *one in zip(running, *judged, strict=True):
                found[row] = Estimate(*one)
            running = [row for row in running if not self._settled(found[row], own(scores[row][None], [row]))]
            if not running:
                break
        kind = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        maps, half_width = (torch.stack(part).to(kind) for part in zip(*found, strict=True))
        aimed = [own(one[None], [row])[0] for row, one in enumerate(scores)]
        image = (slice(None), None) if inputs.ndim == 4 else ()
        details: dict[str, Any] = {
            "mean": torch.stack([one.mean() for one in aimed]),
            "std": torch.stack([one.std(correction=0) for one in aimed]),
            "half_width": half_width[image],
            "masks": torch.tensor([len(one) for one in scores]),
        }
        if every:
            details["classes"] = torch.stack([self._all_classes(bank, one).to(kind) for one in scores])
        return Computed(maps[image], details)

    def _bank(self, inputs: Tensor) -> tuple[MaskBank | CellBank, Any]:
        """The masks, and what tells them from others of the same seed and probability."""
        more: dict[str, Any] = {
            "keep": self.keep,
            "masks": self.masks,
            "seed": self.seed,
            "antithetic": self.antithetic,
            "device": inputs.device,
        }
        if inputs.ndim != 4:
            return CellBank(inputs.shape[1], (inputs.shape[1],) + (1,) * (inputs.ndim - 2), **more), "cells"
        height, width = inputs.shape[2:]
        grid = min(self.grid, height, width)
        return MaskBank(height, width, grid=grid, dtype=inputs.dtype, **more), grid

    def _settled(self, found: Estimate, scores: Tensor) -> bool:
        """Whether an image has had masks enough."""
        if self.tolerance is None:
            return False
        if float(scores.max() - scores.min()) <= 1e-6 * float(scores.abs().max()):
            return True  # what varies by no more than float32 rounds is constant
        return float(found.half_width.max()) <= self.tolerance * float(found.maps.max() - found.maps.min())

    def _all_classes(self, bank: MaskBank | CellBank, scores: Tensor) -> Tensor:
        """The map of every class, `(classes, ...)`, of one image's scores `(n, classes)`."""
        shown = bank.combine(torch.ones(1, len(scores), device=scores.device))[:, 0]
        below = {"sum": shown, "count": torch.full_like(shown, len(scores) * self.keep)}.get(self.normalize)
        found = []
        for some in scores.T.split(CLASSES):
            weights = some.to(shown.dtype)
            weights = weights - weights.mean(1, keepdim=True) if self.control_variate else weights
            total = bank.combine(weights)[:, 0]
            found.append((total if below is None else _divide(total, below)).to(scores.dtype))
        return torch.cat(found)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.masks, 0

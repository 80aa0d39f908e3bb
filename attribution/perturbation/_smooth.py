"""Smooth masks: what a small grid of seeds becomes when each spreads over a disk, and how a gradient finds its way back."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32  # seeds along the shorter side of an image: one for 7 pixels of 224
SIGMA = 3 / SIDE  # of the shorter side: how far a seed reaches, 21 pixels of 224
COLD = 20.0  # of the smooth maximum
PLACES = 4  # along each side of a cell, where the mask is reckoned while it is searched for

__all__ = ["SmoothMasks"]


class SmoothMasks:
    r"""Masks as smooth maxima of seeds that spread (Fong, Patrick and Vedaldi 2019, section 3).

    .. math:: m(u) = \sum_k t_k \frac{e^{20 t_k}}{\sum_j e^{20 t_j}}, \quad t_k = \kappa(|u - p_k| / \sigma) \, \bar m_k,
        \quad \kappa(d) = e^{-2 \max(0, d - 1/2)^2}

    over the seeds in a window around the cell in which the pixel u lies; the kernel has a plateau as wide as :math:`\sigma`. A
    pixel's weights depend on its place in its cell alone, so that one small table serves all cells. The window ends before
    the kernel is 0 (straight beside a seed it is .08 to .55 there), so that masks have small seams where a cell ends.

    A mask of ones is .985 to .991. Beyond the image's border the nearest seed stands for those that are not there: without
    them the border would be brighter, and easier to hold, than the rest.

    Args:
        size: Height and width of the image.
        step: Pixels between seeds; `None`: a thirty-second of the shorter side.
        sigma: Reach of a seed in pixels; `None`: three thirty-seconds of the shorter side.
        places: Along each side of a cell, where the maximum is reckoned; polynomials through these give the rest. `None`: at
            every pixel. On a mask that a search ended with four differ from all seven by .001 in the mean, .03 at most.
        padded: Whether masks are the published ones, which reach beyond the image by `sigma` and have no seeds there.
        dtype: Of the masks, and
        device: where they are.

    Example:
        >>> masks = SmoothMasks((224, 224), places=None)
        >>> seeds = torch.zeros(1, *masks.grid)
        >>> seeds[0, 16, 16] = 1.0
        >>> [round(float(v), 3) for v in masks.make(seeds)[0][0, 112, 112:127:14]]
        [1.0, 0.946]
    """

    def __init__(
        self,
        size: tuple[int, ...],
        *,
        step: int | None = None,
        sigma: float | None = None,
        places: int | None = PLACES,
        padded: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        side = min(size)
        self.step = step or max(1, round(side / SIDE))
        sigma = sigma or SIGMA * side
        self.grid = tuple(-(-n // self.step) for n in size)
        self.radius = 1 + math.ceil(sigma / self.step - 1e-9)
        margin = round(sigma) if padded else 0
        self._bounded = padded
        self.inside = tuple(slice(margin, margin + n) for n in size)  # the image in the frame that the mask covers
        self._before = -(-margin // self.step)  # cells in front of the image
        frame = [self._frame(n, margin, sigma) if padded else n for n in size]
        skip = self._before * self.step - margin
        self._cells = tuple(-(-(skip + n) // self.step) for n in frame)
        self._cut = tuple(slice(skip, skip + n) for n in frame)
        at, spread = _nodes(self.step, places)
        self._spread = _square(spread, spread).to(device, dtype)  # (places, pixels) of a cell
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64) * self.step
        squares = (at[:, None] - offsets) ** 2
        distance = (squares[:, None, :, None] + squares[None, :, None, :]).sqrt() / sigma
        kernel = torch.exp(-2 * (distance - 0.5).clamp_min(0) ** 2)
        self._table = kernel.reshape(len(at) ** 2, -1, 1).to(device, dtype)  # (places, window, 1)

    def _frame(self, n: int, margin: int, sigma: float) -> int:
        """Pixels of the published mask along an axis, before it is cropped."""
        padding = 1 + math.ceil((margin + sigma) / self.step - 1e-9)
        return self.step * (-(-n // self.step) + 2 * (padding - self.radius) - 1) + 1

    def make(self, seeds: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Masks of seeds.

        Args:
            seeds: `(M, h, w)` in [0, 1], with `h, w = self.grid`.

        Returns:
            `(M, H, W)` (with margins, if `padded`), up to overshoots of the polynomials in [0, 1]; and what `pull` needs.
        """
        shape = len(seeds), len(self._table), math.prod(self._cells)
        values, total = seeds.new_zeros(shape), seeds.new_full(shape, self._table.shape[1])
        for part, live, window in self._windows(seeds):
            scaled, weight = torch.empty_like(window), torch.empty_like(window)
            for place, kernel in enumerate(self._table):
                torch.mul(window, kernel, out=scaled)
                torch.exp(scaled, out=weight)
                below = weight.sum(1)
                values[part, place, live] = scaled.mul_(weight).sum(1).div_(below).div_(COLD)
                total[part, place, live] = below
        pixels = torch.einsum("mpl,pq->mql", values, self._spread)
        pixels = pixels.reshape(len(seeds), self.step**2, *self._cells)
        masks = functional.pixel_shuffle(pixels, self.step)[:, 0]
        return masks[:, self._cut[0], self._cut[1]], (values, total)

    def pull(self, slopes: Tensor, seeds: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """The gradient with respect to the seeds, of that with respect to the masks.

        Args:
            slopes: `(M, H, W)`, with margins if `padded`.
            seeds: That `make` was given, and
            state: what it returned.
        """
        values, total = state
        rows, columns = self._cut
        down, across = (c * self.step for c in self._cells)
        slopes = functional.pad(slopes, (columns.start, across - columns.stop, rows.start, down - rows.stop))
        slopes = functional.pixel_unshuffle(slopes[:, None], self.step).flatten(2)
        along = torch.einsum("mql,pq->mpl", slopes, self._spread).div_(total)
        level = along * (1 - COLD * values)
        # where a window has no seed that is not 0, all of its weights are 1
        pulled = (self._table[:, :, 0].T @ level).contiguous()
        for part, live, window in self._windows(seeds):
            found, scaled, weight = torch.zeros_like(window), torch.empty_like(window), torch.empty_like(window)
            for place, kernel in enumerate(self._table):
                torch.mul(window, kernel, out=scaled)
                torch.exp(scaled, out=weight)
                scaled.mul_(along[part, place, live][:, None]).add_(level[part, place, live][:, None])
                found.addcmul_(scaled.mul_(weight), kernel)
            pulled[part, :, live] = found
        side = 2 * self.radius + 1
        whole = functional.fold(pulled, tuple(c + 2 * self.radius for c in self._cells), side)[:, 0]
        first = self.radius + self._before
        if self._bounded:
            return whole[:, first : first + self.grid[0], first : first + self.grid[1]]
        for axis, n in enumerate(self.grid, 1):  # what stands for a seed beyond the border is the border's
            own = (torch.arange(whole.shape[axis], device=whole.device) - first).clamp_(0, n - 1)
            size = [*whole.shape[:axis], n, *whole.shape[axis + 1 :]]
            whole = whole.new_zeros(size).index_add_(axis, own, whole)
        return whole

    def _windows(self, seeds: Tensor) -> Iterator[tuple[slice, Tensor | slice, Tensor]]:
        """For some masks at a time: which, which cells are looked at, and the seeds around those, `(m, window, cells)`.

        Processors do it mask by mask, in their caches, and look at cells with a seed that is not 0; others do all at once.
        """
        first = self.radius + self._before
        around = [c + 2 * self.radius - first - g for c, g in zip(self._cells, self.grid, strict=True)]
        beyond = (first, around[1], first, around[0])
        padded = functional.pad(seeds[:, None] * COLD, beyond, mode="constant" if self._bounded else "replicate")
        side = 2 * self.radius + 1
        if seeds.device.type != "cpu":
            yield slice(0, len(seeds)), slice(None), functional.unfold(padded, side)
            return
        for i, one in enumerate(padded):
            window = functional.unfold(one[None], side)
            live = window.amax((0, 1)).nonzero().squeeze(1)
            yield slice(i, i + 1), live, window.index_select(2, live)


def _nodes(step: int, places: int | None) -> tuple[Tensor, Tensor]:
    """Where along a cell the mask is reckoned, `(p,)`, and the polynomials through these at its pixels, `(p, step)`."""
    pixels = torch.arange(step, dtype=torch.float64)
    if places is None or places >= step:
        return pixels, torch.eye(step, dtype=torch.float64)
    angles = (torch.arange(places, dtype=torch.float64) + 0.5) * math.pi / places
    at = (step - 1) / 2 * (1 - angles.cos() / math.cos(math.pi / 2 / places))  # Chebyshev's, from edge to edge
    spread = torch.ones(places, step, dtype=torch.float64)
    for i in range(places):
        for j in range(places):
            if j != i:
                spread[i] *= (pixels - at[j]) / (at[i] - at[j])
    return at, spread


def _square(rows: Tensor, columns: Tensor) -> Tensor:
    """Along both axes, what `(p, n)` and `(q, m)` are along each: `(p q, n m)`."""
    return torch.einsum("an,bm->abnm", rows, columns).flatten(2).flatten(0, 1)

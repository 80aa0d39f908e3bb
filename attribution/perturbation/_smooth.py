"""Smooth masks: what a small grid of seeds becomes when each spreads over a disk, and how a gradient finds its way back."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32  # seeds along the shorter side of an image: one for 7 pixels of 224
SIGMA = 3 / SIDE  # of the shorter side: how far a seed reaches, 21 pixels of 224
COLD = 20.0  # of the smooth maximum
PLACES = 2  # along each side of a cell, where the mask is reckoned while it is searched for
CELLS = 1024  # that a processor looks at in one go

Windows = list[tuple[Tensor | slice, Tensor]]  # some cells of all masks, and the seeds around those, `(window, cells)`
Made = tuple[Tensor, Tensor, Windows]

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
        places: Along each side of a cell, where the maximum is reckoned; cubics through the nearest four give the rest.
            `None`: at every pixel. On masks that a search ended with two of seven are wrong by .0004 in the mean; they
            smooth the seams, by .07 at most.
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
        self._places = self.step if places is None else min(places, self.step)
        at = (torch.arange(self._places, dtype=torch.float64) + 0.5) * self.step / self._places - 0.5
        self._spread = [  # (pixels, places) along each axis
            _cubics(at, self.step, cells)[skip : skip + n].to(device, dtype)
            for cells, n in zip(self._cells, frame, strict=True)
        ]
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64) * self.step
        squares = (at[:, None] - offsets) ** 2
        distance = (squares[:, None, :, None] + squares[None, :, None, :]).sqrt() / sigma
        kernel = torch.exp(-2 * (distance - 0.5).clamp_min(0) ** 2)
        self._table = kernel.reshape(self._places**2, -1, 1).to(device, dtype)  # (places, window, 1)

    def _frame(self, n: int, margin: int, sigma: float) -> int:
        """Pixels of the published mask along an axis, before it is cropped."""
        padding = 1 + math.ceil((margin + sigma) / self.step - 1e-9)
        return self.step * (-(-n // self.step) + 2 * (padding - self.radius) - 1) + 1

    def make(self, seeds: Tensor) -> tuple[Tensor, Made]:
        """Masks of seeds.

        Args:
            seeds: `(M, h, w)` in [0, 1], with `h, w = self.grid`.

        Returns:
            `(M, H, W)` (with margins, if `padded`), up to overshoots of the polynomials in [0, 1]; and what `pull` needs.
        """
        values = seeds.new_zeros(len(self._table), len(seeds), math.prod(self._cells))
        total = torch.full_like(values, self._table.shape[1])
        windows = self._windows(seeds)
        for live, window in windows:
            scaled, weight = torch.empty_like(window), torch.empty_like(window)
            for value, below, kernel in zip(values.flatten(1), total.flatten(1), self._table, strict=True):
                torch.mul(window, kernel, out=scaled)
                torch.exp(scaled, out=weight)
                under = weight.sum(0)
                value[live] = scaled.mul_(weight).sum(0).div_(under).div_(COLD)
                below[live] = under
        down, across = self._spread
        places = functional.pixel_shuffle(values.movedim(0, 1).unflatten(2, self._cells), self._places)[:, 0]
        return down @ places @ across.T, (values, total, windows)

    def pull(self, slopes: Tensor, state: Made) -> Tensor:
        """The gradient with respect to the seeds, of that with respect to the masks.

        Args:
            slopes: `(M, H, W)`, with margins if `padded`.
            state: That `make` returned for these.
        """
        values, total, windows = state
        down, across = self._spread
        along = functional.pixel_unshuffle((down.T @ slopes @ across)[:, None], self._places)
        along = along.flatten(2).movedim(1, 0) / total
        level = along * (1 - COLD * values)
        # where a window has no seed that is not 0, all of its weights are 1
        pulled = self._table[:, :, 0].T @ level.flatten(1)
        for live, window in windows:
            found, scaled, weight = torch.zeros_like(window), torch.empty_like(window), torch.empty_like(window)
            for slope, offset, kernel in zip(along.flatten(1), level.flatten(1), self._table, strict=True):
                torch.mul(window, kernel, out=scaled)
                torch.exp(scaled, out=weight)
                torch.addcmul(offset[live], scaled, slope[live], out=scaled)
                found.addcmul_(scaled.mul_(weight), kernel)
            pulled[:, live] = found
        pulled = pulled.unflatten(1, (len(slopes), -1)).movedim(1, 0)
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

    def _windows(self, seeds: Tensor) -> Windows:
        """Processors look at cells with a seed that is not 0, as many at a time as their caches hold; others at all."""
        first = self.radius + self._before
        around = [c + 2 * self.radius - first - g for c, g in zip(self._cells, self.grid, strict=True)]
        beyond = (first, around[1], first, around[0])
        padded = functional.pad(seeds[:, None] * COLD, beyond, mode="constant" if self._bounded else "replicate")
        side = 2 * self.radius + 1
        windows = functional.unfold(padded, side).movedim(1, 0).flatten(1)
        if seeds.device.type != "cpu":
            return [(slice(None), windows)]
        live = windows.amax(0).nonzero().squeeze(1).split(CELLS)
        return [(some, windows.index_select(1, some)) for some in live]


def _cubics(at: Tensor, step: int, cells: int) -> Tensor:
    """Cubics through places `at` in each cell, at its pixels: `(cells * step, cells * places)`, from edge to edge."""
    pixels = torch.arange(cells * step, dtype=torch.float64)
    places = (torch.arange(cells, dtype=torch.float64)[:, None] * step + at).flatten()
    order = min(4, len(places))
    first = (torch.searchsorted(places, pixels, right=True) - order // 2).clamp_(0, len(places) - order)
    near = first[:, None] + torch.arange(order)
    nodes = places[near]  # (pixels, order)
    weights = torch.ones_like(nodes)
    for i in range(order):
        for j in range(order):
            if j != i:
                weights[:, i] *= (pixels - nodes[:, j]) / (nodes[:, i] - nodes[:, j])
    return torch.zeros(len(pixels), len(places), dtype=torch.float64).scatter_(1, near, weights)

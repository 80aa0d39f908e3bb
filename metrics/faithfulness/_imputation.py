"""Noisy linear imputation: what a removed pixel is expected to be, seen from its neighbours."""

from dataclasses import dataclass
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-5  # of an image's range: the error that is left
ROUNDS = 200  # of conjugate gradients, where a dozen are enough
PIECE = 8  # versions that are solved at a time: the solver holds about ten images for each
DAMPING = 0.9  # of Jacobi's steps, which are stable below 1.5 on this stencil


class Grid(NamedTuple):
    """A symmetric system on a grid: every place is tied to its eight neighbours, and to known values.

    Ties are integers where a place is a pixel (2 to a neighbour that shares an edge, 1 to one at a corner; 12 times the
    weights), so that rows sum exactly: rounding there would be as large as the error that is asked for.

    Attributes:
        across: Ties to the right, `(B, 1, H, W - 1)`.
        down: Ties below, `(B, 1, H - 1, W)`.
        falling: Ties to the lower right, `(B, 1, H - 1, W - 1)`, by their upper left place.
        rising: Ties to the upper right, `(B, 1, H - 1, W - 1)`, by the upper left of the four.
        outside: Ties to known values, `(B, 1, H, W)`.
        total: All ties of a place: the matrix' diagonal, 0 where nothing is unknown.
        inverse: 1 / total, or 0.
    """

    across: Tensor
    down: Tensor
    falling: Tensor
    rising: Tensor
    outside: Tensor
    total: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, across: Tensor, down: Tensor, falling: Tensor, rising: Tensor, outside: Tensor) -> "Grid":
        """The grid of these ties."""
        total = outside.clone()
        for ties, one, other in _pairs(across, down, falling, rising):
            total[one] += ties
            total[other] += ties
        inverse = torch.where(total > 0, 1 / total, torch.zeros_like(total))
        return cls(across, down, falling, rising, outside, total, inverse)

    def times(self, values: Tensor) -> Tensor:
        """The matrix times `(B, C, H, W)`."""
        out = self.total * values
        for ties, one, other in _pairs(*self[:4]):
            out[one] -= ties * values[other]
            out[other] -= ties * values[one]
        return out

    def coarse(self) -> "Grid":
        """The same for blocks of four places that share one value, half as stiff: their values then vary linearly."""
        height, width = (-(-n // 2) for n in self.outside.shape[2:])

        def even(ties: Tensor) -> Tensor:
            return functional.pad(ties, (0, 2 * width - ties.shape[3], 0, 2 * height - ties.shape[2]))

        across, down, falling, rising, outside = (even(t) for t in self[:5])
        # what crosses from one block to the next: two edges, and the two corners beside them
        right = across[..., 0::2, 1::2] + across[..., 1::2, 1::2] + falling[..., 0::2, 1::2] + rising[..., 0::2, 1::2]
        below = down[..., 1::2, 0::2] + down[..., 1::2, 1::2] + falling[..., 1::2, 0::2] + rising[..., 1::2, 0::2]
        return Grid.of(
            right[..., :-1] / 2,
            below[..., :-1, :] / 2,
            falling[..., 1::2, 1::2][..., :-1, :-1] / 2,
            rising[..., 1::2, 1::2][..., :-1, :-1] / 2,
            4 * functional.avg_pool2d(outside, 2),
        )


_HERE, _NEXT = slice(None, -1), slice(1, None)
_Place = tuple[EllipsisType | slice, ...]


def _pairs(across: Tensor, down: Tensor, falling: Tensor, rising: Tensor) -> list[tuple[Tensor, _Place, _Place]]:
    """Every kind of tie, with the places at its two ends."""
    return [
        (across, (..., _HERE), (..., _NEXT)),
        (down, (..., _HERE, slice(None)), (..., _NEXT, slice(None))),
        (falling, (..., _HERE, _HERE), (..., _NEXT, _NEXT)),
        (rising, (..., _HERE, _NEXT), (..., _NEXT, _HERE)),
    ]


def _around(values: Tensor) -> Tensor:
    """Every pixel's neighbours, 2 for edges and 1 for corners, added up: `(B, C, H, W)`; there is nothing outside."""
    outer = functional.pad(values, (1, 1, 1, 1))
    columns = (
        outer[..., :-2, :] + 2 * outer[..., 1:-1, :] + outer[..., 2:, :]
    )  # no convolution: some devices round its factors
    return columns[..., :-2] + 2 * columns[..., 1:-1] + columns[..., 2:] - 4 * values


def _levels(hole: Tensor) -> list[Grid]:
    """The system of the hole's pixels, `(B, 1, H, W)` of zeros and ones, and coarser ones down to a few places."""
    found = [
        Grid.of(
            2 * hole[..., :, :-1] * hole[..., :, 1:],
            2 * hole[..., :-1, :] * hole[..., 1:, :],
            hole[..., :-1, :-1] * hole[..., 1:, 1:],
            hole[..., :-1, 1:] * hole[..., 1:, :-1],
            hole * _around(1 - hole),
        )
    ]
    while min(found[-1].outside.shape[2:]) > 2:
        found.append(found[-1].coarse())
    return found


def _cycle(levels: list[Grid], rest: Tensor) -> Tensor:
    """Roughly the solution for the right side `rest`: a step of Jacobi, the coarser grids' correction, and a step.

    At known places it is of no meaning, and does no harm: nothing is tied to them.
    """
    grid = levels[0]
    guess = DAMPING * grid.inverse * rest
    if len(levels) > 1:
        left = rest - grid.times(guess)
        height, width = left.shape[2:]
        left = 4 * functional.avg_pool2d(functional.pad(left, (0, width % 2, 0, height % 2)), 2)
        far = _cycle(levels[1:], left).repeat_interleave(2, 2).repeat_interleave(2, 3)
        guess = guess + far[..., :height, :width]
    return guess + DAMPING * grid.inverse * (rest - grid.times(guess))


def impute(images: Tensor, hole: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    r"""Fill holes so that every pixel in them is the weighted mean of its eight neighbours, all pixels at once.

    .. math:: \sum_{j \in N(i)} w_{ij} (x_i - x_j) = 0 \quad \text{for every } i \text{ in the hole}

    with :math:`w = 1/6` for a neighbour that shares an edge and 1/12 for one at a corner; what lies outside the image is
    left out. The system is solved by conjugate gradients with a multigrid preconditioner (blocks of four merged, and the
    coarse grids' stiffness halved), for all images and channels at once; each image stops by itself, so that its result is
    not its batch mates'.

    Args:
        images: `(B, C, H, W)`, in single or double precision.
        hole: `(B, H, W)` bool: what is to be filled. At least one pixel of every image must be known.
        tolerance: The error that is left, estimated by the preconditioner, as a share of the range of the image's known
            pixels.

    Raises:
        ValueError: A hole is the whole image.
        RuntimeError: It does not converge.

    Example:
        >>> image = torch.tensor([[[[0.0, 9.0, 9.0, 3.0]]]])
        >>> impute(image, torch.tensor([[[False, True, True, False]]])).round(decimals=3).tolist()
        [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    if bool(hole.flatten(1).all(1).any()):
        raise ValueError("nothing of an image is known: leave at least one pixel")
    gap = hole[:, None]
    low = images.masked_fill(gap, torch.inf).amin((2, 3), keepdim=True)
    high = images.masked_fill(gap, -torch.inf).amax((2, 3), keepdim=True)
    middle = (low + high) / 2  # solved for what differs from it: small numbers round less
    known = (images - middle).masked_fill(gap, 0)
    within = tolerance * (high - low).amax((1, 2, 3))
    levels = _levels(gap.to(images.dtype))
    grid = levels[0]
    rest = torch.where(gap, _around(known), torch.zeros_like(known))
    found, step, old = torch.zeros_like(known), torch.zeros_like(known), torch.ones_like(low)
    for _ in range(ROUNDS):
        error = _cycle(levels, rest)
        unsolved = (error.abs().amax((1, 2, 3)) > within)[:, None, None, None]
        if not bool(unsolved.any()):
            return torch.where(gap, found + middle, images)
        new = (rest * error).sum((2, 3), keepdim=True)
        step = error + torch.where(old > 0, new / old, 0) * step
        moved = grid.times(step)
        size = (step * moved).sum((2, 3), keepdim=True)
        length = torch.where((size > 0) & unsolved, new / size, 0)
        found, rest, old = found + length * step, rest - length * moved, new
    raise RuntimeError(f"the imputation does not converge to {tolerance:g} of the images' range")


@dataclass(eq=False)
class Imputed:
    """Images whose first pixels in an order are removed and imputed, made when they are needed.

    Args:
        images: `(N, C, H, W)`.
        ranks: Integers `(N, H, W)`, 0 for the pixel that goes first.
        cuts: `LongTensor (K,)`: version k has lost `cuts[k]` pixels.
        noise: `(C, H, W)`, added to every removed pixel.
    """

    images: Tensor
    ranks: Tensor
    cuts: Tensor
    noise: Tensor

    @property
    def count(self) -> int:
        """How many versions there are."""
        return len(self.cuts)

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Remove, impute and add noise, a few versions at a time."""
        image = self.images[row]
        image = image if image.dtype == torch.float64 else image.float()
        cuts = self.cuts[items].to(self.ranks.device, self.ranks.dtype)
        for part, own in zip(out.split(PIECE), cuts.split(PIECE), strict=True):
            hole = self.ranks[row] < own[:, None, None]
            filled = impute(image.expand(len(own), *image.shape), hole)
            part.copy_(torch.where(hole[:, None], filled + self.noise, filled))

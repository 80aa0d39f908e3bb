"""WCAM: Sobol indices of an image's wavelet coefficients: where the network looks, and at which scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from .. import baselines, masking, regions
from .._parameters import Count, Range, Seed
from ..attributor import Attributor, Computed, Resize, register, resize
from ..designs import Sampler
from ..targets import Target
from ._sobol import Design, Estimator, Versions, check_designs, design, measure, share

Postprocess = Literal["none", "minmax_u8"]
Band = tuple[slice, slice]

MEMORY = 512 * 2**20  # bytes that the basis images of one image may take


# -- the transform -----------------------------------------------------------------------------------------------------


def haar(images: Tensor, levels: int) -> Tensor:
    """The orthonormal Haar transform of `(..., H, W)`, packed: the approximation top left, finer details outwards.

    At each level the band to the right holds differences from left to right, the one below from top to bottom.

    Args:
        images: Sides divide by `2**levels`.
        levels: How many times the approximation is split.

    Example:
        >>> haar(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1).tolist()
        [[5.0, -1.0], [-2.0, 0.0]]
    """
    packed = images.clone()
    for level in range(levels):
        height, width = images.shape[-2] >> level, images.shape[-1] >> level
        block = packed[..., :height, :width]
        upper, lower = block[..., 0::2, :], block[..., 1::2, :]
        block = torch.cat([upper + lower, upper - lower], -2)
        left, right = block[..., 0::2], block[..., 1::2]
        packed[..., :height, :width] = torch.cat([left + right, left - right], -1) / 2
    return packed


def unhaar(packed: Tensor, levels: int) -> Tensor:
    """What `haar` made, back as images.

    Example:
        >>> unhaar(torch.tensor([[5.0, -1.0], [-2.0, 0.0]]), 1).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    images = packed.clone()
    for level in reversed(range(levels)):
        height, width = packed.shape[-2] >> level, packed.shape[-1] >> level
        block = images[..., :height, :width]
        near, far = block[..., : width // 2], block[..., width // 2 :]
        block = torch.stack([near + far, near - far], -1).flatten(-2)
        near, far = block[..., : height // 2, :], block[..., height // 2 :, :]
        images[..., :height, :width] = torch.stack([near + far, near - far], -2).flatten(-3, -2) / 2
    return images


def fitting(levels: int, height: int, width: int) -> tuple[int, int, int]:
    """How often an image can be split, and the size to which it is padded for that: `(levels, height, width)`.

    Example:
        >>> fitting(3, 21, 13), fitting(3, 5, 100)
        ((3, 24, 16), (2, 8, 100))
    """
    levels = min(levels, min(height, width).bit_length() - 1)
    side = 1 << levels
    return levels, -(-height // side) * side, -(-width // side) * side


def bands(levels: int, height: int, width: int) -> list[list[Band]]:
    """Where the bands are in a packed plane: the approximation, then the three of every level from coarse to fine.

    Example:
        >>> bands(1, 4, 8)[1][0]
        (slice(0, 2, None), slice(4, 8, None))
    """
    found: list[list[Band]] = [[(slice(0, height >> levels), slice(0, width >> levels))]]
    for level in range(levels, 0, -1):
        (y, x), far = (height >> level, width >> level), (slice(height >> level, 2 * (height >> level)))
        right = slice(x, 2 * x)
        found.append([(slice(0, y), right), (far, slice(0, x)), (far, right)])
    return found


# -- perturbed images --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Wavelets:
    """Images whose wavelet coefficients are blended with the baseline's, cell by cell of the packed plane.

    The inverse transform is linear: an image is the baseline and, for every cell, how much of it is kept times the image
    that this cell's coefficients make alone. These are made once for the image that is being written; from then on a
    version that differs from a point of the design in one cell is one multiplication and addition. Where they do not fit
    into memory, each version is transformed back by itself.

    Args:
        images: `(N, C, H, W)`.
        baseline: What stands in, broadcastable to them.
        labels: The cell of every coefficient, `(H', W')`, of a plane padded so that its sides divide.
        versions: Which rows of which design.
        levels: Of the transform.
        postprocess: What is done to a perturbed image.
        bounds: The model's, for `"minmax_u8"`.
        memory: Bytes for one image's basis.
    """

    images: Tensor
    baseline: Tensor
    labels: Tensor
    versions: Versions
    levels: int
    postprocess: Postprocess = "none"
    bounds: tuple[float, float] | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        self._row, self._point = -1, -1
        self._plane = self._basis = self._base = torch.empty(0)
        self.cells = int(self.labels.max()) + 1
        one = self.images[0]
        self.fast = self.cells * one.numel() * one.element_size() <= self.memory

    @property
    def count(self) -> Any:
        """How many versions there are of each image."""
        return self.versions.count

    def write(self, out: Tensor, row: int, items: slice) -> None:
        """Blend."""
        behind = self.baseline[row if len(self.baseline) > 1 else 0].expand(self.images.shape[1:])
        if row != self._row:
            self._enter(row, behind)
        if self.fast:
            self._add(out, behind, self.versions.of(row, items))
        else:
            keep = self.versions(row, items).to(out.device, out.dtype)
            keep = keep.index_select(1, self.labels.flatten()).reshape(-1, 1, *self.labels.shape)
            torch.add(behind, self._back(keep * self._plane), out=out)
        if self.postprocess == "minmax_u8":
            stretch(out, self.bounds)

    def _enter(self, row: int, behind: Tensor) -> None:
        """Transform an image, and what each of its cells makes alone."""
        self._row, self._point = row, -1
        height, width = self.images.shape[2:]
        pad = (0, self.labels.shape[1] - width, 0, self.labels.shape[0] - height)
        difference = functional.pad((self.images[row] - behind)[None], pad, mode="replicate")[0]
        self._plane = haar(difference, self.levels)
        if not self.fast:
            return
        if len(self._basis) != self.cells:
            self._basis = self._plane.new_empty(self.cells, self.images[0].numel())
        for some in torch.arange(self.cells, device=self.labels.device).split(16):
            alone = (self.labels == some[:, None, None])[:, None] * self._plane
            self._basis[some] = self._back(alone).flatten(1)

    def _back(self, planes: Tensor) -> Tensor:
        height, width = self.images.shape[2:]
        return unhaar(planes, self.levels)[..., :height, :width]

    def _add(self, out: Tensor, behind: Tensor, numbers: Tensor) -> None:
        plan = self.versions.plan
        points, columns, second = plan.parts(numbers)
        which = columns.clamp_min(0)
        # in float64: rounded differences would be another design's
        steps = plan.b[points, which].double() - plan.a[points, which].double()
        for image, point, column, step, other in zip(
            out, points.tolist(), columns.tolist(), steps.tolist(), second.tolist(), strict=True
        ):
            if other:
                image.copy_(behind + (plan.b[point].to(self._basis) @ self._basis).reshape(image.shape))
                continue
            if point != self._point:
                self._point = point
                self._base = behind + (plan.a[point].to(self._basis) @ self._basis).reshape(image.shape)
            if column < 0:
                image.copy_(self._base)
            else:
                torch.add(self._base, self._basis[column].reshape(image.shape), alpha=step, out=image)


def stretch(images: Tensor, bounds: tuple[float, float] | None) -> None:
    """Each image between its smallest and largest value, in 256 steps, in place; a constant one becomes the smallest.

    Example:
        >>> x = torch.tensor([[[[0.2, 0.3, 0.6]]]])
        >>> stretch(x, (0.0, 1.0))
        >>> (x * 255).round().tolist()
        [[[[0.0, 63.0, 255.0]]]]
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    images.sub_(low).div_((high - low).clamp_min(torch.finfo(images.dtype).tiny)).mul_(255).floor_().div_(255)
    if bounds is not None:
        images.mul_(bounds[1] - bounds[0]).add_(bounds[0])


# -- the method --------------------------------------------------------------------------------------------------------


def per_level(indices: Tensor, levels: int, plane: tuple[int, int], size: tuple[int, int], how: Resize) -> Tensor:
    """Indices of the packed plane's cells as maps over the image, the orientations of one scale summed.

    A band's part of the grid is taken out (where cells straddle bands: their means by area) and resized to the image.

    Args:
        indices: `(N, rows, columns)`.
        levels: Of the transform.
        plane: The padded height and width.
        size: The image's.
        how: How bands are enlarged.

    Returns:
        `(N, levels + 1, H, W)`: the approximation, then details from coarse to fine.
    """
    rows, columns = indices.shape[1:]
    labels = regions.grid(*plane, rows, columns)[0].to(indices.device)
    spread = indices.flatten(1)[:, labels]
    found = []
    for orientations in bands(levels, *plane):
        total = indices.new_zeros(len(indices), 1, *plane)
        for y, x in orientations:
            band = spread[:, None, y, x]
            inside = (max(1, round(rows * band.shape[2] / plane[0])), max(1, round(columns * band.shape[3] / plane[1])))
            band = functional.adaptive_avg_pool2d(band, inside)
            total += resize(band, plane, how)
        found.append(total[..., : size[0], : size[1]])
    return torch.cat(found, 1)


@register(
    "wcam",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    signed=False,
    offset=True,
    samples="designs",
    small={"grid": 4, "designs": 32, "levels": 1},
    paper="Kasmi, Dubus, Saint-Drenan and Blanc 2023, arXiv:2305.14979",
)
class WCAM(Attributor):
    r"""Sobol in the wavelet domain: the share of the score's variance in which each place takes part at each scale.

    .. math:: x_M = x_0 + \mathcal{W}^{-1}\bigl(M \odot \mathcal{W}(x - x_0)\bigr), \qquad
        S_{T_i} = \frac{E\bigl[(f(x_{A}) - f(x_{A^{(i)}_B}))^2\bigr]}{2 \, \mathrm{Var}(f)}

    The Haar transform W is orthonormal, and a cell of the grid is a block of its packed plane: coefficients of one scale,
    one orientation and one place (cells straddle bands unless the grid divides by 2^levels). So the indices say whether
    the network reads coarse shapes or fine texture, which no map of pixels can.

    Unsigned, and the indices sum to 1 or more, as in `sobol`. Scales do not have the same number of cells, and coarse
    coefficients are larger: an index says what removing a cell does to the score, not how much a scale matters per pixel.

    Args:
        output: Which score; the paper takes the logit.
        levels: How often the approximation is split, at most until a side has less than two pixels. Images whose sides do
            not divide are padded with their edge.
        grid: Cells per side of the packed plane. With 8 and three levels the approximation is a single cell, which tells
            how much the coarse scales matter but not where: take 16, or 28 as the authors' experiments do, for places.
        designs: Points of the design; each costs grid * grid + 1 forwards. A power of two for the samplers "sobol" and
            "official", and whatever the sampler where a budget picks it.
        estimator: Which estimator of the total index.
        sampler: As in `sobol`.
        baseline: Towards whose coefficients an image's are blended; the paper's zero is the mean colour.
        postprocess: "none", or "minmax_u8": every perturbed image between its smallest and largest value in 256 steps, as
            the authors' code does, by which removing one cell changes the contrast of all others.
        resize: How each scale's cells are brought to the image's size.
        seed: For the points and the intervals.

    Returns:
        `(N, 1, H, W)`, all scales summed; a scale of a single cell adds the same everywhere, so figures show what differs
        from the map's mean. In the details `"indices"` is `(N, grid, grid)` over the packed plane,
        `"interval"` `(N, 2, grid, grid)` its 95% interval, `"levels"` `(N, levels + 1, H, W)` the map of every scale, the
        approximation first, then details from coarse to fine, and `"designs"` how many points were used.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> wcam = attribution.create("wcam", network, grid=4, levels=2, designs=8)
        >>> wcam.explain(torch.rand(1, 3, 8, 8)).details["levels"].shape
        torch.Size([1, 3, 8, 8])
    """

    levels: Count = 3
    grid: Annotated[int, Range(1, 102)] = 8  # the Sobol sequence has 21201 dimensions
    designs: Annotated[int, Range(2, doubles=True)] = 32
    estimator: Estimator = "jansen"
    sampler: Sampler = "sobol"
    baseline: baselines.Baseline = "mean"
    postprocess: Postprocess = "none"
    resize: Resize = "bilinear"
    seed: Seed = 0

    def validate(self) -> None:
        """A number of points that fits the sampler."""
        check_designs("wcam", self.designs, self.sampler)

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`."""
        size = cast("tuple[int, int]", tuple(inputs.shape[2:]))
        levels, *sides = fitting(self.levels, *size)
        plane = (sides[0], sides[1])
        cells = (min(self.grid, plane[0]), min(self.grid, plane[1]))
        labels = regions.grid(*plane, *cells)[0].to(inputs.device)
        fill = baselines.make(self.baseline, inputs, self.model, seed=self.seed)

        def make(images: Tensor, versions: Versions) -> masking.Source:
            behind = fill if len(fill) == 1 else fill[images]
            return Wavelets(inputs[images], behind, labels, versions, levels, self.postprocess, self.model.bounds)

        found = measure(
            make,
            self.model,
            target,
            _plan(self, inputs.shape[1:]),
            output=self.output,
            estimator=self.estimator,
            seed=self.seed,
            key=("wcam", levels, cells, self.postprocess),
        )
        indices = share(found.values, inputs, cells)
        maps = per_level(indices, levels, plane, size, self.resize)
        details = {
            "indices": indices,
            "interval": share(found.interval, inputs, cells),
            "levels": maps,
            "designs": found.designs,
        }
        return Computed(maps.sum(1, keepdim=True), details)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return _plan(options, shape).cost("total"), 0


def _plan(options: Any, shape: Sequence[int]) -> Design:
    _, height, width = fitting(options.levels, shape[-2], shape[-1])
    cells = min(options.grid, height) * min(options.grid, width)
    return design(cells, options.designs, options.sampler, options.seed)

"""Blur integrated gradients: the gradient along a path from a blurred image to the sharp one."""

import itertools
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .. import masking
from .._parameters import Range
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model, map_type
from ..targets import Output, Target
from ._line import add, walk

Edges = Literal["replicate", "zero"]
Spacing = Literal["linear", "quadratic"]
WIDTH = 50 / 224  # of the shorter side: the paper's 50 pixels at its image size


@lru_cache(maxsize=32)
def blur_matrix(size: int, sigma: float, edges: Edges, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A Gaussian of `sigma` pixels, cut at four of them, as the matrix `(size, size)` that blurs a column of pixels.

    Args:
        size: Pixels in the column.
        sigma: Standard deviation.
        edges: What lies outside: "replicate" the last pixel again, "zero" zeros.
        dtype: Of the matrix; it is computed in double precision.
        device: Where it lies.

    Example:
        >>> blur_matrix(3, 0.5, "replicate", torch.float64, torch.device("cpu")).sum(1).tolist()
        [1.0, 1.0, 1.0]
    """
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    kernel = (kernel / kernel.sum()).expand(size, -1)
    index = torch.arange(size)[:, None] + offsets
    if edges == "zero":
        kernel = kernel * ((index >= 0) & (index < size))
    matrix = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, index.clamp(0, size - 1), kernel)
    return matrix.to(device, dtype)


def blurred(images: Tensor, sigma: float, edges: Edges, *, between: Tensor | None = None, out: Tensor) -> Tensor:
    """Images `(N, C, H, W)` blurred into `out`: two products with a matrix, for all images and channels at once.

    Args:
        images: `(N, C, H, W)`.
        sigma: In pixels; 0 leaves them as they are.
        edges: As in `blur_matrix`.
        between: A buffer like `out` for what is blurred in one direction.
        out: `(N, C, H, W)`, contiguous.

    Example:
        >>> flat = torch.full((1, 1, 9, 9), 0.5)
        >>> bool(torch.allclose(blurred(flat, 2.0, "replicate", out=torch.empty_like(flat)), flat))
        True
    """
    if int(4 * sigma + 0.5) == 0:
        return out.copy_(images)
    height, width = images.shape[2:]
    between = torch.empty_like(out) if between is None else between
    down, right = (blur_matrix(n, sigma, edges, images.dtype, images.device) for n in (height, width))
    torch.mm(images.reshape(-1, width), right.T, out=between.view(-1, width))
    planes = out.view(-1, height, width)
    torch.bmm(down.expand(len(planes), -1, -1), between.view(-1, height, width), out=planes)
    return out


def scales(steps: int, most: float, spacing: Spacing) -> list[float]:
    """`steps` standard deviations from `most` down to 0.

    Example:
        >>> scales(3, 8.0, "linear"), scales(3, 8.0, "quadratic")
        ([8.0, 4.0, 0.0], [8.0, 2.0, 0.0])
    """
    power = 2 if spacing == "quadratic" else 1
    return [most * (k / (steps - 1)) ** power for k in reversed(range(steps))]


class Blurs:
    """Images less and less blurred.

    Each blur is made once for the images of a block. Beside a point stands half of the way from the one before to the one
    after: what the trapezoid rule multiplies its gradient by.

    Args:
        images: `(N, C, H, W)`.
        sigmas: Standard deviations, one for each point.
        edges: As in `blur_matrix`.
    """

    def __init__(self, images: Tensor, sigmas: list[float], edges: Edges) -> None:
        self.images, self.sigmas, self.edges = images, sigmas, edges
        self._block = slice(0, 0)
        self._made: dict[int, Tensor] = {}
        self._between = torch.empty(0)

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.sigmas)

    def enter(self, block: slice) -> None:
        """Blurs of other images are of no use here."""
        self._block = block
        self._made.clear()

    def write(self, points: Tensor, ways: Tensor | None, rows: slice, items: slice) -> None:
        """Copy blurs and subtract them."""
        own = slice(rows.start - self._block.start, rows.stop - self._block.start)
        for k, item in enumerate(range(items.start, items.stop)):
            points[k] = self._at(item)[own]
            if ways is not None:
                before, after = self._at(max(item - 1, 0)), self._at(min(item + 1, self.count - 1))
                torch.sub(after[own], before[own], out=ways[k]).mul_(0.5)

    def _at(self, item: int) -> Tensor:
        """The block at one scale; what no later point needs gives its memory."""
        if item not in self._made:
            old = next((i for i in self._made if i < item - 2), None)
            images = self.images[self._block]
            out = (
                torch.empty_like(images, memory_format=torch.contiguous_format) if old is None else self._made.pop(old)
            )
            if self._between.shape != images.shape:
                self._between = torch.empty_like(images, memory_format=torch.contiguous_format)
            self._made[item] = blurred(images, self.sigmas[item], self.edges, between=self._between, out=out)
        return self._made[item]


class Derivatives(Blurs):
    """The paper's sum: more and more blurred images, and beside each what a little more blur changes, times the step.

    Args:
        images: `(N, C, H, W)`.
        sigmas: Standard deviations from 0 upwards, with the last, which is no point.
        edges: As in `blur_matrix`.
        little: How much more blur, in pixels.
    """

    def __init__(self, images: Tensor, sigmas: list[float], edges: Edges, little: float) -> None:
        steps = [b - a for a, b in itertools.pairwise(sigmas)]
        super().__init__(images, [s for sigma in sigmas[:-1] for s in (sigma, sigma + little)], edges)
        self._weights = [-step / little for step in steps]

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self._weights)

    def write(self, points: Tensor, ways: Tensor | None, rows: slice, items: slice) -> None:
        """Copy blurs, and subtract them from those with a little more."""
        assert ways is not None
        own = slice(rows.start - self._block.start, rows.stop - self._block.start)
        for k, item in enumerate(range(items.start, items.stop)):
            here, further = self._at(2 * item), self._at(2 * item + 1)
            points[k] = here[own]
            torch.sub(further[own], here[own], out=ways[k]).mul_(self._weights[item])


def blur_ig(model: Model, path: Blurs, target: Target, *, output: Output) -> tuple[Tensor, Tensor]:
    r"""Sum gradients along a path of blurs, each times the way that goes with it.

    .. math:: -\int_0^{\sigma_{max}} \frac{\partial f}{\partial x_\sigma} \odot
        \frac{\partial x_\sigma}{\partial \sigma} \, d\sigma

    Args:
        model: The model.
        path: The blurs.
        target: Frozen, one row per image.
        output: Which score.

    Returns:
        Maps `(N, C, H, W)`, and the scores at the points, `(N, K)`.
    """
    images = path.images
    maps = torch.zeros(images.shape, dtype=map_type(images), device=images.device)
    scores = torch.empty(0)
    for tile in walk(model, path, target, output=output, ways=True):
        assert tile.ways is not None
        scores = scores if scores.numel() else tile.scores.new_empty(len(images), path.count)
        add(maps[tile.rows], tile.ways.mul_(tile.gradients), [1.0] * len(tile.ways))
        scores[tile.rows, tile.items] = tile.scores.T
    return maps, scores


@register(
    "blur_ig",
    family="path",
    needs="gradient",
    samples="steps",
    small={"steps": 16},
    paper="Xu, Venugopalan and Sundararajan 2020, arXiv:2004.03383",
)
class BlurIG(Attributor):
    r"""The gradient along a path from the blurred image to the sharp one, times what sharpening changes.

    No baseline has to be chosen: what is missing at the start is detail, coarse shapes and colours come last. So the map
    explains the score minus that of the blurred image, and says nothing of what the blurred image tells already: look at
    `details["gain"]`. Pixels around a thing get their part, since blur moves it there.

    Args:
        output: Which score is integrated; the paper takes the probability.
        steps: Gradients along the path.
        max_sigma: The standard deviation of the strongest blur in pixels; `None`: 50/224 of the shorter side, the paper's at
            its size.
        rule: "trapezoid" takes differences of the blurs themselves, both ends included, so that the sum converges to the
            difference of the scores; "paper" takes the left ends of the steps and the derivative with respect to the blur by
            a difference, as the authors' code does: it misses by some percent whatever the steps.
        spacing: How blurs are spaced: "linear", as in the paper, or "quadratic", denser where the image is nearly sharp and
            changes most.
        edges: What lies outside of the image: "replicate" repeats the last pixels; "zero", as in the authors' code, puts
            zeros there, which darkens the borders and is a change of its own.
        grad_step: For `rule="paper"`: the difference in pixels that its derivative is taken over.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details, each `(N,)`: `"gain"`, the score minus that of the
        blurred image; `"convergence_delta"`, the map's sum minus this.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> blur = attribution.create("blur_ig", network, steps=10, output="logit")
        >>> found = blur.explain(torch.rand(1, 3, 4, 4), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-6)
        True
    """

    output: Output = "probability"
    steps: Annotated[int, Range(2)] = 50
    max_sigma: Annotated[float, Range(0, open=True)] | None = None
    rule: Literal["trapezoid", "paper"] = "trapezoid"
    spacing: Spacing = "linear"
    edges: Edges = "replicate"
    grad_step: Annotated[float, Range(0, open=True)] = 0.01
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        most = float(self.max_sigma or WIDTH * min(inputs.shape[2:]))
        if self.rule == "trapezoid":
            path = Blurs(inputs, scales(self.steps, most, self.spacing), self.edges)
            maps, scores = blur_ig(self.model, path, target, output=self.output)
            gain = scores[:, -1] - scores[:, 0]
        else:
            sigmas = scales(self.steps + 1, most, self.spacing)[::-1]
            path = Derivatives(inputs, sigmas, self.edges, self.grad_step)
            maps, scores = blur_ig(self.model, path, target, output=self.output)
            start = blurred(
                inputs, most, self.edges, out=torch.empty_like(inputs, memory_format=torch.contiguous_format)
            )
            end = masking.Evaluations(self.model, target, output=self.output).ask(masking.Clean(inputs, start))
            gain = scores[:, 0] - end()[:, 0]
        delta = maps.flatten(1).sum(1) - gain.to(maps)
        return Computed(maps, {"convergence_delta": delta, "gain": gain.to(maps)})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps + (options.rule == "paper"), options.steps

"""Occlusion: how far the score falls when a window is covered."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import baselines, masking, regions
from .._parameters import Count
from ..attributor import Attributor, Computed, register
from ..games import Game
from ..model import Model, map_type
from ..targets import Output, Target
from .feature_ablation import feature_ablation

Size: TypeAlias = Count | tuple[int, int]


def positions(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one axis: enough to cover it; the last may hang over the end.

    Example:
        >>> positions(10, 4, 4)
        [0, 4, 8]
    """
    return [i * stride for i in range(-(-max(length - window, 0) // stride) + 1)]


def pair(size: Size) -> tuple[int, int]:
    """Height and width of a square or of a rectangle.

    Example:
        >>> pair(4), pair((2, 3))
        ((4, 4), (2, 3))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def occlusion(
    model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, window: Size, stride: Size, output: Output
) -> tuple[Tensor, Tensor]:
    """The fall of the score under every window, averaged over the windows that cover a pixel.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        baseline: What a window is filled with, broadcastable to the inputs.
        target: Frozen, one row per image.
        window: Side of the square in pixels, or height and width.
        stride: Pixels between windows, at most `window`; likewise.
        output: Which score.

    Returns:
        The map `(N, 1, H, W)` and the falls `(N, rows, columns)`.
    """
    size, steps = pair(window), pair(stride)
    tops, lefts = (positions(n, w, s) for n, w, s in zip(inputs.shape[2:], size, steps, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    whole, cut = masking.Clean(inputs), masking.Windows(inputs, baseline, corners, size)
    if model.shared is None:  # one stream
        todo = masking.Evaluations(model, target, output=output)
        tickets = todo.ask(whole), todo.ask(cut)
        todo.run()
        clean, covered = (ticket() for ticket in tickets)
    else:  # others know the clean image, or will want to
        clean = masking.evaluate(whole, model, target, output=output, key="clean")
        covered = masking.evaluate(cut, model, target, output=output, key=("occlusion", size, steps))
    falls = (clean - covered).to(inputs.device, map_type(inputs)).reshape(len(inputs), len(tops), len(lefts))
    # each pixel's mean over its windows, as two matrix products: which windows cover which row and which column
    rows = _cover(tops, size[0], inputs.shape[2]).to(falls)
    columns = _cover(lefts, size[1], inputs.shape[3]).to(falls)
    total = rows @ falls @ columns.T
    number = rows.sum(1)[:, None] * columns.sum(1)[None, :]
    return (total / number)[:, None], falls


def leave_one_out(model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, output: Output) -> Tensor:
    """The fall of the score without each column of a table, or each token, `(N, F)` or `(N, T)`; arguments as above."""
    labels = regions.cells(inputs.shape[1:2], inputs).expand(len(inputs), -1)
    game = Game(model, inputs, baseline, labels, target, output=output)
    return torch.stack(feature_ablation(game)).to(inputs.device, map_type(inputs))


def _cover(starts: list[int], window: int, length: int) -> Tensor:
    """Which windows cover which pixel along one axis, `(length, windows)`."""
    pixel, start = torch.arange(length)[:, None], torch.tensor(starts)[None, :]
    return (pixel >= start) & (pixel < start + window)


@register(
    "occlusion",
    family="perturbation",
    granularity="cell",
    kinds=("image", "table", "tokens"),
    small={"window": 4, "stride": 2},
    paper="Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2",
)
class Occlusion(Attributor):
    """How far the score falls when a window is covered; positive where covering hurts.

    Each pixel gets the mean over the windows that cover it, so the map is no sharper than a window, and things that are
    larger than the window, or that stand in for each other, look unimportant.

    In tables one column is covered at a time, in tokens one token; window and stride are for images.

    Args:
        output: Which score.
        window: Side of the covered square, in pixels, or (height, width); cut to the image.
        stride: Pixels between windows, or (down, across).
        baseline: What covers: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a callable.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["falls"]` is the score's fall at every window,
        `(N, rows, columns)`. For tables and tokens the falls are the map, `(N, F)` and `(N, T)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> attribution.create("occlusion", network, window=2, stride=2).attribute(torch.rand(1, 3, 4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """

    window: Size = 32
    stride: Size = 16
    baseline: baselines.Baseline = "mean"

    def validate(self) -> None:
        """Sizes are one whole number or two, and windows must not leave gaps."""
        for name, size in (("window", self.window), ("stride", self.stride)):
            if not isinstance(size, int) and (len(size) != 2 or not all(type(s) is int and s >= 1 for s in size)):
                raise ValueError(f"occlusion: {name}={size!r}: give pixels, or (height, width), each at least 1")
        if any(s > w for s, w in zip(pair(self.stride), pair(self.window), strict=True)):
            raise ValueError(f"occlusion: stride={self.stride} leaves gaps between windows of {self.window} pixels")

    def within(self, head: Model, stride: tuple[float, float]) -> "Attributor":
        """Window and stride in places of the activation."""
        sizes = {
            name: tuple(max(1, round(size / step)) for size, step in zip(pair(getattr(self, name)), stride, strict=True))
            for name in ("window", "stride")
        }
        made = super().within(head, stride)
        return type(self)(head, **{**made.params, **sizes})

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        fill = baselines.make(self.baseline, inputs, self.model)
        if inputs.ndim != 4:
            falls = leave_one_out(self.model, inputs, fill, target, output=self.output)
            return Computed(falls, {"falls": falls})
        maps, falls = occlusion(
            self.model, inputs, fill, target, window=self.window, stride=self.stride, output=self.output
        )
        return Computed(maps, {"falls": falls})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        if len(shape) != 3:
            return 1 + shape[0], 0
        sizes = zip(shape[1:], pair(options.window), pair(options.stride), strict=True)
        rows, columns = (len(positions(*one)) for one in sizes)
        return 1 + rows * columns, 0

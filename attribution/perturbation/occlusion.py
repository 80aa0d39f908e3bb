"""Occlusion: how far the score falls when a window is covered."""

from typing import Any

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count
from ..attributor import Attributor, Computed, register
from ..model import Model
from ..targets import Output, Target


def positions(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one axis: enough to cover it; the last may hang over the end.

    Example:
        >>> positions(10, 4, 4)
        [0, 4, 8]
    """
    return [i * stride for i in range(-(-max(length - window, 0) // stride) + 1)]


def occlusion(
    model: Model, inputs: Tensor, baseline: Tensor, target: Target, *, window: int, stride: int, output: Output
) -> tuple[Tensor, Tensor]:
    """The fall of the score under every window, averaged over the windows that cover a pixel.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        baseline: What a window is filled with, broadcastable to the inputs.
        target: Frozen, one row per image.
        window: Side of the square in pixels.
        stride: Pixels between windows, at most `window`.
        output: Which score.

    Returns:
        The map `(N, 1, H, W)` and the falls `(N, rows, columns)`.
    """
    height, width = inputs.shape[2:]
    tops, lefts = positions(height, window, stride), positions(width, window, stride)
    corners = [(top, left) for top in tops for left in lefts]
    todo = masking.Evaluations(model, target, output=output)
    clean = todo.ask(masking.Clean(inputs))
    covered = todo.ask(masking.Windows(inputs, baseline, corners, (window, window)))
    todo.run()
    falls = (clean() - covered()).to(inputs).reshape(len(inputs), len(tops), len(lefts))
    # each pixel's mean over its windows, as two matrix products: which windows cover which row and which column
    rows = _cover(tops, window, height).to(falls)
    columns = _cover(lefts, window, width).to(falls)
    total = rows @ falls @ columns.T
    number = rows.sum(1)[:, None] * columns.sum(1)[None, :]
    return (total / number)[:, None], falls


def _cover(starts: list[int], window: int, length: int) -> Tensor:
    """Which windows cover which pixel along one axis, `(length, windows)`."""
    pixel, start = torch.arange(length)[:, None], torch.tensor(starts)[None, :]
    return (pixel >= start) & (pixel < start + window)


@register(
    "occlusion",
    family="perturbation",
    granularity="cell",
    small={"window": 4, "stride": 2},
    paper="Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2",
)
class Occlusion(Attributor):
    """How far the score falls when a window is covered; positive where covering hurts.

    Each pixel gets the mean over the windows that cover it, so the map is no sharper than a window, and things that are
    larger than the window, or that stand in for each other, look unimportant.

    Args:
        output: Which score.
        window: Side of the covered square, in pixels; cut to the image.
        stride: Pixels between windows.
        baseline: What covers: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a callable.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["falls"]` is the score's fall at every window,
        `(N, rows, columns)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> attribution.create("occlusion", network, window=2, stride=2).attribute(torch.rand(1, 3, 4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """

    window: Count = 32
    stride: Count = 16
    baseline: baselines.Baseline = "mean"

    def validate(self) -> None:
        """Windows must not leave gaps."""
        if self.stride > self.window:
            raise ValueError(f"occlusion: stride={self.stride} leaves gaps between windows of {self.window} pixels")

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`."""
        fill = baselines.make(self.baseline, inputs, self.model)
        maps, falls = occlusion(
            self.model, inputs, fill, target, window=self.window, stride=self.stride, output=self.output
        )
        return Computed(maps, {"falls": falls})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        rows, columns = (len(positions(length, options.window, options.stride)) for length in shape[-2:])
        return 1 + rows * columns, 0

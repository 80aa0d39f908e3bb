"""Black and white where a model has bounds, and what takes their place where it has none."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .. import baselines
from ..model import Model

Ends: TypeAlias = baselines.Baseline | Literal["extremes"]


def ends(baseline: Ends, inputs: Tensor, model: Model) -> tuple[Tensor, ...]:
    """The baselines that a method averages over: two for `"extremes"`, one for all others.

    Args:
        baseline: `"extremes"`: the model's bounds; without bounds, an image's own smallest and largest value. Columns and
            tokens without bounds have no common scale: there both are 0. Or any other baseline.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        model: Knows the bounds.

    Example:
        >>> from torch import nn
        >>> images = torch.tensor([0.2, 0.7]).reshape(1, 1, 1, 2)
        >>> [b.flatten().tolist() for b in ends("extremes", images, Model(nn.Flatten(), bounds=(0.0, 2.0)))]
        [[0.0], [2.0]]
        >>> [round(float(b), 1) for b in ends("extremes", images, Model(nn.Flatten(), bounds=None))]
        [0.2, 0.7]
    """
    if not (isinstance(baseline, str) and baseline == "extremes"):
        return (baselines.make(baseline, inputs, model),)
    if model.bounds is not None:
        return tuple(baselines.make(name, inputs, model) for name in ("black", "white"))
    if inputs.ndim == 4:
        axes = (1, 2, 3)
        return tuple(
            baselines.make(value, inputs, model)
            for value in (inputs.amin(axes, keepdim=True), inputs.amax(axes, keepdim=True))
        )
    zero = torch.zeros((1,) * inputs.ndim)
    return (baselines.make(zero, inputs, model),) * 2

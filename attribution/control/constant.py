"""Constant: the same number everywhere."""

import torch
from torch import Tensor

from ..attributor import Computed, register
from ..model import map_type
from ..targets import Target
from ._control import Control, alike, shape_of


@register(
    "constant",
    family="control",
    signed=False,
    targeted=False,
    localizes=False,
    blind=True,
    kinds=("image", "table", "tokens"),
)
class Constant(Control):
    """One everywhere: what a metric says of a map that prefers no pixel.

    Whatever takes the pixels' order has nothing to say of it, and gives NaN; what adds up mass gives its chance.

    Returns:
        `(N, 1, H, W)` of ones.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> attribution.create("constant", torch.nn.Flatten()).attribute(torch.rand(1, 3, 1, 2), target=0).tolist()
        [[[[1.0, 1.0]]]]
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Ones."""
        del target
        return Computed(alike(torch.ones(shape_of(inputs), dtype=map_type(inputs)), inputs), {})

"""Raw attention: where one layer looks."""

from typing import Any

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._attention import Attending, Fusion, attentions


def raw_attention(layer: Tensor, start: Tensor) -> Tensor:
    """What the tokens in `start` attend to.

    Args:
        layer: An attention, heads fused, `(N, T, T)`.
        start: Weights of the tokens that are asked, `(N, K, T)`.

    Returns:
        `(N, K, T)`; where the rows of attention sum to 1 and the weights too, it sums to 1.
    """
    return start @ layer


@register(
    "raw_attention",
    family="attention",
    needs="attention",
    granularity="cell",
    signed=False,
    targeted=False,
    kinds=("image", "tokens"),
    paper="Dosovitskiy et al. 2020, arXiv:2010.11929; Vaswani et al. 2017, arXiv:1706.03762, equation 1",
)
class RawAttention(Attending):
    """Where the tokens that the head reads look in one layer: the class token's row, or the mean of all rows.

    The same for every target. It says what is looked at, not what is made of it: values and what earlier layers mixed into
    a token are left out.

    Args:
        output: Not used: no score is asked for.
        block: Which attention, from 0 on or, from the last one, from -1 down.
        fusion: How the heads become one.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, not negative; at the patches' resolution it sums to 1 less what goes to the tokens before them.
        `details` has the number of layers, of tokens before the patches, and the grid.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.Looker()
        >>> found = attribution.create("raw_attention", network).explain(torch.rand(1, 3, 16, 16), target=1)
        >>> found.native.shape, found.details["prefix"]
        (torch.Size([1, 1, 4, 4]), 1)
    """

    block: int = -1
    fusion: Fusion = "mean"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the patches' size."""
        block = self.number(self.block, inputs)
        values = attentions(
            self.model, inputs, target, lambda layers, start: raw_attention(layers[block], start), fusion=self.fusion
        )
        return self.lay_out(values)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 0

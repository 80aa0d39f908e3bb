"""Attention times its gradient: where one layer looks, as far as the score rises with it."""

from typing import Any

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._attention import Attending, weighed
from .raw_attention import raw_attention


@register(
    "grad_attention",
    family="attention",
    aliases=("attention_x_gradient",),
    needs=("gradient", "attention"),
    granularity="cell",
    signed=False,
    kinds=("image", "tokens"),
    paper="Chefer, Gur and Wolf 2021, arXiv:2103.15679, equation 5 in one layer; Barkan et al. 2021, arXiv:2204.11073",
)
class GradAttention(Attending):
    r"""Where the tokens that the score reads look in one layer, weighed by what looking there adds to the score.

    :math:`E_h (\nabla P \odot P)^+`, of the class token's row, or the mean of the rows where the head takes a mean. What
    earlier layers mixed into a token is left out, and what speaks against the target too.

    Args:
        output: Which score is differentiated.
        block: Which attention, from 0 on or, from the last one, from -1 down.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, not negative, in the unit of the score. `details` has the number of layers, of tokens before the
        patches, and the grid.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.Looker()
        >>> attribution.create("grad_attention", network).explain(torch.rand(1, 3, 16, 16), target=1).native.shape
        torch.Size([1, 1, 4, 4])
    """

    block: int = -1

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the patches' size."""
        block = self.number(self.block, inputs)
        values = weighed(
            self.model, inputs, target, lambda layers, start: raw_attention(layers[block], start), output=self.output
        )
        return self.lay_out(values)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

"""Attention rollout: attention followed through all layers."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..targets import Target
from ._attention import Attending, Fusion, attentions


def attention_rollout(
    layers: Sequence[Tensor], start: Tensor, *, residual: float = 0.5, discard_ratio: float = 0.0
) -> Tensor:
    r"""Follow tokens down through the layers (section 3 of the paper).

    .. math:: s \, \tilde A_L \cdots \tilde A_1, \qquad \tilde A_l = (1 - r) A_l + r I, \text{ rows made to sum to 1}

    Args:
        layers: :math:`A_1 \ldots A_L`, heads fused, each `(N, T, T)`.
        start: :math:`s`, weights of the tokens that are asked, `(N, K, T)`; the identity gives the whole matrix.
        residual: :math:`r`, how much of a token goes around the attention.
        discard_ratio: The part of each :math:`A_l` that is set to 0, the smallest values first.

    Returns:
        `(N, K, T)`; its rows sum to what those of `start` do. Vectors are multiplied, never matrices.

    Example:
        >>> attention_rollout([torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])] * 2, torch.eye(2)[None]).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """
    for layer in reversed(layers):
        if discard_ratio:
            values = layer.flatten(1)
            least = values.kthvalue(int(discard_ratio * values.shape[1]) + 1, 1).values
            layer = layer.where(layer >= least[:, None, None], 0)  # noqa: PLW2901  the layer without them
        sums = ((1 - residual) * layer.sum(2) + residual).unsqueeze(1)
        share = torch.where(sums > 0, start / sums, 0)
        start = (1 - residual) * (share @ layer) + residual * share
    return start


@register(
    "attention_rollout",
    family="attention",
    aliases=("rollout",),
    needs="attention",
    granularity="cell",
    signed=False,
    targeted=False,
    kinds=("image", "tokens"),
    paper="Abnar and Zuidema 2020, arXiv:2005.00928, section 3",
)
class AttentionRollout(Attending):
    r"""Where what the head reads came from, if attention and residual connections were all there is.

    Every layer is taken for :math:`(A + I)/2`, and the layers are multiplied. The same for every target: values, MLPs and
    the head are left out, so a place may light up for what the target does not need.

    Args:
        output: Not used: no score is asked for.
        fusion: How the heads become one. The paper takes their mean; "max" and "min" are of later code.
        discard_ratio: The part of each layer's attention that is set to 0, the smallest values first; later code takes 0.9.
        residual: How much of a token goes around the attention.
        start_layer: The first attention that counts, from 0 on.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, not negative; at the patches' resolution it sums to 1 less what comes from the tokens before them.
        `details` has the number of layers, of tokens before the patches, and the grid.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.Looker()
        >>> found = attribution.create("rollout", network).explain(torch.rand(1, 3, 16, 16), target=1)
        >>> found.native.shape, found.details["layers"], bool(found.native.sum() < 1)
        (torch.Size([1, 1, 4, 4]), 2, True)
    """

    fusion: Fusion = "mean"
    discard_ratio: Annotated[float, Range(0, 0.99)] = 0.0
    residual: Annotated[float, Range(0, 1)] = 0.5
    start_layer: Annotated[int, Range(0)] = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the patches' size."""
        first = self.number(self.start_layer, inputs)

        def make(layers: list[Tensor], start: Tensor) -> Tensor:
            return attention_rollout(layers[first:], start, residual=self.residual, discard_ratio=self.discard_ratio)

        return self.lay_out(attentions(self.model, inputs, target, make, fusion=self.fusion))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 0

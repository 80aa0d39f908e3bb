"""Transformer attribution: the relevance of attention, weighed by its gradient, followed through all layers."""

from typing import Annotated, Any

from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..relevance._lrp import WINNERS, Composite, Propagation
from ..targets import Target
from ._attention import Attending, Recorder, follow, weighed

# a share among the positive products of a linear layer, a half to each factor of a product
ALPHA_ONE = Composite("zplus", "zplus", bias=False, gates="half")


class Relevance(Recorder, Propagation):
    """Keeps the attentions of a run under rules of relevance: what is left of one is its gradient times its value.

    Args:
        image: The leaf.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__(len(image), composite=ALPHA_ONE, image=image)

    def verify(self, out: Tensor, x: Tensor) -> None:
        """What no rule was asked about would make the relevance wrong."""
        if out.requires_grad:
            self.check(out, x, "transformer_attribution", allowed=WINNERS)


@register(
    "transformer_attribution",
    family="attention",
    aliases=("beyond_attention",),
    needs=("gradient", "attention"),
    granularity="cell",
    signed=False,
    kinds=("image", "tokens"),
    paper="Chefer, Gur and Wolf 2021, arXiv:2012.09838, equations 13 and 14",
)
class TransformerAttribution(Attending):
    r"""Where what the score reads came from: relevances of attention weighed by its gradients, through all layers.

    :math:`\bar A_L \cdots \bar A_1` with :math:`\bar A = I + E_h (\nabla P \odot R)^+`, where R is the relevance that
    reaches an attention P from a score whose relevance is 1. Linear layers share relevance by :math:`\alpha = 1` among their
    positive products, activations hand it on, a product halves it between its factors, norms are divided by a constant, and
    a softmax shares it by its gradient, all as in `attn_lrp`. At sums the summands share it themselves; the paper's code
    scales both shares once more, so its maps are alike, not equal.

    Args:
        output: Which score is differentiated, and whose relevance is shared out.
        start_layer: The first attention that counts, from 0 on.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, not negative. The class token's row, or the mean of the rows where the head takes a mean. `details`
        has the number of layers, of tokens before the patches, and the grid.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.Looker()
        >>> made = attribution.create("transformer_attribution", network)
        >>> made.explain(torch.rand(1, 3, 16, 16), target=1).native.shape
        torch.Size([1, 1, 4, 4])
    """

    start_layer: Annotated[int, Range(0)] = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the patches' size."""
        first = self.number(self.start_layer, inputs)

        def make(layers: list[Tensor], start: Tensor) -> Tensor:
            return follow(layers[first:], start)

        return self.lay_out(weighed(self.model, inputs, target, make, output=self.output, rules=Relevance))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 2, 2

"""Transformer attribution: the relevance of attention, weighed by its gradient, followed through all layers."""

from typing import Annotated, Any

import torch
from torch import Tensor

from .._parameters import Range
from .._rules import Apply, normalized
from ..attributor import Computed, register
from ..targets import Target
from ._attention import Attending, Recorder, follow, stable, weighed


class Relevance(Recorder):
    r"""Rules under which gradient times value is relevance: every operation gives what it gave, with another way back.

    Linear layers share relevance by :math:`\alpha = 1`: among the products that are positive. Activations hand on all of
    it, a product halves it between its factors, norms are scaled by what they were divided by, a constant.
    """

    def elementwise(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """All relevance goes to the input."""
        del name
        with torch.no_grad():
            scale = apply(x) / stable(x)
        return x * scale

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """To the inputs by their shares in the positive products."""
        out = super().linear(apply, x, weight, bias, name)
        if not self.found:  # below the first attention nobody asks
            return out
        shares = apply(x * (x > 0), weight * (weight > 0), None) + apply(x * (x < 0), weight * (weight < 0), None)
        return shares * (out / stable(shares)).detach()

    def product(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """Half to each factor."""
        return (apply(a, b.detach()) + apply(a.detach(), b)) / 2

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """Centring is linear; the deviation is a constant."""
        del apply, name
        axes, eps = options["dims"], options["eps"]
        return normalized(x, options, lambda y: (y.square().mean(axes, keepdim=True) + eps).rsqrt().detach(), torch.mul)

    def verify(self, out: Tensor, x: Tensor) -> None:
        """What no rule was asked about would make the relevance wrong; the softmax's gradient is its rule."""
        if out.requires_grad:
            self.check(out, x, "transformer_attribution", allowed=("Softmax",))


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
    positive products, activations hand it on, a product halves it between its factors, norms count as constants, and a
    softmax shares it by its gradient. At sums it is shared by the summands themselves, where the paper's code scales both
    shares once more; so maps are not equal to that code's, but alike.

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
        first = self.layer_at(self.start_layer)

        def make(layers: list[Tensor], start: Tensor) -> Tensor:
            return follow(layers[first:], start)

        return self.lay_out(weighed(self.model, inputs, target, make, output=self.output, rules=Relevance))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 2, 2

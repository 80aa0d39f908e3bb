"""GAE: attention, weighed by its gradient, followed through all layers."""

from typing import Annotated, Any

from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..targets import Target
from ._attention import Attending, follow, weighed


@register(
    "gae",
    family="attention",
    aliases=("generic_attention", "chefer"),
    needs=("gradient", "attention"),
    granularity="cell",
    signed=False,
    kinds=("image", "tokens"),
    paper="Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6",
)
class GAE(Attending):
    r"""Where what the score reads came from: attentions weighed by their gradients, through all layers.

    :math:`R \leftarrow R + \bar A R` with :math:`\bar A = E_h (\nabla P \odot P)^+`, from :math:`R = I` on, for
    self-attention. The map is the class token's row of R, or the mean of the rows where the head takes a mean; then every
    patch has 1/T in it for itself. Residual connections count fully, MLPs and what speaks against the target are left out;
    the rows are not normalised, so maps of a score of twice the size have other proportions.

    Args:
        output: Which score is differentiated.
        start_layer: The first attention that counts, from 0 on.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, not negative. `details` has the number of layers, of tokens before the patches, and the grid.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.Looker()
        >>> attribution.create("gae", network).explain(torch.rand(1, 3, 16, 16), target=1).native.shape
        torch.Size([1, 1, 4, 4])
    """

    start_layer: Annotated[int, Range(0)] = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the patches' size."""
        first = self.number(self.start_layer, inputs)
        values = weighed(
            self.model, inputs, target, lambda layers, start: follow(layers[first:], start), output=self.output
        )
        return self.lay_out(values)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

"""Input: the image itself as a map."""

from torch import Tensor

from ..attributor import Computed, register
from ..model import map_type
from ..targets import Target
from ._control import Control


@register(
    "input",
    family="control",
    targeted=False,
    localizes=False,
    blind=True,
    kinds=("image", "table", "tokens"),
    paper="Adebayo et al. 2018, arXiv:1810.03292, section 5: what a product with the input looks like whatever the network",
)
class Input(Control):
    """The image itself, its channels added up: what a map scores that hands on the input and nothing of the network.

    Maps that multiply by the input (`input_x_gradient`, `integrated_gradients`) take much of their look from it. A
    similarity of such maps that is no higher than this control's says nothing of the network.

    Returns:
        `(N, 1, H, W)`, or the input's own shape for tables and tokens, in the input's unit.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> image = torch.tensor([[[[0.25, 0.5]], [[0.5, 0.0]]]])
        >>> attribution.create("input", torch.nn.Flatten()).attribute(image, target=0).tolist()
        [[[[0.75, 0.5]]]]
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The input."""
        del target
        maps = inputs.to(map_type(inputs))
        return Computed(maps.sum(1, keepdim=True) if maps.ndim == 4 else maps, {})

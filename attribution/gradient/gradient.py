"""The gradient: how the score changes with every pixel, and in which direction."""

from typing import Any

from torch import Tensor

from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target


def gradient(model: Model, inputs: Tensor, target: Target, output: Output) -> Tensor:
    """The gradient of each score with respect to its input, `(N, C, H, W)`."""
    return model.gradients(inputs, target, output=output)[1]


@register(
    "gradient",
    family="gradient",
    needs="gradient",
    kinds=("image", "table", "tokens"),
    small={"channels": "l2"},  # the colours' gradients of the example network sum to 0
    paper="Baehrens et al. 2010, JMLR 11:1803",
)
class Gradient(Attributor):
    r"""How the score changes when a pixel grows: :math:`\sum_c \partial f / \partial x_c`.

    Signed: a positive value says that a brighter pixel raises the score, not that the pixel as it is speaks for the
    target. The colours of a pixel may cancel in the sum; `saliency` takes their sizes. Where the score is saturated the
    gradient is small, however important the pixel is.

    Args:
        output: Which score is differentiated.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, score per unit of pixel value.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> made = attribution.create("gradient", network, channels="keep")
        >>> map = made.attribute(torch.rand(1, 3, 2, 2), target=1)
        >>> bool(torch.allclose(map.flatten(), network[1].weight[1]))
        True
    """

    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Gradients, `(N, C, H, W)`."""
        return Computed(gradient(self.model, inputs, target, self.output), {})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

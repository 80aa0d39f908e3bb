"""Input times gradient: what each pixel adds to the score of the network's linearisation."""

from typing import Any

from torch import Tensor

from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target
from .gradient import gradient


def input_x_gradient(model: Model, inputs: Tensor, target: Target, output: Output) -> Tensor:
    r"""The network's own input times its gradient, `(N, C, H, W)`.

    The network's input is the normalised image :math:`(x - \mu) / \sigma`, and its gradient :math:`\sigma` times the one
    with respect to the image: their product is :math:`(x - \mu) \odot \partial f / \partial x`.
    """
    return (inputs - model.pixels(model.mean).to(inputs)) * gradient(model, inputs, target, output)


@register(
    "input_x_gradient",
    family="gradient",
    aliases=("grad_x_input", "gradient_x_input"),
    needs="gradient",
    kinds=("image", "table", "tokens"),
    paper="Shrikumar, Greenside, Shcherbina and Kundaje 2016, arXiv:1605.01713",
)
class InputXGradient(Attributor):
    r"""What each pixel adds to the score of the network's linearisation: :math:`x \odot \partial f / \partial x`.

    `x` is what the network sees: with a normalising model, the difference from the mean colour, so that the map is the
    same whether the normalisation is done by the model or by hand. For a network of ReLUs without biases the map sums to
    the score.

    Args:
        output: Which score is differentiated.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> map = attribution.create("input_x_gradient", network).attribute(x, target=0)
        >>> bool(torch.isclose(map.sum(), network(x)[0, 0]))
        True
    """

    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Input times gradient, `(N, C, H, W)`."""
        return Computed(input_x_gradient(self.model, inputs, target, self.output), {})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

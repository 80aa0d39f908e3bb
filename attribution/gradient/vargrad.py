"""VarGrad: how much the gradient, or any other map, varies over noisy copies of the input."""

from typing import Annotated

from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..targets import Target
from ._noise import Wrapping, gather


@register(
    "vargrad",
    family="gradient",
    aliases=("var_grad",),
    needs="gradient",
    stochastic=True,
    signed=False,
    samples="samples",
    kinds=("image", "table", "tokens"),
    # gradients vary where the example network's activations switch, which is in its background
    small={"samples": 8, "method": "input_x_gradient", "noise": 0.008},
    paper="Adebayo, Gilmer, Goodfellow and Kim 2018, arXiv:1810.03307",
)
class VarGrad(Wrapping):
    r"""The variance of what a method says of noisy copies of the input: by default of the gradient.

    .. math:: \frac{1}{n} \sum_{k=1}^{n} \bigl(M(x + \sigma \xi_k) - \bar M\bigr)^2, \qquad \xi_k \sim N(0, 1)

    It shows where the network bends near the input, not what the score depends on: nothing of the gradient's mean is left,
    and where a network is linear in its neighbourhood the map is 0. A variance needs more copies than a mean: its relative
    standard error is about :math:`\sqrt{2 / n}`, 0.2 for 50.

    Args:
        samples: How many noisy copies.
        unbiased: Whether the sum of squares is divided by n - 1 instead of n.

    Returns:
        `(N, 1, H, W)`, not negative, in the square of the unit of the method's maps. In the details, for each channel and in
        the method's own resolution, `"mean"`, which is what `smoothgrad` shows, and `"half_width"` of the 95% interval of
        the variance, from the fourth moment: for few copies, or rare large values, it is too short.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> map = attribution.create("vargrad", network, samples=4).attribute(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(map.abs().max() < 1e-12)  # a line does not bend
        True
    """

    samples: Annotated[int, Range(2)] = 50
    unbiased: bool = False

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The variance of the method's maps, their mean, and the half-width of the variance's interval."""
        found, _ = gather(self._stretches(inputs, target), len(inputs), lambda maps: maps, fourth=True)
        details = {"mean": found.mean, "half_width": found.half_width_of_variance()}
        return Computed(found.variance(unbiased=self.unbiased), details)

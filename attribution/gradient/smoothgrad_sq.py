"""SmoothGrad squared: the gradient's square, or any other map's, averaged over noisy copies of the input."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._noise import Wrapping, gather


@register(
    "smoothgrad_sq",
    family="gradient",
    aliases=("smoothgrad_squared", "smooth_grad_squared"),
    needs="gradient",
    stochastic=True,
    signed=False,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"samples": 8},
    paper="Hooker, Erhan, Kindermans and Kim 2019, arXiv:1806.10758",
)
class SmoothGradSquared(Wrapping):
    r"""The square of what a method says of noisy copies of the input, averaged: by default of the gradient.

    .. math:: \frac{1}{n} \sum_{k=1}^{n} M(x + \sigma \xi_k)^2, \qquad \xi_k \sim N(0, 1)

    It is the squared mean, `smoothgrad`, plus the variance, `vargrad`: large where the score depends on a pixel anywhere in
    the neighbourhood, in whatever direction. Squares make few pixels stand out, and the sign is lost.

    Args:
        samples: How many noisy copies.

    Returns:
        `(N, 1, H, W)`, not negative, in the square of the unit of the method's maps. `details["half_width"]` has that of the
        95% interval of the mean over noise: of the map where channels are summed or averaged, of each channel otherwise, in
        the method's own resolution (NaN for one sample).

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = attribution.create("smoothgrad_sq", network, samples=4, channels="keep")
        >>> found = made.attribute(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(torch.allclose(found.flatten(), network[1].weight[0] ** 2))  # of a line
        True
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The mean of the squared maps, and the half-width of its interval."""
        found, _ = gather(self._stretches(inputs, target), len(inputs), lambda maps: self._early(maps.square()))
        return Computed(found.mean, {"half_width": found.half_width()})

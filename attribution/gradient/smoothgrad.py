"""SmoothGrad: the gradient, or any other map, averaged over noisy copies of the input."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._noise import Wrapping, gather


@register(
    "smoothgrad",
    family="gradient",
    aliases=("smooth_grad",),
    needs="gradient",
    stochastic=True,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"samples": 8, "channels": "l2"},  # the colours' gradients of the example network sum to 0
    paper="Smilkov, Thorat, Kim, Viégas and Wattenberg 2017, arXiv:1706.03825",
)
class SmoothGrad(Wrapping):
    r"""What a method says of noisy copies of the input, averaged: by default the gradient.

    .. math:: \frac{1}{n} \sum_{k=1}^{n} M(x + \sigma \xi_k), \qquad \xi_k \sim N(0, 1)

    It is the mean over a neighbourhood, and of gradients the gradient of the score blurred by the noise, which is another
    function than the network's. The mean is signed: where gradients of both signs meet, little is left; `smoothgrad_sq`
    and `vargrad` show those places. Noisy copies are not cut off at the model's bounds. An image of one value has no range,
    so that relative noise leaves it as it is; the columns of a table share one range, and should be of one scale. How much
    of the map is left to chance is told by `details["half_width"]`.

    Args:
        samples: How many noisy copies; the paper sees little change beyond 50.
        noise: The noise's standard deviation, as a part of each image's own range from its smallest to its largest value;
            the paper looks at 0.1 to 0.2.

    Returns:
        `(N, 1, H, W)`, in the unit and with the signs of the method's maps. `details["half_width"]` has that of the 95%
        interval of the mean over noise: of the map where channels are summed or averaged, of each channel otherwise, in the
        method's own resolution (NaN for one sample). `details["convergence_delta"]` `(N,)`, where the method has one: its
        mean over the copies.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> smooth = attribution.create("smoothgrad", network, samples=4).attribute(x, target=0)
        >>> bool(torch.allclose(smooth, attribution.create("gradient", network).attribute(x, target=0)))  # of a line
        True
        >>> attribution.create("smoothgrad", network, method="occlusion", samples=2).attribute(x).shape
        torch.Size([1, 1, 2, 2])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The mean of the method's maps, and the half-width of its interval."""
        found, details = gather(self._stretches(inputs, target), len(inputs), self._early)
        return Computed(found.mean, {"half_width": found.half_width(), **details})

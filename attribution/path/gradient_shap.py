"""GradientSHAP: gradients at random places between a random reference and the image, which may be noisy."""

from typing import Annotated

import torch
from torch import Tensor

from .._parameters import Range
from ..attributor import Computed, register
from ..randomness import uniforms
from ..targets import Target
from ._line import spread
from .expected_gradients import _Referred

NOISE = 3_000_000  # streams of draws, one for each image of noise


def noise(seed: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal, `(1, *shape)`: the same for every image and whatever the number of draws.

    Example:
        >>> one = noise(0, 5, (3, 32, 32))
        >>> one.shape, round(float(one.std()), 1)
        (torch.Size([1, 3, 32, 32]), 1.0)
    """
    size = torch.Size(shape).numel()
    drawn = uniforms(seed, 1, size, stream=NOISE + draw).reshape(1, *shape)
    return torch.erfinv((2 * drawn - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5


@register(
    "gradient_shap",
    family="path",
    needs=("gradient", "references"),
    stochastic=True,
    at_most=True,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"samples": 64},
    paper="Lundberg and Lee 2017, arXiv:1705.07874, with the sampling of Erion et al. 2021, arXiv:1906.10670",
)
class GradientSHAP(_Referred):
    r"""Gradients at random places on lines from random references to the image, each times its way.

    .. math:: \frac{1}{S} \sum_s (\tilde x_s - x'_s) \odot \nabla f\bigl(x'_s + \alpha_s (\tilde x_s - x'_s)\bigr)

    The estimator of Captum and SHAP: reference :math:`x'_s`, place :math:`\alpha_s` and noisy image :math:`\tilde x_s` are
    drawn independently for each sample. Without noise it has the expectation of `expected_gradients`, which spreads its
    draws evenly and is nearer to it for the same cost. With noise the map sums to the mean score of noisy images minus that
    of the references, which is not the score that is explained. These are Shapley values only where the network is linear
    and the features independent.

    Args:
        output: Which score is integrated.
        references: What the inputs are compared with: a tensor with one reference for each entry, `(M, C, H, W)`; a name, a
            number or a callable as for a baseline, or several of them in a tuple, as `("black", "white")`. `None`: noise,
            uniform within the model's bounds, or without bounds normal around its mean.
        samples: Gradients.
        stdevs: Standard deviation of the noise that is added to the image, as a part of the image's own range (its largest
            value minus its smallest), or in the unit of the input if not `relative`.
        relative: Whether it is.
        seed: Draw n depends on the seed and n alone.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details, each `(N,)`: `"gain"`, the clean image's score
        minus the mean score of the references that were drawn; `"convergence_delta"`, the map's sum minus this;
        `"half_width"` of the 95% interval of the map's sum.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> shap = attribution.create("gradient_shap", network, references=torch.rand(20, 3, 2, 2), samples=40, stdevs=0.1)
        >>> shap.attribute(torch.rand(1, 3, 2, 2), target=0).shape
        torch.Size([1, 1, 2, 2])
    """

    stdevs: Annotated[float, Range(0)] = 0.0
    relative: bool = True

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        width = inputs.new_full((len(inputs),), self.stdevs)
        if self.relative:
            flat = inputs.flatten(1)
            width *= flat.amax(1) - flat.amin(1)
        width = spread(width, inputs)
        last: dict[int, Tensor] = {}

        def noisy(draw: int, rows: slice) -> Tensor:
            if draw not in last:  # asked for again where an image's batch ends between two of one draw
                last.clear()
                last[draw] = noise(self.seed, draw, tuple(inputs.shape[1:])).to(inputs)
            return last[draw] * width[rows]

        return self._estimate(inputs, target, spread_evenly=False, noise=noisy if self.stdevs else None)

"""Smooth integrated gradients: integrated gradients averaged over noisy copies of the input."""

from typing import Annotated, Any

from torch import Tensor

from .. import baselines
from .._parameters import Count, Range
from ..attributor import Attributor, Computed, register
from ..gradient._noise import Noisy, gather
from ..targets import Target
from .integrated_gradients import IntegratedGradients, Rule


@register(
    "smooth_ig",
    family="path",
    aliases=("smooth_integrated_gradients", "smoothgrad_ig"),
    needs="gradient",
    stochastic=True,
    samples="samples",
    kinds=("image", "table", "tokens"),
    small={"samples": 4, "steps": 6},
    paper="Smilkov, Thorat, Kim, Viégas and Wattenberg 2017, arXiv:1706.03825; Sundararajan, Taly and Yan 2017, "
    "arXiv:1703.01365, equation 1",
)
class SmoothIG(Noisy):
    r"""Integrated gradients of noisy copies of the input, averaged.

    .. math:: \frac{1}{n} \sum_{k=1}^{n} \mathrm{IG}(x + \sigma \xi_k), \qquad \xi_k \sim N(0, 1)

    Every copy goes the way from the baseline to itself. The map sums to the mean score of the copies minus the baseline's,
    not to the input's own, up to `details["convergence_delta"]`. Noisy copies are not cut off at the model's bounds. The same
    as `smoothgrad` with `method="integrated_gradients"`.

    Args:
        output: Which score is integrated.
        samples: How many noisy copies.
        steps: Gradients along the line to each copy. Fewer than for one line: the errors of many lines cancel in part.
        rule: How they are placed and weighed, as for `integrated_gradients`.
        baseline: Where the lines start: "zero", "black", "white", "mean", "blur" (of each copy), "noise", a number, a tensor
            or a callable.
        channels: How the channels become one map; `None`: they are summed.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details `"convergence_delta"` `(N,)`: by how much the map's
        sum misses the mean difference of the scores; and `"half_width"` of the 95% interval of the mean over noise: of the
        map where channels are summed or averaged, of each channel otherwise (NaN for one sample).

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = attribution.create("smooth_ig", network, samples=3, steps=4)
        >>> found = made.explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(found.details["convergence_delta"].abs() < 1e-6)
        True
    """

    samples: Count = 25
    steps: Annotated[int, Range(1)] = 20
    rule: Rule = "gauss_legendre"
    baseline: baselines.Baseline = "zero"

    def _make(self) -> Attributor:
        return IntegratedGradients(
            self.model, output=self.output, steps=self.steps, rule=self.rule, baseline=self.baseline
        )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The mean of the copies' integrated gradients, its interval, and what completeness misses."""
        found, details = gather(self._stretches(inputs, target), len(inputs), self._early)
        return Computed(found.mean, {"half_width": found.half_width(), **details})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.samples * (options.steps + 2), options.samples * options.steps

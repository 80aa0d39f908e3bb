"""SAMP++: SAMP in short steps, with pixels chosen by gradients that remember."""

import math
from typing import Annotated, Any

from .._parameters import Range
from ..attributor import register
from .samp import SAMP


@register(
    "samp_pp",
    family="path",
    aliases=("samp++",),
    needs="gradient",
    at_most=True,
    kinds=("image", "table", "tokens"),
    small={"per_step": 0.05, "eta": 0.05},
    paper="Zhang, Zheng, Zhou and Lu 2024, arXiv:2401.10442, algorithm 2",
)
class SAMPPlusPlus(SAMP):
    r"""SAMP whose steps may not be long (the infinitesimal constraint), chosen by gradients with momentum.

    A step longer than `eta` of the whole way is cut short, all its pixels alike, and they may be chosen again: as `eta`
    falls the map's sum approaches the difference of the scores, which `details["convergence_delta"]` tells. Momentum mixes
    earlier gradients into the one that chooses, :math:`\tilde g_k = \lambda \tilde g_{k-1} + (1 - \lambda) g_k`, so that
    the order of the pixels does not hang on one point; what is attributed stays the gradient itself, without which the sum
    would miss.

    Args:
        output: Which score.
        eta: The longest step, as a part of the L1 length of the whole way. The default is ours, not verified against the
            paper's experiments.
        momentum: The part :math:`\lambda` of the former gradients in the one that chooses; 0 forgets them. The default is
            ours, too.
        momentum_attribution: Whether the mixed gradient is also what is attributed, as the paper has it: then the map no
            longer sums to the difference of the scores, however short the steps.

    Returns:
        `(N, 1, H, W)`, and details as in `samp`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> careful = attribution.create("samp++", network, eta=0.001).explain(x, target=0)
        >>> bool(careful.details["convergence_delta"].abs() < 1e-2)
        True
    """

    eta: Annotated[float, Range(0, open=True)] = 0.02
    momentum: Annotated[float, Range(0, 1)] = 0.5
    momentum_attribution: bool = False

    def validate(self) -> None:
        """A gradient that is all memory never sees the network again."""
        if self.momentum == 1:
            raise ValueError("samp_pp: momentum=1 would choose every step by the first gradient: take less than 1")

    def _care(self) -> dict[str, Any]:
        return {"eta": self.eta, "momentum": self.momentum, "momentum_attribution": self.momentum_attribution}

    @classmethod
    def _more(cls, options: Any) -> int:
        steps: int = math.ceil(1 / options.eta)
        return steps

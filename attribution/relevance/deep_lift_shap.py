"""DeepLIFT averaged over references: Shapley values of what a pixel adds, as DeepLIFT approximates them."""

from typing import Any

from torch import Tensor

from .._parameters import Seed
from ..attributor import Attributor, Channels, Computed, register
from ..path.expected_gradients import References, number_of, references_of
from ..targets import Target
from .deeplift import deep_lift


@register(
    "deep_lift_shap",
    family="relevance",
    aliases=("deepshap",),
    needs=("gradient", "references"),
    stochastic=True,
    kinds=("image", "table", "tokens"),
    paper="Lundberg and Lee 2017, arXiv:1705.07874, section 4.2",
)
class DeepLiftSHAP(Attributor):
    r"""How the difference from the references' mean score came about: DeepLIFT, averaged over references.

    The map sums to the score minus the references' mean score up to rounding, which `details["convergence_delta"]` `(N,)`
    tells: there is no path to be sampled. Where the network is a sum of functions of single pixels, these are the Shapley
    values of the game in which absent pixels come from the references; elsewhere they are as near as the rescale rule is to
    them. It is as good as the references: pass inputs like the one that is explained, from the data that the network was
    trained on. What stands in where there are none, ten images of noise, is nothing that the network ever saw.

    Args:
        output: Which score is explained.
        references: What the inputs are compared with: a tensor with one reference for each entry, `(M, C, H, W)`; a name, a
            number or a callable as for a baseline, or several of them in a tuple, as `("black", "white")`. `None`: noise,
            uniform within the model's bounds, or without bounds normal around its mean. Each costs two forwards and one
            backward.
        seed: The noise depends on the seed alone.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. `details["reference_scores"]` has `(N, M)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x, references = torch.rand(1, 3, 2, 2), torch.rand(5, 3, 2, 2)
        >>> map = attribution.create("deep_lift_shap", network, references=references).attribute(x, target=0)
        >>> bool(torch.isclose(map.sum(), network(x)[0, 0] - network(references)[:, 0].mean(), atol=1e-5))
        True
    """

    tried = "deeplift"

    references: References = None
    seed: Seed = 0
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        which = range(number_of(self.references, inputs.ndim))
        if not which:
            raise ValueError(f"{self.name}: references has no entries: pass at least one")
        references = references_of(self.references, which, inputs, self.model, seed=self.seed)
        maps, delta, before = deep_lift(self.model, inputs, references, target, output=self.output)
        return Computed(maps, {"convergence_delta": delta, "reference_scores": before})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        count = number_of(options.references, len(shape) + 1)
        return 2 * count, count

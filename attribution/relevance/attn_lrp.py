"""AttnLRP and CP-LRP: relevance through attention."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .._rules import Apply, Rules
from ..attributor import Computed, register
from ..model import Model
from ..targets import Target
from ._lrp import Composite, Positive, Relevance, Rule

NONE = "no attention was found in it: lrp is the same without"
UNNAMED = "none of its modules is called attention, and it has not seen an input yet: lrp is the same without"
KINDS = ("image", "table", "tokens")


class Attended(Relevance):
    """A method for networks with attention."""

    tried = "attn_lrp"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks that attend: by a trial once the model has seen an input, before by the names of its modules."""
        reason = super().supports(model)
        if reason is not None or model.shape is not None or not isinstance(model.network, nn.Module):
            return reason
        named = any("attention" in n or "attn" in n for n in map(str.lower, names(model.network)))
        return None if named else UNNAMED

    def _refusal(self) -> str | None:
        """A network whose modules have other names is tried."""
        reason = type(self).supports(self.model)
        return None if reason == UNNAMED else reason

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """As `lrp`, where there is attention."""
        must_attend(self.model)
        return super().compute(inputs, target)


class Probe(Rules):
    """Looks for attention: a softmax over the last axis of three or more.

    Attributes:
        attends: Whether there was one.
    """

    opens_attention = True
    attends = False

    def softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """As it is."""
        self.attends |= x.ndim >= 3 and dim in {-1, x.ndim - 1}
        return super().softmax(apply, x, dim)


def must_attend(model: Model) -> None:
    """Refuse a network without attention; it is tried once for each shape of input.

    Raises:
        ValueError: There is none.
    """

    def work(x: Tensor, run: Callable[[Tensor], Any]) -> bool:
        probe = Probe()
        with probe:
            run(x.detach().clone().requires_grad_())
        return probe.attends

    if not model.learn("attends", work):
        raise ValueError(NONE)


def halves(epsilon: float, gamma: float) -> Composite:
    """A half to each factor of every product; the gamma rule, or, where it is 0, the epsilon rule for layers."""
    rule: Rule = "gamma" if gamma else "epsilon"
    return Composite(rule, rule, epsilon=epsilon, gamma=gamma, gates="half")


def names(network: nn.Module) -> list[str]:
    """The names of all modules and of their classes."""
    return [name for path, module in network.named_modules() for name in (path, type(module).__name__)]


@register(
    "attn_lrp",
    family="relevance",
    needs=("gradient", "attention"),
    kinds=KINDS,
    paper="Achtibat et al. 2024, arXiv:2402.05602, section 3",
)
class AttnLRP(Attended):
    r"""LRP for transformers: relevance goes through the values and through the attention weights.

    A product of two tensors that depend on the image (queries and keys, attention and values, a gate and its signal) gives
    each a half. A softmax hands on :math:`x\,(R - p \sum R)`, its Taylor expansion at the scores x. Layer and RMS norms hand
    on as if the deviation that they divide by were constant. Activations leave relevance where it is. Linear layers and
    convolutions have the epsilon rule, or the gamma rule if gamma is positive, which is less noisy on images.

    The sum is not kept where a softmax is: it takes or gives what its expansion leaves out. Nor by biases, and the position
    embeddings keep their share (`pa_lrp` counts it). `details["residual"]` `(N,)` has all of that; `details` as in `lrp`.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of the epsilon rule, in units of the layer's output.
        gamma: Of the gamma rule for linear layers and convolutions; 0: the epsilon rule.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. The patches' squares show.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> layer = nn.TransformerEncoderLayer(12, 2, 8, batch_first=True)
        >>> model = attribution.Model(nn.Sequential(layer, nn.Flatten(), nn.Linear(60, 2)), kind="tokens", bounds=None)
        >>> attribution.create("attn_lrp", model).attribute(torch.rand(1, 5, 12), target=0).shape
        torch.Size([1, 5, 12])
    """

    epsilon: Positive = 1e-6
    gamma: Positive = 0.0

    def composite(self) -> Composite:
        """Halves of every product; the softmax by its derivative."""
        return halves(self.epsilon, self.gamma)


@register(
    "cp_lrp",
    family="relevance",
    aliases=("conservative_lrp",),
    needs=("gradient", "attention"),
    kinds=KINDS,
    paper="Ali et al. 2022, arXiv:2202.07304, section 4",
)
class CPLRP(Attended):
    r"""LRP for transformers with attention held fixed: relevance goes through the values alone.

    The attention weights and the deviations that norms divide by count as constants, so that these layers keep the sum:
    what biases, position embeddings and epsilon take is all that is missing, `details["residual"]` `(N,)`. Where a network
    looked is not explained, only what it read there. See `attn_lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of the epsilon rule, in units of the layer's output.
        gamma: Of the gamma rule for linear layers and convolutions; 0: the epsilon rule.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> layer = nn.TransformerEncoderLayer(12, 2, 8, batch_first=True)
        >>> model = attribution.Model(nn.Sequential(layer, nn.Flatten(), nn.Linear(60, 2)), kind="tokens", bounds=None)
        >>> attribution.create("cp_lrp", model).attribute(torch.rand(1, 5, 12), target=0).shape
        torch.Size([1, 5, 12])
    """

    epsilon: Positive = 1e-6
    gamma: Positive = 0.0

    def composite(self) -> Composite:
        """Nothing through a softmax."""
        return replace(halves(self.epsilon, self.gamma), softmax="none")

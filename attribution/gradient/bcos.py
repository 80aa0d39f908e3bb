"""B-cos contributions: what each pixel adds to the score of a network that is linear in its input, input by input."""

import inspect
from typing import Any

from torch import Tensor, nn

from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target

MODE = "explanation mode"


def switches(network: nn.Module) -> list[Any]:
    """What puts a network's parts into explanation mode when it is called without arguments, or entered with `with`.

    Modules have `set_explanation_mode(on)`, or `explanation_mode(detach)` in the first networks of this kind. Where there
    are none, the network itself may have `explanation_mode()`, a context manager.
    """
    modules = list(network.modules())
    found: list[Any] = [m.set_explanation_mode for m in modules if callable(getattr(m, "set_explanation_mode", None))]
    other: list[Any] = [m.explanation_mode for m in modules if callable(getattr(m, "explanation_mode", None))]
    return found or [o for o in other if inspect.signature(o).parameters] or other[:1]


def explain(network: nn.Module) -> list[Any]:
    """Put a network into explanation mode, for good; what comes back must be kept as long as the network."""
    kept = []
    for switch in switches(network):
        if inspect.signature(switch).parameters:
            switch(True)
        else:
            manager = switch()
            manager.__enter__()
            kept.append(manager)
    return kept


def bcos(model: Model, inputs: Tensor, target: Target, output: Output) -> tuple[Tensor, Tensor]:
    r"""The contributions of the input, `(N, C, H, W)`, and what of the scores is left beside them, `(N,)`.

    A B-cos network computes :math:`W(x) x`: the gradient in explanation mode, in which :math:`W(x)` is a constant, is its
    row for the target, and its product with the network's own input :math:`(x - \mu) / \sigma` what each pixel adds.
    """
    scores, gradients = model.variant(MODE, explain).gradients(inputs, target, output=output)
    maps = (inputs - model.pixels(model.mean).to(inputs)) * gradients
    return maps, scores.to(maps) - maps.flatten(1).sum(1)


@register(
    "bcos",
    family="gradient",
    aliases=("bcos_contributions",),
    needs="gradient",
    complete=True,
    kinds=("image", "table", "tokens"),
    paper="Böhle, Fritz and Schiele 2022, arXiv:2205.10268; Böhle, Singh, Fritz and Schiele 2024, arXiv:2306.10898",
)
class BCos(Attributor):
    r"""What each pixel adds to the score of a B-cos network: :math:`[W(x)]_t \odot x`, the network's own linear map.

    Only for networks that can be put into explanation mode; this is done to a private copy. The map is no approximation:
    it sums to the score without what does not come from the input, `details["remainder"]` `(N,)`, which for these networks is
    the bias of the target's logit, the same for all images. Look at it: where it varies, something in the network is neither
    linear nor detached. (That it does not vary proves little for a network without norms: input times gradient then has the
    same sum, and another map.)

    The networks take six channels, colours and their inverses: give them images of six channels. With the inverses made
    inside the network, the gradient with respect to the colours mixes both, and the remainder tells so.

    Args:
        output: "logit", or "margin" for what speaks for the target and not for the next class; nothing else is linear.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = attribution.conformance.DynamicLinearDetector()
        >>> x = torch.rand(1, 3, 4, 4)
        >>> found = attribution.create("bcos", network).explain(x, target=1)
        >>> bool(torch.isclose(found.maps.sum(), network(x)[0, 1], atol=1e-5))
        True
    """

    layers = "none"

    channels: Channels = "sum"

    def validate(self) -> None:
        """The network is linear up to its logits."""
        if self.output not in {"logit", "margin"}:
            raise ValueError(
                f"bcos: output={self.output!r} is not linear in the logits: pass output='logit' or 'margin'"
            )

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks that can be put into explanation mode."""
        reason = super().supports(model)
        if reason is not None:
            return reason
        if not isinstance(model.network, nn.Module) or not switches(model.network):
            return (
                "it needs a B-cos network, which can be put into explanation mode: modules with set_explanation_mode(on), or "
                "a network with explanation_mode()"
            )
        return None

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Contributions, `(N, C, H, W)`, and what they leave of the scores."""
        maps, remainder = bcos(self.model, inputs, target, self.output)
        return Computed(maps, {"remainder": remainder})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

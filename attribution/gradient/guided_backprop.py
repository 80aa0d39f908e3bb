"""Guided backpropagation: a gradient that goes back through rectifiers only where it is positive."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from .._rules import Apply, Rules, applied, depends, is_own, kind_of, nodes, own, pair
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target, read

# what lets large values through and holds small ones back; a clamp counts where it has a lower limit
RECTIFIERS = frozenset(
    [
        "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "silu", "gelu", "mish",
        "hardswish", "softplus", "threshold", "clamp", "clip", "clamp_min", "maximum",
    ]
)  # fmt: skip
# how autograd names them: in a graph they are those that no rule met
NODES = frozenset(
    [
        "Relu", "Hardtanh", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Elu", "Celu", "Silu", "Gelu", "Mish", "Hardswish",
        "Softplus", "Threshold",
    ]
)  # fmt: skip

Way = Literal["guided", "deconv"]


class Rectified(Rules):
    """The way back through rectifiers: what comes back is cut off below zero, and then weighed by the slope or not at all.

    Attributes:
        rectifiers: How many were met.
    """

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way, self.rectifiers = way, 0

    def elementwise(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """The rule, where the function is a rectifier."""
        if name not in RECTIFIERS or (name in {"clamp", "clip", "maximum"} and not _has_floor(apply, x)):
            return apply(x)
        self.rectifiers += 1
        return applied(_Rectifier, x, apply, self.way)

    def _meet(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The larger of a tensor and a constant one is a rectifier; of two that depend on the input it is a choice."""
        a, b = pair(args, kwargs)
        if name in {"maximum", "max", "fmax"} and isinstance(b, Tensor) and not (depends(a) and depends(b)):
            x, limit = (a, b) if depends(a) else (b, a)
            shape = torch.broadcast_shapes(x.shape, limit.shape)
            return self._met("elementwise", lambda x: torch.maximum(x, limit), x.expand(shape), "maximum")
        return super()._meet(func, name, args, kwargs)


def _has_floor(apply: Apply, x: Tensor) -> bool:
    return bool(apply(torch.full_like(x, -torch.inf, requires_grad=False)).isfinite().all())


@own
class _Rectifier(Function):
    """A rectifier with another way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Apply, way: Way) -> Tensor:
        if way == "deconv":
            ctx.slope = None
            return apply(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = apply(leaf)
        ctx.slope = leaf, out
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        positive = given[0].relu()
        if ctx.slope is None:
            return positive, None, None
        leaf, out = ctx.slope
        return torch.autograd.grad(out, leaf, positive)[0], None, None


def modified_gradient(
    model: Model, inputs: Tensor, target: Target, *, way: Way, output: Output, name: str
) -> tuple[Tensor, int]:
    r"""The gradient with another rule at rectifiers :math:`y = \phi(z)`.

    .. math:: R_z = \max(R_y, 0) \, \phi'(z) \text{ (guided)}, \qquad R_z = \max(R_y, 0) \text{ (deconv)}

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        way: Which rule.
        output: Which score.
        name: The method, for messages.

    Returns:
        `(N, C, H, W)`, and how many rectifiers one forward has.

    Raises:
        ValueError: There is no rectifier, or one that torch does not hand over.
    """
    count = 0

    def work(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
        nonlocal count
        rules = Rectified(way)
        with rules:
            out = run(x)
        score = read(out, target.take(part), output, model.activation)
        if not rules.rectifiers:
            raise ValueError(
                f"{name} changes the way back through rectifiers, and none was met in this network: its map would be the "
                "plain gradient, which saliency and input_x_gradient show"
            )
        for node, _ in nodes(score, x):
            hidden = hasattr(type(node), "_forward_cls") and not is_own(node)
            if hidden or kind_of(node) in NODES:
                raise ValueError(
                    f"{name} has no rule for the operation {kind_of(node)!r} of this network, which torch does not hand over: "
                    "write it with functions of torch, or use a method that needs gradients alone"
                )
        count = rules.rectifiers
        (found,) = torch.autograd.grad(score.sum(), x)
        return found

    return torch.cat(model.passes(inputs, target, work)), count


@register(
    "guided_backprop",
    family="gradient",
    aliases=("guided_backpropagation", "gbp"),
    needs="gradient",
    kinds=("image", "table", "tokens"),
    small={"channels": "l2"},  # the colours' gradients of the example network sum to 0
    paper="Springenberg, Dosovitskiy, Brox and Riedmiller 2014, arXiv:1412.6806, section 3.4",
)
class GuidedBackprop(Attributor):
    r"""The gradient, cut off below zero at every rectifier on the way back.

    A picture of edges and textures that excite the network, not an explanation of its decision: the map is much the same
    for every class and stays so when the upper layers' weights are replaced by random ones (Adebayo et al. 2018, Nie et al.
    2018). Look at it, and do not reason from it.

    The rule is for operations, whatever they are called and however they are written, so that a skip connection around a
    rectifier keeps its own gradient. Of a smooth one (GELU, SiLU, ELU, ...) the gradient that comes back is cut off in the
    same way and then weighed by the true slope, which may be negative. Gates and squashing functions (sigmoid, hardsigmoid,
    tanh, softmax) are no rectifiers and have their ordinary gradient, as have max pooling, norms and attention. The larger
    of a tensor and a constant (`torch.maximum(h, zeros)`) is a rectifier too. One that is written as a choice or a product
    (`torch.where(h > 0, h, 0)`, `h * (h > 0)`, a SiLU as `h * h.sigmoid()`) is not seen and has its ordinary gradient.

    Args:
        output: Which score is handed back.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed; `details["activations"]` has how many rectifiers were met.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU6(), nn.Linear(4, 2))
        >>> found = attribution.create("guided_backprop", network).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> found.maps.shape, found.details
        (torch.Size([1, 1, 2, 2]), {'activations': 1})
    """

    tried = "rectifiers"

    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        maps, count = modified_gradient(
            self.model, inputs, target, way="guided", output=self.output, name="guided_backprop"
        )
        return Computed(maps, {"activations": count})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1

"""Layer-wise relevance propagation: one engine for all of its rules, on any network.

Every operation keeps its value. Backwards goes a coefficient c, such that relevance is value times c: what is linear hands
it on by its transpose, as a gradient; a rule only says by what it is scaled, and through which part of the layer it goes.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._parameters import Range
from .._rules import Apply, applied, depends, normalized, own
from ..attributor import Attributor, Channels, Computed
from ..model import Model
from ..targets import Output, Target, read
from ._pixels import MARK, FromPixels, Pixels, hand

Rule = Literal["epsilon", "gamma", "zplus", "alpha_beta"]
First = Literal["z_box", "flat", "w_squared"]
Positive = Annotated[float, Range(0)]

# these are zero at zero: all of their value is their input's
THROUGH_ZERO = frozenset(
    [
        "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "silu", "gelu", "mish", "hardswish",
        "softsign", "tanh", "tanhshrink", "softshrink", "hardshrink", "expm1", "log1p", "sqrt", "square", "abs",
        "absolute", "erf", "sin", "tan", "atan", "arctan", "sinh",
    ]
)  # fmt: skip
GATES = frozenset(
    ["sigmoid", "hardsigmoid", "relu6", "special_expit"]
)  # what such a value is multiplied with is a signal
CLAMPS = frozenset(["clamp", "clip", "hardtanh"])  # gates, where they go from 0 to 1
VIEWS = (
    "View", "UnsafeView", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Permute", "Transpose", "Select", "Slice", "Split",
    "Unbind", "Clone", "Alias", "TBackward", "MulBackward", "DivBackward", "ToCopy", "Upsample",
)  # fmt: skip
WINNERS = (
    "MaxPool",
    "MaxPool2DWithIndices",
    "MaxPool3DWithIndices",
    "AdaptiveMaxPool",
    "Max",
    "Amax",
    "Maximum",
    "Topk",
)
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True)
class Composite:
    """Which rule where.

    Attributes:
        convolution: For convolutions.
        dense: For linear layers.
        first: For convolutions that see the image itself; `None`: as all others.
        epsilon: Of the epsilon rule, which poolings and batch norms alone have as well.
        gamma: Of the gamma rule.
        alpha: Of the alpha-beta rule; beta is alpha - 1.
        bias: Whether biases take a share, which is lost. Only for `zplus`.
        gates: Whether a gated signal takes all, or signal and gate a half each.
        softmax: Whether relevance goes through a softmax by its derivative, or not at all.
        unit: Whether 1 is handed back in place of the score.
    """

    convolution: Rule = "epsilon"
    dense: Rule = "epsilon"
    first: First | None = None
    epsilon: float = 0.0
    gamma: float = 0.25
    alpha: float = 2.0
    bias: bool = True
    gates: Literal["signal", "half"] = "signal"
    softmax: Literal["derivative", "none"] = "derivative"
    unit: bool = False


class Layer(NamedTuple):
    """A linear layer on its input: `apply(x, weight, bias)`."""

    apply: Apply
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    name: str

    def followed_by(self, norm: Apply, rank: int) -> "Layer | None":
        """The layer and a batch norm of its output, of that rank, as one; `None` where that is none."""
        if self.name not in CONVOLUTIONS and not (self.name == "linear" and rank == 2):
            return None
        with torch.no_grad():
            blank = self.weight.new_zeros(1, len(self.weight), *[1] * (rank - 2))
            shift = norm(blank).flatten()
            scale = norm(blank + 1).flatten() - shift
            weight = self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
            bias = shift if self.bias is None else self.bias * scale + shift
        return Layer(self.apply, self.x, weight, bias, self.name)


@own
class Inside(torch.autograd.Function):
    """An operation by its ordinary gradient, times a constant: `(apply, share, *inputs)`."""

    @staticmethod
    def forward(ctx: Any, apply: Apply, share: float, *inputs: Tensor) -> Tensor:
        """The value, with a graph of its own."""
        with torch.enable_grad():
            leaves = [i.detach().requires_grad_() for i in inputs]
            out = apply(*leaves)
        ctx.graph = leaves, out, share
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *coefficients: Tensor) -> tuple[Tensor | None, ...]:
        """Each input's gradient times the share."""
        leaves, out, share = ctx.graph
        return None, None, *torch.autograd.grad(out, leaves, coefficients[0] * share)


class Propagation(FromPixels):
    """The rules of a composite, for one batch.

    Args:
        composite: Which rule where.
        image: The leaf.
        bounds: Of a pixel; `z_box` needs them.
    """

    opens_attention = True

    def __init__(self, composite: Composite, image: Tensor, bounds: tuple[float, float] | None = None) -> None:
        super().__init__(image, bounds if composite.first == "z_box" else None)
        self.composite = composite
        self._last: tuple[Tensor, Layer, tuple[int, int]] | None = None
        self._gates: set[Any] = set()  # nodes of autograd's that a gate comes from; kept, so that they stay the same

    # -- layers --------------------------------------------------------------------------------------------------------

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """A layer by its rule; it is remembered, since a batch norm may follow that belongs to it."""
        layer = Layer(apply, x, weight, bias, name)
        out = self._layer(layer)
        self._last = out, layer, (out._version, x._version)
        return out

    def _layer(self, layer: "Layer", value: Tensor | None = None) -> Tensor:
        """A layer by its rule; `value` is its output, where that is known better."""
        composite, (apply, x, weight, bias, name) = self.composite, layer
        pixels = self.pixels(x)
        first = composite.first if pixels is not None and name in CONVOLUTIONS else None
        rule = composite.dense if name == "linear" else composite.convolution
        if first is None and rule == "epsilon":
            x = x if pixels is None else pixels.handed
            return stable(apply(x, weight, bias), composite.epsilon, value)
        if value is None:
            with torch.no_grad():
                value = apply(x.detach(), weight, bias)
        if pixels is not None:
            if first is not None:
                part = first_part(first, apply, pixels, weight)
                return hand(value, part, quotient(value, part))
            x = pixels.handed
        positive = signed_part(apply, x, weight, bias if composite.bias else None, 1)
        if rule == "zplus" or (rule == "alpha_beta" and composite.alpha == 1):
            return hand(value, positive, quotient(value, positive))
        if rule == "gamma":  # the negative part is what is left
            g, z = composite.gamma, apply(x, weight, bias)
            part = torch.where(value > 0, z + g * positive, (1 + g) * z - g * positive)
            return hand(value, part, quotient(value, part))
        negative = signed_part(apply, x, weight, bias, -1)
        a = composite.alpha
        return hand(value, positive, a * quotient(value, positive), negative, (1 - a) * quotient(value, negative))

    def affine(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """Average pooling by the epsilon rule; a batch norm as one with the layer before it, alone by the epsilon rule."""
        layer = self._before(x) if name == "batch_norm" else None
        if layer is not None:
            merged = layer.followed_by(apply, x.ndim)
            if merged is not None:
                with torch.no_grad():
                    value = apply(x.detach())
                return self._layer(merged, value)
        return stable(apply(x), self.composite.epsilon)

    def _before(self, x: Tensor) -> Layer | None:
        """The layer whose output a tensor is, if neither that nor its input was written to since."""
        if self._last is None or self._last[0] is not x:
            return None
        _, layer, versions = self._last
        return layer if versions == (x._version, layer.x._version) else None

    # -- what is not linear --------------------------------------------------------------------------------------------

    def elementwise(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """Relevance stays where it is; what the function has at zero takes its share as a bias would.

        What is infinite at zero divides (a reciprocal, a root of a variance), and gets nothing.
        """
        with torch.no_grad():
            z = x.detach()
            value = apply(z)
            if name == "relu":
                scale: Tensor | None = z > 0
            else:
                scale = secant(apply, z, value, through_zero=name in THROUGH_ZERO, kept=name.startswith("log"))
        if scale is None:
            return value
        out = hand(value, x, scale)
        if name in GATES or (name in CLAMPS and to_one(apply, z)):
            self._gates.add(out.grad_fn)
        return out

    def replaced(self, target: Tensor, found: Tensor) -> None:
        """A gate that was made in place is one."""
        if found.grad_fn in self._gates:
            self._gates.add(target.grad_fn)

    def _is_gate(self, x: Tensor) -> bool:
        """Whether a tensor comes from a sigmoid or a softmax, whatever views of it were taken since; or from several."""
        stack, found = [x.grad_fn], False
        while stack:
            node = stack.pop()
            if node is None:
                return False
            if node in self._gates:
                found = True
            elif node.name().startswith(("CatBackward", "StackBackward")):
                stack += [n for n, _ in node.next_functions]
            elif node.name().startswith(VIEWS):
                stack.append(next((n for n, _ in node.next_functions if n is not None), None))
            else:
                return False
        return found

    def product(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """A half to each factor; all to the signal where the other is its gate."""
        if not depends(a) or not depends(b):
            return apply(a, b)
        if apply is torch.mul and self.composite.gates == "signal":
            gates = self._is_gate(a), self._is_gate(b)
            if gates[0] != gates[1]:
                return apply(a.detach(), b) if gates[0] else apply(a, b.detach())
        return applied(Inside, apply, 0.5, a, b)

    def softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """By its derivative at x: x (R - p sum R); or nothing."""
        del dim
        if self.composite.softmax == "none":
            return apply(x.detach())
        out = applied(Inside, apply, 1.0, x)
        self._gates.add(out.grad_fn)
        return out

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """The deviation that is divided by gets nothing."""
        del apply, name

        def inverse(y: Tensor) -> Tensor:
            variance = y.detach().square().mean(options["dims"], keepdim=True)
            return torch.rsqrt(variance + options["eps"])

        return normalized(x, options, inverse, torch.mul)


def stable(z: Tensor, epsilon: float, value: Tensor | None = None) -> Tensor:
    """The epsilon rule: of the relevance of a small output the stabiliser takes a large share."""
    value = z.detach() if value is None else value
    return hand(value, z, value / torch.where(value < 0, value - epsilon, value + epsilon) if epsilon else None)


def quotient(value: Tensor, part: Tensor) -> Tensor:
    """What turns the value's coefficient into that of a part of it; parts are sums of one sign, shares are at most 1."""
    part = part.detach()
    return torch.where(part == 0, 0.0, value / torch.where(part == 0, 1.0, part))


def signed_part(apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, sign: int) -> Tensor:
    """The sum of a layer's positive (or negative) terms, weights times inputs and bias."""
    up, down = (weight.clamp(min=0), weight.clamp(max=0))[::sign]
    bias = None if bias is None else bias.clamp(min=0) if sign > 0 else bias.clamp(max=0)
    values = x.detach()
    below = values < 0
    if not bool(below.any()):
        return apply(x, up, bias)
    part = apply(hand(values.clamp(min=0), x, ~below), up, bias)
    return part + apply(hand(values.clamp(max=0), x, below), down, None)


def first_part(rule: First, apply: Apply, pixels: Pixels, weight: Tensor) -> Tensor:
    """What stands for a layer that sees pixels; its gradient at them is relevance."""
    x, values = pixels.tensor, pixels.tensor.detach()
    if rule == "z_box":
        low, high = pixels.beside
        above, under = (values - low).clamp(min=0), (values - high).clamp(max=0)
        part = apply(hand(above, x, above), weight.clamp(min=0), None)
        return part + apply(hand(under, x, under), weight.clamp(max=0), None)
    there = (pixels.marks == MARK).to(values)
    return apply(hand(there, x, there), weight.square() if rule == "w_squared" else torch.ones_like(weight), None)


def secant(apply: Apply, z: Tensor, value: Tensor, *, through_zero: bool, kept: bool) -> Tensor | None:
    """What a function's value beyond that at zero is of its argument; `None` if it is infinite at zero.

    Args:
        apply: The function.
        z: Its argument.
        value: Its value there.
        through_zero: Whether it is known to be zero at zero. Otherwise quotients close to zero are taken a little away.
        kept: Whether it is taken to be zero at zero, whatever it is.
    """
    tiny = 1e-12 if torch.finfo(z.dtype).tiny < 1e-12 else 1e-3
    base, near = z.new_zeros(()), z.new_full((), tiny)
    if not through_zero and not kept:
        base = apply(torch.zeros_like(z))
        if not bool(base.isfinite().all()):
            return None
        near = torch.where(base == 0, tiny, 1e-3).to(z)
    small = z.abs() < near
    z = torch.where(small, -near, z)  # from below, as torch's derivatives of what has a kink at zero
    found: Tensor = (torch.where(small, apply(z), value) - base) / z
    return found.nan_to_num(0.0, 0.0, 0.0)


def to_one(apply: Apply, z: Tensor) -> bool:
    """Whether a function goes from 0 to 1."""
    low, high = (apply(torch.full_like(z, v)) for v in (-1e4, 1e4))
    return bool((low == 0).all() & (high == 1).all())


def relevance(
    model: Model, inputs: Tensor, target: Target, composite: Composite, output: Output
) -> tuple[Tensor, Tensor]:
    """Hand the scores back to the pixels.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        composite: Which rule where.
        output: Which score.

    Returns:
        Relevance `(N, C, H, W)`, and what was handed back, `(N,)`.
    """

    def work(part: slice, x: Tensor, run: Apply) -> tuple[Tensor, Tensor]:
        rules = Propagation(composite, x, model.bounds)
        with rules:
            out = run(x)
        score = scored(out, target.take(part), output, model)
        rules.check(score, x, "LRP", allowed=WINNERS)
        seed = torch.ones_like(score)
        if composite.unit:
            seed = torch.where(score == 0, 0.0, 1 / score.detach())
        (found,) = torch.autograd.grad(score, x, seed)
        return found, score.detach() * seed

    maps, given = joined(model.passes(inputs, target, work))
    return maps, given


def scored(out: Any, target: Target, output: Output, model: Model) -> Tensor:
    """The scores, if they lead back to the input."""
    score = read(out, target, output, model.activation)
    if not score.requires_grad:
        raise ValueError(
            "the scores do not depend on the input in a way autograd can follow: use a method without gradients"
        )
    return score


def joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Batches of several tensors as one of each."""
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


class Relevance(Attributor):
    """What the methods here have in common.

    Args:
        output: Which score is handed back: logit or margin.
        channels: How the channels become one map.
    """

    tried = "lrp"

    channels: Channels = "sum"

    def composite(self) -> Composite:
        """Which rule where."""
        raise NotImplementedError

    def validate(self) -> None:
        """Relevance is what a score is made of: a probability is not made of terms."""
        if self.output in {"probability", "log_probability"}:
            raise ValueError(
                f"{self.name}: output={self.output!r} is no sum of what the network's last layer adds up, which is what is "
                "handed back: choose logit or margin"
            )

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Relevance of every pixel `(N, C, H, W)`, and by how much its sum misses the score."""
        maps, given = relevance(self.model, inputs, target, self.composite(), self.output)
        return Computed(maps, residual(maps, given))

    def within(self, head: Model, stride: tuple[float, float]) -> "Relevance":
        """At an inner layer there are no pixels, and what is said of them falls away."""
        del stride
        rules = replace(self.composite(), first=None)
        return Within(head, rules=rules, output=self.output, channels=self.channels)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 1


class Within(Relevance):
    """A composite on the rest of a network after a layer.

    Args:
        rules: Which rule where.
    """

    tried = ""  # the method that it is made for was

    rules: Composite

    def composite(self) -> Composite:
        """As it was given."""
        return self.rules


def box_needed(model: Model) -> str | None:
    """Why the box rule cannot be used, `None` if it can."""
    return "its first layer needs the range of pixels: pass Model(bounds=...)" if model.bounds is None else None


class Boxed(Relevance):
    """A method whose first layer's rule knows the range of pixels."""

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Models with bounds."""
        return box_needed(model) or super().supports(model)


def residual(maps: Tensor, given: Tensor, beside: Tensor | float = 0.0) -> dict[str, Tensor]:
    """What was handed back and did not arrive, `(N,)`, and as a part of what was handed back."""
    given = given.to(maps)
    lost = given - maps.flatten(1).sum(1) - beside
    return {"residual": lost, "relative_residual": lost / given.abs().clamp_min(torch.finfo(maps.dtype).tiny)}

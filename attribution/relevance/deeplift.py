"""DeepLIFT: the difference from a baseline's score, handed back through every operation by its own differences."""

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .. import baselines
from .._rules import Apply, Rules, applied, normalized, own, pair
from ..attributor import Attributor, Channels, Computed, register
from ..model import Model
from ..targets import Output, Target, read

NEAR = 100  # roundings: inputs closer than this count as equal, and the derivative stands in
TIED = 64  # roundings of float32 from one place to the next: values of a window closer than this go by their place
HALF = 1e-4  # steps of half precision are wider
WINDOW = 64  # places; over longer windows the roundings from one to the next are fewer


class Differences(Rules):
    """A network that is run twice: first on the baseline, whose values are kept in the order of calls, then on the input.

    The second time, the way back through an operation multiplies by its difference of outputs over that of its inputs.
    """

    opens_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.recording = True
        self.coarsest = 0.0  # step of the numbers that were met
        self.kept: deque[tuple[str, tuple[Tensor, ...]]] = deque()
        self._anchor = torch.zeros((), requires_grad=True)  # what is recorded depends on this in place of the input

    def replay(self) -> None:
        """From now on, meet the input."""
        self.recording = False

    def elementwise(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """The rescale rule."""
        if self.recording:
            return self._record(name, apply, x)
        (x0,) = self._recall(name, x)
        return applied(_Rescaled, x, x0, apply, name)

    def product(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """Each factor by the mean of the other's two values, which adds up exactly and prefers neither."""
        if self.recording:
            return self._record("product", apply, a, b)
        a0, b0 = self._recall("product", a, b)
        means = [(_wide(t.detach()) + _wide(t0)) / 2 for t, t0 in ((a, a0), (b, b0))]
        return applied(_Product, a, b, means, apply)

    def quotient(self, a: Tensor, b: Tensor) -> Tensor:
        """The product that it undoes, by its rule: nothing grows where a denominator is near zero on one side alone."""
        if self.recording:
            return self._record("quotient", torch.div, a, b)
        a0, b0 = self._recall("quotient", a, b)
        value = (a / b).detach()
        now, below, now0, below0 = (_wide(t.detach()) for t in (a, b, a0, b0))
        out, before = now / below, now0 / below0
        same = below * below0 > 0  # of a denominator that changes its sign, the reciprocal and a product
        middle = (below + below0) / 2
        outer = torch.where(same, 1 / middle, (1 / below + 1 / below0) / 2)
        inner = torch.where(same, (out + before) / 2 / middle, (now + now0) / 2 / (below * below0))
        return applied(_Instead, a * outer - b * inner, value)

    def softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """The exponential of the logarithm of the softmax."""
        dtype = apply(x.detach().narrow(dim, 0, 1)).dtype  # it may be told to be precise
        return self.elementwise(torch.exp, self._log_softmax(x.to(dtype), dim), "exp").to(dtype)

    def log_softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """Each value minus what all exponentials add up to."""
        dtype = apply(x.detach().narrow(dim, 0, 1)).dtype
        return self._log_softmax(x.to(dtype), dim).to(dtype)

    def _log_softmax(self, x: Tensor, dim: int) -> Tensor:
        """Of half precision in single precision."""
        x = _wide(x)
        return x - self.logsumexp(lambda x: x.logsumexp(dim, keepdim=True), x, (dim,), keepdim=True)

    def logsumexp(self, apply: Apply, x: Tensor, dims: tuple[int, ...], *, keepdim: bool) -> Tensor:
        """An exponential of each value, a sum, and a logarithm, none of which can overflow."""
        if self.recording:
            return self._record("logsumexp", apply, x)
        (x0,) = self._recall("logsumexp", x)
        share = _shares(_wide(x.detach()), _wide(x0), dims)
        return applied(_Instead, (x * share).sum(dims, keepdim=keepdim), apply(x.detach()))

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """Squares, their mean, its root, and a quotient."""
        del apply, name
        dtype, x = x.dtype, _wide(x)

        def deviation(y: Tensor) -> Tensor:
            mean = self.elementwise(torch.square, y, "square").mean(options["dims"], keepdim=True)
            return self.elementwise(torch.sqrt, mean + options["eps"], "sqrt")

        return normalized(x, options, deviation, self.quotient).to(dtype)

    def max_pool(self, apply: Callable[..., Any], x: Tensor, name: str) -> Any:
        """What the input's winner gains over the baseline's is its own; what falls short is the baseline's winner's."""
        _, places = apply(x.detach(), indices=True)
        if self.recording:
            out = self._record(name, lambda x: apply(x, indices=True)[0], x)
        else:
            axes = int(name[name.index("pool") + 4])
            (x0,) = self._recall(name, x)
            out = _winners(x, x0, lambda x: apply(x, indices=True), axes)
        return (out, places) if name.endswith("_with_indices") else out

    def maximum(self, apply: Callable[..., Any], x: Tensor, name: str, dims: tuple[int, ...], *, keepdim: bool) -> Any:
        """As in max pooling, with one window."""
        found = apply(x.detach())
        if self.recording:
            out = self._record(name, lambda x: apply(x) if isinstance(found, Tensor) else apply(x)[0], x)
        else:
            (x0,) = self._recall(name, x)
            sign = -1 if "min" in name else 1
            last = tuple(range(-len(dims), 0))
            rows, rows0 = (sign * t.movedim(dims, last).flatten(-len(dims)) for t in (x, x0))
            out = sign * _winners(rows, rows0, lambda x: x.max(-1, keepdim=True), 1).squeeze(-1)
            for dim in sorted(d % x.ndim for d in dims) if keepdim else ():
                out = out.unsqueeze(dim)
        return out if isinstance(found, Tensor) else type(found)((out, found[1]))

    def _meet(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The larger or smaller of two tensors: the first, and by how much the other is beyond it."""
        given = (t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.is_floating_point())
        self.coarsest = max(self.coarsest, *(torch.finfo(t.dtype).eps for t in given), 0.0)
        a, b = pair(args, kwargs)
        if name in {"maximum", "minimum", "max", "min"} and isinstance(b, Tensor):
            sign, dtype = -1 if "min" in name else 1, torch.result_type(a, b)
            a, b = a.to(_wide(a.new_empty((), dtype=dtype)).dtype), b.to(_wide(b.new_empty((), dtype=dtype)).dtype)
            return (a + sign * self._met("elementwise", functional.relu, sign * (b - a), "relu")).to(dtype)
        return super()._meet(func, name, args, kwargs)

    def _record(self, name: str, apply: Apply, *values: Tensor) -> Tensor:
        """Keep values of the baseline; what goes on has no graph behind it."""
        self.kept.append((name, tuple(v.detach().clone() for v in values)))
        return applied(_Cut, self._anchor, apply, *(v.detach() for v in values))

    def _recall(self, name: str, *values: Tensor) -> tuple[Tensor, ...]:
        """What the baseline had here."""
        kept = self.kept.popleft() if self.kept else ("", ())
        if kept[0] != name or [v.shape for v in kept[1]] != [v.shape for v in values]:
            self.refuse()
        return kept[1]

    @staticmethod
    def refuse() -> None:
        """The two runs were not the same operations."""
        raise ValueError(
            "the network does other operations on the input than on the baseline, so their values cannot be compared: use a "
            "method that follows the gradient, such as integrated_gradients, or a baseline more like the input"
        )


class _Cut(Function):
    """An operation whose result depends on an anchor alone."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, apply: Apply, *values: Tensor) -> Tensor:
        del ctx, anchor
        return apply(*values)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        del ctx, given
        raise RuntimeError("nothing goes back through a baseline")


@own
class _Instead(Function):
    """The value of one tensor and the gradient of another."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        del ctx, carrier
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        del ctx
        return given[0], None


@own
class _Rescaled(Function):
    """A function of each value; back goes the difference of outputs over that of inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor, apply: Apply, name: str) -> Tensor:
        def wide(x: Tensor) -> Tensor:
            return apply(x if name == "prelu" else _wide(x))  # a PReLU wants the precision of its weight

        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = wide(leaf)
            slope = torch.autograd.grad(out.sum(), leaf)[0] if out.requires_grad else torch.zeros_like(x)
        out, before = out.detach(), wide(x0)
        ins, outs = (_wide(x), _wide(x0)), (_wide(out), _wide(before))
        ctx.save_for_backward(_multiplier(name, ins, outs, _wide(slope)))
        return out if _wide(x) is x else apply(x.detach())

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        return given[0] * ctx.saved_tensors[0], None, None, None


def _multiplier(name: str, ins: tuple[Tensor, Tensor], outs: tuple[Tensor, Tensor], slope: Tensor) -> Tensor:
    r""":math:`\Delta y / \Delta x`; where the two inputs are equal, the derivative."""
    (x, x0), (out, before) = ins, outs
    if name == "square":
        return x + x0
    if name == "reciprocal":
        return -out * before
    if name == "rsqrt":
        return -((out * before) ** 2) / (out + before)
    if name == "sqrt":
        return torch.where(out + before > 0, 1 / (out + before), 0.0)  # of zero there is no derivative
    change = x - x0
    # infinite values of both, as masks make them, have no difference either
    apart = change.abs() > NEAR * torch.finfo(x.dtype).eps * (x.abs() + x0.abs())
    if name == "prelu":
        apart &= x * x0 <= 0  # on one side of zero it is linear
    return torch.where(apart, (out - before) / change, slope)


@own
class _Product(Function):
    """A product; back goes what the mean of the other factor's two values lets through."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, means: tuple[Tensor, Tensor], apply: Apply) -> Tensor:
        ctx.save_for_backward(*means)
        ctx.multiply = apply
        return apply(a, b)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        means = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            out = ctx.multiply(*means)
        return *torch.autograd.grad(out, means, given[0].to(out.dtype)), None, None


def _shares(x: Tensor, x0: Tensor, dims: tuple[int, ...]) -> Tensor:
    """What each value's difference is worth to the logarithm of the sum of exponentials."""
    top = torch.maximum(x, x0).amax(dims, keepdim=True)
    e, e0 = (x - top).exp(), (x0 - top).exp()
    total, total0 = e.sum(dims, keepdim=True), e0.sum(dims, keepdim=True)
    ends = x.logsumexp(dims, keepdim=True), x0.logsumexp(dims, keepdim=True)
    outer = _multiplier("log", (total, total0), ends, 1 / total)
    return outer * _multiplier("exp", (x, x0), (e, e0), e)


def _winners(x: Tensor, x0: Tensor, find: Callable[[Tensor], tuple[Tensor, Tensor]], axes: int) -> Tensor:
    """The largest values of windows; each share goes to a winner.

    A winner's own difference is at least its share: it won against the other one's value in its own image. Of values that
    rounding alone tells apart, as in all windows of a uniform baseline, the first wins, whatever the kernels that computed
    them; that can cost it a rounding of the guarantee, and where it would cost more, the largest value itself has the share.

    Args:
        x: The input, which the result depends on.
        x0: The baseline's.
        find: Gives the largest values of windows, and their places in the last axes laid flat.
        axes: How many axes.
    """
    now = x.detach()
    (out, at), (before, at0) = find(now), find(x0)
    total, gains = _wide(out) - _wide(before), out >= before
    shape = (*x.shape[: x.ndim - axes], -1)
    flat, change = x.reshape(shape), (_wide(now) - _wide(x0)).reshape(shape)
    carrier = torch.zeros_like(total)
    for image, largest, share, alone in (
        (now, at, torch.where(gains, total, 0.0), (total == 0).to(total)),
        (x0, at0, torch.where(gains, 0.0, total), torch.zeros_like(total)),
    ):
        tried = []
        for places in (find(_sloping(image, out.shape, axes))[1], largest):
            moved = change.gather(-1, places.reshape(shape)).reshape(out.shape)
            tried.append((places, moved, torch.where(moved == 0, alone, share / moved)))
        (first, moved, part), (last, _, rest) = tried
        fits = (part >= 0) & (part <= 2) & ((moved != 0) | (share == 0))
        winner, weight = torch.where(fits, first, last), torch.where(fits, part, rest)
        carrier = carrier + flat.gather(-1, winner.reshape(shape)).reshape(out.shape) * weight
    return applied(_Instead, carrier, out)


def _sloping(x: Tensor, windows: Sequence[int], axes: int) -> Tensor:
    """Values that fall a little from each place to the next, so that none of a window are equal."""
    x = _wide(x)
    size = x.abs().where(x.isfinite(), 0.0)  # masks are infinite
    size = size.flatten(1).amax(1).reshape(-1, *[1] * (x.ndim - 1)) if x.ndim > axes else size.amax()
    for axis in range(1, axes + 1):
        length = x.shape[-axis] / max(windows[-axis], 1)
        step = TIED * torch.finfo(torch.float32).eps * min(1.0, WINDOW / length) * 1.37 ** (axis - 1)
        ramp = torch.arange(x.shape[-axis], device=x.device, dtype=x.dtype).reshape(-1, *[1] * (axis - 1))
        x = x - ramp * step * size
    return x


def _wide(x: Tensor) -> Tensor:
    """Half precision in single precision: a quotient of its differences would be noise."""
    return x.float() if torch.finfo(x.dtype).bits < 32 else x


def deep_lift(
    model: Model, inputs: Tensor, references: Sequence[Tensor], target: Target, *, output: Output
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Hand differences from references back by the rescale rule (section 3.5.2 of the paper), and average.

    .. math:: (x - x') \odot m, \qquad m_y = \Delta y / \Delta x \text{ at every function}

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        references: Each broadcastable to the inputs.
        target: Frozen, one row per image.
        output: Which score.

    Returns:
        The mean map over references `(N, C, H, W)`, by how much its sum misses the score minus the references' mean score,
        `(N,)`, which is warned about where it is more than rounding, and the references' scores `(N, R)`. Memory does not
        grow with the references.

    Raises:
        ValueError: The network has an operation without a rule, or does other operations on the reference.
    """
    coarsest = 0.0  # step of the numbers that the network computes with

    def work(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal coarsest
        maps, befores = torch.zeros_like(x, requires_grad=False), []
        for reference in references:
            start = (reference[part] if len(reference) > 1 else reference).expand_as(x).clone().requires_grad_()
            rules = Differences()
            with rules:
                befores.append(read(run(start), target.take(part), output, model.activation).detach())
                rules.replay()
                out = run(x)
                score = read(out, target.take(part), output, model.activation)
            steps = (torch.finfo(t.dtype).eps for t in (out, score, maps) if isinstance(t, Tensor))
            coarsest = max(coarsest, rules.coarsest, *steps)
            if rules.kept:
                rules.refuse()
            rules.check(score, x, "deeplift")
            (found,) = torch.autograd.grad(score.sum(), x)
            maps += found * (x.detach() - start.detach())
        return maps / len(references), score.detach(), torch.stack(befores, 1)

    count = len(references)
    parts = model.passes(inputs, target, work, forwards=2 * count, backwards=count)
    maps, scores, before = (torch.cat(p) for p in zip(*parts, strict=True))
    gain = scores - before.mean(1)
    delta = maps.flatten(1).sum(1) - gain.to(maps)
    # half of the digits: rounding grows along a deep network, and what no rule saw is of the size of the map
    # in half precision that would be a tenth, and the rules' own numbers are finer
    digits = coarsest**0.5 if coarsest < HALF else 4 * coarsest
    limit = digits * (maps.flatten(1).abs().sum(1) + scores.abs().to(maps))
    if bool((delta.abs() > limit).any()):
        warnings.warn(
            f"deeplift misses the difference of the scores by up to {float(delta.abs().max()):.2g}: the network picks values "
            "in a way that no rule sees (by comparing, indexing or detaching), or numbers overflow",
            RuntimeWarning,
            stacklevel=2,
        )
    return maps, delta, before


@register(
    "deeplift",
    family="relevance",
    aliases=("deep_lift_rescale",),
    needs="gradient",
    complete=True,
    kinds=("image", "table", "tokens"),
    paper="Shrikumar, Greenside and Kundaje 2017, arXiv:1704.02685, section 3.5.2, the rescale rule",
)
class DeepLift(Attributor):
    r"""How the difference from a baseline's score came about, operation by operation.

    Where a gradient asks what a function would do next, the rescale rule asks what it did between the baseline and the
    input: :math:`\Delta y / \Delta x`. So a saturated unit still hands on what it contributed, and the map sums to the score
    minus the baseline's score up to rounding, which `details["convergence_delta"]` `(N,)` tells. It is one run on the
    baseline, one on the input and one way back.

    Every activation and function of single values has the rule, however it is written. The paper's rule is for those alone;
    of what mixes several values, products give each factor the mean of the other's two values (which are their Shapley
    values), a quotient is the product that it undoes, norms, softmax and attention come apart into squares, roots,
    exponentials, quotients and products, and of a maximum what is gained belongs to the input's winner and what is lost to
    the baseline's. The map depends on how a network is written:
    two networks of equal outputs may have different maps. A pixel that equals the baseline gets exactly 0.

    Args:
        output: Which score is explained; probabilities and margins add up too.
        baseline: What the input is compared with: "zero", "black", "white", "mean", "blur", "noise", a number, a tensor or a
            callable.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> map = attribution.create("deeplift", network).attribute(x, target=0)
        >>> difference = network(x) - network(torch.zeros_like(x))
        >>> bool(torch.isclose(map.sum(), difference[0, 0], atol=1e-6))
        True
    """

    tried = "deeplift"

    baseline: baselines.Baseline = "zero"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`, and by how much their sum misses the difference of the scores."""
        start = baselines.make(self.baseline, inputs, self.model)
        maps, delta, _ = deep_lift(self.model, inputs, [start], target, output=self.output)
        return Computed(maps, {"convergence_delta": delta})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 2, 1

"""Rules on operations: a network run with other ways back through some of its operations, whatever its modules are called.

Torch hands every call of its functions to a mode that is open; so an activation is found whether it is a module or a
function, in place, used again or made by a library that nobody has heard of. What torch does not hand over (a custom
`autograd.Function`, a compiled part) is found afterwards in the graph, by `check`, and refused rather than passed over.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Apply = Callable[..., Tensor]

# one tensor in, one of the same shape out, each value by itself
ACTIVATIONS = frozenset(
    [
        "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "silu", "gelu", "mish",
        "hardswish", "hardsigmoid", "softplus", "softsign", "tanh", "sigmoid", "log_sigmoid", "tanhshrink",
        "softshrink", "hardshrink", "threshold", "clamp", "clip", "clamp_min", "clamp_max",
    ]
)  # fmt: skip
FUNCTIONS = frozenset(
    [
        "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "reciprocal", "abs",
        "absolute", "erf", "erfc", "sin", "cos", "tan", "atan", "arctan", "sinh", "cosh", "sign", "floor", "ceil",
        "round", "pow", "float_power", "__rpow__", "special_expit",
    ]
)  # fmt: skip
LINEAR = frozenset(["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])
PRODUCTS = frozenset(["mul", "multiply", "__rmul__", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "dot"])
QUOTIENTS = frozenset(["div", "divide", "true_divide", "__rdiv__", "__rtruediv__"])
NORMS = frozenset(["layer_norm", "group_norm", "instance_norm", "rms_norm"])
MAX_POOLS = frozenset(
    f"{start}max_pool{d}d{end}" for start in ("", "adaptive_") for d in (1, 2, 3) for end in ("", "_with_indices")
)
MAXIMA = frozenset(["amax", "amin", "max", "min"])
AVERAGES = frozenset(f"{start}avg_pool{d}d" for start in ("", "adaptive_") for d in (1, 2, 3))
# what autograd writes for operations that are linear in what depends on the input, or only move values about
LINEAR_NODES = (
    "Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Mm", "Bmm", "Addmm", "Baddbmm", "Mv", "Dot", "Convolution", "Slow",
    "Mkldnn", "Linear", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Permute", "Transpose", "T", "Expand",
    "Repeat", "Squeeze", "Unsqueeze", "Cat", "Stack", "ConstantPadNd", "Split", "SplitWithSizes", "UnsafeSplit",
    "Unbind", "Chunk", "Select", "Slice", "Index", "IndexSelect", "Gather", "Narrow", "Mean", "Sum", "Cumsum",
    "AvgPool", "AdaptiveAvgPool", "Upsample", "ConstantPad", "ReflectionPad", "ReplicationPad", "Roll", "Flip", "Clone",
    "Copy", "CopySlice", "ToCopy", "AccumulateGrad", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm",
    "AsStrided", "PixelShuffle", "PixelUnshuffle", "Im2Col", "Col2Im", "Unfold", "MaskedFill", "Where", "Tril", "Triu",
    "Alias", "ViewAs", "Swapaxes", "Moveaxis", "Diagonal", "Contiguous", "Lerp", "Identity", "NativeDropout", "Fill",
    "Zero", "SelectScatter", "SliceScatter", "IndexPut", "SqueezeMultiple", "GridSampler",
)  # fmt: skip


# linear as long as only one of their inputs depends on the network's input
BILINEAR_NODES = (
    "Mul",
    "Div",
    "Mm",
    "Bmm",
    "Addmm",
    "Baddbmm",
    "Mv",
    "Dot",
    "Convolution",
    "Linear",
    "Lerp",
    "GridSampler",
)


class Rules(TorchFunctionMode):
    """A network run in this mode meets these methods instead of torch's operations; a subclass overrides some.

    Each gets `apply`, the plain operation with its options, never in place, and calls it, or does something else. What
    it returns takes the result's place, also where the caller worked in place.

    Attributes:
        opens_attention: Whether attention comes apart into its products and its softmax, and what divides by the length of
            vectors (`functional.normalize`) into squares, a root and a quotient.
        met: How often each kind of operation was met that depends on the input.
    """

    opens_attention = False

    def __init__(self) -> None:
        super().__init__()
        self.met: dict[str, int] = {}

    # -- what a subclass overrides -------------------------------------------------------------------------------------

    def elementwise(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """An activation or another function of each value by itself; `name` is torch's."""
        del name
        return apply(x)

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """A linear layer or a convolution, `apply(x, weight, bias)`; the weight does not depend on the input."""
        del name
        return apply(x, weight, bias)

    def affine(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """A batch norm in evaluation mode, or average pooling."""
        del name
        return apply(x)

    def product(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """A product of two tensors that both depend on the input: `apply` is `mul` or a matrix product."""
        return apply(a, b)

    def quotient(self, a: Tensor, b: Tensor) -> Tensor:
        """A quotient of two tensors that both depend on the input: a product with a reciprocal."""
        inverse = self._met("elementwise", torch.reciprocal, b, "reciprocal")
        found: Tensor = self._met("product", torch.mul, a, inverse)
        return found

    def softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """A softmax over one axis."""
        del dim
        return apply(x)

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """A norm that is taken from the input: layer, group, instance or RMS norm. `options` as in `normalized`."""
        del name, options
        return apply(x)

    def max_pool(self, apply: Callable[..., Any], x: Tensor, name: str) -> Any:
        """Max pooling of any kind; `apply(x)` may give (values, indices), and `apply(x, indices=True)` does."""
        del name
        return apply(x)

    def log_softmax(self, apply: Apply, x: Tensor, dim: int) -> Tensor:
        """The logarithm of a softmax over one axis."""
        del dim
        return apply(x)

    def logsumexp(self, apply: Apply, x: Tensor, dims: tuple[int, ...], *, keepdim: bool) -> Tensor:
        """The logarithm of the sum of exponentials over some axes."""
        del dims, keepdim
        return apply(x)

    def maximum(self, apply: Callable[..., Any], x: Tensor, name: str, dims: tuple[int, ...], *, keepdim: bool) -> Any:
        """The largest or smallest value over some axes; `apply(x)` gives (values, indices) for torch's `max` and `min`."""
        del name, dims, keepdim
        return apply(x)

    def replaced(self, target: Tensor, found: Tensor) -> None:
        """What the caller worked on in place, now that it has the values of what a rule returned."""

    # -- finding them --------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of a torch function; inside, this mode is off."""
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = name if name.endswith("__") else name.removesuffix("_").removeprefix("_")
        if not any(depends(a) for a in (*args, *kwargs.values())):
            if name == "__set__":
                return func(*args, **kwargs)
            # what a bare callable makes of its parameters does not depend on the input either
            return func(*map(_constant, args), **{k: _constant(v) for k, v in kwargs.items()})
        within = (name.endswith("_") and not name.endswith("__")) or _in_place(plain, args, kwargs)
        within = within and bool(args) and isinstance(args[0], Tensor)
        if within:  # what a rule keeps must not be overwritten
            found = self._meet(func, plain, (args[0].clone(), *args[1:]), kwargs)
        else:
            found = self._meet(func, plain, args, kwargs)
        if found is NotImplemented:
            return func(*args, **kwargs)
        if not within:
            return found
        self.replaced(args[0].copy_(found), found)
        return args[0]

    def _meet(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Call the method for this function; `NotImplemented` where there is none."""
        if name in ACTIVATIONS or name in FUNCTIONS:
            return self._elementwise(func, name, args, kwargs)
        if name in LINEAR:
            return self._linear(func, name, args, kwargs)
        if name in PRODUCTS or name in QUOTIENTS or name == "einsum":
            return self._product(name, args, kwargs)
        if name in {"softmax", "softmin", "log_softmax"}:
            return self._softmax(func, name, args, kwargs)
        if name == "logsumexp" or name in MAXIMA:
            return self._reduction(func, name, args, kwargs)
        if name in NORMS:
            return self._normalize(func, name, args, kwargs)
        if name in MAX_POOLS:
            return self._max_pool(func, name, args, kwargs)
        if name in AVERAGES or name == "batch_norm":
            return self._one("affine", func, name, args, kwargs)
        if name == "scaled_dot_product_attention" and self.opens_attention:
            return self._attention(*args, **kwargs)
        if name == "multi_head_attention_forward" and self.opens_attention:
            return self._multi_head(*args, **kwargs)
        if name in {"addcmul", "baddbmm", "addmm"}:
            return self._sum_of_products(name, args, kwargs)
        if name in {"normalize", "norm", "linalg_vector_norm"} and self.opens_attention:
            return self._length(name, args, kwargs)
        if name == "glu":
            x, rest, more = _first(args, kwargs)
            first, second = x.chunk(2, more.get("dim", rest[0] if rest else -1))
            return self._met("product", torch.mul, first, self._met("elementwise", torch.sigmoid, second, "sigmoid"))
        return NotImplemented

    def _met(self, kind: str, *args: Any, **more: Any) -> Any:
        """Count it, and call the method of that kind."""
        self.met[kind] = self.met.get(kind, 0) + 1
        return getattr(self, kind)(*args, **more)

    def _one(self, kind: str, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "batch_norm":
            _refuse_batch_statistics(func, args, kwargs)
        x, rest, more = _first(args, kwargs)
        return self._met(kind, lambda x: func(x, *rest, **more), x, name)

    def _elementwise(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x, rest, more = _first(args, kwargs)
        if any(depends(a) for a in (*rest, *more.values())) or not depends(x):
            return NotImplemented  # a limit or an exponent that depends on the input: `check` finds it
        copy = func.__name__ != name or _in_place(name, args, kwargs)
        return self._met("elementwise", lambda x: func(x.clone() if copy else x, *rest, **more), x, name)

    def _linear(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        rest, more = args[3:], {k: v for k, v in kwargs.items() if k not in {"input", "weight", "bias"}}

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            found: Tensor = func(x, weight, bias, *rest, **more)
            return found

        if not depends(weight) and not depends(bias):
            return self._met("linear", apply, x, weight, bias, name)
        if name != "linear":
            return NotImplemented
        out = self._met("product", functional.linear, x, weight) if depends(x) else apply(x, weight, None)
        return out if bias is None else out + bias

    def _product(self, name: str, args: Any, kwargs: Any) -> Any:
        if name == "einsum":
            equation, *operands = args
            operands = list(operands[0]) if operands and isinstance(operands[0], list | tuple) else operands
            if len(operands) != 2 or not all(map(depends, operands)):
                return NotImplemented
            return self._met("product", lambda a, b: torch.einsum(equation, a, b), *operands)
        if name in QUOTIENTS:
            a, b = pair(args, kwargs)
            a, b = (b, a) if name.startswith("__r") else (a, b)
            if not depends(b) or kwargs.get("rounding_mode") is not None:
                return NotImplemented
            if depends(a):
                return self._met("quotient", a, b)
            return a * self._met("elementwise", torch.reciprocal, b, "reciprocal")
        a, b = pair(args, kwargs)
        if not depends(a) or not depends(b):
            return NotImplemented
        apply = torch.mul if "mul" in name and "matmul" not in name else torch.matmul
        if name == "__rmatmul__":
            a, b = b, a
        return self._met("product", apply, a, b)

    def _sum_of_products(self, name: str, args: Any, kwargs: Any) -> Any:
        """`input + value * (a * b)` and its kin: one product, and what is linear."""
        names = {"addcmul": ("tensor1", "tensor2"), "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2")}[name]
        given = {**dict(zip(("input", *names), args, strict=False)), **kwargs}
        summand, a, b = (given.get(n) for n in ("input", *names))
        if not (isinstance(summand, Tensor) and isinstance(a, Tensor) and isinstance(b, Tensor)):
            return NotImplemented
        if name != "addcmul" and not (depends(a) and depends(b)):
            return NotImplemented
        out = self._mul(torch.mul if name == "addcmul" else torch.matmul, a, b)
        out = out * kwargs.get("value", kwargs.get("alpha", 1))
        beta = kwargs.get("beta", 1)
        # torch does not look at what counts for nothing: it may be NaN
        return out if beta == 0 else out + beta * summand

    def _length(self, name: str, args: Any, kwargs: Any) -> Any:
        """The length of vectors, and vectors divided by theirs."""
        x, rest, more = _first(args, kwargs)
        names = {
            "normalize": ("p", "dim", "eps"),
            "norm": ("p", "dim", "keepdim"),
            "linalg_vector_norm": ("ord", "dim", "keepdim"),
        }
        given = {**dict(zip(names[name], rest, strict=False)), **more}
        power, dim = given.get("p", given.get("ord", 2)), given.get("dim", 1 if name == "normalize" else None)
        if power not in {2, "fro"} or dim is None or not depends(x) or given.get("out") is not None:
            return NotImplemented
        keepdim = name == "normalize" or given.get("keepdim", False)
        squares = self._met("elementwise", torch.square, x, "square")
        length = self._met("elementwise", torch.sqrt, squares.sum(dim, keepdim=keepdim), "sqrt")
        if name != "normalize":
            return length
        eps = given.get("eps", 1e-12)
        length = self._met("elementwise", lambda x: x.clamp_min(eps), length, "length")
        return self._met("quotient", x, length)

    def _max_pool(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x, rest, more = _first(args, kwargs)
        # torch's C function has no indices; the one of torch.nn.functional takes the same arguments
        pool = getattr(functional, name.removesuffix("_with_indices") + "_with_indices")

        def apply(x: Tensor, *, indices: bool = False) -> Any:
            if not indices:
                return func(x, *rest, **more)
            return pool(x, *rest, **{k: v for k, v in more.items() if k != "return_indices"})

        return self._met("max_pool", apply, x, name)

    def _reduction(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Over named axes; over all of them, or of two tensors, it is nothing that a rule is for."""
        x, rest, more = _first(args, kwargs)
        dims = more.get("dim", rest[0] if rest else None)
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, tuple | list) or not dims or not depends(x):
            return NotImplemented
        keepdim = bool(more.get("keepdim", rest[1] if len(rest) > 1 else False))

        def apply(x: Tensor) -> Any:
            return func(x, *rest, **more)

        if name == "logsumexp":
            return self._met("logsumexp", apply, x, tuple(dims), keepdim=keepdim)
        return self._met("maximum", apply, x, name, tuple(dims), keepdim=keepdim)

    def _softmax(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x, rest, more = _first(args, kwargs)
        dim = more.get("dim", rest[0] if rest else None)
        if dim is None:
            return NotImplemented
        if name == "softmin":
            return self._met("softmax", lambda x: x.softmax(dim), -x, dim)
        return self._met(name, lambda x: func(x, *rest, **more), x, dim)

    def _normalize(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x, rest, more = _first(args, kwargs)
        options = _norm_options(name, x, rest, more)
        if options is None:
            return NotImplemented
        return self._met("normalize", lambda x: func(x, *rest, **more), x, name, options)

    # -- attention, in its parts ---------------------------------------------------------------------------------------

    def _attention(  # noqa: PLR0917  torch's signature
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """`scaled_dot_product_attention`."""
        more: dict[str, Any] = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        return self._attend(query, key, value, enable_gqa=enable_gqa, **more)[0]

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Softmax of the scaled products of queries and keys, times the values; and the softmax."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        if dropout_p:
            _refuse("an attention layer drops out at random")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = self._mul(torch.matmul, query * scale, key.transpose(-2, -1))
        if is_causal:
            length = query.shape[-2], key.shape[-2]
            attn_mask = torch.ones(length, dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = self._met("softmax", lambda x: x.softmax(-1), scores, -1) if depends(scores) else scores.softmax(-1)
        return self._mul(torch.matmul, weights, value), weights

    def _mul(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """A product by its rule, where both depend on the input."""
        found: Tensor = self._met("product", apply, a, b) if depends(a) and depends(b) else apply(a, b)
        return found

    def _multi_head(  # noqa: PLR0917  torch's signature
        self, query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int, in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
        out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True,
        key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
        v_proj_weight: Tensor | None = None, static_k: Tensor | None = None, static_v: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """`torch.nn.MultiheadAttention` from projections, attention and one more projection.

        What torch gives has the sequence first; what is projected here has the batch first.
        """
        odd = (bias_k, bias_v, static_k, static_v)
        if add_zero_attn or any(o is not None for o in odd) or (training and dropout_p):
            _refuse("a MultiheadAttention with added keys or in training")
        if use_separate_proj_weight:
            weights = [q_proj_weight, k_proj_weight, v_proj_weight]
        else:
            assert in_proj_weight is not None
            weights = list(in_proj_weight.detach().chunk(3))
        biases = [None] * 3 if in_proj_bias is None else list(in_proj_bias.detach().chunk(3))
        parts = []
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
            y = self._project(x.transpose(0, 1) if x.ndim == 3 else x, weight, bias)
            parts.append(y.unflatten(-1, (num_heads, embed_dim // num_heads)).transpose(-3, -2))
        mask = attn_mask
        if mask is not None and mask.ndim == 3 and query.ndim == 3:
            mask = mask.reshape(query.shape[1], num_heads, *mask.shape[1:])
        if key_padding_mask is not None:
            pad = key_padding_mask[:, None, None] if query.ndim == 3 else key_padding_mask
            pad = (
                torch.zeros_like(pad, dtype=query.dtype).masked_fill(pad, -torch.inf)
                if pad.dtype == torch.bool
                else pad
            )
            if mask is not None and mask.dtype == torch.bool:  # there, True forbids
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)
            mask = pad if mask is None else mask + pad
        elif mask is not None and mask.dtype == torch.bool:
            mask = ~mask
        causal = is_causal and mask is None
        q, k, v = parts
        out, softmax = self._attend(q, k, v, attn_mask=mask, is_causal=causal)
        out = self._project(out.transpose(-3, -2).flatten(-2), out_proj_weight, out_proj_bias)
        softmax = softmax.mean(-3) if average_attn_weights else softmax
        return out.transpose(0, 1) if query.ndim == 3 else out, softmax if need_weights else None

    def _project(self, x: Tensor, weight: Any, bias: Any) -> Any:
        """A linear layer by its rule, where it depends on the input."""
        given = (x, weight, bias)
        return (
            self._linear(functional.linear, "linear", given, {})
            if any(map(depends, given))
            else functional.linear(*given)
        )

    # -- what slipped by -----------------------------------------------------------------------------------------------

    def check(self, scores: Tensor, x: Tensor, what: str, *, allowed: Iterable[str] = ()) -> None:
        """Refuse a graph with operations that no rule was asked about.

        Args:
            scores: What is differentiated.
            x: The input.
            what: The method, for the message.
            allowed: Names of further nodes of the graph (`"Max"` for `MaxBackward0`) beside linear ones and our own.

        Raises:
            ValueError: There is such an operation; the message names it.
        """
        allowed = set(allowed)
        for node, inputs in nodes(scores, x):
            kind = kind_of(node)
            if is_own(node) or kind in allowed:
                continue
            linear = kind in LINEAR_NODES or kind.startswith(("Upsample", "Mkldnn"))
            if linear and (inputs < 2 or kind not in BILINEAR_NODES):
                continue
            raise ValueError(
                f"{what} has no rule for the operation {kind!r} of this network, and passing it by would make the map wrong: "
                "replace it by a torch function, or use a method that needs gradients alone, such as integrated_gradients"
            )


OWN: set[type] = set()  # the rules' own autograd functions


def own(cls: type) -> type:
    """Decorates an `autograd.Function` that is a rule: `check` lets it pass."""
    OWN.add(cls)
    return cls


def applied(function: Any, *args: Any) -> Tensor:
    """What an `autograd.Function` makes of its arguments."""
    out: Tensor = function.apply(*args)
    return out


def is_own(node: Any) -> bool:
    """Whether a node of autograd's graph is a rule's."""
    return getattr(type(node), "_forward_cls", None) in OWN


def kind_of(node: Any) -> str:
    """What a node of autograd's graph does: `"Max"` for a `MaxBackward0`."""
    name = str(node.name()).rsplit("::", 1)[-1]
    return name.rstrip("0123456789s").removesuffix("Backward").rstrip("0123456789D")


def depends(value: Any) -> bool:
    """Whether a tensor, or one in a list or tuple, depends on the network's input: parameters never do."""
    if isinstance(value, list | tuple):
        return any(map(depends, value))
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


def _constant(value: Any) -> Any:
    """A parameter as a plain tensor, also in lists and tuples."""
    if type(value) in {list, tuple}:
        return type(value)(map(_constant, value))
    return value.detach() if isinstance(value, nn.Parameter) and value.requires_grad else value


def nodes(scores: Tensor, x: Tensor) -> Iterator[tuple[Any, int]]:
    """Every node of autograd's graph that lies between `scores` and the leaf `x`, with how many of its inputs lead there."""
    behind = x.view_as(x).grad_fn
    assert behind is not None
    leaf = behind.next_functions[0][0]
    leads: dict[Any, int] = {}
    stack: list[tuple[Any, bool]] = [(scores.grad_fn, False)]
    while stack:
        node, back = stack.pop()
        following = [n for n, _ in node.next_functions if n is not None]
        if back:
            leads[node] = sum(n is leaf or leads.get(n, 0) > 0 for n in following)
        elif node not in leads:
            leads[node] = 0
            stack.append((node, True))
            stack += [(n, False) for n in following]
    return ((n, found) for n, found in leads.items() if found)


def normalized(x: Tensor, options: dict[str, Any], inverse: Callable[[Tensor], Tensor], product: Apply) -> Tensor:
    """A norm in its parts: `centred * inverse(centred)`, then weight and bias.

    Args:
        x: The input.
        options: What `Rules.normalize` gets: `shape` that x is normalised in, `dims`, `centre`, `eps`, `weight`, `bias`.
        inverse: Gives one over the deviation of the centred values; see `deviation`.
        product: How the two are multiplied.
    """
    y = x.reshape(options["shape"])
    if options["centre"]:
        y = y - y.mean(options["dims"], keepdim=True)
    y = product(y, inverse(y)).reshape(x.shape)
    y = y if options["weight"] is None else y * options["weight"]
    return y if options["bias"] is None else y + options["bias"]


def _norm_options(name: str, x: Tensor, rest: Any, more: dict[str, Any]) -> dict[str, Any] | None:
    """What a norm of torch does, in one form for all of them."""
    names = {
        "layer_norm": ("normalized_shape", "weight", "bias", "eps"),
        "rms_norm": ("normalized_shape", "weight", "eps"),
        "group_norm": ("num_groups", "weight", "bias", "eps"),
        "instance_norm": ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    }[name]
    given = {**dict(zip(names, rest, strict=False)), **more}
    weight, bias, eps = given.get("weight"), given.get("bias"), given.get("eps")
    if depends(weight) or depends(bias):
        return None
    if eps is None:
        eps = torch.finfo(x.dtype).eps if name == "rms_norm" else 1e-5
    if name in {"layer_norm", "rms_norm"}:
        axes = len(tuple(given["normalized_shape"]))
        return {
            "shape": x.shape, "dims": tuple(range(-axes, 0)), "centre": name == "layer_norm", "eps": eps,
            "weight": weight, "bias": bias,
        }  # fmt: skip
    if name == "instance_norm" and not given.get("use_input_stats", True):
        return None
    groups = x.shape[1] if name == "instance_norm" else given["num_groups"]
    beside = (1, -1, *[1] * (x.ndim - 2))
    return {
        "shape": (x.shape[0], groups, -1), "dims": (-1,), "centre": True, "eps": eps,
        "weight": None if weight is None else weight.reshape(beside), "bias": None if bias is None else bias.reshape(beside),
    }  # fmt: skip


def _first(args: Any, kwargs: Any) -> tuple[Tensor, Any, dict[str, Any]]:
    """The first argument, which is the input, the others, and those by name without the in-place switch."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs["input"], (), {k: v for k, v in kwargs.items() if k != "input"}


def pair(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The two operands of a function, each by its place or by its name."""
    first = args[0] if args else kwargs.get("input")
    names = ("other", "mat2", "vec", "tensor")
    return first, args[1] if len(args) > 1 else next((kwargs[n] for n in names if n in kwargs), None)


def _in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a functional activation works in place on its input."""
    return name in ACTIVATIONS and (bool(kwargs.get("inplace", False)) or any(a is True for a in args[1:]))


def _refuse_batch_statistics(func: Any, args: Any, kwargs: Any) -> None:
    """A batch norm is affine only where its mean and variance were given."""
    mean = 3 if func is torch.batch_norm else 1  # torch's C function has weight and bias before them
    given = {**{i: a for i, a in enumerate(args) if i in {mean, 5}}, **kwargs}
    if given.get("training", given.get(5, False)) or given.get("running_mean", given.get(mean)) is None:
        raise ValueError(
            "the network has a batch norm that takes mean and variance from the batch, so that the map of an image would "
            "depend on the others: set it to evaluation, or give it running statistics"
        )


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"the network has {what}, for which there is no rule: use a method that needs gradients alone")

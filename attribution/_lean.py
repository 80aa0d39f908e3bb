"""A network's fast private copy: what can be had for nothing on this machine, and nothing that changes its answers.

Traced with `torch.fx`, every batch norm in evaluation mode that follows a convolution is folded into
it, zero padding is merged, dropout and identities go, tensors are laid out channels last, and in inference activations
work in place. Weights that a network computes from parameters (weight standardisation) are computed once. What cannot be
traced as a whole is traced child by child; what cannot be traced at all is left as it is. Whether the copy is used is
not decided here: the Model compares it with the original first.
"""

import contextlib
import copy
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

CONVOLUTIONS: dict[Any, Any] = {
    functional.conv1d: functional.conv1d,
    functional.conv2d: functional.conv2d,
    functional.conv3d: functional.conv3d,
    torch.conv1d: functional.conv1d,
    torch.conv2d: functional.conv2d,
    torch.conv3d: functional.conv3d,
}
IN_PLACE: dict[Any, Callable[..., Any]] = {
    nn.ReLU: functional.relu,
    nn.ReLU6: functional.relu6,
    nn.SiLU: functional.silu,
    nn.Hardswish: functional.hardswish,
    nn.LeakyReLU: functional.leaky_relu,
    nn.ELU: functional.elu,
    nn.Mish: functional.mish,
}
IN_PLACE_FUNCTIONS = {
    functional.relu: functional.relu,
    torch.relu: functional.relu,
    functional.relu6: functional.relu6,
    functional.silu: functional.silu,
    functional.hardswish: functional.hardswish,
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a block, then every module's own mode again."""
    modes = [(m, m.training) for m in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def seeded_aside() -> Iterator[None]:
    """Leave torch's global generator of the CPU as it is, whatever a network draws meanwhile."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def shadow(network: nn.Module) -> nn.Module | None:
    """A copy of the structure that shares the parameters' memory, in evaluation mode and without gradients.

    Running it cannot change the caller's network: modes and hooks are its own, and buffers are copied. `None` where the
    network cannot be copied.
    """
    memo: dict[int, Any] = {}
    for p in network.parameters():
        if type(p) is nn.Parameter:  # those of inference mode could not serve a gradient
            memo[id(p)] = nn.Parameter(p.clone() if p.is_inference() else p.detach(), requires_grad=False)
    own = {id(m) for m in network.modules()}
    for module in network.modules():
        for kind in HOOKS:
            for hook in getattr(module, kind).values():  # the caller's hooks work on the caller's objects
                memo[id(hook)] = hook
                holder = getattr(hook, "__self__", None)
                if holder is not None and id(holder) not in own:
                    memo[id(holder)] = holder
    try:
        twin = copy.deepcopy(network, memo)
    except Exception:  # noqa: BLE001  a network may hold anything, locks and open files among it
        return None
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin.eval()


class Tracer(fx.Tracer):
    """Traces through everything that is not torch's own, and remembers which node each module's output is."""

    def __init__(self, given: Iterable[str] | None) -> None:
        super().__init__()
        self.given = None if given is None else tuple(given)
        self.outputs: dict[str, list[fx.Node]] = {}

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The input and the arguments that will be given; all others keep their defaults, `None` above all."""
        if self.given is None:
            found: tuple[Callable[..., Any], list[Any]] = super().create_args_for_root(
                root_fn, is_module, concrete_args
            )
            return found
        given = self.given
        first = next(iter(inspect.signature(self.root.forward).parameters.values()))
        name = "x" if first.kind is first.VAR_POSITIONAL else first.name
        proxies = [self.create_proxy("placeholder", n, (), {}) for n in (name, *given)]

        def run(root: Any, x: Any, *more: Any) -> Any:
            return root_fn(root, x, **dict(zip(given, more, strict=True)))

        return run, [self.root, *proxies]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace one call of a module, under its name in the original network."""
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy):
            self.outputs.setdefault(self.path_of_module(m), []).append(out.node)
        return out


def trace(
    network: nn.Module, given: Iterable[str] | None = None
) -> tuple[fx.GraphModule, dict[str, list[fx.Node]]] | None:
    """The network as a graph with the node of every module call, or `None` where it cannot be traced.

    Args:
        network: In evaluation mode.
        given: The names of the arguments that it gets besides its input; `None`: all that it has.
    """
    tracer = Tracer(given)
    try:
        graph = tracer.trace(network)
        return fx.GraphModule(network, graph), tracer.outputs
    except Exception:  # noqa: BLE001  tracing runs the caller's code on proxies: anything may be raised
        return None


class Convolution(nn.Module):
    """One convolution with weights of its own, channels last."""

    def __init__(self, function: Any, weight: Tensor, bias: Tensor | None, options: list[Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(_channels_last(weight.detach()), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.stride, self.padding, self.dilation, self.groups = options

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `(N, C, ...)`."""
        out: Tensor = self.function(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return out


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        return tensor.clone(memory_format=torch.channels_last)
    return tensor.clone()


def lean(twin: nn.Module, given: Iterable[str] = ()) -> tuple[nn.Module, nn.Module, str | None]:
    """The copies for inference and for gradients, and what could not be done (`None` if everything was).

    Args:
        twin: A `shadow`; its parameters are read and its modules are shared, never changed.
        given: The names of the arguments that it gets besides its input.
    """
    traced = trace(twin, given)
    if traced is None:
        gradient = _children(_structure(twin))
        return gradient, gradient, "torch.fx cannot trace the whole network: only parts of it were folded"
    gradient = _fold(traced[0])
    return _in_place(gradient), gradient, None


def _structure(twin: nn.Module) -> nn.Module:
    """The same modules over the same tensors, free to be rearranged."""
    memo: dict[int, Any] = {id(t): t for t in (*twin.parameters(), *twin.buffers())}
    return copy.deepcopy(twin, memo)


def _children(module: nn.Module) -> nn.Module:
    """Fold every largest part that can be traced, and lay lone convolutions out channels last."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            child.weight = nn.Parameter(_channels_last(child.weight), requires_grad=False)
        if not list(child.children()):
            continue
        traced = trace(child) if any(isinstance(m, BATCH_NORMS) for m in child.modules()) else None
        if traced is not None and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            setattr(module, name, _fold(traced[0]))
        else:
            _children(child)
    return module


# -- passes over one graph ---------------------------------------------------------------------------------------------


def _fold(module: fx.GraphModule) -> fx.GraphModule:
    """All passes that keep every value: what is left computes the same function with fewer operations."""
    graph = module.graph
    modules = dict(module.named_modules())
    constants = _constants(module)
    fresh = 0
    for node in list(graph.nodes):
        if _is_nothing(node, modules):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"  # what a view refuses on channels last
        elif (convolution := _convolution(node, modules, constants)) is not None:
            name = f"_lean_{fresh}"
            fresh += 1
            _merge_padding(node, convolution, modules)
            module.add_submodule(name, convolution)
            modules[name] = convolution
            source = node.all_input_nodes[0]
            with graph.inserting_before(node):
                new = graph.call_module(name, (source,))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
        elif (affine := _affine(node, modules, constants)) is not None and _fold_affine(node, affine, modules):
            source = node.all_input_nodes[0]
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if not node.users and not node.is_impure() and not overwrites(node, modules):
            graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _constants(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """The value of every node that depends on parameters and buffers alone."""
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: Any = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor):
                values[node] = value.detach()
        elif node.op in {"call_function", "call_method"} and node.all_input_nodes:
            if not all(n in values for n in node.all_input_nodes) or "dropout" in str(node.target):
                continue
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            with torch.no_grad():
                call = node.target if callable(node.target) else getattr(args[0], str(node.target))
                values[node] = call(*(args if callable(node.target) else args[1:]), **kwargs)
    return values


def _is_nothing(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node only hands its input on in evaluation mode."""
    if node.op == "call_module":
        kinds = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
        return type(modules[str(node.target)]) in kinds
    if node.op == "call_function" and node.target in {functional.dropout, functional.dropout2d}:
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        return training is False
    return False


def _arguments(node: fx.Node, names: list[str], defaults: list[Any]) -> list[Any]:
    """A call's arguments in the order of `names`, whether they were given by place or by name."""
    found = [*node.args[: len(names)]]
    return found + [node.kwargs.get(n, d) for n, d in zip(names[len(found) :], defaults[len(found) :], strict=True)]


def _convolution(node: fx.Node, modules: dict[str, nn.Module], constants: dict[fx.Node, Any]) -> Convolution | None:
    """The node as a convolution with weights of its own, if it is one with constant weights."""
    if node.op == "call_module":
        m = modules[str(node.target)]
        stock = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}
        if type(m) not in stock or m.padding_mode != "zeros":
            return None
        assert isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        return Convolution(stock[type(m)], m.weight, m.bias, [m.stride, m.padding, m.dilation, m.groups])
    if node.op == "call_function" and node.target in CONVOLUTIONS:
        names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
        _, weight, bias, *options = _arguments(node, names, [None, None, None, 1, 0, 1, 1])
        if weight not in constants or (bias is not None and bias not in constants):
            return None
        options = [tuple(o) if isinstance(o, list) else o for o in options]
        return Convolution(CONVOLUTIONS[node.target], constants[weight], constants.get(bias), options)
    return None


def _merge_padding(node: fx.Node, convolution: Convolution, modules: dict[str, nn.Module]) -> None:
    """Let a convolution do the symmetric zero padding in front of it."""
    pad = node.all_input_nodes[0]
    if convolution.function is not functional.conv2d or len(pad.users) != 1 or isinstance(convolution.padding, str):
        return
    amount: Any = None
    if pad.op == "call_module":
        m = modules[str(pad.target)]
        if type(m) in {nn.ZeroPad2d, nn.ConstantPad2d} and getattr(m, "value", 0) == 0:
            amount = m.padding
    elif pad.op == "call_function" and pad.target is functional.pad:
        _, amount, mode, value = _arguments(pad, ["input", "pad", "mode", "value"], [None, None, "constant", None])
        amount = amount if mode == "constant" and not value else None
    if not isinstance(amount, tuple | list) or len(amount) != 4 or not all(type(a) is int and a >= 0 for a in amount):
        return
    left, right, top, bottom = amount
    if left != right or top != bottom:
        return
    own = convolution.padding if isinstance(convolution.padding, tuple) else (convolution.padding,) * 2
    convolution.padding = (own[0] + top, own[1] + left)
    node.replace_input_with(pad, pad.all_input_nodes[0])


def _wide(tensor: Tensor) -> Tensor:
    """In float64, on the CPU: not every device has it."""
    return tensor.detach().cpu().double()


def _affine(
    node: fx.Node, modules: dict[str, nn.Module], constants: dict[fx.Node, Any]
) -> tuple[Tensor, Tensor] | None:
    """A batch norm in evaluation mode as (scale, shift), in float64; `None` for anything else."""
    mean: Any
    var: Any
    weight: Any
    bias: Any
    eps: Any
    if node.op == "call_module":
        m = modules[str(node.target)]
        if type(m) not in BATCH_NORMS or m.running_mean is None or m.running_var is None:
            return None
        mean, var, weight, bias = m.running_mean, m.running_var, m.weight, m.bias
        eps = m.eps
    elif node.op == "call_function" and node.target in {functional.batch_norm, torch.batch_norm}:
        names = ["input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"]
        if node.target is torch.batch_norm:
            names = ["input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"]
        given = dict(zip(names, _arguments(node, names, [None, None, None, None, None, False, 0.1, 1e-5]), strict=True))
        found = [constants.get(given[n]) if given[n] is not None else None for n in names[1:5]]
        lost = any(f is None and given[n] is not None for f, n in zip(found, names[1:5], strict=True))
        named = dict(zip(names[1:5], found, strict=True))
        if given["training"] is not False or lost or named["running_mean"] is None:
            return None
        mean, var, weight, bias = (named[k] for k in ("running_mean", "running_var", "weight", "bias"))
        eps = given["eps"]
    else:
        return None
    scale = (_wide(var) + eps).rsqrt()
    scale = scale * _wide(weight) if isinstance(weight, Tensor) else scale
    shift = -_wide(mean) * scale
    return scale, shift + _wide(bias) if isinstance(bias, Tensor) else shift


def _fold_affine(node: fx.Node, affine: tuple[Tensor, Tensor], modules: dict[str, nn.Module]) -> bool:
    """Fold (scale, shift) per output channel into the layer that feeds this node; whether it could be done."""
    source = node.all_input_nodes[0]
    if source.op != "call_module" or len(source.users) != 1:
        return False
    layer = modules[str(source.target)]
    scale, shift = affine
    if not isinstance(layer, Convolution):  # which is made for this node alone
        return False
    weight = layer.weight.detach()
    if weight.shape[0] != len(scale):
        return False
    bias = shift if layer.bias is None else _wide(layer.bias) * scale + shift
    scaled = (_wide(weight) * scale.reshape(-1, *[1] * (weight.ndim - 1))).to(weight)
    layer.weight = nn.Parameter(_channels_last(scaled), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight), requires_grad=False)
    return True


def _in_place(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph for inference: activations overwrite what only they read and what was made for them."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    out = graph.graph_copy(module.graph, copied)
    graph.output(out)
    modules = dict(module.named_modules())
    for node in list(graph.nodes):
        function, options = _activation(node, modules)
        if function is None or not _is_fresh(node.all_input_nodes[0], modules):
            continue
        with graph.inserting_before(node):
            new = graph.call_function(function, (node.all_input_nodes[0],), {**options, "inplace": True})
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    return fx.GraphModule(module, graph)


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    if node.op == "call_module":
        m = modules[str(node.target)]
        options = {k: getattr(m, k) for k in ("negative_slope", "alpha") if hasattr(m, k)}
        return IN_PLACE.get(type(m)), options
    if node.op == "call_function" and node.target in IN_PLACE_FUNCTIONS and len(node.args) == 1:
        return IN_PLACE_FUNCTIONS[node.target], {}
    return None, {}


def overwrites(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node writes into its input."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = getattr(node.target, "__name__", str(node.target))
    inplace = node.kwargs.get("inplace", False) or (name.endswith("_") and not name.endswith("__"))
    return bool(inplace) or name in {"iadd", "imul", "isub", "itruediv", "setitem"} or any(a is True for a in node.args)


def _is_fresh(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node makes a tensor of its own that nobody else reads."""
    if len(node.users) != 1:
        return False
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], Convolution | nn.Linear | nn.BatchNorm2d)
    return node.op == "call_function" and node.target in {operator.add, torch.add}

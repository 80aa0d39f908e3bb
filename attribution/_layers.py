"""Layers of a network: which there are, where a class activation map is read, and how to cut a network in two there."""

import difflib
import math
import operator
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from torch import Tensor, fx, nn

from . import _lean

if TYPE_CHECKING:
    from .model import Model

PREFIX = 16  # tokens before the image's, at most
POOLINGS = (
    nn.AdaptiveAvgPool1d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LPPool2d,
    nn.FractionalMaxPool2d,
)
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)


@dataclass(frozen=True)
class Call:
    """One call of a module in one forward.

    Attributes:
        name: The module's name in the caller's network, with `@k` for its k-th call where it is called more than once.
        type: The module's class.
        shape: The output's shape for one input, batch axis included; `()` where the output is no tensor.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    pools: bool
    passes: bool
    dense: bool  # linear layers or layer norms and no convolution: its last axis has the channels
    parameters: bool  # a layer with weights of its own
    same: int  # calls with the same number handed on the same tensor


def calls(network: nn.Module, run: Callable[[nn.Module], Any]) -> list[Call]:
    """Every module call while `run(network)` runs one input, in the order in which they end."""
    seen: list[tuple[str, nn.Module, Any]] = []
    hooks = []
    try:
        for name, module in network.named_modules():
            if name:
                hooks.append(module.register_forward_hook(lambda m, _, out, n=name: seen.append((n, m, out))))
        run(network)
    finally:
        for hook in hooks:
            hook.remove()
    total: dict[str, int] = {}
    for name, _, _ in seen:
        total[name] = total.get(name, 0) + 1
    count: dict[str, int] = {}
    found: list[Call] = []
    for name, module, out in seen:
        k = count[name] = count.get(name, -1) + 1
        tensor = isinstance(out, Tensor)
        found.append(
            Call(
                name=f"{name}@{k}" if total[name] > 1 else name,
                type=type(module).__name__,
                shape=tuple(out.shape) if tensor else (),
                pools=isinstance(module, POOLINGS),
                passes=isinstance(module, PASSING),
                dense=_is_dense(module),
                parameters=next(module.parameters(recurse=False), None) is not None,
                same=id(out) if tensor else -len(found) - 1,
            )
        )
    return found


@dataclass(frozen=True)
class Layout:
    """Where the map lies in a layer's activation.

    Attributes:
        form: `"first"` (N, K, h, w), `"last"` (N, h, w, K) or `"tokens"` (N, T, K).
        grid: (h, w).
        prefix: Tokens before those of the image: class, distillation and register tokens.
    """

    form: Literal["first", "last", "tokens"]
    grid: tuple[int, int]
    prefix: int = 0

    def maps(self, activation: Tensor) -> Tensor:
        """The activation as `(N, K, h, w)`, without the prefix; a view."""
        if self.form == "first":
            return activation
        if self.form == "last":
            return activation.permute(0, 3, 1, 2)
        tokens = activation[:, self.prefix : self.prefix + self.grid[0] * self.grid[1]]
        return tokens.transpose(1, 2).reshape(len(activation), -1, *self.grid)

    def put(self, activation: Tensor, maps: Tensor) -> Tensor:
        """A copy of the activation with other maps `(N, K, h, w)`; the prefix stays."""
        if self.form == "first":
            return maps
        if self.form == "last":
            return maps.permute(0, 2, 3, 1)
        h, w = self.grid
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([activation[:, : self.prefix], tokens, activation[:, self.prefix + h * w :]], 1)


def layout(call: Call, found: list[Call], image: tuple[int, ...]) -> Layout | None:
    """How a call's output holds a map with more than one place and more than one channel; `None` where it does not.

    A map keeps the image's proportions, which tells channels that come first from those that come last. Tokens belong to
    the cells of the last spatial map before them, or to a grid of the image's proportions; others before them are prefix.

    Args:
        call: The call.
        found: All calls, in order.
        image: (C, H, W) of the network's input.
    """
    shape = call.shape
    if len(image) != 3 or shape[:1] != (1,):  # windows stand where images should
        return None
    if len(shape) == 4:
        first, last = _fits(shape[2:], image), _fits(shape[1:3], image)
        form: Literal["first", "last"] = "last" if last and (not first or call.dense) else "first"
        grid = (shape[1], shape[2]) if form == "last" else (shape[2], shape[3])
        return Layout(form, grid) if grid[0] * grid[1] > 1 else None
    if len(shape) != 3 or shape[1] < 2 or shape[2] < 2:
        return None
    before = found[: found.index(call)]
    grids = [c.shape[2:] for c in reversed(before) if len(c.shape) == 4 and _fits(c.shape[2:], image)][:1]
    for h, w in [*grids, *proportions(shape[1], image[1], image[2])]:
        if h * w > 1 and 0 <= shape[1] - h * w <= PREFIX and _fits((h, w), image):
            return Layout("tokens", (h, w), shape[1] - h * w)
    return None


def proportions(tokens: int, height: int, width: int) -> list[tuple[int, int]]:
    """Grids of an image's proportions with at most so many cells, or a row more, the finest first.

    Example:
        >>> proportions(10, 32, 32), proportions(6, 32, 64)
        ([(4, 4), (3, 3), (2, 2), (1, 1)], [(3, 6), (2, 4), (1, 2)])
    """
    return [(h, h * width // height) for h in range(math.isqrt(tokens * height // width + 1) + 1, 0, -1)]


def named(found: list[Call], name: str) -> Call:
    """The call of a layer.

    Raises:
        ValueError: There is none; the message lists close ones.
    """
    call = next((c for c in found if c.name == name), None)
    if call is None:
        many = [c.name for c in found if c.name.startswith(f"{name}@")]
        if many:
            raise ValueError(
                f"layer {name!r} is called {len(many)} times in one forward: say which, {many[0]} to {many[-1]}"
            )
        if "@" in name and any(c.name == name.partition("@")[0] for c in found):
            return next(c for c in found if c.name == name.partition("@")[0])
        _unknown(name, [c.name for c in found])
    return call


def _fits(grid: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether a grid has the image's proportions, up to a row that was lost or won on the way."""
    (h, w), (_, height, width) = grid, image
    if h > height or w > width:
        return False
    if height == width:
        return h == w
    low, high = max(height / (h + 1), width / (w + 1)), min(height / max(h - 1, 0.5), width / max(w - 1, 0.5))
    return h * width == w * height or low < high  # some stride gives both sides


def spatial(found: list[Call], image: tuple[int, ...]) -> list[int]:
    """Which calls hand on a map that no pooling made, each tensor once: by its outermost name."""
    best: dict[int, int] = {}
    for i, call in enumerate(found):
        if call.passes or _pooled(found, i) or layout(call, found, image) is None:
            continue
        other = best.get(call.same)
        if other is None or call.name.count(".") <= found[other].name.count("."):
            best[call.same] = i
    return sorted(best.values())


def none_found(found: list[Call], image: tuple[int, ...], why: str) -> ValueError:
    """Says what could be passed."""
    names = [found[i].name for i in spatial(found, image)]
    hint = f"for example one of {names[-6:]}" if names else "but this network has no spatial layer"
    return ValueError(f"{why}: pass layer=..., {hint}")


def before_attention(found: list[Call]) -> str | None:
    """What stands before the last attention: a norm of the tokens, in most networks."""
    last = next((c for c in reversed(found) if "attention" in c.type.lower()), None)
    if last is None:
        return None
    outer = last.name
    for call in found:  # the outermost attention that holds it
        if "attention" in call.type.lower() and last.name.startswith(f"{call.name}.") and len(call.name) < len(outer):
            outer = call.name
    first = next(i for i, c in enumerate(found) if c.name == outer or c.name.startswith(f"{outer}."))
    return found[first - 1].name if first else None


def cuts(network: nn.Module, given: Iterable[str]) -> set[str] | None:
    """The names of the module calls that everything passes through; `None` where the network cannot be traced."""
    traced = _lean.trace(network, given)
    if traced is None:
        return None
    graph, outputs = traced[0].graph, traced[1]
    order = {n: i for i, n in enumerate(graph.nodes)}
    alive: set[fx.Node] = set()
    through: set[fx.Node] = set()
    ends: dict[int, list[fx.Node]] = {}
    values = _values(graph)
    for node in graph.nodes:
        if node in values and node.users:
            ends.setdefault(max(order[u] for u in node.users), []).append(node)
    for i, node in enumerate(graph.nodes):
        alive.difference_update(ends.get(i, ()))
        if node in values and node.users:
            alive.add(node)
        if alive == {node}:
            through.add(node)
    names: set[str] = set()
    for name, nodes in outputs.items():
        names |= {name if len(nodes) == 1 else f"{name}@{k}" for k, node in enumerate(nodes) if node in through}
    return names


def _values(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on the input's values, and not on its shape alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        sizes = node.op == "call_method" and node.target in {"size", "dim"}
        sizes = sizes or (node.op == "call_function" and node.target is getattr)
        if node.op == "placeholder" or (not sizes and any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _is_dense(module: nn.Module) -> bool:
    kinds = [type(m) for m in module.modules()]
    dense = any(issubclass(k, nn.Linear | nn.LayerNorm) for k in kinds)
    return dense and not any(issubclass(k, nn.Conv2d) for k in kinds)


def _pooled(found: list[Call], at: int) -> bool:
    """Whether the tensor of this call came out of a pooling layer."""
    return any(c.pools for c in found if c.same == found[at].same)


def identity(out: Any) -> Any:
    """The adapter of a trunk: its output is an activation, whatever it is."""
    return out


# -- cutting -----------------------------------------------------------------------------------------------------------


def split(model: "Model", network: nn.Module, at: str) -> tuple[nn.Module, nn.Module]:
    """The network up to and including a layer, and the rest of it."""
    if at == "input":
        return nn.Identity(), network
    found = _find(network, at, model.forward)
    if isinstance(found, fx.Node):
        halves = _before(network, found), _after(network, found, at)
        if model.shape is None or _is_whole(model, network, *halves):
            return halves
        # an operation that works by its side effect alone: the graph does not show it, a real forward does
    return _split_by_hooks(model, network, *parse(at))


def arguments(module: nn.Module) -> set[str]:
    """The names of a head's further arguments: what it takes besides the activation."""
    if not isinstance(module, fx.GraphModule):
        inner = getattr(module, "rest", None)
        return arguments(inner) if isinstance(inner, nn.Module) else set()
    return {str(n.target) for n in module.graph.nodes if n.op == "placeholder"} - {"activation"}


def trunk(network: nn.Module, at: str, given: Iterable[str]) -> nn.Module:
    """The network up to and including a layer, whatever leads around it."""
    if at == "input":
        return nn.Identity()
    found = _find(network, at, given)
    return _before(network, found) if isinstance(found, fx.Node) else HookedTrunk(network, *parse(at))


def parse(at: str) -> tuple[str, int]:
    """A layer's name and the number of its call.

    Raises:
        ValueError: The number is none.
    """
    name, _, number = at.partition("@")
    if number and not number.isdigit():
        raise ValueError(f"layer {at!r}: write {name}@k with k = 0, 1, ... for the k-th call")
    return name, int(number or 0)


def _find(network: nn.Module, at: str, given: Iterable[str]) -> fx.Node | None:
    """The node of a layer's output; `None` where the network cannot be traced."""
    name, number = parse(at)
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        _unknown(at, names)
    traced = _lean.trace(network, given)
    if traced is None:
        return None
    nodes = traced[1].get(name, [])
    if not nodes:
        raise ValueError(f"layer {at!r} is not called in a forward of this network")
    if len(nodes) > 1 and "@" not in at:
        raise ValueError(
            f"layer {name!r} is called {len(nodes)} times in one forward: say which, {name}@0 to {name}@{len(nodes) - 1}"
        )
    if number >= len(nodes):
        raise ValueError(f"layer {at!r}: {name!r} is called {len(nodes)} time(s) only")
    return nodes[number]


def _is_whole(model: "Model", network: nn.Module, trunk: nn.Module, head: nn.Module) -> bool:
    """Whether the head on the trunk gives what the network gives, on an arbitrary image."""
    blank = model._blank()
    image = torch.rand(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
    wanted = arguments(head)

    def halves(x: Tensor, **more: Any) -> Any:
        return head(trunk(x, **more), **{k: v for k, v in more.items() if k in wanted})

    whole = model.try_out(network, image)
    try:
        cut = model.try_out(halves, image)
    except (RuntimeError, IndexError, TypeError):  # a size that is not what the graph says
        return False
    if not isinstance(whole, Tensor) or not isinstance(cut, Tensor) or whole.shape != cut.shape:
        return False
    return torch.allclose(whole, cut, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def _unknown(at: str, names: list[str]) -> NoReturn:
    close = difflib.get_close_matches(at, names, n=5, cutoff=0.4) or names[-5:]
    raise ValueError(f"no layer {at!r}: close ones are {close}; model.layers(images) lists all")


def _before(network: nn.Module, cut: fx.Node) -> fx.GraphModule:
    trunk = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    modules = dict(network.named_modules())
    before = list(cut.graph.nodes)
    needed = _needed([cut], None, modules, set(before[: before.index(cut)]))
    for node in before:
        if node in needed or node.op == "placeholder":
            copied[node] = trunk.node_copy(node, copied.__getitem__)
    trunk.output(copied[cut])
    return fx.GraphModule(network, trunk)


def _after(network: nn.Module, cut: fx.Node, at: str) -> fx.GraphModule:
    graph = cut.graph
    modules = dict(network.named_modules())
    behind = _behind(cut)
    needed = _needed([n for n in graph.nodes if n.op == "output"], cut, modules, set(graph.nodes), behind)
    image = next(n for n in graph.nodes if n.op == "placeholder")
    if image in needed:
        raise AroundError(
            f"the output does not depend on layer {at!r} alone, a connection leads around it: choose a layer that "
            "everything passes through, such as the end of a block"
        )
    head = fx.Graph()
    copied = {cut: head.placeholder("activation")}
    if any(_lean.overwrites(user, modules) for user in cut.users):
        copied[cut] = head.call_method("clone", (copied[cut],))
    activation = copied[cut]
    for node in graph.nodes:
        if node in needed:
            if _is_batch_size(node) and not behind >= set(node.all_input_nodes):
                copied[node] = head.call_method("size", (activation, 0))
            elif node.op == "output":
                head.output(fx.node.map_arg(node.args[0], copied.__getitem__))
            else:
                copied[node] = head.node_copy(node, copied.__getitem__)
    return fx.GraphModule(network, head)


def _needed(
    wanted: list[fx.Node],
    stop: fx.Node | None,
    modules: dict[str, nn.Module],
    among: set[fx.Node],
    behind: AbstractSet[fx.Node] = frozenset(),
) -> set[fx.Node]:
    """What these nodes need, with what is written into it; once a node `stop` is given, so is the batch's size.

    Args:
        wanted: The nodes.
        stop: A node whose value will be given.
        modules: The network's.
        among: Where a node may stand that is needed only because it writes into another.
        behind: What is made of `stop`: the size of its first axis may be that of windows, and is looked at.
    """
    needed: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        stack.extend(u for u in node.users if u in among and not u.users and _lean.overwrites(u, modules))
        if node is stop:
            continue
        needed.add(node)
        if stop is None or not _is_batch_size(node) or behind >= set(node.all_input_nodes):
            stack.extend(node.all_input_nodes)
    return needed


def _behind(cut: fx.Node) -> set[fx.Node]:
    """The node and all that is made of it."""
    found, stack = {cut}, [cut]
    while stack:
        fresh = [u for u in stack.pop().users if u not in found]
        found.update(fresh)
        stack += fresh
    return found


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the size of some tensor's first axis."""
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return bool(node.args[1] == 0)
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if source.op == "call_method" and source.target == "size" and len(source.args) == 1:
            return True
        return bool(source.op == "call_function" and source.target is getattr and source.args[1] == "shape")
    return False


# -- networks that torch.fx cannot trace -------------------------------------------------------------------------------


class AroundError(ValueError):
    """A layer that not everything passes through."""


class _Found(Exception):  # noqa: N818  control flow, not an error
    """Carries a layer's output out of a forward that need not go on."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out


class _Hooked(nn.Module):
    """A network and one of its layers, at one of its calls."""

    def __init__(self, network: nn.Module, name: str, number: int) -> None:
        super().__init__()
        self.network, self.name, self.number = network, name, number

    def run(self, x: Tensor, at: Callable[[Any], Any], more: dict[str, Any]) -> Any:
        """Run the network; `at(output)` is called at the layer, and what it returns takes the output's place."""
        count = -1

        def hook(_m: nn.Module, _i: Any, out: Any) -> Any:
            nonlocal count
            count += 1
            return at(out) if count == self.number else None

        handle = self.network.get_submodule(self.name).register_forward_hook(hook)
        try:
            return self.network(x, **more)
        finally:
            handle.remove()


class HookedTrunk(_Hooked):
    """The network up to a layer."""

    def forward(self, x: Tensor, **more: Any) -> Any:
        """The layer's output for images `x`."""

        def stop(out: Any) -> Any:
            raise _Found(out)

        try:
            self.run(x, stop, more)
        except _Found as found:
            return found.out
        raise ValueError(f"layer {self.name!r} was not called (call {self.number})")


class HookedHead(_Hooked):
    """The network after a layer: the whole network on an arbitrary image, with the layer's output put in its place."""

    def __init__(self, network: nn.Module, name: str, number: int, blank: Tensor) -> None:
        super().__init__(network, name, number)
        self.register_buffer("blank", blank)

    def forward(self, activation: Tensor) -> Any:
        """The outputs for a layer's activation."""
        blank = self.get_buffer("blank")
        x = blank.expand(len(activation), *blank.shape[1:])
        return self.run(x, lambda _: activation.clone(), {})


def _split_by_hooks(model: "Model", network: nn.Module, name: str, number: int) -> tuple[nn.Module, nn.Module]:
    if model.shape is None:
        raise ValueError(
            "torch.fx cannot trace this network, so where it is cut must be tried out: show the model an image first, "
            "for example model.outputs(images)"
        )
    if model.forward:
        raise ValueError("a network that torch.fx cannot trace cannot be cut when it takes further arguments")
    example = next(network.parameters(), None)
    blank = model._blank()
    blank = blank if example is None else blank.to(example.device, example.dtype)
    trunk, head = HookedTrunk(network, name, number), HookedHead(network, name, number, blank)
    if not _is_whole(model, network, trunk, head):
        raise AroundError(
            f"the output does not depend on layer {name!r} alone, a connection leads around it: choose a layer that "
            "everything passes through, such as the end of a block"
        )
    return trunk, head


class Tap(_Hooked):
    """The network with one layer's output taken out as a leaf, wherever else its way leads around the layer.

    Attributes:
        leaf: The layer's output in the last call, which takes a gradient where gradients are on.
    """

    leaf: Tensor

    def forward(self, x: Tensor, **more: Any) -> Any:
        """The network's output."""
        kept: list[Tensor] = []

        def at(out: Any) -> Any:
            if not isinstance(out, Tensor):
                raise ValueError(f"layer {self.name!r} hands on a {type(out).__name__}, no tensor: take another")
            kept.append(out.detach().requires_grad_(torch.is_grad_enabled()))
            return kept[0].clone()  # so that what follows may work in place

        out = self.run(x, at, more)
        if not kept:
            raise ValueError(f"layer {self.name!r} is not called in a forward of this network")
        self.leaf = kept[0]
        return out


class FirstTrunk(nn.Module):
    """A trunk whose channels come last, brought to the front."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        """`(N, K, h, w)`."""
        out: Tensor = self.trunk(x, **more)
        return out.permute(0, 3, 1, 2)


class FirstHead(nn.Module):
    """The head of such a trunk."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, x: Tensor, **more: Any) -> Any:
        """The outputs for `(N, K, h, w)`."""
        return self.rest(x.permute(0, 2, 3, 1), **more)


# -- grids -------------------------------------------------------------------------------------------------------------


class GridTrunk(nn.Module):
    """Runs each cell of a grid of images by itself and puts the activations side by side."""

    def __init__(self, trunk: nn.Module, rows: int, columns: int) -> None:
        super().__init__()
        self.trunk, self.rows, self.columns = trunk, rows, columns

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        """`(N, C, rows * H, columns * W)` to `(N, K, rows * h, columns * w)`."""
        r, c = self.rows, self.columns
        n, channels, height, width = x.shape
        cells = x.reshape(n, channels, r, height // r, c, width // c).permute(0, 2, 4, 1, 3, 5)
        out = self.trunk(cells.reshape(n * r * c, channels, height // r, width // c), **more)
        k, h, w = out.shape[1:]
        out = out.reshape(n, r, c, k, h, w).permute(0, 3, 1, 4, 2, 5)
        joined: Tensor = out.reshape(n, k, r * h, c * w)
        return joined


class GridHead(nn.Module):
    """Shows the rest of the network one cell of a grid, and nothing else of it."""

    def __init__(self, rest: nn.Module, rows: int, columns: int, cell: int) -> None:
        super().__init__()
        self.rest, self.rows, self.columns = rest, rows, columns
        self.row, self.column = divmod(cell, columns)

    def forward(self, x: Tensor, **more: Any) -> Any:
        """The outputs for the cell of `(N, K, rows * h, columns * w)`."""
        h, w = x.shape[2] // self.rows, x.shape[3] // self.columns
        return self.rest(x[:, :, self.row * h : (self.row + 1) * h, self.column * w : (self.column + 1) * w], **more)


class PartHead(nn.Module):
    """Runs the network on the whole grid up to a layer, and shows what follows one cell of that layer's map.

    Args:
        between: From the activation to the layer's map.
        head: A `GridHead` of what follows.
    """

    def __init__(self, between: nn.Module, head: GridHead) -> None:
        super().__init__()
        self.between, self.head = between, head

    def forward(self, x: Tensor, **more: Any) -> Any:
        """The outputs for the cell."""
        return self.head(self.between(x, **more))


def inner_name(rest: nn.Module, found: list[Call], at: str, layer: str) -> str:
    """A layer's name in what is left of a network after the layer `at`.

    Args:
        rest: What is left; it may be wrapped.
        found: All calls of the network.
        at: Where it was cut.
        layer: A later layer.
    """
    name, number = parse(layer)
    inner = min((n for n, _ in rest.named_modules() if n == name or n.endswith("." + name)), key=len, default=name)
    if "@" not in layer:
        return inner
    if at != "input" and not any(
        isinstance(m, _Hooked) for m in rest.modules()
    ):  # it has the calls after the cut alone
        before = found[: found.index(named(found, at)) + 1]
        number -= sum(c.name.partition("@")[0] == name for c in before)
    return f"{inner}@{number}"

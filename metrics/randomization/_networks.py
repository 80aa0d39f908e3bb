"""Networks whose weights are drawn anew, stage by stage: which stages there are, and how a layer's weights are drawn."""

import contextlib
import copy
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from attriscope.attribution import _layers
from attriscope.attribution.model import Model
from torch import Tensor, nn

INITIALISERS = ("reset_parameters", "_reset_parameters")  # the second is that of torch's attention
# what norms start from that have no initialiser, frozen ones among them
STATISTICS = {"running_mean": 0.0, "running_var": 1.0, "weight": 1.0, "bias": 0.0}


@dataclass(frozen=True)
class Stage:
    """A part of a network whose weights are drawn together.

    Attributes:
        name: What a figure calls it.
        modules: The names of the modules whose own parameters and buffers belong to it.
    """

    name: str
    modules: tuple[str, ...]


@dataclass
class _Block:
    name: str
    owners: list[str]
    at: int  # when it ends
    place: tuple[int, ...]  # the grid of its output, or the output's shape where there is none


def stages(model: Model, images: Tensor, most: int) -> list[Stage]:
    """A network's parts in the order in which they run: at most `most`, the last of them the layer that makes the output.

    Modules are taken apart, the largest first, until there are enough and none holds more than half of all weights. Where
    that makes more, neighbours are put together: first those whose maps have the same size, as the blocks of a residual
    stage, then the smallest.

    Args:
        model: The model.
        images: `(N, C, H, W)`, some that it takes.
        most: How many parts at most; a large number gives every layer.

    Raises:
        ValueError: The network is a bare callable, or has no weights.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        >>> [s.name for s in stages(Model(network), torch.rand(1, 3, 4, 4), 2)]
        ['0 to 1', '3']
    """
    calls = model.layers(images)
    network = model.network
    assert isinstance(network, nn.Module)
    owned = {name for name, module in network.named_modules() if _own(module)}
    if not owned:
        raise ValueError("this network has no weights that could be drawn anew")
    ends = {call.name.partition("@")[0]: i for i, call in reversed(list(enumerate(calls)))}
    blocks = [_block(model, calls, ends, "", [n for n, _ in network.named_modules() if n in owned])]
    half = _size(network, blocks[0]) / 2
    while divisible := [b for b in blocks if b.owners != [b.name]]:
        large = [b for b in divisible if _size(network, b) > half]
        if not large and len(blocks) >= most:
            break
        next_one = min(large or divisible, key=lambda b: (b.name.count(".") + bool(b.name), -_size(network, b)))
        where = blocks.index(next_one)
        blocks[where : where + 1] = _inside(model, calls, ends, network, next_one)
    blocks.sort(key=lambda b: b.at)
    if len(blocks) > 1 and not blocks[0].name:  # what lies beside all layers, as class tokens do, goes with the first
        blocks[:2] = [_joined(*blocks[:2])]
    while len(blocks) > most:
        pairs = range(len(blocks) - (2 if len(blocks) > 2 else 1))  # the last stays alone
        i = min(pairs, key=lambda i: _apart(network, blocks[i], blocks[i + 1]))
        blocks[i : i + 2] = [_joined(*blocks[i : i + 2])]
    return [Stage(_called(b, owned), tuple(b.owners)) for b in blocks]


def _own(module: nn.Module) -> bool:
    """Whether a module has weights or statistics of its own."""
    own = [*module.parameters(recurse=False), *(b for _, b in _buffers(module))]
    return any(t.is_floating_point() and t.numel() for t in own)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a state holds: the others are made by the network itself."""
    held = module.state_dict(keep_vars=True)
    return ((n, b) for n, b in module.named_buffers(recurse=False) if n in held)


def _block(model: Model, calls: list[_layers.Call], ends: dict[str, int], name: str, owners: list[str]) -> _Block:
    """The block of a module; what is never called by itself ends with what it lies in."""
    known = [n for n in ((name,) if name in ends else owners) if n in ends]
    last = max((ends[n] for n in known), default=None)
    inner = name
    while last is None and inner:
        inner = inner.rpartition(".")[0]
        last = ends.get(inner)
    if last is None:
        return _Block(name, owners, -1, ())
    assert model.shape is not None
    layout = _layers.layout(calls[last], calls, model.shape)
    return _Block(name, owners, last, calls[last].shape if layout is None else layout.grid)


def _inside(
    model: Model, calls: list[_layers.Call], ends: dict[str, int], network: nn.Module, block: _Block
) -> list[_Block]:
    """A block's parts: what its module holds by itself, and each of its children."""
    start = f"{block.name}." if block.name else ""
    parts = [[block.name]] if block.name in block.owners else []
    for child, _ in network.get_submodule(block.name).named_children():
        own = [n for n in block.owners if n == start + child or n.startswith(f"{start}{child}.")]
        parts += [own] if own else []
    found = []
    for own in parts:
        name = block.name if own == [block.name] else start + own[0].removeprefix(start).partition(".")[0]
        found.append(_block(model, calls, ends, name, own))
    return found


def _joined(first: _Block, second: _Block) -> _Block:
    return _Block(second.name, first.owners + second.owners, second.at, second.place)


def _size(network: nn.Module, block: _Block) -> int:
    modules = [network.get_submodule(name) for name in block.owners]
    return sum(p.numel() for m in modules for p in m.parameters(recurse=False))


def _apart(network: nn.Module, first: _Block, second: _Block) -> tuple[bool, int]:
    """How little two neighbours belong together."""
    return first.place != second.place, _size(network, first) + _size(network, second)


def _called(block: _Block, owned: set[str]) -> str:
    """A module's name where a block is the whole of it, the first and the last such names otherwise."""
    own = set(block.owners)
    if own == owned:
        return "all"

    def whole(name: str) -> str:
        """The largest module around a name that lies in the block."""
        outer = name.rpartition(".")[0]
        inside = {n for n in owned if n == outer or n.startswith(f"{outer}.")}
        return whole(outer) if outer and inside <= own else name

    first, last = whole(next(n for n in block.owners if n)), whole(block.owners[-1])
    return first if first == last else f"{first} to {last}"


class Randomized:
    """A model over a copy of another's network, whose weights can be drawn anew.

    Every layer is drawn by its own initialiser, from a seed of its own: batch norms start from ones and zeros, as untrained
    ones do. What no initialiser sets (class tokens, positions, scales of layers) is drawn from the normal distribution with
    the mean and the deviation that its trained values have, or, where they are all equal, with a deviation of their size.
    Buffers that are neither statistics nor set by an initialiser are taken for constants.

    Args:
        model: Of the trained network, which nothing here changes.

    Attributes:
        model: The copy.

    Example:
        >>> trained = Model(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
        >>> copied = Randomized(trained)
        >>> copied.draw(["1"], seed=0)
        >>> bool((copied.model.network[1].weight == trained.network[1].weight).any())
        False
        >>> copied.restore(["1"])
        >>> bool((copied.model.network[1].weight == trained.network[1].weight).all())
        True
    """

    def __init__(self, model: Model) -> None:
        assert isinstance(model.network, nn.Module)
        self.trained, self.model = model.network, model.copy()
        assert isinstance(self.model.network, nn.Module)
        self.network = self.model.network

    def draw(self, modules: Sequence[str], seed: int) -> None:
        """Draw what these modules hold themselves; no global generator moves."""
        for name in modules:
            module = self.network.get_submodule(name)
            drawn = _drawn(module, zlib.crc32(f"{seed} {name}".encode()))
            with torch.no_grad():
                for key, tensor in _tensors(module):
                    tensor.copy_(drawn[key])
        self.model.changed()

    def restore(self, modules: Sequence[str]) -> None:
        """Set what these modules hold themselves to the trained values."""
        for name in modules:
            trained = dict(_tensors(self.trained.get_submodule(name)))
            with torch.no_grad():
                for key, tensor in _tensors(self.network.get_submodule(name)):
                    tensor.copy_(trained[key])
        self.model.changed()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module holds itself of real numbers."""
    for name, tensor in (*module.named_parameters(recurse=False), *_buffers(module)):
        if tensor.is_floating_point() and tensor.numel():
            yield name, tensor


def _drawn(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """New values for what a module holds, made on the CPU, whatever its device."""
    filled: dict[str, Tensor] = {}
    initialiser = next((n for n in INITIALISERS if hasattr(module, n)), None)
    with seeded(seed):
        if initialiser is not None:
            twin = copy.deepcopy(module).cpu()  # some set their children too
            with torch.no_grad():
                for _, tensor in _tensors(twin):
                    tensor.fill_(torch.nan)
                with contextlib.suppress(TypeError):  # it wants to be told something: then it is not one
                    getattr(twin, initialiser)()
            filled = {name: t for name, t in _tensors(twin) if not bool(t.isnan().any())}
        return {name: filled[name] if name in filled else _bare(module, name, t) for name, t in _tensors(module)}


def _bare(module: nn.Module, name: str, trained: Tensor) -> Tensor:
    """What no initialiser has set."""
    buffers = dict(module.named_buffers(recurse=False))
    if name in buffers:
        return (
            torch.full_like(trained, STATISTICS[name]) if name in STATISTICS and "running_mean" in buffers else trained
        )
    values = trained.detach().double().cpu()
    mean, deviation = values.mean(), values.std(correction=0)
    if deviation == 0:
        mean, deviation = 0 * mean, mean.abs() if mean != 0 else torch.ones_like(mean)
    return mean + deviation * torch.randn(values.shape, dtype=torch.float64)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of the CPU set to a seed, and afterwards to where they were."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  initialisers may draw from it
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  as above
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002  as above
        random.setstate(before[2])

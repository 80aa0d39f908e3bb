"""What every attributor must keep, as checks that anybody can run on their own: `attribution.check("rise")`."""

import copy
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attributor import REGISTRY, Attributor
from .baselines import gaussian_blur
from .model import Kind, Model

Check = Callable[["Case"], None]
Build = Callable[..., nn.Module]  # of the number of channels: class 1 is what is red, class 2 what is green
SIZE = 16

__all__ = ["CHECKS", "Case", "check", "checks"]


class Detector(nn.Module):
    """A network that knows where its object is: class 1 is what is red, class 2 what is green, averaged over the image.

    Args:
        channels: Of the image.
        style: How the activation is written: `"module"`, `"inplace"`, `"functional"` or `"reused"`.
    """

    def __init__(self, channels: int = 3, style: str = "module") -> None:
        super().__init__()
        self.style = style
        self.see = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=style == "inplace")
        self.act_again = nn.ReLU(inplace=style == "inplace")
        self.again = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)
        self.name_it = nn.Linear(4, 3)
        weight = torch.zeros(4, channels, 3, 3)
        for k in range(min(channels, 3)):
            weight[k, :, 1, 1] = -0.5
            weight[k, k, 1, 1] = 1.0
        weight[3] = 0.01
        with torch.no_grad():
            self.see.weight.copy_(weight)
            self.see.bias.zero_()  # type: ignore[union-attr]
            self.norm.running_mean.copy_(torch.tensor([0.05, 0.02, 0.0, 0.01]))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.tensor([0.5, 1.0, 2.0, 1.0]))  # type: ignore[union-attr]
            self.again.weight.copy_(torch.eye(4).reshape(4, 4, 1, 1))
            self.again.bias.zero_()  # type: ignore[union-attr]
            self.name_it.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0], [8.0, 0.0, 0.0, 0.0], [0.0, 8.0, 0.0, 0.0]]))
            self.name_it.bias.zero_()

    def _activate(self, x: Tensor, layer: nn.Module) -> Tensor:
        if self.style == "functional":
            return nn.functional.relu(x)
        out: Tensor = layer(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 3)`."""
        x = self._activate(self.norm(self.see(x)), self.act)
        x = self._activate(self.again(x), self.act if self.style == "reused" else self.act_again)
        out: Tensor = self.name_it(self.drop(x.mean((2, 3))))
        return out


class DynamicLinear(nn.Conv2d):
    """A B-cos convolution of one pixel (B = 2): its output times the size of the cosine to its weights.

    In explanation mode the cosine has no gradient, so that the layer is the linear one that it is for this input.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__(channels, features, 1, bias=False)
        self.detach = False

    def set_explanation_mode(self, on: bool = True) -> None:
        """Whether the cosine is a constant for the gradient."""
        self.detach = on

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H, W)`."""
        size = (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        weight = self.weight / self.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        along = nn.functional.conv2d(x, weight)
        cosine = (along / size).abs()
        return along * (cosine.detach() if self.detach else cosine)


class DynamicLinearDetector(nn.Module):
    """A B-cos network that finds the same objects as `Detector`."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.see = DynamicLinear(channels, 3)
        weight = torch.full((3, channels, 1, 1), -0.5)
        weight[0] = 1.0
        weight[1, 0], weight[2, min(1, channels - 1)] = 1.0, 1.0
        with torch.no_grad():
            self.see.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 3)`."""
        out: Tensor = self.see(x).mean((2, 3)) * 8
        return out


class SelfAttention(nn.Module):
    """One head that looks for what is red and one for what is green; both tell how much of it they saw."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 12)
        self.out = nn.Linear(4, 6)
        with torch.no_grad():
            for layer in (self.qkv, self.out):
                layer.weight.zero_()
                layer.bias.zero_()
            for head, colour in ((0, 0), (2, 1)):  # two numbers each, of which the second stays 0
                self.qkv.bias[head] = 3.0  # all tokens ask the same
                self.qkv.weight[[4 + head, 8 + head], colour] = torch.tensor([3.0, 1.0])
                self.out.weight[2 + colour, head] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, 6)` to `(N, T, 6)`."""
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        seen: Tensor = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class Looker(nn.Module):
    """A transformer that knows where its object is: class 1 is the most red that its class token saw, class 2 green.

    Patches of 4 x 4 pixels and a class token, two blocks without norms. A token has how red and green it is, how much of
    both it has seen, and two numbers more.

    Args:
        channels: Of the image.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, 6, 4, stride=4)
        self.token = nn.Parameter(torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]]]))
        self.blocks = nn.ModuleList([SelfAttention(), SelfAttention()])
        self.drop = nn.Dropout(0.5)
        self.name_it = nn.Linear(6, 3)
        with torch.no_grad():
            for layer in (self.patch, self.name_it):
                layer.weight.zero_()
                layer.bias.zero_()  # type: ignore[union-attr]
            for k in range(min(channels, 2)):
                self.patch.weight[k] = -0.5 / 16
                self.patch.weight[k, k] = 1.0 / 16
                self.name_it.weight[1 + k, 2 + k] = 4.0
            self.name_it.weight[0, 4] = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 3)`."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = x + self.drop(block(x))
        out: Tensor = self.name_it(x[:, 0])
        return out


NETWORKS: list[Build] = [Detector, DynamicLinearDetector, Looker]  # a method is checked on the first that it runs on


class Case:
    """One attributor with small hyper-parameters, and images on which the right answer is known.

    Args:
        cls: The class.
        options: Hyper-parameters; those registered as `small` are the default.
        network: Makes the network of so many channels; `None`: the first of `NETWORKS` that the class supports.
    """

    def __init__(self, cls: type[Attributor], options: dict[str, Any], network: Build | None = None) -> None:
        self.cls = cls
        self.options = {**cls.facts.tags["small"], **options}
        fit = (build for build in NETWORKS if cls.supports(Model(build().eval())) is None)
        self.build = network or next(fit, Detector)

    def network(self, channels: int = 3) -> nn.Module:
        """A network that finds the objects of `images`, in evaluation mode."""
        return self.build(channels).eval()

    def images(self, n: int = 3, channels: int = 3, height: int = SIZE, width: int = SIZE) -> Tensor:
        """Grey noise with a red block in the upper left and a green one in the lower right."""
        generator = torch.Generator().manual_seed(7)
        x = 0.2 + 0.1 * torch.rand(n, 1, height, width, generator=generator).expand(-1, channels, -1, -1).clone()
        x[:, 0, : height // 2, : width // 2] += 0.6
        if channels > 1:
            x[:, 1, height // 2 :, width // 2 :] += 0.5
        return x

    def model(self, network: nn.Module | None = None, **more: Any) -> Model:
        """The network as a model."""
        return Model(network or self.network(), **{"bounds": (0.0, 1.0), **more})

    def make(self, model: Model | None = None, **more: Any) -> Attributor:
        """The attributor on a model."""
        return self.cls(model or self.model(), **{**self.options, **more})


def equal(a: Tensor, b: Tensor, message: str, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest value: float32 sums in another order."""
    scale = max(float(b.abs().max()), 1e-6)
    worst = float((a - b).abs().max()) / scale if a.shape == b.shape else float("inf")
    assert worst <= tolerance, f"{message}: they differ by {worst:.1e} of the largest value"


def check_shape(case: Case) -> None:
    """(N, 1, H, W), float32, finite, on the inputs' device."""
    x = case.images()
    maps = case.make().attribute(x, target=1)
    assert maps.shape == (3, 1, SIZE, SIZE), f"the map's shape is {tuple(maps.shape)}, not {(3, 1, SIZE, SIZE)}"
    assert maps.dtype == torch.float32, f"the map is {maps.dtype}, not float32"
    assert maps.device == x.device, "the map is on another device than the inputs"
    assert not maps.requires_grad, "the map carries a graph"
    assert bool(maps.isfinite().all()), "the map is not finite"


def check_batch_equals_singles(case: Case) -> None:
    """A batch gives what its images give one by one."""
    x = case.images()
    made = case.make()
    together = made.attribute(x, target=[1, 2, 1])
    alone = torch.cat([made.attribute(x[i : i + 1], target=t) for i, t in enumerate([1, 2, 1])])
    equal(together, alone, "a batch is not its images one by one")


def check_batch_size(case: Case) -> None:
    """Results do not depend on the batch size."""
    x = case.images()
    maps = [case.make(case.model(batch_size=n)).attribute(x, target=1) for n in (1, 7, 64)]
    equal(maps[1], maps[0], "batch sizes 7 and 1")
    equal(maps[2], maps[0], "batch sizes 64 and 1")


def check_repeatable(case: Case) -> None:
    """The same seed gives the same map, and the global generators are left alone."""
    x = case.images(2)
    made, other = case.make(), case.make()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    first = made.attribute(x, target=1)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    assert torch.equal(before[0], after[0]), "torch's global generator was used"
    assert np.array_equal(before[1], after[1]), "numpy's global generator was used"
    assert before[2] == after[2], "Python's global generator was used"
    equal(other.attribute(x, target=1), first, "two runs with one seed", 1e-6)
    if case.cls.facts.tags["stochastic"]:
        reseeded = case.make(seed=1).attribute(x, target=1)
        assert not torch.equal(reseeded, first), "it is registered as stochastic, but another seed gives the same map"


def check_model_untouched(case: Case) -> None:
    """The caller's network is as it was, also after an exception."""
    network = case.network().train()
    for module in network.modules():  # no two alike: all of it must be put back
        if isinstance(module, nn.Dropout):
            module.eval()
    next(network.parameters()).requires_grad_(False)
    before = _state(network)
    made = case.make(case.model(network))
    made.attribute(case.images(), target=1)
    assert _state(network) == before, "the network was changed"

    def fail(_: Any) -> Tensor:
        raise KeyError("on purpose")

    try:
        made.attribute(case.images(), target=fail)
    except KeyError:
        pass
    except ValueError as error:
        assert "callable" in str(error), f"a callable target that fails gave {error!r}"  # noqa: PT017  it refuses them all
    else:
        # what does not look at the target cannot fail with it
        assert not case.cls.facts.tags["targeted"], "an exception in the target was swallowed"
    assert _state(network) == before, "the network was changed by a run that failed"


def _state(network: nn.Module) -> Any:
    """All that a caller could see of a network."""
    tensors = {k: v.clone() for k, v in network.state_dict().items()}
    return (
        {
            n: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in network.named_modules()
        },
        {n: (p.requires_grad, p.grad is None, id(p)) for n, p in network.named_parameters()},
        {n: t.numpy().tobytes() for n, t in tensors.items()},
    )


def check_targets(case: Case) -> None:
    """Every form of target says the same, and None is the class that the network names."""
    x = case.images()
    made = case.make()
    expected = made.attribute(x, target=1)
    forms: list[Any] = [
        [1, 1, 1],
        torch.tensor([1, 1, 1]),
        torch.tensor(1),
        np.int64(1),
        (1,),
        [(1,), (1,), (1,)],
    ]
    for form in forms:
        equal(made.attribute(x, target=form), expected, f"target={form!r}", 1e-6)
    if made.output == "logit":
        equal(made.attribute(x, target=lambda out: out[:, 1]), expected, "a callable target", 1e-6)
    with torch.no_grad():
        named = case.network()(x).argmax(1)
    equal(made.attribute(x), made.attribute(x, target=named), "target=None", 1e-6)
    if not case.cls.facts.tags["targeted"]:
        equal(made.attribute(x, target=2), expected, "targets 1 and 2 of a method that is the same for all", 1e-6)


def check_shapes(case: Case) -> None:
    """Non-square, one-channel and tiny images run."""
    for channels, height, width in ((3, 12, 20), (3, 21, 13), (1, SIZE, SIZE), (3, 8, 8)):
        model = case.model(case.network(channels))
        maps = case.make(model).attribute(case.images(2, channels, height, width), target=1)
        assert maps.shape == (2, 1, height, width), f"{channels} x {height} x {width} gave {tuple(maps.shape)}"


def check_activations(case: Case) -> None:
    """In-place, functional and reused activations give what plain ones give."""
    if case.build is not Detector:
        return
    x = case.images(2)
    # the layer in front of an activation: what an in-place one would overwrite
    more: dict[str, Any] = {"layer": "norm"} if "layer" in case.cls.facts.needs else {}
    expected = case.make(**more).attribute(x, target=1)
    for style in ("inplace", "functional", "reused"):
        network = Detector(style=style).eval()
        equal(case.make(case.model(network), **more).attribute(x, target=1), expected, f"{style} activations")


def check_finds_object(case: Case) -> None:
    """The object is found: a pixel on it comes before one beside it far more often than by chance.

    A method whose map is the same for every target finds both objects.
    """
    if not case.cls.facts.tags["localizes"]:
        return
    x = case.images()
    both = not case.cls.facts.tags["targeted"]
    for target, place in ((1, (slice(None, SIZE // 2),) * 2), (2, (slice(SIZE // 2, None),) * 2)):
        maps = case.make().attribute(x, target=target)[:, 0]
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inside[place] = True
        inside |= both * inside.flip(0, 1)
        for one in maps:
            on, off = one[inside][:, None], one[~inside][None, :]
            order = float((on > off).double().mean() + 0.5 * (on == off).double().mean())
            assert order > 0.8, f"class {target}: an object pixel comes first in {order:.0%} of pairs only"


def check_dummy(case: Case) -> None:
    """What the score does not depend on gets nothing; a control cannot know it."""
    if case.cls.facts.tags["blind"]:
        return
    x = case.images(2)
    linear = nn.Linear(3 * SIZE * SIZE, 2, bias=False)
    network = nn.Sequential(nn.Flatten(), linear, nn.ReLU())  # of scores that are not negative: some need a rectifier
    weight = torch.zeros(2, 3, SIZE, SIZE)
    weight[0, :, :, : SIZE // 2] = 0.5
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
    if case.cls.facts.needs & {"layer", "attention"} or case.cls.supports(case.model(network)) is not None:
        return
    maps = case.make(case.model(network), output="logit").attribute(x, target=0)[:, 0]
    if case.cls.facts.tags["offset"]:
        maps = maps - maps[:, :, SIZE - SIZE // 4 :].mean((1, 2), keepdim=True)
    # away from the border between the halves, which coarse maps blur: by half the image's quarter
    far = maps[:, :, SIZE - SIZE // 4 :].abs().mean()
    near = maps[:, :, : SIZE // 2].abs().mean()
    assert float(far) <= 0.15 * float(near), (
        f"pixels that mean nothing get {float(far / near):.0%} of what the others get"
    )


def check_complete(case: Case) -> None:
    """Where completeness is claimed, the map sums to the difference of the scores."""
    if not case.cls.facts.tags["complete"]:
        return
    x = case.images().double()
    network: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)).double()
    if case.cls.supports(case.model(network)) is not None:
        network = case.network().double()
    made = case.make(case.model(network), output="logit")
    total = made.attribute(x, target=1).sum((1, 2, 3))
    with torch.no_grad():
        difference = network(x)[:, 1] - network(torch.zeros_like(x))[:, 1]
    equal(total, difference, "the sum of the map and the difference of the scores", 1e-6)


def check_double(case: Case) -> None:
    """Float64 runs, gives float64, and agrees with float32."""
    x = case.images(2)
    maps = case.make(case.model(case.network().double())).attribute(x.double(), target=1)
    assert maps.dtype == torch.float64, f"float64 inputs gave {maps.dtype}"
    equal(maps.float(), case.make().attribute(x, target=1), "float64 and float32")


def check_cost(case: Case) -> None:
    """What is spent is what `cost` says."""
    x = case.images()
    made = case.make()
    found = made.explain(x, target=1)
    expected = case.cls.cost((3, SIZE, SIZE), **made.params)
    if case.cls.facts.tags["at_most"]:
        spent = found.forwards + found.backwards
        assert int(spent.max()) <= sum(expected), f"{spent.tolist()} evaluations, at most {sum(expected)} promised"
        return
    assert found.forwards.tolist() == [expected.forwards] * 3, (
        f"{found.forwards.tolist()} forwards, {expected} promised"
    )
    assert found.backwards.tolist() == [expected.backwards] * 3, (
        f"{found.backwards.tolist()} backwards, {expected} promised"
    )


def check_round_trip(case: Case) -> None:
    """`params`, `repr`, equality and pickle."""
    made = case.make()
    assert case.cls(made.model, **made.params) == made, "its params do not make it again"
    assert pickle.loads(pickle.dumps(made)) == made, "a pickled copy differs"  # noqa: S301  our own bytes
    assert made.with_model(case.model()) == made, "with_model changes the configuration"
    assert hash(copy.copy(made)) == hash(made), "its hash is not that of a copy"
    assert made.name in repr(made), "its repr does not name it"


def check_other_kinds(case: Case) -> None:
    """On tables and tokens, where it runs on them: maps of their shape, and the column or token that decides stands out."""
    x = 0.5 + torch.rand(3, 6, generator=torch.Generator().manual_seed(3))
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.5, 0.0])

    def rectified(score: Tensor) -> Tensor:  # where it never is: some methods need a rectifier
        return score.clamp_min(-99.0)

    networks: dict[Kind, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
        "table": (x, lambda x: torch.stack([rectified(x @ weight), 0 * x[:, 0]], 1)),
        "tokens": (
            x[:, :, None].expand(-1, -1, 4),
            lambda x: torch.stack([rectified(x.mean(2) @ weight), 0 * x[:, 0, 0]], 1),
        ),
    }
    for kind, (inputs, network) in networks.items():
        if kind not in case.cls.facts.tags["kinds"]:
            continue
        model = Model(network, kind=kind, bounds=None)
        if case.cls.supports(model) is not None:
            continue
        made = case.make(model, output="logit")
        maps = made.attribute(inputs, target=0)
        assert maps.shape == inputs.shape, f"{kind} of shape {tuple(inputs.shape)} gave {tuple(maps.shape)}"
        first = maps.reshape(3, 6, -1).sum(2).argmax(1)
        seen = bool((first == 1).all()) or case.cls.facts.tags["blind"]
        assert seen, f"{kind}: column 1 decides, and {first.tolist()} come first"
        equal(made.attribute(inputs[1:2], target=0), maps[1:2], f"a batch of {kind} is not its inputs one by one")


def check_layers(case: Case) -> None:
    """It runs at inner layers with maps of the image's size, or refuses in a sentence."""
    x = case.images(2)
    if case.cls.layers == "none":
        try:
            case.make(at="final")
        except ValueError:
            return
        raise AssertionError("it does not run at layers, and at='final' was accepted")
    for at in ("middle", "final"):
        made = case.make(at=at)
        try:
            found = made.explain(x, target=1)
        except ValueError:
            if at == "middle":  # after the last layer there may be nothing that the method works on
                raise
            continue
        assert found.maps.shape == (2, 1, SIZE, SIZE), f"at={at!r} gave {tuple(found.maps.shape)}"
        assert found.details.get("layer"), f"at={at!r}: details do not name the layer"
        equal(made.attribute(x[1:], target=1), found.maps[1:], f"at={at!r}: a batch is not its images one by one")


def check_smooth(case: Case) -> None:
    """`smooth` blurs the map and nothing else."""
    x = case.images(2)
    plain, smoothed = (case.make(smooth=s).attribute(x, target=1) for s in (0.0, 1.5))
    equal(smoothed, gaussian_blur(plain, 1.5), "smooth=1.5 is not the blurred map")


def check_bad_input(case: Case) -> None:
    """NaN, integers, wrong ranks and targets out of range are refused."""
    x = case.images(2)
    bad: list[tuple[Any, Any]] = [
        (x * float("nan"), 1),
        ((x * 255).to(torch.uint8), 1),
        (x[0], 1),
        (x[:0], 1),
        (x, 3),
        (x, [1]),
        (x, 1.5),
    ]
    for inputs, target in bad:
        try:
            case.make().attribute(inputs, target=target)
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"inputs {tuple(inputs.shape)} {inputs.dtype} with target={target!r} were accepted")


CHECKS: dict[str, Check] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}


def checks(
    attributor: str | type[Attributor], *, network: Build | None = None, **options: Any
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The conformance checks of one attributor, by name, for `pytest.mark.parametrize`.

    Args:
        attributor: A registered name, or a registered class.
        network: A function of the number of channels that makes the network to check it on, of three classes: class 1 is
            what is red, class 2 what is green. `None`: the first of `NETWORKS` that the method supports.
        options: Hyper-parameters to check it with; the default is what was registered as `small`.
    """
    cls = REGISTRY.find(attributor) if isinstance(attributor, str) else attributor
    case = Case(cls, options, network)
    for name, function in CHECKS.items():
        yield name, lambda function=function: function(case)  # type: ignore[misc]


def check(attributor: str | type[Attributor], *, network: Build | None = None, **options: Any) -> list[str]:
    """Run the whole conformance suite on one attributor; a few seconds on tiny networks.

    Args:
        attributor: A registered name, or a registered class.
        network: A function of the number of channels that makes the network to check it on, of three classes: class 1 is
            what is red, class 2 what is green. `None`: the first of `NETWORKS` that the method supports.
        options: Hyper-parameters to check it with; the default is what was registered as `small`.

    Returns:
        The names of the checks that it passed.

    Raises:
        AssertionError: It broke some; the message names each and says how.

    Example:
        >>> "batch_equals_singles" in check("saliency")
        True
    """
    return run_all(str(attributor), checks(attributor, network=network, **options))


def run_all(subject: str, named: Iterable[tuple[str, Callable[[], None]]]) -> list[str]:
    """Run checks to the end and name all that failed.

    Raises:
        AssertionError: Some failed; the message names each and says how.
    """
    failures, passed = [], []
    for name, run in named:
        try:
            run()
        except AssertionError as error:
            failures.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001  whatever a stranger's code raises is the finding
            failures.append(f"{name}: {type(error).__name__}: {error}")
        else:
            passed.append(name)
    if failures:
        count = f"{len(failures)} of {len(failures) + len(passed)}"
        raise AssertionError(f"{subject} breaks {count} rules:\n" + "\n".join(failures))
    return passed

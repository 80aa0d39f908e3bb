"""B-cos networks: their contributions are complete, and only in explanation mode."""

import contextlib
import threading

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.conformance import DynamicLinearDetector
from torch import nn
from torch.nn import functional

# float64: rounding of sums of some hundred terms
FINE = 1e-10
BIAS = 1.7


class BcosConv(nn.Conv2d):
    """A convolution with normalised weights, the larger of two outputs, scaled by the cosine to the power B - 1."""

    def __init__(self, channels, features, size=3, b=2.0):
        super().__init__(channels, 2 * features, size, padding=size // 2, bias=False)
        self.b, self.detach = b, False

    def run(self, x):
        weight = self.weight / self.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        out = functional.conv2d(x, weight, padding=self.padding).unflatten(1, (-1, 2)).amax(2)
        size = (
            functional.conv2d(x.square().sum(1, keepdim=True), torch.ones_like(weight[:1, :1]), padding=1) + 1e-6
        ).sqrt()
        scale = ((out / size).abs() + 1e-6) ** (self.b - 1)
        return out * (scale.detach() if self.detach else scale)

    forward = run


class Second(BcosConv):
    """As networks of the second generation have it."""

    def set_explanation_mode(self, on):
        self.detach = on


class First(BcosConv):
    """As networks of the first generation have it."""

    def explanation_mode(self, detach=True):
        self.detach = detach


class Norm(nn.Module):
    """Divides by the deviation over the image, without centring."""

    def __init__(self):
        super().__init__()
        self.detach = False

    def set_explanation_mode(self, on):
        self.detach = on

    explanation_mode = None  # a name that is no function

    def forward(self, x):
        size = (x.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return x / (size.detach() if self.detach else size)


class Bcos(nn.Module):
    """Two layers, global pooling, the logits' bias and temperature."""

    def __init__(self, layer=Second, norm=Norm, channels=6, classes=4, b=2.0):
        super().__init__()
        self.one, self.norm, self.two = layer(channels, 5, b=b), norm(), layer(5, classes, b=b)

    def forward(self, x):
        return self.two(self.norm(self.one(x))).mean((2, 3)) * 7 + BIAS


class Switched(Bcos):
    """A network whose mode is a context manager of its own and nothing else."""

    def __init__(self):
        super().__init__(BcosConv, nn.Identity)

    @contextlib.contextmanager
    def explanation_mode(self):
        layers = (self.one, self.two)
        for layer in layers:
            layer.detach = True
        try:
            yield
        finally:
            for layer in layers:
                layer.detach = False


class Root(Bcos):
    """The second generation whole: modules that can be switched, and a context manager over all of them."""

    @contextlib.contextmanager
    def explanation_mode(self):
        raise AssertionError("the modules say it themselves")
        yield


class FirstRoot(Bcos):
    """The first generation, with a context manager over all of it."""

    def __init__(self):
        super().__init__(First, nn.Identity)

    @contextlib.contextmanager
    def explanation_mode(self):
        raise AssertionError("the modules say it themselves")
        yield


def first():
    return Bcos(First, nn.Identity)


BUILD = {
    "second": Bcos,
    "first": first,
    "manager": Switched,
    "root": Root,
    "first_root": FirstRoot,
    "power": lambda: Bcos(b=1.6),
}


@pytest.fixture
def network(networks):
    def make(name="second", **more):
        return networks.quiet(lambda: networks.lively(BUILD[name](**more))).double()

    return make


@pytest.fixture
def six(images):
    """Colours and their inverses."""

    def make(n=3, **more):
        x = images(n, dtype=torch.float64, **more)
        return torch.cat([x, 1 - x], 1)

    return make


def close(found, wanted, tolerance=FINE):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    worst = float((found - wanted).abs().max())
    assert worst <= tolerance * max(float(wanted.abs().max()), 1e-12), worst


@pytest.mark.parametrize("name", BUILD)
def test_contributions_sum_to_the_logit_without_its_bias(network, six, name):
    x = six()
    made = attribution.create("bcos", network(name))
    for target in range(4):
        found = made.explain(x, target)
        close(found.maps.sum((1, 2, 3)), found.scores - BIAS)
        close(found.details["remainder"], torch.full((3,), BIAS, dtype=torch.float64))
        assert found.forwards.tolist() == found.backwards.tolist() == [1] * 3


@pytest.mark.parametrize("name", ["second", "root", "power"])
def test_without_the_mode_they_do_not(network, six, name):
    """Input times gradient of the same network: the gradients of the cosines and of the norm are in it."""
    found = attribution.create("input_x_gradient", network(name)).explain(six(), 1)
    off = (found.maps.sum((1, 2, 3)) - found.scores + BIAS) / (found.scores - BIAS)
    assert float(off.abs().min()) > 0.05


@pytest.mark.parametrize("name", ["first", "manager"])
def test_a_network_without_norms_sums_to_the_logit_in_both_modes_and_the_maps_differ(network, six, name):
    """A cosine does not change with the length of its input, so the network is homogeneous: completeness proves nothing."""
    found, plain = (attribution.create(n, network(name)).explain(six(), 1) for n in ("bcos", "input_x_gradient"))
    # the norms' 1e-6 beside sums of squares of order one
    close(plain.maps.sum((1, 2, 3)), found.maps.sum((1, 2, 3)), 1e-5)
    assert float((plain.maps - found.maps).abs().max()) > 0.05 * float(found.maps.abs().max())


def test_it_is_the_row_of_the_matrix_that_the_network_applies(network, six):
    """The network's own W(x) by hand: every layer as a matrix with the scale that it had on this input."""
    net, x = network("manager"), six(1)
    identity = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
    scales = {}

    class Fixed(nn.Module):
        """One layer, its choices and scales frozen at what x made them."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, z, at=None):
            weight = self.layer.weight / self.layer.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            out = functional.conv2d(z, weight, padding=1).unflatten(1, (-1, 2))
            if at is None:  # on x itself
                scales[self.layer] = (out.argmax(2, keepdim=True), self.layer(z) / out.amax(2))
            choice, scale = scales[self.layer]
            return out.gather(2, choice.expand(len(z), *choice.shape[1:])).squeeze(2) * scale

    with torch.no_grad():
        one, two = Fixed(net.one), Fixed(net.two)
        assert torch.allclose(two(one(x)), net.two(net.one(x)))
        matrix = two(one(identity, at=x), at=x).mean((2, 3)) * 7
    for target in range(4):
        found = attribution.create("bcos", net, channels="keep").attribute(x, target)
        close(found, matrix[:, target].reshape(x.shape) * x)


def test_the_margin_is_linear_too_and_nothing_else_is(network, six):
    found = attribution.create("bcos", network(), output="margin").explain(six(), 2)
    close(found.maps.sum((1, 2, 3)), found.scores)  # the biases are the same
    for output in ("probability", "log_probability"):
        with pytest.raises(ValueError, match=f"bcos: output='{output}' is not linear"):
            attribution.create("bcos", network(), output=output)


def test_the_normalisation_is_the_models(network, six):
    """By the model or by hand: the contributions are those of what the network sees."""
    net, x = network(), six()
    mean, std = [0.5, 0.4, 0.3, 0.5, 0.6, 0.7], [0.25, 0.5, 1.0, 1.0, 0.5, 0.25]
    model = Model(net, mean=mean, std=std)
    seen = (x - torch.tensor(mean).double().reshape(1, 6, 1, 1)) / torch.tensor(std).double().reshape(1, 6, 1, 1)
    found = attribution.create("bcos", model, channels="keep").attribute(x, 1)
    # the mean goes through float32
    close(found, attribution.create("bcos", net, channels="keep").attribute(seen, 1), 1e-6)


def test_inverses_made_inside_the_network_show_in_the_remainder(network, six):
    inner = network()

    class Inverses(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(torch.cat([x, 1 - x], 1))

    x = six()[:, :3]
    remainder = attribution.create("bcos", Inverses()).explain(x, 1).details["remainder"]
    assert float(remainder.std()) > 1e-2


@pytest.mark.parametrize("name", BUILD)
def test_the_callers_network_stays_out_of_the_mode(network, six, untouched, name):
    net = network(name)
    before = untouched(net)
    outside = attribution.create("input_x_gradient", net)
    wanted = outside.attribute(six(), 1)
    made = attribution.create("bcos", outside.model)
    made.attribute(six(), 1)
    before.check()
    assert not any(getattr(m, "detach", False) for m in net.modules())
    close(outside.attribute(six(), 1), wanted)  # nor does the model's own copy keep it
    with pytest.raises(KeyError):
        made.attribute(six(), lambda _: {}["on purpose"])
    before.check()
    assert not any(getattr(m, "detach", False) for m in net.modules())


def test_the_copy_is_made_once_and_anew_when_the_network_was_trained_on(network, six):
    net, x = network(), six()
    made = attribution.create("bcos", net)
    first_map = made.attribute(x, 1)
    copy = made.model._splits["variant", "explanation mode"][1]
    made.attribute(x, 2)
    assert made.model._splits["variant", "explanation mode"][1] is copy
    with torch.no_grad():
        net.two.weight.mul_(torch.linspace(0.5, 2, 5, dtype=torch.float64).reshape(1, 5, 1, 1))
    found = made.explain(x, 1)
    assert made.model._splits["variant", "explanation mode"][1] is not copy
    assert not torch.allclose(found.maps, first_map)
    close(found.maps.sum((1, 2, 3)), net(x)[:, 1].detach() - BIAS)


def test_batches_and_their_size_change_nothing(network, six):
    x, target = six(5), [0, 1, 2, 3, 0]
    wanted = attribution.create("bcos", Model(network(), batch_size=100)).attribute(x, target)
    close(attribution.create("bcos", Model(network(), batch_size=2)).attribute(x, target), wanted)
    close(attribution.create("bcos", network()).attribute(x[2:3], 2), wanted[2:3])


def test_other_networks_are_refused_in_a_sentence(networks, images):
    with pytest.raises(ValueError, match="bcos does not run on this model: it needs a B-cos network"):
        attribution.create("bcos", networks.cnn())
    assert "bcos" not in attribution.available(model=networks.cnn())
    assert "bcos" in attribution.available(model=DynamicLinearDetector())
    with pytest.raises(ValueError, match="B-cos"):
        attribution.create("bcos", Model(lambda x: x.flatten(1)[:, :2]))


def test_a_network_that_cannot_be_copied_is_refused(network, six):
    net = network()
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match="explanation mode needs a private copy of the network"):
        attribution.create("bcos", net).attribute(six(), 1)


def test_a_variant_pays_to_its_model_and_takes_its_further_arguments(networks, images, untouched):
    """`Model.variant` by itself."""
    net, x = networks.conditioned(), images(3)
    before = untouched(net)
    model = Model(net, mean=0.2, forward={"extra": torch.eye(3)[:, :2]}, activation="sigmoid")
    calls = []

    def change(copied):
        calls.append(copied)
        copied.fc.weight = nn.Parameter(2 * copied.fc.weight, requires_grad=False)

    target = model.resolve(x, 1)
    plain = model.outputs(x)
    with model.ledger(3) as ledger:
        rows = torch.tensor([2, 0])
        scores, gradients = model.variant("doubled", change).gradients(x[rows], target.take(rows), output="probability")
    bias = net.fc.bias[1].detach()
    # float32, ours in other orders: some ulp of 6e-8
    torch.testing.assert_close(scores, (2 * plain[rows, 1] - bias).sigmoid(), rtol=1e-5, atol=1e-6)
    _, wanted = model.gradients(x[rows], target.take(rows))
    torch.testing.assert_close(
        gradients, 2 * wanted * (scores * (1 - scores)).reshape(-1, 1, 1, 1), rtol=1e-4, atol=1e-7
    )
    assert ledger.forwards.tolist() == ledger.backwards.tolist() == [1, 0, 1]
    assert model.variant("doubled", change) is model.variant("doubled", change)
    assert len(calls) == 1
    assert model.variant("other", lambda _: None) is not model.variant("doubled", change)
    before.check()


def test_smoothing_works_on_it_too(network, six):
    net, x = network(), six(2)
    found = attribution.create("smoothgrad", net, method="bcos", samples=3).explain(x, 1)
    assert found.forwards.tolist() == found.backwards.tolist() == [3, 3]
    assert found.maps.shape == (2, 1, 8, 8)

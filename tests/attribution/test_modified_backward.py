"""Guided backpropagation and deconvnets: their rule by hand, on every rectifier, and captum and zennit as oracles."""

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from captum import attr as captum
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")  # captum says so on every call

METHODS = ("guided_backprop", "deconvnet")
# float64: sums in another order
FINE = 1e-10


def maps(method, network, x, target=0, **more):
    return attribution.create(method, network, channels="keep", **more).attribute(x, target)


def close(found, wanted, tolerance=FINE):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


class Of(nn.Module):
    """A network from a function of its parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def table(network):
    return Model(network, kind="table", bounds=None)


def layer(weight, bias=None):
    weight = torch.tensor(weight, dtype=torch.float64)
    made = nn.Linear(*weight.shape[::-1], bias=bias is not None).double()
    made.weight.data = weight
    if bias is not None:
        made.bias.data = torch.tensor(bias, dtype=torch.float64)
    return made


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_one_relu_by_hand():
    """Units z = (1, -1, 2) hand back (3, 1, -2): guided keeps the first, deconv the first two, the gradient the outer two."""
    network = nn.Sequential(layer([[1.0, 0], [0, 1], [1, 1]], [0, -2, 0]), nn.ReLU(), layer([[3.0, 1, -2]]))
    x = torch.tensor([[1.0, 1]], dtype=torch.float64)
    assert maps("guided_backprop", table(network), x).tolist() == [[3.0, 0.0]]
    assert maps("deconvnet", table(network), x).tolist() == [[3.0, 1.0]]
    assert attribution.create("gradient", table(network)).attribute(x, 0).tolist() == [[1.0, -2.0]]


def test_a_skip_around_a_rectifier_keeps_its_own_gradient():
    """y = -h - 2 relu(h), h = 3: the rectifier hands back relu(-2) = 0, the skip -1; hooks on h would clamp the sum."""
    network = Of(lambda m, x: -x - m.out(m.act(x)), act=nn.ReLU(), out=layer([[2.0]]))
    x = torch.tensor([[3.0]], dtype=torch.float64)
    for method in METHODS:
        assert maps(method, table(network), x).tolist() == [[-1.0]]
    # what captum does, and why it is no oracle for pre-activation networks: it clamps the skip's gradient with the rest
    theirs = captum.GuidedBackprop(network).attribute(x.clone().requires_grad_(), target=0)
    assert theirs.tolist() == [[0.0]]
    up = Of(lambda m, x: x + m.out(m.act(x)), act=nn.ReLU(), out=layer([[2.0]]))
    assert [maps(m, table(up), -x).tolist() for m in METHODS] == [[[1.0]], [[3.0]]]


SMOOTH = {
    "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "elu": nn.ELU(), "selu": nn.SELU(),
    "celu": nn.CELU(), "mish": nn.Mish(), "softplus": nn.Softplus(), "hardswish": nn.Hardswish(),
    "leaky_relu": nn.LeakyReLU(0.1), "prelu": nn.PReLU().double(), "rrelu": nn.RReLU().eval(), "relu": nn.ReLU(),
    "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(), "threshold": nn.Threshold(0.5, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_every_rectifier_hands_back_what_is_positive_times_its_slope(name):
    act = SMOOTH[name]
    x = torch.linspace(-4, 8, 49, dtype=torch.float64)[None]
    weight = torch.randn(49, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = table(Of(lambda m, x: (m.act(x) * weight).sum(1, keepdim=True), act=act))
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(act(leaf).sum(), leaf)
    close(maps("guided_backprop", network, x), slope * weight.relu())
    close(maps("deconvnet", network, x), weight.relu()[None])


@pytest.mark.parametrize(
    "gate",
    [
        torch.sigmoid, torch.tanh, functional.hardsigmoid, functional.softsign, lambda x: x.softmax(1),
        lambda x: functional.softshrink(x), lambda x: x.clamp(max=0.3), lambda x: x.clamp_max(0.3),
    ],
)  # fmt: skip
def test_gates_are_no_rectifiers(gate):
    """Beside one rectifier that is always open, they have their ordinary gradient."""
    weight = torch.tensor([1.0, -1, 2, -3], dtype=torch.float64)

    def run(x):
        return ((gate(x) * weight).sum(1) + (x[:, 0] + 9).relu())[:, None]

    x = torch.tensor([[0.1, -0.4, 0.9, -2]], dtype=torch.float64)
    for method in METHODS:
        found = attribution.create(method, table(run), channels="keep").explain(x, 0)
        close(found.maps, attribution.create("gradient", table(run)).attribute(x, 0))
        assert found.details["activations"] == 1


@pytest.mark.parametrize(
    "act",
    [lambda x: x.clamp(0), lambda x: x.clip(min=0), lambda x: x.clamp_min(0), lambda x: torch.clamp(x, 0, 6)],
)
def test_a_clamp_with_a_lower_limit_is_a_rectifier(act):
    x = torch.tensor([[1.0, -1, 2]], dtype=torch.float64)
    weight = torch.tensor([-1.0, 1, 3], dtype=torch.float64)
    network = table(lambda x: (act(x) * weight).sum(1, keepdim=True))
    assert maps("guided_backprop", network, x).tolist() == [[0.0, 0.0, 3.0]]
    assert maps("deconvnet", network, x).tolist() == [[0.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    "act",
    [
        lambda x: torch.maximum(x, torch.zeros_like(x)), lambda x: torch.max(x, torch.zeros(())),
        lambda x: torch.maximum(torch.zeros(3, dtype=x.dtype), x), lambda x: x.maximum(x.new_zeros(1)),
        lambda x: x.max(other=x.new_zeros(1)), lambda x: torch.max(input=x.new_zeros(1), other=x),
        lambda x: torch.fmax(x, nn.Parameter(x.new_zeros(3))),
    ],
)  # fmt: skip
def test_the_larger_of_a_tensor_and_a_constant_is_a_rectifier(act):
    x = torch.tensor([[1.0, -1, 2]], dtype=torch.float64)
    weight = torch.tensor([-1.0, 1, 3], dtype=torch.float64)
    network = table(lambda x: (act(x) * weight).sum(1, keepdim=True))
    assert maps("guided_backprop", network, x).tolist() == [[0.0, 0.0, 3.0]]
    assert maps("deconvnet", network, x).tolist() == [[0.0, 1.0, 3.0]]


def test_a_constant_that_is_wider_takes_the_sum_of_what_comes_back():
    """One unit against three limits: each copy is a rectifier, and what they hand back adds up."""
    x, limits = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0.0, 1, 3], dtype=torch.float64)
    weight = torch.tensor([5.0, -7, 11], dtype=torch.float64)
    network = table(lambda x: (torch.maximum(x, limits) * weight).sum(1, keepdim=True))
    assert maps("guided_backprop", network, x).tolist() == [[5.0]]
    assert maps("deconvnet", network, x).tolist() == [[16.0]]


@pytest.mark.parametrize(
    "choice",
    [
        lambda x: torch.maximum(x, -2 * x), lambda x: torch.maximum(x, torch.full_like(x, -torch.inf)),
        lambda x: torch.minimum(x, x.new_zeros(1)), lambda x: x.max(1, keepdim=True).values, lambda x: x.max(),
    ],
)  # fmt: skip
def test_a_choice_between_two_that_depend_is_no_rectifier(choice):
    x = torch.tensor([[1.0, -1, 2]], dtype=torch.float64)
    network = table(lambda x: ((x[:, 0] + 9).relu() - choice(x).sum(-1))[:, None])
    for method in METHODS:
        found = attribution.create(method, network, channels="keep").explain(x, 0)
        close(found.maps, attribution.create("gradient", network).attribute(x, 0))
        assert found.details["activations"] == 1


# -- what must not matter ----------------------------------------------------------------------------------------------


def written(style, act=functional.relu, module=nn.ReLU):
    """The same network of two rectifiers with a batch norm, a pooling and a skip, written in several ways."""

    def run(m, x):
        def rectify(x, which):
            return act(x) if style == "functional" else (m.first if style == "reused" else which)(x)

        h = rectify(m.bn(m.conv1(x)), m.first)
        y = m.conv2(h)
        y += h
        y = rectify(y, m.second)
        return m.fc(functional.max_pool2d(y, 2).flatten(1))

    generator = torch.Generator().manual_seed(1)
    made = Of(
        run, conv1=nn.Conv2d(3, 4, 3, padding=1), bn=nn.BatchNorm2d(4), conv2=nn.Conv2d(4, 4, 3, padding=1),
        fc=nn.Linear(64, 3), first=module(inplace=style == "inplace"), second=module(inplace=style == "inplace"),
    )  # fmt: skip
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return made.double().eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("act", "module"), [(functional.relu, nn.ReLU), (functional.relu6, nn.ReLU6)])
@pytest.mark.parametrize("fast", [True, False])
def test_it_does_not_matter_how_a_rectifier_is_written(images, method, act, module, fast):
    x = images(2, dtype=torch.float64)
    styles = ("module", "inplace", "functional", "reused")
    found = [maps(method, Model(written(s, act, module), fast=fast), x, [0, 2]) for s in styles]
    for other in found[1:]:
        close(other, found[0])


@pytest.mark.parametrize("method", METHODS)
def test_with_positive_weights_and_inputs_it_is_the_gradient(images, method):
    network, x = written("functional"), images(2, dtype=torch.float64)
    for parameter in network.parameters():
        parameter.data.abs_()
    close(maps(method, network, x), attribution.create("gradient", network, channels="keep").attribute(x, 0))


def test_deconvnet_forgets_which_rectifiers_were_open(networks, images):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    networks.lively(network)
    found = maps("deconvnet", network, images(3))
    close(found[1], found[0], 1e-6)
    assert not torch.allclose(*maps("guided_backprop", network, images(3))[:2])


# -- oracles: networks whose activations come after everything else ----------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "vgg", "mlp"])
@pytest.mark.parametrize(
    ("method", "oracles"),
    [
        ("guided_backprop", (captum.GuidedBackprop, "GuidedBackprop")),
        ("deconvnet", (captum.Deconvolution, "DeconvNet")),
    ],
)
def test_they_are_captum_s_and_zennit_s(networks, images, name, method, oracles):
    from zennit import attribution as zennit
    from zennit import composites

    network, x, target = getattr(networks, name)().double(), images(2, dtype=torch.float64), torch.tensor([0, 2])
    found = maps(method, Model(network), x, target)
    close(found, oracles[0](network).attribute(x.clone().requires_grad_(), target=target).detach())
    one_hot = functional.one_hot(target, network(x).shape[1]).double()
    with zennit.Gradient(network, getattr(composites, oracles[1])()) as attributor:
        close(found, attributor(x.clone().requires_grad_(), one_hot)[1].detach())


def test_resnets_rectify_after_the_sum_so_captum_agrees(networks, images):
    network, x = networks.resnet().double(), images(2, dtype=torch.float64)
    theirs = captum.GuidedBackprop(network).attribute(x.clone().requires_grad_(), target=1)
    close(maps("guided_backprop", network, x, 1), theirs.detach())


def test_where_captum_has_the_plain_gradient_we_have_the_rule(images):
    """It looks for modules that are an nn.ReLU: functions and ReLU6 are passed by in silence."""
    x = images(2, dtype=torch.float64)
    for network in (written("functional"), written("module", functional.relu6, nn.ReLU6)):
        theirs = captum.GuidedBackprop(network).attribute(x.clone().requires_grad_(), target=0).detach()
        plain = attribution.create("gradient", network, channels="keep").attribute(x, 0)
        close(theirs, plain)
        assert float((maps("guided_backprop", network, x) - plain).abs().max()) > 0.1 * float(plain.abs().max())


# -- all networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_network_of_the_zoo_has_rectifiers(zoo, zoo_name, method):
    network, x = zoo.build(zoo_name), zoo.images(zoo_name)
    found = attribution.create(method, network).explain(x, [0, 3])
    assert found.details["activations"] > 0
    assert found.forwards.tolist() == found.backwards.tolist() == [1, 1]
    assert bool((found.maps.flatten(1).std(1) > 0).all())


def test_scores_and_normalisation_are_the_model_s(networks, images):
    """A probability's derivative is positive, so it only scales what comes back; the model's scale multiplies."""
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    plain = maps("guided_backprop", Model(network, mean=0.2, std=0.5), x, 1)
    inner = maps("guided_backprop", Model(network, bounds=None), (x - 0.2) / 0.5, 1)
    close(plain, inner / 0.5)
    single = nn.Sequential(network, layer([[1.0, 0, 0, 0, 0]]))
    score = single(x).detach()
    weight = (score.sigmoid() * (1 - score.sigmoid()))[:, :, None, None]
    found = maps("guided_backprop", Model(single, activation="sigmoid"), x, output="probability")
    close(found, weight * maps("guided_backprop", single, x))


# -- faults ------------------------------------------------------------------------------------------------------------


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_rectifiers_is_refused(networks, images, method):
    with pytest.raises(ValueError, match=f"{method} changes the way back through rectifiers, and none was met"):
        maps(method, networks.linear(3, 8, 8), images())
    with pytest.raises(ValueError, match="none was met"):
        maps(method, nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh()), images())


@pytest.mark.parametrize("method", METHODS)
def test_a_rectifier_that_torch_does_not_hand_over_is_refused(images, method):
    def hidden(x):
        return Hidden.apply(x.flatten(1).relu())

    def closed(x):
        with torch._C.DisableTorchFunction():
            out = torch.relu(x.flatten(1) - 0.5)
        return out.relu()

    for network, kind in ((hidden, "Hidden"), (closed, "Relu")):
        with pytest.raises(ValueError, match=f"{method} has no rule for the operation '{kind}'"):
            maps(method, Model(network), images())

"""Layer-wise relevance propagation: by hand, by the rules' formulas, against zennit and captum, and what is conserved."""

import copy
import math
import threading
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.relevance._lrp import WINNERS, Composite, Propagation, Within
from torch import nn
from torch.nn import functional

EXACT = 1e-9  # float64, a few layers: rounding alone
PRESETS = ["lrp", *(n for n in attribution.available("relevance/lrp_*"))]


def seeded(build, seed=0):
    """A network in float64 with random weights; the global generator is put back by the fixture."""
    torch.manual_seed(seed)
    return build().double().eval().requires_grad_(False)


def images(n=2, size=8, seed=0, channels=3):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=EXACT):
    """To a part of the largest value."""
    scale = float(expected.abs().max())
    assert scale > 0
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * scale


def run_with(name, network, x, target=0, *, mean=None, std=None, bounds=(0.0, 1.0), fast=True, kind="image", **options):
    model = Model(network, mean=mean, std=std, bounds=bounds, fast=fast, kind=kind)
    more = {"channels": "keep"} if kind == "image" and name != "pa_lrp" else {}
    return attribution.create(name, model, **more, **options).explain(x, target=target)


run = run_with


def cnn(bias=True):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 16, bias=bias),
        nn.ReLU(),
        nn.Linear(16, 4, bias=bias),
    )


# -- the rules, by their formulas ------------------------------------------------------------------------------------


def share(terms, bias):
    """Of each term in their sum; where there are none, nothing is handed on."""
    total = terms.sum() + bias
    return terms / total if total else terms


def by_formula(rule, x, w, b, r, *, epsilon=0.0, gamma=0.0, alpha=1.0):
    """One dense layer, unit by unit: what the inputs get of what the outputs have, `r`."""
    found = np.zeros_like(x)
    for j in range(len(r)):
        terms, bias = x * w[j], b[j]
        z = terms.sum() + bias
        up, down = terms.clip(min=0), terms.clip(max=0)
        if rule == "epsilon":
            found += terms / (z + (epsilon if z >= 0 else -epsilon)) * r[j]
        elif rule == "zplus":
            found += share(up, max(bias, 0)) * r[j]
        elif rule == "gamma":
            more = terms + gamma * (up if z > 0 else down)
            found += more / (more.sum() + bias + gamma * (max(bias, 0) if z > 0 else min(bias, 0))) * r[j]
        else:
            found += (alpha * share(up, max(bias, 0)) + (1 - alpha) * share(down, min(bias, 0))) * r[j]
    return found


@pytest.mark.parametrize(
    ("name", "options", "rule", "constants"),
    [
        ("lrp", {"epsilon": 0.3}, "epsilon", {"epsilon": 0.3}),
        ("lrp_gamma", {"gamma": 0.7}, "gamma", {"gamma": 0.7}),
        ("lrp_zplus", {}, "zplus", {}),
        ("lrp_alpha_beta", {"alpha": 2.0}, "alpha_beta", {"alpha": 2.0}),
    ],
)
def test_every_rule_is_its_formula_also_for_negative_inputs_and_outputs(name, options, rule, constants):
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = run(name, network, x, [0, 1, 2], bounds=None, kind="table", **options).maps
    layers = [m for m in network if isinstance(m, nn.Linear)]
    negative = 0
    for i, target in enumerate([0, 1, 2]):
        values, inside = x[i], []
        for layer in network:
            inside.append(values.detach().numpy())
            values = layer(values)
        r = np.zeros(3)
        r[target] = float(values[target])
        negative += float(values[target]) < 0
        for layer, given in zip(layers[::-1], inside[::-2], strict=True):  # an activation's relevance is its input's
            w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            r = by_formula(rule, given, w, b, r, **constants)
        close(found[i], torch.from_numpy(r))
    assert 0 < negative < 3


def test_two_layers_by_hand():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -1.0], [3.0, -0.5]]))
        network[2].weight.copy_(torch.tensor([[3.0, 0.5]]))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)  # z = (-1, 2), the score 1: all of it by 3 - 1
    for name, options, expected in [
        ("lrp", {"epsilon": 0}, [1.5, -0.5]),
        ("lrp_zplus", {}, [1.0, 0.0]),
        ("lrp_alpha_beta", {"alpha": 3.0}, [9.0, -6.0]),  # the upper layer has nothing negative: it triples the score
        ("lrp_gamma", {"gamma": 1.0}, [6 / 5, -1 / 5]),
        ("lrp", {"epsilon": 0.5}, [1.5 * (1 / 1.5) * (2 / 2.5), -0.5 * (1 / 1.5) * (2 / 2.5)]),
    ]:
        found = run(name, network, x, bounds=None, kind="table", **options)
        close(found.maps, torch.tensor([expected], dtype=torch.float64))


def by_windows(x, r, weight, share):
    """A convolution without padding, window by window: `share(window, weight)` gives the terms that share."""
    found = torch.zeros_like(x)
    size = weight.shape[-1]
    for k in range(weight.shape[0]):
        for i in range(r.shape[1]):
            for j in range(r.shape[2]):
                place = (slice(None), slice(i, i + size), slice(j, j + size))
                terms = share(x[place], weight[k], place)
                found[place] += terms / terms.sum() * r[k, i, j]
    return found


@pytest.mark.parametrize("first", ["z_box", "flat", "w_squared"])
def test_rules_for_pixels_window_by_window(first):
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 1)))
    x = images(1, 5)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).double(), torch.tensor([0.2, 0.3, 0.4]).double()
    found = run("lrp", network, x, mean=mean, std=std, first=first, epsilon=0).maps[0]

    def normal(values):
        return (values - mean[:, None, None]) / std[:, None, None]

    low, high = normal(torch.zeros(3, 5, 5).double()), normal(torch.ones(3, 5, 5).double())
    shares = {
        "z_box": lambda v, w, at: v * w - low[at] * w.clamp(min=0) - high[at] * w.clamp(max=0),
        "flat": lambda v, w, at: torch.ones_like(v),
        "w_squared": lambda v, w, at: w**2,
    }
    hidden = network[1](network[0](normal(x[0])[None]))[0].detach()
    r = hidden * network[3].weight[0].detach().reshape(hidden.shape)
    close(found, by_windows(normal(x[0]), r, network[0].weight.detach(), shares[first]))


# -- other libraries ---------------------------------------------------------------------------------------------------


def of_zennit(network, composite, x, target, *, seed=None):
    with composite.context(network) as changed:
        leaf = x.clone().requires_grad_()
        out = changed(leaf)
        start = torch.zeros_like(out)
        start[range(len(x)), target] = out.detach()[range(len(x)), target] if seed is None else seed
        (found,) = torch.autograd.grad(out, leaf, start)
    return found


def zennit_composites(low, high, **more):
    from zennit import composites

    tiny = {"stabilizer": 1e-14, **more}  # ours has none where terms of one sign are shared
    dense = {"epsilon": 1e-14, **tiny}
    return {
        "lrp_epsilon_plus": composites.EpsilonPlus(**dense),
        "lrp_epsilon_plus_flat": composites.EpsilonPlusFlat(**dense),
        "lrp_epsilon_gamma_box": composites.EpsilonGammaBox(low, high, gamma=0.25, **dense),
        "lrp_epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1(**dense),
        "lrp_epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat(**dense),
        "excitation_backprop": composites.ExcitationBackprop(zero_params=["bias"], **tiny),
    }


ZENNIT = [
    "lrp_epsilon_plus", "lrp_epsilon_plus_flat", "lrp_epsilon_gamma_box", "lrp_epsilon_alpha2_beta1",
    "lrp_epsilon_alpha2_beta1_flat", "excitation_backprop",
]  # fmt: skip


@pytest.mark.parametrize("name", ZENNIT)
def test_composites_are_zennit_s_on_a_plain_network(name):
    network, x = seeded(cnn), images(3) - 0.4
    oracle = zennit_composites(torch.full((1, 3, 8, 8), -0.4).double(), torch.full((1, 3, 8, 8), 0.6).double())[name]
    expected = of_zennit(copy.deepcopy(network), oracle, x, [0, 1, 2], seed=1.0 if "excitation" in name else None)
    epsilon = {} if name == "excitation_backprop" else {"epsilon": 1e-14}
    found = run(name, network, x, [0, 1, 2], bounds=(-0.4, 0.6), **epsilon).maps
    close(found, expected, 1e-7)  # its stabiliser, where few terms are small


@pytest.mark.parametrize("name", ZENNIT)
def test_composites_are_zennit_s_on_a_resnet_with_its_canonizer(name, zoo):
    from zennit.torchvision import ResNetCanonizer

    network = zoo.torchvision_resnet18().double()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var, norm.eps = norm.running_var + norm.eps, 0.0  # zennit merges a norm and leaves its eps behind
    x = zoo.images("torchvision_resnet18", 2, dtype=torch.float64)
    shape = (1, 3, *x.shape[2:])
    ends = torch.zeros(shape).double(), torch.ones(shape).double()
    oracle = zennit_composites(*ends, canonizers=[ResNetCanonizer()])[name]
    seed = 1.0 if "excitation" in name else None
    expected = of_zennit(copy.deepcopy(network), oracle, x, [0, 3], seed=seed)
    epsilon = {} if name == "excitation_backprop" else {"epsilon": 1e-14}
    close(run(name, network, x, [0, 3], **epsilon).maps, expected, 1e-6)  # its stabiliser, in many layers
    # the network's own batch norms, merged as they are met
    close(run(name, network, x, [0, 3], fast=False, **epsilon).maps, expected, 1e-6)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("lrp", {"epsilon": 1e-9}, "EpsilonRule"),
        ("lrp_gamma", {"gamma": 0.25}, "GammaRule"),
        ("lrp_zplus", {}, "Alpha1_Beta0_Rule"),
    ],
)
def test_plain_layers_are_captum_s(name, options, rule):
    """Without biases: captum's gamma leaves them as they are. It knows no negative inputs and no Flatten."""
    from captum.attr import LRP
    from captum.attr._utils import lrp_rules

    bare = {"bias": False}
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, **bare), nn.ReLU(), nn.Conv2d(5, 4, 6, **bare), nn.ReLU())
    )
    network[0].rule, network[2].rule = getattr(lrp_rules, rule)(), getattr(lrp_rules, rule)()
    x = images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = LRP(network).attribute(x, target=(1, 0, 0)).detach()
    found = run(name, network, x, (1, 0, 0), **options).maps
    close(found, expected, 1e-6)  # its stabiliser


# -- what is conserved, and what the limits are ------------------------------------------------------------------------


CONSERVING = [("lrp", {"epsilon": 0}), ("lrp_zplus", {}), ("lrp_gamma", {}), ("lrp", {"epsilon": 0, "first": "flat"}),
              ("lrp", {"epsilon": 0, "first": "w_squared"}), ("lrp", {"epsilon": 0, "first": "z_box"}),
              ("lrp_z_box", {}), ("lrp_epsilon_plus", {"epsilon": 0}), ("lrp_epsilon_gamma_box", {"epsilon": 0})]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), CONSERVING)
def test_without_biases_the_map_sums_to_the_score(name, options):
    network, x = seeded(lambda: cnn(bias=False)), images(3)
    made = run(name, network, x, [0, 1, 2], **options)
    assert made.details["relative_residual"].abs().max() <= EXACT
    assert torch.equal(made.details["residual"], made.scores - made.maps.flatten(1).sum(1))


@pytest.mark.parametrize("rule", ["epsilon", "zplus", "gamma"])
def test_every_layer_has_the_score_s_relevance(rule):
    sums = []

    class Watched(Propagation):
        def _met(self, *args, **more):
            out = super()._met(*args, **more)
            out.register_hook(lambda c: sums.append((c * out.detach()).flatten(1).sum(1)))
            return out

    network, x = seeded(lambda: cnn(bias=False)), images(2).requires_grad_()
    with Watched(Composite(rule, rule, epsilon=0.0), x) as rules:
        score = network(x)[:, 1]
    rules.check(score, x, "lrp", allowed=WINNERS)
    (found,) = torch.autograd.grad(score.sum(), x)
    assert len(sums) == 9  # four layers, three activations, two poolings
    for at in [*sums, found.flatten(1).sum(1)]:
        close(at, score.detach())


def test_biases_and_epsilon_keep_what_the_residual_says():
    network, x = seeded(cnn), images(3)
    made = run("lrp", network, x, [0, 1, 2], epsilon=0)
    lost = made.scores - made.maps.flatten(1).sum(1)
    assert torch.equal(made.details["residual"], lost)
    assert torch.equal(made.details["relative_residual"], lost / made.scores.abs())
    assert lost.abs().min() > 1e-3
    # a bias is an input of value 1: its relevance is bias times coefficient
    out = network.requires_grad_()(x)
    biases = [m.bias for m in network if getattr(m, "bias", None) is not None]
    grads = [torch.autograd.grad(out[i, i], biases, retain_graph=True) for i in range(3)]
    shares = torch.stack([sum((b * g).sum() for b, g in zip(biases, grad, strict=True)) for grad in grads])
    close(lost, shares.detach())


def test_without_biases_and_epsilon_it_is_input_times_gradient():
    network, x = seeded(lambda: cnn(bias=False)), images(2)
    more = {"mean": (0.375, 0.5, 0.625), "std": (0.25, 0.5, 0.125)}  # numbers that float32 has
    close(run("lrp", network, x, 1, epsilon=0, **more).maps, run("input_x_gradient", network, x, 1, **more).maps)
    near = run("lrp", network, x, 1, epsilon=1e-9, **more).maps
    close(near, run("input_x_gradient", network, x, 1, **more).maps, 1e-6)  # an epsilon of 1e-9 on outputs of 1e-3


def test_gamma_goes_from_epsilon_to_zplus():
    network, x = seeded(cnn), images(3)
    named = network(x).argmax(1).tolist()  # positive scores: below zero, gamma goes to the negative terms
    assert bool((network(x).amax(1) > 0).all())
    dense = {"dense": "gamma", "convolution": "gamma", "epsilon": 0}
    close(run("lrp", network, x, named, gamma=0, **dense).maps, run("lrp", network, x, named, epsilon=0).maps)
    plus = run("lrp", network, x, named, dense="zplus", convolution="zplus", epsilon=0).maps
    close(run("lrp", network, x, named, gamma=1e7, **dense).maps, plus, 1e-4)  # its error is of the order of 1 / gamma
    close(run("lrp_gamma", network, x, named, gamma=1e7).maps, run("lrp_zplus", network, x, named).maps, 1e-4)


def test_deep_taylor_is_the_box_and_zplus():
    network, x = seeded(cnn), images(2)
    plus = {"convolution": "zplus", "dense": "zplus", "epsilon": 0}
    found = run("lrp_z_box", network, x, 1).maps
    close(found, run("lrp", network, x, 1, first="z_box", **plus).maps)
    assert float((found - run("lrp", network, x, 1, **plus).maps).abs().max()) > 0.1 * float(found.abs().max())


def test_alpha_one_is_zplus():
    network, x = seeded(cnn), images(2) - 0.5
    plus = run("lrp_zplus", network, x, 2, bounds=None).maps
    close(run("lrp_alpha_beta", network, x, 2, bounds=None, alpha=1.0).maps, plus)
    # alpha close to 1 takes the other branch
    close(run("lrp_alpha_beta", network, x, 2, bounds=None, alpha=1.0 + 1e-9).maps, plus, 1e-6)


@pytest.mark.parametrize("name", ["lrp_zplus", "lrp_z_box", "excitation_backprop"])
def test_relevance_of_one_sign(name):
    network, x = seeded(cnn), images(6)
    for target in range(4):
        made = run(name, network, x, target)
        sign = 1 if name == "excitation_backprop" else made.scores.sign()[:, None, None, None]
        assert bool((made.maps * sign >= 0).all())
        assert made.maps.abs().max() > 0


def test_excitations_are_probabilities_whatever_the_score_s_sign():
    network, x = seeded(cnn), images(6)
    scores = network(x)[:, 1]
    assert bool((run("lrp", network, x, 1).scores - scores).abs().max() < EXACT)
    made = run("excitation_backprop", network, x, 1)
    for total in made.maps.flatten(1).sum(1):
        assert float(total) == pytest.approx(1, abs=EXACT)
    close(made.details["residual"] + made.maps.flatten(1).sum(1), torch.ones(6).double())


def test_a_sum_of_branches_has_the_sum_of_their_maps():
    class Sum(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x):
            return self.a(x) + self.b(x)

    a, b, x = seeded(cnn, 1), seeded(cnn, 2), images(2)
    for name in PRESETS:
        close(run(name, Sum(a, b), x, 2).maps, run(name, a, x, 2).maps + run(name, b, x, 2).maps)


def test_a_margin_is_two_scores():
    network, x = seeded(cnn), images(2)
    first, other = network(x).topk(2, 1).indices.T.tolist()
    found = run("lrp", network, x, first, output="margin").maps
    close(found, run("lrp", network, x, first).maps - run("lrp", network, x, other).maps)


# -- operations --------------------------------------------------------------------------------------------------------


ACTIVATIONS = {
    "relu": (nn.ReLU(), nn.ReLU(inplace=True), functional.relu, torch.relu_),
    "relu6": (nn.ReLU6(), nn.ReLU6(inplace=True), lambda x: x.clamp(0, 6)),
    "gelu": (nn.GELU(), functional.gelu, lambda x: x * (0.5 + torch.erf(x / math.sqrt(2)) / 2).detach()),
    "silu": (nn.SiLU(), nn.SiLU(inplace=True), lambda x: x * torch.sigmoid(x)),
    "hardswish": (nn.Hardswish(), nn.Hardswish(inplace=True), lambda x: x * functional.hardsigmoid(x)),
    "leaky_relu": (nn.LeakyReLU(0.1), lambda x: functional.leaky_relu_(x, 0.1)),
    "elu": (nn.ELU(), nn.ELU(inplace=True), functional.elu),
    "tanh": (nn.Tanh(), torch.tanh_),
    "prelu": (nn.PReLU(init=0.25).double(), nn.LeakyReLU(0.25)),
}


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_an_activation_s_relevance_is_its_input_s_however_it_is_written(name):
    class Net(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.first, self.last, self.act = nn.Linear(6, 8, bias=False), nn.Linear(8, 2, bias=False), act

        def forward(self, x):
            return self.last(self.act(self.first(x)))

    x = 3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = []
    for act in ACTIVATIONS[name]:
        network = seeded(lambda act=act: Net(act))
        made = run("lrp", network, x, 1, bounds=None, kind="table", epsilon=0)
        assert made.details["relative_residual"].abs().max() < EXACT
        maps.append(made.maps)
    for other in maps[1:]:
        close(other, maps[0])
    # and what the hidden units have is what they get of the score
    hidden = network.first(x)
    r = network.act(hidden.clone()) * network.last.weight[1]
    expected = torch.einsum("nj,nji->ni", r / hidden, x[:, None] * network.first.weight[None])
    close(maps[-1], expected.detach())


@pytest.mark.parametrize("act", [torch.sigmoid, functional.hardsigmoid, functional.softplus, torch.exp, torch.cos])
def test_what_a_function_has_at_zero_is_a_bias(act):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8, bias=False), nn.Linear(8, 2, bias=False)

        def forward(self, x):
            return self.last(act(self.first(x)))

    network = seeded(Net)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = run("lrp", network, x, 1, bounds=None, kind="table", epsilon=0)
    at_zero = act(torch.zeros((), dtype=torch.float64)) * network.last.weight[1].sum()
    close(made.details["residual"], at_zero.detach().expand(3), 1e-4)  # close to 0 it takes a slope a little away


def test_zero_before_an_activation_gives_its_slope_there():
    for act, slope in ((functional.gelu, 0.5), (lambda x: functional.leaky_relu(x, 0.25), 0.25), (torch.tanh, 1.0)):

        class Net(nn.Module):
            def forward(self, x, act=act):
                return act(x - x[:, :1]).sum(1, keepdim=True)

        x = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64)  # 0, 0 and 1 go into the activation
        found = run("lrp", Net(), x, bounds=None, kind="table", epsilon=0).maps
        last = float(act(torch.ones(1).double()))
        # the slope is that from 0 to a little below
        close(found, torch.tensor([[slope - (2 * slope + last), slope, 2 * last]]).double(), 1e-6)


def test_pooling_by_hand():
    x = torch.tensor([[[[1.0, 3.0], [2.0, 0.0]]]], dtype=torch.float64)
    flat = nn.Flatten()

    def run(*args, **more):
        return run_with(*args, bounds=None, **more)

    close(run("lrp", nn.Sequential(nn.MaxPool2d(2), flat), x).maps, torch.tensor([[[[0.0, 3], [0, 0]]]]).double())
    close(run("lrp", nn.Sequential(nn.AvgPool2d(2), flat), x, epsilon=0).maps, x / 4)
    close(run("lrp", nn.Sequential(nn.AvgPool2d(2), flat), x, epsilon=0.5).maps, x / 4 * 1.5 / 2)
    close(run("lrp", nn.Sequential(nn.AdaptiveMaxPool2d(1), flat), x).maps.sum(), torch.tensor(3.0).double())


class Gated(nn.Module):
    """Squeeze and excitation without biases, with the gate seen through views."""

    def __init__(self, gate=torch.sigmoid, *, last=True):
        super().__init__()
        self.last = last
        self.conv, self.squeeze, self.head = (
            nn.Conv2d(3, 4, 3, bias=False),
            nn.Linear(4, 4, bias=False),
            nn.Linear(4, 2, bias=False),
        )
        self.gate = gate

    def forward(self, x):
        x = self.conv(x).relu()
        gate = self.gate(self.squeeze(x.mean((2, 3)))).view(len(x), -1, 1, 1).expand_as(x)
        return self.head((x * gate if self.last else gate * x).mean((2, 3)))


@pytest.mark.parametrize(
    "gate",
    [
        torch.sigmoid,
        functional.hardsigmoid,
        lambda x: x.softmax(1),
        lambda x: functional.relu6(x + 3) / 6,
        lambda x: (x / 6 + 0.5).clamp(0, 1),
        lambda x: functional.hardtanh(x / 6 + 0.5, 0.0, 1.0),
        lambda x: torch.cat([x[:, :1].sigmoid(), x[:, 1:].softmax(1)], 1),
        lambda x: torch.stack([part.sigmoid() for part in x.unbind(1)], 1),
        lambda x: functional.interpolate(x[:, None].sigmoid(), scale_factor=2)[:, 0, ::2],
        lambda x: (x + 0).sigmoid_(),
        lambda x: functional.hardsigmoid(x + 0, inplace=True),
        lambda x: (x + 0).view(len(x), 2, 2).sigmoid_().flatten(1),
    ],
)
def test_a_gated_signal_takes_all(gate):
    network, x = seeded(lambda: Gated(gate)), images(2)
    made = run("lrp", network, x, 1, epsilon=0)
    assert made.details["relative_residual"].abs().max() < EXACT
    with torch.no_grad():
        signal = network.conv(x).relu()
        fixed = gate(network.squeeze(signal.mean((2, 3))))
    close(run("lrp", seeded(lambda: Gated(gate, last=False)), x, 1, epsilon=0).maps, made.maps)
    leaf = x.clone().requires_grad_()
    out = network.head((network.conv(leaf).relu() * fixed[:, :, None, None]).mean((2, 3)))
    close(made.maps, x * torch.autograd.grad(out[:, 1].sum(), leaf)[0])


@pytest.mark.parametrize(
    "factor",
    [
        lambda x: x.clamp(0, 2),
        lambda x: torch.cat([x[:, :2].sigmoid(), x[:, 2:].tanh()], 1),
        lambda x: (x + 0).sigmoid_().add_(1),
    ],
)
def test_what_is_not_all_a_gate_is_a_factor(factor):
    """A half goes to each, as where no gates are told from signals."""
    network, x = seeded(lambda: Gated(factor)), images(2)
    made = run("lrp", network, x, 1, epsilon=0).maps
    halves = Within(Model(network), rules=Composite(gates="half"), channels="keep").explain(x, target=1).maps
    close(made, halves)


def test_a_product_without_a_gate_is_halved():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = (nn.Linear(*s, bias=False) for s in ((5, 6), (5, 6), (6, 2)))

        def forward(self, x):
            return self.head(self.a(x) * self.b(x))

    network = seeded(Product)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = run("lrp", network, x, 1, bounds=None, kind="table", epsilon=0)
    assert made.details["relative_residual"].abs().max() < EXACT
    a, b = network.a(x), network.b(x)
    r = a * b * network.head.weight[1] / 2
    terms = [
        torch.einsum("nj,nji->ni", r / z, x[:, None] * w[None])
        for z, w in ((a, network.a.weight), (b, network.b.weight))
    ]
    close(made.maps, sum(terms).detach())


def test_norms_divide_by_constants_however_they_are_written():
    class Own(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.first, self.head, self.norm = nn.Linear(5, 6), nn.Linear(6, 2), norm

        def forward(self, x):
            return self.head(self.norm(self.first(x)))

    def by_hand(x):
        y = x - x.mean(-1, keepdim=True)
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)

    def divided(x):
        y = x - x.mean(-1, keepdim=True)
        return y / ((y**2).mean(-1, keepdim=True) + 1e-5).sqrt()

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = nn.LayerNorm(6, elementwise_affine=False)
    maps = [
        run("lrp", seeded(lambda n=n: Own(n)), x, 1, bounds=None, kind="table", epsilon=0).maps
        for n in (layer, by_hand, divided, lambda x: layer(x).detach() * 0 + by_hand(x))
    ]
    network = seeded(lambda: Own(layer))
    z = network.first(x).detach().requires_grad_()
    y = z - z.mean(-1, keepdim=True)
    out = network.head(y * torch.rsqrt(y.detach().pow(2).mean(-1, keepdim=True) + 1e-5))
    (c,) = torch.autograd.grad(out[:, 1].sum(), z)
    for found in maps:
        close(found, x * (c @ network.first.weight.detach()))


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_norm_is_one_with_its_layer(name):
    """Folded by the fast copy, met on the way, or by hand: the same map; negative scales change signs."""

    def build():
        network = nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
        for m in (network[1], network[5]):
            for tensor in (m.weight.data, m.bias.data, m.running_mean):
                tensor.normal_()
            m.running_var.uniform_(0.5, 2)
        return network

    network, x = seeded(build), images(2, 6)
    by_hand = nn.Sequential(*(copy.deepcopy(m) for m in network if "Norm" not in type(m).__name__))
    for at, norm in ((0, network[1]), (3, network[5])):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        layer = by_hand[at]
        layer.bias.data = ((layer.bias - norm.running_mean) * scale + norm.bias).detach()
        layer.weight.data = (layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))).detach()
    expected = run(name, by_hand, x, 1).maps
    close(run(name, network, x, 1).maps, expected, 1e-7)  # the fold is in float64, merging takes a difference
    close(run(name, network, x, 1, fast=False).maps, expected, 1e-7)


class Between(nn.Module):
    """Something between a convolution and a batch norm, in place or not."""

    def __init__(self, what, *, within):
        super().__init__()
        self.what, self.within = what, within
        self.first, self.conv, self.norm, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Linear(4, 3),
        )
        for tensor in (self.norm.weight.data, self.norm.bias.data, self.norm.running_mean):
            tensor.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = self.first(x).relu()
        z = self.conv(h)
        if self.what == "relu":
            z = functional.relu(z, inplace=self.within)
        elif self.what == "skip" and self.within:
            z += h
        elif self.what == "skip":
            z = z + h
        elif self.within:  # a part of it
            z[:, :2].mul_(2)
        else:
            z = torch.cat([z[:, :2] * 2, z[:, 2:]], 1)
        return self.head(self.norm(z).relu().mean((2, 3)))


@pytest.mark.parametrize("how", ["fast", "slow", "uncopyable"])
@pytest.mark.parametrize("what", ["relu", "skip", "part"])
def test_a_batch_norm_is_not_one_with_a_layer_whose_output_was_written_to(what, how):
    x, networks = images(2), [seeded(lambda w=w: Between(what, within=w), 2) for w in (False, True)]
    if how == "uncopyable":
        for network in networks:
            network.lock = threading.Lock()
    for name in ("lrp", "lrp_gamma", "lrp_zplus"):
        apart, within = (run(name, n, x, 1, fast=how != "slow").maps for n in networks)
        close(within, apart)


def test_a_batch_norm_after_a_layer_whose_input_was_written_to_sees_what_the_layer_saw():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.norm = nn.Linear(6, 5), nn.Linear(5, 2), nn.BatchNorm1d(2)

        def forward(self, x):
            h = self.first(x).tanh()
            z = self.second(h)
            h.zero_()
            return self.norm(z)

    x = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = run("lrp", seeded(Net), x, 1, fast=False, bounds=None, kind="table").maps
    assert float(found.abs().max()) > 0


# -- pixels ------------------------------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """Normalises in its first lines, pads by itself, and goes on with a network."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1))

    def forward(self, x):
        if self.how == "plain":
            x = (x - self.mean) / self.std
        elif self.how == "in place":
            x = x.clone().sub_(self.mean).div_(self.std)
        elif self.how == "negative":  # for a first layer of the other sign
            x = (self.mean - x) / self.std
        else:
            x = torch.stack(
                [(c - m) / s for c, m, s in zip(x.unbind(1), self.mean.flatten(), self.std.flatten(), strict=True)], 1
            )
        return self.network(functional.pad(x, (1, 1, 1, 1)) if self.how == "negative" else x)


@pytest.mark.parametrize("how", ["plain", "in place", "negative", "by channel"])
def test_who_normalises_and_pads_makes_no_difference(how):
    x = images(2)
    network = seeded(cnn)
    inside = copy.deepcopy(network)
    if how == "negative":
        inside[0].padding = (0, 0)
        inside[0].weight.neg_()
    inside = Normalised(inside, how).double()
    for name in [*PRESETS, "excitation_backprop"]:
        expected = run(name, network, x, 1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).maps
        for fast in (True, False):
            # the buffers were float32 once: 1e-8
            close(run(name, inside, x, 1, fast=fast).maps, expected, 1e-6)


def test_an_image_that_skips_ahead_is_counted():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

        def forward(self, x):
            y = torch.cat([x, self.conv(x).relu()], 1) + torch.cat([x * x, x.relu()], 1)
            return y.mean((2, 3))[:, [0, 1, 2]].sum(1, keepdim=True) + y.mean((2, 3))[:, 3:].sum(1, keepdim=True)

    network, x = seeded(Skip), images(2)
    close(run("lrp", network, x, epsilon=0).maps.sum((1, 2, 3)), network(x)[:, 0].detach())
    flat = run("lrp", network, x, epsilon=0, first="flat").maps
    inner = network.conv(x).relu().mean((2, 3)).sum(1)
    close(flat.sum((1, 2, 3)), network(x)[:, 0].detach())
    assert float(inner.abs().min()) > 0
    # what skipped the convolution keeps its place
    skipped = (2 * x + x * x) / 64
    conv = run(
        "lrp",
        nn.Sequential(network.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Total()),
        x,
        epsilon=0,
        first="flat",
    ).maps
    close(flat, skipped + conv)


class Total(nn.Module):
    def forward(self, x):
        return x.sum(1, keepdim=True)


def test_what_is_no_change_of_unit():
    class Net(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.conv, self.first = nn.Conv2d(3, 2, 3), first

        def forward(self, x):
            return self.conv(self.first(x)).relu().mean((2, 3))

    x, picture = images(2), images(1, seed=5)
    plain = seeded(lambda: Net(lambda x: x))
    # a picture that is taken away keeps its share: pixels count from zero
    found = run("lrp", seeded(lambda: Net(lambda x: x - picture)), x, 1, epsilon=0).maps
    other = run("lrp", plain, x - picture, 1, bounds=None, epsilon=0).maps
    close(found, other / (x - picture) * x)
    # of a square, a half goes to each factor, and the layer behind it sees no pixels
    found = run("lrp_z_box", seeded(lambda: Net(lambda x: x * x)), x, 1).maps
    close(found, run("lrp_zplus", plain, x * x, 1).maps)
    # what is divided by gets nothing
    two = torch.tensor(2.0).double()
    network = seeded(lambda: Net(lambda x: torch.cat([x[:, :2], torch.div(two, x[:, 2:] + 1)], 1)))
    found = run("lrp", network, x, 1, epsilon=0).maps
    other = run("lrp", plain, network.first(x), 1, bounds=None, epsilon=0).maps
    close(found, torch.cat([other[:, :2], torch.zeros_like(x[:, 2:])], 1))


def test_an_activation_in_place_on_the_image():
    class Net(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.act, self.conv = nn.ReLU(inplace=inplace), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            y = self.act(x)
            return self.conv(x if self.act.inplace else y).mean((2, 3))

    x = images(2) - 0.5
    plain, within = (seeded(lambda i=i: Net(i)) for i in (False, True))
    more = {"bounds": None, "epsilon": 0, "fast": False}
    close(run("lrp", within, x, 1, **more).maps, run("lrp", plain, x, 1, **more).maps)
    assert bool((run("lrp", within, x, 1, **more).maps[x < 0] == 0).all())


def channels_assigned(x):
    x = x.clone()
    for i, (scale, shift) in enumerate(((-0.458, -0.03), (0.448, -0.088), (0.45, 0.188))):
        x[:, i] = x[:, i] * scale + shift
    return x


def channels_in_place(x):
    x = x.clone()
    for i, (scale, shift) in enumerate(((-0.458, -0.03), (0.448, -0.088), (0.45, 0.188))):
        x[:, i].mul_(scale).add_(shift)
    return x


def channels_apart(x):
    scaled = zip(x.split(1, 1), (-0.458, 0.448, 0.45), (-0.03, -0.088, 0.188), strict=True)
    return torch.cat([part * scale + shift for part, scale, shift in scaled], 1)


def on_canvas(x, how):
    y = x.new_zeros(len(x), 3, 12, 14)
    if how == "assigned":
        y[:, :, 1:9, 3:11] = x
    else:
        y[:, :, 1:9, 3:11].copy_(x)
    return y


def blanked(x):
    x = x.clone()
    x[:, :, 2:4] = 0.0
    return x


def flipped_into_itself(x, how):
    x = x.clone()
    x.mul_(x.flip(-1)) if how == "mul" else x.add_(x.flip(-1))
    return x


def partly_rectified(x):
    x = x.clone()
    x[:, 0].mul_(-1).add_(0.5).relu_()
    return x


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("within", "apart", "names"),
    [
        (channels_assigned, channels_apart, PRESETS),
        (channels_in_place, channels_apart, PRESETS),
        (lambda x: on_canvas(x, "assigned"), lambda x: functional.pad(x, (3, 3, 1, 3)), PRESETS),
        (lambda x: on_canvas(x, "copied"), lambda x: functional.pad(x, (3, 3, 1, 3)), PRESETS),
        (blanked, lambda x: torch.cat([x[:, :, :2], torch.zeros_like(x[:, :, 2:4]), x[:, :, 4:]], 2), PRESETS),
        (lambda x: flipped_into_itself(x, "mul"), lambda x: x * x.flip(-1), PRESETS),
        (lambda x: flipped_into_itself(x, "add"), lambda x: x + x.flip(-1), PRESETS),
        # a rule for pixels sees some in what was rectified only if it is a part of a whole
        (
            partly_rectified,
            lambda x: torch.cat([(0.5 - x[:, :1]).relu(), x[:, 1:]], 1),
            ["lrp", "lrp_gamma", "lrp_zplus"],
        ),
    ],
    ids=["assigned", "in place", "canvas", "copied", "blanked", "times itself", "plus itself", "rectified"],
)
def test_what_is_written_into_an_image_is_what_is_made_beside_it(within, apart, names, fast):
    class Net(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first, self.conv, self.head = first, nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.conv(self.first(x)).relu().mean((2, 3)))

    x = images(2)
    for name in names:
        found, expected = (run(name, seeded(lambda f=f: Net(f)), x, 1, fast=fast).maps for f in (within, apart))
        close(found, expected)


def test_learnt_constants_are_no_normalisation():
    """A bias at the input keeps its share; it would go to the pixels if it were a change of unit."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 2, bias=False)

        def forward(self, x):
            return self.head(x + self.shift)

    network = seeded(Net)
    x = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(run("lrp", network, x, 1, bounds=None, kind="table", epsilon=0).maps, x * network.head.weight[1].detach())


# -- attention ---------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One head."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        return self.out(functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


class Transformer(nn.Module):
    """One block without biases, on tokens."""

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width)
        self.up, self.down = nn.Linear(width, 7, bias=False), nn.Linear(7, width, bias=False)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def attn_lrp_by_hand(network, x, target):
    """AttnLRP of one image `(T, D)` in numpy, in relevances: rule by rule. Also what the softmax loses."""

    def arrays(*modules):
        return [m.weight.detach().numpy() for m in modules]

    wq, wk, wv, wo = arrays(*(getattr(network.attention, n) for n in ("q", "k", "v", "out")))
    w1, w2, wh = arrays(network.up, network.down, network.head)

    def norm(x):
        y = x - x.mean(1, keepdims=True)
        return y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-5)

    def back_norm(x, r):
        y = x - x.mean(1, keepdims=True)  # the deviation is a constant: what the centred values have, they got
        width = x.shape[1]
        found = np.zeros_like(x)
        for t in range(len(x)):
            for j in range(width):
                for i in range(width):
                    found[t, i] += ((i == j) - 1 / width) * x[t, i] / y[t, j] * r[t, j]
        return found

    def back_linear(x, w, r):
        found = np.zeros_like(x)
        z = x @ w.T
        for t in range(len(x)):
            for j in range(len(w)):
                found[t] += x[t] * w[j] / z[t, j] * r[t, j]
        return found

    def back_product(a, b, r):
        z, ra, rb = a @ b, np.zeros_like(a), np.zeros_like(b)
        for i in range(a.shape[0]):
            for j in range(b.shape[1]):
                terms = a[i] * b[:, j] / z[i, j] * r[i, j] / 2
                ra[i] += terms
                rb[:, j] += terms
        return ra, rb

    h = norm(x)
    q, k, v = h @ wq.T, h @ wk.T, h @ wv.T
    scores = q @ k.T / math.sqrt(q.shape[1])
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    o = p @ v
    x1 = x + o @ wo.T
    h2 = norm(x1)
    u = h2 @ w1.T
    g = functional.gelu(torch.from_numpy(u)).numpy()
    m = g @ w2.T
    x2 = x1 + m
    r = x2 / len(x) * wh[target]
    r_x1, r_m = r * x1 / x2, r * m / x2
    r_h2 = back_linear(h2, w1, back_linear(g, w2, r_m))
    r_x1 = r_x1 + back_norm(x1, r_h2)
    attended = x1 - x
    r_x, r_a = r_x1 * x / x1, r_x1 * attended / x1
    r_p, r_v = back_product(p, v, back_linear(o, wo, r_a))
    r_s = scores * (r_p - p * r_p.sum(1, keepdims=True))
    r_q, r_k = back_product(q, k.T, r_s)
    r_h = back_linear(h, wq, r_q) + back_linear(h, wk, r_k.T) + back_linear(h, wv, r_v)
    return r_x + back_norm(x, r_h), float(r_p.sum() - r_s.sum())


def tokens(n=2, count=5, width=4, seed=3):
    return torch.randn(n, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attn_lrp_is_its_rules_in_numpy_and_only_the_softmax_is_not_conserving():
    network, x = seeded(Transformer), tokens()
    made = run("attn_lrp", network, x, [0, 2], bounds=None, kind="tokens", epsilon=0)
    for i, target in enumerate([0, 2]):
        expected, lost = attn_lrp_by_hand(network, x[i].numpy(), target)
        close(made.maps[i], torch.from_numpy(expected))
        assert float(made.details["residual"][i]) == pytest.approx(lost, rel=1e-8)  # rounding, of a difference
        assert abs(lost) > 1e-3


def test_cp_lrp_conserves_all_of_the_score():
    network, x = seeded(Transformer), tokens()
    made = run("cp_lrp", network, x, [0, 2], bounds=None, kind="tokens", epsilon=0)
    assert made.details["relative_residual"].abs().max() < EXACT
    # it is input times gradient with attention and deviations held fixed
    leaf = x.clone().requires_grad_()

    def norm(x):
        y = x - x.mean(-1, keepdim=True)
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach()

    a = network.attention
    h = norm(leaf)
    p = (a.q(h) @ a.k(h).mT / 2).softmax(-1).detach()
    y = leaf + a.out(p @ a.v(h))
    u = network.up(norm(y))
    y = y + network.down(u * (functional.gelu(u) / u).detach())
    out = network.head(y.mean(1))
    (c,) = torch.autograd.grad(out[0, 0] + out[1, 2], leaf)
    close(made.maps, x * c)


def test_attn_lrp_halves_gates_as_well(monkeypatch):
    monkeypatch.setattr("attriscope.attribution.relevance.attn_lrp.must_attend", lambda _: None)  # gates alone are enough here

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.gate, self.head = (nn.Linear(*s, bias=False) for s in ((5, 6), (5, 6), (6, 2)))

        def forward(self, x):
            return self.head(self.attention(x) * torch.sigmoid(self.gate(x)))

    network = seeded(Net)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    more = {"bounds": None, "kind": "table", "epsilon": 0}
    signal, gate = network.attention(x) * network.head.weight[1], torch.sigmoid(network.gate(x))
    # of the gate's half a sigmoid keeps what it has at zero, 1/2 of its value
    close(run("attn_lrp", network, x, 1, **more).details["residual"], (signal * gate / 2 / gate / 2).sum(1), 1e-4)
    assert run("lrp", network, x, 1, **more).details["relative_residual"].abs().max() < EXACT


def test_gamma_in_a_transformer():
    network, x = seeded(Transformer), tokens()
    more = {"bounds": None, "kind": "tokens"}
    maps = {g: run("attn_lrp", network, x, 1, epsilon=0, gamma=g, **more).maps for g in (0.0, 1e-9, 0.5)}
    close(maps[1e-9], maps[0.0], 1e-6)
    assert float((maps[0.5] - maps[0.0]).abs().max()) > 1e-2
    assert run("cp_lrp", network, x, 1, gamma=0.5, **more).details["relative_residual"].abs().max() < EXACT


class ViT(nn.Module):
    """Patches, a class token if wanted, positions, one block without biases."""

    def __init__(self, grid=(2, 3), prefix=1, late=False):
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 4, stride=4, bias=False)
        count = grid[0] * grid[1]
        self.cls = nn.Parameter(torch.randn(1, prefix, 4))
        self.pos = nn.Parameter(torch.randn(1, count + (0 if late else prefix), 4))
        self.block, self.late = Transformer(), late

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.pos if self.late else x
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return self.block(x if self.late else x + self.pos)


@pytest.mark.parametrize(("prefix", "late"), [(0, False), (1, False), (3, False), (2, True)])
def test_pa_lrp_is_attn_lrp_at_the_tokens_with_their_positions(prefix, late):
    network = seeded(lambda: ViT(prefix=prefix, late=late))
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = run("pa_lrp", network, x, 1, epsilon=0)
    assert made.native.shape == (2, 1, 2, 3)
    patches = network.patch(x).flatten(2).transpose(1, 2)
    cls = network.cls.expand(2, -1, -1)
    both = torch.cat([cls, patches + network.pos], 1) if late else torch.cat([cls, patches], 1) + network.pos
    inner = run("attn_lrp", network.block, both.detach(), 1, bounds=None, kind="tokens", epsilon=0)
    r = inner.maps.sum(2)
    close(made.native.flatten(1), r[:, prefix:])
    close(made.details["residual"], inner.details["residual"], 1e-8)  # a difference
    if prefix:
        close(made.details["prefix"], r[:, :prefix].sum(1))
    else:
        assert bool((made.details["prefix"] == 0).all())
    # without positions it is attn_lrp, patch by patch
    network.pos.data.zero_()
    pixels = run("attn_lrp", network, x, 1, epsilon=0).maps
    close(
        run("pa_lrp", network, x, 1, epsilon=0).native, 16 * 3 * functional.avg_pool2d(pixels, 4).mean(1, keepdim=True)
    )


def test_pa_lrp_without_norms_is_read_where_positions_are_added():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.more = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 4)
            self.pos, self.rest = nn.Parameter(torch.randn(1, 4, 4)), Rest()

        def forward(self, x):
            return self.rest(self.more(self.patch(x).flatten(2).transpose(1, 2)) + self.pos)

    class Rest(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = Attention(4), nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.head((x + self.attention(x)).mean(1))

    network, x = seeded(Net), images(2)
    inside = network.more(network.patch(x).flatten(2).transpose(1, 2)) + network.pos
    inner = run("attn_lrp", network.rest, inside, 1, bounds=None, kind="tokens", epsilon=0).maps
    close(run("pa_lrp", network, x, 1, epsilon=0).native.flatten(1), inner.sum(2))


def test_pa_lrp_knows_the_grid_of_every_vit(zoo, zoo_vit):
    network, x = zoo.build(zoo_vit), zoo.images(zoo_vit, 2)
    made = run("pa_lrp", network, x, 1)
    assert tuple(made.native.shape[2:]) == zoo.FACTS[zoo_vit].grid
    assert bool((made.details["prefix"] != 0).all()) == (zoo.FACTS[zoo_vit].prefix > 0)


# -- everything --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lrp", "lrp_epsilon_plus", "attn_lrp"])
def test_every_network_of_the_zoo_runs(name, zoo, zoo_name):
    network, x = zoo.build(zoo_name), zoo.images(zoo_name, 2)
    model = Model(network, mean=(0.5,) * 3, std=(0.25,) * 3)
    attentive = zoo.FACTS[zoo_name].kind != "cnn"
    if name == "attn_lrp" and not attentive:
        assert name not in attribution.available(model=model)
        return
    made = attribution.create(name, model)
    found = made.explain(x, target=[1, 2])
    assert bool(found.maps.isfinite().all())
    assert found.maps.abs().max() > 0
    lost = found.scores - found.native.sum((1, 2, 3))
    # the sum of a map in another order
    assert bool(((found.details["residual"] - lost).abs() <= 1e-5 * found.native.abs().sum((1, 2, 3))).all())
    one = made.attribute(x[1:], target=2)
    # float32, and coefficients of two signs that cancel on the way
    assert float((one - found.maps[1:]).abs().max()) <= 1e-3 * float(one.abs().max())


@pytest.mark.parametrize("name", [*PRESETS, "excitation_backprop", "attn_lrp", "cp_lrp", "pa_lrp"])
def test_a_probability_is_refused(name):
    with pytest.raises(ValueError, match="logit"):
        attribution.create(name, Model(seeded(cnn)), output="probability")


def test_what_has_no_rule_is_refused():
    x = images(1)
    for last in (nn.LogSoftmax(1), lambda x: x.cumprod(1), lambda x: (2 + x) ** x):

        class Net(nn.Module):
            def __init__(self, last=last):
                super().__init__()
                self.net, self.last = cnn(), last

            def forward(self, x):
                return self.last(self.net(x))

        with pytest.raises(ValueError, match="no rule for the operation"):
            run("lrp", seeded(Net), x)
    with pytest.raises(ValueError, match="no rule for the operation"):
        run("lrp", seeded(cnn), x, lambda out: out.softmax(1)[:, 0])


def test_bad_configurations_are_refused():
    network = seeded(cnn)
    for name in ("lrp_z_box", "lrp_epsilon_gamma_box"):
        with pytest.raises(ValueError, match="bounds"):
            attribution.create(name, network)
        assert name not in attribution.available(model=network)
    with pytest.raises(ValueError, match="bounds"):
        attribution.create("lrp", network, first="z_box")
    for name in ("attn_lrp", "cp_lrp", "pa_lrp"):
        with pytest.raises(ValueError, match="no attention"):
            run(name, network, images(1))
    with pytest.raises(ValueError, match="at least 1"):
        attribution.create("lrp_alpha_beta", network, alpha=0.5)
    with pytest.raises(ValueError, match="logit"):
        attribution.create("excitation_backprop", network, output="margin")
    with pytest.raises(ValueError, match="autograd"):
        run("lrp", lambda x: x.detach().mean((2, 3)), images(1))


def test_pa_lrp_says_where_there_are_no_tokens():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.conv = Attention(4), nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            x = torch.cat([x, x.repeat(1, 9, 1)], 1)  # far more than stand in the grid
            return self.attention(x).mean(1)

    with pytest.raises(ValueError, match="attn_lrp"):
        run("pa_lrp", seeded(Attends), images(1))


class Block(nn.Module):
    """Attention by torch's function, in modules that are called otherwise."""

    def __init__(self, softmax):
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 12), nn.Linear(4, 2)
        self.softmax = softmax

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.mix(x).chunk(3, -1)
        if self.softmax == "fused":
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.softmax == "open":
            y = (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
        else:  # of the features, which is none
            y = q * k.mean(1).softmax(-1)[:, None] + v
        return self.head((x + y).mean(1))


@pytest.mark.parametrize("name", ["attn_lrp", "cp_lrp", "pa_lrp"])
def test_attention_is_found_whatever_its_modules_are_called(name):
    x = images(2)
    model = Model(seeded(lambda: Block("fused")))
    assert name not in attribution.available(model=model)  # names alone do not tell
    found = attribution.create(name, model).explain(x, target=1).maps
    assert name in attribution.available(model=model)
    attribution.create(name, model)
    close(found, attribution.create(name, Model(seeded(lambda: Block("open")))).explain(x, target=1).maps)


@pytest.mark.parametrize("name", ["attn_lrp", "cp_lrp", "pa_lrp"])
def test_what_is_only_called_attention_is_none(name):
    model = Model(nn.Sequential(OrderedDict(attention=seeded(lambda: Block("features")))))
    assert name in attribution.available(model=model)
    made = attribution.create(name, model)
    with pytest.raises(ValueError, match="no attention"):
        made.explain(images(2), target=1)
    assert name not in attribution.available(model=model)
    with pytest.raises(ValueError, match="no attention"):
        attribution.create(name, model)

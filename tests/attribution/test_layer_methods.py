"""Methods on layers: completeness over cuts, closed forms, captum, and what the names of layer methods mean."""

import itertools

import captum.attr
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from torch import nn

EXACT = {"rtol": 1e-8, "atol": 1e-10}  # float64, some thousand terms of order 1
METHODS = attribution.available("layer/*")
captum_warnings = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not:UserWarning")


def settings(name):
    return {"steps": {"steps": 3}, "samples": {"samples": 4}, None: {}}[attribution.describe(name)["samples"]]


@pytest.fixture(scope="module")
def smooth():
    """Without kinks, so that sums over a path converge as their order says: (model, network, images)."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    x = torch.rand(3, 2, 8, 8, generator=generator, dtype=torch.float64)
    return Model(network.eval()), network, x


def gain(network, x, target, start=0.0):
    with torch.no_grad():
        return network(x)[:, target] - network(torch.full_like(x, start))[:, target]


# -- conductance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
def test_conductance_sums_to_the_score_at_every_cut_with_an_error_of_second_order(smooth, layer):
    model, network, x = smooth
    wanted = gain(network, x, 1, 0.2)
    errors = []
    for steps in (20, 40):
        made = attribution.create("layer_conductance", model, layer=layer, steps=steps, baseline=0.2)
        found = made.explain(x, target=1)
        error = found.native.sum((1, 2, 3)) - wanted
        torch.testing.assert_close(found.details["convergence_delta"], error, **EXACT)
        errors.append(float(error.abs().max()))
        assert found.forwards.tolist() == found.backwards.tolist() == [steps + 1] * 3
    assert 3.5 < errors[0] / errors[1] < 4.5  # twice the steps, a quarter of the error
    assert errors[1] < 1e-2 * float(wanted.abs().max())
    left = attribution.create("layer_conductance", model, layer=layer, steps=40, baseline=0.2, rule="left")
    assert float(left.explain(x, target=1).details["convergence_delta"].abs().max()) > 5 * errors[1]


def test_conductance_at_the_input_is_integrated_gradients(smooth):
    model, _, x = smooth
    found = attribution.create("layer_conductance", model, layer="input", steps=7).attribute(x, target=0)
    ig = attribution.create("integrated_gradients", model, rule="trapezoid", steps=8).attribute(x, target=0)
    torch.testing.assert_close(found, ig, **EXACT)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("rule", ["trapezoid", "left", "right"])
def test_conductance_by_hand_wherever_batches_end(smooth, rule, batch_size):
    _, network, x = smooth
    made = attribution.create(
        "layer_conductance", Model(network, batch_size=batch_size), layer="2", steps=6, rule=rule, channels="keep"
    )
    wanted = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
    places = []
    for k in range(7):
        y = network[:3](x * k / 6).detach().requires_grad_()
        places.append((y.detach(), torch.autograd.grad(network[3:](y)[:, 2].sum(), y)[0]))
    for (y0, g0), (y1, g1) in itertools.pairwise(places):
        wanted += {"left": g0, "right": g1, "trapezoid": (g0 + g1) / 2}[rule] * (y1 - y0)
    torch.testing.assert_close(made.explain(x, target=2).native, wanted, **EXACT)


@captum_warnings
@pytest.mark.parametrize("layer", ["1", "2"])
def test_conductance_agrees_with_captum(smooth, layer):
    """Theirs takes gradients from the left and loses what is beyond the outermost nodes: these are at the ends here."""
    model, network, x = smooth
    oracle = captum.attr.LayerConductance(network, network[int(layer)])
    wanted = oracle.attribute(x, target=1, n_steps=12, method="riemann_trapezoid")
    made = attribution.create("conductance", model, layer=layer, steps=12, rule="left", channels="keep")
    torch.testing.assert_close(made.explain(x, target=1).native, wanted.detach(), rtol=1e-5, atol=1e-7)


def test_conductance_says_what_takes_another_way(zoo):
    """Around a norm in a transformer's block a connection leads: the sum is short of the score, and the delta tells."""
    network, x = zoo.timm_vit().double(), zoo.images("timm_vit", 2, dtype=torch.float64)
    wanted = gain(network, x, 1)
    made = attribution.create("layer_conductance", network, layer="blocks.1.norm1", steps=8)
    found = made.explain(x, target=1)
    delta = found.details["convergence_delta"]
    torch.testing.assert_close(found.native.sum((1, 2, 3)) - delta, wanted, **EXACT)
    assert bool((delta.abs() > 0.02 * wanted.abs()).all())


# -- one neuron --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["1", "2"])
def test_through_all_units_flows_integrated_gradients(smooth, layer):
    model, _, x = smooth
    ig = attribution.create("integrated_gradients", model, steps=5, baseline=0.1)
    found = attribution.create("neuron_conductance", model, layer=layer, steps=5, baseline=0.1).explain(x, target=0)
    torch.testing.assert_close(found.maps, ig.attribute(x, target=0), **EXACT)
    assert found.forwards.tolist() == found.backwards.tolist() == [5, 5, 5]


def test_through_a_channel_flows_what_flows_through_its_units(smooth):
    model, _, x = smooth

    def through(unit):
        return attribution.create("neuron_conductance", model, layer="2", steps=4, unit=unit).attribute(x, target=1)

    whole = through(1)
    torch.testing.assert_close(through((1,)), whole)
    torch.testing.assert_close(sum(through((1, i, j)) for i in range(4) for j in range(4)), whole, **EXACT)
    torch.testing.assert_close(sum(through(k) for k in range(3)), through(None), **EXACT)


def test_what_flows_through_a_unit_is_its_conductance(smooth):
    """Both integrate the same, one along pixels and one along the unit: their errors are of second order."""
    model, _, x = smooth
    whole = attribution.create("layer_conductance", model, layer="2", steps=400, channels="keep")
    whole = whole.explain(x, target=1).native
    for unit in ((0, 1, 2), (2, 3, 0)):
        one = attribution.create("neuron_conductance", model, layer="2", unit=unit, steps=40).explain(x, target=1)
        torch.testing.assert_close(one.details["sum"], whole[:, unit[0], unit[1], unit[2]], rtol=1e-3, atol=1e-5)


@captum_warnings
def test_a_neuron_s_conductance_agrees_with_captum(smooth):
    model, network, x = smooth
    oracle = captum.attr.NeuronConductance(network, network[2])
    wanted = oracle.attribute(x, (1, 2, 3), target=1, n_steps=9, method="riemann_middle")
    made = attribution.create(
        "neuron_conductance", model, layer="2", unit=(1, 2, 3), steps=9, rule="midpoint", channels="keep"
    )
    torch.testing.assert_close(made.attribute(x, target=1), wanted.detach(), rtol=1e-5, atol=1e-8)


def test_a_unit_of_a_transformer_is_a_patch(zoo):
    model, x = Model(zoo.timm_vit_registers()), zoo.images("timm_vit_registers")
    made = attribution.create("neuron_conductance", model, layer="patch_embed", unit=(4, 1, 2), steps=3)
    found = made.attribute(x, target=0)
    assert bool(found[:, :, 8:16, 16:24].abs().amax((1, 2, 3)).all())  # patches of 8 x 8 pixels
    found[:, :, 8:16, 16:24] = 0
    assert not found.any()


@pytest.mark.parametrize("unit", [3, -4, (0, 4, 0), (0, 0, 4)])
def test_a_unit_that_a_layer_has_not_is_refused(smooth, unit):
    with pytest.raises(ValueError, match="layer '2' has 3 channels of 4 x 4"):
        attribution.create("neuron_conductance", smooth[0], layer="2", unit=unit).attribute(smooth[2], target=0)


@pytest.mark.parametrize("unit", [(0, 1), (0.5,), (), (True, 1, 1)])
def test_what_is_no_unit_is_refused(smooth, unit):
    with pytest.raises(ValueError, match="give a channel, or whole numbers"):
        attribution.create("neuron_conductance", smooth[0], unit=unit)


# -- the simple ones ---------------------------------------------------------------------------------------------------


@captum_warnings
def test_activation_and_gradient_times_activation_agree_with_captum(smooth):
    model, network, x = smooth
    for layer in ("0", "2"):
        module = network[int(layer)]
        activation = attribution.create("layer_activation", model, layer=layer, channels="keep").explain(x, target=1)
        torch.testing.assert_close(
            activation.native, captum.attr.LayerActivation(network, module).attribute(x).detach()
        )
        assert activation.backwards.tolist() == [0, 0, 0]
        both = attribution.create("layer_gradient_x_activation", model, layer=layer, channels="keep")
        wanted = captum.attr.LayerGradientXActivation(network, module).attribute(x, target=1)
        torch.testing.assert_close(both.explain(x, target=1).native, wanted.detach(), rtol=1e-5, atol=1e-8)
        cam = captum.attr.LayerGradCam(network, module).attribute(x, target=1)
        found = attribution.create("grad_cam", model, layer=layer, relu=False).explain(x, target=1)
        torch.testing.assert_close(found.native, cam.detach(), rtol=1e-5, atol=1e-8)


@captum_warnings
@pytest.mark.parametrize(("rule", "method"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_internal_influence_agrees_with_captum(smooth, rule, method):
    model, network, x = smooth
    oracle = captum.attr.InternalInfluence(network, network[2])
    wanted = oracle.attribute(x, target=1, n_steps=7, method=method)
    made = attribution.create("internal_influence", model, layer="2", steps=7, rule=rule, channels="keep")
    # their weights are float32
    torch.testing.assert_close(made.explain(x, target=1).native, wanted.detach(), rtol=1e-5, atol=1e-7)


# -- methods of pixels, from a layer on --------------------------------------------------------------------------------


@captum_warnings
@pytest.mark.parametrize("layer", ["0", "2"])
def test_layer_integrated_gradients_agree_with_captum(smooth, layer):
    model, network, x = smooth
    oracle = captum.attr.LayerIntegratedGradients(network, network[int(layer)])
    wanted = oracle.attribute(x, baselines=0.3, target=1, n_steps=9)
    made = attribution.create(
        "layer_integrated_gradients", model, layer=layer, steps=9, baseline=0.3, channels="keep"
    ).explain(x, target=1)
    torch.testing.assert_close(made.native, wanted.detach(), rtol=1e-5, atol=1e-7)  # their weights are float32
    torch.testing.assert_close(made.details["gain"][:, 0], gain(network, x, 1, 0.3), **EXACT)


def test_layer_integrated_gradients_start_at_what_the_layer_makes_of_an_image(smooth):
    model, network, x = smooth
    starts = (0.0, torch.rand_like(x), x[:1] * 0.5)
    made = attribution.create("layer_ig", model, layer="3", steps=30, baseline=starts)
    found = made.explain(x, target=2)
    for own, start in zip(found.details["gain"].T, starts, strict=True):
        begin = start if isinstance(start, torch.Tensor) else torch.full_like(x, start)
        with torch.no_grad():
            torch.testing.assert_close(own, network(x)[:, 2] - network(begin.expand_as(x))[:, 2], **EXACT)
    assert float(found.details["convergence_delta"].abs().max()) < 1e-6
    torch.testing.assert_close(found.native.sum((1, 2, 3)), found.details["gain"].mean(1), rtol=0, atol=1e-6)


@captum_warnings
@pytest.mark.filterwarnings("ignore:Setting forward:UserWarning")
@pytest.mark.filterwarnings("ignore:.*hook:UserWarning")
def test_layer_deep_lift_agrees_with_captum():
    """On ReLUs, which theirs knows."""
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
    ).double().eval()  # fmt: skip
    x = torch.rand(2, 2, 8, 8, generator=generator, dtype=torch.float64)
    wanted = captum.attr.LayerDeepLift(network, network[0]).attribute(x, baselines=torch.full_like(x, 0.3), target=1)
    found = attribution.create("layer_deep_lift", network, layer="0", baseline=0.3, channels="keep").explain(
        x, target=1
    )
    torch.testing.assert_close(found.native, wanted.detach(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.native.sum((1, 2, 3)), gain(network, x, 1, 0.3), **EXACT)


@pytest.mark.parametrize("references", [None, 0.2, (0.0, 0.5), torch.rand(6, 2, 8, 8, dtype=torch.float64)])
def test_layer_gradient_shap_is_gradient_shap_of_the_rest(smooth, references):
    model, network, x = smooth
    made = attribution.create("layer_gradient_shap", model, layer="2", samples=12, references=references)
    found = made.explain(x, target=1)
    with torch.no_grad():
        if isinstance(references, torch.Tensor):
            moved = network[:3](references)
        elif references is None:
            from attriscope.attribution.path.expected_gradients import references_of

            moved = tuple(network[:3](one) for one in references_of(None, range(10), x, model, seed=0))
        else:
            given = references if isinstance(references, tuple) else (references,)
            moved = tuple(network[:3](torch.full_like(x[:1], one)) for one in given)
        activation = network[:3](x)
    rest = attribution.create("gradient_shap", Model(network[3:], bounds=None), samples=12, references=moved)
    torch.testing.assert_close(found.native, rest.explain(activation, target=1).native, **EXACT)
    assert found.details["layer"] == "2"


# -- iterated integrated attributions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["zero", "min", "official"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_iia_by_hand(smooth, base, batch_size):
    _, network, x = smooth
    n = 3
    seen = [network[:3](0.1 + a / n * (x - 0.1)).detach() for a in range(n + 1)]
    total = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    for own in seen:
        least = {"zero": torch.zeros_like(own), "min": torch.stack(seen).amin(0), "official": own}[base]
        for b in [n] if base == "official" else range(1, n + 1):
            point = (least + b / n * (own - least)).requires_grad_()
            (gradient,) = torch.autograd.grad(network[3:](point)[:, 1].sum(), point)
            way = point.detach() - (0 if base == "official" else least)
            total += (gradient * way.relu()).sum(1, keepdim=True)
    wanted = total / ((n + 1) * (1 if base == "official" else n))
    model = Model(network, batch_size=batch_size)
    made = attribution.create("iia", model, layer="2", steps=n, base=base, baseline=0.1, relu=False)
    found = made.explain(x, target=1)
    torch.testing.assert_close(found.native, wanted, **EXACT)
    count = n + 1 if base == "official" else n * (n + 1)
    assert found.forwards.tolist() == found.backwards.tolist() == [count] * 3


def test_iia_before_a_pooling_is_hires_cam_of_the_mean_activation(zoo):
    network, x = zoo.plain_cnn().double(), zoo.images("plain_cnn", 2, dtype=torch.float64)
    found = attribution.create("iia", network, steps=4, relu=False).explain(x, target=1).native
    with torch.no_grad():
        mean = torch.stack([network[:6](x * a / 4) for a in range(5)]).mean(0)
    weights = network[8].weight[1].detach()[:, None, None] / 64
    torch.testing.assert_close(found, 0.625 * (weights * mean).sum(1, keepdim=True), **EXACT)  # the mean of b / n


# -- every architecture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["plain_cnn", "timm_vit", "timm_vit_wide", "timm_swin", "hf_swin", "hf_resnet"])
def test_every_layer_method_runs_with_nothing_passed(zoo, network):
    """One of each form: channels first, channels last, tokens with and without others before them."""
    model, x = Model(zoo.build(network)), zoo.images(network, 2)
    for name in METHODS:
        made = attribution.create(name, model, **settings(name))
        found = made.explain(x, target=1)
        assert found.maps.shape == (2, 1, *x.shape[2:])
        assert bool(found.native.flatten(1).any(1).all()), name
        close = 1e-4 * float(found.maps.abs().max())  # float32
        torch.testing.assert_close(made.attribute(x[1:], target=1), found.maps[1:], rtol=0, atol=close)


def test_feature_maps_can_be_kept(zoo):
    model, x = Model(zoo.timm_swin()), zoo.images("timm_swin", 2)
    found = attribution.create("layer_conductance", model, steps=2, channels="keep").explain(x)
    assert found.native.shape == (2, 16, 8, 8)
    assert found.maps.shape == (2, 16, 32, 32)
    summed = attribution.create("layer_conductance", model, steps=2).explain(x)
    torch.testing.assert_close(found.native.sum(1, keepdim=True), summed.native, rtol=1e-4, atol=1e-6)

"""Numbers: closed forms, hand calculations, and Captum, scikit-image, scipy and SALib as oracles."""

import itertools

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.path.integrated_gradients import nodes
from attriscope.attribution.perturbation.occlusion import positions
from captum import attr as captum
from torch import nn

# float32 on networks of a few layers, ours through a folded copy: some ulp of 6e-8 at the largest value
NEAR = 1e-5
# float64: rounding of sums of some hundred terms; captum's integration weights are float32, which leaves 1e-8
FINE = 1e-10


def close(found, wanted, tolerance):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * max(float(wanted.abs().max()), 1e-12), float(
        (found - wanted).abs().max()
    )


def linear(weight, bias=0.0):
    """A network whose class 0 is <weight, x> + bias and class 1 is zero."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2)).to(weight.dtype)
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0] = weight.flatten()
        network[1].bias.copy_(torch.tensor([bias, 0.0]))
    return network


def weights(channels=3, height=6, width=5, seed=0, dtype=torch.float64):
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- against captum ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet", "vgg", "efficientnet"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, FINE)]
)  # float32 through eight layers
def test_gradients_are_captums(networks, images, name, dtype, tolerance):
    network, x = getattr(networks, name)().to(dtype), images(3, dtype=dtype)
    target = torch.tensor([0, 3, 4])
    inputs = x.clone().requires_grad_()
    close(
        attribution.create("saliency", network, channels="keep").attribute(x, target),
        captum.Saliency(network).attribute(inputs, target=target, abs=True).detach(),
        tolerance,
    )
    close(
        attribution.create("saliency", network).attribute(x, target),
        captum.Saliency(network).attribute(inputs, target=target).detach().amax(1, keepdim=True),
        tolerance,
    )
    close(
        attribution.create("input_x_gradient", network, channels="keep").attribute(x, target),
        captum.InputXGradient(network).attribute(inputs, target=target).detach(),
        tolerance,
    )


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        ("gauss_legendre", "gausslegendre"),
        ("midpoint", "riemann_middle"),
        ("left", "riemann_left"),
        ("right", "riemann_right"),
    ],
)
@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, NEAR), (torch.float64, 1e-7)]
)  # captum's weights are float32
def test_integrated_gradients_are_captums(networks, images, rule, theirs, steps, dtype, tolerance):  # noqa: PLR0917
    network, x = networks.smooth(3, 4).to(dtype), images(3, dtype=dtype)
    start = images(3, seed=1, dtype=dtype)
    found = attribution.create("ig", network, rule=rule, steps=steps, baseline=start, channels="keep").explain(
        x, [0, 1, 2]
    )
    wanted, delta = captum.IntegratedGradients(network).attribute(
        x.clone().requires_grad_(),
        start,
        target=torch.tensor([0, 1, 2]),
        n_steps=steps,
        method=theirs,
        return_convergence_delta=True,
    )
    close(found.maps, wanted.detach(), tolerance)
    # a difference of sums over 192 pixels: rounding relative to the map's mass, not to the delta
    assert float((found.details["convergence_delta"] - delta).abs().max()) <= 10 * tolerance * float(
        wanted.detach().abs().sum() / 3
    )


@pytest.mark.parametrize(
    ("window", "stride"), [((4, 4), (4, 4)), ((3, 3), (2, 2)), ((5, 5), (5, 5)), ((4, 4), (1, 1)), ((3, 3), (3, 3))]
)
@pytest.mark.parametrize("size", [(8, 8), (10, 7), (9, 13)])
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_occlusion_is_captums(networks, images, window, stride, size, baseline):  # noqa: PLR0917
    network, x = networks.cnn().double(), images(2, height=size[0], width=size[1], dtype=torch.float64)
    found = attribution.create("occlusion", network, window=window[0], stride=stride[0], baseline=baseline).attribute(
        x, [1, 3]
    )
    wanted = captum.Occlusion(network).attribute(
        x, (3, *window), (3, *stride), baseline, target=torch.tensor([1, 3]), perturbations_per_eval=16
    )
    close(found, wanted[:, :1], 1e-6)  # captum divides by float32 counts


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("cnn", "5"),
        ("cnn", "2"),
        ("vgg", "features.4"),
        ("vgg", "features.0"),
        ("resnet", "layer1"),
        ("resnet", "layer2"),
        ("efficientnet", "act2"),
        ("branching", "features"),
    ],
)
@pytest.mark.parametrize("relu", [False, True])
def test_grad_cam_is_captums(networks, images, name, layer, relu):
    network, x = getattr(networks, name)().double(), images(3, dtype=torch.float64)
    target = torch.tensor([2, 0, 4])
    found = attribution.create("grad_cam", network, layer=layer, relu=relu).explain(x, target)
    inner = network.get_submodule(layer)
    wanted = captum.LayerGradCam(network, inner).attribute(x, target=target, relu_attributions=relu).detach()
    close(found.native, wanted, FINE)
    close(found.maps, captum.LayerAttribution.interpolate(wanted, (8, 8), "bilinear"), 1e-9)


# -- gradients: closed forms -------------------------------------------------------------------------------------------


def test_gradient_methods_of_a_linear_network_are_its_weights(images):
    w, x = weights(), images(2, 3, 6, 5, dtype=torch.float64)
    network = linear(w, 3.0)
    close(attribution.create("saliency", network, channels="keep").attribute(x, 0), w.abs().expand(2, -1, -1, -1), FINE)
    close(attribution.create("input_x_gradient", network, channels="keep").attribute(x, 0), w * x, FINE)
    assert not attribution.create("saliency", network).attribute(x, 1).any()


def test_the_normalisation_scales_the_gradient_and_moves_the_input(images):
    w, x = weights(), images(2, 3, 6, 5, dtype=torch.float64)
    mean, std = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0.5, 0.25, 2.0], dtype=torch.float64)
    model = Model(linear(w), mean=mean, std=std)
    scaled = w / std.reshape(3, 1, 1)
    close(
        attribution.create("saliency", model, channels="keep").attribute(x, 0), scaled.abs().expand(2, -1, -1, -1), FINE
    )
    # the mean of the baseline and of x - mean goes through float32: 6e-8 of 1
    close(
        attribution.create("input_x_gradient", model, channels="keep").attribute(x, 0),
        (x - mean.reshape(3, 1, 1)) * scaled,
        1e-6,
    )


@pytest.mark.parametrize("output", ["probability", "log_probability", "margin"])
def test_the_output_is_what_is_differentiated(networks, images, output):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    logits = network(leaf)
    score = {
        "probability": logits.softmax(1)[:, 1],
        "log_probability": logits.log_softmax(1)[:, 1],
        "margin": logits[:, 1] - logits[:, [0, 2, 3, 4]].amax(1),
    }[output]
    (wanted,) = torch.autograd.grad(score.sum(), leaf)
    close(attribution.create("saliency", network, output=output, channels="keep").attribute(x, 1), wanted.abs(), FINE)


# -- integrated gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid", "left", "right"])
@pytest.mark.parametrize("steps", [2, 3, 10, 51])
def test_weights_sum_to_one_and_places_are_known(rule, steps):
    at, weight = nodes(rule, steps)
    assert at.dtype == torch.float64
    assert float(weight.sum()) == pytest.approx(1, abs=1e-14)
    wanted = {
        "midpoint": (np.arange(steps) + 0.5) / steps,
        "left": np.arange(steps) / steps,
        "right": (np.arange(steps) + 1) / steps,
        "trapezoid": np.linspace(0, 1, steps),
        "gauss_legendre": (np.polynomial.legendre.leggauss(steps)[0] + 1) / 2,
    }[rule]
    np.testing.assert_allclose(at.numpy(), wanted, atol=1e-15)
    degree = {"gauss_legendre": 2 * min(steps, 6) - 1, "midpoint": 1, "trapezoid": 1, "left": 0, "right": 0}[rule]
    for power in range(degree + 1):  # exact up to here
        assert float((weight * at**power).sum()) == pytest.approx(1 / (power + 1), abs=1e-13)


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid", "left", "right"])
def test_integrated_gradients_of_a_linear_network(images, rule):
    """Exact for every rule: captum's trapezoid is wrong by (n - 1) / n here."""
    w, x, start = weights(), images(2, 3, 6, 5, dtype=torch.float64), images(2, 3, 6, 5, seed=1, dtype=torch.float64)
    found = attribution.create("ig", linear(w, 2.0), rule=rule, steps=10, baseline=start, channels="keep").explain(x, 0)
    close(found.maps, w * (x - start), FINE)
    assert float(found.details["convergence_delta"].abs().max()) < 1e-12 * float(found.maps.abs().sum())


def test_completeness_on_a_network_of_relus(networks, images):
    network, x = networks.cnn().double(), images(3, dtype=torch.float64)
    found = attribution.create("ig", network, steps=200, rule="midpoint", channels="keep").explain(x, [0, 1, 2])
    start = network(torch.zeros_like(x)).detach()[range(3), [0, 1, 2]]
    difference = found.scores - start
    # kinks: the error falls as 1 / steps, and the reference asks for 1e-3 of the difference
    assert float(((found.maps.flatten(1).sum(1) - difference) / difference).abs().max()) < 1e-3 * 5
    torch.testing.assert_close(
        found.details["convergence_delta"], found.maps.flatten(1).sum(1) - difference, rtol=1e-6, atol=1e-12
    )


def test_completeness_on_a_smooth_network(networks, images):
    network, x = networks.smooth(1, 3).double(), images(3, 1, dtype=torch.float64)
    found = attribution.create("ig", network, steps=40).explain(x, 1)
    # Gauss-Legendre converges geometrically on what is analytic
    assert float(found.details["convergence_delta"].abs().max()) < 1e-9


def test_sensitivity():
    """1 - relu(1 - x) from 0 to 2: the gradient at 2 is zero, the difference is one."""

    class Saturating(nn.Module):
        def forward(self, x):
            return (1 - (1 - x.flatten(1)).relu()).sum(1, keepdim=True)

    x = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    model = Model(Saturating(), bounds=None)
    assert float(attribution.create("saliency", model).attribute(x, 0)) == 0
    assert float(attribution.create("ig", model, rule="midpoint", steps=50).attribute(x, 0)) == pytest.approx(
        1, abs=1e-12
    )
    # an odd number of Gauss nodes puts one on the kink, half of whose weight is the error; an even one is exact
    assert float(attribution.create("ig", model, steps=50).attribute(x, 0)) == pytest.approx(1, abs=1e-12)


def test_what_does_not_matter_gets_nothing(networks, images):
    network = networks.cnn()

    class Blind(nn.Module):
        def forward(self, x):
            x = x.clone()
            x[:, :, :, :3] = 0
            return network(x)

    x = images(2)
    for rule in ("gauss_legendre", "trapezoid"):
        found = attribution.create("ig", Model(Blind(), fast=False), steps=8, rule=rule, baseline=0.3).attribute(x, 0)
        assert not found[..., :3].any()
        assert found[..., 3:].any()
    start = x.clone()
    start[:, :, 4:] = 0
    same = attribution.create("ig", network, steps=8, baseline=start).attribute(x, 0)
    assert not same[:, :, :4].any()  # a pixel that equals the baseline


def test_a_cubic_is_exact_at_two_gauss_nodes():
    class Cubic(nn.Module):
        def forward(self, x):
            a, b = x.flatten(1).unbind(1)
            return (a**3 + 2 * a * b**2 - b)[:, None]

    x, start = torch.tensor([0.7, -0.4]).double(), torch.tensor([-0.2, 0.9]).double()
    model = Model(Cubic(), bounds=None)
    found = {
        n: attribution.create("ig", model, steps=n, baseline=start.reshape(1, 1, 1, 2)).explain(
            x.reshape(1, 1, 1, 2), 0
        )
        for n in (1, 2, 30)
    }
    close(found[2].maps, found[30].maps, 1e-13)
    assert float(found[2].details["convergence_delta"].abs()) < 1e-14
    assert float(found[1].details["convergence_delta"].abs()) > 1e-2


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_integrated_gradients_do_not_depend_on_the_chunks(networks, images, size):
    x = images(3, dtype=torch.float64)
    wanted = attribution.create("ig", Model(networks.cnn().double(), batch_size=1000), steps=9).attribute(x, [0, 1, 2])
    close(
        attribution.create("ig", Model(networks.cnn().double(), batch_size=size), steps=9).attribute(x, [0, 1, 2]),
        wanted,
        FINE,
    )


def test_integrated_gradients_are_linear_in_the_network(networks, images):
    one, two = networks.smooth(1, 3), networks.lively(networks.smooth(1, 3), seed=9)
    x = images(2, 1)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x):
            return 2 * self.one(x) - 3 * self.two(x)

    maps = [
        attribution.create("ig", Model(n.double(), fast=False), steps=6).attribute(x.double(), 0)
        for n in (Both(), one, two)
    ]
    close(maps[0], 2 * maps[1] - 3 * maps[2], FINE)


# -- occlusion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(6, 5, 2, 2), (6, 5, 3, 2), (6, 5, 4, 3), (6, 5, 2, 1), (7, 9, 3, 3), (4, 4, 9, 4), (5, 5, 5, 5)],
)
def test_occlusion_of_a_linear_network_is_the_mean_over_windows(images, height, width, window, stride):
    w = weights(3, height, width)
    x, start = (
        images(2, 3, height, width, dtype=torch.float64),
        images(2, 3, height, width, seed=1, dtype=torch.float64),
    )
    found = attribution.create("occlusion", linear(w, 1.0), window=window, stride=stride, baseline=start).explain(x, 0)
    part = (w * (x - start)).sum(1)
    total, number = torch.zeros(2, height, width, dtype=torch.float64), torch.zeros(height, width, dtype=torch.float64)
    falls = []
    tops, lefts = (range(0, max(n - window, 0) + stride if n > window else 1, stride) for n in (height, width))
    for top, left in itertools.product(tops, lefts):
        place = (..., slice(top, top + window), slice(left, left + window))
        fall = part[place].sum((1, 2))
        falls.append(fall)
        total[place] += fall[:, None, None]
        number[place] += 1
    assert bool((number > 0).all())
    close(found.maps[:, 0], total / number, FINE)
    close(found.details["falls"].flatten(1), torch.stack(falls, 1), FINE)


@pytest.mark.parametrize(
    ("length", "window", "stride", "wanted"),
    [
        (10, 4, 4, [0, 4, 8]),
        (8, 4, 4, [0, 4]),
        (8, 4, 3, [0, 3, 6]),
        (3, 5, 2, [0]),
        (5, 5, 1, [0]),
        (9, 4, 2, [0, 2, 4, 6]),
        (224, 32, 16, list(range(0, 193, 16))),
    ],
)
def test_windows_cover_an_axis(length, window, stride, wanted):
    found = positions(length, window, stride)
    assert found == wanted
    assert set(range(length)) <= {p for s in found for p in range(s, s + window)}


def test_occlusion_of_a_product():
    """Either factor alone brings the score to zero, so covering either costs all of it."""

    class Product(nn.Module):
        def forward(self, x):
            return (x[:, 0, :2, :2].sum((1, 2)) * x[:, 0, 2:, 2:].sum((1, 2)))[:, None]

    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Model(Product())
    found = attribution.create("occlusion", model, window=2, stride=2, baseline=0.0).explain(x, 0)
    score = float(found.scores)
    np.testing.assert_allclose(found.details["falls"][0].numpy(), [[score, 0], [0, score]], atol=1e-12)


@pytest.mark.parametrize(("window", "stride"), [((3, 5), (2, 4)), ((4, 2), 2), ((2, 9), (1, 3)), (4, (3, 1))])
def test_occlusion_with_rectangles_is_captums(networks, images, window, stride):
    network, x = networks.cnn().double(), images(2, height=10, width=7, dtype=torch.float64)
    made = attribution.create("occlusion", network, window=window, stride=stride, baseline=0.25)
    sizes = [(n, n) if isinstance(n, int) else n for n in (window, stride)]
    sizes[0] = (sizes[0][0], min(sizes[0][1], 7))  # captum's windows must fit
    wanted = captum.Occlusion(network).attribute(
        x, (3, *sizes[0]), (3, *sizes[1]), 0.25, target=torch.tensor([1, 3]), perturbations_per_eval=16
    )
    found = made.explain(x, [1, 3])
    close(found.maps, wanted[:, :1], 1e-6)  # captum divides by float32 counts
    assert found.forwards.tolist() == [made.cost((3, 10, 7), **made.params).forwards] * 2


@pytest.mark.parametrize("size", [(3,), (3, 4, 5), (0, 2), (2, -1), (2.0, 2), (True, 2)])
@pytest.mark.parametrize("name", ["window", "stride"])
def test_a_size_is_one_number_or_two(networks, size, name):
    with pytest.raises(ValueError, match=rf"{name}=\(.*give pixels, or \(height, width\)"):
        attribution.create("occlusion", networks.cnn(), **{name: size})


def test_occlusion_of_a_table_and_of_tokens():
    weight = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = Model(lambda x: (x @ weight)[:, None] + 5, kind="table", bounds=None)
    found = attribution.create("occlusion", table, baseline=0.25).explain(x, 0)
    close(found.maps, weight * (x - 0.25), FINE)
    assert found.forwards.tolist() == [5] * 3
    tokens = Model(lambda x: (x.sum(2) @ weight)[:, None] + 5, kind="tokens", bounds=None)
    x = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attribution.create("occlusion", tokens, baseline=x * 0.5).explain(x, 0)
    close(found.details["falls"], weight * x.sum(2) / 2, FINE)
    assert found.maps.shape == x.shape
    assert found.forwards.tolist() == [5] * 3
    one = Model(lambda x: x * 2, kind="table", bounds=None)
    close(attribution.create("occlusion", one, baseline=0.0).attribute(x[:, :1, 0], 0), 2 * x[:, :1, 0], FINE)


def test_the_clean_image_is_paid_once_by_all_who_share_it(networks, images):
    x, model = images(2), Model(networks.cnn())
    labels = attribution.regions.grid(8, 8, 2, 2).expand(2, -1, -1)
    target = model.resolve(x, [0, 3])

    def game():
        baseline = attribution.baselines.make("mean", x, model)
        return attribution.games.Game(model, x, baseline, labels, target, output="logit")

    made = attribution.create("occlusion", model, window=4, stride=4)
    finer = attribution.create("occlusion", model, window=4, stride=2)
    wanted = made.attribute(x, target)
    for first in (True, False):
        with model.sharing():
            before = model.forwards
            if first:
                game().ends()
            found = made.explain(x, target)
            if not first:
                game().ends()
            assert model.forwards - before == 2 * (4 + 2)  # windows, the whole and the empty image
            assert found.forwards.tolist() == [5, 5]  # as if run alone
            torch.testing.assert_close(found.maps, wanted)
            made.attribute(x, target)
            assert model.forwards - before == 2 * (4 + 2)
            finer.attribute(x, target)
            assert model.forwards - before == 2 * (4 + 2 + 9)


def test_without_sharing_clean_and_covered_are_one_stream(networks, images):
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.sum((1, 2, 3))[:, None]

    x, model = images(3), Model(Counting(), batch_size=5, fast=False)
    target = model.resolve(x, 0)
    seen.clear()
    attribution.create("occlusion", model, window=4, stride=4).attribute(x, target)
    assert seen == [5, 5, 5]


# -- grad-cam ----------------------------------------------------------------------------------------------------------


def test_grad_cam_before_a_mean_is_the_class_activation_map(images):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    ).double()
    x = images(2, dtype=torch.float64)
    features = network[:2](x).detach()
    wanted = torch.einsum("nkhw,nk->nhw", features, network[4].weight.detach()[[2, 0]]) / 36
    found = attribution.create("grad_cam", network, relu=False).explain(x, [2, 0])
    close(found.native[:, 0], wanted, FINE)
    assert found.details["layer"] == "1"
    bias = network[4].bias.detach()[[2, 0]]
    torch.testing.assert_close(found.native.sum((1, 2, 3)), found.scores - bias, rtol=1e-10, atol=1e-12)
    clipped = attribution.create("grad_cam", network).explain(x, [2, 0])
    close(clipped.native, found.native.relu(), FINE)


def test_grad_cam_takes_spatial_layers_only(networks, images):
    for layer in ("7", "8"):
        with pytest.raises(ValueError, match="no map of the image"):
            attribution.create("grad_cam", networks.cnn(), layer=layer).attribute(images(), 0)
    with pytest.raises(ValueError, match="no layer '99'"):
        attribution.create("grad_cam", networks.cnn(), layer="99").attribute(images(), 0)
    with pytest.raises(ValueError, match="no convolution"):
        attribution.create("grad_cam", networks.mlp())
    with pytest.raises(ValueError, match="layer"):
        attribution.create("grad_cam", networks.vit()).attribute(images(), 0)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_grad_cam_runs_the_trunk_once_and_the_head_backwards_once(networks, images, size):
    network, counts = networks.cnn(), []
    model, x = Model(network, batch_size=size, fast=False), images(5)
    target = model.resolve(x, 0)
    made = attribution.create("grad_cam", model, layer="5")
    model.layers(x)
    model.split("5")
    model._twin[0].register_forward_hook(lambda m, i, o: counts.append(len(o)))
    with model.ledger(5) as ledger:
        made.compute(x, target)
    assert ledger.forwards.tolist() == [1] * 5
    assert ledger.backwards.tolist() == [1] * 5

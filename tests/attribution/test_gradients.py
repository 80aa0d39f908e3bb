"""The gradient and what is made of it once: closed forms, finite differences, invariances, captum."""

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from captum import attr as captum
from torch import nn

# float64: rounding of sums of some hundred terms
FINE = 1e-10


def close(found, wanted, tolerance=FINE):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    worst = float((found - wanted).abs().max())
    assert worst <= tolerance * max(float(wanted.abs().max()), 1e-12), worst


def keep(name, network, **more):
    return attribution.create(name, network, channels="keep", **more)


@pytest.fixture
def normal():
    def make(*shape, seed=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make


def test_a_linear_network_returns_its_weights_whatever_the_image(networks, images):
    network, x = networks.linear().double(), images(2, 3, 4, 4, dtype=torch.float64)
    for target in range(3):
        weight = network[1].weight[target].detach().reshape(1, 3, 4, 4).expand(2, -1, -1, -1)
        close(keep("gradient", network).attribute(x, target), weight)
        close(attribution.create("gradient", network).attribute(x, target), weight.sum(1, keepdim=True))
        close(attribution.create("saliency", network).attribute(x, target), weight.abs().amax(1, keepdim=True))
        close(keep("input_x_gradient", network).attribute(x, target), weight * x)


@pytest.mark.parametrize("name", ["cnn", "resnet", "smooth", "vit"])
@pytest.mark.parametrize("output", ["logit", "probability", "log_probability", "margin"])
def test_finite_differences_agree(networks, images, name, output):
    """Central differences with steps of 1e-5 in float64: errors of 1e-10 from curvature and from rounding."""
    network = (networks.smooth(3, 5) if name == "smooth" else getattr(networks, name)()).double()
    x = images(1, dtype=torch.float64)
    model = Model(network, bounds=None)
    found = keep("gradient", model, output=output).attribute(x, 2).flatten()
    places = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))[:40]
    moved = torch.zeros(len(places), x.numel(), dtype=torch.float64)
    moved[range(len(places)), places] = 1e-5
    moved = moved.reshape(-1, *x.shape[1:])
    up, down = (model.scores(x + sign * moved, 2, output=output) for sign in (1, -1))
    # 1e-16 of the score over the step, beside the largest gradient
    assert float(((up - down) / 2e-5 - found[places]).abs().max()) <= 1e-6 * float(found.abs().max())


def test_a_leaky_activation_passes_its_slope(images, normal):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.LeakyReLU(0.2), nn.Linear(7, 2)).double()
    with torch.no_grad():
        for p, seed in zip(network.parameters(), range(4), strict=True):
            p.copy_(normal(*p.shape, seed=seed))
    x = images(3, 3, 4, 4, dtype=torch.float64)
    hidden = network[1](x.flatten(1))
    slopes = 0.2 + 0.8 * (hidden > 0).double()
    assert 0 < int((hidden > 0).sum()) < hidden.numel()  # both sides
    wanted = (slopes * network[3].weight[1]) @ network[1].weight
    close(keep("gradient", network).attribute(x, 1), wanted.detach().reshape(x.shape))


def test_algebraically_equal_networks_have_one_gradient(images, normal):
    """Implementation invariance: other operations, the same function."""
    weight = normal(4, 48)

    class One(nn.Module):
        def forward(self, x):
            z = x.flatten(1) @ weight.T
            return torch.stack([z.relu().sum(1), z.square().sum(1)], 1)

    class Other(nn.Module):
        def forward(self, x):
            z = nn.functional.conv2d(x, weight.reshape(4, 3, 4, 4))[:, :, 0, 0]
            return torch.stack([(z + z.abs()).sum(1) / 2, torch.einsum("nk,nk->n", z, z)], 1)

    x = images(3, 3, 4, 4, dtype=torch.float64) - 0.5
    for target in (0, 1):
        for name in ("gradient", "saliency", "input_x_gradient"):
            maps = [keep(name, Model(n, bounds=None)).attribute(x, target) for n in (One(), Other())]
            close(maps[0], maps[1])


def test_input_x_gradient_sums_to_the_score_of_a_network_of_relus_without_biases(networks, images):
    """Euler's theorem: such a network is homogeneous of degree one."""
    network = networks.cnn().double()
    for module in network.modules():
        for name in ("bias", "running_mean"):
            if getattr(module, name, None) is not None:
                getattr(module, name).data.zero_()
    x = images(3, dtype=torch.float64)
    found = attribution.create("input_x_gradient", network).explain(x, [0, 1, 4])
    close(found.maps.sum((1, 2, 3)), found.scores)
    close(
        found.maps, (x * keep("gradient", network).attribute(x, [0, 1, 4])).sum(1, keepdim=True)
    )  # and it is what its name says


@pytest.mark.parametrize("name", ["cnn", "resnet", "vgg", "efficientnet", "vit", "branching"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, FINE)]
)  # float32 through eight layers, ours folded
def test_the_gradient_is_captums(networks, images, name, dtype, tolerance):
    network, x = getattr(networks, name)().to(dtype), images(3, dtype=dtype)
    target = torch.tensor([0, 3, 4])
    wanted = captum.Saliency(network).attribute(x.clone().requires_grad_(), target=target, abs=False).detach()
    close(keep("gradient", network).attribute(x, target), wanted, tolerance)
    for channels, reduce in {
        "sum": wanted.sum(1, keepdim=True),
        "mean": wanted.mean(1, keepdim=True),
        "abs_sum": wanted.abs().sum(1, keepdim=True),
        "max_abs": wanted.abs().amax(1, keepdim=True),
        "l2": wanted.square().sum(1, keepdim=True).sqrt(),
    }.items():
        close(attribution.create("gradient", network, channels=channels).attribute(x, target), reduce, tolerance)


def test_the_sign_says_what_a_brighter_pixel_does(networks, images):
    network, x = networks.smooth(1, 3).double(), images(1, 1, dtype=torch.float64)
    found = attribution.create("gradient", network).explain(x, 1)
    assert bool((found.maps > 0).any())
    assert bool((found.maps < 0).any())
    place = int(found.maps.argmax())
    brighter = x.clone()
    brighter.view(-1)[place] += 1e-4
    with torch.no_grad():
        assert float(network(brighter)[0, 1]) > float(network(x)[0, 1])


def test_a_saturated_score_has_no_gradient():
    class Saturating(nn.Module):
        def forward(self, x):
            return (1 - (1 - x.flatten(1)).relu()).sum(1, keepdim=True)

    x = torch.full((1, 1, 2, 2), 2.0, dtype=torch.float64)
    for name in ("gradient", "saliency", "input_x_gradient"):
        assert not attribution.create(name, Model(Saturating(), bounds=None)).attribute(x, 0).any()


def test_tables_and_tokens_keep_their_shape(networks, normal):
    weight = normal(6)
    table = Model(lambda x: torch.stack([x @ weight, 0 * x[:, 0]], 1), kind="table", bounds=None)
    tokens = Model(lambda x: torch.stack([x.sum(2) @ weight, 0 * x[:, 0, 0]], 1), kind="tokens", bounds=None)
    x = normal(3, 6, seed=1)
    close(attribution.create("gradient", table).attribute(x, 0), weight.expand(3, 6))
    close(attribution.create("saliency", table).attribute(x, 0), weight.abs().expand(3, 6))
    close(attribution.create("input_x_gradient", table).attribute(x, 0), weight * x)
    x = normal(3, 6, 4, seed=1)
    close(attribution.create("gradient", tokens).attribute(x, 0), weight[:, None].expand(3, 6, 4))


def test_the_network_and_its_gradients_are_left_alone(networks, images, untouched):
    network = networks.noisy_in_training().train()
    before = untouched(network)
    attribution.create("gradient", network).attribute(images(2), 0)
    before.check()

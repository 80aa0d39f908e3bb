"""FullGrad: the decomposition by hand and against autograd, completeness, and layers wherever and however often they run."""

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.gradient.full_grad import STREAM
from attriscope.attribution.randomness import gaussians
from torch import nn
from torch.nn import functional

# float64: the same sums in another order, and a layer's terms divided by their range
EXACT = 1e-9


def explain(network, x, target=0, method="full_grad", **more):
    return attribution.create(method, network, **more).explain(x, target)


def close(found, wanted, tolerance=EXACT):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


class Of(nn.Module):
    """A network from a function of its parts, lively and in double precision."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)
        self.double().eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, x):
        return self.function(self, x)


def by_autograd(network, x, target, *, weighted=True, shift=0.0):
    """The formula, written for a sequence of layers: their outputs are kept, and autograd asked about all of them."""
    leaf = x.clone().requires_grad_()
    out, kept = leaf, []
    for layer in network:
        out = layer(out)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            kept.append((out, layer.bias))
        elif isinstance(layer, nn.BatchNorm2d):
            weight = 1.0 if layer.weight is None else layer.weight
            bias = 0.0 if layer.bias is None else layer.bias
            kept.append((out, bias - layer.running_mean * weight / (layer.running_var + layer.eps).sqrt()))
    score = out[range(len(x)), target]
    gradients = torch.autograd.grad(score.sum(), [leaf, *(z for z, _ in kept)])
    layers = [gradients[0] * (x - shift)]
    total = layers[0].sum((1, 2, 3))
    for gradient, (_, bias) in zip(gradients[1:], kept, strict=True):
        terms = gradient * (bias[:, None, None] if gradient.ndim == 4 else bias)
        total = total + terms.flatten(1).sum(1)
        if gradient.ndim == 4:
            layers.append(terms if weighted else gradient)
    return [t.detach() for t in layers], (score - total).detach(), score.detach()


def summed(layers, size):
    """Every layer's terms stretched to [0, 1] image by image, channel by channel enlarged, and summed."""
    whole = 0
    for terms in layers:
        sizes = terms.abs()
        low = sizes.flatten(1).min(1).values[:, None, None, None]
        high = sizes.flatten(1).max(1).values[:, None, None, None]
        enlarged = functional.interpolate((sizes - low) / (high - low), size, mode="bilinear", align_corners=False)
        whole = whole + enlarged.sum(1, keepdim=True)
    return whole


def sequence(**more):
    parts = [
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, **more), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2, bias=False),
        nn.LeakyReLU(), nn.Conv2d(5, 6, 1), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3),
    ]  # fmt: skip
    return Of(lambda m, x: m.whole(x), whole=nn.Sequential(*parts))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("method", ["full_grad", "simple_full_grad"])
def test_it_is_the_formula(images, affine, method):
    network, x, target = sequence(affine=affine), images(3, dtype=torch.float64), [0, 2, 1]
    layers, _, _ = by_autograd(network.whole, x, target, weighted=method == "full_grad")
    found = explain(network, x, target, method)
    close(found.maps, summed(layers, (8, 8)))
    assert found.maps.shape == (3, 1, 8, 8)
    assert float(found.details["completeness"].max()) < EXACT
    assert found.forwards.tolist() == found.backwards.tolist() == [1, 1, 1]


def test_the_decomposition_is_of_what_the_network_sees(images):
    """With a normalising model, the input is the difference from the mean, and there is no further bias."""
    network, x = sequence(), images(2, dtype=torch.float64)
    inner = (x - 0.5) / 0.25
    found = explain(Model(network, mean=0.5, std=0.25), x)
    close(found.maps, explain(Model(network, bounds=None), inner).maps)
    assert float(found.details["completeness"].max()) < EXACT


def test_a_bias_by_hand():
    """relu(x + b) at one pixel, b = (2, -1): terms are x, and b where it is open; each is stretched by itself."""
    conv = nn.Conv2d(1, 1, 1).double()
    conv.weight.data.fill_(1.0)
    conv.bias.data.fill_(-1.0)
    x = torch.tensor([[[[3.0, 0.5], [2.0, 0.0]]]], dtype=torch.float64)
    network = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    network[3].weight.data.copy_(torch.tensor([[1.0, 5.0, 2.0, 1.0]]))
    # the score is 1 * 2 + 2 * 1 = 4 = (3 + 4) - (1 + 2); x * g = (3, 0, 4, 0), b * g = (1, 0, 2, 0)
    found = explain(network, x)
    assert found.maps.flatten().tolist() == [3 / 4 + 1 / 2, 0.0, 1.0 + 1.0, 0.0]
    assert found.details["completeness"].tolist() == [0.0]
    simple = explain(network, x, method="simple_full_grad")  # gradients (1, 0, 2, 0)
    assert simple.maps.flatten().tolist() == [3 / 4 + 1 / 2, 0.0, 1.0 + 1.0, 0.0]


def test_without_biases_it_is_input_times_gradient(images):
    network = Of(
        lambda m, x: m.whole(x),
        whole=nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2, bias=False)),
    )
    x = images(2, dtype=torch.float64)
    product = attribution.create("input_x_gradient", network, channels="keep").attribute(x, 0)
    found = explain(network, x)
    close(found.maps, summed([product], (8, 8)))
    assert float(found.details["completeness"].max()) < EXACT


@pytest.mark.parametrize("name", ["cnn", "vgg", "resnet", "torchvision_densenet", "preactivation_resnet"])
@pytest.mark.parametrize("fast", [True, False])
def test_networks_of_relus_are_complete(networks, zoo, images, name, fast):
    """Skips, in-place and reused activations, concatenations."""
    if hasattr(networks, name):
        network, x = getattr(networks, name)(), images(2)
    else:
        network, x = zoo.build(name), zoo.images(name)
    found = explain(Model(network, fast=fast), x)
    assert float(found.details["completeness"].max()) < 1e-3  # float32: rounding over some twenty layers
    double = explain(Model(network.double(), fast=fast), x.double())
    assert float(double.details["completeness"].max()) < EXACT
    close(found.maps, double.maps.float(), 1e-3)


def test_reused_layers_count_for_each_call_and_order_does_not_matter(images):
    """A network whose layers run in another order than they are declared, one of them twice."""

    def run(m, x):
        h = m.act(m.bn(m.conv(x)))
        h = m.act(m.again(h))
        h = m.act(m.again(h) + h)
        return m.fc(h.mean((2, 3)))

    x = images(2, dtype=torch.float64)
    network = Of(
        run, fc=nn.Linear(4, 3), again=nn.Conv2d(4, 4, 3, padding=1), act=nn.ReLU(inplace=True), bn=nn.BatchNorm2d(4),
        conv=nn.Conv2d(3, 4, 3, padding=1),
    )  # fmt: skip
    found = explain(network, x, [0, 2])
    assert float(found.details["completeness"].max()) < EXACT
    leaf = x.clone().requires_grad_()
    z0 = network.conv(leaf)
    z1 = network.bn(z0)
    z2 = network.again(z1.relu())
    z3 = network.again(z2.relu())
    score = network.fc((z3 + z2.relu()).relu().mean((2, 3)))[[0, 1], [0, 2]]
    gradients = torch.autograd.grad(score.sum(), [leaf, z0, z1, z2, z3])
    effective = network.bn(torch.zeros(1, 4, 1, 1).double())[0]
    biases = [x, network.conv.bias[:, None, None], effective, *[network.again.bias[:, None, None]] * 2]
    layers = [(g * b).detach() for g, b in zip(gradients, biases, strict=True)]
    close(found.maps, summed(layers, (8, 8)))


def test_linear_layers_count_for_completeness_alone(images):
    """A linear layer over the channels of every place, and the projections of an attention that is constant."""

    def run(m, x):
        h = m.fc(m.conv(x).permute(0, 2, 3, 1)).relu()
        return m.last(m.attention(*[h.flatten(1, 2)] * 3)[0].mean(1))

    network = Of(
        run, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 6), attention=nn.MultiheadAttention(6, 2, batch_first=True),
        last=nn.Linear(6, 2),
    )  # fmt: skip
    network.attention.in_proj_weight.data[:12] = 0  # queries and keys are their biases
    x = images(2, dtype=torch.float64)
    found = explain(network, x)
    assert float(found.details["completeness"].max()) < EXACT
    leaf = x.clone().requires_grad_()
    z = network.conv(leaf)
    out = network.attention(*[network.fc(z.permute(0, 2, 3, 1)).relu().flatten(1, 2)] * 3)[0]
    gradients = torch.autograd.grad(network.last(out.mean(1))[:, 0].sum(), [leaf, z])
    close(found.maps, summed([gradients[0] * x, (gradients[1] * network.conv.bias[:, None, None]).detach()], (8, 8)))


def test_what_is_not_linear_is_told(networks, zoo, images):
    """A Tanh by hand, and the networks that have gates, norms or attention."""
    network = Of(lambda m, x: m.conv(x).tanh().sum((1, 2, 3))[:, None], conv=nn.Conv2d(3, 4, 3))
    x = images(2, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    z = network.conv(leaf)
    score = z.tanh().sum((1, 2, 3))
    left = (score - (z * (1 - z.tanh() ** 2)).sum((1, 2, 3))).detach()
    close(explain(network, x).details["completeness"], (left / score).abs().detach())
    for name in ("timm_vit", "timm_efficientnet", "torchvision_mobilenet_v2"):  # attention; gates; ReLU6, cut off at 6
        found = explain(zoo.build(name), zoo.images(name))
        assert float(found.details["completeness"].min()) > 1e-3


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm((4, 6, 6))])
def test_the_bias_after_a_norm_counts(images, layer):
    """A norm without its bias hands x * g = 0 on (its slope along its input is eps's), so the bias is what adds up."""
    network = Of(lambda m, x: m.norm(m.conv(x)).flatten(1) @ m.weight, conv=nn.Conv2d(3, 4, 3, bias=False), norm=layer)
    network.weight = nn.Parameter(torch.randn(144, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    x = images(2, dtype=torch.float64)
    found = explain(network, x)
    z = layer(network.conv(x))
    plain = z - (layer.bias if isinstance(layer, nn.LayerNorm) else layer.bias[:, None, None])
    score, left = ((v.flatten(1) @ network.weight)[:, 0].detach() for v in (z, plain))
    # eps of 1e-5 against variances of about one
    assert torch.allclose(found.details["completeness"], (left / score).abs(), atol=1e-2)


@pytest.mark.parametrize("name", ["torchvision_vit", "torchvision_swin", "timm_deit", "hf_swin", "timm_convnext"])
def test_layers_of_tokens_and_windows_tell_their_images_apart(zoo, name):
    """Projections of attention among them: the residual of an image does not depend on the others in the batch."""
    network, x = zoo.build(name).double(), zoo.images(name, 3, dtype=torch.float64)
    together = explain(network, x, 1)
    for i in range(3):
        alone = explain(network, x[i : i + 1], 1)
        close(alone.maps, together.maps[i : i + 1])
        close(alone.details["completeness"], together.details["completeness"][i : i + 1], 1e-7)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_without_noise_smooth_is_full_grad_and_with_noise_the_terms_are_averaged(images):
    network, x, target = sequence(), images(2, dtype=torch.float64), [0, 2]
    still = explain(network, x, target, "smooth_full_grad", noise=0, samples=3)
    close(still.maps, explain(network, x, target).maps)
    assert still.forwards.tolist() == still.backwards.tolist() == [3, 3]
    noisy = explain(network, x, target, "smooth_full_grad", samples=4, noise=0.1, absolute=True, seed=3)
    drawn = gaussians(3, 4, 192, like=x, stream=STREAM).reshape(4, 1, 3, 8, 8)
    points = [by_autograd(network.whole, x + 0.1 * d, target) for d in drawn]
    layers = [sum(terms) for terms in zip(*(p[0] for p in points), strict=True)]
    close(noisy.maps, summed(layers, (8, 8)))
    assert float(noisy.details["completeness"].max()) < EXACT


def test_relative_noise_is_a_part_of_each_image_s_range(images):
    network, x = sequence(), images(2, dtype=torch.float64)
    x[1] *= 0.5
    ranges = x.flatten(1).amax(1) - x.flatten(1).amin(1)
    found = explain(network, x, method="smooth_full_grad", samples=2, noise=0.2)
    for size in (1, 2):
        model = Model(network, batch_size=size)
        close(explain(model, x, method="smooth_full_grad", samples=2, noise=0.2).maps, found.maps)
    for i in range(2):
        noise = 0.2 * float(ranges[i])
        one = explain(network, x[i : i + 1], method="smooth_full_grad", samples=2, noise=noise, absolute=True)
        close(found.maps[i : i + 1], one.maps)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full_grad", "simple_full_grad", "smooth_full_grad"])
def test_a_network_without_spatial_layers_is_refused(networks, images, method):
    with pytest.raises(ValueError, match="no convolution was found"):
        explain(networks.mlp(), images(), method=method)
    network = networks.mlp()
    with pytest.raises(ValueError, match="sums maps of convolutions and batch norms"):
        explain(Model(lambda x: network(x)), images(), method=method)


def test_a_layer_of_equal_terms_adds_nothing(images):
    """All terms of the bias are alike, so none stands out: 0 and not NaN."""
    conv = nn.Conv2d(3, 1, 1).double()
    network = Of(lambda m, x: m.conv(x).mean((2, 3)), conv=conv)
    x = images(2, dtype=torch.float64)
    product = attribution.create("input_x_gradient", network, channels="keep").attribute(x, 0)
    close(explain(network, x).maps, summed([product], (8, 8)))


def test_a_batch_norm_in_training_mode_and_the_caller_s_hooks_are_left_alone(networks, images, untouched):
    network, x = networks.resnet().train(), images(2)
    before = untouched(network)
    for method in ("full_grad", "simple_full_grad"):
        explain(network, x, method=method)
    before.check()

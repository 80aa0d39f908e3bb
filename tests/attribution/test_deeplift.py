"""DeepLIFT: hand results, exact sums on every network, and captum where it has rules for everything and they are right."""

import copy
import warnings

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from captum import attr as captum
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")  # captum, on every call

# float64: rounding over some twenty layers, and sums of some thousand terms
EXACT = 1e-10


def close(found, wanted, tolerance=EXACT):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(network, **more):
    return Model(network, kind="table", bounds=None, **more)


def explain(network, x, target=0, method="deeplift", **more):
    return attribution.create(method, network, **{"channels": "keep", **more}).explain(x, target)


def column(function):
    """A network of one output from a function `(N, F) -> (N,)`."""
    return table(lambda x: function(x)[:, None], activation="none")


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_saturated_minimum_shares_between_its_inputs():
    """min(1, x1 + x2) at (2, 1): gradients are zero; of the gain 1 the inputs get 2/3 and 1/3."""
    network = column(lambda x: 1 - (1 - x.sum(1)).relu())
    assert torch.allclose(explain(network, row(2, 1)).maps, row(2 / 3, 1 / 3))
    assert attribution.create("gradient", network).attribute(row(2, 1), 0).tolist() == [[0.0, 0.0]]


def test_one_relu_hands_on_the_part_of_the_way_on_which_it_was_open():
    """From -1 to 3 a ReLU gains 3: its multiplier is 3/4. At the baseline itself it is the derivative."""
    network = column(lambda x: (2 * x[:, 0] - x[:, 1]).relu())
    assert torch.allclose(explain(network, row(2, 1), baseline=row(0, 1)).maps, row(3 / 4 * 2 * 2, 0))
    # both inputs differ and their sum does not: only a multiplier of the derivative tells how they cancel
    assert explain(network, row(3, 5), baseline=row(2, 3)).maps.tolist() == [[2.0, -2.0]]
    assert explain(network, row(1, 5), baseline=row(0, 3)).maps.tolist() == [[0.0, 0.0]]


def test_a_product_gives_each_factor_the_mean_of_the_other():
    network = column(lambda x: x[:, 0] * x[:, 1])
    assert explain(network, row(3, 5), baseline=row(1, 2)).maps.tolist() == [[2 * 3.5, 3 * 2.0]]
    assert explain(column(lambda x: x[:, 0] * x[:, 0]), row(3, 0), baseline=row(1, 0)).maps.tolist() == [[8.0, 0.0]]


def test_a_quotient_is_the_product_that_it_undoes():
    """a = q b: what a gains is the gain of q times the mean of b, and the mean of q times the gain of b."""
    network = column(lambda x: x[:, 0] / x[:, 1])
    assert explain(network, row(6, 3), baseline=row(2, 1)).maps.tolist() == [[2.0, -2.0]]  # 4 / 2, and 2 * 2 / 2
    assert torch.allclose(explain(network, row(6, 2), baseline=row(0, 1e-9)).maps, row(6, -3))  # and not 1e9
    # from 2 / -1 to 6 / 3 the mean of b's reciprocals is -1/3, and the reciprocal gains 4/3
    assert torch.allclose(explain(network, row(6, 3), baseline=row(2, -1)).maps, row(-4 / 3, 16 / 3))
    one = column(lambda x: 2 / x[:, 0])
    assert torch.allclose(explain(one, row(4), baseline=row(1)).maps, row(-1.5))


def test_a_maximum_gives_gains_to_its_winner_and_losses_to_the_baseline_s():
    network = column(lambda x: functional.max_pool1d(x[:, None], 3).flatten())
    assert explain(network, row(1, 7, 3), baseline=row(4, 2, 0)).maps.tolist() == [[0.0, 3.0, 0.0]]  # 4 to 7
    assert explain(network, row(1, 2, 3), baseline=row(5, 2, 1)).maps.tolist() == [[-2.0, 0.0, 0.0]]  # 5 to 3
    assert explain(network, row(1, 2, 5), baseline=row(5, 2, 1)).maps.tolist() == [[0.0, 0.0, 0.0]]  # 5 to 5
    for function in (lambda x: x.amax(1), lambda x: x.max(1).values, lambda x: torch.max(x, dim=1)[0]):
        assert explain(column(function), row(1, 7, 3), baseline=row(4, 2, 0)).maps.tolist() == [[0.0, 3.0, 0.0]]
    for function in (lambda x: x.amin(1), lambda x: x.min(1)[0]):
        assert explain(column(function), -row(1, 7, 3), baseline=-row(4, 2, 0)).maps.tolist() == [[0.0, -3.0, 0.0]]


def test_a_maximum_where_nothing_differs_hands_on_to_its_winner_alone():
    """x = x0 at the winner, reached by inputs that cancel: the multiplier is the derivative, once."""
    network = column(
        lambda x: functional.max_pool1d(torch.stack([x[:, 0] + x[:, 1], 0 * x[:, 0]], 1)[:, None], 2).flatten()
    )
    assert explain(network, row(3, 2), baseline=row(1, 4)).maps.tolist() == [[2.0, -2.0]]
    # the baseline's winner falls from 5 to 0, by 3 above the new one, which is where it was and has no part in it
    network = column(lambda x: torch.stack([x[:, 0] + x[:, 1], x[:, 2]], 1).amax(1))
    assert torch.equal(explain(network, row(3, -1, 0), baseline=row(1, 1, 5)).maps, row(0, 0, -3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.max_pool1d(x[:, None], 3).flatten(), lambda x: x.amax(1), lambda x: x.max(1).values,
        lambda x: -(-x).amin(1), lambda x: functional.max_pool2d(x[:, None, :, None], (3, 1)).flatten(),
        lambda x: functional.adaptive_max_pool3d(x[:, None, None, None], 1).flatten(),
    ],
)  # fmt: skip
def test_of_values_that_rounding_alone_tells_apart_the_first_wins(function):
    """A uniform baseline ties in every window; which of its values is largest is up to the kernels that computed them."""
    x, noise = row(0.5, 0.25, 0.75), 1e-7
    for last in (row(0, 0, noise), row(noise, 0, 0), row(0, noise, 0)):
        found = explain(column(function), x, baseline=1 + last)
        assert torch.allclose(found.maps, row(-0.25, 0, 0), rtol=0, atol=2 * noise)
        assert float(found.details["convergence_delta"].abs()) < EXACT
        found = explain(column(function), 1 + last, baseline=x)
        assert torch.allclose(found.maps, row(0.25, 0, 0), rtol=0, atol=2 * noise)
    # more than rounding
    found = explain(column(function), x, baseline=row(1, 1.001, 1))
    assert torch.allclose(found.maps, row(0, -0.251, 0), rtol=0, atol=EXACT)


def test_a_first_that_did_not_move_leaves_the_share_to_the_largest():
    """1e-7 to 3e-7 above a first value that stays: it did not earn anything, and the sum is still exact."""
    found = explain(column(lambda x: x.amax(1)), row(1, 1 + 3e-7), baseline=row(1, 1 + 1e-7))
    assert torch.allclose(found.maps, row(0, 2e-7), rtol=0, atol=1e-12)


def test_the_map_does_not_depend_on_the_rounding_of_kernels(zoo):
    """Batch sizes, the fast copy and float64 round differently, and a constant baseline ties in every window."""
    network, x = zoo.build("torchvision_resnet18"), zoo.images("torchvision_resnet18", 3)

    def found(dtype=torch.float32, **how):
        model = Model(copy.deepcopy(network).to(dtype), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), **how)
        return explain(model, x.to(dtype), 1).maps.double()

    wanted = found(torch.float64, batch_size=3)
    for how in ({"batch_size": 1}, {"batch_size": 2}, {"batch_size": 3}, {"batch_size": 3, "fast": False}):
        close(found(**how), wanted, 1e-4)  # float32 through some twenty layers; another winner is some 0.1


def test_two_inputs_of_a_softmax_by_hand():
    """From (0, 0) to (2, 0): the logarithm of the sum gains log(1 + e^2) - log 2, all by the first; then an exponential."""
    network = column(lambda x: x.softmax(1)[:, 0])
    found = explain(network, row(2, 0)).maps
    p = torch.tensor([2.0, 0], dtype=torch.float64).softmax(0)[0]
    assert torch.allclose(found, torch.stack([p - 0.5, torch.zeros_like(p)])[None])
    # moving all inputs alike changes nothing; what each adds is opposite
    found = explain(network, row(5, 5), baseline=row(1, 1)).maps
    assert abs(float(found.sum())) < EXACT
    assert float(found[0, 0]) == pytest.approx(4 * 0.25)  # 0.5 * (1 - 0.5), the derivative


def test_without_biases_and_from_zero_it_is_input_times_gradient(images):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2, bias=False), nn.LeakyReLU(),
        nn.Flatten(), nn.Linear(16, 3, bias=False),
    ).double()  # fmt: skip
    x = images(2, dtype=torch.float64)
    close(explain(network, x).maps, attribution.create("input_x_gradient", network, channels="keep").attribute(x, 0))


# -- exact on everything -----------------------------------------------------------------------------------------------


def test_it_adds_up_on_every_network_of_the_zoo(zoo, zoo_name):
    network, x = zoo.build(zoo_name).double(), zoo.images(zoo_name, dtype=torch.float64)
    found = explain(Model(network, mean=0.5, std=0.25), x, [1, 3], baseline="mean")
    assert float(found.details["convergence_delta"].abs().max()) < EXACT
    out, before = (zoo.outputs(network, v).detach() for v in ((x - 0.5) / 0.25, torch.zeros_like(x)))
    difference = (out - before)[[0, 1], [1, 3]]
    assert float((found.maps.flatten(1).sum(1) - difference).abs().max()) < EXACT
    assert found.forwards.tolist() == [2, 2]
    assert found.backwards.tolist() == [1, 1]
    alone = explain(Model(network, mean=0.5, std=0.25), x[1:], 3, baseline="mean").maps
    close(found.maps[1:], alone, 1e-8)  # multipliers of large cancelling terms: rounding differs with the batch


@pytest.mark.parametrize("name", ["timm_efficientnet", "torchvision_vit"])
@pytest.mark.parametrize("output", ["probability", "log_probability", "margin"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_every_score_adds_up(zoo, name, output, activation):
    network, x = zoo.build(name).double(), zoo.images(name, dtype=torch.float64)
    model = Model(network, activation=activation)
    found = explain(model, x, [0, 4], output=output)
    difference = found.scores - model.scores(torch.zeros_like(x), [0, 4], output=output)
    assert float((found.maps.flatten(1).sum(1) - difference).abs().max()) < EXACT


ONE = {
    **{n: getattr(functional, n) for n in ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "silu", "gelu",
       "mish", "hardswish", "hardsigmoid", "softplus", "softsign", "tanh", "sigmoid", "logsigmoid", "tanhshrink",
       "softshrink", "hardshrink")},
    **{n: getattr(torch, n) for n in ("exp", "expm1", "square", "abs", "sin", "cos", "atan", "erf", "sign", "floor")},
    "sqrt": lambda x: (x * x).sqrt(), "log": lambda x: (x * x + 1).log(), "rsqrt": lambda x: (x * x + 0.1).rsqrt(),
    "reciprocal": lambda x: 1 / (x * x + 1), "pow": lambda x: x**3, "rpow": lambda x: 2**x, "clamp": lambda x: x.clamp(-1, 1),
    "swish": lambda x: x * torch.sigmoid(x), "glu": lambda x: functional.glu(x, 1), "threshold": lambda x:
    functional.threshold(x, 0.3, 0.1), "softmax": lambda x: x.softmax(-1), "softmin": lambda x: functional.softmin(x, 1),
    "log_softmax": lambda x: x.log_softmax(1), "logsumexp": lambda x: x.logsumexp((1, 2), keepdim=True) * x,
    "maximum": lambda x: torch.maximum(x, x.flip(1)) - torch.minimum(x[:, :1], x), "max": lambda x: torch.max(x, x.roll(1, 1)),
    "amax": lambda x: x.amax((1, 2)), "amin": lambda x: x.amin(2, keepdim=True), "normalize": functional.normalize,
    "length": lambda x: x.norm(dim=2), "layer_norm": lambda x: functional.layer_norm(x, (6,)),
    "group_norm": lambda x: functional.group_norm(x, 2), "instance_norm": functional.instance_norm,
    "rms_norm": lambda x: functional.rms_norm(x, (6,)), "matmul": lambda x: x @ x.transpose(1, 2),
    "einsum": lambda x: torch.einsum("nij,nkj->nik", x, x.tanh()),
    "linear": lambda x: functional.linear(x[0], x[0].tanh())[None],
    "quotient": lambda x: x / (x.exp() + 1), "addcmul": lambda x: torch.addcmul(x, x, x.exp(), value=0.3),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :4], x, x.transpose(1, 2)),
    "max_pool1d": lambda x: functional.max_pool1d(x, 3, 1, 1),
    "max_pool2d": lambda x: functional.max_pool2d(x[None], 2),
    "overlapping": lambda x: functional.max_pool2d(x[None], 3, 1, 1),
    "max_pool3d": lambda x: functional.max_pool3d(x[None, None], (1, 2, 2)), "adaptive": lambda x:
    functional.adaptive_max_pool2d(x[None], (3, 2)),
    "indices": lambda x: functional.max_pool2d(x[None], 2, return_indices=True)[0],
    "attention": lambda x: functional.scaled_dot_product_attention(x, x.tanh(), x),
    "causal": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_every_operation_adds_up_by_itself(name):
    """Between two linear layers, for several images at once where the operation allows it, one by one where it mixes rows."""
    mix, seed = values(24, 24) / 3, values(400, seed=3)

    def run(x):
        out = torch.cat([ONE[name]((one @ mix).reshape(1, 4, 6)).reshape(1, -1) for one in x])
        return out @ seed[: out.shape[1], None]

    x, x0 = values(3, 24, seed=1), values(1, 24, seed=2)
    found = explain(table(run, activation="none"), x, baseline=x0)
    difference = (run(x) - run(x0))[:, 0]
    assert float((found.maps.sum(1) - difference).abs().max()) < EXACT
    assert float(found.maps.abs().max()) > 1e-3


def test_inputs_that_hardly_differ_have_the_derivative_and_not_the_noise_of_a_quotient():
    """A quotient of roundings would be off by its whole size; inputs that cancel would make a map of it."""
    for act in (torch.tanh, functional.gelu, torch.exp, lambda x: torch.stack([x, 0 * x], 1).softmax(1)[:, 0]):
        network = column(lambda x, act=act: act(x[:, 0] - x[:, 1] + 1.5))
        x0 = row(0.5, 0.25)
        slope = attribution.create("gradient", network).attribute(x0, 0)
        for step in (0.0, 2e-16, 1e-15, 5e-15):
            found = explain(network, x0 + row(1, 1) + row(step, 0), baseline=x0).maps
            assert torch.allclose(found, slope, rtol=1e-6)


def test_masked_scores_of_minus_infinity_take_nothing():
    mask = torch.tensor([0.0, -torch.inf, 0.0], dtype=torch.float64)
    network = column(lambda x: ((x + mask).softmax(1) * torch.tensor([1.0, 5.0, 2.0])).sum(1))
    found = explain(network, row(1, 2, 3)).maps
    assert float(found[0, 1]) == 0
    small = column(lambda x: (x[:, ::2].softmax(1) * torch.tensor([1.0, 2.0])).sum(1))
    assert torch.allclose(found, explain(small, row(1, 2, 3)).maps)


def test_a_softmax_far_from_the_baseline_s_does_not_overflow():
    network = column(lambda x: x.softmax(1)[:, 0])
    found = explain(network, row(900, 0, -900), baseline=row(-900, 0, 900))
    assert abs(float(found.maps.sum()) - 1) < 1e-9
    assert float(found.maps.abs().max()) < 2
    found = explain(network, row(3, 0), baseline=row(-900, 900))
    assert float(found.maps.sum()) == pytest.approx(float(row(3, 0).softmax(1)[0, 0]))


def test_a_softmax_may_be_told_to_be_precise():
    network = column(lambda x: x.softmax(1, dtype=torch.float64) @ torch.tensor([1.0, -2, 3], dtype=torch.float64))
    x = row(1, 2, 3)
    found, wanted = explain(network, x.float(), baseline=0.5).maps, explain(network, x, baseline=0.5).maps
    close(found, wanted.float(), 1e-6)  # float32 at the input


def test_vectors_without_length_have_no_share():
    network = column(
        lambda x: 9 * functional.normalize(x.reshape(-1, 2, 2), dim=2).sum((1, 2)) + 7 * x[:, :2].norm(dim=1)
    )
    found = explain(network, row(0, 0, 3, 4))
    assert found.maps[0, :2].tolist() == [0.0, 0.0]
    assert float(found.maps.sum()) == pytest.approx(9 * 1.4)


# -- captum, where it is right -----------------------------------------------------------------------------------------


def plain(networks):
    """Modules that captum has rules for, none used twice, each input read by nothing else."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(20, 6),
        nn.Softplus(), nn.Linear(6, 6), nn.ELU(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3),
    )  # fmt: skip
    return networks.lively(network).double()


@pytest.mark.parametrize("name", ["cnn", "mlp", "plain", "smooth"])
@pytest.mark.parametrize("baseline", ["zero", "image"])
def test_it_is_captum_s(networks, images, name, baseline):
    network = plain(networks) if name == "plain" else getattr(networks, name)().double()
    x = images(3, 1 if name == "smooth" else 3, dtype=torch.float64)
    x0 = images(1, x.shape[1], seed=5, dtype=torch.float64) if baseline == "image" else torch.zeros_like(x[:1])
    target = torch.tensor([0, 2, 1])
    theirs = captum.DeepLift(network).attribute(x.clone().requires_grad_(), x0.expand_as(x), target=target).detach()
    if name == "plain":
        # of a pool's windows where the winner changes, captum follows other places: left out by a network without such
        network = nn.Sequential(*[nn.AvgPool2d(2) if isinstance(m, nn.MaxPool2d) else m for m in network])
        theirs = captum.DeepLift(network).attribute(x.clone().requires_grad_(), x0.expand_as(x), target=target).detach()
    close(
        explain(network, x, target, baseline=x0).maps, theirs, 1e-8
    )  # captum's derivative starts at a difference of 1e-10


def test_a_max_pool_whose_winner_stays_is_captum_s(networks, images):
    network, x = networks.vgg().double(), images(2, dtype=torch.float64)
    x0 = 0.9 * x  # the same order everywhere in the first pool
    network = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    theirs = captum.DeepLift(network).attribute(x.clone().requires_grad_(), x0, target=0).detach()
    close(explain(network, x, baseline=lambda _: x0).maps, theirs, 1e-8)


def test_references_are_averaged_as_captum_s_are(networks, images):
    network, x, references = (
        networks.cnn().double(),
        images(2, dtype=torch.float64),
        images(5, seed=3, dtype=torch.float64),
    )
    found = explain(network, x, [0, 3], "deep_lift_shap", references=references)
    theirs = captum.DeepLiftShap(network).attribute(x.clone().requires_grad_(), references, target=torch.tensor([0, 3]))
    close(found.maps, theirs.detach(), 1e-8)
    single = [explain(network, x, [0, 3], baseline=r).maps for r in references]
    close(found.maps, sum(single) / 5)


class Skip(nn.Module):
    """y = h + W relu(h): two consumers of the activation's input."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(6, 6).double() for _ in range(3))
        self.act = nn.ReLU()
        for k, parameter in enumerate(self.parameters()):
            parameter.data = values(*parameter.shape, seed=k)

    def forward(self, x):
        h = self.first(x)
        return self.last(h + self.second(self.act(h)))


class Functional(nn.Module):
    def forward(self, x):
        return x.relu()


def delta_of(maps, network, x):
    """By how much the maps miss the difference from zero of output 0."""
    difference = (network(x) - network(torch.zeros_like(x)))[:, 0].detach()
    return float((maps.flatten(1).sum(1) - difference).abs().max())


@pytest.mark.parametrize("name", ["relu6", "skip", "functional", "gelu"])
def test_captum_misses_the_difference_where_we_do_not(name):
    layers = [nn.Linear(6, 6), nn.Linear(6, 3)]
    if name == "skip":
        network = Skip()
    else:
        act = {"relu6": nn.ReLU6(), "gelu": nn.GELU(), "functional": Functional()}[name]
        network = nn.Sequential(layers[0], act, layers[1]).double()
        for k, parameter in enumerate(network.parameters()):
            parameter.data = 4 * values(*parameter.shape, seed=k)
    x = values(4, 6, seed=9)
    theirs = captum.DeepLift(network).attribute(x.clone().requires_grad_(), target=0).detach()
    assert delta_of(theirs, network, x) > 1e-2
    assert delta_of(explain(table(network), x).maps, network, x) < EXACT


def test_a_reused_module_which_captum_refuses(networks, images):
    network, x = networks.resnet().double(), images(2, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        captum.DeepLift(network).attribute(x.clone().requires_grad_(), target=0)
    assert delta_of(explain(network, x).maps, network, x) < EXACT


# -- references --------------------------------------------------------------------------------------------------------


def test_of_a_sum_of_functions_of_pixels_they_are_shapley_values():
    network = column(lambda x: (x**3 * torch.tensor([1.0, -2, 0.5])).sum(1) + 1)
    x, references = values(4, 3), values(7, 3, seed=1)
    found = explain(network, x, method="deep_lift_shap", references=references)
    weight = torch.tensor([1.0, -2, 0.5])
    close(found.maps, weight * (x**3 - (references**3).mean(0)))
    close(found.details["reference_scores"], ((references**3 * weight).sum(1) + 1).expand(4, 7))
    assert float(found.details["convergence_delta"].abs().max()) < EXACT


def test_names_numbers_and_noise_are_references(networks, images):
    network, x = networks.cnn(), images(2)
    model = Model(network)
    several = explain(model, x, method="deep_lift_shap", references=("black", 0.5))
    single = [explain(model, x, baseline=b).maps for b in ("black", 0.5)]
    close(several.maps, sum(single) / 2, 1e-5)  # float32
    assert several.forwards.tolist() == [4, 4]
    assert several.backwards.tolist() == [2, 2]
    noise = [explain(model, x, method="deep_lift_shap", seed=s) for s in (0, 1)]
    assert noise[0].forwards.tolist() == [20, 20]
    assert not torch.equal(noise[0].maps, noise[1].maps)
    assert float(noise[0].details["convergence_delta"].abs().max()) < 1e-5  # float32
    with pytest.raises(ValueError, match="no entries"):
        explain(model, x, method="deep_lift_shap", references=x[:0])


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.relu() if float(x.detach().sum()) > 0 else x.tanh(),
        lambda x: x.relu().tanh() if float(x.detach().sum()) > 0 else x.relu(),
        lambda x: x.relu() if float(x.detach().sum()) > 0 else x.relu().relu(),
        lambda x: (x if float(x.detach().sum()) > 0 else torch.cat([x, x], 1)).relu(),
    ],
)
def test_other_operations_on_the_input_than_on_the_baseline_are_refused(run):
    x = values(1, 3).abs()
    with pytest.raises(ValueError, match="other operations on the input than on the baseline"):
        explain(column(lambda x: run(x).sum(1)), x, baseline=-x)


def test_an_operation_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="deeplift has no rule for the operation 'Cumprod'"):
        explain(column(lambda x: x.cumprod(1).sum(1)), values(1, 3))


def test_picking_values_by_a_comparison_is_warned_about():
    with pytest.warns(RuntimeWarning, match="deeplift misses the difference of the scores by up to"):
        found = explain(column(lambda x: torch.where(x > 0.5, x, 0.0).sum(1)), row(1, 2), baseline=row(0.2, 3))
    assert float(found.details["convergence_delta"]) == pytest.approx(-0.2)


def test_work_in_place_on_what_was_kept_changes_nothing():
    """A network that goes on writing into the inputs and outputs of its activations."""

    def run(x, write):
        h = x * 1.5
        y = h.sigmoid()
        z = torch.tanh(h * 1)
        if write:
            h += 3
            y *= 2
            z.add_(h)
            y.relu_()
        else:
            h = h + 3
            y = (y * 2).relu()
            z = z + h
        return y * z * h

    x = values(2, 4)
    with_it, without = (explain(column(lambda x, w=w: run(x, w).sum(1)), x).maps for w in (True, False))
    close(with_it, without)


def test_baselines_of_their_own_follow_their_images(networks, images):
    network, x, x0 = networks.vgg(), images(3), images(3, seed=1)
    for size in (1, 2):
        found = explain(Model(network, batch_size=size), x, baseline=x0).maps
        alone = [explain(network, x[i : i + 1], baseline=x0[i : i + 1]).maps for i in range(3)]
        close(found, torch.cat(alone), 1e-4)  # float32


def test_nothing_of_the_caller_s_is_touched(networks, images, untouched):
    network, x = networks.vit(), images(2)
    before = untouched(network)
    explain(network, x)
    explain(network, x, method="deep_lift_shap", references=images(2, seed=1))
    before.check()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("name", ["timm_vit", "timm_efficientnet"])
@pytest.mark.filterwarnings("error")
def test_in_half_precision_quotients_are_not_of_rounded_numbers(zoo, name, dtype, near):
    """Some four times what the networks' own rounding does to input times gradient; without, it is up to 0.8."""
    network, x = zoo.build(name), zoo.images(name, 2)
    found = explain(copy.deepcopy(network).to(dtype), x, 1)
    wanted = explain(network, x, 1).maps
    assert float((found.maps - wanted).norm() / wanted.norm()) < near
    size = found.maps.flatten(1).abs().sum(1)
    assert float((found.details["convergence_delta"].abs() / size).max()) < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.gelu(x[:, 0]), lambda x: x.softmax(1)[:, 0], lambda x: x.logsumexp(1),
        lambda x: x[:, 0] * x[:, 1],
        lambda x: x[:, 0] / x[:, 1], lambda x: functional.layer_norm(x, (3,))[:, 0], lambda x: x.amax(1),
        lambda x: torch.maximum(x[:, 0], x[:, 1]), lambda x: functional.prelu(x[:, :1], x.new_full((1,), 0.3).detach())[:, 0],
        lambda x: x.log_softmax(1)[:, 0], lambda x: torch.max(input=x[:, 0], other=x[:, 1]),
    ],
)  # fmt: skip
def test_every_rule_in_half_precision_is_that_of_full_precision(function, dtype):
    """Inputs and baseline are numbers of both; what rounds is the result's own gradient, once or twice."""
    x, start = row(0.75, 1.25, -0.5), row(0.5, 1.5, 0.25)

    def found(kind):
        network = table(lambda x: function(x.to(kind))[:, None], activation="none")
        return explain(network, x.float(), baseline=start.float()).maps

    close(found(dtype), found(torch.float32), 4 * torch.finfo(dtype).eps)


def test_what_is_missed_in_half_precision_is_warned_about_though_the_scores_are_of_full_precision():
    def picks(x):
        h = x.to(torch.bfloat16) * 2
        return torch.where(h.detach() > 1, h, 0.3 * h).float()

    with pytest.warns(RuntimeWarning, match="misses the difference"):
        explain(column(lambda x: picks(x).sum(1)), row(0.75, 0.25).float(), baseline=row(0.25, 0.75).float() * 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rounding alone, of which there is more than float32 has
        explain(column(lambda x: (x.to(torch.bfloat16) * 1.3).exp().float().sum(1)), row(0.7, 0.3).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs(networks, images, dtype):
    network, x = networks.vit(), images(2)
    found = explain(networks.vit().to(dtype), x)
    wanted = explain(network, x)
    assert found.maps.dtype == torch.float32
    # two to three digits, through products and norms
    close(found.maps.sum(1), wanted.maps.sum(1), 0.1)

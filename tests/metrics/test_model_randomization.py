"""Randomized networks: what is drawn, how, in which stages; and the metrics that compare maps of them."""

import random

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics.randomization._networks import Randomized, stages
from attriscope.metrics.randomization.efficient_mprt import histogram_entropy
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

ORDERS = ("top_down", "bottom_up", "independent", "full")


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Conv2d(before, after, 1, stride) if stride > 1 else None

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Its head is registered first: the order in which things run is another."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Residual(8, 8, 2), Residual(8, 8))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16))

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class Frozen(nn.Module):
    """A batch norm whose weights are buffers, and a constant beside them."""

    def __init__(self, width):
        super().__init__()
        for name, value in (("weight", 1.7), ("bias", 0.3), ("running_mean", 0.2), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((width,), value))
        self.register_buffer("table", torch.linspace(0, 1, width))
        self.register_buffer("scratch", torch.ones(width), persistent=False)

    def forward(self, x):
        return (x - self.running_mean) * self.weight / self.running_var.sqrt() + self.bias


class Transformer(nn.Module):
    """Everything that initialisers leave out: a class token, positions, scales, a projection inside the attention."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 17, 8))
        self.scale = nn.Parameter(torch.full((8,), 1e-3))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.frozen = Frozen(8)
        self.mlp = weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm(x)
        x = x + self.scale * self.attend(y, y, y, need_weights=False)[0]
        return self.head(self.frozen(self.mlp(x))[:, 0])


class Noise(Attributor):
    """A method that forgets its seed: never the same twice."""

    def compute(self, inputs, target):
        del target
        Noise.calls += 1
        generator = torch.Generator().manual_seed(Noise.calls)
        return Computed(torch.randn(len(inputs), 1, *inputs.shape[2:], generator=generator), {})

    @classmethod
    def _cost(cls, options, shape):
        del options, shape
        return 0, 0


Noise.calls = 0


def trained(network):
    """Weights and statistics that no initialiser gives."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return network.eval()


def resnet():
    torch.manual_seed(0)
    return trained(ResNet())


def images(n=3, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def states(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def metric(name="model_randomization", **options):
    return metrics.create(name, **{"seeds": 2, **options})


def linear(side=16, classes=3):
    torch.manual_seed(0)
    return attribution.create("gradient", nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes)))


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "names"),
    [
        (1, ["all"]),
        (2, ["conv1 to layer2", "fc"]),
        (4, ["conv1 to bn1", "layer1", "layer2", "fc"]),
        (5, ["conv1 to bn1", "layer1", "layer2.0", "layer2.1", "fc"]),
        (7, ["conv1", "bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]),
    ],
)
def test_stages_are_a_network_s_own_in_the_order_in_which_they_run(most, names):
    assert [s.name for s in stages(attribution.Model(resnet()), images(1), most)] == names


@pytest.mark.parametrize("network", [resnet, Transformer])
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 9, 100])
def test_every_weight_belongs_to_one_stage_and_the_head_stays_alone(network, most):
    network = network().eval()
    found = stages(attribution.Model(network), images(1), most)
    modules = [m for stage in found for m in stage.modules]
    held = [
        f"{m}.{n}".lstrip(".") for m in modules for n, _ in network.get_submodule(m).named_parameters(recurse=False)
    ]
    assert sorted(held) == sorted(n for n, _ in network.named_parameters())
    assert len(modules) == len(set(modules))
    assert len(found) <= most
    assert most == 1 or found[-1].modules in (("fc",), ("head",))


def test_what_lies_beside_all_layers_is_drawn_with_the_first():
    found = stages(attribution.Model(Transformer().eval()), images(1), 4)
    assert "" in found[0].modules
    assert "patches" in found[0].modules


def test_a_network_without_weights_and_a_callable_are_refused():
    with pytest.raises(ValueError, match="no weights"):
        stages(attribution.Model(nn.Flatten()), images(1), 2)
    with pytest.raises(ValueError, match="callable has no layers"):
        metric().score(attribution.create("edge", lambda x: x.flatten(1)), images(), target=0)


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_no_trained_value_is_left():
    network = trained(Transformer())
    before = states(network)
    copied = Randomized(attribution.Model(network))
    copied.draw([n for n, _ in network.named_modules()], seed=0)
    drawn = states(copied.network)
    assert torch.equal(drawn.pop("frozen.table"), before["frozen.table"])  # a constant, as far as anybody can tell
    left = [k for k, v in drawn.items() if bool((v == before[k]).any())]
    assert left == []
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        assert bool((drawn[f"frozen.{name}"] == value).all())
    assert all(bool(v.isfinite().all()) for v in drawn.values())


def test_layers_are_drawn_by_their_own_initialisers():
    network = trained(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Embedding(50, 40, padding_idx=3)))
    copied = Randomized(attribution.Model(network))
    copied.draw(["0", "1", "2"], seed=0)
    conv, norm, embedding = copied.network
    bound = (3 * 9) ** -0.5  # Kaiming's uniform distribution with a = sqrt(5)
    assert float(conv.weight.abs().max()) <= bound
    assert float(conv.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)  # 1728 values: 4 sd are .04
    assert (norm.weight.unique().tolist(), norm.bias.unique().tolist()) == ([1], [0])
    assert (norm.running_mean.unique().tolist(), norm.running_var.unique().tolist()) == ([0], [1])
    assert embedding.weight[3].abs().max() == 0
    assert float(embedding.weight[4:].std()) == pytest.approx(1, abs=0.07)  # 1840 values: 4 sd


def test_what_no_initialiser_sets_keeps_its_mean_and_deviation():
    network = nn.Module()
    network.positions = nn.Parameter(3 + 0.5 * torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    network.scale = nn.Parameter(torch.full((4000,), 1e-5))
    network.zero = nn.Parameter(torch.zeros(4000))
    copied = Randomized(attribution.Model(network))
    copied.draw([""], seed=0)
    got = copied.network
    four = 4 / 4000**0.5
    assert float(got.positions.mean()) == pytest.approx(3, abs=0.5 * four)
    assert float(got.positions.std()) == pytest.approx(0.5, rel=four)
    assert float(got.scale.std()) == pytest.approx(1e-5, rel=four)
    assert float(got.zero.std()) == pytest.approx(1, rel=four)


def test_equal_layers_get_different_weights_and_every_seed_its_own():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    copied = Randomized(attribution.Model(network))
    copied.draw(["0", "1"], seed=0)
    first = states(copied.network)
    assert not torch.equal(first["0.weight"], first["1.weight"])
    copied.draw(["0", "1"], seed=1)
    assert not torch.equal(first["0.weight"], copied.network[0].weight)
    copied.draw(["1", "0"], seed=0)
    assert all(torch.equal(v, first[k]) for k, v in copied.network.state_dict().items())


def test_top_down_and_bottom_up_end_in_the_same_weights():
    x, method = images(), attribution.create("gradient", attribution.Model(resnet()))
    down, up, full = (
        metric(order=o).score(method, x, target=1, curves=True) for o in ("top_down", "bottom_up", "full")
    )
    assert torch.equal(down.values[:, -1], up.values[:, -1])
    assert torch.equal(down.values[:, -1], full.values[:, 0])
    assert not torch.allclose(down.values[:, 0], up.values[:, 0])
    assert torch.equal(down.details["floor"], up.details["floor"])


def test_independent_stages_are_restored_bit_for_bit():
    model = attribution.Model(resnet())
    copied, before = Randomized(model), states(model.network)
    for _ in metric(order="independent")._networks(copied, stages(model, images(), 4), seed=0):
        after = copied.network.state_dict()
        changed = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
        assert len(changed) == 1 or changed == {"conv1", "bn1"}
    assert all(torch.equal(v, before[k]) for k, v in copied.network.state_dict().items())


def test_the_network_and_the_global_generators_are_as_before():
    network = resnet().train()
    network.fc.requires_grad_(False)
    before, modes = states(network), [m.training for m in network.modules()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for name in ("model_randomization", "efficient_mprt", "smooth_mprt"):
        more = {"samples": 2} if name == "smooth_mprt" else {}
        metric(name, **more).score(attribution.create("gradient", attribution.Model(network)), images(), target=0)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.fc.parameters()] == [False, False]
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1] == generators[1]).all()
    assert random.getstate() == generators[2]


def test_what_an_initialiser_leaves_out_is_drawn_all_the_same():
    class Partly(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.scale = nn.Parameter(torch.linspace(1, 2, 4))

    network = Partly()
    copied = Randomized(attribution.Model(network))
    copied.draw([""], seed=0)
    assert not bool((copied.network.scale == network.scale).any())
    assert float(copied.network.weight.abs().max()) <= 0.5  # Linear's own: 1 / sqrt(4)


def test_an_initialiser_that_draws_from_numpy_is_repeatable_and_one_that_wants_arguments_is_none():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((5,), 7.0))

        def reset_parameters(self):
            with torch.no_grad():
                self.weight.copy_(torch.as_tensor(np.random.rand(5)))

    class Told(Own):
        def reset_parameters(self, gain):
            raise AssertionError(gain)

    for network in (Own(), Told()):
        drawn = []
        for _ in range(2):
            copied = Randomized(attribution.Model(network))
            copied.draw([""], seed=0)
            drawn.append(copied.network.weight)
            np.random.rand(3)
        assert torch.equal(*drawn)
        assert not bool((drawn[0] == 7).any())


# -- the metric --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_a_method_that_is_blind_to_the_model_stays_the_same(order):
    found = metric(order=order).score(
        attribution.create("edge", attribution.Model(resnet())), images(), target=0, curves=True
    )
    assert found.scores.tolist() == [1, 1, 1]
    assert bool((found.values == 1).all())
    assert found.details["ceiling"].tolist() == found.details["floor"].tolist() == [1, 1, 1]
    assert found.values.shape == (3, {"full": 1}.get(order, 6))
    assert found.fractions[-1] == 1


def test_fresh_noise_is_told_by_the_ceiling():
    method = Noise(attribution.Model(resnet()))
    found = metric(seeds=1).score(method, images(), target=0, curves=True)
    four = 4 / 255**0.5  # 16 x 16 pixels
    assert bool((found.scores.abs() < four).all())
    assert bool((found.details["ceiling"].abs() < four).all())
    seeded = metric(seeds=1).score(attribution.create("random", method.model), images(), target=0, curves=True)
    assert bool((seeded.details["ceiling"].abs() < four).all())
    assert seeded.scores.tolist() == [1, 1, 1]  # and its own seed hides nothing


def test_a_copy_that_nothing_was_drawn_in_gives_the_same_maps():
    method = attribution.create("gradient", attribution.Model(resnet()))
    other = method.with_model(Randomized(method.model).model)
    # the trained network runs as its fast copy, whose rounding is another
    assert torch.allclose(method.attribute(images(), 1), other.attribute(images(), 1), rtol=1e-4, atol=1e-3)
    scored = metric().score(method, images(), target=1, curves=True)
    assert scored.details["ceiling"].tolist() == [1, 1, 1]


def test_the_gradient_of_a_random_line_has_nothing_to_do_with_the_trained_one():
    method = linear()
    found = metric(seeds=40, order="full").score(method, images(), target=1, curves=True)
    pixels = 256  # the map adds up channels: 256 independent sums
    deviation = (pixels - 1) ** -0.5
    assert float(found.scores[0]) == pytest.approx(0, abs=4 * deviation / 40**0.5)
    assert float(found.details["spread"][0]) == pytest.approx(deviation, rel=4 / 80**0.5)  # 4 sd of a deviation
    assert found.scores[0] == pytest.approx(found.scores[1])  # a line's gradient is the same for all images


def test_the_target_stays_the_trained_network_s_class():
    class Class(Attributor):
        def compute(self, inputs, target):
            SEEN.append(target.index.flatten().tolist())
            return Computed(inputs.mean(1, keepdim=True), {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    model = attribution.Model(resnet())
    metric().score(Class(model), images(), target=None)
    assert all(s == model.outputs(images()).argmax(1).tolist() for s in SEEN)


SEEN = []


def test_maps_that_are_zero_are_counted_and_left_out():
    class Rectified(Attributor):
        """Nothing where the head is random: its bias is drawn from values that are never those of the trained one."""

        def compute(self, inputs, target):
            del target
            same = self.model.network.fc.bias[0] == trained_bias
            return Computed(inputs.mean(1, keepdim=True) * same, {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    network = resnet()
    trained_bias = network.fc.bias[0].clone()
    method = Rectified(attribution.Model(network))
    with pytest.warns(RuntimeWarning, match="3 of 3"):
        found = metric(stages=3).score(method, images(), target=0, curves=True)
    assert found.details["undefined"].tolist() == [6, 6, 6]
    part = metric(stages=3, order="bottom_up").score(method, images(), target=0, curves=True)
    assert part.details["undefined"].tolist() == [2, 2, 2]
    assert part.scores.tolist() == [1, 1, 1]
    assert bool(part.values[:, 2].isnan().all())
    assert bool(part.details["floor"].isnan().all())


def test_channel_lengths_survive_below_what_is_random():
    network = resnet()
    found = metric(stages=2, order="independent").score(
        attribution.create("edge", attribution.Model(network)), images(), target=0, curves=True
    )
    alone = metric(stages=1).score(
        attribution.create("edge", attribution.Model(network)), images(), target=0, curves=True
    )
    # the trunk alone gives the same lengths as everything; the head alone leaves them: 1
    assert torch.allclose(found.details["survival"], (alone.details["survival"] + 1) / 2)
    assert bool((alone.details["survival"] < 0.9).all())


def test_one_seed_has_no_floor_and_no_spread():
    found = metric(seeds=1).score(linear(), images(), target=0, curves=True)
    assert bool(found.details["floor"].isnan().all())
    assert bool(found.details["spread"].isnan().all())
    assert bool(found.details["survival"].isnan().all())  # a line has no layer with a map


def test_seeds_are_runs_of_one_seed_each():
    method = attribution.create("gradient", attribution.Model(resnet()))
    both = metric(seed=3).score(method, images(), target=0)
    alone = [metric(seeds=1, seed=s).score(method, images(), target=0) for s in (3, 4)]
    assert torch.allclose(both, torch.stack(alone).mean(0))


def test_it_runs_in_inference_mode_too():
    method = attribution.create("gradient", attribution.Model(resnet()))
    outside = metric(seeds=1).score(method, images(), target=0)
    with torch.inference_mode():
        inside = metric(seeds=1).score(method, images(), target=0)
        samples = metrics.create("sensitivity_max", samples=2).score(method, images(), target=0)
    assert torch.equal(inside, outside)
    assert bool((samples > 0).all())


def test_options_reach_the_similarity():
    method = attribution.create("gradient", attribution.Model(resnet()))
    found = {
        str(o): metric(seeds=1, **o).score(method, images(), target=0).mean()
        for o in ({}, {"absolute": True}, {"smooth": 2.0}, {"similarity": "ssim"})
    }
    assert len({round(float(v), 6) for v in found.values()}) == 4


@pytest.mark.parametrize("order", ORDERS)
def test_costs_are_the_promised_ones(order):
    model = attribution.Model(resnet())
    made = metric(order=order, stages=4)
    with model.ledger(3) as ledger:
        made.score(attribution.create("gradient", model), images(), target=0)
    assert ledger.backwards.tolist() == [made.explanations + 1] * 3
    assert ledger.forwards.tolist() == [made.explanations + 1 + made.cost()] * 3


def test_a_study_keeps_curves_and_details(tmp_path):
    model = attribution.Model(resnet())
    found = metrics.compare(
        model, images(), [0, 1, 2], attributors=["gradient", "edge"], metrics=[metric(stages=3)], out=tmp_path
    )
    again = metrics.Study.load(tmp_path)
    values = again.curves["gradient", "model_randomization"][1]
    assert torch.equal(values, found.curves["gradient", "model_randomization"][1])
    assert values.shape == (3, 3)
    row = again.scores[(again.scores["method"] == "edge")].iloc[0]
    assert (row["ceiling"], row["undefined"]) == (1, 0)


# -- smooth and efficient ----------------------------------------------------------------------------------------------


def test_smooth_without_noise_is_the_plain_metric():
    method = attribution.create("gradient", attribution.Model(resnet()))
    plain = metric(order="bottom_up").score(method, images(), target=0, curves=True)
    smooth = metric("smooth_mprt", noise=0.0, samples=3).score(method, images(), target=0, curves=True)
    assert torch.allclose(smooth.values, plain.values, atol=1e-6)  # a mean of equals, rounded in float32
    noisy = metric("smooth_mprt", samples=3).score(method, images(), target=0, curves=True)
    assert not torch.allclose(noisy.values, plain.values, atol=1e-3)


def test_every_network_gets_the_same_noise():
    class Input(Attributor):
        def compute(self, inputs, target):
            del target
            return Computed(inputs.mean(1, keepdim=True), {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    found = metric("smooth_mprt", samples=3, noise=0.5).score(Input(attribution.Model(resnet())), images(), target=0)
    assert found.tolist() == [1, 1, 1]


def test_noise_has_the_asked_deviation_and_stays_in_bounds():
    made = metric("smooth_mprt", noise=0.2)
    x = torch.tensor([0.0, 2.0]).repeat(1, 3, 64, 32)
    noisy, _ = made._noisy(None, x, None)(0)
    assert float((noisy - x).std()) == pytest.approx(0.4, rel=4 / (2 * x.numel()) ** 0.5)
    assert float(made._noisy((0.0, 2.0), x, None)(1)[0].max()) == 2


def test_entropy_of_a_histogram():
    maps = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = []
    for m in maps.double().numpy():
        counts, _ = np.histogram(m, bins=20)
        p = counts[counts > 0] / counts.sum()
        expected.append(float(-(p * np.log(p)).sum()))
    assert histogram_entropy(maps, 20).tolist() == pytest.approx(expected, abs=1e-9)
    assert histogram_entropy(1e-20 * maps - 3e-20, 20).tolist() == pytest.approx(expected, abs=1e-2)
    assert histogram_entropy(torch.ones(1, 4), 20).tolist() == [0]


def test_the_rise_is_that_of_both_entropies():
    method = attribution.create("gradient", attribution.Model(resnet()))
    found = metric("efficient_mprt", seeds=1).score(method, images(), target=0, curves=True)
    before, after = found.details["trained"], found.details["randomized"]
    assert torch.allclose(before, histogram_entropy(method.attribute(images(), 0), 100))
    assert torch.allclose(found.scores, (after - before) / before)
    assert bool((found.scores != 0).all())


def test_a_constant_map_has_no_complexity_to_rise_from():
    with pytest.warns(RuntimeWarning, match="no complexity"):
        found = metric("efficient_mprt").score(
            attribution.create("constant", attribution.Model(resnet())), images(), target=0
        )
    assert bool(found.isnan().all())


# -- copies of a model -------------------------------------------------------------------------------------------------


def test_a_copy_shares_no_memory_and_is_charged_to_its_model():
    model = attribution.Model(resnet(), mean=(0.1, 0.2, 0.3), std=(2.0, 2.0, 2.0))
    copied = model.copy()
    assert torch.allclose(copied.outputs(images()), model.outputs(images()), rtol=1e-5)
    assert (model.forwards, copied.forwards) == (6, 3)
    with torch.no_grad():
        copied.network.fc.bias.add_(1)
    assert torch.allclose(copied.outputs(images()) - 1, model.outputs(images()), rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be copied"):
        attribution.Model(lambda x: x.flatten(1)).copy()

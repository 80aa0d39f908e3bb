"""Maps averaged over noise: closed forms, moments, captum on the same noise, invariances, any method inside."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.gradient._noise import STREAM, Moments, deviations, noisy
from attriscope.attribution.randomness import gaussians
from captum import attr as captum
from captum.attr._core import noise_tunnel
from torch import nn

# float64: rounding of sums of some hundred terms
FINE = 1e-10
NAMES = ("smoothgrad", "smoothgrad_sq", "vargrad")


def close(found, wanted, tolerance=FINE):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    worst = float((found - wanted).abs().max())
    assert worst <= tolerance * max(float(wanted.abs().max()), 1e-12), worst


def draws(count, x, seed=0):
    """The noise that every image gets, `(count, C, H, W)`."""
    return gaussians(seed, count, x[0].numel(), like=x, stream=STREAM).reshape(count, *x.shape[1:])


def copies(x, count, noise, seed=0):
    """Noisy copies, `(count, N, C, H, W)`."""
    sigma = noise * (x.flatten(1).amax(1) - x.flatten(1).amin(1))
    return x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * draws(count, x, seed)[:, None]


class Quadratic(nn.Module):
    """Half of x'Ax + b'x, whose gradient is Ax + b."""

    def __init__(self, size):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        a = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
        self.a, self.b = (a + a.T) / 2, torch.randn(size, generator=generator, dtype=torch.float64)

    def forward(self, x):
        x = x.flatten(1)
        return (x @ self.a * x / 2 + x * self.b).sum(1, keepdim=True)


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["gradient", "saliency", "integrated_gradients", "occlusion", "grad_cam"])
def test_without_noise_it_is_the_method_itself(networks, images, name, method):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    base = attribution.create(method, network).explain(x, [1, 2])
    found = attribution.create(name, network, method=method, noise=0.0, samples=3).explain(x, [1, 2])
    if name == "smoothgrad":
        close(found.maps, base.maps)
        close(found.native, base.native)
    elif name == "vargrad":
        assert float(found.maps.abs().max()) <= FINE * float(base.maps.square().max())
        assert float(found.details["half_width"].abs().max()) <= FINE * float(base.maps.square().max())
    elif method in {"occlusion", "saliency"}:  # one map, or the largest of the channels': the square is that of the map
        close(found.maps, base.maps.square())


def test_one_image_of_one_value_gets_no_relative_noise(networks):
    x = torch.full((1, 3, 8, 8), 0.4, dtype=torch.float64)
    network = networks.smooth(3, 4).double()
    base = attribution.create("gradient", network).attribute(x, 1)
    close(attribution.create("smoothgrad", network, samples=3).attribute(x, 1), base)
    moved = attribution.create("smoothgrad", network, samples=3, absolute=True).attribute(x, 1)
    assert float((moved - base).abs().max()) > 1e-3 * float(base.abs().max())


def test_of_a_linear_network_it_is_exact_whatever_the_noise(networks, images):
    network, x = networks.linear().double(), images(2, 3, 4, 4, dtype=torch.float64)
    weight = network[1].weight[2].detach().reshape(1, 3, 4, 4).expand(2, -1, -1, -1)
    more = {"samples": 4, "noise": 2.0, "channels": "keep"}
    found = attribution.create("smoothgrad", network, **more).explain(x, 2)
    close(found.maps, weight)
    assert float(found.details["half_width"].max()) < 1e-12
    close(attribution.create("smoothgrad_sq", network, **more).attribute(x, 2), weight.square())
    assert not attribution.create("vargrad", network, **more).attribute(x, 2).any()
    # the variance of (x + noise) * w is that of the noise, times w squared
    found = attribution.create("vargrad", network, method="input_x_gradient", **more).attribute(x, 2)
    spread = copies(x, 4, 2.0).var(0, correction=0)
    close(found, spread * weight.square())


def test_of_a_quadratic_it_is_the_gradient_at_the_mean_of_the_copies(images):
    x = images(3, 1, 4, 4, dtype=torch.float64)
    network = Quadratic(16)
    model = Model(network, bounds=None, fast=False)
    points = copies(x, 30, 0.2)
    gradients = (points.flatten(2) @ network.a + network.b).reshape(points.shape)
    more = {"samples": 30, "noise": 0.2}
    found = attribution.create("smoothgrad", model, **more).explain(x, 0)
    close(found.maps, gradients.mean(0))
    close(found.details["half_width"], 2.0452296421327 * (gradients.var(0) / 30).sqrt())  # t of 29 degrees of freedom
    close(attribution.create("smoothgrad_sq", model, **more).attribute(x, 0), gradients.square().mean(0))
    close(attribution.create("vargrad", model, **more).attribute(x, 0), gradients.var(0, correction=0))
    close(attribution.create("vargrad", model, unbiased=True, **more).attribute(x, 0), gradients.var(0))
    # in expectation the gradient at x, and the variance sigma^2 * diag(A^2): within five standard errors of many copies
    many = attribution.create("smoothgrad", model, samples=2000, noise=0.2).attribute(x, 0)
    sigma = 0.2 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).reshape(-1, 1, 1, 1)
    expected = (network.a @ network.a).diagonal().reshape(1, 1, 4, 4) * sigma**2
    error = (many - (x.flatten(1) @ network.a + network.b).reshape(x.shape)) / (expected / 2000).sqrt()
    assert float(error.abs().max()) < 5
    found = attribution.create("vargrad", model, samples=2000, noise=0.2).attribute(x, 0)
    assert float((found / expected - 1).abs().max()) < 5 * (2 / 2000) ** 0.5


def test_the_error_falls_as_one_over_the_root_of_the_samples(images):
    x = images(1, 1, 8, 8, dtype=torch.float64)
    network = Quadratic(64)
    model = Model(network, bounds=None, fast=False)
    true = (x.flatten(1) @ network.a + network.b).reshape(x.shape)
    errors, told = [], []
    for samples in (8, 32, 128):
        found = [attribution.create("smoothgrad", model, samples=samples, seed=s).explain(x, 0) for s in range(8)]
        errors.append(float(torch.stack([f.maps - true for f in found]).square().mean().sqrt()))
        told.append(sum(float((f.details["half_width"] >= (f.maps - true).abs()).double().mean()) for f in found) / 8)
    # 512 errors, of which some 64 x 8 are independent: their root mean square is known to 1 / sqrt(2 * 512) = 3%
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)
    # and the interval holds the truth 95 times of 100; of 512 correlated cases, five standard errors of 1% each
    assert all(share == pytest.approx(0.95, abs=0.05) for share in told), told


# -- moments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_moments_are_those_of_two_passes_however_far_from_zero(offset):
    """Sums of squares would lose 1e12 of 1e16 at the largest offset, and their fourth powers everything."""
    values = offset + torch.rand(200, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    moments = Moments(3, fourth=True)
    for number, value in enumerate(values, start=1):
        moments.add(number, slice(0, 2), value[:2])
        moments.add(number, slice(2, 3), value[2:])
    # what the values themselves keep of their fraction: 1e-16 * offset
    near = 1e-13 + 1e-14 * offset
    close(moments.mean, values.mean(0), near)
    close(moments.variance(), values.var(0, correction=0), near)
    close(moments.variance(unbiased=True), values.var(0), near)
    centred = values - values.mean(0)
    close(moments.third / 200, centred.pow(3).mean(0), 10 * near)
    close(moments.last / 200, centred.pow(4).mean(0), 10 * near)
    t = 1.9719565442518  # of 199 degrees of freedom
    close(moments.half_width(), t * (values.var(0) / 200).sqrt(), near)
    spread = centred.pow(4).mean(0) - centred.square().mean(0).square()
    close(moments.half_width_of_variance(), t * (spread / 200).sqrt(), 10 * near)


def test_a_variance_is_never_negative_in_float32():
    values = 1e4 + torch.rand(50, 1, 100, generator=torch.Generator().manual_seed(0)) * 1e-2
    moments = Moments(1)
    for number, value in enumerate(values, start=1):
        moments.add(number, slice(0, 1), value)
    assert float(moments.variance().min()) >= 0
    assert float((values.square().mean(0) - values.mean(0).square()).min()) < 0  # the other way


def test_the_interval_of_a_variance_is_no_root_of_what_rounding_made_negative():
    """Of two values that come equally often the fourth moment is the variance's square."""
    two = torch.rand(2, 1, 2000, generator=torch.Generator().manual_seed(0))
    moments = Moments(1, fourth=True)
    for number in range(1, 41):
        moments.add(number, slice(0, 1), two[number % 2])
    width = moments.half_width_of_variance()
    assert bool(width.isfinite().all())
    assert float((moments.last / 40 - moments.variance().square()).min()) < 0  # it happens
    assert bool((width <= 1e-2 * moments.variance() + 1e-9).all())


def test_one_sample_has_no_interval(networks, images):
    found = attribution.create("smoothgrad", networks.cnn(), samples=1).explain(images(2), 0)
    assert bool(found.details["half_width"].isnan().all())
    assert bool(Moments(1, fourth=True).half_width_of_variance().isnan().all())
    with pytest.raises(ValueError, match="samples=1: must be at least 2"):
        attribution.create("vargrad", networks.cnn(), samples=1)


def test_the_interval_of_the_variance_holds_it(images):
    """Of normal gradients, the variance is known. The interval is a little short for skew: 0.95 becomes some 0.91."""
    x = images(1, 1, 8, 8, dtype=torch.float64)
    network = Quadratic(64)
    expected = (network.a @ network.a).diagonal().reshape(1, 1, 8, 8) * (0.2 * (x.max() - x.min())) ** 2
    shares = []
    for seed in range(8):
        made = attribution.create("vargrad", Model(network, bounds=None, fast=False), samples=100, noise=0.2, seed=seed)
        found = made.explain(x, 0)
        shares.append(float(((found.maps - expected).abs() <= found.details["half_width"]).double().mean()))
    assert 0.87 < sum(shares) / len(shares) < 0.97


# -- against captum, on the same noise ---------------------------------------------------------------------------------


@pytest.fixture
def same_noise(monkeypatch):
    """Feed captum our draws: it asks for all copies of one image after the other, scaled by its deviation."""

    def feed(x, samples, seed=0):
        def normal(_mean, deviation):
            noise = draws(samples, x, seed).repeat(len(x), *[1] * (x.ndim - 1))
            return noise * deviation

        monkeypatch.setattr(noise_tunnel, "torch", SimpleNamespace(**{**vars(torch), "normal": normal}))

    return feed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("gradient", lambda n: captum.Saliency(n)),
        ("saliency", lambda n: captum.Saliency(n)),
        ("input_x_gradient", lambda n: captum.InputXGradient(n)),
        ("integrated_gradients", lambda n: captum.IntegratedGradients(n)),
    ],
)
@pytest.mark.parametrize("network", ["cnn", "resnet"])
def test_it_is_captums_noise_tunnel(networks, images, same_noise, name, method, theirs, network):  # noqa: PLR0917
    network, x = getattr(networks, network)().double(), images(3, dtype=torch.float64)
    same_noise(x, 7)
    base = attribution.create(method, network, **({"steps": 5} if method == "integrated_gradients" else {}))
    made = attribution.create(name, network, method=base, samples=7, noise=0.3, absolute=True, channels="keep")
    options = {
        "gradient": {"abs": False},
        "saliency": {"abs": True},
        "integrated_gradients": {"n_steps": 5},
    }.get(method, {})
    wanted = captum.NoiseTunnel(theirs(network)).attribute(
        x.clone().requires_grad_(), nt_type=name, nt_samples=7, stdevs=0.3, target=torch.tensor([0, 1, 4]), **options
    )
    # captum's deviations and integration weights are float32; its variance is a difference of squares, whose mean is larger
    scale = 1 if name != "vargrad" else float(made.explain(x, [0, 1, 4]).details["mean"].square().max())
    found = made.attribute(x, [0, 1, 4])
    assert float((found - wanted.detach()).abs().max()) <= 1e-6 * max(float(found.abs().max()), scale)


# -- where noise comes from --------------------------------------------------------------------------------------------


def test_noise_is_a_part_of_each_images_own_range(images):
    x = images(2, dtype=torch.float64)
    x[1] *= 0.1
    sigma = deviations(x, 0.2, absolute=False)
    assert sigma.shape == (2, 1, 1, 1)
    close(sigma.flatten(), 0.2 * torch.stack([one.max() - one.min() for one in x]))
    close(deviations(x, 0.2, absolute=True).flatten(), torch.full((2,), 0.2, dtype=torch.float64))


class Seen(nn.Module):
    """Remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.points = []

    def forward(self, x):
        if x.requires_grad:
            self.points.append(x.detach().clone())
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_image_sees_the_same_draws_in_full_batches(images, size, count):
    x = images(count, dtype=torch.float64)
    seen = Seen()
    model = Model(lambda x: seen(x), batch_size=size)
    attribution.create("smoothgrad", model, samples=6, noise=0.15).attribute(x, 0)
    assert [len(p) for p in seen.points] == [size] * (6 * count // size) + [6 * count % size] * bool(6 * count % size)
    close(torch.cat(seen.points), copies(x, 6, 0.15).flatten(0, 1))
    assert bool((torch.cat(seen.points) > 1).any())  # nothing is cut off at the bounds


def test_more_samples_go_on_where_fewer_ended(images):
    seen = [Seen(), Seen()]
    for one, samples in zip(seen, (3, 9), strict=True):
        attribution.create("smoothgrad", Model(lambda x, one=one: one(x)), samples=samples).attribute(images(2), 0)
    assert torch.equal(torch.cat(seen[1].points)[:6], torch.cat(seen[0].points))


def test_the_seed_changes_the_draws(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    maps = [attribution.create("smoothgrad", network, samples=3, seed=s).attribute(x, 0) for s in (0, 1, 0)]
    close(maps[0], maps[2])
    assert float((maps[0] - maps[1]).abs().max()) > 1e-3 * float(maps[0].abs().max())


@pytest.mark.parametrize("name", [*NAMES, "smooth_ig"])
def test_neither_the_batch_nor_its_size_nor_the_place_changes_a_map(networks, images, name):
    network, x = networks.cnn().double(), images(5, dtype=torch.float64)
    target = [0, 1, 2, 3, 4]
    more = {"samples": 5, **({"steps": 3} if name == "smooth_ig" else {})}
    wanted = attribution.create(name, Model(network, batch_size=1000), **more).explain(x, target)
    for size in (1, 3, 4, 8):
        found = attribution.create(name, Model(network, batch_size=size), **more).explain(x, target)
        close(found.maps, wanted.maps)
        close(found.details["half_width"], wanted.details["half_width"], 1e-8)  # the root of a variance
    back = attribution.create(name, network, **more).explain(x.flip(0), target[::-1])
    close(back.maps.flip(0), wanted.maps)
    alone = attribution.create(name, network, **more).explain(x[3:4], 3)
    close(alone.maps, wanted.maps[3:4])


def test_no_more_than_a_batch_of_copies_is_held(networks, images):
    """Counted where they are handed on: pairs in flight never exceed the batch, whatever the samples."""
    x = images(3)
    model = Model(networks.cnn(), batch_size=4)
    base = attribution.create("gradient", model)
    frozen = model.resolve(x, 1)
    sizes, compute = [], type(base).compute

    def watched(self, inputs, target):
        sizes.append(len(inputs))
        assert len(target) == len(inputs)
        return compute(self, inputs, target)

    base.compute = watched.__get__(base)
    sigma = deviations(x, 0.1, absolute=False)
    with model.ledger(3) as ledger:
        rows = [(s.number, s.rows, len(s.maps)) for s in noisy(base, x, frozen, samples=50, sigma=sigma, seed=0)]
    assert sizes == [4] * 37 + [2]
    assert ledger.forwards.tolist() == ledger.backwards.tolist() == [50] * 3
    for i in range(3):  # each image has each number once, in order
        assert [n for n, part, _ in rows if part.start <= i < part.stop] == list(range(1, 51))
    assert all(part.stop - part.start == n for _, part, n in rows)


# -- any method inside -------------------------------------------------------------------------------------------------

SMALL = {
    "rise": {"masks": 40, "grid": 3},
    "occlusion": {"window": 4, "stride": 4},
    "integrated_gradients": {"steps": 5},
    "grad_cam": {"layer": "2"},
    "lime": {"regions": "grid", "n_regions": 4, "samples": 10},
}


@pytest.mark.parametrize("method", ["rise", "occlusion", "integrated_gradients", "grad_cam", "lime"])
@pytest.mark.parametrize("name", NAMES)
def test_any_method_is_averaged_over_the_same_copies(networks, images, name, method):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    base = attribution.create(method, Model(network, bounds=None, batch_size=3), output="logit", **SMALL[method])
    made = attribution.create(name, Model(network, batch_size=3), method=base, samples=4, noise=0.2)
    found = made.explain(x, [1, 2])
    each = torch.stack([base.explain(points, [1, 2]).native for points in copies(x, 4, 0.2)])
    wanted = {
        "smoothgrad": each.mean(0),
        "smoothgrad_sq": each.square().mean(0),
        "vargrad": each.var(0, correction=0),
    }[name]
    if method != "integrated_gradients" or name == "smoothgrad":  # the others are made of the channels
        close(found.native, wanted, 1e-9)
    assert found.maps.shape == (2, 1, 8, 8)
    cost = type(base).cost((3, 8, 8), **base.params)
    if base.facts.tags["at_most"]:
        assert found.forwards.max() <= 4 * cost.forwards
    else:
        assert found.forwards.tolist() == [4 * cost.forwards] * 2
    assert found.backwards.tolist() == [4 * cost.backwards] * 2
    assert attribution.attributor.REGISTRY.find(name).cost((3, 8, 8), **made.params) == (
        4 * cost.forwards,
        4 * cost.backwards,
    )


def test_a_method_by_name_has_its_defaults_and_this_output(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    by_name = attribution.create("smoothgrad", network, method="IG", output="probability", samples=2)
    by_object = attribution.create(
        "smoothgrad",
        network,
        method=attribution.create("ig", network, output="probability"),
        output="probability",
        samples=2,
    )
    assert by_name.base == by_object.base
    close(by_name.attribute(x, 0), by_object.attribute(x, 0))


def test_a_coarse_map_arrives_resized_as_the_method_does_it(networks, images):
    network, x = networks.cnn(), images(2)
    for resize, size in ((None, 4), ("nearest", 8), ("bilinear", 8)):
        base = attribution.create("grad_cam", network, resize=resize)
        found = attribution.create("smoothgrad", network, method=base, samples=2).explain(x, 0)
        assert found.native.shape == (2, 1, 4, 4)
        assert found.maps.shape == (2, 1, size, size)
        assert found.details["half_width"].shape == (2, 1, 4, 4)
        close(found.maps, base._resize(found.native, (8, 8)), 1e-6)


def test_channels_are_the_methods_own_unless_said(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    each = attribution.create("smoothgrad", network, method="saliency", samples=3, channels="keep").attribute(x, 0)
    close(attribution.create("smoothgrad", network, method="saliency", samples=3).attribute(x, 0), each.amax(1, True))
    for how, wanted in (
        ("sum", each.sum(1, True)),
        ("mean", each.mean(1, True)),
        ("l2", each.square().sum(1, True).sqrt()),
    ):
        made = attribution.create("smoothgrad", network, method="saliency", samples=3, channels=how)
        found = made.explain(x, 0)
        close(found.maps, wanted)
        assert found.details["half_width"].shape[1] == (1 if how in {"sum", "mean"} else 3)


def test_squares_are_taken_before_channels_are_summed(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    each = attribution.create("smoothgrad_sq", network, samples=3, channels="keep").explain(x, 0)
    found = attribution.create("smoothgrad_sq", network, samples=3).explain(x, 0)
    close(found.maps, each.maps.sum(1, True))
    gradients = torch.stack(
        [
            attribution.create("gradient", Model(network, bounds=None), channels="keep").attribute(p, 0)
            for p in copies(x, 3, 0.15)
        ]
    )
    close(each.maps, gradients.square().mean(0))
    t = 4.3026527297495  # of 2 degrees of freedom
    close(found.details["half_width"], t * (gradients.square().sum(2, True).var(0) / 3).sqrt(), 1e-8)


def test_copies_come_in_the_batches_that_suit_the_method(networks, images, monkeypatch):
    for method, purpose in (("gradient", "gradient"), ("occlusion", "forward")):
        model = Model(networks.cnn(), batch_size=2)
        made = attribution.create("smoothgrad", model, method=method, samples=1)
        asked = []
        batch = Model.batch
        monkeypatch.setattr(
            Model,
            "batch",
            lambda self, what="forward", batch=batch, asked=asked: asked.append(what) or batch(self, what),
        )
        made.attribute(images(1), 0)
        monkeypatch.undo()
        assert asked[0] == purpose


def test_something_given_for_each_image_stays_with_it(networks, images):
    """A baseline for each image: copies are explained draw by draw, so that each meets its own."""
    network, x, start = networks.cnn().double(), images(3, dtype=torch.float64), images(3, seed=5, dtype=torch.float64)
    base = attribution.create("ig", network, steps=3, baseline=start)
    found = attribution.create("smoothgrad", Model(network, batch_size=2), method=base, samples=4, noise=0.2).attribute(
        x, 1
    )
    free = base.with_model(Model(network, bounds=None))
    close(found, torch.stack([free.attribute(points, 1) for points in copies(x, 4, 0.2)]).mean(0))
    labels = (torch.arange(64).reshape(8, 8) // 16)[None].expand(3, -1, -1).clone()
    labels[1] = labels[1].T.clone()
    base = attribution.create("feature_ablation", network, regions=labels)
    assert attribution.create("smoothgrad", network, method=base, samples=2).attribute(x, 1).shape == (3, 1, 8, 8)


def test_nothing_of_the_copies_is_kept_for_others(networks, images):
    model, x = Model(networks.cnn().double()), images(2, dtype=torch.float64)
    base = attribution.create("rise", model, masks=20, grid=3)
    made = attribution.create("smoothgrad", model, method=base, output="probability", samples=3)
    alone = made.attribute(x, 0)
    with model.sharing():
        close(made.attribute(x, 0), alone)
        assert not model.shared
        assert model.shared is not None
    with model.sharing(), pytest.raises(KeyError):  # nor is the sharing lost
        try:
            made.attribute(x, lambda _: {}["on purpose"])
        finally:
            assert model.shared == {}


def test_smoothing_can_be_smoothed_and_pickled(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    inner = attribution.create("smoothgrad", network, samples=3, noise=0.1)
    outer = attribution.create("vargrad", network, method=inner, samples=2)
    assert outer.explain(x, 0).forwards.tolist() == [6, 6]
    again = pickle.loads(pickle.dumps(outer))
    assert again == outer
    close(again.attribute(x, 0), outer.attribute(x, 0))
    assert outer.with_model(networks.resnet()).base.model is not outer.model
    assert copy.copy(outer) == outer
    assert outer != attribution.create("vargrad", network, method=attribution.create("smoothgrad", network), samples=2)


def test_what_cannot_be_is_refused_in_a_sentence(networks, images):
    network = networks.cnn()
    with pytest.raises(ValueError, match="no method 'gradiant'; did you mean 'gradient'"):
        attribution.create("smoothgrad", network, method="gradiant")
    with pytest.raises(TypeError, match="method=3: expected str, attributor"):
        attribution.create("smoothgrad", network, method=3)
    with pytest.raises(
        ValueError, match=r"output='logit', but that of its method is 'probability': give both the same"
    ):
        attribution.create("smoothgrad", network, method=attribution.create("rise", network))
    with pytest.raises(ValueError, match="grad_cam does not run on this model"):
        attribution.create("smoothgrad", networks.mlp(), method="grad_cam")
    with pytest.raises(ValueError, match="must be at least 0"):
        attribution.create("smoothgrad", network, noise=-0.1)
    head = Model(network).split("7")[1]
    features = Model(network).split("7")[0].outputs(images(2))
    with pytest.raises(ValueError, match="grad_cam"):
        attribution.create("smoothgrad", head, method=attribution.create("grad_cam", network, layer="2")).attribute(
            features, 0
        )


def test_what_needs_no_gradient_can_be_smoothed_without(images):
    """A callable that autograd cannot see through serves what only looks at scores."""
    weight = torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    model = Model(lambda x: torch.from_numpy(x.detach().flatten(1).numpy() @ weight.T.numpy()))
    made = attribution.create("smoothgrad", model, method="occlusion", samples=3)
    found = made.explain(images(1), 0)
    assert found.backwards.tolist() == [0]
    with pytest.raises(ValueError, match="autograd"):
        attribution.create("smoothgrad", model).attribute(images(1), 0)
    assert "smoothgrad" not in attribution.available(model=model)


def test_a_budget_pays_for_as_many_copies_as_it_can(networks):
    assert attribution.create("smoothgrad", networks.cnn(), budget=101).samples == 50
    base = attribution.create("ig", networks.cnn(), steps=10)
    assert attribution.create("smoothgrad", networks.cnn(), method=base, budget=100).samples == 4  # of 12 + 10
    assert attribution.create("smooth_ig", networks.cnn(), steps=10, budget=100).samples == 4
    with pytest.raises(ValueError, match="does not fit"):
        attribution.create("vargrad", networks.cnn(), budget=3)


# -- smooth integrated gradients ---------------------------------------------------------------------------------------


def test_smooth_ig_is_smoothgrad_of_integrated_gradients(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    base = attribution.create("ig", network, steps=7, rule="trapezoid", baseline=0.3)
    one = attribution.create("smoothgrad", network, method=base, samples=4, noise=0.1, seed=3, channels="keep")
    other = attribution.create(
        "smooth_ig", network, steps=7, rule="trapezoid", baseline=0.3, samples=4, noise=0.1, seed=3, channels="keep"
    )
    found = [m.explain(x, [1, 2]) for m in (one, other)]
    close(found[0].maps, found[1].maps)
    close(found[0].details["half_width"], found[1].details["half_width"], 1e-8)  # the root of a variance
    # a difference of sums of the map's size
    assert float((found[0].details["convergence_delta"] - found[1].details["convergence_delta"]).abs().max()) < 1e-12
    assert found[1].forwards.tolist() == [4 * 7] * 2  # both ends of each line are seen on the way
    assert found[1].backwards.tolist() == [4 * 7] * 2


def test_smooth_ig_sums_to_the_mean_difference_of_the_scores_up_to_what_it_tells(networks, images):
    network, x = networks.cnn().double(), images(3, dtype=torch.float64)
    start = images(3, seed=4, dtype=torch.float64)
    found = attribution.create("smooth_ig", network, steps=5, samples=6, noise=0.2, baseline=start).explain(x, 1)
    with torch.no_grad():
        reached = torch.stack([network(p)[:, 1] for p in copies(x, 6, 0.2)]).mean(0) - network(start)[:, 1]
    delta = found.details["convergence_delta"]
    assert delta.shape == (3,)
    assert float(delta.abs().max()) > 1e-6  # it has something to tell, on a network with kinks
    close(found.maps.sum((1, 2, 3)) - delta, reached)
    smooth = attribution.create("smooth_ig", networks.smooth(3, 3).double(), steps=30, samples=3).explain(x, 1)
    assert float(smooth.details["convergence_delta"].abs().max()) < 1e-6  # Gauss-Legendre on what is analytic


def test_smooth_ig_checks_its_options(networks, images):
    with pytest.raises(ValueError, match="trapezoid"):
        attribution.create("smooth_ig", networks.cnn(), rule="trapezoid", steps=1)
    network = networks.linear(3, 8, 8).double()
    x = images(2, dtype=torch.float64)
    made = attribution.create("smooth_ig", network, steps=2, samples=2)
    wanted = attribution.create("smooth_ig", network, steps=2, samples=2, baseline=0.5).attribute(x, 0)
    close(made.attribute(x, 0, baseline=0.5), wanted)
    assert float((made.attribute(x, 0) - wanted).abs().max()) > 0.1 * float(wanted.abs().max())

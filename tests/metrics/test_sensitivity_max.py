"""Max-sensitivity: closed forms, captum on the same perturbations, and what the perturbations are."""

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics.robustness.sensitivity_max import disturbed
from captum.metrics import sensitivity_max as oracle
from torch import nn


class Given(Attributor):
    """A method that is a function of the image; it counts how many images it was asked about at a time."""

    function: str = "image"
    baseline: torch.Tensor | None = None

    def compute(self, inputs, target):
        ASKED.append((len(inputs), target.index[:, 0].tolist()))
        functions = {"image": lambda x: x, "one": lambda x: torch.ones_like(x), "zero": lambda x: 0 * x}
        return Computed(functions[self.function](inputs), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


ASKED = []


def network(channels=3, side=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * side * side, 3)
    ).eval()


def images(n=3, channels=3, side=6, seed=0):
    """Away from the bounds, so that nothing is set to them."""
    return 0.3 + 0.4 * torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def metric(**options):
    return metrics.create("sensitivity_max", **options)


def test_a_constant_method_and_the_gradient_of_a_line_do_not_change():
    model = attribution.Model(network())
    assert metric().score(Given(model, function="one"), images(), target=0).tolist() == [0, 0, 0]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    assert metric().score(attribution.create("gradient", linear), images(), target=1).tolist() == [0, 0, 0]


def test_the_image_itself_changes_by_the_perturbation():
    """a(x) = x: the largest of |d_k| over |x|, and their mean."""
    x = images(channels=1)
    made = Given(attribution.Model(network(1)))
    found = metric(samples=7, radius=0.1).score(made, x, target=0, curves=True)
    lengths = torch.stack([(disturbed(x, 0.1, k, seed=0) - x).flatten(1).double().norm(dim=1) for k in range(7)])
    own = x.flatten(1).double().norm(dim=1)
    torch.testing.assert_close(found.scores, lengths.amax(0) / own)
    torch.testing.assert_close(found.details["mean"], lengths.mean(0) / own)


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "integrated_gradients"])
def test_it_is_captum_s_on_the_same_perturbations(name):
    x = images()
    model = attribution.Model(network())
    made = attribution.create(name, model)

    def explain(inputs, target):
        return (made.attribute(inputs[0] if isinstance(inputs, tuple) else inputs, target),)

    def perturb(inputs, radius=0.05):
        """Captum repeats every image for each perturbation, one image after the other."""
        drawn = [disturbed(x[:1], radius, k, seed=3) - x[:1] for k in range(5)]
        return inputs + torch.cat(drawn).repeat(len(x), 1, 1, 1)

    target = torch.tensor([0, 1, 2])
    expected = oracle(
        explain, x, perturb_func=perturb, perturb_radius=0.05, n_perturb_samples=5,
        target=target, max_examples_per_batch=15,
    )  # fmt: skip
    found = metric(samples=5, radius=0.05, seed=3).score(made, x, target=target)
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-7)  # maps and norms in single precision


def test_perturbations_are_uniform_in_the_ball_and_independent_of_batch_and_number():
    x = torch.full((2, 3, 40, 40), 0.5)
    moved = disturbed(x, 0.02, 4, seed=1, bounds=(0.0, 1.0)) - x
    assert torch.equal(moved[0], moved[1])
    assert moved.abs().max() <= 0.02 + 1e-7  # of 0.5 in single precision
    # 4800 draws: five standard errors of the mean and of the mean square
    assert moved[0].mean().abs() < 5 * 0.02 / (3 * 4800) ** 0.5
    assert moved[0].square().mean() == pytest.approx(0.02**2 / 3, rel=5 * 0.9 / 4800**0.5)
    assert torch.equal(disturbed(x[:1], 0.02, 4, seed=1) - x[:1], moved[:1])
    for other in (disturbed(x, 0.02, 5, seed=1), disturbed(x, 0.02, 4, seed=2)):
        assert not torch.equal(other - x, moved)


def test_the_radius_is_a_share_of_the_bounds_and_nothing_leaves_them():
    x = torch.tensor([-8.0, 0.0, 8.0]).repeat(12).reshape(1, 1, 6, 6)
    moved = disturbed(x, 0.25, 0, seed=0, bounds=(-8.0, 8.0))
    assert moved.min() == -8
    assert moved.max() == 8
    assert 3 < (moved - x).abs().max() <= 4
    assert disturbed(x, 0.25, 0, seed=0).max() > 8


def test_the_target_is_the_clean_image_s_for_all_draws_and_batches_are_full():
    model = attribution.Model(network(1), batch_size=8)
    x = images(channels=1)
    named = network(1)(x).argmax(1).tolist()
    ASKED.clear()
    metric(samples=5).score(Given(model), x)
    assert [n for n, _ in ASKED] == [3, 6, 6, 3]  # the clean images, then two draws of three images at a time
    assert all(targets == named * (n // 3) for n, targets in ASKED)
    ASKED.clear()
    metric(samples=5).score(Given(model, baseline=torch.zeros(3, 1, 6, 6)), x)  # something for each image
    assert [n for n, _ in ASKED] == [3] * 6


@pytest.mark.parametrize("size", [1, 7, 64])
def test_neither_the_batch_size_nor_mates_count(size):
    x = images()
    expected = metric().score(attribution.create("input_x_gradient", attribution.Model(network())), x, target=1)
    made = attribution.create("input_x_gradient", attribution.Model(network(), batch_size=size))
    # differences of maps in single precision, a fiftieth of the maps
    torch.testing.assert_close(metric().score(made, x, target=1), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(metric().score(made, x[1:2], target=1), expected[1:2], rtol=1e-4, atol=0)


def test_a_callable_is_a_target_too_also_one_with_something_for_each_image():
    x = images()
    made = attribution.create("input_x_gradient", attribution.Model(network(), batch_size=64))
    rows = torch.eye(3)
    expected = metric(samples=3).score(made, x, target=[0, 1, 2])
    for target in (lambda out: out[:, 1], attribution.targets.similarity(rows, "dot")):
        found = metric(samples=3).score(made, x, target=target)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=0)  # single precision, as above
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_the_floor_is_what_another_seed_changes():
    x = images()
    model = attribution.Model(network())
    noisy = attribution.create("smoothgrad", model, samples=3, noise=0.5)
    found = metric(samples=2, floor=True).score(noisy, x, target=0, curves=True)
    one, other = (attribution.create("smoothgrad", model, samples=3, noise=0.5, seed=s).attribute(x, 0) for s in (0, 1))
    expected = (other - one).flatten(1).double().norm(dim=1) / one.flatten(1).double().norm(dim=1)
    torch.testing.assert_close(found.details["floor"], expected, rtol=1e-5, atol=0)  # single precision
    with model.ledger(3) as ledger:
        steady = metric(samples=2, floor=True).score(attribution.create("gradient", model), x, target=0, curves=True)
    assert steady.details["floor"].tolist() == [0, 0, 0]
    assert ledger.backwards.tolist() == [3, 3, 3]  # the map and two draws
    assert metric(samples=2, floor=True).explanations == 3
    assert "floor" not in metric(samples=2).score(noisy, x, target=0, curves=True).details


def test_a_map_of_zeros_is_undefined_and_counted():
    with pytest.warns(RuntimeWarning, match="3 of 3 maps.*no length"):
        found = metric().score(Given(attribution.Model(network()), function="zero"), images(), target=0, curves=True)
    assert found.scores.isnan().all()
    assert found.details["mean"].isnan().all()


def test_maps_from_elsewhere_cannot_be_made_again():
    x = images()
    mine = attribution.from_maps(torch.rand(3, 6, 6), network(), name="mine")
    with pytest.raises(ValueError, match="mine are maps that were made elsewhere"):
        metric().score(mine, x, target=0)


def test_what_methods_share_is_neither_read_nor_filled():
    """In a comparison scores are kept for other methods: those of perturbed images would only fill memory."""
    model = attribution.Model(network())
    made = attribution.create("occlusion", model, window=3, stride=3)
    x = images()
    with model.sharing():
        maps = made.attribute(x, 1)
        held = len(model.shared)
        found = metric(samples=2).measure(made, x, model.resolve(x, 1), maps)
        assert len(model.shared) == held
    torch.testing.assert_close(found.scores, metric(samples=2).score(made, x, target=1), rtol=1e-4, atol=0)

"""HSIC: the brute-force kernel form, closed values, permutation p-values, designs, and the method on networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.perturbation import hsic as module
from attriscope.attribution.perturbation.hsic import (
    design,
    features,
    hsic_dirac,
    interactions_dirac,
    permutation_p_values,
    width,
)
from torch import nn

FACTORIAL = torch.tensor(list(itertools.product((0, 1), repeat=4)))


def brute(kernel, y, scale):
    """tr(K H L H) / p with matrices as they stand in the definition."""
    p = len(y)
    centre = torch.eye(p, dtype=torch.float64) - 1 / p
    wide = y.double()
    outputs = torch.exp(-((wide[:, None] - wide) ** 2) / (2 * scale**2))
    return float(torch.trace(kernel @ centre @ outputs @ centre) / p)


def dirac(column):
    column = column.double()
    return 0.5 - (column[:, None] - column) ** 2


def drawn(p=60, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(p, d, generator=generator) < 0.5, torch.randn(p, generator=generator).double()


SCORES = {
    "normal": lambda y: y,
    "binary": lambda y: (y > 0).double(),
    "heavy": lambda y: y.exp() ** 3,
    "tiny": lambda y: y * 1e-9,
    "far": lambda y: y + 1e4,
}


# -- the estimator -----------------------------------------------------------------------------------------------------


def test_the_full_factorial_of_one_cell():
    """Reference black-box.md, section 5: 4 (1 - exp(-2)) with 1/p."""
    found = hsic_dirac(FACTORIAL, FACTORIAL[:, 0].float(), "median_score")
    np.testing.assert_allclose(found.numpy(), [3.458659, 0, 0, 0], atol=5e-7)
    np.testing.assert_allclose(float(found[0]), 4 * (1 - math.exp(-2)), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", ["median_distance", "median_score"])
@pytest.mark.parametrize("name", SCORES)
def test_it_is_the_trace_of_the_kernels(name, bandwidth):
    z, y = drawn()
    y = SCORES[name](y)
    found = hsic_dirac(z, y, bandwidth)
    wanted = [brute(dirac(z[:, i]), y, width(y, bandwidth)) for i in range(5)]
    # in `far` differences of numbers of 1e4 are exact to 1e-12 only
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10 if name == "far" else 1e-12, atol=1e-13)


def test_scores_of_many_images_are_taken_one_by_one():
    z, y = drawn()
    both = torch.stack([y, y**2]).reshape(2, 1, -1)
    found = hsic_dirac(z, both)
    assert found.shape == (2, 1, 5)
    assert torch.equal(found[1, 0], hsic_dirac(z, y**2))


def test_a_wide_kernel_gives_the_squared_covariance():
    z, y = drawn()
    phi = features(y, 1e4 * float(y.std()))
    found = torch.stack(
        [2 / 60 * (phi.T @ (z[:, i].double() - z[:, i].double().mean())).square().sum() for i in range(5)]
    )
    covariance = ((z.double() - z.double().mean(0)) * y[:, None]).mean(0)
    ratio = found / covariance**2
    np.testing.assert_allclose((ratio / ratio[0]).numpy(), 1, rtol=1e-5)  # the next term is (range / width)^2 = 1e-7


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (-2.0, 5.0), (1e-6, 0.0), (1.0, 100.0)])
def test_the_distance_bandwidth_is_affine_invariant_and_the_official_is_not(scale, shift):
    z, y = drawn()
    np.testing.assert_allclose(hsic_dirac(z, y * scale + shift).numpy(), hsic_dirac(z, y).numpy(), rtol=1e-9)
    official = hsic_dirac(z, y * scale + shift, "median_score"), hsic_dirac(z, y, "median_score")
    if shift:
        assert float((official[0] / official[1] - 1).abs().min()) > 0.05
    else:
        np.testing.assert_allclose(official[0].numpy(), official[1].numpy(), rtol=1e-9)


def test_widths():
    assert width(torch.tensor([0.0, 1.0, 3.0])) == 2.0  # of 1, 2, 3
    assert width(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])) == pytest.approx(
        0.4
    )  # median 0: the mean of four ones in ten
    assert width(torch.tensor([-3.0, -2.0, 5.0]), "median_score") == 2.0
    # no median to speak of: the distances
    assert width(torch.tensor([-3.0, 0.0, 5.0]), "median_score") == 5.0
    assert width(torch.tensor([-1.0, 1e-9, 1.0]), "median_score") == pytest.approx(1.0)
    for bandwidth in ("median_distance", "median_score"):
        assert width(torch.full((6,), 0.7), bandwidth) == 0
        assert width(torch.zeros(6), bandwidth) == 0
        assert width(torch.tensor([1.0, 1.0 + 1e-7] * 3), bandwidth) == 0  # what float32 rounds


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e5])
def test_a_constant_score_depends_on_nothing(value):
    y = torch.full((16,), value)
    assert not hsic_dirac(FACTORIAL, y).any()
    phi = features(y, width(y))
    deals = torch.stack([torch.randperm(16) for _ in range(9)])
    assert bool((permutation_p_values(FACTORIAL, phi, deals) == 1).all())
    assert not interactions_dirac(FACTORIAL, phi).any()


def test_a_cell_that_never_changes_has_nothing_and_is_not_significant():
    z, y = drawn()
    z[:, 2] = True
    z[:, 3] = False
    found = hsic_dirac(z, y)
    assert not found[2:4].any()
    deals = torch.stack([torch.randperm(60) for _ in range(9)])
    assert bool((permutation_p_values(z, features(y, width(y)), deals)[2:4] == 1).all())


def test_cells_keep_their_values_when_they_change_places_or_are_flipped():
    z, y = drawn()
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(hsic_dirac(z[:, order], y).numpy(), hsic_dirac(z, y).numpy()[order], rtol=1e-12)
    np.testing.assert_allclose(hsic_dirac(~z, y).numpy(), hsic_dirac(z, y).numpy(), rtol=1e-12)


# -- interactions ------------------------------------------------------------------------------------------------------


def test_xor_is_seen_by_the_pair_alone():
    y = (FACTORIAL[:, 0] ^ FACTORIAL[:, 2]).double()
    assert float(hsic_dirac(FACTORIAL, y).max()) < 1e-12
    found = interactions_dirac(FACTORIAL, features(y, width(y)))
    assert float(found[0, 2]) == pytest.approx(16 / 16 * (1 - math.exp(-0.5)) * 2, rel=1e-9)  # 128 (1 - e) / (4 p)
    assert torch.equal(found, found.T)
    found[0, 2] = found[2, 0] = 0
    assert float(found.abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["normal", "binary", "heavy"])
def test_interactions_are_pairs_minus_singles(name):
    """The kernel of a pair is (1 + k_i)(1 + k_j); what its members do alone is taken off."""
    z, y = drawn(40, 4)
    y = SCORES[name](y)
    scale = width(y)
    found = interactions_dirac(z, features(y, scale))
    for i, j in itertools.combinations(range(4), 2):
        one, other = dirac(z[:, i]), dirac(z[:, j])
        wanted = brute((1 + one) * (1 + other), y, scale) - brute(one, y, scale) - brute(other, y, scale)
        np.testing.assert_allclose(float(found[i, j]), wanted, rtol=1e-10, atol=1e-12)
    assert not found.diagonal().any()


# -- p-values ----------------------------------------------------------------------------------------------------------


def deals(count, p, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(p) for _ in range(count)]))


def test_p_values_count_permuted_scores():
    z, y = drawn(30, 3)
    order = deals(50, 30)
    found = permutation_p_values(z, features(y, width(y)), order)
    observed = hsic_dirac(z, y)
    null = torch.stack([hsic_dirac(z, y[one]) for one in order])
    wanted = (1 + (null >= observed * (1 - 1e-9)).sum(0)).double() / 51
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)


def test_ties_count_as_equal():
    """Of a binary score there are few different values: compare whole numbers, the covariances times p squared."""
    z, y = drawn(30, 6)
    y = (y > 0.3).long()
    order = deals(400, 30)

    def covariance(scores):
        return (30 * (z.long() * scores[..., None]).sum(-2) - z.sum(0) * scores.sum(-1, keepdim=True)).abs()

    wanted = (1 + (covariance(y[order]) >= covariance(y)).sum(0)).double() / 401
    assert torch.equal(permutation_p_values(z, features(y, width(y)), order), wanted)


def test_p_values_do_not_depend_on_the_chunks(monkeypatch):
    z, y = drawn()
    whole = permutation_p_values(z, features(y, width(y)), deals(37, 60))
    monkeypatch.setattr(module, "NUMBERS", 5000)
    assert torch.equal(permutation_p_values(z, features(y, width(y)), deals(37, 60)), whole)


def test_p_values_are_uniform_where_nothing_depends_on_anything():
    order = deals(99, 48)
    found = []
    for seed in range(150):
        z, y = drawn(48, 4, seed + 10)
        found.append(permutation_p_values(z, features(y, width(y)), order))
    values = torch.stack(found).flatten().numpy()
    # 600 nearly independent values: the empirical distribution is off by 0.0554 at most in 95 of 100 draws, 0.066 in 99
    steps = np.arange(1, 100) / 100
    assert np.abs((values[:, None] <= steps).mean(0) - steps).max() < 0.066
    assert values.min() >= 0.01


def test_p_values_see_what_matters():
    z, _ = drawn(64, 5)
    y = 2.0 * z[:, 1] + 0.5 * drawn(64, 5, 3)[1]
    found = permutation_p_values(z, features(y, width(y)), deals(199, 64))
    assert float(found[1]) == 1 / 200
    assert int(found.argmin()) == 1


# -- designs -----------------------------------------------------------------------------------------------------------


def correlations(coalitions):
    centred = coalitions.double() - coalitions.double().mean(0)
    centred = centred / centred.norm(dim=0)
    return (centred.T @ centred).fill_diagonal_(0).abs()


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_default_design_keeps_all_cells_apart(seed):
    coalitions, sampler = design(64, 512, "sobol", seed)
    assert sampler == "sobol"
    assert bool((coalitions.sum(0) == 256).all())
    assert float(correlations(coalitions).max()) < 1e-12  # orthogonal: no two columns equal or complementary
    assert len(coalitions.unique(dim=0)) == 512


def test_no_cell_is_taken_for_the_joint_effect_of_two():
    coalitions, _ = design(64, 512, "sobol", 0)
    first, second = torch.triu_indices(64, 64, 1)
    pairs = (coalitions[:, first] ^ coalitions[:, second]).double()
    assert float((pairs.T - 0.5).matmul(coalitions.double() - 0.5).abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("cells", "count", "used"),
    [
        (64, 512, "sobol"),
        (196, 512, "sobol"),
        (256, 512, "lhs"),
        (256, 1024, "sobol"),
        (64, 300, "sobol"),
        (64, 100, "lhs"),
    ],
)
def test_where_a_sequence_runs_out_of_columns_a_hypercube_is_taken(cells, count, used):
    coalitions, sampler = design(cells, count, "sobol", 0)
    assert sampler == used
    assert coalitions.shape == (count, cells)
    assert float(correlations(coalitions).max()) < 0.6  # 32640 pairs at 100 points: five standard errors of 0.1


def test_half_is_kept():
    """Unscrambled Sobol points start with 0 and 1/2."""
    coalitions, _ = design(2, 4, "official", 0)
    assert coalitions.sum(1).tolist() == [0, 2, 1, 1]


def test_independent_coalitions_are_those_that_others_draw():
    assert torch.equal(design(9, 32, "mc", 4)[0], attribution.designs.bernoulli(4, 32, 9))


@pytest.mark.parametrize("sampler", ["sobol", "official", "halton", "lhs", "mc"])
def test_every_sampler_runs(networks, images, sampler):
    made = attribution.create("hsic", networks.cnn(), grid=3, designs=32, sampler=sampler, permutations=9)
    found = made.explain(images(2), 1)
    assert found.details["indices"].shape == (2, 3, 3)
    assert bool((found.details["indices"] >= 0).all())
    assert found.details["sampler"] in {sampler, "lhs"}


# -- the method --------------------------------------------------------------------------------------------------------


class Cells(nn.Module):
    """The scores of a function of four patches' means."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        means = torch.stack([x[:, 0, r : r + 2, c : c + 3].mean((1, 2)) for r in (0, 2) for c in (0, 3)], 1)
        return self.function(means)[:, None]


WHOLE = torch.ones(1, 1, 4, 6)


def test_one_patch_decides():
    model = Model(Cells(lambda m: m[:, 2]), batch_size=64)
    made = attribution.create("hsic", model, grid=2, designs=16, bandwidth="median_score", baseline="zero", seed=3)
    found = made.explain(WHOLE.expand(2, -1, -1, -1), 0)
    # sixteen points of four dimensions need not be the factorial, but every cell is kept in half of them
    np.testing.assert_allclose(found.details["indices"].flatten(1)[:, 2].numpy(), 4 * (1 - math.exp(-2)), rtol=1e-6)
    assert found.native.shape == (2, 1, 2, 2)
    assert found.maps.shape == (2, 1, 4, 6)
    assert found.details["bandwidth"].tolist() == [0.5, 0.5]
    assert bool((found.details["p_values"].flatten(1)[:, 2] < 0.02).all())


def test_equal_coalitions_are_evaluated_once():
    model = Model(Cells(lambda m: m[:, 0]), batch_size=64)
    found = attribution.create("hsic", model, grid=2, designs=512, baseline="zero").explain(WHOLE, 0)
    assert found.forwards.tolist() == [16]


def test_a_pair_that_matters_only_together():
    model = Model(Cells(lambda m: (m[:, 0] - m[:, 3]).abs()), batch_size=64)
    made = attribution.create("hsic", model, grid=2, designs=512, baseline="zero", interactions=True)
    found = made.explain(WHOLE, 0).details
    assert float(found["indices"].max()) < 1e-6
    assert found["interactions"].shape == (1, 4, 4)
    assert int(found["interactions"][0].argmax()) == 3
    assert float(found["interactions"][0, 0, 3]) > 1


def test_interactions_need_pairs_that_are_kept_apart(networks, images):
    x = images(1, height=16, width=16)
    with pytest.raises(ValueError, match=r"318 of 2080 cells and pairs.*take sampler='mc'"):
        attribution.create("hsic", networks.cnn(), interactions=True).attribute(x, 0)
    with pytest.raises(ValueError, match=r"8 mc designs.*take more designs"):
        attribution.create("hsic", networks.cnn(), interactions=True, sampler="mc", designs=8).attribute(x, 0)
    made = attribution.create("hsic", networks.cnn(), sampler="mc", designs=128, interactions=True, grid=5)
    assert made.explain(x, 0).details["interactions"].shape == (1, 25, 25)


@pytest.mark.parametrize("size", [1, 64])
def test_it_does_not_depend_on_the_batch_size(networks, images, size):
    x = images(2, dtype=torch.float64)
    options = {"grid": 3, "designs": 64, "permutations": 19}
    whole = attribution.create("hsic", Model(networks.cnn().double(), batch_size=7), **options).explain(x, [0, 1])
    found = attribution.create("hsic", Model(networks.cnn().double(), batch_size=size), **options).explain(x, [0, 1])
    torch.testing.assert_close(found.details["indices"], whole.details["indices"])
    assert torch.equal(found.details["p_values"], whole.details["p_values"])


def test_it_is_the_estimator_of_the_stored_scores(networks, images):
    network, x = networks.cnn().double(), images(1, height=9, width=7, dtype=torch.float64)
    found = attribution.create("hsic", network, grid=3, designs=64, baseline=0.2, seed=5, output="margin").explain(x, 2)
    coalitions, _ = design(9, 64, "sobol", 5)
    labels = attribution.regions.grid(9, 7, 3, 3)[0]
    keep = coalitions[:, labels][:, None]
    scores = Model(network).scores(torch.where(keep, x, torch.tensor(0.2).double()), 2, output="margin")
    torch.testing.assert_close(found.details["indices"].flatten(), hsic_dirac(coalitions, scores), rtol=1e-6, atol=1e-9)


def test_no_permutations_no_p_values(networks, images):
    found = attribution.create("hsic", networks.cnn(), grid=2, designs=16, permutations=0).explain(images(1), 0)
    assert "p_values" not in found.details


def test_a_constant_network(images):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), 0.7)

    for bandwidth in ("median_distance", "median_score"):
        made = attribution.create("hsic", Model(Constant()), grid=2, designs=16, bandwidth=bandwidth)
        found = made.explain(images(), 1)
        assert not found.maps.any()
        assert bool((found.details["p_values"] == 1).all())
        assert not found.details["bandwidth"].any()


def test_methods_on_the_same_coalitions_pay_once(networks, images):
    x = images(2)
    model = Model(networks.cnn())
    options = {"grid": 3, "designs": 40, "sampler": "mc", "permutations": 0}
    first = attribution.create("hsic", model, **options)
    other = attribution.create("hsic", model, bandwidth="median_score", **options)
    model.resolve(x, 0)
    with model.sharing():
        before = model.forwards
        first.attribute(x, 0)
        paid = model.forwards - before
        found = other.explain(x, 0)
        assert model.forwards - before == paid
        baseline, labels = attribution.baselines.make("mean", x, model), attribution.regions.grid(8, 8, 3, 3)
        game = attribution.games.Game(model, x, baseline, labels.expand(2, -1, -1), model.resolve(x, 0), output="logit")
        game.values([attribution.designs.bernoulli(0, 40, 9)] * 2)
        assert model.forwards - before == paid
    assert found.forwards.tolist() == [paid // 2] * 2
    assert torch.equal(found.maps, other.attribute(x, 0))


def test_tables_and_tokens():
    x = 0.5 + torch.rand(3, 6, generator=torch.Generator().manual_seed(3))
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.5, 0.0])
    table = Model(lambda x: (x @ weight)[:, None], kind="table", bounds=None)
    found = attribution.create("hsic", table, designs=64).explain(x, 0)
    assert found.maps.shape == (3, 6)
    assert torch.equal(found.maps, found.details["indices"])
    assert found.details["p_values"].shape == (3, 6)
    assert found.maps.argmax(1).tolist() == [1, 1, 1]
    tokens = Model(lambda x: (x.mean(2) @ weight)[:, None], kind="tokens", bounds=None)
    same = attribution.create("hsic", tokens, designs=64).explain(x[:, :, None].expand(-1, -1, 4), 0)
    torch.testing.assert_close(same.native, found.maps, rtol=1e-4, atol=1e-6)
    assert same.maps.shape == (3, 6, 4)


@pytest.mark.parametrize(("options", "message"), [({"designs": 3}, "at least 4"), ({"sampler": "hammersley"}, "sobol")])
def test_bad_options(networks, options, message):
    with pytest.raises(ValueError, match=message):
        attribution.create("hsic", networks.cnn(), **options)


def test_a_budget_is_the_number_of_designs(networks):
    assert attribution.create("hsic", networks.cnn(), budget=150).designs == 150
    with pytest.raises(ValueError, match="at its minimum, designs=4"):
        attribution.create("hsic", networks.cnn(), budget=3)

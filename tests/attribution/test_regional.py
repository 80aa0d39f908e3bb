"""Methods on regions: closed forms, enumeration, and Captum and scikit-learn as oracles on the same coalitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model, designs
from attriscope.attribution.perturbation.feature_ablation import feature_ablation
from attriscope.attribution.perturbation.kernel_shap import bank, kernel_shap, sizes_law, solve
from attriscope.attribution.perturbation.lime import correction, lime, proximity, ridge
from attriscope.attribution.perturbation.shapley_sampling import orders, shapley_sampling
from captum import attr as captum
from torch import nn

FAMILY = ("feature_ablation", "lime", "kernel_shap", "shapley_sampling")
# float64 sums and solves of a few hundred terms
FINE = 1e-10


class Table:
    """A game given by a function of coalitions."""

    def __init__(self, d, function):
        self.sizes, self.function = [d], function

    def values(self, wanted):
        return [self.function(w.double()) for w in wanted]


def everything(d):
    return torch.tensor(list(itertools.product([False, True], repeat=d)))


def shapley(d, function):
    """By the definition: a sum over all coalitions without i."""
    found = torch.zeros(d, dtype=torch.float64)
    for i in range(d):
        others = [j for j in range(d) if j != i]
        for k in range(d):
            weight = math.factorial(k) * math.factorial(d - 1 - k) / math.factorial(d)
            for chosen in itertools.combinations(others, k):
                z = torch.zeros(1, d, dtype=torch.float64)
                z[0, list(chosen)] = 1
                with_i = z.clone()
                with_i[0, i] = 1
                found[i] += weight * float(function(with_i) - function(z))
    return found


def rough(d, seed=0):
    """A game with interactions of all orders."""
    table = torch.randn(2**d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    place = 2 ** torch.arange(d - 1, -1, -1)
    return lambda z: table[(z.long() * place).sum(-1)]


def pairwise(z):
    """d = 12: single effects and pairs."""
    b = torch.linspace(-1, 1, z.shape[-1], dtype=torch.float64)
    return z @ b + 3 * z[:, 0] * z[:, 5] - 2 * z[:, 3] * z[:, 4] + 0.7


def cells(height=8, width=8, rows=2, columns=3):
    return attribution.regions.grid(height, width, rows, columns)[0]


# -- feature ablation --------------------------------------------------------------------------------------------------


def test_feature_ablation_is_captums(networks, images):
    network, x = networks.cnn().double(), images(2, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    start = images(2, seed=1, dtype=torch.float64)
    found = attribution.create("feature_ablation", network, regions=labels, baseline=start).explain(x, [1, 3])
    for i, target in enumerate((1, 3)):
        wanted = captum.FeatureAblation(network).attribute(
            x[i : i + 1], start[i : i + 1], target, feature_mask=labels[i][None, None].expand(1, 3, -1, -1)
        )
        torch.testing.assert_close(found.maps[i], wanted[0, :1], rtol=1e-9, atol=1e-12)
    assert found.forwards.tolist() == [6, 6]


def test_feature_ablation_of_interactions_by_hand():
    (found,) = feature_ablation(Table(3, lambda z: 2 * z[:, 0] + z[:, 1] * z[:, 2]))
    assert found.tolist() == [2, 1, 1]
    (found,) = feature_ablation(Table(2, lambda z: z.amax(1)))  # each stands in for the other
    assert found.tolist() == [0, 0]


# -- kernel shap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_kernel_shap_over_all_coalitions_is_exact(d):
    function = rough(d, d)
    (found,), (width,) = kernel_shap(Table(d, function), samples=2**d + 7, seed=0)
    np.testing.assert_allclose(found.numpy(), shapley(d, function).numpy(), atol=FINE)
    assert not width.any()  # nothing was drawn


@pytest.mark.parametrize("d", [2, 3, 4, 7, 12])
def test_the_sizes_law_is_the_kernel(d):
    law = sizes_law(d)
    kernel = [(d - 1) / (math.comb(d, k) * k * (d - k)) * math.comb(d, k) for k in range(1, d)]
    np.testing.assert_allclose(law, np.array(kernel) / sum(kernel), rtol=1e-12)
    assert sum(law) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("d", "samples"), [(2, 2), (3, 4), (6, 20), (6, 61), (6, 62), (12, 100), (12, 1000), (30, 300), (49, 40), (49, 998)]
)
def test_the_bank_is_paired_within_budget_and_weighs_one(d, samples):
    one = bank(d, samples, 0)
    rows = {tuple(r) for r in one.rows.tolist()}
    assert len(rows) == len(one.rows) <= samples  # each once
    assert all(tuple(not v for v in r) in rows for r in rows)
    assert (False,) * d not in rows
    assert (True,) * d not in rows
    assert float(one.fixed.sum()) + one.mass == pytest.approx(1, abs=1e-12)
    drawn = one.times.sum(1) > 0
    assert not (one.fixed[drawn] > 0).any()
    assert bool((drawn | (one.fixed > 0)).all())
    assert len(rows) >= min(samples - 1, 2**d - 2)  # what may be spent is spent


def test_drawn_sizes_follow_the_kernel():
    one = bank(20, 4000, 0)
    law = torch.tensor(sizes_law(20))
    taken = one.fixed > 0
    sizes = one.rows[~taken].sum(1)
    times = one.times[~taken].sum(1)
    found = torch.zeros(21).double().index_add_(0, sizes, times)[1:20] / times.sum()
    left = law.double().clone()
    left[one.rows[taken].sum(1).unique() - 1] = 0
    left /= left.sum()
    # some thousand draws of pairs: standard error below .009
    np.testing.assert_allclose(found.numpy(), left.numpy(), atol=0.04)
    # each region is in half of all draws: pairs make that exact
    share = (one.rows[~taken].double() * times[:, None]).sum(0) / times.sum()
    np.testing.assert_allclose(share.numpy(), 0.5, atol=1e-12)


def test_kernel_shap_is_a_constrained_regression():
    """Against an independent solution of the same problem: a penalty of 1e8 on the two ends."""
    from sklearn.linear_model import LinearRegression

    d, function = 12, rough(12, 3)
    one = bank(d, 200, 0)
    weights = one.fixed + one.mass * one.times.sum(1) / one.times.sum()
    ends = torch.tensor([[0.0], [1.0]]).expand(2, d).double()
    z = torch.cat([ends, one.rows.double()]).numpy()
    y = function(torch.from_numpy(z)).numpy()
    fit = LinearRegression().fit(z, y, np.concatenate([[1e8, 1e8], weights.numpy()]))
    (found,), _ = kernel_shap(Table(d, function), samples=202, seed=0)
    np.testing.assert_allclose(found.numpy(), fit.coef_, atol=1e-6)  # the penalty leaves 1e-8 of the scores


def test_kernel_shap_of_pairs_is_exact_with_few_samples():
    """Additive games are exact for any bank of full rank; pairs are exact where each coalition has its complement."""
    d = 12
    b = torch.linspace(-1, 1, d, dtype=torch.float64)
    (found,), _ = kernel_shap(Table(d, lambda z: z @ b + 5), samples=60, seed=0)
    np.testing.assert_allclose(found.numpy(), b.numpy(), atol=FINE)
    (found,), _ = kernel_shap(Table(d, pairwise), samples=200, seed=0)
    exact = b.clone()
    exact[[0, 5]] += 1.5
    exact[[3, 4]] -= 1
    np.testing.assert_allclose(found.numpy(), exact.numpy(), atol=FINE)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_kernel_shap_on_uniform_sizes_is_exact_over_all_coalitions(d):
    function = rough(d, d)
    (found,), (width,) = kernel_shap(Table(d, function), samples=600, seed=0, sampling="uniform")
    np.testing.assert_allclose(found.numpy(), shapley(d, function).numpy(), atol=FINE)
    assert not width.any()


def test_kernel_shap_on_uniform_sizes_aims_at_the_same(networks, images):
    function = rough(10, 1)
    truth, inside = shapley(10, function), []
    for seed in range(40):
        (found,), (width,) = kernel_shap(Table(10, function), samples=300, seed=seed, sampling="uniform")
        inside.append(((found - truth).abs() <= width).double().mean())
    assert float(torch.stack(inside).mean()) > 0.85
    model, x = Model(networks.cnn()), images(2)
    more = {"regions": cells(rows=3, columns=3), "baseline": 0.1, "samples": 80, "output": "logit", "seed": 2}
    alone = attribution.create("kernel_shap", model, sampling="uniform", **more).explain(x, 0)
    with model.sharing():
        attribution.create("lime", model, sampling="stratified", **more).explain(x, 0)
        before = model.forwards
        found = attribution.create("kernel_shap", model, sampling="uniform", **more).explain(x, 0)
        assert model.forwards - before <= 2  # the empty image, if LIME had not drawn it
    torch.testing.assert_close(found.maps, alone.maps)
    assert torch.equal(found.forwards, alone.forwards)


@pytest.mark.parametrize("samples", [4, 7, 12, 30])
def test_with_fewer_samples_than_regions_the_sum_is_still_exact(samples):
    (found,), _ = kernel_shap(Table(20, rough(20)), samples=samples, seed=0)
    total = rough(20)(torch.tensor([[0.0], [1.0]]).expand(2, 20).double())
    assert float(found.sum()) == pytest.approx(float(total[1] - total[0]), abs=1e-12)
    assert float(found.abs().max()) < 100


def test_regions_that_were_not_told_apart_get_the_same():
    found = solve(
        torch.zeros(0, 4, dtype=torch.bool), torch.zeros(0).double(), torch.zeros(0).double(), torch.tensor(2.0)
    )
    np.testing.assert_allclose(found.numpy(), 0.5, atol=1e-12)


@pytest.mark.parametrize("function", [rough(10, 1), lambda z: (z.sum(1) > 5).double(), lambda z: z[:, :4].prod(1)])
def test_intervals_of_the_shapley_family_hold_the_truth(function):
    """95% of them should; 40 seeds x 10 regions, which share their draws: 85% is four standard errors off."""
    truth = shapley(10, function)
    for method, count in ((kernel_shap, {"samples": 150}), (shapley_sampling, {"permutations": 24})):
        inside = []
        for seed in range(40):
            (found,), (width,) = method(Table(10, function), **count, seed=seed)
            inside.append(((found - truth).abs() <= width + 1e-12).double().mean())
        assert float(torch.stack(inside).mean()) > 0.85, method


# -- shapley sampling --------------------------------------------------------------------------------------------------


def test_shapley_sampling_is_captums_on_the_same_orders(networks, images):
    network, x = networks.cnn().double(), images(1, dtype=torch.float64)
    labels = cells()
    permutations = 6
    ranks = orders(6, permutations, seed=4)
    found = attribution.create(
        "shapley_sampling", network, regions=labels, permutations=permutations, seed=4, baseline=0.0
    ).explain(x, 2)
    theirs = captum.ShapleyValueSampling(network)
    given = [r.argsort().tolist() for r in ranks]
    theirs.permutation_generator = lambda num_features, num_samples: iter(given)
    wanted = theirs.attribute(x, 0.0, 2, feature_mask=labels[None, None].repeat(1, 3, 1, 1), n_samples=permutations)
    # captum adds up in float32
    area = torch.bincount(labels.flatten())[labels]
    torch.testing.assert_close(found.maps[0, 0] * area, wanted[0, 0].double(), rtol=1e-5, atol=1e-6)


def test_orders_come_with_their_reverse():
    ranks = orders(7, 5, 0)
    assert ranks.shape == (5, 7)
    assert torch.equal(ranks[0] + ranks[1], torch.full((7,), 6))
    assert torch.equal(ranks[2] + ranks[3], torch.full((7,), 6))
    assert all(sorted(r.tolist()) == list(range(7)) for r in ranks)
    assert torch.equal(orders(7, 2, 0), ranks[:2])
    assert not torch.equal(orders(7, 2, 1), ranks[:2])


@pytest.mark.parametrize(
    ("d", "function", "wanted"),
    [
        (2, lambda z: 2 * z[:, 0] + 5 * z[:, 1] + 4 * z[:, 0] * z[:, 1], (4, 7)),  # a + c / 2, b + c / 2
        (12, pairwise, None),
    ],
)
def test_one_order_and_its_reverse_are_exact_for_pairs(d, function, wanted):
    (found,), _ = shapley_sampling(Table(d, function), permutations=2, seed=0)
    truth = shapley(d, function) if wanted is None and d < 10 else None
    if wanted is None:
        b = torch.linspace(-1, 1, d, dtype=torch.float64)
        b[[0, 5]] += 1.5
        b[[3, 4]] -= 1
        truth = b
    np.testing.assert_allclose(found.numpy(), np.array(wanted) if truth is None else truth.numpy(), atol=FINE)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda z: z[:, :4].prod(1), (0.25, 0.25, 0.25, 0.25, 0)),  # a product of s: 1 / s
        (lambda z: (z.sum(1) >= 3).double(), (0.2,) * 5),  # majority
        (lambda z: torch.minimum(z[:, 0], z[:, 1:3].amax(1)), (2 / 3, 1 / 6, 1 / 6, 0, 0)),  # one left glove, two right
    ],
)
def test_known_games(function, wanted):
    assert torch.allclose(shapley(5, function), torch.tensor(wanted, dtype=torch.float64))
    (found,), _ = kernel_shap(Table(5, function), samples=40, seed=0)
    np.testing.assert_allclose(found.numpy(), wanted, atol=FINE)
    (found,), (width,) = shapley_sampling(Table(5, function), permutations=4000, seed=0)
    # the standard error of 2000 pairs of marginals of at most 1: below .012; five of them
    np.testing.assert_allclose(found.numpy(), wanted, atol=0.06)
    assert bool((width < 0.03).all())


@pytest.mark.parametrize("name", ["kernel_shap", "shapley_sampling"])
@pytest.mark.parametrize("output", ["logit", "probability", "margin"])
def test_shapley_maps_sum_to_the_difference(networks, images, name, output):
    """To 1e-6 of the difference in float32, to rounding in float64, at any number of samples."""
    few = {"samples": 20} if name == "kernel_shap" else {"permutations": 1}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        network, x, start = networks.cnn().to(dtype), images(3, dtype=dtype), images(3, seed=5, dtype=dtype)
        model = Model(network)
        made = attribution.create(name, model, baseline=start, output=output, n_regions=12, **few)
        found = made.explain(x, [0, 1, 2])
        wanted = model.scores(x, [0, 1, 2], output=output) - model.scores(start, [0, 1, 2], output=output)
        scale = float(found.maps.abs().sum((1, 2, 3)).max())
        torch.testing.assert_close(found.maps.sum((1, 2, 3)), wanted, rtol=0, atol=tolerance * scale)
        torch.testing.assert_close(
            found.details["values"].nansum(1), wanted.double(), rtol=0, atol=max(tolerance, 1e-7) * scale
        )


@pytest.mark.parametrize("name", ["kernel_shap", "shapley_sampling"])
def test_shapley_of_a_linear_network(images, name):
    x, start = images(2, dtype=torch.float64), images(2, seed=1, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    labels = cells(rows=3, columns=3)
    found = attribution.create(name, network, regions=labels, baseline=start).explain(x, 1)
    part = (network[1].weight[1].detach().reshape(3, 8, 8) * (x - start)).sum(1)
    wanted = torch.stack([part[:, labels == i].sum(1) for i in range(9)], 1)
    torch.testing.assert_close(found.details["values"], wanted, rtol=1e-9, atol=1e-12)


# -- lime --------------------------------------------------------------------------------------------------------------


def test_the_proximity_kernel():
    kept = torch.tensor([10, 25, 50, 75, 100])
    # reference black-box.md, section 7
    np.testing.assert_allclose(proximity(kept, 100, 0.25).numpy(), [0.024, 0.135, 0.503, 0.866, 1.0], atol=5e-4)


@pytest.mark.parametrize("d", [1, 2, 7, 50])
def test_the_correction_turns_uniform_sizes_into_coin_flips(d):
    k = torch.arange(d + 1)
    share = correction(k, d) / (d + 1)
    wanted = torch.tensor([math.comb(d, int(i)) / 2**d for i in k], dtype=torch.float64)
    np.testing.assert_allclose(share.numpy(), wanted.numpy(), atol=1e-12)
    if d == 50:
        assert float(correction(torch.tensor([25]), 50)) == pytest.approx(5.7, abs=0.05)  # the reference


@pytest.mark.parametrize("alpha", [0.0, 1.0, 30.0])
def test_ridge_is_scikit_learns(alpha):
    from sklearn.linear_model import LinearRegression, Ridge

    z = designs.bernoulli(3, 120, 9).double()
    y = rough(9)(z)
    weights = proximity(z.sum(1), 9, 0.25)
    found = ridge(z, y, weights, alpha)
    model = Ridge(alpha) if alpha else LinearRegression()
    model.fit(z.numpy(), y.numpy(), weights.numpy())
    np.testing.assert_allclose(found.values.numpy(), model.coef_, atol=1e-9)
    assert float(found.intercept) == pytest.approx(float(model.intercept_), abs=1e-9)
    assert float(found.r2) == pytest.approx(model.score(z.numpy(), y.numpy(), weights.numpy()), abs=1e-9)
    assert float(found.effective) == pytest.approx(float(weights.sum() ** 2 / (weights**2).sum()))


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_lime_recovers_an_additive_game(sampling):
    b = torch.linspace(-1, 1, 9, dtype=torch.float64)
    (fit,) = lime(Table(9, lambda z: z @ b + 2), samples=100, sampling=sampling, width=0.25, alpha=0.0, seed=0)
    np.testing.assert_allclose(fit.values.numpy(), b.numpy(), atol=1e-9)
    assert float(fit.intercept) == pytest.approx(2, abs=1e-9)
    assert float(fit.r2) == pytest.approx(1, abs=1e-9)
    assert float(fit.half_width.max()) < 1e-9


def test_ridge_shrinks_by_its_formula():
    b = torch.linspace(-1, 1, 9, dtype=torch.float64)
    z = designs.bernoulli(0, 400, 9).double()
    weights = proximity(z.sum(1), 9, 0.25)
    center = weights @ z / weights.sum()
    gram = (z - center).T @ ((z - center) * weights[:, None])
    wanted = torch.linalg.solve(gram + torch.eye(9).double(), gram @ b)
    np.testing.assert_allclose(ridge(z, z @ b, weights, 1.0).values.numpy(), wanted.numpy(), atol=1e-9)


def test_an_and_of_two_regions_over_all_coalitions():
    """Equal weights: the main effects are a half each, the intercept minus a quarter."""
    z = everything(4).double()
    fit = ridge(z, z[:, 0] * z[:, 1], torch.ones(16).double(), 0.0)
    np.testing.assert_allclose(fit.values.numpy(), [0.5, 0.5, 0, 0], atol=1e-12)
    assert float(fit.intercept) == pytest.approx(-0.25, abs=1e-12)


def test_both_samplings_aim_at_the_same_model():
    """The weighted fit over all 2^8 coalitions is what both approach."""
    d, function = 8, rough(8, 2)
    z = everything(d)
    # the whole image is one sample of n, which n = 20000 makes small
    exact = ridge(z.double(), function(z.double()), proximity(z.sum(1), d, 0.25), 0.0)
    for sampling in ("uniform", "stratified"):
        (fit,) = lime(Table(d, function), samples=20_000, sampling=sampling, width=0.25, alpha=0.0, seed=0)
        worst = ((fit.values - exact.values).abs() / (fit.half_width / 1.96)).max()
        assert float(worst) < 5, sampling  # standard errors
        assert float(fit.half_width.max()) < 0.12
    # what the published code does: distances times the correction
    rows = designs.uniform_sizes(0, 20_000, d)
    distance = (1 - (rows.sum(1) / d).sqrt()) * correction(rows.sum(1), d)
    wrong = ridge(rows.double(), function(rows.double()), torch.exp(-8 * distance**2), 0.0)
    assert float((wrong.values - exact.values).abs().max()) > 0.15


def test_stratified_sampling_tells_what_it_is_worth():
    for sampling, low, high in (("uniform", 700, 1000), ("stratified", 150, 350)):
        (fit,) = lime(Table(49, lambda z: z.mean(1)), samples=1000, sampling=sampling, width=0.25, alpha=1.0, seed=0)
        assert low < float(fit.effective) < high  # a quarter, by 4^d / ((d + 1) C(2d, d))


def test_lime_intervals_hold_the_truth():
    d, function = 8, rough(8, 4)
    z = everything(d)
    exact = ridge(z.double(), function(z.double()), proximity(z.sum(1), d, 0.25), 0.0)
    inside = []
    for seed in range(60):
        (fit,) = lime(Table(d, function), samples=400, sampling="uniform", width=0.25, alpha=0.0, seed=seed)
        inside.append(((fit.values - exact.values).abs() <= fit.half_width).double().mean())
    assert 0.9 < float(torch.stack(inside).mean()) <= 0.99  # 480 intervals: 95% within two and a half standard errors


def test_lime_of_a_constant_is_zero():
    (fit,) = lime(Table(5, lambda z: 0 * z[:, 0] + 3), samples=30, sampling="uniform", width=0.25, alpha=1.0, seed=0)
    assert float(fit.values.abs().max()) < 1e-12
    assert fit.r2.isnan()


# -- the family --------------------------------------------------------------------------------------------------------


def make(name, model, **more):
    few = {"lime": {"samples": 60}, "kernel_shap": {"samples": 60}, "shapley_sampling": {"permutations": 4}}
    return attribution.create(name, model, **{**few.get(name, {}), **more})


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("regions", ["slic", "grid", "felzenszwalb"])
def test_same_seed_same_map_at_any_batch_size(networks, images, name, regions):
    x = images(2, height=16, width=20)
    found = [
        make(name, Model(networks.cnn(), batch_size=size), regions=regions, n_regions=9).explain(x, [1, 2])
        for size in (1, 64)
    ]
    scale = float(found[0].maps.abs().max())
    assert scale > 0
    # float32 scores through a folded network, differences of them
    assert float((found[0].maps - found[1].maps).abs().max()) <= 1e-4 * scale
    sizes = [int(labels.max()) + 1 for labels in found[0].details["labels"]]
    assert max(sizes) <= 9
    assert found[0].details["values"].shape == (2, max(sizes))


@pytest.mark.parametrize("name", FAMILY)
def test_images_with_different_numbers_of_regions(networks, images, name):
    x = images(2)
    labels = torch.stack([cells(rows=2, columns=2), cells(rows=3, columns=2)])
    model = Model(networks.cnn())
    found = make(name, model, regions=labels, baseline=0.2).explain(x, 1)
    alone = [make(name, model, regions=labels[i], baseline=0.2).explain(x[i : i + 1], 1) for i in range(2)]
    for i, one in enumerate(alone):
        torch.testing.assert_close(found.maps[i : i + 1], one.maps)
        assert found.forwards[i] == one.forwards[0]
    assert found.details["values"].isnan().tolist() == [[False] * 4 + [True] * 2, [False] * 6]
    # labels need not be 0, 1, ...
    other = make(name, model, regions=labels * 7 - 3, baseline=0.2).attribute(x, 1)
    torch.testing.assert_close(other, found.maps)


@pytest.mark.parametrize("name", FAMILY)
def test_a_dummy_region_gets_nothing_and_twins_get_the_same(name):
    class Two(nn.Module):
        """Looks at the mean of the first two columns of cells, and at their product."""

        def forward(self, x):
            a, b = x[:, :, :, 0:2].mean((1, 2, 3)), x[:, :, :, 2:4].mean((1, 2, 3))
            return torch.stack([a + b + 3 * a * b, 0 * a], 1)

    x = torch.full((1, 3, 4, 8), 0.5, dtype=torch.float64)
    labels = torch.arange(8)[None].expand(4, 8) // 2
    more = {"samples": 4000} if name == "lime" else {}
    found = make(name, Two(), regions=labels, baseline=0.0, output="logit", **more).explain(x, 0)
    values = found.details["values"][0]
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-9) or name == "lime"
    assert float(values[2:].abs().max()) < (0.03 if name == "lime" else 1e-12)  # 3 standard errors
    assert float(values[0]) > 0.5


@pytest.mark.parametrize("name", FAMILY)
def test_a_table_and_an_embedding(name):
    """A region is a column, or a token."""
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.2, 1.0, 4.0, -1.0]], dtype=torch.float64)
    b = torch.tensor([2.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    table = Model(nn.Linear(4, 2).double(), kind="table", bounds=None)
    with torch.no_grad():
        table.network.weight[1] = b
    found = make(name, table, baseline=0.0, output="logit").explain(x, 1)
    shrunk = {"rtol": 0.25, "atol": 0.1} if name == "lime" else {"rtol": 1e-9, "atol": 1e-9}  # ridge, 60 samples
    if name != "lime":
        torch.testing.assert_close(found.maps, x * b, **shrunk)
    assert found.maps.shape == (2, 4)

    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean(2) @ b, x.sum((1, 2))], 1)

    tokens = Model(Mean(), kind="tokens", bounds=None)
    embedding = x[:, :, None].expand(-1, -1, 5)
    found = make(name, tokens, baseline=0.0, output="logit").explain(embedding, 0)
    assert found.maps.shape == (2, 4, 5)
    if name != "lime":
        torch.testing.assert_close(found.details["values"], x * b, rtol=1e-9, atol=1e-9)
        total = found.maps.sum((1, 2)) if name != "feature_ablation" else found.maps.mean(2).sum(1)
        torch.testing.assert_close(total, (x * b).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FAMILY)
def test_a_budget_holds_for_every_image(networks, images, name):
    x = images(3, height=24, width=24)
    model = Model(networks.cnn())
    for budget in (60, 200):
        if name == "feature_ablation" and budget < 50:
            continue
        found = attribution.create(name, model, budget=budget, n_regions=20).explain(x, 0)
        assert int((found.forwards + found.backwards).max()) <= budget


def test_a_callable_may_not_make_more_regions_than_were_paid_for(networks, images):
    made = attribution.create("feature_ablation", networks.cnn(), regions=lambda x: cells(rows=4, columns=4), n_regions=9)
    with pytest.raises(ValueError, match="made 16 regions, and n_regions=9: pass n_regions=16"):
        made.attribute(images(1), 0)


@pytest.mark.parametrize("name", attribution.available("perturbation/*"))
def test_a_network_that_gives_nan_is_named(name):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x.mean((1, 2, 3))[:, None] > 0.3, torch.nan, x.mean((1, 2, 3))[:, None].expand(-1, 3))

    options = attribution.attributor.REGISTRY.find(name).facts.tags["small"]
    made = attribution.create(name, Model(Broken()), **options)
    with pytest.raises(ValueError, match=r"NaN or infinite values"):
        made.attribute(torch.full((1, 3, 16, 16), 0.9), 0)


def test_bad_options_get_a_sentence(networks):
    network = networks.cnn()
    with pytest.raises(TypeError, match="regions"):
        attribution.create("lime", network, regions=np.zeros((8, 8), int))
    with pytest.raises(TypeError, match="alpha=inf"):
        attribution.create("lime", network, alpha=float("inf"))
    with pytest.raises(ValueError, match="does not fit images"):
        attribution.create("lime", network, regions=torch.zeros(3, 3).long()).attribute(torch.rand(1, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="samples=1"):
        attribution.create("lime", network, samples=1)
    with pytest.raises(ValueError, match="at its minimum"):
        attribution.create("shapley_sampling", network, budget=20)
    with pytest.raises(ValueError, match="region_mean"):
        attribution.create("rise", network, baseline="region_mean", masks=4).attribute(torch.rand(1, 3, 8, 8), 0)

"""Sobol indices: closed forms, the design and what it saves, intervals, early stops, and SALib as an oracle."""

import itertools

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.perturbation import _sobol
from attriscope.attribution.perturbation._sobol import design, first_order, interval, total_order
from attriscope.attribution.perturbation.sobol import box_blur
from scipy import ndimage
from torch import nn

TOY = (0.358974, 0.666667, 0.0, 0.012821)  # reference black-box.md, section 3
TOY_FIRST = (0.320513, 0.628205, 0.0, 0.012821)
ESTIMATORS = ("jansen", "homma", "saltelli", "janon", "glen")
SAMPLERS = ("sobol", "official", "halton", "lhs", "mc")


def toy(p):
    return p[..., 0] + 2 * p[..., 1] + 0.5 * p[..., 3] + 3 * p[..., 0] * p[..., 1]


def ishigami(p):
    p = (2 * p - 1) * np.pi
    return torch.sin(p[..., 0]) + 7 * torch.sin(p[..., 1]) ** 2 + 0.1 * p[..., 2] ** 4 * torch.sin(p[..., 0])


class Patches(nn.Module):
    """A function of the means of a 2 x 2 grid of patches; class 1 is zero."""

    def __init__(self, function=toy):
        super().__init__()
        self.function = function

    def forward(self, x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        means = torch.stack([x[:, 0, r : r + h, c : c + w].mean((1, 2)) for r in (0, h) for c in (0, w)], 1)
        score = self.function(means)
        return torch.stack([score, 0 * score], 1)


def patches(function=toy, **more):
    return Model(Patches(function), batch_size=4096, bounds=None, **more)


def whole(plan):
    """Every row of a design, equal ones too, made the plain way: `(n, d + 2, d)`."""
    d = plan.a.shape[1]
    rows = plan.a[:, None].repeat(1, d + 2, 1)
    for i in range(d):
        rows[:, i + 1, i] = plan.b[:, i]
    rows[:, -1] = plan.b
    return rows.double()


def scores_of(function, dimensions, number, seed=0, sampler="sobol"):
    found = function(whole(design(dimensions, number, sampler, seed)))
    return found[:, 0], found[:, 1:-1], found[:, -1]


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("function", "dimensions", "total", "first"),
    [
        (toy, 4, TOY, TOY_FIRST),
        (ishigami, 3, (0.557589, 0.442411, 0.243684), (0.313905, 0.442411, 0.0)),
        (lambda p: p[..., 0] * p[..., 1], 2, (4 / 7, 4 / 7), (3 / 7, 3 / 7)),
        (lambda p: p[..., 0] - 2 * p[..., 1] + 3 * p[..., 2], 3, (1 / 14, 4 / 14, 9 / 14), (1 / 14, 4 / 14, 9 / 14)),
        (lambda p: ((p[..., 0] > 0.5) & (p[..., 1] > 0.5)).double(), 2, (2 / 3, 2 / 3), (1 / 3, 1 / 3)),
    ],
    ids=["toy", "ishigami", "product", "additive", "and"],
)
def test_indices_of_known_functions(estimator, function, dimensions, total, first):
    a, c, b = scores_of(function, dimensions, 8192)
    # quasi-random: 4e-4 at n = 4096 by the reference; Ishigami is rougher, its error was seen at 3e-3
    near = 8e-3 if function is ishigami else 4e-3
    np.testing.assert_allclose(total_order(a, c, estimator).numpy(), total, atol=near)
    np.testing.assert_allclose(first_order(b, c, estimator).numpy(), first, atol=near)


def test_ishigami_s_first_index():
    _, c, b = scores_of(ishigami, 3, 1 << 15)
    assert float(first_order(b, c, "jansen")[0]) == pytest.approx(0.313905, abs=1e-3)


def test_the_unscrambled_sequence_has_the_known_bias():
    """Its first two points exchange nothing, so 64 of them divide by two too many."""
    a, c, _ = scores_of(toy, 4, 64, sampler="official")
    np.testing.assert_allclose(total_order(a, c, "jansen")[:2].numpy(), (0.346, 0.633), atol=5e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_samplers_agree_on_the_toy(sampler):
    n = 4096
    a, c, b = scores_of(toy, 4, n, sampler=sampler, seed=3)
    # Jansen's standard error with independent points is at most 1.3 / sqrt(n) here, by the bootstrap; three of them
    near = 4 / n**0.5 if sampler in {"mc", "lhs"} else 4e-3
    np.testing.assert_allclose(total_order(a, c, "jansen").numpy(), TOY, atol=near)
    np.testing.assert_allclose(first_order(b, c, "jansen").numpy(), TOY_FIRST, atol=near)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_against_their_formulas(estimator):
    generator = torch.Generator().manual_seed(0)
    a, c = torch.randn(16, generator=generator).double() + 2, torch.randn(16, 3, generator=generator).double() + 2
    n, f0 = 16, a.mean()
    v = ((a - f0) ** 2).sum() / (n - 1)
    wanted = []
    for i in range(3):
        ci = c[:, i]
        if estimator == "jansen":
            wanted.append(((a - ci) ** 2).sum() / (2 * n * v))
        elif estimator == "homma":
            wanted.append((v - (a * ci).mean() + f0**2) / v)
        elif estimator == "saltelli":
            wanted.append(1 - ((a * ci).mean() - f0**2) / v)
        elif estimator == "janon":
            f = ((a + ci) / 2).mean()
            vi = (a**2 + ci**2).sum() / (2 * (n - 1)) - f**2
            wanted.append(1 - ((a * ci).mean() - f**2) / vi)
        else:
            wanted.append(1 - torch.corrcoef(torch.stack([a, ci]))[0, 1])
    wanted = torch.stack(wanted).numpy()
    np.testing.assert_allclose(total_order(a, c, estimator).numpy(), wanted, rtol=1e-9)
    np.testing.assert_allclose(first_order(a, c, estimator).numpy(), 1 - wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("scale", "shift"), [(3.0, 0.0), (-2.0, 0.0), (1e-6, 0.0), (1e4, 0.0), (1.0, 5.0), (0.1, -20.0)]
)
def test_an_affine_change_of_the_score_changes_no_index(estimator, scale, shift):
    a, c, _ = scores_of(toy, 4, 32)
    if shift and estimator in {"homma", "saltelli", "janon"}:
        return  # by their formulas these depend on the mean at finite n; Jansen's and Glen's do not
    np.testing.assert_allclose(
        total_order(a * scale + shift, c * scale + shift, estimator).numpy(),
        total_order(a, c, estimator).numpy(),
        rtol=1e-7,
        atol=1e-9,
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e-8, 1e5])
def test_a_constant_score_shares_nothing(estimator, value):
    a, c = torch.full((8,), value), torch.full((8, 3), value)
    assert not total_order(a, c, estimator).any()
    assert not first_order(a, c, estimator).any()
    assert not interval(a, c, estimator, "first", 0).any()


def test_indices_of_unlikely_classes_are_not_lost():
    """Probabilities of 1e-13 vary as much as others, relative to themselves."""
    a, c, _ = scores_of(toy, 4, 32)
    for scale in (1e-11, 1e-13):
        np.testing.assert_allclose(
            total_order(a * scale, c * scale, "jansen").numpy(), total_order(a, c, "jansen").numpy(), rtol=1e-6
        )


def test_cells_keep_their_indices_when_they_change_places():
    a, c, _ = scores_of(toy, 4, 64)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        total_order(a, c[:, order], "jansen").numpy(), total_order(a, c, "jansen").numpy()[order], rtol=1e-12
    )


def test_both_indices_are_salibs():
    sobol_sample = pytest.importorskip("SALib.sample.sobol")
    sobol_analyze = pytest.importorskip("SALib.analyze.sobol")
    problem = {"num_vars": 3, "names": list("abc"), "bounds": [[0, 1]] * 3}
    number = 4096
    rows = sobol_sample.sample(problem, number, calc_second_order=False, seed=3)
    scores = ishigami(torch.from_numpy(rows))
    theirs = sobol_analyze.analyze(problem, scores.numpy(), calc_second_order=False, num_resamples=2, seed=3)
    blocks = scores.reshape(number, 5)  # a, ab_1 .. ab_3, b
    found = total_order(blocks[:, 0], blocks[:, 1:4], "jansen")
    # SALib divides by the variance of a and b together: two estimates of one number from 4096 quasi-random points
    np.testing.assert_allclose(found.numpy(), theirs["ST"], rtol=5e-3)
    variance = np.concatenate([blocks[:, 0].numpy(), blocks[:, 4].numpy()]).var()
    ours = found.numpy() * float(blocks[:, 0].var()) / variance
    np.testing.assert_allclose(ours, theirs["ST"], rtol=1e-9)
    # its first-order estimator is another one, of the same number
    np.testing.assert_allclose(first_order(blocks[:, 4], blocks[:, 1:4], "jansen").numpy(), theirs["S1"], atol=1e-2)


# -- the design --------------------------------------------------------------------------------------------------------


def test_the_design_exchanges_one_coordinate_at_a_time():
    plan = design(3, 8, "sobol", 0)
    assert plan.cost("total") == 8 * 4
    assert plan.cost("first") == 8 * 5
    for j, i in itertools.product(range(8), range(3)):
        wanted = plan.a[j].clone()
        wanted[i] = plan.b[j, i]
        assert torch.equal(plan.take(torch.tensor([j * 4 + 1 + i]))[0], wanted)
        assert torch.equal(plan.take(torch.tensor([8 * 4 + j]))[0], plan.b[j])
    assert torch.equal(plan.take(plan.rows[:4])[0], plan.a[0])
    assert not torch.equal(design(3, 8, "sobol", 1).a, plan.a)
    # a net: every coordinate has one point in each eighth
    assert all(sorted((plan.a[:, i] * 8).long().tolist()) == list(range(8)) for i in range(3))


@pytest.mark.parametrize(
    ("grid", "designs", "rows", "calls"), [(8, 32, 2112, 1692), (8, 64, 4224, 3712), (11, 32, 3936, 3196)]
)
def test_the_official_design_is_paid_once_for_equal_rows(grid, designs, rows, calls):
    """The reference's counts; f(b) is not evaluated for total indices."""
    assert designs * (grid * grid + 2) == rows
    assert attribution.describe("sobol")["cost"].forwards == 2080
    cost = attribution.perturbation.sobol.Sobol.cost((3, 224, 224), grid=grid, designs=designs, sampler="official")
    assert cost == (calls, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("d", "n"), [(1, 8), (3, 16), (64, 32)])
def test_no_row_is_lost_and_none_is_evaluated_twice(sampler, d, n):
    plan = design(d, n, sampler, 0)
    rows, second = plan.take(plan.rows), plan.take(plan.b_rows)
    every = whole(plan).float()
    assert torch.equal(torch.cat([rows, second])[plan.b_place], every[:, -1])
    assert torch.equal(rows[plan.place], every[:, :-1])
    assert len(rows.unique(dim=0)) == len(rows)
    assert len(second.unique(dim=0)) == len(second)
    assert len(rows) == len(every[:, :-1].reshape(-1, d).unique(dim=0))
    # what some of the points need comes first
    for points in range(n + 1):
        assert plan.ends[points] == (int(plan.place[:points].max()) + 1 if points else 0)


@pytest.mark.parametrize("sampler", ["sobol", "official", "halton", "mc"])
def test_a_longer_design_begins_with_a_shorter_one(sampler):
    short, long = design(6, 8, sampler, 0), design(6, 32, sampler, 0)
    assert torch.equal(long.take(long.rows[: len(short.rows)]), short.take(short.rows))
    assert torch.equal(long.take(long.b_rows[: len(short.b_rows)]), short.take(short.b_rows))
    assert short.key == long.key
    assert design(6, 8, "lhs", 0).key != design(6, 16, "lhs", 0).key


def test_what_comes_later_saves_nothing_before(monkeypatch):
    """The second of two points is where the first one's b was: the first alone must be evaluated alike."""
    drawn = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]])
    monkeypatch.setattr(_sobol, "points", lambda d, n, sampler, seed: drawn[:n])
    short, long = (design.__wrapped__(2, n, "mc", 0) for n in (1, 2))
    assert short.take(short.b_rows).tolist() == drawn[:1, 2:].tolist()
    assert long.take(long.b_rows).tolist() == drawn[:, 2:].tolist()


@pytest.mark.parametrize("index", ["total", "first"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_indices_are_those_of_all_rows(index, sampler):
    """Evaluating equal rows once changes nothing: the design is written out here, and the network is the function."""
    function = lambda p: toy(p) + torch.sin(5 * p[..., 2])  # noqa: E731
    plan = design(4, 16, sampler, 0)
    rows = whole(plan)
    scores = function(rows)
    made = attribution.create(
        "sobol", patches(function), grid=2, designs=16, baseline="zero", sampler=sampler, index=index
    )
    found = made.explain(torch.ones(2, 1, 4, 6, dtype=torch.float64), 0)
    total = total_order(scores[:, 0], scores[:, 1:-1], "jansen").reshape(2, 2)
    first = first_order(scores[:, -1], scores[:, 1:-1], "jansen").reshape(2, 2)
    # the design is float32 in both; means of a patch of six pixels round in float64
    for one in found.details["indices"]:
        np.testing.assert_allclose(one.numpy(), (first if index == "first" else total).numpy(), atol=1e-9)
    if index == "first":
        np.testing.assert_allclose(found.details["total"][0].numpy(), total.numpy(), atol=1e-9)
        assert torch.equal(found.details["first"], found.details["indices"])
    assert found.forwards.tolist() == [plan.cost(index)] * 2


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["jansen", "glen"])
def test_maps_of_the_toy(estimator):
    """Four patches of a 4 x 6 image whose means are the toy's variables."""
    x = torch.ones(2, 1, 4, 6, dtype=torch.float64)
    made = attribution.create("sobol", patches(), grid=2, designs=4096, baseline="zero", estimator=estimator)
    found = made.explain(x, 0)
    np.testing.assert_allclose(found.details["indices"][0].flatten().numpy(), TOY, atol=2e-3)  # 4e-4 by the reference
    assert torch.equal(found.details["indices"][0], found.details["indices"][1])  # the same draws for every image
    assert found.native.shape == (2, 1, 2, 2)
    assert found.maps.shape == (2, 1, 4, 6)
    assert found.details["interval"].shape == (2, 2, 2, 2)
    assert found.details["designs"].tolist() == [4096, 4096]
    assert found.forwards.tolist() == [4096 * 5] * 2
    first = attribution.create("sobol", patches(), grid=2, designs=4096, baseline="zero", index="first").explain(x, 0)
    np.testing.assert_allclose(first.details["first"][0].flatten().numpy(), TOY_FIRST, atol=2e-3)
    np.testing.assert_allclose(first.details["total"][0].flatten().numpy(), TOY, atol=2e-3)


@pytest.mark.parametrize("more", [{}, {"index": "first"}, {"tolerance": 0.1, "designs": 32}, {"racing": 1, "designs": 32}])
def test_a_constant_network_gets_zeros(images, more):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), 0.7)

    found = attribution.create("sobol", Model(Constant()), **{"grid": 2, "designs": 4, **more}).explain(images(), 1)
    assert not found.maps.any()
    assert not found.details["interval"].any()
    if "tolerance" in more:
        assert found.details["designs"].tolist() == [8] * 3


def test_no_more_cells_than_pixels(images, networks):
    found = attribution.create("sobol", networks.cnn(), grid=8, designs=2).explain(images(height=5, width=3), 0)
    assert found.details["indices"].shape == (3, 5, 3)
    assert found.forwards.tolist() == [2 * 16] * 3


@pytest.mark.parametrize("side", [1, 2, 3, 10])
def test_the_box_blur_is_scipy_s(images, side):
    x = images(2, height=7, width=12, dtype=torch.float64)
    wanted = ndimage.uniform_filter(x.numpy(), (1, 1, side, side), mode="nearest")
    np.testing.assert_allclose(box_blur(x, side).numpy(), wanted, atol=1e-12)


def test_blur_is_a_baseline_ten_pixels_wide_at_224(images):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = images(2, 1, 96, 67)
    network(x)
    found = attribution.create("sobol", network, grid=3, designs=4, perturbation="blur").attribute(x, 0)
    wanted = attribution.create("sobol", network, grid=3, designs=4, baseline=box_blur(x, 3)).attribute(x, 0)
    assert torch.equal(found, wanted)


def test_amplitude_adds():
    """f is linear, so the indices are the squared sums of the weights, whatever the image."""
    weight = torch.tensor([1.0, -2.0, 0.0, 3.0])
    model = Model(lambda x: (x * weight).sum(1)[:, None], kind="table", bounds=None)
    seen = []
    made = attribution.create("sobol", model, designs=256, perturbation="amplitude", amplitude=0.5)
    x = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    found = made.attribute(x, lambda out: (seen.append(out[:, 0]), out[:, 0])[1])
    np.testing.assert_allclose(found.numpy(), np.array([[1, 4, 0, 9]] * 2) / 14, atol=0.02)  # 256 quasi-random points
    # what is added lies within half the amplitude on either side
    moved = torch.cat(seen) - (x[1] * weight).sum()
    assert float(moved[-100:].abs().max()) <= 0.25 * 6


@pytest.mark.parametrize("perturbation", ["inpaint", "amplitude"])
def test_tables_and_tokens(perturbation):
    """Columns of different ranges: blending with 0, an index is the square of weight times value."""
    x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]])
    table = Model(lambda x: x.sum(1)[:, None], kind="table", bounds=None)
    tokens = Model(lambda x: x.mean(2).sum(1)[:, None], kind="tokens", bounds=None)
    made = [
        attribution.create("sobol", m, designs=512, baseline=0.0 if perturbation == "inpaint" else "mean",
                           perturbation=perturbation)
        for m in (table, tokens)
    ]  # fmt: skip
    wanted = x**2 if perturbation == "inpaint" else torch.ones_like(x)
    wanted = wanted / wanted.sum(1, keepdim=True)
    found = made[0].explain(x, 0)
    np.testing.assert_allclose(found.maps.numpy(), wanted.numpy(), atol=0.02)  # 512 quasi-random points
    assert found.details["interval"].shape == (2, 2, 3)
    assert found.forwards.tolist() == [512 * 4] * 2
    found = made[1].explain(x[:, :, None].expand(-1, -1, 5), 0)
    assert found.native.shape == (2, 3)
    np.testing.assert_allclose(found.maps[..., 2].numpy(), wanted.numpy(), atol=0.02)


def test_blur_is_for_images():
    model = Model(lambda x: x[:, :1], kind="table", bounds=None)
    with pytest.raises(ValueError, match="is for images: take 'inpaint' or 'amplitude'"):
        attribution.create("sobol", model, designs=2, perturbation="blur").attribute(torch.rand(1, 3), 0)


def test_any_number_of_points_where_it_is_no_sobol_sequence(networks, images):
    for sampler in ("halton", "lhs", "mc"):
        made = attribution.create("sobol", networks.cnn(), grid=2, designs=50, sampler=sampler)
        assert made.explain(images(1), 0).forwards.tolist() == [250]
    assert attribution.create("sobol", networks.cnn(), grid=2, sampler="lhs", budget=250).designs == 32


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["mc", "sobol"])
def test_intervals_cover_the_truth(sampler):
    """Of 200 designs of 64 points, for the coordinates that matter."""
    truth = {"total": torch.tensor(TOY, dtype=torch.float64), "first": torch.tensor(TOY_FIRST, dtype=torch.float64)}
    hits = {"total": torch.zeros(4), "first": torch.zeros(4)}
    for seed in range(200):
        a, c, b = scores_of(toy, 4, 64, seed=seed, sampler=sampler)
        for index, one in (("total", a), ("first", b)):
            low, high = interval(one, c, "jansen", index, seed)
            hits[index] += (low <= truth[index]) & (truth[index] <= high)
    for index, counted in hits.items():
        share = (counted / 200)[truth[index] > 0.1]
        # 95% with a binomial standard error of 1.5%; percentile intervals of 64 points are known to be a few percent
        # short. Quasi-random points err less than the bootstrap, which takes them for independent ones, knows
        assert float(share.min()) > 0.89
        assert sampler == "sobol" or float(share.max()) < 0.99


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_interval_is_that_of_designs_with_points_drawn_again(estimator):
    """Against the plain loop over resamples."""
    a, c, _ = scores_of(toy, 4, 32, sampler="mc")
    a, c = a + 1, c + 1
    found = interval(a, c, estimator, "total", 5)
    rng = np.random.default_rng(np.random.SeedSequence((5, 1_000_003, 32)))
    counts = torch.from_numpy(rng.multinomial(32, np.full(32, 1 / 32), 200))
    drawn = []
    for one in counts:
        points = torch.repeat_interleave(torch.arange(32), one)
        drawn.append(total_order(a[points], c[points], estimator).numpy())
    np.testing.assert_allclose(found.numpy(), np.percentile(drawn, [2.5, 97.5], axis=0), rtol=1e-9, atol=1e-12)


def test_intervals_cost_nothing_and_do_not_depend_on_the_batch(networks, images):
    x = images(3)
    made = attribution.create("sobol", networks.cnn().double(), grid=2, designs=16)
    found = made.explain(x.double(), [0, 1, 2])
    assert found.forwards.tolist() == [16 * 5] * 3
    low, high = found.details["interval"].unbind(1)
    assert bool((low <= high).all())
    assert bool((low < high).any())
    alone = made.explain(x[1:2].double(), 1).details["interval"]
    np.testing.assert_allclose(alone[0].numpy(), found.details["interval"][1].numpy(), atol=1e-9)


# -- stopping early ----------------------------------------------------------------------------------------------------


def mixed(n=3):
    """Images of one network on which it is additive, constant, and rough."""
    x = torch.ones(n, 1, 4, 4, dtype=torch.float64)
    x[1:2] = 0
    x[2:] *= 3
    return x


def rough(p):
    return p[..., 0] + torch.relu(p[..., 1:].sum(-1) - 5) ** 4


def test_an_image_stops_when_its_intervals_are_narrow():
    model = patches(rough)
    made = attribution.create("sobol", model, grid=2, designs=512, baseline="zero", tolerance=0.3)
    found = made.explain(mixed(), 0)
    used = found.details["designs"].tolist()
    assert used[1] == 8  # constant
    assert len(set(used)) == 3, used
    assert found.forwards.tolist() == [5 * n for n in used]
    for i, n in enumerate(used):
        # each is what a design of that length gives alone, and the one of half the length was not enough
        alone = made.explain(mixed()[i : i + 1], 0)
        assert alone.details["designs"].tolist() == [n]
        np.testing.assert_allclose(alone.maps[0].numpy(), found.maps[i].numpy(), atol=1e-9)
        plain = attribution.create("sobol", model, grid=2, designs=n, baseline="zero").explain(mixed()[i : i + 1], 0)
        np.testing.assert_allclose(plain.maps[0].numpy(), found.maps[i].numpy(), atol=1e-9)
        low, high = plain.details["interval"][0]
        wide = float((high - low).max()) / 2
        assert wide <= 0.3 * float(plain.details["indices"].max()) or n == 512
        if n > 8:
            half = attribution.create("sobol", model, grid=2, designs=n // 2, baseline="zero")
            half = half.explain(mixed()[i : i + 1], 0).details
            assert float((half["interval"][0, 1] - half["interval"][0, 0]).max()) / 2 > 0.3 * float(half["indices"].max())


def test_a_tolerance_is_a_part_of_the_largest_index():
    """Four equal cells have a quarter each: their intervals must be four times as narrow."""
    options = {"grid": 2, "baseline": "zero"}
    model = patches(lambda p: p.sum(-1))
    found = attribution.create("sobol", model, designs=512, tolerance=0.4, **options).explain(mixed(1), 0)
    used = int(found.details["designs"])
    assert 8 < used < 512
    for n, enough in ((used // 2, False), (used, True)):
        one = attribution.create("sobol", model, designs=n, **options).explain(mixed(1), 0).details
        half = float((one["interval"][:, 1] - one["interval"][:, 0]).max()) / 2
        assert half < 0.4  # of 1 it would do at once
        assert (half <= 0.4 * float(one["indices"].max())) is enough


def test_a_tolerance_that_is_never_reached_uses_every_point():
    made = attribution.create("sobol", patches(), grid=2, designs=32, baseline="zero", tolerance=1e-6)
    found = made.explain(mixed(1), 0)
    assert found.details["designs"].tolist() == [32]
    plain = attribution.create("sobol", patches(), grid=2, designs=32, baseline="zero").attribute(mixed(1), 0)
    assert torch.equal(found.maps, plain)
    assert found.forwards.tolist() == [made.cost((1, 4, 4), **made.params).forwards]


@pytest.mark.parametrize("index", ["total", "first"])
@pytest.mark.parametrize("sampler", ["sobol", "official"])
def test_racing_finds_the_same_best_with_fewer_calls(index, sampler):
    weight = torch.tensor([3.0, 0.1, 0.2, 2.5, 0.1, 1.2, 0.0, 0.1, 0.2])
    model = Model(lambda x: (x * weight).sum(1)[:, None], kind="table", bounds=None)
    x = torch.ones(2, 9, dtype=torch.float64)
    x[1, 0], x[1, 5] = 0.02, 2  # the second image has another best pair
    n = 512 if index == "first" else 64  # intervals of first-order indices are wider
    options = {"designs": n, "sampler": sampler, "index": index, "baseline": 0.0}
    plain = attribution.create("sobol", model, **options).explain(x, 0)
    raced = attribution.create("sobol", model, racing=2, **options).explain(x, 0)
    best = [set(one.topk(2).indices.tolist()) for one in plain.maps]
    assert best == [{0, 3}, {3, 5}]
    assert [set(one.topk(2).indices.tolist()) for one in raced.maps] == best
    assert bool((raced.forwards < 0.75 * plain.forwards).all())
    points = raced.details["points"]
    for i, best_two in enumerate(best):
        # who stays has the whole design's number, who leaves that of the design that they left at
        assert all(int(points[i, k]) == n for k in best_two)
        for k in range(9):
            short = attribution.create("sobol", model, **{**options, "designs": int(points[i, k])}).attribute(x, 0)
            assert float(raced.maps[i, k]) == pytest.approx(float(short[i, k]), abs=1e-9)
    # each distinct row is paid once, whoever needs it
    plan = design(9, n, sampler, 0)
    for i in range(2):
        rows = [plan.place[:, 0], *(plan.place[: int(points[i, k]), k + 1] for k in range(9))]
        needed = len(torch.cat(rows).unique()) + (plan.b_ends[-1] if index == "first" else 0)
        assert int(raced.forwards[i]) == needed
    alone = attribution.create("sobol", model, racing=2, **options).explain(x[1:], 0)
    assert alone.forwards[0] == raced.forwards[1]
    assert torch.equal(alone.maps[0], raced.maps[1])


def test_racing_pays_for_no_row_of_an_earlier_look(monkeypatch):
    """A design whose second half is the first once more."""
    half = _sobol.points(18, 8, "mc", 1)
    monkeypatch.setattr(_sobol, "points", lambda d, n, sampler, seed: torch.cat([half, half]))
    design.cache_clear()
    weight = torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0, 0])
    model = Model(lambda x: (x * weight).sum(1)[:, None], kind="table", bounds=None)
    made = attribution.create("sobol", model, designs=16, sampler="mc", baseline=0.0, racing=1)
    found = made.explain(torch.ones(1, 9), 0)
    design.cache_clear()
    assert found.details["points"].tolist() == [[16] + [8] * 8]
    assert found.forwards.tolist() == [8 * 10]


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_other_estimators_indices_and_lengths_share_evaluations(networks, images):
    x, network = images(2), networks.cnn().double()
    x = x.double()

    def run(model, **more):
        return attribution.create("sobol", model, grid=3, **{"designs": 8, **more}).explain(x, 0)

    settings = [{}, {"estimator": "glen"}, {"index": "first"}, {"designs": 16}, {"tolerance": 1e-9, "designs": 16}]
    model = Model(network)
    alone = [run(Model(network), **more) for more in settings]
    with model.sharing():
        shared, paid = [], []
        for more in settings:
            before = model.forwards
            shared.append(run(model, **more))
            paid.append(model.forwards - before)
    assert paid == [2 * 80, 0, 2 * 8, 2 * 80, 0]
    for one, other in zip(alone, shared, strict=True):
        assert one.forwards.tolist() == other.forwards.tolist()  # what each would have paid
        np.testing.assert_allclose(one.maps.numpy(), other.maps.numpy(), atol=1e-9)


@pytest.mark.parametrize(
    "more", [{"seed": 1}, {"sampler": "mc"}, {"baseline": "white"}, {"perturbation": "amplitude"}, {"grid": 2},
             {"perturbation": "blur"}, {"perturbation": "amplitude", "amplitude": 2.0}],
)  # fmt: skip
def test_other_perturbations_do_not(networks, images, more):
    model, x = Model(networks.cnn()), images(2)
    with model.sharing():
        attribution.create("sobol", model, grid=3, designs=8).attribute(x, 0)
        attribution.create("wcam", model, grid=3, designs=8).attribute(x, 0)
        if more.get("amplitude"):
            attribution.create("sobol", model, grid=3, designs=8, perturbation="amplitude").attribute(x, 0)
        before = model.forwards
        found = attribution.create("sobol", model, **{"grid": 3, "designs": 8, **more}).explain(x, 0)
        assert model.forwards - before == int(found.forwards.sum())


def test_a_target_in_parts_is_never_mistaken_for_another():
    """Images that stop leave others behind: their part of a callable may come to lie where an older one lay."""

    class Own:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, outputs):
            return outputs[:, 0] ** self.scale

        def take(self, rows):
            return Own(self.scale[rows])

    model, x, alive = patches(rough), mixed(), []
    with model.sharing():
        for power in (1.0, 2.0, 3.0, 4.0):
            options = {"grid": 2, "designs": 64, "baseline": "zero", "tolerance": 0.3}
            target = Own(torch.full((3,), power, dtype=torch.float64))
            shared = attribution.create("sobol", model, **options).attribute(x, target)
            alone = attribution.create("sobol", patches(rough), **options).attribute(x, target)
            np.testing.assert_allclose(shared.numpy(), alone.numpy(), atol=1e-9)
            # remembered under what lives as long as the caller's target, never under a part of it
            assert target in [place[2][2].function for place in model.shared]
            alive.append(target)
        assert {id(place[2][2].function) for place in model.shared} == {id(one) for one in alive}

"""Correlations over subsets: exact cases, scipy and naive loops as oracles, draws, costs."""

import warnings

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import regions
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.randomness import uniforms
from attriscope.metrics.faithfulness import _subsets
from attriscope.metrics.faithfulness._subsets import Bernoulli, Fixed, Singles, correlate, ranks, sums
from scipy import stats
from torch import nn

ALL = [
    ("mu_fidelity", {}),
    ("mu_fidelity", {"preset": "xplique"}),
    ("mu_fidelity", {"grid": 4, "share": 0.5, "correlation": "spearman"}),
    ("faithfulness_correlation", {}),
    ("faithfulness_correlation", {"subset": 9, "correlation": "spearman"}),
    ("sensitivity_n", {}),
    ("sensitivity_n", {"n": (1, 5, 60), "samples": 40}),
    ("idsds", {}),
    ("idsds", {"grid": 3, "correlation": "pearson"}),
]
FIXED = [(n, o) for n, o in ALL if o.get("preset") != "xplique"]


class Function(nn.Module):
    """A score that is a function of the image; a second output that never changes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = self.function(x)
        return torch.stack([y, torch.zeros_like(y)], 1)


def model_of(function, **more):
    return attribution.Model(Function(function), **{"bounds": (0.0, 1.0), "activation": "none", "fast": False, **more})


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPE = (3, 13, 10)  # not square, and no grid divides it
WEIGHT = rand(*SHAPE, seed=1) - 0.3


def linear(x):
    return (x * WEIGHT.to(x)).sum((1, 2, 3)) + 0.7


def curved(x):
    """Pixels act on each other's effect."""
    left, right = x[..., :5].mean((1, 2, 3)), x[..., 5:].mean((1, 2, 3))
    return torch.tanh(3 * left * right) + (x.square() * WEIGHT.to(x)).mean((1, 2, 3))


# -- exact cases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("baseline", [0.25, "noise"])
def test_contributions_of_a_linear_score_correlate_perfectly(name, options, baseline):
    x = rand(2, *SHAPE)
    metric = metrics.create(name, baseline=baseline, **options)
    model = model_of(linear)
    maps = WEIGHT * (x - attribution.baselines.make(baseline, x, model, seed=0))
    scores = metric.score(model, x, maps, target=0)
    # float64 sums of 390 numbers of order 1
    torch.testing.assert_close(scores, torch.ones(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(metric.score(model, x, -3 * maps, target=0), -scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_score_that_never_changes_is_undefined_and_counted(name, options):
    with pytest.warns(RuntimeWarning, match=r"2 of 2 .* adds up to the same"):
        scores = metrics.create(name, **options).score(model_of(linear), rand(2, *SHAPE), rand(2, *SHAPE), target=1)
    assert scores.isnan().all()


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize(("name", "options"), FIXED)
def test_a_constant_map_has_no_score_where_subsets_have_one_size(name, options, side):
    """Also where the grid does not divide the image, so that cells differ in size."""
    x = rand(2, 1, side, side)
    with pytest.warns(RuntimeWarning, match="2 of 2"):
        scores = metrics.create(name, **options).score(
            model_of(lambda x: x.square().sum((1, 2, 3))), x, 0.1 * torch.ones(2, side, side), target=0
        )
    assert scores.isnan().all()


def test_with_random_sizes_a_map_of_ones_scores_and_that_is_told():
    """The trap: larger subsets have larger sums and lose more, so that knowing nothing scores nearly everything."""
    x = rand(2, 1, 18, 18)
    model = model_of(lambda x: x.mean((1, 2, 3)))
    metric = metrics.create("mu_fidelity", preset="xplique", baseline="black")
    found = metric.score(model, x, torch.ones(2, 18, 18), target=0, curves=True)
    # cells hold 4 pixels of mean 1/2 and deviation .29: their number decides almost alone what is lost
    assert (found.scores > 0.9).all()
    torch.testing.assert_close(found.details["constant"], found.scores)
    other = metric.score(model, x, rand(2, 18, 18, seed=3), target=0, curves=True)
    torch.testing.assert_close(other.details["constant"], found.scores)
    assert (other.scores > 0.5).all(), "a random map that is nowhere negative is caught in it too"
    fair = metrics.create("mu_fidelity", baseline="black")
    assert fair.score(model, x, rand(2, 18, 18, seed=3), target=0).abs().max() < 0.4
    assert "constant" not in fair.score(model, x, rand(2, 18, 18), target=0, curves=True).details


def test_single_deletion_of_a_score_that_adds_over_cells():
    """Each cell's own nonlinear part, spread over it as anybody likes, ranks perfectly; negated, the other way round."""
    height, width = 10, 14
    labels = regions.grid(height, width, 4, 4)[0]

    def of_cells(x):
        parts = torch.stack([x[:, 0][:, labels == c].mean(1) for c in range(16)], 1)
        return parts.square() + torch.sin(3 * parts) * torch.arange(16).to(x) / 16

    x = rand(3, 1, height, width)
    lost = of_cells(x) - of_cells(torch.full_like(x, 0.5))
    share = rand(3, height, width, seed=5)
    whole = torch.stack([share[:, labels == c].sum(1) for c in range(16)], 1)
    maps = share / whole[:, labels] * lost[:, labels]
    metric, model = metrics.create("idsds", baseline=0.5), model_of(lambda x: of_cells(x).sum(1))
    assert metric.score(model, x, maps, target=0).tolist() == [1.0, 1.0, 1.0]
    assert metric.score(model, x, -maps, target=0).tolist() == [-1.0, -1.0, -1.0]
    assert metric.score(model, x, (3 * maps).exp(), target=0).max() < 1, "it is the cells' sums that rank, not pixels"


def test_rounding_is_no_loss():
    """What cells without any effect lose to float32 rounding must not be put in an order."""
    noise = {"at": 0}

    def jittery(x):  # as another batch size makes it
        noise["at"] += 1
        wobble = torch.tensor([-1.0, 0, 1])[torch.arange(len(x)).add(noise["at"]) % 3] * 1e-7
        return 1 + x[:, 0, :2, :2].sum((1, 2)) + wobble

    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4
    maps = torch.zeros(1, 8, 8)
    maps[:, :2, :2] = 1
    maps[:, 5:, 5:] = 0.25
    model = model_of(jittery, batch_size=4)
    score = metrics.create("idsds", baseline="black").score(model, x, maps, target=0)
    cells = [1.0] + [0.0] * 9 + [1 / 16, 1 / 8] + [0.0] * 2 + [1 / 8, 1 / 4]
    assert score.item() == pytest.approx(stats.spearmanr(cells, [1.0] + [0.0] * 15).statistic, abs=1e-9)
    elsewhere = model_of(lambda x: jittery(0 * x), batch_size=4)
    with pytest.warns(RuntimeWarning, match="1 of 1"):
        assert metrics.create("mu_fidelity").score(elsewhere, x, maps, target=0).isnan().all()


# -- oracles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL)
def test_every_correlation_is_that_of_a_naive_loop(name, options):
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE, seed=2) - 0.4
    metric = metrics.create(name, seed=3, baseline=0.3, **options)
    plan = metric.plan(SHAPE)
    layout = plan.layout or SHAPE[1:]
    labels = regions.grid(*SHAPE[1:], *layout)[0]
    expected = []
    for image, one in zip(x, maps, strict=True):
        each = []
        for draws in plan.draws:
            added, lost = [], []
            for subset in draws(slice(0, draws.samples)):
                out = subset[labels]
                added.append(float(one.sum(0)[out].sum()))
                lost.append(float(curved(image[None]) - curved(torch.where(out, 0.3, image)[None])))
            kind = stats.pearsonr if plan.correlation == "pearson" else stats.spearmanr
            each.append(kind(added, lost).statistic)
        expected.append(np.mean(each))
    scores = metric.score(model_of(curved), x, maps, target=0)
    # float64; correlations divide by deviations a thousandth of the score
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("values", [3, 10, 1000])
def test_correlations_are_scipy_s_with_ties(values):
    rng = np.random.default_rng(values)
    one, other = rng.integers(values, size=(2, 20, 50)).astype(float)
    other = other + one
    for kind, oracle in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = correlate(torch.from_numpy(one), torch.from_numpy(other), kind)
        expected = [oracle(a, b).statistic for a, b in zip(one, other, strict=True)]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)  # float64 sums of 50
    np.testing.assert_array_equal(ranks(torch.from_numpy(one), torch.zeros(20)), stats.rankdata(one, axis=1) - 1)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_scale_of_a_map_is_nothing_to_a_correlation(scale):
    one, other = rand(3, 30), rand(3, 30, seed=1)
    for kind in ("pearson", "spearman"):
        torch.testing.assert_close(correlate(scale * one, other, kind), correlate(one, other, kind))


def test_what_does_not_vary_correlates_with_nothing():
    still, moving = torch.full((2, 9), 0.1, dtype=torch.float64), rand(2, 9)
    for kind in ("pearson", "spearman"):
        for pair in ((still, moving), (moving, still), (still, still), (moving[:, :1], moving[:, 1:2])):
            assert correlate(*pair, kind).isnan().all()
    assert correlate(moving, rand(2, 9, seed=1)).isfinite().all()
    barely = moving * 1e-12
    small = torch.full((2,), 1e-11, dtype=torch.float64)
    assert correlate(barely, moving, rounding=(small, 0 * small)).isnan().all()


def test_sums_that_differ_by_rounding_share_a_rank():
    """Three cells of .1, .2 and .3: {.1, .2} and {.3} add up to the same, but for the last bit."""
    assert 0.1 + 0.2 != 0.3
    values = torch.tensor([[0.1 + 0.2, 0.3, 0.05]], dtype=torch.float64)
    assert ranks(values, torch.full((1,), 1e-15)).tolist() == [[1.5, 1.5, 0.0]]
    assert ranks(values, torch.zeros(1)).tolist() == [[2.0, 1.0, 0.0]]
    maps = torch.zeros(1, 8, 8, dtype=torch.float64)
    maps[0, 0, :3] = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    draws = Bernoulli(64, 300, 0.5)
    added, rounding = sums(maps, (8, 8), draws)
    exact = draws(slice(0, 300))[:, :3].double() @ torch.tensor([1.0, 2.0, 3.0]).double()
    np.testing.assert_array_equal(ranks(added, rounding)[0], stats.rankdata(exact) - 1)


# -- draws -------------------------------------------------------------------------------------------------------------


def test_fixed_subsets_have_their_size_and_every_member_alike():
    drawn = Fixed(12, 4000, 5, seed=1)(slice(0, 4000))
    assert drawn.shape == (4000, 12)
    assert (drawn.sum(1) == 5).all()
    # five standard errors of a share of 5/12 in 4000 draws
    assert (drawn.double().mean(0) - 5 / 12).abs().max() < 5 * (5 / 12 * 7 / 12 / 4000) ** 0.5
    pairs = (drawn[:, :, None] & drawn[:, None, :]).double().mean(0)
    together = pairs[~torch.eye(12, dtype=torch.bool)]
    assert (together - 5 / 12 * 4 / 11).abs().max() < 5 * (0.1515 * 0.85 / 4000) ** 0.5
    assert drawn.unique(dim=0).shape[0] > 700, "nearly all of the 792 subsets turn up"


def test_bernoulli_subsets_have_cells_by_themselves():
    drawn = Bernoulli(20, 4000, 0.2)(slice(0, 4000)).double()
    assert (drawn.mean(0) - 0.2).abs().max() < 5 * (0.16 / 4000) ** 0.5  # standard errors
    assert drawn.sum(1).var() == pytest.approx(20 * 0.16, rel=0.15)  # a variance's standard error is .022 of it


@pytest.mark.parametrize(
    "make",
    [
        lambda size, samples, seed: Fixed(size, samples, 7, seed),
        lambda size, samples, seed: Bernoulli(size, samples, 0.3, seed),
    ],
)
@pytest.mark.parametrize("size", [9, 130, 100_001])
def test_more_samples_go_on_where_fewer_ended(make, size):
    """And any slice is that part of the whole, across blocks."""
    few, many = make(size, 5, 2), make(size, 70, 2)
    assert torch.equal(few(slice(0, 5)), many(slice(0, 5)))
    whole = many(slice(0, 70))
    for part in (slice(0, 1), slice(3, 66), slice(63, 65), slice(69, 70)):
        assert torch.equal(many(part), whole[part])
    assert not torch.equal(make(size, 5, 3)(slice(0, 5)), few(slice(0, 5)))
    assert len({row.numpy().tobytes() for row in whole}) > 30, "draws differ from each other"


def test_larger_subsets_contain_the_smaller_ones():
    small, large = (Fixed(40, 30, n, seed=4)(slice(0, 30)) for n in (3, 17))
    assert (large | ~small).all()


def test_no_method_draws_the_subsets_that_judge_it():
    """RISE's first grids at seed 0 are the uniforms of stream 0."""
    for stream in range(3):
        mine = uniforms(0, 200, 49, stream=stream) < 0.5
        assert not (mine == Bernoulli(49, 200, 0.5)(slice(0, 200))).all(1).any()


def test_subsets_are_never_all_at_the_image_s_size(monkeypatch):
    asked = []
    draw = Fixed.draw
    monkeypatch.setattr(Fixed, "draw", lambda self, start, count: (asked.append(count), draw(self, start, count))[1])
    chunk = []
    call = _subsets.Draws.__call__

    def watch(self, items):
        chunk.append((items.stop - items.start) * self.size)
        return call(self, items)

    monkeypatch.setattr(_subsets.Draws, "__call__", watch)
    side = 100
    metric = metrics.create("faithfulness_correlation", samples=500, seed=77)
    metric.score(
        model_of(lambda x: x.mean((1, 2, 3)), batch_size=8), rand(1, 1, side, side), rand(1, side, side), target=0
    )
    assert sum(asked) == 500, "each is drawn once, for the forwards and for the sums"
    assert max(asked) <= 64
    assert max(chunk) <= _subsets.NUMBERS < 500 * side * side


def test_sums_in_chunks_are_the_sums(monkeypatch):
    maps, draws = rand(3, 13, 10), Fixed(130, 50, 20)
    whole = sums(maps, None, draws)[0]
    monkeypatch.setattr(_subsets, "NUMBERS", 900)
    torch.testing.assert_close(sums(maps, None, draws)[0], whole)
    torch.testing.assert_close(whole, maps.flatten(1) @ draws(slice(0, 50)).double().T)
    single = sums(maps, (3, 2), Singles(6, 6))[0]
    torch.testing.assert_close(single.sum(1), maps.sum((1, 2)))
    torch.testing.assert_close(single[:, 0], maps[:, :5, :5].sum((1, 2)))


# -- shared evaluations ------------------------------------------------------------------------------------------------


def forwards(*asked, model=None):
    """What it costs to ask for these metrics of these maps in one go, for each image; and the scores."""
    model, x = model or model_of(curved), rand(2, *SHAPE)
    todo = Evaluations(model, model.resolve(x, 0))
    finish = [metric.prepare(todo, x, maps) for metric, maps in asked]
    with model.ledger(2) as ledger:
        todo.run()
        scores = [f().scores for f in finish]
    (number,) = set(ledger.forwards.tolist())
    return number, scores


@pytest.mark.parametrize(("name", "options"), ALL)
def test_losses_are_paid_once_for_all_methods(name, options):
    metric = metrics.create(name, **options)
    maps = [rand(2, *SHAPE[1:], seed=s) for s in range(4)]
    number, scores = forwards(*((metric, m) for m in maps))
    assert number == metric.cost(SHAPE)
    for one, found in zip(maps, scores, strict=True):
        torch.testing.assert_close(
            found, metric.score(model_of(curved), rand(2, *SHAPE), one, target=0), atol=1e-9, rtol=0
        )


def test_what_two_metrics_remove_alike_is_paid_once():
    maps = rand(2, *SHAPE[1:], seed=5)
    mu = metrics.create("mu_fidelity", grid=5, share=0.2, samples=60)
    same = metrics.create("sensitivity_n", grid=5, n=5, samples=60)
    number, scores = forwards((mu, maps), (same, maps))
    assert number == 61
    torch.testing.assert_close(*scores)
    for change in ({"seed": 1}, {"baseline": "black"}, {"n": 4}, {"grid": 6}, {"samples": 59}):
        other = metrics.create("sensitivity_n", **{"grid": 5, "n": 5, "samples": 60, **change})
        assert forwards((mu, maps), (other, maps))[0] == 61 + other.samples
    other = metrics.create("sensitivity_n", grid=5, n=5, samples=60, output="margin")
    assert forwards((mu, maps), (other, maps))[0] == 122
    drawn = metrics.create("mu_fidelity", grid=5, samples=60, cardinality="random")
    assert forwards((mu, maps), (drawn, maps))[0] == 121
    names = ["mu_fidelity", "faithfulness_correlation", "sensitivity_n", "idsds", "infidelity"]
    made = [metrics.create(n) for n in names]
    asked = [(m, maps[:, None] if m.keeps_channels else maps) for m in made]
    assert forwards(*asked)[0] == sum(m.cost(SHAPE) for m in made) - 4, "the image itself is everybody's"


@pytest.mark.parametrize(("name", "options"), ALL)
def test_neither_batch_size_nor_company_nor_place_matters(name, options):
    metric = metrics.create(name, **options)
    x, maps = rand(3, *SHAPE), rand(3, *SHAPE[1:], seed=2)
    whole = metric.score(model_of(curved, batch_size=64), x, maps, target=0)
    order = torch.tensor([2, 0, 1])
    for size in (1, 7):
        found = metric.score(model_of(curved, batch_size=size), x[order], maps[order], target=0)
        torch.testing.assert_close(found, whole[order], atol=1e-9, rtol=0)  # float64


def test_float32_maps_and_images_give_the_float64_score():
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE[1:], seed=2)
    for name, options in FIXED:
        metric = metrics.create(name, **options)
        wide = metric.score(model_of(curved), x, maps, target=0)
        narrow = metric.score(model_of(curved), x.float(), maps.float(), target=0)
        # losses of .01 known to 1e-7, and neighbours in rank that change places
        torch.testing.assert_close(narrow, wide, atol=2e-3, rtol=0)


# -- options -----------------------------------------------------------------------------------------------------------


def test_costs_are_the_papers():
    assert metrics.create("mu_fidelity").cost() == 201
    assert metrics.create("faithfulness_correlation").cost() == 101
    assert metrics.create("sensitivity_n").cost() == 101
    assert metrics.create("sensitivity_n", n=(1, 10, 50), samples=20).cost() == 61
    assert metrics.create("idsds").cost() == 17
    assert metrics.create("idsds").cost((3, 2, 9)) == 9, "no cell is smaller than a pixel"


def test_protocols_name_everything_that_moves_the_number():
    paper, xplique = (metrics.create("mu_fidelity", preset=p).protocol for p in ("paper", "xplique"))
    assert paper == {
        "baseline": "mean", "output": "logit", "seed": 0, "grid": 9, "share": 0.2, "samples": 200, "cardinality": "fixed",
        "correlation": "pearson",
    }  # fmt: skip
    assert xplique == paper | {"cardinality": "random", "correlation": "spearman"}
    own = metrics.create("mu_fidelity", preset="xplique", cardinality="fixed", correlation="pearson").protocol
    assert own == paper
    plan = metrics.create("mu_fidelity").plan((3, 224, 224))
    assert plan.draws[0] == Fixed(81, 200, 16, 0)
    assert metrics.create("mu_fidelity", preset="xplique").plan((3, 224, 224)).draws[0] == Bernoulli(81, 200, 0.2, 0)
    assert metrics.create("faithfulness_correlation").plan((3, 224, 224)).draws[0] == Fixed(50176, 100, 224, 0)
    assert metrics.create("sensitivity_n").plan((3, 224, 224)).draws == [Fixed(100, 100, 10, 0)]
    assert metrics.create("faithfulness_correlation").protocol["baseline"] == "black"


def test_every_option_reaches_what_is_done():
    shape = (3, 32, 32)
    for name in ("mu_fidelity", "faithfulness_correlation", "sensitivity_n", "idsds"):
        assert metrics.create(name).plan(shape).correlation == ("spearman" if name == "idsds" else "pearson")
        for kind in ("pearson", "spearman"):
            assert metrics.create(name, correlation=kind).plan(shape).correlation == kind
        if name != "idsds":
            (draws,) = metrics.create(name, seed=7, samples=13).plan(shape).draws
            assert (draws.seed, draws.samples) == (7, 13)
    (draws,) = metrics.create("mu_fidelity", grid=2, share=0.9).plan(shape).draws
    assert draws.take == 3, "never all of the cells"
    (draws,) = metrics.create("sensitivity_n").plan((3, 5, 5)).draws
    assert draws == Fixed(25, 100, 2, 0)
    (draws,) = metrics.create("faithfulness_correlation").plan((3, 8, 5)).draws
    assert draws == Fixed(40, 100, 20, 0)


def test_several_n_give_a_curve_and_its_mean():
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE[1:], seed=2)
    found = metrics.create("sensitivity_n", n=(2, 30, 70)).score(model_of(curved), x, maps, target=0, curves=True)
    assert found.fractions.tolist() == [0.02, 0.3, 0.7]
    for i, n in enumerate((2, 30, 70)):
        one = metrics.create("sensitivity_n", n=n).score(model_of(curved), x, maps, target=0, curves=True)
        torch.testing.assert_close(found.values[:, i], one.scores)
        assert not one.values.numel()
    torch.testing.assert_close(found.scores, found.values.mean(1))


def test_n_that_leaves_no_choice_is_refused():
    for n in (100, (1, 120)):
        with pytest.raises(ValueError, match="leaves no choice"):
            metrics.create("sensitivity_n", n=n).cost()
    for n in ((), (1, 0), (2.5,), (True, 2)):
        with pytest.raises(ValueError, match="number of cells"):
            metrics.create("sensitivity_n", n=n)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.create("sensitivity_n", n=0)
    with pytest.raises(ValueError, match="excluded"):
        metrics.create("mu_fidelity", share=1.0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 3, 5)])
def test_tiny_images_have_a_score_or_none_but_never_an_error(shape):
    x, maps = rand(2, *shape), rand(2, *shape[1:], seed=1)
    for name, options in ALL:
        fitting = {k: v for k, v in options.items() if k != "n"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            scores = metrics.create(name, **fitting).score(model_of(lambda x: x.sum((1, 2, 3))), x, maps, target=0)
        assert scores.shape == (2,)
        assert bool((scores.isnan() | (scores.abs() <= 1)).all())
        if shape == (2, 3, 5):
            assert scores.isfinite().all()


def test_a_cell_can_be_replaced_by_its_own_mean():
    """Of a linear score whose weights are equal nothing is lost then."""
    x, maps = rand(2, 1, 8, 8), rand(2, 8, 8, seed=1)
    model = model_of(lambda x: x.mean((1, 2, 3)))
    metric = metrics.create("idsds", baseline="region_mean")
    with pytest.warns(RuntimeWarning, match="2 of 2"):
        metric.score(model, x, maps, target=0)
    assert metric.score(model_of(lambda x: x.square().mean((1, 2, 3))), x, maps, target=0).isfinite().all()
    with pytest.raises(ValueError, match="regions"):
        metrics.create("faithfulness_correlation", baseline="region_mean").score(model, x, maps, target=0)


def test_which_score_is_asked_for_moves_the_number():
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE[1:], seed=2)
    model = model_of(lambda x: 30 * curved(x), activation="softmax")
    scores = {o: metrics.create("idsds", output=o, correlation="pearson").score(model, x, maps, target=0)
              for o in ("logit", "probability")}  # fmt: skip
    assert (scores["logit"] - scores["probability"]).abs().min() > 1e-3


def test_a_baseline_is_made_once_for_all_methods_and_metrics():
    made = []

    def own(images):
        made.append(len(images))
        return torch.rand_like(images)  # a callable that draws is asked once, or methods would be judged by different draws

    model = model_of(lambda x: x.flatten(1).square().sum(1))
    images = rand(2, *SHAPE)
    todo = Evaluations(model, model.resolve(images, 0))
    judges = [metrics.create(n, baseline=own) for n in ("mu_fidelity", "faithfulness_correlation", "infidelity", "deletion")]
    for seed in (1, 2):
        maps = rand(2, *SHAPE[1:], seed=seed)
        for judge in judges:
            judge.prepare(todo, images, maps[:, None] if judge.keeps_channels else maps)
    assert made == [2, 2], "once for the cells of mu_fidelity's grid, and once for all others"

"""Intervals hold what they say, tests reject as often as they say, and both agree with scipy and statsmodels."""

import math
import warnings

import numpy as np
import pytest
from attriscope.metrics import statistics
from attriscope.metrics.statistics import (
    agreement,
    better_share,
    cliques,
    friedman,
    holm,
    interval,
    is_hits,
    needed,
    nemenyi,
    ranks,
    sign_flip,
    split_half,
    wilcoxon_holm,
    wilson,
)
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

REPEATS = 2000  # columns: a share of .95 has a standard error of .5 of a hundredth


def held(scores, truth, **more):
    low, high = interval(scores, resamples=2000, **more)
    return float(((low <= truth) & (truth <= high)).mean())


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_an_interval_of_normal_scores_holds_the_mean_as_often_as_it_says(level):
    scores = np.random.default_rng(0).normal(3, 2, (80, REPEATS))
    assert abs(held(scores, 3.0, level=level) - level) < 0.02  # four standard errors; 80 units cost half a hundredth


def test_an_interval_of_skewed_bounded_scores_holds_the_mean_as_often_as_it_says():
    scores = np.random.default_rng(1).beta(0.5, 3, (120, REPEATS))
    assert 0.93 <= held(scores, 0.5 / 3.5) <= 0.97


def test_of_skewed_scores_bca_misses_on_both_sides_more_evenly_than_percentiles():
    scores, truth = np.random.default_rng(2).beta(0.3, 4, (40, REPEATS)), 0.3 / 4.3
    uneven = {}
    for method in ("bca", "percentile"):
        low, high = interval(scores, method=method, resamples=2000)
        uneven[method] = float((high < truth).mean() - (low > truth).mean())
    assert 0 < uneven["bca"] < 0.75 * uneven["percentile"]


def test_with_16_units_it_is_as_narrow_as_the_docstring_says():
    scores = np.random.default_rng(3).normal(size=(16, REPEATS))
    assert held(scores, 0.0) == pytest.approx(0.91, abs=0.02)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("clusters", [False, True])
def test_it_is_scipys(method, clusters):
    scores, resamples = np.random.default_rng(4).gamma(0.4, size=12), 200_000
    ids = np.repeat(np.arange(7), [1, 1, 4, 1, 1, 3, 1]) if clusters else np.arange(12)
    sums, sizes = np.bincount(ids, scores), np.bincount(ids).astype(float)
    oracle = stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), method="BCa" if method == "bca" else method,
        paired=True, vectorized=True, n_resamples=resamples, rng=np.random.default_rng(0),
    )  # fmt: skip
    found = interval(scores, method=method, resamples=resamples, clusters=ids if clusters else None)
    # other draws: an end of so many resamples moves by about .01 of the standard error, and the bias that BCa corrects by
    # is .05 to .1 of it
    np.testing.assert_allclose(found, oracle.confidence_interval, atol=0.035 * oracle.standard_error)


def test_the_two_methods_differ_as_they_should_on_skewed_scores():
    scores = np.random.default_rng(4).gamma(0.7, size=50)
    (low, high), (plain_low, plain_high) = interval(scores), interval(scores, method="percentile")
    error = scores.std() / 50**0.5
    assert low - plain_low > 0.05 * error  # more than the draws' own noise: the long tail is to the right
    assert high - plain_high > 0.1 * error


def test_a_constant_is_known_exactly_and_one_unit_tells_nothing():
    low, high = interval([[0.1, 1.0], [0.1, 2.0], [0.1, np.nan]])
    assert (low[0], high[0]) == (0.1, 0.1)
    for scores in (np.array([0.3]), np.array([0.3, np.nan]), np.full(4, np.nan), np.zeros(0)):
        assert np.isnan(interval(scores)).all()
    assert [e.shape for e in interval(np.full((3, 2), np.nan))] == [(2,), (2,)]
    assert [e.shape for e in interval(np.zeros((0, 2)))] == [(2,), (2,)]


def test_resamples_that_equal_the_mean_count_half_on_either_side():
    """Of two values as often as each other nothing is skewed, though a third of all resamples have the very same mean."""
    low, high = interval([0.1, 0.1, 0.1, 0.7, 0.7, 0.7], level=0.6)
    assert low + high == pytest.approx(0.8, abs=1e-9)
    assert low == pytest.approx(0.3, abs=1e-9)


def test_missing_scores_are_as_if_they_had_never_been_there():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(30, 3))
    scores[4, 0] = scores[7, 0] = scores[9, 2] = np.nan
    low, high = interval(scores)
    for k in range(3):
        alone = interval(scores[~np.isnan(scores[:, k]), k])
        np.testing.assert_allclose((low[k], high[k]), alone, rtol=1e-12)  # sums in another order


def test_a_shift_shifts_a_scale_scales_and_a_seed_repeats():
    scores = np.random.default_rng(6).gamma(1, size=25)
    low, high = interval(scores, seed=3)
    np.testing.assert_allclose(interval(5 - 2 * scores, seed=3), (5 - 2 * high, 5 - 2 * low), rtol=1e-9)
    assert interval(scores, seed=3) == (low, high)
    assert interval(scores, seed=4) != (low, high)


def test_chunks_of_memory_change_nothing_but_the_draws(monkeypatch):
    scores = np.random.default_rng(7).normal(size=(20, 2))
    before, one = np.array(interval(scores)), interval(scores[:, 1])
    np.testing.assert_allclose(before[:, 1], one, rtol=1e-12)  # whoever stands beside it
    monkeypatch.setattr(statistics, "CHUNK", 64)
    after = np.array(interval(scores))
    assert abs(after - before).max() < 0.1 * (before[1] - before[0]).min()


def test_every_resample_has_as_many_units_as_there_are(monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", 64)
    drawn = np.concatenate(list(statistics._counts(9, 100, 0)))
    assert drawn.shape == (100, 9)
    assert (drawn.sum(1) == 9).all()
    # each count is binomial(9, 1/9): variance 8/9, here of 900 draws
    assert drawn.var() == pytest.approx(8 / 9, rel=0.2)


def test_hits_get_wilsons_interval():
    hits = np.zeros((40, 2))
    hits[:31, 0] = 1
    hits[:, 1] = 1
    low, high = interval(hits, hits=True)
    for k, n in enumerate((31, 40)):
        assert (low[k], high[k]) == pytest.approx(proportion_confint(n, 40, method="wilson"), abs=1e-12)
    assert wilson(31, 40, 0.9) == pytest.approx(proportion_confint(31, 40, 0.1, method="wilson"), abs=1e-12)
    assert low[1] < 0.95 < high[1] == 1, "all hits are no certainty"
    assert not is_hits(np.full(3, 1.5))
    np.testing.assert_array_equal(interval(np.full(5, 0.5)), 0.5)


def test_nobody_guesses_that_zeros_are_misses():
    np.testing.assert_array_equal(interval(np.zeros((10, 2))), 0)
    assert interval([1.0] * 5) == (1, 1)
    mixed = np.array([1.0, 0, 1, 1, 0, 1, 0, 1])
    assert interval(mixed) == interval(mixed, hits=False) != interval(mixed, hits=True)
    assert is_hits(mixed)
    assert not is_hits(np.zeros((10, 2)))
    assert is_hits(np.zeros((10, 2)), both=False)
    assert not is_hits([0.0, 0.5, 1.0], both=False)


def test_clusters_are_what_counts():
    """Every unit five times is no more than once: the interval stays as wide."""
    scores = np.random.default_rng(8).normal(size=(30, 2))
    often = np.repeat(scores, 5, axis=0)
    np.testing.assert_allclose(interval(often, clusters=np.repeat(np.arange(30), 5)), interval(scores), rtol=1e-9)
    np.testing.assert_allclose(interval(scores, clusters=[f"{i}" for i in range(30)]), interval(scores), atol=0.1)
    blind = np.subtract(*interval(often)) / np.subtract(*interval(scores))
    np.testing.assert_allclose(blind, 5**-0.5, rtol=0.1)  # which is what it is good for


def test_clusters_of_different_sizes_hold_the_mean():
    rng = np.random.default_rng(9)
    sizes = rng.integers(1, 6, 80)
    ids = np.repeat(np.arange(80), sizes)
    scores = rng.normal(size=(80, REPEATS))[ids] + 0.3 * rng.normal(size=(len(ids), REPEATS))
    assert 0.925 <= held(scores, 0.0, clusters=ids) <= 0.97  # a ratio of two random sums: a little narrower
    assert held(scores, 0.0) < 0.8, "clusters were no clusters"


def test_a_shift_shifts_the_interval_of_clusters_too():
    """Whose sums grow with their sizes, so that a wrong jackknife would take the sizes' skew for the scores'."""
    ids = np.repeat(np.arange(7), [1, 1, 9, 1, 2, 1, 1])
    scores = np.random.default_rng(10).normal(size=len(ids))
    shifted = np.array(interval(scores + 50, clusters=ids)) - 50
    np.testing.assert_allclose(shifted, interval(scores, clusters=ids), rtol=1e-6)  # of sums of 800


def test_hits_in_clusters_get_a_bootstrap_interval():
    hits = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 4)
    low, high = interval(hits, hits=True, clusters=np.repeat(np.arange(6), 4))
    assert high - low > 1.3 * np.subtract(*interval(hits, hits=True)[::-1])


@pytest.mark.parametrize(
    ("scores", "more", "message"),
    [
        (np.zeros((2, 2, 2)), {}, "units, methods"),
        ([1.0, np.inf], {}, "infinite"),
        ([1.0, 2.0], {"level": 95}, "0.95"),
        ([1.0, 2.0], {"method": "basic"}, "percentile"),
        ([1.0, 2.0], {"clusters": [0]}, "one id for each"),
        ([1.0, 0.5], {"hits": True}, "neither 0 nor 1"),
    ],
)
def test_what_does_not_fit_is_refused(scores, more, message):
    with pytest.raises(ValueError, match=message):
        interval(scores, **more)


# -- tests of two ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [10, 40])  # all patterns are counted, and drawn
def test_sign_flips_reject_as_often_as_they_should_when_nothing_differs(units):
    differences = np.random.default_rng(0).laplace(size=(units, REPEATS))
    p = sign_flip(differences, permutations=2000)
    assert abs(float((p <= 0.05).mean()) - 0.05) < 0.02  # four standard errors
    assert abs(float((p <= 0.5).mean()) - 0.5) < 0.045


def test_all_patterns_counted_is_scipys_permutation_test():
    differences = np.random.default_rng(1).normal(0.4, 1, 9)
    oracle = stats.permutation_test(
        (differences, np.zeros(9)), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True
    )
    assert float(sign_flip(differences)) == pytest.approx(oracle.pvalue, abs=1e-12)
    drawn = float(sign_flip(differences, permutations=400))  # 512 patterns are more
    assert drawn == pytest.approx(oracle.pvalue, abs=4 * (0.25 / 400) ** 0.5)


def test_identical_methods_have_p_one():
    differences = np.zeros((20, 3))
    differences[:, 1] = 1e-9
    p = sign_flip(differences)
    assert p[0] == p[2] == 1
    assert p[1] == 1 / 10_001, "the least that there is"
    assert float(sign_flip([0.5])) == 1
    assert np.isnan(sign_flip(np.full(3, np.nan)))
    assert float(sign_flip(np.tile([0.1, -0.1], 20))) == 1, "as many up as down"


def test_sums_that_are_equal_but_for_rounding_count():
    """.1 + .2 - .3 is not 0 in floats: of the 8 patterns 2 have a larger sum, and all others have the same."""
    assert float(sign_flip([0.1, 0.2, 0.3])) == 2 / 8
    assert float(sign_flip([0.1, 0.2, -0.3])) == 1


def test_undefined_differences_take_no_part():
    rng = np.random.default_rng(2)
    known = rng.normal(0.3, 1, 8)
    assert sign_flip(np.append(known, [np.nan] * 30)) == sign_flip(known)


def test_a_cluster_has_one_sign():
    differences = np.random.default_rng(3).normal(0.5, 1, 9)
    often = np.repeat(differences, 7)
    assert float(sign_flip(often, clusters=np.repeat(np.arange(9), 7))) == pytest.approx(float(sign_flip(differences)))
    assert float(sign_flip(often)) < float(sign_flip(differences))


def test_chunks_and_a_seed_of_sign_flips(monkeypatch):
    differences = np.random.default_rng(4).normal(0.2, 1, (40, 2))
    first = sign_flip(differences, seed=1)
    assert np.array_equal(first, sign_flip(differences, seed=1))
    assert not np.array_equal(first, sign_flip(differences, seed=2))
    assert sign_flip(differences[:, 1], seed=1) == first[1], "whoever stands beside it"
    monkeypatch.setattr(statistics, "CHUNK", 100)
    np.testing.assert_allclose(sign_flip(differences, seed=1), first, atol=0.02)  # other draws
    with pytest.raises(ValueError, match="permutations=0"):
        sign_flip(differences, permutations=0)


def test_holm_is_statsmodels():
    rng = np.random.default_rng(5)
    for n in (1, 2, 7, 30):
        p = rng.random(n) ** 3
        p[n // 2 :] = p[n // 2]  # ties
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
    np.testing.assert_array_equal(holm([0.01, np.nan, 0.02]), [0.02, np.nan, 0.02])
    assert holm([]).shape == (0,)


def test_better_share_is_mann_whitney_for_pairs():
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 4, (2, 50)).astype(float)
    assert better_share(a, b) == pytest.approx((np.sum(a > b) + 0.5 * np.sum(a == b)) / 50)
    assert better_share(a, b) + better_share(b, a) == pytest.approx(1)
    assert better_share(a, a) == 0.5
    assert better_share([1, np.nan, 3], [0, 1, np.nan]) == 1
    assert math.isnan(better_share([np.nan], [1.0]))


@pytest.mark.parametrize("effect", [0.15, 0.4, 1.0])
@pytest.mark.parametrize("level", [0.05, 0.005])
def test_needed_is_statsmodels_t_test(effect, level):
    scores = np.random.default_rng(7).normal(size=30)
    scores = (scores - scores.mean()) / scores.std(ddof=1) + effect
    oracle = TTestPower().solve_power(effect, alpha=level, power=0.8)
    assert needed(scores, level=level) == pytest.approx(oracle, abs=1.5)  # an approximation, rounded up


def test_needed_images_tell_methods_apart_as_often_as_promised():
    rng = np.random.default_rng(8)
    n = int(needed(rng.normal(0.5, 1, 100_000)))
    p = sign_flip(rng.normal(0.5, 1, (n, REPEATS)), permutations=2000)
    assert float((p < 0.05).mean()) == pytest.approx(0.8, abs=0.04)  # four standard errors


def test_needed_at_its_ends():
    assert needed(np.zeros(5)) == math.inf
    assert needed([1.0, -1.0]) == math.inf
    assert math.isnan(needed([1.0]))
    assert math.isnan(needed([1.0, np.nan]))
    assert needed([1.0, 1.0, 1.0]) == 6, "2 of 2^6 patterns is the first p below .05"
    assert float(sign_flip(np.ones(6))) < 0.05 < float(sign_flip(np.ones(5)))
    assert needed([1.0, 1.0], level=2**-6) == 7
    scores = [0.0, 1.0, 2.0, -1.0]
    assert needed(scores, 0.25) > 3.5 * needed(scores, 0.5)
    assert needed(scores, 0.5) == needed(scores) == needed(np.negative(scores)) < needed(scores, power=0.9)


# -- ranks of many -----------------------------------------------------------------------------------------------------


def test_ranks_take_the_order_alone_and_share_ties():
    scores = np.random.default_rng(0).random((20, 5))
    np.testing.assert_array_equal(ranks(scores), ranks(np.exp(3 * scores)))
    np.testing.assert_array_equal(ranks(scores), ranks(-scores, higher_is_better=False))
    np.testing.assert_array_equal(ranks(scores), 6 - ranks(scores, higher_is_better=False))
    assert ranks([[0.2, 0.9, 0.2]]).tolist() == [[2.5, 1, 2.5]]
    assert ranks([[0.2, 0.9, 0.2]], False).tolist() == [[1.5, 3, 1.5]]
    assert np.isnan(ranks([[0.2, np.nan, 0.2]])).all()
    assert ranks(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_is_scipys_in_the_form_of_iman_and_davenport(ties):
    scores = np.random.default_rng(1).normal((0, 0.2, 0.4, 0.8), size=(15, 4))
    scores = scores.round() if ties else scores
    chi2 = stats.friedmanchisquare(*scores.T).statistic
    f = 14 * chi2 / (15 * 3 - chi2)
    found = friedman(ranks(scores))
    assert found.statistic == pytest.approx(f, rel=1e-10)
    assert found.p == pytest.approx(stats.f.sf(f, 3, 42), rel=1e-10)
    missing = np.vstack([ranks(scores), np.full(4, np.nan)])
    assert friedman(missing) == found, "an image without ranks takes no part"


def test_friedman_rejects_as_often_as_it_should():
    rng = np.random.default_rng(2)
    p = np.array([friedman(ranks(rng.random((12, 5)))).p for _ in range(REPEATS)])
    assert abs(float((p < 0.05).mean()) - 0.05) < 0.02  # four standard errors


def test_friedman_at_its_ends():
    assert friedman(np.full((5, 3), 2.0)).p == 1
    same = friedman(np.tile([1, 2, 3], (4, 1)))
    assert same.statistic == math.inf
    assert same.p == pytest.approx(6**-3), "the chance that three others have the order of the first"
    for few in (np.zeros((0, 3)), np.array([[1, 2, 3]]), np.ones((5, 1))):
        assert math.isnan(friedman(few).p)


def test_nemenyi_has_the_tables_of_demsar():
    for k, q in {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 10: 3.164}.items():
        assert nemenyi(k, 30) / math.sqrt(k * (k + 1) / 180) == pytest.approx(q, abs=1e-3)  # some are cut, not rounded
    assert nemenyi(4, 30, 0.9) / math.sqrt(20 / 180) == pytest.approx(2.291, abs=1e-3)
    for k, n in ((1, 5), (3, 0)):
        with pytest.raises(ValueError, match="at least two methods"):
            nemenyi(k, n)


def test_wilcoxon_is_scipys_with_holm():
    scores = np.random.default_rng(3).normal((0, 0.1, 0.6, 1.2), size=(25, 4))
    scores[:5, 1] = scores[:5, 0]  # zero differences
    found = wilcoxon_holm(np.vstack([scores, [np.nan, 1, 2, 3]]))
    above = np.triu_indices(4, 1)
    p = [stats.wilcoxon(scores[:, i], scores[:, j], zero_method="pratt").pvalue for i, j in zip(*above, strict=True)]
    np.testing.assert_allclose(found[above], multipletests(p, method="holm")[1], rtol=1e-10)
    np.testing.assert_array_equal(found, found.T)
    two = np.array([[0.0, 0.0]] * 8 + [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [0.0, 5.0], [1.5, 0.0]])
    ranked = stats.wilcoxon(two[:, 0] - two[:, 1], zero_method="pratt").pvalue
    assert wilcoxon_holm(two)[0, 1] == pytest.approx(ranked, rel=1e-10)
    assert abs(ranked - stats.wilcoxon(two[:, 0] - two[:, 1], zero_method="wilcox").pvalue) > 0.01
    np.testing.assert_array_equal(np.diag(found), 1)


def test_wilcoxon_at_its_ends_says_nothing_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (wilcoxon_holm(np.ones((4, 3))) == 1).all()
        assert (wilcoxon_holm([[1.0, 2.0]]) == 1).all()
        assert wilcoxon_holm(np.ones((4, 1))).tolist() == [[1]]
        assert np.isnan(wilcoxon_holm(np.full((3, 2), np.nan))[0, 1])
        mixed = np.tile([[0.0, 0.0, 1.0]], (30, 1))
        assert wilcoxon_holm(mixed)[0, 1] == 1
        assert wilcoxon_holm(mixed)[0, 2] < 1e-4


def test_cliques_are_neighbours_and_as_large_as_can_be():
    def apart(*pairs, n=5):
        table = np.zeros((n, n), dtype=bool)
        for i, j in pairs:
            table[i, j] = table[j, i] = True
        return table

    means = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert cliques(means, apart()) == [(0, 1, 2, 3, 4)]
    everybody = ~np.eye(5, dtype=bool)
    assert cliques(means, everybody) == []
    assert cliques(means, apart((0, 3), (0, 4), (1, 4))) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert cliques(means, apart((0, 2), (1, 2), (0, 3), (0, 4), (1, 3), (1, 4))) == [(0, 1), (2, 3, 4)]
    assert cliques(means[::-1], apart((0, 4))) == [(4, 3, 2, 1), (3, 2, 1, 0)], "the best comes first"
    assert cliques([1.0], [[False]]) == []
    assert cliques([], np.zeros((0, 0))) == []


# -- the metric itself -------------------------------------------------------------------------------------------------


def test_agreement_is_the_mean_of_all_correlations():
    table = ranks(np.random.default_rng(0).random((8, 5)).round(1))
    oracle = stats.spearmanr(table, axis=1).statistic
    assert agreement(table) == pytest.approx(oracle[np.triu_indices(8, 1)].mean(), rel=1e-10)
    flat = np.vstack([table, np.full(5, 3.0), np.full(5, np.nan)])
    assert agreement(flat) == pytest.approx(agreement(table)), "an image that orders nothing takes no part"
    assert agreement(np.tile([1, 2, 3], (6, 1))) == pytest.approx(1)
    assert math.isnan(agreement([[1, 2, 3]]))


def test_half_the_images_say_what_the_others_say_only_if_there_is_something_to_say():
    rng = np.random.default_rng(1)
    means = np.arange(6) / 10
    assert split_half(means + rng.normal(0, 1e-3, (20, 6))) == pytest.approx(1)
    # one correlation of six has a standard deviation of .45, and the splits of one sample depend on each other
    noise = [split_half(rng.normal(size=(20, 6)), splits=50) for _ in range(100)]
    assert abs(np.mean(noise)) < 0.2
    some = means + rng.normal(0, 1, (20, 6))
    assert split_half(some, seed=1) == split_half(some, seed=1) != split_half(some, seed=2)
    assert split_half(np.vstack([some, np.full(6, np.nan)]), seed=1) == split_half(some, seed=1)
    for few in (some[:1], some[:, :1], np.ones((5, 3))):
        assert math.isnan(split_half(few))

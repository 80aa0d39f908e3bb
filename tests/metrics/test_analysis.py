"""What is said of a study is in its numbers, on the same images for all, and no more than that."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.registry import Facts
from attriscope.metrics import analysis, metric, statistics
from torch import nn


@dataclass
class Made:
    """A study's tables from scores `{metric: (U, M)}`."""

    methods: dict[str, Any]
    metrics: dict[str, Any]
    scores: pd.DataFrame = field(init=False)
    costs: pd.DataFrame = field(init=False)
    given: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        rows = [
            {"image": i, "method": m, "metric": k, "score": table[i][j]}
            for k, table in self.given.items()
            for i in range(len(table))
            for j, m in enumerate(self.methods)
        ]
        self.scores = pd.DataFrame(rows, columns=["image", "method", "metric", "score"])
        n = max(len(t) for t in self.given.values())
        self.costs = pd.DataFrame(
            [
                {"image": i, "method": m, "forwards": 10 * j, "backwards": j, "seconds": 0.5}
                for i in range(n)
                for j, m in enumerate(self.methods)
            ],
            columns=["image", "method", "forwards", "backwards", "seconds"],
        )


HIGHER = {"name": "insertion", "higher_is_better": True, "protocol": {"baseline": "mean"}}
LOWER = {"name": "deletion", "higher_is_better": False, "protocol": {"baseline": "black"}}


def made(table, names="abcdefgh", facts=HIGHER, label="insertion"):
    table = np.asarray(table, dtype=float)
    methods = {m: {"name": m, "params": {}} for m in list(names)[: table.shape[1]]}
    return Made(methods, {label: facts}, given={label: table})


def noisy(means, n=40, seed=0, noise=0.1):
    """Scores whose differences are noisy, on images that differ more."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 0.3, (n, 1)) + np.asarray(means) + rng.normal(0, noise, (n, len(means)))


# -- summary -----------------------------------------------------------------------------------------------------------


def test_summary_is_the_statistics_of_each_method():
    table = noisy([0.0, 0.2, 0.1])
    table[3, 1] = np.nan
    study = Made({m: {} for m in "abc"}, {"insertion": HIGHER, "deletion": LOWER},
                 given={"insertion": table, "deletion": table[:7]})  # fmt: skip
    found = analysis.summary(study, level=0.9, seed=4)
    assert found.index.tolist() == [("insertion", m) for m in "bca"] + [("deletion", m) for m in "acb"]
    for k, m in enumerate("abc"):
        row = found.loc["insertion", m]
        low, high = statistics.interval(table[:, k], level=0.9, seed=4)
        assert row["mean"] == pytest.approx(np.nanmean(table[:, k]))
        assert (row["low"], row["high"]) == pytest.approx((float(low), float(high)))
        assert (row["forwards"], row["backwards"], row["seconds"]) == (10 * k, k, 0.5)
    assert found["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found.loc["insertion", "b"][["images", "undefined"]].tolist() == [39, 1]
    assert found.loc["deletion", "a"][["images", "undefined", "interval"]].tolist() == [7, 0, "bca"]


def test_summary_says_how_an_interval_was_made():
    hits = np.array([[1, 0], [1, 1], [0, 1], [1, np.nan]])
    found = analysis.summary(made(hits)).loc["insertion"]
    assert found["interval"].tolist() == ["wilson", "wilson"]
    assert found.loc["a", "low"] == pytest.approx(statistics.wilson(3, 4)[0])
    assert analysis.summary(made(hits), clusters=[0, 0, 1, 1])["interval"].tolist() == ["bca", "bca"]
    one = analysis.summary(made(noisy([0, 1], n=1))).loc["insertion"]
    assert one["interval"].tolist() == ["none", "none"]
    assert one["low"].isna().all()
    assert one["mean"].notna().all()


CONTINUOUS = {"name": "sensitivity_max", "higher_is_better": False}
SHARE = {"name": "somebody_elses", "higher_is_better": True, "range": [0, 1]}
POINTING = {"name": "pointing_game", "higher_is_better": True, "range": [0.0, 1.0]}
MIXED, ALL_HIT = [[1, 0], [1, 1], [1, 0], [1, 1]], [[1, 1]] * 4


@pytest.mark.parametrize(
    ("facts", "table", "made_by"),
    [
        (CONTINUOUS, [[0, 1], [0, 0], [0, 1], [0, 0]], "bca"),  # its scores happen to be whole numbers
        (CONTINUOUS, [[0, 0.3], [0, 0.1], [0, 0.2], [0, 0.2]], "bca"),
        ({**SHARE, "range": None}, MIXED, "bca"),  # nothing is known of it
        ({**SHARE, "range": [-1, 1]}, MIXED, "bca"),
        (SHARE, MIXED, "wilson"),
        (SHARE, ALL_HIT, "bca"),  # a share that is always whole
        (SHARE, [[1, 0.5], [1, 1], [1, 0], [1, 1]], "bca"),
        (POINTING, ALL_HIT, "wilson"),
        (POINTING, [[1, 0.5], [1, 1], [1, 0], [1, 1]], "bca"),  # a tie
        ({**POINTING, "range": None}, MIXED, "wilson"),
    ],
)
def test_an_interval_is_made_by_the_metric_and_all_its_scores_and_said_alike(facts, table, made_by):
    study = made(table, facts=facts)
    found = analysis.summary(study).loc["insertion"]
    assert found["interval"].tolist() == [made_by, made_by]
    first = found.loc["a"]
    assert first["rank"] == 1
    want = statistics.wilson(4 * int(first["mean"]), 4) if made_by == "wilson" else (first["mean"], first["mean"])
    assert (first["low"], first["high"]) == pytest.approx(want)
    assert (
        f"{first['mean']:.3g} [{first['low']:.3g}, {first['high']:.3g}] on 4"
        in analysis.sentences(study, "insertion")[0]
    )


def test_hits_are_judged_by_all_images_also_where_some_are_dropped():
    table = [[1, 1], [1, np.nan], [0.5, np.nan], [1, 0], [1, 1]]
    assert analysis.summary(made(table))["interval"].tolist() == ["bca", "bca"]
    assert "1 [1, 1] on 3 images" in analysis.sentences(made(table), "insertion")[0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e200])
def test_an_infinite_score_is_an_undefined_one(bad, control):
    table = noisy([0.0, 0.3, 0.1], n=12)
    without = table.copy()
    table[2, 0], without[2, 0] = bad, np.nan
    study, other = (made(t, names=[control, "b", "c"]) for t in (table, without))
    found = analysis.summary(study)
    pd.testing.assert_frame_equal(found, analysis.summary(other))
    assert found.loc[("insertion", control), ["images", "undefined"]].tolist() == [11, 1]
    pd.testing.assert_frame_equal(analysis.pairs(study, "insertion"), analysis.pairs(other, "insertion"))
    assert analysis.pairs(study, "insertion")["dropped"].eq(1).all()
    for function in (analysis.ranking, analysis.sentences, analysis.reliability, analysis.floor):
        assert function(study, "insertion") == function(other, "insertion")
    pd.testing.assert_frame_equal(analysis.leaderboard(study), analysis.leaderboard(other))
    analysis.summary(made(np.full((3, 2), bad)))
    assert "no method has a score" in analysis.sentences(made(np.full((3, 2), bad)), "insertion")[0]


@pytest.mark.parametrize("names", ["", "a", "abc"])
def test_a_study_without_any_score_says_nothing_and_breaks_nothing(names):
    study = made(np.zeros((0, len(names))), names=names)
    for costs in (study.costs, pd.DataFrame(columns=[*study.costs.columns], dtype=float)):
        study.costs = costs
        found = analysis.summary(study)
        assert found["interval"].tolist() == ["none"] * len(names)
        assert found["mean"].isna().all()
        assert not len(analysis.pairs(study, "insertion"))
        assert "no method has a score" in analysis.sentences(study, "insertion")[0]
        assert analysis.floor(study, "insertion") is None
        for test in ("wilcoxon", "nemenyi"):
            assert analysis.ranking(study, "insertion", test=test).undefined == tuple(names)
        assert analysis.leaderboard(study)["undefined"].tolist() == [0] * len(names)
        assert math.isnan(analysis.reliability(study, "insertion").agreement)


def test_summary_of_clusters_is_as_wide_as_of_what_they_repeat():
    table = noisy([0.0, 0.2], n=20)
    once = analysis.summary(made(table))
    often = analysis.summary(made(np.repeat(table, 3, axis=0)), clusters=np.repeat(np.arange(20), 3))
    np.testing.assert_allclose(often[["low", "high"]], once[["low", "high"]], rtol=1e-9)
    with pytest.raises(ValueError, match="one id for each image"):
        analysis.summary(made(table), clusters=[0, 1])


def test_ties_share_the_better_rank_and_what_is_undefined_has_none():
    found = analysis.summary(made([[1, 2, 2, np.nan], [1, 2, 2, np.nan]])).loc["insertion"]
    assert found["rank"].dropna().to_dict() == {"b": 1, "c": 1, "a": 3}
    assert found.loc["d", ["images", "undefined"]].tolist() == [0, 2]
    undirected = analysis.summary(made([[1, 2]], facts={**HIGHER, "higher_is_better": None}))
    assert undirected["rank"].isna().all()


def test_summary_without_metrics_is_empty_and_without_costs_does_not_know_them():
    study = made(noisy([0, 1]))
    study.costs = study.costs[study.costs["method"] == "a"]
    found = analysis.summary(study).loc["insertion"]
    assert found["forwards"].isna().tolist() == [True, False]
    study.metrics = {}
    assert len(analysis.summary(study)) == 0
    assert "mean" in analysis.summary(study).columns


def test_summary_of_a_real_study_is_what_it_says_of_itself():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    study = metrics.compare(
        network, torch.rand(4, 3, 4, 4), attributors=["saliency", "input_x_gradient"], progress=False
    )
    found, own = analysis.summary(study), study.summary()
    for column in ("mean", "rank", "images", "forwards", "backwards", "seconds"):
        np.testing.assert_allclose(found[column], own[column].reindex(found.index), err_msg=column)
    assert len(analysis.sentences(study, "deletion")) >= 2
    assert analysis.leaderboard(study)["rank"].between(1, 2).all()


# -- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [HIGHER, LOWER])
def test_pairs_are_the_statistics_of_differences_a_the_better(facts):
    sign = 1 if facts["higher_is_better"] else -1
    table = sign * noisy([0.0, 0.2, 0.05])
    found = analysis.pairs(made(table, facts=facts), "insertion", seed=2)
    assert list(zip(found["a"], found["b"], strict=True)) == [("b", "c"), ("b", "a"), ("c", "a")]
    p = []
    for _, row in found.iterrows():
        a, b = (sign * table[:, "abc".index(row[k])] for k in "ab")
        assert row["difference"] == pytest.approx((a - b).mean())
        assert row["difference"] > 0
        assert (row["low"], row["high"]) == pytest.approx([float(e) for e in statistics.interval(a - b, seed=2)])
        assert row["better"] == statistics.better_share(a, b)
        p.append(float(statistics.sign_flip(a - b, seed=2)))
    np.testing.assert_allclose(found["p"], p)
    np.testing.assert_allclose(found["p_holm"], statistics.holm(p))
    assert found["images"].eq(40).all()
    assert found["dropped"].eq(0).all()


def test_images_that_one_method_misses_are_dropped_for_all_and_a_method_without_scores_is_left_out():
    table = noisy([0.0, 0.2, 0.1, 0.0], n=12)
    table[4, 0] = table[5, 2] = np.nan
    table[:, 3] = np.nan
    study, kept = made(table), made(np.delete(table, [4, 5], axis=0)[:, :3])
    found = analysis.pairs(study, "insertion")
    assert found["images"].eq(10).all()
    assert found["dropped"].eq(2).all()
    pd.testing.assert_frame_equal(
        found.drop(columns="dropped"), analysis.pairs(kept, "insertion").drop(columns="dropped")
    )
    order, other = analysis.ranking(study, "insertion"), analysis.ranking(kept, "insertion")
    assert (order.images, order.dropped, order.undefined) == (10, 2, ("d",))
    assert (order.mean_ranks, order.cliques) == (other.mean_ranks, other.cliques)
    said = " ".join(analysis.sentences(study, "insertion"))
    assert "on 10 images" in said
    assert "2 images on which a method is undefined are left out for all" in said
    assert "d is undefined on every image" in said
    assert analysis.reliability(study, "insertion")[2:] == (10, 2)


def test_identical_methods_differ_by_nothing():
    table = noisy([0.0, 0.3], n=30)
    row = analysis.pairs(made(table[:, [0, 0, 1]]), "insertion").query("a == 'a' and b == 'b'").iloc[0]
    assert row[["difference", "low", "high", "p", "p_holm", "better", "needed"]].tolist() == [
        0,
        0,
        0,
        1,
        1,
        0.5,
        math.inf,
    ]


def test_differences_of_hits_have_no_wilson_interval():
    hits = np.array([[1, 0]] * 5 + [[1, 1]] * 15)
    row = analysis.pairs(made(hits), "insertion").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(
        [float(e) for e in statistics.interval(hits[:, 0] - hits[:, 1], hits=False)]
    )


def test_needed_is_more_images_at_the_level_that_the_correction_leaves():
    table = noisy([0.0, 0.02, 0.5], n=30, seed=3)
    found = analysis.pairs(made(table), "insertion").set_index(["a", "b"])
    assert found.loc[("c", "a"), "needed"] == found.loc[("c", "b"), "needed"] == 0
    (last,) = found.index[found["needed"] > 0]
    difference = table[:, "abc".index(last[0])] - table[:, "abc".index(last[1])]
    assert found.loc[last, "p_holm"] == found.loc[last, "p"], "the last step of Holm's corrects no more"
    assert found.loc[last, "needed"] == statistics.needed(difference) - 30
    two = analysis.pairs(made(noisy([0.0, 0.0, 0.0, 0.0], n=30)), "insertion").sort_values("p")
    scores = noisy([0.0, 0.0, 0.0, 0.0], n=30)
    first = two.iloc[0]
    own = scores[:, "abcd".index(first["a"])] - scores[:, "abcd".index(first["b"])]
    assert first["needed"] == statistics.needed(own, level=0.05 / 6) - 30


def test_what_a_small_sample_missed_takes_at_least_one_more():
    table = np.array([[0.0, 1.0]] * 5)  # 5 signs cannot reject, 6 can
    assert analysis.pairs(made(table), "insertion")["needed"].tolist() == [1]
    table = np.array([[0.0, 1.0]] * 5 + [[0.01, 0.0]])  # 6 could, had the last not said the contrary
    assert analysis.pairs(made(table), "insertion")["needed"].tolist() == [1]


def test_none_is_needed_exactly_where_the_corrected_test_tells_apart():
    found = analysis.pairs(made(noisy([0.0, 0.05, 0.1, 0.15], n=16, seed=1)), "insertion")
    assert ((found["p"] < 0.05) & (found["p_holm"] >= 0.05)).any(), "a case in point"
    assert ((found["needed"] == 0) == (found["p_holm"] < 0.05)).all()
    assert analysis._alpha(0.95) == 0.05


def test_many_pairs_can_still_be_told_apart():
    """With 10,000 sign flips no p would be small enough for 33 x 32 / 2 tests."""
    table = noisy(np.arange(33) * 0.2, n=20, noise=0.02)
    names = [f"m{k}" for k in range(33)]
    assert analysis.pairs(made(table, names), "insertion")["p_holm"].max() < 0.05


def test_clusters_hold_for_pairs_and_rankings():
    table = noisy([0.0, 0.05, 0.1], n=15)
    often, ids = made(np.repeat(table, 4, axis=0)), np.repeat(np.arange(15), 4)
    once = analysis.pairs(made(table), "insertion")
    found = analysis.pairs(often, "insertion", clusters=ids)
    np.testing.assert_allclose(found[["low", "high", "p"]], once[["low", "high", "p"]], rtol=1e-9)
    assert analysis.pairs(often, "insertion")["p"].min() < once["p"].min()
    ranked, plain = analysis.ranking(often, "insertion", clusters=ids), analysis.ranking(made(table), "insertion")
    assert (ranked.mean_ranks, ranked.cliques) == (plain.mean_ranks, plain.cliques)
    assert ranked.friedman_p == pytest.approx(plain.friedman_p)


# -- ranking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
def test_a_ranking_is_the_statistics_of_ranks(test):
    table = noisy([0.0, 0.2, 0.21, 0.5], n=25)
    found = analysis.ranking(made(table, facts=LOWER), "insertion", test=test)
    ranks = statistics.ranks(table, higher_is_better=False)
    assert found.methods == ("a", *sorted("bc", key=lambda m: ranks.mean(0)["abc".index(m)]), "d")
    assert found.mean_ranks == pytest.approx(sorted(ranks.mean(0)))
    assert found.friedman_p == pytest.approx(statistics.friedman(ranks).p)
    assert [set(c) for c in found.cliques] == [{"b", "c"}]
    assert found.critical_difference == (None if test == "wilcoxon" else statistics.nemenyi(4, 25))
    assert (found.images, found.dropped, found.test, found.level) == (25, 0, test, 0.95)


def test_nemenyi_tells_apart_what_lies_a_critical_difference_apart():
    table = noisy([0.0, 0.05, 0.1, 0.15, 0.3], n=25, seed=5)
    found = analysis.ranking(made(table), "insertion", test="nemenyi", level=0.9)
    assert found.critical_difference == statistics.nemenyi(5, 25, 0.9)
    means = dict(zip(found.methods, found.mean_ranks, strict=True))
    for clique in found.cliques:
        assert means[clique[-1]] - means[clique[0]] < found.critical_difference
    assert len(found.cliques) > 1
    assert found.outside == ()


def test_a_pair_that_no_bar_can_join_is_named():
    """Of neighbours a, b, c: b lies between, and is told apart from a by many small wins, though c is not."""
    n = 30
    a = np.linspace(0.4, 0.6, n)
    c = np.where(np.arange(n) % 3 < 2, a - 0.01, a + 0.011)  # loses often, wins rarely, each by as much
    b = np.where(np.arange(n) % 3 < 2, a - 0.001, a + 0.0005)
    found = analysis.ranking(made(np.stack([a, b, c], axis=1)), "insertion")
    p = statistics.wilcoxon_holm(np.stack([a, b, c], axis=1))
    told = {(i, j) for i in range(3) for j in range(i) if p[i, j] < 0.05}
    joined = {tuple(sorted(x)) for c in found.cliques for x in [(u, v) for u in c for v in c if u < v]}
    named = joined | {tuple(sorted(x)) for x in found.outside}
    assert named == {tuple(sorted(("abc"[i], "abc"[j]))) for i in range(3) for j in range(i)} - {
        tuple(sorted(("abc"[i], "abc"[j]))) for i, j in told
    }


def test_a_test_or_a_metric_that_is_not_there_is_refused():
    study = made(noisy([0, 1]))
    for function in (analysis.pairs, analysis.ranking, analysis.floor, analysis.sentences, analysis.reliability):
        with pytest.raises(ValueError, match="there are: insertion"):
            function(study, "deletion")
    with pytest.raises(ValueError, match="wilcoxon, nemenyi"):
        analysis.ranking(study, "insertion", test="bonferroni")
    with pytest.raises(ValueError, match="no better direction"):
        analysis.pairs(made(noisy([0, 1]), facts={**HIGHER, "higher_is_better": None}), "insertion")


@pytest.mark.parametrize("shape", [(1, 3), (6, 1), (1, 1)])
def test_one_image_or_one_method_says_little_and_breaks_nothing(shape, control):
    study = made(noisy(np.arange(shape[1]), n=shape[0]), names=[control, "b", "c"])
    found = analysis.ranking(study, "insertion")
    assert len(found.methods) == shape[1]
    assert found.images == shape[0]
    assert math.isnan(found.friedman_p)
    assert len(found.cliques) == (shape[1] > 1), "nobody is told apart"
    table = analysis.pairs(study, "insertion")
    assert len(table) == shape[1] * (shape[1] - 1) // 2
    assert table["p"].eq(1).all()
    assert len(analysis.leaderboard(study)) == shape[1]
    assert analysis.floor(study, "insertion").above == ()
    assert math.isnan(analysis.reliability(study, "insertion").agreement)
    said = analysis.sentences(study, "insertion")
    assert ("One image is not enough" in " ".join(said)) == (shape[0] == 1)
    analysis.ranking(study, "insertion", test="nemenyi")


@pytest.mark.parametrize("table", [np.full((4, 3), np.nan), np.diag([np.nan] * 3), np.zeros((0, 3))])
def test_where_nothing_is_defined_for_all_nothing_is_said(table, control):
    study = made(table, names=[control, "b", "c"])
    study.costs = pd.DataFrame({"method": [], "forwards": [], "backwards": [], "seconds": []})
    assert analysis.sentences(study, "insertion")[0].startswith("Nothing can be said of insertion")
    assert analysis.floor(study, "insertion") is None
    assert analysis.pairs(study, "insertion")["p_holm"].isna().all()
    found = analysis.ranking(study, "insertion")
    assert found.images == 0
    assert np.isnan(found.mean_ranks).all()
    analysis.ranking(study, "insertion", test="nemenyi")
    assert analysis.leaderboard(study)["rank"].isna().all()
    assert len(analysis.summary(study)) == 3


def test_reliability_is_of_the_metrics_own_order():
    table = noisy([0.0, 0.1, 0.2, 0.3], n=20)
    found = analysis.reliability(made(table, facts=LOWER), "insertion", seed=3)
    assert found.agreement == pytest.approx(statistics.agreement(statistics.ranks(table)))
    assert found.split_half == pytest.approx(statistics.split_half(table, seed=3))
    assert 0.3 < found.agreement < found.split_half <= 1, "many images say more than one"


# -- leaderboard -------------------------------------------------------------------------------------------------------


def several():
    """Three methods; insertion under two baselines, deletion once, and one metric that has no say."""
    order = {
        "insertion (black)": [3, 2, 1],
        "insertion (mean)": [3, 1, 2],
        "deletion": [3, 2, 1],
        "complexity": [1, 3, 2],
    }
    facts = {
        "insertion (black)": {**HIGHER, "protocol": {"baseline": "black", "steps": 3}},
        "insertion (mean)": HIGHER,
        "deletion": LOWER,
        "complexity": {"name": "complexity_for_a_test", "higher_is_better": False, "faithful": False},
    }
    methods = {
        "a": {"name": "a", "params": {"baseline": "black"}},
        "b": {"name": "b", "params": {"inner": {"name": "x", "params": {"baseline": ["mean", 0.5]}}}},
        "c": {"name": "c", "params": {"baseline": None}},
    }
    return Made(methods, facts, given={k: np.tile(np.array(v, float), (5, 1)) for k, v in order.items()})


def test_baselines_of_a_metric_count_once_and_the_spread_is_shown():
    found = analysis.leaderboard(several())
    assert [c for c in found.columns if c.startswith("rank/")] == [
        "rank/insertion (black)", "rank/insertion (mean)", "rank/deletion",
    ]  # fmt: skip
    assert found.loc["a", ["rank/insertion (black)", "rank/insertion (mean)", "rank/deletion"]].tolist() == [1, 1, 3]
    assert found.loc["b", ["rank/insertion (black)", "rank/insertion (mean)", "rank/deletion"]].tolist() == [2, 3, 2]
    assert found.loc["b", ["mean/insertion", "mean/deletion", "rank"]].tolist() == [2.5, 2, 2.25]
    assert found.loc["a", "rank"] == 2
    assert found.loc["c", "rank"] == (2.5 + 1) / 2
    assert found.index.tolist() == ["c", "a", "b"]
    assert found.loc["a", ["best", "worst", "metrics"]].tolist() == [1, 3, 3]


def test_a_method_that_searched_with_the_metrics_own_baseline_is_marked():
    found = analysis.leaderboard(several())["own_baseline"]
    assert found["a"] == ("insertion (black)", "deletion")
    assert found["b"] == ("insertion (mean)",), "also that of a method inside, and one of several"
    assert found["c"] == (), "none was given"
    study = several()
    study.metrics["deletion"] = {**LOWER, "protocol": {"baseline": None}}
    assert analysis.leaderboard(study)["own_baseline"]["c"] == ()


def test_a_leaderboard_drops_what_is_not_defined_for_all_and_counts_metrics():
    study = several()
    table = study.scores
    first = (table["metric"] == "deletion") & (table["image"] == 0)
    table.loc[first & (table["method"] == "a"), "score"] = np.nan
    table.loc[first & (table["method"] == "b"), "score"] = -1e6  # would make it the best
    table.loc[(table["metric"] == "insertion (mean)") & (table["method"] == "c"), "score"] = np.nan
    found = analysis.leaderboard(study)
    assert found["rank/deletion"].to_dict() == {"a": 3, "b": 2, "c": 1}
    assert found["metrics"].to_dict() == {"a": 3, "b": 3, "c": 2}
    assert found["undefined"].to_dict() == {"a": 0, "b": 0, "c": 1}
    assert found.loc["c", ["rank/insertion (black)", "rank/insertion (mean)", "mean/insertion"]].tolist() == [3, 3, 3]


def test_a_method_gains_nothing_by_scores_that_it_lacks():
    """A map that ranks no pixel is defined for one metric of four; the worst of all four must not lose to it."""
    tables = {f"m{k}": np.tile([[3.0, 2.0, 1.0, np.nan]], (5, 1)) for k in range(3)}
    tables["m3"] = np.tile([[4.0, 3.0, 1.0, 2.0]], (5, 1))
    study = Made({m: {} for m in ("good", "fair", "random", "constant")}, dict.fromkeys(tables, HIGHER), given=tables)
    study.metrics = {k: {**HIGHER, "name": k} for k in tables}
    found = analysis.leaderboard(study)
    assert found["rank"].to_dict() == {"good": 1, "fair": 2, "random": 3.25, "constant": 3.75}
    assert found["undefined"].tolist() == [0, 0, 0, 3]
    assert found.loc["constant", ["best", "worst", "metrics"]].tolist() == [3, 4, 1]
    study.scores.loc[(study.scores["metric"] == "m3") & (study.scores["method"] == "random"), "score"] = np.nan
    assert analysis.leaderboard(study).loc["random", "rank/m3"] == 4, "as many as there are methods, not as are defined"
    study.scores.loc[(study.scores["metric"] == "m3") & (study.scores["method"] == "constant"), "score"] = np.nan
    assert analysis.leaderboard(study)["rank/m3"].to_dict() == {"good": 1, "fair": 2, "random": 4, "constant": 4}
    study.scores.loc[study.scores["metric"] == "m0", "score"] = np.nan  # nobody has it: nobody loses by it
    found = analysis.leaderboard(study)
    assert found["rank/m0"].isna().all()
    assert found["undefined"].to_dict() == {"good": 0, "fair": 0, "random": 1, "constant": 3}


def test_ties_share_the_mean_rank_in_the_leaderboard():
    found = analysis.leaderboard(made([[1, 1, 0]]))
    assert found["rank"].tolist() == [1.5, 1.5, 3]


def test_who_has_a_say_is_known_from_the_registry_where_the_study_does_not_say():
    facts = dict(HIGHER)
    assert analysis._counts(facts)
    assert not analysis._counts({**facts, "faithful": False})
    assert not analysis._counts({**facts, "higher_is_better": None})
    assert analysis._counts({**facts, "name": "somebody_elses"})
    assert not analysis._counts({**facts, "name": "somebody_elses", "faithful": False})

    class Rerun(metrics.MethodMetric):
        """Says of itself that it runs methods again, and not that a faithful one must win."""

        def measure(self, attributor, images, target, maps):
            return metrics.Scored(images)

    metric.REGISTRY.add(Rerun, Facts("rerun_for_a_test", "custom", ""))
    try:
        assert not analysis._counts({**facts, "name": "rerun_for_a_test"})
    finally:
        metric.REGISTRY.remove("rerun_for_a_test")
    without = Made({"a": {}}, {"x": {**facts, "faithful": False}}, given={"x": np.ones((2, 1))})
    assert analysis.leaderboard(without)["rank"].isna().all()


# -- the floor ---------------------------------------------------------------------------------------------------------


def test_the_floor_is_the_best_control_and_the_rest_lies_above_or_below(control):
    table = noisy([0.0, 0.2, 0.4, 0.205, -0.1], n=40)
    study = made(table, names=["worse", "random", "good", "like", "other"])
    study.methods["random"] = study.methods["other"] = {"name": control, "params": {}}
    assert analysis.controls(study) == ("random", "other")
    found = analysis.floor(study, "insertion")
    assert found == analysis.Floor("random", pytest.approx(table[:, 1].mean()), ("good",), ("like",), ("worse",))
    (said,) = [s for s in analysis.sentences(study, "insertion") if "floor" in s]
    assert f"random, a control with a mean of {table[:, 1].mean():.3g}" in said
    assert "like cannot be told apart from it, and worse is worse than it" in said
    assert analysis.leaderboard(study)["control"].to_dict()["random"]
    lower = made(-table, names=["worse", "random", "good", "like", "other"], facts=LOWER)
    lower.methods = study.methods
    assert analysis.floor(lower, "insertion").above == ("good",)


def test_a_control_that_wins_is_called_one(control):
    study = made(noisy([0.5, 0.0]), names=["random", "b"])
    study.methods["random"] = {"name": control}
    said = analysis.sentences(study, "insertion")
    assert "random has the best mean insertion" in said[0]
    assert "it is a control, which knows nothing of the network" in said[0]
    assert said[-1].endswith("b is worse than it.")


def test_where_there_are_only_controls_nothing_lies_above_them(control):
    study = made(noisy([0.5, 0.0, np.nan]), names=["random", "other", "c"])
    study.methods["random"] = study.methods["other"] = {"name": control}
    assert analysis.floor(study, "insertion").control == "random"
    assert "floor" not in " ".join(analysis.sentences(study, "insertion"))
    study = made(noisy([0.5, 0.0]), names=["mine", "b"])
    study.methods["b"] = {"name": control}
    mean = study.given["insertion"][:, 1].mean()
    said = f"The floor is b, a control with a mean of {mean:.3g}: every method is better."
    assert analysis.sentences(study, "insertion")[-1] == said


def test_methods_that_nobody_registered_are_no_controls():
    study = made(noisy([0, 1]), names=["random_pixels_of_mine", "b"])
    study.methods["b"] = "whatever"
    assert analysis.controls(study) == ()
    assert analysis.floor(study, "insertion") is None
    known = Made({"mine": {"name": "saliency"}}, {"insertion": HIGHER}, given={"insertion": np.ones((2, 1))})
    assert attribution.describe("saliency")["family"] != "control"
    assert analysis.controls(known) == ()


# -- in words ----------------------------------------------------------------------------------------------------------


def test_sentences_say_what_is_known_and_what_is_not():
    table = noisy([0.5, 0.49, 0.0, 0.1], n=16, seed=3)
    study = made(table, names=["rise", "lime", "ig", "cam"])
    pairs = analysis.pairs(study, "insertion")
    said = analysis.sentences(study, "insertion")
    best = pairs["a"].iloc[0]
    other = {"rise": "lime", "lime": "rise"}[best]
    low, high = statistics.interval(table[:, ["rise", "lime"].index(best)])
    mean = table[:, ["rise", "lime"].index(best)].mean()
    assert said[0] == (
        f"{best} has the best mean insertion (higher is better), {mean:.3g} [{low:.3g}, {high:.3g}] on 16 images."
    )
    assert said[1].startswith("It is better than cam and ig (p ")
    more = pairs.query("a == @best and b == @other")["needed"].iloc[0]
    assert said[2] == f"{best} and {other} cannot be told apart on 16 images; about {analysis.about(more)} more would."
    assert len(said) == 3


def test_sentences_name_a_few_and_count_the_rest():
    study = made(noisy(np.zeros(8), n=10))
    said, pairs = analysis.sentences(study, "insertion"), analysis.pairs(study, "insertion")
    closest = pairs[pairs["a"] == pairs["a"].iloc[0]].sort_values("needed").iloc[0]
    assert said[1].endswith(f"about {analysis.about(closest['needed'])} more would separate it from {closest['b']}.")
    assert "and" not in said[1].split(" or ")[0][2:].split(", ")
    assert " or 4 others cannot be told apart on 10 images; about " in said[1]
    assert "more would separate it from" in said[1]


def permuted(study, order):
    """The same study with its methods in another order."""
    (label,) = study.given
    methods = {m: study.methods[m] for m in order}
    columns = [list(study.methods).index(m) for m in order]
    return Made(methods, study.metrics, given={label: study.given[label][:, columns]})


def test_equals_share_the_best_mean_in_any_order():
    scores = np.random.default_rng(0).normal(0.5, 10.0, 40)
    # the same scores in another order, whose mean differs in its last bits if it is taken as they come
    orders = [np.random.default_rng(k).permutation(scores) for k in range(3)]
    table = np.stack([orders[0], orders[1], orders[2] - 60, orders[2]], axis=1)
    assert len(set(table[:, [0, 1, 3]].mean(0))) > 1, "a case in point"
    study = made(table)
    said = analysis.sentences(study, "insertion")
    assert said[0].startswith(f"a, b and d have the same best mean insertion (higher is better), {scores.mean():.3g}")
    assert "[" not in said[0], "each has an interval of its own"
    assert said[1].startswith("Each is better than c (p ")
    assert len(said) == 2
    for order in ("dcba", "bdac"):
        other = permuted(study, order)
        pd.testing.assert_frame_equal(analysis.pairs(other, "insertion"), analysis.pairs(study, "insertion"))
        assert analysis.ranking(other, "insertion") == analysis.ranking(study, "insertion")
        assert analysis.sentences(other, "insertion")[1:] == said[1:]
        assert {*analysis.sentences(other, "insertion")[0].split(" have ")[0].replace(" and", ",").split(", ")} == {
            *"abd"
        }
        assert analysis.summary(other)["rank"].tolist() == [1, 1, 1, 4]
        assert analysis.leaderboard(other)["rank"].to_dict() == {"a": 2, "b": 2, "c": 4, "d": 2}
    row = analysis.pairs(study, "insertion").iloc[0]
    assert row[["a", "b", "difference", "needed"]].tolist() == ["a", "b", 0, math.inf]


def test_methods_of_equal_ranks_are_ranked_alike_in_any_order():
    table = np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 5, dtype=float)  # all of mean rank 2
    study = made(table)
    found = [analysis.ranking(permuted(study, order), "insertion") for order in ("abc", "cab", "bca")]
    assert found[0].methods == ("a", "b", "c")
    assert found[0] == found[1] == found[2]


def test_equal_p_take_equally_many_images():
    table = np.arange(5.0)[:, None] + [0.0, 0.1, 0.25]  # 5 signs cannot reject: p is 2 in 32 for all
    found = analysis.pairs(made(table + np.array([[0, 0, 0]] * 4 + [[0, 0.1, 0.2]])), "insertion")
    assert len(set(found["p"])) == 1
    # Holm's correction tests the first of equals at a third of the level, and which is the first is no fact
    differences = [np.array([d] * 4 + [e]) for d, e in ((0.15, 0.25), (0.25, 0.45), (0.1, 0.2))]
    assert found["needed"].tolist() == [statistics.needed(d, level=0.05 / 3) - 5 for d in differences]


def test_what_equals_share_is_said_of_each():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 0.1, 20)
    table = np.stack([base, base[::-1], base - 0.03, base - 1 - rng.random(20)], axis=1)
    said = analysis.sentences(made(table), "insertion")
    assert said[1].startswith("Each is better than d (p ")
    assert said[2].startswith("c cannot be told apart from all of them on 20 images; about ")
    assert said[2].endswith(" more would.")
    many = np.tile(np.array([[0.0], [1.0], [0.5]]), (1, 7))
    (low, high) = statistics.interval(many[:, 0])
    (said,) = analysis.sentences(made(many), "insertion")
    assert said.startswith("a, b, c and 4 others have the same best mean insertion (higher is better), 0.5 ")
    assert said.endswith(f"[{low:.3g}, {high:.3g}] on 3 images.")


def test_controls_that_share_the_best_mean_are_called_ones(control):
    table = np.tile(np.array([[0.0], [1.0], [0.5]]), (1, 3))
    study = made(table)
    study.methods["b"] = {"name": control}
    said = analysis.sentences(study, "insertion")
    assert said[0].endswith("on 3 images, and b is a control, which knows nothing of the network.")
    study.methods["c"] = {"name": control}
    assert "and b and c are controls, which know nothing of" in analysis.sentences(study, "insertion")[0]
    assert analysis.floor(permuted(study, "cba"), "insertion").control == "b", "in any order"
    study.methods["a"] = {"name": control}
    assert "and all are controls, which know nothing of" in analysis.sentences(study, "insertion")[0]


def test_sentences_on_no_difference_and_on_too_small_a_one():
    same = np.random.default_rng(0).random((6, 1))
    (said,) = analysis.sentences(made(np.hstack([same, same])), "insertion")
    assert said.startswith("a and b have the same best mean insertion")
    assert said.count("[") == 1, "and the same interval"
    tiny = np.tile([[0.5, 0.5], [0.2, 0.3]], (50, 1)) + np.array([[0, 1e-1], [0, 0]] * 50)
    tiny[:, 1] = tiny[:, 0] + np.where(np.arange(100) % 2, 0.1, -0.1) + 1e-5
    assert "more than 100,000 more would have to be seen" in analysis.sentences(made(tiny), "insertion")[1]


@pytest.mark.parametrize(("p", "words"), [(0.0004, "p < 0.001"), (0.001, "p ≤ 0.001"), (0.0123, "p ≤ 0.012")])
def test_p_is_read_easily(p, words):
    assert analysis._p(p) == words

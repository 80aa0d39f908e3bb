"""Every method at its mean rank, every bar over its group, and nothing on anything else."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from attriscope.metrics import analysis
from attriscope.visualization import critical_difference
from attriscope.visualization.critical_difference import AXIS, _lanes

LONG = "a_long_method_{}(option=256, baseline=blur, other_option=0.25)"


def ranked(names, n=30, *, higher=True, spread=0.1, noise=0.15):
    """A study whose methods get worse one after the other."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.5, 0.1, (n, 1)) - spread * np.arange(len(names)) + rng.normal(0, noise, (n, len(names)))
    table = pd.DataFrame(
        [
            {"image": i, "method": m, "metric": "ins", "score": scores[i, j] * (1 if higher else -1)}
            for i in range(n)
            for j, m in enumerate(names)
        ]
    )
    costs = pd.DataFrame({"method": names, "forwards": 1, "backwards": 0, "seconds": 0.1})
    return SimpleNamespace(
        scores=table, costs=costs, methods={m: {"name": m} for m in names},
        metrics={"ins": {"name": "ins", "higher_is_better": higher}},
    )  # fmt: skip


def lines(figure, label):
    return [line for line in figure.axes[0].lines if line.get_label() == label]


def test_the_study_s_own_methods_are_drawn(study, words, check_layout):
    figure = critical_difference(study, "insertion")
    check_layout(figure)
    said = words(figure)
    for part in ("insertion: mean ranks", "over 3 images", "higher insertion is better", "1, on the left, is the best",
                 "Undefined on every image: flat", "ramp", "saliency", "ig", "← better", "worse →"):  # fmt: skip
        assert part in said


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
@pytest.mark.parametrize("count", [2, 3, 9, 25])
def test_nothing_lies_on_anything_however_many_and_long_the_names_are(test, count, check_layout):
    check_layout(critical_difference(ranked([LONG.format(k) for k in range(count)], spread=0.02), "ins", test=test))


@pytest.mark.parametrize("higher", [True, False])
def test_a_method_s_line_starts_at_its_mean_rank_and_ends_on_the_better_side(higher):
    study = ranked(["d", "c", "b", "a", "e"], higher=higher)
    found, figure = analysis.ranking(study, "ins"), critical_difference(study, "ins")
    for k, (method, rank) in enumerate(zip(found.methods, found.mean_ranks, strict=True)):
        (line,) = lines(figure, method)
        xs, ys = line.get_data()
        assert xs[0] == xs[1] == pytest.approx(rank)
        assert (xs[2] < 1) == (k < 3), "the better half to the left"
        assert ys[0] < ys[1] == ys[2]
    depth = [lines(figure, m)[0].get_ydata()[1] for m in found.methods]
    assert depth[0] < depth[1] < depth[2] > depth[3] > depth[4], (
        "the outermost end first, so that no line crosses another"
    )
    low, high = figure.axes[0].get_xlim()
    assert low < 1 < high - 4, "1 is on the left"


def test_the_number_and_the_name_are_at_the_end_of_the_line():
    study = ranked(["one", "two", "three", "four"])
    found, figure = analysis.ranking(study, "ins"), critical_difference(study, "ins")
    axes = figure.axes[0]
    height = figure.get_size_inches()[1]
    for method, rank in zip(found.methods, found.mean_ranks, strict=True):
        (line,) = lines(figure, method)
        (number,) = (
            t
            for t in axes.texts
            if t.get_text() == f"{rank:.2f}" and abs(t.get_position()[1] - line.get_ydata()[2]) < 0.1
        )
        assert number.get_position()[0] == line.get_xdata()[2]
        (name,) = (t for t in figure.texts if t.get_text() == method)
        at = (1 - axes.get_position().y1) * height + line.get_ydata()[2]  # inches from the top
        assert abs((1 - name.get_position()[1]) * height - at) < 0.1


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
def test_bars_are_the_cliques(test):
    study = ranked(list("abcdefgh"), spread=0.04, noise=0.1)
    found, figure = analysis.ranking(study, "ins", test=test), critical_difference(study, "ins", test=test)
    assert len(found.cliques) > 1
    rank = dict(zip(found.methods, found.mean_ranks, strict=True))
    little = 0.05 * 7 / AXIS  # by which a bar reaches beyond its ends
    drawn = sorted((b.get_xdata()[0] + little, b.get_xdata()[1] - little) for b in lines(figure, "not told apart"))
    np.testing.assert_allclose(drawn, sorted((rank[c[0]], rank[c[-1]]) for c in found.cliques))
    depth = max(b.get_ydata()[0] for b in lines(figure, "not told apart"))
    assert depth < min(lines(figure, m)[0].get_ydata()[1] for m in found.methods) - 0.2, "above all names"


def test_bars_in_one_lane_do_not_touch():
    found = analysis.Ranking(
        "m", tuple("abcdef"), (1.0, 2.0, 2.1, 3.0, 4.0, 5.5), 0.1, (("a", "b"), ("b", "c"), ("c", "d"), ("e", "f")), (), None,
        9, 0, (), "wilcoxon", 0.95,
    )  # fmt: skip
    assert _lanes(found) == [(1.0, 2.0, 0), (2.0, 2.1, 1), (2.1, 3.0, 2), (4.0, 5.5, 0)]


def test_the_critical_difference_is_drawn_to_scale(words):
    study = ranked(list("abcde"))
    figure = critical_difference(study, "ins", test="nemenyi", level=0.9)
    expected = analysis.ranking(study, "ins", test="nemenyi", level=0.9).critical_difference
    (line,) = lines(figure, "critical difference")
    assert np.diff(line.get_xdata())[0] == pytest.approx(expected)
    assert f"critical difference {expected:.2f}" in words(figure)
    assert "Nemenyi's test, p ≥ 0.1" in words(figure)
    assert not lines(critical_difference(study, "ins"), "critical difference")


def test_controls_are_grey_and_said_to_be_controls(control, words):
    study = ranked(["a", "b", "c"])
    assert "controls" not in words(critical_difference(study, "ins"))
    study.methods["b"] = {"name": control}
    figure = critical_difference(study, "ins")
    assert "Grey: controls, which know nothing of the network" in words(figure)
    (grey,) = (t for t in figure.texts if t.get_text() == "b")
    (black,) = (t for t in figure.texts if t.get_text() == "a")
    assert grey.get_color() == lines(figure, "b")[0].get_color() != black.get_color()


def test_what_is_left_out_and_what_no_bar_shows_is_said(words, monkeypatch):
    study = ranked(list("abcd"))
    table = study.scores
    table.loc[(table["image"] == 2) & (table["method"] == "a"), "score"] = np.nan
    table.loc[table["method"] == "d", "score"] = np.nan
    said = words(critical_difference(study, "ins"))
    assert "over 29 images" in said
    assert "1 image on which a method is undefined left out for all" in said
    assert "Undefined on every image: d." in said
    assert f"p = {analysis.ranking(study, 'ins').friedman_p:.2g}" in said
    plain = analysis.ranking(study, "ins")
    pairs = tuple((f"x{k}", f"y{k}") for k in range(5))
    monkeypatch.setattr(analysis, "ranking", lambda *_, **__: analysis.Ranking(**{**vars(plain), "outside": pairs}))
    said = words(critical_difference(study, "ins"))
    assert (
        "Not told apart either, though one between them is: x0 and y0; x1 and y1; x2 and y2; and 2 more pairs." in said
    )


def test_the_axis_has_round_ticks_and_both_ends():
    for count in (2, 14, 24, 26):
        figure = critical_difference(ranked([f"m{k}" for k in range(count)], n=6), "ins", test="nemenyi")
        ticks = [int(t.get_text()) for t in figure.axes[0].texts if t.get_text().isdigit()]
        assert ticks[0] == 1
        assert ticks[-1] == count
        assert len(ticks) <= 13
        assert len(set(np.diff(ticks[:-1]))) <= 1
        assert ticks[-1] - ticks[-2] >= ticks[1] - ticks[0], "no two numbers close together"


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="1 methods on 30 images"):
        critical_difference(ranked(["a"]), "ins")
    study = ranked(["a", "b"])
    with pytest.raises(ValueError, match="there are: ins"):
        critical_difference(study, "del")
    with pytest.raises(ValueError, match="nemenyi"):
        critical_difference(study, "ins", test="t")
    study.scores["score"] = np.nan
    with pytest.raises(ValueError, match="0 methods on 0 images"):
        critical_difference(study, "ins")

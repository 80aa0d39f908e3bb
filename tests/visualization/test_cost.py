"""Every method where its cost and its score put it, and every name beside its own point."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from attriscope.metrics import analysis
from attriscope.visualization import cost
from attriscope.visualization.cost import DOT, WIDTH, _hits, _round, _runs_through
from matplotlib.text import Text

LONG = "a_long_method_{}(option=256, baseline=blur, other_option=0.25)"


def priced(prices, n=20, seed=0, higher=True):
    """A study of methods with forwards and backwards."""
    rng = np.random.default_rng(seed)
    names = list(prices)
    scores = rng.beta(2, 3, (n, 1)) * 0.5 + 0.5 * rng.random(len(names)) * rng.random((n, len(names)))
    table = pd.DataFrame(
        [
            {"image": i, "method": m, "metric": "ins", "score": scores[i, j]}
            for i in range(n)
            for j, m in enumerate(names)
        ]
    )
    costs = pd.DataFrame(
        [
            {"image": i, "method": m, "forwards": f, "backwards": b, "seconds": 0.1}
            for i in range(n)
            for m, (f, b) in prices.items()
        ]
    )
    return SimpleNamespace(
        scores=table, costs=costs, methods={m: {"name": m} for m in names},
        metrics={"ins": {"name": "ins", "higher_is_better": higher}},
    )  # fmt: skip


def line(figure, label):
    (found,) = (each for each in figure.axes[0].lines if each.get_label() == label)
    return found


def ticks(figure):
    axes = figure.axes[0]
    return dict(zip([t.get_text() for t in axes.get_xticklabels()], axes.get_xticks(), strict=True))


def test_the_study_s_own_methods_are_drawn(study, words, check_layout):
    figure = cost(study, "insertion")
    check_layout(figure)
    said = words(figure)
    for part in ("insertion against cost", "over 3 images", "95% interval", "↑ higher is better", "ramp", "saliency", "ig",
                 "Not drawn, without a score or a cost: flat.", "forwards + backwards per image"):  # fmt: skip
        assert part in said
    assert "↓ lower is better" in words(cost(study, "deletion"))


def test_a_point_is_at_its_cost_and_mean_and_its_bar_is_the_interval():
    study = priced({"a": (10, 0), "b": (50, 50), "c": (1000, 0)})
    figure, table = cost(study, "ins", level=0.9, seed=3), analysis.summary(study, level=0.9, seed=3).loc["ins"]
    places = ticks(figure)
    for method, tick in (("a", "10"), ("b", "100"), ("c", "1,000")):
        x, y = (float(v[0]) for v in line(figure, method).get_data())
        assert x == pytest.approx(places[tick])
        assert y == pytest.approx(table.loc[method, "mean"])
        (bar,) = (
            e for e in figure.axes[0].lines if e.get_label() == "interval" and e.get_xdata()[0] == pytest.approx(x)
        )
        assert sorted(bar.get_ydata()) == pytest.approx(table.loc[method, ["low", "high"]].tolist())
    assert places["1,000"] - places["100"] == pytest.approx(places["100"] - places["10"]), "a log axis"


def prices(count, seed=0):
    rng = np.random.default_rng(seed)
    found = {LONG.format(k): (int(10 ** rng.uniform(0, 3.5)), 0) for k in range(count)}
    for k in range(0, count, 3):
        found[LONG.format(k)] = (1, 1)  # as many methods of one pass
    return found


@pytest.mark.parametrize("count", [1, 3, 9, 25, 40])
def test_nothing_lies_on_anything_however_many_and_long_the_names_are(count, check_layout):
    check_layout(cost(priced(prices(count)), "ins"))


@pytest.mark.parametrize("count", [9, 25])
def test_no_name_lies_on_a_point_and_one_that_is_far_has_a_line_to_its_point(count):
    figure = cost(priced(prices(count)), "ins")
    axes = figure.axes[0]
    figure.canvas.draw()
    dots = {
        e.get_label(): axes.transData.transform(np.transpose(e.get_data()))[0]
        for e in axes.lines
        if e.get_marker() == "o"
    }
    leaders = [axes.transData.transform(np.transpose(e.get_data())) for e in axes.lines if e.get_label() == "leader"]
    texts = [t for t in axes.texts if t.get_text()]
    assert len(texts) == len(dots) == count
    dpi = figure.dpi
    far = 0
    for text, (method, dot) in zip(texts, dots.items(), strict=True):
        assert text.get_text().replace("\n", "").replace("…", "").replace(" ", "") in method.replace(" ", "")
        box = text.get_window_extent()
        for other in dots.values():
            inside = box.x0 + 2 < other[0] < box.x1 - 2 and box.y0 + 2 < other[1] < box.y1 - 2
            assert not inside, f"{text.get_text()} lies on a point"
        dx, dy = max(box.x0 - dot[0], dot[0] - box.x1, 0), max(box.y0 - dot[1], dot[1] - box.y1, 0)
        if np.hypot(dx, dy) > 0.3 * dpi:
            far += 1
            assert any(np.allclose(ends[0], dot, atol=1) for ends in leaders), (
                f"{text.get_text()} is far and has no line"
            )
    assert far or count < 25


def test_what_costs_nothing_lies_left_of_a_break(control, check_layout, words):
    study = priced({"random": (0, 0), "mine": (0, 0), "edge": (0, 0), "a": (3, 1), "b": (40, 40)})
    for m in ("random", "edge"):
        study.methods[m] = {"name": control}
    figure = cost(study, "ins")
    check_layout(figure)
    split = next(e for e in figure.axes[0].lines if e.get_label() == "break").get_xdata()[0]
    xs = {m: float(line(figure, m).get_xdata()[0]) for m in study.methods}
    assert max(xs["random"], xs["mine"], xs["edge"]) < split < min(xs["a"], xs["b"])
    assert len({xs["random"], xs["mine"], xs["edge"]}) == 3
    assert 0 < ticks(figure)["0"] < split
    means = analysis.summary(study).loc["ins", "mean"]
    assert line(figure, "best control").get_ydata()[0] == pytest.approx(means[["random", "edge"]].max())
    assert "broken line: the best one" in words(figure)
    assert line(figure, "random").get_color() == line(figure, "edge").get_color() != line(figure, "mine").get_color()
    study.metrics["ins"]["higher_is_better"] = False
    assert line(cost(study, "ins"), "best control").get_ydata()[0] == pytest.approx(means[["random", "edge"]].min())


def test_without_free_methods_there_is_no_break_and_with_nothing_else_no_axis(words):
    figure = cost(priced({"a": (1, 0), "b": (20, 0)}), "ins")
    assert "0" not in ticks(figure)
    assert {"break", "best control"}.isdisjoint(e.get_label() for e in figure.axes[0].lines)
    assert "controls" not in words(figure)
    figure = cost(priced({"a": (0, 0), "b": (0, 0)}), "ins")
    assert list(ticks(figure)) == ["0"]
    assert "break" not in [e.get_label() for e in figure.axes[0].lines]


def test_methods_of_one_cost_stand_side_by_side_the_best_on_the_left(words):
    study = priced(dict.fromkeys("abcd", (1, 1)) | {"e": (500, 0)})
    figure, means = cost(study, "ins"), analysis.summary(study).loc["ins", "mean"]
    xs = pd.Series({m: float(line(figure, m).get_xdata()[0]) for m in "abcd"})
    assert xs.sort_values().index.tolist() == means[list("abcd")].sort_values(ascending=False).index.tolist()
    assert np.diff(xs.sort_values()).min() > 1.5 * DOT
    assert xs.mean() == pytest.approx(ticks(figure)["2"])
    assert "Methods of one cost are set side by side" in words(figure)
    assert "side by side" not in words(cost(priced({"a": (1, 0), "b": (2, 0)}), "ins"))


def test_many_of_one_cost_stay_within_the_plot():
    figure = cost(priced({f"m{k}": (1, 1) for k in range(30)}), "ins")
    xs = [float(e.get_xdata()[0]) for e in figure.axes[0].lines if e.get_marker() == "o"]
    assert 0 < min(xs) < max(xs) < WIDTH
    assert max(xs) - min(xs) < 1.1


def test_scores_that_are_missing_or_all_the_same_are_said_or_drawn(words):
    study = priced({"a": (1, 0), "b": (2, 0), "c": (3, 0), "d": (4, 0)})
    table = study.scores
    table.loc[table["method"] == "a", "score"] = np.nan
    table.loc[(table["method"] == "b") & (table["image"] < 3), "score"] = np.nan
    study.costs = study.costs[study.costs["method"] != "d"]
    said = words(cost(study, "ins"))
    assert "over 17 to 20 images" in said
    assert "without a score or a cost: a, d." in said or "without a score or a cost: d, a." in said
    assert "Undefined on some images: b (3)." in said
    table["score"] = 0.5
    bottom, top = cost(study, "ins").axes[0].get_ylim()
    assert bottom < 0.5 < top
    one = priced({"a": (1, 0), "b": (2, 0)}, n=1)
    assert "interval" not in words(cost(one, "ins"))


def test_what_cannot_be_drawn_is_refused():
    study = priced({"a": (1, 0)})
    with pytest.raises(ValueError, match="there are: ins"):
        cost(study, "del")
    study.scores["score"] = np.nan
    with pytest.raises(ValueError, match="no method has both"):
        cost(study, "ins")


def test_names_are_drawn_as_they_are(words):
    figure = cost(priced({"R$_2$": (1, 0), "a_b": (9, 0)}), "ins")
    assert {"R$_2$", "a_b"} <= {t.get_text() for t in figure.findobj(Text)}


@pytest.mark.parametrize(("low", "high"), [(0, 0.4), (0.3, 1.2), (0, 3), (2, 6), (-0.2, 7)])
def test_ticks_are_round_and_few(low, high):
    found = _round(low, high)
    assert 1 <= len(found) <= 8
    assert all(f"{v:g}".replace("e+0", "").rstrip("0").lstrip("0.") in "125" or v >= 1 for v in found)
    assert all(low <= np.log10(v) <= high for v in found)


def test_boxes_overlap_only_where_they_do():
    others = np.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
    assert _hits((0.5, 0.5, 2.5, 0.6), others) == 2
    assert _hits((1.0, 0.0, 2.0, 1.0), others) == 0, "edges may touch"
    assert _hits((0.5, 1.5, 2.5, 1.6), others) == 0
    assert _hits((0.0, 0.0, 1.0, 1.0), np.zeros((0, 4))) == 0


def test_a_line_runs_through_what_lies_between_its_ends():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.03], [0.5, 0.3], [2.0, 0.0], [-1.0, 0.0]])
    assert _runs_through((0.0, 0.0), (1.5, 0.0), points) == 2, "not its start, nothing beside it or beyond its ends"
    assert _runs_through((0.0, 0.0), (0.0, 0.0), points) == 0

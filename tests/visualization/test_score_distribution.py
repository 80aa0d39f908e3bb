"""Boxes are where the scores' percentiles are, on one axis, and what is undefined is counted."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from attriscope.visualization import score_distribution
from attriscope.visualization.score_distribution import LIMITS, WIDEST
from torch import Tensor


@dataclass(frozen=True)
class Found:
    scores: Tensor
    cells: Tensor
    grid: int = 2
    chance: float = 0.25
    attainable: float = 1.0


def found(scores, cells=None, **known):
    scores = torch.as_tensor(scores, dtype=torch.float64)
    return Found(scores, torch.zeros(len(scores), dtype=torch.long) if cells is None else cells, **known)


@pytest.fixture
def some():
    return found(torch.rand(101, generator=torch.Generator().manual_seed(0)))


def parts(figure, label, axes=0):
    """What has a label."""
    axes = figure.axes[axes]
    return [p for p in (*axes.lines, *axes.collections, *axes.patches) if p.get_label() == label]


def ends(part):
    """Of lines that are all of one collection."""
    return np.array([path.vertices for path in part.get_paths()])


def median(figure, method, axes=0):
    (part,) = parts(figure, f"{method}: median", axes)
    return ends(part)[0, 0, 0]


def test_box_whiskers_median_mean_and_dots_are_where_the_scores_are(some, check_layout, words):
    figure = score_distribution({"mine": some})
    check_layout(figure)
    scores = some.scores.numpy()
    low, first, middle, third, high = np.percentile(scores, [5, 25, 50, 75, 95])
    (box,), (dots,), (whiskers,), (mean,) = (parts(figure, f"mine: {p}") for p in ("box", "dots", "whiskers", "mean"))
    assert box.get_x() == pytest.approx(first)
    assert box.get_x() + box.get_width() == pytest.approx(third)
    np.testing.assert_allclose(ends(whiskers)[:, :, 0], [[low, first], [third, high]])
    assert median(figure, "mine") == pytest.approx(middle)
    assert mean.get_xdata() == pytest.approx(scores.mean())
    np.testing.assert_array_equal(np.sort(dots.get_xdata()), np.sort(scores[(scores < low) | (scores > high)]))
    heights = {round(float(np.mean(v)), 9) for v in (ends(whiskers)[..., 1], mean.get_ydata(), dots.get_ydata())}
    assert heights == {round(box.get_y() + box.get_height() / 2, 9)}
    assert f"{middle:.3f}" in words(figure)
    assert "101 maps of all heads" in words(figure)


@pytest.mark.parametrize(("count", "every"), [(1, True), (20, True), (21, False)])
def test_few_scores_are_all_dots(count, every, check_layout):
    figure = score_distribution({"mine": found(np.linspace(0.1, 0.9, count))})
    check_layout(figure)
    (dots,) = parts(figure, "mine: dots")
    assert len(dots.get_xdata()) == (count if every else 2)  # the second is the 5th percentile of 21
    assert len(parts(figure, "mine: whiskers")) == (not every)


def test_chance_and_attainable_are_lines_with_names(some, words, check_layout):
    layers = {"input": {"a": some, "b": some}, "final": {"a": replace(some, attainable=0.9646), "b": some}}
    figure = score_distribution(layers)
    check_layout(figure)
    for k, expected in enumerate(([1, 1], [0.9646, 1])):
        for name, values in (("chance", [0.25, 0.25]), ("attainable", expected)):
            lines = [ends(part)[0] for part in parts(figure, name, k)]
            assert [line[0, 0] for line in lines] == values
            assert (
                lines[0][0, 1] < lines[0][1, 1] == lines[1][0, 1] < lines[1][1, 1]
            )  # the first row's, and the second's
    said = words(figure)
    for part in ("chance 0.25", "attainable 1", "attainable 0.965 to 1", "Dashed: a map that is the same everywhere"):
        assert part in said, part
    unknown = words(score_distribution({"a": replace(some, attainable=math.nan)}))
    assert "attainable 1" not in unknown
    assert "nan" not in unknown


def test_names_of_near_lines_do_not_meet(some, check_layout):
    check_layout(score_distribution({"a": replace(some, chance=0.5, attainable=0.52)}))


def test_the_name_of_a_line_stands_at_the_line(some):
    figure = score_distribution({"a": some})
    wide = figure.get_size_inches()[0]
    axes = figure.axes[0].get_position()
    (text,) = (t for t in figure.texts if t.get_text() == "chance 0.25")
    line = axes.x0 + axes.width * (0.25 - LIMITS[0]) / (LIMITS[1] - LIMITS[0])
    left = text.get_position()[0]
    assert abs((line - left) * wide - 0.4) < 0.05  # half of its 0.8 inches


def test_layers_share_the_axis_and_the_rows(some, check_layout):
    figure = score_distribution({"input": {"a": some, "b": some}, "final": {"b": some}})
    check_layout(figure)
    first, second = figure.axes
    assert [a.get_label() for a in figure.axes] == ["input", "final"]
    assert first.get_xlim() == second.get_xlim() == LIMITS
    assert first.get_ylim() == second.get_ylim()
    assert LIMITS[0] < 0
    assert LIMITS[1] > 1
    assert parts(figure, "a: box", 1) == []
    assert (
        parts(figure, "b: box", 0)[0].get_y()
        == parts(figure, "b: box", 1)[0].get_y()
        > parts(figure, "a: box")[0].get_y()
    )
    boxes = [a.get_position() for a in figure.axes]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[0].y0 == boxes[1].y0


def names(figure, expected):
    """The names of the rows from above, and that each stands at its row."""
    texts = {t.get_text(): t.get_position()[1] for t in figure.texts if t.get_text() in expected}
    return sorted(texts, key=lambda name: -texts[name])


def test_rows_are_as_given_or_by_the_median(words):
    layers = {
        "input": {"none": found([math.nan] * 3), "low": found([0.1, 0.2, 0.9]), "high": found([0.3, 0.5, 0.6])},
        "final": {"low": found([0.5] * 3), "other": found([0.4, math.nan]), "none": found([math.nan])},
    }
    given = ["none", "low", "high", "other"]
    assert names(score_distribution(layers), given) == given
    figure = score_distribution(layers, order="median")
    assert names(figure, given) == ["high", "other", "low", "none"]  # 0.5, 0.4, (0.2 + 0.5) / 2
    high = figure.get_size_inches()[1]
    axes = figure.axes[0]
    for name in ("high", "low"):
        (box,) = parts(figure, f"{name}: box")
        y = axes.get_position().y1 - (box.get_y() + box.get_height() / 2) / high
        (text,) = (t for t in figure.texts if t.get_text() == name)
        assert abs(text.get_position()[1] - y) * high < 0.1
    assert median(figure, "low", 1) == 0.5
    with pytest.raises(ValueError, match="order='best': choose one of given, median"):
        score_distribution(layers, order="best")


def test_undefined_scores_are_counted_and_no_part_of_the_box(words, check_layout):
    figure = score_distribution({"mine": found([0.2, math.nan, 0.4, math.nan]), "none": found([math.nan] * 3)})
    check_layout(figure)
    assert median(figure, "mine") == pytest.approx(0.3)
    assert parts(figure, "mine: mean")[0].get_xdata() == pytest.approx(0.3)
    assert parts(figure, "none: box") == []
    said = words(figure)
    for part in ("0.300, 2 undefined", "all 3 undefined", "3 to 4 maps of all heads"):
        assert part in said, part
    assert "nan" not in said


def test_one_head_s_scores(words):
    one = found([0.1, 0.9, 0.3, 0.7], torch.tensor([0, 3, 0, 3]))
    for head, expected in ((None, 0.5), (0, 0.2), (3, 0.8)):
        assert median(score_distribution({"mine": one}, head=head), "mine") == pytest.approx(expected)
    assert "2 maps of head 3" in words(score_distribution({"mine": one}, head=3))
    with pytest.raises(ValueError, match="mine has no map of the head 1; there are maps of: 0, 3"):
        score_distribution({"mine": one}, head=1)


@pytest.mark.parametrize(("methods", "layers"), [(1, 1), (3, 2), (12, 3), (2, 5)])
def test_nothing_lies_on_anything(methods, layers, some, check_layout):
    one = replace(some, scores=torch.where(torch.arange(101) < 40, torch.nan, some.scores))
    given = [
        "a method with a name that does not end when one thinks that it will",
        "x" * 60,
        *(f"m_{k}" for k in range(10)),
    ]
    stages = ["features.denseblock4.denselayer16.conv2", "y" * 70, "fc", "d", "e"]
    figure = score_distribution(
        {s: dict.fromkeys(given[:methods], one) for s in stages[:layers]}, title="A title. " * 30
    )
    check_layout(figure)
    wide, high = figure.get_size_inches()
    assert wide <= WIDEST + 0.01
    assert high < 8
    boxes = [a.get_position() for a in figure.axes]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    for text in figure.texts:
        assert not any(b.contains(*text.get_position()) for b in boxes)


def test_bad_arguments(some):
    with pytest.raises(ValueError, match="there is no method"):
        score_distribution({})
    with pytest.raises(ValueError, match="a has 2 x 2 cells and b has 3 x 3"):
        score_distribution({"a": some, "b": replace(some, grid=3)})
    with pytest.raises(ValueError, match="b at final: a score is a share"):
        score_distribution({"final": {"b": replace(some, scores=some.scores + 1)}})

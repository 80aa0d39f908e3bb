import copy

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Explanation
from attriscope.attribution.regions import grid
from attriscope.visualization import subset_path
from attriscope.visualization._style import Sheet
from attriscope.visualization.subset_path import (
    BLUE,
    ORANGE,
    _beside,
    _borders,
    _dense,
    _digits,
    _spaced,
    _stairs,
    _steps,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from torch import nn

MINUS = "\N{MINUS SIGN}"
KEPT, WITHOUT = (0.02, 0.31, 0.62, 0.40, 0.07), (0.07, 0.05, 0.04, 0.03, 0.02)


def made(*paths, size=(12, 16), channels=3, labels=None, output="probability", method="lima", target=0, **params):
    """An explanation as submodular and lima return it: for each image the order, the scores, and those without."""
    n, most = len(paths), max(len(order) for order, *_ in paths)
    order = torch.full((n, most), -1)
    kept, removed, areas = (torch.full((n, most + 1), torch.nan, dtype=torch.float64) for _ in range(3))
    maps, best = [], torch.zeros(n, dtype=torch.long)
    for i, (regions, scores, without) in enumerate(paths):
        d = len(regions)
        one = grid(*size, 1, d)[0] if labels is None else labels
        part = torch.bincount(one.flatten(), minlength=d)[list(regions)].double() / one.numel()
        order[i, :d] = torch.tensor(regions)
        kept[i, : d + 1] = torch.tensor(scores, dtype=torch.float64)
        removed[i, : d + 1] = 1 - torch.tensor(without, dtype=torch.float64)
        areas[i, : d + 1] = torch.cat([torch.zeros(1), part.cumsum(0)])
        best[i] = int(np.argmax(scores))
        maps.append(one)
    details = {
        "labels": torch.stack(maps), "order": order, "consistency": kept, "collaboration": removed, "areas": areas,
        "best_prefix": best, "best_area": areas.gather(1, best[:, None])[:, 0],
    }  # fmt: skip
    empty = torch.zeros(n, 1, *size)
    return Explanation(
        empty, empty, None if target is None else torch.full((n,), target), kept[:, -1], torch.full((n,), 20),
        torch.zeros(n, dtype=torch.long), 0.1, details, method, {"baseline": "mean", **params}, output,
        torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip


@pytest.fixture
def found():
    """Four columns of four pixels, and an image with two regions, whose scores are padded."""
    return made(([2, 0, 3, 1], KEPT, WITHOUT), ([1, 0], (0.1, 0.8, 0.9), (0.9, 0.2, 0.1)))


def scored(scores, output="probability", **more):
    return made((list(range(len(scores) - 1)), scores, scores[::-1]), output=output, **more)


def axes_of(figure, label):
    return next(a for a in figure.axes if a.get_label() == label)


def labels_of(figure):
    return [a.get_label() for a in figure.axes]


def line(figure, label):
    return next(one for one in axes_of(figure, "curve").lines if one.get_label() == label)


def heights(figure):
    """Of the horizontal lines, by colour."""
    flat = [one for one in axes_of(figure, "curve").lines if list(one.get_xdata()) == [0, 1]]
    return {to_hex(one.get_color()): one.get_ydata()[0] for one in flat}


def framed(figure):
    return [a.get_label() for a in figure.axes if a.patches]


def outlined(figure, label):
    """The extent of what has an outline: left, top, right, bottom."""
    lines = axes_of(figure, label).collections
    assert len(lines) in (0, 2)  # white below black
    points = np.concatenate([p.vertices for one in lines for p in one.get_paths()] or [np.zeros((0, 2))])
    return [*points.min(0), *points.max(0)] if len(points) else []


def apart(figure, check_layout):
    """No text lies on another or on a picture, and nothing is cut."""
    check_layout(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    pictures = [a.get_window_extent(renderer) for a in figure.axes if a.images]
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert not any(box.overlaps(picture) for picture in pictures), text.get_text()
    inside = [a.get_position() for a in figure.axes]
    assert all(0 <= p.x0 < p.x1 <= 1 and 0 <= p.y0 < p.y1 <= 1 for p in inside)
    hit = [(a, b) for k, a in enumerate(inside) for b in inside[:k] if a.x0 < b.x1 - 1e-9 and b.x0 < a.x1 - 1e-9
           and a.y0 < b.y1 - 1e-9 and b.y0 < a.y1 - 1e-9]  # fmt: skip
    assert not hit


def test_it_says_all_that_is_needed(found, words, check_layout):
    figure = subset_path(found, name="photo.png", classes=["ant", "bee"])
    apart(figure, check_layout)
    said = words(figure).replace("\n", " ")
    for part in ("lima of photo.png", "explained: ant, probability 0.07", "baseline mean", "20 forwards",
                 "in the order in which lima chose them", "the network saw the mean colour there",
                 "the image in 4 regions", "1 region 25% of the image probability 0.310",
                 "2 regions 50% of the image probability 0.620", "3 regions 75% of the image probability 0.400",
                 "all 4 regions 100% of the image probability 0.070",
                 "Highest probability: 0.620, with 2 of 4 regions, 50% of the image.",
                 "whole image: 0.070", "nothing shown: 0.020", "only the regions shown", "without the regions shown",
                 "The first 2 regions bring the probability up from 0.020 to 0.620",
                 "The other 2 regions bring the probability down from 0.620 to 0.070",
                 "0 +0.31 probability", f"0 {MINUS}0.33 probability", "area shown, in percent of the image"):  # fmt: skip
        assert part in said, part
    assert labels_of(figure) == ["image", "1 region", "2 regions", "3 regions", "4 regions", "curve", "names",
                                 "up", "bar of up", "down", "bar of down"]  # fmt: skip


def test_the_curves_are_the_scores_over_the_areas_shown(found):
    figure = subset_path(found)
    before, after, without = (line(figure, label) for label in ("up to the best", "after the best", "without"))
    np.testing.assert_allclose(before.get_xydata(), [[0, 0.02], [25, 0.31], [50, 0.62]])
    np.testing.assert_allclose(after.get_xydata(), [[50, 0.62], [75, 0.4], [100, 0.07]])
    np.testing.assert_allclose(without.get_xydata(), np.stack([np.arange(0, 101, 25), WITHOUT], 1))
    assert to_hex(before.get_color()) == BLUE.lower()
    assert to_hex(after.get_color()) == ORANGE.lower()
    assert {one.get_drawstyle() for one in (before, after, without)} == {"steps-post"}
    assert heights(figure) == {"#000000": pytest.approx(0.07), "#595959": pytest.approx(0.02)}


def test_areas_are_those_of_the_regions(words):
    labels = torch.zeros(12, 16, dtype=torch.long)
    labels[:, :3], labels[:, 3:5] = 1, 2  # of 11, 3 and 2 columns
    figure = subset_path(made(([1, 0, 2], (0.1, 0.2, 0.9, 0.3), (0.3, 0.2, 0.1, 0.1)), labels=labels))
    np.testing.assert_allclose(line(figure, "up to the best").get_xdata(), [0, 18.75, 87.5])
    assert "2 regions 87.5% of the image" in words(figure)


def test_the_highest_score_is_marked_everywhere(found):
    figure = subset_path(found)
    assert framed(figure) == ["2 regions"]
    np.testing.assert_allclose(line(figure, "highest score").get_xydata(), [[50, 0.62]])
    ticks = {t.get_text(): to_hex(t.get_color()) for t in axes_of(figure, "curve").get_xticklabels()}
    assert ticks.pop("50%\nhighest score") == BLUE.lower()
    assert ticks == dict.fromkeys(["0%", "20%", "40%", "60%", "80%", "100%"], "#000000")
    marked = [t.get_text() for t in figure.texts if t.get_color() == BLUE]
    assert {"highest score", "2 regions", "50% of the image", "probability 0.620"} <= set(marked)
    assert not {"1 region", "3 regions"} & set(marked)


def test_what_is_not_shown_yet_is_faded(found, pixels):
    found.inputs = torch.zeros_like(found.inputs)
    found.inputs[:, 0] = 1  # red
    figure = subset_path(found, bounds=(0, 1))
    for label, columns in (
        ("1 region", [2]),
        ("2 regions", [0, 2]),
        ("3 regions", [0, 2, 3]),
        ("4 regions", [0, 1, 2, 3]),
    ):
        drawn = pixels(figure, label)
        assert drawn.shape == (12, 16, 3)
        for column in range(4):
            part = drawn[:, 4 * column : 4 * column + 4]
            if column in columns:
                np.testing.assert_allclose(part, np.broadcast_to([1, 0, 0], part.shape))
            else:
                assert np.ptp(part, axis=-1).max() < 1e-6  # grey
                assert part.min() > 0.8
    np.testing.assert_allclose(pixels(figure, "image"), np.broadcast_to([1, 0, 0], (12, 16, 3)))


def test_what_came_since_the_picture_before_has_an_outline(found):
    figure = subset_path(found)
    assert outlined(figure, "1 region") == [7.5, -0.5, 11.5, 11.5]
    assert outlined(figure, "2 regions") == [-0.5, -0.5, 3.5, 11.5]
    assert outlined(figure, "4 regions") == [3.5, -0.5, 7.5, 11.5]
    assert outlined(figure, "image") == [3.5, -0.5, 11.5, 11.5]  # between regions, and not around the image
    assert outlined(subset_path(found, steps=2), "4 regions") == [3.5, -0.5, 15.5, 11.5]  # two regions
    for label in ("image", "1 region"):
        assert axes_of(figure, label).get_xlim() == (-0.5, 15.5)
        assert axes_of(figure, label).get_ylim() == (11.5, -0.5)


def test_borders_are_whole_lines_between_pixels():
    parts = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    lines = sorted(tuple(map(tuple, one)) for one in _borders(parts))
    assert lines == sorted([
        ((-0.5, -0.5), (1.5, -0.5)), ((-0.5, 0.5), (0.5, 0.5)), ((0.5, 1.5), (1.5, 1.5)),
        ((-0.5, -0.5), (-0.5, 0.5)), ((0.5, 0.5), (0.5, 1.5)), ((1.5, -0.5), (1.5, 1.5)),
    ])  # fmt: skip
    assert _borders(np.ones((3, 3))) == []


def test_colours_are_what_each_region_added_or_took(found, pixels):
    found.inputs = torch.full_like(found.inputs, 0.5)
    figure = subset_path(found, bounds=(0, 1))
    up, down = pixels(figure, "up")[0, ::4], pixels(figure, "down")[0, ::4]  # of a pixel of every region
    blue, orange = (np.array([0, 0x72, 0xB2]) / 255, np.array([0xC0, 0x4A, 0]) / 255)
    grey = 0.35 + 0.55 * 0.5

    def tint(colour, part):
        return grey * (1 - 0.8 * part) + colour * 0.8 * part

    # the order is 2, 0, 3, 1: they add 0.29 and 0.31, and take 0.22 and 0.33
    np.testing.assert_allclose(up[2], tint(blue, 0.29 / 0.31), atol=1e-6)
    np.testing.assert_allclose(up[0], tint(blue, 1), atol=1e-6)
    np.testing.assert_allclose(down[3], tint(orange, 0.22 / 0.33), atol=1e-6)
    np.testing.assert_allclose(down[1], tint(orange, 1), atol=1e-6)
    np.testing.assert_allclose([up[1], up[3], down[0], down[2]], np.full((4, 3), 0.9), atol=1e-6)  # faded
    np.testing.assert_allclose(pixels(figure, "bar of up")[0, [0, -1]], [tint(blue, 0), tint(blue, 1)], atol=1e-6)
    np.testing.assert_allclose(pixels(figure, "bar of down")[0, [0, -1]], [tint(orange, 0), tint(orange, 1)], atol=1e-6)
    assert outlined(figure, "up") == [-0.5, -0.5, 11.5, 11.5]
    assert outlined(figure, "down") == [3.5, -0.5, 15.5, 11.5]


def test_regions_against_the_way_have_no_colour(pixels, words, check_layout):
    found = scored((0.1, 0.05, 0.9, 0.5, 0.7, 0.3, 0.3), size=(12, 24))
    found.inputs = torch.full_like(found.inputs, 0.5)
    figure = subset_path(found, bounds=(0, 1))
    apart(figure, check_layout)
    assert np.ptp(pixels(figure, "up")[0, 0]) < 1e-6  # lowered it
    assert np.ptp(pixels(figure, "up")[0, 4]) > 0.3
    assert np.ptp(pixels(figure, "down")[0, 12]) < 1e-6  # raised it
    said = words(figure)
    assert "what each region added when it came. Grey: 1 that added nothing." in said
    assert "what each region took when it came. Grey: 2 that took nothing." in said


def test_next_to_nothing_has_next_to_no_colour(pixels, words):
    found = scored((0.1, 0.5, 0.9, 0.9 - 1e-6, 0.9 - 2e-6))
    found.inputs = torch.full_like(found.inputs, 0.5)
    figure = subset_path(found, bounds=(0, 1))
    assert np.ptp(pixels(figure, "down")[0, 8]) < 1e-4  # the falls are 1e-6 of a range of 0.8
    said = words(figure).replace("\n", " ")
    assert "The other 2 regions leave the probability at 0.900" in said
    assert f"{MINUS}0.2 probability" in said  # a quarter of the range, for four regions


def test_where_the_whole_image_is_best_nothing_brings_it_down(found, words, check_layout):
    figure = subset_path(found, 1)
    apart(figure, check_layout)
    said = words(figure).replace("\n", " ")
    assert "Nothing brings the probability down: the whole image has the highest." in said
    assert "All 2 regions bring the probability up from 0.10 to 0.90" not in said  # three digits of the range
    assert "All 2 regions bring the probability up from 0.100 to 0.900" in said
    assert "Highest probability: 0.900, of the whole image." in said
    assert "down" not in labels_of(figure)
    assert framed(figure) == ["2 regions"]
    assert "100%\nhighest score" in [t.get_text() for t in axes_of(figure, "curve").get_xticklabels()]


def test_where_nothing_shown_is_best_nothing_brings_it_up(words, check_layout):
    figure = subset_path(scored((0.8, 0.6, 0.65, 0.2, 0.1)))
    apart(figure, check_layout)
    said = words(figure).replace("\n", " ")
    assert "Nothing brings the probability up: the image with nothing shown has the highest." in said
    assert "All 4 regions bring the probability down from 0.800 to 0.100" in said
    assert "Highest probability: 0.800, with nothing shown." in said
    assert "up" not in labels_of(figure)
    assert framed(figure) == ["0 regions"]
    assert outlined(figure, "0 regions") == []


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.500"), (0.0, "0.00"), (1.0, "1.00")])
def test_a_score_that_stays_the_same_says_so(value, text, words, check_layout):
    figure = subset_path(scored((value,) * 6))
    apart(figure, check_layout)
    assert f"The probability is {text} however many regions are shown: nothing brings it up or down." in words(figure)
    assert framed(figure) == []
    assert "highest score" not in words(figure)
    assert labels_of(figure)[-2:] == ["curve", "names"]  # and no colours
    low, high = axes_of(figure, "curve").get_ylim()
    assert low < 0 < value + 0.5 < high + 0.5


@pytest.mark.parametrize(("scores", "output", "limits"), [
    ((0.02, 0.6, 0.1), "probability", (-0.02, 1.02)), ((0.0, 0.05, 0.02), "probability", (-0.00108, 0.05508)),
    ((0.0, 0.0, 0.0), "probability", (-0.02, 1.02)), ((-10.0, 15.0, 5.0), "logit", (-12.0, 17.0)),
    ((3.0, 3.0, 3.0), "logit", (2.7, 3.3)),
])  # fmt: skip
def test_the_plot_shows_a_probability_from_zero_and_all_else_by_its_range(scores, output, limits):
    figure = subset_path(scored(scores, output))
    assert axes_of(figure, "curve").get_ylim() == pytest.approx(limits)
    assert axes_of(figure, "curve").get_xlim() == (-1.5, 101.5)


def test_logits_have_their_own_numbers(words, check_layout):
    figure = subset_path(
        scored((-2.04, 3.26, 12.51, -4.0), "log_probability"), classes=["an " + "endless " * 60 + "name"]
    )
    apart(figure, check_layout)
    said = words(figure).replace("\n", " ")
    for part in ("2 regions 68.8% of the image log probability 12.5", f"whole image: {MINUS}4.0",
                 f"up from {MINUS}2.0 to 12.5", f"down from 12.5 to {MINUS}4.0", "+9.2 log probability",
                 f"{MINUS}17 log probability"):  # fmt: skip
        assert part in said, part


def test_numbers_of_small_probabilities_are_not_zero(words, check_layout):
    figure = subset_path(scored((0.00002, 0.9, 0.0004)))
    apart(figure, check_layout)
    assert "nothing shown: <0.001" in words(figure)
    figure = subset_path(scored((1e-7, 2e-5, 3e-5, 1e-5)))
    apart(figure, check_layout)
    said = words(figure)
    assert "probability 0.0000300" in said
    numbers = [t.get_text() for t in axes_of(figure, "curve").get_yticklabels()]
    assert "0.00003" in numbers or "0.000024" in numbers
    assert not any("e" in text for text in numbers)
    assert _digits(0.3, 5) == "0.3"
    assert _digits(-25.0, 5) == f"{MINUS}25"
    assert _digits(0.0, 5) == "0"


def test_infinite_scores_have_no_place_and_no_warning(words, check_layout):
    figure = subset_path(scored((-np.inf, -4.0, -1.0, -0.5, -3.0), "log_probability"))
    apart(figure, check_layout)
    said = words(figure).replace("\n", " ")
    assert f"up from {MINUS}\N{INFINITY} to {MINUS}0.50" in said
    assert "+3 or more log probability" in said
    assert "nothing shown:" not in said
    assert np.isfinite(axes_of(figure, "curve").get_ylim()).all()
    figure = subset_path(scored((-np.inf,) * 4, "log_probability"))
    apart(figure, check_layout)
    assert f"The log probability is {MINUS}\N{INFINITY} however many regions are shown" in words(figure)
    assert "only the regions shown" not in words(figure)


def test_the_steps_are_the_first_ones_the_best_where_it_falls_and_all():
    rising = [*np.linspace(0, 1, 13), *np.full(20, 1.0), *np.linspace(0.9, 0, 17)]
    assert _steps(np.array(rising), 12, 7) == [1, 2, 5, 12, 38, 44, 49]
    assert _steps(np.array(rising), 12, 2) == [12, 49]
    assert _steps(np.array([*rising[:13], *np.full(37, 1.0)]), 12, 7) == [1, 2, 3, 4, 7, 12, 49]  # nothing falls
    assert _steps(np.arange(50.0), 49, 7) == [1, 2, 4, 7, 13, 26, 49]
    assert _steps(np.arange(2.0), 1, 7) == [1]
    assert _steps(np.array([3.0, 2.0, 1.0]), 0, 7) == [0, 1, 2]
    assert _spaced(4, 3) == [1, 2, 3]
    assert _spaced(1000, 3) == [1, 10, 100]


def test_steps_are_as_many_as_asked_for_and_whatever_the_best_is_among_them():
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 8, 49, 200):
        for best in {0, 1, count // 2, count - 1, count}:
            alone = generator.random(count + 1)
            alone[best] = 2
            for most in (2, 3, 7):
                chosen = _steps(alone, best, most)
                assert len(chosen) == min(most, count + (best == 0)), (count, best, most)
                assert chosen == sorted(set(chosen))
                assert {best, count} <= set(chosen)


@pytest.mark.parametrize("count", [1, 2, 7, 200])
@pytest.mark.parametrize("size", [(20, 220), (220, 20), (40, 40)])
def test_any_number_of_regions_and_any_shape(count, size, check_layout, pixels):
    x = np.linspace(0, 1, count + 1)
    labels = torch.arange(size[0] * size[1]).reshape(size) * count // (size[0] * size[1])
    scores = tuple(np.exp(-(((x - 0.4) / 0.2) ** 2)))
    order = np.random.default_rng(0).permutation(count).tolist()
    figure = subset_path(made((order, scores, scores[::-1]), size=size, channels=1, labels=labels))
    apart(figure, check_layout)
    assert sum(a.get_label().endswith(("region", "regions")) for a in figure.axes) == min(count + (count == 1), 7)
    wide, high = figure.get_size_inches()
    for label in ("image", f"{count} region{'s' * (count > 1)}", "up" if "up" in labels_of(figure) else "down"):
        place = axes_of(figure, label).get_position()
        assert place.height * high / (place.width * wide) == pytest.approx(size[0] / size[1])
        assert pixels(figure, label).shape == (*size, 3)
        assert np.ptp(pixels(figure, "image"), axis=-1).max() < 1e-6  # one channel is grey


@pytest.mark.parametrize("scores", [
    (0.02, 0.9, 0.95, 0.93), (0.5, 0.500001, 0.5, 0.5), (0.9, 0.91, 0.1, 0.9), (0.0, 0.0, 1.0, 0.0),
    (0.1, 0.4, 0.2, 0.6, 0.1, 0.5, 0.3),
])  # fmt: skip
@pytest.mark.parametrize("without", [None, 0.0, 0.5])
def test_names_stand_beside_their_own_curves(scores, without, check_layout):
    order, rest = list(range(len(scores) - 1)), scores[::-1] if without is None else (without,) * len(scores)
    figure = subset_path(made((order, scores, rest)), steps=2)
    apart(figure, check_layout)
    inside = axes_of(figure, "curve").get_position()
    for start, colour in (("only", BLUE), ("without", "#8F3F7B")):
        text = next(t for t in figure.texts if t.get_text().startswith(start))
        assert to_hex(text.get_color()) == colour.lower()
        x, y = text.get_position()
        assert inside.x0 < x < inside.x1
        assert inside.y0 < y < inside.y1


def test_a_name_is_on_no_line_and_nearer_to_its_own():
    own, other = (_dense(np.array([[0.0, y], [5.0, y]])) for y in (0.5, 2.0))
    _, y = _beside((1.0, 0.15), own, [other], [], (5.0, 2.7))
    assert min(abs(y - 0.5), abs(y + 0.15 - 0.5)) < 0.2
    assert not y - 0.05 < 0.5 < y + 0.15 + 0.05
    taken = (0.0, y, 5.0, y + 0.15)
    assert abs(_beside((1.0, 0.15), own, [other], [taken], (5.0, 2.7))[1] - y) >= 0.15
    assert _stairs(np.array([0.0, 1, 2]), np.array([5.0, 6, np.nan])).tolist() == [[0, 5], [1, 5], [1, 6]]


def test_every_image_has_its_own_path(found, pixels):
    first, second = subset_path(found, 0, bounds=(0, 1)), subset_path(found, 1, bounds=(0, 1))
    for figure, i in ((first, 0), (second, 1)):
        np.testing.assert_allclose(pixels(figure, "image"), found.inputs[i].permute(1, 2, 0).numpy(), atol=1e-6)
    np.testing.assert_allclose(line(second, "up to the best").get_xydata(), [[0, 0.1], [50, 0.8], [100, 0.9]])
    assert outlined(second, "1 region") == [7.5, -0.5, 15.5, 11.5]


def test_what_was_saved_and_a_score_of_the_callers_own(found, words, check_layout, tmp_path):
    again = Explanation.load(found.save(tmp_path / "found.safetensors"))
    again.inputs = found.inputs
    assert words(subset_path(again)) == words(subset_path(found))
    figure = subset_path(
        made(([0], (0.1, 0.2), (0.2, 0.1)), target=None, regions="slic", n_regions=9, baseline="region_mean")
    )
    apart(figure, check_layout)
    for part in ("a score of the caller's own", "regions slic; n_regions 9", "the network saw region mean there"):
        assert part in words(figure), part
    assert "The only region brings the probability" in words(figure)


def test_it_neither_changes_what_was_found_nor_goes_on_drawing(found, monkeypatch):
    before = copy.deepcopy(found)
    subset_path(found)
    for key, value in before.details.items():
        torch.testing.assert_close(found.details[key], value, equal_nan=True)
    assert torch.equal(found.inputs, before.inputs)
    monkeypatch.setattr(Sheet, "figure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        subset_path(found)  # the settings come back, which conftest sees to


def test_only_paths_of_regions_of_images_can_be_drawn(found):
    x = torch.rand(1, 3, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ValueError, match=r"draws what submodular or lima found, not saliency: .* with heatmap"):
        subset_path(attribution.create("saliency", network).explain(x))
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="maps from elsewhere"):
        subset_path(Explanation(x, x, None, one, one.long(), one.long(), 0.1))
    for key in ("labels", "order", "consistency", "collaboration", "areas", "best_prefix"):
        partly = copy.deepcopy(found)
        del partly.details[key]
        with pytest.raises(ValueError, match="draws what submodular or lima found, not lima"):
            subset_path(partly)
    found.details["labels"] = found.details["labels"][:, 0]
    with pytest.raises(ValueError, match=r"columns of a table, or tokens: read found.details\['order'\]"):
        subset_path(found)


def test_bad_arguments(found):
    with pytest.raises(ValueError, match="no image 2; there are 2"):
        subset_path(found, 2)
    with pytest.raises(ValueError, match="steps=1: at least 2"):
        subset_path(found, steps=1)
    with pytest.raises(ValueError, match=r"images of \(12, 16\) pixels, and found.inputs has \(6, 8\)"):
        subset_path(dataclass_with(found, torch.rand(2, 3, 6, 8)))
    with pytest.raises(ValueError, match=r"found.inputs = images"):
        subset_path(dataclass_with(found, None))


def dataclass_with(found, inputs):
    """The same explanation with other images."""
    found = copy.copy(found)
    found.inputs = inputs
    return found

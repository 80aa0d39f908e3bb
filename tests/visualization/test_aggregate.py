"""Bins hold the maps that they should, a method's panels share one scale, and what is undefined is counted."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from attriscope.attribution import _picture
from attriscope.visualization import aggregate
from attriscope.visualization._pixels import on_white
from attriscope.visualization.aggregate import MOST, WIDEST, bins
from matplotlib.patches import Rectangle
from torch import Tensor

NAMES = ["best 2%", "2 to 5%", "5 to 50%", "50 to 95%", "95 to 98%", "worst 2%"]


@dataclass(frozen=True)
class Found:
    maps: Tensor
    scores: Tensor
    cells: Tensor
    grid: int = 2
    chance: float = 0.25
    attainable: float = 1.0


def found(maps, scores=None, *, cells=None, grid=2, **known):
    """All maps of head 0, unless told; scores are the share of the positive mass in the cell."""
    cells = torch.zeros(len(maps), dtype=torch.long) if cells is None else cells
    if scores is None:
        n, h, w = maps.shape
        positive = maps.double().clamp(min=0).reshape(n, grid, h // grid, grid, w // grid).sum((2, 4)).flatten(1)
        scores = positive.gather(1, cells[:, None])[:, 0] / positive.sum(1)
    return Found(maps, torch.as_tensor(scores, dtype=torch.float64), cells, grid, 1 / grid**2, **known)


def ladder(count, side=2):
    """Map k holds k + 1 in the target cell alone, and scores less than the map before it."""
    maps = torch.zeros(count, side, side)
    maps[:, : side // 2, : side // 2] = torch.arange(1.0, count + 1)[:, None, None]
    return found(maps, torch.linspace(1, 0, count))


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(0)
    return lambda count=40, side=4, grid=2: found(torch.randn(count, side, side, generator=generator), grid=grid)


def drawn(pixels, figure, method="mine"):
    return [pixels(figure, f"{method}: {name}") for name in NAMES]


def shades(pixels, figure, method="mine"):
    """Of each panel's first pixel, from 0 (white) to 1 (full colour)."""
    ramp = on_white(torch.linspace(0, 1, 1001)[None], 1.0)[0]
    return [float(np.abs(ramp - panel[0, 0] / 255).sum(1).argmin()) / 1000 for panel in drawn(pixels, figure, method)]


# -- bins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (500, [10, 15, 225, 225, 15, 10]),  # the paper's: all are whole
        (100, [2, 3, 45, 45, 3, 2]),
        (48, [1, 1, 22, 22, 1, 1]),  # .96, 1.44, 21.6: the four largest remainders
        (25, [1, 1, 11, 11, 1, 0]),  # .5, .75, 11.25: of the two halves the better
        (12, [0, 0, 6, 6, 0, 0]),  # .24, .36, 5.4
        (5, [0, 0, 3, 2, 0, 0]),
        (1, [0, 0, 1, 0, 0, 0]),
        (0, [0] * 6),
    ],
)
def test_sizes_are_rounded_by_largest_remainders(count, sizes):
    members = bins(torch.linspace(0, 1, count), torch.ones(count))
    assert [len(b) for b in members] == sizes
    assert torch.cat(members).tolist() == list(range(count))[::-1]  # each map once, the best first


def test_every_size_is_within_one_of_its_share():
    for count in range(1, 300):
        sizes = [len(b) for b in bins(torch.zeros(count), torch.ones(count))]
        assert sum(sizes) == count
        assert all(abs(s - count * p / 100) < 1 for s, p in zip(sizes, (2, 3, 45, 45, 3, 2), strict=True))


def test_known_scores_are_in_known_bins():
    scores = torch.full((100,), 0.5)
    scores[[7, 30]], scores[[1, 2, 3]], scores[[50, 99]] = 0.99, 0.9, 0.01
    best, second, *_, worst = bins(scores, torch.ones(100))
    assert (best.tolist(), second.tolist(), worst.tolist()) == ([7, 30], [1, 2, 3], [50, 99])


def test_ties_go_by_mass_then_by_place_and_undefined_is_in_no_bin():
    scores = torch.tensor([1, 1 - 1e-13, torch.nan, 1, 0.2, 1 - 1e-6], dtype=torch.float64)
    members = bins(scores, torch.tensor([1.0, 3.0, 99.0, 1.0, 50.0, 70.0]))
    assert torch.cat(members).tolist() == [1, 0, 3, 5, 4]  # sums that round are no difference, and a millionth is


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_panel_is_the_mean_of_its_bin(pixels, words):
    figure = aggregate({"mine": ladder(100)}, percentile=100)
    means = [1.5, 4.0, 28.0, 73.0, 97.0, 99.5]  # of 1 to 2, 3 to 5, 6 to 50, ...
    np.testing.assert_allclose(shades(pixels, figure), np.array(means) / 99.5, atol=0.01)  # colours have 8 bits
    for panel in drawn(pixels, figure):
        assert panel.shape == (2, 2, 3)
        assert (panel[1] == 255).all()
        assert (panel[0, 1] == 255).all()
    said = words(figure)
    for part in (
        "mean 0.500",
        "full colour 99.5",
        "largest value",
        *(f"{v:.3f}" for v in (0.995, 0.970, 0.030, 0.005)),
    ):
        assert part in said, part
    assert "undefined" not in said


def test_maps_are_read_in_parts_and_none_is_lost(pixels, random):
    one = random(300)
    figure = aggregate({"mine": one}, percentile=100)
    pictures = torch.stack([one.maps.double().clamp(min=0)[b].mean(0) for b in bins(one.scores, torch.ones(300))])
    for panel, picture in zip(drawn(pixels, figure), pictures, strict=True):
        np.testing.assert_allclose(panel / 255, on_white(picture, float(pictures.max())), atol=0.003)  # half of 1/255


def test_all_panels_of_a_method_share_the_percentile_of_all_their_values(pixels, words, random):
    one = random()
    pictures = torch.stack([one.maps.double().clamp(min=0)[b].mean(0) for b in bins(one.scores, torch.ones(40))])
    for percentile in (99.5, 60, 5):
        top = _picture.limit(pictures, percentile)
        figure = aggregate({"mine": one, "other": replace(one, maps=1e-12 * one.maps)}, percentile=percentile)
        for panel, other, picture in zip(*(drawn(pixels, figure, m) for m in ("mine", "other")), pictures, strict=True):
            np.testing.assert_allclose(panel / 255, on_white(picture, top), atol=0.003)
            np.testing.assert_allclose(panel, other, atol=1)  # however small a method's values are
        assert f"full colour {top:.3g} " in words(figure)
    assert "99.5th percentile" in words(aggregate({"mine": one}))


def test_where_the_percentile_is_zero_full_colour_is_the_largest_value(pixels):
    maps = torch.zeros(100, 40, 40)
    maps[:, 0, 0] = 2.0
    figure = aggregate({"mine": found(maps)})
    assert all(s == pytest.approx(1, abs=0.01) for s in shades(pixels, figure))


def test_an_empty_bin_is_not_in_the_scale(pixels, words, check_layout):
    maps = torch.arange(5.0, 0, -1)[:, None, None].expand(5, 2, 2)
    figure = aggregate({"mine": found(maps)}, percentile=50)  # of means of 5, 4 and 3, and of 2 and 1
    check_layout(figure)
    panels = drawn(pixels, figure)
    for k in (0, 1, 4, 5):
        assert (panels[k] == 255).all()
    assert shades(pixels, figure)[2:4] == pytest.approx([1, 1.5 / 2.75], abs=0.01)
    said = words(figure)
    assert said.count("no map") == 4
    assert said.count("0 maps") == 4
    assert "3 maps" in said
    assert "2 maps" in said
    assert "full colour 2.75" in said


def test_signed_means_keep_their_sign_and_are_scaled_by_their_absolute_values(pixels, words):
    maps = torch.zeros(100, 2, 2)
    maps[:, 0, 0], maps[:, 1, 1] = 1.0, -4.0
    maps[1::2, 0, 1] = -2.0
    maps[::2, 0, 1] = 2.0
    one = found(maps, torch.linspace(1, 0.5, 100))
    panels = drawn(pixels, aggregate({"mine": one}, signed=True, percentile=100))
    top = on_white(torch.tensor([[1.0, -4.0]]), 4.0)[0]
    for panel in panels:
        np.testing.assert_allclose(panel[[0, 1], [0, 1]] / 255, top, atol=0.003)
    assert (panels[0][0, 1] == 255).all()  # two maps that cancel
    positive = drawn(pixels, aggregate({"mine": one}, percentile=100))  # of three maps two are 2: the largest mean
    assert (positive[0][1, 1] == 255).all()
    np.testing.assert_allclose(positive[0][0] / 255, on_white(torch.tensor([[1.0, 1.0]]), 4 / 3)[0], atol=0.003)
    against = aggregate({"mine": found(-torch.ones(100, 2, 2), torch.full((100,), 0.5))}, signed=True)
    assert drawn(pixels, against)[0].tolist() == (on_white(-torch.ones(2, 2), 1.0) * 255).round().tolist()
    said = words(aggregate({"mine": one}, signed=True))
    assert "against" in said
    assert "for" in said
    assert "positive parts" not in said


def test_without_its_magnitude_a_map_counts_as_much_as_others(pixels, words):
    maps = torch.rand(100, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.2
    scales = 10.0 ** torch.arange(100).remainder(5)[:, None, None]
    plain, scaled = found(maps), found(maps * scales)
    own = found(maps / maps.abs().sum((1, 2), keepdim=True))
    for signed in (False, True):
        one, two, three = (
            drawn(pixels, aggregate({"mine": f}, normalise=n, signed=signed))
            for f, n in ((plain, True), (scaled, True), (own, False))
        )
        np.testing.assert_allclose(two, one, atol=1)  # half of it rounding of 8 bits
        np.testing.assert_allclose(three, one, atol=1)
    assert "divided by the sum of its |values|" in words(aggregate({"mine": plain}, normalise=True))
    assert "divided by" not in words(aggregate({"mine": plain}))


def test_normalised_maps_of_one_score_are_sorted_by_the_share_that_is_positive_inside(pixels):
    maps = torch.zeros(100, 2, 2)
    maps[:, 0, 0] = torch.arange(1.0, 101)  # the largest is the last
    maps[:, 1, 1] = -1000.0
    maps[:2, 1, 1] = 0.0  # and nothing but the target cell is in the first two
    one = found(maps, torch.ones(100))
    assert shades(pixels, aggregate({"mine": one}, normalise=True, percentile=100))[0] == pytest.approx(1, abs=0.01)
    assert shades(pixels, aggregate({"mine": one}, normalise=False, percentile=100))[0] == pytest.approx(1, abs=0.01)
    plain = shades(pixels, aggregate({"mine": one}, percentile=100))
    assert plain[5] < 0.05  # 1.5 of 99.5


def test_ties_are_sorted_by_the_positive_mass_inside_the_cell_alone(pixels):
    maps = torch.zeros(50, 2, 2)
    maps[:, 0, 0], maps[:, 1, 1] = 1.0, 5.0
    maps[17, 0, 0], maps[17, 1, 1] = 2.0, 0.0
    maps[30, 0, 0], maps[30, 0, 1] = -9.0, 9.0
    figure = aggregate({"mine": found(maps, torch.full((50,), 0.5))}, percentile=100)
    assert drawn(pixels, figure)[0][1, 1].tolist() == [255, 255, 255]  # one map, 17
    assert shades(pixels, figure)[5] == 0  # and 30 is the worst


def test_only_the_maps_of_one_head_are_taken_and_its_cell_is_outlined(pixels, words):
    cells = torch.tensor([0, 8, 3]).repeat(40)
    maps = torch.zeros(120, 9, 6)
    for cell in (0, 8, 3):
        row, column = divmod(cell, 3)
        maps[cells == cell, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2] = 1.0 + cell
    one = found(maps, cells=cells, grid=3)
    for head, corner in ((0, (-0.5, -0.5)), (3, (-0.5, 2.5)), (8, (3.5, 5.5))):
        figure = aggregate({"mine": one}, head=head)
        assert f"full colour {1 + head}" in words(figure)
        assert "18 maps" in words(figure)
        assert "mean 1.000" in words(figure)
        for axes in figure.axes[1:]:
            (box,) = (p for p in axes.patches if isinstance(p, Rectangle))
            assert box.get_xy() == corner
            assert (box.get_width(), box.get_height()) == (2, 3)
            across, down = ({tuple(d) for d in ds} for ds in zip(*(k.get_data() for k in axes.lines), strict=True))
            assert across == {(0, 1), (1.5, 1.5), (3.5, 3.5)}
            assert down == {(0, 1), (2.5, 2.5), (5.5, 5.5)}
        for panel in drawn(pixels, figure):
            x, y = (int(v + 0.5) for v in corner)
            inside = np.zeros((9, 6), dtype=bool)
            inside[y : y + 3, x : x + 2] = True
            assert (panel[~inside] == 255).all()  # all mass is in the target cell
            assert (panel[inside] == panel[y, x]).all()
            assert panel[y, x, 2] < 120


# -- what is undefined -------------------------------------------------------------------------------------------------


def test_undefined_scores_are_left_out_and_counted(pixels, words, check_layout):
    one = ladder(100)
    maps = torch.cat([torch.full((3, 2, 2), -7.0), torch.full((2, 2, 2), torch.nan), one.maps])
    scores = torch.cat([torch.full((5,), torch.nan), one.scores])
    figure = aggregate({"mine": found(maps, scores), "whole": one}, percentile=100)
    check_layout(figure)
    np.testing.assert_array_equal(drawn(pixels, figure), drawn(pixels, figure, "whole"))
    assert words(figure).count("5 of 105 undefined") == 1
    assert "Maps whose score is undefined are left out." in words(figure)


def test_a_method_without_any_score_says_so(pixels, words, check_layout):
    none = found(torch.zeros(30, 2, 2), torch.full((30,), torch.nan))
    figure = aggregate({"mine": none, "other": ladder(30)})
    check_layout(figure)
    assert "30 of 30 undefined" in words(figure)
    assert all((panel == 255).all() for panel in drawn(pixels, figure))
    assert words(figure).count("mean 0.5") == 1
    assert "nan" not in words(figure)
    assert "0\N{EN DASH}13 maps" in words(figure)


def test_maps_that_are_zero_are_white(pixels, words):
    figure = aggregate({"mine": found(torch.zeros(30, 2, 2), torch.full((30,), 0.5))}, normalise=True)
    assert all((panel == 255).all() for panel in drawn(pixels, figure))
    assert "mean 0.500" in words(figure)
    assert "full colour 0" not in words(figure)


# -- the figure --------------------------------------------------------------------------------------------------------


def inside(figure, check_layout):
    """Nothing is cut, and no panel lies on another or on a text."""
    check_layout(figure)
    boxes = [a.get_position() for a in figure.axes]
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in boxes)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    for text in figure.texts:
        assert text.get_text() == "no map" or not any(b.contains(*text.get_position()) for b in boxes)


def test_layers_stand_side_by_side_at_their_own_resolution(pixels, words, check_layout, random):
    layers = {
        "input": {"mine": random(side=32), "other": random(side=32)},
        "final": {"mine": replace(random(side=14), attainable=0.9646)},
    }
    figure = aggregate(layers)
    inside(figure, check_layout)
    at = {a.get_label(): a.get_position() for a in figure.axes}
    assert len(at) == 1 + 3 * 6
    assert at["mine at input: worst 2%"].x1 < at["mine at final: best 2%"].x0
    assert at["mine at input: best 2%"].y0 == at["mine at final: best 2%"].y0
    assert at["mine at input: best 2%"].y0 > at["other at input: best 2%"].y1
    assert pixels(figure, "mine at final: 5 to 50%").shape == (14, 14, 3)
    assert pixels(figure, "mine at input: 5 to 50%").shape == (32, 32, 3)
    assert {i.get_interpolation() for a in figure.axes[1:] for i in a.images} == {"nearest"}
    assert "Chance 0.25; attainable 1 (input), 0.965 (final)." in words(figure)


def test_what_is_not_known_is_not_said(words, random):
    said = words(aggregate({"mine": replace(random(), chance=math.nan, attainable=math.nan)}))
    assert "hance" not in said
    assert "ttainable" not in said


def test_only_maps_that_are_much_finer_than_a_panel_are_smoothed(random):
    for side, how in ((448, "hanning"), (224, "nearest")):
        figure = aggregate({"mine": random(2, side)})
        assert figure.axes[1].images[0].get_interpolation() == how


@pytest.mark.parametrize(("count", "methods", "layers"), [(1, 3, 1), (30, 3, 2), (30, 12, 3), (1, 1, 5)])
def test_nothing_lies_on_anything(methods, layers, count, check_layout, random):
    one = random(count)
    one = replace(one, scores=torch.where(torch.arange(count) == 1, torch.nan, one.scores))
    names = [
        "a method with a name that does not end when one thinks that it will",
        "x" * 60,
        *(f"m_{k}" for k in range(10)),
    ]
    stages = ["features.denseblock4.denselayer16.conv2", "y" * 70, "fc", "d", "e"]
    figure = aggregate({s: dict.fromkeys(names[:methods], one) for s in stages[:layers]}, title="A title. " * 30)
    inside(figure, check_layout)
    wide, high = figure.get_size_inches()
    assert wide <= WIDEST + 0.01
    assert high < 16  # also of 12 methods at 3 layers
    assert len(figure.axes) == 1 + 6 * methods * layers
    assert figure.axes[-1].get_position().width * wide <= MOST + 0.01


@pytest.mark.parametrize("size", [(4, 40), (40, 4)])
def test_maps_keep_their_shape(size, check_layout):
    figure = aggregate({"mine": found(torch.rand(30, *size, generator=torch.Generator().manual_seed(0)))})
    inside(figure, check_layout)
    box, (wide, high) = figure.axes[1].get_position(), figure.get_size_inches()
    assert box.height * high / (box.width * wide) == pytest.approx(size[0] / size[1])


def test_a_title_and_nothing_given_is_changed(words, random):
    one = random()
    before = one.maps.clone()
    one.maps.requires_grad_()
    assert "Only this." in words(aggregate({"mine": one}, title="Only this.", normalise=True))
    assert torch.equal(one.maps.detach(), before)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_bad_arguments(random):
    one = random()
    with pytest.raises(ValueError, match="there is no method"):
        aggregate({})
    with pytest.raises(ValueError, match="the layer 'input' has no method"):
        aggregate({"input": {}})
    with pytest.raises(ValueError, match="some values are methods and others are layers"):
        aggregate({"mine": one, "input": {"mine": one}})
    with pytest.raises(ValueError, match=r"mine has no map of the head 3; there are maps of: 0"):
        aggregate({"mine": one}, head=3)
    with pytest.raises(ValueError, match="mine at a has no map of the head -1"):
        aggregate({"a": {"mine": one}}, head=-1)
    with pytest.raises(ValueError, match="mine at a has 2 x 2 cells and other at b has 4 x 4"):
        aggregate({"a": {"mine": one}, "b": {"other": random(grid=4)}})
    for maps in (one.maps[:-1], one.maps[:, None], one.maps[..., :3], one.maps[..., :0]):
        with pytest.raises(ValueError, match=r"mine: the maps have shape \(.*; for 40 scores on 2 x 2 cells give"):
            aggregate({"mine": replace(one, maps=maps)})
    with pytest.raises(ValueError, match=r"give \(U,\) of both"):
        aggregate({"mine": replace(one, cells=one.cells[:-1])})
    with pytest.raises(ValueError, match=r"give \(U,\) of both"):
        aggregate({"mine": Found(one.maps[:0], one.scores[:0], one.cells[:0])})
    for shift in (4, -1):
        with pytest.raises(ValueError, match="from 0 to 3, row by row"):
            aggregate({"mine": replace(one, cells=torch.cat([one.cells[:-1], one.cells[-1:] + shift]))})
    for bad in (1.1, -0.1, math.inf):
        with pytest.raises(ValueError, match="a share from 0 to 1, or NaN"):
            aggregate({"mine": replace(one, scores=one.scores * 0 + bad)})
    for bad in (math.nan, math.inf):
        maps = one.maps.clone()
        maps[7, 1, 1] = bad
        with pytest.raises(ValueError, match="mine: maps that have a score hold NaN or infinite"):
            aggregate({"mine": replace(one, maps=maps)})
    with pytest.raises(ValueError, match="percentile=0"):
        aggregate({"mine": one}, percentile=0)


def test_few_maps_are_seen_in_bins_of_one_s_own():
    few = (0, 10, 35, 65, 90, 100)
    assert [len(b) for b in bins(torch.rand(12), torch.ones(12), few)] == [1, 3, 4, 3, 1]
    figure = aggregate({"noise": found(torch.rand(12, 4, 4))}, edges=few)
    labels = [axes.get_label() for axes in figure.axes]
    assert labels[1:] == [
        "noise: best 10%",
        "noise: 10 to 35%",
        "noise: 35 to 65%",
        "noise: 65 to 90%",
        "noise: worst 10%",
    ]
    for bad in ((0, 50), (5, 100), (0, 60, 40, 100), ()):
        with pytest.raises(ValueError, match="from 0 to 100"):
            aggregate({"noise": found(torch.rand(12, 4, 4))}, edges=bad)

import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Explanation
from attriscope.visualization import heatmap
from matplotlib.figure import Figure


def made(maps, inputs=None, method="occlusion", **more):
    n = len(maps)
    more = {"target": torch.arange(n), "output": "logit", **more}
    return Explanation(
        maps, maps, scores=torch.full((n,), 1.2345), forwards=torch.full((n,), 170), backwards=torch.full((n,), 3),
        seconds=2.5 * n, method=method, inputs=torch.full((n, 3, *maps.shape[2:]), 0.5) if inputs is None else inputs, **more,
    )


def halves(size=8):
    """Red above, blue below, nothing in the middle rows."""
    one = torch.zeros(1, 1, size, size)
    one[..., :3, :] = 1.0
    one[..., -3:, :] = -1.0
    return one


def test_it_says_all_that_is_needed(words):
    figure = heatmap(
        made(halves(), output="log_probability", params={"window": 4}), names=["photo.png"], classes=["ant", "bee"],
        probabilities=[0.25], predicted=[1],
    )
    assert isinstance(figure, Figure)
    said = words(figure)
    for part in (
        "occlusion", "window 4", "photo.png", "explained ant", "probability 0.25", "predicted bee", "log probability 1.23",
        "170 forwards + 3 backwards", "2.5 s", "for and against", "99th percentile of |map|, 1", "photograph",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("target", "said"),
    [(None, "a score of the caller's own"), (torch.tensor([[1, 2]]), "output (1, 2)"), (torch.tensor([7]), "class 7")],
)
def test_any_target_has_words(words, target, said):
    assert said in words(heatmap(made(halves(), target=target), classes={3: "x"}))


def test_time_is_per_image(words):
    assert words(heatmap(made(torch.randn(4, 1, 8, 8)))).count("2.5 s (mean per image)") == 4


def test_red_is_for_blue_is_against_and_nothing_is_grey(pixels):
    drawn = pixels(heatmap(made(halves()), bounds=(0, 1)), "image 0: map")
    assert (drawn[:3, :, 0] > drawn[:3, :, 2] + 0.2).all()
    assert (drawn[-3:, :, 2] > drawn[-3:, :, 0] + 0.2).all()
    assert np.ptp(drawn[3:5], axis=-1).max() < 1e-6
    np.testing.assert_allclose(drawn[3:5], 0.65)


def test_a_large_offset_is_taken_off_where_it_means_nothing(pixels, words):
    figure = heatmap(made(halves() * 0.01 + 5, method="rise"))
    drawn = pixels(figure, "image 0: map")
    assert (drawn[-3:, :, 2] > drawn[-3:, :, 0] + 0.2).all()
    assert (drawn[:3, :, 0] > drawn[:3, :, 2] + 0.2).all()
    assert "above and below its mean" in words(figure)
    assert "|map \N{MINUS SIGN} its mean|, 0.01" in words(figure)
    assert "below its mean" not in words(heatmap(made(halves() * 0.01 + 5)))


def test_magnitudes_are_not_called_for_and_against(words, pixels):
    maps = halves().abs()
    figure = heatmap(made(maps, method="saliency"))
    assert "importance, unsigned" in words(figure)
    assert "against" not in words(figure)
    bar = pixels(figure, "colour bar")
    assert (bar[..., 0] >= bar[..., 2] - 1e-6).all()
    assert "importance, unsigned" in words(heatmap(made(maps, method="input_x_gradient", params={"channels": "l2"})))
    assert "for and against" in words(heatmap(made(maps, method="input_x_gradient", params={"channels": "sum"})))
    assert "for and against" in words(heatmap(made(halves(), method="saliency", params={"channels": "sum"})))


def test_the_percentile_clips_and_is_said(words, pixels):
    maps = torch.full((1, 1, 10, 10), 0.1)
    maps[..., 0, 0] = 100.0
    at_all, at_most = heatmap(made(maps), percentile=90), heatmap(made(maps), percentile=100)
    assert "90th percentile of |map|, 0.1" in words(at_all)
    assert "100th percentile of |map|, 100" in words(at_most)
    red = [pixels(f, "image 0: map")[5, 5] for f in (at_all, at_most)]
    assert red[0][0] - red[0][2] > 0.2
    assert red[1][0] - red[1][2] < 0.02


@pytest.mark.parametrize(("value", "method"), [(0.0, "occlusion"), (0.3, "occlusion"), (0.3, "rise"), (0.1 + 1e-9, "rise")])
def test_a_constant_map_has_words_and_no_colours(words, pixels, value, method):
    figure = heatmap(made(torch.full((1, 1, 9, 7), value), method=method))
    assert "the map is constant" in words(figure)
    assert "colour bar" not in [a.get_label() for a in figure.axes]
    assert np.ptp(pixels(figure, "image 0: map"), axis=-1).max() < 1e-6


def test_rounding_is_no_map(words):
    maps = torch.full((1, 1, 9, 7), 0.3)
    maps[..., 2] = torch.nextafter(maps[..., 2], torch.tensor(1.0))
    assert "the map is constant" in words(heatmap(made(maps, method="rise")))


def test_a_map_with_nan_is_said_to_be_one(words, pixels):
    maps = torch.cat([halves(), halves()])
    maps[0, 0, 0, 0] = torch.nan
    figure = heatmap(made(maps))
    assert "NaN" in words(figure)
    assert np.isfinite(pixels(figure, "image 0: map")).all()
    assert np.ptp(pixels(figure, "image 1: map"), axis=-1).max() > 0.2


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels, pixels):
    figure = heatmap(made(halves(), torch.rand(1, channels, 8, 8)))
    plain = pixels(figure, "image 0: photograph")
    assert plain.shape == (8, 8, 3)
    assert np.ptp(plain, axis=-1).max() < 1e-6


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (1, 30), (30, 1)])
def test_pictures_keep_their_shape(shape):
    figure = heatmap(made(torch.randn(1, 1, *shape), torch.rand(1, 3, *shape)))
    width, height = figure.get_size_inches()
    for axes in figure.axes[:2]:
        box = axes.get_position()
        assert box.width * width / (box.height * height) == pytest.approx(shape[1] / shape[0], rel=1e-3)


def test_maps_with_channels_are_added_up(pixels):
    one = halves()
    three = torch.cat([-one, one, one], 1)
    np.testing.assert_allclose(pixels(heatmap(made(three)), "image 0: map"), pixels(heatmap(made(one)), "image 0: map"))


def test_a_native_map_is_resized_to_its_image(pixels):
    figure = heatmap(made(halves(), torch.rand(1, 3, 32, 24)))
    assert pixels(figure, "image 0: map").shape == (32, 24, 3)


def test_a_photograph_shows_what_the_model_saw(pixels, words):
    photograph = np.full((40, 60, 3), 0.5)
    figure = heatmap(made(halves()), photographs=[photograph], boxes=[(10, 5, 40, 35)])
    drawn = pixels(figure, "image 0: map")
    assert drawn.shape == (40, 60, 3)
    seen = drawn[5:35, 10:40]
    assert (seen[:9, :, 0] > seen[:9, :, 2] + 0.2).all()
    assert (seen[-9:, :, 2] > seen[-9:, :, 0] + 0.2).all()
    outside = np.ones((40, 60), bool)
    outside[5:35, 10:40] = False
    assert np.ptp(drawn[outside], axis=-1).max() < 1e-6
    assert drawn[outside].min() > 0.85
    assert seen[14, 0, 0] == pytest.approx(0.65, abs=0.02)
    assert "frame: what the model saw" in words(figure)
    frames = [p.get_bbox().bounds for p in figure.axes[1].patches]
    assert set(frames) == {(9.5, 4.5, 30, 30)}


def test_a_photograph_without_a_box_is_seen_whole(pixels):
    drawn = pixels(heatmap(made(halves()), photographs=[np.full((40, 60, 3), 0.5)]), "image 0: map")
    assert (drawn[:9, :, 0] > drawn[:9, :, 2] + 0.2).all()


def test_large_photographs_are_made_smaller_with_their_box(pixels):
    photograph = np.full((3000, 4000, 3), 0.5, dtype=np.float32)
    figure = heatmap(made(halves()), photographs=[photograph], boxes=[(1000, 0, 4000, 3000)])
    drawn = pixels(figure, "image 0: map")
    assert drawn.shape == (900, 1200, 3)
    assert drawn[:300, 310:, 0].min() > drawn[:300, 310:, 2].max()
    assert np.ptp(drawn[:, :299], axis=-1).max() < 1e-6


def test_images_without_inputs_can_be_drawn_over_photographs():
    found = made(halves())
    found.inputs = None
    assert heatmap(found, photographs=[np.zeros((8, 8, 3))]).axes
    with pytest.raises(ValueError, match=r"found.inputs = images"):
        heatmap(found)


def test_chosen_images_in_their_order(words):
    found = made(torch.randn(3, 1, 8, 8))
    figure = heatmap(found, images=[2, 0], names=["a", "b", "c"])
    assert [a.get_label() for a in figure.axes if a.get_label().endswith("map")] == ["c: map", "a: map"]
    assert "1 more image is not shown" in words(figure)
    assert "not shown" not in words(heatmap(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": [5]}, r"no image 5; there are 2, from 0: 0 \(image 0\)"),
        ({"images": [-1]}, "no image -1"),
        ({"images": []}, "no image is left"),
        ({"names": ["a"]}, "1 names for 2 images"),
        ({"predicted": [1]}, "1 predicted for 2"),
        ({"probabilities": [1.0]}, "1 probabilities for 2"),
        ({"photographs": [np.zeros((4, 4, 3))]}, "1 photographs for 2"),
        ({"photographs": [np.zeros((4, 4))] * 2}, r"\(H, W, 3\) in \[0, 1\]"),
        ({"photographs": [np.zeros((4, 4, 3), np.uint8)] * 2}, "uint8"),
        ({"photographs": [np.full((4, 4, 3), 255.0)] * 2}, "from 255 to 255"),
        ({"boxes": [(0, 0, 1, 1)] * 2}, "pass photographs"),
        ({"photographs": [np.zeros((4, 4, 3))] * 2, "boxes": [(0, 0, 5, 4)] * 2}, "the photograph is 4 x 4 pixels"),
        ({"photographs": [np.zeros((4, 4, 3))] * 2, "boxes": [(2, 0, 2, 4)] * 2}, r"\(left, top, right, bottom\)"),
        ({"photographs": [np.zeros((4, 4, 3))] * 2, "boxes": [(0, 0, 4)] * 2}, r"\(left, top, right, bottom\)"),
        ({"percentile": 0}, "percentile=0"),
        ({"percentile": 101}, "percentile=101"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        heatmap(made(torch.randn(2, 1, 8, 8)), **options)


@pytest.mark.parametrize("shape", [(2, 9), (2, 9, 4)])
def test_maps_of_tables_and_tokens_are_refused(shape):
    with pytest.raises(ValueError, match="maps of images"):
        heatmap(made(torch.randn(2, 1, 8, 8).new_zeros(shape), torch.zeros(shape)))


STRANGE = ["$\\nosuch_1$ & 100% of \\alpha_{2}", "line\nbreak\ttab", "犬 🐶 Ünïcödé", "a very long name " * 9, "x" * 150]


@pytest.mark.parametrize("text", STRANGE)
def test_strange_texts_are_drawn_as_they_are(text, check_layout, words):
    figure = heatmap(made(torch.randn(2, 1, 8, 8)), names=[text, text], classes=[text] * 2, predicted=[1, 0])
    check_layout(figure)
    figure.savefig(io.BytesIO())
    if "$" in text:
        assert words(figure).count(text) == 6


def test_the_callers_settings_do_not_matter():
    found = made(torch.randn(1, 1, 8, 8))
    plain = np.asarray(drawn(heatmap(found)))
    with mpl.rc_context({"font.size": 30, "text.usetex": True, "figure.dpi": 30, "figure.facecolor": "black"}):
        np.testing.assert_array_equal(drawn(heatmap(found)), plain)


def drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba()).copy()


def test_a_notebook_shows_it_without_pyplot():
    assert heatmap(made(halves()))._repr_png_().startswith(b"\x89PNG")


def test_a_real_explanation(network, images, check_layout):
    check_layout(heatmap(attribution.create("saliency", network).explain(images)))

import copy

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Explanation, Model
from attriscope.visualization import area_sweep
from attriscope.visualization._steps import ORANGE, spread, with_names
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from torch import nn

AREAS = (0.1, 0.4, 0.2)  # in no order, as a user may give them


def bright(x):
    """A class for what is bright in the middle, one for the rest, and one more."""
    middle = x[:, :, x.shape[2] // 4 : -(x.shape[2] // 4), x.shape[3] // 4 : -(x.shape[3] // 4)].mean((1, 2, 3))
    return torch.stack([8 * middle, 4 - x.mean((1, 2, 3)), 0 * middle], 1)


def made(size=(16, 24), channels=3, network=bright, count=2, target=0, **more):
    x = torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(0))
    options = {"areas": AREAS, "steps": 12, "jitter": False, "perturbation": "fade", **more}
    model = Model(network, bounds=None, batch_size=64)
    return attribution.create("extremal_perturbation", model, **options).explain(x, target)


@pytest.fixture(scope="module")
def kept():
    return made()


def known(found, variant="preserve", *, rewards=(3.0, 9.0, 6.0), whole=10.0, hidden=-2.0, minimal=0.2):
    """The same explanation with numbers that are known, for areas of 10, 40 and 20 percent."""
    found = copy.deepcopy(found)
    found.params["variant"] = variant
    for key, value in (("rewards", list(rewards)), ("whole", whole), ("hidden", hidden), ("minimal_area", minimal)):
        found.details[key] = torch.tensor([value, value])
    return found


def axes_of(figure, label):
    return next(a for a in figure.axes if a.get_label() == label)


def line(figure, label="score"):
    return next(one for one in axes_of(figure, "curve").lines if one.get_label() == label)


def heights(figure):
    """Of the horizontal lines, by colour."""
    flat = [one for one in axes_of(figure, "curve").lines if list(one.get_xdata()) == [0, 1]]
    return {to_hex(one.get_color()): one.get_ydata()[0] for one in flat}


def framed(figure):
    return [a.get_label() for a in figure.axes if a.patches]


def test_it_says_all_that_is_needed(kept, words, check_layout):
    figure = area_sweep(kept, 1, name="photo.png", classes=["ant", "bee", "cat"])
    check_layout(figure)
    said = words(figure)
    for part in ("extremal_perturbation of photo.png", "explained: ant, logit", "variant preserve", "perturbation fade",
                 "threshold 0.5", f"{int(kept.forwards[1])} forwards", "In full: what a mask keeps", "as the mean",
                 "10% kept", "whole image:", "hidden image:", "enough above the threshold:", "logit of what is kept",
                 "percent of the image"):  # fmt: skip
        assert part in said, part
    assert [a.get_label() for a in figure.axes] == ["image", "10%", "20%", "40%", "curve", "names"]


def test_the_curve_is_the_rewards_in_order_of_area(kept):
    figure = area_sweep(kept, 1)
    np.testing.assert_allclose(line(figure).get_xdata(), [10, 20, 40], rtol=1e-6)  # areas are float32
    wanted = kept.details["rewards"][1][[0, 2, 1]]
    np.testing.assert_allclose(line(figure).get_ydata(), wanted.numpy(), rtol=1e-6)
    found = heights(figure)
    assert found["#000000"] == pytest.approx(float(kept.details["whole"][1]))
    assert found["#595959"] == pytest.approx(float(kept.details["hidden"][1]))
    assert axes_of(figure, "curve").get_xscale() == "log"


def test_numbers_stand_at_their_own_pictures_and_lines(kept, words):
    said = words(area_sweep(known(kept)))
    for part in ("the image logit 10.0", "10% kept logit 3.00", "20% kept logit 6.00", "40% kept logit 9.00",
                 "whole image: 10.0", "hidden image: \N{MINUS SIGN}2.00", "enough above the threshold: 4.00"):  # fmt: skip
        assert part in said, part


def test_the_minimal_area_is_marked_everywhere(kept, words):
    figure = area_sweep(known(kept))
    assert framed(figure) == ["20%"]
    np.testing.assert_allclose(line(figure, "minimal area").get_xydata(), [[20, 6]], rtol=1e-6)
    ticks = {t.get_text(): to_hex(t.get_color()) for t in axes_of(figure, "curve").get_xticklabels()}
    assert ticks == {"10%": "#000000", "20%\nminimal area": ORANGE.lower(), "40%": "#000000"}
    said = words(figure)
    assert "Minimal area: 20%, the smallest mask here that keeps the logit at 4.00 or higher." in said
    marked = [t.get_text() for t in figure.texts if t.get_color() == ORANGE]
    assert "minimal area" in marked
    assert "20% kept" in marked
    assert "10% kept" not in marked


def test_what_the_masks_earn_and_what_is_minimal_agree(kept):
    figure = area_sweep(kept)  # of the search itself, and not of numbers made up
    enough = line(figure).get_ydata() >= heights(figure)[ORANGE.lower()]
    first = ["10%", "20%", "40%"][int(np.argmax(enough))]
    assert enough.any()
    assert framed(figure) == [first]


@pytest.mark.parametrize(("threshold", "variant", "wanted"), [
    (0.25, "preserve", 1.0), (0.25, "delete", 7.0), (0.25, "dual", -6.0), (0.75, "delete", 1.0),
])  # fmt: skip
def test_the_threshold_is_a_part_of_the_way(kept, threshold, variant, wanted):
    found = known(kept, variant)
    found.params["threshold"] = threshold
    assert heights(area_sweep(found))[ORANGE.lower()] == pytest.approx(wanted)


def test_what_is_hidden_is_faded(kept, pixels):
    found = copy.deepcopy(kept)
    found.inputs = torch.zeros_like(found.inputs)
    found.inputs[:, 0] = 1  # red
    masks = torch.zeros_like(found.details["masks"])
    masks[:, 1, :, :12] = 1  # of 40 percent
    found.details["masks"] = masks
    drawn = pixels(area_sweep(found, bounds=(0, 1)), "40%")
    np.testing.assert_allclose(drawn[:, :12], np.broadcast_to([1, 0, 0], (16, 12, 3)), atol=1e-6)
    assert np.ptp(drawn[:, 12:], axis=-1).max() < 1e-6  # grey
    assert drawn[:, 12:].min() > 0.8
    assert pixels(area_sweep(found, bounds=(0, 1)), "10%").min() > 0.8  # another mask

    found.params["variant"] = "delete"
    turned = pixels(area_sweep(found, bounds=(0, 1)), "40%")
    np.testing.assert_allclose(turned[:, ::-1], drawn, atol=1e-6)


def test_a_mask_has_an_outline_where_it_is_one_half(kept):
    found = copy.deepcopy(kept)
    masks = torch.zeros_like(found.details["masks"])
    masks[:, 1, :, :12] = 1
    found.details["masks"] = masks
    figure = area_sweep(found)
    lines = axes_of(figure, "40%").collections
    assert len(lines) == 2  # white below black
    assert all(np.allclose(one.get_paths()[0].vertices[:, 0], 11.5) for one in lines)
    assert not axes_of(figure, "20%").collections
    assert axes_of(figure, "40%").get_xlim() == (-0.5, 23.5)
    assert axes_of(figure, "40%").get_ylim() == (15.5, -0.5)


def test_delete_flips_the_sign_and_the_words(kept, words, check_layout):
    figure = area_sweep(known(kept, "delete", rewards=(-9.0, -1.0, -5.0), minimal=0.4))
    check_layout(figure)
    np.testing.assert_allclose(line(figure).get_ydata(), [9, 5, 1])
    said = words(figure)
    for part in ("20% deleted logit 5.00", "logit of what is left without the mask", "Faded: what a mask deletes",
                 "enough below the threshold: 4.00", "Minimal area: 40%", "brings the logit to 4.00 or lower"):  # fmt: skip
        assert part in said.replace("\n", " "), part
    assert framed(figure) == ["40%"]


def test_dual_says_that_it_is_a_difference(kept, words, check_layout):
    figure = area_sweep(known(kept, "dual"))
    check_layout(figure)
    assert heights(figure) == {"#000000": 12.0, "#595959": -12.0, ORANGE.lower(): 0.0}
    said = words(figure).replace("\n", " ")
    for part in ("20% kept difference 6.00", "the image logit 10.0", "logit of what is kept, less that of the rest",
                 "all kept, nothing left: 12.0", "brings the difference to 0.00 or higher"):  # fmt: skip
        assert part in said, part


def test_contrastive_says_that_it_is_a_lead(words, check_layout):
    figure = area_sweep(made(reward="contrastive", output="probability"))
    check_layout(figure)
    said = words(figure).replace("\n", " ")
    assert "10% kept lead in probability " in said
    assert "lead in probability over the best other class of what is kept" in said


def test_without_a_minimal_area_it_says_why(kept, words, check_layout):
    figure = area_sweep(known(kept, rewards=(1.0, 3.0, 2.0), minimal=np.nan))
    check_layout(figure)
    assert "No minimal area: no mask of these keeps the logit at 4.00 or higher. Try larger areas" in words(figure)
    assert framed(figure) == []
    assert "No minimal area" in words(figure)
    assert words(figure).count("minimal area") == 1
    assert len(heights(figure)) == 3

    figure = area_sweep(known(kept, whole=-2.0, hidden=10.0, minimal=np.nan))
    check_layout(figure)
    assert "scores as high as it does whole, or higher, so that no area is enough" in words(figure)
    assert set(heights(figure)) == {"#000000", "#595959"}  # nothing is enough


@pytest.mark.parametrize("numbers", [
    {"whole": 1.0, "hidden": 0.99}, {"whole": -1e-6, "hidden": -2e-6}, {"whole": 12345.6, "hidden": -98765.4},
    {"whole": 6.01, "hidden": 5.99}, {"whole": 0.0, "hidden": 0.0, "rewards": (0.0, 0.0, 0.0), "minimal": np.nan},
    {"whole": -3.0, "hidden": -np.inf, "rewards": (-np.inf, -4.0, -5.0)}, {"whole": 6.0, "hidden": 3.0},
])  # fmt: skip
@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_lines_that_are_near_or_far_keep_their_names_apart(kept, numbers, variant, check_layout, words):
    figure = area_sweep(known(kept, variant, **numbers))
    check_layout(figure)
    finite = bool(np.isfinite(numbers["hidden"]))  # a log probability may not be, and has no place in the plot
    assert (("nothing kept" if variant == "dual" else "hidden image:") in words(figure)) == finite
    assert np.isfinite(list(heights(figure).values())).all()
    assert ("says nothing: explain output='logit'" in words(figure)) != finite
    if not finite:
        assert "nan or" not in words(figure)


def test_names_stand_at_their_lines(kept):
    figure = area_sweep(known(kept))
    place, (low, high) = axes_of(figure, "curve").get_position(), axes_of(figure, "curve").get_ylim()
    for start, value in (("whole image", 10.0), ("hidden image", -2.0), ("enough above", 4.0)):
        text = next(t for t in figure.texts if t.get_text().startswith(start))
        at = place.y0 + (value - low) / (high - low) * place.height
        assert abs(text.get_position()[1] - at) * figure.get_size_inches()[1] < 0.15  # inches: a line of text
        assert text.get_position()[0] > place.x1


def test_every_image_has_its_own_pictures(kept, pixels):
    first, second = area_sweep(kept, 0, bounds=(0, 1)), area_sweep(kept, 1, bounds=(0, 1))
    for figure, i in ((first, 0), (second, 1)):
        np.testing.assert_allclose(pixels(figure, "image"), kept.inputs[i].permute(1, 2, 0).numpy(), atol=1e-6)
    found = copy.deepcopy(kept)
    found.details["masks"][0], found.details["masks"][1] = 1, 0
    np.testing.assert_allclose(pixels(area_sweep(found, 0), "10%"), pixels(area_sweep(found, 0), "image"), atol=1e-6)
    assert pixels(area_sweep(found, 1), "10%").min() > 0.75


def test_long_names_of_scores_do_not_reach_into_pictures():
    areas = tuple(k / 13 for k in range(1, 13))
    figure = area_sweep(
        made(areas=areas, steps=2, count=1, reward="contrastive", output="log_probability", variant="dual")
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    pictures = [a.get_window_extent(renderer) for a in figure.axes if a.images]
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert not any(box.overlaps(picture) for picture in pictures), text.get_text()


def test_scores_that_are_much_alike_have_more_digits(kept, words):
    said = words(area_sweep(known(kept, rewards=(7.0012, 7.0031, 7.0024), whole=7.004, hidden=7.001)))
    assert "10% kept logit 7.00120" in said
    assert "whole image: 7.00400" in said


@pytest.mark.parametrize("areas", [(0.3,), (0.3, 0.05), tuple(k / 13 for k in range(1, 13)), (0.5, 0.501, 0.502),
                                   (0.001, 0.99)])  # fmt: skip
@pytest.mark.parametrize("size", [(12, 20), (20, 12)])
def test_any_number_of_areas(areas, size, check_layout):
    figure = area_sweep(made(size, areas=areas, steps=3, count=1))
    check_layout(figure)
    assert len(figure.axes) == len(areas) + 3
    assert len(line(figure).get_xdata()) == len(areas)
    inside = [a.get_position() for a in figure.axes]
    assert all(0 <= p.x0 < p.x1 <= 1 and 0 <= p.y0 < p.y1 <= 1 for p in inside)
    apart = [(a, b) for k, a in enumerate(inside) for b in inside[:k]]
    assert not any(a.x0 < b.x1 - 1e-9 and b.x0 < a.x1 - 1e-9 and a.y0 < b.y1 - 1e-9 and b.y0 < a.y1 - 1e-9
                   for a, b in apart)  # fmt: skip


@pytest.mark.parametrize("size", [(120, 200), (200, 120), (8, 60), (60, 8)])
def test_pictures_keep_the_shape_of_the_image(size, check_layout, pixels):
    figure = area_sweep(made(size, steps=2, count=1, channels=1, areas=(0.1, 0.3)))
    check_layout(figure)
    wide, high = figure.get_size_inches()
    for label in ("image", "10%", "30%"):
        place = axes_of(figure, label).get_position()
        assert place.height * high / (place.width * wide) == pytest.approx(size[0] / size[1])
        assert pixels(figure, label).shape == (*size, 3)


def test_masks_of_an_inner_layer_are_enlarged(words, check_layout, pixels):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    found = made((16, 16), network=network.eval(), layer="1")
    assert found.details["masks"].shape[2:] == (8, 8)
    found.details["masks"] = torch.zeros_like(found.details["masks"])
    found.details["masks"][:, 1, :, :4] = 1
    figure = area_sweep(found)
    check_layout(figure)
    assert "layer 1's activation, enlarged to the image" in words(figure)
    assert pixels(figure, "40%").shape == (16, 16, 3)
    outline = axes_of(figure, "40%").collections[0].get_paths()[0].vertices
    assert np.allclose(outline[:, 0], 7.5)  # the middle stays there
    found.inputs = torch.zeros_like(found.inputs)
    drawn = pixels(area_sweep(found, bounds=(0, 1)), "40%")[0, :, 0]
    np.testing.assert_allclose(drawn[5:11], 0.8 * np.array([0, 0, 0.25, 0.75, 1, 1]), atol=1e-6)


def test_a_frame_around_the_image_is_named(kept, words):
    found = copy.deepcopy(kept)
    found.params["area_of"] = "padded"
    assert "percent of the image with its frame" in words(area_sweep(found))


def test_a_score_of_the_callers_own_and_what_was_saved(kept, words, check_layout, tmp_path):
    figure = area_sweep(made(target=lambda outputs: outputs[:, 0]))
    check_layout(figure)
    assert "a score of the caller's own" in words(figure)
    again = Explanation.load(kept.save(tmp_path / "kept.safetensors"))
    again.inputs = kept.inputs
    assert words(area_sweep(again)) == words(area_sweep(kept))


def test_names_are_moved_no_further_than_they_must():
    assert spread([0.0, 1.0], [0.3, 0.3], 3.0) == [0.0, 1.0]
    np.testing.assert_allclose(spread([1.0, 1.1, 2.9], [0.3, 0.3, 0.3], 3.0), [1.0, 1.3, 2.7])
    np.testing.assert_allclose(spread([2.8, 2.8, 2.8], [0.3, 0.6, 0.3], 3.0), [1.8, 2.1, 2.7])


def test_areas_without_room_are_not_named_but_the_minimal_one_is():
    places = np.array([0.0, 0.2, 0.6, 0.7, 2.0])
    assert with_names(places, None) == [0, 2, 4]
    assert with_names(places, 3) == [0, 3, 4]


def test_only_masks_of_places_can_be_drawn():
    x = torch.rand(1, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ValueError, match=r"draws what extremal_perturbation found, not saliency: .* with heatmap"):
        area_sweep(attribution.create("saliency", network).explain(x))
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="maps from elsewhere"):
        area_sweep(Explanation(x, x, None, one, one.long(), one.long(), 0.1))
    channels = attribution.create("extremal_perturbation", network, steps=2, layer="0", over="channels").explain(x)
    with pytest.raises(ValueError, match=r"a layer's channels: explain with over='space'.* with heatmap"):
        area_sweep(channels)


def test_bad_arguments(kept):
    with pytest.raises(ValueError, match="no image 2; there are 2"):
        area_sweep(kept, 2)
    found = copy.deepcopy(kept)
    found.inputs = None
    with pytest.raises(ValueError, match=r"found.inputs = images"):
        area_sweep(found)

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from attriscope.visualization import cascade
from attriscope.visualization.cascade import ACROSS, WIDEST
from matplotlib.figure import Figure

STAGES = ["fc", "layer4", "layer3"]


@pytest.fixture
def image():
    return torch.rand(3, 8, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    """A signed and an unsigned method over three stages."""
    generator = torch.Generator().manual_seed(0)
    return {
        "mine": torch.randn(4, 8, 6, generator=generator),
        "other": torch.rand(4, 8, 6, generator=generator),
    }


def labels_of(figure):
    return [a.get_label() for a in figure.axes]


def place(figure, label):
    """Left, top, width and height in inches."""
    box = next(a for a in figure.axes if a.get_label() == label).get_position()
    wide, high = figure.get_size_inches()
    return np.array([box.x0 * wide, (1 - box.y1) * high, box.width * wide, box.height * high])


def texts_below(figure, label):
    """What stands between a panel and the next row, in its column."""
    left, top, width, height = place(figure, label)
    wide, high = figure.get_size_inches()
    found = [(t.get_text(), t.get_position()) for t in figure.texts]
    return [
        text
        for text, (x, y) in found
        if left - 0.01 <= x * wide < left + width and 0 < (1 - y) * high - top - height < 0.2
    ]


def apart(figure, check_layout):
    """No panel lies on another, none on a text that is not its own, and nothing is cut."""
    check_layout(figure)
    boxes = [a.get_position() for a in figure.axes]
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in boxes)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    for text in figure.texts:
        at = text.get_position()
        inside = [a for a in figure.axes if a.get_position().contains(*at)]
        assert not inside or text.get_text() in ("all zero", "the same", "everywhere", "the same everywhere")


def test_rows_are_methods_and_columns_are_stages(image, maps, words, check_layout):
    figure = cascade(image, maps, stages=STAGES, label="tench")
    assert isinstance(figure, Figure)
    apart(figure, check_layout)
    assert labels_of(figure) == ["image", "colour bar", *(f"{m}: {s}" for m in maps for s in ("trained", *STAGES))]
    for method in maps:
        row = [place(figure, f"{method}: {s}") for s in ("trained", *STAGES)]
        assert all(a[0] + a[2] < b[0] and a[1] == b[1] for a, b in itertools.pairwise(row))
    first, second = (place(figure, f"{m}: fc") for m in maps)
    assert first[0] == second[0]
    assert first[1] + first[3] < second[1]
    said = words(figure)
    for part in ("Maps that explain tench while the network is randomised, layer by layer", "own scale", "White is 0",
                 "99th percentile", "mine", "other", "trained", *STAGES, "for and against", "importance, unsigned",
                 "against", "for / important"):  # fmt: skip
        assert part in said, part
    assert "similarity" not in said
    assert "Only this." in words(cascade(image, maps, stages=STAGES, title="Only this."))


def test_names_stand_over_their_columns(image, maps):
    stages = ["fc", "features.denseblock4.denselayer16.conv2.weight and its bias", "layer3"]
    figure = cascade(image, maps, stages=stages)
    wide, high = figure.get_size_inches()
    for name, last in (("trained", "trained"), ("fc", "fc"), (stages[1], "bias"), ("layer3", "layer3")):
        x, y = next(t.get_position() for t in figure.texts if t.get_text().endswith(last))
        left, top, *_ = place(figure, f"mine: {name}")
        assert x * wide == pytest.approx(left)
        assert 0 < top - (1 - y) * high < 0.15


def test_every_map_has_the_full_colour_however_small_it_is(image, maps, pixels):
    scales = torch.tensor([1, 1e-10, 1e-60, 1e30], dtype=torch.float64)[:, None, None]
    one = maps["mine"][:1].double() * scales
    figure = cascade(image, {"mine": one, "raised": maps["mine"][:1].double().abs() * scales}, stages=STAGES)
    for method in ("mine", "raised"):
        first = pixels(figure, f"{method}: trained")
        assert first.min() < 0.5  # in colour
        for stage in STAGES:
            np.testing.assert_allclose(pixels(figure, f"{method}: {stage}"), first, atol=1e-6)


def test_red_is_for_blue_is_against_and_white_is_zero(image, pixels):
    ramp = torch.zeros(2, 8, 6)
    ramp[:, 0], ramp[:, 7] = 2.0, -2.0
    ramp[1] *= -3
    figure = cascade(image, {"mine": ramp}, stages=["fc"])
    # the ends that every figure's colours have, 85% of them over white
    red, blue = (1 - 0.85 * (1 - np.array(mpl.colormaps["RdBu_r"](at)[:3])) for at in (0.95, 0.05))
    for label, top, low in (("mine: trained", red, blue), ("mine: fc", blue, red)):
        drawn = pixels(figure, label)
        assert drawn.shape == (8, 6, 3)
        assert (drawn[1:7] == 1).all()
        np.testing.assert_allclose(drawn[0], np.broadcast_to(top, (6, 3)), atol=1e-6)
        np.testing.assert_allclose(drawn[7], np.broadcast_to(low, (6, 3)), atol=1e-6)
    bar = pixels(figure, "colour bar")[0]
    assert bar[0, 2] > bar[0, 0]
    assert bar[-1, 0] > bar[-1, 2]
    assert bar[127:129].min() > 0.99


def test_unsigned_maps_have_one_colour(image, maps, pixels, words):
    figure = cascade(image, {"other": maps["other"]}, stages=STAGES)
    bar = pixels(figure, "colour bar")[0]
    assert (bar[0] == 1).all()
    assert (np.diff(bar[:, 2]) <= 1e-6).all()
    drawn = pixels(figure, "other: fc")
    assert (drawn[..., 0] >= drawn[..., 2]).all()
    assert "against" not in words(figure)


def test_the_percentile_gets_the_full_colour(image, pixels, words):
    ramp = torch.linspace(0, 1, 48).reshape(1, 8, 6).repeat(2, 1, 1)
    half = pixels(cascade(image, {"mine": ramp}, stages=["fc"], percentile=50), "mine: fc").reshape(-1, 3)
    np.testing.assert_allclose(half[24:], np.broadcast_to(half[-1], (24, 3)))
    figure = cascade(image, {"mine": ramp}, stages=["fc"], percentile=100)
    whole = pixels(figure, "mine: fc").reshape(-1, 3)
    assert (np.diff(whole[:, 1]) < 0).all()
    assert "the largest value of its |map|" in words(figure)


def test_a_map_that_says_nothing_is_white_and_says_so(image, maps, pixels, check_layout):
    one = maps["mine"].clone()
    one[1], one[2], one[3] = 0, 0.3, -1e-12
    figure = cascade(image, {"mine": one}, stages=STAGES)
    apart(figure, check_layout)
    wide, high = figure.get_size_inches()
    for stage, why in zip(STAGES, ("all zero", "the same everywhere", "the same everywhere"), strict=True):
        assert (pixels(figure, f"mine: {stage}") == 1).all()
        left, top, width, height = place(figure, f"mine: {stage}")
        inside = [
            t.get_text()
            for t in figure.texts
            if 0 < t.get_position()[0] * wide - left < width and 0 < (1 - t.get_position()[1]) * high - top < height
        ]
        assert " ".join(inside) == why
    assert pixels(figure, "mine: trained").min() < 0.9


def test_similarities_stand_below_their_panels(image, maps, words, check_layout):
    given = {"mine": torch.tensor([0.456, -0.004, float("nan")]), "other": [1, -0.12, 0.999]}
    figure = cascade(image, maps, stages=STAGES, similarities=given, how="SSIM")
    apart(figure, check_layout)
    assert "similarity to the trained network's map (SSIM)" in words(figure)
    for method, expected in (
        ("mine", ["0.46", "0.00", "undefined"]),
        ("other", ["1.00", "\N{MINUS SIGN}0.12", "1.00"]),
    ):
        for stage, text in zip(STAGES, expected, strict=True):
            assert texts_below(figure, f"{method}: {stage}") == [text]
        assert texts_below(figure, f"{method}: trained") == []
    figure = cascade(image, maps, stages=STAGES, similarities={"other": [0.1, 0.2, 0.3]})
    assert texts_below(figure, "mine: fc") == []
    assert texts_below(figure, "other: fc") == ["0.10"]


@pytest.mark.parametrize("count", [1, ACROSS - 1, ACROSS])
def test_many_stages_take_more_rows_and_each_starts_with_the_trained_map(count, image, check_layout):
    stages = [f"_blocks.{k} to _conv_head" for k in range(count)]
    maps = {m: torch.randn(count + 1, 1, 8, 6, generator=torch.Generator().manual_seed(0)) for m in ("a", "b")}
    figure = cascade(image[None], maps, stages=stages, similarities={m: [0.0] * count for m in maps})
    apart(figure, check_layout)
    bands = 1 if count < ACROSS else 2
    assert labels_of(figure).count("a: trained") == bands
    assert [x for x in labels_of(figure) if x.startswith("a: _")] == [f"a: {s}" for s in stages]
    assert figure.get_size_inches()[0] <= WIDEST + 0.01
    assert place(figure, f"b: {stages[-1]}")[2] >= 0.9


@pytest.mark.parametrize("size", [(4, 40), (40, 4), (16, 16)])
def test_any_shape_and_names_of_any_length(size, check_layout):
    generator = torch.Generator().manual_seed(0)
    names = ["a method with a name that does not end when one thinks that it will", "x" * 60, "guided_backprop", "d"]
    maps = {m: torch.randn(7, *size, generator=generator) for m in names}
    maps["d"][2:] = 0
    maps["d"][4] = 1
    stages = ["features.denseblock4.denselayer16.conv2", "y" * 70, "fc", "_blocks.11 to _conv_head", "b" * 12, "网络"]
    image = torch.rand(1, *size, generator=generator)
    numbers = {m: [float("nan")] * 6 for m in names}
    figure = cascade(image, maps, stages=stages, similarities=numbers, label="a label " * 30)
    check_layout(figure)
    assert [t.get_text() for t in figure.texts].count("undefined") == 24
    for label in labels_of(figure)[2:]:
        width, height = place(figure, label)[2:]
        assert height / width == pytest.approx(size[0] / size[1])


def test_the_image_is_as_it_was_seen(image, maps, pixels):
    drawn = pixels(cascade(image, maps, stages=STAGES, bounds=(0, 1)), "image")
    np.testing.assert_allclose(drawn, image.permute(1, 2, 0).numpy(), atol=1e-6)
    stretched = pixels(cascade(image * 0.5, maps, stages=STAGES), "image")
    assert stretched.min() == 0
    assert stretched.max() == 1


def test_nothing_given_is_changed(image, maps):
    before = {m: one.clone() for m, one in maps.items()}
    cascade(image, maps, stages=STAGES)
    for method, one in maps.items():
        assert torch.equal(one, before[method])


def test_bad_arguments(image, maps):
    with pytest.raises(ValueError, match="0 methods and 3 stages"):
        cascade(image, {}, stages=STAGES)
    with pytest.raises(ValueError, match="1 methods and 0 stages"):
        cascade(image, {"mine": maps["mine"][:1]}, stages=[])
    with pytest.raises(ValueError, match=r"mine have shape \(4, 8, 6\): for 2 stages .* 8 x 6 pixels give \(3, 8, 6\)"):
        cascade(image, maps, stages=["a", "b"])
    with pytest.raises(ValueError, match=r"mine have shape \(4, 8, 5\)"):
        cascade(image, {"mine": maps["mine"][..., :5]}, stages=STAGES)
    with pytest.raises(ValueError, match=r"mine have shape \(4, 3, 8, 6\)"):
        cascade(image, {"mine": maps["mine"][:, None].expand(-1, 3, -1, -1)}, stages=STAGES)
    for bad in (torch.nan, torch.inf):
        one = maps["mine"].clone()
        one[2, 3, 3] = bad
        with pytest.raises(ValueError, match="mine hold NaN or infinite"):
            cascade(image, {"mine": one}, stages=STAGES)
        with pytest.raises(ValueError, match="the image holds NaN or infinite"):
            cascade(image * bad, maps, stages=STAGES)
    for wrong in (image[0], image[None].expand(2, -1, -1, -1), image[:, :0]):
        with pytest.raises(ValueError, match="give one image"):
            cascade(wrong, maps, stages=STAGES)
    with pytest.raises(ValueError, match="similarities of 'mime', and maps of: mine, other"):
        cascade(image, maps, stages=STAGES, similarities={"mime": [0, 0, 0]})
    with pytest.raises(ValueError, match=r"similarities of mine have shape \(4,\): give one for each of 3 stages"):
        cascade(image, maps, stages=STAGES, similarities={"mine": [1, 0, 0, 0]})
    with pytest.raises(ValueError, match="percentile=0"):
        cascade(image, maps, stages=STAGES, percentile=0)

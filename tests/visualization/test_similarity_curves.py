import numpy as np
import pytest
import torch
from attriscope.metrics.statistics import interval
from attriscope.visualization import similarity_curves
from attriscope.visualization._style import GREY, SMALL
from attriscope.visualization.similarity_curves import INKS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

STAGES = ["fc", "layer4", "layer3"]


def made(*means, images=12, seed=0):
    """Similarities `(images, stages)` around means."""
    return np.asarray(means) + np.random.default_rng(seed).normal(0, 0.05, (images, len(means)))


@pytest.fixture
def curves():
    return {"mine": made(0.6, 0.3, 0.05), "other": made(0.9, 0.8, 0.7, seed=1), "edge": made(0.5, 0.5, 0.5, seed=2)}


def plot(figure):
    return next(a for a in figure.axes if a.get_label() == "similarity")


def line(figure, label):
    return next(one for one in plot(figure).lines if one.get_label() == label)


def labels_of(figure):
    return [one.get_label() for one in plot(figure).lines]


def bars(figure, of):
    """The ends of the bars in a method's colour, `(stages, 2)`."""
    colour = line(figure, of).get_color()
    found = [c for c in plot(figure).collections if to_hex(c.get_colors()[0]) == to_hex(colour)]
    return np.array([path.vertices for c in found for path in c.get_paths()])


def ticks(figure):
    return [t.get_text().replace("\n", "") for t in plot(figure).get_xticklabels()]


def height(figure, name):
    """The height of a name at the right, in the plot's units."""
    text = next(t for t in figure.texts if t.get_text() == name)
    box = plot(figure).get_position()
    low, high = plot(figure).get_ylim()
    return low + (text.get_position()[1] - box.y0) / box.height * (high - low)


def test_lines_are_means_and_bars_their_intervals(curves, words, check_layout):
    figure = similarity_curves(curves, stages=STAGES)
    assert isinstance(figure, Figure)
    check_layout(figure)
    for method, own in curves.items():
        np.testing.assert_allclose(line(figure, method).get_ydata(), own.mean(0))
        np.testing.assert_allclose(line(figure, method).get_xdata(), [1, 2, 3], atol=0.25)
        low, high = interval(own)
        np.testing.assert_allclose(bars(figure, method)[..., 1], np.stack([low, high], 1))
        np.testing.assert_allclose(
            bars(figure, method)[..., 0], np.repeat(line(figure, method).get_xdata()[:, None], 2, 1)
        )
    assert ticks(figure) == STAGES
    said = words(figure)
    for part in ("How similar maps stay to the trained network's", "mean over 12 images", "95% bootstrap interval",
                 "similarity to the trained network's map (Spearman)", "what is named, and all that is named before it",
                 *curves):  # fmt: skip
        assert part in said, part
    for part in ("ceiling", "floor", "controls", "Undefined", "nan"):
        assert part not in said, part


def test_methods_are_set_side_by_side(curves):
    figure = similarity_curves(curves, stages=STAGES)
    xs = [line(figure, m).get_xdata()[1] for m in curves]
    assert xs[0] < xs[1] < xs[2]
    assert np.mean(xs) == pytest.approx(2)
    many = {f"m{k}": made(0.5, 0.4, seed=k) for k in range(30)}
    figure = similarity_curves(many, stages=["a", "b"])
    xs = [line(figure, m).get_xdata()[0] for m in many]
    assert np.ptp(xs) < 0.5  # no bar is nearer to another stage


def test_a_line_starts_at_its_ceiling(curves, words, check_layout):
    ceiling = {"mine": torch.full((12,), 0.9), "other": np.ones(12)}
    figure = similarity_curves(curves, stages=STAGES, ceiling=ceiling)
    check_layout(figure)
    assert ticks(figure) == ["trained", *STAGES]
    for method, top in (("mine", 0.9), ("other", 1.0)):
        one = line(figure, method)
        np.testing.assert_allclose(one.get_ydata(), [top, *curves[method].mean(0)], rtol=1e-6)
        assert one.get_xdata()[0] == pytest.approx(0, abs=0.25)
        assert one.get_marker() == "o"
    assert np.isnan(line(figure, "edge").get_ydata()[0])
    assert "two maps of the trained network, the ceiling" in words(figure)


def test_floors_that_differ_are_dotted_lines_at_the_end(curves, words, check_layout):
    floor = {"mine": np.full(12, 0.02), "other": np.full(12, 0.4)}
    figure = similarity_curves(curves, stages=STAGES, floor=floor)
    check_layout(figure)
    for method, value in (("mine", 0.02), ("other", 0.4)):
        one = line(figure, f"floor of {method}")
        assert one.get_ydata() == pytest.approx([value, value])
        assert one.get_color() == line(figure, method).get_color()
        left, right = one.get_xdata()
        assert 2.5 < left < 3 < right < plot(figure).get_xlim()[1]
    assert "floor of edge" not in labels_of(figure)
    assert not any(p.get_label() == "floor" for p in plot(figure).patches)
    assert "Dotted: maps of two random networks, the floor." in words(figure)


def test_floors_that_are_alike_are_one_band(curves, words):
    rng = np.random.default_rng(0)
    floor = {m: rng.normal(0.02 * k, 0.03, 12) for k, m in enumerate(curves)}
    figure = similarity_curves(curves, stages=STAGES, floor=floor)
    band = next(p for p in plot(figure).patches if p.get_label() == "floor")
    ends = np.array([interval(f) for f in floor.values()])
    assert band.get_y() == pytest.approx(ends.min())
    assert band.get_y() + band.get_height() == pytest.approx(ends.max())
    assert not any(label.startswith("floor of") for label in labels_of(figure))
    assert "Grey band: maps of two random networks, the floor." in words(figure)


def test_controls_are_grey_and_dashed(curves, words):
    plain = similarity_curves(curves, stages=STAGES)
    figure = similarity_curves(curves, stages=STAGES, controls=["edge"])
    assert line(figure, "edge").get_color() == GREY
    assert line(figure, "edge").get_linestyle() == "--"
    for method in ("mine", "other"):
        assert line(figure, method).get_color() == line(plain, method).get_color() != GREY
        assert line(figure, method).get_linestyle() == "-"
    assert "controls, which know nothing of the network" in words(figure)
    assert next(t for t in figure.texts if t.get_text() == "edge").get_color() == GREY


def test_no_two_lines_look_the_same():
    many = {f"m{k}": made(0.5, seed=k) for k in range(24)}
    figure = similarity_curves(many, stages=["fc"], controls=["m0", "m1", "m2"])
    looks = [(one.get_color(), str(one._dash_pattern)) for one in (line(figure, m) for m in many)]
    assert len(set(looks)) == 24
    assert {c for c, _ in looks} == {GREY, *INKS}


def test_names_stand_at_the_ends_of_their_lines(curves, check_layout):
    figure = similarity_curves(curves, stages=STAGES)
    check_layout(figure)
    for method, own in curves.items():
        assert height(figure, method) == pytest.approx(own[:, -1].mean(), abs=0.05)
        assert next(t for t in figure.texts if t.get_text() == method).get_color() == line(figure, method).get_color()
    together = {m: made(0.5, 0.2, seed=k) for k, m in enumerate("abcdefgh")}
    figure = similarity_curves(together, stages=["fc", "layer4"])
    check_layout(figure)
    down = sorted(together, key=lambda m: -together[m][:, -1].mean())
    assert sorted(together, key=lambda m: -height(figure, m)) == down
    leaders = next(a for a in figure.axes if a.get_label() == "names").lines
    assert [one.get_color() for one in leaders] == [line(figure, m).get_color() for m in down]


def test_leaders_have_the_dashes_of_their_lines(curves):
    figure = similarity_curves(curves, stages=STAGES, controls=["other"])  # which ends highest
    styles = [one.get_linestyle() for one in next(a for a in figure.axes if a.get_label() == "names").lines]
    assert styles == ["--", "-", "-"]


def test_undefined_images_are_left_out_and_counted(curves, words, check_layout):
    curves["mine"][:5, 1] = np.nan
    curves["mine"][0, 0] = np.nan
    figure = similarity_curves(curves, stages=STAGES)
    check_layout(figure)
    np.testing.assert_allclose(line(figure, "mine").get_ydata(), np.nanmean(curves["mine"], 0))
    low, high = interval(curves["mine"][5:, 1])
    np.testing.assert_allclose(bars(figure, "mine")[1, :, 1], [low, high])
    assert "at the worst stage: mine on 5 of 12 images at layer4." in words(figure)
    few = {"mine": made(0.5, 0.3, 0.1, images=100)}
    few["mine"][:5, 1] = np.nan
    assert "Undefined" not in words(similarity_curves(few, stages=STAGES))
    few["mine"][5, 1] = np.nan
    assert "mine on 6 of 100 images at layer4" in words(similarity_curves(few, stages=STAGES))


def test_a_line_may_end_early_or_not_exist(curves, words, check_layout):
    curves["mine"][:, 2] = np.nan
    curves["edge"][:] = np.nan
    figure = similarity_curves(curves, stages=STAGES)
    check_layout(figure)
    said = words(figure)
    assert "mine, undefined at the end" in said
    assert "Undefined on every image: edge." in said
    assert np.isnan(line(figure, "mine").get_ydata()).tolist() == [False, False, True]
    assert height(figure, "mine, undefined at the end") == pytest.approx(curves["mine"][:, 1].mean(), abs=0.08)
    assert not any(t.get_text() == "edge" for t in figure.texts)


def test_one_image_has_no_interval(words, check_layout):
    figure = similarity_curves(
        {"mine": [[0.5, 0.25]]}, stages=["fc", "layer4"], ceiling={"mine": [1]}, floor={"mine": [0]}
    )
    check_layout(figure)
    assert line(figure, "mine").get_ydata().tolist() == [1, 0.5, 0.25]
    assert len(bars(figure, "mine")) == 0
    assert "one image, without an interval" in words(figure)


METHODS = ("integrated_gradients", "a method with a name that does not end when one thinks that it will", *"cdefgh")


def named(form, count, *, ceiling):
    """Eight methods over many stages."""
    own = {m: np.linspace(1, 0, count + 1)[1:] + made(*[0] * count, images=3, seed=k) for k, m in enumerate(METHODS)}
    return similarity_curves(
        own, stages=[form.format(k) for k in range(count)], controls=["h"], how="a similarity of a long name",
        ceiling=dict.fromkeys(METHODS, np.ones(3)) if ceiling else None,
    )  # fmt: skip


@pytest.mark.parametrize(("form", "count"), [("b{}", 1), ("b{}", 12), ("_blocks.{} to _conv_head", 4)])
def test_short_names_of_stages_stand_upright(form, count, check_layout):
    figure = named(form, count, ceiling=True)
    check_layout(figure)
    shown = plot(figure).get_xticklabels()
    assert {t.get_rotation() for t in shown} == {0}
    assert ["".join(t.get_text().split()) for t in shown] == [
        "trained", *("".join(form.format(k).split()) for k in range(count))
    ]  # fmt: skip


@pytest.mark.parametrize(("form", "count"), [
    ("block{}", 25), ("_blocks.{} to _conv_head", 19), ("features.denseblock4.denselayer{}.conv2.weight", 7),
    ("features.denseblock4.denselayer{}.conv2.weight", 19),
])  # fmt: skip
@pytest.mark.parametrize("ceiling", [False, True])
def test_long_or_many_names_of_stages_stand_askew(form, count, ceiling, check_layout):
    figure = named(form, count, ceiling=ceiling)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = plot(figure).get_xticklabels()
    assert {t.get_rotation() for t in shown} == {45}
    for text, k in zip(shown[-count:], range(count), strict=True):
        kept, whole = text.get_text(), form.format(k)
        assert kept == whole or (kept[0] == "…" and whole.endswith(kept[1:]) and len(kept) > 12)
    boxes = [t.get_window_extent(renderer) for t in shown]
    assert min(b.x0 for b in boxes) >= 0
    assert (np.diff([b.x1 for b in boxes]) * np.sqrt(0.5) / figure.dpi > SMALL / 72).all()  # inches from line to line
    title = plot(figure).xaxis.label.get_window_extent(renderer)
    assert 0 <= title.y0 < title.y1 <= min(b.y0 for b in boxes)
    for text in shown:  # whose boxes overlap though their letters do not
        text.set_visible(False)
    check_layout(figure)


def test_the_plot_holds_all_that_is_drawn(curves):
    low, high = plot(similarity_curves(curves, stages=STAGES)).get_ylim()
    assert low < 0
    assert high > 1
    figure = similarity_curves({"mine": made(-0.7, 0.2)}, stages=["a", "b"], floor={"mine": np.full(12, -0.9)})
    low, high = plot(figure).get_ylim()
    assert -1 < low < -0.9


def test_nothing_given_is_changed(curves):
    curves["mine"][0, 0] = np.nan
    before = {m: own.copy() for m, own in curves.items()}
    similarity_curves(curves, stages=STAGES)
    for method, own in curves.items():
        np.testing.assert_array_equal(own, before[method])


def test_bad_arguments(curves):
    with pytest.raises(ValueError, match="0 methods and 3 stages"):
        similarity_curves({}, stages=STAGES)
    with pytest.raises(ValueError, match="3 methods and 0 stages"):
        similarity_curves(curves, stages=[])
    with pytest.raises(
        ValueError, match=r"the curves of mine: the shape is \(12, 3\), and should be \(images, 2 stages\)"
    ):
        similarity_curves(curves, stages=["a", "b"])
    for wrong in (np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3, 1))):
        with pytest.raises(ValueError, match="the curves of mine: the shape is"):
            similarity_curves({"mine": wrong}, stages=STAGES)
    with pytest.raises(ValueError, match="other are of 4 images, and others of 12: give the same images"):
        similarity_curves({**curves, "other": curves["other"][:4]}, stages=STAGES)
    with pytest.raises(ValueError, match="every similarity is NaN"):
        similarity_curves({"mine": np.full((4, 3), np.nan)}, stages=STAGES)
    with pytest.raises(ValueError, match=r"the curves of mine: .* some are infinite"):
        similarity_curves({"mine": np.full((4, 3), np.inf)}, stages=STAGES)
    for name in ("ceiling", "floor"):
        with pytest.raises(ValueError, match=f"a {name} 'mime', and curves of: mine, other, edge"):
            similarity_curves(curves, stages=STAGES, **{name: {"mime": np.ones(12)}})
        with pytest.raises(ValueError, match=rf"the {name} of mine: the shape is \(11,\), and should be \(12,\)"):
            similarity_curves(curves, stages=STAGES, **{name: {"mine": np.ones(11)}})
    with pytest.raises(ValueError, match="a control 'mime'"):
        similarity_curves(curves, stages=STAGES, controls=["mime"])

"""The matrix of agreement: its numbers, one scale of colours, its branches, and nothing on anything else."""

import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.visualization import agreement
from attriscope.visualization.agreement import COLOURS, MINUS, WORDS, signed

LONG = "a_long_method_{}(option=256, baseline=blur, other_option=0.25)"


def maps(names, n=2, side=12, groups=3):
    g = torch.Generator().manual_seed(0)
    common = torch.randn(groups, n, side, side, generator=g)
    return {m: common[k % groups] + 0.5 * torch.randn(n, side, side, generator=g) for k, m in enumerate(names)}


def axes(figure, label):
    return next(a for a in figure.axes if a.get_label() == label)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 20])
def test_nothing_lies_on_anything_however_many_and_long_the_names_are(count, check_layout):
    check_layout(agreement(maps([LONG.format(k) for k in range(count)])))


def test_nothing_lies_on_anything_with_the_longest_text(check_layout):
    check_layout(agreement(maps(["one", "two"]), how="top_k", absolute=True, smooth=2.5))


@pytest.mark.parametrize("count", [4, 9])
def test_cells_have_the_means_and_the_one_scale_of_colours(count):
    found = metrics.agreement({**maps([f"m{k}" for k in range(count - 1)]), "less": -maps(["m0"])["m0"]}, "pearson")
    drawn = axes(agreement(found), "matrix")
    means = found.mean().to_numpy()
    assert means.min() < -0.5
    np.testing.assert_allclose(np.asarray(drawn.images[0].get_array()), COLOURS((means + 1) / 2), atol=1e-6)
    said = {t.get_position(): t.get_text() for t in drawn.texts}
    assert len(said) == count**2
    for (i, j), value in np.ndenumerate(means):
        assert said[(j, i)] == f"{value:.2f}".replace("-", MINUS).replace(f"{MINUS}0.00", "0.00")
    np.testing.assert_allclose(COLOURS([0.0, 0.5, 1.0])[1], 1.0, atol=0.005)  # white is 0: the nearest of 256 colours
    assert signed(-0.001) == "0.00"


def test_the_scale_is_the_same_where_no_method_is_quite_like_itself():
    """Maps of few values are tied at the border of the first tenth."""
    found = metrics.agreement({m: one.round() for m, one in maps(["one", "two"]).items()}, "top_k")
    means = found.mean().to_numpy()
    assert means.max() < 0.9
    drawn = axes(agreement(found), "matrix").images[0].get_array()
    np.testing.assert_allclose(np.asarray(drawn), COLOURS((means + 1) / 2), atol=1e-6)


def test_numbers_can_be_read_on_their_colours():
    """WCAG's contrast of at least 3 to 1."""

    def luminance(colour):
        c = np.asarray(colour[:3])
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    g = torch.Generator().manual_seed(0)
    noise = torch.randn(41, 1, 40, 40, generator=g)
    given = {f"{w:.2f}": w * noise[0] + (1 - w**2) ** 0.5 * noise[1] for w in np.linspace(-1, 1, 41)}
    drawn = axes(agreement(given, how="pearson"), "matrix")
    colours = np.asarray(drawn.images[0].get_array())
    for text in drawn.texts:
        j, i = text.get_position()
        pair = sorted([float(luminance(colours[i, j])), 1.0 if text.get_color() == "white" else 0.0])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 3, text.get_text()


@pytest.mark.parametrize("count", [3, 8])
def test_branches_join_at_the_mean_similarity(count):
    found = metrics.agreement(maps([f"m{k}" for k in range(count)]))
    drawn = axes(agreement(found), "branches")
    assert len(drawn.lines) == count - 1
    np.testing.assert_allclose([line.get_xdata()[1] for line in drawn.lines], 1 - found.linkage[:, 2])
    left, right = drawn.get_xlim()
    assert left == 1
    assert right <= 1 - found.linkage[-1, 2]
    assert drawn.get_ylim() == (count, 0)
    ends = [y for line in drawn.lines for x, y in zip(*line.get_data(), strict=True) if x == 1]
    assert sorted(ends) == [k + 0.5 for k in range(count)], "every method's branch starts at its row"
    matrix = axes(agreement(found), "matrix").get_position()
    assert drawn.get_position().y0 == pytest.approx(matrix.y0)
    assert drawn.get_position().y1 == pytest.approx(matrix.y1)


def test_two_methods_have_no_branches(words):
    figure = agreement(maps(["one", "other"]))
    assert [a.get_label() for a in figure.axes] == ["colour bar", "matrix"]
    assert "Branches" not in words(figure)


def test_it_says_what_is_drawn(words):
    given = maps(["one", "two", "three"])
    said = words(agreement(given))
    for part in ("Which methods draw the same map?", "the rank correlation (Spearman) of two methods' maps, mean over 2",
                 f"0 unrelated, {MINUS}1 the opposite", "does not make them right"):  # fmt: skip
        assert part in said
    assert "undefined" not in said
    said = words(agreement({k: v[:1] for k, v in given.items()}, absolute=True, smooth=1.5))
    assert "(absolute values, both blurred by a Gaussian of sigma 1.5 pixels), mean over 1 image." in said
    assert "opposite" not in said
    for how, (what, ends, _) in WORDS.items():
        said = words(agreement(given, how=how))
        assert what in said
        assert ends in said


def test_what_is_undefined_is_grey_and_counted(words):
    given = maps(["one", "two", "three"])
    given["two"][0] = 1.0
    said = words(agreement(given))
    assert "3 of 12 comparisons are undefined" in said
    assert "Grey" not in said
    given["flat"] = torch.zeros_like(given["one"])
    figure = agreement(given)
    assert "11 of 20 comparisons are undefined" in words(figure)
    assert "Grey: undefined on every image." in words(figure)
    place = metrics.agreement(given).methods.index("flat")
    drawn = axes(figure, "matrix")
    np.testing.assert_allclose(np.asarray(drawn.images[0].get_array())[place, :, :3], 0xD9 / 255, atol=1e-6)
    assert sum(t.get_text() == "\N{EN DASH}" for t in drawn.texts) == 7


def test_a_study_is_drawn(study, check_layout, words):
    figure = agreement(study, how="pearson")
    check_layout(figure)
    for method in study.methods:
        assert method in words(figure)


def test_options_that_come_too_late_are_refused():
    found = metrics.agreement(maps(["one", "two"]))
    with pytest.raises(TypeError, match="how come too late"):
        agreement(found, how="pearson")
    with pytest.raises(ValueError, match="no maps"):
        agreement({})

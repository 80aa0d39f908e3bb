import numpy as np
import pytest
from attriscope.visualization import _style


@pytest.mark.parametrize(
    "text", ["a b c d e f g h i j k l m n", "x" * 200, "integrated_gradients(steps=9, baseline='blur')", "a\nb\r\nc", "", "  "]
)
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_wrapped_text_fits(text, lines):
    wrapped = _style.wrap(text, 0.9, 9.0, lines=lines).split("\n")
    assert len(wrapped) <= lines
    assert all(_style._width(w, 9.0, False) <= 0.9 for w in wrapped)


def test_a_text_that_fits_stays():
    assert _style.wrap("two\nlines $x$ 100%", 3.0, 9.0) == "two\nlines $x$ 100%"


def test_what_is_left_out_is_marked():
    assert _style.wrap("one two three four five six", 0.7, 9.0, lines=2).endswith("…")
    assert not _style.wrap("one two", 0.7, 9.0, lines=2).endswith("…")


def test_numbers_are_not_broken():
    assert "0.0243" in _style.wrap("the 99th percentile of |map|, 0.0243", 2.0, 8.5, lines=3).split("\n")[-1]
    for width in np.linspace(0.6, 2.5, 20):
        assert "0.\n" not in _style.wrap("probability of a thing 0.0243", width, 8.5, lines=5)


def test_characters_without_a_font_become_a_box_and_no_warning():
    drawn, families = _style.fonts("a\U000f0000b\x00\tc")
    assert drawn == "a□b□ c"
    assert families == ["DejaVu Sans"]


def test_at_most_twelve_images_unless_asked():
    names = [str(i) for i in range(20)]
    assert _style.pick_images(None, 20, names) == (list(range(12)), 8)
    assert _style.pick_images(range(20), 20, names)[0] == list(range(20))
    assert _style.pick_images(np.array([3, 1]), 20, names) == ([3, 1], 18)


def test_a_figure_too_large_to_draw_is_refused():
    with pytest.raises(ValueError, match="fewer images"):
        _style.Sheet(5.0).figure(10_000)

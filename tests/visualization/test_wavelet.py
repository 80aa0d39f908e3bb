import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Explanation, Model, regions
from attriscope.visualization import wavelet
from attriscope.visualization.wavelet import _shares


def made(height=16, width=24, levels=2, function=None, **more):
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    function = function or (lambda x: x[:, :, : height // 2, : width // 2].pow(2).sum((1, 2, 3)))
    model = Model(lambda x: function(x)[:, None], bounds=None, batch_size=64)
    return attribution.create("wcam", model, **{"grid": 8, "levels": levels, "designs": 4, **more}).explain(x, 0)


def test_it_says_all_that_is_needed(words, check_layout):
    figure = wavelet(made(), 1, name="photo.png", classes=["ant"])
    check_layout(figure)
    said = words(figure)
    for part in ("wcam of photo.png", "ant", "260 forwards", "coarser", "4 px", "2 px", "of the sum of indices", "unsigned",
                 "levels 2", "99th percentile"):  # fmt: skip
        assert part in said, part
    assert [a.get_label() for a in figure.axes] == ["image", "map", "plane", "coarser", "4 px", "2 px", "colour bar"]


def test_shares_are_parts_of_one(words):
    said = words(wavelet(made()))
    parts = [int(p.split("%")[0].split()[-1]) for p in said.split(" of the sum of indices")[:-1]]
    assert len(parts) == 3
    assert abs(sum(parts) - 100) <= 2  # each rounded


def test_red_is_where_the_map_is_high_and_bands_are_where_they_belong(pixels):
    found = made(32, 32)
    drawn = pixels(wavelet(found), "map")
    red = drawn[..., 0] - drawn[..., 2]
    assert red[:8, :8].min() > red[24:, 24:].max() + 0.1
    plane = pixels(wavelet(found), "plane")
    assert plane.shape == (32, 32, 3)
    redness = plane[..., 0] - plane[..., 2]
    cell = np.kron(found.details["indices"][0].numpy(), np.ones((4, 4)))
    detail = np.ones((32, 32), bool)
    detail[:8, :8] = False
    order = np.corrcoef(redness[detail], cell[detail])[0, 1]
    assert order > 0.9
    axes = next(a for a in wavelet(found).axes if a.get_label() == "plane")
    ends = {tuple(map(tuple, line.get_xydata())) for line in axes.lines}
    assert ends == {((15.5, -0.5), (15.5, 31.5)), ((-0.5, 15.5), (31.5, 15.5)),
                    ((7.5, -0.5), (7.5, 15.5)), ((-0.5, 7.5), (15.5, 7.5))}  # fmt: skip


def test_a_scale_of_one_cell_says_so(words, pixels):
    figure = wavelet(made(levels=3))
    assert "too few cells to tell places apart" in words(figure)
    assert np.ptp(pixels(figure, "coarser"), axis=-1).max() < 1e-6
    drawn = pixels(figure, "map")  # what is the same everywhere has no colour in the sum either
    red = drawn[..., 0] - drawn[..., 2]
    assert red.min() < 0.01
    assert red.max() > 0.3


def test_cells_that_straddle_scales_are_split_by_area():
    indices = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    labels = regions.grid(16, 24, 5, 3)[0]
    wanted = [0.0, 0.0, 0.0]
    for k, index in enumerate(indices.flatten().tolist()):
        cell = labels == k
        parts = [cell[:4, :6].sum(), cell[:8, :12].sum(), cell.sum()]
        for scale in range(3):
            own = int(parts[scale]) - (int(parts[scale - 1]) if scale else 0)
            wanted[scale] += index * own / int(cell.sum())
    found = _shares(indices, 2, (15, 22))
    np.testing.assert_allclose(found, np.array(wanted) / float(indices.sum()), rtol=1e-5)


def test_the_plane_goes_up_to_the_largest_detail(words):
    found = made(function=lambda x: x.sum((1, 2, 3)) + 3 * x[:, 0, 4, 4])
    indices = found.details["indices"][0].clone()
    coarse = float(indices[:2, :2].max())
    indices[:2, :2] = 0
    assert coarse > float(indices.max())
    assert f"largest index of a detail, {float(indices.max()):.3g}" in words(wavelet(found))


def test_a_constant_score_has_words_and_no_colours(words, pixels):
    figure = wavelet(made(function=lambda x: x.sum((1, 2, 3)) * 0))
    assert "every index is 0" in words(figure)
    for name in ("map", "plane", "2 px"):
        assert np.ptp(pixels(figure, name), axis=-1).max() < 1e-6


@pytest.mark.parametrize("more", [{"estimator": "homma", "designs": 2}, {"postprocess": "minmax_u8"}, {"grid": 3}])
@pytest.mark.parametrize("size", [(21, 13), (8, 60), (60, 8), (5, 3), (1, 9)])
def test_any_shape_and_option(size, more, check_layout):
    check_layout(wavelet(made(*size, levels=3, **more)))


def test_only_wcam_has_scales():
    x = torch.rand(1, 3, 8, 8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    with pytest.raises(ValueError, match=r"draws what wcam found, not saliency: .* with heatmap"):
        wavelet(attribution.create("saliency", network).explain(x))
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="maps from elsewhere"):
        wavelet(Explanation(x, x, None, one, one.long(), one.long(), 0.1))


def test_bad_arguments():
    found = made()
    with pytest.raises(ValueError, match="no image 2; there are 2"):
        wavelet(found, 2)
    with pytest.raises(ValueError, match="percentile=0"):
        wavelet(found, percentile=0)
    found.inputs = None
    with pytest.raises(ValueError, match=r"found.inputs = images"):
        wavelet(found)

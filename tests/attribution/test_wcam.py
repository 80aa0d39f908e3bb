"""WCAM: the transform against PyWavelets, both ways of making images, and closed forms in the wavelet domain."""

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model, regions
from attriscope.attribution.perturbation import wcam
from attriscope.attribution.perturbation._sobol import Versions, design
from attriscope.attribution.perturbation.wcam import Wavelets, bands, fitting, haar, per_level, stretch, unhaar

pywt = pytest.importorskip("pywt")


def packed(x, levels):
    """PyWavelets' transform in PyWavelets' packing."""
    found = [pywt.coeffs_to_array(pywt.wavedec2(one, "haar", level=levels))[0] for one in x.reshape(-1, *x.shape[-2:])]
    return np.stack(found).reshape(x.shape)


# -- the transform -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "levels"), [(8, 8, 3), (16, 24, 2), (40, 8, 3), (6, 10, 1), (5, 7, 0)])
def test_transform_and_packing_are_pywavelets(images, height, width, levels):
    x = images(2, height=height, width=width, dtype=torch.float64)
    found = haar(x, levels)
    if levels:
        np.testing.assert_allclose(found.numpy(), packed(x.numpy(), levels), atol=1e-12)
    assert float((found**2).sum()) == pytest.approx(float((x**2).sum()), rel=1e-12)  # Parseval
    np.testing.assert_allclose(unhaar(found, levels).numpy(), x.numpy(), atol=1e-12)


def test_bands_cover_the_plane_once():
    seen = torch.zeros(16, 24)
    for scale in bands(3, 16, 24):
        for y, x in scale:
            seen[y, x] += 1
    assert bool((seen == 1).all())
    assert [len(scale) for scale in bands(3, 16, 24)] == [1, 3, 3, 3]


@pytest.mark.parametrize(
    ("levels", "size", "wanted"),
    [(3, (224, 224), (3, 224, 224)), (3, (21, 13), (3, 24, 16)), (3, (7, 30), (2, 8, 32)), (3, (1, 9), (0, 1, 9))],
)
def test_levels_are_capped_by_the_size(levels, size, wanted):
    assert fitting(levels, *size) == wanted


# -- perturbed images --------------------------------------------------------------------------------------------------


def source(x, base, *, grid=8, levels=3, designs=4, ones=False, **more):
    levels, height, width = fitting(levels, *x.shape[2:])
    labels = regions.grid(height, width, min(grid, height), min(grid, width))[0]
    plan = design(int(labels.max()) + 1, designs, "sobol", 0)
    if ones:
        plan.a.fill_(1)
        design.cache_clear()
    return Wavelets(x, base, labels, Versions(plan, plan.rows), levels, **more), plan, labels, levels


def write(one, row, size=11):
    out = torch.empty(one.count, *one.images.shape[1:], dtype=one.images.dtype)
    for start in range(0, one.count, size):
        one.write(out[start : start + size], row, slice(start, min(start + size, one.count)))
    return out


@pytest.mark.parametrize("memory", [0, wcam.MEMORY])
def test_all_ones_give_the_image(images, memory):
    x = images(2, height=21, width=13)
    one, plan, _, _ = source(x, torch.rand(1, 3, 1, 1), ones=True, memory=memory)
    assert float((write(one, 1)[0] - x[1]).abs().max()) < 1e-6
    assert bool((plan.take(plan.rows[:1]) == 1).all())


@pytest.mark.parametrize("size", [(16, 16), (21, 13), (12, 40), (5, 3)])
def test_the_basis_gives_what_the_transform_gives(images, size):
    x = images(3, height=size[0], width=size[1], dtype=torch.float64)
    base = images(3, height=size[0], width=size[1], seed=1, dtype=torch.float64)
    fast, plain = source(x, base)[0], source(x, base, memory=0)[0]
    assert fast.fast
    assert not plain.fast
    for row in (0, 2, 1, 2):  # whatever the image, in whatever order
        for batch in (1, 7, 1000):
            np.testing.assert_allclose(write(fast, row, batch).numpy(), write(plain, row, 50).numpy(), atol=1e-12)
    for row in (0, 1):  # the next image begins at the point where the last one was left
        out, wanted = (torch.empty(2, 3, *size, dtype=torch.float64) for _ in range(2))
        fast.write(out, row, slice(1, 3))
        plain.write(wanted, row, slice(1, 3))
        np.testing.assert_allclose(out.numpy(), wanted.numpy(), atol=1e-12)


def test_sides_that_do_not_divide_are_padded_with_their_edge(images):
    x = images(1, height=21, width=13, dtype=torch.float64)
    one = source(x, torch.zeros(1, 1, 1, 1).double())[0]
    write(one, 0)
    padded = np.pad(x[0].numpy(), ((0, 0), (0, 3), (0, 3)), mode="edge")
    np.testing.assert_allclose(one._plane.numpy(), packed(padded, 3), atol=1e-12)


@pytest.mark.parametrize("memory", [0, wcam.MEMORY])
def test_images_are_numpy_s(images, memory):
    """By the description, without the basis: transform, multiply, transform back; and the 8 bit of the authors' code."""
    x = images(1, height=16, width=24, dtype=torch.float64)
    for postprocess in ("none", "minmax_u8"):
        one, plan, labels, levels = source(
            x, torch.zeros(1, 1, 1, 1).double(), memory=memory, postprocess=postprocess, bounds=(0.0, 1.0)
        )
        found = write(one, 0).numpy()
        for k, row in enumerate(plan.take(plan.rows).double()):
            planes = packed(x[0].numpy(), levels) * row.numpy()[labels.numpy()]
            slices = pywt.coeffs_to_array(pywt.wavedec2(x[0, 0].numpy(), "haar", level=levels))[1]
            wanted = np.stack(
                [pywt.waverec2(pywt.array_to_coeffs(p, slices, output_format="wavedec2"), "haar") for p in planes]
            )
            if postprocess == "minmax_u8":
                wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
                wanted = (wanted * 255).astype(np.uint8) / 255
                # a value that lies on a step within rounding may fall to either side
                off = np.abs(found[k] - wanted)
                assert off.max() < 1.01 / 255
                assert (off > 1e-9).mean() < 0.01
            else:
                np.testing.assert_allclose(found[k], wanted, atol=1e-12)


def test_a_constant_image_is_stretched_to_no_nan():
    x = torch.cat([torch.full((1, 1, 4, 4), 0.3), torch.rand(1, 1, 4, 4)])
    stretch(x, (-1.0, 1.0))
    assert bool((x[0] == -1).all())
    assert float(x[1].min()) == -1
    assert float(x[1].max()) == 1


# -- indices -----------------------------------------------------------------------------------------------------------


def explain(function, x, **more):
    model = Model(lambda x: function(x)[:, None], bounds=None, batch_size=256)
    options = {"grid": 4, "levels": 2, "designs": 512, "baseline": 0.0, **more}
    return attribution.create("wcam", model, **options).explain(x, 0)


def test_a_linear_score_has_the_closed_form(images):
    """f = <weight, coefficients>: cell i adds M_i times its part, so ST_i is that part squared over the sum of squares."""
    x = images(2, height=16, width=24, dtype=torch.float64)
    weight = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = explain(lambda x: (haar(x, 2) * weight).sum((1, 2, 3)), x)
    labels = regions.grid(16, 24, 4, 4)[0]
    parts = (haar(x, 2) * weight).sum(1)
    wanted = torch.stack([(parts * (labels == k)).sum((1, 2)) for k in range(16)], 1) ** 2
    wanted = (wanted / wanted.sum(1, keepdim=True)).reshape(2, 4, 4)
    np.testing.assert_allclose(found.details["indices"].numpy(), wanted.numpy(), atol=0.02)  # 512 quasi-random points
    low, high = found.details["interval"].unbind(1)
    assert bool((low - 0.02 <= wanted).all())
    assert bool((wanted <= high + 0.02).all())


def test_mean_brightness_is_in_the_approximation(images):
    found = explain(lambda x: x.mean((1, 2, 3)), images(2, height=16, width=16, dtype=torch.float64))
    indices = found.details["indices"].clone()
    # 16 / 4: the approximation is the first cell; its index is 1, up to what 512 quasi-random points err
    np.testing.assert_allclose(indices[:, 0, 0].numpy(), 1, atol=0.02)
    indices[:, :1, :1] = 0
    assert float(indices.abs().max()) < 1e-12
    assert float(found.details["levels"][:, 1:].abs().max()) < 1e-12
    np.testing.assert_allclose(found.details["levels"].sum(1, keepdim=True).numpy(), found.maps.numpy(), atol=1e-12)


@pytest.mark.parametrize(("axis", "place"), [(-1, (slice(0, 2), slice(2, 4))), (-2, (slice(2, 4), slice(0, 2)))])
def test_the_finest_grating_is_in_one_orientation_of_the_finest_level(images, axis, place):
    x = images(1, height=16, width=16, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)
    sign = sign if axis == -1 else sign[:, None]
    found = explain(lambda x: (x * sign).sum((1, 2, 3)), x, designs=8)
    indices = found.details["indices"][0].clone()
    assert float(indices[place].sum()) > 0.9
    indices[place] = 0
    assert float(indices.abs().max()) < 1e-12
    levels = found.details["levels"][0]
    assert float(levels[:-1].abs().max()) < 1e-12
    assert float(levels[-1].min()) >= 0


def test_a_place_is_found_at_its_scale(images):
    """A score of the finest differences in the lower right quarter."""
    x = images(1, height=16, width=16, dtype=torch.float64)
    part = haar(x, 1)

    def score(x):
        return (haar(x, 1)[:, :, 4:8, 12:16] * part[:, :, 4:8, 12:16].sign()).sum((1, 2, 3))

    found = explain(score, x, grid=8, designs=8)
    one = found.maps[0, 0]
    assert float(one[12:, 12:].min()) > 0
    assert float(one[:5].abs().max()) < 1e-12
    assert float(one[:, :5].abs().max()) < 1e-12


def test_bands_are_cut_out_and_enlarged():
    indices = torch.arange(16.0).reshape(1, 4, 4)
    found = per_level(indices, 1, (8, 8), (8, 7), "nearest")
    assert found.shape == (1, 2, 8, 7)
    # the approximation's cells are 0 1 / 4 5
    np.testing.assert_array_equal(found[0, 0, ::4, ::4].numpy(), [[0, 1], [4, 5]])
    np.testing.assert_array_equal(found[0, 1, ::4, ::4].numpy(), [[2 + 8 + 10, 3 + 9 + 11], [6 + 12 + 14, 7 + 13 + 15]])
    # one cell for three: every band gets its mean
    np.testing.assert_allclose(per_level(torch.ones(1, 3, 3), 2, (8, 8), (8, 8), "bilinear").numpy()[0, 1], 3, rtol=1e-6)


@pytest.mark.parametrize("size", [(21, 13), (5, 3), (1, 6), (16, 40)])
def test_any_size_and_any_batch_size(networks, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randn(3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = []
    for batch in (1, 7, 100):
        model = Model(lambda x: ((x * weight).sum((1, 2, 3)) ** 2)[:, None], batch_size=batch)
        made = attribution.create("wcam", model, grid=4, designs=4)
        found = made.explain(x, 0)
        maps.append(found.maps)
        assert found.maps.shape == (2, 1, *size)
        assert found.forwards.tolist() == [made.cost((3, *size), **made.params).forwards] * 2
    np.testing.assert_allclose(maps[1].numpy(), maps[0].numpy(), atol=1e-9)
    np.testing.assert_allclose(maps[2].numpy(), maps[0].numpy(), atol=1e-9)


def test_both_forms_give_one_map(networks, images, monkeypatch):
    x, network = images(2, height=9, width=12).double(), networks.cnn().double()
    options = {"grid": 4, "levels": 2, "designs": 8, "baseline": "blur"}
    fast = attribution.create("wcam", network, **options).attribute(x, [0, 1])
    monkeypatch.setattr(Wavelets.__init__, "__defaults__", (*Wavelets.__init__.__defaults__[:-1], 0))
    slow = attribution.create("wcam", network, **options).attribute(x, [0, 1])
    np.testing.assert_allclose(slow.numpy(), fast.numpy(), atol=1e-9)


def test_a_constant_network_gets_zeros(images):
    found = explain(lambda x: x.sum((1, 2, 3)) * 0 + 0.7, images(2), designs=4, postprocess="minmax_u8")
    assert not found.maps.any()


def test_estimators_share_and_budgets_pick(networks, images):
    model, x = Model(networks.cnn()), images(1)
    with model.sharing():
        one = attribution.create("wcam", model, grid=2, levels=1, budget=45)
        assert one.designs == 8
        one.attribute(x, 0)
        before = model.forwards
        attribution.create("wcam", model, grid=2, levels=1, designs=8, estimator="janon").attribute(x, 0)
        assert model.forwards == before
        attribution.create("wcam", model, grid=2, levels=1, designs=8, postprocess="minmax_u8").attribute(x, 0)
        assert model.forwards == before + 40
    with pytest.raises(ValueError, match="wcam: designs=9 must be a power of two"):
        attribution.create("wcam", model, designs=9)

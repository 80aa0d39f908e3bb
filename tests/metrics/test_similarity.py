"""Similarities of maps: scipy and scikit-image as oracles, what leaves them as they are, and what has none."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from attriscope.metrics import similarity
from attriscope.metrics._similarity import Similarity, compared, described
from scipy import ndimage, stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

ALL = get_args(Similarity)
EXACT = {"rtol": 0, "atol": 1e-12}  # float64 sums of at most 50176 terms


def maps(*shape, seed=0):
    return torch.randn(*(shape or (4, 1, 24, 20)), generator=torch.Generator().manual_seed(seed))


def tied(*shape, seed=0):
    """Few values."""
    return (2 * maps(*shape, seed=seed)).round()


def pairs(one, other):
    return zip(one.flatten(1).double().numpy(), other.flatten(1).double().numpy(), strict=True)


def related(*shape):
    return maps(*shape), maps(*shape) + maps(*shape, seed=1)


# -- what holds for all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_a_map_is_like_itself_at_any_scale_and_either_way_round(how, absolute, smooth):
    options = {"absolute": absolute, "smooth": smooth}
    one, other = related()
    torch.testing.assert_close(similarity(one, one, how, **options), torch.ones(4).double(), **EXACT)
    found = similarity(one, other, how, **options)
    assert found.dtype == torch.float64
    assert found.shape == (4,)
    assert (found.abs() < 0.999).all()
    torch.testing.assert_close(similarity(other, one, how, **options), found, **EXACT)
    torch.testing.assert_close(similarity(one[:, 0], 4 * other, how, **options), found, **EXACT)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-10, 1e30, 1e300])
def test_no_map_is_too_small_or_too_large(how, scale):
    one, other = (m.double() for m in related())
    found = similarity(one, other, how)
    # a power of ten rounds each value: 1e-16 of it, which SSIM and HOG carry on
    torch.testing.assert_close(similarity(scale * one, other / scale, how), found, rtol=0, atol=1e-11)


@pytest.mark.parametrize("how", ALL)
def test_maps_of_denormal_numbers(how):
    """In float32 3e-42 is 2000 times the smallest number: multiples of it have ties, and nothing else is lost."""
    one, other = (tied(4, 1, 20, 20, seed=s) for s in (0, 1))
    small = torch.tensor(3e-42)
    assert 0 < small < torch.finfo(torch.float32).tiny
    torch.testing.assert_close(similarity(one * small, other * small, how), similarity(one, other, how), **EXACT)


@pytest.mark.parametrize("how", ALL)
def test_a_batch_is_its_maps_one_by_one(how, monkeypatch):
    one, other = related(5, 1, 24, 20)
    together = similarity(one, other, how, smooth=1.0)
    alone = torch.cat([similarity(a[None], b[None], how, smooth=1.0) for a, b in zip(one, other, strict=True)])
    assert torch.equal(together, alone)
    monkeypatch.setattr("attriscope.metrics._similarity.NUMBERS", 2 * 24 * 20)
    assert torch.equal(similarity(one, other, how, smooth=1.0), together)
    assert similarity(one[:0], other[:0], how).shape == (0,)


@pytest.mark.parametrize("how", ALL)
def test_described_once_is_compared_with_any(how):
    one, other = (m[:, 0] for m in related())
    sides = [described(m, how, absolute=True, smooth=1.0) for m in (one, other)]
    assert torch.equal(compared(*sides, how, absolute=True), similarity(one, other, how, absolute=True, smooth=1.0))


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("smooth", [0.0, 1.7])
def test_a_constant_map_is_like_nothing(how, smooth):
    """0.1 has no exact float: its blur differs from pixel to pixel by rounding, which is no pattern."""
    one = maps(3, 1, 24, 20)
    flat = one.clone()
    flat[1] = 0.0 if how == "ssim" else 0.1
    for found in (similarity(one, flat, how, smooth=smooth), similarity(flat, one, how, smooth=smooth)):
        assert found.isnan().tolist() == [False, True, False]
    found = similarity(flat, flat, how, smooth=smooth)
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("how", ["spearman", "pearson", "top_k", "ssim"])
def test_independent_noise_is_at_chance(how):
    """1 / sqrt(P - 1) for the correlations; of a hypergeometric share sqrt(s (1 - s) / k (1 - s) P / (P - 1))."""
    n, pixels = 400, 32 * 32
    found = similarity(maps(n, 1, 32, 32), maps(n, 1, 32, 32, seed=1), how)
    chance = round(0.1 * pixels) / pixels if how == "top_k" else 0.0
    spread = (pixels - 1) ** -0.5 if how != "top_k" else (0.1 * 0.9 / (0.1 * pixels) * 0.9) ** 0.5
    if how == "ssim":  # no closed form: near 0, and above it by what the constants add
        assert 0 < found.mean() < 0.05
        return
    assert abs(found.mean() - chance) < 5 * spread / n**0.5
    assert found.std() == pytest.approx(spread, rel=5 / (2 * n) ** 0.5)


# -- one by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [maps, tied])
def test_correlations_are_scipy_s(make):
    one, other = make(), make(seed=1)
    for how, oracle in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        expected = [oracle(a, b).statistic for a, b in pairs(one, other)]
        np.testing.assert_allclose(similarity(one, other, how), expected, rtol=0, atol=1e-12)


def test_a_negative_is_the_opposite_unless_signs_are_dropped():
    one = maps()
    for how in ("spearman", "pearson"):
        torch.testing.assert_close(similarity(one, -one, how), -torch.ones(4).double(), **EXACT)
        torch.testing.assert_close(similarity(one, -one, how, absolute=True), torch.ones(4).double(), **EXACT)
    torch.testing.assert_close(similarity(one, -one, "ssim", absolute=True), torch.ones(4).double(), **EXACT)
    assert similarity(one, -one, "top_k").tolist() == [0.0] * 4
    torch.testing.assert_close(similarity(one, -one, "hog"), torch.ones(4).double(), **EXACT)


def test_ranks_take_the_order_alone():
    one, other = related()
    for how in ("spearman", "top_k"):
        torch.testing.assert_close(similarity(one.double().exp(), other, how), similarity(one, other, how), **EXACT)


def test_signs_are_dropped_before_the_blur():
    """Of neighbours with opposite signs the blur of the sizes is left, not that of what cancels."""
    one, other = related()
    expected = similarity(one.abs(), other.abs(), "pearson", smooth=2.0)
    torch.testing.assert_close(similarity(one, other, "pearson", absolute=True, smooth=2.0), expected, **EXACT)


@pytest.mark.parametrize("how", ALL)
def test_the_blur_is_a_gaussian_of_so_many_pixels(how):
    one, other = related()
    blurred = [
        torch.from_numpy(ndimage.gaussian_filter(m.double().numpy(), (0, 0, 1.5, 1.5), mode="nearest"))
        for m in (one, other)
    ]
    found = similarity(one, other, how, smooth=1.5)
    torch.testing.assert_close(found, similarity(*blurred, how), rtol=0, atol=1e-10)


def test_what_was_equal_is_equal_after_the_blur():
    """A map that is its own mirror image stays so but for rounding, by which the blur's sums differ in their order."""
    half = maps(1, 30, 20)
    for mirrored, axis in ((torch.cat([half, half.flip(2)], 2), 2), (torch.cat([half, half.flip(1)], 1), 1)):
        for how in ("spearman", "top_k"):
            for share in (0.1, 0.1 + 1 / mirrored.numel()):  # the border may part two that mirror each other
                found = described(mirrored, how, smooth=2.0, share=share).reshape(mirrored.shape)
                assert torch.equal(found, found.flip(axis))


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 32, 40), (3, 1, 11, 11), (2, 1, 224, 224)])
def test_ssim_is_scikit_image_s_of_maps_to_scale(absolute, shape):
    one, other = related(*shape)
    found = similarity(one, other, "ssim", absolute=absolute)
    for value, a, b in zip(found, one, other, strict=True):
        x, y = ((m.abs() if absolute else m)[0].double() / m.abs().max() for m in (a, b))
        expected = structural_similarity(
            x.numpy(), y.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0 if absolute else 2.0,
        )  # fmt: skip
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((8, 7), 7), ((8, 9), 7), ((3, 5), 3)])
def test_ssim_s_window_is_the_largest_odd_one_that_fits(shape, size):
    one, other = related(1, 1, *shape)
    x, y = (m[0, 0].double().numpy() / m.abs().max().item() for m in (one, other))
    bell = np.exp(-0.5 * ((np.arange(size) - size // 2) / 1.5) ** 2)
    window = np.outer(bell, bell) / bell.sum() ** 2
    c1, c2 = 0.02**2, 0.06**2
    values = []
    for top, left in np.ndindex(shape[0] - size + 1, shape[1] - size + 1):
        a, b = (m[top : top + size, left : left + size] for m in (x, y))
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb, cov = (
            (window * (a - ma) ** 2).sum(),
            (window * (b - mb) ** 2).sum(),
            (window * (a - ma) * (b - mb)).sum(),
        )
        values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert similarity(one, other, "ssim").item() == pytest.approx(np.mean(values), abs=1e-12)
    with pytest.raises(ValueError, match="sides of at least 3"):
        similarity(one[..., :2], other[..., :2], "ssim")


@pytest.mark.parametrize(
    ("shape", "cell", "block"), [((2, 1, 224, 224), 16, 3), ((2, 1, 100, 70), 16, 3), ((2, 1, 32, 40), 8, 3),
                                 ((2, 1, 18, 25), 4, 3), ((2, 1, 7, 7), 1, 3), ((2, 1, 2, 9), 1, 2)],
)  # fmt: skip
def test_hog_is_scikit_image_s_of_maps_to_scale(shape, cell, block):
    one, other = related(*shape)
    found = similarity(one, other, "hog")
    for value, a, b in zip(found, one, other, strict=True):
        x, y = (
            hog((m[0].double() / m.abs().max()).numpy(), 9, (cell, cell), (block, block), block_norm="L2-Hys")
            for m in (a, b)
        )
        assert value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-7)  # it adds up cells in single precision


def test_hog_of_edges_on_the_border_of_two_bins():
    """Whole numbers have many gradients along the axes: all angles from 0, and none at 180 degrees."""
    one, other = (tied(1, 1, 64, 64, seed=s) for s in (0, 1))
    x, y = (hog((m[0, 0].double() / m.abs().max()).numpy(), 9, (16, 16), (3, 3)) for m in (one, other))
    assert similarity(one, other, "hog").item() == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-7)  # as above


def test_top_k_counts_what_both_have_first():
    one, other = related(3, 1, 10, 10)
    for share, k in ((0.1, 10), (0.25, 25), (0.001, 1)):
        expected = [len({*np.argsort(-a)[:k]} & {*np.argsort(-b)[:k]}) / k for a, b in pairs(one, other)]
        np.testing.assert_allclose(similarity(one, other, "top_k", share=share), expected, rtol=0, atol=1e-12)


def test_top_k_of_equals_is_what_lots_would_give():
    one, other = tied(1, 1, 8, 8), tied(1, 1, 8, 8, seed=1)
    rng = np.random.default_rng(0)
    ((a, b),) = pairs(one, other)
    k, times = 13, 4000
    drawn = [
        len({*np.lexsort((rng.random(64), -a))[:k]} & {*np.lexsort((rng.random(64), -b))[:k]}) / k for _ in range(times)
    ]
    found = similarity(one, other, "top_k", share=0.2).item()
    assert abs(found - np.mean(drawn)) < 5 * np.std(drawn) / times**0.5
    # two maps that are 0 in the same 99 of 100 places share 1 of 10 places for sure, and 9 of 99 by lot
    spike = torch.zeros(1, 10, 10)
    spike[0, 3, 3] = 1
    assert similarity(spike, spike, "top_k").item() == pytest.approx((1 + 99 * (9 / 99) ** 2) / 10)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused():
    one = maps()
    for bad, said in (
        (one[:2], "as many of the same size"), (one[..., :-1], "as many of the same size"), (one / 0, "infinite"),
        (one.expand(-1, 3, -1, -1), "N, 1, H, W"), (one[0, 0], "N, 1, H, W"), (one[..., :0], "N, 1, H, W"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            similarity(one, bad)
    with pytest.raises(TypeError, match="floating point"):
        similarity(one, one.long())
    for options, said in (
        ({"how": "mse"}, "choose one of spearman"), ({"smooth": -1.0}, "at least 0"),
        ({"smooth": math.nan}, "at least 0"), ({"smooth": math.inf}, "finite"),
        ({"share": 0.0}, "between 0 and 1"), ({"share": 1.0}, "between 0 and 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            similarity(one, one, **options)

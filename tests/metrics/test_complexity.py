"""Sparseness, entropy and counts: closed forms, scipy, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.metrics.complexity.complexity import entropy
from attriscope.metrics.complexity.sparseness import gini
from scipy import stats
from torch import nn

NAMES = ["sparseness", "complexity", "effective_complexity"]
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(12 * 7, 2))


def score(name, maps, **options):
    images = torch.zeros(len(maps), 1, *maps.shape[2:])
    return metrics.create(name, **options).score(NETWORK, images, maps, target=0, curves=True)


def some_maps(n=4, height=12, width=7, seed=0):
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(seed))


def one_hot(value=-2.0):
    maps = torch.zeros(1, 1, 12, 7)
    maps[0, 0, 3, 5] = value
    return maps


@pytest.mark.parametrize(
    ("name", "alone", "uniform"),
    [("sparseness", 1 - 1 / 84, 0.0), ("complexity", 0.0, 1.0), ("effective_complexity", 1.0, 84.0)],
)
def test_a_single_pixel_and_a_constant_map_are_the_ends(name, alone, uniform):
    assert score(name, one_hot()).scores.item() == pytest.approx(alone, abs=1e-12)
    for value in (0.3, -7.0):
        assert score(name, torch.full((1, 1, 12, 7), value)).scores.item() == pytest.approx(uniform, abs=1e-12)


def test_the_entropy_of_a_constant_map_is_ln_n_nats_and_half_the_pixels_one_bit_less():
    assert score("complexity", torch.ones(1, 1, 12, 7)).details["nats"].item() == pytest.approx(math.log(84))
    half = torch.ones(1, 1, 12, 7)
    half[:, :, :6] = 0
    assert score("complexity", half).details["nats"].item() == pytest.approx(math.log(42))


def test_gini_is_half_the_mean_difference_over_the_mean():
    """Its definition by pairs: sum |a_i - a_j| / (2 n^2 mean)."""
    values = some_maps().flatten(1).double().abs()
    pairs = (values[:, :, None] - values[:, None, :]).abs().sum((1, 2))
    n = values.shape[1]
    torch.testing.assert_close(gini(values), pairs / (2 * n * n * values.mean(1)))
    torch.testing.assert_close(score("sparseness", values.reshape(4, 1, 12, 7)).scores, gini(values))


def test_gini_of_uniform_and_normal_noise_is_what_the_docstring_says():
    drawn = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # five standard errors of a Gini of 200,000 draws, below 0.7 / sqrt(n) each
    assert gini(drawn).item() == pytest.approx(1 / 3, abs=5e-3)
    normal = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    assert gini(normal).item() == pytest.approx(math.sqrt(2) - 1, abs=5e-3)


def test_entropy_is_scipy_s():
    maps = some_maps()
    expected = [stats.entropy(one.abs().double().numpy().ravel()) for one in maps]
    found = score("complexity", maps)
    np.testing.assert_allclose(found.details["nats"].numpy(), expected, rtol=1e-12)  # the same sum in float64
    np.testing.assert_allclose(found.scores.numpy(), np.array(expected) / math.log(84), rtol=1e-12)
    assert entropy(torch.tensor([[0.0, 0.0, 1.0]])).item() == 0


def test_the_count_is_of_pixels_strictly_above_the_share_of_the_map_s_own_largest():
    maps = torch.zeros(2, 1, 12, 7)
    maps[0, 0, 0, :5] = torch.tensor([-8.0, 4.0, 2.0, 0.5, 0.001])
    maps[1] = maps[0] * 1e-6
    assert score("effective_complexity", maps, threshold=0.25).scores.tolist() == [2, 2]
    found = score("effective_complexity", maps)
    assert found.scores.tolist() == [5, 5]
    assert found.details["share"].tolist() == pytest.approx([5 / 84] * 2)


@pytest.mark.parametrize("name", NAMES)
def test_neither_sign_nor_scale_nor_place_nor_batch_mates_count(name):
    maps = some_maps()
    expected = score(name, maps).scores
    shuffled = maps.flatten(2)[..., torch.randperm(84, generator=torch.Generator().manual_seed(1))].reshape(maps.shape)
    # powers of two scale without rounding; sums in another order round at 1e-16 of them
    for other in (-maps, maps.abs(), maps * 2.0**-60, maps.double() * 2.0**100, shuffled):
        torch.testing.assert_close(score(name, other).scores, expected, rtol=1e-12, atol=0)
    crowd = torch.cat([maps, 1e9 * some_maps(seed=5)])
    assert torch.equal(score(name, crowd).scores[:4], expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_zeros_is_undefined_and_counted(name):
    maps = torch.cat([torch.zeros(1, 1, 12, 7), some_maps(2)])
    with pytest.warns(RuntimeWarning, match=r"1 of 3 maps.*a map of zeros"):
        found = score(name, maps)
    assert found.scores.isnan().tolist() == [True, False, False]
    for more in found.details.values():
        assert more.isnan().tolist() == [True, False, False]


def test_a_single_pixel_has_no_entropy():
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with pytest.warns(RuntimeWarning, match="of one pixel"):
        assert metrics.create("complexity").score(network, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0).isnan()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
def test_a_threshold_is_a_share_between_the_ends(threshold):
    with pytest.raises(ValueError, match="between 0 and 1, ends excluded"):
        metrics.create("effective_complexity", threshold=threshold)


@pytest.mark.parametrize("name", NAMES)
def test_no_network_is_asked(name):
    assert metrics.describe(name)["cost"] == 0

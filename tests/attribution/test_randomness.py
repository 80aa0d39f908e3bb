"""Draws depend on (seed, draw) alone."""

import tracemalloc

import numpy as np
import pytest
import torch
from attriscope.attribution import randomness
from attriscope.attribution.randomness import gaussians, uniforms
from scipy import stats

BLOCK = 1024  # draws that come from one generator, where a draw is small


@pytest.mark.parametrize("count", [0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_fewer_draws_are_the_beginning_of_more(count):
    found = uniforms(3, count, 4)
    assert found.shape == (count, 4)
    assert found.dtype == torch.float32
    assert torch.equal(found, uniforms(3, 3 * BLOCK, 4)[:count])


@pytest.mark.parametrize("size", [1, 1023, 1025, 5000, 700_000])
def test_large_draws_go_on_where_fewer_ended_too(size):
    assert torch.equal(uniforms(1, 1, size), uniforms(1, 4, size)[:1])
    assert torch.equal(uniforms(1, 3, size), uniforms(1, 4, size)[:3])
    assert len(torch.unique(uniforms(1, 4, size)[:, 0])) == 4


def test_draws_are_the_same_tomorrow():
    """Studies are resumed and papers repeated: a change of these numbers is a change of every stochastic method."""
    wanted = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((7, 0, b)))).random((BLOCK, 2), dtype=np.float32)
        for b in (0, 1)
    ]
    assert np.array_equal(uniforms(7, BLOCK + 2, 2).numpy(), np.concatenate(wanted)[: BLOCK + 2])


def test_seeds_streams_and_draws_differ():
    draws = [uniforms(s, BLOCK * 2, 3, stream=t) for s in (0, 1) for t in (0, 1)]
    rows = torch.cat(draws)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_draws_are_uniform():
    values = uniforms(0, 20_000, 5)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    # mean of 1e5 uniforms: standard error 0.29 / 316 = 9e-4, five of them; the variance's is 7.5e-2 / 316
    assert abs(float(values.mean()) - 0.5) < 5e-3
    assert abs(float(values.var()) - 1 / 12) < 2e-3
    assert float(torch.corrcoef(values.T).fill_diagonal_(0).abs().max()) < 0.04  # five standard errors of 1 / 141


def test_the_global_generators_are_not_touched():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    uniforms(0, 10, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_one_large_draw_needs_no_more_memory_than_itself():
    """A noise baseline is one draw of a whole image: not a thousand of them."""
    size = 3 * 64 * 64
    tracemalloc.start()
    uniforms(0, 1, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 4 * size  # a few copies of itself; a whole block would be 1024


@pytest.mark.parametrize(
    ("size", "whole"),
    [(1, 2 * BLOCK + 9), (3, 2 * BLOCK + 9), (4, BLOCK + 3), (1025, 2100), (300_001, 8), (2_000_000, 3)],
)  # blocks of 1024 draws of odd and even size, of 1023, of 3 and of one
def test_draws_from_the_middle_are_those_of_the_beginning(size, whole):
    every = uniforms(5, whole, size, stream=2)
    for start in {0, 1, 2, min(BLOCK - 1, whole - 1), min(BLOCK, whole - 1), whole - 2, whole - 1}:
        for count in {1, 2, whole - start}:
            if start + count <= whole:
                assert torch.equal(uniforms(5, count, size, start=start, stream=2), every[start : start + count])
    assert uniforms(5, 0, size, start=1).shape == (0, size)


def test_the_middle_is_reached_without_making_what_is_before():
    tracemalloc.start()
    uniforms(0, 1, 1000, start=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 4 * 1000  # not the thousand draws before


def test_gaussians_are_normal():
    values = gaussians(0, 20_000, 5, like=torch.empty(0, dtype=torch.float64))
    assert values.dtype == torch.float64
    # 1e5 numbers: the standard errors of mean, variance and fourth moment are 0.003, 0.0045 and 0.03; five of them
    assert abs(float(values.mean())) < 0.016
    assert abs(float(values.var()) - 1) < 0.023
    assert abs(float(values.pow(4).mean()) - 3) < 0.16
    # the largest distance to the distribution function: beyond 1.95 / 316 once in a thousand
    assert stats.kstest(values.flatten().numpy(), "norm").statistic < 0.0062
    assert float(torch.corrcoef(values.T).fill_diagonal_(0).abs().max()) < 0.04


def test_gaussians_are_those_of_the_uniforms_whatever_the_type(monkeypatch):
    wide = gaussians(1, 3, 400, like=torch.empty(0, dtype=torch.float64), start=7, stream=3)
    narrow = gaussians(1, 3, 400, like=torch.empty(0), start=7, stream=3)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-6)  # erfinv in float32
    wanted = stats.norm.ppf(uniforms(1, 10, 400, stream=3)[7:].double().numpy() + 2.0**-25)
    np.testing.assert_allclose(wide.numpy(), wanted, rtol=1e-9, atol=1e-12)
    ends = torch.tensor([[0.0, 1 - 2.0**-24]])
    monkeypatch.setattr(randomness, "uniforms", lambda *_a, **_k: ends.clone())
    for like in (torch.empty(0), torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float16)):
        low, high = gaussians(0, 1, 2, like=like)[0].double().tolist()
        assert low == -high
        assert 5.2 < high < 5.5

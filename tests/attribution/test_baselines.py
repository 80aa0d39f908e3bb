"""What stands in for a removed pixel."""

import numpy as np
import pytest
import torch
from attriscope.attribution import baselines
from attriscope.attribution.model import Model
from scipy.ndimage import gaussian_filter
from torch import nn

PLAIN = Model(nn.Flatten())
IMAGENET = Model(nn.Flatten(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), bounds=(-1.0, 3.0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("zero", (0, 0, 0)),
        ("black", (-1, -1, -1)),
        ("white", (3, 3, 3)),
        ("mean", (0.4, 0.5, 0.6)),
        (0.25, (0.25,) * 3),
        (2, (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_baselines_live_in_image_space(images, name, values, dtype):
    x = images(2, height=5, width=7, dtype=dtype)
    found = baselines.make(name, x, IMAGENET)
    assert found.dtype == dtype
    assert found.shape == (1, 3, 1, 1)
    # the mean may have gone through float32, which is 6e-8 away from its decimal
    torch.testing.assert_close(found.flatten(), torch.tensor(values, dtype=dtype), rtol=0, atol=1e-7)


def test_the_mean_of_a_model_without_one_is_zero(images):
    assert not baselines.make("mean", images(), PLAIN).any()


@pytest.mark.parametrize("name", ["black", "white"])
def test_bounds_are_needed(images, name):
    with pytest.raises(ValueError, match="bounds"):
        baselines.make(name, images(), Model(nn.Flatten(), bounds=None))


@pytest.mark.parametrize("sigma", [0.3, 0.4, 1.0, 2.7, 12.0])
@pytest.mark.parametrize("size", [(16, 16), (9, 21), (3, 5), (1, 1)])
def test_the_blur_is_scipys(images, sigma, size):
    x = images(2, 2, *size, dtype=torch.float64)
    wanted = gaussian_filter(x.numpy(), sigma, axes=(2, 3), mode="nearest", truncate=4.0)
    # float64, the same kernel cut at the same place
    np.testing.assert_allclose(baselines.gaussian_blur(x, sigma).numpy(), wanted, rtol=1e-12, atol=1e-13)


def test_the_blur_is_a_twentieth_of_the_shorter_side(images):
    x = images(2, height=40, width=60)
    assert torch.equal(baselines.make("blur", x, PLAIN), baselines.gaussian_blur(x, 2.0))
    assert torch.equal(baselines.gaussian_blur(x, 0), x)
    with pytest.raises(ValueError, match="for images"):
        baselines.make("blur", torch.rand(2, 5), Model(nn.Flatten(), kind="table"))


def test_the_blur_keeps_constants_and_each_channel_to_itself(images):
    x = images(1, height=12, width=12)
    x[:, 1] = 0.25
    blurred = baselines.gaussian_blur(x, 1.5)
    torch.testing.assert_close(blurred[:, 1], x[:, 1], rtol=1e-6, atol=1e-6)  # kernel weights sum to 1 within float32
    torch.testing.assert_close(blurred[:, :1], baselines.gaussian_blur(x[:, :1], 1.5), rtol=1e-6, atol=1e-6)


def test_noise_is_one_draw_for_all_images(images):
    one, two = (baselines.make("noise", images(n, height=9, width=5), IMAGENET, seed=4) for n in (1, 3))
    assert torch.equal(one, two)
    assert one.shape == (1, 3, 9, 5)
    assert float(one.min()) >= -1
    assert float(one.max()) <= 3
    assert float(one.max() - one.min()) > 3  # 135 uniforms over a range of 4
    assert not torch.equal(one, baselines.make("noise", images(1, height=9, width=5), IMAGENET, seed=5))


def test_noise_without_bounds_is_normal_around_the_mean():
    model = Model(nn.Flatten(), mean=(0.0, 10.0), std=(1.0, 3.0), bounds=None)
    found = baselines.make("noise", torch.rand(1, 2, 100, 100), model)[0].flatten(1)
    # 1e4 draws: standard errors 0.01 and 0.03 of the means, 0.7% of the deviations; five of them
    assert found.mean(1).tolist() == pytest.approx([0, 10], abs=0.15)
    assert found.std(1).tolist() == pytest.approx([1, 3], rel=0.04)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (3, 4, 6), (1, 3, 4, 6), (1, 3, 1, 1), (3, 1, 1), (1, 1, 4, 6)])
def test_a_tensor_that_broadcasts_is_taken(images, shape):
    x, given = images(2, height=4, width=6), torch.rand(shape)
    found = baselines.make(given, x, PLAIN)
    assert torch.equal(found.expand(x.shape), given.expand(x.shape))
    assert torch.equal(baselines.make(lambda images: given, x, PLAIN).expand(x.shape), given.expand(x.shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("grey", "choose one of"),
        (torch.rand(4, 3, 4, 6), "does not stand beside"),
        (torch.rand(3), "does not stand beside"),
        (torch.rand(1, 2, 4, 6), "does not stand beside"),
        (torch.full((1, 3, 1, 1), float("nan")), "NaN"),
        (lambda x: 3, "must return a tensor"),
    ],
    ids=["name", "number", "rank", "channels", "nan", "callable"],
)
def test_wrong_baselines_are_refused(images, wrong, message):
    with pytest.raises(ValueError, match=message):
        baselines.make(wrong, images(2, height=4, width=6), PLAIN)


def test_a_mean_of_three_channels_does_not_stand_beside_one(images):
    with pytest.raises(ValueError, match="does not stand beside"):
        baselines.make("mean", images(2, 1), IMAGENET)


@pytest.mark.parametrize("name", ["zero", "mean", "noise", "black", 0.5])
def test_tables_and_tokens_have_baselines(name):
    mean, std = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0)
    table, tokens = torch.rand(2, 4), torch.rand(2, 3, 4)
    found = baselines.make(name, table, Model(nn.Flatten(), kind="table", mean=mean, std=std))
    assert found.expand_as(table).shape == (2, 4)
    other = baselines.make(name, tokens, Model(nn.Flatten(), kind="tokens", mean=mean, std=std))
    assert other.expand_as(tokens).shape == (2, 3, 4)
    if name == "mean":
        torch.testing.assert_close(found[0], torch.tensor(mean))
        torch.testing.assert_close(other[0, 0], torch.tensor(mean))

"""Controls: maps that know nothing of the network, against scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution.control.center import gaussian
from attriscope.attribution.control.edge import sobel
from attriscope.attribution.randomness import uniforms
from scipy import ndimage, stats

NAMES = ["center", "constant", "edge", "input", "random"]


def test_the_controls_are_a_family_and_all_that_is_blind():
    assert attribution.available("control/*") == NAMES
    assert attribution.available(blind=True) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_control_asks_the_network_or_costs_anything(name, networks, images):
    model = attribution.Model(networks.cnn())
    x = images(2)
    made = attribution.create(name, model, budget=1)
    target = model.resolve(x, 0)
    before = model.forwards
    maps = made.attribute(x, target)
    assert maps.shape == (2, 1, 8, 8)
    assert model.forwards == before
    assert tuple(attribution.describe(name)["cost"]) == (0, 0)


@pytest.mark.parametrize("name", ["random", "constant", "center"])
def test_what_does_not_look_at_the_image_is_the_same_for_all(name, networks, images):
    made = attribution.create(name, networks.cnn())
    one, two = made.attribute(images(3, seed=1), 0), made.attribute(images(1, seed=2), 1)
    assert torch.equal(one, two.expand_as(one))


def test_a_random_map_is_uniform_noise_and_another_seed_s_is_independent(networks, images):
    x = images(1, 3, 32, 128)
    found = [attribution.create("random", networks.cnn(), seed=s).explain(x, 0) for s in (0, 1)]
    assert found[0].native.shape == (1, 1, 32, 128)
    maps = [f.maps.flatten() for f in found]
    for one in maps:
        # the 99.9% point of Kolmogorov and Smirnov's distance for 4096 draws is 0.03
        assert stats.kstest(one.double().numpy(), "uniform").statistic < 0.03
        assert one.unique().numel() > 4000  # two of 4096 numbers in 2 ** 24 may meet
    # five standard deviations, 1 / sqrt(4096)
    assert abs(np.corrcoef(*[m.numpy() for m in maps])[0, 1]) < 5 / 64


def test_a_random_map_is_no_mask_of_a_method_with_the_same_seed(networks, images):
    """The floor must not be made of the numbers that a method or a metric draws."""
    noise = attribution.create("random", networks.cnn()).attribute(images(1), 0).flatten()
    for stream in (0, 1, 2, 3, 4, 5, 1_000_001, 1_000_002):
        drawn = uniforms(0, 1, 64, stream=stream)[0]
        assert not bool((noise == drawn).any())


@pytest.mark.parametrize("name", ["random", "constant", "input"])
@pytest.mark.parametrize(("kind", "shape"), [("table", (3, 6)), ("tokens", (3, 6, 4))])
def test_tables_and_tokens_get_maps_of_their_shape(name, kind, shape):
    model = attribution.Model(lambda x: x.reshape(len(x), -1)[:, :2], kind=kind)
    maps = attribution.create(name, model).attribute(torch.rand(shape, generator=torch.Generator().manual_seed(0)), 0)
    assert maps.shape == shape
    assert maps[0].unique().numel() == (1 if name == "constant" else maps[0].numel())


def test_a_constant_map_is_ones(networks, images):
    assert bool((attribution.create("constant", networks.cnn()).attribute(images(2), 0) == 1).all())


@pytest.mark.parametrize(("height", "width"), [(9, 14), (1, 5), (2, 2)])
def test_edges_are_scipy_s_sobel(images, height, width):
    x = images(2, 3, height, width, dtype=torch.float64)
    grey = x.mean(1).numpy()
    for one, found in zip(grey, sobel(x)[:, 0].numpy(), strict=True):
        # scipy's kernel sums to 8 on a ramp of one level per pixel; "nearest" repeats the edge
        expected = np.hypot(*[ndimage.sobel(one, axis=a, mode="nearest") / 8 for a in (0, 1)])
        np.testing.assert_allclose(found, expected, atol=1e-12)  # sums of nine numbers of order 1, in float64


def test_a_ramp_s_edge_is_its_slope_in_any_direction():
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    for angle in (0.0, 0.4, math.pi / 2, 2.0):
        ramp = 0.03 * (x * math.cos(angle) + y * math.sin(angle))
        inner = sobel(ramp[None, None])[0, 0, 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.03), atol=1e-6, rtol=0)  # differences in float32


def test_the_input_is_its_own_map(networks, images):
    x = images(2)
    made = attribution.create("input", networks.cnn())
    assert torch.equal(made.attribute(x, 0), x.sum(1, keepdim=True))


def test_an_image_of_one_colour_has_no_edges(networks):
    maps = attribution.create("edge", networks.cnn()).attribute(torch.full((1, 3, 8, 8), 0.3), 0)
    assert not bool(maps.any())


def test_the_centre_is_a_gaussian_as_wide_as_its_share_of_each_side():
    found = gaussian(40, 80, 0.1)
    # one standard deviation from the middle is 4 pixels down, 8 across; the middle lies between pixels
    y, x = np.mgrid[:40, :80]
    expected = np.exp(-0.5 * (((y - 19.5) / 4) ** 2 + ((x - 39.5) / 8) ** 2))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)  # float64, the same formula at once
    assert torch.equal(found, found.flip(0))
    assert torch.equal(found, found.flip(1))


def test_a_share_of_nothing_is_refused(networks):
    with pytest.raises(ValueError, match="more than 0"):
        attribution.create("center", networks.cnn(), sigma=0.0)


@pytest.mark.parametrize("name", ["center", "edge"])
def test_tables_have_no_edges_and_no_middle(name):
    table = attribution.Model(lambda x: x, kind="table")
    assert name not in attribution.available(model=table)
    with pytest.raises(ValueError, match="image"):
        attribution.create(name, table)


@pytest.mark.parametrize("name", NAMES)
def test_a_control_has_no_layers(name, networks):
    with pytest.raises(ValueError, match="does not run at a layer"):
        attribution.create(name, networks.cnn(), at="final")

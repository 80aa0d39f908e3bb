"""XRAI against PAIR's code on the same attributions and regions, its regions against PAIR's, and what must hold of both."""

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.region._segments import masks_of
from attriscope.attribution.region.xrai import xrai, xrai_fast
from skimage import data
from skimage.transform import resize
from torch import nn

SUMS = 1e-12  # float64 means of a few thousand numbers, added in another order


def attributions(height=20, width=30, seed=0):
    return torch.randn(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def overlapping(count=25, height=20, width=30, seed=1):
    """Rectangles, some inside others, which leave some pixels out."""
    draw, masks = np.random.default_rng(seed), torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        top, left = draw.integers(0, height - 3), draw.integers(0, width - 6)
        mask[top : top + draw.integers(1, 9), left : left + draw.integers(1, 12)] = True
    return masks


def flat(channels=3, height=20, width=30, dtype=torch.float64):
    """A linear network, whose attributions are known."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 2)).to(dtype)
    with torch.no_grad():
        weight = torch.randn(2, channels * height * width, generator=torch.Generator().manual_seed(2), dtype=dtype)
        network[1].weight.copy_(weight)
    return network


def photograph(height, width):
    return torch.from_numpy(resize(data.astronaut()[:300, 100:400] / 255, (height, width))).permute(2, 0, 1)[None]


def cost(name, **options):
    return attribution.attributor.REGISTRY.find(name).cost(**options)


@pytest.fixture(scope="module")
def pair():
    from saliency.core import xrai as theirs

    return theirs


# -- against PAIR ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 7, 50])
@pytest.mark.parametrize("area", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_full_ranking_is_pairs(pair, least, area, seed):
    values, masks = attributions(seed=seed), overlapping(seed=seed + 10)
    found = xrai(values, masks, least=least, area=area)
    wanted, _ = pair.XRAI._xrai(values.numpy(), list(masks.numpy()), area_perc_th=area, min_pixel_diff=least)
    assert float((found.map - torch.from_numpy(wanted)).abs().max()) <= SUMS


@pytest.mark.parametrize("least", [1, 7, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_fast_ranking_is_pairs(pair, least, seed):
    values, masks = attributions(seed=seed), overlapping(seed=seed + 10)
    found = xrai_fast(values, masks, least=least)
    wanted, ranks = pair.XRAI._xrai_fast(values.numpy(), list(masks.numpy()), min_pixel_diff=least)
    assert float((found.map - torch.from_numpy(wanted)).abs().max()) <= SUMS
    # their ranks are those of the density, what is left over last
    last = len(found.areas) - (int(found.areas[-1]) == int((~masks.any(0)).sum()))
    order = found.densities[:last].argsort(descending=True)
    places = torch.empty(len(found.areas), dtype=torch.long)
    places[order] = torch.arange(last)
    places[last:] = torch.arange(last, len(places))
    if last == len(found.areas) - 1:
        assert torch.equal(places[found.regions] + 1, torch.from_numpy(ranks))


@pytest.mark.parametrize(("height", "width", "radius"), [(224, 224, 0), (60, 90, 5), (75, 50, 1)])
def test_the_regions_are_pairs(pair, height, width, radius):
    x = photograph(height, width).float()
    (found,) = masks_of("felzenszwalb", x, Model(nn.Flatten()), dilation=radius * 224 / min(height, width))
    wanted = pair._get_segments_felzenszwalb(x[0].permute(1, 2, 0).numpy(), dilation_rad=radius)
    wanted = torch.from_numpy(np.stack([one for one in wanted if one.any()]))
    assert torch.equal(found, wanted)
    assert bool(found.any(0).all())


def test_all_of_it_is_pairs(pair):
    """Regions, black and white, the largest channel, the ranking: a linear score has the same integral by any rule."""
    x, network = photograph(60, 90), flat(3, 60, 90)
    model = Model(network)
    found = attribution.create("xrai", model, dilation=0, min_pixels=50 * 224**2 / 5400).explain(x.float().double(), 0)
    weight = network[1].weight[0].detach().reshape(3, 60, 90)

    def call(images, *, call_model_args=None, expected_keys=None):
        return {pair.INPUT_OUTPUT_GRADIENTS: weight.permute(1, 2, 0).expand(len(images), -1, -1, -1).numpy()}

    pair.INPUT_OUTPUT_GRADIENTS = "INPUT_OUTPUT_GRADIENTS"
    pixels = x[0].float().permute(1, 2, 0).numpy()
    wanted = pair.XRAI().GetMask(
        pixels.astype(np.float64),
        call,
        baselines=[np.zeros(pixels.shape), np.ones(pixels.shape)],
        segments=pair._get_segments_felzenszwalb(pixels, dilation_rad=0),
    )
    # PAIR adds the gradients of a path up in float32
    assert float((found.maps[0, 0] - torch.from_numpy(wanted)).abs().max()) <= 1e-6 * float(np.abs(wanted).max())


# -- what must hold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xrai", "xrai_fast"])
def test_disjoint_regions_get_their_mean(name):
    network, x = flat(1, 4, 6), torch.rand(1, 1, 4, 6, dtype=torch.float64)
    labels = torch.tensor([[3, 3, 3, 3, 8, 8]] * 4)
    found = attribution.create(name, Model(network), baseline=0.0, regions=labels).explain(x, 0)
    pixels = (network[1].weight[0].detach().reshape(4, 6) * x[0, 0]).reshape(4, 6)
    means = pixels[:, :4].mean(), pixels[:, 4:].mean()
    assert torch.allclose(found.maps[0, 0, :, :4], means[0].expand(4, 4), rtol=0, atol=SUMS)
    assert torch.allclose(found.maps[0, 0, :, 4:], means[1].expand(4, 2), rtol=0, atol=SUMS)
    first = 0 if means[0] > means[1] else 1
    assert found.details["areas"].tolist() == [[16, 8] if first == 0 else [8, 16]]
    assert found.details["regions"][0, 0].tolist() == [first] * 4 + [1 - first] * 2
    assert torch.allclose(found.details["densities"][0], torch.stack([means[first], means[1 - first]]), atol=SUMS)


@pytest.mark.parametrize("rank", [xrai, xrai_fast])
@pytest.mark.parametrize("least", [1, 10])
def test_the_map_sums_to_the_attributions_whatever_is_left_over(rank, least):
    values, masks = attributions(), overlapping()
    found = rank(values, masks, least=least)
    assert abs(float(found.map.sum() - values.sum())) <= 600 * SUMS
    assert float((found.densities * found.areas).sum() - values.sum()) <= 600 * SUMS
    assert int(found.areas.sum()) == values.numel()
    assert torch.equal(found.densities[found.regions], found.map)
    assert bool((found.regions.flatten().bincount() == found.areas).all())
    assert bool((found.areas[:-1] >= least).all())
    assert found.areas[-1] >= (~masks.any(0)).sum()  # what no region took comes last


@pytest.mark.parametrize("rank", [xrai, xrai_fast])
def test_the_order_of_the_masks_means_nothing(rank):
    values, masks = attributions(), overlapping()
    found = rank(values, masks, least=5)
    for seed in range(3):
        order = torch.randperm(len(masks), generator=torch.Generator().manual_seed(seed))
        other = rank(values, masks[order], least=5)
        assert torch.equal(other.regions, found.regions)
        assert float((other.map - found.map).abs().max()) <= SUMS


def test_what_lies_above_any_level_is_whole_regions():
    found = xrai(attributions(), overlapping(), least=1)
    for level in found.map.unique():
        for region in range(len(found.areas)):
            assert len((found.map >= level)[found.regions == region].unique()) == 1


def test_the_full_ranking_looks_at_what_is_new_and_the_fast_one_does_not():
    values = torch.tensor([[9.0, 9.0, 0.0, 0.0, 3.0, 3.0, -1.0]], dtype=torch.float64)
    masks = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0]], dtype=torch.bool)[
        :, None
    ]
    assert xrai(values, masks, least=1).regions.tolist() == [[0, 0, 2, 2, 1, 1, 3]]
    assert xrai_fast(values, masks, least=1).regions.tolist() == [[0, 0, 1, 1, 2, 2, 3]]
    stopped = xrai(values, masks, least=1, area=0.2)  # two of seven pixels are more
    assert stopped.map.tolist() == [[9, 9, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("rank", [xrai, xrai_fast])
def test_without_a_region_the_image_is_one(rank):
    values = attributions()
    for masks in (torch.zeros(0, 20, 30, dtype=torch.bool), torch.zeros(2, 20, 30, dtype=torch.bool)):
        found = rank(values, masks, least=0)
        assert torch.allclose(found.map, values.mean().expand(20, 30), rtol=0, atol=SUMS)
        assert found.areas.tolist() == [600]


# -- the map below -----------------------------------------------------------------------------------------------------


def test_the_map_below_is_the_mean_from_black_and_white_of_the_largest_channel(networks, images):
    network, x = networks.smooth(3).double(), images(2, dtype=torch.float64)
    model, every = Model(network, bounds=(0.0, 1.0)), torch.arange(64).reshape(8, 8)  # each pixel is a region
    found = attribution.create("xrai", model, steps=7, regions=every, min_pixels=0).attribute(x, 1)
    below = [
        attribution.create("ig", model, steps=7, baseline=b, channels="keep").attribute(x, 1)
        for b in ("black", "white")
    ]
    wanted = ((below[0] + below[1]) / 2).amax(1, keepdim=True)
    assert float((found - wanted).abs().max()) <= SUMS
    # without bounds, of each image's own smallest and largest value
    free = attribution.create("xrai", network, steps=7, regions=every, min_pixels=0).attribute(x, 1)
    below = [
        attribution.create("ig", network, steps=7, baseline=b, channels="keep").attribute(x, 1)
        for b in (x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True))
    ]
    assert float((free - ((below[0] + below[1]) / 2).amax(1, keepdim=True)).abs().max()) <= SUMS


@pytest.mark.parametrize("below", ["saliency", "guided_ig", "grad_cam", "input_x_gradient"])
def test_any_method_can_be_below(networks, images, below):
    network, x = networks.resnet(), images(2, 3, 16, 16)
    model, every = Model(network), torch.arange(256).reshape(16, 16)
    more = {"steps": 5} if below == "guided_ig" else {}
    made = attribution.create(below, model, **more)
    configured = attribution.create("xrai", model, method=made, regions=every, min_pixels=0).explain(x, 1)
    target = model.resolve(x, 1)
    raw = made.compute(x, target).maps
    wanted = torch.nn.functional.interpolate(raw, (16, 16), mode="bilinear") if raw.shape[2] != 16 else raw
    assert torch.allclose(configured.maps, wanted.amax(1, keepdim=True), atol=1e-6 * float(wanted.abs().max()))
    assert (int(configured.forwards[0]), int(configured.backwards[0])) == cost(below, shape=(3, 16, 16), **more)
    named = attribution.create("xrai", model, method=below, steps=5, baseline=0.0, regions=every, min_pixels=0)
    assert torch.equal(named.attribute(x, 1), configured.maps)


def test_a_method_given_by_name_gets_output_steps_and_baseline(networks, images):
    model, x = Model(networks.smooth(3)), images(1)
    for options, runs in (({}, 2), ({"baseline": "white"}, 1)):
        found = attribution.create("xrai", model, steps=6, output="probability", **options).explain(x, 1)
        one = cost("ig", steps=6)
        assert (int(found.forwards[0]), int(found.backwards[0])) == (runs * one.forwards, runs * one.backwards)
    assert cost("xrai") == tuple(2 * n for n in cost("ig", steps=100))
    most = attribution.create("xrai", model, budget=100).steps
    assert sum(cost("xrai", steps=most)) <= 100 < sum(cost("xrai", steps=most + 1))
    logit = attribution.create("xrai", model, steps=6, output="logit").attribute(x, 1)
    assert not torch.allclose(attribution.create("xrai", model, steps=6, output="probability").attribute(x, 1), logit)


def test_a_configured_method_is_put_on_this_model(networks, images):
    x, other = images(1), Model(networks.smooth(3))
    method = attribution.create("ig", other, steps=3, baseline=0.5)
    made = attribution.create("xrai", networks.cnn(), method=method)
    assert made.with_model(networks.resnet()) == made
    assert method.model is other
    assert "steps" in made.canonical
    fewer = attribution.create("xrai", networks.cnn(), method=attribution.create("ig", other, steps=4, baseline=0.5))
    assert made != fewer
    own = torch.arange(64).reshape(8, 8)
    found = attribution.create("xrai", networks.cnn(), method=method, regions=own, min_pixels=0).attribute(x, 3)
    wanted = attribution.create("ig", networks.cnn(), steps=3, baseline=0.5, channels="keep").attribute(x, 3)
    assert torch.allclose(found, wanted.amax(1, keepdim=True), atol=1e-6)


# -- regions -----------------------------------------------------------------------------------------------------------


def test_regions_of_every_form_say_the_same(images):
    network, x = flat(3, 8, 8, torch.float32), images(2)
    labels = torch.arange(64).reshape(8, 8) // 5
    masks = torch.stack([labels == k for k in range(13)])
    wanted = attribution.create("xrai", network, steps=2, regions=labels, min_pixels=0).attribute(x, 0)
    for form in (
        labels * 7 - 3, labels.int(), labels.expand(2, -1, -1), masks, masks.flip(0), masks.expand(2, -1, -1, -1),
        lambda images: labels, lambda images: masks,
    ):  # fmt: skip
        found = attribution.create("xrai", network, steps=2, min_pixels=0).attribute(x, 0, regions=form)
        assert torch.allclose(found, wanted, atol=1e-6 * float(wanted.abs().max()))


def test_each_image_has_its_own_regions(images):
    network, x = flat(3, 8, 8, torch.float32), images(2)
    labels = torch.stack([torch.arange(8).expand(8, 8) // 4, torch.arange(8)[:, None].expand(8, 8) // 2])
    found = attribution.create("xrai", network, steps=2, regions=labels).explain(x, 0)
    for i in range(2):
        alone = attribution.create("xrai", network, steps=2, regions=labels[i]).attribute(x[i : i + 1], 0)
        assert torch.equal(found.maps[i : i + 1], alone)
    assert found.details["areas"].tolist() == [[32, 32, 0, 0], [16, 16, 16, 16]]
    assert found.details["densities"].isnan().tolist() == [[False, False, True, True], [False] * 4]


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        (torch.zeros(8, 7, dtype=torch.long), "do not fit"),
        (torch.zeros(3, 8, 8, dtype=torch.long), "do not fit"),
        (torch.ones(8, 8, dtype=torch.bool), r"pass masks \(S, H, W\)"),
        (torch.zeros(8, 8), "whole numbers"),
        (lambda images: [1], "must be a tensor"),
    ],
)
def test_regions_that_fit_nothing_are_refused(images, regions, says):
    with pytest.raises(ValueError, match=says):
        attribution.create("xrai", flat(3, 8, 8, torch.float32), steps=2, regions=regions).attribute(images(2), 0)


def test_widening_is_by_a_disk_and_small_images_take_less():
    x = photograph(112, 120).float()
    sharp, wide, more = (masks_of("felzenszwalb", x, Model(nn.Flatten()), dilation=d)[0] for d in (0, 5, 8))
    from scipy.ndimage import distance_transform_edt

    for radius, found in ((2, wide), (4, more)):  # half of 5, rounded to even, and of 8
        for a, b in zip(sharp[::9], found[::9], strict=True):
            assert torch.equal(torch.from_numpy(distance_transform_edt(~a.numpy()) <= radius), b)


def test_an_image_of_one_colour_is_cut_into_one_region():
    x = torch.full((1, 3, 16, 16), 0.4)
    (masks,) = masks_of("felzenszwalb", x, Model(nn.Flatten()), dilation=5)
    assert masks.shape == (6, 16, 16)  # at each scale
    assert bool(masks.all())


def test_what_cannot_be_below_is_refused_early(networks):
    with pytest.raises(ValueError, match="no method 'nothing'"):
        attribution.create("xrai", networks.cnn(), method="nothing")
    with pytest.raises(ValueError, match="does not run on this model"):
        attribution.create("xrai", networks.mlp(), method="grad_cam")
    with pytest.raises(TypeError, match="method="):
        attribution.create("xrai", networks.cnn(), method=3)
    method = attribution.create("ig", networks.cnn(), output="probability")
    with pytest.raises(ValueError, match="give both the same"):
        attribution.create("xrai", networks.cnn(), method=method)
    assert attribution.create("xrai", networks.cnn(), method=method, output="probability").method is method

"""Relative importance: what the pictures and the networks are for certain, oracles, controls, and who is refused."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics.ground_truth._pasted import importance, object_network, scene_network
from captum.attr import Saliency

NAMES = ["model_contrast", "input_dependence", "input_independence"]
ASKED = []


class Given(Attributor):
    """A method that is a function of the picture and of which network it is on; it keeps what it was asked about."""

    function: str = "seen"
    per_image: torch.Tensor | None = None

    def compute(self, inputs, target):
        of_objects = self.model.network[-1].out_features == 3
        ASKED.append((of_objects, len(inputs), self.model.batch_size))
        red, _, blue = inputs.unbind(1)
        seen = self.model.network[:2](inputs)[:, 0]
        corner = torch.zeros_like(red)
        corner[:, 0, 0] = 1
        found = {
            "seen": seen,  # by the scene network: 0 in objects
            "contrast": (blue > 0) == of_objects,
            "reversed": (blue > 0) != of_objects,
            "object": blue + corner,
            "corner": corner,
            "mixed": seen + 0.05 * red,
            "rounded": 1 + 1e-6 * red,
        }
        return Computed(found[self.function].float()[:, None], {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def detector(**more):
    return attribution.Model(attribution.conformance.Detector().eval(), **more)


def metric(name, **options):
    return metrics.create(name, **{"pictures": 12, "size": 32, **options})


def given(function):
    return Given(detector(), function=function)


def method(name, **options):
    return attribution.create(name, detector(), **options)


# -- the pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "seed"), [(24, 0), (37, 1), (64, 2), (96, 3)])
def test_both_networks_are_right_on_every_picture(size, seed):
    made = metrics.pasted(96, size=size, seed=seed)
    for network, images, labels in (
        (made.object_network, made.images, made.object_labels),
        (made.scene_network, made.images, made.scene_labels),
        (made.scene_network, made.scenes, made.scene_labels),
        (made.scene_network, made.patched, made.scene_labels),
    ):
        out = network(images)
        own = out.gather(1, labels[:, None])
        others = out.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
        assert 2 < own.min() < own.max() < 8  # softmax is neither flat nor saturated
        assert (others / own).max() < 0.5  # never a close call
    assert made.object_network(made.scenes).abs().max() == 0
    assert made.object_network(made.images).scatter(1, made.object_labels[:, None], 0).abs().max() == 0


def test_what_the_pictures_are():
    made = metrics.pasted(24)
    assert made.images.dtype == torch.float32
    assert {(o, s) for o, s in zip(made.object_labels.tolist(), made.scene_labels.tolist(), strict=True)} == {
        (o, s) for o in range(3) for s in range(4)
    }
    for images in (made.images, made.scenes, made.patched):
        assert images.shape == (24, 3, 64, 64)
        assert images.min() >= 0
        assert images.max() <= 1
        assert torch.equal(images * 256, (images * 256).round())
        assert torch.equal(
            images[~made.mask[:, None].expand_as(images)], made.scenes[~made.mask[:, None].expand_as(images)]
        )
    assert made.scenes[:, 2].max() == made.patched[:, 2].max() == 0
    assert torch.equal(made.images[:, 2] >= 0.5, made.mask)
    assert (made.patched - made.scenes)[:, 0][made.mask].min() >= 0.25  # seen in every pixel of the patch
    share = made.mask.double().mean((1, 2))
    assert share.min() > 0.06  # far more than the 1% that the scale leaves out
    assert share.max() < 0.11
    assert len({tuple(m.nonzero().amin(0).tolist()) for m in made.mask}) > 12  # anywhere
    edges = made.mask[:, 0].any() | made.mask[:, -1].any() | made.mask[:, :, 0].any() | made.mask[:, :, -1].any()
    assert not edges  # whole


def test_scenes_differ_in_their_stripes():
    """Along its own direction every scene's pattern of stripes stays as it is, and it has a period of 5 across."""
    made = metrics.pasted(12, size=40)
    stripe = made.scenes[:, 1] > made.scenes[:, 1].amin((1, 2), keepdim=True) + 0.1
    assert stripe.double().mean() == pytest.approx(0.2, abs=1e-9)
    for label, (down, right) in enumerate([(1, 0), (0, 1), (-1, 1), (1, 1)]):
        for one in stripe[made.scene_labels == label]:
            assert torch.equal(one.roll((down, right), (0, 1)), one)  # 40 is eight periods
            assert not torch.equal(one.roll((1, 2), (0, 1)), one)


def test_a_picture_depends_on_its_number_the_size_and_the_seed_alone():
    few, many = metrics.pasted(5, seed=3), metrics.pasted(30, seed=3)
    for name in ("images", "scenes", "patched", "mask", "object_labels", "scene_labels"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:5])
    other = metrics.pasted(5, seed=4)
    assert (other.mask != few.mask).flatten(1).any(1).all()
    assert (other.scenes != few.scenes).flatten(1).any(1).all()
    for wrong in ({"pictures": 0}, {"size": 23}):
        with pytest.raises(ValueError, match="at least one picture of at least 24 pixels"):
            metrics.pasted(**wrong)


# -- the networks ------------------------------------------------------------------------------------------------------


def colours(n, seed):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_the_object_network_sees_nothing_of_scenes():
    made = metrics.pasted(24)
    clean = made.object_network(made.images)
    anything = colours(24, 0)
    anything[:, 2] = 0
    grey = colours(24, 1)[:, :1].expand(-1, 3, -1, -1)
    for scene in (anything, grey, torch.zeros_like(anything)):
        assert torch.equal(made.object_network(torch.where(made.mask[:, None], made.images, scene)), clean)
    x = made.images.clone().requires_grad_()
    made.object_network(x).sum().backward()
    touched = (x.grad != 0).any(1)
    assert torch.equal(touched, made.mask)


def test_the_scene_network_sees_nothing_of_objects():
    """Every colour with b >= r / 4 + g is black to it: bitwise, and no gradient arrives there."""
    made = metrics.pasted(24)
    clean = made.scene_network(made.images)
    blue = colours(24, 0)
    blue[:, 2] = 1
    blue[:, 1] *= 0.75
    x = torch.where(made.mask[:, None], blue, made.images)
    assert torch.equal(made.scene_network(x), clean)
    assert torch.equal(made.scene_network(torch.where(made.mask[:, None], 0.0, made.images)), clean)
    x.requires_grad_()
    made.scene_network(x)[torch.arange(24), made.scene_labels].sum().backward()
    assert x.grad[made.mask[:, None].expand_as(x)].abs().max() == 0
    assert (made.scene_network(made.scenes) != clean).any(1).all()  # the scene below it counts


def test_the_patch_changes_nothing_behind_the_first_layer():
    made = metrics.pasted(24)
    first = made.scene_network[:2]
    assert torch.equal(first(made.patched), first(made.scenes))
    assert torch.equal(made.scene_network(made.patched), made.scene_network(made.scenes))


def test_even_stripes_of_other_directions_and_one_colour_say_nothing():
    down, across = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    patterns = [across, down, down + across, down - across]
    scenes = torch.zeros(5, 3, 24, 24)
    for k, pattern in enumerate(patterns):
        scenes[k, 1] = 0.25 + 0.5 * (pattern % 5 == 2)
    scenes[4, :] = 0.5
    # 64 times a fifth of the 20 x 20 places, at which five pixels of weight 4 / 32 stand out by a half
    expected = torch.cat([torch.eye(4) * 64 / 5 * 5 * 4 / 32 * 0.5, torch.zeros(1, 4)])
    torch.testing.assert_close(scene_network()(scenes), expected)


def test_hues_are_told_apart_pixel_by_pixel():
    hues = torch.tensor([[0, 0, 1], [0.75, 0, 1], [0, 0.75, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    out = object_network()(hues[:, :, None, None].expand(-1, -1, 4, 4).float())
    expected = torch.zeros(7, 3)
    expected[range(3), range(3)] = 64 * torch.tensor([1, 0.75, 0.75])
    assert torch.equal(out, expected)


def test_input_times_gradient_is_exact_in_both_networks():
    made = metrics.pasted(12)
    for network, labels in ((made.object_network, made.object_labels), (made.scene_network, made.scene_labels)):
        model = attribution.Model(network)
        maps = attribution.create("input_x_gradient", model).attribute(made.images, labels)
        torch.testing.assert_close(maps.sum((1, 2, 3)), model.scores(made.images, labels), rtol=1e-5, atol=0)
        assert model.auto_layer(made.images) == "3"  # before pooling


# -- the score of a region ---------------------------------------------------------------------------------------------


def test_importance_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 15, 17, generator=generator)
    mask = torch.rand(6, 15, 17, generator=generator) < 0.2
    expected = []
    for one, own in zip(maps.double().numpy(), mask.numpy(), strict=True):
        positive = np.maximum(one, 0) + 0
        low, high = positive.min(), np.percentile(positive, 99)
        expected.append(np.clip((positive - low) / (high - low), 0, 1)[own].mean())
    found = importance(maps, mask)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(importance(maps * 7.5, mask), found, rtol=1e-6, atol=0)  # maps are single precision
    positive = maps.abs()
    torch.testing.assert_close(importance(positive + 3, mask), importance(positive, mask), rtol=1e-5, atol=0)
    assert torch.equal(importance(torch.where(maps < 0, 9 * maps, maps), mask), found)


def test_one_large_pixel_is_tamed_and_few_pixels_have_a_scale():
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, :5] = True
    maps = mask.float()
    maps[0, 0, 0] = 1e5
    # the 99th percentile is that of the others: rank 395.01 of 399
    assert importance(maps, mask).tolist() == [1.0]
    sparse = torch.zeros(1, 20, 20)
    sparse[0, 0, :2], sparse[0, 19, 0] = 3.0, 2.0
    assert importance(sparse, mask).tolist() == [0.02]
    assert importance(sparse + 0.5, mask).tolist() == [0.02]
    assert importance(sparse + 1e-7 * torch.arange(400).reshape(1, 20, 20) / 400, mask).tolist() == [0.02]  # rounding


def test_a_map_without_a_scale_is_nan_also_where_rounding_hides_it():
    mask = torch.ones(5, 4, 4, dtype=torch.bool)
    maps = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), -torch.rand(4, 4), torch.ones(4, 4), torch.rand(4, 4)])
    maps[3, ::2] += 3e-7
    maps[2, 0, 0], maps[2, 1, 1] = 1e-7, -1
    assert importance(maps, mask).isnan().tolist() == [True, True, True, True, False]


# -- the metrics -------------------------------------------------------------------------------------------------------


def test_model_contrast_of_oracles_is_one_and_minus_one():
    found = metric("model_contrast").score(given("contrast"), curves=True)
    assert found.scores.tolist() == found.details["object"].tolist() == [1.0] * 12
    assert found.details["scene"].tolist() == [0.0] * 12
    assert metric("model_contrast").score(given("reversed")).tolist() == [-1.0] * 12


@pytest.mark.parametrize("name", ["random", "edge", "input", "center"])
def test_model_contrast_of_a_map_blind_to_the_network_is_exactly_zero(name):
    assert metric("model_contrast").score(method(name)).tolist() == [0.0] * 12


def test_input_dependence_of_oracles_and_ties():
    found = metric("input_dependence").score(given("seen"), curves=True)
    assert found.scores.tolist() == [1.0] * 12
    assert found.details["pasted"].tolist() == [0.0] * 12
    assert (found.details["plain"] > 0.05).all()
    found = metric("input_dependence").score(given("object"), curves=True)
    assert found.scores.tolist() == found.details["plain"].tolist() == [0.0] * 12
    for blind in ("random", "center"):
        assert metric("input_dependence").score(method(blind)).tolist() == [0.5] * 12
    assert metric("input_dependence").score(given("corner")).tolist() == [0.5] * 12
    for shows_the_picture in ("input", "edge"):
        assert metric("input_dependence").score(method(shows_the_picture)).tolist() == [0.0] * 12


def test_input_independence_of_oracles():
    found = metric("input_independence").score(given("seen"), curves=True)
    assert found.scores.tolist() == [1.0] * 12
    assert torch.equal(found.details["plain"], found.details["patched"])
    assert metric("input_independence").score(method("input")).tolist() == [0.0] * 12
    assert metric("input_independence").score(method("edge")).mean() < 0.4
    assert metric("input_independence").score(given("corner")).tolist() == [0.0] * 12  # nothing where something is


def test_the_threshold_is_the_relative_change():
    found = metric("input_independence", pictures=1).score(given("mixed"), curves=True)
    plain, patched = found.details["plain"].item(), found.details["patched"].item()
    change = abs(patched - plain) / plain
    assert 0.01 < change < 0.9
    for factor, expected in ((1.001, 1.0), (0.999, 0.0)):
        made = metric("input_independence", pictures=1, threshold=change * factor)
        assert made.score(given("mixed")).tolist() == [expected]


@pytest.mark.parametrize("name", ["input_x_gradient", "integrated_gradients", "grad_cam", "lrp", "occlusion"])
def test_methods_beat_the_controls(name):
    """Occlusion's windows reach beyond the object."""
    options = {"occlusion": {"window": 5, "stride": 3}, "integrated_gradients": {"steps": 5}}.get(name, {})
    made = method(name, **options)
    assert metric("model_contrast").score(made).min() > (0.3 if name == "occlusion" else 0.55)
    assert metric("input_dependence").score(made).mean() > 0.9
    assert metric("input_independence").score(made).tolist() == [1.0] * 12


def test_exact_shares_have_nothing_of_the_object_for_the_scene_network():
    made = metric("model_contrast").score(method("input_x_gradient"), curves=True)
    assert made.details["scene"].tolist() == [0.0] * 12
    assert made.scores.min() > 0.6  # a part of the object's pixels says half of what others say
    assert made.scores.max() < 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_map_is_undefined_and_counted(name):
    for constant in (method("constant"), given("rounded")):
        with pytest.warns(RuntimeWarning, match="undefined for 12 of 12 maps.*no scale"):
            scores = metric(name).score(constant)
        assert scores.isnan().all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model_contrast", [(True, 12, 7), (False, 12, 7)]),
        ("input_dependence", [(False, 24, 7)]),
        ("input_independence", [(False, 24, 7)]),
    ],
)
def test_all_pictures_are_asked_at_once(name, expected):
    ASKED.clear()
    metric(name).score(Given(detector(batch_size=7), function="seen"))
    assert expected == ASKED
    assert metric(name).explanations == 2
    assert metrics.describe(name)["cost"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_scores_belong_to_pictures(name):
    """More pictures go on where fewer ended; another seed draws others."""
    few, many = (metric(name, pictures=n).score(method("occlusion", window=6, stride=3), curves=True) for n in (5, 12))
    torch.testing.assert_close(few.scores, many.scores[:5], rtol=1e-4, atol=1e-6)  # single precision
    other = metric(name, pictures=5, seed=1).score(method("occlusion", window=6, stride=3), curves=True)
    assert all(not torch.equal(few.details[k], other.details[k]) for k in few.details)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_had_in_inference_mode(name):
    expected = metric(name).score(method("input_x_gradient"))
    with torch.inference_mode():
        assert torch.equal(metric(name).score(method("input_x_gradient")), expected)


@pytest.mark.parametrize("name", NAMES)
def test_who_cannot_be_put_on_the_networks_is_told_so(name):
    made = metric(name)
    own = f"{name} puts methods on a network of its own, where this one fails: "
    looker = attribution.Model(attribution.conformance.Looker().eval())
    with pytest.raises(ValueError, match=own + "attention methods do not run on this network"):
        made.score(attribution.create("attention_rollout", looker))
    with pytest.raises(ValueError, match=own + "unknown layer|" + own + ".*'again'"):
        made.score(method("grad_cam", layer="again"))
    with pytest.raises(ValueError, match=own + "a baseline of shape"):
        made.score(method("integrated_gradients", baseline=torch.zeros(5, 3, 16, 16)))
    network = detector().network
    with pytest.raises(ValueError, match="Captum object, which stays on the network"):
        made.score(attribution.from_captum(Saliency(network)))
    with pytest.raises(ValueError, match="made elsewhere"):
        made.score(attribution.from_maps(torch.rand(12, 32, 32), network))


def test_the_networks_have_the_pictures_bounds():
    zero, black = (method("integrated_gradients", baseline=b, steps=5) for b in ("zero", "black"))
    assert torch.equal(metric("model_contrast").score(black), metric("model_contrast").score(zero))


def test_a_bare_callable_s_method_is_put_on_the_networks_too():
    """Its own model is not asked, and has no device."""
    black_box = attribution.Model(lambda x: x.mean((2, 3)), fingerprint="mean")
    scores = metric("model_contrast").score(attribution.create("occlusion", black_box, window=6, stride=3))
    assert scores.min() > 0

"""Somebody else's maps, and Captum's objects."""

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model, from_captum, from_maps
from captum import attr as captum
from torch import nn

CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # float32 gradients; captum runs the network itself, ours a folded copy


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 3, 8, 8), (3, 8, 8), (3, 4, 4), (3, 1, 2, 2)])
def test_maps_of_every_shape_become_an_attributor(networks, images, shape):
    maps, x = torch.randn(shape, generator=torch.Generator().manual_seed(0)), images()
    found = from_maps(maps, networks.cnn(), name="mine").explain(x, 1)
    assert found.maps.shape == (3, 1, 8, 8)
    assert found.method == "mine"
    assert found.forwards.tolist() == [0, 0, 0]
    assert found.scores.shape == (3,)
    whole = maps.sum(1, keepdim=True) if len(shape) == 4 else maps[:, None]
    wanted = nn.functional.interpolate(whole, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.maps, wanted, rtol=1e-5, atol=1e-6)


def test_options_of_maps(networks, images):
    maps, x = torch.randn(3, 3, 4, 4), images()
    assert from_maps(maps, networks.cnn(), resize=None).attribute(x).shape == (3, 1, 4, 4)
    assert from_maps(maps, networks.cnn(), channels="keep").attribute(x).shape == (3, 3, 8, 8)
    assert float(from_maps(maps, networks.cnn(), channels="abs_sum").attribute(x).min()) >= 0
    one = from_maps(maps[:, :1], networks.cnn(), channels="abs_sum").attribute(x)
    assert float(one.min()) >= 0


def test_rows_of_maps(networks, images):
    maps, x = torch.randn(5, 1, 8, 8), images(5)
    made = from_maps(maps, networks.cnn(), name="mine")
    part = made.for_rows(slice(1, 3))
    assert torch.equal(part.attribute(x[1:3]), maps[1:3])
    assert part.name == "mine"
    with pytest.raises(ValueError, match="mine holds 5 maps and was asked about 3"):
        made.attribute(x[:3])


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.long), TypeError, "floating point"),
        ([1.0], TypeError, "floating point"),
        (torch.full((3, 8, 8), float("nan")), ValueError, "NaN"),
        (torch.zeros(3), ValueError, "got shape"),
        (torch.zeros(3, 1, 1, 8, 8), ValueError, "got shape"),
    ],
)
def test_wrong_maps_are_refused(networks, maps, error, message):
    with pytest.raises(error, match=message):
        from_maps(maps, networks.cnn())


def test_maps_of_a_table_do_not_explain_images(networks, images):
    with pytest.raises(ValueError, match="maps"):
        from_maps(torch.zeros(3, 5), networks.cnn()).attribute(images())


def test_maps_of_a_table():
    x, maps = torch.rand(3, 4), torch.randn(3, 4)
    assert torch.equal(from_maps(maps, Model(nn.Linear(4, 2), kind="table")).attribute(x, 0), maps)


def test_maps_are_compared_by_what_they_hold(networks):
    maps = torch.randn(2, 8, 8)
    one, two, three = (from_maps(m, networks.cnn()) for m in (maps, maps.clone(), maps + 1))
    assert one == two
    assert one != three
    assert one != from_maps(maps, networks.cnn(), name="other")


# -- captum ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_captum_object_sees_normalised_images(networks, images, untouched, training):
    network, x = networks.cnn(), images()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1)
    y = ((x - mean) / std).requires_grad_()
    wanted = captum.InputXGradient(network).attribute(y, target=torch.tensor([0, 1, 2])).detach()
    model = Model(network.train(training), mean=mean.flatten().tolist(), std=std.flatten().tolist())
    state = untouched(network)
    found = from_captum(captum.InputXGradient(network), model, channels="keep").explain(x, [0, 1, 2])
    state.check()
    torch.testing.assert_close(found.maps, wanted, **CLOSE)
    assert found.method == "InputXGradient"
    assert found.forwards.tolist() == [1, 1, 1]
    assert found.backwards.tolist() == [1, 1, 1]
    ours = attribution.create("input_x_gradient", model, channels="keep").attribute(x, [0, 1, 2])
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5)


def test_the_callers_network_and_images_are_left_alone(networks, images, untouched):
    network, x = networks.cnn().train(), images()
    state, copy = untouched(network), x.clone()
    from_captum(captum.Saliency(network)).attribute(x)
    state.check()
    assert torch.equal(x, copy)
    assert not x.requires_grad
    with pytest.raises(TypeError):
        from_captum(captum.Saliency(network), nonsense=3).attribute(x, 0)
    state.check()


def test_a_layer_method_of_captum_is_resized(networks, images):
    network, x = networks.cnn(), images(height=8, width=12)
    found = from_captum(captum.LayerGradCam(network, network[5]), name="their cam").explain(x, 2)
    wanted = captum.LayerGradCam(network, network[5]).attribute(x, target=2).detach()
    torch.testing.assert_close(found.native, wanted, **CLOSE)
    assert found.native.shape == (3, 1, 4, 6)
    assert found.maps.shape == (3, 1, 8, 12)
    assert found.forwards.tolist() == [1] * 3
    assert found.backwards.tolist() == [1] * 3


def test_what_captum_does_is_counted(networks, images):
    network, x = networks.cnn(), images(2)
    found = from_captum(captum.Occlusion(network), sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4)).explain(x, 0)
    assert found.forwards.tolist() == [5, 5]  # the clean image and four windows
    assert found.backwards.tolist() == [0, 0]
    found = from_captum(captum.IntegratedGradients(network), n_steps=7, internal_batch_size=4).explain(x, 0)
    assert found.forwards.tolist() == [7, 7]
    assert found.backwards.tolist() == [7, 7]
    found = from_captum(
        captum.FeatureAblation(network), feature_mask=torch.arange(64).reshape(1, 1, 8, 8) // 32
    ).explain(x, 0)
    assert found.forwards.tolist() == [3, 3]


@pytest.mark.parametrize("how", ["method", "lambda"])
def test_what_captum_does_with_a_function_is_counted_too(networks, images, how):
    """Every result carries its cost; zero would be a lie."""
    network, x = networks.cnn(), images(2)
    source = captum.Saliency(network.forward if how == "method" else lambda x: network(x))
    found = from_captum(source, Model(network)).explain(x, 0)
    assert found.forwards.tolist() == [1, 1]
    assert found.backwards.tolist() == [1, 1]


def test_targets_of_captum(networks, images):
    x = images(2)
    network = networks.cnn()
    for target in (1, [1, 1], torch.tensor([1, 1])):
        torch.testing.assert_close(
            from_captum(captum.Saliency(network)).attribute(x, target),
            captum.Saliency(network).attribute(x.clone().requires_grad_(), target=1).detach().sum(1, keepdim=True),
            **CLOSE,
        )
    named = from_captum(captum.Saliency(network)).explain(x)
    assert named.target.tolist() == network(x).argmax(1).tolist()
    with pytest.raises(ValueError, match="not a callable target"):
        from_captum(captum.Saliency(network)).attribute(x, lambda out: out[:, 0])
    dense = nn.Conv2d(3, 2, 3, padding=1)
    found = from_captum(captum.Saliency(dense)).attribute(x, (1, 3, 4))
    assert int((found[0, 0] > 0).sum()) <= 9  # the receptive field
    one = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0))
    assert from_captum(captum.Saliency(one)).attribute(x).shape == (2, 1, 8, 8)


def test_captum_objects_are_compared_by_what_they_are_set_to(networks):
    """A study keys its results by them: two layers must never be taken for one."""
    network = networks.cnn()
    one, again, other = (from_captum(captum.LayerGradCam(network, network[i])) for i in (2, 2, 5))
    assert one == again
    assert one != other
    assert from_captum(captum.Saliency(network)) != from_captum(captum.Saliency(network), abs=False)


def test_what_is_no_captum_object_is_refused(networks):
    with pytest.raises(TypeError, match="names no network"):
        from_captum(object())
    with pytest.raises(TypeError, match="no attribute"):
        from_captum(object(), Model(networks.cnn()))
    with pytest.raises(ValueError, match="when it has run"):
        from_captum(captum.Saliency(networks.cnn())).cost()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_captum_works_without_gradients(networks, images, context):
    network = networks.cnn()
    wanted = from_captum(captum.Saliency(network)).attribute(images(), 0)
    with context():
        found = from_captum(captum.Saliency(network)).attribute(images(), 0)
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_a_captum_object_stays_on_its_network():
    """A randomized copy, or a head of a grid, would go on being explained by the network as it was."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    theirs = attribution.from_captum(captum.Saliency(network), name="theirs")
    assert theirs.with_model(Model(network, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))) == theirs
    with pytest.raises(ValueError, match="stays on the network that it was made for"):
        theirs.with_model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)))
    with pytest.raises(ValueError, match="stays on the network"):
        metrics.create("model_randomization").score(theirs, torch.rand(2, 3, 4, 4), target=0)

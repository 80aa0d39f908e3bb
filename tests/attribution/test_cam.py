"""Class activation maps: closed forms, pytorch_grad_cam, captum, and every architecture of the zoo."""

import captum.attr
import pytest
import pytorch_grad_cam
import torch
from attriscope import attribution
from attriscope.attribution import Model, masking
from attriscope.attribution.attributor import resize
from attriscope.attribution.cam.eigen_cam import eigen_cam
from attriscope.attribution.cam.eigen_grad_cam import eigen_grad_cam
from attriscope.attribution.cam.grad_cam import grad_cam
from attriscope.attribution.cam.grad_cam_elementwise import grad_cam_elementwise
from attriscope.attribution.cam.grad_cam_pp import grad_cam_pp
from attriscope.attribution.cam.hires_cam import hires_cam
from attriscope.attribution.cam.layer_cam import layer_cam
from attriscope.attribution.cam.xgrad_cam import xgrad_cam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional

EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64, a few hundred terms of order 1
FUNCTIONS = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "xgrad_cam": xgrad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "grad_cam_elementwise": grad_cam_elementwise,
    "eigen_cam": lambda a, g: eigen_cam(a, center=False),
    "eigen_cam centred": lambda a, g: eigen_cam(a, center=True),
    "eigen_grad_cam": lambda a, g: eigen_grad_cam(a, g, center=False),
}
CAMS = [n for n in attribution.available("cam/*") if n != "guided_grad_cam"]
SMALL = {"top": 6}  # score_cam and ablation_cam: one forward for each map


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings(name):
    return SMALL if name in {"score_cam", "ablation_cam"} else {}


@pytest.fixture(scope="module")
def pooled(zoo):
    """A network whose last features are not negative, pooled and weighed: (model, images, features, weights, logits)."""
    network, x = zoo.plain_cnn().double(), zoo.images("plain_cnn", 3, dtype=torch.float64)
    with torch.no_grad():
        return Model(network), x, network[:6](x), network[8], network(x)


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "xgrad_cam"])
def test_before_a_pooling_they_are_the_original_cam(pooled, name):
    model, x, features, last, logits = pooled
    made = attribution.create(name, model, relu=False)
    found = made.explain(x, target=2)
    cam = (last.weight[2].detach()[:, None, None] * features / 64).sum(1, keepdim=True)
    torch.testing.assert_close(found.native, cam, **EXACT)
    # the whole score but for its bias
    torch.testing.assert_close(found.native.sum((1, 2, 3)), logits[:, 2] - last.bias[2].detach(), **EXACT)
    cut = attribution.create(name, model).explain(x, target=2).native
    torch.testing.assert_close(cut, cam.relu(), **EXACT)


@pytest.mark.parametrize("name", ["layer_cam", "grad_cam_elementwise"])
def test_before_a_pooling_these_have_the_positive_weights_alone(pooled, name):
    model, x, features, last, _ = pooled
    cam = (last.weight[1].detach().relu()[:, None, None] * features / 64).sum(1, keepdim=True)
    torch.testing.assert_close(attribution.create(name, model).explain(x, target=1).native, cam, **EXACT)


def test_grad_cam_pp_is_the_paper_s_formula(pooled):
    _, _, features, _, _ = pooled
    gradients = drawn(*features.shape)
    ratio = gradients**2 / (2 * gradients**2 + features.sum((2, 3), keepdim=True) * gradients**3)
    weights = torch.where(gradients > 0, ratio * gradients, 0).sum((2, 3), keepdim=True)
    torch.testing.assert_close(
        grad_cam_pp(features, gradients), (weights * features).sum(1, keepdim=True), rtol=1e-9, atol=1e-11
    )


def test_grad_cam_pp_leaves_out_what_speaks_against_and_divides_by_2_at_least():
    features, gradients = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    assert not grad_cam_pp(features.abs(), -gradients.abs()).any()
    # maps that sum to less than 0: 2 + G * sum(A) would vanish somewhere
    below = -features.abs()
    half = (gradients.relu() / 2).sum((2, 3), keepdim=True)
    torch.testing.assert_close(grad_cam_pp(below, gradients), (half * below).sum(1, keepdim=True), **EXACT)


def test_xgrad_cam_s_values_sum_to_gradient_times_activation():
    features, gradients = drawn(2, 5, 4, 4).abs(), drawn(2, 5, 4, 4, seed=1)
    found, wanted = xgrad_cam(features, gradients), hires_cam(features, gradients)
    torch.testing.assert_close(found.sum((1, 2, 3)), wanted.sum((1, 2, 3)), **EXACT)
    torch.testing.assert_close(xgrad_cam(-features, gradients), -found, **EXACT)


def test_xgrad_cam_is_finite_where_a_map_is_empty_or_cancels():
    features = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    features[0, 1] = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    assert not xgrad_cam(features[:, :1], drawn(1, 1, 2, 2)).any()
    found = xgrad_cam(features, drawn(1, 3, 2, 2))
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_where_a_gradient_is_the_same_everywhere_grad_cam_is_hires_cam():
    features, gradients = drawn(2, 5, 4, 3), drawn(2, 5, 1, 1, seed=1).expand(-1, -1, 4, 3)
    torch.testing.assert_close(grad_cam(features, gradients), hires_cam(features, gradients), **EXACT)


def test_where_all_is_positive_layer_cam_is_hires_cam():
    features, gradients = drawn(2, 5, 4, 3).abs(), drawn(2, 5, 4, 3, seed=1).abs()
    for other in (layer_cam, grad_cam_elementwise):
        torch.testing.assert_close(other(features, gradients), hires_cam(features, gradients), **EXACT)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 20, 3, 2)])
def test_the_order_of_features_and_the_other_images_do_not_matter(name, shape):
    features, gradients = drawn(*shape), drawn(*shape, seed=1)
    found = FUNCTIONS[name](features, gradients)
    assert found.shape == (shape[0], 1, *shape[2:])
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(2))
    close = {"rtol": 1e-6, "atol": 1e-8}  # eigenvectors: rounding over the gap between the first two
    torch.testing.assert_close(FUNCTIONS[name](features[:, order], gradients[:, order]), found, **close)
    alone = torch.cat([FUNCTIONS[name](features[i : i + 1], gradients[i : i + 1]) for i in range(shape[0])])
    torch.testing.assert_close(alone, found, **close)
    # some permutation of the places: what stands where does not matter to the others
    torch.testing.assert_close(FUNCTIONS[name](features.flip(3), gradients.flip(3)), found.flip(3), **close)


# -- eigenvectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 20, 3, 2), (2, 6, 2, 3)])
@pytest.mark.parametrize("center", [False, True])
def test_eigen_cam_is_the_first_singular_vector(shape, center):
    """Both Gram matrices, against the whole decomposition."""
    features = drawn(*shape)
    for one, found in zip(features, eigen_cam(features, center=center), strict=True):
        x = one.flatten(1).T
        x = x - x.mean(0) if center else x
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        wanted = (u[:, 0] * s[0]).reshape(1, *shape[2:])
        wanted = wanted if wanted.max() > -wanted.min() else -wanted
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)  # rounding over the gap of singular values
        assert found.max() > -found.min()


def test_eigen_cam_of_one_pattern_is_that_pattern():
    pattern = drawn(1, 1, 4, 4).abs()
    strength = drawn(1, 7, 1, 1, seed=1)
    found = eigen_cam(pattern * strength, center=False)
    torch.testing.assert_close(found, pattern * strength.norm(), rtol=1e-7, atol=1e-9)


def test_eigen_cam_of_features_without_negative_values_has_none():
    found = eigen_cam(drawn(4, 9, 5, 5).relu(), center=False)
    assert float(found.min()) > -1e-9  # the sign of rounding


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_eigen_cam_takes_features_whose_squares_float32_cannot_hold(scale):
    features = drawn(2, 5, 4, 4).float()
    found = eigen_cam(features * scale, center=False) / scale
    torch.testing.assert_close(found, eigen_cam(features, center=False), rtol=1e-3, atol=1e-4)


def test_eigen_cam_of_constant_features_is_finite():
    flat = torch.ones(2, 5, 4, 4)
    assert not eigen_cam(torch.zeros(2, 5, 4, 4), center=False).any()
    # what centring leaves of ones
    assert float(eigen_cam(flat, center=True).abs().max()) < 1e-5


def test_eigen_grad_cam_s_sign_is_that_of_what_raises_the_score():
    features, gradients = drawn(3, 5, 4, 4).abs(), drawn(3, 5, 4, 4, seed=1)
    for g in (gradients, -gradients, gradients.abs(), -gradients.abs()):
        found, sum_of_them = eigen_grad_cam(features, g, center=False), hires_cam(features, g)
        assert bool(((found * sum_of_them).sum((1, 2, 3)) > 0).all())
    torch.testing.assert_close(
        eigen_grad_cam(features, -gradients, center=False), -eigen_grad_cam(features, gradients, center=False)
    )


def test_eigen_cam_takes_one_forward_and_no_gradient(pooled):
    found = attribution.create("eigen_cam", pooled[0]).explain(pooled[1], target=2)
    assert found.forwards.tolist() == [1, 1, 1]
    assert found.backwards.tolist() == [0, 0, 0]
    torch.testing.assert_close(found.native, eigen_cam(pooled[2], center=False), rtol=1e-6, atol=1e-8)


# -- score_cam ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["increase", "softmax"])
@pytest.mark.parametrize("output", ["probability", "logit"])
def test_score_cam_by_hand(pooled, weights, output):
    model, x, features, _, _ = pooled
    found = attribution.create("score_cam", model, weights=weights, output=output, baseline=0.25).explain(x, target=3)
    for one, image, own in zip(features, x, found.details["weights"], strict=True):
        masks = functional.interpolate(one[:, None], (32, 32), mode="bilinear", align_corners=False)
        alive = masks.amax((1, 2, 3)) > masks.amin((1, 2, 3))
        masks = masks[alive]
        masks = masks - masks.amin((1, 2, 3), keepdim=True)
        masks = masks / masks.amax((1, 2, 3), keepdim=True)
        scores = model.scores(image * masks + 0.25 * (1 - masks), 3, output=output)
        ground = model.scores(torch.full_like(image, 0.25)[None], 3, output=output)
        wanted = torch.zeros(16, dtype=torch.float64)
        wanted[alive] = scores.softmax(0) if weights == "softmax" else scores - ground
        torch.testing.assert_close(own, wanted, **EXACT)
    cam = (found.details["weights"][:, :, None, None] * features).sum(1, keepdim=True)
    torch.testing.assert_close(found.native, cam.relu(), **EXACT)
    count = found.details["channels"]
    assert torch.equal(found.forwards, count + 1 + (weights == "increase"))
    assert not found.backwards.any()


def test_score_cam_passes_over_maps_that_are_constant_and_counts_each_image():
    conv = nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        # a constant, one that is constant but for the last digit, and the image
        conv.weight.copy_(torch.tensor([0.0, 3e-7, 1.0]).reshape(3, 1, 1, 1))
        conv.bias.copy_(torch.tensor([1.0, 1.0, 0.0]))
    network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[1] = 0.5
    found = attribution.create("score_cam", network, layer="0").explain(x, target=0)
    assert found.details["channels"].tolist() == [1, 0]
    assert found.forwards.tolist() == [3, 2]
    assert (found.details["weights"] != 0).tolist() == [[False, False, True], [False, False, False]]
    assert not found.native[1].any()


def test_score_cam_s_top_takes_the_maps_that_vary_most(pooled):
    model, x, features, _, _ = pooled
    spread = features.amax((2, 3)) - features.amin((2, 3))
    found = attribution.create("score_cam", model, budget=7).explain(x, target=0)
    assert found.params["top"] == 5
    assert found.forwards.tolist() == [7, 7, 7]
    for own, one in zip(found.details["weights"], spread, strict=True):
        assert set(own.nonzero().flatten().tolist()) == set(one.topk(5).indices.tolist())
    # those that are tried have the weights that they have among all
    whole = attribution.create("score_cam", model).explain(x, target=0).details["weights"]
    own = found.details["weights"]
    torch.testing.assert_close(own[own != 0], whole[own != 0], **EXACT)


def test_enlarged_masks_are_stretched_to_0_and_1(images):
    x = images(2, 3, 6, 8)
    maps = [torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)) * 50 - 7, torch.rand(1, 6, 8)]
    source = masking.Enlarged(x, torch.zeros(1, 3, 1, 1), maps)
    assert source.count == [3, 1]
    out = torch.empty(2, 3, 6, 8)
    source.write(out, 0, slice(1, 3))
    keep = out / x[0]
    torch.testing.assert_close(keep.amax((1, 2, 3)), torch.ones(2))
    assert float(keep.abs().amin()) == 0
    source.write(out[:1], 1, slice(0, 1))
    own = maps[1][0]
    torch.testing.assert_close(out[0], x[1] * (own - own.min()) / (own.max() - own.min()))


# -- ablation_cam ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1, 2, 3, 4])  # scores of both signs
def test_ablation_cam_before_a_pooling_has_a_closed_form(pooled, target):
    model, x, features, last, logits = pooled
    found = attribution.create("ablation_cam", model).explain(x, target=target)
    falls = last.weight[target].detach() * features.mean((2, 3))
    torch.testing.assert_close(found.details["weights"], falls / logits[:, target : target + 1].abs(), **EXACT)
    alive = (features.amax((2, 3)) > 0).sum(1)
    assert torch.equal(found.details["channels"], alive)
    assert torch.equal(found.forwards, alive + 1)


def test_ablation_cam_of_tokens_takes_a_feature_from_the_patches_alone(zoo):
    network, x = zoo.timm_vit_registers().double(), zoo.images("timm_vit_registers", 2, dtype=torch.float64)
    model = Model(network)
    found = attribution.create("ablation_cam", model, relu=False).explain(x, target=1)
    assert found.details["layer"] == "blocks.0"
    trunk, head = model.split("blocks.0")
    tokens = trunk.outputs(x)
    whole = head.outputs(tokens)[:, 1]
    weights = torch.zeros(2, 16, dtype=torch.float64)
    for k in range(16):
        other = tokens.clone()
        other[:, 3:, k] = 0
        weights[:, k] = (whole - head.outputs(other)[:, 1]) / whole.abs()
    torch.testing.assert_close(found.details["weights"], weights, **EXACT)
    cam = (tokens[:, 3:] * weights[:, None]).sum(2).reshape(2, 1, 4, 4)
    torch.testing.assert_close(found.native, cam, **EXACT)


def test_ablation_cam_is_finite_where_the_score_is_0():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[4].weight.copy_(torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0] * 4]))
        network[4].bias.zero_()
        network[0].weight[1], network[0].bias[1] = network[0].weight[0], network[0].bias[0]
        network[0].bias += 1
    made = attribution.create("ablation_cam", network, relu=False)
    found = made.explain(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)), target=0)
    assert float(found.scores) == 0
    assert bool(found.details["weights"][0, 0] > 0 > found.details["weights"][0, 1])
    assert not made.attribute(torch.rand(1, 3, 6, 6), target=1).any()  # nothing falls


def test_ablation_cam_s_top_takes_the_largest_maps(pooled):
    model, x, features, _, _ = pooled
    found = attribution.create("ablation_cam", model, top=3).explain(x, target=0)
    for own, one in zip(found.details["weights"], features.mean((2, 3)), strict=True):
        assert set(own.nonzero().flatten().tolist()) == set(one.topk(3).indices.tolist())


@pytest.mark.parametrize("name", ["ablation_cam", "iia", "neuron_conductance"])
def test_what_runs_the_rest_by_itself_says_where_a_connection_leads_around(zoo, name):
    made = attribution.create(name, zoo.timm_vit(), layer="blocks.1.norm1")
    with pytest.raises(ValueError, match=r"connection leads around 'blocks\.1\.norm1'"):
        made.attribute(zoo.images("timm_vit"))


# -- guided_grad_cam ---------------------------------------------------------------------------------------------------


def test_guided_grad_cam_is_the_product(zoo):
    model, x = Model(zoo.torchvision_mobilenet_v2()), zoo.images("torchvision_mobilenet_v2", 2)
    found = attribution.create("guided_grad_cam", model, channels="keep").explain(x, target=1)
    guided = attribution.create("guided_backprop", model, channels="keep").explain(x, target=1).native
    cam = attribution.create("grad_cam", model).explain(x, target=1)
    torch.testing.assert_close(found.maps, guided * cam.maps, rtol=1e-5, atol=1e-8 * float(guided.abs().max()))
    assert found.details["layer"] == cam.details["layer"]
    assert found.forwards.tolist() == [2, 2]
    finer = attribution.create("guided_grad_cam", model, resize="nearest", channels="keep").attribute(x, target=1)
    wanted = guided * resize(cam.native, (32, 32), "nearest")
    torch.testing.assert_close(finer, wanted, rtol=1e-5, atol=1e-8 * float(guided.abs().max()))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")
def test_guided_grad_cam_agrees_with_captum(zoo):
    network, x = zoo.plain_cnn(), zoo.images("plain_cnn", 2)
    for target in range(5):  # whose Grad-CAM has both signs for some
        oracle = captum.attr.GuidedGradCam(network, network[5])
        wanted = oracle.attribute(x.requires_grad_(), target=target, interpolate_mode="bilinear").detach()
        found = attribution.create("guided_grad_cam", network, channels="keep").attribute(x.detach(), target=target)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))  # float32


# -- against pytorch_grad_cam ------------------------------------------------------------------------------------------

ORACLES = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}
PLACES = {  # network: layer, tokens before the image's or channels last
    "torchvision_resnet18": ("layer4", None),
    "timm_efficientnet": ("bn2", None),
    "timm_swin": ("norm", "last"),
    "timm_vit": ("blocks.1.norm1", 1),
    "timm_vit_wide": ("blocks.1.norm1", 1),
    "timm_vit_registers": ("blocks.1.norm1", 3),
}
DIFFERENT = {  # layers whose values have both signs, where denominators vanish: see the docstrings
    (name, network) for name in ("grad_cam_pp", "xgrad_cam") for network in PLACES if network != "torchvision_resnet18"
}


def unnormalised(cls, network, layer, x, target, *, known=None, reshape=None, **more):
    """Their map before it is cut off, stretched and resized; and the features and gradients that it is made of."""
    cam = cls(model=network, target_layers=[layer], reshape_transform=reshape, **more)
    targets = [ClassifierOutputTarget(target)] * len(x)
    if known is None:
        out = cam.activations_and_grads(x)
        sum(t(o) for t, o in zip(targets, out, strict=True)).backward()
        known = [getattr(cam.activations_and_grads, which)[0].numpy() for which in ("activations", "gradients")]
    found = cam.get_cam_image(x, layer, targets, *known, False)  # not smoothed
    cam.activations_and_grads.release()
    return torch.as_tensor(found)[:, None].double(), known


@pytest.fixture(scope="module")
def seen(zoo):
    """For each place a model, images, and how they look at it; what they saw is kept for the next method."""
    made = {}

    def look(place):
        if place not in made:
            network, x = zoo.build(place).double(), zoo.images(place, 2, dtype=torch.float64)
            grid, (layer, form) = zoo.FACTS[place].grid, PLACES[place]

            def reshape(out):
                return out.permute(0, 3, 1, 2) if form == "last" else out[:, form:].transpose(1, 2).unflatten(2, grid)

            reshape = None if form is None else reshape
            module = network.get_submodule(layer)
            _, known = unnormalised(pytorch_grad_cam.GradCAM, network, module, x, 3, reshape=reshape)
            made[place] = Model(network), x, layer, known
        return made[place]

    return look


@pytest.mark.parametrize(
    ("name", "place"), [(n, p) for p in PLACES for n in ORACLES if (n, p) not in DIFFERENT], ids=lambda v: v
)
def test_they_agree_with_pytorch_grad_cam(seen, name, place):
    model, x, layer, known = seen(place)
    theirs, module = getattr(pytorch_grad_cam, ORACLES[name]), model.network.get_submodule(layer)
    wanted, _ = unnormalised(theirs, model.network, module, x, 3, known=known)
    more = {"center": True} if name.startswith("eigen") else {}
    found = attribution.create(name, model, relu=False, **more).explain(x, target=3)
    assert found.details["layer"] == layer  # with nothing said, or by its name
    if name.startswith("eigen"):  # their sign is the decomposition's
        same = (found.native * wanted).sum((1, 2, 3), keepdim=True) > 0
        wanted = torch.where(same, wanted, -wanted)
    # they convert to float32 here and there; grad_cam_pp: they add 1e-6 to denominators of the size of squared gradients
    tolerance = 1e-3 if name == "grad_cam_pp" else 1e-5
    torch.testing.assert_close(found.native, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))
    named = attribution.create(name, model, layer=layer, relu=False, **more).attribute(x, target=3)
    torch.testing.assert_close(named, found.maps)


@pytest.fixture
def fine():
    """A network whose features are as fine as the image, since they enlarge with align_corners; none is constant."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return network.double().eval(), torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64)


def test_score_cam_agrees_with_pytorch_grad_cam(fine):
    network, x = fine
    wanted = unnormalised(pytorch_grad_cam.ScoreCAM, network, network[3], x, 1)[0]
    made = attribution.create("score_cam", network, layer="3", output="logit", weights="softmax", baseline=0.0)
    # their scores are float32
    torch.testing.assert_close(made.explain(x, target=1).native, wanted, rtol=1e-5, atol=1e-6)


def test_ablation_cam_agrees_with_pytorch_grad_cam(fine):
    """At a layer that a ReLU ends: elsewhere they do not remove a map, they set it to the least value minus 1e7."""
    network, x = fine
    for target in range(3):
        wanted = unnormalised(pytorch_grad_cam.AblationCAM, network, network[3], x, target, batch_size=3)[0]
        found = attribution.create("ablation_cam", network, layer="3", relu=False).explain(x, target=target)
        sign = found.scores.sign()[:, None, None, None]  # they divide by the score with its sign
        torch.testing.assert_close(found.native * sign, wanted, rtol=1e-4, atol=1e-5)  # their scores are float32


# -- every architecture ------------------------------------------------------------------------------------------------


def test_every_cam_runs_on_every_network_with_nothing_passed(zoo, zoo_name, untouched):
    network, x = zoo.build(zoo_name), zoo.images(zoo_name, 2)
    before = untouched(network)
    model = Model(network)
    assert set(CAMS) <= set(attribution.available("cam/*", model=model))  # before it has seen an image
    for name in CAMS:
        made = attribution.create(name, model, relu=False, **settings(name))
        found = made.explain(x)
        assert found.maps.shape == (2, 1, *x.shape[2:])
        assert bool(found.native.flatten(1).any(1).all()), name
        if name in {"hires_cam", "ablation_cam"}:  # one with gradients, and one without
            close = 1e-4 * float(found.maps.abs().max())  # float32
            torch.testing.assert_close(made.attribute(x[1:]), found.maps[1:], rtol=0, atol=close)
    assert set(CAMS) <= set(attribution.available("cam/*", model=model))
    before.check()


def test_no_cam_is_available_for_a_network_without_maps(networks, images):
    model = Model(networks.mlp())
    assert not attribution.available("cam/*", model=model)
    model.outputs(images(2))
    assert not attribution.available("cam/*", model=model)
    with pytest.raises(ValueError, match=r"does not run on this model: no layer was found.*no spatial layer"):
        attribution.create("layer_cam", model)


@pytest.mark.parametrize("name", ["Grad-CAM++", "grad-cam-pp", "gradcam++", "GradCAM_plus_plus"])
def test_grad_cam_pp_has_the_names_that_people_use(name):
    assert attribution.describe(name)["name"] == "grad_cam_pp"

"""What `available(model=...)` lists runs on that network with nothing else passed, and tells CNNs from transformers."""

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.attributor import REGISTRY

SEEN_BY_ATTENTION = {"raw_attention", "attention_rollout", "grad_attention", "gae", "transformer_attribution"}


@pytest.mark.parametrize("name", ["torchvision_resnet18", "timm_swin", "timm_vit", "hf_vit"])
def test_all_that_is_listed_runs_with_nothing_else_passed(zoo, name):
    """With the small hyper-parameters of the tests: what a user passes for speed, and needs not pass at all."""
    model, x = Model(zoo.build(name, 0)), zoo.images(name, 1)
    model.outputs(x)
    listed = attribution.available(model=model)
    assert len(listed) > 60
    for method in listed:
        small = REGISTRY.find(method).facts.tags["small"]
        found = attribution.create(method, model, **small).explain(x)
        assert found.maps.shape == (1, 1, *x.shape[2:]), method
        assert bool(found.maps.isfinite().all()), method


@pytest.mark.parametrize("seen", [False, True])
def test_a_cnn_s_methods_are_not_a_transformer_s(zoo, seen):
    listed = {}
    for name in ("torchvision_resnet18", "timm_vit", "timm_swin"):
        model = Model(zoo.build(name, 0))
        if seen:
            model.outputs(zoo.images(name, 1))
        listed[name] = set(attribution.available(model=model))
    cnn, vit = listed["torchvision_resnet18"], listed["timm_vit"]
    assert not SEEN_BY_ATTENTION & cnn
    assert vit >= SEEN_BY_ATTENTION
    assert {"attn_lrp", "cp_lrp", "pa_lrp"} <= vit - cnn
    assert {"full_grad", "guided_backprop"} <= cnn
    if seen:  # windows have no class token to roll out to
        assert not SEEN_BY_ATTENTION & listed["timm_swin"]
    assert {"grad_cam", "integrated_gradients", "deeplift", "rise"} <= cnn & vit & listed["timm_swin"]


def test_the_alias_of_every_method_is_the_method():
    """Case, hyphens and underscores do not matter."""
    for alias, name in {
        "GradCAM": "grad_cam", "grad-cam": "grad_cam", "Grad-CAM++": "grad_cam_pp", "IG": "integrated_gradients",
        "SmoothGrad": "smoothgrad", "GuidedBackprop": "guided_backprop", "deconvolution": "deconvnet", "DeepLift": "deeplift",
        "DeepLiftSHAP": "deep_lift_shap", "lrp-epsilon": "lrp", "generic_attention": "gae", "SAMP++": "samp_pp",
        "attention_x_gradient": "grad_attention", "grad_x_input": "input_x_gradient", "conductance": "layer_conductance",
    }.items():  # fmt: skip
        assert attribution.describe(alias)["name"] == name


def test_a_method_at_a_layer_costs_what_it_says(zoo):
    """A pass of what follows the layer is charged as one of the whole."""
    model, x = Model(zoo.build("torchvision_resnet18", 0)), zoo.images("torchvision_resnet18", 2)
    for method, options in (("ig", {"steps": 5}), ("rise", {"masks": 12}), ("deeplift", {}), ("grad_cam", {})):
        made = attribution.create(method, model, at="middle", **options)
        found = made.explain(x)
        spent = (found.forwards + found.backwards).tolist()
        assert spent == [sum(type(made).cost(tuple(x.shape[1:]), **made.params))] * 2, method


def test_a_map_at_a_layer_is_the_method_on_what_follows(zoo):
    """IG at a layer by hand: on the head, from a zero activation."""
    network, x = zoo.build("torchvision_resnet18", 0), zoo.images("torchvision_resnet18", 2)
    model = Model(network)
    found = attribution.create("ig", model, layer="layer2", steps=6).explain(x, 1)
    trunk, head = model.split("layer2")
    by_hand = attribution.create("ig", head, steps=6).attribute(trunk.outputs(x), 1)
    torch.testing.assert_close(found.native, by_hand)
    assert found.details["layer"] == "layer2"
    assert found.maps.shape == (2, 1, *x.shape[2:])

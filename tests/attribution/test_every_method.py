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


def test_one_number_for_each_image_is_tried_too():
    """Whether the LRP family runs is found by a trial, whatever the outputs' shape."""

    class Value(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())

        def forward(self, x):
            return self.body(x).mean(1)

    model = Model(Value(), bounds=None)
    model.outputs(torch.rand(2, 3, 8, 8))
    assert {"lrp", "deeplift", "guided_backprop"} <= set(attribution.available(model=model))


def test_an_operation_without_a_rule_is_told_before_anything_runs():
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            s = x.sigmoid()
            return g * s * (1 + x * (1 - s))

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(Swish.apply(self.conv(x)).mean((2, 3)))

    model, x = Model(Hidden(), bounds=None, fast=False), torch.rand(2, 3, 8, 8)  # a trace would look into it
    model.outputs(x)
    listed = attribution.available(model=model)
    assert "integrated_gradients" in listed
    assert not {"lrp", "deeplift", "guided_backprop", "deconvnet"} & set(listed)
    with pytest.raises(ValueError, match="Swish"):
        attribution.create("deeplift", model)


@pytest.mark.parametrize("method", ["gradient", "lrp", "deeplift", "grad_cam"])
def test_labels_made_in_inference_mode_serve_gradients(networks, images, method):
    network, x = networks.cnn(), images(2)
    with torch.inference_mode():
        labels = network(x).argmax(1)
    made = attribution.create(method, network)
    assert torch.equal(made.attribute(x, labels), made.attribute(x, labels.tolist()))


def test_a_tensor_with_as_many_rows_as_images_must_follow_them():
    """Prompts, say: one for each class, and by chance as many as images."""

    class Prompted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 6, 3)

        def forward(self, x, text):
            return self.conv(x).mean((2, 3)) @ text.T

    model = Model(Prompted(), bounds=None, forward={"text": torch.rand(5, 6)})
    assert attribution.create("gradient", model).attribute(torch.rand(4, 3, 8, 8), 3).shape == (4, 1, 8, 8)
    other = Model(Prompted(), bounds=None, forward={"text": torch.rand(5, 6)})
    with pytest.raises(ValueError, match="as many rows as there are images"):
        attribution.create("gradient", other).attribute(torch.rand(5, 3, 8, 8), 0)


def test_halves_are_not_kept_for_every_size_of_image(networks):
    model = Model(networks.cnn())
    for side in range(8, 20):
        attribution.create("grad_cam", model).attribute(torch.rand(1, 3, side, side), 0)
    assert len(model._splits) <= 2


def test_a_layer_that_leads_nowhere_gets_a_map_of_zeros():
    class Aside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.aux, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1), torch.nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            self.aux(x)
            return self.fc(x.mean((2, 3)))

    assert not attribution.create("grad_cam", Aside(), layer="aux").attribute(torch.rand(1, 3, 8, 8), 0).any()

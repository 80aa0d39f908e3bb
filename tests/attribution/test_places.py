"""Places in a network: which layers are found where nothing or a depth is named, and methods of pixels at inner layers."""

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model
from torch import nn

PLACES = {  # where CAMs look; a cut in the middle; the last cut
    "plain_cnn": ("5", "3", "5"),
    "vgg_like": ("features.6", "features.4", "features.6"),
    "preactivation_resnet": ("relu", "blocks.0", "relu"),
    "torchvision_resnet18": ("layer4", "layer2", "layer4"),
    "torchvision_mobilenet_v2": ("features", "features.2", "features"),
    "torchvision_mobilenet_v3": ("features", "features.2", "features"),
    "torchvision_convnext": ("features", "features.3", "features"),
    "torchvision_densenet": ("features", "features.denseblock1", "features"),
    "torchvision_vit": (
        "encoder.layers.encoder_layer_1.ln_1",
        "encoder.layers.encoder_layer_0",
        "encoder.layers.encoder_layer_0",
    ),
    "torchvision_swin": ("permute", "features.1", "permute"),
    "timm_resnet": ("layer4", "layer2", "layer4"),
    "timm_efficientnet": ("bn2", "blocks.1", "bn2"),
    "timm_convnext": ("stages", "stages.1", "stages"),
    "timm_vit": ("blocks.1.norm1", "patch_embed", "blocks.0"),
    "timm_vit_pooled": ("blocks", "blocks.0", "blocks"),
    "timm_vit_registers": ("blocks.1.norm1", "patch_embed", "blocks.0"),
    "timm_vit_wide": ("blocks.1.norm1", "patch_embed", "blocks.0"),
    "timm_deit": ("blocks.1.norm1", "patch_embed", "blocks.0"),
    "timm_swin": ("norm", "layers.0", "norm"),
    "hf_vit": ("vit.layers.1.layernorm_before", "vit.embeddings", "vit.layers.0"),
    "hf_deit": ("deit.layers.1.layernorm_before", "deit.embeddings", "deit.layers.0"),
    "hf_swin": ("swin.layernorm", "swin.encoder.layers.0.downsample", "swin.layernorm"),
    "hf_convnext": ("convnext.encoder.stages.3", "convnext.encoder.stages.1", "convnext.encoder.stages.3"),
    "hf_resnet": ("resnet.encoder.stages.2", "resnet.encoder.stages.1", "resnet.encoder.stages.2"),
}
LAST = {"timm_swin"}  # channels last


@pytest.fixture(scope="module")
def built(zoo):
    made = {}

    def build(name):
        if name not in made:
            made[name] = Model(zoo.build(name)), zoo.images(name, 2)
        return made[name]

    return build


def test_the_table_has_every_network(zoo):
    assert set(PLACES) == set(zoo.names())


def test_which_layers_are_found(zoo, built, untouched, zoo_name):
    model, x = built(zoo_name)
    before = untouched(model.network)
    facts, (auto, middle, final) = zoo.FACTS[zoo_name], PLACES[zoo_name]
    assert (model.auto_layer(x), model.place("middle"), model.place("final")) == (auto, middle, final)
    for layer in (auto, final):  # the last map, or the patches
        layout = model.layout(layer)
        assert layout.grid == facts.grid
        tokens = facts.kind == "vit" or zoo_name == "hf_swin"
        assert layout.form == ("tokens" if tokens else "last" if zoo_name in LAST else "first")
        assert layout.prefix == facts.prefix
    # around a norm in a block leads a connection; then what runs the rest by itself takes the last place to cut
    around = facts.kind == "vit" and not facts.pooled
    assert model.auto_layer(cut=True) == (final if around else auto)
    before.check()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_features_and_gradients_are_what_hooks_see(zoo, built, zoo_name, which):
    """Also where a connection leads around the layer."""
    (model, x), layer = built(zoo_name), PLACES[zoo_name][which]
    kept = []
    network = zoo.build(zoo_name)

    def keep(module, inputs, out):
        kept.append(out.detach().requires_grad_())
        return kept[0] * 1  # so that what follows may work in place

    handle = network.get_submodule(layer).register_forward_hook(keep)
    score = zoo.outputs(network, x)[:, 1]
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept)
    model.layers(x)  # a layout is known once the model has seen an image
    layout = model.layout(layer)
    found = model.features(x, model.resolve(x, 1), layer, lambda *given: given[1:])
    both = layout.maps(kept[0].detach()), layout.maps(gradient)
    for got, wanted in zip(zip(*found, strict=True), both, strict=False):
        assert wanted.shape[2:] == layout.grid
        # float32, folded batch norms
        torch.testing.assert_close(torch.cat(got), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    torch.testing.assert_close(torch.cat([f[2] for f in found]), score.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layout.put(kept[0], layout.maps(kept[0])).detach().flatten(), kept[0].detach().flatten())


@pytest.mark.parametrize("at", ["middle", "final"])
def test_integrated_gradients_at_a_layer_tell_what_they_sum_to(zoo, built, zoo_name, at):
    model, x = built(zoo_name)
    found = attribution.create("integrated_gradients", model, at=at, steps=5, rule="midpoint").explain(x, target=2)
    layer = PLACES[zoo_name][{"middle": 1, "final": 2}[at]]
    assert found.details["layer"] == layer
    assert found.maps.shape == (2, 1, *x.shape[2:])
    assert found.native.shape[2:] == model.layout(layer).grid
    assert bool(found.native.flatten(1).any(1).all())
    # the delta itself may be large: a layer norm hands on the same at any distance from 0
    if model.layout(layer).prefix == 0:
        total = found.native.sum((1, 2, 3)) - found.details["convergence_delta"]
        scale = float(found.details["gain"].abs().max())
        torch.testing.assert_close(total, found.details["gain"][:, 0], rtol=1e-3, atol=1e-3 * scale)  # float32


def test_rise_at_the_last_layer_masks_its_places(zoo, built, zoo_name):
    model, x = built(zoo_name)
    made = attribution.create("rise", model, at="final", masks=24)
    found = made.explain(x)
    assert found.maps.shape == (2, 1, *x.shape[2:])
    assert bool(found.native.flatten(1).any(1).all())
    close = 1e-4 * float(found.native.abs().max())  # float32
    torch.testing.assert_close(made.explain(x[1:]).native, found.native[1:], rtol=0, atol=close)


def test_auto_is_the_last_cut_for_methods_of_pixels(zoo, built):
    model, x = built("timm_vit")
    by_name = attribution.create("saliency", model, layer="blocks.0").explain(x)
    for more in ({"layer": "auto"}, {"at": "final"}, {"layer": "auto", "at": "final"}):
        found = attribution.create("saliency", model, **more).explain(x)
        assert found.details["layer"] == "blocks.0"
        torch.testing.assert_close(found.maps, by_name.maps)
    assert attribution.create("saliency", model, layer="auto", at="middle").explain(x).details["layer"] == "patch_embed"


def test_a_layer_by_name_and_a_depth_exclude_one_another(zoo):
    for name in ("saliency", "grad_cam", "layer_conductance"):
        with pytest.raises(ValueError, match="give one of them"):
            attribution.create(name, zoo.plain_cnn(), layer="3", at="final")


def test_a_bare_callable_has_no_layers():
    for name in ("saliency", "layer_integrated_gradients"):
        with pytest.raises(ValueError, match="layer"):
            attribution.create(name, lambda x: x.flatten(1), layer="auto")


@pytest.mark.parametrize("name", ["grad_cam", "layer_conductance", "layer_integrated_gradients", "iia"])
def test_a_network_without_maps_is_refused_in_a_sentence(networks, images, name):
    model, x = Model(networks.mlp()), images(2)
    model.outputs(x)
    assert name not in attribution.available(model=model)
    with pytest.raises(
        ValueError, match=r"no layer was found with a map of the image: pass layer=\.\.\..*no spatial layer"
    ):
        attribution.create(name, model)
    with pytest.raises(ValueError, match="no map of the image"):
        attribution.create(name, model, layer="1").attribute(x)


def test_where_a_class_token_is_all_that_is_read_candidates_are_listed(networks, images):
    model = Model(networks.vit())
    with pytest.raises(ValueError, match=r"pass layer=\.\.\., for example one of \['patch'"):
        attribution.create("grad_cam", model).attribute(images(2))


def test_a_cut_is_tried_once(monkeypatch, built):
    """Tracing a network is slow, and a path of images asks again and again."""
    from attriscope.attribution import _layers

    model, x = built("timm_vit")
    attribution.create("grad_cam", model).attribute(x)
    monkeypatch.setattr(_layers, "split", lambda *_: pytest.fail("cut again"))
    attribution.create("grad_cam", model).attribute(x)
    attribution.create("ablation_cam", model, top=2).attribute(x)


def test_activations_of_rows_have_their_own_arguments():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x, shift):
            return self.conv(x + shift[:, None, None, None]).mean((2, 3))

    x, shift = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5.0)
    network = Shifted().eval()
    model = Model(network, bounds=None, forward={"shift": shift}, batch_size=2)
    with torch.no_grad():
        wanted = network.conv(x + shift[:, None, None, None])
    torch.testing.assert_close(model.activations(x, "conv"), wanted)
    rows = torch.tensor([3, 4])
    torch.testing.assert_close(model.activations(x[rows], "conv", rows=rows, count=5), wanted[rows])
    found = attribution.create("eigen_cam", model, relu=False).explain(x, target=0)
    alone = torch.cat([
        attribution.create("eigen_cam", Model(network, bounds=None, forward={"shift": shift[i : i + 1]}), relu=False)
        .explain(x[i : i + 1], target=0).native
        for i in range(5)
    ])  # fmt: skip
    torch.testing.assert_close(found.native, alone, rtol=1e-4, atol=1e-4)  # eigenvectors in float32


@pytest.mark.parametrize("layer", ["input", "final"])
def test_a_head_of_a_grid_sees_its_cell_alone(zoo, built, zoo_name, layer):
    """DiFull on every network: exactly nothing outside, and something inside."""
    model, x = built(zoo_name)
    cells = zoo.images(zoo_name, 4)
    rows = [torch.cat([cells[2 * r], cells[2 * r + 1]], 2) for r in (0, 1)]
    grids = metrics.Grids(torch.cat(rows, 1)[None], torch.tensor([[0, 1, 2, 1]]), torch.arange(4)[None], 2, 0.0)
    game = metrics.create("difull", layer=layer)
    method = attribution.create("gradient", model, channels="abs_sum")
    model.layers(x)
    if layer != "input" and model.layout(PLACES[zoo_name][2]).form == "tokens":
        with pytest.raises(ValueError, match="no map that has cells"):
            game.maps(method, grids)
        return
    found = game.maps(method, grids)
    assert found.scores.tolist() == [1.0, 1.0]
    if layer == "input":
        alone = method.attribute(cells[3:], 1)[0, 0]
        height, width = alone.shape
        close = 1e-3 * float(alone.abs().max())  # float32, folded batch norms
        torch.testing.assert_close(found.maps[1, height:, width:], alone, rtol=1e-3, atol=close)

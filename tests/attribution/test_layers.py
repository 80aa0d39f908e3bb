"""Layers: where class activation maps are read, how a network is cut in two, and grids whose cells are strangers."""

import pytest
import torch
from attriscope.attribution.model import Model
from torch import nn

# float32 logits of order 1; the halves are folded apart from the whole, so a few ulp of rounding differ
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

LAYERS = {  # network, layer, where the head goes on
    "cnn": ["0", "1", "2", "3", "4", "5", "6", "7", "8"],
    "vgg": [
        "features",
        "features.0",
        "features.1",
        "features.2",
        "features.4",
        "features.5",
        "avgpool",
        "classifier.0",
    ],
    "resnet": ["conv1", "bn1", "relu", "layer1", "layer1.0", "layer1.1", "layer1.1.relu@1", "layer2", "avgpool", "fc"],
    "efficientnet": ["conv_stem", "bn1", "blocks", "conv_head", "bn2", "act2", "pool", "drop"],
    "vit": ["patch"],
    "branching": ["features", "features.0", "features.1", "features.2"],
    "locked": ["features", "features.1"],
    "statement": ["conv1", "conv2", "fc"],
    "optional": ["conv", "bn"],
}
CUTS = [(name, at) for name, layers in LAYERS.items() for at in layers]


# -- auto_layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [("cnn", "5"), ("vgg", "features.4"), ("resnet", "layer2"), ("efficientnet", "act2"), ("branching", "features")],
)
@pytest.mark.parametrize("training", [False, True])
def test_auto_layer_is_the_last_map_before_pooling(networks, images, name, layer, training):
    model = Model(getattr(networks, name)().train(training))
    assert model.auto_layer(images()) == layer
    assert model.split(model.auto_layer())[0].outputs(images()).ndim == 4


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_auto_layer_says_what_to_pass_where_there_is_none(networks, images, name):
    with pytest.raises(ValueError, match=r"pass layer=\.\.\..*" + ("no spatial layer" if name == "mlp" else "'patch'")):
        Model(getattr(networks, name)()).auto_layer(images())


def test_layers_lists_every_call_in_order(networks, images):
    model = Model(networks.resnet())
    with pytest.raises(ValueError, match=r"layers\(images\)"):
        model.layers()
    found = {c.name: c for c in model.layers(images())}
    assert list(found)[:3] == ["conv1", "bn1", "relu"]
    assert list(found)[-1] == "fc"
    assert {"layer1.0.relu@0", "layer1.0.relu@1"} <= set(found)
    assert found["conv1"].shape == (1, 4, 4, 4)
    assert found["fc"].shape == (1, 5)
    assert found["conv1"].type == "Conv2d"
    assert model.forwards == 0


def test_layers_are_in_evaluation_mode(networks, images):
    """A network that cannot be copied is run itself: not as if it were trained."""
    network = networks.locked().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    Model(network).layers(images())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in network.modules())


# -- split -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at"), CUTS, ids=[f"{n}:{a}" for n, a in CUTS])
@pytest.mark.parametrize("seen", [False, True])
def test_head_of_trunk_is_the_network(networks, images, name, at, seen):
    network, x = getattr(networks, name)(), images(3)
    model = Model(network, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.4), fast=name != "statement")
    wanted = Model(getattr(networks, name)(), mean=model.mean, std=model.std, fast=False)
    if seen or name in {"branching", "locked"}:  # those are cut by trying
        model.outputs(x)
    trunk, head = model.split(at)
    activation = trunk.outputs(x)
    assert torch.equal(activation, trunk.outputs(x))
    kept = activation.clone()
    torch.testing.assert_close(head.outputs(activation), wanted.outputs(x), **CLOSE)
    scores, gradients = head.gradients(activation, [0, 1, 2])
    torch.testing.assert_close(scores, wanted.scores(x, [0, 1, 2]), **CLOSE)
    assert torch.equal(activation, kept)  # what works in place after the cut works on a copy
    assert gradients.shape == activation.shape


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("vgg", "features.3"),
        ("resnet", "layer1.1"),
        ("resnet", "bn1"),
        ("efficientnet", "bn2"),
        ("branching", "features"),
    ],
)
def test_gradients_at_a_layer_equal_autograd(networks, images, name, at):
    network, x = getattr(networks, name)(), images(3)
    kept = []

    def keep(module, inputs, output):
        leaf = output.detach().requires_grad_()
        kept.append(leaf)
        return leaf * 1  # so that what follows may work in place

    handle = network.get_submodule(at).register_forward_hook(keep)
    score = network(x)[:, 2].sum()
    handle.remove()
    (wanted,) = torch.autograd.grad(score, kept[0])
    model = Model(network)
    model.outputs(x)
    trunk, head = model.split(at)
    torch.testing.assert_close(trunk.outputs(x), kept[0].detach(), **CLOSE)
    found = head.gradients(kept[0].detach(), 2)[1]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("mean", [None, (0.4, 0.5, 0.6)])
def test_a_cut_at_the_input_normalises_once(networks, images, mean):
    model, x = Model(networks.cnn(), mean=mean, std=None if mean is None else (0.2, 0.3, 0.4)), images()
    trunk, head = model.split("input")
    torch.testing.assert_close(head.outputs(trunk.outputs(x)), model.outputs(x), **CLOSE)
    grid_trunk, grid_head = model.split("input", grid=2, head=1)
    big = images(2, height=16, width=16)
    torch.testing.assert_close(grid_head.outputs(grid_trunk.outputs(big)), model.outputs(big[:, :, :8, 8:]), **CLOSE)


def test_the_cost_of_both_halves_is_that_of_the_whole(networks, images):
    model, x = Model(networks.cnn()), images(3)
    with model.ledger(3) as ledger:
        trunk, head = model.split("2")
        head.gradients(trunk.outputs(x), 0)
    assert ledger.forwards.tolist() == [1, 1, 1]
    assert ledger.backwards.tolist() == [1, 1, 1]


def test_a_layer_that_is_called_often_must_be_numbered(networks, images):
    model = Model(networks.resnet())
    with pytest.raises(ValueError, match=r"called 2 times.*layer1.0.relu@0 to layer1.0.relu@1"):
        model.split("layer1.0.relu")
    for at, message in (("layer1.0.relu@2", r"2 time\(s\) only"), ("layer1.0.relu@x", "write layer1.0.relu@k")):
        with pytest.raises(ValueError, match=message):
            model.split(at)
    torch.testing.assert_close(
        model.activations(images(), "layer1.0.relu@1"), model.activations(images(), "layer1.0"), **CLOSE
    )


@pytest.mark.parametrize("name", ["resnet", "branching"])
def test_an_unknown_layer_lists_close_ones(networks, images, name):
    model = Model(getattr(networks, name)())
    model.outputs(images())
    for call in (model.split, lambda at: model.activations(images(), at)):
        with pytest.raises(
            ValueError, match="no layer 'layer3'.*layer1" if name == "resnet" else "no layer 'feature'.*features"
        ):
            call("layer3" if name == "resnet" else "feature")


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet", "layer1.0.conv1"),
        ("resnet", "layer1.0.relu@0"),
        ("efficientnet", "blocks.0.depthwise"),
        ("vit", "norm"),
    ],
)
@pytest.mark.parametrize("seen", [False, True])
def test_a_skip_connection_around_the_layer_is_refused(networks, images, name, at, seen):
    model = Model(getattr(networks, name)())
    if seen:
        model.outputs(images())
    with pytest.raises(ValueError, match="a connection leads around it"):
        model.split(at)
    assert model.activations(images(), at).shape[0] == 3  # looking at it is allowed


def test_a_skip_connection_in_a_network_that_cannot_be_traced_is_refused(images):
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return (self.conv(x) + x if float(x.detach().sum()) > -1e9 else x).mean((2, 3))

    model = Model(Skipping())
    with pytest.raises(ValueError, match="show the model an image first"):
        model.split("conv")
    model.outputs(images())
    with pytest.raises(ValueError, match="a connection leads around it"):
        model.split("conv")


@pytest.mark.parametrize("name", ["statement", "vgg", "resnet", "branching"])
def test_activations_are_what_the_layer_hands_on(networks, images, name):
    network, x = getattr(networks, name)(), images()
    model = Model(network, fast=False)
    seen = {}
    calls = {c.name for c in model.layers(x)}
    for layer, module in network.named_modules():
        if layer in calls:
            module.register_forward_hook(lambda m, i, o, n=layer: seen.update({n: o.detach().clone()}))
    network(x)
    for layer, wanted in seen.items():
        torch.testing.assert_close(Model(getattr(networks, name)(), fast=False).activations(x, layer), wanted, **CLOSE)


# -- grids -------------------------------------------------------------------------------------------------------------


GRIDS = [
    ("cnn", "2", 2, 8, 8),
    ("vgg", "features.4", 2, 8, 8),
    ("resnet", "layer1", 2, 8, 8),
    ("branching", "features", 2, 8, 8),
    ("cnn", "5", (1, 3), 6, 10),
    ("cnn", "0", (3, 2), 7, 5),
]


@pytest.mark.parametrize(("name", "at", "grid", "height", "width"), GRIDS)
def test_the_head_of_a_cell_is_the_model_on_that_cell(networks, images, name, at, grid, height, width):  # noqa: PLR0917
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    model = Model(getattr(networks, name)(), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.4))
    x = images(2, height=rows * height, width=columns * width)
    model.outputs(x[:, :, :height, :width])
    for cell in range(rows * columns):
        trunk, head = model.split(at, grid=grid, head=cell)
        r, c = divmod(cell, columns)
        own = x[:, :, r * height : (r + 1) * height, c * width : (c + 1) * width]
        torch.testing.assert_close(head.outputs(trunk.outputs(x)), model.outputs(own), **CLOSE)


@pytest.mark.parametrize(("name", "at", "grid", "height", "width"), GRIDS)
def test_cells_know_nothing_of_each_other(networks, images, name, at, grid, height, width):  # noqa: PLR0917
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    model = Model(getattr(networks, name)())
    x, other = (images(2, height=rows * height, width=columns * width, seed=s) for s in (0, 1))
    model.outputs(x[:, :, :height, :width])
    cell = rows * columns - 2
    r, c = divmod(cell, columns)
    inside = torch.zeros(rows * height, columns * width, dtype=torch.bool)
    inside[r * height : (r + 1) * height, c * width : (c + 1) * width] = True
    trunk, head = model.split(at, grid=grid, head=cell)
    activation, changed = trunk.outputs(x), trunk.outputs(torch.where(inside, x, other))
    assert torch.equal(head.outputs(activation), head.outputs(changed))  # bit for bit
    h, w = activation.shape[2] // rows, activation.shape[3] // columns
    place = (..., slice(r * h, (r + 1) * h), slice(c * w, (c + 1) * w))
    assert torch.equal(activation[place], changed[place])
    gradient = head.gradients(activation, 0)[1]
    assert bool(gradient[place].abs().sum() > 0)
    gradient[place] = 0
    assert bool((gradient == 0).all())


def test_a_grid_and_a_cell_go_together(networks, images):
    model = Model(networks.cnn())
    for options in ({"grid": 2}, {"head": 0}):
        with pytest.raises(ValueError, match="grid and head go together"):
            model.split("2", **options)
    for head in (4, -1):
        with pytest.raises(ValueError, match=r"cells 0\.\.3"):
            model.split("2", grid=2, head=head)


def test_an_image_that_the_grid_does_not_divide_is_refused_clearly(networks, images):
    trunk, _ = Model(networks.cnn()).split("2", grid=3, head=0)
    with pytest.raises(ValueError, match=r"grid|divide|cells"):
        trunk.outputs(images(height=8, width=8))


def test_layers_of_images_like_those_seen_are_known_also_outside_the_bounds(networks, images):
    """A method that adds noise asks for the layers of what it made."""
    model, x = Model(networks.cnn()), images(2)
    with pytest.raises(ValueError, match="outside the model's bounds"):
        model.auto_layer(x + 3)
    model.scores(x, 0)
    assert model.auto_layer(x + 3) == Model(networks.cnn()).auto_layer(x)
    with pytest.raises(ValueError, match="outside the model's bounds"):
        model.auto_layer(images(2, height=12) + 3)

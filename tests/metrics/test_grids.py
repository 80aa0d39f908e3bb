"""DiFull, DiPart and the grid pointing game: what can have mattered, how it is scored, and what grids are made of."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model
from attriscope.metrics.localization._grid import Colours, arrange, attainable, cell_share, grids_of
from scipy.ndimage import convolve1d
from torch import nn

UNDEFINED = pytest.mark.filterwarnings(
    "ignore:.*undefined for"
)  # some heads of an arbitrary network have no positive mass
NAMES = ("difull", "dipart", "grid_pointing_game")


def create(name, **options):
    return metrics.create(name, **{"confidence": 0.0, **options})


def network(classes=9, seed=0, norm=True):
    """Two 3 x 3 convolutions with a pooling between them: what follows the average sees 8 pixels around a place."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.get_rng_state()
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    ).eval()
    torch.set_rng_state(state)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 1) ** 0.5)
        made[-1].weight *= 8
    return made


def photographs(n=18, height=8, width=12, seed=1):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def built(name, grid=2, *, height=8, width=12, count=2, net=None, **options):
    """A metric, a model and grids whose classes do not matter."""
    metric = create(name, grid=grid, count=count, **options)
    model = Model(network() if net is None else net, bounds=(0.0, 1.0), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
    images = photographs(count * grid * grid, height, width)
    cells = images.reshape(count, grid, grid, 3, height, width).permute(0, 3, 1, 4, 2, 5)
    labels = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(g)) for g in range(count)])
    made = metrics.Grids(
        cells.reshape(count, 3, grid * height, grid * width),
        labels[:, : grid * grid],
        torch.arange(len(images)).reshape(count, -1),
        grid,
        0.0,
    )
    return metric, model, made


def inside(maps, cell, grid):
    """Each map's part in one cell."""
    h, w = maps.shape[-2] // grid, maps.shape[-1] // grid
    row, column = divmod(cell, grid)
    return maps[..., row * h : (row + 1) * h, column * w : (column + 1) * w]


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [2, 3])
@pytest.mark.parametrize("places", [1, 7, 20])
def test_all_in_the_cell_none_in_it_and_everywhere(grid, places):
    cells = torch.arange(grid * grid)
    maps = torch.zeros(len(cells), grid * places, grid * (places + 2))
    for c in cells.tolist():
        inside(maps[c], c, grid)[:] = torch.rand(places, places + 2) + 0.1
    assert cell_share(maps, cells, grid=grid).tolist() == [1.0] * len(cells)  # exactly
    assert cell_share(maps, cells.roll(1), grid=grid).tolist() == [0.0] * len(cells)
    even = cell_share(torch.full_like(maps, 0.3), cells, grid=grid)
    np.testing.assert_allclose(even, 1 / grid**2, rtol=1e-12)  # float64
    # what speaks against a class counts for nothing
    assert cell_share(maps - 5 * (maps == 0).float(), cells, grid=grid).tolist() == [1.0] * len(cells)


def test_shares_are_those_of_slices():
    maps = torch.randn(5, 12, 18)
    cells = torch.tensor([0, 4, 8, 2, 5])
    wanted = [
        float(inside(m, int(c), 3).clamp_min(0).sum() / m.clamp_min(0).sum()) for m, c in zip(maps, cells, strict=True)
    ]
    np.testing.assert_allclose(cell_share(maps, cells, grid=3), wanted, rtol=1e-5)  # the sums are float32


def test_a_place_in_several_cells_is_shared_by_area():
    maps = torch.zeros(3, 3, 5)
    maps[0, 1, 2], maps[1, 0, 2], maps[2, 1, 0] = 1, 1, 1
    assert cell_share(maps, torch.zeros(3, dtype=torch.long), grid=2).tolist() == pytest.approx([0.25, 0.5, 0.5])


@pytest.mark.parametrize(
    ("grid", "cell", "places", "wanted"),
    [
        (2, 0, 7, 0.9646),
        (2, 3, 14, 0.9822),
        (2, 1, 28, 0.9911),
        (3, 4, 7, 0.9298),
        (3, 4, 14, 0.9646),
        (3, 4, 28, 0.9822),
    ],
)
def test_enlarging_carries_mass_over_the_border(grid, cell, places, wanted):
    """The reference's values, which are given to four digits."""
    size = (224 * grid, 224 * grid)
    shape = (places * grid, places * grid)
    found = attainable(shape, torch.tensor([cell]), grid=grid, scoring="official_bilinear", size=size)
    assert float(found) == pytest.approx(wanted, abs=6e-5)
    assert float(attainable(shape, torch.tensor([cell]), grid=grid)) == 1.0


@pytest.mark.parametrize("places", [7, 14])
def test_enlarging_a_hot_pixel_at_the_inner_corner(places):
    maps = torch.zeros(1, 2 * places, 2 * places)
    maps[0, places - 1, places - 1] = 1
    game = create("difull", scoring="official_bilinear")
    assert float(game.score_maps(maps, [0], size=(448, 448))) == pytest.approx(0.7656, abs=6e-5)
    assert float(create("difull").score_maps(maps, [0])) == 1.0


@pytest.mark.parametrize("kernel", [9, 17, 33])
def test_smoothing_caps_what_can_be_reached(kernel):
    offsets = np.arange(kernel) - kernel // 2
    weights = np.exp(-0.5 * (offsets / (kernel / 4)) ** 2)
    full = np.zeros(96)
    full[:48] = 1
    blurred = convolve1d(full, weights / weights.sum(), mode="constant")
    wanted = (blurred[:48].sum() / blurred.sum()) ** 2  # both axes alike
    found = attainable((96, 96), torch.tensor([0, 3]), grid=2, kernel=kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)  # float64
    maps = torch.zeros(1, 96, 96)
    maps[0, :48, :48] = 1
    np.testing.assert_allclose(create("difull", kernel=kernel).score_maps(maps, [0]), wanted, rtol=1e-5)  # float32
    assert float(found[0]) < 0.98


def test_smoothing_comes_before_what_is_negative_falls_away():
    """Neighbours of opposite signs cancel: that is what smoothing is for."""
    checks = 1 - 2 * ((torch.arange(24)[:, None] + torch.arange(24)) % 2).float()
    maps = checks[None].clone()
    maps[0, :12, :12] = 1
    plain, smooth = (float(create("difull", kernel=k).score_maps(maps, [0])) for k in (0, 5))
    assert plain == pytest.approx(144 / (144 + 216))
    assert smooth > 0.85


def test_an_offset_can_be_taken_off():
    """A map that is positive everywhere, as means of probabilities are, says little until it is centred."""
    maps = torch.full((1, 8, 8), 10.0)
    maps[0, :4, :4] = 12
    assert float(create("difull").score_maps(maps, [0])) == pytest.approx(12 / 42)
    centred = create("difull", center=True)
    assert float(centred.score_maps(maps, [0])) == 1.0
    assert float(centred.score_maps(maps, [3])) == 0.0
    with pytest.warns(RuntimeWarning, match="1 of 1"):
        centred.score_maps(torch.full((1, 8, 8), 3.0), [0])
    assert attainable((8, 8), torch.tensor([0]), grid=2, center=True).tolist() == [1.0]


def test_the_scale_of_a_map_does_not_matter():
    maps = torch.randn(4, 8, 8)
    cells = torch.arange(4)
    for scoring in ("exact", "official_bilinear"):
        scores = [cell_share(s * maps, cells, grid=2, scoring=scoring, size=(32, 32)) for s in (1.0, 1e-25, 1e25)]
        torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=0)  # float32
        torch.testing.assert_close(scores[2], scores[0], rtol=1e-5, atol=0)


def test_undefined_is_counted():
    maps = torch.ones(5, 4, 4)
    maps[1], maps[2, 0, 0], maps[3], maps[4, 0, 0] = -1, float("nan"), -1.0, float("inf")
    maps[3, 0, 0] = 1e-9  # what rounding leaves
    with pytest.warns(RuntimeWarning, match="4 of 5"):
        scores = create("difull").score_maps(maps, [0, 1, 2, 3, 3])
    assert scores.isnan().tolist() == [False, True, True, True, True]
    assert float(scores[0]) == 0.25


@pytest.mark.parametrize(
    ("maps", "cells", "why"),
    [
        (torch.ones(2, 4, 4), [0], "cells of shape"),
        (torch.ones(4, 4), [0], r"give \(U, h, w\)"),
        (torch.ones(1, 4, 4), [4], "cells 0..3"),
        (torch.ones(1, 1, 4), [0], "smaller than the grid"),
        (torch.ones(1, 4, 4, dtype=torch.long), [0], "floating point"),
    ],
)
def test_maps_that_do_not_fit(maps, cells, why):
    with pytest.raises((ValueError, TypeError), match=why):
        create("difull").score_maps(maps, cells)


# -- what can have mattered --------------------------------------------------------------------------------------------


def seen(name, model, grids, metric):
    shown = metric.shown(model, grids)
    model.know(shown, model.resolve(shown, 0))


@pytest.mark.parametrize("grid", [2, 3])
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_other_cells_cannot_change_a_head_bit_for_bit(grid, layer):
    metric, model, grids = built("difull", grid)
    seen("difull", model, grids, metric)
    at = model.place(layer)
    for cell in (0, grid * grid - 1, 1):
        trunk, head = model.split(at, grid=grid, head=cell)
        other = 9e4 * torch.randn(grids.images.shape, generator=torch.Generator().manual_seed(5))
        inside(other, cell, grid)[:] = inside(grids.images, cell, grid)
        x = torch.cat([grids.images, other])
        run = trunk.network(x)  # past the model, which would refuse what leaves its bounds
        out = head.network(run)
        assert torch.equal(out[: len(grids)], out[len(grids) :])


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("grid", [2, 3])
def test_a_head_answers_as_the_network_does_for_its_image(grid, layer):
    metric, model, grids = built("difull", grid)
    seen("difull", model, grids, metric)
    for cell in (0, grid + 1):
        trunk, head = model.split(model.place(layer), grid=grid, head=cell)
        found = head.outputs(trunk.outputs(grids.images))
        # folded batch norms
        torch.testing.assert_close(found, model.outputs(inside(grids.images, cell, grid)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dipart", "grid_pointing_game"])
def test_where_cells_meet_other_cells_do_change_it(name):
    metric, model, grids = built(name)
    seen(name, model, grids, metric)
    trunk, head = metric.halves(model, "input", 0)
    other = grids.images.flip(0).clone()
    inside(other, 0, 2)[:] = inside(grids.images, 0, 2)
    assert not torch.equal(head.network(trunk.network(grids.images)), head.network(trunk.network(other)))


@pytest.mark.parametrize(("layer", "wide"), [("input", 3), ("3", 1)])
def test_dipart_sees_as_far_as_its_receptive_field(layer, wide):
    """A place of the last map, 2 x 2 pixels, sees a neighbour on each side, and each of those a pixel more."""
    metric, model, grids = built("dipart", height=16, width=16, layer=layer)
    found = metric.maps(attribution.create("gradient", model, channels="abs_sum"), grids)
    for maps, cell in zip(found.maps, found.cells.tolist(), strict=True):
        side = maps.shape[0] // 2
        lines = maps.sum(1) if cell == 0 else maps.sum(1).flip(0)
        assert bool((lines[: side + wide] > 0).all())
        assert bool((lines[side + wide :] == 0).all())
    assert not found.scores.eq(1).any()


class Reused(nn.Module):
    """One rectifier for all places, twice before the cut and twice after; hooks alone can cut it where `plain` is not."""

    def __init__(self, plain=True):
        super().__init__()
        self.net, self.act, self.plain = network(), nn.ReLU(), plain

    def forward(self, x):
        x = self.act(self.net[1](self.net[0](x)))
        if not self.plain and float(x.sum()) < -1:  # what torch.fx cannot trace
            return x
        x = self.act(self.net[4](self.net[3](self.act(x))))
        return self.net[8](self.act(x).mean((2, 3)))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("layer", ["input", "act@0", "net.3", "act@2"])
def test_a_layer_that_is_called_again_is_cut_where_it_is_meant(layer, plain):
    net = Reused(plain).eval()
    metric, model, grids = built("dipart", net=net, layer=layer)
    seen("dipart", model, grids, metric)
    assert model.place("final") in {"act@2", "act@3"}
    trunk, head = metric.halves(model, layer, 3)
    found = head.outputs(grids.images if layer == "input" else trunk.outputs(grids.images))
    scaled = (grids.images - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.2])[
        :, None, None
    ]
    with torch.no_grad():
        features = inside(net.net[:6](scaled), 3, 2)
        torch.testing.assert_close(found, net.net[6:](features), rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_what_a_layer_with_one_place_for_each_pixel_makes_of_dipart(layer):
    """Without receptive fields DiPart is DiFull."""
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU(), network(9)[6], nn.Flatten())
    net = nn.Sequential(*net, nn.Linear(6, 9)).eval()
    maps = []
    for name in ("difull", "dipart"):
        metric, model, grids = built(name, net=net, layer=layer)
        maps.append(metric.maps(attribution.create("input_x_gradient", model), grids).maps)
    torch.testing.assert_close(*maps)
    assert bool(maps[0].any())


def test_the_canvas_gives_the_same_gradient():
    metric, model, grids = built("difull")
    found = metric.maps(attribution.create("gradient", model), grids)
    for u, (g, cell) in enumerate(zip(found.grids.tolist(), found.cells.tolist(), strict=True)):
        one = inside(grids.images[g : g + 1], cell, 2)
        alone = attribution.create("gradient", model).attribute(one, int(found.labels[u]))[0, 0]
        torch.testing.assert_close(inside(found.maps[u], cell, 2), alone, rtol=1e-4, atol=1e-6)
        canvas = found.maps[u].clone()
        inside(canvas, cell, 2)[:] = 0
        assert not canvas.any()


@UNDEFINED
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize(
    "method", ["gradient", "input_x_gradient", "integrated_gradients", "layer_cam", "guided_backprop"]
)
def test_what_follows_the_gradient_is_in_its_cell_alone(method, layer):
    metric, model, grids = built("difull", 3, layer=layer)
    if method == "guided_backprop" and layer == "final":  # no rectifier follows, whose way back it could change
        with pytest.raises(ValueError, match="none was met in this network"):
            metric.score(attribution.create(method, model), grids)
        return
    scores = metric.score(attribution.create(method, model), grids)
    assert scores[~scores.isnan()].tolist() == [1.0] * int((~scores.isnan()).sum())  # exactly
    assert not scores.isnan().all()


def test_a_class_activation_map_lights_other_cells_as_its_weights_say():
    metric, model, grids = built("difull", net=Colours().eval(), layer="final")
    made = metrics.Grids(grids.images, grids.labels % 4, grids.members, 2, 0.0)
    found = metric.maps(attribution.create("grad_cam", model), made)
    with torch.no_grad():
        scaled = (made.images - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.2])[
            :, None, None
        ]
        cells = [[model.network.see(inside(scaled, 2 * r + c, 2)).relu() for c in (0, 1)] for r in (0, 1)]
        maps = torch.cat([torch.cat(row, 3) for row in cells], 2)  # a weight for each class and no other
    wanted = torch.stack([maps[g, k] for g, k in zip(found.grids, found.labels, strict=True)])
    share = cell_share(wanted, found.cells, grid=2)
    torch.testing.assert_close(found.scores, share, rtol=1e-4, atol=1e-6)
    assert bool((found.scores[~share.isnan()] < 1).all())


def test_the_gradient_before_averaging_is_the_same_everywhere():
    metric, model, grids = built("grid_pointing_game", 3, layer="final", count=2)
    scores = metric.score(attribution.create("gradient", model, channels="abs_sum"), grids)
    torch.testing.assert_close(scores, torch.full((18,), 1 / 9, dtype=torch.float64), rtol=1e-6, atol=0)  # float32


@UNDEFINED
def test_black_box_methods_mask_the_activation():
    metric, model, grids = built("difull", layer="3", height=16, width=16)
    for method, options in (("rise", {"masks": 200}), ("occlusion", {"window": 4, "stride": 2})):
        found = metric.maps(attribution.create(method, model, **options), grids)
        assert found.maps.shape[1:] == (16, 16)  # of the layer's map
        assert bool(found.maps.any())
    with model.ledger(4) as ledger:  # the window of 4 pixels is 2 places, and the stride one
        metric.maps(attribution.create("occlusion", model, window=4, stride=2), grids)
    assert ledger.forwards.tolist() == [15 * 15 + 1] * 4
    assert bool((found.scores[~found.scores.isnan()] > 0.5).all())  # windows reach over the border by one place


@pytest.mark.parametrize("name", NAMES)
def test_a_control_is_at_chance(name):
    metric, model, grids = built(name, 3)
    torch.testing.assert_close(
        metric.score(attribution.create("constant", model), grids),
        torch.full((2 * (9 if name == "grid_pointing_game" else 2),), 1 / 9, dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("name", NAMES)
def test_units_are_heads_and_clusters_are_grids(name):
    metric, model, grids = built(name, 2, count=3)
    scored = metric.score(attribution.create("input_x_gradient", model), grids, curves=True)
    cells = [0, 1, 2, 3] if name == "grid_pointing_game" else [0, 3]
    assert scored.details["cell"].tolist() == cells * 3
    assert scored.clusters.tolist() == [g for g in range(3) for _ in cells]
    assert scored.details["label"].tolist() == grids.labels[:, cells].flatten().tolist()
    assert set(scored.details["chance"].tolist()) == {0.25}
    assert set(scored.details["attainable"].tolist()) == {1.0}
    alone = [metric.score(attribution.create("input_x_gradient", model), sub(grids, g)) for g in range(3)]
    torch.testing.assert_close(scored.scores, torch.cat(alone), rtol=1e-5, atol=1e-6)


def sub(grids, g):
    part = slice(g, g + 1)
    return metrics.Grids(grids.images[part], grids.labels[part], grids.members[part], grids.grid, grids.confidence)


@UNDEFINED
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["input", "final"])
def test_every_head_pays_for_one_explanation(name, layer):
    metric, model, grids = built(name, 2, count=3, layer=layer)
    heads = 12 if name == "grid_pointing_game" else 6
    with model.ledger(heads) as ledger:
        metric.score(attribution.create("input_x_gradient", model), grids)
    assert (ledger.forwards.tolist(), ledger.backwards.tolist()) == ([1] * heads, [1] * heads)


@UNDEFINED
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_the_network_is_left_as_it_was(name, layer):
    metric, model, grids = built(name, 2, layer=layer)
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    model.network.train()
    metric.score(attribution.create("grad_cam", model), grids)
    assert model.network.training
    assert not model.network[0]._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert all(p.grad is None for p in model.network.parameters())


# -- grids -------------------------------------------------------------------------------------------------------------


def test_cells_are_the_images():
    images = answers(*[(k % 5, 0.9) for k in range(13)])
    images[:, 1:] = photographs(13, 4, 6)[:, 1:]
    model, named = Given(), torch.arange(13) % 5
    made = grids_of(model, images, confidence=0.5)
    assert len(made) == 3
    for g in range(len(made)):
        assert len(set(made.labels[g].tolist())) == 4
        for cell in range(4):
            i = int(made.members[g, cell])
            assert torch.equal(inside(made.images[g], cell, 2), images[i])
            assert int(made.labels[g, cell]) == int(named[i])
    used = made.members.flatten().tolist()
    assert len(used) == len(set(used))
    again = grids_of(model, images, confidence=0.5)
    assert torch.equal(made.members, again.members)
    other = [grids_of(model, images, confidence=0.5, seed=s).members.tolist() for s in (1, 2, 3)]
    assert any(o != made.members.tolist() for o in other)


def test_the_most_grids_are_made():
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2)
    found = arrange(labels, torch.arange(16), grid=2, count=None)
    assert found.shape == (4, 4)  # every image is used, which needs classes 0 and 1 in every grid
    assert sorted(found.flatten().tolist()) == list(range(16))
    assert arrange(labels, torch.arange(16), grid=2, count=2).shape == (2, 4)
    assert arrange(labels[:8], torch.arange(8), grid=2, count=None).shape == (0, 4)


def test_corners_of_one_class():
    labels = torch.tensor([0, 0, 1, 2, 3, 3, 1, 2])
    found = arrange(labels, torch.arange(8), grid=2, count=None, repeat_corners=True)
    assert len(found) >= 1
    for row in found:
        classes = labels[row].tolist()
        assert classes[0] == classes[3]
        assert row[0] != row[3]
        assert len(set(classes)) == 3
    assert len(arrange(torch.arange(8), torch.arange(8), grid=2, count=None, repeat_corners=True)) == 0


class Given(nn.Module):
    """Logits that lie in the first pixels of an image: for a network with any answers."""

    def forward(self, x):
        return 30 * x[:, 0, 0, :5]


def answers(*rows):
    images = torch.zeros(len(rows), 3, 4, 6)
    for image, (name, chance) in zip(images, rows, strict=True):
        logits = torch.full((5,), float(np.log((1 - chance) / 4)))
        logits[name] = float(np.log(chance))
        image[0, 0, :5] = (logits - logits.min()) / 30
    return images


def test_wrong_and_unsure_images_are_left_out():
    images = answers((0, 0.999), (1, 0.999), (2, 0.999), (3, 0.999), (3, 0.6), (4, 0.999))
    made = grids_of(Given(), images, torch.tensor([0, 1, 2, 3, 3, 0]))
    assert sorted(made.members[0].tolist()) == [0, 1, 2, 3]
    assert made.confidence == pytest.approx(0.999, abs=1e-4)  # float32
    for seed in range(
        12
    ):  # whatever the order, the unsure one is not taken for its twin, nor the wrong one for its label
        assert 4 not in grids_of(Given(), images, torch.tensor([0, 1, 2, 3, 3, 0]), seed=seed).members
        right = grids_of(Given(), images, torch.tensor([0, 1, 2, 3, 3, 0]), confidence=0.0, seed=seed).members
        assert 5 not in right


def test_the_confidence_is_lowered_as_far_as_it_must_be():
    images = answers((0, 0.999), (1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6), (0, 0.55))
    with pytest.warns(RuntimeWarning, match=r"1 images .* lowered to 0\.7$"):
        made = grids_of(Given(), images)
    assert sorted(made.members[0].tolist()) == [0, 1, 2, 3]
    with pytest.warns(RuntimeWarning, match="1 grids of 2"):
        assert len(grids_of(Given(), images, count=2)) == 1


def test_too_few_classes():
    images = answers((0, 0.9), (1, 0.9), (2, 0.9), (2, 0.9))
    with pytest.raises(ValueError, match="4 classes, and of 4 images 4 are classified rightly, of 3 classes"):
        grids_of(Given(), images)
    with pytest.raises(ValueError, match="0 are classified rightly"):
        grids_of(Given(), images, [1, 2, 3, 4])


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 2, 5], [0.0, 1.0, 2.0, 3.0], [[0], [1], [2], [3]]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="labels"):
        grids_of(Given(), answers((0, 0.9), (1, 0.9), (2, 0.9), (3, 0.9)), labels)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_options_that_mean_nothing():
    with pytest.raises(ValueError, match="odd"):
        create("difull", kernel=4)
    with pytest.raises(ValueError, match="shows one twice"):
        create("grid_pointing_game", repeat_corners=True)
    with pytest.raises(ValueError, match="grid"):
        create("difull", grid=1)
    metric, model, _ = built("difull", 2)
    _, _, grids = built("difull", 3)
    with pytest.raises(ValueError, match="3 cells per side"):
        metric.score(attribution.create("gradient", model), grids)


@pytest.mark.parametrize(
    ("method", "options", "layer", "why"),
    [
        ("gradient", {"layer": "3"}, "input", "leave the method's layer"),
        ("grad_cam", {"at": "middle"}, "input", "leave the method's layer"),
        ("full_grad", {}, "input", "its own cell alone"),
        ("edge", {}, "final", 'score it at layer="input"'),
        ("gradient", {}, "nowhere", "no layer 'nowhere'"),
        ("gradient", {"smooth": 2.0}, "input", "leave smooth away"),
    ],
)
def test_methods_that_cannot_be_placed(method, options, layer, why):
    metric, model, grids = built("difull", layer=layer)
    with pytest.raises(ValueError, match=why):
        metric.score(attribution.create(method, model, **options), grids)


def test_a_network_of_one_size_has_no_whole_grids():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 96, 9)).eval()
    metric, model, grids = built("difull", net=net)
    assert metric.score(attribution.create("gradient", model), grids).tolist() == [1.0] * 4
    for name in ("dipart", "grid_pointing_game"):
        metric, model, grids = built(name, net=net)
        attribution.create("grad_cam", model).attribute(grids.images[:1, :, :8, :12])
        with pytest.raises(ValueError, match="16 x 24 pixels, which it does not take"):
            metric.score(attribution.create("gradient", model), grids)
        assert model.shape == (3, 8, 12)  # of what it does take
        attribution.create("grad_cam", model)


def test_a_last_map_that_does_not_divide():
    for name in ("dipart", "grid_pointing_game"):
        metric, model, grids = built(name, 3, height=5, width=5)
        with pytest.raises(ValueError, match="do not divide into 3 x 3"):
            metric.score(attribution.create("gradient", model), grids)


@pytest.mark.parametrize("method", ["layer_integrated_gradients", "layer_deep_lift", "gradient"])
@pytest.mark.parametrize("layer", ["input", "3"])
def test_a_method_that_looks_for_a_layer_by_itself_is_at_the_metric_s(method, layer):
    metric, model, grids = built("difull", layer=layer)
    found = metric.maps(attribution.create(method, model, layer="auto"), grids)
    assert found.maps.shape[1:] == ((16, 24) if layer == "input" else (8, 12))
    assert found.scores[~found.scores.isnan()].eq(1).all()
    assert not found.scores.isnan().all()


@pytest.mark.parametrize("layer", ["input", "final"])
def test_baselines_that_only_images_have(layer):
    metric, model, grids = built("difull", layer=layer)
    for method in ("score_cam", "integrated_gradients", "iia"):
        assert metric.maps(attribution.create(method, model, baseline="black"), grids).maps.isfinite().all()


def test_mirror_images_would_show_a_head_another_cell():
    metric, model, grids = built("difull")
    options = {"steps": 8, "areas": (0.1,)}
    plain, mirrored = (
        metric.maps(attribution.create("extremal_perturbation", model, jitter=j, **options), grids).maps
        for j in (False, True)
    )
    assert torch.equal(plain, mirrored)


def test_grids_that_a_game_cannot_play():
    metric, model, grids = built("grid_pointing_game")
    twice = metrics.Grids(grids.images, grids.labels[:, [0, 1, 2, 0]], grids.members, 2, 0.0)
    with pytest.raises(ValueError, match="show one twice"):
        metric.score(attribution.create("gradient", model), twice)
    with pytest.raises(ValueError, match="leave labels away"):
        metric.score(attribution.create("gradient", model), grids, [0, 1])


def test_further_arguments_are_an_image_s():
    class Louder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, gain):
            return self.net(x) * gain[:, None]

    metric, _, grids = built("difull", count=1)
    model = Model(Louder().eval(), forward={"gain": torch.ones(4)})
    with pytest.raises(ValueError, match="belong to images and not to grids"):
        metric.score(attribution.create("gradient", model), grids)


def test_cells_that_make_no_grid():
    made = metrics.Grids.of(torch.rand(2, 9, 3, 4, 6), torch.arange(18).reshape(2, 9))
    assert (made.grid, made.cell, tuple(made.images.shape)) == (3, (4, 6), (2, 3, 12, 18))
    for cells, labels in (
        (torch.rand(2, 5, 3, 4, 4), torch.zeros(2, 5)),
        (torch.rand(2, 4, 3, 4, 4), torch.zeros(2, 5)),
    ):
        with pytest.raises(ValueError, match="n \\* n, C, H, W"):
            metrics.Grids.of(cells, labels)


def test_scoring_that_cannot_be_done_is_refused():
    maps, cells = torch.ones(1, 8, 8), torch.tensor([0])
    with pytest.raises(ValueError, match="pass size="):
        create("difull", scoring="official_bilinear").score_maps(maps, [0])
    with pytest.raises(ValueError, match="no middle"):
        cell_share(maps, cells, grid=2, kernel=4)


def test_a_study_says_that_it_is_made_of_images():
    with pytest.raises(ValueError, match="difull scores heads of grids"):
        metrics.compare(network(), photographs(2), attributors=["gradient"], metrics=["difull"], progress=False)
    study = metrics.compare(
        network(), photographs(2), attributors=["gradient"], metrics=["*full*", "complexity"], progress=False
    )
    assert study.left_out["difull"] == "it scores heads of grids"

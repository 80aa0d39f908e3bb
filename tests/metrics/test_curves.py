"""Insertion and deletion: closed forms, identities, and a naive loop as oracle."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.masking import Ranks
from attriscope.metrics.faithfulness import curve
from torch import nn


class Pixels(nn.Module):
    """A score that is a function of the pixels of a one-channel image; two outputs, the second is zero."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = self.function(x.flatten(1))
        return torch.stack([y, torch.zeros_like(y)], 1)


def model_of(function):
    return attribution.Model(Pixels(function), bounds=(0.0, 1.0), activation="none")


OPTIONS = {"output": "logit", "baseline": "zero", "steps": 16, "ties": "index"}
INSERTION = metrics.create("insertion", **OPTIONS)
DELETION = metrics.create("deletion", **OPTIONS)


def random_maps(n=3, side=8, seed=0):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_linear_score_closed_form():
    """AUC_ins = f(x') + sum_j v_(j) (n - g(j) + 1/2) / n, with g the step in which pixel j comes."""
    weight = torch.linspace(-1, 2, 64)
    model = model_of(lambda p: p @ weight.to(p))
    x, maps = random_maps(seed=1), random_maps(seed=2)
    contribution = (x.flatten(1) * weight).gather(1, maps.flatten(1).argsort(1, descending=True))
    step = torch.arange(1, 65).div(4, rounding_mode="floor") + (torch.arange(1, 65) % 4 > 0)
    expected = (contribution * (16 - step + 0.5) / 16).sum(1).double()
    # float32 sums of 64 numbers of order 1
    torch.testing.assert_close(INSERTION.score(model, x, maps, target=0), expected, atol=1e-5, rtol=0)
    whole = (x.flatten(1) @ weight).double()
    torch.testing.assert_close(DELETION.score(model, x, maps, target=0), whole - expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_insertion_plus_deletion_of_a_linear_score_is_both_ends(seed):
    weight = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    model = model_of(lambda p: p @ weight.to(p) + 0.7)
    x, maps = random_maps(seed=seed + 10), random_maps(seed=seed + 20)
    total = INSERTION.score(model, x, maps, target=0) + DELETION.score(model, x, maps, target=0)
    expected = model.scores(x, 0) + model.scores(torch.zeros_like(x), 0)
    torch.testing.assert_close(total, expected.double(), atol=1e-5, rtol=0)


def test_deletion_of_the_negated_map_is_insertion():
    model = model_of(lambda p: torch.sigmoid(p[:, :10].sum(1) - p[:, 10:20].sum(1) * p[:, 20]))
    x, maps = random_maps(seed=3), random_maps(seed=4)
    torch.testing.assert_close(DELETION.score(model, x, -maps, target=0), INSERTION.score(model, x, maps, target=0))


@pytest.mark.parametrize(("kind", "expected"), [("and", ((16 - 3 + 0.5) / 16, 1 / 32)), ("or", (15.5 / 16, 2.5 / 16))])
def test_and_and_or_of_twelve_pixels(kind, expected):
    """With 4 pixels a step and m = 12: AND gives (n - m/s + 1/2)/n and 1/(2n), OR gives (n - 1/2)/n and (m/s - 1/2)/n."""

    def score(p):
        on = p[:, 20:32] > 0.5
        return (on.all(1) if kind == "and" else on.any(1)).float()

    maps = torch.zeros(1, 1, 8, 8)
    maps.view(-1)[20:32] = torch.linspace(1, 2, 12)
    x = torch.ones(1, 1, 8, 8)
    model = model_of(score)
    assert INSERTION.score(model, x, maps, target=0).item() == pytest.approx(expected[0], abs=1e-12)
    assert DELETION.score(model, x, maps, target=0).item() == pytest.approx(expected[1], abs=1e-12)


def test_monotone_transforms_change_nothing():
    model = model_of(lambda p: p[:, :7].prod(1) + p[:, 7])
    x, maps = random_maps(seed=5), random_maps(seed=6) - 0.5
    for other in (maps.exp(), 3 * maps - 1, maps.sign() * maps.abs().sqrt()):
        assert torch.equal(INSERTION.score(model, x, maps, target=0), INSERTION.score(model, x, other, target=0))


def test_a_constant_score_gives_itself():
    model = model_of(lambda p: torch.full((len(p),), 0.3))
    for metric in (INSERTION, DELETION):
        assert metric.score(model, random_maps(), random_maps(), target=0).tolist() == pytest.approx([0.3] * 3)


def test_the_ends_are_the_image_and_the_baseline_bit_for_bit_and_every_step_changes_its_share():
    x, base = random_maps(seed=7), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(8)) + 2
    place = curve.ranks(random_maps(seed=9)[:, 0])
    cuts = curve.cut_points(64, 7)
    for insert in (True, False):
        source = Ranks(x, base, place, cuts, insert)
        for row in range(3):
            out = torch.empty(8, 1, 8, 8)
            source.write(out, row, slice(0, 8))
            first, last = (base, x) if insert else (x, base)
            assert torch.equal(out[0], first[row])
            assert torch.equal(out[-1], last[row])
            assert (out != first[row]).flatten(1).sum(1).tolist() == cuts.tolist()


def naive(network, x, maps, baseline, steps, *, insert):
    """A loop over the steps of one image."""
    order = maps.flatten().argsort(descending=True, stable=True)
    size = maps.numel() // steps
    now, end = (baseline.clone(), x) if insert else (x.clone(), baseline)
    points = [network(now[None])]
    for k in range(steps):
        chosen = order[k * size : (k + 1) * size]
        now.flatten(1)[:, chosen] = end.flatten(1)[:, chosen]
        points.append(network(now[None]))
    values = torch.stack(points).flatten()
    return values, float((values.sum() - values[0] / 2 - values[-1] / 2) / steps)


def test_the_rise_preset_is_the_papers_loop():
    """Probability of the class, from a folded blur or to the mean colour, on a convolutional network."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    ).eval()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    model = attribution.Model(network, mean=mean, std=std)
    x = torch.rand(2, 3, 14, 16)
    maps = random_maps(2, 16)[:, :, :14]

    @torch.no_grad()
    def probability(image):
        return network((image - mean[:, None, None]) / std[:, None, None]).softmax(1)[:, 2]

    blurred = curve.rise_blur(x, model)
    grey = mean[:, None, None].expand(3, 14, 16)
    for name, base in (("insertion", blurred), ("deletion", grey.expand(2, -1, -1, -1))):
        found = metrics.create(name, preset="rise", steps=28, ties="index").score(model, x, maps, target=2, curves=True)
        for i in range(2):
            values, area = naive(probability, x[i], maps[i, 0], base[i], 28, insert=name == "insertion")
            # float32 forwards in other batches, through folded weights
            torch.testing.assert_close(found.values[i].float(), values, atol=2e-6, rtol=0)
            assert found.scores[i].item() == pytest.approx(area, abs=2e-6)


def test_the_blur_kernel_is_the_official_one_with_its_folded_tails():
    """A point in the middle shows the kernel: .00883 in the centre, .00827 at an edge's middle, .00774 in a corner."""
    model = attribution.Model(nn.Flatten())
    point = torch.zeros(1, 1, 31, 31)
    point[0, 0, 15, 15] = 1
    kernel = curve.rise_blur(point, model)[0, 0]
    found = [kernel[15, 15], kernel[15, 10], kernel[10, 10]]
    assert [round(float(v), 5) for v in found] == [0.00883, 0.00827, 0.00774]
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert float(kernel[15, 9]) == 0


def test_the_blur_sees_the_mean_colour_outside():
    model = attribution.Model(nn.Flatten(), mean=(0.3,), std=(0.2,))
    flat = torch.full((1, 1, 12, 12), 0.3)
    torch.testing.assert_close(curve.rise_blur(flat, model), flat)


@pytest.mark.parametrize(("preset", "points"), [("rise", 225), ("rise-large", 29), ("xplique", 11), ("smdl-50", 51)])
def test_presets_cost_what_their_papers_do(preset, points):
    assert metrics.create("insertion", preset=preset).cost((3, 224, 224)) == points


def test_presets_name_their_protocol():
    assert metrics.create("insertion").protocol["baseline"] == "rise-blur"
    assert metrics.create("deletion").protocol["baseline"] == "mean"
    assert metrics.create("deletion", preset="xplique").protocol["output"] == "logit"
    assert metrics.create("insertion", preset="smdl-50", steps=7).protocol == {
        "steps": 7, "output": "probability", "baseline": "black", "ties": "random", "seed": 0, "normalize": False,
    }  # fmt: skip


def test_never_more_steps_than_pixels():
    model = model_of(lambda p: p.sum(1))
    found = metrics.create("insertion", steps=500, baseline="zero").score(
        model, random_maps(1, 4), random_maps(1, 4), target=0, curves=True
    )
    assert found.values.shape == (1, 17)


def test_ties_are_drawn_once_for_all_and_reported():
    flat = torch.zeros(2, 6, 6)
    flat[:, :2] = 1
    drawn = curve.ranks(flat)
    assert torch.equal(drawn[0], drawn[1])
    assert sorted(drawn[0].flatten().tolist()) == list(range(36))
    assert drawn[0, :2].flatten().sort().values.tolist() == list(range(12)), "larger values still come first"
    assert drawn[0, :2].flatten().tolist() != list(range(12)), "drawn, not from the top left"
    assert curve.ranks(flat, ties="index")[0, :2].flatten().tolist() == list(range(12))
    assert not torch.equal(curve.ranks(flat, seed=1), drawn)
    assert curve.tied_share(flat).tolist() == [1.0, 1.0]
    assert curve.tied_share(torch.arange(36.0).reshape(1, 6, 6)).item() == 0


def test_ranks_are_those_of_numpy():
    maps = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0))
    expected = np.argsort(np.argsort(-maps.flatten(1).numpy(), axis=1), axis=1)
    assert np.array_equal(curve.ranks(maps).flatten(1).numpy(), expected)


@pytest.mark.parametrize("steps", [1, 3, 7, 28, 63, 64])
@pytest.mark.parametrize("pixels", [64, 100, 50176])
def test_cut_points_are_even_to_a_pixel(pixels, steps):
    cuts = curve.cut_points(pixels, steps)
    assert cuts[0] == 0
    assert cuts[-1] == pixels
    assert len(cuts) == steps + 1
    assert set(cuts.diff().tolist()) <= {pixels // steps, -(-pixels // steps)}


def test_official_steps_at_224():
    assert set(curve.cut_points(224 * 224, 224).diff().tolist()) == {224}
    assert set(curve.cut_points(224 * 224, 28).diff().tolist()) == {224 * 8}


def test_a_baseline_of_ones_own():
    model = model_of(lambda p: p.sum(1))
    metric = metrics.create("deletion", baseline=torch.full((1, 1, 1, 1), 0.25), output="logit", steps=4)
    found = metric.score(model, torch.ones(1, 1, 4, 4), random_maps(1, 4), target=0, curves=True)
    assert found.values[0].tolist() == pytest.approx([16, 13, 10, 7, 4])


def test_black_needs_bounds():
    with pytest.raises(ValueError, match="bounds"):
        metrics.create("insertion", preset="smdl-50").score(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), random_maps(1, 4), random_maps(1, 4)
        )


def test_close_matches_and_wrong_options():
    with pytest.raises(ValueError, match="insertion"):
        metrics.create("insertoin")
    with pytest.raises(TypeError, match="'steps'"):
        metrics.create("insertion", step=3)
    with pytest.raises(ValueError, match="rise-large"):
        metrics.create("insertion", preset="nobody")
    with pytest.raises(ValueError, match="at least 1"):
        metrics.create("insertion", steps=0)

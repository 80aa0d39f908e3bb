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


@pytest.mark.parametrize(("height", "width", "steps"), [(8, 8, 16), (9, 7, 10), (5, 8, 16), (3, 3, 40), (6, 7, 1)])
def test_both_areas_of_a_linear_score_are_both_ends_for_any_steps_and_baseline(height, width, steps):
    """Whatever the order, with ties or without, and whether or not the steps divide the pixels."""
    generator = torch.Generator().manual_seed(height)
    weight = torch.randn(height * width, dtype=torch.float64, generator=generator)
    model = model_of(lambda p: p @ weight.to(p) - 0.3)
    x, base = torch.rand(2, 4, 1, height, width, dtype=torch.float64, generator=generator)
    maps = torch.rand(4, 1, height, width, dtype=torch.float64, generator=generator)
    maps[2:] = maps[2:].mul(3).round()  # four values
    total = 0
    for name in ("insertion", "deletion"):
        metric = metrics.create(name, output="logit", baseline=base, steps=steps)
        total = total + metric.score(model, x, maps, target=0)
    expected = model.scores(x, 0) + model.scores(base, 0)
    torch.testing.assert_close(total, expected.double(), atol=1e-12, rtol=0)  # sums of 63 float64 of order 1


def test_a_linear_score_is_best_in_the_order_of_its_contributions_worst_reversed_and_at_chance_the_mean_of_its_ends():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, dtype=torch.float64, generator=generator)
    model = model_of(lambda p: p @ weight.to(p) + 0.2)
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=generator)
    contribution = (x.flatten() * weight).reshape(1, 1, 8, 8)
    best, worst = (INSERTION.score(model, x, sign * contribution, target=0).item() for sign in (1, -1))
    places = contribution.flatten().sort(descending=True).values
    share = (16 - torch.arange(1, 65).div(4).ceil() + 0.5) / 16
    assert best == pytest.approx(0.2 + (places * share).sum().item(), abs=1e-12)
    assert worst == pytest.approx(0.2 + (places.flip(0) * share).sum().item(), abs=1e-12)
    maps = torch.rand(2000, 1, 8, 8, generator=generator)
    some = INSERTION.score(model, x.expand(2000, -1, -1, -1), maps, target=0)
    ends = (model.scores(x, 0) + 0.2).item() / 2
    assert worst < some.min() < ends < some.max() < best
    assert abs(some.mean().item() - ends) < 4 * some.std().item() / 2000**0.5  # four standard errors of the mean


@pytest.mark.parametrize("side", [8, 7])
def test_deletion_of_the_negated_map_is_insertion_to_the_bit(side):
    """Where the steps divide the pixels, and wherever cut points are the same from both ends: the images are the same."""
    model = model_of(lambda p: torch.tanh(p[:, :10].sum(1) - p[:, 10:20].prod(1) * p[:, 20]))
    x, maps = (random_maps(2, side, seed).double() for seed in (3, 4))
    for steps in (16, 64, 7, 5) if side == 8 else (7, 49, 5):
        inserted, deleted = (
            metrics.create(n, output="logit", baseline="zero", steps=steps).score(model, x, m, target=0, curves=True)
            for n, m in (("insertion", maps), ("deletion", -maps))
        )
        assert torch.equal(inserted.values, deleted.values.flip(1))
        # float64, added in another order
        torch.testing.assert_close(inserted.scores, deleted.scores, atol=1e-14, rtol=0)


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


@pytest.mark.parametrize("pixel", [0, 37, 63])
def test_a_detector_of_one_pixel_is_found_at_once_or_last(pixel):
    """m = s = 1: 1 - 1/2n and 1/2n, and the other way round for the worst order."""
    model = model_of(lambda p: (p[:, pixel] > 0.5).double())
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    maps = torch.arange(64.0).reshape(1, 1, 8, 8) / 100
    maps.view(-1)[pixel] = 5
    one = {**OPTIONS, "steps": 64}
    expected = {("insertion", 1): 1 - 1 / 128, ("deletion", 1): 1 / 128}
    expected |= {("insertion", -1): 1 / 128, ("deletion", -1): 1 - 1 / 128}
    for (name, sign), value in expected.items():
        assert metrics.create(name, **one).score(model, x, sign * maps, target=0).item() == pytest.approx(
            value, abs=1e-14
        )


@pytest.mark.parametrize(("kind", "expected"), [("and", (1 / 32, (16 - 3 + 0.5) / 16)), ("or", (2.5 / 16, 15.5 / 16))])
def test_the_worst_order_of_and_and_or_exchanges_the_ends(kind, expected):
    model = model_of(lambda p: ((p[:, :12] > 0.5).all(1) if kind == "and" else (p[:, :12] > 0.5).any(1)).double())
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)  # the twelve come last
    x = torch.ones(1, 1, 8, 8)
    assert INSERTION.score(model, x, maps, target=0).item() == pytest.approx(expected[0], abs=1e-14)
    assert DELETION.score(model, x, maps, target=0).item() == pytest.approx(expected[1], abs=1e-14)


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


def rise_oracle(probability, x, saliency, step, *, insert):
    """RISE's causal metric in its own space, where images are normalised and 0 is the mean colour: numpy alone."""
    offsets = np.arange(-20, 21)
    gauss = np.exp(-(offsets**2) / 50)
    folded = np.zeros(11)
    for i in range(11):  # what a point at 5 leaves at i: a border that reflects, with the edge pixel twice
        seen = (i + offsets) % 22
        folded[i] = (gauss / gauss.sum())[np.where(seen < 11, seen, 21 - seen) == 5].sum()
    height, width = x.shape[1:]
    wide = np.pad(x, ((0, 0), (5, 5), (5, 5)))
    blurred = sum(folded[i] * folded[j] * wide[:, i : i + height, j : j + width] for i in range(11) for j in range(11))
    now, end = (blurred, x) if insert else (x.copy(), np.zeros_like(x))
    order = np.argsort(-saliency.ravel())
    scores = [probability(now)]
    for k in range(-(-order.size // step)):
        pixels = order[k * step : (k + 1) * step]
        now.reshape(len(x), -1)[:, pixels] = end.reshape(len(x), -1)[:, pixels]
        scores.append(probability(now))
    scores = np.array(scores)
    return scores, (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_rise_in_numpy_says_the_same(name, rows):
    """In float64, on images that are not square; the official step is a row's number of pixels, or more of them."""
    torch.manual_seed(1)
    network = (
        nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(45, 4))
        .double()
        .eval()
    )
    mean, std = (0.45, 0.5, 0.3), (0.25, 0.2, 0.3)
    model = attribution.Model(network, mean=mean, std=std)
    x, maps = torch.rand(2, 3, 14, 17, dtype=torch.float64), torch.rand(2, 1, 14, 17, dtype=torch.float64)
    normal = (x.numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))

    metric = metrics.create(name, preset="rise", steps=14 // rows)
    found = metric.score(model, x, maps, curves=True)  # of the class that the network names
    for i in range(2):
        named = network(torch.from_numpy(normal[i : i + 1])).argmax().item()

        @torch.no_grad()
        def probability(image, named=named):
            return network(torch.from_numpy(image[None])).softmax(1)[0, named].item()

        scores, expected = rise_oracle(
            probability, normal[i], maps[i, 0].numpy(), 17 * rows, insert=name == "insertion"
        )
        # float64; a network that Model has folded (x - mean) / std into rounds otherwise, far below this
        np.testing.assert_allclose(found.values[i].numpy(), scores, atol=1e-9)
        assert found.scores[i].item() == pytest.approx(expected, abs=1e-9)


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
    assert curve.Order(flat, "random", 0).tied.tolist() == [1.0, 1.0]
    assert curve.Order(torch.arange(36.0).reshape(1, 6, 6), "random", 0).tied.item() == 0


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


@pytest.mark.parametrize(("pixels", "steps"), [(64, 7), (63, 9), (100, 28), (50176, 28), (15, 7), (63, 28), (15, 4)])
def test_cut_points_are_the_same_from_both_ends(pixels, steps):
    """But for the middle, where an even number of steps goes through an odd number of pixels: nothing is in the middle."""
    cuts = curve.cut_points(pixels, steps)
    off = (cuts - (pixels - cuts.flip(0))).abs()
    if pixels % 2 and steps % 2 == 0:
        assert off[steps // 2] == 1
        off[steps // 2] = 0
    assert off.tolist() == [0] * (steps + 1)


def test_the_number_of_changed_pixels_is_that_of_whole_steps():
    """min(k s, P) at k, for every image, and both ends to the bit, as the network sees them."""
    seen = []

    class Camera(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.flatten(1)[:, :2]

    x = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(0)) + 2
    base = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    for name in ("insertion", "deletion"):
        model = attribution.Model(Camera(), batch_size=1, fast=False, bounds=None)
        for i in range(3):
            metric = metrics.create(name, output="logit", baseline=base[i], steps=12)
            seen.clear()
            metric.score(model, x[i : i + 1], random_maps(1, 8, seed=i)[:, :, :6], target=0)
            assert {int((s != x[i]).sum()) for s in seen} == {48 - 4 * k for k in range(13)}
            assert any(torch.equal(s[0], x[i]) for s in seen)
            assert any(torch.equal(s[0], base[i]) for s in seen)


@pytest.mark.parametrize("name", ["insertion", "deletion", "srg", "average_highest_confidence"])
def test_batches_mates_and_places_change_nothing(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 4, 3)).eval().double()
    x, maps = torch.rand(9, 1, 8, 6, dtype=torch.float64), torch.rand(9, 1, 8, 6)
    maps[3:5] = maps[3:5].mul(2).round()  # with ties
    target = torch.arange(9) % 3
    metric = metrics.create(name, steps=9)
    first, *others = (
        metric.score(attribution.Model(network, batch_size=size), x, maps, target=target, curves=True)
        for size in (64, 1, 7)
    )
    for other in others:
        # float64 in other batches: matrix products of other shapes
        torch.testing.assert_close(other.values, first.values, atol=1e-13, rtol=0)
        torch.testing.assert_close(other.scores, first.scores, atol=1e-13, rtol=0)
    shuffled = torch.randperm(9)
    model = attribution.Model(network, batch_size=7)
    found = metric.score(model, x[shuffled], maps[shuffled], target=target[shuffled])
    torch.testing.assert_close(found, first.scores[shuffled], atol=1e-13, rtol=0)
    alone = [metric.score(model, x[i : i + 1], maps[i : i + 1], target=target[i : i + 1]) for i in range(9)]
    torch.testing.assert_close(torch.cat(alone), first.scores, atol=1e-13, rtol=0)


def test_float32_and_float64_maps_of_the_same_order_score_the_same():
    model = model_of(lambda p: p[:, :9].prod(1))
    x, maps = random_maps(seed=1), random_maps(seed=2)
    assert torch.equal(INSERTION.score(model, x, maps, target=0), INSERTION.score(model, x, maps.double(), target=0))


def coarse(n=1):
    """7 x 7 cells enlarged to 28 x 28 by copying: ties of 16 pixels."""
    cells = torch.rand(n, 1, 7, 7, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(cells, scale_factor=4, mode="nearest")


def test_within_a_tie_the_draw_is_fair_and_the_index_is_not():
    """Random ties of a linear score give, on average over seeds, each cell's mean contribution to each of its pixels."""
    weight = torch.linspace(-1, 2, 784, dtype=torch.float64)  # later pixels weigh more: from the top left is worst
    model = model_of(lambda p: p @ weight.to(p))
    x, maps = torch.ones(1, 1, 28, 28, dtype=torch.float64), coarse()
    options = {"output": "logit", "baseline": "zero", "steps": 98}
    order = maps.flatten().argsort(descending=True, stable=True)
    mean = weight[order].reshape(49, 16).mean(1).repeat_interleave(16)
    expected = (mean * (98 - torch.arange(1, 785).div(8).ceil() + 0.5) / 98).sum().item()
    metric = metrics.create("insertion", **options, ties="index")
    found = metric.score(model, x, maps, target=0, curves=True)
    assert found.tied.tolist() == [1.0]
    drawn = torch.tensor(
        [metrics.create("insertion", **options, seed=s).score(model, x, maps, target=0).item() for s in range(40)]
    )
    error = drawn.std().item() / 40**0.5
    assert error > 0
    assert abs(drawn.mean().item() - expected) < 4 * error
    assert found.scores.item() < expected - 4 * drawn.std().item(), "a bias beyond any draw"


def test_with_steps_of_whole_ties_the_tie_rule_does_not_matter():
    model = model_of(lambda p: torch.tanh(p[:, ::7].mean(1) * p[:, ::5].mean(1)))
    x, maps = torch.rand(2, 1, 28, 28, dtype=torch.float64), coarse(2)
    scores = [
        metrics.create("deletion", output="logit", baseline="zero", steps=49, ties=ties, seed=seed).score(
            model, x, maps, target=0
        )
        for ties, seed in (("index", 0), ("random", 0), ("random", 1))
    ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_a_map_of_one_value_is_undefined_and_its_mates_are_not():
    model = model_of(lambda p: p.mean(1))
    maps = random_maps(3, 4)
    maps[1] = 0.25
    for name in ("insertion", "deletion", "insertion_minus_deletion", "srg", "pixel_flipping", "aopc",
                 "average_highest_confidence"):  # fmt: skip
        metric = metrics.create(name, steps=8, output="logit")
        with pytest.warns(RuntimeWarning, match="undefined for 1 of 3"):
            found = metric.score(model, random_maps(3, 4, 1), maps, target=0, curves=True)
        assert found.scores.isnan().tolist() == [False, True, False]
        assert found.tied.tolist() == [0, 1, 0]
        assert not found.details["clean"].isnan().any()


def test_clean_and_removed_scores_stand_beside_the_area():
    model = model_of(lambda p: p @ torch.linspace(0, 1, 16).to(p))
    x, base = random_maps(2, 4, 1), random_maps(2, 4, 2)
    for name in ("insertion", "deletion", "pixel_flipping", "aopc", "average_highest_confidence"):
        metric = metrics.create(name, output="logit", baseline=base, steps=4)
        found = metric.score(model, x, random_maps(2, 4), target=0, curves=True)
        assert torch.equal(found.details["clean"], model.scores(x, 0).double())
        assert torch.equal(found.details["removed"], model.scores(base, 0).double())
        ends = [found.details["removed"], found.details["clean"]]
        assert torch.equal(found.values[:, [0, -1]], torch.stack(ends if metric.inserts else ends[::-1], 1))


def test_normalized_scores_take_any_scale_and_shift_of_the_logits():
    weight = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, maps = random_maps(seed=1).double(), random_maps(seed=2)
    for name in ("insertion", "deletion", "srg", "pixel_flipping", "aopc", "average_highest_confidence"):
        metric = metrics.create(name, output="logit", baseline="zero", steps=16, normalize=True)
        plain, other = (
            metric.score(model_of(lambda p, a=a, b=b: a * (p @ weight.to(p)).exp() + b), x, maps, target=0)
            for a, b in ((1, 0), (7, -40))
        )
        torch.testing.assert_close(plain, other, atol=1e-11, rtol=0)  # float64, 40 taken from numbers of order 1 to 100
        raw = metrics.create(name, output="logit", baseline="zero", steps=16)
        assert (raw.score(model_of(lambda p: (p @ weight.to(p)).exp()), x, maps, target=0) - plain).abs().min() > 1e-3


def test_normalized_areas_are_those_of_curves_from_0_to_1():
    model = model_of(lambda p: p[:, :32].sum(1) * 3 + p[:, 40] ** 2 + 5)
    x, maps = random_maps(seed=1).double(), random_maps(seed=2)
    inserted, deleted = (
        metrics.create(n, output="logit", baseline="zero", steps=16, normalize=True).score(
            model, x, maps, target=0, curves=True
        )
        for n in ("insertion", "deletion")
    )
    assert inserted.values[:, [0, -1]].tolist() == [[0, 1]] * 3
    assert deleted.values[:, [0, -1]].tolist() == [[1, 0]] * 3
    start, whole = inserted.details["removed"], inserted.details["clean"] - inserted.details["removed"]
    raw = INSERTION.score(model, x, maps, target=0)
    torch.testing.assert_close(inserted.scores, (raw - start) / whole, atol=1e-12, rtol=0)  # float64


def test_nothing_is_normalized_by_next_to_nothing():
    """Of three images one has a score that falls by 0.0009 when all is removed, one by 0.0011, one rises by 0.0011."""
    model = model_of(lambda p: p[:, 0] / 1000 + 7)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor([0.9, 1.1, -1.1])
    model = attribution.Model(model.network, activation="none", bounds=None)
    metric = metrics.create("deletion", output="logit", baseline=0.0, steps=4, normalize=True)
    with pytest.warns(RuntimeWarning, match="undefined for 1 of 3 .* when all is removed"):
        found = metric.score(model, x, random_maps(3, 4), target=0)
    assert found.isnan().tolist() == [True, False, False]


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

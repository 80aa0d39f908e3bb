"""Extremal perturbations: masks by their definition, the area in closed form, the ascent against torch's, known disks."""

import math
from typing import Any

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import baselines
from attriscope.attribution.model import Model
from attriscope.attribution.perturbation import _extremal
from attriscope.attribution.perturbation._extremal import GROWTH, WEIGHT, Search, area_loss, blend, follow, pyramid
from attriscope.attribution.perturbation._smooth import SmoothMasks
from torch import Tensor, nn

EXACT = 1e-12  # float64, sums of some hundred terms


class Linear(nn.Module):
    """Two scores that are weighted sums of the pixels."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.stack(weights))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K)`."""
        return torch.einsum("nchw,khw->nk", x, self.weights)


def disk(size: int, area: float, at: tuple[float, float] = (0.4, 0.6)) -> Tensor:
    """A disk of so much of a square image."""
    y, x = (torch.arange(size) + 0.5).unsqueeze(1) / size - at[0], (torch.arange(size) + 0.5) / size - at[1]
    return ((y**2 + x**2) <= area / math.pi).float()


def linear(size: int = 64, area: float = 0.1) -> tuple[Model, Tensor]:
    """A score that is the part of a disk that is shown, and a white image."""
    inside = disk(size, area)
    network = Linear(inside / inside.sum(), 1 - inside)
    return Model(network, mean=(0.0,), std=(1.0,)), torch.ones(1, 1, size, size)


def found(model: Model, images: Tensor, **options: Any) -> attribution.Explanation:
    """What an extremal perturbation without mirror images finds."""
    made = attribution.create("extremal_perturbation", model, **{"jitter": False, "perturbation": "fade", **options})
    return made.explain(images, target=0)


def by_definition(seeds: Tensor, size: tuple[int, int], step: int, sigma: float, *, repeat: bool) -> Tensor:
    """The smooth maximum over the window, pixel by pixel; differentiable."""
    radius = 1 + math.ceil(sigma / step)
    h, w = seeds.shape
    rows = []
    for y in range(size[0]):
        for x in range(size[1]):
            values = []
            for i in range(y // step - radius, y // step + radius + 1):
                for j in range(x // step - radius, x // step + radius + 1):
                    d = math.hypot(y - i * step, x - j * step) / sigma
                    inside = 0 <= i < h and 0 <= j < w
                    seed = (
                        seeds[min(max(i, 0), h - 1), min(max(j, 0), w - 1)] if inside or repeat else seeds.new_zeros(())
                    )
                    values.append(seed * math.exp(-2 * max(0.0, d - 0.5) ** 2))
            t = torch.stack(values)
            rows.append((t * torch.softmax(20 * t, 0)).sum())
    return torch.stack(rows).reshape(size)


# -- the masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_masks_are_the_smooth_maximum_of_their_definition(*, sparse: bool) -> None:
    masks = SmoothMasks((13, 34), step=3, sigma=3.5, places=None, dtype=torch.float64)
    seeds = torch.rand(2, *masks.grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if sparse:  # most windows are empty then, which is a way of its own
        seeds[:, :, 2:] = 0
    for one, seed in zip(masks.make(seeds)[0], seeds, strict=True):
        expected = by_definition(seed, (13, 34), 3, 3.5, repeat=True)
        assert float((one - expected).abs().max()) < EXACT
        assert not sparse or bool((expected == 0).any())


def test_padded_masks_are_the_published_ones_and_the_image_is_in_their_middle() -> None:
    masks = SmoothMasks((224, 224), padded=True, places=None, dtype=torch.float64)
    seeds = torch.zeros(1, 32, 32, dtype=torch.float64)
    seeds[0, 0, 31] = 1.0
    made, _ = masks.make(seeds)
    assert made.shape == (1, 260, 260)  # 21 pixels before the image and 15 behind it
    assert masks.inside == (slice(21, 245), slice(21, 245))
    middle = (made[0] >= 0.999).nonzero().double().mean(0)  # of the plateau
    assert middle.round().tolist() == [21, 21 + 31 * 7]
    small = SmoothMasks((12, 12), step=3, sigma=3.0, padded=True, places=None, dtype=torch.float64)
    some = torch.rand(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = small.make(some)[0][0][small.inside]
    assert float((inside - by_definition(some[0], (12, 12), 3, 3.0, repeat=False)).abs().max()) < EXACT


def test_a_lone_seed_has_a_plateau_and_a_decay() -> None:
    masks = SmoothMasks((224, 224), places=None, dtype=torch.float64)
    seeds = torch.zeros(1, 32, 32, dtype=torch.float64)
    seeds[0, 16, 16] = 1.0
    line = masks.make(seeds)[0][0, 112, 112:]
    assert [round(float(line[d]), 3) for d in (0, 7, 14)] == [1.0, 1.0, 0.946]
    assert bool((line[:29].diff() <= 1e-9).all())  # falls, as far as its window reaches on all sides
    assert float(line[35:].max()) == 0.0  # and is cut there
    assert 1e-3 < float(line[34]) < 0.01


def test_masks_of_ones_are_as_bright_at_the_border_as_in_the_middle() -> None:
    ones = torch.ones(1, 32, 32, dtype=torch.float64)
    mask = SmoothMasks((224, 224), places=None, dtype=torch.float64).make(ones)[0]
    assert [round(float(v), 3) for v in (mask.min(), mask.max())] == [
        0.985,
        0.991,
    ]  # the published values, of the middle
    assert torch.allclose(mask[0, :7, :7], mask[0, 112:119, 112:119], atol=EXACT, rtol=0)


@pytest.mark.parametrize(("size", "padded"), [((20, 27), False), ((40, 56), False), ((21, 34), True)])
@pytest.mark.parametrize("places", [1, 2, None])
def test_the_gradient_of_seeds_is_that_of_finite_differences(
    size: tuple[int, int], places: int | None, *, padded: bool
) -> None:
    masks = SmoothMasks(size, step=5, sigma=9.0, padded=padded, places=places, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    seeds = torch.rand(1, *masks.grid, dtype=torch.float64, generator=generator)
    seeds = seeds * (seeds > 0.4)
    made, state = masks.make(seeds)
    slopes = torch.rand(made.shape, dtype=torch.float64, generator=generator)
    pulled = masks.pull(slopes, state)
    for at in range(seeds[0].numel()):
        step = torch.zeros_like(seeds)
        step.flatten()[at] = 1e-5
        up, down = masks.make(seeds + step)[0], masks.make(seeds - step)[0]
        expected = ((up - down) * slopes).sum() / 2e-5
        assert abs(float(pulled.flatten()[at] - expected)) < 1e-6  # the third derivative times the square of the step


def test_a_seed_in_an_empty_window_can_grow() -> None:
    masks = SmoothMasks((12, 40), step=2, sigma=2.5, places=None, dtype=torch.float64)
    seeds = torch.zeros(1, *masks.grid, dtype=torch.float64)
    seeds[0, 1, 1] = 1.0
    made, state = masks.make(seeds)
    slopes = torch.rand(made.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pulled = masks.pull(slopes, state)
    for at in (0, 19, 39, 59):  # all far from the one that is there, but the first
        step = torch.zeros_like(seeds)
        step.flatten()[at] = 1e-7
        expected = ((masks.make(seeds + step)[0] - made) * slopes).sum() / 1e-7
        assert abs(float(pulled.flatten()[at] - expected)) < 1e-5  # the second derivative, some 20, times the step
        assert float(expected) != 0


def test_two_places_of_a_cell_are_near_all_of_them_on_masks_that_a_search_ends_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, image = linear(224)
    search = Search(
        model, image, model.resolve(image, 0), areas=(0.1,), variant="preserve", perturbation="fade", steps=60, tolerance=0.0,
        continuation=True, jitter=False, area_of="image", over="space", output="logit",
    )  # fmt: skip
    ended = []
    finish = search._finish

    def keep(row: int) -> None:
        ended.append(search.ended[row][0])
        finish(row)

    monkeypatch.setattr(search, "_finish", keep)
    search.run()
    seeds = ended[0][None]
    coarse, fine = search.masks.make(seeds)[0], search.exact.make(seeds)[0]
    assert float((coarse - fine).abs().max()) < 0.03
    assert float((coarse - fine).abs().mean()) < 0.001


@pytest.mark.parametrize("side", [16, 64, 224, 512])
def test_lengths_are_parts_of_the_shorter_side(side: int) -> None:
    masks = SmoothMasks((side, 2 * side))
    assert masks.step == max(1, side // 32)
    assert masks.grid == (-(-side // masks.step), -(-2 * side // masks.step))
    assert masks.radius == (4 if side >= 32 else 3)


# -- what a mask shows, and its area -------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [0.05, 0.25, 0.5, 0.999])
def test_the_area_of_a_constant_mask_is_in_closed_form(area: float) -> None:
    for c in (0.0, area, 0.7, 1.0):
        loss, _ = area_loss(torch.full((1, 1000), c, dtype=torch.float64), [area])
        assert float(loss) == pytest.approx(area * (1 - c) ** 2 + (1 - area) * c**2, abs=EXACT)


def test_the_area_needs_no_sort() -> None:
    masks = torch.rand(3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    masks[1] = (masks[1] * 4).round() / 4  # ties
    areas = [0.1, 0.3, 0.77]
    loss, slopes = area_loss(masks, areas)
    for one, area, value, slope in zip(masks, areas, loss, slopes, strict=True):
        wanted = (torch.arange(99) >= int(99 * (1 - area) + 1e-9)).double()
        assert float(value) == pytest.approx(float((one.flatten().sort().values - wanted).square().mean()), abs=EXACT)
        if len(one.unique()) == 99:
            leaf = one.clone().requires_grad_()
            (leaf.flatten().sort().values - wanted).square().mean().backward()
            assert leaf.grad is not None
            assert float((leaf.grad - slope).abs().max()) < EXACT
        else:  # equal pixels are treated alike
            for tied in one.unique():
                assert len(slope[one == tied].unique()) == 1


def test_the_area_is_right_only_where_a_mask_is_binary_and_of_that_area() -> None:
    mask = torch.zeros(1, 100)
    mask[0, 3:13] = 1
    assert float(area_loss(mask, [0.1])[0]) == 0.0
    assert float(area_loss(mask, [0.11])[0]) == pytest.approx(0.01)
    assert float(area_loss(mask, [0.09])[0]) == pytest.approx(0.01)
    assert float(area_loss(mask * 0.9, [0.1])[0]) == pytest.approx(0.001, rel=1e-5)  # float32


def test_a_mask_shows_the_image_where_it_is_one_and_the_widest_blur_where_it_is_zero() -> None:
    model = Model(Linear(torch.ones(28, 28)), mean=(0.4,), std=(1.0,))
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    levels = pyramid(image, model, "blur")
    assert levels.shape == (8, 1, 28, 28)
    assert torch.equal(blend(levels, torch.ones(1, 28, 28))[0], image)
    assert torch.equal(blend(levels, torch.zeros(1, 28, 28))[0], baselines.gaussian_blur(image[None], 2.5)[0])
    third = blend(levels, torch.full((1, 28, 28), 3 / 7))[0]
    assert torch.allclose(third, baselines.gaussian_blur(image[None], 2.5 * 4 / 7)[0], atol=1e-6)  # float32
    faded, slope = blend(pyramid(image, model, "fade"), torch.full((1, 28, 28), 0.25))
    assert torch.allclose(faded, 0.4 + 0.25 * (image - 0.4))
    assert torch.allclose(slope, image - 0.4)


def test_the_slope_of_what_is_shown_is_that_of_finite_differences() -> None:
    model = Model(Linear(torch.ones(20, 20)))
    generator = torch.Generator().manual_seed(0)
    levels = pyramid(torch.rand(2, 20, 20, dtype=torch.float64, generator=generator), model, "blur")
    mask = torch.rand(1, 20, 20, dtype=torch.float64, generator=generator)
    kinks = ((mask * 7) - (mask * 7).round()).abs() < 1e-4
    up, down = blend(levels, mask + 1e-6)[0], blend(levels, mask - 1e-6)[0]
    error = ((up - down) / 2e-6 - blend(levels, mask)[1]).abs()
    assert float(error.masked_fill(kinks, 0).max()) < 1e-8  # linear in between: rounding over the step


# -- the ascent ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_steps_are_those_of_torchs_sgd_on_the_sorted_area(
    variant: str, perturbation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handful of steps from the definition, by autograd: masks pixel by pixel, `torch.sort`, `torch.optim.SGD`."""
    monkeypatch.setattr(_extremal, "TIE", 1e-12)  # a sort has none, and float64 tells pixels apart
    torch.manual_seed(0)
    size, steps, area = 12, 4, 0.3
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(300, 2)).double().eval()
    image = torch.rand(1, 1, size, size, dtype=torch.float64)
    model = Model(network, mean=(0.5,), std=(1.0,))
    made = attribution.create(
        "extremal_perturbation",
        model,
        areas=(area,),
        variant=variant,
        perturbation=perturbation,
        steps=steps,
        tolerance=0.0,
    ).explain(image, 1)
    levels = pyramid(image[0], model, perturbation)

    def shown(mask: Tensor) -> Tensor:
        position = mask * (len(levels) - 1)
        weights = (1 - (position - torch.arange(len(levels))[:, None, None]).abs()).clamp_min(0)
        return (weights[:, None] * levels).sum(0)[None]

    def score(x: Tensor) -> Tensor:
        return network((x - 0.5) / 1.0)[0, 1]

    def reward(mask: Tensor, *, flip: bool) -> Tensor:
        sides = [shown(m).flip(-1) if flip else shown(m) for m in (mask, 1 - mask)]
        kept, left = score(sides[0]), score(sides[1])
        return {"preserve": kept, "delete": -left, "dual": kept - left}[variant]

    spread = torch.stack([score(level[None]) for level in levels])
    spread = (spread.max() - spread.min()).detach()
    ones = torch.ones(size, size, dtype=torch.float64, requires_grad=True)
    (mass,) = torch.autograd.grad(by_definition(ones, (size, size), 1, 3 * size / 32, repeat=True).sum(), ones)
    root = (size**2 / 1024 / mass.clamp_min(mass.mean() / 4)).sqrt()
    # a rate of each seed's own is one rate for all of seeds in units of its root
    scaled = nn.Parameter(1 / root)
    climber = torch.optim.SGD([scaled], lr=0.2, momentum=0.9, dampening=0.9, maximize=True)
    wanted = (torch.arange(size**2) >= int(size**2 * (1 - area) + 1e-9)).double()
    for t in range(steps):
        mask = by_definition(scaled * root, (size, size), 1, 3 * size / 32, repeat=True)
        earned = reward(mask, flip=t % 2 == 0)
        away = (mask.flatten().sort().values - wanted).square().mean()
        if t == 0:  # all pixels tie, which a sort breaks in its own way: they share what is wanted of them
            share = wanted.mean()
            away = (share * (1 - mask) ** 2 + (1 - share) * mask**2).mean()
        weight = WEIGHT * GROWTH ** (t / (steps - 1))
        climber.zero_grad()
        (earned / spread - weight * away).backward()
        climber.step()
        with torch.no_grad():
            scaled.copy_((scaled * root).clamp(0, 1) / root)
        history = made.details["history"][0, 0, :, t]
        assert float(history[0]) == pytest.approx(float(earned.detach()), rel=1e-9)
        assert float(history[1]) == pytest.approx(float(away.detach()), rel=1e-9)
    final = by_definition((scaled * root).detach(), (size, size), 1, 3 * size / 32, repeat=True)
    assert float((made.details["masks"][0, 0] - final).abs().max()) < 1e-9
    assert float(made.details["rewards"][0, 0]) == pytest.approx(float(reward(final, flip=False).detach()), rel=1e-9)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_a_disk_is_found(size: int) -> None:
    model, image = linear(size, 0.1)
    made = found(model, image, areas=(0.05, 0.1, 0.2), steps=400)
    masks, rewards = made.details["masks"][0], made.details["rewards"][0]
    inside, mask = disk(size, 0.1) > 0, masks[1] > 0.5
    assert float((inside & mask).sum() / (inside | mask).sum()) > 0.8
    assert float(masks[1].mean()) == pytest.approx(0.1, abs=0.02)
    assert float(rewards[0]) < float(rewards[1]) - 0.2  # half of the disk, then all of it,
    assert float(rewards[1]) < float(rewards[2]) + 1e-6
    assert float(rewards[2]) == pytest.approx(1.0, abs=0.02)  # and no more
    assert float(made.maps[0, 0][inside].mean()) > 5 * float(made.maps[0, 0][~inside].mean())


@pytest.mark.parametrize("at", [(0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.5), (1.0, 0.4)])
def test_the_border_is_no_better_than_the_middle(at: tuple[float, float]) -> None:
    """A disk that is a little better than the rest is found wherever it lies, and no corner in its place."""
    inside = disk(32, 0.2 * (2 if 0.4 in at or 0.5 in at else 4) / (2 if at == (0.5, 0.5) else 1), at)
    area = float(inside.mean())
    model = Model(Linear((1 + inside) / 1024), mean=(0.0,), std=(1.0,))
    mask = found(model, torch.ones(1, 1, 32, 32), areas=(area,), steps=120).details["masks"][0, 0] > 0.5
    assert float((mask & (inside > 0)).sum() / (mask | (inside > 0)).sum()) > 0.6


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_masks_reach_their_area_whatever_the_scale_of_the_score(output: Any, scale: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3))
    with torch.no_grad():
        network[-1].weight.mul_(scale)
    made = found(Model(network.eval()), torch.rand(1, 3, 48, 48), areas=(0.1, 0.3), steps=400, output=output)
    # rims are soft, and a mask of several pieces has much of them
    shown = (made.details["masks"] > 0.5).float().mean((2, 3))
    assert shown.tolist() == [pytest.approx([0.1, 0.3], abs=0.03)]
    assert float(made.details["regularisers"].max()) < 0.05  # without a shape it would be .09 and .21


def test_the_search_does_not_see_the_scores_unit_or_offset() -> None:
    inside = disk(32, 0.2)
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Affine(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 1000 * super().forward(x) - 70_000

    plain, scaled = (
        found(Model(cls(inside, 1 - inside).double()), images, areas=(0.2,), steps=60).details["masks"]
        for cls in (Linear, Affine)
    )
    assert float((plain - scaled).abs().max()) < 1e-6  # float64, of scores of 70000


def test_a_larger_image_has_the_same_mask() -> None:
    small, large = (found(*linear(size, 0.1), areas=(0.1,), steps=150).details["masks"] for size in (64, 512))
    halved = nn.functional.avg_pool2d(large, 8)
    assert float((small - halved).abs().mean()) < 0.01


# -- variants, rewards, details ------------------------------------------------------------------------------------------


def test_dual_earns_what_preserving_and_deleting_earn_and_all_find_the_same_in_a_linear_score() -> None:
    model, image = linear(48, 0.1)
    made = {v: found(model, image, variant=v, areas=(0.1,), steps=200).details for v in ("preserve", "delete", "dual")}
    for one in made.values():
        mask = one["masks"][0]
        kept, left = (float(model.scores(m[None] * image, 0)) for m in (mask, 1 - mask))
        expected = {"preserve": kept, "delete": -left, "dual": kept - left}
        which = next(v for v, d in made.items() if d is one)
        assert float(one["rewards"]) == pytest.approx(expected[which], abs=1e-5)
        assert expected["dual"] == pytest.approx(expected["preserve"] + expected["delete"], abs=1e-5)
        assert float(one["rewards"]) > {"preserve": 0.8, "delete": -0.2, "dual": 0.6}[which]
    # deleting pulls as preserving does: the same steps
    assert float((made["preserve"]["masks"] - made["delete"]["masks"]).abs().max()) < 1e-3


def test_the_contrastive_reward_is_over_the_best_other_class() -> None:
    left, right = torch.zeros(2, 32, 32).unbind()
    left[:, :16], right[:, 16:] = 1 / 512, 1 / 512
    both = left + right
    model = Model(Linear(both, 2 * right, -both), mean=(0.0,), std=(1.0,))
    image = torch.ones(1, 1, 32, 32)
    made = found(model, image, areas=(0.25,), steps=200, reward="contrastive")
    mask = made.details["masks"][0]
    assert float(mask[0, :, :16].mean()) > 0.4  # where the other class is not
    assert float(mask[0, :, 16:].mean()) < 0.1
    scores = model.scores(mask[None] * image, 0, every=True)[0]
    assert float(made.details["rewards"]) == pytest.approx(float(scores[0] - scores[1:].max()), abs=1e-5)


@pytest.mark.parametrize("outputs", ["one", "callable"])
def test_a_contrast_without_another_class_is_refused(outputs: str) -> None:
    weights = torch.ones(16, 16)
    model = Model(Linear(weights) if outputs == "one" else Linear(weights, weights))
    made = attribution.create("extremal_perturbation", model, reward="contrastive", steps=2)
    target: Any = 0 if outputs == "one" else lambda out: out[:, 0]
    with pytest.raises(ValueError, match="two classes or more"):
        made.attribute(torch.rand(1, 1, 16, 16), target)


def test_history_and_steps_say_what_was_spent() -> None:
    model, image = linear(32, 0.1)
    images = image.repeat(3, 1, 1, 1) * torch.tensor([1.0, 0.5, 0.25])[:, None, None, None]
    made = found(model, images, areas=(0.1, 0.3, 0.2), steps=160)
    history, steps = made.details["history"], made.details["steps"]
    assert history.shape == (3, 3, 2, 160)
    assert torch.equal(history[:, :, 0].isfinite().sum(2), steps)
    assert torch.equal(made.backwards, steps.sum(1))
    assert torch.equal(made.forwards, steps.sum(1) + 2 + 3)  # both ends of the fade, and every mask in the end
    assert bool((steps[:, 1] > 40).all())  # the largest area starts from ones,
    assert bool((steps[:, [0, 2]] <= follow(160)).all())  # the others from it
    assert torch.equal(made.details["masks"].sum(1, keepdim=True), made.maps)


def test_an_area_starts_from_the_mask_of_the_next_larger_one() -> None:
    model, image = linear(32, 0.1)
    made = found(model, image, areas=(0.1, 0.3), steps=120)
    history, steps = made.details["history"][0], made.details["steps"][0]
    assert float(history[0, 0, 0]) == pytest.approx(float(made.details["rewards"][0, 1]), abs=1e-6)
    alone = found(model, image, areas=(0.1, 0.3), steps=120, continuation=False)
    assert float(alone.details["history"][0, 0, 0, 0]) == float(alone.details["history"][0, 1, 0, 0])  # all from ones
    assert int(steps[0]) <= 30


def test_flat_masks_stop_and_the_tolerance_says_when() -> None:
    model, image = linear(32, 0.1)
    taken = [int(found(model, image, areas=(0.1,), steps=400, tolerance=t).details["steps"]) for t in (0.0, 0.01, 0.1)]
    assert taken[0] == 400 > taken[1] > taken[2]
    loose, full = (found(model, image, areas=(0.1,), steps=400, tolerance=t).details["rewards"] for t in (0.01, 0.0))
    assert float(loose) == pytest.approx(float(full), abs=0.01)


def test_the_minimal_area_is_the_smallest_that_earns_enough() -> None:
    model, image = linear(32, 0.1)
    areas = (0.2, 0.02, 0.05, 0.1)
    for threshold in (0.3, 0.9):
        made = found(model, image, areas=areas, steps=150, threshold=threshold)
        enough = made.details["rewards"][0] >= threshold
        expected = min(a for a, e in zip(areas, enough.tolist(), strict=True) if e)
        assert float(made.details["minimal_area"]) == pytest.approx(expected)
    assert math.isnan(float(found(model, image, areas=(0.02,), steps=50, threshold=0.99).details["minimal_area"]))
    gone = found(model, image, areas=areas, steps=150, variant="delete", threshold=0.7).details
    assert float(gone["minimal_area"]) == pytest.approx(0.1)  # what is left without the disk is less than 30%


def test_a_score_that_never_moves_gives_no_minimal_area_and_no_nan() -> None:
    model = Model(Linear(torch.zeros(16, 16), torch.ones(16, 16)))
    made = found(model, torch.rand(1, 1, 16, 16), areas=(0.2,), steps=60)
    assert bool(made.maps.isfinite().all())
    assert bool(made.details["minimal_area"].isnan().all())
    assert torch.equal(made.details["rewards"], torch.zeros(1, 1))


def test_a_padded_area_counts_the_frame() -> None:
    model, image = linear(32, 0.3)
    own, padded = (
        float(found(model, image, areas=(0.2,), steps=150, area_of=of).details["masks"].mean())
        for of in ("image", "padded")
    )
    frame = SmoothMasks((32, 32), padded=True).make(torch.ones(1, 32, 32))[0]
    assert own == pytest.approx(0.2, abs=0.03)
    assert (
        own + 0.02 < padded < 0.2 * frame[0].numel() / 32**2 + 0.03
    )  # of the image it is more, for the frame is empty


def test_mirror_images_are_seen_at_every_second_step() -> None:
    """A score of the left half: its mirror image is on the right, so that masks keep both sides alike."""
    half = torch.zeros(32, 32)
    half[:, :16] = 1 / 512
    model = Model(Linear(half, 1 - half), mean=(0.0,), std=(1.0,))
    image = torch.ones(1, 1, 32, 32)
    both = found(model, image, areas=(0.3,), steps=100, jitter=True).details["masks"][0, 0]
    one = found(model, image, areas=(0.3,), steps=100, jitter=False).details["masks"][0, 0]
    assert float(one[:, 20:].mean()) < 0.1 * float(one[:, :12].mean())
    assert float(both[:, 20:].mean()) > 0.4 * float(both[:, :12].mean())


# -- inner layers --------------------------------------------------------------------------------------------------------


def channels() -> nn.Sequential:
    """Four channels, of which the third decides class 0, and the first speaks against it."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.zero_()
        network[4].weight.copy_(torch.tensor([[-1.0, 0.1, 3.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
        network[4].bias.zero_()
    return network.eval()


def test_the_channels_that_a_class_needs_are_found() -> None:
    made = found(
        Model(channels()),
        torch.rand(2, 1, 12, 12),
        layer="1",
        over="channels",
        areas=(0.25, 0.5),
        steps=300,
        threshold=0.9,
    )
    scores = made.details["channels"]
    assert scores.shape == (2, 4)
    assert made.details["masks"].shape == (2, 2, 4)
    assert scores.argmax(1).tolist() == [2, 2]
    assert scores.argmin(1).tolist() == [0, 0] or float(scores[:, 0].max()) < 0.1
    assert made.details["minimal_area"].tolist() == [0.25, 0.25]  # one channel of four is enough
    assert made.maps.shape == (2, 1, 12, 12)


def test_at_a_layer_a_mask_lies_over_the_activation() -> None:
    _, image = linear(32, 0.1)
    inside = disk(32, 0.1)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 2, stride=2), nn.ReLU(), nn.Conv2d(2, 1, 1), Linear(disk(16, 0.1), 1 - disk(16, 0.1))
    )
    with torch.no_grad():
        for module in (network[0], network[2]):
            module.weight.fill_(0.5)
            module.bias.zero_()
    made = found(Model(network.eval()), image, layer="1", areas=(0.1,), steps=300, jitter=True)
    assert made.details["masks"].shape == (1, 1, 16, 16)
    assert made.details["layer"] == "1"
    mask = made.maps[0, 0] > 0.5
    assert float((mask & (inside > 0)).sum() / (mask | (inside > 0)).sum()) > 0.6  # cells of two pixels


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"areas": ()}, "between 0 and 1"),
        ({"areas": (0.1, 1.2)}, "between 0 and 1"),
        ({"areas": (0.0,)}, "between 0 and 1"),
        ({"areas": (0.1, 0.2, 0.1)}, "once"),
        ({"over": "channels"}, "layer="),
        ({"steps": 0}, "steps"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"threshold": 1.0}, "threshold"),
        ({"variant": "keep"}, "variant"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attribution.create("extremal_perturbation", Model(Linear(torch.ones(8, 8))), **options)


def test_a_budget_picks_the_steps() -> None:
    made = attribution.create(
        "ep", Model(Linear(torch.ones(16, 16))), budget=500, areas=(0.1, 0.2), perturbation="fade"
    )
    assert sum(made.cost((1, 16, 16), **made.params)) <= 500
    explained = made.explain(torch.rand(2, 1, 16, 16), 0)
    assert int((explained.forwards + explained.backwards).max()) <= 500

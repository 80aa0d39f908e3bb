"""RISE: masks, the accumulation without masks, closed forms, the interval, stopping, and everything it shares."""

import itertools

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.perturbation._masks import CellBank, MaskBank, enlargement, estimate
from skimage.transform import resize as skimage_resize
from torch import nn

# float64: rounding of sums of some hundred terms
FINE = 1e-10


def close(found, wanted, tolerance):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * max(float(wanted.abs().max()), 1e-12)


def weights(channels=3, height=6, width=5, seed=0):
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width", "grid"), [(8, 8, 2), (9, 7, 3), (16, 12, 4), (14, 14, 7), (5, 11, 2)])
def test_masks_are_those_of_the_paper(height, width, grid):
    """Enlarge the grid to (grid + 1) cells, mirrored at the edge, and cut at the shift: the authors do it with skimage."""
    bank = MaskBank(height, width, grid=grid, keep=0.5, masks=40, seed=3, dtype=torch.float64)
    found = bank(slice(0, 40))
    assert found.shape == (40, 1, height, width)
    for n in range(40):
        size = ((grid + 1) * bank.cell[0], (grid + 1) * bank.cell[1])
        up = skimage_resize(bank.grids[n].double().numpy(), size, order=1, mode="reflect", anti_aliasing=False)
        top, left = bank.shifts[n].tolist()
        # scikit-image works its coordinates out by a matrix: 1e-7 at most in float64
        np.testing.assert_allclose(found[n, 0].numpy(), up[top : top + height, left : left + width], atol=1e-6)


@pytest.mark.parametrize(("length", "grid"), [(8, 2), (9, 3), (224, 7), (5, 1), (3, 3), (7, 5)])
def test_enlargement_is_a_mean(length, grid):
    matrices = enlargement(length, grid, -(-length // grid))
    assert matrices.shape == (-(-length // grid), length, grid)
    np.testing.assert_allclose(matrices.sum(2).numpy(), 1, atol=1e-12)
    assert float(matrices.min()) >= 0


def test_shifts_and_cells_are_uniform():
    bank = MaskBank(20, 15, grid=5, keep=0.3, masks=20_000, seed=0)
    assert bank.cell == (4, 3)
    for axis, size in enumerate(bank.cell):
        share = torch.bincount(bank.shifts[:, axis], minlength=size) / 20_000
        # a share of a quarter of 2e4 draws: standard error 0.003; five of them
        np.testing.assert_allclose(share.numpy(), 1 / size, atol=0.017)
        assert len(share) == size
    np.testing.assert_allclose(bank.grids.float().mean(0).numpy(), 0.3, atol=0.017)
    mean = bank(slice(0, 20_000)).mean(0)
    np.testing.assert_allclose(mean.numpy(), 0.3, atol=0.017)  # at the borders too


@pytest.mark.parametrize(
    ("height", "width", "grid", "masks"), [(8, 8, 2, 50), (9, 7, 3, 1500), (16, 12, 4, 30), (6, 10, 6, 40)]
)
def test_combining_equals_summing_the_masks(height, width, grid, masks):
    bank = MaskBank(height, width, grid=grid, keep=0.4, masks=masks, seed=1, dtype=torch.float64)
    weight = torch.randn(3, masks, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.einsum("in,nhw->ihw", weight, bank(slice(0, masks))[:, 0])
    close(bank.combine(weight), wanted, FINE)
    some = torch.tensor([0, 5, 7])
    close(bank.combine(weight, some), torch.einsum("in,nhw->ihw", weight[:, some], bank(slice(0, masks))[some, 0]), FINE)


@pytest.mark.parametrize(("normalize", "divide"), [("sum", None), ("count", 0.4), ("none", 1 / 60)])
def test_rise_against_its_definition(networks, images, normalize, divide):
    network, x = networks.cnn().double(), images(2, height=9, width=7, dtype=torch.float64)
    start = images(2, height=9, width=7, seed=1, dtype=torch.float64)
    made = attribution.create(
        "rise", Model(network, batch_size=16), masks=60, grid=3, keep=0.4, normalize=normalize, baseline=start, seed=5
    )
    found = made.explain(x, [0, 1])
    masks = MaskBank(9, 7, grid=3, keep=0.4, masks=60, seed=5, dtype=torch.float64)(slice(0, 60))
    for i, target in enumerate((0, 1)):
        scores = network(masks * x[i] + (1 - masks) * start[i]).softmax(1)[:, target].detach()
        total = (scores[:, None, None] * masks[:, 0]).sum(0)
        wanted = total / masks[:, 0].sum(0) if divide is None else total / (60 * divide)
        close(found.maps[i, 0], wanted, FINE)
        assert float(found.details["mean"][i]) == pytest.approx(float(scores.mean()), rel=1e-9)
        assert float(found.details["std"][i]) == pytest.approx(float(scores.std(correction=0)), rel=1e-6)


def closed_form(w, x, grid, p, constant=0.0):
    """Reference black-box.md, section 1: the mean of score times mask over p, for a linear score and a zero baseline."""
    height, width = x.shape[-2:]
    kernels = [torch.stack([a @ a.T for a in enlargement(n, grid, -(-n // grid))]).mean(0) for n in (height, width)]
    part = (w * x).reshape(height, width)
    return constant + p * part.sum() + (1 - p) * kernels[0] @ part @ kernels[1].T


def exhaustive(height, width, p=0.5):
    """Every grid of 2 x 2 at every shift."""
    bank = MaskBank(height, width, grid=2, keep=p, masks=1, seed=0, dtype=torch.float64)
    cells = [torch.tensor(g, dtype=torch.bool).reshape(2, 2) for g in itertools.product((0, 1), repeat=4)]
    shifts = list(itertools.product(range(bank.cell[0]), range(bank.cell[1])))
    bank.grids = torch.stack([g for g in cells for _ in shifts])
    bank.shifts = torch.tensor([s for _ in cells for s in shifts])
    return bank


@pytest.mark.parametrize("normalize", ["count", "sum", "none"])
@pytest.mark.parametrize("control_variate", [False, True])
def test_rise_of_a_linear_network_over_every_mask(normalize, control_variate):
    """A constant plus a blurred copy of w x, exact when all grids and shifts are taken, whatever is divided by."""
    w = weights(1, 6, 4)
    x = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    bank = exhaustive(6, 4)
    number = len(bank.grids)
    scores = 3.0 + (bank(slice(0, number)) * x * w).sum((1, 2, 3))
    found = estimate(bank, scores[None], keep=0.5, normalize=normalize, control_variate=control_variate).maps[0]
    wanted = closed_form(w, x, 2, 0.5, 3.0)
    if control_variate:  # the mean score, and nothing but that: every pixel is shown equally often
        wanted = wanted - 3.0 - 0.5 * (w * x).sum()
    scale = number * 0.5 if normalize == "none" else 1
    np.testing.assert_allclose(found.numpy(), wanted.numpy() * scale, atol=1e-12 * scale)


def test_more_masks_go_on_where_fewer_ended(networks, images):
    few, many = (MaskBank(8, 8, grid=3, keep=0.5, masks=n, seed=2) for n in (50, 1500))
    assert torch.equal(few(slice(0, 50)), many(slice(0, 50)))
    assert torch.equal(many(slice(7, 9)), many(slice(0, 20))[7:9])
    assert not torch.equal(few(slice(0, 50)), MaskBank(8, 8, grid=3, keep=0.5, masks=50, seed=3)(slice(0, 50)))
    x = images(2)
    made = attribution.create("rise", networks.cnn(), masks=40, grid=3)
    alone = made.attribute(x[1:], 0)
    torch.testing.assert_close(made.attribute(x, 0)[1:], alone)  # whatever its place
    torch.testing.assert_close(made.attribute(x.flip(0), 0)[:1], alone)
    assert torch.equal(made.attribute(x, 0), made.attribute(x, 0))


def test_rise_finds_the_block():
    class Seen(nn.Module):
        def forward(self, x):
            return (x[:, 0, 2:5, 6:9].amin((1, 2)) > 0.7).to(x)[:, None]

    x = torch.ones(1, 1, 12, 12)
    found = attribution.create("rise", Model(Seen(), activation="none"), masks=2000, grid=4, baseline=0.0).attribute(
        x, 0
    )[0, 0]
    row, column = divmod(int(found.argmax()), 12)
    assert 2 <= row < 5
    assert 6 <= column < 9


def test_rise_of_a_constant_is_that_constant():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 1), 0.25)

    model = Model(Constant(), activation="none")
    for normalize, wanted in (("sum", 0.25), ("none", None)):
        found = attribution.create("rise", model, masks=64, grid=3, normalize=normalize).attribute(
            torch.rand(1, 3, 8, 8), 0
        )
        if wanted is not None:
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


# -- antithetic masks and the control variate --------------------------------------------------------------------------


def banks(seed, masks, antithetic, grid=3):
    return MaskBank(9, 9, grid=grid, keep=0.5, masks=masks, seed=seed, antithetic=antithetic, dtype=torch.float64)


def linear_scores(bank, constant=2.0):
    """Scores of the bank's masks, `(1, n)`, by a linear network, and the map they lead to."""
    w, x = weights(1, 9, 9), torch.ones(1, 9, 9, dtype=torch.float64)
    masks = bank(slice(0, len(bank.grids)))
    return constant + (masks * w).sum((1, 2, 3))[None], closed_form(w, x, bank.grids.shape[-1], 0.5, constant)


def test_antithetic_masks_are_complements():
    bank = banks(3, 11, True)
    masks = bank(slice(0, 11))
    np.testing.assert_allclose((masks[0:10:2] + masks[1:10:2]).numpy(), 1, atol=1e-12)
    assert torch.equal(bank.shifts[0:10:2], bank.shifts[1:10:2])
    assert len(masks) == 11
    longer = banks(3, 40, True)
    assert torch.equal(longer(slice(0, 11)), masks)  # mask n depends on the seed and n alone
    assert not torch.equal(banks(4, 11, True)(slice(0, 11)), masks)


def test_antithetic_masks_take_off_what_is_odd():
    """A linear score is its mean plus an odd part: pairs leave their product with the mask and nothing else."""
    bank = banks(0, 60, True)
    scores, _ = linear_scores(bank)
    mean = scores.mean()
    np.testing.assert_allclose(scores[0, 0::2] + scores[0, 1::2], 2 * mean, atol=1e-12)  # every pair has the mean
    found = estimate(bank, scores, keep=0.5, normalize="count", control_variate=False).maps[0]
    odd = bank(slice(0, 60))[0::2, 0] - 0.5
    wanted = mean + 2 * ((scores[0, 0::2] - mean)[:, None, None] * odd).mean(0)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-12)
    # and every pixel is shown in exactly half of the masks, so that three ways to divide are one
    for normalize, scale in (("sum", 1), ("none", 30)):
        other = estimate(bank, scores, keep=0.5, normalize=normalize, control_variate=False).maps[0]
        np.testing.assert_allclose(other.numpy(), found.numpy() * scale, atol=1e-10)


def spread(masks, runs=60, **options):
    """The variance of maps over seeds, averaged over pixels, for a score with a large constant."""
    antithetic = options.pop("antithetic", False)
    maps = []
    for seed in range(runs):
        bank = banks(seed, masks, antithetic)
        maps.append(estimate(bank, linear_scores(bank)[0], keep=0.5, **options).maps[0])
    return float(torch.stack(maps).var(0).mean())


def test_variances_come_in_the_right_order():
    """Over 60 seeds, 81 pixels of some 16 that are independent: a relative error of 5%; the nearest two are 25% apart.

    For a linear score the noise is coverage times the mean, the odd part alone, and the odd part times the mask. The
    control variate takes the first two off; a pair does too, but says the third twice.
    """
    plain = spread(100, normalize="count", control_variate=False)
    weighted = spread(100, normalize="sum", control_variate=False)
    antithetic = spread(100, normalize="count", control_variate=False, antithetic=True)
    control = spread(100, normalize="count", control_variate=True)
    assert control < 0.6 * antithetic
    assert antithetic < 0.8 * plain
    assert antithetic < 0.85 * weighted


def test_antithetic_masks_take_off_what_pairs_of_cells_do_together():
    """A score that is even in the masks tells of no pixel: pairs see that at once, a control variate only on average."""

    def even(bank):
        w, masks = weights(1, 9, 9), bank(slice(0, len(bank.grids)))
        return (((masks - 0.5) * w).sum((1, 2, 3)) ** 2)[None]

    found = {}
    for antithetic in (True, False):
        bank = banks(0, 100, antithetic)
        maps = estimate(bank, even(bank), keep=0.5, normalize="count", control_variate=True).maps
        found[antithetic] = float(maps.abs().max())
    assert found[True] < 1e-10
    assert found[False] > 0.1


def test_the_control_variate_takes_the_mean_off(networks, images):
    x = images(2)
    options = {"masks": 60, "grid": 3}
    for normalize in ("sum", "count", "none"):
        plain = attribution.create("rise", networks.cnn(), normalize=normalize, **options).explain(x, 0)
        found = attribution.create("rise", networks.cnn(), normalize=normalize, control_variate=True, **options)
        maps = found.attribute(x, 0)[:, 0]
        shown = MaskBank(8, 8, grid=3, keep=0.5, masks=60, seed=0)(slice(0, 60))[:, 0].sum(0)
        factor = {"sum": torch.ones(8, 8), "count": shown / 30, "none": shown}[normalize]
        wanted = plain.maps[:, 0] - plain.details["mean"][:, None, None] * factor
        torch.testing.assert_close(maps, wanted, rtol=1e-4, atol=1e-6)


# -- the interval and stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("normalize", ["sum", "count", "none"])
def test_the_interval_covers_the_truth(normalize, control_variate, antithetic):
    """Over 80 seeds and 81 pixels; neighbours go together: some 16 x 80 independent ones, a standard error below 1.5%."""
    inside = []
    for seed in range(80):
        bank = banks(seed, 300, antithetic)
        scores, truth = linear_scores(bank)
        if control_variate:
            truth = truth - 2.0 - 0.5 * weights(1, 9, 9).sum()
        found = estimate(bank, scores, keep=0.5, normalize=normalize, control_variate=control_variate)
        truth = truth * (150 if normalize == "none" else 1)
        inside.append(((found.maps[0] - truth).abs() <= found.half_width[0]).double().mean())
    assert 0.91 < float(torch.stack(inside).mean()) < 0.98


def test_the_interval_by_hand():
    """A paper's estimator with as many masks in every group: Student's interval of ten means."""
    bank = banks(1, 200, False)
    scores, _ = linear_scores(bank)
    found = estimate(bank, scores, keep=0.5, normalize="count", control_variate=False)
    products = scores[0, :, None, None] * bank(slice(0, 200))[:, 0] / 0.5
    means = torch.stack([products[g::10].mean(0) for g in range(10)])
    wanted = 2.262157 * means.std(0) / 10**0.5
    np.testing.assert_allclose(found.half_width[0].numpy(), wanted.numpy(), rtol=1e-6)


def test_pairs_stay_in_one_group():
    bank = banks(1, 40, True)
    scores, _ = linear_scores(bank)
    found = estimate(bank, scores, keep=0.5, normalize="count", control_variate=False)
    products = scores[0, :, None, None] * bank(slice(0, 40))[:, 0] / 0.5
    pairs = products.reshape(20, 2, 9, 9).mean(1)
    means = torch.stack([pairs[g::10].mean(0) for g in range(10)])
    np.testing.assert_allclose(found.half_width[0].numpy(), (2.262157 * means.std(0) / 10**0.5).numpy(), rtol=1e-6)


@pytest.mark.parametrize("masks", [1, 2, 13])
def test_few_masks_have_wide_intervals(masks, networks, images):
    found = attribution.create("rise", networks.cnn(), masks=masks, grid=3).explain(images(2), 0)
    assert found.details["half_width"].shape == (2, 1, 8, 8)
    assert bool(found.details["half_width"].isinf().all()) == (masks == 1)
    assert not found.details["half_width"].isnan().any()


class Patches(nn.Module):
    """Two images' worth of difficulty: the first channel's block, beside much or little of everything else."""

    def forward(self, x):
        block = x[:, 0, 2:6, 2:6].mean((1, 2))
        rest = x[:, 1].mean((1, 2)) * x[:, 1, 8:, 8:].mean((1, 2)) * 3
        return torch.stack([block + rest, block * 0, block + 2 * rest], 1)


def two(height=12):
    x = torch.zeros(3, 2, height, height, dtype=torch.float64)
    x[:, 0] = 1
    x[1, 1] = 2
    x[2, 1] = 0.3
    return x


OPTIONS = {"grid": 3, "output": "logit", "baseline": "zero", "control_variate": True}


@pytest.mark.parametrize("tolerance", [0.15, 0.3])
@pytest.mark.parametrize("antithetic", [False, True])
def test_it_stops_when_the_interval_is_small_enough(tolerance, antithetic):
    model = Model(Patches(), bounds=None, batch_size=32)
    made = attribution.create("rise", model, masks=6000, tolerance=tolerance, antithetic=antithetic, **OPTIONS)
    found = made.explain(two(), 0)
    masks = found.details["masks"]
    assert torch.equal(found.forwards, masks)
    assert bool((masks % 200 == 0).all())
    assert bool((masks < 6000).all())
    span = found.maps.flatten(1).amax(1) - found.maps.flatten(1).amin(1)
    widest = found.details["half_width"].flatten(1).amax(1)
    assert bool((widest <= tolerance * span).all())
    for row, number in enumerate(masks.tolist()):
        # that many masks without a tolerance give the same, and 200 fewer were too few
        same = attribution.create("rise", model, masks=number, antithetic=antithetic, **OPTIONS).explain(two(), 0)
        close(found.maps[row], same.maps[row], FINE)
        close(found.details["half_width"][row], same.details["half_width"][row], 1e-8)
        if number > 200:
            made = attribution.create("rise", model, masks=number - 200, antithetic=antithetic, **OPTIONS)
            fewer = made.explain(two(), 0)
            one = fewer.maps[row]
            assert float(fewer.details["half_width"][row].max()) > tolerance * float(one.max() - one.min())


@pytest.mark.parametrize("size", [1, 7, 64])
def test_with_a_tolerance_a_batch_is_its_images_one_by_one(size):
    x, target = two(), torch.tensor([0, 0, 2])
    base = torch.tensor([0.0, 0.1, 0.2]).reshape(3, 1, 1, 1).double()
    options = {"masks": 3000, "tolerance": 0.2, **OPTIONS}
    made = attribution.create("rise", Model(Patches(), bounds=None, batch_size=size), **{**options, "baseline": base})
    together = made.explain(x, target)
    assert len(set(together.details["masks"].tolist())) > 1
    for row in range(3):
        options["baseline"] = base[row : row + 1]
        alone = attribution.create("rise", Model(Patches(), bounds=None, batch_size=32), **options)
        one = alone.explain(x[row : row + 1], target[row : row + 1])
        close(together.maps[row : row + 1], one.maps, FINE)
        for name in ("masks", "mean", "std", "half_width"):
            torch.testing.assert_close(together.details[name][row : row + 1], one.details[name], rtol=1e-8, atol=1e-12)


def test_images_that_still_run_share_batches():
    seen = []

    class Counting(Patches):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    model = Model(Counting(), bounds=None, batch_size=48, fast=False)
    target = model.resolve(two(), 0)
    seen.clear()
    made = attribution.create("rise", model, masks=400, tolerance=1e-6, **OPTIONS)
    made.attribute(two(), target)
    assert seen == ([48] * 12 + [24]) * 2  # 600 a round


def test_without_reaching_it_all_masks_are_taken_and_the_last_round_is_cut():
    made = attribution.create("rise", Model(Patches(), bounds=None), masks=450, tolerance=1e-6, **OPTIONS)
    found = made.explain(two(), 0)
    assert found.details["masks"].tolist() == [450] * 3
    assert found.forwards.tolist() == [450] * 3


def test_without_a_tolerance_the_cost_is_exact(networks, images):
    for masks in (1, 37, 450):
        made = attribution.create("rise", networks.cnn(), masks=masks, grid=3)
        assert made.explain(images(2), 0).forwards.tolist() == [masks] * 2


def test_a_constant_score_stops_at_once(images):
    class Constant(nn.Module):
        def forward(self, x):
            return 0.3 + 3e-8 * (x.mean((1, 2, 3)) > 0.25).float()[:, None]  # but for the last bit

    made = attribution.create("rise", Model(Constant(), activation="none"), masks=4000, grid=3, tolerance=0.01)
    assert made.explain(images(2), 0).details["masks"].tolist() == [200, 200]


# -- all classes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["sum", "count", "none"])
@pytest.mark.parametrize("more", [{}, {"control_variate": True}, {"antithetic": True}, {"tolerance": 0.5}])
def test_all_classes_at_once(networks, images, normalize, more):
    x, model = images(2), Model(networks.cnn(classes=40))  # more than are summed at a time
    options = {"masks": 300, "grid": 3, "normalize": normalize, **more}
    target = torch.tensor([3, 37])
    found = attribution.create("rise", model, classes="all", **options).explain(x, target)
    every = found.details["classes"]
    assert every.shape == (2, 40, 8, 8)
    assert every.dtype == torch.float32
    torch.testing.assert_close(every[torch.arange(2), target], found.maps[:, 0])
    assert torch.equal(found.forwards, found.details["masks"])
    plain = attribution.create("rise", model, **options).explain(x, target)
    torch.testing.assert_close(found.maps, plain.maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.details["mean"], plain.details["mean"])
    if "tolerance" not in more:
        other = attribution.create("rise", model, **options).attribute(x, 5)
        torch.testing.assert_close(every[:, 5], other[:, 0], rtol=1e-4, atol=1e-6)


def test_all_classes_need_a_class(networks, images):
    made = attribution.create("rise", networks.cnn(), classes="all", masks=20)
    with pytest.raises(ValueError, match="needs a class as the target"):
        made.attribute(images(), lambda out: out[:, 0])


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_rises_that_see_the_same_masks_pay_once(networks, images):
    x, model = images(2), Model(networks.cnn())
    made = [
        attribution.create("rise", model, grid=3, **options)
        for options in (
            {"masks": 100},
            {"masks": 100, "normalize": "count", "control_variate": True},
            {"masks": 60},
            {"masks": 150},  # goes on where the first ended
            {"masks": 400, "tolerance": 100.0},  # and this one stops after 200
        )
    ]
    alone = [one.explain(x, 1) for one in made]
    paid = []
    with model.sharing():
        for one, wanted in zip(made, alone, strict=True):
            before = model.forwards
            found = one.explain(x, 1)
            paid.append((model.forwards - before) / 2)
            torch.testing.assert_close(found.maps, wanted.maps, rtol=1e-5, atol=1e-7)
            assert torch.equal(found.forwards, wanted.forwards)  # as if run alone
    assert paid == [100, 0, 0, 50, 50]


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"keep": 0.4}, {"grid": 4}, {"antithetic": True}, {"baseline": 0.3}, {"output": "logit"}]
)
def test_rises_that_see_other_masks_pay_themselves(networks, images, other):
    x, model = images(2), Model(networks.cnn())
    first = attribution.create("rise", model, masks=30, grid=3)
    second = attribution.create("rise", model, **{"masks": 30, "grid": 3, **other})
    wanted = second.attribute(x, 1)
    with model.sharing():
        first.attribute(x, 1)
        before = model.forwards
        torch.testing.assert_close(second.attribute(x, 1), wanted)
        assert model.forwards - before == 60


# -- tables and tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("normalize", ["sum", "count", "none"])
def test_tables_by_definition(normalize, antithetic):
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight = torch.tensor([0.0, 2.0, 0.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    model = Model(lambda x: (x @ weight)[:, None] ** 2, kind="table", bounds=None)
    options = {"masks": 50, "normalize": normalize, "antithetic": antithetic, "output": "logit", "baseline": 0.125}
    found = attribution.create("rise", model, grid=99, **options).explain(x, 0)
    masks = CellBank(6, (6,), keep=0.5, masks=50, seed=0, antithetic=antithetic)(slice(0, 50)).double()
    assert bool(((masks == 0) | (masks == 1)).all())
    for i in range(2):
        scores = (torch.where(masks > 0, x[i], 0.125) @ weight) ** 2
        total = scores @ masks
        close(found.maps[i], total / {"sum": masks.sum(0), "count": 25.0, "none": 1.0}[normalize], FINE)
    assert found.details["half_width"].shape == (2, 6)


def test_cells_are_shown_with_their_probability_and_go_on():
    bank = CellBank(20, (20,), keep=0.3, masks=20_000, seed=0)
    # a share of 0.3 in 2e4 draws: standard error 0.0032; five of them
    np.testing.assert_allclose(bank.grids.double().mean(0).numpy(), 0.3, atol=0.017)
    assert torch.equal(CellBank(20, (20,), keep=0.3, masks=70, seed=0).grids, bank.grids[:70])


def test_tokens_are_tables_of_tokens():
    x = 0.5 + torch.rand(3, 6, generator=torch.Generator().manual_seed(3))
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.5, 0.0])
    table = Model(lambda x: torch.stack([x @ weight, 0 * x[:, 0]], 1), kind="table", bounds=None)
    tokens = Model(lambda x: torch.stack([x.mean(2) @ weight, 0 * x[:, 0, 0]], 1), kind="tokens", bounds=None)
    options = {"masks": 600, "tolerance": 0.3, "classes": "all", "output": "logit"}
    one = attribution.create("rise", table, **options).explain(x, 0)
    other = attribution.create("rise", tokens, **options).explain(x[:, :, None].expand(-1, -1, 4), 0)
    assert one.maps.shape == (3, 6)
    assert other.native.shape == (3, 6)
    assert other.maps.shape == (3, 6, 4)
    torch.testing.assert_close(other.native, one.maps)
    assert one.details["classes"].shape == (3, 2, 6)
    assert one.maps.argmax(1).tolist() == [1, 1, 1]


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"antithetic": True, "keep": 0.4}, "complements need keep=0.5"),
        ({"tolerance": 0.0}, "more than 0"),
        ({"tolerance": -1.0}, "more than 0"),
        ({"classes": "some"}, "target, all"),
    ],
)
def test_bad_options(networks, options, message):
    with pytest.raises(ValueError, match=message):
        attribution.create("rise", networks.cnn(), **options)


def test_a_pixel_that_few_masks_show_has_no_interval():
    """One group's differences are none: a width of 0 would be a promise."""
    bank = MaskBank(8, 8, grid=4, keep=0.03, masks=40, seed=0, dtype=torch.float64)
    scores = torch.rand(1, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate(bank, scores, keep=0.03, normalize="sum", control_variate=False)
    masks = bank(slice(0, 40))[:, 0]
    groups = torch.stack([masks[g::10].sum(0) > 0 for g in range(10)]).sum(0)
    assert torch.equal(found.half_width[0].isinf(), groups < 5)
    assert bool((found.half_width[0][groups >= 5] > 0).all())
    assert 0 < int((groups < 5).sum()) < 64

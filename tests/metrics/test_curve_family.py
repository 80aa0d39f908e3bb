"""Metrics that read insertion's and deletion's curves: what they are made of, closed forms, chance."""

import pytest
import torch
from attriscope import attribution, metrics
from torch import nn


class Pixels(nn.Module):
    """A score that is a function of the pixels of a one-channel image; the other output is zero."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = self.function(x.flatten(1))
        return torch.stack([y, torch.zeros_like(y)], 1)


def model_of(function):
    return attribution.Model(Pixels(function), bounds=(0.0, 1.0), activation="none")


def random(n=3, height=8, width=8, seed=0):
    return torch.rand(n, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rough(p):
    return torch.tanh(p[:, :20].sum(1) / 8 - p[:, 30] * p[:, 31]) + p[:, 5] * p[:, 40] - p[:, 50] * p[:, 51]


ZERO = {"output": "logit", "baseline": "zero", "steps": 16, "ties": "index"}


def scored(name, model, x, maps, **options):
    return metrics.create(name, **{**ZERO, **options}).score(model, x, maps, target=0, curves=True)


# -- insertion - deletion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["rise", "rise-large", "xplique", "smdl-50"])
@pytest.mark.parametrize("normalize", [False, True])
def test_insertion_minus_deletion_is_what_it_says_in_every_protocol(preset, normalize):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 56, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model = attribution.Model(network, mean=(0.4,) * 3, std=(0.2,) * 3)
    x, maps = torch.rand(3, 3, 8, 7, dtype=torch.float64), random(3, 8, 7)
    found, inserted, deleted = (
        metrics.create(n, preset=preset, normalize=normalize).score(model, x, maps, target=1, curves=True)
        for n in ("insertion_minus_deletion", "insertion", "deletion")
    )
    # float64 of other batches
    torch.testing.assert_close(found.scores, inserted.scores - deleted.scores, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.values, inserted.values - deleted.values, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.details["insertion"], inserted.scores, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.details["deletion"], deleted.scores, atol=1e-12, rtol=0)
    assert torch.equal(found.fractions, inserted.fractions)
    for name, end in (("start", inserted.details["removed"]), ("removed", deleted.details["removed"])):
        torch.testing.assert_close(found.details[name], end, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.details["clean"], model.scores(x, 1, output=metrics.create(
        "insertion", preset=preset).protocol["output"]).double(), atol=1e-12, rtol=0)  # fmt: skip
    assert (found.details["start"] != found.details["removed"]).all() == (preset in {"rise", "rise-large"})


def test_its_baselines_are_the_presets_or_ones_own():
    made = metrics.create("insertion_minus_deletion", deletion_baseline="black")
    assert made.protocol == {
        "steps": 28, "output": "probability", "ties": "random", "seed": 0, "normalize": False,
        "insertion_baseline": "rise-blur", "deletion_baseline": "black",
    }  # fmt: skip
    assert metrics.create("insertion_minus_deletion", insertion_baseline=0.5).pair == (0.5, "mean")
    assert metrics.create("srg").protocol["baseline"] == "mean"
    assert metrics.create("srg", preset="smdl-50").protocol["baseline"] == "black"
    assert metrics.create("srg", baseline=0.0).pair == (0.0, 0.0)


@pytest.mark.parametrize(("height", "width", "steps"), [(8, 8, 16), (9, 7, 10), (5, 8, 7), (3, 3, 40), (6, 7, 1)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_gain_is_insertion_minus_deletion_of_one_baseline(height, width, steps, normalize):
    """Whatever the steps and the ties."""
    model = model_of(lambda p: torch.tanh(p[:, :5].sum(1)) + p[:, 6] * p[:, 7])
    x, base, maps = random(3, height, width, 1), random(3, height, width, 2), random(3, height, width, 3)
    maps[1] = maps[1].mul(3).round()
    options = {"baseline": base, "steps": steps, "ties": "random", "normalize": normalize}
    gain, inserted, deleted = (scored(n, model, x, maps, **options) for n in ("srg", "insertion", "deletion"))
    torch.testing.assert_close(gain.scores, inserted.scores - deleted.scores, atol=1e-14, rtol=0)  # float64
    least = scored("aopc", model, x, maps, order="least", **options)
    most = scored("aopc", model, x, maps, **options)
    torch.testing.assert_close(least.scores + most.scores, gain.scores, atol=1e-14, rtol=0)


def test_the_negated_map_has_the_negative_gain_so_chance_is_zero():
    """Whatever the model and the baseline; and on average over random maps."""
    model, base = model_of(rough), random(1, seed=9)
    x, maps = random(seed=1), random(seed=2)
    gain = scored("srg", model, x, maps, baseline=base)
    torch.testing.assert_close(scored("srg", model, x, -maps, baseline=base).scores, -gain.scores, atol=1e-14, rtol=0)
    some = scored("srg", model, random(1, seed=3).expand(1500, -1, -1, -1), random(1500, seed=4), baseline=base).scores
    assert some.std() > 0.01
    assert abs(some.mean()) < 4 * some.std() / 1500**0.5  # four standard errors
    assert metrics.describe("srg")["chance"] == 0
    assert metrics.describe("insertion_minus_deletion")["chance"] is None


def test_two_baselines_are_not_the_symmetric_gain():
    model = model_of(rough)
    x, maps = random(seed=1), random(seed=2)
    options = {k: v for k, v in ZERO.items() if k != "baseline"}
    other = metrics.create("insertion_minus_deletion", insertion_baseline=0.5, deletion_baseline=0.0, **options)
    assert (other.score(model, x, maps, target=0) - scored("srg", model, x, maps).scores).abs().min() > 1e-3


def test_the_gain_of_a_linear_score_is_twice_what_it_is_above_chance():
    """ins + del = f(x) + f(x'), so srg = 2 ins - f(x) - f(x')."""
    weight = torch.linspace(-1, 2, 64, dtype=torch.float64)
    model = model_of(lambda p: p @ weight.to(p) + 0.4)
    x, maps = random(seed=1), random(seed=2)
    ends = (x.flatten(1) @ weight) + 0.8
    found = scored("srg", model, x, maps).scores
    torch.testing.assert_close(found, 2 * scored("insertion", model, x, maps).scores - ends, atol=1e-12, rtol=0)


def test_of_a_constant_score_there_is_no_gain():
    model = model_of(lambda p: torch.full_like(p[:, 0], 0.3))
    for name in ("srg", "aopc"):
        assert scored(name, model, random(), random(seed=1)).scores.abs().max() < 1e-15
    assert scored("pixel_flipping", model, random(), random(seed=1)).scores.tolist() == pytest.approx([0.3] * 3)
    with pytest.warns(RuntimeWarning, match="undefined for 3 of 3"):
        assert scored("srg", model, random(), random(seed=1), normalize=True).scores.isnan().all()


# -- pixel flipping ----------------------------------------------------------------------------------------------------


def flip(function, x, order, steps):
    """The scores after each step, in a loop."""
    x, size, found = x.flatten().clone(), len(order) // steps, []
    for k in range(steps):
        x[order[k * size : (k + 1) * size]] = 0
        found.append(float(function(x[None])))
    return torch.tensor(found, dtype=torch.float64)


def test_flipping_is_the_mean_of_what_is_left_and_aopc_of_what_is_lost():
    model = model_of(rough)
    x, maps = random(seed=1), random(seed=2)
    names = {"left": "pixel_flipping", "lost": "aopc"}
    found = {k: scored(n, model, x, maps) for k, n in names.items()}
    least = scored("aopc", model, x, maps, order="least")
    for i in range(3):
        order = maps[i].flatten().argsort(descending=True)
        clean = float(rough(x[i].flatten(1)))
        most_first, least_first = flip(rough, x[i], order, 16), flip(rough, x[i], order.flip(0), 16)
        assert found["left"].scores[i].item() == pytest.approx(most_first.mean().item(), abs=1e-13)
        assert found["lost"].scores[i].item() == pytest.approx((clean - most_first).mean().item(), abs=1e-13)
        assert least.scores[i].item() == pytest.approx((least_first - clean).mean().item(), abs=1e-13)
        torch.testing.assert_close(found["lost"].values[i, 1:], most_first, atol=1e-13, rtol=0)
        torch.testing.assert_close(least.values[i, 1:], least_first, atol=1e-13, rtol=0)
        assert least.values[i, 0].item() == pytest.approx(clean, abs=1e-13)


def test_flipping_is_deletion_with_rectangles():
    model = model_of(rough)
    x, maps = random(seed=1), random(seed=2)
    deleted = scored("deletion", model, x, maps)
    less = (deleted.details["clean"] - deleted.details["removed"]) / 32
    found = scored("pixel_flipping", model, x, maps).scores
    torch.testing.assert_close(found, deleted.scores - less, atol=1e-14, rtol=0)


def test_least_important_first_of_uneven_steps_says_how_much_is_gone():
    """The middle of 4 steps through 9 pixels: 5 are inserted, 4 removed."""
    model = model_of(lambda p: p.sum(1))
    x, maps = torch.ones(1, 1, 3, 3), random(1, 3, 3)
    least = scored("aopc", model, x, maps, order="least", steps=4)
    most = scored("aopc", model, x, maps, steps=4)
    for found in (least, most):
        assert found.values[0].tolist() == pytest.approx((9 * (1 - found.fractions)).tolist())
    assert least.fractions[2] * 9 == pytest.approx(4)


def test_removing_the_least_important_first_can_only_be_as_good_as_nothing_lost():
    """A detector of the first row of pixels, which the map knows: nothing is lost before the last two steps."""
    model = model_of(lambda p: p[:, :8].mean(1))
    maps = torch.linspace(2, 1, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    found = scored("aopc", model, torch.ones(1, 1, 8, 8, dtype=torch.float64), maps, order="least")
    assert found.scores.item() == pytest.approx(-(0.5 + 1) / 16, abs=1e-14)


# -- highest confidence ------------------------------------------------------------------------------------------------


def peak(at, top=0.9, end=0.2):
    """A score of how many pixels are on: up to `top` at `at` of 64, then down to `end`."""

    def score(p):
        n = p.sum(1)
        return torch.where(n <= at, n * top / at, top + (n - at) * (end - top) / (64 - at))

    return score


def test_the_highest_point_within_each_budget_and_where_it_is():
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    found = scored("average_highest_confidence", model_of(peak(24)), x, random(1))
    heights = {25: 0.6, 50: 0.9, 75: 0.9, 100: 0.9}
    areas = {25: 0.25, 50: 0.375, 75: 0.375, 100: 0.375}
    for per_cent, height in heights.items():
        assert found.details[f"highest_{per_cent}"].item() == pytest.approx(height, abs=1e-12)
        assert found.details[f"area_{per_cent}"].item() == pytest.approx(areas[per_cent])
    assert found.scores.item() == pytest.approx(sum(heights.values()) / 4, abs=1e-12)
    inserted = scored("insertion", model_of(peak(24)), x, random(1))
    assert torch.equal(found.values, inserted.values)


def test_the_empty_start_does_not_count_and_the_whole_image_does():
    falls = model_of(lambda p: 1 - p.sum(1) / 64)
    rises = model_of(lambda p: p.sum(1) / 64)
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    down = scored("average_highest_confidence", falls, x, random(1), budgets=(0.5, 1.0))
    assert down.details["highest_100"].item() == pytest.approx(15 / 16)
    assert down.details["area_50"].item() == pytest.approx(1 / 16)
    up = scored("average_highest_confidence", rises, x, random(1), budgets=(0.5, 1.0))
    assert up.details["highest_100"].item() == pytest.approx(1)
    assert up.details["area_100"].item() == 1
    assert up.scores.item() == pytest.approx(0.75)


def test_of_equal_heights_the_smallest_area_is_named():
    flat = model_of(lambda p: (p.sum(1) >= 12).double())
    found = scored("average_highest_confidence", flat, torch.ones(1, 1, 8, 8, dtype=torch.float64), random(1))
    assert [found.details[f"area_{b}"].item() for b in (25, 50, 75, 100)] == [3 / 16] * 4


def test_it_finds_what_speaks_for_the_true_class_of_an_image_that_is_wrong():
    """Evidence for the class in the first row, against it in the last: the whole image is wrong, its first row is not."""
    model = model_of(lambda p: torch.sigmoid(6 * p[:, :8].mean(1) - 9 * p[:, -8:].mean(1)))
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    good = torch.linspace(1, 0, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    found = scored("average_highest_confidence", model, x, good)
    assert found.details["clean"].item() < 0.05
    assert found.details["highest_25"].item() > 0.99
    assert scored("average_highest_confidence", model, x, -good).scores.item() < 0.5


def test_where_nothing_is_normalized_there_is_no_area_either():
    model = model_of(lambda p: torch.full_like(p[:, 0], 0.3))
    with pytest.warns(RuntimeWarning, match="undefined for 3 of 3"):
        found = scored("average_highest_confidence", model, random(), random(seed=1), normalize=True)
    assert found.scores.isnan().all()
    assert found.details["area_25"].isnan().all()


def test_a_share_of_steps_is_not_lost_to_rounding():
    """0.29 of 100 steps are 29, though 0.29 * 100 is less."""
    rises = model_of(lambda p: p.sum(1) / 100)
    x = torch.ones(1, 1, 10, 10, dtype=torch.float64)
    found = scored("average_highest_confidence", rises, x, random(1, 10, 10), budgets=(0.29, 0.57), steps=100)
    assert [found.details[k].item() for k in ("highest_29", "highest_57")] == pytest.approx([0.29, 0.57])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": (0.0, 1.0)}, "above 0"),
        ({"budgets": (0.5, 1.2)}, "at most 1"),
        ({"budgets": ()}, "give shares"),
        ({"budgets": (0.5, "all")}, "give shares"),
        ({"budgets": (True,)}, "give shares"),
        ({"budgets": (0.5, 0.5)}, "twice"),
        ({"steps": 3}, "3 steps leave none within 0.25"),
        ({"preset": "xplique", "budgets": (0.05, 1.0)}, "10 steps leave none within 0.05"),
    ],
)
def test_budgets_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.create("average_highest_confidence", **options)


def test_images_of_too_few_pixels_are_refused_before_anything_runs():
    model = model_of(lambda p: p.sum(1))
    with pytest.raises(ValueError, match="3 steps leave none"):
        metrics.create("average_highest_confidence").score(model, random(1, 1, 3), random(1, 1, 3), target=0)
    assert model.forwards == 0


# -- all of them -------------------------------------------------------------------------------------------------------


def test_a_study_and_its_figures_name_what_they_are():
    for name, higher, low in [
        ("insertion_minus_deletion", True, -1), ("srg", True, -1), ("pixel_flipping", False, 0), ("aopc", True, -1),
        ("average_highest_confidence", True, 0),
    ]:  # fmt: skip
        facts = metrics.describe(name)
        assert (facts["higher_is_better"], facts["range"]) == (higher, (low, 1))
    assert metrics.create("aopc", order="least").protocol["order"] == "least"
    assert metrics.create("average_highest_confidence", budgets=(0.5,)).protocol["budgets"] == (0.5,)
    assert metrics.create("symmetric_relevance_gain").name == "srg"
    assert metrics.create("morf").name == "pixel_flipping"

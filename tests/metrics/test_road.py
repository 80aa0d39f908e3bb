"""ROAD: the imputation against a dense solve, sparse solves and the reference's; curves against a loop."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.masking import Clean, Evaluations
from attriscope.metrics.faithfulness import _imputation, road
from attriscope.metrics.faithfulness._imputation import Imputed, impute
from scipy import sparse
from torch import nn
from torch.nn import functional

WEIGHTS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (0, -1): 1 / 6, (-1, 0): 1 / 6}
WEIGHTS |= {(dy, dx): 1 / 12 for dy in (-1, 1) for dx in (-1, 1)}


def oracle(image, hole, solve=np.linalg.solve):
    """Row by row: a removed pixel's weights that fall on the image, times it, less those neighbours, is nothing."""
    height, width = hole.shape
    number = {p: i for i, p in enumerate(zip(*np.nonzero(hole), strict=True))}
    matrix, right = np.zeros((len(number), len(number))), np.zeros((len(number), len(image)))
    for (y, x), i in number.items():
        for (dy, dx), weight in WEIGHTS.items():
            at = (y + dy, x + dx)
            if not (0 <= at[0] < height and 0 <= at[1] < width):
                continue
            matrix[i, i] += weight
            if at in number:
                matrix[i, number[at]] -= weight
            else:
                right[i] += weight * image[:, at[0], at[1]]
    filled = image.copy()
    filled[:, hole] = solve(matrix, right).T
    return filled


def holes(height, width, seed=0):
    """Scattered pixels, a blob, nearly everything, the border, a row, nothing."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, height, width, generator=generator)
    blob = torch.zeros(height, width, dtype=torch.bool)
    blob[1 : height - 3, 2 : width - 1] = True
    alone = torch.ones(height, width, dtype=torch.bool)
    alone[height // 3, width // 2] = False
    border = torch.ones(height, width, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    row = torch.zeros(height, width, dtype=torch.bool)
    row[height // 2] = True
    return torch.stack([noise[0] < 0.1, noise[1] < 0.5, noise[2] < 0.95, blob, alone, border, row, row & ~row])


def pictures(n, height, width, channels=3, seed=1):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 22), (5, 4)])
def test_the_imputation_is_a_dense_solve_s(height, width, dtype, tolerance):
    gaps = holes(height, width)
    images = pictures(len(gaps), height, width).to(dtype)
    found = impute(images, gaps, tolerance=tolerance / 10)
    for image, gap, filled in zip(images, gaps, found, strict=True):
        expected = oracle(image.double().numpy(), gap.numpy())
        # the error that was asked for is estimated, from below by up to a factor: ten times as much
        np.testing.assert_allclose(filled.double().numpy(), expected, atol=tolerance, rtol=0)
        assert torch.equal(filled[:, ~gap], image[:, ~gap])


def test_the_default_tolerance_is_kept_on_a_large_hole_in_single_precision():
    """A smooth map leaves one hole of thousands of pixels, where a small residual is a large error."""
    image = pictures(1, 64, 64, channels=1)
    hole = torch.ones(1, 64, 64, dtype=torch.bool)
    hole[0, 0], hole[0, 63, 63] = False, False
    rest = oracle(
        image[0].double().numpy(), hole[0].numpy(), lambda a, b: sparse.linalg.splu(sparse.csc_matrix(a)).solve(b)
    )
    # the tolerance, 1e-5 of a range of 1, is of an estimate: twice as much
    np.testing.assert_allclose(impute(image, hole)[0].double().numpy(), rest, atol=2e-5, rtol=0)


def test_multigrid_needs_a_dozen_rounds_whatever_the_size(monkeypatch):
    rounds = []
    cycle = _imputation._cycle

    def counted(levels, rest):
        rounds[-1] += rest.shape[2:] == (side, side)
        return cycle(levels, rest)

    monkeypatch.setattr(_imputation, "_cycle", counted)
    for side in (32, 64, 128):
        rounds.append(0)
        hole = functional.interpolate(pictures(1, 4, 4, 1, seed=3), (side, side), mode="bilinear")[:, 0]
        impute(pictures(1, side, side, 1), hole > hole.quantile(0.1))
    assert max(rounds) <= 14
    assert rounds[2] <= rounds[0] + 4  # of plain conjugate gradients each doubling would double them


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning", "ignore:spsolve")  # of the reference itself
def test_the_imputation_is_the_reference_s():
    """pytorch-grad-cam holds the authors' imputer: one image, one mask (1 is kept), noise after."""
    reference = pytest.importorskip("pytorch_grad_cam.metrics.road")
    gaps = holes(12, 15)
    images = pictures(len(gaps), 12, 15)
    for image, gap, filled in zip(images, gaps, impute(images, gaps), strict=True):
        if not gap.any():
            continue
        expected = reference.NoisyLinearImputer(noise=0.0)(image.clone(), (~gap).float())
        # it solves in double and stores in single precision; ours is within its tolerance of 1e-5, estimated
        torch.testing.assert_close(filled, expected.reshape(filled.shape).to(filled), atol=5e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (7, 6)])
def test_a_coarse_grid_has_half_of_the_ties_between_its_blocks(height, width):
    """Ties as a matrix: pixels that share a block share a value, so that blocks' rows and columns are added up."""
    hole = holes(height, width)[2:3, None].double()
    fine, coarse = _imputation._levels(hole)[:2]

    def matrix(grid):
        shape = grid.outside.shape[2:]
        units = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, 1, *shape)
        return torch.cat([grid.times(u[None]).flatten()[None] for u in units])

    y, x = torch.meshgrid(torch.arange(height) // 2, torch.arange(width) // 2, indexing="ij")
    blocks = functional.one_hot((y * -(-width // 2) + x).flatten()).double()
    expected = blocks.T @ matrix(fine) @ blocks
    found = matrix(coarse)
    apart = ~torch.eye(len(found), dtype=torch.bool)
    torch.testing.assert_close(found[apart], expected[apart] / 2)
    outside = functional.pad(fine.outside, (0, width % 2, 0, height % 2))
    torch.testing.assert_close(coarse.outside, functional.avg_pool2d(outside, 2) * 4)
    torch.testing.assert_close(found.sum(1), coarse.outside.flatten())  # a constant pulls at what is known alone
    torch.testing.assert_close(matrix(fine).sum(1), fine.outside.flatten())


def test_an_image_s_imputation_is_not_its_batch_mates_or_its_scale_s():
    gaps, images = holes(16, 16), pictures(8, 16, 16)
    together = impute(images, gaps)
    for i in range(8):
        # reductions of other shapes may add in another order
        torch.testing.assert_close(impute(images[i : i + 1], gaps[i : i + 1])[0], together[i], atol=1e-6, rtol=0)
    for shift, scale in ((0.0, 1024.0), (0.0, 2.0**-20)):
        assert torch.equal(impute(scale * images + shift, gaps), scale * together + shift)


def test_a_constant_image_stays_what_it_is_to_the_bit():
    images = torch.full((8, 3, 16, 16), 0.3)
    assert torch.equal(impute(images, holes(16, 16)), images)


def test_a_ramp_is_imputed_as_a_ramp():
    """Linear functions are harmonic, and so away from the border their own imputation."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (0.02 * x + 0.01 * y)[None, None]
    hole = torch.zeros(1, 16, 16, dtype=torch.bool)
    hole[:, 3:13, 2:12] = True
    torch.testing.assert_close(impute(ramp, hole), ramp, atol=1e-5, rtol=0)  # the default tolerance, of a range of 0.45


def test_nothing_known_and_no_convergence_are_errors(monkeypatch):
    with pytest.raises(ValueError, match="nothing of an image is known"):
        impute(torch.rand(2, 1, 4, 4), torch.stack([torch.ones(4, 4) > 0, torch.zeros(4, 4) > 0]))
    monkeypatch.setattr(_imputation, "ROUNDS", 1)
    with pytest.raises(RuntimeError, match="does not converge"):
        impute(pictures(1, 16, 16), holes(16, 16)[3:4])


# -- the metric --------------------------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """Two scores that are functions of the pixels."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = self.function(x)
        return torch.stack([y, torch.zeros_like(y)], 1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()


def model(**more):
    return attribution.Model(network(), **{"bounds": (0.0, 1.0), **more})


def some_maps(n=3, seed=2):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_scores_are_those_of_a_naive_loop():
    percentages = (0, 3, 10, 47, 90)
    images, maps, net = pictures(3, 8, 8), some_maps(), network()
    curves = torch.zeros(2, 3, 5, dtype=torch.float64)
    for which, sign in enumerate((1, -1)):
        for i in range(3):
            order = (sign * maps[i]).flatten().argsort(descending=True)
            for k, p in enumerate(percentages):
                hole = np.zeros(64, bool)
                hole[order[: round(p * 64 / 100)]] = True
                filled = oracle(images[i].double().numpy(), hole.reshape(8, 8))
                curves[which, i, k] = net(torch.from_numpy(filled).float()[None]).softmax(1)[0, 1].item()
    at = torch.tensor(percentages, dtype=torch.float64) / 100
    most, least = torch.trapezoid(curves, at) / 0.9
    options = {"percentages": percentages, "noise": 0.0}
    for name, expected, curve in (
        ("road", most, curves[0]), ("road_least", least, curves[1]),
        ("road_difference", (least - most) / 2, (curves[1] - curves[0]) / 2),
    ):  # fmt: skip
        found = metrics.create(name, **options).score(model(), images, maps, target=1, curves=True)
        # images within 1e-5 of the dense solve, probabilities by a network of weights below 1
        torch.testing.assert_close(found.values, curve, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.fractions, at)
    torch.testing.assert_close(found.details["most"], most, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.details["least"], least, atol=1e-5, rtol=0)


def test_nothing_removed_is_the_clean_image_also_with_noise():
    made, images = model(), pictures(3, 8, 8)
    for name in ("road", "road_least"):
        metric = metrics.create(name, percentages=(0,), noise=0.5)
        torch.testing.assert_close(
            metric.score(made, images, some_maps(), target=1), made.scores(images, 1, output="probability").double()
        )


def test_accuracy_is_whether_the_network_names_the_target():
    made, images = model(), pictures(6, 8, 8)
    named = network()(images).argmax(1)
    metric = metrics.create("road", percentages=(0,), output="accuracy")
    for target in range(3):
        expected = (named == target).double()
        assert torch.equal(metric.score(made, images, some_maps(6), target=target), expected)
    level = attribution.Model(Pixels(lambda x: 0 * x.sum((1, 2, 3))))  # no class is above another
    assert metric.score(level, images, some_maps(6), target=1).tolist() == [1] * 6


def test_a_constant_image_loses_nothing_but_noise():
    """The score is the mean grey: of an image of one grey it moves by the noise alone, in the bounds' unit."""
    grey = attribution.Model(Pixels(lambda x: x.mean((1, 2, 3))), bounds=(0.0, 200.0), activation="none")
    images = torch.full((1, 1, 40, 40), 80.0)
    maps = pictures(1, 40, 40, 1)
    quiet = metrics.create("road", noise=0.0, output="logit", percentages=(10, 90))
    torch.testing.assert_close(quiet.score(grey, images, maps, target=0), torch.tensor([80.0], dtype=torch.float64))
    spread = attribution.Model(
        Pixels(lambda x: x.flatten(1).sub(80).square().mean(1)), bounds=(0.0, 200.0), activation="none"
    )
    noisy = metrics.create("road", noise=0.05, output="logit", percentages=(50, 90))
    values = noisy.score(spread, images, maps, target=0, curves=True).values[0]
    for value, share in zip(values, (0.5, 0.9), strict=True):
        # 800 and 1440 squares of N(0, 10): five standard errors of their mean, sqrt(2 / n)
        assert value / share == pytest.approx(100, rel=5 * (2 / (1600 * share)) ** 0.5)


def test_the_noise_is_the_same_for_every_image_percentage_and_method_and_another_for_another_seed():
    def written(**options):
        made, images = model(), pictures(1, 8, 8).expand(2, -1, -1, -1)
        todo = Evaluations(made, made.resolve(images, 1))
        metrics.create("road", noise=0.1, **options).prepare(todo, images, some_maps(1).expand(2, -1, -1, -1)[:, 0])
        (source,) = (s for s, _, _ in todo._waiting)
        out = torch.empty(2, 11, 3, 8, 8)
        for row in range(2):
            source.write(out[row], row, slice(0, 11))
        return out

    first = written()
    assert torch.equal(first[0], first[1])
    assert torch.equal(first, written())
    assert not torch.equal(first, written(seed=1))


def test_imputed_images_are_written_in_any_slices_alike_and_in_small_pieces(monkeypatch):
    sizes = []
    solve = _imputation.impute

    def seen(images, hole, **more):
        sizes.append(len(images))
        return solve(images, hole, **more)

    monkeypatch.setattr(_imputation, "impute", seen)
    place = torch.randperm(64, generator=torch.Generator().manual_seed(0)).reshape(1, 8, 8)
    cuts = torch.arange(0, 60, 3)
    source = Imputed(pictures(1, 8, 8), place, cuts, torch.zeros(3, 8, 8))
    assert source.count == 20
    whole, parts = torch.empty(20, 3, 8, 8), torch.empty(20, 3, 8, 8)
    source.write(whole, 0, slice(0, 20))
    for k in range(0, 20, 5):
        source.write(parts[k : k + 5], 0, slice(k, k + 5))
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)  # sums in another order
    assert max(sizes) == 8


def test_the_same_map_is_paid_once_by_all_three():
    made, images, maps = model(), pictures(2, 8, 8), some_maps(2)
    todo = Evaluations(made, made.resolve(images, 1))
    finish = [
        metrics.create(n, percentages=(5, 50)).prepare(todo, images, maps[:, 0])
        for n in ("road", "road_least", "road_difference", "road")
    ]
    clean = todo.ask(Clean(images), key="clean")
    with made.ledger(2) as ledger:
        todo.run()
    assert ledger.forwards.tolist() == [5, 5]
    scores = [f().scores for f in finish]
    torch.testing.assert_close(scores[2], (scores[1] - scores[0]) / 2)
    assert torch.equal(scores[0], scores[3])
    assert clean().shape == (2, 1)


def test_a_single_image_is_scored_as_in_a_batch_of_any_size():
    images, maps = pictures(3, 8, 8), some_maps()
    metric = metrics.create("road")
    together = metric.score(model(batch_size=64), images, maps, target=1)
    for i in range(3):
        alone = metric.score(model(batch_size=1), images[i : i + 1], maps[i : i + 1], target=1)
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)  # float32 sums in another order


def test_double_precision_runs_and_agrees():
    images, maps = pictures(2, 8, 8), some_maps(2)
    wide = attribution.Model(network().double())
    found = metrics.create("road").score(wide, images.double(), maps.double(), target=1)
    # the noise is drawn in either precision from the same bits; the solutions differ by the tolerance
    torch.testing.assert_close(found, metrics.create("road").score(model(), images, maps, target=1), atol=1e-5, rtol=0)


def test_presets_and_what_is_given_beside_them():
    assert metrics.create("road").protocol["percentages"] == [1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    quantus = metrics.create("road", preset="quantus", noise=0.02)
    assert quantus.protocol["percentages"] == list(range(1, 100, 2))
    assert (quantus.protocol["output"], quantus.protocol["noise"], quantus.cost()) == ("accuracy", 0.02, 50)
    assert metrics.create("road_difference", preset="quantus").cost() == 100
    assert metrics.create("road").protocol["output"] == "probability"
    assert road.removed(64, (0, 50, 99.9)).tolist() == [0, 32, 63]
    assert [metrics.describe(n)["higher_is_better"] for n in ("road", "road_least", "road_difference")] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("bad", [(), (10, 10), (20, 10), (-1, 5), (5, 100), ("5",), (float("nan"),), (True,)])
def test_percentages_that_do_not_rise_within_the_image_are_refused(bad):
    with pytest.raises(ValueError, match="percentages"):
        metrics.create("road", percentages=bad)


def test_accuracy_of_a_callable_target_is_refused():
    with pytest.raises(ValueError, match="accuracy needs a class"):
        metrics.create("road", output="accuracy").score(
            model(), pictures(1, 8, 8), some_maps(1), target=lambda out: out[:, 0]
        )


def test_constant_maps_are_undefined_for_each_by_itself():
    maps = some_maps(3)
    maps[1] = 0.5
    with pytest.warns(RuntimeWarning, match="1 of 3"):
        found = metrics.create("road_difference").score(model(), pictures(3, 8, 8), maps, target=1, curves=True)
    assert found.scores.isnan().tolist() == [False, True, False]
    assert found.tied.tolist() == [0, 1, 0]

"""Hyper-parameter and seed sensitivity: closed forms, what is paid, and what is refused."""

import itertools

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics._similarity import similarity
from torch import nn


class Turned(Attributor):
    """One of three maps by a parameter: two that are opposites, and a constant one; it counts its calls."""

    angle: int = 0
    channels: str = "keep"

    def compute(self, inputs, target):
        CALLS.append(self.angle)
        factor = {0: 1.0, 1: -1.0, 2: 0.0}[self.angle % 3]
        return Computed(factor * inputs + self.angle // 3 * inputs.square(), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


CALLS = []


def network(channels=3, side=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, 3)
    ).eval()


def images(n=2, channels=3, side=8):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def sweep(parameter, values, **options):
    return metrics.create("hyperparameter_sensitivity", parameter=parameter, values=values, **options)


@pytest.mark.parametrize("how", ["spearman", "pearson", "ssim", "hog", "top_k"])
def test_a_method_that_draws_nothing_is_one_and_is_not_run_again(how):
    model = attribution.Model(network())
    saliency = attribution.create("saliency", model)  # zeros behind the ReLU are ties
    for name in ("seed_sensitivity", "hyperparameter_sensitivity"):
        model.backwards = 0
        found = metrics.create(name, similarity=how).score(saliency, images(), target=0, curves=True)
        assert found.scores.tolist() == [1, 1]
        assert found.details["lowest"].tolist() == [1, 1]
        assert found.details["undefined"].tolist() == [0, 0]
        assert model.backwards == 2


def test_equal_maps_are_alike_whatever_their_ties_but_for_constant_ones():
    model = attribution.Model(network())
    x = images()
    x[:, :, :2] = 1.0  # more than a tenth of the pixels come first
    assert metrics.create("seed_sensitivity", similarity="top_k").score(Turned(model), x, target=0).tolist() == [1, 1]
    with pytest.warns(RuntimeWarning, match="2 of 2 maps"):
        assert metrics.create("seed_sensitivity").score(Turned(model, angle=2), x, target=0).isnan().all()


def test_equal_settings_are_one_and_explained_once():
    CALLS.clear()
    made = Turned(attribution.Model(network()), angle=4)
    assert sweep("angle", (7, 7, 7)).score(made, images(), target=0).tolist() == [1, 1]
    assert CALLS == [4, 7]  # the map of the method as it is, and the one setting


def test_the_setting_that_is_there_is_not_explained_again():
    CALLS.clear()
    made = Turned(attribution.Model(network()), angle=3)
    sweep("angle", (0, 3, 6)).score(made, images(), target=0)
    assert CALLS == [3, 0, 6]


def test_the_score_is_the_mean_of_the_pairs_and_the_lowest_the_least():
    x = images()
    model = attribution.Model(network())
    values = (0, 3, 4)
    maps = [Turned(model, angle=v).attribute(x, 0).sum(1) for v in values]
    for options in ({}, {"similarity": "pearson"}, {"similarity": "pearson", "absolute": True, "smooth": 1.0}):
        found = sweep("angle", values, **options).score(Turned(model, angle=0), x, target=0, curves=True)
        how = {k: v for k, v in options.items() if k != "similarity"}
        pairs = [
            similarity(a, b, options.get("similarity", "spearman"), **how) for a, b in itertools.combinations(maps, 2)
        ]
        torch.testing.assert_close(found.scores, torch.stack(pairs).mean(0))
        torch.testing.assert_close(found.details["lowest"], torch.stack(pairs).amin(0))
    opposite = sweep("angle", (0, 1)).score(Turned(model), x, target=0)
    torch.testing.assert_close(opposite, torch.tensor([-1.0, -1.0], dtype=torch.float64))


def test_a_constant_map_among_them_is_undefined_and_counted():
    made = Turned(attribution.Model(network()))
    with pytest.warns(RuntimeWarning, match="2 of 2 maps.*no similarity"):
        found = sweep("angle", (0, 1, 2)).score(made, images(), target=0, curves=True)
    assert found.scores.isnan().all()
    assert found.details["undefined"].tolist() == [2, 2]


def test_the_spread_is_another_metric_s_over_the_settings():
    x = images()
    model = attribution.Model(network())
    values = (0, 1, 3)
    judge = metrics.create("insertion", steps=4)
    scores = torch.stack([judge.score(model, x, Turned(model, angle=v).attribute(x, 0), 0) for v in values], 1)
    found = sweep("angle", values, metric=judge).score(Turned(model), x, target=0, curves=True)
    torch.testing.assert_close(found.details["metric_mean"], scores.mean(1))
    torch.testing.assert_close(found.details["spread"], scores.std(1))
    assert sweep("angle", values, metric=judge).cost((3, 8, 8)) == 3 * judge.cost((3, 8, 8))
    named = sweep("angle", values, metric="complexity").score(Turned(model), x, target=0, curves=True)
    scores = torch.stack(
        [metrics.create("complexity").score(model, x, Turned(model, angle=v).attribute(x, 0), 0) for v in values], 1
    )
    torch.testing.assert_close(named.details["spread"], scores.std(1))
    steady = metrics.create("seed_sensitivity", metric=judge)
    found = steady.score(attribution.create("gradient", model), x, target=0, curves=True)
    assert found.details["spread"].tolist() == [0, 0]


NESTED = [
    ("rise", "masks", {"grid": 4}),
    ("kernel_shap", "samples", {}),
    ("lime", "samples", {}),
    ("shapley_sampling", "permutations", {"regions": "grid"}),
    ("sobol", "designs", {"grid": 3}),
    ("wcam", "designs", {}),
]


@pytest.mark.parametrize(("name", "parameter", "options"), NESTED, ids=[n for n, *_ in NESTED])
@pytest.mark.parametrize("values", [(8, 16, 32), (32, 8, 16)])
def test_a_sweep_over_samples_costs_what_the_largest_does(name, parameter, options, values):
    x = images()
    model = attribution.Model(network())
    made = attribution.create(name, model, **{parameter: 32}, **options)
    model.forwards = 0
    made.attribute(x, 0)
    most, model.forwards = model.forwards, 0
    maps = [attribution.create(name, model, **{parameter: v}, **options).attribute(x, 0) for v in values]
    assert model.forwards > 1.5 * most  # alone they do not
    for own in (8, 32):
        model.forwards = 0
        mine = attribution.create(name, model, **{parameter: own}, **options)
        found = sweep(parameter, values).score(mine, x, target=0)
        assert model.forwards == most
        pairs = [similarity(a, b) for a, b in itertools.combinations(maps, 2)]
        # ranks of what is computed in other batches, in single precision, of few regions
        torch.testing.assert_close(found, torch.stack(pairs).mean(0), rtol=0, atol=0.02)
    assert model.shared is None


def test_what_is_not_nested_pays_for_each():
    model = attribution.Model(network())
    made = attribution.create("smoothgrad", model, samples=8)
    sweep("samples", (8, 16)).score(made, images(), target=0)
    assert model.backwards == 2 * (8 + 16)


def test_the_noise_of_rise_over_seeds_falls_with_the_root_of_the_masks():
    """16 times the masks, a quarter of the standard deviation; the unlikeness 1 / r - 1 = noise / signal falls 16 times.

    Seeds are 12 and a map has about 16 values of its own for each of 3 images: a standard deviation is known to
    1 / sqrt(2 * 11 * 48) = 3.1%, the ratio of two to 4.4%; four of these. The ratio of 1 / r - 1 has squares, hence twice as
    much, and more since pairs share maps and the means of few images differ: it is asked to be within a factor of 1.5.
    """
    x = images(3)
    model = attribution.Model(network())
    deviation, unlike = [], []
    for masks in (32, 512):
        seeds = tuple(range(12))
        options = {"masks": masks, "grid": 4, "control_variate": True, "output": "logit"}
        maps = torch.stack([attribution.create("rise", model, seed=s, **options).attribute(x, 0) for s in seeds])
        deviation.append(float(maps.double().var(0).mean().sqrt()))
        made = attribution.create("rise", model, **options)
        score = metrics.create("seed_sensitivity", values=seeds, similarity="pearson").score(made, x, target=0)
        unlike.append(float((1 / score - 1).mean()))
    assert deviation[0] / deviation[1] == pytest.approx(4, rel=0.18)
    assert 16 / 1.5 < unlike[0] / unlike[1] < 16 * 1.5


def test_what_cannot_be_swept_is_refused_before_anything_is_run():
    model = attribution.Model(network())
    rise = attribution.create("rise", model, masks=8)
    with pytest.raises(ValueError, match=r"saliency has no option 'masks': give parameter= one of .*smooth"):
        sweep("masks", (1, 2)).score(attribution.create("saliency", model), images(), target=0)
    with pytest.raises(ValueError, match="rise: masks=0: must be at least 1"):
        sweep("masks", (8, 0)).score(rise, images(), target=0)
    with pytest.raises(TypeError, match="rise: masks='many'"):
        sweep("masks", (8, "many")).score(rise, images(), target=0)
    mine = attribution.from_maps(torch.rand(2, 8, 8), model, name="mine")
    with pytest.raises(ValueError, match="mine are maps that were made elsewhere"):
        metrics.create("seed_sensitivity").score(mine, images(), target=0)
    assert model.forwards == 0
    from captum.attr import GradientShap

    theirs = attribution.from_captum(GradientShap(network()), name="theirs")
    with pytest.raises(ValueError, match="theirs has no option 'seed'"):
        metrics.create("seed_sensitivity").score(theirs, images(), target=0)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        sweep("seed", (1,))
    for wrong in ("sensitivity_max", "pointing_game", metrics.create("label_leakage")):
        if isinstance(wrong, str):
            with pytest.raises(ValueError, match="name one that scores maps"):
                sweep("seed", (0, 1), metric=wrong)
        else:
            with pytest.raises(TypeError, match="metric="):
                sweep("seed", (0, 1), metric=wrong)
    with pytest.raises(ValueError, match="insertio"):
        sweep("seed", (0, 1), metric="insertio")
    with pytest.raises(ValueError, match="choose one of seed"):
        metrics.create("seed_sensitivity", parameter="masks")


def test_it_runs_in_a_study():
    x = images()
    model = attribution.Model(network())
    judge = sweep("masks", (8, 16), metric="sparseness")
    study = metrics.compare(
        model, x, 0, attributors=[("rise", {"masks": 16, "grid": 4})], metrics={"sweep": judge}, progress=False
    )
    own = judge.score(attribution.create("rise", model, masks=16, grid=4), x, target=0)
    torch.testing.assert_close(torch.tensor(study.scores["score"].to_numpy()), own)

"""Path methods: closed forms, axioms, Captum, PAIR and SciPy as oracles, and what streaming must not change."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import saliency.core as pair
import torch
from attriscope import attribution
from attriscope.attribution import Model, baselines
from attriscope.attribution._parameters import parameters
from attriscope.attribution.path import blur_ig as blur_module
from attriscope.attribution.path._line import Line, walk
from attriscope.attribution.path.blur_ig import blur_matrix, blurred
from attriscope.attribution.path.expected_gradients import IMAGES, independent, stratified
from attriscope.attribution.path.gradient_shap import noise
from attriscope.attribution.path.guided_ig import walk as guided_walk
from attriscope.attribution.path.idgi import IDGI
from attriscope.attribution.path.integrated_gradients import IntegratedGradients, nodes
from captum import attr as captum
from scipy import ndimage
from torch import nn

EXACT = 1e-12  # float64: sums of some hundred terms in another order
SINGLE = 1e-6  # float32: ours through a folded copy, some ulp of 6e-8 at the largest value
KEEP = {"channels": "keep"}


def close(found, wanted, tolerance):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    worst = float((found - wanted).abs().max())
    assert worst <= tolerance * max(float(wanted.abs().max()), 1e-12), worst


def table(function, **more):
    """A function of columns `(N, F) -> (N,)` as a model with one output."""
    return Model(lambda x: function(x)[:, None], kind="table", bounds=None, activation="none", **more)


def cubic(x):
    flat = x.flatten(1)
    weight = torch.linspace(-1, 1, flat.shape[1], dtype=x.dtype)
    return torch.stack([(flat**3 * weight).sum(1) + (flat @ weight) ** 2, 0 * flat[:, 0]], 1)


def steep(x):
    """Nothing but the first pixel's step, smooth and sharp; images in which it is small are easy."""
    return torch.stack([torch.sigmoid(30 * (x.flatten(1)[:, 0] - 0.3)), 0 * x[:, 0, 0, 0]], 1)


def gradients_at(function, points):
    points = points.clone().requires_grad_()
    scores = function(points)
    return scores.detach(), torch.autograd.grad(scores.sum(), points)[0]


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "steps", "batch"), [(1, 5, 4), (3, 4, 4), (5, 3, 2), (7, 6, 64), (6, 1, 4), (9, 7, 5)])
def test_every_point_comes_once_in_order_and_in_full_batches(images, monkeypatch, n, steps, batch):
    x = images(n, dtype=torch.float64)
    model = Model(cubic, batch_size=batch)
    target = model.resolve(x, 0)
    sizes, places, true = [], [], model.gradients

    def spy(points, *rest, **more):
        sizes.append(len(points))
        places.append(points.data_ptr())
        return true(points, *rest, **more)

    monkeypatch.setattr(model, "gradients", spy)
    at = torch.linspace(0, 1, steps, dtype=torch.float64)
    seen, tiles = [[] for _ in range(n)], 0
    for tile in walk(model, Line(x, torch.zeros(1, 1, 1, 1, dtype=torch.float64), at), target, output="logit"):
        points = torch.stack([a * x[tile.rows] for a in at[tile.items]])
        scores, gradients = gradients_at(lambda p: cubic(p)[:, 0], points.flatten(0, 1))
        close(tile.scores, scores.view(points.shape[:2]), EXACT)
        close(tile.gradients, gradients.view(points.shape), EXACT)
        tiles += 1
        for row in range(n)[tile.rows]:
            seen[row] += range(steps)[tile.items]
    assert seen == [list(range(steps))] * n
    assert sizes[:-1] == [batch] * (len(sizes) - 1)
    assert sizes[-1] == n * steps - batch * (len(sizes) - 1)
    assert len(set(places)) == 1  # one buffer
    assert tiles <= 4 * len(sizes)  # whatever the numbers: the end of a block, and head, body and tail of the next


@pytest.mark.parametrize("name", ["ig", "eg", "gradient_shap", "blur_ig", "idgi"])
def test_a_batch_size_that_changes_on_the_way_changes_nothing(images, monkeypatch, name):
    """As it does while it is measured, and after memory ran out."""
    x, steps = images(5, dtype=torch.float64), {parameters_of(name): 6}
    expected = attribution.create(name, Model(cubic, batch_size=30), **steps, **KEEP).attribute(x, 0)
    model = Model(cubic, batch_size=30)
    sizes = itertools.cycle([4, 1, 8, 2, 16, 3])
    monkeypatch.setattr(model, "batch", lambda purpose: next(sizes))
    close(attribution.create(name, model, **steps, **KEEP).attribute(x, 0), expected, EXACT)


def parameters_of(name):
    return attribution.describe(name)["samples"]


@pytest.mark.parametrize("name", ["ig", "eg", "gradient_shap", "blur_ig", "idgi"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_no_more_images_are_in_flight_than_a_batch_holds(networks, images, monkeypatch, name, batch):
    model = Model(networks.cnn(), batch_size=batch)
    true, most = model.gradients, []
    monkeypatch.setattr(model, "gradients", lambda x, *rest, **more: most.append(len(x)) or true(x, *rest, **more))
    attribution.create(name, model, **{parameters_of(name): 9}).attribute(images(3), 0)
    assert max(most) == batch
    assert sum(most) == 27


# -- integrated gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "theirs"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_ig_is_captums(networks, images, rule, theirs):
    network, x, start = networks.cnn(), images(4), images(4, seed=1)
    for multiply in (True, False):
        ours = attribution.create("ig", network, rule=rule, baseline=start, multiply_by_inputs=multiply, **KEEP)
        wanted = captum.IntegratedGradients(network, multiply_by_inputs=multiply).attribute(
            x.clone().requires_grad_(), start, target=torch.tensor([0, 1, 2, 3]), n_steps=50, method=theirs
        )
        close(ours.attribute(x, [0, 1, 2, 3]), wanted.detach(), SINGLE)


@pytest.mark.parametrize("steps", [2, 10])
def test_captums_trapezoid_is_too_small_by_one_step(networks, images, steps):
    """Its weights are 1/n where its nodes are 1/(n-1) apart: a fault of its own, which ours does not share."""
    network, x = networks.smooth(3).double(), images(2, dtype=torch.float64)
    theirs = captum.IntegratedGradients(network).attribute(
        x.clone().requires_grad_(), target=1, n_steps=steps, method="riemann_trapezoid"
    )
    ours = attribution.create("ig", network, rule="trapezoid", steps=steps, **KEEP).attribute(x, 1)
    close(ours, theirs.detach() * steps / (steps - 1), 1e-7)  # captum's weights are float32


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid", "left", "right"])
def test_ig_of_a_linear_network_is_exact_by_every_rule(networks, images, rule):
    network, x = networks.linear().double(), images(3, height=4, width=4, dtype=torch.float64)
    found = attribution.create("ig", network, rule=rule, steps=10, baseline=0.25, **KEEP).explain(x, 2)
    close(found.maps, (x - 0.25) * network[1].weight[2].detach().reshape(1, 3, 4, 4), EXACT)
    assert float(found.details["convergence_delta"].abs().max()) < 1e-10


def test_two_gauss_nodes_are_exact_on_a_cubic(images):
    x = images(3, dtype=torch.float64)
    found = attribution.create("ig", cubic, steps=2, baseline=0.3).explain(x, 0)
    assert float(found.details["convergence_delta"].abs().max()) < EXACT * float(found.details["gain"].abs().max())
    coarse = attribution.create("ig", cubic, steps=2, rule="midpoint", baseline=0.3).explain(x, 0)
    assert float(coarse.details["convergence_delta"].abs().max()) > 1e-3


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid"])
def test_ig_is_complete_on_networks_with_kinks(networks, images, rule):
    """To 3e-3 of what is moved at 50 steps; of the difference of scores, which may cancel to nothing, if one asks for it.

    1e-3 of the difference, as for networks of many small kinks, is missed by these: they have few, and large ones.
    """
    for network in (networks.cnn(), networks.vgg(), networks.resnet()):
        found = attribution.create("ig", network, steps=50, rule=rule, **KEEP).explain(images(4), [0, 1, 2, 3])
        delta = found.details["convergence_delta"].abs()
        assert bool((delta <= 3e-3 * found.maps.abs().flatten(1).sum(1)).all())
        assert bool((delta > 1e-7).any())  # kinks: Gauss's nodes are not exact either
    if rule != "gauss_legendre":
        made = attribution.create("ig", networks.vgg(), rule=rule, tolerance=1e-3, max_steps=20_000)
        found = made.explain(images(4), [0, 1, 2, 3])
        delta, gain = found.details["convergence_delta"].abs(), found.details["gain"][:, 0].abs()
        assert bool((delta <= 1e-3 * gain).all())


def test_ig_sees_what_a_saturated_gradient_does_not():
    saturated = table(lambda x: 1 - (1 - x[:, 0]).relu())
    x = torch.tensor([[2.0]])
    assert float(attribution.create("saliency", saturated).attribute(x, 0)) == 0
    assert float(attribution.create("ig", saturated, rule="midpoint").attribute(x, 0)) == pytest.approx(1, abs=1e-6)


def test_ig_keeps_its_axioms():
    x = torch.tensor([[0.3, 0.7, -0.4, 0.5], [0.9, 0.9, 0.1, 0.0]], dtype=torch.float64)
    start = torch.tensor([[0.1, 0.1, 0.2, 0.0]], dtype=torch.float64)

    def ig(function):
        return attribution.create("ig", table(function), steps=20, baseline=start).attribute(x, 0)

    def f(x):
        return (x[:, 0] * x[:, 1]).tanh() + x[:, 3].exp()

    def h(x):
        return (x[:, 0] + x[:, 1] - 0.5).relu() * x[:, 3]

    assert torch.equal(ig(f)[:, 2], torch.zeros(2, dtype=torch.float64))  # a dummy
    assert float(ig(f)[1, 3]) == 0  # where image and baseline are equal: exactly
    # the same function written otherwise
    other = ig(lambda x: ((y := (2 * x[:, 0] * x[:, 1]).exp()) - 1) / (y + 1) + x[:, 3].cosh() + x[:, 3].sinh())
    close(ig(f), other, EXACT)
    close(ig(lambda x: 3 * f(x) - 2 * h(x)), 3 * ig(f) - 2 * ig(h), EXACT)
    assert float(ig(f)[1, 0]) == pytest.approx(float(ig(f)[1, 1]), rel=EXACT)  # alike in everything


@pytest.mark.parametrize("name", ["ig", "eg", "gradient_shap", "blur_ig", "idgi"])
def test_batches_and_neighbours_change_nothing(networks, images, name):
    """In float64, where only the order of sums is left."""
    x, target = images(5, height=9, dtype=torch.float64), [0, 1, 2, 3, 4]
    more = {"stdevs": 0.1} if name == "gradient_shap" else {}
    maps = [
        attribution.create(
            name, Model(networks.resnet().double(), batch_size=n), **{parameters_of(name): 8}, **more, **KEEP
        )
        for n in (1, 3, 7, 1000)
    ]
    found = [m.attribute(x, target) for m in maps]
    for other in found[1:]:
        close(other, found[0], EXACT)
    alone = torch.cat([maps[2].attribute(x[i : i + 1], i) for i in range(5)])
    close(alone, found[0], EXACT)


def test_several_baselines_are_the_mean_of_single_ones(networks, images):
    model, x = Model(networks.cnn().double()), images(3, dtype=torch.float64)
    own = images(3, seed=5, dtype=torch.float64)
    several = ("black", "white", 0.3, own, lambda x: x.flip(-1))
    singles = [attribution.create("ig", model, steps=7, baseline=b, **KEEP).explain(x, 1) for b in several]
    found = attribution.create("ig", model, steps=7, baseline=several, **KEEP).explain(x, 1)
    close(found.maps, torch.stack([s.maps for s in singles]).mean(0), EXACT)
    close(found.details["gain"], torch.cat([s.details["gain"] for s in singles], 1), EXACT)
    deltas = torch.stack([s.details["convergence_delta"] for s in singles])
    close(found.details["convergence_delta"], deltas.mean(0), EXACT)
    assert found.details["steps"].tolist() == [35, 35, 35]
    listed = attribution.create("ig", model, steps=7, baseline=["black", "white"])
    assert listed.attribute(x, 1, baseline="black").equal(singles[0].maps.sum(1, keepdim=True))


def test_a_second_noise_is_another_draw(images):
    one, two = baselines.make_each(("noise", "noise"), images(2), Model(nn.Flatten()))
    assert torch.equal(one, baselines.make("noise", images(2), Model(nn.Flatten())))
    assert float((one - two).abs().mean()) > 0.2  # a third, for independent uniforms


def test_the_command_line_names_several_baselines():
    parse = parameters(IntegratedGradients)["baseline"].parse
    assert parse("black,white") == ("black", "white")
    assert parse("black, 0.5") == ("black", 0.5)
    assert parse("black") == "black"
    assert parse("0.25") == 0.25
    assert parameters(attribution.ExpectedGradients)["references"].parse("black,white") == ("black", "white")
    assert parameters(attribution.ExpectedGradients)["references"].parse("none") is None


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid", "left", "right"])
@pytest.mark.parametrize("baseline", ["zero", ("black", "white", 0.5)])
def test_ig_spends_what_it_says_and_ends_that_are_seen_are_free(networks, images, rule, baseline):
    found = attribution.create("ig", Model(networks.cnn()), rule=rule, steps=6, baseline=baseline).explain(images(3), 0)
    cost = IntegratedGradients.cost(rule=rule, steps=6, baseline=baseline)
    assert found.forwards.tolist() == [cost.forwards] * 3
    assert found.backwards.tolist() == [cost.backwards] * 3
    lines = 1 if baseline == "zero" else 3
    ends = {"gauss_legendre": lines + 1, "midpoint": lines + 1, "trapezoid": 0, "left": 1, "right": lines}[rule]
    assert cost == (6 * lines + ends, 6 * lines)


@pytest.mark.parametrize(
    ("rule", "steps", "reached", "ends"),
    [("midpoint", 3, 27, 2), ("trapezoid", 3, 17, 0), ("left", 4, 16, 1), ("right", 4, 16, 1)],
)
def test_refined_steps_are_those_of_the_finer_rule_and_none_is_taken_twice(images, rule, steps, reached, ends):
    x = images(3, dtype=torch.float64)
    made = attribution.create("ig", cubic, rule=rule, steps=steps, tolerance=1e-15, max_steps=reached + 3, **KEEP)
    found = made.explain(x, 0)
    close(found.maps, attribution.create("ig", cubic, rule=rule, steps=reached, **KEEP).attribute(x, 0), EXACT)
    assert found.details["steps"].tolist() == [reached] * 3
    assert found.forwards.tolist() == [reached + ends] * 3
    assert not bool(found.details["converged"].any())


def test_each_image_stops_by_itself_and_leaves_the_batch(images):
    x = images(4, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor([0.02, 0.9, 0.05, 0.99])
    options = {"rule": "trapezoid", "steps": 3, "tolerance": 0.01, **KEEP}
    found = attribution.create("ig", Model(steep, batch_size=3), **options).explain(x, 0)
    steps, delta, gain = (found.details[k] for k in ("steps", "convergence_delta", "gain"))
    assert bool((delta.abs() <= 0.01 * gain[:, 0].abs()).all())
    assert bool(found.details["converged"].all())
    assert steps[0] < steps[1]
    assert steps[2] < steps[3]
    assert found.forwards.tolist() == steps.tolist() == found.backwards.tolist()
    for i, n in enumerate(steps.tolist()):
        alone = attribution.create("ig", steep, rule="trapezoid", steps=n, **KEEP).attribute(x[i : i + 1], 0)
        close(found.maps[i : i + 1], alone, EXACT)
        coarser = attribution.create("ig", steep, rule="trapezoid", steps=max((n + 1) // 2, 2)).explain(x[i : i + 1], 0)
        enough = coarser.details["convergence_delta"].abs() <= 0.01 * gain[i].abs()
        assert n == 3 or not bool(enough), "it stopped too late"


def test_a_tolerance_holds_for_every_baseline_of_an_image_and_for_baselines_of_its_own(images):
    x = images(3, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor([0.02, 0.9, 0.4])
    starts = (images(3, seed=3, dtype=torch.float64), 0.0)
    options = {"rule": "midpoint", "steps": 2, "tolerance": 0.01, "max_steps": 200}
    together = attribution.create("ig", steep, baseline=starts, **options).explain(x, 0)
    singles = [attribution.create("ig", steep, baseline=s, **options).explain(x, 0) for s in starts]
    close(together.maps, sum(s.maps for s in singles) / 2, EXACT)
    assert together.details["steps"].tolist() == sum(s.details["steps"] for s in singles).tolist()
    assert len({tuple(s.details["steps"].tolist()) for s in singles}) == 2
    assert together.details["converged"].all()
    at_most = IntegratedGradients.cost(baseline=starts, **options)
    assert at_most == (2 * 200 + 3, 2 * 200)
    # the first line has no length, the second wants more steps for two images: one line that missed is enough
    short = attribution.create("ig", steep, baseline=(x, 0.0), **{**options, "max_steps": 2}).explain(x, 0)
    assert short.details["converged"].tolist() == [True, False, False]
    # an image that is its baseline has nothing to integrate: it is done at once
    same = attribution.create("ig", steep, baseline=x, **options).explain(x, 0)
    assert same.details["steps"].tolist() == [2, 2, 2]
    assert float(same.maps.abs().max()) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.1}, ValueError, "rule='trapezoid' or 'midpoint'"),
        ({"tolerance": 0.1, "rule": "midpoint", "steps": 900}, ValueError, "more than max_steps=800"),
        ({"tolerance": 0.0, "rule": "midpoint"}, ValueError, "must be more than 0"),
        ({"baseline": ()}, ValueError, "name at least one"),
        ({"baseline": ("black", "grey")}, ValueError, "'grey': choose one of zero, black"),
        ({"baseline": ("black", None)}, TypeError, "None: expected a name, a number"),
    ],
)
def test_what_ig_refuses(networks, options, error, message):
    with pytest.raises(error, match=message):
        attribution.create("ig", networks.cnn(), **options)


# -- expected gradients and GradientSHAP -------------------------------------------------------------------------------


def test_evenly_spread_draws_are_even():
    for samples, references in ((12, 4), (10, 4), (3, 8), (7, 1)):
        at, which = stratified(samples, references, 3)
        assert (at * samples).long().tolist() == list(range(samples))
        times = which.bincount(minlength=references)
        assert int(times.max() - times.min()) <= 1
        for block in which.split(references):  # all of the line is seen by each
            assert len(set(block.tolist())) == len(block)
    assert not torch.equal(stratified(12, 4, 0)[1], stratified(12, 4, 1)[1])
    assert not torch.equal(stratified(12, 4, 0)[1][:4], stratified(12, 4, 0)[1][4:8])


def test_independent_draws_go_on_where_fewer_ended():
    few, many = independent(5, 7, 0), independent(50, 7, 0)
    assert all(torch.equal(a, b[:5]) for a, b in zip(few, many, strict=True))
    assert set(many[1].tolist()) == set(range(7))


@pytest.mark.parametrize("even", [True, False])
def test_expected_gradients_are_their_formula(networks, images, even):
    network, x = networks.smooth(3).double(), images(3, dtype=torch.float64)
    references = images(4, seed=9, dtype=torch.float64)
    made = attribution.create("eg", network, references=references, samples=10, seed=2, stratified=even, **KEEP)
    found = made.explain(x, [0, 1, 2])
    at, which = (stratified if even else independent)(10, 4, 2)
    wanted, sums, starts = torch.zeros_like(x), [], []
    for a, r in zip(at, which, strict=True):
        way = x - references[r]
        _, g = gradients_at(lambda p: network(p)[[0, 1, 2], [0, 1, 2]], references[r] + a * way)
        wanted += way * g / 10
        sums.append((way * g).flatten(1).sum(1))
        starts.append(network(references[r : r + 1])[0].detach())
    close(found.maps, wanted, EXACT)
    gain = network(x).detach().diag() - torch.stack(starts).mean(0)
    close(found.details["gain"], gain, EXACT)
    close(found.details["convergence_delta"], wanted.flatten(1).sum(1) - gain, 1e-10)  # a small difference
    error = torch.stack(sums).std(0) / 10**0.5
    close(found.details["half_width"], 2.2621572 * error, 1e-7)  # Student's t at 9 degrees of freedom, eight digits
    assert found.forwards.tolist() == [10 + len(set(which.tolist())) + 1] * 3


def test_expected_gradients_of_a_linear_network_need_no_places(networks, images):
    network, x = networks.linear().double(), images(3, height=4, width=4, dtype=torch.float64)
    references = images(5, height=4, width=4, seed=4, dtype=torch.float64)
    found = attribution.create("eg", network, references=references, samples=20, **KEEP).explain(x, 1)
    close(found.maps, (x - references.mean(0)) * network[1].weight[1].detach().reshape(3, 4, 4), EXACT)


def test_expected_gradients_from_one_reference_are_integrated_gradients(networks, images):
    network, x = networks.smooth(3).double(), images(3, dtype=torch.float64)
    wanted = attribution.create("ig", network, baseline="zero").attribute(x, 1)
    errors = [
        float(
            (attribution.create("eg", network, references="zero", samples=n, seed=1).attribute(x, 1) - wanted)
            .abs()
            .max()
            / wanted.abs().max()
        )
        for n in (10, 320)
    ]
    # jittered places: the error falls with n^1.5, by 180 here; single seeds scatter by a factor of a few
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 40


def test_expected_gradients_are_integrated_gradients_averaged_over_references(networks, images):
    network, x = networks.smooth(3).double(), images(2, dtype=torch.float64)
    references = images(4, seed=8, dtype=torch.float64)
    several = tuple(references.split(1))
    wanted = attribution.create("ig", network, baseline=several).explain(x, 1)
    found = attribution.create("eg", network, references=references, samples=800).explain(x, 1)
    close(found.maps, wanted.maps, 1e-3)  # 200 places for each reference
    close(found.details["gain"], wanted.details["gain"].mean(1), EXACT)


def test_evenly_spread_draws_are_nearer_and_come_nearer_faster():
    model = table(lambda x: (3 * x[:, 0]).sin() * x[:, 1])
    x, references = torch.tensor([[0.9, 0.6]]), torch.tensor([[0.0, 0.0], [-0.3, 0.5], [0.2, -0.1], [0.1, 0.9]])

    def error(samples, *, stratified):
        deltas = [
            attribution.create(
                "eg", model, references=references, samples=samples, seed=s, stratified=stratified
            ).explain(x, 0)
            for s in range(25)
        ]
        return float(torch.cat([d.details["convergence_delta"] for d in deltas]).square().mean().sqrt())

    even, more = error(16, stratified=True), error(64, stratified=True)
    assert even < error(16, stratified=False) / 2.5
    assert more < error(64, stratified=False) / 6
    assert more < even / 3  # at least as 1/S, where independent draws have a half


def test_the_half_width_covers_the_sum_of_independent_draws():
    model = table(lambda x: x[:, 0] ** 2 + x[:, 0] * x[:, 1])
    x, references = torch.tensor([[0.9, 0.6]]), torch.tensor([[0.0, 0.0], [-0.3, 0.5], [0.2, -0.1], [0.1, 0.9]])
    truth = float(model.scores(x, 0) - model.scores(references, 0).mean())
    inside = 0
    for seed in range(120):
        made = attribution.create("eg", model, references=references, samples=25, seed=seed, stratified=False)
        found = made.explain(x, 0)
        inside += abs(float(found.maps.sum()) - truth) <= float(found.details["half_width"])
    assert 106 <= inside <= 119  # 95% of 120 is 114; a binomial leaves this once in a thousand


def test_references_in_every_form_say_the_same(networks, images):
    model, x = Model(networks.cnn().double()), images(3, dtype=torch.float64)
    make = {"samples": 12, **KEEP}
    wanted = attribution.create("eg", model, references=("black", "white"), **make).attribute(x, 1)
    forms = [
        torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1),
        torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]),
        (0.0, "white"),
        [lambda x: x * 0, torch.ones(3, 8, 8)],
    ]
    for form in forms:
        close(attribution.create("eg", model, references=form, **make).attribute(x, 1), wanted, EXACT)
    one = attribution.create("eg", model, references=torch.ones(3, 8, 8), **make)
    close(one.attribute(x, 1), attribution.create("eg", model, references="white", **make).attribute(x, 1), EXACT)
    assert one.explain(x, 1).forwards.tolist() == [14] * 3
    assert sum(one.cost((3, 8, 8), **one.params)) == 26
    blur = attribution.create("eg", model, references="blur", **make)  # each image its own
    together, alone = blur.explain(x, 1), blur.explain(x[1:2], 1)
    close(together.maps[1:2], alone.maps, EXACT)
    close(together.details["gain"][1:2], alone.details["gain"], EXACT)


def test_references_are_noise_where_none_are_given(networks, images):
    for model in (Model(networks.cnn()), Model(networks.cnn(), bounds=None)):
        found = attribution.create("eg", model, samples=20).explain(images(2), 0)
        assert found.forwards.tolist() == [20 + 10 + 1] * 2
        drawn = [baselines.make("noise", images(1), model, seed=3, draw=IMAGES + n) for n in range(10)]
        named = attribution.create("eg", model, samples=20, references=torch.cat(drawn), seed=3).attribute(images(2), 0)
        close(attribution.create("eg", model, samples=20, seed=3).attribute(images(2), 0), named, SINGLE)
        assert float((drawn[0] - drawn[1]).abs().mean()) > 0.2  # no two alike
        few = attribution.create("eg", model, samples=1).explain(images(2), 0)
        assert few.forwards.tolist() == [3, 3]
        assert few.details["half_width"].isinf().all()


@pytest.mark.parametrize("name", ["eg", "gradient_shap"])
@pytest.mark.parametrize(
    ("references", "message"),
    [
        (torch.zeros(0, 3, 8, 8), "no entries"),
        (torch.zeros(2, 3, 7, 7), "does not stand beside"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
        (("black", "grey"), "choose one of zero"),
    ],
)
def test_references_that_are_none_are_refused(networks, images, name, references, message):
    with pytest.raises(ValueError, match=message):
        attribution.create(name, Model(networks.cnn()), references=references, samples=3).attribute(images(2), 0)


@pytest.mark.parametrize("stdevs", [0.0, 0.2])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)]
)  # float32 noise, times 25
def test_gradient_shap_is_captums_with_the_same_draws(networks, images, monkeypatch, stdevs, dtype, tolerance):  # noqa: PLR0917
    network, x = networks.smooth(3).to(dtype), images(3, dtype=dtype)
    references = images(6, seed=3, dtype=dtype)
    at, which = independent(25, 6, 4)
    drawn = torch.cat([noise(4, draw, (3, 8, 8)) for draw in range(25)]).repeat(3, 1, 1, 1)
    monkeypatch.setattr(np.random, "choice", lambda *_: np.tile(which.numpy(), 3))
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.tile(at.numpy(), 3))
    monkeypatch.setattr(torch, "normal", lambda _, std: drawn * std)
    wanted = captum.GradientShap(network).attribute(
        x.clone(), references, n_samples=25, stdevs=stdevs, target=torch.tensor([0, 1, 2])
    )
    monkeypatch.undo()
    made = attribution.create(
        "gradient_shap", network, references=references, samples=25, seed=4, stdevs=stdevs, relative=False, **KEEP
    )
    close(made.attribute(x, [0, 1, 2]), wanted.detach().to(dtype), tolerance)


def test_the_noise_of_gradient_shap_is_standard_normal():
    drawn = torch.stack([noise(0, draw, (3, 32, 32)) for draw in range(10)])
    assert abs(float(drawn.mean())) < 0.02  # three errors of 1/sqrt(30720)
    assert float(drawn.std()) == pytest.approx(1, abs=0.013)
    assert float(drawn.pow(4).mean()) == pytest.approx(3, abs=0.2)
    assert abs(float((drawn[0] * drawn[1]).mean())) < 0.06


def test_gradient_shap_is_unbiased_on_a_quadratic():
    """f = x0 x1: the average gradient along a line is the other column's mean, so the map is known for every reference."""
    model = table(lambda x: x[:, 0] * x[:, 1])
    x, references = torch.tensor([[0.9, 0.6]]).double(), torch.tensor([[0.0, 0.0], [-0.3, 0.5], [0.2, -0.1]]).double()
    wanted = ((x - references) * (x.flip(1) + references.flip(1)) / 2).mean(0)
    made = attribution.create("gradient_shap", model, references=references, samples=4000, stdevs=0.05, relative=False)
    found = made.explain(x, 0)
    close(found.maps, wanted[None], 0.05)  # 4000 draws of a spread of about the value itself: three errors of 1.6%
    assert float(found.details["convergence_delta"].abs()) <= 1.5 * float(found.details["half_width"])


def test_noise_is_relative_to_the_range_of_the_image(networks, images):
    model, x = Model(networks.smooth(3).double()), 0.2 + 0.5 * images(2, dtype=torch.float64)
    make = {"references": "black", "samples": 5, "seed": 1, **KEEP}
    for row in (0, 1):
        one = x[row : row + 1]
        width = float(one.max() - one.min())
        wanted = attribution.create("gradient_shap", model, stdevs=0.3 * width, relative=False, **make)
        found = attribution.create("gradient_shap", model, stdevs=0.3, **make).attribute(x, 0)
        close(found[row : row + 1], wanted.attribute(one, 0), EXACT)


# -- blur --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.6, 2.3, 50.0])
@pytest.mark.parametrize(("edges", "mode"), [("zero", "constant"), ("replicate", "nearest")])
def test_blur_is_scipys(images, sigma, edges, mode):
    x = images(2, height=11, width=7, dtype=torch.float64)
    wanted = ndimage.gaussian_filter(x.numpy(), [0, 0, sigma, sigma], mode=mode)
    found = blurred(x, sigma, edges, out=torch.empty_like(x))
    close(found, torch.from_numpy(wanted), 1e-14)  # some ulp of 2e-16
    assert sigma > 0.1 or torch.equal(found, x)
    assert blur_matrix(7, sigma, edges, torch.float32, x.device).dtype == torch.float32


def pair_blur_ig(function, image, **options):
    """PAIR's Blur IG on one image, channels first."""

    def call(batch, call_model_args=None, expected_keys=None):
        _, g = gradients_at(function, torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2))
        return {pair.base.INPUT_OUTPUT_GRADIENTS: g.permute(0, 2, 3, 1).numpy()}

    found = pair.BlurIG().GetMask(image.permute(1, 2, 0).numpy(), call, batch_size=1, **options)
    return torch.from_numpy(found).permute(2, 0, 1)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_blur_ig_by_the_papers_rule_is_pairs(networks, images, batch):
    """Theirs with batch_size=1: larger ones weigh a whole batch by its last step, and sqrt=True ends at another blur."""
    network, x = networks.smooth(3, size=10).double(), images(3, height=10, width=10, dtype=torch.float64)
    made = attribution.create(
        "blur_ig", Model(network, batch_size=batch), rule="paper", edges="zero", max_sigma=6.0, steps=12, output="logit",
        **KEEP,
    )  # fmt: skip
    found = made.explain(x, 1)
    wanted = torch.stack([pair_blur_ig(lambda p: network(p)[:, 1], one, max_sigma=6, steps=12) for one in x])
    close(found.maps, wanted, 1e-10)  # differences of 1e-2 divided by 1e-2: two digits less
    end = torch.from_numpy(ndimage.gaussian_filter(x.numpy(), [0, 0, 6, 6], mode="constant"))
    gain = (network(x) - network(end)).detach()[:, 1]
    close(found.details["gain"], gain, EXACT)
    assert found.forwards.tolist() == [13] * 3
    assert made.cost(**made.params) == (13, 12)


def test_blur_ig_converges_by_differences_and_the_papers_rule_does_not(images):
    x = images(2, height=16, width=16, dtype=torch.float64)

    def miss(steps, **more):
        made = attribution.create("blur_ig", cubic, steps=steps, max_sigma=3.5, output="logit", **more)
        found = made.explain(x, 0)
        return float((found.details["convergence_delta"] / found.details["gain"]).abs().max())

    ours, finer = miss(41), miss(161)
    assert finer < ours / 10  # second order: a sixteenth
    assert finer < 1e-3
    assert miss(400, rule="paper") > 2 * finer
    assert miss(100, rule="paper") < 0.1
    assert miss(41, spacing="quadratic") < ours


def test_blur_ig_is_its_formula(networks, images):
    network, x = networks.smooth(3, size=9).double(), images(2, height=9, width=9, dtype=torch.float64)
    sigmas = [3.0 * k / 6 for k in range(6, -1, -1)]
    blurs = [torch.from_numpy(ndimage.gaussian_filter(x.numpy(), [0, 0, s, s], mode="nearest")) for s in sigmas]
    gradients = [gradients_at(lambda p: network(p).softmax(1)[:, 2], b)[1] for b in blurs]
    wanted = sum((a + b) / 2 * (q - p) for a, b, p, q in zip(gradients, gradients[1:], blurs, blurs[1:], strict=False))
    for batch in (1, 3, 5):
        made = attribution.create("blur_ig", Model(network, batch_size=batch), steps=7, max_sigma=3.0, **KEEP)
        close(made.attribute(x, 2), wanted, EXACT)


def test_every_blur_is_made_once_for_all_images_of_a_block(networks, images, monkeypatch):
    asked = []
    true = blur_module.blurred
    monkeypatch.setattr(
        blur_module, "blurred", lambda x, sigma, *rest, **more: asked.append(sigma) or true(x, sigma, *rest, **more)
    )
    for batch, blocks in ((1, 3), (2, 2), (3, 1), (16, 1)):
        asked.clear()
        attribution.create("blur_ig", Model(networks.cnn(), batch_size=batch), steps=9).attribute(images(3), 0)
        assert len(asked) == 9 * blocks


def test_a_flat_image_has_no_detail_and_zeros_around_it_make_some(networks):
    x = torch.full((1, 3, 8, 8), 0.6, dtype=torch.float64)
    model = Model(networks.smooth(3).double())
    assert float(attribution.create("blur_ig", model).attribute(x, 1).abs().max()) < EXACT
    assert float(attribution.create("blur_ig", model, edges="zero").attribute(x, 1).abs().max()) > 1e-4


def test_the_strongest_blur_is_the_papers_at_its_size(images):
    x = images(1, height=16, width=32, dtype=torch.float64)
    default, named = (attribution.create("blur_ig", cubic, **m) for m in ({}, {"max_sigma": 16 * 50 / 224}))
    assert torch.equal(default.attribute(x, 0), named.attribute(x, 0))


# -- IDGI --------------------------------------------------------------------------------------------------------------


def idgi_by_hand(scores, gradients):
    """Points, scores and gradients of one image, in numpy."""
    total = np.zeros_like(gradients[0])
    for j in range(len(scores) - 1):
        squares = gradients[j] * gradients[j]
        total += (scores[j + 1] - scores[j]) * squares / squares.sum()
    return total


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize("path", ["straight", "blur", "guided"])
def test_idgi_is_its_formula_on_every_path(networks, images, batch, path):
    network, x = networks.resnet().double(), images(4, dtype=torch.float64)
    made = attribution.create(
        "idgi", Model(network, batch_size=batch), path=path, steps=7, baseline=0.4, max_sigma=2.0, **KEEP
    )
    found = made.explain(x, [0, 1, 2, 3])
    for i, one in enumerate(x):
        if path == "straight":
            points = torch.stack([0.4 + a * (one - 0.4) for a in torch.linspace(0, 1, 7, dtype=torch.float64)])
        elif path == "guided":  # its own tests are elsewhere
            model = Model(network, batch_size=batch)
            how = {"steps": 6, "fraction": 0.25, "max_dist": 0.02, "output": "probability"}
            start = torch.full((1, 1, 1, 1), 0.4, dtype=torch.float64)
            way = list(guided_walk(model, x[i : i + 1], start, model.resolve(x[i : i + 1], i), **how))
            points = torch.cat([step.points for step in way] + [way[-1].after])
            assert torch.equal(points[-1], one)
        else:
            points = torch.stack(
                [
                    torch.from_numpy(ndimage.gaussian_filter(one.numpy(), [0, s, s], mode="nearest"))
                    for s in np.linspace(2, 0, 7)
                ]
            )
        scores, gradients = gradients_at(lambda p: network(p).softmax(1)[:, i], points)
        close(found.maps[i], torch.from_numpy(idgi_by_hand(scores.numpy(), gradients.numpy())), 1e-11)  # gains of 1e-2
    close(found.maps.sum((1, 2, 3)), found.details["gain"], 1e-10)
    assert float(found.details["skipped"].abs().max()) == 0
    assert found.forwards.tolist() == [7] * 4


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_idgi_says_what_nobody_got(batch):
    """Flat up to 0.55 and steep from there: the step that leaves the flat part begins where the gradient is zero."""
    model = table(lambda x: (x[:, 0] - 0.55).relu() + 0.5 * (x[:, 1] - 0.55).relu(), batch_size=batch)
    x = torch.tensor([[1.0, 1.0], [0.5, 0.5]])
    found = attribution.create("idgi", model, steps=5, output="logit").explain(x, 0)  # at 0, .25, .5, .75, 1
    assert found.details["skipped"].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)
    assert found.details["gain"].tolist() == pytest.approx([0.675, 0.0], abs=1e-6)
    assert found.maps[0].tolist() == pytest.approx([0.375 * 0.8, 0.375 * 0.2], abs=1e-6)  # squares of 1 and 1/2
    assert found.maps[1].tolist() == [0.0, 0.0]


def test_idgi_of_tiny_gradients_is_that_of_large_ones():
    """Squares of 1e-25 are zero in single precision."""
    x = torch.tensor([[0.4, 0.9], [0.8, 0.2]])
    large, tiny = (table(lambda x, s=s: s * (x[:, 0] * x[:, 1] + x[:, 0])) for s in (1.0, 1e-25))
    maps = [attribution.create("idgi", m, steps=9, output="logit").attribute(x, 0) for m in (large, tiny)]
    close(maps[1] * 1e25, maps[0], 1e-5)  # float32


def test_idgi_gives_a_part_to_pixels_that_the_path_leaves_alone():
    x = torch.tensor([[0.5, 0.0]])
    made = attribution.create("idgi", table(lambda x: x[:, 0] + x[:, 1]), output="logit")
    assert made.attribute(x, 0)[0].tolist() == pytest.approx([0.25, 0.25], abs=1e-6)
    assert attribution.create("ig", made.model).attribute(x, 0)[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)


def test_idgi_is_found_under_its_names_and_blurs_images_only(networks):
    for name in ("IG+IDGI", "ig_idgi", "idgi"):
        assert isinstance(attribution.create(name, networks.cnn()), IDGI)
    with pytest.raises(ValueError, match="path='blur' is for images"):
        attribution.create("idgi", table(lambda x: x[:, 0]), path="blur").attribute(torch.rand(2, 3), 0)


# -- everywhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ig", "eg", "gradient_shap", "blur_ig", "idgi"])
def test_a_budget_picks_the_steps_and_nothing_is_spent_beyond_it(networks, images, name):
    made = attribution.create(name, Model(networks.cnn()), budget=60)
    found = made.explain(images(2), 0)
    spent = (found.forwards + found.backwards).tolist()
    assert 50 < spent[0] <= 60
    assert spent[0] == spent[1]


def test_nodes_are_places_with_weights_of_one():
    for rule, steps in itertools.product(("gauss_legendre", "midpoint", "trapezoid", "left", "right"), (2, 9)):
        at, weights = nodes(rule, steps)
        assert float(weights.sum()) == pytest.approx(1, abs=EXACT)
        if rule not in {"left", "right"}:
            assert float((at * weights).sum()) == pytest.approx(0.5, abs=EXACT)
    assert SimpleNamespace(**IntegratedGradients.cost()._asdict()).forwards == 52

"""Paths that are walked step by step: guided_ig, samp, samp_pp and agi, by hand, by their limits, and against PAIR."""

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.path.guided_ig import walk
from attriscope.attribution.path.samp import largest, samp
from torch import nn

# float64: rounding of sums of some hundred terms
FINE = 1e-10


def close(found, wanted, tolerance=FINE):
    """Equal up to `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * max(float(wanted.abs().max()), 1e-12), float(
        (found - wanted).abs().max()
    )


def steep(x):
    """A table's score with a cubic and products of columns, so that the order of moves matters; class 1 is its negative."""
    score = (x**3).sum(1) + (x[:, :-1] * x[:, 1:] ** 2).sum(1) - 0.5 * x[:, 0] * x[:, -1]
    return torch.stack([score, -score], 1)


def table(function=steep, **more):
    return Model(function, kind="table", **{"bounds": None, **more})


def columns(n=3, features=8, seed=0):
    return 0.2 + torch.rand(n, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(weight):
    return lambda x: torch.stack([x @ weight, 0 * x[:, 0]], 1)


# -- guided integrated gradients ---------------------------------------------------------------------------------------


@pytest.fixture
def pair(monkeypatch):
    """PAIR's Guided IG. numpy 2.4 took away the keyword by which it asks for the lower of two quantiles."""
    from saliency.core import guided_ig

    def quantile(values, q, *, interpolation):
        return np.quantile(values, q, method=interpolation)

    class Numpy:
        def __getattr__(self, name):
            return quantile if name == "quantile" else getattr(np, name)

    monkeypatch.setattr(guided_ig, "np", Numpy())
    return guided_ig.guided_ig_impl


@pytest.mark.parametrize(
    ("steps", "fraction", "max_dist"), [(20, 0.25, 0.02), (20, 0.25, 0.3), (7, 0.1, 1.0), (50, 0.5, 0.1), (5, 1.0, 0.2)]
)
def test_guided_ig_is_pairs(networks, images, pair, steps, fraction, max_dist):  # noqa: PLR0917  pytest's fixtures
    network, x, start = (
        networks.smooth(3).double(),
        images(3, dtype=torch.float64),
        images(3, seed=5, dtype=torch.float64),
    )
    options = {"steps": steps, "fraction": fraction, "max_dist": max_dist}
    found = attribution.create("guided_ig", network, baseline=start, channels="keep", **options).attribute(x, [0, 1, 2])
    for i in range(3):

        def gradient(at, i=i):
            at = torch.from_numpy(at)[None].requires_grad_()
            return torch.autograd.grad(network(at)[0, i], at)[0][0].numpy()

        wanted = pair(x[i].numpy(), start[i].numpy(), gradient, **options)
        close(found[i], torch.from_numpy(wanted), 1e-6)  # both stop a step within 1e-9 of its goal


def test_guided_ig_on_the_line_is_integrated_gradients(networks, images):
    """With no way off the line, and where all features move together, it is the left rule."""
    network, x = networks.smooth(3).double(), images(2, dtype=torch.float64)
    wanted = attribution.create("ig", network, steps=9, rule="left").attribute(x, 1)
    for options in ({"max_dist": 0.0}, {"max_dist": 1.0, "fraction": 1.0}):
        # a step is done within 1e-9 of the way
        close(attribution.create("guided_ig", network, steps=9, **options).attribute(x, 1), wanted, 1e-8)


def steps_of(model, x, baseline, **options):
    target = model.resolve(x, 0)
    return list(walk(model, x, baseline, target, **{"fraction": 0.25, "output": "logit", **options}))


def test_guided_ig_moves_first_what_the_score_minds_least():
    """Three columns from 0 to 1, an L1 of 3/6 a step: by hand."""
    model = table(linear(torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64)))
    x = torch.ones(1, 3, dtype=torch.float64)
    found = steps_of(model, x, torch.zeros_like(x), steps=6, fraction=0.0, max_dist=1.0)
    places = torch.cat([s.points for s in found])
    wanted = [[0, 0, 0], [0, 0.5, 0], [0, 1, 0], [0, 1, 0.5], [0, 1, 1], [0.5, 1, 1]]
    close(places, torch.tensor(wanted, dtype=torch.float64))
    # no column may be more than a third ahead or behind: now they queue
    found = steps_of(model, x, torch.zeros_like(x), steps=6, fraction=0.0, max_dist=1 / 3)
    wanted = [[0, 0, 0], [0, 0.5, 0], [0, 2 / 3, 1 / 3], [1 / 6, 5 / 6, 0.5], [1 / 3, 1, 2 / 3], [0.5, 1, 1]]
    close(torch.cat([s.points for s in found]), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(("fraction", "max_dist"), [(0.25, 0.02), (0.1, 0.5), (0.0, 1.0), (1.0, 0.3), (0.25, 0.0)])
def test_guided_ig_s_path_stays_in_its_band_and_ends_at_the_image(fraction, max_dist):
    model, x = table(), columns()
    start = columns(seed=3) * torch.tensor([1.0, -1.0, 1.0, 0.0, 1.0, -2.0, 1.0, 1.0], dtype=torch.float64)
    start[1, :4] = x[1, :4]  # these do not move
    steps = steps_of(model, x, start, steps=11, fraction=fraction, max_dist=max_dist)
    assert torch.equal(steps[0].points, start)
    assert torch.equal(steps[-1].after, x)
    for k, step in enumerate(steps, 1):
        at = ((step.after - start) / (x - start)).nan_to_num(k / 11)
        slack = 1e-8  # divided by a way that may be short
        assert bool(((at >= 0 - slack) & (at <= 1 + slack)).all())
        assert bool(((at - k / 11).abs() <= max_dist + slack).all())
        # every step comes as near to the image as the straight line would
        near, whole = (step.after - x).abs().sum(1), (start - x).abs().sum(1)
        close(near, whole * (1 - k / 11), 1e-8) if k < 11 else None
        close(step.scores, steep(step.points)[:, 0])
        assert torch.equal(steps[k].points if k < 11 else x, step.after)


def test_guided_ig_of_the_baseline_itself_is_zero_beside_others():
    x = columns()
    found = attribution.create("guided_ig", table(), baseline=x[1:2], steps=5).explain(x, 0)
    assert bool((found.maps[1] == 0).all())
    assert float(found.details["convergence_delta"][1]) == 0
    assert bool((found.maps[[0, 2]] != 0).any(1).all())


def test_guided_ig_does_not_move_what_is_there_already():
    x = columns()
    start = torch.zeros_like(x)
    start[:, 2] = x[:, 2]
    assert bool((attribution.create("guided_ig", table(), baseline=start, steps=5).attribute(x, 0)[:, 2] == 0).all())


def test_guided_ig_is_complete_in_the_limit():
    """Left sums: the error falls as 1 / steps."""
    x, missed = columns(), []
    for steps in (20, 50, 200, 1000):
        found = attribution.create("guided_ig", table(), steps=steps).explain(x, 0)
        difference = steep(x)[:, 0] - steep(torch.zeros_like(x))[:, 0]
        close(found.details["convergence_delta"], found.maps.sum(1) - difference)
        missed.append(float((found.maps.sum(1) / difference - 1).abs().max()))
    assert missed[0] > missed[1] > missed[2] > missed[3]
    assert missed[0] < 0.1  # seen: 0.077, 0.032, 0.008, 0.0016
    assert missed[3] < 0.003


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_guided_ig_does_not_depend_on_the_unit(scale):
    """In units in which the way is a billionth, a step must not take its goal for reached."""
    x, options = columns(), {"steps": 6, "max_dist": 0.3}
    wanted = attribution.create("guided_ig", table(), **options).attribute(x, 0)
    found = attribution.create("guided_ig", table(lambda x: steep(x / scale)), **options).attribute(x * scale, 0)
    close(found, wanted, 1e-6)  # other rounding: steps stop within 1e-9


def test_guided_ig_walks_float32_as_float64_does(networks, images):
    network, x = networks.smooth(3), images(2)
    found = attribution.create("guided_ig", network, steps=20).attribute(x, 1)
    wanted = attribution.create("guided_ig", networks.smooth(3).double(), steps=20).attribute(x.double(), 1)
    close(found.double(), wanted, 1e-4)  # float32 gradients order nearly equal ones differently


# -- samp --------------------------------------------------------------------------------------------------------------


def gradient(x):
    """Of `steep`'s class 0 at one row, by hand."""
    g = 3 * x**2
    g[:-1] += x[1:] ** 2
    g[1:] += 2 * x[:-1] * x[1:]
    g[0] -= 0.5 * x[-1]
    g[-1] -= 0.5 * x[0]
    return g


def walked(start, end, count, *, eta=None, momentum=0.0, mixed_counts=False):
    """SAMP for one row with plain loops."""
    x, total, memory, steps = start.copy(), np.zeros_like(start), None, 0
    whole = np.abs(end - start).sum()
    while (x != end).any():
        g = gradient(x)
        memory = g if memory is None else momentum * memory + (1 - momentum) * g
        left = [i for i in range(len(x)) if x[i] != end[i]]
        left.sort(key=lambda i: -abs(memory[i] * (end[i] - x[i])))
        chosen = left[:count]
        way = sum(abs(end[i] - x[i]) for i in chosen)
        used = memory if mixed_counts else g
        for i in chosen:
            there = end[i] if eta is None or way <= eta * whole else x[i] + (end[i] - x[i]) * eta * whole / way
            total[i] += used[i] * (there - x[i])
            x[i] = there
        steps += 1
    return total, steps


@pytest.mark.parametrize(
    ("name", "options", "by_hand"),
    [
        ("samp", {"per_step": 0.25}, {"count": 2}),
        ("samp", {"per_step": 0.0}, {"count": 1}),
        ("samp", {"per_step": 0.4}, {"count": 3}),
        ("samp_pp", {"per_step": 0.25, "eta": 0.05, "momentum": 0.0}, {"count": 2, "eta": 0.05}),
        ("samp_pp", {"per_step": 0.4, "eta": 0.13, "momentum": 0.6}, {"count": 3, "eta": 0.13, "momentum": 0.6}),
        (
            "samp_pp",
            {"per_step": 0.25, "eta": 0.1, "momentum": 0.7, "momentum_attribution": True},
            {"count": 2, "eta": 0.1, "momentum": 0.7, "mixed_counts": True},
        ),
    ],
)
def test_samp_is_the_algorithm_done_by_hand(name, options, by_hand):
    model, x = table(bounds=(-0.5, 2.0)), columns()
    black, white = np.full(8, -0.5), np.full(8, 2.0)
    found = attribution.create(name, model, **options).explain(x, 0)
    deleted = attribution.create(name, model, **options, directions="deletion").explain(x, 0)
    inserted = attribution.create(name, model, **options, directions="insertion").explain(x, 0)
    for i, one in enumerate(x.numpy()):
        away, steps = walked(one, black, **by_hand)
        back, more = walked(white, one, **by_hand)
        close(deleted.maps[i], torch.from_numpy(-away))
        close(inserted.maps[i], torch.from_numpy(back))
        close(found.maps[i], torch.from_numpy((back - away) / 2))
        assert int(deleted.details["steps"][i]) == steps
        assert int(inserted.details["steps"][i]) == more
        assert int(found.details["steps"][i]) == steps + more == int(found.backwards[i])


def test_samp_s_delta_is_what_the_sum_misses():
    model, x = table(bounds=(-0.5, 2.0)), columns()
    score, black, white = (steep(v)[:, 0] for v in (x, torch.full_like(x, -0.5), torch.full_like(x, 2.0)))
    for directions, wanted in (
        ("deletion", score - black), ("insertion", score - white), ("both", score - (black + white) / 2)
    ):  # fmt: skip
        found = attribution.create("samp", model, directions=directions).explain(x, 0)
        close(found.details["convergence_delta"], found.maps.sum(1) - wanted)


def test_samp_in_one_step_is_the_gradient_times_the_way():
    model, x = table(), columns()
    found = attribution.create("samp", model, per_step=1.0, baseline=0.3, directions="insertion").attribute(x, 0)
    at_start = torch.from_numpy(gradient(np.full(8, 0.3)))
    close(found, (x - 0.3) * at_start)
    found = attribution.create("samp", model, per_step=1.0, baseline=0.3, directions="deletion").attribute(x, 0)
    close(found, (x - 0.3) * torch.stack([torch.from_numpy(gradient(one)) for one in x.numpy()]))


@pytest.mark.parametrize("directions", ["deletion", "insertion", "both"])
def test_samp_of_a_linear_score_is_exact_however_it_steps(directions):
    weight = torch.linspace(-1, 2, 8, dtype=torch.float64)
    model, x = table(linear(weight)), columns()
    for name, options in (("samp", {"per_step": 0.3}), ("samp_pp", {"eta": 0.07}), ("samp_pp", {"eta": 5.0})):
        for baseline in (0.1, columns(seed=9)):
            made = attribution.create(name, model, baseline=baseline, directions=directions, **options)
            found = made.explain(x, 0)
            close(found.maps, weight * (x - baseline))
            assert float(found.details["convergence_delta"].abs().max()) < FINE


def test_samp_pp_misses_less_as_its_steps_get_shorter():
    model, x = table(bounds=(0.0, 2.0)), columns()
    missed = []
    for eta in (0.5, 0.1, 0.02, 0.004):
        found = attribution.create("samp_pp", model, per_step=0.3, eta=eta).explain(x, 0)
        missed.append(float(found.details["convergence_delta"].abs().max()))
    assert missed[0] > missed[1] > missed[2] > missed[3]
    assert missed[3] < missed[0] / 50  # the error of a left sum is in proportion to its steps, 125 times as short
    # momentum that is attributed misses whatever the steps: seen 4 times as much
    mixed = attribution.create("samp_pp", model, per_step=0.3, eta=0.004, momentum=0.9, momentum_attribution=True)
    assert float(mixed.explain(x, 0).details["convergence_delta"].abs().max()) > 2 * missed[3]


def test_samp_concentrates_the_map():
    """What it is for. Of a product the column that is moved first gets it all, and single moves sum exactly."""

    def products(x):
        score = x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] * x[:, 4] + x[:, 5:].prod(1)
        return torch.stack([score, -score], 1)

    model, x = table(products, bounds=(0.0, 2.0)), columns(5, 12)
    straight = attribution.create("ig", model, steps=6).attribute(x, 0)  # exact to degree 11
    for directions in ("deletion", "insertion"):
        made = attribution.create("samp", model, per_step=0.0, baseline=0.0, directions=directions)
        found = made.attribute(x, 0)
        close(found.sum(1), straight.sum(1))
        assert bool((found.var(1) > 2 * straight.var(1)).all())  # seen: 2.3 to 4.1


def test_samp_takes_an_image_s_own_extremes_where_there_are_no_bounds(networks, images):
    network, x = networks.smooth(3).double(), images(2, dtype=torch.float64) * 5 - 2
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    own = attribution.create("samp", network).attribute(x, 1)
    parts = [
        attribution.create("samp", network, baseline=value, directions=d).attribute(x, 1)
        for value, d in ((low, "deletion"), (high, "insertion"))
    ]
    close(own, (parts[0] + parts[1]) / 2)


def test_images_that_have_arrived_leave_the_batch():
    model, x = table(bounds=(0.0, 2.0)), columns()
    x[1, 1:] = 0  # one step
    x[2] = 0  # none
    found = attribution.create("samp", model, per_step=0.0, directions="deletion").explain(x, 0)
    assert found.details["steps"].tolist() == [8, 1, 0]
    assert found.backwards.tolist() == [8, 1, 0]
    assert bool((found.maps[2] == 0).all())


@pytest.mark.parametrize(
    ("name", "options"), [("samp", {"per_step": 0.07}), ("samp_pp", {"per_step": 0.2, "eta": 0.1})]
)
def test_samp_costs_at_most_what_it_says(name, options):
    for features in (1, 3, 8, 30):
        found = attribution.create(name, table(), **options).explain(columns(4, features), 0)
        cost = attribution.attributor.REGISTRY.find(name).cost((features,), **options)
        assert int(found.forwards.max()) <= cost.forwards
        assert int(found.backwards.max()) <= cost.backwards
    if name == "samp":
        assert int(found.backwards.max()) == cost.backwards == 2 * 15


def test_the_default_step_is_the_papers():
    assert attribution.attributor.REGISTRY.find("samp").cost((3, 224, 224)).backwards == 2 * 42


def test_of_equal_features_the_first_are_taken():
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 3.0, 0.0, 0.0]])
    among = torch.ones_like(values, dtype=torch.bool)
    among[1, :2] = False
    among[2, [0, 2, 3, 4]] = False
    wanted = [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]
    assert largest(values, among, 2).int().tolist() == wanted
    assert torch.equal(largest(values, among, 9), among)


def test_samp_reaches_the_end_exactly_in_float32(images):
    """A path that stopped a rounding short of its end would never stop."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    model, x = Model(network), images(2)
    target = model.resolve(x, 0)
    found = samp(model, x, torch.ones_like(x) / 3, target, per_step=0.1, output="logit", eta=1e-2)
    assert bool((found.steps <= 110).all())


def test_samp_pp_refuses_a_momentum_of_one():
    with pytest.raises(ValueError, match="momentum=1"):
        attribution.create("samp++", table(), momentum=1.0)


# -- agi ---------------------------------------------------------------------------------------------------------------

WEIGHT = np.array([[1.0, -2.0, 0.5, 0.3], [-0.4, 1.5, -1.0, 0.2], [0.6, 0.1, 1.2, -1.1], [-0.5, -0.3, 0.1, 0.9]])


def curved(x):
    """Four classes of four columns, bent."""
    return torch.tanh(x @ torch.from_numpy(WEIGHT).T.to(x)) * 3


def probabilities(x):
    """Of `curved` at one row, and their gradients `(4, 4)`, by hand."""
    z = np.tanh(WEIGHT @ x)
    p = np.exp(3 * z) / np.exp(3 * z).sum()
    inner = 3 * (1 - z**2)[:, None] * WEIGHT
    return p, p[:, None] * (inner - p @ inner)


def attacked(x, y, t, step, iterations, *, official, low=-np.inf, high=np.inf):
    """One way of AGI with plain loops: the map, the steps, whether it arrived, the loss."""
    at, total, steps = x.copy(), np.zeros_like(x), 0
    while steps < iterations and probabilities(at)[0].argmax() != t:
        _, slopes = probabilities(at)
        origin = x if official else at
        moved = np.clip(origin + step * np.sign(slopes[t]), low, high)
        total -= slopes[y] * (moved - origin)
        at, steps = moved, steps + 1
    end = probabilities(at)[0]
    return total, steps, end.argmax() == t, probabilities(x)[0][y] - end[y]


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("bounds", [(0.4, 1.0), None])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_agi_is_the_algorithm_done_by_hand(mode, bounds, batch_size):
    x = columns(5, 4).clamp(0.4, 1.0)  # some at the bounds, which they must not leave
    model = table(curved, bounds=bounds, batch_size=batch_size)
    y = [int(probabilities(one)[0].argmax()) for one in x.numpy()]
    found = attribution.create("agi", model, step=0.03, iterations=4, classes=2, mode=mode).explain(x)
    assert found.target.tolist() == y
    seen = set()
    for i, one in enumerate(x.numpy()):
        p = probabilities(one)[0]
        others = [int(t) for t in np.argsort(-p) if t != y[i]][:2]
        assert found.details["adversaries"][i].tolist() == others
        # the bounds' range, or without bounds the input's own
        step = 0.03 * (0.6 if bounds else one.max() - one.min())
        limits = {"low": 0.4, "high": 1.0} if bounds else {}
        ways = [attacked(one, y[i], t, step, 4, official=mode == "official", **limits) for t in others]
        close(found.maps[i], torch.from_numpy(sum(w[0] for w in ways)))
        assert found.details["steps"][i].tolist() == [w[1] for w in ways]
        assert found.details["reached"][i].tolist() == [w[2] for w in ways]
        close(found.details["lost"][i], torch.tensor([w[3] for w in ways], dtype=torch.float64))
        seen |= {w[2] for w in ways}
        # each step takes both gradients; a class that is reached is seen by the target's, one that is not by one forward
        backwards = sum(2 * w[1] + bool(w[1] < 4) for w in ways)
        assert int(found.backwards[i]) == backwards
        assert int(found.forwards[i]) == 1 + sum(2 * w[1] + 1 for w in ways)
    assert seen == {False, True} or mode == "official"
    cost = attribution.attributor.REGISTRY.find("agi").cost((4,), iterations=4, classes=2)
    assert int(found.forwards.max()) <= cost.forwards
    assert int(found.backwards.max()) <= cost.backwards


def test_agi_sums_to_what_the_target_lost():
    x, model = columns(5, 4), table(curved)
    missed = []
    for step, iterations in ((0.1, 10), (0.01, 100), (0.001, 1000)):
        found = attribution.create("agi", model, step=step, iterations=iterations, classes=3).explain(x)
        lost = found.details["lost"].sum(1)
        close(found.details["convergence_delta"], found.maps.sum(1) - lost)
        missed.append(float((found.details["convergence_delta"] / lost).abs().max()))
        assert bool((lost > 0).all())
    # the error of a left sum falls with its step
    assert missed[0] > 3 * missed[1] > 9 * missed[2]
    assert missed[2] < 0.03  # seen: 0.019


def test_agi_goes_to_spaced_classes_as_the_published_code_does():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    with torch.no_grad():
        network[1].bias[9] = 50.0  # so that no other class is reached
    model, x = Model(network), torch.zeros(2, 3, 2, 2)
    made = attribution.create("agi", model, choose="spaced", classes=5, iterations=1)
    assert made.explain(x, [4, 5]).details["adversaries"].tolist() == [[0, 2, 6, 8, -1], [0, 2, 4, 6, 8]]
    assert made.explain(x, [4, 5]).forwards.tolist() == [12, 15]  # three for each: no need to know which come first
    assert bool(made.explain(x, [4, 5]).details["convergence_delta"].isfinite().all())
    many = attribution.create("agi", model, choose="spaced", classes=99, iterations=1)
    assert many.explain(x, 3).details["adversaries"][0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert attribution.create("agi", model, classes=99, iterations=1).explain(x, 3).details["steps"].shape == (2, 9)


def test_agi_goes_the_same_way_whichever_score_is_summed():
    x, model = columns(4, 4), table(curved)
    made = [
        attribution.create("agi", model, output=o, classes=2).explain(x) for o in ("probability", "logit", "margin")
    ]
    for one in made[1:]:
        assert torch.equal(one.details["steps"], made[0].details["steps"])
        assert not torch.equal(one.maps, made[0].maps)
        lost = one.details["lost"].sum(1)
        assert float((one.maps.sum(1) - lost - one.details["convergence_delta"]).abs().max()) < FINE


def test_agi_finds_a_way_where_the_probability_has_no_gradient_left():
    """At 200 logits below the first a float32 probability is 0; its logarithm still says where to go."""
    weight = torch.tensor([[200.0, 0.0], [0.0, 1.0]])
    found = attribution.create("agi", table(lambda x: x @ weight.T.to(x)), output="logit", classes=1, step=0.5).explain(
        torch.tensor([[1.0, 0.0]]), 0
    )
    assert bool(found.details["reached"].all())
    assert float(found.maps[0, 0]) > 0


def test_agi_moves_an_input_that_has_no_range_by_steps_of_one():
    found = attribution.create("agi", table(curved), step=0.1, classes=1).explain(torch.full((1, 4), 0.3))
    assert bool((found.maps != 0).all())


def test_agi_says_why_it_cannot_run():
    one = Model(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)))
    x = torch.rand(1, 3, 2, 2)
    with pytest.raises(ValueError, match="two classes or more"):
        attribution.create("agi", one).attribute(x, 0)
    with pytest.raises(ValueError, match="one output"):  # now that it was seen
        attribution.create("agi", one)
    assert "agi" not in attribution.available(model=one)
    two = Model(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    with pytest.raises(ValueError, match="not a callable"):
        attribution.create("agi", two).attribute(x, lambda out: out[:, 0])
    dense = Model(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match="two classes or more"):
        attribution.create("agi", dense).attribute(x, (0, 1, 1))


def test_guided_paths_run_where_probabilities_come_out_of_the_network(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softmax(1))
    model = Model(network, activation="none")
    for name in ("guided_ig", "samp", "samp_pp", "agi"):
        options = attribution.describe(name)["small"]
        found = attribution.create(name, model, output="probability", **options).attribute(images(2), [0, 2])
        assert bool((found != 0).any())

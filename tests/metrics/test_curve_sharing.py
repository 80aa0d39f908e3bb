"""What curves share: everything that is asked for alike is paid once, whoever asks."""

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.conformance import Detector
from attriscope.attribution.masking import Evaluations
from attriscope.metrics.faithfulness import curve

N = 4  # images
STEPS = 28


def images():
    return torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def maps(seed, n=N):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def detector(**more):
    return attribution.Model(Detector().eval(), mean=(0.2,) * 3, std=(0.5,) * 3, **more)


def paid(judges, given, **more):
    """Forwards of one image for some metrics on some methods' maps, and the study."""
    model = detector()
    methods = {f"m{i}": attribution.from_maps(m, model) for i, m in enumerate(given)}
    study = metrics.compare(model, images(), 1, attributors=methods, metrics=judges, progress=False, **more)
    assert study.paid == model.forwards
    return study.paid / N, study


BOTH = ["insertion", "deletion"]
ONE = {"baseline": "mean"}
PAIR = {"insertion": metrics.create("insertion", **ONE), "deletion": metrics.create("deletion", **ONE)}


@pytest.mark.parametrize("m", [1, 2, 4])
def test_m_methods_cost_three_and_two_m_n_minus_one(m):
    assert paid(BOTH, [maps(i) for i in range(m)])[0] == 3 + 2 * m * (STEPS - 1)


def test_what_reads_the_same_curves_costs_nothing():
    free = ["insertion_minus_deletion", "average_highest_confidence", "pixel_flipping", "aopc"]
    given = [maps(0), maps(1)]
    assert paid([*BOTH, *free], given)[0] == paid(BOTH, given)[0]


def test_with_one_baseline_the_gain_and_the_least_important_first_cost_nothing():
    more = {"srg": "srg", "least": metrics.create("aopc", order="least"), "flipping": "pixel_flipping"}
    found = paid({**PAIR, **more}, [maps(0), maps(1)])[0]
    assert found == paid(PAIR, [maps(0), maps(1)])[0] == 2 + 2 * 2 * (STEPS - 1)
    assert paid({"srg": "srg"}, [maps(0), maps(1)])[0] == found


def test_the_gain_beside_rises_pair_pays_for_one_curve_more():
    assert paid([*BOTH, "srg"], [maps(0)])[0] == 3 + 3 * (STEPS - 1)


def test_equal_maps_of_two_methods_are_paid_once():
    """Equal, or equal in order."""
    given = [maps(0), maps(0).clone(), maps(0).double().exp(), maps(1)]
    cost, study = paid(BOTH, given)
    assert cost == 3 + 2 * 2 * (STEPS - 1)
    scores = study.scores.pivot_table(index=["image", "metric"], columns="method", values="score")
    assert (scores["m0"] == scores["m1"]).all()
    assert (scores["m0"] == scores["m2"]).all()
    assert (scores["m0"] != scores["m3"]).all()


def test_a_map_and_its_negative_are_paid_once_with_one_baseline():
    """Insertion of one is deletion of the other, where the steps divide the pixels or are the same from both ends."""
    assert paid(PAIR, [maps(0), -maps(0)])[0] == 2 + 2 * (STEPS - 1)
    assert paid(BOTH, [maps(0), -maps(0)])[0] == 3 + 4 * (STEPS - 1), "two baselines: other images"


def test_ties_that_the_seed_breaks_are_other_orders_and_the_lack_of_ties_is_not():
    seeds = {str(s): metrics.create("deletion", seed=s) for s in range(3)}
    assert paid(seeds, [maps(0)])[0] == 2 + STEPS - 1
    tied = maps(0).mul(9).round()
    assert paid(seeds, [tied])[0] == 2 + 3 * (STEPS - 1)
    rules = {ties: metrics.create("deletion", ties=ties) for ties in ("random", "index")}
    assert paid(rules, [maps(0)])[0] == 2 + STEPS - 1
    assert paid(rules, [tied])[0] == 2 + 2 * (STEPS - 1)


@pytest.mark.parametrize(
    "other", [{"steps": 14}, {"baseline": "black"}, {"output": "logit"}, {"baseline": torch.full((1, 3, 1, 1), 0.21)}]
)
def test_what_is_not_alike_is_paid(other):
    cost, study = paid({"one": "deletion", "other": metrics.create("deletion", **other)}, [maps(0)])
    ends = 3 if "baseline" in other else 4 if "output" in other else 2
    assert cost == ends + (STEPS - 1) + (other.get("steps", STEPS) - 1)
    alone = metrics.create("deletion", **other).score(detector(), images(), maps(0), 1)
    found = study.scores.query("metric == 'other'").sort_values("image")["score"]
    torch.testing.assert_close(torch.tensor(found.to_numpy()), alone, atol=1e-6, rtol=0)  # float32, other batches


def test_the_same_colour_by_another_name_is_paid_once_but_for_its_end():
    judges = {"name": PAIR["deletion"], "number": metrics.create("deletion", baseline=torch.full((3, 1, 1), 0.2))}
    assert paid(judges, [maps(0)])[0] == 3 + STEPS - 1


@pytest.mark.parametrize("name", ["insertion", "deletion", "insertion_minus_deletion", "srg", "pixel_flipping", "aopc"])
def test_in_company_every_score_is_that_of_the_metric_alone(name):
    judges = [*BOTH, "insertion_minus_deletion", "srg", "pixel_flipping", "aopc", "average_highest_confidence"]
    given = [maps(0), -maps(0), maps(1)]
    _, study = paid(judges, given)
    for i, m in enumerate(given):
        alone = metrics.create(name).score(detector(), images(), m, 1)
        rows = study.scores.query(f"method == 'm{i}' and metric == @name").sort_values("image")
        found = torch.tensor(rows["score"].to_numpy())
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)  # float32 forwards in other batches


def test_the_baseline_and_the_order_are_made_once(monkeypatch):
    made = {"blur": 0, "ranks": 0, "own": 0}
    blur, ranks = curve.rise_blur, curve._sorted

    def count(name, function):
        def counted(*args, **options):
            made[name] += 1
            return function(*args, **options)

        return counted

    monkeypatch.setattr(curve, "rise_blur", count("blur", blur))
    monkeypatch.setattr(curve, "_sorted", count("ranks", ranks))
    own = count("own", torch.zeros_like)
    judges = {n: n for n in (*BOTH, "insertion_minus_deletion", "srg", "aopc")}
    judges |= {"mine": metrics.create("deletion", baseline=own), "again": metrics.create("srg", baseline=own)}
    paid(judges, [maps(0), maps(1), maps(2)])
    assert made == {"blur": 1, "ranks": 3, "own": 1}


@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"steps": 2}, {"steps": 999}, {"preset": "xplique"}])
@pytest.mark.parametrize("name", ["insertion", "deletion", "insertion_minus_deletion", "srg", "pixel_flipping", "aopc"])
def test_the_cost_is_what_is_spent(name, options):
    model = detector()
    metric = metrics.create(name, **options)
    with model.ledger(N) as ledger:
        metric.score(model, images(), maps(0), 1)
    assert ledger.forwards.tolist() == [metric.cost((3, 16, 16))] * N


def test_two_names_of_one_colour_cost_what_is_promised():
    metric = metrics.create("insertion_minus_deletion", insertion_baseline="black", deletion_baseline=0.0)
    model = detector()
    with model.ledger(N) as ledger:
        metric.score(model, images(), maps(0), 1)
    assert ledger.forwards.tolist() == [metric.cost((3, 16, 16))] * N
    same = metrics.create("insertion_minus_deletion", insertion_baseline="mean")
    assert same.cost() == metric.cost() - 1 == metrics.create("srg").cost()


def test_noise_of_another_seed_is_another_baseline():
    judges = {str(s): metrics.create("deletion", baseline="noise", seed=s) for s in (0, 1)}
    cost, study = paid(judges, [maps(0)])
    assert cost == 3 + 2 * (STEPS - 1)
    one, other = (study.curves["m0", k][1] for k in judges)
    assert (one[:, -1] != other[:, -1]).all()


def test_a_thing_is_made_once_and_held():
    model = detector()
    todo = Evaluations(model, model.resolve(images(), 1))
    first = todo.once("key", object)
    assert todo.once("key", object) is first
    assert todo.once("other", object) is not first
    assert todo.once("none", lambda: None) is None
    assert todo.once("none", object) is None, "nothing is a thing too"

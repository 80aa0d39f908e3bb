"""Random logit: a linear network's weights, methods that see no class, and which classes are asked for."""

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics import similarity
from attriscope.metrics.randomization.random_logit import other_classes
from scipy import stats
from torch import nn

CLASSES = 7
ASKED = []


class Given(Attributor):
    """A method whose map is a ramp times a number of the class; it writes down what it was asked."""

    constant: int = -1

    def compute(self, inputs, target):
        ASKED.append(target.index[:, 0].tolist())
        maps = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(len(inputs), 1, 1, 1)
        maps[target.index[:, 0] == self.constant] = 1.0
        return Computed(maps, {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def linear(classes=CLASSES, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).eval()


def images(n=3, seed=0):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def metric(**options):
    return metrics.create("random_logit", **options)


@pytest.mark.parametrize(("how", "oracle"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
@pytest.mark.parametrize("absolute", [False, True])
def test_of_a_linear_network_s_gradient_it_is_the_weights_correlation(how, oracle, absolute):
    network, x, target = linear(), images(), [4, 0, 6]
    weights = network[1].weight.detach().double().numpy()
    weights = abs(weights) if absolute else weights
    made = attribution.create("gradient", network)
    found = metric(similarity=how, absolute=absolute, draws=4).score(made, x, target, curves=True)
    scores = network(x).detach()
    asked = other_classes(torch.tensor(target), CLASSES, 4, seed=0)
    for i, y in enumerate(target):
        expected = [oracle(weights[y], weights[other]).statistic for other in asked[i].tolist()]
        assert found.scores[i].item() == pytest.approx(sum(expected) / 4, abs=1e-12)
        others = [k for k in scores[i].argsort(descending=True).tolist() if k != y]
        for name, other in (("runner_up", others[0]), ("least_likely", others[-1])):
            assert found.details[name][i].item() == pytest.approx(
                oracle(weights[y], weights[other]).statistic, abs=1e-12
            )
    assert found.details["undefined"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("how", ["spearman", "pearson", "ssim", "hog"])
def test_a_method_that_sees_no_class_is_exactly_one(how):
    found = metric(similarity=how).score(attribution.create("edge", linear()), images(), [1, 2, 3], curves=True)
    assert found.scores.tolist() == [1, 1, 1]
    assert found.details["runner_up"].tolist() == found.details["least_likely"].tolist() == [1, 1, 1]


def test_two_softmax_probabilities_have_opposite_gradients():
    made = attribution.create("gradient", linear(2), output="probability")
    found = metric().score(made, images(), 0)
    torch.testing.assert_close(found, -torch.ones(3).double(), rtol=0, atol=1e-12)
    assert metric(absolute=True).score(made, images(), 0).tolist() == pytest.approx([1, 1, 1])


def test_options_are_those_of_the_similarity():
    network, x = linear(), images()
    made = attribution.create("gradient", network)
    (other,) = other_classes(torch.tensor([2]), CLASSES, 1, seed=5)[0].tolist()
    maps = [made.attribute(x, k) for k in (2, other)]
    for options in ({"smooth": 1.5}, {"absolute": True}, {"smooth": 1.0, "absolute": True}):
        for how in ("spearman", "ssim", "hog", "top_k"):
            found = metric(similarity=how, draws=1, seed=5, **options).score(made, x, 2)
            assert torch.equal(found, similarity(*maps, how, **options))


def test_other_classes_are_distinct_and_equally_likely():
    drawn = torch.stack([other_classes(torch.arange(5), 5, 3, seed=s) for s in range(2000)])
    assert (drawn != torch.arange(5)[:, None]).all()
    assert (drawn.sort(-1).values.diff(dim=-1) > 0).all()
    for own in range(5):
        for k in range(3):  # 2000 draws of 4 classes: five standard errors
            counts = drawn[:, own, k].bincount(minlength=5) / 2000
            assert counts[own] == 0
            assert ((counts - 0.25).abs() < 5 * (0.25 * 0.75 / 2000) ** 0.5).sum() == 4
    first, second = (other_classes(torch.tensor([0]), 1000, 3, seed=s) for s in (0, 1))
    assert not torch.equal(first, second)


def test_a_draw_depends_on_its_number_and_the_own_class_alone():
    own = torch.tensor([3, 900, 3])
    many = other_classes(own, 1000, 10, seed=2)
    assert torch.equal(many[:, :4], other_classes(own, 1000, 4, seed=2))
    assert torch.equal(many[1:2], other_classes(own[1:2], 1000, 10, seed=2))
    assert torch.equal(many[0], many[2])
    assert torch.equal((many[0] - 3) % 1000, (many[1] - 900) % 1000)


def test_a_few_classes_are_asked_for_once_and_two_leave_one():
    for classes, draws in ((2, 1), (3, 2), (7, 3)):
        ASKED.clear()
        model = attribution.Model(linear(classes), batch_size=1)
        metric().score(Given(model), images(1), 1)
        assert len(ASKED) == 1 + draws + 2
        assert len({tuple(a) for a in ASKED[1 : 1 + draws]} - {(1,)}) == draws
    assert metric().explanations == 5


def test_batches_are_full_and_targets_are_each_image_s_own():
    model = attribution.Model(linear(), batch_size=8)
    ASKED.clear()
    metric().score(Given(model), images(), [0, 1, 2])
    assert [len(a) for a in ASKED] == [3, 6, 6, 3]
    steps = torch.tensor(ASKED[1]).reshape(2, 3)
    assert torch.equal((steps - torch.tensor([0, 1, 2])) % CLASSES, (steps[:, :1]).expand(2, 3))


@pytest.mark.parametrize("size", [1, 5, 64])
def test_neither_the_batch_size_nor_mates_count(size):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    expected = metric().score(attribution.create("gradient", attribution.Model(network)), images(), [3, 1, 3])
    made = attribution.create("gradient", attribution.Model(network, batch_size=size))
    # neighbours in rank may change places by float32 rounding of the maps: one moves rho of 36 pixels by 6 / 36^3
    torch.testing.assert_close(metric().score(made, images(), [3, 1, 3]), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(metric().score(made, images()[1:2], [1]), expected[1:2], rtol=0, atol=1e-3)


def test_comparisons_without_a_value_are_counted_and_left_out():
    model = attribution.Model(linear())
    x = images(2)
    drawn = other_classes(torch.tensor([0]), CLASSES, 3, seed=0)[0].tolist()
    order = model.scores(x, 0, every=True).argsort(dim=1, descending=True)
    ends = [[k for k in row.tolist() if k != 0] for row in order]
    extra = [(e[0] == drawn[0]) + (e[-1] == drawn[0]) for e in ends]
    found = metric().score(Given(model, constant=drawn[0]), x, 0, curves=True)
    assert found.scores.tolist() == [1, 1]
    assert found.details["undefined"].tolist() == [1 + e for e in extra]
    with pytest.warns(RuntimeWarning, match="2 of 2 maps.*constant"):
        found = metric().score(Given(model, constant=0), x, 0, curves=True)
    assert found.scores.isnan().all()
    assert found.details["undefined"].tolist() == [5, 5]


def test_what_has_no_other_class_is_refused():
    x = images()
    with pytest.raises(ValueError, match=r"no callable"):
        metric().score(attribution.create("gradient", linear()), x, lambda out: out[:, 0])
    with pytest.raises(ValueError, match=r"one output has no other class"):
        metric().score(attribution.create("gradient", linear(1)), x, 0)
    dense = nn.Conv2d(1, 3, 1)
    with pytest.raises(ValueError, match=r"outputs of shape \(N, C\)"):
        metric().score(attribution.create("gradient", dense), x, (0, 1, 1))
    with pytest.raises(ValueError, match="made elsewhere"):
        metric().score(attribution.from_maps(torch.rand(3, 6, 6), linear(), name="mine"), x, 0)
    with pytest.raises(ValueError, match="choose one of spearman"):
        metric(similarity="mse")
    with pytest.raises(ValueError, match="at least 1"):
        metric(draws=0)
    with pytest.raises(ValueError, match="at least 0"):
        metric(smooth=-1.0)


def test_it_costs_a_forward_and_an_explanation_for_each_class():
    model = attribution.Model(linear())
    with model.ledger(3) as ledger:
        metric().score(attribution.create("gradient", model), images(), 1)
    assert ledger.forwards.tolist() == [1 + 6] * 3  # the gradient's own forwards: of the map and of five classes
    assert ledger.backwards.tolist() == [6] * 3


def test_a_study_has_its_details():
    study = metrics.compare(
        linear(), images(), [0, 1, 2], attributors=["gradient", "edge"], metrics=["random_logit"], progress=False
    )
    rows = study.scores.set_index("method")
    assert rows.loc["edge", "score"].tolist() == [1, 1, 1]
    assert {"runner_up", "least_likely", "undefined"} <= set(rows.columns)

"""Data randomization: what is trained, on what, how often; what a network that only memorised is told apart by."""

import copy
import pickle
import random
import re
import warnings

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics import similarity
from attriscope.metrics.randomization import data_randomization
from attriscope.metrics.randomization._networks import Randomized, stages
from attriscope.metrics.randomization.data_randomization import permuted
from torch import nn

SIDE = 6


def data(n=60, classes=3, seed=0):
    """Classes that are told apart by where a bar is, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = 0.3 * torch.rand(n, 1, SIDE, SIDE, generator=generator)
    for k in range(classes):
        images[labels == k, :, 2 * k : 2 * k + 2, 1:5] += 0.6
    return images, labels


def linear(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, classes))


def wide(classes=3):
    """A network with room for any labels, and with all that behaves otherwise while it is trained."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(128, classes),
    ).eval()


def learn(network, images, labels, steps=200):
    """Full batches of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def metric(given=None, **options):
    return metrics.create("data_randomization", data=data() if given is None else given, **options)


def quick(**options):
    """One that trains for one epoch and is content with it."""
    return metric(**{"epochs": 1, "accuracy": 0.0, **options})


@pytest.fixture
def fits(monkeypatch):
    """The trainings that took place: labels and seed of each."""
    found, fit = [], data_randomization.DataRandomization._fit

    def count(self, randomized, inputs, labels, seed):
        found.append((labels.clone(), seed))
        return fit(self, randomized, inputs, labels, seed)

    monkeypatch.setattr(data_randomization.DataRandomization, "_fit", count)
    return found


# -- what it says ------------------------------------------------------------------------------------------------------


def test_a_network_with_room_learns_permuted_labels_by_heart():
    images, labels = data()
    found = metric(rate=0.01).score(attribution.create("gradient", wide()), images[:3], labels[:3], curves=True)
    assert (found.details["fitted"] >= 0.95).all()
    assert (found.details["twin_fitted"] >= 0.95).all()
    assert found.scores.dtype == found.details["twin"].dtype == found.details["fitted"].dtype == torch.float64


def test_a_method_that_looks_at_no_network_is_like_itself():
    found = quick().score(attribution.create("edge", wide()), data()[0][:3], 1, curves=True)
    assert found.scores.tolist() == found.details["twin"].tolist() == [1, 1, 1]


def test_where_the_true_labels_decide_the_twin_is_alike_and_the_memoriser_is_not():
    """The gradient is the weights: those of true labels show the bars, in networks of any seed."""
    images, labels = data(300)
    network = learn(linear(), images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 37 numbers for each class cannot hold 300 permuted labels
        judge = metric((images, labels), rate=0.03, batch=16, epochs=20)
        found = judge.score(attribution.create("gradient", network), images[:6], labels[:6], curves=True)
    assert (found.details["twin"] > 0.7).all()
    assert (found.scores < 0.3).all()
    assert found.details["fitted"][0] < 0.7
    assert found.details["twin_fitted"][0] == 1


def test_digits():
    """Scikit-learn's 8 x 8 digits: a real network, and maps of digits that it has not seen."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(labels).long()
    (images, seen), (labels, own) = images.split(300)[:2], labels.split(300)[:2]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    learn(network, images, labels, 60)
    assert (network(seen).argmax(1) == own).float().mean() > 0.7
    judge = metric((images, labels), rate=3e-3)
    found = judge.score(attribution.create("gradient", network), seen[:100], own[:100], curves=True)
    assert found.details["fitted"][0] >= 0.95
    assert found.details["twin_fitted"][0] >= 0.95
    assert (
        found.scores.mean() < 0.2
    )  # 64 pixels that know nothing of each other: 0 with a deviation of 0.13 for one map
    assert found.details["twin"].mean() > 0.5


@pytest.mark.parametrize(
    "options", [{}, {"similarity": "ssim", "absolute": True}, {"similarity": "pearson", "smooth": 1.0}]
)
def test_maps_are_compared_as_the_options_say(options):
    images, labels = data()
    model = Model(wide(), mean=0.2, std=0.3)
    made = attribution.create("gradient", model)
    found = quick(**options).score(made, images[:4], labels[:4], curves=True)
    for name, seed, own in (("score", 0, permuted(labels, seed=0)), ("twin", 1, labels)):
        copied = Randomized(model)
        copied.draw(stages(model, images, 1)[0].modules, seed)
        quick()._fit(copied, images, own, seed)
        maps = [made.with_model(m).attribute(images[:4], labels[:4]) for m in (model, copied.model)]
        expected = similarity(*maps, **{"how": options.get("similarity", "spearman"), **without(options)})
        assert torch.equal(found.scores if name == "score" else found.details[name], expected)


@pytest.mark.parametrize("name", ["layer_gradient_x_activation", "deep_lift", "lrp_zplus", "lrp_gamma"])
def test_what_a_method_made_of_one_network_is_not_used_for_the_other(name):
    images, labels = data()
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    model = Model(conv)
    made = attribution.create(name, model)
    found = quick(epochs=3, rate=0.01).score(made, images[:4], labels[:4], curves=True)
    copied = Randomized(model)
    copied.draw(stages(model, images, 1)[0].modules, 1)
    quick(epochs=3, rate=0.01)._fit(copied, images, labels, 1)
    maps = [made.with_model(m).attribute(images[:4], labels[:4]) for m in (model, copied.model)]
    # float32 maps of 36 pixels: two neighbours in rank that change places move the correlation by 6 / 36^3
    torch.testing.assert_close(found.details["twin"], similarity(*maps), rtol=0, atol=1e-3, equal_nan=True)


def without(options):
    return {k: v for k, v in options.items() if k != "similarity"}


def test_constant_maps_have_no_score():
    class Flat(Attributor):
        def compute(self, inputs, target):
            return Computed(torch.ones(len(inputs), 1, *inputs.shape[2:]), {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    with pytest.warns(RuntimeWarning, match="2 of 2 maps.*the same everywhere"):
        found = quick().score(Flat(Model(wide())), data()[0][:2], 0)
    assert found.isnan().all()


# -- how it is trained -------------------------------------------------------------------------------------------------


def test_permuted_labels_are_the_same_labels_elsewhere():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    found = permuted(labels, seed=0)
    assert found.bincount().tolist() == [50, 30, 20]
    assert torch.equal(found, permuted(labels, seed=0))
    assert not torch.equal(found, permuted(labels, seed=1))
    # what agrees by chance is 0.38 of them, with a standard deviation below 0.05
    assert abs(float((found == labels).double().mean()) - 0.38) < 0.2


def test_one_network_has_permuted_labels_and_the_twin_the_true_ones(fits):
    images, labels = data()
    quick(seed=4).score(attribution.create("gradient", wide()), images[:2], 0)
    (first, seed), (second, other) = fits
    assert torch.equal(first, permuted(labels, seed=4))
    assert torch.equal(second, labels)
    assert (seed, other) == (4, 5)


def test_training_is_that_of_a_loop_over_even_batches():
    """Written out: normalised inputs, an order for each epoch, Adam, cross entropy, training mode."""
    images, labels = (t.double() if t.is_floating_point() else t for t in data(17))
    network = wide().double()
    network[4].p = 0.0  # dropout draws as it likes
    network[1].bias = None  # it has no gradient before a batch norm, and Adam would follow the signs of rounding
    copied = Randomized(Model(network, mean=0.2, std=0.5))
    metric(epochs=2, batch=8, rate=0.002, accuracy=1.0)._fit(copied, images, labels, 3)
    reference = copy.deepcopy(network)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.002)
    for epoch in range(2):
        reference.train()
        for part in data_randomization._order(3, 17, 1 + epoch).split((6, 6, 5)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference((images[part] - 0.2) / 0.5), labels[part]).backward()
            optimizer.step()
    for (name, tensor), other in zip(copied.network.state_dict().items(), reference.state_dict().values(), strict=True):
        # Adam divides small gradients by small ones
        torch.testing.assert_close(tensor, other, rtol=1e-6, atol=1e-6, msg=name)
    assert copied.network[2].num_batches_tracked == 6
    assert not torch.equal(copied.network[2].running_mean, network[2].running_mean)
    assert not any(p.requires_grad for p in copied.network.parameters())
    assert not any(m.training for m in copied.network.modules())


def test_batch_norms_count_their_batches_anew():
    network = wide()
    network[2].momentum = None  # the mean of all batches
    network[2].num_batches_tracked.fill_(10**6)
    images, labels = data()
    copied = Randomized(Model(network))
    copied.draw(["2"], 0)
    metric(epochs=1, rate=1e-9)._fit(copied, images, labels, 0)
    assert copied.network[2].num_batches_tracked == 1
    expected = network[1](images.flatten(1)).mean(0)  # one batch, and weights that hardly move
    torch.testing.assert_close(copied.network[2].running_mean, expected, rtol=0, atol=1e-5)


def test_training_ends_with_the_accuracy_that_is_asked_for():
    images, labels = data()
    reached = []
    for accuracy in (0.0, 0.8):
        copied = Randomized(Model(wide()))
        reached.append(metric(accuracy=accuracy, batch=8)._fit(copied, images, labels, 0))
        named = copied.network(images).argmax(1)
        assert reached[-1] == pytest.approx(float((named == labels).double().mean()), abs=1e-12)
        batches = copied.network[2].num_batches_tracked.item()
        assert batches == 8 if accuracy == 0 else 8 <= batches < 800
    assert reached[1] >= 0.8


def test_it_says_so_once_where_the_labels_are_not_learned():
    made = attribution.create("gradient", linear())
    judge, images = metric(epochs=1, rate=1e-6), data()[0][:2]
    with pytest.warns(RuntimeWarning) as told:
        judge.score(made, images, 0)
    texts = [str(w.message) for w in told]
    assert [re.search(r"of the (\w+) labels", t)[1] for t in texts] == ["permuted", "true"]
    assert all("more epochs" in t and "after 1 epochs" in t and "95%" in t for t in texts)
    judge.score(made, images, 0)  # the suite takes warnings for errors


def test_the_network_and_the_generators_are_left_as_they_are():
    network = wide().train()
    state, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    quick(epochs=2).score(attribution.create("gradient", network), data()[0][:2], 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_another_instance_finds_the_same_whatever_the_generators_hold():
    made, images = attribution.create("gradient", wide()), data()[0][:3]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(quick(epochs=3).score(made, images, 0, curves=True))
    assert torch.equal(found[0].scores, found[1].scores)
    assert torch.equal(found[0].details["twin"], found[1].details["twin"])
    other = quick(epochs=3, seed=7).score(made, images, 0)
    assert not torch.equal(other, found[0].scores)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_trained_whatever_the_caller_s_gradient_mode(mode):
    images, labels = data()
    reached = []
    for own in (torch.enable_grad, mode):
        with own():
            copied = Randomized(Model(wide()))
            reached.append(metric(epochs=2)._fit(copied, images, labels, 0))
        reached[-1] = reached[-1], copied.network[1].weight.tolist()
    assert reached[0] == reached[1]


def test_it_is_trained_once_for_each_network_and_again_when_that_has_changed(fits):
    model, images = Model(wide()), data()[0]
    made, judge = attribution.create("gradient", model), quick()
    first = judge.score(made, images[:4], 1)
    assert torch.equal(judge.score(made, images[:4], 1), first)
    judge.score(attribution.create("edge", model), images[4:6], 2)
    assert len(fits) == 2
    judge.score(attribution.create("gradient", Model(wide())), images[:4], 1)
    assert len(fits) == 4
    with torch.no_grad():
        model.network[1].weight.mul_(2)
    judge.score(made, images[:4], 1)
    assert len(fits) == 6
    again = pickle.loads(pickle.dumps(judge))
    assert again == judge
    again.score(made, images[:4], 1)
    assert len(fits) == 8


def test_what_is_kept_does_not_keep_the_model():
    import gc
    import weakref

    judge, model = quick(), Model(wide())
    judge.score(attribution.create("gradient", model), data()[0][:2], 1)
    assert len(judge._kept) == 1
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(judge._kept) == 0


def test_a_study_trains_once_for_all_blocks(fits):
    images, labels = data()
    study = metrics.compare(
        Model(wide()), images[:6], labels[:6], attributors=["gradient", "edge"], metrics=[quick()], block=2, progress=False
    )  # fmt: skip
    rows = study.scores.set_index("method")
    assert rows.loc["edge", "score"].tolist() == [1] * 6
    assert {"twin", "fitted", "twin_fitted"} <= set(rows.columns)
    assert len(fits) == 2


@pytest.mark.parametrize(("outputs", "activation"), [(1, "softmax"), (1, "sigmoid"), (2, "sigmoid")])
def test_sigmoids_are_trained_too(outputs, activation):
    images, labels = data(classes=2)
    made = attribution.create("gradient", Model(wide(outputs), activation=activation))
    found = metric((images, labels), rate=0.01).score(made, images[:2], 0, curves=True)
    assert (found.details["fitted"] >= 0.95).all()
    assert (found.details["twin_fitted"] >= 0.95).all()


def test_losses_are_those_of_the_activations():
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([0, 1])
    chosen = logits.log_softmax(1)[[0, 1], [0, 1]]
    torch.testing.assert_close(data_randomization._loss(logits, labels, "softmax"), -chosen.mean())
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    torch.testing.assert_close(
        data_randomization._loss(logits, labels, "sigmoid"), -(signs * logits).sigmoid().log().mean()
    )
    one = -torch.stack([(-logits[0, 0]).sigmoid().log(), logits[1, 0].sigmoid().log()]).mean()
    torch.testing.assert_close(data_randomization._loss(logits[:, :1], labels, "softmax"), one)


def test_accuracies_are_of_the_largest_logit_or_of_one_s_sign():
    many, labels = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 1.0, 0.5]]), torch.tensor([2, 0, 2])
    assert data_randomization._accuracy(many.__getitem__, labels) == 2 / 3
    one, labels = torch.tensor([[0.1], [-0.1], [0.4], [-3.0]]), torch.tensor([1, 0, 1, 1])
    assert data_randomization._accuracy(one.__getitem__, labels) == 3 / 4
    labels = torch.arange(600) % 2  # more than one slice
    assert data_randomization._accuracy(lambda part: labels[part, None] - 0.5, labels) == 1


def test_further_arguments_and_adapters_are_the_model_s():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x, scale):
            return {"other": x, "scores": self.inner(x) * scale}

    model = Model(Odd(), adapter="scores", forward={"scale": torch.tensor(2.0)})
    found = quick().score(attribution.create("gradient", model), data()[0][:2], 1)
    assert found.shape == (2,)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ((torch.rand(4, 1, 6, 6), [0, 1, 0, 1]), TypeError, "two tensors"),
        ((torch.rand(4, 1, 6, 6),), TypeError, "two tensors"),
        (torch.rand(4, 1, 6, 6), TypeError, "expected tuple"),
        ((torch.rand(4, 1, 6, 6), torch.tensor([0.0, 1, 0, 1])), ValueError, "number of each image's class"),
        ((torch.rand(4, 1, 6, 6), torch.tensor([True, False] * 2)), ValueError, "number of each image's class"),
        ((torch.rand(4, 1, 6, 6), torch.eye(4).long()), ValueError, "number of each image's class"),
        ((torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 0, 1])), ValueError, "for 4 labels"),
        ((torch.rand(4, 6, 6), torch.tensor([0, 1, 0, 1])), ValueError, r"\(M, C, H, W\)"),
        ((torch.rand(4, 1, 6, 6), torch.tensor([1, 1, 1, 1])), ValueError, "two classes at least"),
        ((torch.rand(4, 1, 6, 6), torch.tensor([-1, 1, 0, 1])), ValueError, "0 or more"),
    ],
)
def test_data_that_is_none_is_refused_at_once(given, error, text):
    with pytest.raises(error, match=text):
        metric(given)


def test_options_out_of_range_are_refused():
    for name, value in (("rate", 0.0), ("accuracy", 1.5), ("epochs", 0), ("batch", 0), ("smooth", -1.0), ("seed", -1)):
        with pytest.raises(ValueError, match=name):
            metric(**{name: value})


def test_what_cannot_be_trained_is_refused(fits):
    images, labels = data()
    cases = [
        (metrics.create("data_randomization"), wide(), r"pass data=\(images, labels\)"),
        (quick(), Model(lambda x: x.flatten(1)[:, :3], fingerprint="a"), "pass an nn.Module"),
        (quick(), Model(nn.Sequential(wide(), nn.Softmax(1)), activation="none"), "without its last softmax"),
        (quick(), linear(2), "class 2, and the network tells 2 apart"),
        (quick(), linear(1), "class 2, and the network tells 2 apart"),
        (quick(given=(2 * images, labels)), Model(wide()), "outside the model's bounds"),
        (quick(given=(torch.rand(4, 1, 7, 6), labels[:4])), wide(), "give them the same size"),
    ]
    for judge, network, text in cases:
        with pytest.raises(ValueError, match=text):
            judge.score(attribution.create("edge", network), images[:2], 0)
    with pytest.warns(RuntimeWarning, match="pass data="):
        study = metrics.compare(Model(wide()), images[:2], 0, attributors=["edge"], metrics=[cases[0][0]])
    assert len(study.failed) == 2
    assert all("pass data=" in why for why in study.failed.values())
    with pytest.raises(ValueError, match="made elsewhere"):
        quick().score(attribution.from_maps(torch.rand(2, 6, 6), wide(), name="mine"), images[:2], 0)
    with pytest.raises(ValueError, match=r"outputs are \(N, classes\)"):
        quick().score(attribution.create("edge", nn.Conv2d(1, 3, 1)), images[:2], (0, 1, 1))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x, scale):
            return self.inner(x) * scale

    model = Model(Scaled(), forward={"scale": torch.rand(2, 1)})
    with pytest.raises(ValueError, match="an entry for each image"):
        quick().score(attribution.create("edge", model), images[:2], 0)
    assert not fits


def test_data_is_part_of_what_a_metric_is_and_short_in_its_repr():
    images, labels = data()
    one, same = metric((images, labels)), metric((images.clone(), labels.clone()))
    assert one == same
    assert hash(one) == hash(same)
    assert one != metric((images, permuted(labels, seed=0)))
    assert metrics.create("label_randomization", **one.params) == one
    quick().score(attribution.create("gradient", wide()), images[:1], 0)
    assert set(one.params) == {
        "data", "similarity", "absolute", "smooth", "epochs", "accuracy", "batch", "rate", "seed"
    }  # fmt: skip
    assert repr(one) == "data_randomization(data=(a tensor of shape (60, 1, 6, 6), a tensor of shape (60,)))"
    told = metrics.describe("data_randomization")
    assert (told["cost"], told["explanations"], told["higher_is_better"]) == (0, 2, False)

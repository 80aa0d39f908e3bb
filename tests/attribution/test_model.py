"""What lies between an image and its scores: adapters, targets, normalisation, counting, batches, and the caller's network."""

import pickle
import random
import warnings
from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from attriscope.attribution.model import Model
from attriscope.attribution.targets import Target
from torch import nn
from torch.nn import functional

# float32 logits of order 1 through a handful of layers: a few ulp of 6e-8 each, summed in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
EXACT = {"rtol": 0, "atol": 0}
OUTPUTS = ("logit", "probability", "log_probability", "margin")


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, y[:, :1]),
        lambda y: {"logits": y, "features": y * 0},
        lambda y: {"aux": y * 0, "out": y},
        lambda y: {"only": y},
        lambda y: OrderedDict(loss=None, logits=y),
        lambda y: SimpleNamespace(logits=y, hidden_states=None),
    ],
    ids=["tensor", "tuple", "dict_logits", "dict_out", "dict_of_one", "ordered", "object"],
)
def test_scores_are_found_in_what_a_network_returns(networks, images, wrap):
    network, x = networks.cnn(), images()
    model = Model(lambda image: wrap(network(image)))
    torch.testing.assert_close(model.scores(x, 2), network(x)[:, 2].detach(), **CLOSE)


@pytest.mark.parametrize(("adapter", "pick"), [("aux", "aux"), (lambda out: out["aux"], "aux"), ("main", "main")])
def test_an_adapter_picks_the_tensor(networks, images, adapter, pick):
    network, x = networks.cnn(), images()
    model = Model(lambda image: {"main": network(image), "aux": -network(image)}, adapter=adapter)
    wanted = network(x)[:, 1] * (-1 if pick == "aux" else 1)
    torch.testing.assert_close(model.scores(x, 1), wanted.detach(), **CLOSE)


def test_an_index_adapter_picks_from_a_tuple(networks, images):
    network, x = networks.cnn(), images()
    model = Model(lambda image: (image, network(image)), adapter=1)
    torch.testing.assert_close(model.scores(x, 1), network(x)[:, 1].detach(), **CLOSE)


def test_an_adapter_that_finds_nothing_says_what_there_was(images):
    with pytest.raises(ValueError, match=r"logits.*\['a', 'b'\]"):
        Model(lambda x: {"a": x, "b": x}, adapter="logits").scores(images(), 0)


def test_raw_outputs_reach_a_callable_target(images):
    model = Model(lambda x: {"boxes": x.flatten(1), "n": 3}, adapter="raw")
    x = images()
    torch.testing.assert_close(model.scores(x, lambda out: out["boxes"][:, 0] * out["n"]), x[:, 0, 0, 0] * 3, **CLOSE)
    with pytest.raises(ValueError, match="callable"):
        model.scores(x, 0)


class Found(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


@pytest.mark.parametrize("kind", ["dict", "tuple", "list", "named"])
def test_raw_outputs_are_joined_over_batches(images, kind):
    wrap = {
        "dict": lambda a, b: {"a": a, "b": b},
        "tuple": lambda a, b: (a, b),
        "list": lambda a, b: [a, b],
        "named": Found,
    }[kind]
    x = images(5)
    whole = Model(lambda x: wrap(x.mean((1, 2, 3)), x.flatten(1)), adapter="raw", batch_size=8).outputs(x)
    parts = Model(lambda x: wrap(x.mean((1, 2, 3)), x.flatten(1)), adapter="raw", batch_size=2).outputs(x)
    assert type(parts) is type(whole)
    pairs = [(whole[k], parts[k]) for k in (whole if kind == "dict" else (0, 1))]
    assert len(parts) == len(whole)
    for one, other in pairs:
        torch.testing.assert_close(one, other, **EXACT)


def test_a_network_that_returns_no_tensor_is_named(images):
    with pytest.raises(TypeError, match=r"a str.*adapter"):
        Model(lambda x: "cat").scores(images(), 0)


def test_the_first_axis_must_be_the_batch(images):
    with pytest.raises(ValueError, match="first axis must be the batch"):
        Model(lambda x: x.mean((0, 2, 3))).scores(images(), 0)


# -- outputs and activations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_scores_against_the_definition(networks, images, output, activation):
    network, x = networks.cnn(), images(4)
    logits = network(x).detach()
    logits = logits.softmax(1) if activation == "none" else logits  # a network that ends in a softmax
    model = Model((lambda x: network(x).softmax(1)) if activation == "none" else network, activation=activation)
    target = torch.tensor([0, 4, 2, 2])
    rows = torch.arange(4)
    probability = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "none": logits}[activation][rows, target]
    others = torch.stack([torch.cat([row[:t], row[t + 1 :]]).max() for row, t in zip(logits, target, strict=True)])
    wanted = {
        "logit": logits[rows, target],
        "probability": probability,
        "log_probability": probability.log(),
        "margin": logits[rows, target] - others,
    }[output]
    torch.testing.assert_close(model.scores(x, target, output=output), wanted, **CLOSE)


@pytest.mark.parametrize("flat", [False, True])
def test_one_output_is_a_sigmoid(images, flat):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), *([nn.Flatten(0)] if flat else []))
    x = images()
    logit = network(x).detach().reshape(-1)
    model = Model(network)
    torch.testing.assert_close(model.scores(x), logit, **CLOSE)
    torch.testing.assert_close(model.scores(x, 0, output="probability"), logit.sigmoid(), **CLOSE)
    torch.testing.assert_close(model.scores(x, 0, output="log_probability"), logit.sigmoid().log(), **CLOSE)
    torch.testing.assert_close(model.scores(x, 0, output="margin"), logit, **CLOSE)
    with pytest.raises(ValueError, match="target 0 only"):
        model.scores(x, 1)


def test_log_probability_of_a_hopeless_class_is_finite():
    model = Model(lambda x: x.flatten(1)[:, :2] * torch.tensor([0.0, 1e4]))
    x = torch.ones(1, 3, 2, 2)
    assert float(model.scores(x, 0, output="log_probability")) == -1e4  # exact in float32; log(exp(-1e4)) is -inf
    certain = Model(lambda x: x.flatten(1)[:, :2] * torch.tensor([0.0, 1.0]), activation="none")
    assert bool(certain.scores(x, 0, output="log_probability").isfinite())


def test_an_unknown_output_is_refused(networks, images):
    for call in (Model(networks.cnn()).scores, Model(networks.cnn()).gradients):
        with pytest.raises(ValueError, match=r"output='prob': choose one of .*probability"):
            call(images(), 0, output="prob")


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [[1, 0, 4], (1, 0, 4), torch.tensor([1, 0, 4]), torch.tensor([1, 0, 4], dtype=torch.int32), np.array([1, 0, 4])],
    ids=["list", "tuple", "long", "int32", "numpy"],
)
def test_one_target_for_each_image(networks, images, target):
    network, x = networks.cnn(), images(3)
    torch.testing.assert_close(Model(network).scores(x, target), network(x).detach()[range(3), [1, 0, 4]], **CLOSE)


@pytest.mark.parametrize("target", [3, torch.tensor(3), np.int64(3)], ids=["int", "tensor", "numpy"])
def test_one_target_for_all_images(networks, images, target):
    network, x = networks.cnn(), images(3)
    torch.testing.assert_close(Model(network).scores(x, target), network(x).detach()[:, 3], **CLOSE)


def test_a_dense_output_takes_index_tuples(images):
    network = nn.Conv2d(3, 4, 3, padding=1)
    x = images(2, height=6, width=9)
    out = network(x).detach()
    model = Model(network)
    torch.testing.assert_close(model.scores(x, (3, 1, 8)), out[:, 3, 1, 8], **CLOSE)
    places = [(3, 1, 8), (0, 5, 2)]
    wanted = torch.stack([out[0, 3, 1, 8], out[1, 0, 5, 2]])
    torch.testing.assert_close(model.scores(x, places), wanted, **CLOSE)
    torch.testing.assert_close(model.scores(x, torch.tensor(places)), wanted, **CLOSE)
    torch.testing.assert_close(
        model.scores(x, (3, 1, 8), output="probability"), out.softmax(1)[:, 3, 1, 8], **CLOSE
    )  # over the classes of that place


def test_an_index_is_checked_against_the_output_of_these_images():
    """A fully convolutional network's output changes with its input: what was seen last must not count for other sizes."""
    model = Model(nn.Conv2d(3, 2, 3, padding=1))
    for size in (8, 16, 8):
        x = torch.rand(1, 3, size, size)
        model.scores(x, (0, size - 1, size - 1))
        with pytest.raises(ValueError, match="out of range"):
            model.scores(x, (0, 3, size))


def test_a_callable_target_sees_the_outputs(networks, images):
    network, x = networks.cnn(), images()
    found = Model(network).scores(x, lambda out: out[:, 0] - out[:, 1] ** 2)
    out = network(x).detach()
    torch.testing.assert_close(found, out[:, 0] - out[:, 1] ** 2, **CLOSE)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Model(network).scores(x, lambda out: out)


def test_a_callable_with_take_follows_its_rows(networks, images):
    class Own:
        def __init__(self, classes):
            self.classes = classes

        def take(self, rows):
            return Own(self.classes[rows])

        def __call__(self, out):
            return out[torch.arange(len(out)), self.classes]

    network, x, classes = networks.cnn(), images(5), torch.tensor([0, 1, 2, 3, 4])
    for size in (1, 2, 5):
        found = Model(network, batch_size=size).scores(x, Own(classes))
        torch.testing.assert_close(found, network(x).detach()[range(5), classes], **CLOSE)


def test_none_is_the_argmax_and_is_frozen(networks, images):
    network, x = networks.cnn(), images(4)
    model = Model(network)
    frozen = model.resolve(x)
    assert frozen.value().tolist() == network(x).argmax(1).tolist()
    other = images(4, seed=9)
    torch.testing.assert_close(model.scores(other, frozen), network(other).detach()[range(4), frozen.value()], **CLOSE)
    assert model.forwards == 4  # what names the class is not counted


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (5, ValueError, r"target 5 is out of range.*0\.\.4"),
        (-1, ValueError, "out of range"),
        ([0, 1, 7], ValueError, "target 7 is out of range"),
        ([0, 1], ValueError, "2 targets for 3 images"),
        (torch.tensor([1]), ValueError, "1 targets for 3 images"),
        (1.5, ValueError, "no target"),
        ([0.9, 1.2, 2.5], ValueError, None),
        (np.array([0.9, 1.2, 2.5]), ValueError, None),
        (torch.tensor([1.0, 2.0, 3.0]), ValueError, r"target\.long\(\)"),
        (torch.tensor([True, False, True]), ValueError, r"target\.long\(\)"),
        ([(0, 1), (0, 2), (0, 3)], ValueError, "index of 1 numbers"),
        ([0, (1, 2), 3], ValueError, None),
        ([], ValueError, None),
        ("cat", ValueError, None),
    ],
    ids=[
        "high",
        "negative",
        "one_high",
        "few",
        "few_long",
        "float",
        "floats",
        "numpy_floats",
        "float_tensor",
        "bool",
        "tuples",
        "ragged",
        "empty",
        "text",
    ],
)
def test_a_wrong_target_gets_a_clear_error(networks, images, target, error, message):
    with pytest.raises(error, match=message):
        Model(networks.cnn()).scores(images(3), target)


def test_a_class_number_on_a_dense_output_is_refused(images):
    with pytest.raises(ValueError, match="index tuple"):
        Model(nn.Conv2d(3, 4, 3)).scores(images(), 2)
    with pytest.raises(ValueError, match="index tuple or a callable"):
        Model(nn.Conv2d(3, 4, 3)).scores(images())


# -- normalisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["tuple", "tensor", "number"])
def test_normalisation_equals_doing_it_by_hand(networks, images, given):
    mean, std = {
        "tuple": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        "tensor": (torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])),
        "number": (0.5, 0.2),
    }[given]
    network, x = networks.cnn(), images()
    hand = (x - torch.as_tensor(mean).reshape(1, -1, 1, 1)) / torch.as_tensor(std).reshape(1, -1, 1, 1)
    torch.testing.assert_close(Model(network, mean=mean, std=std).outputs(x), network(hand).detach(), **CLOSE)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradients_equal_autograd_through_the_normalisation(networks, images, output, fast):
    network, x = networks.cnn(), images(4)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).reshape(1, -1, 1, 1), torch.tensor([0.2, 0.3, 0.25]).reshape(1, -1, 1, 1)
    leaf = x.clone().requires_grad_()
    logits = network((leaf - mean) / std)
    chosen = logits[:, 2]
    score = {
        "logit": chosen,
        "probability": logits.softmax(1)[:, 2],
        "log_probability": logits.log_softmax(1)[:, 2],
        "margin": chosen - logits[:, [0, 1, 3, 4]].amax(1),
    }[output]
    (wanted,) = torch.autograd.grad(score.sum(), leaf)
    model = Model(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), fast=fast)
    scores, found = model.gradients(x, 2, output=output)
    torch.testing.assert_close(scores, score.detach(), **CLOSE)
    # gradients go through a folded batch norm: products of rounded weights, relative to the largest gradient
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    assert not found.requires_grad
    assert not scores.requires_grad


@pytest.mark.parametrize(("mean", "std"), [((0.4, 0.5, 0.6), None), (None, (0.2, 0.3, 0.4))])
def test_a_mean_of_three_channels_does_not_make_three_of_one(networks, images, mean, std):
    """A grey image would be broadcast to three channels and explained as if it had been a colour one."""
    for call in (Model(networks.cnn(), mean=mean, std=std).scores, Model(networks.cnn(), mean=mean, std=std).gradients):
        with pytest.raises(ValueError, match=r"channel|mean|std"):
            call(images(2, 1), 0)


def test_tables_and_tokens_normalise_their_own_axis():
    generator = torch.Generator().manual_seed(0)
    table, tokens = torch.rand(3, 4, generator=generator), torch.rand(3, 5, 4, generator=generator)
    mean, std = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0)
    hand = lambda x: (x - torch.tensor(mean)) / torch.tensor(std)  # noqa: E731
    found = Model(nn.Identity(), mean=mean, std=std, kind="table").outputs(table)
    torch.testing.assert_close(found, hand(table), **CLOSE)
    found = Model(nn.Flatten(), mean=mean, std=std, kind="tokens").outputs(tokens)
    torch.testing.assert_close(found, hand(tokens).flatten(1), **CLOSE)


def test_float64_stays_float64(networks, images):
    network = networks.cnn().double()
    x = images(dtype=torch.float64)
    model = Model(network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    hand = (x - torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).reshape(1, 3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.25], dtype=torch.float64
    ).reshape(1, 3, 1, 1)
    found = model.scores(x, 0)
    assert found.dtype == torch.float64
    # float64 all the way through: a mean or a folded weight that went through float32 would show at 1e-8
    torch.testing.assert_close(found, network(hand)[:, 0].detach(), rtol=1e-11, atol=1e-12)
    assert model.gradients(x, 0)[1].dtype == torch.float64


# -- counting ----------------------------------------------------------------------------------------------------------


def test_forwards_and_backwards_are_counted_per_image(networks, images):
    model = Model(networks.cnn(), batch_size=2)
    x = images(5)
    frozen = model.resolve(x, 0)
    assert (model.forwards, model.backwards) == (0, 0)
    with model.ledger(5) as ledger:
        model.scores(x, frozen)
        rows = torch.tensor([0, 3, 3, 4])
        model.scores(x[rows], frozen.take(rows))
        model.gradients(x[:2], frozen.take(slice(0, 2)))
        with model.uncounted():
            model.scores(x, frozen)
    model.scores(x, frozen)
    assert ledger.forwards.tolist() == [3, 2, 1, 3, 2]
    assert ledger.backwards.tolist() == [1, 1, 0, 0, 0]
    assert (model.forwards, model.backwards) == (16, 2)


def test_ledgers_nest(networks, images):
    """A method inside a method, on the same model, opens one inside the other's."""
    model, x = Model(networks.cnn()), images(3)
    with model.ledger(3) as outer:
        model.scores(x, 0)
        with model.ledger(3) as inner:
            model.scores(x, 0)
        model.scores(x, 0)
    assert inner.forwards.tolist() == [1, 1, 1]
    assert outer.forwards.tolist() == [3, 3, 3]


def test_ledgers_nest_for_one_image(networks, images):
    model, x = Model(networks.cnn()), images(1)
    frozen = model.resolve(x, 0)
    with model.ledger(1) as outer:
        with model.ledger(1) as inner:
            pass
        model.scores(x, frozen)
    assert inner.forwards.tolist() == [0]
    assert outer.forwards.tolist() == [1]


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 7, 64])
def test_results_do_not_depend_on_the_batch_size(networks, images, size):
    network, x = networks.cnn(), images(20)
    target = torch.arange(20) % 5
    reference = Model(network, batch_size=20)
    model = Model(network, batch_size=size)
    for _ in range(3):  # with None the size is being learnt
        torch.testing.assert_close(model.scores(x, target), reference.scores(x, target), **CLOSE)
        for found, wanted in zip(model.gradients(x, target), reference.gradients(x, target), strict=True):
            torch.testing.assert_close(found, wanted, **CLOSE)
        torch.testing.assert_close(model.outputs(x), reference.outputs(x), **CLOSE)


def test_a_fixed_batch_size_is_the_largest_forward(images):
    seen = []

    def network(x):
        seen.append(len(x))
        return x.flatten(1)[:, :3]

    model = Model(network, batch_size=3)
    model.scores(images(8), 0)
    assert max(seen) == 3
    assert model.batch() == 3


def test_a_measured_batch_size_settles(networks, images):
    model, x = Model(networks.linear(3, 8, 8)), images(64)
    frozen = model.resolve(x, 0)
    for _ in range(200):
        model.scores(x, frozen)
        if model._paces["forward"].settled:
            break
    assert model._paces["forward"].settled is not None or model.batch() > 64  # more than 64 are never in one call here


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: you tried")],
)
@pytest.mark.parametrize("size", [None, 16])
def test_out_of_memory_halves_the_batch(images, limit, error, size):
    failures = []

    class Small(nn.Module):
        def forward(self, x):
            if len(x) > limit:
                failures.append(len(x))
                raise error
            return x.flatten(1)[:, :3]

    x = images(11)
    model = Model(Small(), batch_size=size)
    torch.testing.assert_close(model.scores(x, 1), x.flatten(1)[:, 1], **EXACT)
    assert model.gradients(x, 1)[1].shape == x.shape
    assert model.batch() <= limit
    assert (
        len(failures) <= 12
    )  # five halvings each way and the first look; taking one off at a time would be 20 and more
    assert model.forwards == 22  # what did not fit is not counted


def test_out_of_memory_in_the_backward_pass_halves_the_batch(images):
    class Dear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            if len(g) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return g * 2

    x = images(7)
    scores, gradients = Model(lambda x: Dear.apply(x).flatten(1)[:, :3], batch_size=8).gradients(x, 0)
    torch.testing.assert_close(scores, 2 * x[:, 0, 0, 0], **EXACT)
    assert float(gradients.sum()) == 14


def test_other_errors_are_not_swallowed(images):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Model(Broken()).scores(images(), 0)


def test_a_failed_first_call_can_be_made_again(images):
    calls = []

    def network(x):
        calls.append(len(x))
        if len(calls) == 1:
            raise RuntimeError("the cable fell out")
        return x.flatten(1)[:, :3]

    model, x = Model(network), images()
    with pytest.raises(RuntimeError, match="cable"):
        model.scores(x, 0)
    torch.testing.assert_close(model.scores(x, 0), x[:, 0, 0, 0], **EXACT)


# -- the caller's network ----------------------------------------------------------------------------------------------


def _everything(model, x):
    model.scores(x, 0)
    model.scores(x, output="probability")
    model.gradients(x, [0, 1, 2][: len(x)])
    model.outputs(x)
    model.layers(x)
    layer = next(c.name for c in model.layers() if c.type in {"Conv2d", "ReLU", "Sequential"})
    model.activations(x, layer)
    trunk, head = model.split(layer)
    head.gradients(trunk.outputs(x), 0)


@pytest.mark.parametrize("name", ["cnn", "resnet", "branching", "locked", "noisy_in_training"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_the_callers_network_is_left_alone(networks, images, untouched, name, training, fast):  # noqa: PLR0917
    network = getattr(networks, name)().train(training)
    first = next(iter(network.parameters()))
    first.grad = torch.ones_like(first)
    first.requires_grad_(not training)
    list(network.modules())[-1].eval()  # modes are per submodule
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    state, x = untouched(network), images()
    copy = x.clone()
    _everything(Model(network, fast=fast), x)
    state.check()
    assert torch.equal(x, copy)


@pytest.mark.parametrize("name", ["cnn", "locked"])
def test_the_callers_network_is_left_alone_after_an_exception(networks, images, untouched, name):
    network = getattr(networks, name)().train()
    state = untouched(network)
    model = Model(network)

    def fail(out):
        raise KeyError("my own mistake")

    for call in (model.scores, model.gradients):
        with pytest.raises(KeyError):
            call(images(), fail)
    with pytest.raises(RuntimeError):
        model.scores(images(channels=2), 0)  # the first convolution takes three
    state.check()
    assert model._ledgers == []


@pytest.mark.parametrize("start", ["overwriting", "inplace_relu"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_network_that_writes_into_its_input_does_not_write_into_the_images(networks, images, start, fast):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(192, 3)

        def forward(self, x):
            return self.fc(self.relu(x).flatten(1))

    network = networks.overwriting() if start == "overwriting" else Own()
    x = images() - 0.5
    copy = x.clone()
    wanted = network(x.clone())[:, 0].detach()
    model = Model(network, bounds=None, fast=fast)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether the fast copy is used is not the question here
        found = model.scores(x, 0)
        again = model.scores(x, 0)
        gradients = model.gradients(x, 0)[1]
    assert torch.equal(x, copy)
    torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(again, wanted, **CLOSE)
    leaf = copy.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf * 1)[:, 0].sum(), leaf)
    torch.testing.assert_close(gradients, expected, **CLOSE)


def test_a_training_network_is_run_in_evaluation_mode(networks, images):
    network, x = networks.noisy_in_training(), images(4)
    wanted = network(x).detach()
    for fast in (True, False):
        model = Model(network.train(), fast=fast)
        torch.testing.assert_close(model.outputs(x), wanted, **CLOSE)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network.eval()(leaf)[:, 0].sum(), leaf)
        torch.testing.assert_close(model.gradients(x, 0)[1], gradient, **CLOSE)


# -- the fast copy -----------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        import importlib.util
        from pathlib import Path

        spec = importlib.util.spec_from_file_location("networks_for_names", Path(__file__).with_name("networks.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        metafunc.parametrize("case", list(module.CASES))


def test_the_fast_copy_equals_the_network(networks, images, case):
    network = networks.case(case).double()
    x = images(3, dtype=torch.float64)
    model = Model(network)  # a warning that it differs is an error here
    wanted = network(x).detach()
    # float64: what is left is rounding; a batch norm folded wrongly, or through float32, is at least 1e-8 away
    torch.testing.assert_close(model.outputs(x), wanted, rtol=1e-10, atol=1e-11)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(model.gradients(x, 1)[1], gradient, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model.outputs(x), wanted, rtol=1e-10, atol=1e-11)  # after a gradient as well
    torch.testing.assert_close(
        model.outputs(images(2, height=8, width=8, seed=5, dtype=torch.float64)),
        network(images(2, seed=5, dtype=torch.float64)).detach(),
        rtol=1e-10,
        atol=1e-11,
    )


def test_what_can_be_folded_is_folded(networks, images, case):
    model = Model(networks.case(case))
    model.outputs(images())
    left = [m for m in model._engines[0].modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if case in networks.FOLDED:
        assert model._engines[0] is not model._twin, model.notes
        assert not left
        assert "batch_norm" not in getattr(model._engines[0], "code", "")


def test_fast_false_forbids_the_copy(networks, images):
    model = Model(networks.cnn(), fast=False)
    model.scores(images(), 0)
    assert model._engines == (model._twin, model._twin)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model._engines[0].modules()) == 2


@pytest.mark.parametrize("wrong", ["forward", "gradient", "nan", "raises"])
def test_a_fast_copy_that_differs_is_dropped(networks, images, monkeypatch, wrong):
    from attriscope.attribution import _lean

    network, x = networks.cnn(), images()
    wanted = network(x)[:, 0].detach()

    class Off(nn.Module):
        def forward(self, x):
            return network(x) * (float("nan") if wrong == "nan" else 1.01)

    def lean(twin, *given):
        if wrong == "raises":
            raise RuntimeError("no")
        return (network if wrong == "gradient" else Off()), (network if wrong == "forward" else Off()), None

    monkeypatch.setattr(_lean, "lean", lean)
    model = Model(network)
    if wrong == "raises":
        found = model.scores(x, 0)
        assert any("no fast copy" in n for n in model.notes)
    else:
        with pytest.warns(RuntimeWarning, match="fast copy of the network differs"):
            found = model.scores(x, 0)
    torch.testing.assert_close(found, wanted, **CLOSE)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(
        model.gradients(x, 0)[1], torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)[0], **CLOSE
    )


def test_a_class_that_is_ruled_out_is_no_difference(networks, images):
    """Minus infinity is what a masked class gets; the copy has it as well."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = networks.cnn()
            self.register_buffer("mask", torch.tensor([0, 0, 0, 0, -torch.inf]))

        def forward(self, x):
            return self.network(x) + self.mask

    model = Model(Masked())
    model.scores(images(), 0)
    assert model._engines[0] is not model._twin


def test_a_linear_layer_over_tokens_keeps_its_batch_norm():
    """BatchNorm1d on (N, T, D) normalises T, not what the linear layer puts out: nothing to fold, even where T = D."""
    network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 2)).eval()
    network[1].running_mean.copy_(torch.arange(6.0))
    x = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Model(network, kind="tokens").outputs(x), network(x).detach(), **CLOSE)


@pytest.mark.parametrize("name", ["branching", "locked", "statement", "optional", "cached"])
@pytest.mark.parametrize("fast", [True, False])
def test_networks_that_are_hard_to_copy_are_right(networks, images, name, fast):
    network, x = getattr(networks, name)(), images()
    wanted = network(x).detach()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(getattr(networks, name)()(leaf)[:, 1].sum(), leaf)
    model = Model(network, fast=fast)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the copy may be refused
        torch.testing.assert_close(model.outputs(x), wanted, **CLOSE)
        torch.testing.assert_close(model.gradients(x, 1)[1], gradient, **CLOSE)


def test_what_a_network_keeps_for_later_serves_gradients_too(networks, images):
    """A table made on a first call in inference mode must not break the gradients that come after."""
    network, x = networks.cached(), images()
    model = Model(network, fast=False)
    model.scores(x, 0)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(networks.cached()(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(model.gradients(x, 0)[1], gradient, **CLOSE)


# -- renewal -----------------------------------------------------------------------------------------------------------


def _step(network):
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def _load(network):
    network.load_state_dict({k: v * 0.7 if v.is_floating_point() else v for k, v in network.state_dict().items()})


def _data(network):
    network[0].weight.data.copy_(network[0].weight.data * 1.3)


def _data_permuted(network):
    network[0].weight.data.copy_(network[0].weight.data.flip(0))


def _replaced(network):
    network[0] = type(network[0])(3, 4, 3, padding=1)


def _parameter(network):
    network[0].weight = nn.Parameter(network[0].weight.detach() * 1.5)


def _buffer(network):
    network[1].running_mean.add_(1)


def _buffer_data(network):
    network[1].running_var.data.mul_(3)


@pytest.mark.parametrize("change", [_step, _load, _data, _data_permuted, _replaced, _parameter, _buffer, _buffer_data])
@pytest.mark.parametrize("call", ["scores", "gradients", "outputs", "activations", "split"])
def test_a_network_that_changed_is_explained_as_it_is_now(networks, images, change, call):
    network, x = networks.cnn(), images()
    with torch.no_grad():  # sums are exact, so that a permutation changes none of them
        network[0].weight.copy_((network[0].weight * 64).round() / 64)
    model = Model(network)
    run = {
        "scores": lambda m: m.scores(x, 0),
        "gradients": lambda m: m.gradients(x, 0)[1],
        "outputs": lambda m: m.outputs(x),
        "activations": lambda m: m.activations(x, "2"),
        "split": lambda m: m.split("2")[1].outputs(m.split("2")[0].outputs(x)),
    }[call]
    before = run(model)
    change(network)
    network.eval()
    wanted = run(Model(network, fast=False))
    assert not torch.allclose(before, wanted, rtol=1e-3, atol=1e-4)  # the change matters
    torch.testing.assert_close(run(model), wanted, **CLOSE)


@pytest.mark.parametrize("channels", [40, 192, 300])
def test_weights_that_change_places_are_noticed(images, channels):
    """Through `.data`, which moves no version, and with sums that are exact: only the order tells."""
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten()
    ).eval()
    x = images()
    with torch.no_grad():
        network[0].weight.copy_((network[0].weight * 64).round() / 64)
    for part in (slice(0, channels // 2), slice(channels - 5, channels)):
        model = Model(network)
        model.outputs(x)
        network[0].weight.data[part] = network[0].weight.data[part].flip(0).clone()
        torch.testing.assert_close(model.outputs(x), network(x).detach(), **CLOSE)


def test_an_unchanged_network_keeps_its_copy(networks, images):
    model = Model(networks.cnn())
    model.scores(images(), 0)
    engines = model._engines
    model.scores(images(), 0)
    assert model._engines is engines


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_of_the_callers_are_called(networks, images):
    network, seen = networks.cnn(), []
    network[1].register_forward_hook(lambda *_: seen.append(1))  # of a layer that a fast copy would not have
    model = Model(network)
    model.scores(images(), 0)
    assert seen
    assert any("hooks" in n for n in model.notes)


def test_a_hook_that_changes_the_output_counts(networks, images):
    network, x = networks.cnn(), images()
    network[0].register_forward_hook(lambda m, i, o: o * 0.5)
    torch.testing.assert_close(Model(network).outputs(x), network(x).detach(), **CLOSE)


def test_a_hook_that_is_a_method_is_called_on_its_own_object(networks, images):
    class Recorder:
        calls = 0

        def __call__(self, module, inputs, output):
            self.calls += 1

        def method(self, module, inputs, output):
            self.calls += 1

    network, one, two = networks.cnn(), Recorder(), Recorder()
    network[1].register_forward_hook(one.method)
    network[2].register_forward_hook(two)
    Model(network).scores(images(), 0)
    assert one.calls
    assert two.calls


def test_a_hook_set_after_the_first_call_counts(networks, images):
    network, x = networks.cnn(), images()
    model = Model(network)
    model.scores(x, 0)
    handle = network[0].register_forward_hook(lambda m, i, o: o * 0.5)
    torch.testing.assert_close(model.scores(x, 0), network(x)[:, 0].detach(), **CLOSE)
    handle.remove()
    torch.testing.assert_close(model.scores(x, 0), network(x)[:, 0].detach(), **CLOSE)


# -- callables, batch mates, pickles, fingerprints ---------------------------------------------------------------------


def test_a_bare_callable_has_scores_gradients_and_no_layers(networks, images):
    network, x = networks.cnn(), images()
    model = Model(lambda x: network(x))
    torch.testing.assert_close(model.gradients(x, 0)[1], Model(network).gradients(x, 0)[1], **CLOSE)
    assert all(p.grad is None for p in network.parameters())
    for call in (model.layers, model.auto_layer, lambda x: model.split("0"), lambda x: model.activations(x, "0")):
        with pytest.raises(ValueError, match="bare callable has no layers"):
            call(x)


@pytest.mark.parametrize("how", ["numpy", "detached", "live_parameters"])
def test_a_callable_that_autograd_cannot_see_through_is_named(networks, images, how):
    network = networks.linear(3, 8, 8)
    run = {
        "numpy": lambda x: torch.from_numpy(x.detach().numpy().reshape(len(x), -1)[:, :3].copy()),
        "detached": lambda x: network(x).detach(),
        "live_parameters": lambda x: network(x.detach()),  # requires a gradient, but not the input's
    }[how]
    model = Model(run)
    assert model.scores(images(), 0).shape == (3,)
    with pytest.raises(ValueError, match="autograd"):
        model.gradients(images(), 0)
    assert model.differentiable is False


def test_batch_mates_that_matter_are_warned_of(images):
    with pytest.warns(RuntimeWarning, match="images beside it"):
        Model(lambda x: (x - x.mean(0, keepdim=True)).flatten(1)[:, :3]).scores(images(), 0)


def test_a_network_that_draws_is_warned_of(images):
    state = torch.get_rng_state()
    with pytest.warns(RuntimeWarning, match="from call to call"):
        # 192 outputs: of three, two calls would drop the same once in eight
        Model(lambda x: functional.dropout(x, 0.5, training=True).flatten(1)).scores(images(), 0)
    assert torch.equal(torch.get_rng_state(), state)  # and yet the caller's generator is as it was


def test_pickle_round_trip(networks, images):
    model = Model(networks.cnn(), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3, batch_size=2, activation="sigmoid")
    x = images()
    wanted = model.scores(x, 1, output="probability")
    for other in (pickle.loads(pickle.dumps(model)), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))):
        torch.testing.assert_close(other.scores(x, 1, output="probability"), wanted, **EXACT)
        assert other.fingerprint == model.fingerprint
        assert other.batch_size == 2
        assert other.forwards == 3


def test_a_head_can_be_sent_to_another_process():
    """Activations of any rank still go into it."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.Linear(64, 4), nn.Flatten(), nn.Linear(12, 2))
    trunk, head = Model(network).split("1")
    activation = trunk.outputs(torch.rand(3, 3, 8, 8, generator=generator))
    assert activation.ndim == 3
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(head)).scores(activation, 0), head.scores(activation, 0), **CLOSE
    )


def test_fingerprints_tell_weights_and_preprocessing_apart(networks):
    print_of = lambda **more: Model(networks.cnn(), **more).fingerprint  # noqa: E731
    assert print_of() == print_of()
    assert (
        len(
            {
                print_of(),
                print_of(mean=(0.5,) * 3),
                print_of(mean=(0.4,) * 3),
                print_of(bounds=None),
                print_of(activation="none"),
                Model(networks.cnn(classes=4)).fingerprint,
            }
        )
        == 6
    )
    network = networks.cnn()
    before = Model(network).fingerprint
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] += 1e-3
    assert Model(network).fingerprint != before
    network = networks.cnn()
    network[1].running_mean[0] += 1e-3
    assert Model(network).fingerprint != before
    assert Model(networks.cnn(), batch_size=3, fast=False).fingerprint == before  # how it is run changes nothing


class Switched(nn.Module):
    """What `forward` does is told by attributes, which no `state_dict` holds; it counts its calls."""

    def __init__(self, **own):
        super().__init__()
        self.head = nn.Linear(192, 3)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.flag, self.calls, self.seen, self._private = False, 0, None, 0
        self.__dict__.update(own)

    def forward(self, x):
        self.calls += 1
        self.seen = x.shape
        return self.head(x.flatten(1)) * (10 if self.flag else 1)


@pytest.mark.parametrize(
    "own",
    [
        {"flag": True}, {"flag": 0}, {"flag": None}, {"flag": 1e-3}, {"flag": "no"}, {"flag": (1, 2)}, {"flag": [1, 3]},
        {"flag": {"a": [1]}}, {"flag": {"a": [2]}}, {"flag": np.int64(5)}, {"more": 0},
    ],
)  # fmt: skip
def test_fingerprints_hold_the_plain_attributes_of_every_module(own):
    assert Model(nn.Sequential(Switched(**own))).fingerprint != Model(nn.Sequential(Switched())).fingerprint


def test_fingerprints_hold_numbers_of_numpy():
    one, two = (Model(Switched(flag=np.int64(v))).fingerprint for v in (5, 6))
    assert one != two


def test_fingerprints_do_not_change_by_order_mode_objects_or_use(images):
    cycle = [1]
    cycle.append(cycle)
    before = Model(Switched(a=1, b=2)).fingerprint
    for own in ({"b": 2, "a": 1}, {"a": 1, "b": 2, "some": object()}, {"a": 1, "b": 2, "_private": 9},
                {"a": 1, "b": 2, "cycle": cycle}):  # fmt: skip
        assert Model(Switched(**own)).fingerprint == before
    network = Switched(a=1, b=2)
    assert Model(network.train()).fingerprint == Model(network.eval()).fingerprint == before
    for fast in (True, False):
        model = Model(network, fast=fast)
        model.scores(images(), 0)
        model.gradients(images(), 0)
        assert model.fingerprint == before, "it is a copy that runs"
    assert network.calls == 0


def test_an_attribute_that_is_changed_later_counts_at_once(images):
    """Otherwise a study would keep the old numbers under the new fingerprint."""
    network, x = Switched(flag=False, sizes=[1]), images()
    model = Model(network)
    before = model.scores(x, 0)
    twin = model._twin
    torch.testing.assert_close(model.scores(x, 0), before, **EXACT)
    assert model._twin is twin, "nothing changed, so nothing is made anew"
    network.flag = True
    torch.testing.assert_close(model.scores(x, 0), 10 * before, **CLOSE)
    twin = model._twin
    network.sizes.append(2)  # in place
    model.scores(x, 0)
    assert model._twin is not twin


def test_fingerprints_do_not_depend_on_how_the_mean_was_written(networks):
    prints = {
        Model(networks.cnn(), mean=m).fingerprint for m in ((0.5, 0.5, 0.5), [0.5, 0.5, 0.5], torch.full((3,), 0.5))
    }
    assert len(prints) == 1


def test_fingerprints_hold_every_number_of_a_long_mean():
    mean = torch.zeros(5000)
    other = mean.clone()
    other[2500] = 1.0  # the middle of what print() leaves out
    network = nn.Linear(5000, 2)
    assert Model(network, mean=mean, kind="table").fingerprint != Model(network, mean=other, kind="table").fingerprint


def test_fingerprints_hold_the_further_arguments(networks):
    network = networks.conditioned()
    one, two = (Model(network, forward={"extra": torch.full((1, 2), v)}).fingerprint for v in (0.0, 1.0))
    assert one != two


def test_fingerprints_are_the_same_in_another_process(networks):
    """A study goes on in another process, where a function has another address."""
    assert "0x" not in repr(Model(networks.cnn(), adapter=lambda out: out).fingerprint)
    one = Model(networks.cnn(), adapter=_adapter).fingerprint
    again = _copy_of_adapter()
    assert Model(networks.cnn(), adapter=again).fingerprint == one


def _adapter(out):
    return out


def _copy_of_adapter():
    """The same function at another address, as another process would have it."""
    import types

    copy = types.FunctionType(_adapter.__code__, _adapter.__globals__, _adapter.__name__)
    copy.__qualname__, copy.__module__ = _adapter.__qualname__, _adapter.__module__
    return copy


def test_a_bare_callable_needs_a_fingerprint():
    with pytest.raises(ValueError, match="fingerprint="):
        _ = Model(lambda x: x).fingerprint
    one, two = (Model(lambda x: x, fingerprint=name).fingerprint for name in ("v1", "v2"))
    assert one != two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_fingerprints_of_every_dtype(networks, dtype):
    assert len(Model(networks.cnn().to(dtype)).fingerprint) == 32


# -- further arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, None])
def test_further_arguments_follow_their_images(networks, images, size):
    network, x = networks.conditioned(), images(5)
    extra = torch.rand(5, 2, generator=torch.Generator().manual_seed(1))
    wanted = network(x, extra=extra).detach()
    model = Model(network, forward={"extra": extra}, batch_size=size)
    torch.testing.assert_close(model.outputs(x), wanted, **CLOSE)
    frozen = model.resolve(x, 0)
    rows = torch.tensor([4, 4, 0, 2, 1, 1, 3])
    torch.testing.assert_close(model.scores(x[rows], frozen.take(rows)), wanted[rows, 0], **CLOSE)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(leaf, extra=extra)[:, 0].sum(), leaf)
    torch.testing.assert_close(model.gradients(x, 0)[1], gradient, **CLOSE)


def test_one_further_argument_serves_all_images(networks, images):
    network, x, extra = networks.conditioned(), images(5), torch.rand(1, 2)
    model = Model(network, forward={"extra": extra}, batch_size=2)
    torch.testing.assert_close(model.outputs(x), network(x, extra=extra.expand(5, -1)).detach(), **CLOSE)


@pytest.mark.parametrize("size", [2, 5])
def test_further_arguments_follow_their_images_into_a_trunk(networks, images, size):
    network, x = networks.conditioned(), images(5)
    extra = torch.rand(5, 2, generator=torch.Generator().manual_seed(1))
    model = Model(network, forward={"extra": extra}, batch_size=size)
    trunk, head = model.split("conv")
    torch.testing.assert_close(head.outputs(trunk.outputs(x)), network(x, extra=extra).detach(), **CLOSE)
    part = torch.tensor([3, 1])
    fresh, _ = Model(network, forward={"extra": extra}, batch_size=size).split("conv")  # has not seen all of them yet
    torch.testing.assert_close(fresh.outputs(x[part], rows=part, count=5), trunk.outputs(x)[part], **CLOSE)


def test_layers_of_a_network_with_further_arguments(networks, images):
    extra = torch.rand(5, 2)
    model, x = Model(networks.conditioned(), forward={"extra": extra}), images(5)
    assert [c.name for c in model.layers(x)] == ["conv", "fc"]
    assert model.auto_layer() == "conv"
    trunk, head = model.split("conv")  # tried out on an image, now that one was seen
    torch.testing.assert_close(head.outputs(trunk.outputs(x)), model.outputs(x), **CLOSE)


# -- what comes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.rand(3, 8, 8), ValueError, r"inputs\[None\]"),
        (lambda: torch.rand(8, 8), ValueError, r"\(N, C, H, W\)"),
        (lambda: (torch.rand(1, 3, 8, 8) * 255).to(torch.uint8), TypeError, "/ 255"),
        (lambda: torch.full((2, 3, 8, 8), float("nan")), ValueError, r"inputs \[0, 1\] hold NaN"),
        (lambda: torch.full((1, 3, 8, 8), float("inf")), ValueError, "infinite"),
        (lambda: torch.zeros(0, 3, 8, 8), ValueError, "empty"),
        (lambda: torch.rand(1, 3, 8, 8) * 255, ValueError, r"outside the model's bounds \[0, 1\]"),
        (lambda: torch.randn(1, 3, 8, 8), ValueError, "not normalised yet"),
        (lambda: np.zeros((1, 3, 8, 8), np.float32), TypeError, "must be a tensor.*ndarray"),
        (lambda: [torch.rand(3, 8, 8)], TypeError, "must be a tensor.*list"),
    ],
    ids=["one_image", "rank2", "uint8", "nan", "inf", "empty", "0..255", "normalised", "numpy", "list"],
)
def test_wrong_inputs_get_a_clear_error(networks, make, error, message):
    model = Model(networks.cnn())
    for call in (model.scores, model.gradients):
        with pytest.raises(error, match=message):
            call(make(), 0)


def test_the_bounds_forgive_rounding_and_nothing_else(networks):
    model = Model(networks.cnn())
    model.scores(torch.full((1, 3, 8, 8), 1 + 1e-6), 0)
    with pytest.raises(ValueError, match="outside"):
        model.scores(torch.full((1, 3, 8, 8), 1.1), 0)
    Model(networks.cnn(), bounds=None).scores(torch.full((1, 3, 8, 8), 300.0), 0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"activation": "relu"}, ValueError),
        ({"kind": "video"}, ValueError),
        ({"bounds": (1, 0)}, ValueError),
        ({"bounds": (0, 1, 2)}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 2.5}, ValueError),
        ({"std": (1, 0, 1)}, ValueError),
        ({"std": -1.0}, ValueError),
    ],
)
def test_wrong_options_are_refused_when_the_model_is_made(networks, options, error):
    with pytest.raises(error, match=next(iter(options))):
        Model(networks.cnn(), **options)


def test_only_networks_make_models(networks):
    with pytest.raises(TypeError, match="int"):
        Model(3)
    with pytest.raises(TypeError, match="already"):
        Model(Model(networks.cnn()))
    model = Model(networks.cnn())
    assert Model.wrap(model) is model
    assert Model.wrap(networks.cnn()).bounds is None


def test_a_target_for_other_images_is_refused(networks, images):
    model = Model(networks.cnn())
    frozen = model.resolve(images(3), 0)
    assert isinstance(frozen, Target)
    with pytest.raises(ValueError, match="3 rows"):
        model.resolve(images(2), frozen)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["cnn", "branching", "locked"])
@pytest.mark.parametrize("fast", [True, False])
def test_it_works_inside_every_gradient_mode(networks, images, context, name, fast):
    network, x = getattr(networks, name)(), images()
    leaf = x.clone().requires_grad_()
    score = network(leaf)[:, 1]
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    model = Model(network, fast=fast, mean=0.0, std=1.0)
    with context():
        inside = model.scores(x, 1), *model.gradients(x, 1)
    outside = model.scores(x, 1), *model.gradients(x, 1)
    for found in (inside, outside):
        torch.testing.assert_close(found[0], score.detach(), **CLOSE)
        torch.testing.assert_close(found[1], score.detach(), **CLOSE)
        torch.testing.assert_close(found[2], gradient, **CLOSE)
    assert not outside[0].is_inference()
    assert not outside[2].is_inference()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_images_made_in_inference_mode_are_taken(networks, context):
    with context():
        x = torch.full((2, 3, 8, 8), 0.5)
    model = Model(networks.cnn())
    assert model.gradients(x, 0)[1].shape == x.shape
    assert model.scores(x, 0).shape == (2,)


def test_images_that_require_a_gradient_are_taken(networks, images):
    x = images().requires_grad_()
    model = Model(networks.cnn())
    assert not model.scores(x, 0).requires_grad
    assert not model.gradients(x, 0)[1].requires_grad
    assert x.grad is None

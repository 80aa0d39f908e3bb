"""The interface of every method: hyper-parameters, budgets, reduction, resizing, errors."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.attributor import Attributor, Computed, Cost, reduce_channels, register, resize
from torch import nn

# float32 maps of networks of a few layers, computed in another batch: some ulp relative to the largest value
CLOSE = {"rtol": 1e-3, "atol": 1e-5}
SMALL = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 5},
    "grad_cam": {},
    "occlusion": {"window": 4, "stride": 2},
    "hsic": {"grid": 3, "designs": 16, "permutations": 9},
    "rise": {"masks": 30, "grid": 3},
    "sobol": {"grid": 3, "designs": 4},
    "wcam": {"grid": 2, "designs": 4, "levels": 1},
}


def make(name, network, **more):
    return attribution.create(name, network, **{**SMALL[name], **more})


# -- hyper-parameters --------------------------------------------------------------------------------------------------


def test_the_constructor_stores_its_arguments_as_they_are(networks):
    baseline = torch.zeros(1, 3, 1, 1)
    made = attribution.create("rise", networks.cnn(), masks=5, baseline=baseline, keep=0.3)
    assert made.params["baseline"] is baseline
    assert made.params == {
        "output": "probability",
        "layer": None,
        "at": None,
        "smooth": 0.0,
        "masks": 5,
        "grid": 7,
        "keep": 0.3,
        "normalize": "sum",
        "control_variate": False,
        "antithetic": False,
        "tolerance": None,
        "classes": "target",
        "baseline": baseline,
        "seed": 0,
    }
    assert type(made)(made.model, **made.params) == made


def test_a_repr_names_what_was_changed(networks):
    network = networks.cnn()
    assert repr(attribution.create("rise", network)) == "rise()"
    assert repr(attribution.create("rise", network, masks=7, keep=0.5)) == "rise(masks=7)"
    assert (
        repr(attribution.create("ig", network, baseline=torch.zeros(1, 3, 8, 8)))
        == "integrated_gradients(baseline=a tensor of shape (1, 3, 8, 8))"
    )
    made = attribution.create("sobol", network, grid=3, estimator="glen", baseline="black")
    again = eval(repr(made).replace("sobol(", "dict(", 1))  # noqa: S307
    assert attribution.create("sobol", network, **again) == made


def test_equality_and_hash_are_those_of_the_parameters(networks):
    one, two = networks.cnn(), networks.cnn(classes=4)
    assert attribution.create("rise", one) == attribution.create("rise", two)  # the model is left out
    assert attribution.create("rise", one) != attribution.create("rise", one, masks=3)
    assert attribution.create("rise", one) != attribution.create("sobol", one)
    assert (
        len({attribution.create("rise", one), attribution.create("rise", two), attribution.create("rise", one, seed=1)})
        == 2
    )
    a, b, c = (
        attribution.create("ig", one, baseline=t)
        for t in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    )
    assert a == b
    assert hash(a) == hash(b)
    assert a != c
    assert attribution.create("rise", one) != "rise"


def _half(x):
    return x * 0.5


def test_different_functions_are_different_parameters(networks):
    """A study keys its results by them: two baselines must never be taken for one."""
    make = partial(attribution.create, "occlusion", networks.cnn())
    assert make(baseline=_half) == make(baseline=_half)
    assert make(baseline=lambda x: x * 0) != make(baseline=lambda x: x * 0 + 1)
    assert make(baseline=_scaled(0.0)) != make(baseline=_scaled(1.0))
    assert make(baseline=partial(_times, factor=0.0)) != make(baseline=partial(_times, factor=1.0))
    assert make(baseline=partial(_times, factor=0.0)) == make(baseline=partial(_times, factor=0.0))


class _Held:
    def __init__(self, held):
        self.held = held

    def __call__(self, x):
        return x * 0


def _holding(held):
    return lambda x: x * 0 + float(np.sum(held))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (np.zeros(3), np.ones(3)),
        ({"sigma": 1.0}, {"sigma": 2.0}),
        (torch.zeros(3), torch.ones(3)),
        (np.zeros(5000), np.eye(1, 5000, 2500)[0]),
    ],
    ids=["array", "dict", "tensor", "long_array"],
)
def test_functions_that_hold_different_things_are_different_parameters(networks, one, two):
    make = partial(attribution.create, "occlusion", networks.cnn())
    assert make(baseline=_Held(one)) != make(baseline=_Held(two))
    assert make(baseline=_Held(one)) == make(baseline=_Held(one))
    if not isinstance(one, dict):
        assert make(baseline=_holding(one)) != make(baseline=_holding(two))
        assert make(baseline=_holding(one)) == make(baseline=_holding(one))


def _times(x, factor):
    return x * factor


def _scaled(factor):
    def baseline(x):
        return x * factor

    return baseline


@pytest.mark.parametrize("name", SMALL)
def test_pickle_round_trip(networks, images, name):
    made, x = make(name, Model(networks.cnn(), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)), images(2)
    maps = made.attribute(x, 1)
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.params == made.params
    torch.testing.assert_close(again.attribute(x, 1), maps, **CLOSE)


def test_with_model_is_the_same_configuration_on_another(networks, images):
    made = attribution.create("occlusion", networks.cnn(), window=4, stride=4, baseline=0.5)
    other = Model(networks.resnet())
    moved = made.with_model(other)
    assert moved == made
    assert moved.model is other
    torch.testing.assert_close(
        moved.attribute(images(), 0), attribution.create("occlusion", other, **made.params).attribute(images(), 0)
    )
    with pytest.raises(ValueError, match="does not run on this model"):
        attribution.create("grad_cam", networks.cnn()).with_model(networks.mlp())
    assert isinstance(made.with_model(networks.resnet()).model, Model)  # a plain network is wrapped


def test_a_budget_is_kept_with_another_model(networks, images):
    made = attribution.create("occlusion", Model(networks.cnn()), window=4, stride=4, budget=5000)
    assert made.with_model(Model(networks.resnet()))._budget == 5000


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "budget", "options", "parameter", "value"),
    [
        ("rise", 123, {}, "masks", 123),
        ("rise", 1, {}, "masks", 1),
        ("integrated_gradients", 100, {}, "steps", 49),
        ("integrated_gradients", 4, {}, "steps", 1),
        ("sobol", 2 * 10, {"grid": 3}, "designs", 2),
        ("sobol", 99, {"grid": 3}, "designs", 8),
        ("sobol", 160, {"grid": 3}, "designs", 16),
    ],
)
def test_a_budget_picks_the_largest_sample_count_that_fits(networks, images, name, budget, options, parameter, value):  # noqa: PLR0917
    made = attribution.create(name, networks.cnn(), budget=budget, **options)
    assert made.params[parameter] == value
    found = made.explain(images(2), 0)
    assert int((found.forwards + found.backwards).max()) <= budget


@pytest.mark.parametrize(
    ("name", "budget", "options", "message"),
    [
        ("integrated_gradients", 3, {}, "at its minimum, steps=1, it takes 4"),
        ("sobol", 19, {"grid": 3}, "designs=2, it takes 20"),
        ("rise", 10, {"masks": 11}, "it takes 11"),
        ("saliency", 1, {}, "it takes 2"),
    ],
)
def test_a_budget_below_the_minimum_names_it(networks, name, budget, options, message):
    with pytest.raises(ValueError, match=f"does not fit budget={budget}.*{message}"):
        attribution.create(name, networks.cnn(), budget=budget, **options)


@pytest.mark.parametrize("budget", [0, -5, 2.5, True, "10"])
def test_a_budget_is_a_positive_whole_number(networks, budget):
    with pytest.raises(ValueError, match="budget"):
        attribution.create("rise", networks.cnn(), budget=budget)


def test_a_method_without_samples_is_made_if_it_fits(networks, images):
    model = Model(networks.cnn())
    model.scores(images(), 0)  # 8 x 8: a clean image and four windows
    made = attribution.create("occlusion", model, window=4, stride=4, budget=5)
    assert made.explain(images(), 0).forwards.tolist() == [5] * 3
    with pytest.raises(ValueError, match="takes 5"):
        attribution.create("occlusion", model, window=4, stride=4, budget=4)
    with pytest.raises(ValueError, match=r"does not fit budget=5.*\(3, 16, 16\)"):
        made.attribute(images(height=16, width=16), 0)  # larger images cost more


def test_a_method_whose_cost_depends_on_the_images_waits_for_them(networks, images):
    """Before an image was seen nobody knows that it is not 224 x 224."""
    made = attribution.create("occlusion", Model(networks.cnn()), window=4, stride=4, budget=5)
    assert made.explain(images(), 0).forwards.tolist() == [5] * 3


def test_a_budget_holds_with_another_baseline(networks, images):
    model = Model(networks.cnn())
    model.scores(images(), 0)
    made = attribution.create("occlusion", model, window=4, stride=4, budget=5)
    with pytest.raises(ValueError, match="does not fit"):
        made.attribute(images(height=16, width=16), 0, baseline="black")


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_give_one_map_each_whatever_the_method(networks, images, name, channels):
    x = images(3, channels, 8, 11)
    found = make(name, networks.cnn(channels)).explain(x, [0, 1, 2])
    assert found.maps.shape == (3, 1, 8, 11)
    assert found.maps.dtype == torch.float32
    assert found.scores.shape == (3,)
    assert found.target.tolist() == [0, 1, 2]
    assert found.method == name
    assert found.seconds > 0
    assert torch.equal(make(name, networks.cnn(channels)).attribute(x, [0, 1, 2]), found.maps)
    assert torch.equal(make(name, networks.cnn(channels))(x, [0, 1, 2]), found.maps)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [1, 2, 7, None])
def test_maps_do_not_depend_on_the_batch(networks, images, name, size):
    x, target = images(3), torch.tensor([1, 4, 0])
    wanted = make(name, Model(networks.cnn(), batch_size=64)).attribute(x, target)
    torch.testing.assert_close(
        make(name, Model(networks.cnn(), batch_size=size)).attribute(x, target),
        wanted,
        rtol=1e-3,
        atol=1e-4 * float(wanted.abs().max()),
    )
    alone = torch.cat(
        [
            make(name, Model(networks.cnn(), batch_size=size)).attribute(x[i : i + 1], target[i : i + 1])
            for i in range(3)
        ]
    )
    torch.testing.assert_close(alone, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_the_cost_is_what_the_registry_says(networks, images, name):
    x = images(3, height=12, width=9)
    made = make(name, Model(networks.cnn(), batch_size=4))
    found = made.explain(x)
    cost = made.cost((3, 12, 9), **made.params)
    assert found.forwards.tolist() == [cost.forwards] * 3
    assert found.backwards.tolist() == [cost.backwards] * 3
    assert made.model.forwards == 3 * cost.forwards  # the class and its score are nobody's cost
    assert made.explain(x[:1]).forwards.tolist() == [cost.forwards]


@pytest.mark.parametrize("name", SMALL)
def test_explain_works_inside_every_gradient_mode(networks, images, name):
    x = images(2)
    wanted = make(name, networks.cnn()).attribute(x, 0)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            found = make(name, networks.cnn()).attribute(x, 0)
        torch.testing.assert_close(found, wanted, **CLOSE)
        assert not found.requires_grad


@pytest.mark.parametrize("name", SMALL)
def test_the_caller_is_left_alone(networks, images, untouched, name):
    network, x = networks.cnn().train(), images()
    torch.manual_seed(3)
    np.random.seed(3)
    state, copy = untouched(network), x.clone()
    make(name, network).attribute(x)
    state.check()
    assert torch.equal(x, copy)


@pytest.mark.parametrize("name", SMALL)
def test_further_arguments_follow_their_images(networks, images, name):
    x, extra = images(5), torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    options = {"layer": "conv"} if name == "grad_cam" else {}
    wanted = torch.cat(
        [
            make(name, Model(networks.conditioned(), forward={"extra": extra[i : i + 1]}), **options).attribute(
                x[i : i + 1], 0
            )
            for i in range(5)
        ]
    )
    for size in (2, 16):
        found = make(
            name, Model(networks.conditioned(), forward={"extra": extra}, batch_size=size), **options
        ).attribute(x, 0)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_baseline_for_one_call(networks, images):
    made, x = attribution.create("occlusion", networks.cnn(), window=4, stride=4, baseline="zero"), images()
    other = attribution.create("occlusion", networks.cnn(), window=4, stride=4, baseline=0.7)
    own = made.attribute(x, 0)
    torch.testing.assert_close(made.attribute(x, 0, baseline=0.7), other.attribute(x, 0))
    torch.testing.assert_close(made.attribute(x, 0, baseline=torch.full_like(x, 0.7)), other.attribute(x, 0))
    torch.testing.assert_close(made.attribute(x, 0), own)
    assert made.params["baseline"] == "zero"
    assert made.explain(x, 0, baseline=0.7).params["baseline"] == 0.7
    assert not torch.allclose(own, other.attribute(x, 0))


def test_options_that_a_method_does_not_have_are_refused(networks, images):
    with pytest.raises(TypeError, match="saliency has no option 'baseline'"):
        attribution.create("saliency", networks.cnn()).attribute(images(), 0, baseline="black")
    with pytest.raises(TypeError, match="rise has no option 'regions'"):
        attribution.create("rise", networks.cnn()).attribute(images(), 0, regions="grid")
    with pytest.raises(ValueError, match="choose one of zero"):
        attribution.create("occlusion", networks.cnn()).attribute(images(), 0, baseline="gray")


def test_regions_for_one_call(networks, images):
    class Own(Attributor):
        """The region of each pixel."""

        regions: attribution.regions.Regions = "grid"

        def compute(self, inputs, target):
            labels = attribution.regions.make(self.regions, inputs, self.model, n_regions=4)
            return Computed(labels[:, None].to(inputs), {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    x, labels = images(2, height=4, width=4), torch.arange(16).reshape(4, 4) // 5
    made = Own(networks.cnn())
    assert int(made.attribute(x, 0).max()) == 3
    assert torch.equal(made.attribute(x, 0, regions=labels)[1, 0].long(), labels)


def test_no_explanation_of_what_is_not_finite(networks, images):
    class Bad(nn.Module):
        def forward(self, x):
            out = x.flatten(1)[:, :3]
            return torch.where(out[:, :1] > 0.9, torch.full_like(out, float("nan")), out)

    x = images(3) * 0.5
    x[1, 0, 0, 0] = 1.0
    with pytest.raises(ValueError, match=r"occlusion made NaN or infinite values for images \[1\]"):
        attribution.create("occlusion", Model(Bad(), fast=False), window=4, stride=4).attribute(x, 0)


@pytest.mark.parametrize("name", ["wcam", "grad_cam"])
def test_methods_of_images_refuse_tables(networks, name):
    with pytest.raises(ValueError, match=r"does not run on this model|explains"):
        make(name, Model(nn.Linear(4, 2), kind="table"))


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "integrated_gradients", "hsic", "occlusion", "rise"])
@pytest.mark.parametrize(("kind", "shape"), [("table", (3, 4)), ("tokens", (3, 5, 4))])
def test_tables_and_tokens_give_their_own_shape(name, kind, shape):
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 2))
    x = torch.rand(shape)
    found = make(name, Model(network, kind=kind, mean=0.5, std=0.5)).explain(x, 1)
    assert found.maps.shape == shape
    assert "<pre>" in found._repr_html_()


# -- channels and resizing ---------------------------------------------------------------------------------------------


def test_channels_are_reduced_as_named():
    maps = torch.tensor([1.0, -3.0, 2.0, -4.0]).reshape(1, 4, 1, 1)
    wanted = {"sum": -4.0, "mean": -1.0, "abs_sum": 10.0, "max_abs": 4.0, "l2": 30**0.5}
    for how, value in wanted.items():
        assert float(reduce_channels(maps, how)) == pytest.approx(value, rel=1e-6)
    assert torch.equal(reduce_channels(maps, "keep"), maps)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("how", ["sum", "mean", "abs_sum", "max_abs", "l2", "keep"])
def test_channels_of_a_method(networks, images, channels, how):
    """One channel too: a method that was asked for magnitudes gives no negative value."""
    network, x = networks.linear(channels, 4, 4), images(2, channels, 4, 4)
    kept = attribution.create("input_x_gradient", network, channels="keep").attribute(x, 0)
    assert kept.shape == (2, channels, 4, 4)
    torch.testing.assert_close(kept, network[1].weight[0].detach().reshape(1, channels, 4, 4) * x, rtol=1e-5, atol=1e-6)
    found = attribution.create("input_x_gradient", network, channels=how).attribute(x, 0)
    torch.testing.assert_close(found, reduce_channels(kept, how), rtol=1e-5, atol=1e-6)
    if how in {"abs_sum", "max_abs", "l2"}:
        assert float(found.min()) >= 0


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest"])
def test_resizing_keeps_the_centres(how):
    constant = torch.full((1, 1, 3, 4), 0.7)
    torch.testing.assert_close(resize(constant, (9, 8), how), torch.full((1, 1, 9, 8), 0.7), rtol=1e-6, atol=1e-6)
    one = torch.zeros(1, 1, 3, 3)
    one[0, 0, 1, 1] = 1
    big = resize(one, (15, 15), how)[0, 0]
    torch.testing.assert_close(big, big.flip(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(big, big.T, rtol=1e-6, atol=1e-6)
    assert float(big[7, 7]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("name", "size"), [("grad_cam", (4, 6)), ("sobol", (3, 3))])
def test_native_maps_are_there_and_resized(networks, images, name, size):
    x = images(2, height=8, width=12)
    found = make(name, networks.cnn()).explain(x, 0)
    assert found.native.shape == (2, 1, *size)
    torch.testing.assert_close(
        found.maps, nn.functional.interpolate(found.native, (8, 12), mode="bilinear", align_corners=False)
    )
    plain = make(name, networks.cnn(), resize=None).explain(x, 0)
    assert torch.equal(plain.maps, found.native)
    nearest = make(name, networks.cnn(), resize="nearest").attribute(x, 0)
    assert set(nearest[0].flatten().tolist()) <= set(found.native[0].flatten().tolist())


# -- own classes -------------------------------------------------------------------------------------------------------


def test_an_unregistered_class_works(networks, images):
    class Mine(Attributor):
        """The image.

        Args:
            factor: Times this.
        """

        factor: float = 2.0

        def compute(self, inputs, target):
            return Computed(inputs * self.factor, {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    made, x = Mine(networks.cnn(), factor=3), images(2)
    torch.testing.assert_close(made.attribute(x, 0), 3 * x.sum(1, keepdim=True))
    assert repr(made) == "Mine(factor=3)"
    assert Mine.cost() == Cost(0, 0)
    with pytest.raises(TypeError, match="factor"):
        Mine(networks.cnn(), factor="3")


def test_a_method_inside_a_method_pays_for_both(networks, images):
    class Twice(Attributor):
        """Saliency of a shifted image, and of the image."""

        def compute(self, inputs, target):
            inner = attribution.create("saliency", self.model)
            one = inner.explain(inputs * 0.9, target)
            two = inner.explain(inputs, target)
            return Computed(one.maps + two.maps, {"inner": one.forwards})

        @classmethod
        def _cost(cls, options, shape):
            return 2, 2

    found = Twice(networks.cnn()).explain(images(3), [0, 1, 2])
    assert found.forwards.tolist() == [2, 2, 2]
    assert found.backwards.tolist() == [2, 2, 2]
    assert found.details["inner"].tolist() == [1, 1, 1]


def test_registering_stamps_the_facts():
    cls = register("stamped", family="test", granularity="region", signed=False)(
        type("Stamped", (Attributor,), {"compute": lambda s, i, t: Computed(i, {})})
    )
    try:
        assert cls.name == "stamped"
        assert cls.facts.tags["granularity"] == "region"
        with pytest.raises(NotImplementedError, match="must define _cost"):
            cls.cost()
    finally:
        attribution.attributor.REGISTRY.remove("stamped")


def test_layers_are_explained_by_the_same_methods(networks, images):
    """`with_model(head)` is how methods run at inner layers."""
    model, x = Model(networks.cnn(), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3), images(2)
    trunk, head = model.split("2")
    activation = trunk.outputs(x)
    for name in SMALL:
        if name == "grad_cam":
            continue
        found = make(name, model).with_model(head).explain(activation, [0, 1])
        assert found.maps.shape == (2, 1, 8, 8)
        torch.testing.assert_close(found.scores, model.scores(x, [0, 1], output=found.output), **CLOSE)
    ig = attribution.create("ig", model, steps=50, channels="keep").with_model(head).explain(activation, 0)
    start = head.scores(torch.zeros_like(activation), 0)
    # 50 Gauss nodes on a network of ReLUs: the kinks leave about a thousandth of the difference
    torch.testing.assert_close(ig.maps.flatten(1).sum(1), ig.scores - start, rtol=2e-2, atol=2e-3)

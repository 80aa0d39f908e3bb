"""One table: every registered method and metric keeps every rule. A new method is one row, by being registered."""

import importlib
import inspect
import pkgutil

import attriscope
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Computed


@pytest.mark.parametrize(
    ("name", "rule", "run"),
    [(n, rule, run) for n in attribution.available() for rule, run in attribution.checks(n)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_method(name, rule, run):
    run()


@pytest.mark.parametrize(
    ("name", "rule", "run"),
    [(n, rule, run) for n in metrics.available() for rule, run in metrics.checks(n)],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_metric(name, rule, run):
    run()


class Broken(attribution.Attributor):
    """A method with one fault, for the suite to find."""

    fault: str = "none"

    def compute(self, inputs, target):
        maps = self.model.gradients(inputs, target, output=self.output)[1].abs()
        if self.fault == "mates":
            maps = maps / maps.max()
        elif self.fault == "random":
            maps = maps + torch.rand(maps.shape)
        elif self.fault == "graph":
            maps = maps.clone().requires_grad_()
        elif self.fault == "mode":
            self.model.network.eval()
        elif self.fault == "blind":
            maps = torch.ones_like(maps)
        elif self.fault == "cost":
            self.model.scores(inputs, target)
        elif self.fault == "batch":
            maps = maps * self.model.batch()
        elif self.fault == "target":
            maps = self.model.gradients(inputs, 0)[1].abs()
        elif self.fault == "sign":
            maps = -maps
        return Computed(maps, {})

    @classmethod
    def _cost(cls, options, shape):
        return 1, 1


@pytest.fixture(scope="module", autouse=True)
def broken():
    attribution.register("broken", family="test", needs="gradient")(Broken)
    yield
    attribution.attributor.REGISTRY.remove("broken")


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("mates", "batch_equals_singles"), ("random", "repeatable"), ("mode", "model_untouched"),
        ("blind", "finds_object"), ("cost", "cost"), ("batch", "batch_size"), ("target", "finds_object"),
        ("sign", "finds_object"),
    ],
)  # fmt: skip
def test_the_suite_finds_every_fault(fault, rule):
    with pytest.raises(AssertionError, match=rule):
        attribution.check("broken", fault=fault)


def test_a_sound_method_passes():
    assert len(attribution.check("broken", fault="none")) == len(attribution.conformance.CHECKS)


class Grey(attribution.conformance.Detector):
    """Another network."""


class Choosy(Broken):
    """A method that runs on some networks alone."""

    layers = "none"

    @classmethod
    def supports(cls, model):
        return None if isinstance(model.network, Grey) else "it wants another network"


def test_a_method_is_checked_on_a_network_that_it_runs_on(monkeypatch):
    attribution.register("choosy", family="test", needs="gradient")(Choosy)
    try:
        with pytest.raises(AssertionError, match="wants another network"):
            attribution.check("choosy")
        assert len(attribution.check("choosy", network=Grey)) == len(attribution.conformance.CHECKS)
        with pytest.raises(AssertionError, match="finds_object"):
            attribution.check("choosy", network=Grey, fault="sign")
        monkeypatch.setattr(attribution.conformance, "NETWORKS", [attribution.conformance.Detector, Grey])
        assert len(attribution.check("choosy")) == len(attribution.conformance.CHECKS)
    finally:
        attribution.attributor.REGISTRY.remove("choosy")


@pytest.mark.parametrize(("room", "base"), [(attribution, attribution.Attributor), (metrics, metrics.Metric)])
def test_every_concrete_class_is_exported(room, base):
    for info in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, base) and cls is not base and cls.__module__ == info.name and cls.facts.name:
                assert name in room.__all__, f"{info.name}.{name} is registered but not in {room.__name__}.__all__"


def test_everything_registered_runs_with_nothing_else_passed():
    """The issue's loop: swapping a method is changing a string."""
    network = attribution.conformance.Detector().eval()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in attribution.available(model=network):
        options = {"budget": 300} if attribution.describe(name)["samples"] else {}
        assert attribution.create(name, network, **options).attribute(x).shape == (1, 1, 32, 32)


def test_the_version_is_the_package_s():
    assert attriscope.__version__.count(".") == 2

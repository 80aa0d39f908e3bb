"""What the tests of `attribution` share: tiny networks, images, and a way to see that nothing of the caller's was touched."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


def _load(file):
    name = f"attriscope_test_{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{file}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that pickle finds its classes
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def networks():
    return _load("networks")


@pytest.fixture(scope="session")
def zoo():
    return _load("zoo")


def pytest_generate_tests(metafunc):
    """A test with an argument `zoo_name` runs for every network of the zoo, with `zoo_vit` for those of a kind."""
    for argument, kind in {"zoo_name": None, **{f"zoo_{k}": k for k in ("cnn", "vit", "hierarchical")}}.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, _load("zoo").names(kind))


@pytest.fixture
def images():
    """`images(n, channels, height, width)`: seeded, in [0, 1], without the global generator."""

    def make(n=3, channels=3, height=8, width=8, *, seed=0, dtype=torch.float32):
        return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)

    return make


class State:
    """Everything of a caller's network and of the generators that a run must leave as it is."""

    def __init__(self, network):
        self.network = network
        self.modes = {n: m.training for n, m in network.named_modules()}
        self.ids = {n: id(p) for n, p in network.named_parameters()}
        self.values = {n: t.clone() for n, t in network.state_dict().items()}
        self.grads = {
            n: (p.requires_grad, None if p.grad is None else p.grad.clone()) for n, p in network.named_parameters()
        }
        self.layout = {n: (p.dtype, p.stride(), p._version) for n, p in network.named_parameters()}
        self.buffers = {n: (id(b), b._version) for n, b in network.named_buffers()}
        self.hooks = {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in network.named_modules()
        }
        self.classes = {n: (type(m), tuple(m.__dict__)) for n, m in network.named_modules()}
        self.rng = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        self.switches = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()

    def check(self):
        now = State(self.network)
        for what in ("modes", "ids", "layout", "buffers", "hooks", "classes", "switches"):
            assert getattr(self, what) == getattr(now, what), what
        for name, value in self.values.items():
            assert torch.equal(value, now.values[name]), name
        for name, (required, grad) in self.grads.items():
            assert required == now.grads[name][0], name
            assert (grad is None) == (now.grads[name][1] is None), name
            assert grad is None or torch.equal(grad, now.grads[name][1]), name
        assert torch.equal(self.rng[0], now.rng[0])
        assert np.array_equal(self.rng[1], now.rng[1])
        assert self.rng[2] == now.rng[2]


@pytest.fixture
def untouched():
    return State


@pytest.fixture(autouse=True)
def by_itself():
    """One thread, since the networks are tiny and the machine is shared; generators and threads are put back for others."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)

"""Every architecture of the zoo behaves as a model: it is wrapped, copied, differentiated and explained, and never changed."""

import pytest
import torch
from attriscope import attribution
from attriscope.attribution.model import Model


@pytest.fixture(scope="module")
def built(zoo):
    """Each network once: what is tested leaves them as they are."""
    made = {}
    return lambda name: made.setdefault(name, zoo.build(name))


def largest(tensor):
    return float(tensor.abs().max())


def test_the_zoo_is_lively_and_seeded(zoo, zoo_name):
    state = torch.get_rng_state()
    network, again, other = zoo.build(zoo_name), getattr(zoo, zoo_name)(), zoo.build(zoo_name, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m.training for m in network.modules())
    for (name, a), b in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert sum(p.numel() for p in network.parameters()) < 50_000
    x = zoo.images(zoo_name, 8).requires_grad_()
    out = zoo.outputs(network, x)
    assert out.shape == (8, zoo.CLASSES)
    assert float(out.detach().std(0).min()) > 0.01  # every class is moved by the image
    assert not torch.allclose(out, zoo.outputs(other, x))
    for column in out.unbind(1):
        (gradient,) = torch.autograd.grad(column.sum(), x, retain_graph=True)
        assert bool((gradient.abs().amax((1, 2, 3)) > 1e-5).all())


def test_the_facts_are_what_the_network_does(zoo, built, zoo_name):
    facts, network = zoo.FACTS[zoo_name], built(zoo_name)
    model = Model(network)
    assert hasattr(network(zoo.images(zoo_name)), "logits") == facts.logits
    calls = model.layers(zoo.images(zoo_name))
    shapes = [c.shape for c in calls]
    rows, columns = facts.grid
    if facts.kind == "cnn":
        maps = [s[2:] for c, s in zip(calls, shapes, strict=True) if c.type == "Conv2d" and s[2:] != (1, 1)]
        assert min(maps) == maps[-1] == facts.grid
    elif facts.kind == "vit":
        assert any(len(s) == 3 and s[1] == facts.prefix + rows * columns for s in shapes)
    else:
        assert any(s[1:3] == facts.grid or (len(s) == 3 and s[1] == rows * columns) for s in shapes)


def test_the_fast_copy_gives_what_the_network_gives_or_says_that_there_is_none(zoo, built, untouched, zoo_name):
    network, x = built(zoo_name), zoo.images(zoo_name, 3)
    before = untouched(network)
    model = Model(network)
    found = model.outputs(x)  # a copy that differs would warn, and warnings are errors here
    before.check()
    with torch.no_grad():
        expected = zoo.outputs(network, x)
    # rounding: batch norms are folded into convolutions in double precision
    assert largest(found - expected) < 1e-5 * largest(expected)
    forward, gradient = model._engines
    if model._twin in {forward, gradient}:
        assert model.notes, "no fast copy, and nothing said why"
    assert Model(network, fast=False).outputs(x).sub(expected).abs().max() < 1e-5 * largest(expected)


def test_gradients_are_autograd_s(zoo, built, untouched, zoo_name):
    network, x, target = built(zoo_name), zoo.images(zoo_name, 3), [0, 4, 2]
    before = untouched(network)
    scores, found = Model(network).gradients(x, target)
    before.check()
    leaf = x.clone().requires_grad_()
    chosen = zoo.outputs(network, leaf)[range(3), target]
    (expected,) = torch.autograd.grad(chosen.sum(), leaf)
    assert torch.allclose(scores, chosen, rtol=1e-5, atol=1e-5)
    # float32's rounding through some twenty layers; a unit within rounding of its kink may fall on the other side, which
    # changes the gradient of the few pixels that it sees
    wrong = (found - expected).abs() > 1e-5 * expected.abs().max()
    assert float(wrong.float().mean()) < 0.01


def test_gradients_of_normalised_double_images_are_autograd_s(zoo, zoo_name):
    network, x = zoo.build(zoo_name).double(), zoo.images(zoo_name, 2, dtype=torch.float64)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    scores, found = Model(network, mean=mean, std=std).gradients(x, 1)
    leaf = x.clone().requires_grad_()
    shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    chosen = zoo.outputs(network, (leaf - shift) / scale)[:, 1]
    (expected,) = torch.autograd.grad(chosen.sum(), leaf)
    assert found.dtype == torch.float64
    assert largest((scores - chosen).detach()) < 1e-10
    assert largest(found - expected) < 1e-10 * largest(expected)  # rounding of doubles, and folded batch norms


METHODS = {"saliency": {}, "integrated_gradients": {"steps": 3}, "rise": {"masks": 16}}


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_ask_for_no_layer_run(zoo, built, untouched, zoo_name, method):
    network, x = built(zoo_name), zoo.images(zoo_name, 2)
    before = untouched(network)
    attributor = attribution.create(method, Model(network), **METHODS[method])
    maps = attributor.attribute(x)
    before.check()
    assert maps.shape == (2, 1, *zoo.FACTS[zoo_name].size)
    assert bool((maps.flatten(1).std(1) > 0).all())
    alone = torch.cat([attributor.attribute(one[None]) for one in x])
    assert largest(alone - maps) < 1e-4 * largest(maps)  # float rounding in batches of another size

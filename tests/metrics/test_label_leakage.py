"""Label leakage: a model of one pixel, a constant one, and a loop."""

import math

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics.faithfulness.curve import ranks
from torch import nn


class OnePixel(nn.Module):
    """Class k's logit is twice the pixel k of a 4 x 4 image, three classes."""

    def forward(self, x):
        return 2 * x.flatten(1)[:, :3]


class Encoding(Attributor):
    """A map that is the asked class's pixel, whatever the network makes of it; or another class's; or nothing."""

    shift: int = 0
    flat: bool = False

    def compute(self, inputs, target):
        maps = torch.zeros(len(inputs), 1, 16)
        if not self.flat:
            maps.scatter_(2, ((target.index + self.shift) % 3)[:, None], 1.0)
        else:
            maps[target.index[:, 0] != 0] = torch.arange(16.0)
        return Computed(maps.reshape(-1, 1, 4, 4), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def metric(**options):
    return metrics.create("label_leakage", **{"keep": 1 / 16, "baseline": "zero", "ties": "index", **options})


def model(network=None, **more):
    return attribution.Model(network or OnePixel(), **{"bounds": (0.0, 1.0), **more})


def image():
    x = torch.full((1, 1, 4, 4), 0.4)
    x[0, 0, 0, :3] = torch.tensor([0.9, 0.5, 0.1])
    return x


def softmax(*logits):
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]


def test_a_map_that_encodes_the_class_leaks_the_analytic_value():
    """The pixel of class y alone is kept: p_y = e^(2 x_y) / (e^(2 x_y) + 2), where the whole image has all three."""
    values = [0.9, 0.5, 0.1]
    clean = softmax(*[2 * v for v in values])
    after = [softmax(*[2 * v if i == y else 0 for i, v in enumerate(values)]) for y in range(3)]
    gains = [after[y][y] - clean[y] for y in range(3)]
    found = metric().score(Encoding(model()), image(), curves=True)
    assert found.scores.item() == pytest.approx(sum(max(0, g) for g in gains) / 3, abs=1e-6)  # single precision
    assert found.details["gain"].item() == pytest.approx(sum(gains) / 3, abs=1e-6)
    assert found.details["unsound"].item() == 1  # either wrong class is above the first
    divergences = [sum(p * math.log(p / q) for p, q in zip(clean, row, strict=True)) for row in after]
    assert found.details["kl"].item() == pytest.approx(sum(divergences) / 3, abs=1e-6)


def test_losses_do_not_make_up_for_gains():
    """The pixel of another class is kept: the asked one's probability falls for some and rises for none that is likely."""
    values = [0.9, 0.5, 0.1]
    clean = softmax(*[2 * v for v in values])
    after = [softmax(*[2 * v if i == (y + 1) % 3 else 0 for i, v in enumerate(values)])[y] for y in range(3)]
    gains = [a - c for a, c in zip(after, clean, strict=True)]
    assert min(gains) < 0 < max(gains)
    found = metric().score(Encoding(model(), shift=1), image(), curves=True)
    assert found.scores.item() == pytest.approx(sum(max(0, g) for g in gains) / 3, abs=1e-6)
    # asked for class 1 it keeps class 2's pixel, which lifts neither; asked for class 2 it keeps class 0's
    assert found.details["unsound"].item() == 0


def test_a_constant_model_has_no_leak():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0, -1.0]]).expand(len(x), -1) + 0 * x.sum((1, 2, 3))[:, None]

    found = metric().score(Encoding(model(Constant())), image(), curves=True)
    assert found.scores.item() == 0
    assert found.details["kl"].item() == pytest.approx(0, abs=1e-12)
    assert found.details["unsound"].item() == 0


def test_soundness_is_about_the_true_class_that_was_given():
    found = metric().score(Encoding(model()), image(), target=2, curves=True)
    assert found.details["unsound"].item() == 1
    found = metric(classes=1).score(Encoding(model()), image(), target=0, curves=True)
    assert found.details["unsound"].isnan().item()  # the likeliest class alone was asked for: none is wrong
    gradient = attribution.create("input_x_gradient", model())
    found = metric().score(gradient, image(), target=lambda out: out[:, 0], curves=True)
    assert found.details["unsound"].isnan().item()
    assert not found.scores.isnan().item()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 64, 7)).eval()


def pictures(n=3, seed=1):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_it_is_what_a_loop_over_images_and_classes_finds():
    x, net = pictures(), network()
    made = attribution.create("input_x_gradient", model(net))
    base = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found = metric(keep=0.2, baseline=base, classes=4, ties="random", seed=5).score(
        made, x, target=[0, 1, 2], curves=True
    )
    leaks, lifted, kl = [], [], []
    for i in range(3):
        with torch.no_grad():
            clean = net(x[i : i + 1]).double().softmax(1)[0]
        for y in clean.argsort(descending=True)[:4].tolist():
            maps = made.attribute(x[i : i + 1], y)[:, 0]
            keep = ranks(maps, ties="random", seed=5)[0] < 13  # a fifth of 64 pixels
            with torch.no_grad():
                after = net(torch.where(keep, x[i], base[i])[None]).double().softmax(1)[0]
            leaks.append((after[y] - clean[y]).clamp_min(0))
            lifted += [] if y == i else [(i, after[y] > after[i])]
            kl.append((clean * (clean / after).log()).sum())
    # softmax in single precision
    torch.testing.assert_close(found.scores, torch.stack(leaks).reshape(3, 4).mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.details["kl"], torch.stack(kl).reshape(3, 4).mean(1), atol=1e-5, rtol=0)
    for i in range(3):
        mine = [bool(up) for j, up in lifted if j == i]
        assert found.details["unsound"][i].item() == pytest.approx(sum(mine) / len(mine))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_cost_is_an_explanation_and_a_forward_for_each_class_and_one_for_the_image(size):
    made = model(network(), batch_size=size)
    gradient = attribution.create("gradient", made)
    judge = metric(classes=5)
    with made.ledger(3) as ledger:
        scores = judge.score(gradient, pictures(), target=0)
    assert judge.explanations == 5
    assert ledger.backwards.tolist() == [6] * 3  # the map that was there already, and one for each class
    assert ledger.forwards.tolist() == [6 + judge.cost()] * 3
    wide = metric(classes=50).score(gradient, pictures(), target=0)  # seven classes are all there are
    torch.testing.assert_close(wide, metric(classes=7).score(gradient, pictures(), target=0))
    other = attribution.create("gradient", model(network()))
    torch.testing.assert_close(scores, judge.score(other, pictures(), target=0), atol=1e-6, rtol=0)  # single precision
    alone = judge.score(gradient, pictures()[1:2], target=0)
    torch.testing.assert_close(scores[1:2], alone, atol=1e-6, rtol=0)


def test_one_constant_map_makes_its_image_undefined():
    with pytest.warns(RuntimeWarning, match="1 of 1 maps"):
        found = metric().score(Encoding(model(), flat=True), image(), curves=True)  # constant for class 0 alone
    assert found.scores.isnan().item()
    assert all(v.isnan().item() for v in found.details.values())


def test_pixels_that_tie_are_kept_by_the_tie_rule():
    """A quarter of the pixels is kept, and all but one tie: the first four hold all three classes' pixels."""
    rules = [{"ties": "index"}, *({"ties": "random", "seed": s} for s in range(4))]
    found = [
        metric(keep=0.25, **r).score(Encoding(model()), image(), curves=True).details["gain"].item() for r in rules
    ]
    assert abs(found[0]) < 1e-7  # softmax in single precision
    assert min(map(abs, found[1:])) > 1e-3
    assert len(set(found)) > 2


def test_sigmoids_have_a_leak_and_no_divergence():
    found = metric().score(Encoding(model(activation="sigmoid")), image(), curves=True)
    # one pixel decides each sigmoid: kept or all, it is the same
    assert found.scores.item() == pytest.approx(0, abs=1e-7)
    assert found.details["kl"].isnan().item()


def test_a_dense_output_is_refused():
    dense = attribution.create("gradient", model(nn.Conv2d(3, 2, 1)))
    with pytest.raises(ValueError, match="need outputs of shape"):
        metric().score(dense, pictures(), target=(0, 1, 1))

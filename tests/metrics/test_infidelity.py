"""Infidelity: exact cases, captum as the oracle on the same changes, the squares, the noise, costs."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.masking import Evaluations
from attriscope.metrics.faithfulness.infidelity import Noisy, Squares, infidelity
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import infidelity_perturb_func_decorator
from torch import nn


class Function(nn.Module):
    """A score that is a function of the image; a second output that never changes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = self.function(x)
        return torch.stack([y, torch.zeros_like(y)], 1)


def model_of(function, **more):
    return attribution.Model(Function(function), **{"bounds": (0.0, 1.0), "activation": "none", "fast": False, **more})


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPE = (3, 11, 8)
WEIGHT = rand(*SHAPE, seed=1) - 0.3


def linear(x):
    return (x * WEIGHT.to(x)).sum((1, 2, 3)) + 0.7


def curved(x):
    left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
    return torch.tanh(3 * left * right) + (x.square() * WEIGHT.to(x)).mean((1, 2, 3))


def make(perturbation="square", **options):
    options = {"local": perturbation != "square", "normalize": False, "baseline": 0.25, "samples": 60, **options}
    return metrics.create("infidelity", perturbation=perturbation, **options)


KINDS = [("square", False), ("square", True), ("noise", True), ("baseline", True)]


def right_map(x, local, baseline=0.25):
    """What explains a linear score: its gradient, or that times the input."""
    return (WEIGHT if local else WEIGHT * (x - baseline)).expand(x.shape)


# -- exact cases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_a_linear_score_is_explained_without_a_rest(perturbation, local):
    x = rand(2, *SHAPE)
    metric = make(perturbation, local=local)
    scores = metric.score(model_of(linear), x, right_map(x, local), target=0)
    assert scores.max() < 1e-24  # squares of what float64 sums of 264 numbers round to
    assert scores.min() >= 0


@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_twice_the_right_map_is_wrong_by_what_it_says_once(perturbation, local):
    """INFD(2a) = mean (I . a)^2, which for a linear score is the mean squared loss: the relative infidelity is 1."""
    x = rand(2, *SHAPE)
    metric, model = make(perturbation, local=local), model_of(linear)
    found = metric.score(model, x, 2 * right_map(x, local), target=0, curves=True)
    nothing = metric.score(model, x, 0 * x, target=0)
    torch.testing.assert_close(found.scores, nothing, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.details["relative"], torch.ones(2, dtype=torch.float64), rtol=1e-9, atol=0)
    assert found.details["beta"].tolist() == [1.0, 1.0]
    scaled = make(perturbation, local=local, normalize=True)
    found = scaled.score(model, x, 2 * right_map(x, local), target=0, curves=True)
    assert found.scores.max() < 1e-24
    torch.testing.assert_close(found.details["beta"], torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-9, atol=0)


def test_of_a_score_that_never_changes_what_the_map_says_is_wrong():
    """INFD = mean (I . a)^2; and with a scale of its own any map is right, which is no finding."""
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE, seed=2)
    metric = make()
    draws = Squares(88, 60, 11, 8, int(0.36 * 8), 0)(slice(0, 60)).double()
    expected = (maps.sum(1).flatten(1) @ draws.T).square().mean(1)
    found = metric.score(model_of(linear), x, maps, target=1, curves=True)
    torch.testing.assert_close(found.scores, expected)
    assert found.details["relative"].isnan().all()
    with pytest.warns(RuntimeWarning, match=r"2 of 2 .* loses nothing"):
        assert make(normalize=True).score(model_of(linear), x, maps, target=1).isnan().all()
    wobble = model_of(lambda z: 1 + 2e-16 * z.mean((1, 2, 3)).mul(1e6).sin().sign())  # a last bit that says nothing
    with pytest.warns(RuntimeWarning, match="2 of 2"):
        assert make(normalize=True).score(wobble, x, maps, target=0).isnan().all()


def test_a_map_of_zeros_explains_nothing():
    x = rand(2, *SHAPE)
    for normalize in (False, True):
        found = make(normalize=normalize).score(model_of(curved), x, 0 * x, target=0, curves=True)
        assert found.details["relative"].tolist() == [1.0, 1.0]
    assert found.details["beta"].tolist() == [0.0, 0.0]


def test_a_map_that_points_the_other_way_is_not_turned_round_unless_asked():
    x = rand(2, *SHAPE)
    model, maps = model_of(curved), right_map(x, local=False)
    right = make(normalize=True).score(model, x, maps, target=0, curves=True)
    wrong = make(normalize=True).score(model, x, -maps, target=0, curves=True)
    assert (right.details["relative"] < 0.8).all()
    assert wrong.details["relative"].tolist() == [1.0, 1.0]
    assert wrong.details["beta"].tolist() == [0.0, 0.0]
    turned = make(normalize=True, flip=True).score(model, x, -maps, target=0, curves=True)
    torch.testing.assert_close(turned.scores, right.scores)
    torch.testing.assert_close(turned.details["beta"], -right.details["beta"])


def test_the_best_scale_is_the_best():
    said, lost = rand(3, 40), rand(3, 40, seed=1)
    best, scale = infidelity(said, lost)
    for change in (0.99, 1.01):
        assert (infidelity(change * scale[:, None] * said, lost, normalize=False)[0] > best).all()
    slope = [np.linalg.lstsq(a[:, None].numpy(), b.numpy(), rcond=None)[0][0] for a, b in zip(said, lost, strict=True)]
    np.testing.assert_allclose(scale.numpy(), slope, rtol=1e-9)


# -- captum ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_it_is_captum_s_on_the_same_changes(perturbation, local, normalize):
    """Both of captum's forms: `multiply_by_inputs` is what is not local."""
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE, seed=2) - 0.5
    metric = make(perturbation, local=local, normalize=normalize, flip=normalize, seed=5)
    n = metric.samples
    if perturbation == "square":
        out = Squares(88, n, 11, 8, int(0.36 * 8), 5)(slice(0, n)).reshape(n, 1, 11, 8)
        changed = [torch.where(out, 0.25, image) for image in x]
    else:
        around = x if perturbation == "noise" else torch.full_like(x, 0.25)
        noise = Noisy(x, x, 0.2, n, 5).drawn(slice(0, n)).reshape(n, *SHAPE)
        changed = [image + noise for image in around]

    @infidelity_perturb_func_decorator(multiply_by_inputs=not local)
    def perturb(inputs, baselines):
        assert len(inputs) == 2 * n
        return torch.cat(changed)

    expected = captum_infidelity(
        lambda z: curved(z)[:, None], perturb, x, maps, baselines=torch.full_like(x, 0.25), target=0,
        n_perturb_samples=n, normalize=normalize,
    )  # fmt: skip
    scores = metric.score(model_of(curved), x, maps, target=0)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)  # captum expands the square: it cancels


# -- channels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_one_channel_is_split_by_a_declared_rule(perturbation, local):
    x, one = rand(2, *SHAPE), rand(2, 1, *SHAPE[1:], seed=2)
    model = model_of(curved)
    for split, whole in (("equal", one.expand(x.shape) / 3), ("repeat", one.expand(x.shape))):
        metric = make(perturbation, local=local, split=split)
        expected = metric.score(model, x, whole, target=0)
        torch.testing.assert_close(metric.score(model, x, one, target=0), expected)
        torch.testing.assert_close(metric.score(model, x, one[:, 0], target=0), expected)


def test_channels_are_told_apart_where_the_map_is_like_a_gradient():
    """The same sum over channels, but another product with the change."""
    x, maps = rand(2, *SHAPE), right_map(rand(2, *SHAPE), local=True)
    mixed = maps.roll(1, dims=1)
    assert make("noise").score(model_of(linear), x, mixed, target=0).min() > 0.1
    of_sums = make("square").score(model_of(linear), x, maps, target=0)
    torch.testing.assert_close(make("square").score(model_of(linear), x, mixed, target=0), of_sums)


# -- changes -----------------------------------------------------------------------------------------------------------


def test_squares_are_squares_everywhere_in_the_image():
    drawn = Squares(9 * 14, 3000, 9, 14, 4, seed=2)(slice(0, 3000)).reshape(3000, 9, 14)
    rows, columns = drawn.any(2), drawn.any(1)
    side = rows.sum(1)
    assert torch.equal(side, columns.sum(1))
    assert torch.equal(drawn.sum((1, 2)), side.square()), "full, and one block"
    for line in (rows, columns):
        assert (line.int().diff(dim=1).abs().sum(1) <= 2).all()
    # uniform on 1 ... 4: five standard errors of a share of 1/4 in 3000 draws
    assert (side.bincount(minlength=5)[1:] / 3000 - 0.25).abs().max() < 5 * (3 / 16 / 3000) ** 0.5
    top = rows[side == 4].int().argmax(1).bincount()
    left = columns[side == 4].int().argmax(1).bincount()
    assert len(top) == 6
    assert len(left) == 11
    assert top.min() > 0.6 * top.sum() / 6  # five standard errors of about 1/6 in 750
    assert left.min() > 0.4 * left.sum() / 11


def test_more_changes_go_on_where_fewer_ended_and_are_every_image_s():
    few, many = (Squares(80, n, 8, 10, 3, 1)(slice(0, 7)) for n in (7, 90))
    assert torch.equal(few, many)
    x = rand(2, *SHAPE)
    noise = Noisy(x, x, 0.3, 90, 1)
    assert torch.equal(Noisy(x[:1], x[:1], 0.3, 7, 1).drawn(slice(2, 7)), noise.drawn(slice(0, 90))[2:7])
    assert noise.drawn(slice(0, 90)).std() == pytest.approx(0.3, rel=0.02)  # of 24000 numbers: .005
    out = torch.empty(3, *SHAPE, dtype=torch.float64)
    for row in range(2):
        noise.write(out, row, slice(4, 7))
        torch.testing.assert_close(out - x[row], noise.drawn(slice(4, 7)).reshape(out.shape))


def test_the_largest_square_is_a_share_of_the_shorter_side():
    x = rand(1, 1, 10, 28)
    seen = []

    def watch(z):
        seen.append(((z[:, 0] == 9).any(2).sum(1), (z[:, 0] == 9).any(1).sum(1)))
        return z.mean((1, 2, 3))

    for largest, side in ((0.36, 3), (0.01, 1), (1.0, 10)):
        seen.clear()
        make(baseline=9.0, largest=largest, samples=200).score(model_of(watch), x, x[:, 0], target=0)
        assert max(int(h.max()) for h, _ in seen) == side
        assert max(int(w.max()) for _, w in seen) == side


# -- shared evaluations, options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_changes_are_paid_once_for_all_methods(perturbation, local):
    x = rand(2, *SHAPE)
    model, metric = model_of(curved), make(perturbation, local=local)
    maps = [rand(2, *SHAPE, seed=s) - 0.5 for s in range(3)]
    todo = Evaluations(model, model.resolve(x, 0))
    finish = [metric.prepare(todo, x, m) for m in maps]
    other = make(perturbation, local=local, normalize=True).prepare(todo, x, maps[0])  # it wants the same losses
    with model.ledger(2) as ledger:
        todo.run()
        scores = [f().scores for f in (*finish, other)]
    assert ledger.forwards.tolist() == [metric.cost(SHAPE)] * 2 == [61, 61]
    for one, found in zip(maps, scores, strict=False):
        torch.testing.assert_close(found, metric.score(model_of(curved), x, one, target=0))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"baseline": 0.5}, {"largest": 0.8}, {"noise": 0.1}, {"samples": 59}, {"perturbation": "noise"}],
)
def test_other_changes_are_not_taken_for_the_same(change):
    x, maps = rand(2, *SHAPE), rand(2, *SHAPE, seed=3)
    first = make("square" if "largest" in change else "baseline")
    second = make(**{**first.params, **change})
    model = model_of(curved)
    todo = Evaluations(model, model.resolve(x, 0))
    together = [metric.prepare(todo, x, maps) for metric in (first, second)]
    for metric, finish in zip((first, second), together, strict=True):
        torch.testing.assert_close(finish().scores, metric.score(model_of(curved), x, maps, target=0))
    assert not torch.equal(together[0]().scores, together[1]().scores)


@pytest.mark.parametrize(("perturbation", "local"), KINDS)
def test_neither_batch_size_nor_place_matters(perturbation, local):
    x, maps = rand(3, *SHAPE), rand(3, *SHAPE, seed=2)
    metric = make(perturbation, local=local, normalize=True)
    whole = metric.score(model_of(curved, batch_size=64), x, maps, target=0)
    order = torch.tensor([2, 0, 1])
    for size in (1, 7):
        found = metric.score(model_of(curved, batch_size=size), x[order], maps[order], target=0)
        torch.testing.assert_close(found, whole[order], rtol=1e-9, atol=0)  # float64


def test_said_in_chunks_is_what_is_said(monkeypatch):
    from attriscope.metrics.faithfulness import _subsets

    x, maps = rand(2, *SHAPE), rand(2, *SHAPE, seed=2)
    for perturbation, local in KINDS:
        metric = make(perturbation, local=local)
        whole = metric.score(model_of(curved), x, maps, target=0)
        with monkeypatch.context() as patch:
            patch.setattr(_subsets, "NUMBERS", 1000)
            torch.testing.assert_close(metric.score(model_of(curved), x, maps, target=0), whole)


def test_options_that_do_not_go_together_are_refused():
    for perturbation in ("noise", "baseline"):
        with pytest.raises(ValueError, match="local=True"):
            metrics.create("infidelity", perturbation=perturbation)
    with pytest.raises(ValueError, match="changes nothing"):
        metrics.create("infidelity", perturbation="noise", local=True, noise=0.0)
    with pytest.raises(ValueError, match="normalize"):
        metrics.create("infidelity", normalize=False, flip=True)
    with pytest.raises(ValueError, match="fit"):
        make().score(model_of(linear), rand(1, *SHAPE), rand(1, 2, *SHAPE[1:]), target=0)
    assert metrics.create("infidelity").cost() == 201

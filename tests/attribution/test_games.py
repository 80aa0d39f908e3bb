"""Games, designs, and evaluations that several methods share."""

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model, baselines, designs, masking, regions
from attriscope.attribution.games import Game
from attriscope.attribution.targets import read, read_all, resolve


def game(model, x, labels, target=0, *, baseline=0.0, output="logit"):
    start = baselines.make(baseline, x, model)
    return Game(model, x, start, labels, model.resolve(x, target), output=output)


@pytest.fixture
def setting(networks, images):
    x = images(2, dtype=torch.float64)
    labels = torch.stack([regions.grid(8, 8, 2, 2)[0], regions.grid(8, 8, 3, 2)[0]])
    return Model(networks.cnn().double(), batch_size=3), x, labels


def test_values_are_the_network_s_on_composed_images(setting):
    model, x, labels = setting
    one = game(model, x, labels, [1, 3], baseline=0.3)
    assert one.sizes == [4, 6]
    wanted = [torch.rand(7, 4) < 0.5, torch.rand(5, 6) < 0.5]
    for i, (rows, found) in enumerate(zip(wanted, one.values(wanted), strict=True)):
        keep = rows[:, labels[i]][:, None]
        expected = model.network(torch.where(keep, x[i], 0.3))[:, (1, 3)[i]]
        torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


def test_a_coalition_is_evaluated_once(setting):
    model, x, labels = setting
    one = game(model, x, labels)
    rows = torch.tensor([[True, False, True, True], [False] * 4, [True, False, True, True]])
    none = torch.zeros(0, 6, dtype=torch.bool)
    with model.ledger(2) as ledger:
        first = one.values([rows, none])
        again = one.values([rows.flip(0), none])
        empty, whole = one.ends()
    assert [len(v) for v in first] == [3, 0]
    assert torch.equal(first[0], again[0].flip(0))
    assert ledger.forwards.tolist() == [2 + 1, 2]  # two, then the whole image; both ends of the other
    assert float(empty[0]) == float(first[0][1])
    torch.testing.assert_close(whole, model.network(x)[:, 0].detach(), rtol=1e-9, atol=1e-12)


def test_sharing_pays_once_and_charges_each(setting):
    model, x, labels = setting
    rows = [torch.cat([torch.eye(d, dtype=torch.bool)[:1], torch.rand(8, d) < 0.5]) for d in (4, 6)]
    with model.sharing():
        before = model.forwards
        alone = game(model, x, labels).values(rows)
        paid = model.forwards - before
        with model.ledger(2) as ledger:
            found = game(model, x, labels).values(rows)
        assert model.forwards - before == paid
        assert int(ledger.forwards.sum()) == paid
        # another baseline, target, score or label map is another game
        for other in (
            game(model, x, labels, baseline=0.1), game(model, x, labels, target=1),
            game(model, x, labels, output="probability"), game(model, x, 1 - labels.clamp_max(1)),
            game(model, x + 0.1, labels),
        ):  # fmt: skip
            before = model.forwards
            other.values([torch.eye(d, dtype=torch.bool)[:1] for d in other.sizes])
            assert model.forwards == before + 2
    for a, b in zip(alone, found, strict=True):
        assert torch.equal(a, b)
    assert model.shared is None
    before = model.forwards
    game(model, x, labels).values(rows)
    assert model.forwards == before + paid  # outside nothing is remembered


def test_callable_targets_are_told_apart_by_who_they_are(setting):
    """By identity, held for as long as anything is remembered: addresses are used again."""
    model, x, labels = setting
    with model.sharing():
        for column in range(4):

            def function(out, column=column):
                return out[:, column]

            for _ in range(2):
                before = model.forwards
                _, whole = game(model, x, labels, function).ends()
                torch.testing.assert_close(whole, model.network(x)[:, column].detach(), rtol=1e-9, atol=1e-12)
            assert model.forwards == before  # the second time
            del function


def test_the_ends_are_shared_whatever_the_regions(setting):
    model, x, labels = setting
    with model.sharing():
        first = game(model, x, labels).ends()
        before = model.forwards
        other = game(model, x, regions.grid(8, 8, 4, 4).expand(2, -1, -1)).ends()
        assert model.forwards == before
    assert torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])


def test_keyed_evaluations_go_on_where_shorter_ones_ended(setting):
    model, x, _ = setting
    target = model.resolve(x, 0)
    masks = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    source = masking.Masks(x, baselines.make(0.0, x, model), lambda items: masks[items], 20)
    whole = masking.evaluate(source, model, target, output="logit")
    with model.sharing():
        before = model.forwards
        short = masking.evaluate(source, model, target, output="logit", stop=8, key="bank")
        assert model.forwards == before + 16
        with model.ledger(2) as ledger:
            long = masking.evaluate(source, model, target, output="logit", key="bank")
        assert model.forwards == before + 40
        assert ledger.forwards.tolist() == [20, 20]  # as if alone
        middle = masking.evaluate(source, model, target, output="logit", start=3, stop=6, key="bank")
        assert model.forwards == before + 40
    torch.testing.assert_close(long, whole)
    assert torch.equal(short, long[:, :8])
    assert torch.equal(middle, long[:, 3:6])


def test_each_image_goes_on_where_it_ended(setting):
    """Neither more is evaluated than was asked for, nor what is known forgotten."""
    model, x, _ = setting
    target = model.resolve(x, 0)
    masks = torch.rand(30, 1, 8, 8, dtype=torch.float64)

    def source(rows):
        return masking.Masks(x[rows], baselines.make(0.0, x, model), lambda items: masks[items], 30)

    whole = masking.evaluate(source([0, 1]), model, target, output="logit")
    with model.sharing():

        def run(rows, start, stop):
            before = model.forwards
            found = masking.evaluate(
                source(rows), model, target.take(torch.tensor(rows)), output="logit", start=start, stop=stop, key="bank"
            )
            torch.testing.assert_close(found, whole[rows, start:stop])
            return model.forwards - before

        assert run([0], 3, 5) == 2
        assert run([0], 0, 20) == 20  # what has a gap before it was not kept
        assert run([0, 1], 0, 8) == 8  # the other's
        assert run([0], 0, 20) == 0  # nothing was cut off
        assert run([1], 15, 20) == 5  # not what lies between
        assert run([1], 8, 20) == 12
        assert run([0, 1], 5, 30) == 20


def test_a_network_trained_on_is_not_explained_by_its_past(networks, images):
    network, x = networks.cnn(), images(1)
    model = Model(network)
    made = attribution.create("feature_ablation", model, regions="grid", n_regions=4)
    with model.sharing():
        first = made.attribute(x, 0)
        with torch.no_grad():
            network[-1].weight.mul_(3.0)
        then = made.attribute(x, 0)
    torch.testing.assert_close(then, 3 * first, rtol=1e-3, atol=1e-5)


def test_coalitions_must_be_the_game_s(setting):
    model, x, labels = setting
    one = game(model, x, labels)
    for wrong in (torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 4), torch.zeros(4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"coalitions of 4 regions are \(m, 4\) bool"):
            one.values([wrong, torch.zeros(0, 6, dtype=torch.bool)])


def test_sources_that_differ_between_images_go_elsewhere(setting):
    model, x, labels = setting
    black = torch.zeros(1, 3, 1, 1).double()
    source = masking.Coalitions(x, black, labels, lambda row, items: torch.ones(2, (4, 6)[row])[items], [2, 1])
    target = model.resolve(x, 0)
    with pytest.raises(ValueError, match="use evaluate_each"):
        masking.evaluate(source, model, target, output="logit")
    with pytest.raises(ValueError, match="use evaluate_each"):
        masking.Evaluations(model, target).ask(source)
    assert [len(v) for v in masking.evaluate_each(source, model, target, output="logit")] == [2, 1]


@pytest.mark.parametrize("name", ["rise", "sobol"])
def test_a_budget_holds_within_a_comparison_too(name):
    """Images that stop leave others behind, whose parts of a callable target are new objects."""

    class Own:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, out):
            return out[:, 0] * self.scale

        def take(self, rows):
            return Own(self.scale[rows])

    class Rough(torch.nn.Module):
        def forward(self, x):
            return (x.mean((1, 2, 3)) + x[:, 0, :4].amax((1, 2)).sin() * x[:, 1, 4:].amin((1, 2)))[:, None]

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0] = 0.5 * (x[0] > 2)  # a black one is settled at once
    model = Model(Rough(), activation="none")
    made = attribution.create(name, model, budget=1000, tolerance=1e-4, grid=3, baseline="zero")
    alone = made.explain(x, Own(torch.ones(2)))
    with model.sharing():
        found = made.explain(x, Own(torch.ones(2)))
    assert int(found.forwards.max()) <= 1000
    assert torch.equal(found.forwards, alone.forwards)
    assert found.forwards[0] < found.forwards[1]


def test_half_precision_images_lose_nothing_between_methods(networks, images):
    x = images(1).bfloat16()
    model = Model(networks.cnn(), fast=False)
    occlusion = attribution.create("occlusion", model, window=4, stride=4)
    alone = occlusion.attribute(x, 0)
    with model.sharing():
        attribution.create("feature_ablation", model, regions="grid", n_regions=4).attribute(x, 0)
        # the clean image is in another batch now: float32 rounding, where bfloat16's would be 4e-3
        torch.testing.assert_close(occlusion.attribute(x, 0), alone, rtol=0, atol=1e-6)
    assert alone.dtype == torch.float32


def test_a_study_pays_once_for_what_its_methods_share(networks, images):
    """KernelSHAP takes every coalition of one missing region; ablation wants just these."""
    x = images(3)
    model = Model(networks.cnn())
    labels = regions.grid(8, 8, 3, 3)[0]
    more = {"regions": labels, "baseline": 0.0}
    shap, ablation = ("kernel_shap", {"samples": 100, **more}), ("feature_ablation", more)
    alone = [metrics.compare(model, x, 0, attributors=[one], metrics=["deletion"], progress=False) for one in (shap, ablation)]
    both = metrics.compare(model, x, 0, attributors=[shap, ablation], metrics=["deletion"], progress=False)
    for name, one in zip(("kernel_shap", "feature_ablation"), alone, strict=True):
        torch.testing.assert_close(both.maps[name], one.maps[name])
        own = both.costs[both.costs["method"] == name]["forwards"].tolist()
        assert own == one.costs["forwards"].tolist()
    curves = alone[1].paid - 3 * 10
    assert alone[1].alone >= alone[1].paid
    assert both.alone - both.paid >= 3 * 10  # ten coalitions of three images
    assert curves > 0


def test_hsic_and_lime_on_one_grid_pay_once(networks, images):
    x, model = images(2, height=12, width=12), Model(networks.cnn())
    same = {"baseline": "mean", "output": "logit", "seed": 3}
    hsic = attribution.create("hsic", model, grid=4, designs=50, sampler="mc", permutations=0, **same)
    lime = attribution.create("lime", model, regions="grid", n_regions=16, samples=51, **same)
    alone = [made.explain(x, 0) for made in (hsic, lime)]
    with model.sharing():
        before = model.forwards
        shared = [made.explain(x, 0) for made in (hsic, lime)]
        # LIME's one more is the whole image; the one that names the clean score is nobody's
        assert model.forwards - before == 2 * 51
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(other.maps, one.maps)
        assert torch.equal(other.forwards, one.forwards)


def test_lime_and_hsic_like_banks_are_the_same_draws():
    assert torch.equal(designs.bernoulli(3, 10, 5), designs.bernoulli(3, 40, 5)[:10])
    assert not torch.equal(designs.bernoulli(3, 10, 5), designs.bernoulli(4, 10, 5))
    sizes = designs.uniform_sizes(0, 20_000, 9).sum(1).bincount(minlength=10) / 20_000
    np.testing.assert_allclose(sizes.numpy(), 0.1, atol=0.011)  # five standard errors


@pytest.mark.parametrize("sampler", ["sobol", "official", "halton", "lhs", "mc"])
def test_points_are_uniform_and_repeatable(sampler):
    found = designs.points(5, 512, sampler, 0)
    assert found.shape == (512, 5)
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    np.testing.assert_allclose(found.mean(0).numpy(), 0.5, atol=0.065)  # five standard errors of independent points
    assert torch.equal(found, designs.points(5, 512, sampler, 0))
    assert torch.equal(found, designs.points(5, 512, sampler, 1)) == (sampler == "official")
    if sampler != "lhs":
        assert torch.equal(designs.points(5, 100, sampler, 0), found[:100])
    else:
        assert all(sorted((found[:, i] * 512).long().tolist()) == list(range(512)) for i in range(5))


def test_a_sobol_sequence_has_so_many_dimensions():
    with pytest.raises(ValueError, match="take fewer cells"):
        designs.points(designs.DIMENSIONS + 1, 2, "sobol", 0)


@pytest.mark.parametrize("output", ["logit", "probability", "log_probability", "margin"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4,)])
def test_all_classes_are_each_one_s_score(output, activation, shape):
    out = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    found = read_all(out, output, activation)
    for c in range(found.shape[1]):
        wanted = read(out, resolve(c, 4, shape[1:]), output, activation)
        torch.testing.assert_close(found[:, c], wanted)


def test_all_classes_need_an_axis_of_classes():
    with pytest.raises(ValueError, match="name one target"):
        read_all(torch.rand(2, 3, 4, 4), "logit", "softmax")


# -- regions and baselines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slic", "grid", "felzenszwalb"])
@pytest.mark.parametrize("number", [1, 2, 5, 13, 49, 60])
def test_there_are_never_more_regions_than_asked_for(images, name, number):
    for x in (images(2, height=20, width=30), torch.full((1, 3, 12, 12), 0.5), images(1, height=5, width=4)):
        found = regions.make(name, x, Model(lambda x: x), n_regions=number)
        pixels = x.shape[2] * x.shape[3]
        assert max(regions.sizes(found)) <= min(number, pixels) == regions.most(name, number, x.shape[1:])
        assert bool((found >= 0).all())


def test_painted_maps_fill_or_share(images):
    labels = torch.tensor([[[0, 0, 1], [2, 2, 2]]])
    values = [torch.tensor([4.0, 5.0, 6.0]).double()]
    x = images(1, height=2, width=3)
    maps, details = regions.paint(values, labels, x)
    assert maps.tolist() == [[[[4, 4, 5], [6, 6, 6]]]]
    assert maps.dtype == x.dtype
    maps, _ = regions.paint(values, labels, x, share=True)
    assert maps.tolist() == [[[[2, 2, 5], [2, 2, 2]]]]
    assert float(maps.sum()) == float(details["values"].sum())
    tokens = torch.rand(1, 3, 5)
    maps, _ = regions.paint(values, torch.tensor([[0, 1, 2]]), tokens, share=True)
    assert maps.shape == (1, 3)
    torch.testing.assert_close(maps.sum() * 5, torch.tensor(15.0))


def test_a_table_has_a_region_for_each_column_unless_told():
    x, tokens = torch.rand(3, 4), torch.rand(3, 4, 2)
    model = Model(lambda x: x, kind="table")
    for inputs in (x, tokens):
        assert regions.make("slic", inputs, model).tolist() == [[0, 1, 2, 3]] * 3
        assert regions.make(torch.tensor([5, 5, 9, 5]), inputs, model).tolist() == [[0, 0, 1, 0]] * 3
        with pytest.raises(ValueError, match="does not fit"):
            regions.make(torch.zeros(3).long(), inputs, model)


def test_the_mean_of_a_region():
    x = torch.rand(2, 3, 4, 6)
    labels = torch.stack([regions.grid(4, 6, 2, 2)[0], regions.grid(4, 6, 1, 3)[0]])
    found = baselines.make("region_mean", x, Model(lambda x: x), labels=labels)
    for i in range(2):
        for k in labels[i].unique():
            inside = labels[i] == k
            wanted = x[i][:, inside].mean(1, keepdim=True).expand(-1, int(inside.sum()))
            torch.testing.assert_close(found[i][:, inside], wanted)
    with pytest.raises(ValueError, match="methods that have regions"):
        baselines.make("region_mean", x, Model(lambda x: x))
    # a column is its own mean: nothing would be removed
    table = Model(lambda x: x, kind="table", mean=(0.5,) * 4)
    wanted = baselines.make("mean", torch.rand(2, 4), table)
    assert torch.equal(baselines.make("region_mean", torch.rand(2, 4), table), wanted)
    grey = torch.rand(1, 1, 64, 64).half()
    found = baselines.make("region_mean", grey, Model(lambda x: x), labels=torch.zeros(1, 64, 64).long())
    torch.testing.assert_close(found.float(), grey.float().mean().expand(1, 1, 64, 64), rtol=1e-3, atol=0)


def test_methods_of_one_stream_keep_the_ledger_of_each(networks, images):
    """What a method reports as its cost does not depend on who ran before it."""
    x, model = images(2), Model(networks.cnn())
    made = attribution.create("kernel_shap", model, samples=40, regions="grid", n_regions=9)
    alone = made.explain(x, 0).forwards
    with model.sharing():
        attribution.create("shapley_sampling", model, permutations=4, regions="grid", n_regions=9).explain(x, 0)
        assert torch.equal(made.explain(x, 0).forwards, alone)

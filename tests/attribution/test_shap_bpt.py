"""ShapBPT: hand values, a recursion written anew, and the trees that it stands on."""

import itertools
import math

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model, trees
from attriscope.attribution.perturbation.shap_bpt import owen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

EXACT = 1e-12  # float64 sums of some hundred terms


def nested(shape, labels):
    """A tree written as nested pairs of leaf numbers."""
    children = [None] * (1 + int(np.max(labels)))

    def number(node):
        if isinstance(node, int):
            return node
        children.append(tuple(number(part) for part in node))
        return len(children) - 1

    return trees.arrange(children, number(shape), labels)


FOUR = nested(((0, 1), (2, 3)), np.arange(4))


def game(function, tree):
    """`play` of a function of bool rows, one column for each pixel."""
    return lambda wanted: [function(w[:, tree.labels.flatten()]).double() for w in wanted]


def refined(function, tree, evaluations=100_000, **more):
    (found,) = owen([tree], game(function, tree), evaluations=evaluations, **more)
    return found.values[tree.labels.flatten()], found


def recursion(function, tree, node=0, beside=frozenset()):
    """The Owen value of each pixel below a node, straight from the definition: no items, no queue, sets of pixels."""
    labels = tree.labels.flatten().tolist()

    def pixels(k):
        return frozenset(i for i, leaf in enumerate(labels) if tree.spans[k, 0] <= leaf < tree.spans[k, 1])

    def value(members):
        return float(function(torch.tensor([[i in members for i in range(len(labels))]])))

    if tree.children[node, 0] < 0:
        own = pixels(node)
        return {i: (value(beside | own) - value(beside)) / len(own) for i in own}
    found = {}
    for one, other in itertools.permutations(tree.children[node].tolist()):
        alone, joined = recursion(function, tree, one, beside), recursion(function, tree, one, beside | pixels(other))
        found |= {i: (alone[i] + joined[i]) / 2 for i in alone}
    return found


def shapley(function, n):
    """Flat Shapley values by enumeration."""
    found = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for some in itertools.combinations(others, size):
                rows = torch.tensor([[j in some for j in range(n)], [j in some or j == i for j in range(n)]])
                without, with_it = function(rows).double()
                found[i] += weight * (with_it - without)
    return found


def random_game(n, seed=0, degree=5):
    """A smooth function of n players in which everything interacts."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, degree, generator=generator, dtype=torch.float64)
    second = torch.randn(degree, generator=generator, dtype=torch.float64)
    return lambda z: torch.tanh(z.double() @ first * 0.4) @ second


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda z: z[:, 0] & z[:, 1] & z[:, 2], [1 / 4, 1 / 4, 1 / 2, 0]),
        (lambda z: z[:, 0] & z[:, 2], [1 / 2, 0, 1 / 2, 0]),
        (lambda z: z[:, 0] & z[:, 1], [1 / 2, 1 / 2, 0, 0]),
        (lambda z: z.double() @ torch.tensor([3.0, -1.0, 0.5, 8.0]).double() + 7, [3, -1, 0.5, 8]),
    ],
    ids=["three", "across", "within", "additive"],
)
@pytest.mark.parametrize("splits", [1, 8])
def test_values_by_hand(function, wanted, splits):
    found, _ = refined(function, FOUR, splits=splits)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=EXACT, rtol=0)


def test_it_is_not_shapley_s_value():
    three = shapley(lambda z: z[:, 0] & z[:, 1] & z[:, 2], 4)
    torch.testing.assert_close(three, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0], dtype=torch.float64), atol=EXACT, rtol=0)
    weights = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _ = refined(lambda z: z.double() @ weights, FOUR)  # where nothing interacts, both are the weights
    torch.testing.assert_close(found, shapley(lambda z: z.double() @ weights, 4), atol=EXACT, rtol=0)


def test_with_two_leaves_it_is_shapley_s_value():
    two = nested((0, 1), np.arange(2))
    torch.testing.assert_close(refined(random_game(2), two)[0], shapley(random_game(2), 2), atol=EXACT, rtol=0)


@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_fully_refined_it_is_the_recursion(kind):
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    (tree,) = trees.make(kind, image, Model(nn.Flatten()))
    function = random_game(16)
    wanted = recursion(function, tree)
    found, more = refined(function, tree)
    torch.testing.assert_close(
        found, torch.tensor([wanted[i] for i in range(16)], dtype=torch.float64), atol=EXACT, rtol=0
    )
    assert more.remaining == 0
    assert more.pieces.tolist() == list(range(16))


def test_partly_refined_it_is_the_mean_of_each_piece():
    """The root alone is split: each half has its value over its area."""
    tree = nested(((0, 1), 2), np.array([0, 0, 1, 1, 1, 2]))
    function = random_game(6)
    found, more = refined(function, tree, 4)
    none, left, right, both = function(torch.tensor([[0] * 6, [1] * 5 + [0], [0] * 5 + [1], [1] * 6])).tolist()
    value = ((left - none) + (both - right)) / 2
    torch.testing.assert_close(found[:5], torch.full((5,), value / 5, dtype=torch.float64), atol=EXACT, rtol=0)
    assert float(found[5]) == pytest.approx(both - none - value, abs=EXACT)
    # the left half could be split, in two items
    assert more.remaining == pytest.approx((abs(left - none) + abs(both - right)) / 2, abs=EXACT)
    assert more.pieces.tolist() == [0, 0, 1]


@pytest.mark.parametrize("splits", [1, 3, 8])
def test_efficiency_at_every_budget(splits):
    tree = trees.halve(5, 7)
    function = random_game(35)
    difference = float(torch.diff(function(torch.tensor([[False] * 35, [True] * 35]))))
    for evaluations in range(2, 120):
        found, more = refined(function, tree, evaluations, splits=splits)
        assert float(found.sum()) == pytest.approx(difference, rel=EXACT)
        assert more.evaluations == evaluations - evaluations % 2  # two for a split


def test_a_large_value_leaves_nothing_on_other_pixels():
    """One pixel has all of a large image: no rounding of it reaches the others."""
    tree = trees.halve(64, 64, 4096)
    # the pixel is twelve levels down, each of which doubles the sets that it stands beside
    found, _ = refined(lambda z: 1e6 / 3 * z[:, 77].double(), tree, 9000, splits=64)
    assert float(found[77]) == pytest.approx(1e6 / 3, rel=EXACT)
    assert not found[torch.arange(4096) != 77].any()


def test_symmetric_halves_get_the_same():
    found, _ = refined(lambda z: (z[:, :2].sum(1) * z[:, 2:].sum(1) + z.sum(1)).double(), FOUR)
    torch.testing.assert_close(found, found.mean().expand(4), atol=EXACT, rtol=0)


def test_the_best_is_split_first():
    """Only what is around one pixel matters: the search goes down to it and nowhere else."""
    tree = trees.halve(16, 16)
    place = 16 * 5 + 11
    found, more = refined(lambda z: z[:, place].double(), tree, 2 + 2 * (2**8 - 1), splits=1)
    assert float(found[place]) == 1
    assert float(found.abs().sum()) == 1
    assert len(more.pieces.unique()) == 9  # the pixel, and a sibling for each of eight levels
    assert more.remaining == 0


@pytest.mark.parametrize("size", [1e-7, 1e-9])
def test_rounding_does_not_decide(size):
    """Everything is equal but for noise: the same pieces are split, whatever the noise."""
    tree = trees.halve(8, 8)
    runs = []
    for seed in range(4):
        noise = torch.Generator().manual_seed(seed)

        def function(z, noise=noise):
            return z.double().sum(1) * (1 + size / 64 * torch.randn(len(z), generator=noise, dtype=torch.float64))

        runs.append(refined(function, tree, 60)[1].pieces)
    assert all(torch.equal(one, runs[0]) for one in runs)


def test_a_tolerance_stops_early():
    """All pixels count alike: an item holds 1, a quarter, a sixteenth of the difference, level by level."""
    tree = trees.halve(8, 8)
    spent = {
        tolerance: refined(lambda z: z.double().sum(1), tree, 400, tolerance=tolerance)[1].evaluations
        for tolerance in (None, 0.0, 0.07, 0.24, 0.26, 0.99, 1.01)
    }
    assert spent == {None: 400, 0.0: 400, 0.07: 12, 0.24: 12, 0.26: 4, 0.99: 4, 1.01: 2}


# -- on images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ["bpt", "axis"])
@pytest.mark.parametrize("size", [(12, 20), (21, 13), (40, 60)])
def test_the_map_sums_to_the_difference(networks, images, tree, size):
    """On images that are not square too, and where leaves are superpixels or cells."""
    network = networks.cnn().double()
    x = images(3, height=size[0], width=size[1], dtype=torch.float64)
    for evaluations in (2, 5, 60):
        found = attribution.create(
            "shap_bpt", network, tree=tree, evaluations=evaluations, leaves=300, baseline=0.25
        ).explain(x, [0, 1, 2])
        with torch.no_grad():
            wanted = (network(x) - network(torch.full_like(x, 0.25)))[range(3), [0, 1, 2]]
        torch.testing.assert_close(found.maps.sum((1, 2, 3)), wanted, rtol=1e-9, atol=1e-12)
        assert found.maps.shape == (3, 1, *size)
        assert found.forwards.tolist() == found.details["evaluations"].tolist() == [evaluations // 2 * 2] * 3
        for one, regions in zip(found.maps, found.details["regions"], strict=True):
            assert all(len(one[0][regions == r].unique()) == 1 for r in regions.unique())


@pytest.mark.parametrize("tree", ["bpt", "axis"])
def test_a_linear_network_s_weights_are_found(images, tree):
    """Every pixel is a leaf, and the budget lasts: w (x - baseline), pixel by pixel."""
    x = images(2, 1, 5, 4, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 2)).double()
    found = attribution.create("shap_bpt", network, tree=tree, evaluations=5000, baseline=0.5).attribute(x, 1)
    wanted = network[1].weight[1].detach().reshape(1, 1, 5, 4) * (x - 0.5)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("tree", ["bpt", "axis"])
def test_neither_batch_size_nor_company_matters(networks, images, tree):
    x = images(5, height=9, width=14)
    maps = [
        attribution.create(
            "shap_bpt", Model(networks.cnn(), batch_size=size, bounds=(0, 1)), tree=tree, evaluations=80
        ).attribute(x, [0, 1, 2, 3, 4])
        for size in (1, 64)
    ]
    # float32 scores of another batch size
    torch.testing.assert_close(maps[0], maps[1], atol=1e-5 * float(maps[0].abs().max()), rtol=0)
    made = attribution.create("shap_bpt", Model(networks.cnn(), bounds=(0, 1)), tree=tree, evaluations=80)
    alone = torch.cat([made.attribute(x[i : i + 1], i) for i in range(5)])
    torch.testing.assert_close(alone, maps[0], atol=1e-5 * float(maps[0].abs().max()), rtol=0)


def test_the_whole_and_the_empty_image_are_shared(networks, images):
    x, model = images(2), Model(networks.cnn(), bounds=(0, 1))
    with model.sharing():
        attribution.create("shap_bpt", model, evaluations=20).attribute(x, 1)
        before = model.forwards
        found = attribution.create("shap_bpt", model, evaluations=20, tree="axis").explain(x, 1)
        assert model.forwards - before == 2 * 18
        assert found.forwards.tolist() == [20, 20]  # the cost as if run alone


def test_a_table_s_columns():
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]).double()
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Model(lambda x: (x @ weight + x[:, 0] * x[:, 4])[:, None], kind="table", bounds=None)
    found = attribution.create("shap_bpt", model, baseline=0.0).attribute(x, 0)
    wanted = x * weight
    wanted[:, [0, 4]] += (x[:, 0] * x[:, 4] / 2)[:, None]  # a product of two is shared, in every tree
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


def test_tokens():
    """A token's value is spread over its numbers, so that the map sums to the difference."""
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 7.0]).double()
    x = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Model(lambda x: (x.sum(2) @ weight)[:, None], kind="tokens", bounds=None)
    found = attribution.create("shap_bpt", model, baseline=0.0).attribute(x, 0)
    assert found.shape == x.shape
    torch.testing.assert_close(found.sum(2), x.sum(2) * weight, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.sum((1, 2)), x.sum(2) @ weight, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["table", "tokens"])
def test_more_columns_than_leaves(kind):
    x = torch.ones(1, 10, 3) if kind == "tokens" else torch.ones(1, 10)
    model = Model(lambda x: x.flatten(1).sum(1, keepdim=True), kind=kind, bounds=None)
    found = attribution.create("shap_bpt", model, baseline=0.0, leaves=4).explain(x, 0)
    torch.testing.assert_close(found.maps, torch.ones_like(x))
    assert int(found.details["leaves"].max()) == 3


def test_what_is_refused(networks, images):
    network = networks.cnn()
    with pytest.raises(ValueError, match="evaluations=1: must be at least 2"):
        attribution.create("shap_bpt", network, evaluations=1)
    with pytest.raises(ValueError, match="budget=1: at its minimum, evaluations=2"):
        attribution.create("shap_bpt", network, budget=1)
    with pytest.raises(ValueError, match="choose one of bpt, axis"):
        attribution.create("shap_bpt", network, tree="oak")
    with pytest.raises(ValueError, match="tolerance=-1: must be at least 0"):
        attribution.create("shap_bpt", network, tolerance=-1)
    with pytest.raises(ValueError, match="take 'mean' or 'blur'"):
        attribution.create("shap_bpt", network, baseline="region_mean").attribute(images(), 0)
    with pytest.raises(ValueError, match="choose 'bpt' or 'axis'"):
        trees.make("oak", images(), Model(network))
    with pytest.raises(ValueError, match="at least one leaf"):
        trees.make("bpt", images(), Model(network), leaves=0)

    def broken(x):
        return torch.where(x.mean((1, 2, 3)) > 0.4, torch.nan, x.mean((1, 2, 3)))[:, None]

    model = Model(broken, bounds=(0, 1))
    with pytest.raises(ValueError, match="NaN or infinite"):
        attribution.create("shap_bpt", model, baseline=0.0).attribute(images() / 2 + 0.5, 0)
    assert model.forwards <= 3 * 2  # found at once


def test_a_constant_score_gives_an_empty_map(images):
    model = Model(lambda x: torch.ones(len(x), 1), bounds=None)
    assert not attribution.create("shap_bpt", model, evaluations=40).attribute(images(2), 0).any()


# -- trees -------------------------------------------------------------------------------------------------------------


def check_tree(tree, shape):
    """Every node is a span, children part it, leaves cover all."""
    leaves = len(tree.areas)
    assert tree.labels.shape == shape
    assert tree.labels.unique().tolist() == list(range(leaves))
    assert tree.spans.shape == tree.children.shape == (2 * leaves - 1, 2)
    assert tree.spans[0].tolist() == [0, leaves]
    assert tree.areas.tolist() == torch.bincount(tree.labels.flatten()).tolist()
    seen = [0]
    for node, (one, other) in enumerate(tree.children.tolist()):
        start, stop = tree.spans[node].tolist()
        if one < 0:
            assert (one, other, stop - start) == (-1, -1, 1)
            continue
        assert min(one, other) > node
        (first, cut), (again, last) = tree.spans[[one, other]].tolist()
        assert (first, again, last) == (start, cut, stop)
        seen += [one, other]
    assert sorted(seen) == list(range(2 * leaves - 1))


def connected(mask):
    from skimage.measure import label

    return label(mask, connectivity=2).max() == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 90), st.integers(0, 9), st.booleans())
def test_trees_are_trees(height, width, channels, leaves, seed, flat):  # noqa: PLR0917
    x = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    x = (x > 0.5).float() if flat else x
    for kind in ("axis", "bpt"):
        (tree,) = trees.make(kind, x, Model(nn.Flatten(), bounds=(0, 1)), leaves=leaves)
        check_tree(tree, (height, width))
        assert len(tree.areas) <= leaves
        labels = tree.labels.numpy()
        assert all(connected((labels >= start) & (labels < stop)) for start, stop in tree.spans.tolist())


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (12, 20), (21, 13)])
def test_axis_trees_halve_the_longer_side(size):
    tree = trees.halve(*size)
    check_tree(tree, size)
    boxes = []
    for start, stop in tree.spans.tolist():
        where = ((tree.labels >= start) & (tree.labels < stop)).nonzero()
        low, high = where.amin(0), where.amax(0) + 1
        assert len(where) == int((high - low).prod())  # a rectangle
        boxes.append((low, high))
    for node, (one, _) in enumerate(tree.children.tolist()):
        if one >= 0:
            sides = boxes[node][1] - boxes[node][0]
            longer = 0 if sides[0] >= sides[1] else 1
            half = boxes[one][1] - boxes[one][0]
            assert int(half[longer]) == int(sides[longer]) // 2
            assert int(half[1 - longer]) == int(sides[1 - longer])


def test_fewer_leaves_are_the_same_tree_cut_off():
    fine, coarse = trees.halve(13, 10), trees.halve(13, 10, 16)
    nodes = {tuple((fine.labels.flatten() >= a).logical_and(fine.labels.flatten() < b).tolist()) for a, b in fine.spans}
    for a, b in coarse.spans:
        assert tuple((coarse.labels.flatten() >= a).logical_and(coarse.labels.flatten() < b).tolist()) in nodes
    assert len(coarse.areas) == 16
    assert max(coarse.areas) <= 2 * min(coarse.areas) + 2


@pytest.mark.parametrize("leaves", [4096, 200])
def test_the_edge_is_the_first_split_of_bpt_and_not_of_axis(leaves):
    x = torch.full((1, 3, 24, 30), 0.2)
    disk = (torch.arange(24)[:, None] - 9) ** 2 + (torch.arange(30)[None] - 18) ** 2 < 50
    x[:, 0, disk] = 0.9
    for kind in ("bpt", "axis"):
        (tree,) = trees.make(kind, x, Model(nn.Flatten(), bounds=(0, 1)), leaves=leaves)
        check_tree(tree, (24, 30))
        start, stop = tree.spans[tree.children[0, 0]].tolist()
        part = (tree.labels >= start) & (tree.labels < stop)
        # superpixels follow the edge to a pixel here and there
        wrong = min(int((part != disk).sum()), int((part != ~disk).sum()))
        assert (wrong <= (0 if leaves == 4096 else 12)) == (kind == "bpt"), wrong


def merged_naively(labels, colours):
    """All unions that the merging rule makes, with sets of pixels and nothing kept from one merge to the next."""
    height, width = labels.shape
    regions = [frozenset(zip(*map(list, (labels == k).nonzero()), strict=True)) for k in range(labels.max() + 1)]
    found = set(regions)

    def touch(a, b):
        return any((y + dy, x + dx) in b for y, x in a for dy in (-1, 0, 1) for dx in (-1, 0, 1))

    def score(a, b):
        union = a | b
        sides = sum((y + dy, x + dx) not in union for y, x in union for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        values = np.array([colours[place] for place in union])
        return ((np.ptp(values, axis=0) + 1) ** 2).sum() * len(union) * np.sqrt(sides)

    def smallest(region):
        return min(labels[place] for place in region)

    while len(regions) > 1:
        pairs = [sorted(pair, key=smallest) for pair in itertools.combinations(regions, 2) if touch(*pair)]
        one, other = min(pairs, key=lambda pair: (score(*pair), smallest(pair[0]), smallest(pair[1])))
        regions = [r for r in regions if r not in (one, other)] + [one | other]
        found.add(one | other)
    assert len(regions[0]) == height * width
    return found


@pytest.mark.parametrize("seed", range(12))
def test_trees_follow_the_merging_rule(seed):
    """Few colours, so that ties are many; leaves of one pixel, and of several."""
    generator = np.random.default_rng(seed)
    colours = generator.choice([0.0, 3.0, 40.0], (5, 6, 1 + 2 * (seed % 2)))
    labels = np.arange(30).reshape(5, 6)
    if seed >= 6:
        labels = trees.halve(5, 6, 12).labels.numpy()
    tree = trees.merge(labels, colours)
    place = tree.labels.numpy()
    nodes = {
        frozenset(zip(*map(list, ((place >= start) & (place < stop)).nonzero()), strict=True))
        for start, stop in tree.spans
    }
    assert nodes == merged_naively(labels, colours)


def test_a_flat_image_has_one_tree():
    """Ties go to the smallest leaves: the first two are joined first, and the parts stay of one size."""
    (tree,) = trees.make("bpt", torch.full((1, 3, 4, 4), 0.3), Model(nn.Flatten(), bounds=(0, 1)))
    check_tree(tree, (4, 4))
    first = tree.labels.flatten()[:2].tolist()
    assert first == [0, 1]
    assert (np.sort(tree.spans[:, 1] - tree.spans[:, 0]) == [1] * 16 + [2] * 8 + [4] * 4 + [8] * 2 + [16]).all()


def test_what_surrounds_an_image_in_the_batch_does_not_change_its_tree(images):
    x = images(3, height=7, width=6)
    for bounds in ((0, 1), None):
        model = Model(nn.Flatten(), bounds=bounds)
        together = trees.make("bpt", x, model)
        for i in range(3):
            assert torch.equal(trees.make("bpt", x[i : i + 1], model)[0].labels, together[i].labels)

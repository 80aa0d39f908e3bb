"""Subset selection: searches on set functions whose best order is known, counts, paths, maps, and whole methods."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model
from attriscope.attribution.subset._search import (
    Search,
    _fit,
    bidirectional,
    bidirectional_sets,
    greedy,
    greedy_sets,
    guided,
    guided_sets,
    lazy,
    stochastic,
)
from attriscope.attribution.subset._subset import PRESETS, diversity, path_map, ranked_cells
from torch import Tensor, nn

METHODS = ("submodular", "lima")
Function = Callable[[frozenset[int]], float]

COVER = (5, 4, 3, 3, 2, 2, 1, 1)
SETS = ({0, 1}, {0, 2, 3}, {1, 4}, {2, 5, 6}, {3, 4, 7}, {6, 7})


def coverage(chosen: frozenset[int]) -> float:
    return float(sum(COVER[e] for e in set().union(*(SETS[i] for i in chosen))))


def modular(weights: Sequence[int]) -> Function:
    return lambda chosen: float(sum(weights[i] for i in chosen))


def both(p: Function, d: int, shown: float = 1.0, hidden: float = 1.0) -> Function:
    """What consistency and collaboration make of a set function."""
    everything = frozenset(range(d))
    return lambda chosen: shown * p(chosen) + hidden * (p(everything) - p(everything - chosen))


def play(search: Search, f: Function) -> tuple[list[int], list[frozenset[int]]]:
    """The order that a search finds on a set function, and the sets that it asked for."""
    asked: list[frozenset[int]] = []
    told: Any = None
    while True:
        try:
            sets = search.send(told)
        except StopIteration as end:
            return end.value, asked
        rows = [frozenset(row.nonzero().flatten().tolist()) for row in sets]
        asked += rows
        told = torch.tensor([f(r) for r in rows], dtype=torch.float64)


def integers(seed: int, *size: int, most: int = 50) -> list[Any]:
    found: list[Any] = torch.randint(1, most, size, generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def random_coverage(seed: int, d: int) -> Function:
    """An integer weighted coverage, so that equal gains are equal."""
    generator = torch.Generator().manual_seed(seed)
    weights = integers(seed, 15, most=6)
    covers = (torch.rand(d, 15, generator=generator) < 0.25).tolist()
    return lambda chosen: float(sum(w for e, w in enumerate(weights) if any(covers[i][e] for i in chosen)))


def literal_lima(f: Function, d: int, pending: int, extra: Function = lambda _: 0.0) -> list[int]:
    """The published search, step by step, for functions without ties."""
    s: list[int] = []
    least: list[int] = []
    rest = set(range(d))
    while rest:
        if len(rest) == 1:
            s.append(rest.pop())
            break
        gains = {c: f(frozenset([*s, c])) for c in sorted(rest)}
        a = max(gains, key=lambda c: gains[c] + extra(frozenset([*s, c])))
        guess = {c: gains[c] + extra(frozenset([*least, c])) for c in gains}
        many = len(rest) > pending
        s.append(a)
        if many:
            candidates = [c for c in sorted(guess, key=lambda c: guess[c])[:pending] if c != a]
            if candidates:
                worst = min(candidates, key=lambda c: f(frozenset([*least, c])) + extra(frozenset([*least, c])))
                least.append(worst)
                rest.remove(worst)
        rest.remove(a)
    return s + least[::-1]


# -- searches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("d", "pending"), [(1, 4), (2, 1), (3, 2), (9, 2), (12, 5), (20, 12)])
def test_of_a_modular_function_every_search_gives_the_order_of_its_weights(seed: int, d: int, pending: int) -> None:
    weights = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:d].tolist()
    f = both(modular(weights), d, 20, 5)
    expected = sorted(range(d), key=lambda i: -weights[i])
    for search in (greedy(d), bidirectional(d, pending=pending), lazy(d, refresh=3)):
        assert play(search, f)[0] == expected


def test_of_a_coverage_the_order_the_gains_and_the_number_of_sets_are_known() -> None:
    order, asked = play(greedy(6), coverage)
    assert order == [1, 2, 3, 4, 0, 5]  # ties go to the lower number
    values = [coverage(frozenset(order[:k])) for k in range(7)]
    assert [b - a for a, b in itertools.pairwise(values)] == [11, 6, 3, 1, 0, 0]
    assert len(asked) == 20  # 6 + 5 + ... + 2: the last region is the one that is left


def test_greedy_keeps_its_share_of_the_best_sets_of_every_size() -> None:
    order, _ = play(greedy(6), coverage)
    for k in range(1, 7):
        best = max(coverage(frozenset(s)) for s in itertools.combinations(range(6), k))
        assert best == [11, 17, 21, 21, 21, 21][k - 1]
        assert coverage(frozenset(order[:k])) >= (1 - 1 / math.e) * best


def test_the_lazy_search_finds_the_same_order_with_fewer_sets() -> None:
    order, asked = play(lazy(6, refresh=1), coverage)
    assert order == [1, 2, 3, 4, 0, 5]
    assert len([s for s in asked if s]) == 15  # 16 with the last, which is left over


@pytest.mark.parametrize("refresh", [1, 3, 8])
def test_on_coverages_the_lazy_search_is_greedy_ties_included(refresh: int) -> None:
    fewer = 0
    for seed in range(60):
        f = random_coverage(seed, 12)
        order, asked = play(greedy(12), f)
        other, some = play(lazy(12, refresh=refresh), f)
        assert other == order
        fewer += len(asked) - len(some)
    assert fewer > 0


def test_where_gains_grow_the_lazy_search_errs() -> None:
    # 0 and 1 are worth nothing alone and all together: an old gain of nothing is no bound
    def f(chosen: frozenset[int]) -> float:
        return 10.0 * ({0, 1} <= chosen) + sum({2: 3, 3: 2, 4: 1}.get(i, 0) + (i == 0) * 4 for i in chosen)

    assert play(greedy(5), f)[0] == [0, 1, 2, 3, 4]
    assert play(lazy(5, refresh=1), f)[0] == [0, 2, 3, 4, 1]
    assert play(lazy(5, refresh=1, rounds=5), f)[0] == [0, 1, 2, 3, 4]


def test_collaboration_sees_what_is_needed_together() -> None:
    def p(chosen: frozenset[int]) -> float:
        return 100.0 * ({2, 5} <= chosen) + sum(6 - i for i in chosen if i not in {2, 5})

    assert play(greedy(6), p)[0][:2] == [0, 1]
    assert set(play(greedy(6), both(p, 6))[0][:2]) == {2, 5}


@pytest.mark.parametrize("pending", [0, 1, 2, 3, 4, 7, 8, 9, 20])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 9, 13])
def test_the_search_from_both_ends_is_the_published_one(d: int, pending: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        table = {s: float(v) for s, v in enumerate(torch.rand(2**d, generator=generator, dtype=torch.float64))}
        f = both(lambda chosen, t=table: t[sum(2**i for i in chosen)], d, 20, 5)
        order, _ = play(bidirectional(d, pending=pending), f)
        assert order == literal_lima(f, d, pending)
        assert sorted(order) == list(range(d))
        other = torch.rand(2**d, generator=generator, dtype=torch.float64).mul(20).tolist()

        def features(chosen: frozenset[int], t: list[float] = other) -> float:
            return t[sum(2**i for i in chosen)]

        def extra(sets: Tensor, worth: Function = features) -> Tensor:
            return torch.tensor([worth(frozenset(r.nonzero().flatten().tolist())) for r in sets], dtype=torch.float64)

        order, _ = play(bidirectional(d, pending=pending, extra=extra), f)
        assert order == literal_lima(f, d, pending, features)


@pytest.mark.parametrize("d", [3, 4, 12, 25, 49])
@pytest.mark.parametrize("pending", [2, 7, 8, 12])
def test_the_number_of_sets_is_that_of_the_closed_form(d: int, pending: int) -> None:
    weights = list(range(d))
    _, asked = play(bidirectional(d, pending=pending), both(modular(weights), d))
    if pending >= d:
        published = d * (d + 1)
    elif (d - pending) % 2 == 0:
        published = (d - pending) // 2 * (d + 3 * pending + 2) + pending * (pending + 1)
    else:
        published = (d - pending + 1) // 2 * (d + 3 * pending + 1) + pending * (pending - 1)
    assert 2 * len(asked) + 2 == published  # two forwards a set, and the two ends
    assert bidirectional_sets(d, pending) == len(asked)
    repeated = len(asked) - len(set(asked))
    assert repeated == (pending if pending < d else 0)  # the first step's sets of one region
    assert len(play(greedy(d), modular(weights))[1]) == greedy_sets(d) == d * (d + 1) // 2 - 1


def test_a_search_for_a_few_regions_ranks_the_rest_by_what_it_knows() -> None:
    f = modular([3, 9, 1, 7, 5])
    order, asked = play(greedy(5, top=2), f)
    assert order == [1, 3, 4, 0, 2]
    assert len(asked) == greedy_sets(5, 2) == 9
    assert play(lazy(5, refresh=1, top=2), f)[0] == [1, 3, 4, 0, 2]
    assert play(greedy(5, top=9), f)[0] == play(greedy(5), f)[0]


def test_the_stochastic_search_looks_at_as_many_as_its_bound_needs() -> None:
    f = modular(list(range(40)))
    order, asked = play(stochastic(40, epsilon=0.1, seed=0, top=4), f)
    number = math.ceil(40 / 4 * math.log(10))
    assert len([s for s in asked if s]) == 4 * number
    assert sorted(order) == list(range(40))
    assert order == play(stochastic(40, epsilon=0.1, seed=0, top=4), f)[0]
    assert order != play(stochastic(40, epsilon=0.1, seed=1, top=4), f)[0]
    kept = [sum(play(stochastic(40, epsilon=0.1, seed=s, top=4), f)[0][:4]) for s in range(20)]
    assert sum(kept) / 20 >= (1 - 1 / math.e - 0.1) * (39 + 38 + 37 + 36)


def test_the_stochastic_search_ranks_the_rest_by_gains_and_not_by_values() -> None:
    # looked at late, a region that adds little has a large value
    weights = [100, 90, 60, 50, 4, 3, 2, 1]
    for seed in range(10):
        order, asked = play(stochastic(8, epsilon=math.exp(-1), seed=seed, top=3), modular(weights))  # three at a time
        seen = set().union(*asked) - set(order[:3])
        assert order[3:] == sorted(seen) + sorted(set(range(8)) - seen - set(order[:3]))


def test_the_model_of_the_guided_search_is_that_of_where_it_is() -> None:
    # region 5 adds 1 where most of the first ten regions are shown, and takes 1 where they are not
    sets = torch.rand(400, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    sets[:200, :10], sets[200:, :10] = True, False
    sets[:, 15] = torch.arange(400) % 2 == 0
    values = torch.where(torch.arange(400) < 200, 1.0, -1.0).double() * sets[:, 15]
    assert _fit(sets, values, list(range(10)))[15] > 0.3
    assert _fit(sets, values, [])[15] < -0.3
    assert abs(float(_fit(sets, values, list(range(5)))[15])) < 0.3


def test_the_guided_search_finds_what_its_model_cannot_say() -> None:
    # two regions that are worth something together alone: no linear model has them, but those near the set chosen do
    def p(chosen: frozenset[int]) -> float:
        return 10.0 * ({2, 5} <= chosen) + sum(0.1 * i for i in chosen)

    order, _ = play(guided(12, samples=100, candidates=3, seed=0), both(p, 12))
    assert set(order[:2]) == {2, 5}


def test_with_all_regions_as_candidates_the_guided_search_is_greedy() -> None:
    for seed in range(10):
        f = both(random_coverage(seed, 9), 9, 20, 5)
        assert play(guided(9, samples=2, candidates=9, seed=0), f)[0] == play(greedy(9), f)[0]


@pytest.mark.parametrize(
    ("d", "samples", "candidates", "top"), [(12, 40, 3, None), (5, 1, 9, None), (12, 40, 3, 4), (1, 9, 1, 1)]
)
def test_the_guided_search_asks_for_as_many_pairs_as_it_says(
    d: int, samples: int, candidates: int, top: int | None
) -> None:
    order, asked = play(guided(d, samples=samples, candidates=candidates, seed=0, top=top), modular(list(range(d))))
    assert sorted(order) == list(range(d))
    pairs = {frozenset([s, frozenset(range(d)) - s]) for s in asked}
    ends = frozenset([frozenset(), frozenset(range(d))])
    assert len(pairs - {ends}) <= guided_sets(d, samples, candidates, top)
    assert len(asked) == 2 + 2 * guided_sets(d, samples, candidates, top)


def saturating(chosen: frozenset[int]) -> float:
    """Worth of 7 regions that no more than 10 of is ever seen: two of the best are enough."""
    return float(min(10, sum((1, 6, 2, 5, 4, 3, 0)[i] for i in chosen)))


def test_a_search_ends_where_nothing_can_be_told_any_more() -> None:
    order, asked = play(greedy(7, plateau=0.0), saturating)
    assert len(asked) == 7 + 6 + 5  # after 6 and 4 the best is 10, with any third as well
    assert order == [1, 3, 4, 5, 2, 0, 6]  # 6 + 5 and 6 + 4 are equal then; the rest as it was compared beside 6
    everything, more = play(greedy(7), saturating)
    assert len(more) == 27
    assert everything == [1, 3, 0, 2, 4, 5, 6]  # what is compared after that has no order but the numbers'


def test_a_plateau_of_a_share_ends_earlier_and_of_none_never() -> None:
    f = modular([100, 99, 98, 97])
    assert len(play(greedy(4, plateau=0.05), f)[1]) == 4
    assert play(greedy(4, plateau=0.05), f)[0] == [0, 1, 2, 3]
    assert len(play(greedy(4, plateau=0.001), f)[1]) == 9
    assert len(play(greedy(4), lambda _: 1.0)[1]) == 9
    assert len(play(greedy(4, plateau=0.0), lambda _: 1.0)[1]) == 4


def test_both_ends_stop_at_a_plateau_too() -> None:
    order, asked = play(bidirectional(7, pending=2, plateau=0.0), saturating)
    full, more = play(bidirectional(7, pending=2), saturating)
    assert len(asked) < len(more)
    assert sorted(order) == list(range(7))
    assert order[0] == full[0] == 1
    assert order[-1] == full[-1] == 6
    assert play(bidirectional(5, pending=2, plateau=0.0), lambda _: 1.0) == (
        [0, 1, 2, 3, 4],
        [frozenset([i]) for i in range(5)],
    )


@pytest.mark.parametrize("name", ["submodular", "lima"])
def test_a_plateau_spares_forwards_of_a_network_that_says_nothing(name: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    nn.init.zeros_(network[1].weight)
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    costs = {}
    for plateau in (None, 0.0):
        made = attribution.create(name, network, regions="grid", n_regions=16, plateau=plateau)
        found = made.explain(x, target=0)
        costs[plateau] = int(found.forwards)
        assert sorted(found.details["order"][0].tolist()) == list(range(16))
    assert costs[0.0] < costs[None] / 3


@pytest.mark.parametrize("search", [greedy, lambda d: bidirectional(d, pending=3), lambda d: lazy(d, refresh=2)])
def test_of_a_constant_function_the_order_is_that_of_the_numbers(search: Callable[[int], Search]) -> None:
    for constant in (0.0, 0.3, -2.0):
        order, _ = play(search(7), lambda _, c=constant: c)
        assert sorted(order) == list(range(7))
        assert order[0] == 0
    assert play(greedy(7), lambda _: 1.0)[0] == list(range(7))


def test_what_float32_does_not_tell_apart_is_a_tie() -> None:
    f = modular([1, 1, 1])
    assert play(greedy(3), lambda s: f(s) + 1e-8 * sum(s))[0] == [0, 1, 2]
    assert play(greedy(3), lambda s: f(s) + 1e-3 * sum(s))[0] == [2, 1, 0]


# -- terms -------------------------------------------------------------------------------------------------------------


def test_diversity_in_closed_form() -> None:
    angles = torch.tensor([0.0, 0.5, 0.5, 1.0]) * math.pi
    features = 3 * torch.stack([angles.cos(), angles.sin()], 1)
    worth = diversity(features, 2.0)
    sets = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 1]]).bool()
    expected = torch.tensor([0.0, 0.0, 2 * (0.5 + 0.5), 0.0, 2 * (1 + 1), 2 * (0.5 + 0.5 + 0.5)])
    assert torch.allclose(worth(sets), expected.double(), atol=1e-3)  # arccos near 1 loses half of the digits


def test_diversity_is_not_submodular() -> None:
    worth = diversity(torch.tensor([[1.0, 0.0], [-1.0, 1e-3], [0.0, 1.0]]), 1.0)
    two, three = worth(torch.tensor([[True, True, False], [True, True, True]])).tolist()
    assert round(two, 2) == 2.0
    assert round(three, 2) == 1.5


def test_the_map_of_gains_falls_by_what_each_region_changes() -> None:
    gains = torch.tensor([0.0, 5.0, 6.0, 4.0, 4.0]).double()  # the third region harms, the last does nothing
    found = path_map([2, 0, 3, 1], gains, "gain")
    assert found[2] == 1.0
    assert found[1] == 0.0
    assert abs(float(found[0]) - 2 / 3) < 1e-4  # 1 of 3; ties are told apart by that much
    assert 0 < float(found[3]) < 1e-4


def test_the_first_region_is_first_whatever_it_gains() -> None:
    one = path_map([1, 0, 2], torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), "gain")
    other = path_map([1, 0, 2], torch.tensor([0.0, 9.0, 10.0, 11.0]).double(), "gain")
    assert torch.equal(one, other)


def test_flat_gains_and_one_region_give_the_rank() -> None:
    flat = path_map([2, 0, 1], torch.full((4,), 0.3).double(), "gain")
    assert flat.tolist() == [2 / 3, 1 / 3, 1.0]
    assert path_map([2, 0, 1], torch.rand(4).double(), "rank").tolist() == flat.tolist()
    assert path_map([0], torch.tensor([0.0, 1.0]).double(), "gain").tolist() == [1.0]


def test_regions_of_a_prior_are_cells_that_it_finds_alike() -> None:
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)
    labels = ranked_cells(torch.cat([maps, -maps]), 4)  # 4 x 4 cells in groups of 4
    assert labels.shape == (2, 8, 8)
    assert labels[0].unique(return_counts=True)[1].tolist() == [16] * 4
    assert torch.equal(labels[1], 3 - labels[0])
    assert labels[0, 7, 7] == 0
    assert labels[0, :2].unique().tolist() == [3]  # the top row of cells


def test_a_prior_of_a_tiny_image_has_no_more_groups_than_cells() -> None:
    assert ranked_cells(torch.rand(1, 1, 1, 3), 9).unique().tolist() == [0, 1, 2]


# -- methods -----------------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Two classes, linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3)) - 0.3

    def forward(self, x: Tensor) -> Tensor:
        logits = (x * self.weight.to(x)).sum((1, 2, 3))
        return torch.stack([-logits, logits], 1)


class Parts(nn.Module):
    """Needs two of four quarters, is helped by the third and harmed by the fourth."""

    def forward(self, x: Tensor) -> Tensor:
        quarter = nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)
        score = 8 * quarter[:, 0] * quarter[:, 3] + quarter[:, 1] - 2 * quarter[:, 2]
        return torch.stack([torch.full_like(score, 2.0), score], 1)


def image(n: int = 1, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.5


@pytest.mark.parametrize("weights", [{}, {"consistency": 0.0, "confidence": 0.0}, {"collaboration": 0.0}])
@pytest.mark.parametrize("name", METHODS)
def test_of_a_linear_network_the_order_is_that_of_the_regions_parts(name: str, weights: dict[str, float]) -> None:
    network, x = Sum(), image(2)
    made = attribution.create(name, network, regions="grid", n_regions=16, output="logit", baseline="zero", **weights)
    found = made.explain(x, 1)
    parts = (x * network.weight).sum(1).unflatten(1, (4, 2)).unflatten(3, (4, 2)).sum((2, 4)).flatten(1)
    assert found.details["order"].tolist() == parts.argsort(1, descending=True).tolist()
    so_far = parts.gather(1, found.details["order"]).double().cumsum(1)
    assert torch.allclose(found.details["consistency"][:, 1:], so_far, atol=1e-5)  # sums of 64 numbers in float32


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n_regions", [1, 4, 9, 16])
def test_the_path_is_what_the_network_says_of_each_prefix(name: str, n_regions: int) -> None:
    network, x = Parts(), image(2)
    made = attribution.create(name, network, regions="grid", n_regions=n_regions, baseline=0.25)
    found = made.explain(x, 1)
    labels = found.details["labels"]
    for row, order in enumerate(found.details["order"].tolist()):
        for k in range(len(order) + 1):
            kept = torch.isin(labels[row], torch.tensor(order[:k], dtype=torch.long))
            shown, hidden = (torch.where(m, x[row], torch.tensor(0.25)) for m in (kept, ~kept))
            p, q = network(torch.stack([shown, hidden])).softmax(1)[:, 1].double()
            assert abs(found.details["consistency"][row, k] - p) < 1e-6  # float32
            assert abs(found.details["collaboration"][row, k] - (1 - q)) < 1e-6
            assert abs(found.details["areas"][row, k] - kept.double().mean()) < 1e-12
        best = int(found.details["best_prefix"][row])
        assert best == 1 + int(found.details["consistency"][row, 1:].argmax())
        assert found.details["best_area"][row] == found.details["areas"][row, best]
    curve = torch.trapezoid(found.details["consistency"], found.details["areas"])
    assert torch.allclose(found.details["insertion"], curve)
    assert torch.allclose(
        found.details["deletion"], torch.trapezoid(1 - found.details["collaboration"], found.details["areas"])
    )


def test_the_best_prefix_has_one_region_at_least() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = attribution.create("submodular", network, regions="grid", n_regions=4, baseline=2.0, output="logit")
    found = made.explain(image(), 0)
    assert found.details["consistency"].argmax() == 0  # nothing scores highest
    assert found.details["best_prefix"].tolist() == [1]


def test_the_best_prefix_leaves_out_what_harms() -> None:
    found = attribution.create("submodular", Parts(), regions="grid", n_regions=4, baseline="zero").explain(image(), 1)
    order = found.details["order"][0].tolist()
    assert set(order[:2]) == {0, 3}
    assert order[2:] == [1, 2]
    assert found.details["best_prefix"].tolist() == [3]
    assert found.details["best_area"].tolist() == [0.75]


@pytest.mark.parametrize(
    ("name", "options", "forwards"),
    [
        ("submodular", {}, 16 * 17 - 4),  # of the last two regions all is known from the first step
        ("submodular", {"collaboration": 0.0}, 16 * 17 // 2 - 1 + 16 - 1 + 2 - 1),
        ("lima", {"confidence": 0.0}, (16 - 8) // 2 * (16 + 24 + 2) + 72 - 16),
        ("lima", {}, (16 - 8) // 2 * (16 + 24 + 2) + 72 - 16),
        ("lima", {"pending": 16}, 16 * 17 - 4),
        ("lima", {"pending": 0}, 16 * 17 - 4),
        ("submodular", {"baseline": ("zero", 1.0)}, 2 * (16 * 17 - 4)),
    ],
)
def test_forwards_are_as_many_as_there_are_different_sets(name: str, options: Any, forwards: int) -> None:
    made = attribution.create(name, Parts(), regions="grid", n_regions=16, **{"baseline": "zero", **options})
    found = made.explain(image(2), 1)
    assert found.forwards.tolist() == [forwards] * 2
    assert made.cost((3, 8, 8), **made.params).forwards >= forwards


@pytest.mark.parametrize("collaboration", [1.0, 0.0])
def test_the_guided_search_costs_what_it_says(collaboration: float) -> None:
    made = attribution.create(
        "submodular", Parts(), regions="grid", n_regions=16, search="guided", samples=40, collaboration=collaboration
    )
    said = made.cost((3, 8, 8), **made.params).forwards
    found = made.explain(image(2), 1).forwards
    assert (found <= said).all()
    assert (found > 0.7 * said).all()  # what is drawn or asked for twice is evaluated once


def test_several_baselines_are_searched_on_their_mean() -> None:
    network, x = Parts(), image()
    names = ("zero", 1.0, "mean")
    each = [
        attribution.create("submodular", network, regions="grid", n_regions=9, baseline=b).explain(x, 1) for b in names
    ]
    together = attribution.create("submodular", network, regions="grid", n_regions=9, baseline=names).explain(x, 1)
    order = together.details["order"]
    for k, column in enumerate(together.details["consistency"][0].tolist()):
        kept = torch.isin(together.details["labels"][0], order[0, :k])
        values = [network(torch.where(kept, x[0], torch.tensor(v))[None]).softmax(1)[0, 1] for v in (0.0, 1.0, 0.0)]
        assert abs(column - float(torch.stack(values).double().mean())) < 1e-6
    assert len({str(e.details["order"].tolist()) for e in each}) > 1  # they do not agree: it is no idle test


def test_confidence_is_that_of_the_class_probabilities_and_costs_nothing() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 6 * nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, :2, :2], x[0, 1, :2, 2:], x[0, 2, 2:, :2] = 1.0, 0.9, 0.8
    options: dict[str, Any] = {"regions": "grid", "n_regions": 4, "baseline": "zero", "output": "logit"}
    plain = attribution.create("submodular", Three(), **options, consistency=1e-9, collaboration=0.0)
    sure = attribution.create("submodular", Three(), **options, consistency=1e-9, collaboration=0.0, confidence=1.0)
    first, second = plain.explain(x, 2), sure.explain(x, 2)
    assert first.details["order"][0, 0] == 2  # its own class
    assert second.details["order"][0, :2].tolist() == [0, 3]  # the brightest; then what keeps it from doubt
    assert second.forwards.tolist() == first.forwards.tolist()


def test_what_is_no_class_has_no_confidence() -> None:
    x = image()
    for target in (1, lambda out: out[:, 1]):
        model = Model(Sum(), activation="softmax" if callable(target) else "sigmoid")
        with_it = attribution.create("lima", model, regions="grid", n_regions=9, baseline="zero").explain(x, target)
        without = attribution.create("lima", model, regions="grid", n_regions=9, baseline="zero", confidence=0.0)
        assert torch.equal(with_it.maps, without.attribute(x, target))


def test_effectiveness_prefers_regions_that_differ() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, :2, :2], x[0, 0, :2, 2:], x[0, 1, 2:, :2] = 1.0, 0.9, 0.5
    made = attribution.create(
        "submodular",
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        regions="grid",
        n_regions=4,
        baseline="zero",
        output="logit",
        effectiveness=1.0,
        features="0",
    )
    assert made.explain(x, 0).details["order"][0, :2].tolist() == [0, 2]
    assert made.with_model(made.model) == made
    same = attribution.create("submodular", made.model, **{**made.params, "features": lambda i: i.mean((2, 3))})
    assert torch.equal(same.attribute(x, 0), made.attribute(x, 0))
    off = attribution.create("submodular", made.model, **{**made.params, "effectiveness": 0.0})
    assert off.explain(x, 0).details["order"][0, :2].tolist() == [0, 1]
    assert int(made.explain(x, 0).forwards) == int(off.explain(x, 0).forwards) + 4
    finer = attribution.create("submodular", made.model, **{**made.params, "n_regions": 9})
    assert int(finer.explain(x, 0).forwards) <= finer.cost((3, 4, 4), **finer.params).forwards


def test_presets_are_the_published_weights_and_single_ones_can_be_changed() -> None:
    assert PRESETS["lima"] == (20, 5, 0.01, 0)
    assert PRESETS["vps"] == (1, 1, 0, 0)
    assert PRESETS["smdl"] == (1, 1, 1, 1)
    x = image()
    options: dict[str, Any] = {"regions": "grid", "n_regions": 9, "baseline": "zero"}
    lima = attribution.create("lima", Parts(), **options)
    same = attribution.create(
        "submodular", Parts(), **options, search="bidirectional", consistency=20.0, collaboration=5.0, confidence=0.01
    )
    assert torch.equal(lima.attribute(x, 1), same.attribute(x, 1))


@pytest.mark.parametrize("search", ["greedy", "bidirectional", "guided", "lazy", "stochastic"])
def test_every_search_orders_all_regions_of_images_that_have_different_numbers(search: str) -> None:
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[0] = torch.arange(8)
    labels[1, 2:5, 2:5] = 7
    made = attribution.create("submodular", Parts(), regions=labels, search=search, baseline="zero")
    found = made.explain(image(3), 1)
    for row, d in enumerate((8, 2, 1)):
        assert sorted(found.details["order"][row, :d].tolist()) == list(range(d))
        assert (found.details["order"][row, d:] == -1).all()
        assert found.details["consistency"][row].isfinite().sum() == d + 1
    alone = attribution.create("submodular", Parts(), regions=labels[1:2], search=search, baseline="zero")
    assert torch.equal(alone.attribute(image(3)[1:2], 1), found.maps[1:2])


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_network_and_a_black_image_have_a_map(name: str) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_tensor([[0.3, 0.7]]).expand(len(x), -1)

    found = attribution.create(name, Constant(), regions="grid", n_regions=9).explain(image(), 1)
    assert found.maps.isfinite().all()
    assert found.details["order"][0, 0] == 0
    black = attribution.create(name, Parts(), regions="grid", n_regions=9, baseline="zero").explain(0 * image(), 1)
    assert sorted(black.maps.unique().tolist()) == pytest.approx([k / 9 for k in range(1, 10)])


def test_black_pixels_have_their_regions_value() -> None:
    x = image()
    x[:, :, ::2] = 0
    found = attribution.create("lima", Parts(), regions="grid", n_regions=4, baseline="zero").explain(x, 1)
    for k in range(4):
        assert len(found.maps[0, 0][found.details["labels"][0] == k].unique()) == 1


def test_the_prior_is_another_method_and_is_paid_for() -> None:
    made = attribution.create("submodular", Parts(), regions="prior", prior="occlusion", n_regions=4, baseline="zero")
    found = made.explain(image(2), 1)
    prior = attribution.create("occlusion", Parts()).explain(image(2), 1)
    assert torch.equal(found.details["labels"], ranked_cells(prior.maps, 4))
    assert (found.forwards > prior.forwards).all()
    assert (found.forwards <= made.cost((3, 8, 8), **made.params).forwards).all()


def test_a_prior_that_takes_gradients_is_paid_for_too() -> None:
    made = attribution.create("lima", Parts(), regions="prior", prior="saliency", n_regions=4)
    found = made.explain(image(), 1)
    assert found.backwards.tolist() == [1]
    assert made.cost((3, 8, 8), **made.params).backwards == 1


def test_relabelled_regions_are_chosen_alike() -> None:
    labels = torch.arange(16).reshape(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    other = (labels * 5 + 3) % 16
    network, x = Sum(), image()
    maps = [
        attribution.create("lima", network, regions=one, baseline="zero", output="logit").attribute(x, 1)
        for one in (labels, other)
    ]
    assert torch.allclose(maps[0], maps[1], atol=1e-5)  # sums in float32


def test_methods_that_play_the_same_game_share_their_forwards() -> None:
    model = Model(Parts())
    with model.sharing():
        first = attribution.create("submodular", model, regions="grid", n_regions=9, baseline="zero").explain(
            image(), 1
        )
        before = model.forwards
        second = attribution.create("lima", model, regions="grid", n_regions=9, baseline="zero", confidence=0.0)
        assert int(second.explain(image(), 1).forwards) > 60
        assert model.forwards - before < 30  # only what the other end of the search looks at, and the clean image
    assert int(first.forwards) == 86


def test_what_is_shared_serves_confidence_only_where_it_is_known() -> None:
    model, x = Model(Parts()), image()
    options: dict[str, Any] = {"regions": "grid", "n_regions": 9, "baseline": "zero"}
    alone = attribution.create("lima", Parts(), **options, confidence=3.0).attribute(x, 1)
    with model.sharing():
        attribution.create("lima", model, **options, confidence=0.0).attribute(x, 1)
        assert torch.equal(attribution.create("lima", model, **options, confidence=3.0).attribute(x, 1), alone)
        before = model.forwards
        attribution.create("lima", model, **options, confidence=0.0).attribute(x, 1)
        assert model.forwards == before  # and serves those that do not ask


def test_dense_outputs_have_no_confidence_and_are_ordered_all_the_same() -> None:
    network = nn.Conv2d(3, 2, 1)
    found = attribution.create("lima", network, regions="grid", n_regions=4).explain(image(), (1, 2, 2))
    assert sorted(found.details["order"][0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", METHODS)
def test_tables_and_tokens_have_an_order_too(name: str) -> None:
    options: dict[str, Any] = {"baseline": "zero", "output": "logit"}
    weights = torch.tensor([[0.0] * 5, [3.0, -1.0, 4.0, 1.0, 2.0]])
    network = nn.Linear(5, 2)
    with torch.no_grad():
        network.weight.copy_(weights)
    table = attribution.create(name, Model(network, kind="table"), **options).explain(torch.ones(2, 5), 1)
    assert table.details["order"].tolist() == [[2, 0, 4, 3, 1]] * 2
    assert table.maps.shape == (2, 5)
    tokens = nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 2))
    found = attribution.create(name, Model(tokens, kind="tokens"), **options).explain(torch.rand(2, 4, 3), 1)
    assert found.details["order"].shape == (2, 4)
    assert found.maps.shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effectiveness": 1.0}, "features"),
        ({"preset": "smdl"}, "features"),
        ({"consistency": 0.0, "collaboration": 0.0}, "one of them must count"),
        ({"consistency": -1.0}, "consistency"),
        ({"regions": "prior", "prior": "riise"}, "rise"),
        ({"baseline": ("zero", "blakc")}, "blakc"),
        ({"baseline": ()}, "empty sequence"),
        ({"search": "gready"}, "search"),
        ({"top": 0}, "top"),
        ({"epsilon": 1.0}, "epsilon"),
    ],
)
def test_what_cannot_be_meant_is_said_early(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attribution.create("submodular", Parts(), **options)


@pytest.mark.parametrize(
    "features", [lambda i: i, lambda i: i.mean((1, 2, 3)), lambda i: i[:2].mean((2, 3)), lambda _: 3]
)
def test_features_that_are_no_vectors_are_refused(features: Any) -> None:
    made = attribution.create("submodular", Parts(), effectiveness=1.0, features=features, regions="grid", n_regions=4)
    with pytest.raises(ValueError, match="must be \\(M, D\\)"):
        made.attribute(image(), 1)


@pytest.mark.parametrize("name", METHODS)
def test_scores_that_are_nan_have_no_order(name: str) -> None:
    class Lost(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.mean((1, 2, 3))
            return torch.stack([score, torch.where(score > 0.3, score, torch.nan)], 1)

    made = attribution.create(name, Lost(), regions="grid", n_regions=4, baseline="zero", output="logit")
    with pytest.raises(ValueError, match=r"images \[0, 1\] is NaN"):
        made.attribute(image(2), 1)

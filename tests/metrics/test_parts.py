"""Parts that are taken away: what the network adds up, what the pictures hold, and what maps of the truth score."""

import dataclasses
import itertools
import warnings

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.attribution.conformance import Detector
from attriscope.metrics.ground_truth import _parts
from attriscope.metrics.ground_truth._parts import NOBODY, Layout, part_scenes, stamps, subsets
from attriscope.metrics.ground_truth.part_completeness import THRESHOLDS, checks, crossed, minimal
from attriscope.metrics.ground_truth.part_contrastivity import target_sensitivity
from attriscope.metrics.ground_truth.part_correctness import single_deletion
from scipy import stats

NAMES = ["part_completeness", "part_correctness", "part_contrastivity"]
SMALL = {"pictures": 12, "size": 48}
# logits go to 16.5 in single precision, and are sums of a thousand numbers whose own rounding is some 1e-6
CLOSE = {"rtol": 0, "atol": 1e-4}


class Truth(Attributor):
    """What each thing adds to the class, spread evenly over its mask; it keeps what it was asked."""

    sign: int = 1
    only: str = "all"

    def compute(self, inputs, target):
        scenes = _parts._made(12, 48, 3, 0, "cpu")
        ASKED.append((len(inputs), target.index[:, 0]))
        rows = torch.arange(len(inputs)) % len(scenes.images)
        assert torch.equal(inputs, scenes.images[rows])
        adds = scenes.contributions[rows, :, target.index[:, 0]]
        if self.only == "odd":
            adds = torch.where(rows[:, None] % 2 == 1, adds, -adds)
        if self.only == "one":
            adds = torch.ones_like(adds)
        even = scenes.masks / scenes.masks.sum((2, 3), keepdim=True)
        return Computed(self.sign * torch.einsum("um,umhw->uhw", adds.float(), even[rows])[:, None], {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


ASKED = []


class Noise(Attributor):
    """The same signed noise for every image and class, but for so much of it."""

    more: float = 0.0

    def compute(self, inputs, target):
        drawn = torch.rand(inputs.shape[2:], generator=torch.Generator().manual_seed(5)) - 0.4
        return Computed(drawn * (1 + self.more * target.index[:, 0, None, None, None]), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def model(**more):
    """The metrics ask it nothing."""
    return attribution.Model(Detector().eval(), **more)


def score(name, method, **options):
    made = method if isinstance(method, Attributor) else attribution.create(method, model())
    return metrics.create(name, **{**SMALL, **options}).score(made, curves=True)


def own(scenes):
    """What each thing adds to the label's logit."""
    return scenes.contributions[torch.arange(len(scenes.labels)), :, scenes.labels]


# -- the pictures and the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "seed"), [(40, 0), (64, 1), (77, 2), (130, 3)])
def test_logits_are_sums_over_the_parts_present_and_the_label_wins(size, seed):
    scenes = part_scenes(6, size=size, seed=seed)
    keep = torch.rand(5, 9, generator=torch.Generator().manual_seed(seed)) < 0.5
    keep[0] = True
    expected = torch.einsum("km,umc->ukc", keep.double(), scenes.contributions)
    expected[..., -1] += NOBODY
    found = scenes.outputs(keep)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(found[:, 0].argmax(1), scenes.labels)
    torch.testing.assert_close(scenes.logits, found[torch.arange(6), 0, scenes.labels])
    torch.testing.assert_close(scenes.drops, own(scenes), **CLOSE)


def test_every_part_is_worth_something_else_and_one_is_worth_nothing():
    scenes = part_scenes(24)
    worth = own(scenes)[:, :6].sort(1).values
    assert (worth[:, 0] == 0).all()
    assert (worth.diff(dim=1) >= 1).all()
    assert (own(scenes)[:, 6:] == 0).all()
    table = torch.tensor(_parts.WORTH)
    assert all(sorted(column) == list(range(6)) for column in table.T.tolist())  # no part is favoured


def test_what_is_irrelevant_can_go_and_backgrounds_change_nothing():
    scenes = part_scenes(12)
    clean = scenes.outputs(torch.ones(1, 9, dtype=torch.bool))
    keep = torch.ones(1, 9, dtype=torch.bool)
    keep[:, 6:] = False
    torch.testing.assert_close(scenes.outputs(keep), clean, **CLOSE)
    relevant = own(scenes) > 0
    found = scenes.model.outputs(scenes.render(relevant)).double()[torch.arange(12), scenes.labels]
    torch.testing.assert_close(found, scenes.logits, **CLOSE)
    for background in (part_scenes(12, seed=5).background, torch.full((12, 3, 64, 64), 0.5)):
        other = dataclasses.replace(scenes, background=background)
        assert not torch.equal(other.render(keep[0]), scenes.render(keep[0]))
        assert torch.equal(other.outputs(keep), scenes.outputs(keep))  # nothing is seen there at all


def test_no_colour_is_seen_in_the_background_or_in_black_white_and_grey():
    scenes = part_scenes(12)
    plain = torch.stack([torch.full((3, 64, 64), v) for v in (0.0, 0.5, 1.0)])
    network = scenes.model.network
    seen = network.first(network.colours((torch.cat([scenes.background, plain]) - 0.5) / 0.45))
    assert (seen == 0).all()
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1


def test_no_prediction_hangs_on_rounding():
    """Over all sets of parts the label is first, or is not, by more than 0.2."""
    scenes = part_scenes(6)
    logits = torch.einsum("kp,upc->ukc", subsets().double(), scenes.contributions[:, :6])
    logits[..., -1] += NOBODY
    label = scenes.labels[:, None, None].expand(-1, 64, 1)
    first = logits.gather(2, label)[..., 0]
    margin = first - logits.scatter(2, label, float("-inf")).amax(2)
    assert margin.abs().min() > 0.2
    assert torch.equal(scenes.kept, margin > 0)
    assert not scenes.kept[:, 0].any()
    assert scenes.kept[:, -1].all()


def test_half_a_look_is_worth_half_or_nine_tenths():
    scenes = part_scenes(6)
    half = scenes.masks & (torch.arange(64) % 2 == 0)
    found = dataclasses.replace(scenes, masks=half).outputs(torch.eye(9, dtype=torch.bool)[:6])
    share = (half.sum((2, 3)) / scenes.masks.sum((2, 3)))[:, :6].double()
    looks = torch.tensor(_parts.LOOKS)[scenes.labels]
    soon = torch.tensor([[_parts.saturates(p, which) for p, which in enumerate(row)] for row in looks.tolist()])
    assert 0.3 < soon.double().mean() < 0.7
    value = torch.where(soon, 1.8 * share.clamp(max=0.5) + 0.2 * (share - 0.5).clamp(min=0), share)
    expected = own(scenes)[:, :6] * value
    torch.testing.assert_close(found[torch.arange(6), :, scenes.labels], expected, **CLOSE)


@pytest.mark.parametrize("size", [40, 47, 64, 101, 192])
def test_margins_touch_no_other_thing_s_and_stay_off_the_frame(size):
    scenes = part_scenes(8, size=size, seed=7)
    assert scenes.around.sum(1).max() == 1
    widths = scenes.around.any(2).sum(2) - scenes.masks.any(2).sum(2)
    assert (widths <= 2 * Layout(size).margin).all()
    assert widths.float().mean() == 2 * Layout(size).margin
    framed = scenes.masks.any(1)
    framed[:, 2:-2, 2:-2] = False
    assert not framed.any()
    assert (scenes.masks.sum((2, 3)) > 2 * Layout(size).radius ** 2).all()
    assert Layout(256).margin == 2  # 5 x 5
    assert Layout(64).margin == 1


def test_removed_parts_show_the_background_and_others_their_colour():
    scenes = part_scenes(4)
    keep = torch.ones(4, 9, dtype=torch.bool)
    keep[:, 2] = keep[1, 4] = False
    found = scenes.render(keep)
    for u, m in itertools.product(range(4), range(9)):
        where = scenes.masks[u, m]
        behind = scenes.background[u][:, where]
        assert torch.equal(
            found[u][:, where], scenes.colours[u, m, :, None].expand_as(behind) if keep[u, m] else behind
        )
    bare = ~scenes.masks.any(1)
    assert torch.equal(found.permute(0, 2, 3, 1)[bare], scenes.background.permute(0, 2, 3, 1)[bare])
    assert torch.equal(scenes.images, scenes.render(torch.ones(9, dtype=torch.bool)))


def test_picture_n_depends_on_the_seed_and_n_alone():
    state = torch.get_rng_state()
    one, more = part_scenes(5, seed=3), part_scenes(30, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.images, more.images[:5])
    assert torch.equal(one.labels, more.labels[:5])
    assert not torch.equal(part_scenes(5, seed=4).images, one.images)
    fewer = part_scenes(5, seed=3, distractors=1)
    assert torch.equal(fewer.images, one.render(torch.arange(9) < 7))
    assert all(sorted(six.tolist()) == list(range(6)) for six in more.labels.split(6))
    places = more.masks[:, 6:].flatten(2).double().argmax(2) // (64 * 20)
    assert len(places.unique(dim=0)) > 2  # distractors change places


def test_things_look_differently():
    scenes = part_scenes(60)
    assert len(scenes.colours[:, :6].flatten(0, 1).unique(dim=0)) == 12
    assert len(scenes.colours[:, 6:].flatten(0, 1).unique(dim=0)) == 4
    shapes = stamps(6)
    assert shapes.shape == (6, 15, 15)
    assert len(shapes.flatten(1).unique(dim=0)) == 6
    for part in range(6):
        assert len({_parts.look(part, which) for which in (0, 1)}) == 2
    for edge in (shapes[:, 0], shapes[:, -1], shapes[:, :, 0], shapes[:, :, -1]):
        assert not edge.any()


def test_rivals_divide_the_parts_among_them():
    scenes = part_scenes(60)
    one, other = (scenes.shared(scenes.rivals[:, k]) for k in (0, 1))
    assert (one ^ other).all()
    assert one.any(1).all()
    assert other.any(1).all()
    assert ((scenes.rivals // 2) != (scenes.labels // 2)[:, None]).all()
    assert len(scenes.rivals[scenes.labels == 0].unique(dim=0)) == 2
    adds = scenes.contributions[torch.arange(60), :6, scenes.rivals[:, 0]]
    assert (adds[~one] == 0).all()
    assert scenes.shared(scenes.labels).all()


# -- maps of the truth, and of nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_scores_1_in_one_call(name):
    ASKED.clear()
    found = score(name, Truth(model()))
    assert found.scores.tolist() == [1.0] * 12
    ((asked, classes),) = ASKED
    scenes = part_scenes(12, size=48)
    expected = scenes.rivals.T.flatten() if name == "part_contrastivity" else scenes.labels
    assert torch.equal(classes, expected)
    assert asked == 12 * metrics.create(name).explanations


def test_the_negated_truth_is_as_wrong_as_can_be():
    wrong = Truth(model(), sign=-1)
    assert score("part_correctness", wrong).scores.tolist() == [0.0] * 12
    assert score("part_contrastivity", wrong).scores.tolist() == [0.0] * 12
    with pytest.warns(RuntimeWarning, match="12 of 12 maps.*not positive"):
        found = score("part_completeness", wrong)
    assert found.scores.isnan().all()


def test_pictures_without_a_positive_total_are_left_out_and_the_others_need_them():
    """Totals of every second picture are positive: nothing is there to choose their threshold by."""
    with pytest.warns(RuntimeWarning, match="12 of 12"):
        found = score("part_completeness", Truth(model(), only="odd"))
    assert found.scores.isnan().all()
    assert found.details["threshold"].isnan()[1::2].all()
    assert not found.details["threshold"].isnan()[::2].any()


@pytest.mark.parametrize("name", ["random", "edge", "input", "center", "constant"])
def test_what_never_looks_at_the_network_follows_no_class(name):
    found = score("part_contrastivity", name)
    assert found.scores.tolist() == [0.5] * 12
    assert found.details["equal"].tolist() == [2] * 12
    # every class once in six pictures: 60 have a standard error of 0.03, were they independent
    assert abs(score("part_correctness", name, pictures=60, size=40).scores.mean() - 0.5) < 0.1


@pytest.mark.parametrize("metric", NAMES)
def test_sound_methods_beat_noise(metric):
    chance = score(metric, "random").scores.mean()
    for name in ("integrated_gradients", "occlusion"):
        assert score(metric, name).scores.mean() > chance + 0.15


def test_gradients_misjudge_looks_that_saturate_and_paths_do_not():
    assert score("part_correctness", "integrated_gradients").scores.mean() > 0.97
    assert score("part_correctness", "input_x_gradient").scores.mean() < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_added_up(name):
    kept, added = (
        score(name, attribution.create("input_x_gradient", model(), channels=c)).scores for c in ("keep", "sum")
    )
    assert torch.equal(kept, added)


def test_a_map_of_zeros():
    zero = Truth(model(), sign=0)
    for name in NAMES[:2]:
        with pytest.warns(RuntimeWarning, match="12 of 12"):
            assert score(name, zero).scores.isnan().all()
    assert score("part_contrastivity", zero).scores.tolist() == [0.5] * 12


def test_parts_that_are_the_same_but_for_rounding_have_no_order():
    with pytest.warns(RuntimeWarning, match="12 of 12"):
        assert score("part_correctness", Truth(model(), only="one")).scores.isnan().all()


@pytest.mark.parametrize("more", [0.0, 2e-7])
def test_maps_that_differ_by_rounding_alone_are_the_same(more):
    assert score("part_contrastivity", Noise(model(), more=more)).details["equal"].tolist() == [2] * 12
    assert score("part_contrastivity", Noise(model(), more=0.1)).details["equal"].tolist() == [0] * 12


def test_the_importance_of_a_thing_includes_its_margin_alone():
    around = part_scenes(1).around
    maps = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.3
    found = _parts.importance(maps, around)
    for m in range(9):
        assert found.things[0, m].item() == pytest.approx(maps[0][around[0, m]].double().sum().item())
    assert found.total.item() == pytest.approx(maps.double().sum().item())
    assert found.size.item() == pytest.approx(maps.double().abs().sum().item())


# -- the formulas ------------------------------------------------------------------------------------------------------


def test_single_deletion_is_scipy_s():
    said, drops = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    said[0, 2] = said[0, 4]
    found = single_deletion(said, drops, torch.zeros(5))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(said, drops, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    coarse = single_deletion(said, drops, torch.full((5,), 2.0))
    assert coarse.isnan().all()


def test_the_score_is_half_of_rho_and_a_half():
    found = score("part_correctness", "random")
    torch.testing.assert_close(found.scores, 0.5 + 0.5 * found.details["rho"])


def test_target_sensitivity_counts_both_sides():
    shared = torch.tensor([[True, True, False]]).expand(5, -1)
    one = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 4.0], [1.0, 1.0, 1.0], [3.0, 0.0, 1.0]]).double()
    other = torch.tensor([[0.0, 2.9, 1.0], [4.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]).double()
    found, equal = target_sensitivity(one, other, shared, torch.full((5,), 0.01))
    assert found.tolist() == [1.0, 0.5, 0.0, 0.5, 0.75]
    assert equal.tolist() == [0, 0, 0, 2, 1]
    assert target_sensitivity(one, other, shared, torch.full((5,), 0.2))[0].tolist() == [0.75, 0.5, 0.0, 0.5, 0.75]


def members(number, count):
    return {p for p in range(count) if number >> p & 1}


def test_checks_are_those_of_sets():
    generator = torch.Generator().manual_seed(2)
    kept = torch.rand(6, 16, generator=generator) < 0.4
    kept[:, 0] = False
    kept[:, -1] = True
    important = torch.rand(6, 5, 7, generator=generator) < 0.5
    irrelevant = torch.rand(6, 7, generator=generator) < 0.5
    irrelevant[:, 0] = True
    found = checks(important, kept, irrelevant)
    fewest = minimal(kept)
    for u in range(6):
        enough = [members(s, 4) for s in range(16) if kept[u, s]]
        least = [s for s in enough if not any(other < s for other in enough)]
        assert [members(s, 4) for s in range(16) if fewest[u, s]] == least
        idle = set(irrelevant[u].nonzero().flatten().tolist())
        for t in range(5):
            called = set(important[u, t].nonzero().flatten().tolist())
            parts = called & set(range(4))
            assert found.csdc[u, t].item() == pytest.approx(max(len(parts & s) / len(s) for s in least))
            assert found.pc[u, t] == (parts in enough)
            assert found.dc[u, t] == (set(range(4)) - parts not in enough)
            assert found.d[u, t].item() == pytest.approx(1 - len(called & idle) / len(idle))
    expected = ((found.csdc + found.pc + found.dc) / 3 + found.d) / 2
    torch.testing.assert_close(found.score, expected)


def test_the_threshold_is_the_other_half_s():
    found = torch.rand(9, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    defined = torch.tensor([True] * 7 + [False] * 2)
    best = crossed(found, defined)
    assert best[::2].tolist() == [found[[1, 3, 5]].mean(0).argmax()] * 5
    assert best[1::2].tolist() == [found[[0, 2, 4, 6]].mean(0).argmax()] * 4
    assert best[0] != best[1]
    assert crossed(torch.ones(2, 3), torch.tensor([True, True])).tolist() == [0, 0]
    assert crossed(found, torch.arange(9) % 2 == 0)[:2].tolist() == [-1, found[::2].mean(0).argmax()]
    assert len(THRESHOLDS) == 80
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0.01, 0.5)


def test_completeness_is_what_its_details_say():
    """Of a map with signs: shares are of what it adds up to with them."""
    found = score("part_completeness", Noise(model()))
    d = found.details
    assert sorted(d) == ["csdc", "d", "dc", "pc", "threshold"]
    torch.testing.assert_close(found.scores, ((d["csdc"] + d["pc"] + d["dc"]) / 3 + d["d"]) / 2)
    assert len(d["threshold"].unique()) <= 2
    scenes = part_scenes(12, size=48)
    maps = Noise(scenes.model).attribute(scenes.images, scenes.labels)[:, 0]
    said = _parts.importance(maps, scenes.around)
    called = said.things / said.total[:, None] > d["threshold"][:, None]
    idle = own(scenes) == 0
    torch.testing.assert_close(d["d"], 1 - (called & idle).sum(1).double() / 4)
    torch.testing.assert_close(
        d["pc"], scenes.model.outputs(scenes.render(called)).argmax(1).eq(scenes.labels).double()
    )
    torch.testing.assert_close(
        d["dc"], scenes.model.outputs(scenes.render(~called)).argmax(1).ne(scenes.labels).double()
    )


# -- how they are run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_does_not_run_on_the_network_is_told_so(name):
    """Attention there is none, and no such layer; a baseline of another size fits no picture."""
    for method in (
        attribution.create("gae", model()),
        attribution.create("gradient", model(), layer="layer4"),
        attribution.create("integrated_gradients", model(), baseline=torch.zeros(1, 3, 16, 16)),
        attribution.create("grad_cam", model(), resize=None),
    ):
        with pytest.raises(ValueError, match=f"{name} puts methods on a network of its own"):
            score(name, method)


def test_the_batch_size_is_the_model_s(monkeypatch):
    seen = []
    plain = _parts.wrapped
    monkeypatch.setattr(_parts, "wrapped", lambda network, size=None: seen.append(size) or plain(network, size))
    score("part_correctness", attribution.create("gradient", model(batch_size=5)))
    assert seen[-1] == 5


def test_renderings_are_shared_and_the_truth_is_rendered_once(monkeypatch):
    calls = []
    plain = _parts.PartScenes.outputs
    monkeypatch.setattr(_parts.PartScenes, "outputs", lambda self, keep: calls.append(len(keep)) or plain(self, keep))
    for name in (*NAMES, *NAMES):
        score(name, "edge", seed=11)
    assert sorted(calls) == [1, 9, 64]
    costs = [metrics.create(name).cost() for name in NAMES]
    assert costs == [74, 10, 0]


def test_options_are_checked():
    for name, options in [
        ("part_completeness", {"pictures": 1}), ("part_correctness", {"size": 39}), ("part_contrastivity", {"distractors": 4}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            metrics.create(name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("part_correctness", "gradient", pictures=1, distractors=0, size=40).scores.shape == (1,)
        assert score("part_completeness", "input_x_gradient", pictures=2, distractors=0).scores.shape == (2,)

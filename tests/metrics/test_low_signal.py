"""Known functions of few features, and codes in fields of noise: the truth as a map, methods that find it, and chance."""

import inspect

import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Attributor, Computed
from attriscope.metrics.ground_truth._noise import SHAPES, first
from attriscope.metrics.ground_truth.functional_precision import functional_precision
from attriscope.metrics.ground_truth.noise_field_iou import box_around, intersection_over_union
from attriscope.metrics.ground_truth.uniform_score import agreement
from scipy import integrate

WHATEVER = attribution.conformance.Detector().eval()
ASKED = []


class Given(Attributor):
    """A method that is handed its maps; it writes down how many inputs it was asked about at a time."""

    maps: torch.Tensor

    def compute(self, inputs, target):
        ASKED.append((inputs.shape, target.index[:, 0].tolist()))
        return Computed(self.maps.reshape(len(inputs), *self.maps.shape[1:]), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def method(name="gradient", **options):
    return attribution.create(name, WHATEVER, **options)


def given(maps):
    return Given(WHATEVER, maps=maps)


def scenes(samples=12, **options):
    return metrics.symbolic_scenes(samples, **{"features": 24, "useful": 6, "functions": 4, **options})


def symbolic(name, samples=12, **options):
    return metrics.create(name, samples=samples, **{"features": 24, "useful": 6, "functions": 4, **options})


def logits(made, inputs):
    """What the functions that are asked about are, in double precision."""
    network = made.model.network.double()
    found = network(inputs.double()).gather(1, made.targets[:, None])[:, 0]
    return found


# -- known functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: getattr(shape.value, "__name__", ""))
def test_derivatives_are_those_of_the_functions(shape):
    s = torch.linspace(-3, 4, 29, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(shape.value(s).sum(), s)
    torch.testing.assert_close(shape.derivative(s.detach()), slope, rtol=1e-12, atol=1e-12)  # rounding


@pytest.mark.parametrize("layout", ["image", "table"])
def test_the_gradient_is_autograd_s(layout):
    made = scenes(layout=layout)
    truth = made.truth("gradient")
    x = made.inputs.double().requires_grad_()
    (slope,) = torch.autograd.grad(logits(made, x).sum(), x)
    torch.testing.assert_close(truth, slope.flatten(1), rtol=1e-12, atol=1e-12)  # rounding of double precision


@pytest.mark.parametrize("baseline", [0.0, 0.6])
def test_the_path_is_the_integral_by_quadrature_and_complete(baseline):
    made = scenes(4)
    truth = made.truth("path", baseline)
    x, way = made.inputs.double(), made.inputs.double() - baseline

    def slopes(alpha):
        at = (baseline + alpha * way).requires_grad_()
        return (torch.autograd.grad(logits(made, at).sum(), at)[0] * way).flatten(1).numpy()

    expected, _ = integrate.quad_vec(slopes, 0, 1, epsabs=1e-12)
    torch.testing.assert_close(truth, torch.from_numpy(expected), rtol=0, atol=1e-9)  # what is promised
    gain = logits(made, x) - logits(made, torch.full_like(x, baseline))
    torch.testing.assert_close(truth.sum(1), gain.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", [0.0, 1e-13, 1e-9, 1e-6, 1e-4])
def test_the_path_of_an_argument_that_hardly_moves_is_the_derivative_s(way):
    """A difference over a difference would keep three digits at 1e-13; to the second order it is the slope in the middle."""
    made = scenes(4)
    there = metrics.SymbolicScenes(torch.full((4, 24), way).double(), made.targets, made.useful, made.model)
    found = there.truth("path")
    x = torch.full_like(made.inputs.double(), way / 2).requires_grad_()
    (slope,) = torch.autograd.grad(logits(made, x).sum(), x)
    torch.testing.assert_close(found, slope.flatten(1) * way, rtol=1e-6, atol=0)


@pytest.mark.parametrize("baseline", [0.0, 0.6])
def test_the_ablation_is_the_fall_of_the_function(baseline):
    made = scenes(4)
    truth = made.truth("ablation", baseline)
    x = made.inputs.double()
    for i in range(24):
        without = x.flatten(1).clone()
        without[:, i] = baseline
        fall = logits(made, x) - logits(made, without.reshape(x.shape))
        torch.testing.assert_close(truth[:, i], fall.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("of", ["gradient", "path", "ablation"])
def test_what_is_useless_has_exactly_zero_and_nothing_else_has(of):
    made = scenes(40, functions=10, features=100, useful=10)
    assert torch.equal(made.truth(of) != 0, made.useful)
    assert made.useful.sum(1).tolist() == [10] * 40
    assert len(made.useful[:10].unique(dim=0)) == 10  # each function reads others
    x, y = made.inputs.flatten(1), made.inputs.flatten(1).flip(0)
    mixed = torch.where(made.useful, x, y).reshape(made.inputs.shape)
    assert torch.equal(logits(made, made.inputs), logits(made, mixed))


def test_features_have_effects_of_one_order():
    """None can be left out: the least of ten has a share of 0.4% at the median, a tenth of what each had if all were alike."""
    made = metrics.symbolic_scenes(200)
    sizes = made.truth("path").abs()
    shares = (sizes / sizes.sum(1, keepdim=True))[made.useful].reshape(200, 10)
    assert shares.amin(1).median() > 0.003
    assert shares.amax(1).median() < 0.4


def test_inputs_depend_on_seed_and_number_alone():
    few, many = scenes(3), scenes(8)
    assert torch.equal(few.inputs, many.inputs[:3])
    for name in ("inner.weight", "inner.bias", "outer.weight"):
        assert torch.equal(few.model.network.get_parameter(name), many.model.network.get_parameter(name))
    fewer = scenes(3, functions=2)
    assert torch.equal(fewer.useful[:2], few.useful[:2])
    torch.testing.assert_close(fewer.truth()[:2], few.truth()[:2], rtol=1e-12, atol=1e-12)  # sums in another order
    other = scenes(3, seed=1)
    assert not torch.equal(few.inputs, other.inputs)
    assert not torch.equal(few.useful, other.useful)


@pytest.mark.parametrize(("features", "size"), [(24, (4, 6)), (100, (10, 10)), (23, (1, 23))])
def test_images_are_as_square_as_can_be(features, size):
    assert scenes(2, features=features).inputs.shape == (2, 1, *size)
    assert scenes(2, features=features, layout="table").inputs.shape == (2, features)


# -- functional precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["gradient", "path", "ablation"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_truth_has_precision_one_whatever_its_sign(of, sign):
    maps = sign * scenes().truth(of).reshape(12, 1, 4, 6)
    assert symbolic("functional_precision").score(given(maps)).tolist() == [1.0] * 12


def test_the_noise_alone_has_precision_zero():
    assert symbolic("functional_precision").score(given((~scenes().useful).reshape(12, 1, 4, 6).double())).tolist() == (
        [0.0] * 12
    )


def test_equal_values_get_the_expected_precision():
    useful = torch.tensor([[1, 1, 1, 0, 0, 0]] * 4) > 0
    maps = torch.tensor(
        [
            [9.0, 1, 1, 1, 1, 1],  # two places among five, of which two are useful
            [0, 0, 0, 9, 1, 0],  # one place among four, of which three are useful
            [2, -2, 2, 2, -2, 2],
            [0, 1, 2, 3, 4, -5],
        ]
    )
    assert functional_precision(maps, useful).tolist() == pytest.approx([(1 + 2 * 2 / 5) / 3, 0.75 / 3, 0.5, 0.0])


def test_rounding_breaks_no_tie():
    maps = 1 + 1e-8 * torch.rand(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert first(maps, 3)[0].tolist() == pytest.approx([0.3] * 10)
    assert first(torch.tensor([[1.0, 1.00001]]), 1).tolist() == [[0.0, 1.0]]


def test_a_map_that_knows_nothing_is_at_chance():
    """A draw of 10 of 100 without replacement: 0.090 for a function, 0.0064 for 40 of them and 5 draws; three of these."""
    metric = metrics.create("functional_precision", samples=40, functions=40)
    scores = torch.cat([metric.score(method("random", seed=seed)) for seed in range(5)])
    assert scores.mean().item() == pytest.approx(metric.chance, abs=0.02)
    found = metric.score(method("constant"), curves=True)
    assert found.scores.tolist() == pytest.approx([0.1] * 40)
    assert found.details["chance"].tolist() == [0.1] * 40


def test_the_function_that_is_asked_about_counts():
    """A map that finds what another function reads has what the two share by chance."""
    made = scenes()
    other = made.truth("path").roll(1, 0).reshape(12, 1, 4, 6)
    found = symbolic("functional_precision").score(given(other))
    shared = (made.useful & made.useful.roll(1, 0)).sum(1) / 6
    assert found.tolist() == pytest.approx(shared.tolist())
    assert found.mean() < 0.6


def test_the_probability_of_one_function_is_its_own():
    assert symbolic("functional_precision").score(method("gradient", output="probability")).tolist() == [1.0] * 12


def test_inputs_of_one_function_are_a_cluster():
    for name in ("functional_precision", "uniform_score"):
        found = symbolic(name, samples=9).score(method(), curves=True)
        assert found.clusters.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


@pytest.mark.parametrize("layout", ["image", "table"])
def test_all_inputs_are_explained_in_one_call(layout):
    ASKED.clear()
    shape = (12, 1, 4, 6) if layout == "image" else (12, 24)
    symbolic("functional_precision", layout=layout).score(given(torch.ones(shape)))
    (asked,) = ASKED
    assert asked == (shape, [0, 1, 2, 3] * 3)


# -- uniform score -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["gradient", "path", "ablation"])
def test_the_truth_has_a_uniform_score_of_one_and_its_negative_zero(of):
    truth = scenes().truth(of).reshape(12, 1, 4, 6)
    metric = symbolic("uniform_score", truth=of)
    for factor in (1, 1e-6, 1e6):
        found = metric.score(given(factor * truth), curves=True)
        torch.testing.assert_close(found.scores, torch.ones(12).double(), rtol=0, atol=1e-4)  # maps are float32
        torch.testing.assert_close(found.details["all"], torch.ones(12).double(), rtol=0, atol=1e-4)
    assert metric.score(given(-truth)).tolist() == [0.0] * 12
    unsigned = symbolic("uniform_score", truth=of, absolute=True).score(given(-truth))
    torch.testing.assert_close(unsigned, torch.ones(12).double(), rtol=0, atol=1e-4)


def test_agreement_is_a_closed_form():
    maps, truth = torch.tensor([[6.0, -2.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.25, 0.0, -0.25]])
    assert agreement(maps, truth)[0].tolist() == pytest.approx([1 - 0.25 / 1.25, 0, 1, 0])
    assert agreement(1e-30 * maps.double(), truth)[0].tolist() == pytest.approx([0.8, 0, 1, 0])
    assert agreement(torch.zeros(1, 4), truth).isnan().all()


def test_mass_on_noise_is_missing_where_it_belongs():
    """Half of the mass is on a useless feature: shares are half of the truth's, and 1 - (1/2) / (3/2) of each agrees."""
    made = scenes()
    maps = made.truth("path")
    for row, useful in zip(maps, made.useful, strict=True):
        row[int((~useful).nonzero()[0])] = row.abs().sum()
    found = symbolic("uniform_score").score(given(maps.reshape(12, 1, 4, 6)), curves=True)
    torch.testing.assert_close(found.scores, torch.full((12,), 2 / 3).double(), rtol=0, atol=1e-4)  # maps are float32
    expected = (6 * 2 / 3 + 17) / 24  # of 18 useless features one is not 0
    torch.testing.assert_close(found.details["all"], torch.full((12,), expected).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", ["image", "table"])
@pytest.mark.parametrize(
    ("of", "name", "options"),
    [
        ("path", "integrated_gradients", {"steps": 32}),
        ("gradient", "gradient", {}),
        ("gradient", "saliency", {}),
        ("ablation", "occlusion", {"window": 1, "stride": 1}),
        ("ablation", "feature_ablation", {"regions": torch.arange(24).reshape(4, 6), "n_regions": 24}),
    ],
)
def test_methods_find_the_truth_that_they_estimate(layout, of, name, options):
    """In single precision: an error of 1e-6 beside the least useful feature, of 1e-4 or so, is 1e-2 of it at most."""
    if layout == "table" and "regions" in options:
        options = {}  # a column is a region
    metric = symbolic("uniform_score", truth=of, layout=layout, absolute=name == "saliency")
    found = metric.score(method(name, **options))
    assert found.min() > 0.995
    assert found.mean() > 0.999


def test_the_wrong_truth_is_not_reached():
    for of, name in [("gradient", "integrated_gradients"), ("path", "gradient"), ("ablation", "gradient")]:
        assert symbolic("uniform_score", truth=of).score(method(name)).mean() < 0.9


@pytest.mark.parametrize("of", ["path", "ablation"])
def test_the_baseline_must_be_the_method_s(of):
    name, options = ("integrated_gradients", {}) if of == "path" else ("occlusion", {"window": 1, "stride": 1})
    half = symbolic("uniform_score", truth=of, baseline=0.5)
    assert half.score(method(name, baseline=0.5, **options)).mean() > 0.999
    assert half.score(method(name, **options)).mean() < 0.8


@pytest.mark.parametrize("baseline", ["zero", "black", "mean"])
def test_what_papers_call_absent_is_zero(baseline):
    made = method("integrated_gradients", baseline=baseline)
    assert symbolic("uniform_score").score(made).mean() > 0.999


def test_a_map_of_zeros_is_undefined():
    maps = scenes().truth("path").reshape(12, 1, 4, 6)
    maps[3] = 0
    with pytest.warns(RuntimeWarning, match="undefined for 1 of 12 maps.*no shares"):
        found = symbolic("uniform_score").score(given(maps))
    assert found.isnan().nonzero().tolist() == [[3]]
    assert symbolic("functional_precision").score(given(maps))[3] == 0.25  # k/F


# -- fields of noise ---------------------------------------------------------------------------------------------------


def fields(pictures=6, size=24, **options):
    return metrics.noise_scenes(pictures, size=size, **options)


def iou(pictures=6, size=24, **options):
    return metrics.create("noise_field_iou", pictures=pictures, size=size, **options)


@pytest.mark.parametrize("size", [24, 25, 40, 64])
def test_boxes_are_where_the_masks_are_and_lie_or_stand(size):
    made = fields(size=size)
    assert torch.equal(box_around(made.mask), made.boxes)
    sides = made.boxes[:, 2:] - made.boxes[:, :2]
    assert (sides.prod(1) == made.mask.flatten(1).sum(1)).all()  # nothing but the box is in the mask
    assert (sides[made.labels % 2 == 0, 0] > sides[made.labels % 2 == 0, 1]).all()  # wider than high
    assert (sides[made.labels % 2 == 1, 0] < sides[made.labels % 2 == 1, 1]).all()


@pytest.mark.parametrize(("size", "seed"), [(24, 0), (24, 1), (64, 0)])
def test_the_network_reads_the_code_and_nothing_else(size, seed):
    made = fields(8, size=size, seed=seed)
    x = made.images.clone().requires_grad_()
    outputs = made.model.network((x - 0.5) / 0.4)
    expected = 8 * torch.eye(4)[made.labels]
    torch.testing.assert_close(outputs.detach(), expected, rtol=0, atol=1e-3)  # single precision, of 8
    (slopes,) = torch.autograd.grad(outputs.gather(1, made.labels[:, None]).sum(), x)
    assert torch.equal((slopes != 0).all(1), made.mask)
    assert torch.equal((slopes != 0).any(1), made.mask)
    signs = (made.images - 0.5).sign()
    assert bool((slopes * signs >= 0).all())  # the slope is the code
    other = 1 - made.images  # every pixel outside may be anything
    mixed = torch.where(made.mask[:, None], made.images, other)
    torch.testing.assert_close(made.model.outputs(mixed), expected, rtol=0, atol=1e-3)


def test_the_last_map_is_the_mask():
    made = fields()
    with torch.no_grad():
        painted = made.model.network[:3]((made.images - 0.5) / 0.4)
    own = painted[torch.arange(6), made.labels]
    assert torch.equal(own > 1e-3 * own.max(), made.mask)


def test_the_code_looks_like_the_noise():
    """Coins in both: 3 x 35 of them in a box, so that 0.5 is their mean to 0.05, and to 0.005 over 96 boxes of 4 codes."""
    made = fields(96, classes=96)
    inside = made.images.movedim(1, 3)[made.mask]
    outside = made.images.movedim(1, 3)[~made.mask]
    assert inside.mean().item() == pytest.approx(0.5, abs=0.02)
    assert sorted({round(v, 6) for v in inside.flatten().tolist()}) == pytest.approx([0.1, 0.9])
    assert sorted({round(v, 6) for v in outside.flatten().tolist()}) == pytest.approx([0.1, 0.9])


def test_pictures_depend_on_seed_and_number_alone():
    few, many, other = fields(3), fields(9), fields(3, seed=1)
    assert torch.equal(few.images, many.images[:3])
    assert not torch.equal(few.images, other.images)
    assert len(many.boxes.unique(dim=0)) > 4


def test_boxes_lie_anywhere():
    boxes = fields(200).boxes
    assert boxes[::2, 0].min() == boxes[1::2, 1].min() == 0
    assert boxes[::2, 2].max() == boxes[1::2, 3].max() == 24  # codes are square with empty margins, which stay inside


def test_channels_are_added_up():
    summed, kept = (iou().score(method("gradient", channels=how)) for how in ("sum", "keep"))
    torch.testing.assert_close(kept, summed, rtol=0, atol=0)
    assert not torch.equal(iou().score(method("gradient", channels="max_abs")), summed)


@pytest.mark.parametrize("size", [24, 40, 64])
def test_the_mask_has_an_iou_of_one(size):
    made = fields(size=size)
    found = iou(size=size).score(given(made.mask[:, None].float()), curves=True)
    assert found.scores.tolist() == found.details["precision"].tolist() == found.details["oracle"].tolist() == [1.0] * 6
    wrong = iou(size=size).score(given(-made.mask[:, None].float()), curves=True)
    assert (wrong.scores < 0.1).all()
    assert wrong.details["precision"].max() < 0.01
    unsigned = iou(size=size, absolute=True).score(given(-made.mask[:, None].float()))
    assert unsigned.tolist() == [1.0] * 6


def test_where_corners_are_lost_the_oracle_says_so():
    made = fields(4, size=72)
    found = iou(4, 72).score(given(made.mask[:, None].float()), curves=True)
    assert torch.equal(found.scores, found.details["oracle"])
    assert found.scores.max() < 1
    other = iou(4, 72).score(method("input"), curves=True)
    assert torch.equal(other.details["oracle"], found.details["oracle"])
    sharp = iou(4, 72, smooth=0.0).score(given(made.mask[:, None].float()))
    assert sharp.tolist() == [1.0] * 4


def test_rows_are_not_columns():
    """A transposed mask, which a square box would not tell from a right one about the diagonal."""
    made = fields()
    found = iou(smooth=0.0).score(given(made.mask.transpose(1, 2)[:, None].float()))
    turned = box_around(made.mask.transpose(1, 2))
    assert torch.equal(turned, made.boxes[:, [1, 0, 3, 2]])
    torch.testing.assert_close(found, intersection_over_union(turned, made.boxes), rtol=0, atol=0)
    assert found.max() < 0.8
    wide = torch.zeros(1, 5, 9, dtype=torch.bool)  # maps need not be square
    wide[0, 1, 6:8] = wide[0, 3, 7] = True
    assert box_around(wide).tolist() == [[6, 1, 8, 4]]


def test_iou_of_known_boxes():
    box = torch.tensor([[2, 1, 6, 4]] * 5)
    others = torch.tensor([[2, 1, 6, 4], [4, 2, 8, 5], [6, 1, 9, 4], [7, 5, 9, 9], [0, 0, 12, 6]])
    expected = [1, 4 / (12 + 12 - 4), 0, 0, 12 / 72]
    assert intersection_over_union(box, others).tolist() == pytest.approx(expected)


def test_smoothing_is_a_share_of_the_side():
    """A single pixel: smoothed, its 35 largest values are a disk; as it is, all others are equal."""
    made = fields(1)
    left, top, right, bottom = made.boxes[0].tolist()
    maps = torch.zeros(1, 1, 24, 24)
    maps[0, 0, (top + bottom) // 2, (left + right) // 2] = 1
    none, some = (iou(1, smooth=s).score(given(maps), curves=True) for s in (0.0, 0.05))
    assert none.scores.tolist() == none.details["chance"].tolist()  # zeros are equal: the box is the picture
    expected = attribution.baselines.gaussian_blur(maps.double(), 0.05 * 24)[0, 0]
    inside = expected >= expected.flatten().topk(35).values[-1] - 1e-9
    theirs = intersection_over_union(box_around(inside[None]), made.boxes)
    assert some.scores.tolist() == theirs.tolist()
    assert some.scores.item() > 0.4


def test_a_constant_map_has_the_whole_picture():
    found = iou().score(method("constant"), curves=True)
    chance = 35 / 576
    assert found.scores.tolist() == pytest.approx([chance] * 6)
    assert found.details["chance"].tolist() == pytest.approx([chance] * 6)
    assert found.details["precision"].tolist() == pytest.approx([chance] * 6)


def test_noise_and_the_picture_itself_are_near_chance():
    """The expected precision of 16 pictures is 0.046; smoothed noise lies in clumps of some pixels, whose sd is 0.02."""
    for name in ("random", "input", "edge"):
        found = iou(16, 64).score(method(name), curves=True)
        assert found.scores.mean() < 0.1
        assert found.details["precision"].mean().item() == pytest.approx(0.046, abs=0.04)


def test_one_picture_is_as_good_as_many():
    for name in ("input_x_gradient", "grad_cam", "random"):
        many, one = iou(4).score(method(name)), iou(1).score(method(name))
        assert one.shape == (1,)
        assert one.tolist() == many[:1].tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [("input_x_gradient", {"baseline": None}), ("integrated_gradients", {"baseline": "mean"}), ("grad_cam", {})],
)
def test_exact_methods_are_one(name, options):
    options = {k: v for k, v in options.items() if v is not None}
    assert iou(4, 64).score(method(name, **options)).tolist() == [1.0] * 4


def test_all_pictures_are_explained_in_one_call():
    ASKED.clear()
    iou().score(given(torch.ones(6, 1, 24, 24)))
    assert ASKED == [((6, 3, 24, 24), [0, 1, 2, 3, 0, 1])]


# -- all of them -------------------------------------------------------------------------------------------------------

NAMES = ["functional_precision", "uniform_score", "noise_field_iou"]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_scored_is_refused_in_a_sentence(name):
    metric = metrics.create(name, **metrics.metric.REGISTRY.find(name).small)
    with pytest.raises(ValueError, match=f"{name} puts methods on a network of its own, where this one fails: .*atten"):
        looker = attribution.conformance.Looker().eval()
        metric.score(attribution.create("attention_rollout", attribution.Model(looker)))
    with pytest.raises(ValueError, match="made elsewhere"):
        metric.score(attribution.from_maps(torch.rand(2, 1, 8, 8), WHATEVER))
    captum = pytest.importorskip("captum.attr")
    with pytest.raises(ValueError, match="Captum object, which stays on the network"):
        metric.score(attribution.from_captum(captum.Saliency(WHATEVER)))
    with pytest.raises(ValueError, match="do not fit images"):
        metric.score(Coarse(WHATEVER))


class Coarse(Attributor):
    """Its maps are smaller than images, and it does not mind."""

    resize: str | None = None

    def compute(self, inputs, target):
        return Computed(torch.ones(len(inputs), 1, 2, 2), {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def test_tables_are_for_methods_that_take_them():
    with pytest.raises(ValueError, match="center does not run on this model: it explains image inputs"):
        symbolic("functional_precision", layout="table").score(method("center"))


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("functional_precision", {"useful": 100}, ValueError, "leaves no feature that is noise"),
        ("functional_precision", {"useful": 0}, ValueError, "at least 1"),
        ("uniform_score", {"useful": 12, "features": 10}, ValueError, "pass more features"),
        ("uniform_score", {"truth": "shapley"}, ValueError, "choose one of gradient, path, ablation"),
        ("uniform_score", {"baseline": 1.5}, ValueError, "between 0 and 1"),
        ("uniform_score", {"layout": "tokens"}, ValueError, "choose one of image, table"),
        ("noise_field_iou", {"size": 16}, ValueError, "at least 24"),
        ("noise_field_iou", {"classes": 1}, ValueError, "at least 2"),
        ("noise_field_iou", {"smooth": -0.1}, ValueError, "between 0 and 1"),
        ("noise_field_iou", {"pictures": 2.0}, TypeError, "expected int"),
    ],
)
def test_options_are_checked(name, options, error, text):
    with pytest.raises(error, match=text):
        metrics.create(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_facts(name):
    facts = metrics.describe(name)
    assert facts["family"] == "ground_truth"
    assert facts["range"] == (0.0, 1.0)
    assert facts["higher_is_better"] is True
    assert (facts["cost"], facts["explanations"]) == (0, 1)
    assert all(p["help"] for p in facts["parameters"].values())
    assert inspect.signature(metrics.metric.REGISTRY.find(name)).parameters["seed"].default == 0


def test_names_of_the_paper_are_known():
    assert metrics.create("fprec") == metrics.create("functional_precision")
    assert metrics.create("uscore") == metrics.create("uniform_score")


@pytest.mark.parametrize("name", NAMES)
def test_the_method_s_batch_size_is_the_model_s(name, monkeypatch):
    seen = []

    def attribute(self, inputs, target=None, **_):
        seen.append(self.model.batch_size)
        return inputs[:, :1]

    monkeypatch.setattr(attribution.attributor.REGISTRY.find("gradient"), "attribute", attribute)
    made = attribution.create("gradient", attribution.Model(WHATEVER, batch_size=3))
    metrics.create(name, **metrics.metric.REGISTRY.find(name).small).score(made)
    assert seen == [3]

"""What is explained when it is no single class: closed forms on linear networks, images with their own masks, and faults."""

import copy
import json
import pickle

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import targets
from attriscope.attribution._parameters import canonical
from attriscope.attribution.model import Model
from torch import nn
from torch.nn import functional

# float64: what differs is the order of sums
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def linear(outputs=4, size=4, seed=0):
    """A linear network of 3 x size x size numbers, and its weights `(outputs, 3, size, size)`."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, outputs)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(outputs, 3 * size * size, generator=generator))
        network[1].bias.copy_(torch.randn(outputs, generator=generator))
    return network, network[1].weight.detach().reshape(outputs, 3, size, size)


def dense(classes=3, seed=0):
    """A 1 x 1 convolution, so that each pixel's logits are its own; its weights `(classes, 3)`."""
    network = nn.Conv2d(3, classes, 1).double()
    with torch.no_grad():
        network.weight.copy_(torch.randn(network.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return network, network.weight.detach()[:, :, 0, 0]


def pictures(n=3, size=4, seed=1):
    return torch.rand(n, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ig(network, x, target, steps=1):
    options = {"steps": steps, "rule": "midpoint", "baseline": 0.0, "channels": "keep"}
    return attribution.create("integrated_gradients", network, **options).attribute(x, target)


# -- closed forms: on a linear network integrated gradients are the weights times the image ---------------------------------


def test_a_value_is_an_entry_of_the_outputs_whatever_the_activation():
    (network, weight), x = linear(), pictures()
    model = Model(network)
    torch.testing.assert_close(ig(model, x, targets.value(2)), weight[2] * x, **CLOSE)
    raw = model.scores(x, 2)
    for output in ("logit", "probability", "log_probability", "margin"):
        assert torch.equal(model.scores(x, targets.value(2), output=output), raw)
    assert torch.equal(targets.value()(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0]))


def test_a_value_of_a_dense_output_has_an_index_tuple():
    (network, weight), x = dense(), pictures()
    found = ig(network, x, targets.value((1, 2, 3)))
    expected = torch.zeros_like(x)
    expected[:, :, 2, 3] = weight[1] * x[:, :, 2, 3]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_classes_are_summed_with_their_weights():
    (network, weight), x = linear(), pictures()
    torch.testing.assert_close(ig(network, x, targets.classes([0, 3])), (weight[0] + weight[3]) * x, **CLOSE)
    weighted = targets.classes(torch.tensor([0, 3, 1]), weights=[0.5, -2.0, 1.0])
    torch.testing.assert_close(ig(network, x, weighted), (weight[0] / 2 - 2 * weight[3] + weight[1]) * x, **CLOSE)


def test_a_contrast_is_a_difference_of_weights():
    (network, weight), x = linear(), pictures()
    torch.testing.assert_close(ig(network, x, targets.contrast(1, 2)), (weight[1] - weight[2]) * x, **CLOSE)
    a, b = torch.tensor([0, 1, 2]), [3, 0, 3]
    own = targets.contrast(a, b)
    torch.testing.assert_close(ig(network, x, own), (weight[a] - weight[b]) * x, **CLOSE)
    torch.testing.assert_close(ig(network, x, targets.contrast([0, 1, 2], 3)), (weight[a] - weight[3]) * x, **CLOSE)
    logs = targets.contrast(1, 2, of="log_probability")  # a softmax's normaliser cancels
    torch.testing.assert_close(ig(network, x, logs), (weight[1] - weight[2]) * x, **CLOSE)


def test_probabilities_of_several_classes_add_up():
    outputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft, sigmoid = outputs.softmax(1), outputs.sigmoid()
    cases = [
        (targets.classes([0, 2], of="probability"), soft[:, 0] + soft[:, 2]),
        (targets.classes([0, 2], of="log_probability"), soft[:, 0].log() + soft[:, 2].log()),
        (targets.classes([0, 2], of="probability", activation="sigmoid"), sigmoid[:, 0] + sigmoid[:, 2]),
        (targets.contrast(1, 3, of="probability"), soft[:, 1] - soft[:, 3]),
        (targets.label(1), outputs[:, 1]),
        (targets.label(1, of="probability"), sigmoid[:, 1]),
        (targets.label(1, of="log_probability"), sigmoid[:, 1].log()),
        (targets.label([3, 1, 0, 2, 2], of="probability"), sigmoid[range(5), [3, 1, 0, 2, 2]]),
    ]
    for target, expected in cases:
        torch.testing.assert_close(target(outputs), expected, **CLOSE)
    ready = targets.classes([0, 2], of="probability", activation="none")
    torch.testing.assert_close(ready(soft), soft[:, 0] + soft[:, 2], **CLOSE)
    logs = targets.classes([2], of="log_probability", activation="none")
    torch.testing.assert_close(logs(soft), soft[:, 2].log(), **CLOSE)


def test_one_output_is_a_sigmoid_s():
    outputs = torch.tensor([0.0, 2.0])
    torch.testing.assert_close(targets.classes([0], of="probability")(outputs), outputs.sigmoid())
    torch.testing.assert_close(targets.label(0)(outputs[:, None]), outputs)


def test_a_label_s_probability_has_the_gradient_of_a_sigmoid():
    (network, weight), x = linear(), pictures()
    found = attribution.create("input_x_gradient", network, channels="keep").attribute(
        x, targets.label(1, of="probability")
    )
    p = network(x)[:, 1].detach().sigmoid()[:, None, None, None]
    torch.testing.assert_close(found, p * (1 - p) * weight[1] * x, **CLOSE)


def test_half_precision_outputs_are_read_in_float32():
    outputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).half()
    assert targets.classes([0, 1])(outputs).dtype == torch.float32
    assert targets.similarity(torch.ones(4))(outputs).dtype == torch.float32


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("output", ["logit", "probability", "log_probability", "margin"])
@pytest.mark.parametrize("columns", [1, 4])
def test_all_classes_at_once_are_each_class_by_itself(columns, output, activation):
    outputs = torch.rand(3, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    found = targets.read_all(outputs, output, activation)
    for k in range(columns):
        one = targets.read(outputs, targets.resolve(k, 3, (columns,)), output, activation)
        torch.testing.assert_close(found[:, k], one, **CLOSE)


# -- a segment ---------------------------------------------------------------------------------------------------------


def test_a_segment_is_explained_inside_its_mask_alone():
    (network, weight), x = dense(), pictures()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 2:] = True
    each = weight[1][None, :, None, None] * x * mask
    torch.testing.assert_close(ig(network, x, targets.segment(1, mask)), each, **CLOSE)
    torch.testing.assert_close(ig(network, x, targets.segment(1, mask, reduce="mean")), each / 4, **CLOSE)
    everywhere = targets.segment(1)
    torch.testing.assert_close(ig(network, x, everywhere), weight[1][None, :, None, None] * x, **CLOSE)
    torch.testing.assert_close(
        ig(network, x, targets.segment(1, torch.ones(4, 4))), ig(network, x, everywhere), **CLOSE
    )
    mean = targets.segment(1, reduce="mean")
    torch.testing.assert_close(ig(network, x, mean), ig(network, x, everywhere) / 16, **CLOSE)


def test_a_mask_of_weights_weighs_pixels():
    (network, weight), x = dense(), pictures()
    mask = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = ig(network, x, targets.segment(2, mask, reduce="mean"))
    torch.testing.assert_close(found, weight[2][None, :, None, None] * x * mask / mask.sum(), **CLOSE)


def test_a_mask_of_another_size_takes_the_nearest_pixel():
    (network, _), x = dense(), pictures()
    coarse = torch.tensor([[True, False], [False, False]])
    fine = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)
    larger = fine.repeat_interleave(3, 0).repeat_interleave(3, 1)
    expected = ig(network, x, targets.segment(0, fine))
    assert torch.equal(ig(network, x, targets.segment(0, coarse)), expected)
    assert torch.equal(ig(network, x, targets.segment(0, larger)), expected)


def test_each_pixel_has_probabilities_of_its_own():
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    expected = (outputs.softmax(1)[:, 2] * mask).sum((1, 2))
    torch.testing.assert_close(targets.segment(2, mask, of="probability")(outputs), expected, **CLOSE)
    expected = (outputs.sigmoid()[:, 2].log() * mask).sum((1, 2)) / mask.sum((1, 2))
    logs = targets.segment(2, mask, reduce="mean", of="log_probability", activation="sigmoid")
    torch.testing.assert_close(logs(outputs), expected, **CLOSE)


# -- similarity --------------------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """Two towers as CLIP has them: images and texts, each into the same space of 6 numbers."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6)
        )
        self.text = nn.Sequential(nn.EmbeddingBag(10, 5), nn.Linear(5, 6))

    def forward(self, images, tokens):
        pair = [functional.normalize(e, dim=1) for e in (self.image(images), self.text(tokens))]
        return pair[0] @ pair[1].T


@pytest.fixture(scope="module")
def towers():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    made = Towers().double().eval()
    torch.set_rng_state(state)
    return made


def test_similarity_with_a_text_is_what_the_two_towers_say(towers):
    x, tokens = pictures(3, 8), torch.tensor([[1, 4, 7], [0, 2, 9]])
    texts = towers.text(tokens).detach()
    leaf = x.clone().requires_grad_()
    said = towers(leaf, tokens)
    model = Model(towers.image)
    for k in (0, 1):
        scores, found = model.gradients(x, targets.similarity(texts[k]))
        (expected,) = torch.autograd.grad(said[:, k].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(scores, said[:, k].detach(), **CLOSE)
        torch.testing.assert_close(found, expected, **CLOSE)
    own = [0, 1, 0]
    torch.testing.assert_close(
        model.scores(x, targets.similarity(texts[own])), said.detach()[range(3), own], **CLOSE
    )  # fmt: skip


def test_a_scalar_product_with_a_linear_embedding_has_a_closed_form():
    (network, weight), x = linear(), pictures()
    references = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = ig(network, x, targets.similarity(references, "dot"))
    torch.testing.assert_close(found, torch.einsum("nd,dchw->nchw", references, weight) * x, **CLOSE)


def test_a_cosine_does_not_see_lengths():
    (network, _), x = linear(), pictures()
    reference = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = Model(network)
    one, other = (model.scores(x, targets.similarity(k * reference)) for k in (1, 7.5))
    torch.testing.assert_close(one, other, **CLOSE)
    torch.testing.assert_close(one, functional.cosine_similarity(network(x).detach(), reference[None]), **CLOSE)


def test_an_embedding_of_zeros_is_similar_to_nothing_and_has_a_finite_gradient():
    outputs = torch.zeros(2, 4, requires_grad=True)
    score = targets.similarity(torch.ones(4))(outputs)
    assert score.tolist() == [0, 0]
    assert torch.autograd.grad(score.sum(), outputs)[0].isfinite().all()


# -- images with their own masks, references and classes -------------------------------------------------------------------


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PER_IMAGE = {
    "classes": (lambda: linear()[0], lambda rows: targets.classes(torch.tensor([[0, 1], [2, 3], [3, 1]])[rows])),
    "label": (lambda: linear()[0], lambda rows: targets.label(torch.tensor([0, 3, 1])[rows], of="probability")),
    "contrast": (
        lambda: linear()[0],
        lambda rows: targets.contrast(torch.tensor([0, 1, 2])[rows], 3, of="probability"),
    ),
    "segment": (lambda: dense()[0], lambda rows: targets.segment(1, (random(3, 4, 4) > 0)[rows])),
    "segment_labels": (
        lambda: dense()[0],
        lambda rows: targets.segment(torch.tensor([2, 0, 1])[rows], random(4, 4) > 0),
    ),
    "segment_both": (
        lambda: dense()[0],
        lambda rows: targets.segment([[2, 0, 1][i] for i in rows], (random(3, 8, 8) > 0)[rows], reduce="mean"),
    ),
    "similarity": (lambda: linear()[0], lambda rows: targets.similarity(random(3, 4)[rows])),
}
METHODS = {"integrated_gradients": {"steps": 5}, "rise": {"masks": 24}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2, None])
@pytest.mark.parametrize("case", PER_IMAGE)
def test_a_batch_equals_its_images_one_by_one(case, method, batch_size):
    build, make = PER_IMAGE[case]
    network, x = build(), pictures()
    whole = attribution.create(method, Model(network, batch_size=batch_size), **METHODS[method])
    maps = whole.attribute(x, make([0, 1, 2]))
    for i in range(3):
        torch.testing.assert_close(maps[i : i + 1], whole.attribute(x[i : i + 1], make([i])), rtol=1e-9, atol=1e-12)
    order = [2, 0, 1]
    torch.testing.assert_close(whole.attribute(x[order], make(order)), maps[order], rtol=1e-9, atol=1e-12)
    assert float((maps - whole.attribute(x, make([1, 1, 1]))).abs().max()) > 1e-3  # each image has its own, then


@pytest.mark.parametrize("method", ["sobol", "shapley_sampling"])
def test_methods_that_drop_images_on_their_way_keep_their_own_targets(method):
    network, x = dense()[0], pictures(3, 8)
    target = targets.segment([2, 0, 1], random(3, 8, 8) > 0)
    attributor = attribution.create(method, network, budget=300)
    maps = attributor.attribute(x, target)
    for i in range(3):
        alone = attributor.attribute(x[i : i + 1], target.take(slice(i, i + 1)))
        torch.testing.assert_close(maps[i : i + 1], alone, rtol=1e-9, atol=1e-12)


def test_a_study_takes_one_and_shares_what_methods_evaluate():
    from attriscope import metrics

    network, x = linear()[0].float(), pictures().float()
    target = targets.contrast([0, 1, 2], 3)
    study = metrics.compare(
        network,
        x,
        target,
        attributors=["saliency", ("rise", {"masks": 16})],
        metrics=["insertion"],
        progress=False,
        block=2,
    )
    alone = attribution.create("rise", network, masks=16).attribute(x, target)
    torch.testing.assert_close(study.maps["rise"], alone, rtol=1e-4, atol=1e-6)  # float32, batches of other sizes
    assert study.target is None


# -- as values ---------------------------------------------------------------------------------------------------------

ALL = {
    "value": lambda: targets.value((0, 2)),
    "classes": lambda: targets.classes([1, 2], [0.5, 0.25], of="probability"),
    "label": lambda: targets.label(2),
    "contrast": lambda: targets.contrast([1, 0], [2, 3]),
    "segment": lambda: targets.segment(1, random(4, 4) > 0),
    "similarity": lambda: targets.similarity(random(4), "dot"),
}


@pytest.mark.parametrize("name", ALL)
def test_equal_ones_are_equal_and_survive_pickle(name):
    made, again = ALL[name](), ALL[name]()
    others = [make() for other, make in ALL.items() if other != name]
    assert made == again
    assert hash(made) == hash(again)
    assert all(made != other for other in others)
    assert len({made, again, *others}) == len(ALL)
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert copied == made
    assert json.dumps(canonical(made)) == json.dumps(canonical(again))
    assert "0x" not in json.dumps(canonical(made))
    with pytest.raises(AttributeError):
        made.index = 3  # frozen


def test_every_setting_tells_two_apart():
    mask = random(4, 4) > 0
    made = [
        targets.value(0), targets.value(1), targets.classes([0, 1]), targets.classes([0, 2]), targets.classes([0, 1], (1, 2)),
        targets.classes([0, 1], of="probability"), targets.classes([0, 1], of="probability", activation="sigmoid"),
        targets.segment(0, mask), targets.segment(1, mask), targets.segment(0, ~mask), targets.segment(0),
        targets.segment(0, mask, reduce="mean"), targets.similarity(random(4)), targets.similarity(random(4), "dot"),
        targets.similarity(random(4, seed=1)),
    ]  # fmt: skip
    assert len(set(made)) == len(made)


def test_they_say_what_they_are():
    assert repr(targets.value(1)) == "value(index=(1,))"
    assert repr(targets.contrast(2, 0)).startswith("classes(index=[2, 0], weights=(1.0, -1.0), of='logit'")
    assert "mask=a tensor of shape (4, 4)" in repr(targets.segment(1, torch.ones(4, 4)))


def test_what_was_given_can_change_afterwards():
    index, mask, reference = torch.tensor([0, 1]), torch.ones(2, 2), torch.ones(4)
    made = [targets.classes(index), targets.segment(0, mask), targets.similarity(reference)]
    before = [canonical(m) for m in made]
    index += 1
    mask.zero_()
    reference.zero_()
    assert [canonical(m) for m in made] == before


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: targets.value(1.5), ValueError, "whole numbers"),
        (lambda: targets.value(-1), ValueError, "below 0"),
        (lambda: targets.value([[1]]), ValueError, "index tuple"),
        (lambda: targets.value("a"), ValueError, "no class number"),
        (lambda: targets.classes([]), ValueError, "whole numbers"),
        (lambda: targets.classes([True]), ValueError, "whole numbers"),
        (lambda: targets.classes(3), ValueError, r"give classes \(K,\)"),
        (lambda: targets.classes([0, 1], [1.0]), ValueError, "give 2 finite numbers"),
        (lambda: targets.classes([0], [float("nan")]), ValueError, "finite"),
        (lambda: targets.classes([0], of="margin"), ValueError, "choose one of"),
        (lambda: targets.classes([0], activation="relu"), ValueError, "choose one of"),
        (lambda: targets.contrast(1, 1), ValueError, "compared with itself"),
        (lambda: targets.contrast([1, 2], [0, 2]), ValueError, "compared with itself"),
        (lambda: targets.contrast([0, 1, 2], [3, 4]), ValueError, "a has 3 classes and b has 2"),
        (lambda: targets.label([[0, 1], [2, 3]]), ValueError, "one for each image"),
        (lambda: targets.segment(0, [[1, 0]]), TypeError, "must be a tensor"),
        (lambda: targets.segment(0, torch.ones(2, 1, 4, 4)), ValueError, r"give \(H, W\)"),
        (lambda: targets.segment(0, torch.full((2, 2), -1.0)), ValueError, "at least 0"),
        (lambda: targets.segment(0, torch.full((2, 2), float("inf"))), ValueError, "finite"),
        (lambda: targets.segment(0, reduce="max"), ValueError, "'sum' or 'mean'"),
        (lambda: targets.similarity([1.0, 2.0]), TypeError, "floating point tensor"),
        (lambda: targets.similarity(torch.tensor([1, 2])), TypeError, "floating point tensor"),
        (lambda: targets.similarity(torch.ones(2, 2, 2)), ValueError, r"give \(D,\)"),
        (lambda: targets.similarity(torch.tensor([1.0, float("nan")])), ValueError, "NaN"),
        (lambda: targets.similarity(torch.zeros(3)), ValueError, "no direction"),
        (lambda: targets.similarity(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), ValueError, "no direction"),
        (lambda: targets.similarity(torch.ones(3), "euclid"), ValueError, "'cosine' or 'dot'"),
    ],
)
def test_bad_arguments_are_named(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert str(caught.value).startswith("targets.")


def corner():
    """Three masks of 9 x 9; that of the second image is a pixel that none of 4 x 4 is nearest to."""
    masks = torch.zeros(3, 9, 9)
    masks[1, 0, 0] = masks[0, 5, 5] = masks[2, 5, 5] = 1
    return masks


@pytest.mark.parametrize(
    ("build", "target", "said"),
    [
        (linear, targets.value(9), "names no entry of outputs of shape"),
        (linear, targets.value((0, 1)), "names no entry"),
        (linear, targets.classes([0, 7]), "class 7 is out of range for outputs of 4 classes"),
        (linear, targets.label(4), "class 4 is out of range"),
        (linear, targets.classes([[0, 1], [1, 2]]), "entries for 2 images and there are 3"),
        (linear, targets.classes([[0, 1]] * 5), "entries for 5 images and there are 3"),
        (linear, targets.segment(0), r"\(N, classes, H, W\), these are \(N, 4\)"),
        (linear, targets.similarity(torch.ones(3)), "an embedding of 3 numbers"),
        (linear, targets.similarity(torch.ones(2, 4)), "reference has entries for 2 images"),
        (dense, targets.classes([0]), "use targets.segment or targets.value"),
        (dense, targets.segment(3), "class 3 is out of range"),
        (dense, targets.segment(0, torch.ones(5, 4, 4)), "mask has entries for 5 images"),
        (dense, targets.segment([0, 1]), "label has entries for 2 images"),
        (dense, targets.segment(0, torch.zeros(4, 4)), "marks no pixel"),
        (dense, targets.segment(0, corner()), "mask of image 1 marks no pixel at the outputs' 4 x 4"),
        (dense, targets.similarity(torch.ones(3)), r"must be \(N, D\)"),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "rise"])
def test_what_does_not_fit_the_outputs_is_said_before_anything_runs(build, target, said, method):
    model = Model(build()[0])
    with pytest.raises(ValueError, match=said):
        attribution.create(method, model).attribute(pictures(), target)
    assert model.forwards == 0


def test_outputs_that_are_no_tensor_are_named():
    model = Model(lambda x: {"a": x.mean((2, 3)), "b": x}, adapter="raw")
    with pytest.raises(ValueError, match="reads a tensor, and the network's output is none"):
        model.scores(pictures(), targets.classes([0]))
    with pytest.raises(ValueError, match="reads a tensor"):
        targets.value(0)({"a": 1})


def test_a_direct_call_is_checked_too():
    with pytest.raises(ValueError, match="class 5 is out of range"):
        targets.classes([5])(torch.zeros(1, 3))


def test_a_map_for_each_of_several_classes_is_a_row_for_each():
    """As the module's documentation says."""
    (network, weight), x, wanted = linear(), pictures(2), [0, 2, 3]
    maps = ig(network, x.repeat_interleave(3, 0), wanted * 2)
    torch.testing.assert_close(maps.reshape(2, 3, 3, 4, 4), weight[wanted] * x[:, None], **CLOSE)

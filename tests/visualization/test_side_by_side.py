import io

import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.attribution import from_maps
from attriscope.visualization import side_by_side
from matplotlib.figure import Figure
from torch import nn


def test_it_says_all_that_is_needed(study, words, check_layout):
    study.predicted = torch.tensor([3, 1, 2])
    study.left_out = {"grad_cam": "no convolution"}
    figure = side_by_side(study)
    assert isinstance(figure, Figure)
    check_layout(figure)
    said = words(figure)
    for part in (
        "ramp", "saliency", "ig", "one.png", "explained: ant", "predicted: dog", f"probability {study.probabilities[0]:.2g}",
        "One colour limit per method", "99th percentile of |map| over all 3 images", "insertion higher is better",
        "deletion lower is better", "1 forward + 1 backward", "per image", "importance, unsigned", "for and against",
        "the map is constant", "insertion undefined", "not run: grad_cam", "against", "Grey is 0",
    ):
        assert part in said
    assert said.count("predicted:") == 1
    assert "not shown" not in said


def test_pictures_are_images_by_methods(study):
    labels = [a.get_label() for a in side_by_side(study, images=[2, 0], methods=["ig", "ramp"]).axes]
    rows = [f"{name}: {what}" for name in ("three.png", "one.png") for what in ("photograph", "ig", "ramp")]
    assert labels == ["colour bar", *rows]


def strength(pixels):
    return float(np.abs(pixels[..., 0] - pixels[..., 2]).max())


def test_a_methods_images_share_one_limit(study, pixels, words):
    """The second and third map are 3 and 10 times the first."""
    figure = side_by_side(study, methods=["ramp"])
    one, three = (strength(pixels(figure, f"{n}: ramp")) for n in ("one.png", "three.png"))
    assert one < three / 4
    assert three > 0.35
    top = np.percentile(study.maps["ramp"].abs().numpy(), 99)  # of all images together
    assert f"full colour {top:.3g}" in words(figure)
    part = side_by_side(study, methods=["ramp"], images=[0])
    np.testing.assert_array_equal(pixels(part, "one.png: ramp"), pixels(figure, "one.png: ramp"))


def test_each_map_its_own_limit(study, pixels, words):
    figure = side_by_side(study, methods=["ramp"], scale="map")
    first = pixels(figure, "one.png: ramp")
    for other in ("two.png", "three.png"):
        a, b = pixels(figure, f"{other}: ramp"), first
        np.testing.assert_allclose((a[..., 0] > a[..., 2]), (b[..., 0] > b[..., 2]))
        assert strength(a) > 0.35
    assert "Each map has its own colour limit" in words(figure)
    assert "full colour 1 " in words(figure) + " "
    assert "full colour 10 " in words(figure) + " "


def test_one_limit_for_all(study, pixels, words):
    figure = side_by_side(study, scale="all", methods=["ramp", "saliency"])
    assert strength(pixels(figure, "one.png: saliency")) < strength(
        pixels(side_by_side(study, methods=["saliency"]), "one.png: saliency")
    )
    assert "One colour limit for all maps" in words(figure)
    assert "units do not compare" in words(figure)


def test_nothing_but_constant_maps(study, words):
    for scale in ("method", "map", "all"):
        assert "the map is constant: every pixel is 0" in words(side_by_side(study, methods=["flat"], scale=scale))


def bold(figure):
    return [t.get_text() for t in figure.texts if t.get_fontweight() == "bold"]


def test_the_best_is_bold(study):
    scores = study.scores
    for (method, metric), value in {
        ("saliency", "insertion"): 0.9, ("ig", "insertion"): 0.8, ("ramp", "insertion"): 0.95,
        ("saliency", "deletion"): 0.3, ("ig", "deletion"): 0.30001, ("ramp", "deletion"): 0.4,
    }.items():
        scores.loc[(scores.image == 0) & (scores.method == method) & (scores.metric == metric), "score"] = value
    figure = side_by_side(study, images=[0])
    assert [t for t in bold(figure) if t.startswith("insertion")] == ["insertion 0.950"]
    assert [t for t in bold(figure) if t.startswith("deletion")] == ["deletion 0.300"] * 2  # what looks the same is the same
    some = side_by_side(study, images=[0], methods=["ig", "saliency"])
    assert [t for t in bold(some) if t.startswith("insertion")] == ["insertion 0.900"]
    alone = side_by_side(study, images=[0], methods=["saliency"])
    assert not [t for t in bold(alone) if t.startswith("insertion")]


def test_rise_is_drawn_around_its_mean_under_any_label(network, images, words, pixels):
    study = metrics.compare(network, images, attributors={"mine": ("rise", {"masks": 30})}, progress=False)
    study.maps["mine"] += 50
    figure = side_by_side(study)
    assert "above and below its mean" in words(figure)
    assert "|map \N{MINUS SIGN} its mean|" in words(figure)
    drawn = pixels(figure, "000: mine")
    assert (drawn[..., 2] > drawn[..., 0] + 0.1).any()
    assert (drawn[..., 0] > drawn[..., 2] + 0.1).any()


def test_photographs_and_boxes(study, pixels, words):
    photographs = [np.full((20, 30 + 10 * i, 3), 0.5) for i in range(3)]
    figure = side_by_side(study, methods=["ramp"], photographs=photographs, boxes=[(5, 0, 20, 20)] * 3)
    assert pixels(figure, "three.png: ramp").shape == (20, 50, 3)
    assert np.ptp(pixels(figure, "three.png: ramp")[:, 20:], axis=-1).max() < 1e-6
    assert "frame: what the model saw" in words(figure)
    study.inputs = None
    assert side_by_side(study, photographs=photographs).axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["rise"]}, "no method 'rise'; there are: ramp, flat, saliency, ig"),
        ({"methods": []}, "no method is left"),
        ({"images": [3]}, r"no image 3; there are 3, from 0: 0 \(one.png\)"),
        ({"scale": "row"}, "choose one of method, map, all"),
        ({"percentile": -1}, "percentile=-1"),
        ({"photographs": []}, "0 photographs for 3"),
    ],
)
def test_bad_arguments(study, options, message):
    with pytest.raises(ValueError, match=message):
        side_by_side(study, **options)


def test_a_study_without_images_says_what_to_do(study):
    study.inputs = None
    with pytest.raises(ValueError, match=r"study.inputs = images"):
        side_by_side(study)


def test_at_most_twelve_images_unless_asked(network, words):
    study = metrics.compare(network, torch.rand(14, 3, 8, 6), attributors="saliency", metrics="insertion", progress=False)
    figure = side_by_side(study)
    assert sum(a.get_label().endswith("saliency") for a in figure.axes) == 12
    assert "2 more images are not shown" in words(figure)
    assert "not shown" not in words(side_by_side(study, images=range(14)))


@pytest.mark.parametrize(("count", "across"), [(1, 1), (1, 8), (8, 1), (3, 8)])
def test_strange_and_long_texts_do_not_collide(count, across, check_layout):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24 * 10, 3))
    long = ["$\\nosuch_1$ of 100%\nnew line", "integrated_gradients(steps=9, baseline='blur')", "z" * 90, "犬 🐶", *"abcd"]
    study = metrics.compare(
        network, torch.rand(count, 1, 24, 10),
        attributors={name: from_maps(torch.randn(count, 24, 10), network) for name in long[:across]},
        metrics={"insertion": "insertion", "a metric with a $name$ that goes on and on and on, and still": "deletion"},
        names=[f"{'photograph ' * 8}{i}.png" for i in range(count)], classes=["long class name, also known as " * 5] * 3,
        progress=False,
    )
    study.predicted = (study.target + 1) % 3
    study.left_out = {f"method_{i}": "no" for i in range(30)}
    figure = side_by_side(study)
    check_layout(figure)
    figure.savefig(io.BytesIO())
    texts = [t.get_text() for t in figure.texts]
    for _, row in study.scores.iterrows():
        assert any(t.endswith((f"{row.score:.3f}", f"{row.score:#.2g}")) for t in texts)  # never shortened away


def test_a_loaded_study_looks_the_same(network, images, tmp_path, pixels, words):
    from attriscope.attribution import Model

    images = (images * 255).round() / 255
    study = metrics.compare(Model(network), images, attributors=["saliency", "occlusion"], progress=False)
    again = metrics.Study.load(study.save(tmp_path / "study"))
    assert words(side_by_side(again)) == words(side_by_side(study))
    np.testing.assert_allclose(
        pixels(side_by_side(again), "000: occlusion"), pixels(side_by_side(study), "000: occlusion"), atol=1e-5
    )

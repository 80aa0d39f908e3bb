import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.attribution import from_maps
from attriscope.visualization import curves, report
from attriscope.visualization.curves import COLOURS
from matplotlib.figure import Figure


def panel(figure, name):
    return next(a for a in figure.axes if a.get_label() == name)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_it_says_all_that_is_needed(study, words, check_layout):
    figure = curves(study)
    assert isinstance(figure, Figure)
    check_layout(figure)
    said = words(figure)
    for part in (
        "insertion", "deletion", "↑ higher is better", "↓ lower is better", "baseline rise-blur",
        "probability of the target", "baseline mean",
        "steps 28", "mean over 3 images", "95% bootstrap", "mean area [95% interval]", "undefined", "on 0 of 3 images",
    ):
        assert part in said
    assert panel(figure, "insertion").get_xlabel() == "share of pixels inserted, most important first"
    assert panel(figure, "deletion").get_xlabel() == "share of pixels removed, most important first"
    table = study.summary()
    for (_, method), row in table.iterrows():
        assert method in said
        if not np.isnan(row["mean"]):
            assert f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in said


def test_the_line_is_the_mean_and_the_band_is_around_it(study):
    axes = panel(curves(study), "insertion")
    fractions, values = study.curves["saliency", "insertion"]
    line = lines(axes)["saliency"]
    np.testing.assert_allclose(line.get_xdata(), fractions)
    np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    assert len(axes.collections) == 3  # the flat map has neither a score nor a curve
    assert "flat" not in lines(axes)
    edge = axes.collections[1].get_paths()[0].vertices
    at = np.isclose(edge[:, 0], float(fractions[5]))
    mean = float(values.mean(0)[5])
    assert edge[at, 1].min() < mean < edge[at, 1].max()
    assert float(values[:, 5].min()) - 1e-9 <= edge[at, 1].min()
    assert edge[at, 1].max() <= float(values[:, 5].max()) + 1e-9


def test_a_band_is_a_95_percent_interval_of_the_mean():
    """Against the standard error, which it should be 1.96 of on either side."""
    from attriscope.visualization.curves import _curve

    class Made:
        rng = np.random.default_rng(0)
        values = torch.from_numpy(rng.normal(size=(400, 3)))
        curves = {("m", "insertion"): (torch.tensor([0.0, 0.5, 1.0]), values)}  # noqa: RUF012
        import pandas as pd

        scores = pd.DataFrame({"image": range(400), "method": "m", "metric": "insertion", "score": 0.0})

    _, mean, low, high = _curve(Made, "m", "insertion")
    error = Made.values.std(0).numpy() / 20
    np.testing.assert_allclose(high - mean, 1.96 * error, rtol=0.12)
    np.testing.assert_allclose(mean - low, 1.96 * error, rtol=0.12)


def test_images_without_a_score_have_no_part_in_the_curve(network, images, words):
    maps = torch.randn(3, 8, 6)
    maps[1] = 0
    study = metrics.compare(network, images, attributors={"mine": from_maps(maps, network)}, progress=False)
    figure = curves(study)
    expected = study.curves["mine", "insertion"][1][[0, 2]].mean(0)
    np.testing.assert_allclose(lines(panel(figure, "insertion"))["mine"].get_ydata(), expected)
    assert "on 2 of 3 images" in words(figure)


def test_one_image_has_no_band(network, images, words):
    figure = curves(metrics.compare(network, images[:1], attributors="saliency", progress=False))
    assert not panel(figure, "insertion").collections
    assert "one image: no interval" in words(figure)
    assert "nan" not in words(figure)


def test_a_method_keeps_its_colour(study):
    both, one = panel(curves(study), "insertion"), panel(curves(study, methods=["ig"]), "deletion")
    assert lines(both)["ig"].get_color() == lines(one)["ig"].get_color() == COLOURS[3]
    assert list(lines(one)) == ["ig"]


def test_beyond_eight_methods_dashes_tell_them_apart(network, images):
    methods = {f"m{i}": from_maps(torch.randn(3, 8, 6), network) for i in range(18)}
    figure = curves(metrics.compare(network, images, attributors=methods, metrics="insertion", progress=False))
    looks = {(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in panel(figure, "insertion").lines}
    assert len(looks) == 18


def test_the_legend_is_not_over_the_data(study):
    figure = curves(study)
    data = [a.get_position() for a in figure.axes if not a.get_label().startswith("legend")]
    samples = [a.get_position() for a in figure.axes if a.get_label().startswith("legend")]
    assert len(samples) == 8
    assert all(s.y1 < min(d.y0 for d in data) for s in samples)


def test_best_first(study, words):
    study.scores.loc[(study.scores.method == "ig") & (study.scores.metric == "deletion"), "score"] = 0.0001
    order = [a.get_label() for a in curves(study, metrics="deletion").axes if a.get_label().startswith("legend")]
    assert order[0] == "legend: ig"
    assert order[-1] == "legend: flat"


def test_many_metrics_take_several_rows(network, images, check_layout):
    judges = {f"m{i}: $a_b$ {'long ' * 20}": metrics.create("insertion", preset="xplique") for i in range(5)}
    figure = curves(metrics.compare(network, images, attributors=["saliency"], metrics=judges, progress=False))
    check_layout(figure)
    assert len({round(a.get_position().y0, 4) for a in figure.axes if not a.get_label().startswith("legend")}) == 2
    assert "logit of the target" in figure.axes[0].get_ylabel()


def test_what_is_drawn_is_named(network, images, words, check_layout):
    """Differences go below zero, and are no area of the target's probability; who goes first is said."""
    judges = {
        "gain": "srg", "least": metrics.create("aopc", order="least"), "high": "average_highest_confidence",
        "logits": metrics.create("insertion", output="logit", normalize=True),
    }  # fmt: skip
    figure = curves(metrics.compare(network, images, attributors=["saliency"], metrics=judges, progress=False))
    check_layout(figure)
    gain, least, high, logits = (panel(figure, name) for name in judges)
    assert gain.get_ylim()[0] < 0
    assert gain.get_ylabel() == "insertion \N{MINUS SIGN} deletion: probability"
    assert gain.get_xlabel() == "share of pixels exchanged, most important first"
    assert least.get_xlabel() == "share of pixels removed, least important first"
    assert least.get_ylim()[0] == high.get_ylim()[0] == 0
    assert high.get_xlabel() == "share of pixels inserted, most important first"
    assert logits.get_ylabel() == "logit of the target, normalized"
    said = words(figure)
    assert said.count("mean area [95% interval]") == 2
    assert said.count("mean score [95% interval]") == 2


def test_what_is_no_curve_over_pixels_says_so_here_and_in_the_report(images, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 3))
    judges = [metrics.create("model_randomization", seeds=1)]
    found = metrics.compare(network, images, 0, attributors=["edge"], metrics=judges, progress=False)
    axes = panel(curves(found), "model_randomization")
    assert axes.get_xlabel() == "share of the stages drawn anew"
    assert axes.get_ylabel() == "similarity to the trained network's map"
    report(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "share of the stages drawn anew" in text
    assert "share of pixels" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["rise"]}, "no method 'rise'; there are: ramp, flat, saliency, ig"),
        ({"metrics": ["pointing"]}, "no metric 'pointing'; there are: insertion, deletion"),
        ({"metrics": []}, "no metric"),
    ],
)
def test_bad_arguments(study, options, message):
    with pytest.raises(ValueError, match=message):
        curves(study, **options)


def test_metrics_without_curves(study):
    study.curves = {k: v for k, v in study.curves.items() if k[1] == "insertion"}
    assert [a.get_label() for a in curves(study).axes if not a.get_label().startswith("legend")] == ["insertion"]
    with pytest.raises(ValueError, match="deletion has no curves; there are curves of: insertion"):
        curves(study, metrics=["deletion"])
    study.curves = {}
    with pytest.raises(ValueError, match="no metric with curves is left"):
        curves(study)


def test_the_callers_settings_do_not_matter(study):
    def drawn(figure):
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba()).copy()

    plain = drawn(curves(study))
    with mpl.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "black", "lines.linewidth": 9}):
        np.testing.assert_array_equal(drawn(curves(study)), plain)


def test_no_two_methods_of_a_figure_look_alike_where_a_study_has_very_many():
    names = [f"m{i}" for i in range(70)]
    study = type("Study", (), {"methods": dict.fromkeys(names)})()
    module = sys.modules[curves.__module__]
    few = names[:64:4]  # every fourth: by their place in the study the last would look like the first
    looks = module._looks(study, few)
    assert list(looks) == few
    assert len({str(look) for look in looks.values()}) == len(few)
    study.methods = dict.fromkeys(names[:32])
    assert module._looks(study, names[5:6])["m5"] == module._looks(study, names[:32])["m5"], "the same in every figure"

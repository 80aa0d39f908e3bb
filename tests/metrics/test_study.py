"""Studies: what they share, what they keep, what they refuse."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.conformance import Detector
from attriscope.metrics.statistics import interval
from torch import nn

METHODS = ["saliency", ("rise", {"masks": 30, "grid": 4}), ("occlusion", {"window": 4, "stride": 4})]


def images(n=5, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def detector(**more):
    return attribution.Model(Detector().eval(), mean=(0.2,) * 3, std=(0.5,) * 3, **more)


@pytest.fixture(scope="module")
def study():
    return metrics.compare(detector(), images(), 1, attributors=METHODS, block=2, progress=False)


def test_scores_are_those_of_the_metrics_alone(study):
    for method, options in (("saliency", {}), ("rise", {"masks": 30, "grid": 4})):
        model = detector()
        maps = attribution.create(method, model, **options).attribute(images(), 1)
        for name in ("insertion", "deletion"):
            alone = metrics.create(name).score(model, images(), maps, 1)
            rows = study.scores.query("method == @method and metric == @name").sort_values("image")
            # the same images in other batches: float32 rounding, which may swap two near-equal pixels
            np.testing.assert_allclose(rows["score"], alone, atol=1e-5)


def test_curves_of_m_methods_cost_three_and_two_m_n_minus_one():
    model = detector()
    study = metrics.compare(
        model, images(4), 1, attributors={k: attribution.from_maps(images(4)[:, i : i + 1], model, name=k)
                                          for i, k in enumerate("abc")}, progress=False
    )  # fmt: skip
    assert study.paid == 4 * (3 + 2 * 3 * (28 - 1))
    assert study.alone == 4 * 3 * 2 * 29
    assert model.forwards == study.paid


def test_blocks_change_nothing(study):
    other = metrics.compare(detector(), images(), 1, attributors=METHODS, block=5, progress=False)
    keys = ["image", "method", "metric"]
    a, b = (s.scores.sort_values(keys)["score"].to_numpy() for s in (study, other))
    np.testing.assert_allclose(a, b, atol=1e-5)  # other batches: float32 rounding
    assert study.paid == other.paid


def test_summary_says_mean_interval_rank_and_cost(study):
    table = study.summary()
    assert table.index.names == ["metric", "method"]
    assert table.index.get_level_values("metric").unique().tolist() == ["insertion", "deletion"]
    for name, better in (("insertion", max), ("deletion", min)):
        means = table.loc[name, "mean"]
        assert means.index[0] == better(means.index, key=means.get)
        assert table.loc[name, "rank"].tolist() == [1, 2, 3]
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    assert table.loc[("insertion", "rise"), ["forwards", "backwards", "images"]].tolist() == [30, 0, 5]
    own = study.scores.query("method == 'rise' and metric == 'insertion'")["score"]
    assert table.loc[("insertion", "rise"), "mean"] == pytest.approx(own.mean())


def test_it_comes_back_from_disk_as_it_was(study, tmp_path):
    loaded = metrics.Study.load(study.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(loaded.summary(), study.summary())
    assert loaded.names == study.names
    assert loaded.methods == study.methods
    assert loaded.metrics == study.metrics
    assert torch.equal(loaded.maps["rise"], study.maps["rise"])
    assert torch.equal(loaded.curves["rise", "deletion"][1], study.curves["rise", "deletion"][1])
    assert (loaded.inputs[:] - study.inputs).abs().max() <= 0.5 / 255 + 1e-6, "8-bit pictures"
    assert torch.equal(loaded.target, study.target)


def test_nothing_but_whole_files_is_left_and_a_damaged_one_is_named(study, tmp_path):
    folder = study.save(tmp_path / "run")
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    with pytest.raises(FileNotFoundError, match="no study"):
        metrics.Study.load(tmp_path)
    text = (folder / "study.json").read_text()
    for broken, said in (("{", "damaged"), (json.dumps({**json.loads(text), "format": 99}), "newer"), ("{}", "damaged")):
        (folder / "study.json").write_text(broken)
        with pytest.raises(ValueError, match=said):
            metrics.Study.load(folder)


def test_patterns_leave_out_what_does_not_run_or_fit():
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    found = metrics.compare(network, images(2), attributors="*", budget=50, metrics=[], progress=False)
    assert "spatial layer" in found.left_out["grad_cam"]
    assert "budget=50" in found.left_out["sobol"]
    assert "rise" in found.methods
    assert found.methods["rise"]["params"]["masks"] == 50


def test_an_explicit_name_that_cannot_run_is_an_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    with pytest.raises(ValueError, match="spatial layer"):
        metrics.compare(network, images(2), attributors=["grad_cam"], progress=False)


def test_the_same_name_twice_gets_two_labels():
    found = metrics.compare(
        detector(), images(2), 1, attributors=[("rise", {"masks": 5}), ("rise", {"masks": 6}), "saliency", "saliency"],
        metrics=[], progress=False,
    )  # fmt: skip
    assert list(found.methods) == ["rise", "rise(masks=6)", "saliency", "saliency()"]


def test_a_constant_map_is_counted_not_scored(study):
    model = detector()
    flat = attribution.from_maps(torch.ones(5, 16, 16), model, name="flat")
    found = metrics.compare(model, images(), 1, attributors=[flat], progress=False).summary()
    assert found.loc[("insertion", "flat"), "images"] == 0
    assert np.isnan(found.loc[("insertion", "flat"), "mean"])


def test_progress_hears_of_every_evaluation(capsys):
    model = detector()
    heard = []
    with model.listen(heard.append):
        study = metrics.compare(model, images(3), 1, attributors=["saliency"], progress=True)
    assert sum(heard) == study.paid
    assert "compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attributors": ["rize"]}, "rise"),
        ({"attributors": ["nothing*"]}, "no method matches"),
        ({"attributors": []}, "no method is left"),
        ({"metrics": ["insertoin"]}, "insertion"),
        ({"names": ["one"]}, "names"),
        ({"block": 0}, "block"),
        ({"budget": 0}, "budget"),
        ({"target": 7}, "out of range"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(more, message):
    model = detector()
    arguments = {"attributors": ["saliency"], "metrics": ["insertion"], "progress": False, **more}
    with pytest.raises(ValueError, match=message):
        metrics.compare(model, images(2), **arguments)
    assert model.forwards == 0


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    model = detector()
    with pytest.raises(OSError, match="cannot write"):
        metrics.compare(model, images(1), attributors=["rise"], out=tmp_path / "file" / "run", progress=False)
    assert model.forwards == 0


def test_a_callable_without_a_fingerprint_is_not_written(tmp_path):
    network = Detector().eval()
    model = attribution.Model(lambda x: network(x))
    with pytest.raises(ValueError, match="fingerprint"):
        metrics.compare(model, images(1), attributors=[("rise", {"masks": 3})], out=tmp_path / "run", progress=False)
    named = attribution.Model(lambda x: network(x), fingerprint="detector")
    metrics.compare(named, images(1), attributors=[("rise", {"masks": 3})], out=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "study.json").exists()


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        low, high = interval(rng.normal(size=40), method="percentile", seed=i)
        hits += low <= 0 <= high
    # a 95% interval of 40: percentile intervals are a little narrow, 200 draws have a standard error of 1.6%
    assert 0.89 <= hits / 200 <= 0.99


def test_the_bootstrap_needs_two():
    assert np.isnan(interval(np.array([1.0, np.nan]), method="percentile")).all()


def test_how_steady_a_method_is_has_no_say_in_who_leads():
    """A study records it as the registry has it: the steadiest map is the constant one."""
    judges = {"insertion": "insertion", "steady": metrics.create("sensitivity_max", samples=1)}
    found = metrics.compare(detector(), images(2), 1, attributors=["saliency"], metrics=judges, progress=False)
    assert [found.metrics[m]["faithful"] for m in judges] == [True, False]
    assert found.leaderboard().filter(like="rank/").columns.tolist() == ["rank/insertion"]

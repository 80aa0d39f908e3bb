"""Run folders: whatever ends a process, what was finished stays, is never computed again, and is what it was."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution.conformance import Detector
from attriscope.metrics import engine
from attriscope.metrics import store as cells
from torch import nn

HERE = Path(__file__).parent
METHODS = ["saliency", ("rise", {"masks": 20, "grid": 4}), ("occlusion", {"window": 4, "stride": 4})]


def images(n=5, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def detector(**more):
    torch.manual_seed(0)
    return attribution.Model(Detector().eval(), mean=(0.2,) * 3, std=(0.5,) * 3, **more)


def run(out, model=None, n=5, **more):
    given = {"attributors": METHODS, "block": 2, "progress": False, "target": 1, **more}
    return metrics.compare(model or detector(), images(n), out=out, **given)


def same(a, b):
    """Scores, costs and maps; 1e-6: other batches round float32 otherwise, and the curves average 28 probabilities."""
    keys = ["image", "method", "metric"]
    x, y = (s.scores.sort_values(keys).reset_index(drop=True) for s in (a, b))
    pd.testing.assert_frame_equal(x[keys], y[keys])
    np.testing.assert_allclose(x["score"], y["score"], atol=1e-6)
    costs = ["image", "method", "forwards", "backwards"]
    pd.testing.assert_frame_equal(a.costs[costs], b.costs[costs])
    for method in a.methods:
        torch.testing.assert_close(a.maps[method], b.maps[method], atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def whole():
    return run(None)


def shards(folder, kind=""):
    return sorted((folder / "shards").glob(f"{kind}*.safetensors"))


def test_a_study_in_a_folder_is_the_one_in_memory(whole, tmp_path):
    model = detector()
    study = run(tmp_path / "run", model)
    same(study, whole)
    same(metrics.Study.load(tmp_path / "run"), whole)
    assert study.paid == whole.paid == model.forwards + model.backwards
    assert study.alone == whole.alone
    assert study.finished
    assert {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()} == {
        ".json", ".toml", ".csv", ".parquet", ".png", ".safetensors"
    }, "data, never code"  # fmt: skip


def test_the_same_call_again_computes_nothing(whole, tmp_path):
    run(tmp_path)
    for block in (2, 3, 5):  # whatever the blocks are
        model = detector()
        again = run(tmp_path, model, block=block)
        assert (model.forwards, model.backwards) == (0, 0)
        same(again, whole)
    assert again.paid == whole.paid


def test_more_methods_metrics_or_images_pay_for_themselves_alone(tmp_path):
    run(tmp_path, n=3, attributors=METHODS[:1], metrics=["insertion"])
    pixels = 28
    for more, forwards, backwards in (
        ({"n": 3, "attributors": METHODS[:2], "metrics": ["insertion"]}, 3 * (20 + 2 + pixels - 1), 0),
        ({"n": 3, "attributors": METHODS[:2], "metrics": ["insertion", "deletion"]}, 3 * 2 * (pixels + 1) - 3 * 2, 0),
        ({"n": 4, "attributors": METHODS[:2]}, (20 + 1) + 3 + 4 * (pixels - 1), 1),
    ):
        model = detector()
        run(tmp_path, model, **more)
        assert (model.forwards, model.backwards) == (forwards, backwards), more


def test_other_weights_settings_or_targets_are_other_cells(tmp_path):
    first = run(tmp_path, attributors=["saliency"])
    other = detector()
    with torch.no_grad():
        other.network.see.weight.mul_(1.1)
    for more in ({"model": other}, {"target": 0}, {"attributors": [("saliency", {"output": "probability"})]}):
        model = more.get("model") or detector()
        found = run(tmp_path, **{"attributors": ["saliency"], **more, "model": model})
        assert model.backwards == 5
        assert not torch.equal(found.maps["saliency"], first.maps["saliency"])


class Flaky(attribution.Attributor):
    """Fails on one image, as long as it is told to."""

    error: type[BaseException] | None = None
    where: float = 0.0

    def compute(self, inputs, target):
        if self.error is not None and bool((inputs[:, 0, 0, 0] == self.where).any()):
            raise self.error("told to")
        return attribution.attributor.Computed(inputs * self.model.scores(inputs, target)[:, None, None, None], {})

    @classmethod
    def _cost(cls, options, shape):
        return 1, 0


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    x = images(6)

    def go(model, error, out):
        own = {"where": float(x[4, 0, 0, 0])}
        flaky = Flaky(model, error=error, **own)
        flaky.name = "flaky"
        return metrics.compare(
            model, x, 1, attributors=[METHODS[1], flaky], out=out, block=2, progress=False, metrics=["insertion"]
        )

    whole = detector()
    go(whole, None, None)
    first, second = detector(), detector()
    with pytest.raises(KeyboardInterrupt):
        go(first, KeyboardInterrupt, tmp_path)
    assert 0 < first.forwards < whole.forwards
    half = metrics.Study.load(tmp_path)
    assert not half.finished
    assert len(half) == 4
    # the error is one of the method's options, so that its cells are others: those of rise are found again
    study = go(second, None, tmp_path)
    assert study.costs["method"].value_counts().to_dict() == {"rise": 6, "flaky": 6}
    fresh = 2 * (2 * 27 + 2) + 4 * 28 + 6 - 2 * 0
    assert second.forwards <= fresh, "of the first two blocks, flaky's cells alone; of the third, rise's maps are there"
    assert len(shards(tmp_path, "map")) == 3 + 3 + 2


def test_what_fails_is_named_and_the_rest_goes_on_and_it_is_tried_again(tmp_path):
    x = images(4)

    def go(model):
        flaky = Flaky(model, error=ZeroDivisionError, where=float(x[1, 0, 0, 0]))
        flaky.name = "flaky"
        return metrics.compare(model, x, 1, attributors=["saliency", flaky], out=tmp_path, block=3, progress=False)

    with pytest.warns(RuntimeWarning, match="flaky failed on 001: ZeroDivisionError: told to"):
        study = go(detector())
    assert study.failed == {("001", "flaky"): "ZeroDivisionError: told to"}
    assert study.maps["flaky"].isnan().flatten(1).any(1).tolist() == [False, True, False, False]
    assert study.summary().loc[("insertion", "flaky"), "images"] == 3
    again = detector()
    with pytest.warns(RuntimeWarning, match="flaky failed"):
        go(again)
    assert again.forwards == 0, "only what failed was tried again"
    assert metrics.Study.load(tmp_path).failed == study.failed


def damage(path, how, other):
    data = bytearray(path.read_bytes())
    if how == "a changed number":
        data[-3] ^= 0x40
        path.write_bytes(data)
    elif how == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another's contents":
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(os.urandom(200))


@pytest.mark.parametrize("kind", ["clean", "map", "score"])
@pytest.mark.parametrize("how", ["a changed number", "cut short", "empty", "another's contents", "noise"])
def test_a_damaged_shard_is_named_and_computed_again(whole, tmp_path, kind, how):
    run(tmp_path)
    one, other = shards(tmp_path, kind)[:2]
    damage(one, how, other)
    with pytest.warns(RuntimeWarning, match=one.stem.replace("+", ".")):
        same(run(tmp_path), whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(run(tmp_path), whole)


def test_loading_a_damaged_folder_says_so(tmp_path):
    run(tmp_path)
    damage(shards(tmp_path, "map")[0], "a changed number", None)
    study = metrics.Study.load(tmp_path)  # tables need no map
    with pytest.raises(ValueError, match="have changed"):
        for method in study.methods:
            _ = study.maps[method]
    damage(shards(tmp_path, "score")[0], "a changed number", None)
    with pytest.raises(ValueError, match="the same comparison mends it"):
        metrics.Study.load(tmp_path)


def test_files_of_others_are_named_and_left_alone(whole, tmp_path):
    run(tmp_path)
    strange = tmp_path / "shards" / "holiday.txt"
    strange.write_text("not a shard")
    with pytest.warns(RuntimeWarning, match=r"holiday\.txt is no shard"):
        same(run(tmp_path), whole)
    assert strange.read_text() == "not a shard"


def test_a_full_disk_says_so_and_loses_nothing(whole, tmp_path, monkeypatch):
    left, real = [4], cells.save_file

    def full(*arguments, **more):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)

    monkeypatch.setattr(cells, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 4
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()], "no half-written file"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.Study.load(tmp_path)
        same(run(tmp_path), whole)


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from attriscope import metrics
sys.path.insert(0, {here!r})
import test_runs
out, kills = sys.argv[1], int(sys.argv[2])
random.seed(0)
test_runs.run(None, n=1)  # everything is imported and warm before the first child
start = time.perf_counter()
test_runs.run(None)
took, died = time.perf_counter() - start, 0
for turn in range(40 * kills):
    child = os.fork()
    if not child:
        test_runs.run(out)
        os._exit(0)
    time.sleep(random.uniform(0, 0.5 * took))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    died += os.WIFSIGNALED(status)
    if died == kills or not os.WIFSIGNALED(status):
        break
print(died)
"""


def test_twenty_kills_at_random_moments_lose_nothing_that_was_finished(whole, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(here=str(HERE)))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run", "20"], capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kill leaves no damaged shard
        model = detector()
        same(run(tmp_path / "run", model), whole)
        again = detector()
        same(run(tmp_path / "run", again), whole)
    assert again.forwards == 0
    assert int(done.stdout) == 20


def test_two_processes_in_one_folder_do_not_harm_each_other(whole, tmp_path):
    code = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(HERE)!r})
        import test_runs
        test_runs.run(sys.argv[1])
        """
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(2)
    ]  # fmt: skip
    for one in both:
        _, said = one.communicate(timeout=120)
        assert one.returncode == 0, said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = detector()
        same(run(tmp_path / "run", model), whole)
    assert model.forwards == 0


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_other_processes_give_the_same_numbers(whole, tmp_path, backend, memory):
    out = None if memory else tmp_path / "run"
    if backend == "dask":
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config("dask"),
        ):
            same(run(out, jobs=2), whole)
        return
    with joblib.parallel_config(backend):
        same(run(out, jobs=2), whole)
        if not memory:
            model = detector()
            same(run(out, model, jobs=2), whole)
            assert model.forwards == 0


def test_ray_gives_the_same_numbers(whole, tmp_path):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.util.joblib").register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config("ray"):
            same(run(tmp_path / "run", jobs=2), whole)
            same(run(None, jobs=2), whole)
    finally:
        ray.shutdown()


def test_a_metric_that_fails_is_named_and_the_others_go_on(tmp_path):
    class Fails(metrics.MapMetric):
        when: str = "asked"

        def prepare(self, todo, images, maps):
            if self.when == "asked":
                raise ZeroDivisionError("told to")
            return self.finish

        def finish(self):
            raise ZeroDivisionError("told to")

        def cost(self, shape=(3, 224, 224)):
            return 0

    for when in ("asked", "answered"):
        broken = Fails(when=when)
        broken.name = "broken"
        with pytest.warns(RuntimeWarning, match="saliency, broken failed on 000, 001: ZeroDivisionError: told to"):
            study = run(tmp_path / when, n=2, attributors=["saliency"], metrics=["insertion", broken])
        assert study.failed == {(name, "saliency, broken"): "ZeroDivisionError: told to" for name in ("000", "001")}
        assert study.scores["metric"].unique().tolist() == ["insertion"]
        assert study.summary().loc[("broken", "saliency"), "images"] == 0


def test_a_network_that_cannot_be_sent_says_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = threading.Lock()
            self.line = nn.Linear(768, 2)

        def forward(self, x):
            return self.line(x.flatten(1))

    with pytest.raises(ValueError, match="cannot be sent to another process"):
        metrics.compare(Odd(), images(3), 1, attributors=["saliency"], jobs=2, progress=False)


def test_equal_maps_are_scored_once():
    model = detector()
    maps = images(4)[:, :1]
    mixed = torch.cat([maps[:2], maps[2:] + 1])  # two of four are the first's
    given = {k: attribution.from_maps(m, model, name=k) for k, m in (("a", maps), ("b", maps.clone()), ("c", mixed))}
    study = metrics.compare(model, images(4), 1, attributors=given, metrics=["insertion"], progress=False)
    # c's own rows ask for their two ends once more: they are another set of images
    assert model.forwards == 4 * (2 + 27) + 2 * (2 + 27)
    table = study.scores.pivot_table(index="image", columns="method", values="score")
    assert table["a"].tolist() == table["b"].tolist()
    assert len(table) == 4


def test_maps_that_belong_to_places_stay_there_also_where_images_are_equal(tmp_path):
    x = images(1).expand(4, -1, -1, -1).clone()
    maps = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(3))
    for block in (3, 2):
        model = detector()
        mine = attribution.from_maps(maps, model, name="mine")
        study = metrics.compare(model, x, 1, attributors=[mine], out=tmp_path, block=block, progress=False)
        assert torch.equal(study.maps["mine"][:, 0], maps)


def test_callable_targets_are_found_again(tmp_path):
    wanted = attribution.targets.contrast(1, 0)
    runs = []
    for _ in range(2):
        runs.append(detector())
        study = run(tmp_path, runs[-1], target=wanted, attributors=["saliency"])
    assert runs[0].backwards == 5
    assert runs[1].forwards + runs[1].backwards == 0
    assert study.target is None


def test_several_baselines_share_the_clean_image_and_are_told_apart():
    model = detector()
    study = run(None, model, attributors=["saliency"], metrics=["insertion"], baselines=["black", "mean", "blur"])
    assert list(study.metrics) == ["insertion (black)", "insertion (mean)", "insertion (blur)"]
    assert [study.metrics[m]["protocol"]["baseline"] for m in study.metrics] == ["black", "mean", "blur"]
    assert model.forwards == 5 * (1 + 1 + 3 + 3 * 27), "saliency's own, the clean image, three baselines, three curves"
    with pytest.raises(ValueError, match="baselines"):
        run(None, baselines="black")


def test_the_table_is_tidy_and_parquet_says_the_same_as_csv(tmp_path):
    pytest.importorskip("pyarrow")
    study = run(tmp_path)
    csv, parquet = (
        pd.read_csv(tmp_path / "scores.csv", dtype={"name": str}),
        pd.read_parquet(tmp_path / "scores.parquet"),
    )
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    assert len(csv) == 5 * 3 * 2
    assert {"image", "method", "metric", "score", "name"} <= set(csv.columns)
    np.testing.assert_allclose(csv["score"], study.scores["score"])


def test_a_folder_holds_the_toml_that_makes_it_again(tmp_path):
    run(tmp_path, origin={"model": "demo"})
    text = (tmp_path / "study.toml").read_text()
    assert metrics.Study.load(tmp_path).configuration == text
    told = metrics.configuration.read(tmp_path / "study.toml")
    assert told.study["model"] == "demo"
    assert json.loads((tmp_path / "study.json").read_text())["versions"]["torch"] == torch.__version__


def test_another_attriscope_reuses_no_cell(tmp_path, monkeypatch):
    run(tmp_path, attributors=["saliency"])
    monkeypatch.setattr("attriscope.metrics.plan.version", lambda _: "99.0")
    model = detector()
    run(tmp_path, model, attributors=["saliency"])
    assert model.backwards == 5


class One(metrics.MapMetric):
    """Scores everything alike."""

    value: float = 1.0
    fault: str = ""

    def prepare(self, todo, images, maps):
        scores = torch.full((len(maps),), self.value, dtype=torch.float64)
        if self.fault == "infinite":
            scores = scores / 0
        if self.fault == "short":
            scores = scores[:1]
        return lambda: metrics.Scored(scores, details={"image": scores} if self.fault == "taken" else {})

    def cost(self, shape=(3, 224, 224)):
        return 0


class Two(One):
    """Another metric without a name, whose code differs."""

    def prepare(self, todo, images, maps):
        scores = torch.full((len(maps),), 2.0, dtype=torch.float64)
        return lambda: metrics.Scored(scores)


def test_classes_without_a_name_are_told_apart_by_what_they_are():
    study = run(None, n=2, attributors=["saliency"], metrics={"one": One(), "two": Two(), "three": One(value=3.0)})
    assert study.scores.groupby("metric")["score"].unique().map(list).to_dict() == {
        "one": [1],
        "two": [2],
        "three": [3],
    }


def test_the_code_of_a_class_that_is_not_ours_is_part_of_the_question(tmp_path):
    def make(factor):
        class Own(attribution.Attributor):
            def compute(self, inputs, target):
                return attribution.attributor.Computed(inputs * factor, {})

            @classmethod
            def _cost(cls, options, shape):
                return 0, 0

        return Own

    for factor in (1.0, 2.0):
        own = make(factor)(detector())
        own.name = "own"
        found = metrics.compare(own.model, images(2), 1, attributors=[own], metrics=[], out=tmp_path, progress=False)
        torch.testing.assert_close(found.maps["own"], factor * images(2).sum(1, keepdim=True))


def test_what_is_given_for_each_image_is_refused_before_anything_runs():
    model, x = detector(), images(4)
    for given in (("integrated_gradients", {"baseline": x * 0}), ("lime", {"regions": torch.zeros(4, 16, 16).long()})):
        with pytest.raises(ValueError, match="one for each image"):
            metrics.compare(model, x, 1, attributors=[given], progress=False)
    with pytest.raises(ValueError, match="one for each image"):
        metrics.compare(
            model, x, 1, attributors=["saliency"], metrics=[metrics.create("deletion", baseline=x)], progress=False
        )
    assert model.forwards == 0


@pytest.mark.parametrize("fault", ["infinite", "short", "taken"])
def test_what_a_study_cannot_keep_is_a_failure_of_the_metric_alone(fault):
    bad = One(fault=fault)
    with pytest.warns(RuntimeWarning, match="saliency, bad failed"):
        study = run(None, n=3, attributors=["saliency"], metrics={"bad": bad, "insertion": "insertion"})
    assert {what for _, what in study.failed} == {"saliency, bad"}
    assert study.summary().loc[("insertion", "saliency"), "images"] == 3


def test_what_is_paid_is_told_also_where_the_first_metric_fails():
    paid = [run(None, attributors=["saliency"], metrics=["insertion"]).paid]
    with pytest.warns(RuntimeWarning, match="failed"):
        paid.append(
            run(None, attributors=["saliency"], metrics={"bad": One(fault="short"), "insertion": "insertion"}).paid
        )
    assert paid[0] == paid[1]


def test_alone_counts_equal_maps_as_often_as_they_would_have_been_paid():
    one = run(None, attributors=["saliency"], metrics=["insertion"])
    two = run(None, attributors={"a": "saliency", "b": "saliency"}, metrics=["insertion"])
    assert two.alone == 2 * one.alone
    assert two.paid == one.paid


def test_a_metric_that_fails_on_equal_maps_fails_for_all_who_made_them():
    with pytest.warns(RuntimeWarning, match="failed"):
        study = run(None, n=2, attributors={"a": "saliency", "b": "saliency"}, metrics={"bad": One(fault="taken")})
    assert {what for _, what in study.failed} == {"a, bad", "b, bad"}


@pytest.mark.parametrize("block", [1, 2])
def test_a_callable_target_and_a_block_of_one_image(tmp_path, block):
    study = run(tmp_path, n=3, block=block, target=lambda out: out[:, 0], attributors=["saliency"])
    assert len(metrics.Study.load(tmp_path)) == len(study) == 3


def test_maps_with_channels_stay_so_where_one_fails():
    x = images(3)
    model = detector()
    flaky = Flaky(model, error=ZeroDivisionError, where=float(x[1, 0, 0, 0]))
    flaky.name = "flaky"
    kept = attribution.create("gradient", model, channels="keep")
    with pytest.warns(RuntimeWarning, match="flaky"):
        study = metrics.compare(model, x, 1, attributors=[kept, flaky], metrics=[], progress=False)
    assert study.maps["gradient"].shape == (3, 3, 16, 16)
    assert study.maps["flaky"].shape == (3, 1, 16, 16)


def test_a_method_that_does_not_know_its_cost_runs():
    class Unknown(attribution.Attributor):
        def compute(self, inputs, target):
            return attribution.attributor.Computed(inputs, {})

    own = Unknown(detector())
    own.name = "unknown"
    assert len(metrics.compare(own.model, images(2), 1, attributors=[own], metrics=[], progress=False)) == 2


def test_reading_a_folder_changes_nothing_in_it(tmp_path):
    run(tmp_path)
    damage(shards(tmp_path, "map")[0], "cut short", None)
    (tmp_path / "shards" / "mine.safetensors").write_bytes(b"mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    metrics.Study.load(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_files_and_folders_that_are_not_ours_stay(whole, tmp_path):
    run(tmp_path)
    (tmp_path / "shards" / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "shards" / "map-000000000000000000000000.safetensors").mkdir()
    with pytest.warns(RuntimeWarning, match="left alone"):
        same(run(tmp_path), whole)
    assert (tmp_path / "shards" / "mine.safetensors").read_bytes() == b"mine"


def test_a_study_of_a_newer_attriscope_is_refused_and_kept(tmp_path):
    run(tmp_path)
    header = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps({**header, "format": 99}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    model = detector()
    for read in (lambda: run(tmp_path, model), lambda: metrics.Study.load(tmp_path)):
        with pytest.raises(ValueError, match="a newer attriscope"):
            read()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert model.forwards == 0


def test_a_folder_from_elsewhere_names_no_file_outside_it(tmp_path):
    run(tmp_path / "run")
    path = tmp_path / "run" / "study.json"
    header = json.loads(path.read_text())
    for digest in ("../../evil", "tensor:../../evil", "tensor:0123456789abcdeg", ""):
        header["pictures"][0]["digest"] = digest
        path.write_text(json.dumps(header))
        with pytest.raises(ValueError, match="damaged"):
            metrics.Study.load(tmp_path / "run")


@pytest.mark.parametrize(
    "edit",
    [
        lambda h: h.update(shape="abc"), lambda h: h["metrics"]["insertion"].pop("higher_is_better"), lambda h: h.pop("plan"),
        lambda h: h.update(metrics=3), lambda h: h.update(pictures=[{"name": 1}]),
    ],
)  # fmt: skip
def test_an_edited_header_is_called_damaged(tmp_path, edit):
    run(tmp_path)
    header = json.loads((tmp_path / "study.json").read_text())
    edit(header)
    (tmp_path / "study.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match="damaged"):
        metrics.Study.load(tmp_path)


def test_a_finished_study_that_is_killed_while_it_grows_still_shows_all_its_images(tmp_path):
    run(tmp_path, n=5, attributors=["saliency"])
    flaky = Flaky(detector(), error=KeyboardInterrupt, where=float(images(5)[2, 0, 0, 0]))
    flaky.name = "flaky"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, flaky.model, attributors=["saliency", flaky])
    half = metrics.Study.load(tmp_path)
    assert len(half) == 5
    assert not half.finished
    assert half.costs["method"].value_counts().to_dict() == {"saliency": 5, "flaky": 2}
    assert len(run(tmp_path, n=3, attributors=["saliency"])) == 3, "a finished run shows what it was asked for"


def test_images_on_disk_are_picked_as_those_in_memory(tmp_path):
    run(tmp_path)
    pictures = metrics.Study.load(tmp_path).inputs
    for which in (0, -1, np.int64(1), torch.tensor(2)):
        assert pictures[which].shape == (3, 16, 16)
    for which, count in ((slice(1, 3), 2), (slice(9, None), 0), ([0, 2], 2), (torch.tensor([1]), 1), ([], 0)):
        assert pictures[which].shape == (count, 3, 16, 16)


def test_progress_is_told_of_blocks_in_other_processes(monkeypatch):
    bars = []

    class Bar(engine.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": True})
            self.told, self.wanted = 0, options["total"]
            bars.append(self)

        def update(self, n=1):
            self.told += n

    monkeypatch.setattr(engine, "tqdm", Bar)
    with joblib.parallel_config("threading"):
        run(None, jobs=2)
    (bar,) = bars
    assert bar.told == bar.wanted > 0


@pytest.mark.parametrize(("more", "said"), [({"block": 2.5}, "block"), ({"jobs": 0}, "jobs"), ({"jobs": 1.5}, "jobs")])
def test_numbers_of_images_and_processes_are_whole(more, said):
    with pytest.raises(ValueError, match=said):
        run(None, **more)


def test_an_empty_label_is_refused():
    with pytest.raises(ValueError, match="label is empty"):
        run(None, attributors={"": "saliency"})

"""The command `compare`: TOML files, streaming, processes, baselines, annotations, and what it says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import metrics, visualization
from attriscope.attribution import Attributor, Computed, register
from attriscope.attribution.attributor import REGISTRY
from attriscope.metrics import MapMetric, MethodMetric, Scored, Study, configuration
from attriscope.metrics.metric import REGISTRY as METRICS
from attriscope.metrics.photographs import Preparation
from matplotlib.figure import Figure
from PIL import Image

PROGRAM = [sys.executable, "-c", "from attriscope.cli import main; main()"]


@pytest.fixture
def photos(photo, tmp_path):
    """Four photographs, each with its square somewhere else, and labels.csv."""
    for i, name in enumerate("abcd"):
        photo(f"photos/{name}.png", (48, 40), (4 * i, 5, 4 * i + 14, 25))
    (tmp_path / "photos" / "labels.csv").write_text("file,class_index\na.png,1\nb.png,0\nc.png,1\nd.png,0\n")
    return tmp_path / "photos"


@pytest.fixture
def words(photos, nets, tmp_path):
    """The shortest command that compares."""
    return [
        "compare", photos, "-m", "saliency", "-m", "rise", "-o", "masks=8", "--metric", "insertion", "-o", "insertion.steps=4",
        "--model", f"{nets}:conv", "--size", 16, "--out", tmp_path / "out",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """The report and the figures have tests of their own; here they are drawn where a test asks for `drawn`."""
    monkeypatch.setattr(visualization, "report", lambda study, path: Path(path).write_text("report"), raising=False)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(visualization, "side_by_side", lambda study, **_: Figure())
        monkeypatch.setattr(visualization, "curves", lambda study, **_: Figure())


@pytest.fixture
def drawn():
    """Figures are drawn."""


@pytest.fixture
def inside():
    """A metric that needs annotations, and one that runs the method again: registered for a test."""

    @metrics.register("inside_here", family="somebody", needs="annotations")
    class Inside(MapMetric):
        """The share of the object in the image."""

        constant = "scored"
        faithful = False

        def prepare(self, todo, images, maps):
            mask = todo.mask
            return lambda: Scored(mask.double().flatten(1).mean(1).cpu())

        def cost(self, shape=(3, 224, 224)):
            return 0

    @metrics.register("again_here", family="somebody")
    class Again(MethodMetric):
        """How often."""

        def measure(self, attributor, images, target, maps):
            return Scored(torch.zeros(len(images), dtype=torch.float64))

        def cost(self, shape=(3, 224, 224)):
            return 2

        @property
        def explanations(self):
            return 10

    yield
    METRICS.remove("inside_here")
    METRICS.remove("again_here")


def scores(folder):
    table = pd.read_csv(folder / "scores.csv")
    return {(r["name"], r["method"], r["metric"]): r["score"] for _, r in table.iterrows()}


# -- what is read ------------------------------------------------------------------------------------------------------


def test_photographs_are_handed_on_as_files(run, words, photos, monkeypatch):
    """`compare` reads them block by block: the command holds none."""
    seen = {}

    def compare(model, inputs, target, **more):
        seen.update(more, inputs=inputs, target=target)
        raise ValueError("enough")

    monkeypatch.setattr(metrics, "compare", compare)
    code, _, err = run(*words, "--limit", 3, "--target", "label")
    assert (code, err) == (2, "attriscope: enough\n")
    assert seen["inputs"] == [photos / f"{n}.png" for n in "abcd"]
    assert (seen["limit"], seen["target"], seen["jobs"]) == (3, "label", 1)
    assert seen["preparation"].size == (16, 16)
    assert seen["origin"]["images"] == [str(photos)]


def test_a_limit_and_a_damaged_photograph(run, words, photos, tmp_path):
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:70])
    (photos / "c.png").write_text("I am no image")
    code, text, err = run(*words, "--limit", 3, "--target", "label")
    assert code == 0, err
    study = Study.load(tmp_path / "out")
    assert study.names == ["a"]
    assert study.target.tolist() == [1]
    assert set(study.skipped) == {"b", "c"}
    assert "left out b: " in err
    assert "c.png is not an image" in err
    assert "mean over 1 image\n" in text


def test_nothing_can_be_read(fails, words, photos, tmp_path):
    for path in photos.glob("*.png"):
        path.write_text("I am no image")
    assert "none of the 4 images could be read; a: " in fails(*words, out=tmp_path / "out")


def test_names_of_classes_come_with_the_labels(run, words, photos, tmp_path):
    (photos / "labels.csv").write_text("file,class_index,class_name\n" + "".join(f"{n}.png,1,ant\n" for n in "abcd"))
    assert run(*words, "--target", "label", "--limit", 1)[0] == 0
    assert Study.load(tmp_path / "out").label(0) == "ant"


def test_more_photographs_than_a_figure_shows(drawn, run, photo, nets, tmp_path):
    for i in range(14):
        photo(f"many/{i:02d}.png", square=(i, i, i + 9, i + 9))
    out = tmp_path / "out"
    code, _, err = run(
        "compare", tmp_path / "many", "-m", "saliency", "--metric", "insertion", "-o", "insertion.steps=2", "--model",
        f"{nets}:conv", "--size", 8, "--out", out,
    )  # fmt: skip
    assert code == 0, err
    assert len(Study.load(out)) == 14
    with Image.open(out / "compare.png") as image:
        assert image.height > 12 * 100


def test_a_photograph_that_is_gone_is_drawn_as_the_model_saw_it(drawn, words, run, photos, tmp_path):
    from attriscope.cli.compare import write_study

    assert run(*words)[0] == 0
    study = Study.load(tmp_path / "out")
    (photos / "a.png").unlink()
    for paths in ([photos / f"{n}.png" for n in "abcd"], []):
        setup = SimpleNamespace(paths=paths, preparation=Preparation((16, 16), 16))
        assert write_study(study, setup, tmp_path / "again") == ["compare.png", "curves.png"]


# -- a TOML file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def toml(tmp_path, nets):
    """A study that somebody wrote, beside the photographs."""

    def write(text="", study="", name="my.toml"):
        path = tmp_path / name
        path.write_text(
            f'methods = ["saliency"]\n[study]\nmodel = "{nets}:conv"\nimages = ["photos"]\nsize = 16\nlimit = 2\n{study}\n'
            f"[metrics.insertion]\nsteps = 4\n{text}"
        )
        return path

    return write


def test_a_file_says_what_the_study_is(run, photos, toml, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = toml(
        '[metrics.deletion]\npreset = "xplique"\n',
        'target = "label"\nout = "runs/mine"\npreset = "smdl-50"\nreport = false',
    )
    code, text, err = run("compare", path)
    assert code == 0, err
    out = tmp_path / "runs" / "mine"
    study = Study.load(out)
    assert study.names == ["a", "b"]
    assert study.target.tolist() == [1, 0]
    protocols = {k: m["protocol"] for k, m in study.metrics.items()}
    assert (protocols["insertion"]["steps"], protocols["insertion"]["baseline"]) == (4, "black")
    assert protocols["deletion"]["output"] == "logit"  # its own preset stays
    assert f"In {out}" in text
    assert not (out / "report.html").exists()


def test_what_is_typed_beside_a_file_counts_more(run, photos, toml, tmp_path):
    path = toml('[metrics.deletion]\npreset = "rise"\n', 'target = 1\npreset = "smdl-50"\nout = "not/here"')
    out = tmp_path / "out"
    code, _, err = run(
        "compare", path, "-m", "rise", "-m", "occlusion", "-o", "rise.masks=6", "-o", "window=8", "-o", "stride=8", "-o",
        "insertion.steps=3", "--limit", 1, "--target", 2, "--size", 8, "--preset", "xplique", "--out", out, "--report",
    )  # fmt: skip
    assert code == 0, err
    study = Study.load(out)
    assert set(study.methods) == {"rise", "occlusion"}
    assert study.methods["rise"]["params"]["masks"] == 6
    assert study.metrics["insertion"]["protocol"]["steps"] == 3
    assert {m["protocol"]["output"] for m in study.metrics.values()} == {"logit"}
    assert study.target.tolist() == [2]
    assert study.inputs.shape == (1, 3, 8, 8)
    assert not (tmp_path / "not").exists()
    assert (out / "report.html").exists()


def test_a_run_writes_the_file_that_runs_it_again(run, words, photos, tmp_path):
    code, _, err = run(
        *words,
        "-m",
        "region/*",
        "--budget",
        40,
        "--target",
        "label",
        "--limit",
        2,
        "--baseline",
        "black",
        "--baseline",
        "blur",
    )
    assert code == 0, err
    out = tmp_path / "out"
    before, paid = scores(out), Study.load(out).paid
    file = configuration.read(out / "study.toml")
    assert file.study["images"] == [str(photos)]
    assert "baselines" not in file.study
    assert set(file.metrics) == {"insertion (black)", "insertion (blur)"}
    code, _, err = run("compare", out / "study.toml", "--out", tmp_path / "again")
    assert code == 0, err
    assert scores(tmp_path / "again") == before
    shards = {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    code, _, err = run("compare", out / "study.toml", "--limit", 3)  # on with it, where it lies
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in shards} == shards
    assert {k: v for k, v in scores(out).items() if k[0] != "c"} == before
    assert len(scores(out)) == len(before) * 3 // 2
    assert Study.load(out).paid > paid


def test_several_of_one_method(run, photos, toml, tmp_path):
    path = toml("[[tables]]\n")
    path.write_text(
        path.read_text().replace("[[tables]]\n", "").replace('methods = ["saliency"]', "")
        + '[methods.few]\nname = "rise"\nmasks = 4\n[methods.more]\nname = "rise"\nmasks = 8\n'
    )
    code, _, err = run("compare", path, "--out", tmp_path / "out", "-o", "rise.grid=3", "-o", "more.seed=5")
    assert code == 0, err
    params = {k: m["params"] for k, m in Study.load(tmp_path / "out").methods.items()}
    assert {k: (p["masks"], p["grid"], p["seed"]) for k, p in params.items()} == {"few": (4, 3, 0), "more": (8, 3, 5)}


def test_what_a_file_cannot_hold_must_be_given(run, fails, photos, toml, tmp_path):
    path = toml()
    path.write_text(
        path.read_text().replace('["saliency"]', '["rise"]')
        + '[omitted]\n"methods.rise.baseline" = "not in TOML: a tensor of shape (3, 4, 4)"\n'
    )
    assert "methods.rise.baseline (a tensor of shape (3, 4, 4))" in fails("compare", path, "--out", tmp_path / "out")
    assert run("compare", path, "--out", tmp_path / "out", "-o", "baseline=mean", "-o", "masks=4")[0] == 0
    assert run("compare", path, "--out", tmp_path / "out", "-m", "saliency")[0] == 0


def test_a_run_from_python_lacks_a_model(run, fails, photos, nets, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    metrics.compare(
        network, photos, attributors=["saliency"], metrics=["insertion"], out=tmp_path / "out", limit=1, progress=False,
        preparation=Preparation((8, 8), 8), origin={"images": [photos]},
    )  # fmt: skip
    path = tmp_path / "out" / "study.toml"
    assert "does not say which model" in fails("compare", path)
    code, _, err = run("compare", path, "--model", f"{nets}:conv", "--size", 8, "--out", tmp_path / "two")
    assert code == 0, err
    assert "is not the model that the file was written with" in err


def test_mistakes_in_a_file(fails, photos, toml, tmp_path):
    out = ["--out", tmp_path / "out"]
    bad = toml("[metrics.deletion]\nstps = 4\n", name="bad.toml")
    assert "bad.toml, line 11: [metrics.deletion] deletion has no option 'stps'" in fails("compare", bad, *out)
    assert "give it alone" in fails("compare", toml(), photos, *out)
    assert "does not say where results go" in fails("compare", toml())
    assert "there is no file" in fails("compare", tmp_path / "none.toml", *out)
    path = toml()
    text = path.read_text()
    for old, new, said in (
        ('images = ["photos"]', "", "does not say which images"),
        ('methods = ["saliency"]', "", "names no methods"),
        ('["saliency"]', '["cam/no*"]', "no method matches"),
        ('["photos"]', '["no"]', "there is no file"),
        ("limit = 2", 'limit = 2\ntarget = "dog"', "--target dog"),
        ("limit = 2", "limit = 2\ntarget = [1, 2, 0]", "there are 3 targets for 2 images"),
        ("limit = 2", 'limit = 2\nbaselines = ["pink"]', "--baseline: baseline=pink"),
        (":conv", ":none", "has no attribute 'none'"),
    ):
        path.write_text(text.replace(old, new))
        assert said in fails("compare", path, *out, out=tmp_path / "out"), new


def test_what_must_be_typed(fails, words, photos, tmp_path):
    assert "Missing option '--out'" in fails("compare", photos, "-m", "rise")
    assert "Missing option '--method'" in fails("compare", photos, "--out", tmp_path / "out")
    out = tmp_path / "out"
    assert "--jobs 0" in fails(*words, "--jobs", 0, out=out)
    assert "--limit" in fails(*words, "--limit", 0, out=out)
    assert "baseline=pink" in fails(*words, "--baseline", "pink", out=out)
    assert "close ones are" in fails(*words, "-m", "grad_cam", "-o", "grad_cam.layer=nine", out=out)


# -- annotations -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inside", "photos")
def test_a_metric_that_needs_annotations(run, fails, words, tmp_path):
    out = tmp_path / "out"
    code, _, err = run(*words, "--metric", "somebody/*", "--limit", 2)
    assert code == 0, err
    assert "left out inside_here: it needs to know where the object is" in err
    assert set(Study.load(out).metrics) == {"insertion", "again_here"}
    assert "inside_here needs to know where the object is" in fails(
        *words, "--metric", "inside_here", out=tmp_path / "new"
    )
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({f"{n}.png": {"boxes": [[4 + 10 * i, 0, 14 + 10 * i, 20]]} for i, n in enumerate("ab")}))
    given = [*words, "--metric", "somebody/*", "--annotations", path]
    code, _, err = run(*given, "--limit", 2)
    assert (code, err) == (0, "")
    for (
        image
    ) in "ab":  # 40 of 48 columns are seen, from column 4: a quarter of the width, but for a column that is rounded off
        assert scores(out)[image, "saliency", "inside_here"] == pytest.approx(4 * 8 / 256, abs=8 / 256)
    assert configuration.read(out / "study.toml").study["annotations"] == str(path)
    assert "nothing of 2 of 4 images, such as c.png" in fails(*given)
    Image.fromarray(np.pad(np.full((40, 24), 255, np.uint8), ((0, 0), (0, 24)))).save(tmp_path / "half.png")
    path.write_text(json.dumps({f"{n}.png": {"mask": "half.png"} for n in "abcd"}))
    assert run(*given)[0] == 0
    assert scores(out)["c", "saliency", "inside_here"] == pytest.approx(0.5)
    for text, said in (
        ("{", "is no JSON"),
        ("[]", "must be"),
        ('{"a.png": [1]}', "must be"),
        ('{"a.png": {"box": 1}}', "a.png: give"),
    ):
        path.write_text(text)
        assert said in fails(*given)
    assert "cannot be read" in fails(*words, "--annotations", tmp_path / "no.json")


def test_metrics_are_listed_with_explanations(run, inside):
    _, text, _ = run("metrics")
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert " 2f + 10E " in rows["again_here"]
    assert " 0f " in rows["inside_here"]
    assert "E: an explanation by the method again" in text
    assert "2f + 10E for each map" in run("metrics", "again_here")[1]


# -- where it runs -----------------------------------------------------------------------------------------------------


def test_several_at_work_find_the_same(run, words, tmp_path):
    assert run(*words)[0] == 0
    with joblib.parallel_config("threading"):
        code, _, err = run(*words, "--jobs", 2, "--out", tmp_path / "two")
    assert code == 0, err
    assert scores(tmp_path / "two") == scores(tmp_path / "out")


def test_a_dask_cluster(run, fails, words, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    assert run(*words)[0] == 0
    used, compare = [], metrics.compare

    def watched(*given, **more):
        used.append(type(joblib.parallel.get_active_backend()[0]).__name__)
        return compare(*given, **more)

    monkeypatch.setattr(metrics, "compare", watched)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="inproc://"
    ) as cluster:
        code, _, err = run(*words, "--dask", cluster.scheduler_address, "--out", tmp_path / "two")
    assert code == 0, err
    assert scores(tmp_path / "two") == scores(tmp_path / "out")
    assert used == ["DaskDistributedBackend"]

    def nobody(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(distributed, "Client", nobody)
    assert "--dask tcp://1.2.3.4:5: no scheduler answers there" in fails(*words, "--dask", "tcp://1.2.3.4:5")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'attriscope[dask]'" in fails(*words, "--dask", "tcp://1.2.3.4:5")


# -- what it says ------------------------------------------------------------------------------------------------------


def test_what_failed_is_told_and_tried_again(run, words, tmp_path):
    broken = [True]

    @register("fragile_here", family="somebody")
    class Fragile(Attributor):
        """The image, unless it is dark on the left."""

        def compute(self, inputs, target):
            if broken[0] and bool((inputs[..., :2].mean((1, 2, 3)) < 0.05).any()):
                raise RuntimeError("too dark")
            return Computed(inputs, {})

        @classmethod
        def _cost(cls, options, shape):
            return 0, 0

    try:
        with pytest.warns(RuntimeWarning, match="fragile_here failed"):
            code, text, err = run(*words, "-m", "fragile_here")
        assert code == 0
        assert (
            "fragile_here failed on 2 of 4 images (c, d): RuntimeError: too dark; the same command tries again" in err
        )
        assert "fragile_here" in text
        broken[0] = False
        code, _, err = run(*words, "-m", "fragile_here")
        assert (code, err) == (0, "")
    finally:
        REGISTRY.remove("fragile_here")


def test_a_report_unless_it_is_not_wanted(run, words, tmp_path):
    code, text, _ = run(*words)
    assert code == 0
    assert (tmp_path / "out" / "report.html").read_text() == "report"
    assert "compare.png, curves.png, report.html, summary.csv" in text
    code, text, _ = run(*words, "--no-report", "--out", tmp_path / "two")
    assert not (tmp_path / "two" / "report.html").exists()
    assert "report.html" not in text


def test_stopped_and_gone_on_with(photos, nets, tmp_path):
    out = tmp_path / "out"
    command = [
        *PROGRAM, "compare", photos, "-m", "rise", "-o", "masks=60", "--metric", "insertion", "-o", "insertion.steps=2",
        "--model", f"{nets}:slow", "--size", "16", "--limit", "2", "--no-report", "--out", out,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        until = time.monotonic() + 90
        while not list(out.glob("shards/clean-*")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.splitlines() == [
        f"attriscope: stopped; what was finished is in {out}, and the same command goes on from there"
    ]
    assert text == ""
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "mean over 2 images" in found.stdout

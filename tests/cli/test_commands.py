import importlib.util
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from attriscope.attribution import Explanation
from attriscope.metrics import Study
from PIL import Image

PROGRAM = [sys.executable, "-c", "from attriscope.cli import main; main()"]


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_writes_and_tells(run, photo, nets, tmp_path):
    out = tmp_path / "new" / "out"
    code, text, err = run(
        "explain", photo(), "-m", "input_x_gradient", "-m", "rise", "-o", "masks=20", "--model", f"{nets}:bright",
        "--size", 32, "--out", out,
    )  # fmt: skip
    assert code == 0, err
    names = {"photo-input_x_gradient", "photo-rise"}
    assert {p.name for p in out.iterdir()} == {n + s for n in names for s in (".png", ".overlay.png", ".safetensors")}
    head, *rows = text.split("\n\n")[0].splitlines()
    assert head.split() == ["image", "method", "class", "probability", "score", "unit", "cost", "seconds"]
    assert [r.split()[1] for r in rows] == ["input_x_gradient", "rise"]
    assert "class 0" in rows[0]
    assert "1f + 1b" in rows[0]
    assert " 20f " in rows[1]
    found = Explanation.load(out / "photo-rise.safetensors")
    assert found.params["masks"] == 20
    assert found.maps.shape == (1, 1, 32, 32)
    with Image.open(out / "photo-rise.overlay.png") as image:
        assert image.size == (48, 40)


def test_the_default_method(run, photo, nets, tmp_path):
    words = ["--model", f"{nets}:conv", "--size", 16, "--out", tmp_path / "o"]
    code, text, err = run("explain", photo(), "-o", "steps=3", *words)
    assert code == 0, err
    assert text.splitlines()[1].split()[1] == "integrated_gradients"


@pytest.mark.parametrize(
    ("size", "square"),
    [((96, 60), (40, 20, 60, 40)), ((60, 96), (20, 44, 40, 64)), ((96, 60), (20, 2, 34, 12)), ((60, 96), (2, 70, 14, 78))],
)
def test_a_bright_square_is_found_where_it_is(run, photo, nets, tmp_path, size, square):  # noqa: PLR0917
    out = tmp_path / "out"
    code, _, err = run(
        "explain", photo("square.png", size, square), "-m", "input_x_gradient", "--target", 0, "--model", f"{nets}:bright",
        "--size", 32, "--out", out,
    )  # fmt: skip
    assert code == 0, err
    with Image.open(out / "square-input_x_gradient.overlay.png") as image:
        pixels = np.array(image).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    red = pixels[..., 0] - pixels[..., 2] > 60
    rows, columns = np.nonzero(red)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    # what the model sees has 32 pixels for 60 of the photograph: two for one, and the edges are soft
    assert np.abs(np.array(found) - square).max() <= 3, found
    assert red.sum() >= 0.7 * (square[2] - square[0]) * (square[3] - square[1])


def test_what_the_model_does_not_see_is_pale(run, photo, nets, tmp_path):
    run(
        "explain", photo("p.png", (96, 60), (0, 0, 96, 60)), "-m", "input_x_gradient", "--target", 0, "--model",
        f"{nets}:bright", "--size", 32, "--out", tmp_path / "out",
    )  # fmt: skip
    with Image.open(tmp_path / "out" / "p-input_x_gradient.overlay.png") as image:
        pixels = np.array(image).astype(int)
    coloured = (pixels[..., 0] - pixels[..., 2] > 60).all(0)
    assert np.flatnonzero(coloured).tolist() == list(range(17, 77))  # 60 of 96 columns, where the crop of 51 begins at 9


def test_images_of_the_same_name(run, photo, nets, tmp_path):
    one, two = photo("x/cat.png"), photo("y/cat.png", square=(0, 0, 5, 5))
    out = tmp_path / "out"
    code, _, err = run("explain", one, two, "-m", "saliency", "--model", f"{nets}:bright", "--size", 32, "--out", out)
    assert code == 0, err
    assert {p.name for p in out.glob("*.safetensors")} == {"x_cat-saliency.safetensors", "y_cat-saliency.safetensors"}


def test_targets_and_labels(run, photo, nets, tmp_path):
    (tmp_path / "names.txt").write_text("dim\nBright thing\nother\n")
    words = ["explain", photo(), "-m", "saliency", "--model", f"{nets}:conv", "--size", 16, "--out", tmp_path / "out"]
    code, text, err = run(*words, "--labels", tmp_path / "names.txt", "--target", "bright thing")
    assert code == 0, err
    assert "Bright thing" in text
    assert Explanation.load(tmp_path / "out" / "photo-saliency.safetensors").target.tolist() == [1]
    code, text, _ = run(*words, "--target", 2)
    assert "class 2" in text
    (tmp_path / "labels.csv").write_text("file,class_index\nphoto.png,2\n")
    code, text, _ = run(*words, "--target", "label", "--labels", tmp_path / "names.txt")
    assert code == 0
    assert "other" in text


def test_a_pattern_leaves_out_what_does_not_run(run, photo, nets, tmp_path):
    code, text, err = run(
        "explain", photo(), "-m", "cam/*", "-m", "gradient/input*", "--model", f"{nets}:bright", "--size", 32, "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert "left out grad_cam: no layer" in err
    assert [line.split()[1] for line in text.split("\n\n")[0].splitlines()[1:]] == ["input_x_gradient"]


def test_a_budget(run, photo, nets, tmp_path):
    words = ["explain", photo(), "--model", f"{nets}:bright", "--size", 32, "--out", tmp_path / "out"]
    code, text, err = run(*words, "-m", "rise", "-m", "sobol", "--budget", 40)
    assert code == 0
    assert "left out sobol" in err
    assert " 40f " in text


def test_every_kind_of_photograph(run, nets, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("CMYK", (30, 40), (10, 20, 30, 40)).save(folder / "a.jpg")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(folder / "b.png")
    Image.new("RGBA", (1, 1), (1, 2, 3, 4)).save(folder / "c.png")
    Image.new("P", (300, 2)).save(folder / "d.gif")
    Image.new("LA", (2, 200)).save(folder / "e.png")
    code, _, err = run(
        "explain", folder, "-m", "saliency", "-m", "occlusion", "-o", "window=8", "-o", "stride=8", "--model",
        f"{nets}:conv", "--size", 16, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    for name, size in (("a", (30, 40)), ("b", (30, 20)), ("c", (1, 1)), ("d", (300, 2)), ("e", (2, 200))):
        for method in ("saliency", "occlusion"):
            with Image.open(tmp_path / "out" / f"{name}-{method}.overlay.png") as image:
                assert image.size == size
            assert (tmp_path / "out" / f"{name}-{method}.png").is_file()


def test_a_model_with_bounds_of_its_own(run, photo, nets, tmp_path):
    words = ["-m", "input_x_gradient", "--target", 0, "--size", 32, "--out", tmp_path / "o"]
    code, _, err = run("explain", photo(), *words, "--model", f"{nets}:byte_model")
    assert code == 0, err
    found = Explanation.load(tmp_path / "o" / "photo-input_x_gradient.safetensors")
    assert float(found.maps.max()) == pytest.approx(3 * 255 / 1000, rel=0.01)


def test_an_onnx_file_and_a_backend(run, fails, photo, nets, tmp_path):
    """The file is what --backend onnx makes of the network in memory: the same maps come out."""
    for package in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(package)
    import importlib

    from attriscope.attribution import _backends

    model = importlib.import_module(nets).conv()
    model.network.eval()
    path = tmp_path / "net.onnx"
    path.write_bytes(_backends.export(model.network, torch.rand(2, 3, 16, 16)))
    found = {}
    for name, words in {
        "file": ["--model", path], "onnx": ["--model", f"{nets}:conv", "--size", 16, "--backend", "onnx"],
        "torch": ["--model", f"{nets}:conv", "--size", 16],
    }.items():  # fmt: skip
        out = tmp_path / name
        code, _, err = run("explain", photo(), "-m", "occlusion", "-o", "window=4", "-o", "stride=4", *words, "--out", out)
        assert (code, err) == (0, "")
        found[name] = Explanation.load(out / "photo-occlusion.safetensors").maps
    torch.testing.assert_close(found["onnx"], found["torch"], rtol=1e-4, atol=1e-5)
    assert found["file"].shape == found["torch"].shape  # its normalisation is ImageNet's, the network's is another
    assert found["file"].abs().max() > 0
    assert "needs gradients" in fails("explain", photo(), "--model", path, "--out", tmp_path / "no")


def test_a_grey_network(run, photo, nets, tmp_path):
    code, _, err = run("explain", photo(), "-m", "saliency", "--model", f"{nets}:grey", "--size", 16, "--out", tmp_path / "o")
    assert code == 0, err


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_bad_input_is_told_before_anything_runs(fails, photo, nets, tmp_path):
    good = photo()
    text = tmp_path / "text.jpg"
    text.write_text("I am no image")
    half = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(half)
    half.write_bytes(half.read_bytes()[:900])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    nan = tmp_path / "nan.tif"
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(nan)
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    out = tmp_path / "out"
    base = ["--model", f"{nets}:conv", "--size", 16, "--out", out]
    for words, said in (
        ([good, text, *base], "text.jpg is not an image"),
        ([good, half, *base], "half.jpg cannot be read"),
        ([good, tmp_path / "none.png", *base], "there is no file"),
        ([empty, *base], "has no images in it"),
        ([nan, *base], "NaN or infinite"),
        ([good, "-m", "ris", *base], "did you mean 'rise'"),
        ([good, "-m", "rise", "-o", "masks=few", *base], "expected int"),
        ([good, "-m", "rise", "-o", "steps=3", *base], "rise has no option steps"),
        ([good, "--target", "dog", *base], "have no names"),
        ([good, "--target", "99", *base], "out of range"),
        ([good, "--target", "label", *base], "labels.csv"),
        ([good, "--labels", tmp_path / "no.txt", *base], "--labels"),
        ([good, "--labels", tmp_path / "two.txt", *base], "3 classes apart"),
        ([good, "--budget", 0, *base], "--budget"),
        ([good, "--budget", "many", *base], "--budget"),
        ([good, "-m", "grad_cam", "--model", f"{nets}:bright", "--size", 32, "--out", out], "no spatial layer"),
        ([good, *base[:-1], tmp_path / "file"], "is a file"),
        ([good, *base[:-1], "/proc/none/x"], "cannot be written"),
        ([good, "--model", f"{nets}:flat", "--size", 16, "--out", out], "cannot run on images of 3 x 16 x 16"),
        ([good, "--model", f"{nets}:dense", "--size", 16, "--out", out], "one score for each class"),
        ([good, "--model", f"{nets}:not_a_number", "--size", 32, "--out", out], "NaN or infinite"),
        ([good], "Missing option '--out'"),
        ([*base], "Missing argument"),
        ([good, "--frobnicate", *base], "No such option"),
    ):
        sentence = fails("explain", *words, out=out)
        assert said in sentence, (words, sentence)


def test_nothing_left_to_run(run, photo, nets, tmp_path):
    code, _, err = run(
        "explain", photo(), "-m", "rise", "-m", "occlusion", "--budget", 1, "-o", "rise.masks=5", "--model",
        f"{nets}:conv", "--size", 16, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert err.splitlines()[-1] == "attriscope: no method is left to run"
    assert not (tmp_path / "out").exists()


def test_an_image_in_the_results_folder_is_not_overwritten(fails, photo, nets, tmp_path):
    photo("cat.png")
    photo("cat-saliency.png")
    words = ["--model", f"{nets}:bright", "--size", 32, "--out", tmp_path]
    assert "may be overwritten" in fails("explain", tmp_path / "cat.png", tmp_path / "cat-saliency.png", *words)


def test_compare_is_told_off_too(fails, photo, nets, tmp_path):
    out = tmp_path / "out"
    base = [photo(), "--model", f"{nets}:conv", "--size", 16, "--out", out]
    for words, said in (
        (["-m", "saliency", "--metric", "insert"], "did you mean 'insertion'"),
        (["-m", "saliency", "--preset", "no"], "rise-large"),
        (["-m", "saliency", "-o", "deletion.steps=x"], "expected int"),
        ([], "--method"),
        (["-m", "rise", "-o", "masks=9", "--budget", 2], "budget=2"),
        (["-m", "grad_cam", "-o", "layer=nine"], "nine"),
    ):
        assert said in fails("compare", *base, *words, out=out), words


def test_a_disk_that_is_full(fails, photo, nets, tmp_path, monkeypatch):
    path = photo()

    def full(self, file, *_, **__):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "out"
    assert "No space left" in fails("explain", path, "-m", "saliency", "--model", f"{nets}:conv", "--size", 16, "--out", out)
    assert [p.name for p in out.iterdir()] == ["photo-saliency.safetensors"]


# -- compare and demo --------------------------------------------------------------------------------------------------


def test_compare(run, photo, nets, tmp_path):
    photo("photos/a.png")
    photo("photos/b.png", (60, 40), (2, 2, 30, 30))
    (tmp_path / "photos" / "labels.csv").write_text("file,class_index\na.png,1\nb.png,0\n")
    out = tmp_path / "out"
    code, text, err = run(
        "compare", tmp_path / "photos", "-m", "saliency", "-m", "rise", "-m", "sobol", "-m", "cam/grad_ca?", "--budget", 30,
        "--target", "label", "--metric", "insertion", "-o", "insertion.steps=5", "--model", f"{nets}:bright", "--size", 32,
        "--out", out,
    )  # fmt: skip
    assert code == 0, err
    assert "insertion (higher is better), mean over 2 images" in text
    assert "deletion" not in text
    assert {line.split()[0] for line in text.splitlines()[2:4]} == {"saliency", "rise"}
    assert "left out sobol" in err
    assert "left out grad_cam" in err
    assert {"compare.png", "curves.png", "summary.csv", "study.json"} <= {p.name for p in out.iterdir()}
    study = Study.load(out)
    assert study.target.tolist() == [1, 0]
    assert study.names == ["a", "b"]
    assert set(study.left_out) == {"sobol", "grad_cam"}
    assert study.metrics["insertion"]["protocol"]["steps"] == 5
    assert study.methods["rise"]["params"]["masks"] == 30


def test_compare_has_two_metrics_of_its_own(run, photo, nets, tmp_path):
    code, text, err = run(
        "compare", photo(), "-m", "saliency", "--preset", "xplique", "--model", f"{nets}:conv", "--size", 16, "--out",
        tmp_path / "o",
    )  # fmt: skip
    assert code == 0, err
    assert "insertion (higher" in text
    assert "deletion (lower" in text
    assert Study.load(tmp_path / "o").metrics["deletion"]["protocol"]["output"] == "logit"


def test_demo_with_a_tiny_model(run, nets, tmp_path, monkeypatch):
    from attriscope.cli import demo, models

    loaded = models.load(f"{nets}:conv", 16)
    monkeypatch.setattr("attriscope.cli.models.load", lambda spec, size, backend=None: loaded)
    monkeypatch.setattr(demo, "PHOTOGRAPHS", ("camera.png", "rocket.jpg"))
    out = tmp_path / "demo"
    code, text, err = run("demo", "--out", out)
    assert code == 0, err
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    figures = {"area_sweep.png", "compare.png", "curves.png", "subset_path.png"}
    assert figures | {"report.html", "summary.csv", "study.json", "study.toml"} <= files
    for name in ("camera", "rocket"):
        assert name in text
        for method in demo.METHODS:
            assert f"overlays/{name}-{method}.png" in files
            assert f"overlays/{name}-{method}.overlay.png" in files
    assert "Try next:" in text
    study = Study.load(out)
    assert len(study.methods) == len(demo.METHODS)
    told = tomllib.loads(study.configuration)["study"]
    assert (told["model"], len(told["images"])) == ("demo", 2), "the file makes it again"


def test_the_demo_names_every_method():
    from attriscope import attribution
    from attriscope.cli import demo

    assert set(demo.METHODS) <= set(attribution.available())
    assert all(p.is_file() for p in demo.paths())


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="needs attriscope[demo]")
def test_the_demo_sees_what_is_there(capsys):
    from attriscope.cli import demo, models
    from attriscope.metrics import photographs

    loaded = models.load("demo")
    photos = photographs.read(demo.paths(), loaded.preparation)
    seen = loaded.model.outputs(torch.stack([p.input for p in photos])).argmax(1).tolist()
    assert [loaded.classes[i] for i in seen] == ["Egyptian cat", "espresso", "tripod", "missile"]
    assert capsys.readouterr().out == ""


# -- as a program ------------------------------------------------------------------------------------------------------


def test_help_is_fast_and_for_newcomers(run):
    code = "import sys; from attriscope.cli.app import app; app(['-h'], standalone_mode=False); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "False"
    assert "attriscope demo" in found.stdout
    for command in ("methods", "metrics", "explain", "compare", "demo"):
        status, text, _ = run(command, "--help")
        assert status == 0
        assert f"attriscope {command}" in text
        assert "For example:" in text
    assert run()[1] == run("--help")[1]


def test_methods_that_run_on_a_model(run, nets, fails):
    code, text, err = run("methods", "*cam*", "--model", f"{nets}:conv", "--size", 16)
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert rows[0] == "method"
    assert {"grad_cam", "score_cam", "wcam"} <= set(rows[1 : rows.index("cost:")])
    code, text, _ = run("methods", "cam/grad_ca?", "--model", f"{nets}:flat", "--size", 32)
    assert code == 0
    assert text.startswith(f"grad_cam does not run on {nets}:flat: no layer was found")
    assert len(text.splitlines()) == 1
    for model, said in ((f"{nets}:flat", "does not run on"), (f"{nets}:conv", "runs on")):
        _, text, _ = run("methods", "gradcam", "--model", model, "--size", 32)
        assert text.startswith("grad_cam\n====")
        assert text.splitlines()[-1].startswith(f"grad_cam {said} {model}")
    code, text, _ = run("methods", "saliency", "--model", f"{nets}:byte_model", "--size", 32)
    assert text.splitlines()[-1] == f"saliency runs on {nets}:byte_model."
    assert "no weights today" in fails("methods", "--model", f"{nets}:broken")
    assert "cannot run on images of 3 x 48 x 48 pixels" in fails("methods", "--model", f"{nets}:flat", "--size", 48)
    assert "is for --model" in fails("methods", "--size", 48)


def test_a_dense_network_has_methods_too(run, nets):
    code, text, _ = run("methods", "rise", "--model", f"{nets}:dense", "--size", 16)
    assert (code, text.splitlines()[-1]) == (0, f"rise runs on {nets}:dense.")


def test_version(run):
    assert run("--version")[:2] == (0, f"attriscope {version('attriscope')}\n")


def test_unknown_command(fails):
    assert "Did you mean 'explain'" in fails("explian")


def test_the_installed_program(photo, nets, tmp_path):
    program = Path(sys.executable).with_name("attriscope")
    found = subprocess.run(
        [program, "explain", photo(), "-m", "saliency", "--model", f"{nets}:bright", "--size", "32", "--out", "out"],
        capture_output=True, text=True, check=False, cwd=tmp_path / "code", timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert len(list((tmp_path / "code" / "out").iterdir())) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle(photo, nets, tmp_path, number, code):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            *PROGRAM, "explain", photo(), "-m", "saliency", "-m", "rise", "-o", "masks=100000", "--model", f"{nets}:slow",
            "--out", out,
        ],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "code")},
    )
    try:
        until = time.monotonic() + 60
        while not (out / "photo-saliency.png").exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert len(err.splitlines()) == (1 if number == signal.SIGINT else 0), err
    assert {p.name for p in out.iterdir()} == {f"photo-saliency{s}" for s in (".png", ".overlay.png", ".safetensors")}

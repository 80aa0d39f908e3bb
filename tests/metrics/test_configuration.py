import functools
import tomllib

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.attribution import Model
from attriscope.attribution._parameters import parameters
from attriscope.attribution.attributor import REGISTRY
from attriscope.metrics.configuration import Configuration, Entry, read, write
from torch import nn


def told(attributor):
    return {"name": attributor.name, "params": attributor.params}


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Model(network.eval())


@pytest.fixture
def toml(tmp_path):
    """Write text as a file: its path."""

    def make(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return make


# -- what is written is read -------------------------------------------------------------------------------------------


def test_every_method_and_metric_comes_back_with_all_its_options(tmp_path):
    made = {
        name: {"name": name, "params": {n: p.default for n, p in parameters(REGISTRY.find(name)).items()}}
        for name in attribution.available()
    }
    judges = {name: metrics.create(name) for name in metrics.available()}
    study = {
        "model": "demo",
        "images": ["a", "b/cat.jpg"],
        "limit": 3,
        "target": "label",
        "budget": 9,
        "block": 2,
        "jobs": -1,
    }
    path = tmp_path / "runs" / "study.toml"
    written = write(
        path, study=study, methods=made, metrics={k: told(m) for k, m in judges.items()}, model={"fingerprint": "abc"}
    )
    assert read(path) == written
    assert written.omitted == {}
    assert {k: set(e.params) for k, e in written.methods.items()} == {k: set(m["params"]) for k, m in made.items()}
    assert {k: metrics.create(e.name, **e.params) for k, e in written.metrics.items()} == judges
    assert {"attriscope", "torch", "numpy", "python", "platform"} <= set(written.versions)
    assert written.model == {"fingerprint": "abc"}


def test_options_come_back_as_what_they_were(model, tmp_path):
    made = {
        "occlusion": attribution.create("occlusion", model, window=(3, 2), stride=1, baseline=0.25),
        "rise, few": attribution.create("rise", model, masks=20, seed=7, tolerance=None),
        "grad cam": attribution.create("grad_cam", model, layer="0"),
        'odd "label" = 1 [x].y #': attribution.create("rise", model, normalize="none", baseline="blur"),
    }
    path = tmp_path / "study.toml"
    written = write(path, study={}, methods={k: told(a) for k, a in made.items()}, metrics={})
    assert read(path) == written
    for label, entry in read(path).methods.items():
        again = attribution.create(entry.name, model, **entry.params)
        assert again == made[label]
        assert again.params == made[label].params
    assert read(path).methods["rise, few"].params["tolerance"] is None
    assert read(path).methods['odd "label" = 1 [x].y #'].params["normalize"] == "none"


def test_a_default_that_changes_later_changes_nothing(model, tmp_path, monkeypatch):
    path = tmp_path / "study.toml"
    rise = attribution.create("rise", model)
    write(path, study={}, methods={"rise": told(rise)}, metrics={})
    monkeypatch.setattr(type(rise), "masks", 17)
    entry = read(path).methods["rise"]
    assert attribution.create("rise", model, **entry.params).masks == rise.masks


def test_what_toml_cannot_hold_is_named(model, tmp_path):
    made = {
        "rise": attribution.create("rise", model, baseline=torch.zeros(3, 4, 4)),
        "occlusion": attribution.create("occlusion", model, baseline=mean_colour),
        "smooth": attribution.create("smoothgrad", model, method=attribution.create("saliency", model)),
    }
    path = tmp_path / "study.toml"
    written = write(
        path, study={"target": mean_colour, "limit": 2}, methods={k: told(a) for k, a in made.items()}, metrics={}
    )
    assert read(path) == written
    assert written.omitted == {
        "study.target": "not in TOML: the callable mean_colour",
        "methods.rise.baseline": "not in TOML: a tensor of shape (3, 4, 4)",
        "methods.occlusion.baseline": "not in TOML: the callable mean_colour",
        "methods.smooth.method": "not in TOML: saliency()",
    }
    assert "baseline" not in written.methods["rise"].params
    with pytest.raises(ValueError, match=r"methods.rise.baseline \(a tensor of shape \(3, 4, 4\)\).*from Python"):
        read(path).complete()
    Configuration().complete()


def test_a_text_that_means_none_is_not_taken_for_it(tmp_path):
    written = write(
        tmp_path / "s.toml", study={}, methods={"rise": {"name": "rise", "params": {"layer": "none"}}}, metrics={}
    )
    assert written.methods["rise"].params == {}
    assert written.omitted == {"methods.rise.layer": "not in TOML: the text 'none'"}


def mean_colour(images):
    return images.mean((2, 3), keepdim=True)


def test_somebodys_own_maps_are_named_and_do_not_break_the_file(model, tmp_path):
    mine = attribution.from_maps(torch.rand(2, 1, 4, 4), model)
    path = tmp_path / "study.toml"
    written = write(path, study={}, methods={"mine": told(mine)}, metrics={})
    assert read(path) == written
    assert any(k.startswith("methods.mine.") for k in written.omitted)


def test_values_of_the_study(tmp_path):
    path = tmp_path / "study.toml"
    study = {
        "target": torch.tensor([1, 2]),
        "limit": np.int64(3),
        "images": [tmp_path / "a"],
        "labels": tmp_path / "x.txt",
        "report": False,
        "budget": None,
    }
    written = write(path, study=study, methods={}, metrics={})
    assert written.study == {
        "target": [1, 2],
        "limit": 3,
        "images": [str(tmp_path / "a")],
        "labels": str(tmp_path / "x.txt"),
        "report": False,
    }
    assert read(path) == written
    assert write(path, study={"target": functools.partial(int)}, methods={}, metrics={}).omitted["study.target"]
    assert write(path, study={"target": [(0, 1, 2), (1, 1, 1)]}, methods={}, metrics={}).study["target"] == [
        [0, 1, 2],
        [1, 1, 1],
    ]
    with pytest.raises(ValueError, match=r"has no 'limmit'; did you mean 'limit'"):
        write(path, study={"limmit": 3}, methods={}, metrics={})


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "runs" / "a" / "study.toml"
    write(
        path,
        study={"images": ["photos", "../cat.jpg"], "model": "net.onnx", "annotations": "boxes.json"},
        methods={},
        metrics={},
    )
    raw = tomllib.loads(path.read_text())["study"]
    assert raw == {
        "images": ["../../work/photos", "../../cat.jpg"],
        "model": "../../work/net.onnx",
        "annotations": "../../work/boxes.json",
    }
    monkeypatch.chdir(tmp_path)
    assert read("runs/a/study.toml").study["images"] == [str(tmp_path / "work" / "photos"), str(tmp_path / "cat.jpg")]
    (tmp_path / "work").rename(tmp_path / "moved")
    (tmp_path / "new").mkdir()
    (tmp_path / "runs").rename(tmp_path / "new" / "runs")  # moved with the pictures it finds them
    assert read("new/runs/a/study.toml").study["images"][1] == str(tmp_path / "new" / "cat.jpg")
    assert write(path, study={"model": "timm:resnet18"}, methods={}, metrics={}).study["model"] == "timm:resnet18"


# -- what people write -------------------------------------------------------------------------------------------------


def test_three_ways_to_name_methods(toml):
    lists = read(toml('methods = ["rise", "cam/*"]\nmetrics = ["insertion"]\n'))
    assert lists.methods == {"rise": Entry("rise"), "cam/*": Entry("cam/*")}
    assert lists.methods["cam/*"].pattern
    assert not lists.methods["rise"].pattern
    tables = read(
        toml('[[methods]]\nname = "rise"\nmasks = 9\n[[methods]]\nname = "rise"\nlabel = "many"\nmasks = 99\n')
    )
    assert tables.methods == {"rise": Entry("rise", {"masks": 9}), "many": Entry("rise", {"masks": 99})}
    labels = read(
        toml('[methods.rise]\n[methods."rise, many"]\nname = "rise"\nmasks = 99\n[metrics.insertion]\nsteps = "none"\n')
    )
    assert labels.methods == {"rise": Entry("rise"), "rise, many": Entry("rise", {"masks": 99})}
    assert labels.metrics == {"insertion": Entry("insertion", {"steps": None})}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[study]\nlimit = 3\nbugdet = 4\n", r"line 3: \[study\] has no 'bugdet'; did you mean 'budget'"),
        ("[stdy]\n", r"line 1: there is no table \[stdy\]; did you mean 'study'"),
        ("study = 3", r"line 1: \[study\] must be a table"),
        ("[study]\nlimit = 0\n", "line 2: .*at least 1"),
        ("[study]\nlimit = true\n", "line 2: .*whole number"),
        ("[study]\njobs = 0\n", "line 2: .*other than 0"),
        ("[study]\nimages = [3]\n", "line 2: .*list of texts"),
        ("[study]\nmodel = 3\n", "line 2: .*give a text"),
        ("[study]\ntarget = 1.5\n", "line 2: .*class by number"),
        ("[study]\nreport = 1\n", "line 2: .*true or false"),
        (
            '[[methods]]\nname = "rise"\n\n[[methods]]\nname = "occlusion"\nmasks = 3\n',
            r"line 6: \[methods\] occlusion has no option 'masks'; it has",
        ),
        ('[[methods]]\nname = "rise"\n[[methods]]\nname = "rise"\n', r"line 3: \[methods\] 'rise' is there twice"),
        ("[methods.rise]\nmsks = 9\n", r"line 2: \[methods.rise\] rise has no option 'msks'; did you mean 'masks'"),
        (
            '[methods."my rise"]\nname = "rise"\nmasks = 1.5\n',
            r'line 3: \[methods."my rise"\] masks = 1.5: expected int',
        ),
        ("[methods.rise]\nmasks = 0\n", "line 2: .*at least 1"),
        ('[methods.rise]\nmasks = "none"\n', "line 2: .*masks = 'none': expected int"),
        ('[methods.rise]\nnormalize = "no"\n', "line 2: .*choose one of"),
        ("[methods.rize]\n", r"line 1: \[methods.rize\] no method 'rize'; did you mean 'rise'"),
        ('[methods.mine]\nname = "rize"\n', "line 2: .*did you mean 'rise'"),
        ("methods.rise.msks = 2\n", r"line 1: \[methods.rise\] rise has no option"),
        ("methods.rise = {msks = 2}\n", r"line 1: \[methods.rise\] rise has no option"),
        ('methods = ["no/*"]\n', "line 1: .*no method matches 'no/"),
        ('[[methods]]\nname = "cam/*"\nlayer = "0"\n', "line 3: .*finds several"),
        ("[[methods]]\nmasks = 3\n", r"line 1: \[methods\] must have a name"),
        ("methods = 3\n", "line 1: methods must be tables"),
        ("methods = [3]\n", "must be a table with a name"),
        ("[metrics.insertion]\nsteps = 'many'\n", "line 2: .*expected int"),
        ('[metrics.insertion]\npreset = "ris"\n', "line 2: .*choose one of"),
        ("[versions]\ntorch = 2\n", r"line 1: \[versions\] must be a table of texts"),
        ("[study\n", "is no TOML: .*line 1"),
    ],
)
def test_mistakes_are_told_with_their_line(toml, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(toml(text))
    assert "study.toml" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no text file"):
        read(tmp_path / "bytes.toml")
    with pytest.raises(OSError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(OSError, match="cannot write"):
        write("/proc/none/study.toml", study={}, methods={}, metrics={})

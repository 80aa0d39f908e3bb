import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Attributor, Computed
from attriscope.attribution._parameters import Count
from attriscope.attribution.attributor import REGISTRY
from attriscope.cli.options import choose, configure, labels, target, writable
from attriscope.cli.problems import Problem
from attriscope.cli.tables import cost, table
from attriscope.metrics.metric import REGISTRY as METRICS


def options(methods, settings, metrics=(), preset=None):
    chosen, judges = choose(methods), choose(metrics, METRICS)
    configure(settings, chosen, judges, preset)
    return {n: c.options for n, c in {**chosen, **judges}.items()}


def test_an_option_goes_to_everybody_who_has_it():
    found = options(["rise", "sobol", "saliency"], ["grid=5", "masks=30"])
    assert found == {"rise": {"grid": 5, "masks": 30}, "sobol": {"grid": 5}, "saliency": {}}


def test_an_option_of_one_counts_more_wherever_it_stands():
    assert options(["rise", "sobol"], ["rise.grid=4", "grid=5"]) == {"rise": {"grid": 4}, "sobol": {"grid": 5}}


def test_names_are_aliases_and_patterns():
    found = list(choose(["IG", "integrated-gradients", "gradient/*"]))
    assert found == ["integrated_gradients", *attribution.available("gradient/*")]
    chosen = choose(["gradient/*", "saliency"])
    assert chosen["saliency"].asked
    assert not chosen["input_x_gradient"].asked
    assert options(["integrated_gradients"], ["ig.steps=7"]) == {"integrated_gradients": {"steps": 7}}


def test_metrics_have_their_own():
    found = options(["rise"], ["insertion.steps=9", "seed=3"], ["insertion", "deletion"], "smdl-50")
    assert found == {"rise": {"seed": 3}, "insertion": {"preset": "smdl-50", "steps": 9}, "deletion": {"preset": "smdl-50"}}


def test_values_have_the_types_of_the_signature():
    found = options(["rise", "grad_cam"], ["keep=0.25", "relu=no", "resize=none", "baseline=0.5", "output=margin"])
    assert found["rise"] == {"keep": 0.25, "baseline": 0.5, "output": "margin"}
    assert found["grad_cam"] == {"relu": False, "resize": None, "output": "margin"}


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        (["rise"], ["mask=10"], "rise has no option mask; did you mean masks"),
        (["rise", "sobol"], ["steps=10"], "none of rise, sobol has an option steps"),
        (["rise"], ["masks"], "key=value"),
        (["rise"], ["=3"], "key=value"),
        (["rise"], ["masks=many"], "rise: masks=many: expected int"),
        (["rise"], ["masks=0"], "must be at least 1"),
        (["rise"], ["keep=nan"], "keep=nan"),
        (["sobol"], ["designs=1"], "must be at least 2"),
        (["rise"], ["normalize=max"], "sum, count, none"),
        (["rise"], ["sobol.grid=3"], "sobol is not among what is run (rise)"),
        (["rise"], ["rize.grid=3"], "did you mean rise"),
        (["rise"], ["rise.window=3"], "rise has no option window"),
        (["ris"], [], "did you mean 'rise'"),
        (["x/*"], [], "no method matches 'x/*'"),
    ],
)
def test_what_is_wrong_is_said(methods, settings, said):
    with pytest.raises(Problem) as problem:
        options(methods, settings)
    assert said in str(problem.value)


def test_an_option_that_only_a_metric_has_is_hinted_at():
    with pytest.raises(Problem, match=r"write -o insertion\.ties=index"):
        options(["rise"], ["ties=index"], ["insertion"])
    with pytest.raises(Problem, match="rise-large"):
        options(["rise"], [], ["insertion"], "no-such")


# -- classes -----------------------------------------------------------------------------------------------------------

CLASSES = ["tabby cat", "Tiger cat", "crane", "crane", "dog"]


def test_a_class_by_number_and_by_name():
    assert target(None, CLASSES, []) is None
    assert target("3", CLASSES, []) == 3
    assert target("-1", CLASSES, []) == -1  # the model says that it is out of range
    assert target("dog", CLASSES, []) == 4
    assert target("TIGER cat", CLASSES, []) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("crane", "2, 3"), ("cat", "did you mean tabby cat or Tiger cat"), ("dgo", "did you mean dog"), ("zebra", "no class")],
)
def test_a_class_that_is_not_there(text, said):
    with pytest.raises(Problem, match=said):
        target(text, CLASSES, [])


def test_a_model_without_names():
    with pytest.raises(Problem, match="give a number"):
        target("dog", [], [])


def test_the_label_of_labels_csv(tmp_path):
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(Problem, match=r"there is no labels\.csv"):
        target("label", CLASSES, images)
    table = tmp_path / "labels.csv"
    table.write_text("\ufefffile,class_index,more\na.png,3,x\nb.png,0,y\n", encoding="utf-8")
    assert target("label", CLASSES, images) == [3, 0]
    for text, said in (
        ("file,class_index\na.png,3\n", "does not list b.png"),
        ("file,class_index\na.png,3\nb.png,dog\n", "no number"),
        ("name,label\na.png,3\n", "columns file and class_index"),
    ):
        table.write_text(text)
        with pytest.raises(Problem, match=said):
            target("label", CLASSES, images)


def test_labels_as_text_and_json(tmp_path):
    for name, text in (
        ("a.txt", "cat\nbig dog\n\n"),
        ("b.json", json.dumps(["cat", "big dog"])),
        ("c.json", json.dumps({"1": "big dog", "0": "cat"})),
        ("d.json", json.dumps({"0": ["n1", "cat"], "1": ["n2", "big dog"]})),
    ):
        (tmp_path / name).write_text(text)
        assert labels(tmp_path / name) == ["cat", "big dog"]


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b""), ("a.txt", b"\xff\xfe\x00"), ("a.json", b"{"), ("a.json", b'{"x": 1}'), ("a.json", b"3")]
)
def test_bad_labels(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Problem, match=r"--labels .*a\."):
        labels(tmp_path / name)
    with pytest.raises(Problem, match="missing"):
        labels(tmp_path / "missing.txt")


def test_where_results_go(tmp_path):
    writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(Problem, match="--out"):
            writable(bad)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_tables_are_plain():
    text = table(["name", "n"], [["a", 1], ["bcd", "1,000"]])
    assert text == "name      n\na         1\nbcd   1,000"
    assert table(["a", "b"], []) == "a  b"
    assert cost(3, 0) == "3f"
    assert cost(3, 2) == "3f + 2b"


@pytest.fixture
def registered():
    """A method of somebody else, with an option of each kind."""

    @attribution.register("brightness_here", family="somebody", needs="gradient", paper="Nobody 2026", samples="count")
    class Brightness(Attributor):
        """The image itself, or :math:`x`.

        Args:
            count: How often
                it is looked at.
            mode: In which way.
        """

        count: Count = 6
        mode: Literal["plain", "odd"] = "plain"
        gain: float | None = None

        def compute(self, inputs, target):
            return Computed(inputs * (self.gain or 1.0), {})

        @classmethod
        def _cost(cls, options, shape):
            return options.count, 0

    yield Brightness
    REGISTRY.remove("brightness_here")


def test_a_registered_method_shows_up_with_its_options(run, registered, photo, nets, tmp_path):
    code, listed, _ = run("methods")
    row = next(line for line in listed.splitlines() if line.startswith("brightness_here"))
    assert row.split()[1:4] == ["somebody", "gradient", "6f"]
    assert code == 0
    code, text, _ = run("methods", "Brightness-Here")
    assert code == 0
    for part in ("Nobody 2026", "count=6    (int at least 1)", "How often it is looked at.", "mode=plain    (plain, odd)"):
        assert part in text
    assert "gain=none" in text
    assert ":math:" not in text
    words = ("explain", photo(), "-m", "somebody/*", "--model", f"{nets}:bright", "--size", 32, "--out", tmp_path / "out")
    code, text, err = run(*words, "-o", "gain=2.5", "-o", "count=2")
    assert code == 0, err
    found = attribution.Explanation.load(tmp_path / "out" / "photo-brightness_here.safetensors")
    assert found.params["gain"] == 2.5
    assert float(found.maps.max()) == pytest.approx(7.5, abs=0.01)
    code, _, _ = run(*words, "--budget", 4)
    assert code == 0
    assert attribution.Explanation.load(tmp_path / "out" / "photo-brightness_here.safetensors").params["count"] == 4
    assert torch.is_tensor(found.maps)


def test_lists(run, fails):
    code, text, _ = run("methods", "perturbation/*")
    assert code == 0
    names = [line.split()[0] for line in text.splitlines()[1:] if line.strip()]
    assert {"occlusion", "rise", "sobol"} <= set(names)
    assert "saliency" not in text
    code, text, _ = run("metrics")
    assert "insertion" in text
    assert "higher" in text
    _, text, _ = run("metrics", "insertion")
    assert "preset=rise-large" in text
    _, text, _ = run("methods", "rise")
    assert "tensor" not in text
    assert "masks=4000" in text
    assert "did you mean 'rise'" in fails("methods", "ris")
    assert "no method matches" in fails("methods", "*xyz*")
    assert "did you mean 'insertion'" in fails("metrics", "insert")

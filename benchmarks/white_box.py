"""Other libraries' gradients, paths and class activation maps on the same network, as rows for `benchmarks.speed`.

Each is called as its documentation says, and once more in batches of 4, the best size on two cores, where it can be told.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attriscope.attribution import Model
from torch import Tensor, nn

from .peers import TARGET, say
from .row import SETTINGS, Row

LAYER = "_conv_head"  # what is pooled in the demo's network
MANY = 16
SCHEMAS = torch.library.Library("torchvision", "FRAGMENT")


class Case:
    """The network as a user has it, and its images."""

    def __init__(self, model: Model, images: Tensor) -> None:
        assert isinstance(model.network, nn.Module)
        self.network = model.network.eval()
        mean, std = (torch.as_tensor(v)[:, None, None] for v in (model.mean, model.std))
        self.many = (images[torch.arange(MANY) % len(images)] - mean) / std
        self.one = self.many[:1]
        self.layer = self.network.get_submodule(LAYER)


def captum(case: Case) -> Iterator[Row]:
    """Captum's gradients, paths and relevance."""
    from captum import attr

    network, one, many = case.network, case.one, case.many
    row = functools.partial(Row, peer="captum")
    for method, made in (
        ("saliency", attr.Saliency(network)),
        ("input_x_gradient", attr.InputXGradient(network)),
        ("guided_backprop", attr.GuidedBackprop(network)),
        ("deconvnet", attr.Deconvolution(network)),
    ):
        call = functools.partial(made.attribute, many, target=TARGET)
        yield row(f"{type(made).__name__} ({MANY} img)", "gradient", call, backwards=MANY, method=method)
    lift = functools.partial(attr.DeepLift(network).attribute, many, target=TARGET)
    yield row(f"DeepLift ({MANY} img)", "relevance", lift, backwards=2 * MANY, method="deeplift")
    cam = functools.partial(attr.LayerGradCam(network, case.layer).attribute, many, target=TARGET)
    yield row(f"LayerGradCam ({MANY} img)", "cam", cam, backwards=MANY, method="grad_cam")
    path = functools.partial(attr.IntegratedGradients(network).attribute, one, target=TARGET)
    samples = SETTINGS["smoothgrad"]["samples"]
    noise = functools.partial(
        attr.NoiseTunnel(attr.Saliency(network)).attribute,
        one,
        nt_samples=samples,
        stdevs=0.5,
        target=TARGET,
        abs=False,
    )
    for how, call, method, family, n in (
        ("defaults", path, "integrated_gradients", "path", 50),
        ("batch of 4", functools.partial(path, internal_batch_size=4), "integrated_gradients", "path", 50),
        ("defaults", noise, "smoothgrad", "gradient", samples),
        ("batch of 4", functools.partial(noise, nt_samples_batch_size=4), "smoothgrad", "gradient", samples),
    ):
        label = "IntegratedGradients" if family == "path" else "NoiseTunnel"
        yield row(f"{label} ({how})", family, call, backwards=n, method=method)
    shap = functools.partial(
        attr.GradientShap(network).attribute, one, torch.cat([one * 0, one * 0 + 1]), n_samples=50, target=TARGET
    )
    yield row("GradientShap (50 samples)", "path", shap, backwards=50, method="gradient_shap")


def import_torchvision() -> None:
    """Import torchvision; beside a CPU build of torch it wants two schemas first, as in tests/conftest.py."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        SCHEMAS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        SCHEMAS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def grad_cam(case: Case) -> Iterator[Row]:
    """The package grad-cam."""
    import_torchvision()
    cams = importlib.import_module("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    for name, method, x in (
        ("GradCAM", "grad_cam", case.many),
        ("ScoreCAM", "score_cam", case.one),
        ("AblationCAM", "ablation_cam", case.one),
    ):
        made = getattr(cams, name)(case.network, [case.layer])
        call = functools.partial(made, x, [ClassifierOutputTarget(TARGET)] * len(x))
        yield Row(f"{name} ({len(x)} img)", "cam", call, peer="grad-cam", method=method)


def saliency(case: Case) -> Iterator[Row]:
    """The package saliency: guided and blurred paths, in arrays."""
    core = importlib.import_module("saliency.core")

    def gradients(images: Any, _: Any, expected_keys: Any = None) -> Any:
        x = torch.as_tensor(images, dtype=torch.float32).movedim(-1, 1).requires_grad_()
        (found,) = torch.autograd.grad(case.network(x)[:, TARGET].sum(), x)
        return {expected_keys[0]: found.movedim(1, -1).numpy()}

    pixels = case.one[0].movedim(0, -1).numpy()
    steps = SETTINGS["blur_ig"]["steps"]
    blur = functools.partial(core.BlurIG().GetMask, pixels, gradients, max_sigma=50, steps=steps, batch_size=4)
    yield Row(f"BlurIG ({steps} steps, batch of 4)", "path", blur, peer="saliency", method="blur_ig", backwards=steps)


PEERS: dict[str, Callable[[Case], Iterator[Row]]] = {"captum": captum, "grad-cam": grad_cam, "saliency": saliency}


def rows(model: Model, images: Tensor) -> list[Row]:
    """Every peer that can be had."""
    case = Case(model, images)
    found: list[Row] = []
    for name, make in PEERS.items():
        try:
            found += make(case)
        except Exception as error:  # noqa: BLE001 another library's troubles are no reason to stop
            say(name, error)
    return found

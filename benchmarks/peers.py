"""Other libraries' perturbation methods on the same network, as rows for `benchmarks.speed`.

Each is called as its documentation says, once as it comes (its own batch size) and once at a batch size that suits two
cores, with as many evaluations as ours. What a user would prepare once (superpixels, a wrapper around the network, an
explainer that serves many images) is prepared outside the timed call. Nothing is imported before it is asked for, and what
cannot be imported or set up is left out and named.
"""

import contextlib
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attriscope.attribution import Model, regions
from torch import Tensor, nn

from .row import SETTINGS, Row

TARGET = 0
GRAPH = 0.1  # GiB that autograd keeps for one image of the demo's network: 0.082 were seen, and some room


@dataclass
class Case:
    """One image and one network, as the peers want them."""

    network: nn.Module
    image: Tensor  # (1, C, H, W) in the model's bounds
    mean: Tensor
    std: Tensor
    labels: Tensor  # (1, H, W), 49 superpixels

    @classmethod
    def of(cls, model: Model, images: Tensor) -> "Case":
        """The network as the user has it."""
        assert isinstance(model.network, nn.Module)
        mean, std = (torch.as_tensor(v)[:, None, None] for v in (model.mean, model.std))
        labels = regions.make("slic", images[:1], model, n_regions=49)
        return cls(model.network.eval(), images[:1], mean, std, labels)

    @property
    def x(self) -> Tensor:
        """The image as the network gets it."""
        return (self.image - self.mean) / self.std

    @property
    def pixels(self) -> np.ndarray:
        """The image as arrays have it, `(H, W, C)`."""
        return self.image[0].permute(1, 2, 0).numpy()

    @property
    def grey(self) -> np.ndarray:
        """The mean colour everywhere: the baseline that is zero for the network."""
        return self.mean.expand(self.image.shape[1:]).permute(1, 2, 0).numpy().copy()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """What a library that thinks in arrays is given as the network: `(N, H, W, C)` to `(N, classes)`."""
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(batch)).float().permute(0, 3, 1, 2)
            return self.network((x - self.mean) / self.std).numpy()


def captum_ablation(case: Case) -> Iterator[Row]:
    """Captum's methods that fit no surrogate."""
    from captum import attr

    x, network = case.x, case.network
    regions: dict[str, Any] = {"feature_mask": case.labels[:, None], "target": TARGET}
    window: dict[str, Any] = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "target": TARGET}
    calls: list[tuple[str, str, functools.partial[Any]]] = [
        ("occlusion", "Occlusion", functools.partial(attr.Occlusion(network).attribute, x, **window)),
        (
            "feature_ablation",
            "FeatureAblation",
            functools.partial(attr.FeatureAblation(network).attribute, x, **regions),
        ),
        (
            "shapley_sampling",
            "ShapleyValueSampling",
            functools.partial(
                attr.ShapleyValueSampling(network).attribute,
                x,
                **regions,
                n_samples=SETTINGS["shapley_sampling"]["permutations"],
            ),
        ),
    ]
    for method, name, call in calls:
        yield from _captum(method, name, call)


def captum_surrogates(case: Case) -> Iterator[Row]:
    """Captum's methods that fit a linear model, for which it needs scikit-learn."""
    from captum import attr

    regions: dict[str, Any] = {"feature_mask": case.labels[:, None], "target": TARGET}
    for method, make in (("lime", attr.Lime), ("kernel_shap", attr.KernelShap)):
        samples = SETTINGS[method]["samples"]
        call = functools.partial(make(case.network).attribute, case.x, **regions, n_samples=samples)
        yield from _captum(method, make.__name__, call)


def _captum(method: str, name: str, call: functools.partial[Any]) -> Iterator[Row]:
    """At one perturbation per evaluation, its default, and at 16."""
    warm = functools.partial(call, n_samples=4) if "n_samples" in call.keywords else None  # scikit-learn is imported
    many = functools.partial(call, perturbations_per_eval=16)
    yield Row(f"{name} (defaults)", "perturbation", call, peer="captum", method=method, warm=warm)
    yield Row(f"{name} (batch of 16)", "perturbation", many, peer="captum", method=method, warm=warm)


def xplique(case: Case) -> Iterator[Row]:
    """Xplique's methods through its wrapper for torch networks, which keeps every forward's graph unless told not to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets
    from xplique import attributions, wrappers

    images = case.x.permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        classes = case.network(case.x).shape[1]
    target = np.eye(classes, dtype=np.float32)[TARGET : TARGET + 1]
    with warnings.catch_warnings(action="ignore"):  # that TensorFlow now runs eagerly
        kept, dropped = (wrappers.TorchWrapper(case.network, "cpu", requires_grad=g) for g in (True, False))

    def row(method: str, make: Callable[..., Any], small: dict[str, Any], how: str, wrapper: Any, **more: Any) -> Row:
        return Row(
            f"{make.__name__} ({how})",
            "perturbation",
            lambda: make(wrapper, **more).explain(images, target),
            peer="xplique",
            method=method,
            warm=lambda: make(wrapper, **{**more, **small}).explain(images, target),
        )

    rise, sobol, hsic = attributions.Rise, attributions.SobolAttributionMethod, attributions.HsicAttributionMethod
    few = {"nb_design": 2, "grid_size": 2, "batch_size": 4}
    methods: Sequence[tuple[str, Any, dict[str, Any], dict[str, Any], int]] = (
        ("rise", rise, {"nb_samples": SETTINGS["rise"]["masks"]}, {"nb_samples": 4}, 32),
        ("sobol", sobol, {"nb_design": SETTINGS["sobol"]["designs"]}, few, 256),
        ("hsic", hsic, {"nb_design": SETTINGS["hsic"]["designs"]}, {**few, "nb_design": 8}, 256),
    )
    for method, make, settings, small, size in methods:
        if available() > (need := size * GRAPH) + 1:
            yield row(method, make, small, "defaults", kept, **settings)
        else:
            say(f"xplique {make.__name__} (defaults)", f"graphs for its batch of {size} would take {need:.0f} GiB")
        if size > 32:
            yield row(method, make, small, "defaults, no graphs", dropped, **settings)
        yield row(method, make, small, "batch of 16", kept, batch_size=16, **settings)
        yield row(method, make, small, "batch of 16, no graphs", dropped, batch_size=16, **settings)


def lime(case: Case) -> Iterator[Row]:
    """The authors' LIME, at its default batch of 10."""
    from lime.lime_image import LimeImageExplainer

    labels = case.labels[0].numpy()

    def probabilities(batch: np.ndarray) -> np.ndarray:
        return torch.from_numpy(case.logits(batch)).softmax(1).numpy()

    def run(samples: int, **more: Any) -> Any:
        explainer = LimeImageExplainer(random_state=0)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            return explainer.explain_instance(
                case.pixels,
                probabilities,
                labels=(TARGET,),
                top_labels=None,  # one class, as ours: its default fits five
                num_samples=samples,
                segmentation_fn=lambda _image: labels,
                **more,
            )

    for how, more in (("defaults", {}), ("batch of 16", {"batch_size": 16})):
        yield Row(
            f"LimeImageExplainer ({how})",
            "perturbation",
            functools.partial(run, SETTINGS["lime"]["samples"], **more),
            peer="lime",
            method="lime",
            warm=functools.partial(run, 10),
        )


def shap(case: Case) -> Iterator[Row]:
    """The authors' KernelSHAP over superpixels and Owen values over halvings of the image.

    KernelExplainer asks for all coalitions at once and leaves it to the user to cut them into batches: its image example
    comes to 32.
    """
    import shap as library

    pixels, grey, labels = case.pixels, case.grey, case.labels[0].numpy()
    count = int(labels.max()) + 1

    def play(size: int, coalitions: np.ndarray) -> np.ndarray:
        scores = []
        for start in range(0, len(coalitions), size):
            keep = coalitions[start : start + size][:, labels][..., None] > 0.5
            scores.append(case.logits(np.where(keep, pixels, grey))[:, TARGET])
        return np.concatenate(scores)

    def kernel(size: int, samples: int) -> Any:
        explainer = library.KernelExplainer(functools.partial(play, size), np.zeros((1, count)))
        return explainer.shap_values(np.ones((1, count)), nsamples=samples, silent=True)

    for size in (32, 16):
        yield Row(
            f"KernelExplainer (batch of {size})",
            "perturbation",
            functools.partial(kernel, size, SETTINGS["kernel_shap"]["samples"]),
            peer="shap",
            method="kernel_shap",
            warm=functools.partial(kernel, size, 60),
        )
    explainer = library.PartitionExplainer(case.logits, library.maskers.Image(grey))

    def partition(evaluations: int, **more: Any) -> Any:
        return explainer(pixels[None], max_evals=evaluations, outputs=[TARGET], silent=True, **more)

    for how, more in (("defaults", {}), ("batch of 16", {"batch_size": 16})):
        yield Row(
            f"PartitionExplainer ({how})",
            "perturbation",
            functools.partial(partition, SETTINGS["shap_bpt"]["evaluations"], **more),
            peer="shap",
            method="shap_bpt",
            warm=functools.partial(partition, 20),  # numba compiles
        )


PEERS: dict[str, Callable[[Case], Iterator[Row]]] = {
    "captum (Occlusion, FeatureAblation, ShapleyValueSampling)": captum_ablation,
    "captum (Lime, KernelShap)": captum_surrogates,
    "xplique": xplique,
    "lime": lime,
    "shap": shap,
}
SKIPPED: dict[str, str] = {}  # what was left out, and why


def say(what: str, why: object) -> None:
    """Leave something out: named at once, and again below the table."""
    SKIPPED[what] = " ".join(f"{type(why).__name__}: {why}".split()) if isinstance(why, Exception) else str(why)
    print(f"left out: {what}: {SKIPPED[what]}", file=sys.stderr)


def rows(model: Model, images: Tensor) -> list[Row]:
    """Every peer that can be had."""
    case = Case.of(model, images)
    found: list[Row] = []
    for name, make in PEERS.items():
        try:
            found += make(case)
        except Exception as error:  # noqa: BLE001 another library's troubles are no reason to stop
            say(name, error)
    return found


def available() -> float:
    """Memory that is free for the asking, in GiB; infinite where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    return float("inf")

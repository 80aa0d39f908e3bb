"""Metrics, ours and other libraries', as rows for `benchmarks.speed`.

Ours score four maps that are there already; a metric that runs a method again runs `input_x_gradient`. DiFull makes grids of
the images, whose heads run on images of the bare network's size. What needs no network, brings its own, or shows it whole
grids is not here. Others get the same maps, images and number of evaluations, once as they come and once at a batch size that
suits two cores; what they evaluate is counted at the network.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from attriscope import attribution, metrics
from attriscope.metrics.metric import MapMetric, MethodMetric
from torch import Tensor

from . import peers, white_box
from .row import Row

IMAGES = 4
METHOD = "input_x_gradient"
FEW = {"road": {"percentages": (10, 30, 50, 70, 90)}, "sensitivity_max": {"samples": 5}}

__all__ = ["rows"]


def rows(model: attribution.Model, images: Tensor, *, others: bool) -> list[Row]:
    """Every metric that asks the network something."""
    x = images[torch.arange(IMAGES) % len(images)]
    maps = torch.rand(IMAGES, 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    asking = [n for n in metrics.available() if metrics.describe(n)["cost"] or metrics.describe(n)["explanations"]]
    asking = [n for n in asking if metrics.describe(n)["unit"] == "images" and n != "data_randomization"]  # it trains
    found = [ours(name, FEW.get(name, {}), model, x, maps) for name in asking]
    found += [grids(layer, model, images) for layer in ("input", "middle", "final")]
    found += [ours(name, {"preset": "rise"}, model, x[:1], maps[:1]) for name in ("insertion", "deletion")]
    if others:
        for library, make in PEERS.items():
            try:
                found += make(model, x, maps)
            except Exception as error:  # noqa: BLE001  another library's troubles are no reason to stop
                peers.say(library, error)
    return found


def ours(name: str, options: dict[str, Any], model: attribution.Model, x: Tensor, maps: Tensor) -> Row:
    """One of our metrics; its evaluations are counted while it warms up."""
    made = metrics.create(name, **options)
    method = attribution.create(METHOD, model)
    label = f"{name} ({', '.join(f'{k}={v}' for k, v in options.items()) or 'defaults'}, {len(x)} img)"

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # maps of noise may be undefined
            if isinstance(made, MethodMetric):
                return made.score(method, x, 0)
            assert isinstance(made, MapMetric)
            mask = torch.ones(len(x), *x.shape[2:], dtype=torch.bool)
            return made.score(model, x, maps, 0, annotations={"mask": mask})

    row = Row(label, "metrics", run, method=name if "preset" not in options else f"{name} rise")
    row.elsewhere = made.facts.family == "randomization" and name != "random_logit"

    def warm() -> None:
        with model.ledger(len(x)) as ledger:
            run()
        row.forwards, row.backwards = int(ledger.forwards.sum()), int(ledger.backwards.sum())

    row.warm = warm
    return row


def grids(layer: str, model: attribution.Model, images: Tensor) -> Row:
    """DiFull at a layer: the two heads of each grid."""
    method = attribution.create(METHOD, model)
    metric = metrics.DiFull(layer=layer)
    count = len(images) // 4
    labels = torch.arange(4).expand(count, 4)  # whatever the network names them
    made = metrics.Grids.of(images[: 4 * count].unflatten(0, (count, 4)), labels)
    row = Row(
        f"difull (layer={layer}, {len(made)} grids)",
        "metrics",
        lambda: metric.score(method, made),
        method=f"difull {layer}",
        elsewhere=True,
    )

    def warm() -> None:
        with model.ledger(2 * len(made)) as ledger:
            metric.score(method, made)
        row.forwards, row.backwards = int(ledger.forwards.sum()), int(ledger.backwards.sum())

    row.warm = warm
    return row


def quantus(model: attribution.Model, x: Tensor, maps: Tensor) -> Iterator[Row]:
    """Quantus on arrays, with the network as the user has it; it asks numpy for a function that numpy 2 calls otherwise."""
    if not hasattr(np, "trapz"):
        setattr(np, "trapz", np.trapezoid)  # noqa: B010  the name is gone from numpy's stubs too
    white_box.import_torchvision()
    import quantus as library

    ready, flat = _ready(model, x), maps.expand(-1, 3, -1, -1).numpy()
    given: dict[str, Any] = {
        "model": model.network, "x_batch": ready.numpy(), "y_batch": np.zeros(len(x), dtype=int), "a_batch": flat,
        "device": "cpu",
    }  # fmt: skip
    quiet: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    step = {"features_in_step": int(np.prod(x.shape[2:])) // 28}
    cases: list[tuple[str, str, Callable[[], Any]]] = [
        ("deletion", "PixelFlipping, 28 steps", lambda: library.PixelFlipping(**step, **quiet)),
        (
            "faithfulness_correlation",
            "FaithfulnessCorrelation",
            lambda: library.FaithfulnessCorrelation(nr_runs=100, **quiet),
        ),
        ("sensitivity_n", "SensitivityN", lambda: library.SensitivityN(**step, n_max_percentage=1.0, **quiet)),
    ]
    for method, name, make in cases:
        for batch in (64, 4):
            run = functools.partial(_run, make, given, batch)
            yield Row(f"{name} (batch of {batch})", "metrics", run, peer="quantus", method=method)


def _run(make: Callable[[], Any], given: dict[str, Any], batch: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()(**given, batch_size=batch)


def captum(model: attribution.Model, x: Tensor, maps: Tensor) -> Iterator[Row]:
    """Captum's infidelity and sensitivity."""
    from captum import attr
    from captum import metrics as library

    network = model.network
    assert isinstance(network, torch.nn.Module)
    ready = _ready(model, x)
    flat = maps.expand(-1, 3, -1, -1)

    @library.infidelity_perturb_func_decorator(multiply_by_inputs=False)  # type: ignore[untyped-decorator]  # captum has no types for it
    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn = 0.1 * torch.randn_like(inputs)
        return drawn, inputs - drawn

    samples = metrics.create("infidelity").params["samples"]
    for batch in (None, 4):
        more = {} if batch is None else {"max_examples_per_batch": batch}
        yield Row(
            f"infidelity ({'all at once' if batch is None else f'batch of {batch}'})",
            "metrics",
            functools.partial(
                library.infidelity, network, noise, ready, flat, target=0, n_perturb_samples=samples, **more
            ),
            peer="captum",
            method="infidelity",
        )
    explain = attr.InputXGradient(network).attribute
    draws = FEW["sensitivity_max"]["samples"]
    for batch in (None, 4):
        more = {} if batch is None else {"max_examples_per_batch": batch}
        yield Row(
            f"sensitivity_max ({'all at once' if batch is None else f'batch of {batch}'})",
            "metrics",
            functools.partial(library.sensitivity_max, explain, ready, target=0, n_perturb_samples=draws, **more),
            backwards=(draws + 1) * len(x),
            peer="captum",
            method="sensitivity_max",
        )


def grad_cam(model: attribution.Model, x: Tensor, maps: Tensor) -> Iterator[Row]:
    """ROAD of pytorch-grad-cam, which solves one image at a time on the CPU."""
    white_box.import_torchvision()
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    percentiles = list(FEW["road"]["percentages"])
    ready, flat = _ready(model, x), maps[:, 0].numpy()
    wanted = [ClassifierOutputSoftmaxTarget(0) for _ in x]
    made = ROADMostRelevantFirstAverage(percentiles=percentiles)
    yield Row(
        "ROAD (batch of 4)", "metrics", lambda: made(ready, flat, wanted, model.network), peer="grad-cam", method="road"
    )


def _ready(model: attribution.Model, x: Tensor) -> Tensor:
    """Images as the network gets them."""
    mean, std = (torch.as_tensor(v)[:, None, None] for v in (model.mean, model.std))
    return (x - mean) / std


PEERS: dict[str, Callable[[attribution.Model, Tensor, Tensor], Iterator[Row]]] = {
    "quantus": quantus,
    "captum (infidelity, sensitivity_max)": captum,
    "grad-cam (ROAD)": grad_cam,
}

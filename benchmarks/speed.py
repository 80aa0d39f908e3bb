"""How far every method and metric is from the bare network: `python -m benchmarks.speed`.

A row's limit is what its evaluations would take as nothing but calls of the network: the fastest of several batch sizes
of the fast copy, timed directly before and after the row in the same process, and the two averaged. The ratio is wall
time over that limit; rows and peers take turns for several rounds, and the median ratio is printed. A backward pass
counts as forward and input gradient together.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from attriscope import attribution, metrics
from attriscope.cli.models import load
from torch import Tensor, nn

SIZES = (2, 4, 8, 16)


@dataclass
class Row:
    """One thing to time."""

    name: str
    family: str
    run: Callable[[], Any]
    forwards: int
    backwards: int = 0
    peer: str = ""
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def bare(engine: nn.Module, x: Tensor, *, gradient: bool) -> float:
    """Seconds per image of the network alone, at its best batch size."""
    best = float("inf")
    for size in SIZES:
        batch = x[:1].expand(size, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(max(1, 16 // size)):
                if gradient:
                    leaf = batch.clone().requires_grad_()
                    with torch.enable_grad():
                        torch.autograd.grad(engine(leaf)[:, 0].sum(), leaf)
                else:
                    with torch.inference_mode():
                        engine(batch)
            best = min(best, (time.perf_counter() - start) / (max(1, 16 // size) * size))
    return best


def rows(model: attribution.Model, images: Tensor, *, family: str | None, peers: bool) -> list[Row]:
    """Every method and metric that takes long enough to be timed, and Captum where it has the same."""
    one = images[:1]
    settings: dict[str, dict[str, Any]] = {"rise": {"masks": 400}, "sobol": {"designs": 8}}
    batch = {"saliency": 16, "input_x_gradient": 16, "grad_cam": 16}
    found = []
    for name in attribution.available(model=model):
        facts = attribution.describe(name)
        method = attribution.create(name, model, **settings.get(name, {}))
        n = batch.get(name, 1)
        x = images[torch.arange(n) % len(images)]
        cost = method.cost((3, 224, 224), **method.params)
        label = f"{name} ({', '.join(f'{k}={v}' for k, v in settings.get(name, {}).items()) or 'defaults'}, {n} img)"
        run = lambda method=method, x=x: method.attribute(x, target=0)  # noqa: E731
        found.append(Row(label, facts["family"], run, cost.forwards * n, cost.backwards * n))
    maps = torch.rand(4, 1, 224, 224)
    four = images[torch.arange(4) % len(images)]
    for name in metrics.available():
        metric = metrics.create(name)
        run = lambda metric=metric: metric.score(model, four, maps, target=0)  # noqa: E731
        found.append(Row(f"{name} (28 steps, 4 img)", "metrics", run, 4 * metric.cost()))
        exact = metrics.create(name, preset="rise")
        run = lambda exact=exact: exact.score(model, one, maps[:1], target=0)  # noqa: E731
        found.append(Row(f"{name} (224 steps, 1 img)", "metrics", run, exact.cost()))
    if peers:
        found += captum_rows(model, images)
    return [r for r in found if family is None or r.family == family]


def captum_rows(model: attribution.Model, images: Tensor) -> list[Row]:
    """The same by Captum, on the network as a user has it."""
    from captum import attr

    network = model.network
    assert isinstance(network, nn.Module)
    network.eval()
    scale, shift = torch.tensor(model.std), torch.tensor(model.mean)
    x = (images - shift[:, None, None]) / scale[:, None, None]
    one = x[:1]
    many = x[torch.arange(16) % len(x)]
    window: dict[str, Any] = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "target": 0}
    return [
        Row(
            "IntegratedGradients (defaults)",
            "path",
            lambda: attr.IntegratedGradients(network).attribute(one, target=0),
            52,
            50,
            "captum",
        ),
        Row(
            "IntegratedGradients (batch of 4)",
            "path",
            lambda: attr.IntegratedGradients(network).attribute(one, target=0, internal_batch_size=4),
            52,
            50,
            "captum",
        ),
        Row(
            "Occlusion (defaults)",
            "perturbation",
            lambda: attr.Occlusion(network).attribute(one, **window),
            170,
            0,
            "captum",
        ),
        Row(
            "Occlusion (batch of 16)",
            "perturbation",
            lambda: attr.Occlusion(network).attribute(one, perturbations_per_eval=16, **window),
            170,
            0,
            "captum",
        ),
        Row(
            "Saliency (16 img)", "gradient", lambda: attr.Saliency(network).attribute(many, target=0), 16, 16, "captum"
        ),
        Row(
            "InputXGradient (16 img)",
            "gradient",
            lambda: attr.InputXGradient(network).attribute(many, target=0),
            16,
            16,
            "captum",
        ),
        Row(
            "LayerGradCam (16 img)",
            "cam",
            lambda: attr.LayerGradCam(network, network.get_submodule("_conv_head")).attribute(many, target=0),
            16,
            16,
            "captum",
        ),
    ]


def measure(found: list[Row], model: attribution.Model, images: Tensor, rounds: int) -> tuple[float, float]:
    """Time all rows in turn; the best bare times that were seen, forward and forward with gradient."""
    for row in found:
        if not row.peer:
            row.run()  # batch sizes are learnt here
    forward_engine, gradient_engine = (e for e in model._engines or () if isinstance(e, nn.Module))  # noqa: SLF001
    best = [float("inf"), float("inf")]

    def limits() -> tuple[float, float]:
        now = bare(forward_engine, images, gradient=False), bare(gradient_engine, images, gradient=True)
        best[0], best[1] = min(best[0], now[0]), min(best[1], now[1])
        return now

    for turn in range(rounds):
        before = limits()
        for row in found:
            start = time.perf_counter()
            row.run()
            seconds = time.perf_counter() - start
            after = limits()
            forward, both = ((b + a) / 2 for b, a in zip(before, after, strict=True))
            ideal = row.backwards * both + (row.forwards - row.backwards) * forward
            row.seconds.append(seconds)
            row.ratios.append(seconds / ideal)
            before = after
            print(f"round {turn + 1}/{rounds} {row.peer} {row.name}: {row.ratios[-1]:.2f}", file=sys.stderr)
    return best[0], best[1]


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | by | evaluations | seconds | over the limit | lowest and highest |", "|---|---|---|---|---|---|"]
    for row in found:
        evaluations = f"{row.forwards} f" + (f" + {row.backwards} b" if row.backwards else "")
        lines.append(
            f"| {row.name} | {row.peer or 'attriscope'} | {evaluations} | {statistics.median(row.seconds):.2f} "
            f"| **{statistics.median(row.ratios):.2f}** | {min(row.ratios):.2f} to {max(row.ratios):.2f} |"
        )
    return "\n".join(lines)


def peak(masks: int) -> float:
    """Peak memory of RISE with so many masks, in MiB, in a process of its own."""
    code = (
        "import torch, resource; from attriscope import attribution; from attriscope.cli.models import load; "
        "model = load('demo').model; model.batch_size = 4; model._start(); "
        f"attribution.create('rise', model, masks={masks}).attribute(torch.rand(1, 3, 224, 224), target=0); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.strip().splitlines()[-1])


def allocator() -> None:
    """Bare times by batch size with and without glibc's mmap threshold, and peak memory, each in its own process."""
    code = (
        "import json, resource, time, torch; from attriscope.cli.models import load; from benchmarks import speed; "
        "model = load('demo').model; x = torch.rand(16, 3, 224, 224); model.scores(x, 0); model.gradients(x[:4], 0); out = {}\n"
        "for size in (2, 4, 8, 16, 32):\n"
        "    speed.SIZES = (size,)\n"
        "    out[size] = [speed.bare(model._engines[0], x, gradient=False), speed.bare(model._engines[1], x, gradient=True)]\n"
        "print(json.dumps([out, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    raised = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
    print("| allocator | batch: ms per image, forward / with gradient | peak MiB |\n|---|---|---|")
    for name, more in (("default", {}), ("never returns memory", raised)):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **more}
        )
        times, most = json.loads(done.stdout.strip().splitlines()[-1])
        cells = ", ".join(f"{s}: {1e3 * f:.1f} / {1e3 * b:.1f}" for s, (f, b) in times.items())
        print(f"| {name} | {cells} | {most:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often every row is timed")
    parser.add_argument("--family", help="only this family: gradient, path, cam, perturbation, metrics")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave Captum out")
    parser.add_argument(
        "--memory", action="store_true", help="RISE's peak memory with 100 and with 8000 masks, instead"
    )
    parser.add_argument("--allocator", action="store_true", help="what glibc's allocator costs by batch size, instead")
    options = parser.parse_args()
    if options.memory:
        few, many = peak(100), peak(8000)
        print(f"RISE peaks at {few:.0f} MiB with 100 masks, at {many:.0f} MiB with 8000: {many - few:+.0f} MiB")
        return
    if options.allocator:
        allocator()
        return
    torch.manual_seed(0)
    model = load("demo").model
    images = torch.rand(16, 3, 224, 224)
    found = rows(model, images, family=options.family, peers=options.peers)
    forward, both = measure(found, model, images, options.rounds)
    print(table(found))
    print(
        f"\nbest bare times: {1e3 * forward:.1f} ms forward, {1e3 * both:.1f} ms with input gradient; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds, "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()

"""How far every method and metric is from the bare network: `python -m benchmarks.speed`.

A row's limit is what its evaluations would take as nothing but calls of the network, at the batch size and memory layout
that are fastest on this machine. Machines are noisy, so the limit is timed where the row runs: after each call of the
network that a row makes, the bare fast copy runs as many images, in its best batches, and that time is taken out of the
row's. The ratio is what is left of the row's wall time over the bare time, and the median over several rounds is printed.
A backward pass counts as forward and input gradient together, but for CAMs, whose backward pass ends at a late layer: they
are measured against their forwards alone.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from attriscope import attribution, metrics
from attriscope.cli.models import load
from torch import Tensor, nn

SIZES = (1, 2, 4, 8, 16)
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}


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


def once(engine: nn.Module, batch: Tensor, *, gradient: bool) -> None:
    """One bare call."""
    if gradient:
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = batch.clone().requires_grad_()
            torch.autograd.grad(engine.forward(leaf)[:, 0].sum(), leaf)
    else:
        with torch.inference_mode():
            engine.forward(batch)


def bare(engine: nn.Module, x: Tensor, *, gradient: bool, images: int = 32) -> dict[tuple[int, str], float]:
    """Seconds per image of the network alone by batch size and memory layout; each the median of three runs."""
    found = {}
    for size in SIZES:
        for name, layout in LAYOUTS.items():
            batch = x[:1].expand(size, -1, -1, -1).contiguous(memory_format=layout)
            runs = []
            for _ in range(3):
                start = time.perf_counter()
                for _ in range(max(1, images // size)):
                    once(engine, batch, gradient=gradient)
                runs.append((time.perf_counter() - start) / (max(1, images // size) * size))
            found[size, name] = statistics.median(runs)
    return found


class Limit:
    """Times the bare network between the calls of whatever is being timed."""

    def __init__(self, model: attribution.Model, x: Tensor) -> None:
        self.engines = [e for e in model._engines or () if isinstance(e, nn.Module)]  # noqa: SLF001
        self.best = []
        for gradient, engine in enumerate(self.engines):
            times = bare(engine, x, gradient=bool(gradient))
            size, layout = min(times, key=lambda k: times[k])
            batch = x[:1].expand(size, -1, -1, -1).contiguous(memory_format=LAYOUTS[layout])
            self.best.append((batch, times[size, layout], f"{size}, {layout}"))
        self.seconds = self.spent = 0.0

    @contextlib.contextmanager
    def beside(self, watched: list[tuple[nn.Module, bool]]) -> Iterator[None]:
        """Run bare images after every call of these modules; a module is watched for its gradients or its forwards."""
        self.seconds = self.spent = 0.0

        def hook(gradient: bool, out: Tensor) -> None:
            batch = self.best[gradient][0]
            times = max(1, round(len(out) / len(batch)))
            start = time.perf_counter()
            for _ in range(times):
                once(self.engines[gradient], batch, gradient=gradient)
            took = time.perf_counter() - start
            self.spent += took
            self.seconds += took * len(out) / (times * len(batch))

        handles = [m.register_forward_hook(lambda _m, _i, out, g=g: hook(g, out)) for m, g in watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def rows(model: attribution.Model, images: Tensor, *, family: str | None, peers: bool) -> list[Row]:
    """Every method and metric that takes long enough to be timed, and Captum where it has the same."""
    one = images[:1]
    settings: dict[str, dict[str, Any]] = {"rise": {"masks": 400}, "sobol": {"designs": 8}, "wcam": {"designs": 8}}
    batch = {"saliency": 16, "input_x_gradient": 16, "grad_cam": 16}
    found: list[Row] = []
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


def measure(found: list[Row], model: attribution.Model, images: Tensor, rounds: int) -> Limit:
    """Time all rows in turn."""
    for row in found:
        if not row.peer:
            row.run()  # batch sizes are learnt here
    limit = Limit(model, images)
    forward, gradient = limit.engines
    trunk = model.split(model.auto_layer())[0]._engines  # noqa: SLF001
    network = model.network
    assert isinstance(network, nn.Module)
    for turn in range(rounds):
        for row in found:
            watched: list[tuple[nn.Module, bool]] = [(forward, False), (gradient, True)]
            if row.family == "cam" and trunk is not None:
                watched = [(m, False) for m in trunk[:1] if isinstance(m, nn.Module)]
            if row.peer:
                watched = [(network, row.backwards > 0 and row.family != "cam")]
            with limit.beside(watched):
                start = time.perf_counter()
                row.run()
                seconds = time.perf_counter() - start - limit.spent
            row.seconds.append(seconds)
            row.ratios.append(seconds / limit.seconds)
            print(f"round {turn + 1}/{rounds} {row.peer} {row.name}: {row.ratios[-1]:.2f}", file=sys.stderr)
    return limit


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


def allocator(rounds: int) -> None:
    """Bare times by batch size with and without glibc's mmap threshold, and peak memory, each in its own process."""
    code = (
        "import json, resource, torch; from attriscope.cli.models import load; from benchmarks import speed; "
        "model = load('demo').model; x = torch.rand(16, 3, 224, 224); model.scores(x, 0); model.gradients(x[:4], 0); "
        "speed.LAYOUTS.pop('contiguous'); speed.SIZES = (2, 4, 8, 16, 32); engines = model._engines; "
        "found = [speed.bare(e, x, gradient=g) for g, e in enumerate(engines)]; "
        "out = {size: [f[size, 'channels last'] for f in found] for size in speed.SIZES}; "
        "print(json.dumps([out, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    raised = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
    print("| allocator | batch: ms per image, forward / with gradient | peak MiB |\n|---|---|---|")
    settings: dict[str, dict[str, str]] = {"default": {}, "never returns memory": raised}
    best: dict[str, dict[str, list[float]]] = {name: {} for name in settings}
    peaks = dict.fromkeys(settings, 0.0)
    for _ in range(rounds):  # in turns, and the best of each: machines are noisy
        for name, more in settings.items():
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **more}
            )
            times, most = json.loads(done.stdout.strip().splitlines()[-1])
            for size, pair in times.items():
                old = best[name].get(size, pair)
                best[name][size] = [min(a, b) for a, b in zip(old, pair, strict=True)]
            peaks[name] = max(peaks[name], most)
    for name, times in best.items():
        cells = ", ".join(f"{s}: {1e3 * f:.1f} / {1e3 * b:.1f}" for s, (f, b) in times.items())
        print(f"| {name} | {cells} | {peaks[name]:.0f} |")


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
        allocator(options.rounds)
        return
    torch.manual_seed(0)
    model = load("demo").model
    images = torch.rand(16, 3, 224, 224)
    found = rows(model, images, family=options.family, peers=options.peers)
    limit = measure(found, model, images, options.rounds)
    print(table(found))
    (_, forward, at), (_, both, both_at) = limit.best
    print(
        f"\nbest bare times per image: {1e3 * forward:.1f} ms forward (batch of {at}), {1e3 * both:.1f} ms with input "
        f"gradient (batch of {both_at}); "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds, "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()

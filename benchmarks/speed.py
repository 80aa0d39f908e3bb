"""How far every method and metric is from the bare network: `python -m benchmarks.speed`.

A row's limit is what its evaluations would take as nothing but calls of the network, at the batch size and memory layout
that are fastest on this machine. Machines are noisy, so the limit is timed where the row runs: after each call of the
network that a row makes, the bare fast copy runs as many images, in its best batches, and that time is taken out of the
row's. The ratio is what is left of the row's wall time over the bare time, and the median over several rounds is printed.
A backward pass counts as forward and input gradient together, but for CAMs, whose backward pass ends at a late layer: they
are measured against their forwards alone, and Ablation-CAM against bare passes of what follows the layer. What runs other
networks of this one's size, heads of grids and randomized copies, has its limit timed right after it.

Other libraries run the network as the user has it, and their evaluations are counted there. Each of their rows is timed
right after ours, and a second table says how many times faster ours is, from the seconds of the same round.
"""

import argparse
import contextlib
import fnmatch
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from attriscope import attribution
from attriscope.cli.models import load
from torch import Tensor, nn

from . import peers, scoring, white_box
from .row import SETTINGS, Row

SIZES = (1, 2, 4, 8, 16)
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
MANY = 16  # images of one row, for what takes a pass or two for each
FEW = 40  # evaluations: what takes fewer is run on many images


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
        self.images = 0

    def beat(self, n: int, *, gradient: bool) -> None:
        """Run as many bare images as the row just ran, or nearly so."""
        if not n:
            return
        batch = self.best[gradient][0]
        times = max(1, round(n / len(batch)))
        start = time.perf_counter()
        with torch._C.DisableTorchFunction():  # noqa: SLF001  a method's rules on operations are not for the bare network
            for _ in range(times):
                once(self.engines[gradient], batch, gradient=gradient)
        took = time.perf_counter() - start
        self.images += n
        self.spent += took
        self.seconds += took * n / (times * len(batch))

    @contextlib.contextmanager
    def beside(self, watched: "list[tuple[nn.Module, bool]] | attribution.Model") -> Iterator[None]:
        """Run bare images after every call of these modules; a module is watched for its gradients or its forwards.

        A compiled network has no modules to watch, so a model may stand here, for its forwards: it tells how many.
        """
        self.seconds = self.spent = 0.0
        self.images = 0
        with contextlib.ExitStack() as stack:
            if isinstance(watched, attribution.Model):
                stack.enter_context(watched.listen(functools.partial(self.beat, gradient=False)))
            else:
                for module, gradient in watched:
                    hook = lambda _m, _i, out, g=gradient: self.beat(len(out), gradient=g)  # noqa: E731
                    stack.callback(module.register_forward_hook(hook).remove)
            yield


def rows(
    model: attribution.Model,
    images: Tensor,
    *,
    family: str | None,
    others: bool,
    compiled: dict[str, attribution.Model],
) -> list[Row]:
    """Every method and metric that takes long enough to be timed, and other libraries where they have the same."""
    found: list[Row] = []
    for name in attribution.available(model=model):
        if attribution.describe(name)["family"] == "layer":  # others' methods on what follows a layer
            continue
        found.append(ours(name, model, images))
        for backend, other in compiled.items():
            if found[-1].family == "perturbation" and name in attribution.available(model=other):
                found.append(ours(name, other, images, backend=backend))
    if family in {None, "metrics"}:
        found += scoring.rows(model, images, others=others)
    if others and family != "metrics":
        found += white_box.rows(model, images)
        if family in {None, "perturbation"}:  # they take long to import
            found += peers.rows(model, images)
    found = [r for r in found if family is None or r.family == family]
    place = {r.method: i for i, r in reversed(list(enumerate(found))) if r.method}
    # what is compared is timed side by side, and what has nothing to be compared with stays where it was
    order = sorted(range(len(found)), key=lambda i: place.get(found[i].method, i))
    return [found[i] for i in order]


def ours(name: str, model: attribution.Model, images: Tensor, *, backend: str = "") -> Row:
    """One of our methods; how many evaluations it takes is counted while it warms up, since some depend on the image."""
    options = SETTINGS.get(name, {})
    n = MANY if sum(attribution.attributor.REGISTRY.find(name).cost(**options)) < FEW else 1
    x = images[torch.arange(n) % len(images)]
    method = attribution.create(name, model, **options)
    label = f"{name} ({', '.join(f'{k}={v}' for k, v in options.items()) or 'defaults'}, {n} img"
    row = Row(
        label + (f", {backend})" if backend else ")"),
        attribution.describe(name)["family"],
        lambda: method.attribute(x, target=0),
        method=name,
        backend=backend,
    )

    def warm() -> None:
        explained = method.explain(x, target=0)
        row.forwards, row.backwards = int(explained.forwards.sum()), int(explained.backwards.sum())

    row.warm = warm
    return row


def measure(
    found: list[Row], model: attribution.Model, images: Tensor, rounds: int, compiled: dict[str, attribution.Model]
) -> Limit:
    """Time all rows in turn. A peer that fails is left out, and its row taken away."""
    for row in list(found):
        with left_out(row, found):
            if row.warm is not None:
                row.warm()
            elif not row.peer:
                row.run()  # batch sizes are learnt here
    limit = Limit(model, images)
    forward, gradient = limit.engines
    trunk, head = model.split(model.auto_layer())
    features = trunk.outputs(images)
    head.scores(features, 0)
    head.gradients(features[:4], 0)
    after = Limit(head, features)
    network = model.network
    assert isinstance(network, nn.Module)
    for turn in range(rounds):
        for row in list(found):
            watched: list[tuple[nn.Module, bool]] | attribution.Model = [(forward, False), (gradient, True)]
            if row.method.endswith("full_grad"):  # which needs the batch norms
                watched = [(model._twin, True)]  # type: ignore[list-item]  # noqa: SLF001
            if row.family == "cam" and row.method != "score_cam":
                trunks = [pair[0] for pair in model._splits.values()]  # noqa: SLF001
                watched = [(m, False) for t in trunks for m in (t._engines or ())[:1] if isinstance(m, nn.Module)]  # noqa: SLF001
            if row.peer:
                watched = [(network, row.backwards > 0 and row.family != "cam")]
            elif row.backend:
                watched = compiled[row.backend]
            timer = limit
            if row.method == "ablation_cam" and not row.peer:  # it runs what follows the layer
                timer, watched = after, [(after.engines[0], False)]
            if row.method == "iia":
                timer, watched = after, [(after.engines[1], True)]
            with left_out(row, found), timer.beside([] if row.elsewhere else watched):
                start = time.perf_counter()
                row.run()
                seconds = time.perf_counter() - start - timer.spent
                if row.elsewhere:
                    timer.beat(row.backwards, gradient=True)
                    timer.beat(row.forwards - row.backwards, gradient=False)
                if row.peer:
                    row.forwards = timer.images
                row.seconds.append(seconds)
                row.ratios.append(seconds / timer.seconds)
                print(f"round {turn + 1}/{rounds} {row.peer} {row.name}: {row.ratios[-1]:.2f}", file=sys.stderr)
    return limit


@contextlib.contextmanager
def left_out(row: Row, found: list[Row]) -> Iterator[None]:
    """Go on without a peer that fails; ours may not."""
    try:
        yield
    except Exception as error:
        if not row.peer:
            raise
        peers.say(f"{row.peer} {row.name}", error)
        found.remove(row)


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


def faster(found: list[Row]) -> str:
    """How many times faster ours is than each peer, and with a compiled network than with torch, as Markdown.

    Evaluations differ where a method needs fewer for the same map, or a peer runs more than was asked for, so the seconds of
    a round are compared for each evaluation, and once more for the whole map. Where other work on the machine slows one of
    two rows, seconds mislead; what is said of the limits, which were timed inside each row, then holds better.
    """
    lines = [
        "| method | than | evaluations | seconds | times faster per evaluation | lowest and highest | per map | by limits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = {r.method: r for r in found if r.method and not r.peer and not r.backend}
    for row in found:
        other = plain.get(row.method)
        if other is None or row is other:
            continue
        quick, slow = (other, row) if row.peer else (row, other)
        maps = [s / q for s, q in zip(slow.seconds, quick.seconds, strict=True)]
        times = [m * quick.evaluations / slow.evaluations for m in maps]
        limits = [s / q for s, q in zip(slow.ratios, quick.ratios, strict=True)]
        lines.append(
            f"| {quick.name} | {f'{slow.peer} {slow.name}' if slow.peer else 'the same on torch'} "
            f"| {quick.evaluations}, {slow.evaluations} "
            f"| {statistics.median(quick.seconds):.2f}, {statistics.median(slow.seconds):.2f} "
            f"| **{statistics.median(times):.2f}** | {min(times):.2f} to {max(times):.2f} "
            f"| {statistics.median(maps):.2f} | {statistics.median(limits):.2f} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


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
    parser.add_argument(
        "--family", help="only this family: gradient, path, region, cam, relevance, perturbation, subset, metrics"
    )
    parser.add_argument("--only", default="*", help="only methods and metrics of this name, a pattern such as difull*")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="other libraries too, those of benchmarks/requirements-peers.txt as far as they are installed",
    )
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        choices=("onnx", "openvino"),
        help="perturbation methods also with the network compiled by this; may be given twice",
    )
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
    compiled = {
        name: attribution.Model(model.network, mean=model.mean, std=model.std, backend=name) for name in options.backend
    }
    found = rows(model, images, family=options.family, others=options.peers, compiled=compiled)
    found = [r for r in found if fnmatch.fnmatch(r.method, options.only)]
    if not found:
        parser.error(f"nothing that is timed is called {options.only!r}")
    limit = measure(found, model, images, options.rounds, compiled)
    print(table(found))
    if comparison := faster(found):
        print(f"\n{comparison}")
    if peers.SKIPPED:
        print("\nleft out: " + "; ".join(f"{what} ({why})" for what, why in peers.SKIPPED.items()))
    (_, forward, at), (_, both, both_at) = limit.best
    print(
        f"\nbest bare times per image: {1e3 * forward:.1f} ms forward (batch of {at}), {1e3 * both:.1f} ms with input "
        f"gradient (batch of {both_at}); "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds, "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()

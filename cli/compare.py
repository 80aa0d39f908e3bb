"""The command `compare`: a study of what was typed, or of what a TOML file says, with its figures and its report."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
from attriscope import metrics, visualization
from attriscope.attribution._parameters import parameters
from attriscope.metrics import configuration, photographs
from attriscope.metrics import metric as judges
from attriscope.metrics._where import Where
from attriscope.metrics.configuration import Configuration
from attriscope.metrics.inputs import source
from attriscope.metrics.photographs import Gallery

from .problems import Problem, Stopped, explained, one_line, say
from .run import Request, Setup, look, prepare, save_figure, tell
from .tables import cost, table

COLUMNS = 16  # methods in a figure of all
METRICS = ("insertion", "deletion")
SHOWN = 12  # images in compare.png
FILES = "summary.csv, scores.csv, costs.csv, and study.toml, which runs it again"

__all__ = ["Options", "compare", "origin", "run_study", "summary_table", "write_study"]


@dataclass
class Options:
    """What was typed behind `compare`; `None` and nothing where nothing was."""

    images: Sequence[Path]
    methods: Sequence[str] = ()
    out: Path | None = None
    model: str | None = None
    metrics: Sequence[str] = ()
    settings: Sequence[str] = ()
    preset: str | None = None
    labels: Path | None = None
    target: str | None = None
    budget: int | None = None
    size: int | None = None
    backend: str | None = None
    limit: int | None = None
    baselines: Sequence[str] = ()
    annotations: Path | None = None
    jobs: int | None = None
    dask: str | None = None
    report: bool | None = None


@dataclass
class _Plan:
    """A request, and how it is run."""

    request: Request
    file: Configuration
    jobs: int
    block: int
    dask: str | None
    report: bool


def compare(typed: Options) -> None:
    """Run methods and metrics on the images, write the study, its figures and its report, and print the summary.

    Raises:
        Problem: Something is wrong.
        Stopped: Ctrl-C.
    """
    plan = _from_file(typed) if any(p.suffix.lower() == ".toml" for p in typed.images) else _from_typed(typed)
    out = plan.request.out
    try:
        setup = prepare(plan.request, opened=False)
        _whole(plan, setup)
        with _workers(plan.dask):
            study = run_study(
                setup, out, budget=plan.request.budget, limit=plan.request.limit, jobs=plan.jobs, block=plan.block,
                baselines=_baselines(plan.request.baselines, setup), annotations=_annotations(plan.request, setup),
                origin=origin(plan.request), fingerprint=plan.file.model.get("fingerprint"),
            )  # fmt: skip
        print(summary_table(study))
        _told(study)
        files = write_study(study, setup, out, report=plan.report)
    except KeyboardInterrupt as error:
        raise Stopped(f"stopped; what was finished is in {out}, and the same command goes on from there") from error
    print(f"\nIn {out}: {', '.join(files)}, {FILES}\n(in Python: attriscope.metrics.Study.load).")


# -- what is asked for -------------------------------------------------------------------------------------------------


def _from_typed(typed: Options) -> _Plan:
    if typed.out is None:
        raise Problem("Missing option '--out' (see attriscope compare --help)")
    if not typed.methods:
        raise Problem("Missing option '--method' / '-m' (see attriscope compare --help)")
    request = _request(typed, typed.out, images=typed.images, metrics=typed.metrics or METRICS)
    return _plan(typed, request, Configuration())


def _from_file(typed: Options) -> _Plan:
    """What a TOML file says, with what was typed beside it.

    Raises:
        Problem: The file cannot be understood, or does not say enough.
    """
    path = next(p for p in typed.images if p.suffix.lower() == ".toml")
    if len(typed.images) > 1:
        raise Problem(f"{path} says itself which images: give it alone")
    with explained():
        file = configuration.read(path)
    told = file.study
    written = bool(file.versions)  # by a run, which lies beside it
    out = typed.out or (Path(told["out"]) if "out" in told else path.parent if written else None)
    if out is None:
        raise Problem(f"{path} does not say where results go: give --out DIR, or out = '...' in its [study]")
    if "images" not in told:
        raise Problem(f"{path} does not say which images: give images = ['folder'] in its [study]")
    if not (typed.methods or file.methods or any(k.startswith("methods.") for k in file.omitted)):
        raise Problem(f"{path} names no methods: give methods = ['rise', ...] in it, or -m")
    if written and typed.model is None and "model" not in told:
        raise Problem(f"{path} does not say which model: the study was run from Python; give --model")
    request = _request(
        typed,
        out,
        images=[Path(p) for p in told["images"]],
        metrics=typed.metrics or (() if file.metrics else METRICS),
        model=typed.model or told.get("model", "demo"),
        labels=typed.labels or _path(told.get("labels")),
        target=typed.target if typed.target is not None else _target(told.get("target")),
        annotations=typed.annotations or _path(told.get("annotations")),
        baselines=typed.baselines or told.get("baselines", ()),
        **{k: told.get(k) if getattr(typed, k) is None else getattr(typed, k) for k in ("budget", "size", "backend", "limit")},
        preset=typed.preset or told.get("preset"),
        mild=typed.preset is None,
        labelled=file.methods,
        judged=file.metrics,
    )
    return _plan(typed, request, file)


def _request(typed: Options, out: Path, **told: Any) -> Request:
    own = {k: v for k, v in vars(typed).items() if k not in {"jobs", "dask", "report", "out", *told}}
    own = {k: v for k, v in own.items() if k != "model" or v is not None}
    return Request(out=out, **own, **told)


def _plan(typed: Options, request: Request, file: Configuration) -> _Plan:
    told = file.study
    dask = typed.dask or told.get("dask")
    jobs = typed.jobs if typed.jobs is not None else told.get("jobs", 1 if dask is None else -1)
    if jobs == 0:
        raise Problem("--jobs 0: give a number of processes, or -1 for one on each core")
    report = typed.report if typed.report is not None else told.get("report", True)
    return _Plan(request, file, jobs, told.get("block", 8), dask, report)


def _path(told: str | None) -> Path | None:
    return None if told is None else Path(told)


def _target(told: Any) -> str | list[Any] | None:
    return told if told is None or isinstance(told, list) else str(told)


def _whole(plan: _Plan, setup: Setup) -> None:
    """What a file could not hold must be given beside it.

    Raises:
        Problem: It is not.
    """
    tables = {"methods": setup.chosen, "metrics": setup.judges}
    typed = {"methods": bool(plan.request.methods), "metrics": bool(plan.request.metrics)}
    missing = {}
    for place, what in plan.file.omitted.items():
        kind, _, rest = place.partition(".")
        label, _, option = rest.rpartition(".")
        choice = tables.get(kind, {}).get(label)
        given = getattr(plan.request, rest, None) is not None if kind == "study" else typed[kind]
        if not given and not (choice is not None and option in choice.options):
            missing[place] = what
    with explained():
        replace(plan.file, omitted=missing).complete()


def _baselines(given: Sequence[str], setup: Setup) -> list[Any] | None:
    """The baselines that metrics are scored under.

    Raises:
        Problem: There is no such baseline, or no metric that has one.
    """
    if not given:
        return None
    having = [j for j in setup.judges.values() if "baseline" in parameters(j.cls)]
    if not having:
        raise Problem(f"--baseline {given[0]}: none of {', '.join(setup.judges)} has a baseline")
    with explained("--baseline: "):
        return [parameters(having[0].cls)["baseline"].parse(b) for b in dict.fromkeys(given)]


def _annotations(request: Request, setup: Setup) -> dict[str, Any] | None:
    """Where the objects are, by file name; files of masks lie beside the file that names them.

    Raises:
        Problem: The file cannot be read, or is something else; a metric was asked for that needs one.
    """
    path = request.annotations
    if path is None:
        needing = [k for k, j in setup.judges.items() if j.asked and "annotations" in j.cls.facts.needs]
        if needing:
            raise Problem(
                f"--metric {needing[0]} needs to know where the object is: give --annotations FILE, JSON such as "
                '{"cat.jpg": {"boxes": [[left, top, right, bottom]]}}'
            )
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Problem(f"--annotations {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise Problem(f"--annotations {path} is no JSON: {error}") from error
    if not isinstance(told, dict) or not all(isinstance(v, dict) for v in told.values()):
        raise Problem(f'--annotations {path} must be {{"cat.jpg": {{"boxes": [[left, top, right, bottom], ...]}}, ...}}')
    for entry in told.values():
        if isinstance(entry.get("mask"), str):
            entry["mask"] = str(path.parent / entry["mask"])
    with explained(f"--annotations {path}: "):
        Where(told, setup.preparation).complete(setup.paths[: request.limit])
    return told


def origin(request: Request) -> dict[str, Any]:
    """What a run's TOML says of where all came from; how it was run is no part of it."""
    target: Any = request.target
    if isinstance(target, str) and target.strip().lstrip("+-").isdigit():
        target = int(target)
    told = {
        "model": request.model, "images": list(map(str, request.images)), "limit": request.limit, "target": target,
        "size": request.size, "labels": request.labels, "annotations": request.annotations, "backend": request.backend,
    }  # fmt: skip
    return {k: v for k, v in told.items() if v is not None}


# -- running it --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(address: str | None) -> Iterator[None]:
    """Where joblib's processes are: here, or on a Dask cluster.

    Raises:
        Problem: There is no cluster, or Dask is not installed.
    """
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise Problem(f"--dask {address} needs a package that is not installed: pip install 'attriscope[dask]'") from error
    try:
        client = Client(address, timeout=10)  # type: ignore[no-untyped-call]  # Dask has no types for it
    except (OSError, ValueError, TypeError) as error:  # a timeout is an OSError
        raise Problem(f"--dask {address}: no scheduler answers there ({type(error).__name__})") from error
    with client, joblib.parallel_config("dask"):
        yield


def run_study(setup: Setup, out: Path, *, fingerprint: str | None = None, **more: Any) -> metrics.Study:
    """All methods and metrics of a setup.

    Args:
        setup: What was asked for.
        out: The study's folder.
        fingerprint: Of the model that a file was written with.
        more: Arguments of `metrics.compare`.

    Raises:
        Problem: Something is wrong.
    """
    with explained():
        first = next(source(setup.paths, setup.model, preparation=setup.preparation).blocks(1))
    look(setup, first.images)
    _layers_are_there(setup)
    if fingerprint is not None and setup.model.fingerprint != fingerprint:
        say(f"--model {setup.spec} is not the model that the file was written with (its weights or its preparation differ)")
    asked: dict[str, Any] = {
        # a pattern that finds one name lets `compare` leave it out where it does not run
        n: (c.name if c.asked else f"{c.family}/{c.name}", c.options) for n, c in setup.chosen.items()
    }
    scored: dict[str, Any] = {}
    for label, choice in setup.judges.items():
        lacking = "annotations" in choice.cls.facts.needs and more.get("annotations") is None
        scored[label] = f"{choice.family}/{choice.name}" if lacking and not choice.asked else choice
    with explained():
        made = {n: c if isinstance(c, str) else judges.create(c.name, **c.options) for n, c in scored.items()}
        return metrics.compare(
            setup.model,
            setup.paths,
            setup.target,
            attributors=asked,
            metrics=made,
            out=out,
            classes=setup.classes or None,
            preparation=setup.preparation,
            progress=sys.stderr.isatty(),
            **more,
        )


def _layers_are_there(setup: Setup) -> None:
    """A layer that was typed wrong is told now, and not in the morning as a method that failed on every image.

    Raises:
        Problem: There is no such layer.
    """
    for label, choice in setup.chosen.items():
        layer = choice.options.get("layer")
        if not isinstance(layer, str) or layer in {"auto", "input"}:
            continue
        try:
            setup.model.layout(layer)
        except ValueError as error:  # one that hands on no map may be right for a method
            if str(error).startswith("no layer "):
                raise Problem(f"{label}: {one_line(error)}") from error


def _told(study: metrics.Study) -> None:
    """Who was left out, what could not be read, and what failed."""
    tell(study.left_out)
    for name, reason in study.skipped.items():
        say(f"left out {name}: {reason}")
    groups: dict[tuple[str, str], list[str]] = {}
    for (image, what), reason in study.failed.items():
        groups.setdefault((what, reason), []).append(image)
    for (what, reason), images in groups.items():
        few = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
        say(f"{what} failed on {len(images)} of {len(study)} images ({few}): {reason}; the same command tries again")


# -- what is made of it ------------------------------------------------------------------------------------------------


def write_study(study: metrics.Study, setup: Setup, out: Path, *, report: bool = False) -> list[str]:
    """The figures of a study, and its report; their names."""
    files = ["compare.png"]
    best = None
    if len(study.methods) > COLUMNS:
        best = list(study.leaderboard().index[:COLUMNS])
        say(f"compare.png and curves.png show the {COLUMNS} best of {len(study.methods)} methods; the report has all")
    with explained():
        save_figure(visualization.side_by_side(study, methods=best, **_drawn_over(study, setup)), out / files[0])
    if study.curves:
        files.append("curves.png")
        save_figure(visualization.curves(study, methods=best), out / files[1])
    if report:
        with explained():
            visualization.report(study, out / "report.html")
        files.append("report.html")
    return files


def _drawn_over(study: metrics.Study, setup: Setup) -> Mapping[str, Any]:
    """The photographs that a figure shows, if they are all still there: otherwise it shows what the model saw of them."""
    files = dict(zip(photographs.names(setup.paths), setup.paths, strict=True))
    names = study.names[:SHOWN]
    if not set(names) <= set(files):
        return {}
    try:
        shown = photographs.read([files[n] for n in names], setup.preparation)
    except (OSError, ValueError):
        return {}
    padded = [*shown, *[shown[-1]] * (len(study) - len(shown))]  # those behind are not drawn
    return {"photographs": Gallery(padded), "boxes": [p.reduced() for p in padded]}


def summary_table(study: metrics.Study) -> str:
    """A study's summary as text, one block for each metric."""
    summary = study.summary()
    blocks = []
    for name, facts in study.metrics.items():
        better = "higher is better" if facts["higher_is_better"] else "lower is better"
        rows = [
            [
                str(method), f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}",
                "-" if row["rank"] != row["rank"] else f"{row['rank']:.0f}", int(row["images"]),
                cost(row["forwards"], row["backwards"]), f"{row['seconds']:.2f}",
            ]
            for method, row in summary.loc[[name]].droplevel("metric").iterrows()
        ]
        head = ["method", "mean", "95% interval", "rank", "images", "cost", "seconds"]
        blocks.append(f"{name} ({better}), mean over {len(study)} image{'' if len(study) == 1 else 's'}\n{table(head, rows)}")
    paid = f"{study.paid:,} evaluations were paid; each method and metric alone would have paid {study.alone:,}."
    return "\n\n".join([*blocks, f"cost and seconds: of the method alone, per image (f: forward, b: backward).\n{paid}"])

"""The commands `explain` and `compare`, and which methods run on a model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attriscope import metrics, visualization
from attriscope.attribution import attributor as methods
from attriscope.attribution._files import atomic
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.explanation import Explanation
from attriscope.attribution.model import Model
from attriscope.attribution.targets import Target
from attriscope.metrics import metric as judges
from attriscope.metrics import photographs
from attriscope.metrics.photographs import Gallery, Photograph
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import models, options
from .options import Choice
from .overlay import overlay
from .problems import Problem, explained, one_line, say
from .tables import cost, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "integrated_gradients"  # of `explain` where none is named: it runs on any network and takes some seconds
DPI = 130, 300  # of figures: the least, and the most that a large photograph is drawn with

__all__ = [
    "METHOD", "Request", "Session",
    "compare", "explain", "heatmap", "report", "run_study", "save_figure", "start", "suit", "summary_table", "write_overlay",
    "write_study",
]


@dataclass
class Request:
    """What was typed, the same for both commands."""

    images: Sequence[Path]
    methods: Sequence[str]
    out: Path
    model: str = "demo"
    metrics: Sequence[str] = ()
    settings: Sequence[str] = ()
    preset: str | None = None
    labels: Path | None = None
    target: str | None = None
    budget: int | None = None
    size: int | None = None
    backend: str | None = None


@dataclass
class Session:
    """Everything checked, and nothing run but one forward of each image."""

    model: Model
    photos: list[Photograph]
    images: Tensor
    target: Target
    predicted: Tensor | None
    probabilities: Tensor
    chosen: dict[str, Choice]
    judges: dict[str, Choice]
    classes: list[str] = field(default_factory=list)

    def class_name(self, image: int) -> str:
        """What is explained of an image."""
        index = self.index(image)
        return self.classes[index] if index < len(self.classes) else f"class {index}"

    def index(self, image: int) -> int:
        """Its number."""
        assert self.target.index is not None
        return int(self.target.index[image, 0])


def start(request: Request) -> Session:
    """Check everything that was typed, cheap things first, then load the model and look at the images once.

    Raises:
        Problem: Something is wrong.
    """
    chosen = options.choose(request.methods)
    scored = options.choose(request.metrics, judges.REGISTRY)
    options.configure(request.settings, chosen, scored, request.preset)
    names = options.labels(request.labels) if request.labels is not None else None
    with explained():
        paths = photographs.find(request.images)
    options.writable(request.out)
    _spare(paths, request.out)
    if names is not None or request.target is None or request.target == "label":
        options.target(request.target, names or (), paths)
    loaded = models.load(request.model, request.size, request.backend)
    classes = loaded.classes if names is None else names
    target = options.target(request.target, classes, paths)
    with explained():
        photos = photographs.read(paths, loaded.preparation)
    images = torch.stack([p.input for p in photos])
    model = loaded.model
    if model.bounds is not None:
        low, high = model.bounds
        images = images * (high - low) + low
    frozen = _look(model, images, target, request.model)
    count = (model.output_shape or (0,))[0]
    if classes and count > 1 and len(classes) != count:
        whose = f"--labels {request.labels} has" if names is not None else "it has"
        raise Problem(f"--model {request.model}: it tells {count} classes apart, and {whose} {len(classes)} names")
    with model.uncounted():
        probabilities = model.scores(images, frozen, output="probability").float().cpu()
        predicted = model.outputs(images).argmax(1).cpu() if count > 1 else None
    return Session(model, photos, images, frozen, predicted, probabilities, chosen, scored, classes)


def suit(names: Sequence[str], spec: str, size: int | None) -> dict[str, str | None]:
    """Why each of these methods does not run on a model with nothing else passed; `None` for those that do.

    Raises:
        Problem: The model cannot be loaded, or cannot run.
    """
    loaded = models.load(spec, size)
    model = loaded.model
    middle = 0.5 if model.bounds is None else sum(model.bounds) / 2
    image = torch.full((1, loaded.preparation.channels, *loaded.preparation.size), middle)
    _outputs(model, image, spec)  # which layers there are is known once it has run
    return {name: methods.REGISTRY.find(name).supports(model) for name in names}


def _outputs(model: Model, images: Tensor, spec: str) -> Any:
    """What a model gives for images, in a sentence where it cannot run."""
    try:
        return model.outputs(images)
    except Exception as error:
        shape = " x ".join(map(str, images.shape[1:]))
        why = one_line(error)[:300]
        raise Problem(f"--model {spec}: it cannot run on images of {shape} pixels (see --size): {why}") from error


def _look(model: Model, images: Tensor, target: int | list[int] | None, spec: str) -> Target:
    """The target, frozen; the first time that the model runs, so that a network which cannot says so here."""
    with explained():
        images = model.check(images)
    outputs = _outputs(model, images[:1], spec)
    if not isinstance(outputs, Tensor) or outputs.ndim > 2:
        raise Problem(f"--model {spec}: it must give one score for each class, a tensor (N, classes)")
    with explained():
        return model.resolve(images, target)


def _spare(paths: Sequence[Path], out: Path) -> None:
    """An image that lies in the folder for results, under a name that one of them may get, is refused."""
    here = out.resolve()
    for path in paths:
        inside = path.resolve().parent == here
        if inside and (path.name in {"compare.png", "curves.png"} or any(path.stem.startswith(f"{p.stem}-") for p in paths)):
            raise Problem(f"{path} lies in --out {out}, where it may be overwritten: choose another folder")


# -- explain -----------------------------------------------------------------------------------------------------------


def explain(request: Request) -> None:
    """Write a figure, an overlay and the numbers for each image and method, and print a table."""
    session = start(request)
    attributors = _create(session, request.budget)
    rows: list[list[object]] = []
    total = len(session.photos) * len(attributors)
    with tqdm(total=total, unit="map", desc="explain", leave=False, disable=not sys.stderr.isatty()) as bar:
        for i, photo in enumerate(session.photos):
            pixels = photo.pixels()
            for name, attributor in attributors.items():
                bar.set_postfix_str(f"{photo.name}, {name}")
                with explained(f"{photo.path}, {name}: "):
                    found = attributor.explain(session.images[i : i + 1], session.index(i))
                    stem = request.out / f"{photo.name}-{name}"
                    found.save(stem.with_name(f"{stem.name}.safetensors"))
                    write_overlay(stem.with_name(f"{stem.name}.overlay.png"), found, pixels, photo)
                    save_figure(heatmap(session, i, found), stem.with_name(f"{stem.name}.png"), photo)
                bar.update()
                rows.append(
                    [
                        photo.name, name, session.class_name(i), f"{float(session.probabilities[i]):.1%}",
                        f"{float(found.scores[0]):.4g}", found.output.replace("_", " "),
                        cost(int(found.forwards[0]), int(found.backwards[0])), f"{found.seconds:.2f}",
                    ]
                )
    print(table(["image", "method", "class", "probability", "score", "unit", "cost", "seconds"], rows))
    print(
        f"\nIn {request.out}, for each image and method: NAME-METHOD.png, a figure with all that is needed to read it;\n"
        "NAME-METHOD.overlay.png, the map over the photograph, pixel for pixel; NAME-METHOD.safetensors, the numbers\n"
        "(in Python: attriscope.attribution.Explanation.load)."
    )


def _create(session: Session, budget: int | None) -> dict[str, Attributor]:
    """The methods on the model; those that a pattern found and that do not run, or do not fit the budget, are named."""
    made: dict[str, Attributor] = {}
    left_out: dict[str, str] = {}
    for name, choice in session.chosen.items():
        if not choice.asked and (reason := choice.cls.supports(session.model)) is not None:
            left_out[name] = reason
            continue
        try:
            made[name] = methods.create(name, session.model, budget=budget, **choice.options)
        except (ValueError, TypeError) as error:
            if budget is None or f"budget={budget}" not in str(error):
                raise Problem(one_line(error)) from error
            left_out[name] = one_line(error)
    _tell(left_out)
    if not made:
        raise Problem("no method is left to run")
    return made


def _tell(left_out: dict[str, str]) -> None:
    for name, reason in left_out.items():
        say(f"left out {name}: {reason}")


def heatmap(session: Session, i: int, found: Explanation) -> "Figure":
    """One map with all that is needed to read it."""
    photo = session.photos[i]
    return visualization.heatmap(
        found,
        photographs=Gallery([photo]),
        boxes=[photo.reduced()],
        names=[photo.name],
        classes=session.classes or None,
        probabilities=session.probabilities[i : i + 1],
        predicted=None if session.predicted is None else session.predicted[i : i + 1],
        bounds=session.model.bounds,
    )


def write_overlay(path: Path, found: Explanation, pixels: photographs.Pixels, photo: Photograph) -> None:
    """The map over the photograph, at the photograph's size."""
    drawn = Image.fromarray(overlay(found, pixels, photo.box))
    with explained(), atomic(path) as temporary:
        drawn.save(temporary, "PNG")


def save_figure(figure: "Figure", path: Path, photo: Photograph | None = None) -> None:
    """Write a figure; with one photograph in it, so finely that it keeps the photograph's pixels."""
    dpi = DPI[0]
    if photo is not None:
        inches = max((a.get_position().width * figure.get_figwidth() for a in figure.axes[:2]), default=1.0)
        dpi = min(max(dpi, round(min(photo.width, photographs.LARGE) / inches)), DPI[1])
    with explained(), atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


# -- compare -----------------------------------------------------------------------------------------------------------


def compare(request: Request) -> None:
    """Run methods and metrics on the images, write the study and its figures, and print the summary."""
    session = start(request)
    study = run_study(session, request.budget, request.out)
    files = write_study(study, session, request.out)
    print(summary_table(study))
    _tell(study.left_out)
    print(f"\nIn {request.out}: {', '.join(files)} and the study (in Python: attriscope.metrics.Study.load).")


def run_study(session: Session, budget: int | None, out: Path) -> metrics.Study:
    """All methods and metrics of a session."""
    asked: dict[str, Any] = {
        # a pattern that finds one name lets `compare` leave it out where it does not run
        n: (n if c.asked else f"{c.family}/{n}", c.options) for n, c in session.chosen.items()
    }
    with explained():
        return metrics.compare(
            session.model,
            session.images,
            [session.index(i) for i in range(len(session.photos))],
            attributors=asked,
            metrics={n: judges.create(n, **c.options) for n, c in session.judges.items()},
            out=out,
            budget=budget,
            names=[p.name for p in session.photos],
            classes=session.classes or None,
            progress=sys.stderr.isatty(),
        )


def write_study(study: metrics.Study, session: Session, out: Path) -> list[str]:
    """The figures of a study; their names."""
    files = ["compare.png"]
    boxes = [p.reduced() for p in session.photos]
    save_figure(visualization.side_by_side(study, photographs=Gallery(session.photos), boxes=boxes), out / files[0])
    if study.curves:
        files.append("curves.png")
        save_figure(visualization.curves(study), out / files[1])
    return files


def report(folder: Path, out: Path | None, title: str | None) -> Path:
    """Write the report of a study that lies in a folder; the file.

    Raises:
        Problem: There is no study, it is damaged, or the file cannot be written.
    """
    with explained():
        study = metrics.Study.load(folder)
        return visualization.report(study, folder / "report.html" if out is None else out, title=title)


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

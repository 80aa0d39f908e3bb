"""The command `explain`, what it has in common with `compare`, and which methods run on a model."""

import sys
from collections.abc import Mapping, Sequence
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
from attriscope.metrics.configuration import Entry
from attriscope.metrics.inputs import LABEL
from attriscope.metrics.photographs import Gallery, Photograph, Preparation
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
    "METHOD", "Request", "Session", "Setup",
    "explain", "heatmap", "look", "prepare", "report", "save_figure", "start", "suit", "tell", "write_overlay",
]


@dataclass
class Request:
    """What was typed, or stands in a TOML file; `None` where neither says anything.

    `labelled` and `judged` are methods and metrics from a file, by label; `methods` and `metrics` are typed and count more.
    `mild`: a metric that has a preset of its own keeps it.
    """

    images: Sequence[Path]
    methods: Sequence[str]
    out: Path
    model: str = "demo"
    metrics: Sequence[str] = ()
    settings: Sequence[str] = ()
    preset: str | None = None
    mild: bool = False
    labels: Path | None = None
    target: str | list[Any] | None = None
    budget: int | None = None
    size: int | None = None
    backend: str | None = None
    limit: int | None = None
    baselines: Sequence[str] = ()
    annotations: Path | None = None
    labelled: Mapping[str, Entry] = field(default_factory=dict)
    judged: Mapping[str, Entry] = field(default_factory=dict)


@dataclass
class Setup:
    """Everything checked that can be without the model running.

    Attributes:
        spec: The model's name, as it was typed.
        model: The model.
        preparation: How photographs become inputs.
        paths: The photographs.
        target: A class, "label", one for each photograph, or nothing.
        chosen: The methods, by label.
        judges: The metrics, by label.
        classes: Class names, as far as they are known.
        whose: Whose the class names are, for an error.
    """

    spec: str
    model: Model
    preparation: Preparation
    paths: list[Path]
    target: Any
    chosen: dict[str, Choice]
    judges: dict[str, Choice]
    classes: list[str]
    whose: str


@dataclass
class Session(Setup):
    """The photographs of a setup too, read and looked at once."""

    photos: list[Photograph]
    images: Tensor
    frozen: Target
    predicted: Tensor | None
    probabilities: Tensor

    def class_name(self, image: int) -> str:
        """What is explained of an image."""
        index = self.index(image)
        return self.classes[index] if index < len(self.classes) else f"class {index}"

    def index(self, image: int) -> int:
        """Its number."""
        assert self.frozen.index is not None
        return int(self.frozen.index[image, 0])


def prepare(request: Request, *, opened: bool) -> Setup:
    """Check everything that was typed, cheap things first, then load the model.

    Args:
        request: What was typed.
        opened: Whether every photograph must be an image, or is left out later where it is none.

    Raises:
        Problem: Something is wrong.
    """
    chosen = options.choose(request.methods) if request.methods else options.from_file(request.labelled)
    registry = judges.REGISTRY
    scored = options.choose(request.metrics, registry) if request.metrics else options.from_file(request.judged, registry)
    options.configure(request.settings, chosen, scored, request.preset, mild=request.mild)
    names = options.labels(request.labels) if request.labels is not None else None
    with explained():
        paths = photographs.find(request.images) if opened else photographs.listed(request.images)
    options.writable(request.out)
    _spare(paths, request.out)
    typed = None if isinstance(request.target, list) else request.target
    few = paths[: request.limit]
    if names is not None or typed is None or typed == LABEL:
        options.target(typed, names or (), few)
    loaded = models.load(request.model, request.size, request.backend)
    classes = loaded.classes if names is None else names
    found: Any = options.target(typed, classes, few)
    target = request.target if isinstance(request.target, list) else LABEL if typed == LABEL else found
    whose = "it has" if names is None else f"--labels {request.labels} has"
    return Setup(request.model, loaded.model, loaded.preparation, paths, target, chosen, scored, classes, whose)


def start(request: Request) -> Session:
    """The same, and every photograph read and seen by the model once.

    Raises:
        Problem: Something is wrong.
    """
    setup = prepare(request, opened=True)
    with explained():
        photos = photographs.read(setup.paths, setup.preparation)
    images = torch.stack([p.input for p in photos])
    model = setup.model
    if model.bounds is not None:
        low, high = model.bounds
        images = images * (high - low) + low
    look(setup, images)
    target: Any = options.target(LABEL, (), setup.paths) if setup.target == LABEL else setup.target
    with explained():
        frozen = model.resolve(images, target)
    count = (model.output_shape or (0,))[0]
    with model.uncounted():
        probabilities = model.scores(images, frozen, output="probability").float().cpu()
        predicted = model.outputs(images).argmax(1).cpu() if count > 1 else None
    return Session(
        **vars(setup), photos=photos, images=images, frozen=frozen, predicted=predicted, probabilities=probabilities
    )


def look(setup: Setup, images: Tensor) -> None:
    """The first time that the model runs, on the first of some images: a network that cannot says so here.

    Raises:
        Problem: It cannot, or its outputs are not what photographs are explained by.
    """
    with explained():
        images = setup.model.check(images)
    outputs = _outputs(setup.model, images[:1], setup.spec)
    if not isinstance(outputs, Tensor) or outputs.ndim > 2:
        raise Problem(f"--model {setup.spec}: it must give one score for each class, a tensor (N, classes)")
    count = (setup.model.output_shape or (0,))[0]
    if setup.classes and count > 1 and len(setup.classes) != count:
        raise Problem(
            f"--model {setup.spec}: it tells {count} classes apart, and {setup.whose} {len(setup.classes)} names"
        )


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


def _spare(paths: Sequence[Path], out: Path) -> None:
    """An image that lies in the folder for results, under a name that one of them may get, is refused."""
    here = out.resolve()
    for path in paths:
        if path.resolve().parent == here and (
            path.name in {"compare.png", "curves.png"} or any(path.stem.startswith(f"{p.stem}-") for p in paths)
        ):
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
    tell(left_out)
    if not made:
        raise Problem("no method is left to run")
    return made


def tell(left_out: Mapping[str, str]) -> None:
    """Name what was not run, with the reason."""
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


def report(folder: Path, out: Path | None, title: str | None) -> Path:
    """Write the report of a study that lies in a folder; the file.

    Raises:
        Problem: There is no study, it is damaged, or the file cannot be written.
    """
    with explained():
        study = metrics.Study.load(folder)
        return visualization.report(study, folder / "report.html" if out is None else out, title=title)

"""Studies: methods x metrics x images, with what they cost."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from attriscope.attribution import attributor as methods
from attriscope.attribution._files import atomic, folder
from attriscope.attribution._parameters import canonical
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model, Network
from attriscope.attribution.targets import Target, TargetLike
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from . import metric as registry
from .metric import MapMetric, Metric, Scored, check_maps
from .statistics import bootstrap_mean

FORMAT = 1
One: TypeAlias = "str | Attributor | tuple[str, Mapping[str, Any]]"

__all__ = ["Study", "compare"]


@dataclass
class Study:
    """What `compare` found.

    Attributes:
        scores: One row per image, method and metric: `image`, `method`, `metric`, `score`, `tied` (the share of pixels
            whose order the tie rule decided).
        costs: One row per image and method: `image`, `method`, `forwards`, `backwards`, `seconds` (of the method alone).
        methods: The methods' configurations by label, as JSON can hold them.
        metrics: The metrics' protocols by label, with `higher_is_better`, `range`, `cost`.
        maps: Each method's maps, `(N, 1, H, W)`, on the CPU.
        curves: For each (method, metric) with curves, the fractions `(K,)` and the values `(N, K)`.
        inputs: The images, `(N, C, H, W)`; `None` where a loaded study has none.
        target: What was explained, `(N,)` or `(N, k)`; `None` for a callable.
        predicted: The class that the network names on each clean image; `None` where its output is no `(N, C)`.
        probabilities: The target's probability on each clean image.
        names: A name for each image.
        classes: Class names by index, for figures.
        left_out: Methods that were not run, with the reason.
        paid: Forwards and backwards that were paid in all.
        alone: What they would have been if each method and metric had been run by itself.
        bounds: The images' bounds, for figures.
        seconds: Wall time of everything.
    """

    scores: pd.DataFrame
    costs: pd.DataFrame
    methods: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    maps: dict[str, Tensor] = field(repr=False)
    curves: dict[tuple[str, str], tuple[Tensor, Tensor]] = field(repr=False)
    inputs: Tensor | None = field(repr=False)
    target: Tensor | None
    predicted: Tensor | None
    probabilities: Tensor
    names: list[str]
    classes: dict[int, str] = field(default_factory=dict, repr=False)
    left_out: dict[str, str] = field(default_factory=dict)
    paid: int = 0
    alone: int = 0
    bounds: tuple[float, float] | None = None
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.names)

    def summary(self, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """One row per metric and method, the best first.

        Args:
            level: Of the bootstrap interval over images.
            seed: Of the bootstrap.

        Returns:
            Indexed by `metric` and `method`: `mean`, `low` and `high` (the interval), `rank` of the mean (1 is best; ties
            share the better one), `images` that the metric is defined for, `forwards`, `backwards` and `seconds` per
            image of the method.
        """
        costs = self.costs.groupby("method")[["forwards", "backwards", "seconds"]].mean()
        rows = []
        for name, facts in self.metrics.items():
            own = self.scores[self.scores["metric"] == name]
            for method in self.methods:
                scores = own.loc[own["method"] == method, "score"].to_numpy(dtype=np.float64)
                low, high = bootstrap_mean(scores, level=level, seed=seed)
                known = scores[~np.isnan(scores)]
                rows.append(
                    {
                        "metric": name,
                        "method": method,
                        "mean": known.mean() if len(known) else math.nan,
                        "low": low,
                        "high": high,
                        "rank": math.nan,
                        "images": len(known),
                        **costs.loc[method].to_dict(),
                        "_order": facts["higher_is_better"],
                    }
                )
        table = pd.DataFrame(rows)
        key = table["mean"].where(~table["_order"].astype(bool), -table["mean"])
        table["rank"] = key.groupby(table["metric"]).rank(method="min")
        order = {m: i for i, m in enumerate(self.metrics)}
        table = table.sort_values(
            ["metric", "rank"], key=lambda c: c.map(order) if c.name == "metric" else c, kind="stable"
        )
        return table.drop(columns="_order").set_index(["metric", "method"])

    def label(self, image: int) -> str:
        """What was explained of an image, in words: the class's name where it is known."""
        if self.target is None:
            return "target"
        index = self.target[image]
        return self.class_name(int(index)) if index.ndim == 0 else str(tuple(index.tolist()))

    def class_name(self, index: int) -> str:
        """A class's name, or its number."""
        return self.classes.get(index, f"class {index}")

    # -- on disk -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder.

        `scores.csv`, `costs.csv`, `summary.csv`, maps and curves as safetensors, images as PNG, and `study.json` last, so
        that a folder with one is whole.

        Raises:
            OSError: The folder cannot be written to.
        """
        path = folder(path)
        for name, table in (("scores", self.scores), ("costs", self.costs), ("summary", self.summary().reset_index())):
            with atomic(path / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
        tensors = {f"maps/{m}": t.contiguous() for m, t in self.maps.items()}
        for (method, metric), (fractions, values) in self.curves.items():
            tensors[f"fractions/{metric}"] = fractions.contiguous()
            tensors[f"curves/{metric}/{method}"] = values.contiguous()
        for name in ("target", "predicted", "probabilities"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value.contiguous()
        with atomic(path / "study.safetensors") as temporary:
            save_file(tensors, temporary)
        pictures = self._save_images(path)
        header = {
            "format": FORMAT,
            "methods": self.methods,
            "metrics": self.metrics,
            "names": self.names,
            "classes": self.classes,
            "left_out": self.left_out,
            "paid": self.paid,
            "alone": self.alone,
            "bounds": self.bounds,
            "seconds": self.seconds,
            "pictures": pictures,
        }
        with atomic(path / "study.json") as temporary:
            temporary.write_text(json.dumps(header, indent=1), encoding="utf-8")
        return path

    def _save_images(self, path: Path) -> bool:
        """The images as 8-bit files; not possible without bounds or with odd channels."""
        if self.inputs is None or self.bounds is None or self.inputs.ndim != 4 or self.inputs.shape[1] not in (1, 3):
            return False
        low, high = self.bounds
        for i, image in enumerate(self.inputs):
            pixels = (
                ((image - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            )
            with atomic(path / "images" / f"{i:06d}.png") as temporary:
                Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, "PNG")
        return True

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Study":
        """Read what `save` wrote; nothing in the folder is ever run.

        Raises:
            FileNotFoundError: There is no study.
            ValueError: It is damaged.
        """
        path = Path(path)
        if not (path / "study.json").is_file():
            raise FileNotFoundError(f"{path} holds no study: there is no study.json in it")
        try:
            header = json.loads((path / "study.json").read_text(encoding="utf-8"))
            if header["format"] > FORMAT:
                raise ValueError(
                    f"{path} was written by a newer attriscope (format {header['format']}): upgrade to read it"
                )
            tensors = load_file(path / "study.safetensors")
            curves = {}
            for key in tensors:
                if key.startswith("curves/"):
                    _, metric, method = key.split("/", 2)
                    curves[method, metric] = (tensors[f"fractions/{metric}"], tensors[key])
            bounds: tuple[float, float] | None = tuple(header["bounds"]) if header["bounds"] is not None else None
            pictures = header["pictures"] and bounds is not None
            return cls(
                scores=pd.read_csv(path / "scores.csv"),
                costs=pd.read_csv(path / "costs.csv"),
                maps={k.removeprefix("maps/"): v for k, v in tensors.items() if k.startswith("maps/")},
                curves=curves,
                inputs=_load_images(path, bounds, len(header["names"])) if pictures else None,
                target=tensors.get("target"),
                predicted=tensors.get("predicted"),
                probabilities=tensors["probabilities"],
                classes={int(k): v for k, v in header["classes"].items()},
                bounds=bounds,
                **{k: header[k] for k in ("methods", "metrics", "names", "left_out", "paid", "alone", "seconds")},
            )
        except (SafetensorError, KeyError, json.JSONDecodeError, OSError, pd.errors.ParserError) as error:
            raise ValueError(f"the study in {path} is damaged: {error}") from error


def _load_images(path: Path, bounds: tuple[float, float] | None, count: int) -> Tensor:
    images = []
    for i in range(count):
        with Image.open(path / "images" / f"{i:06d}.png") as file:
            pixels = torch.from_numpy(np.array(file)).float() / 255
        images.append(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
    assert bounds is not None
    return torch.stack(images) * (bounds[1] - bounds[0]) + bounds[0]


# -- making one --------------------------------------------------------------------------------------------------------


def compare(
    model: Model | Network,
    inputs: Tensor,
    target: TargetLike = None,
    *,
    attributors: "Sequence[One] | Mapping[str, One] | str",
    metrics: "Sequence[str | Metric] | Mapping[str, str | Metric] | str" = ("insertion", "deletion"),
    out: str | os.PathLike[str] | None = None,
    budget: int | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    block: int = 8,
    progress: bool = True,
) -> Study:
    """Run methods on images and score their maps.

    Images go in blocks; within one, everything that all methods and metrics want evaluated runs as one stream of full
    batches, and what they share (the image, the baseline) is paid once.

    Args:
        model: A `Model`, or a network.
        inputs: `(N, C, H, W)` in the model's bounds.
        target: What to explain, as in `Attributor.attribute`; taken once for all methods.
        attributors: Names, patterns (`"*cam*"`: those that run on the model), `(name, options)`, or attributors; in a
            mapping, with labels.
        metrics: Names, patterns or metrics; in a mapping, with labels.
        out: A folder to save the study in.
        budget: The most forwards + backwards per image for each method given by name. Methods that do not fit are left
            out and named in `Study.left_out`.
        names: A name for each image.
        classes: Class names, for figures.
        block: Images that are held at a time.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: Something is wrong with any argument; said before anything long is run.
        OSError: `out` cannot be written to.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = compare(network, torch.rand(3, 3, 4, 4), attributors=["saliency", ("rise", {"masks": 20})], progress=False)
        >>> study.summary().loc["insertion", "rank"].tolist()
        [1.0, 2.0]
    """
    wrapped = Model.wrap(model)
    images = wrapped.check(inputs)
    if wrapped.kind != "image":
        raise ValueError("compare takes images, (N, C, H, W); for other inputs call attributors and metrics themselves")
    if block < 1:
        raise ValueError(f"block={block}: at least one image must be held at a time")
    labels = [f"{i:03d}" for i in range(len(images))] if names is None else [str(n) for n in names]
    if len(labels) != len(images):
        raise ValueError(f"there are {len(labels)} names for {len(images)} images")
    if out is not None:
        folder(out)
        _ = wrapped.fingerprint  # a callable without one is refused before anything runs
    wrapped.shape = tuple(images.shape[1:])  # what a budget buys depends on it
    chosen, left_out = _attributors(attributors, wrapped, budget)
    judges = _metrics(metrics)
    start = time.perf_counter()
    frozen = wrapped.resolve(images, target)
    predicted, probabilities = _clean(wrapped, images, frozen)
    run = _Run(wrapped, chosen, judges, len(images))
    total = sum(_price(a, m, images) for a in chosen.values() for m in (None, *judges.values())) * len(images)
    with (
        tqdm(total=total, unit="eval", disable=not progress, desc="compare", leave=False) as bar,
        wrapped.listen(bar.update),
    ):
        for at in range(0, len(images), block):
            rows = slice(at, min(at + block, len(images)))
            bar.set_postfix_str(f"images {rows.start + 1} to {rows.stop} of {len(images)}")
            run.block(images[rows], frozen.take(rows), rows)
    study = Study(
        scores=pd.DataFrame(run.scores),
        costs=pd.DataFrame(run.costs),
        methods={k: json.loads(a.canonical) for k, a in chosen.items()},
        metrics={k: _protocol(m, images) for k, m in judges.items()},
        maps={k: torch.cat(v) for k, v in run.maps.items()},
        curves={k: (f, torch.cat(v)) for k, (f, v) in run.curves.items()},
        inputs=images.cpu(),
        target=frozen.value(),
        predicted=predicted,
        probabilities=probabilities,
        names=labels,
        classes=dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes or ())),
        left_out=left_out,
        paid=run.paid,
        alone=run.alone,
        bounds=wrapped.bounds,
        seconds=time.perf_counter() - start,
    )
    if out is not None:
        study.save(out)
    return study


class _Run:
    """The tables of a study while it grows."""

    def __init__(self, model: Model, chosen: dict[str, Attributor], judges: dict[str, Metric], count: int) -> None:
        self.model, self.chosen, self.judges, self.count = model, chosen, judges, count
        self.scores: list[dict[str, Any]] = []
        self.costs: list[dict[str, Any]] = []
        self.maps: dict[str, list[Tensor]] = {k: [] for k in chosen}
        self.curves: dict[tuple[str, str], tuple[Tensor, list[Tensor]]] = {}
        self.paid = self.alone = 0

    def block(self, images: Tensor, target: Target, rows: slice) -> None:
        """All methods and metrics on some images."""
        with self.model.sharing():
            self._block(images, target, rows)

    def _block(self, images: Tensor, target: Target, rows: slice) -> None:
        device = self.model.device or images.device
        on_device = images.to(device)
        todo = Evaluations(self.model, target)
        waiting: dict[tuple[str, str], Callable[[], Scored]] = {}
        saved = self.model.saved
        for label, attributor in self.chosen.items():
            found = attributor.for_rows(rows).explain(images, target)
            self.maps[label].append(found.maps.float().cpu())
            spent = int((found.forwards + found.backwards).sum())
            self.paid += spent - (self.model.saved - saved)
            self.alone += spent
            saved = self.model.saved
            self.costs += [
                {
                    "image": rows.start + i,
                    "method": label,
                    "forwards": int(found.forwards[i]),
                    "backwards": int(found.backwards[i]),
                    "seconds": found.seconds / len(images),
                }
                for i in range(len(images))
            ]
            flat = check_maps(found.maps, on_device)
            for name, judge in self.judges.items():
                assert isinstance(judge, MapMetric)
                waiting[label, name] = judge.prepare(todo, on_device, flat)
                self.alone += judge.cost(tuple(images.shape[1:])) * len(images)
        with self.model.ledger(self.count) as ledger:
            todo.run()
        self.paid += int(ledger.forwards.sum() + ledger.backwards.sum())
        for (label, name), finish in waiting.items():
            scored = finish()
            for i, (score, tied) in enumerate(zip(scored.scores.tolist(), scored.tied.tolist(), strict=True)):
                self.scores.append(
                    {"image": rows.start + i, "method": label, "metric": name, "score": score, "tied": tied}
                )
            if scored.values.numel():
                self.curves.setdefault((label, name), (scored.fractions, []))[1].append(scored.values)


def _attributors(
    given: "Sequence[One] | Mapping[str, One] | str", model: Model, budget: int | None
) -> tuple[dict[str, Attributor], dict[str, str]]:
    """Attributors by label, and those that a budget leaves out."""
    if isinstance(given, str | Attributor):
        given = [given]
    pairs: list[tuple[str | None, Any]] = (
        list(given.items()) if isinstance(given, Mapping) else [(None, g) for g in given]
    )
    chosen: dict[str, Attributor] = {}
    left_out: dict[str, str] = {}
    for label, one in pairs:
        name, options = one if isinstance(one, tuple) else (one, {})
        if isinstance(name, Attributor):
            made = name if name.model is model else name.with_model(model)
            _put(chosen, label or made.name, made)
            continue
        if not isinstance(name, str):
            raise TypeError(
                f"{name!r} is no attributor: pass a name, (name, options) or what attribution.create returns"
            )
        pattern = re.search(r"[*?\[/]", name) is not None
        found = methods.available(name) if pattern else [methods.REGISTRY.find(name).name]
        if not found:
            raise ValueError(f"no method matches {name!r}; there are {', '.join(methods.available())}")
        for each in found:
            if pattern and (reason := methods.REGISTRY.find(each).supports(model)) is not None:
                left_out[each] = reason
                continue
            try:
                made = methods.create(each, model, budget=budget, **options)
            except ValueError as error:
                if budget is None or "budget" not in str(error):
                    raise
                left_out[label or each] = str(error)
                continue
            if pattern and each in chosen and chosen[each] == made:
                continue  # two patterns name it
            _put(chosen, label or each, made)
    if not chosen:
        raise ValueError(f"no method is left to run: {left_out or 'none was given'}")
    return chosen, left_out


def _metrics(given: "Sequence[str | Metric] | Mapping[str, str | Metric] | str") -> dict[str, Metric]:
    if isinstance(given, str | Metric):
        given = [given]
    pairs: list[tuple[str | None, Any]] = (
        list(given.items()) if isinstance(given, Mapping) else [(None, g) for g in given]
    )
    judges: dict[str, Metric] = {}
    for label, one in pairs:
        if isinstance(one, Metric):
            _put(judges, label or one.name, one)
            continue
        found = registry.available(one) if re.search(r"[*?\[/]", one) else [registry.REGISTRY.find(one).name]
        if not found:
            raise ValueError(f"no metric matches {one!r}; there are {', '.join(registry.available())}")
        for name in found:
            _put(judges, label or name, registry.create(name))
    return judges


def _put(table: dict[str, Any], label: str, value: Any) -> None:
    """Put under a label; a second of the same name gets its options as a label, a third a number."""
    if "/" in label:
        raise ValueError(f"the label {label!r} has a slash in it: choose another")
    if label in table:
        label = repr(value)
    n, first = 2, label
    while label in table:
        label, n = f"{first} #{n}", n + 1
    table[label] = value


def _clean(model: Model, images: Tensor, target: Target) -> tuple[Tensor | None, Tensor]:
    """The class that the network names on each image, and the target's probability; nobody's cost."""
    with model.uncounted():
        probabilities = model.scores(images, target, output="probability").float().cpu()
        outputs = model.outputs(images) if model.output_shape is not None and len(model.output_shape) == 1 else None
    return None if outputs is None else outputs.argmax(1).cpu(), probabilities


def _price(attributor: Attributor, judge: Metric | None, images: Tensor) -> int:
    shape = tuple(images.shape[1:])
    if judge is not None:
        return judge.cost(shape)
    try:
        return sum(attributor.cost(shape, **attributor.params))
    except ValueError:  # somebody else's method, which knows its cost when it has run
        return 0


def _protocol(judge: Metric, images: Tensor) -> dict[str, Any]:
    return {
        "name": judge.name,
        "protocol": canonical(judge.protocol),
        "higher_is_better": judge.higher_is_better,
        "range": list(judge.range),
        "chance": judge.chance,
        "cost": judge.cost(tuple(images.shape[1:])),
    }

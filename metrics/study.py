"""What a comparison found: tables, maps and curves of methods x metrics x images, with what they cost."""

import contextlib
import json
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from attriscope.attribution._files import atomic, folder
from PIL import Image
from torch import Tensor

from . import analysis
from .plan import Picture, Plan, frozen
from .store import FORMAT, Damaged, Foreign, Store

K = TypeVar("K")
V = TypeVar("V")

HEADER, TABLES, CONFIGURATION = "study.json", ("scores", "costs", "summary"), "study.toml"
NEEDED = {"name", "protocol", "higher_is_better", "range"}  # of a metric

__all__ = ["Header", "Lazy", "Pictures", "Study"]


@dataclass
class Header:
    """What a study's folder says of itself; everything else lies in its cells.

    Attributes:
        plan: How cells are named.
        pictures: The images that have been begun, in order.
        methods: The methods' configurations by label.
        metrics: The metrics' protocols by label.
        classes: Class names by index.
        left_out: Methods and metrics that were not run, with the reason.
        failed: Images by method (or "method, metric") that failed, with the reason.
        skipped: Images that could not be read, with the reason.
        bounds: The images' bounds.
        shape: `(C, H, W)`.
        seconds: Wall time of everything, over all runs.
        finished: Whether every image has been looked at.
        versions: Of what made it.
    """

    plan: Plan
    pictures: list[Picture] = field(default_factory=list)
    methods: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    finished: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        """Write it whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        with atomic(root / HEADER) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, root: Path) -> "Header":
        """Read it.

        Raises:
            FileNotFoundError: There is none.
            Foreign: Another attriscope wrote it.
            ValueError: It is damaged.
        """
        path = root / HEADER
        if not path.is_file():
            raise FileNotFoundError(f"{root} holds no study: there is no {HEADER} in it")
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            _readable(told, root)
            told.pop("format")
            return cls(
                **{
                    **told,
                    "plan": Plan(**told["plan"]),
                    "pictures": [Picture(**p) for p in told["pictures"]],
                    "classes": {int(k): str(v) for k, v in told["classes"].items()},
                    "failed": [tuple(f) for f in told["failed"]],
                    "bounds": None if told["bounds"] is None else tuple(told["bounds"]),
                    "shape": tuple(told["shape"]),
                }
            )
        except Foreign:
            raise
        except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
            raise ValueError(f"the study in {root} is damaged: {HEADER}: {error}") from error


def _readable(told: dict[str, Any], root: Path) -> None:
    """Refuse a header that this attriscope cannot read.

    Raises:
        Foreign: Another attriscope wrote it.
        ValueError: It is damaged.
    """
    if told["format"] != FORMAT:
        which = "a newer" if told["format"] > FORMAT else "an older"
        raise Foreign(
            f"{root} was written by {which} attriscope (format {told['format']}, this one has {FORMAT}): take another folder, "
            "or the attriscope that wrote it"
        )
    if not all(facts.keys() >= NEEDED for facts in told["metrics"].values()):
        raise ValueError(f"a metric without {', '.join(sorted(NEEDED))}")
    if not all(isinstance(n, int) for n in told["shape"]):
        raise ValueError(f"shape {told['shape']!r}")


class Lazy(MutableMapping[K, V]):
    """Values that are made when they are asked for, and kept where there is room for all of them.

    Args:
        keys: What there is.
        make: Makes one.
        keep: Whether it is kept: a study in a folder may be larger than the memory.
    """

    def __init__(self, keys: Iterable[K], make: Callable[[K], V], *, keep: bool) -> None:
        self._make, self._keep = make, keep
        self._known: dict[K, V | None] = dict.fromkeys(keys)

    def __getitem__(self, key: K) -> V:
        found = self._known[key]
        if found is None:
            found = self._make(key)
            if self._keep:
                self._known[key] = found
        return found

    def __setitem__(self, key: K, value: V) -> None:
        self._known[key] = value

    def __delitem__(self, key: K) -> None:
        del self._known[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self))})"


class Pictures:
    """The images of a study in a folder, 8 bits deep, read when they are asked for.

    Args:
        files: One for each.
        bounds: Of the images.
        shape: `(C, H, W)`.
    """

    ndim = 4

    def __init__(self, files: Sequence[Path], bounds: tuple[float, float], shape: tuple[int, ...]) -> None:
        self._files, self._bounds = list(files), bounds
        self.shape = (len(self._files), *shape)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, which: Any) -> Tensor:
        if isinstance(which, slice):
            which = range(*which.indices(len(self)))
        which = which.tolist() if isinstance(which, Tensor) else which
        try:
            which = operator.index(which)
        except TypeError:  # several
            some = [self[i] for i in which]
            return torch.stack(some) if some else torch.zeros(0, *self.shape[1:])
        path = self._files[which]
        try:
            with Image.open(path) as file:
                pixels = torch.from_numpy(np.array(file)).float() / 255
        except OSError as error:
            raise ValueError(f"the study's image {path} cannot be read: run the same comparison again") from error
        low, high = self._bounds
        return (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)) * (high - low) + low


@dataclass
class Study:
    """What `compare` found.

    Attributes:
        scores: One row per image, method and metric: `image`, `method`, `metric`, `score`, `tied` (the share of pixels
            whose order the tie rule decided), and what else the metrics tell. A score that there is not yet is no row; one
            that is undefined is NaN.
        costs: One row per image and method: `image`, `method`, `forwards`, `backwards`, `seconds` (of the method alone).
        methods: The methods' configurations by label, as JSON can hold them.
        metrics: The metrics' protocols by label, with `higher_is_better`, `range`, `cost`.
        maps: Each method's maps, `(N, 1, H, W)`, on the CPU, NaN where there is none; read from the folder when it is asked
            for.
        curves: For each (method, metric) with curves, the fractions `(K,)` and the values `(N, K)`.
        inputs: The images, `(N, C, H, W)`; `None` where a loaded study has none.
        target: What was explained, `(N,)` or `(N, k)`; `None` for a callable.
        predicted: The class that the network names on each clean image; `None` where its output is no `(N, C)`.
        probabilities: The target's probability on each clean image.
        names: A name for each image.
        classes: Class names by index, for figures.
        left_out: Methods and metrics that were not run, with the reason.
        failed: Cells that failed, (image, method) or (image, "method, metric"), with the reason; the same call tries
            them again.
        skipped: Inputs that could not be read, with the reason.
        paid: Forwards and backwards that were paid in all.
        alone: What they would have been if each method and metric had been run by itself.
        bounds: The images' bounds, for figures.
        seconds: Wall time of everything.
        finished: Whether every image has been looked at.
        versions: Of what made it, by name.
        configuration: The TOML that makes it again; empty for a study in memory.
    """

    scores: pd.DataFrame
    costs: pd.DataFrame
    methods: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    maps: MutableMapping[str, Tensor] = field(repr=False)
    curves: MutableMapping[tuple[str, str], tuple[Tensor, Tensor]] = field(repr=False)
    inputs: "Tensor | Pictures | None" = field(repr=False)
    target: Tensor | None
    predicted: Tensor | None
    probabilities: Tensor
    names: list[str]
    classes: dict[int, str] = field(default_factory=dict, repr=False)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    paid: int = 0
    alone: int = 0
    bounds: tuple[float, float] | None = None
    seconds: float = 0.0
    finished: bool = True
    versions: dict[str, str] = field(default_factory=dict)
    configuration: str = field(default="", repr=False)
    _found: "tuple[Store, Header] | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    # -- what it says --------------------------------------------------------------------------------------------------

    def summary(self, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """One row per metric and method, the best first.

        Args:
            level: Of the bootstrap interval over images.
            seed: Of the bootstrap.

        Returns:
            Indexed by `metric` and `method`: `mean`, `low` and `high` (the interval), `rank` of the mean (1 is best; ties
            share the better one), `images` that the metric is defined for, `undefined`, `forwards`, `backwards` and
            `seconds` per image of the method.
        """
        return analysis.summary(self, level=level, seed=seed)

    def pairs(self, metric: str, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Every two methods on the same images: the difference, its interval, and whether it may be chance.

        Args:
            metric: A label of `metrics`.
            level: Of the intervals.
            seed: Of the resampling.

        Returns:
            One row per pair, `a` the better one: `difference`, `low`, `high`, `p` (sign flips) and `p_holm` (corrected for
            all pairs), `better` (how often a is better), `needed` (images that would tell them apart), `images`, `dropped`.
        """
        return analysis.pairs(self, metric, level=level, seed=seed)

    def ranking(self, metric: str, *, test: Literal["wilcoxon", "nemenyi"] = "wilcoxon") -> "analysis.Ranking":
        """The methods by mean rank, and the groups that cannot be told apart.

        Args:
            metric: A label of `metrics`.
            test: Holm-corrected Wilcoxon signed ranks for every pair, or Nemenyi's critical difference.
        """
        return analysis.ranking(self, metric, test=test)

    def leaderboard(self) -> pd.DataFrame:
        """One row per method over all metrics: mean rank, spread, and where it searched with a metric's own baseline."""
        return analysis.leaderboard(self)

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
        """Write a folder, which `load` reads and `compare(..., out=path)` goes on with.

        `scores`, `costs` and `summary` as CSV (the scores as Parquet too, where pyarrow is installed), the images as PNG,
        maps and curves as safetensors in `shards`, and `study.json`.

        Raises:
            OSError: The folder cannot be written to.
            ValueError: The study was put together by hand.
        """
        if self._found is None:
            raise ValueError("only what compare returns can be saved: this study was put together by hand")
        root = folder(path)
        store, header = self._found
        store.copy(root)
        if self.inputs is not None and pictured(self.bounds, tuple(self.inputs.shape[1:])):
            for picture, image in zip(header.pictures, self.inputs, strict=True):
                save_picture(root, picture, image, self.bounds)
        header.write(root)
        if self.configuration:
            with atomic(root / CONFIGURATION) as temporary:
                temporary.write_text(self.configuration, encoding="utf-8")
        self.tables(root)
        return root

    def tables(self, path: str | os.PathLike[str]) -> None:
        """Write the tables.

        Raises:
            OSError: The folder cannot be written to.
        """
        root = folder(path)
        with_names = self.scores.assign(name=self.scores["image"].map(dict(enumerate(self.names))))
        for name, table in zip(TABLES, (with_names, self.costs, self.summary().reset_index()), strict=True):
            with atomic(root / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
        with contextlib.suppress(ImportError), atomic(root / "scores.parquet") as temporary:
            with_names.to_parquet(temporary, index=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Study":
        """Read a folder, finished or not; nothing in it is ever run.

        Raises:
            FileNotFoundError: There is no study.
            ValueError: It is damaged.
        """
        root = Path(path)
        header = Header.read(root)
        try:
            return cls.of(Store(root), header)
        except (Damaged, KeyError, IndexError) as error:
            raise ValueError(f"the study in {root} is damaged: {error}; the same comparison mends it") from error

    @classmethod
    def of(cls, store: Store, header: Header, inputs: Tensor | None = None) -> "Study":
        """The tables of what a store holds.

        Args:
            store: The cells.
            header: What they belong to.
            inputs: The images, where they are in memory.
        """
        root, plan = store.root, header.plan
        begun = [p for p in header.pictures if plan.clean(p) in store]
        clean = [plan.clean(p) for p in begun]
        rows = [store.shard(c) for c in clean]
        index = [s.columns["target"][i] if "target" in s.columns else None for s, i in rows]
        aims = [frozen(p, t) for p, t in zip(begun, index, strict=True)]
        cells = {m: [plan.map(m, p, aim) for p, aim in zip(begun, aims, strict=True)] for m in plan.methods}
        costs, scores, curved, used = _tables(store, plan, begun, aims, cells)
        facts = store.facts([*clean, *(c for own in cells.values() for c in own), *used])
        known = [t for t in index if t is not None]
        target = torch.stack(known) if known and len(known) == len(index) else None
        predicted = (
            torch.stack([s.columns["predicted"][i] for s, i in rows]) if rows else torch.zeros(0, dtype=torch.long)
        )

        def maps(method: str) -> Tensor:
            found = [store.row(c, "map") if c in store else None for c in cells[method]]
            shape = next((m.shape for m in found if m is not None), (1, *header.shape[-2:]))
            missing = torch.full(shape, torch.nan)
            return torch.stack([missing if m is None else m for m in found]) if found else torch.zeros(0, *shape)

        def curve(pair: tuple[str, str]) -> tuple[Tensor, Tensor]:
            fractions, own = curved[pair]
            missing = torch.full_like(fractions, torch.nan)
            return fractions, torch.stack([missing if c is None else store.row(c, "values") for c in own])

        pictures: Tensor | Pictures | None = inputs
        if root is not None and header.bounds is not None and pictured(header.bounds, header.shape):
            pictures = Pictures([picture_file(root, p) for p in begun], header.bounds, header.shape)
        configuration = root / CONFIGURATION if root is not None else None
        return cls(
            scores=pd.DataFrame(scores, columns=None if scores else ["image", "method", "metric", "score", "tied"]),
            costs=pd.DataFrame(costs, columns=["image", "method", "forwards", "backwards", "seconds"]),
            methods=header.methods,
            metrics=header.metrics,
            maps=Lazy(cells, maps, keep=root is None),
            curves=Lazy(curved, curve, keep=root is None),
            inputs=pictures,
            target=None if target is None else target[:, 0] if target.shape[1] == 1 else target,
            predicted=None if bool((predicted < 0).any()) else predicted,
            probabilities=torch.stack([s.columns["probability"][i] for s, i in rows]) if rows else torch.zeros(0),
            names=[p.name for p in begun],
            classes=header.classes,
            left_out=header.left_out,
            failed={(image, what): why for image, what, why in header.failed},
            skipped=header.skipped,
            paid=sum(f.get("paid", 0) for f in facts),
            alone=_alone(costs, scores, header.metrics),
            bounds=header.bounds,
            seconds=header.seconds,
            finished=header.finished,
            versions=header.versions,
            configuration=configuration.read_text(encoding="utf-8")
            if configuration and configuration.is_file()
            else "",
            _found=(store, header),
        )


Curves = dict[tuple[str, str], tuple[Tensor, list[str | None]]]


def _tables(
    store: Store, plan: Plan, begun: list[Picture], aims: list[str], cells: dict[str, list[str]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Curves, list[str]]:
    """Costs, scores, which cells have the curves of which method and metric, and the cells of all scores."""
    costs: list[dict[str, Any]] = []
    wanted: dict[str, list[tuple[int, str, str]]] = {}
    for method, own in cells.items():
        for i, cell in enumerate(own):
            if cell not in store:
                continue
            spent = {name: store.fact(cell, name) for name in ("forwards", "backwards", "seconds")}
            costs.append({"image": i, "method": method, **spent})
            digest = store.fact(cell, "digests")
            for metric in plan.metrics:
                wanted.setdefault(plan.score(metric, method, begun[i], aims[i], digest), []).append((i, method, metric))
    scores: list[dict[str, Any]] = []
    curved: Curves = {}
    used = sorted((c for c in wanted if c in store), key=store.place)
    for cell in used:
        shard, row = store.shard(cell)
        more = {k: v[row].item() for k, v in shard.columns.items() if v.ndim == 1}
        told = {"score": more.pop("score"), "tied": more.pop("tied", math.nan), **more}
        for i, method, metric in wanted[cell]:
            scores.append({"image": i, "method": method, "metric": metric, **told})
            if "values" in shard.columns:
                _, places = curved.setdefault((method, metric), (shard.shared["fractions"], [None] * len(begun)))
                places[i] = cell
    methods, metrics = ({name: i for i, name in enumerate(names)} for names in (plan.methods, plan.metrics))
    scores.sort(key=lambda s: (s["image"], methods[s["method"]], metrics[s["metric"]]))
    costs.sort(key=lambda c: (c["image"], methods[c["method"]]))
    order = sorted(curved, key=lambda pair: (methods[pair[0]], metrics[pair[1]]))
    return costs, scores, {pair: curved[pair] for pair in order}, used


def _alone(costs: list[dict[str, Any]], scores: list[dict[str, Any]], metrics: dict[str, dict[str, Any]]) -> int:
    """What every method and metric would have cost by itself."""
    spent = {(c["image"], c["method"]): c["forwards"] + c["backwards"] for c in costs}
    total = sum(spent.values())
    for one in scores:
        facts = metrics[one["metric"]]
        total += facts.get("cost", 0) + facts.get("explanations", 0) * spent[one["image"], one["method"]]
    return int(total)


def pictured(bounds: tuple[float, float] | None, shape: Sequence[int]) -> bool:
    """Whether images can be kept as 8-bit files: not without bounds, or with odd channels."""
    return bounds is not None and len(shape) == 3 and shape[0] in (1, 3)


def picture_file(root: Path, picture: Picture) -> Path:
    """Where an image lies."""
    return root / "images" / picture.file


def save_picture(root: Path, picture: Picture, image: Tensor, bounds: tuple[float, float] | None) -> None:
    """Keep an image as a file, if it is not there already.

    Raises:
        OSError: It cannot be written.
    """
    path = picture_file(root, picture)
    if bounds is None or path.is_file():
        return
    low, high = bounds
    pixels = ((image.cpu() - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with atomic(path) as temporary:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, "PNG")

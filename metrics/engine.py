"""Running a comparison: blocks of images through every method and metric, what is known already left out."""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import cloudpickle
import joblib
import torch
from attriscope.attribution import attributor as methods
from attriscope.attribution._files import folder
from attriscope.attribution._parameters import Configured, canonical
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.baselines import Baseline
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model, Network
from attriscope.attribution.targets import Target, TargetLike
from torch import Tensor
from tqdm.auto import tqdm

from . import configuration
from . import metric as registry
from .inputs import Block, Source, source
from .metric import Annotations, MapMetric, MethodMetric, Metric, Scored, UnitMetric, as_mask, check_maps
from .plan import Picture, Plan, frozen, request
from .store import Foreign, Shard, Store
from .study import CONFIGURATION, HEADER, Header, Study, pictured, save_picture

One: TypeAlias = "str | Attributor | tuple[str, Mapping[str, Any]]"
STREAM = 32  # batches: so many evaluations are collected before they run, so that batches are full

ROUND = 4  # blocks for each process, where a backend hands nothing back before all of them are done

__all__ = ["compare"]


def compare(
    model: Model | Network,
    inputs: Any,
    target: "TargetLike | Target | Literal['label']" = None,
    *,
    attributors: "Sequence[One] | Mapping[str, One] | str",
    metrics: "Sequence[str | Metric] | Mapping[str, str | Metric] | str" = ("insertion", "deletion"),
    out: str | os.PathLike[str] | None = None,
    budget: int | None = None,
    baselines: Sequence[Baseline] | None = None,
    annotations: Annotations | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    limit: int | None = None,
    preparation: Any = None,
    block: int = 8,
    jobs: int = 1,
    origin: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Study:
    """Run methods on images and score their maps.

    Images go in blocks; within one, what all methods and metrics want evaluated runs in full batches, and what they share
    (the image, the baseline, equal maps) is paid once. With `out`, everything that is finished is on disk at once: however
    the process ends, the same call goes on from there, and so does one with more methods, metrics or images.

    Args:
        model: A `Model`, or a network.
        inputs: `(N, C, H, W)` in the model's bounds, a folder of images (with a `labels.csv`, if there is one), a list of
            files, a `Dataset`, a `DataLoader`, or a dataset of Hugging Face; all but the tensor are read block by block.
        target: What to explain, as in `Attributor.attribute`; `"label"` is the inputs' own label. Taken once for all
            methods.
        attributors: Names, patterns (`"*cam*"`: those that run on the model), `(name, options)`, or attributors; in a
            mapping, with labels.
        metrics: Names, patterns or metrics; in a mapping, with labels.
        out: The study's folder; it is made if need be.
        budget: The most forwards + backwards per image for each method given by name. Methods that do not fit are left
            out and named in `Study.left_out`.
        baselines: Several baselines for every metric that has one: it is scored under each, as "insertion (black)".
        annotations: Where the objects are, for metrics that need to know: `{"mask": (N, H, W)}` or `{"boxes": [...]}`.
        names: A name for each image.
        classes: Class names, for figures.
        limit: The most images.
        preparation: How files become inputs, a `metrics.Preparation`.
        block: Images that are held at a time.
        jobs: Processes; -1 is one for each core. They are joblib's, so that `with joblib.parallel_config("dask")` (or
            "ray", "loky", "threading") says where they run.
        origin: More for the TOML that is written into `out`: where the model and the images come from.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: Something is wrong with any argument; said before anything long is run.
        OSError: `out` cannot be written to, or its disk is full; what was finished stays.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> study = compare(network, torch.rand(3, 3, 4, 4), attributors=["saliency", ("rise", {"masks": 20})], progress=False)
        >>> study.summary().loc["insertion", "rank"].tolist()
        [1.0, 2.0]
    """
    started = time.perf_counter()
    wrapped = Model.wrap(model)
    if wrapped.kind != "image":
        raise ValueError("compare takes images, (N, C, H, W); for other inputs call attributors and metrics themselves")
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"block={block}: give a whole number of images, at least one")
    if not isinstance(jobs, int) or jobs == 0:
        raise ValueError(f"jobs={jobs}: give a number of processes, or -1 for one on each core")
    if out is not None:
        folder(out)
    given = source(
        inputs,
        wrapped,
        target=cast("Any", target),
        names=names,
        annotations=annotations,
        limit=limit,
        preparation=preparation,
    )
    blocks = given.blocks(block)
    first = next(blocks, None)
    if first is None:
        raise ValueError("there are no images to compare methods on")
    wrapped.shape = tuple(first.images.shape[1:])  # what a budget buys depends on it
    chosen, left_out = _attributors(attributors, wrapped, budget)
    judges = _metrics(metrics, baselines, left_out, annotated=first.annotations is not None)
    for label, made in (*chosen.items(), *judges.items()):
        _for_all(label, made.params)
    work = Work(wrapped, chosen, judges, Plan.of(wrapped, chosen, judges, kept=out is not None))
    wrapped.resolve(first.images, first.target)
    named = classes if classes is not None else given.classes
    header = Header(
        work.plan,
        methods={k: json.loads(a.canonical) for k, a in chosen.items()},
        metrics={k: _protocol(m, wrapped.shape) for k, m in judges.items()},
        classes=dict(named) if isinstance(named, Mapping) else dict(enumerate(named or ())),
        left_out=left_out,
        bounds=wrapped.bounds,
        shape=wrapped.shape,
        versions=_versions(),
    )
    run = _Run(work, header, given, None if out is None else Path(out), block=block, jobs=jobs)
    run.write(origin, budget=budget)
    total = None if given.count is None else given.count * run.price
    with tqdm(total=total, unit="eval", disable=not progress, desc="compare", leave=False) as bar:
        images = run.all(itertools.chain([first], blocks), bar)
    header.seconds += time.perf_counter() - started
    return run.finish(images)


# -- what a process needs to work on a block ---------------------------------------------------------------------------


@dataclass
class Done:
    """What became of one block.

    Attributes:
        shards: What could not be written to the study's folder from where it was found.
        failed: Image name, method (or "method, metric"), and why.
        images: How many it has.
    """

    shards: list[Shard] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)
    images: int = 0


@dataclass
class Work:
    """The model, the methods and the metrics: the same for every block.

    Attributes:
        model: The model.
        chosen: Methods by label.
        judges: Metrics by label.
        plan: How cells are named.
    """

    model: Model
    chosen: dict[str, Attributor]
    judges: dict[str, Metric]
    plan: Plan

    def price(self, shape: tuple[int, ...]) -> int:
        """Evaluations for one image if nothing is shared; 0 for somebody else's method, which knows it when it has run."""
        total = 0
        for attributor in self.chosen.values():
            own = 0
            with contextlib.suppress(ValueError, NotImplementedError):
                own = sum(type(attributor).cost(shape, **attributor.params))
            total += own + sum(j.cost(shape) + j.explanations * own for j in self.judges.values())
        return total

    def pictures(self, part: Block) -> list[Picture]:
        """The images of a block, as cells know them."""
        n = len(part.images)
        masks = [""] * n
        if self.plan.annotated and part.annotations is not None:
            masks = [canonical(m) for m in as_mask(part.annotations, part.images)]
        return [
            Picture(part.names[i], canonical(part.images[i]), int(part.rows[i]), request(part.target, i, n), masks[i])
            for i in range(n)
        ]

    def known(self, pictures: list[Picture], store: Store) -> list[str]:
        """The cells of these images that are there and whole."""
        found = []
        for picture in pictures:
            clean = self.plan.clean(picture)
            if not store.has(clean):
                continue
            found.append(clean)
            aim = frozen(picture, _index(store, clean))
            for method in self.chosen:
                cell = self.plan.map(method, picture, aim)
                if not store.has(cell):
                    continue
                digest = store.fact(cell, "digests")
                own = [self.plan.score(m, method, picture, aim, digest) for m in self.judges]
                found += [cell, *(c for c in own if store.has(c))]
        return found

    def complete(self, pictures: list[Picture], known: Sequence[str]) -> bool:
        """Whether nothing is left to do for these images."""
        return len(known) == len(pictures) * (1 + len(self.chosen) * (1 + len(self.judges)))

    def run(self, part: Block, pictures: list[Picture], store: Store) -> list[tuple[str, str, str]]:
        """Find every cell of a block that the store does not know, and put it there; what failed comes back."""
        todo = _BlockRun(self, part, pictures, store)
        with self.model.sharing():
            todo.run()
        return todo.failed


def _index(store: Store, clean: str) -> Tensor | None:
    """What is explained of an image; `None` for a callable."""
    shard, row = store.shard(clean)
    return shard.columns["target"][row] if "target" in shard.columns else None


class _BlockRun:
    """One block on its way through all methods and metrics."""

    def __init__(self, work: Work, part: Block, pictures: list[Picture], store: Store) -> None:
        self.work, self.model, self.plan, self.store = work, work.model, work.plan, store
        self.part, self.pictures = part, pictures
        self.images = part.images.to(self.model.device or part.images.device)
        self.count = len(self.images)
        self.target = self.look()
        index = self.target.index
        self.aims = [frozen(p, None if index is None else index[i]) for i, p in enumerate(pictures)]
        self.mask = None
        if part.annotations is not None and self.plan.annotated:
            self.mask = as_mask(part.annotations, self.images)
        self.failed: list[tuple[str, str, str]] = []
        self.streams: dict[tuple[int, ...], Evaluations] = {}
        self.waiting: dict[str, list[tuple[str, list[int], list[str], Callable[[], Scored]]]] = {}
        self.asked: set[str] = set()
        self.twins: dict[str, list[tuple[str, int]]] = {}
        self.pending = 0

    def look(self) -> Target:
        """What is explained of each image, and what the network says of it; nobody's cost."""
        cells = [self.plan.clean(p) for p in self.pictures]
        if all(self.store.has(c) for c in cells):
            index = [_index(self.store, c) for c in cells]
            if index[0] is None:
                return self.model.resolve(self.images, self.part.target)
            return self.model.resolve(self.images, torch.stack([i for i in index if i is not None]))
        target = self.model.resolve(self.images, self.part.target)
        with self.model.uncounted():
            probability = self.model.scores(self.images, target, output="probability").float().cpu()
            flat = self.model.output_shape is not None and len(self.model.output_shape) == 1
            predicted = self.model.outputs(self.images).argmax(1).cpu() if flat else torch.full((self.count,), -1)
        columns = {"probability": probability, "predicted": predicted}
        if target.index is not None:
            columns["target"] = target.index
        self.store.put(Shard("clean", cells, columns))
        return target

    def run(self) -> None:
        """All methods, one after another, and what metrics want to know of their maps."""
        for label, attributor in self.work.chosen.items():
            cells = [self.plan.map(label, p, aim) for p, aim in zip(self.pictures, self.aims, strict=True)]
            missing = [i for i, c in enumerate(cells) if not self.store.has(c)]
            fresh = self.explain(label, attributor, missing, cells) if missing else {}
            self.judge(label, attributor, cells, fresh)
            if self.pending >= STREAM * self.model.batch() * max(1, self.count):
                self.flush()
        self.flush()

    def some(self, rows: list[int]) -> tuple[Tensor, Target]:
        """Images and targets of some rows; of all of them nothing is copied."""
        if len(rows) == self.count:
            return self.images, self.target
        return self.images[rows], self.target.take(torch.tensor(rows))

    # -- maps ----------------------------------------------------------------------------------------------------------

    def explain(self, label: str, attributor: Attributor, rows: list[int], cells: list[str]) -> dict[int, Tensor]:
        """The maps of some rows by row, kept in the store too; where a block fails its images are tried one by one."""
        saved = self.model.saved
        try:
            images, target = self.some(rows)
            found = attributor.for_rows(self.part.rows[rows]).explain(images, target)
            check_maps(found.maps, images)
        except Exception as error:  # noqa: BLE001  one method's trouble must not end the night
            if len(rows) > 1:
                return {k: m for i in rows for k, m in self.explain(label, attributor, [i], cells).items()}
            self.fail(rows, label, error)
            return {}
        spent, maps = found.forwards + found.backwards, found.maps.float().cpu()
        facts = {
            "digests": [canonical(m) for m in maps],
            "forwards": found.forwards.tolist(),
            "backwards": found.backwards.tolist(),
            "seconds": [found.seconds / len(rows)] * len(rows),
            "paid": int(spent.sum()) - (self.model.saved - saved),
        }
        self.store.put(Shard("map", [cells[i] for i in rows], {"map": maps}, facts=facts))
        return dict(zip(rows, maps, strict=True))

    def fail(self, rows: Iterable[int], what: str, error: Exception) -> None:
        """Remember what failed, and say so."""
        why = " ".join(f"{type(error).__name__}: {error}".split())
        names = [self.pictures[i].name for i in rows]
        self.failed += [(name, what, why) for name in names]
        warnings.warn(f"{what} failed on {', '.join(names)}: {why}; going on without", RuntimeWarning, stacklevel=2)

    # -- scores --------------------------------------------------------------------------------------------------------

    def judge(self, label: str, attributor: Attributor, cells: list[str], fresh: dict[int, Tensor]) -> None:
        """Ask for what every metric wants to know of a method's maps, and is not known yet."""
        there = [i for i, c in enumerate(cells) if c in self.store]
        digests = {i: self.store.fact(cells[i], "digests") for i in there}
        taken: dict[tuple[int, ...], Tensor] = {}  # the same tensor for all metrics: what they make of it is shared
        for name, metric in self.work.judges.items():
            asked = {i: self.plan.score(name, label, self.pictures[i], self.aims[i], digests[i]) for i in there}
            rows = []
            for i, cell in asked.items():
                if cell in self.asked:
                    self.twins.setdefault(cell, []).append((label, i))
                elif not self.store.has(cell):
                    rows.append(i)
            if not rows:
                continue
            keys = [asked[i] for i in rows]
            which = tuple(rows)
            if which not in taken:
                own = [fresh[i] if i in fresh else self.store.row(cells[i], "map") for i in rows]
                taken[which] = torch.stack(own).to(self.images.device)
            maps = taken[which]
            try:
                if isinstance(metric, MethodMetric):
                    scored, paid = self.measure(metric, attributor, rows, maps)
                    self.keep([(keys, sound(scored, len(rows)))], paid=paid)
                    continue
                assert isinstance(metric, MapMetric)
                if not metric.keeps_channels:
                    maps = taken.setdefault((-1, *which), check_maps(maps, self.images[rows]))
                finish = self.ask(metric, rows, maps)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  one metric's trouble must not end the night
                self.fail(rows, f"{label}, {name}", error)
            else:
                self.asked.update(keys)
                self.waiting.setdefault(name, []).append((label, rows, keys, finish))

    def ask(self, metric: MapMetric, rows: list[int], maps: Tensor) -> Callable[[], Scored]:
        """Put a metric's questions on the stream of these rows."""
        which = tuple(rows)
        images, target = self.some(rows)
        if which not in self.streams:
            mask = None if self.mask is None else self.mask[rows]
            self.streams[which] = Evaluations(self.model, target, mask=mask)
        finish = metric.prepare(self.streams[which], images, maps)
        self.pending += metric.cost(tuple(images.shape[1:])) * len(rows)
        return finish

    def measure(
        self, metric: MethodMetric, attributor: Attributor, rows: list[int], maps: Tensor
    ) -> tuple[Scored, int]:
        """Run a method again for a metric; its scores, and what was paid."""
        saved = self.model.saved
        images, target = self.some(rows)
        with self.model.ledger(self.count) as ledger:
            metric.accept(attributor)
            scored = metric.measure(attributor.for_rows(self.part.rows[rows]), images, target, maps)
        spent = int(ledger.forwards.sum() + ledger.backwards.sum())
        return scored, spent - (self.model.saved - saved)

    def flush(self) -> None:
        """Run all that is waiting, and keep the scores."""
        waiting, self.waiting = self.waiting, {}
        with self.model.ledger(self.count) as ledger:
            for stream in self.streams.values():
                stream.run()
        paid = int(ledger.forwards.sum() + ledger.backwards.sum())
        self.pending = 0
        for name, each in waiting.items():
            found = []
            for label, rows, keys, finish in each:
                try:
                    found.append((keys, sound(finish(), len(rows))))
                except Exception as error:  # noqa: BLE001  as above
                    self.fail(rows, f"{label}, {name}", error)
                    for twin, row in (t for k in keys for t in self.twins.get(k, ())):
                        self.fail([row], f"{twin}, {name}", error)
            paid = self.keep(found, paid=paid)

    def keep(self, found: list[tuple[list[str], Scored]], *, paid: int) -> int:
        """One metric's scores as a shard; of several sizes of curves, several. What is left of `paid` to be told."""
        groups: dict[str, list[tuple[list[str], Scored]]] = {}
        for keys, scored in found:
            shape = (scored.fractions.tolist(), sorted(scored.details), bool(scored.tied.numel()))
            groups.setdefault(json.dumps(shape), []).append((keys, scored))
        for group in groups.values():
            columns = {"score": torch.cat([s.scores for _, s in group])}
            if group[0][1].tied.numel():
                columns["tied"] = torch.cat([s.tied.double().cpu() for _, s in group])
            for name in sorted(group[0][1].details):
                columns[name] = torch.cat([s.details[name].double().cpu() for _, s in group])
            shared = {}
            if group[0][1].values.numel():
                columns["values"] = torch.cat([s.values.cpu() for _, s in group])
                shared["fractions"] = group[0][1].fractions
            keys = [k for own, _ in group for k in own]
            self.store.put(Shard("score", keys, columns, shared, {"paid": paid}))
            paid = 0
        return paid


TAKEN = {"image", "method", "metric", "name", "score", "tied", "values"}  # columns of a study's own


def sound(scored: Scored, count: int) -> Scored:
    """What a metric found, if it is what a study can keep.

    Raises:
        ValueError: It is not.
    """
    if scored.scores.shape != (count,):
        raise ValueError(f"its scores have shape {tuple(scored.scores.shape)} for {count} images")
    if bool(scored.scores.isinf().any()):
        raise ValueError("its score is infinite")
    if taken := TAKEN & scored.details.keys():
        raise ValueError(f"its details are called {', '.join(sorted(taken))}, which a study's table has already")
    for name, value in (*scored.details.items(), ("tied", scored.tied)):
        if value.shape != (count,) and (name != "tied" or value.numel()):
            raise ValueError(f"{name} has shape {tuple(value.shape)} for {count} images")
    return scored


# -- in this process and in others -------------------------------------------------------------------------------------


_WORKERS: dict[str, Work] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Package:
    """What every process needs: the work as bytes, which are sent along with each block and unpacked once in a process.

    Attributes:
        data: The bytes.
        digest: Of them.
        home: The process that packed them.
        threads: How many a process elsewhere may use.
    """

    data: bytes
    digest: str
    home: int
    threads: int

    @classmethod
    def of(cls, work: Work, jobs: int) -> "Package":
        """Pack for so many processes, so that together they have one thread for each core.

        Raises:
            ValueError: Something in it cannot be packed.
        """
        try:
            data = cloudpickle.dumps(work)
        except Exception as error:
            raise ValueError(f"the model or a method cannot be sent to another process: {error}; use jobs=1") from error
        return cls(data, hashlib.sha256(data).hexdigest(), os.getpid(), max(1, (os.cpu_count() or 1) // max(1, jobs)))


def _elsewhere(package: Package, part: Block, pictures: list[Picture], store: Store) -> Done:
    """One block in a process of joblib's."""
    with _LOCK:  # a model counts for one at a time
        if os.getpid() != package.home:
            torch.set_num_threads(package.threads)
        if package.digest not in _WORKERS:
            _WORKERS.clear()
            _WORKERS[package.digest] = pickle.loads(package.data)  # noqa: S301  from the process that called us
        seen = store.root is not None and (store.root / HEADER).is_file()
        local = store if seen else store.inside()
        failed = _WORKERS[package.digest].run(part, pictures, local)
        return Done([] if seen else local.fresh(), failed, len(pictures))


class _Run:
    """A study while it grows."""

    def __init__(self, work: Work, header: Header, given: Source, out: Path | None, *, block: int, jobs: int) -> None:
        self.work, self.header, self.given, self.out, self.block, self.jobs = work, header, given, out, block, jobs
        self.price = work.price(header.shape)  # of one image
        self.store = Store(out, mend=True)
        self.before: dict[int, Picture] = {}
        self.kept: dict[int, Tensor] = {}
        self.pictures: dict[int, Picture] = {}
        self.lock = threading.Lock()
        if out is not None:
            try:
                before = Header.read(out)
            except FileNotFoundError:
                return
            except Foreign:
                raise
            except ValueError as error:
                warnings.warn(f"{error}; it is written anew", RuntimeWarning, stacklevel=3)
                return
            if before.plan.model == work.plan.model:
                header.seconds = before.seconds
                self.before = {p.row: p for p in before.pictures}  # shown until this run has seen its own
                header.pictures = list(before.pictures)

    def write(self, origin: Mapping[str, Any] | None, *, budget: int | None) -> None:
        """What the study is, before anything is run."""
        if self.out is None:
            return
        more = {"block": self.block, **({} if budget is None else {"budget": budget}), **(origin or {})}
        configuration.write(
            self.out / CONFIGURATION,
            study=more,
            methods={k: {"name": a.name, "params": a.params} for k, a in self.work.chosen.items()},
            metrics={k: {"name": m.name, "params": m.params} for k, m in self.work.judges.items()},
            model={"fingerprint": self.work.plan.model},
        )
        self.header.write(self.out)

    def all(self, blocks: Iterator[Block], bar: Any) -> Tensor | None:
        """Every block; the images, where they are wanted in memory."""
        todo = self.todo(blocks, bar)
        if self.jobs == 1:
            with self.work.model.listen(bar.update):
                for part, pictures, _ in todo:
                    bar.set_postfix_str(f"images {part.start + 1} to {part.start + len(pictures)}")
                    self.done(Done(failed=self.work.run(part, pictures, self.store)))
        else:
            self.elsewhere(todo, bar)
        if self.out is not None or not self.kept:
            return None
        return torch.cat([self.kept[k] for k in sorted(self.kept)])

    def todo(self, blocks: Iterator[Block], bar: Any) -> Iterator[tuple[Block, list[Picture], Store]]:
        """The blocks in which something is missing, with what is known of them."""
        for part in blocks:
            pictures = self.work.pictures(part)
            with self.lock:
                self.pictures.update({p.row: p for p in pictures})
            if self.out is None:
                self.kept[part.start] = part.images.cpu()
            else:
                self.store.look()
                if pictured(self.header.bounds, self.header.shape):
                    for picture, image in zip(pictures, part.images, strict=True):
                        save_picture(self.out, picture, image, self.header.bounds)
            known = self.work.known(pictures, self.store)
            if self.work.complete(pictures, known):
                bar.update(len(pictures) * self.price)
                continue
            yield part, pictures, self.store.part(known)

    def elsewhere(self, todo: Iterator[tuple[Block, list[Picture], Store]], bar: Any) -> None:
        """Blocks in other processes, as many at a time as there are."""
        count = joblib.effective_n_jobs(self.jobs)
        package = Package.of(self.work, count)
        tasks = (joblib.delayed(_elsewhere)(package, *one) for one in todo)
        how: dict[str, Any] = {"n_jobs": self.jobs, "pre_dispatch": "2*n_jobs", "batch_size": 1}
        try:
            parallel = joblib.Parallel(return_as="generator_unordered", **how)
        except ValueError:  # Ray's backend hands everything back at once: a few blocks at a time
            parallel = joblib.Parallel(**how)
            while some := list(itertools.islice(tasks, ROUND * max(1, count))):
                for done in parallel(some):
                    self.done(done)
                    bar.update(done.images * self.price)
            return
        for done in parallel(tasks):
            self.done(done)
            bar.update(done.images * self.price)

    def done(self, done: Done) -> None:
        """Keep what a block found."""
        for shard in done.shards:
            self.store.put(shard)
        self.header.failed += done.failed
        self.progress()

    def progress(self) -> None:
        """Say in the folder how far it is; a list that another process made longer stays."""
        self.gather()
        if self.out is None:
            return
        with contextlib.suppress(FileNotFoundError, ValueError):
            there = Header.read(self.out)
            if there.plan == self.header.plan and len(there.pictures) > len(self.header.pictures):
                return
        self.header.write(self.out)

    def gather(self) -> None:
        """What is known of the inputs by now."""
        with self.lock:  # joblib looks for the next blocks in a thread of its own
            seen = self.pictures if self.header.finished else {**self.before, **self.pictures}
            self.header.pictures = [seen[k] for k in sorted(seen)]
        self.header.skipped = dict(self.given.skipped)

    def finish(self, images: Tensor | None) -> Study:
        """The study, and its tables on disk."""
        self.header.finished = True
        self.gather()
        if self.out is not None:
            self.header.write(self.out)
            self.store.look()
        study = Study.of(self.store, self.header, images)
        if self.out is not None:
            study.tables(self.out)
        return study


# -- what was asked for ------------------------------------------------------------------------------------------------


def _labelled(given: Any) -> list[tuple[str | None, Any]]:
    """What was asked for, each with its label, if it was given one."""
    if isinstance(given, Mapping):
        return list(given.items())
    return [(None, one) for one in ([given] if isinstance(given, str | Configured) else given)]


def _attributors(
    given: "Sequence[One] | Mapping[str, One] | str", model: Model, budget: int | None
) -> tuple[dict[str, Attributor], dict[str, str]]:
    """Attributors by label, and those that a budget leaves out."""
    chosen: dict[str, Attributor] = {}
    left_out: dict[str, str] = {}
    for label, one in _labelled(given):
        name, options = one if isinstance(one, tuple) else (one, {})
        if isinstance(name, Attributor):
            made = name if name.model is model else name.with_model(model)
            _put(chosen, made.name if label is None else label, made)
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
                left_out[each if label is None else label] = str(error)
                continue
            if pattern and each in chosen and chosen[each] == made:
                continue  # two patterns name it
            _put(chosen, each if label is None else label, made)
    if not chosen:
        raise ValueError(f"no method is left to run: {left_out or 'none was given'}")
    return chosen, left_out


def _metrics(
    given: "Sequence[str | Metric] | Mapping[str, str | Metric] | str",
    baselines: Sequence[Baseline] | None,
    left_out: dict[str, str],
    *,
    annotated: bool,
) -> dict[str, Metric]:
    """Metrics by label, each under every baseline; those that a pattern finds and that cannot run are left out."""
    judges: dict[str, Metric] = {}
    for label, one in _labelled(given):
        if isinstance(one, Metric):
            _put(judges, one.name if label is None else label, one)
            continue
        pattern = re.search(r"[*?\[/]", one) is not None
        found = registry.available(one) if pattern else [registry.REGISTRY.find(one).name]
        if not found:
            raise ValueError(f"no metric matches {one!r}; there are {', '.join(registry.available())}")
        for name in found:
            needs = "annotations" in registry.REGISTRY.facts(name).needs
            if needs and not annotated and pattern:
                left_out[name] = "it needs to know where the object is: annotations="
                continue
            if pattern and issubclass(cls := registry.REGISTRY.find(name), UnitMetric):
                left_out[name] = f"it scores {cls.unit}"
                continue
            _put(judges, name if label is None else label, registry.create(name))
    for name, judge in judges.items():
        if isinstance(judge, UnitMetric):
            raise ValueError(
                f"{name} scores {judge.unit}, not a study's single images: call "
                f"metrics.create({judge.name!r}).score(attributor, ...) for each method"
            )
        if not annotated and "annotations" in judge.facts.needs:
            raise ValueError(
                f'{name} needs to know where the object is: annotations={{"mask": ...}} or {{"boxes": ...}}'
            )
    return judges if baselines is None else _under(judges, baselines)


def _for_all(label: str, params: Mapping[str, Any]) -> None:
    """Refuse what is given for each image: a study works on blocks of them, in any order.

    Raises:
        ValueError: There is something.
    """
    for name, rank in (("baseline", 4), ("regions", 3)):
        value = params.get(name)
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Tensor) and one.ndim == rank and len(one) > 1:
                raise ValueError(
                    f"{label}: {name} of shape {tuple(one.shape)} has one for each image, and a study takes what holds for "
                    f"all of them: give one, of shape (1, ...), or a callable that makes it of the images"
                )


def _under(judges: dict[str, Metric], baselines: Sequence[Baseline]) -> dict[str, Metric]:
    """Every metric that has a baseline under each of these."""
    if isinstance(baselines, str) or not len(baselines):
        raise ValueError(f"baselines={baselines!r}: give a list, such as ['black', 'mean', 'blur']")
    found: dict[str, Metric] = {}
    for label, judge in judges.items():
        if "baseline" not in judge.params:
            _put(found, label, judge)
            continue
        for i, one in enumerate(baselines):
            text = one if isinstance(one, str) else getattr(one, "__name__", f"baseline {i + 1}")
            _put(found, f"{label} ({text})", type(judge)(**{**judge.params, "baseline": one}))
    return found


def _put(table: dict[str, Any], label: str, value: Any) -> None:
    """Put under a label; a second of the same name gets its options as a label, a third a number."""
    if not label:
        raise ValueError("a label is empty: call the method or metric something")
    if "/" in label:
        raise ValueError(f"the label {label!r} has a slash in it: choose another")
    if label in table:
        label = repr(value)
    n, first = 2, label
    while label in table:
        label, n = f"{first} #{n}", n + 1
    table[label] = value


def _protocol(judge: Metric, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "name": judge.name,
        "protocol": canonical(judge.protocol),
        "higher_is_better": judge.higher_is_better,
        "range": list(judge.range),
        "chance": judge.chance,
        "cost": judge.cost(shape),
        "explanations": judge.explanations,
        "family": judge.facts.family,
        "faithful": judge.faithful,
    }


def _versions() -> dict[str, str]:
    """What the numbers were made by."""
    packages = ("attriscope", "torch", "numpy", "scipy", "captum")
    return {**{p: version(p) for p in packages}, "python": platform.python_version(), "platform": platform.platform()}

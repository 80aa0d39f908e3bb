"""Where images come from: a reader for each kind of inputs, which hands them out one by one, and their labels."""

import csv
import operator
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from attriscope.attribution.model import Model
from PIL import Image
from torch import Tensor
from torch.utils import data

from . import photographs

LABEL, LABELS = "label", "labels.csv"  # the target that is each image's own, and the file that may hold it
IMAGE_KEYS, LABEL_KEYS = ("image", "img", "pixel_values"), ("label", "labels")
NAME_KEYS = ("name", "file_name", "filename", "file")
UNREADABLE = (
    OSError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)  # Pillow's, of bad files
SHUFFLING = (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)
ITEM = Tensor, Image.Image, str, os.PathLike
WANTED = "a tensor, a PIL image, a path, (image, label), or a dict with 'image' and perhaps 'label'"

__all__ = [
    "LABEL",
    "LABELS",
    "WANTED",
    "Raw",
    "Reader",
    "SkippedError",
    "labels_beside",
    "number",
    "one_line",
    "reader",
]


@dataclass
class Raw:
    """One image before it is a tensor: or why it cannot be read."""

    row: int
    image: Any
    label: Any = None
    name: str | None = None
    path: Path | None = None


class SkippedError(Exception):
    """Why an image cannot be read."""


@dataclass
class Reader:
    """One kind of inputs.

    Attributes:
        what: Its name.
        items: Hands out all images, or the first `limit`.
        count: How many there are, if that is known.
        classes: Names of classes.
        whole: All images, where they are in memory already.
        paths: The files, where all are.
        labels: All labels, where they are known before anything is read; `None` among them for an image without one.
        hint: What to do for labels.
        check: Raises a `ValueError` unless the first so many images have labels.
    """

    what: str
    items: Callable[[int | None], Iterator[Raw]]
    count: int | None
    classes: dict[int, str] = field(default_factory=dict)
    whole: Tensor | None = None
    paths: list[Path] | None = None
    labels: list[int | None] | None = None
    hint: str = "items must be (image, label), or dicts with 'label'"
    check: Callable[[int | None], None] | None = None

    def labelled(self, count: int | None) -> None:
        """Look for the labels that are asked for, as far as that can be done before anything is read.

        Raises:
            ValueError: They are not there.
        """
        if self.whole is not None:
            raise ValueError("target='label': a tensor has no labels; pass them as target")
        if self.check is not None:
            self.check(count)


def reader(inputs: Any, model: Model) -> Reader:
    """The kind that inputs are."""
    if isinstance(inputs, Tensor):
        return _tensor_reader(model.check(inputs))
    if isinstance(inputs, str | os.PathLike):
        return _file_reader([inputs])
    if isinstance(inputs, np.ndarray):
        raise TypeError("inputs are a numpy array: pass torch.from_numpy(array), (N, C, H, W) in the model's bounds")
    if isinstance(inputs, Mapping):
        raise TypeError(
            f"inputs hold {', '.join(map(repr, list(inputs)[:5]))}: pass one of them, such as one split of a dataset"
        )
    if isinstance(inputs, data.DataLoader):
        return _loader_reader(inputs)
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(i, str | os.PathLike) for i in inputs):
        return _file_reader(inputs)
    sized = hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")
    if sized and not isinstance(inputs, data.IterableDataset):
        return Reader("a dataset", lambda limit: _indexed(inputs, limit), len(inputs), _class_names(inputs))
    if hasattr(inputs, "__iter__"):
        return _stream_reader(inputs)
    raise TypeError(
        f"inputs are a {type(inputs).__name__}: pass a tensor, a folder, a list of files, a dataset with len() and items by "
        "number, a DataLoader, or an iterable of images"
    )


def _tensor_reader(images: Tensor) -> Reader:
    def items(limit: int | None) -> Iterator[Raw]:
        for row, image in enumerate(images[:limit]):
            yield Raw(row, image)

    return Reader("a tensor", items, len(images), whole=images)


def _file_reader(given: Iterable[str | os.PathLike[str]]) -> Reader:
    paths = photographs.listed(given)
    names = photographs.names(paths)
    beside = labels_beside(paths)
    known = [beside.numbers.get(p) for p in paths]

    def items(limit: int | None) -> Iterator[Raw]:
        for row, (path, name, label) in enumerate(list(zip(paths, names, known, strict=True))[:limit]):
            yield Raw(row, path, label, name, path)

    def check(count: int | None) -> None:
        for path in paths[:count]:
            if path not in beside.numbers:
                raise ValueError(f"target='label': {beside.reason(path)}")

    return Reader(
        "files", items, len(paths), beside.classes, paths=paths, labels=known, hint=f"see {LABELS}", check=check
    )


def _indexed(dataset: Any, limit: int | None) -> Iterator[Raw]:
    """The items of a dataset; one that cannot be read says so and does not end the others."""
    for row in range(len(dataset) if limit is None else min(limit, len(dataset))):
        try:
            item = dataset[row]
        except UNREADABLE as error:
            yield Raw(row, SkippedError(one_line(error)))
        else:
            yield _item(row, item)


def _stream_reader(inputs: Iterable[Any]) -> Reader:
    once = iter(inputs) is inputs
    started: list[bool] = []

    def items(limit: int | None) -> Iterator[Raw]:
        if once and started:
            raise ValueError("the iterator was read already: pass a list or a dataset, which can be read again")
        started.append(True)
        yield from _flat(iter(inputs), limit, "the iterable")

    count = len(cast("Any", inputs)) if hasattr(inputs, "__len__") else None
    return Reader("an iterable", items, count, _class_names(inputs))


def _loader_reader(loader: "data.DataLoader[Any]") -> Reader:
    """A loader's batches, in the order in which they come.

    Raises:
        ValueError: It shuffles.
    """
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, SHUFFLING) or getattr(sampler, "shuffle", False) is True:
        raise ValueError(
            "the DataLoader shuffles, so a study could not be continued: pass its dataset, or a loader with shuffle=False"
        )

    def items(limit: int | None) -> Iterator[Raw]:
        with torch.random.fork_rng(devices=[]):  # an iterator draws a seed for its workers
            batches = iter(loader)
        yield from _flat(batches, limit, "the DataLoader")

    return Reader("a DataLoader", items, _loaded(loader), _class_names(loader.dataset))


def _loaded(loader: "data.DataLoader[Any]") -> int | None:
    """How many images a loader gives, where it can be known."""
    if isinstance(loader.dataset, data.IterableDataset):
        return None
    try:
        sampler = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
        if sampler is None:
            return None
        held = len(cast("Any", sampler))
    except TypeError:
        return None
    return held - held % loader.batch_size if loader.drop_last and loader.batch_size else held


def _flat(iterator: Iterator[Any], limit: int | None, what: str) -> Iterator[Raw]:
    """Items one by one, whether they come alone or in batches; no more is taken than is needed."""
    row = 0
    while limit is None or row < limit:
        try:
            thing = next(iterator)
        except StopIteration:
            return
        except UNREADABLE as error:
            raise ValueError(
                f"{what} failed after {row} images: {one_line(error)}; a dataset with items by number goes on without those "
                "that cannot be read"
            ) from error
        for item in _rows(thing):
            if limit is not None and row >= limit:
                return
            yield _item(row, item)
            row += 1


def _rows(thing: Any) -> list[Any]:
    """The items of a batch; an item is a batch of one."""
    if isinstance(thing, Tensor):
        return list(thing) if thing.ndim == 4 else [thing]
    if isinstance(thing, Mapping):
        key = next((k for k in IMAGE_KEYS if k in thing), None)
        images = thing.get(key) if key is not None else None
        if not _several(images):
            return [thing]
        count = len(cast("Any", images))
        columns = {
            k: v
            for k, v in thing.items()
            if ((isinstance(v, Tensor) and v.ndim) or isinstance(v, list)) and len(v) == count
        }
        return [{k: v[i] for k, v in columns.items()} for i in range(count)]
    if isinstance(thing, list | tuple) and thing:
        if _several(thing[0]):
            count = len(thing[0])
            labels = (
                thing[1]
                if len(thing) > 1 and hasattr(thing[1], "__len__") and len(thing[1]) == count
                else [None] * count
            )
            return list(zip(thing[0], labels, strict=True))
        if isinstance(thing, list) and isinstance(thing[0], (*ITEM, tuple, Mapping)) and not _pair(thing):
            return list(thing)
    return [thing]


def _several(images: Any) -> bool:
    """Whether these are the images of a batch."""
    if isinstance(images, Tensor):
        return images.ndim == 4
    return isinstance(images, list | tuple) and bool(images) and _all_images(images)


def _all_images(images: Sequence[Any]) -> bool:
    return all(isinstance(i, ITEM) and getattr(i, "ndim", 3) == 3 for i in images)


def _pair(thing: Sequence[Any]) -> bool:
    """Whether this is an image and its label."""
    return len(thing) == 2 and not isinstance(thing[0], tuple | Mapping) and number(thing[1]) is not None


def _item(row: int, item: Any) -> Raw:
    """Image, label and name of one item.

    Raises:
        TypeError: It is none.
    """
    label = name = None
    image = item
    if isinstance(item, Mapping):
        key = next((k for k in IMAGE_KEYS if k in item), None)
        if key is None:
            raise TypeError(f"item {row} has {', '.join(map(repr, item))}, and no image: an item is {WANTED}")
        image = item[key]
        label = next((item[k] for k in LABEL_KEYS if k in item), None)
        name = next((Path(item[k]).stem for k in NAME_KEYS if isinstance(item.get(k), str) and item[k]), None)
    elif isinstance(item, list | tuple) and item:
        image, label = item[0], item[1] if len(item) > 1 else None
    path = None
    if isinstance(image, str | os.PathLike):
        path = image = Path(image)
    file = getattr(image, "filename", None) if isinstance(image, Image.Image) else path
    if name is None and isinstance(file, str | Path) and str(file):
        name = Path(file).stem
    return Raw(row, image, label, name, path)


def number(value: Any) -> int | None:
    """A label as a class number."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_floating_point() else None
    if value is None or isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _class_names(dataset: Any) -> dict[int, str]:
    """The names that a dataset has for its labels: `features["label"].names`, or `classes`."""
    while isinstance(dataset, data.Subset):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        names = next((getattr(features[k], "names", None) for k in LABEL_KEYS if k in features), None)
    else:
        names = getattr(dataset, "classes", None)
    whole = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
    return dict(enumerate(cast("list[str]", names))) if whole else {}


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -- labels.csv --------------------------------------------------------------------------------------------------------


@dataclass
class Beside:
    """What the `labels.csv` of each image's folder says.

    Attributes:
        numbers: The class of each file that is listed.
        classes: Names of classes.
        problems: Why a folder's has nothing to say.
    """

    numbers: dict[Path, int] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)
    odd: dict[Path, str] = field(default_factory=dict)

    def reason(self, path: Path) -> str:
        """Why a file has no class."""
        where = path.parent / LABELS
        if path.parent in self.problems:
            return self.problems[path.parent]
        return self.odd.get(path, f"{where} does not list {path.name}")


def labels_beside(paths: Sequence[Path]) -> Beside:
    """The classes of images, from the `labels.csv` beside them: columns `file`, `class_index` and perhaps `class_name`."""
    found = Beside()
    tables: dict[Path, dict[str, dict[str, str]]] = {}
    for path in paths:
        where = path.parent / LABELS
        if path.parent not in tables:
            tables[path.parent] = {}
            try:
                with where.open(encoding="utf-8-sig", newline="") as file:
                    rows = list(csv.DictReader(file))
                tables[path.parent] = {row["file"]: row for row in rows if row["class_index"] is not None}
            except FileNotFoundError:
                found.problems[path.parent] = f"there is no {LABELS} beside {path}"
            except OSError as error:
                found.problems[path.parent] = f"{where} cannot be read: {error.strerror or error}"
            except (KeyError, UnicodeDecodeError, csv.Error):
                found.problems[path.parent] = f"{where} must be a CSV file with the columns file and class_index"
        row = tables[path.parent].get(path.name)
        if row is None:
            continue
        try:
            number = int(row["class_index"])
        except ValueError:
            found.odd[path] = f"the class_index of {path.name} in {where} is {row['class_index']!r}, no number"
            continue
        found.numbers[path] = number
        if row.get("class_name"):
            found.classes[number] = row["class_name"]
    return found

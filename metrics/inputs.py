"""What goes into a study: tensors, files, datasets and whatever can be iterated, read in blocks when they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from attriscope.attribution import targets
from attriscope.attribution.model import Model, Network
from attriscope.attribution.targets import Target, TargetLike
from PIL import Image
from torch import Tensor

from . import photographs
from ._readers import LABEL, WANTED, Raw, Reader, SkippedError, number, one_line, reader
from ._where import Where
from .metric import Annotations
from .photographs import Preparation

Inputs: TypeAlias = Any  # Tensor | path | sequence | Dataset | DataLoader | iterable

__all__ = ["LABEL", "Block", "Inputs", "Source", "source"]


@dataclass(frozen=True)
class Block:
    """Some images that a study works on at a time.

    Attributes:
        start: How many images came before it.
        images: `(n, C, H, W)`, floating point, in the model's bounds.
        names: A name for each, unlike that of all others.
        target: What to explain, for these images: as `Model.resolve` takes it, `None` for the class that the model names.
        annotations: Where the object is, for these images, if it is known: as metrics take it.
        rows: The place of each in the inputs, `LongTensor (n,)`: images that could not be read are counted there.
    """

    start: int
    images: Tensor = field(repr=False)
    names: list[str]
    target: "TargetLike | Target" = None
    annotations: dict[str, Any] | None = field(default=None, repr=False)
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), repr=False)

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class _Ready:
    """One image with all that belongs to it."""

    row: int
    image: Tensor
    name: str
    label: int | None
    where: dict[str, Any] | None


def source(
    inputs: Inputs,
    model: Model | Network,
    *,
    target: "TargetLike | Target" = None,
    names: Sequence[str] | None = None,
    annotations: Annotations | None = None,
    limit: int | None = None,
    preparation: Preparation | None = None,
) -> "Source":
    """Images of any origin, to be read in blocks.

    Args:
        inputs: A tensor `(N, C, H, W)` in the model's bounds; a folder of images, with or without a `labels.csv` (columns
            `file`, `class_index` and perhaps `class_name`); a list of files; a `Dataset` or a `DataLoader` that does not
            shuffle; any iterable. Items of the latter are tensors `(C, H, W)` in the model's bounds, PIL images or paths;
            `(image, label)`; or dicts, as Hugging Face's datasets have them.
        model: The model that will see them.
        target: What to explain, as in `Attributor.attribute`: one per image counts all inputs, read or not; `"label"` is each
            image's own label. Labels that are not asked for are ignored.
        names: A name for each image; otherwise its file's, or its number. A name that is there already gets a number.
        annotations: `{"mask": (N, H, W)}` or `{"boxes": [...]}` in pixels of the input; or by file name (or name), in pixels
            of the upright photograph: `{"cat.jpg": {"boxes": [[left, top, right, bottom], ...]}}`, or `{"cat.jpg": {"mask":
            m}}` with a file or an array `(H, W)`.
        limit: The most images to read.
        preparation: How files and PIL images are resized and cropped; tensors are taken as they are.

    Raises:
        TypeError: `inputs` is nothing of this.
        ValueError: A number of targets, names or annotations that is not that of the images; labels that are asked for and not
            there; a loader that shuffles; or anything wrong with a tensor.
        OSError: A file that was named, or a folder, is not there.

    Example:
        >>> found = source(torch.rand(5, 3, 2, 2), torch.nn.Flatten(), target=[0, 1, 2, 3, 4])
        >>> [(b.start, b.names, b.target) for b in found.blocks(3)]
        [(0, ['000', '001', '002'], [0, 1, 2]), (3, ['003', '004'], [3, 4])]
    """
    wrapped = Model.wrap(model)
    if wrapped.kind != "image":
        raise ValueError("a study takes images, (N, C, H, W); for other inputs call attributors and metrics themselves")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit={limit!r}: give a whole number of at least 1, or None for all images")
    made = Source(wrapped, reader(inputs, wrapped), limit=limit, preparation=preparation)
    made.describe(target, names, annotations)
    return made


class Source:
    """Images that are read in blocks; made by `source`.

    Attributes:
        count: How many images there are, those that cannot be read among them; `None` where that is not known before the end.
        skipped: What could not be read, with the reason, by name; complete once all blocks were taken.
        files: The file of each image that was read from one, by name; likewise.
        preparation: How files and PIL images are resized and cropped.
    """

    def __init__(self, model: Model, read: Reader, *, limit: int | None, preparation: Preparation | None) -> None:
        self._model, self._reader, self._limit = model, read, limit
        self.preparation = preparation or Preparation()
        self._total = read.count  # what targets, names and annotations may count
        self.count = read.count if read.count is None or limit is None else min(read.count, limit)
        if self.count == 0:
            raise ValueError("inputs are empty: pass at least one image")
        self.skipped: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        self._target: Any = None
        self._names: list[str] | None = None
        self._where = Where(None, self.preparation)

    def describe(self, target: Any, names: Sequence[str] | None, annotations: Annotations | None) -> None:
        """Say what belongs to the images; arguments and errors as for `source`."""
        self._target = _plain(target)
        if isinstance(target, str):
            if target != LABEL:
                raise ValueError(f"target={target!r}: give a class number, one for each image, a callable, or 'label'")
            self._reader.labelled(self.count)
        given = self._each()
        if given is not None:
            self._fits(len(given), "targets")
        if names is not None:
            self._names = [str(n) for n in names]
            self._fits(len(self._names), "names")
        self._where = Where(annotations, self.preparation)
        for kind, held in self._where.lengths():
            self._fits(held, f"annotations[{kind!r}]")
        if self.paths is not None:
            self._where.complete(self.paths)

    def __repr__(self) -> str:
        return f"Source({self._reader.what}, {'?' if self.count is None else self.count} images)"

    @property
    def classes(self) -> dict[int, str]:
        """Names of classes that the inputs know; those of a dataset count where its labels are the model's classes."""
        own = self._reader.classes
        if self.paths is not None or isinstance(self._target, str) or self._model.output_shape == (len(own),):
            return dict(own)
        return {}

    @property
    def paths(self) -> list[Path] | None:
        """The files that are read, where all inputs are files."""
        return None if self._reader.paths is None else self._reader.paths[: self.count]

    def _fits(self, held: int, what: str) -> None:
        if self._total is not None and held not in {self._total, self.count}:
            raise ValueError(f"there are {held} {what} for {self.count} images: give one for each")

    def blocks(self, size: int) -> Iterator[Block]:
        """The images in blocks of `size`, the last of them smaller; what cannot be read is left out, and named in `skipped`.

        Raises:
            ValueError: `size` is less than 1; an image has another shape than the first, or is not finite or outside the
                model's bounds; a label is none; a target is out of range; nothing could be read; or an iterator is used up.
            TypeError: An item is no image, or an image of whole numbers.
        """
        if size < 1:
            raise ValueError(f"block={size}: at least one image must be held at a time")
        return self._blocks(size)

    def _blocks(self, size: int) -> Iterator[Block]:
        self.skipped, self.files = {}, {}
        start, held = 0, list[_Ready]()
        for one in self._images():
            held.append(one)
            if len(held) == size:
                yield self._block(held, start)
                start, held = start + size, []
        if held:
            yield self._block(held, start)
        elif start == 0:
            if not self.skipped:
                raise ValueError("inputs are empty: pass at least one image")
            name, reason = next(iter(self.skipped.items()))
            raise ValueError(f"none of the {len(self.skipped)} images could be read; {name}: {reason}")

    def _images(self) -> Iterator[_Ready]:
        taken: set[str] = set()
        first: _Ready | None = None
        for raw in self._reader.items(self._limit):
            name = _unused(self._name(raw), taken)
            try:
                image, size = self._tensor(raw, name)
            except SkippedError as error:
                self.skipped[name] = str(error)
                continue
            if first is not None and image.shape != first.image.shape:
                one, other = (" x ".join(map(str, i.shape)) for i in (image, first.image))
                raise ValueError(
                    f"image {name} is {one}, and {first.name} is {other}: all images of a study have one size; resize them in "
                    "the dataset, or pass files or PIL images, which are resized and cropped"
                )
            if raw.path is not None:
                self.files[name] = raw.path
            image = image if first is None else image.to(first.image.dtype)
            label = self._label(raw, name) if isinstance(self._target, str) else None
            ready = _Ready(raw.row, image, name, label, self._where.of(raw, name, size, image))
            first = first or ready
            yield ready

    def _name(self, raw: Raw) -> str:
        if self._names is None:
            return raw.name if raw.name is not None else f"{raw.row:03d}"
        if raw.row >= len(self._names):
            raise ValueError(f"there are {len(self._names)} names, and more images: give one for each")
        return self._names[raw.row]

    def _tensor(self, raw: Raw, name: str) -> tuple[Tensor, tuple[int, int] | None]:
        """An image `(C, H, W)` in the model's bounds; of a photograph also width and height."""
        image = raw.image
        if isinstance(image, SkippedError):
            raise image
        if isinstance(image, Path | Image.Image):
            try:
                pixels = photographs.decode(image) if isinstance(image, Path) else photographs.upright(image)
            except (OSError, ValueError) as error:
                raise SkippedError(one_line(error)) from error
            ready = self.preparation.apply(pixels)
            if self._model.bounds is not None:
                low, high = self._model.bounds
                ready = ready * (high - low) + low
            return ready, (pixels.shape[1], pixels.shape[0])
        if not isinstance(image, Tensor):
            hint = ": turn it into a tensor (C, H, W), in the model's bounds" if isinstance(image, np.ndarray) else ""
            raise TypeError(f"image {name} is a {type(image).__name__}{hint}; an item is {WANTED}")
        if image.ndim != 3:
            raise ValueError(f"image {name} has shape {tuple(image.shape)}: the image of an item is (C, H, W)")
        if not image.is_floating_point():
            raise TypeError(
                f"image {name} is {image.dtype}: convert it to floating point in the model's bounds, for 8-bit images as "
                "image.float() / 255, or give PIL images"
            )
        return image, None

    def _label(self, raw: Raw, name: str) -> int:
        if raw.label is None:
            raise ValueError(f"target='label': image {name} has no label; {self._reader.hint}")
        found, shape = number(raw.label), self._model.output_shape
        if found is None:
            raise ValueError(f"target='label': the label of image {name} is {raw.label!r}, no class number")
        if shape is not None and len(shape) < 2 and not 0 <= found < (*shape, 1)[0]:
            raise ValueError(
                f"target='label': the label of image {name} is {found}, and the model has {(*shape, 1)[0]} outputs: labels "
                "must be the model's class numbers"
            )
        return found

    def _block(self, held: list[_Ready], start: int) -> Block:
        names, rows = [h.name for h in held], [h.row for h in held]
        whole = self._reader.whole
        if whole is not None:  # checked, and nothing of it is left out
            images = whole[rows[0] : rows[0] + len(rows)]
        else:
            images = self._checked(torch.stack([h.image for h in held]), names)
        if start == 0:
            self._look_at_targets(images)
        return Block(start, images, names, self._targets(held, rows), self._where.block(held, rows), torch.tensor(rows))

    def _checked(self, images: Tensor, names: list[str]) -> Tensor:
        try:
            return self._model.check(images)
        except (ValueError, TypeError):
            for image, name in zip(images, names, strict=True):
                try:
                    self._model.check(image[None])
                except (ValueError, TypeError) as error:
                    raise type(error)(f"image {name}: {error}") from error
            raise

    # -- targets -------------------------------------------------------------------------------------------------------

    def _each(self) -> Any:
        """The targets, where one was given for each image."""
        target, shape = self._target, self._model.output_shape
        if target is None or isinstance(target, str) or not hasattr(target, "__len__"):
            return None
        if isinstance(target, Tensor):
            return target if target.ndim else None
        if isinstance(target, tuple) and all(hasattr(t, "__index__") for t in target):
            # a tuple of numbers is one entry of the output, or one class for each image where it is no such entry
            entry = shape is not None and len(shape) > 1 and len(target) == len(shape)
            read = self._limit if self._total is None else self.count
            return None if entry or len(target) not in {self._total, read} else target
        return None if callable(target) else target

    def _look_at_targets(self, images: Tensor) -> None:
        """All targets are checked before anything is run: one that is wrong for the last image is told now."""
        if self._target is None:
            return
        with self._model.uncounted():
            self._model.outputs(images[:1])
        shape, given = self._model.output_shape, self._each()
        if isinstance(self._target, str):
            labels = cast("list[int] | None", self._reader.labels)
            if labels is not None:
                targets.resolve(labels[: self.count], len(labels[: self.count]), shape)
        elif isinstance(self._target, targets.Scalar):
            if self._total is not None:
                self._target.check(self._total, shape)
        elif given is None:
            targets.resolve(self._target, 1, shape)
        elif not isinstance(given, Target):
            targets.resolve(given, len(given), shape)

    def _targets(self, held: list[_Ready], rows: list[int]) -> "TargetLike | Target":
        """The targets of some images."""
        if isinstance(self._target, str):
            return torch.tensor([h.label for h in held])
        given = self._each()
        if given is None:
            take = None if isinstance(self._target, Tensor) else getattr(self._target, "take", None)
            return cast("TargetLike", self._target if take is None else take(torch.tensor(rows)))
        if rows[-1] >= len(given):
            raise ValueError(f"there are {len(given)} targets, and more images: give one for each")
        if isinstance(given, Target):
            return given.take(torch.tensor(rows))
        return cast("TargetLike", given[rows] if isinstance(given, Tensor) else [given[i] for i in rows])


def _plain(target: Any) -> Any:
    """A target without numbers and arrays of numpy: these are numbers and lists."""
    if isinstance(target, np.ndarray | np.generic):
        return target.tolist()
    if type(target) in {list, tuple}:
        return type(target)(_plain(t) for t in target)
    return target


def _unused(name: str, taken: set[str]) -> str:
    """A name that no image has yet: case does not tell files apart everywhere."""
    found, k = name, 2
    while found.lower() in taken:
        found, k = f"{name}_{k}", k + 1
    taken.add(found.lower())
    return found

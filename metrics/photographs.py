"""Photographs as people have them: any size, format, depth and rotation; what the model sees of them, and where that lies."""

import contextlib
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Pixels: TypeAlias = np.ndarray[Any, Any]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
    ".avif",
)  # read in a folder
MARGIN = 16  # pixels beside a crop that resampling may look at
WHOLE = 4_000_000  # pixels of a resized photograph: with more, only a part of it is made
LARGE = 1200  # pixels along the longer side in a figure

__all__ = [
    "Box",
    "Gallery",
    "Photograph",
    "Preparation",
    "decode",
    "find",
    "inside",
    "listed",
    "names",
    "read",
    "upright",
]


@dataclass(frozen=True)
class Preparation:
    """How a model's input is made of a photograph: resized, then cropped in the middle.

    Attributes:
        size: Height and width of the input.
        resize: The shorter side before cropping, or height and width, whatever the photograph's shape is.
        resample: How it is resized.
        channels: 3, or 1 for a model that sees grey.

    Raises:
        TypeError: `size` is not two whole numbers.
        ValueError: They are below 1.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 224
    resample: Filter = "bicubic"
    channels: int = 3

    def __post_init__(self) -> None:
        size: Any = self.size
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(hasattr(n, "__index__") for n in size):
            square = f", as ({size}, {size})" if isinstance(size, int) else ""
            raise TypeError(f"Preparation: size={size!r}: give height and width{square}")
        if min(size) < 1:
            raise ValueError(f"Preparation: size={size!r}: height and width are at least 1 pixel")

    def enlarged(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the whole photograph after resizing; at least the crop's."""
        if isinstance(self.resize, tuple):
            tall, wide = self.resize
        else:
            shorter = min(width, height)  # whole pixels are what is left after the comma is cut off, as libraries do it
            wide, tall = width * self.resize // shorter, height * self.resize // shorter
        return max(wide, self.size[1]), max(tall, self.size[0])

    def crop(self, width: int, height: int) -> tuple[int, int]:
        """Where the crop begins in the resized photograph: left and top."""
        wide, tall = self.enlarged(width, height)
        return (wide - self.size[1]) // 2, (tall - self.size[0]) // 2

    def box(self, width: int, height: int) -> Box:
        """What the model sees of a photograph, in the photograph's pixels.

        Example:
            >>> Preparation((224, 224), 256).box(400, 300)
            (68.03..., 18.75, 330.79..., 281.25)
        """
        wide, tall = self.enlarged(width, height)
        left, top = self.crop(width, height)
        x, y = width / wide, height / tall
        return left * x, top * y, min((left + self.size[1]) * x, width), min((top + self.size[0]) * y, height)

    def apply(self, pixels: Pixels) -> Tensor:
        """The input `(C, H, W)` in [0, 1]. Of a panorama only what the crop needs is resized."""
        height, width = pixels.shape[:2]
        wide, tall = self.enlarged(width, height)
        left, top = self.crop(width, height)
        x0, y0, x1, y1 = 0, 0, wide, tall
        if wide * tall > WHOLE:  # a little more than the crop: resampling looks at neighbours
            x0, y0 = max(left - MARGIN, 0), max(top - MARGIN, 0)
            x1, y1 = min(left + self.size[1] + MARGIN, wide), min(top + self.size[0] + MARGIN, tall)
        region = (x0 * width / wide, y0 * height / tall, min(x1 * width / wide, width), min(y1 * height / tall, height))
        small = _resized(pixels, (x1 - x0, y1 - y0), region, self.resample)
        small = small[top - y0 : top - y0 + self.size[0], left - x0 : left - x0 + self.size[1]]
        image = torch.from_numpy(np.ascontiguousarray(_unit(small))).permute(2, 0, 1).contiguous()
        if self.channels == 1:
            return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
        return image


@dataclass
class Photograph:
    """One photograph: what the model sees of it, and where to find the rest.

    Attributes:
        path: The file; it is read again when it is drawn.
        name: Unlike that of all others; files are named after it.
        width: In pixels, upright.
        height: Likewise.
        box: What the model sees of it.
        input: `(C, H, W)` in [0, 1].
    """

    path: Path
    name: str
    width: int
    height: int
    box: Box
    input: Tensor = field(repr=False)

    def pixels(self) -> Pixels:
        """The whole photograph, `(H, W, 3)` in [0, 1]."""
        return _unit(decode(self.path))

    def reduced(self) -> Box:
        """The box in the photograph as a `Gallery` has it."""
        wide, tall = _small(self.width, self.height)
        left, top, right, bottom = self.box
        x, y = wide / self.width, tall / self.height
        return left * x, top * y, min(right * x, wide), min(bottom * y, tall)


class Gallery(Sequence[Pixels]):
    """Photographs for figures, read when they are drawn and no larger than a figure shows."""

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        self._photographs = photographs
        self._load = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return len(self._photographs)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pixels]: ...

    def __getitem__(self, index: int | slice) -> Pixels | list[Pixels]:
        if isinstance(index, slice):
            return [self._load(i) for i in range(*index.indices(len(self)))]
        return self._load(range(len(self))[index])

    def _read(self, index: int) -> Pixels:
        pixels = decode(self._photographs[index].path)
        height, width = pixels.shape[:2]
        size = _small(width, height)
        return _unit(pixels if size == (width, height) else _resized(pixels, size, (0, 0, width, height), "box"))


def find(given: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files: each as given, of a folder all that are in it; what is given twice is taken once.

    Raises:
        OSError: One is not there, or cannot be read.
        ValueError: A folder has none, or a file is no image (only its beginning is looked at).
    """
    found = listed(given)
    for path in found:
        with _readable(path), Image.open(path):
            pass
    return found


def listed(given: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The same without a look into the files.

    Raises:
        OSError: One is not there, or a folder cannot be read.
        ValueError: A folder has none.
    """
    found: dict[Path, Path] = {}
    for one in map(Path, given):
        for path in inside(one) if one.is_dir() else [one]:
            found.setdefault(path.resolve(), path)
    for path in found.values():
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
    return list(found.values())


def inside(folder: Path) -> list[Path]:
    """The image files of a folder, sorted.

    Raises:
        OSError: It cannot be read.
        ValueError: It has none.
    """
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file())
    except OSError as error:
        raise OSError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    if not found:
        raise ValueError(f"the folder {folder} has no images in it (files that end in {', '.join(SUFFIXES[:5])}, ...)")
    return found


def read(paths: Sequence[Path], preparation: Preparation) -> list[Photograph]:
    """Every photograph as the model sees it, decoded whole, so that a damaged one is found now.

    Raises:
        OSError: One cannot be read.
        ValueError: One is damaged.
    """
    photographs = []
    for path, name in zip(paths, names(paths), strict=True):
        pixels = decode(path)
        height, width = pixels.shape[:2]
        photographs.append(
            Photograph(path, name, width, height, preparation.box(width, height), preparation.apply(pixels))
        )
    return photographs


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with as much of folder and suffix as tells it from the others.

    Example:
        >>> names([Path("a/cat.jpg"), Path("b/cat.jpg"), Path("b/dog.jpg"), Path("b/dog.png")])
        ['a_cat', 'b_cat', 'dog_jpg', 'dog_png']
    """
    chosen = [p.stem for p in paths]
    for folders, suffix in ((0, True), (1, False), *((k, True) for k in range(1, 12))):
        groups: dict[str, list[int]] = {}
        for i in _repeated(chosen):
            groups.setdefault(chosen[i].lower(), []).append(i)
        for group in groups.values():
            fresh = [_longer(paths[i], folders, suffix=suffix) for i in group]
            if len({f.lower() for f in fresh}) == len(fresh):
                for i, name in zip(group, fresh, strict=True):
                    chosen[i] = name
    for i in _repeated(chosen):
        taken = {c.lower() for c in chosen}
        chosen[i] = next(n for k in range(i + 1, i + 2 + len(chosen)) if (n := f"{chosen[i]}_{k}").lower() not in taken)
    return chosen


def _longer(path: Path, folders: int, *, suffix: bool) -> str:
    """A file's stem with some of the folders that it is in, and its suffix."""
    above = path.resolve().parts[1:-1]
    return "_".join(
        [*above[len(above) - folders if folders < len(above) else 0 :], path.stem, *[path.suffix[1:]] * suffix]
    )


def _repeated(chosen: Sequence[str]) -> list[int]:
    """Which names are there more than once; case does not tell files apart everywhere."""
    count = Counter(c.lower() for c in chosen)
    return [i for i, c in enumerate(chosen) if count[c.lower()] > 1]


# -- decoding ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _readable(what: object) -> Iterator[None]:
    """Whatever goes wrong while a file is read is told with its name: as an OSError, or a ValueError where it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large photographs, odd metadata: the pixels are what counts
            yield
    except _RefusedError as error:
        raise ValueError(f"{what} {error}") from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {what}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{what} is not an image, or of a format that is not known") from error
    except OSError as error:
        raise OSError(f"{what} cannot be read: {error.strerror or _one_line(error)}") from error
    except Exception as error:  # a damaged file may raise anything inside a decoder
        raise ValueError(f"{what} cannot be read: {_one_line(error)}") from error


class _RefusedError(ValueError):
    """Pixels that are no brightness."""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def decode(path: Path) -> Pixels:
    """A photograph as `(H, W, 3)`: uint8, or float32 in [0, 1] where the file has more than 8 bits of grey.

    Upright (EXIF), the first frame of several, transparent parts over white. Colour of 16 bits is read by Pillow as 8.

    Raises:
        OSError: The file is missing, or cannot be read to its end.
        ValueError: It is damaged, no image, or holds values that are no brightness.
    """
    with _readable(path), Image.open(path) as file:
        return _pixels(file)


def upright(image: Image.Image, what: object = "the image") -> Pixels:
    """An image that somebody else opened, as `decode` gives it.

    Args:
        image: It may not have been read yet; it is left as it is.
        what: Its name, for errors.

    Raises:
        OSError: Its file cannot be read to its end.
        ValueError: It is damaged, or holds values that are no brightness.
    """
    with _readable(what):
        return _pixels(image)


def _pixels(file: Image.Image) -> Pixels:
    file.load()
    image = file
    with contextlib.suppress(ValueError, TypeError, KeyError, SyntaxError, OSError, struct.error):
        image = ImageOps.exif_transpose(file)  # damaged metadata does not matter
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep(image)
    if "transparency" in image.info or image.mode.lower().endswith("a"):
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        image = Image.alpha_composite(white, over)
    return np.array(image.convert("RGB"))


def _deep(image: Image.Image) -> Pixels:
    """Grey of 16 bits, of 32, or in floats."""
    grey = np.array(image).astype(np.float64)
    if not np.isfinite(grey).all():
        raise _RefusedError("holds NaN or infinite pixels")
    top = 1.0 if image.mode == "F" else 65535.0
    if grey.min() < 0 or grey.max() > top:
        raise _RefusedError(
            f"holds values from {grey.min():g} to {grey.max():g}, so that black and white are not known: save it as 8 or 16 "
            "bit, or as floats from 0 to 1"
        )
    return np.repeat((grey / top).astype(np.float32)[..., None], 3, axis=2)


def _unit(pixels: Pixels) -> Pixels:
    """As float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def _small(width: int, height: int) -> tuple[int, int]:
    """Width and height in a figure."""
    shrink = max(1.0, max(width, height) / LARGE)
    return max(1, round(width / shrink)), max(1, round(height / shrink))


def _resized(pixels: Pixels, size: tuple[int, int], region: Box, how: Filter) -> Pixels:
    """A part of a photograph at another size `(width, height)`, in its own type."""
    resample = Image.Resampling[how.upper()]
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize(size, resample, box=region))
    planes = [
        Image.fromarray(np.ascontiguousarray(pixels[..., k])).resize(size, resample, box=region) for k in range(3)
    ]
    return np.stack([np.array(p) for p in planes], axis=2).clip(0, 1)

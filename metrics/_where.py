"""Where the object is in each image of a study: masks and boxes, of what the model sees or of whole photographs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from . import photographs
from .metric import Annotations, as_mask
from .photographs import Preparation

__all__ = ["Where"]


class Where:
    """Annotations in one of two forms: for all images in their order, or by name."""

    def __init__(self, given: Annotations | None, preparation: Preparation) -> None:
        self._preparation = preparation
        self._all: dict[str, Any] | None = None
        self._named: dict[str, Mapping[str, Any]] | None = None
        if given is None:
            return
        if not isinstance(given, Mapping) or not given:
            raise ValueError(
                'annotations must be {"mask": (N, H, W)}, {"boxes": [...]}, or {file name: {"boxes": [...]}}'
            )
        if set(given) <= {"mask", "boxes"}:
            self._all = dict(given)
            return
        for name, entry in given.items():
            if not isinstance(entry, Mapping) or not set(entry) & {"mask", "boxes"}:
                raise ValueError(
                    f'annotations of {name}: give {{"boxes": [[left, top, right, bottom], ...]}} or {{"mask": ...}}'
                )
            if "boxes" in entry:
                _corners(entry["boxes"], name)
        self._named = {str(k): v for k, v in given.items()}

    def lengths(self) -> list[tuple[str, int]]:
        return [(k, len(v)) for k, v in (self._all or {}).items()]

    def complete(self, paths: Sequence[Path]) -> None:
        """Every file must be annotated, if it is said by name.

        Raises:
            ValueError: Some are not.
        """
        if self._named is None:
            return
        missing = [p for p in paths if self._entry(p, p.stem) is None]
        if missing:
            raise ValueError(
                f"annotations say nothing of {len(missing)} of {len(paths)} images, such as {missing[0].name}: give each, "
                'with "boxes": [] where there is no object'
            )

    def _entry(self, path: Path | None, name: str) -> Mapping[str, Any] | None:
        assert self._named is not None
        keys = [name] if path is None else [path.name, str(path), name]
        return next((self._named[k] for k in keys if k in self._named), None)

    def of(self, raw: Any, name: str, size: tuple[int, int] | None, image: Tensor) -> dict[str, Any] | None:
        """What is known of one image, in pixels of the input."""
        if self._named is None:
            return None
        entry = self._entry(raw.path, name)
        if entry is None:
            raise ValueError(
                f'annotations say nothing of image {name}: give each, with "boxes": [] where there is no object'
            )
        if "mask" in entry:
            return {"mask": self._mask(entry["mask"], name, size, image)}
        boxes = _corners(entry["boxes"], name)
        return {"boxes": boxes if size is None else self._cropped(boxes, size)}

    def _cropped(self, boxes: list[list[float]], size: tuple[int, int]) -> list[list[float]]:
        """Boxes of a photograph in pixels of what the model sees; those outside are dropped."""
        left, top, right, bottom = self._preparation.box(*size)
        height, width = self._preparation.size
        x, y = width / (right - left), height / (bottom - top)
        found = []
        for a, b, c, d in boxes:
            moved = [
                max((a - left) * x, 0.0),
                max((b - top) * y, 0.0),
                min((c - left) * x, width),
                min((d - top) * y, height),
            ]
            if moved[0] < moved[2] and moved[1] < moved[3]:
                found.append(moved)
        return found

    def _mask(self, given: Any, name: str, size: tuple[int, int] | None, image: Tensor) -> Tensor:
        """A mask of a photograph as the model sees it, `(H, W)` bool."""
        if isinstance(given, str | os.PathLike):
            pixels = photographs.decode(Path(given)).max(axis=2) > 0
        else:
            pixels = torch.as_tensor(given).cpu().numpy() != 0
        wanted = tuple(image.shape[1:]) if size is None else (size[1], size[0])
        if pixels.shape != wanted:
            raise ValueError(
                f"the mask of image {name} has shape {pixels.shape}, and the image is {wanted[0]} x {wanted[1]}"
            )
        if size is None:
            return torch.from_numpy(np.ascontiguousarray(pixels))
        whole = np.repeat(pixels[..., None].astype(np.uint8) * 255, 3, axis=2)
        return replace(self._preparation, resample="nearest", channels=3).apply(whole)[0] > 0.5

    def block(self, held: Sequence[Any], rows: list[int]) -> dict[str, Any] | None:
        """The annotations of some images, as metrics take them."""
        if self._all is not None:
            if any(rows[-1] >= len(v) for v in self._all.values()):
                raise ValueError("there are more images than annotations: give them for each")
            return {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in rows] for k, v in self._all.items()}
        known = [h.where for h in held if h.where is not None]
        if not known:
            return None
        if all("boxes" in w for w in known):
            return {"boxes": [w["boxes"] for w in known]}
        masks = [
            w["mask"] if "mask" in w else as_mask({"boxes": [w["boxes"]]}, h.image[None].cpu())[0]
            for w, h in zip(known, held, strict=True)
        ]
        return {"mask": torch.stack(masks)}


def _corners(boxes: Any, name: str) -> list[list[float]]:
    """Boxes as left, top, right, bottom.

    Raises:
        ValueError: They are none.
    """
    try:
        found = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4) if len(boxes) else torch.zeros(0, 4)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"annotations of {name}: boxes must be [[left, top, right, bottom], ...]") from error
    if not bool(((found[:, 0] < found[:, 2]) & (found[:, 1] < found[:, 3])).all()):
        raise ValueError(f"annotations of {name}: a box is empty: give left, top, right, bottom in pixels")
    return cast("list[list[float]]", found.tolist())

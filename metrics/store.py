"""What a study has found, cell by cell: in memory, or in a folder that survives whatever happens to the process.

A cell is what is known of one image under one question: its target, its map by one method, its score by one metric. Its key
is a digest of everything that the answer depends on, so that a folder can be filled in any order, by any number of
processes, and nothing that was finished is computed again. Cells that were found together lie in one file, a shard.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attriscope.attribution._files import atomic, folder
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 2
FOLDER = "shards"
OURS = re.compile(r"(clean|map|score)-[0-9a-f]{24}\.safetensors")
STALE = 3600.0  # seconds after which a temporary file is nobody's any more

__all__ = ["FORMAT", "Damaged", "Shard", "Store", "key"]


class Foreign(ValueError):  # noqa: N818  it is what the file is
    """A file that is none of ours, or of another attriscope."""


class Damaged(ValueError):  # noqa: N818  it is what the shard is
    """A shard whose contents are not what was written."""


def key(kind: str, *parts: Any) -> str:
    """A digest of everything that a cell depends on.

    Example:
        >>> key("map", "weights", {"masks": 20}) == key("map", "weights", {"masks": 20})
        True
    """
    text = json.dumps([FORMAT, kind, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class Shard:
    """Cells that were found together.

    Attributes:
        kind: "clean", "map" or "score".
        keys: One for each cell.
        columns: What is known of them, first axis a cell.
        shared: What is the same for all of them.
        facts: More that JSON can hold.
    """

    kind: str
    keys: list[str]
    columns: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name: equal for the same cells, whoever computes them."""
        return f"{self.kind}-{key(self.kind, *self.keys)}.safetensors"

    def _tensors(self) -> dict[str, Tensor]:
        own = {f"column/{k}": v for k, v in self.columns.items()} | {f"shared/{k}": v for k, v in self.shared.items()}
        return {k: torch.from_numpy(np.array(v.detach().cpu().numpy())) for k, v in own.items()}  # no odd strides

    def write(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        tensors = self._tensors()
        header = {"format": FORMAT, "kind": self.kind, "keys": self.keys, "facts": self.facts}
        header["sum"] = _sum(header, tensors)
        try:
            with atomic(path) as temporary:
                save_file(tensors, temporary, metadata={"attriscope": json.dumps(header)})
        except (OSError, SafetensorError) as error:  # a full disk comes out of the Rust library as its own error
            raise OSError(
                f"cannot write {path}: {error}; what was finished before stays, and the same call goes on from there"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Shard":
        """Read one whole and make sure that it is what was written.

        Raises:
            Damaged: It is not.
        """
        try:
            header = _header(path)
            tensors = load_file(path)
        except (SafetensorError, OSError, Foreign) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error
        told = header.pop("sum")
        if _sum(header, tensors) != told:
            raise Damaged(f"{path} is damaged: its contents have changed since it was written")
        columns = {k.removeprefix("column/"): v for k, v in tensors.items() if k.startswith("column/")}
        shared = {k.removeprefix("shared/"): v for k, v in tensors.items() if k.startswith("shared/")}
        return cls(header["kind"], header["keys"], columns, shared, header["facts"])


def _sum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:32]


def _header(path: Path) -> dict[str, Any]:
    """What a shard says of itself, without its tensors.

    Raises:
        Foreign: It is no shard of ours, whatever happened to it.
        Damaged: It is none any more.
    """
    if not (path.is_file() and OURS.fullmatch(path.name)):
        raise Foreign(f"{path} is no shard of a study")
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})["attriscope"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Damaged(f"{path} is no shard of a study: {error}") from error
    if not (isinstance(found, dict) and {"format", "kind", "keys", "facts", "sum"} <= found.keys()):
        raise Damaged(f"{path} is no shard of a study")
    if found["format"] != FORMAT:
        raise Foreign(f"{path} has format {found['format']}, and this attriscope reads {FORMAT}")
    if Shard(found["kind"], found["keys"], {}).name != path.name:
        raise Damaged(f"{path} is another shard than its name says")
    return found


class Store:
    """Cells by key, in memory or in a folder.

    Args:
        root: The study's folder; `None`: in memory.
        mend: Whether damaged shards are taken away, so that they are computed again; reading alone changes nothing.

    Example:
        >>> store = Store()
        >>> store.put(Shard("map", ["a", "b"], {"maps": torch.eye(2)}))
        >>> store.row("b", "maps").tolist()
        [0.0, 1.0]
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, mend: bool = False) -> None:
        self.root = None if root is None else Path(root)
        self.mend = mend
        self.damaged: dict[str, str] = {}
        self._places: dict[str, tuple[str, int]] = {}  # key: shard and row
        self._held: dict[str, Shard] = {}  # in memory: the shards; in a folder: those that are being read
        self._facts: dict[str, dict[str, Any]] = {}
        self._sound: set[str] = set()
        self._seen: set[str] = set()
        self._new: list[str] = []
        if self.root is not None:
            self.look()

    def look(self) -> None:
        """Find the shards that lie in the folder now, also those of other processes."""
        assert self.root is not None
        place = self.root / FOLDER
        if not place.is_dir():
            return
        for path in sorted(place.iterdir()):
            if path.name in self._seen:
                continue
            if path.name.startswith("."):
                if not self.mend:
                    continue
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > STALE:
                        path.unlink()
                continue
            self._seen.add(path.name)
            try:
                header = _header(path)
            except Foreign as error:
                self.damaged[path.name] = str(error)
                if self.mend:
                    warnings.warn(f"{error}; it is left alone", RuntimeWarning, stacklevel=3)
                continue
            except Damaged as error:
                self._discard(path.name, str(error))
                continue
            self._add(path.name, header["keys"], header["facts"])

    def _add(self, name: str, keys: Sequence[str], facts: dict[str, Any]) -> None:
        self._facts[name] = facts
        self._seen.add(name)
        for row, one in enumerate(keys):
            self._places[one] = (name, row)

    def _discard(self, name: str, reason: str) -> None:
        """Forget a shard that is not what it should be; to mend, name it and take it away, so that it is computed again."""
        assert self.root is not None
        self.damaged[name] = reason
        self._facts.pop(name, None)
        self._places = {k: v for k, v in self._places.items() if v[0] != name}
        if self.mend:
            warnings.warn(f"{reason}; what it held is computed again", RuntimeWarning, stacklevel=3)
            (self.root / FOLDER / name).unlink(missing_ok=True)
            self._seen.discard(name)

    def put(self, shard: Shard) -> None:
        """Keep a shard.

        Raises:
            OSError: The disk is full, or the folder cannot be written to. What was there stays.
        """
        self._new.append(shard.name)
        if self.root is None:
            self._held[shard.name] = shard
        else:
            shard.write(folder(self.root / FOLDER) / shard.name)
            self._sound.add(shard.name)
        self._add(shard.name, shard.keys, shard.facts)

    def has(self, cell: str) -> bool:
        """Whether a cell is known and whole. A shard is read through the first time that it is asked for."""
        place = self._places.get(cell)
        if place is None:
            return False
        if self.root is None or place[0] in self._sound:
            return True
        try:
            Shard.read(self.root / FOLDER / place[0])
        except Damaged as error:
            self._discard(place[0], str(error))
            return False
        self._sound.add(place[0])
        return True

    def shard(self, cell: str) -> tuple[Shard, int]:
        """A cell's shard, whole, and its row.

        Raises:
            KeyError: It is not known.
            Damaged: Its shard is not what was written.
        """
        name, row = self._places[cell]
        found = self._held.get(name)
        if found is None:
            assert self.root is not None
            found = Shard.read(self.root / FOLDER / name)
            self._sound.add(name)
            self._held = {name: found}  # cells are asked for shard by shard
        return found, row

    def row(self, cell: str, column: str) -> Tensor:
        """One number, map or curve of a cell."""
        found, row = self.shard(cell)
        return found.columns[column][row]

    def place(self, cell: str) -> tuple[str, int]:
        """Shard and row of a cell, to read them in their order."""
        return self._places[cell]

    def fact(self, cell: str, name: str) -> Any:
        """An entry of a list in a cell's facts, without reading its shard."""
        place, row = self._places[cell]
        return self._facts[place][name][row]

    def facts(self, cells: Iterable[str]) -> list[dict[str, Any]]:
        """The facts of every shard that holds one of these cells, each once."""
        names = dict.fromkeys(self._places[c][0] for c in cells if c in self._places)
        return [self._facts[n] for n in names]

    def __contains__(self, cell: str) -> bool:
        return cell in self._places

    def part(self, cells: Iterable[str]) -> "Store":
        """A small store that knows these cells alone, for a worker."""
        made = Store(mend=self.mend)
        made.root = self.root
        made._sound = self._sound
        for cell in cells:
            if cell in self._places:
                name, _ = made._places[cell] = self._places[cell]
                made._facts[name] = self._facts[name]
                made._seen.add(name)
                if self.root is None:
                    made._held[name] = self._held[name]
        return made

    def inside(self) -> "Store":
        """The same in memory, without what lies in a folder: for a process that does not see it."""
        made = Store()
        for name, shard in self._held.items():
            made.put(shard)
            made._new.remove(name)
        return made

    def fresh(self) -> list[Shard]:
        """What was put into memory."""
        return [self._held[name] for name in self._new]

    def copy(self, root: str | os.PathLike[str]) -> "Store":
        """Write everything into a folder.

        Raises:
            OSError: The folder cannot be written to.
        """
        made = Store(folder(root))
        for name in self._facts:
            if name not in made._facts:
                assert self.root is not None or name in self._held
                made.put(self._held[name] if self.root is None else Shard.read(self.root / FOLDER / name))
        return made

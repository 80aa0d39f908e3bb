"""What an attributor found: maps, and all that is needed to believe, redo and keep them."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._files import atomic
from ._parameters import canonical

FORMAT = 1

__all__ = ["Explanation"]


@dataclass(eq=False)
class Explanation:
    """The result of `Attributor.explain`.

    Attributes:
        maps: `(N, 1, H, W)` signed and un-normalised, or `(N, C, H, W)` with `channels="keep"`.
        native: The maps as the method made them, before they were resized, `(N, 1, h, w)`.
        target: What was explained: classes `(N,)`, index tuples `(N, k)`, or `None` for a callable.
        scores: The target's score on each image as it is, `(N,)`, in the unit of `output`.
        forwards: Forward evaluations for each image, `LongTensor (N,)`: what the method asked for, without the one that
            named the class.
        backwards: Backward evaluations, likewise.
        seconds: Wall time for all images together.
        details: What else the method knows: a convergence delta, a search order, indices.
        method: The method's name.
        params: Its hyper-parameters, as JSON can hold them.
        output: Which score was explained.
        inputs: The images; kept in memory for pictures, never saved.
    """

    maps: Tensor
    native: Tensor
    target: Tensor | None
    scores: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    output: str = "logit"
    inputs: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.maps)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file: tensors, and all else as JSON in its header. It is written whole or not at all.

        Raises:
            OSError: The folder cannot be written to.

        Example:
            >>> import tempfile
            >>> one = torch.zeros(1)
            >>> found = Explanation(one, one, None, one, one.long(), one.long(), 0.1, method="mine")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Explanation.load(found.save(folder + "/mine.safetensors")).method
            'mine'
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "method": self.method,
            "params": canonical(self.params),
            "output": self.output,
            "seconds": self.seconds,
            "details": _put(self.details, tensors),
        }
        for name in ("maps", "native", "target", "scores", "forwards", "backwards"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"attriscope": json.dumps(header)})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Explanation":
        """Read what `save` wrote; nothing in the file is ever run.

        Raises:
            ValueError: The file is damaged or something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["attriscope"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["format"] > FORMAT:
                raise ValueError(
                    f"{path} was written by a newer attriscope (format {header['format']}): upgrade to read it"
                )
            names = ("maps", "native", "scores", "forwards", "backwards")
            return cls(
                **{n: tensors[n] for n in names},
                target=tensors.get("target"),
                details=_take(header["details"], tensors),
                **{n: header[n] for n in ("method", "params", "output", "seconds")},
            )
        except FileNotFoundError:
            raise
        except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError, OSError) as error:
            raise ValueError(f"{path} is no explanation of attriscope, or it is damaged ({error})") from error

    def _repr_html_(self) -> str:
        """The first images with their maps, for a notebook."""
        from ._picture import html

        return html(self)


def _put(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Details as JSON; tensors go aside and leave their name."""
    if isinstance(value, Tensor):
        name = f"details/{len(tensors)}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": name}
    if isinstance(value, dict):
        return {str(k): _put(v, tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_put(v, tensors) for v in value]
    return canonical(value)


def _take(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return (
            tensors[value["$tensor"]] if set(value) == {"$tensor"} else {k: _take(v, tensors) for k, v in value.items()}
        )
    return [_take(v, tensors) for v in value] if isinstance(value, list) else value

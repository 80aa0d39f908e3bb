"""How the cells of a study are named: by everything that they depend on, and by nothing else."""

import json
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from attriscope.attribution._parameters import Configured, canonical
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model
from attriscope.attribution.targets import Target, TargetLike
from torch import Tensor

from .metric import MethodMetric, Metric
from .store import key

__all__ = ["Plan", "Picture", "request"]


@dataclass(frozen=True)
class Picture:
    """One image of a study, as its cells know it.

    Attributes:
        name: What figures call it.
        digest: Of its pixels.
        row: Its place among the inputs.
        target: What was asked to be explained of it, as JSON.
        mask: A digest of its annotations; empty where there are none.
    """

    name: str
    digest: str
    row: int
    target: str
    mask: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"tensor:[0-9a-f]{16}", self.digest):  # it names a file
            raise ValueError(f"{self.digest!r} is no digest of an image")

    @property
    def file(self) -> str:
        """What a file with its pixels is called."""
        return f"{self.digest.removeprefix('tensor:')}.png"


def request(target: "TargetLike | Target", row: int, of: int) -> str:
    """What is asked to be explained of one image, as JSON: "null" for the class that the network names.

    Args:
        target: For `of` images, as in `Attributor.attribute`.
        row: The image among them.
        of: How many there are.
    """
    if target is None:
        return "null"
    if isinstance(target, Target):
        return request(target.function if target.index is None else target.index, row, of)
    if callable(target) and not isinstance(target, Tensor):
        take = getattr(target, "take", None)
        return json.dumps(canonical(target if take is None else take(torch.tensor([row]))), sort_keys=True)
    if isinstance(target, int):
        return str(target)
    if isinstance(target, Tensor):
        return json.dumps(target.tolist() if target.ndim == 0 else target[row].tolist())
    if isinstance(target, tuple):  # one index for all, as `resolve` has it
        return json.dumps(canonical(target))
    entries: Any = list(target)
    return json.dumps(canonical(entries[row] if len(entries) == of else entries))


@dataclass
class Plan:
    """The questions of a study.

    Attributes:
        model: The model's fingerprint.
        version: Of attriscope: another may find other numbers.
        methods: By label, the configuration as JSON.
        positional: Labels whose maps belong to places among the inputs.
        metrics: By label, the configuration as JSON.
        reruns: Labels of metrics that run the method again.
        annotated: Labels of metrics that need annotations.
    """

    model: str
    version: str
    methods: dict[str, str]
    positional: list[str]
    metrics: dict[str, str]
    reruns: list[str] = field(default_factory=list)
    annotated: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Model, chosen: Mapping[str, Attributor], judges: Mapping[str, Metric], *, kept: bool) -> "Plan":
        """The plan of these methods and metrics.

        Args:
            model: The model.
            chosen: Methods by label.
            judges: Metrics by label.
            kept: Whether the model must have a fingerprint, since the cells go to a disk.

        Raises:
            ValueError: The model has no fingerprint, and must have one.
        """
        try:
            fingerprint = model.fingerprint
        except ValueError:
            if kept:
                raise
            fingerprint = "of this process"
        return cls(
            fingerprint,
            version("attriscope"),
            {k: named(a, a.params) for k, a in chosen.items()},
            [k for k, a in chosen.items() if type(a).for_rows is not Attributor.for_rows],
            {k: named(m, m.protocol) for k, m in judges.items()},
            [k for k, m in judges.items() if isinstance(m, MethodMetric)],
            [k for k, m in judges.items() if "annotations" in m.facts.needs],
        )

    def as_json(self) -> dict[str, Any]:
        """It as JSON can hold it; `Plan(**...)` makes it again."""
        return asdict(self)

    def clean(self, picture: Picture) -> str:
        """The cell of an image without any method."""
        return key("clean", self.model, self.version, picture.digest, picture.target)

    def map(self, method: str, picture: Picture, target: str) -> str:
        """The cell of a map.

        Args:
            method: A label.
            picture: The image.
            target: What was explained, once it is known: `frozen(...)`.
        """
        place = picture.row if method in self.positional else -1
        return key("map", self.model, self.version, self.methods[method], picture.digest, target, place)

    def score(self, metric: str, method: str, picture: Picture, target: str, digest: str) -> str:
        """The cell of a score: equal maps have one score, whoever made them.

        Args:
            metric: A label.
            method: A label.
            picture: The image.
            target: As for a map.
            digest: Of the map.
        """
        what = self.map(method, picture, target) if metric in self.reruns else digest
        mask = picture.mask if metric in self.annotated else ""
        return key("score", self.model, self.version, self.metrics[metric], picture.digest, target, mask, what)


def named(made: Configured, options: Mapping[str, Any]) -> str:
    """A method or metric as JSON: its class, its options, and the code of a class that is not ours, which may change."""
    code = {}
    for cls in type(made).__mro__:
        if cls.__module__.startswith("attriscope.") or cls is object:
            continue
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, types.FunctionType):
                code[f"{cls.__qualname__}.{name}"] = canonical(function)
    kind = f"{type(made).__module__}.{type(made).__qualname__}"
    return json.dumps([kind, made.name, canonical(options), code], sort_keys=True)


def frozen(picture: Picture, index: Tensor | None) -> str:
    """What is explained of an image, once it is known: its index, or the callable that was given."""
    return picture.target if index is None else json.dumps(torch.as_tensor(index).reshape(-1).tolist())

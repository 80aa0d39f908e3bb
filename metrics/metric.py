"""The interface behind which every metric stands, and the names of all of them."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, dataclass_transform, overload

import torch
from attriscope.attribution._parameters import Configured, validate
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.external import FromMaps
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model, Network
from attriscope.attribution.registry import Facts, Registry, as_tuple
from attriscope.attribution.targets import Target, TargetLike
from torch import Tensor

M = TypeVar("M", bound="type[Metric]")
Annotations: TypeAlias = Mapping[str, Any]

__all__ = [
    "Annotations",
    "MapMetric",
    "MethodMetric",
    "Metric",
    "Scored",
    "UnitMetric",
    "available",
    "create",
    "describe",
    "register",
]

REGISTRY: "Registry[Metric]" = Registry("metric", "attriscope.metrics")


def empty() -> Tensor:
    """No curve."""
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Scored:
    """What a metric found for every unit.

    Attributes:
        scores: `(U,)` float64; NaN where the metric is undefined.
        fractions: Where the curve's points lie, `(K,)`; empty where there is no curve.
        values: The curves, `(U, K)`.
        tied: The share of pixels that have another's value, `(U,)`: their order is the tie rule's, not the map's. Empty
            where no order is taken.
        details: More numbers for every unit, `(U,)` each, by name: a study's table gets them beside the score.
        clusters: Which units belong together, `(U,)` whole numbers: intervals and tests draw clusters; empty where every
            unit stands for itself.
    """

    scores: Tensor
    fractions: Tensor = field(default_factory=empty)
    values: Tensor = field(default_factory=empty)
    tied: Tensor = field(default_factory=empty)
    details: dict[str, Tensor] = field(default_factory=dict)
    clusters: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@dataclass_transform(kw_only_default=True, eq_default=False)
@dataclass(eq=False, repr=False)
class Metric(Configured):
    """A metric with its options: higher or lower is better, as `higher_is_better` says.

    Every metric is a `MapMetric`, which scores maps, a `MethodMetric`, which runs a method again, or a `UnitMetric`, which
    runs a method on something else than single images.
    """

    facts: ClassVar[Facts] = Facts("", "custom", "")
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    chance: ClassVar[float | None] = None  # the value of a map that knows nothing, where there is one for all models
    undefined: ClassVar[str] = "constant maps rank no pixel before another"  # why a score may be NaN
    # whether a map of what decided must beat a random one: not so for a map's complexity, or how steady a method is
    faithful: ClassVar[bool] = False
    at_most: ClassVar[bool] = False  # whether cost and explanations are upper bounds: some methods are spared a part
    small: ClassVar[dict[str, Any]] = {}  # options for tests on images of 16 x 16 pixels

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        validate(self.name or type(self).__name__, type(self), self.params)
        self.validate()

    def validate(self) -> None:
        """Check what depends on several options; each by itself is checked against its annotation already."""

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that moves the number, presets resolved: results record it."""
        return self.params

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Forwards for one image of `shape`, if it is scored alone; explanations come on top."""
        raise NotImplementedError(f"{type(self).__name__} must define cost(shape)")

    @property
    def explanations(self) -> int:
        """How many times the method is run again for one image; for another unit, how many times it is run."""
        return 0

    def _tell(self, scores: Tensor) -> None:
        """Say how many scores are undefined."""
        undefined = int(scores.isnan().sum())
        if undefined:
            warnings.warn(
                f"{self.name} is undefined for {undefined} of {len(scores)} maps, whose score is NaN: {self.undefined}",
                RuntimeWarning,
                stacklevel=3,
            )


class MapMetric(Metric):
    """A metric that scores maps, whoever made them.

    It is a subclass that declares its options as annotated fields and defines `prepare`. What it wants evaluated it
    asks of an `Evaluations`, which any number of methods and metrics share: what two of them ask for is paid once.
    """

    keeps_channels: ClassVar[bool] = False  # whether `prepare` is given maps (N, C, H, W) where they have channels
    ranks: ClassVar[bool] = False  # whether it takes the pixels' order alone: any increasing function leaves the score
    faithful: ClassVar[bool] = True
    constant: ClassVar[Literal["undefined", "scored"]] = "undefined"  # what becomes of a constant map

    @abstractmethod
    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for what is needed, and hand back what turns the answers into scores.

        Args:
            todo: Shared by all methods and metrics of these images; knows the model, the target and, for a metric that needs
                annotations, `mask`, `(N, H, W)` bool.
            images: `(N, C, H, W)` on the model's device.
            maps: `(N, H, W)`, finite, on the model's device; `(N, C, H, W)` or `(N, 1, H, W)` with `keeps_channels`.
        """

    @overload
    def score(
        self,
        model: Any,
        inputs: Tensor,
        maps: Tensor,
        target: TargetLike | Target = None,
        *,
        annotations: Annotations | None = None,
        curves: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def score(
        self,
        model: Any,
        inputs: Tensor,
        maps: Tensor,
        target: TargetLike | Target = None,
        *,
        annotations: Annotations | None = None,
        curves: Literal[True],
    ) -> Scored: ...

    def score(
        self,
        model: Model | Network,
        inputs: Tensor,
        maps: Tensor,
        target: TargetLike | Target = None,
        *,
        annotations: Annotations | None = None,
        curves: bool = False,
    ) -> Tensor | Scored:
        """Score maps.

        Args:
            model: The model that the maps explain.
            inputs: `(N, C, H, W)` in the model's bounds.
            maps: `(N, 1, H, W)` or `(N, H, W)`; channels are added up, where the metric does not keep them. Signed: the most
                positive pixel comes first.
            target: What was explained; `None` is the class that the network names on the clean image.
            annotations: Where the object is, for a metric that needs it: `{"mask": (N, H, W)}`, bool, or `{"boxes": [...]}`
                with one `(k, 4)` for each image: left, top, right, bottom in pixels.
            curves: Whether to hand back the curves too.

        Returns:
            `(N,)` float64 on the CPU, NaN where undefined (with a warning that counts them); with `curves=True` a
            `Scored`.

        Raises:
            ValueError: Maps that are not finite or do not fit the images, annotations that are missing or do not fit, or
                anything wrong with inputs or target.
        """
        wrapped = Model.wrap(model)
        images = wrapped.check(inputs)
        images = images.to(wrapped.device or images.device)
        ready = check_maps(maps, images, channels=self.keeps_channels)
        todo = Evaluations(wrapped, wrapped.resolve(images, target), mask=self.annotated(annotations, images))
        finish = self.prepare(todo, images, ready)
        todo.run()
        scored = finish()
        self._tell(scored.scores)
        return scored if curves else scored.scores

    def annotated(self, annotations: Annotations | None, images: Tensor) -> Tensor | None:
        """The mask that a metric which needs annotations works with, on the images' device; `None` for the others.

        Raises:
            ValueError: It needs one, and there is none, or one that does not fit.
        """
        if "annotations" not in self.facts.needs:
            return None
        if annotations is None:
            raise ValueError(
                f'{self.name} needs to know where the object is: pass annotations={{"mask": (N, H, W) bool}} or '
                '{"boxes": [(k, 4) for each image]}'
            )
        return as_mask(annotations, images)


class Running(Metric):
    """A metric that runs a method itself, on whatever it likes."""

    def accept(self, attributor: Attributor) -> None:
        """Refuse what is no method, or one that cannot be scored, before anything is run.

        Raises:
            TypeError: It is none.
            ValueError: It cannot be scored, in a sentence that says why: maps that were made elsewhere never can.
        """
        if not isinstance(attributor, Attributor):
            raise TypeError(
                f"{self.name} runs the method again: pass an attributor, attribution.create(name, model), not "
                f"{type(attributor).__name__}"
            )
        if isinstance(attributor, FromMaps):
            raise ValueError(f"{attributor.name} are maps that were made elsewhere: nothing can make them again")

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Nothing but explanations, unless a metric says otherwise."""
        del shape
        return 0


class MethodMetric(Running):
    """A metric that runs a method again: on other inputs, for other classes, on other networks.

    It is a subclass that declares its options as annotated fields, and defines `measure` and `explanations`.
    """

    @abstractmethod
    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Score a method on some images.

        Args:
            attributor: The method, on its model.
            images: `(N, C, H, W)` on the model's device.
            target: Frozen, one row per image.
            maps: The method's maps of these images, `(N, 1, H, W)`: they are made already.
        """

    @overload
    def score(
        self,
        attributor: Attributor,
        inputs: Tensor,
        target: TargetLike | Target = None,
        *,
        curves: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def score(
        self, attributor: Attributor, inputs: Tensor, target: TargetLike | Target = None, *, curves: Literal[True]
    ) -> Scored: ...

    def score(
        self, attributor: Attributor, inputs: Tensor, target: TargetLike | Target = None, *, curves: bool = False
    ) -> Tensor | Scored:
        """Score a method.

        Args:
            attributor: What `attribution.create` returns.
            inputs: `(N, C, H, W)` in the model's bounds.
            target: What is explained; `None` is the class that the network names on the clean image.
            curves: Whether to hand back everything that was found.

        Returns:
            `(N,)` float64 on the CPU, NaN where undefined (with a warning that counts them); with `curves=True` a
            `Scored`.

        Raises:
            TypeError: `attributor` is none.
            ValueError: Anything is wrong with inputs or target, or the method cannot be scored.
        """
        self.accept(attributor)
        model = attributor.model
        images = model.check(inputs)
        images = images.to(model.device or images.device)
        frozen = model.resolve(images, target)
        with model.sharing():  # what the maps took, for whoever explains the same images again
            scored = self.measure(attributor, images, frozen, attributor.attribute(images, frozen))
        self._tell(scored.scores)
        return scored if curves else scored.scores


class UnitMetric(Running):
    """A metric whose unit is not an image: it runs a method on grids of images, or on pictures of its own.

    It is a subclass that defines `unit`, `example` and `score`, whose first argument is an attributor and which returns
    `(U,)` float64, or a `Scored` with `curves=True`. `compare`, which works on blocks of images, does not take it.
    """

    unit: ClassVar[str]  # in the plural: what a score belongs to

    score: ClassVar[Callable[..., Any]]

    @abstractmethod
    def example(self, **model: Any) -> tuple[Model, tuple[Any, ...]]:
        """A small model and what `score` takes besides a method on it: what the conformance suite runs.

        Args:
            model: More for the model, as `batch_size=1`.
        """


def as_mask(annotations: Annotations, images: Tensor) -> Tensor:
    """Where the object is, `(N, H, W)` bool on the images' device.

    Args:
        annotations: `{"mask": (N, H, W)}` or `{"boxes": [...]}`.
        images: The images that they belong to.

    Raises:
        ValueError: Neither is there, or it does not fit.

    Example:
        >>> as_mask({"boxes": [[(1, 0, 3, 1)]]}, torch.zeros(1, 3, 2, 4)).int().tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    n, (height, width) = len(images), images.shape[2:]
    if "mask" in annotations:
        mask = torch.as_tensor(annotations["mask"])
        mask = mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask
        if mask.shape != (n, height, width):
            raise ValueError(
                f'annotations["mask"] has shape {tuple(mask.shape)}, and the images need {(n, height, width)}'
            )
        return (mask != 0).to(images.device)
    if "boxes" not in annotations:
        raise ValueError(f'annotations hold {sorted(annotations)}: give "mask" or "boxes"')
    boxes = annotations["boxes"]
    if len(boxes) != n:
        raise ValueError(f'annotations["boxes"] has {len(boxes)} entries for {n} images: one list of boxes for each')
    mask = torch.zeros(n, height, width, dtype=torch.bool)
    for own, each in zip(mask, boxes, strict=True):
        corners = torch.as_tensor(each, dtype=torch.float64).reshape(-1, 4)
        for left, top, right, bottom in corners.tolist():
            if not (left < right and top < bottom):
                raise ValueError(
                    f"the box {(left, top, right, bottom)} is empty: give left, top, right, bottom in pixels"
                )
            own[max(round(top), 0) : max(round(bottom), 0), max(round(left), 0) : max(round(right), 0)] = True
    return mask.to(images.device)


def check_maps(maps: Tensor, images: Tensor, *, channels: bool = False) -> Tensor:
    """Maps as `(N, H, W)` on the images' device, if they fit and are finite; with `channels` as `(N, C, H, W)`.

    Raises:
        TypeError: Not a floating point tensor.
        ValueError: Not finite, or of another number or size than the images.
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError("maps must be a floating point tensor of shape (N, 1, H, W)")
    flat = maps.detach()
    if channels:
        flat = flat.unsqueeze(1) if flat.ndim == 3 else flat
        fits = flat.ndim == 4 and flat.shape[1] in (1, images.shape[1])
    else:
        flat = flat.sum(1) if flat.ndim == 4 else flat
        fits = flat.ndim == 3
    if not fits or (len(flat), *flat.shape[-2:]) != (len(images), *images.shape[2:]):
        raise ValueError(
            f"maps of shape {tuple(maps.shape)} do not fit images of shape {tuple(images.shape)}: one map per image, at the "
            "image's size"
        )
    if not bool(flat.isfinite().all()):
        bad = (~flat.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"maps {bad[:5]} hold NaN or infinite values: their pixels cannot be put in an order")
    return flat.to(images.device)


# -- the registry ------------------------------------------------------------------------------------------------------


def register(
    name: str,
    *,
    family: str,
    paper: str = "",
    aliases: str | tuple[str, ...] = (),
    needs: str | tuple[str, ...] = (),
) -> Callable[[M], M]:
    """Register a `Metric` under a name; arguments as in `attribution.register`.

    Args:
        name: In snake case.
        family: `"faithfulness"`, `"localization"`, ...
        paper: Author, year and where to find it.
        aliases: Other names.
        needs: `"annotations"` where masks or boxes must be given.
    """

    def decorate(cls: M) -> M:
        tags = {
            "scores": "maps" if issubclass(cls, MapMetric) else "methods",
            "unit": cls.unit if issubclass(cls, UnitMetric) else "images",
            "higher_is_better": cls.higher_is_better,
            "range": cls.range,
            "chance": cls.chance,
        }
        facts = Facts(name, family, paper, as_tuple(aliases), frozenset(as_tuple(needs)), tags)
        REGISTRY.add(cls, facts)
        cls.facts = facts
        return cls

    return decorate


def available(pattern: str = "*", **tags: Any) -> list[str]:
    """The names of all metrics, sorted; arguments as in `attribution.available`.

    Example:
        >>> "deletion" in available("faithfulness/*", higher_is_better=False)
        True
    """
    return REGISTRY.names(pattern, **tags)


def describe(name: str) -> dict[str, Any]:
    """All that is known of a metric: facts, options with defaults and help, forwards and explanations at the defaults.

    Example:
        >>> describe("insertion")["range"]
        (0.0, 1.0)
    """
    made = REGISTRY.find(name)()
    return {**REGISTRY.describe(name), "cost": made.cost(), "explanations": made.explanations}


def create(name: str, **options: Any) -> Metric:
    """A metric by name.

    Raises:
        ValueError: No such metric (the message lists close ones) or an option out of range.
        TypeError: No such option, or one of the wrong type.

    Example:
        >>> create("insertion", preset="rise")
        insertion(preset='rise')
    """
    return REGISTRY.build(name, options, lambda cls: cls(**options))

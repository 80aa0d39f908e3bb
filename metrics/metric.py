"""The interface behind which every metric stands, and the names of all of them."""

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, dataclass_transform, overload

import torch
from attriscope.attribution._parameters import Configured, validate
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model, Network
from attriscope.attribution.registry import Facts, Registry, as_tuple
from attriscope.attribution.targets import Target, TargetLike
from torch import Tensor

M = TypeVar("M", bound="type[Metric]")

__all__ = ["Metric", "Scored", "available", "create", "describe", "register"]

REGISTRY: "Registry[Metric]" = Registry("metric", "attriscope.metrics")


class Scored(NamedTuple):
    """What a metric found for every unit.

    Attributes:
        scores: `(U,)` float64; NaN where the metric is undefined.
        fractions: Where the curve's points lie, `(K,)`; empty where there is no curve.
        values: The curves, `(U, K)`.
        tied: The share of pixels that have another's value, `(U,)`: their order is the tie rule's, not the map's.
    """

    scores: Tensor
    fractions: Tensor
    values: Tensor
    tied: Tensor


@dataclass_transform(kw_only_default=True, eq_default=False)
@dataclass(eq=False, repr=False)
class Metric(Configured):
    """A metric with its options. It scores maps: higher or lower is better, as `higher_is_better` says.

    A metric is a subclass that declares its options as annotated fields and defines `prepare`. What it wants evaluated it
    asks of an `Evaluations`, which any number of methods and metrics share: what two of them ask for is paid once.
    """

    facts: ClassVar[Facts] = Facts("", "custom", "")
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    chance: ClassVar[float | None] = None  # the value of a map that knows nothing, where there is one for all models

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        validate(self.name or type(self).__name__, type(self), self.params)
        self.validate()

    # -- what a metric defines -----------------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for what is needed, and hand back what turns the answers into scores.

        Args:
            todo: Shared by all methods and metrics of these images; knows the model and the target.
            images: `(N, C, H, W)` on the model's device.
            maps: `(N, H, W)`, finite, on the model's device.
        """

    def validate(self) -> None:
        """Check what depends on several options; each by itself is checked against its annotation already."""

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that moves the number, presets resolved: results record it."""
        return self.params

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Forwards for one map of an image of `shape`, if it is scored alone."""
        raise NotImplementedError(f"{type(self).__name__} must define cost(shape)")

    # -- what a user calls ---------------------------------------------------------------------------------------------

    @overload
    def score(
        self,
        model: Any,
        inputs: Tensor,
        maps: Tensor,
        target: TargetLike | Target = None,
        *,
        curves: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def score(
        self, model: Any, inputs: Tensor, maps: Tensor, target: TargetLike | Target = None, *, curves: Literal[True]
    ) -> Scored: ...

    def score(
        self,
        model: Model | Network,
        inputs: Tensor,
        maps: Tensor,
        target: TargetLike | Target = None,
        *,
        curves: bool = False,
    ) -> Tensor | Scored:
        """Score maps.

        Args:
            model: The model that the maps explain.
            inputs: `(N, C, H, W)` in the model's bounds.
            maps: `(N, 1, H, W)` or `(N, H, W)`; channels are added up. Signed: the most positive pixel comes first.
            target: What was explained; `None` is the class that the network names on the clean image.
            curves: Whether to hand back the curves too.

        Returns:
            `(N,)` float64 on the CPU, NaN where undefined (with a warning that counts them); with `curves=True` a
            `Scored`.

        Raises:
            ValueError: Maps that are not finite or do not fit the images, or anything wrong with inputs or target.
        """
        wrapped = Model.wrap(model)
        images = wrapped.check(inputs)
        images = images.to(wrapped.device or images.device)
        flat = check_maps(maps, images)
        todo = Evaluations(wrapped, wrapped.resolve(images, target))
        finish = self.prepare(todo, images, flat)
        todo.run()
        scored = finish()
        undefined = int(scored.scores.isnan().sum())
        if undefined:
            warnings.warn(
                f"{self.name} is undefined for {undefined} of {len(images)} maps, whose score is NaN: constant maps rank "
                "no pixel before another",
                RuntimeWarning,
                stacklevel=2,
            )
        return scored if curves else scored.scores


def check_maps(maps: Tensor, images: Tensor) -> Tensor:
    """Maps as `(N, H, W)` on the images' device, if they fit and are finite.

    Raises:
        TypeError: Not a floating point tensor.
        ValueError: Not finite, or of another number or size than the images.
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError("maps must be a floating point tensor of shape (N, 1, H, W)")
    flat = maps.detach()
    if flat.ndim == 4:
        flat = flat.sum(1)
    if flat.shape != (len(images), *images.shape[2:]):
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
    scores: Literal["maps", "methods"] = "maps",
) -> Callable[[M], M]:
    """Register a `Metric` under a name; arguments as in `attribution.register`.

    Args:
        name: In snake case.
        family: `"faithfulness"`, `"localization"`, ...
        paper: Author, year and where to find it.
        aliases: Other names.
        needs: `"annotations"` where masks or boxes must be given.
        scores: Whether it scores maps, or methods, which it runs again.
    """

    def decorate(cls: M) -> M:
        tags = {
            "scores": scores,
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
        >>> available("faithfulness/*", higher_is_better=False)
        ['deletion']
    """
    return REGISTRY.names(pattern, **tags)


def describe(name: str) -> dict[str, Any]:
    """All that is known of a metric: facts, options with defaults and help, cost at the defaults.

    Example:
        >>> describe("insertion")["range"]
        (0.0, 1.0)
    """
    return {**REGISTRY.describe(name), "cost": REGISTRY.find(name)().cost()}


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


def empty() -> Tensor:
    """No curve."""
    return torch.zeros(0, dtype=torch.float64)

"""The interface behind which every method stands."""

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, dataclass_transform

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import baselines
from ._parameters import Configured, Range, parameters, validate
from .explanation import Explanation
from .model import RANKS, SHAPES, Model, Network, map_type
from .registry import Facts, Registry, as_tuple
from .targets import Output, Target, TargetLike

Channels = Literal["sum", "mean", "abs_sum", "max_abs", "l2", "keep"]
Resize = Literal["bilinear", "bicubic", "nearest"]
Granularity = Literal["pixel", "cell", "region"]
Depth = Literal["input", "middle", "final"]
Layers = Literal["head", "own", "none"]
A = TypeVar("A", bound="type[Attributor]")

__all__ = ["Attributor", "Channels", "Computed", "Cost", "Resize", "available", "create", "describe", "register"]

REGISTRY: "Registry[Attributor]" = Registry("method", "attriscope.attribution")


TAGS: dict[str, Any] = {
    "stochastic": False,
    "granularity": "pixel",
    "signed": True,
    "targeted": True,
    "offset": False,
    "complete": False,
    "at_most": False,
    "localizes": True,
    "blind": False,
    "samples": None,
    "kinds": tuple(RANKS),
    "small": {},
}  # of a class that nobody registered


class Cost(NamedTuple):
    """Evaluations for one image."""

    forwards: int
    backwards: int


class Computed(NamedTuple):
    """What a method hands back: maps of any resolution, with or without channels, and details."""

    maps: Tensor
    details: dict[str, Any]


@dataclass_transform(kw_only_default=True, eq_default=False)
@dataclass(eq=False, repr=False)
class Attributor(Configured):
    """A method with its hyper-parameters, on a model.

    A method is a subclass that declares its hyper-parameters as annotated fields and defines `compute` and `_cost`; it
    becomes a dataclass by itself. `CONTRIBUTING.md` shows one in twenty lines.

    Args:
        model: A `Model`, or a network, which is then wrapped without normalisation and bounds.
        output: Which score is explained: logit, probability, log_probability or margin.
        layer: Explains a layer's activation in the image's place: the rest of the network is the network then. A name as in
            `model.layers()` (`"name@k"` for its k-th call), or "auto": the last with a map that everything passes through.
        at: The same by depth: "input", "middle" or "final", which is what "auto" finds.
        smooth: Standard deviation, in pixels, of a Gaussian that the map is smoothed with; 0: none.
    """

    model: Model
    output: Output = field(default="logit", kw_only=True)
    layer: str | None = field(default=None, kw_only=True)
    at: Depth | None = field(default=None, kw_only=True)
    smooth: Annotated[float, Range(0)] = field(default=0.0, kw_only=True)

    layers: ClassVar[Layers] = "head"  # whether the base class runs it at layers, it does so by itself, or cannot
    stretched: ClassVar[bool] = False  # whether maps of inner layers are in its map, drawn out to the image's size
    tried: ClassVar[str] = ""  # methods with the same word here run on the same networks, which only a trial can tell

    facts: ClassVar[Facts] = Facts("", "custom", "", tags={**TAGS})
    _budget: int | None = field(default=None, init=False)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(kw_only=True, eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        self.model = Model.wrap(self.model)
        validate(self.name or type(self).__name__, type(self), self.params)
        self._validate_base()
        self.validate()
        reason = self._refusal()
        if reason is not None:
            raise ValueError(f"{self.name} does not run on this model: {reason}")

    # -- what a method defines -----------------------------------------------------------------------------------------

    @abstractmethod
    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The maps of checked inputs `(N, C, H, W)` on the model's device; `(N, C, H, W)` or any `(N, 1, h, w)`.

        For tables `(N, F)`; for tokens `(N, T, D)`, or `(N, T)` where all of a token has one value.
        """

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        """Forwards and backwards for one input of `shape`; `options` has the hyper-parameters as attributes."""
        raise NotImplementedError(f"{cls.__name__} must define _cost(options, shape)")

    def validate(self) -> None:
        """Check what depends on several parameters; each by itself is checked against its annotation already."""

    def _validate_base(self) -> None:
        """Check what every method has."""
        name = self.name or type(self).__name__
        if self.layer not in {None, "auto"} and self.at is not None:
            raise ValueError(f"{name}: layer={self.layer!r} and at={self.at!r}: give one of them")
        named = self.layer not in {None, "input"} and not (self.layer == "auto" and self.layers == "own")
        inner = self.at not in {None, "input"} or named
        if inner and self.layers == "none":
            raise ValueError(f"{name} does not run at a layer: leave layer and at away")
        if inner and not isinstance(self.model.network, nn.Module):
            raise ValueError(f"{name}: layer and at need the network's layers, and a bare callable has none")
        if self.smooth and self.model.kind != "image" and not self.model._takes_any:
            raise ValueError(f"{name}: smooth is for maps of images, and the model takes {self.model.kind}")

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Why this method cannot run on a model with nothing else passed; `None` if it can."""
        kinds = cls.facts.tags["kinds"]
        if model.kind not in kinds and not model._takes_any:
            return f"it explains {' and '.join(kinds)} inputs, the model takes {model.kind}"
        if "gradient" in cls.facts.needs and model.differentiable is False:
            return "it needs gradients, which autograd cannot take through this callable"
        if cls.facts.needs & {"layer", "attention"} and not isinstance(model.network, nn.Module):
            return "it needs the network's layers, and a bare callable has none"
        return cls._trial(model) if cls.tried and model.shape is not None else None

    @classmethod
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def _trial(cls, model: Model) -> str | None:
        """Why an arbitrary input of the shape last seen cannot be explained; tried once for each shape."""
        key = ("tried", cls.tried, model.shape)
        if key not in model._learnt and model.output_shape is not None:
            model._learnt[key] = None  # what is made for the trial is not tried itself
            one = model._blank().to(model.device or "cpu")
            target = Target(torch.zeros(1, dtype=torch.long), model._count or 1, function=_first)
            try:
                with model.uncounted():
                    made = cls(model, layer=None) if cls.layers == "head" else cls(model)
                    made.compute(one, target)
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                model._learnt[key] = str(error)
        reason: str | None = model._learnt.get(key)
        return reason

    def _refusal(self) -> str | None:
        """Why this configuration cannot run on its model."""
        return type(self).supports(self.model)

    # -- what a user calls ---------------------------------------------------------------------------------------------

    def attribute(
        self,
        inputs: Tensor,
        target: TargetLike | Target = None,
        *,
        baseline: baselines.Baselines | None = None,
        regions: Any = None,
    ) -> Tensor:
        """The maps alone: `(N, 1, H, W)`, signed and un-normalised, on the inputs' device.

        Args:
            inputs: `(N, C, H, W)` in the model's bounds (`(N, F)` for a table, `(N, T, D)` for tokens).
            target: What to explain: a class, one per image, an index tuple, a callable `outputs -> (N,)`, or `None` for
                the class that the network names on the clean image.
            baseline: For this call only, where the method has one.
            regions: For this call only, where the method has them.

        Raises:
            TypeError: The inputs are no floating point tensor, or the method has no such option.
            ValueError: Anything else that is wrong with inputs or target, in a sentence that says what to do.
        """
        return self._explain(inputs, target, baseline, regions, scores=False).maps

    def __call__(self, inputs: Tensor, target: TargetLike | Target = None, **more: Any) -> Tensor:
        """The same as `attribute`."""
        return self.attribute(inputs, target, **more)

    def explain(
        self,
        inputs: Tensor,
        target: TargetLike | Target = None,
        *,
        baseline: baselines.Baselines | None = None,
        regions: Any = None,
        scores: bool = True,
    ) -> Explanation:
        """Maps with the target, its score, the cost and the method's details.

        Arguments as in `attribute`, and `scores`: whether to evaluate the images' own scores too, which no cost counts.
        """
        return self._explain(inputs, target, baseline, regions, scores=scores)

    def with_model(self, model: "Model | Network") -> Self:
        """The same configuration on another model, validated again."""
        made = type(self)(Model.wrap(model), **self.params)
        made._budget = self._budget
        return made

    def for_rows(self, rows: slice | Tensor) -> "Attributor":
        """This attributor for some images of a larger set; only those that hold maps of their own differ."""
        del rows
        return self

    @classmethod
    def cost(cls, shape: tuple[int, ...] = (3, 224, 224), **options: Any) -> Cost:
        """Forward and backward evaluations for one image of `shape`, by hyper-parameters (defaults for the rest)."""
        values = {n: p.default for n, p in parameters(cls).items()} | options
        return Cost(*cls._cost(SimpleNamespace(**values), shape))

    # -- how it is run -------------------------------------------------------------------------------------------------

    @torch.inference_mode(mode=False)  # what is made here may be needed by a gradient
    @torch.no_grad()
    def _explain(
        self, inputs: Tensor, target: TargetLike | Target, baseline: Any, regions: Any, *, scores: bool
    ) -> Explanation:
        given = {"baseline": baseline, "regions": regions}
        changed = {k: v for k, v in given.items() if v is not None}
        if changed:
            for option in changed:
                if option not in parameters(type(self)):
                    raise TypeError(f"{self.name} has no option {option!r}")
            other = type(self)(self.model, **{**self.params, **changed})
            other._budget = self._budget
            return other._explain(inputs, target, None, None, scores=scores)
        model = self.model
        images = model.check(inputs)
        if model.kind not in self.facts.tags["kinds"]:
            raise ValueError(
                f"{self.name} explains {SHAPES[self.facts.tags['kinds'][0]]} inputs, got {tuple(images.shape)}"
            )
        if self._budget is not None and sum(self.cost(tuple(images.shape[1:]), **self.params)) > self._budget:
            raise ValueError(_too_dear(type(self), self._budget, self.params, tuple(images.shape[1:])))
        device = images.device
        images = images.to(model.device or device)
        frozen = model.resolve(images, target)
        with model.uncounted():
            clean = model.scores(images, frozen, output=self.output) if scores else torch.empty(0)
        with model.ledger(frozen.count) as ledger:
            start = time.perf_counter()
            native, details = self._computed(images, frozen)
            if native.device.type == "cuda":
                torch.cuda.synchronize(native.device)
            seconds = time.perf_counter() - start
        native = native.detach()
        if not bool(native.isfinite().all()):
            bad = (~native.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"{self.name} made NaN or infinite values for images {bad[:5]}: look at the network's outputs there"
            )
        native = self._reduce(native)
        maps = self._resize(native, tuple(images.shape[2:])) if images.ndim == 4 else native
        maps = baselines.gaussian_blur(maps, self.smooth) if self.smooth else maps
        if images.ndim == 3 and maps.ndim == 2:  # one value for each token
            maps = maps[:, :, None].expand(images.shape).contiguous()
        kind = map_type(inputs)
        return Explanation(
            maps=maps.to(device, kind),
            native=native.to(device, kind),
            target=frozen.value(),
            scores=clean.to(device, kind),
            forwards=ledger.forwards[frozen.rows],
            backwards=ledger.backwards[frozen.rows],
            seconds=seconds,
            details=details,
            method=self.name,
            params=self.params,
            output=self.output,
            inputs=inputs,
        )

    def _computed(self, images: Tensor, target: Target) -> Computed:
        """What the method makes of the images, or of a layer's activation."""
        model, name = self.model, "input"
        if self.layers == "head":
            depth = self.at or ("final" if self.layer == "auto" else None)
            name = model.place(depth, images) if depth else self.layer or "input"
        if name == "input":
            return self.compute(images, target)
        model.layers(images)  # which shows it an image
        layout = model.layout(name)
        halves = model.split(name)
        activation = halves[0].outputs(images, rows=target.rows, count=target.count)
        made = self.behind(halves, images, activation, target, grid=layout.grid, layer=name)
        native, details = made.compute(activation, target)
        if layout.form == "tokens":
            native = layout.maps(native if native.ndim == 3 else native[:, :, None])
        return Computed(native, {"layer": name, **details})

    def behind(
        self,
        halves: tuple[Model, Model],
        images: Tensor,
        activation: Tensor,
        target: Target,
        *,
        grid: tuple[int, int],
        layer: str,
    ) -> "Attributor":
        """This method for what follows a layer: it explains the layer's activation.

        Args:
            halves: What `Model.split` returned.
            images: `(N, C, H, W)`, and
            activation: what the first half makes of them.
            target: Frozen, one row per image.
            grid: How many places the layer's map has, down and across.
            layer: Its name, for messages.

        Raises:
            ValueError: The method does not run there.
        """
        trunk, head = halves
        head.know(head.check(activation), target)
        if head.kind not in self.facts.tags["kinds"]:
            raise ValueError(
                f"{self.name} explains {SHAPES['image']}, and layer {layer!r} hands on {tuple(activation.shape)}"
            )
        made = self.within(head, (images.shape[2] / grid[0], images.shape[3] / grid[1]))

        def through(x: Tensor) -> Tensor:
            rows = target.rows if len(x) == len(images) else torch.zeros(len(x), dtype=torch.long)
            out: Tensor = trunk.outputs(x, rows=rows, count=target.count)
            return out

        carried = self.carry(images, through)
        return type(made)(head, **{**made.params, **carried}) if carried else made

    def within(self, head: Model, stride: tuple[float, float]) -> "Attributor":
        """This method for the rest of the network after a layer, whose activation takes the image's place.

        Args:
            head: The rest.
            stride: Pixels, down and across, of one place of the activation: for what is measured in pixels.
        """
        del stride
        return type(self)(head, **self._inner())

    def beside(self, network: Model) -> "Attributor":
        """This method for a network that takes the same images and sees a part of each: nothing may be moved across."""
        return type(self)(network, **{**self.params, "layer": None, "at": None})

    def _inner(self) -> dict[str, Any]:
        """The parameters for an activation in the image's place."""
        params = {**self.params, "layer": None, "at": None, "smooth": 0.0}
        given = params.get("baseline")
        if any(
            isinstance(b, str) and b in {"black", "white"}
            for b in (given if isinstance(given, tuple | list) else [given])
        ):
            params["baseline"] = "zero"  # an activation has no bounds; what is absent is 0
        return params

    def carry(self, images: Tensor, through: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Options that are images, as what the layer makes of them; none, where they are the activation's own.

        Args:
            images: What is explained.
            through: Images `(N, C, H, W)` or `(1, C, H, W)` to the layer's activation.
        """
        del images, through
        return {}

    def _reduce(self, maps: Tensor) -> Tensor:
        how: Channels = getattr(self, "channels", "sum")
        return reduce_channels(maps, how) if maps.ndim == 4 else maps

    def _resize(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        how: Resize | None = getattr(self, "resize", "bilinear")
        if how is None or tuple(maps.shape[2:]) == size:
            return maps
        return resize(maps, size, how)


def _first(outputs: Tensor) -> Tensor:
    """The first of each image's outputs: the target of a trial."""
    return outputs.reshape(len(outputs), -1)[:, 0]


def reduce_channels(maps: Tensor, how: Channels) -> Tensor:
    """`(N, C, H, W)` to `(N, 1, H, W)`, or as it is for `"keep"`."""
    if how == "keep":
        return maps
    if how == "l2":
        return maps.pow(2).sum(1, keepdim=True).sqrt()
    if how == "max_abs":
        return maps.abs().amax(1, keepdim=True)
    if how == "abs_sum":
        return maps.abs().sum(1, keepdim=True)
    return maps.mean(1, keepdim=True) if how == "mean" else maps.sum(1, keepdim=True)


def resize(maps: Tensor, size: tuple[int, ...], how: Resize) -> Tensor:
    """Maps `(N, K, h, w)` at another size; pixel centres stay where they are."""
    if how == "nearest":
        return functional.interpolate(maps, size, mode="nearest-exact")
    return functional.interpolate(maps, size, mode=how, align_corners=False)


def _too_dear(cls: type[Attributor], budget: int, options: dict[str, Any], shape: tuple[int, ...]) -> str:
    need = sum(cls.cost(shape, **options))
    return (
        f"{cls.name} does not fit budget={budget}: with these options it takes {need} forwards and backwards for an input "
        f"of shape {shape}"
    )


# -- the registry ------------------------------------------------------------------------------------------------------


def register(
    name: str,
    *,
    family: str,
    paper: str = "",
    aliases: str | tuple[str, ...] = (),
    needs: str | tuple[str, ...] = (),
    stochastic: bool = False,
    granularity: Granularity = "pixel",
    signed: bool = True,
    targeted: bool = True,
    offset: bool = False,
    complete: bool = False,
    at_most: bool = False,
    localizes: bool = True,
    blind: bool = False,
    samples: str | None = None,
    kinds: tuple[str, ...] = ("image",),
    small: dict[str, Any] | None = None,
) -> Callable[[A], A]:
    """Register an `Attributor` under a name.

    Args:
        name: In snake case.
        family: `"gradient"`, `"path"`, `"cam"`, ...; the folder of methods that come with attriscope.
        paper: Author, year and where to find it.
        aliases: Other names; case, hyphens and underscores never matter.
        needs: `"gradient"`, `"layer"`, `"regions"`, `"references"`, `"attention"`.
        stochastic: Whether the seed changes the map.
        granularity: What gets a value of its own: `"pixel"`, `"cell"`, `"region"`.
        signed: Whether negative values speak against the target.
        targeted: Whether the map is the target's own; otherwise it is the same for every target.
        offset: Whether the map has a constant of no meaning, so that figures show what differs from its mean.
        complete: Whether the map sums to the score minus the baseline's.
        at_most: Whether its cost is an upper bound: what it would evaluate twice it evaluates once, or it stops early.
        localizes: Whether it finds an object on any network; a picture of what a network looks for may be of every image.
        blind: Whether it never looks at the network: a control, of whose map nothing can be asked.
        samples: The parameter that a budget picks.
        kinds: Which kinds of input.
        small: Hyper-parameters for tests on images of 16 x 16 pixels.

    Example:
        >>> @register("brightness", family="example", aliases="luma")
        ... class Brightness(Attributor):
        ...     '''The image itself.'''
        ...     def compute(self, inputs, target):
        ...         return Computed(inputs, {})
        ...     @classmethod
        ...     def _cost(cls, options, shape):
        ...         return 0, 0
        >>> create("luma", torch.nn.Flatten()).attribute(torch.ones(1, 3, 2, 2), target=0).shape
        torch.Size([1, 1, 2, 2])
        >>> REGISTRY.remove("brightness")
    """

    def decorate(cls: A) -> A:
        tags = {
            "stochastic": stochastic,
            "granularity": granularity,
            "signed": signed,
            "targeted": targeted,
            "offset": offset,
            "complete": complete,
            "at_most": at_most,
            "localizes": localizes,
            "blind": blind,
            "samples": samples,
            "kinds": kinds,
            "small": small or {},
        }
        facts = Facts(name, family, paper, as_tuple(aliases), frozenset(as_tuple(needs)), tags)
        if samples is not None and samples not in parameters(cls):
            raise TypeError(f"{cls.__name__} has no parameter {samples!r} for a budget to pick")
        REGISTRY.add(cls, facts)
        cls.facts = facts
        return cls

    return decorate


def available(pattern: str = "*", *, model: Model | Network | None = None, **tags: Any) -> list[str]:
    """The names of all methods, sorted.

    Args:
        pattern: Matches `name` or `family/name`, as `"*cam*"` or `"perturbation/*"`.
        model: Keeps those that run on it with nothing else passed.
        tags: `needs="gradient"` (has that need; `needs=()`: has none), `family=`, `stochastic=`, `granularity=`, ...

    Example:
        >>> available("perturbation/*", stochastic=False)
        ['extremal_perturbation', 'feature_ablation', 'occlusion', 'shap_bpt']
    """
    names = REGISTRY.names(pattern, **tags)
    if model is None:
        return names
    wrapped = Model.wrap(model)
    return [n for n in names if REGISTRY.find(n).supports(wrapped) is None]


def describe(name: str) -> dict[str, Any]:
    """All that is known of a method: facts, parameters with defaults and help, cost at the defaults.

    Example:
        >>> describe("integrated-gradients")["cost"]
        Cost(forwards=52, backwards=50)
    """
    found = REGISTRY.describe(name)
    return {**found, "cost": REGISTRY.find(name).cost()}


def create(name: str, model: Model | Network, *, budget: int | None = None, **options: Any) -> Attributor:
    """A method by name.

    Args:
        name: A name or an alias; case, hyphens and underscores do not matter.
        model: A `Model`, or a network.
        budget: The most forwards + backwards per image. It picks the method's sample count; a method without one is made
            if it fits.
        options: The method's hyper-parameters.

    Raises:
        ValueError: No such method (the message lists close ones), an option out of range, or a budget that is too small.
        TypeError: No such option, or one of the wrong type.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> create("RISE", network, budget=200)
        rise(masks=200)
    """
    wrapped = Model.wrap(model)

    def build(cls: type[Attributor]) -> Attributor:
        return cls(wrapped, **(options if budget is None else _fit(cls, budget, options, wrapped)))

    made = REGISTRY.build(name, options, build)
    if budget is not None:
        made._budget = budget
    return made


def _fit(cls: type[Attributor], budget: int, options: dict[str, Any], model: Model) -> dict[str, Any]:
    """The options with the largest sample count that the budget allows."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget={budget!r}: give a whole number of forwards + backwards per image, at least 1")
    samples = cls.facts.tags["samples"]
    if samples is None or samples in options:
        # what depends on the image's size is known when one was seen; until then the smallest is assumed
        shape = model.shape or (1, 1, 1)
        if sum(cls.cost(shape, **options)) > budget:
            raise ValueError(_too_dear(cls, budget, options, shape))
        return options
    shape = model.shape or (3, 224, 224)
    limits = next(
        (n for n in getattr(parameters(cls)[samples].annotation, "__metadata__", ()) if isinstance(n, Range)), Range(1)
    )

    def price(n: int) -> int:
        return sum(cls.cost(shape, **{**options, samples: n}))

    least = max(int(limits.low), 1)
    if price(least) > budget:
        raise ValueError(
            f"{cls.name} does not fit budget={budget}: at its minimum, {samples}={least}, it takes {price(least)} forwards "
            "and backwards"
        )
    if limits.power or limits.doubles:
        n = least
        while price(2 * n) <= budget:
            n *= 2
        return {**options, samples: n}
    low, high = least, max(budget, least) + 1
    while high - low > 1:  # price(low) fits, price(high) does not or is out of reach
        middle = (low + high) // 2
        low, high = (middle, high) if price(middle) <= budget else (low, middle)
    return {**options, samples: low}

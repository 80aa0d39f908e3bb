"""Grids of images on which it is known which pixels a head of the network can have seen, and how maps of them are scored."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, overload

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor, Depth
from attriscope.attribution.model import Model, Network
from attriscope.attribution.targets import Target
from torch import Tensor, nn
from torch.nn import functional

from ..metric import Scored, UnitMetric

Scoring = Literal["exact", "official_bilinear"]
DEPTHS: tuple[Depth, ...] = ("input", "middle", "final")

__all__ = ["Grids", "HeadMaps", "OnGrid", "attainable", "cell_share", "grids_of"]


# -- grids -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grids:
    """Images put side by side.

    Attributes:
        images: `(G, C, grid * H, grid * W)`.
        labels: The class of each cell, row by row, `(G, grid ** 2)`.
        members: Which of the images it shows, `(G, grid ** 2)`.
        grid: Cells per side.
        confidence: The least probability that the network gives the class of an image that was taken.
    """

    images: Tensor
    labels: Tensor
    members: Tensor
    grid: int
    confidence: float

    @classmethod
    def of(
        cls, cells: Tensor, labels: Tensor, *, members: Tensor | None = None, confidence: float = math.nan
    ) -> "Grids":
        """Put cells side by side.

        Args:
            cells: `(G, grid ** 2, C, H, W)`, row by row.
            labels: Their classes, `(G, grid ** 2)`.
            members: Which images they are; `None` numbers them.
            confidence: What is known of it; `NaN`: nothing.

        Raises:
            ValueError: The number of cells is no square, or labels do not fit.

        Example:
            >>> made = Grids.of(torch.arange(4.0).reshape(1, 4, 1, 1, 1), torch.arange(4)[None])
            >>> made.images[0, 0].tolist()
            [[0.0, 1.0], [2.0, 3.0]]
        """
        grid = math.isqrt(cells.shape[1]) if cells.ndim == 5 else 0
        if not grid or grid**2 != cells.shape[1] or labels.shape != cells.shape[:2]:
            raise ValueError(
                f"cells of shape {tuple(cells.shape)} and labels of shape {tuple(labels.shape)}: give (G, n * n, C, H, W) and "
                "(G, n * n)"
            )
        joined = cells.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
        numbered = torch.arange(labels.numel()).reshape(labels.shape)
        return cls(joined, labels.cpu(), numbered if members is None else members, grid, confidence)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a cell."""
        return self.images.shape[2] // self.grid, self.images.shape[3] // self.grid


def grids_of(
    model: Model | Network,
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    grid: int = 2,
    count: int | None = None,
    confidence: float = 0.99,
    repeat_corners: bool = False,
    seed: int = 0,
) -> Grids:
    """Put images that the network classifies rightly and with confidence into grids of different classes.

    Each image is used once. Where there are too few for one grid, or for `count`, the confidence is lowered, with a
    warning, as far as it must be; it then says what was reached.

    Args:
        model: The network, which names every image's class and its probability.
        images: `(N, C, H, W)` in the model's bounds.
        labels: The true classes, `(N,)`; `None` takes the network's word, so that no image is misclassified.
        grid: Cells per side.
        count: How many grids; `None`: as many as there are confident images for.
        confidence: The least probability of the label.
        repeat_corners: Whether the first and the last cell show two images of one class: then no method can tell the two
            by their class.
        seed: Of the order in which images are put into cells.

    Raises:
        ValueError: Too few classes are classified rightly, or anything is wrong with images or labels.

    Example:
        >>> class Brightest(torch.nn.Module):  # which channel is brightest
        ...     def forward(self, x):
        ...         return 20 * x.mean((2, 3))
        >>> made = grids_of(Brightest(), torch.eye(4)[:, :, None, None].expand(4, 4, 2, 2))
        >>> made.images.shape, sorted(made.labels[0].tolist())
        (torch.Size([1, 4, 4, 4]), [0, 1, 2, 3])
    """
    wrapped = Model.wrap(model)
    checked = wrapped.check(images)
    checked = checked.to(wrapped.device or checked.device)
    if wrapped.kind != "image":
        raise ValueError(f"grids are made of images (N, C, H, W), and the model takes {wrapped.kind}")
    with wrapped.uncounted():
        target = wrapped.resolve(checked, None)
        chances = wrapped.scores(checked, target, output="probability", every=True).float().cpu()
    if chances.shape[1] < 2:
        raise ValueError("a grid shows different classes, and the network has one output")
    named = chances.argmax(1)
    true = named if labels is None else _labels(labels, len(checked), chances.shape[1])
    sure = chances.gather(1, true[:, None])[:, 0].double()
    right = (named == true).nonzero()[:, 0]
    right = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))]
    right = right[sure[right].argsort(descending=True, stable=True)]
    confident = int((sure[right] >= confidence).sum())

    def filled(size: int) -> Tensor:
        return arrange(true, right[:size], grid=grid, count=count, repeat_corners=repeat_corners, seed=seed)

    found, used = filled(confident), confident
    wanted = count or 1
    if len(found) < wanted:
        found, used = filled(len(right)), len(right)
        low, high = confident, len(right)
        while high - low > 1 and len(found) >= wanted:  # the fewest of the most confident that do
            middle = (low + high) // 2
            if len(made := filled(middle)) >= wanted:
                found, used, high = made, middle, middle
            else:
                low = middle
        if not len(found):
            raise ValueError(
                f"a grid of {grid} x {grid} shows {grid * grid - repeat_corners} classes, and of {len(checked)} images "
                f"{len(right)} are classified rightly, of {len(true[right].unique())} classes: give more images"
            )
        few = f"; that makes {len(found)} grids of {count}" if len(found) < wanted else ""
        warnings.warn(
            f"{confident} images are classified rightly with a probability of {confidence:g} or more: it was lowered to "
            f"{float(sure[right[used - 1]]):.3g}{few}",
            RuntimeWarning,
            stacklevel=2,
        )
    least = float(sure[found.flatten()].min())
    return Grids.of(checked[found.to(checked.device)], true[found], members=found, confidence=least)


def _labels(labels: Tensor | Sequence[int], count: int, classes: int) -> Tensor:
    """Labels as `LongTensor (N,)`."""
    made = torch.as_tensor(labels).cpu()
    if made.shape != (count,) or made.is_floating_point() or made.dtype == torch.bool:
        raise ValueError(
            f"labels must be one class number for each of {count} images, got {tuple(made.shape)} {made.dtype}"
        )
    made = made.long()
    if bool(((made < 0) | (made >= classes)).any()):
        raise ValueError(
            f"labels go from {int(made.min())} to {int(made.max())}, and the network has {classes} classes"
        )
    return made


def arrange(
    labels: Tensor, among: Tensor, *, grid: int, count: int | None, repeat_corners: bool = False, seed: int = 0
) -> Tensor:
    """Which images go into which cells, `(G, grid ** 2)`: every class once in a grid, every image once in all.

    Classes of which most images are left are taken first, which fills as many grids as can be; with `repeat_corners` the
    largest class is shown twice, and there may be a way to fill more.

    Args:
        labels: Of all images, `(N,)`.
        among: Which images may be taken, `(K,)`.
        grid: Cells per side.
        count: The most grids.
        repeat_corners: Whether the first and the last cell show the same class.
        seed: Of everything that is chosen.

    Example:
        >>> labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
        >>> arrange(labels, torch.arange(7), grid=2, count=None).shape  # of class 3 there is one image
        torch.Size([1, 4])
    """
    generator = torch.Generator().manual_seed(seed)
    pools: dict[int, list[int]] = {}
    for i in among[torch.randperm(len(among), generator=generator)].tolist():
        pools.setdefault(int(labels[i]), []).append(i)
    names, cells = sorted(pools), grid * grid
    grids: list[list[int]] = []
    while count is None or len(grids) < count:
        order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
        order.sort(key=lambda name: -len(pools[name]))
        chosen = [name for name in order if pools[name]][: cells - repeat_corners]
        if len(chosen) < cells - repeat_corners or (repeat_corners and len(pools[chosen[0]]) < 2):
            break
        twice = chosen.pop(0) if repeat_corners else None
        chosen = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
        if twice is not None:
            chosen = [twice, *chosen, twice]
        grids.append([pools[name].pop() for name in chosen])
    return torch.tensor(grids, dtype=torch.long).reshape(len(grids), cells)


# -- scores ------------------------------------------------------------------------------------------------------------


def cell_share(
    maps: Tensor,
    cells: Tensor,
    *,
    grid: int,
    scoring: Scoring = "exact",
    size: tuple[int, int] | None = None,
    kernel: int = 0,
    center: bool = False,
) -> Tensor:
    r"""How much of each map's positive mass lies in its head's cell, `(U,)` float64 on the CPU.

    .. math:: L = \frac{\sum_{p \in \text{cell}} A_+(p)}{\sum_p A_+(p)}

    Args:
        maps: `(U, h, w)`, signed, at any resolution.
        cells: Which cell each belongs to, row by row, `(U,)`.
        grid: Cells per side.
        scoring: `"exact"` adds up the map's own places; one that lies in two cells is shared by area.
            `"official_bilinear"` enlarges the map to the grid's size first, as the paper's code does, which carries mass over
            the cells' borders.
        size: The grid's height and width in pixels, for `"official_bilinear"`.
        kernel: Smooths the signed map with a Gaussian of so many pixels (odd), of a standard deviation of a quarter of
            that, before negative values are cut off; beyond the border there is nothing. 0: not at all.
        center: Takes each map's mean off first.

    Returns:
        NaN where a map is not finite, or has no positive mass: less than 1e-7 of its mass is rounding.

    Example:
        >>> maps = torch.zeros(2, 4, 4)
        >>> maps[0, 0, 0], maps[1] = 1, 1
        >>> cell_share(maps, torch.tensor([0, 3]), grid=2).tolist()
        [1.0, 0.25]
    """
    made = maps.detach().float() if maps.dtype in {torch.float16, torch.bfloat16} else maps.detach()
    made = made - made.mean((1, 2), keepdim=True) if center else made
    if scoring == "official_bilinear":
        if size is None:
            raise ValueError(f"scoring={scoring!r} enlarges maps to the grid: pass size=(height, width) in pixels")
        made = functional.interpolate(made[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    made = smoothed(made, kernel).cpu().double()
    positive = made.clamp_min(0)
    down, across = (_overlap(n, grid) for n in made.shape[1:])
    masses = torch.einsum("ch,uhw,dw->ucd", down, positive, across).flatten(1)
    total = masses.sum(1)
    shares = masses.gather(1, cells.cpu()[:, None])[:, 0] / total
    some = total > 1e-7 * made.abs().flatten(1).sum(1)  # not so where a value is NaN or infinite: then the sum is NaN
    return torch.where(some, shares, torch.nan)


def smoothed(maps: Tensor, kernel: int) -> Tensor:
    """Maps `(U, h, w)` under a Gaussian of `kernel` x `kernel` places, whose standard deviation is a quarter of that."""
    if not kernel:
        return maps
    check_kernel(kernel)
    offsets = torch.arange(kernel, dtype=maps.dtype, device=maps.device) - (kernel - 1) / 2
    weights = torch.exp(-0.5 * (offsets / (kernel / 4)) ** 2)
    weights = (weights / weights.sum()).reshape(1, 1, 1, -1)
    out = functional.conv2d(maps[:, None], weights, padding=(0, kernel // 2))
    return functional.conv2d(out, weights.mT, padding=(kernel // 2, 0))[:, 0]


def check_kernel(kernel: int) -> None:
    """Refuse a kernel without a middle; 0 is none at all.

    Raises:
        ValueError: It has none.
    """
    if kernel and (kernel < 0 or kernel % 2 == 0):
        raise ValueError(f"kernel={kernel} has no middle: give an odd number of places")


def _overlap(places: int, cells: int) -> Tensor:
    """Which share of each place lies in each cell, `(cells, places)` float64."""
    edge = torch.arange(places + 1, dtype=torch.float64) * cells / places  # 0 and 1 exactly where the grid divides
    first = torch.arange(cells, dtype=torch.float64)[:, None]
    inside = torch.minimum(edge[1:], first + 1) - torch.maximum(edge[:-1], first)
    return (inside.clamp_min(0) * places / cells).clamp_max(1)


def attainable(
    shape: tuple[int, int],
    cells: Tensor,
    *,
    grid: int,
    scoring: Scoring = "exact",
    size: tuple[int, int] | None = None,
    kernel: int = 0,
    center: bool = False,
) -> Tensor:
    """What a map scores that fills its cell evenly and is 0 elsewhere, `(U,)`: less than 1 where mass leaks out of it.

    Args:
        shape: The maps' height and width.
        cells: Which cells, `(U,)`.
        grid: As in `cell_share`.
        scoring: Likewise.
        size: Likewise.
        kernel: Likewise.
        center: Likewise.

    Example:
        >>> leak = attainable((14, 14), torch.tensor([0]), grid=2, scoring="official_bilinear", size=(448, 448))
        >>> round(float(leak), 4)
        0.9646
    """
    down, across = (_overlap(n, grid) for n in shape)
    each = torch.stack([torch.outer(down[c // grid], across[c % grid]) for c in range(grid * grid)])
    every = torch.arange(grid * grid)
    scores = cell_share(each, every, grid=grid, scoring=scoring, size=size, kernel=kernel, center=center)
    return scores[cells.cpu()]


# -- what a metric finds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadMaps:
    """A method's maps of grids, one for each head.

    Attributes:
        maps: `(U, h, w)`, signed, channels added up, at the resolution that the method has.
        cells: Which cell each head sees, or asks for, `(U,)`.
        grids: Which grid it belongs to, `(U,)`.
        labels: The class that is explained, `(U,)`.
        scores: `(U,)` float64; NaN where undefined.
        filled: What a map that fills the cell would score, `(U,)`.
        grid: Cells per side.
        layer: What took the image's place.
        images: The grids' images, `(G, C, H, W)`.
    """

    maps: Tensor
    cells: Tensor
    grids: Tensor
    labels: Tensor
    scores: Tensor
    filled: Tensor
    grid: int
    layer: str = "input"
    images: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def chance(self) -> float:
        """What a constant map scores."""
        return 1 / self.grid**2

    @property
    def attainable(self) -> float:
        """What maps that fill their cells would score on average."""
        return float(self.filled.mean())


class OnGrid(UnitMetric):
    """A metric that asks whether a map of a grid lies in the cell of the class that it is of.

    Args:
        grid: Cells per side.
        layer: What is explained: the images, or the activation of a layer in their place, "middle", "final" or any name.
        scoring: "exact" adds up the maps' own places; "official_bilinear" enlarges them to the images' size before, and
            carries mass over the cells' borders.
        kernel: Smooths every map with a Gaussian of so many places (odd) before it is scored; 0: not at all.
        center: Takes each map's mean off before it is scored: for maps with an offset of no meaning, such as RISE's.
        confidence: The least probability of an image's label; lowered, with a warning, where there are too few.
        count: How many grids; `None`: as many as there are confident images for.
        repeat_corners: Whether the first and the last cell show the same class.
        seed: Of which image goes where.
    """

    unit: ClassVar[str] = "heads of grids"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    undefined: ClassVar[str] = "no value of the map is positive"
    small: ClassVar[dict[str, Any]] = {"confidence": 0.0}
    corners: ClassVar[bool] = True  # whether first and last cell have heads of their own, or one answers for all

    grid: Annotated[int, Range(2)] = 2
    layer: str = "input"
    scoring: Scoring = "exact"
    kernel: Annotated[int, Range(0)] = 0
    center: bool = False
    confidence: Annotated[float, Range(0, 1)] = 0.99
    count: Count | None = None
    repeat_corners: bool = False
    seed: Seed = 0

    def validate(self) -> None:
        """A kernel has a middle, and a question that has one answer needs distinct classes."""
        check_kernel(self.kernel)
        if self.repeat_corners and not self.corners:
            raise ValueError(f"{self.name} asks where a class is, and repeat_corners=True shows one twice")

    @property
    def explanations(self) -> int:
        """One for each head."""
        return 1

    # -- what a metric defines -----------------------------------------------------------------------------------------

    @abstractmethod
    def shown(self, model: Model, grids: Grids) -> Tensor:
        """What the model must have seen before it is cut, `(N, C, H, W)`: a cell, or a whole grid."""

    @abstractmethod
    def halves(self, model: Model, layer: str, cell: int) -> tuple[Model, Model]:
        """The network up to a layer, for whole grids, and what follows it for one cell."""

    # -- what a user calls ---------------------------------------------------------------------------------------------

    def build(self, model: Model | Network, images: Tensor, labels: Tensor | Sequence[int] | None = None) -> Grids:
        """The grids that this metric's options make of some images; arguments and errors as in `score`."""
        return grids_of(
            model,
            images,
            labels,
            grid=self.grid,
            count=self.count,
            confidence=self.confidence,
            repeat_corners=self.repeat_corners,
            seed=self.seed,
        )

    @overload
    def score(
        self,
        attributor: Attributor,
        images: "Tensor | Grids",
        labels: Tensor | Sequence[int] | None = None,
        *,
        curves: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def score(
        self,
        attributor: Attributor,
        images: "Tensor | Grids",
        labels: Tensor | Sequence[int] | None = None,
        *,
        curves: Literal[True],
    ) -> Scored: ...

    def score(
        self,
        attributor: Attributor,
        images: "Tensor | Grids",
        labels: Tensor | Sequence[int] | None = None,
        *,
        curves: bool = False,
    ) -> Tensor | Scored:
        """Make grids of the images and score a method on them.

        Args:
            attributor: What `attribution.create` returns.
            images: `(N, C, H, W)` in the model's bounds, or what `build` made of them.
            labels: Their classes, `(N,)`; `None` takes the network's word.
            curves: Whether to hand back everything that was found.

        Returns:
            `(U,)` float64 on the CPU, grid after grid and head after head; NaN where a map has no positive mass, with a
            warning that counts them. With `curves=True` a `Scored`, whose details have each unit's `cell`, `label`, `chance`
            and `attainable`, and whose clusters are the grids.

        Raises:
            TypeError: `attributor` is none.
            ValueError: Too few images, a method that does not run at the layer, or a network that takes no whole grids
                where it must.
        """
        found = self.maps(attributor, images, labels)
        self._tell(found.scores)
        if not curves:
            return found.scores
        details = {"cell": found.cells, "label": found.labels, "attainable": found.filled}
        details["chance"] = torch.full_like(found.scores, found.chance)
        return Scored(found.scores, details={k: v.double() for k, v in details.items()}, clusters=found.grids)

    def score_maps(self, maps: Tensor, cells: Tensor | Sequence[int], *, size: tuple[int, int] | None = None) -> Tensor:
        """Score maps that somebody has: of grids, one for each head.

        Args:
            maps: `(U, h, w)`, `(U, 1, h, w)` or `(U, C, h, w)`, whose channels are added up; of the whole grid.
            cells: The cell that each must lie in, row by row, `(U,)`.
            size: Height and width of the grid in pixels; needed for "official_bilinear" where maps are smaller.

        Returns:
            `(U,)` float64 on the CPU; NaN where a map is not finite or has no positive mass, with a warning that counts them.

        Raises:
            TypeError: Maps that are no floating point tensor.
            ValueError: Maps or cells that do not fit.
        """
        if not isinstance(maps, Tensor) or not maps.is_floating_point():
            raise TypeError("maps must be a floating point tensor of shape (U, h, w)")
        flat = maps.sum(1) if maps.ndim == 4 else maps
        which = torch.as_tensor(cells).long().cpu()
        if flat.ndim != 3 or which.shape != (len(flat),) or not len(flat):
            raise ValueError(
                f"maps of shape {tuple(maps.shape)} and cells of shape {tuple(which.shape)}: give (U, h, w) and (U,)"
            )
        if bool(((which < 0) | (which >= self.grid**2)).any()):
            raise ValueError(
                f"a grid of {self.grid} x {self.grid} has cells 0..{self.grid**2 - 1}, not {which.tolist()}"
            )
        if min(flat.shape[1:]) < self.grid:
            raise ValueError(f"maps of {flat.shape[1]} x {flat.shape[2]} places are smaller than the grid has cells")
        scores = cell_share(flat, which, size=size, **self._how())
        self._tell(scores)
        return scores

    def maps(
        self, attributor: Attributor, images: "Tensor | Grids", labels: Tensor | Sequence[int] | None = None
    ) -> HeadMaps:
        """The method's maps of the grids, with their scores; arguments and errors as in `score`."""
        self.accept(attributor)
        model = attributor.model
        if isinstance(images, Grids) and labels is not None:
            raise ValueError(f"{self.name}: these grids have their labels: leave labels away")
        grids = images if isinstance(images, Grids) else self.build(model, images, labels)
        if grids.grid != self.grid:
            raise ValueError(f"{self.name}: grid={self.grid}, and these grids have {grids.grid} cells per side")
        if not self.corners and any(len(set(row)) < len(row) for row in grids.labels.tolist()):
            raise ValueError(f"{self.name} asks where a class is, and some of these grids show one twice")
        heads = [0, self.grid**2 - 1] if self.corners else list(range(self.grid**2))
        cells = torch.tensor(heads).repeat(len(grids))
        which = torch.arange(len(grids)).repeat_interleave(len(heads))
        target = Target(torch.arange(len(cells)), len(cells), index=grids.labels[which, cells][:, None])
        with torch.inference_mode(mode=False), torch.no_grad():
            made, layer = self._explained(attributor, grids, target, heads)
        size = (grids.images.shape[2], grids.images.shape[3])
        how = {"size": size, **self._how()}
        return HeadMaps(
            maps=made,
            cells=cells,
            grids=which,
            labels=grids.labels[which, cells],
            scores=cell_share(made, cells, **how),
            filled=attainable((made.shape[1], made.shape[2]), cells, **how),
            grid=self.grid,
            layer=layer,
            images=grids.images,
        )

    def example(self, **model: Any) -> tuple[Model, tuple[Any, ...]]:
        """Four colours, and a network that tells them."""
        generator = torch.Generator().manual_seed(0)
        colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]]).repeat(2, 1)
        images = (colours[:, :, None, None] + 0.1 * torch.rand(8, 3, 8, 8, generator=generator)).clamp(0, 1)
        return Model(Colours().eval(), bounds=(0.0, 1.0), **model), (images, torch.arange(8) % 4)

    def _how(self) -> dict[str, Any]:
        """How maps are scored."""
        return {"grid": self.grid, "scoring": self.scoring, "kernel": self.kernel, "center": self.center}

    # -- how it is run -------------------------------------------------------------------------------------------------

    def accept(self, attributor: Attributor) -> None:
        """A method that can be put behind a cut, and is not asked to look at a layer of its own choice."""
        super().accept(attributor)
        name = attributor.name
        if attributor.at is not None or attributor.layer not in {None, "auto"}:
            raise ValueError(
                f"{name}: {self.name}'s own layer= says what is explained: leave the method's layer and at away"
            )
        if attributor.smooth:
            raise ValueError(
                f"{name}: {self.name} scores maps as they are made: leave smooth away, and give it kernel="
            )
        if self.layer != "input" and attributor.layers == "none":
            raise ValueError(f'{name} does not run at a layer: score it at layer="input"')
        if attributor.stretched:
            raise ValueError(
                f"{name} draws maps of inner layers out to the image's size, and a head's layers have its own cell alone: "
                f"{self.name} cannot place them"
            )
        if not isinstance(attributor.model.network, nn.Module):
            raise ValueError(f"{self.name} cuts the network, and a bare callable cannot be cut")
        if attributor.model.forward:
            raise ValueError(
                f"{self.name}: the network takes further arguments, which belong to images and not to grids"
            )

    def _explained(self, attributor: Attributor, grids: Grids, target: Target, heads: list[int]) -> tuple[Tensor, str]:
        """The maps of all heads, `(U, h, w)`, and the layer's name."""
        model = attributor.model
        seen = self.shown(model, grids)
        model.layers(seen)  # which shows it an image
        depth = next((d for d in DEPTHS if d == self.layer), None)
        layer = self.layer if depth is None else model.place(depth)
        layout = model.layout(layer)
        if layout.form == "tokens":
            raise ValueError(
                f'{self.name}: layer {layer!r} hands on tokens, no map that has cells: score at layer="input"'
            )
        down, across = (n // m for n, m in zip(grids.images.shape[2:], seen.shape[2:], strict=True))
        places = (down * layout.grid[0], across * layout.grid[1])
        rows = torch.arange(len(target)).reshape(-1, len(heads))
        groups = [[k] for k in range(len(heads))] if self.corners else [list(range(len(heads)))]
        activation, found = None, []
        for group in groups:
            halves = self.halves(model, layer, heads[group[0]])
            if activation is None:  # all heads have the same
                activation = grids.images
                if layer != "input":
                    activation = halves[0].outputs(activation, rows=rows[:, 0], count=len(target))
            images, inner = grids.images, activation
            if len(group) > 1:
                images, inner = (x.repeat_interleave(len(group), 0) for x in (images, inner))
            own = target.take(rows[:, group].flatten())
            if layer == "input":
                made = attributor.beside(halves[1])
            else:
                made = attributor.behind(halves, images, inner, own, grid=places, layer=layer)
            native = made.explain(inner, own, scores=False).native
            native = native.sum(1) if native.ndim == 4 else native
            found.append(native.unflatten(0, (-1, len(group))))
        return torch.cat(found, 1).flatten(0, 1), layer


def whole(name: str, model: Model, grids: Grids) -> Tensor:
    """The first grid's image, if the network takes images of their size and its last map has cells.

    Raises:
        ValueError: It does not.
    """
    first = grids.images[:1]
    try:
        model.layers(first)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{name} shows the network whole grids of {first.shape[2]} x {first.shape[3]} pixels, which it does not take "
            f"({' '.join(str(error).split())[:120]}): difull shows it cells of its own size"
        ) from error
    last = model.layout(model.place("final"))
    if any(n % grids.grid for n in last.grid):
        raise ValueError(
            f"{name}: the network's last map of a grid has {last.grid[0]} x {last.grid[1]} places, which do not divide into "
            f"{grids.grid} x {grids.grid} cells: resize the images to a multiple of the network's stride"
        )
    return first


class Colours(nn.Module):
    """A small network that tells red, green, blue and yellow, averaged over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.utils.skip_init(nn.Conv2d, 3, 4, 3, padding=1)  # nothing is drawn
        self.act, self.name_it = nn.ReLU(), nn.utils.skip_init(nn.Linear, 4, 4)
        weight = torch.zeros(4, 3, 3, 3)
        weight[:, :, 1, 1] = torch.tensor([[1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [0.5, 0.5, -1]])
        with torch.no_grad():
            self.see.weight.copy_(weight)
            self.see.bias.zero_()
            self.name_it.weight.copy_(4 * torch.eye(4))
            self.name_it.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 4)`."""
        logits: Tensor = self.name_it(self.act(self.see(x)).mean((2, 3)))
        return logits

"""XRAI: regions ranked by how densely a gradient method's map lies on what they add."""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from .._parameters import Count, Range, parameters
from ..attributor import REGISTRY, Attributor, Computed, Resize, create, register, resize
from ..model import map_type
from ..path._extremes import Ends, ends
from ..regions import table
from ..targets import Target
from ._segments import SIDE, Segments, masks_of


class Filled(NamedTuple):
    """An image that was filled region by region.

    Attributes:
        map: `(H, W)`: every pixel has the density of the region that it came with.
        regions: `LongTensor (H, W)`: which one that was, 0 the first; what no region took comes last.
        densities: Of each, `(R,)`: the mean of the pixels that it added.
        areas: How many they were, `LongTensor (R,)`.
    """

    map: Tensor
    regions: Tensor
    densities: Tensor
    areas: Tensor


def xrai(attributions: Tensor, masks: Tensor, *, least: float, area: float = 1.0) -> Filled:
    """Take, again and again, the region whose new pixels have the largest mean (algorithm 1 of the paper).

    A region's number of new pixels and their sum are kept up to date: each pixel is taken off once, by the regions that it
    is in, so that all picks together cost what one look at the masks costs.

    Args:
        attributions: `(H, W)`, float64, on the CPU.
        masks: bool `(S, H, W)`.
        least: A region that adds fewer pixels than this is not taken.
        area: Stop when more than this part of the image is filled; what is left is one region.

    Example:
        >>> one = torch.tensor([[4.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
        >>> masks = torch.tensor([[[True, True, True, False]], [[True, False, False, False]]])
        >>> xrai(one, masks, least=1).map.tolist()
        [[4.0, 1.5, 1.5, 0.0]]
    """
    values, inside = attributions.flatten(), masks.flatten(1).T.contiguous()  # (H * W, S)
    counts, sums = inside.sum(0), values @ inside.to(values)
    taken, free = [], torch.ones_like(values, dtype=torch.bool)
    while float((~free).double().mean()) <= area:
        open_ = counts >= max(least, 1)
        if not bool(open_.any()):
            break
        best = int(torch.where(open_, sums / counts, -torch.inf).argmax())
        new = (inside[:, best] & free).nonzero().squeeze(1)
        taken.append(new)
        free[new] = False
        own = inside[new]
        counts = counts - own.sum(0)
        sums = sums - values[new] @ own.to(values)
    return _fill(attributions, taken, free)


def xrai_fast(attributions: Tensor, masks: Tensor, *, least: float) -> Filled:
    """Take the regions in the order of their mean, whatever they share; arguments and result as for `xrai`."""
    values, inside = attributions.flatten(), masks.flatten(1)
    counts = inside.sum(1)
    densities = torch.where(counts > 0, inside.to(values) @ values / counts, -torch.inf)
    taken, free = [], torch.ones_like(values, dtype=torch.bool)
    for index in densities.argsort(descending=True, stable=True).tolist():
        new = (inside[index] & free).nonzero().squeeze(1)
        if len(new) >= max(least, 1):
            taken.append(new)
            free[new] = False
    return _fill(attributions, taken, free)


def _fill(attributions: Tensor, taken: list[Tensor], free: Tensor) -> Filled:
    """Give every region's pixels their mean; those that are still free are the last region."""
    values = attributions.flatten()
    if bool(free.any()):
        taken = [*taken, free.nonzero().squeeze(1)]
    densities = torch.stack([values[new].mean() for new in taken])
    regions = torch.empty_like(free, dtype=torch.long)
    for number, new in enumerate(taken):
        regions[new] = number
    regions = regions.reshape(attributions.shape)
    return Filled(densities[regions], regions, densities, torch.tensor([len(new) for new in taken]))


class _Ranked(Attributor):
    """What xrai and xrai_fast share.

    Args:
        output: Which score the method below explains.
        method: Whose map is ranked: a name, or an attributor, whose configuration is put on this model as it is and whose
            `output` must be this one's.
        steps: Of a method given by name, where it has them.
        baseline: Of a method given by name, where it has one. "extremes": the mean of its maps with black and with white;
            a model without bounds takes an image's smallest and largest value.
        regions: "felzenszwalb": cut by colour at six scales; labels, whole numbers (H, W) or (N, H, W); masks that may
            overlap, bool (S, H, W) or (N, S, H, W); or a callable that makes labels or masks of the images.
        dilation: How far felzenszwalb's regions are widened, so that edges are inside, in pixels of an image of 224 x 224:
            smaller images take less.
        min_pixels: A region that adds fewer pixels is passed over; counted as in an image of 224 x 224.
    """

    layers = "none"  # regions are those of the image

    method: str | Attributor = "integrated_gradients"
    steps: Count = 100
    baseline: Ends = "extremes"
    regions: Segments = "felzenszwalb"
    dilation: Annotated[float, Range(0)] = 5
    min_pixels: Annotated[float, Range(0)] = 50

    def validate(self) -> None:
        """The method below must exist, explain images and run on this model."""
        cls = self._class(self.method)
        if "image" not in cls.facts.tags["kinds"]:
            raise ValueError(f"{self.name}: method={cls.name!r} does not explain images")
        if isinstance(self.method, Attributor) and self.method.output != self.output:
            raise ValueError(
                f"{self.name}: output={self.output!r}, but that of its method is {self.method.output!r}: give both the same"
            )
        self._below({})

    @staticmethod
    def _class(method: str | Attributor) -> type[Attributor]:
        return REGISTRY.find(method) if isinstance(method, str) else type(method)

    @classmethod
    def _named(cls, options: Any) -> dict[str, Any]:
        """What a method given by name gets of our options, but for its baseline."""
        own = parameters(cls._class(options.method))
        return {"steps": options.steps} if "steps" in own else {}

    def _below(self, more: dict[str, Any]) -> Attributor:
        """The method below, on our model."""
        if isinstance(self.method, Attributor):
            return self.method.with_model(self.model)
        return create(self.method, self.model, output=self.output, **self._named(self), **more)

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, and the regions in the order in which they were taken."""
        low = self._attributions(inputs, target).double().cpu()
        masks = masks_of(self.regions, inputs, self.model, dilation=self.dilation)
        least = self.min_pixels * inputs.shape[2] * inputs.shape[3] / SIDE**2
        found = [self._rank(one, own, least) for one, own in zip(low, masks, strict=True)]
        maps = torch.stack([f.map for f in found])[:, None].to(inputs.device, map_type(inputs))
        details = {
            "regions": torch.stack([f.regions for f in found]),
            "densities": table([f.densities for f in found]),
            "areas": torch.nn.utils.rnn.pad_sequence([f.areas for f in found], batch_first=True),
        }
        return Computed(maps, details)

    def _attributions(self, inputs: Tensor, target: Target) -> Tensor:
        """The map below, `(N, H, W)`: of each pixel the channel with the largest value."""
        swept = isinstance(self.method, str) and "baseline" in parameters(self._class(self.method))
        options = [{"baseline": one} for one in ends(self.baseline, inputs, self.model)] if swept else [{}]
        maps = [self._below(one).compute(inputs, target).maps for one in options]
        mean = torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]
        if mean.shape[2:] != inputs.shape[2:]:
            how: Resize | None = getattr(self._below({}), "resize", None)
            mean = resize(mean, tuple(inputs.shape[2:]), how or "bilinear")
        return mean.amax(1)

    def _rank(self, attributions: Tensor, masks: Tensor, least: float) -> Filled:
        raise NotImplementedError

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        if isinstance(options.method, Attributor):
            return options.method.cost(shape, **options.method.params)
        below = cls._class(options.method)
        times = 2 if options.baseline == "extremes" and "baseline" in parameters(below) else 1
        forwards, backwards = below.cost(shape, **cls._named(options))
        return times * forwards, times * backwards


@register(
    "xrai",
    family="region",
    needs=("gradient", "regions"),
    granularity="region",
    at_most=True,
    samples="steps",
    small={"steps": 8},
    paper="Kapishnikov et al. 2019, arXiv:1906.02825, algorithm 1",
)
class XRAI(_Ranked):
    r"""Regions in the order of how much of a pixel map they add for their size.

    The image is cut by colour at several scales, and a map of its pixels is made by integrated gradients, from black and
    from white. Then, again and again, that region is taken whose pixels not yet taken have the largest mean, and they get
    this mean. The regions' borders are the colours', not the network's: what the network sees across them is smeared over
    a region, and a region is as good as the map below. Of the channels the largest value counts, as in the paper, so that
    the map's sum is that of the largest channel's attributions and no difference of scores.

    Args:
        area: Stop when more than this part of the image is taken; the rest becomes one region.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the map below. In the details `"regions"` `(N, H, W)`, the number of the region
        that each pixel came with, in the order in which they were taken (the last may be what no region took);
        `"densities"` `(N, R)`, NaN where an image has fewer; `"areas"` `(N, R)`, in pixels.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> halves = torch.tensor([[0, 0, 1, 1]] * 4)
        >>> found = attribution.create("xrai", network, steps=2, regions=halves).explain(torch.rand(1, 3, 4, 4))
        >>> found.details["areas"].tolist(), len(found.maps.unique())
        ([[8, 8]], 2)
    """

    area: Annotated[float, Range(0, 1)] = 1.0

    def _rank(self, attributions: Tensor, masks: Tensor, least: float) -> Filled:
        return xrai(attributions, masks, least=least, area=self.area)


@register(
    "xrai_fast",
    family="region",
    needs=("gradient", "regions"),
    granularity="region",
    at_most=True,
    samples="steps",
    small={"steps": 8},
    paper="Kapishnikov et al. 2019, arXiv:1906.02825; the fast variant of the authors' code",
)
class XRAIFast(_Ranked):
    """XRAI with its regions sorted once, whatever they share.

    A region comes as early as its whole mean says, even if the part of it that is new means little. The passes through the
    network are the same as for `xrai`, and its ranking is quick too, so that this one is for comparing with published
    figures.

    Returns:
        `(N, 1, H, W)` and details as for `xrai`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> halves = torch.tensor([[0, 0, 1, 1]] * 4)
        >>> attribution.create("xrai_fast", network, steps=2, regions=halves).attribute(torch.rand(1, 3, 4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """

    def _rank(self, attributions: Tensor, masks: Tensor, least: float) -> Filled:
        return xrai_fast(attributions, masks, least=least)

"""Attribution attack: how far a map can be moved by what leaves the image and the prediction as they are."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Activation, Target
from scipy import stats
from torch import Tensor
from torch.nn import functional

from .._again import explained, joined
from .._similarity import similarity
from ..metric import MethodMetric, Scored, check_maps, register

Likeness = Literal["cosine", "kendall", "top_k"]
STREAM = 900_011  # of the draws: other numbers than those of methods and of other metrics
ROUNDING = 1e-5  # of a map's largest value: differences below it say nothing in float32
SIDE = 32  # pixels of a map at most, down and across, whose ranks are compared pair by pair
SMALLEST = 4  # halvings of half the image's sides to the smallest block

__all__ = ["AttributionAttack", "Found", "alike", "attack", "named"]


class Found(NamedTuple):
    """The worst images that were found, `(N, C, H, W)`, their maps `(N, H, W)` and how far those moved, `(N,)`."""

    images: Tensor
    maps: Tensor
    change: Tensor


def attack(
    images: Tensor,
    maps: Tensor,
    *,
    explain: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    keeps: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    change: Callable[[Tensor], Tensor],
    radius: float = 0.02,
    bounds: tuple[float, float] | None = None,
    steps: int = 10,
    directions: int = 4,
    step: float = 0.5,
    seed: int = 0,
) -> Found:
    """Look near each image for the one whose map differs most from the clean one.

    Args:
        images: `(N, C, H, W)`.
        maps: Their maps, `(N, H, W)`.
        explain: Gives the maps `(N, H, W)` of each of some versions of the images.
        keeps: Whether each of some versions may be taken, `(N,)` bool on the CPU.
        change: How far maps are from the clean ones, `(N,)` float64 on the CPU; what is NaN is not taken.
        radius: How far a value moves at most, as a share of the bounds' range; in the images' own unit without bounds.
        bounds: Nothing leaves them.
        steps: How often the search goes on from the worst so far.
        directions: Corners of the ball that it starts from, and blocks that are tried in each step.
        step: How far the short step along the slope moves each value, as a share of the radius.
        seed: Of the draws, which are the same for every image.
    """
    width = radius if bounds is None else radius * (bounds[1] - bounds[0])
    low, high = images - width, images + width
    if bounds is not None:  # an image may itself be a little outside
        low = torch.minimum(low.clamp_min(bounds[0]), images)
        high = torch.maximum(high.clamp_max(bounds[1]), images)

    def inside(x: Tensor) -> Tensor:
        return x.clamp(low, high)

    found = Found(images, maps, change(maps))

    def consider(versions: Sequence[Tensor]) -> list[Tensor]:
        """Explain versions, and take what is worse; the maps of all."""
        nonlocal found
        seen = list(explain(versions))
        for x, own, admitted in zip(versions, seen, keeps(versions), strict=True):
            moved = change(own)
            worse = (moved > found.change) & admitted
            at = worse.to(x.device)
            found = Found(
                torch.where(at[:, None, None, None], x, found.images),
                torch.where(at[:, None, None], own, found.maps),
                torch.where(worse, moved, found.change),
            )
        return seen

    signs = 2 * (uniforms(seed, directions, images[0].numel(), stream=STREAM) < 0.5).to(images) - 1
    consider([inside(images + width * one.reshape(1, *images.shape[1:])) for one in signs])
    for number in range(steps):
        here = found.images
        uphill = width * slope(found.maps, maps)[:, None].to(images)
        ahead, behind = consider([inside(here + uphill), inside(here - uphill)])
        climb = width * ascent(ahead, behind)[:, None].to(images)
        tried = [inside(here + step * climb), inside(here + 2 * climb)]  # twice the radius is at the end, from anywhere
        for draw in range(number * directions, (number + 1) * directions):
            place, sign = block(images, draw, seed=seed)
            tried.append(torch.where(place, inside(images + width * sign), found.images))
        consider(tried)
    return found


def slope(maps: Tensor, clean: Tensor) -> Tensor:
    r"""The change of a map that makes it most unlike the clean one, `(N, H, W)`, its largest value 1.

    It is the gradient of minus the cosine similarity by the map, :math:`\cos(a, b)\, \hat a - \hat b`.

    Example:
        >>> slope(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])).tolist()
        [[[0.0, -1.0]]]
    """
    one, other = (functional.normalize(m.flatten(1), dim=1) for m in (maps, clean))
    found = (one * other).sum(1, keepdim=True) * one - other
    largest = found.abs().amax(1, keepdim=True)
    return (found / torch.where(largest > 0, largest, 1.0)).reshape(maps.shape)


def ascent(ahead: Tensor, behind: Tensor) -> Tensor:
    """The sign of the difference of two maps, 0 where rounding alone could have made it."""
    rise = ahead - behind
    rounding = ROUNDING * torch.maximum(ahead.abs(), behind.abs()).amax((1, 2), keepdim=True)
    return torch.where(rise.abs() > rounding, rise.sign(), 0.0)


def block(images: Tensor, draw: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """A rectangle of the image's proportions, `(H, W)` bool, and a sign for each channel, `(C, 1, 1)`: draw `draw`.

    Its sides are a half to a 32nd of the image's, at least one pixel; small ones are as likely as large ones.
    """
    channels, *size = images.shape[1:]
    one, *rest = uniforms(seed, 1, 3 + channels, start=draw, stream=STREAM + 1)[0].tolist()
    share = 2 ** (-1 - SMALLEST * one)
    place = torch.zeros(size, dtype=torch.bool, device=images.device)
    spans = []
    for length, at in zip(size, rest[:2], strict=True):
        side = max(1, round(share * length))
        start = min(int(at * (length - side + 1)), length - side)
        spans.append(slice(start, start + side))
    place[tuple(spans)] = True
    signs = [1.0 if one < 0.5 else -1.0 for one in rest[2:]]
    return place, images.new_tensor(signs)[:, None, None]


def alike(maps: Tensor, others: Tensor, how: Likeness = "cosine") -> Tensor:
    """How alike maps are, 1 exactly for the same, `(N,)` float64 on the CPU; NaN where it is undefined.

    Args:
        maps: `(N, H, W)`.
        others: Likewise.
        how: "cosine", of all values; "kendall", tau-b of the means over a grid of at most 32 x 32 cells; "top_k", the
            share of the tenth of the pixels that come first which both have.

    Example:
        >>> one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
        >>> [round(float(alike(one, other, m)), 4) for m in ("cosine", "kendall", "top_k")]
        [0.96, -1.0, 0.0]
    """
    first, second = (m.detach().cpu().double() for m in (maps, others))
    if how == "cosine":
        one, other = (m.flatten(1) / m.flatten(1).norm(dim=1, keepdim=True) for m in (first, second))
        found = 1 - (one - other).square().sum(1) / 2
    elif how == "top_k":
        found = similarity(first, second, "top_k")
    else:
        size = (min(SIDE, first.shape[1]), min(SIDE, first.shape[2]))
        grids = (functional.adaptive_avg_pool2d(m[:, None], size).flatten(1).numpy() for m in (first, second))
        taus = [float(stats.kendalltau(a, b).statistic) for a, b in zip(*grids, strict=True)]
        found = torch.tensor(taus, dtype=torch.float64)
    equal = (first == second).flatten(1).all(1) & ~found.isnan()  # ties make a map's tenth unlike itself
    return torch.where(equal, 1.0, found)


def named(outputs: Any, target: Target, activation: Activation) -> Tensor:
    """The class that the outputs name, `(N,)`; of a dense output that at the target's place, of one output its side.

    Raises:
        ValueError: The outputs name no class.

    Example:
        >>> target = Target(torch.arange(2), 2, index=torch.zeros(2, 1, dtype=torch.long))
        >>> named(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), target, "softmax").tolist()
        [1, 0]
    """
    if not isinstance(outputs, Tensor) or (outputs.ndim > 2 and target.index is None):
        raise ValueError(
            "attribution_attack keeps the predicted class, and these outputs name none: give Model(adapter=...) that picks "
            "(N, C), or an index as the target of a dense output"
        )
    classes = outputs[:, None] if outputs.ndim == 1 else outputs
    if classes.ndim > 2:
        assert target.index is not None
        rows = torch.arange(len(classes), device=classes.device)
        places = target.index[:, 1:].to(classes.device).unbind(1)
        classes = classes.movedim(1, -1)[rows, *places]
    if classes.shape[1] == 1:
        return (classes[:, 0] > (0.5 if activation == "none" else 0)).long()
    return classes.argmax(1)


@register(
    "attribution_attack",
    family="robustness",
    aliases=("adversarial_sensitivity",),
    paper="Ghorbani, Abid and Zou 2019, arXiv:1710.10547; Dombrowski et al. 2019, arXiv:1906.07983; here without derivatives",
)
class AttributionAttack(MethodMetric):
    r"""The largest change of a map that a search near the image finds, the predicted class kept: lower is steadier.

    .. math:: \max_{\lVert x' - x \rVert_\infty \le \rho,\; \arg\max f(x') = \arg\max f(x)} 1 - \cos\bigl(a(x'), a(x)\bigr)

    It takes any method, since it asks for maps alone, and what it finds is a lower bound of the largest change there is:
    more steps find more, and never less. Compare methods at the same budget only, which is `explanations`. What
    `sensitivity_max` sees of nearby images is chance; this looks for the worst.

    The search begins at the worst of some corners of the ball, and goes on from the worst image so far. Each step
    explains the images ahead and behind along the change of the map that would make it most unlike the clean one. The
    difference of their maps is the way up where the map's Jacobian by the image is symmetric, as of the gradient of a
    one-channel image, and often a good one for other maps made of gradients. A short step by its signs is tried, and one to
    the end of the ball; and beside them blocks of random size and place that are set to an end of the ball, as
    Andriushchenko et al. 2020 (arXiv:1912.00049) search for adversarial images: they serve every method.

    The details hold what is left at the worst image found: `cosine`, `kendall` (tau-b, of means over a grid of at most
    32 x 32 cells) and `top_k` (the share of the first tenth of the pixels that both maps have), and `radius`, how far a
    value really moved, as a share of the bounds' range; 0 where nothing was found. A map of zeros is NaN (with
    "kendall" and "top_k" a constant one); images that would get such a map, or another class, are passed over. The target
    stays what it was.

    Args:
        radius: rho, as a share of the range of the model's bounds (of 1 where there are none); nothing leaves the bounds.
        steps: How often the search goes on, at `4 + directions` explanations each.
        directions: Corners that it begins at, one explanation each, and blocks that are tried in each step.
        step: How far the short step along the slope moves each value, as a share of the radius.
        similarity: What is made small: "cosine", "kendall" or "top_k", and the score is 1 minus it. The last two move in
            steps, and are harder to search.
        seed: Of the draws, which are the same for every image and method.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> gradient = attribution.create("gradient", network)  # of a line: the same everywhere
        >>> metrics.create("attribution_attack").score(gradient, torch.rand(2, 3, 2, 2), target=0).tolist()
        [0.0, 0.0]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 2.0)
    undefined: ClassVar[str] = "a map of zeros, or for ranks a constant one, is like no other"
    small: ClassVar[dict[str, Any]] = {"steps": 2, "directions": 1}

    radius: Annotated[float, Range(0)] = 0.02
    steps: Count = 10
    directions: Count = 4
    step: Annotated[float, Range(0, 2)] = 0.5
    similarity: Likeness = "cosine"
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """The corners, and for each step two that find the slope, two along it, and the blocks."""
        return self.directions + self.steps * (4 + self.directions)

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The predicted class of the image and of every image that is explained."""
        del shape
        return 1 + self.explanations

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Attack every image, all of them at once."""
        model = attributor.model
        clean = named(model.outputs(images, rows=target.rows, count=target.count), target, model.activation).cpu()
        flat = check_maps(maps, images)

        def explain(versions: Sequence[Tensor]) -> Iterable[Tensor]:
            asked = explained(attributor, len(versions), lambda k: (versions[k], target), len(images))
            return (check_maps(found, images) for found in asked)

        def keeps(versions: Sequence[Tensor]) -> Iterable[Tensor]:
            every = joined([target] * len(versions))
            outputs = model.outputs(torch.cat(list(versions)), rows=every.rows, count=target.count)
            return (found == clean for found in named(outputs, every, model.activation).cpu().split(len(images)))

        worst = attack(
            images,
            flat,
            explain=explain,
            keeps=keeps,
            change=lambda m: 1 - alike(m, flat, self.similarity),
            radius=self.radius,
            bounds=model.bounds,
            steps=self.steps,
            directions=self.directions,
            step=self.step,
            seed=self.seed,
        )
        details: dict[str, Tensor] = {how: alike(worst.maps, flat, how) for how in get_args(Likeness)}
        span = 1.0 if model.bounds is None else model.bounds[1] - model.bounds[0]
        details["radius"] = ((worst.images - images).abs().amax((1, 2, 3)) / span).cpu().double()
        return Scored(worst.change, details=details)

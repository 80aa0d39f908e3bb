"""Inputs that are noise but for a small part, and networks that read this part alone: with weights that are written down."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model
from attriscope.attribution.randomness import uniforms
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .._similarity import top
from ._known import Known

STREAM = 900_061  # of the draws, with the four after it: other numbers than those of methods and of other metrics
ROUNDING = torch.finfo(torch.float32).eps  # of a map's largest value: values that are closer are equal

Truth = Literal["gradient", "path", "ablation"]
Layout = Literal["image", "table"]

# -- known functions ---------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A function of one number, its derivative, and what it gets so that all count for as much: a slope and a weight."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    slope: float
    weight: float


def _logarithm(s: Tensor) -> Tensor:
    return torch.log1p(s.square())


def _bell(s: Tensor) -> Tensor:
    return 1 / (1 + s.square())


SHAPES = (
    Shape(torch.sin, torch.cos, 4.0, 0.5),
    Shape(torch.exp, torch.exp, 1.5, 0.4),
    Shape(torch.square, lambda s: 2 * s, 2.0, 0.5),
    Shape(_logarithm, lambda s: 2 * s / (1 + s.square()), 3.0, 0.5),
    Shape(_bell, lambda s: -2 * s / (1 + s.square()).square(), 3.0, 1.0),
)
SQUARE = 2
NEAR = 1e-5  # from here on a difference over a difference is more exact than the derivative between


class SymbolicNetwork(nn.Module):
    r"""Sums of known functions of one feature, and of products of two: one sum for each output.

    .. math:: f_j(x) = \sum_t c_{jt}\, g_t\Bigl(\sum_i w_{ti}\, x_i + b_t\Bigr)

    g is a sine, an exponential, a square, the logarithm of 1 plus a square or 1 over 1 plus a square. A product is the
    difference of two squares. Features that no term of an output reads have a weight of 0, and change nothing.

    Args:
        useful: `(C, k)`, which features output j reads, of
        features: F.
        drawn: `(C, 4, k)` numbers in [0, 1) that weights and shifts are made of.
        image: Whether inputs are `(N, 1, H, W)`: then they pass an identity first, a layer with a map.
    """

    def __init__(self, useful: Tensor, features: int, drawn: Tensor, *, image: bool) -> None:
        super().__init__()
        terms: list[tuple[int, int, dict[int, float], float, float]] = []  # shape, output, weights, shift, factor
        for j, (own, numbers) in enumerate(zip(useful.tolist(), drawn.tolist(), strict=True)):
            size, toss, shift, joint = numbers
            factors = [(0.5 + a) * (1 if b < 0.5 else -1) for a, b in zip(size, toss, strict=True)]
            for m, feature in enumerate(own):
                which = (m + j) % len(SHAPES)
                shape = SHAPES[which]
                terms.append((which, j, {feature: shape.slope}, -shift[m], factors[m] * shape.weight))
            for m in range(0, len(own) - 1, 2):
                product = (0.5 + joint[m]) * (1 if joint[m + 1] < 0.5 else -1) / 4
                pair = own[m], own[m + 1]
                terms += [
                    (SQUARE, j, dict(zip(pair, (1.0, sign), strict=True)), 0.0, sign * product) for sign in (1.0, -1.0)
                ]
        terms.sort(key=lambda term: term[0])
        self.sizes = [sum(term[0] == which for term in terms) for which in range(len(SHAPES))]
        self.see: nn.Module = skip_init(nn.Conv2d, 1, 1, 1, bias=False) if image else nn.Identity()
        self.flat = nn.Flatten()
        self.inner: nn.Linear = skip_init(nn.Linear, features, len(terms))
        self.outer: nn.Linear = skip_init(nn.Linear, len(terms), len(useful), bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            if isinstance(self.see, nn.Conv2d):
                self.see.weight.fill_(1)
            for t, (_, j, weights, shift, factor) in enumerate(terms):
                self.inner.weight[t, list(weights)] = torch.tensor(list(weights.values()))
                self.inner.bias[t] = shift
                self.outer.weight[j, t] = factor

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 1, H, W)` or `(N, F)` to `(N, C)`."""
        out: Tensor = self.outer(self.values(self.inner(self.flat(self.see(x)))))
        return out

    def values(self, s: Tensor) -> Tensor:
        """What every term's function makes of its argument, `(..., T)`."""
        return torch.cat([g.value(part) for g, part in zip(SHAPES, s.split(self.sizes, -1), strict=True)], -1)

    def derivatives(self, s: Tensor) -> Tensor:
        """Its derivative there, `(..., T)`."""
        return torch.cat([g.derivative(part) for g, part in zip(SHAPES, s.split(self.sizes, -1), strict=True)], -1)


@dataclass(frozen=True, eq=False)
class SymbolicScenes:
    """Inputs of noise, known functions that read a few features of them, and what is true of each feature.

    Attributes:
        inputs: `(U, 1, H, W)` or `(U, F)` in [0, 1), F = H W.
        targets: `(U,)`, which of the functions is asked about.
        useful: `(U, F)` bool, which features that function reads.
        model: The functions, `(N, C)`, each a logit of its own.
    """

    inputs: Tensor
    targets: Tensor
    useful: Tensor
    model: Model

    def truth(self, of: Truth = "path", baseline: float = 0.0) -> Tensor:
        r"""What each feature is to its function, in closed form: `(U, F)` float64 on the CPU.

        - `"gradient"`: :math:`\partial f / \partial x_i`, which no baseline enters.
        - `"path"`: :math:`(x_i - b) \int_0^1 \partial_i f(b + \alpha (x - b))\, d\alpha`, integrated gradients: for each
          term its difference between the two ends over the way that its argument goes. The error is below
          1e-9.
        - `"ablation"`: :math:`f(x) - f(x_1, \dots, b, \dots, x_F)`.

        Features that are not useful have exactly 0.

        Args:
            of: Which of the three.
            baseline: b, the value of a feature that is not there.
        """
        network = self.model.network
        assert isinstance(network, SymbolicNetwork)
        weight, shift, outer = (
            p.detach().cpu().double() for p in (network.inner.weight, network.inner.bias, network.outer.weight)
        )
        x, factor = self.inputs.flatten(1).cpu().double(), outer[self.targets.cpu()]
        end = x @ weight.T + shift
        if of == "gradient":
            return (factor * network.derivatives(end)) @ weight
        way = x - baseline
        if of == "path":
            along = way @ weight.T
            start = end - along
            far = along.abs() > NEAR
            rise = (network.values(end) - network.values(start)) / torch.where(far, along, 1.0)
            mean = torch.where(far, rise, network.derivatives(start + along / 2))
            return (factor * mean) @ weight * way
        falls = [
            one @ (network.values(own)[:, None] - network.values(own - weight.T * gone[:, None]).T)
            for one, own, gone in zip(factor, end, way, strict=True)
        ]
        return torch.stack(falls)


def symbolic_scenes(
    samples: int = 100,
    *,
    features: int = 100,
    useful: int = 10,
    functions: int = 10,
    layout: Layout = "image",
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> SymbolicScenes:
    """Inputs with many features, of which each of some functions reads a few; input n is about function n mod C.

    A function is a sum with a term for every feature that it reads (`SymbolicNetwork` says which there are) and one for the
    product of every two of them. What it reads, and with which weights, is drawn. The functions are written down as a
    network with an output for each, so that nothing had to be learned and nothing is off.

    Args:
        samples: U.
        features: F.
        useful: How many of them a function reads, k.
        functions: C.
        layout: `"image"` has the features as pixels of one channel, as square as F allows, so that methods for images run;
            `"table"` has them in a row, where every feature is a region of its own for methods that remove regions.
        seed: Of functions and inputs. Input n depends on seed, F and n alone, function j on seed, F, k and j.
        device: Where inputs and network are.
        batch_size: The model's.

    Example:
        >>> from attriscope import attribution, metrics
        >>> scenes = metrics.symbolic_scenes(20)
        >>> scenes.inputs.shape, scenes.useful.sum(1).unique().tolist()
        (torch.Size([20, 1, 10, 10]), [10])
        >>> maps = attribution.create("integrated_gradients", scenes.model).attribute(scenes.inputs, scenes.targets)
        >>> bool((maps.flatten(1) - scenes.truth("path")).abs().max() < 1e-5)
        True
    """
    read = uniforms(seed, functions, features, stream=STREAM).argsort(dim=1, stable=True)[:, :useful]
    drawn = uniforms(seed, functions, 4 * useful, stream=STREAM + 1).reshape(functions, 4, useful)
    network = SymbolicNetwork(read, features, drawn, image=layout == "image").to(device).eval()
    inputs = uniforms(seed, samples, features, stream=STREAM + 2)
    targets = torch.arange(samples) % functions
    if layout == "image":
        rows = next(n for n in range(math.isqrt(features), 0, -1) if features % n == 0)
        inputs = inputs.reshape(samples, 1, rows, -1)
    return SymbolicScenes(
        inputs=inputs.to(device),
        targets=targets.to(device),
        useful=torch.zeros(functions, features, dtype=torch.bool).scatter_(1, read, True)[targets].to(device),
        model=Model(network, activation="sigmoid", kind=layout, batch_size=batch_size),
    )


# -- fields of noise ---------------------------------------------------------------------------------------------------

GREY, REACH = 0.5, 0.4  # a colour channel is one plus or minus the other
APART = 7.0  # standard deviations of what a filter says of noise, from which on it is heard
LOGIT = 8.0


@dataclass(frozen=True, eq=False)
class NoiseScenes:
    """Pictures of noise with a rectangle that looks like it and has the code of a class, and a network that reads the code.

    Attributes:
        images: `(U, 3, S, S)` in [0, 1].
        labels: `(U,)`.
        boxes: `(U, 4)`, where the code is: left, top, right, bottom in pixels, the last two excluded.
        mask: `(U, S, S)` bool, the same.
        model: The network, on pictures in [0, 1].
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    mask: Tensor
    model: Model


def noise_scenes(
    pictures: int = 32,
    *,
    size: int = 64,
    classes: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> NoiseScenes:
    """Pictures of noise in which a small rectangle somewhere says the class; picture n has class n mod C.

    Every channel of every pixel is 0.1 or 0.9 by the toss of a coin. So are the codes, one for each class, which stand in the
    picture unchanged: nothing but the code tells the rectangle from the noise, and the picture alone does not tell where it
    is. A rectangle is about a quarter as long as the picture and a sixth as wide; it lies for every second class and stands
    for the others.

    The network has a filter for each class, its code. It counts what is beyond seven standard deviations of what a filter says
    of noise, which in noise is one place in 10^11 or fewer. A second convolution paints the rectangle where a code was found,
    so that the last map shows it whole, and what is painted adds up to a logit of 8. The gradient is a multiple of the code,
    and 0 outside.

    Args:
        pictures: U.
        size: S, at least 24: smaller codes would not stand out.
        classes: C.
        seed: Of codes and pictures. Picture n depends on seed, S, C and n alone.
        device: Where pictures and network are.
        batch_size: The model's.

    Example:
        >>> from attriscope import attribution, metrics
        >>> scenes = metrics.noise_scenes(4)
        >>> bool((scenes.model.outputs(scenes.images).argmax(1) == scenes.labels).all())
        True
        >>> maps = attribution.create("saliency", scenes.model).attribute(scenes.images, scenes.labels)
        >>> bool(((maps[:, 0] > 0) == scenes.mask).all())
        True
    """
    long, short = size // 4 | 1, size // 6 | 1
    lying = torch.zeros(long, long, dtype=torch.bool)
    lying[(long - short) // 2 : (long + short) // 2] = True
    shapes = torch.stack([lying if c % 2 == 0 else lying.T for c in range(classes)])
    codes = _coins(seed, classes, 3 * long**2, STREAM + 3).reshape(classes, 3, long, long) * shapes[:, None]
    labels = torch.arange(pictures) % classes
    signs = _coins(seed, pictures, 3 * size**2, STREAM + 4).reshape(pictures, 3, size, size)
    corners = (uniforms(seed, pictures, 2, stream=STREAM + 5) * (size - long + 1)).long()
    mask, boxes = torch.zeros(pictures, size, size, dtype=torch.bool), torch.zeros(pictures, 4, dtype=torch.long)
    for n, (label, (top_, left)) in enumerate(zip(labels.tolist(), corners.tolist(), strict=True)):
        part = slice(top_, top_ + long), slice(left, left + long)
        signs[n][:, *part] = torch.where(shapes[label], codes[label], signs[n][:, *part])
        mask[n][part] = shapes[label]
        high, wide = (long, short)[:: -1 if label % 2 == 0 else 1]
        down, right = top_ + (long - high) // 2, left + (long - wide) // 2
        boxes[n] = torch.tensor([right, down, right + wide, down + high])
    return NoiseScenes(
        images=(GREY + REACH * signs).to(device),
        labels=labels.to(device),
        boxes=boxes.to(device),
        mask=mask.to(device),
        model=Model(_reader(codes, shapes, size).to(device), mean=GREY, std=REACH, batch_size=batch_size),
    )


def _coins(seed: int, count: int, size: int, stream: int) -> Tensor:
    """1 and -1, `(count, size)`."""
    return (uniforms(seed, count, size, stream=stream) < 0.5) * 2.0 - 1


def _reader(codes: Tensor, shapes: Tensor, size: int) -> nn.Sequential:
    """The network for codes `(C, 3, k, k)` in shapes `(C, k, k)` of one area: `(N, 3, S, S)`, as signs, to `(N, C)`."""
    classes, side, area = len(codes), codes.shape[-1], float(shapes[0].sum())
    find = skip_init(nn.Conv2d, 3, classes, side, padding=side // 2)
    find.weight = nn.Parameter(codes)
    find.bias = nn.Parameter(torch.full((classes,), -APART * (3 * area) ** 0.5))
    paint = skip_init(nn.Conv2d, classes, classes, side, padding=side // 2, groups=classes, bias=False)
    paint.weight = nn.Parameter(shapes[:, None].float())
    name = skip_init(nn.Linear, classes, classes, bias=False)
    most = (3 * area - APART * (3 * area) ** 0.5) * area / size**2  # of the mean that is pooled
    name.weight = nn.Parameter(LOGIT / most * torch.eye(classes))
    return nn.Sequential(find, nn.ReLU(), paint, nn.AdaptiveAvgPool2d(1), nn.Flatten(), name).eval()


# -- what the metrics share --------------------------------------------------------------------------------------------


def first(values: Tensor, count: int) -> Tensor:
    """How likely each value of `(N, P)` is among the `count` largest, float64 on the CPU: those that are equal share a place.

    Example:
        >>> first(torch.tensor([[3.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]]), 2).tolist()
        [[1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, 0.5]]
    """
    rows = values.cpu().double()
    return top(rows, count / rows.shape[1], ROUNDING * rows.abs().amax(1, keepdim=True))


class LowSignal(Known):
    """Runs a method on inputs that are noise but for a small part."""

    @property
    def explanations(self) -> int:
        """One of every input."""
        return 1

    def explained(self, attributor: Attributor, model: Model, inputs: Tensor, targets: Tensor) -> Tensor:
        """The method's maps of all inputs, in one call: `(U, F)` float64 on the CPU, channels added up.

        Raises:
            ValueError: It does not run on the network, or its maps are not of the inputs' size.
        """
        return self.maps(attributor, model, inputs, targets).flatten(1).cpu().double()


class OnSymbolic(LowSignal):
    """A metric on known functions of a few of many features, which `metrics.symbolic_scenes` makes.

    Args:
        samples: Inputs; input n is about function n mod C.
        features: Of an input, F.
        useful: How many of them a function reads, k.
        functions: C; each reads other features.
        layout: "image" has the features as pixels of one channel, on which nearly all methods run; "table" in a row, where
            every feature is a region of its own for methods that remove regions.
        seed: Of functions and inputs.
    """

    unit: ClassVar[str] = "inputs"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    small: ClassVar[dict[str, Any]] = {"samples": 6, "features": 16, "useful": 4, "functions": 3}

    samples: Count = 100
    features: Annotated[int, Range(2)] = 100
    useful: Count = 10
    functions: Count = 10
    layout: Layout = "image"
    seed: Seed = 0

    def validate(self) -> None:
        """Some features must be useless."""
        if self.useful >= self.features:
            raise ValueError(
                f"{self.name}: useful={self.useful} of features={self.features} leaves no feature that is noise: pass more "
                "features"
            )

    def scenes(self, attributor: Attributor) -> SymbolicScenes:
        """Inputs and functions, on the method's device."""
        return symbolic_scenes(
            self.samples,
            features=self.features,
            useful=self.useful,
            functions=self.functions,
            layout=self.layout,
            seed=self.seed,
            device=attributor.model.device or "cpu",
            batch_size=attributor.model.batch_size,
        )

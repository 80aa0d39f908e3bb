"""FullGrad: what the input and every layer's bias add to the score, each as a map, summed."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .._parameters import Count, Range, Seed
from .._rules import Apply, Rules
from ..attributor import Attributor, Computed, Resize, register, resize
from ..model import Model, map_type
from ..randomness import gaussians, uniforms
from ..targets import Output, Target, read
from ._noise import deviations

STREAM = 5  # of the draws: other noise than that of methods that are asked about noisy copies


class Biases(Rules):
    """Tells how much each bias adds to the score: on the way back, as soon as a layer's gradient is there.

    Args:
        count: Images in the batch.
        tell: Gets the number of the layer in the order of calls, its gradient and its bias beside it, and whether the
            layer is a spatial one, `(n, K, h, w)`.
        outputs: Gets what the layers return, if it is given.

    Attributes:
        unsure: Whether a layer's shape leaves open which of its values are whose.
    """

    opens_attention = True  # for the biases of its projections

    def __init__(
        self, count: int, tell: Callable[[int, Tensor, Tensor, bool], None], outputs: list[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.count, self.tell, self.outputs = count, tell, outputs
        self.unsure = False
        self.layers = self.spatial = 0

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """A convolution's bias has its channels in the second axis, a linear layer's in the last."""
        out = apply(x, weight, bias)
        maps = name.startswith("conv") and out.ndim == 4 and len(out) == self.count
        if name.startswith("conv") and bias is not None:
            bias = bias.reshape(-1, *[1] * (weight.ndim - 2))
        return self._met_bias(out, bias, spatial=maps)

    def affine(self, apply: Apply, x: Tensor, name: str) -> Tensor:
        """What a batch norm makes of zeros is its effective bias."""
        out = apply(x)
        if name != "batch_norm":
            return out
        return self._met_bias(out, apply(torch.zeros_like(x[:1])), spatial=out.ndim == 4 and len(out) == self.count)

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """The bias that comes after a norm; the norm itself is no linear function, and what it does is in the residual."""
        out = apply(x)
        spatial = name in {"group_norm", "instance_norm"} and out.ndim == 4 and len(out) == self.count
        return self._met_bias(out, options["bias"], spatial=spatial)

    def _met_bias(self, out: Tensor, bias: Tensor | None, *, spatial: bool) -> Tensor:
        self.spatial += spatial
        if bias is None or not out.requires_grad:
            return out
        bias, number = bias.detach().expand(out.shape[1:] if bias.ndim < out.ndim else (1, *out.shape[1:])), self.layers
        self.layers += 1
        first = len(out) == self.count and self.count not in out.shape[1:-1]
        self.unsure |= self.count > 1 and not spatial and not first
        if self.outputs is not None:
            self.outputs.append(out.detach().clone())
        out.register_hook(lambda gradient: self.tell(number, gradient, bias, spatial))
        return out


def scaled(terms: Tensor) -> Tensor:
    """The sizes of a layer's terms `(n, K, h, w)`, from 0 to 1 over the layer of each image, added up over its channels."""
    sizes = terms.abs()
    low, high = (getattr(sizes.flatten(1), end)(1)[:, None, None, None] for end in ("amin", "amax"))
    return torch.where(high > low, (sizes - low) / (high - low), 0.0).sum(1, keepdim=True)


class Place(NamedTuple):
    """Where a layer has its images: in which axis, and whether they are the inner part of it, as in `(T * n, D)`."""

    axis: int = 0
    inner: bool = False

    def apart(self, values: Tensor, n: int) -> Tensor:
        """The values of each image, `(n, -1)`.

        Example:
            >>> Place(1).apart(torch.tensor([[1, 2], [3, 4]]), 2).tolist()  # a sequence of two tokens, of two images
            [[1, 3], [2, 4]]
        """
        if n == 1 or self == (0, False):
            return values.reshape(n, -1)
        parts: Tensor = values.unflatten(self.axis, (-1, n) if self.inner else (n, -1))
        return parts.movedim(self.axis + self.inner, 0).flatten(1)


def places(model: Model, x: Tensor) -> list[Place]:
    """Where each layer with a bias has its images: found out on noise, by two images alone and together.

    Args:
        model: The model.
        x: What such images are like, `(n, C, H, W)`.

    Returns:
        In the order of calls; none, if the layers change from image to image.
    """
    low, high = model.bounds or (0.0, 1.0)
    noise = uniforms(0, 2, x[0].numel()).reshape(2, *x.shape[1:]).to(x) * (high - low) + low
    runs: list[list[Tensor]] = []
    for images in (noise[:1], noise[1:], noise):
        runs.append([])
        with torch.enable_grad(), Biases(len(images), lambda *_: None, runs[-1]):
            model.try_out(model._plain_engine(), images.clone().requires_grad_())
    if len({len(run) for run in runs}) > 1:
        return []
    return [_place(torch.stack((a, b)), both) for a, b, both in zip(*runs, strict=True)]


def _place(alone: Tensor, both: Tensor) -> Place:
    """The place that tells two images apart as they are alone, `(2, ...)`."""
    shape, errors = alone.shape[1:], {}
    for axis in range(both.ndim):
        if both.shape == (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]):
            for place in (Place(axis), Place(axis, inner=True)):
                errors[place] = float((place.apart(both, 2) - alone.flatten(1)).abs().max())
    return min(errors, key=lambda p: errors[p], default=Place())


def full_grad(
    model: Model, inputs: Tensor, target: Target, *, output: Output, weighted: bool, how: Resize,
    points: Callable[[slice, Tensor], Iterator[Tensor]] | None = None, samples: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""Decompose the score into input and biases, and sum the maps of their terms (equations 4 and 7 of the paper).

    .. math:: f(x) = x \cdot \nabla_x f + \sum_l b_l \cdot \nabla_{z_l} f

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        output: Which score.
        weighted: Whether gradients of layers are weighed by their biases.
        how: How maps of layers are brought to the image's size.
        points: `points(part, x)` gives the noisy copies over which terms are averaged; `None`: the image alone.
        samples: How many they are.

    Returns:
        Maps `(N, 1, H, W)`, and how much of each score the terms leave unexplained, relative to it, `(N,)`: zero for ReLUs,
        biases and poolings.

    Raises:
        ValueError: No layer has a spatial map.
    """
    known: list[Place] = []

    def work(part: slice, x: Tensor, run: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
        n, kind, size = len(x), map_type(x), (int(x.shape[2]), int(x.shape[3]))
        own = model.pixels(model.mean).to(x)
        maps = x.new_zeros(n, 1, *size, dtype=kind)
        missed, sizes = x.new_zeros(n, dtype=kind), x.new_zeros(n, dtype=kind)
        kept: dict[int, Tensor] = {}  # sums over noisy copies; one copy is added to the map at once

        def put(number: int, terms: Tensor) -> None:
            if points is None:
                maps.add_(resize(scaled(terms), size, how))
            else:
                kept[number] = kept[number] + terms if number in kept else terms

        for point in [x] if points is None else points(part, x):
            total = x.new_zeros(n, dtype=kind)

            def tell(number: int, gradient: Tensor, bias: Tensor, spatial: bool, total: Tensor = total) -> None:
                terms = gradient.to(kind) * bias
                place = known[number] if number < len(known) else Place()
                total += place.apart(terms, n).sum(1)
                if spatial:
                    put(number, terms if weighted else gradient.to(kind))

            rules = Biases(n, tell)
            leaf = point.detach().requires_grad_()
            with rules:
                out = run(leaf)
            if not rules.spatial:
                raise ValueError(
                    "full_grad sums maps of convolutions and batch norms of shape (N, K, h, w), and this network has none: "
                    "use input_x_gradient"
                )
            if rules.unsure and not known:
                known.extend(places(model, x.detach()))
            score = read(out, target.take(part), output, model.activation)
            (gradient,) = torch.autograd.grad(score.sum(), leaf)
            terms = (gradient * (leaf.detach() - own)).to(kind)
            put(-1, terms)
            missed += score.detach().to(kind) - total - terms.flatten(1).sum(1)
            sizes += score.detach().to(kind)
        for terms in kept.values():
            maps += resize(scaled(terms), size, how)
        return maps, (missed / sizes).abs()

    parts = model.passes(inputs, target, work, forwards=samples, backwards=samples, fast=False)
    maps, residual = (torch.cat(p) for p in zip(*parts, strict=True))
    return maps, residual


class _FullGrad(Attributor):
    """What the three have in common."""

    stretched: ClassVar[bool] = True

    resize: Resize = "bilinear"

    @classmethod
    def supports(cls, model: Model) -> str | None:
        """Networks with a convolution."""
        reason = super().supports(model)
        if reason is not None or not isinstance(model.network, torch.nn.Module):
            return reason
        spatial = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.BatchNorm2d)
        found = any(isinstance(m, spatial) for m in model.network.modules())
        return None if found else "no convolution was found in it"

    def _maps(self, inputs: Tensor, target: Target, **how: Any) -> Computed:
        maps, residual = full_grad(self.model, inputs, target, output=self.output, how=self.resize, **how)
        return Computed(maps, {"completeness": residual})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        samples = getattr(options, "samples", 1)
        return samples, samples


@register(
    "full_grad",
    family="gradient",
    needs="gradient",
    signed=False,
    paper="Srinivas and Fleuret 2019, arXiv:1905.00780, equations 4 and 7",
)
class FullGrad(_FullGrad):
    r"""How much the input and the biases of every layer matter, place by place, summed over layers.

    A network of ReLUs, biases and poolings is linear around an image, :math:`f(x) = x \cdot g + \sum_l b_l \cdot g_l`, with
    nothing left over: `details["completeness"]` has what is left over, relative to the score, `(N,)`. Where it is not near
    zero (GELU, ReLU6 beyond 6, sigmoid gates, attention, norms of the input) the map leaves out what those add. Batch norms
    count with the bias that they have in effect.

    The map itself does not sum to the score. Of every convolution and batch norm, and of the input, absolute terms are
    stretched to go from 0 to 1 in each image, enlarged and summed: each layer weighs the same for the largest of its terms,
    however little it adds. Biases of linear layers have no place and are in the completeness alone.

    Args:
        output: Which score is decomposed; logits, since a softmax is not linear.
        resize: How the layers' maps are brought to the image's size.

    Returns:
        `(N, 1, H, W)`, not negative, without unit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("full_grad", network).explain(torch.rand(1, 3, 8, 8), target=0)
        >>> found.maps.shape, bool(found.details["completeness"] < 1e-3)
        (torch.Size([1, 1, 8, 8]), True)
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`."""
        return self._maps(inputs, target, weighted=True)


@register(
    "simple_full_grad",
    family="gradient",
    needs="gradient",
    signed=False,
    paper="Srinivas and Fleuret 2019, arXiv:1905.00780, the authors' simplification",
)
class SimpleFullGrad(_FullGrad):
    """Gradients of all layers with a bias, as `full_grad` sums them, without the biases.

    How much the score would change with each layer's output, place by place. Nothing of it adds up to the score.

    Args:
        output: Which score is differentiated.
        resize: How the layers' maps are brought to the image's size.

    Returns:
        `(N, 1, H, W)`, not negative, without unit. Details as of `full_grad`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("simple_full_grad", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`."""
        return self._maps(inputs, target, weighted=False)


@register(
    "smooth_full_grad",
    family="gradient",
    needs="gradient",
    signed=False,
    stochastic=True,
    samples="samples",
    small={"samples": 4},
    paper="Srinivas and Fleuret 2019, arXiv:1905.00780, with the noise of Smilkov et al. 2017, arXiv:1706.03825",
)
class SmoothFullGrad(_FullGrad):
    r"""`full_grad` whose terms are averaged over noisy copies of the input before their sizes are taken.

    What changes its sign from copy to copy cancels. Memory grows with the layers of the network, not with the copies.

    Args:
        output: Which score is decomposed.
        samples: How many noisy copies.
        noise: The noise's standard deviation, as a part of each image's own range from its smallest to its largest value.
        absolute: Whether `noise` is in the unit of pixel values instead, the same for every image.
        seed: The noise of copy n depends on the seed and n alone, and is the same for every image.
        resize: How the layers' maps are brought to the image's size.

    Returns:
        `(N, 1, H, W)`, not negative, without unit. `details["completeness"]` is that of the mean over copies.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("smooth_full_grad", network, samples=3).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    samples: Count = 25
    noise: Annotated[float, Range(0)] = 0.15
    absolute: bool = False
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`."""
        sigma = deviations(inputs, self.noise, absolute=self.absolute)

        def points(part: slice, x: Tensor) -> Iterator[Tensor]:
            for draw in range(self.samples):
                drawn = gaussians(self.seed, 1, x[0].numel(), like=x.detach(), start=draw, stream=STREAM)
                yield torch.addcmul(x.detach(), sigma[part], drawn.reshape(1, *x.shape[1:]))

        return self._maps(inputs, target, weighted=True, points=points, samples=self.samples)

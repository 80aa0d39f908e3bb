"""IDGI: what the score gains in each step of a path, divided by the squared gradient."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .. import baselines
from .._parameters import Range, parameters
from ..attributor import Attributor, Channels, Computed, register
from ..model import map_type
from ..targets import Output, Target
from . import guided_ig
from ._line import Line, Tile, spread, walk
from .blur_ig import WIDTH, Blurs, Edges, scales
from .guided_ig import GuidedIG
from .integrated_gradients import nodes


def idgi(tiles: Iterable[Tile], inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Divide each step's gain among pixels by their squared gradients at its start.

    .. math:: \sum_j \bigl(f(x_{j+1}) - f(x_j)\bigr) \frac{g_j \odot g_j}{\lVert g_j \rVert^2}

    Args:
        tiles: Scores and gradients at the points of any path, in order for each image; whose points, nobody asks here.
        inputs: `(N, C, H, W)`: what maps are shaped like.

    Returns:
        Maps `(N, C, H, W)`; the gains that were left out, since the gradient is zero where they begin, `(N,)`; and the gain
        over the whole path, `(N,)`.
    """
    maps = torch.zeros(inputs.shape, dtype=map_type(inputs), device=inputs.device)
    held = torch.zeros_like(maps)  # how the gain of the step that has begun is divided
    last, first, skipped = maps.new_zeros(3, len(inputs))
    flat = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    buffer = torch.empty(0)
    for rows, items, found, gradients, _ in tiles:
        scores = found.to(maps)
        if items.start == 0:
            first[rows] = last[rows] = scores[0]
        if buffer.numel() < gradients.numel():
            buffer = maps.new_empty(gradients.numel())
        share = buffer[: gradients.numel()].view(gradients.shape)
        axes = tuple(range(2, gradients.ndim))
        # squares of small gradients are no numbers any more: they are taken of parts of the largest
        peak = torch.linalg.vector_norm(gradients, torch.inf, axes, dtype=maps.dtype)
        torch.div(gradients, spread(peak.masked_fill(peak == 0, 1), inputs), out=share)
        share.square_()
        share.div_(spread(share.sum(axes).clamp_min(1), inputs))  # the largest is 1, unless all are 0
        for k, score in enumerate(scores):
            gain = score - last[rows]
            maps[rows].addcmul_(held[rows] if k == 0 else share[k - 1], spread(gain, inputs))
            skipped[rows] += gain * (flat[rows] if k == 0 else peak[k - 1] == 0)
            last[rows] = score
        held[rows], flat[rows] = share[-1], peak[-1] == 0
    return maps, skipped, last - first


@register(
    "idgi",
    family="path",
    aliases=("ig_idgi", "ig+idgi"),
    needs="gradient",
    complete=True,
    samples="steps",
    kinds=("image", "table", "tokens"),
    # where a path gains nothing for a class, its squares show no object: a probability can fall on the way from black
    small={"steps": 16, "output": "logit"},
    paper="Yang, Wang and Bilgic 2023, arXiv:2303.14242",
)
class IDGI(Attributor):
    r"""The score's gain in each step of a path, divided among pixels by their squared gradients.

    A rule of its own for what integrated gradients and its kin do along their paths: only the part of a step that climbs
    the score counts, what moves along a level of it is taken for noise. The map sums to the difference of the scores over
    the path whatever was computed, since each step gives away what it gained: that says nothing of its truth. In one step
    all pixels get the same sign. Pixels that the path does not change get a part all the same, and the map is not linear in
    the network, as those of other path methods are.

    Args:
        output: Which score is divided; the paper takes the probability.
        steps: Points on the path, both ends included.
        path: "straight" (the paper's IG+IDGI) or "guided" (its GIG+IDGI, as `guided_ig` walks at its defaults) from the
            baseline, or "blur" (its BlurIG+IDGI) from the blurred image.
        baseline: Where a straight or guided path starts: "zero", "black", "white", "mean", "blur", "noise", a number, a
            tensor or a callable.
        max_sigma: Of the blur that path="blur" starts with, in pixels; `None`: 50/224 of the shorter side.
        edges: What lies outside of the image when it is blurred: "replicate" repeats the last pixels, "zero" puts zeros.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. In the details, each `(N,)`: `"gain"`, the difference of the scores
        over the path; `"skipped"`, the part of it that nobody got, since the gradient was zero where it began.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = attribution.create("idgi", network, steps=5).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(torch.isclose(found.maps.sum(), found.details["gain"]))
        True
    """

    output: Output = "probability"
    steps: Annotated[int, Range(2)] = 50
    path: Literal["straight", "guided", "blur"] = "straight"
    baseline: baselines.Baseline = "zero"
    max_sigma: Annotated[float, Range(0, open=True)] | None = None
    edges: Edges = "replicate"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        maps, skipped, gain = idgi(self._tiles(inputs, target), inputs)
        return Computed(maps, {"gain": gain, "skipped": skipped})

    def _tiles(self, inputs: Tensor, target: Target) -> Iterator[Tile]:
        """The path: what another one has to yield is said in `Tile`."""
        if self.path == "straight":
            start = baselines.make(self.baseline, inputs, self.model)
            line = Line(inputs, start, nodes("trapezoid", self.steps)[0])
            return walk(self.model, line, target, output=self.output)
        if self.path == "guided":
            return self._guided(inputs, target)
        if inputs.ndim != 4:
            raise ValueError("idgi: path='blur' is for images, (N, C, H, W): pass path='straight'")
        most = float(self.max_sigma or WIDTH * min(inputs.shape[2:]))
        blurs = Blurs(inputs, scales(self.steps, most, "linear"), self.edges)
        return walk(self.model, blurs, target, output=self.output)

    def _guided(self, inputs: Tensor, target: Target) -> Iterator[Tile]:
        start, rows = baselines.make(self.baseline, inputs, self.model), slice(0, len(inputs))
        how: dict[str, Any] = {n: parameters(GuidedIG)[n].default for n in ("fraction", "max_dist")}
        steps = guided_ig.walk(self.model, inputs, start, target, steps=self.steps - 1, **how, output=self.output)
        for k, step in enumerate(steps):
            yield Tile(rows, slice(k, k + 1), step.scores[None], step.gradients[None])
        scores, gradients = self.model.gradients(inputs, target, output=self.output)
        yield Tile(rows, slice(self.steps - 1, self.steps), scores[None], gradients[None])

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.steps, options.steps

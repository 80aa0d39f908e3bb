"""Curves: the score while pixels come or go in the order of a map."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from attriscope.attribution import baselines
from attriscope.attribution._parameters import Range, Seed, canonical
from attriscope.attribution.masking import Clean, Evaluations, Ranks
from attriscope.attribution.model import Model
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Output
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..metric import MapMetric, Scored

Preset = Literal["rise", "rise-large", "xplique", "smdl-50"]
Ties = Literal["random", "index"]

# steps, score, baseline of insertion, baseline of deletion
PRESETS: dict[Preset, tuple[int, Output, str, str]] = {
    "rise": (224, "probability", "rise-blur", "mean"),
    "rise-large": (28, "probability", "rise-blur", "mean"),
    "xplique": (10, "logit", "mean", "mean"),
    "smdl-50": (50, "probability", "black", "black"),
}


def rise_blur(images: Tensor, model: Model) -> Tensor:
    """The blurred image that the official RISE metric starts insertion from.

    Its kernel is a Gaussian of 5 pixels, filtered from a point in an 11 x 11 square whose border reflects, which folds
    the tails back; outside the image it sees the mean colour.
    """
    point = np.zeros((11, 11))
    point[5, 5] = 1.0
    kernel = torch.from_numpy(ndimage.gaussian_filter(point, 5)).to(images)
    mean = model.pixels(model.mean).to(images)
    weight = kernel.expand(images.shape[1], 1, 11, 11)
    return functional.conv2d(images - mean, weight, padding=5, groups=images.shape[1]) + mean


def ranks(maps: Tensor, *, ties: Ties = "random", seed: int = 0) -> Tensor:
    """Each pixel's place in the order of decreasing value, `(N, H, W)` int32, 0 first.

    Args:
        maps: `(N, H, W)`, finite.
        ties: Who comes first of equals: `"random"`, drawn once by `seed` for all images, or `"index"`, from the top left,
            which is a bias wherever a map is flat.
        seed: Of the draw.

    Example:
        >>> ranks(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])).tolist()
        [[[2, 0], [1, 3]]]
    """
    flat = maps.flatten(1)
    n, pixels = flat.shape
    if ties == "random":
        shuffle = uniforms(seed, 1, pixels, stream=1_000_002)[0].argsort(stable=True).to(flat.device)
        order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    else:
        order = flat.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order, dtype=torch.int32)
    numbers = torch.arange(pixels, dtype=torch.int32, device=flat.device).expand(n, -1)
    return place.scatter_(1, order, numbers).reshape(maps.shape)


def cut_points(pixels: int, steps: int) -> Tensor:
    """How many pixels have been exchanged at each of `steps` + 1 points, from none to all, `LongTensor`.

    Example:
        >>> cut_points(10, 4).tolist()
        [0, 3, 5, 8, 10]
    """
    steps = min(steps, pixels)
    return (torch.arange(steps + 1) * pixels * 2 + steps) // (2 * steps)


def tied_share(maps: Tensor) -> Tensor:
    """The share of pixels that have the value of another, `(N,)`."""
    values = maps.flatten(1).sort(1).values
    same = values[:, 1:] == values[:, :-1]
    both = torch.zeros_like(values, dtype=torch.bool)
    both[:, 1:] |= same
    both[:, :-1] |= same
    return both.float().mean(1)


class Curve(MapMetric):
    """What insertion and deletion share.

    Args:
        preset: Whose protocol: "rise" (224 steps), "rise-large" (28 steps, RISE's own for many images), "xplique" (10
            steps, raw scores, mean colour), "smdl-50" (50 steps, black). Numbers of different protocols do not compare.
        steps: Points on the curve besides the first; `None`: the preset's. At most one per pixel.
        baseline: What stands for a missing pixel; `None`: the preset's.
        output: Which score; `None`: the preset's.
        ties: Who comes first of pixels with equal values: "random" (drawn by `seed`) or "index" (from the top left).
        seed: For ties and for a noise baseline.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    ranks: ClassVar[bool] = True
    inserts: ClassVar[bool] = True

    preset: Preset = "rise-large"
    steps: Annotated[int, Range(1)] | None = None
    baseline: baselines.Baseline | None = None
    output: Output | None = None
    ties: Ties = "random"
    seed: Seed = 0

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        steps, output, insertion, deletion = PRESETS[self.preset]
        baseline: Any = self.baseline if self.baseline is not None else (insertion if self.inserts else deletion)
        return {
            "steps": self.steps or steps,
            "output": self.output or output,
            "baseline": baseline,
            "ties": self.ties,
            "seed": self.seed,
        }

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Both ends and the points between them."""
        return len(cut_points(shape[-2] * shape[-1], self.protocol["steps"]))

    def prepare(self, todo: Evaluations, images: Tensor, maps: Tensor) -> Callable[[], Scored]:
        """Ask for the ends, shared by all methods, and the points between."""
        protocol = self.protocol
        spec, output = protocol["baseline"], protocol["output"]
        if isinstance(spec, str) and spec == "rise-blur":
            baseline = rise_blur(images, todo.model)
        else:
            baseline = baselines.make(spec, images, todo.model, seed=self.seed)
        cuts = cut_points(maps[0].numel(), protocol["steps"])
        clean = todo.ask(Clean(images), output=output, key="clean")
        removed = todo.ask(Clean(images, baseline), output=output, key=("baseline", str(canonical(spec)), self.seed))
        place = ranks(maps, ties=self.ties, seed=self.seed)
        between = todo.ask(Ranks(images, baseline, place, cuts[1:-1], self.inserts), output=output)
        defined = maps.flatten(1).amax(1) > maps.flatten(1).amin(1)
        tied = tied_share(maps)

        def finish() -> Scored:
            ends = (removed(), clean()) if self.inserts else (clean(), removed())
            values = torch.cat([ends[0], between(), ends[1]], 1).cpu().double()
            area = torch.trapezoid(values, dx=1 / (values.shape[1] - 1), dim=1)
            area = torch.where(defined.cpu(), area, torch.nan)
            return Scored(area, cuts.double() / cuts[-1], values, tied.cpu())

        return finish

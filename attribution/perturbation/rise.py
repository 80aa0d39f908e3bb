"""RISE: the score averaged over random soft masks, at every pixel over those that show it."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .. import baselines, masking
from .._parameters import Count, Fraction, Range, Seed
from ..attributor import Attributor, Computed, register
from ..model import Model, map_type
from ..targets import Output, Target
from ._masks import CellBank, Estimate, MaskBank, Normalize, divide, estimate

ROUND = 200  # masks between two looks at the interval, whatever the batch: the same images stop at the same masks
CLASSES = 32  # whose phases are summed at a time


def rise(
    model: Model,
    inputs: Tensor,
    baseline: Tensor,
    target: Target,
    *,
    bank: MaskBank | CellBank,
    output: Output,
    start: int = 0,
    stop: int | None = None,
    every: bool = False,
    key: Any = None,
) -> Tensor:
    """The scores of masked images, `(N, stop - start)`, or `(N, stop - start, classes)`.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        baseline: What is seen through the dark part of a mask, broadcastable to the inputs.
        target: Frozen, one row per image.
        bank: The masks, the same for every image.
        output: Which score.
        start: The first mask, and
        stop: the one after the last; `None` for all.
        every: Whether every class is scored.
        key: Names the bank, for those who share evaluations.
    """
    source = masking.Masks(inputs, baseline, bank, len(bank.grids))
    return masking.evaluate(source, model, target, output=output, start=start, stop=stop, every=every, key=key)


@register(
    "rise",
    family="perturbation",
    stochastic=True,
    granularity="cell",
    offset=True,
    at_most=True,
    samples="masks",
    kinds=("image", "table", "tokens"),
    small={"masks": 512, "grid": 4},
    paper="Petsiuk, Das and Saenko 2018, arXiv:1806.07421, equation 6",
)
class RISE(Attributor):
    r"""The score averaged over random soft masks: at each pixel, over those that show it.

    .. math:: S(p) = \sum_n f(x \odot M_n) \, M_n(p) \Bigm/ \sum_n M_n(p)

    Read the map as an order. Every pixel has a large constant part (the mean score of a masked image) and a blurred
    copy of its neighbours' values: only differences within one map mean something, and few masks leave visible noise.
    How much is told by `details["half_width"]`: it covers the draw of the masks and nothing else.

    In tables a column is a cell, in tokens a token: shown or not, nothing is enlarged, and `grid` says nothing.

    Args:
        output: Which score; the paper takes the probability.
        masks: How many masks; the paper takes 4000 to 8000.
        grid: Cells per side of a mask's grid.
        keep: The probability that a cell is shown.
        normalize: Divide by the sum of the masks at each pixel ("sum": a weighted mean, lower variance), by their
            expected sum masks * keep ("count": the paper's), or not ("none").
        control_variate: Whether an image's mean score is subtracted before masks are combined. With "sum" this takes off
            the map's constant, and the interval is that of differences; with "count" and "none" also the noise of how
            often each pixel happened to be shown.
        antithetic: Whether every second mask is the complement of the one before; for keep = 0.5. That takes off the same
            noise as the control variate, and all that cells do in pairs; but of what they do alone both masks say the same,
            so that where a score is nearly linear the control variate by itself does better.
        tolerance: Stops an image, after a multiple of 200 masks, when the half-width of the 95% interval is at most this
            part of the map's range at every pixel; `masks` is then the most. `None`: all masks. Each image decides for
            itself. As it stops when the interval happens to be small, that interval is a little too short.
        classes: "all" makes the map of every class of the same evaluations, in `details["classes"]`: for 1000 classes
            200 MB for each image of 224 x 224.
        baseline: What is seen where a mask is dark; the paper's zero is the mean colour.
        seed: Mask n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; `(N, F)` for tables, `(N, T)` for tokens. In the details `"half_width"` of
        the 95% interval at every pixel, shaped as the map (Student's t over ten groups of masks, each pixel by itself;
        infinite where more than half of the groups never show it);
        `"masks"`, `"mean"` and `"std"`, `(N,)`: how many masks an image took, and their scores' mean and standard
        deviation; `"classes"`, `(N, classes, H, W)`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> rise = attribution.create("rise", network, masks=4000, grid=4, tolerance=0.5)
        >>> found = rise.explain(torch.rand(1, 3, 8, 8))
        >>> found.maps.shape, int(found.forwards) == int(found.details["masks"]) < 4000
        (torch.Size([1, 1, 8, 8]), True)
    """

    output: Output = "probability"
    masks: Count = 4000
    grid: Count = 7
    keep: Fraction = 0.5
    normalize: Normalize = "sum"
    control_variate: bool = False
    antithetic: bool = False
    tolerance: Annotated[float, Range(0, open=True)] | None = None
    classes: Literal["target", "all"] = "target"
    baseline: baselines.Baseline = "mean"
    seed: Seed = 0

    def validate(self) -> None:
        """A complement is as likely as its mask at one half alone."""
        if self.antithetic and self.keep != 0.5:
            raise ValueError(f"rise: antithetic=True with keep={self.keep}: complements need keep=0.5")

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        every = self.classes == "all"
        if every and target.index is None:
            raise ValueError("rise: classes='all' needs a class as the target, not a callable")
        bank, name = self._bank(inputs)
        baseline = baselines.make(self.baseline, inputs, self.model, seed=self.seed)

        def look(rows: list[int], start: int, stop: int) -> Tensor:
            return rise(
                self.model,
                inputs if len(rows) == len(inputs) else inputs[rows],
                baseline[rows] if len(baseline) > 1 else baseline,
                target if len(rows) == len(inputs) else target.take(torch.tensor(rows)),
                bank=bank,
                output=self.output,
                start=start,
                stop=stop,
                every=every,
                key=("rise", name, self.keep, self.seed, self.antithetic),
            )

        def own(scores: Tensor, rows: list[int]) -> Tensor:
            """The target's column."""
            if not every:
                return scores
            assert target.index is not None
            column = target.index[rows, 0].to(scores.device)
            return scores.take_along_dim(column[:, None, None], 2).squeeze(2)

        def judge(scores: Tensor) -> Estimate:
            return estimate(
                bank, scores, keep=self.keep, normalize=self.normalize, control_variate=self.control_variate
            )

        running = list(range(len(inputs)))
        scores: list[Tensor] = [torch.empty(0)] * len(inputs)
        found: list[Estimate] = [Estimate(torch.empty(0), torch.empty(0))] * len(inputs)
        step = self.masks if self.tolerance is None else ROUND
        for start in range(0, self.masks, step):
            stop = min(start + step, self.masks)
            new = look(running, start, stop)
            for row, more in zip(running, new, strict=True):
                scores[row] = torch.cat([scores[row], more]) if start else more
            current = torch.stack([scores[row] for row in running])
            judged = judge(own(current, running))
            for row, *one in zip(running, *judged, strict=True):
                found[row] = Estimate(*one)
            running = [row for row in running if not self._settled(found[row], own(scores[row][None], [row]))]
            if not running:
                break
        kind = map_type(inputs)
        maps, half_width = (torch.stack(part).to(kind) for part in zip(*found, strict=True))
        aimed = [own(one[None], [row])[0] for row, one in enumerate(scores)]
        image = (slice(None), None) if inputs.ndim == 4 else ()
        details: dict[str, Any] = {
            "mean": torch.stack([one.mean() for one in aimed]),
            "std": torch.stack([one.std(correction=0) for one in aimed]),
            "half_width": half_width[image],
            "masks": torch.tensor([len(one) for one in scores]),
        }
        if every:
            details["classes"] = torch.stack([self._all_classes(bank, one).to(kind) for one in scores])
        return Computed(maps[image], details)

    def _bank(self, inputs: Tensor) -> tuple[MaskBank | CellBank, Any]:
        """The masks, and what tells them from others of the same seed and probability."""
        more: dict[str, Any] = {
            "keep": self.keep,
            "masks": self.masks,
            "seed": self.seed,
            "antithetic": self.antithetic,
            "device": inputs.device,
        }
        if inputs.ndim != 4:
            return CellBank(inputs.shape[1], (inputs.shape[1],) + (1,) * (inputs.ndim - 2), **more), "cells"
        height, width = inputs.shape[2:]
        grid = min(self.grid, height, width)
        return MaskBank(height, width, grid=grid, dtype=inputs.dtype, **more), grid

    def _settled(self, found: Estimate, scores: Tensor) -> bool:
        """Whether an image has had masks enough."""
        if self.tolerance is None:
            return False
        if float(scores.max() - scores.min()) <= 1e-6 * float(scores.abs().max()):
            return True  # what varies by no more than float32 rounds is constant
        return float(found.half_width.max()) <= self.tolerance * float(found.maps.max() - found.maps.min())

    def _all_classes(self, bank: MaskBank | CellBank, scores: Tensor) -> Tensor:
        """The map of every class, `(classes, ...)`, of one image's scores `(n, classes)`."""
        shown = bank.combine(torch.ones(1, len(scores), device=scores.device))
        below = {"sum": shown, "count": torch.full_like(shown, len(scores) * self.keep)}.get(self.normalize)
        found = []
        for some in scores.T.split(CLASSES):
            weights = some.to(shown.dtype)
            weights = weights - weights.mean(1, keepdim=True) if self.control_variate else weights
            total = bank.combine(weights)
            found.append((total if below is None else divide(total, below)).to(scores.dtype))
        return torch.cat(found)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.masks, 0

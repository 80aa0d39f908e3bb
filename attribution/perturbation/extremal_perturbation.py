"""Extremal perturbations: of all smooth masks of an area, the one that keeps, or kills, the score."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .._parameters import Count, Fraction, Range
from ..attributor import Attributor, Computed, register
from ..model import Model
from ..targets import Activation, Output, Target, read_all
from ._extremal import LEVELS, SIDES, Found, Measure, Over, Perturbation, Search, Variant, follow

Reward = Literal["simple", "contrastive"]


@dataclass(eq=False)
class _Contrast:
    """The score of the target over the best of the others."""

    target: Target
    output: Output
    activation: Activation

    def __call__(self, outputs: Any) -> Tensor:
        every = read_all(outputs, self.output, self.activation)
        assert self.target.index is not None
        own = self.target.index.to(every.device)
        return every.gather(1, own)[:, 0] - every.scatter(1, own, -torch.inf).amax(1)

    def take(self, rows: Tensor | slice) -> "_Contrast":
        return replace(self, target=self.target.take(rows))


@register(
    "extremal_perturbation",
    family="perturbation",
    aliases=("ep", "extremal", "extremal_perturbations"),
    needs="gradient",
    signed=False,
    at_most=True,
    samples="steps",
    small={"steps": 120, "jitter": False, "areas": (0.25, 0.1), "perturbation": "fade"},
    paper="Fong, Patrick and Vedaldi 2019, arXiv:1910.08485",
)
class ExtremalPerturbation(Attributor):
    """The smooth masks of given areas that keep the score highest, or bring it lowest, added up.

    Each mask is found by gradient ascent. What it hides is blurred; what is left earns the score; and a second term
    pulls the mask to 1 on its part of the image and to 0 elsewhere, ever harder. The ascent ends in a local optimum,
    and often there are several ways to keep a score: what a mask leaves out may have mattered too. A mask that keeps
    little says that its area is too small, or that the search failed: read `rewards` beside the map. It needs
    gradients, hundreds of them.

    What differs from the published search, and why: the area's weight is in units of the score's range and grows by
    the part of all steps, so that logits, probabilities and any number of steps will do; all lengths are parts of the
    image's side; areas are parts of the image, and no longer of a frame a third larger; borders are repeated where
    blurs and masks would be darker without; smaller masks start from larger ones and stop when they are flat.
    `continuation=False, tolerance=0, area_of="padded"` comes closest to the original, at four times the cost.

    Args:
        areas: Parts of the image, each with a mask of its own. Many make a sweep, for `visualization.area_sweep`.
        variant: "preserve": the mask is what is kept. "delete": it is what is taken away, and earns what the score
            loses. "dual": what is kept earns and what is left costs, in one; twice the evaluations.
        perturbation: "blur": the less of the mask, the more blurred (sigma up to an eleventh of the shorter side).
            "fade": to the model's mean.
        steps: The most for the largest area; each smaller one takes at most a quarter of them, if it starts from the
            one before.
        reward: "simple": the target's score. "contrastive": the target's less that of the best other class.
        tolerance: A mask is flat, and makes its last 40 steps, when neither what it earns nor its distance from the
            area changed by more than this within 20 steps, in units of the score's range and of what a mask without
            shape is away from its area. 0: every mask makes all steps.
        continuation: Whether masks start from that of the next larger area; otherwise all start from ones.
        jitter: Whether every second step sees the mirror image, as it was published: good where the mirror image is as
            good an example of its class. Not at inner layers.
        area_of: What `areas` are parts of: the "image", or the image with a frame of `sigma` ("padded"), as published.
        threshold: For `minimal_area`: a part of the way from the score of the hidden image to that of the whole.
        over: At a layer: whether the mask has a number for each place ("space") or for each channel ("channels");
            channels fade to 0.

    Returns:
        `(N, 1, H, W)`: the sum of the masks, between 0 and the number of areas; over channels, the sum of the layer's
        channels, each times its sum over the areas. In the details: `"masks"` `(N, K, H, W)`, or `(N, K, C)` of
        channels, whose sum is `"channels"` `(N, C)`; `"areas"` `(K,)`; `"rewards"` and `"regularisers"` `(N, K)`, of
        the masks as they are in the end, without mirror images; `"history"` `(N, K, 2, T)`, both in every step, NaN
        after the last; `"steps"` `(N, K)`; `"whole"` and `"hidden"` `(N,)`, the scores of the image and of what is
        left of it without a mask; `"minimal_area"` `(N,)`, the smallest area whose mask earns at least `threshold`,
        NaN where none does.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = attribution.create("extremal_perturbation", network, steps=50, areas=(0.1, 0.25))
        >>> made.explain(torch.rand(1, 3, 16, 16), target=0).details["masks"].shape
        torch.Size([1, 2, 16, 16])
    """

    areas: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    variant: Variant = "preserve"
    perturbation: Perturbation = "blur"
    steps: Count = 800
    reward: Reward = "simple"
    tolerance: Annotated[float, Range(0)] = 0.02
    continuation: bool = True
    jitter: bool = True
    area_of: Measure = "image"
    threshold: Fraction = 0.5
    over: Over = "space"

    def validate(self) -> None:
        """Areas are parts, no two alike; channels are a layer's."""
        if not self.areas or not all(0 < a < 1 for a in self.areas):
            raise ValueError(f"extremal_perturbation: areas={self.areas!r}: give parts of the image, between 0 and 1")
        if len(set(self.areas)) < len(self.areas):
            raise ValueError(f"extremal_perturbation: areas={self.areas!r}: name each of them once")
        if (
            self.over == "channels"
            and not self.model._takes_any
            and self.layer in {None, "input"}
            and self.at in {None, "input"}
        ):
            raise ValueError(
                "extremal_perturbation: over='channels' is for a layer's channels: name one with layer= or at="
            )

    def within(self, head: Model, stride: tuple[float, float]) -> "ExtremalPerturbation":
        """Without mirror images: a layer's activation is not that of the mirrored one when it is mirrored."""
        made = super().within(head, stride)
        return type(self)(head, **{**made.params, "jitter": False})

    def beside(self, network: Model) -> "ExtremalPerturbation":
        """Without mirror images: in them the part is another."""
        made = super().beside(network)
        return type(self)(network, **{**made.params, "jitter": False})

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, or `(N, C, H, W)` over channels."""
        found = Search(
            self.model,
            inputs,
            self._aim(target),
            areas=self.areas,
            variant=self.variant,
            perturbation=self.perturbation,
            steps=self.steps,
            tolerance=self.tolerance,
            continuation=self.continuation,
            jitter=self.jitter,
            area_of=self.area_of,
            over=self.over,
            output=self.output,
        ).run()
        details: dict[str, Any] = {
            "masks": found.masks,
            "areas": torch.tensor(self.areas),
            "rewards": found.rewards,
            "regularisers": found.regularisers,
            "history": found.history.permute(1, 2, 0, 3),
            "steps": found.steps,
            "whole": found.whole,
            "hidden": found.hidden,
            "minimal_area": self._minimal(found),
        }
        total = found.masks.sum(1)
        if self.over == "space":
            return Computed(total[:, None], details)
        return Computed(total[:, :, None, None] * inputs, {**details, "channels": total})

    def _minimal(self, found: Found) -> Tensor:
        """The smallest area that earns enough, `(N,)`."""
        least, most = {
            "preserve": (found.hidden, found.whole),
            "delete": (-found.whole, -found.hidden),
            "dual": (found.hidden - found.whole, found.whole - found.hidden),
        }[self.variant]
        needed = torch.lerp(least, most, self.threshold)
        enough = (found.rewards >= needed[:, None]) & (most > least)[:, None]
        areas = found.rewards.new_tensor(self.areas).expand_as(enough)
        smallest = areas.where(enough, torch.inf).amin(1)
        return smallest.where(smallest.isfinite(), torch.nan)

    def _aim(self, target: Target) -> Target:
        """The target, or what tells it from the best other class."""
        if self.reward == "simple":
            return target
        shape = self.model.output_shape
        if target.index is None or target.index.shape[1] != 1 or shape is None or (shape or (1,))[0] < 2:
            raise ValueError(
                "extremal_perturbation: reward='contrastive' needs a class as the target and two classes or more: take "
                "reward='simple'"
            )
        return replace(target, index=None, function=_Contrast(target, self.output, self.model.activation))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        del shape
        number, sides = len(options.areas), len(SIDES[options.variant])
        after = follow(options.steps) if options.continuation else options.steps
        climbs = sides * (options.steps + (number - 1) * after)
        looks = 2 if options.perturbation == "fade" or options.over == "channels" else LEVELS
        return climbs + looks + sides * number, climbs

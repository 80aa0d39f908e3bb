"""Label leakage: does a map write the class it was asked about into the image?"""

from collections.abc import Callable
from typing import ClassVar

import torch
from attriscope.attribution import baselines
from attriscope.attribution._parameters import Count, Fraction, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.masking import Clean, Coalitions, evaluate
from attriscope.attribution.model import Model
from attriscope.attribution.targets import Target
from torch import Tensor

from .._again import explained
from ..metric import MethodMetric, Scored, check_maps, register
from .curve import Ties, ranks


def kept(
    images: Tensor, baseline: Tensor, places: Tensor, count: int, evaluated: Callable[[Coalitions], Tensor]
) -> Tensor:
    """The scores of images of which the first pixels in some orders are kept, `(N, K, classes)`.

    Args:
        images: `(N, C, H, W)`.
        baseline: What stands for the others.
        places: Orders, `(N, K, H, W)`, 0 for the pixel that comes first.
        count: How many pixels are kept.
        evaluated: Runs the model on them.
    """
    pixels = torch.arange(places[0, 0].numel(), device=images.device).reshape(1, *places.shape[2:])

    def keep(row: int, items: slice) -> Tensor:
        return places[row, items].flatten(1) < count

    return evaluated(Coalitions(images, baseline, pixels, keep, places.shape[1]))


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """Kullback and Leibler's divergence of `after` from `before` in nats; NaN unless both are distributions.

    Example:
        >>> round(divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])).item(), 4)
        0.6931
    """
    tiny = torch.finfo(after.dtype).tiny
    found = (torch.xlogy(before, before) - torch.xlogy(before, after.clamp_min(tiny))).sum(-1)
    sums = torch.stack([t.sum(-1).expand(found.shape) for t in (before, after)])
    return torch.where((sums - 1).abs().amax(0) < 1e-3, found, torch.nan)


@register(
    "label_leakage",
    family="faithfulness",
    aliases=("leakage",),
    paper="Jethani, Saporta and Ranganath 2023, arXiv:2302.12893: explanations that encode the class; here by what is kept",
)
class LabelLeakage(MethodMetric):
    r"""How much likelier a class becomes when only the pixels are kept that the method names for it.

    .. math:: \frac1K \sum_{y \in \text{top } K} \max(0, p_y(\text{the first pixels of } a_y) - p_y(x))

    Every one of the K likeliest classes is asked for, the wrong ones too. A map that describes the network's decision hides
    evidence and makes no class likelier than the whole image does; one that makes any class true that it is asked about
    encodes the question. Lower is better, between 0 and 1. Nothing can be added to a class that is nearly certain, and
    evidence against a class that goes away adds to it in all honesty: compare with a random map.

    The details hold `unsound`, the share of the wrong classes' maps that lift their class above the target's; `kl`, the mean
    divergence of the class probabilities on the kept pixels from those on the image, in nats (NaN where probabilities do not
    sum to 1, as of sigmoids); and `gain`, the mean change with its sign. An image is NaN if one of its maps is constant.

    It costs an explanation for each class and as many forwards, and one for the image. A network with fewer classes pays
    for those it has.

    Args:
        classes: K, the likeliest classes that are asked for; all, where there are fewer.
        keep: The share of the pixels that is kept.
        baseline: What stands for the others.
        ties: Who comes first of pixels with equal values: "random" (drawn by `seed`) or "index" (from the top left).
        seed: For ties and for a noise baseline.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
        >>> method = attribution.create("input_x_gradient", network)
        >>> metrics.create("label_leakage").score(method, torch.rand(2, 3, 4, 4)).shape
        torch.Size([2])
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    undefined: ClassVar[str] = "the map of one of the classes is constant, and ranks no pixel before another"
    small: ClassVar[dict[str, int]] = {"classes": 2}

    classes: Count = 5
    keep: Fraction = 0.1
    baseline: baselines.Baseline = "mean"
    ties: Ties = "random"
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """One for each class."""
        return self.classes

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The image, and what is kept for each class."""
        del shape
        return 1 + self.classes

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain every class, then evaluate what is kept for all of them."""
        del maps
        model: Model = attributor.model

        def probabilities(source: Clean | Coalitions) -> Tensor:
            return evaluate(source, model, target, output="probability", every=True)

        clean = probabilities(Clean(images))
        number = min(self.classes, clean.shape[2])
        asked = clean[:, 0].argsort(dim=1, descending=True, stable=True)[:, :number]

        def one(k: int) -> tuple[Tensor, Target]:
            return images, Target(target.rows, target.count, index=asked[:, k : k + 1].to(target.rows.device))

        places, defined = [], []
        for found in explained(attributor, number, one, len(images)):
            flat = check_maps(found, images)
            places.append(ranks(flat, ties=self.ties, seed=self.seed))
            defined.append(flat.flatten(1).amax(1) > flat.flatten(1).amin(1))
        baseline = baselines.make(self.baseline, images, model, seed=self.seed)
        count = max(1, round(self.keep * places[0][0].numel()))
        masked = kept(images, baseline, torch.stack(places, 1), count, probabilities)
        before, after, asked = clean.cpu().double(), masked.cpu().double(), asked.cpu()
        known = torch.stack(defined, 1).all(1).cpu()
        details = {
            "unsound": unsound(after, asked, target),
            "kl": divergence(before, after).mean(1),
            "gain": gains(before, after, asked).mean(1),
        }
        scores = torch.where(known, gains(before, after, asked).clamp_min(0).mean(1), torch.nan)
        return Scored(scores, details={k: torch.where(known, v, torch.nan) for k, v in details.items()})


def gains(before: Tensor, after: Tensor, asked: Tensor) -> Tensor:
    """By how much each class that was asked for became likelier, `(N, K)`.

    Args:
        before: Probabilities on the image, `(N, 1, classes)`.
        after: On what was kept for each class, `(N, K, classes)`.
        asked: The classes, `(N, K)`.
    """
    return after.gather(2, asked[:, :, None])[:, :, 0] - before[:, 0].gather(1, asked)


def unsound(after: Tensor, asked: Tensor, target: Target) -> Tensor:
    """The share of the classes beside the target whose map lifts them above it, `(N,)`; NaN where there are none.

    Args:
        after: Probabilities on what was kept for each class, `(N, K, classes)`.
        asked: The classes, `(N, K)`.
        target: The true class; a callable has none, and gives NaN.
    """
    if target.index is None:
        return torch.full((len(after),), torch.nan, dtype=after.dtype)
    true = target.index[:, :1].to(after.device)
    wrong = asked != true
    own = after.gather(2, asked[:, :, None])[:, :, 0]
    others = after.gather(2, true[:, None].expand(-1, after.shape[1], -1))[:, :, 0]
    return ((own > others) & wrong).sum(1).to(after.dtype) / wrong.sum(1)

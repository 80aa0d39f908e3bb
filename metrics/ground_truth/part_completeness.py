"""Part completeness: are the parts that a map calls important enough to decide, and the others none of its business?"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from attriscope.attribution._parameters import Range
from attriscope.attribution.attributor import Attributor
from torch import Tensor

from ..metric import Scored, register
from ._parts import PARTS, Parts, subsets

THRESHOLDS = torch.linspace(0.01, 0.5, 80, dtype=torch.float64)  # as Hesse et al. have them
IRRELEVANT = 0.05  # of the logit, at least, is lost without a part that counts


@dataclass(frozen=True)
class Checks:
    """What important parts are good for, `(U, T)` float64 each: for U pictures and T choices of parts.

    Attributes:
        csdc: The largest share of a minimal sufficient set that is among them.
        pc: 1 where they alone keep the prediction.
        dc: 1 where the prediction changes without them.
        d: 1 minus the share of what is irrelevant that is among them.
    """

    csdc: Tensor
    pc: Tensor
    dc: Tensor
    d: Tensor

    @property
    def score(self) -> Tensor:
        """The mean of (CSDC + PC + DC) / 3 and D."""
        return ((self.csdc + self.pc + self.dc) / 3 + self.d) / 2


def minimal(kept: Tensor) -> Tensor:
    """Which sets keep the prediction while none of their own subsets does.

    Args:
        kept: `(U, 2^P)` bool, whether a set keeps it: bit p of a set's number is part p.

    Example:
        >>> minimal(torch.tensor([[False, True, False, True], [False, False, False, True]])).int().tolist()
        [[0, 1, 0, 0], [0, 0, 0, 1]]
    """
    sets = torch.arange(kept.shape[1])
    within = ((sets[:, None] & sets) == sets[:, None]) & (sets[:, None] != sets)  # the row's set in the column's
    return kept & ~((kept.double() @ within.double()) > 0)


def checks(important: Tensor, kept: Tensor, irrelevant: Tensor) -> Checks:
    """Hold the parts that are called important against the truth.

    Args:
        important: `(U, T, M)` bool, T choices among M things, of which the first P are the parts.
        kept: `(U, 2^P)` bool, as of `minimal`.
        irrelevant: `(U, M)` bool, at least one of each picture.

    Example:
        >>> kept = torch.tensor([[False, True, False, True]])  # the first of two parts decides
        >>> found = checks(torch.tensor([[[True, False], [True, True]]]), kept, torch.tensor([[False, True]]))
        >>> found.csdc.tolist(), found.pc.tolist(), found.dc.tolist(), found.d.tolist()
        ([[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0]])
    """
    count = kept.shape[1]
    powers = torch.arange(count.bit_length() - 1)
    bits = (torch.arange(count)[:, None] >> powers) % 2
    share = (bits @ bits.T).double() / bits.sum(1).clamp_min(1)  # of the column's set that is in the row's
    covered = (share * minimal(kept)[:, None]).amax(2)
    chosen = (important[..., : len(powers)] * 2**powers).sum(2)
    called = (important & irrelevant[:, None]).sum(2)
    return Checks(
        csdc=covered.gather(1, chosen),
        pc=kept.gather(1, chosen).double(),
        dc=(~kept.gather(1, count - 1 - chosen)).double(),
        d=1 - called / irrelevant.sum(1, keepdim=True).double(),
    )


def crossed(found: Tensor, defined: Tensor) -> Tensor:
    """For each picture the choice that is best on average over the other half: `(U,)`, -1 where that has nothing defined.

    Args:
        found: `(U, T)`, higher is better.
        defined: `(U,)` bool: pictures that are asked.

    Example:
        >>> crossed(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.3]]).double(), torch.ones(3).bool()).tolist()
        [0, 1, 0]
    """
    half = torch.arange(len(found)) % 2
    best = torch.full((len(found),), -1)
    for own in (0, 1):
        asked = found[defined & (half != own)]
        if len(asked):
            best[half == own] = asked.mean(0).argmax()  # the lowest of equals
    return best


@register(
    "part_completeness",
    family="ground_truth",
    paper="Hesse, Schaub-Meyer and Roth 2023, arXiv:2308.06248, completeness (CSDC, PC, DC and D)",
)
class PartCompleteness(Parts):
    r"""Whether a map calls those parts important that decide, and no others: higher is better.

    .. math:: \tfrac12 \left(\frac{CSDC + PC + DC}{3} + D\right)

    A part is important whose share of the map's total, added up with signs over the whole picture, is above a threshold.
    CSDC is the largest share of a minimal sufficient set of parts that is among the important ones (of all sets that the
    network needs no more than to name the class, none of whose own subsets are enough; all 64 sets are rendered). PC is 1
    where the important parts alone keep the prediction, and DC where it changes without them. D is 1 minus the share of
    irrelevant things that are called important: of distractors, and of the part that is worth nothing to the class (things
    without which the logit loses less than 5%, or wins). :func:`metrics.part_scenes` shows the pictures and the network, and
    `part_correctness` says how parts and margins are added up.

    The threshold is one of 80 between 0.01 and 0.5: that with the best mean score over every second picture (the lowest of
    equals) scores the others, and the other way round. Hesse et al. take the best of the very pictures that are scored,
    which favours maps that few thresholds suit.

    A map whose total is zero or negative gives no shares: it is NaN, and counted. (In the original's comparison of a part's
    sum with a share of the total, parts that speak against the class become important there.) A method with many of these
    says little for the class; read its mean with its count. Methods that start from noise (`expected_gradients` and
    `gradient_shap` by default) have nothing else: noise holds more of every colour than a picture does, and has the larger
    logit. It is NaN too where the other half has no map with shares.

    There is no value of chance: a map that calls nothing important has 0.5, by D alone, and maps that know nothing of the
    network have 0.55 to 0.75 of 1200 pictures (`edge` and `center`). Score such controls beside a method.

    The details hold `csdc`, `pc`, `dc`, `d` and `threshold`. It costs one explanation for each picture, and forwards of the
    small network, which all methods share. A method for which `with_model` does not give a working one on it is refused.

    Args:
        pictures: U, at least 2.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> whatever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = metrics.create("part_completeness", pictures=4)
        >>> made.score(attribution.create("integrated_gradients", whatever)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    undefined: ClassVar[str] = "the map's total is not positive, or there is no positive one to choose the threshold by"

    pictures: Annotated[int, Range(2)] = 64

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Of the small network: every set of parts, the picture, and the picture without each thing; once for all methods."""
        del shape
        return len(subsets()) + 1 + len(PARTS) + self.distractors

    def measure(self, attributor: Attributor) -> Scored:
        """One explanation of every picture."""
        scenes = self.scenes(attributor)
        found = self.explained(attributor, scenes, scenes.labels)
        defined = found.total > found.rounding
        important = (found.things / found.total[:, None])[:, None] > THRESHOLDS[:, None]
        every = checks(important, scenes.kept, scenes.drops < IRRELEVANT * scenes.logits[:, None])
        best = crossed(every.score, defined)
        defined &= best >= 0
        chosen = best.clamp_min(0)[:, None]

        def pick(values: Tensor) -> Tensor:
            return torch.where(defined, values.gather(1, chosen)[:, 0], torch.nan)

        details = {name: pick(getattr(every, name)) for name in ("csdc", "pc", "dc", "d")}
        details["threshold"] = torch.where(best >= 0, THRESHOLDS[chosen[:, 0]], torch.nan)
        return Scored(pick(every.score), details=details)

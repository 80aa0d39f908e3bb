"""Part correctness: do parts rank in the map as by what the network loses without each?"""

from typing import ClassVar

import torch
from attriscope.attribution.attributor import Attributor
from torch import Tensor

from ..faithfulness._subsets import correlate
from ..metric import Scored, register
from ._parts import PARTS, Parts


def single_deletion(said: Tensor, drops: Tensor, rounding: Tensor) -> Tensor:
    """Spearman's correlation of what a map says of the parts with what the network loses without them.

    Args:
        said: `(U, P)` float64.
        drops: `(U, P)` float64.
        rounding: `(U,)`: importances that follow each other closer than this are equal.

    Returns:
        `(U,)`, NaN where all parts are the same to the map.

    Example:
        >>> drops = torch.tensor([[1.0, 2.0, 3.0]]).double()
        >>> single_deletion(drops**2, drops, torch.zeros(1)).tolist(), single_deletion(-drops, drops, torch.zeros(1)).tolist()
        ([1.0], [-1.0])
    """
    return correlate(said, drops, "spearman", rounding=(rounding, torch.zeros_like(rounding)))


@register(
    "part_correctness",
    family="ground_truth",
    aliases=("part_single_deletion",),
    paper="Hesse, Schaub-Meyer and Roth 2023, arXiv:2308.06248, single deletion (SD)",
)
class PartCorrectness(Parts):
    r"""Whether parts rank in the map as by what the class's logit loses without each: higher is better.

    .. math:: \tfrac12 + \tfrac12 \rho\big((f_y(x) - f_y(x \setminus p))_p, (I_p)_p\big), \qquad
        I_p = \textstyle\sum_{i \in p} a_i

    The pictures, their six parts and the network are made here; :func:`metrics.part_scenes` shows them. A part is removed by
    painting the picture without it, so that the loss is what the part is worth, exactly: from 0 to about 5. The map, with its
    signs, is added up over the part and a pixel around it (a margin of 2 pixels in 256, never less than one; no two margins
    overlap). Spearman's :math:`\rho` has six points for each picture, and 0.22 is the score's standard error for one picture
    of a map that knows nothing.

    1 is the right order, 0 the reverse, and 0.5 what a map has on average that looks at no class: every part is worth most to
    one class, and least to one. The details hold `rho`. It is NaN where all parts are the same to the map.

    It costs one explanation for each picture, and forwards of the small network, which all methods share. A method for
    which `with_model` does not give a working one on it is refused.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> whatever = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> made = metrics.create("part_correctness", pictures=4)
        >>> made.score(attribution.create("integrated_gradients", whatever)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    chance: ClassVar[float | None] = 0.5
    undefined: ClassVar[str] = "all parts are the same to the map"

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """Of the small network: the picture, and the picture without each thing; once for all methods."""
        del shape
        return 1 + len(PARTS) + self.distractors

    def measure(self, attributor: Attributor) -> Scored:
        """One explanation of every picture."""
        scenes = self.scenes(attributor)
        found = self.explained(attributor, scenes, scenes.labels)
        parts = slice(len(PARTS))
        rho = single_deletion(found.things[:, parts], scenes.drops[:, parts], found.rounding)
        return Scored(0.5 + 0.5 * rho, details={"rho": rho})

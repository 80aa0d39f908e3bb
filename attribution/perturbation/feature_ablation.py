"""Feature ablation: how far the score falls when one region is removed."""

from typing import Any

import torch
from torch import Tensor

from ..attributor import Computed, register
from ..games import Game
from ..regions import paint
from ..targets import Target
from ._regional import Regional


def feature_ablation(game: Game) -> list[Tensor]:
    """`v(all) - v(all but i)` for every region i of every image, `(d,)` each.

    Args:
        game: The score as a function of the regions that are kept.
    """
    wanted = [torch.cat([torch.ones(1, d, dtype=torch.bool), ~torch.eye(d, dtype=torch.bool)]) for d in game.sizes]
    return [values[0] - values[1:] for values in game.values(wanted)]


@register(
    "feature_ablation",
    family="perturbation",
    aliases=("ablation", "leave_one_out"),
    granularity="region",
    at_most=True,
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 16},
    paper="Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2, on regions",
)
class FeatureAblation(Regional):
    r"""How far the score falls when one region is removed and all others stay; positive where removing hurts.

    .. math:: \phi_i = v(\{1, \dots, d\}) - v(\{1, \dots, d\} \setminus i)

    A region looks unimportant while another can stand in for it, and the values do not add up to the score: the Shapley
    family is for that.

    Args:
        output: Which score.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score: every pixel has its region's value. `details["values"]` is
        `(N, regions)`, NaN where an image has fewer, and `details["labels"]` the regions.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> made = attribution.create("feature_ablation", network, regions=torch.tensor([[0, 0, 1, 1]] * 4))
        >>> made.explain(torch.rand(2, 3, 4, 4)).details["values"].shape
        torch.Size([2, 2])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        game = self.game(inputs, target)
        return Computed(*paint(feature_ablation(game), game.labels, inputs))

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1 + cls.players(options, shape), 0

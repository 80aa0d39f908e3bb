"""LiMA: regions ordered from both ends, the most and the least important."""

from typing import Annotated, Any

from .._parameters import Range
from ..attributor import register
from ._search import Extra, Search, bidirectional, bidirectional_sets
from ._subset import Preset, Subset


@register(
    "lima",
    family="subset",
    granularity="region",
    signed=False,
    at_most=True,
    samples="n_regions",
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 16},
    paper="Chen et al. 2025, arXiv:2504.00470",
)
class LiMA(Subset):
    r"""Regions in the order of a search from both ends: what makes the score comes first, what does not make it last.

    Each step takes the region that is worth most with those before it, and, out of `pending` that seem to be worth least,
    the one that is worth least with those behind it. A set is worth

    .. math:: F(S) = \lambda_1 \, p(S) + \lambda_2 \, (1 - p(V \setminus S))
        + \lambda_3 \, \mathrm{confidence}(S) + \lambda_4 \, E(S)

    where S is shown and the rest is replaced. What it finds best is so on this baseline: on another the same order may be
    no better than a cheap method's. Networks are not submodular, so that nothing is guaranteed. 20/5 favours few regions
    that are enough, 5/20 few that are needed.

    Of d regions it asks for 2 d at first and two fewer in each step; with 49 and 8 pending that is 1594 forwards, where
    `submodular` takes 2446.

    Args:
        preset: The weights of all four terms: "smdl" (1, 1, 1, 1), "lima" (20, 5, .01, 0) or "vps" (1, 1, 0, 0).
        pending: Regions that are looked at for the end of the order in each step; 0: none, which is greedy.
        plateau: The search ends where candidates differ by no more than this share of what the best is worth, and the rest
            comes in the order of the step before: where a score has saturated, or is zero. `None`: it never does.
        seed: Of the "noise" baseline.

    Returns:
        `(N, 1, H, W)` in [0, 1]: the first region is 1, the last 0. In the details: `"order"` `(N, regions)`, -1 after an
        image's last; `"labels"`; `"consistency"` and `"collaboration"` `(N, regions + 1)`, the score of the first 0, 1,
        ... regions and one minus the score of the rest, NaN after the last: the curves of insertion and deletion region
        by region; `"areas"`, the part of the image that they cover; `"insertion"` and `"deletion"`, the areas under these
        curves; `"best_prefix"` and `"best_area"` `(N,)`, how many regions score highest, and what they cover.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> made = attribution.create("lima", network, regions="grid", n_regions=9)
        >>> made.explain(torch.rand(1, 3, 8, 8), target=1).details["order"].shape
        torch.Size([1, 9])
    """

    preset: Preset = "lima"
    pending: Annotated[int, Range(0)] = 8
    plateau: Annotated[float, Range(0)] | None = None

    def searched(self, d: int, extra: Extra) -> Search:
        """From both ends."""
        return bidirectional(d, pending=self.pending, extra=extra, plateau=self.plateau)

    @classmethod
    def _sets(cls, options: Any, d: int) -> int:
        return bidirectional_sets(d, options.pending)

"""DiFull: grids whose cells cannot have mattered to one another."""

from attriscope.attribution.model import Model
from torch import Tensor

from ..metric import register
from ._grid import Grids, OnGrid


@register(
    "difull",
    family="localization",
    paper="Rao, Böhle and Schiele 2022, arXiv:2205.10435, section 3.1; 2024, arXiv:2303.11884",
)
class DiFull(OnGrid):
    r"""The share of a map's positive mass that lies in the one cell of a grid that its head can have seen.

    .. math:: L_c = \frac{\sum_{p \in c} A_+(p)}{\sum_p A_+(p)}

    Every cell of a grid of images runs through the network by itself, and the head of cell c gets that cell's features and
    nothing else: what lies in another cell cannot have influenced the score, by construction and bit for bit. So 1 is right,
    and mass elsewhere is wrong whatever the network does. A map that knows nothing scores :math:`1/n^2` (`chance` in the
    details). The heads of the first and the last cell are asked, as in the paper.

    This is n times n independent classifiers looked at through one map of the whole grid, and methods see the whole grid:
    class activation maps weigh feature maps that go over all cells, and light other cells. Explaining each image alone and
    putting its map on an empty canvas is another experiment, which every method passes; it is not called DiFull here.

    With `layer="middle"` or `"final"` every method explains that layer's activation in the image's place, so that methods
    are compared at the same depth (ML-Att): black-box methods mask the activation. CAMs look at what is explained, at
    `layer="input"` at the image itself; where one usually looks is `"final"`.

    A map that fills its cell evenly scores `attainable` (details): 1 with `scoring="exact"` and no `kernel`.

    Args:
        grid: Cells per side.
        layer: What is explained: the images, or the activation of a layer in their place, "middle", "final" or any name.
        scoring: "exact" adds up the maps' own places; "official_bilinear" enlarges them to the images' size before, and
            carries mass over the cells' borders.
        kernel: Smooths every map with a Gaussian of so many places (odd) before it is scored (S-IG, S-IxG); 0: not at all.
        center: Takes each map's mean off before it is scored: for maps with an offset of no meaning, such as RISE's.
        confidence: The least probability of an image's label; lowered, with a warning, where there are too few.
        count: How many grids; `None`: as many as there are confident images for.
        repeat_corners: Whether the first and the last cell show the same class.
        seed: Of which image goes where.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> game = metrics.create("difull", confidence=0.5)
        >>> model, (images, labels) = game.example()
        >>> game.score(attribution.create("input_x_gradient", model), images, labels).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> game.score(attribution.create("constant", model), images, labels).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    def shown(self, model: Model, grids: Grids) -> Tensor:
        """A cell."""
        del model
        height, width = grids.cell
        return grids.images[:1, :, :height, :width]

    def halves(self, model: Model, layer: str, cell: int) -> tuple[Model, Model]:
        """Cells by themselves, and the head of one."""
        return model.split(layer, grid=self.grid, head=cell)

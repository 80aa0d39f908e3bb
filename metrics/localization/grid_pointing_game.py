"""Grid pointing game: which image of a grid a class is explained with."""

from typing import ClassVar

from attriscope.attribution.model import Model
from torch import Tensor

from ..metric import register
from ._grid import Grids, OnGrid, whole


@register(
    "grid_pointing_game",
    family="localization",
    aliases=("grid_pg", "gridpg"),
    paper="Böhle, Fritz and Schiele 2021, arXiv:2104.00032; Rao, Böhle and Schiele 2022, arXiv:2205.10435, section 3.1",
)
class GridPointingGame(OnGrid):
    r"""The share of a map's positive mass that lies on the image of its class, in a grid of images of different classes.

    .. math:: L_c = \frac{\sum_{p \in c} A_+(p)}{\sum_p A_+(p)}

    The network sees the whole grid at once, and the class of each cell is explained in turn. Nothing keeps it from using
    other cells: a low score may be the network's, not the map's. Where the last features are averaged, the gradient at the
    final layer is the same everywhere and scores exactly :math:`1/n^2`, chance.

    The network must take images of the grid's size, as those with average pooling do.

    Args:
        grid: Cells per side.
        layer: What is explained: the images, or the activation of a layer in their place, "middle", "final" or any name.
        scoring: As in `difull`, and so are
        kernel: this,
        center: this,
        confidence: this,
        count: this,
        repeat_corners: not possible here, and
        seed: this.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> game = metrics.create("grid_pointing_game", confidence=0.5)
        >>> model, (images, labels) = game.example()
        >>> scores = game.score(attribution.create("input_x_gradient", model), images, labels)
        >>> scores.shape, bool((scores > 0.25).all())  # one for each cell of two grids
        (torch.Size([8]), True)
    """

    corners: ClassVar[bool] = False

    def shown(self, model: Model, grids: Grids) -> Tensor:
        """A whole grid."""
        return whole(self.name, model, grids)

    def halves(self, model: Model, layer: str, cell: int) -> tuple[Model, Model]:
        """The network as it is."""
        del cell
        return model.split(layer)

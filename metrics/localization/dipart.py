"""DiPart: grids whose cells meet in the receptive fields alone."""

from attriscope.attribution.model import Model
from torch import Tensor

from ..metric import register
from ._grid import Grids, OnGrid, whole


@register(
    "dipart",
    family="localization",
    paper="Rao, Böhle and Schiele 2022, arXiv:2205.10435, section 3.1; 2024, arXiv:2303.11884",
)
class DiPart(OnGrid):
    r"""The share of a map's positive mass in one cell, whose last features alone the head gets.

    As `difull`, but the features are those of the whole grid: only the last layer's map is cut into cells. Pixels near the
    border of another cell can have mattered as far as receptive fields reach, so that less than 1 may be right: the larger
    the receptive field, the less. At `layer="final"` it is as strict as `difull`.

    The network must take images of the grid's size.

    Args:
        grid: Cells per side.
        layer: What is explained: the images, or the activation of a layer in their place, "middle", "final" or any name.
        scoring: As in `difull`, and so are
        kernel: this,
        center: this,
        confidence: this,
        count: this,
        repeat_corners: this, and
        seed: this.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> game = metrics.create("dipart", confidence=0.5, layer="final")
        >>> model, (images, labels) = game.example()
        >>> game.score(attribution.create("input_x_gradient", model), images, labels).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def shown(self, model: Model, grids: Grids) -> Tensor:
        """A whole grid."""
        return whole(self.name, model, grids)

    def halves(self, model: Model, layer: str, cell: int) -> tuple[Model, Model]:
        """The whole grid up to the last layer, and the head of one cell."""
        return model.split(layer, grid=self.grid, head=cell, crop=model.place("final"))

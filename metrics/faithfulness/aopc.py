"""AOPC: how far the score falls, on average, while pixels are flipped."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from ..metric import register
from .curve import Curve


@register(
    "aopc",
    family="faithfulness",
    aliases=("area_over_perturbation_curve",),
    paper="Samek, Binder, Montavon, Lapuschkin and Mueller 2017, arXiv:1509.06321",
)
class AreaOverCurve(Curve):
    """Mean fall of the score, f(x) - f(x_k), over the steps k = 1..n of flipping pixels to a baseline.

    Higher is better, between -1 and 1 for probabilities; other outputs and `normalize=True` have no bounds. It is f(x)
    minus `pixel_flipping`. Means that count the image itself too, whose fall is 0, are n / (n + 1) of it. An image with a
    high score has further to fall: AOPC weighs confident images more, unless `normalize=True`.

    With `order="least"` the least important pixels go first, and what is good is a small fall: the score is the fall's
    negative, so that higher stays better and 0 is the most that a score which never rises can get. The scores of both orders
    add up to `srg`.

    The curve is the score's, not its fall's. Next to `deletion` (or `insertion`, for the other order) with the same
    baseline and steps it costs nothing.

    Args:
        order: Which pixels are flipped first: the "most" important or the "least".

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> images, maps = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
        >>> fall = metrics.create("aopc").score(network, images, maps, target=0, curves=True)
        >>> left = metrics.create("pixel_flipping").score(network, images, maps, target=0)
        >>> bool(torch.allclose(fall.scores, fall.details["clean"] - left))
        True
    """

    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    inserts: ClassVar[bool | None] = False
    is_area: ClassVar[bool] = False

    order: Literal["most", "least"] = "most"

    @property
    def keeps_most(self) -> bool:
        """Whether the most important pixels come first or go last."""
        return self.order == "least"

    @property
    def protocol(self) -> dict[str, Any]:
        """The preset with everything that was given beside it."""
        return {**super().protocol, "order": self.order}

    def read(self, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean fall below the first point."""
        fall = (values[:, :1] - values[:, 1:]).mean(1)
        return fall if self.order == "most" else -fall, {}

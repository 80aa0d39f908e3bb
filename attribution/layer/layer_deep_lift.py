"""Layer DeepLIFT: how the difference from a baseline's score came about, from a layer on."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import baselines
from ..attributor import register
from ..relevance.deeplift import DeepLift
from ._layer import Carried


@register(
    "layer_deep_lift",
    family="layer",
    needs=("gradient", "layer"),
    granularity="cell",
    kinds=("image", "tokens"),
    paper="Shrikumar, Greenside and Kundaje 2017, arXiv:1704.02685, section 3, the rescale rule, at a layer",
)
class LayerDeepLift(Carried, DeepLift):
    """DeepLIFT at a layer, against its activation for the baseline.

    Values sum to the score minus the baseline's. `deeplift(layer=...)` is the same against a baseline in the activation
    itself, as 0.

    Args:
        baseline: An image, as in `deeplift`: the layer's activation for it is what the image's is compared with.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `native` has what sums to the difference of the scores, `maps` what
        is resized from it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> found = attribution.create("layer_deep_lift", network, layer="0").explain(x, target=0)
        >>> torch.allclose(found.native.sum(), network(x)[0, 0] - network(torch.zeros_like(x))[0, 0], atol=1e-5)
        True
    """

    def carry(self, images: Tensor, through: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What the layer makes of the baseline."""
        start = baselines.make(self.baseline, images, self.model)
        return {"baseline": through(start.expand(-1, *images.shape[1:]))}

"""XGrad-CAM: feature maps, each weighed by its gradients where it is active."""

import torch
from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation

EPSILON = 1e-6  # of a map's absolute sum: what its sum may be divided by at least


def xgrad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Weigh feature maps by their gradients, averaged with the maps themselves as weights.

    .. math:: \sum_k w_k A^k, \qquad w_k = \sum_{ij} \frac{G^k_{ij} A^k_{ij}}{\sum_{ab} A^k_{ab}}

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`, signed; on every map that is nowhere negative, its sum is that of gradients times features.
    """
    total = features.sum((2, 3), keepdim=True)
    least = EPSILON * features.abs().sum((2, 3), keepdim=True)
    safe = torch.where(total < 0, total.clamp_max(-least), total.clamp_min(least))
    weights = (gradients * features).sum((2, 3), keepdim=True) / torch.where(least > 0, safe, 1.0)
    return (weights * features).sum(1, keepdim=True)


@register(
    "xgrad_cam",
    family="cam",
    aliases=("xgradcam",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Fu, Hu, Dong, Guo, Gao and Li 2020, arXiv:2008.02312",
)
class XGradCAM(ClassActivation):
    """Feature maps of a late layer, each weighed by its mean gradient over the places where it is active.

    The values of a map sum to what gradient times activation says of the layer, so that the score is kept as far as the
    rest of the network is linear and without bias. Meant for layers that a ReLU ends: where a map's positive and negative
    parts cancel, its weight is a ratio of small numbers, and the map is noise; take `hires_cam` there.

    Args:
        output: Which score is differentiated.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("xgrad_cam", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: xgrad_cam(features, gradients))

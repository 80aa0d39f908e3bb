"""Eigen-Grad-CAM: the direction in which gradient times activation varies most."""

import torch
from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation
from .eigen_cam import leading


def eigen_grad_cam(features: Tensor, gradients: Tensor, *, center: bool) -> Tensor:
    """Project gradient times activation on its leading direction, with the sign that it has in their sum.

    A direction has no sign of its own: it gets the one with which the map correlates with `hires_cam`, so that positive
    values are where the score is raised.

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.
        center: Whether each channel's mean over the places is subtracted first.

    Returns:
        `(N, 1, h, w)`, signed.
    """
    product = gradients * features
    found = leading(product, center=center)
    along = (found * product.sum(1, keepdim=True)).sum((1, 2, 3), keepdim=True)
    return torch.where(along < 0, -found, found)


@register(
    "eigen_grad_cam",
    family="cam",
    aliases=("eigengradcam",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Muhammad and Yeasin 2020, arXiv:2008.00299, on gradient times activation",
)
class EigenGradCAM(ClassActivation):
    """What gradient times activation has most in common over the features of a layer.

    One direction of many: features whose contributions vary in another way are not seen, and the values sum to nothing.

    Args:
        output: Which score is differentiated.
        center: Whether each channel's mean over the places is subtracted first, as some libraries do.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("eigen_grad_cam", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    center: bool = False

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(
            inputs, target, lambda features, gradients, _: eigen_grad_cam(features, gradients, center=self.center)
        )

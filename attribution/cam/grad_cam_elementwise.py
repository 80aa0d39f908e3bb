"""Element-wise Grad-CAM: gradient times activation where that is positive."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def grad_cam_elementwise(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Multiply every activation by its own gradient and keep what is positive.

    .. math:: \sum_k (G^k \odot A^k)^+

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`, not negative.
    """
    return (gradients * features).relu().sum(1, keepdim=True)


@register(
    "grad_cam_elementwise",
    family="cam",
    aliases=("grad_cam_element_wise", "element_wise_grad_cam"),
    needs=("gradient", "layer"),
    granularity="cell",
    signed=False,
    paper="a variant of Selvaraju et al. 2017, arXiv:1610.02391, that comes with libraries; it has no paper",
)
class GradCAMElementwise(ClassActivation):
    """HiResCAM with every feature's negative values cut off before features are summed.

    Features that speak against the class cannot cancel those that speak for it: values sum to more than the score.

    Args:
        output: Which score is differentiated.
        relu: Without effect: no value is negative.

    Returns:
        `(N, 1, H, W)`, in the unit of the score, not negative.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("grad_cam_elementwise", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: grad_cam_elementwise(features, gradients))

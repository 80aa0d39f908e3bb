"""Grad-CAM: feature maps, each weighed by its mean gradient."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Weigh feature maps by their mean gradients (equations 1 and 2 of the paper, without the ReLU).

    .. math:: \sum_k \Bigl(\frac{1}{hw} \sum_{ij} \frac{\partial f}{\partial A^k_{ij}}\Bigr) A^k

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`, signed.
    """
    return (gradients.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True)


@register(
    "grad_cam",
    family="cam",
    aliases=("gradcam",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2",
)
class GradCAM(ClassActivation):
    """Feature maps of a late layer, each weighed by its mean gradient.

    As coarse as the layer. Weights are means over the whole map, so a place may light up for a feature that mattered
    elsewhere.

    Args:
        output: Which score is differentiated.
        relu: Whether negative values are cut off, as the paper's equation 2 does.

    Returns:
        `(N, 1, H, W)`, in the unit of the score times that of the features; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("grad_cam", network).explain(torch.rand(1, 3, 8, 8), target=0)
        >>> found.details["layer"], found.native.shape
        ('1', torch.Size([1, 1, 6, 6]))
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: grad_cam(features, gradients))

"""Grad-CAM++: feature maps, each weighed by its positive gradients."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def grad_cam_pp(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Weigh feature maps by their positive gradients, each gradient by how few others it shares the map with.

    .. math:: \sum_k w_k A^k, \qquad w_k = \sum_{ij} \frac{(G^k_{ij})^+}{2 + G^k_{ij} \sum_{ab} A^k_{ab}}

    This is equation 19 of the paper, where gradients of higher order are powers of the first, with numerator and
    denominator divided by :math:`G^2`. Where a gradient is negative it adds nothing, since the paper's weights cut it
    off. The sum in the denominator is taken as 0 where it is negative, in layers that no ReLU ends: no denominator is
    below 2.

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`, signed.
    """
    positive = gradients.relu()
    total = features.sum((2, 3), keepdim=True).relu()
    weights = (positive / (2 + positive * total)).sum((2, 3), keepdim=True)
    return (weights * features).sum(1, keepdim=True)


@register(
    "grad_cam_pp",
    family="cam",
    aliases=("grad_cam++", "gradcam_plus_plus"),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Chattopadhay, Sarkar, Howlader and Balasubramanian 2018, arXiv:1710.11063, equation 19",
)
class GradCAMPlusPlus(ClassActivation):
    """Feature maps of a late layer, each weighed by its positive gradients.

    Several objects of a class light up more evenly than with Grad-CAM. What speaks against the class is left out: a
    feature whose gradients are all negative gets no weight at all. Weights depend on the scale of the score.

    Args:
        output: Which score is differentiated; the paper takes its exponential, whose higher derivatives are powers of the
            first, and drops that factor.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("Grad-CAM++", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: grad_cam_pp(features, gradients))

"""HiResCAM: gradient times activation, summed over the feature maps."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def hires_cam(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Multiply every activation by its own gradient.

    .. math:: \sum_k G^k \odot A^k

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`, signed.
    """
    return (gradients * features).sum(1, keepdim=True)


@register(
    "hires_cam",
    family="cam",
    aliases=("hirescam", "high_resolution_cam"),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Draelos and Carin 2020, arXiv:2011.08891",
)
class HiResCAM(ClassActivation):
    """Feature maps of a late layer, each place weighed by its own gradient.

    A place lights up only where its own activation raises the score. Where the rest of the network is linear, pooling and
    all, the values before `relu` sum to the score minus its bias; elsewhere they are a first order guess.

    Args:
        output: Which score is differentiated.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; not negative with `relu`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2, bias=False))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> found = attribution.create("hires_cam", network, layer="1", relu=False).explain(x, target=0)
        >>> torch.allclose(found.native.sum(), found.scores, atol=1e-5)
        True
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: hires_cam(features, gradients))

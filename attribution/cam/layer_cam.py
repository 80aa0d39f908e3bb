"""LayerCAM: feature maps, each place weighed by its positive gradient."""

from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Multiply every activation by its own gradient where that is positive.

    .. math:: \sum_k (G^k)^+ \odot A^k

    Args:
        features: `(N, K, h, w)`.
        gradients: Of the scores, `(N, K, h, w)`.

    Returns:
        `(N, 1, h, w)`; negative only where features are.
    """
    return (gradients.relu() * features).sum(1, keepdim=True)


@register(
    "layer_cam",
    family="cam",
    aliases=("layercam",),
    needs=("gradient", "layer"),
    granularity="cell",
    paper="Jiang, Zhang, Hou, Cheng and Wei 2021, IEEE TIP 30",
)
class LayerCAM(ClassActivation):
    """Feature maps of any layer, each place weighed by its own gradient where that is positive.

    Serves early layers too, with `at="middle"` or a name, for maps of a finer grid that follow edges more than objects.
    What speaks against the class is left out.

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
        >>> attribution.create("layer_cam", network, layer="0").attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        return self.weighed(inputs, target, lambda features, gradients, _: layer_cam(features, gradients))

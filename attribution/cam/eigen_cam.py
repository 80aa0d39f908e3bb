"""Eigen-CAM: the direction in which the feature maps of a layer vary most."""

from typing import Any

import torch
from torch import Tensor

from ..attributor import Computed, register
from ..targets import Target
from ._cam import ClassActivation


def leading(features: Tensor, *, center: bool) -> Tensor:
    r"""Project every place's features on their leading direction, whose sign is open.

    .. math:: X v_1, \qquad X = U \Sigma V^\top

    where X, `(h w, K)`, has a row for every place. The leading eigenvector is taken of the smaller of :math:`X^\top X` and
    :math:`X X^\top`, whose eigenvectors are one another's images; no more of the decomposition is made.

    Args:
        features: `(N, K, h, w)`.
        center: Whether each feature's mean over the places is subtracted first.

    Returns:
        `(N, 1, h, w)`, signed, in the unit of the features.
    """
    x = features.flatten(2).mT
    x = x - x.mean(1, keepdim=True) if center else x
    # a common factor changes no direction, and keeps squares from overflowing
    scale = x.abs().amax((1, 2), keepdim=True)
    x = x / torch.where(scale > 0, scale, 1.0)
    places, channels = x.shape[1:]
    if channels <= places:
        found: Tensor = x @ torch.linalg.eigh(x.mT @ x).eigenvectors[:, :, -1:]
    else:
        values, vectors = torch.linalg.eigh(x @ x.mT)
        found = vectors[:, :, -1:] * values[:, -1:, None].clamp_min(0).sqrt()
    return (found * scale).mT.reshape(len(features), 1, *features.shape[2:])


def eigen_cam(features: Tensor, *, center: bool) -> Tensor:
    """Project every place's features on their leading direction; what is largest without its sign is made positive.

    Args:
        features: `(N, K, h, w)`.
        center: As in `leading`.

    Returns:
        `(N, 1, h, w)`, signed, in the unit of the features.
    """
    found = leading(features, center=center)
    least, most = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
    return torch.where(-least > most, -found, found)


@register(
    "eigen_cam",
    family="cam",
    aliases=("eigencam",),
    needs=("layer",),
    granularity="cell",
    signed=False,
    targeted=False,
    paper="Muhammad and Yeasin 2020, arXiv:2008.00299",
)
class EigenCAM(ClassActivation):
    """What the features of a layer have most in common, whatever the class: one forward, no gradient.

    The map is the same for every target: it says where the network sees something, not what speaks for a class. On
    feature maps without negative values (after a ReLU) it has none either. Where two directions explain the same, either
    may come out.

    Args:
        output: Without effect on the map.
        center: Whether each feature's mean over the places is subtracted first, as some libraries do: then the map is the
            strongest contrast between places, which may set one object against another; the paper does not.
        relu: Whether negative values are cut off.

    Returns:
        `(N, 1, H, W)`, in the unit of the features; the largest value without its sign is positive.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = attribution.create("eigen_cam", network).explain(torch.rand(1, 3, 8, 8))
        >>> found.forwards, found.backwards
        (tensor([1]), tensor([0]))
    """

    center: bool = False

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps of the layer's size."""
        layer = self.where(inputs)
        size = self.model.batch()
        parts = [slice(i, i + size) for i in range(0, len(inputs), size)]
        looked_at = (self.looked_at(inputs[part], target.take(part), layer) for part in parts)
        return self.finished([eigen_cam(features, center=self.center) for features in looked_at], layer)

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 1, 0

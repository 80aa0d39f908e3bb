"""Guided Grad-CAM: guided backpropagation where Grad-CAM is positive."""

from typing import Any

import torch
from torch import Tensor

from ..attributor import Channels, Computed, Resize, register, resize
from ..gradient.guided_backprop import modified_gradient
from ..layer._layer import Layered
from ..targets import Target
from .grad_cam import grad_cam


def guided_grad_cam(guided: Tensor, cam: Tensor, *, how: Resize) -> Tensor:
    """Multiply a map of pixels by the positive part of a coarse one (section 3.2 of the paper).

    Args:
        guided: `(N, C, H, W)`.
        cam: `(N, 1, h, w)`.
        how: How it is enlarged.

    Returns:
        `(N, C, H, W)`.
    """
    return guided * resize(cam.relu(), (guided.shape[2], guided.shape[3]), how)


@register(
    "guided_grad_cam",
    family="cam",
    aliases=("guided_gradcam",),
    needs=("gradient", "layer"),
    small={"channels": "l2"},  # the colours' gradients of the example network sum to 0
    paper="Selvaraju et al. 2017, arXiv:1610.02391, section 3.2",
)
class GuidedGradCAM(Layered):
    """Guided backpropagation where Grad-CAM is positive.

    Fine lines where the class is. Where it is comes from Grad-CAM alone: the lines are those of `guided_backprop`, which
    are much the same for every class and for a network with random upper layers. Look at it, and do not reason from it.

    Args:
        output: Which score is handed back.
        resize: How Grad-CAM is brought to the image's size.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed; `details["activations"]` has how many rectifiers were met.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> attribution.create("guided_grad_cam", network).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 1, 8, 8])
    """

    tried = "guided_grad_cam"

    resize: Resize = "bilinear"
    channels: Channels = "sum"

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, C, H, W)`."""
        layer = self.where(inputs)
        parts = self.model.features(
            inputs, target, layer, lambda _, features, gradients, __: grad_cam(features, gradients), output=self.output
        )
        guided, count = modified_gradient(
            self.model, inputs, target, way="guided", output=self.output, name="guided_grad_cam"
        )
        maps = guided_grad_cam(guided, torch.cat(parts), how=self.resize)
        return Computed(maps, {"layer": layer, "activations": count})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return 2, 2

"""Edge: where the image's brightness changes."""

import torch
from torch import Tensor
from torch.nn import functional

from ..attributor import Computed, register
from ..model import map_type
from ..targets import Target
from ._control import Control


def sobel(images: Tensor) -> Tensor:
    r"""The length of the grey image's slope, by Sobel's differences.

    .. math:: \sqrt{(g * k)^2 + (g * k^\top)^2}, \qquad k = \tfrac18 (1, 2, 1)^\top (-1, 0, 1)

    Args:
        images: `(N, C, H, W)`; the grey image is the channels' mean, and its edge pixels are repeated outwards.

    Returns:
        `(N, 1, H, W)`, not negative, in grey levels per pixel: of a ramp it is the ramp's slope.

    Example:
        >>> sobel(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]] * 3]]))[0, 0, 1].tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    across = torch.tensor([[-1.0, 0.0, 1.0]], dtype=images.dtype, device=images.device)
    along = torch.tensor([[1.0], [2.0], [1.0]], dtype=images.dtype, device=images.device)
    kernel = along * across / 8
    grey = functional.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = functional.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
    return slopes.square().sum(1, keepdim=True).sqrt()


@register(
    "edge",
    family="control",
    aliases=("sobel_edges",),
    signed=False,
    targeted=False,
    localizes=False,
    blind=True,
    paper="Adebayo et al. 2018, arXiv:1810.03292, section 5: an edge detector as a map",
)
class Edge(Control):
    """The image's edges (Sobel): what a map scores that shows the image and nothing of the network.

    Many maps look like it, and people believe what outlines the object. A method that is no better on a metric may be an
    edge detector; that it beats `random` is then no finding.

    Returns:
        `(N, 1, H, W)`, not negative, in grey levels per pixel. An image of one colour has a map of zeros.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> image = torch.zeros(1, 3, 5, 6)
        >>> image[..., 3:] = 1
        >>> attribution.create("edge", torch.nn.Flatten()).attribute(image, target=0)[0, 0, 2].tolist()
        [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]
    """

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The edges, `(N, 1, H, W)`."""
        del target
        return Computed(sobel(inputs.to(map_type(inputs))), {})

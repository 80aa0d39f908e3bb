"""Random: noise in place of a map."""

from math import prod

from torch import Tensor

from .._parameters import Seed
from ..attributor import Computed, register
from ..model import map_type
from ..randomness import uniforms
from ..targets import Target
from ._control import Control, alike, shape_of

STREAM = 900_001  # of the draws: other numbers than any method or metric draws with the same seed


@register(
    "random",
    family="control",
    stochastic=True,
    signed=False,
    targeted=False,
    localizes=False,
    blind=True,
    kinds=("image", "table", "tokens"),
)
class Random(Control):
    """Independent noise, uniform in [0, 1): what a metric says of a map that knows nothing.

    It never looks at the image or the network. Every image of a size gets the same noise, whatever its place and its
    batch, as every draw of this package is common to all images: differences between images are then the images' own. What
    the noise happens to do on a set is another draw's luck: run a few seeds before a small difference from it is believed.

    Args:
        seed: The noise depends on the seed and the image's size alone.

    Returns:
        `(N, 1, H, W)`, in no unit.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> maps = attribution.create("random", torch.nn.Flatten()).attribute(torch.rand(2, 3, 4, 4), target=0)
        >>> maps.shape, bool((maps[0] == maps[1]).all())
        (torch.Size([2, 1, 4, 4]), True)
    """

    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """The noise, the same for every input."""
        del target
        shape = shape_of(inputs)
        drawn = uniforms(self.seed, 1, prod(shape), stream=STREAM).reshape(shape)
        return Computed(alike(drawn.to(map_type(inputs)), inputs), {})

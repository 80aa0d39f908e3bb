"""What maps that never look at the network share."""

from typing import Any, ClassVar

from torch import Tensor

from ..attributor import Attributor, Layers


class Control(Attributor):
    """A map that never looks at the network.

    Args:
        output: Not used: no score is asked for.
    """

    layers: ClassVar[Layers] = "none"  # an activation is the network's

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        del options, shape
        return 0, 0


def alike(values: Tensor, inputs: Tensor) -> Tensor:
    """One map as that of every input, `(N, *values.shape)`, on their device."""
    return values.to(inputs.device).expand(len(inputs), *values.shape).contiguous()


def shape_of(inputs: Tensor) -> tuple[int, ...]:
    """The shape of one map: `(1, H, W)` for images, the input's own for tables and tokens."""
    return (1, *inputs.shape[2:]) if inputs.ndim == 4 else tuple(inputs.shape[1:])

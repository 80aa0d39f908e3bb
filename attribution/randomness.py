"""Random draws that depend on (seed, draw) alone: not on the batch, the image's place, the device or the number asked for."""

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024

__all__ = ["uniforms"]


def uniforms(seed: int, count: int, size: int, *, stream: int = 0) -> Tensor:
    """`count` draws of `size` numbers in [0, 1), `(count, size)` float32 on the CPU.

    Draw n is the same whatever `count` is, so that more samples go on where fewer ended.

    Args:
        seed: The user's seed.
        count: How many draws.
        size: Numbers in one draw.
        stream: Tells apart what one method draws for different ends.

    Example:
        >>> bool((uniforms(0, 5, 3) == uniforms(0, 2000, 3)[:5]).all())
        True
    """
    blocks = []
    for block in range(-(-count // BLOCK)):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, block))))
        blocks.append(generator.random((BLOCK, size), dtype=np.float32))
    drawn = np.concatenate(blocks)[:count] if blocks else np.zeros((0, size), np.float32)
    return torch.from_numpy(np.ascontiguousarray(drawn))

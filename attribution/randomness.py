"""Random draws that depend on (seed, draw) alone: not on the batch, the image's place, the device or the number asked for."""

import numpy as np
import torch
from torch import Tensor

NUMBERS = 1 << 20  # in one block, at most: a block holds 1024 draws or fewer

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
    block = max(1, min(1024, NUMBERS // max(size, 1)))
    drawn = np.empty((count, size), np.float32)
    for number, start in enumerate(range(0, count, block)):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, number))))
        rows = min(block, count - start)
        drawn[start : start + rows] = generator.random((rows, size), dtype=np.float32)
    return torch.from_numpy(drawn)

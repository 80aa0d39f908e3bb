"""Draws that depend on (seed, draw) alone: not on the batch, the image's place, the device or the number asked for."""

import numpy as np
import torch
from torch import Tensor

NUMBERS = 1 << 20  # in one block, at most: a block holds 1024 draws or fewer

__all__ = ["gaussians", "uniforms"]


def uniforms(seed: int, count: int, size: int, *, start: int = 0, stream: int = 0) -> Tensor:
    """`count` draws of `size` numbers in [0, 1), `(count, size)` float32 on the CPU.

    Draw n is the same whatever `count` and `start` are, so that more samples go on where fewer ended.

    Args:
        seed: The user's seed.
        count: How many draws.
        size: Numbers in one draw.
        start: The first draw; those before it are passed over without being made.
        stream: Tells apart what one method draws for different ends.

    Example:
        >>> bool((uniforms(0, 5, 3) == uniforms(0, 2000, 3)[:5]).all())
        True
        >>> bool((uniforms(0, 2, 3, start=3) == uniforms(0, 5, 3)[3:]).all())
        True
    """
    block = max(1, min(1024, NUMBERS // max(size, 1)))
    drawn = np.empty((count, size), np.float32)
    at = 0
    while at < count:
        number, before = divmod(start + at, block)
        bits = np.random.PCG64(np.random.SeedSequence((seed, stream, number)))
        generator = np.random.Generator(bits)
        if before:
            bits.advance(before * size // 2)  # one step of it makes two numbers
            generator.random(before * size % 2, dtype=np.float32)
        rows = min(block - before, count - at)
        drawn[at : at + rows] = generator.random((rows, size), dtype=np.float32)
        at += rows
    return torch.from_numpy(drawn)


def gaussians(seed: int, count: int, size: int, *, like: Tensor, start: int = 0, stream: int = 0) -> Tensor:
    """`count` draws of `size` numbers of the standard normal distribution, `(count, size)`; arguments as of `uniforms`.

    Made of the uniforms by the inverse distribution function, with the type and on the device of `like`; no number is beyond
    5.3, since uniforms are multiples of 2 ** -24.

    Example:
        >>> drawn = gaussians(0, 1000, 20, like=torch.empty(0))
        >>> abs(float(drawn.mean())) < 0.02, abs(float(drawn.std()) - 1) < 0.02
        (True, True)
    """
    drawn = uniforms(seed, count, size, start=start, stream=stream).to(like.device)
    wide = drawn.double() if like.dtype == torch.float64 else drawn
    # the middle of each uniform's step, between -1 and 1: exact in float32, and never an end
    return wide.mul_(2).sub_(1 - 2.0**-24).erfinv_().mul_(2**0.5).to(like.dtype)

"""Points in [0, 1]^d and coalitions of regions, as perturbation methods draw them."""

import warnings
from typing import Literal

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from .randomness import uniforms

Sampler = Literal["sobol", "official", "halton", "lhs", "mc"]
DIMENSIONS = 21201  # that a Sobol sequence has

__all__ = ["DIMENSIONS", "Sampler", "bernoulli", "points", "uniform_sizes"]


def points(dimensions: int, count: int, sampler: Sampler, seed: int) -> Tensor:
    """Points in the unit cube, `(count, dimensions)` float32.

    All but the Latin hypercube are sequences: point n does not depend on how many are asked for.

    Args:
        dimensions: Of the cube.
        count: How many points.
        sampler: `"sobol"` (scrambled), `"official"` (unscrambled: starts at 0, then 1/2; the seed means nothing),
            `"halton"` (scrambled), `"lhs"` (Latin hypercube) or `"mc"` (independent uniform).
        seed: Of the scrambling or the draw.

    Example:
        >>> points(2, 3, "official", 0).tolist()
        [[0.0, 0.0], [0.5, 0.5], [0.75, 0.25]]
    """
    if sampler == "mc":
        return uniforms(seed, count, dimensions)
    rng = np.random.default_rng(seed)
    if sampler in {"sobol", "official"}:
        if dimensions > DIMENSIONS:
            raise ValueError(
                f"a Sobol sequence has {DIMENSIONS} dimensions, not {dimensions}: take fewer cells, or another sampler"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a count is no power of two: then it is less balanced
            drawn = qmc.Sobol(dimensions, scramble=sampler == "sobol", rng=rng).random(count)
    elif sampler == "halton":
        drawn = qmc.Halton(dimensions, scramble=True, rng=rng).random(count)
    else:
        drawn = qmc.LatinHypercube(dimensions, rng=rng).random(count)
    return torch.from_numpy(drawn).float()


def bernoulli(seed: int, count: int, regions: int) -> Tensor:
    """Coalitions in which every region is kept with probability one half, `(count, regions)` bool.

    Example:
        >>> bernoulli(0, 4, 3).shape
        torch.Size([4, 3])
    """
    return uniforms(seed, count, regions) < 0.5


def uniform_sizes(seed: int, count: int, regions: int) -> Tensor:
    """Coalitions whose size is uniform on 0 ... regions, all of one size as likely, `(count, regions)` bool.

    Each draws a probability, and every region is kept with that.

    Example:
        >>> sizes = uniform_sizes(0, 4000, 4).sum(1).bincount() / 4000
        >>> bool((sizes - 0.2).abs().max() < 0.03)
        True
    """
    drawn = uniforms(seed, count, regions + 1, stream=1)
    return drawn[:, 1:] < drawn[:, :1]

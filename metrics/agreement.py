"""Agreement: which methods draw the same map."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from torch import Tensor

from ._similarity import NUMBERS, Similarity, checked, compared, described
from .study import Study

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike the maps of every two methods are, methods with like maps side by side.

    Attributes:
        methods: Their names, in the order of the clusters.
        values: The similarity of every two methods' maps of each image, `(M, M, N)` float64, NaN where it is undefined.
        linkage: The clusters as SciPy has them, `(M - 1, 4)`, method k of `methods` as leaf k: average linkage of
            1 - mean similarity, so that two groups join at 1 - the mean over all pairs between them.
        how: The similarity.
        absolute: Whether it dropped the signs.
        smooth: The sigma in pixels of the blur before it.
    """

    methods: tuple[str, ...]
    values: Tensor
    linkage: NDArray[np.float64]
    how: Similarity = "spearman"
    absolute: bool = False
    smooth: float = 0.0

    def mean(self) -> pd.DataFrame:
        """The mean similarity over the images on which it is defined, methods by methods; NaN where it is on none."""
        return self._table(self.values.nanmean(2))

    @property
    def counts(self) -> pd.DataFrame:
        """On how many images the similarity of two methods is undefined, and their mean leaves it out."""
        return self._table(self.values.isnan().sum(2))

    def _table(self, values: Tensor) -> pd.DataFrame:
        return pd.DataFrame(values.numpy(), index=list(self.methods), columns=list(self.methods))


def agreement(
    maps: Mapping[str, Tensor] | Study, how: Similarity = "spearman", *, absolute: bool = False, smooth: float = 0.0
) -> Agreement:
    """Compare the maps of every two methods, and sort the methods so that those with like maps stand side by side.

    Methods that agree need not be right: they may share a fault, or show the image's edges. Each method is compared with
    itself too, which is 1 where its map is not constant (and for "top_k" not tied).

    Args:
        maps: Each method's maps of the same images by its name, `(N, 1, H, W)` or `(N, H, W)`, all in memory; or what
            `compare` returned. Where a method failed on an image of a study, it is undefined.
        how: As of `metrics.similarity`, like what follows.
        absolute: Whether signs are dropped.
        smooth: The sigma in pixels of a Gaussian that blurs all maps. A rough map and a smooth one are unlike without it.

    Raises:
        TypeError: Maps that are no floating point tensors.
        ValueError: No methods, maps that do not fit each other or are not finite, or an option out of range.

    Example:
        >>> ramp = torch.arange(12.0).reshape(1, 3, 4)
        >>> found = agreement({"up": ramp, "down": -ramp, "faster": ramp.exp()})
        >>> sorted(found.methods)
        ['down', 'faster', 'up']
        >>> found.mean().loc["up", ["up", "down", "faster"]].tolist()
        [1.0, -1.0, 1.0]
    """
    if isinstance(maps, Study):
        maps = {name: _known(maps.maps[name]) for name in maps.methods}
    if not maps:
        raise ValueError("there are no maps to compare: pass each method's maps by its name")
    names = list(maps)
    flat = [checked(m, how, smooth) for m in maps.values()]
    for name, own in zip(names, flat, strict=True):
        if own.shape != flat[0].shape:
            raise ValueError(
                f"maps of {name!r} are {tuple(own.shape)}, those of {names[0]!r} {tuple(flat[0].shape)}: all methods need "
                "maps of the same images at the same size"
            )
    values = torch.full((len(names), len(names), len(flat[0])), torch.nan, dtype=torch.float64)
    rows = max(1, NUMBERS // (flat[0].shape[1] * flat[0].shape[2]))
    for start in range(0, len(flat[0]), rows):
        some = slice(start, start + rows)
        sides = [described(m[some], how, absolute=absolute, smooth=smooth) for m in flat]
        for i, one in enumerate(sides):
            for j, other in enumerate(sides[: i + 1]):
                values[i, j, some] = values[j, i, some] = compared(one, other, how, absolute=absolute)
    linkage, order = _clusters(values.nanmean(2))
    return Agreement(
        tuple(names[i] for i in order), values[order][:, order], linkage, how, absolute=absolute, smooth=smooth
    )


def _known(maps: Tensor) -> Tensor:
    """Zeros, which are like nothing, for the maps that there are not."""
    missing = maps.isnan().flatten(1).all(1)
    return torch.where(missing.reshape(-1, *[1] * (maps.ndim - 1)), 0.0, maps)


def _clusters(means: Tensor) -> tuple[NDArray[np.float64], list[int]]:
    """The linkage over places in the order of the clusters, and that order; what is undefined counts as unrelated."""
    if len(means) < 2:
        return np.zeros((0, 4)), list(range(len(means)))
    apart = 1 - means.nan_to_num(0.0)
    apart.fill_diagonal_(0.0)
    found = hierarchy.linkage(squareform(apart.numpy(), checks=False), "average", optimal_ordering=True)
    order = [int(i) for i in hierarchy.leaves_list(found)]
    place = np.argsort(order)
    leaves = found[:, :2] < len(order)
    found[:, :2] = np.where(leaves, place[np.where(leaves, found[:, :2], 0).astype(int)], found[:, :2])
    return found, order

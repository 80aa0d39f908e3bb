"""Seed sensitivity: how alike the maps of a method are that differ in nothing but what it drew."""

from typing import Literal

from ..metric import register
from .hyperparameter_sensitivity import HyperparameterSensitivity


@register(
    "seed_sensitivity",
    family="robustness",
    paper="Bansal, Agarwal and Nguyen 2020, arXiv:2003.08754: the random seed as the hyper-parameter",
)
class SeedSensitivity(HyperparameterSensitivity):
    """The mean similarity of an image's maps over seeds: `hyperparameter_sensitivity` of what no one means to pick.

    It is 1, at no cost, for a method that draws nothing. What draws a mean over n samples has maps whose standard deviation
    over seeds falls as one over the root of n: a low score says that the method was given too few.

    Args:
        parameter: The seed, always.
        values: The seeds, at least two.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> gradient = attribution.create("gradient", network)
        >>> metrics.create("seed_sensitivity").score(gradient, torch.rand(2, 3, 8, 8), target=0).tolist()
        [1.0, 1.0]
    """

    parameter: Literal["seed"] = "seed"

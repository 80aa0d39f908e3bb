"""Excitation backprop: how likely each pixel wins, if every unit picks among what excites it."""

from ..attributor import register
from ._lrp import Composite, Relevance


@register(
    "excitation_backprop",
    family="relevance",
    aliases=("ebp", "excitation_bp", "mwp"),
    needs="gradient",
    signed=False,
    kinds=("image", "table", "tokens"),
    paper="Zhang et al. 2016, arXiv:1608.00507, section 3",
)
class ExcitationBackprop(Relevance):
    r"""The probability that each pixel wins, where every unit picks among the inputs that excite it.

    A walk from the class to the pixels: unit j goes to input i with probability proportional to its term
    :math:`x_i w_{ij}`, if that is positive. It is the z-plus rule without biases, from 1 in place of the score, so that the
    map sums to 1, whatever the score's sign. Says nothing about what spoke against the class. The rest is as in `lrp`; the
    paper's walk ends at a late layer, this one goes on to the pixels, where negative inputs with negative weights excite as
    well.

    Where nothing excites a unit the walk ends: `details["residual"]` `(N,)` is 1 minus the map's sum.

    Args:
        output: "logit"; of two classes' difference no probabilities can be made.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, not negative.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> map = attribution.create("excitation_backprop", network).attribute(torch.rand(1, 3, 2, 2), target=0)
        >>> bool(torch.isclose(map.sum(), torch.tensor(1.0)))
        True
    """

    def validate(self) -> None:
        """The walk starts at one unit."""
        if self.output != "logit":
            raise ValueError(f"{self.name}: output={self.output!r} is no unit of the network to start at: choose logit")

    def composite(self) -> Composite:
        """Positive terms without biases."""
        return Composite("zplus", "zplus", bias=False, unit=True)

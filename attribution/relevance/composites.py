"""Presets of layer-wise relevance propagation: rules and mixtures of rules that have a name."""

from typing import Annotated

from .._parameters import Range
from ..attributor import register
from ._lrp import Boxed, Composite, Positive, Relevance

KINDS = ("image", "table", "tokens")


@register(
    "lrp_gamma",
    family="relevance",
    needs="gradient",
    kinds=KINDS,
    paper="Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10, section 10.2.1; signs: Andeol et al. 2021",
)
class LRPGamma(Relevance):
    r"""LRP with the gamma rule in every layer: what agrees with the sign of a unit's output counts more.

    The terms of that sign are multiplied by :math:`1 + \gamma`, the others are not. See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        gamma: 0 is the epsilon rule without epsilon, large values come close to `lrp_zplus`.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> map = attribution.create("lrp_gamma", network).attribute(x, target=0)
        >>> bool(torch.isclose(map.sum(), network(x)[0, 0]))
        True
    """

    gamma: Positive = 0.25

    def composite(self) -> Composite:
        """Gamma everywhere."""
        return Composite("gamma", "gamma", gamma=self.gamma)


@register(
    "lrp_zplus",
    family="relevance",
    aliases=("lrp_z_plus", "lrp_alpha1_beta0"),
    needs="gradient",
    kinds=KINDS,
    paper="Montavon et al. 2017, doi:10.1016/j.patcog.2016.11.008, z-plus rule",
)
class LRPZPlus(Relevance):
    r"""LRP with the z-plus rule in every layer: only positive terms, weights times inputs, get a share.

    All of the map has the sign of the score: it shows what was seen, not what spoke against it. Nearly the same for every
    class. Made for rectifiers: behind layer norms a term near zero changes its sign with rounding, which the map shows. See
    `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> found = attribution.create("lrp_zplus", network).explain(torch.rand(1, 3, 2, 2), target=0)
        >>> bool((found.maps * found.scores >= 0).all())
        True
    """

    def composite(self) -> Composite:
        """Positive terms everywhere."""
        return Composite("zplus", "zplus")


@register(
    "lrp_alpha_beta",
    family="relevance",
    aliases=("lrp_alpha2_beta1",),
    needs="gradient",
    kinds=KINDS,
    paper="Bach et al. 2015, PLoS ONE 10(7):e0130140, equation 60",
)
class LRPAlphaBeta(Relevance):
    r"""LRP with the alpha-beta rule in every layer: positive terms share alpha, negative ones minus beta.

    Beta is alpha - 1. A layer hands on all that it got only where it had terms of both signs. Grows with depth: in deep
    networks large values of both signs stand side by side. See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        alpha: 1 is `lrp_zplus`.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`. Its one forward and one
        backward take three to five convolutions for each.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> attribution.create("lrp_alpha_beta", network).attribute(torch.rand(1, 3, 2, 2), target=0).shape
        torch.Size([1, 1, 2, 2])
    """

    alpha: Annotated[float, Range(1)] = 2.0

    def composite(self) -> Composite:
        """Alpha and beta everywhere."""
        return Composite("alpha_beta", "alpha_beta", alpha=self.alpha)


@register(
    "lrp_z_box",
    family="relevance",
    aliases=("lrp_zbox", "deep_taylor", "deep_taylor_decomposition"),
    needs="gradient",
    kinds=("image",),
    paper="Montavon et al. 2017, doi:10.1016/j.patcog.2016.11.008, z-plus and z-B rule",
)
class LRPZBox(Boxed):
    r"""Deep Taylor decomposition: the box rule for convolutions that see the image, z-plus for all other layers.

    The box rule shares by :math:`x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-`, with the least and the greatest value that
    pixel i could have: it knows no zero, so that black pixels get a share as well as white ones. A network whose first layer
    is dense has z-plus everywhere. See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, of the score's sign and in its unit; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> model = attribution.Model(network, bounds=(0, 1))
        >>> attribution.create("lrp_z_box", model).attribute(torch.rand(1, 3, 4, 4), target=0).shape
        torch.Size([1, 1, 4, 4])
    """

    def composite(self) -> Composite:
        """The box first, then positive terms."""
        return Composite("zplus", "zplus", "z_box")


class Mixed(Relevance):
    """The epsilon rule for linear layers, another for convolutions.

    Args:
        epsilon: Of linear layers and average pooling, in units of their output.
    """

    epsilon: Positive = 1e-6


@register(
    "lrp_epsilon_plus",
    family="relevance",
    needs="gradient",
    kinds=KINDS,
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840, section III",
)
class LRPEpsilonPlus(Mixed):
    """LRP for convolutional networks: z-plus for convolutions, the epsilon rule for linear layers.

    What speaks for and against the class is decided by the last layers; on the way down to the pixels it is not mixed again,
    which takes the noise away. A good first choice. See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of linear layers and average pooling, in units of their output.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> attribution.create("lrp_epsilon_plus", network).attribute(torch.rand(1, 3, 4, 4), target=0).shape
        torch.Size([1, 1, 4, 4])
    """

    def composite(self) -> Composite:
        """Convolutions by their positive terms."""
        return Composite("zplus", epsilon=self.epsilon)


@register(
    "lrp_epsilon_plus_flat",
    family="relevance",
    needs="gradient",
    kinds=("image",),
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840, section III; flat: Lapuschkin et al. 2019, arXiv:1902.10178",
)
class LRPEpsilonPlusFlat(Mixed):
    """`lrp_epsilon_plus` with the flat rule for convolutions that see the image: all of a window gets the same.

    Independent of colour and brightness at the pixel itself, and as smooth as the first layer's windows are wide. A dense
    first layer is left to the epsilon rule. See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of linear layers and average pooling, in units of their output.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        >>> map = attribution.create("lrp_epsilon_plus_flat", network).attribute(torch.rand(1, 3, 4, 4), target=0)
        >>> bool(torch.allclose(map, map.mean()))
        True
    """

    def composite(self) -> Composite:
        """The same for all of a window first."""
        return Composite("zplus", first="flat", epsilon=self.epsilon)


@register(
    "lrp_epsilon_gamma_box",
    family="relevance",
    needs="gradient",
    kinds=("image",),
    paper="Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10, section 10.3; Anders et al. 2021, arXiv:2106.13200",
)
class LRPEpsilonGammaBox(Mixed, Boxed):
    """LRP with the gamma rule for convolutions, the box rule for those that see the image, epsilon for linear layers.

    See `lrp` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of linear layers and average pooling, in units of their output.
        gamma: Of convolutions.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> model = attribution.Model(network, bounds=(0, 1))
        >>> attribution.create("lrp_epsilon_gamma_box", model).attribute(torch.rand(1, 3, 4, 4), target=0).shape
        torch.Size([1, 1, 4, 4])
    """

    gamma: Positive = 0.25

    def composite(self) -> Composite:
        """The box first, then gamma."""
        return Composite("gamma", first="z_box", epsilon=self.epsilon, gamma=self.gamma)


@register(
    "lrp_epsilon_alpha2_beta1",
    family="relevance",
    needs="gradient",
    kinds=KINDS,
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840, section III",
)
class LRPEpsilonAlpha2Beta1(Mixed):
    """LRP with alpha = 2 and beta = 1 for convolutions, the epsilon rule for linear layers.

    See `lrp` and `lrp_alpha_beta` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of linear layers and average pooling, in units of their output.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> attribution.create("lrp_epsilon_alpha2_beta1", network).attribute(torch.rand(1, 3, 4, 4), target=0).shape
        torch.Size([1, 1, 4, 4])
    """

    def composite(self) -> Composite:
        """Convolutions by both signs."""
        return Composite("alpha_beta", epsilon=self.epsilon, alpha=2.0)


@register(
    "lrp_epsilon_alpha2_beta1_flat",
    family="relevance",
    needs="gradient",
    kinds=("image",),
    paper="Kohlbrenner et al. 2020, arXiv:1910.09840, section III; flat: Lapuschkin et al. 2019, arXiv:1902.10178",
)
class LRPEpsilonAlpha2Beta1Flat(Mixed):
    """`lrp_epsilon_alpha2_beta1` with the flat rule for convolutions that see the image.

    See `lrp` and `lrp_epsilon_plus_flat` for everything else.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of linear layers and average pooling, in units of their output.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score; `details["residual"]` as in `lrp`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> made = attribution.create("lrp_epsilon_alpha2_beta1_flat", network)
        >>> made.attribute(torch.rand(1, 3, 4, 4), target=0).shape
        torch.Size([1, 1, 4, 4])
    """

    def composite(self) -> Composite:
        """The same for all of a window first."""
        return Composite("alpha_beta", first="flat", epsilon=self.epsilon, alpha=2.0)

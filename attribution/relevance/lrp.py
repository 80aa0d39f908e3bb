"""Layer-wise relevance propagation with a choice of rules; the epsilon rule by default."""

from typing import Annotated

from .._parameters import Range
from ..attributor import register
from ._lrp import Composite, First, Positive, Relevance, Rule, box_needed


@register(
    "lrp",
    family="relevance",
    aliases=("lrp_epsilon", "layer_wise_relevance_propagation"),
    needs="gradient",
    kinds=("image", "table", "tokens"),
    paper="Bach et al. 2015, PLoS ONE 10(7):e0130140, equations 56, 58 and 60",
)
class LRP(Relevance):
    r"""The score, handed back layer by layer, each unit's share to what it was made of.

    The epsilon rule gives input i of a layer with outputs :math:`z_j` the share
    :math:`x_i w_{ij} / (z_j + \epsilon\,\mathrm{sign}\,z_j)` of what unit j got. With all rules at "epsilon" and a small
    epsilon the map is close to input times gradient, and as noisy: the presets (`lrp_epsilon_plus` and others) mix rules.

    What an activation gets, its input gets. Batch norms are one with the layer before them; alone, and in average pooling,
    the epsilon rule holds. The winner of a max pooling takes all; residual branches get what they added. Of a product that
    both depend on the image, the signal takes all if the other is its gate (a sigmoid or a softmax), else a half goes to
    each. Norms over an image hand on as if their deviation were constant, and a softmax by its derivative. A product with a
    constant matrix that is written out has the epsilon rule without epsilon.

    Biases and epsilon keep their share: `details["residual"]` `(N,)` is the score minus the map's sum, and
    `details["relative_residual"]` that of the score's size. A network with an operation for which there is no rule is
    refused. Pixels count from the mean that the images are normalised with, in the model or in the network's first lines.

    Args:
        output: Which score is handed back: logit or margin. Probabilities are no sums of terms and are refused.
        convolution: The rule of convolutions: "epsilon", "gamma" (what agrees with the output's sign counts more),
            "zplus" (positive terms alone) or "alpha_beta" (positive terms alpha, negative ones 1 - alpha).
        dense: The rule of linear layers.
        first: The rule of convolutions that see the image itself: "z_box" (needs the model's bounds), "flat" (every pixel
            of a window the same), "w_squared" (as its squared weight), or `None`, as all others.
        epsilon: Of the epsilon rule, in units of the layer's output. 0: nothing is lost, small outputs count fully.
        gamma: Of the gamma rule: 0 is "epsilon", large values come close to "zplus".
        alpha: Of the alpha-beta rule; beta is alpha - 1. Every layer hands on all it got only where it had terms of both
            signs.
        channels: How the channels become one map.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score. One forward and one backward, in which "zplus" takes one or two
        convolutions for each, "gamma" two or three, "alpha_beta" three to five.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attriscope import attribution
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> made = attribution.create("lrp", network, convolution="zplus")
        >>> found = made.explain(torch.rand(1, 3, 4, 4), target=0)
        >>> bool(torch.isclose(found.maps.sum() + found.details["residual"][0], found.scores[0], atol=1e-6))
        True
    """

    convolution: Rule = "epsilon"
    dense: Rule = "epsilon"
    first: First | None = None
    epsilon: Positive = 1e-6
    gamma: Positive = 0.25
    alpha: Annotated[float, Range(1)] = 2.0

    def _refusal(self) -> str | None:
        """The box rule needs a box."""
        return super()._refusal() or (box_needed(self.model) if self.first == "z_box" else None)

    def composite(self) -> Composite:
        """As it was given."""
        return Composite(self.convolution, self.dense, self.first, self.epsilon, self.gamma, self.alpha)

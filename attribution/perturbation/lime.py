"""LIME: a weighted linear model of the score over which regions are kept."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import baselines, designs
from .._parameters import Range, Seed
from ..attributor import Computed, register
from ..games import Game
from ..regions import paint, table
from ..targets import Output, Target
from ._regional import Regional

Sampling = Literal["uniform", "stratified"]


class Fit(NamedTuple):
    """A weighted ridge regression.

    Attributes:
        values: The coefficients, `(d,)`.
        intercept: Where no region is kept.
        half_width: Of the coefficients' 95% intervals, `(d,)`.
        r2: The weighted share of the scores' variance that the fit explains; NaN where they do not vary.
        effective: `(sum w)^2 / sum w^2`: how many equally weighted samples these are worth.
    """

    values: Tensor
    intercept: Tensor
    half_width: Tensor
    r2: Tensor
    effective: Tensor


def proximity(kept: Tensor, regions: int, width: float) -> Tensor:
    r"""LIME's weight of a coalition of so many regions: `exp(-D^2 / (2 width^2))`, `D = 1 - sqrt(kept / regions)`.

    D is the cosine distance between the coalition and the whole image.

    Example:
        >>> [round(float(w), 3) for w in proximity(torch.tensor([1.0, 5.0, 10.0]), 10, 0.25)]
        [0.024, 0.503, 1.0]
    """
    distance = 1 - (kept.double() / regions).sqrt()
    return torch.exp(-(distance**2) / (2 * width**2))


def correction(kept: Tensor, regions: int) -> Tensor:
    """How much more often a size comes up among fair coin flips than among uniform sizes: `(d + 1) C(d, k) / 2^d`.

    Example:
        >>> correction(torch.tensor([0, 1, 2]), 2).tolist()  # a quarter, a half, a quarter, instead of thirds
        [0.75, 1.5, 0.75]
    """
    k, d = kept.double(), torch.tensor(float(regions), dtype=torch.float64)
    log = (
        torch.lgamma(d + 1)
        - torch.lgamma(k + 1)
        - torch.lgamma(d - k + 1)
        + (d + 1).log()
        - d * torch.log(d.new_tensor(2.0))
    )
    found = log.exp()
    return torch.where(found > 0, found, 0.0).round(decimals=12)


def ridge(z: Tensor, y: Tensor, weights: Tensor, alpha: float) -> Fit:
    """Weighted ridge regression with an intercept that is not shrunk.

    Args:
        z: `(n, d)` coalitions as numbers.
        y: `(n,)` scores.
        weights: `(n,)`, not negative.
        alpha: What is added to the diagonal of the weighted Gram matrix.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
        >>> fit = ridge(z, 3 * z[:, 0] - z[:, 1] + 7, torch.ones(4).double(), alpha=0.0)
        >>> fit.values.round(decimals=9).tolist(), float(fit.intercept.round(decimals=9))
        ([3.0, -1.0], 7.0)
    """
    total = weights.sum()
    center, level = weights @ z / total, weights @ y / total
    x, t = z - center, y - level
    weighted = x * weights[:, None]
    gram = x.T @ weighted + alpha * torch.eye(z.shape[1], dtype=z.dtype)
    inverse = torch.linalg.pinv(gram, hermitian=True)
    values = inverse @ (weighted.T @ t)
    left = t - x @ values
    # the sandwich: right whatever the variance of the scores at each coalition
    influence = weighted * left[:, None] @ inverse
    spread, rest = weights @ t**2, weights @ left**2
    return Fit(
        values,
        level - center @ values,
        1.96 * influence.pow(2).sum(0).sqrt(),
        # scores that differ by rounding alone do not vary
        torch.where(spread > 1e-12 * (weights @ y**2), 1 - rest / spread.clamp_min(1e-300), torch.nan),
        total**2 / weights.pow(2).sum(),
    )


def lime(game: Game, *, samples: int, sampling: Sampling, width: float, alpha: float, seed: int) -> list[Fit]:
    """The local linear model of every image.

    Args:
        game: The score as a function of the regions that are kept.
        samples: Coalitions, the whole image first.
        sampling: `"uniform"`: every region kept with probability 1/2, as LIME does. `"stratified"`: all sizes as likely,
            and weights that make up for it, so that both aim at the same model.
        width: Of the proximity kernel.
        alpha: Of the ridge.
        seed: Coalition n depends on seed and n alone.
    """
    draw = designs.bernoulli if sampling == "uniform" else designs.uniform_sizes
    wanted = [torch.cat([torch.ones(1, d, dtype=torch.bool), draw(seed, samples - 1, d)]) for d in game.sizes]
    fits = []
    for z, y, d in zip(wanted, game.values(wanted), game.sizes, strict=True):
        kept = z.sum(1)
        weights = proximity(kept, d, width)
        if sampling == "stratified":
            weights[1:] *= correction(kept[1:], d)  # the whole image was not drawn: it stands for itself
        fits.append(ridge(z.double(), y, weights, alpha))
    return fits


@register(
    "lime",
    family="perturbation",
    stochastic=True,
    granularity="region",
    samples="samples",
    at_most=True,
    kinds=("image", "table", "tokens"),
    small={"regions": "grid", "n_regions": 16, "samples": 200, "baseline": "mean"},
    paper="Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938, equation 2",
)
class LIME(Regional):
    r"""The coefficients of a linear model that predicts the score from which regions are kept, near the whole image.

    .. math:: \beta = \arg\min_{\beta, \beta_0} \sum_n \pi(z_n) \, (v(z_n) - \beta_0 - z_n^\top \beta)^2
              + \alpha \lVert\beta\rVert^2

    A value is how much the score rises, on average over what else is shown, when the region is shown. The values do not
    add up to the score; `details["r2"]` says how well a linear model describes the network at all. With d regions plain
    sampling hardly ever keeps more than d / 2 + sqrt(d) of them: "near the whole image" is what the weights say, not what
    is seen. `sampling="stratified"` draws all sizes and weighs them so that the same model is aimed at, by an importance
    ratio on the weights (the published code multiplies the distances instead, which turns the correction round); it is
    worth `details["effective_samples"]` plain samples.

    Args:
        output: Which score; the paper takes the probability.
        samples: Coalitions, the whole image among them.
        sampling: "uniform" keeps every region with probability 1/2, "stratified" draws all sizes alike.
        kernel_width: Of the proximity kernel, exp(-D^2 / (2 width^2)) with the cosine distance D to the whole image.
        alpha: Strength of the ridge.
        baseline: What stands in for a removed region; the authors' is the region's own mean colour, which leaves a region
            of one colour as it is (tables and tokens take the mean instead).
        seed: Coalition n depends on the seed and n alone.

    Returns:
        `(N, 1, H, W)`, signed, in the unit of the score: every pixel has its region's coefficient. `details` has
        `"values"` (N, regions) with `"half_width"` of their 95% intervals, `"intercept"`, `"r2"` and
        `"effective_samples"` (N,), and the `"labels"`.

    Example:
        >>> import torch
        >>> from attriscope import attribution
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> made = attribution.create("lime", network, regions="grid", n_regions=4, samples=50)
        >>> made.explain(torch.rand(1, 3, 8, 8)).details["values"].shape
        torch.Size([1, 4])
    """

    output: Output = "probability"
    samples: Annotated[int, Range(2)] = 1000
    sampling: Sampling = "uniform"
    kernel_width: Annotated[float, Range(0.01)] = 0.25
    alpha: Annotated[float, Range(0)] = 1.0
    baseline: baselines.Baseline = "region_mean"
    seed: Seed = 0

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Maps `(N, 1, H, W)`, `(N, F)` or `(N, T)`."""
        game = self.game(inputs, target)
        fits = lime(
            game,
            samples=self.samples,
            sampling=self.sampling,
            width=self.kernel_width,
            alpha=self.alpha,
            seed=self.seed,
        )
        maps, details = paint([f.values for f in fits], game.labels, inputs)
        more = {
            "half_width": table([f.half_width for f in fits]),
            "intercept": torch.stack([f.intercept for f in fits]),
            "r2": torch.stack([f.r2 for f in fits]),
            "effective_samples": torch.stack([f.effective for f in fits]),
        }
        return Computed(maps, {**details, **more})

    @classmethod
    def _cost(cls, options: Any, shape: tuple[int, ...]) -> tuple[int, int]:
        return options.samples, 0

"""PA-LRP: relevance of tokens and of their positions together."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .._layers import PREFIX, proportions
from .._rules import Apply, depends
from ..attributor import Computed, Layers, Resize, register
from ..model import Model
from ..targets import Output, Target
from ._lrp import WINNERS, Composite, Positive, Propagation, joined, residual, scored
from .attn_lrp import Attended, halves, must_attend


class Tokens(Propagation):
    """The rules, and the tokens that the first block gets: patch and position, added.

    They are what a constant with a value for each place was last added to before any attention, or, after that, what was
    last normalised; where there is neither, what the first linear layer gets.

    Attributes:
        tokens: `(N, T, D)` or `(N, h, w, D)`, on the graph.
        grid: Rows and columns of the convolution before them.
    """

    tokens: Tensor | None = None
    grid: tuple[int, ...] | None = None
    _attended = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call; positions may be added in it."""
        found = super().__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if not self._attended and name in {"add", "add_", "__radd__", "__iadd__"} and len(args) == 2:
            constants = [a for a in args if isinstance(a, Tensor) and a is not found and not depends(a)]
            if any(sum(size > 1 for size in c.shape) > 1 for c in constants) and self._are_tokens(found):
                self.tokens = found
        return found

    def _are_tokens(self, x: Tensor) -> bool:
        """Whether a tensor looks like tokens; with the sequence first it does not."""
        if self.pixels(x) is not None:
            return False
        return (x.ndim == 3 and x.stride(0) >= x.stride(1)) or (x.ndim == 4 and tuple(x.shape[1:3]) == self.grid)

    def linear(self, apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        """A convolution before the tokens makes their grid."""
        if not self._attended and self.tokens is None and name == "linear" and self._are_tokens(x):
            self.tokens = x
        out = super().linear(apply, x, weight, bias, name)
        if name == "conv2d" and not self._attended:
            self.grid = tuple(out.shape[2:])
        return out

    def normalize(self, apply: Apply, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
        """What is normalised before attention are tokens."""
        if not self._attended and self._are_tokens(x):
            self.tokens = x
        return super().normalize(apply, x, name, options)

    def product(self, apply: Apply, a: Tensor, b: Tensor) -> Tensor:
        """Attention begins with a product."""
        self._attended = self._attended or (apply is not torch.mul and a.ndim >= 3)
        return super().product(apply, a, b)

    def found(self, image: Tensor) -> tuple[Tensor, tuple[int, int], int]:
        """Tokens, their grid, and how many of them stand before it."""
        tokens = self.tokens
        if tokens is None or len(tokens) != len(image) or not tokens.requires_grad:
            raise ValueError("pa_lrp found no tokens (N, T, D) before the first attention: use attn_lrp")
        count, (height, width) = tokens[0, ..., 0].numel(), image.shape[2:]
        # without a convolution before them, a grid of the image's proportions
        grids = proportions(count, height, width) if self.grid is None else [(self.grid[0], self.grid[1])]
        for h, w in grids:
            if 0 <= count - h * w <= PREFIX and h * w > 1:
                return tokens, (h, w), count - h * w
        raise ValueError(f"pa_lrp found {count} tokens, and which lies where is not known: use attn_lrp")


def pa_lrp(
    model: Model, inputs: Tensor, target: Target, composite: Composite, output: Output
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand the scores back to the tokens that enter the first block.

    Args:
        model: The model.
        inputs: `(N, C, H, W)`.
        target: Frozen, one row per image.
        composite: Which rule where.
        output: Which score.

    Returns:
        Relevance of the patches `(N, 1, h, w)`, that of all tokens before them `(N,)`, and the scores `(N,)`.
    """

    def work(part: slice, x: Tensor, run: Apply) -> tuple[Tensor, ...]:
        rules = Tokens(composite, x)
        with rules:
            out = run(x)
        score = scored(out, target.take(part), output, model)
        rules.check(score, x, "pa_lrp", allowed=WINNERS)
        tokens, grid, before = rules.found(x)
        (c,) = torch.autograd.grad(score.sum(), tokens)
        values = (tokens.detach() * c).sum(-1).flatten(1)
        return values[:, before:].reshape(-1, 1, *grid), values[:, :before].sum(1), score.detach()

    maps, before, scores = joined(model.passes(inputs, target, work))
    return maps, before, scores


@register(
    "pa_lrp",
    family="relevance",
    aliases=("position_aware_lrp",),
    needs=("gradient", "attention"),
    granularity="cell",
    kinds=("image",),
    paper="Bakish, Zimerman, Chefer and Wolf 2025, arXiv:2506.02138",
)
class PALRP(Attended):
    r"""AttnLRP that counts what a token's position got with the token.

    Position embeddings are added to the patches, and in `attn_lrp` what flows into them is lost. Here the map is read where
    they were just added: at the tokens that the first attention's block gets. Each has the relevance of its patch and of its
    place. Positions that enter elsewhere (a bias on the scores, rotations) keep what they get, as in `attn_lrp`.

    The tokens that stand before the patches (class, registers) are no place in the image: `details["prefix"]` `(N,)` is what
    they got. `details["residual"]` `(N,)` is the score minus the map's sum and that.

    Args:
        output: Which score is handed back: logit or margin.
        epsilon: Of the epsilon rule, in units of the layer's output.
        gamma: Of the gamma rule for linear layers and convolutions; 0: the epsilon rule.
        resize: How the map is brought to the image's size; `None` leaves it.

    Returns:
        `(N, 1, H, W)`, signed, from one value for each patch, in the unit of the score.

    Example:
        >>> import torch
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from attriscope import attribution
        >>> network = VisionTransformer(32, 8, embed_dim=8, depth=1, num_heads=2, num_classes=3)
        >>> attribution.create("pa_lrp", network).explain(torch.rand(1, 3, 32, 32), target=0).native.shape
        torch.Size([1, 1, 4, 4])
    """

    tried = "pa_lrp"

    layers: ClassVar[Layers] = "none"

    epsilon: Positive = 1e-6
    gamma: Positive = 0.0
    resize: Resize | None = "bilinear"

    def composite(self) -> Composite:
        """As `attn_lrp`."""
        return halves(self.epsilon, self.gamma)

    def compute(self, inputs: Tensor, target: Target) -> Computed:
        """Relevance of every patch `(N, 1, h, w)`."""
        must_attend(self.model)
        maps, before, scores = pa_lrp(self.model, inputs, target, self.composite(), self.output)
        return Computed(maps, {**residual(maps, scores, before), "prefix": before})

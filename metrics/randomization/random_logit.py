"""Random logit: is the map of another class another map?"""

from typing import ClassVar

import torch
from attriscope.attribution._parameters import Count, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.masking import Clean, evaluate
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Target
from torch import Tensor

from .._again import explained
from .._comparing import Comparing
from ..metric import Scored, register

STREAM = 900_004  # of the draws: other numbers than those of methods and of other metrics


def other_classes(own: Tensor, classes: int, draws: int, *, seed: int) -> Tensor:
    """Classes beside each image's own, `(N, K)`, K at most `classes - 1`: no class twice for one image.

    Draw k steps as many classes on from each image's own as the seed and k say, the same for every image.

    Args:
        own: `LongTensor (N,)`.
        classes: How many there are, at least 2.
        draws: How many are drawn, if there are as many.
        seed: Of the draws.

    Example:
        >>> other_classes(torch.tensor([0, 1, 2]), 3, 5, seed=0).sort(1).values.tolist()
        [[1, 2], [0, 2], [0, 1]]
    """
    steps = 1 + uniforms(seed, 1, classes - 1, stream=STREAM)[0].argsort(stable=True)[:draws]
    return (own[:, None] + steps.to(own.device)) % classes


@register(
    "random_logit",
    family="randomization",
    aliases=("random_logit_test",),
    paper="Sixt, Granz and Landgraf 2020, arXiv:1912.09818, the random logit test",
)
class RandomLogit(Comparing):
    r"""How alike the maps of the explained class and of other classes are: lower is better.

    .. math:: \frac1K \sum_{k=1}^K s\big(a_y(x), a_{y_k}(x)\big), \qquad y_k \ne y \text{ drawn uniformly}

    1 is a method that shows the same whatever class it is asked about, as an edge detector does: it may show the image and
    says nothing of the decision. There is no value that a right map must have: two classes that a network tells by the same
    pixels have like maps in all honesty, above all the runner-up's, and noise that is drawn anew for each class would be the
    most unlike. Explain logits: the gradient of one of two softmax probabilities is the other's negative in any network.

    The details hold `runner_up`, the similarity with the likeliest other class; `least_likely`, with the least likely one; and
    `undefined`, how many of all these comparisons were NaN, which the mean leaves out. Undefined where all draws are.

    It costs an explanation for each draw and two more, and one forward that ranks the classes. A network with fewer other
    classes than draws is asked for each of them once.

    Args:
        similarity: What s is: "spearman", "pearson", "ssim", "hog" or "top_k"; `metrics.similarity` says more.
        absolute: Whether s drops the signs: a map and its negative are then alike.
        smooth: The sigma in pixels of a Gaussian that blurs the maps before they are compared.
        draws: K, random other classes, each another.
        seed: Draw k depends on the seed and k alone; it goes as many classes on from each image's own.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
        >>> edges, images = attribution.create("edge", network), torch.rand(2, 3, 4, 4)
        >>> metrics.create("random_logit").score(edges, images).tolist()
        [1.0, 1.0]
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = "a constant map, of the target or of all other classes, is like no other"
    small: ClassVar[dict[str, int]] = {"draws": 2}  # the tests' network has two other classes

    draws: Count = 3
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """One for each draw, the runner-up and the least likely class."""
        return self.draws + 2

    def cost(self, shape: tuple[int, ...] = (3, 224, 224)) -> int:
        """The image, whose scores rank the classes."""
        del shape
        return 1

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain the other classes, as many at a time as fill a batch."""
        asked = self._asked(attributor, images, target)

        def another(k: int) -> tuple[Tensor, Target]:
            return images, Target(target.rows, target.count, index=asked[:, k : k + 1])

        own = self.described(maps)
        others = explained(attributor, asked.shape[1], another, len(images))
        found = torch.stack([self.alike(own, self.described(other)) for other in others], 1)
        details = {"runner_up": found[:, -2], "least_likely": found[:, -1], "undefined": found.isnan().sum(1).double()}
        return Scored(found[:, :-2].nanmean(1), details=details)

    def _asked(self, attributor: Attributor, images: Tensor, target: Target) -> Tensor:
        """The drawn classes, the runner-up and the least likely, `(N, K + 2)` on the CPU."""
        if target.index is None:
            raise ValueError(
                f"{self.name} compares the maps of classes: pass target=a class, or one for each image, and no callable"
            )
        scores = evaluate(Clean(images), attributor.model, target, output="logit", every=True)[:, 0].cpu()
        if scores.shape[1] < 2:
            raise ValueError(f"{self.name} compares the maps of classes: a model with one output has no other class")
        own = target.index.cpu()
        drawn = other_classes(own[:, 0], scores.shape[1], self.draws, seed=self.seed)
        order = scores.argsort(dim=1, descending=True, stable=True)
        others = order[order != own].reshape(len(images), -1)
        return torch.cat([drawn, others[:, :1], others[:, -1:]], 1)

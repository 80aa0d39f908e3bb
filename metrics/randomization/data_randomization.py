"""Data randomization: whether a map changes when the network has learned labels that mean nothing."""

import math
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model
from attriscope.attribution.randomness import uniforms
from attriscope.attribution.targets import Activation, Target
from torch import Tensor, nn
from torch.nn import functional

from .._again import explained
from .._comparing import Comparing
from ..metric import Scored, register
from ._networks import Randomized, seeded, stages

STREAM = 900_012  # of the draws: other numbers than those of methods and of other metrics
SLICE = 256  # images at a time where nothing is learned

__all__ = ["DataRandomization", "permuted"]


def permuted(labels: Tensor, *, seed: int) -> Tensor:
    """The same labels in another order, which the seed and their number decide.

    Args:
        labels: `(M,)`.
        seed: Of the order.

    Example:
        >>> permuted(torch.tensor([0, 0, 1, 2]), seed=0).sort().values.tolist()
        [0, 0, 1, 2]
    """
    return labels[_order(seed, len(labels), 0).to(labels.device)]


def _order(seed: int, count: int, number: int) -> Tensor:
    return uniforms(seed, 1, count, start=number, stream=STREAM)[0].argsort(stable=True)


def _coloured() -> tuple[Tensor, Tensor]:
    """Twelve grey images of 16 x 16 pixels, of which those of class 1 are tinted red and those of class 2 green."""
    labels = torch.arange(12) % 3
    images = 0.2 + 0.1 * uniforms(0, 12, 256, stream=STREAM).reshape(12, 1, 16, 16).repeat(1, 3, 1, 1)
    images[labels == 1, 0] += 0.4
    images[labels == 2, 1] += 0.4
    return images, labels


class _Learned(NamedTuple):
    state: dict[str, Any]
    accuracy: float


def _loss(logits: Tensor, labels: Tensor, activation: Activation) -> Tensor:
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))
    if activation == "sigmoid":
        return functional.binary_cross_entropy_with_logits(
            logits, functional.one_hot(labels, logits.shape[1]).to(logits)
        )
    return functional.cross_entropy(logits, labels)


def _accuracy(run: Callable[[Tensor], Tensor], labels: Tensor) -> float:
    right = 0
    with torch.no_grad():
        for part in torch.arange(len(labels)).split(SLICE):
            logits = run(part)
            named = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
            right += int((named == labels[part.to(labels.device)]).sum())
    return right / len(labels)


@register(
    "data_randomization",
    family="randomization",
    aliases=("label_randomization",),
    paper="Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim 2018, arXiv:1810.03292, the data randomization test",
)
class DataRandomization(Comparing):
    r"""How alike the maps of the network and of one that was trained on permuted labels are: lower is better.

    .. math:: \mathrm{sim}\bigl(a(x; \theta), a(x; \theta_\pi)\bigr), \qquad
              \theta_\pi \text{ fits } (x_i, y_{\pi(i)}) \text{ from other weights}

    A network that has learned permuted labels by heart has found nothing that images of a class share. A map that stays the
    same shows no more than what the images, or the architecture, bring along. The same class is explained by all networks.

    The score is read beside `twin`, the similarity to a network trained from yet other weights on the true labels: two
    networks that learned the same have different maps, too. Where the score lies clearly below its twin, the map depends on
    the relation of images and labels; where both are high, it does not; where both are low, maps depend on the weights'
    draw more than on the data, and nothing follows. And it concludes only if the network has fitted the permuted labels:
    the details tell the accuracies on the training images, `fitted` and `twin_fitted`.

    Training takes place when the first images are scored, twice for each model, and is not counted as evaluations. Every
    image must be learned by heart, so this is for small networks and small images: the defaults do for some hundred of them,
    and a warning tells where more epochs are needed. All of the network's
    weights are drawn by their layers' initialisers and trained by Adam, batch norms and dropout in training mode. What was
    trained is kept as long as the metric and the model, until the weights change; a copy in another process trains again.
    The network itself and the global generators are left as they are.

    Args:
        data: The training images `(M, C, H, W)` in the model's bounds, as large as those that are explained, and their classes
            `(M,)`; of a network with one output, 0 and 1.
        similarity: `"spearman"`, `"pearson"`, `"ssim"`, `"hog"` or `"top_k"`; `metrics.similarity` says more.
        absolute: Whether signs are dropped: a map and its negative are then the same.
        smooth: The standard deviation in pixels of the blur that both maps get before.
        epochs: How many at most, and
        accuracy: on the training images, in evaluation mode, after which there are no more.
        batch: Images in one step at most.
        rate: Of Adam.
        seed: Of the permutation, and of weights, batches and dropout; the twin's are those of the next seed.

    Raises:
        ValueError: There is no data, it does not fit, or the model has no logits of classes that could be trained; where it
            is scored.

    Example:
        >>> import torch
        >>> from attriscope import attribution, metrics
        >>> images, labels = torch.rand(6, 3, 4, 4), torch.arange(6) % 2
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        >>> metric = metrics.create("data_randomization", data=(images, labels), rate=0.1)
        >>> edges = attribution.create("edge", network)  # looks at the image alone
        >>> found = metric.score(edges, torch.rand(2, 3, 4, 4), target=0, curves=True)
        >>> found.scores.tolist(), found.details["twin"].tolist(), found.details["fitted"].tolist()
        ([1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    undefined: ClassVar[str] = (
        "a map, of the network or of the one that learned permuted labels, is the same everywhere"
    )
    small: ClassVar[dict[str, object]] = {"data": _coloured(), "epochs": 2, "accuracy": 0.0}

    data: tuple[Tensor, Tensor] | None = None
    epochs: Count = 100
    accuracy: Annotated[float, Range(0, 1)] = 0.95
    batch: Count = 64
    rate: Annotated[float, Range(0, open=True)] = 1e-3
    seed: Seed = 0

    def validate(self) -> None:
        """Images and labels belong together."""
        self._start()
        if self.data is None:
            return
        if len(self.data) != 2 or not all(isinstance(part, Tensor) for part in self.data):
            raise TypeError(f"{self.name}: data must be two tensors, images (M, C, H, W) and labels (M,)")
        images, labels = self.data
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(
                f"{self.name}: the labels in data are {labels.dtype} of shape {tuple(labels.shape)}: give the number of each "
                "image's class, (M,)"
            )
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"{self.name}: data holds images of shape {tuple(images.shape)} for {len(labels)} labels: give as many, "
                "(M, C, H, W)"
            )
        if len(labels.unique()) < 2 or int(labels.min()) < 0:
            raise ValueError(f"{self.name}: the labels in data must be 0 or more, and of two classes at least")

    def _start(self) -> None:
        self._kept: WeakKeyDictionary[Model, tuple[str, tuple[_Learned, _Learned]]] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def explanations(self) -> int:
        """One for the network trained on permuted labels, and one for its twin."""
        return 2

    def accept(self, attributor: Attributor) -> None:
        """There must be data, a network that can be trained, and a method that can be asked again."""
        super().accept(attributor)
        if self.data is None:
            raise ValueError(
                f"{self.name} trains networks: pass data=(images, labels), what the network was trained on"
            )
        model = attributor.model
        if not isinstance(model.network, nn.Module):
            raise ValueError(
                f"{self.name} trains copies of the network: pass an nn.Module, not a bare callable or a file"
            )
        if model.activation == "none":
            raise ValueError(
                f"{self.name} trains by logits: pass a network without its last softmax or sigmoid, and its name as activation"
            )

    def measure(self, attributor: Attributor, images: Tensor, target: Target, maps: Tensor) -> Scored:
        """Explain by the network that learned permuted labels, and by its twin."""
        model, randomized = attributor.model, Randomized(attributor.model)
        learned = self._trained(model, randomized, images, target)
        method = attributor.with_model(randomized.model)
        own, alike = self.described(maps), []
        for one in learned:
            randomized.network.load_state_dict(one.state)
            randomized.model.changed()
            (others,) = explained(method, 1, lambda _: (images, target), len(images))
            alike.append(self.alike(own, self.described(others)))
        fitted = [torch.full_like(alike[0], one.accuracy) for one in learned]
        return Scored(alike[0], details={"twin": alike[1], "fitted": fitted[0], "twin_fitted": fitted[1]})

    def _trained(
        self, model: Model, randomized: Randomized, images: Tensor, target: Target
    ) -> tuple[_Learned, _Learned]:
        """What the two networks have learned, once for each model and its weights."""
        fingerprint = model.fingerprint
        if model not in self._kept or self._kept[model][0] != fingerprint:
            inputs, labels = self._fitting(model, images, target)
            (everything,) = stages(model, images, 1)
            found = []
            for seed, own, which in (
                (self.seed, permuted(labels, seed=self.seed), "permuted"),
                (self.seed + 1, labels, "true"),
            ):
                randomized.draw(everything.modules, seed)
                accuracy = self._fit(randomized, inputs, own, seed)
                if not accuracy >= self.accuracy:
                    warnings.warn(
                        f"{self.name}: after {self.epochs} epochs {accuracy:.0%} of the {which} labels are learned, and "
                        f"{self.accuracy:.0%} are asked for, without which nothing follows: pass more epochs or another rate",
                        RuntimeWarning,
                        stacklevel=4,
                    )
                state = {
                    k: v.clone() if isinstance(v, Tensor) else v for k, v in randomized.network.state_dict().items()
                }
                found.append(_Learned(state, accuracy))
            self._kept[model] = fingerprint, (found[0], found[1])
        return self._kept[model][1]

    def _fitting(self, model: Model, images: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """The data, if it is what the model takes."""
        assert self.data is not None
        inputs, labels = model.check(self.data[0]), self.data[1].long()
        if inputs.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"{self.name}: images in data are {tuple(inputs.shape[1:])} and those to explain {tuple(images.shape[1:])}: "
                "give them the same size"
            )
        if model.output_shape is None or len(model.output_shape) != 1:
            raise ValueError(f"{self.name} trains networks whose outputs are (N, classes), and this one's are not")
        classes = max(model.output_shape[0], 2)
        if int(labels.max()) >= classes:
            raise ValueError(f"{self.name}: data has class {int(labels.max())}, and the network tells {classes} apart")
        own = (v for v in model.forward.values() if isinstance(v, Tensor) and v.ndim)
        if any(len(v) == target.count > 1 for v in own):
            raise ValueError(
                f"{self.name}: forward= holds an entry for each image, and there is none for those in data"
            )
        return inputs, labels

    def _fit(self, randomized: Randomized, inputs: Tensor, labels: Tensor, seed: int) -> float:
        """Train the copy as it is; the accuracy that it reaches."""
        network, device = randomized.network, randomized.model.device
        devices = [device] if device is not None and device.type == "cuda" else []
        labels = labels.to(device)
        steps = math.ceil(len(labels) / self.batch)  # of even size: batch norms cannot work on a last batch of one

        def run(part: Tensor) -> Tensor:
            out: Tensor = randomized.model.try_out(network, inputs[part.to(inputs.device)])
            return out

        accuracy = 0.0
        with (
            torch.random.fork_rng(devices),
            seeded(seed),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            for _ in devices:
                torch.cuda.manual_seed(seed)
            network.requires_grad_(True)
            for name, buffer in network.named_buffers():
                if name.endswith("num_batches_tracked"):  # what batch norms that average all batches go by
                    buffer.zero_()
            optimizer = torch.optim.Adam(network.parameters(), lr=self.rate)
            for epoch in range(self.epochs):
                network.train()
                order = _order(seed, len(labels), 1 + epoch)
                for part in order.tensor_split(steps):
                    optimizer.zero_grad()
                    _loss(run(part), labels[part.to(labels.device)], randomized.model.activation).backward()
                    optimizer.step()
                network.eval()
                accuracy = _accuracy(run, labels)
                if accuracy >= self.accuracy:
                    break
            network.requires_grad_(False)
        return accuracy

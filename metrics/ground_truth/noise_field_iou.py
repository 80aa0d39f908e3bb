"""IoU in a field of noise: does the box around the largest values of a map lie where the class is written?"""

from typing import Annotated, Any, ClassVar

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.baselines import gaussian_blur
from torch import Tensor

from ..metric import Scored, register
from ._noise import LowSignal, first, noise_scenes


def box_around(inside: Tensor) -> Tensor:
    """The smallest box with everything inside, `(N, 4)`: left, top, right, bottom, the last two excluded.

    Args:
        inside: `(N, H, W)` bool, not empty.

    Example:
        >>> box_around(torch.tensor([[[False, True, False, True], [False, True, False, False]]])).tolist()
        [[1, 0, 4, 2]]
    """
    found = []
    for axis in (1, 2):  # what is left of an axis 1 are columns
        there = inside.any(axis).int()
        found.append((there.argmax(1), there.shape[1] - there.flip(1).argmax(1)))
    (left, right), (top, bottom) = found
    return torch.stack([left, top, right, bottom], 1)


def intersection_over_union(boxes: Tensor, others: Tensor) -> Tensor:
    """The area that two boxes share over the area that either covers, `(N,)` float64.

    Args:
        boxes: `(N, 4)`: left, top, right, bottom, the last two excluded.
        others: The same.

    Example:
        >>> intersection_over_union(torch.tensor([[0, 0, 4, 2]]), torch.tensor([[2, 0, 6, 2]])).tolist()
        [0.3333333333333333]
    """
    shared = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    area, one, other = (side.clamp_min(0).prod(1) for side in (shared, *(b[:, 2:] - b[:, :2] for b in (boxes, others))))
    return area.double() / (one + other - area)


@register(
    "noise_field_iou",
    family="ground_truth",
    paper="Shi, Kan, Smucny and Davidson 2024, arXiv:2406.12150, intersection over union of images in a noise field",
)
class NoiseFieldIoU(LowSignal):
    r"""Whether the box around the largest values of the smoothed map is the one in which the class is written.

    .. math:: \frac{|B \cap \hat B|}{|B \cup \hat B|}, \qquad \hat B \supseteq \operatorname{top}_{|B|}(G_\sigma * a)

    Pictures are noise, and a rectangle somewhere in them has the code of a class (`metrics.noise_scenes`): it looks like noise
    too, so that nothing can be seen of it. The network, written by hand, finds the code wherever it is, and no other pixel
    changes its outputs. The paper has small photographs in noise, and networks trained on them.

    The map is smoothed by a Gaussian, and a box put around its |B| largest values, where |B| is the number of pixels that the
    rectangle has. Values that are equal to the last of them are all inside, so that a constant map has the whole picture as
    its box, and |B| over the picture as its score. Noise has hardly more, since a few values far off make the box large: the
    details' `precision`, the share of the |B| largest values that lie in the rectangle (of equal ones, the expected share),
    is kinder.

    Smoothing rounds the rectangle's corners. Up to a sigma of 1.69 pixels its own mask has 1, which the default keeps up to
    67 pixels; beyond, what the mask scores is the details' `oracle`, and the most that can be hoped for. Positive values speak
    for a class: those of `gradient` are as often negative, and want `absolute`.

    The details hold `precision`, `oracle` and `chance`, |B| over the picture. It costs one explanation of each picture.

    Args:
        pictures: U, of all classes in turn.
        size: Of a side, in pixels, at least 24.
        classes: How many codes there are.
        smooth: sigma over the side. The paper's is 6 of 224 pixels, 0.027.
        absolute: Whether signs are dropped, before the map is smoothed.
        seed: Of codes and pictures.

    Example:
        >>> from attriscope import attribution, metrics
        >>> whatever = attribution.conformance.Detector()
        >>> metric = metrics.create("noise_field_iou", pictures=4)
        >>> metric.score(attribution.create("grad_cam", whatever)).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> [round(s, 2) for s in metric.score(attribution.create("input", whatever)).tolist()]
        [0.05, 0.05, 0.05, 0.05]
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    small: ClassVar[dict[str, Any]] = {"pictures": 4, "size": 24}

    pictures: Count = 32
    size: Annotated[int, Range(24)] = 64
    classes: Annotated[int, Range(2)] = 4
    smooth: Annotated[float, Range(0, 1)] = 0.025
    absolute: bool = False
    seed: Seed = 0

    def measure(self, attributor: Attributor) -> Scored:
        """One explanation of every picture."""
        scenes = noise_scenes(
            self.pictures,
            size=self.size,
            classes=self.classes,
            seed=self.seed,
            device=attributor.model.device or "cpu",
            batch_size=attributor.model.batch_size,
        )
        maps = self.explained(attributor, scenes.model, scenes.images, scenes.labels)
        maps = (maps.abs() if self.absolute else maps).unflatten(1, (self.size, self.size))
        mask, boxes = scenes.mask.cpu(), scenes.boxes.cpu()
        chance = mask.flatten(1).double().mean(1)
        scores, precision = self._found(maps, mask, boxes)
        oracle, _ = self._found(mask.double(), mask, boxes)
        return Scored(scores, details={"precision": precision, "oracle": oracle, "chance": chance})

    def _found(self, maps: Tensor, mask: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The IoU of maps `(N, H, W)`, and their precision."""
        count = int(mask[0].sum())
        smoothed = gaussian_blur(maps[:, None], self.smooth * self.size)[:, 0]
        among = first(smoothed.flatten(1), count).reshape(maps.shape)
        iou = intersection_over_union(box_around(among > 0), boxes)
        return iou, (among * mask).sum((1, 2)) / count

"""Methods asked again: versions of images in full batches, for metrics that run a method several times for each image."""

from collections.abc import Callable, Iterator

import torch
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.targets import Target
from torch import Tensor

ALIKE = (str, int, float, type(None))  # options that say the same of every image


def explained(
    attributor: Attributor, versions: int, make: Callable[[int], tuple[Tensor, Target]], images: int
) -> Iterator[Tensor]:
    """Explain versions of some images: as many at a time as fill a batch, and at least one version of all images.

    A method that was given something for each image (a baseline, regions) gets one version of all images at a time. What
    other methods have evaluated of the images is not asked for, and nothing is kept for them: nobody meets these versions
    again.

    Args:
        attributor: The method.
        versions: How many there are.
        make: `make(k)` gives version k of every image, `(N, C, H, W)`, and its target, one row for each.
        images: N.

    Yields:
        The maps of one version after the other, `(N, 1, H, W)`.
    """
    model = attributor.model
    size = model.batch("gradient" if "gradient" in attributor.facts.needs else "forward")
    alike = all(isinstance(value, ALIKE) for value in attributor.params.values())
    together = max(1, size // images) if alike else 1
    for start in range(0, versions, together):
        with torch.inference_mode(mode=False):  # what is made in it could serve no gradient
            made = [make(k) for k in range(start, min(start + together, versions))]
            inputs, target = torch.cat([x for x, _ in made]), joined([t for _, t in made])
            shared, model.shared = model.shared, None
            try:
                maps = attributor.attribute(inputs, target)
            finally:
                model.shared = shared
        yield from maps.split(images)


def joined(targets: list[Target]) -> Target:
    """Targets of one set of images, of the same form, end to end."""
    first = targets[0]
    rows = torch.cat([t.rows for t in targets])
    if first.index is not None:
        return Target(rows, first.count, index=torch.cat([t.index for t in targets if t.index is not None]))
    return first.take(torch.arange(len(first)).repeat(len(targets)))  # a callable: the same for all versions


def reseeded(attributor: Attributor) -> Attributor:
    """The method with the next seed, or itself where it has none."""
    seed = attributor.params.get("seed")
    return attributor if seed is None else type(attributor)(attributor.model, **{**attributor.params, "seed": seed + 1})

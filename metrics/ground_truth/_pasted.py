"""Pictures of an object on a scene, two networks of which each sees one of the two, and what their metrics share."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model
from attriscope.attribution.randomness import uniforms
from torch import Tensor, nn
from torch.nn import functional

from ._known import Known

STREAM = 900_021  # of the draws: other numbers than those of methods and of other metrics
PERIOD = 5  # of the stripes, in steps along either axis: a prime, so that different directions add up to nothing
FILTER = (4, -1, -1, -1, -1)  # what a filter gives a pixel so many steps from a stripe: zero in all
# steps for a pixel down and for one across: upright stripes, level ones, and two that slant
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
COLOURS = ((0.0, 0.0, 1.0), (0.75, 0.0, 1.0), (0.0, 0.75, 1.0))  # blue disc, violet square, azure triangle
UNSEEN = (0.5, -0.125, 0.0)  # a change of colour that the scene network does not see
LEVELS = 256  # colours are multiples of its inverse: what the first layers add up of them is exact
SMALLEST = 24  # pictures, on which objects are 8 pixels wide
COARSE = 4  # along each side: how high a scene's stripes stand out is drawn so often, and interpolated
ROUNDING = 1e-6  # of a map's largest absolute value: differences below it say nothing in float32
GAIN = 64.0  # makes logits of about 3 of the shares of the picture that speak for a class

__all__ = ["Pasted", "importance", "object_network", "pasted", "scene_network"]


@dataclass(frozen=True)
class Pasted:
    """Pictures whose important parts are known, and the networks for which they are.

    Attributes:
        images: An object on a scene, `(N, 3, S, S)` float32 in [0, 1].
        scenes: The same scenes without the object.
        patched: The same scenes, where the object's place has another colour that `scene_network` does not see.
        mask: Where the object is, `(N, S, S)` bool.
        object_labels: 0 is a blue disc, 1 a violet square, 2 an azure triangle: `(N,)`.
        scene_labels: 0 has upright stripes, 1 level ones, 2 those that rise to the right, 3 those that fall: `(N,)`.
        object_network: Tells the objects: see `object_network`.
        scene_network: Tells the scenes: see `scene_network`.
    """

    images: Tensor
    scenes: Tensor
    patched: Tensor
    mask: Tensor
    object_labels: Tensor
    scene_labels: Tensor
    object_network: nn.Module
    scene_network: nn.Module


def pasted(pictures: int = 60, *, size: int = 64, seed: int = 0) -> Pasted:
    """Draw pictures: picture n has object n mod 3 on scene n mod 4, and depends on n, size and seed alone.

    Scenes are thin stripes on a dark ground, in greens and browns without blue; colours, phase and how far the stripes stand
    out here and there are drawn. Objects are a third of the picture wide, stand anywhere inside it, and have a texture of
    light and half as light pixels. The patch has the object's shape and texture, in red: up to (0.5, -0.125, 0) is added
    to the scene there.

    Args:
        pictures: N; 12 hold every object on every scene.
        size: S, at least 24.
        seed: Of what is drawn.

    Raises:
        ValueError: No pictures, or too small ones.

    Example:
        >>> from attriscope import attribution, metrics
        >>> made = metrics.pasted(12)
        >>> made.images.shape, made.mask.shape
        (torch.Size([12, 3, 64, 64]), torch.Size([12, 64, 64]))
        >>> bool((made.object_network(made.images).argmax(1) == made.object_labels).all())
        True
        >>> model = attribution.Model(made.object_network)  # any other metric can be asked
        >>> maps = attribution.create("input_x_gradient", model).attribute(made.images, made.object_labels)
        >>> game = metrics.create("energy_pointing_game")
        >>> game.score(model, made.images, maps, made.object_labels, annotations={"mask": made.mask}).min().item()
        1.0
    """
    if pictures < 1 or size < SMALLEST:
        raise ValueError(f"pictures={pictures}, size={size}: make at least one picture of at least {SMALLEST} pixels")
    number = torch.arange(pictures)
    kind, place = number % len(COLOURS), number % len(DIRECTIONS)
    drawn = uniforms(seed, pictures, 5 + COARSE**2, stream=STREAM)
    scenes = _stripes(place, drawn[:, 2:], size)
    mask, light = _shapes(kind, drawn[:, :2], size)
    colour = torch.tensor(COLOURS)[kind][:, :, None, None]
    unseen = torch.tensor(UNSEEN)[:, None, None]
    return Pasted(
        images=torch.where(mask[:, None], colour * light[:, None], scenes),
        scenes=scenes,
        patched=torch.where(mask[:, None], scenes + unseen * light[:, None], scenes),
        mask=mask,
        object_labels=kind,
        scene_labels=place,
        object_network=object_network(),
        scene_network=scene_network(),
    )


def _stripes(place: Tensor, drawn: Tensor, size: int) -> Tensor:
    """The scenes: stripes one pixel wide, as seen down or across, some green brighter than the ground."""
    phase = (drawn[:, 0] * PERIOD).long()[:, None, None]
    red, ground = (0.125 + 0.0625 * drawn[:, 1:3, None, None]).unbind(1)
    coarse = drawn[:, 3:].reshape(-1, 1, COARSE, COARSE)
    height = 0.25 + 0.25 * functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)[:, 0]
    down, across = torch.tensor(DIRECTIONS)[place][:, :, None, None].unbind(1)
    pixel = torch.arange(size)
    stripe = (down * pixel[:, None] + across * pixel + phase) % PERIOD == 0
    green = ground + height * stripe
    return (torch.stack([red.expand_as(green), green, torch.zeros_like(green)], 1) * LEVELS).round() / LEVELS


def _shapes(kind: Tensor, drawn: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where the objects are, `(N, S, S)` bool, and how light their pixels are there, 1 or a half."""
    radius = size / 6
    reach = int(1.2 * radius) + 1
    top, left = (reach + (drawn * (size - 2 * reach)).long()).unbind(1)
    pixel = torch.arange(size)
    down = (pixel[:, None] - top[:, None, None]).expand(-1, size, size)
    across = (pixel - left[:, None, None]).expand(-1, size, size)
    away = (down.square() + across.square()).double().sqrt()
    inside = [
        away <= radius,
        torch.maximum(down.abs(), across.abs()) <= 0.9 * radius,
        (down.abs() <= radius) & (across.abs() <= 0.6 * (down + radius)),
    ]
    texture = [away.long(), down, down + across]  # rings, level stripes, stripes that rise
    index = kind[None, :, None, None].expand(1, -1, size, size)
    mask = torch.stack(inside).gather(0, index)[0]
    light = torch.where(torch.stack(texture).gather(0, index)[0] % 4 < 2, 1.0, 0.5)
    return mask, light


def object_network() -> nn.Sequential:
    """A network, its weights set by hand, that tells three objects by their hue and sees nothing in pixels without blue.

    What speaks for a class, of red r, green g and blue b, is added up over the picture, where it is positive:

    - blue: b - 2 max(2 r - b, 0) - 2 max(2 g - b, 0),
    - violet: r - 2 max(r - b, 0) - 2 max(2 g - r, 0),
    - azure: g - 2 max(g - b, 0) - 2 max(2 r - g, 0).

    All three are 0 in a pixel that has no blue: whatever else it shows, no output changes. So they are in a grey one. Of an
    object's pixel one is positive, that of its class, which depends on one of its colours alone. There are no biases: black
    is nothing, and input times gradient is every pixel's exact share of the logit.

    Returns:
        `(N, 3, H, W)` to `(N, 3)`.
    """
    see = _convolution(
        [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, -1), (0, 1, -1), (2, 0, -1), (0, 2, -1), (-1, 2, 0), (2, -1, 0)]
    )
    hue = _convolution([(0, 0, 1, 0, 0, -2, -2, 0, 0), (1, 0, 0, -2, 0, 0, 0, -2, 0), (0, 1, 0, 0, -2, 0, 0, 0, -2)])
    return _network(see, hue, 3)


def scene_network() -> nn.Sequential:
    """A network, its weights set by hand, that tells four directions of stripes, and to which pixels with blue are black.

    The first layer makes one number of a pixel, max(r / 4 + g - b, 0): 0 for every colour whose b is at least r / 4 + g, as
    that of all objects is. It does not see it when a multiple of (4, -1, 0) is added to a colour. Four filters of 5 x 5
    pixels, one along each direction, look for stripes of a period of 5; to even stripes of the other three directions, and
    to what has one colour, each says exactly 0. What is positive is added up over the picture.

    Whatever colours with such a blue show, no output changes. An object takes away what its pixels say on the plain scene,
    and at its rim filters see a part of the stripes, as they would beside something black. There are no biases: as for
    `object_network`.

    Returns:
        `(N, 3, H, W)` to `(N, 4)`; H and W at least 5.
    """
    see = _convolution([(0.25, 1, -1)])
    step = torch.arange(PERIOD) - PERIOD // 2
    along = [(down * step[:, None] + across * step) % PERIOD for down, across in DIRECTIONS]
    find = nn.Conv2d(1, len(DIRECTIONS), PERIOD, bias=False, device="meta")
    find.weight = nn.Parameter(torch.tensor(FILTER)[torch.stack(along)][:, None] / 32.0)
    return _network(see, find, len(DIRECTIONS))


def _convolution(rows: list[tuple[float, ...]]) -> nn.Conv2d:
    """Of one pixel, one row for each channel that it makes."""
    made = nn.Conv2d(len(rows[0]), len(rows), 1, bias=False, device="meta")  # where nothing is drawn
    made.weight = nn.Parameter(torch.tensor(rows, dtype=torch.float32)[:, :, None, None])
    return made


def _network(see: nn.Conv2d, find: nn.Conv2d, classes: int) -> nn.Sequential:
    name = nn.Linear(classes, classes, bias=False, device="meta")
    name.weight = nn.Parameter(GAIN * torch.eye(classes))
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(see, nn.ReLU(), find, nn.ReLU(), pool, nn.Flatten(), name).eval()


def importance(maps: Tensor, mask: Tensor) -> Tensor:
    r"""How important a map calls a region, in [0, 1]: the mean there of the map on a scale of its own.

    .. math:: g = \frac{1}{|M|} \sum_{p \in M} \min\left(\frac{a^+_p - \min a^+}{q_{99}(a^+) - \min a^+}, 1\right)

    :math:`a^+` is the positive part of the map, and :math:`q_{99}` its 99th percentile, interpolated. Where fewer pixels than
    1% stand out of one value, both ends of the scale are that value: those that stand out are then 1. Differences of less
    than 1e-6 of the map's largest absolute value are rounding, and none.

    Args:
        maps: `(N, H, W)`.
        mask: The region, `(N, H, W)` bool, not empty.

    Returns:
        `(N,)` float64 on the CPU; NaN for a map whose positive part is the same everywhere, which has no scale.

    Example:
        >>> mask = torch.tensor([[[True, True], [False, False]]] * 2)
        >>> importance(torch.tensor([[[2.0, 0.0], [-5.0, 0.0]], [[-1.0, 0.0], [-5.0, 0.0]]]), mask).tolist()
        [0.5, nan]
    """
    values = maps.flatten(1).cpu().double()
    rounding = ROUNDING * values.abs().amax(1, keepdim=True)
    above = values.clamp_min(0)
    above = above - above.amin(1, keepdim=True)
    end = torch.from_numpy(np.percentile(above.numpy(), 99, axis=1, keepdims=True))
    shares = torch.where(end > rounding, (above / end).clamp_max(1), (above > rounding).double())
    inside = mask.flatten(1).cpu()
    found = (shares * inside).sum(1) / inside.sum(1)
    return torch.where((above > rounding).any(1), found, torch.nan)


class OnPasted(Known):
    """A metric on pictures of an object on a scene, and on the networks that see one of them.

    Args:
        pictures: How many are made; 12 hold every object on every scene.
        size: Their height and width in pixels.
        seed: Of the pictures: picture n depends on its number, the size and the seed alone.
    """

    undefined: ClassVar[str] = "a map that is nowhere positive, or as positive everywhere, has no scale"
    small: ClassVar[dict[str, Any]] = {"pictures": 12, "size": 24}

    pictures: Count = 60
    size: Annotated[int, Range(SMALLEST)] = 64
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """Two of each picture, of which one may be by another network or of the scene alone."""
        return 2

    def pasted(self) -> Pasted:
        """The pictures and the networks."""
        return pasted(self.pictures, size=self.size, seed=self.seed)

    def explained(self, attributor: Attributor, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The method's maps for one of the networks, all in one call: `(N, H, W)`.

        Raises:
            ValueError: The method does not run on it.
        """
        device = attributor.model.device or torch.device("cpu")
        own = Model(network.to(device), bounds=(0.0, 1.0), batch_size=attributor.model.batch_size)
        return self.maps(attributor, own, images.to(device), labels)

    def of_scenes(self, attributor: Attributor, made: Pasted, others: Tensor) -> tuple[Tensor, Tensor]:
        """How important the object's place is to the scene network: on the plain scenes, and on other pictures of them."""
        both, labels = torch.cat([made.scenes, others]), made.scene_labels.repeat(2)
        maps = self.explained(attributor, made.scene_network, both, labels)
        plain, other = importance(maps, made.mask.repeat(2, 1, 1)).chunk(2)
        return plain, other

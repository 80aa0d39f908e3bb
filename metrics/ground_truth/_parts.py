"""Pictures of a figure whose parts can be taken away, and a network that adds up what each part is worth.

Everything about them is known: the network is written by hand, and its logits are sums over the parts. A part is removed by
painting the picture without it, so that the background shows where it was: nothing stands in for it.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar

import torch
from attriscope.attribution._parameters import Count, Range, Seed
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.model import Model, Network
from attriscope.attribution.randomness import uniforms
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from ..faithfulness._subsets import wide
from ._known import Known

STREAM = 900_041  # of the draws, with the three after it: other numbers than those of methods and of other metrics

PARTS = ("head", "left hand", "body", "right hand", "left foot", "right foot")
SLOTS = ((0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2))  # row and column of each part's place, of three each
FREE = ((0, 0), (0, 2), (2, 1))  # places for things that belong to nobody
# which of its two looks each part has in each class; classes 2k and 2k + 1 share none
LOOKS = (
    (0, 0, 0, 0, 0, 0),
    (1, 1, 1, 1, 1, 1),
    (0, 0, 0, 1, 1, 1),
    (1, 1, 1, 0, 0, 0),
    (0, 1, 1, 0, 0, 1),
    (1, 0, 0, 1, 1, 0),
)
# what the parts are worth to each class: every part has every worth once, so that what favours a part wins nothing by it
WORTH = (
    (1, 2, 3, 4, 5, 0),
    (4, 5, 0, 3, 1, 2),
    (0, 4, 5, 2, 3, 1),
    (3, 1, 2, 0, 4, 5),
    (5, 0, 4, 1, 2, 3),
    (2, 3, 1, 5, 0, 4),
)
STEP = 0.02  # class k's are 1 + 0.02 k times these: without it two classes tie where half of the parts are gone
HALF, RISE, REST = 0.5, 1.8, 0.2  # a look that saturates: so much a share of it adds up to a half, and beyond
NOBODY = 6.75  # the logit of the last class, which wins where too little of a figure is left
LIGHT, DARK = (0, 1, 2, 4, 5, 6), (12, 13, 15, 8, 9, 11)  # the colours of each part's two looks
OTHERS = (3, 7, 10, 14)  # colours that no part has
SHAPES = 6
GREY, REACH, LEAST = 0.5, 0.45, 0.8  # colours lie on a sphere around grey; the cosine from which on one is detected
BLOCK = 256  # pictures that are painted at a time
SMALL = torch.finfo(torch.float32).eps  # of what a map adds up to without signs: rounding

Size = Annotated[int, Range(40)]
Distractors = Annotated[int, Range(0, len(FREE))]


# -- colours, shapes and places ----------------------------------------------------------------------------------------


def palette() -> Tensor:
    """Sixteen unit vectors, `(16, 3)`: eight light hues and eight dark ones, each apart from all others, black and white.

    A colour is 0.5 + 0.45 of one. The largest cosine of two is 0.748, and black and white have at most 0.721 / 0.45 with one.

    Example:
        >>> cosines = palette() @ palette().T
        >>> round(float(cosines.fill_diagonal_(0).max()), 3)
        0.748
    """
    up = torch.ones(3, dtype=torch.float64) / 3**0.5
    one = torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64) / 6**0.5
    other = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64) / 2**0.5
    high = math.radians(22)
    found = [
        sign * math.sin(high) * up + math.cos(high) * (math.cos(hue) * one + math.sin(hue) * other)
        for sign, shift in ((1, 0.0), (-1, 0.5))
        for hue in (2 * math.pi * (k + shift) / 8 for k in range(8))
    ]
    return torch.stack(found).float()


def stamps(radius: int) -> Tensor:
    """The shapes, `(6, 2 r + 3, 2 r + 3)` bool with nothing at the edges: disk, square, diamond, triangle, ring, cross."""
    y, x = torch.meshgrid(*[torch.arange(-radius - 1, radius + 2)] * 2, indexing="ij")
    far, near, length = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs()), x**2 + y**2
    disk = length <= radius**2 + 1
    found = [
        disk,
        far <= round(0.85 * radius),
        x.abs() + y.abs() <= radius,
        (2 * x.abs() <= y + radius) & (y <= radius),
        disk & (4 * length > radius**2),
        (far <= radius) & (3 * near <= radius),
    ]
    return torch.stack(found) & (far <= radius)


@dataclass(frozen=True)
class Layout:
    """Where things are in a picture of `size` pixels.

    Attributes:
        size: Of a side.
    """

    size: int

    @property
    def side(self) -> int:
        """Of a place: a third of what lies two pixels or more from the frame."""
        return (self.size - 4) // 3

    @property
    def jitter(self) -> int:
        """How far a thing may be from the middle of its place."""
        return self.size // 32

    @property
    def margin(self) -> int:
        """By how much masks are dilated: 5 x 5 pixels in 256, at least 3 x 3."""
        return max(1, round(self.size / 128))

    @property
    def radius(self) -> int:
        """Of a thing: as large as leaves dilated masks of neighbours apart."""
        return (self.side - 1 - 2 * self.jitter - 2 * self.margin) // 2

    @property
    def middles(self) -> Tensor:
        """Of all places, `(9, 2)`: those of the parts, then the free ones."""
        return torch.tensor([*SLOTS, *FREE]) * self.side + self.side // 2 + (self.size - 3 * self.side) // 2


def look(part: int, which: int) -> tuple[int, int]:
    """The shape and the colour of one of a part's two looks; one of the two is light and the other dark."""
    light = (part + which) % 2 == 0
    return (part + 3 * which) % SHAPES, (LIGHT if light else DARK)[part]


def saturates(part: int, which: int) -> bool:
    """Whether half of a look says most of what the whole says: of one of a part's two looks."""
    return (part // 2 + which) % 2 == 0


def worth() -> Tensor:
    """What each part is worth to each class, `(6, 6)`."""
    table = torch.tensor(WORTH, dtype=torch.float64)
    return table * (1 + STEP * torch.arange(len(table)))[:, None]


# -- the network -------------------------------------------------------------------------------------------------------


class PartNetwork(nn.Module):
    """Colours, what of them is around, how much of each part is there, and classes: with weights that are written down.

    `colours` has a channel for every colour, 1 where it is seen and 0 on every other colour, grey, black and white. Their
    map is halved, and `parts` blurs it. The mean of a channel is the amount of its colour. `shares` has every colour twice:
    which share of the part is there, and by how much that is more than a half. `classes` adds them up: a part that is all
    there adds its worth, half of it a half, or nine tenths where the look saturates. There the gradient is a fifth of what it
    is elsewhere, and no measure of the part. Colours that no part has are seen, and count for no class.

    Args:
        size: Of the pictures; the parts' areas follow from it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        seen = len(palette())
        self.colours = skip_init(nn.Conv2d, 3, seen, 1)
        self.first = nn.ReLU()
        self.halve = nn.AvgPool2d(2)
        self.parts = skip_init(nn.Conv2d, seen, seen, 3, padding=1)
        self.second = nn.ReLU()
        self.amount = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.shares = skip_init(nn.Linear, seen, 2 * seen)
        self.third = nn.ReLU()
        self.classes = skip_init(nn.Linear, 2 * seen, len(LOOKS) + 1)
        areas = stamps(Layout(size).radius).sum((1, 2)) / (4 * (size // 2) ** 2)  # of the halved map
        blur = torch.tensor([1.0, 2.0, 1.0]) / 4
        with torch.no_grad():
            self.colours.weight.copy_(palette()[:, :, None, None] / (1 - LEAST))
            self.colours.bias.fill_(-LEAST / (1 - LEAST))
            self.parts.weight.copy_(torch.eye(seen)[:, :, None, None] * torch.outer(blur, blur))
            self.parts.bias.zero_()
            self.shares.weight.zero_()
            self.shares.bias.copy_(torch.tensor([0.0, -HALF]).repeat_interleave(seen))
            self.classes.weight.zero_()
            self.classes.bias.zero_()
            self.classes.bias[-1] = NOBODY
            for k, (looks, values) in enumerate(zip(LOOKS, worth().tolist(), strict=True)):
                for part, (which, value) in enumerate(zip(looks, values, strict=True)):
                    shape, colour = look(part, which)
                    rise, rest = (RISE, REST) if saturates(part, which) else (1.0, 1.0)
                    self.shares.weight[[colour, seen + colour], colour] = 1 / areas[shape]
                    self.classes.weight[k, colour], self.classes.weight[k, seen + colour] = (
                        value * rise,
                        value * (rest - rise),
                    )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)`, as distance from grey, to `(N, 7)`."""
        x = self.second(self.parts(self.halve(self.first(self.colours(x)))))
        out: Tensor = self.classes(self.third(self.shares(self.flat(self.amount(x)))))
        return out


def wrapped(network: Network, batch_size: int | None = None) -> Model:
    """The network on pictures in [0, 1]."""
    return Model(network, mean=GREY, std=REACH, batch_size=batch_size)


# -- the pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PartScenes:
    """Pictures of a figure on a background, beside things that belong to nobody, and a network whose every reason is known.

    The first six of the M things are the figure's parts (`PartScenes.names`); the others are distractors. U pictures.

    Attributes:
        images: `(U, 3, S, S)` in [0, 1].
        masks: `(U, M, S, S)` bool, where each thing is.
        labels: `(U,)`, the class that the figure has, and the network names.
        rivals: `(U, 2)`, two other classes: each of the parts looks as the one has it or as the other has it, never both.
        contributions: `(U, M, 7)` float64, what each thing adds to each class's logit; the last class is that of no figure.
        model: The network, on pictures in [0, 1].
        background: `(U, 3, S, S)`, what is behind.
        colours: `(U, M, 3)`, of the things.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    rivals: Tensor
    contributions: Tensor
    model: Model
    background: Tensor
    colours: Tensor

    names: ClassVar[tuple[str, ...]] = PARTS

    def render(self, keep: Tensor) -> Tensor:
        """The pictures with some things alone, `(U, 3, S, S)`: where the others were, the background shows.

        Args:
            keep: `(M,)` or `(U, M)` bool.
        """
        there = self.masks & keep.to(self.masks.device).expand(self.masks.shape[:2])[:, :, None, None]
        rows = torch.arange(len(there), device=there.device)[:, None, None]
        painted = self.colours[rows, there.byte().argmax(1)].permute(0, 3, 1, 2)
        return torch.where(there.any(1, keepdim=True), painted, self.background)

    def outputs(self, keep: Tensor) -> Tensor:
        """The logits of every picture with the same things kept, `(U, K, 7)` float64 on the CPU.

        Args:
            keep: `(K, M)` bool.
        """
        found = []
        for some in keep.split(max(1, BLOCK // len(self.images))):
            painted = torch.cat([self.render(one) for one in some])
            found.append(self.model.outputs(painted).cpu().double().unflatten(0, (len(some), -1)))
        return torch.cat(found).transpose(0, 1)

    @cached_property
    def drops(self) -> Tensor:
        """What the label's logit loses when each thing is taken away, `(U, M)` float64 on the CPU: rendered and measured."""
        without = self.outputs(~torch.eye(self.masks.shape[1], dtype=torch.bool))
        return self.logits[:, None] - without[torch.arange(len(self.images)), :, self.labels.cpu()]

    @cached_property
    def logits(self) -> Tensor:
        """The label's, `(U,)` float64 on the CPU."""
        everything = torch.ones(1, self.masks.shape[1], dtype=torch.bool)
        return self.outputs(everything)[torch.arange(len(self.images)), 0, self.labels.cpu()]

    def shared(self, classes: Tensor) -> Tensor:
        """Which parts look as a class has them, `(U, 6)` bool on the CPU.

        Args:
            classes: `(U,)`, one for each picture.
        """
        looks = torch.tensor(LOOKS)
        return looks[self.labels.cpu()] == looks[classes.cpu()]

    @cached_property
    def kept(self) -> Tensor:
        """Whether the label is still named with some parts alone, `(U, 64)` bool: bit p of a column's number is part p."""
        keep = functional.pad(subsets(), (0, self.masks.shape[1] - len(PARTS)), value=True)
        return self.outputs(keep).argmax(2) == self.labels.cpu()[:, None]

    @cached_property
    def around(self) -> Tensor:
        """The masks, dilated as part importances need it, `(U, M, S, S)` bool."""
        margin = Layout(self.images.shape[-1]).margin
        return functional.max_pool2d(self.masks.float(), 2 * margin + 1, 1, margin) > 0


def subsets() -> Tensor:
    """All sets of parts, `(64, 6)` bool: bit p of a row's number is part p."""
    return (torch.arange(2 ** len(PARTS))[:, None] >> torch.arange(len(PARTS))) % 2 == 1


def part_scenes(
    pictures: int = 64, *, size: int = 64, distractors: int = 3, seed: int = 0, device: torch.device | str = "cpu"
) -> PartScenes:
    """Pictures of a figure with six parts, in six classes, and the network that tells them apart.

    A part has two looks, each with a shape and a colour of its own, and a class says which look each part has. The parts
    have their places, a few pixels to and fro, on a background of dull colours; in up to three other places there is
    something of another colour, which no class asks for. The logit of a class is the sum of what those parts are worth to it
    that look as it has them: one of the six is worth nothing, the others about 1 to 5. Half of a part is worth half as much
    or, for every second look, almost as much as the whole.

    Args:
        pictures: U.
        size: Of a side, at least 40.
        distractors: How many, up to 3.
        seed: Picture n depends on the seed and n alone.
        device: Where pictures and network are.

    Example:
        >>> from attriscope import attribution, metrics
        >>> scenes = part_scenes(4)
        >>> bool((scenes.model.outputs(scenes.images).argmax(1) == scenes.labels).all())
        True
        >>> scenes.drops[0, :6].round().tolist()  # without head, left hand, body, right hand, left and right foot
        [3.0, 1.0, 2.0, 0.0, 4.0, 5.0]
        >>> counts = (scenes.masks & (scenes.drops > 0.5)[:, :, None, None]).any(1)
        >>> method = attribution.create("integrated_gradients", scenes.model)
        >>> maps = method.attribute(scenes.images, scenes.labels)
        >>> game = metrics.create("pointing_game")
        >>> game.score(scenes.model, scenes.images, maps, scenes.labels, annotations={"mask": counts}).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    layout, classes, things = Layout(size), len(LOOKS), len(PARTS) + distractors
    drawn = uniforms(seed, pictures, 1 + 2 * len(SLOTS + FREE) + 3 * len(FREE), stream=STREAM)
    other, wobble, free = drawn.split([1, 2 * len(SLOTS + FREE), 3 * len(FREE)], 1)
    rounds = uniforms(seed, -(-pictures // classes), classes, stream=STREAM + 3)
    labels = rounds.argsort(dim=1, stable=True).flatten()[:pictures]  # six pictures have all six classes
    first = 2 * ((labels // 2 + 1 + _pick(other[:, 0], classes // 2 - 1)) % (classes // 2))

    table = torch.tensor([[look(part, which) for part, which in enumerate(looks)] for looks in LOOKS])
    order, hue, form = free.unflatten(1, (3, -1)).unbind(1)
    shapes = torch.cat([table[labels, :, 0], _pick(form, SHAPES)], 1)
    colours = torch.cat([table[labels, :, 1], torch.tensor(OTHERS)[_pick(hue, len(OTHERS))]], 1)

    middles = layout.middles.expand(pictures, -1, -1).clone()
    taken = (order.argsort(dim=1, stable=True) + len(SLOTS))[:, :, None].expand(-1, -1, 2)
    middles[:, len(SLOTS) :] = middles.gather(1, taken)
    middles += _pick(wobble.unflatten(1, (-1, 2)), 2 * layout.jitter + 1) - layout.jitter
    away = torch.arange(size) - middles[:, :things, :, None]
    down, across = (away.clamp(-layout.radius - 1, layout.radius + 1) + layout.radius + 1).unbind(2)
    masks = stamps(layout.radius)[shapes[:, :things, None, None], down[:, :, :, None], across[:, :, None, :]]

    looks = torch.tensor(LOOKS)
    contributions = torch.zeros(pictures, things, classes + 1, dtype=torch.float64)
    contributions[:, : len(PARTS), :classes] = ((looks[labels][:, None] == looks) * worth()).transpose(1, 2)

    made = PartScenes(
        images=torch.empty(0),
        masks=masks.to(device),
        labels=labels.to(device),
        rivals=torch.stack([first, first + 1], 1).to(device),
        contributions=contributions,
        model=wrapped(PartNetwork(size).eval().to(device)),
        background=_background(pictures, size, seed).to(device),
        colours=(GREY + REACH * palette()[colours[:, :things]]).to(device),
    )
    object.__setattr__(made, "images", made.render(torch.ones(things, dtype=torch.bool)))
    return made


def _pick(drawn: Tensor, among: int) -> Tensor:
    """Uniforms as whole numbers below `among`."""
    return (drawn.double() * among).long()


def _background(pictures: int, size: int, seed: int) -> Tensor:
    """Dull clouds with some grain, `(U, 3, S, S)`: no further from grey than 0.17 in any channel, where nothing is seen."""
    clouds = uniforms(seed, pictures, 3 * 5 * 5, stream=STREAM + 1).reshape(-1, 3, 5, 5)
    clouds = functional.interpolate(clouds, (size, size), mode="bilinear", align_corners=True)
    grain = uniforms(seed, pictures, 3 * size * size, stream=STREAM + 2).reshape(-1, 3, size, size)
    return GREY + 0.24 * (clouds - 0.5) + 0.1 * (grain - 0.5)


@lru_cache(maxsize=4)
def _made(pictures: int, size: int, distractors: int, seed: int, device: str) -> PartScenes:
    """The same scenes for all methods: what is rendered of them is rendered once."""
    return part_scenes(pictures, size=size, distractors=distractors, seed=seed, device=device)


# -- what the metrics share --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importance:
    """What maps say of the things in pictures.

    Attributes:
        things: `(U, M)` float64 on the CPU, what the map adds up to over each thing and its margin, with signs.
        total: `(U,)`, over the whole picture.
        size: `(U,)`, over the whole picture without signs.
    """

    things: Tensor
    total: Tensor
    size: Tensor

    @property
    def rounding(self) -> Tensor:
        """What of a sum may be rounding, `(U,)`."""
        return SMALL * self.size


def importance(maps: Tensor, around: Tensor) -> Importance:
    """Add maps up over the things.

    Args:
        maps: `(U, H, W)`.
        around: `(U, M, H, W)` bool, masks with their margins.

    Example:
        >>> found = importance(torch.tensor([[[1.0, 2.0, -4.0]]]), torch.tensor([[[[True, True, False]]]]))
        >>> found.things.tolist(), found.total.tolist()
        ([[3.0]], [-1.0])
    """
    flat, where = wide(maps).flatten(1), around.flatten(2)
    things = torch.einsum("us,ums->um", flat, where.to(flat))
    return Importance(things.cpu().double(), flat.sum(1).cpu().double(), flat.abs().sum(1).cpu().double())


class Parts(Known):
    """Runs a method on pictures of a figure whose parts' worth is known; `metrics.part_scenes` makes them.

    Args:
        pictures: U, of six classes. Every second one is in the same half.
        size: Of a side, in pixels.
        distractors: Things in each picture that no class asks for, up to 3.
        seed: Of the pictures.
    """

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    small: ClassVar[dict[str, Any]] = {"pictures": 6, "size": 40}

    pictures: Count = 64
    size: Size = 64
    distractors: Distractors = 3
    seed: Seed = 0

    @property
    def explanations(self) -> int:
        """The label's."""
        return 1

    def scenes(self, attributor: Attributor) -> PartScenes:
        """The pictures, on the method's device."""
        device = attributor.model.device or torch.device("cpu")
        return _made(self.pictures, self.size, self.distractors, self.seed, str(device))

    def explained(self, attributor: Attributor, scenes: PartScenes, targets: Tensor) -> Importance:
        """What the method says of every picture, all in one call.

        Args:
            attributor: The method, on whatever model.
            scenes: The pictures.
            targets: `(U,)`, or `(K U,)` for K classes of each, one round of all pictures after the other.

        Raises:
            ValueError: The method does not run on the network, or its maps are not of the pictures' size.
        """
        rounds = len(targets) // len(scenes.images)
        images = scenes.images.repeat(rounds, 1, 1, 1)
        model = wrapped(scenes.model.network, attributor.model.batch_size)
        maps = self.maps(attributor, model, images, targets)
        return importance(maps, scenes.around.repeat(rounds, 1, 1, 1))

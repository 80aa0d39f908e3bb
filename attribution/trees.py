"""Binary trees of regions: an image halved again and again, along its own edges or along its axes."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import regions
from .model import Model

Kind = Literal["bpt", "axis"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

__all__ = ["Kind", "Tree", "arrange", "halve", "make", "merge"]


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree over the regions of a label map, which are its leaves.

    Leaves are numbered in the order of the tree, so that a node is the labels from `spans[node, 0]` up to, and without,
    `spans[node, 1]`. Nodes are numbered from the root, 0, depth first: a node comes before its children.

    Attributes:
        labels: `LongTensor (H, W)`, or `(F,)`, `(T,)`: the leaf of each pixel, column or token.
        children: `(nodes, 2)`, -1 for those of a leaf.
        spans: `(nodes, 2)`.
        areas: `(leaves,)`: pixels, columns or tokens of each leaf.

    Example:
        >>> tree = halve(1, 3)
        >>> tree.spans.tolist(), tree.children.tolist()
        ([[0, 3], [0, 1], [1, 3], [1, 2], [2, 3]], [[1, 2], [-1, -1], [3, 4], [-1, -1], [-1, -1]])
    """

    labels: Tensor
    children: Ints
    spans: Ints
    areas: Ints


def make(kind: Kind, inputs: Tensor, model: Model, *, leaves: int = 2048) -> list[Tree]:
    """A tree for each input.

    Args:
        kind: `"bpt"`, which follows the image's edges (see `merge`), or `"axis"`, which halves rectangles (see `halve`).
            Tables and tokens have no edges: both halve the order of columns or tokens.
        inputs: `(N, C, H, W)` in the model's bounds, `(N, F)` or `(N, T, D)`.
        model: Knows the bounds, so that colours are compared on one scale.
        leaves: The most leaves of a tree. Up to so many pixels, each is a leaf; else those of `"bpt"` are superpixels.

    Raises:
        ValueError: An unknown kind, or no leaves.

    Example:
        >>> images = torch.rand(2, 3, 6, 8)
        >>> [len(tree.areas) for tree in make("bpt", images, Model(torch.nn.Flatten()))]
        [48, 48]
    """
    if kind not in {"bpt", "axis"}:
        raise ValueError(f"tree={kind!r}: choose 'bpt' or 'axis'")
    if leaves < 1:
        raise ValueError(f"leaves={leaves}: a tree has at least one leaf")
    if inputs.ndim != 4:
        tree = halve(1, inputs.shape[1], leaves)
        return [Tree(tree.labels[0], tree.children, tree.spans, tree.areas)] * len(inputs)
    if kind == "axis":
        return [halve(inputs.shape[2], inputs.shape[3], leaves)] * len(inputs)
    return [_of_image(regions.Picture(image), leaves) for image in regions.unit_range(inputs, model).cpu()]


@lru_cache(maxsize=64)
def _of_image(image: regions.Picture, leaves: int) -> Tree:
    """The binary partition tree of one image; kept, since several methods cut the same image the same way."""
    from skimage.color import rgb2lab

    pixels = image.pixels
    height, width, channels = pixels.shape
    if height * width <= leaves:
        labels = np.arange(height * width).reshape(height, width)
    else:
        labels = regions.superpixels("slic", image, leaves).numpy()
    image.pixels = None
    # in steps of eight bits, one of which `merge` adds to every range
    colours = rgb2lab(pixels) * [255 / 100, 255 / 256, 255 / 256] if channels == 3 else pixels * 255.0
    return merge(labels, colours.astype(np.float64))


def merge(labels: Ints, colours: Floats) -> Tree:
    r"""The binary partition tree of an image: the two neighbours that are most alike are joined, until one is left.

    Of all neighbouring regions, touching at a corner or more, those are joined whose union U has the least

    .. math:: |U| \sqrt{\mathrm{perimeter}(U)} \sum_c \Bigl(1 + \max_U x_c - \min_U x_c\Bigr)^2

    and among equals those with the smallest leaf. Small, round, even regions come first, so that large contrasts are
    what is left for the top of the tree.

    Args:
        labels: `(H, W)`, connected regions, numbered without gaps; they become the leaves.
        colours: `(H, W, C)`, in steps of eight bits.

    Example:
        >>> tree = merge(np.array([[0, 1, 2]]), np.array([[[0.0], [90.0], [100.0]]]))
        >>> tree.spans.tolist()
        [[0, 3], [0, 1], [1, 3], [1, 2], [2, 3]]
    """
    number = int(labels.max()) + 1
    low, high, area, perimeter, pairs, lengths = _regions(labels, colours)
    neighbours: list[dict[int, float]] = [{} for _ in range(2 * number - 1)]
    for (a, b), length in zip(pairs.tolist(), lengths.tolist(), strict=True):
        neighbours[a][b] = neighbours[b][a] = length

    def dissimilar(a: Any, b: Any, length: Any) -> Floats:
        ranges = np.maximum(high[a], high[b]) - np.minimum(low[a], low[b]) + 1
        scores: Floats = (ranges**2).sum(1) * (area[a] + area[b]) * np.sqrt(perimeter[a] + perimeter[b] - 2 * length)
        return scores

    scores = dissimilar(pairs[:, 0], pairs[:, 1], lengths)
    first = [*range(number), *([0] * (number - 1))]  # the smallest leaf of each region
    heap = [(s, a, b, a, b) for s, (a, b) in zip(scores.tolist(), pairs.tolist(), strict=True)]
    heapq.heapify(heap)
    alive = [True] * (2 * number - 1)
    children: list[tuple[int, int] | None] = [None] * number
    for new in range(number, 2 * number - 1):
        while True:  # pairs of which one was joined to something else meanwhile are left in the heap
            *_, a, b = heapq.heappop(heap)
            if alive[a] and alive[b]:
                break
        alive[a] = alive[b] = False
        children.append((a, b))
        first[new] = first[a]
        area[new] = area[a] + area[b]
        perimeter[new] = perimeter[a] + perimeter[b] - 2 * neighbours[a][b]
        low[new], high[new] = np.minimum(low[a], low[b]), np.maximum(high[a], high[b])
        around = neighbours[new]
        for old in (a, b):
            for other, length in neighbours[old].items():
                if alive[other]:
                    del neighbours[other][old]
                    around[other] = around.get(other, 0.0) + length
            neighbours[old] = {}
        if not around:
            continue
        others = list(around)
        for other in others:
            neighbours[other][new] = around[other]
        scores = dissimilar(others, [new] * len(others), np.fromiter(around.values(), float, len(others)))
        for other, score in zip(others, scores.tolist(), strict=True):
            x, y = (new, other) if first[new] < first[other] else (other, new)
            heapq.heappush(heap, (score, first[x], first[y], x, y))
    return arrange(children, 2 * number - 2, labels)


def _regions(labels: Ints, colours: Floats) -> tuple[Floats, Floats, Floats, Floats, Ints, Floats]:
    """What merging needs to know: ranges, areas and perimeters, with room for every union, and the neighbours.

    Returns:
        `low`, `high` `(nodes, C)`, `area`, `perimeter` `(nodes,)`; `pairs` `(P, 2)`, the smaller label first, and the
        length of the edge that they share: 0 for those that only touch at a corner.
    """
    number = int(labels.max()) + 1
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(number))
    sorted_colours = colours.reshape(flat.size, -1)[order]
    room = np.zeros((number - 1, sorted_colours.shape[1]))
    low = np.concatenate([np.minimum.reduceat(sorted_colours, starts), room])
    high = np.concatenate([np.maximum.reduceat(sorted_colours, starts), room])
    area = np.concatenate([np.bincount(flat, minlength=number).astype(float), room[:, 0]])
    touching = [
        (labels[:-1], labels[1:], 1.0),
        (labels[:, :-1], labels[:, 1:], 1.0),
        (labels[:-1, :-1], labels[1:, 1:], 0.0),
        (labels[:-1, 1:], labels[1:, :-1], 0.0),
    ]
    codes, shared = [], []
    perimeter = 4 * area
    for one, other, length in touching:
        a, b = one.ravel(), other.ravel()
        inside = a == b
        perimeter[:number] -= 2 * length * np.bincount(a[inside], minlength=number)
        a, b = a[~inside], b[~inside]
        codes.append(np.minimum(a, b) * number + np.maximum(a, b))
        shared.append(np.full(len(a), length))
    pair, where = np.unique(np.concatenate(codes), return_inverse=True)
    lengths: Floats = np.bincount(where, weights=np.concatenate(shared), minlength=len(pair)).astype(np.float64)
    return low, high, area, perimeter, np.stack([pair // number, pair % number], 1), lengths


@lru_cache(maxsize=64)
def halve(height: int, width: int, leaves: int = 2048) -> Tree:
    """The tree that halves a rectangle's longer side, rows where both are equal, down to pixels or to so many leaves.

    An odd side's first half is the smaller one. The largest rectangles are halved first.

    Example:
        >>> halve(2, 3).labels.tolist()
        [[0, 2, 3], [1, 4, 5]]
    """
    boxes = [(0, height, 0, width)]
    children: list[tuple[int, int] | None] = [None]
    heap = [(-height * width, 0)]
    for _ in range(min(leaves, height * width) - 1):
        node = heapq.heappop(heap)[1]
        top, bottom, left, right = boxes[node]
        y, x = (top + bottom) // 2, (left + right) // 2
        if bottom - top >= right - left:
            halves = (top, y, left, right), (y, bottom, left, right)
        else:
            halves = (top, bottom, left, x), (top, bottom, x, right)
        children[node] = len(boxes), len(boxes) + 1
        for box in halves:
            heapq.heappush(heap, (-(box[1] - box[0]) * (box[3] - box[2]), len(boxes)))
            boxes.append(box)
            children.append(None)
    labels = np.zeros((height, width), np.int64)
    for node, (top, bottom, left, right) in enumerate(boxes):  # a child comes after its parent and overwrites it
        labels[top:bottom, left:right] = node
    return arrange(children, 0, labels)


def arrange(children: Sequence[tuple[int, int] | None], root: int, labels: Ints) -> Tree:
    """A `Tree` of nodes that are numbered in any way.

    Args:
        children: The two children of every node, `None` for those of a leaf.
        root: The node that has no parent.
        labels: Which leaf, by its node's number, each pixel is in; `(H, W)`, `(F,)` or `(T,)`.

    Example:
        >>> tree = arrange([None, None, None, (0, 2), (3, 1)], 4, np.array([0, 1, 1, 2]))
        >>> tree.labels.tolist(), tree.areas.tolist(), tree.spans.tolist()
        ([0, 2, 2, 1], [1, 1, 2], [[0, 3], [0, 2], [0, 1], [1, 2], [2, 3]])
    """
    order: list[int] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        order.append(node)
        below = children[node]
        if below is not None:
            waiting += [below[1], below[0]]
    place = np.zeros(len(children), np.int64)
    place[order] = np.arange(len(order))
    found = np.full((len(order), 2), -1, np.int64)
    spans = np.zeros((len(order), 2), np.int64)
    leaf_of = np.zeros(len(children), np.int64)
    leaves = 0
    for at, node in enumerate(order):
        below = children[node]
        if below is None:
            spans[at] = leaves, leaves + 1
            leaf_of[node] = leaves
            leaves += 1
        else:
            found[at] = place[list(below)]
    for at in range(len(order) - 1, -1, -1):
        if found[at, 0] >= 0:
            spans[at] = spans[found[at, 0], 0], spans[found[at, 1], 1]
    numbered = leaf_of[labels]
    return Tree(torch.from_numpy(numbered), found, spans, np.bincount(numbered.ravel(), minlength=leaves))

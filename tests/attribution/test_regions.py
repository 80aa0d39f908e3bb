"""Label maps."""

import numpy as np
import pytest
import torch
from attriscope.attribution import regions
from attriscope.attribution.model import Model
from torch import nn

MODEL = Model(nn.Flatten())


def patches(n=1, height=24, width=30):
    """Images of four flat quarters: superpixels have something to find."""
    x = torch.zeros(n, 3, height, width)
    for i, colour in enumerate([(0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (0.9, 0.9, 0.1)]):
        r, c = divmod(i, 2)
        x[:, :, r * height // 2 : (r + 1) * height // 2, c * width // 2 : (c + 1) * width // 2] = torch.tensor(colour)[
            :, None, None
        ]
    return (x + 0.02 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def gapless(labels):
    return all(one.unique().tolist() == list(range(int(one.max()) + 1)) for one in labels)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(8, 8, 2, 2), (7, 11, 3, 4), (5, 5, 5, 5), (3, 9, 7, 7), (1, 1, 4, 4)]
)
def test_a_grid_is_even_and_numbered_row_by_row(height, width, rows, columns):
    found = regions.grid(height, width, rows, columns)
    rows, columns = min(rows, height), min(columns, width)
    assert found.shape == (1, height, width)
    assert found.dtype == torch.int64
    naive = torch.tensor(
        [[[(y * rows // height) * columns + x * columns // width for x in range(width)] for y in range(height)]]
    )
    assert torch.equal(found, naive)
    assert int(found.max()) == rows * columns - 1
    assert gapless(found)
    sizes = [len(set(map(tuple, (found[0] == k).nonzero()[:, :1].tolist()))) for k in range(rows * columns)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("wanted", "cells"), [(1, 1), (3, 3), (4, 4), (5, 4), (8, 8), (49, 49), (50, 49), (56, 56), (64, 64)]
)
def test_the_grid_has_at_most_so_many_cells(wanted, cells):
    found = regions.make("grid", torch.rand(2, 3, 40, 44), MODEL, n_regions=wanted)
    assert found.shape == (2, 40, 44)
    assert int(found.max()) + 1 == cells


@pytest.mark.parametrize("name", ["slic", "felzenszwalb"])
@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_have_no_gaps_and_follow_edges(name, channels):
    x = patches(2)[:, :channels]
    x = x + torch.tensor([0.0, 0.01]).reshape(2, 1, 1, 1)
    x = x.clamp(0, 1)
    found = regions.make(name, x, MODEL, n_regions=8)
    assert found.shape == (2, 24, 30)
    assert found.dtype == torch.int64
    assert gapless(found)
    assert 2 <= int(found.max()) + 1 <= 24
    quarter = regions.grid(24, 30, 2, 2)[0]
    if channels == 1:
        return  # grey superpixels are compact above all
    mixed = sum(len(quarter[found[0] == k].unique()) > 1 for k in range(int(found[0].max()) + 1))
    assert mixed <= (int(found[0].max()) + 1) // 2  # most superpixels lie in one quarter


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), None])
@pytest.mark.parametrize("name", ["slic", "felzenszwalb"])
def test_superpixels_do_not_depend_on_the_images_beside(name, bounds):
    """Without bounds too: the range of colours must be the image's own."""
    model = Model(nn.Flatten(), bounds=bounds)
    scale = 1.0 if bounds is None else bounds[1]
    first = patches() * scale * (0.2 if bounds is None else 1)
    other = torch.rand(1, 3, 24, 30, generator=torch.Generator().manual_seed(1)) * scale * (40 if bounds is None else 1)
    alone = regions.make(name, first, model, n_regions=8)
    beside = regions.make(name, torch.cat([first, other]), model, n_regions=8)
    assert torch.equal(alone[0], beside[0])


def test_a_flat_image_is_taken():
    for name in ("slic", "felzenszwalb"):
        assert gapless(regions.make(name, torch.full((1, 3, 16, 16), 0.5), MODEL, n_regions=4))
        assert gapless(
            regions.make(name, torch.full((1, 3, 16, 16), 0.5), Model(nn.Flatten(), bounds=None), n_regions=4)
        )


def test_own_label_maps_are_numbered_anew():
    own = torch.tensor([[5, 5, -3], [9, -3, 9]])
    x = torch.rand(2, 3, 2, 3)
    found = regions.make(own, x, MODEL)
    assert found.shape == (2, 2, 3)
    assert found[0].tolist() == [[1, 1, 0], [2, 0, 2]]
    assert torch.equal(found[0], found[1])
    two = regions.make(torch.stack([own, own * 0 + 7]), x, MODEL)
    assert two[1].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert regions.make(own.to(torch.uint8), x, MODEL).dtype == torch.int64
    called = regions.make(lambda images: own.expand(len(images), -1, -1), x, MODEL)
    assert torch.equal(called, found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("voronoi", "choose one of"),
        (torch.zeros(3, 3), "whole numbers"),
        (torch.zeros(4, 4, dtype=torch.long), "does not fit"),
        (torch.zeros(3, 2, 3, dtype=torch.long), "does not fit"),
        (lambda x: x[:, 0], "whole numbers"),
        (lambda x: None, "tensor"),
    ],
    ids=["name", "float", "size", "number", "float_callable", "none"],
)
def test_wrong_regions_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        regions.make(wrong, torch.rand(2, 3, 2, 3), MODEL)


def test_no_regions_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        regions.make("grid", torch.rand(1, 3, 4, 4), MODEL, n_regions=0)


def test_the_global_generators_are_not_touched():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    regions.make("slic", patches() * 0.9, MODEL, n_regions=6)
    assert np.array_equal(np.random.get_state()[1], state)

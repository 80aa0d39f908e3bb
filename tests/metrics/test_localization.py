"""Pointing games and shares of mass: closed forms, chance, ties, and scipy's distances."""

import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.metrics.localization.pointing_game import near
from attriscope.metrics.localization.relevance_rank_accuracy import first_inside
from scipy import ndimage
from torch import nn

NAMES = ["pointing_game", "energy_pointing_game", "relevance_rank_accuracy"]
HEIGHT, WIDTH = 11, 14
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 2))


def score(name, maps, annotations, **options):
    images = torch.zeros(len(maps), 1, *maps.shape[2:])
    metric = metrics.create(name, **options)
    return metric.score(NETWORK, images, maps, target=0, annotations=annotations, curves=True)


def masks(n=3, seed=0, share=0.1):
    return torch.rand(n, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) < share


def point(row, column):
    maps = -torch.ones(1, 1, HEIGHT, WIDTH)
    maps[0, 0, row, column] = 3
    return maps


@pytest.mark.parametrize("tolerance", [0, 0.5, 1, 1.001, 1.5, 2, 3, 5, 5.1, 13, 15, 40])
def test_near_is_scipy_s_distance(tolerance):
    some = torch.cat([masks(6, share=0.02), masks(1, seed=1, share=0.5)])
    for mask, found in zip(some, near(some, tolerance), strict=True):
        expected = (
            ndimage.distance_transform_edt(~mask.numpy()) < tolerance if mask.any() else np.zeros(mask.shape, bool)
        )
        assert np.array_equal(found.numpy(), expected | mask.numpy())


def test_a_point_hits_strictly_closer_than_the_tolerance():
    box = {"boxes": [[(0, 0, 2, 2)]]}  # its last pixel is (1, 1)
    assert score("pointing_game", point(4, 5), box, tolerance=5).scores.item() == 0  # 3-4-5
    assert score("pointing_game", point(4, 5), box, tolerance=5.01).scores.item() == 1
    assert score("pointing_game", point(1, 1), box, tolerance=0).scores.item() == 1
    assert score("pointing_game", point(1, 2), box, tolerance=1).scores.item() == 0
    assert metrics.create("pointing_game").tolerance == 15


def test_a_tie_scores_what_a_random_one_of_them_would():
    box = {"boxes": [[(0, 0, 2, 2)]]}
    maps = torch.zeros(1, 1, HEIGHT, WIDTH)
    maps[0, 0, [0, 5, 9, 10], [1, 5, 9, 10]] = 1
    found = score("pointing_game", maps, box, tolerance=0)
    assert found.scores.item() == 0.25
    assert found.details["ties"].item() == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_map_gets_its_chance(name):
    mask = masks()
    options = {"tolerance": 2} if name == "pointing_game" else {}
    found = score(name, torch.full((3, 1, HEIGHT, WIDTH), 0.7), {"mask": mask}, **options)
    torch.testing.assert_close(found.scores, found.details["chance"])
    area = (near(mask, 2) if name == "pointing_game" else mask).double().mean((1, 2))
    torch.testing.assert_close(found.details["chance"], area)


@pytest.mark.parametrize("name", NAMES)
def test_noise_gets_chance_in_the_mean(name):
    mask = masks(1, share=0.3).expand(2000, -1, -1)
    maps = torch.rand(2000, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    options = {"tolerance": 0} if name == "pointing_game" else {}
    found = score(name, maps, {"mask": mask}, **options)
    error = found.scores.std() / 2000**0.5
    assert abs(found.scores.mean() - found.details["chance"][0]) < 4 * error


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_as_a_map_is_perfect_and_its_opposite_gets_nothing(name):
    mask = masks()
    options = {"tolerance": 0} if name == "pointing_game" else {}
    assert score(name, mask[:, None].float(), {"mask": mask}, **options).scores.tolist() == [1, 1, 1]
    assert score(name, 1 - mask[:, None].float(), {"mask": mask}, **options).scores.tolist() == [0, 0, 0]


def test_energy_is_the_positive_mass_on_the_object_over_all_of_it():
    maps = torch.randn(3, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    mask = masks()
    positive = maps[:, 0].clamp_min(0).double()
    expected = (positive * mask).sum((1, 2)) / positive.sum((1, 2))
    found = score("energy_pointing_game", maps, {"mask": mask})
    torch.testing.assert_close(found.scores, expected)
    torch.testing.assert_close(found.details["ratio"], expected / mask.double().mean((1, 2)))
    assert metrics.create("relevance_mass_accuracy") == metrics.create("energy_pointing_game")
    for factor in (2.0**-90, 2.0**90):  # powers of two: no rounding
        assert torch.equal(score("energy_pointing_game", factor * maps, {"mask": mask}).scores, found.scores)


def test_no_positive_mass_is_undefined():
    mask = masks()
    maps = -torch.rand(3, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    maps[0] = 1
    with pytest.warns(RuntimeWarning, match="2 of 3 maps.*no value of the map is positive"):
        found = score("energy_pointing_game", maps, {"mask": mask})
    assert found.scores.isnan().tolist() == [False, True, True]


def test_rank_accuracy_counts_the_first_pixels_as_a_sort_does():
    maps = torch.rand(3, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(6))
    mask = masks(share=0.3)
    expected = []
    for one, own in zip(maps.flatten(1), mask.flatten(1), strict=True):
        k = int(own.sum())
        expected.append(own[one.argsort(descending=True)[:k]].double().mean().item())
    assert score("relevance_rank_accuracy", maps, {"mask": mask}).scores.tolist() == pytest.approx(expected, abs=1e-15)


def test_ties_at_the_last_place_share_it():
    """Two places; one is taken by a pixel outside, three pixels tie for the other, one of them inside: 1/3 of 1, of 2."""
    mask = torch.tensor([[[True, False, True, False, False]]])
    assert first_inside(torch.tensor([[[1.0, 5.0, 0.0, 1.0, 1.0]]]), mask).item() == pytest.approx(1 / 6)


@pytest.mark.parametrize("name", NAMES)
def test_an_object_that_fills_the_image_is_found_by_all(name):
    maps = masks(seed=8)[:, None] + 0.5
    assert score(name, maps, {"mask": torch.ones(3, HEIGHT, WIDTH)}).scores.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_mask_is_undefined_and_counted(name):
    mask = masks()
    mask[1] = False
    with pytest.warns(RuntimeWarning, match="1 of 3 maps.*no object"):
        found = score(name, masks(seed=8)[:, None] + 0.5, {"mask": mask})
    assert found.scores.isnan().tolist() == [False, True, False]
    assert found.details["chance"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_masks_and_without_either_nothing_is_scored(name):
    maps = torch.rand(1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 2:5, 3:9] = True
    boxes = score(name, maps, {"boxes": [[(3, 2, 9, 5)]]}).scores
    assert torch.equal(boxes, score(name, maps, {"mask": mask}).scores)
    with pytest.raises(ValueError, match="needs to know where the object is"):
        score(name, maps, None)
    metric = metrics.create(name)
    todo = metrics.metric.Evaluations(*wrapped(maps))
    with pytest.raises(ValueError, match="where the object is must be known"):
        metric.prepare(todo, maps, maps[:, 0])


def wrapped(images):
    from attriscope.attribution import Model

    model = Model(NETWORK)
    return model, model.resolve(images, 0)

"""Agreement: every pair as `similarity` has it, SciPy's clusters in another numbering, and what is undefined."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from attriscope import attribution, metrics
from attriscope.metrics import Agreement, agreement, similarity
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from torch import nn


def maps(count=5, n=3, side=14, groups=2):
    """Methods of some groups, one after the other: a group's maps are the same but for noise."""
    g = torch.Generator().manual_seed(0)
    common = torch.randn(groups, n, 1, side, side, generator=g)
    return {f"m{k}": common[k % groups] + 0.5 * torch.randn(n, 1, side, side, generator=g) for k in range(count)}


@pytest.mark.parametrize("how", ["spearman", "pearson", "ssim", "hog", "top_k"])
def test_every_pair_is_the_similarity_of_its_maps(how, monkeypatch):
    given = maps()
    options = {"absolute": True, "smooth": 0.7}
    found = agreement(given, how, **options)
    assert isinstance(found, Agreement)
    assert sorted(found.methods) == sorted(given)
    assert (found.how, found.absolute, found.smooth) == (how, True, 0.7)
    assert found.values.shape == (5, 5, 3)
    assert found.values.dtype == torch.float64
    for i, one in enumerate(found.methods):
        for j, other in enumerate(found.methods):
            expected = similarity(given[one], given[other], how, **options)
            # one of the two orders was computed: sums of the same products
            torch.testing.assert_close(found.values[i, j], expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(sys.modules[agreement.__module__], "NUMBERS", 2 * 14 * 14)  # two images at a time
    torch.testing.assert_close(agreement(given, how, **options).values, found.values, rtol=0, atol=1e-12)


def test_the_mean_is_over_images_in_the_order_of_the_clusters():
    given = maps()
    found = agreement(given)
    table = found.mean()
    assert list(table.index) == list(table.columns) == list(found.methods)
    for one in given:
        for other in given:
            expected = similarity(given[one], given[other]).mean().item()
            assert table.loc[one, other] == pytest.approx(expected, abs=1e-12)
    assert (found.counts == 0).all(axis=None)


def test_methods_with_like_maps_stand_side_by_side():
    found = agreement(maps(7, groups=3))
    groups = [int(m[1:]) % 3 for m in found.methods]
    assert sum(a != b for a, b in pairwise(groups)) == 2


def test_the_linkage_is_scipy_s_numbered_by_the_places():
    given = maps(6, groups=3)
    found = agreement(given)
    assert hierarchy.leaves_list(found.linkage).tolist() == list(range(6))
    table = found.mean()[list(given)].loc[list(given)].to_numpy()
    apart = squareform(1 - table, checks=False)
    expected = hierarchy.linkage(apart, "average", optimal_ordering=True)
    np.testing.assert_allclose(found.linkage[:, 2:], expected[:, 2:], rtol=0, atol=1e-12)
    assert [found.methods[k] for k in range(6)] == [list(given)[k] for k in hierarchy.leaves_list(expected)]
    # the same distances at which every two methods meet
    places = [found.methods.index(name) for name in given]
    met = squareform(hierarchy.cophenet(found.linkage))[np.ix_(places, places)]
    np.testing.assert_allclose(squareform(met, checks=False), hierarchy.cophenet(expected), rtol=0, atol=1e-12)


def test_constant_maps_are_left_out_of_the_mean_and_counted():
    given = maps(3)
    whole = agreement(given).mean()
    given["m1"] = given["m1"].clone()
    given["m1"][0] = 4.0
    given["flat"] = torch.zeros_like(given["m0"])
    found = agreement(given)
    table, counts = found.mean(), found.counts
    expected = similarity(given["m0"][1:], given["m1"][1:]).mean().item()
    assert table.loc["m0", "m1"] == table.loc["m1", "m0"] == pytest.approx(expected, abs=1e-12)
    assert table.loc["m0", "m2"] == pytest.approx(whole.loc["m0", "m2"], abs=1e-12)
    assert counts.loc["m1", ["m0", "m1", "m2", "flat"]].tolist() == [1, 1, 1, 3]
    assert counts.loc["m0", "m2"] == 0
    assert table.loc["flat"].isna().all()
    assert len(found.methods) == 4


def test_one_method_agrees_with_itself():
    found = agreement({"alone": torch.rand(2, 4, 4)})
    assert found.mean().to_numpy().tolist() == [[1.0]]
    assert found.linkage.shape == (0, 4)


def test_a_study_s_maps_where_a_method_failed_are_undefined():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    study = metrics.compare(
        network, x, [0, 1, 2], attributors=["gradient", "saliency", "edge"], metrics=["sparseness"], progress=False
    )
    found = agreement(study, "pearson")
    maps = {name: attribution.create(name, network).attribute(x, [0, 1, 2]) for name in study.methods}
    expected = agreement(maps, "pearson")
    # single precision of maps that were made in other batches
    np.testing.assert_allclose(found.mean(), expected.mean()[list(found.methods)].loc[list(found.methods)], atol=1e-5)
    missing = study.maps["saliency"].clone()
    missing[1] = torch.nan
    study.maps["saliency"] = missing
    found = agreement(study, "pearson")
    assert found.counts.loc["saliency"].tolist() == [1, 1, 1]
    assert found.counts.loc["edge", "gradient"] == 0


def test_what_does_not_fit_is_refused():
    given = maps(2)
    with pytest.raises(ValueError, match="no maps"):
        agreement({})
    with pytest.raises(ValueError, match=r"'m1' are .*those of 'm0'"):
        agreement({"m0": given["m0"], "m1": given["m1"][:2]})
    with pytest.raises(ValueError, match="infinite"):
        agreement({"m0": given["m0"], "m1": given["m1"] / 0})
    with pytest.raises(ValueError, match="choose one of spearman"):
        agreement(given, "mse")
    with pytest.raises(TypeError, match="floating point"):
        agreement({"m0": given["m0"].long()})

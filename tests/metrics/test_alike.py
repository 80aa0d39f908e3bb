"""Tensors as keys."""

import pytest
import torch
from attriscope.metrics.faithfulness import _alike
from attriscope.metrics.faithfulness._alike import Alike


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64, torch.float16, torch.bool])
def test_equal_values_are_one_key(dtype):
    one = torch.arange(12).reshape(3, 4).to(dtype)
    table = {Alike(one): "found"}
    assert table[Alike(one.clone())] == "found"
    assert table[Alike(one.t().contiguous().t())] == "found", "however it lies in memory"
    assert Alike(one.flip(0)) not in table or dtype == torch.bool
    assert Alike(one.reshape(4, 3)) not in table
    assert Alike(one.double() if dtype != torch.float64 else one.float()) not in table


def test_a_swap_or_a_bit_is_another_key():
    place = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    swapped = place.clone()
    swapped[[17, 4000]] = place[[4000, 17]]
    assert hash(Alike(place)) != hash(Alike(swapped))
    other = place.clone()
    other[4999] += 1
    assert hash(Alike(place)) != hash(Alike(other))
    assert Alike(place) != Alike(swapped)
    assert Alike(place) != "a string"


def test_equal_hashes_are_not_enough():
    one, other = Alike(torch.tensor([1, 2])), Alike(torch.tensor([2, 1]))
    other._hash = one._hash
    assert one != other
    assert Alike(torch.zeros(2)) == Alike(torch.zeros(2))
    assert Alike(torch.zeros(2)) != Alike(torch.zeros(2, dtype=torch.float64)), "0 is 0, but not as a network's input"


def test_blocks_of_a_large_tensor_have_places(monkeypatch):
    monkeypatch.setattr(_alike, "BLOCK", 4)
    a = torch.arange(10)
    swapped = torch.cat([a[4:8], a[:4], a[8:]])
    assert hash(Alike(a)) != hash(Alike(swapped))
    assert hash(Alike(a)) == hash(Alike(a.clone()))


def test_an_empty_tensor_is_a_key():
    assert Alike(torch.zeros(0)) == Alike(torch.zeros(0))

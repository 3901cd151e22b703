"""Packing is exact and refuses parts that do not fit together."""

from dataclasses import replace

import pytest
import torch

from penjing.errors import CheckpointError
from penjing.pruning.packing import from_description, pack, unpack


def sparse(share, shape=(40, 50), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < share, values, 0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int8])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3])
def test_what_is_packed_comes_back_bit_by_bit(dtype, share):
    tensor = sparse(share, dtype=dtype) * 3
    assert torch.equal(unpack(pack(tensor)), tensor)


def test_negative_zero_and_nan_survive():
    tensor = torch.zeros(4000)
    tensor[7], tensor[3000] = -0.0, torch.nan
    again = unpack(pack(tensor))
    assert torch.equal(again.view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize(("share", "encoding"), [(0.5, "bitmap"), (0.05, "gaps")])
def test_the_smaller_encoding_is_taken(share, encoding):
    assert pack(sparse(share)).encoding == encoding


def test_a_dense_tensor_is_not_packed():
    assert pack(torch.ones(1000)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, values=p.values[:-1]),
        lambda p: replace(p, places=p.places[:-1]),
        lambda p: replace(p, places=p.places.float()),
        lambda p: replace(p, shape=(3, 3)),
        lambda p: replace(p, shape=(-1, 5)),
        lambda p: replace(p, encoding="zip"),
        lambda p: replace(p, shape=(2**40,)),
    ],
    ids=["values", "places", "floats", "shape", "negative", "encoding", "huge"],
)
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_parts_that_do_not_fit_are_refused(change, share):
    with pytest.raises(CheckpointError):
        unpack(change(pack(sparse(share))))


def test_a_description_without_a_shape_is_no_packed_tensor():
    with pytest.raises(KeyError):
        from_description({"encoding": "gaps"}, torch.ones(1), torch.ones(1))

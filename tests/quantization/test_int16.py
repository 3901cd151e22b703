"""16-bit activations in integers: near the floats, and what has no such form is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import ExportError
from penjing.quantization.formats import rescale_wide
from penjing.quantization.integers import WIDE, softmax_scales_16, table_of_16
from penjing.quantization.lowering import integers
from penjing.quantization.reference import run


class Images(nn.Module):
    """Every kind of convolution, sums, products, functions, pools and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up, self.read = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.deep(torch.relu(self.norm(self.stem(x)))))
        y = torch.tanh(self.up(torch.sigmoid(self.gate(y)) * y + y))
        y = torch.cat([F.avg_pool2d(y, 2), F.max_pool2d(y, 2)], 1)
        return torch.softmax(self.read(F.pad(y, (1, 0, 0, 1)).mean((2, 3))), 1)


class Sequence(nn.Module):
    """Attention with a mask, norms, a stored table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 6, 8))
        self.norm, self.mix, self.back = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.read = nn.Conv1d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places
        q, k, v = self.mix(self.norm(x)).view(-1, 6, 3, 8).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.read((x + F.gelu(self.back(y))).transpose(1, 2))


def quantized(net: type[nn.Module], x: Tensor, scheme: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = net().eval()
    return model, pj.quantize(model, x[:2], calibration=[x], scheme=scheme).model.network


CASES = [(Images, (16, 3, 8, 8)), (Sequence, (16, 6, 8))]


@pytest.mark.parametrize(("net", "shape"), CASES, ids=["images", "sequence"])
def test_the_error_of_activations_all_but_vanishes_with_16_bits(
    net: type[nn.Module], shape: tuple[int, ...]
) -> None:
    """Weights keep theirs; on these networks it is less than half of that of 8 bits."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    errors = []
    for scheme in ("int8", "int8x16"):
        model, network = quantized(net, x, scheme)
        (found,) = run(integers(network), x.numpy())
        errors.append(float(np.abs(found - model(x).detach().numpy()).mean()))
    assert errors[1] < 0.5 * errors[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(x)[0])


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("net", "shape", "said"),
    [
        (Recurrent, (8, 5, 4), "gru 'gru'.*computes in floats"),
        (Volume, (8, 1, 4, 4, 4), "conv3d 'conv3d'.*has no kernel of 16-bit activations"),
    ],
    ids=["recurrent", "volume"],
)
def test_layers_without_a_form_of_16_bits_are_named_with_their_line(
    net: type[nn.Module], shape: tuple[int, ...], said: str
) -> None:
    _, network = quantized(net, torch.randn(shape), "int8x16")
    with pytest.raises(ExportError, match=said) as caught:
        integers(network)
    assert "test_int16.py:" in str(caught.value)


def test_rows_of_a_table_keep_their_range() -> None:
    """Within what weights of 8 bits lose; a table cut off at 1 loses far more."""
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)), torch.arange(20).view(4, 5)
    found = pj.quantize(model, ids, calibration=[ids], scheme="int8x16").model
    with torch.no_grad():
        assert float((found(ids) - model(ids)).abs().max()) < 0.05


def test_sums_of_48_bits_are_rounded_once() -> None:
    random = torch.Generator().manual_seed(0)
    sums = torch.randint(-(2**46), 2**46, (1000,), generator=random)
    multiplier = torch.tensor(3 << 29)  # 15 bits hold it: 0.75
    exact = [(3 * int(s) + 2**38) >> 39 for s in sums]
    assert rescale_wide(sums, multiplier, torch.tensor(-37)).tolist() == exact


@pytest.mark.parametrize("function", [np.tanh, np.exp, lambda x: x * (x > 0)])
def test_a_table_of_16_bits_is_within_its_pieces_of_the_function(function: Any) -> None:
    source, scale = 4 / 32768, np.exp(4) / 32767
    table = table_of_16(function, source, scale).astype(np.int64)
    q = np.arange(-(2 ** (WIDE - 1)), 2 ** (WIDE - 1))
    index, offset = 256 + (q >> 7), q & 127
    found = table[index] + (((table[index + 1] - table[index]) * offset + 64) >> 7)
    bend = np.exp(4) * (128 * source) ** 2 / 8 / scale  # of a line under exp, at its steepest
    assert np.abs(found - function(q * source) / scale).max() <= bend + 1.5


def test_the_softmax_tables_are_those_of_tensorflow_lite() -> None:
    """exp(-10), exp(0), 1 and 1/2 with 15 fractional bits; 1.49 is moved up by half an error."""
    _, tables = softmax_scales_16(1e-3)
    ends = [int(tables[k][i]) for k in ("exponential", "reciprocal") for i in (0, -1)]
    assert ends == [2, 32767, 32767, 16384]

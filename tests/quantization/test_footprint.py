"""What a quantized network weighs is known before it is made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.graph.capture import capture
from penjing.quantization.footprint import Footprint
from penjing.quantization.ptq import Settings, placed, prepared


class Recurrent(nn.Module):
    """Matrices with a scale per row."""

    example = (6, 8)

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.inside(x)[0][:, -1])


class Transposed(nn.Module):
    """A norm that becomes a layer, folded norms, groups with one scale, an op in floats."""

    example = (4, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.narrow = nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=2)
        self.folded, self.wide = nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 8, 3, groups=2)
        self.last = nn.Sequential(nn.ConvTranspose2d(8, 6, 3, bias=False), nn.BatchNorm2d(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.folded(self.narrow(self.alone(x).relu())).relu()
        return torch.fft.rfft(self.last(self.wide(x))).abs()


@pytest.mark.parametrize("kind", [Recurrent, Transposed])
def test_the_bytes_counted_before_are_those_of_the_network_in_integers(
    kind: type[Recurrent | Transposed],
) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(16, *kind.example)
    program = capture(model, x[:1])
    folded = prepared(program, Settings())
    footprint = Footprint(program, folded, placed(folded, Settings()))
    counted = footprint.size_bytes(program, program.shape, {}, lambda _, elements: elements)
    assert counted == pj.quantize(model, x[:1], calibration=[x]).model.network.size_bytes()

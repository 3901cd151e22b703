"""Processors that add two products of 8 bits in 16: who they are, and which layers they touch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import VerificationError
from penjing.exporters import _onnx, saturation, write_integers
from penjing.exporters.saturation import lacks_vnni, saturating, saturation_notes
from penjing.graph.capture import capture
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.scheme import Scheme
from penjing.task import Calibration

OLD = "model name : some x86\nflags\t\t: fpu sse2 ssse3 avx2 fma"
NEW = f"{OLD} avx512_vnni"
ARM = "Features : fp asimd asimddp"


def network(bits: int = 8) -> QuantizedNetwork:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(32, 8)
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 0.001, 0.001, 0.001]]))
    settings = Settings(scheme=Scheme(weight_bits=bits))
    return quantize_program(capture(net.eval(), x[:2]), Calibration.of([x]), settings)


@pytest.mark.parametrize(("cpu", "lacks"), [(OLD, True), (NEW, False), (ARM, False), ("", False)])
def test_only_x86_without_vnni_adds_in_16_bits(cpu, lacks):
    assert lacks_vnni(cpu) is lacks


def test_only_layers_with_two_large_weights_are_touched():
    assert saturating(network()) == ["0.weight"]


def test_weights_of_seven_bits_always_fit():
    assert saturating(network(bits=7)) == []


def test_transposed_convolutions_which_run_in_floats_are_not_touched():
    torch.manual_seed(0)
    net, x = nn.ConvTranspose2d(4, 4, 2), torch.randn(8, 4, 3, 3)
    program = capture(nn.Sequential(net).eval(), x[:2])
    assert saturating(quantize_program(program, Calibration.of([x]), Settings())) == []


def test_the_layer_and_the_way_out_are_told():
    (note,) = saturation_notes(network(), OLD)
    assert "sums of 0.weight; scheme='int7'" in note


def test_nothing_is_said_of_a_processor_that_has_it():
    assert saturation_notes(network(), NEW) == []


def test_a_file_that_saturates_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(saturation, "cpu_name", lambda: OLD)
    monkeypatch.setattr(_onnx, "INTEGER_TOLERANCE", -1.0)
    monkeypatch.setattr(_onnx, "TOLERANCE", {torch.float32: -1.0})
    with pytest.raises(VerificationError, match=r"differs from the network.*has no VNNI"):
        write_integers(network(), tmp_path / "net.onnx")

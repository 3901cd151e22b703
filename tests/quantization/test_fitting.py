"""Sums and biases stay within 32 bits, and odd calibration data is spoken of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import InputError
from penjing.quantization.formats import INT32_MAX, Grid, bias_grid, fitting
from penjing.quantization.lowering import integers
from penjing.quantization.module import QuantizedModule
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.reference import execute


def _nearly_dead() -> nn.Sequential:
    """A channel whose weights hardly matter beside its bias, as old networks have them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        net[0].weight[1] *= 1e-9
        net[0].bias[1] = 2.0
    return net.eval()


def _data(n: int = 16) -> Tensor:
    return torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized() -> pj.Quantized:
    return pj.quantize(_nearly_dead(), _data(1), calibration=[_data()])


def _network(quantized: pj.Quantized) -> QuantizedNetwork:
    return quantized.model.network


def test_the_bias_of_a_nearly_dead_channel_is_whole(quantized: pj.Quantized) -> None:
    assert float((quantized.model(_data())[:, 1] - 2.0).abs().max()) < 0.03  # a step of the output


def test_only_the_channel_that_overflows_has_a_coarser_scale(quantized: pj.Quantized) -> None:
    assert any("1 of 3 scales of 0.weight are coarser" in n for n in quantized.report.data.notes)


def test_the_bias_leaves_room_for_sums(quantized: pj.Quantized) -> None:
    assert int(_network(quantized).bias_integers("0.bias").abs().max()) <= 2**29 + 1


def test_the_file_for_onnx_runtime_holds_the_same(quantized: pj.Quantized, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pj.export(quantized.model, _data(1), tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: _data(1).numpy()})
    assert float(np.abs(got[:, 1] - 2.0).max()) < 0.03


def test_the_integer_reference_computes_the_same(quantized: pj.Quantized) -> None:
    net = integers(_network(quantized))
    entry, result = net.tensors[net.inputs[0]], net.tensors[net.outputs[0]]
    q = np.round(_data(1).permute(0, 2, 3, 1).numpy() / entry.scale) + entry.zero_point
    found = execute(net, q.clip(-128, 127).astype(np.int8))[net.outputs[0]]
    real = (found.astype(np.int64) - result.zero_point) * result.scale
    assert float(np.abs(real[..., 1] - 2.0).max()) < 0.03


def test_a_bias_that_overflows_anyway_is_named(quantized: pj.Quantized) -> None:
    network = _network(quantized)
    narrow = replace(network.weights["0.weight"], scale=torch.full((3,), 1e-12).double())
    with pytest.raises(InputError, match=r"bias '0.bias' is 2 in channel 1"):
        QuantizedModule(replace(network, weights={"0.weight": narrow}))(_data(1))


def test_sums_of_very_many_products_fit() -> None:
    source, weight = Grid.affine(-1, 1), torch.ones(1, 100_000)
    plain = Grid.symmetric(torch.ones(1), axis=0)
    fitted = fitting(source, plain, weight, None)
    assert int(plain.quantize(weight).long().sum()) * 255 > INT32_MAX
    assert int(fitted.quantize(weight).long().sum()) * 255 <= INT32_MAX


def test_a_grid_on_which_everything_fits_is_left_alone() -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    plain = Grid.symmetric(weight.abs().amax(1), axis=0)
    assert fitting(Grid.affine(-1, 1), plain, weight, torch.ones(4)) is plain


def test_steps_too_small_for_float32_are_made_larger() -> None:
    source, weight = Grid.affine(-1e-20, 1e-20), torch.full((1, 2), 1e-28)
    plain = Grid.symmetric(weight.abs().amax(1), axis=0)
    assert float(bias_grid(source, fitting(source, plain, weight, None)).scale) >= 2.0**-101


def _notes(x: Tensor, scheme: str = "int8") -> str:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
    done = pj.quantize(net, x[:1], calibration=[x], scheme=scheme)
    assert bool(done.model(x).isfinite().all())
    return "\n".join(done.report.data.notes)


def test_constant_calibration_data_is_spoken_of() -> None:
    assert "input is always 0.5 on the calibration data" in _notes(torch.full((8, 3), 0.5))


def test_values_too_small_for_a_step_are_spoken_of() -> None:
    tiny = 1e-40 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert "it becomes zero" in _notes(tiny)


def test_an_odd_number_of_int4_weights_is_spoken_of() -> None:
    text = _notes(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), "int4")
    assert "0.weight has 15 weights of 4 bits; its last byte is padded" in text


def test_an_odd_number_of_int4_weights_comes_back_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    done = pj.quantize(nn.Linear(3, 5), x[:1], calibration=[x], scheme="int4")
    pj.save(done.model, tmp_path / "net")
    assert torch.equal(pj.load(tmp_path / "net")(x), done.model(x))


def test_a_network_with_integers_inside_is_not_quantized_again(quantized: pj.Quantized) -> None:
    net = nn.Sequential(quantized.model, nn.Flatten())
    with pytest.raises(pj.PenjingError, match="not captured again"):
        pj.quantize(net, _data(1), calibration=[_data()])

"""Recurrent layers: in integers where they are compiled, in floats on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import InfeasibleError
from penjing.quantization.lowering import integers
from penjing.quantization.module import QuantizedModule
from penjing.quantization.reference import run

X = torch.randn(16, 6, 8, generator=torch.Generator().manual_seed(0))
KINDS = (nn.GRU, nn.LSTM, nn.RNN)


class Net(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = kind(8, 16, num_layers=2, batch_first=True)
        self.outside = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.inside(x)[0][:, -1])


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def quantized(request: pytest.FixtureRequest) -> pj.Quantized:
    return pj.quantize(Net(request.param).eval(), X[:1], calibration=[X])


@pytest.fixture(scope="module")
def exported(quantized: pj.Quantized, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `quantized`, which takes longer to write than all that is asked of it."""
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    pj.export(quantized.model, X[:1], path)
    return path


def test_matrices_have_a_scale_per_row(quantized: pj.Quantized) -> None:
    grid = quantized.model.network.weights["inside.weight_hh_l0"]
    assert (grid.axis, grid.bits) == (0, 8)


def test_the_report_says_where_the_op_runs_in_integers(quantized: pj.Quantized) -> None:
    notes = quantized.report.data.notes
    assert any("in integers in compiled C; ONNX Runtime has no integer form" in n for n in notes)


def test_nothing_is_left_in_floats(quantized: pj.Quantized) -> None:
    assert quantized.model.network.fallbacks == {}


def test_the_integer_form_computes_the_same(quantized: pj.Quantized) -> None:
    """Up to the step by which the layer behind may be rounded otherwise."""
    network = quantized.model.network
    (real,) = run(integers(network), X.numpy())
    step = float(network.activations["linear"].scale)
    assert (quantized.model(X) - torch.from_numpy(real)).abs().max() <= 1.01 * step


class Joined(nn.Module):
    """States beside what they were made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inside = nn.Linear(8, 8), nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat([x, self.inside(x)[0]], 2)


def test_values_beside_states_keep_their_range() -> None:
    net, x = Joined().eval(), 4 * X
    done = pj.quantize(net, x[:1], calibration=[x])
    step = float(done.model.network.activations["cat"].scale)
    assert (done.model(x) - net(x)).abs().max() < 4 * step


def test_values_beside_states_have_the_very_integers_of_the_simulation() -> None:
    model = pj.quantize(Joined().eval(), X[:1], calibration=[4 * X]).model
    (real,) = run(integers(model.network), X.numpy())
    step = float(model.network.activations["cat"].scale)
    assert (model(X) - torch.from_numpy(real)).abs().max() <= 1.01 * step


class Last(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inside = how, nn.GRU(8, 8, batch_first=True)
        self.other = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        last = self.inside(x)[1]
        return last.squeeze() if self.how == "squeezed" else (last + self.other(x)[1])[0]


@pytest.mark.parametrize("how", ["squeezed", "added"])
def test_last_states_that_are_not_picked_are_those_of_the_simulation(how: str) -> None:
    model = pj.quantize(Last(how).eval(), X[:2], calibration=[X]).model
    (real,) = run(integers(model.network), X.numpy())
    step = 2.0**-7 if how == "squeezed" else float(model.network.activations["select"].scale)
    assert (model(X) - torch.from_numpy(real)).abs().max() <= 1.01 * step


def test_the_network_is_far_smaller(quantized: pj.Quantized) -> None:
    assert quantized.report.ratios["size_bytes"] > 2.6


def test_the_file_for_onnx_runtime_computes_the_same(
    quantized: pj.Quantized, exported: Path
) -> None:
    """With inputs of products left in floats; see the next test."""
    step = float(quantized.model.network.activations["linear"].scale)
    assert off(quantized, exported, accuracy_level="1") <= 1.01 * step


def test_products_of_rounded_inputs_stay_near(quantized: pj.Quantized, exported: Path) -> None:
    """ONNX Runtime's default also rounds what an `nn.RNN` reads to 8 bits, in `MatMulNBits`."""
    step = float(quantized.model.network.activations["linear"].scale)
    assert off(quantized, exported, accuracy_level="4") <= 4 * step


def off(quantized: pj.Quantized, path: Path, *, accuracy_level: str) -> float:
    """How far ONNX Runtime's outputs are from the simulation with recurrence in floats."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy_level)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (real,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    floats = QuantizedModule(quantized.model.network.without_recurrence("it has none"))
    return float((floats(X) - torch.from_numpy(real)).abs().max())


def test_the_file_holds_bytes(exported: Path) -> None:
    import onnx

    graph = onnx.load(exported).graph
    matrices = [t for t in graph.initializer if len(t.dims) > 1 and min(t.dims) >= 8]
    assert {t.data_type for t in matrices} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def test_a_layer_that_shall_stay_in_floats_stays() -> None:
    done = pj.quantize(Net(nn.GRU).eval(), X[:1], calibration=[X], ignored_layers="inside")
    assert list(done.model.network.weights) == ["outside.weight"]


def test_matrices_have_the_bits_asked_for() -> None:
    bits = {"inside": 4}
    done = pj.quantize(Net(nn.RNN).eval(), X[:1], calibration=[X], weight_bits_dict=bits)
    found = {fqn.partition(".")[0]: grid.bits for fqn, grid in done.model.network.weights.items()}
    assert found == {"inside": 4, "outside": 8}


def test_bytes_of_matrices_count_in_a_budget() -> None:
    with pytest.raises(InfeasibleError, match="cannot be met"):
        pj.quantize(Net(nn.RNN).eval(), X[:1], calibration=[X], constraints={"weight_bytes": 500})


def test_saved_and_loaded_it_answers_the_same(quantized: pj.Quantized, tmp_path: Path) -> None:
    again = pj.load(pj.save(quantized.model, tmp_path))
    assert torch.equal(again(X), quantized.model(X))

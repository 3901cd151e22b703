"""Quantized networks on ONNX Runtime: in integers, and within a step of the simulation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from penjing.errors import ExportError
from penjing.exporters import onnx_feeds, write_integers
from penjing.exporters._onnx import _convert_module
from penjing.exporters._qdq import QdqModule
from penjing.exporters.execution import execution_of
from penjing.exporters.session import open_session
from penjing.graph.capture import capture
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.scheme import Scheme
from penjing.quantization.simulation import simulate, walk
from penjing.task import Calibration
from penjing.testing.tiny import example, make

NAMES = ("residual_a", "depthwise", "encoder")


class Encoder(torch.nn.Module):
    """A layer of a transformer, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.TransformerEncoderLayer(
            16, 4, 32, activation="gelu", batch_first=True
        )
        self.read = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.layer(x).mean(1))


@cache
def _network(name: str) -> QuantizedNetwork:
    if name == "encoder":
        x = torch.randn(64, 10, 16, generator=torch.Generator().manual_seed(0))
        program = capture(Encoder().eval(), x[:2])
    else:
        x = example(name, batch=64)
        program = capture(make(name), x[:1])
    return quantize_program(program, Calibration.of([x]), Settings())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("integers")


@cache
def _file(name: str, folder: Path) -> Path:
    return write_integers(_network(name), folder / f"{name}.onnx").path


def test_every_layer_of_a_residual_network_runs_in_integers(folder: Path) -> None:
    execution = execution_of(_file("residual_a", folder))
    layers = _network("residual_a").summary()["layers"]
    assert execution.floating == {}
    assert execution.integer["QLinearConv"] + execution.integer["QGemm"] == layers


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_within_a_step_of_the_simulation(name: str, folder: Path) -> None:
    """Each node is given what the runtime's nodes before it gave."""
    network = _network(name)
    probes = [n for n in network.activations if network.program.nodes[n].op == "call_function"]
    path = folder / f"{name}.probes.onnx"
    labels = [f"probe_{n}" for n in probes]
    _convert_module(QdqModule(network, probes).eval(), network.program, labels).save(path)
    feeds = onnx_feeds(network.program, 8)
    session = open_session(path)
    real = dict(zip(labels, session.run(labels, feeds), strict=True))
    apart: dict[str, float] = {}

    def visit(node: torch.fx.Node, value: object) -> object:
        if node.name in probes:
            got = torch.from_numpy(real[f"probe_{node.name}"])
            scale = float(network.activations[node.name].scale)
            apart[node.name] = float((got - value).abs().max()) / scale  # type: ignore[operator]
            return got
        return value

    simulation = simulate(network)
    flat = [torch.from_numpy(v) for v in feeds.values()]
    with torch.no_grad():
        walk(simulation.program, simulation.on_grid(flat), visit)
    assert max(apart.values()) < 1.001


class Beside(torch.nn.Module):
    """Shares, whose grid is prescribed, beside what they were made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return torch.cat([x, x.softmax(1)], 1)


def test_values_on_different_grids_are_joined_on_one(tmp_path: Path) -> None:
    x = 4 * torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    network = quantize_program(capture(Beside().eval(), x[:1]), Calibration.of([x]), Settings())
    path = write_integers(network, tmp_path / "net.onnx").path
    feeds = onnx_feeds(network.program, 8)
    (real,) = open_session(path).run(None, feeds)
    simulation = simulate(network)
    with torch.no_grad():
        (wanted,) = simulation.run([torch.from_numpy(v) for v in feeds.values()])
    step = float(network.activations["cat"].scale)
    assert float((torch.from_numpy(real) - wanted).abs().max()) < 1.001 * step


def test_sixteen_bit_activations_are_refused(tmp_path: Path) -> None:
    x = example("plain", batch=4)
    settings = Settings(scheme=Scheme(activation_bits=16))
    network = quantize_program(capture(make("plain"), x[:1]), Calibration.of([x]), settings)
    with pytest.raises(ExportError, match="16-bit activations"):
        write_integers(network, tmp_path / "net.onnx")

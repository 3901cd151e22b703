"""Every scheme from calibration to file: integers of its kind, packed, and what runs them named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import ExportError
from penjing.quantization.formats import stored_bits
from penjing.quantization.scheme import NAMES, resolve

X = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module", params=NAMES)
def made(net: nn.Module, request: pytest.FixtureRequest) -> tuple[str, pj.Quantized]:
    return request.param, pj.quantize(net, X[:1], calibration=[X], scheme=request.param)


def whole(done: pj.Quantized) -> set[int]:
    """Integers of all weights."""
    network = done.model.network
    return {q for fqn in network.weights for q in network.integers(fqn).unique().tolist()}


def test_integers_are_of_the_kind_that_the_scheme_says(made: tuple[str, pj.Quantized]) -> None:
    name, done = made
    scheme = resolve(name)
    most = max(2 ** (scheme.weight_bits - 1) - 1, 1)
    assert whole(done) <= set(range(-most, most + 1)) - ({0} if scheme.weight_bits == 1 else set())


def test_activations_have_the_bits_of_the_scheme(made: tuple[str, pj.Quantized]) -> None:
    name, done = made
    grids = done.model.network.activations.values()
    assert {grid.bits for grid in grids} == {resolve(name).activation_bits}


def test_scales_are_powers_of_two_where_the_core_only_shifts(
    made: tuple[str, pj.Quantized],
) -> None:
    name, done = made
    network = done.model.network
    grids = [*network.weights.values(), *network.activations.values()]
    exponents = torch.cat([torch.log2(grid.scale.reshape(-1)) for grid in grids])
    assert torch.equal(exponents, exponents.round()) == resolve(name).power_of_two


def test_a_checkpoint_gives_the_same_network(
    made: tuple[str, pj.Quantized], tmp_path: Path
) -> None:
    _, done = made
    assert torch.equal(pj.load(pj.save(done.model, tmp_path))(X), done.model(X))


def test_a_checkpoint_holds_weights_without_gaps(
    made: tuple[str, pj.Quantized], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    name, done = made
    (path,) = Path(pj.save(done.model, tmp_path)).glob("*.safetensors")
    weights = {fqn for fqn in load_file(path) if fqn.endswith("weight")}
    held = sum(load_file(path)[fqn].nbytes for fqn in weights)
    assert held == (216 + 288 + 64) * stored_bits(resolve(name).weight_bits) // 8


@pytest.mark.parametrize("made", ["binary", "int8-shift"], indirect=True)
def test_the_file_for_onnx_runtime_is_compared(
    made: tuple[str, pj.Quantized], tmp_path: Path
) -> None:
    """Bytes without a zero, and scales of powers of two; the others are between these."""
    _, done = made
    assert pj.export(done.model, X[:1], tmp_path / "net.onnx").size_bytes > 0


@pytest.mark.parametrize("made", ["int8x16"], indirect=True)
def test_sixteen_bit_activations_are_refused_for_onnx_runtime(
    made: tuple[str, pj.Quantized], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="16-bit activations"):
        pj.export(made[1].model, X[:1], tmp_path / "net.onnx")


@pytest.mark.parametrize("made", ["int8x16"], indirect=True)
def test_sixteen_bit_activations_are_compiled_to_what_is_simulated(
    made: tuple[str, pj.Quantized],
) -> None:
    """Up to two steps: one of each layer's rounding that the next may take over."""
    network = made[1].model.network
    step = max(float(grid.scale) for grid in network.activations.values())
    found = pj.compile(made[1].model, X[:1])(X)
    assert float((found - made[1].model(X)).abs().max()) <= 2 * step


def test_the_report_says_the_scheme(made: tuple[str, pj.Quantized]) -> None:
    name, done = made
    assert done.report.data.choices["scheme"] == name


@pytest.mark.parametrize("made", ["int4", "ternary", "binary"], indirect=True)
def test_the_report_says_that_only_checkpoints_pack_weights(
    made: tuple[str, pj.Quantized],
) -> None:
    assert any("a byte each in .onnx and in C" in note for note in made[1].report.data.notes)

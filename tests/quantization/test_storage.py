"""Quantized networks are saved as packed integers and come back exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import penjing as pj
from penjing.errors import CheckpointError
from penjing.testing.tiny import example, make


def _quantized(name: str, scheme: str = "int8") -> pj.Quantized:
    x = example(name, batch=16)
    return pj.quantize(make(name), example(name), calibration=[x], scheme=scheme)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("residual_a", "int8"), ("plain", "int4"), ("plain", "binary")],
)
def test_a_saved_network_of_integers_comes_back_exactly(
    name: str, scheme: str, tmp_path: Path
) -> None:
    model = _quantized(name, scheme).model
    again = pj.load(pj.save(model, tmp_path))
    x = example(name, batch=3)
    assert torch.equal(again(x), model(x))


def test_packed_weights_take_their_bits(tmp_path: Path) -> None:
    net = torch.nn.Linear(256, 64, bias=False)
    sizes = {}
    for scheme in ("int8", "int4"):
        done = pj.quantize(
            net, torch.ones(1, 256), calibration=[torch.randn(8, 256)], scheme=scheme
        )
        folder = pj.save(done.model, tmp_path / scheme)
        sizes[scheme] = (folder / "model.safetensors").stat().st_size
    assert 64 * 256 // 2 - 64 < sizes["int8"] - sizes["int4"] < 64 * 256 // 2 + 64


def test_a_damaged_grid_is_refused(tmp_path: Path) -> None:
    folder = pj.save(_quantized("plain").model, tmp_path)
    spec = json.loads((folder / "spec.json").read_text())
    spec["quantization"]["weights"]["0.weight"]["scale"] = "one"
    (folder / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match="not a quantized network"):
        pj.load(folder)


def test_integers_do_not_load_into_a_class_of_floats(tmp_path: Path) -> None:
    folder = pj.save(_quantized("plain").model, tmp_path)
    with pytest.raises(CheckpointError, match="load it without model="):
        pj.load(folder, make("plain"))


def test_attention_stays_in_floats_between_integer_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(16, 5, 8)
    done = pj.quantize(layer, x[:1], calibration=[x])
    summary = done.model.network.summary()
    assert summary["integer_layers"] == summary["layers"]
    written = pj.export(done.model, x[:1], tmp_path / "net.onnx")
    assert written.difference <= written.tolerance

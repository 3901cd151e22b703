"""Weights are written down without loss, and as small as is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.encodings import INDICES, WORD, Encoded, encode, few_values, sizes
from penjing.codegen.pipeline import Settings, program_of
from penjing.graph.capture import capture


def decoded(found: Encoded, rows: int) -> np.ndarray:
    """The matrix that was written, read entry by entry."""
    values = found.values if found.book is None else found.book[found.values]
    matrix, entry = np.zeros((len(found.counts), rows, found.columns), np.float32), 0
    for bundle, count in enumerate(found.counts):
        if found.index == "bitmap":
            words = found.places.reshape(len(found.counts), -1)[bundle]
            columns = [c for c in range(found.columns) if words[c // WORD] >> (c % WORD) & 1]
        else:
            columns = found.places[entry : entry + count].astype(int).tolist()
            columns = np.cumsum(columns).tolist() if found.index == "delta" else columns
        for k, column in enumerate(columns):
            matrix[bundle, :, column] += values[entry + k]
        entry += count
    return matrix.reshape(-1, found.columns)


@pytest.mark.parametrize("codebook", [False, True])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("kept", [0.0, 0.004, 0.5, 1.0])
def test_what_is_encoded_can_be_read_back(
    kept: float, index: str, rows: int, codebook: bool
) -> None:
    random = np.random.RandomState(0)
    matrix = random.randint(1, 9, (8, 1500)) * (random.rand(8, 1500) < kept)
    found = encode(matrix.astype(np.float32), index, rows=rows, codebook=codebook)  # type: ignore[arg-type]
    assert np.array_equal(decoded(found, rows), matrix)


def test_many_values_have_no_codebook() -> None:
    matrix = np.arange(300, dtype=np.float32)[None]
    assert (few_values(matrix), list(sizes(matrix))) == (False, list(INDICES))


def test_a_small_program_takes_the_smallest_encoding_of_every_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Flatten(), nn.Linear(400, 16)).eval()
    with torch.no_grad():
        for weight in (model[0].weight, model[2].weight):
            weight.copy_((weight * 50).round().clamp(-3, 3))  # type: ignore[operator]
            weight[torch.rand(weight.shape) < 0.8] = 0.0
    x = torch.randn(1, 4, 5, 5)
    program = program_of(capture(model, x), [x], Settings(optimize="flash"))
    layers = json.loads(program.files.content["net.json"])["layers"]
    told = [layer for layer in layers if "encoding_bytes" in layer]
    smallest = [min(layer["encoding_bytes"], key=layer["encoding_bytes"].get) for layer in told]
    assert len(smallest) == 2
    assert all("codebook" in layer["encoding"] for layer in told)
    assert all("codebook" in name for name in smallest)
    assert all(layer["encoding"] in program.table for layer in told)
    assert np.abs(program.loaded.run([x.numpy()])[0] - model(x).detach().numpy()).max() < 1e-4

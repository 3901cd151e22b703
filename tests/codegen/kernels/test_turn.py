"""Copies between layouts keep every element, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.kernels import ColumnLinear, SparseConv, Style
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded
from penjing.graph.capture import capture


@pytest.mark.parametrize("shape", [(50, 40), (16, 16), (3, 17, 33), (5, 4, 100)])
def test_a_turned_tensor_is_the_same(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(shape[-1], 35).eval(), torch.randn(shape)
    settings = Settings(kernels=(ColumnLinear(conv=SparseConv(style=Style(vectors=4))),))
    files = compile_captured(capture(model, x), [x], settings)
    got = Loaded(files, flags=("-O1",)).run([x.numpy()])[0]
    assert "pj_turn" in files.text.source
    assert np.abs(got - model(x).detach().numpy()).max() < 1e-5

"""GRU and LSTM layers compute what torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.kernels import DenseLinear, Recurrent, RecurrentBatch, WindowLinear
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded
from penjing.graph.capture import capture

KERNELS = {
    "window": Recurrent(product=WindowLinear()),
    "dense": Recurrent(product=DenseLinear(vectors=2)),
    "batch": RecurrentBatch(),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_equals_torch(kind: type[nn.RNNBase], kernel: str) -> None:
    torch.manual_seed(0)
    layer = kind(7, 20, bidirectional=True).eval()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if "weight" in name:
                weight[torch.rand(weight.shape) < 0.7] = 0.0
    x = torch.randn(5, 3, 7)
    files = compile_captured(capture(layer, x), [x], Settings(kernels=(KERNELS[kernel],)))
    assert KERNELS[kernel].name in files.content[f"{files.name}.json"]
    got = Loaded(files, flags=("-O1",)).run([x.numpy()])[0]
    want = layer.double()(x.double())[0].detach().numpy()
    assert np.abs(got - want).max() < 1e-6

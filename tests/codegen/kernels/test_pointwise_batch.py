"""Networks whose pointwise layers take all images as one row."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import nn

from penjing.codegen.kernels import Depthwise, PlaneMean, PointwiseBatch, SparseConv, Style
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded
from penjing.graph.capture import capture


class Separable(nn.Module):
    """A convolution, then pointwise and depthwise ones with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 1))
        self.second = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU())
        self.third = nn.Conv2d(12, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W)."""
        x = self.first(x)
        return (x + self.third(self.second(x))).mean((2, 3))


def test_kernels_between_pointwise_layers_write_as_these_read() -> None:
    torch.manual_seed(0)
    model, x = Separable().eval(), torch.randn(5, 3, 9, 7)
    flat = SparseConv(style=Style(flat=True, vectors=1))  # never the faster one
    kernels = (PointwiseBatch(), flat, Depthwise(flat=True), PlaneMean())
    files = compile_captured(capture(model, x), [x], Settings(kernels=kernels))
    names = [layer["kernel"] for layer in json.loads(files.content[f"{files.name}.json"])["layers"]]
    got = Loaded(files, flags=("-O1",)).run([x.numpy()])[0]
    assert np.abs(got - model(x).detach().numpy()).max() < 1e-5
    assert names.count("batch_sparse_conv") == 2
    assert not {"turn", "plain"} & set(names[1:])  # the first gives the input its slack

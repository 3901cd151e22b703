"""`export` writes by suffix and refuses broken weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import InputError, UnavailableError
from penjing.verbs.export import export


def test_a_network_is_exported(tmp_path):
    assert export(nn.Linear(2, 3), torch.randn(1, 2), tmp_path / "net.onnx").size_bytes > 0


def test_a_format_of_a_later_version_says_so(tmp_path):
    with pytest.raises(UnavailableError, match="ExecuTorch"):
        export(nn.Linear(2, 3), torch.randn(1, 2), tmp_path / "net.pte")


def test_nan_weights_are_refused(tmp_path):
    network = nn.Linear(2, 3)
    network.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="weight"):
        export(network, torch.randn(1, 2), tmp_path / "net.onnx")

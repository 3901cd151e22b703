"""An exported file computes what the network computes, or is not there."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime
import pytest
import torch
from torch import nn

from penjing import exporters
from penjing.errors import ExportError, UnavailableError, VerificationError
from penjing.exporters import _onnx, write


class Several(nn.Module):
    """Dict inputs with a plain value, dict outputs, tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens, scale, weights=None):
        x = self.embed(tokens).mean(1) * scale
        return {"logits": self.fc(x if weights is None else x * weights), "features": x}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return write(network, torch.randn(1, 3, 6, 6), tmp_path_factory.mktemp("onnx") / "net.onnx")


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_file_computes_what_the_network_computes(network, exported):
    x = torch.randn(4, 3, 6, 6)
    network.eval()
    (got,) = session(exported.path).run(None, {exported.inputs[0]: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), network(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_batch_is_dynamic(exported):
    assert session(exported.path).get_inputs()[0].shape == ["batch", 3, 6, 6]


def test_two_batch_sizes_were_compared(exported):
    assert exported.batches == (1, 3)


def test_the_size_is_that_of_the_file(exported):
    assert exported.size_bytes == exported.path.stat().st_size


def test_the_difference_is_within_the_tolerance(exported):
    assert 0 <= exported.difference <= exported.tolerance


def test_the_weights_are_inside_the_file(exported):
    assert list(exported.path.parent.iterdir()) == [exported.path]


def test_the_result_reads_as_a_sentence(exported):
    assert "batch 1 and 3" in str(exported)


def test_the_network_keeps_its_mode(network, tmp_path):
    write(network.train(), torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")
    assert network.training


def test_structured_inputs_and_outputs_keep_their_names(tmp_path):
    example = {"tokens": torch.tensor([[1, 5, 2]]), "scale": 2.0, "weights": torch.ones(1, 4)}
    done = write(Several(), example, tmp_path / "net.onnx")
    assert (done.inputs, done.outputs) == (("tokens", "weights"), ("logits", "features"))


def test_a_file_that_differs_is_refused(network, tmp_path, monkeypatch):
    monkeypatch.setattr(_onnx, "TOLERANCE", {torch.float32: -1.0})
    with pytest.raises(VerificationError, match="nothing was written"):
        write(network, torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")


def test_a_refused_file_leaves_the_old_one(network, tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_text("old")
    monkeypatch.setattr(_onnx, "TOLERANCE", {torch.float32: -1.0})
    with pytest.raises(VerificationError):
        write(network, torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")
    assert [f.read_text() for f in tmp_path.iterdir()] == ["old"]


def test_an_op_that_onnx_does_not_have_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(ExportError, match="eig"):
        write(Odd(), torch.eye(3).repeat(2, 1, 1), tmp_path / "net.onnx")


def test_a_dtype_that_the_runtime_does_not_have_is_an_error(tmp_path):
    network = nn.Conv2d(3, 4, 3).to(torch.bfloat16)
    with pytest.raises(ExportError, match="cannot"):
        write(network, torch.randn(2, 3, 6, 6, dtype=torch.bfloat16), tmp_path / "net.onnx")


@pytest.mark.parametrize("suffix", sorted(exporters.LATER))
def test_a_format_of_a_later_version_says_so(network, tmp_path, suffix):
    with pytest.raises(UnavailableError, match="not in this version"):
        write(network, torch.randn(2, 3, 6, 6), tmp_path / f"net{suffix}")


@pytest.mark.parametrize("name", ["net", "net.pth"])
def test_an_unknown_format_lists_the_known_ones(network, tmp_path, name):
    with pytest.raises(ExportError, match=r"known are \.onnx"):
        write(network, torch.randn(2, 3, 6, 6), tmp_path / name)


@dataclass
class Case:
    one: list
    other: list
    difference: float


@pytest.mark.parametrize(
    "case",
    [
        Case([1.0, 2.0], [1.0, 4.0], 0.5),
        Case([float("nan")], [float("nan")], 0.0),
        Case([float("nan"), 1.0], [1.0, 1.0], float("inf")),
        Case([float("-inf"), 1.0], [float("-inf"), 1.0], 0.0),
        Case([1.0], [1.0, 2.0], float("inf")),
        Case([0.5], [0.0], 0.5),
    ],
    ids=["relative", "nan alike", "nan alone", "infinite alike", "shapes", "zeros"],
)
def test_differences_are_relative_to_the_largest_value(case):
    assert _onnx.difference_of(torch.tensor(case.one), torch.tensor(case.other)) == case.difference

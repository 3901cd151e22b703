"""Dense linear layers that leave out inputs that are zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.emit.files import Files
from penjing.codegen.kernels import DenseLinear
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded
from penjing.errors import ExportError
from penjing.graph.capture import capture
from penjing.pruning.activity import Rule, quiet

KERNELS = (DenseLinear(vectors=2), DenseLinear(vectors=2, skip=True))


def compiled(model: nn.Module, x: torch.Tensor) -> tuple[Files, list[str]]:
    """The program, and the kernel of each linear layer."""
    files = compile_captured(capture(model, x), [x], Settings(kernels=KERNELS))
    layers = json.loads(files.content[f"{files.name}.json"])["layers"]
    return files, [la["kernel"] for la in layers if la["kernel"].endswith("_linear")]


@pytest.mark.parametrize("rule", ["threshold", "topk"])
def test_a_quieted_layer_skips_and_equals_the_network_whatever_is_zero(rule: Rule) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 70), nn.Tanh(), nn.Linear(70, 37)).eval()
    quieted = quiet(model, [torch.randn(64, 24)], sparsity=0.8, layers="2", rule=rule).model
    files, kernels = compiled(quieted, torch.randn(1, 24))
    program = Loaded(files, flags=("-O1",))
    scales = (0.0, 0.1, 1.0, *([100.0] if rule == "threshold" else []))  # beyond it values tie
    inputs = [torch.randn(1, 24) * scale for scale in scales]
    exact = quieted.double()
    worst = max(
        np.abs(program.run([x.numpy()])[0] - exact(x.double()).detach().numpy()).max()
        for x in inputs
    )
    assert kernels == ["dense_linear", "skip_linear"]
    assert worst < 1e-5


@pytest.mark.parametrize("x", [torch.ones(1, 24), torch.zeros(2, 24)], ids=["few zeros", "rows"])
def test_a_layer_for_which_skipping_does_not_pay_is_dense(x: torch.Tensor) -> None:
    assert compiled(nn.Linear(24, 70), x)[1] == ["dense_linear"]


class Largest(nn.Module):
    """The largest values along a dimension, in order."""

    def __init__(self, k: int, dim: int) -> None:
        super().__init__()
        self.k, self.dim = k, dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.topk(self.k, dim=self.dim).values


@pytest.mark.parametrize(("k", "dim"), [(1, -1), (3, 1), (5, 0), (7, 2)])
def test_the_largest_values_of_a_program_are_those_of_torch(k: int, dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randint(-4, 5, (5, 3, 7)).float()  # with ties
    program = Loaded(compile_captured(capture(Largest(k, dim), x), [x], Settings()), flags=("-O1",))
    assert np.array_equal(program.run([x.numpy()])[0], x.topk(k, dim=dim).values.numpy())


class Read(nn.Module):
    """What a function makes of a tensor."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.topk(2).indices,
        lambda x: tuple(x.topk(2)),
        lambda x: x.topk(2).indices.float(),
        lambda x: x * x.topk(2).indices.sum(),
    ],
    ids=["output", "second output", "read alone", "read beside others"],
)
def test_a_network_that_reads_which_values_are_largest_is_refused(
    function: Callable[[torch.Tensor], Any],
) -> None:
    x = torch.randn(2, 5)
    with pytest.raises(ExportError, match="no topk with more than its first result"):
        compile_captured(capture(Read(function), x), [x], Settings())


def test_the_largest_of_a_single_number_is_refused() -> None:
    x = torch.randn(2, 5)
    with pytest.raises(ExportError, match="no topk of a single number"):
        compile_captured(capture(Read(lambda x: x.sum().topk(1).values), x), [x], Settings())

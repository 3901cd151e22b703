"""Folded programs compute what the originals do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from penjing.graph.call import op_name
from penjing.graph.capture import capture
from penjing.graph.folding import fold_norms, norms_as_layers
from penjing.graph.form import graph_form
from penjing.testing.tiny import NETWORKS, example, make, randomise

TOLERANCE = 1e-12  # float64 throughout; what is left is the order of additions


def _names(program) -> list[str]:
    return [op_name(n) for n in program.graph.nodes if n.op == "call_function"]


def _double(name: str) -> tuple[nn.Module, Tensor]:
    x = example(name, batch=3)
    return make(name).double(), x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_folded_program_computes_the_same(name: str) -> None:
    model, x = _double(name)
    program = capture(model, x)
    before, after = program.run([x]), fold_norms(program).run([x])
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_norms_behind_convolutions_are_gone_and_names_stay() -> None:
    model, x = _double("residual")
    program = capture(model, x)
    folded = fold_norms(program)
    assert "batch_norm" not in _names(folded)
    assert set(folded.nodes) - set(program.nodes) <= {
        name.removesuffix("weight") + "bias" for name in program.stored
    }


def test_a_norm_in_front_of_its_convolution_stays() -> None:
    model = randomise(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)), 0)
    assert "batch_norm" in _names(fold_norms(capture(model, torch.randn(2, 3, 6, 6))))


def test_a_layer_that_is_used_twice_keeps_its_norms() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = norm(self.conv(x))
            return x

    folded = fold_norms(capture(randomise(Twice(), 0), torch.randn(2, 3, 4, 4)))
    assert _names(folded).count("batch_norm") == 2


def test_a_grouped_transposed_convolution_takes_its_norm() -> None:
    model = randomise(
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), 0
    ).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = fold_norms(capture(model, x))
    assert _names(folded) == ["conv_transpose2d"]
    torch.testing.assert_close(folded.run([x])[0], model(x), rtol=TOLERANCE, atol=TOLERANCE)


def test_zeros_stay_zeros() -> None:
    model = make("plain")
    with torch.no_grad():
        model[0].weight[:, :, 0] = 0
    folded = fold_norms(capture(model, example("plain")))
    assert int((folded.tensors["0.weight"] == 0).sum()) == model[0].weight[:, :, 0].numel()


def test_a_folded_program_has_a_graph_form() -> None:
    x = example("residual_a", batch=2)
    folded = fold_norms(capture(make("residual_a"), x))
    torch.testing.assert_close(graph_form(folded)(x), folded.run([x])[0])


def test_the_original_is_left_as_it_was() -> None:
    x = example("plain")
    program = capture(make("plain"), x)
    names, weights = _names(program), {k: v.clone() for k, v in program.tensors.items()}
    fold_norms(program)
    assert _names(program) == names
    assert all(torch.equal(program.tensors[k], v) for k, v in weights.items())


@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 4), (3, 2, 3, 4)])
def test_a_norm_in_front_becomes_a_depthwise_convolution(shape: tuple[int, ...]) -> None:
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}[len(shape)](3)
    model = randomise(nn.Sequential(norm, nn.ReLU()), 0).double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    layered = norms_as_layers(fold_norms(capture(model, x)))
    assert _names(layered) == [f"conv{len(shape) - 1}d", "relu"]
    torch.testing.assert_close(layered.run([x])[0], model(x), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_view_of_what_was_made_contiguous_still_runs() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2).contiguous().view(x.shape[0], 6)

    x = torch.randn(4, 2, 3)
    assert torch.equal(fold_norms(capture(Turned(), x)).run([x])[0], Turned()(x))

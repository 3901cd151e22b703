"""The batch is found where samples do not meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from penjing.graph.capture import capture, dims_of


class Recurrent(nn.Module):
    """A layer over (time, batch, features), with the last state or all of them given back."""

    def __init__(self, *, last: bool = True, batch_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.LSTM(5, 6, batch_first=batch_first), last

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)[0]
        return out[-1] if self.last else out


class Joined(nn.Module):
    """Time first in one input, the batch first in the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.over, self.beside = nn.GRU(5, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.over(x)[0][-1] + self.beside(y)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16)


LINEAR, MIXING = nn.Linear(5, 2), nn.BatchNorm1d(5, track_running_stats=False)
CASES: dict[str, tuple[Callable[[], nn.Module], object, tuple[int, ...]]] = {
    "a linear layer": (lambda: LINEAR, torch.ones(3, 5), (0,)),
    "time first, the last state out": (Recurrent, torch.ones(7, 2, 5), (1,)),
    "time first, one sample": (Recurrent, torch.ones(7, 1, 5), (1,)),
    "time first, all states out": (lambda: Recurrent(last=False), torch.ones(7, 2, 5), (1,)),
    "as many steps as samples": (lambda: Recurrent(last=False), torch.ones(3, 3, 5), (1,)),
    "the batch first": (lambda: Recurrent(last=False, batch_first=True), torch.ones(2, 7, 5), (0,)),
    "attention, time first": (encoder, torch.ones(7, 2, 8), (1,)),
    "two inputs": (Joined, {"x": torch.ones(7, 2, 5), "y": torch.ones(2, 4)}, (1, 0)),
    "samples that meet everywhere": (lambda: MIXING, torch.randn(4, 5), (0,)),
}


@pytest.mark.parametrize(("make", "example", "dims"), CASES.values(), ids=list(CASES))
def test_the_dimension_of_the_batch_is_found(
    make: Callable[[], nn.Module], example: object, dims: tuple[int, ...]
) -> None:
    assert dims_of(make(), example) == dims


def test_a_batch_that_is_not_first_is_free_too() -> None:
    program = capture(Recurrent().eval(), torch.ones(7, 2, 5))
    assert (program.dynamic_batch, program.batch, program.batch_dims) == (True, 2, (1,))


def test_looking_for_the_batch_moves_no_random_state() -> None:
    model, before = Recurrent(), torch.get_rng_state()
    dims_of(model, torch.ones(7, 2, 5))
    assert torch.equal(before, torch.get_rng_state())

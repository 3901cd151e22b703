"""The arithmetic of recurrent layers in integers: as written down, and near that in floats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.quantization.formats import rescale
from penjing.quantization.lowering import integers
from penjing.quantization.recurrence import Cell, run
from penjing.quantization.reference import run as execute

STEPS, INPUTS, HIDDEN = 9, 3, 2
GATES = {"gru": 3, "lstm": 4, "rnn": 1}


def clamp(x: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, x))


def shifted(x: int, bits: int) -> int:
    return (x + 2 ** (bits - 1)) >> bits if bits else x


def half_range(function: str) -> list[int]:
    points = (i / 32 for i in range(257))
    values = (math.tanh(p) if function == "tanh" else 1 / (1 + math.exp(-p)) for p in points)
    return [min(round(v * 2**15), 2**15 - 1) for v in values]


def at(table: list[int], x: int) -> int:
    place = min(abs(x), 32767)
    left, right = table[place >> 7], table[(place >> 7) + 1]
    return left + (((right - left) * (place & 127) + 64) >> 7)


def tanh(x: int) -> int:
    value = at(half_range("tanh"), x)
    return -value if x < 0 else value


def sigmoid(x: int) -> int:
    value = at(half_range("sigmoid"), x)
    return 32767 - value if x < 0 else value


def spelt_out(cell: Cell, x: list[list[int]]) -> list[list[int]]:
    """Number by number, as the module's docstring and the C code have it."""

    def gates(side: str, values: list[int]) -> list[int]:
        found = []
        for row, weights in enumerate(cell.arrays[side].tolist()):
            total = sum(w * v for w, v in zip(weights, values, strict=True))
            total += int(cell.arrays[f"{side}_bias"][row])
            scale = (cell.arrays[f"{side}_{key}"][row].long() for key in ("multiplier", "shift"))
            found.append(clamp(int(rescale(torch.tensor(total), *scale)), 16))
        return found

    small, kept, states = [0] * HIDDEN, [0] * HIDDEN, []
    for step in reversed(x) if cell.reverse else x:
        a, b = gates("input", step), gates("state", small)
        small = list(small)
        for u in range(HIDDEN):
            i = [u + HIDDEN * gate for gate in range(GATES[cell.kind])]
            if cell.kind == "rnn":
                small[u] = clamp(shifted(tanh(a[u] + b[u]), 8), 8)
            elif cell.kind == "gru":
                r, z = sigmoid(a[i[0]] + b[i[0]]), sigmoid(a[i[1]] + b[i[1]])
                n = tanh(a[i[2]] + shifted(r * b[i[2]], 15))
                kept[u] = n + shifted(z * (kept[u] - n), 15)
                small[u] = clamp(shifted(kept[u], 8), 8)
            else:
                sums = [a[k] + b[k] for k in i]
                added = shifted(sigmoid(sums[0]) * tanh(sums[2]), 30 - cell.cell_bits)
                kept[u] = clamp(shifted(sigmoid(sums[1]) * kept[u], 15) + added, 16)
                down = cell.cell_bits - 12
                seen = shifted(kept[u], down) if down >= 0 else kept[u] << -down
                small[u] = clamp(shifted(sigmoid(sums[3]) * tanh(seen), 23), 8)
        states.append(small)
    return states[::-1] if cell.reverse else states


def random_cell(kind: str, *, reverse: bool, cell_bits: int) -> Cell:
    generator = torch.Generator().manual_seed(cell_bits)
    rows = GATES[kind] * HIDDEN

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    arrays = {
        "input": whole(-127, 128, rows, INPUTS).to(torch.int8),
        "state": whole(-127, 128, rows, HIDDEN).to(torch.int8),
        "tanh": torch.tensor(half_range("tanh"), dtype=torch.int16),
        "sigmoid": torch.tensor(half_range("sigmoid"), dtype=torch.int16),
    }
    for side in ("input", "state"):
        arrays[f"{side}_bias"] = whole(-3000, 3000, rows).int()
        arrays[f"{side}_multiplier"] = whole(2**30, 2**31 - 1, rows).int()
        arrays[f"{side}_shift"] = whole(-2, 2, rows).int()
    return Cell(kind, reverse, cell_bits, arrays)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("reverse", "cell_bits"), [(False, 15), (True, 13), (False, 9)])
def test_the_arithmetic_is_the_one_written_down(kind: str, reverse: bool, cell_bits: int) -> None:
    cell = random_cell(kind, reverse=reverse, cell_bits=cell_bits)
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(-255, 256, (4, STEPS, INPUTS), generator=generator)
    assert run(cell, x).tolist() == [spelt_out(cell, sample) for sample in x.tolist()]


class States(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **settings: bool | int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = kind(8, 16, batch_first=True, **settings)
        for weight in self.inside.parameters():
            nn.init.normal_(weight, std=0.4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.inside(x)
        return states, (last[0] if isinstance(last, tuple) else last)[-1]


X = torch.randn(32, 40, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_states_stay_near_those_in_floats(kind: type[nn.RNNBase]) -> None:
    """Rounded to steps of 1/128 they are off by 0.0023 on average; weights and inputs add to it."""
    net = States(kind).eval()
    done = pj.quantize(net, X[:1], calibration=[X])
    with torch.no_grad():
        off = (done.model(X)[0] - net(X)[0]).abs()
    assert float(off.mean()) < 0.02


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_layers_and_directions_have_the_very_integers_of_the_simulation(
    kind: type[nn.RNNBase],
) -> None:
    net = States(kind, num_layers=2, bidirectional=True).eval()
    network = pj.quantize(net, X[:1], calibration=[X]).model
    found = execute(integers(network.network), X.numpy())
    pairs = zip(found, network(X), strict=True)
    assert all((one == other.numpy()).all() for one, other in pairs)


class Given(nn.Module):
    """Something of which a recurrent layer is not done in integers."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.inside = nn.LSTM(8, 16, batch_first=True, proj_size=4 if what == "projected" else 0)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(1, len(x), 16)
        states, (_, cells) = self.inside(x, (ones, ones) if self.what == "given" else None)
        return cells if self.what == "cell state is read" else states


@pytest.mark.parametrize("what", ["projected", "given", "cell state is read"])
def test_what_has_no_integer_form_is_named(what: str) -> None:
    done = pj.quantize(Given(what).eval(), X[:1], calibration=[X])
    assert what in done.model.network.fallbacks["lstm"]


def test_sixteen_bits_leave_recurrence_in_floats() -> None:
    done = pj.quantize(States(nn.GRU).eval(), X[:1], calibration=[X], scheme="int8x16")
    assert "gru computes in floats" in done.model.network.fallbacks["gru"]

"""Peak memory against sums made by hand; one float32 is four bytes."""

from __future__ import annotations

import torch
from torch import nn

from penjing.counts.memory import Liveness, peak_bytes
from penjing.graph.capture import capture

FLOAT = 4


def test_input_and_output_of_a_layer_are_live_together():
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    assert peak_bytes(capture(network, torch.ones(2, 4))) == FLOAT * (4 + 8)


def test_an_activation_writes_over_its_input():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert peak_bytes(capture(network, torch.ones(2, 4))) == FLOAT * (4 + 8)


def test_the_input_of_the_network_is_not_written_over():
    assert peak_bytes(capture(nn.ReLU(), torch.ones(2, 4))) == FLOAT * (4 + 4)


def test_a_view_takes_nothing():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert peak_bytes(capture(network, torch.ones(2, 3, 4))) == FLOAT * (12 + 2)


def test_a_reshape_that_must_copy_takes_its_size():
    class Scatter(nn.Module):
        def forward(self, x):
            return x.transpose(1, 2).reshape(x.shape[0], -1)

    assert peak_bytes(capture(Scatter(), torch.ones(2, 3, 4))) == FLOAT * (12 + 12)


def test_a_residual_stays_live_over_its_branch():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 16), nn.Linear(16, 4)

        def forward(self, x):
            x = self.first(x)
            return x + self.down(self.up(x))

    assert peak_bytes(capture(Residual(), torch.ones(2, 4))) == FLOAT * (4 + 16 + 4)


def test_all_outputs_are_live_at_the_end():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 6)

        def forward(self, x):
            return self.a(x), self.b(x)

    assert peak_bytes(capture(Two(), torch.ones(2, 4))) == FLOAT * (4 + 8 + 6)


def test_several_outputs_of_one_op_are_counted():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    peak = peak_bytes(capture(Recurrent(), torch.ones(2, 7, 3)))
    assert peak == FLOAT * (21 + 5 + 35 + 5)  # input, initial state, output, last state


def test_half_precision_takes_half():
    network = nn.Linear(4, 8).to(torch.bfloat16)
    assert peak_bytes(capture(network, torch.ones(2, 4, dtype=torch.bfloat16))) == 2 * (4 + 8)


def test_weights_and_what_they_alone_make_take_nothing():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    assert peak_bytes(capture(layer, torch.ones(2, 4))) == FLOAT * (4 + 8)


def test_the_peak_says_where_it_is():
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 9), nn.Linear(9, 2))
    peak = Liveness(capture(network, torch.ones(2, 4))).peak()
    assert (peak.node, peak.live) == ("linear_1", {"linear": 32, "linear_1": 36})


def test_another_shape_is_reckoned_without_building_it():
    program = capture(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.ones(2, 4))
    shapes = {"linear": (2, 5)}
    peak = Liveness(program).peak(lambda n: shapes.get(n.name) or program.shape(n))
    assert peak.ram_bytes == FLOAT * (4 + 5)

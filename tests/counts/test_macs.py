"""MACs and parameters against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.counts.macs import Counter, count_macs, einsum_macs, layer_figures
from penjing.counts.params import count_nonzero, count_params
from penjing.graph.capture import Example, capture


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function, **tensors: Tensor):
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        return self.function(self, *(x for x in (a, b, c) if x is not None))


ONE = torch.ones
CASES: list[tuple[str, nn.Module, Example, int]] = [
    ("conv1d", nn.Conv1d(3, 5, 3), ONE(1, 3, 10), 8 * 5 * 9),
    ("conv2d", nn.Conv2d(3, 8, 3, stride=2, padding=1), ONE(4, 3, 8, 8), 4 * 4 * 8 * 27),
    ("conv2d same", nn.Conv2d(3, 8, 3, padding="same"), ONE(2, 3, 4, 4), 16 * 8 * 27),
    ("conv3d", nn.Conv3d(2, 4, (1, 2, 3)), ONE(1, 2, 3, 4, 5), 3 * 3 * 3 * 4 * 12),
    ("grouped", nn.Conv2d(4, 6, 3, groups=2, padding=1), ONE(2, 4, 5, 5), 25 * 6 * 18),
    ("depthwise", nn.Conv2d(4, 4, 3, groups=4, padding=1), ONE(2, 4, 5, 5), 25 * 4 * 9),
    ("transposed 1d", nn.ConvTranspose1d(3, 5, 4, stride=2), ONE(2, 3, 6), 6 * 3 * 5 * 4),
    ("transposed 2d", nn.ConvTranspose2d(4, 6, 2, stride=2), ONE(2, 4, 3, 3), 9 * 4 * 6 * 4),
    (
        "transposed grouped",
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        ONE(2, 4, 3, 3),
        9 * 4 * 3 * 9,
    ),
    ("linear", nn.Linear(7, 5), ONE(3, 7), 35),
    ("linear over rows", nn.Linear(7, 5), ONE(3, 11, 7), 11 * 35),
    ("bilinear", nn.Bilinear(2, 3, 4), (ONE(2, 2), ONE(2, 3)), 24),
    ("matmul", Call(lambda _, a, b: a @ b), (ONE(2, 3, 4), ONE(2, 4, 5)), 60),
    ("bmm", Call(lambda _, a, b: torch.bmm(a, b)), (ONE(2, 3, 4), ONE(2, 4, 5)), 60),
    ("mm", Call(lambda s, a: torch.mm(a, s.w), w=ONE(4, 5)), ONE(3, 4), 20),
    ("addmm", Call(lambda s, a: torch.addmm(s.b, a, s.w), w=ONE(4, 5), b=ONE(5)), ONE(3, 4), 20),
    (
        "baddbmm",
        Call(lambda _, c, a, b: torch.baddbmm(c, a, b)),
        (ONE(2, 3, 5), ONE(2, 3, 4), ONE(2, 4, 5)),
        60,
    ),
    (
        "einsum",
        Call(lambda _, q, k: torch.einsum("bhqd,bhkd->bhqk", q, k)),
        (ONE(2, 3, 4, 5), ONE(2, 3, 6, 5)),
        3 * 4 * 6 * 5,
    ),
    (
        "attention",
        Call(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v)),
        (ONE(2, 3, 4, 5), ONE(2, 3, 6, 5), ONE(2, 3, 6, 7)),
        3 * 4 * 6 * (5 + 7),
    ),
    (
        "lstm",
        nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        ONE(2, 5, 3),
        5 * 2 * (16 * 3 + 16 * 4 + 16 * 8 + 16 * 4),
    ),
    ("gru", nn.GRU(3, 4, batch_first=True), ONE(2, 5, 3), 5 * (12 * 3 + 12 * 4)),
    ("rnn", nn.RNN(3, 4, batch_first=True), ONE(2, 5, 3), 5 * (4 * 3 + 4 * 4)),
    (
        "weights alone",
        Call(lambda s, x: x * (s.a @ s.b), a=ONE(3, 4), b=ONE(4, 1)),
        ONE(2, 3, 1),
        12,
    ),
    ("nothing", nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), ONE(2, 3, 4, 4), 0),
]


@pytest.mark.parametrize(
    ("network", "example", "macs"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_an_op_counts_what_the_hand_counts(network: nn.Module, example: Example, macs: int):
    assert count_macs(capture(network, example)) == macs


def test_the_count_does_not_depend_on_the_batch_of_the_example():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 5))
    counts = {count_macs(capture(network, torch.ones(batch, 3, 4, 4))) for batch in (1, 2, 7)}
    assert counts == {4 * 8 * 27 + 160}


def test_a_layer_called_twice_counts_twice():
    shared = nn.Linear(3, 3)
    assert count_macs(capture(nn.Sequential(shared, nn.ReLU(), shared), torch.ones(2, 3))) == 18


def test_another_shape_is_counted_without_building_it():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    program = capture(network, torch.ones(2, 3, 5, 5))
    kept = {"p_0_weight": (5, 3, 3, 3), "p_2_weight": (2, 5, 1, 1), "conv2d": (2, 5, 3, 3)}
    macs = Counter(program).macs(lambda n: kept.get(n.name) or program.shape(n))
    assert macs == 9 * 5 * 27 + 9 * 2 * 5


def test_parameters_of_another_shape_are_counted():
    program = capture(nn.Linear(3, 4), torch.ones(2, 3))
    kept = {"p_weight": (2, 3), "p_bias": (2,)}
    assert Counter(program).params(lambda n: kept[n.name]) == 8


def test_tied_parameters_of_a_program_count_once():
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    assert Counter(capture(network, torch.ones(2, 3))).params() == 9


def test_tied_parameters_count_once():
    weight = nn.Parameter(torch.ones(3, 3))
    assert count_params([weight, weight]) == 9


def test_zeros_are_not_counted_as_nonzero():
    assert count_nonzero([torch.tensor([0.0, 1.0, -0.0, float("nan")])]) == 2


def test_rows_are_named_after_the_layers():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 5))
    names = [row.name for row in layer_figures(capture(network, torch.ones(2, 3, 4, 4)))]
    assert names == ["0", "2"]


def test_a_row_holds_the_figures_of_its_layer():
    network = nn.Sequential(nn.Linear(3, 4))
    nn.init.zeros_(network[0].bias)
    row = layer_figures(capture(network, torch.ones(2, 3)))[0]
    assert (row.op, row.params, row.nonzero, row.macs, row.output_shape) == (
        "linear",
        16,
        12,
        12,
        (1, 4),
    )


def test_a_weight_behind_a_norm_belongs_to_its_layer():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, bias=False))
    assert layer_figures(capture(nn.Sequential(layer), torch.ones(2, 3)))[0].params == 16


def test_a_recurrent_row_is_named_after_its_module():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    row = layer_figures(capture(Recurrent(), torch.ones(2, 5, 3)))[0]
    assert (row.name, row.output_shape) == ("rnn", (1, 5, 4))


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk", [(2, 3), (3, 4)], 24),
        ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)], 120),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 24 + 40),
        ("ij->ji", [(2, 3)], 0),
        ("i,j->ij", [(2,), (3,)], 6),
    ],
    ids=["implicit", "ellipsis", "three", "one", "outer"],
)
def test_an_einsum_counts_its_index_space(equation, shapes, macs):
    assert einsum_macs(equation, shapes) == macs

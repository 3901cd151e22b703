"""Dimensions of queries and keys: cut in the basis in which least is lost."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.graph.network import Network
from penjing.pruning.importance import OBS
from penjing.recovery.reconstruct import SPARSE
from penjing.task import Calibration

WIDTH, HEADS, RANK = 16, 2, 3  # 8 dimensions a head, of which the scores need 3


class Attention(nn.Module):
    """Attention whose scores have a low rank, in no coordinate of their own."""

    def __init__(self, *, twisted: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.twisted = twisted
        with torch.no_grad():
            for layer in (self.q, self.k):
                size = WIDTH // HEADS
                low = [torch.randn(size, RANK) @ torch.randn(RANK, WIDTH) for _ in range(HEADS)]
                layer.weight.copy_(torch.cat(low))
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.twisted:
            q, k = q.tanh(), k.tanh()
        scores = (q @ k.transpose(-2, -1)) / 4
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def cut_to_rank(model: nn.Module, x: Tensor) -> pj.Pruned:
    group = next(g for g in pj.find_groups(model, x) if {s.tensor[0] for s in g.slices} == {*"qk"})
    network = Network.of(model, x)
    plan = network.plan({group.name: range(group.units - RANK)})
    return pj.prune(model, x, plan=plan, calibration=[torch.randn(200, 6, WIDTH)])


def test_dimensions_that_the_scores_do_not_need_go_without_a_trace() -> None:
    model, x = Attention().eval(), torch.randn(4, 6, WIDTH)
    pruned = cut_to_rank(model, x)
    torch.testing.assert_close(pruned.model(x), model(x), rtol=1e-3, atol=1e-4)  # float32


def test_the_report_says_what_the_new_basis_saved() -> None:
    pruned = cut_to_rank(Attention().eval(), torch.randn(4, 6, WIDTH))
    row = next(r for r in pruned.report.data.repair if r.layer == "q (scores)")
    assert row.error_after is not None
    assert row.error_after < 1e-6 < 0.1 < row.error_before


def test_sparse_queries_keep_their_basis_and_their_zeros() -> None:
    model = Attention().eval()
    with torch.no_grad():
        model.q.weight[:, ::2] = 0.0
    pruned = cut_to_rank(model, torch.randn(4, 6, WIDTH))
    assert SPARSE in [row.reason for row in pruned.report.data.repair]
    assert not pruned.model.q.weight[:, ::2].any()


def test_what_cannot_be_turned_is_said_to_be_only_cut() -> None:
    pruned = cut_to_rank(Attention(twisted=True).eval(), torch.randn(4, 6, WIDTH))
    reasons = [r.reason for r in pruned.report.data.repair]
    assert "no layer reads its units; cut, not repaired" in reasons


@pytest.mark.parametrize("twisted", [False, True])
def test_obs_knows_what_dimensions_of_the_scores_cost(twisted: bool) -> None:
    model, x = Attention(twisted=twisted).eval(), torch.randn(4, 6, WIDTH)
    network = Network.of(model, x)
    judge = OBS().prepare(network, Calibration.of([torch.randn(64, 6, WIDTH)]))
    group = next(g for g in network.groups if {s.tensor[0] for s in g.slices} == {*"qk"})
    curve = judge.errors(group)
    free = curve[WIDTH // HEADS - RANK] < 1e-6 * curve[-1]
    assert bool(free) is not twisted


def test_obs_without_a_layer_downstream_falls_back_to_magnitude() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(4, 6), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(self.q(x) @ self.k(x).transpose(-2, -1), -1)

    network = Network.of(Bare().eval(), torch.randn(2, 3, 4))
    judge = OBS().prepare(network, Calibration.of([torch.randn(8, 3, 4)]))
    assert [reason for reason in judge.reasons.values() if "magnitude" in reason]

"""Stacked experts re-solved, against least squares that are written out expert by expert."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.graph import mixtures
from tests.graph.mixtures import CHOSEN, EXPERTS, INNER, WIDTH, Expert, Mixture
from torch import Tensor, nn

from penjing.graph.network import Network
from penjing.recovery import Reconstruct, reconstruct
from penjing.recovery.mixtures import PRIOR
from penjing.recovery.zeros import KEPT
from penjing.statistics.routed import Moments, routed
from penjing.task import Calibration

SAMPLES, HELD = 200, 40  # chunks of 40, of which the last is held out
PLAIN = Reconstruct(rounds=0, rows_per_unknown=1e9, dampings=(1e-13,))
CLOSE = 1e-7  # relative: normal equations of few unknowns in float64


class Bare(Mixture):
    """Nothing comes behind the mixture: what it makes is seen as it is."""

    def last(self) -> nn.Module:
        return nn.Identity()


class LookedUp(Bare, mixtures.LookedUp):
    pass


class Multiplied(Bare):
    """The same by `bmm`, as in transformers, the stack the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH))

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        shares, chosen = torch.topk(scores.softmax(-1), CHOSEN, dim=-1)
        flat, rows = chosen.reshape(-1), x.repeat_interleave(CHOSEN, 0).unsqueeze(-1)
        gate, up = torch.bmm(self.up[flat], rows).squeeze(-1).chunk(2, -1)
        inner = (F.silu(gate) * up).unsqueeze(-1)
        made = torch.bmm(self.down[flat].transpose(1, 2), inner).squeeze(-1)
        return (made * shares.reshape(-1, 1)).view(x.shape[0], CHOSEN, -1).sum(1)


class AllRun(Bare):
    """All experts run on every row, and few have a share."""

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        shares, chosen = torch.topk(scores, CHOSEN, dim=-1)
        shares = torch.zeros_like(scores).scatter(-1, chosen, shares.softmax(-1))
        gate, up = torch.einsum("eoi,bi->beo", self.up, x).chunk(2, -1)
        made = torch.einsum("eio,beo->bei", self.down, F.silu(gate) * up)
        return torch.einsum("be,bei->bi", shares, made)


CLASSES = [LookedUp, Multiplied, AllRun]


def made(kind: type[Mixture], seed: int = 0) -> tuple[Mixture, Tensor]:
    torch.manual_seed(seed)
    return kind().double().eval(), torch.randn(SAMPLES, 3, dtype=torch.float64)


def cut_of(net: Mixture, x: Tensor, units: int, gone: tuple[int, ...]):
    """The network without some units of the group that has so many of them."""
    network = Network.of(net, x[:4])
    name = next(g.name for g in network.groups if g.units == units)
    return network.cut(network.plan({name: gone}))


def row_of(rows, name: str):
    return next(row for row in rows if row.layer == name)


def inner_of(net: Mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """What every expert's second matrix reads for every row, `(R, E, I)`, and who is chosen."""
    with torch.no_grad():
        x = torch.tanh(net.enter(x))
        gate, up = torch.einsum("eoi,bi->beo", net.up, x).chunk(2, -1)
        return F.silu(gate) * up, net.gate(x).topk(CHOSEN, -1).indices


@pytest.mark.parametrize("kind", CLASSES)
def test_both_products_with_a_stack_are_found(kind):
    net, x = made(kind)

    found, refused = routed(Network.of(net, x[:4]).program)

    assert ([layer.weight for layer in found.values()], refused) == (["up", "down"], {})


@pytest.mark.parametrize("kind", CLASSES)
def test_zeros_of_a_stack_stay_zeros(kind):
    net, x = made(kind)
    with torch.no_grad():
        net.down[torch.rand_like(net.down) < 0.3] = 0.0
    cut = cut_of(net, x, INNER, (1,))

    new, rows = reconstruct(cut, Calibration.of([x]), PLAIN)

    assert KEPT in row_of(rows, "down").note
    assert torch.equal(new["down"] == 0, cut.program.tensors["down"] == 0)


def test_every_expert_solves_its_own_least_squares():
    net, x = made(LookedUp)
    gone = (1, 3)
    new, _ = reconstruct(cut_of(net, x, INNER, gone), Calibration.of([x]), PLAIN)
    inner, chosen = inner_of(net, x)
    stays = [i for i in range(INNER) if i not in gone]
    seen = chosen[: SAMPLES - HELD]
    # the mean row of all experts, as often as there are unknowns, beside the rows of each
    all_rows = torch.cat([inner[: SAMPLES - HELD][(seen == e).any(1), e] for e in range(EXPERTS)])
    weight = (PRIOR * len(stays) / len(all_rows)) ** 0.5

    for e in range(EXPERTS):
        rows = torch.cat([inner[(chosen == e).any(1), e], weight * all_rows])
        want = torch.linalg.lstsq(rows[:, stays], rows @ net.down[e].detach().T).solution.T
        torch.testing.assert_close(new["down"][e], want, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("kind", CLASSES)
def test_redundant_neurons_of_experts_are_repaired_to_equality(kind):
    net, x = made(kind)
    with torch.no_grad():  # neuron 0 is twice neuron 4 in every expert
        net.up[:, 0] = net.up[:, 4]
        net.up[:, INNER] = 2 * net.up[:, INNER + 4]
    cut = cut_of(net, x, INNER, (0,))
    new, _ = reconstruct(cut, Calibration.of([x]), PLAIN)
    fresh = torch.randn(50, 3, dtype=torch.float64)

    got = cut.program.run([fresh], new)[0]

    torch.testing.assert_close(got, net(fresh), rtol=CLOSE, atol=CLOSE)


def test_the_original_is_asked_for_what_the_experts_that_are_left_would_give():
    net, x = made(Multiplied)
    cut = cut_of(net, x, EXPERTS, (0, 2))
    network = cut.network
    name = next(g.name for g in network.groups if g.units == INNER)
    both = network.cut(network.plan({**cut.plan.drop, name: (2,)}))
    twin = copy.deepcopy(net)
    twin.allowed = torch.tensor([e not in (0, 2) for e in range(EXPERTS)])

    _, rows = reconstruct(both, Calibration.of([x]), PLAIN)
    _, alone = reconstruct(cut_of(twin, x, INNER, (2,)), Calibration.of([x]), PLAIN)

    got, want = row_of(rows, "down"), row_of(alone, "down")
    assert got.error_before == pytest.approx(want.error_before, rel=CLOSE)


def test_repaired_experts_are_better_on_fresh_rows():
    net, x = made(Multiplied)
    cut = cut_of(net, x, INNER, (1, 3))
    new, _ = reconstruct(cut, Calibration.of([x]))
    fresh = torch.randn(100, 3, dtype=torch.float64)
    want = net(fresh).detach()

    before, after = (
        float((cut.program.run([fresh], tensors)[0].detach() - want).square().sum())
        for tensors in (None, new)
    )

    assert after < 0.8 * before


def test_an_expert_that_saw_no_rows_keeps_to_what_all_rows_say():
    net, x = made(LookedUp)
    with torch.no_grad():
        net.gate.bias[3] = -100.0
    new, rows = reconstruct(cut_of(net, x, INNER, (1,)), Calibration.of([x]), PLAIN)

    assert torch.isfinite(new["down"][3]).all()
    assert row_of(rows, "down").note.startswith("1 of 4 experts saw fewer rows than their 4")


def test_experts_whose_moments_take_too_much_memory_are_named():
    net, x = made(LookedUp)

    _, rows = reconstruct(
        cut_of(net, x, INNER, (1,)), Calibration.of([x]), Reconstruct(memory_mb=2e-3)
    )

    assert row_of(rows, "down").reason.startswith("its Gram matrices are too large: 4 experts of 4")


def test_moments_are_sums_over_the_rows_of_each_expert():
    torch.manual_seed(0)
    x, d, owner = torch.randn(9, 2).double(), torch.randn(9, 3).double(), torch.arange(9) % 2
    sums = Moments.zeros(3, 2, 3)

    sums.add(x[:5], d[:5], owner[:5])
    sums.add(x[5:], d[5:], owner[5:])

    torch.testing.assert_close(sums.xd[1], x[owner == 1].T @ d[owner == 1])
    assert sums.rows.tolist() == [5, 4, 0]


class Listed(nn.Module):
    """Experts in a list, each on the rows that chose it: how many, the data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(3, WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        shares, chosen = torch.topk(self.gate(x).softmax(-1), CHOSEN, -1)
        mask, out = F.one_hot(chosen, EXPERTS).permute(2, 1, 0), x.clone()
        for number, expert in enumerate(self.experts):
            slot, row = torch.where(mask[number])
            out.index_add_(0, row, expert(x[row]) * shares[row, slot, None])
        return out


def listed() -> tuple[Listed, Tensor]:
    torch.manual_seed(0)
    return Listed().double().eval(), torch.randn(SAMPLES, 3, dtype=torch.float64)


def test_a_listed_expert_solves_its_least_squares_on_its_own_rows():
    net, x = listed()
    network = Network.of(net, x[:8])
    cut = network.cut(network.plan({"experts.2.up": (0, 3)}))
    new, _ = reconstruct(cut, Calibration.of([x]), PLAIN)
    with torch.no_grad():
        hidden = torch.tanh(net.enter(x))
        mine = (net.gate(hidden).topk(CHOSEN, -1).indices == 2).any(1)
        inner = F.silu(net.experts[2].up(hidden[mine]))
        rows = torch.cat([inner[:, [1, 2, 4]], torch.ones(int(mine.sum()), 1)], 1)
        solution = torch.linalg.lstsq(rows, net.experts[2].down(inner)).solution

    torch.testing.assert_close(
        new["experts.2.down.weight"], solution[:-1].T, rtol=CLOSE, atol=CLOSE
    )


def test_listed_experts_are_repaired_where_the_cut_network_sends_rows_elsewhere():
    net, x = listed()
    network = Network.of(net, x[:8])
    cut = network.cut(network.plan({"experts.1.up": (0, 3)}))
    with torch.no_grad():  # another gate in the cut network: other rows, other numbers of them
        cut.program.tensors["gate.weight"].add_(torch.randn(EXPERTS, WIDTH))
    solve = Reconstruct(rounds=0, rows_per_unknown=1e9, dampings=(1e-13,), solve="cut")
    new, rows = reconstruct(cut, Calibration.of([x]), solve)
    with torch.no_grad():
        hidden = torch.tanh(net.enter(x))
        scores = hidden @ cut.program.tensors["gate.weight"].T + net.gate.bias
        mine = (scores.topk(CHOSEN, -1).indices == 1).any(1)
        inner = F.silu(net.experts[1].up(hidden[mine]))
        design = torch.cat([inner[:, [1, 2, 4]], torch.ones(int(mine.sum()), 1)], 1)
        solution = torch.linalg.lstsq(design, net.experts[1].down(inner)).solution

    assert [row.layer for row in rows if not row.reason] == ["experts.1.down"]
    torch.testing.assert_close(
        new["experts.1.down.weight"], solution[:-1].T, rtol=CLOSE, atol=CLOSE
    )

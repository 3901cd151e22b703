"""Zeros beside widths: what one allocation decides of both, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.compression.verb import compress
from penjing.counts.macs import Counter
from penjing.errors import BudgetError, PlanError, StrategyError
from penjing.graph.capture import capture
from penjing.plan import Plan
from penjing.pruning.density import COSTS, PARTS, Densities
from penjing.pruning.packing import packed_bytes
from penjing.pruning.patterns import Pattern
from penjing.pruning.weights.targets import Wanted
from penjing.verbs.prune import prune

BOTH = {"inner", "residual", "weights"}


def chain() -> nn.Module:
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 16)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(16, 4)).eval()


def inputs(samples: int = 128) -> torch.Tensor:
    return torch.randn(samples, 6) @ torch.randn(6, 6)


def pruned(bound: str = "35%", **options):
    model, x = chain(), inputs()
    how = {"constraints": {"effective_macs": bound}, "scope": BOTH, "calibration": [x], **options}
    return model, x, prune(model, x[:1], **how)


def test_costs_of_zeros_are_those_counted_by_hand():
    model = chain()
    program = capture(model, inputs(1))
    densities = Densities.of(model, program, Wanted(pattern=Pattern()))
    counter = Counter(program)
    half = {g.name: PARTS // 2 for g in densities.groups if "2.weight" in g.name}
    found = dict(zip(COSTS, densities.costs(counter, program.shape, half), strict=True))
    macs = 6 * 24 + 24 * 24 / 2 + 24 * 16 + 16 * 4
    biases = 24 + 24 + 16 + 4
    sizes = [6 * 24, 24 * 16, 16 * 4, 24, 24, 16, 4]
    packed = sum(4 * n for n in sizes) + packed_bytes(24 * 24, 24 * 12, 4)
    assert found == {
        "effective_macs": macs,
        "nonzero": macs + biases,
        "size_kb": packed / 1024,
    }


def test_a_bound_on_effective_macs_holds_on_the_result_and_widths_and_zeros_share_it():
    model, _, result = pruned()
    left = sum(int(m.weight.count_nonzero()) for m in result.model if isinstance(m, nn.Linear))
    whole = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    assert left <= 0.35 * whole
    assert result.plan.drop
    assert result.plan.sparsity


def test_zeros_stay_where_the_repair_puts_them_and_are_reported():
    _, _, result = pruned()
    state = result.model.state_dict()
    for row in result.report.data.sparsity:
        share = result.plan.sparsity[f"{row.layer}.weight"]
        assert row.nonzero == int(state[f"{row.layer}.weight"].count_nonzero())
        assert row.weights - row.nonzero >= int(share * row.weights)


def test_a_stored_plan_makes_the_same_network_again():
    model, x, result = pruned()
    plan = Plan.from_json(result.plan.to_json())
    again = prune(model, x[:1], plan=plan, calibration=[x])
    pairs = zip(result.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_joint_decisions_beat_the_worst_of_either_alone():
    model, x, both = pruned("30%")
    units = prune(model, x[:1], constraints={"macs": "30%"}, calibration=[x])

    def wrong(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(x) - model(x)).square().mean())

    assert wrong(both.model) < wrong(units.model)


def test_blocks_become_zero_together():
    _, _, result = pruned(pattern="block:1x4", scope={"weights", "inner"})
    name = next(iter(result.plan.sparsity))
    weight = result.model.state_dict()[name]
    width = weight.shape[1] // 4 * 4
    filled = (weight[:, :width].unflatten(1, (-1, 4)) != 0).sum(2)
    assert set(filled.unique().tolist()) <= {0, 4}


def test_zeros_need_errors_and_a_budget_that_counts_them():
    model, x = chain(), inputs()
    with pytest.raises(StrategyError, match="weighed by their errors"):
        prune(model, x[:1], constraints={"effective_macs": "50%"}, scope=BOTH)
    with pytest.raises(BudgetError, match="no budget counts zeros"):
        prune(model, x[:1], constraints={"macs": "50%"}, scope=BOTH, calibration=[x])
    with pytest.raises(StrategyError, match=r"penjing\.sparsify"):
        prune(model, x[:1], constraints={"nonzero": "50%"}, scope="weights", calibration=[x])


def test_a_plan_with_zeros_in_no_layer_is_refused():
    model, x, result = pruned()
    wrong = Plan(result.plan.drop, result.plan.units, result.plan.fingerprint, {"9.weight": 0.5})
    with pytest.raises(PlanError, match=r"9\.weight"):
        prune(model, x[:1], plan=wrong)
    with pytest.raises(PlanError, match="share of weights"):
        Plan({}, {}, "00", {"w": 1.0})


def test_patterns_and_layers_that_leave_no_zeros_to_decide_are_refused():
    model, x, result = pruned()
    with pytest.raises(StrategyError, match="'2:4' leaves no share of zeros"):
        pruned(pattern="2:4")
    name = next(iter(result.plan.sparsity))
    zeros = Plan({}, result.plan.units, result.plan.fingerprint, {name: 0.5})
    with pytest.raises(PlanError, match="ignored_layers leaves out"):
        prune(model, x[:1], plan=zeros, ignored_layers=[name.removesuffix(".weight")])
    with pytest.raises(StrategyError, match="nothing that is bounded gains by zeros"):
        compress(model, x[:1], constraints={"macs": "50%"}, calibration=[x], scope=BOTH)


def test_zeros_go_beside_kinds_of_units_that_are_left_alone():
    _, _, result = pruned(ignored_layers="kind:neurons")
    assert not result.plan.drop
    assert result.plan.sparsity

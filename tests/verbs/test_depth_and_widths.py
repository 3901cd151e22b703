"""Whole branches and the widths of what stays, in one call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.verbs.deep import Deep as Four
from torch import Tensor, nn

import penjing as pj
from penjing.errors import BudgetError, InfeasibleError, PlanError, StrategyError

BOTH = {"inner", "residual", "depth"}


class Deep(Four):
    """With a fifth branch."""

    BRANCHES = 5


class Counted(Deep):
    """The same with a width written into its forward."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for layer in self.layers:
            hidden = layer.up(layer.norm(x)).relu()
            x = x + layer.down(hidden.unflatten(1, (4, 4)).flatten(1))
        return self.read(x)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
DATA = torch.randn(300, 6, generator=torch.Generator().manual_seed(2))


def both(model: nn.Module | None = None, **how: object) -> pj.Pruned:
    how.setdefault("scope", BOTH)
    model = Deep().eval() if model is None else model
    return pj.prune(model, X, calibration=[DATA], **how)


def kept(pruned: pj.Pruned) -> dict[str, tuple[int, int]]:
    return {g.name: (g.kept, g.units) for g in pruned.report.data.groups}


def test_a_branch_that_adds_nothing_goes_before_any_width_of_the_others() -> None:
    pruned = both(constraints={"macs": "80%"})
    inner = {n: k for n, k in kept(pruned).items() if n.startswith("layers.") and "2" not in n}
    assert 2 in pruned.plan.drop["blocks"]
    assert all(stay > units // 2 for stay, units in inner.values())


def test_the_bound_is_met_by_exact_costs() -> None:
    pruned = both(constraints={"macs": "45%", "params": "50%"})
    before, after = pruned.report.data.before, pruned.report.data.after
    held = sum(p.numel() for p in pruned.model.parameters())
    assert after.macs <= 0.45 * before.macs
    assert held == after.params <= 0.5 * before.params


def test_widths_and_branches_go_together() -> None:
    pruned = both(constraints={"macs": "40%"})
    assert set(pruned.plan.drop) > {"blocks"}


def test_the_result_is_the_masked_original_whose_branches_add_zero() -> None:
    model = Deep().eval()
    pruned = both(
        model, pruning_ratio=0.4, allocation="uniform", repair=None, scope={"inner", "depth"}
    )
    with torch.no_grad():
        for number in pruned.plan.drop["blocks"]:
            for tensor in model.layers[number].down.parameters():
                tensor.zero_()
        for name, units in pruned.plan.drop.items():
            if name != "blocks":
                model.get_submodule(name.replace("up", "down")).weight[:, list(units)] = 0.0
    torch.testing.assert_close(pruned.model(DATA), model(DATA))


def test_the_class_stays() -> None:
    assert type(both(constraints={"macs": "40%"}).model) is Deep


def test_the_graph_form_serves_where_the_class_bakes_a_size_in() -> None:
    pruned = both(
        Counted().eval(), pruning_ratio=0.4, allocation="uniform", scope={"inner", "depth"}
    )
    assert pruned.report.data.proof.form == "graph"
    assert pruned.model(DATA).shape == (300, 3)


def test_under_uniform_branches_and_widths_lose_the_same_share() -> None:
    rows = kept(both(pruning_ratio=0.4, allocation="uniform", scope={"neurons", "depth"}))
    gone = {n for n, (stay, units) in rows.items() if stay == units and n.startswith("layers")}
    assert rows["blocks"] == (3, 5)
    assert len(gone) == 2  # what is inside a branch that went was not cut before
    assert all(rows[n] == (10, 16) for n in rows if n.startswith("layers") and n not in gone)


def test_a_ratio_under_the_solver_is_a_share_of_the_parameters() -> None:
    pruned = both(pruning_ratio=0.5)
    before, after = pruned.report.data.before, pruned.report.data.after
    assert 0.4 * before.params < after.params <= 0.5 * before.params


def test_branches_have_a_ratio_of_their_own() -> None:
    ratios = {"kind:blocks": 0.4, "layers.0.up": 0.25}
    pruned = both(pruning_ratio_dict=ratios, constraints={"macs": "90%"})
    rows = kept(pruned)
    assert rows["blocks"] == (3, 5)


def test_branches_of_ignored_layers_stay_while_their_widths_are_left_out() -> None:
    pruned = both(constraints={"macs": "50%"}, ignored_layers=["layers.2.up"])
    assert 2 not in pruned.plan.drop.get("blocks", ())


def test_branches_can_be_ignored_as_a_kind() -> None:
    pruned = both(constraints={"macs": "50%"}, ignored_layers=["kind:blocks"])
    assert "blocks" not in pruned.plan.drop


def test_widths_are_rounded_by_kind_beside_branches() -> None:
    pruned = both(constraints={"macs": "50%"}, round_to={"neurons": 4}, scope={"neurons", "depth"})
    stay = [k for n, (k, units) in kept(pruned).items() if n.startswith("layers")]
    assert all(k % 4 == 0 for k in stay)


def test_a_plan_of_both_gives_the_same_network_again() -> None:
    pruned = both(constraints={"macs": "40%"}, repair=None)
    plan = pj.Plan.from_json(pruned.plan.to_json())
    again = pj.prune(Deep().eval(), X, plan=plan)
    torch.testing.assert_close(again.model(X), pruned.model(X))


def test_a_plan_of_both_is_refused_a_second_time() -> None:
    pruned = both(constraints={"macs": "40%"}, repair=None)
    with pytest.raises(PlanError):
        pj.prune(pruned.model, X, plan=pruned.plan)


def test_repair_makes_up_for_both() -> None:
    model = Deep().eval()
    plan = both(model, constraints={"macs": "50%"}, repair=None).plan
    errors = []
    for repair in (None, "auto"):
        made = pj.prune(model, X, plan=plan, calibration=[DATA], repair=repair).model
        with torch.no_grad():
            errors.append(float((made(DATA) - model(DATA)).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_steps_reach_the_same_bound() -> None:
    pruned = both(constraints={"macs": "50%"}, iterative_steps=2)
    assert pruned.report.data.after.macs <= 0.5 * pruned.report.data.before.macs


def test_in_place_both_are_written_to_the_network_itself() -> None:
    model = Deep().eval()
    pruned = both(model, constraints={"macs": "40%"}, inplace=True)
    assert pruned.model is model
    assert sum(p.numel() for p in model.parameters()) == pruned.report.data.after.params


def test_what_was_cut_both_ways_is_saved_and_loaded_into_its_class(tmp_path: Path) -> None:
    pruned = both(constraints={"macs": "40%"})
    pj.save(pruned.model, tmp_path)
    torch.testing.assert_close(pj.load(tmp_path, model=Deep)(X), pruned.model(X))


def test_the_report_names_the_branches_that_went() -> None:
    pruned = both(pruning_ratio_dict={"kind:blocks": 0.2}, constraints={"macs": "95%"})
    assert any("layers.2.down" in note for note in pruned.report.data.notes)


def test_a_network_without_branches_is_cut_in_width_and_says_so() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    pruned = both(net, constraints={"macs": "50%"})
    assert any("no branch can go" in note for note in pruned.report.data.notes)


def test_a_bound_that_both_cannot_meet_names_what_they_can() -> None:
    with pytest.raises(InfeasibleError, match="cannot be met"):
        both(constraints={"params": 10})


def test_a_ratio_of_branches_out_of_range_is_named() -> None:
    with pytest.raises(BudgetError, match="blocks"):
        both(pruning_ratio_dict={"kind:blocks": 3}, constraints={"macs": "95%"})


def test_branches_without_data_are_refused() -> None:
    with pytest.raises(StrategyError, match="calibration"):
        pj.prune(Deep().eval(), X, pruning_ratio=0.5, scope=BOTH)

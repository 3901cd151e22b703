"""Whole blocks removed: which, how many, and what is left."""

from pathlib import Path

import pytest
import torch
from tests.verbs.deep import Deep
from torch import Tensor, nn

import penjing as pj
from penjing.errors import InfeasibleError, PlanError, StrategyError


class Split(Deep):
    """The same with the branches' parts called by the network itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for layer in self.layers:
            x = x + layer.down(layer.up(layer.norm(x)).relu())
        return self.read(x)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
DATA = torch.randn(300, 6, generator=torch.Generator().manual_seed(2))


def shallow(model: nn.Module, **how: object) -> pj.Pruned:
    return pj.prune(model, X, calibration=[DATA], scope={"depth"}, **how)


@pytest.mark.parametrize("kind", [Deep, Split])
def test_the_branch_that_adds_least_goes_first(kind: type[nn.Module]) -> None:
    assert shallow(kind().eval(), pruning_ratio=0.25).plan.drop == {"blocks": (2,)}


@pytest.mark.parametrize("kind", [Deep, Split])
def test_the_result_is_the_original_whose_branch_adds_zero(kind: type[nn.Module]) -> None:
    model = kind().eval()
    pruned = shallow(model, pruning_ratio=0.25, repair=None)
    with torch.no_grad():
        model.layers[2].down.weight.zero_()
    torch.testing.assert_close(pruned.model(DATA), model(DATA))


@pytest.mark.parametrize("kind", [Deep, Split])
def test_the_class_stays_and_the_parameters_go(kind: type[nn.Module]) -> None:
    model = kind().eval()
    pruned = shallow(model, pruning_ratio=0.25)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, pruned.model)]
    assert (type(pruned.model), counts[0] - counts[1]) == (kind, 16 + 144 + 136)


def test_repair_makes_up_for_what_is_gone() -> None:
    model = Deep().eval()
    errors = []
    for repair in (None, "auto"):
        made = shallow(model, pruning_ratio=0.5, repair=repair).model
        with torch.no_grad():
            errors.append(float((made(DATA) - model(DATA)).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_as_many_go_as_a_budget_needs() -> None:
    pruned = shallow(Deep().eval(), constraints={"macs": "60%"})
    (row,) = [g for g in pruned.report.data.groups if g.name == "blocks"]
    assert (row.kept, len(pruned.plan.drop["blocks"])) == (2, 2)


def test_a_budget_that_no_depth_meets_names_what_does() -> None:
    with pytest.raises(InfeasibleError, match="cannot be met"):
        shallow(Deep().eval(), constraints={"macs": "5%"})


def test_a_plan_of_blocks_gives_the_same_network_again() -> None:
    pruned = shallow(Deep().eval(), pruning_ratio=0.25, repair=None)
    plan = pj.Plan.from_json(pruned.plan.to_json())
    again = pj.prune(Deep().eval(), X, plan=plan)
    torch.testing.assert_close(again.model(X), pruned.model(X))


def test_a_plan_of_blocks_is_refused_by_another_network() -> None:
    plan = shallow(Deep().eval(), pruning_ratio=0.25, repair=None).plan
    with pytest.raises(PlanError):
        pj.prune(Deep().layers[0].eval(), torch.randn(2, 8), plan=plan)


def test_blocks_with_ignored_layers_stay() -> None:
    pruned = shallow(Deep().eval(), pruning_ratio=0.25, ignored_layers="layers.2.up")
    assert pruned.plan.drop["blocks"] != (2,)


def test_removal_in_place_changes_the_network_itself() -> None:
    model = Deep().eval()
    before = sum(p.numel() for p in model.parameters())
    assert shallow(model, pruning_ratio=0.25, inplace=True).model is model
    assert sum(p.numel() for p in model.parameters()) < before


def test_a_shallow_network_is_saved_and_loaded_into_its_class(tmp_path: Path) -> None:
    pruned = shallow(Deep().eval(), pruning_ratio=0.25)
    pj.save(pruned.model, tmp_path)
    loaded = pj.load(tmp_path, model=Deep)
    torch.testing.assert_close(loaded(X), pruned.model(X))


def test_a_shallow_network_can_be_cut_in_width_as_well() -> None:
    first = shallow(Deep().eval(), pruning_ratio=0.25)
    second = pj.prune(first.model, X, pruning_ratio=0.5, calibration=[DATA])
    assert second.report.data.after.params < first.report.data.after.params


def test_without_data_there_is_nothing_to_judge_by() -> None:
    with pytest.raises(StrategyError, match="calibration"):
        pj.prune(Deep().eval(), X, pruning_ratio=0.25, scope="depth")


def test_a_network_without_branches_says_so() -> None:
    with pytest.raises(StrategyError, match="no branch can go whole"):
        pj.prune(nn.Linear(6, 2), X, pruning_ratio=0.25, scope="depth", calibration=[DATA])

"""Several tasks on one trunk: their scores brought together, and what each may lose."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.compression.toys import FakeWatch
from torch import nn
from torch.nn import functional as F

from penjing.compression.verb import compress
from penjing.errors import BudgetError, InfeasibleError, InputError, StrategyError
from penjing.graph.network import Network
from penjing.pruning.importance import Elementwise, Magnitude, MultiTask, Taylor
from penjing.pruning.importance._multi_task import REDUCTIONS
from penjing.pruning.saliency import Fisher
from penjing.task import Task, Tasks
from penjing.verbs.prune import prune


class TwoHeads(nn.Module):
    """A trunk of twelve neurons that two heads read, the first mostly its first half."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(5, 12)
        self.left = nn.Linear(12, 3)
        self.right = nn.Linear(12, 1)
        with torch.no_grad():
            self.left.weight[:, 6:] *= 0.1
            self.right.weight[:, :6] *= 0.1

    def forward(self, x):
        seen = torch.relu(self.trunk(x))
        return self.left(seen), self.right(seen)


def left_loss(outputs, labels):
    return F.cross_entropy(outputs[0], labels)


def right_loss(outputs, labels):
    return (outputs[1].squeeze(1) - labels).square().mean()


def left_accuracy(outputs, labels):
    return float((outputs[0].argmax(1) == labels).double().mean())


def right_error(outputs, labels):
    return float((outputs[1].squeeze(1) - labels).square().mean())


def scene(samples=96):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    x = torch.randn(samples, 5)
    with torch.no_grad():
        left, right = model(x)[0].argmax(1), model(x)[1].squeeze(1) + 0.1 * torch.randn(samples)
    tasks = {
        "kind": Task(
            train=[(x[:64], left[:64])], val=[(x[64:], left[64:])], test=[(x[64:], left[64:])],
            loss=left_loss, metrics={"accuracy": left_accuracy},
            higher_is_better={"accuracy": True},
        ),
        "size": Task(
            train=[(x[:64], right[:64])], val=[(x[64:], right[64:])], test=[(x[64:], right[64:])],
            loss=right_loss, metrics={"error": right_error}, kind="values",
            higher_is_better={"error": False},
        ),
    }  # fmt: skip
    return model, x, tasks


def by_hand(model, task):
    """Mean square, over samples, of the sum of gradient times weight of all that a unit cuts."""
    x, labels = task.train[0]
    parameters = [model.trunk.weight, model.trunk.bias, model.left.weight, model.right.weight]
    total = torch.zeros(12, dtype=torch.float64)
    for one, label in zip(x, labels, strict=True):
        loss = task.loss(model(one[None]), label[None])
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
        trunk, bias, *heads = ((p * g).detach() for p, g in zip(parameters, grads, strict=True))
        total += (trunk.sum(1) + bias + sum(head.sum(0) for head in heads)).double().square()
    return total / len(x)


@pytest.mark.parametrize("reduction", ["mean", "max", "vote"])
def test_scores_are_those_of_each_task_by_hand_brought_together(reduction):
    model, x, tasks = scene()
    network = Network.of(model, x[:1])
    judge = MultiTask(tasks=tasks, criterion=Taylor(), task_reduction=reduction)
    found = judge.prepare(network, None)(model, network.groups["trunk"])
    each = torch.stack([by_hand(model, task) for task in tasks.values()])
    each = each / each.mean(1, keepdim=True)
    ranks = each.argsort(1).argsort(1).double() + 1
    want = {"mean": each.mean(0), "max": each.amax(0), "vote": ranks.amax(0) / 12}[reduction]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)


def test_a_vote_of_three_drops_what_two_of_them_would():
    votes = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])
    ranks = REDUCTIONS["vote"](votes)
    assert ranks.tolist() == [1 / 3, 2 / 3, 2 / 3]


def test_a_saliency_of_elements_takes_the_loss_of_every_task():
    model, x, tasks = scene()
    network = Network.of(model, x[:1])
    judge = MultiTask(tasks=tasks, criterion=Elementwise(saliency=Fisher()))
    scores = judge.prepare(network, None)(model, network.groups["trunk"])
    assert float(scores.mean()) == pytest.approx(1.0)


def test_prune_keeps_units_that_either_task_needs():
    model, x, tasks = scene()
    judge = MultiTask(tasks=tasks, task_reduction="max")
    kept = prune(model, x[:1], pruning_ratio=0.5, importance=judge).plan.kept("trunk")
    assert min(kept) < 6 <= max(kept)


def test_compress_keeps_every_task_within_its_own_bound(monkeypatch):
    FakeWatch().install(monkeypatch)
    model, x, tasks = scene()
    bounds = {"kind": 0.2, "size": "30%"}
    result = compress(
        model, x[:1], task=tasks, constraints={"max_drop": bounds}, recovery=None, progress=False
    )
    after = {name: task.evaluate(result.model, "val") for name, task in tasks.items()}
    before = {name: task.evaluate(model, "val") for name, task in tasks.items()}
    assert result.report.after.macs < result.report.before.macs
    assert before["kind"]["accuracy"] - after["kind"]["accuracy"] <= 0.2
    assert after["size"]["error"] - before["size"]["error"] <= 0.3
    assert {"kind accuracy", "size error"} <= set(result.report.data.metrics_after)
    assert any(note.startswith("drop by task: kind") for note in result.report.data.notes)


def test_compress_trains_all_tasks_together_where_the_drop_needs_it(monkeypatch):
    FakeWatch().install(monkeypatch)
    model, x, tasks = scene()
    limits = {"max_drop": {"kind": 0.5, "size": 2.0}, "macs": "50%"}
    settings = {"task": tasks, "constraints": limits, "progress": False, "repair": None}
    cut = compress(model, x[:1], recovery=None, **settings)
    tuned = compress(model, x[:1], recovery="finetune", epochs=30, **settings)
    assert list(tuned.report.data.epochs[0].metrics) == [
        "kind accuracy", "kind loss", "size error", "size loss",
    ]  # fmt: skip
    for figure in ("kind loss", "size error"):
        now, then = tuned.report.data.metrics_after, cut.report.data.metrics_after
        assert now[figure] < then[figure]


def test_a_drop_counts_for_more_where_its_bound_is_tighter():
    _, _, tasks = scene()
    before = {"kind accuracy": 0.9, "size error": 0.1}
    after = {"kind accuracy": 0.88, "size error": 0.15}
    weighed = Tasks(tasks, {"kind": 4.0, "size": 1.0})
    assert weighed.drop(before, after) == pytest.approx(0.08)
    assert Tasks(tasks).drop(before, after) == pytest.approx(0.05)


def test_what_cannot_be_judged_is_refused():
    model, x, tasks = scene()
    with pytest.raises(StrategyError, match="takes no loss"):
        MultiTask(tasks=tasks, criterion=Magnitude())
    with pytest.raises(StrategyError, match="task_reduction is 'median'"):
        MultiTask(tasks=tasks, task_reduction="median")
    with pytest.raises(StrategyError, match="the loss picks its part"):
        MultiTask(tasks={"a": Task()})
    with pytest.raises(BudgetError, match="one for every task"):
        compress(model, x[:1], task=tasks, constraints={"max_drop": {"kind": 0.1}})
    with pytest.raises(BudgetError, match="task is no dict"):
        compress(model, x[:1], task=tasks["kind"], constraints={"max_drop": {"kind": 0.1}})
    with pytest.raises(InputError, match="give a Task"):
        compress(model, x[:1], task={"a": 3}, constraints={"macs": "50%"})


def test_a_task_whose_figure_is_no_number_is_within_no_bound():
    _, _, tasks = scene()
    before = {"kind accuracy": 0.9, "size error": 0.1}
    after = {"kind accuracy": 0.88, "size error": math.nan}
    assert math.isnan(Tasks(tasks).drop(before, after))
    assert math.isnan(Tasks(tasks, {"size": math.inf}).drop(before, after))


def test_bounds_may_be_in_units_far_apart(monkeypatch):
    FakeWatch().install(monkeypatch)
    model, x, tasks = scene()
    limits = {"max_drop": {"kind": 0.2, "size": 2.0}, "macs": "90%"}
    result = compress(model, x[:1], task=tasks, constraints=limits, recovery=None, progress=False)
    kind = tasks["kind"].evaluate(result.model, "val")["accuracy"]
    assert tasks["kind"].evaluate(model, "val")["accuracy"] - kind <= 0.2


def test_a_bound_that_permits_no_drop_at_all_is_refused_like_any_other(monkeypatch):
    FakeWatch().install(monkeypatch)
    model, x, tasks = scene()
    limits = {"max_drop": {"kind": 0, "size": 0.3}, "macs": "20%"}
    with pytest.raises(InfeasibleError, match="max_drop"):
        compress(model, x[:1], task=tasks, constraints=limits, recovery=None, progress=False)


def test_a_bound_that_any_network_meets_is_refused_for_every_task():
    model, x, tasks = scene()
    bounds = {"size": 0.3, "kind": 1.5}
    with pytest.raises(BudgetError, match="kind accuracy of the original is"):
        compress(model, x[:1], task=tasks, constraints={"max_drop": bounds}, progress=False)


def unjudged(tasks):
    return {**tasks, "size": replace(tasks["size"], metrics=None, loss=None)}


def without_data(tasks):
    return {name: replace(task, val=None) for name, task in tasks.items()}


@pytest.mark.parametrize("blinded", [without_data, unjudged])
def test_bounds_by_task_need_figures_to_judge_each_by(blinded):
    model, x, tasks = scene()
    blind = blinded(tasks)
    with pytest.raises(BudgetError, match="not every task has validation data with metrics or a"):
        compress(model, x[:1], task=blind, constraints={"max_drop": {"kind": 0.1, "size": 0.3}})


def test_data_may_come_from_a_function_as_in_every_task():
    model, x, tasks = scene()
    fresh = {n: replace(t, train=partial(list, t.train)) for n, t in tasks.items()}
    network = Network.of(model, x[:1])
    (group,) = network.groups
    want, got = (MultiTask(tasks=t).prepare(network, None)(model, group) for t in (tasks, fresh))
    assert torch.equal(want, got)

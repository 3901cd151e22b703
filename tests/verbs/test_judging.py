"""What every step of `prune` and `sparsify` has kept of the figures of the original."""

import pytest
import torch
from tests.compression.toys import EXAMPLE, Net, scans, task

import penjing as pj
from penjing.errors import InputError


@pytest.fixture(scope="module")
def pruned():
    return pj.prune(
        Net(), EXAMPLE, pruning_ratio=0.5, calibration=[scans()], iterative_steps=2, task=task()
    )


def test_every_step_is_judged_before_and_after_its_repair(pruned):
    rows = [r for r in pruned.report.data.recovery if (r.split, r.figure) == ("test", "accuracy")]
    assert [row.step for row in rows] == ["1 cut", "1 repaired", "2 cut", "2 repaired"]
    assert [row.before for row in rows] == [rows[0].original, *(row.after for row in rows[:-1])]


def test_a_repair_of_norms_alone_is_a_step_too():
    done = pj.prune(
        Net(), EXAMPLE, pruning_ratio=0.5, calibration=[scans()], repair="recalibrate", task=task()
    )
    rows = [r for r in done.report.data.recovery if (r.split, r.figure) == ("test", "accuracy")]
    assert [row.step for row in rows] == ["cut", "repaired"]


def test_the_last_step_is_the_network_that_is_given_back(pruned):
    want = task().evaluate(pruned.model, "val")
    rows = [row for row in pruned.report.data.recovery if row.split == "val"]
    assert {row.figure: row.after for row in rows[-len(want) :]} == pytest.approx(want)


def test_judging_decides_nothing(pruned):
    blind = pj.prune(Net(), EXAMPLE, pruning_ratio=0.5, calibration=[scans()], iterative_steps=2)
    assert blind.plan == pruned.plan
    assert torch.equal(blind.model.head.weight, pruned.model.head.weight)


def test_the_report_draws_every_step(pruned):
    assert "from the original through 4 steps" in pruned.report.to_html()


def test_a_task_that_cannot_judge_is_refused():
    with pytest.raises(InputError, match="nothing to judge steps by"):
        pj.prune(Net(), EXAMPLE, pruning_ratio=0.5, task=pj.Task(train=[scans()]))


def test_zeros_are_judged_before_and_after_their_repair():
    net = Net()
    done = pj.sparsify(
        net, EXAMPLE, sparsity=0.8, keep_dense=(), calibration=[scans()], task=task()
    )
    rows = [r for r in done.report.data.recovery if (r.split, r.figure) == ("test", "accuracy")]
    assert [row.step for row in rows] == ["zeros", "repaired"]
    assert rows[-1].after == task().evaluate(done.model, "test")["accuracy"]
    assert rows[-1].original == task().evaluate(net, "test")["accuracy"]


def test_zeros_without_a_repair_are_one_step():
    done = pj.sparsify(Net(), EXAMPLE, sparsity=0.8, keep_dense=(), task=task())
    assert {row.step for row in done.report.data.recovery} == {"zeros"}

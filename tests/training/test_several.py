"""Several tasks on one trunk, trained together in the one loop."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.training.toys import accuracy, equal, noisy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from penjing.distillation import Logits, Regression
from penjing.errors import CheckpointError, InputError, StrategyError
from penjing.task import Task, Tasks
from penjing.task.mixing import order
from penjing.training import Callback, Fit, Teacher, fit
from penjing.verbs.distill import distill
from penjing.verbs.finetune import finetune
from penjing.verbs.train import train

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
KIND = (X[:, :3].sum(1) > 0).long()
SIZE = X[:, 2:].sum(1)


class Heads(nn.Module):
    """A trunk with dropout and batch statistics, and two heads."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.trunk = nn.Linear(6, 8)
            self.norm = nn.BatchNorm1d(8)
            self.drop = nn.Dropout(0.2)
            self.left = nn.Linear(8, 2)
            self.right = nn.Linear(8, 1)

    def forward(self, x):
        seen = self.drop(F.relu(self.norm(self.trunk(x))))
        return self.left(seen), self.right(seen)


def left(model, inputs):
    return model(inputs)[0]


def right(model, inputs):
    return model(inputs)[1].squeeze(1)


def error(outputs, labels):
    return float((outputs - labels).square().mean())


def loader(labels, samples, batch=8):
    return DataLoader(TensorDataset(X[:samples], labels[:samples]), batch, shuffle=True)


def kind(**more):
    usual = {
        "train": loader(KIND, 48),
        "val": [(X[48:], KIND[48:])],
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
        "forward": left,
    }
    return Task(**{**usual, **more})


def size(**more):
    usual = {
        "train": loader(SIZE, 16),
        "val": [(X[48:], SIZE[48:])],
        "loss": F.mse_loss,
        "metrics": {"error": error},
        "higher_is_better": {"error": False},
        "forward": right,
        "kind": "values",
    }
    return Task(**{**usual, **more})


def both(**more):
    return Tasks({"kind": kind(), "size": size()}, **more)


def settings(**more):
    return Fit(**{"epochs": 3, "lr": 0.02, "progress": False, "keep": "last", **more})


class Sees(Callback):
    """Whose batch came, and its inputs."""

    def __init__(self):
        self.names, self.inputs = [], []

    def on_step(self, run, /):
        self.names.append(run.of)
        self.inputs.append(run.inputs)

    def identity(self):
        return ""


@pytest.mark.parametrize("lengths", [[6, 2], [1, 1], [5, 3, 1], [7]])
def test_every_batch_of_every_task_comes_once_and_evenly(lengths):
    found = order(lengths)
    assert [found.count(i) for i in range(len(lengths))] == lengths
    for index, length in enumerate(lengths):
        for done in range(len(found)):  # never further than a batch from its share
            share = length * done / len(found)
            assert abs(found[:done].count(index) - share) <= 1


@pytest.mark.parametrize(
    ("mixing", "want"),
    [("proportion", ["kind"] * 6 + ["size"] * 2), ("turns", ["kind", "size"] * 6)],
)
def test_an_epoch_has_the_batches_of_all_tasks(mixing, want):
    seen = Sees()
    result = fit(Heads(), both(mixing=mixing), settings(epochs=1), (seen,))
    assert sorted(seen.names) == sorted(want)
    assert result.steps == len(want)
    assert list(result.epochs[0].metrics) == [
        "kind accuracy", "kind loss", "size error", "size loss",
    ]  # fmt: skip


def test_in_turns_a_short_task_is_shuffled_anew_when_it_begins_again():
    seen = Sees()
    fit(Heads(), both(mixing="turns"), settings(epochs=1), (seen,))
    mine = [x for name, x in zip(seen.names, seen.inputs, strict=True) if name == "size"]
    first, again = torch.cat(mine[:2]), torch.cat(mine[2:4])
    assert not torch.equal(first, again)
    assert torch.equal(first.sort(0).values, again.sort(0).values)


class Endless(IterableDataset):
    """No length."""

    def __init__(self, labels):
        self.labels = labels

    def __iter__(self):
        return iter([(x, y) for x, y in zip(X[:16], self.labels[:16], strict=True)])


def test_data_without_a_length_is_taken_in_turns():
    unknown = size(train=DataLoader(Endless(SIZE), 8))
    tasks = Tasks({"kind": kind(), "size": unknown}, mixing="turns")
    seen = Sees()
    fit(Heads(), tasks, settings(epochs=1), (seen,))
    assert seen.names == ["kind", "size"] * 6
    with pytest.raises(InputError, match=r"task 'size' has no length, .* mixing='turns'"):
        fit(Heads(), replace(tasks, mixing="proportion"), settings())


def test_tasks_without_a_length_give_whole_rounds():
    unknown = {
        "kind": kind(train=DataLoader(Endless(KIND), 8)),
        "size": size(train=DataLoader(Endless(SIZE), 8)),
    }
    seen = Sees()
    fit(Heads(), Tasks(unknown, mixing="turns"), settings(epochs=1), (seen,))
    assert seen.names == ["kind", "size"] * 2


def exact(heads):
    """In double precision, without dropout, so that steps can be written out."""
    heads.drop.p = 0.0
    return heads.double()


def test_steps_are_those_of_each_task_by_hand():
    x, amounts = X.double(), SIZE.double()
    kinds = [(x[:8], KIND[:8]), (x[8:16], KIND[8:16])]
    sizes = [(x[16:24], amounts[16:24]), (x[24:32], amounts[24:32])]
    tasks = Tasks(
        {"kind": kind(train=kinds, val=None), "size": size(train=sizes, val=None)},
        mixing="turns",
        loss_weights={"size": 0.25},
    )
    teacher, trained, hand = exact(Heads(3)).eval(), exact(Heads()), exact(Heads())
    lessons = {"kind": Logits(weight=0.5), "size": Logits(weight=0.5, kind="values")}
    plain = settings(epochs=1, lr=0.1, optimizer=torch.optim.SGD, schedule="constant")
    fit(trained, tasks, replace(plain, warmup=0.0), (Teacher(teacher, lessons),))

    stepper = torch.optim.SGD(hand.train().parameters(), lr=0.1)
    for (a, label), (b, amount) in zip(kinds, sizes, strict=True):
        out, want = hand(a)[0], teacher(a)[0].detach()
        soft = F.kl_div(F.log_softmax(out / 4, 1), F.softmax(want / 4, 1), reduction="batchmean")
        (0.5 * F.cross_entropy(out, label) + 0.5 * 16 * soft).backward()
        stepper.step()
        stepper.zero_grad()
        out, want = hand(b)[1].squeeze(1), teacher(b)[1].squeeze(1).detach()
        (0.25 * (0.5 * F.mse_loss(out, amount) + 0.5 * F.mse_loss(out, want))).backward()
        stepper.step()
        stepper.zero_grad()
    for name, tensor in hand.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)


class Killed(BaseException):
    """As a signal would be."""


class Dies(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, run, /):
        if run.step == self.step:
            raise Killed

    def identity(self):
        return ""


@pytest.mark.parametrize(("mixing", "step"), [("proportion", 5), ("turns", 1), ("turns", 9)])
def test_a_killed_run_ends_as_if_nothing_had_happened(mixing, step, tmp_path):
    def tasks():  # shuffled by the common random state, with noise drawn while batches are made
        each = {"kind": kind(transform_fn=noisy), "size": size(transform_fn=noisy)}
        return Tasks(each, mixing=mixing)

    whole = Heads()
    want = fit(whole, tasks(), settings())
    often = settings(workdir=tmp_path, save_seconds=0.0)
    with pytest.raises(Killed):
        fit(Heads(), tasks(), often, (Dies(step),))
    again = Heads()
    got = fit(again, tasks(), often)
    assert equal(again, whole)
    assert [e.metrics for e in got.epochs] == [e.metrics for e in want.epochs]


def test_a_checkpoint_of_other_weights_of_the_tasks_is_refused(tmp_path):
    fit(Heads(), both(), settings(epochs=1, workdir=tmp_path))
    with pytest.raises(CheckpointError, match="tasks was"):
        fit(Heads(), both(loss_weights={"kind": 2.0}), settings(epochs=1, workdir=tmp_path))


def test_a_checkpoint_of_other_figures_to_drop_from_is_refused(tmp_path):
    def tasks(least):
        return both(reference={"kind accuracy": least, "size error": 1.0})

    fit(Heads(), tasks(0.5), settings(epochs=1, workdir=tmp_path))
    with pytest.raises(CheckpointError, match="reference was"):
        fit(Heads(), tasks(0.9), settings(epochs=1, workdir=tmp_path))


FIGURES = [(0.5, 0.9), (0.8, 0.7), (0.9, 0.65), (0.6, 0.85)]
"""Of two accuracies, before training and after each epoch."""


def scripted(**more):
    """Tasks whose figures are given."""
    tasks = {}
    for place, name in enumerate(("kind", "other")):
        values = iter([pair[place] for pair in FIGURES])
        metric = partial(lambda known, _outputs, _labels: next(known), values)
        tasks[name] = kind(metrics={"accuracy": metric}, loss=F.cross_entropy)
    return Tasks(tasks, **more)


@pytest.mark.parametrize(
    ("more", "best"),
    [
        ({}, 2),  # the highest mean
        ({"reference": {"kind accuracy": 0.9, "other accuracy": 0.9}}, 1),  # falls of 0.1 and 0.2
        ({"reference": {"kind accuracy": 0.9, "other accuracy": 0.9}, "weights": {"kind": 3.0}}, 2),
        ({"reference": {"kind accuracy": 0.5, "other accuracy": 0.9}}, 0),
    ],
    ids=["mean", "worst", "worst, weighed", "nothing lost before"],
)
def test_the_best_epoch_is_that_of_the_least_worst_drop(more, best):
    assert fit(Heads(), scripted(**more), settings(keep="best")).kept_epoch == best


def of(accuracy, error):
    return {"kind accuracy": accuracy, "size error": error}


@pytest.mark.parametrize(
    ("more", "figures"),
    [
        ({"weights": {"kind": math.inf}}, [of(0.5, 0.9), of(0.4, 0.1), of(0.8, 0.4)]),
        ({}, [of(math.nan, 0.9), of(0.5, 0.9), of(0.6, 0.9)]),
        ({"reference": of(math.nan, 0.9)}, [of(0.5, 0.9), of(0.4, 0.9), of(0.6, 0.9)]),
    ],
    ids=["a task that may not drop at all", "no number before training", "none in the reference"],
)
def test_the_last_of_three_networks_is_the_best(more, figures):
    assert both(**more).best(figures) == 2


def test_a_task_that_counts_nothing_has_no_limit():
    assert both(weights={"size": 0.0}).limits(0.1) == {"kind accuracy": (0.1, True)}


def test_a_task_that_no_figure_judges_learns_from_the_teacher():
    unjudged = size(train=[X[:8]], test=[(X[48:], SIZE[48:])], loss=None, metrics=None)
    tasks = {"kind": kind(test=[(X[48:], KIND[48:])]), "size": unjudged}
    tuned = finetune(Heads(), tasks, teacher=Heads(1), epochs=1, progress=False)
    assert len(tuned.report.data.epochs) == 1


def test_patience_waits_for_a_smaller_worst_drop():
    tasks = scripted(reference={"kind accuracy": 0.9, "other accuracy": 0.9})
    result = fit(Heads(), tasks, settings(keep="best", patience=1))
    assert result.stopped == "no better worst drop of the tasks on validation for 1 epochs"
    assert len(result.epochs) == 2


def test_a_figure_that_is_no_number_ends_the_run_at_the_last_good_epoch():
    values = iter([0.1, 0.2, float("nan")])
    tasks = Tasks({"kind": kind(), "size": size(metrics={"error": lambda *_: next(values)})})
    result = fit(Heads(), tasks, settings())
    assert result.kept_epoch == 1
    assert "size error on validation is no longer finite" in result.stopped


def test_every_task_is_learned_and_what_each_lost_is_told():
    dense = fit_dense()
    small = Heads(5)
    tasks = {"kind": kind(test=[(X[48:], KIND[48:])]), "size": size(test=[(X[48:], SIZE[48:])])}
    tuned = finetune(small, tasks, teacher=dense, epochs=8, lr=0.02, progress=False)
    data = tuned.report.data
    for name in ("kind loss", "size loss"):
        assert data.metrics_after[name] < data.metrics_before[name]
    assert any("against the teacher: drop by task: kind" in note for note in data.notes)


def fit_dense():
    dense = Heads(7)
    fit(dense, both(), settings(epochs=10))
    return dense


def test_losses_that_pick_their_part_of_the_outputs_need_no_forward():
    def first(outputs, labels):
        return F.cross_entropy(outputs[0], labels)

    def second(outputs, labels):
        return F.mse_loss(outputs[1].squeeze(1), labels)

    tasks = {
        "kind": kind(forward=None, loss=first, metrics=None),
        "size": size(forward=None, loss=second, metrics=None, kind="values"),
    }
    tuned = finetune(Heads(), tasks, teacher=Heads(3), epochs=2, progress=False)
    assert list(tuned.report.data.epochs[0].metrics) == ["kind loss", "size loss"]


def test_distillation_and_sparse_training_take_several_tasks():
    tasks = {"kind": kind(), "size": size()}
    done = distill(Heads(), Heads(3), tasks, loss="logits", epochs=1, progress=False)
    assert done.report.data.epochs
    sparse = train(Heads(), tasks, sparsity=0.5, epochs=2, progress=False, keep_dense=())
    assert (sparse.model.trunk.weight == 0).float().mean() == pytest.approx(0.5, abs=0.05)


def untaught(batches):
    """Tasks whose second has these training data."""
    return {"kind": kind(), "size": size(train=batches)}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (untaught(None), "task 'size': the task has no train data"),
        (untaught([]), "task 'size': train gave no batches"),
        (untaught([X[:8]]), "task 'size': nothing to train on"),
        ({"kind": kind(), "size": size(val=None)}, "task 'size' has no val data and others have"),
        ({"kind": kind(), "size": 3}, "task 'size' is a int"),
        ({}, "task is an empty dict"),
        (
            {"kind": kind(forward=None), "size": size()},
            r"task 'kind': the loss cannot take outputs \(float32\[8, 2\], float32\[8, 1\]\)",
        ),
        (
            {"kind": kind(), "size": size(metrics={"a": MulticlassAccuracy(3)})},
            r"task 'size': metric 'a' cannot take outputs float32\[16\] with labels",
        ),
    ],
    ids=[
        *("no data", "no batches", "no labels", "no val", "no task", "none at all"),
        *("all outputs into a loss", "a metric of something else"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_before_anything_is_written(tasks, message):
    model = Heads()
    before = copy.deepcopy(model)
    with pytest.raises(InputError, match=message):
        finetune(model, tasks, inplace=True, progress=False)
    assert equal(model, before)


def test_names_that_differ_are_refused():
    with pytest.raises(InputError, match="loss_weights has 'sizes', the tasks are kind, size"):
        both(loss_weights={"sizes": 2.0})
    with pytest.raises(InputError, match="weights has -1 for 'kind'"):
        both(weights={"kind": -1})
    with pytest.raises(InputError, match="mixing is 'random'; it is 'proportion' or 'turns'"):
        both(mixing="random")
    with pytest.raises(InputError, match="weights has 'much' for 'kind'; give a number"):
        both(weights={"kind": "much"})
    with pytest.raises(InputError, match="reference has no 'kind accuracy'"):
        both(reference={"accuracy": 0.9})
    with pytest.raises(InputError, match="loss_weights is a list; give a dict"):
        both(loss_weights=["kind"])
    with pytest.raises(InputError, match="tasks is a list; give a dict"):
        Tasks([kind(), size()])
    with pytest.raises(InputError, match="no loss for task 'size'"):
        fit(Heads(), both(), settings(), (Teacher(Heads(3), {"kind": Logits()}),))
    losses = {"kind": Logits(), "size": Logits(kind="values"), "sizes": Logits()}
    with pytest.raises(InputError, match="a loss for 'sizes', the tasks are 'kind', 'size'"):
        fit(Heads(), both(), settings(), (Teacher(Heads(3), losses),))


class Branched(nn.Module):
    """A layer of its own for one of two tasks."""

    def __init__(self):
        super().__init__()
        self.trunk, self.own = nn.Linear(6, 8), nn.Linear(8, 4)
        self.left, self.right = nn.Linear(4, 2), nn.Linear(8, 1)

    def forward(self, x, which=""):
        seen = self.trunk(x)
        return self.right(seen) if which == "size" else self.left(self.own(seen))


def test_layers_of_one_task_are_compared_for_that_task_alone():
    one = size(forward=lambda model, inputs: model(inputs, "size").squeeze(1))
    tasks = Tasks({"size": one, "kind": kind(forward=None)})
    losses = {"kind": Regression(), "size": Logits(kind="values")}
    teacher = Teacher(Branched(), losses, {"own": "own"})
    assert fit(Branched(), tasks, settings(), (teacher,)).steps


def test_a_teacher_without_losses_for_a_task_is_refused():
    with pytest.raises(StrategyError, match="teaches nothing"):
        Teacher(Heads(), {"kind": ()})

"""Teachers of every kind in the one loop."""

import pytest
import torch
from tests.training.toys import Net, equal, task
from torch import nn

from penjing.distillation import AttentionTransfer, Logits, Regression
from penjing.errors import InputError, StrategyError
from penjing.task import Task
from penjing.training import AverageTeacher, Averaging, ExitTeacher, Fit, Teacher, Teachers, fit
from penjing.training.matching import match

IMAGES = Task(train=[torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))] * 2)
SHORT = Fit(epochs=2, lr=0.01, progress=False)


class Cnn(nn.Module):
    """Two stages: 8x8 and 4x4."""

    def __init__(self, width=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(self.down(x).relu().mean((2, 3)))


class Renamed(nn.Module):
    """Another student: no name in common."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.c = nn.Linear(2, 3)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).mean((2, 3)))


class Exits(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.early, self.late = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x).relu()
        return self.early(x), self.late(x)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_stages_are_matched_by_name_where_both_have_them():
    assert match(Cnn(2), Cnn(4), IMAGES) == {"body": "body", "down": "down"}


def test_stages_of_another_student_are_matched_by_resolution():
    assert match(Renamed(), Cnn(), IMAGES) == {"a": "body", "b": "down"}


def test_networks_without_a_stage_in_common_are_refused_with_both_lists():
    with pytest.raises(InputError, match=r"stages of the student none, of the teacher body"):
        match(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), Cnn(), IMAGES)


def test_features_are_learned_without_labels():
    student, teacher = Renamed(), Cnn(seed=1)
    fitted = fit(
        student,
        IMAGES,
        Fit(epochs=30, lr=0.02, progress=False),
        [Teacher(teacher, [Logits(weight=1.0), Regression(), AttentionTransfer()])],
    )
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss


def test_hooks_are_gone_afterwards():
    student, teacher = Renamed(), Cnn()
    fit(student, IMAGES, SHORT, [Teacher(teacher, Regression())])
    assert hooks(student) + hooks(teacher) == 0


def test_hooks_are_gone_after_an_error():
    student, teacher = Cnn(), Cnn()
    lesson = Teacher(teacher, AttentionTransfer(), {"head": "head"})
    with pytest.raises(InputError, match="no positions"):
        fit(student, IMAGES, SHORT, [lesson])
    assert hooks(student) + hooks(teacher) == 0


def test_a_module_that_does_not_exist_is_named_with_its_neighbours():
    with pytest.raises(InputError, match=r"student has no module 'bodi'; near it: body"):
        fit(Cnn(), IMAGES, SHORT, [Teacher(Cnn(), Regression(), {"bodi": "body"})])


def test_the_same_teacher_twice_is_that_teacher():
    once, twice = Net(), Net()
    fit(once, task(), SHORT, [Teacher(Net(), Logits())])
    fit(twice, task(), SHORT, [Teachers([Teacher(Net(), Logits()), Teacher(Net(), Logits())])])
    assert all(
        torch.allclose(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True)
    )


def test_the_average_teaches_and_stays_behind():
    model, lesson = Net(), AverageTeacher(decay=0.9)
    fit(model, task(), SHORT, [lesson])
    assert not equal(lesson.model, model)
    assert not equal(lesson.model, Net())


def test_earlier_exits_learn_from_the_last():
    model = Exits()
    unlabelled = Task(train=[torch.randn(8, 6)])
    fitted = fit(model, unlabelled, Fit(epochs=20, lr=0.05, progress=False), [ExitTeacher()])
    assert fitted.epochs[-1].loss < 0.5 * fitted.epochs[0].loss


def test_a_network_with_one_exit_is_refused():
    with pytest.raises(InputError, match="deepest last"):
        fit(Net(), task(), SHORT, [ExitTeacher()])


def test_the_average_of_the_weights_is_given_back():
    raw, averaged = Net(), Net()
    settings = Fit(epochs=3, lr=0.05, progress=False, keep="last")
    callback = Averaging(decay=0.9)
    fit(raw, task(), settings)
    fit(averaged, task(), settings, [callback])
    assert not equal(raw, averaged)
    assert all(torch.equal(callback.average[n], p) for n, p in averaged.named_parameters())


def test_averaging_does_not_disturb_the_training():
    losses = [
        [e.loss for e in fit(Net(), task(), SHORT, callbacks).epochs]
        for callbacks in ([], [Averaging()])
    ]
    assert losses[0] == losses[1]


def test_decays_outside_their_range_are_refused():
    with pytest.raises(StrategyError, match=r"\[0, 1\)"):
        Averaging(decay=1.0)


def test_two_half_batches_are_one_step():
    x, y = torch.randn(8, 6), torch.randint(2, (8,))
    whole, halves = nn.Linear(6, 2), nn.Linear(6, 2)
    halves.load_state_dict(whole.state_dict())
    job = {"loss": nn.functional.cross_entropy}
    steps = [
        fit(whole, Task(train=[(x, y)], **job), Fit(optimizer="sgd", lr=0.1, progress=False)),
        fit(
            halves,
            Task(train=[(x[:4], y[:4]), (x[4:], y[4:])], **job),
            Fit(optimizer="sgd", lr=0.1, accumulate=2, schedule=lambda _: 1.0, progress=False),
        ),
    ]
    assert [one.steps for one in steps] == [3, 3]


def test_gradients_left_at_the_end_of_an_epoch_are_applied():
    job = Task(
        train=[(torch.randn(4, 6), torch.randint(2, (4,)))] * 3, loss=nn.functional.cross_entropy
    )
    assert fit(nn.Linear(6, 2), job, Fit(epochs=1, accumulate=2, progress=False)).steps == 2


def test_mixed_precision_trains_float32_weights():
    model = Net()
    fit(model, task(), Fit(epochs=1, keep="last", precision="bf16", progress=False))
    assert model.inside.weight.dtype == torch.float32
    assert not equal(model, Net())

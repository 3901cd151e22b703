import random

import numpy as np
import pytest
import torch
from tests.training.toys import Net, X, Y, equal, state, task
from torch import nn
from torch.nn import functional as F

from penjing.distillation import Logits
from penjing.errors import InputError, StrategyError
from penjing.task import Task
from penjing.training import Callback, Fit, Teacher, fit
from penjing.training.optimizers import optimizer


def settings(**more):
    return Fit(**{"epochs": 3, "lr": 0.01, "progress": False, **more})


def test_training_lowers_the_loss():
    result = fit(Net(), task(), settings(epochs=8))
    assert result.epochs[-1].loss < result.epochs[0].loss


def test_one_epoch_over_data_without_a_length_trains():
    model = Net()
    before = model.outside.weight.detach().clone()
    data = task(train=lambda: iter([(X[:16], Y[:16])] * 4), val=None)
    fit(model, data, settings(epochs=1))
    assert not torch.equal(before, model.outside.weight)


def test_every_epoch_is_told():
    result = fit(Net(), task(), settings())
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert result.steps == 12
    assert list(result.epochs[0].metrics) == ["accuracy", "loss"]


def test_the_same_seed_gives_the_same_model_whatever_the_random_state():
    first, second = Net(), Net()
    fit(first, task(), settings())
    torch.rand(5)
    fit(second, task(), settings())
    assert equal(first, second)


def test_another_seed_gives_another_model():
    first, second = Net(), Net()
    fit(first, task(), settings())
    fit(second, task(), settings(seed=1))
    assert not equal(first, second)


class Fails(Callback):
    def on_step(self, _run, /):
        raise RuntimeError("broken")


@pytest.mark.parametrize("callbacks", [(), (Fails(),)], ids=["after the run", "after an error"])
def test_modes_and_random_states_are_as_before(callbacks):
    model, job = Net(), task()
    model.drop.eval()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    own = job.train.generator.get_state()
    try:
        fit(model, job, settings(), callbacks)
    except RuntimeError:
        assert callbacks
    assert (model.training, model.drop.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert torch.equal(job.train.generator.get_state(), own)
    assert all(p.grad is None for p in model.parameters())


def test_the_best_epoch_on_validation_is_given_back():
    values = iter([0.1, 0.5, 0.9, 0.3])  # before training, then after each epoch
    states = []

    class Remember(Callback):
        def on_epoch(self, run, /):
            states.append({k: v.clone() for k, v in state(run.model).items()})

    model = Net()
    result = fit(model, task(metrics={"told": lambda *_: next(values)}), settings(), (Remember(),))
    assert result.kept_epoch == 2
    assert result.metrics_after["told"] == 0.9
    assert all(torch.equal(v, state(model)[k]) for k, v in states[1].items())


def test_the_start_is_kept_when_no_epoch_is_better():
    values = iter([0.9, 0.5, 0.5, 0.3])
    model = Net()
    result = fit(model, task(metrics={"told": lambda *_: next(values)}), settings())
    assert equal(model, Net())
    assert result.notes == ("no epoch was better than the start, which was kept",)


def test_the_last_epoch_is_kept_when_asked_for():
    values = iter([0.9, 0.5, 0.5, 0.3])
    result = fit(Net(), task(metrics={"told": lambda *_: next(values)}), settings(keep="last"))
    assert (result.kept_epoch, result.metrics_after["told"]) == (3, 0.3)


def test_epochs_before_keep_from_do_not_count():
    values = iter([0.9, 0.8, 0.5, 0.6])
    result = fit(Net(), task(metrics={"told": lambda *_: next(values)}), settings(keep_from=2))
    assert result.kept_epoch == 3


def test_patience_stops_early():
    values = iter([0.1, 0.9, 0.5, 0.5, 0.5])
    job = task(metrics={"told": lambda *_: next(values)})
    result = fit(Net(), job, settings(epochs=9, patience=2))
    assert len(result.epochs) == 3
    assert result.stopped == "no better told on validation for 2 epochs"


@pytest.mark.parametrize("without", [{"val": None}, {"metrics": None, "loss": None}])
def test_patience_needs_validation_data_and_a_figure(without):
    with pytest.raises(InputError, match="patience needs validation data, and metrics or a loss"):
        fit(Net(), task(**without), settings(patience=1))


def test_a_time_limit_truncates_and_says_so():
    result = fit(Net(), task(), settings(minutes=1e-9))
    assert result.steps == 0
    assert "the time limit of 1e-09 minutes ended it after 0.00 of 3 epochs" in result.stopped


def test_a_callback_can_stop_the_run():
    class Stop(Callback):
        def on_step(self, run, /):
            if run.step == 6:
                run.stop("enough")

    result = fit(Net(), task(), settings(), (Stop(),))
    assert (result.steps, result.stopped, len(result.epochs)) == (6, "enough", 2)


def test_the_hooks_run_in_order():
    seen = []

    class Log(Callback):
        def on_start(self, _run, /):
            seen.append("start")

        def on_backward(self, run, /):
            assert run.model.inside.weight.grad is not None
            seen.append("backward")

        def on_step(self, _run, /):
            seen.append("step")

        def on_epoch(self, _run, /):
            seen.append("epoch")

        def on_end(self, _run, /):
            seen.append("end")

    fit(Net(), task(train=[(X, Y)]), settings(epochs=2), (Log(),))
    assert seen == ["start", *["backward", "step", "epoch"] * 2, "end"]


def test_a_callback_can_add_to_the_loss():
    class Decay(Callback):
        def on_loss(self, run, loss, /):
            return loss + 100 * run.model.inside.weight.square().sum()

    model = Net()
    fit(model, task(), settings(epochs=8, optimizer="sgd", keep="last"), (Decay(),))
    assert model.inside.weight.norm() < 0.1 * Net().inside.weight.norm()


def test_a_hook_that_would_never_be_called_is_refused():
    class Typo(Callback):
        def on_epochs(self, run, /):
            """Never called."""

    with pytest.raises(StrategyError, match=r"Typo\.on_epochs would never be called.*on_epoch,"):
        fit(Net(), task(), settings(), (Typo(),))


def test_what_is_no_callback_is_refused():
    with pytest.raises(StrategyError, match="subclass"):
        fit(Net(), task(), settings(), (object(),))


def test_the_schedule_sets_the_rate_of_each_step():
    rates = []

    class Log(Callback):
        def on_step(self, run, /):
            rates.append(run.optimizer.param_groups[0]["lr"])

    fit(Net(), task(), settings(epochs=1, schedule="linear", warmup=0.5), (Log(),))
    assert rates == pytest.approx([0.0025, 0.0075, 0.0075, 0.0025])


def test_the_gradient_is_clipped():
    norms = []

    class Log(Callback):
        def on_step(self, run, /):
            grads = [p.grad.norm() for p in run.model.parameters()]
            norms.append(float(torch.stack(grads).norm()))

    fit(Net(), task(), settings(epochs=1, clip=1e-3), (Log(),))
    assert max(norms) <= 1e-3 * (1 + 1e-5)  # clip_grad_norm_ divides by norm + 1e-6


@pytest.mark.parametrize(
    "choice",
    [
        "sgd",
        "adam",
        "adamw",
        "torch.optim:RMSprop",
        torch.optim.NAdam,
        lambda p: torch.optim.SGD(p),
    ],
)
def test_any_optimizer_trains(choice):
    model = Net()
    fit(model, task(), settings(optimizer=choice, keep="last", lr=0.1))
    assert not torch.equal(model.outside.weight, Net().outside.weight)


class Rated(Net):
    def relative_rates(self):
        return {"outside.weight": 0.25}


@pytest.mark.parametrize(("choice", "rates"), [("adam", [2, 0.5, 2]), ("sgd", [2, 2])])
def test_a_network_may_ask_adam_for_rates_of_its_own(choice, rates):
    assert [g["lr"] for g in optimizer(choice, Rated(), 2.0, None).param_groups] == rates


def rates_of(model, choice="sgd", lr=0.1, **lr_by):
    """Learning rate of every parameter, by name."""
    made = optimizer(choice, model, lr, None, lr_by)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in model.named_parameters()}


def test_parts_learn_at_rates_of_their_own():
    rates = rates_of(Net(), **{"outside": 0.5, "*.bias": 0.2, "outside.bias": 0.3})
    assert list(rates.values()) == [0.1, 0.2, 0.1, 0.2, 0.5, 0.3]


def test_a_part_may_be_a_type_of_module():
    made = optimizer("adamw", Net(), 0.1, None, {torch.nn.BatchNorm1d: 0.5})
    assert [len(group["params"]) for group in made.param_groups if group["lr"] == 0.5] == [2]


def test_the_rate_of_a_part_leaves_its_vectors_undecayed_by_name_alone():
    made = {
        choice: optimizer(choice, Net(), 0.1, 0.3, {"outside": 0.5})
        for choice in ("sgd", "torch.optim:SGD")
    }
    decays = {how: [g["weight_decay"] for g in one.param_groups] for how, one in made.items()}
    assert decays == {"sgd": [0.3, 0.0, 0.3, 0.0], "torch.optim:SGD": [0.3, 0.3]}


def test_a_relative_rate_of_the_network_holds_inside_a_part_too():
    assert rates_of(Rated(), "adam", outside=0.4)["outside.weight"] == pytest.approx(0.1)


def test_an_optimizer_of_ones_own_gets_groups_where_rates_differ():
    assert rates_of(Net(), torch.optim.RMSprop, outside=0.5)["outside.bias"] == 0.5


def test_steps_of_a_part_are_those_of_a_run_at_its_rate():
    models = {"parts": Net(), "whole": Net()}
    once = {"optimizer": "sgd", "epochs": 1, "weight_decay": 0.0, "warmup": 0.0}
    first = task(train=[(X[:8], Y[:8])], val=None)
    fit(models["parts"], first, settings(**once, lr=1e-3, lr_by={"outside": 0.1}))
    fit(models["whole"], first, settings(**once, lr=0.1))
    assert torch.equal(models["parts"].outside.weight, models["whole"].outside.weight)
    assert not torch.equal(models["parts"].inside.weight, models["whole"].inside.weight)


def test_a_tied_parameter_has_its_rate_by_any_of_its_names():
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(3, 3), "again": torch.nn.Linear(3, 3)})
    model["again"].weight = model["first"].weight
    assert rates_of(model, **{"again.weight": 0.5})["first.weight"] == 0.5


def test_a_rate_for_a_part_that_does_not_exist_is_refused():
    with pytest.raises(StrategyError, match="'heads' matches no layer"):
        fit(Net(), task(), settings(lr_by={"heads": 0.1}))


def test_a_rate_for_a_frozen_part_is_refused():
    model = Net()
    model.outside.requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match="'outside', where no parameter requires a gradient"):
        fit(model, task(), settings(lr_by={"outside": 0.1}))


def test_an_unknown_optimizer_lists_the_known():
    with pytest.raises(StrategyError, match="adam, adamw, sgd"):
        fit(Net(), task(), settings(optimizer="lion"))


def test_a_function_that_gives_no_optimizer_is_refused():
    with pytest.raises(StrategyError, match="gave a NoneType"):
        fit(Net(), task(), settings(optimizer=lambda _: None))


def test_an_unknown_schedule_lists_the_known():
    with pytest.raises(StrategyError, match="constant, linear, cosine, one_cycle"):
        settings(schedule="steps")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"warmup": 1.0},
        {"patience": 0},
        {"minutes": 0},
        {"keep": "any"},
        {"lr_by": {"outside": 0.0}},
        {"lr_by": {"outside": "0.1"}},
        {"lr_by": 0.1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        settings(**wrong)


def test_vectors_do_not_decay_by_name():
    decays = {}

    class Log(Callback):
        def on_start(self, run, /):
            for group in run.optimizer.param_groups:
                decays.update({p.dim(): group["weight_decay"] for p in group["params"]})

    fit(Net(), task(), settings(epochs=1, weight_decay=0.3), (Log(),))
    assert decays == {2: 0.3, 1: 0.0}


def test_frozen_parameters_stay():
    model = Net()
    model.inside.requires_grad_(False)
    fit(model, task(), settings(keep="last"))
    assert torch.equal(model.inside.weight, Net().inside.weight)


def test_a_frozen_model_is_refused():
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        fit(Net().requires_grad_(False), task(), settings())


class Explodes(Callback):
    def __init__(self, step):
        self.step = step

    def on_loss(self, run, loss, /):
        return loss * float("nan") if run.step == self.step else loss


def test_a_loss_that_is_not_finite_ends_the_run_at_the_last_good_epoch():
    model, other = Net(), Net()
    job = task(val=None)
    result = fit(model, job, settings(schedule="constant", warmup=0.0), (Explodes(6),))
    fit(other, job, settings(epochs=1, schedule="constant", warmup=0.0))
    assert result.stopped.startswith("the loss became nan at epoch 2, batch 3 (step 7)")
    assert result.stopped.endswith("the state after epoch 1 was kept")
    assert equal(model, other)


def test_an_infinite_constant_does_not_end_the_run():
    model = Net()
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    assert fit(model, task(), settings()).stopped == ""


def test_weights_that_are_not_finite_end_the_run():
    class Breaks(Callback):
        def on_step(self, run, /):
            if run.step == 8:
                nn.init.constant_(run.model.outside.bias, float("inf"))

    result = fit(Net(), task(val=None), settings(), (Breaks(),))
    assert result.stopped.startswith("outside.bias is no longer finite at the end of epoch 2")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (task(train=[]), "train gave no batches"),
        (task(train=None), "no train data"),
        (task(train=[X], transform_fn=None), "it has no labels"),
        (task(loss=None), "the task has no loss"),
        (task(train=[(X * float("nan"), Y)]), "the inputs .* have NaN"),
        (
            task(train=[{"x": X, "z": X, "labels": Y}], transform_fn=None),
            "does not take the inputs",
        ),
    ],
    ids=["empty", "none", "unlabelled", "no loss", "nan", "wrong names"],
)
def test_what_cannot_be_trained_is_refused_before_the_first_write(job, message):
    model = Net()
    with pytest.raises(InputError, match=message):
        fit(model, job, settings())
    assert equal(model, Net())


def test_weights_that_are_not_finite_are_named():
    model = Net()
    nn.init.constant_(model.outside.bias, float("nan"))
    with pytest.raises(InputError, match=r"outside\.bias has NaN"):
        fit(model, task(), settings())


def test_data_without_a_length_trains():
    job = task(train=lambda: iter([(X[:16], Y[:16]), (X[16:32], Y[16:32])]))
    assert fit(Net(), job, settings()).steps == 6


def test_a_teacher_needs_no_labels():
    student = Net()
    teacher = nn.Linear(6, 2)
    job = Task(train=[X[:24], X[24:]])
    result = fit(student, job, settings(epochs=20), (Teacher(teacher, Logits()),))
    assert result.epochs[-1].loss < 0.5 * result.epochs[0].loss


def test_a_teacher_is_not_changed():
    teacher = Net()
    fit(Net(), task(), settings(), (Teacher(teacher, Logits()),))
    assert equal(teacher, Net())
    assert teacher.training


def test_a_teacher_of_other_classes_is_refused_before_the_first_write():
    model = Net()
    with pytest.raises(InputError, match=r"\(8, 2\), the teacher \(8, 5\)"):
        fit(model, task(), settings(), (Teacher(nn.Linear(6, 5), Logits()),))
    assert equal(model, Net())


def test_a_loss_per_sample_is_refused():
    with pytest.raises(InputError, match="one number per batch"):
        fit(Net(), task(loss=lambda o, y: F.cross_entropy(o, y, reduction="none")), settings())

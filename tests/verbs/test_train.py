import pytest
import torch
from tests.training.toys import Net, task
from torch import nn

from penjing.errors import BudgetError, CheckpointError, StrategyError
from penjing.sparse_training import Gradual, Penalised, Slimming
from penjing.training import Averaging
from penjing.verbs.train import train

QUICK = {"epochs": 8, "lr": 0.02, "progress": False, "keep_dense": ()}


def zeros(model):
    weights = [p for p in model.parameters() if p.dim() > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("method", ["gradual", "rigl", "set", "ac/dc"])
def test_zeros_are_there_by_every_method(method):
    tuned = train(Net(), task(), sparsity=0.5, method=method, **QUICK)
    assert zeros(tuned.model) == pytest.approx(0.5, abs=0.02)


def test_the_call_of_the_design_works():
    tuned = train(Net(), task(), sparsity_schedule={"sparsity": 0.5, "shape": "linear"}, **QUICK)
    assert zeros(tuned.model) == pytest.approx(0.5, abs=0.02)


def test_without_a_sparsity_it_trains_dense():
    assert zeros(train(Net(), task(), **QUICK).model) == 0


def test_only_epochs_with_all_zeros_are_chosen_from():
    data = train(Net(), task(), sparsity=0.5, **QUICK).report.data
    assert data.choices["zeros"].startswith("50.00%")


def test_zeros_survive_the_average_of_the_weights():
    tuned = train(Net(), task(), sparsity=0.5, callbacks=[Averaging(0.9)], **QUICK)
    assert zeros(tuned.model) == pytest.approx(0.5, abs=0.02)


def test_a_teacher_teaches_along():
    tuned = train(Net(), task(), sparsity=0.5, teacher=Net(), **QUICK)
    assert tuned.report.data.choices["teacher"] == "Net"


def test_a_penalty_draws_along():
    hard = train(Net(), task(), penalty=Slimming(strength=20.0), **{**QUICK, "keep": "last"})
    assert not hard.model.norm.weight.any()


def test_a_penalty_in_the_loss_is_a_callback():
    callback = Penalised(Slimming(strength=1.0), "loss")
    soft = train(Net(), task(), callbacks=[callback], **{**QUICK, "keep": "last"})
    assert soft.model.norm.weight.abs().sum() < Net().norm.weight.abs().sum()


def test_a_killed_run_goes_on_exactly(tmp_path):
    whole = train(Net(), task(), sparsity=0.5, method="set", **QUICK).model

    class Kill(Averaging):
        def on_epoch(self, run):
            super().on_epoch(run)
            if run.epoch == 4 and armed:
                raise KeyboardInterrupt

    again = {**QUICK, "workdir": tmp_path, "save_seconds": 0.0, "sparsity": 0.5, "method": "set"}
    armed = True
    with pytest.raises(KeyboardInterrupt):
        train(Net(), task(), callbacks=[Kill(0.0)], **again)
    armed = False
    resumed = train(Net(), task(), callbacks=[Kill(0.0)], **again).model
    plain = train(
        Net(), task(), callbacks=[Averaging(0.0)], sparsity=0.5, method="set", **QUICK
    ).model
    assert zeros(whole) == pytest.approx(0.5, abs=0.02)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), resumed.parameters(), strict=True)
    )


def test_another_method_does_not_resume(tmp_path):
    train(Net(), task(), sparsity=0.5, workdir=tmp_path, **QUICK)
    with pytest.raises(CheckpointError, match="callbacks"):
        train(Net(), task(), sparsity=0.6, workdir=tmp_path, **QUICK)


def test_a_schedule_without_a_sparsity_is_refused():
    with pytest.raises(BudgetError, match="has no sparsity"):
        train(Net(), task(), sparsity_schedule="cubic")


def test_a_method_with_a_sparsity_of_its_own_takes_no_second():
    with pytest.raises(BudgetError, match="its own sparsity"):
        train(Net(), task(), sparsity=0.5, method=Gradual(schedule=0.9))


def test_an_unknown_method_lists_the_known():
    with pytest.raises(StrategyError, match=r"'ac/dc', 'gradual', .*, 'set', 'str'"):
        train(Net(), task(), sparsity=0.5, method="magic")


def test_a_network_without_sparse_layers_tells_why():
    with pytest.raises(Exception, match="no layer may become sparse"):
        train(nn.Linear(6, 2), task(), sparsity=0.5)


def test_an_n_m_pattern_says_itself_how_many_zeros():
    done = train(Net(), task(), pattern="1:2", **QUICK)
    assert zeros(done.model) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"pattern": "kernel"}, "pattern is 'kernel' and no zeros are asked for"),
        ({"pattern": "2:4", "sparsity": 0.9}, "makes 0.5 of the weights zero, not 0.9"),
    ],
)
def test_a_pattern_without_zeros_or_with_others_is_refused(how, told):
    with pytest.raises(BudgetError, match=told):
        train(Net(), task(), **how)

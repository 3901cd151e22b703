import pytest
import torch
from tests.training.toys import Net, X, Y, equal, task
from torch import nn

from penjing.errors import InputError, StrategyError
from penjing.task import Task, agreement
from penjing.training import Callback
from penjing.verbs.finetune import finetune


def tune(model, job, **settings):
    return finetune(model, job, **{"lr": 0.01, "progress": False, **settings})


def test_the_call_of_the_design_works():
    tuned = finetune(Net(), task(), teacher=Net(), epochs=3)
    assert len(tuned.report.data.epochs) == 3


def test_the_model_passed_in_is_left_alone():
    model = Net()
    tuned = tune(model, task(), keep="last")
    assert equal(model, Net())
    assert not equal(tuned.model, model)


def test_in_place_the_model_itself_is_trained():
    model = Net()
    assert tune(model, task(), keep="last", inplace=True).model is model
    assert not equal(model, Net())


def test_a_cut_network_recovers_from_its_parent_without_labels():
    parent = tune(Net(), task(), epochs=20).model
    student = Net()
    unlabelled = Task(train=[X[:16], X[16:32]], val=[(X[32:], Y[32:])])
    notes = tune(student, unlabelled, teacher=parent, epochs=30, keep="last").report.data.notes
    before, now = (float(word.rstrip("%")) for word in notes[-1].split() if "%" in word)
    assert now > before


def test_the_report_tells_metrics_before_and_after():
    data = tune(Net(), task(), epochs=10).report.data
    assert data.metrics_after["accuracy"] > data.metrics_before["accuracy"]
    assert data.higher_is_better == {"accuracy": True, "loss": False}
    assert data.choices["judged on"] == "val"


def test_the_test_split_is_told_when_there_is_one():
    job = task(test=[(X[40:], Y[40:])])
    tuned = tune(Net(), job)
    assert tuned.report.data.choices["judged on"] == "test"
    assert tuned.report.data.metrics_after == job.evaluate(tuned.model, "test")


def test_the_report_says_how_much_of_the_teacher_is_reached():
    teacher, job = Net(), task(test=[(X[40:], Y[40:])])
    data = tune(Net(), job, teacher=teacher, epochs=2).report.data
    rows = [r for r in data.recovery if r.figure == "accuracy"]
    assert [(r.split, r.step) for r in rows] == [
        (split, step) for split in ("val", "test") for step in ("as given", "fine-tuned")
    ]
    assert rows[0].original == job.evaluate(teacher, "val")["accuracy"]
    assert rows[3].after == data.metrics_after["accuracy"]
    assert tune(Net(), job, epochs=1).report.data.recovery == ()


def test_the_report_has_rows_per_class():
    data = tune(Net(), task(classes=["low", "high"])).report.data
    assert [row.name for row in data.per_class] == ["low", "high"]
    assert sum(row.count for row in data.per_class) == 16


def test_agreement_is_with_the_teacher():
    teacher = tune(Net(), task(), epochs=9).model
    tuned = tune(Net(), task(), teacher=teacher, epochs=9)
    expected = agreement(tuned.model, teacher, task().val, task=Task())
    assert tuned.report.agreement == expected


def test_without_validation_data_the_report_says_that_nothing_was_judged():
    report = tune(Net(), task(val=None)).report
    assert "unjudged" in report.data.notes[0]
    assert report.agreement is None


def test_what_cannot_be_compared_does_not_lose_the_training():
    job = Task(
        train=[(X, Y.float())],
        val=[(X, Y.float())],
        loss=lambda outputs, labels: (outputs[:, 0] - labels).square().mean(),
    )
    report = tune(nn.Linear(6, 1), job).report
    assert report.data.notes[-1].startswith("agreement is not known: outputs float32[48, 1]")


def test_regression_learns_the_values_of_its_teacher():
    student, teacher = nn.Linear(6, 1), nn.Linear(6, 1)
    job = Task(train=[X], val=[X], kind="values")
    tuned = tune(student, job, teacher=teacher, epochs=200, lr=0.05)
    torch.testing.assert_close(tuned.model.weight, teacher.weight, atol=0.05, rtol=0)


def test_why_training_ended_early_is_in_the_report():
    class Stop(Callback):
        def on_step(self, run, /):
            run.stop("enough")

    assert tune(Net(), task(), callbacks=[Stop()]).report.data.notes[0] == "enough"


def test_the_report_survives_its_json():
    report = tune(Net(), task(), teacher=Net()).report
    assert type(report.data).from_json(report.to_json()) == report.data


def test_a_run_folder_is_picked_up(tmp_path):
    first = tune(Net(), task(), workdir=tmp_path)
    again = tune(Net(), task(), workdir=tmp_path)
    assert equal(first.model, again.model)
    assert again.report.data.epochs == first.report.data.epochs


def test_a_teacher_of_other_classes_is_refused_and_the_model_left_alone():
    model = Net()
    with pytest.raises(InputError, match=r"\(8, 2\), the teacher \(8, 7\)"):
        tune(model, task(), teacher=nn.Linear(6, 7), inplace=True)
    assert equal(model, Net())


def test_a_model_cannot_teach_itself_in_place():
    model = Net()
    with pytest.raises(InputError, match="give a copy"):
        tune(model, task(), teacher=model, inplace=True)


def test_an_unknown_setting_lists_the_known():
    with pytest.raises(StrategyError, match=r"unknown setting 'epoch'; the known ones are epochs"):
        tune(Net(), task(), epoch=3)


def test_zeros_may_be_freed():
    model = Net()
    with torch.no_grad():
        model.inside.weight[0] = 0
    kept, freed = (
        tune(model, task(), keep="last", keep_zeros=kept).model for kept in (True, False)
    )
    assert not kept.inside.weight[0].any()
    assert freed.inside.weight[0].any()


def test_a_weight_of_zeros_alone_is_trained():
    model = Net()
    nn.init.zeros_(model.outside.weight)
    assert tune(model, task(), keep="last").model.outside.weight.any()

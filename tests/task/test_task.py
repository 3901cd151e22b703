import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.regression import MeanSquaredError

from penjing.errors import InputError
from penjing.task import Calibration, Task, agreement, compare

# a network whose outputs are its inputs: decisions can be read off the data
X = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
Y = torch.tensor([0, 1, 2, 2])


class Pass(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x) * self.scale


class Sums(nn.Module):
    def forward(self, first, second):
        return {"logits": first + second, "hidden": None}


def accuracy():
    return MulticlassAccuracy(num_classes=3, average="micro")


def task(**settings):
    return Task(
        val=[(X[:3], Y[:3]), (X[3:], Y[3:])], **{"metrics": {"accuracy": accuracy()}, **settings}
    )


def test_metrics_are_over_the_whole_split():
    assert task().evaluate(Pass()) == {"accuracy": 0.75}


def test_the_loss_is_a_mean_over_samples_and_comes_last():
    figures = task(loss=F.cross_entropy).evaluate(Pass())
    assert list(figures) == ["accuracy", "loss"]
    assert figures["loss"] == pytest.approx(float(F.cross_entropy(X, Y)), rel=1e-6)


def test_a_plain_function_sees_the_whole_split():
    seen = task(metrics={"rows": lambda outputs, labels: len(outputs) + len(labels)})
    assert seen.evaluate(Pass()) == {"rows": 8.0}


def test_outputs_with_logits_and_keyword_inputs_are_understood():
    batch = {"first": X, "second": X, "labels": Y}
    assert Task(val=[batch], metrics={"a": accuracy()}).evaluate(Sums()) == {"a": 0.75}


def test_forward_replaces_the_call():
    backwards = task(forward=lambda model, inputs: model(inputs.flip(1)))
    assert backwards.evaluate(Pass())["accuracy"] == 0.5


def test_transform_fn_makes_the_batches():
    shifted = task(transform_fn=lambda item: (item[0].flip(1), 2 - item[1]))
    assert shifted.evaluate(Pass())["accuracy"] == 0.75


def test_modes_random_states_and_metrics_are_as_before():
    model, metric = Pass(), accuracy()
    model.drop.eval()
    loader = DataLoader(TensorDataset(X, Y), shuffle=True, generator=torch.Generator())
    states = torch.get_rng_state(), loader.generator.get_state()
    Task(val=loader, metrics={"accuracy": metric}).evaluate(model)
    assert (model.training, model.drop.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(loader.generator.get_state(), states[1])
    assert not metric.update_called


def test_modes_are_restored_after_an_error():
    model = Pass()
    with pytest.raises(RuntimeError, match="broken"):
        task(forward=_broken).evaluate(model)
    assert model.training


def _broken(_model, _inputs):
    raise RuntimeError("broken")


def test_labels_are_asked_for_where_they_are_missing():
    with pytest.raises(InputError, match=r"batch 0 of val .* without labels, and 'accuracy'"):
        Task(val=[X], metrics={"accuracy": accuracy()}).evaluate(Pass())


def test_a_split_that_is_missing_is_named_with_those_that_are_there():
    with pytest.raises(InputError, match="no test data, it has val"):
        task().evaluate(Pass(), split="test")


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="val gave no batches"):
        Task(val=[], metrics={"a": accuracy()}).evaluate(Pass())


def test_a_task_without_metrics_and_loss_cannot_be_evaluated():
    with pytest.raises(InputError, match="no metrics and no loss"):
        Task(val=[(X, Y)]).evaluate(Pass())


def test_a_metric_of_several_numbers_is_refused():
    matrix = {"confusion": MulticlassConfusionMatrix(num_classes=3)}
    with pytest.raises(InputError, match=r"'confusion' gives .*\[3, 3\]"):
        task(metrics=matrix).evaluate(Pass())


def test_metrics_must_be_named():
    with pytest.raises(InputError, match="give a dict from name to metric"):
        Task(metrics=accuracy())


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(InputError, match="classes, binary, values"):
        Task(kind="numbers")


@pytest.mark.parametrize(
    ("metric", "maximise"),
    [(accuracy(), True), (MeanSquaredError(), False), (lambda *_: 0.0, True)],
)
def test_the_direction_comes_from_the_metric(metric, maximise):
    assert Task(metrics={"m": metric}).maximise is maximise


def test_the_direction_can_be_told():
    assert not Task(metrics={"m": lambda *_: 0.0}, higher_is_better={"m": False}).maximise


def test_a_metric_without_direction_is_refused():
    with pytest.raises(InputError, match="does not say whether higher is better"):
        _ = Task(metrics={"m": MulticlassConfusionMatrix(num_classes=3)}).maximise


def test_without_metrics_the_loss_is_the_headline_and_lower_is_better():
    alone = Task(loss=F.cross_entropy)
    assert alone.headline == "loss"
    assert alone.better(0.1, 0.2)


def test_nan_never_wins_and_always_loses():
    assert not task().better(float("nan"), 0.0)
    assert task().better(0.0, float("nan"))


def test_calibration_comes_from_the_training_data():
    assert Task(train=[(X, Y)], val=[(X[:1], Y[:1])]).calibration().samples == 4


def test_agreement_counts_equal_decisions():
    assert agreement(Pass(), First(), [(X, Y)]) == 0.5


class First(nn.Module):
    """Decides class 0 always."""

    def forward(self, x):
        return F.one_hot(torch.zeros(len(x), dtype=torch.int64), 3).float()


def test_a_network_agrees_with_itself():
    model = Pass()
    assert agreement(model, model, [X]) == 1.0


def test_rows_per_class_hold_accuracy_before_and_after():
    rows = compare(Pass(), First(), [(X, Y)], task=Task(classes=["cat", "dog"])).classes
    first, _, last = rows
    assert (first.name, first.count, first.before, first.after, first.agreement) == (
        *("cat", 1, 1.0, 1.0, 1.0),
    )
    assert (last.name, last.count, last.before, last.after, last.agreement) == (
        *("2", 2, 0.0, 0.5, 0.5),
    )


def test_values_agree_by_the_variance_that_is_reproduced():
    reference, model = Pass(), Pass()
    nn.init.constant_(model.scale, 0.5)
    share = agreement(model, reference, [X], task=Task(kind="values"))
    residual, variance = (0.5 * X).square().sum(), (X - X.mean()).square().sum()
    assert share == pytest.approx(float(1 - residual / variance), rel=1e-6)


def test_single_scores_are_refused_as_classes():
    with pytest.raises(InputError, match='kind="binary"'):
        agreement(Pass(), Pass(), [X[:, :1]], task=Task())


def test_without_a_task_single_scores_are_compared_as_values():
    halved = Pass()
    nn.init.constant_(halved.scale, 0.5)
    assert agreement(halved, Pass(), [X[:, :1]]) < 1.0


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no batches"):
        agreement(Pass(), Pass(), [])


def test_a_calibration_can_be_compared_on():
    assert agreement(Pass(), Pass(), Calibration.of([(X, Y)])) == 1.0


def test_outputs_of_different_shapes_are_refused_with_the_shapes():
    with pytest.raises(InputError, match=r"float32\[4, 3\], the reference float32\[4, 2\]"):
        agreement(Pass(), nn.Linear(3, 2), [X])

"""Networks whose batch is not in dimension 0: judged, cut, repaired and measured like others."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.distillation import Contrastive, Distillation, Logits, Relational
from penjing.errors import InputError
from penjing.graph.capture import capture
from penjing.pruning.allocation import Genetic
from penjing.pruning.saliency import Snip
from penjing.task import Calibration, Task
from penjing.training import Fit, Teacher, fit
from penjing.training.settled import settled


class Net(nn.Module):
    """A recurrent layer over (time, batch, features), and a table beside it when asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.over, self.beside, self.read = nn.GRU(5, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.over(x)[0][-1]
        return self.read(h if y is None else torch.relu(h + self.beside(y)))


GENERATOR = torch.Generator().manual_seed(1)
X, Y = torch.randn(7, 8, 5, generator=GENERATOR), torch.randn(8, 4, generator=GENERATOR)
DATA = [torch.randn(7, 32, 5, generator=GENERATOR) for _ in range(4)]
BOTH = [{"x": x, "y": torch.randn(32, 4, generator=GENERATOR)} for x in DATA]
INPUTS = {"one input": (X, DATA), "two inputs": ({"x": X, "y": Y}, BOTH)}


CRITERIA = ["taylor", "fisher", "apoz", "chip", "ablation", "sensitivity"]


class BatchFirst(nn.Module):
    """The same network for samples in dimension 0."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(0, 1))


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_choose_as_they_do_for_samples_in_dimension_0(name: str) -> None:
    net = Net().eval()
    settings = {"pruning_ratio": 0.5, "importance": name, "repair": None}
    turned = [batch.transpose(0, 1) for batch in DATA]
    first = pj.prune(BatchFirst(net), turned[0][:8], calibration=turned, **settings)
    found = pj.prune(net, X, calibration=DATA, **settings)
    assert list(found.plan.drop.values()) == list(first.plan.drop.values())


def test_a_search_that_measures_takes_them() -> None:
    how = Genetic(evaluations=4, population=2)
    pruned = pj.prune(Net().eval(), X, pruning_ratio=0.5, allocation=how, calibration=DATA)
    assert pruned.model.over.hidden_size == 6


def test_a_mean_loss_is_taken_over_samples_and_not_over_time() -> None:
    model, labels = Net().eval(), torch.arange(32) % 3
    data = Calibration.of([(batch, labels) for batch in DATA], dims=(1,))
    program = capture(model, X)
    weights = {"read.weight": model.read.weight.detach()}
    found = Snip().elements(program, weights, data)["read.weight"]
    whole = [F.cross_entropy(model(batch), labels) for batch in DATA]
    (gradient,) = torch.autograd.grad(torch.stack(whole).mean(), [model.read.weight])
    torch.testing.assert_close(found, (gradient * model.read.weight).abs().detach())


def called(model: nn.Module, batch: object) -> Tensor:
    with torch.no_grad():
        return model(**batch) if isinstance(batch, dict) else model(batch)


@pytest.mark.parametrize(("example", "data"), INPUTS.values(), ids=list(INPUTS))
def test_every_sample_is_read(example: object, data: list[object]) -> None:
    pruned = pj.prune(Net().eval(), example, pruning_ratio=0.5, calibration=data)
    assert pruned.report.data.choices["calibration samples"] == "128"


@pytest.mark.parametrize(("example", "data"), INPUTS.values(), ids=list(INPUTS))
def test_repair_brings_the_outputs_nearer(example: object, data: list[object]) -> None:
    model, errors = Net().eval(), []
    for repair in (None, "auto"):
        pruned = pj.prune(model, example, pruning_ratio=0.5, calibration=data, repair=repair)
        gaps = [called(pruned.model, batch) - called(model, batch) for batch in data]
        errors.append(float(torch.cat(gaps).square().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("repair", ["recalibrate", "tune"])
def test_other_repairs_take_them_too(repair: str) -> None:
    how = {"repair": repair} if repair != "tune" else {"repair": pj_tune()}
    pruned = pj.prune(Net().eval(), X, pruning_ratio=0.5, calibration=DATA, **how)
    assert called(pruned.model, DATA[0]).shape == (32, 3)


def pj_tune() -> object:
    from penjing.recovery.tune import Tune

    return Tune(steps=4, batch=8)


def test_zeros_are_judged_on_them() -> None:
    sparse = pj.sparsify(Net().eval(), X, sparsity=0.5, calibration=DATA, keep_dense=())
    assert sparse.report.data.agreement > 0.5


def test_calibration_of_another_length_shows_both_shapes() -> None:
    with pytest.raises(InputError, match=r"float32\[5, 1, 5\].*float32\[7, 8, 5\]"):
        pj.prune(Net().eval(), X, pruning_ratio=0.5, calibration=[DATA[0][:5]])


def test_costs_are_those_of_one_sample() -> None:
    figures = pj.measure(Net().eval(), X, latency=False)
    assert figures.macs == 7 * 3 * 12 * (5 + 12) + 12 * 3


LABELS = torch.arange(32) % 3
LABELLED = [(batch, LABELS) for batch in DATA]


def test_a_mean_over_validation_batches_counts_samples() -> None:
    uneven = [(DATA[0], LABELS), (DATA[1][:, :8], LABELS[:8])]
    task = settled(Task(val=uneven, loss=F.cross_entropy), model := Net())
    model.eval()
    whole = torch.cat([called(model, x) for x, _ in uneven])
    expected = float(F.cross_entropy(whole, torch.cat([y for _, y in uneven])))
    assert task.evaluate(model)["loss"] == pytest.approx(expected, rel=1e-5)


def test_tags_of_every_step_are_cut_with_their_samples() -> None:
    tags = torch.arange(7 * 32).reshape(7, 32)
    data = Calibration.of([(DATA[0], tags)], dims=(1,))
    second = list(data.pieces(8))[1]
    assert torch.equal(second.labels, tags[:, 8:16])


@pytest.mark.parametrize("verb", ["finetune", "train", "distill"])
def test_training_counts_samples(verb: str) -> None:
    task = Task(train=[LABELLED[0], (DATA[1][:, :8], LABELS[:8])], loss=F.cross_entropy)
    settings = {"epochs": 1, "lr": 1e-12, "optimizer": "sgd"}
    net = Net()
    if verb == "finetune":
        report = pj.finetune(net, task, teacher=None, **settings).report
    elif verb == "train":
        report = pj.train(net, task, **settings).report
    else:
        report = pj.distill(net, net, task, loss=Logits(weight=0.0), **settings).report
    scores = torch.cat([called(net, batch) for batch, _ in task.train])
    whole = F.cross_entropy(scores, torch.cat([labels for _, labels in task.train]))
    assert report.data.epochs[0].loss == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize("loss", [Relational(), Contrastive()], ids=["relational", "contrastive"])
@pytest.mark.parametrize("inside", [False, True], ids=["everywhere", "inside alone"])
def test_inner_layers_are_compared_sample_by_sample(loss: Distillation, inside: bool) -> None:
    """The loss of the first step is that of the same values with samples in dimension 0."""
    student, teacher = Net(), Net()
    with torch.no_grad():
        teacher.over.weight_ih_l0.mul_(-1)
        values = (net.over(DATA[0])[0].transpose(0, 1) for net in (student, teacher))
        mine, theirs = ((value,) for value in values)
        wanted = float(loss(mine, theirs))
    data = [DATA[0].transpose(0, 1)] if inside else DATA[:1]
    models = [BatchFirst(net) if inside else net for net in (student, teacher)]
    name = "net.over" if inside else "over"
    lesson = Teacher(models[1], loss, {name: name})
    task = settled(Task(train=data), models[0])
    fitted = fit(models[0], task, Fit(epochs=1, progress=False), [lesson])
    assert fitted.epochs[0].loss == pytest.approx(wanted, rel=1e-4)


def test_quantize_takes_them() -> None:
    made = pj.quantize(Net().eval(), X, calibration=DATA)
    torch.testing.assert_close(
        called(made.model, DATA[0]), called(Net().eval(), DATA[0]), atol=0.05, rtol=0
    )


def test_compress_judges_on_samples_held_out() -> None:
    found = pj.compress(Net().eval(), X, calibration=DATA, constraints={"params": "70%"}, minutes=1)
    assert found.report.data.agreement > 0.5


def test_compress_reads_them_from_a_task() -> None:
    task = Task(train=LABELLED, val=LABELLED[:1], loss=F.cross_entropy)
    found = pj.compress(
        Net().eval(), X, task=task, constraints={"params": "70%"}, recovery=None, minutes=1
    )
    assert found.report.data.choices["calibration samples"] == "128"


def test_an_exported_file_takes_another_batch(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    pj.export(Net().eval(), X, path)
    session = onnxruntime.InferenceSession(path)
    given = DATA[0][:, :3]
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found), called(Net().eval(), given), atol=1e-5, rtol=1e-4
    )


def test_a_compiled_program_takes_the_batch_it_was_compiled_for(tmp_path: Path) -> None:
    program = pj.compile(Net().eval(), X, out=tmp_path / "c", batch=3)
    given = DATA[0][:, :3].contiguous()
    torch.testing.assert_close(program(given), called(Net().eval(), given), atol=1e-5, rtol=1e-4)


def test_latency_is_measured_at_the_batch_asked_for() -> None:
    figures = pj.measure(Net().eval(), X, n=2, batch=4)
    assert figures.latency.batch == 4


def test_the_report_says_where_the_batch_is() -> None:
    notes = pj.prune(Net().eval(), X, pruning_ratio=0.5).report.data.notes
    assert any("the batch is in dimension 1" in note for note in notes)

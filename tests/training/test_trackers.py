"""Figures of a run, as each tracker gives them back."""

import math

import pytest
import torch
from tests.training.toys import Net, equal, task

from penjing.errors import MissingDependencyError, StrategyError
from penjing.training import Callback, Fit, fit
from penjing.training.trackers import MLflow, TensorBoard, WandB

CURVES = {"train/loss", "train/lr", "train/epoch_loss", "val/accuracy", "val/loss", "sparsity"}


class Recorded:
    """Keeps what a tracker is told."""

    def __init__(self):
        self.settings, self.rows, self.finished = {}, [], None

    def start(self, settings, folder, /):
        self.settings, self.folder = dict(settings), folder

    def log(self, values, step, /):
        self.rows.append((step, dict(values)))

    def finish(self, *, complete):
        self.finished = complete


class Fails(Callback):
    def on_epoch(self, _run, /):
        raise OSError("the disk is gone")


def run_with(tracker, model=None, **more):
    usual = {"epochs": 2, "lr": 0.02, "progress": False}
    return fit(model or Net(), task(), Fit(**{**usual, "tracker": tracker, **more}))


def test_every_step_is_told_with_its_loss_and_learning_rate():
    recorded = Recorded()
    run_with(recorded)
    steps = [(step, set(row)) for step, row in recorded.rows if "train/loss" in row]
    assert steps == [(n, {"train/loss", "train/lr"}) for n in range(1, 9)]


def test_every_epoch_is_told_with_what_the_result_says():
    recorded = Recorded()
    result = run_with(recorded)
    told = [row for _, row in recorded.rows if "epoch" in row]
    assert [row["val/accuracy"] for row in told] == [e.metrics["accuracy"] for e in result.epochs]


def test_the_mean_of_the_step_losses_is_the_epoch_loss():
    recorded = Recorded()
    result = run_with(recorded, epochs=1)
    losses = [row["train/loss"] for _, row in recorded.rows if "train/loss" in row]
    assert math.isclose(sum(losses) / len(losses), result.epochs[0].loss, rel_tol=1e-12)


def test_sparsity_is_the_share_of_zeros_in_matrices():
    model, recorded = Net(), Recorded()
    with torch.no_grad():
        model.inside.weight[:4] = 0  # 24 of 48 + 16 weights
    model.requires_grad_(requires_grad=False).outside.bias.requires_grad_()
    run_with(recorded, model, epochs=1)
    assert recorded.rows[-1][1]["sparsity"] == 24 / 64


def test_tracking_changes_nothing_in_training():
    plain, tracked = Net(), Net()
    run_with(None, plain)
    run_with(Recorded(), tracked)
    assert equal(plain, tracked)


def test_a_run_that_fails_is_closed_as_incomplete():
    recorded = Recorded()
    with pytest.raises(OSError, match="gone"):
        fit(Net(), task(), Fit(epochs=1, progress=False, tracker=recorded), [Fails()])
    assert recorded.finished is False


def test_a_run_resumes_with_a_tracker_that_it_did_not_begin_with(tmp_path):
    whole = Net()
    run_with(None, whole)
    run_with(None, epochs=2, workdir=tmp_path, minutes=1e-9)
    again, recorded = Net(), Recorded()
    run_with(recorded, again, workdir=tmp_path)
    assert equal(whole, again)


def test_several_trackers_are_told_the_same():
    first, second = Recorded(), Recorded()
    run_with([first, second], epochs=1)
    assert first.rows == second.rows


@pytest.mark.parametrize("wrong", ["tensorbord", object()], ids=["a name", "an object"])
def test_what_is_no_tracker_is_refused_with_the_known_ones(wrong):
    with pytest.raises(StrategyError, match=r"start"):
        Fit(tracker=wrong)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_names_what_brings_it(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"{name}.*penjing\[track\]"):
        run_with(name)


def test_tensorboard_reads_back_what_was_told(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_with(TensorBoard(), workdir=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) >= CURVES
    assert [point.step for point in events.Scalars("train/loss")] == list(range(1, 9))


def test_a_resumed_tensorboard_has_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_with("tensorboard", workdir=tmp_path, epochs=40, minutes=1e-4, save_seconds=0.0)
    run_with("tensorboard", workdir=tmp_path, epochs=40)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0}).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == list(range(1, 161))


@pytest.mark.filterwarnings("ignore")  # the client's own
def test_mlflow_gives_back_what_was_told_and_goes_on_with_the_run_of_the_folder(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    run_with(MLflow(uri=uri), workdir=tmp_path, epochs=40, minutes=1e-4, save_seconds=0.0)
    run_with(MLflow(uri=uri), workdir=tmp_path, epochs=40)
    client = tracking.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("penjing").experiment_id])
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "train/loss")}
    assert (steps, run.info.status, set(run.data.metrics) >= CURVES) == (
        set(range(1, 161)), "FINISHED", True
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # the client's own
def test_wandb_offline_leaves_a_run_to_be_sent_later(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_with(WandB(mode="offline"), workdir=tmp_path, epochs=1)
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in written.read_bytes()

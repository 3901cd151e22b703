import pickle

import pytest
import torch
from tests.training.toys import Net, equal, task

from penjing import files
from penjing.distillation import Logits
from penjing.errors import CheckpointError
from penjing.training import Callback, Fit, Teacher, fit


class Killed(BaseException):
    """Not an error that anything handles, as a signal would be."""


class Dies(Callback):
    def __init__(self, step=None, epoch=None):
        self.step, self.epoch = step, epoch

    def on_step(self, run, /):
        if run.step == self.step:
            raise Killed

    def on_epoch(self, run, /):
        if run.epoch == self.epoch:
            raise Killed


class Counts(Callback):
    """A callback with state."""

    def __init__(self):
        self.total = 0.0

    def on_step(self, run, /):
        self.total += float(run.outputs.sum())

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state, /):
        self.total = state["total"]


def settings(workdir, **more):
    usual = {"epochs": 3, "lr": 0.02, "progress": False, "save_seconds": 0.0, "keep": "last"}
    return Fit(**{**usual, "workdir": workdir, **more})


def killed(folder, death, **more):
    """Run until `death`, then forget everything but the folder."""
    death.identity = lambda: "Dies"
    with pytest.raises(Killed):
        fit(Net(), task(), settings(folder, **more), (death,))


def resumed(folder, **more):
    model, still = Net(), Dies()
    still.identity = lambda: "Dies"
    return model, fit(model, task(), settings(folder, **more), (still,))


@pytest.fixture(scope="module")
def whole():
    model = Net()
    return model, fit(model, task(), settings(None))


@pytest.mark.parametrize(
    "death",
    [Dies(step=1), Dies(step=2), Dies(step=4), Dies(step=7), Dies(epoch=2), Dies(step=12)],
    ids=["first step", "second", "last of an epoch", "inside", "at an epoch", "last of all"],
)
def test_a_killed_run_ends_as_if_nothing_had_happened(death, tmp_path, whole):
    killed(tmp_path, death)
    model, result = resumed(tmp_path)
    assert equal(model, whole[0])
    assert [e.loss for e in result.epochs] == [e.loss for e in whole[1].epochs]
    assert [e.metrics for e in result.epochs] == [e.metrics for e in whole[1].epochs]


def test_a_killed_run_of_parts_at_their_own_rates_ends_the_same(tmp_path):
    rates = {"lr_by": {"outside": 0.1, "*.bias": 0.05}}
    expected = Net()
    fit(expected, task(), settings(None, **rates))
    killed(tmp_path, Dies(step=6), **rates)
    model, _ = resumed(tmp_path, **rates)
    assert equal(model, expected)


def test_a_checkpoint_of_other_rates_of_parts_is_refused(tmp_path):
    killed(tmp_path, Dies(step=2), lr_by={"outside": 0.1})
    with pytest.raises(CheckpointError, match=r"lr_by was outside: 0\.1, now it is outside: 0\.2"):
        resumed(tmp_path, lr_by={"outside": 0.2})


def test_checkpoints_far_apart_are_as_exact(tmp_path, whole):
    killed(tmp_path, Dies(step=11), save_seconds=1e9)
    model, _ = resumed(tmp_path, save_seconds=1e9)
    assert equal(model, whole[0])


def test_a_run_can_be_killed_again_and_again(tmp_path, whole):
    for step in (3, 5, 9):
        killed(tmp_path, Dies(step=step))
    model, _ = resumed(tmp_path)
    assert equal(model, whole[0])


def test_the_time_limit_only_interrupts(tmp_path, whole):
    calls = 0
    stopped = "first"
    while stopped:  # each call gets further; the minutes are a sum over the calls
        calls += 1
        model, result = resumed(tmp_path, minutes=calls * 2e-4)
        stopped = result.stopped
    assert calls > 1
    assert equal(model, whole[0])


def test_a_finished_run_is_only_read(tmp_path, whole):
    resumed(tmp_path)
    before = (tmp_path / "fit.pt").stat().st_mtime_ns
    model, result = resumed(tmp_path)
    assert equal(model, whole[0])
    assert result.steps == 12
    assert (tmp_path / "fit.pt").stat().st_mtime_ns == before


def test_the_best_state_survives(tmp_path):
    first = Net()
    expected = fit(first, task(), settings(None, keep="best", lr=0.3))
    killed(tmp_path, Dies(step=10), keep="best", lr=0.3)
    model, result = resumed(tmp_path, keep="best", lr=0.3)
    assert equal(model, first)
    assert result.kept_epoch == expected.kept_epoch


def test_callbacks_keep_their_state(tmp_path):
    uninterrupted = Counts()
    fit(Net(), task(), settings(None), (uninterrupted, Dies()))
    with pytest.raises(Killed):
        fit(Net(), task(), settings(tmp_path), (Counts(), Dies(step=6)))
    again = Counts()
    fit(Net(), task(), settings(tmp_path), (again, Dies()))
    assert again.total == uninterrupted.total


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_older_one(
    when, tmp_path, whole, monkeypatch
):
    saves = 0
    write_bytes = files.write_bytes

    def dying(path, content):
        nonlocal saves
        saves += 1
        if saves < 3:
            return write_bytes(path, content)
        part = path.with_name(".fit-half.pt")
        part.write_bytes(content[: len(content) // 2] if when == "writing" else content)
        raise Killed

    monkeypatch.setattr(files, "write_bytes", dying)
    killed(tmp_path, Dies())
    monkeypatch.undo()
    model, _ = resumed(tmp_path)
    assert equal(model, whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["fit.pt"]


def test_a_full_disk_is_an_error_and_the_older_checkpoint_stays(tmp_path, monkeypatch):
    killed(tmp_path, Dies(step=3))
    before = (tmp_path / "fit.pt").read_bytes()

    def full(_path, _content):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        resumed(tmp_path)
    assert (tmp_path / "fit.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"lr": 0.5}, "lr was 0.02, now it is 0.5"),
        ({"epochs": 9}, "epochs was 3"),
        ({"seed": 4}, "seed"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(more, named, tmp_path):
    killed(tmp_path, Dies(step=3))
    with pytest.raises(CheckpointError, match=named):
        resumed(tmp_path, **more)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(Net(), task(), settings(tmp_path))
    other = Net()
    torch.nn.init.zeros_(other.outside.bias)
    with pytest.raises(CheckpointError, match="weights was"):
        fit(other, task(), settings(tmp_path))


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path):
    fit(Net(), task(), settings(tmp_path), (Teacher(Net(), Logits()),))
    with pytest.raises(CheckpointError, match="callbacks was"):
        fit(Net(), task(), settings(tmp_path), (Teacher(torch.nn.Linear(6, 2), Logits()),))


def test_a_truncated_checkpoint_is_refused(tmp_path):
    killed(tmp_path, Dies(step=3))
    path = tmp_path / "fit.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        resumed(tmp_path)


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the checkpoint was unpickled",))


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    torch.save({"version": 1, "model": Payload()}, tmp_path / "fit.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resumed(tmp_path)


def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / "fit.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        resumed(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [({"version": 99}, "upgrade penjing"), ([1], "no training checkpoint")]
)
def test_a_foreign_checkpoint_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "fit.pt")
    with pytest.raises(CheckpointError, match=message):
        resumed(tmp_path)


def test_an_incomplete_checkpoint_is_refused(tmp_path):
    killed(tmp_path, Dies(step=3))
    content = torch.load(tmp_path / "fit.pt", weights_only=True)
    del content["optimizer"]
    torch.save(content, tmp_path / "fit.pt")
    with pytest.raises(CheckpointError, match="is damaged: 'optimizer'"):
        resumed(tmp_path)

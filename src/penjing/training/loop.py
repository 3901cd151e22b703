"""The one training loop. What is special about a method is a callback, never a second loop.

A run is exactly resumable: a checkpoint holds the model, the optimizer, the callbacks, the random
states at the start of the epoch (which give the order of the data) and after the last step. To
resume, the epoch's data is read again up to that step. Loaders with worker processes are as exact,
as long as the workers live for one epoch (`persistent_workers=False`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import CheckpointError, InputError
from penjing.figures import EpochFigures
from penjing.task import Batch, Task, Tasks, evaluating, random_kept, random_state, set_random_state
from penjing.task.batches import check_call, describe
from penjing.task.randomness import buffers_kept, device_of, modes_kept, seed_all
from penjing.training import resume
from penjing.training.callbacks import Callback, DivergedError, check_callbacks
from penjing.training.compiling import compiled, first_call
from penjing.training.optimizers import optimizer
from penjing.training.processes import joined
from penjing.training.progress import progress_bar
from penjing.training.run import FitResult, Run, snapshot, tensors_of, write_back
from penjing.training.schedules import schedule
from penjing.training.settings import Fit, in_words
from penjing.training.teacher import weights_hash
from penjing.training.trackers import resolve
from penjing.training.tracking import Tracking

DEFAULT = Fit()
DECISIVE = (
    *("epochs", "optimizer", "lr", "weight_decay", "schedule", "warmup", "clip"),
    *("accumulate", "precision", "patience", "keep", "keep_from", "seed"),
)
"""Settings that decide what comes out; the others only when and where."""


def fit(
    model: nn.Module,
    task: Task | Tasks,
    settings: Fit = DEFAULT,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train `model` in place; everything is checked on a trial batch before the first write.

    Train/eval modes and random states are as before when this returns or raises. A loss that is
    no longer finite ends the run: the model goes back to the best or last good epoch, and the
    result says where it happened.

    Args:
        model: Trained on the device where it is.
        task: Its `train` data and loss; `val` data judges the epochs. Several share each epoch.
        settings: How to train.
        callbacks: What else happens in the loop, in this order.

    Returns:
        What happened.

    Raises:
        InputError: No data, no labels, nothing to train, a first batch without a finite loss, or
            several processes where none were started.
        StrategyError: An unknown optimizer, a callback with a hook that does not exist, or a
            network that `torch.compile` cannot take.
        MissingDependencyError: A tracker is not installed.
        CheckpointError: The work folder holds a checkpoint that is damaged or of another run.
        OSError: A checkpoint cannot be written.
    """
    check_callbacks(callbacks)
    if settings.patience and not task.judges:
        raise InputError(
            "patience needs validation data, and metrics or a loss to judge epochs by; give "
            "Task(val=loader, metrics=...)"
        )
    task.data("train")  # every task must have some
    loaders = [data for part in task.parts.values() for data in (part.train, part.val)]
    steps = settings.lr, settings.weight_decay, settings.lr_by
    made = optimizer(settings.optimizer, model, *steps)
    processes = joined(settings.distributed, device_of(model))
    with (
        random_kept(*loaders),
        modes_kept(model),
        progress_bar(settings.progress and processes.first) as tick,
    ):
        seed_all(settings.seed)
        processes.begin_alike(model)
        callbacks = [*callbacks, *(_trackings(settings) if processes.first else ())]
        run = Run(model, task, settings, made, processes, task.length(processes.size))
        try:
            return _Loop(run, callbacks, loaders, tick).go()
        finally:
            for callback in callbacks:
                callback.on_close(run)
            made.zero_grad(set_to_none=True)


@dataclass(eq=False, slots=True)
class _Loop:
    """The moving parts of one call of `fit`."""

    run: Run
    callbacks: Sequence[Callback]
    loaders: list[Any]
    tick: Callable[[Run], None]
    started: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)
    epoch_started: float = field(default_factory=time.monotonic)
    spent: float = 0.0  # seconds of earlier calls
    pending: int = 0  # batches whose gradients wait for a step
    share: float = 1.0  # of this process in the samples of the last batch
    truncated: bool = False
    identity: dict[str, str] = field(default_factory=dict)
    epoch_random: dict[str, Any] = field(default_factory=dict)
    step_random: dict[str, Any] = field(default_factory=dict)
    called: nn.Module = field(init=False)  # the model, or the compiled form of it

    def __post_init__(self) -> None:
        self.called = self.run.model

    def go(self) -> FitResult:
        run = self.run
        for callback in self.callbacks:
            callback.on_start(run)
        with random_kept(*self.loaders):
            trials = self._rehearse()
        if self._resume(trials):
            return self._result()
        while run.epoch < run.settings.epochs and not run.stopped:
            try:
                self._next_epoch()
            except DivergedError as error:
                write_back(run.model, run.kept)
                run.stop(f"{error}; the state {_after(run.kept_epoch)} was kept")
        return self._finish()

    def _rehearse(self) -> list[Batch]:
        """Refuse what cannot be trained before anything is written; a batch of every task."""
        run = self.run
        batches = [self._first(name, part) for name, part in run.task.parts.items()]
        if run.settings.compile:
            self.called = compiled(run.model)
            with first_call(run.model), modes_kept(run.model), buffers_kept(run.model):
                run.model.train()
                self._loss(batches[0]).backward()
            run.optimizer.zero_grad(set_to_none=True)
        return batches

    def _first(self, name: str, part: Task) -> Batch:
        """The first batch of a task, after its loss was computed once."""
        run, whose = self.run, f"task {name!r}: " if name else ""
        batch = next(part.batches("train"), None)
        if batch is None:
            raise InputError(f"{whose}train gave no batches; is the loader empty?")
        batch = replace(batch, task=name)
        try:
            with evaluating(run.model), torch.no_grad():
                loss = float(self._loss(batch))
        except InputError as error:
            raise InputError(f"{whose}{error}") from error
        if not math.isfinite(loss):
            raise InputError(f"{whose}the loss of the first batch is {loss}: {_cause(run)}")
        return batch

    def _resume(self, trials: Sequence[Batch]) -> bool:
        """Go on where a checkpoint was taken, or begin; True when that run was over."""
        run = self.run
        self.identity = _identity(run, self.decisive, trials)
        saved = resume.load(self.folder, run, self.decisive, self.identity) if self.folder else None
        self.spent = run.seconds
        if len(set(run.processes.gather(saved is None))) > 1:
            raise CheckpointError(
                f"some processes find a checkpoint in {self.folder} and others none; workdir must "
                "be on a disk that all of them see"
            )
        if saved is None:
            run.metrics_before = self._evaluate()
            run.kept = snapshot(run.model)
            return False
        self.step_random = saved.step_random[run.processes.rank]
        set_random_state(saved.epoch_random, *self.loaders)
        return saved.finished

    def _next_epoch(self) -> None:
        """One epoch, or the end of one that the time limit cut."""
        run = self.run
        if not self._expired():
            self._epoch()
        self.truncated = self._expired() and run.epoch < run.settings.epochs
        if self.truncated:
            done = run.epoch + (run.batch / run.length if run.length else 0)
            run.stop(
                f"the time limit of {run.settings.minutes:g} minutes ended it after "
                f"{done:.2f} of {run.settings.epochs} epochs"
            )
        if run.batch:
            self._judge()

    def _epoch(self) -> None:
        """Batches to the end of the epoch, a stop, or the time limit."""
        run = self.run
        self.epoch_random = run.processes.gather(random_state(*self.loaders))[0]
        set_random_state(self.epoch_random, *self.loaders)
        self.epoch_started = time.monotonic()
        batches = run.processes.batches(run.task)
        for _ in range(run.batch):  # read again, so that the loader is where it was
            next(batches)
        if run.batch:
            set_random_state(self.step_random)
        run.model.train()
        for batch in batches:
            self._step(batch)
            self.tick(run)
            if self.pending:  # a checkpoint holds no gradients: first the step, then the rest
                continue
            if self._interrupted():
                return
        if self.pending:
            self._apply()
        run.length = run.batch
        self._judge()
        self.epoch_random = random_state(*self.loaders)
        if run.epoch < run.settings.epochs and not run.stopped:
            self._save(self.epoch_random)

    def _interrupted(self) -> bool:
        """After a step: save when it is time; whether the epoch ends here, agreed by all."""
        run = self.run
        late = time.monotonic() - self.saved_at >= run.settings.save_seconds
        late, expired, stopped = run.processes.any(late, self._overdue(), bool(run.stopped))
        if late or expired:
            self._save(random_state())
        if stopped:
            run.stop("another process ended it")
        return stopped or (expired and run.batch != run.length)

    def _step(self, batch: Batch | None) -> None:
        run = self.run
        factor = schedule(run.settings.schedule, run.settings.warmup)(run.progress)
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        loss = None if batch is None else self._loss(batch)
        own = 0 if batch is None else batch.samples
        value, samples, self.share = run.processes.weigh(loss, own)
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value} at {run.place}: {_cause(run)}")
        if not self.pending:
            run.optimizer.zero_grad(set_to_none=True)
        if loss is not None:
            (loss * self.share / run.settings.accumulate).backward()
        self.pending += 1
        run.outputs = pytree.tree_map(_detached, run.outputs)
        run.loss = value
        run.loss_sum += value * samples
        run.samples += samples
        if self.pending == run.settings.accumulate:
            self._apply()
        run.batch += 1

    def _apply(self) -> None:
        """One step of the optimizer on the gradients that are there."""
        run = self.run
        self.pending = 0
        run.processes.sum_gradients(run.model.parameters())
        run.processes.average_buffers(run.model, self.share)
        for callback in self.callbacks:
            callback.on_backward(run)
        if run.settings.clip is not None:
            parameters = (p for group in run.optimizer.param_groups for p in group["params"])
            norm = float(nn.utils.clip_grad_norm_(parameters, run.settings.clip))
            if not math.isfinite(norm):
                raise DivergedError(f"the norm of the gradient became {norm} at {run.place}")
        run.optimizer.step()
        run.step += 1
        for callback in self.callbacks:
            callback.on_step(run)

    def _loss(self, batch: Batch) -> Tensor:
        """Outputs and loss of a batch, with what the callbacks add."""
        run = self.run
        device = device_of(run.model)
        moved = batch.to(device)
        run.of, run.inputs, run.labels = batch.task, moved.inputs, moved.labels
        part = run.part
        if run.step == 0 and part.forward is None:
            check_call(run.model, run.inputs)
        mixed = run.settings.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            run.outputs = part.predict(self.called, run.inputs)
            loss = part.loss_of(run.outputs, run.labels)
            for callback in self.callbacks:
                loss = callback.on_loss(run, loss)
        if loss is None:
            lacks = "the task has no loss" if part.loss is None else "it has no labels"
            raise InputError(
                f"nothing to train on in {run.place}, {describe(batch.inputs)}: {lacks}; give "
                "Task(loss=...) and (inputs, labels), or a teacher, which needs neither"
            )
        return loss * run.task.loss_weight(run.of)

    def _judge(self) -> None:
        """Close the epoch: figures, the state to keep, patience."""
        run = self.run
        for callback in self.callbacks:
            callback.on_judge(run)
        metrics = self._evaluate()
        bad = _spoiled(run)
        undefined = run.task.undefined(metrics)
        if bad or undefined:
            what = f"{bad} is" if bad else f"{undefined} on validation is"
            raise DivergedError(f"{what} no longer finite at the end of epoch {run.epoch + 1}")
        seconds, loss = time.monotonic() - self.epoch_started, run.loss_sum / run.samples
        lr = float(run.optimizer.param_groups[0]["lr"])
        run.epoch += 1
        run.history.append(EpochFigures(run.epoch, loss, metrics, lr, seconds))
        run.batch, run.loss_sum, run.samples = 0, 0.0, 0
        run.inputs = run.labels = run.outputs = None
        best = run.best_epoch()
        if not run.keeps_best or best == run.epoch:
            run.kept, run.kept_epoch = snapshot(run.model), run.epoch
        patience = run.settings.patience
        if patience is not None and run.epoch - best >= patience:
            run.stop(f"no better {run.task.goal} on validation for {patience} epochs")
        for callback in self.callbacks:
            callback.on_epoch(run)

    def _evaluate(self) -> dict[str, float]:
        run = self.run
        return run.task.evaluate(run.model, peers=run.processes) if run.validates else {}

    def _finish(self) -> FitResult:
        run = self.run
        if run.keeps_best and run.kept_epoch >= run.settings.keep_from:
            write_back(run.model, run.kept)
            if run.history and run.kept_epoch == 0:
                run.notes.append("no epoch was better than the start, which was kept")
        for callback in self.callbacks:
            callback.on_end(run)
        if not self.truncated:
            self._save(random_state(), finished=True)
        return self._result()

    def _result(self) -> FitResult:
        run = self.run
        return FitResult(
            epochs=tuple(run.history),
            kept_epoch=run.kept_epoch,
            metrics_before=run.metrics_before,
            metrics_after=run.metrics_of(run.kept_epoch),
            steps=run.step,
            seconds=self._elapsed(),
            stopped=run.stopped,
            notes=tuple(run.notes),
        )

    @property
    def decisive(self) -> list[Callback]:
        """Callbacks that decide what comes out; a checkpoint knows the others not."""
        return [callback for callback in self.callbacks if callback.identity()]

    @property
    def folder(self) -> Path | None:
        """Where checkpoints go, if anywhere."""
        return Path(self.run.settings.workdir) if self.run.settings.workdir else None

    def _save(self, step_random: dict[str, Any], *, finished: bool = False) -> None:
        if self.folder is None:
            return
        self.run.seconds = self._elapsed()
        states = self.run.processes.gather(step_random)
        saved = resume.Saved(self.epoch_random or random_state(*self.loaders), states, finished)
        if self.run.processes.first:
            resume.save(self.folder, self.run, self.decisive, self.identity, saved)
        self.saved_at = time.monotonic()

    def _elapsed(self) -> float:
        return self.spent + time.monotonic() - self.started

    def _expired(self) -> bool:
        """Whether the time limit has passed, agreed by all processes, which must all ask."""
        return self.run.processes.any(self._overdue())[0]

    def _overdue(self) -> bool:
        minutes = self.run.settings.minutes
        return minutes is not None and self._elapsed() >= 60 * minutes


def _trackings(settings: Fit) -> list[Callback]:
    trackers = resolve(settings.tracker)
    return [Tracking(trackers)] if trackers else []


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _after(epoch: int) -> str:
    return f"after epoch {epoch}" if epoch else "before training"


def _spoiled(run: Run) -> str | None:
    """The first tensor that is not finite; constants may be infinite, as masks of attention are."""
    for name, tensor in tensors_of(run.model).items():
        fine = (
            tensor.isfinite() | (tensor == run.kept[name]) if name in run.kept else ~tensor.isnan()
        )
        if not fine.all():
            return name
    return None


def _cause(run: Run) -> str:
    """Where values stop being finite."""
    for leaf in pytree.tree_leaves(run.inputs):
        if isinstance(leaf, Tensor) and not leaf.isfinite().all():
            return f"the inputs {describe(leaf)} of the batch have NaN or infinite values"
    if bad := _spoiled(run):
        return f"{bad} has NaN or infinite values"
    for leaf in pytree.tree_leaves(run.outputs):
        if isinstance(leaf, Tensor) and not leaf.isfinite().all():
            return f"the outputs {describe(leaf)} have NaN or infinite values; try a lower lr"
    return "inputs, weights and outputs are finite, the loss function is not; look at the labels"


def _identity(run: Run, callbacks: Sequence[Callback], trials: Sequence[Batch]) -> dict[str, str]:
    """What a checkpoint must have been made with to be resumed."""
    return {
        "weights": weights_hash(run.model),
        **{name: in_words(getattr(run.settings, name)) for name in DECISIVE},
        **({"lr_by": in_words(run.settings.lr_by)} if run.settings.lr_by else {}),
        **({"compile": "True"} if run.settings.compile else {}),
        **({"processes": str(run.processes.size)} if run.processes.size > 1 else {}),
        "callbacks": ", ".join(callback.identity() for callback in callbacks),
        **run.task.identity(),
        "data": f"{run.length} batches, first {', '.join(describe(t.inputs) for t in trials)}",
    }

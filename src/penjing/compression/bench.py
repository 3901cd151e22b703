"""The bench where candidates are made: cut, repaired, trained, judged, measured, written down."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.compression.candidate import Candidate
from penjing.compression.clock import Clock
from penjing.compression.compiled import CompiledStopwatch
from penjing.compression.folder import RunFolder, key_of
from penjing.compression.progress import Progress
from penjing.compression.stopwatch import Stopwatch
from penjing.compression.yardstick import Yardstick
from penjing.distillation import Logits
from penjing.figures import EpochFigures
from penjing.graph.capture import Example
from penjing.plan import Plan
from penjing.report import ReportData
from penjing.sparse_training.keeping import KeepZeros
from penjing.task import Task, Tasks
from penjing.training import Callback, Fit, Teacher, fit
from penjing.verbs.preparation import Preparation
from penjing.verbs.work import Work, one_cut


@dataclass(eq=False, slots=True)
class Bench:
    """Everything that candidates of one network have in common.

    Args:
        preparation: Scores, error curves and costs of the original, on the CPU.
        reference: The original on its own device.
        example: Example inputs on the CPU.
        yardstick: How good a network is.
        stopwatch: Bytes and latency, against the original.
        folder: Where finished candidates are.
        clock: The time limit.
        identity: All that decides what a candidate is, apart from its plan and training.
        fitting: How to train; its time limit and folder are set here.
        progress: Tells a person where the search is.
        models: Networks made in this run, by key.
    """

    preparation: Preparation
    reference: nn.Module
    example: Example
    yardstick: Yardstick
    stopwatch: Stopwatch | CompiledStopwatch
    folder: RunFolder
    clock: Clock
    identity: Mapping[str, str]
    fitting: Fit
    progress: Progress
    models: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def leaves_out_zeros(self) -> bool:
        """Whether the runtime is faster where weights are zero: penjing's C is."""
        return isinstance(self.stopwatch, CompiledStopwatch)

    @property
    def home(self) -> torch.device:
        """Where networks are trained and judged."""
        return next((p.device for p in self.reference.parameters()), torch.device("cpu"))

    def original(self) -> Candidate:
        """The network as it came, measured like any other candidate."""
        plan, key = self.preparation.network.plan({}), original_key(self.identity)
        found = self.folder.find(key, "original")
        if found is not None:
            return found
        self.progress.say("original", "measuring")
        started = time.monotonic()
        work = one_cut(self.preparation, plan)
        return self._finish("original", key, work, started, None, ())

    def candidate(self, plan: Plan, original: Candidate, *, trained: bool) -> Candidate | None:
        """The candidate of a plan: found when it was made before, else made.

        Args:
            plan: What to cut.
            original: The network that it is compared with.
            trained: Whether to fine-tune it.

        Returns:
            The candidate; None when the time was over before its training was.

        Raises:
            VerificationError: The cut, the repair or the exported file is not what it should be.
            OSError: It could not be written.
        """
        if plan.is_empty:
            return original
        key = self._key(plan, trained)
        name = self._name(plan, trained)
        found = self.folder.find(key, name)
        if found is not None:
            return found
        started = time.monotonic()
        self.progress.say(name, "cutting and repairing")
        torch.manual_seed(self.fitting.seed)
        work, epochs = one_cut(self.preparation, plan), tuple[EpochFigures, ...]()
        if trained:
            self.progress.say(name, "fine-tuning")
            done = self._trained(work, key, original)
            if done is None:
                return None
            work, epochs = done
        return self._finish(name, key, work, started, original, epochs)

    def known(self, plan: Plan, *, trained: bool) -> bool:
        """Whether the candidate of a plan is finished already."""
        found = self.folder.find(self._key(plan, trained), "") if not plan.is_empty else True
        return bool(found)

    def network(self, candidate: Candidate) -> nn.Module:
        """The network of a candidate, on the CPU, in eval mode."""
        if candidate.key not in self.models:
            return self.folder.network(candidate, self.preparation.model)
        return self.models[candidate.key].eval()

    def _key(self, plan: Plan, trained: bool) -> str:
        training = repr(replace(self.fitting, minutes=None, workdir=None)) if trained else "none"
        if trained and self.yardstick.task is not None:
            training += ", ".join(self.yardstick.task.identity().values())
        return key_of({**self.identity, "plan": plan.to_json(), "training": training})

    def _name(self, plan: Plan, trained: bool) -> str:
        kept = {g.name: len(plan.kept(g.name)) for g in self.preparation.groups}
        macs = self.preparation.costs["macs"](kept) / self.preparation.original["macs"]
        zeros = f", {_zeros(self.preparation, plan):.1%} zeros" if plan.sparsity else ""
        return f"{100 * macs:.2f}% of the MACs{zeros}" + (", fine-tuned" if trained else "")

    def _trained(
        self, work: Work, key: str, original: Candidate
    ) -> tuple[Work, tuple[EpochFigures, ...]] | None:
        """Train within what is left of the time; None when that was too little."""
        folder = self.folder.of(key)
        before = self.folder.partial(key)
        settings = replace(
            self.fitting,
            minutes=(before + max(self.clock.left, 1e-3)) / 60,
            workdir=folder / "training",
        )
        task: Task | Tasks = self.yardstick.task or Task()
        if isinstance(task, Tasks) and task.judges:
            task = replace(task, reference=original.data.metrics_after)
        losses = {n: Logits(kind=t.kind, class_dim=t.class_dim) for n, t in task.parts.items()}
        hooks: list[Callback] = [Teacher(self.reference, losses)]
        hooks += [KeepZeros()] if work.cut.plan.sparsity else []
        student = work.model.to(self.home)
        with self.progress.paused():
            result = fit(student, task, settings, hooks)
        work.model.cpu()
        if result.stopped.startswith("the time limit"):
            self.folder.put_off(key, result.seconds)
            return None
        tensors = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        held = {n: t.detach().cpu() for n, t in tensors.items() if n in work.tensors}
        notes = (result.stopped,) if result.stopped else ()
        notes = (*work.notes, *notes, *result.notes)
        return replace(work, tensors={**work.tensors, **held}, notes=notes), result.epochs

    def _finish(
        self,
        name: str,
        key: str,
        work: Work,
        started: float,
        original: Candidate | None,
        epochs: tuple[EpochFigures, ...],
    ) -> Candidate:
        """Judge, measure, write down."""
        model = work.model.eval()
        self.progress.say(name, "judging")
        metrics = self._judged(model)
        self.progress.say(name, "exporting and timing")
        data = self._data(work, epochs, metrics)
        assert data.after is not None  # a cut is counted
        data = replace(data, after=self.stopwatch.add(model, data.after, self.folder.onnx(key)))
        metric = metrics[self.yardstick.name]
        drop = 0.0 if original is None else self._drop(original, metrics)
        seconds = time.monotonic() - started
        made = Candidate(
            name=name,
            key=key,
            data=replace(data, seconds=seconds),
            metric=metric,
            drop=drop,
            trained=bool(epochs),
            seconds=seconds,
            folder=self.folder.of(key),
        )
        self.folder.keep(made, model, self.example, work.plan)
        self.models[key] = model
        self.clock.note()
        return made

    def _judged(self, model: nn.Module) -> dict[str, float]:
        there = model if self.home.type == "cpu" else copy.deepcopy(model).to(self.home)
        return self.yardstick.measure(there)

    def _drop(self, original: Candidate, metrics: Mapping[str, float]) -> float:
        return self.yardstick.drop(original.data.metrics_after, metrics)

    def _data(
        self, work: Work, epochs: tuple[EpochFigures, ...], metrics: Mapping[str, float]
    ) -> ReportData:
        data = work.report_data(self.preparation.model, None)
        return replace(data, epochs=epochs, metrics_after=metrics)


def _zeros(preparation: Preparation, plan: Plan) -> float:
    """Share of zeros among the weights of the layers that a plan gives some."""
    sizes = {name: preparation.network.program.tensors[name].numel() for name in plan.sparsity}
    return sum(share * sizes[n] for n, share in plan.sparsity.items()) / sum(sizes.values())


def original_key(identity: Mapping[str, str]) -> str:
    """Key of the network as it came."""
    return key_of({**identity, "plan": "original"})


def on_cpu(value: Example) -> Example:
    """Inputs with every tensor on the CPU."""
    moved: Example = pytree.tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, value)
    return moved

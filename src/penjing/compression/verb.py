"""`compress`: from budgets to a measured, repaired network and its report."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import torch
from torch import nn

from penjing.compression import summary
from penjing.compression.bench import Bench, on_cpu, original_key
from penjing.compression.clock import Clock
from penjing.compression.compiled import CompiledStopwatch
from penjing.compression.constraints import MEASURED, Bound, parse
from penjing.compression.folder import RunFolder, key_of
from penjing.compression.identity import identity_of, in_words
from penjing.compression.job import Job, refusal
from penjing.compression.progress import Progress
from penjing.compression.several import together
from penjing.compression.spaces import Space
from penjing.compression.stopwatch import Stopwatch
from penjing.compression.yardstick import Yardstick, divide
from penjing.errors import BudgetError, InputError, StrategyError, UnavailableError
from penjing.graph.capture import Example, capture, dims_of
from penjing.plan import BITS, WEIGHTS
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.patterns import Pattern
from penjing.pruning.selection import Key
from penjing.report import CandidateFigures, Report
from penjing.task import Calibration, Task, Tasks, random_kept
from penjing.task.outputs import Outputs
from penjing.task.samples import Dims
from penjing.training import Fit
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.choices import Choices
from penjing.verbs.export import export
from penjing.verbs.preparation import Preparation
from penjing.verbs.repairs import Repair

Recovery = Literal["auto", "finetune"] | None
Runtime = Literal["onnxruntime", "c"]

RUNTIME_CHANNELS = 4
"""Channels come in multiples of this where latency is bounded: ONNX Runtime's blocked convolutions
(MLAS, NCHWc) take no others, and a cut that leaves their path is slower than the original."""


class PruneOptions(TypedDict, total=False):
    """How candidates are cut, as keywords; the same as of `penjing.prune`."""

    importance: str | Importance | Prepares | type | None
    allocation: str | Allocation | None
    repair: Repair
    round_to: int | None
    ignored_layers: Iterable[Key] | Key
    pruning_ratio_dict: Mapping[Any, float] | None
    max_pruning_ratio: float
    scope: Iterable[str]
    pattern: str | Pattern


@dataclass(frozen=True, slots=True)
class Compressed:
    """The network that fits.

    Args:
        model: Of the user's own class when its forward allows it, else a graph module; trainable.
        report: Everything that was measured.
        pareto: Every candidate that was measured, in the order of the search.
        example_inputs: What `export` calls the network with.
    """

    model: nn.Module
    report: Report
    pareto: tuple[CandidateFigures, ...]
    example_inputs: Example = field(repr=False)

    def export(self, path: str | Path) -> Path:
        """Write the network in the format of the suffix, load it again and compare.

        Args:
            path: For instance "net.onnx".

        Returns:
            The path written.

        Raises:
            UnavailableError: A format that this version does not write.
            VerificationError: The file differs from the network; it was removed.
        """
        export(self.model, self.example_inputs, path)
        return Path(path)


@arguments_checked
def compress(  # noqa: PLR0913 - the public contract: each is a word of the task
    model: nn.Module,
    example_inputs: Example,
    *,
    constraints: Mapping[str, Any],
    task: Task | Tasks | Mapping[str, Task] | None = None,
    calibration: Any = None,
    device: str | None = None,
    minutes: float = 5.0,
    workdir: str | Path | None = None,
    recovery: Recovery = "auto",
    epochs: int = 3,
    runtime: Runtime = "onnxruntime",
    threads: int = 1,
    transform_fn: Callable[[Any], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[PruneOptions],
) -> Compressed:
    """Find, make and measure the network that fits the budgets.

    Budgets that follow from shapes (macs, params, ram_kb) are met by allocation at once. Budgets
    that must be measured (flash_kb, latency_ms, max_drop) are met by search: every candidate is
    cut, proved, repaired, judged, exported and timed in turns with the original. When only max_drop
    is given, the smallest network within it is looked for; else the one with the least drop.

    Args:
        model: The trained network; not changed.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        constraints: Upper bounds: macs, params, ram_kb, flash_kb, latency_ms, each a number or
            "50%" of the original; max_drop in units of the first metric (0.01 or "1%" is one
            point), without validation labels one minus the agreement with the original; of several
            tasks one bound for all, or with validation data {"max_drop": {"a": 0.01, "b": 0.02}}.
        task: Data, loss and metrics. Candidates are compared on `val`; `test` is looked at once.
            A dict of several, each with its own data and part of the outputs, is fine-tuned
            together; `penjing.task.Tasks` says more.
        calibration: Unlabelled batches to repair with; without it, 1000 samples of the task.
        device: Not in this version.
        minutes: Time limit, summed over resumed calls. It only truncates the list of candidates.
        workdir: Folder of the candidates and the report. Stop the call, make it again, and it goes
            on where it was; a call with other budgets reuses what it can.
        recovery: "auto" fine-tunes with the original as teacher where the drop needs it and the
            task has train data, "finetune" every candidate, None no candidate.
        epochs: Of one fine-tuning.
        runtime: What flash_kb and latency_ms are measured on, on this machine: "onnxruntime", or
            "c", the program that `penjing.compile` makes. That one leaves zeros out, so where one
            of these or max_drop alone is bounded, networks with zeros beside narrower widths are
            tried too, and the fastest counts as the smallest.
        threads: Of the timed runtime.
        transform_fn: Makes a batch of each item that `calibration` yields.
        seed: Of everything random; the same seed, candidates and latencies give the same network.
        progress: Show on a terminal where the search is.
        **options: As of `penjing.prune`: importance, allocation, repair, round_to, ignored_layers,
            pruning_ratio_dict, max_pruning_ratio, scope, pattern (of zeros). Where latency is
            bounded, round_to is 4 unless it is given: the runtime is fast on multiples of it.

    Returns:
        The network, its report and every candidate.

    Raises:
        InputError: Bad example inputs, weights or data, or neither task nor calibration.
        CaptureError: The network does not export.
        BudgetError: A constraint that makes no sense; `InfeasibleError` when none can be met.
        StrategyError: An unknown strategy or option.
        UnavailableError: A device, an energy budget, or a format of a later version.
        CheckpointError: A finished candidate in `workdir` is damaged.
        ExportError: A bound or `runtime` needs a file or program that cannot be made.
        VerificationError: A cut or an exported file is not what it should be.
        OSError: The disk is full or the folder cannot be written.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> data = [torch.randn(16, 8, generator=torch.Generator().manual_seed(0))]
        >>> result = compress(net, data[0][:1], calibration=data, constraints={"macs": "50%"})
        >>> result.report.after.macs <= 0.5 * result.report.before.macs
        True
    """
    judged, single = together(task, constraints)
    bounds = _checked(single, device, minutes)
    settings = _Settings(recovery, epochs, runtime, threads, minutes, seed, progress)
    settings.check(judged)
    judged = None if judged is None else settled(judged, model)
    dims = dims_of(model, example_inputs)
    samples = _samples(judged, calibration, transform_fn, seed, dims)
    used, held_out = divide(samples, judged)
    choices = _choices(options, bounds, seed)
    asked = _zeros_asked(options, bounds, runtime)
    with ExitStack() as stack:
        path = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="penjing-"))
        parts = judged.parts.values() if judged else ()
        loaders = [data for part in parts for data in (part.train, part.val)]
        stack.enter_context(random_kept(*loaders))
        torch.manual_seed(seed)
        data = _Data(judged, used, held_out)
        told = Progress(progress, minutes)
        stack.callback(told.close)
        told.say("network", "finding groups")
        bench = _bench(model, example_inputs, data, choices, (settings, bounds, Path(path), told))
        spaces, why = _spaces(bench, asked)
        return _search(
            bench, (bounds, spaces, why), settings, example_inputs, keep=workdir is not None
        )


@dataclass(frozen=True, slots=True)
class _Settings:
    recovery: Recovery
    epochs: int
    runtime: Runtime
    threads: int
    minutes: float
    seed: int
    progress: bool

    def check(self, task: Task | Tasks | None) -> None:
        if self.recovery not in ("auto", "finetune", None):
            raise StrategyError(
                f"recovery is {self.recovery!r}; it is 'auto', 'finetune' or None for no training"
            )
        if self.recovery == "finetune" and (task is None or task.train is None):
            raise InputError(
                "recovery='finetune' needs data to train on; give task=Task(train=loader, ...), or "
                "recovery=None"
            )
        if self.runtime not in get_args(Runtime):
            raise StrategyError(
                f"runtime is {self.runtime!r}; known are {', '.join(get_args(Runtime))}"
            )
        if isinstance(self.threads, bool) or self.threads < 1:
            raise InputError(f"threads is {self.threads!r}; it is a whole number, at least 1")


@dataclass(frozen=True, eq=False, slots=True)
class _Data:
    task: Task | Tasks | None
    used: Calibration
    held_out: Calibration | None


def _checked(
    constraints: Mapping[str, float | str], device: str | None, minutes: float
) -> dict[str, Bound]:
    if device is not None:
        raise UnavailableError(
            f"device={device!r}: device profiles are not in this version; leave device out, and "
            "latency is measured on ONNX Runtime on this machine"
        )
    if not minutes > 0:
        raise BudgetError(f"minutes is {minutes!r}; it is a time limit above 0")
    return parse(constraints)


def _samples(
    task: Task | Tasks | None,
    calibration: Any,
    transform_fn: Callable[[Any], Any] | None,
    seed: int,
    dims: Dims,
) -> Calibration:
    if calibration is not None:
        told = Outputs() if task is None else task.outputs_as_found
        return Calibration.of(calibration, transform_fn, seed=seed, dims=dims, outputs=told)
    if task is None or (task.first.train is None and task.first.val is None):
        raise InputError(
            "compress needs data to repair with and to compare by: give task=Task(train=..., "
            "val=...), or calibration=batches (unlabelled inputs are enough)"
        )
    return task.calibration(seed=seed)


def _choices(options: PruneOptions, bounds: Mapping[str, Bound], seed: int) -> Choices:
    unknown = sorted(set(options) - set(PruneOptions.__annotations__))
    if unknown:
        known = ", ".join(PruneOptions.__annotations__)
        raise StrategyError(f"compress has no option {unknown[0]!r}; the options are {known}")
    given: dict[str, Any] = dict(options)
    layers = given.get("ignored_layers", ())
    single = isinstance(layers, (str, type, nn.Module))
    given["ignored_layers"] = (layers,) if single else tuple(layers)
    given["pruning_ratio_dict"] = dict(given.get("pruning_ratio_dict") or {})
    if "latency_ms" in bounds and given.get("round_to") is None:
        given["round_to"] = RUNTIME_CHANNELS
    scope = given.get("scope", ("inner", "residual"))
    scope = frozenset({scope} if isinstance(scope, str) else scope)
    given["scope"] = scope - {WEIGHTS} or scope  # alone they are refused
    if BITS in given["scope"]:
        raise StrategyError(
            f"scope holds {BITS!r}, and compress returns networks in floats; choose bits by "
            "penjing.prune with a bound on size_kb, then call penjing.quantize"
        )
    given["pattern"] = Pattern.parse(given.get("pattern", Pattern()))
    return Choices(**given, seed=seed)


def _zeros_asked(
    options: PruneOptions, bounds: Mapping[str, Bound], runtime: Runtime
) -> bool | None:
    """Whether candidates have zeros: True alone, False none, None both where that can pay.

    Raises:
        StrategyError: Zeros are in scope where nothing that is bounded gains by them.
    """
    scope = options.get("scope")
    pays = runtime == "c" and (bool(set(MEASURED) & set(bounds)) or set(bounds) == {"max_drop"})
    if scope is None:
        return None if pays else False
    asked = WEIGHTS in ({scope} if isinstance(scope, str) else set(scope))
    if asked and not pays:
        raise StrategyError(
            f"scope holds {WEIGHTS!r}, and nothing that is bounded gains by zeros: ONNX Runtime "
            "multiplies by them like by any number, and macs, params and ram_kb count them. Use "
            "runtime='c' and bound latency_ms, flash_kb or max_drop alone, or make zeros by "
            "penjing.prune with a bound on effective_macs, nonzero or size_kb"
        )
    return asked


def _spaces(bench: Bench, asked: bool | None) -> tuple[tuple[Space, ...], str]:
    """Kinds of candidates that are tried, and why none has zeros where the runtime gains by them.

    Raises:
        StrategyError: Zeros were asked for, and the choices do not allow them.
    """
    widths = Space(bench.preparation)
    if asked is False:
        return (widths,), ""
    try:
        zeros = Space(bench.preparation.with_zeros(), "effective_macs")
    except StrategyError as error:
        if asked:
            raise
        return (widths,), f"no network with zeros was tried: {error}"
    return ((zeros,) if asked else (widths, zeros)), ""


def _bench(
    model: nn.Module,
    example_inputs: Example,
    data: _Data,
    choices: Choices,
    call: tuple[_Settings, Mapping[str, Bound], Path, Progress],
) -> Bench:
    """Prepare everything that all candidates share."""
    settings, bounds, path, progress = call
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    worker, example = model, example_inputs
    if home.type != "cpu":
        capture(model, example_inputs)  # says what is wrong before anything is copied
        worker, example = copy.deepcopy(model).cpu(), on_cpu(example_inputs)
    preparation = Preparation.of(worker, example, data.used, choices)
    identity = identity_of(worker, data.task, data.used, data.held_out, choices)
    identity = {**identity, "threads": str(settings.threads)}
    if settings.runtime != "onnxruntime":
        identity["runtime"] = settings.runtime
    folder = RunFolder(path)
    limits = {f"constraint {n}": b.text for n, b in bounds.items()}
    recovery = {"recovery": in_words(settings.recovery), "epochs": str(settings.epochs)}
    return Bench(
        preparation=preparation,
        reference=model,
        example=example,
        yardstick=Yardstick(data.task, model, data.held_out),
        stopwatch=_stopwatch(
            preparation, example, settings, bounds, folder.onnx(original_key(identity))
        ),
        folder=folder,
        clock=Clock(folder, key_of({**identity, **limits, **recovery}), 60 * settings.minutes),
        identity=identity,
        fitting=Fit(epochs=settings.epochs, seed=settings.seed, progress=settings.progress),
        progress=progress,
    )


def _stopwatch(
    preparation: Preparation,
    example: Example,
    settings: _Settings,
    bounds: Mapping[str, Bound],
    onnx: Path,
) -> Stopwatch | CompiledStopwatch:
    """What measures candidates on the runtime."""
    if settings.runtime == "c":
        return CompiledStopwatch(preparation.model, example, settings.threads)
    needed = bool(set(MEASURED) & set(bounds))
    return Stopwatch(preparation.network.program, example, settings.threads, needed, onnx)


def _search(
    bench: Bench,
    wanted: tuple[Mapping[str, Bound], tuple[Space, ...], str],
    settings: _Settings,
    example_inputs: Example,
    *,
    keep: bool,
) -> Compressed:
    bounds, spaces, why = wanted
    original = bench.original()
    if "max_drop" in bounds:
        bench.yardstick.check_bound(bounds["max_drop"].value, original.data.metrics_after)
    trains = bench.yardstick.task is not None and bench.yardstick.task.train is not None
    job = Job(
        bench,
        bounds,
        original,
        always_train=settings.recovery == "finetune",
        may_train=settings.recovery == "auto" and trains,
        spaces=spaces,
        without_zeros=why,
    )
    job.run()
    bench.clock.note()
    chosen = job.chosen
    if chosen is None:
        error = refusal(job)
        if keep:
            summary.write_report(bench.folder.path, Report(summary.refused(job, str(error))))
        raise error
    network = bench.network(chosen[0])
    report = Report(summary.report_data(job, chosen[0], network, settings.recovery))
    if keep:
        summary.write(bench.folder.path, report, network, bench.example, chosen[0])
    return Compressed(network.to(bench.home), report, report.data.candidates, example_inputs)

"""`quantize`: a trained network in integers, from unlabelled samples alone."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from penjing.counts.figures import program_figures
from penjing.errors import BudgetError, ExportError, InputError, StrategyError
from penjing.exporters import onnx_feeds, write_integers, write_program
from penjing.exporters.execution import execution_of
from penjing.exporters.saturation import saturation_notes
from penjing.figures import Figures
from penjing.graph.call import op_name
from penjing.graph.capture import Example, Program, capture, check_network, dims_of
from penjing.graph.folding import is_layer, stored_names
from penjing.latency.layers import layer_latencies
from penjing.latency.onnxruntime import Timing, time_pair
from penjing.pruning.patterns import Pattern
from penjing.pruning.selection import Key, matches, several
from penjing.pruning.weights.protocol import Target
from penjing.pruning.weights.targets import ROLES, Wanted, find_targets
from penjing.quantization.aware import QuantizationAware
from penjing.quantization.compensation import LARGEST
from penjing.quantization.control import control
from penjing.quantization.mixed import BITS, checked_bits, mix, words
from penjing.quantization.module import QuantizedModule
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.observers import Observer
from penjing.quantization.placement import RECURRENT
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.rounding import Rounding
from penjing.quantization.scheme import Scheme
from penjing.quantization.scheme import resolve as resolve_scheme
from penjing.quantization.thinning import Thinning
from penjing.record import Record, attach, record_of
from penjing.report import Report, ReportData, environment
from penjing.task import Calibration, Task
from penjing.task.randomness import device_of, random_kept
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.drop import Referee, apart, bound, likeness, watched
from penjing.verbs.enough import too_few_samples
from penjing.verbs.runs_whole import runs_whole
from penjing.verbs.soundness import check_finite, check_fits
from penjing.verbs.sparsity_goal import SparsityGoal

_TIMED_SECONDS = 20.0
_HALF_BYTE = 4


@dataclass(frozen=True, slots=True)
class Quantized:
    """A network in integers.

    Args:
        model: Called like the original; simulates the integers, and is exported, compiled and saved
            as real ones.
        report: Figures before and after, what runs in integers, and what fell back and why.
    """

    model: QuantizedModule
    report: Report


@arguments_checked
def quantize(  # noqa: PLR0913 - the public contract, its options are keywords
    model: nn.Module,
    example_inputs: Example,
    *,
    calibration: Any,
    scheme: str | Scheme = "int8",
    observer: str | Observer = "mse",
    rounding: Rounding = "nearest",
    equalization: bool = False,
    bias_correction: bool = True,
    ignored_layers: Iterable[Key] | Key = (),
    weight_bits_dict: Mapping[Key, int] | None = None,
    constraints: Mapping[str, float | str] | None = None,
    weight_bits: Sequence[int] = BITS,
    sparsity: float | None = None,
    pattern: str | Pattern = "element",
    keep_dense: Iterable[Literal["first", "last", "depthwise"] | str] = ROLES,
    max_drop: float | str | None = None,
    task: Task | None = None,
    latency: bool = False,
    transform_fn: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Quantized:
    """Quantize a network after training, without labels.

    Norms are folded, activations get the grid of what calibration shows, weights a scale per output
    channel. What has no integer form stays in floats and is named in the report. Weights that are
    zero stay zero, so pruned and sparsified networks keep what they have gained.

    Args:
        model: Any network that `torch.export` takes; only read.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        calibration: Unlabelled batches (inputs alone, or with labels that are ignored); some
            hundred samples.
        scheme: "int8", "int7" (weights for x86 without VNNI), "int4", "ternary", "binary",
            "int8x16" (16-bit activations), "int8-shift" (scales are powers of two), or a `Scheme`.
        observer: Which range of an activation the grid covers: "mse", "min_max", "percentile",
            "entropy", or any callable from a histogram to (minimum, maximum).
        rounding: "nearest", "gptq" or "adaround"; the latter two look at data.
        equalization: Make the ranges of neighbouring layers alike first.
        bias_correction: Let biases make up for the mean error of each channel.
        ignored_layers: Modules, names, globs or types that stay in floats.
        weight_bits_dict: Bits of the weights of single layers, by module, name, glob or type,
            instead of the scheme's; the last that matches counts. `plan.bits` of `prune` is one.
        constraints: Mixed precision: upper bounds on "weight_bytes" (packed weights and scales) or
            "bit_operations", a number or "12%" of the network in floats. Every layer then gets of
            `weight_bits` those with which the outputs lose least, by the solver of pruning.
        weight_bits: Bits to choose from under `constraints`, each from 1 to 8.
        sparsity: Share of the weights of every layer that becomes zero on the same pass over the
            data: one Gram matrix per layer says which go, solves for the rest and rounds them.
        pattern: Of these zeros, as `sparsify` takes it; "n:m" has its own share.
        keep_dense: Kinds of layers without new zeros: "first", "last", "depthwise".
        max_drop: How much may be lost, as a share (0.01 or "1%"). Layers are kept higher, those
            first through which the outputs lose most, until that holds: weights below 7 bits get 8,
            then layers stay in floats. Judged on data that ranges and roundings have not seen.
        task: With `max_drop`: its validation data and first metric judge. Without these, or without
            a task, one minus the agreement with the original on each fourth calibration sample.
        latency: Time the network in integers and in floats on ONNX Runtime, call by call in turn,
            and every layer within it; the report then says whether integers are faster here.
        transform_fn: Makes a batch from what `calibration` yields.
        seed: Of everything random.

    Returns:
        The network in integers, on the CPU, and the report.

    Raises:
        InputError: Bad example inputs, weights or calibration data, or a network that is quantized
            already.
        CaptureError: The network does not export.
        StrategyError: An unknown scheme, observer or rounding, layers that match nothing, or a
            network without anything that has an integer form.
        BudgetError: `max_drop` is no share, a constraint is none, `weight_bits` without one,
            sparsity that makes no sense or stands beside `max_drop` or constraints, a pattern or
            `keep_dense` without one, or zeros in a layer that can have none.
        InfeasibleError: Even a single layer in integers loses more than `max_drop`, or the fewest
            bits are above a constraint.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> quantized = quantize(net, torch.ones(1, 4), calibration=[torch.randn(64, 4)])
        >>> quantized.model
        QuantizedModule(int8, 2 of 2 layers in integers, 0 ops in floats, takes float32[2, 4])
    """
    started = time.perf_counter()
    check_network(model)
    check_in_floats(model)
    check_finite(model)
    limit = None if max_drop is None else bound(max_drop)
    if limit is not None and constraints is not None:
        raise BudgetError(
            "max_drop keeps layers higher, constraints take bits away: give one of them"
        )
    if constraints is None and weight_bits != BITS and checked_bits(weight_bits) != BITS:
        raise BudgetError(
            f"weight_bits is {weight_bits!r}, to choose from under constraints, and there are "
            "none; give constraints, or say bits by scheme or weight_bits_dict"
        )
    dense = tuple(keep_dense)
    goal = _zeros_wanted(sparsity, Pattern.parse(pattern), dense)
    if goal is not None and (limit is not None or constraints is not None):
        raise BudgetError(
            "sparsity makes zeros while weights are rounded, once; max_drop and constraints round "
            "several times: sparsify first, then quantize"
        )
    if goal is not None and resolve_scheme(scheme).weight_bits == 1:
        raise BudgetError(f"scheme is {str(scheme)!r} and one bit has no zero; take 2 bits or more")
    task = None if task is None else settled(task, model)
    dims = dims_of(model, example_inputs)
    samples = Calibration.of(calibration, transform_fn, seed=seed, dims=dims)
    settings = Settings(
        scheme=resolve_scheme(scheme),
        observer=observer,
        rounding=rounding,
        equalization=equalization,
        bias_correction=bias_correction,
        seed=seed,
    )
    with random_kept():
        torch.manual_seed(seed)
        worker, example = on_cpu(model, example_inputs)
        program = capture(worker, example)
        check_fits(samples, program)
        settings = replace(
            settings,
            keep_float=kept_in_floats(worker, program, ignored_layers),
            weight_bits=bits_by_weight(worker, program, weight_bits_dict or {}),
        )
        if goal is not None:
            found = thinning(worker, program, goal, dense, settings)
            settings = replace(settings, thinning=found)
        if limit is not None:
            result, data = _controlled(worker, program, samples, settings, limit, task)
        elif constraints is not None:
            asked = (constraints, weight_bits)
            result, data = _mixed(worker, program, samples, settings, *asked)
        else:
            result = QuantizedModule(quantize_program(program, samples, settings))
            data = report_of(worker, program, result.network, samples, settings)
            data = replace(data, agreement=likeness(result, worker, program, samples))
        if latency:
            data = timed(data, program, result.network)
    remember_inputs(result, model, example_inputs)
    return Quantized(result, Report(replace(data, seconds=time.perf_counter() - started)))


def _zeros_wanted(
    sparsity: float | None, pattern: Pattern, keep_dense: tuple[str, ...]
) -> SparsityGoal | None:
    """How many zeros are asked for; None for none.

    Raises:
        BudgetError: It is said which, and not how many.
    """
    if sparsity is not None or pattern.sparsity is not None:
        return SparsityGoal(pattern=pattern, sparsity=sparsity)
    if pattern != Pattern() or keep_dense != ROLES:
        raise BudgetError(
            f"pattern {pattern.name!r} and keep_dense {keep_dense} say which weights become zero, "
            "and no sparsity how many; give sparsity"
        )
    return None


def thinning(
    model: nn.Module,
    program: Program,
    goal: SparsityGoal,
    keep_dense: Iterable[str],
    settings: Settings,
) -> Thinning:
    """Which weights become sparse while they are rounded.

    Args:
        model: Its modules are named.
        program: As it was captured.
        goal: Pattern and sparsity.
        keep_dense: Kinds of layers that stay dense.
        settings: Which layers stay in floats, and so dense; bits of single weights.

    Returns:
        The weights of linear and convolutional layers, each as sparse as the others.

    Raises:
        BudgetError: No layer may become sparse, or one has a single bit or too many inputs.
        StrategyError: A pattern that does not divide a layer, or an unknown kind of layer.
    """
    wanted = Wanted(pattern=goal.pattern, keep_dense=tuple(keep_dense))
    found, dense = find_targets(model, program, wanted)
    targets: dict[str, Target] = {}
    for target in found:
        if not target.layers:
            dense[target.weight] = "it is recurrent"
        elif all(layer.node in settings.keep_float for layer in target.layers):
            dense[target.weight] = "it stays in floats"
        else:
            _check_thinnable(program, target, settings)
            targets[target.weight] = target
    if not targets:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(dense.items())[:8])
        raise BudgetError(f"no layer may become sparse ({why}); keep_dense=() decides")
    share = goal.sparsity if goal.pattern.sparsity is None else goal.pattern.sparsity
    return Thinning(targets, share or 0.0)


def _check_thinnable(program: Program, target: Target, settings: Settings) -> None:
    """Refuse a layer in which no zeros can be chosen while it is rounded.

    Raises:
        BudgetError: Its weight has a single bit, or more inputs than a Gram matrix.
    """
    unknowns = target.layers[0].matrix(program.tensors[target.weight]).shape[2]
    if settings.weight_bits.get(target.weight) == 1:
        raise BudgetError(
            f"weight_bits_dict gives {target.weight!r} one bit, which has no zero; take 2 or more"
        )
    if unknowns > LARGEST:
        raise BudgetError(
            f"each output of {target.weight!r} has {unknowns:,} inputs; zeros are chosen on the "
            f"same pass for up to {LARGEST:,}: sparsify first, then quantize"
        )


def check_in_floats(model: nn.Module) -> None:
    """Refuse to put a network on grids twice.

    Raises:
        InputError: It is quantized, or prepared to be trained for it.
    """
    if isinstance(model, QuantizedModule):
        raise InputError(
            "the network is quantized already; quantize the one in floats that it was made from"
        )
    if isinstance(model, QuantizationAware):
        raise InputError(
            "the network is prepared for quantization-aware training; pj.convert makes integers "
            "of it, on the grids on which it was trained"
        )


def _controlled(
    model: nn.Module,
    program: Program,
    samples: Calibration,
    settings: Settings,
    limit: float,
    task: Task | None,
) -> tuple[QuantizedModule, ReportData]:
    """The network that loses at most `limit`, and the report with the sensitivity of its layers."""
    used, held = apart(samples)
    referee = Referee(model, program, held, task)
    with watched() as say:
        found = control(
            program, used, settings, max_drop=limit, judge=referee, samples=held, say=say
        )
        result = QuantizedModule(found.network)
        lost = referee(found.network)
    data = report_of(model, program, found.network, used, settings)
    kept = sum(bool(row.kept) for row in found.table)
    words = (
        f"{referee.words(lost)}, at most {limit:g} was allowed; with all layers in integers it "
        f"was {found.first:.4g}. {kept} of {len(found.table)} layers are kept higher; networks "
        f"tried: {found.tried}"
    )
    return result, replace(
        data,
        agreement=likeness(result, model, program, held, task),
        metrics_before=referee.before,
        metrics_after=referee.after,
        higher_is_better={} if task is None else task.directions,
        constraints={"max_drop": f"{limit:g}"},
        sensitivity=found.table,
        notes=(words, *data.notes),
    )


def _mixed(
    model: nn.Module,
    program: Program,
    samples: Calibration,
    settings: Settings,
    constraints: Mapping[str, float | str],
    weight_bits: Sequence[int],
) -> tuple[QuantizedModule, ReportData]:
    """The network whose weights have the bits that the constraints allow, and the report."""
    with watched() as say:
        found = mix(
            program, samples, settings, constraints=constraints, allowed=weight_bits, say=say
        )
    result = QuantizedModule(found.network)
    data = report_of(model, program, found.network, samples, settings)
    spent = (
        f"{name} is {found.costs[name]:,.0f}, at most {most:,.0f} was allowed"
        for name, most in found.budgets.items()
    )
    return result, replace(
        data,
        agreement=likeness(result, model, program, samples),
        choices={**data.choices, "bits to choose from": ", ".join(map(str, sorted(weight_bits)))},
        notes=(words(found.bits), *spent, *data.notes),
    )


def on_cpu(model: nn.Module, example: Example) -> tuple[nn.Module, Example]:
    """The network and its inputs on the CPU; copies where they are elsewhere."""
    home = device_of(model)
    if home.type == "cpu":
        return model, example
    moved: Example = torch.utils._pytree.tree_map(
        lambda v: v.cpu() if isinstance(v, Tensor) else v, example
    )
    return copy.deepcopy(model).cpu(), moved


def kept_in_floats(
    model: nn.Module, program: Program, keys: Iterable[Key] | Key
) -> Mapping[str, str]:
    """Layers that the caller keeps in floats, with the reason."""
    kept: dict[str, str] = {}
    weights = _weights(program)
    owners = _owners(model, [fqn for several in weights.values() for fqn in several])
    for key in several(keys):
        names = matches(model, key)
        for node, held in weights.items():
            if any(owners[fqn] & names for fqn in held):
                kept[node] = "ignored_layers has it"
    return kept


def bits_by_weight(model: nn.Module, program: Program, chosen: Mapping[Key, int]) -> dict[str, int]:
    """Bits of single weights.

    Args:
        model: Its modules are named.
        program: As it was captured.
        chosen: Bits by module, glob, type, or name of a module or weight.

    Returns:
        Bits by qualified name of the weight.

    Raises:
        StrategyError: A key that matches no layer with a weight, or bits that no weight has.
    """
    weights = {fqn for held in _weights(program).values() for fqn in held}
    owners = _owners(model, weights)
    found: dict[str, int] = {}
    for key, bits in chosen.items():
        Scheme(weight_bits=bits)
        names = matches(model, key)
        hit = [fqn for fqn in sorted(weights) if fqn in names or owners[fqn] & names]
        if not hit:
            some = ", ".join(sorted({fqn.rpartition(".")[0] for fqn in weights})[:8])
            raise StrategyError(
                f"weight_bits_dict has {key!r}, where no layer has a weight; layers with weights "
                f"are {some}"
            )
        found.update(dict.fromkeys(hit, bits))
    return found


def _owners(model: nn.Module, weights: Iterable[str]) -> dict[str, set[str]]:
    """Every module that a weight belongs to; one that is shared has the name of only one."""
    named = list(model.named_parameters(remove_duplicate=False))
    held = dict(named)
    return {
        fqn: {fqn.rpartition(".")[0]}
        | {name.rpartition(".")[0] for name, p in named if p is held.get(fqn)}
        for fqn in weights
    }


def _weights(program: Program) -> dict[str, list[str]]:
    """Qualified names of the stored matrices of layers and recurrent ops, by node."""
    found: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if is_layer(node):
            names = stored_names(program, node)
            found[node.name] = [names["weight"]] if "weight" in names else []
        elif node.op == "call_function" and op_name(node) in RECURRENT:
            read = [n for n in node.all_input_nodes if n.name in program.stored]
            found[node.name] = [program.stored[n.name] for n in read if len(program.shape(n)) > 1]
    return found


def remember_inputs(result: nn.Module, source: nn.Module, example_inputs: Example) -> None:
    """Hang the inputs and plans of the source on what was made from it, where they can be told."""
    earlier = record_of(source)
    try:
        attach(result, Record.of(example_inputs, earlier.plans if earlier else ()))
    except InputError:
        return


def timed(data: ReportData, program: Program, network: QuantizedNetwork) -> ReportData:
    """The report with latencies on ONNX Runtime, of the whole and of each layer.

    Args:
        data: Without them.
        program: In floats.
        network: In integers.

    Returns:
        With them; a note says so where integers are slower, and which ops the runtime computes in
        floats. A network that ONNX cannot express has none, and a note says why.
    """
    feeds = onnx_feeds(program, 1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            mine, theirs = Path(folder) / "integers.onnx", Path(folder) / "floats.onnx"
            write_integers(network, mine)
            write_program(program, theirs)
            after, before = time_pair(mine, theirs, Timing(seconds=_TIMED_SECONDS), feeds)
            rows, found = layer_latencies(mine, theirs, network, feeds), execution_of(mine)
    except ExportError as error:
        return replace(data, notes=(*data.notes, f"latency was not measured: {error}"))
    assert data.before is not None
    assert data.after is not None
    notes = [f"on ONNX Runtime {found}"]
    if after.ratio is not None and after.ratio < 1:
        notes.append(
            f"integers are {1 / after.ratio:.2f} times slower than floats on this machine: for "
            "speed keep the network in floats here; integers still save bytes"
        )
    return replace(
        data,
        before=replace(data.before, latency_ms=before.median_ms, latency=before),
        after=replace(data.after, latency_ms=after.median_ms, latency=after),
        layer_latency=rows,
        notes=(*notes, *data.notes),
    )


def figures_in_floats(program: Program) -> Figures:
    """Figures of a network to be quantized.

    Args:
        program: As it was captured.

    Returns:
        What can be counted, and bytes of all tensors.
    """
    before = program_figures(program)
    return replace(
        before,
        size_bytes=sum(t.numel() * t.element_size() for t in program.tensors.values()),
        ram_bytes=None,  # it depends on the runtime of the integers: `measure` tells
        how={**before.how, "size_bytes": "bytes of all parameters and buffers in floats"},
    )


def report_of(
    model: nn.Module,
    program: Program,
    network: QuantizedNetwork,
    samples: Calibration,
    settings: Settings,
) -> ReportData:
    """What was done to a network.

    Args:
        model: In floats.
        program: As it was captured.
        network: In integers.
        samples: It was calibrated with.
        settings: How it was quantized.

    Returns:
        Figures, choices and notes.
    """
    before = figures_in_floats(program)
    solves = settings.rounding == "gptq" or settings.thinning is not None
    short = too_few_samples(program, samples) if solves else ""
    return ReportData(
        kind="quantize",
        title=type(model).__name__,
        before=before,
        after=quantized_figures(network, before),
        choices={
            "scheme": network.scheme,
            "observer": str(settings.observer),
            "rounding": settings.rounding,
            "equalization": "yes" if settings.equalization else "no",
            **_zeros(settings),
            "bias correction": "yes" if settings.bias_correction else "no",
            "calibration samples": str(samples.samples),
            "seed": str(settings.seed),
        },
        environment=environment(),
        notes=(*runs_whole(model), *notes_of(network), *([short] if short else [])),
    )


def _zeros(settings: Settings) -> dict[str, str]:
    """What becomes zero on the way."""
    if settings.thinning is None:
        return {}
    targets = settings.thinning.targets.values()
    name = next(iter(targets)).tiling.pattern.name
    return {"zeros": f"{settings.thinning.sparsity:g} of {len(targets)} layers, {name}"}


def quantized_figures(network: QuantizedNetwork, before: Figures) -> Figures:
    """Figures of a quantized network.

    Args:
        network: The network.
        before: Of the network in floats.

    Returns:
        Zeros counted on the integers, bytes of packed weights, biases and scales.
    """
    zeros = sum(int((network.integers(fqn) == 0).sum()) for fqn in network.weights)
    weights = sum(network.program.tensors[fqn].numel() for fqn in network.weights)
    total = sum(network.program.tensors[fqn].numel() for fqn in network.program.parameters)
    return replace(
        before,
        params=total,
        nonzero=total - zeros,
        size_bytes=network.size_bytes(),
        latency_ms=None,
        ram_bytes=None,
        layers=(),
        how={
            **before.how,
            "params": "counted after norms were folded",
            "nonzero": f"of {weights} weights in integers, {zeros} are zero on their grid",
            "size_bytes": "packed integer weights, int32 biases, scales, and what stays in floats",
        },
    )


def notes_of(network: QuantizedNetwork) -> tuple[str, ...]:
    """What runs in integers, and every op that does not."""
    s = network.summary()
    notes = [
        f"{s['integer_layers']} of {s['layers']} layers and {s['integer']} ops in all run in "
        f"integers, {s['fallback']} in floats"
    ]
    notes += network.notes
    notes += saturation_notes(network)
    notes += [
        f"{node} runs in integers in compiled C; ONNX Runtime has no integer form of it and "
        "computes it in floats on the same matrices"
        for node in network.recurrent
    ]
    small = sum(grid.bits <= _HALF_BYTE for grid in network.weights.values())
    if small:
        notes.append(
            f"{small} of {len(network.weights)} weights have {_HALF_BYTE} bits or fewer: `save` "
            "packs them; they take a byte each in .onnx and in C, whose kernels read bytes"
        )
    notes += [f"{node} runs in floats: {reason}" for node, reason in network.fallbacks.items()]
    return tuple(notes)

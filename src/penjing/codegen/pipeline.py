"""From a captured network to the files of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor

from penjing.codegen.arena import plan
from penjing.codegen.build import object_sizes
from penjing.codegen.choice import Optimize, choose
from penjing.codegen.emit import Files, write_files
from penjing.codegen.fusion import fuse
from penjing.codegen.ir import Net
from penjing.codegen.kernel import Kernel
from penjing.codegen.kernels import (
    BOARD_TILES,
    Turn,
    board_kernels,
    compact_kernels,
    host_kernels,
)
from penjing.codegen.layout import lay_out
from penjing.codegen.lower import lower
from penjing.codegen.preprocessing import Normalize, position_of, with_image
from penjing.codegen.program import Program, Signature
from penjing.codegen.reference import reference_kernels
from penjing.codegen.streaming import stream
from penjing.codegen.targets import HOST, Target
from penjing.errors import InfeasibleError, InputError
from penjing.graph.capture import Program as Captured


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to compile.

    Args:
        target: What for.
        optimize: "latency", "flash" or "ram".
        tune: With "latency", measure the promising kernels of each layer on this machine.
        name: Prefix of files and public names, a C identifier.
        kernels: To choose from, besides the plain ones; None for all that suit the target.
        notes: What the header says of inputs and outputs.
        streaming: The example is one piece of a sequence; the program carries states.
        threads: Of OpenMP, when it runs on this machine.
        preprocessing: The program takes bytes of an image and normalises them itself.
    """

    target: Target = HOST
    optimize: Optimize = "latency"
    tune: bool = False
    name: str = "net"
    kernels: Sequence[Kernel] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    streaming: bool = False
    threads: int = 1
    preprocessing: Normalize | None = None


def example_of(captured: Captured, batch: int | None) -> list[Any]:
    """Flat inputs at the batch to compile for.

    Args:
        captured: The network.
        batch: Samples; None for the example's own.

    Returns:
        Tensors on the CPU, and what else the network is given.

    Raises:
        InputError: The network takes one batch size only, another than `batch`.
    """
    given = captured.batch
    if batch is None or batch == given:
        return [v.cpu() if isinstance(v, TorchTensor) else v for v in captured.example]
    if not captured.dynamic_batch:
        raise InputError(
            f"the network takes batches of {given} only, as its export has found; batch={batch} "
            "cannot be compiled. Give example inputs of that batch"
        )

    times = -(-batch // given)
    many = [
        v if d is None else torch.cat([v.cpu()] * times, d)
        for v, d in zip(captured.example, captured.batch_dims, strict=True)
    ]
    return captured.head(many, batch)


def compile_captured(captured: Captured, values: Sequence[Any], settings: Settings) -> Files:
    """Compile a captured network.

    Args:
        captured: The network.
        values: Flat inputs at the batch to compile for; they become the test vector.
        settings: How.

    Returns:
        The files, not yet on disk.

    Raises:
        ExportError: An op cannot be compiled.
        InputError: A type that is not compiled.
        StrategyError: Preprocessing, and no input that can be an image.
    """
    net = lower(captured, values)
    inputs = [v for v in values if isinstance(v, TorchTensor)]
    if settings.preprocessing is not None:
        net = with_image(net, settings.preprocessing)
        values, inputs, settings = _with_bytes(values, inputs, settings, settings.preprocessing)
    net = fuse(net)
    if settings.streaming:
        net = stream(net)
    with torch.no_grad():
        outputs = [v for v in captured.run(values) if isinstance(v, TorchTensor)]
    vectors = ([_plain(v) for v in inputs], [_plain(v) for v in outputs])
    return compile_net(net, vectors, settings)


def _with_bytes(
    values: Sequence[Any], inputs: Sequence[TorchTensor], settings: Settings, image: Normalize
) -> tuple[list[Any], list[TorchTensor], Settings]:
    """The values of the nearest image; the inputs with that image; and what is said of it."""
    position = position_of(inputs, image)
    given = list(inputs)
    given[position] = image.image_of(inputs[position])
    seen = [image(given[position]) if v is inputs[position] else v for v in values]
    notes = {
        **settings.notes,
        "inputs": {**settings.notes.get("inputs", {}), position: image.note},
        "preprocessing": {position: asdict(image)},
    }
    return seen, given, replace(settings, notes=notes)


def compile_net(
    net: Net, vectors: tuple[Sequence[np.ndarray], Sequence[np.ndarray]], settings: Settings
) -> Files:
    """Compile a net: choose kernels, plan layout and memory, write the files.

    Args:
        net: Fused.
        vectors: Example inputs and expected outputs.
        settings: How.

    Returns:
        The files, not yet on disk.
    """
    target, fast = settings.target, settings.kernels
    if settings.threads > 1 and target.board is None:
        target = replace(target, threads=settings.threads)
        settings = replace(settings, target=target)
    if fast is None:
        fast = _kernels(target, settings.optimize)
    sets = [tuple(fast)] if settings.optimize == "latency" or not fast else [tuple(fast), ()]
    written = [_written(net, kernels, vectors, settings) for kernels in sets]
    if settings.optimize == "ram":
        return min(written, key=lambda files: files.arena.size_bytes)
    return min(written, key=lambda files: _flash(files, target)) if len(written) > 1 else written[0]


def _kernels(target: Target, optimize: Optimize) -> tuple[Kernel, ...]:
    """The kernels that suit a target, besides the plain ones."""
    small = optimize == "flash"
    if target.board is None:
        return (*host_kernels(), *(compact_kernels() if small else ()))
    return (*board_kernels(), *(compact_kernels(BOARD_TILES) if small else ()))


def _written(
    net: Net,
    fast: Sequence[Kernel],
    vectors: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    settings: Settings,
) -> Files:
    """The files with one set of kernels, the plain ones as the last resort."""
    target, plain = settings.target, reference_kernels()
    kernels = choose(net, [*fast, *plain], target, settings.optimize, tune=settings.tune)
    copies = [k for k in plain if k.kind == "copy"]  # type: ignore[attr-defined] # one of ours
    copier = Turn() if target.board is None else copies[0]
    laid = lay_out(net, kernels, copier, target)
    return write_files(plan(laid, target), target, settings.name, vectors, settings.notes)


def _flash(files: Files, target: Target) -> int:
    """Constants, and the code as the target's compiler makes it."""
    constants = sum(blob.values.nbytes for blob in files.text.blobs)
    return constants + object_sizes(files.content, f"{files.name}.c", target).code_bytes


def program_of(captured: Captured, values: Sequence[Any], settings: Settings) -> Program:
    """Compile a captured network to something that can be called.

    Args:
        captured: The network.
        values: Flat inputs at the batch to compile for.
        settings: How.

    Returns:
        The program; nothing is built yet.

    Raises:
        ExportError: An op cannot be compiled.
        InputError: A type that is not compiled.
        InfeasibleError: It does not fit the memory of the target.
    """
    files = compile_captured(captured, values, settings)
    with torch.no_grad():
        flat = captured.run(values)
    kinds = tuple(v.dtype if isinstance(v, TorchTensor) else v for v in flat)
    splits = captured.dynamic_batch and not any(captured.batch_dims)
    signature = Signature(captured.in_spec, captured.out_spec, kinds, splits)
    program = Program(
        files,
        settings.target,
        signature,
        settings.threads,
        preprocessing=settings.preprocessing,
    )
    _check_fits(program)
    return program


def _check_fits(program: Program) -> None:
    """Refuse a program that is larger than the target's memory.

    Raises:
        InfeasibleError: Names the layers that take the most.
    """
    target, arena = program.target, program.files.arena
    if target.ram_bytes is not None and program.ram_bytes > target.ram_bytes:
        largest = sorted(arena.peak.items(), key=lambda item: -item[1])[:3]
        said = ", ".join(f"{name} {size:,}" for name, size in largest)
        raise InfeasibleError(
            f"the program needs {program.ram_bytes:,} bytes of RAM, {target.name!r} has "
            f"{target.ram_bytes:,}. At its peak, in layer {arena.peak_layer!r}, these are alive "
            f"(bytes): {said}. Make the maps smaller: prune what makes them, or shrink the input",
            {"ram_kb": program.ram_bytes / 1024},
        )
    if target.flash_bytes is not None and program.constant_bytes > target.flash_bytes:
        steps = sorted(program.files.text.steps, key=lambda s: -s.constant_bytes)[:3]
        said = ", ".join(f"{s.layer.source} {s.constant_bytes:,}" for s in steps)
        raise InfeasibleError(
            f"the weights take {program.constant_bytes:,} bytes of flash, {target.name!r} has "
            f"{target.flash_bytes:,}. The largest layers (bytes): {said}. Prune or quantize them",
            {"flash_kb": program.constant_bytes / 1024},
        )


def _plain(value: TorchTensor) -> np.ndarray:
    """A tensor as the program takes it: integers in 32 bits, truth as bytes."""
    array = value.detach().cpu().numpy()
    if array.dtype == np.int64:
        return array.clip(-(2**31), 2**31 - 1).astype(np.int32)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return np.ascontiguousarray(array)

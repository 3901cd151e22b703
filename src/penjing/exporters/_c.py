"""C: written by the compiler, built by the system's compiler, run, compared, then put in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing import files
from penjing.codegen.pipeline import Settings, example_of, program_of
from penjing.codegen.preprocessing import position_of
from penjing.codegen.program import Program
from penjing.errors import InputError, VerificationError
from penjing.exporters._fresh import fresh_inputs
from penjing.exporters._onnx import difference_of
from penjing.exporters.exported import Exported
from penjing.graph.capture import Example, call_args, capture, quiet_eval
from penjing.graph.capture import Program as Captured

TOLERANCE = 1e-4
"""Largest difference relative to the largest value: float32 sums in another order differ by some
1e-6 per layer, and functions such as exp by as much."""

ROUNDS = 2  # fresh inputs that are compared
PIECES = 4  # of a stream that is compared
_TAKEN = {"main", "check", "board", "bare", "stack", "all", "test", "clean", "install", "help"}
"""Names of files beside a program, and of targets that make and CMake keep for themselves."""


def compile_checked(
    model: nn.Module,
    example_inputs: Example,
    settings: Settings,
    batch: int | None = None,
    stream_dim: int | None = None,
) -> Program:
    """Compile a network, and compare it with the network where this machine can run it.

    Args:
        model: Network to compile; only read.
        example_inputs: A tensor, a tuple or a dict; its batch is the one that is compiled.
        settings: How.
        batch: Another batch to compile for.
        stream_dim: Dimension of time in every input, to compile for streaming.

    Returns:
        The program and how far it differs.

    Raises:
        InputError: The network does not run on `example_inputs`.
        CaptureError: The network does not export.
        ExportError: An op cannot be compiled.
        StrategyError: Preprocessing, and no input that can be an image.
        VerificationError: The program computes something else.
        MissingDependencyError: No compiler for the target.
    """
    captured = capture(model, example_inputs)
    leaves = torch.utils._pytree.tree_leaves(call_args(example_inputs))
    given = captured.samples(leaves)
    values = example_of(captured, batch if batch is not None else given)
    if stream_dim is not None:
        settings = replace(settings, streaming=True)
    program = program_of(captured, values, settings)
    if settings.target.emulator:
        program.check()
        return program
    tensors = [v for v in values if isinstance(v, Tensor)]
    if stream_dim is not None:
        apart = _compared_stream(model, captured, program, (tensors, stream_dim))
        return replace(program, difference=apart)
    return replace(
        program, difference=_compared(model, captured, program, captured.samples(values))
    )


def write_c(model: nn.Module, example_inputs: Example, path: str | Path) -> Exported:
    """Export to C: `path` and the header beside it, built, loaded, compared, then put in place.

    Args:
        model: Network to export; only read.
        example_inputs: A tensor, a tuple or a dict; its batch is fixed in the program.
        path: The `.c` file; its name is the prefix of everything public in it.

    Returns:
        The file and how it compared.

    Raises:
        InputError: The network does not run on `example_inputs`, or the name is no C identifier.
        CaptureError: The network does not export.
        ExportError: An op cannot be compiled.
        VerificationError: The program computes something else.
        MissingDependencyError: No C compiler.
    """
    target = Path(path)
    program = compile_checked(model, example_inputs, Settings(name=c_name(target.stem)))
    kept = {"h", "c", "S", "bin"}
    content = program.files.content
    for name in sorted(content, key=lambda n: n.endswith(".c")):
        if name.split(".")[-1] in kept and name != "main.c" and not name.endswith("_test.h"):
            raw = content[name]
            files.write_bytes(target.parent / name, raw.encode() if isinstance(raw, str) else raw)
    assert program.difference is not None  # it runs on this machine, so it was compared
    net = program.files.arena.laid.net
    first = net.tensors[net.inputs[0]].shape if net.inputs else ()
    return Exported(
        path=target,
        size_bytes=target.stat().st_size,
        difference=program.difference,
        tolerance=TOLERANCE,
        batches=(first[0] if first else 1,),
        runtime="the C compiler's program",
        inputs=net.inputs,
        outputs=net.outputs,
    )


def c_name(text: str) -> str:
    """A prefix for a program.

    Raises:
        InputError: It is no C identifier, or files and targets around the program are called so.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII):
        raise InputError(f"{text!r} is no name in C; use letters, digits and underscores")
    if text.lower() in _TAKEN:
        raise InputError(
            f"{text!r} is what something around a program is called, such as main.c, check.h or "
            f"CMake's test; give another name, such as 'net_{text}'"
        )
    return text


def _compared(model: nn.Module, captured: Captured, program: Program, batch: int) -> float:
    """Largest relative difference on fresh inputs.

    Raises:
        VerificationError: More than the tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    run, image = _eager(model, captured), program.preprocessing
    worst = 0.0
    for _ in range(ROUNDS):
        inputs = fresh_inputs(captured, batch, generator)
        given = list(inputs)
        if image is not None:
            at = position_of(inputs, image)
            shape = image.shape_of(inputs[at].shape)
            given[at] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            inputs[at] = image(given[at])
        with torch.no_grad():
            wanted = run(inputs)
        flat = iter(given)
        leaves = [next(flat) if isinstance(v, Tensor) else v for v in captured.example]
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, captured.in_spec)
        answer = program(*args, **kwargs)
        got = [v for v in torch.utils._pytree.tree_leaves(answer) if isinstance(v, Tensor)]
        for position, (one, other) in enumerate(zip(got, wanted, strict=True)):
            apart = difference_of(one, other)
            if not apart <= TOLERANCE:
                raise VerificationError(
                    f"output {position} of the program differs from the network by {apart:.1e} of "
                    f"its largest value (allowed {TOLERANCE:.0e}); nothing was written. Does "
                    "forward depend on more than its inputs?"
                )
            worst = max(worst, apart)
    return worst


def _compared_stream(
    model: nn.Module, captured: Captured, program: Program, sequence: tuple[list[Tensor], int]
) -> float:
    """Largest relative difference of a stream of pieces from the network on the whole sequence.

    Raises:
        VerificationError: More than the tolerance: the network looks ahead, or at absolute times.
    """
    tensors, dim = sequence
    generator = torch.Generator().manual_seed(0)
    batch = len(tensors[0])
    pieces = [fresh_inputs(captured, batch, generator) for _ in range(PIECES)]
    whole = [torch.cat(parts, dim) for parts in zip(*pieces, strict=True)]
    wanted = _eager(model, captured)(whole)
    running = program.stream()
    answers = []
    for piece in pieces:
        args, kwargs = torch.utils._pytree.tree_unflatten(piece, captured.in_spec)
        leaves = torch.utils._pytree.tree_leaves(running(*args, **kwargs))
        answers.append([v for v in leaves if isinstance(v, Tensor)])
    worst = 0.0
    for position, want in enumerate(wanted):
        parts = [answer[position] for answer in answers]
        axis = next((d for d, n in enumerate(parts[0].shape) if want.shape[d] == PIECES * n), None)
        got = parts[-1] if axis is None else torch.cat(parts, axis)
        apart = difference_of(got, want.detach())
        if not apart <= TOLERANCE:
            raise VerificationError(
                f"output {position} of a stream of {PIECES} pieces differs from the network on the "
                f"whole sequence by {apart:.1e} of its largest value (allowed {TOLERANCE:.0e}). "
                "Does it look ahead, or pool or normalise over time?"
            )
        worst = max(worst, apart)
    return worst


def _eager(model: nn.Module, captured: Captured) -> Callable[[Sequence[Tensor]], list[Any]]:
    """The network itself, on the CPU; on another device its graph."""

    def run(inputs: Sequence[Tensor]) -> list[Any]:
        given = iter(inputs)
        leaves = [next(given) if isinstance(v, Tensor) else v for v in captured.example]
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, captured.in_spec)
        with quiet_eval(model):
            answer = model(*args, **kwargs)
        return [v for v in torch.utils._pytree.tree_leaves(answer) if isinstance(v, Tensor)]

    return run

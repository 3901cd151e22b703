"""`penjing.compile`: a network as one C program without dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path

from torch import nn

from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.exits import EarlyExitNetwork
from penjing.adaptive.gated import GatedNetwork
from penjing.codegen.choice import Optimize
from penjing.codegen.int8 import IntegerProgram
from penjing.codegen.pipeline import Settings
from penjing.codegen.preprocessing import Normalize
from penjing.codegen.program import Program
from penjing.codegen.targets import Target, target_of
from penjing.errors import BudgetError, InfeasibleError, StrategyError, UnavailableError
from penjing.exporters import c_name, compile_checked, compile_quantized
from penjing.graph.capture import Example
from penjing.quantization.module import QuantizedModule
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite

OPTIMIZE = ("latency", "flash", "ram")
KIB = 1024


@arguments_checked
def compile(  # noqa: PLR0913 - a public verb, its options are keywords
    model: nn.Module,
    example_inputs: Example,
    *,
    target: str | Target = "host",
    optimize: Optimize = "latency",
    out: str | Path | None = None,
    name: str = "net",
    batch: int | None = None,
    threads: int = 1,
    stream_dim: int | None = None,
    tune: bool = False,
    preprocessing: Normalize | None = None,
    constraints: Mapping[str, float] | None = None,
) -> Program | IntegerProgram:
    """Compile a network, dense or sparse, to C; it is built, run and compared before it returns.

    Args:
        model: Network to compile; only read. Zeros in its weights are left out where that pays. A
            quantized one becomes integers throughout, the same bits on every target; it takes any
            number of samples in a call, and `batch` and `tune` are then as they are by default.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords). Shapes are fixed by it,
            the batch too.
        target: "host", "aarch64", "cortex-m4", "cortex-m7", "cortex-m55", or a `Target`.
        optimize: What the choice of kernels is for: "latency", "flash" or "ram".
        out: Folder for the C file, header, build files, example, test vector and description.
        name: Prefix of files and of everything public in them.
        batch: Another batch than the example's to compile for.
        stream_dim: Compile for streams: the dimension of time in every input. The example is one
            piece; recurrent layers and convolutions that look back only go on where the piece
            before has ended, in a state that the caller holds: `program.stream()`.
        threads: Of the program on this machine, by OpenMP. Several samples of a quantized network
            are shared out instead, each thread running the program for some of them.
        tune: Build and time the promising kernels of each layer on this machine and take the
            fastest; kept on disk. Without it a cost model chooses.
        preprocessing: The program then takes the bytes of an image and normalises them itself; the
            example stays what the network takes.
        constraints: What your device has, where that is less than the emulated board: "ram_kb" for
            the arena (with inputs, outputs and state), "flash_kb" for instructions and constants,
            in kB of 1024 bytes.

    Returns:
        A program that is called like the network, on arrays or tensors, with `.source`,
        `.arena_bytes` and `.flash_bytes`. A program for another processor is run on its test vector
        in the emulator.

    Raises:
        InputError: The network does not run on `example_inputs`, or holds NaN or infinite weights.
        CaptureError: The network does not export.
        ExportError: An op that cannot be compiled, with its source line.
        VerificationError: The program computes something else; nothing was written.
        InfeasibleError: It does not fit the memory of the target, or the constraints; the message
            names the layers.
        BudgetError: A constraint of another name, or that is no positive number.
        MissingDependencyError: No compiler (or no emulator) for the target.
        StrategyError: An unknown target or aim, or preprocessing that does not fit the inputs.
        OSError: The folder cannot be written.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> program = compile(net, torch.ones(1, 4))  # doctest: +SKIP
        >>> program(torch.ones(1, 4)).shape  # doctest: +SKIP
        torch.Size([1, 2])
    """
    if optimize not in OPTIMIZE:
        raise StrategyError(f"optimize is {optimize!r}; give one of {', '.join(OPTIMIZE)}")
    if threads < 1:
        raise StrategyError(f"threads is {threads}; it is a whole number from 1")
    if preprocessing is not None and stream_dim is not None:
        raise StrategyError("streams take no images: leave preprocessing or stream_dim out")
    device = _device(target_of(target), constraints) if constraints else target_of(target)
    if isinstance(model, QuantizedModule):
        if (batch or 1, tune) != (1, False):
            raise StrategyError(
                "integer programs take one sample after the other, any number in a call, and are "
                "not tuned: leave batch and tune out"
            )
        integer = compile_quantized(
            model.network,
            Settings(
                target=device,
                optimize=optimize,
                name=c_name(name),
                threads=threads,
                preprocessing=preprocessing,
            ),
            stream_dim,
        )
        _check_flash(integer)
        if out is not None:
            integer.save(out)
        return integer
    if tune and target_of(target) is not target_of("host"):
        raise StrategyError(
            f"tune times kernels on this machine, and the target is {target_of(target).name!r}; "
            "leave it out, or compile for 'host'"
        )
    check_finite(model)
    _check_static(model)
    settings = Settings(
        target=device,
        optimize=optimize,
        name=c_name(name),
        threads=threads,
        tune=tune,
        preprocessing=preprocessing,
    )
    program = compile_checked(model, example_inputs, settings, batch, stream_dim)
    _check_flash(program)
    if out is not None:
        program.save(out)
    return program


def _check_static(model: nn.Module) -> None:
    """Refuse networks of which a call runs a part.

    Raises:
        UnavailableError: It is one.
    """
    if isinstance(model, EarlyExitNetwork):
        what, parts = "early exits", "model.segments[k] and model.heads[k]"
    elif isinstance(model, GatedNetwork):
        what, parts = "gated blocks", "model.trunk[k], model.gates[k] and model.branches[k]"
    elif isinstance(model, ChannelGatedNetwork):
        what, parts = "gated channels", "model.original() and model.gates[k]"
    else:
        return
    raise UnavailableError(
        f"{what} are not compiled: compile {parts} one by one and decide between them, or export "
        "the network to .onnx"
    )


def _device(target: Target, constraints: Mapping[str, float]) -> Target:
    """The target with no more memory than the constraints leave.

    Raises:
        BudgetError: A constraint of another name, or that is no positive number.
    """
    has = {"ram_kb": target.ram_bytes, "flash_kb": target.flash_bytes}
    for name, bound in constraints.items():
        if name not in has:
            raise BudgetError(
                f"no constraint of a program is called {name!r}; known are {', '.join(has)}"
            )
        number = isinstance(bound, (int, float)) and not isinstance(bound, bool)
        if not number or not isfinite(bound) or bound <= 0:
            raise BudgetError(f"constraint {name!r} is {bound!r}; give a positive number of kB")
    bytes_of = {
        name: limit if name not in constraints else int(min(KIB * constraints[name], limit or inf))
        for name, limit in has.items()
    }
    return replace(target, ram_bytes=bytes_of["ram_kb"], flash_bytes=bytes_of["flash_kb"])


def _check_flash(program: Program | IntegerProgram) -> None:
    """Refuse a program whose instructions do not fit beside its constants.

    Raises:
        InfeasibleError: The message has both.
    """
    limit = program.target.flash_bytes
    if limit is None or program.flash_bytes <= limit:
        return
    raise InfeasibleError(
        f"the program takes {program.flash_bytes:,} bytes of flash, {program.code_bytes:,} of them "
        f"instructions and {program.constant_bytes:,} constants; {limit:,} are there. Compile with "
        "optimize='flash', prune or quantize the network; program.table has the bytes of every "
        "layer",
        {"flash_kb": program.flash_bytes / KIB},
    )

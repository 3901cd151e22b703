"""Quantized networks to C: compiled, run and compared bit for bit before they are returned."""

from __future__ import annotations

import numpy as np

from penjing.codegen.int8 import IntegerProgram, compile_integers, with_bytes
from penjing.codegen.int8.steps import Optimize
from penjing.codegen.preprocessing import Normalize
from penjing.codegen.targets import Target
from penjing.errors import VerificationError
from penjing.quantization.lowering import integers
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.reference import execute

ROUNDS = 3
"""Random samples on which a program for this machine is compared."""


def compile_quantized(
    network: QuantizedNetwork,
    target: Target,
    optimize: Optimize,
    preprocessing: Normalize | None = None,
    name: str = "net",
) -> IntegerProgram:
    """Compile a quantized network to integers in C and compare it with the reference.

    Args:
        network: All of it must run in integers.
        target: A program for another processor is run on its test vector in the emulator.
        optimize: What the choice of kernels is for.
        preprocessing: Of an image whose bytes the program takes.
        name: Prefix of files and public names, a C identifier.

    Returns:
        The program; its bits are those of the reference.

    Raises:
        ExportError: A node has no integer form.
        StrategyError: Preprocessing does not fit the inputs.
        VerificationError: The program computes something else.
        MissingDependencyError: Compiler or emulator are absent.
    """
    net = integers(network)
    if preprocessing is not None:
        net = with_bytes(net, preprocessing)
    program = compile_integers(net, target, optimize, name)
    if target.emulator:
        log = program.check()
        program, equal = program.counted(log), log.equal
    else:
        generator = np.random.default_rng(0)
        inputs = [net.tensors[name].random(generator, ROUNDS) for name in net.inputs]
        wanted = execute(net, *inputs)
        found = program.run(*inputs)
        equal = all(
            np.array_equal(wanted[name], value)
            for name, value in zip(net.outputs, found, strict=True)
        )
    if not equal:
        raise VerificationError(
            f"the integer program for {target.name!r} differs from the reference; nothing was "
            "written. Is the compiler sound?"
        )
    return program

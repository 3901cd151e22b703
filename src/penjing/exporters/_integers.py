"""Quantized networks to C: compiled, run and compared bit for bit before they are returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.codegen.int8 import IntegerProgram, compile_integers, with_bytes
from penjing.codegen.int8.streaming import stream
from penjing.codegen.pipeline import Settings
from penjing.errors import VerificationError
from penjing.graph.capture import Program
from penjing.quantization.integers import IntegerNet
from penjing.quantization.lowering import integers
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.reference import execute, first_states

ROUNDS = 3
"""Random samples on which a program for this machine is compared."""

PIECES = 4
"""Of a stream that is compared with the whole sequence."""


def compile_quantized(
    network: QuantizedNetwork, settings: Settings, stream_dim: int | None = None
) -> IntegerProgram:
    """Compile a quantized network to integers in C and compare it with the reference.

    Args:
        network: All of it must run in integers.
        settings: Target, aim, name, threads and preprocessing; a program for another processor is
            run on its test vector in the emulator.
        stream_dim: Dimension of time in every input, to compile for streaming.

    Returns:
        The program; its bits are those of the reference.

    Raises:
        ExportError: A node has no integer form, or cannot be streamed.
        StrategyError: Preprocessing does not fit the inputs.
        VerificationError: The program computes something else.
        MissingDependencyError: Compiler or emulator are absent.
    """
    net = integers(network)
    if settings.preprocessing is not None:
        net = with_bytes(net, settings.preprocessing)
    if stream_dim is not None:
        net = _streamed(network, net, stream_dim)
    target = settings.target
    if target.board is None:
        target = replace(target, threads=settings.threads)
    program = compile_integers(net, target, settings.optimize, settings.name)
    if settings.target.emulator:
        log = program.check()
        program, equal = program.counted(log), log.equal
    else:
        equal = _is_equal(program)
    if not equal:
        raise VerificationError(
            f"the integer program for {settings.target.name!r} differs from the reference; nothing "
            "was written. Is the compiler sound?"
        )
    return program


def _is_equal(program: IntegerProgram) -> bool:
    """Whether a program gives the bits of the reference, a stream on piece after piece."""
    net, generator = program.net, np.random.default_rng(0)
    rounds, samples = (PIECES, 1) if net.states else (1, ROUNDS)
    if program.threads > 1:  # which share one sample in another way than several
        rounds, samples = max(rounds, ROUNDS), 1
    run = program.stream().run if net.states else program.run
    states = first_states(net, samples)
    for _ in range(rounds):
        inputs = [net.tensors[name].random(generator, samples) for name in net.inputs]
        wanted, found = execute(net, *inputs, states=states), run(*inputs)
        if any((wanted[n] != f).any() for n, f in zip(net.outputs, found, strict=True)):
            return False
    return True


def _streamed(network: QuantizedNetwork, net: IntegerNet, dim: int) -> IntegerNet:
    """The net with states, compared with one that takes the whole sequence.

    Raises:
        VerificationError: The network is not the same for every length, or not for pieces.
    """
    pieces = stream(net)
    try:
        whole = integers(replace(network, program=_longer(network.program, dim)))
    except RuntimeError as error:
        raise VerificationError(
            f"the network does not run on {PIECES} pieces as one sequence, to which its stream is "
            f"compared ({error}); does it have a fixed length?"
        ) from error
    generator, states, answers = np.random.default_rng(0), first_states(pieces, 1), []
    parts = []
    for _ in range(PIECES):
        inputs = [net.tensors[name].random(generator, 1) for name in net.inputs]
        values = execute(pieces, *inputs, states=states)
        answers.append([net.tensors[n].restore(values[n]) for n in net.outputs])
        parts.append([net.tensors[n].restore(x) for n, x in zip(net.inputs, inputs, strict=True)])
    joined = [np.concatenate(part, dim) for part in zip(*parts, strict=True)]
    given = [whole.tensors[n].arrange(x) for n, x in zip(whole.inputs, joined, strict=True)]
    found = execute(whole, *given)
    for position, name in enumerate(whole.outputs):
        wanted = whole.tensors[name].restore(found[name])
        if not np.array_equal(_as_one([one[position] for one in answers], wanted.shape), wanted):
            raise VerificationError(
                f"output {position} of a stream of {PIECES} pieces differs from the network on the "
                "whole sequence. Does it look ahead, or pool or normalise over time?"
            )
    return pieces


def _as_one(parts: Sequence[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[Any]:
    """Answers to pieces as the answer to all of them; the last one where it is not longer."""
    axis = next((d for d, n in enumerate(parts[0].shape) if shape[d] == PIECES * n), None)
    return parts[-1] if axis is None else np.concatenate(parts, axis)


def _longer(program: Program, dim: int) -> Program:
    """A program whose example is several pieces, with the shapes that its values then have.

    Raises:
        RuntimeError: Its graph holds the length of the example.
    """
    flat = [torch.cat([v] * PIECES, dim) if isinstance(v, Tensor) else v for v in program.example]
    bound, graph = program.bind(flat), fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    values: dict[fx.Node, Any] = {}
    for old in program.graph.nodes:
        twin = twins[old] = graph.node_copy(old, lambda n: twins[n])
        twin.name, twin.meta = old.name, dict(old.meta)
        if old.op == "output":
            continue
        if old.op == "placeholder":
            values[old] = bound[old.name]
        elif old.op == "get_attr":
            values[old] = getattr(program.graph_module, str(old.target))
        else:
            args, kwargs = fx.node.map_arg((old.args, old.kwargs), values.__getitem__)
            with torch.no_grad():
                values[old] = old.target(*args, **kwargs)
        twin.meta["val"] = values[old]
    module = fx.GraphModule(program.graph_module, graph)
    return replace(program, graph_module=module, example=tuple(flat))

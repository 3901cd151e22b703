"""What lies around the C file of an integer program: build files, check vector, description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.arena import ALIGN, Arena
from penjing.codegen.int8.choice import is_listable, small_forms
from penjing.codegen.int8.encodings import sizes
from penjing.codegen.int8.image import images
from penjing.codegen.int8.steps import Step
from penjing.codegen.int8.streaming import offsets as state_offsets
from penjing.codegen.int8.weights import ENCODINGS
from penjing.codegen.targets import Target
from penjing.quantization.integers import BYTE, IntegerLayer, IntegerNet
from penjing.quantization.reference import execute

_SEED = 0
_OPENMP = "ifdef THREADS\nCFLAGS += -fopenmp\nLDFLAGS += -fopenmp\nendif\n"


def check_vector(net: IntegerNet) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Random inputs, images as bytes, and what the reference makes of them."""
    generator, pictures = np.random.default_rng(_SEED), images(net)
    inputs = [net.tensors[name].random(generator, 1) for name in net.inputs]
    values = execute(net, *inputs)
    kinds = {name: "<i4" for name in net.inputs if net.tensors[name].numbers}
    kinds |= dict.fromkeys(pictures, "u1")
    written = [x.view(kinds.get(n, x.dtype)) for n, x in zip(net.inputs, inputs, strict=True)]
    return written, [values[name] for name in net.outputs]


def makefile(target: Target, name: str) -> str:
    """`make check` where this machine runs it; else objects."""
    flags = " ".join((*target.flags, "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic"))
    settings = (
        f"CC = {target.compilers[0]}\nCFLAGS = {flags}\nifndef DEBUG\nCFLAGS += -DNDEBUG\nendif\n"
        f"{_OPENMP if target.board is None else ''}\n"
    )
    objects = f"{name}.o: {name}.c {name}.h\n\nmain.o: main.c {name}.h check.h\n\n"
    if target.board is not None:
        return (
            f"# Objects: link them with your board's start-up code and linker script.\n{settings}"
            f"all: {name}.o main.o\n\n{objects}"
            f"clean:\n\trm -f main.o {name}.o\n\n.PHONY: all clean\n"
        )
    return (
        f"{settings}main: main.o {name}.o\n\n{objects}check: main\n\t./main\n\n"
        f"clean:\n\trm -f main main.o {name}.o\n\n.PHONY: check clean\n"
    )


def cmake(target: Target, name: str) -> str:
    """A library, and a test where this machine runs it."""
    rows = [
        "cmake_minimum_required(VERSION 3.13)",
        f"project({name} C)",
        "set(CMAKE_C_STANDARD 99)",
        f"add_library({name} STATIC {name}.c)",
        f"target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})",
        f"target_compile_options({name} PUBLIC {' '.join(target.flags)})",
    ]
    if target.board is None:
        rows += [
            f"add_executable({name}_example main.c)",
            f"target_link_libraries({name}_example PRIVATE {name})",
            "enable_testing()",
            f"add_test(NAME {name}_example COMMAND {name}_example)",
        ]
    return "\n".join(rows) + "\n"


def describe(
    net: IntegerNet, steps: tuple[Step, ...], arena: Arena, sizes: Mapping[str, int], target: Target
) -> dict[str, Any]:
    """The program as data: inputs, outputs, memory, and per step its kernel, weights and bytes."""

    def grid(name: str) -> dict[str, Any]:
        t = net.tensors[name]
        where = arena.offsets[name]
        found = {"offset": where, "shape": t.shape, "scale": t.scale, "zero_point": t.zero_point}
        return found if t.bits == BYTE else {**found, "bits": t.bits}

    def described(name: str) -> dict[str, Any]:
        numbers = net.tensors[name].numbers
        if name in pictures:
            return _picture(pictures[name], grid(name))
        if not numbers:
            return grid(name)
        return {"offset": arena.offsets[name], "dtype": "int32_t", "numbers": numbers}

    pictures = images(net)
    return {
        "schema": 1,
        "target": target.name,
        "arena_bytes": arena.size_bytes,
        **({"threads": target.threads} if target.threads > 1 else {}),
        **({"state_bytes": state_offsets(net, ALIGN)[1]} if net.states else {}),
        "inputs": [described(name) for name in net.inputs],
        "outputs": [grid(name) for name in net.outputs],
        "steps": [
            {
                "name": s.layer.name,
                "kernel": s.kernel,
                **_weights(net, s, target),
                "constant_bytes": sizes.get(s.layer.name, 0),
                "scratch_bytes": s.scratch_bytes,
                **({"threaded": bool(s.parts)} if target.threads > 1 else {}),
            }
            for s in steps
        ],
    }


def _weights(net: IntegerNet, step: Step, target: Target) -> dict[str, Any]:
    """How many weights a step has, how many are not zero, and how they are written.

    For a board also what they would take in every form, where a layer can have them.
    """
    weight = step.layer.weights.get("weight")
    if weight is None:
        return {}
    found: dict[str, Any] = {"encoding": ENCODINGS.get(step.kernel, "dense")}
    if step.listed is not None:
        found = {"encoding": step.listed.name, "weight_bytes": step.listed.size_bytes}
    found |= {"nonzero": int(np.count_nonzero(weight)), "weights": int(weight.size)}
    if target.board is not None and is_listable(net, step.layer):
        found["encoding_bytes"] = sizes(small_forms(net, step.layer))
    return found


def _picture(layer: IntegerLayer, described: Mapping[str, Any]) -> dict[str, Any]:
    """An image in the description: its bytes have no grid."""
    kept = {key: described[key] for key in ("offset", "shape")}
    return {**kept, "dtype": "uint8_t", "preprocessing": layer.attributes["preprocessing"]}

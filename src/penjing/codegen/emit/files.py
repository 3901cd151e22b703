"""Everything around the program text: build files, an example that checks itself, a description."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penjing.codegen.arena import Arena
from penjing.codegen.emit.source import Text, parameters, state_offsets, write_text
from penjing.codegen.encodings import sizes
from penjing.codegen.ir import C_TYPES, Layer
from penjing.codegen.targets import Target

FLAGS = ("-std=c99", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
"""Flags that every target gets: sums may be fused, nobody reads errno or traps."""

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic")
TOLERANCE = 1e-4  # of the largest output: float sums in another order


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a program by name, and what it was made of.

    Args:
        content: Text or bytes by file name.
        text: The program's parts.
        arena: The memory plan.
        name: Prefix of files and public names.
    """

    content: Mapping[str, str | bytes]
    text: Text
    arena: Arena
    name: str

    @property
    def state_bytes(self) -> int:
        """Of one stream; 0 without streaming."""
        return state_offsets(self.arena)[-1]

    @property
    def sources(self) -> tuple[str, ...]:
        """Files that are compiled into the network."""
        assembly = (f"{self.name}_weights.S",) if self.text.assembly else ()
        return (f"{self.name}.c", *assembly)


def write_files(
    arena: Arena,
    target: Target,
    name: str,
    vectors: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    notes: Mapping[str, Any],
) -> Files:
    """Write all files of a program.

    Args:
        arena: The memory plan.
        target: What is compiled for.
        name: Prefix of files and public names, a C identifier.
        vectors: Inputs and expected outputs of the example.
        notes: Of inputs and outputs, for header and description.

    Returns:
        The files, not yet on disk.
    """
    text = write_text(arena, target, name, notes)
    content: dict[str, str | bytes] = {
        f"{name}.c": text.source,
        f"{name}.h": text.header,
        f"{name}_test.h": _vectors(name, *vectors),
        "main.c": _main(arena, name),
        "Makefile": _makefile(name, target, bool(text.assembly)),
        "CMakeLists.txt": _cmake(name, target, bool(text.assembly)),
        f"{name}.json": json.dumps(describe(arena, text, target, name, notes), indent=1) + "\n",
    }
    if text.assembly:
        content[f"{name}_weights.S"] = text.assembly
        content[f"{name}_weights.bin"] = text.weights
    return Files(content, text, arena, name)


def describe(
    arena: Arena, text: Text, target: Target, name: str, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """The program as data: inputs, outputs, memory, and per layer its kernel and bytes."""
    net = arena.laid.net

    def side(names: Sequence[str], key: str) -> list[dict[str, Any]]:
        return [
            {
                "name": n,
                "shape": list(net.tensors[n].shape),
                "dtype": C_TYPES[net.tensors[n].dtype],
                "layout": "row-major",
                "note": notes.get(key, {}).get(i, ""),
                **_preprocessing(key, i, notes),
            }
            for i, n in enumerate(names)
        ]

    return {
        "format": 1,
        "name": name,
        "target": target.name,
        "threads": target.threads,
        "inputs": side(net.inputs, "inputs"),
        "outputs": side(net.outputs, "outputs"),
        "arena_bytes": arena.size_bytes,
        "io_in_arena": target.io_in_arena,
        "constant_bytes": sum(b.values.nbytes for b in text.blobs),
        "peak": {"layer": arena.peak_layer, "bytes": dict(arena.peak)},
        "layers": [
            {
                "name": s.layer.name,
                "kind": s.layer.kind,
                "source": s.layer.source,
                "kernel": s.kernel,
                "encoding": s.code.note,
                "threaded": s.threaded,
                "constant_bytes": s.constant_bytes,
                **_encodings(s.layer),
                "output": list(net.tensors[s.layer.outputs[0]].shape),
            }
            for s in text.steps
        ],
    }


def _encodings(layer: Layer) -> dict[str, Any]:
    """What the weights of a layer with zeros would take, by encoding."""
    weight = layer.weights.get("weight")
    if weight is None or weight.ndim < 2 or weight.all():
        return {}
    kept = int(np.count_nonzero(weight))
    found = {"dense": weight.nbytes, **sizes(weight.reshape(len(weight), -1))}
    return {"nonzero": kept, "weights": weight.size, "encoding_bytes": found}


def _preprocessing(side: str, position: int, notes: Mapping[str, Any]) -> dict[str, Any]:
    found = notes.get("preprocessing", {}) if side == "inputs" else {}
    return {"preprocessing": found[position]} if position in found else {}


def _literals(array: np.ndarray) -> str:
    flat = array.reshape(-1)
    if flat.dtype.kind != "f":
        return ", ".join(map(str, flat.tolist()))
    return ", ".join(_float(v) for v in flat.tolist())


def _float(value: float) -> str:
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else ("INFINITY" if value > 0 else "-INFINITY")
    text = f"{value:.9g}"
    return (text if any(c in text for c in ".e") else f"{text}.0") + "f"


def _vectors(name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> str:
    kinds = {"float32": "float", "bool": "uint8_t"}
    rows = ["/* One input and what the network makes of it. */", "#include <stdint.h>", ""]
    for side, arrays in (("input", inputs), ("output", outputs)):
        for i, array in enumerate(arrays):
            kind = kinds.get(array.dtype.name, f"{array.dtype.name}_t")
            size = max(array.size, 1)
            rows.append(
                f"static const {kind} {name}_{side}{i}[{size}] = {{{_literals(array) or '0'}}};"
            )
    return "\n".join(rows) + "\n"


def _main(arena: Arena, name: str) -> str:
    net, big = arena.laid.net, name.upper()
    outputs = [(i, net.tensors[n]) for i, n in enumerate(net.outputs)]
    rows = [
        f"/* Runs {name} on its test vector, compares, and says what it cost. */",
        "#include <math.h>",
        "#include <stdio.h>",
        f'#include "{name}.h"',
        f'#include "{name}_test.h"',
        "",
        COUNTER,
        f"static unsigned char arena[{big}_ARENA_BYTES] ALIGNED({big}_ALIGN);",
    ]
    if net.states:
        rows.append(f"static unsigned char state[{big}_STATE_BYTES] ALIGNED(16);")
    rows += [f"static {C_TYPES[t.dtype]} output{i}[{big}_OUTPUT{i}_ELEMENTS];" for i, t in outputs]
    arguments = [f"{name}_{n}" if n.startswith("input") else n for _, n in parameters(arena)]
    rows += ["", "int main(void) {", "  double worst = 0.0, largest = 0.0;"]
    rows += ["  start_counter();"]
    if net.states:
        rows.append(f"  {name}_reset(state);")
    rows += [
        "  const uint64_t before = counter();",
        f"  {name}_run({', '.join(arguments)});",
        "  const uint64_t after = counter();",
    ]
    for i, _ in outputs:
        rows += [
            f"  for (int k = 0; k < {big}_OUTPUT{i}_ELEMENTS; k++) {{",
            f"    const double want = (double){name}_output{i}[k];",
            f"    const double apart = fabs((double)output{i}[k] - want);",
            "    worst = apart > worst ? apart : worst;",
            "    largest = fabs(want) > largest ? fabs(want) : largest;",
            "  }",
        ]
    rows += [
        f"  const int equal = worst <= {TOLERANCE} * (largest > 0.0 ? largest : 1.0);",
        '  printf("penjing: " COUNTS " %llu\\n", (unsigned long long)(after - before));',
        "#if defined(TICKS_PER_SECOND)",
        '  printf("penjing: ticks_per_second %llu\\n", (unsigned long long)TICKS_PER_SECOND);',
        "#endif",
        f'  printf("penjing: arena %d\\n", {big}_ARENA_BYTES);',
        '  printf("penjing: equal %s, largest difference %.3g\\n", equal ? "yes" : "no", worst);',
        "  return equal ? 0 : 1;",
        "}",
        "",
    ]
    return "\n".join(rows)


COUNTER = """#if defined(__GNUC__) || defined(__clang__)
#define ALIGNED(n) __attribute__((aligned(n)))
#else
#define ALIGNED(n)
#endif

/* The core's own counter; replace it by your board's where there is none. */
#if defined(PENJING_EMULATOR)
#define COUNTS "instructions"
uint64_t board_instructions(void);
static void start_counter(void) {}
static uint64_t counter(void) { return board_instructions(); }
#elif defined(__ARM_ARCH_7EM__) || defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
#define COUNTS "cycles"
static void start_counter(void) {
  *(volatile uint32_t *)0xE000EDFCu |= 1u << 24; /* DEMCR: trace on */
#if defined(__ARM_ARCH_7EM__)
  *(volatile uint32_t *)0xE0001FB0u = 0xC5ACCE55u; /* DWT: unlock, which a Cortex-M7 asks for */
#endif
  *(volatile uint32_t *)0xE0001004u = 0u; /* DWT: count from zero */
  *(volatile uint32_t *)0xE0001000u |= 1u;
}
static uint64_t counter(void) { return *(volatile uint32_t *)0xE0001004u; }
#elif defined(__x86_64__) /* the time stamp, at a rate of its own */
#define COUNTS "ticks"
static void start_counter(void) {}
static uint64_t counter(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return ((uint64_t)high << 32) | low;
}
#elif defined(__aarch64__) /* the generic timer, which is slower than the core */
#define COUNTS "ticks"
#define TICKS_PER_SECOND timer_frequency()
static uint64_t timer_frequency(void) {
  uint64_t frequency;
  __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
  return frequency;
}
static void start_counter(void) {}
static uint64_t counter(void) {
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
}
#else
#include <time.h>
#define COUNTS "ticks"
#define TICKS_PER_SECOND CLOCKS_PER_SEC
static void start_counter(void) {}
static uint64_t counter(void) { return (uint64_t)clock(); }
#endif
"""
"""Start of every main.c: counts what the core, the emulator or a timer offers."""


def _makefile(name: str, target: Target, assembly: bool) -> str:
    flags = " ".join((*target.flags, *FLAGS))
    weights = f" {name}_weights.o" if assembly else ""
    rows = [
        "# make; make check (on this machine); make THREADS=1 (OpenMP); make DEBUG=1 (asserts)",
        f"CC = {target.compilers[0]}",
        f"CFLAGS = {flags}",
        f"WARNINGS = {' '.join(WARNINGS)}",
        "ifndef DEBUG",
        "CFLAGS += -DNDEBUG",
        "endif",
        "ifdef THREADS",
        "CFLAGS += -fopenmp",
        "endif",
        "",
        f"{name}_example: main.o {name}.o{weights}",
        "\t$(CC) $(CFLAGS) $^ -o $@ -lm",
        f"main.o: main.c {name}.h {name}_test.h",
        f"{name}.o: {name}.c {name}.h",
        "%.o: %.c",
        "\t$(CC) $(CFLAGS) $(WARNINGS) -c $< -o $@",
    ]
    if assembly:
        rows += [f"{name}_weights.o: {name}_weights.S {name}_weights.bin", "\t$(CC) -c $< -o $@"]
    rows += [
        f"check: {name}_example",
        f"\t./{name}_example",
        "clean:",
        f"\trm -f *.o {name}_example",
        ".PHONY: check clean",
    ]
    return "\n".join(rows) + "\n"


def _cmake(name: str, target: Target, assembly: bool) -> str:
    weights = f" {name}_weights.S" if assembly else ""
    languages = "C ASM" if assembly else "C"
    flags = " ".join((*target.flags, *FLAGS[1:]))
    rows = [
        "cmake_minimum_required(VERSION 3.13)",
        f"project({name} {languages})",
        "set(CMAKE_C_STANDARD 99)",
        f"add_library({name} STATIC {name}.c{weights})",
        f"target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})",
        f"target_compile_options({name} PRIVATE $<$<COMPILE_LANGUAGE:C>:{flags}>)".replace(
            " -", ";-"
        ).replace("PRIVATE ;", "PRIVATE "),
        f"target_link_libraries({name} PUBLIC m)",
        f"add_executable({name}_example main.c)",
        f"target_link_libraries({name}_example PRIVATE {name})",
        "enable_testing()",
        f"add_test(NAME {name}_example COMMAND {name}_example)",
    ]
    if assembly:
        rows.insert(
            4,
            f"set_source_files_properties({name}_weights.S PROPERTIES COMPILE_OPTIONS "
            '"-I${CMAKE_CURRENT_SOURCE_DIR}")',
        )
    return "\n".join(rows) + "\n"

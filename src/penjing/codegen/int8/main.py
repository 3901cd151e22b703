"""`main.c`: checks a program against a vector that the reference computed, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from penjing.codegen.emit.files import COUNTER
from penjing.codegen.emulator import named
from penjing.codegen.int8.steps import Step
from penjing.quantization.integers import IntegerNet

_PER_LINE = 24

_MAIN = r"""/* Checks the network against what penjing's reference computes, and counts.
 * `penjing measure --from-log` reads back the lines that it prints; on a board, printf must reach
 * you by semihosting, RTT or a serial line. Defining NET_PROFILE counts every layer. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "net.h"

@COUNTER@
#define STEPS @STEPS@
static const char *const names[STEPS] = {@NAMES@};
static union {
    int8_t bytes[NET_ARENA_BYTES];
    uint64_t align;
} arena;
@STATE@static uint64_t marks[STEPS + 1];

#ifdef NET_PROFILE
void net_done(int step) { marks[step + 1] = counter(); }
#endif

static unsigned long between(uint64_t from, uint64_t to) { /* counters may wrap after 32 bits */
    return (unsigned long)((to - from) & 0xFFFFFFFFu);
}

int main(void) {
    int largest = 0;
@FILL@
@BEGIN@    start_counter();
    marks[0] = counter();
    @RUN@
    const uint64_t end = counter();
@COMPARE@
    printf("penjing: network int8 @TARGET@\n");
#ifdef NET_PROFILE
    for (int i = 0; i < STEPS; ++i) {
        printf("penjing: layer %s " COUNTS " %lu\n", names[i], between(marks[i], marks[i + 1]));
    }
#else
    (void)names;
#endif
    printf("penjing: " COUNTS " %lu\n", between(marks[0], end));
#ifdef TICKS_PER_SECOND
    printf("penjing: ticks_per_second %lu\n", (unsigned long)TICKS_PER_SECOND);
#endif
    printf("penjing: arena %lu\n", (unsigned long)NET_ARENA_BYTES);
    printf("penjing: equal %s, largest difference %d\n", largest ? "no" : "yes", largest);
    return largest != 0;
}
"""

_STATE = """static union {
    int8_t bytes[NET_STATE_BYTES];
    uint64_t align;
} state;
"""

_FILL = "    memcpy(NET_INPUT_{n}(arena.bytes), check_input_{n}, NET_INPUT_{n}_BYTES);"

_COMPARE = """    for (size_t i = 0; i < sizeof check_output_{n} / sizeof *check_output_{n}; ++i) {{
        const int d = NET_OUTPUT_{n}(arena.bytes)[i] - check_output_{n}[i];
        largest = d > largest ? d : -d > largest ? -d : largest;
    }}"""


def main_text(net: IntegerNet, steps: Sequence[Step], target: str, name: str = "net") -> str:
    """The text of `main.c`."""
    values = {
        "COUNTER": COUNTER,
        "STEPS": str(len(steps)),
        "NAMES": ", ".join(f'"{s.layer.name}"' for s in steps),
        "FILL": named("\n".join(_FILL.format(n=n) for n in range(len(net.inputs))), name),
        "COMPARE": named("\n".join(_COMPARE.format(n=n) for n in range(len(net.outputs))), name),
        "TARGET": target,
    }
    values["STATE"] = named(_STATE, name) if net.states else ""
    values["RUN"] = named(
        "net_run(arena.bytes, state.bytes);" if net.states else "net_run(arena.bytes);", name
    )
    values["BEGIN"] = named("    net_reset(state.bytes);\n", name) if net.states else ""
    text = named(_MAIN, name)
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def check_text(inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> str:
    """The text of `check.h`, the check vector; of each tensor's type, images uint8."""
    parts = ["#include <stdint.h>\n"]
    for role, arrays in (("input", inputs), ("output", outputs)):
        for n, array in enumerate(arrays):
            flat = array.reshape(-1).tolist()
            rows = [flat[i : i + _PER_LINE] for i in range(0, len(flat), _PER_LINE)]
            body = ",\n".join("    " + ",".join(map(str, row)) for row in rows)
            name = f"check_{role}_{n}[{len(flat)}]"
            parts.append(f"static const {array.dtype.name}_t {name} = {{\n{body}\n}};\n")
    return "\n".join(parts)

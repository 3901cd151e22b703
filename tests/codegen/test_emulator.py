"""Programs for other processors: they run, they are counted, and what is absent is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penjing.codegen import emulator
from penjing.codegen.targets import CORTEX_M4, HOST, TARGETS, target_of
from penjing.errors import ExportError, MissingDependencyError, StrategyError

BOARDS = [t for t in TARGETS.values() if t.board is not None]

LOOPS = r"""
#include <stdint.h>
#include <stdio.h>
extern uint64_t board_instructions(void);

static unsigned long loop(uint32_t n) {
    uint64_t before = board_instructions();
    __asm__ volatile("1: subs %0, #1\n nop\n bne 1b" : "+r"(n) :: "cc");
    return (unsigned long)(board_instructions() - before);
}

int main(void) {
    printf("%lu %lu\n", loop(1000000u), loop(9000000u));
    return 0;
}
"""


def need(target):
    if emulator.missing(target):
        pytest.skip(emulator.missing(target))


def program(folder, target, text):
    (folder / "main.c").write_text(text)
    return emulator.build(target, folder, ["main.c"])


@pytest.mark.parametrize("target", BOARDS, ids=lambda t: t.name)
def test_instructions_are_counted_exactly_beyond_the_range_of_the_counter(tmp_path, target):
    need(target)
    short, long = map(int, emulator.run(target, program(tmp_path, target, LOOPS)).split())
    assert abs((long - short) - 3 * 8_000_000) <= 40  # an overflow of SysTick runs its handler


DEEP = """#include "net.h"
void net_run(void *arena) {
    volatile char room[1000];
    for (int i = 0; i < 1000; ++i) room[i] = (char)i;
    ((char *)arena)[0] = room[999];
}
"""


def test_the_stack_is_as_deep_as_what_lies_on_it(tmp_path):
    need(CORTEX_M4)
    (tmp_path / "net.h").write_text("#define NET_ARENA_BYTES 8\nvoid net_run(void *arena);\n")
    (tmp_path / "net.c").write_text(DEEP)
    assert 1000 <= emulator.stack_bytes(CORTEX_M4, tmp_path) <= 1016  # and a few saved registers


@pytest.mark.parametrize("name", ["host", "aarch64"])
def test_a_program_prints_what_it_computes(tmp_path, name):
    target = TARGETS[name]
    need(target)
    text = '#include <stdio.h>\nint main(void) { printf("%d", 6 * 7); return 0; }\n'
    assert emulator.run(target, program(tmp_path, target, text)) == "42"


@pytest.mark.parametrize("target", [HOST, CORTEX_M4], ids=lambda t: t.name)
def test_a_program_that_fails_is_an_error_with_its_code(tmp_path, target):
    need(target)
    built = program(tmp_path, target, "int main(void) { return 3; }\n")
    with pytest.raises(ExportError, match="code 3"):
        emulator.run(target, built)


def test_a_fault_on_a_board_is_an_error(tmp_path):
    need(CORTEX_M4)
    built = program(tmp_path, CORTEX_M4, 'int main(void) { __asm__("udf #0"); return 0; }\n')
    with pytest.raises(ExportError, match="faulted"):
        emulator.run(CORTEX_M4, built)


def test_an_absent_compiler_is_named_with_the_packages_that_bring_it(tmp_path):
    target = replace(CORTEX_M4, compilers=("no-such-compiler",))
    with pytest.raises(MissingDependencyError, match=r"no-such-compiler.*gcc-arm-none-eabi"):
        emulator.build(target, tmp_path, [])


def test_sources_that_do_not_compile_are_an_error_with_the_compilers_words(tmp_path):
    need(HOST)
    with pytest.raises(ExportError, match="nonsense"):
        program(tmp_path, HOST, "nonsense\n")


def test_an_unknown_target_is_answered_with_the_known_ones():
    with pytest.raises(StrategyError, match="cortex-m55"):
        target_of("cortex-m99")


def test_flash_is_told_apart_into_code_and_constants(tmp_path):
    need(CORTEX_M4)
    text = "const char c[5000] = {1};\nint main(int n, char **v) { (void)v; return c[n]; }\n"
    size = emulator.size(CORTEX_M4, program(tmp_path, CORTEX_M4, text))
    assert size.constant_bytes >= 5000 > size.code_bytes / 10

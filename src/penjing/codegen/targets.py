"""What a program is compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penjing.errors import StrategyError

_ARM_PACKAGES = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """An emulated board: where its memory lies and how its clock tells instructions.

    Args:
        machine: Name of the machine in QEMU.
        vectors: Address of the vector table.
        code: Address and bytes of the memory that stands for flash.
        data: Address and bytes of the memory that stands for RAM.
        tick_ps: Picoseconds of one tick of SysTick.
    """

    machine: str
    vectors: int
    code: tuple[int, int]
    data: tuple[int, int]
    tick_ps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A processor, its compiler and what its memory looks like.

    Args:
        name: As `compile(target=...)` takes it.
        compilers: Commands that may build for it, the first that is installed is used.
        flags: Of the compiler, for speed and for the instruction set.
        align: Bytes to which every tensor in the arena is aligned.
        vector_bytes: Width of a vector register; 4 where there is none.
        io_in_arena: Inputs and outputs lie in the arena and share its memory with the rest.
        flash_bytes: Room for code and constants; None where it does not matter.
        ram_bytes: Room for the arena; None where it does not matter.
        emulator: Command that runs a program for this target; empty when this machine runs it.
        board: The emulated board of a processor without operating system.
        packages: Debian packages that bring compiler and emulator.
        threads: Most that share a layer, with OpenMP; each has scratch of its own.
    """

    name: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    align: int = 64
    vector_bytes: int = 32
    io_in_arena: bool = False
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    emulator: tuple[str, ...] = ()
    board: Board | None = None
    packages: tuple[str, ...] = ("gcc", "libc6-dev")
    threads: int = 1


HOST = Target(
    name="host",
    compilers=("cc", "gcc", "clang"),
    flags=("-O3", "-march=native"),
)

AARCH64 = Target(
    name="aarch64",
    compilers=("aarch64-linux-gnu-gcc",),
    flags=("-O3", "-march=armv8.2-a+dotprod"),  # gcc 12 miscompiles int8 sums with +i8mm
    vector_bytes=16,
    emulator=("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"),
    packages=("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
)


def _cortex_m(name: str, flags: tuple[str, ...], board: Board, vector_bytes: int = 4) -> Target:
    return Target(
        name=name,
        compilers=("arm-none-eabi-gcc",),
        flags=("-O2", "-mthumb", "-mfloat-abi=hard", *flags),
        align=8,
        vector_bytes=vector_bytes,
        io_in_arena=True,
        flash_bytes=board.code[1],
        ram_bytes=board.data[1],
        emulator=("qemu-system-arm",),
        board=board,
        packages=_ARM_PACKAGES,
    )


_MIB = 2**20

CORTEX_M4 = _cortex_m(
    "cortex-m4",
    ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"),
    Board(
        machine="mps2-an386",
        vectors=0,
        code=(0, 4 * _MIB),
        data=(0x20000000, 4 * _MIB),
        tick_ps=40_000,
    ),
)

CORTEX_M7 = _cortex_m(
    "cortex-m7",
    ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"),
    Board(
        machine="mps2-an500",
        vectors=0,
        code=(0, 4 * _MIB),
        data=(0x20000000, 4 * _MIB),
        tick_ps=40_000,
    ),
)

CORTEX_M55 = _cortex_m(
    "cortex-m55",
    ("-mcpu=cortex-m55",),
    Board(
        machine="mps3-an547",
        vectors=0x10000000,
        code=(0x11000000, 2 * _MIB),
        data=(0x31000000, 4 * _MIB),
        tick_ps=31_250,
    ),
    vector_bytes=16,
)

TARGETS: Mapping[str, Target] = {
    t.name: t for t in (HOST, AARCH64, CORTEX_M4, CORTEX_M7, CORTEX_M55)
}


def target_of(target: str | Target) -> Target:
    """A target by name, or the one that is given.

    Args:
        target: "host", "aarch64", "cortex-m4", "cortex-m7", "cortex-m55", or any `Target`.

    Returns:
        The target.

    Raises:
        StrategyError: There is no target of this name.

    Example:
        >>> target_of("cortex-m4").board.machine
        'mps2-an386'
    """
    if isinstance(target, Target):
        return target
    if target not in TARGETS:
        raise StrategyError(f"there is no target {target!r}; known: {', '.join(TARGETS)}")
    return TARGETS[target]

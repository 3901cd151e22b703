"""What a program is compiled for."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    align: int = 64
    vector_bytes: int = 32
    io_in_arena: bool = False
    flash_bytes: int | None = None
    ram_bytes: int | None = None


HOST = Target(
    name="host",
    compilers=("cc", "gcc", "clang"),
    flags=("-O3", "-march=native"),
)

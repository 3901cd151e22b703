"""Emulators: programs of other processors run on this machine, their instructions counted.

Cortex-M programs run on an Arm MPS board in QEMU with semihosting, so that `printf` and the exit
code come back. With `-icount` every instruction takes the same virtual time, which the core's own
SysTick measures: the counts are exact and repeat. They are instructions, never cycles: the emulator
knows no pipeline, cache or memory wait.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from penjing.codegen.targets import Board, Target
from penjing.errors import ExportError, MissingDependencyError

PS_PER_INSTRUCTION = 64_000
"""With `-icount shift=6` an instruction takes 2^6 ns of virtual time."""

_WARNINGS = ("-std=c99", "-Wall", "-Wextra")
_TAIL = 2000  # characters of a compiler's or program's last words in an error


@dataclass(frozen=True, slots=True)
class Size:
    """What a linked program takes.

    Args:
        code_bytes: Instructions and the vector table.
        constant_bytes: Read-only data and initial values.
        ram_bytes: Initialised and zeroed data, without stack.
    """

    code_bytes: int
    constant_bytes: int
    ram_bytes: int

    @property
    def flash_bytes(self) -> int:
        """Code and constants."""
        return self.code_bytes + self.constant_bytes


def missing(target: Target) -> str:
    """Which tools of a target are absent and how to get them; empty when all are there."""
    absent = [
        " or ".join(names)
        for names in (target.compilers, target.emulator[:1])
        if names and not any(shutil.which(name) for name in names)
    ]
    if not absent:
        return ""
    return (
        f"{' and '.join(absent)} not found, so nothing can be built and run for {target.name!r}; "
        f"on Debian `apt-get install --no-install-recommends {' '.join(target.packages)}` "
        "brings it (scripts/install --system does so)"
    )


def compiler(target: Target) -> str:
    """The command that builds for a target.

    Raises:
        MissingDependencyError: None is installed.
    """
    for name in target.compilers:
        if shutil.which(name):
            return name
    raise MissingDependencyError(missing(target))


def build(target: Target, folder: Path, sources: Sequence[str], flags: Sequence[str] = ()) -> Path:
    """Compile and link a program.

    Args:
        target: What for. Cortex-M programs get start-up code, memory map and semihosting, and can
            call `uint64_t board_instructions(void)`.
        folder: Where the sources lie and the program is written.
        sources: File names in `folder`.
        flags: After those of the target.

    Returns:
        The program, "program.elf" in `folder`.

    Raises:
        MissingDependencyError: The compiler is absent.
        ExportError: The compiler refuses the sources.
    """
    command = [compiler(target), *target.flags, *_WARNINGS, *flags]
    out = folder / "program.elf"
    if target.board is None:
        _compile([*command, *sources, "-o", out.name, "-lm"], folder)
        return out
    _write_board(target.board, folder)
    start = [f"-DPENJING_PS_PER_TICK={target.board.tick_ps}u"]
    start += [f"-DPENJING_PS_PER_INSTRUCTION={PS_PER_INSTRUCTION}u", "-DPENJING_EMULATOR"]
    link = ["--specs=rdimon.specs", "-nostartfiles", "-T", "board.ld", "-Wl,--gc-sections"]
    _compile([*command, *start, "board.c", *sources, *link, "-o", out.name, "-lm"], folder)
    return out


def named(text: str, name: str) -> str:
    """C that was written for a program called net, for one of another name.

    Example:
        >>> named('#include "net.h" /* network */ net_run(arena); NET_ALIGN', "kws")
        '#include "kws.h" /* network */ kws_run(arena); KWS_ALIGN'
    """
    text = re.sub(r"\bnet(?=\b|_)", name, text)
    return re.sub(r"\bNET(?=\b|_)", name.upper(), text)


def build_bare(target: Target, folder: Path, name: str = "net") -> Path:
    """Link a network with the least that starts a core, to see what it takes.

    Args:
        target: A board.
        folder: Where its C file and header lie, with `void net_run(void *arena)`.
        name: Of the files, and before public names: "net" in `net_run`.

    Returns:
        The program; it is to be measured, not run.

    Raises:
        MissingDependencyError: The compiler is absent.
        ExportError: The compiler refuses the sources, or the target has no board.
    """
    if target.board is None:
        raise ExportError(f"{target.name!r} is no board; only a board's program stands alone")
    out = folder / "bare.elf"
    _write_board(target.board, folder)
    (folder / "bare.c").write_text(named(files(__name__).joinpath("bare.c").read_text(), name))
    sections = ["-DNDEBUG", "-ffunction-sections", "-fdata-sections"]
    link = ["--specs=nano.specs", "-nostartfiles", "-T", "board.ld", "-Wl,--gc-sections"]
    command = [compiler(target), *target.flags, *_WARNINGS, *sections]
    _compile([*command, "bare.c", f"{name}.c", *link, "-o", out.name, "-lm"], folder)
    return out


def stack_bytes(target: Target, folder: Path, name: str = "net") -> int:
    """Run a network once and see how deep its stack goes.

    Args:
        target: A board.
        folder: Where its C file and header lie, with `void net_run(void *arena)`.
        name: Of the files, and before public names: "net" in `net_run`.

    Returns:
        Bytes below the caller's, of the path that was taken.

    Raises:
        MissingDependencyError: Compiler or emulator are absent.
        ExportError: The compiler refuses the file, the target has no board, or 64 KiB are too few.
    """
    if target.board is None:
        raise ExportError(f"{target.name!r} is no board; stacks are measured on boards")
    (folder / "stack.c").write_text(named(files(__name__).joinpath("stack.c").read_text(), name))
    return int(run(target, build(target, folder, ["stack.c", f"{name}.c"], ("-DNDEBUG",))))


def run(target: Target, program: Path, timeout_s: float = 120.0) -> str:
    """Run a program for a target on this machine.

    Args:
        target: What it was built for.
        program: The program.
        timeout_s: After which it is stopped.

    Returns:
        What it printed.

    Raises:
        MissingDependencyError: The emulator is absent.
        ExportError: The program faulted, returned an error or did not end.
    """
    command = [*target.emulator, str(program)]
    if target.board is not None:
        command = [
            *target.emulator, "-machine", target.board.machine, "-display", "none",
            "-monitor", "none", "-serial", "none", "-icount", "shift=6",
            "-semihosting-config", "enable=on,target=native", "-kernel", str(program),
        ]  # fmt: skip
    if target.emulator and shutil.which(target.emulator[0]) is None:
        raise MissingDependencyError(missing(target))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"the program for {target.name!r} did not end within {timeout_s:g} s"
        ) from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-_TAIL:]
        raise ExportError(
            f"the program for {target.name!r} ended with code {done.returncode}: {said}"
        )
    return done.stdout


def size(target: Target, program: Path) -> Size:
    """Flash and RAM of a linked program, by section.

    Raises:
        MissingDependencyError: The toolchain is absent.
    """
    tool = compiler(target).removesuffix("gcc") + "size"
    done = subprocess.run([tool, "-A", str(program)], capture_output=True, text=True, check=True)
    sections: dict[str, int] = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith("."):
            sections[words[0]] = int(words[1])
    return _sizes(sections)


def _sizes(sections: Mapping[str, int]) -> Size:
    def total(*prefixes: str) -> int:
        return sum(v for k, v in sections.items() if k.startswith(prefixes))

    return Size(
        code_bytes=total(".text", ".vectors", ".init", ".fini", ".plt"),
        constant_bytes=total(".rodata", ".ARM", ".eh_frame") + total(".data"),
        ram_bytes=total(".data", ".bss"),
    )


def _compile(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExportError(f"`{' '.join(command)}` failed in {folder}: {done.stderr[-_TAIL:]}")


def _write_board(board: Board, folder: Path) -> None:
    apart = board.vectors != board.code[0]
    values = {
        "VECTOR_MEMORY": f"start (rx) : ORIGIN = {board.vectors:#x}, LENGTH = 0x400"
        if apart
        else "",
        "VECTOR_REGION": "start" if apart else "code",
        "CODE": f"{board.code[0]:#x}",
        "CODE_SIZE": f"{board.code[1]:#x}",
        "DATA": f"{board.data[0]:#x}",
        "DATA_SIZE": f"{board.data[1]:#x}",
    }
    script = files(__name__).joinpath("board.ld").read_text()
    for key, value in values.items():
        script = script.replace(f"@{key}@", value)
    (folder / "board.ld").write_text(script)
    (folder / "board.c").write_text(files(__name__).joinpath("board.c").read_text())

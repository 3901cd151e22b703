"""Building: the system's compiler, and a cache of what it made."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from penjing import files
from penjing.codegen.emit.files import FLAGS, WARNINGS
from penjing.codegen.targets import HOST, Target
from penjing.errors import ExportError, MissingDependencyError

TAIL = 2000  # characters of a compiler's last words in an error


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an object file takes.

    Args:
        code_bytes: Instructions.
        constant_bytes: Read-only data.
    """

    code_bytes: int
    constant_bytes: int


def find_compiler(target: Target = HOST, wanted: str | None = None) -> str:
    """The command that builds for a target.

    Args:
        target: What for.
        wanted: A command of your own, instead.

    Returns:
        Its path.

    Raises:
        MissingDependencyError: None is installed; the message says what to install.
    """
    names = (wanted,) if wanted else target.compilers
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise MissingDependencyError(
        f"no C compiler for {target.name!r}: {' or '.join(names)} not found. On Debian "
        f"`apt-get install --no-install-recommends {' '.join(target.packages)}` brings it, on "
        "macOS `xcode-select --install`; the files themselves need none: give out= a folder"
    )


def cache_folder() -> Path:
    """Where built programs are kept: `penjing/programs` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "penjing" / "programs"


@cache
def cpu_name() -> str:
    """What code made for this very processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = {row for row in lines if row.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join(sorted(kept))


@cache
def compiler_version(compiler: str) -> str:
    """First line of what a compiler says of itself."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def shared_library(
    content: Mapping[str, str | bytes],
    sources: Sequence[str],
    target: Target = HOST,
    flags: Sequence[str] = (),
) -> Path:
    """Build a shared library for this machine, or take it from the cache.

    Args:
        content: The program's files.
        sources: Those that are compiled.
        target: Compiler and flags.
        flags: After those of the target.

    Returns:
        The library, in the cache; its key holds sources, compiler, flags and processor.

    Raises:
        MissingDependencyError: No compiler.
        ExportError: The compiler refused the sources.
    """
    compiler = find_compiler(target)
    command = [*target.flags, *FLAGS, "-fPIC", "-shared", "-fvisibility=default", *flags]
    key = hashlib.sha256()
    for part in (compiler, compiler_version(compiler), cpu_name(), " ".join(command)):
        key.update(part.encode() + b"\0")
    for name in sorted(content):
        if name.split(".")[-1] in {"c", "h", "S", "bin"} and name != "main.c":
            raw = content[name]
            key.update(name.encode() + b"\0")
            key.update(raw.encode() if isinstance(raw, str) else raw)
    path = cache_folder() / f"{key.hexdigest()[:32]}.so"
    if path.is_file():
        return path

    def build(part: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(content, folder)
            run_compiler([compiler, *command, *sources, "-o", str(part), "-lm"], folder)

    return files.write_with(path, build)


def write_folder(content: Mapping[str, str | bytes], folder: str | Path) -> None:
    """Write files by name."""
    for name, raw in content.items():
        files.write_bytes(Path(folder) / name, raw.encode() if isinstance(raw, str) else raw)


def run_compiler(command: Sequence[str], folder: str | Path) -> str:
    """Run a compiler in a folder.

    Returns:
        What it said.

    Raises:
        ExportError: It failed; the message has the end of what it said.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(
            f"{Path(command[0]).name} failed with code {done.returncode}:\n{done.stderr[-TAIL:]}"
        )
    return done.stderr


def object_sizes(content: Mapping[str, str | bytes], source: str, target: Target = HOST) -> Sizes:
    """Compile a source alone and read the sizes of its sections.

    Raises:
        MissingDependencyError: No compiler, or no tool that reads sizes.
        ExportError: The compiler refused the source.
    """
    compiler = find_compiler(target)
    prefix = Path(compiler).name.removesuffix("gcc") if compiler.endswith("-gcc") else ""
    tool = shutil.which(f"{prefix}size")
    if tool is None:
        package = f"binutils-{prefix.rstrip('-')}" if prefix else "binutils"
        raise MissingDependencyError(
            f"the flash that a program for {target.name!r} takes is not known: {prefix}size not "
            f"found. On Debian `apt-get install --no-install-recommends {package}` brings it"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_folder(content, folder)
        run_compiler(
            [compiler, *target.flags, *FLAGS, "-DNDEBUG", "-c", source, "-o", "net.o"], folder
        )
        done = subprocess.run(
            [tool, "-A", "net.o"], cwd=folder, capture_output=True, text=True, check=True
        )
    rows = [row.split() for row in done.stdout.splitlines() if row.startswith(".")]
    sizes = {row[0]: int(row[1]) for row in rows if len(row) >= 2}
    code = sum(n for key, n in sizes.items() if key.startswith(".text"))
    constant = sum(n for key, n in sizes.items() if key.startswith((".rodata", ".data.rel.ro")))
    return Sizes(code, constant)


def warnings_of(
    content: Mapping[str, str | bytes], source: str, compiler: str, flags: Sequence[str] = ()
) -> str:
    """What a compiler warns of when it is asked for everything; "" when there is nothing."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(content, folder)
        return run_compiler(
            [compiler, "-O1", *FLAGS, *flags, *WARNINGS, "-Werror", "-c", source, "-o", "net.o"],
            folder,
        )

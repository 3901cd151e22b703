"""An integer program: its files, and running them."""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.codegen import emulator
from penjing.codegen.build import Sizes, object_sizes, shared_library
from penjing.codegen.cycles import CycleEstimate, estimate_cycles
from penjing.codegen.int8.arena import ALIGN, Arena, plan
from penjing.codegen.int8.emit import header_text, program_text
from penjing.codegen.int8.files import check_vector, cmake, describe, makefile
from penjing.codegen.int8.image import images
from penjing.codegen.int8.kernels_16 import is_wide
from penjing.codegen.int8.main import check_text, main_text
from penjing.codegen.int8.schedule import schedule
from penjing.codegen.int8.steps import SPARSE, Optimize, Step
from penjing.codegen.int8.streaming import offsets
from penjing.codegen.log import Log, read_log
from penjing.codegen.runtime import aligned
from penjing.codegen.table import table
from penjing.codegen.targets import HOST, Target, target_of
from penjing.errors import InfeasibleError, InputError, StrategyError, UnavailableError
from penjing.files import write_text
from penjing.quantization.integers import IntegerNet

_UNLIKE = "this program leaves out zeros, the published ones compute them: it may lie outside"
_WIDER = "this program has 16-bit values, the published ones have 8: it may lie outside"


@dataclass(frozen=True, eq=False, repr=False)
class IntegerProgram:
    """An int8 network as C.

    Args:
        net: The network.
        target: What it is compiled for.
        steps: Kernels in order.
        arena: Memory plan.
        files: Text by file name: net.c, net.h, main.c, check.h, Makefile, CMakeLists.txt, net.json,
            "net" being the name.
        layer_bytes: Constants of every layer, by its name.
        instructions: Executed in one call, counted in the emulator of a board; None before that.
        name: Prefix of files and public names.
    """

    net: IntegerNet
    target: Target
    steps: tuple[Step, ...]
    arena: Arena
    files: Mapping[str, str]
    layer_bytes: Mapping[str, int]
    instructions: int | None = None
    name: str = "net"

    def __repr__(self) -> str:
        constants = sum(self.layer_bytes.values())
        return (
            f"IntegerProgram({self.name!r}, {len(self.steps)} layers for {self.target.name}, arena "
            f"{self.arena_bytes:,} bytes, constants {constants:,} bytes)"
        )

    @property
    def source(self) -> str:
        """The C file."""
        return self.files[f"{self.name}.c"]

    @property
    def header(self) -> str:
        """The header."""
        return self.files[f"{self.name}.h"]

    @property
    def threads(self) -> int:
        """Share the layers of one sample, in C; of several, Python gives each thread some."""
        return self.target.threads

    @property
    def table(self) -> str:
        """Per layer its kernel, the nonzeros among its weights, its bytes, how they are written.

        A program for several threads says which layers run on one.
        """
        return table(
            (
                step["name"],
                step["kernel"],
                f"{step['nonzero']:,} of {step['weights']:,}" if "weights" in step else "",
                f"{step['constant_bytes']:,}",
                _note(step),
            )
            for step in json.loads(self.files[f"{self.name}.json"])["steps"]
        )

    @property
    def arena_bytes(self) -> int:
        """RAM of one call, inputs and outputs included."""
        return self.arena.size_bytes

    @property
    def ram_bytes(self) -> int:
        """All the memory of one call: the arena, and the state of a stream."""
        return self.arena_bytes + self.state_bytes

    @property
    def state_bytes(self) -> int:
        """What a stream carries from call to call, in the caller's hands; 0 without streaming."""
        return offsets(self.net, ALIGN)[1]

    @property
    def difference(self) -> float:
        """From the reference: none, since it is compared bit for bit."""
        return 0.0

    @cached_property
    def _sizes(self) -> Sizes:
        return object_sizes(self.files, f"{self.name}.c", self.target)

    @property
    def code_bytes(self) -> int:
        """Instructions of the network, as the target's compiler makes them.

        Raises:
            MissingDependencyError: The compiler is absent, or the tool that reads sizes.
        """
        return self._sizes.code_bytes

    @property
    def constant_bytes(self) -> int:
        """Weights, biases, scales and tables, as the target's compiler lays them out.

        Raises:
            MissingDependencyError: The compiler is absent, or the tool that reads sizes.
        """
        return self._sizes.constant_bytes

    @property
    def flash_bytes(self) -> int:
        """Instructions and constants of the network, without the C library; see also `flash`."""
        return self.code_bytes + self.constant_bytes

    @property
    def cycles(self) -> CycleEstimate | None:
        """Estimated from the instructions; None where they, or a factor of the core, are absent."""
        if self.instructions is None:
            return None
        found = estimate_cycles(self.target.name, self.instructions)
        if found is None:
            return found
        if any(is_wide(self.net, step.layer) for step in self.steps):
            return replace(found, source=f"{found.source}; {_WIDER}")
        if not any(step.kernel in SPARSE for step in self.steps):
            return found
        return replace(found, source=f"{found.source}; {_UNLIKE}")

    def counted(self, log: Log) -> IntegerProgram:
        """The same program with what a run of `check` counted, in its description too."""
        if log.unit != "instructions":
            return self
        program = replace(self, instructions=log.count)
        counts: dict[str, Any] = {"instructions": log.count}
        if program.cycles is not None:
            counts["estimated_cycles"] = asdict(program.cycles)
        described = f"{self.name}.json"
        text = json.dumps(json.loads(self.files[described]) | counts, indent=1) + "\n"
        return replace(program, files={**self.files, described: text})

    def save(self, folder: str | Path) -> Path:
        """Write all files into a folder, which is made when missing."""
        for name, text in self.files.items():
            write_text(Path(folder) / name, text)
        return Path(folder)

    def flash(self) -> emulator.Size:
        """What a whole program takes that starts the core and runs this network, nothing else.

        Raises:
            UnavailableError: It is a stream.
        """
        self._check_alone()
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            built = emulator.build_bare(self.target, Path(folder), self.name)
            return emulator.size(self.target, built)

    def stack_bytes(self) -> int:
        """Stack of one call on a board, next to the arena; it is run in the emulator to see.

        Raises:
            MissingDependencyError: Compiler or emulator are absent.
            ExportError: The target is no board.
            UnavailableError: It is a stream.
        """
        self._check_alone()
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return emulator.stack_bytes(self.target, Path(folder), self.name)

    def _check_alone(self) -> None:
        """Refuse a stream where one call is run alone."""
        if self.net.states:
            raise UnavailableError(
                "the whole program around a stream is not built yet; flash_bytes and check() are "
                "there, and without stream_dim this figure too"
            )

    def check(self) -> Log:
        """Build and run `main.c`: the check vector, and instructions per layer on a board.

        Returns:
            What the program logged.

        Raises:
            MissingDependencyError: The compiler or the emulator is absent.
            ExportError: The program fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            flags, sources = (f"-D{self.name.upper()}_PROFILE",), ["main.c", f"{self.name}.c"]
            built = emulator.build(self.target, Path(folder), sources, flags)
            return read_log(emulator.run(self.target, built))

    def __call__(self, *inputs: Any) -> Any:
        """Run on this machine: floats in the network's own layout, one result or a tuple back.

        Args:
            inputs: float32 arrays or tensors with the batch in dimension 0; images as uint8.

        Returns:
            float32 tensors where tensors were given, else arrays.

        Raises:
            InputError: An input has another shape, batch or dtype, or values that are not numbers.
            StrategyError: It was compiled for streaming.
        """
        if self.net.states:
            raise StrategyError("this program carries a state; call what program.stream() gives")
        return self._called(inputs, self.run)

    def stream(self) -> IntegerStream:
        """A fresh stream of one sample: its state is at the start.

        Raises:
            StrategyError: The program was not compiled for streaming.
        """
        if not self.net.states:
            raise StrategyError("this program has no state; compile with stream_dim=...")
        return IntegerStream(self, self._first_state())

    def _first_state(self) -> NDArray[np.int8]:
        state = aligned(self.state_bytes).view(np.int8)
        self._function("reset", 1)(state.ctypes.data_as(ctypes.c_void_p))
        return state

    def _called(self, inputs: Sequence[Any], run: Callable[..., tuple[NDArray[Any], ...]]) -> Any:
        """What `run` makes of inputs in the network's own layout, in that layout."""
        if len(inputs) != len(self.net.inputs):
            raise InputError(f"{len(self.net.inputs)} inputs are wanted, {len(inputs)} were given")
        integers = [self._checked(n, x) for n, x in enumerate(inputs)]
        batches = [len(x) for x in integers]
        if len(set(batches)) > 1:
            raise InputError(f"the inputs have batches of {batches}; all must have as many samples")
        results = run(*integers)
        wanted = [self.net.tensors[name] for name in self.net.outputs]
        found: list[Any] = [
            t.dequantize(t.restore(r)) for t, r in zip(wanted, results, strict=True)
        ]
        if any(isinstance(x, torch.Tensor) for x in inputs):
            found = [torch.from_numpy(f) for f in found]
        return found[0] if len(found) == 1 else tuple(found)

    def run(self, *inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Run on this machine on integers of its types, `(N, H, W, C)` in and out."""
        count = len(inputs[0])
        parts = min(self.threads, count)
        if parts < 2:
            return self._run(inputs, self._threaded)
        entry = self._entry  # built once, before there are threads
        ends = [count * n // parts for n in range(parts + 1)]
        shares = [[x[a:b] for x in inputs] for a, b in pairwise(ends)]
        with ThreadPoolExecutor(parts) as pool:
            found = list(pool.map(lambda share: self._run(share, entry), shares))
        return tuple(np.concatenate(one) for one in zip(*found, strict=True))

    def _run(
        self,
        inputs: Sequence[NDArray[Any]],
        entry: Callable[..., None],
        state: NDArray[np.int8] | None = None,
    ) -> tuple[NDArray[Any], ...]:
        """Sample by sample, in an arena of its own."""
        arena = aligned(self.arena_bytes).view(np.int8)
        blocks = [arena] if state is None else [arena, state]
        pointers = [block.ctypes.data_as(ctypes.c_void_p) for block in blocks]
        results = [
            np.empty((len(inputs[0]), *tensor.shape), tensor.dtype)
            for tensor in (self.net.tensors[n] for n in self.net.outputs)
        ]
        into = [self._view(arena, name) for name in self.net.inputs]
        out = [self._view(arena, name) for name in self.net.outputs]
        for sample in range(len(inputs[0])):
            for place, values in zip(into, inputs, strict=True):
                place[:] = values[sample].reshape(-1)
            entry(*pointers)
            for place, result in zip(out, results, strict=True):
                result[sample].reshape(-1)[:] = place
        return tuple(results)

    def _view(self, arena: NDArray[np.int8], name: str) -> NDArray[Any]:
        at, tensor = self.arena.offsets[name], self.net.tensors[name]
        return arena[at : at + tensor.size_bytes].view(tensor.dtype)

    def _checked(self, number: int, values: Any) -> NDArray[Any]:
        tensor = self.net.tensors[self.net.inputs[number]]
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        array, picture = np.asarray(values), tensor.name in images(self.net)
        if picture and array.dtype != np.uint8:
            raise InputError(f"input {number} is {array.dtype}; the image is of uint8")
        if tensor.numbers:
            _check_numbers(number, array, tensor.numbers)
        elif not picture and array.dtype != np.float32:
            raise InputError(
                f"input {number} is {array.dtype}; the program takes float32, which it quantizes "
                "itself: convert it first, and images of bytes by compile(preprocessing=...)"
            )
        sizes = list(map(str, tensor.given))
        sizes.insert(tensor.batch, "batch")
        if array.ndim != len(sizes) or np.delete(array.shape, tensor.batch).tolist() != list(
            tensor.given
        ):
            raise InputError(
                f"input {number} has the shape {array.shape}; it is ({', '.join(sizes)})"
            )
        if picture:
            return tensor.arrange(array).view(np.int8)
        if not tensor.numbers and not np.isfinite(array).all():
            raise InputError(f"input {number} has values that are not finite numbers")
        return tensor.arrange(tensor.quantize(array))

    @cached_property
    def _entry(self) -> Callable[..., None]:
        """The C function, built for one thread of this machine."""
        return self._function("run", 1 + bool(self.net.states))

    @cached_property
    def _threaded(self) -> Callable[..., None]:
        """The C function whose layers threads share."""
        if self.threads == 1 or not any(step.parts for step in self.steps):
            return self._entry
        return self._function("run", 1 + bool(self.net.states), ("-fopenmp",))

    def _function(
        self, what: str, pointers: int, flags: tuple[str, ...] = ()
    ) -> Callable[..., None]:
        """A public function of the program; while it runs, other threads of Python do too."""
        target = HOST if self.target.emulator else self.target
        library = shared_library(self.files, [f"{self.name}.c"], target, ("-DNDEBUG", *flags))
        found = getattr(ctypes.CDLL(str(library)), f"{self.name}_{what}")
        found.argtypes, found.restype = [ctypes.c_void_p] * pointers, None
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class IntegerStream:
    """One stream through an integer program; call it with the next piece of the input.

    Args:
        program: The program.
        state: What it carries from call to call.
    """

    program: IntegerProgram
    state: NDArray[np.int8]

    def __call__(self, *inputs: Any) -> Any:
        """The next outputs.

        Args:
            inputs: float32 pieces in the network's own layout, of one sample.

        Returns:
            As the program returns them: what the network would give for this piece, had it seen all
            before.

        Raises:
            InputError: Another shape or dtype than was compiled, or more than one sample.
        """
        return self.program._called(inputs, self.run)

    def run(self, *inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """The next outputs on integers, `(1, H, W, C)` in and out."""
        if len(inputs[0]) != 1:
            raise InputError(f"a stream takes pieces of one sample, {len(inputs[0])} were given")
        return self.program._run(inputs, self.program._threaded, self.state)

    def reset(self) -> None:
        """Begin again."""
        self.state[:] = self.program._first_state()


def _note(step: Mapping[str, Any]) -> str:
    """How the weights of a described step are written, and what threads leave to one."""
    alone = "" if step.get("threaded", True) else "on one thread"
    return ", ".join(filter(None, (step.get("encoding", ""), alone)))


def _check_numbers(number: int, array: NDArray[Any], count: int) -> None:
    """Refuse an input that names no rows of a table."""
    if array.dtype not in (np.int32, np.int64):
        raise InputError(f"input {number} is {array.dtype}; it holds int64 or int32 numbers")
    if array.size and not 0 <= array.min() <= array.max() < count:
        raise InputError(
            f"input {number} holds numbers from {array.min()} to {array.max()}; the table that "
            f"they name rows of has {count}, 0 to {count - 1}"
        )


def compile_integers(
    net: IntegerNet,
    target: str | Target = "host",
    optimize: Optimize = "latency",
    name: str = "net",
) -> IntegerProgram:
    """Make a C program of an integer network.

    Args:
        net: The network.
        target: "host", "aarch64", "cortex-m4", "cortex-m7", "cortex-m55", or any `Target`, whose
            `threads` share larger layers.
        optimize: What decides between dense and sparse kernels: estimated instructions ("latency",
            "ram") or bytes ("flash").
        name: Prefix of files and public names, a C identifier.

    Returns:
        The program.

    Raises:
        ExportError: Sums of a layer may leave 32 bits.
        InfeasibleError: Arena or constants do not fit the target; the message names the layers.
        StrategyError: There is no such target.
    """
    found = target_of(target)
    steps = schedule(net, found, optimize)
    arena = plan(net, steps)
    source, text = program_text(net, steps, arena, name)
    _check_fits(found, arena, steps, net, text.bytes)
    described = describe(net, steps, arena, text.bytes, found)
    files = {
        f"{name}.c": source,
        f"{name}.h": header_text(net, arena, found, name),
        "main.c": main_text(net, steps, found.name, name),
        "check.h": check_text(*check_vector(net)),
        "Makefile": makefile(found, name),
        "CMakeLists.txt": cmake(found, name),
        f"{name}.json": json.dumps(described, indent=1) + "\n",
    }
    return IntegerProgram(net, found, steps, arena, files, text.bytes, name=name)


def _check_fits(
    target: Target,
    arena: Arena,
    steps: tuple[Step, ...],
    net: IntegerNet,
    constants: Mapping[str, int],
) -> None:
    """Refuse a program that is larger than the target's memory."""
    if target.ram_bytes is not None and arena.size_bytes > target.ram_bytes:
        at = {
            s.layer.name: sum(net.tensors[n].size_bytes for n in (*s.reads, s.output))
            for s in steps
        }
        raise InfeasibleError(
            f"the arena takes {arena.size_bytes:,} bytes, {target.name!r} has "
            f"{target.ram_bytes:,}. The layers that read and write most (bytes): {_largest(at)}. "
            "Make their maps smaller: prune what makes them, or shrink the input",
            {"ram_kb": arena.size_bytes / 1024},
        )
    whole = sum(constants.values())
    if target.flash_bytes is not None and whole > target.flash_bytes:
        raise InfeasibleError(
            f"weights and scales take {whole:,} bytes of flash, {target.name!r} has "
            f"{target.flash_bytes:,}. The largest layers (bytes): {_largest(constants)}. Prune "
            "them, or compile with optimize='flash' when they have zeros",
            {"flash_kb": whole / 1024},
        )


def _largest(sizes: Mapping[str, int]) -> str:
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {size:,}" for name, size in largest)

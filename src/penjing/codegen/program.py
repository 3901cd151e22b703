"""A compiled network: called like the model it was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch.utils import _pytree as pytree

from penjing.codegen import emulator
from penjing.codegen.build import object_sizes, write_folder
from penjing.codegen.emit import Files
from penjing.codegen.emit.source import Step
from penjing.codegen.ir import Tensor
from penjing.codegen.preprocessing import Normalize
from penjing.codegen.runtime import KINDS, Loaded
from penjing.codegen.table import table
from penjing.codegen.targets import Target
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import call_args

INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Signature:
    """How the network is called.

    Args:
        in_spec: Tree of (args, kwargs).
        out_spec: Tree of the outputs.
        outputs: Flat outputs of the example: the dtype of tensors, and everything else as it is.
        dynamic_batch: Whether samples may be split over several calls.
    """

    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    outputs: tuple[Any, ...]
    dynamic_batch: bool


@dataclass(frozen=True, eq=False)
class Program:
    """A network compiled to C.

    Args:
        files: What was written.
        target: What it is for.
        signature: How it is called.
        threads: Of OpenMP, on this machine.
        difference: Largest difference from the network when it was compared, relative to the
            largest value; None before.
        preprocessing: What the program does with the bytes of an image, if it takes one.
    """

    files: Files
    target: Target
    signature: Signature
    threads: int = 1
    difference: float | None = field(default=None)
    preprocessing: Normalize | None = None

    @property
    def source(self) -> str:
        """The C file."""
        return self.files.text.source

    @property
    def header(self) -> str:
        """The header."""
        return self.files.text.header

    @property
    def arena_bytes(self) -> int:
        """Working memory that the caller gives; on microcontrollers with inputs and outputs."""
        return self.files.arena.size_bytes

    @property
    def state_bytes(self) -> int:
        """What a stream carries from call to call, in the caller's hands; 0 without streaming."""
        return self.files.state_bytes

    @property
    def ram_bytes(self) -> int:
        """The arena, and inputs and outputs where they lie outside it, and the state."""
        net = self.files.arena.laid.net
        outside = [] if self.target.io_in_arena else [*net.inputs, *net.outputs]
        sizes = sum(net.tensors[n].size_bytes for n in outside)
        return self.arena_bytes + sizes + self.state_bytes

    @property
    def constant_bytes(self) -> int:
        """Weights, indices and tables."""
        return sum(blob.values.nbytes for blob in self.files.text.blobs)

    @cached_property
    def code_bytes(self) -> int:
        """Instructions, as the target's compiler makes them.

        Raises:
            MissingDependencyError: No compiler for the target, or no tool that reads sizes.
        """
        return object_sizes(self.files.content, f"{self.files.name}.c", self.target).code_bytes

    @property
    def flash_bytes(self) -> int:
        """Instructions and constants of the network, without the C library."""
        return self.code_bytes + self.constant_bytes

    @cached_property
    def loaded(self) -> Loaded:
        """The program in this process.

        Raises:
            StrategyError: It is for another processor.
            MissingDependencyError: No compiler.
        """
        if self.target.emulator or self.target.board is not None:
            raise StrategyError(
                f"this program is for {self.target.name!r} and does not run in this process; "
                "`check()` runs its test vector in the emulator, save() writes the files"
            )
        return Loaded(self.files, self.threads, self.target)

    @property
    def table(self) -> str:
        """Per layer its kernel, the nonzeros among its weights, its bytes, how they are written.

        A program for several threads says which layers run on one.
        """
        return table(
            (s.layer.source, s.kernel, _kept(s), f"{s.constant_bytes:,}", self._note(s))
            for s in self.files.text.steps
        )

    def _note(self, step: Step) -> str:
        alone = "on one thread" if self.threads > 1 and not step.threaded else ""
        return ", ".join(filter(None, (step.code.note, alone)))

    def save(self, folder: str | Path) -> Path:
        """Write all files.

        Args:
            folder: Made when missing.

        Returns:
            The folder.

        Raises:
            OSError: The folder cannot be written.
        """
        write_folder(self.files.content, folder)
        return Path(folder)

    def check(self) -> str:
        """Build the example, run it on its test vector (in an emulator where needs be).

        Returns:
            What it printed: cycles, ticks or instructions, the arena, and whether it is equal.

        Raises:
            MissingDependencyError: Compiler or emulator are absent.
            ExportError: It does not build, or the results differ.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            flags = ("-DNDEBUG", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
            sources = ["main.c", *self.files.sources]
            built = emulator.build(self.target, Path(folder), sources, flags)
            return emulator.run(self.target, built)

    # ------------------------------------------------------------ calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program.

        Args:
            *args: As the network takes them, numpy arrays or tensors; any multiple of the batch
                that was compiled, where the network's batch is free.
            **kwargs: As the network takes them.

        Returns:
            What the network returns: tensors, or arrays when only arrays were given.

        Raises:
            InputError: Another structure, shape or dtype than the network was compiled for.
            StrategyError: It was compiled for streaming.
        """
        if self.state_bytes:
            raise StrategyError("this program carries a state; call what program.stream() gives")
        arrays = self._arrays(args, kwargs)
        given = pytree.tree_leaves((args, kwargs))
        tensors = any(isinstance(v, TorchTensor) for v in given)
        calls = self._split(arrays)
        parts = [self.loaded.run(call) for call in calls]
        joined = [np.concatenate(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True)]
        return self._result(joined, tensors)

    def stream(self) -> Stream:
        """A fresh stream: its state is at the start.

        Raises:
            StrategyError: The program was not compiled for streaming.
        """
        if not self.state_bytes:
            raise StrategyError("this program has no state; compile with stream_dim=...")
        return Stream(self, self.loaded.new_state())

    def _arrays(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[np.ndarray]:
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if len(args) == 1 and not kwargs and spec != self.signature.in_spec:
            leaves, spec = pytree.tree_flatten(call_args(args[0]))
        if spec != self.signature.in_spec:
            raise InputError(
                f"inputs have the structure {spec}, the program takes {self.signature.in_spec}"
            )
        arrays = [v for v in leaves if isinstance(v, (TorchTensor, np.ndarray))]
        return [_array(v, t) for v, t in zip(arrays, self.loaded.inputs, strict=True)]

    def _split(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """The calls that the inputs need: one, or several of the compiled batch."""
        wanted = self.loaded.inputs
        if all(a.shape == t.shape for a, t in zip(arrays, wanted, strict=True)):
            return [list(arrays)]
        times = {self._times(a, t) for a, t in zip(arrays, wanted, strict=True)}
        if len(times) != 1:
            raise InputError("the inputs hold different numbers of samples")
        count = times.pop()
        return [list(one) for one in zip(*(np.split(a, count) for a in arrays), strict=True)]

    def _times(self, array: np.ndarray, tensor: Tensor) -> int:
        batch = tensor.shape[0] if tensor.shape else 1
        same = array.ndim == len(tensor.shape) and array.shape[1:] == tensor.shape[1:]
        free = self.signature.dynamic_batch and same and batch > 0
        if not free or len(array) == 0 or len(array) % batch:
            samples = f", or a multiple of {batch} samples" if self.signature.dynamic_batch else ""
            raise InputError(
                f"input {tensor.name!r} has shape {tuple(array.shape)}; the program takes "
                f"{tensor.shape}{samples}"
            )
        return len(array) // batch

    def _result(self, arrays: Sequence[np.ndarray], tensors: bool) -> Any:
        given = iter(arrays)
        flat: list[Any] = []
        for kind in self.signature.outputs:
            if not isinstance(kind, torch.dtype):
                flat.append(kind)
                continue
            value = torch.from_numpy(next(given)).to(kind)
            flat.append(value if tensors else value.numpy())
        return pytree.tree_unflatten(flat, self.signature.out_spec)

    def __repr__(self) -> str:
        return (
            f"Program({self.files.name!r} for {self.target.name}, arena {self.arena_bytes:,} "
            f"bytes, constants {self.constant_bytes:,} bytes)"
        )


def _kept(step: Step) -> str:
    """Nonzeros of all weights, where a layer has any."""
    weight = step.layer.weights.get("weight")
    return "" if weight is None else f"{np.count_nonzero(weight):,} of {weight.size:,}"


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One stream through a program; call it with the next piece of the input.

    Args:
        program: The program.
        state: What it carries from call to call.
    """

    program: Program
    state: np.ndarray

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The next outputs.

        Args:
            *args: As the program takes them.
            **kwargs: As the program takes them.

        Returns:
            What the network would return for this piece, had it seen all before.

        Raises:
            InputError: Another shape or dtype than was compiled.
        """
        arrays = self.program._arrays(args, kwargs)
        for array, tensor in zip(arrays, self.program.loaded.inputs, strict=True):
            if array.shape != tensor.shape:
                raise InputError(
                    f"input {tensor.name!r} has shape {tuple(array.shape)}; a stream takes pieces "
                    f"of {tensor.shape}"
                )
        given = pytree.tree_leaves((args, kwargs))
        outputs = self.program.loaded.run(arrays, self.state)
        return self.program._result(outputs, any(isinstance(v, TorchTensor) for v in given))

    def reset(self) -> None:
        """Begin again."""
        self.state[:] = self.program.loaded.new_state()


def _array(value: Any, tensor: Tensor) -> np.ndarray:
    """An input as the program takes it.

    Raises:
        InputError: A dtype that would lose something.
    """
    array = value.detach().cpu().numpy() if isinstance(value, TorchTensor) else value
    wanted = np.dtype(KINDS[tensor.dtype])
    if array.dtype == wanted:
        return np.ascontiguousarray(array)
    if wanted == np.int32 and array.dtype.kind in "iu":
        if array.size and (array.min() < INT32[0] or array.max() > INT32[1]):
            raise InputError(f"input {tensor.name!r} holds numbers beyond 32 bits")
        return np.ascontiguousarray(array, dtype=np.int32)
    if wanted == np.uint8 and array.dtype == np.bool_:
        return np.ascontiguousarray(array, dtype=np.uint8)
    raise InputError(
        f"input {tensor.name!r} is {array.dtype}; the program takes {wanted}: convert it first"
    )

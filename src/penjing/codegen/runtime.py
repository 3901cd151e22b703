"""Calling a program from Python: built with the system's compiler, run on numpy arrays."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from penjing.codegen.build import shared_library
from penjing.codegen.emit import Files
from penjing.codegen.emit.source import state_offsets
from penjing.codegen.ir import Tensor
from penjing.codegen.targets import HOST, Target

KINDS = {"f32": np.float32, "i8": np.int8, "i16": np.int16, "i32": np.int32, "u8": np.uint8}


def aligned(size: int, align: int = 64) -> np.ndarray:
    """Bytes at an aligned address."""
    raw = np.zeros(size + align, dtype=np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size]


@dataclass(slots=True)
class Loaded:
    """A program that this process has loaded. Threads may call it at the same time.

    Args:
        files: The program.
        threads: Of OpenMP; 1 builds without it.
        target: Compiler and flags.
        flags: After those of the target.
    """

    files: Files
    threads: int = 1
    target: Target = HOST
    flags: tuple[str, ...] = ("-DNDEBUG",)
    _library: ctypes.CDLL = field(init=False)
    _local: threading.local = field(init=False, default_factory=threading.local)

    def __post_init__(self) -> None:
        flags = (*self.flags, "-fopenmp") if self.threads > 1 else self.flags
        path = shared_library(self.files.content, self.files.sources, self.target, flags)
        self._library = ctypes.CDLL(str(path))

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors of one call."""
        net = self.files.arena.laid.net
        return [net.tensors[n] for n in net.inputs]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that a call gives."""
        net = self.files.arena.laid.net
        return [net.tensors[n] for n in net.outputs]

    def new_state(self) -> np.ndarray:
        """The state at the start of a stream."""
        state = aligned(max(state_offsets(self.files.arena)[-1], 1))
        reset = getattr(self._library, f"{self.files.name}_reset", None)
        if reset is not None:
            reset(ctypes.c_void_p(state.ctypes.data))
        return state

    def run(
        self, inputs: Sequence[np.ndarray], state: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Run once.

        Args:
            inputs: Contiguous arrays of the program's types and shapes.
            state: Of a stream, moved on in place.

        Returns:
            The outputs, fresh arrays.
        """
        outputs = [np.empty(t.shape, KINDS[t.dtype]) for t in self.outputs]
        arena = getattr(self._local, "arena", None)
        if arena is None:
            arena = aligned(max(self.files.arena.size_bytes, 1))
            self._local.arena = arena
        pieces = [*inputs, *outputs, *([] if state is None else [state]), arena]
        entry = getattr(self._library, f"{self.files.name}_run")
        entry(*(ctypes.c_void_p(piece.ctypes.data) for piece in pieces))
        return outputs

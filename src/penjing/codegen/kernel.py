"""What a kernel is: an object that turns one layer into C, and says what it needs for that.

The compiler asks in this order: `takes`, `cost` (the choice), `needs` (layout and memory), `emit`.
A kernel gets the layout that it asks for: where no producer can write that way, a copy is put in
between, so a need costs time but never fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.targets import Target


@dataclass(frozen=True, slots=True)
class Room:
    """How a kernel wants one of its tensors to lie in memory; the default takes any strides.

    Args:
        border: Elements of zero (of the zero point, for integers) before and after, per trailing
            dimension: `((1, 1), (1, 1))` pads the last two. A tensor may have more than asked for.
        slack: Elements behind the last one that may be read, and written by the maker; junk.
        order: Dimensions from the outermost in memory to the innermost; None takes any strides.
            `(0, 1, 2, 3)` is NCHW, `(0, 2, 3, 1)` NHWC. The strides are then those of a packed
            array of the bordered shape, unless `loose`.
        loose: Only the innermost stride must be 1; `order` then names the innermost dimension last
            and says nothing of the others.
        touching: No border between rows; with `loose`, the last two dimensions lie as one.
    """

    border: tuple[tuple[int, int], ...] = ()
    slack: int = 0
    order: tuple[int, ...] | None = None
    loose: bool = False
    touching: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a kernel needs for one layer.

    Args:
        inputs: Per input; missing ones take anything.
        outputs: Per output; missing ones take anything.
        overwrites: Inputs that the first output may be written over, element upon element, when
            both have the same strides.
        scratch_bytes: Bytes that are used only while the layer runs, aligned as the arena is.
        junk: The kernel writes into the border or slack of its output; borders are cleared after
            it.
    """

    inputs: tuple[Room, ...] = ()
    outputs: tuple[Room, ...] = ()
    overwrites: tuple[int, ...] = ()
    scratch_bytes: int = 0
    junk: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies when the code is written.

    Args:
        pointer: C expression of its first element (inside any border), already of the right type.
        shape: As in the net.
        strides: Elements between neighbours, per dimension; 0 where it is broadcast.
        dtype: As in the net.
        border: Zeros before and after that are really there, per trailing dimension.
        slack: Elements behind the last one that may be touched.
        grid: Quantization grid, if any.
    """

    pointer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    border: tuple[tuple[int, int], ...] = ()
    slack: int = 0
    grid: Any = None


@dataclass(frozen=True, slots=True)
class Site:
    """Everything `emit` may use.

    Args:
        layer: The layer.
        inputs: Where its inputs lie.
        outputs: Where its outputs lie.
        scratch: C expression, `void *`, of the scratch memory.
        target: What is compiled for.
    """

    layer: Layer
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    scratch: str
    target: Target


@dataclass(frozen=True, slots=True)
class Blob:
    """A constant array of the program.

    Args:
        name: C identifier; unique, so begin it with the name of the layer.
        values: The array; written flat, float32, int8, int16, int32, uint8, uint16 or uint32.
        role: "weight", "bias", "index" or "table": what the size report counts it as.
        align: Bytes.
    """

    name: str
    values: np.ndarray
    role: str = "weight"
    align: int = 4


@dataclass(frozen=True, slots=True)
class Code:
    """C for one layer.

    Args:
        call: Statements, run in a scope of their own.
        functions: Name -> text of `static` functions, in an order in which they can be defined. The
            same name always has the same text, so layers share what is alike.
        blobs: Constants that the call names; equal ones of several layers are stored once.
        note: Encoding and specialisation, for the size report.
    """

    call: str
    functions: Mapping[str, str] = field(default_factory=dict)
    blobs: tuple[Blob, ...] = ()
    note: str = ""


class Kernel(Protocol):
    """Any object of this shape is a kernel; pass it to `compile` in `kernels`."""

    @property
    def name(self) -> str:
        """Short name for reports, such as "sparse_conv"."""
        ...

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Whether it computes this layer on this target, fused activation included."""
        ...

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Estimated nanoseconds of one call (of cycles, on a microcontroller); the least wins."""
        ...

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Layouts and memory; asked once the kernel is chosen."""
        ...

    def emit(self, site: Site, /) -> Code:
        """The C text; a pure function of its argument."""
        ...


def constant_bytes_of(kernel: Kernel, net: Net, layer: Layer, target: Target) -> int:
    """Flash for a layer's constants: what the kernel says, else its weights as they are."""
    held = getattr(kernel, "constant_bytes", None)
    if held is not None:
        return int(held(net, layer, target))
    return sum(array.nbytes for array in layer.weights.values() if array is not None)

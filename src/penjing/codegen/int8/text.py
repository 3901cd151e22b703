"""A program while it is written: constants, and where tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from penjing.codegen.int8.arena import ALIGN, Arena
from penjing.codegen.int8.streaming import offsets as state_offsets
from penjing.quantization.integers import HIGH, LOW, IntegerLayer, IntegerNet

_C_TYPES: Mapping[str, str] = {
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t",
    "uint8": "uint8_t", "uint16": "uint16_t",
}  # fmt: skip
_PER_LINE = 24


@dataclass(slots=True)
class Text:
    """A program while it is written.

    Args:
        net: The network.
        arena: Where its tensors lie.
        constants: C text of constant arrays and structures.
        bytes: Size of the constants of every layer, by its name.
        largest: Bound on what is rescaled.
    """

    net: IntegerNet
    arena: Arena
    constants: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    largest: int = 0

    def at(self, name: str) -> str:
        """Pointer to a tensor."""
        if name in self.net.constants:
            return self._constant(name)
        return _place(self.arena.offsets[name])

    def scratch(self, name: str, offset: int = 0) -> str:
        """Pointer into the scratch memory of a layer; the arena where it has none."""
        return _place(self.arena.scratch.get(name, 0) + offset)

    def state(self, name: str) -> str:
        """Pointer to what a stream keeps."""
        at = state_offsets(self.net, ALIGN)[0][name]
        return f"s + {at}" if at else "s"

    def _constant(self, name: str) -> str:
        """A stored tensor, written once."""
        values = self.net.constants[name]
        if name not in self.bytes:
            self.bytes[name] = values.nbytes
            ctype = _C_TYPES[values.dtype.name]
            self.constants.append(
                f"static const {ctype} {name}[{values.size}] = {{\n{_numbers(values)}\n}};\n"
            )
        return name

    def named(self, layer: IntegerLayer, name: str) -> str:
        """Name of a constant."""
        return f"{layer.name}_{name}"

    def array(self, layer: IntegerLayer, name: str, values: NDArray[Any]) -> str:
        """Write a constant array and return its name."""
        found = self.named(layer, name)
        ctype = _C_TYPES[values.dtype.name]
        self.constants.append(
            f"static const {ctype} {found}[{values.size}] = {{\n{_numbers(values)}\n}};\n"
        )
        self.bytes[layer.name] = self.bytes.get(layer.name, 0) + values.nbytes
        return found

    def once(self, layer: IntegerLayer, name: str, values: NDArray[Any]) -> str:
        """Write a constant array that several layers share, with the first of them."""
        ctype, found = _C_TYPES[values.dtype.name], f"net_{name}"
        line = f"static const {ctype} {found}[{values.size}] = {{\n{_numbers(values)}\n}};\n"
        if line not in self.constants:
            self.constants.append(line)
            self.bytes[layer.name] = self.bytes.get(layer.name, 0) + values.nbytes
        return found

    def structure(self, layer: IntegerLayer, kind: str, values: Mapping[str, Any]) -> str:
        """Write a constant structure and return its address."""
        found = self.named(layer, kind)
        self.constants.append(f"static const pj_{kind}_t {found} = {structured(values)};\n")
        return f"&{found}"


def structured(values: Mapping[str, Any]) -> str:
    """The initial value of a structure, in C."""
    fields = ",\n    ".join(f".{k} = {v}" for k, v in values.items())
    return f"{{\n    {fields}}}"


def _place(offset: int) -> str:
    return f"m + {offset}" if offset else "m"


def _numbers(values: NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    rows = [flat[i : i + _PER_LINE] for i in range(0, len(flat), _PER_LINE)]
    return ",\n".join("    " + ",".join(map(_number, row)) for row in rows)


def _number(value: int) -> str:
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)


def clamped(layer: IntegerLayer) -> dict[str, int]:
    """Bounds of the activation that a layer ends in."""
    return {k: int(layer.attributes.get(k, d)) for k, d in (("low", LOW), ("high", HIGH))}

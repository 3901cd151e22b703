"""The net while it is being built: values of graph nodes, and layers as they are added."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch import fx

from penjing.codegen.ir import DType, Layer, Net, Tensor
from penjing.errors import ExportError
from penjing.graph.call import Call, where

DTYPES: Mapping[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.float64: "f32",  # of constants: a double scalar meets float tensors
    torch.int64: "i32",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "u8",
}
KEYWORDS = frozenset(
    """
    auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef
    union unsigned void volatile while arena state scratch f32 f32 i8 i16 i32 u8 i32
    """.split()  # noqa: SIM905 - one line per word would hide the rest
)


def identifier(text: str) -> str:
    """A C identifier for a node or a module."""
    name = re.sub(r"\W", "_", text)
    return f"{name}_" if name in KEYWORDS or name[:1].isdigit() else name


@dataclass(slots=True)
class Trace:
    """A net that grows.

    Args:
        tensors: So far.
        constants: So far.
        layers: So far.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def fresh(self, hint: str) -> str:
        """A name that no tensor has."""
        base = name = identifier(hint)
        count = 1
        while name in self.tensors:
            count += 1
            name = f"{base}_{count}"
        return name

    def tensor(self, hint: str, shape: Sequence[int], dtype: DType = "f32") -> Value:
        """Add a tensor."""
        name = self.fresh(hint)
        self.tensors[name] = Tensor(name, tuple(int(s) for s in shape), dtype)
        return Value(name, self.tensors[name].shape, dtype)

    def hold(self, value: Value, hint: str = "constant") -> Value:
        """A value that layers can read: constants get a tensor."""
        if value.name:
            return value
        assert value.constant is not None  # a value without a name is one
        made = self.tensor(hint, value.shape, value.dtype)
        self.constants[made.name] = as_array(value.constant, value.dtype)
        return made

    def number(self, array: np.ndarray, hint: str = "constant") -> Value:
        """An array of the compiler's own as a constant tensor."""
        made = self.tensor(hint, array.shape)
        self.constants[made.name] = np.ascontiguousarray(array.astype(np.float32))
        return made

    def add(
        self,
        kind: str,
        op: Op,
        inputs: Sequence[Value],
        outputs: Sequence[Value] | None = None,
        *,
        weights: Mapping[str, np.ndarray | None] | None = None,
        **attributes: Any,
    ) -> Value:
        """Add a layer.

        Args:
            kind: Of the layer.
            op: Where it comes from; without `outputs`, its result is the output.
            inputs: Read by it.
            outputs: Made by it.
            weights: Arrays; None entries are left out.
            **attributes: Of the layer.

        Returns:
            The first output.
        """
        made = outputs or [self.result(op)]
        self.layers.append(
            Layer(
                kind=kind,
                name=made[0].name,
                inputs=tuple(self.hold(v, f"{made[0].name}_constant").name for v in inputs),
                outputs=tuple(v.name for v in made),
                attributes=attributes,
                weights={k: w for k, w in (weights or {}).items() if w is not None},
                source=op.source,
            )
        )
        return made[0]

    def result(self, op: Op, position: int = 0) -> Value:
        """A tensor for a result of `op`, named after its node."""
        found = op.results[position]
        if found.dtype not in DTYPES:
            op.refuse(f"with a result of {str(found.dtype).removeprefix('torch.')}")
        hint = op.node.name if position == 0 else f"{op.node.name}_{position}"
        return self.tensor(hint, found.shape, DTYPES[found.dtype])

    def net(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Net:
        """The net, without layers that nothing reads."""
        needed = {v.name for v in outputs}
        layers: list[Layer] = []
        for layer in reversed(self.layers):
            if needed & set(layer.outputs):
                needed |= set(layer.inputs)
                layers.append(layer)
        used = needed | {v.name for v in inputs} | {n for one in layers for n in one.outputs}
        return Net(
            inputs=tuple(v.name for v in inputs),
            outputs=tuple(v.name for v in outputs),
            layers=tuple(reversed(layers)),
            tensors={n: t for n, t in self.tensors.items() if n in used},
            constants={n: c for n, c in self.constants.items() if n in used},
        )


Rule = Callable[[Trace, Op], Value | Sequence[Value]]
"""Adds layers for an op and gives the values of its results."""

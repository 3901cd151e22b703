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
    union unsigned void volatile while arena state scratch
    """.split()  # noqa: SIM905 - one line per word would hide the rest
)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph at the sizes that are compiled.

    Args:
        name: Its tensor in the net; "" for a constant that no layer reads yet.
        shape: Static.
        dtype: Of the net.
        constant: What it is, when it does not depend on the inputs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    constant: TorchTensor | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One call of the graph with its arguments resolved.

    Args:
        node: The node.
        arguments: Values, numbers and lists of them, by name of the schema.
        results: What torch computed for the example; shapes and types are read from it.
        source: Qualified name of the weight that it uses, else of the op.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    results: tuple[TorchTensor, ...]
    source: str

    @property
    def name(self) -> str:
        """ATen base name."""
        return Call(self.node).name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return tuple(self.results[0].shape)

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or `default` where it is absent or None."""
        found = self.arguments.get(name)
        return default if found is None else found

    def array(self, name: str) -> np.ndarray | None:
        """A constant tensor argument as float32; None when it was not given.

        Raises:
            ExportError: The tensor depends on the inputs.
        """
        value = self.get(name)
        if value is None:
            return None
        if value.constant is None:
            self.refuse(f"whose {name} is computed from the inputs")
        return as_array(value.constant, "f32")

    def refuse(self, what: str = "") -> NoReturn:
        """Say that the op cannot be compiled, and where it is.

        Raises:
            ExportError: Always.
        """
        place = where(self.node)
        at = f" ({place})" if place else ""
        detail = f" {what}" if what else ""
        raise ExportError(
            f"the compiler has no {self.name}{detail}: node {self.node.name!r}{at}. Replace it in "
            "forward, or export to .onnx"
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """A result that is not computed; only who reads it is told.

    Args:
        op: Whose.
    """

    op: Op

    def refuse(self) -> NoReturn:
        """Say whose result it is to who reads it.

        Raises:
            ExportError: Always.
        """
        self.op.refuse("with more than its first result")


def as_array(value: TorchTensor, dtype: DType) -> np.ndarray:
    """A constant as a contiguous array of the compiler's type."""
    kinds = {
        "f32": np.float32,
        "i8": np.int8,
        "i16": np.int16,
        "i32": np.int32,
        "u8": np.uint8,
    }
    array = value.detach().cpu().resolve_conj().resolve_neg().numpy()
    if dtype == "i32" and array.size:
        array = np.clip(array, -(2**31), 2**31 - 1)  # sentinels such as the largest int64
    return np.ascontiguousarray(array.astype(kinds[dtype])).reshape(array.shape)


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

    def hold(self, value: Value | Missing, hint: str = "constant") -> Value:
        """A value that layers can read: constants get a tensor.

        Raises:
            ExportError: It is a result that is not computed.
        """
        if isinstance(value, Missing):
            value.refuse()
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


Rule = Callable[[Trace, Op], Value | Sequence[Value | Missing]]
"""Adds layers for an op and gives the values of its results."""

"""From a captured program to a net: one file per family of ops, the walk over the graph here."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor as TorchTensor
from torch import fx
from torch.utils import _pytree as pytree

from penjing.codegen.ir import Net
from penjing.codegen.lower import (
    convolution,
    filled,
    lookup,
    movement,
    norms,
    pointwise,
    pooling,
    products,
    recurrent,
    reductions,
    resize,
)
from penjing.codegen.lower.trace import DTYPES, Missing, Op, Rule, Trace, Value, identifier
from penjing.errors import InputError
from penjing.graph.call import op_name
from penjing.graph.capture import Program, describe, is_hinted, unbacked

__all__ = ["lower"]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **convolution.RULES,
        **products.RULES,
        **pooling.RULES,
        **pointwise.RULES,
        **norms.RULES,
        **movement.RULES,
        **reductions.RULES,
        **recurrent.RULES,
        **filled.RULES,
        **lookup.RULES,
        **resize.RULES,
    }
)


def lower(program: Program, values: Sequence[Any]) -> Net:
    """Turn a captured network into a net of static shapes.

    Every op runs once on `values`, which gives all shapes; what does not depend on the inputs
    becomes a constant. Tensors keep the names of the graph's nodes.

    Args:
        program: A captured network, its norms folded or not.
        values: Flat inputs at the batch to compile for.

    Returns:
        The net, as it was written: nothing is fused, data movement is layers of its own.

    Raises:
        ExportError: An op cannot be compiled; the message has the op and the source line.
        InputError: A network or an input of a type that is not compiled.

    Example:
        >>> from penjing.graph.capture import capture
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> x = torch.ones(1, 4)
        >>> [layer.kind for layer in lower(capture(net, x), [x]).layers]
        ['linear', 'map']
    """
    with torch.no_grad():
        return _Walk(program).run(values)


class _Walk:
    """One pass over a graph: real values for the shapes, values of the net beside them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.trace = Trace()
        self.real: dict[fx.Node, Any] = {}
        self.settled: set[Any] = set()  # symbols of sizes that stored tensors decide
        self.made: dict[fx.Node, Any] = {}
        self.dying = _last_readers(program.graph)

    def run(self, values: Sequence[Any]) -> Net:
        bound = self.program.bind(values)
        inputs: list[Value] = []
        outputs: list[Value] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, bound[node.name], inputs)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = self._outputs(node)
            for gone in self.dying.get(node, ()):
                self.real.pop(gone, None)
        return self.trace.net(inputs, outputs)

    def _placeholder(self, node: fx.Node, value: Any, inputs: list[Value]) -> None:
        self.real[node] = value
        if node.name in self.program.stored:
            _check_type(value, self.program.stored[node.name])
            self.made[node] = _constant(value)
        elif isinstance(value, TorchTensor):
            _check_type(value, f"input {node.name!r}")
            made = self.trace.tensor(node.name, value.shape, DTYPES[value.dtype])
            self.made[node] = made
            inputs.append(made)
        else:
            self.made[node] = value

    def _call(self, node: fx.Node) -> None:
        args, kwargs = pytree.tree_map(self._real_of, (tuple(node.args), dict(node.kwargs)))
        target: Any = node.target
        result = self.real[node] = target(*args, **kwargs)
        if target is operator.getitem and isinstance(self.made[node.args[0]], (list, tuple)):  # type: ignore[index] # of a node
            self.made[node] = self.made[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        reads = [self.made.get(n) for n in node.all_input_nodes]
        if not any(_is_live(value) for value in reads):
            self.made[node] = pytree.tree_map(_constant, result)
            self.settled |= {symbol for _, symbols in _undecided(node) for symbol in symbols}
            return
        if not any(isinstance(v, TorchTensor) for v in pytree.tree_leaves(result)):
            self.made[node] = result
            return
        self.made[node] = self._lowered(node, result)

    def _lowered(self, node: fx.Node, result: Any) -> Any:
        flat = [v for v in pytree.tree_leaves(result) if isinstance(v, TorchTensor)]
        op = Op(node, self._arguments(node), tuple(flat), self._source(node))
        for value in pytree.tree_leaves(op.arguments):
            if isinstance(value, Missing):
                value.refuse()
        rule = RULES.get(op_name(node))
        self._check_sizes(op)
        if rule is None or not isinstance(node.target, torch._ops.OpOverload):
            op.refuse()
        made = rule(self.trace, op)
        self._count_zeros(pytree.tree_leaves(made), flat)
        return made

    def _check_sizes(self, op: Op) -> None:
        """Refuse a size that depends on the inputs; what is stored may select."""
        chosen_by = [v for name, v in op.arguments.items() if name != "self"]
        selects = [v for v in pytree.tree_leaves(chosen_by) if isinstance(v, Value)]
        fixed = bool(selects) and not any(map(_is_live, selects))
        for dim, symbols in _undecided(op.node):
            if fixed:
                self.settled |= symbols
            if not symbols <= self.settled:
                op.refuse(
                    f"whose dimension {dim} only the data gives a size: make it the same for "
                    "all inputs, such as by a mask in place of a selection"
                )

    def _count_zeros(self, made: Sequence[Any], real: Sequence[TorchTensor]) -> None:
        for value, result in zip(made, real, strict=False):
            tensor = self.trace.tensors.get(value.name) if isinstance(value, Value) else None
            if tensor is not None and tensor.dtype == "f32" and result.numel():
                zeros = 1 - int(result.count_nonzero()) / result.numel()
                self.trace.tensors[tensor.name] = replace(tensor, zeros=zeros)

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        schema = getattr(node.target, "_schema", None)
        found: dict[str, Any] = {}
        for position, argument in enumerate(schema.arguments if schema is not None else ()):
            if position < len(node.args):
                given = node.args[position]
            elif argument.name in node.kwargs:
                given = node.kwargs[argument.name]
            else:
                given = argument.default_value if argument.has_default_value() else None
            found[argument.name] = pytree.tree_map(self._made_of, given)
        return found

    def _source(self, node: fx.Node) -> str:
        for read in node.all_input_nodes:
            fqn = self.program.stored.get(read.name)
            if fqn in self.program.parameters:
                return str(fqn).rpartition(".")[0] or str(fqn)
        return op_name(node)

    def _real_of(self, argument: Any) -> Any:
        return self.real[argument] if isinstance(argument, fx.Node) else argument

    def _made_of(self, argument: Any) -> Any:
        return self.made[argument] if isinstance(argument, fx.Node) else argument

    def _outputs(self, node: fx.Node) -> list[Value]:
        found = pytree.tree_leaves(pytree.tree_map(self._made_of, node.args[0]))
        return [
            self.trace.hold(value, identifier(f"output_{position}"))
            for position, value in enumerate(found)
            if isinstance(value, (Value, Missing))
        ]


def _undecided(node: fx.Node) -> list[tuple[int, set[Any]]]:
    """Dimensions of a result that shapes of the inputs do not tell, and the symbols in them."""
    return [
        (dim, unbacked(size))  # type: ignore[arg-type] # numbers are hinted
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, TorchTensor)
        for dim, size in enumerate(value.shape)
        if not is_hinted(size)
    ]


def _is_live(value: Any) -> bool:
    leaves = value if isinstance(value, (list, tuple)) else [value]
    return any(
        isinstance(v, Missing) or (isinstance(v, Value) and v.constant is None) for v in leaves
    )


def _constant(value: Any) -> Any:
    if not isinstance(value, TorchTensor):
        return value
    return Value("", tuple(value.shape), DTYPES.get(value.dtype, "f32"), value)


def _check_type(value: TorchTensor, what: str) -> None:
    if value.dtype not in DTYPES or value.dtype == torch.float64:
        raise InputError(
            f"{what} is {describe(value)}; the compiler takes float32 networks: model.float()"
        )


def _last_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Nodes whose value nobody reads after a node."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for read in node.all_input_nodes:
            last[read] = node
    dying: dict[fx.Node, list[fx.Node]] = {}
    for node, reader in last.items():
        dying.setdefault(reader, []).append(node)
    return dying

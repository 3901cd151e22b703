"""Attention written out: two products of matrices and a softmax, each with a grid of its own.

A mask that does not depend on the inputs becomes a `masked_fill` in front of the softmax.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from penjing.graph.call import Call, op_name, size_value
from penjing.graph.capture import Program

_ATTENTION = "scaled_dot_product_attention"
_ATEN = torch.ops.aten


def attention_as_products(program: Program) -> Program:
    """Write every attention as products.

    Args:
        program: A captured program; only read.

    Returns:
        A program that computes the same up to rounding. The last product keeps the name of the
        attention; attention with a mask of numbers or of the inputs, with shared key heads or
        dropout stays, and so does a causal one over lengths that vary, and one with a query that
        sees nothing: it answers zeros, where a softmax over nothing has no value.
    """
    if not any(op_name(n) == _ATTENTION for n in program.graph.nodes):
        return program
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for old in program.graph.nodes:
        twin = twins[old] = graph.node_copy(old, lambda n: twins[n])
        twin.name, twin.meta = old.name, dict(old.meta)
    for node in list(graph.nodes):
        if op_name(node) == _ATTENTION and _is_plain(program, Call(node)):
            _write_out(graph, node)
    return replace(program, graph_module=fx.GraphModule(program.graph_module, graph))


def _is_plain(program: Program, call: Call) -> bool:
    mask = call.arg("attn_mask")
    known = mask is None or (
        mask.meta["val"].dtype == torch.bool
        and _is_constant(program, mask)
        and bool(constant(program, mask).any(-1).all())
    )
    varies = call.arg("is_causal") and not all(isinstance(n, int) for n in _lengths(call))
    return known and not varies and not call.arg("enable_gqa") and not call.arg("dropout_p")


def _lengths(call: Call) -> list[int]:
    """Rows and columns of the scores."""
    return [call.arg(key).meta["val"].shape[-2] for key in ("query", "key")]


def _is_constant(program: Program, node: fx.Node) -> bool:
    """Whether a node depends on no input."""
    return node.name not in program.inputs and all(
        _is_constant(program, n) for n in node.all_input_nodes
    )


def constant(program: Program, node: fx.Node) -> Tensor:
    """The value of a node that depends on no input."""

    def value(n: fx.Node) -> Any:
        if n.name in program.stored:
            return program.tensors[program.stored[n.name]]
        if not isinstance(n.meta.get("val"), Tensor):
            return size_value(n)
        if n.op == "get_attr":
            return getattr(program.graph_module, str(n.target))
        return constant(program, n)

    if node.op != "call_function" or node.name in program.stored:
        found: Tensor = value(node)
        return found
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    made: Tensor = node.target(*args, **kwargs)  # type: ignore[operator] # an ATen op
    return made


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    call = Call(node)
    query, key, value = (call.arg(k) for k in ("query", "key", "value"))
    given = call.arg("scale")
    scale = 1 / math.sqrt(query.meta["val"].shape[-1]) if given is None else given
    with graph.inserting_before(node):
        turned = _call(graph, node, _ATEN.transpose.int, (key, -2, -1))
        scores = _call(graph, node, _ATEN.matmul.default, (query, turned))
        scaled = _call(graph, node, _ATEN.mul.Tensor, (scores, scale))
        mask = _causal(graph, node, call) if call.arg("is_causal") else call.arg("attn_mask")
        if mask is not None:
            hidden = _call(graph, node, _ATEN.logical_not.default, (mask,))
            scaled = _call(graph, node, _ATEN.masked_fill.Scalar, (scaled, hidden, -math.inf))
        shares = _call(graph, node, _ATEN.softmax.int, (scaled, -1))
    node.target, node.args, node.kwargs = _ATEN.matmul.default, (shares, value), {}


def _causal(graph: fx.Graph, place: fx.Node, call: Call) -> fx.Node:
    """True where a query may see a key: those of its own place and before."""
    shape = _lengths(call)
    whole = graph.call_function(_ATEN.ones.default, (shape,), {"dtype": torch.bool})
    whole.meta = {**place.meta, "val": place.meta["val"].new_ones(shape, dtype=torch.bool)}
    return _call(graph, place, _ATEN.tril.default, (whole,))


def _call(
    graph: fx.Graph, place: fx.Node, target: torch._ops.OpOverload, args: tuple[Argument, ...]
) -> fx.Node:
    """A new node, with the source line of another."""
    node = graph.call_function(target, args, name=f"{place.name}_{target.overloadpacket.__name__}")
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
    node.meta = {**place.meta, "val": target(*values)}
    return node

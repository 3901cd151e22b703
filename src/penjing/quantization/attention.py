"""Attention written out: two products of matrices and a softmax, each with a grid of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import fx
from torch.fx.node import Argument

from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program

_ATTENTION = "scaled_dot_product_attention"
_ATEN = torch.ops.aten


def attention_as_products(program: Program) -> Program:
    """Write every attention without mask as products.

    Args:
        program: A captured program; only read.

    Returns:
        A program that computes the same up to rounding. The last product keeps the name of the
        attention; attention with a mask, causal, with shared key heads or dropout stays.
    """
    if not any(op_name(n) == _ATTENTION for n in program.graph.nodes):
        return program
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for old in program.graph.nodes:
        twin = twins[old] = graph.node_copy(old, lambda n: twins[n])
        twin.name, twin.meta = old.name, dict(old.meta)
    for node in list(graph.nodes):
        if op_name(node) == _ATTENTION and _is_plain(Call(node)):
            _write_out(graph, node)
    return replace(program, graph_module=fx.GraphModule(program.graph_module, graph))


def _is_plain(call: Call) -> bool:
    extras = (call.arg("attn_mask"), call.arg("is_causal"), call.arg("enable_gqa"))
    return not any(extras) and not call.arg("dropout_p")


def _write_out(graph: fx.Graph, node: fx.Node) -> None:
    call = Call(node)
    query, key, value = (call.arg(k) for k in ("query", "key", "value"))
    given = call.arg("scale")
    scale = 1 / math.sqrt(query.meta["val"].shape[-1]) if given is None else given
    with graph.inserting_before(node):
        turned = _call(graph, node, _ATEN.transpose.int, (key, -2, -1))
        scores = _call(graph, node, _ATEN.matmul.default, (query, turned))
        scaled = _call(graph, node, _ATEN.mul.Tensor, (scores, scale))
        shares = _call(graph, node, _ATEN.softmax.int, (scaled, -1))
    node.target, node.args, node.kwargs = _ATEN.matmul.default, (shares, value), {}


def _call(
    graph: fx.Graph, place: fx.Node, target: torch._ops.OpOverload, args: tuple[Argument, ...]
) -> fx.Node:
    """A new node, with the source line of another."""
    node = graph.call_function(target, args, name=f"{place.name}_{target.overloadpacket.__name__}")
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
    node.meta = {**place.meta, "val": target(*values)}
    return node

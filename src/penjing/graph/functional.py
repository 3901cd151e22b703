"""In-place ops made functional, so that no tensor of a running graph changes after it was written.

A write to a whole fresh tensor (`relu_`, `add_`) becomes its functional twin. A write to a view
needs the full functionalisation of torch, after which batch norm is put together again; dropout
does not survive that.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

ASSERTIONS = frozenset(
    {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range"}
)
"""Ops that compute nothing."""


def functionalise(exported: ExportedProgram) -> tuple[ExportedProgram, bool]:
    """Remove in-place ops.

    Args:
        exported: Fresh export in eval mode; changed in place.

    Returns:
        The functional program, and whether the full rewrite was needed.
    """
    graph = exported.graph_module.graph
    _leave_out_assertions(graph)
    for node in list(graph.nodes):
        if is_mutating(node) and not _make_functional(graph, node):
            rewritten = exported.run_decompositions({})
            _return_user_outputs(rewritten)
            _leave_out_assertions(rewritten.graph_module.graph)
            _restore_batch_norm(rewritten.graph_module.graph)
            rewritten.graph_module.recompile()
            return rewritten, True
    exported.graph_module.recompile()
    return exported, False


def _leave_out_assertions(graph: fx.Graph) -> None:
    """Erase what only checks dtypes and sizes: a cut, or a proof in float64, changes both."""
    for node in reversed(list(graph.nodes)):
        checks = isinstance(node.target, torch._ops.OpOverload) and not node.users
        if checks and node.target.__name__.split(".")[0] in ASSERTIONS:
            graph.erase_node(node)


def is_mutating(node: fx.Node) -> bool:
    """Whether the node writes to one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_view(node: fx.Node) -> bool:
    """Whether the node returns an alias of its first argument that it does not write to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    aliases = [r.alias_info for r in node.target._schema.returns]
    return any(a is not None and not a.is_write for a in aliases)


def _make_functional(graph: fx.Graph, node: fx.Node) -> bool:
    """Replace `op_` by `op` when nobody else can see the write; say whether that was possible."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)  # is_mutating said so
    written = node.args[0]
    name = target._schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None or not isinstance(written, fx.Node):
        return False
    if written.op == "placeholder" or _seen_elsewhere(graph, written, node):
        return False
    if target._overloadname not in packet.overloads():
        return False
    order = {n: i for i, n in enumerate(graph.nodes)}
    written.replace_all_uses_with(
        node, delete_user_cb=lambda user: user is not node and order[user] > order[node]
    )
    node.target = getattr(packet, target._overloadname)
    return True


def _seen_elsewhere(graph: fx.Graph, written: fx.Node, writer: fx.Node) -> bool:
    """Whether an alias of `written` other than itself is read at or after `writer`."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    root = written
    while is_view(root):
        root = root.args[0]  # type: ignore[assignment] # the aliased argument of a view is a node
    aliases, stack = {root}, [root]
    while stack:
        for user in stack.pop().users:
            if is_view(user) and user not in aliases:
                aliases.add(user)
                stack.append(user)
    if root.op == "placeholder":
        return True
    return any(
        order[user] >= order[writer] and user is not writer
        for a in aliases - {written}
        for user in a.users
    )


def _return_user_outputs(exported: ExportedProgram) -> None:
    """Leave out the new values of buffers that `forward` writes to: a program only computes."""
    graph = exported.graph_module.graph
    specs = exported.graph_signature.output_specs
    output = graph.output_node()
    values = zip(specs, output.args[0], strict=True)
    output.args = (tuple(v for spec, v in values if spec.kind is OutputKind.USER_OUTPUT),)
    graph.eliminate_dead_code()


def _restore_batch_norm(graph: fx.Graph) -> None:
    """`_native_batch_norm_legit_no_training` and its getitem back to `batch_norm`."""
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._native_batch_norm_legit_no_training.default:
            continue
        x, weight, bias, mean, var, momentum, eps = node.args
        with graph.inserting_before(node):
            norm = graph.call_function(
                torch.ops.aten.batch_norm.default,
                (x, weight, bias, mean, var, False, momentum, eps, False),
            )
        for user in list(node.users):
            norm.meta = dict(user.meta)
            user.replace_all_uses_with(norm)
            graph.erase_node(user)
        graph.erase_node(node)

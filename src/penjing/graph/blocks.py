"""Blocks: residual branches that can be removed whole, `x + f(x)` becoming `x`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.capture import Program
from penjing.graph.groups import weight_of

_ADDITIONS = {"add", "add_"}


@dataclass(frozen=True, slots=True)
class Block:
    """A residual branch that can be removed.

    Args:
        name: The layer that makes what the branch adds.
        add: Name of the node that adds it.
        stream: Name of the node that is added to, which the branch starts from.
        branch: Name of the node that is added.
        owned: Stored tensors that nothing else reads.
        whole: Whether it is a whole layer: `add` then is the node that it hands on, and `branch`
            the same.
    """

    name: str
    add: str
    stream: str
    branch: str
    owned: tuple[str, ...]
    whole: bool = False


def find_blocks(program: Program) -> tuple[Block, ...]:
    """Residual branches of a program that nothing but their addition reads, in its order.

    Args:
        program: A captured network.

    Returns:
        The innermost ones: a branch that holds another is left out, and so is one without
        parameters of its own.
    """
    found: list[tuple[Block, set[str]]] = []
    for node in program.graph.nodes:
        if node.op == "call_function" and op_name(node) in _ADDITIONS:
            found += _blocks_at(program, node)
    adds = {block.add for block, _ in found}
    inner = [block for block, inside in found if not adds & inside]
    once = {block.add: block for block in inner}
    return tuple(once.values())


def _blocks_at(program: Program, add: fx.Node) -> list[tuple[Block, set[str]]]:
    """What can be removed at one addition, with the nodes of the branch."""
    operands = [a for a in add.args[:2] if isinstance(a, fx.Node) and is_tensor(a)]
    if len(operands) != 2 or Call(add).arg("alpha", 1) != 1:  # a sum of two
        return []
    shapes = [program.shape(n) for n in (*operands, add)]
    if len(set(shapes)) != 1:
        return []
    found = []
    for stream, branch in (operands, operands[::-1]):
        inside = _between(stream, branch)
        private = all(_private(node, inside, add) for node in inside)
        owned = owned_by(program, inside) if inside and private else ()
        if owned:
            names = {node.name for node in inside}
            name = _maker(program, inside) or owned[-1]
            found.append((Block(name, add.name, stream.name, branch.name, owned), names))
    return found


def _between(stream: fx.Node, branch: fx.Node) -> list[fx.Node]:
    """Nodes that depend on `stream` and that `branch` depends on, itself included, in order."""
    seen: dict[fx.Node, None] = {}
    todo = [branch]
    while todo:
        node = todo.pop()
        if node is not stream and node not in seen and node.op == "call_function":
            seen[node] = None
            todo += node.all_input_nodes
    depends = {stream}
    ordered = sorted(seen)  # fx nodes are ordered as the graph is
    for node in ordered:
        if any(source in depends for source in node.all_input_nodes):
            depends.add(node)
    return [node for node in ordered if node in depends] if branch in depends else []


def _private(node: fx.Node, inside: Sequence[fx.Node], add: fx.Node) -> bool:
    """Whether only the branch and its addition read a node; sizes may be read anywhere."""
    return not _has_tensors(node) or all(user in inside or user is add for user in node.users)


def _has_tensors(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def owned_by(program: Program, inside: Sequence[fx.Node]) -> tuple[str, ...]:
    """Stored tensors that only these nodes read.

    Args:
        program: A captured network.
        inside: Some of its nodes.
    """
    own = set(inside)
    return tuple(
        fqn
        for name, fqn in program.stored.items()
        if program.nodes[name].users and set(program.nodes[name].users) <= own
    )


def _maker(program: Program, inside: Sequence[fx.Node]) -> str:
    """The last layer of a branch."""
    for node in reversed(inside):
        weight = weight_of(node)
        if weight is not None and weight.name in program.stored:
            return program.stored[weight.name].removesuffix(".weight")
    return ""


def without(program: Program, blocks: Iterable[Block]) -> Program:
    """A program whose blocks are gone, with the tensors that nothing reads any more.

    Args:
        program: A captured network; not changed.
        blocks: What goes; node names stay as they are.
    """
    streams = {block.add: block.stream for block in blocks}
    gone = {fqn for block in blocks for fqn in block.owned}

    def passed(graph: fx.Graph, node: fx.Node, at: Mapping[fx.Node, fx.Node]) -> fx.Node:
        source = at[program.nodes[streams[node.name]]]
        return graph.create_node(
            "call_function", torch.ops.aten.alias.default, (source,), name=node.name
        )

    graph = _rewritten(program, streams, passed)
    for node in reversed(list(graph.nodes)):  # dropout too, which torch takes to have side effects
        unread = node.op == "placeholder" and program.stored.get(node.name) in gone
        if not node.users and (unread or node.op in {"call_function", "get_attr"}):
            graph.erase_node(node)
    names = {node.name for node in graph.nodes}
    still = {name: fqn for name, fqn in program.stored.items() if name in names}
    left = {fqn: t for fqn, t in program.tensors.items() if fqn not in gone}
    return replace(
        program,
        graph_module=fx.GraphModule(nn.Module(), graph),
        stored=still,
        tensors=left,
        parameters=program.parameters - gone,
        buffers=program.buffers - gone,
    )


def silenced(program: Program, blocks: Iterable[Block]) -> Program:
    """The original with what the blocks add set to zero: what a removal must be equal to."""
    known = {block.add: block for block in blocks}

    def hushed(graph: fx.Graph, node: fx.Node, at: Mapping[fx.Node, fx.Node]) -> fx.Node:
        block = known[node.name]
        if block.whole:
            made = graph.node_copy(node, lambda n: at[n])
            zero = graph.call_function(torch.ops.aten.zeros_like.default, (made,))
            stream = at[program.nodes[block.stream]]
            return graph.call_function(torch.ops.aten.add.Tensor, (stream, zero))
        branch = at[program.nodes[block.branch]]
        zero = graph.call_function(torch.ops.aten.zeros_like.default, (branch,))
        twin = graph.node_copy(node, lambda n: at[n])
        twin.replace_input_with(branch, zero)
        return twin

    graph = _rewritten(program, known, hushed)
    return replace(program, graph_module=fx.GraphModule(nn.Module(), graph))


def _rewritten(program: Program, adds: Collection[str], change: object) -> fx.Graph:
    """A copy of the graph in which `change` makes the named additions."""
    assert callable(change)  # the two above
    graph = fx.Graph()
    at: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.name in adds:
            at[node] = change(graph, node, at)
            at[node].meta = dict(node.meta)
        else:
            at[node] = graph.node_copy(node, lambda n: at[n])
            at[node].name = node.name  # a copy of `input` would get another, as of all builtins
    graph.lint()
    return graph

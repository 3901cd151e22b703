"""Parts of a program: the piece between some of its values, as a program of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError
from penjing.graph.call import is_tensor
from penjing.graph.capture import Program, is_free
from penjing.task.samples import first_dims


@dataclass(frozen=True, eq=False)
class Flow:
    """What is still needed after each node of a program.

    Args:
        program: A captured network.
    """

    program: Program

    @cached_property
    def position(self) -> Mapping[fx.Node, int]:
        """Place of every node."""
        return {node: place for place, node in enumerate(self.program.graph.nodes)}

    @cached_property
    def last_use(self) -> Mapping[fx.Node, int]:
        """Place of the last reader of every node."""
        return {
            node: max((self.position[user] for user in node.users), default=place)
            for node, place in self.position.items()
        }

    @cached_property
    def moving(self) -> frozenset[fx.Node]:
        """Nodes whose values depend on the inputs; sizes are told by any tensor."""
        found: set[fx.Node] = set()
        for node in self.program.graph.nodes:
            given = node.op == "placeholder" and node.name not in self.program.stored
            made = node.op == "call_function" and any(n in found for n in node.all_input_nodes)
            if given or (made and not is_size(node)):
                found.add(node)
        return frozenset(found)

    @cached_property
    def learned(self) -> frozenset[fx.Node]:
        """Of those, the ones in which stored tensors have a part: not a mask made of the inputs."""
        stored = {self.program.nodes[name] for name in self.program.stored}
        found: set[fx.Node] = set(stored)
        for node in self.program.graph.nodes:
            if any(source in found for source in node.all_input_nodes):
                found.add(node)
        return frozenset((found - stored) & self.moving)

    def crossing(self, point: fx.Node) -> list[fx.Node]:
        """Values made up to `point` that something behind it reads, in order."""
        place = self.position[point]
        return [
            node
            for node in self.program.graph.nodes
            if node in self.moving and self.position[node] <= place < self.last_use[node]
        ]


def is_size(node: fx.Node) -> bool:
    """Whether a node is a size that may differ from call to call, such as the batch."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt) and is_free(value)


def has_batch(node: fx.Node) -> bool:
    """Whether a node is a tensor whose dimension 0 is the free batch."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() > 0 and is_free(value.shape[0])


def part(program: Program, sources: Sequence[fx.Node], results: Sequence[fx.Node]) -> Program:
    """The piece of a program that makes `results` of `sources`.

    Args:
        program: A captured network; not changed.
        sources: Values it is given. Where they are the inputs of the network, it is called as that.
        results: Values it gives: a tuple, or what the network gives where they are its outputs.

    Returns:
        A program over the same tensors, with the names of the original.

    Raises:
        CaptureError: `results` need more than `sources`.
    """
    needed = _needed(program, sources, results)
    graph = fx.Graph()
    at: dict[fx.Node, fx.Node] = {}
    for node in sources:
        at[node] = graph.create_node("placeholder", node.name, name=node.name)
        at[node].meta = dict(node.meta)
    for node in program.graph.nodes:
        if node in at or node not in needed:
            continue
        told = _told_by(node, sources)
        if told is None:
            at[node] = graph.node_copy(node, lambda n: at[n])
        else:
            source, dim = told
            at[node] = graph.call_function(torch.ops.aten.sym_size.int, (at[source], dim))
            at[node].meta = dict(node.meta)
    for node, twin in at.items():  # a graph renames what is called like a builtin, such as `input`
        twin.name = node.name
    graph.output(tuple(at[node] for node in results))
    return _program(program, graph, sources, results)


def _needed(
    program: Program, sources: Sequence[fx.Node], results: Sequence[fx.Node]
) -> set[fx.Node]:
    """Nodes between, and stored tensors that no op reads but that belong to layers that are there.

    Raises:
        CaptureError: An input of the network is needed that is not among the sources.
    """
    needed: set[fx.Node] = set()
    todo = [node for node in results if node not in sources]
    while todo:
        node = todo.pop()
        if node in needed:
            continue
        needed.add(node)
        if node.op == "placeholder" and node.name not in program.stored:
            raise CaptureError(
                f"the network cannot be parted here: input {node.name!r} is read on both sides"
            )
        if _told_by(node, sources) is None:
            todo += [source for source in node.all_input_nodes if source not in sources]
    owners = {_owner(program.stored[node.name]) for node in needed if node.name in program.stored}
    unread = (program.nodes[name] for name, fqn in program.stored.items() if _owner(fqn) in owners)
    return needed | {node for node in unread if not node.users}


def _told_by(node: fx.Node, sources: Sequence[fx.Node]) -> tuple[fx.Node, int] | None:
    """The source and its dimension that have the size which a node is, if any."""
    if not is_size(node):
        return None
    wanted = node.meta["val"].node.expr
    for source in filter(is_tensor, sources):
        for dim, size in enumerate(source.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr == wanted:
                return source, dim
    return None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _program(
    program: Program, graph: fx.Graph, sources: Sequence[fx.Node], results: Sequence[fx.Node]
) -> Program:
    present = {node.name for node in graph.nodes}
    stored = {name: fqn for name, fqn in program.stored.items() if name in present}
    names = frozenset(stored.values())
    whole_in = [node.name for node in sources] == list(program.inputs)
    (outputs,) = next(n for n in program.graph.nodes if n.op == "output").args
    whole_out = list(results) == list(outputs)
    example = program.example if whole_in else _values(program, sources)
    module = fx.GraphModule(_holder(program.graph_module, graph), graph)
    return replace(
        program,
        graph_module=module,
        stored=stored,
        tensors={fqn: tensor for fqn, tensor in program.tensors.items() if fqn in names},
        parameters=program.parameters & names,
        buffers=program.buffers & names,
        inputs=tuple(node.name for node in sources),
        example=tuple(example),
        in_spec=program.in_spec if whole_in else pytree.tree_structure((tuple(example), {})),
        out_spec=program.out_spec if whole_out else pytree.tree_structure((0,) * len(results)),
        dynamic_batch=program.dynamic_batch and all(map(has_batch, filter(is_tensor, sources))),
        transient=program.transient & names,
        batch_dims=program.batch_dims if whole_in else first_dims(example),
    )


def _holder(module: fx.GraphModule, graph: fx.Graph) -> nn.Module:
    """The sub-graphs that a graph calls."""
    root = nn.Module()
    for node in graph.nodes:
        if node.op == "get_attr":
            setattr(root, str(node.target), getattr(module, str(node.target)))
    return root


def _values(program: Program, nodes: Iterable[fx.Node]) -> list[Any]:
    """Values of nodes on the example."""
    wanted = [node.name for node in nodes]
    with torch.no_grad():
        _, found = program.inner(program.example, wanted)
    return [found[name] for name in wanted]


def outputs_of(program: Program) -> list[fx.Node]:
    """Nodes whose values are the outputs, flat."""
    (outputs,) = next(n for n in program.graph.nodes if n.op == "output").args
    return list(outputs)

"""Whole layers: modules of a list that can be removed with all their branches, norms and all.

A layer of a transformer is two branches and their norms, a block of a residual network one branch
and the activation behind it. Where `forward` runs them one after the other, from one tensor to one
of the same shape, the stream can pass by.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from penjing.graph.blocks import Block, find_blocks, owned_by
from penjing.graph.call import is_tensor
from penjing.graph.capture import Program
from penjing.graph.ends import paths


def find_layers(program: Program) -> tuple[Block, ...]:
    """Layers of a program whose input may take the place of their output, in its order.

    Args:
        program: A captured network.

    Returns:
        Modules with a number for a name, as lists and sequences give it, that hold a residual
        branch, read one stream and hand one tensor of its shape on; the innermost ones.
    """
    branches = find_blocks(program)
    regions: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        for path in paths(node):
            if path.rpartition(".")[2].isdigit():
                regions.setdefault(path, []).append(node)
    found = {path: _layer(program, path, inside, branches) for path, inside in regions.items()}
    layers = {path: layer for path, layer in found.items() if layer is not None}
    inner = [p for p in layers if not any(other.startswith(f"{p}.") for other in layers)]
    return tuple(layers[path] for path in inner)


def _layer(
    program: Program, path: str, inside: list[fx.Node], branches: Sequence[Block]
) -> Block | None:
    """What one module would be as a unit; None where it cannot be passed by."""
    own = set(inside)
    held = [b for b in branches if program.nodes[b.add] in own]
    exits = [n for n in inside if _is_value(n) and any(user not in own for user in n.users)]
    if not held or len(exits) != 1:
        return None
    stream, (end,) = program.nodes[held[0].stream], exits
    owned = owned_by(program, inside)
    passes = stream not in own and is_tensor(end) and _alike(program, stream, end)
    if not passes or not owned:
        return None
    return Block(path, end.name, stream.name, end.name, owned, whole=True)


def _is_value(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _alike(program: Program, stream: fx.Node, end: fx.Node) -> bool:
    same = stream.meta["val"].dtype == end.meta["val"].dtype
    return same and program.shape(stream) == program.shape(end)

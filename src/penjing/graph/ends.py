"""Ends of modules: the value in a captured graph that was the output of a module of the user."""

from __future__ import annotations

from torch import Tensor, fx

from penjing.graph.capture import Program

ENDS = "ends"
"""Key of a node's `meta` in a graph form: names of the modules whose output its value is."""


def module_ends(program: Program) -> dict[str, fx.Node]:
    """Where each module of the network ends.

    Args:
        program: A captured network, cut or not.

    Returns:
        Node by qualified name of the module, innermost first where several end together. Modules
        that hand on several values, or are called more than once, are left out.
    """
    inside: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        for path in reversed(paths(node)):
            if path:
                inside.setdefault(path, []).append(node)
    return {path: exits[0] for path, nodes in inside.items() if len(exits := _exits(nodes)) == 1}


def paths(node: fx.Node) -> list[str]:
    """Modules inside which a node was made, the outermost first."""
    if node.op != "call_function":
        return []
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _exits(nodes: list[fx.Node]) -> list[fx.Node]:
    """Tensors of a region that something outside of it reads."""
    own = set(nodes)
    return [
        node
        for node in nodes
        if isinstance(node.meta.get("val"), Tensor) and any(user not in own for user in node.users)
    ]

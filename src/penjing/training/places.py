"""Places of a network where inner tensors are listened to.

A network of a class has its modules. A graph form calls ops instead, and its modules are empty: its
places are the values that were the outputs of modules before, under the names of those, or all of
its values, by the names of its nodes, where none are known (a graph form that was captured anew).
Graph forms that are parts of a network, as gates that were loaded are, are places themselves too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import fx, nn

from penjing.graph.ends import ENDS

_POST = "listening_post"


class Places:
    """Modules by the name of their place, until they are closed.

    In a graph form a place is a module that passes a value on to nobody; it is put into the graph
    here and taken out again by `close`. It has no tensors.

    Args:
        model: A network; the graphs of its graph forms are changed until `close`.
        wanted: Names of the places that are needed; None needs all.
    """

    def __init__(self, model: nn.Module, wanted: tuple[str, ...] | None = None) -> None:
        self.modules: dict[str, nn.Module] = {}
        self._posts: list[tuple[fx.GraphModule, fx.Node]] = []
        forms = _forms(model)
        for name, module in model.named_modules():
            whole = name in forms and len(forms) == 1
            if name and not whole and not any(_under(name, form) for form in forms):
                self.modules[name] = module
        for prefix, form in forms.items():
            before = f"{prefix}." if prefix and len(forms) > 1 else ""
            for name, node in _values(form).items():
                if wanted is None or f"{before}{name}" in wanted:
                    self.modules[f"{before}{name}"] = self._post(form, node)
            form.recompile()

    def close(self) -> None:
        """Leave the network as it was."""
        for form, post in reversed(self._posts):
            form.graph.erase_node(post)
            delattr(form, str(post.target))
        for form in dict.fromkeys(form for form, _ in self._posts):
            form.recompile()
        self._posts.clear()

    def _post(self, form: fx.GraphModule, node: fx.Node) -> nn.Module:
        post = nn.Identity()
        names = (f"{_POST}_{i}" for i in itertools.count())  # several teachers listen at once
        name = next(name for name in names if not hasattr(form, name))
        form.add_module(name, post)
        with form.graph.inserting_after(node):
            self._posts.append((form, form.graph.call_module(name, (node,))))
        return post


def place_names(model: nn.Module) -> list[str]:
    """Names of all places of a network."""
    places = Places(model)
    places.close()
    return list(places.modules)


def _forms(model: nn.Module) -> dict[str, fx.GraphModule]:
    return {n: m for n, m in model.named_modules() if isinstance(m, fx.GraphModule)}


def _under(name: str, form: str) -> bool:
    return not form or name.startswith(f"{form}.")


def _values(form: fx.GraphModule) -> dict[str, fx.Node]:
    """Values by the name of the place, in the order of the graph; what is read of each."""
    ends = {path: _read(node) for node, path in _ends(form)}
    if ends:
        return ends
    ops = (n for n in form.graph.nodes if isinstance(n.target, torch._ops.OpOverload))
    return {node.name: _read(node) for node in ops if node.users}


def _ends(form: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    for node in form.graph.nodes:
        for path in node.meta.get(ENDS, ()):
            yield node, path


def _read(node: fx.Node) -> fx.Node:
    """What readers of a value read: in quantization-aware training it is brought to a grid."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_module" else node

"""Writes a graph form as JSON content."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from penjing.errors import CheckpointError
from penjing.graph.codec.ops import FUNCTIONS, GRAPH_VERSION, NAME_PART, aten_op
from penjing.graph.ends import ENDS
from penjing.graph.form import identity


def to_json(form: fx.GraphModule) -> dict[str, Any]:
    """Describe a graph form, without its tensors.

    Args:
        form: A module made by `graph_form` or `from_json`.

    Returns:
        JSON content; `tensors_of` gives what it leaves out.

    Raises:
        CheckpointError: The graph holds something that the format does not know.
    """
    convention = form.graph._codegen
    if not isinstance(convention, _PyTreeCodeGen) or convention.pytree_info.out_spec is None:
        raise CheckpointError(
            "this graph module was not made by penjing and cannot be written as JSON"
        )
    nodes = [_write_node(node, form) for node in form.graph.nodes if node.op != "output"]
    (result,) = next(n for n in form.graph.nodes if n.op == "output").args
    return {
        "version": GRAPH_VERSION,
        "inputs": _write_spec(convention.pytree_info.in_spec),
        "outputs": _write_spec(convention.pytree_info.out_spec),
        "tensors": _write_tensors(form),
        "nodes": nodes,
        "result": _write_value(result),
    }


def tensors_of(form: fx.GraphModule) -> dict[str, Tensor]:
    """All tensors of a form by qualified name, the first name alone where several are tied."""
    once: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
    for name, tensor in _stored(form):
        once.setdefault(identity(tensor), (name, tensor))
    return dict(once.values())


def _stored(form: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    for node in form.graph.nodes:
        if node.op == "get_attr" and not _is_mode(str(node.target), form):
            value: Any = form
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"the graph calls the sub-graph {node.target!r}, which cannot be written as "
                    "JSON; load it into the network's own class with load(path, model=...)"
                )
            yield str(node.target), value


def _is_mode(target: str, form: fx.GraphModule) -> bool:
    owner, _, field = target.rpartition(".")
    return field == "training" and isinstance(form.get_submodule(owner).training, bool)


def _write_tensors(form: fx.GraphModule) -> dict[str, Any]:
    kept = set(form.state_dict(keep_vars=True))
    first: dict[tuple[Any, ...], str] = {}
    content: dict[str, Any] = {}
    for name, tensor in _stored(form):
        if not all(NAME_PART.fullmatch(part) for part in name.split(".")):
            raise CheckpointError(f"tensor name {name!r} has characters that the format refuses")
        parameter = isinstance(tensor, nn.Parameter)
        content[name] = {
            "kind": "parameter" if parameter else "buffer" if name in kept else "transient",
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            **({"trainable": tensor.requires_grad} if parameter else {}),
        }
        same = first.setdefault(identity(tensor), name)
        if same != name:
            content[name]["same"] = same
    return content


def _write_node(node: fx.Node, form: fx.GraphModule) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"name": node.name, "op": "input"}
    if node.op == "get_attr":
        target = str(node.target)
        if _is_mode(target, form):
            return {"name": node.name, "op": "mode", "of": target.rpartition(".")[0]}
        return {"name": node.name, "op": "stored", "tensor": target}
    content: dict[str, Any] = {"name": node.name, "op": _op_name(node)}
    content["args"] = [_write_value(a) for a in node.args]
    if node.kwargs:
        content["kwargs"] = {k: _write_value(v) for k, v in node.kwargs.items()}
    if ENDS in node.meta:
        content[ENDS] = list(node.meta[ENDS])
    return content


def _op_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        aten_op(target.__name__)
        return f"aten.{target.__name__}"
    for name, function in FUNCTIONS.items():
        if target is function:
            return name
    raise CheckpointError(f"node {node.name!r} calls {target}, which is not among the allowed ops")


def _write_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [_write_value(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_write_value(v) for v in value]}
    if isinstance(value, slice):
        return {"slice": [_write_value(v) for v in (value.start, value.stop, value.step)]}
    for kind in (torch.dtype, torch.layout, torch.memory_format, torch.device):
        if isinstance(value, kind):
            return {kind.__name__: str(value).removeprefix("torch.")}
    raise CheckpointError(f"the graph holds {value!r}, which the format does not know")


def _write_spec(spec: pytree.TreeSpec) -> Any:
    """Structure of inputs or outputs in plain containers; dataclasses become dicts."""
    leaves = list(range(spec.num_leaves))
    plain = _plain(pytree.tree_unflatten(leaves, spec))
    if pytree.tree_leaves(plain) != leaves:
        return {"tuple": [None] * spec.num_leaves}
    return _write_tree(plain)


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(k): _plain(v) for k, v in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = ((f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree))
        return {name: _plain(value) for name, value in fields if value is not None}
    if isinstance(tree, list):
        return [_plain(v) for v in tree]
    return tuple(_plain(v) for v in tree) if isinstance(tree, tuple) else tree


def _write_tree(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {"dict": {k: _write_tree(v) for k, v in tree.items()}}
    if isinstance(tree, list):
        return {"list": [_write_tree(v) for v in tree]}
    if isinstance(tree, tuple):
        return {"tuple": [_write_tree(v) for v in tree]}
    return None

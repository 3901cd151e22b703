"""Reads JSON content from any source into a graph form."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.decode import decode
from penjing.errors import CaptureError, CheckpointError
from penjing.graph.codec.ops import FUNCTIONS, GRAPH_VERSION, NAME_PART, aten_op
from penjing.graph.ends import ENDS
from penjing.graph.form import assemble, calling_convention, skeleton

_MAX_DEPTH = 16


def from_json(content: Any, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Build the graph form that `to_json` described; no op is run.

    Args:
        content: Parsed JSON, from any source.
        tensors: By qualified name; tied names once.

    Returns:
        The module, in eval mode, holding `tensors` themselves.

    Raises:
        CheckpointError: The content is damaged, hostile, newer than this version, or does not fit
            the tensors.
    """
    _check_version(content)
    try:
        return _Reader(content, tensors).read()
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
        RuntimeError,
        SyntaxError,
        CaptureError,
    ) as error:
        raise CheckpointError(
            f"this is not a graph that penjing wrote: {type(error).__name__}: {error}"
        ) from error


def _check_version(content: Any) -> None:
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version < 1:
        raise CheckpointError("this is not a graph that penjing wrote: it has no version")
    if version > GRAPH_VERSION:
        raise CheckpointError(
            f"the graph has version {version}, this penjing reads up to {GRAPH_VERSION}; "
            "upgrade penjing"
        )


def _read_spec(content: Any) -> pytree.TreeSpec:
    return pytree.tree_structure(_read_tree(content, 0))


def _read_tree(content: Any, depth: int) -> Any:
    if content is None:
        return 0
    kind, items = _only_item(content, depth)
    if kind == "dict":
        return {str(k): _read_tree(v, depth + 1) for k, v in items.items()}
    if kind not in {"list", "tuple"}:
        raise ValueError(f"unknown structure {kind!r}")
    made = [_read_tree(v, depth + 1) for v in items]
    return made if kind == "list" else tuple(made)


def _only_item(content: Any, depth: int) -> tuple[str, Any]:
    if not isinstance(content, dict) or len(content) != 1 or depth > _MAX_DEPTH:
        raise ValueError(f"unknown value {str(content)[:80]}")
    return next(iter(content.items()))


def _identifier(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{str(name)[:80]!r} cannot be a name")
    return name


class _Reader:
    """Builds a graph from checked content."""

    def __init__(self, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.content = content
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.tensors = _match_tensors(content["tensors"], tensors)

    def read(self) -> fx.GraphModule:
        inputs = [_identifier(n["name"]) for n in self.content["nodes"] if n["op"] == "input"]
        in_spec, out_spec = (_read_spec(self.content[k]) for k in ("inputs", "outputs"))
        for key in in_spec.child(1).context:
            _identifier(key)
        for node in self.content["nodes"]:
            name = _identifier(node["name"])
            if name in self.nodes:
                raise ValueError(f"two nodes are called {name!r}")
            self.nodes[name] = self._node(name, node)
        result = self._value(self.content["result"], 0)
        if in_spec.num_leaves != len(inputs) or out_spec.num_leaves != len(result):
            raise ValueError("the structure of inputs or outputs does not fit the graph")
        self.graph.output(result)
        self.graph.set_codegen(calling_convention(in_spec, out_spec, inputs))
        kinds = {name: entry["kind"] for name, entry in self.content["tensors"].items()}
        parameters = frozenset(n for n, kind in kinds.items() if kind == "parameter")
        transient = frozenset(n for n, kind in kinds.items() if kind == "transient")
        return assemble(skeleton(self.tensors, parameters, transient), self.graph, transient)

    def _node(self, name: str, content: Mapping[str, Any]) -> fx.Node:
        op = content["op"]
        if op == "input":
            return self.graph.create_node("placeholder", name, name=name)
        if op == "stored":
            if content["tensor"] not in self.tensors:
                raise ValueError(f"tensor {content['tensor']!r} is not described")
            return self.graph.create_node("get_attr", content["tensor"], name=name)
        if op == "mode":
            return self.graph.create_node("get_attr", self._mode(content["of"]), name=name)
        args = tuple(self._value(a, 0) for a in content.get("args", []))
        kwargs = {_identifier(k): self._value(v, 0) for k, v in content.get("kwargs", {}).items()}
        target = aten_op(op[5:]) if str(op).startswith("aten.") else FUNCTIONS[op]
        if target is getattr and (len(args) != 2 or args[1] not in {"dtype", "device"} or kwargs):
            raise ValueError("getattr reads the dtype or device of a tensor, nothing else")
        made = self.graph.create_node("call_function", target, args, kwargs, name=name)
        if ENDS in content:
            made.meta[ENDS] = [str(path) for path in content[ENDS]]
        return made

    def _mode(self, owner: Any) -> str:
        if owner == "":
            return "training"
        if not any(name.startswith(f"{owner}.") for name in self.tensors):
            raise ValueError(f"there is no module {owner!r}")
        return f"{owner}.training"

    def _value(self, content: Any, depth: int) -> Any:
        if content is None or isinstance(content, (bool, int, float, str)):
            return content
        if isinstance(content, list):
            return [self._value(v, depth + 1) for v in content]
        kind, value = _only_item(content, depth)
        if kind == "node":
            return self.nodes[value]
        if kind in {"tuple", "slice"}:
            items = [self._value(v, depth + 1) for v in value]
            return tuple(items) if kind == "tuple" else slice(*items)
        return _read_constant(kind, value)


def _read_constant(kind: str, value: Any) -> Any:
    if kind == "float":
        return float(value)
    if kind == "device":
        return torch.device(value)
    expected = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    found = getattr(torch, _identifier(value), None)
    if not isinstance(found, expected[kind]):
        raise ValueError(f"torch has no {kind} {value!r}")
    return found


def _match_tensors(
    described: Mapping[str, Mapping[str, Any]], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The given tensors under all described names, parameters as such."""
    matched: dict[str, Tensor] = {}
    for name, entry in described.items():
        if not all(NAME_PART.fullmatch(part) for part in name.split(".")):
            raise ValueError(f"{name[:80]!r} cannot be the name of a tensor")
        if entry["kind"] not in {"parameter", "buffer", "transient"}:
            raise ValueError(f"tensor {name!r} is of unknown kind {entry['kind']!r}")
        if "same" in entry:
            matched[name] = matched[entry["same"]]
            continue
        tensor = given[name]
        seen = (str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
        if seen != (entry["dtype"], entry["shape"]):
            raise ValueError(
                f"tensor {name!r} is {seen[0]}{seen[1]}, described as "
                f"{entry['dtype']}{entry['shape']}"
            )
        if entry["kind"] == "parameter":
            tensor = nn.Parameter(tensor, decode(bool, entry["trainable"], f"{name}.trainable"))
        matched[name] = tensor
    extra = sorted(set(given) - set(described))
    if extra:
        raise ValueError(f"tensors {_few(extra)} are not described")
    return matched


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5])

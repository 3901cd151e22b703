"""The graph form as JSON, and back: our own format over a list of allowed ops.

Nothing in such a file is code. Names are checked before a line is generated from them, ops are
looked up among the functional ops of `torch.ops.aten` and a few sums of sizes, and reading a file
runs none of them. Tensors travel apart, by qualified name.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError, CheckpointError
from penjing.graph.form import assemble, batch_norm, calling_convention, fixed, identity, skeleton

GRAPH_VERSION = 1

_SIZE_OPS = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
_SIZE_TESTS = ("eq", "ne", "lt", "le", "gt", "ge")
_SYMBOLIC = ("max", "min", "not", "int", "float", "ite", "sum")

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    **{name: getattr(operator, name) for name in (*_SIZE_OPS, *_SIZE_TESTS)},
    **{f"sym_{name}": getattr(torch, f"sym_{name}") for name in _SYMBOLIC},
    "getattr": getattr,
    "batch_norm": batch_norm,
    "fixed": fixed,
}
"""Functions besides ATen ops that a graph may call, by their name in the file."""

PRIVATE_OPS = frozenset(
    {
        "__and__",
        "__or__",
        "__xor__",
        "_adaptive_avg_pool1d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_cdist_forward",
        "_convolution",
        "_log_softmax",
        "_native_batch_norm_legit_no_training",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_shape_as_tensor",
        "_softmax",
        "_to_copy",
        "_unsafe_index",
        "_unsafe_view",
        "_weight_norm",
    }
)
"""ATen ops whose name starts with an underscore and that captures hold nevertheless."""

_DENIED = re.compile(
    r"from_file|resize.*|set_data|set|retain.*|record.*|(cudnn|miopen|mkldnn|fbgemm).*"
)
_DENIED_TYPES = ("Storage", "Stream", "Generator", "QScheme", "ScriptObject", "Dimname")
_MAX_DEPTH = 16
_PART = re.compile(r"[\w-]+")


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


def aten_op(name: str) -> torch._ops.OpOverload:
    """Look up an allowed ATen op.

    Args:
        name: Such as "conv2d.default".

    Returns:
        The overload.

    Raises:
        CheckpointError: There is no such op, it writes to its arguments, or it reaches outside.

    Example:
        >>> aten_op("relu.default")
        <OpOverload(op='aten.relu', overload='default')>
    """
    base, _, overload = name.partition(".")
    private = base.startswith("_") and base not in PRIVATE_OPS
    if not base.isidentifier() or private or _DENIED.fullmatch(base):
        raise CheckpointError(f"the graph calls {name!r}, which is not among the allowed ops")
    packet = getattr(torch.ops.aten, base, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():
        raise CheckpointError(f"the graph calls {name!r}, which this torch does not have")
    op: torch._ops.OpOverload = getattr(packet, overload)
    schema = op._schema
    types = [str(argument.type) for argument in schema.arguments]
    if schema.is_mutable or any(denied in t for t in types for denied in _DENIED_TYPES):
        raise CheckpointError(f"the graph calls {name!r}, which is not among the allowed ops")
    return op


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
        if not all(_PART.fullmatch(part) for part in name.split(".")):
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
        return self.graph.create_node("call_function", target, args, kwargs, name=name)

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
        if not all(_PART.fullmatch(part) for part in name.split(".")):
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
            tensor = nn.Parameter(tensor, bool(entry["trainable"]))
        matched[name] = tensor
    extra = sorted(set(given) - set(described))
    if extra:
        raise ValueError(f"tensors {_few(extra)} are not described")
    return matched


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5])

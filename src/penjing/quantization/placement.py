"""Placement: which values are held in integers, and which of them must share a grid.

Layers, additions, products, poolings and concatenations have integer forms. An element-wise
function of one value is a table of 256 entries. What only moves values keeps their grid. Everything
else is computed in floats and named, with the reason; element-wise functions and moves behind it
stay in floats too, up to the next layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import is_layer
from penjing.quantization import recurrence
from penjing.quantization.network import CLAMPS, MASK

BINARY = frozenset({"add", "sub", "mul"})
PRODUCTS = frozenset({"matmul", "bmm"})
AVERAGES = frozenset(
    {"mean", "sum", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
)
SHARED_POOLS = frozenset(
    {
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "amax",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "upsample_bilinear2d",
        "upsample_linear1d",
    }
)
NORMS = frozenset({"group_norm", "instance_norm", "layer_norm", "rms_norm"})
FLOAT_PARAMETERS = NORMS | {"prelu"}
"""Ops whose stored numbers become multipliers, and stay floats until then."""

EMBEDDING = "embedding"
JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
MOVES = frozenset(
    {
        "channel_shuffle",
        "chunk",
        "constant_pad_nd",
        "expand",
        "flatten",
        "flip",
        "getitem",
        "index_select",
        "movedim",
        "narrow",
        "pad",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "reshape",
        "roll",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "view",
    }
)
"""Ops whose result holds values of their input, and zeros."""

RECURRENT = frozenset({"gru", "lstm", "rnn_relu", "rnn_tanh"})
"""Ops whose weights are held in integers, one scale per row, also where they compute in floats."""

PRESCRIBED = frozenset({"softmax", *RECURRENT})
"""Ops whose integer form has a grid of its own for the result, whatever the data shows."""

_KNOWN = AVERAGES | SHARED_POOLS | JOINS | MOVES | FLOAT_PARAMETERS | CLAMPS | {"softmax"}

FUNCTIONS = frozenset(
    {
        "celu",
        "elu",
        "gelu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "selu",
        "silu",
        "softplus",
        "softshrink",
    }
)
"""Functions of one value that torch does not always tag as element-wise."""


@dataclass(frozen=True, eq=False, slots=True)
class Placement:
    """Where integers are.

    Args:
        groups: Node -> representative of the nodes that share its grid; nodes without a grid are
            left out.
        weights: Qualified name -> node of the layer (or addition, product) that reads the tensor.
        fallbacks: Node computed in floats -> reason.
        fused: Node without a grid -> the clamp, or the softmax, that it ends in.
        fixed: Representative -> (minimum, maximum) where the range is known beforehand.
    """

    groups: Mapping[str, str]
    weights: Mapping[str, str]
    fallbacks: Mapping[str, str]
    fused: Mapping[str, str]
    fixed: Mapping[str, tuple[float, float]]

    def members(self) -> dict[str, list[str]]:
        """Nodes that share a grid, by representative."""
        found: dict[str, list[str]] = {}
        for name, first in self.groups.items():
            found.setdefault(first, []).append(name)
        return found


def place(
    program: Program,
    keep_float: Mapping[str, str] | None = None,
    *,
    recurrent: bool = True,
) -> Placement:
    """Decide what runs in integers.

    Args:
        program: A folded program.
        keep_float: Node -> reason, for nodes that shall stay in floats.
        recurrent: Whether recurrent ops that can run in integers do.

    Returns:
        The placement.
    """
    placer = _Placer(program, dict(keep_float or {}), recurrent)
    for node in program.graph.nodes:
        if node.op == "call_function":
            placer.visit(node)
    return placer.finish()


def is_real(node: object) -> bool:
    """Whether a node yields one tensor of floats."""
    return isinstance(node, fx.Node) and is_tensor(node) and node.meta["val"].is_floating_point()


@dataclass(eq=False)
class _Placer:
    """Walks a graph once and says for each node how it is computed."""

    program: Program
    keep_float: dict[str, str]
    recurrent: bool
    wanted: set[str] = field(default_factory=set)  # values that an integer node reads or makes
    integer: set[str] = field(default_factory=set)
    fallbacks: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, tuple[float, float]] = field(default_factory=dict)
    parent: dict[str, str] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.constant.update(self.program.stored)

    def visit(self, node: fx.Node) -> None:
        """Place one node."""
        read = (n for n in node.all_input_nodes if n.name not in self.constant)
        inputs = [n for n in read if _yields_tensors(n)]  # sizes do not make zeros an activation
        if not inputs:
            if self._is_spread(node):
                self._hold_spread(node)
            else:
                self.constant.add(node.name)
            return
        if not _yields_real(node) or not node.users:
            return
        reason = self.keep_float.get(node.name) or self._obstacle(node)
        if reason is not None:
            self.fallbacks[node.name] = reason
            if op_name(node) in RECURRENT and node.name not in self.keep_float:
                self._hold_weights(node, reason)
            return
        self.integer.add(node.name)
        self._join(node)
        self.wanted.update(n.name for n in inputs if is_real(n))
        self.wanted.add(node.name)
        for n in node.all_input_nodes:
            if n.name in self.program.stored and self._is_operand(node, n):
                self.weights[self.program.stored[n.name]] = node.name

    def _is_spread(self, node: fx.Node) -> bool:
        """Whether a node repeats stored numbers for every sample, to be joined with others."""
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        return (
            op_name(node) == "expand"
            and source is not None
            and source.name in self.program.stored
            and len(source.users) == 1
            and is_real(node)
            and bool(node.users)
            and all(op_name(user) in JOINS for user in node.users)
        )

    def _hold_spread(self, node: fx.Node) -> None:
        self.integer.add(node.name)
        self.wanted.add(node.name)
        self.weights[self.program.stored[node.all_input_nodes[0].name]] = node.name

    def _hold_weights(self, node: fx.Node, reason: str) -> None:
        """Hold the matrices of a node that computes in floats in integers all the same."""
        for n in node.all_input_nodes:
            matrix = n.name in self.program.stored and len(self.program.shape(n)) > 1
            if matrix and all(op_name(user) in RECURRENT for user in n.users):
                self.weights[self.program.stored[n.name]] = node.name
                self.fallbacks[node.name] = f"{reason}; its weights are held in integers"

    def finish(self) -> Placement:
        """The placement of the whole graph."""
        nodes = self.program.nodes
        real = {n for n in self.wanted if is_real(nodes[n]) or op_name(nodes[n]) in RECURRENT}
        groups = {
            n: self._first(n) for n in self.program.nodes if n in real and n not in self.fused
        }
        fixed = {self._first(n): r for n, r in self.fixed.items() if n in groups}
        return Placement(groups, self.weights, self.fallbacks, self.fused, fixed)

    # ------------------------------------------------------------------ one node

    def _obstacle(self, node: fx.Node) -> str | None:
        """Why a node cannot run in integers; None when it can."""
        name = op_name(node)
        if is_layer(node):
            return self._layer_obstacle(node)
        if name in RECURRENT:
            return self._recurrent_obstacle(node)
        if name == MASK:
            return self._mask_obstacle(node)
        if name in {*BINARY, *PRODUCTS} and len(self._operands(node)) > 1:
            return self._binary_obstacle(node)
        if name == EMBEDDING:
            return self._embedding_obstacle(node)
        known = name in _KNOWN
        if not known and not _is_pointwise(node):
            return f"{name} has no integer form"
        if name in {"pad", "constant_pad_nd"} and _pads_otherwise(node):
            return "it pads with a value that is not zero"
        if name == "instance_norm" and not Call(node).arg("use_input_stats"):
            return "its statistics are stored, which is a batch norm that was not folded"
        late = next((n for n in self._operands(node) if self._in_floats(n)), None)
        if late is not None:
            return f"it follows {late.name}, which is computed in floats"
        return None

    def _embedding_obstacle(self, node: fx.Node) -> str | None:
        call = Call(node)
        weight, numbers = call.arg("weight"), call.arg("indices")
        if weight.name not in self.program.stored:
            return "its table is computed by the network, not stored"
        if len(weight.users) > 1:
            return "its table is read by something else as well"
        given = numbers.name in self.program.inputs
        return None if given else "its numbers are no input of the network"

    def _layer_obstacle(self, node: fx.Node) -> str | None:
        call = Call(node)
        for key in ("weight", "bias"):
            given = call.arg(key)
            if given is None:
                continue
            if given.name not in self.program.stored:
                return f"its {key} is computed by the network, not stored"
        weight, bias = call.arg("weight"), call.arg("bias")
        if bias is not None and len(bias.users) > 1:
            return "its bias is read more than once, with another scale each time"
        earlier = self.weights.get(self.program.stored[weight.name])
        if earlier is not None and not is_layer(self.program.nodes[earlier]):
            return f"its weight is read by {earlier} as well"
        if not all(is_layer(user) for user in weight.users):
            return "its weight is read by something else as well"
        return None if is_real(call.arg("input")) else "its input is no tensor of floats"

    def _mask_obstacle(self, node: fx.Node) -> str | None:
        call, readers = Call(node), list(node.users)
        if call.arg("mask").name not in self.constant:
            return "its mask depends on the inputs"
        if call.arg("value") != -math.inf or [op_name(n) for n in readers] != ["softmax"]:
            return f"only what hides positions from a softmax ({-math.inf}) has an integer form"
        source = node.all_input_nodes[0]
        late = self._in_floats(source)
        return f"it follows {source.name}, which is computed in floats" if late else None

    def _recurrent_obstacle(self, node: fx.Node) -> str | None:
        why = recurrence.obstacle(self.program, node)
        if why is not None:
            return why
        return None if self.recurrent else f"{op_name(node)} computes in floats"

    def _binary_obstacle(self, node: fx.Node) -> str | None:
        operands = self._operands(node)
        if op_name(node) in {"add", "sub"} and Call(node).arg("alpha", 1) != 1:
            return "it has a factor alpha"
        for n in operands:
            if n.name in self.program.stored:
                if len(n.users) > 1:
                    return f"its operand {self.program.stored[n.name]} is read more than once"
            elif not is_real(n) or n.name in self.constant:
                return f"its operand {n.name} is no tensor that runs in integers"
            elif self._in_floats(n):
                return f"it follows {n.name}, which is computed in floats"
        return None

    def _in_floats(self, node: fx.Node) -> bool:
        return node.name in self.fallbacks or (
            node.name in self.constant and node.name not in self.program.stored
        )

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """Tensors and lists of tensors that a node computes with."""
        return [
            n for n in node.all_input_nodes if is_real(n) or (not is_tensor(n) and _yields_real(n))
        ]

    def _is_operand(self, node: fx.Node, stored: fx.Node) -> bool:
        """Whether a stored tensor becomes integers: weights and operands, not biases and gains."""
        call = Call(node)
        if op_name(node) in FLOAT_PARAMETERS:
            return False
        if op_name(node) in RECURRENT:
            return len(self.program.shape(stored)) > 1
        return is_real(stored) and not (is_layer(node) and call.arg("bias") is stored)

    def _join(self, node: fx.Node) -> None:
        """Let a node share the grid of what it moves, or fuse it with what it clamps."""
        name = op_name(node)
        if name in RECURRENT:
            self.fixed[node.name] = (-1.0, 127 / 128)
        if name == "softmax":
            self.fixed[node.name] = (0.0, 255 / 256)
        if name == EMBEDDING:  # samples need not show every row of the table
            table = self.program.tensors[self.program.stored[Call(node).arg("weight").name]]
            low, high = map(float, torch.aminmax(table.detach()))
            self.fixed[node.name] = (min(low, 0.0), max(high, 0.0))
        if name == MASK:
            self.fused[node.name] = next(iter(node.users)).name
        if name in CLAMPS:
            self._fuse(node)
        if name in MOVES | SHARED_POOLS | JOINS:
            self._share(node)

    def _share(self, node: fx.Node) -> None:
        """Let a node share the grid of what it reads, but for prescribed grids beside others."""
        read = (n for n in node.all_input_nodes if n.name not in self.constant and _yields_real(n))
        groups = [self._first(n.name) for n in read]
        known = {self._first(name): extent for name, extent in self.fixed.items()}
        alike = len({known.get(group) for group in groups}) == 1
        for group in groups:
            if alike or group not in known:
                self._unite(group, node.name)

    def _fuse(self, clamp: fx.Node) -> None:
        source = clamp.all_input_nodes[0]
        takes = is_layer(source) or op_name(source) in BINARY
        if takes and source.name in self.integer and len(source.users) == 1:
            self.fused[source.name] = clamp.name

    def _first(self, name: str) -> str:
        while self.parent.get(name, name) != name:
            self.parent[name] = self.parent.get(self.parent[name], self.parent[name])
            name = self.parent[name]
        return name

    def _unite(self, one: str, other: str) -> None:
        first, second = self._first(one), self._first(other)
        if first != second:
            self.parent[second] = first


def _yields_real(node: fx.Node) -> bool:
    """Whether a node yields floats, in one tensor or several."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) and v.is_floating_point() for v in values)


def _yields_tensors(node: fx.Node) -> bool:
    """Whether a node yields a tensor, or several."""
    value = node.meta.get("val")
    return any(
        isinstance(v, Tensor) for v in (value if isinstance(value, (list, tuple)) else [value])
    )


def _is_pointwise(node: fx.Node) -> bool:
    """Whether a node is an element-wise function of one tensor, whose table can be written down."""
    target = node.target
    tensors = [n for n in node.all_input_nodes if is_tensor(n)]
    return (
        isinstance(target, torch._ops.OpOverload)
        and (torch.Tag.pointwise in target.tags or op_name(node) in FUNCTIONS)
        and len(tensors) == 1
        and len(node.all_input_nodes) == 1
        and is_real(node)
        and torch.Tag.nondeterministic_seeded not in target.tags
    )


def _pads_otherwise(node: fx.Node) -> bool:
    call = Call(node)
    mode = call.arg("mode", "constant") if call.has("mode") else "constant"
    return mode == "constant" and float(call.arg("value", 0) or 0) != 0

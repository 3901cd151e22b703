"""Ops that only move data: each runs once on the linear indices of its input.

What comes out says for every position of the output where it came from, -1 where it was filled in.
Layout planning makes a view of it where strides can express it, else a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from penjing.codegen.lower.trace import DTYPES, Op, Rule, Trace, Value


def moved(
    trace: Trace,
    op: Op,
    x: Value,
    move: Callable[[np.ndarray], np.ndarray],
    hint: str = "",
) -> Value:
    """Add a movement of the compiler's own.

    Args:
        trace: The net.
        op: On behalf of which op; with no `hint`, this is its result.
        x: What is moved.
        move: Applied to the array of indices.
        hint: Suffix of the name.

    Returns:
        The moved value.
    """
    index = move(np.arange(int(np.prod(x.shape, dtype=int))).reshape(x.shape))
    made = (
        trace.tensor(f"{op.node.name}_{hint}", index.shape, x.dtype) if hint else trace.result(op)
    )
    return trace.add("move", op, [x], [made], index=np.ascontiguousarray(index), fill=0.0)


def _moves(trace: Trace, op: Op) -> Value | list[Value]:
    """Any op that moves its first tensor argument."""
    name = next(n for n, v in op.arguments.items() if isinstance(v, Value))
    x = trace.hold(op.arguments[name])
    fill = 0.0
    extra: dict[str, Any] = {}
    if op.name in {"constant_pad_nd", "pad"} and op.get("mode", "constant") == "constant":
        fill, extra = float(op.get("value", 0.0)), {"value": 0.0}
    numbers = torch.arange(1, max(int(np.prod(x.shape, dtype=int)), 1) + 1, dtype=torch.float64)
    numbers = numbers.reshape(x.shape)

    def real(argument: Any) -> Any:
        if not isinstance(argument, Value):
            return argument
        if argument is op.arguments[name]:
            return numbers
        if argument.constant is None:
            op.refuse("by positions that are computed from the inputs")
        return argument.constant

    arguments = {k: pytree.tree_map(real, v) for k, v in {**op.arguments, **extra}.items()}
    target: Any = op.node.target
    schema = [a for a in target._schema.arguments if a.name in arguments]
    positional = [arguments[a.name] for a in schema if not a.kwarg_only]
    keywords = {a.name: arguments[a.name] for a in schema if a.kwarg_only}
    keywords = {k: v for k, v in keywords.items() if v is not None}
    result = target(*positional, **keywords)
    single = isinstance(result, torch.Tensor)
    made = [
        _moved_to(trace, op, x, position, one, fill)
        for position, one in enumerate([result] if single else result)
    ]
    return made[0] if single else made


def _moved_to(
    trace: Trace, op: Op, x: Value, position: int, found: torch.Tensor, fill: float
) -> Value:
    index = found.numpy().astype(np.int64) - 1
    attributes: dict[str, Any] = {"index": np.ascontiguousarray(index), "fill": fill}
    if op.name in {"constant_pad_nd", "pad"} and fill == 0.0:
        attributes["pad"] = _pads(op, len(x.shape))
    out = trace.result(op, position)
    return trace.add("move", op, [x], [out], **attributes)


def _pads(op: Op, rank: int) -> tuple[tuple[int, int], ...]:
    """Zeros before and after, of every dimension; only of constant padding."""
    if op.get("mode", "constant") != "constant":
        return ()
    flat = [int(p) for p in op.get("pad")]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    return tuple([(0, 0)] * (rank - len(pairs)) + pairs)


def _same(trace: Trace, op: Op) -> Value:
    """Ops that give their input back."""
    x = trace.hold(op.get("self", op.get("input")))
    was = op.node.all_input_nodes[0].meta["val"].dtype  # the net's bytes are numbers or truth
    if op.results[0].dtype == torch.bool != was:
        return trace.add("map", op, [x], expression=("ne", ("input", 0), ("constant", 0.0)))
    if trace.tensors[x.name].shape == op.shape and x.dtype == trace_dtype(op):
        return x
    return trace.add("map", op, [x], expression=("input", 0))


def trace_dtype(op: Op) -> str:
    """The compiler's type of an op's first result."""
    return DTYPES.get(op.results[0].dtype, "")


def _concat(trace: Trace, op: Op) -> Value:
    parts: Sequence[Value] = [v for v in op.get("tensors") if v.shape != (0,)]
    dim = int(op.get("dim", 0)) % len(op.shape)
    if op.name == "stack":
        parts = [
            moved(trace, op, trace.hold(v), lambda i: np.expand_dims(i, dim), "part") for v in parts
        ]
    dtype = trace_dtype(op)
    held = [trace.hold(v) for v in parts]
    held = [
        v
        if v.dtype == dtype
        else trace.add(
            "map",
            op,
            [v],
            [trace.tensor(f"{op.node.name}_cast", v.shape, dtype)],  # type: ignore[arg-type]
            expression=("input", 0),
        )
        for v in held
    ]
    return trace.add("concat", op, held, dim=dim)


_MOVES = """
    alias as_strided channel_shuffle chunk constant_pad_nd contiguous_view detach diagonal
    expand expand_as flatten flip im2col index index_select movedim moveaxis narrow numpy_T pad
    permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape reshape_as roll rot90
    select slice split split_with_sizes squeeze swapaxes swapdims t tensor_split tile transpose
    tril triu unbind unflatten unfold unsafe_chunk unsafe_split unsafe_view unsqueeze view
    view_as reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d unsafe_split_with_sizes _unsafe_view hsplit vsplit
""".split()  # noqa: SIM905 - one line per name would hide the rest

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_MOVES, _moves),
    **dict.fromkeys(
        (
            "alpha_dropout",
            "clone",
            "contiguous",
            "dropout",
            "feature_alpha_dropout",
            "feature_dropout",
            "lift_fresh",
            "lift_fresh_copy",
            "to",
            "_to_copy",
            "type_as",
            "float",
            "detach_",
        ),
        _same,
    ),
    "cat": _concat,
    "concat": _concat,
    "stack": _concat,
}

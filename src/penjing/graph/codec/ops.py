"""What a graph in a file may call."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from penjing.errors import CheckpointError
from penjing.graph.form import batch_norm, fixed, sized
from penjing.graph.tokens import (
    drop_by_attention,
    drop_by_norm,
    merge_tokens,
    size_bias,
    weighted_mean,
)

GRAPH_VERSION = 1

NAME_PART = re.compile(r"[\w-]+")
"""One part of a qualified tensor name."""

_SIZE_OPS = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
_SIZE_TESTS = ("eq", "ne", "lt", "le", "gt", "ge")
_SYMBOLIC = ("max", "min", "not", "int", "float", "ite", "sum")

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    **{name: getattr(operator, name) for name in (*_SIZE_OPS, *_SIZE_TESTS)},
    **{f"sym_{name}": getattr(torch, f"sym_{name}") for name in _SYMBOLIC},
    "getattr": getattr,
    "batch_norm": batch_norm,
    "drop_by_attention": drop_by_attention,
    "drop_by_norm": drop_by_norm,
    "merge_tokens": merge_tokens,
    "size_bias": size_bias,
    "weighted_mean": weighted_mean,
    "fixed": fixed,
    "sized": sized,
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

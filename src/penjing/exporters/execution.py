"""Execution: which ops of a file ONNX Runtime runs in integers, as its optimized graph says."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.exporters.session import runtime_errors

MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that run on integers when they read integers."""

_BRIDGES = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SIZES = frozenset({"Shape", "Size", "ConstantOfShape", "Cast", "Range", "Equal", "Where", "Mod"})


@dataclass(frozen=True, slots=True)
class Execution:
    """What an optimized graph is made of.

    Args:
        integer: Op -> how many run in integers.
        floating: Name -> op of every node that computes with floats.
        bridges: Quantize and dequantize nodes that are left.
    """

    integer: Mapping[str, int]
    floating: Mapping[str, str]
    bridges: int

    def __str__(self) -> str:
        count = sum(self.integer.values())
        left = ", ".join(sorted(set(self.floating.values()))) or "none"
        return f"{count} ops in integers, {len(self.floating)} in floats ({left})"


def execution_of(path: Path) -> Execution:
    """Look at the graph that ONNX Runtime makes of a file.

    Args:
        path: An ONNX file.

    Returns:
        What runs in integers and what does not.

    Raises:
        ExportError: ONNX Runtime cannot run the file.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _optimize(path, optimized)
        nodes: list[Any] = list(onnx.load(optimized).graph.node)
    integer: dict[str, int] = {}
    floating: dict[str, str] = {}
    bridges, held = 0, set[str]()
    for node in nodes:
        op = str(node.op_type)
        runs = _computes_integers(op) or (op in MOVES and any(name in held for name in node.input))
        if runs or op == "QuantizeLinear":
            held.update(node.output)
        if op in _BRIDGES:
            bridges += 1
        elif runs:
            integer[op] = integer.get(op, 0) + 1
        elif op not in _SIZES:
            floating[str(node.name) or str(node.output[0])] = op
    return Execution(integer, floating, bridges)


def _computes_integers(op: str) -> bool:
    return op.startswith(("QLinear", "QGemm", "QMoE", "QAttention")) or "Integer" in op


def _optimize(path: Path, optimized: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimized)
    with runtime_errors(path):
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

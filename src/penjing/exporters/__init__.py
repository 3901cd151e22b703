"""Exporters: each writes a file, loads it again and compares it before it returns."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from penjing.errors import ExportError, UnavailableError
from penjing.exporters._c import c_name, compile_checked, write_c
from penjing.exporters._integers import compile_quantized
from penjing.exporters._onnx import onnx_feeds, write_integers, write_onnx, write_program
from penjing.exporters.exported import Exported
from penjing.graph.capture import Example
from penjing.quantization.module import QuantizedModule

__all__ = [
    "Exported",
    "c_name",
    "compile_checked",
    "compile_quantized",
    "onnx_feeds",
    "write",
    "write_c",
    "write_integers",
    "write_onnx",
    "write_program",
]

LATER = {
    ".pte": "ExecuTorch",
    ".tflite": "LiteRT",
    ".pt2": "torch.export",
}
"""Suffixes of the design that this version does not write."""


def write(model: nn.Module, example_inputs: Example, path: str | Path) -> Exported:
    """Export a network in the format that the suffix of `path` names.

    Args:
        model: Network to export; only read.
        example_inputs: A tensor, a tuple or a dict, on the device of the network.
        path: File to write: `.onnx`, or `.c` with its header beside it.

    Returns:
        What was written and how it compared.

    Raises:
        UnavailableError: The format belongs to a later version.
        ExportError: The format is unknown, or cannot express the network.
        VerificationError: The written file computes something else; it is removed.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx" and isinstance(model, QuantizedModule):
        return write_integers(model.network, path)
    if suffix == ".onnx":
        return write_onnx(model, example_inputs, path)
    if suffix == ".c" and isinstance(model, QuantizedModule):
        raise ExportError(
            f"{Path(path).name!r}: a quantized network becomes several files; "
            "`pj.compile(model, example_inputs, out=...)` writes them into a folder"
        )
    if suffix == ".c":
        return write_c(model, example_inputs, path)
    if suffix in LATER:
        raise UnavailableError(
            f"{Path(path).name!r}: {suffix} ({LATER[suffix]}) is not in this version; .onnx and "
            ".c are"
        )
    known = ", ".join((".onnx", ".c", *LATER))
    raise ExportError(
        f"{Path(path).name!r} does not end in a format that can be written; known are {known}"
    )

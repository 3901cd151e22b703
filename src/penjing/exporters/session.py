"""ONNX Runtime sessions, opened the same way for comparing and for timing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penjing.errors import ExportError


def open_session(path: Path, threads: int = 1) -> Any:
    """Load an ONNX file on the CPU: all graph optimizations, no spinning threads.

    Args:
        path: The file.
        threads: Intra-op threads; one op runs at a time.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        ExportError: The file is missing, or ONNX Runtime cannot run it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not path.is_file():
        raise ExportError(f"there is no file {path.name!r} to run")
    with runtime_errors(path):
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def runtime_errors(path: Path) -> Iterator[None]:
    """Turn the errors of ONNX Runtime into errors that name the file.

    Raises:
        ExportError: ONNX Runtime cannot run the file.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = tuple(
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )
    try:
        yield
    except kinds as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"ONNX Runtime cannot run {path.name!r}: {line[0][:300]}") from error


def runtime_name() -> str:
    """Name and version, such as "onnxruntime 1.31.1"."""
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__}"

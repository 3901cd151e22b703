"""Files that stay whole: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` so that a reader sees the old file or the new one, never half of it.

    Args:
        path: File to write; its folder is made when missing.
        content: All bytes of the file.

    Returns:
        The path written.

    Raises:
        OSError: The disk is full or the folder cannot be written; an existing file is left as it
            was.
    """
    return write_with(path, lambda part: part.write_bytes(content))


def write_text(path: str | Path, content: str) -> Path:
    """Write UTF-8 text as `write_bytes` does."""
    return write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON, keys in the order given, as `write_bytes` does; NaN and infinity are refused."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_with(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Let `writer` fill a temporary file beside `path`, sync it, then rename it to `path`.

    Args:
        path: File to write; its folder is made when missing.
        writer: Called with the temporary path, which ends in the same suffix.

    Returns:
        The path written.

    Raises:
        OSError: The disk is full or the folder cannot be written; an existing file is left as it
            was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        writer(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

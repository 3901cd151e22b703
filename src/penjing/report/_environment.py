"""Where a result was made: versions and machine, no paths, no names of hosts or users."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("penjing", "torch", "numpy", "onnx", "onnxruntime")


def environment() -> dict[str, str]:
    """Versions, processor and threads of this process.

    Returns:
        Name -> value, for `ReportData.environment`; packages not installed are left out.

    Example:
        >>> "python" in environment()
        True
    """
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
        "platform": f"{platform.system()} {platform.machine()}".strip(),
        "cpu": _processor(),
        "cores": str(_cores()),
        "threads": str(torch.get_num_threads()),
        **({"gpu": accelerator} if accelerator else {}),
    }


def _version(package: str) -> str:
    """Version of an installed package, empty when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cores() -> int:
    """Logical processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Name of the processor as the system gives it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model", "cpu model"} and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"

"""Every error that penjing raises on purpose.

    PenjingError
    ├── InputError            inputs, batches, weights: wrong shape, dtype, device, NaN, empty
    ├── CaptureError          the network does not export; says where and what to change
    ├── StrategyError         an unknown name or a strategy used where it cannot work
    ├── PlanError             a plan that does not fit the network
    ├── BudgetError           a ratio or constraint that makes no sense
    │   └── InfeasibleError   a budget below what is possible; carries the nearest feasible point
    ├── VerificationError     a cut, export or checkpoint that is not equal to its original
    ├── ExportError           a format or runtime that cannot express the network
    ├── CheckpointError       a saved folder that is damaged, foreign or newer than this version
    ├── SourceError           a model file, function or folder that cannot be read
    ├── MissingDependencyError  an optional package or system tool is absent
    └── UnavailableError      part of the design that this version does not have yet

Messages start in lower case and say what is wrong, where (qualified name), the values seen and the
fix.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType


class PenjingError(Exception):
    """Base of all errors raised on purpose; the command line answers it with exit code 2."""


class InputError(PenjingError):
    """Example inputs, batches or weights are not what the network takes."""


class CaptureError(PenjingError):
    """`torch.export` could not capture the network."""


class StrategyError(PenjingError):
    """A strategy is unknown, or cannot work with what it was given."""


class PlanError(PenjingError):
    """A plan does not fit the network it is applied to."""


class BudgetError(PenjingError):
    """A ratio or a constraint makes no sense."""


class InfeasibleError(BudgetError):
    """A budget lies below what is possible; the command line answers it with exit code 1.

    Args:
        message: What stands in the way.
        nearest: The nearest feasible point, by constraint name.
    """

    def __init__(self, message: str, nearest: Mapping[str, float]) -> None:
        super().__init__(message)
        self.nearest = dict(nearest)


class VerificationError(PenjingError):
    """A result is not equal to what it was made from, and was refused."""


class ExportError(PenjingError):
    """A format cannot express the network, or its runtime cannot run it."""


class CheckpointError(PenjingError):
    """A saved folder is damaged, foreign, or newer than this version."""


class SourceError(PenjingError):
    """A model file, function or folder cannot be read."""


class MissingDependencyError(PenjingError):
    """An optional package or system tool is absent."""


class UnavailableError(PenjingError):
    """Part of the design that this version does not have yet."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency at its point of use.

    Args:
        module: Dotted name of the module to import.
        extra: The extra of this package that installs it.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: The package is not installed.

    Example:
        >>> require("json", extra="none").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{module} is not installed; `pip install 'penjing[{extra}]'` brings it"
        ) from error

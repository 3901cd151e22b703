"""Where a network comes from: an object, a Python file, `package.module:function`, a `.pt2` file.

A Python file or module defines `model()` and, as far as a step needs them, `example_inputs()`,
`task()` and `calibration()`; each may also be the object itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import PenjingError, SourceError, UnavailableError

PARTS = ("example_inputs", "task", "calibration")
WEIGHTS_ONLY = frozenset({".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".h5", ".pkl"})
EXAMPLES = {
    "example_inputs": "def example_inputs(): return torch.randn(1, 3, 32, 32)",
    "task": "def task(): return penjing.Task(val=loader, metrics={...})",
    "calibration": "def calibration(): return loader",
}


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """A network and what came with it.

    Args:
        model: The network.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords); None when not given.
        task: A `penjing.Task`, or a dict of several by name; None when not given.
        calibration: Unlabelled batches; None when not given.
        name: What to call it: the file, the function, or the class.
    """

    model: nn.Module
    example_inputs: Any = None
    task: Any = None
    calibration: Any = None
    name: str = ""

    def need(self, part: str) -> Any:
        """A part that a step cannot do without.

        Args:
            part: "example_inputs", "task" or "calibration".

        Returns:
            That part.

        Raises:
            SourceError: It was not given; the message shows what to write.
        """
        value = getattr(self, part)
        if value is None:
            raise SourceError(f"{self.name} gives no {part}; add `{EXAMPLES[part]}`")
        return value


def load_source(
    spec: nn.Module | str | Path,
    *,
    trust: bool = False,
    want: Collection[str] = PARTS,
    open_folder: Callable[[Path], Source] | None = None,
) -> Source:
    """Find a network. Python files and modules are run, so they must be your own.

    Args:
        spec: A module, a path to `net.py` (or `net.py:function`), "package.module" (or
            "package.module:function"), a `.pt2` file, or a saved folder.
        trust: Read a `.pt2`, which can run code that it holds.
        want: Parts besides the model to ask for; the others' functions are not called.
        open_folder: Opens a saved folder; the caller knows the format.

    Returns:
        The network, and the parts that were wanted and are defined.

    Raises:
        SourceError: It cannot be found, read or run, or gives something else; with the cause.
        UnavailableError: An `.onnx` file: reading it belongs to a later version.
    """
    if isinstance(spec, nn.Module):
        return Source(spec, name=type(spec).__name__)
    if not isinstance(spec, (str, Path)):
        raise SourceError(
            f"a network comes from a module, a path or 'package.module:function', not from "
            f"{type(spec).__name__}"
        )
    path, function = _divide(str(spec))
    if path and Path(path).is_dir() and not (Path(path) / "__init__.py").exists():
        return _folder(Path(path), open_folder)
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        raise UnavailableError(
            f"{path}: reading .onnx comes with a later version; give the PyTorch network, for "
            "instance in a file net.py with model() and example_inputs()"
        )
    if suffix in WEIGHTS_ONLY:
        raise SourceError(
            f"{path} holds weights, not a network; write net.py with `def model():` that builds "
            f"the network and loads them: load_state_dict(torch.load({Path(path).name!r}))"
        )
    if suffix == ".pt2":
        return _exported(Path(path), trust)
    with _importable(Path(path).parent if suffix == ".py" else Path.cwd()):
        module = _file(Path(path)) if suffix == ".py" else _module(path)
        return _defined(module, str(spec), function, want)


def _divide(spec: str) -> tuple[str, str]:
    """Path or module, and the function after the last colon (not that of a Windows drive)."""
    path, colon, function = spec.rpartition(":")
    return (path, function) if colon and function.isidentifier() else (spec, "")


def _folder(path: Path, open_folder: Callable[[Path], Source] | None) -> Source:
    if open_folder is None:
        raise SourceError(
            f"{path} is a folder; open a saved network with penjing.load({str(path)!r})"
        )
    return replace(open_folder(path), name=path.name)


class _Running:
    """Gives errors of the user's code their place; the traceback stays, as the cause."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, PenjingError) or not isinstance(error, (Exception, SystemExit)):
            return
        raise SourceError(f"{self.place} failed: {type(error).__name__}: {error}") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules beside the file can be imported inside, as when it is run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code took it away
            sys.path.remove(entry)


def _file(path: Path) -> ModuleType:
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        there = f"; beside it are {', '.join(beside[:8])}" if beside else ""
        raise SourceError(f"there is no file {path}{there}")
    name = f"penjing_source_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise SourceError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and worker processes look their module up
    with _Running(f"running {path}"):
        found.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    is_file = bool(Path(name).suffix) and Path(name).is_file()
    if is_file or not all(part.isidentifier() for part in name.split(".")):
        raise _no_source(name)
    with _Running(f"importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and imports something that is not
            raise _no_source(name) from error


def _no_source(name: str) -> SourceError:
    """What to say of something that is neither a network's file nor a module."""
    seen = (
        f"{name} is a file of another kind"
        if Path(name).is_file()
        else f"{name!r} is no module that Python can import, and there is no such file or folder"
    )
    return SourceError(
        f"{seen}; give net.py, 'package.module:function', a .pt2 file or a saved folder"
    )


def _defined(module: ModuleType, spec: str, function: str, want: Collection[str]) -> Source:
    name = function or "model"
    model = _call(module, spec, name)
    if model is None:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        has = f"it defines {', '.join(known[:8])}" if known else "it defines no function"
        raise SourceError(
            f"{spec} has no {name}(); {has}. Add `def {name}():` that returns the network"
        )
    _expect(model, nn.Module, f"{spec}: {name}()", "a torch.nn.Module")
    parts = {part: _call(module, spec, part) for part in PARTS if part in want}
    if (example := parts.get("example_inputs")) is not None:
        kinds = (Tensor, tuple, list, dict)
        _expect(
            example, kinds, f"{spec}: example_inputs()", "a tensor, a tuple or a dict of tensors"
        )
    if (task := parts.get("task")) is not None:
        for one in task.values() if isinstance(task, dict) and task else (task,):
            if not hasattr(one, "evaluate"):
                _expect(one, (), f"{spec}: task()", "a penjing.Task, or a dict of several by name")
    return Source(model, name=spec, **parts)


def _call(module: ModuleType, spec: str, name: str) -> Any:
    """What a function of the module returns, or the object of that name; None when not there."""
    value = getattr(module, name, None)
    if isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module)):
        with _Running(f"{spec}: {name}()"):
            made = value()
        if made is None:
            raise SourceError(f"{spec}: {name}() returned None; is its return statement missing?")
        return made
    return value


def _expect(value: Any, kinds: Any, place: str, wanted: str) -> None:
    if not isinstance(value, kinds):
        raise SourceError(f"{place} gave a {type(value).__name__}; it must give {wanted}")


def _exported(path: Path, trust: bool) -> Source:
    if not path.exists():
        raise SourceError(f"there is no file {path}")
    if not trust:
        raise SourceError(
            f"reading {path} can run code that it holds, since torch may unpickle parts of it; "
            "for a file of your own pass trust=True (on the command line --trust)"
        )
    with _Running(f"reading {path}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
        model = torch.export.unflatten(program)
    args, kwargs = program.example_inputs or ((), {})
    example: Any = kwargs if kwargs and not args else args
    single = isinstance(example, tuple) and len(example) == 1
    whole = example if len(example) else None
    return Source(model, example[0] if single else whole, name=path.name)

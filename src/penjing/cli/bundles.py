"""Bundles: options that several commands have together, told once as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from penjing.cli.answers import answering
from penjing.cli.opening import open_source
from penjing.cli.options import (
    Allocation,
    AsJson,
    BitOperations,
    Debug,
    Ignore,
    Importance,
    Indivisible,
    IndivisibleOption,
    KeepDense,
    MaxPruningRatio,
    Pattern,
    Repair,
    RepairOption,
    RoundTo,
    Scope,
    Trust,
    WeightBits,
    WeightBytes,
    given,
    roles,
)
from penjing.source import PARTS, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How a command is called, whatever it does."""

    trust: Trust = False
    as_json: AsJson = False
    debug: Debug = False

    def answering(self) -> AbstractContextManager[None]:
        """Turn errors into one message and an exit code."""
        return answering(as_json=self.as_json, debug=self.debug)

    def open(self, net: str, want: Collection[str] = PARTS) -> Source:
        """Open what a person named.

        Args:
            net: A Python file, a module, a `.pt2` file, a saved folder, or the folder of a run.
            want: Parts besides the model.
        """
        return open_source(net, trust=self.trust, want=want)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """How units are cut, apart from how many."""

    importance: Importance = None
    allocation: Allocation = None
    repair: RepairOption = Repair.AUTO
    round_to: RoundTo = None
    max_pruning_ratio: MaxPruningRatio = 0.9
    scope: Scope = None
    pattern: Pattern = "element"
    ignore: Ignore = None

    def arguments(self) -> dict[str, Any]:
        """As the verbs take them."""
        scope = {} if self.scope is None else {"scope": tuple(self.scope)}
        return {
            **scope,
            "pattern": self.pattern,
            "importance": self.importance,
            "allocation": self.allocation,
            "repair": self.repair.choice,
            "round_to": self.round_to,
            "max_pruning_ratio": self.max_pruning_ratio,
            "ignored_layers": tuple(self.ignore or ()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparing:
    """Which layers stay dense where others get zeros."""

    keep_dense: KeepDense = None
    indivisible: IndivisibleOption = Indivisible.ERROR
    ignore: Ignore = None

    def arguments(self) -> dict[str, Any]:
        """As the verbs take them."""
        return {
            "keep_dense": roles(self.keep_dense),
            "indivisible": self.indivisible.value,
            "ignored_layers": tuple(self.ignore or ()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Bounds under which every layer gets its own bits."""

    weight_bytes: WeightBytes = None
    bit_operations: BitOperations = None
    weight_bits: WeightBits = None

    def arguments(self) -> dict[str, Any]:
        """As `quantize` takes them."""
        bounds = {"weight_bytes": self.weight_bytes, "bit_operations": self.bit_operations}
        bits = {} if self.weight_bits is None else {"weight_bits": tuple(self.weight_bits)}
        return {"constraints": given(bounds) or None, **bits}


def unbundled(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its bundles, each in the place of the parameter that takes it.

    Args:
        command: A parameter whose type is a dataclass is a bundle. Its default, where it has one,
            gives the defaults of the options; else the fields do.

    Returns:
        The command as typer takes it.
    """
    hints = get_type_hints(command, include_extras=True)
    bundles: dict[str, type[Any]] = {
        name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)
    }
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in bundles:
            parameters += _options(parameter, bundles[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    @functools.wraps(command)
    def call(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
            for name, kind in bundles.items()
        }
        command(**given, **made)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect's own
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _options(parameter: inspect.Parameter, bundle: type[Any]) -> Iterator[inspect.Parameter]:
    """One parameter per field of a bundle."""
    default = bundle() if parameter.default is parameter.empty else parameter.default
    hints = get_type_hints(bundle, include_extras=True)
    for f in fields(bundle):
        yield parameter.replace(
            name=f.name, annotation=hints[f.name], default=getattr(default, f.name)
        )

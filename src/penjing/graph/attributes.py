"""Integers that a `forward` reads from its module, found by what they influence.

Every integer attribute of a copy of the network, and of the configuration objects that its modules
hold, is replaced by a `Probe`: an integer that remembers where it came from through arithmetic. One
run tells which constants of which calls each of them reaches. A cut knows the new value of every
such constant, so the attribute's new value follows. Names and classes play no part, and equal
integers are never taken for each other.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from penjing.graph.capture import Program, capture_once, quiet_eval

Key = tuple[str, str]
"""A call as torch numbers it: function with its count, and what kind of function it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an integer is kept.

    Args:
        module: Qualified name of the module.
        path: Attribute, then attributes, keys or positions inside it.
    """

    module: str
    path: tuple[str | int, ...]


Formula = Callable[[Mapping[Place, int]], int]


class Probe(int):
    """An integer that remembers which attributes it was computed from."""

    places: frozenset[Place]
    formula: Formula
    met: set[Place]

    @staticmethod
    def of(place: Place, value: int, met: set[Place]) -> Probe:
        """The integer kept at `place`; the place joins `met` when it is found equal to a size."""
        probe = Probe.made(value, frozenset({place}), lambda at: at.get(place, value))
        probe.met = met
        return probe

    @staticmethod
    def made(value: int, places: frozenset[Place], formula: Formula) -> Probe:
        """An integer computed from those kept at `places`."""
        probe = Probe(value)
        probe.places, probe.formula, probe.met = places, formula, set()
        return probe

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) is True
        if equal and type(other) is int:
            self.met |= self.places
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int.__hash__(self)

    def _with(self, other: object, compute: Callable[[int, int], int], swapped: bool) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        if isinstance(right, int) and int(right) == 0 and compute is not _ADD:
            return compute(int(left), int(right))
        places = self.places | (other.places if isinstance(other, Probe) else frozenset())
        return Probe.made(
            compute(int(left), int(right)),
            places,
            lambda at: compute(_at(left, at), _at(right, at)),
        )

    def __add__(self, other: int) -> Any:
        return self._with(other, _ADD, False)

    def __radd__(self, other: int) -> Any:
        return self._with(other, _ADD, True)

    def __sub__(self, other: int) -> Any:
        return self._with(other, operator.sub, False)

    def __rsub__(self, other: int) -> Any:
        return self._with(other, operator.sub, True)

    def __mul__(self, other: int) -> Any:
        return self._with(other, operator.mul, False)

    def __rmul__(self, other: int) -> Any:
        return self._with(other, operator.mul, True)

    def __floordiv__(self, other: int) -> Any:
        return self._with(other, operator.floordiv, False)

    def __rfloordiv__(self, other: int) -> Any:
        return self._with(other, operator.floordiv, True)


_ADD = operator.add


def _at(value: int, at: Mapping[Place, int]) -> int:
    return value.formula(at) if isinstance(value, Probe) else value


@dataclass(frozen=True, slots=True)
class Reading:
    """Constants of one call that come from attributes.

    Args:
        key: Which call.
        constants: All its arguments that are no tensors, flattened; some are probes.
    """

    key: Key
    constants: tuple[Any, ...]


class _Listener(TorchFunctionMode):
    """Notes every call that a probe reaches, and lets torch see plain integers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Any] = Counter()
        self.readings: list[Reading] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.counts[func] += 1
        named = dict(kwargs or {})
        constants = tuple(_constants((args, named)))
        if any(isinstance(c, Probe) for c in constants):
            name = getattr(func, "__name__", str(func))
            key = (f"{name}_{self.counts[func]}", f"{type(func).__name__}.{name}")
            self.readings.append(Reading(key, constants))
            args, named = _plain(args), _plain(named)
        return func(*args, **named)


def _plain(value: Any) -> Any:
    """The same arguments with plain integers in place of probes."""
    if isinstance(value, Probe):
        return int(value)
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    if type(value) in (tuple, list):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, torch.Size):
        return torch.Size([int(v) for v in value])
    return {k: _plain(v) for k, v in value.items()} if type(value) is dict else value


def _constants(value: Any) -> Iterator[Any]:
    """Arguments that are no tensors, in order."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, slice):
            yield from (leaf.start, leaf.stop, leaf.step)
        elif not isinstance(leaf, (Tensor, fx.Node)) or _is_size(leaf):
            yield leaf


def _is_size(leaf: Any) -> bool:
    return isinstance(leaf, fx.Node) and not isinstance(leaf.meta.get("val"), Tensor)


class Agreeing(int):
    """An integer that finds itself equal to whatever it is compared with, and remembers it."""

    seen: list[int]

    def __eq__(self, other: object) -> bool:
        if type(other) is int:
            self.seen.append(other)
            return True
        return int.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int.__hash__(self)


@dataclass(frozen=True, slots=True)
class Readings:
    """What the attributes of a network reach.

    Args:
        calls: One entry per call that an attribute's value reaches.
        compared: Attributes that were found equal to a size.
    """

    calls: tuple[Reading, ...]
    compared: frozenset[Place]


def readings(model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> Readings:
    """Run a copy of a network with probes for its integers.

    Args:
        model: Read; its tensors are shared with the copy.
        example: Positional and keyword inputs.

    Returns:
        Calls and comparisons.

    Raises:
        CaptureError: The network does not export with probes in it.
    """
    twin, met = _twin(model), set[Place]()
    for name, module in twin.named_modules():
        _hang_probes(module, name, met)
    listener = _Listener()
    twin.register_forward_pre_hook(lambda *_: listener.counts.clear())
    with listener:
        capture_once(twin, example)
    return Readings(tuple(listener.readings), frozenset(met))


def compared_values(
    model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]], places: frozenset[Place]
) -> dict[Place, int]:
    """The sizes that attributes are compared with when a cut network runs.

    Args:
        model: The cut network; read, its tensors are shared with a copy.
        example: Positional and keyword inputs.
        places: Attributes that equal a size in the original.

    Returns:
        The size that each met first, where it was another than the attribute.
    """
    twin, agreeing = _twin(model), dict[Place, Agreeing]()
    for place in places:
        probe = agreeing[place] = Agreeing(read(twin, place))
        probe.seen = []
    write(twin, agreeing)
    with quiet_eval(twin), torch.no_grad(), suppress(*FAILURES):
        twin(*example[0], **example[1])
    return {p: a.seen[0] for p, a in agreeing.items() if a.seen and a.seen[0] != int(a)}


FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a forward raises when a size in it is not right yet."""


def _twin(model: nn.Module) -> nn.Module:
    """A copy that shares the tensors."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def _hang_probes(module: nn.Module, name: str, met: set[Place]) -> None:
    if isinstance(module, fx.GraphModule):  # its sizes are in its code, its attributes of the graph
        return
    own = vars(module)
    for attribute in [a for a in own if a not in _OF_EVERY_MODULE]:
        own[attribute] = _probed(own[attribute], Place(name, (attribute,)), 2, met)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NOT_SETTINGS = (nn.Module, Tensor, type, FunctionType, BuiltinFunctionType, MethodType, partial)


def _probed(value: Any, place: Place, depth: int, met: set[Place]) -> Any:
    """A setting with probes for its integers; containers are copied."""
    if type(value) is int:
        return Probe.of(place, value, met)
    if depth and type(value) in (list, tuple):
        return type(value)(
            _probed(v, _inside(place, i), depth - 1, met) for i, v in enumerate(value)
        )
    if depth and type(value) is dict:
        return {
            k: _probed(v, _inside(place, k), depth - 1, met) if isinstance(k, (str, int)) else v
            for k, v in value.items()
        }
    if depth and is_settings(value):
        made = copy.copy(value)
        for key, inner in vars(value).items():
            vars(made)[key] = _probed(inner, _inside(place, key), depth - 1, met)
        return made
    return value


def is_settings(value: Any) -> bool:
    """Whether a value is a plain object that may hold sizes, such as a configuration."""
    return hasattr(value, "__dict__") and not isinstance(value, _NOT_SETTINGS)


def _inside(place: Place, key: str | int) -> Place:
    return Place(place.module, (*place.path, key))


# ---------------------------------------------------------------- what a cut asks of them


def new_values(found: Sequence[Reading], before: Program, after: Program) -> dict[Place, int]:
    """Values that attributes must have for `forward` to compute the cut graph.

    Args:
        found: What the attributes reach.
        before: The captured network.
        after: The same graph, cut; nodes keep their names.

    Returns:
        New values of attributes that must change.
    """
    wanted = list(_wanted(found, before, after))
    values: dict[Place, int] = {}
    for probe, value in wanted:
        place = next(iter(probe.places))
        if len(probe.places) == 1 and probe.formula({place: -7}) == -7:
            kept = values.setdefault(place, value)
            if kept == int(probe):  # another use asks for a change
                values[place] = value
    for probe, value in wanted:
        missing = [p for p in probe.places if p not in values]
        if len(missing) == 1:
            fits = _solution(probe, missing[0], value, values)
            if fits is not None:
                values[missing[0]] = fits
    olds = {p: probe.formula({}) for probe, _ in wanted for p in probe.places}
    return {p: v for p, v in values.items() if _is_new(p, v, wanted, olds)}


def _is_new(
    place: Place, value: int, wanted: Sequence[tuple[Probe, int]], olds: Mapping[Place, int]
) -> bool:
    for probe, _ in wanted:
        if probe.places == {place} and probe.formula({place: -7}) == -7:
            return value != int(probe)
    return place in olds


def _solution(probe: Probe, place: Place, value: int, known: Mapping[Place, int]) -> int | None:
    """The value at `place` that makes the probe's formula give `value`, the present one first."""
    if probe.formula(known) == value:
        return None
    for trial in range(1, 1 << 16):
        try:
            if probe.formula({**known, place: trial}) == value:
                return trial
        except ZeroDivisionError:
            continue
    return None


def _wanted(
    found: Sequence[Reading], before: Program, after: Program
) -> Iterator[tuple[Probe, int]]:
    """Probes with the value that the cut graph has where they arrive."""
    calls: dict[Key, list[fx.Node]] = defaultdict(list)
    for node in before.graph.nodes:
        if node.op == "call_function" and "torch_fn" in node.meta:
            calls[node.meta["torch_fn"]].append(node)
    for reading in found:
        old: list[Any] = []
        new: list[Any] = []
        for node in calls.get(reading.key, ()):
            here, there = _pair(node, after.nodes[node.name])
            old, new = old + here, new + there
        for position, probe in enumerate(reading.constants):
            if isinstance(probe, Probe):
                value = _at_position(probe, position, reading.constants, old, new)
                if value is not None:
                    yield probe, value


def _pair(node: fx.Node, twin: fx.Node) -> tuple[list[Any], list[Any]]:
    """Constants of a node and of its rewritten twin, position by position."""
    old = list(_constants((node.args, node.kwargs)))
    new = list(_constants((twin.args, twin.kwargs)))
    if len(old) == len(new):
        return old, new
    sizes = next((a for a in twin.args[1:] if isinstance(a, (list, tuple))), [])
    if sizes and all(s == sizes[0] for s in sizes):  # a split in equal parts became one by sizes
        return old[:1], [sizes[0]]
    return [], []


def _at_position(
    probe: Probe, position: int, constants: Sequence[Any], old: list[Any], new: list[Any]
) -> int | None:
    if len(old) == len(constants) and old[position] == int(probe):
        return new[position] if type(new[position]) is int else None
    values = {n for o, n in zip(old, new, strict=True) if type(o) is int and o == int(probe)}
    value = values.pop() if len(values) == 1 else None
    return value if type(value) is int else None


def write(model: nn.Module, values: Mapping[Place, int]) -> None:
    """Set attributes of a network, in place; a shared configuration is copied for its module.

    Args:
        model: The network.
        values: New values.
    """
    for place, value in values.items():
        own = vars(model.get_submodule(place.module))
        first, *rest = place.path
        own[str(first)] = replaced(own[str(first)], rest, value)


def differing(model: nn.Module, other: nn.Module) -> dict[Place, int]:
    """Integers of `other` that differ from those of `model`, both of one class."""
    here, there = dict(_integers(model)), dict(_integers(other))
    return {place: v for place, v in there.items() if here.get(place, v) != v}


def _integers(model: nn.Module) -> Iterator[tuple[Place, int]]:
    for name, module in model.named_modules():
        for attribute in [a for a in vars(module) if a not in _OF_EVERY_MODULE]:
            yield from _integers_in(vars(module)[attribute], Place(name, (attribute,)), 2)


def _integers_in(value: Any, place: Place, depth: int) -> Iterator[tuple[Place, int]]:
    if type(value) is int:
        yield place, value
    elif not depth:
        return
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            yield from _integers_in(inner, _inside(place, i), depth - 1)
    elif type(value) is dict or is_settings(value):
        for key, inner in (value if type(value) is dict else vars(value)).items():
            if isinstance(key, (str, int)):
                yield from _integers_in(inner, _inside(place, key), depth - 1)


def read(model: nn.Module, place: Place) -> int:
    """The integer kept at a place."""
    held: Any = vars(model.get_submodule(place.module))
    for key in place.path:
        if isinstance(held, (list, tuple, dict)):
            inside: Any = held
            held = inside[key]
        else:
            held = vars(held)[str(key)]
    value: int = held
    return value


def replaced(held: Any, path: Sequence[str | int], value: float) -> Any:
    """`held` with one number inside it replaced; every container on the way is a new one."""
    if not path:
        return value
    first, *rest = path
    if isinstance(held, (list, tuple)):
        return type(held)(replaced(v, rest, value) if i == first else v for i, v in enumerate(held))
    if isinstance(held, dict):
        return {k: replaced(v, rest, value) if k == first else v for k, v in held.items()}
    made = copy.copy(held)
    vars(made)[str(first)] = replaced(vars(held)[str(first)], rest, value)
    return made

"""Strict reading of dataclasses from parsed JSON: annotated types, or an error with its place."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

NOT_FINITE = ("nan", "inf", "-inf")  # as floats that JSON does not have are written


class Malformed(ValueError):
    """A value does not have the type that its place asks for."""


def decode(kind: type[T], value: object, place: str) -> T:
    """Build a value of a type from parsed JSON.

    Args:
        kind: A dataclass, or a type its fields use: str, int, float, bool, Literal, `X | None`,
            `tuple[X, ...]`, `dict[str, X]`, `Mapping[str, X]`.
        value: What `json.loads` returned.
        place: Name of the value for the error message.

    Returns:
        The value, lists as tuples.

    Raises:
        Malformed: Of another type, a required field is missing, or a field is unknown.

    Example:
        >>> decode(tuple[int, ...], [1, 2], "numbers")
        (1, 2)
    """
    return cast(T, _reader(kind)(kind, value, place))


def _reader(kind: Any) -> Callable[[Any, Any, str], Any]:
    """The function that reads values of `kind`."""
    if dataclasses.is_dataclass(kind):
        return _dataclass
    by_origin: dict[Any, Callable[[Any, Any, str], Any]] = {
        UnionType: _optional,
        Union: _optional,
        tuple: _tuple,
        Mapping: _mapping,
        dict: _mapping,
        Literal: _literal,
    }
    return by_origin.get(get_origin(kind), _scalar)


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    _require(isinstance(value, dict), place, "an object", value)
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise Malformed(f"{place} has a field {unknown[0]!r} that this version does not know")
    for name, spec in fields.items():
        defaults = (spec.default, spec.default_factory)
        if name not in value and all(default is dataclasses.MISSING for default in defaults):
            raise Malformed(f"{place} lacks its field {name!r}")
    return kind(
        **{name: decode(hints[name], item, f"{place}.{name}") for name, item in value.items()}
    )


def _optional(kind: Any, value: Any, place: str) -> Any:
    if value is None:
        return None
    (inner,) = (arg for arg in get_args(kind) if arg is not NoneType)
    return decode(inner, value, place)


def _tuple(kind: Any, value: Any, place: str) -> Any:
    _require(isinstance(value, (list, tuple)), place, "a list", value)
    inner = get_args(kind)[0]
    return tuple(decode(inner, item, f"{place}[{i}]") for i, item in enumerate(value))


def _mapping(kind: Any, value: Any, place: str) -> Any:
    _require(isinstance(value, dict), place, "an object", value)
    inner = get_args(kind)[1]
    return {name: decode(inner, item, f"{place}[{name!r}]") for name, item in value.items()}


def _literal(kind: Any, value: Any, place: str) -> Any:
    known = get_args(kind)
    _require(value in known, place, f"one of {', '.join(map(repr, known))}", value)
    return value


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(number or value in NOT_FINITE, place, "a number", value)
        _require(not number or abs(value) <= sys.float_info.max, place, "a number in range", value)
        return float(value)
    names = {str: "text", int: "a whole number", bool: "true or false"}
    _require(type(value) is kind, place, names[kind], value)
    return value


def _require(fits: bool, place: str, wanted: str, value: object) -> None:
    if not fits:
        seen = repr(value)
        raise Malformed(
            f"{place} must be {wanted}, got {seen if len(seen) <= 60 else seen[:60] + '...'}"
        )

"""Strategies by short string or as objects."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from penjing.errors import StrategyError

WAYS = ("__call__", "prepare", "elements")  # of a strategy to be asked


def lookup(
    strategy: Any, known: Mapping[str, Any], kind: str, elsewhere: Mapping[str, str] | None = None
) -> Any:
    """The strategy that `strategy` stands for; a class is made with its defaults.

    Args:
        strategy: A name of `known`, "module:thing" from anywhere, or the strategy itself.
        known: Strategies of the family by short name.
        kind: What the family is called, for messages.
        elsewhere: Names by which papers and other tools know something, and what it is here.

    Returns:
        The strategy, callable or with a method `prepare` or `elements`.

    Raises:
        StrategyError: The name is unknown or cannot be imported, or is not a strategy.

    Example:
        >>> lookup("operator:add", {}, "importance")(1, 2)
        3
    """
    by_name = isinstance(strategy, str)
    found = _by_name(strategy, known, kind, elsewhere or {}) if by_name else strategy
    if isinstance(found, type):
        found = _make(found, kind)
    if not any(callable(getattr(found, way, None)) for way in WAYS):
        raise StrategyError(
            f"{strategy!r} is no {kind}: it is a {type(found).__name__}, neither callable nor with "
            "a method `prepare` or `elements`. "
            f"Give one of {_names(known)}, 'module:thing' or an object that fits the protocol"
        )
    return found


def _by_name(name: str, known: Mapping[str, Any], kind: str, elsewhere: Mapping[str, str]) -> Any:
    if name in known:
        return known[name]
    if ":" in name:
        return _imported(name, kind)
    hint = "." if not (other := elsewhere.get(name.lower())) else f": {other}."
    near = difflib.get_close_matches(name.lower(), known, n=1)
    if near and not other:
        hint = f"; did you mean {near[0]!r}?"
    raise StrategyError(
        f"no {kind} is called {name!r}{hint} Known are {_names(known)}; "
        "your own is given as an object or as 'module:thing'"
    )


def _imported(name: str, kind: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise StrategyError(
            f"{kind} {name!r} cannot be imported: {error}; 'module:thing' needs a module on the "
            "path and a name in it"
        ) from error
    return found


def _make(strategy: type, kind: str) -> Any:
    try:
        return strategy()
    except TypeError as error:
        raise StrategyError(
            f"{kind} {strategy.__name__} needs arguments ({error}); give an object of it instead "
            "of the class"
        ) from error


def _names(known: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in sorted(known))

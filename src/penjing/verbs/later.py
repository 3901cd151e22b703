"""Verbs of the design that this version does not have yet: they say so."""

from __future__ import annotations

from typing import Any, NoReturn

from penjing.errors import UnavailableError

LATER = {
    "search": "architecture search",
}
"""Name of the verb -> what it will be, and what serves today."""


class Later:
    """A verb that is not there yet.

    Args:
        name: Name of the verb.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.__doc__ = f"Not in this version: {LATER[name]}."

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Say that the verb comes later.

        Raises:
            UnavailableError: Always.
        """
        raise UnavailableError(
            f"penjing.{self.__name__} is not in this version: {LATER[self.__name__]}"
        )

"""Arguments of the wrong kind, refused in one place before a verb begins.

What an argument must be is said once by its name, which means the same in every verb. Whether a
number lies in its range, or a name is known, is said by what reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from torch import nn

from penjing.codegen.preprocessing import Normalize
from penjing.errors import BudgetError, InputError, PenjingError, StrategyError
from penjing.graph.capture import check_network
from penjing.task import Task, Tasks
from penjing.training.settings import Fit

SEEDS = 2**63  # of which torch's generator takes all
SHOWN = 60  # characters of a value in a message

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Rule:
    """What an argument must be.

    Args:
        fits: Whether a value is of the right kind.
        give: What to give instead, for the message.
        error: What a wrong one raises.
    """

    fits: Callable[[Any], bool]
    give: str
    error: type[PenjingError] = InputError


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_seed(value: Any) -> bool:
    return _is_whole(value) and abs(value) < SEEDS


def _are_teachers(value: Any) -> bool:
    several = isinstance(value, Sequence) and all(isinstance(t, nn.Module) for t in value)
    return isinstance(value, nn.Module) or several or value == "parent"


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Sequence) and all(map(_is_number, value))


def _are_counts(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, Sequence) and all(map(_is_whole, value)))


def _are_shares(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(share) for share in value.values())


NUMBER = Rule(_is_number, "a number")
COUNT = Rule(_is_count, "a whole number, at least 1")
YES_OR_NO = Rule(_of(bool), "True or False")
FOLDER = Rule(_of(str, PathLike), "a path, as text or a Path")
LAYERS = "one or a list of layers, as modules, names, globs or types"

RULES: Mapping[str, Rule] = {
    "ignored_layers": Rule(_of(str, type, nn.Module, Iterable), LAYERS),
    "keep_dense": Rule(_of(str, Iterable), "roles of layers, such as ['first', 'last'], or names"),
    "scope": Rule(_of(Iterable), "a name or several, such as {'inner'}"),
    "train.pruning_ratio": Rule(_is_number, "a share of units, such as 0.5", BudgetError),
    "pruning_ratio_dict": Rule(_of(Mapping), "a dict of layers and shares of units"),
    "weight_bits_dict": Rule(_of(Mapping), "a dict of layers and bits, {'0': 4}"),
    "sparsity_dict": Rule(_are_shares, "a dict of layers and shares of weights, {'0': 0.9}"),
    "constraints": Rule(
        _of(Mapping), "a dict that names what is bounded, such as {'macs': '50%'}", BudgetError
    ),
    "layers": Rule(_of(Mapping), "a dict of layers of the student and of the teacher"),
    "sparsity": Rule(_is_number, "a share of weights in [0, 1), such as 0.5", BudgetError),
    "max_sparsity": Rule(_is_number, "a share of weights in [0, 1), such as 0.99", BudgetError),
    "sparsity_schedule": Rule(
        lambda value: not _is_number(value), "a schedule's name, an object or a dict", StrategyError
    ),
    "transform_fn": Rule(callable, "a function that makes a batch from what calibration yields"),
    "callbacks": Rule(_of(Iterable), "a list of callbacks"),
    "task": Rule(_of(Task), "a Task, as in Task(train=loader, loss=F.cross_entropy)"),
    **dict.fromkeys(
        ("finetune.task", "distill.task", "train.task", "compress.task", "prune.task"),
        Rule(_of(Task, Tasks, Mapping), "a Task, or several of one network in a dict by name"),
    ),
    "teacher": Rule(_are_teachers, 'a network, several in a list, or "parent"'),
    "against": Rule(_of(nn.Module), "a network"),
    "optimizer": Rule(
        lambda value: isinstance(value, str) or callable(value),
        "a name such as 'adamw', a class, or a function of the parameters",
        StrategyError,
    ),
    "exits": Rule(_is_whole, "a whole number, such as 2", StrategyError),
    "r": Rule(_are_counts, "a whole number, or one for every layer in a list", StrategyError),
    "protect": Rule(_is_whole, "0 or 1 tokens at the front, or None", StrategyError),
    "widths": Rule(_are_numbers, "shares in (0, 1], such as (0.5, 1.0)", StrategyError),
    "latency_ms": Rule(_is_number, "milliseconds, such as 1.5", BudgetError),
    "seed": Rule(_is_seed, "a whole number of at most 63 bits", StrategyError),
    "path": FOLDER,
    "out": FOLDER,
    "workdir": FOLDER,
    "preprocessing": Rule(_of(Normalize), "a Normalize"),
    "name": Rule(_of(str), "a name, as text"),
    **dict.fromkeys(
        ("epochs", "accumulate", "n", "threads", "batch", "patience", "samples"), COUNT
    ),
    **dict.fromkeys(
        ("lr", "weight_decay", "warmup", "clip", "minutes", "temperature", "weight"), NUMBER
    ),
    **dict.fromkeys(
        ("inplace", "latency", "tune", "equalization", "bias_correction", "distributed"), YES_OR_NO
    ),
}
"""Name of an argument, of all verbs or after that of one -> what it must be."""

OPTIONAL: Mapping[str, None] = {"pruning_ratio_dict": None}
"""What may be None wherever it is taken, also among the options of a verb."""

NETWORKS = ("model", "student")


def arguments_checked(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb that refuses arguments of the wrong kind before it begins.

    Args:
        verb: A public function.

    Returns:
        The same with a check in front; the signature stays.

    Example:
        >>> @arguments_checked
        ... def wait(minutes: float = 1.0) -> float:
        ...     return minutes
        >>> wait(minutes="two")
        Traceback (most recent call last):
        penjing.errors.InputError: wait: minutes is 'two', a str; give a number
    """
    signature = inspect.signature(verb)
    defaults = {
        **OPTIONAL,
        **{f.name: f.default for f in fields(Fit)},
        **{name: parameter.default for name, parameter in signature.parameters.items()},
    }
    rest = next((n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), "")

    @wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = dict(signature.bind(*args, **kwargs).arguments)
        given.update(given.pop(rest, {}))
        for name, value in given.items():
            optional = defaults.get(name, ...) is None or name == "teacher"
            if value is not None or not optional:
                _check(verb.__name__, name, value)
        return verb(*args, **kwargs)

    return call


def _check(verb: str, name: str, value: Any) -> None:
    """Refuse one argument of the wrong kind.

    Raises:
        PenjingError: It is; of the kind that its rule names.
    """
    if name in NETWORKS and not hasattr(value, "arena_bytes"):  # a compiled program has errors
        check_network(value)
    rule = RULES.get(f"{verb}.{name}", RULES.get(name))
    if rule is not None and not rule.fits(value):
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise rule.error(f"{verb}: {name} is {shown}, a {type(value).__name__}; give {rule.give}")

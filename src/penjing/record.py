"""What a network carries about itself: the plans that were applied and the inputs it takes.

A plain attribute of the module. It survives deep copies, does not enter the state dict, and lets a
pruned network be saved without being told again how it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from penjing.errors import CheckpointError, InputError
from penjing.plan import Plan

ATTRIBUTE = "penjing_record"

_MAX_DEPTH = 16
_MAX_RANK = 16
_MAX_ELEMENTS = 2**30


@dataclass(frozen=True, slots=True)
class Record:
    """Where a network comes from.

    Args:
        example: Description of its example inputs, JSON content made by `describe_example`.
        plans: Plans applied to the dense network, in order.
    """

    example: Any
    plans: tuple[Plan, ...] = ()

    @classmethod
    def of(cls, example_inputs: Any, plans: Iterable[Plan] = ()) -> Self:
        """Describe a network by its example inputs and plans.

        Raises:
            InputError: An input is neither a tensor nor a plain value nor a container of them.
        """
        return cls(describe_example(example_inputs), tuple(plans))

    def example_inputs(self, device: torch.device | str = "cpu") -> Any:
        """Inputs of the described structure, shapes and dtypes, all zeros."""
        return make_example(self.example, device)

    def then(self, plan: Plan) -> Record:
        """The record of the same network after one more plan."""
        return Record(self.example, (*self.plans, plan))


def attach(model: nn.Module, record: Record) -> None:
    """Hang `record` on `model`, in place of an earlier one; deep copies carry it too."""
    setattr(model, ATTRIBUTE, record)
    if isinstance(model, fx.GraphModule):  # whose deep copy keeps no attributes
        model._register_deepcopy_hook(partial(_reattach, record=record))


def remember(result: nn.Module, source: nn.Module, example_inputs: Any, plan: Plan) -> None:
    """Note on `result` that `plan` made it from `source`, which may itself have been cut before.

    Inputs that cannot be described leave `result` without a record: it is then saved with its
    example inputs.

    Args:
        result: The cut network, which gets the record.
        source: The network that was cut; may be `result`.
        example_inputs: Of both.
        plan: What was cut.
    """
    earlier = record_of(source)
    try:
        record = Record.of(example_inputs, earlier.plans if earlier else ())
    except InputError:
        return
    attach(result, record.then(plan))


def record_of(model: nn.Module) -> Record | None:
    """The record that hangs on `model`, if any."""
    record = getattr(model, ATTRIBUTE, None)
    return record if isinstance(record, Record) else None


def _reattach(model: nn.Module, record: Record) -> None:
    attach(model, record)


def describe_example(value: Any) -> Any:
    """Structure, shapes and dtypes of example inputs as JSON content.

    Args:
        value: A tensor, a plain value, or tuples, lists and dicts of them.

    Returns:
        JSON content for `make_example`.

    Raises:
        InputError: Something else is among the inputs.

    Example:
        >>> describe_example((torch.ones(2, 3), None))
        {'tuple': [{'tensor': ['float32', 2, 3]}, {'value': None}]}
    """
    if isinstance(value, Tensor):
        return {"tensor": [str(value.dtype).removeprefix("torch."), *value.shape]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, Mapping):
        return {"dict": {str(k): describe_example(v) for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [describe_example(v) for v in value]}
    raise InputError(
        f"an example input is a {type(value).__name__}; inputs are tensors, plain values, and "
        "tuples, lists and dicts of them"
    )


def make_example(content: Any, device: torch.device | str = "cpu") -> Any:
    """Example inputs from their description, tensors filled with zeros.

    Args:
        content: What `describe_example` returned.
        device: Where the tensors are made.

    Returns:
        The inputs.

    Raises:
        CheckpointError: The content is something else.

    Example:
        >>> make_example({"tensor": ["int64", 2]})
        tensor([0, 0])
    """
    try:
        return _make(content, torch.device(device), 0)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"this does not describe example inputs: {error}") from error


def _make(content: Any, device: torch.device, depth: int) -> Any:
    if not isinstance(content, dict) or len(content) != 1 or depth > _MAX_DEPTH:
        raise ValueError(str(content)[:80])
    kind, value = next(iter(content.items()))
    if kind == "value":
        return value
    if kind == "tensor":
        return _zeros(value, device)
    if kind == "dict":
        return {str(k): _make(v, device, depth + 1) for k, v in value.items()}
    if kind not in {"tuple", "list"}:
        raise ValueError(kind)
    items = [_make(v, device, depth + 1) for v in value]
    return tuple(items) if kind == "tuple" else items


def _zeros(content: Any, device: torch.device) -> Tensor:
    name, *shape = content
    dtype = getattr(torch, name)
    sizes = [int(size) for size in shape]
    elements = 1
    for size in sizes:
        elements *= size
    whole = isinstance(dtype, torch.dtype) and len(sizes) <= _MAX_RANK
    if not whole or min(sizes, default=0) < 0 or elements > _MAX_ELEMENTS:
        raise ValueError(str(content)[:80])
    return torch.zeros(sizes, dtype=dtype, device=device)

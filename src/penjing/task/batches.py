"""Batches and outputs in the shapes people have them.

A batch is inputs alone (a tensor or array), `(inputs, labels)`, `(input, ..., labels)`, a dict with
its labels under "labels" or "label", or a dataclass or named tuple with such a field. Where that
guess is wrong (two inputs without labels), say it in full: `((first, second), None)`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.samples import Dims, count, cut, label_dim

LABEL_NAMES = ("labels", "label")


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """One batch, its labels told apart.

    Args:
        inputs: A tensor, a tuple (positional) or a dict (keywords) of tensors.
        labels: What the loss and the metrics compare with; None when there are none.
        dims: Per flat input the dimension of the batch; empty is 0.
        task: Which of several tasks it is of; empty where there is one.
    """

    inputs: Any
    labels: Any = None
    dims: Dims = ()
    task: str = ""

    @property
    def samples(self) -> int:
        """Number of samples.

        Raises:
            InputError: There is no tensor with a batch dimension among the inputs.
        """
        found = count(pytree.tree_leaves(self.inputs), self.dims)
        if found is None:
            raise InputError(
                f"the batch is {describe(self.inputs)}, in which no tensor has a batch dimension; "
                "give tensors of shape (samples, ...), or a transform_fn that makes them"
            )
        return found

    def part(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`; what has no batch dimension stays whole."""
        leaves, structure = pytree.tree_flatten(self.inputs)
        total = self.samples

        def of_label(leaf: Any) -> Any:
            dim = label_dim(leaf, leaves, self.dims)
            whole = dim is None or leaf.shape[dim] != total
            return leaf if whole else cut([leaf], (dim,), start, stop)[0]

        inputs = pytree.tree_unflatten(cut(leaves, self.dims, start, stop), structure)
        labels = pytree.tree_map(of_label, self.labels)
        return dataclasses.replace(self, inputs=inputs, labels=labels)

    def to(self, device: torch.device) -> Batch:
        """The batch with every tensor on `device`."""

        def move(leaf: Any) -> Any:
            return leaf.to(device) if isinstance(leaf, Tensor) else leaf

        inputs, labels = pytree.tree_map(move, (self.inputs, self.labels))
        return dataclasses.replace(self, inputs=inputs, labels=labels)


def split(batch: Any) -> Batch:
    """Tell inputs and labels apart; arrays become tensors, float64 arrays in torch's default dtype.

    Args:
        batch: One batch in any shape that this module's description names.

    Returns:
        Inputs and labels; the data is shared, not copied.

    Raises:
        InputError: The batch is empty or has no inputs.

    Example:
        >>> split((torch.zeros(2, 3), torch.ones(2))).labels
        tensor([1., 1.])
        >>> sorted(split({"x": 1, "y": 2, "label": 3}).inputs)
        ['x', 'y']
    """
    if isinstance(batch, Batch):
        return batch
    inputs: Any
    if isinstance(batch, Mapping):
        inputs, labels = _by_name(dict(batch))
    elif (fields := _fields(batch)) is not None:
        named, labels = _by_name(fields)
        inputs = tuple(named.values())
    elif isinstance(batch, (tuple, list)):
        *inputs, labels = batch if len(batch) > 1 else (*batch, None)
    else:
        inputs, labels = (batch,), None
    if not inputs:
        raise InputError(f"a batch has no inputs: {describe(batch)}; give (inputs, labels)")
    if not isinstance(inputs, dict):
        inputs = inputs[0] if len(inputs) == 1 else tuple(inputs)
    return Batch(_tensors(inputs), _label_tensor(_tensors(labels)))


def _fields(batch: Any) -> dict[str, Any] | None:
    """Fields of a dataclass, or of a named tuple that has a label field."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    names = getattr(batch, "_fields", ()) if isinstance(batch, tuple) else ()
    return dict(zip(names, batch, strict=True)) if set(names) & set(LABEL_NAMES) else None


def _by_name(fields: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    name = next((name for name in LABEL_NAMES if name in fields), None)
    labels = fields.pop(name) if name else None
    return fields, labels


def _tensors(value: Any) -> Any:
    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, (np.ndarray, np.generic)):
            return leaf
        tensor = torch.as_tensor(leaf)
        return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor

    return pytree.tree_map(convert, value)


def _label_tensor(labels: Any) -> Any:
    numbers = isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], (int, float))
    return torch.tensor(labels) if numbers else labels


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call the network: a dict as keywords, a tuple or list by position, anything else as it is."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def check_call(model: nn.Module, inputs: Any) -> None:
    """Refuse inputs that the network's forward does not take, before it runs.

    Raises:
        InputError: Names or number of the inputs differ from the signature of `forward`.
    """
    try:
        call(inspect.signature(model.forward).bind, inputs)
    except TypeError as error:
        names = sorted(inputs) if isinstance(inputs, Mapping) else describe(inputs)
        raise InputError(
            f"{type(model).__name__}.forward{inspect.signature(model.forward)} does not take the "
            f"inputs of the batch, {names}: {error}. Give Task(transform_fn=...) that returns "
            "(inputs, labels), or Task(forward=...) that calls the model"
        ) from error


def prediction(outputs: Any) -> Any:
    """What the loss and the metrics get: `.logits` or `["logits"]` where there is one."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)


def fresh(data: Any, name: str) -> Iterable[Any]:
    """An iterable that can be read more than once.

    Args:
        data: A loader, a list of batches, a tensor or array (one batch), a dict (one batch), or a
            function without arguments that returns a fresh iterator.
        name: What to call it in errors.

    Returns:
        The iterable; a function is called now.

    Raises:
        InputError: It is a one-shot iterator, a dataset of single samples, or not iterable.
    """
    if isinstance(data, (Tensor, np.ndarray, Mapping)):
        return [data]
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(
        data, torch.utils.data.IterableDataset
    ):
        raise InputError(
            f"{name} is a {type(data).__name__}, which yields single samples; "
            "wrap it: DataLoader(dataset, batch_size=64)"
        )
    if callable(data) and not hasattr(data, "__iter__"):
        return fresh_iterator(data(), name)
    if isinstance(data, Iterator):
        raise InputError(
            f"{name} is a {type(data).__name__} that can be read only once; give a list, a "
            "DataLoader, or a function that returns a fresh iterator"
        )
    return fresh_iterator(data, name)


def fresh_iterator(data: Any, name: str) -> Iterable[Any]:
    """`data` when it can be iterated.

    Raises:
        InputError: It cannot.
    """
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise InputError(
            f"{name} is {describe(data)}, not an iterable of batches; give a DataLoader or a list"
        )
    iterable: Iterable[Any] = data
    return iterable


def describe(value: Any) -> str:
    """Short description: dtype and shape of tensors, types of the rest, in their structure."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(describe(v) for v in value[:8]) + ")"
    return type(value).__name__

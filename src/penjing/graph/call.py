"""One call in a graph: its arguments by schema name, its shapes, and a way to run it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.capture import concrete_shape, concrete_size


@dataclass(frozen=True, slots=True)
class _Signature:
    """What the schema of an ATen overload says; reading it from torch takes long.

    Args:
        name: ATen base name.
        positions: Number of every argument by name.
        defaults: Default of every argument that has one.
        pointwise: Whether torch tags the op as element-wise.
        view: Whether the result may share the storage of an argument, and nothing is written.
    """

    name: str
    positions: Mapping[str, int]
    defaults: Mapping[str, Any]
    pointwise: bool
    view: bool


@cache
def _signature(target: torch._ops.OpOverload) -> _Signature:
    arguments = target._schema.arguments
    return _Signature(
        target._schema.name.split("::")[1],
        {argument.name: position for position, argument in enumerate(arguments)},
        {a.name: a.default_value for a in arguments if a.has_default_value()},
        torch.Tag.pointwise in target.tags,
        any(a.alias_info is not None for a in arguments) and not target._schema.is_mutable,
    )


def op_name(node: fx.Node) -> str:
    """ATen base name: "conv2d" for `aten.conv2d.default`; the Python name for anything else.

    Example:
        >>> graph = fx.Graph()
        >>> op_name(graph.call_function(torch.ops.aten.add.Tensor, (1, 2)))
        'add'
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return _signature(target).name
    return getattr(target, "__name__", str(target))


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch itself tags the op as element-wise."""
    return isinstance(node.target, torch._ops.OpOverload) and _signature(node.target).pointwise


def is_tensor(node: object) -> bool:
    """Whether a node yields one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def output_shapes(node: fx.Node) -> list[tuple[int, ...] | None]:
    """Shapes of a node's outputs at the example's sizes; None for outputs that are no tensors."""
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [concrete_shape(v) if isinstance(v, Tensor) else None for v in values]


def where(node: fx.Node) -> str:
    """The user's source line of a node as `file.py:12`, empty when unknown."""
    trace = node.meta.get("stack_trace") or ""
    innermost = ""
    end = len(trace)
    while (start := trace.rfind('File "', 0, end)) >= 0:
        frame = trace[start:].partition("\n")[0]
        innermost = innermost or frame
        if "/torch/" not in frame:
            return _place(frame)
        end = start
    return _place(innermost)


def _place(frame: str) -> str:
    """`File "/path/file.py", line 12, in forward` -> `file.py:12`; empty for anything else."""
    parts = frame.split('"')
    number = frame.partition("line ")[2].partition(",")[0]
    return f"{parts[1].rsplit('/', 1)[-1]}:{number}" if len(parts) > 1 and number else ""


@dataclass(slots=True, eq=False)
class Draft:
    """What a `Call` reads and writes of a node, in no graph: making a node takes long.

    Args:
        target: An ATen overload.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def update_arg(self, position: int, value: Any) -> None:
        """Replace a positional argument, as `fx.Node` does."""
        self.args = (*self.args[:position], value, *self.args[position + 1 :])

    def update_kwarg(self, name: str, value: Any) -> None:
        """Replace a keyword argument, as `fx.Node` does."""
        self.kwargs[name] = value


class Call:
    """A `call_function` node, read by argument name.

    Args:
        node: The node; its target is an ATen overload.

    Attributes:
        node: The node.
        name: ATen base name.
    """

    __slots__ = ("_tensors", "name", "node")

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        self.name = op_name(node)
        self._tensors: list[fx.Node] | None = None  # asked for several times

    @property
    def _positions(self) -> Mapping[str, int]:
        """Number of every argument by name; none for Python operators, which have no schema."""
        target = self.node.target
        return _signature(target).positions if isinstance(target, torch._ops.OpOverload) else {}

    @property
    def is_view(self) -> bool:
        """Whether the result may share the storage of an argument, in which nothing is written."""
        target = self.node.target
        return isinstance(target, torch._ops.OpOverload) and _signature(target).view

    def has(self, name: str) -> bool:
        """Whether the op has an argument of this name."""
        return name in self._positions

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its schema name, else the schema's default, else `default`."""
        position = self._positions.get(name)
        if position is None:
            return default
        if position < len(self.node.args):
            return self.node.args[position]
        target: Any = self.node.target
        given = self.node.kwargs.get(name, _signature(target).defaults.get(name, default))
        return default if given is None else given

    def set_arg(self, name: str, value: Any) -> None:
        """Replace an argument of the node."""
        position = self._positions[name]
        if position < len(self.node.args):
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)

    @property
    def tensors(self) -> list[fx.Node]:
        """Tensor arguments, each once, in order."""
        if self._tensors is None:
            self._tensors = [n for n in self.node.all_input_nodes if is_tensor(n)]
        return self._tensors

    def run(
        self, values: Callable[[fx.Node], Any], replace: Mapping[fx.Node, Any] | None = None
    ) -> Any:
        """Run the op alone.

        Args:
            values: Value of an argument node.
            replace: Values that take the place of `values`.

        Returns:
            What the op returns.
        """
        swap = replace or {}

        def lookup(argument: fx.Node) -> Any:
            return swap[argument] if argument in swap else values(argument)

        args = [_filled(a, lookup) for a in self.node.args]
        kwargs = {name: _filled(a, lookup) for name, a in self.node.kwargs.items()}
        target: Any = self.node.target
        with torch.no_grad():
            return target(*args, **kwargs)


def _filled(argument: Any, lookup: Callable[[fx.Node], Any]) -> Any:
    """An argument with its nodes replaced by values."""
    if isinstance(argument, (list, tuple)):
        return type(argument)([_filled(a, lookup) for a in argument])
    return lookup(argument) if isinstance(argument, fx.Node) else argument


def size_value(node: fx.Node) -> int | float | bool:
    """Value of a node that is a size or a number, at the example's sizes."""
    value = node.meta["val"]
    if isinstance(value, torch.SymInt):
        return concrete_size(value)
    if isinstance(value, (torch.SymFloat, torch.SymBool)):
        hint: float | bool | None = value.node.hint if value.node.has_hint() else None
        return hint or 0
    number: int | float | bool = value
    return number

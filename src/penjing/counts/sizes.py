"""Shapes at batch one, of a program as it is or of one that is only thought of."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, fx

from penjing.graph.capture import Program, concrete_size, is_free

Shape = Callable[[fx.Node], tuple[int, ...]]
"""Shape of a node's tensor at the sizes of the example."""


class Sizes:
    """Reads shapes of a program and takes the batch out of them.

    The batch is dimension 0 of the inputs where the program leaves it free. Every size that depends
    on it is divided by the batch of the example; a program with fixed sizes is counted per call, as
    it was captured.

    Args:
        program: A captured network; its nodes are the ones that `shape` is asked for.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.batch = batch_of(program)
        self._free = {node: _free_dims(node.meta.get("val")) for node in program.graph.nodes}

    def single(self, node: fx.Node, shape: Shape | None = None) -> tuple[int, ...]:
        """Shape of a node's tensor at batch one.

        Args:
            node: A node with one tensor as its value.
            shape: Shapes at the sizes of the example, for instance after a cut; None reads the
                program's own.

        Returns:
            The sizes.
        """
        sizes = (shape or self.program.shape)(node)
        free = self._free[node]
        if not free or self.batch == 1:
            return sizes
        return tuple(s // self.batch if d in free else s for d, s in enumerate(sizes))

    def outputs(self, node: fx.Node, shape: Shape | None = None) -> list[tuple[int, ...]]:
        """Shapes at batch one of all tensors that a node returns; unread ones at the program's own.

        Args:
            node: A node with a tensor or a sequence of tensors as its value.
            shape: As for `single`.

        Returns:
            One shape per tensor.
        """
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            return [self.single(node, shape)]
        if not isinstance(value, (tuple, list)):
            return []
        readers = {user.args[1]: user for user in node.users if len(user.args) > 1}
        found = []
        for i, item in enumerate(value):
            if i in readers:
                found.append(self.single(readers[i], shape))
            elif isinstance(item, Tensor):
                free = _free_dims(item)
                own = (concrete_size(s) for s in item.shape)
                found.append(tuple(s // self.batch if d in free else s for d, s in enumerate(own)))
        return found

    def numel(self, node: fx.Node, shape: Shape | None = None) -> int:
        """Elements of a node's tensor at batch one."""
        return prod(self.single(node, shape))


def batch_of(program: Program) -> int:
    """Batch of the example where it is free, else 1."""
    if not program.dynamic_batch:
        return 1
    return program.batch


def _free_dims(value: Any) -> frozenset[int]:
    if not isinstance(value, Tensor):
        return frozenset()
    return frozenset(d for d, size in enumerate(value.shape) if is_free(size))

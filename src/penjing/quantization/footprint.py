"""What `save` writes of a quantized network, counted on the one in floats, before or after cuts.

Folding takes norms away and gives layers biases, so the tensors of the file are those of the folded
network. Their sizes after a cut follow from the shapes of the original, whose nodes keep their
names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import fx

from penjing.counts.sizes import Shape
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import TRANSPOSED, channel_dim, is_layer
from penjing.graph.form import identity
from penjing.quantization.packing import bytes_at_most
from penjing.quantization.placement import RECURRENT, Placement

BYTE = 8  # bits of a weight whose bits are not said
_SCALE_BYTES = 4
_GRID_BYTES = 5  # scale and zero point of an activation
_MATRIX = 2

Left = Callable[[str, int], float]
"""Weights that are not zero, at most, by qualified name and elements."""


@dataclass(frozen=True, eq=False)
class Footprint:
    """The tensors that a network will have in integers.

    Args:
        program: The network in floats.
        folded: As it is quantized.
        placement: What of it is held in integers.
    """

    program: Program
    folded: Program
    placement: Placement

    def size_bytes(
        self, present: Program, shape: Shape, bits: Mapping[str, int], left: Left
    ) -> float:
        """Bytes of weights, biases, scales and of what stays in floats, at most.

        Args:
            present: What is left of the network; says which tensors are there.
            shape: Shapes after a cut, by nodes of the original.
            bits: Of weights by qualified name; 8 where there is none.
            left: Weights that are not zero.
        """
        size: float = _GRID_BYTES * len(set(self.placement.groups.values()))
        for tensor in self._tensors:
            if not tensor.is_in(present):
                continue
            sizes = tensor.sizes(shape)
            if tensor.name not in self.placement.weights:
                size += prod(sizes) * self.folded.tensors[tensor.name].itemsize
                continue
            nonzero = left(tensor.name, prod(sizes))
            size += bytes_at_most(prod(sizes), nonzero, bits.get(tensor.name, BYTE))
            size += _SCALE_BYTES * self._scales(tensor, sizes)
        return size

    @cached_property
    def _tensors(self) -> tuple[_Tensor, ...]:
        """Stored tensors of the folded network, tied ones once."""
        once: dict[object, _Tensor] = {}
        for placeholder, fqn in self.folded.stored.items():
            own = self.program.stored.get(placeholder) == fqn
            reader = next(iter(self.folded.nodes[placeholder].users), None)
            tensor = self.folded.tensors[fqn]
            node = self.program.nodes[placeholder] if own else None
            added = None if own or reader is None else self.program.nodes[reader.name]
            dims = len(tensor.shape) if reader is None else self._dims(reader)
            found = _Tensor(fqn, tuple(tensor.shape), dims, node, added)
            once.setdefault(identity(tensor), found)
        return tuple(once.values())

    def _dims(self, reader: fx.Node) -> int:
        """Dimensions of the weight of a layer; those of a matrix for any other op."""
        weight = Call(reader).arg("weight") if is_layer(reader) else None
        return _MATRIX if weight is None else len(self.folded.shape(weight))

    def _scales(self, tensor: _Tensor, sizes: tuple[int, ...]) -> int:
        """Scales of a weight: one per output channel of a layer or row of a recurrent matrix."""
        reader = self.folded.nodes[self.placement.weights[tensor.name]]
        if op_name(reader) in RECURRENT:
            return sizes[0]
        grouped = op_name(reader) in TRANSPOSED and int(Call(reader).arg("groups", 1)) > 1
        return sizes[channel_dim(reader)] if is_layer(reader) and not grouped else 1


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One stored tensor of a folded network.

    Args:
        name: Qualified name.
        whole: Its shape without a cut.
        dims: Dimensions of the weight of the op that reads it.
        node: Its placeholder in the original; None for what folding adds.
        added: For the latter the layer that it was added to, in the original.
    """

    name: str
    whole: tuple[int, ...]
    dims: int
    node: fx.Node | None
    added: fx.Node | None

    def is_in(self, present: Program) -> bool:
        """Whether what is left of a network has it."""
        if self.node is not None:
            return self.node.name in present.stored
        return self.added is not None and self.added.name in present.nodes

    def sizes(self, shape: Shape) -> tuple[int, ...]:
        """Its shape after a cut; what folding adds has a first row per output channel."""
        if self.node is not None:
            return tuple(shape(self.node))
        assert self.added is not None  # `is_in` said so
        out = shape(self.added)
        return (out[len(out) - self.dims + 1], *self.whole[1:])

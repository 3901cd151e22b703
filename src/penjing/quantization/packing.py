"""Integers as they lie in files: without gaps between them, and without zeros where that is less.

few zeros    all integers, packed to their bits
many zeros   those that are not zero, packed, and their places as a bitmap or as gaps
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from penjing.pruning.packing import (
    OVERHEAD,
    described,
    from_description,
    pack,
    unpack,
)
from penjing.pruning.packing import packed_bytes as packed_floats
from penjing.quantization.formats import packed, packed_bytes, stored_bits, unpacked

PLACES = ":places"  # behind the name of a weight whose zeros are left out
_BYTE = 8


@dataclass(frozen=True, eq=False, slots=True)
class Integers:
    """One weight as a file holds it.

    Args:
        values: Packed integers, all of them or those that are not zero.
        places: Of the latter; None for all.
        entry: What is to be known to read them beside bits and shape, as JSON content.
    """

    values: Tensor
    places: Tensor | None
    entry: dict[str, Any]

    @classmethod
    def of(cls, q: Tensor, bits: int) -> Integers:
        """The smaller of both forms.

        Args:
            q: Integers.
            bits: Of each.

        Example:
            >>> import torch
            >>> sparse = torch.nn.functional.one_hot(torch.arange(64), 64).to(torch.int8)
            >>> held = Integers.of(sparse, 4)
            >>> len(held.values), held.entry["encoding"]
            (32, 'gaps')
        """
        form = pack(q, stored_bits(bits))
        if form is None:
            return cls(packed(q, bits), None, {})
        entry = {"encoding": described(form)["encoding"], "count": form.values.numel()}
        return cls(packed(form.values, bits), form.places, entry)

    @property
    def size_bytes(self) -> int:
        """Bytes of values and places, and what a file's header needs for the latter."""
        return self.values.nbytes + (0 if self.places is None else self.places.nbytes + OVERHEAD)


def read(
    values: Tensor, places: Tensor | None, entry: Any, bits: int, shape: tuple[int, ...]
) -> Tensor:
    """The integers that `Integers.of` was given.

    Args:
        values: Of a file, which may be damaged.
        places: Of the same.
        entry: What was said beside them.
        bits: Of each integer.
        shape: Of the weight.

    Returns:
        Integers of this shape.

    Raises:
        CheckpointError: Values and places do not fit together.
        InputError: There are fewer integers than the shape holds.
    """
    if places is None:
        return unpacked(values, bits, shape)
    taken = unpacked(values, bits, (int(entry["count"]),))
    told = {"encoding": entry["encoding"], "shape": list(shape)}
    return unpack(from_description(told, taken, places))


def bytes_at_most(elements: int, nonzero: float, bits: int) -> float:
    """Bytes of a weight of which so many values at most are not zero.

    Args:
        elements: Of the weight.
        nonzero: Values that are not zero, as a number that need not be whole.
        bits: Of each.

    Example:
        >>> bytes_at_most(1000, 1000, 4), bytes_at_most(1000, 100, 4)
        (500, 313.52...)
    """
    thin = packed_floats(elements, math.ceil(nonzero), stored_bits(bits) / _BYTE)
    return min(packed_bytes(elements, bits), thin)

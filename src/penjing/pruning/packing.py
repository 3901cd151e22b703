"""Packing: a tensor with many zeros as its values and where they stand, exactly.

A zero is an element all of whose bits are zero, so that a negative zero and NaN survive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penjing.errors import CheckpointError

SKIP = 255  # a gap byte that moves on by so many places and holds no value
OVERHEAD = 160  # bytes of a file's header that a further tensor costs
MOST = 2**31  # elements of a tensor that may be unpacked
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """One tensor, packed.

    Args:
        encoding: "bitmap" (a bit per place) or "gaps" (a byte per value: zeros before it).
        shape: Of the tensor.
        values: Elements that are not zero, in order.
        places: The bitmap or the gaps, uint8.
    """

    encoding: str
    shape: tuple[int, ...]
    values: Tensor
    places: Tensor

    @property
    def size_bytes(self) -> int:
        """Bytes of values and places, with what a file's header needs for both."""
        return self.values.nbytes + self.places.nbytes + OVERHEAD


def pack(tensor: Tensor, bits: int | None = None) -> Packed | None:
    """The smallest packed form of a tensor; None where the tensor itself is as small.

    Args:
        tensor: Any shape and dtype, on the CPU.
        bits: That a value takes where it is stored; None for those of its dtype.

    Returns:
        Values and places, or None.

    Example:
        >>> packed = pack(torch.nn.functional.one_hot(torch.arange(40), 40).float())
        >>> packed.encoding, len(packed.values)
        ('gaps', 40)
    """
    word = None if tensor.is_complex() else _WORDS.get(tensor.itemsize)
    if word is None or not tensor.numel():
        return None
    flat = tensor.detach().contiguous().flatten()
    taken = flat.view(word) != 0
    values, shape = flat[taken], tuple(tensor.shape)
    forms = (
        Packed("bitmap", shape, values, _bitmap(taken)),
        Packed("gaps", shape, values, _gaps(taken.nonzero()[:, 0])),
    )
    best = min(forms, key=lambda form: form.size_bytes)
    wide = 8 * tensor.itemsize if bits is None else bits
    saved = (tensor.numel() - values.numel()) * wide / 8
    return best if best.places.nbytes + OVERHEAD < saved else None


def packed_bytes(elements: int, nonzero: float, itemsize: float) -> float:
    """Bytes that `pack` needs for a tensor of so many values other than zero, at most.

    Args:
        elements: Of the tensor.
        nonzero: Values that are not zero, as a number that need not be whole.
        itemsize: Bytes of one value; half a byte for 4 bits.

    Example:
        >>> packed_bytes(1000, 1000, 4), packed_bytes(1000, 100, 4)
        (4000, 663.52...)
    """
    gaps = nonzero + (elements - nonzero) / SKIP
    places = min(math.ceil(elements / 8), gaps)
    whole = math.ceil(elements * itemsize)  # values below a byte fill up the last one
    return min(whole, math.ceil(nonzero * itemsize) + places + OVERHEAD)


def unpack(packed: Packed) -> Tensor:
    """The tensor that was packed.

    Args:
        packed: Its packed form, which may come from a damaged file.

    Returns:
        A tensor equal to the original, bit by bit.

    Raises:
        CheckpointError: The parts do not fit together.
    """
    count = math.prod(packed.shape)
    if min(packed.shape, default=0) < 0 or count > MOST:
        raise CheckpointError(f"a packed tensor has the shape {packed.shape}")
    if packed.places.dtype != torch.uint8 or packed.places.dim() != 1 or packed.values.dim() != 1:
        raise CheckpointError("the places of a packed tensor are not bytes")
    places = _places(packed, count)
    fits = len(places) == len(packed.values)
    if not fits or (len(places) and int(places[-1]) >= count):
        raise CheckpointError(
            f"a packed tensor of shape {packed.shape} has {len(packed.values)} values for "
            f"{len(places)} places"
        )
    flat = packed.values.new_zeros(count)
    flat[places] = packed.values
    return flat.view(packed.shape)


def described(packed: Packed) -> dict[str, Any]:
    """What a spec keeps beside values and places."""
    return {"encoding": packed.encoding, "shape": list(packed.shape)}


def from_description(entry: Mapping[str, Any], values: Tensor, places: Tensor) -> Packed:
    """The packed form from a spec's entry and the two tensors."""
    return Packed(
        str(entry["encoding"]), tuple(int(size) for size in entry["shape"]), values, places
    )


def _bitmap(taken: Tensor) -> Tensor:
    padded = torch.zeros(-(-len(taken) // 8) * 8, dtype=torch.uint8)
    padded[: len(taken)] = taken
    return (padded.view(-1, 8) << torch.arange(8)).sum(1).to(torch.uint8)


def _gaps(places: Tensor) -> Tensor:
    gaps = places.diff(prepend=places.new_tensor([-1])) - 1
    skips = gaps // SKIP
    ends = (skips + 1).cumsum(0) - 1
    out = torch.full((int(ends[-1]) + 1 if len(ends) else 0,), SKIP, dtype=torch.uint8)
    out[ends] = (gaps % SKIP).to(torch.uint8)
    return out


def _places(packed: Packed, count: int) -> Tensor:
    if packed.encoding == "bitmap":
        bits = ((packed.places[:, None] >> torch.arange(8)) & 1).flatten()
        if len(packed.places) != -(-count // 8) or bool(bits[count:].any()):
            raise CheckpointError(
                f"the bitmap of a tensor of shape {packed.shape} has another size"
            )
        return bits.nonzero()[:, 0]
    if packed.encoding != "gaps":
        raise CheckpointError(f"a tensor is packed as {packed.encoding[:40]!r}, which is not known")
    steps = packed.places.long()
    return (torch.where(steps == SKIP, SKIP, steps + 1).cumsum(0) - 1)[steps != SKIP]

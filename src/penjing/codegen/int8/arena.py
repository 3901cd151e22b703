"""Where every tensor lies in the one arena.

A kernel that goes through its input from the front may write its output over what it has read: the
output then begins far enough before the input. How far follows from the order in which the kernel
reads and writes (`margin`). Tensors that live at the same time and have no such pair lie apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penjing.codegen.int8.kernels_16 import TILES_16
from penjing.codegen.int8.steps import TILES, Step
from penjing.quantization.integers import BYTE, IntegerNet

ALIGN = 8
_ORDERS = 60  # of placing, of which the best is kept
_SAME_PLACE = frozenset({
    "add", "add_16", "add_lanes", "image", "lookup", "lookup_16", "mean", "mean_16", "mul",
    "mul_16", "rescale", "rescale_16", "softmax", "softmax_16",
})  # fmt: skip
_WINDOWED = frozenset({
    "average", "average_16", "depthwise", "depthwise_16", "depthwise_lanes", "max", "max_16",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arena:
    """A memory plan.

    Args:
        offsets: First byte of every tensor.
        scratch: First byte of the scratch memory of every step, by the name of its layer.
        size_bytes: Of the whole arena.
    """

    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    size: int
    first: int
    last: int


def plan(net: IntegerNet, steps: Sequence[Step]) -> Arena:
    """Place all tensors and scratch memory.

    Args:
        net: The network.
        steps: In the order in which they run.

    Returns:
        The smallest arena of a number of tries, the same in every run.
    """
    blocks = _blocks(net, steps)
    margins = _margins(net, steps, blocks)
    generator = np.random.default_rng(0)
    best: dict[str, int] = {}
    least = math.inf
    by_size = sorted(blocks, key=lambda b: -b.size)
    for attempt in range(_ORDERS):
        order = by_size if attempt == 0 else blocks if attempt == 1 else blocks[::-1]
        if attempt > 2:
            noise = generator.uniform(0.5, 1.0, len(blocks))
            order = [
                blocks[i]
                for i in np.argsort([-b.size * f for b, f in zip(blocks, noise, strict=True)])
            ]
        placed = _place(order, margins)
        size = max(placed[b.name] + b.size for b in blocks)
        if size < least:
            best, least = placed, size
    marks = {f"scratch of {s.layer.name}": s.layer.name for s in steps}
    return Arena(
        {name: at for name, at in best.items() if name not in marks},
        {marks[name]: at for name, at in best.items() if name in marks},
        -(-int(least) // ALIGN) * ALIGN,
    )


def _blocks(net: IntegerNet, steps: Sequence[Step]) -> list[_Block]:
    end = len(steps)
    first = dict.fromkeys(net.inputs, -1)
    last: dict[str, int] = {}
    scratch = []
    for n, step in enumerate(steps):
        first[step.output] = n
        last |= dict.fromkeys(step.reads, n)
        if step.scratch_bytes:
            scratch.append(_Block(f"scratch of {step.layer.name}", step.scratch_bytes, n, n))
    last |= dict.fromkeys(net.outputs, end)
    tensors = [
        _Block(name, net.tensors[name].size_bytes, at, last.get(name, at))
        for name, at in first.items()
    ]
    return tensors + scratch


def _margins(
    net: IntegerNet, steps: Sequence[Step], blocks: Sequence[_Block]
) -> dict[tuple[str, str], int]:
    """(input, output) -> bytes by which the output must begin before the input."""
    last = {b.name: b.last for b in blocks}
    found: dict[tuple[str, str], int] = {}
    for n, step in enumerate(steps):
        for name in dict.fromkeys(step.reads):
            distance = margin(net, step, name) if last.get(name) == n else None
            if distance is not None:
                found[name, step.output] = distance
    return found


def margin(net: IntegerNet, step: Step, name: str) -> int | None:
    """How many bytes the output of a step must begin before an input that it may overwrite.

    Args:
        net: The network.
        step: The step.
        name: One of the tensors that it reads.

    Returns:
        Bytes; negative when the output may even begin behind the input; None when both must lie
        apart, as they must for threads, of which none knows what the others have read.
    """
    if step.parts:
        return None
    wanted = []
    if name == step.residual:
        wanted.append(0)
    if name in step.layer.inputs:
        own = _own_margin(net, step, name)
        if own is None:
            return None
        wanted.append(own)
    return max(wanted)


def _own_margin(net: IntegerNet, step: Step, name: str) -> int | None:
    if step.kernel in _SAME_PLACE:
        same = net.tensors[name].size_bytes == net.tensors[step.output].size_bytes
        return 0 if same or step.layer.kind == "mean" else None
    tiles = {**TILES, **TILES_16}
    if step.kernel in tiles:
        own = step.pitch == 0 and step.add is None  # a fused step writes a tile after it was read
        return _tile_margin(net, step, tiles[step.kernel], writes_while_reading=own)
    if step.frame is not None:  # the input is copied before anything is written
        return -net.tensors[name].size_bytes
    if step.kernel in _WINDOWED:
        return _tile_margin(net, step, 1, writes_while_reading=True)
    return None


def _tile_margin(net: IntegerNet, step: Step, tile: int, *, writes_while_reading: bool) -> int:
    """Largest lead of the writing over the reading, from tile to tile."""
    _, width, channels = net.tensors[step.layer.inputs[0]].shape
    rows, columns, outputs = net.tensors[step.output].shape
    (top, _), (left, _) = step.layer.attributes["padding"]
    down, right = step.layer.attributes["stride"]
    first = np.arange(0, columns, tile)
    y = np.maximum(np.arange(rows) * down - top, 0)[:, None]
    x = np.maximum(first * right - left, 0)[None]
    lowest = ((y * width + x) * channels).reshape(-1)
    ends = np.minimum(first + tile, columns)[None] + np.arange(rows)[:, None] * columns
    written = ends.reshape(-1) * outputs
    ahead = np.minimum.accumulate(lowest[::-1])[::-1]  # lowest that is still read
    source = net.tensors[step.layer.inputs[0]]
    width_bytes = source.bits // BYTE
    if writes_while_reading:
        return int((written - ahead).max()) * width_bytes
    if len(written) == 1:
        return -source.size_bytes
    return int((written[:-1] - ahead[1:]).max()) * width_bytes


def _place(order: Sequence[_Block], margins: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Each block at the lowest place that is free for it."""
    placed: dict[str, int] = {}
    done: list[_Block] = []
    for block in order:
        closed = []
        for other in done:
            if block.first <= other.last and other.first <= block.last:
                closed.append(_closed(block, other, placed[other.name], margins))
        spots = sorted({0, *(_aligned(high) for _, high in closed if high > 0)})
        placed[block.name] = next(s for s in spots if not any(lo < s < hi for lo, hi in closed))
        done.append(block)
    return placed


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN


def _closed(
    block: _Block, other: _Block, at: int, margins: Mapping[tuple[str, str], int]
) -> tuple[int, int]:
    """The open interval in which `block` must not begin while `other` lies at `at`."""
    low, high = at - block.size, at + other.size
    if (other.name, block.name) in margins:  # the block is the output of the other
        low = min(at - margins[other.name, block.name], high)
    elif (block.name, other.name) in margins:  # the block is read and overwritten by the other
        high = max(at + margins[block.name, other.name], low)
    return low, high

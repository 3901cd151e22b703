"""The memory plan: in which order layers run, what is written over what, and where it lies.

A buffer lives from its first writer to its last reader. An output may take over the memory of an
input that dies there, where the kernel allows it. Offsets are found greedily, largest first, from
several starting orders; of several orders of the layers the one with the lowest peak is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penjing.codegen.ir import WIDTHS, Layer
from penjing.codegen.layout import Laid
from penjing.codegen.targets import Target

MAX_REORDERED = 400  # layers; beyond this the greedy schedule would take seconds


@dataclass(frozen=True, slots=True)
class Arena:
    """Where every buffer of the arena lies.

    Args:
        laid: The net, its layers in the order in which they run.
        offsets: Bytes from the start, by name of the buffer; scratch is named after its layer.
        size_bytes: Of the whole.
        heirs: Buffer -> the buffer whose memory it takes over.
        peak: Bytes of the buffers that are alive where most are, by name.
        peak_layer: The layer that runs there.
    """

    laid: Laid
    offsets: Mapping[str, int]
    size_bytes: int
    heirs: Mapping[str, str]
    peak: Mapping[str, int]
    peak_layer: str


@dataclass(slots=True)
class _Span:
    """One piece of memory and when it is in use."""

    name: str
    size: int
    start: int
    end: int


def plan(laid: Laid, target: Target) -> Arena:
    """Find a place for everything in one arena.

    Args:
        laid: A net whose tensors have places inside their buffers.
        target: Alignment, and whether inputs and outputs lie in the arena.

    Returns:
        The plan; its size is exact.
    """
    orders = [list(laid.net.layers)]
    if len(orders[0]) <= MAX_REORDERED:
        orders.append(_greedy(laid, target))
    plans = [_planned(laid, order, target) for order in orders]
    return min(plans, key=lambda found: found.size_bytes)


def _planned(laid: Laid, order: Sequence[Layer], target: Target) -> Arena:
    spans, heirs = _spans(laid, order, target)
    offsets, size = _place(list(spans.values()), target.align)
    for heir in heirs:
        root = heir
        while root in heirs:
            root = heirs[root]
        offsets[heir] = offsets[root]
    busy = _busiest(spans.values(), len(order))
    alive = {s.name: s.size for s in spans.values() if s.start <= busy <= s.end}
    ordered = replace(laid, net=replace(laid.net, layers=tuple(order)))
    name = order[busy].name if order else ""
    return Arena(ordered, offsets, size, heirs, alive, name)


def buffers_of(laid: Laid, layer: Layer) -> tuple[list[str], list[str]]:
    """Buffers that a layer reads and writes, constants included."""
    skipped = laid.placed.get(layer.name, frozenset())
    reads = [laid.lays[n].buffer for n in layer.inputs if n not in skipped]
    writes = [laid.lays[n].buffer for n in layer.outputs]
    return list(dict.fromkeys(reads)), list(dict.fromkeys(writes))


def in_arena(laid: Laid, name: str, target: Target) -> bool:
    """Whether a buffer lies in the arena."""
    home = laid.buffers[name].home
    return home == "arena" or (target.io_in_arena and home in {"input", "output"})


def _lifetimes(laid: Laid, order: Sequence[Layer], target: Target) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for step, layer in enumerate(order):
        reads, writes = buffers_of(laid, layer)
        for name in (*reads, *writes):
            first, _ = found.get(name, (step, step))
            found[name] = (first, step)
    for name, buffer in laid.buffers.items():
        if buffer.home == "input" and target.io_in_arena:
            found[name] = (0, found.get(name, (0, 0))[1])
        elif buffer.home == "output" and target.io_in_arena:
            found[name] = (found[name][0], len(order))
    return {name: span for name, span in found.items() if in_arena(laid, name, target)}


def _spans(
    laid: Laid, order: Sequence[Layer], target: Target
) -> tuple[dict[str, _Span], dict[str, str]]:
    """Memory in use over time, and what is written over what."""
    lives = _lifetimes(laid, order, target)
    spans = {
        name: _Span(name, _bytes(laid, name), start, end) for name, (start, end) in lives.items()
    }
    heirs: dict[str, str] = {}
    for step, layer in enumerate(order):
        scratch = laid.needs[layer.name].scratch_bytes
        if scratch:
            spans[f"{layer.name}:scratch"] = _Span(f"{layer.name}:scratch", scratch, step, step)
        taken = _overwritten(laid, layer, step, spans, heirs)
        if taken is not None:
            heir, old = taken
            heirs[heir] = old
            while old in heirs:
                old = heirs[old]
            spans[old].end = max(spans[old].end, spans.pop(heir).end)
    return spans, heirs


def _overwritten(
    laid: Laid, layer: Layer, step: int, spans: Mapping[str, _Span], heirs: Mapping[str, str]
) -> tuple[str, str] | None:
    """(buffer of the output, buffer of the input that it may be written over)."""
    output = laid.lays[layer.outputs[0]]
    mine = output.buffer
    if mine not in spans or spans[mine].start != step or laid.buffers[mine].home != "arena":
        return None
    for position in laid.needs[layer.name].overwrites:
        other = laid.lays[layer.inputs[position]]
        root = other.buffer
        while root in heirs:
            root = heirs[root]
        names = [laid.lays[n].buffer for i, n in enumerate(layer.inputs) if i != position]
        same = (output.offset, output.strides, output.border) == (
            other.offset,
            other.strides,
            other.border,
        )
        sizes = laid.buffers[mine], laid.buffers[other.buffer]
        if (
            same
            and root in spans
            and spans[root].end == step
            and sizes[0].elements <= sizes[1].elements
            and sizes[0].dtype == sizes[1].dtype
            and laid.buffers[root].home == "arena"
            and not any(_root(n, heirs) == root for n in names)
        ):
            return mine, other.buffer
    return None


def _root(name: str, heirs: Mapping[str, str]) -> str:
    while name in heirs:
        name = heirs[name]
    return name


def _bytes(laid: Laid, name: str) -> int:
    buffer = laid.buffers[name]
    return buffer.elements * WIDTHS[buffer.dtype]


def _place(spans: list[_Span], align: int) -> tuple[dict[str, int], int]:
    """Offsets of spans of which no two may overlap in both time and place."""
    best: tuple[dict[str, int], int] | None = None
    keys = (
        lambda s: (-s.size, s.start),
        lambda s: (s.start, -s.size),
        lambda s: (-(s.size * (s.end - s.start + 1)), s.start),
        lambda s: (-(s.end - s.start), -s.size),
    )
    for key in keys:
        offsets, size = _place_in(sorted(spans, key=key), align)
        if best is None or size < best[1]:
            best = offsets, size
    assert best is not None  # there are keys
    return best


def _place_in(spans: Sequence[_Span], align: int) -> tuple[dict[str, int], int]:
    offsets: dict[str, int] = {}
    done: list[tuple[int, _Span]] = []
    size = 0
    for span in spans:
        at = 0
        for offset, other in sorted(done, key=lambda pair: pair[0]):
            if other.start > span.end or other.end < span.start:
                continue
            if offset - at >= span.size:
                break
            at = max(at, -(-(offset + other.size) // align) * align)
        offsets[span.name] = at
        done.append((at, span))
        size = max(size, at + span.size)
    return offsets, size


def _busiest(spans: object, steps: int) -> int:
    change = [0] * (steps + 2)
    for span in spans:  # type: ignore[attr-defined] # values of a dict
        change[span.start] += span.size
        change[min(span.end, steps) + 1] -= span.size
    best, at, live = -1, 0, 0
    for step in range(max(steps, 1)):
        live += change[step]
        if live > best:
            best, at = live, step
    return at


def _greedy(laid: Laid, target: Target) -> list[Layer]:
    """Of the layers that can run next, always the one that leaves the least alive."""
    layers = list(laid.net.layers)
    touched = {layer.name: buffers_of(laid, layer) for layer in layers}
    before = _dependencies(laid, layers, touched)
    uses: dict[str, int] = {}
    for reads, writes in touched.values():
        for name in {*reads, *writes}:
            uses[name] = uses.get(name, 0) + 1
    order: list[Layer] = []
    done: set[str] = set()
    born: set[str] = set()

    def growth(layer: Layer) -> int:
        reads, writes = touched[layer.name]
        new = [n for n in writes if n not in born]
        dead = [n for n in {*reads, *writes} if uses[n] == 1]
        total = sum(_bytes(laid, n) for n in new if in_arena(laid, n, target))
        return total - sum(_bytes(laid, n) for n in dead if in_arena(laid, n, target))

    waiting = layers
    while waiting:
        ready = [layer for layer in waiting if before[layer.name] <= done]
        chosen = min(ready, key=growth)  # the first of several, so that the given order stays
        order.append(chosen)
        done.add(chosen.name)
        waiting = [layer for layer in waiting if layer is not chosen]
        reads, writes = touched[chosen.name]
        born.update(writes)
        for name in {*reads, *writes}:
            uses[name] -= 1
    return order


def _dependencies(
    laid: Laid, layers: Sequence[Layer], touched: Mapping[str, tuple[list[str], list[str]]]
) -> dict[str, set[str]]:
    """Layers that must run before each: all that wrote what it reads; states are written last."""
    states = {name for name, b in laid.buffers.items() if b.home == "state"}
    writers: dict[str, list[str]] = {}
    for layer in layers:
        for name in touched[layer.name][1]:
            writers.setdefault(name, []).append(layer.name)
    before: dict[str, set[str]] = {}
    position = {layer.name: i for i, layer in enumerate(layers)}
    for layer in layers:
        reads, writes = touched[layer.name]
        needed = {w for name in reads for w in writers.get(name, ()) if w != layer.name}
        needed = {w for w in needed if position[w] < position[layer.name]}
        if states & set(writes):
            needed |= {other.name for other in layers[: position[layer.name]]}
        before[layer.name] = needed
    return before

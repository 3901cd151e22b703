"""Streaming: samples pass through programs in lockstep; only what is still needed is kept.

Between two stops every held sample is represented by its liveness frontier: the values that a later
node reads. How many samples are held is a question of memory at each stop. Where maps shrink, more
samples are run from the inputs through the prefix as it is then, so that each sample passes each
layer once and nothing is ever written to disk.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from penjing.errors import InputError
from penjing.graph.capture import Example, Program

MEGABYTE = 2**20
CHUNK = 50  # samples run together: large enough for the BLAS, small beside what is held
HELD_CHUNKS = 5  # at least so many pieces, so that one in five can be held out
TRANSIENT_SHARE = 0.25  # of the memory that the one chunk in motion may take
PROBE = 2  # samples of the run that measures the frontier


class Samples(Protocol):
    """Calibration data as this module needs it."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        ...

    def batches(self, size: int) -> Iterator[Example]:
        """Inputs in batches of `size` samples, always in the same order."""
        ...


@dataclass(eq=False)
class Chunk:
    """A few samples on their way through the programs.

    Args:
        index: Position among all chunks; the same samples for the same index.
        samples: Number of samples in it.
        values: Per program the live values by node name.
    """

    index: int
    samples: int
    values: tuple[dict[str, Any], ...]


@dataclass(eq=False)
class Stream:
    """Programs with the same node names, run side by side up to one stop after the other.

    A node of a later program that computes the same as in the first is run once and shared.

    Args:
        programs: The first is the reference; the others differ from it in tensors and constants
            alone.
        samples: Calibration data.
        memory_mb: Bound on the held frontier and the chunk in motion, in MiB; Gram matrices come on
            top.
        changing: Nodes of the later programs whose stored tensors the caller will replace while
            streaming.
        reads: Nodes whose values the caller reads at a stop, beside what the stop itself reads.
    """

    programs: Sequence[Program]
    samples: Samples
    memory_mb: float = 2048
    changing: Iterable[str] = ()
    reads: Mapping[str, Collection[str]] = field(default_factory=dict)
    chunks: list[Chunk] = field(init=False, default_factory=list)
    peak_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._order = list(self.programs[0].nodes)
        self.place = {name: i for i, name in enumerate(self._order)}
        self._dying = _dying(self.programs, self.place, self.reads)
        self._bound = [_stored_values(program) for program in self.programs]
        self._own = [
            set(self._order),
            *(differing(self.programs[0], p, self.changing) for p in self.programs[1:]),
        ]
        self._constants: list[dict[str, Any]] = []
        for program in range(len(self.programs)):
            self._constants.append(self._evaluate_constants(program))
        self._at = 0
        with torch.no_grad():
            self._frontier = self._probe()
        self._batches = self._split()

    @property
    def held(self) -> int:
        """Samples held at the present stop."""
        return sum(chunk.samples for chunk in self.chunks)

    def replace(self, program: int, tensors: Mapping[str, Tensor]) -> None:
        """Use other values for stored tensors of one program from here on."""
        for name, fqn in self.programs[program].stored.items():
            if fqn in tensors:
                self._bound[program][name] = tensors[fqn]
        unknown = sorted(set(tensors) - set(self.programs[program].stored.values()))
        if unknown:
            raise KeyError(f"the program has no tensors called {unknown[:5]}")

    @torch.no_grad()
    def advance(self, stop: str) -> list[Chunk]:
        """Compute everything before node `stop` for as many samples as memory allows there.

        Args:
            stop: Name of a node at or behind the present stop.

        Returns:
            The held chunks, whose `values` hold what `stop` and later nodes read.
        """
        place = self.place[stop]
        keep = self._affordable(place)
        del self.chunks[keep:]
        for chunk in self.chunks:
            self._run(chunk, self._at, place)
        for index in range(len(self.chunks), keep):
            chunk = self._enter(index, self._batches[index])
            self._run(chunk, 0, place)
            self.chunks.append(chunk)
        self._at = place
        return self.chunks

    def value(self, chunk: Chunk, name: str, program: int = 0) -> Any:
        """The value of a node: a live one, or `stop` itself, which is then computed."""
        owner = program if name in self._own[program] else 0
        for known in (chunk.values[owner], self._constants[owner], self._bound[owner]):
            if name in known:
                return known[name]
        with torch.no_grad():
            value = self._compute(chunk, owner, self.programs[owner].nodes[name])
        chunk.values[owner][name] = value
        return value

    @torch.no_grad()
    def fresh(self, chunk: Chunk, name: str, program: int = 0) -> Any:
        """The value of a node that may change at this stop: computed, and not kept."""
        owner = program if name in self._own[program] else 0
        return self._compute(chunk, owner, self.programs[owner].nodes[name])

    def _run(self, chunk: Chunk, start: int, stop: int) -> None:
        """Run one chunk through the nodes in [start, stop) and free what is dead."""
        for place in range(start, stop):
            self._visit(chunk, place)
            self._free(chunk, place)

    def _visit(self, chunk: Chunk, place: int) -> None:
        """Compute one node in every program that has its own."""
        name = self._order[place]
        for program, own in enumerate(self._own):
            if name in own and name not in self._constants[program]:
                self.value(chunk, name, program)

    def _free(self, chunk: Chunk, place: int) -> None:
        """Forget what only nodes up to `place` read."""
        for name in self._dying.get(place, ()):
            for values in chunk.values:
                values.pop(name, None)

    def _compute(self, chunk: Chunk, program: int, node: fx.Node) -> Any:
        return evaluate(self.programs[program], node, lambda n: self.value(chunk, n.name, program))

    def _enter(self, index: int, flat: list[Any]) -> Chunk:
        """A chunk of samples before the first node."""
        device = next((t.device for t in self.programs[0].tensors.values()), torch.device("cpu"))
        moved = [v.to(device) if isinstance(v, Tensor) else v for v in flat]
        count = self.programs[0].samples(moved)
        given: dict[str, Any] = dict(zip(self.programs[0].inputs, moved, strict=True))
        return Chunk(index, count, (given, *({} for _ in self.programs[1:])))

    def _evaluate_constants(self, program: int) -> dict[str, Any]:
        """Values that depend on no input, by node name, without those shared with the first."""
        shared = self._constants[0] if program else {}
        known: dict[str, Any] = {}
        values = ChainMap(known, self._bound[program], shared)
        fixed = set(self._bound[program])
        for node in self.programs[program].graph.nodes:
            if node.op in {"call_function", "get_attr"} and all(
                n.name in fixed for n in node.all_input_nodes
            ):
                fixed.add(node.name)
                if node.name in self._own[program]:
                    known[node.name] = evaluate(
                        self.programs[program], node, lambda n: values[n.name]
                    )
        return known

    def _probe(self) -> list[float]:
        """Bytes per sample that are live while a node runs, measured with a few samples."""
        program = self.programs[0]
        few = next(self._flat(PROBE), None) if program.dynamic_batch else None
        chunk = self._enter(0, list(program.example) if few is None else few)
        given = {_storage(v) for v in chunk.values[0].values() if isinstance(v, Tensor)}
        live = []
        for place, _ in enumerate(self._order):
            self._visit(chunk, place)
            live.append(_bytes(chunk.values, given) / chunk.samples)
            self._free(chunk, place)
        return live

    def _flat(self, size: int) -> Iterator[list[Any]]:
        """Flat inputs of `size` samples each."""
        for batch in self.samples.batches(size):
            yield self.programs[0].flatten_inputs(batch)

    def _split(self) -> list[list[Any]]:
        """All samples as flat inputs of one chunk each."""
        program = self.programs[0]
        if program.dynamic_batch:
            fits = int(self.memory_mb * MEGABYTE * TRANSIENT_SHARE / max(max(self._frontier), 1.0))
            self.chunk_size = max(1, min(CHUNK, fits, self.samples.samples // HELD_CHUNKS))
        else:
            self.chunk_size = program.batch
        batches = list(self._flat(self.chunk_size))
        if not program.dynamic_batch:
            wanted = [v.shape for v in program.example if isinstance(v, Tensor)]
            batches = [
                b for b in batches if [v.shape for v in b if isinstance(v, Tensor)] == wanted
            ]
        if not batches:
            raise InputError(
                f"the network has a fixed batch of {self.chunk_size} and the calibration data has "
                f"{self.samples.samples} samples; give at least one batch of that size"
            )
        return batches

    def _affordable(self, place: int) -> int:
        """How many chunks may be held at a stop; notes the peak."""
        moving = self.chunk_size * max(self._frontier[: place + 1])
        free = self.memory_mb * MEGABYTE - moving
        each = self._frontier[place] * self.chunk_size
        keep = len(self._batches) if each <= 0 else int(free / each)
        keep = max(1, min(keep, len(self._batches)))
        self.peak_bytes = max(self.peak_bytes, int(moving + keep * each))
        return keep


def evaluate(program: Program, node: fx.Node, look: Any) -> Any:
    """Value of one node of a program.

    Args:
        program: It stands in.
        node: Which.
        look: Gives the value of an argument node.

    Returns:
        What the node returns.
    """
    if node.op == "get_attr":
        found: Any = program.graph_module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found
    args = fx.node.map_arg(node.args, look)
    if node.op == "output":
        return args[0]
    kwargs = fx.node.map_arg(node.kwargs, look)
    return node.target(*args, **kwargs)  # type: ignore[operator] # an ATen op or an operator function


def _stored_values(program: Program) -> dict[str, Any]:
    """Stored tensors by placeholder name."""
    return {name: program.tensors[fqn] for name, fqn in program.stored.items()}


def _dying(
    programs: Sequence[Program], place: Mapping[str, int], reads: Mapping[str, Collection[str]]
) -> dict[int, list[str]]:
    """By place the nodes that no program reads behind it; a later program may read one longer."""
    last = dict(place)
    for program in programs:
        for node in program.graph.nodes:
            if node.name in place:
                last[node.name] = max([last[node.name], *_readers(node, place)])
    for stop, names in reads.items():
        for name in names:
            last[name] = max(last[name], place[stop])
    found: dict[int, list[str]] = {}
    for name, end in last.items():
        found.setdefault(end, []).append(name)
    return found


def _readers(node: fx.Node, place: Mapping[str, int]) -> Iterator[int]:
    """Where a node is read, through sizes that are computed for a cut network alone too."""
    for user in node.users:
        if user.name in place:
            yield place[user.name]
        else:
            yield from _readers(user, place)


def differing(first: Program, other: Program, changing: Iterable[str] = ()) -> set[str]:
    """Nodes of `other` that compute something else than in `first`, or will.

    Args:
        first: The reference.
        other: A program with the same node names, and sizes of its own.
        changing: Nodes whose stored tensors will be replaced.

    Returns:
        Names of nodes, stored tensors included.
    """
    differ = {
        n.name
        for name in changing
        for n in other.nodes[name].all_input_nodes
        if n.name in other.stored
    }
    for node in other.graph.nodes:
        if node.name in other.stored:
            mine, theirs = (
                other.tensors[other.stored[node.name]],
                first.tensors[first.stored[node.name]],
            )
            if mine.shape != theirs.shape or not torch.equal(mine, theirs):
                differ.add(node.name)
        elif any(n.name in differ for n in node.all_input_nodes) or (
            node.name not in first.nodes or _written(node) != _written(first.nodes[node.name])
        ):
            differ.add(node.name)
    return differ


def _written(node: fx.Node) -> str:
    """Arguments of a node with other nodes as names."""
    return repr((node.target, node.args, node.kwargs))


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _bytes(values: Iterable[Mapping[str, Any]], given: set[int]) -> int:
    """Bytes of the storages behind all values, each counted once, without those in `given`."""
    sizes: dict[int, int] = {}
    for mapping in values:
        for value in mapping.values():
            for leaf in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(leaf, Tensor) and _storage(leaf) not in given:
                    sizes[_storage(leaf)] = leaf.untyped_storage().nbytes()
    return sum(sizes.values())

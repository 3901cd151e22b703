"""Units that no layer reads, such as the dimensions of queries and keys: judged by what follows.

There is no weight whose columns they are, so there is nothing to compensate with and no Gram
matrix to ask. What their loss does is tried out: outputs of the layers that make them are changed,
the network is replayed from there up to the next layer that answers, and the difference is
measured where optimal brain surgery measures its own.

Suffixes: E = dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from penjing.graph.capture import Program
from penjing.plan import Group
from penjing.pruning.importance.curves import curve_through
from penjing.statistics.attention import Head, Product, Scores
from penjing.statistics.grams import Layer
from penjing.statistics.outlets import Outlet
from penjing.statistics.stream import Samples, evaluate

SAMPLES = 96  # replayed; relative errors of whole groups settle long before
AT_ONCE = 16  # samples in one run
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # of the units gone, tried out
TINY = 1e-30

Order = tuple[Tensor, Tensor, str]
"""Units in the order of removal, the error curve, and how they were judged."""


@dataclass(eq=False, slots=True)
class Trial:
    """One group to be tried out.

    Args:
        group: Its name.
        units: Number of units.
        columns: Per layer node the output columns of every unit.
        product: The attention whose scores the units are; None where they are something else.
        stop: Node where the difference is measured.
        replay: Nodes to run again, in order.
        scores: Sums per head of the product.
        energy: Sum of squares per layer and unit.
    """

    group: str
    units: int
    columns: dict[str, Tensor]
    product: Product | None
    stop: str
    replay: tuple[str, ...]
    scores: list[tuple[Head, Scores]] = field(default_factory=list)
    energy: dict[str, Tensor] = field(default_factory=dict)

    def look(self, values: Mapping[str, Tensor]) -> None:
        """Note what the layers put out."""
        if self.product is not None:
            for head, sums in self.scores:
                sums.add(head, values[self.product.query.node], values[self.product.key.node])
            return
        for node, columns in self.columns.items():
            squares = values[node].double().square().flatten(0, -2).sum(0)
            self.energy[node] = self.energy.get(node, 0.0) + squares[columns].sum(1)

    def order(self) -> Tensor:
        """Units by what they alone contribute, least first."""
        if self.product is None:
            parts = [e / e.sum().clamp_min(TINY) for e in self.energy.values()]
            return torch.stack(parts).log().sum(0).argsort(stable=True)
        found = torch.zeros(self.units, dtype=torch.float64)
        for head, sums in self.scores:
            energy = sums.energy(self.product.centred)
            for columns in self.columns[self.product.key.node].T.tolist():
                at = {c: i for i, c in enumerate(head.keys)}
                for unit, column in enumerate(columns):
                    found[unit] += energy[at[column]] if column in at else 0.0
        return found.argsort(stable=True)

    def changed(self, values: Mapping[str, Tensor], gone: Tensor) -> dict[str, Tensor]:
        """Outputs of the layers without some units."""
        if self.product is None:
            return {
                node: values[node].index_fill(-1, columns[gone].flatten(), 0.0)
                for node, columns in self.columns.items()
            }
        node = self.product.query.node
        new = values[node].clone()
        lost = len(gone) / self.units
        for head, sums in self.scores:
            kept = max(len(head.keys) - round(lost * len(head.keys)), 1)
            query_ER, key_ER, _ = sums.basis(kept, self.product.centred)
            through = (query_ER @ key_ER.mT).to(new.dtype)
            for columns in head.queries:
                new[..., list(columns)] = values[node][..., list(columns)] @ through
        return {node: new}


def trials(
    program: Program,
    layers: Mapping[str, Layer],
    outlets: Mapping[str, Outlet],
    found: Sequence[Product],
    groups: Sequence[Group],
) -> list[Trial]:
    """What can be tried out: groups whose units are outputs of linear layers and are felt later.

    Args:
        program: Captured network.
        layers: Its layers by node name.
        outlets: What follows each.
        found: Its attention scores.
        groups: Groups that no layer reads.

    Returns:
        One entry per group that qualifies.
    """
    made = (_trial(program, layers, outlets, found, group) for group in groups)
    return [trial for trial in made if trial is not None]


def _trial(
    program: Program,
    layers: Mapping[str, Layer],
    outlets: Mapping[str, Outlet],
    found: Sequence[Product],
    group: Group,
) -> Trial | None:
    columns: dict[str, Tensor] = {}
    for layer in layers.values():
        if layer.kernel:
            continue
        for piece in group.slices:
            if piece.tensor == layer.weight and piece.dim != layer.input_dim:
                columns[layer.node] = torch.tensor(
                    [piece.positions(unit) for unit in range(group.units)]
                )
    if not columns:
        return None
    stop, replay = _path(program, layers, outlets, set(columns))
    if not stop:
        return None
    product = next((p for p in found if _owns(p, columns)), None)
    trial = Trial(group.name, group.units, columns, product, stop, replay)
    if product is not None:
        trial.scores = [(head, Scores.zeros(len(head.keys))) for head in product.heads]
    return trial


def _owns(product: Product, columns: Mapping[str, Tensor]) -> bool:
    """Whether a group's units are dimensions of these scores, each in every head."""
    if set(columns) != {product.query.node, product.key.node}:
        return False
    keys = {c for head in product.heads for c in head.keys}
    queries = {c for head in product.heads for q in head.queries for c in q}
    mine = {node: set(c.flatten().tolist()) for node, c in columns.items()}
    if product.query.node == product.key.node:
        return mine[product.key.node] == keys | queries
    return mine[product.key.node] == keys and mine[product.query.node] == queries


def _path(
    program: Program,
    layers: Mapping[str, Layer],
    outlets: Mapping[str, Outlet],
    starts: set[str],
) -> tuple[str, tuple[str, ...]]:
    """Where the next layer behind all starts answers, and the nodes from the starts to there."""
    touched, ahead = set(starts), set(starts)
    stop = ""
    for node in program.graph.nodes:
        ahead.discard(node.name)
        if node.name in starts or not any(n.name in touched for n in node.all_input_nodes):
            continue
        if node.op == "output":
            break
        touched.add(node.name)
        if not stop and not ahead and node.name in layers:
            stop = outlets[node.name].add or node.name
        if node.name == stop:
            break
    if not stop:
        return "", ()
    needed = {stop}
    replay: list[str] = []
    for node in reversed(list(program.graph.nodes)):
        if node.name in needed & touched and node.name not in starts:
            replay.append(node.name)
            needed |= {n.name for n in node.all_input_nodes}
    return stop, tuple(reversed(replay))


@torch.no_grad()
def tried(program: Program, calibration: Samples, todo: Sequence[Trial]) -> dict[str, Order]:
    """Try groups out.

    Args:
        program: Captured network.
        calibration: Unlabelled samples.
        todo: What to try.

    Returns:
        Per group its order, error curve, and how it was judged.
    """
    if not todo:
        return {}
    starts: dict[str, list[Trial]] = {}
    stops: dict[str, list[Trial]] = {}
    place = {name: i for i, name in enumerate(program.nodes)}
    for trial in todo:
        starts.setdefault(max(trial.columns, key=lambda n: place[n]), []).append(trial)
        stops.setdefault(trial.stop, []).append(trial)
    for node, values in _runs(program, calibration, todo):
        for trial in starts.get(node, ()):
            trial.look(values)
    orders = {trial.group: trial.order() for trial in todo}
    counts = {t.group: sorted({round(s * t.units) for s in SHARES} - {0, t.units}) for t in todo}
    wrong = {t.group: torch.zeros(len(counts[t.group]), dtype=torch.float64) for t in todo}
    energy = dict.fromkeys(orders, TINY)
    for node, values in _runs(program, calibration, todo):
        for trial in stops.get(node, ()):
            energy[trial.group] += float(values[node].double().square().sum())
            for number, count in enumerate(counts[trial.group]):
                new = trial.changed(values, orders[trial.group][:count])
                moved = _replayed(program, values, new, trial) - values[node]
                wrong[trial.group][number] += float(moved.double().square().sum())
    return {
        t.group: (
            orders[t.group],
            curve_through(counts[t.group], wrong[t.group] / energy[t.group], t.units),
            "" if t.product else "no layer reads these units; tried out by leaving them away",
        )
        for t in todo
    }


def _replayed(
    program: Program, values: Mapping[str, Any], new: Mapping[str, Tensor], trial: Trial
) -> Tensor:
    """Value at the trial's stop when some layers put out something else."""
    own: dict[str, Any] = dict(new)

    def look(node: Any) -> Any:
        return own[node.name] if node.name in own else values[node.name]

    for name in trial.replay:
        own[name] = evaluate(program, program.nodes[name], look)
    result: Tensor = own[trial.stop]
    return result


def _runs(
    program: Program, calibration: Samples, todo: Sequence[Trial]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the network on a few samples; yields every node with what is still needed."""
    place = {name: i for i, name in enumerate(program.nodes)}
    until = {
        n.name: max([place[u.name] for u in n.users], default=place[n.name])
        for n in program.graph.nodes
    }
    for trial in todo:
        held = {a.name for name in trial.replay for a in program.nodes[name].all_input_nodes}
        for name in {*held, *trial.columns}:
            until[name] = max(until[name], place[trial.stop])
    dying: dict[int, list[str]] = {}
    for name, end in until.items():
        dying.setdefault(end, []).append(name)
    size = AT_ONCE if program.dynamic_batch else program.batch
    seen = 0
    for batch in calibration.batches(size):
        flat = program.flatten_inputs(batch)
        count = program.samples(flat)
        if seen >= SAMPLES or (count < size and not program.dynamic_batch):
            return
        seen += count
        yield from _one_run(program, flat, dying)


def _one_run(
    program: Program, flat: list[Any], dying: Mapping[int, Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    device = next((t.device for t in program.tensors.values()), torch.device("cpu"))
    values = program.bind([v.to(device) if isinstance(v, Tensor) else v for v in flat])
    look: Callable[[Any], Any] = lambda node: values[node.name]  # noqa: E731 - closes over one run
    for number, node in enumerate(program.graph.nodes):
        if node.op in {"call_function", "get_attr"}:
            values[node.name] = evaluate(program, node, look)
        if node.op == "call_function":
            yield node.name, values
        for name in dying.get(number, ()):
            values.pop(name, None)

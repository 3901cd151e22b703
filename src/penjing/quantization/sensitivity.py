"""Sensitivity: what the outputs lose through each layer that runs in integers.

One walk over the network serves every layer: where a layer comes, the values so far are forked, the
layer is computed the other way, and only what follows is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from penjing.figures import SensitivityFigures
from penjing.graph.call import op_name
from penjing.graph.capture import Program
from penjing.graph.folding import is_layer, stored_names
from penjing.quantization.network import CLAMPS, MASK, QuantizedNetwork
from penjing.quantization.placement import JOINS, MOVES, SHARED_POOLS
from penjing.quantization.ranges import flat_batches
from penjing.quantization.simulation import simulate, walk
from penjing.task import Calibration

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Unit:
    """What falls back to floats as one: an integer op, and the clamp it is fused with.

    Args:
        node: Name of the op.
        nodes: Its names, the clamp's too.
        weight: Qualified name of the weight, for layers.
    """

    node: str
    nodes: frozenset[str]
    weight: str | None

    @property
    def label(self) -> str:
        """The module's qualified name, or that of the node where there is no module."""
        owner = (self.weight or "").rpartition(".")[0]
        return owner or self.node


def units(network: QuantizedNetwork) -> list[Unit]:
    """Everything that computes in integers, in the order of the network; moves do not.

    Args:
        network: Only read.

    Returns:
        The units.
    """
    found = []
    ends = set(network.fused.values())
    for node in network.program.graph.nodes:
        moves = node.op == "output" or op_name(node) in {*MOVES, *JOINS, *SHARED_POOLS, MASK}
        if moves or not network.integer(node) or (op_name(node) in CLAMPS and node.name in ends):
            continue
        names = stored_names(network.program, node) if is_layer(node) else {}
        nodes = frozenset({node.name, network.fused.get(node.name, node.name)})
        found.append(Unit(node.name, nodes, names.get("weight")))
    return found


@torch.no_grad()
def sensitivity(
    folded: Program, network: QuantizedNetwork, samples: Calibration, say: Say
) -> tuple[SensitivityFigures, ...]:
    """The error of the outputs when one layer alone is integer, and when it alone is not.

    Args:
        folded: The network in floats, with the names of the quantized one.
        network: All of it in integers.
        samples: What both are run on.
        say: Told what is being done.

    Returns:
        A row per unit, in the order of the network.
    """
    simulation, found = simulate(network), units(network)

    def kept(flat: list[Any]) -> _Walk:
        return _Walk(simulation.program, folded, network, simulation.on_grid(flat))

    pairs = zip(
        alone(folded, network, samples, found, say),
        _errors(folded, samples, found, say, kept),
        strict=True,
    )
    return tuple(
        SensitivityFigures(unit.label, *pair) for unit, pair in zip(found, pairs, strict=True)
    )


@torch.no_grad()
def alone(
    folded: Program,
    network: QuantizedNetwork,
    samples: Calibration,
    found: Sequence[Unit],
    say: Say,
) -> list[float]:
    """The error of the outputs when one unit alone is integer; half of `sensitivity`.

    Args:
        folded: The network in floats, with the names of the quantized one.
        network: All of it in integers.
        samples: What both are run on.
        found: Units of interest.
        say: Told what is being done.

    Returns:
        Relative squared errors, in the order of `found`.
    """
    simulation = simulate(network)
    return _errors(
        folded, samples, found, say, lambda flat: _Walk(folded, simulation.program, network, flat)
    )


def _errors(
    folded: Program,
    samples: Calibration,
    found: Sequence[Unit],
    say: Say,
    walk_of: Callable[[list[Any]], _Walk],
) -> list[float]:
    """Relative squared errors of the outputs when one unit at a time is swapped."""
    errors, scale = [0.0] * len(found), 0.0
    for flat in flat_batches(folded, samples):
        wanted = walk(folded, list(flat))
        scale += sum(float(t.double().square().sum()) for t in _reals(wanted))
        for place, got in walk_of(flat).forks(found, say):
            errors[place] += _squared(wanted, got)
    return [error / (scale or 1.0) for error in errors]


def _reals(values: Sequence[Any]) -> list[Tensor]:
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


def _squared(wanted: Sequence[Any], got: Sequence[Any]) -> float:
    pairs = zip(_reals(wanted), _reals(got), strict=True)
    return sum(float((a - b).double().square().sum()) for a, b in pairs)


class _Walk:
    """A program run node by node, and again from each unit on with that unit of another program.

    Args:
        base: Computes everything but the unit.
        other: Computes the unit; nodes have the same names.
        network: Its grids are put on what a unit of the simulation reads.
        flat: Inputs.
    """

    def __init__(
        self, base: Program, other: Program, network: QuantizedNetwork, flat: list[Any]
    ) -> None:
        self.base, self.other, self.network = base, other, network
        self.nodes = list(base.graph.nodes)
        self.twins = other.nodes
        self.bound = base.bind(flat)
        self.last: dict[str, int] = {}
        for place, node in enumerate(self.nodes):
            self.last.update(dict.fromkeys((n.name for n in node.all_input_nodes), place))

    def forks(self, found: Sequence[Unit], say: Say) -> Any:
        """Place of each unit and the outputs with it swapped."""
        by_node = {unit.node: i for i, unit in enumerate(found)}
        values: dict[str, Any] = {}
        for place, node in enumerate(self.nodes):
            if node.name in by_node:
                index = by_node[node.name]
                say(f"what the outputs lose through {found[index].label}")
                yield index, self._rest(place, dict(values), found[index].nodes)
            if node.op != "output":
                self._step(place, node, values, self.base)

    def _rest(self, start: int, values: dict[str, Any], swapped: frozenset[str]) -> list[Any]:
        for place in range(start, len(self.nodes)):
            node = self.nodes[place]
            if node.op == "output":
                return list(fx.node.map_arg(node.args[0], lambda n: values[n.name]))
            if node.name in swapped:
                self._swap(place, node, values)
            else:
                self._step(place, node, values, self.base)
        return []

    def _swap(self, place: int, node: fx.Node, values: dict[str, Any]) -> None:
        """One node as the other program has it, reading what that one reads."""
        seen = dict(values)
        for n in node.all_input_nodes:
            grid = self.network.activations.get(n.name)
            if n.name in self.other.stored:
                seen[n.name] = self.other.tensors[self.other.stored[n.name]]
            elif grid is not None and isinstance(seen[n.name], Tensor):
                seen[n.name] = grid.fake(seen[n.name])
        self._step(place, self.twins[node.name], seen, self.other)
        values[node.name] = seen[node.name]
        self._free(place, node, values)

    def _step(self, place: int, node: fx.Node, values: dict[str, Any], program: Program) -> None:
        if node.op == "placeholder":
            values[node.name] = self.bound[node.name]
        elif node.op == "get_attr":
            values[node.name] = getattr(program.graph_module, str(node.target))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
            values[node.name] = node.target(*args, **kwargs)  # type: ignore[operator] # an op
        self._free(place, node, values)

    def _free(self, place: int, node: fx.Node, values: dict[str, Any]) -> None:
        for n in node.all_input_nodes:
            if self.last[n.name] == place:
                values.pop(n.name, None)


def with_kept(
    table: Sequence[SensitivityFigures], kept: Mapping[str, str]
) -> tuple[SensitivityFigures, ...]:
    """The table with what was done about each layer.

    Args:
        table: Rows.
        kept: Label -> what it is kept in.

    Returns:
        Rows.
    """
    return tuple(replace(row, kept=kept.get(row.layer, "")) for row in table)

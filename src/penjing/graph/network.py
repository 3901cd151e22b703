"""A network ready to be cut: its program, its groups, and what a plan does to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Reason
from penjing.graph.call import op_name, where
from penjing.graph.capture import Example, Program, capture
from penjing.graph.groups import Units, describe, find_units
from penjing.graph.rewrite import Rewriter, masked, shape_after, sliced
from penjing.graph.trials import KeptPositions, Trials
from penjing.plan import Group, Groups, Plan, Slice


class Network:
    """A captured network, its labels and its groups.

    Args:
        program: The captured network.

    Attributes:
        program: The captured network.
        analysis: Labels of every tensor.
        groups: What can be cut and what cannot.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.analysis = Analysis(program)
        self._units: dict[str, Units] = {}
        self.groups: Groups
        self._prove_movement()

    @classmethod
    def of(cls, model: nn.Module, example: Example) -> Self:
        """Capture and analyse a network.

        Args:
            model: The network; it is not changed.
            example: A tensor, a tuple (positional) or a dict (keywords).

        Returns:
            The network, ready to be cut.
        """
        return cls(capture(model, example))

    def atoms(self, group: str) -> NDArray[np.int64]:
        """Atom of each unit of a group."""
        return self._units[group].atoms

    def plan(self, drop: Mapping[str, Sequence[int]]) -> Plan:
        """A plan for this network.

        Args:
            drop: Units to remove, by group name; groups with none are left out.

        Returns:
            The plan with the unit counts and the fingerprint of this network.
        """
        chosen = {
            name: tuple(sorted(int(u) for u in units)) for name, units in drop.items() if len(units)
        }
        return Plan(chosen, {g.name: g.units for g in self.groups}, self.groups.fingerprint)

    def cut(self, plan: Plan) -> Cut:
        """Apply a plan to the graph; the model is not touched.

        Raises:
            PlanError: The plan was made for another network.
        """
        plan.check(self.groups)
        return Cut(self, plan)

    def lock(self, nodes: Sequence[fx.Node], drop: Mapping[str, Sequence[int]], why: str) -> None:
        """Lock every group with dropped units that touch one of `nodes`, then find groups again.

        Args:
            nodes: Nodes of the program whose rewritten form was not proved.
            drop: Units that the trial dropped, by group name.
            why: Cause, for the table of locks.
        """
        dropped = np.concatenate(
            [np.empty(0, np.int64), *(self.atoms(name)[list(u)] for name, u in drop.items())]
        )
        for node in nodes:
            dims = [
                d
                for n in [*node.all_input_nodes, node]
                for dims in self.analysis.all_labels(n)
                for d in dims
            ]
            live = [self.analysis.atoms.live(dim) for dim in dims]
            touched = np.intersect1d(np.concatenate([label[label >= 0] for label in live]), dropped)
            self._lock_groups_of(touched, Reason(f"{op_name(node)}: {why}", where(node)))
        self._find()

    def _lock_groups_of(self, atoms: NDArray[np.int64], reason: Reason) -> None:
        for units in self._units.values():
            if np.isin(units.atoms, atoms).any():
                self.analysis.atoms.lock(units.atoms[:, None], reason)

    def _find(self) -> None:
        units = find_units(self.analysis)
        for found in [u for u in units if u.group.least == u.group.units]:
            reason = Reason(f"{found.group.least_why}, and there are no more")
            self.analysis.atoms.lock(found.atoms[:, None], reason)
        if any(u.group.least == u.group.units for u in units):
            units = find_units(self.analysis)
        self._units = {u.group.name: u for u in units}
        self.groups = describe(self.analysis, units)

    def _prove_movement(self) -> None:
        """Lock the groups around data movement that cannot be rewritten when they are cut."""
        self._find()
        trials = Trials(self.analysis)
        while failed := trials.failed(list(self._units.values())):
            whole = {group.name: range(group.units) for group in self.groups}
            self.lock(failed, whole, "its rewritten constants are not proved equal")

    def _kept(self, drop: Mapping[str, Sequence[int]]) -> KeptPositions:
        gone = np.zeros(len(self.analysis.atoms), bool)
        for name, units in drop.items():
            gone[self.atoms(name)[list(units)]] = True
        return KeptPositions(self.analysis.atoms.resolve, gone)


@dataclass(frozen=True, eq=False)
class Cut:
    """One plan applied to the graph of a network; nothing is written to the model.

    Args:
        network: The network.
        plan: What goes.
    """

    network: Network
    plan: Plan

    @property
    def dense(self) -> Program:
        """The network as it was."""
        return self.network.program

    @cached_property
    def kept(self) -> KeptPositions:
        """Positions of a dimension that stay."""
        return self.network._kept(self.plan.drop)

    def keep(self, node: str, dim: int) -> Tensor | None:
        """Kept positions (int64, ascending) of a dim of a node's first output; None for all."""
        return self.kept(self.network.analysis.labels(self.network.program.nodes[node])[dim])

    def shape(self, node: str) -> tuple[int, ...]:
        """Shape of a node's first output after the cut, at the example's sizes."""
        return shape_after(self.network.analysis, self.kept, self.network.program.nodes[node])

    @cached_property
    def program(self) -> Program:
        """The cut program: same node names, rewritten sizes, fresh sliced tensors."""
        original = self.network.program
        module = fx.GraphModule(nn.Module(), Rewriter(self.network.analysis, self.kept).graph())
        return replace(original, graph_module=module, tensors=self._stored(sliced))

    def masked(self) -> dict[str, Tensor]:
        """Stored tensors in their original shapes, cut positions set to zero."""
        return self._stored(masked)

    def group(self, group: Group) -> Group:
        """What is left of a group: its kept units, at their positions in the sliced tensors."""
        units = self.plan.kept(group.name)
        nodes = {fqn: name for name, fqn in self.network.program.stored.items()}
        slices = []
        for part in group.slices:
            kept = self.keep(nodes[part.tensor], part.dim)
            at = None if kept is None else {int(p): n for n, p in enumerate(kept)}
            index = (
                tuple(
                    p if at is None else at[p] for p in part.positions(u) if at is None or p in at
                )
                for u in units
            )
            slices.append(Slice.of(part.tensor, part.dim, tuple(index)))
        return replace(group, units=len(units), slices=tuple(slices))

    def slice_like(self, node: str, value: Tensor) -> Tensor:
        """The kept positions of a tensor that has the original shape of a node's first output."""
        return sliced(
            value, self.network.analysis.labels(self.network.program.nodes[node]), self.kept
        )

    def _stored(self, change: Any) -> dict[str, Tensor]:
        analysis, out, done = self.network.analysis, {}, dict[int, Tensor]()
        with torch.no_grad():
            for name, fqn in self.network.program.stored.items():
                tensor = self.network.program.tensors[fqn]
                if id(tensor) not in done:
                    dims = analysis.labels(self.network.program.nodes[name])
                    done[id(tensor)] = change(tensor.detach(), dims, self.kept).clone()
                out[fqn] = done[id(tensor)]
        return out

"""What a candidate would cost, exactly and without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from penjing.counts.macs import Counter
from penjing.counts.memory import Liveness
from penjing.counts.sizes import Shape
from penjing.graph.blocks import without
from penjing.graph.network import Network
from penjing.graph.sizing import Sizing, node_shape
from penjing.pruning.allocation.protocol import Cost
from penjing.pruning.density import KIB
from penjing.verbs.removable import Removable


@dataclass(frozen=True, eq=False)
class CandidateCosts:
    """Costs of the candidates of a network, by units kept per group.

    Args:
        network: Its capture and groups.
        removable: What may go.
    """

    network: Network
    removable: Removable
    _counters: dict[int, tuple[Counter, Liveness]] = field(default_factory=dict, init=False)

    @property
    def by_name(self) -> dict[str, Cost]:
        """Of units macs, params, ram_kb; of zeros and bits those that these save."""
        beside: dict[str, Cost] = {
            name: partial(self._beside, name) for name in self.removable.beside.costs
        }
        return {**beside, "macs": self._macs, "params": self._params, "ram_kb": self._ram_kb}

    def _macs(self, kept: Mapping[str, int]) -> float:
        return self._left(kept)[0].macs(self._shape(kept))

    def _params(self, kept: Mapping[str, int]) -> float:
        return self._left(kept)[0].params(self._shape(kept))

    def _ram_kb(self, kept: Mapping[str, int]) -> float:
        return self._left(kept)[1].peak(self._shape(kept)).ram_bytes / KIB

    def _beside(self, name: str, kept: Mapping[str, int]) -> float:
        beside = self.removable.beside
        return beside.values(self._left(kept)[0], self._shape(kept), kept)[name]

    def _left(self, kept: Mapping[str, int]) -> tuple[Counter, Liveness]:
        """Counters of the network without the branches that go."""
        gone = self.removable.gone(kept)
        if len(gone) not in self._counters:  # which go follows from how many do
            program = self.network.program
            program = without(program, gone) if gone else program
            self._counters[len(gone)] = Counter(program), Liveness(program)
        return self._counters[len(gone)]

    def _shape(self, kept: Mapping[str, int]) -> Shape:
        return partial(node_shape, self._sizing.shapes(kept))

    @cached_property
    def _sizing(self) -> Sizing:
        return Sizing(self.network)

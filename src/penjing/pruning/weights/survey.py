"""One pass over the data that scores the weights of every layer.

Recurrent layers have no patches; their matrices are scored without data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.graph.capture import Program
from penjing.pruning.weights.protocol import (
    Matrix,
    PreparesWeights,
    Target,
    WeightImportance,
)
from penjing.statistics.grams import Gram, Layer, add_inputs, rows_per_sample
from penjing.statistics.outlets import Outlet, energy_per_position, outlets
from penjing.statistics.stream import Chunk, Samples, Stream
from penjing.task import Calibration


@dataclass(eq=False, slots=True, kw_only=True)
class Survey:
    """Scores for the weights of one program.

    Args:
        program: The network.
        targets: What is scored.
        importance: How.
        rows_per_unknown: Output positions looked at per unknown of a layer, over all samples.
        memory_mb: Bound on the activations held, in MiB.
        largest: Unknowns of a layer beyond which it is scored without data.
        seed: Of the choice of output positions.
    """

    program: Program
    targets: Sequence[Target]
    importance: WeightImportance
    rows_per_unknown: float = 60.0
    memory_mb: float = 2048.0
    largest: int = 4700
    seed: int = 0
    _sums: dict[str, _Sums] = field(default_factory=dict)

    @torch.no_grad()
    def run(self, calibration: Calibration | None) -> dict[str, Tensor]:
        """Scores `(N, B)` by name of the weight.

        Args:
            calibration: Samples, with labels where the importance needs them; None scores without
                data.
        """
        if isinstance(self.importance, PreparesWeights):
            judge = self.importance.prepare(self.program, self.targets, calibration)
            return {
                t.weight: judge(matrix_of(self.program.tensors, t, Outlet(), None), t.tiling)
                for t in self.targets
            }
        seen = [] if calibration is None else [t for t in self.targets if self.sees(t)]
        outlet_of = outlets(self.program, _by_node(self.targets))
        waiting = {t.weight: t for t in seen}
        alone = [t for t in self.targets if t.weight not in waiting]
        found = {t.weight: self._score(t, _outlet(t, outlet_of)) for t in alone}
        if calibration is None or not waiting:
            return found
        return {**found, **self._streamed(waiting, calibration)}

    def sees(self, target: Target) -> bool:
        """Whether what a layer reads can be summed up in a Gram matrix."""
        return bool(target.layers) and target.tiling.taps * target.tiling.channels <= self.largest

    def _streamed(self, waiting: Mapping[str, Target], calibration: Samples) -> dict[str, Tensor]:
        layer_of = _by_node(list(waiting.values()))
        outlet_of = outlets(self.program, layer_of)
        stops: dict[str, list[Layer]] = {name: [] for name in layer_of}
        for name, layer in layer_of.items():
            stops.setdefault(outlet_of[name].add or name, []).append(layer)
        stream = Stream([self.program], calibration, self.memory_mb)
        generator = torch.Generator().manual_seed(self.seed)
        open_uses = {name: len(t.layers) for name, t in waiting.items()}
        found: dict[str, Tensor] = {}
        for stop in (name for name in self.program.nodes if name in stops):
            chunks = stream.advance(stop)
            if stop in layer_of:
                self._gather(stream, chunks, layer_of[stop], generator)
            for layer in stops[stop]:
                self._weigh(stream, chunks, stop, layer, outlet_of[layer.node])
                open_uses[layer.weight] -= 1
                if not open_uses[layer.weight]:
                    target = waiting[layer.weight]
                    found[layer.weight] = self._score(target, _outlet(target, outlet_of))
        return found

    def _gather(
        self,
        stream: Stream,
        chunks: Sequence[Chunk],
        layer: Layer,
        generator: torch.Generator,
    ) -> None:
        """Add the patches of one layer."""
        groups, _, unknowns = layer.matrix(self.program.tensors[layer.weight]).shape
        sums = self._sums.setdefault(layer.weight, _Sums(Gram.zeros(groups, unknowns)))
        each = rows_per_sample(unknowns, stream.held, self.rows_per_unknown)
        values = (stream.value(chunk, layer.source) for chunk in chunks)
        add_inputs(sums.gram, layer, values, each, generator)

    def _weigh(
        self, stream: Stream, chunks: Sequence[Chunk], stop: str, layer: Layer, out: Outlet
    ) -> None:
        """Note the energy per position of what the layer feeds: a sum, or its own output."""
        values = (stream.value(chunk, stop) for chunk in chunks)
        norm = out.norm if stop == layer.node else None
        energy = energy_per_position(values, layer, norm, self.program.tensors)
        self._sums[layer.weight].energies.append(energy)

    def _score(self, target: Target, out: Outlet) -> Tensor:
        sums = self._sums.pop(target.weight, None)
        return self.importance(matrix_of(self.program.tensors, target, out, sums), target.tiling)


@dataclass(slots=True)
class _Sums:
    """What has been gathered for one weight: inputs, and energy per position of each use."""

    gram: Gram
    energies: list[float] = field(default_factory=list)


def matrix_of(
    tensors: Mapping[str, Tensor], target: Target, out: Outlet, sums: _Sums | None
) -> Matrix:
    """A layer as an importance of weights sees it."""
    weight = target.matrix(tensors[target.weight])
    scale = torch.ones(weight.shape[:2], dtype=weight.dtype)
    if out.norm is not None:
        scale = out.norm.affine(tensors)[0].view(scale.shape)
    free = bool(target.layers) and (out.norm is not None or target.layers[0].bias is not None)
    if sums is None:
        return Matrix(name=target.weight, weight=weight, scale=scale, free=free)
    energy = sum(sums.energies) / max(len(sums.energies), 1) * sums.gram.rows
    return Matrix(
        name=target.weight, weight=weight, scale=scale, gram=sums.gram, free=free, energy=energy
    )


def _by_node(targets: Sequence[Target]) -> dict[str, Layer]:
    return {layer.node: layer for target in targets for layer in target.layers}


def _outlet(target: Target, outlet_of: Mapping[str, Outlet]) -> Outlet:
    return outlet_of[target.layers[0].node] if target.layers else Outlet()

"""Compensation: weights and biases chosen so that outputs come out right, layer by layer.

The float network and the quantized one are streamed side by side. Each layer is rounded for the
inputs that it really gets, those of the layers quantized before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, fx

from penjing.graph.call import Call
from penjing.graph.capture import Example, Program
from penjing.graph.folding import like
from penjing.quantization.formats import Grid
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.rounding import AdaRound, Rounding, gptq
from penjing.quantization.simulation import on_grids
from penjing.statistics.grams import Gram, Layer, Rows, layers, patches, rows_per_sample
from penjing.statistics.stream import Chunk, Stream
from penjing.task import Calibration

ROWS_PER_UNKNOWN = 10.0
LARGEST = 8192  # unknowns of a Gram matrix; wider layers are rounded to the nearest


@torch.no_grad()
def compensate(  # noqa: PLR0913 - one keyword per setting, called from one place
    folded: Program,
    network: QuantizedNetwork,
    calibration: Calibration,
    *,
    rounding: Rounding,
    biases: bool,
    memory_mb: float,
    seed: int,
) -> QuantizedNetwork:
    """Round weights with data and correct biases, in the order of the graph.

    Args:
        folded: The network in floats.
        network: The same, every weight rounded to the nearest.
        calibration: Samples.
        rounding: "nearest" leaves the weights as they are.
        biases: Whether biases are corrected.
        memory_mb: Bound on the values held, MiB.
        seed: Of the rows that Gram matrices look at.

    Returns:
        The network with other weights, on the same grids, and other biases.

    Source:
        Bias correction: Nagel et al. 2019, arXiv:1906.04721, from data.
    """
    found, _ = layers(folded)
    todo = [layer for layer in found.values() if layer.weight in network.weights]
    quantized = on_grids(network)
    stream = Stream(
        [folded, quantized],
        _Quantized(calibration, folded, network),
        memory_mb=memory_mb,
        changing=[layer.node for layer in todo],
    )
    tensors = dict(network.program.tensors)
    done: set[str] = set()
    for layer in todo:
        stream.advance(layer.node)
        job = _Job(folded, stream, layer, network.weights[layer.weight], seed)
        if rounding != "nearest" and layer.weight not in done:
            tensors[layer.weight] = like(tensors[layer.weight], job.rounded(rounding))
            stream.replace(1, {layer.weight: tensors[layer.weight]})
        if biases and layer.bias is not None:
            error = job.mean_error(tensors[layer.bias])
            tensors[layer.bias] = like(tensors[layer.bias], tensors[layer.bias] + error)
            stream.replace(1, {layer.bias: tensors[layer.bias]})
        done.add(layer.weight)
    return replace(network, program=replace(network.program, tensors=tensors))


@dataclass(frozen=True, eq=False, slots=True)
class _Quantized:
    """Samples as the integer network sees them: inputs on their grids."""

    calibration: Calibration
    program: Program
    network: QuantizedNetwork

    @property
    def samples(self) -> int:
        return self.calibration.samples

    def batches(self, size: int) -> Iterator[Example]:
        grids = [self.network.activations.get(name) for name in self.program.inputs]
        leaves = [
            leaf if grid is None or not isinstance(leaf, Tensor) else grid.fake(leaf)
            for leaf, grid in zip(self.calibration.leaves, grids, strict=True)
        ]
        yield from replace(self.calibration, leaves=tuple(leaves)).batches(size)


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """One layer at its place in the stream."""

    folded: Program
    stream: Stream
    layer: Layer
    grid: Grid
    seed: int

    def rounded(self, rounding: Rounding) -> Tensor:
        """The weight on its grid, rounded for the inputs of the quantized network."""
        weight = self.folded.tensors[self.layer.weight].detach().double()
        w_GVU = self.layer.matrix(weight)
        if w_GVU.shape[2] > LARGEST:
            return self.grid.fake(weight)
        step = self.layer.matrix(self.grid.steps(weight).expand_as(weight))[:, :, 0]
        xx = self._gram(w_GVU.shape[2]).xx
        method = gptq if rounding == "gptq" else AdaRound()
        chosen = self.layer.tensor(method(w_GVU, step, self.grid, xx))
        return self.grid.fake(chosen.double())

    def mean_error(self, bias: Tensor) -> Tensor:
        """Mean of the float output less the quantized one, per output channel."""
        total, count = torch.zeros(len(bias), dtype=torch.float64), 0
        node = self.folded.nodes[self.layer.node]
        for chunk in self.stream.chunks:
            wanted = self.stream.value(chunk, self.layer.node)
            got = Call(node).run(partial(self._quantized, chunk))
            gap = (wanted - got).double()
            gap = gap.movedim(self.layer.channel_dim if self._batched(gap) else 0, -1)
            total += gap.flatten(0, -2).sum(0) if gap.dim() > 1 else gap
            count += gap.numel() // len(bias)
        return (total / max(count, 1)).to(bias.dtype)

    def _quantized(self, chunk: Chunk, node: fx.Node) -> object:
        """Value of a node in the quantized network."""
        return self.stream.value(chunk, node.name, 1)

    def _batched(self, value: Tensor) -> bool:
        return not self.layer.kernel or value.dim() == len(self.layer.kernel) + 2

    def _gram(self, unknowns: int) -> Gram:
        gram = Gram.zeros(self.layer.groups, unknowns)
        for chunk in self.stream.chunks:
            rows, view = self._rows(chunk, unknowns)
            gram.add(rows.inputs(self.layer, view))
        return gram

    def _rows(self, chunk: Chunk, unknowns: int) -> tuple[Rows, Tensor]:
        view = patches(self.layer, self.stream.value(chunk, self.layer.source, 1))
        each = rows_per_sample(unknowns, self.stream.held, ROWS_PER_UNKNOWN)
        seed = self.seed + self.stream.place[self.layer.node] * len(self.stream.place) + chunk.index
        lead = view.shape[: view.dim() - len(self.layer.kernel) - 1]
        return Rows.choose(lead, each, torch.Generator().manual_seed(seed)), view

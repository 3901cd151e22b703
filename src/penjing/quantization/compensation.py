"""Compensation: weights and biases chosen so that outputs come out right, layer by layer.

The float network and the quantized one are streamed side by side. Each layer is rounded for the
inputs that it really gets, those of the layers quantized before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from penjing.quantization.thinning import Thinning
from penjing.statistics.grams import Gram, Layer, Rows, layers, patches, rows_per_sample
from penjing.statistics.stream import Chunk, Stream
from penjing.task import Calibration

ROWS_PER_UNKNOWN = 10.0
ROWS_PER_WEIGHT = 50.0  # where weights are solved for, not only rounded
Regrid = Callable[[str, Tensor], Grid]
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
    thinning: Thinning | None = None,
    regrid: Regrid | None = None,
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
        thinning: Which weights become zero first.
        regrid: Makes the grid of a weight that has become sparse.

    Returns:
        The network with other weights, on the same grids where they are not sparse, and other
        biases.

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
    tensors, grids = dict(network.program.tensors), dict(network.weights)
    done: set[str] = set()
    for layer in todo:
        stream.advance(layer.node)
        thin = thinning if thinning is not None and layer.weight in thinning else None
        job = _Job(folded, stream, layer, grids[layer.weight], seed, thin, regrid)
        if (rounding != "nearest" or thin is not None) and layer.weight not in done:
            grids[layer.weight], weight = job.rounded(rounding, free=biases)
            tensors[layer.weight] = like(tensors[layer.weight], weight)
            stream.replace(1, {layer.weight: tensors[layer.weight]})
        if biases and layer.bias is not None:
            error = job.mean_error(tensors[layer.bias])
            tensors[layer.bias] = like(tensors[layer.bias], tensors[layer.bias] + error)
            stream.replace(1, {layer.bias: tensors[layer.bias]})
        done.add(layer.weight)
    return replace(network, program=replace(network.program, tensors=tensors), weights=grids)


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
    thinning: Thinning | None
    regrid: Regrid | None

    def rounded(self, rounding: Rounding, *, free: bool) -> tuple[Grid, Tensor]:
        """Grid and weight on it, made sparse and rounded for the inputs of the quantized network.

        Args:
            rounding: How.
            free: Whether biases are corrected afterwards.
        """
        weight, grid = self.folded.tensors[self.layer.weight].detach().double(), self.grid
        w_GVU = self.layer.matrix(weight)
        if w_GVU.shape[2] > LARGEST:
            return grid, grid.fake(weight)
        gram = self._gram(*w_GVU.shape[1:])
        if self.thinning is not None and self.regrid is not None:
            free = free and self.layer.bias is not None
            w_GVU = self.thinning(self.layer.weight, w_GVU, gram, free)
            weight = self.layer.tensor(w_GVU).double()
            grid = self.regrid(self.layer.weight, weight)
        if rounding == "nearest":
            return grid, torch.where(weight == 0, 0.0, grid.fake(weight))
        step = self.layer.matrix(grid.steps(weight).expand_as(weight))[:, :, 0]
        method = gptq if rounding == "gptq" else AdaRound()
        chosen = self.layer.tensor(method(w_GVU, step, grid, gram.xx))
        return grid, grid.fake(chosen.double())

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

    def _gram(self, outputs: int, unknowns: int) -> Gram:
        """Sums over the quantized inputs, and over the float outputs where weights are solved."""
        thin = self.thinning is not None
        gram = Gram.zeros(self.layer.groups, unknowns, outputs if thin else 0)
        for chunk in self.stream.chunks:
            rows, view = self._rows(chunk, unknowns)
            wanted = rows.outputs(self.layer, self._products(chunk)) if thin else None
            gram.add(rows.inputs(self.layer, view), wanted)
        return gram

    def _products(self, chunk: Chunk) -> Tensor:
        """What the layer yields in the float network, its bias taken off."""
        value: Tensor = self.stream.value(chunk, self.layer.node)
        if self.layer.bias is None:
            return value
        bias = self.folded.tensors[self.layer.bias].detach()
        dim = self.layer.channel_dim if self._batched(value) else 0
        return value - bias.view(*(-1 if d == dim % value.dim() else 1 for d in range(value.dim())))

    def _rows(self, chunk: Chunk, unknowns: int) -> tuple[Rows, Tensor]:
        view = patches(self.layer, self.stream.value(chunk, self.layer.source, 1))
        wanted = ROWS_PER_UNKNOWN if self.thinning is None else ROWS_PER_WEIGHT
        each = rows_per_sample(unknowns, self.stream.held, wanted)
        seed = self.seed + self.stream.place[self.layer.node] * len(self.stream.place) + chunk.index
        lead = view.shape[: view.dim() - len(self.layer.kernel) - 1]
        return Rows.choose(lead, each, torch.Generator().manual_seed(seed)), view

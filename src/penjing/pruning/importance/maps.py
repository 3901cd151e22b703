"""What the readers of a unit see: its activations, batch by batch.

Suffixes: B = samples, U = units, S = positions of a unit in one sample (pixels, tokens, or the
columns that a flattened map became).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.capture import Program
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.gradients import whole_chunks
from penjing.statistics.grams import Layer, layers
from penjing.task import Calibration

BATCH = 50  # samples in one run: large enough for the BLAS


@dataclass(frozen=True, slots=True)
class Seen:
    """What one layer sees of the units of one group.

    Args:
        node: Node that holds the values.
        dim: Dimension of the units' positions.
        index: Positions of every unit in it, `(U, M)`.
        batch: Dimension of the samples.
    """

    node: str
    dim: int
    index: Tensor
    batch: int = 0

    def of(self, value: Tensor) -> Tensor:
        """Values per unit, `(B, U, M, *positions)`."""
        moved = value.movedim((self.batch, self.dim), (0, 1))
        own = moved[:, self.index.flatten()]
        found: Tensor = own.unflatten(1, tuple(self.index.shape))
        return found


def seen_by_readers(network: Network, groups: Iterable[Group]) -> dict[str, list[Seen]]:
    """Where the activations of every group are read, each place once.

    Args:
        network: The captured network.
        groups: Some of its groups.

    Returns:
        By group; an empty list where no layer with a stored weight reads the units.
    """
    known, _ = layers(network.program)
    return {group.name: _places(network.program, known, group) for group in groups}


def _places(program: Program, known: Mapping[str, Layer], group: Group) -> list[Seen]:
    found: dict[str, Seen] = {}
    for piece in group.slices:
        for layer in known.values():
            reads = layer.weight == piece.tensor and layer.input_dim == piece.dim
            if not reads or layer.groups > 1 or layer.source in found:
                continue
            index = torch.tensor([piece.positions(unit) for unit in range(group.units)])
            source = program.nodes[layer.source]
            dims = len(program.shape(source))
            batch = program.batch_dim(source)
            if batch is not None:
                found[layer.source] = Seen(layer.source, layer.channel_dim % dims, index, batch)
    return list(found.values())


@torch.no_grad()
def watch(
    program: Program,
    calibration: Calibration,
    nodes: Iterable[str],
    see: Callable[[str, Tensor, Any], None],
    samples: int,
    labelled_for: str = "",
) -> int:
    """Run the samples through the network once.

    Args:
        program: The network.
        calibration: The samples.
        nodes: Whose values are shown.
        see: Called with a node's name, its value, and the labels of the batch.
        samples: Samples at most.
        labelled_for: What needs labels; empty gives None for them.

    Returns:
        How many samples were seen.

    Raises:
        StrategyError: Labels are missing, or there is no whole batch for a network of a fixed one.
    """
    device = next((t.device for t in program.tensors.values()), torch.device("cpu"))
    seen, names = 0, frozenset(nodes)
    for flat, labels in whole_chunks(program, calibration, BATCH, samples, labelled_for):
        placed = [v.to(device) if isinstance(v, Tensor) else v for v in flat]

        def show(node: fx.Node, value: Any, labels: Any = labels) -> Any:
            if node.name in names:
                see(node.name, value, labels)
            return value

        program.run(placed, each=show)
        seen += program.samples(flat)
    return seen

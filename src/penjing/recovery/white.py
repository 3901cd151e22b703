"""White coordinates: steps on a weight as if the inputs of its layer were uncorrelated.

What a layer reads is far from white: neighbouring pixels are alike and channels behind a ReLU have
large means, so a step of equal size in every weight moves the outputs much in a few directions and
hardly in all others. With the weight as `W0 + V Z`, where `Z` is the inverse square root of the
inputs' second moments, equal steps in `V` move the outputs alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx

from penjing.graph.capture import Program
from penjing.statistics.grams import Gram, Layer, add_inputs, layers, rows_per_sample

DAMPING = 0.02  # share of the mean moment that is added to every one
ROWS_PER_UNKNOWN = 20.0
LARGEST = 2400  # unknowns of a layer beyond which roots cost more than steps


@dataclass(frozen=True, eq=False, slots=True)
class White:
    """Coordinates of one weight.

    Args:
        layer: The one layer that has the weight.
        root: Inverse square root of the moments of its inputs `(G, U, U)`, one where these are
            white.
    """

    layer: Layer
    root: Tensor

    def gradient(self, grad: Tensor) -> Tensor:
        """The gradient of the coordinates, from that of the weight; `(G, V, U)`."""
        return self.layer.matrix(grad) @ self.root

    def offset(self, moved: Tensor) -> Tensor:
        """How far the weight moved, from how far its coordinates did."""
        return self.layer.tensor(moved @ self.root)


@torch.no_grad()
def whitened(
    program: Program, calls: Iterable[Sequence[Any]], names: Iterable[str], samples: int
) -> dict[str, White]:
    """White coordinates of weights.

    Args:
        program: A captured network; only read.
        calls: Flat inputs of one call after the other.
        names: Weights that are wanted, by qualified name.
        samples: How many the calls hold together.

    Returns:
        Coordinates by weight. Left out are weights of no linear layer, of several or of too large
        ones, and those that read nothing or what is not finite.

    Source:
        Desjardins et al. 2015, arXiv:1507.00210 (natural neural networks).
    """
    readers = _readers(program, set(names))
    grams = {
        layer.weight: Gram.zeros(
            layer.groups, _unknowns(program, layer), device=program.tensors[layer.weight].device
        )
        for several in readers.values()
        for layer in several
    }
    random = torch.Generator().manual_seed(0)

    def note(node: fx.Node, value: Any) -> Any:
        for layer in readers.get(node.name, ()):
            each = rows_per_sample(_unknowns(program, layer), samples, ROWS_PER_UNKNOWN)
            add_inputs(grams[layer.weight], layer, [value], each, random)
        return value

    for flat in calls:
        program.run(flat, each=note)
    return {
        layer.weight: White(layer, _root(grams[layer.weight]).to(program.tensors[layer.weight]))
        for several in readers.values()
        for layer in several
        if grams[layer.weight].rows and grams[layer.weight].xx.isfinite().all()
    }


def _readers(program: Program, names: set[str]) -> Mapping[str, list[Layer]]:
    """Layers by what they read: those that can have white coordinates."""
    known, _ = layers(program)
    uses = Counter(fqn for place, fqn in program.stored.items() for _ in program.nodes[place].users)
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in known.values():
        once = layer.weight in names and uses[layer.weight] == 1
        if once and _unknowns(program, layer) <= LARGEST:
            readers[layer.source].append(layer)
    return readers


def _unknowns(program: Program, layer: Layer) -> int:
    return layer.matrix(program.tensors[layer.weight]).shape[2]


def _root(gram: Gram) -> Tensor:
    """Inverse square root of the mean products of inputs, damped; of ones where they are white."""
    moments = gram.xx / max(gram.rows, 1)
    mean = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None].clamp_min(torch.finfo().tiny)
    values, vectors = torch.linalg.eigh(moments)
    shares = ((1 + DAMPING) * mean / (values.clamp_min(0) + DAMPING * mean)).sqrt()
    root: Tensor = (vectors * shares[:, None, :]) @ vectors.mT
    return root


class WhiteAdam:
    """Adam on tensors, on some of them in white coordinates; zeros of these stay zero.

    Args:
        tensors: What is tuned, by name; one that several names share is tuned once.
        white: Coordinates by name, of tensors with one name.
        zeros: Where tensors stay zero, by name.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        white: Mapping[str, White],
        zeros: Mapping[str, Tensor],
    ) -> None:
        self.zeros = {name: zero for name, zero in zeros.items() if name in tensors}
        self.tensors = tensors
        self.moves = {name: _Move.of(tensors[name], how) for name, how in white.items()}
        plain = [tensor for name, tensor in tensors.items() if name not in white]
        moved = [move.coordinates for move in self.moves.values()]
        self.adam = torch.optim.Adam([*dict.fromkeys(plain), *moved], fused=True)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every tensor along its gradient, and forget the gradients.

        Args:
            lr: Step size.
        """
        for name, zero in self.zeros.items():
            grad = self.tensors[name].grad
            if grad is not None:
                grad.masked_fill_(zero, 0.0)
        for move in self.moves.values():
            move.read()
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        for name, move in self.moves.items():
            move.write(self.zeros.get(name))
        self.adam.zero_grad()


@dataclass(frozen=True, eq=False, slots=True)
class _Move:
    """A tensor on its way in white coordinates."""

    tensor: Tensor
    start: Tensor
    coordinates: Tensor
    white: White

    @classmethod
    def of(cls, tensor: Tensor, white: White) -> Self:
        start = tensor.detach().clone()
        return cls(tensor, start, torch.zeros_like(white.gradient(start)), white)

    def read(self) -> None:
        """Take the tensor's gradient over."""
        grad = self.tensor.grad
        self.coordinates.grad = None if grad is None else self.white.gradient(grad)
        self.tensor.grad = None

    def write(self, zero: Tensor | None) -> None:
        """Put the tensor where the coordinates are."""
        offset = self.white.offset(self.coordinates)
        if zero is not None:
            offset.masked_fill_(zero, 0.0)
        torch.add(self.start, offset, out=self.tensor.detach())

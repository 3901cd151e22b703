"""ERK: thin layers stay denser, by their shape alone."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.pruning.sparsity.protocol import Removal, Scored

HALVINGS = 80  # of the common factor


def erk(layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
    """Density proportional to the sum over the product of a layer's dimensions.

    Args:
        layers: What may become sparse.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.

    Source:
        Evci et al. 2020, arXiv:1911.11134, section 3 (Erdos-Renyi kernel); for kernels of any
        dimension the kernel positions count as one size per dimension of a square kernel.
    """
    low, high = 0.0, 1e12
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = _sparsities(layers, removal, middle)
        gone = sum(found[layer.name] * layer.cost * layer.weights for layer in layers)
        low, high = (middle, high) if gone > removal.amount else (low, middle)
    return _sparsities(layers, removal, high)


def _sparsities(layers: Sequence[Scored], removal: Removal, factor: float) -> dict[str, float]:
    return {
        layer.name: min(max(0.0, 1 - factor * _density(layer)), removal.max_sparsity)
        for layer in layers
    }


def _density(layer: Scored) -> float:
    outputs, inputs, taps = layer.shape
    sizes = outputs + inputs + (2 * taps**0.5 if taps > 1 else 0)
    return sizes / (outputs * inputs * taps)

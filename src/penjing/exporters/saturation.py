"""Saturation: on x86 without VNNI, ONNX Runtime adds two products of 8 bits in 16 and cuts off.

Its kernels multiply unsigned activations by signed weights with `vpmaddubsw`, which adds neighbours
before anything is widened. 255 * (|a| + |b|) fits 16 bits while |a| + |b| is at most 128, which
weights of 7 bits always are.
"""

from __future__ import annotations

from torch import Tensor

from penjing.codegen.build import cpu_name
from penjing.graph.call import op_name
from penjing.graph.folding import TRANSPOSED, layer_nodes, stored_names
from penjing.quantization.network import QuantizedNetwork

_MOST = 128  # (2^15 - 1) // 255
_X86 = frozenset({"ssse3", "avx2"})
_VNNI = frozenset({"avx_vnni", "avx512_vnni"})


def lacks_vnni(cpu: str | None = None) -> bool:
    """Whether a processor is x86 and adds products of 8 bits in 16.

    Args:
        cpu: What the system says of it, with its flags; None for this machine.

    Returns:
        False also where the flags are not known.

    Example:
        >>> lacks_vnni("flags : fpu ssse3 avx2"), lacks_vnni("flags : avx2 avx_vnni")
        (True, False)
    """
    flags = set((cpu_name() if cpu is None else cpu).split())
    return bool(flags & _X86) and not flags & _VNNI


def saturating(network: QuantizedNetwork) -> list[str]:
    """Integer layers in which two neighbouring products may leave 16 bits.

    Args:
        network: A quantized network.

    Returns:
        Qualified names of their weights: two of one output have magnitudes above 128 in sum.
        Transposed convolutions are left out: ONNX Runtime computes them in floats.
    """
    found: list[str] = []
    for node in (n for n in layer_nodes(network.program) if op_name(n) not in TRANSPOSED):
        fqn = stored_names(network.program, node).get("weight", "")
        new = network.integer(node) and fqn in network.weights and fqn not in found
        if new and _largest_pair(network.integers(fqn)) > _MOST:
            found.append(fqn)
    return found


def saturation_notes(network: QuantizedNetwork, cpu: str | None = None) -> list[str]:
    """What a processor without VNNI does to a network, in words; nothing where it has it.

    Args:
        network: A quantized network.
        cpu: As for `lacks_vnni`.
    """
    names = saturating(network) if lacks_vnni(cpu) else []
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        "this processor has no VNNI: on it ONNX Runtime adds two products of 8 bits in 16, which "
        f"may cut off sums of {names[0]}{more}; scheme='int7' leaves them room at the same speed. "
        "Compiled C is exact on every processor"
    ]


def _largest_pair(q: Tensor) -> int:
    """Largest sum of two magnitudes of one output, which is a row."""
    rows = q.flatten(1).int().abs()
    return int(rows.topk(min(2, rows.shape[1]), 1).values.sum(1).max())

"""Mixed precision: the bits of every weight, by the solver that allocates widths in pruning.

A weight is a group whose units are its bits. What the outputs lose when one layer alone has so many
bits is measured; what all bits together cost is exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.counts.macs import Counter
from penjing.errors import BudgetError, InfeasibleError, StrategyError
from penjing.graph.capture import Program
from penjing.graph.folding import is_layer
from penjing.plan import Group
from penjing.pruning.allocation import dp
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.budgets import absolute
from penjing.quantization.formats import packed_bytes
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.ptq import Settings, activation_ranges, assemble, placed, prepared
from penjing.quantization.sensitivity import Say, alone, units
from penjing.task import Calibration

BITS = (2, 4, 8)
SAMPLES = 256  # on which the errors of single layers are measured

_BYTE = 8
_FLOAT = 32
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Mixed:
    """A network whose weights have the bits that budgets allow.

    Args:
        network: The network.
        bits: Of the weight of every integer layer, by qualified name.
        budgets: Upper bounds by cost.
        costs: What the bits cost.
    """

    network: QuantizedNetwork
    bits: Mapping[str, int]
    budgets: Mapping[str, float]
    costs: Mapping[str, float]


def mix(
    program: Program,
    calibration: Calibration,
    settings: Settings,
    *,
    constraints: Mapping[str, float | str],
    allowed: Sequence[int],
    say: Say,
) -> Mixed:
    """Quantize a captured network, each weight in the bits with which the outputs lose least.

    Args:
        program: In eval mode, on the CPU; only read.
        calibration: Samples.
        settings: How; weights whose bits it holds keep these.
        constraints: Upper bounds, or shares of the network in floats: "weight_bytes", all packed
            weights and their scales, those of recurrent layers too, and "bit_operations",
            multiply-accumulates in integers times bits of weight and of activation, which stand for
            energy where multipliers grow with width.
        allowed: Bits that a weight may have.
        say: Told what is being done.

    Returns:
        The network and its bits.

    Raises:
        BudgetError: An unknown constraint, a bound that is none, or no choice of bits.
        InfeasibleError: Even the fewest bits are above a bound.
        StrategyError: No weight whose bits could be chosen.

    Source:
        Dong et al. 2020 (HAWQ-V2), arXiv:1911.03852: one additive error per layer and width; there
        from the trace of the Hessian, here measured on the outputs.
    """
    choices = checked_bits(allowed, least=2)
    folded = prepared(program, settings)
    placement = placed(folded, settings)
    layers = {f for f, node in placement.weights.items() if is_layer(folded.nodes[node])}
    free = sorted(layers - set(settings.weight_bits))
    if not free:
        raise StrategyError("no layer in integers is left whose bits could be chosen")
    ranges = activation_ranges(folded, placement, calibration, settings)
    few = Calibration.of(calibration, limit=SAMPLES)
    lost: dict[int, dict[str, float]] = {}
    for bits in choices:
        say(f"what the outputs lose through each layer in {bits} bits")
        network = assemble(folded, placement, ranges, few, _uniform(settings, free, bits))
        lost[bits] = _lost(folded, network, few, say)
    held = {fqn: grid.bits for fqn, grid in network.weights.items() if fqn not in free}
    costs = _costs(folded, network)
    floats = dict.fromkeys(network.weights, _FLOAT)
    wide = settings.scheme.activation_bits
    whole = {
        "weight_bytes": sum(folded.tensors[n].numel() for n in floats) * _FLOAT / _BYTE,
        "bit_operations": costs["bit_operations"](floats) * _FLOAT / wide,
    }
    budgets = absolute(constraints, whole)
    chosen = {**held, **_solved(free, lost, costs, held, budgets)}
    network = assemble(
        folded,
        placement,
        ranges,
        calibration,
        replace(settings, weight_bits={**settings.weight_bits, **chosen}),
    )
    scheme = f"mixed ({', '.join(map(str, sorted(set(network.layer_bits.values()))))} bits)"
    spent = {name: cost(chosen) for name, cost in costs.items()}
    of_layers = {fqn: chosen[fqn] for fqn in layers}
    return Mixed(replace(network, scheme=scheme), of_layers, budgets, spent)


def words(bits: Mapping[str, int]) -> str:
    """How many layers have how many bits.

    Example:
        >>> words({"a": 8, "b": 4, "c": 8})
        '1 layer with 4-bit weights, 2 layers with 8-bit weights'
    """
    each: dict[int, int] = defaultdict(int)
    for b in bits.values():
        each[b] += 1
    told = (f"{n} layer{'s' * (n > 1)} with {b}-bit weights" for b, n in sorted(each.items()))
    return ", ".join(told)


def checked_bits(allowed: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """Bits to choose from, ascending.

    Args:
        allowed: As the caller gave them.
        least: How many there must be.

    Returns:
        The bits.

    Raises:
        BudgetError: There are fewer, or one is no number from 1 to 8.
    """
    given = set(allowed) if isinstance(allowed, Iterable) else set()
    known = all(type(b) is int and 1 <= b <= _BYTE for b in given)
    if not known or len(given) < least:
        many = "two or more numbers" if least > 1 else "one or more numbers"
        raise BudgetError(
            f"weight_bits is {allowed!r}; give {many} from 1 to 8 to choose from, such as {BITS}"
        )
    return tuple(sorted(given))


def _costs(folded: Program, network: QuantizedNetwork) -> dict[str, Cost]:
    """What the bits of all weights cost together; what computes in floats has no bit operations."""
    count = {fqn: folded.tensors[fqn].numel() for fqn in network.weights}
    scales = {fqn: grid.scale.numel() for fqn, grid in network.weights.items()}
    macs: dict[str, int] = defaultdict(int)
    for row in Counter(folded).figures():
        macs[row.name] += row.macs
    wide = next(iter(network.activations.values())).bits

    def weight_bytes(bits: Mapping[str, int]) -> float:
        return sum(packed_bytes(count[n], b) + _SCALE_BYTES * scales[n] for n, b in bits.items())

    def bit_operations(bits: Mapping[str, int]) -> float:
        return sum(macs[n.removesuffix(".weight")] * b * wide for n, b in bits.items())

    return {"weight_bytes": weight_bytes, "bit_operations": bit_operations}


def _solved(
    free: Sequence[str],
    lost: Mapping[int, Mapping[str, float]],
    costs: Mapping[str, Cost],
    held: Mapping[str, int],
    budgets: Mapping[str, float],
) -> dict[str, int]:
    """Bits of the weights that are free to choose."""
    choices = sorted(lost)
    fewest, most = choices[0], choices[-1]
    _check_feasible({**held, **dict.fromkeys(free, fewest)}, costs, budgets)

    def joint(cost: Cost) -> Cost:
        return lambda bits: cost({**held, **{n: bits_at_most(b, choices) for n, b in bits.items()}})

    kept = dp(
        [Group(fqn, units=most, slices=()) for fqn in free],
        {},
        {fqn: bits_curve({b: lost[b].get(fqn, 0.0) for b in choices}) for fqn in free},
        {name: joint(cost) for name, cost in costs.items()},
        Demand(budgets=dict(budgets), max_pruning_ratio=1 - fewest / most),
    )
    return {fqn: bits_at_most(bits, choices) for fqn, bits in kept.items()}


def _check_feasible(
    bits: Mapping[str, int], costs: Mapping[str, Cost], budgets: Mapping[str, float]
) -> None:
    """Refuse budgets that the fewest bits are above."""
    least = {name: costs[name](bits) for name in budgets}
    over = [name for name in budgets if least[name] > budgets[name]]
    if over:
        reasons = (f"{n} <= {budgets[n]:,.0f} cannot be met: it is {least[n]:,.0f}" for n in over)
        raise InfeasibleError(
            f"{'; '.join(reasons)} with the fewest bits, {words(bits)}; ask for that much, or let "
            "weight_bits hold fewer",
            least,
        )


def _uniform(settings: Settings, free: Sequence[str], bits: int) -> Settings:
    weight_bits = {**settings.weight_bits, **dict.fromkeys(free, bits)}
    return replace(settings, weight_bits=weight_bits, rounding="nearest", bias_correction=False)


def _lost(
    folded: Program, network: QuantizedNetwork, samples: Calibration, say: Say
) -> dict[str, float]:
    """Error of the outputs by weight, summed over the layers that read it."""
    found = [unit for unit in units(network) if unit.weight is not None]
    lost: dict[str, float] = defaultdict(float)
    for unit, error in zip(found, alone(folded, network, samples, found, say), strict=True):
        lost[str(unit.weight)] += error
    return lost


def bits_curve(lost: Mapping[int, float]) -> Tensor:
    """Error by bits dropped; what lies between two choices counts as the lower one.

    Args:
        lost: Error by bits.

    Returns:
        `(most bits + 1,)` float64, below the fewest bits that of these.

    Example:
        >>> bits_curve({1: 0.5, 3: 0.1})
        tensor([0.1000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    choices = sorted(lost)
    kept = [max(bits, choices[0]) for bits in range(choices[-1], -1, -1)]
    return torch.tensor([lost[bits_at_most(bits, choices)] for bits in kept], dtype=torch.float64)


def bits_at_most(bits: int, choices: Sequence[int]) -> int:
    """The most bits among `choices` that are no more than `bits`."""
    return max(choice for choice in choices if choice <= bits)

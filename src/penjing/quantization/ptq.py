"""Post-training quantization: a captured network and unlabelled samples to a quantized network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from penjing.errors import StrategyError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import (
    TRANSPOSED,
    channel_dim,
    fold_norms,
    is_layer,
    like,
    norms_as_layers,
    stored_names,
)
from penjing.quantization.attention import attention_as_products
from penjing.quantization.compensation import compensate
from penjing.quantization.equalization import equalize
from penjing.quantization.formats import Grid, fitting, stored_bits
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.observers import Observer
from penjing.quantization.observers import resolve as resolve_observer
from penjing.quantization.placement import RECURRENT, Placement, place
from penjing.quantization.ranges import flat_batches, observe
from penjing.quantization.recurrence import STATE, directions, fraction_bits, largest_cell
from penjing.quantization.rounding import ROUNDINGS, Rounding, weight_grid
from penjing.quantization.scheme import Scheme
from penjing.quantization.simulation import walk
from penjing.quantization.thinning import Thinning
from penjing.task import Calibration

_BYTE = 8
_SHARES = (0.0, 1 - 2.0**-15)  # of a softmax in 16 bits
_TINY_RANGE = 255 * 2.0**-126  # a step of the smallest normal float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a network is quantized.

    Args:
        scheme: Bits of weights and activations.
        observer: Short name or object that chooses the range of an activation.
        rounding: How weights are rounded: "nearest", "gptq" or "adaround".
        equalization: Whether ranges of neighbouring layers are made alike first.
        bias_correction: Whether biases make up for the mean error of each channel.
        keep_float: Node -> reason, for what shall stay in floats.
        weight_bits: Bits of single weights, by qualified name, instead of the scheme's.
        recurrent: Whether GRU, LSTM and RNN run in integers where they can.
        memory_mb: Bound on the values held while weights are rounded, MiB.
        seed: Of the rows that Gram matrices look at.
        thinning: Weights that become zero on the same pass over the samples.
    """

    scheme: Scheme = field(default_factory=Scheme)
    observer: str | Observer = "mse"
    rounding: Rounding = "nearest"
    equalization: bool = False
    bias_correction: bool = True
    keep_float: Mapping[str, str] = field(default_factory=dict)
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    recurrent: bool = True
    memory_mb: float = 1024
    seed: int = 0
    thinning: Thinning | None = None

    def __post_init__(self) -> None:
        resolve_observer(self.observer)
        if self.rounding not in ROUNDINGS:
            known = ", ".join(map(repr, ROUNDINGS))
            raise StrategyError(f"rounding is {self.rounding!r}; known are {known}")


def quantize_program(
    program: Program, calibration: Calibration, settings: Settings | None = None
) -> QuantizedNetwork:
    """Quantize a captured network from unlabelled samples.

    Args:
        program: A captured network in eval mode, on the CPU; only read.
        calibration: Samples.
        settings: How.

    Returns:
        The network with its grids.

    Raises:
        InputError: A value is NaN or infinite on the calibration data.
        StrategyError: Nothing in the network can run in integers.
    """
    settings = settings or Settings()
    folded = prepared(program, settings)
    placement = placed(folded, settings)
    ranges = activation_ranges(folded, placement, calibration, settings)
    return assemble(folded, placement, ranges, calibration, settings)


def prepared(program: Program, settings: Settings) -> Program:
    """The network in floats whose weights are then put on grids.

    Args:
        program: A captured network in eval mode.
        settings: Say whether ranges are made alike.

    Returns:
        Norms folded or made layers, attention written out; node names stay.
    """
    folded = attention_as_products(norms_as_layers(fold_norms(program)))
    return equalize(folded) if settings.equalization else folded


def placed(folded: Program, settings: Settings) -> Placement:
    """Which of a folded network's values are integers.

    Raises:
        StrategyError: Nothing has an integer form; the message has the first reasons.
    """
    recurrent = settings.recurrent and settings.scheme.activation_bits == _BYTE
    placement = place(folded, settings.keep_float, recurrent=recurrent)
    if not placement.groups and not placement.weights:
        raise StrategyError(
            "nothing in the network has an integer form: "
            + "; ".join(f"{n}: {r}" for n, r in list(placement.fallbacks.items())[:3])
        )
    return placement


def activation_ranges(
    folded: Program, placement: Placement, calibration: Calibration, settings: Settings
) -> dict[str, tuple[float, float]]:
    """The range of every group of activations, by representative."""
    bits = dict.fromkeys(placement.groups.values(), settings.scheme.activation_bits)
    return observe(folded, placement, calibration, resolve_observer(settings.observer), bits)


def assemble(
    folded: Program,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    calibration: Calibration,
    settings: Settings,
) -> QuantizedNetwork:
    """Grids from ranges, weights onto their grids, biases corrected.

    Args:
        folded: Folded program.
        placement: What is held in integers.
        ranges: Of activations, by representative.
        calibration: Samples, for the roundings that look at data and for the biases.
        settings: How.

    Returns:
        The network.
    """
    scheme = settings.scheme
    activations = _activation_grids(folded, placement, ranges, scheme)
    wanted = {
        fqn: _weight_grid(folded, fqn, folded.nodes[node], settings)
        for fqn, node in placement.weights.items()
    }
    weights = fitted(folded, placement.fallbacks, activations, wanted, scheme)
    network = QuantizedNetwork(
        program=_on_grids(folded, weights),
        activations=activations,
        weights=weights,
        fallbacks=placement.fallbacks,
        scheme=str(scheme),
        notes=(
            *_odd_ranges(ranges),
            *coarser(wanted, weights),
            *_padded(folded, weights),
            *_without_zero(folded, weights),
        ),
        cell_bits=_cell_bits(folded, placement, calibration),
    )
    if (
        settings.rounding == "nearest"
        and not settings.bias_correction
        and settings.thinning is None
    ):
        return network

    def regrid(fqn: str, weight: Tensor) -> Grid:
        sparse = replace(folded, tensors={**folded.tensors, fqn: weight})
        grid = _weight_grid(sparse, fqn, folded.nodes[placement.weights[fqn]], settings)
        return fitted(sparse, placement.fallbacks, activations, {fqn: grid}, scheme)[fqn]

    return compensate(
        folded,
        network,
        calibration,
        rounding=settings.rounding,
        biases=settings.bias_correction,
        memory_mb=settings.memory_mb,
        seed=settings.seed,
        thinning=settings.thinning,
        regrid=regrid,
    )


def _activation_grids(
    folded: Program,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    scheme: Scheme,
) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    for first in dict.fromkeys(placement.groups.values()):
        if op_name(folded.nodes[first]) in RECURRENT:
            grids[first] = STATE
            continue
        shares = op_name(folded.nodes[first]) == "softmax" and scheme.activation_bits > _BYTE
        extent = _SHARES if shares else ranges[first]
        grid = Grid.affine(*extent, bits=scheme.activation_bits)
        grids[first] = grid.power_of_two() if scheme.power_of_two else grid
    return {name: grids[first] for name, first in placement.groups.items()}


def _cell_bits(folded: Program, placement: Placement, calibration: Calibration) -> dict[str, int]:
    """Fractional bits of the cells of every LSTM in integers: as many as their range leaves."""
    nodes = [
        folded.nodes[name] for name in placement.groups if op_name(folded.nodes[name]) == "lstm"
    ]
    largest = dict.fromkeys(nodes, 0.0)

    def look(seen: fx.Node, value: Any) -> Any:
        for node in (user for user in seen.users if user in largest):
            if Call(node).arg("input") is seen:
                largest[node] = max(largest[node], largest_cell(folded, node, value))
        return value

    if nodes:
        for flat in flat_batches(folded, calibration):
            walk(folded, flat, look)
    return {node.name: fraction_bits(extent) for node, extent in largest.items()}


def _weight_grid(folded: Program, fqn: str, node: fx.Node, settings: Settings) -> Grid:
    """The grid of one weight: per output channel for layers, one scale for other operands."""
    bits = settings.weight_bits.get(fqn, settings.scheme.weight_bits)
    axis = None
    if is_layer(node):
        whole = op_name(node) in TRANSPOSED and int(Call(node).arg("groups", 1)) > 1
        axis = None if whole or not settings.scheme.per_channel else channel_dim(node)
    elif op_name(node) in RECURRENT:
        axis = 0 if settings.scheme.per_channel else None
    else:
        bits = max(bits, 8)
    grid = weight_grid(folded.tensors[fqn], bits, axis)
    return grid.power_of_two() if settings.scheme.power_of_two else grid


def fitted(
    folded: Program,
    fallbacks: Mapping[str, str],
    activations: Mapping[str, Grid],
    wanted: Mapping[str, Grid],
    scheme: Scheme,
) -> dict[str, Grid]:
    """Grids of weights on which the sums and biases of every layer that reads them fit 32 bits.

    Args:
        folded: Its tensors are floats.
        fallbacks: Nodes computed in floats, with the reason.
        activations: Grids by node.
        wanted: Grids of weights as these alone would have them.
        scheme: Says whether scales are powers of two.

    Returns:
        Grids by qualified name; the very object of `wanted` where everything fits.
    """
    found = dict(wanted)
    for fqn, source, bias in _sums(folded, fallbacks, activations):
        if fqn not in found:
            continue
        values = None if bias is None else folded.tensors[bias]
        grid = fitting(source, found[fqn], folded.tensors[fqn], values)
        changed = grid is not found[fqn] and scheme.power_of_two
        found[fqn] = grid.power_of_two() if changed else grid
    return found


def _sums(
    folded: Program, fallbacks: Mapping[str, str], activations: Mapping[str, Grid]
) -> Iterator[tuple[str, Grid, str | None]]:
    """What is summed up in integers: weight, grid of what it multiplies, bias if there is one."""
    for node in folded.graph.nodes:
        if node.op != "call_function" or node.name in fallbacks:
            continue
        if is_layer(node):
            names, source = (
                stored_names(folded, node),
                activations.get(Call(node).arg("input").name),
            )
            if source is not None:
                yield names.get("weight", ""), source, names.get("bias")
        elif op_name(node) in RECURRENT and node.name in activations:
            source = activations[Call(node).arg("input").name]
            for one in directions(folded, node):
                yield one.input, STATE if one.layer else source, one.input_bias
                yield one.state, STATE, one.state_bias


def _odd_ranges(ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """Values that calibration shows nothing of, or too little for a float32 step."""
    notes = []
    for name, (low, high) in ranges.items():
        if low == high:
            notes.append(
                f"{name} is always {low:g} on the calibration data, and its grid holds nothing "
                "beyond; does the data show what the network will see?"
            )
        elif max(high, 0.0) - min(low, 0.0) < _TINY_RANGE:
            notes.append(
                f"{name} lies within [{low:.3g}, {high:.3g}] on the calibration data, less than a "
                "step of float32 can divide: it becomes zero"
            )
    return notes


def coarser(wanted: Mapping[str, Grid], fitted: Mapping[str, Grid]) -> list[str]:
    """Weights whose grid is coarser than their values ask for, in words."""
    return [
        f"{int((grid.scale > wanted[fqn].scale).sum())} of {grid.scale.numel()} scales of {fqn} "
        "are coarser than its weights ask for, so that bias and sums fit 32 bits"
        for fqn, grid in fitted.items()
        if not grid.same(wanted[fqn])
    ]


def _padded(folded: Program, weights: Mapping[str, Grid]) -> list[str]:
    """Weights of less than a byte that do not fill their last one."""
    counts = {fqn: (folded.tensors[fqn].numel(), grid.bits) for fqn, grid in weights.items()}
    return [
        f"{fqn} has {count} weights of {stored_bits(bits)} bits; its last byte is padded"
        for fqn, (count, bits) in counts.items()
        if count * stored_bits(bits) % _BYTE
    ]


def _without_zero(folded: Program, weights: Mapping[str, Grid]) -> list[str]:
    """Sparse weights whose grid has no zero."""
    zeros = {f: int((folded.tensors[f] == 0).sum()) for f, g in weights.items() if g.bits == 1}
    return [
        f"{count} weights of {fqn} are zero, which one bit cannot say: they become plus or minus "
        "its scale; 2 bits (ternary) keep zeros"
        for fqn, count in zeros.items()
        if count
    ]


def _on_grids(folded: Program, weights: Mapping[str, Grid]) -> Program:
    """A program whose weights are rounded to the nearest numbers of their grids."""
    tensors = dict(folded.tensors)
    for fqn, grid in weights.items():
        tensors[fqn] = like(tensors[fqn], grid.fake(tensors[fqn].detach().double()))
    return replace(folded, tensors=tensors)

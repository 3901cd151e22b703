"""Post-training quantization: a captured network and unlabelled samples to a quantized network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import fx

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
)
from penjing.quantization.compensation import compensate
from penjing.quantization.equalization import equalize
from penjing.quantization.formats import Grid
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.observers import Observer
from penjing.quantization.observers import resolve as resolve_observer
from penjing.quantization.placement import Placement, place
from penjing.quantization.ranges import observe
from penjing.quantization.rounding import ROUNDINGS, Rounding, weight_grid
from penjing.quantization.scheme import Scheme
from penjing.task import Calibration


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
        memory_mb: Bound on the values held while weights are rounded, MiB.
        seed: Of the rows that Gram matrices look at.
    """

    scheme: Scheme = field(default_factory=Scheme)
    observer: str | Observer = "mse"
    rounding: Rounding = "nearest"
    equalization: bool = False
    bias_correction: bool = True
    keep_float: Mapping[str, str] = field(default_factory=dict)
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    memory_mb: float = 1024
    seed: int = 0

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
    placement = place(folded, settings.keep_float)
    if not placement.groups:
        raise StrategyError(
            "nothing in the network has an integer form: "
            + "; ".join(f"{n}: {r}" for n, r in list(placement.fallbacks.items())[:3])
        )
    ranges = activation_ranges(folded, placement, calibration, settings)
    return assemble(folded, placement, ranges, calibration, settings)


def prepared(program: Program, settings: Settings) -> Program:
    """The network in floats whose weights are then put on grids.

    Args:
        program: A captured network in eval mode.
        settings: Say whether ranges are made alike.

    Returns:
        Norms folded or made layers; node names stay.
    """
    folded = norms_as_layers(fold_norms(program))
    return equalize(folded) if settings.equalization else folded


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
    activations = _activation_grids(placement, ranges, scheme)
    weights = {
        fqn: _weight_grid(folded, fqn, folded.nodes[node], settings)
        for fqn, node in placement.weights.items()
    }
    network = QuantizedNetwork(
        program=_on_grids(folded, weights),
        activations=activations,
        weights=weights,
        fallbacks=placement.fallbacks,
        scheme=str(scheme),
    )
    if settings.rounding == "nearest" and not settings.bias_correction:
        return network
    return compensate(
        folded,
        network,
        calibration,
        rounding=settings.rounding,
        biases=settings.bias_correction,
        memory_mb=settings.memory_mb,
        seed=settings.seed,
    )


def _activation_grids(
    placement: Placement, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    for first in dict.fromkeys(placement.groups.values()):
        grid = Grid.affine(*ranges[first], bits=scheme.activation_bits)
        grids[first] = grid.power_of_two() if scheme.power_of_two else grid
    return {name: grids[first] for name, first in placement.groups.items()}


def _weight_grid(folded: Program, fqn: str, node: fx.Node, settings: Settings) -> Grid:
    """The grid of one weight: per output channel for layers, one scale for other operands."""
    bits = settings.weight_bits.get(fqn, settings.scheme.weight_bits)
    axis = None
    if is_layer(node):
        whole = op_name(node) in TRANSPOSED and int(Call(node).arg("groups", 1)) > 1
        axis = None if whole or not settings.scheme.per_channel else channel_dim(node)
    else:
        bits = max(bits, 8)
    grid = weight_grid(folded.tensors[fqn], bits, axis)
    return grid.power_of_two() if settings.scheme.power_of_two else grid


def _on_grids(folded: Program, weights: Mapping[str, Grid]) -> Program:
    """A program whose weights are rounded to the nearest numbers of their grids."""
    tensors = dict(folded.tensors)
    for fqn, grid in weights.items():
        tensors[fqn] = like(tensors[fqn], grid.fake(tensors[fqn].detach().double()))
    return replace(folded, tensors=tensors)

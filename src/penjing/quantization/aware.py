"""Quantization-aware training: a network that trains on the grids on which it will run.

Norms are folded first, with their statistics, and the folded weights are trained: what is rounded
in training is then exactly what the integer network holds. A live norm would scale the weights
anew for every batch; a step per channel and a trained bias do what it could do. Norms that cannot
be folded keep their statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from penjing.errors import InputError
from penjing.figures import Figures
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import layer_nodes, like, stored_names
from penjing.graph.form import graph_form
from penjing.quantization.formats import Grid
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.placement import JOINS, MOVES, PRESCRIBED
from penjing.quantization.ptq import Settings, coarser, fitted, prepared, quantize_program
from penjing.quantization.scheme import Scheme
from penjing.quantization.steps import (
    BiasGrid,
    FixedGrid,
    FollowingGrid,
    LearnedGrid,
    MovingGrid,
    TrainedGrid,
    ZerosKept,
)
from penjing.task import Calibration

Steps = Literal["learned", "observed"]
STEPS = ("learned", "observed")

_HOLDER = "fake_quantization"
_KEEPS_GRID = MOVES | JOINS | {"max_pool1d", "max_pool2d", "max_pool3d"}
"""Ops whose result needs no rounding where all that they read lies on one grid."""


def prepare_program(  # noqa: PLR0913 - called from one place
    program: Program,
    calibration: Calibration,
    settings: Settings,
    *,
    steps: Steps,
    freeze_at: float,
    parent: nn.Module,
    figures: Figures,
) -> QuantizationAware:
    """Quantize a captured network after training, and make a network to train of it.

    Args:
        program: In eval mode, on the CPU; only read.
        calibration: Samples, for the grids to start from.
        settings: How; the rounding is always to the nearest.
        steps: "learned" or "observed".
        freeze_at: Share of a training run after which grids stay.
        parent: The network it was captured from.
        figures: Of that network.

    Returns:
        The network to train.
    """
    settings = replace(settings, rounding="nearest", recurrent=False)
    start = quantize_program(program, calibration, settings)
    folded = prepared(program, settings)
    weights = {fqn: folded.tensors[fqn] for fqn in start.weights}
    floats = replace(start.program, tensors={**start.program.tensors, **weights})
    origin = Origin(start, floats, parent, figures)
    return QuantizationAware(origin, settings.scheme, steps=steps, freeze_at=freeze_at)


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """Where a network in training came from; its copies share it.

    Args:
        start: Quantized after training: the grids to start from.
        floats: The same program with weights in floats.
        parent: The network in floats.
        figures: Of that network.
    """

    start: QuantizedNetwork
    floats: Program
    parent: nn.Module
    figures: Figures

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self


class QuantizationAware(nn.Module):
    """A network in training whose values lie on grids; `pj.convert` makes integers of it.

    Parameters have the names of the network it came from, norms folded. What was zero in a weight
    stays zero. In eval mode it computes what the converted network simulates.

    Args:
        origin: Where it comes from.
        scheme: Bits and kinds of grids.
        steps: "learned" or "observed".
        freeze_at: Share of a training run after which grids stay.
    """

    def __init__(self, origin: Origin, scheme: Scheme, *, steps: Steps, freeze_at: float) -> None:
        super().__init__()
        self.scheme, self.steps, self.freeze_at = scheme, steps, freeze_at
        self.origin = origin
        self.network = graph_form(origin.floats)
        writer = _Writer(self.network, origin, scheme, steps)
        writer.write()
        self._places, self._kept = writer.places, writer.kept
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original network is called.

        Args:
            args: Inputs.
            kwargs: Inputs by name.

        Returns:
            Outputs in the original's structure.

        Raises:
            InputError: It was asked for by a capture.
        """
        if torch.compiler.is_exporting():
            raise InputError(
                "a network prepared for quantization-aware training is not captured: prune and "
                "sparsify before `prepare`, then train, and `convert` before it is saved, "
                "measured or exported"
            )
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> QuantizationAware:
        """Training mode for the grids; norms that could not be folded keep their statistics."""
        super().train(mode)
        self.network.eval()
        for grid in self.grids():
            grid.train(mode)
        return self

    def grids(self) -> Iterator[TrainedGrid]:
        """Every grid."""
        return (m for m in self.network.modules() if isinstance(m, TrainedGrid))

    def relative_rates(self) -> Mapping[str, float]:
        """Learning rates of matrices and kernels for Adam, in units of the run's, by parameter.

        Adam moves every weight by about as much, however small the weights of its tensor are; a
        folded first layer that reads bytes can be thirty times smaller than the others and would
        leave its grid at once. Rates are therefore in proportion to the root mean square of what
        was not zero before training, and the median tensor has the rate of the run.

        Returns:
            Positive rates; tensors of zeros alone are left out.
        """
        floats = self.origin.floats
        sizes = {
            f"network.{fqn}": float(tensor.detach().double().norm())
            / math.sqrt(tensor.count_nonzero())
            for fqn, tensor in floats.tensors.items()
            if fqn in floats.parameters and tensor.dim() > 1 and bool(tensor.any())
        }
        middle = sorted(sizes.values())[len(sizes) // 2] if sizes else 1.0
        return {name: size / middle for name, size in sizes.items()}

    def freeze(self, *, frozen: bool = True) -> None:
        """Let grids stay where they are, or move again.

        Args:
            frozen: Whether they stay.
        """
        for grid in self.grids():
            grid.freeze(frozen=frozen)

    @torch.no_grad()
    def quantized(self) -> QuantizedNetwork:
        """The network in integers, as it is now.

        Returns:
            Copies, on the CPU. Its integers are those on which this network computes, unless a sum
            or a bias would leave 32 bits, which its notes then say.
        """
        start = self.origin.start
        grids = {place: self._grid_at(place) for place in set(self._places.values())}
        activations = {name: grids[self._places[name]] for name in start.activations}
        wanted = {fqn: grids[self._places[fqn]] for fqn in start.weights}
        tensors = {fqn: like(t, self._present(fqn)) for fqn, t in start.program.tensors.items()}
        floats = replace(start.program, tensors=tensors)
        weights = fitted(floats, start.fallbacks, activations, wanted, self.scheme)
        rounded = {fqn: like(tensors[fqn], g.fake(tensors[fqn])) for fqn, g in weights.items()}
        return replace(
            start,
            program=replace(floats, tensors={**tensors, **rounded}),
            activations=activations,
            weights=weights,
            notes=(*start.notes, *coarser(wanted, weights), *self._unmoved(tensors)),
        )

    def extra_repr(self) -> str:
        """Scheme and kind of steps."""
        return f"{self.origin.start.scheme}, {self.steps} steps"

    def _grid_at(self, place: str) -> Grid:
        module = self.network.get_submodule(place)
        assert isinstance(module, TrainedGrid)
        return module.grid

    def _present(self, fqn: str) -> Tensor:
        """A tensor as it is now, with the zeros that it keeps."""
        owner, _, field = fqn.rpartition(".")
        tensor: Tensor = getattr(self.network.get_submodule(owner), field)
        if fqn in self._kept:
            tensor = self.network.get_submodule(self._kept[fqn])(tensor)
        return tensor.detach().cpu().clone()

    def _unmoved(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Said when weights were trained and no learned step was."""
        ratios = [grid.ratio for grid in self.grids() if isinstance(grid, LearnedGrid)]
        if not ratios or any(bool((ratio != 1).any()) for ratio in ratios):
            return []
        before = self.origin.floats.tensors
        if all(torch.equal(tensors[fqn], before[fqn]) for fqn in self.origin.start.weights):
            return []
        return [
            "weights were trained and no learned step has moved: the optimizer did not have the "
            "steps; make it from the parameters of the prepared network"
        ]


@dataclass(eq=False)
class _Writer:
    """Puts grids into a graph form, in place."""

    form: fx.GraphModule
    origin: Origin
    scheme: Scheme
    steps: Steps

    def __post_init__(self) -> None:
        self.places: dict[str, str] = {}  # node or qualified name of a weight -> its grid
        self.kept: dict[str, str] = {}  # qualified name -> what keeps its zeros
        self.made: dict[int, str] = {}  # id of a grid to start from -> place
        self.lies: dict[fx.Node, str] = {}  # value -> the grid on which it lies
        self.holder = nn.Module()
        self.form.add_module(_HOLDER, self.holder)

    def write(self) -> None:
        """Put them all in."""
        start = self.origin.start
        for name, grid in start.activations.items():
            self.places[name] = self._place(grid, lambda g, n=name: self._activation(g, n))
        for fqn, grid in start.weights.items():
            self.places[fqn] = self._place(grid, lambda g, n=fqn: self._weight(g, n))
        biases = self._biases()
        inputs = [node for node in self.form.graph.nodes if node.op == "placeholder"]
        for node, name in zip(inputs, start.program.inputs, strict=True):
            if name in start.activations:
                self._insert(node, self.places[name])
        for node in list(self.form.graph.nodes):
            if node.op == "get_attr" and node.target in start.weights:
                self._weight_node(node)
            elif node.op == "get_attr" and node.target in biases:
                self._insert(node, biases[node.target])
            elif node.op == "call_function" and node.name in start.activations:
                self._value_node(node)
        self.form.recompile()

    def _biases(self) -> dict[str, str]:
        """Qualified names of biases, and what brings them to their grids."""
        start, found = self.origin.start, {}
        for node in layer_nodes(start.program):
            names = stored_names(start.program, node)
            if names.get("bias") in start.biases:
                source = self.places[Call(node).arg("input").name]
                pair = (source, self.places[names["weight"]])
                grids = [self.form.get_submodule(place) for place in pair]
                found[names["bias"]] = self._add(BiasGrid(*grids))  # type: ignore[arg-type]
        return found

    def _weight_node(self, node: fx.Node) -> None:
        fqn = str(node.target)
        weight = self.origin.floats.tensors[fqn]
        if self.origin.start.weights[fqn].bits > 1 and not bool(weight.all()):
            self.kept[fqn] = self.kept.get(fqn) or self._add(ZerosKept(weight))
            node = self._insert(node, self.kept[fqn])
        self._insert(node, self.places[fqn])

    def _value_node(self, node: fx.Node) -> None:
        """Round a value, unless it lies on its grid because all that it was made from does."""
        here = self.places[node.name]
        keeps = op_name(node) in _KEEPS_GRID and node.name not in self.origin.start.fallbacks
        if keeps and all(self.lies.get(n) == here for n in node.all_input_nodes):
            self.lies[node] = here
        else:
            self._insert(node, here)

    def _activation(self, grid: Grid, name: str) -> TrainedGrid:
        start, power = self.origin.start, self.scheme.power_of_two
        alike = (n for n, other in start.activations.items() if other is grid)
        if any(op_name(start.program.nodes[n]) in PRESCRIBED for n in alike):
            return FixedGrid(grid)
        if self.steps == "observed":
            return MovingGrid(grid, power_of_two=power)
        program = self.origin.start.program
        values = math.prod(program.shape(program.nodes[name])[1:])
        return LearnedGrid(grid, values, power_of_two=power)

    def _weight(self, grid: Grid, fqn: str) -> TrainedGrid:
        power, weight = self.scheme.power_of_two, self.origin.floats.tensors[fqn]
        if self.steps == "observed":
            return FollowingGrid(grid, weight, power_of_two=power)
        return LearnedGrid(grid, weight.numel() // grid.scale.numel(), power_of_two=power)

    def _place(self, grid: Grid, make: Any) -> str:
        """Where the grid of a group lives; made once."""
        if id(grid) not in self.made:
            self.made[id(grid)] = self._add(make(grid))
        return self.made[id(grid)]

    def _add(self, module: nn.Module) -> str:
        name = f"{type(module).__name__.lower()}_{len(self.holder._modules)}"
        self.holder.add_module(name, module)
        return f"{_HOLDER}.{name}"

    def _insert(self, node: fx.Node, place: str) -> fx.Node:
        """Let readers of a node read it through a module."""
        with self.form.graph.inserting_after(node):
            fresh = self.form.graph.call_module(place, (node,))
        node.replace_all_uses_with(fresh, delete_user_cb=lambda user: user is not fresh)
        self.lies[fresh] = place
        return fresh

"""Bits beside widths and zeros: the bits of a layer's weights are a group in the same allocation.

Errors are of one kind. Units are judged by the error of what their readers feed, zeros and bits by
the error of what their layer feeds, relative to its energy and with the rest made up for: by least
squares for units and zeros, by GPTQ for bits. What a candidate costs is what `save` writes of it.

Suffixes: G = convolution groups, V = outputs of one group, U = unknowns of one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from penjing.counts.macs import Counter
from penjing.counts.sizes import Shape
from penjing.graph.capture import Program
from penjing.graph.folding import is_layer
from penjing.plan import Group
from penjing.pruning.patterns import Pattern, Tiling
from penjing.pruning.selection import Key
from penjing.pruning.weights.protocol import Matrix, Target
from penjing.pruning.weights.survey import Survey
from penjing.pruning.weights.targets import Wanted, find_targets
from penjing.quantization.footprint import BYTE, Footprint, Left
from penjing.quantization.mixed import bits_at_most, bits_curve
from penjing.quantization.ptq import Settings, placed, prepared
from penjing.quantization.rounding import gptq, weight_grid
from penjing.task import Calibration

COSTS = ("size_kb", "bit_operations")
KIB = 1024  # a kB of flash or RAM is 1024 bytes, as data sheets have it
FLOAT = 32  # bits
TINY = 1e-30  # keeps quotients finite


@dataclass(frozen=True, slots=True)
class Rounded:
    """The error of a layer in each of several numbers of bits, in place of scores of its weights.

    Args:
        choices: Bits.
    """

    choices: tuple[int, ...]

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Relative error of what the layer feeds.

        Args:
            layer: With a Gram matrix.
            tiling: Not read.

        Returns:
            `(choices,)` float64.
        """
        assert layer.gram is not None  # only layers that the survey sees are asked for
        w_GVU = layer.weight * layer.scale[:, :, None]
        felt_GUU = (layer.gram.centred() if layer.free else layer.gram).xx
        lost = []
        for bits in self.choices:
            grid = weight_grid(w_GVU.flatten(0, 1), bits, axis=0)
            step_GV = grid.scale.view(w_GVU.shape[:2])
            gap_GVU = gptq(w_GVU, step_GV, grid, layer.gram.xx) - w_GVU
            lost.append(((gap_GVU @ felt_GUU) * gap_GVU).sum())
        return torch.stack(lost).clamp_min(0) / max(layer.energy, TINY)


@dataclass(frozen=True, eq=False)
class Precisions:
    """The layers of a network whose weights may have few bits, as groups of their bits.

    Args:
        program: The network.
        footprint: The tensors that it will have in integers.
        targets: Weights whose bits are chosen, as far as a Gram matrix says what these are worth.
        choices: Bits to choose from, ascending.
        seed: Of the choice of output positions that are looked at.
    """

    program: Program
    footprint: Footprint
    targets: tuple[Target, ...]
    choices: tuple[int, ...]
    seed: int = 0

    @classmethod
    def of(
        cls,
        model: nn.Module,
        program: Program,
        choices: tuple[int, ...],
        ignored: tuple[Key, ...] = (),
        seed: int = 0,
    ) -> Precisions:
        """The layers of a network whose bits can be chosen beside its widths and zeros.

        Args:
            model: The network, for the names of its layers.
            program: Its capture.
            choices: Bits to choose from, ascending.
            ignored: Layers that keep 8 bits.
            seed: As of the class.

        Raises:
            StrategyError: An ignored layer matches nothing, or nothing has an integer form.
        """
        settings = Settings()
        folded = prepared(program, settings)
        placement = placed(folded, settings)
        layers = {f for f, node in placement.weights.items() if is_layer(folded.nodes[node])}
        wanted = Wanted(pattern=Pattern(), keep_dense=(), ignored_layers=ignored)
        found, _ = find_targets(model, program, wanted)
        survey = Survey(program=program, targets=found, importance=Rounded(choices))
        targets = tuple(t for t in found if t.weight in layers and survey.sees(t))
        return cls(program, Footprint(program, folded, placement), targets, choices, seed)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """One group per layer; its units are the bits of its weights."""
        least, most = self.choices[0], self.choices[-1]
        names = (_name(target.weight) for target in self.targets)
        return tuple(Group(name, most, (), kind="bits", least=least) for name in names)

    def errors(self, calibration: Calibration) -> dict[str, Tensor]:
        """Error of what each layer feeds once so many bits are gone, by name of its group.

        Args:
            calibration: Unlabelled samples.

        Returns:
            `(most bits + 1,)` float64, relative to the energy of what the layer feeds; not zero at
            the most bits.
        """
        survey = Survey(
            program=self.program,
            targets=self.targets,
            importance=Rounded(self.choices),
            seed=self.seed,
        )
        return {
            _name(name): bits_curve(dict(zip(self.choices, lost.tolist(), strict=True)))
            for name, lost in survey.run(calibration).items()
        }

    def bits(self, kept: Mapping[str, int]) -> dict[str, int]:
        """Bits of the weights whose groups a candidate names, by name of the weight.

        Args:
            kept: Bits kept by name of the group.
        """
        named = ((t.weight, kept.get(_name(t.weight))) for t in self.targets)
        return {fqn: bits_at_most(b, self.choices) for fqn, b in named if b is not None}

    def costs(
        self, counter: Counter, shape: Shape, kept: Mapping[str, int], left: Left
    ) -> tuple[float, float]:
        """What a candidate costs in integers.

        Args:
            counter: Of the program, or of what is left of it.
            shape: Shapes after a cut.
            kept: Bits kept by name of the group.
            left: Weights that are not zero.

        Returns:
            In the order of `COSTS`: kB as `save` packs them; multiply-accumulates with weights that
            are not zero, times bits of weight and of activation.
        """
        bits = self.bits(kept)
        size = self.footprint.size_bytes(counter.program, shape, bits, left)
        stored = {self.program.stored[n.name]: n for n in counter.stored}
        made = dict.fromkeys(self.footprint.placement.fallbacks, (FLOAT / BYTE) ** 2)
        for target in (t for t in self.targets if t.weight in stored):
            elements = torch.Size(shape(stored[target.weight])).numel()
            share = left(target.weight, elements) / elements * bits.get(target.weight, BYTE) / BYTE
            made |= {layer.node: share for layer in target.layers}
        return size / KIB, float(counter.macs(shape, made) * BYTE * BYTE)

    def in_floats(self, counter: Counter, shape: Shape) -> tuple[float, float]:
        """The same of the network as it is, in floats.

        Args:
            counter: Of the program.
            shape: Its shapes.

        Returns:
            In the order of `COSTS`.
        """
        tensors = ((self.program.tensors[self.program.stored[n.name]], n) for n in counter.stored)
        size = sum(tensor.itemsize * torch.Size(shape(node)).numel() for tensor, node in tensors)
        return size / KIB, float(counter.macs(shape) * FLOAT * FLOAT)


def _name(weight: str) -> str:
    return f"bits of {weight}"

"""What a network's outputs lose when units are zero: measured, without building anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.plan import Group
from penjing.pruning.gradients import Loss, energies, whole_chunks
from penjing.statistics.stream import evaluate
from penjing.task import Calibration
from penjing.task.outputs import Outputs, named_tensors

BATCH = 32  # samples of which all activations are held at once
AS_FOUND = Outputs()  # what outputs look like


def zeroed(program: Program, group: Group, units: Sequence[int]) -> dict[str, Tensor]:
    """Stored tensors of a network with some units of one group set to zero.

    Args:
        program: The network.
        group: One of its groups.
        units: Which.

    Returns:
        The changed tensors by qualified name.
    """
    return masked_tensors(program, [(group, units)])


def masked_tensors(
    program: Program, gone: Sequence[tuple[Group, Sequence[int]]]
) -> dict[str, Tensor]:
    """Stored tensors of a network with units of several groups set to zero.

    Args:
        program: The network.
        gone: Groups and their units that go.

    Returns:
        The changed tensors by qualified name.
    """
    found: dict[str, Tensor] = {}
    kept = _directions(program)
    for group, units in gone:
        for piece in group.slices if len(units) else ():
            if (piece.tensor, piece.dim) in kept:
                continue
            tensor = found.get(piece.tensor, program.tensors[piece.tensor].detach())
            index = torch.tensor([p for u in units for p in piece.positions(u)])
            found[piece.tensor] = tensor.index_fill(piece.dim, index.to(tensor.device), 0)
    return found


def _directions(program: Program) -> frozenset[tuple[str, int]]:
    """Tensors that a weight norm divides by their length, and the dimension of their vectors.

    Their lengths `g` are zero where a unit is, which is enough: a vector of zeros has no direction.
    """
    return frozenset(
        (program.stored[v.name], Call(node).arg("dim", 0))
        for node in program.graph.nodes
        if node.op == "call_function" and op_name(node) == "_weight_norm"
        for v in [Call(node).arg("v")]
        if v.name in program.stored
    )


def divergence(wanted: Any, got: Any, samples: int, outputs: Outputs = AS_FOUND) -> float:
    """How far outputs moved, summed over samples.

    Scores are compared by the Kullback-Leibler divergence of their softmax over the classes, values
    by the squared change, relative to their variance where they stand beside other outputs.

    Args:
        wanted: Outputs of the original.
        got: Those of the changed network.
        samples: How many samples they are of.
        outputs: What they are.

    Returns:
        Sum over samples (and, for dense scores, mean over positions); not negative.
    """
    total = 0.0
    read = outputs.read(wanted)
    for out, new, energy in zip(read, named_tensors(got).values(), energies(read), strict=True):
        p, q = out.scores(out.value.double()), out.scores(new.double())
        if out.kind == "values":
            total += float((p - q).square().sum() / energy)
            continue
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        lost = log_p.exp() * (log_p - log_q)
        each = lost.masked_fill(log_p.isneginf(), 0.0).sum(-1)  # 0 log 0 = 0: classes masked out
        total += float(each.sum()) * samples / max(each.numel(), 1)
    return max(total, 0.0)


@dataclass(frozen=True, eq=False)
class Losses:
    """Measures what outputs lose, on a few samples that are run once as they are.

    Args:
        program: The network.
        calibration: Samples, with labels when there is a loss.
        samples: Samples at most.
        loss: `loss(outputs, labels)`, a mean over samples; None compares outputs with the
            original's.
    """

    program: Program
    calibration: Calibration
    samples: int = 64
    loss: Loss | None = None

    @torch.no_grad()
    def of(self, changes: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """What is lost by each of several changes.

        Args:
            changes: Changed tensors by qualified name.

        Returns:
            Mean over samples of the divergence, or of the rise of the loss, `(len(changes),)`
            float64.

        Raises:
            StrategyError: Labels are missing, or no batch is as large as a fixed one.
        """
        total, seen = torch.zeros(len(changes), dtype=torch.float64), 0
        needs = "ablation" if self.loss else ""
        for flat, labels in whole_chunks(
            self.program, self.calibration, BATCH, self.samples, needs
        ):
            count = self.program.samples(flat)
            values = self._values(flat)
            whole = self._outputs(values)
            for number, change in enumerate(changes):
                now = self._outputs(self._changed(values, change))
                if self.loss is None:
                    total[number] += divergence(whole, now, count, self.calibration.outputs)
                else:
                    total[number] += (self._loss(now, labels) - self._loss(whole, labels)) * count
            seen += count
        if bool(total.isnan().any()):
            raise StrategyError(
                f"the outputs are NaN for {int(total.isnan().sum())} of {len(changes)} choices of "
                "units that are set to zero, so what they lose cannot be measured; use importance "
                "'obs' or 'l2', and a search with proxy='repaired'"
            )
        return total / seen

    def _loss(self, outputs: Any, labels: Any) -> float:
        assert self.loss is not None  # `of` compares outputs where there is none
        return float(self.loss(outputs, labels))

    def _values(self, flat: Sequence[Any]) -> dict[str, Any]:
        """Value of every node."""
        device = next((t.device for t in self.program.tensors.values()), torch.device("cpu"))
        placed = [v.to(device) if isinstance(v, Tensor) else v for v in flat]
        values = self.program.bind(placed)
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                values[node.name] = evaluate(self.program, node, lambda n: values[n.name])
        return values

    def _changed(self, values: Mapping[str, Any], change: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values of the nodes that a change reaches, above those that it does not."""
        own = {name: change[fqn] for name, fqn in self.program.stored.items() if fqn in change}

        def look(node: Any) -> Any:
            return own[node.name] if node.name in own else values[node.name]

        for node in self.program.graph.nodes:
            if any(n.name in own for n in node.all_input_nodes):
                own[node.name] = evaluate(self.program, node, look)
        return {**values, **own}

    def _outputs(self, values: Mapping[str, Any]) -> Any:
        (last,) = (n for n in self.program.graph.nodes if n.op == "output")
        return self.program.unflatten_outputs(values[last.name])

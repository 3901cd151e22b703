"""SynFlow: what carries the flow through the network, without data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.statistics.outlets import norms
from penjing.task import Calibration

LAST_DENSITY = 1e-3  # share of the elements that are left after the last round


@dataclass(frozen=True, slots=True, kw_only=True)
class SynFlow:
    """Part of each element in the sum of all paths: w dR/dw with R = 1ᵀ |W_L| ... |W_1| 1.

    The network runs once on ones, in float64, with the absolute values of its parameters; norms
    subtract no mean. With `steps` above 1 the lowest elements go round by round, each judged
    without those that went before, and the values returned say when each went: that is what keeps
    a layer from being emptied.

    Args:
        steps: Rounds; 1 gives the flow itself, for units or one-shot pruning.

    Raises:
        StrategyError: `steps` is below 1.

    Source:
        Tanaka et al. 2020, arXiv:2006.05467, algorithm 1 with an exponential schedule. There the
        last round leaves what is asked for; here one element in a thousand, so that one order
        serves every sparsity. Activations that saturate for large inputs (sigmoid, tanh) break the
        conservation that it rests on.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise StrategyError(f"synflow: steps is {self.steps}; it must be at least 1")

    @property
    def needs_data(self) -> bool:
        """Never."""
        return False

    def elements(
        self,
        program: Program,
        weights: Mapping[str, Tensor],
        calibration: Calibration | None,  # noqa: ARG002 - the protocol's
        /,
    ) -> dict[str, Tensor]:
        """Flow through every element, or the time when it went.

        Args:
            program: The captured network.
            weights: The parameters that are judged.
            calibration: Not read.

        Returns:
            By name, each in the shape of its weight, not negative.
        """
        sizes = {name: w.double().abs() for name, w in weights.items()}
        if self.steps == 1:
            return _flow(program, sizes)
        flat = torch.cat([w.flatten() for w in sizes.values()])
        left = torch.ones_like(flat)
        time = torch.full_like(flat, float(self.steps))
        for step in range(1, self.steps + 1):
            masked = _like(left * flat, sizes)
            flow = torch.cat([f.flatten() for f in _flow(program, masked).values()])
            stay = max(1, round(LAST_DENSITY ** (step / self.steps) * len(flat)))
            order = flow.masked_fill(left == 0, -1.0).argsort(stable=True)
            gone = int((left == 0).sum())
            going = order[gone : len(flat) - stay]
            time[going] = step - 1 + torch.linspace(0, 1, len(going) + 2).double()[1:-1]
            left[going] = 0
        last = order[len(flat) - stay :]
        time[last] += torch.linspace(0, 1, len(last) + 1).double()[1:]
        return _like(time, sizes)


def _flow(program: Program, sizes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Part of every element in the sum of all outputs."""
    own = {name: w.detach().clone().requires_grad_() for name, w in sizes.items()}
    fixed = {n: t.detach().double().abs() for n, t in program.tensors.items() if _floats(t)}
    fixed |= {norm.mean: torch.zeros_like(fixed[norm.mean]) for norm in norms(program).values()}
    inputs = [torch.ones_like(v).double() if _floats(v) else v for v in program.example]
    with torch.enable_grad():
        outputs = program.run(inputs, {**fixed, **own}, each=_doubled)
        total = torch.stack([out.sum() for out in outputs if _floats(out)]).sum()
        found = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    return {
        name: torch.zeros_like(w) if g is None else (g * w).detach()
        for (name, w), g in zip(own.items(), found, strict=True)
    }


def _doubled(node: fx.Node, value: Any) -> Any:  # noqa: ARG001 - as `Program.run` calls it
    """A value in float64: graphs make constants, and cast, in the type they were captured in."""
    return pytree.tree_map(lambda v: v.double() if _floats(v) else v, value)


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _like(flat: Tensor, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One vector cut into tensors of given shapes."""
    parts = flat.split([w.numel() for w in shapes.values()])
    return {n: p.view(w.shape) for (n, w), p in zip(shapes.items(), parts, strict=True)}

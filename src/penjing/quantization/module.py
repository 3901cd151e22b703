"""A quantized network as a module: called like the network it came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from penjing.errors import InputError
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.simulation import Simulation, simulate
from penjing.task.batches import describe


class QuantizedModule(nn.Module):
    """Simulates integers in floats; `pj.export`, `pj.compile` and `pj.save` write real ones.

    Every value lies on its grid, so an output differs from that of an integer runtime by a step
    here and there, where a sum is just between two numbers. Weights are constants; to train a
    network for its grids, prepare it for quantization-aware training instead.

    Args:
        network: Folded program, grids and fallbacks.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    @property
    def simulation(self) -> Simulation:
        """The network in floats on grids."""
        if "_simulation" not in self.__dict__:
            self.__dict__["_simulation"] = simulate(self.network)
        found: Simulation = self.__dict__["_simulation"]
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the integer network answers.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Outputs in the original's structure.

        Raises:
            InputError: It was asked for by a capture.
        """
        if torch.compiler.is_exporting():
            raise InputError(
                "a network in integers is not captured again: prune and train the one in floats, "
                "then quantize; export, save and measure take integers as they are"
            )
        program = self.network.program
        batch: Any = (
            kwargs if kwargs and not args else args if len(args) != 1 or kwargs else args[0]
        )
        flat = program.flatten_inputs(batch)
        with torch.no_grad():
            return program.unflatten_outputs(self.simulation.run(flat))

    def extra_repr(self) -> str:
        """Scheme, and how much runs in integers."""
        s = self.network.summary()
        layers = f"{s['integer_layers']} of {s['layers']} layers in integers"
        inputs = ", ".join(describe(v) for v in self.network.program.example)
        return f"{self.network.scheme}, {layers}, {s['fallback']} ops in floats, takes {inputs}"

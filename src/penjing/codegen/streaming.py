"""Streaming: a net that takes a sequence in pieces and carries what it needs to the next.

The example is one piece. Along the time axis, recurrent layers start from the states that they
ended in, and a convolution that looks back only sees the end of the piece before where the net
would have put zeros. Everything else must treat time steps alike; that is tested on real streams
before a program is given out, not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from penjing.codegen.fusion import drop_dead
from penjing.codegen.ir import Layer, Net, Tensor
from penjing.errors import ExportError

RECURRENT = frozenset({"lstm", "gru", "rnn"})


def stream(net: Net) -> Net:
    """Give a net states.

    Args:
        net: Fused; the time axis of convolutions is their last, and all padding comes before it.

    Returns:
        The net, with pairs of tensors that are read at the start and written at the end of a call.

    Raises:
        ExportError: A layer that looks ahead, runs backwards or starts from a state of its own; or
            there is nothing to carry.
    """
    work = _Work(dict(net.tensors), dict(net.constants))
    for layer in net.layers:
        if layer.kind in RECURRENT:
            work.recurrent(layer)
        elif layer.kind == "conv" and any(map(any, layer.attributes["padding"][-1:])):
            work.convolution(layer)
        else:
            work.layers.append(layer)
    if not work.states:
        raise ExportError(
            "there is nothing to stream: no recurrent layer, and no convolution with zeros before "
            "its sequence. Compile without streaming"
        )
    changed = replace(
        net,
        layers=tuple(work.layers),
        tensors=work.tensors,
        constants=work.constants,
        states=tuple(work.states),
    )
    return drop_dead(changed)


@dataclass(slots=True)
class _Work:
    """A net that is written again."""

    tensors: dict[str, Tensor]
    constants: dict[str, np.ndarray]
    layers: list[Layer] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)

    def recurrent(self, layer: Layer) -> None:
        """Read the first states from the stream, write the last ones to it."""
        if layer.attributes["reverse"]:
            raise ExportError(
                f"{layer.source}: a recurrence that runs backwards needs the end of the sequence "
                "first and cannot be streamed"
            )
        inputs = list(layer.inputs)
        for position, last in enumerate(layer.outputs[1:], start=1):
            if not self._is_zero(inputs[position]):
                raise ExportError(
                    f"{layer.source}: streams begin with states of zero, this one does not"
                )
            inputs[position] = self._state(last).name
            self.states.append((inputs[position], last))
        self.layers.append(replace(layer, inputs=tuple(inputs)))

    def convolution(self, layer: Layer) -> None:
        """Put the end of the last piece before this one, where there were zeros."""
        attributes, x = layer.attributes, self.tensors[layer.inputs[0]]
        before, after = attributes["padding"][-1]
        reach = (layer.weights["weight"].shape[-1] - 1) * attributes["dilation"][-1]
        step, length = attributes["stride"][-1], x.shape[-1]
        wanted = reach - step + 1
        if after or before != wanted or length % step or length < before:
            raise ExportError(
                f"{layer.source}: padded by ({before}, {after}) with {reach} steps of reach, "
                f"stride {step} and pieces of {length}. A convolution can be streamed when all of "
                f"its padding comes first and is {wanted}, and the pieces are multiples of the "
                "stride and no shorter than the padding"
            )
        old = self._add(f"{x.name}_before", (*x.shape[:-1], before))
        joined = self._add(f"{x.name}_joined", (*x.shape[:-1], before + length))
        new = self._add(f"{x.name}_end", old.shape)
        self.layers.append(
            Layer(
                "concat", joined.name, (old.name, x.name), (joined.name,), {"dim": len(x.shape) - 1}
            )
        )
        index = np.arange(prod(joined.shape)).reshape(joined.shape)[..., length:]
        self.layers.append(
            Layer("move", new.name, (joined.name,), (new.name,), {"index": index, "fill": 0.0})
        )
        self.states.append((old.name, new.name))
        padding = (*attributes["padding"][:-1], (0, 0))
        changed = {**attributes, "padding": padding}
        inputs = (joined.name, *layer.inputs[1:])
        self.layers.append(replace(layer, inputs=inputs, attributes=changed))

    def _is_zero(self, name: str) -> bool:
        """Whether a first state is zeros, read as they are or through a move."""
        if name in self.constants:
            return not self.constants[name].any()
        maker = next((one for one in self.layers if name in one.outputs), None)
        return maker is not None and maker.kind == "move" and self._is_zero(maker.inputs[0])

    def _state(self, last: str) -> Tensor:
        return self._add(f"{last}_before", self.tensors[last].shape)

    def _add(self, hint: str, shape: tuple[int, ...]) -> Tensor:
        name = hint
        while name in self.tensors:
            name += "_"
        self.tensors[name] = Tensor(name, shape)
        return self.tensors[name]

"""Streaming in integers: a net that takes a sequence in pieces and keeps what the next needs.

The example is one piece, its time along the width. Recurrent layers go on from the states in which
they ended, and a convolution that looks back only sees the end of the piece before where it would
have read zeros. That everything else treats time steps alike is tested, not assumed: `compile`
compares pieces with the whole sequence, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from penjing.errors import ExportError
from penjing.quantization.integers import IntegerLayer, IntegerNet, IntegerTensor

_KEPT_BYTES = {"rnn": 1, "gru": 3, "lstm": 3}  # per hidden unit: its state, and 16 bits beside it
_BYTE = 8


def stream(net: IntegerNet) -> IntegerNet:
    """Give a net states.

    Args:
        net: In integers of 8 bits; time lies along the width, and all padding there comes first.

    Returns:
        The net, with tensors that it reads and writes from call to call.

    Raises:
        ExportError: A layer that looks ahead or runs backwards, wider integers, or nothing to keep.
    """
    if any(tensor.bits != _BYTE for tensor in net.tensors.values()):
        raise ExportError("16-bit activations are not streamed; quantize to 8 bits")
    work = _Work(dict(net.tensors))
    for layer in net.layers:
        if layer.kind in _KEPT_BYTES:
            work.recurrent(layer)
        elif any(map(any, layer.attributes.get("padding", ())[-1:])):
            work.padded(layer)
        else:
            work.layers.append(layer)
    if not work.states:
        raise ExportError(
            "there is nothing to stream: no recurrent layer, and no convolution with zeros before "
            "its sequence. Compile without streaming"
        )
    return replace(net, layers=tuple(work.layers), tensors=work.tensors, states=work.states)


@dataclass(slots=True)
class _Work:
    """A net that is written again."""

    tensors: dict[str, IntegerTensor]
    layers: list[IntegerLayer] = field(default_factory=list)
    states: dict[str, IntegerTensor] = field(default_factory=dict)

    def recurrent(self, layer: IntegerLayer) -> None:
        """Begin with the state of the last call, and leave the next one its own."""
        if layer.attributes["reverse"]:
            raise ExportError(
                f"{layer.name}: a recurrence that runs backwards needs the end of the sequence "
                "first and cannot be streamed"
            )
        size = _KEPT_BYTES[layer.kind] * layer.weights["state"].shape[1]
        state = IntegerTensor(f"{layer.name}_kept", (1, 1, size), 1.0, 0, (size,), False)
        self._append(layer, state)

    def padded(self, layer: IntegerLayer) -> None:
        """Put the end of the last piece before this one, where there were zeros."""
        attributes, x = layer.attributes, self.tensors[layer.inputs[0]]
        before, after = attributes["padding"][-1]
        taps, length = _columns(layer), x.shape[1]
        step = attributes.get("stride", (1, 1))[1]
        reach = (taps - 1) * attributes.get("dilation", (1, 1))[1]
        wanted = reach - step + 1
        unlike = layer.kind not in {"conv", "depthwise"}
        if unlike or after or before != wanted or length % step or length < before:
            raise ExportError(
                f"{layer.name} ({layer.kind}): padded by ({before}, {after}) with {reach} steps of "
                f"reach, stride {step} and pieces of {length}. A convolution can be streamed when "
                f"all of its padding comes first and is {wanted}, and the pieces are multiples of "
                "the stride and no shorter than the padding"
            )
        rows, _, channels = x.shape
        name = f"{layer.name}_joined"
        self.tensors[name] = replace(x, name=name, shape=(rows, before + length, channels))
        kept = replace(x, name=f"{layer.name}_before", shape=(rows, before, channels))
        self._append(IntegerLayer("carry", name, (x.name,), name), kept)
        frame = (*attributes["padding"][:-1], (0, 0))
        self.layers.append(
            replace(
                layer,
                inputs=(name, *layer.inputs[1:]),
                attributes={**attributes, "padding": frame},
            )
        )

    def _append(self, layer: IntegerLayer, state: IntegerTensor) -> None:
        self.states[state.name] = state
        attributes = {**layer.attributes, "state": state.name}
        self.layers.append(replace(layer, attributes=attributes))


def _columns(layer: IntegerLayer) -> int:
    """Taps of a convolution along its width; 1 for anything else."""
    weight = layer.weights.get("weight")
    if weight is None:
        return 1
    return int(weight.shape[1] if layer.kind == "depthwise" else weight.shape[2])


def offsets(net: IntegerNet, align: int) -> tuple[dict[str, int], int]:
    """First byte of every state in the caller's memory, and bytes of all."""
    found, at = {}, 0
    for name, tensor in net.states.items():
        found[name] = at
        at += -(-math.prod(tensor.shape) // align) * align
    return found, at

"""Integer networks executed in Python: the definition that compiled code must meet bit for bit.

Sums are exact: products are added in float64, which holds integers up to 2^53.

Suffixes: N = batch, H, W = height and width, C = channels, O = output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from penjing.errors import InputError
from penjing.quantization.formats import rescale, rescale_wide
from penjing.quantization.integers import (
    LOW,
    NORM_BITS,
    OFFSET_BITS,
    RESIZE_BITS,
    WIDE,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    Scale,
    add_shift,
)
from penjing.quantization.recurrence import Cell, run_from
from penjing.quantization.recurrence import run as run_cell

_INT32_MAX = 2**31 - 1


def execute(
    net: IntegerNet, *inputs: NDArray[Any], states: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """Run an integer network.

    Args:
        net: The network.
        inputs: One array per input, int8 or int16 as its tensor is, `(N, H, W, C)`.

        states: Of a stream, changed in place; None for its start.

    Returns:
        Every tensor of the network by name, in its dtype, `(N, H, W, C)`.

    Raises:
        InputError: An input has another shape or dtype, or a number that an embedding has not.
    """
    if len(inputs) != len(net.inputs):
        raise InputError(f"the network takes {len(net.inputs)} inputs, {len(inputs)} were given")
    batch = len(inputs[0])
    values: dict[str, Tensor] = {
        name: torch.from_numpy(np.array(stored)).expand(batch, *stored.shape)
        for name, stored in net.constants.items()
    }
    for name, given in zip(net.inputs, inputs, strict=True):
        wanted, dtype = net.tensors[name].shape, net.tensors[name].dtype
        if given.dtype != dtype or given.shape[1:] != wanted:
            raise InputError(
                f"input {name!r} is {given.dtype} {given.shape}; it is {dtype} (batch, "
                f"{', '.join(map(str, wanted))}), channels last"
            )
        values[name] = torch.from_numpy(np.ascontiguousarray(given))
    states = first_states(net, batch) if states is None else states
    for layer in net.layers:
        read = [(values[name], net.tensors[name]) for name in layer.inputs]
        if "state" in layer.attributes:
            state = torch.from_numpy(states[layer.attributes["state"]])
            run_kept = _carry if layer.kind == "carry" else _recurrent_from
            values[layer.output] = run_kept(layer, read, net.tensors[layer.output], state)
            continue
        values[layer.output] = _KINDS[layer.kind](layer, read, net.tensors[layer.output])
    return {name: value.numpy() for name, value in values.items()}


def first_states(net: IntegerNet, samples: int) -> dict[str, NDArray[Any]]:
    """What a stream keeps before its first piece: zeros, which on a grid are its zero point."""
    return {
        name: np.full((samples, *state.shape), state.zero_point, np.int8)
        for name, state in net.states.items()
    }


Read = Sequence[tuple[Tensor, IntegerTensor]]


def _weights(layer: IntegerLayer, name: str) -> Tensor:
    return torch.from_numpy(np.array(layer.weights[name]))


def _scaled(value: Tensor, scale: Scale) -> Tensor:
    return rescale(value, *(torch.tensor(v, dtype=torch.int64) for v in scale))


def _centred(value: Tensor, tensor: IntegerTensor) -> Tensor:
    return value.long() - tensor.zero_point


def _result(value: Tensor, layer: IntegerLayer, out: IntegerTensor) -> Tensor:
    low, high = layer.attributes.get("low", out.low), layer.attributes.get("high", out.high)
    dtype = torch.int16 if out.bits == WIDE else torch.int8
    return (value + out.zero_point).clamp(low, high).to(dtype).view(-1, *out.shape)


def _rescaled_sums(sums: Tensor, multiplier: Tensor, shift: Tensor, out: IntegerTensor) -> Tensor:
    """Sums of products, by the rule of the bits that were multiplied."""
    return (rescale_wide if out.bits == WIDE else rescale)(sums, multiplier, shift)


def _padded(x_NCHW: Tensor, layer: IntegerLayer, value: float = 0) -> Tensor:
    (top, bottom), (left, right) = layer.attributes["padding"]
    return F.pad(x_NCHW, (left, right, top, bottom), value=value)


def _accumulate(layer: IntegerLayer, sums_NOHW: Tensor, out: IntegerTensor) -> Tensor:
    sums = sums_NOHW.permute(0, 2, 3, 1).round().long() + _weights(layer, "bias").long()
    multiplier, shift = (_weights(layer, k).long() for k in ("multiplier", "shift"))
    return _result(_rescaled_sums(sums, multiplier, shift, out), layer, out)


def _conv(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x_NCHW = _centred(*read[0]).double().permute(0, 3, 1, 2)
    w_OCHW = _weights(layer, "weight").double().permute(0, 3, 1, 2)
    sums = F.conv2d(
        _padded(x_NCHW, layer),
        w_OCHW,
        stride=layer.attributes["stride"],
        dilation=layer.attributes["dilation"],
        groups=layer.attributes["groups"],
    )
    return _accumulate(layer, sums, out)


def _volume(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x, attributes = _centred(*read[0]).double(), layer.attributes
    x_NDHWC = x.view(len(x), attributes["planes"][0], -1, *x.shape[2:])
    frame = [side for both in reversed(attributes["padding"]) for side in both]
    sums_NODHW = F.conv3d(
        F.pad(x_NDHWC.permute(0, 4, 1, 2, 3), frame),
        _weights(layer, "weight").double().permute(0, 4, 1, 2, 3),
        stride=attributes["stride"],
        dilation=attributes["dilation"],
        groups=attributes["groups"],
    )
    return _accumulate(layer, sums_NODHW.flatten(2, 3), out)


def _depthwise(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x_NCHW = _centred(*read[0]).double().permute(0, 3, 1, 2)
    w_C1HW = _weights(layer, "weight").double().permute(2, 0, 1)[:, None]
    sums = F.conv2d(
        _padded(x_NCHW, layer),
        w_C1HW,
        stride=layer.attributes["stride"],
        dilation=layer.attributes["dilation"],
        groups=len(w_C1HW),
    )
    return _accumulate(layer, sums, out)


def _conv_transpose(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x_NCHW = _centred(*read[0]).double().permute(0, 3, 1, 2)
    w_OHWC = _weights(layer, "weight").double()
    groups, each = layer.attributes["groups"], w_OHWC.shape[3]
    w_GOHWC = w_OHWC.view(groups, -1, *w_OHWC.shape[1:])
    w_CoHW = w_GOHWC.permute(0, 4, 1, 2, 3).reshape(groups * each, -1, *w_OHWC.shape[1:3])
    (top, _), (left, _) = layer.attributes["padding"]
    whole = F.conv_transpose2d(
        x_NCHW, w_CoHW, None, layer.attributes["stride"], 0, 0, groups, layer.attributes["dilation"]
    )
    height, width, _ = out.shape
    beyond = (max(0, left + width - whole.shape[3]), max(0, top + height - whole.shape[2]))
    whole = F.pad(whole, (0, beyond[0], 0, beyond[1]))
    return _accumulate(layer, whole[:, :, top : top + height, left : left + width], out)


def _matmul(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    left, right = (_centred(*r).double() for r in read)
    sums = (left @ right).round().long()
    multiplier, shift = (torch.tensor(v, dtype=torch.int64) for v in layer.attributes["result"])
    return _result(_rescaled_sums(sums, multiplier, shift, out), layer, out)


def _add(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    left, right = (
        _scaled(_centred(*r) << add_shift(out.bits), layer.attributes[side])
        for r, side in zip(read, ("left", "right"), strict=True)
    )
    return _result(_scaled(left + right, layer.attributes["result"]), layer, out)


def _mul(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    product = _centred(*read[0]) * _centred(*read[1])
    return _result(_scaled(product, layer.attributes["result"]), layer, out)


def _windows(x_NCHW: Tensor, layer: IntegerLayer) -> Tensor:
    """Windows in the last two dimensions."""
    (height, width), (down, right) = layer.attributes["kernel"], layer.attributes["stride"]
    return x_NCHW.unfold(2, height, down).unfold(3, width, right)


def _average(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x_NCHW = read[0][0].long().permute(0, 3, 1, 2)
    sums = _windows(_padded(x_NCHW, layer), layer).sum((4, 5))
    count = _windows(_padded(torch.ones_like(x_NCHW), layer), layer).sum((4, 5))
    half = torch.div(count, 2, rounding_mode="floor")
    nudged = torch.where(sums > 0, sums + half, sums - half)
    mean = torch.div(nudged, count, rounding_mode="trunc").permute(0, 2, 3, 1)
    return _result(mean - out.zero_point, layer, out)


def _mean(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    sums = _centred(*read[0]).sum((1, 2))
    return _result(_scaled(sums, layer.attributes["result"]), layer, out)


def _max(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x_NCHW = read[0][0].long().permute(0, 3, 1, 2)
    best = _windows(_padded(x_NCHW, layer, out.low), layer).amax((4, 5)).permute(0, 2, 3, 1)
    return _result(best - out.zero_point, layer, out)


def _lookup(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    if out.bits == WIDE:
        return _result(_between(_weights(layer, "table").long(), read[0][0].long()), layer, out)
    return _weights(layer, "table")[read[0][0].long() - LOW].view(-1, *out.shape)


def _between(points: Tensor, q: Tensor) -> Tensor:
    """A function of 16 bits on the line between two of its points."""
    index, offset = 256 + (q >> 7), q & 127
    first = points[index]
    return first + (((points[index + 1] - first) * offset + 64) >> 7)


def _prelu(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x = _centred(*read[0])
    slopes = (_weights(layer, k).long() for k in ("multiplier", "shift"))
    scaled = torch.where(x < 0, rescale(x, *slopes), _scaled(x, layer.attributes["positive"]))
    return _result(scaled, layer, out)


def _embedding(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    numbers = torch.from_numpy(read[0][0].contiguous().numpy().view("<i4"))
    table = _weights(layer, "table")
    least, most = int(numbers.min()), int(numbers.max())
    if least < 0 or most >= len(table):
        raise InputError(
            f"embedding {layer.name!r} reads numbers from {least} to {most}; its table has rows "
            f"0 to {len(table) - 1}"
        )
    return table[numbers.long()].view(-1, *out.shape)


def _image(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    bytes_NHWC = read[0][0].view(torch.uint8).long()
    table = _weights(layer, "table")
    return table[torch.arange(len(table)), bytes_NHWC].view(-1, *out.shape)


def _rescale(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    return _result(_scaled(_centred(*read[0]), layer.attributes["result"]), layer, out)


def _concat(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    parts = [
        value.long() - out.zero_point if scale is None else _scaled(_centred(value, tensor), scale)
        for (value, tensor), scale in zip(read, layer.attributes["parts"], strict=True)
    ]
    cut = [part.reshape(len(part), layer.attributes["runs"], -1) for part in parts]
    return _result(torch.cat(cut, 2), layer, out)


def _pad(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    (top, bottom), (left, right) = layer.attributes["padding"]
    channels = layer.attributes.get("channels", (0, 0))
    return _result(F.pad(_centred(*read[0]), (*channels, left, right, top, bottom)), layer, out)


def _move(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    index = torch.tensor(layer.attributes["offset"])
    loops = zip(layer.attributes["counts"], layer.attributes["strides"], strict=True)
    for count, stride in loops:
        index = index[..., None] + stride * torch.arange(count)
    return read[0][0].flatten(1)[:, index.reshape(-1)].view(-1, *out.shape)


def _resize(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    x = read[0][0].long()
    for dim, name in ((1, "rows"), (2, "columns")):
        first, share = _weights(layer, name).long().T
        second = (first + 1).clamp_max(x.shape[dim] - 1)
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        part = share.view(shape)
        x = x.index_select(dim, first) * ((1 << RESIZE_BITS) - part) + (
            x.index_select(dim, second) * part
        )
    bits = 2 * RESIZE_BITS
    return _result(((x + (1 << (bits - 1))) >> bits) - out.zero_point, layer, out)


def _layer_norm(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    centred = layer.attributes.get("centred", 1)
    q = read[0][0].long() if centred else _centred(*read[0])
    runs = q.reshape(len(q), -1, len(layer.weights["gain"]))
    return _gained(_normal(runs, layer, centred), layer, out)


def _group_norm(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    q_NHWC, groups = read[0][0].long(), layer.attributes["groups"]
    q_NPGE = q_NHWC.reshape(len(q_NHWC), -1, groups, q_NHWC.shape[3] // groups)
    runs = q_NPGE.movedim(2, 1).flatten(2)
    normal = _normal(runs, layer, 1).view_as(q_NPGE.movedim(2, 1)).movedim(1, 2)
    return _gained(normal.reshape(q_NHWC.shape), layer, out)


def _normal(q: Tensor, layer: IntegerLayer, centred: int) -> Tensor:
    """The last dimension with mean 0 and variance 1, `NORM_BITS` fractional bits."""
    n = q.shape[-1]
    total = q.sum(-1, keepdim=True) * centred
    spread = n * (q * q).sum(-1, keepdim=True) - total * total + layer.attributes["epsilon"]
    even = (62 - _bits(spread.clamp_min(1))) // 2
    root = _square_root(spread << (2 * even))
    inverse = (torch.full_like(root, 1 << 61) // root.clamp_min(1)).clamp_max(_INT32_MAX)
    down = 61 - NORM_BITS - even
    return ((n * q - total) * inverse + (1 << (down - 1))) >> down


def _gained(normal: Tensor, layer: IntegerLayer, out: IntegerTensor) -> Tensor:
    gain, offset = (_weights(layer, k).long() for k in ("gain", "offset"))
    shift = layer.attributes["shift"]
    scaled = normal * gain + (offset << (shift + NORM_BITS - OFFSET_BITS))
    bits = shift + NORM_BITS
    return _result((scaled + (1 << (bits - 1))) >> bits, layer, out)


def _recurrent(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    arrays = {name: _weights(layer, name) for name in layer.weights}
    reverse, cell_bits = (layer.attributes[k] for k in ("reverse", "cell_bits"))
    x_NTI = _centred(*read[0]).squeeze(1)
    return _result(run_cell(Cell(layer.kind, reverse, cell_bits, arrays), x_NTI), layer, out)


def _recurrent_from(layer: IntegerLayer, read: Read, out: IntegerTensor, state: Tensor) -> Tensor:
    """A recurrent layer that goes on from a state, which it changes."""
    arrays = {name: _weights(layer, name) for name in layer.weights}
    cell = Cell(layer.kind, False, layer.attributes["cell_bits"], arrays)
    hidden = layer.weights["state"].shape[1]
    raw = state.view(len(state), -1)
    wide = raw[:, : raw.shape[1] - hidden].contiguous().view(torch.int16)
    past = (wide.long() if wide.shape[1] else raw.long(), raw[:, -hidden:].long())
    x_NTI = _centred(*read[0]).squeeze(1)
    states, (kept, small) = run_from(cell, x_NTI, past)
    raw[:, -hidden:] = small.to(torch.int8)
    if wide.shape[1]:
        raw[:, :-hidden] = kept.to(torch.int16).contiguous().view(torch.int8)
    return _result(states, layer, out)


def _carry(layer: IntegerLayer, read: Read, out: IntegerTensor, state: Tensor) -> Tensor:
    joined = torch.cat([state, read[0][0]], 2)
    state[:] = joined[:, :, joined.shape[2] - state.shape[2] :]
    return _result(joined.long() - out.zero_point, layer, out)


def _bits(x: Tensor) -> Tensor:
    """Length in binary of positive values below 2^62."""
    high, low = x >> 31, x & _INT32_MAX
    wide = torch.frexp(torch.where(high > 0, high, low).double()).exponent.long()
    return wide + 31 * (high > 0)


def _square_root(x: Tensor) -> Tensor:
    """Rounded down, of values below 2^62."""
    root = x.double().sqrt().long()
    root = root - (root * root > x).long()
    return root + ((root + 1) * (root + 1) <= x).long()


def _softmax(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    """Fixed point throughout.

    Source:
        TensorFlow Lite, `reference_ops::Softmax`; the functions below are gemmlowp's.
    """
    if out.bits == WIDE:
        return _softmax_16(layer, read, out)
    x = read[0][0].long()
    least = layer.attributes["least"]
    seen = _weights(layer, "mask").bool() if "mask" in layer.weights else torch.tensor(True)
    difference = x - torch.where(seen, x, LOW).amax(3, keepdim=True)
    scale = (layer.attributes["multiplier"], layer.attributes["shift"])
    exponential = _exp_on_negative(_scaled(difference.clamp(least, 0), scale))
    counted = (difference >= least) & seen
    total = (
        torch.where(counted, _rounded_shift(exponential, 12), 0).sum(3, keepdim=True).clamp_min(1)
    )
    spare = _leading_zeros(total)
    reciprocal = _one_over_one_plus((total << spare) - (1 << 31))
    share = _shifted_right(_product(reciprocal, exponential), (12 - spare) + 31 - 8)
    share = torch.where(counted, share, 0)
    return _result(share + LOW - out.zero_point, layer, out)


def _softmax_16(layer: IntegerLayer, read: Read, out: IntegerTensor) -> Tensor:
    """By two tables, 15 fractional bits.

    Source:
        TensorFlow Lite, `reference_ops::SoftmaxInt16`.
    """
    x = read[0][0].long()
    seen = _weights(layer, "mask").bool() if "mask" in layer.weights else torch.tensor(True)
    difference = x - torch.where(seen, x, out.low).amax(3, keepdim=True)
    scale = (layer.attributes["multiplier"], layer.attributes["shift"])
    at = (_scaled(difference.clamp_max(0), scale) + out.high).clamp(out.low, out.high)
    exponential = torch.where(seen, _between(_weights(layer, "exponential").long(), at), 0)
    total = exponential.sum(3, keepdim=True).clamp_min(1 << 14)  # less only where nothing is seen
    spare = _leading_zeros(total)
    above = (((total << (spare - 1)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16)
    share = _between(_weights(layer, "reciprocal").long(), above.clamp(out.low, out.high))
    down = 31 - spare
    return _result((exponential * share + (1 << (down - 1))) >> down, layer, out)


def _leading_zeros(x: Tensor) -> Tensor:
    """Of positive values in 32 bits."""
    return 32 - (torch.floor(torch.log2(x.double())).long() + 1)


def _product(a: Tensor, b: Tensor | int) -> Tensor:
    """Product of two numbers of 31 fractional bits, rounded with halves upward."""
    return (a * b + (1 << 30)) >> 31


def _shifted_right(x: Tensor, bits: Tensor) -> Tensor:
    """`x / 2^bits`, halves away from zero."""
    mask = (torch.ones_like(bits) << bits) - 1
    return (x >> bits) + ((x & mask) > ((mask >> 1) + (x < 0)))


def _rounded_shift(x: Tensor, bits: int) -> Tensor:
    return _shifted_right(x, torch.tensor(bits))


def _saturated(x: Tensor) -> Tensor:
    return x.clamp(-_INT32_MAX - 1, _INT32_MAX)


EXP_STEPS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-2^k) for k = -2 to 4, with 31 fractional bits."""


def _exp_on_negative(a: Tensor) -> Tensor:
    """Exp of numbers <= 0 with 26 fractional bits, as numbers with 31."""
    quarter = 1 << 24
    rest = (a & (quarter - 1)) - quarter
    result = _exp_below_quarter(_saturated(rest << 5))
    remainder = rest - a
    for k, step in enumerate(EXP_STEPS):
        bit = (remainder >> (24 + k)) & 1
        result = torch.where(bit == 1, _product(result, step), result)
    return torch.where(a == 0, _INT32_MAX, result)


def _exp_below_quarter(a: Tensor) -> Tensor:
    """Exp on [-1/4, 0), 31 fractional bits: Taylor around -1/8."""
    eighth, third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = _product(x, x)
    x3 = _product(x2, x)
    x4_over_4 = _rounded_shift(_product(x2, x2), 2)
    tail = _rounded_shift(_product(x4_over_4 + x3, third) + x2, 1)
    return eighth + _product(x + tail, eighth)


def _one_over_one_plus(a: Tensor) -> Tensor:
    """1 / (1 + a) for a in [0, 1), 31 fractional bits: three Newton steps with 29."""
    half = (a + _INT32_MAX + 1) >> 1
    x = 1515870810 + _product(half, -1010580540)
    for _ in range(3):
        x = x + _saturated(_product(x, (1 << 29) - _product(half, x)) << 2)
    return _saturated(x << 1)


_KINDS: Mapping[str, Callable[[IntegerLayer, Read, IntegerTensor], Tensor]] = {
    "conv": _conv,
    "volume": _volume,
    "depthwise": _depthwise,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "add": _add,
    "mul": _mul,
    "average": _average,
    "mean": _mean,
    "max": _max,
    "lookup": _lookup,
    "prelu": _prelu,
    "embedding": _embedding,
    "image": _image,
    "rescale": _rescale,
    "concat": _concat,
    "softmax": _softmax,
    "pad": _pad,
    "move": _move,
    "resize": _resize,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "gru": _recurrent,
    "lstm": _recurrent,
    "rnn": _recurrent,
}


def run(net: IntegerNet, *batches: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
    """Run an integer network on floats in its own layout: quantize, execute, dequantize.

    Args:
        net: The network.
        batches: One array per input, as the network it comes from takes them.

    Returns:
        One float32 array per output, as that network returns them.
    """
    tensors = [net.tensors[name] for name in net.inputs]
    given = [t.arrange(t.quantize(np.asarray(b))) for t, b in zip(tensors, batches, strict=True)]
    values = execute(net, *given)
    wanted = [net.tensors[name] for name in net.outputs]
    return tuple(t.dequantize(t.restore(values[t.name])) for t in wanted)

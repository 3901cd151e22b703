"""Small random integer networks that touch every kind of layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penjing.codegen.int8.streaming import stream
from penjing.quantization.integers import (
    RESIZE_BITS,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    add_scales,
    extent,
    layer_scales,
    norm_scales,
    scale_of,
    softmax_scales,
    softmax_scales_16,
    table_of,
    table_of_16,
)
from penjing.quantization.lowering.loops import loops_of


class Builder:
    """Appends layers to a network; scales are drawn so that results fill their range."""

    def __init__(self, seed, shape, bits=8):
        self.bits, self.unit = bits, 1 if bits == 8 else 256
        self.random = np.random.default_rng(seed)
        self.tensors, self.layers, self.constants = {}, [], {}
        self.x = self.tensor(shape)
        self.input = self.x

    def tensor(self, shape, like=None):
        name = f"t{len(self.tensors)}"
        scale = float(np.float32(self.random.uniform(0.02, 0.1)))
        zero = int(self.random.integers(-100, 100))
        if self.bits == 16:
            scale, zero = scale / self.unit, 0
        if like is not None:
            scale, zero = self.tensors[like].scale, self.tensors[like].zero_point
        grid = (scale, zero, tuple(shape), False)
        self.tensors[name] = IntegerTensor(name, tuple(shape), *grid, bits=self.bits)
        return name

    def layer(self, kind, inputs, output, attributes=None, weights=None):
        name = f"{kind}_{len(self.layers)}"
        self.layers.append(
            IntegerLayer(kind, name, inputs, output, attributes or {}, weights or {})
        )
        self.x = output
        return output

    def _weighted(self, weight, channels, result, zeros):
        weight[self.random.random(weight.shape) < zeros] = 0
        source = self.tensors[self.x].scale
        each = max(1.0, np.sqrt(weight.size / channels) * 60 * 70)
        scales = self.tensors[result].scale / source / each * self.random.uniform(20, 90, channels)
        bias = self.unit * self.random.integers(-3000, 3000, channels).astype(np.int32)
        found = layer_scales(source, scales, self.tensors[result].scale, channels)
        return {"weight": weight, "bias": bias, **found}

    def conv(self, outputs, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), **options):
        height, width, channels = self.tensors[self.x].shape
        groups, dilation = options.get("groups", 1), options.get("dilation", (1, 1))
        shape = tuple(
            extent(s, k, t, p, d)
            for s, k, t, p, d in zip(
                (height, width), kernel, stride, padding, dilation, strict=True
            )
        )
        result = self.tensor((*shape, outputs))
        size = (outputs, *kernel, channels // groups)
        weight = self.random.integers(-127, 128, size).astype(np.int8)
        weights = self._weighted(weight, outputs, result, options.get("zeros", 0.0))
        attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        high = self.tensors[result].high
        attributes |= {"low": options.get("low", -128) * self.unit, "high": high}
        return self.layer("conv", (self.x,), result, attributes, weights)

    def depthwise(self, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)):
        height, width, channels = self.tensors[self.x].shape
        shape = tuple(
            extent(s, k, t, p, d)
            for s, k, t, p, d in zip(
                (height, width), kernel, stride, padding, dilation, strict=True
            )
        )
        result = self.tensor((*shape, channels))
        weight = self.random.integers(-127, 128, (*kernel, channels)).astype(np.int8)
        weights = self._weighted(weight, channels, result, 0.0)
        attributes = {"stride": stride, "padding": padding, "dilation": dilation}
        return self.layer("depthwise", (self.x,), result, attributes, weights)

    def add(self, left, right):
        result = self.tensor(self.tensors[left].shape)
        scales = add_scales(*(self.tensors[t].scale for t in (left, right, result)), self.bits)
        clamp = {"low": -100 * self.unit, "high": 110 * self.unit}
        return self.layer("add", (left, right), result, {**scales, **clamp})

    def mul(self, left, right):
        result = self.tensor(self.tensors[left].shape)
        real = self.tensors[left].scale * self.tensors[right].scale / self.tensors[result].scale
        return self.layer("mul", (left, right), result, {"result": scale_of(real / 4)})

    def pool(self, kind, kernel, stride, padding=((0, 0), (0, 0))):
        height, width, channels = self.tensors[self.x].shape
        shape = tuple(
            extent(s, k, t, p)
            for s, k, t, p in zip((height, width), kernel, stride, padding, strict=True)
        )
        result = self.tensor((*shape, channels), like=self.x)
        attributes = {"kernel": kernel, "stride": stride, "padding": padding}
        return self.layer(kind, (self.x,), result, attributes)

    def volume(self, outputs, kernel, planes, groups=1):
        """A result one plane more or less than its input; padded by one in front."""
        rows, width, channels = self.tensors[self.x].shape
        sizes = (planes[0], rows // planes[0], width)
        padding = ((kernel[0] - 1 + planes[1] - planes[0], 0), (1, 1), (0, 1))
        many = [extent(s, k, 1, p) for s, k, p in zip(sizes, kernel, padding, strict=True)]
        result = self.tensor((many[0] * many[1], many[2], outputs))
        size = (outputs, *kernel, channels // groups)
        weight = self.random.integers(-127, 128, size).astype(np.int8)
        attributes = {"stride": (1, 1, 1), "padding": padding, "dilation": (1, 1, 1)}
        attributes |= {"groups": groups, "planes": (planes[0], many[0])}
        self.planes = many[0]
        weights = self._weighted(weight, outputs, result, 0.0)
        return self.layer("volume", (self.x,), result, attributes, weights)

    def prelu(self):
        result = self.tensor(self.tensors[self.x].shape)
        channels = self.tensors[self.x].shape[2]
        signs = self.random.choice([-1, 1], channels)
        weights = {
            "multiplier": (signs * self.random.integers(2**30, 2**31, channels)).astype(np.int32),
            "shift": self.random.integers(-3, 2, channels).astype(np.int32),
        }
        return self.layer("prelu", (self.x,), result, {"positive": scale_of(1.3)}, weights)

    def norm(self, kind, gains, count, **attributes):
        result = self.tensor(self.tensors[self.x].shape)
        found, weights = norm_scales(
            self.tensors[self.x].scale, self.tensors[result].scale, 1e-5,
            self.random.uniform(-2, 2, gains), self.random.uniform(-1, 1, gains), count,
        )  # fmt: skip
        return self.layer(kind, (self.x,), result, {**found, **attributes}, weights)

    def rescale(self):
        result = self.tensor(self.tensors[self.x].shape)
        real = self.tensors[self.x].scale / self.tensors[result].scale
        return self.layer("rescale", (self.x,), result, {"result": scale_of(real)})

    def mean(self):
        height, width, channels = self.tensors[self.x].shape
        result = self.tensor((1, 1, channels))
        real = self.tensors[self.x].scale / self.tensors[result].scale / (height * width)
        return self.layer("mean", (self.x,), result, {"result": scale_of(real * 3)})

    def lookup(self, function=np.tanh):
        result = self.tensor(self.tensors[self.x].shape)
        grid = self.tensors[result]
        source = self.tensors[self.x]
        table = (
            table_of(function, source, grid.scale, grid.zero_point)
            if self.bits == 8
            else table_of_16(function, source.scale, grid.scale)
        )
        return self.layer("lookup", (self.x,), result, weights={"table": table})

    def concat(self, *parts):
        shape = self.tensors[parts[0]].shape
        channels = sum(self.tensors[p].shape[2] for p in parts)
        result = self.tensor((*shape[:2], channels), like=parts[0])
        scale = self.tensors[result].scale
        scales = [None, *(scale_of(self.tensors[p].scale / scale) for p in parts[1:])]
        runs = shape[0] * shape[1]
        return self.layer("concat", parts, result, {"parts": tuple(scales), "runs": runs})

    def pad(self, padding, channels=(0, 0)):
        height, width, deep = self.tensors[self.x].shape
        (top, bottom), (left, right) = padding
        shape = (height + top + bottom, width + left + right, deep + sum(channels))
        result = self.tensor(shape, like=self.x)
        attributes = {"padding": padding, "channels": channels}
        return self.layer("pad", (self.x,), result, attributes)

    def move(self, index, shape):
        loops = loops_of(index)
        attributes = {"counts": loops.counts, "strides": loops.strides, "offset": loops.offset}
        return self.layer("move", (self.x,), self.tensor(shape, like=self.x), attributes)

    def index(self):
        shape = self.tensors[self.x].shape
        return np.arange(np.prod(shape)).reshape(shape)

    def features(self):
        index = np.moveaxis(self.index(), -1, 0)
        return self.move(index, (1, 1, index.size))

    def conv_transpose(self, outputs, kernel, stride, padding, groups=1, dilation=(1, 1)):
        height, width, channels = self.tensors[self.x].shape
        sizes = zip((height, width), kernel, stride, padding, dilation, strict=True)
        shape = tuple((s - 1) * t + d * (k - 1) + 1 - sum(p) for s, k, t, p, d in sizes)
        result = self.tensor((*shape, outputs))
        size = (outputs, *kernel, channels // groups)
        weights = self._weighted(
            self.random.integers(-127, 128, size).astype(np.int8), outputs, result, 0.0
        )
        attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self.layer("conv_transpose", (self.x,), result, attributes, weights)

    def matmul(self, left, right):
        (many, rows, inner), columns = self.tensors[left].shape, self.tensors[right].shape[2]
        result = self.tensor((many, rows, columns))
        real = self.tensors[left].scale * self.tensors[right].scale / self.tensors[result].scale
        scale = scale_of(real / np.sqrt(inner) / 4)
        return self.layer("matmul", (left, right), result, {"result": scale})

    def resize(self, rows, columns):
        height, width, channels = self.tensors[self.x].shape
        result = self.tensor((rows, columns, channels), like=self.x)
        tables = {}
        for name, size, wanted in (("rows", height, rows), ("columns", width, columns)):
            at = np.linspace(0, size - 1, wanted)
            first = np.minimum(at.astype(np.int32), size - 1)
            share = np.round((at - first) * 2**RESIZE_BITS).astype(np.int32)
            tables[name] = np.stack([first, share], 1)
        return self.layer("resize", (self.x,), result, weights=tables)

    def layer_norm(self):
        result = self.tensor(self.tensors[self.x].shape)
        channels = self.tensors[self.x].shape[2]
        attributes, weights = norm_scales(
            self.tensors[self.x].scale, self.tensors[result].scale, 1e-5,
            self.random.uniform(-2, 2, channels), self.random.uniform(-1, 1, channels),
        )  # fmt: skip
        return self.layer("layer_norm", (self.x,), result, attributes, weights)

    def constant(self, shape):
        name = self.tensor(shape)
        grid = self.tensors[name]
        values = self.random.integers(grid.low, grid.high + 1, shape)
        self.constants[name] = values.astype(grid.dtype)
        return name

    def softmax(self):
        result = self.tensor(self.tensors[self.x].shape)
        fixed = self.tensors[result]
        source, made = self.tensors[self.x].scale, (result, fixed.shape)
        if self.bits == 16:
            self.tensors[result] = IntegerTensor(*made, 2.0**-15, 0, fixed.given, False, bits=16)
            return self.layer("softmax", (self.x,), result, *softmax_scales_16(source))
        self.tensors[result] = IntegerTensor(*made, 1 / 256, -128, fixed.given, False)
        return self.layer("softmax", (self.x,), result, softmax_scales(source))

    def net(self, *, show_all=False):
        outputs = [la.output for la in self.layers] if show_all else [self.x]
        return IntegerNet(
            (self.input,), tuple(outputs), tuple(self.layers), dict(self.tensors), self.constants
        )


def everything(seed=0, *, show_all=False, bits=8):
    """A network with every kind of layer, odd sizes, strides, dilation and sparse weights."""
    b = Builder(seed, (11, 9, 3), bits)
    stem = b.conv(8, stride=(2, 1), padding=((0, 1), (1, 1)), low=-90)
    b.conv(8, zeros=0.9)
    b.conv(8, kernel=(1, 1), padding=((0, 0), (0, 0)))
    joined = b.add(stem, b.x)
    b.depthwise(stride=(1, 2))
    b.conv(7, kernel=(1, 1), padding=((0, 0), (0, 0)))
    b.depthwise(kernel=(3, 2), padding=((2, 2), (1, 0)), dilation=(2, 1))
    narrow = b.rescale()
    wide = b.conv(9, kernel=(3, 1), padding=((1, 1), (0, 0)), dilation=(1, 1))
    b.concat(narrow, wide)
    b.conv(12, groups=4)
    gate = b.mean()
    b.conv(12, kernel=(1, 1), padding=((0, 0), (0, 0)), zeros=0.8)
    b.lookup(lambda x: 1 / (1 + np.exp(-x)))
    b.mul(b.layers[-4].output, b.x)
    b.pool("max", (2, 2), (1, 1), ((0, 1), (1, 0)))
    b.pad(((1, 0), (0, 2)))
    b.pool("average", (3, 3), (2, 2), ((1, 1), (1, 1)))
    b.conv(10, dilation=(2, 2), padding=((2, 2), (2, 2)), zeros=0.95)
    b.features()
    b.conv(13, kernel=(1, 1), padding=((0, 0), (0, 0)))
    b.softmax()
    assert joined != gate
    return b.net(show_all=show_all)


def attention(seed=0, *, show_all=False, bits=8):
    """Movement, products of matrices, norms and resizing, with odd sizes."""
    b = Builder(seed, (5, 6, 7), bits)
    b.conv_transpose(6, (3, 2), (2, 1), ((1, 0), (0, 1)), groups=1)
    b.conv_transpose(4, (2, 3), (1, 2), ((0, 0), (1, 1)), groups=2, dilation=(1, 2))
    b.move(b.index()[::2, 1::2, ::-1], (6, 6, 4))
    b.pad(((1, 0), (0, 2)), (2, 3))
    b.resize(9, 11)
    b.layer_norm()
    b.add(b.x, b.constant((9, 11, 9)))
    b.move(b.index()[:, :8].reshape(9, 2, 4, 9).transpose(1, 0, 2, 3), (2, 36, 9))
    left = b.x
    right = b.move(b.index().transpose(0, 2, 1), (2, 9, 36))
    scores = b.matmul(left, right)
    b.softmax()
    b.matmul(b.x, left)
    b.layer("concat", (b.x, left), b.tensor((2, 72, 9)), {"parts": ((2**30, 1), None), "runs": 2})
    assert scores != b.x
    return b.net(show_all=show_all)


def further(seed=0, *, show_all=False):
    """Rows of a table, volumes, slopes per channel, and norms over more than the channels."""
    b = Builder(seed, (1, 24, 4))
    b.tensors[b.x] = replace(b.tensors[b.x], numbers=30)
    table = b.random.integers(-128, 128, (30, 6)).astype(np.int8)
    b.layer("embedding", (b.x,), b.tensor((12, 2, 6)), weights={"table": table})
    b.volume(8, (2, 3, 1), (3, 4), groups=2)
    b.prelu()
    b.volume(5, (3, 2, 2), (b.planes, 3))
    b.norm("group_norm", 5, b.tensors[b.x].size_bytes // 5, groups=5)
    count = b.tensors[b.x].size_bytes
    b.norm("layer_norm", count, count)
    return b.net(show_all=show_all)


def piece():
    """One piece of a stream through convolutions that look back."""
    b = Builder(0, (2, 6, 4))
    b.conv(8, (2, 3), padding=((0, 1), (2, 0)))
    b.depthwise((1, 2), padding=((0, 0), (2, 0)), dilation=(1, 2))
    return stream(b.net())


def random_convolutions(seed, bits=8):
    """A chain of convolutions of random form, with residual additions."""
    random = np.random.default_rng(seed)
    b = Builder(seed, (int(random.integers(3, 14)), int(random.integers(3, 14)), 5), bits)
    for _ in range(8):
        size = int(random.integers(1, 4))
        pads = [(int(a), int(c)) for a, c in random.integers(0, size, (2, 2))]
        before = b.x
        height, width, channels = b.tensors[before].shape
        fits = min(height, width) >= size
        kernel = (size, size) if fits else (1, 1)
        padding = tuple(pads) if fits else ((0, 0), (0, 0))
        stride = (int(random.integers(1, 3)), 1) if height > 3 else (1, 1)
        zeros = float(random.choice([0.0, 0.5, 0.9, 1.0]))
        outputs = channels if random.random() < 0.5 else int(random.integers(1, 20))
        b.conv(outputs, kernel, stride, padding, zeros=zeros)
        if b.tensors[b.x].shape == b.tensors[before].shape:
            b.add(b.x, before)
    return b.net()

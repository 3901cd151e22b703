"""Sparse linear layers.

`WindowLinear` multiplies one vector at a time: 16 outputs lie in the lanes, every lane takes its
next nonzero out of a window of inputs that moves on when no lane needs its beginning any more. With
AVX-512 a window is two registers that one instruction looks up by index; elsewhere it is wider and
read by address. Lanes that have to wait multiply by zero: about a third at 90 % zeros.

`ColumnLinear` multiplies many vectors at a time, which then lie in the lanes; features are planes,
so it is the sparse convolution of one tap.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, prod

import numpy as np

from penjing.codegen.encodings import narrowest
from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Place, Room, Site
from penjing.codegen.kernels.conv import bias_blob
from penjing.codegen.kernels.cover import SLACK, named
from penjing.codegen.kernels.dense_linear import packed_needs, rows_of, takes_linear
from penjing.codegen.kernels.finish import after_loop, finish_rows
from penjing.codegen.kernels.sparse_conv import SparseConv
from penjing.codegen.kernels.vectors import INTRINSICS, machine, types
from penjing.codegen.targets import Target

LANES = 16
SCATTER_STEPS = 12
"""Steps that scattering one group's outputs costs."""
ALIGN = 16
"""Windows begin at whole cache lines: a load that straddles two costs double."""
PER_NONZERO = 8
"""Bytes of a weight and its place, idle lanes included."""
STEP_NS, GROUP_NS = 0.8, 8.0
"""Of one step and of one group of 16 outputs (Zen 5)."""
PLAIN_STEP_NS = 8.0
"""Of one step where the window is read by address."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The nonzeros of a matrix, 16 rows side by side, in the order in which they are multiplied.

    Args:
        values: (steps, 16), zero where a lane waits.
        index: (steps, 16), place in the window.
        starts: (steps,), first column of the window.
        ends: (groups,), steps of each group.
        rows: (groups * 16,), which output each lane is; rows + 1 stands for none.
    """

    values: np.ndarray
    index: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    rows: np.ndarray


def windows(weight: np.ndarray, size: int, *, ordered: bool) -> Windows:
    """Cut a matrix into steps.

    Args:
        weight: (outputs, inputs).
        size: Inputs that one step can reach.
        ordered: Group rows of similar length; else neighbours.
    """
    outs, ins = weight.shape
    counts = np.count_nonzero(weight, axis=1)
    order = np.argsort(-counts, kind="stable") if ordered else np.arange(outs)
    rows = np.full(ceil(outs / LANES) * LANES, outs, np.int64)
    rows[:outs] = order
    far = ins + size + ALIGN
    kept = np.zeros((len(rows), ins), bool)
    kept[rows < outs] = weight[rows[rows < outs]] != 0
    table = np.full((len(rows), int(kept.sum(1).max(initial=0)) + 1), far)
    lane, column = np.nonzero(kept)
    table[lane, np.arange(len(lane)) - np.searchsorted(lane, lane)] = column
    starts, taken, ready = _steps(table, size, far)
    active = ready.any(2)
    wide = np.vstack([weight, np.zeros((1, ins), weight.dtype)])
    columns = np.where(ready, taken, 0)
    values = np.where(ready, wide[rows.reshape(-1, 1, LANES), columns], 0)
    index = np.where(ready, taken - starts[:, :, None], 0)
    return Windows(
        values[active].astype(np.float32), index[active].astype(np.uint8), starts[active],
        active.sum(1), rows,
    )  # fmt: skip


def _steps(table: np.ndarray, size: int, far: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all groups at once: starts (groups, steps), the lanes' next columns, who takes part."""
    at, every = np.zeros(len(table), np.int64), np.arange(len(table))
    starts, columns, takers = [], [], []
    while True:
        ahead = table[every, at].reshape(-1, LANES)
        start = ahead.min(1) // ALIGN * ALIGN
        ready = (ahead < (start + size)[:, None]) & (ahead < far)
        if not ready.any():
            break
        starts.append(start)
        columns.append(ahead)
        takers.append(ready)
        at += ready.ravel()
    if not starts:
        empty = np.zeros((len(table) // LANES, 0, LANES), np.int64)
        return empty[:, :, 0], empty, empty.astype(bool)
    return np.stack(starts, 1), np.stack(columns, 1), np.stack(takers, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLinear:
    """Sparse matrix times one vector at a time."""

    @property
    def name(self) -> str:
        """Short name."""
        return "window_linear"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:  # noqa: ARG002 - protocol
        """Float linear layers."""
        return takes_linear(net, layer)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from an estimate of the steps."""
        weight = layer.weights["weight"]
        groups = ceil(weight.shape[0] / LANES)
        counts = np.sort(np.count_nonzero(weight, axis=1))[::-1]
        steps = counts[::LANES].sum() * 1.25
        each = STEP_NS if machine(target).permutes else PLAIN_STEP_NS
        return float(rows_of(net, layer) * (each * steps + GROUP_NS * groups))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed rows; a window may reach behind the last."""
        return packed_needs(net, layer, SLACK)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002
        """Flash for weights, places and windows, a third of the lanes idle."""
        weight = layer.weights["weight"]
        return int(np.count_nonzero(weight)) * PER_NONZERO + 2 * len(weight)

    def emit(self, site: Site, /) -> Code:
        """The steps as arrays, one function per size."""
        layer = site.layer
        parts = Product.of(layer.name, layer.weights["weight"], site.target)
        outs, ins = layer.weights["weight"].shape
        count = prod(site.inputs[0].shape[:-1])
        finish, more = finish_rows(site)
        after, loops = after_loop(site)
        x = f"{site.inputs[0].pointer} + m * {ins}"
        y = f"{site.outputs[0].pointer} + m * {outs}"
        call = (
            f"for (int m = 0; m < {count}; m++) {{\n    {parts.call(x, y, f'{layer.name}_b')}\n}}\n"
        )
        return Code(
            call=call + finish + after,
            functions={**parts.functions, **more, **loops},
            blobs=(*parts.blobs, bias_blob(layer, outs)),
            note=parts.note,
        )


@dataclass(frozen=True, slots=True)
class Product:
    """C for y = b + W x with a sparse W.

    Args:
        name: Prefix of the arrays.
        function: That is called.
        functions: Texts.
        blobs: Arrays.
        note: For the report.
    """

    name: str
    function: str
    functions: dict[str, str]
    blobs: tuple[Blob, ...]
    note: str

    @classmethod
    def of(cls, name: str, weight: np.ndarray, target: Target) -> Product:
        """The windows of a matrix and the function that reads them."""
        size = 2 * LANES if machine(target).permutes else 256
        plain, sorted_ = (windows(weight, size, ordered=o) for o in (False, True))
        ordered = len(plain.starts) > len(sorted_.starts) + len(plain.ends) * SCATTER_STEPS
        found = sorted_ if ordered else plain
        narrow = np.uint16 if weight.shape[1] < 1 << 16 else np.uint32
        ends = narrowest(found.ends)
        function, text = _function(weight.shape[0], (narrow, ends.dtype.type), ordered=ordered)
        kept = int(np.count_nonzero(weight))
        busy = kept / max(1, found.values.size)
        blobs = [
            Blob(f"{name}_w", _some(found.values.ravel()), align=64),
            Blob(f"{name}_i", _some(found.index.ravel()), "index", 16),
            Blob(f"{name}_s", _some(found.starts.astype(narrow)), "index"),
            Blob(f"{name}_n", ends, "index"),
        ]
        if ordered:
            outs = found.rows.astype(np.uint16 if weight.shape[0] < 1 << 16 else np.uint32)
            blobs.append(Blob(f"{name}_o", outs, "index"))
        return cls(
            name, function, {**types(LANES), "pj_intrinsics": INTRINSICS, function: text},
            tuple(blobs),
            f"{kept} of {weight.size} weights in windows of {size} inputs, lanes {busy:.0%} busy",
        )  # fmt: skip

    def call(self, x: str, y: str, b: str) -> str:
        """The statement."""
        names = ", ".join(blob.name for blob in self.blobs)
        return f"{self.function}({x}, {y}, {b}, {names});"


def _some(values: np.ndarray) -> np.ndarray:
    return values if len(values) else np.zeros(1, values.dtype)


def _function(outs: int, kinds: tuple[type, type], *, ordered: bool) -> tuple[str, str]:
    start, end = (f"{np.dtype(kind).name}_t" for kind in kinds)
    order = "uint16_t" if outs < 1 << 16 else "uint32_t"
    where = f", const {order} *o" if ordered else ""
    full, rest = divmod(outs, LANES)
    count = f"g < {full} ? {LANES} : {rest}" if rest else str(LANES)
    at = "o[i]" if ordered else "i"
    store = f"for (int i = 0; i < ({count}); i++) y[{at}] = b[{at}] + a[i];"
    if not ordered:
        whole = "*(pj_vf16 *)y = a + *(const pj_vf16 *)b;"
        store = f"if (g < {full}) {{ {whole} }} else {{ {store} }}" if rest else whole
    step = f"o += {LANES}" if ordered else f"y += {LANES}, b += {LANES}"
    return named("pj_windows", f"""
static void @NAME@(const float *x, float *y, const float *b, const float *w, const uint8_t *at,
                   const {start} *s, const {end} *n{where}) {{
    for (int g = 0; g < {full + bool(rest)}; g++, n++, {step}) {{
        pj_vf16 a = {{0}}, a1 = {{0}};
        unsigned k = *n;
        for (; k >= 2; k -= 2, s += 2, w += 32, at += 32) {{
            PJ_WINDOW(a, x + s[0], at, w)
            PJ_WINDOW(a1, x + s[1], at + 16, w + 16)
        }}
        if (k) {{
            PJ_WINDOW(a, x + s[0], at, w)
            s++, w += 16, at += 16;
        }}
        a += a1;
        {store}
    }}
}}
""".replace("static void", WINDOW + "static void", 1))  # fmt: skip


WINDOW = """#ifndef PJ_WINDOW
#ifdef __AVX512F__
#define PJ_WINDOW(a, x, i, w) \\
    (a) += *(const pj_vf16 *)(w) * (pj_vf16)_mm512_permutex2var_ps(_mm512_loadu_ps(x), \\
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(i))), \\
        _mm512_loadu_ps((x) + 16));
#else
#define PJ_WINDOW(a, x, i, w) \\
    for (int l = 0; l < 16; l++) (a)[l] += (w)[l] * (x)[(i)[l]];
#endif
#endif
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLinear:
    """Sparse matrix times many vectors that lie side by side.

    Args:
        conv: The convolution that it is.
    """

    conv: SparseConv = field(default_factory=SparseConv)

    @property
    def name(self) -> str:
        """Short name."""
        return "column_linear"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float linear layers."""
        return takes_linear(net, layer) and self.conv.takes(*self._inner(net, layer), target)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """As the convolution, and turning the tensors."""
        moved = sum(net.tensors[n].elements for n in (layer.inputs[0], layer.outputs[0]))
        turned = TURN_NS * moved if rows_of(net, layer) > 1 else 0.0
        return self.product_cost(net, layer, target) + turned

    def product_cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """As the convolution: of tensors that lie as they should."""
        return self.conv.cost(*self._inner(net, layer), target)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Features outermost."""

        def turned(name: str) -> Room:
            rank = len(net.tensors[name].shape)
            return Room(order=(rank - 1, *range(rank - 1)), slack=SLACK)

        return Needs(
            inputs=tuple(turned(n) for n in layer.inputs),
            outputs=tuple(turned(n) for n in layer.outputs),
            scratch_bytes=self.conv.needs(*self._inner(net, layer), target).scratch_bytes,
        )

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:
        """As the convolution."""
        return self.conv.constant_bytes(*self._inner(net, layer), target)

    def emit(self, site: Site, /) -> Code:
        """The convolution of one tap over planes of features."""
        rows = prod(site.inputs[0].shape[:-1])
        inner = replace(
            site,
            layer=self._conv(site.layer),
            inputs=tuple(_planes(p, rows) for p in site.inputs),
            outputs=tuple(_planes(p, rows) for p in site.outputs),
        )
        return self.conv.emit(inner)

    def _conv(self, layer: Layer) -> Layer:
        attributes = {
            **layer.attributes, "stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1,
        }  # fmt: skip
        weights = {**layer.weights, "weight": layer.weights["weight"][:, :, None]}
        return replace(layer, kind="conv", attributes=attributes, weights=weights)

    def _inner(self, net: Net, layer: Layer) -> tuple[Net, Layer]:
        rows = rows_of(net, layer)
        names = (*layer.inputs, *layer.outputs)
        tensors = {
            n: replace(net.tensors[n], shape=(1, net.tensors[n].shape[-1], rows)) for n in names
        }
        one = self._conv(layer)
        return replace(net, tensors=tensors, layers=(one,)), one


TURN_NS = 0.15
"""Of one element that has to change places."""


def _planes(place: Place, rows: int) -> Place:
    """(…, features) with the features outermost as (1, features, rows)."""
    return replace(
        place, shape=(1, place.shape[-1], rows), strides=(0, place.strides[-1], 1), border=()
    )

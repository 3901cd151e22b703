"""Dense linear layers: outputs in the lanes, weights in the order in which they are read.

Where an input is zero its weights need not be read: with `skip` the inputs that are not zero are
listed first. That pays from about a third of zeros on, behind a ReLU, a threshold or the largest
few; the share is that of the example.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Room, Site
from penjing.codegen.kernels.conv import bias_blob
from penjing.codegen.kernels.cover import SLACK, merged, named
from penjing.codegen.kernels.finish import after_loop, in_vectors
from penjing.codegen.kernels.geometry import Piece, row_pieces
from penjing.codegen.kernels.vectors import activated, keep, machine, types
from penjing.codegen.targets import Target

MULTIPLY_NS, CACHED_NS, MEMORY_NS, TILE_NS = 0.16, 0.3, 0.6, 8.0
"""Of one vector's multiply-add, of one vector of weights read from a cache or from beyond it, of
one tile (Zen 5)."""
LIST_NS, JUMP = 0.4, 1.15
"""Of one input that is looked at for the list, and how much more weights cost that are apart."""
LEAST_ZEROS = 0.3
"""Share of zeros below which looking for them does not pay."""
CACHE_BYTES = 1 << 20
"""Of weights that stay near the core from call to call."""


def takes_linear(net: Net, layer: Layer) -> bool:
    """Whether it is a float linear layer."""
    names = (*layer.inputs, *layer.outputs)
    return layer.kind == "linear" and all(net.tensors[n].dtype == "f32" for n in names)


def rows_of(net: Net, layer: Layer) -> int:
    """Vectors that the layer is applied to."""
    return prod(net.tensors[layer.inputs[0]].shape[:-1])


def packed_needs(net: Net, layer: Layer, slack: int = 0, beside: int = 0) -> Needs:
    """Everything contiguous, the features innermost.

    Args:
        net: That the layer is part of.
        layer: Linear.
        slack: Elements that may be read behind the input.
        beside: The same behind what is added.
    """
    x, y = (net.tensors[n[0]].shape for n in (layer.inputs, layer.outputs))
    one, two = Room(order=tuple(range(len(x))), slack=slack), Room(order=tuple(range(len(y))))
    added = (replace(two, slack=beside) for _ in layer.inputs[1:])
    return Needs(inputs=(one, *added), outputs=(two,))


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLinear:
    """Dense matrix times one or many vectors.

    Args:
        vectors: Vectors of outputs per tile.
        rows: Inputs per tile.
        skip: Leave out inputs that are zero; for one row.
    """

    vectors: int = 8
    rows: int = 1
    skip: bool = False

    @property
    def name(self) -> str:
        """Short name."""
        return "skip_linear" if self.skip else "dense_linear"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float linear layers, as far as the registers go."""
        registers = machine(target).registers
        if not takes_linear(net, layer) or (self.skip and not _few(net, layer)):
            return False
        return self.rows <= rows_of(net, layer) and (self.rows + 1) * self.vectors + 1 <= registers

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from multiplications and from the weights' way to the core."""
        outs, ins = layer.weights["weight"].shape
        lanes, rows = machine(target).lanes, rows_of(net, layer)
        wide = ceil(outs / lanes)
        tiles = ceil(wide / self.vectors)
        passes = ceil(rows / self.rows)
        read = CACHED_NS if outs * ins * 4 <= CACHE_BYTES else MEMORY_NS
        each = max(self.rows * MULTIPLY_NS, read if passes == 1 else CACHED_NS)
        if self.skip:
            kept = 1 - net.tensors[layer.inputs[0]].zeros
            return float(wide * ins * each * kept * JUMP + TILE_NS * tiles + LIST_NS * ins)
        return float(passes * (wide * ins * each + TILE_NS * self.rows * tiles))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed rows, which the last vector of what is added may pass; room for the list."""
        ins = layer.weights["weight"].shape[1]
        packed = packed_needs(net, layer, beside=SLACK)
        return replace(packed, scratch_bytes=4 * ins if self.skip else 0)

    def emit(self, site: Site, /) -> Code:
        """One function for full tiles of rows, one for the rest."""
        layer, lanes = site.layer, machine(site.target).lanes
        weight = layer.weights["weight"]
        outs, ins = weight.shape
        rows = prod(site.inputs[0].shape[:-1])
        pieces = row_pieces(outs, lanes)
        wide = pieces[-1].column + pieces[-1].lanes
        functions: dict[str, str] = {}
        for p in pieces:
            functions |= types(p.lanes)
            if p.keep < p.lanes:
                functions |= keep(p.lanes, p.keep)
        groups = [pieces[i : i + self.vectors] for i in range(0, len(pieces), self.vectors)]
        calls, start = [], 0
        packed = []
        padded = np.zeros((wide, ins), np.float32)
        padded[:outs] = weight
        for group in _runs(groups):
            first, last = group[0][0], group[-1][-1]
            for tile in group:
                left, right = tile[0].column, tile[-1].column + tile[-1].lanes
                packed.append(padded[left:right].T.ravel())
            for at, many in _row_tiles(rows, self.rows):
                name, text = _tile(site, group[0], many, (ins, outs), skip=self.skip)
                functions[name] = text
                calls.append((at, many, name, start, first.column, len(group)))
            start += (last.column + last.lanes - first.column) * ins
        call = _calls(site, calls, ins, outs, skip=self.skip)
        after, more = after_loop(site)
        return Code(
            call=call + after,
            functions=merged(functions, more),
            blobs=(
                Blob(f"{layer.name}_w", np.concatenate(packed), align=64),
                bias_blob(layer, wide),
            ),
            note=f"dense, {self.rows} rows x {self.vectors} vectors"
            + (", without inputs that are zero" if self.skip else ""),
        )


def _runs(groups: list[tuple[Piece, ...]]) -> list[list[tuple[Piece, ...]]]:
    """Neighbouring tiles of the same shape."""
    runs: list[list[tuple[Piece, ...]]] = []
    for group in groups:
        shape = [(p.lanes, p.keep) for p in group]
        if runs and [(p.lanes, p.keep) for p in runs[-1][-1]] == shape:
            runs[-1].append(group)
        else:
            runs.append([group])
    return runs


def _row_tiles(rows: int, most: int) -> list[tuple[range, int]]:
    """Starts of the full tiles of rows, then of the rest."""
    full = rows // most * most
    found = [(range(0, full, most), most)] if full else []
    return [*found, (range(full, rows, rows - full), rows - full)] if rows - full else found


def _few(net: Net, layer: Layer) -> bool:
    """Whether enough of one row of inputs is zero."""
    return rows_of(net, layer) == 1 and net.tensors[layer.inputs[0]].zeros >= LEAST_ZEROS


def _tile(
    site: Site, pieces: tuple[Piece, ...], rows: int, sizes: tuple[int, int], *, skip: bool
) -> tuple[str, str]:
    ins, outs = sizes
    left = pieces[0].column
    wide = pieces[-1].column + pieces[-1].lanes - left
    begin, work, end = [], [], []
    with_z, act = len(site.inputs) > 1, in_vectors(site.layer)
    for v, p in enumerate(pieces):
        at, vf = p.column - left, f"pj_vf{p.lanes}"
        work.append(f"const {vf} v{v} = *(const {vf} *)(w + {at});")
        for m in range(rows):
            a = f"a{m}_{v}"
            begin.append(f"{vf} {a} = *(const {vf} *)(b + {at});")
            work.append(f"{a} += v{v} * x[{m * ins}];")
            z = f"{a} += *(const {vf} *)(z + {m * outs + at}); " if with_z else ""
            to = f"y + {m * outs + at}"
            store = f"*({vf} *)({to}) = {a};"
            if p.keep < p.lanes:
                store = f"pj_keep{p.lanes}_{p.keep}({to}, &{a});"
            end.append(z + (activated(act, p.lanes, a) or "") + store)
    z_is = ", const float *z" if with_z else ""
    begins, works, ends = ("\n    ".join(lines) for lines in (begin, work, end))
    head, arrays = f"for (int k = 0; k < {ins}; k++, x++, w += {wide}) {{", "*x, const float *w"
    if skip:
        arrays = "*all_x, const float *all_w, const int32_t *at, int count"
        head = f"""for (int i = 0; i < count; i++) {{
    const float *x = all_x + at[i], *w = all_w + at[i] * {wide};"""
    return named("pj_linear", f"""
static void @NAME@(float *y, const float *b{z_is}, const float {arrays}) {{
    {begins}
    {head}
    {works}
    }}
    {ends}
}}
""")  # fmt: skip


def _calls(
    site: Site,
    calls: list[tuple[range, int, str, int, int, int]],
    ins: int,
    outs: int,
    *,
    skip: bool,
) -> str:
    name, listed = site.layer.name, ", at, count" if skip else ""
    text = [f"const float *x = {site.inputs[0].pointer}; float *y = {site.outputs[0].pointer};"]
    if skip:
        text.append(
            f"int32_t *at = (int32_t *)({site.scratch});\nint count = 0;\n"
            f"for (int k = 0; k < {ins}; k++) {{ at[count] = k; count += x[k] != 0.0f; }}"
        )
    if len(site.inputs) > 1:
        text.append(f"const float *z = {site.inputs[1].pointer};")
    for rows, _, function, start, left, count in calls:
        wide = f"i * {_wide(calls, left, outs)}" if count > 1 else "0"
        z = f", z + m * {outs} + {left} + {wide}" if len(site.inputs) > 1 else ""
        text.append(
            f"for (int i = 0; i < {count}; i++) "
            f"for (int m = {rows.start}; m < {rows.stop}; m += {rows.step}) "
            f"{function}(y + m * {outs} + {left} + {wide}, {name}_b + {left} + {wide}{z}, "
            f"x + m * {ins}, {name}_w + {start} + {wide} * {ins}{listed});"
        )
    return "\n".join(text)


def _wide(calls: list[tuple[range, int, str, int, int, int]], left: int, outs: int) -> int:
    """Outputs of one tile of the run that begins at `left`."""
    count = next(c[5] for c in calls if c[4] == left)
    after = min((c[4] for c in calls if c[4] > left), default=outs)
    return ceil((after - left) / count)

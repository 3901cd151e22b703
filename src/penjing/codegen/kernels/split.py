"""Linear layers on several threads: each takes some of the input's rows, or of the weight's.

A part is a layer of its own for the kernel inside. One row of input leaves the weight's rows to be
shared, which is what a batch of one and the steps of recurrent layers have; parts then hold about
the same number of nonzeros and begin at whole vectors. Starting the threads costs microseconds, so
that small layers stay on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Kernel, Needs, Place, Site, constant_bytes_of
from penjing.codegen.kernels.cover import merged
from penjing.codegen.kernels.dense_linear import rows_of, takes_linear
from penjing.codegen.kernels.sparse_linear import LANES, WindowLinear
from penjing.codegen.targets import Target
from penjing.codegen.threads import START_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A linear layer in as many parts as there are threads.

    Args:
        product: Kernel of the parts; without scratch memory, for packed tensors.
        start_ns: Of starting the threads and waiting for the last.
    """

    product: Kernel = field(default_factory=WindowLinear)
    start_ns: float = START_NS

    @property
    def name(self) -> str:
        """Short name."""
        return f"split_{self.product.name}"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float linear layers with something to share, where there are threads."""
        if target.threads < 2 or not takes_linear(net, layer):
            return False
        cuts = _cuts(layer.weights["weight"], rows_of(net, layer), target.threads)
        parts = _parts(net, layer, cuts)
        return len(parts) > 1 and all(self.product.takes(*part, target) for part in parts)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds of the slowest part, and of the start."""
        cuts = _cuts(layer.weights["weight"], rows_of(net, layer), target.threads)
        parts = _parts(net, layer, cuts)
        return self.start_ns + max(self.product.cost(*part, target) for part in parts)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:
        """Flash of all parts; parts of the input's rows have one weight."""
        if rows_of(net, layer) > 1:
            return constant_bytes_of(self.product, net, layer, target)
        cuts = _cuts(layer.weights["weight"], 1, target.threads)
        parts = _parts(net, layer, cuts)
        return sum(constant_bytes_of(self.product, *part, target) for part in parts)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """As the product."""
        return self.product.needs(net, layer, target)

    def emit(self, site: Site, /) -> Code:
        """A loop over the parts, each with code of its own."""
        layer = site.layer
        rows = _rows(site.inputs[0])
        cuts = _cuts(layer.weights["weight"], rows, site.target.threads)
        whole = Net((), (), (layer,), _tensors(site))  # type: ignore[arg-type] # places have shapes
        parts = [
            self.product.emit(_site(site, part, span, by_rows=rows > 1))
            for (_, part), span in zip(_parts(whole, layer, cuts), pairwise(cuts), strict=True)
        ]
        cases = "\n".join(
            f"    if (i_part == {i}) {{\n    {code.call}\n    }}" for i, code in enumerate(parts)
        )
        return Code(
            call=f"PJ_THREADS({len(parts)})\n"
            f"for (int i_part = 0; i_part < {len(parts)}; i_part++) {{\n{cases}\n}}\n",
            functions=merged(*(code.functions for code in parts)),
            blobs=tuple(blob for code in parts for blob in code.blobs),
            note=f"{len(parts)} parts; {parts[0].note}",
        )


def _rows(place: Place) -> int:
    return int(np.prod(place.shape[:-1]))


def _tensors(site: Site) -> dict[str, Place]:
    names = (*site.layer.inputs, *site.layer.outputs)
    return dict(zip(names, (*site.inputs, *site.outputs), strict=True))


def _cuts(weight: np.ndarray, rows: int, threads: int) -> list[int]:
    """Where parts begin, and the end: in rows of the input, or of the weight if there is one."""
    if rows > 1:
        many = min(rows, threads)
        return [rows * i // many for i in range(many + 1)]
    work = np.cumsum(np.count_nonzero(weight, axis=1) + 1)
    wanted = work[-1] * np.arange(1, threads) / threads
    at = np.round((np.searchsorted(work, wanted) + 1) / LANES) * LANES
    return sorted({0, *(int(a) for a in at if a < len(weight)), len(weight)})


def _parts(net: Net, layer: Layer, cuts: Sequence[int]) -> list[tuple[Net, Layer]]:
    """Every part as a net of one layer."""
    rows = rows_of(net, layer)
    found = []
    for i, (first, last) in enumerate(pairwise(cuts)):
        weights = layer.weights
        if rows == 1:
            weights = {k: None if v is None else v[first:last] for k, v in weights.items()}
        one = replace(layer, name=f"{layer.name}_{i}", weights=weights)
        outs, ins = weights["weight"].shape
        many = last - first if rows > 1 else 1
        shapes = dict.fromkeys((*layer.inputs[1:], *layer.outputs), (many, outs))
        shapes[layer.inputs[0]] = (many, ins)
        tensors = {n: replace(net.tensors[n], shape=shape) for n, shape in shapes.items()}
        found.append((Net((), (), (one,), tensors), one))
    return found


def _site(site: Site, part: Layer, span: tuple[int, int], *, by_rows: bool) -> Site:
    """Where a part's tensors lie inside those of the layer."""
    outs, ins = site.layer.weights["weight"].shape

    def moved(place: Place, width: int, start: int) -> Place:
        many = span[1] - span[0] if by_rows else 1
        pointer = f"({place.pointer} + {start})" if start else place.pointer
        return replace(place, pointer=pointer, shape=(many, width), strides=(width, 1))

    wide = outs if by_rows else span[1] - span[0]
    to = span[0] * outs if by_rows else span[0]
    x = moved(site.inputs[0], ins, span[0] * ins if by_rows else 0)
    return replace(
        site,
        layer=part,
        inputs=(x, *(moved(z, wide, to) for z in site.inputs[1:])),
        outputs=tuple(moved(y, wide, to) for y in site.outputs),
    )

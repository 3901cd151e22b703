"""Data movement, found by what an op does and not by its name.

A view moves the values of its argument, and so does an op that commutes with a random relabelling
of them. The labels of its output follow from its routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.graph.axes import Atoms, Dim, Label, Reason, fixed, pack
from penjing.graph.call import Call
from penjing.graph.routes import Route, Shape, Strided, Tiling, Trace, tensors

VALUES = 498  # random integers lie in -498..498: exact in every float type that is captured


def movable(call: Call) -> list[fx.Node]:
    """Arguments whose values may be replaced by coordinates; integers beside them are indices."""
    floats = [n for n in call.tensors if n.meta["val"].is_floating_point()]
    return floats or call.tensors


def is_movement(
    call: Call,
    shape: Callable[[fx.Node], tuple[int, ...]],
    values: Callable[[fx.Node], Any],
    sources: Sequence[fx.Node] | None = None,
) -> bool:
    """Whether the op commutes with a random bijection of the values (both signs, zero fixed).

    Args:
        call: The op.
        shape: Shape of an argument.
        values: Value of an argument that is not movable.
        sources: Arguments whose values are tried; the movable ones when not given.

    Returns:
        False also when the op cannot run on such values.
    """
    generator = torch.Generator().manual_seed(0)
    bijection = torch.randperm(2 * VALUES + 1, generator=generator).double() - VALUES
    bijection[bijection == 0] = bijection[VALUES].item()
    bijection[VALUES] = 0
    inputs = {
        n: torch.randint(-VALUES, VALUES + 1, shape(n), generator=generator).double()
        for n in (movable(call) if sources is None else sources)
    }

    def moved(value: Tensor) -> Tensor:
        return bijection[value.long() + VALUES]

    try:
        plain = tensors(call.run(values, inputs))
        mapped = tensors(call.run(values, {n: moved(v) for n, v in inputs.items()}))
    except (RuntimeError, TypeError, NotImplementedError, IndexError):
        return False
    if not plain or any(not p.is_floating_point() for p in plain):
        return False
    if any(
        p.numel() and (bool((p != p.round()).any()) or float(p.abs().max()) > VALUES) for p in plain
    ):
        return False
    return all(torch.equal(moved(p), q) for p, q in zip(plain, mapped, strict=True))


@dataclass(frozen=True, slots=True)
class Move:
    """One movement op with the labels of its inputs.

    Args:
        sources: Arguments whose values move.
        labels: Labels of an argument's dimensions.
        atoms: The algebra.
        reason: Makes what is given to what cannot be followed.
        indexed: Whether a constant integer tensor chooses the positions; its values would have to
            be renumbered.
    """

    sources: Sequence[fx.Node]
    labels: Callable[[fx.Node], list[Dim]]
    atoms: Atoms
    reason: Callable[[], Reason]
    indexed: bool

    def output(self, route: Route) -> list[Dim]:
        """Labels of one output from where its positions came from."""
        if isinstance(route, Strided) and route.tiling is not None:
            return self._tiled(route.tiling, route.shape)
        candidates: list[list[Dim | None]] = [[] for _ in route.shape]
        for number, source in enumerate(self.sources):
            inside = route.inside(number)
            if inside is not None and not inside.any():
                continue
            here = self._from_source(number, source, route)
            if inside is None:
                return here
            for axis, dim in enumerate(here):
                rest = tuple(a for a in range(inside.ndim) if a != axis)
                reached = np.asarray(inside.any(axis=rest))
                candidates[axis].append(_with_gaps(dim, reached))
        return [self._merge(dims, size) for dims, size in zip(candidates, route.shape, strict=True)]

    def _tiled(self, tiling: Tiling, shape: Shape) -> list[Dim]:
        """Labels of a view that cuts whole dimensions into parts and merges these."""
        parts: dict[tuple[int, int], Dim] = {}
        for place, dim in enumerate(self.labels(self.sources[0])):
            sizes = tiling.parts[place]
            if place in tiling.picked:
                self._pick(dim, tiling.picked[place])
            elif len(sizes) == 1 and self.atoms.is_live(dim):
                parts[place, 0] = dim
            elif self.atoms.is_live(dim):
                cut = self.atoms.divide(dim, sizes)
                cut = self.atoms.split(dim, sizes, self.reason()) if cut is None else cut
                parts.update(((place, number), part) for number, part in enumerate(cut))
            else:
                parts.update(((place, n), fixed(size)) for n, size in enumerate(sizes))
        return [
            self.atoms.merged([parts[part] for part in axis]) if axis else fixed(size)
            for axis, size in zip(tiling.axes, shape, strict=True)
        ]

    def _pick(self, dim: Dim, position: int) -> None:
        """Lock a position that is picked alone: which one it is would be another after a cut."""

        def because() -> Reason:
            reason = self.reason()
            return Reason(f"{reason.why} picks one position", reason.where)

        self.atoms.lock_position(dim, position, because)

    def _from_source(self, number: int, source: fx.Node, route: Route) -> list[Dim]:
        """Labels that one source gives to each output axis."""
        out = [fixed(size) for size in route.shape]
        for place, dim in enumerate(self.labels(source)):
            if len(dim) == 1 or not self.atoms.is_live(dim):
                continue
            trace = route.trace(number, place)
            if not trace.axes:
                if trace.core.flat[0] > 0:
                    self._pick(dim, int(trace.core.flat[0]) - 1)
                continue
            if self.indexed and not trace.same:
                reason = self.reason()
                why = f"{reason.why} with a constant index"
                self.atoms.lock(dim, Reason(why, reason.where))
                continue
            for axis, part in zip(trace.axes, self._parts(dim, trace), strict=True):
                alone = out[axis].shape[1] == 0
                out[axis] = part if alone else np.concatenate([out[axis], part], axis=1)
        return out

    def _parts(self, dim: Dim, trace: Trace) -> list[Dim]:
        """Labels along each axis over which a dimension lies."""
        if trace.same:
            return [dim]
        if trace.split:
            return self.atoms.factor_at(dim, trace.core, self.reason())
        if len(trace.axes) == 1:
            core = trace.core
            return [np.where((core > 0)[:, None], dim[np.maximum(core - 1, 0)], -1)]
        return self._factor(dim, trace.core)

    def _factor(self, dim: Dim, core: NDArray[np.int64]) -> list[Dim]:
        """Labels along each axis of `core`; equal slices are looked at once."""
        small, classes = core, []
        for axis in range(core.ndim):
            rows = np.moveaxis(small, axis, 0).reshape(small.shape[axis], -1)
            _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            order = np.argsort(first)
            small = small.take(first[order], axis)
            classes.append(np.argsort(order)[inverse.reshape(-1)])
        parts = self.atoms.factor_at(dim, small, self.reason())
        return [part[inverse] for part, inverse in zip(parts, classes, strict=True)]

    def _merge(self, dims: list[Dim | None], size: int) -> Dim:
        """One dimension from what the sources said; where several speak, they go together."""
        said = [d for d in dims if d is not None]
        if not said:
            return fixed(size)
        if len(said) == 1:
            return np.where(said[0] == GAP, -1, said[0]) if said[0].size else said[0]
        rows: list[list[Label]] = [[] for _ in range(size)]
        for dim in said:
            gaps = (dim == GAP).any(axis=1) if dim.size else np.zeros(size, bool)
            for position in np.flatnonzero(~gaps):
                rows[position].append(tuple(int(a) for a in dim[position] if a >= 0))
        for labels in rows:
            for other in labels[1:]:
                self.atoms.unify(pack([labels[0]]), pack([other]), self.reason())
        return pack([labels[0] if labels else () for labels in rows])


GAP = -2  # a position of an output that a source does not reach


def _with_gaps(dim: Dim, reached: NDArray[np.bool_]) -> Dim:
    """Mark the positions that the source does not reach."""
    if reached.all():
        return dim
    wide = dim if dim.shape[1] else np.full((len(dim), 1), -1, np.int64)
    return np.where(reached[:, None], wide, GAP)

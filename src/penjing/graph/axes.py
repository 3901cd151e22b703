"""The algebra of axes: labels made of atoms, and the three things that happen to atoms.

Every position of a tensor dimension carries a *label*, a set of atoms: the position goes iff any of
its atoms is cut. A dimension's labels are an int64 array (positions, factors) of atom numbers, -1
where there is no atom; zero factors mean that the dimension never changes. Ops do only three things
to atoms:

- *unify* two labels: from now on they go together;
- *refine* an atom into several: `c[h * E + e] := {H[h], E[e]}`, so that a view that splits a
  dimension keeps both halves;
- *lock* an atom with a reason. What cannot be aligned is locked, which is always safe.

Atoms are a union-find over arrays. Dimensions that are products of whole axes are told by these
axes (`grids.py`); what happens to an axis is written to the arrays as well, so that they always
tell everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from penjing.graph.grids import Axes, Axis, Grids, Tile, divided
from penjing.graph.grids import Dim as Dim
from penjing.graph.grids import fixed as fixed
from penjing.graph.grids import product as product

Label = tuple[int, ...]

NOTHING = -1
FIRST = 1024
"""Atoms for which there is room at first."""

REMEMBERED = 2**14
"""Most dimensions that are remembered in free atoms: cutting a network again makes new ones."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why atoms are locked: the op with its cause, and its source line."""

    why: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """How many positions of a dimension an op needs."""

    dim: Dim
    least: int
    reason: Reason


def fixed_dims(sizes: Sequence[int]) -> list[Dim]:
    """Labels of several dimensions that never change."""
    return [fixed(size) for size in sizes]


def pack(labels: Sequence[Label]) -> Dim:
    """Labels as an array, padded with -1."""
    width = max((len(label) for label in labels), default=0)
    dim = np.full((len(labels), width), NOTHING, np.int64)
    for row, label in zip(dim, labels, strict=True):
        row[: len(label)] = label
    return dim


def join(parts: Sequence[Dim]) -> Dim:
    """Dimensions one after the other."""
    width = max((part.shape[1] for part in parts), default=0)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=NOTHING) for p in parts]
    return np.concatenate(padded) if padded else fixed(0)


def _tidy(dim: Dim) -> Dim:
    """Labels without repeats, their atoms first, no wider than needed."""
    dim = dim.copy()
    for column in range(1, dim.shape[1]):
        dim[(dim[:, :column] == dim[:, column : column + 1]).any(axis=1), column] = NOTHING
    order = np.argsort(dim < 0, axis=1, kind="stable")
    width = int((dim >= 0).sum(axis=1).max(initial=0))
    return np.take_along_axis(dim, order, axis=1)[:, :width]


def _room(table: Dim, rows: int, columns: int) -> Dim:
    """A table with room for so many rows and columns; what is new is empty."""
    if rows <= len(table) and columns <= table.shape[1]:
        return table
    size = max(rows, 2 * len(table)) if rows > len(table) else len(table)
    wider = np.full((size, max(columns, table.shape[1])), NOTHING, np.int64)
    wider[: len(table), : table.shape[1]] = table
    return wider


class Atoms:
    """All atoms of one network: which are the same, refined, locked, and what they went through."""

    def __init__(self) -> None:
        self._to = np.arange(FIRST)
        self._lock = np.zeros(FIRST, np.int64)
        self._normalised = np.zeros(FIRST, bool)
        self._stream = np.zeros(FIRST, bool)
        self._refined = np.zeros(FIRST, bool)
        self._row = np.zeros(FIRST, np.int64)  # of a refined atom in the table of parts
        self._numbers = np.arange(FIRST)[:, None]  # what labels of fresh atoms are cut from
        self._table = np.full((FIRST, 2), NOTHING, np.int64)
        self._rows = 0
        self._reasons: list[Reason] = [Reason("free")]
        self.demands: list[Demand] = []
        self._size = 0
        self._grids = Grids()
        self._resolved: dict[int, tuple[Dim, Dim]] = {}  # since the last change

    def __len__(self) -> int:
        return self._size

    def new(self, count: int) -> Dim:
        """Labels of a dimension of `count` fresh atoms."""
        first, self._size = self._size, self._size + count
        if self._size > len(self._to):
            grown = max(self._size, 2 * len(self._to))
            extra = grown - len(self._to)
            self._to = np.concatenate([self._to, np.arange(len(self._to), grown)])
            self._lock = np.concatenate([self._lock, np.zeros(extra, np.int64)])
            self._refined = np.concatenate([self._refined, np.zeros(extra, bool)])
            self._row = np.concatenate([self._row, np.zeros(extra, np.int64)])
            self._normalised = np.concatenate([self._normalised, np.zeros(extra, bool)])
            self._stream = np.concatenate([self._stream, np.zeros(extra, bool)])
            self._numbers = np.arange(grown)[:, None]
        labels = self._numbers[first : self._size]
        self._grids.new(labels, first)
        return labels

    # -------------------------------------------------------------- reading

    def resolve(self, dim: Dim) -> Dim:
        """Labels in free atoms, refined ones replaced by their parts."""
        if dim.size == 0:
            return dim
        axes = self._grids.of(dim)
        if axes is not None:
            return self._grids.dim(axes)
        known = self._resolved.get(id(dim))
        if known is None:
            if len(self._resolved) >= REMEMBERED:
                self._resolved.clear()
            known = self._resolved[id(dim)] = dim, self._followed(dim)  # so its id stays taken
        return known[1]

    def live(self, dim: Dim) -> Dim:
        """Labels without locked atoms; a dimension with none left has zero factors."""
        axes = self._grids.of(dim)
        if axes is not None:
            return self._alive(dim, axes)
        roots = self.resolve(dim)
        if roots.size == 0:
            return fixed(len(dim))
        alive = np.where((roots >= 0) & (self._lock[roots] == 0), roots, NOTHING)
        return alive if bool((alive >= 0).any()) else fixed(len(dim))

    def is_live(self, dim: Dim) -> bool:
        """Whether any position may still be cut."""
        if dim.shape[1] == 0:
            return False
        axes = self._grids.of(dim)
        if axes is not None:
            return any(not axis.locked for axis in axes)
        ends = (dim[0].tolist(), dim[-1].tolist()) if len(dim) else ()  # most often enough
        return any(self._live_label(end) for end in ends) or bool(self.live(dim).shape[1])

    def tiles(self, dim: Dim) -> Sequence[Tile] | None:
        """Where free axes lie in a dimension; None where only `live` can tell."""
        axes = self._grids.of(dim)
        return None if axes is None else self._grids.tiles(axes)

    def reason(self, atom: int) -> Reason:
        """Why `atom` is locked; "free" when it is not."""
        return self._reasons[int(self._lock[self._roots(np.array([atom]))[0]])]

    def reasons(self, atoms: NDArray[np.int64]) -> list[tuple[Reason, int]]:
        """Reasons for which atoms are locked and for how many, in order of appearance."""
        numbers = self._lock[self._roots(atoms)]
        found, first, counts = np.unique(numbers, return_index=True, return_counts=True)
        return [
            (self._reasons[int(found[i])], int(counts[i])) for i in np.argsort(first, kind="stable")
        ]

    def is_normalised(self, atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether statistics run over the atoms' dimension somewhere."""
        return self._normalised[atoms]

    def is_stream(self, atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether several branches add up in the atoms' dimension."""
        return self._stream[atoms]

    # -------------------------------------------------------------- writing

    def lock(self, dim: Dim, reason: Reason) -> None:
        """Never cut these positions."""
        if dim.size == 0:
            return
        axes = self._grids.of(dim)
        if axes is not None:
            for axis in axes:
                if not axis.locked:
                    axis.lock(whole=True)
                    self._lock[axis.atoms] = self._reason_number(reason)
            return
        atoms = self._atoms(dim)
        free = atoms[self._lock[atoms] == 0]
        if len(free):
            self._lock[free] = self._reason_number(reason)
            for axis in self._grids.touched(free):
                axis.lock(whole=bool(self._lock[axis.atoms].all()))

    def lock_position(self, dim: Dim, position: int, reason: Callable[[], Reason]) -> None:
        """Never cut one position."""
        for atom in self._live_label(dim[position].tolist()):
            self._lock[atom] = self._reason_number(reason())
            axis = self._grids.at(atom)
            axis.lock(whole=bool(self._lock[axis.atoms].all()))

    def mark_normalised(self, dim: Dim) -> None:
        """May be cut, but not like zero-masking: statistics run over the kept units."""
        self._mark(self._normalised, dim)

    def demand(self, dim: Dim, least: int, reason: Reason) -> None:
        """May be cut as long as `least` positions stay."""
        self.demands.append(Demand(dim, least, reason))

    def mark_stream(self, dim: Dim) -> None:
        """Several branches add up here."""
        self._mark(self._stream, dim)

    def joined(self, left: Dim, right: Dim) -> bool:
        """Unify two dimensions if nothing can come of it that needs a reason; whether it was done.

        That is so for grids of the same shape whose axes go together in pairs, for one that is the
        product of free axes, and for two that never change.
        """
        if left is right or len(left) == 0 or left.shape[1] == right.shape[1] == 0:
            return True
        here, there = self._grids.of(left), self._grids.of(right)
        if here is None or there is None:
            return False
        return self._join_pairs(here, there) or self._join_whole(here, there)

    def merged(self, dims: Sequence[Dim]) -> Dim:
        """Labels of the merged dimension of several, outermost first."""
        if len(dims) == 1:
            return dims[0]
        known = self._grids.merged(dims)
        return reduce(product, dims) if known is None else known

    def unify(self, left: Dim, right: Dim, reason: Reason) -> None:
        """Position by position, make two dimensions of equal length go together."""
        if self.joined(left, right):
            return
        a, b = self.live(left), self.live(right)
        if a.shape[1] == 0 or b.shape[1] == 0:
            if a.shape[1]:
                self.lock(a, self._other_reason(right, reason))
            if b.shape[1]:
                self.lock(b, self._other_reason(left, reason))
        elif a.shape[1] == b.shape[1] == 1:
            self._unify_columns(a[:, 0], b[:, 0], reason)
        elif self._stands_for(a, b):
            self._refine(a[:, 0], b)
        elif self._stands_for(b, a):
            self._refine(b[:, 0], a)
        else:
            for row_a, row_b in zip(a, b, strict=True):
                self._unify_labels(tuple(row_a), tuple(row_b), reason)

    def factor(self, labels: NDArray[np.object_], reason: Reason) -> list[Dim]:
        """Labels over several axes -> one dimension per axis, whose product they are.

        Atoms are refined where needed.

        Args:
            labels: Object array over k axes, each entry a label.
            reason: Given to atoms that cannot be split over the axes.

        Returns:
            k dimensions, one per axis.
        """
        if labels.ndim == 1:
            return [pack(list(labels))]
        alive = np.empty(labels.shape, object)
        for place in np.ndindex(labels.shape):
            alive[place] = self._live_label(tuple(labels[place]))
        widths = {len(label) for label in alive.flat}
        if len(widths) > 1:
            return self._factor_mixed(alive, reason)
        dims = fixed_dims(alive.shape)
        for column in range(widths.pop() if widths else 0):
            atoms = np.vectorize(lambda label, c=column: label[c], otypes=[np.int64])(alive)
            for axis, part in self._factor_atoms(atoms, reason):
                dims[axis] = np.concatenate([dims[axis], part], axis=1)
        return dims

    def split(self, dim: Dim, sizes: Sequence[int], reason: Reason) -> list[Dim]:
        """The dimensions of `dim` viewed as `sizes`; axes of size one are fixed."""
        big = [i for i, size in enumerate(sizes) if size > 1]
        dims = fixed_dims(sizes)
        if not big or dim.shape[1] == 0:
            return dims
        lengths = [sizes[i] for i in big]
        parts = self.divide(dim, lengths)
        if parts is None:
            core = np.arange(1, len(dim) + 1).reshape(lengths)
            parts = self.factor_at(dim, core, reason)
        for axis, part in zip(big, parts, strict=True):
            dims[axis] = part
        return dims

    def divide(self, dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
        """The dimensions of `dim` viewed as `sizes`; None where that may need a reason."""
        axes = self._grids.of(dim)
        plan = None if axes is None else divided([axis.size for axis in axes], sizes)
        if axes is None or plan is None:
            return None
        parts = [self._parts_of(axis, counts) for axis, counts in zip(axes, plan[0], strict=True)]
        return [self._grids.dim(tuple(parts[n][k] for n, k in share)) for share in plan[1]]

    def factor_at(self, dim: Dim, core: NDArray[np.int64], reason: Reason) -> list[Dim]:
        """Labels of the positions that `core` names, over several axes -> one dimension per axis.

        Args:
            dim: A dimension.
            core: Positions from 1, over k axes; 0 for none.
            reason: Given to atoms that cannot be split over the axes.

        Returns:
            k dimensions, one per axis.
        """
        live = self.live(dim)
        live = live[:, (live >= 0).any(axis=0)]
        if core.ndim > 1 and (core > 0).all() and (live[core - 1] >= 0).all():
            dims = fixed_dims(core.shape)
            for column in range(live.shape[1]):
                for axis, part in self._factor_atoms(live[core - 1, column], reason):
                    dims[axis] = np.concatenate([dims[axis], part], axis=1)
            return dims
        labels = np.empty(core.shape, object)
        rows = [tuple(int(a) for a in row if a >= 0) for row in dim]
        for place in np.ndindex(core.shape):
            labels[place] = rows[core[place] - 1] if core[place] > 0 else ()
        return self.factor(labels, reason)

    # -------------------------------------------------------------- inside

    def _mark(self, marks: NDArray[np.bool_], dim: Dim) -> None:
        axes = self._grids.of(dim) if dim.size else ()
        if axes is None:
            marks[self._atoms(dim)] = True
            return
        for axis in axes:
            marks[axis.atoms] = True

    def _alive(self, dim: Dim, axes: Axes) -> Dim:
        """Labels of a grid without its locked axes."""
        locked = [axis.locked for axis in axes]
        if all(locked):
            return fixed(len(dim))
        return self._grids.dim(self._without_locked(axes) if any(locked) else axes)

    def _without_locked(self, axes: Axes) -> Axes:
        """Axes with positions that never change in place of locked ones."""
        return tuple([self._grids.dead(axis.size) if axis.locked else axis for axis in axes])

    def _join_pairs(self, here: Axes, there: Axes) -> bool:
        """Unify grids axis by axis; whether they are of one shape, free in the same places."""
        if here == there:
            return True
        if len(here) != len(there):
            return False
        if len(here) == 1 and not here[0].locked and not there[0].locked:
            self._join(here[0], there[0])
            return True
        apart = [(a, b) for a, b in zip(here, there, strict=True) if a is not b]
        if any(a.size != b.size or a.locked != b.locked for a, b in apart):
            return False
        if len(here) > 1 and any(a in there or b in here for a, b in apart if not a.locked):
            return False  # an axis would meet itself turned
        for a, b in apart:
            if not a.locked:
                self._join(a, b)
        return True

    def _join_whole(self, here: Axes, there: Axes) -> bool:
        """Refine the one axis of a dimension into those of another; whether that can be done.

        Where some of these never change, such as the pixels of a flattened map, each atom stands
        for what is left.
        """
        one, several = (here, there) if len(here) == 1 else (there, here)
        if len(one) > 1 or len(several) == 1 or one[0] in several:
            return False
        if one[0].locked or all(axis.locked for axis in several):
            return False
        self._refine_axis(one[0], self._without_locked(several))
        return True

    def _join(self, here: Axis, there: Axis) -> None:
        """Bind one free axis to another."""
        self._resolved.clear()
        a, b = here.atoms, there.atoms
        self._to[a] = there.labels[:, 0]
        self._normalised[b] |= self._normalised[a]
        self._stream[b] |= self._stream[a]
        here.bind(there)

    def _refine_axis(self, axis: Axis, parts: Axes) -> None:
        """Let a free axis stand for the product of others."""
        atoms, labels = axis.labels[:, 0], self._grids.dim(parts)
        if labels.shape[1] > 1:
            self._tabulate(atoms, labels)
        else:
            self._resolved.clear()
            self._to[atoms] = labels[:, 0]
            self._inherit(atoms, labels)
        axis.refine(parts)

    def _parts_of(self, axis: Axis, sizes: Sequence[int]) -> Axes:
        """An axis in parts of these sizes; a locked one never changes."""
        if axis.locked:
            return tuple(self._grids.dead(size) for size in sizes)
        if len(sizes) == 1:
            return (axis,)
        parts = self._grids.of(self.merged([self.new(size) for size in sizes]))
        assert parts is not None  # they are new
        self._refine_axis(axis, parts)
        return parts

    def _break(self, atoms: NDArray[np.int64]) -> None:
        """From now on the axes of these atoms are read position by position."""
        for axis in self._grids.touched(atoms):
            axis.scatter()

    def _roots(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Representative of each atom; -1 stays."""
        present = atoms >= 0
        roots = np.where(present, atoms, 0)
        while True:
            above = self._to[roots]
            if np.array_equal(above, roots):
                break
            self._to[roots] = self._to[above]  # halves the path, or a long stream stays a chain
            roots = above
        self._to[atoms[present]] = roots[present]
        return np.where(present, roots, NOTHING)

    def _followed(self, dim: Dim) -> Dim:
        """Labels in free atoms, as the arrays tell."""
        roots = self._roots(dim)
        if not (self._rows and self._refined[roots[roots >= 0]].any()):
            return roots
        while self._refined[roots[roots >= 0]].any():
            roots = self._roots(self._unfolded(roots))
        return _tidy(roots)

    def _stands_for(self, single: Dim, several: Dim) -> bool:
        """Whether single free atoms, all different, meet labels of several others each."""
        return (
            single.shape[1] == 1
            and bool((single >= 0).all() and (several >= 0).all())
            and len(np.unique(single)) == len(single)
            and not np.isin(several, single).any()
        )

    def _unfolded(self, roots: Dim) -> Dim:
        """Labels with every refined atom replaced by its parts, once; -1 where there is none."""
        columns: list[Dim] = []
        for column in roots.T:
            refined = (column >= 0) & self._refined[np.maximum(column, 0)]
            if not refined.any():
                columns.append(column[:, None])
                continue
            wide = np.full((len(column), self._table.shape[1]), NOTHING, np.int64)
            wide[:, 0] = column
            wide[refined] = self._table[self._row[column[refined]]]
            columns.append(wide)
        return np.concatenate(columns, axis=1)

    def _refine(self, atoms: NDArray[np.int64], parts: Dim) -> None:
        """Let each atom stand for its row of parts; what it went through is inherited."""
        self._tabulate(atoms, parts)
        self._break(atoms)

    def _tabulate(self, atoms: NDArray[np.int64], parts: Dim) -> None:
        """Write to the arrays what each atom stands for."""
        self._resolved.clear()
        count, needed = self._rows, self._rows + len(atoms)
        self._table = _room(self._table, needed, parts.shape[1])
        self._table[count:needed, : parts.shape[1]] = parts
        self._row[atoms] = np.arange(count, needed)
        self._rows = needed
        self._refined[atoms] = True
        self._inherit(atoms, parts)

    def _inherit(self, atoms: NDArray[np.int64], parts: Dim) -> None:
        """Hand what atoms went through on to what they stand for."""
        for mark in (self._normalised, self._stream):
            marked = mark[atoms]
            if marked.any():
                mark[parts[marked]] = True

    def _expand(self, atoms: Iterable[int]) -> Label:
        """Free atoms of one label, without repeats, in order."""
        out: list[int] = []
        for atom in atoms:
            if atom < 0:
                continue
            row = self._table[self._row[atom]].tolist() if self._refined[atom] else []
            parts = self._expand(self._root(part) for part in row if part >= 0) or (int(atom),)
            out += [part for part in parts if part not in out]
        return tuple(out)

    def _atoms(self, dim: Dim) -> NDArray[np.int64]:
        resolved = self.resolve(dim)
        return np.unique(resolved[resolved >= 0])

    def _live_label(self, label: Sequence[int]) -> Label:
        roots: Label = tuple([self._root(int(atom)) for atom in label if atom >= 0])
        if any(self._refined[root] for root in roots):
            roots = self._expand(roots)
        return tuple([root for root in roots if not self._lock[root]])

    def _root(self, atom: int) -> int:
        """Representative of one atom."""
        root = atom
        while (above := int(self._to[root])) != root:
            root = above
        self._to[atom] = root
        return root

    def _reason_number(self, reason: Reason) -> int:
        if self._reasons[-1] != reason:
            self._reasons.append(reason)
        return len(self._reasons) - 1

    def _other_reason(self, dim: Dim, fallback: Reason) -> Reason:
        """The reason a dimension is locked for, so that a lock tells its first cause."""
        atoms = self._atoms(dim)
        locked = atoms[self._lock[atoms] > 0]
        if len(locked):
            return self._reasons[int(self._lock[locked[0]])]
        return Reason(f"{fallback.why} meets what never changes", fallback.where)

    def _unify_columns(self, a: NDArray[np.int64], b: NDArray[np.int64], reason: Reason) -> None:
        """Both sides have at most one atom a position."""
        for here, there in ((a, b), (b, a)):
            alone = (here >= 0) & (there < 0)
            if alone.any():
                self.lock(here[alone][:, None], reason)
        both = (a >= 0) & (b >= 0) & (a != b)
        a, b = a[both], b[both]
        if len(a) == 0:
            return
        if len(np.unique(a)) == len(np.unique(b)) == len(a) and not np.intersect1d(a, b).size:
            self._bind_free(a, b)
        else:
            for left, right in zip(a, b, strict=True):
                self._unify_labels((int(left),), (int(right),), reason)

    def _bind_free(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Bind distinct free atoms `a` to distinct free atoms `b`."""
        self._resolved.clear()
        self._break(np.concatenate([a, b]))
        self._to[a] = b
        self._lock[b] = np.where(self._lock[b] == 0, self._lock[a], self._lock[b])
        self._normalised[b] |= self._normalised[a]
        self._stream[b] |= self._stream[a]

    def _bind(self, atom: int, label: Label) -> None:
        """Let `atom` stand for `label`; what it went through is inherited."""
        if len(label) == 1:
            self._bind_free(np.array([atom]), np.array(label))
            return
        self._refine(np.array([atom]), np.array([label]))

    def _unify_labels(self, left: Label, right: Label, reason: Reason) -> None:
        """Make two labels go together, refining the shorter one."""
        s, t = self._live_label(left), self._live_label(right)
        s, t = tuple(a for a in s if a not in t), tuple(a for a in t if a not in s)
        if not s and not t:
            return
        if not s or not t:
            self.lock(pack([s, t]), self._other_reason(pack([left, right]), reason))
        elif len(s) == len(t) == 1:
            self._bind(s[0], t)
        elif len(s) == len(t):
            for a, b in zip(s, t, strict=True):
                self._unify_labels((a,), (b,), reason)
        elif len(s) == 1:
            self._bind(s[0], t)
        elif len(t) == 1:
            self._bind(t[0], s)
        else:
            self.lock(pack([s, t]), Reason(f"{reason.why} (factors do not match)", reason.where))

    def _factor_atoms(self, atoms: NDArray[np.int64], reason: Reason) -> list[tuple[int, Dim]]:
        """One atom per place -> the axes it varies along, with their labels."""
        axes = [axis for axis in range(atoms.ndim) if (atoms != atoms.take([0], axis)).any()]
        rest = tuple(axis for axis in range(atoms.ndim) if axis not in axes)
        core = atoms.max(axis=rest) if rest else atoms
        if not axes:
            self.lock(
                np.array([[int(atoms.flat[0])]]),
                Reason(f"{reason.why}: spans the whole dimension", reason.where),
            )
            return []
        if len(axes) == 1:
            return [(axes[0], core[:, None])]
        parts = [self.new(atoms.shape[axis]) for axis in axes]
        flat = core.ravel()
        free = (self._to[flat] == flat) & ~self._refined[flat] & (self._lock[flat] == 0)
        if free.all() and len(np.unique(flat)) == len(flat):
            self._refine(flat, reduce(product, parts))
            return list(zip(axes, parts, strict=True))
        for place in np.ndindex(core.shape):
            label = reduce(
                lambda x, y: x + y, (tuple(p[i]) for p, i in zip(parts, place, strict=True))
            )
            self._unify_labels((int(core[place]),), label, reason)
        return list(zip(axes, parts, strict=True))

    def _factor_mixed(self, alive: NDArray[np.object_], reason: Reason) -> list[Dim]:
        """Places with and without atoms: only the longest axis stays movable."""
        dims = fixed_dims(alive.shape)
        axis = max(range(alive.ndim), key=lambda j: alive.shape[j])
        rows = np.moveaxis(alive, axis, 0).reshape(alive.shape[axis], -1)
        for row in rows:
            for label in row[1:]:
                self._unify_labels(row[0], label, reason)
        dims[axis] = pack([row[0] for row in rows])
        return dims

"""Dimensions told without a look at their positions: axes, and grids of axes.

Nearly all atoms of a network only ever change together. An *axis* is a run of atoms that were made
together and have changed together since; a *grid* is a dimension that is the product of axes,
outermost first, such as the heads and their dimensions in a merged width. Grids go through unions,
splits and merges axis by axis. As soon as an atom of an axis changes alone, the axis is no longer
whole, and only the arrays of `Atoms` tell what became of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Dim = NDArray[np.int64]
"""Labels of one dimension, shape (positions, factors)."""


def fixed(size: int) -> Dim:
    """Labels of a dimension that never changes."""
    return np.empty((size, 0), np.int64)


def product(outer: Dim, inner: Dim) -> Dim:
    """Labels of the merged dimension `outer x inner`: each position carries both labels."""
    width = outer.shape[1]
    labels = np.empty((len(outer), len(inner), width + inner.shape[1]), np.int64)
    labels[:, :, :width] = outer[:, None]
    labels[:, :, width:] = inner
    return labels.reshape(len(outer) * len(inner), -1)


class Tile(NamedTuple):
    """A free axis in a grid: position `p` carries its atom `p // inner % len(atoms)`.

    Args:
        factor: Number of the axis among the free ones of the grid.
        atoms: Labels of the axis, one array for all dimensions in which it lies.
        outer: How often it is gone through.
        inner: How many positions in a row carry one atom.
    """

    factor: int
    atoms: Dim
    outer: int
    inner: int


@dataclass(slots=True, eq=False)
class Axis:
    """Atoms that have only ever changed together, or positions that never change.

    Args:
        labels: Of its positions; zero factors where they never change.
        first: Number of its first atom.
        size: Number of positions.
        locked: Whether all its atoms are locked.
        plain: Whether it stands for itself, all of it free or all of it locked.
        to: The axis that it was unified with, position by position.
        parts: What it was refined into, outermost first.
        whole: False once any of its atoms was unified or refined alone.
    """

    labels: Dim
    first: int
    size: int
    locked: bool = False
    plain: bool = True
    to: Axis | None = None
    parts: tuple[Axis, ...] = ()
    whole: bool = True

    @property
    def atoms(self) -> slice:
        """Its atoms."""
        return slice(self.first, self.first + self.size)

    @property
    def alone(self) -> tuple[Tile, ...]:
        """Where it lies in a dimension of its own, unless it is locked."""
        return () if self.locked else (Tile(0, self.labels, 1, 1),)

    def bind(self, axis: Axis) -> None:
        """Go together with another axis."""
        self.to, self.plain = axis, False

    def refine(self, parts: tuple[Axis, ...]) -> None:
        """Stand for the product of other axes."""
        self.parts, self.plain = parts, False

    def scatter(self) -> None:
        """Be read position by position from now on."""
        self.plain = self.whole = False

    def lock(self, *, whole: bool) -> None:
        """Be locked, as a whole or in some positions; whole again once all of them are."""
        self.locked = whole
        self.plain = self.whole and whole


Axes = tuple[Axis, ...]


class Grids:
    """Which dimensions are grids, and of which axes."""

    def __init__(self) -> None:
        self._of: dict[int, Axes] = {}  # by the id of labels that are held here, so it stays taken
        self._dims: dict[Axes, Dim] = {}
        self._dead: dict[int, Axis] = {}
        self._axes: list[Axis] = []
        self._starts: list[int] = []

    def new(self, labels: Dim, first: int) -> Axis:
        """The axis of a dimension of fresh atoms."""
        axis = Axis(labels, first, len(labels))
        self._axes.append(axis)
        self._starts.append(first)
        self._of[id(labels)] = (axis,)
        return axis

    def of(self, dim: Dim) -> Axes | None:
        """The axes that a dimension stands for; None where only the arrays tell."""
        axes = self._of.get(id(dim))
        if axes is None:
            return None
        for axis in axes:
            if not axis.plain:
                break
        else:
            return axes
        followed = self._followed(axes)
        if followed is not None:
            self._of[id(dim)] = followed
        return followed

    def dim(self, axes: Axes) -> Dim:
        """Labels of the grid of some axes, the same array whenever it is asked for."""
        if len(axes) == 1:
            return axes[0].labels
        known = self._dims.get(axes)
        if known is None:
            known = self._dims[axes] = reduce(product, [axis.labels for axis in axes])
            self._of[id(known)] = axes
        return known

    def dead(self, size: int) -> Axis:
        """Positions that never change."""
        if size not in self._dead:
            self._dead[size] = Axis(fixed(size), 0, size, locked=True)
        return self._dead[size]

    def merged(self, dims: Sequence[Dim]) -> Dim | None:
        """The grid of several dimensions, outermost first; None where one of them is none."""
        axes: list[Axis] = []
        for dim in dims:
            found = (self.dead(len(dim)),) if dim.shape[1] == 0 else self.of(dim)
            if found is None:
                return None
            for axis in found:
                if axes and not axis.labels.shape[1] and not axes[-1].labels.shape[1]:
                    axes[-1] = self.dead(axes[-1].size * axis.size)
                else:
                    axes.append(axis)
        return None if _repeats(axes) else self.dim(tuple(axes))

    def tiles(self, axes: Axes) -> Sequence[Tile]:
        """Where the free axes of a grid lie."""
        if len(axes) == 1:
            return axes[0].alone
        found: list[Tile] = []
        outer, inner = 1, prod([axis.size for axis in axes])
        for axis in axes:
            inner //= axis.size
            if not axis.locked:
                found.append(Tile(len(found), axis.labels, outer, inner))
            outer *= axis.size
        return found

    def at(self, atom: int) -> Axis:
        """The axis as a part of which an atom was made."""
        return self._axes[bisect_right(self._starts, atom) - 1]

    def touched(self, atoms: NDArray[np.int64]) -> list[Axis]:
        """The axes as parts of which some atoms were made."""
        numbers = np.unique(np.searchsorted(self._starts, atoms, "right")).tolist()
        return [self._axes[number - 1] for number in numbers]

    def _followed(self, axes: Axes) -> Axes | None:
        """Axes with what they were unified with and refined into in their place."""
        found: list[Axis] = []
        for axis in axes:
            while axis.to is not None:
                if axis.to.to is not None:
                    axis.to = axis.to.to  # halves the path
                axis = axis.to
            if axis.parts:
                parts = self._followed(axis.parts)
                if parts is None:
                    return None
                found += parts
            elif axis.plain:
                found.append(axis)
            else:
                return None
        return None if _repeats(found) else tuple(found)


def _repeats(axes: Sequence[Axis]) -> bool:
    """Whether the same atoms lie along two axes of a grid."""
    alive = [axis for axis in axes if axis.labels.shape[1]]
    return len(alive) > 1 and len(set(alive)) < len(alive)


Shares = list[list[tuple[int, int]]]
"""Per size: numbers of the axes with those of their parts, outermost first."""


def divided(axes: Sequence[int], sizes: Sequence[int]) -> tuple[list[list[int]], Shares] | None:
    """How axes are cut into parts, so that whole parts make up each of some other sizes.

    Args:
        axes: Sizes of axes, outermost first.
        sizes: Of the same product, all above one.

    Returns:
        Sizes of the parts of each axis and the shares; None where the boundaries do not meet.

    Example:
        >>> divided([6, 4], [2, 12])
        ([[2, 3], [4]], [[(0, 0)], [(0, 1), (1, 0)]])
        >>> divided([6, 4], [4, 6])
    """
    parts: list[list[int]] = [[] for _ in axes]
    shares: Shares = []
    number, left = 0, axes[0]
    for size in sizes:
        share: list[tuple[int, int]] = []
        missing = size
        while missing > 1:
            if left == 1:
                number += 1
                left = axes[number]
            part = min(missing, left)
            if part == 1 or missing % part or left % part:
                return None
            share.append((number, len(parts[number])))
            parts[number].append(part)
            missing, left = missing // part, left // part
        shares.append(share)
    return (parts, shares) if left == 1 and number == len(axes) - 1 else None

"""The algebra of atoms, on dimensions small enough to follow by hand."""

from __future__ import annotations

import numpy as np
import pytest

from penjing.graph.axes import Atoms, Reason, fixed, join, pack, product

WHY = Reason("test", "here.py:1")


@pytest.fixture
def atoms():
    return Atoms()


def labels(atoms, dim):
    """Every position's label as a set."""
    return [{int(a) for a in row if a >= 0} for row in atoms.resolve(dim)]


def objects(dim, shape):
    """Labels of a dimension as an object array over several axes."""
    out = np.empty(len(dim), object)
    out[:] = [tuple(int(a) for a in row) for row in dim]
    return out.reshape(shape)


def test_new_atoms_are_all_different(atoms):
    both = np.concatenate([atoms.new(3), atoms.new(2)])
    assert len({frozenset(s) for s in labels(atoms, both)}) == 5


def test_unified_positions_carry_one_label(atoms):
    left, right = atoms.new(3), atoms.new(3)
    atoms.unify(left, right, WHY)
    assert labels(atoms, left) == labels(atoms, right)


def test_unifying_twice_changes_nothing(atoms):
    left, right = atoms.new(3), atoms.new(3)
    atoms.unify(left, right, WHY)
    before = labels(atoms, left)
    atoms.unify(right, left, WHY)
    assert labels(atoms, left) == before


def test_unification_is_transitive(atoms):
    a, b, c = atoms.new(2), atoms.new(2), atoms.new(2)
    atoms.unify(a, b, WHY)
    atoms.unify(b, c, WHY)
    assert labels(atoms, a) == labels(atoms, c)


def test_a_dimension_unified_with_its_reverse_pairs_the_ends(atoms):
    dim = atoms.new(4)
    atoms.unify(dim, dim[::-1], WHY)
    first, second, third, fourth = labels(atoms, dim)
    assert first == fourth
    assert second == third
    assert first != second


def test_what_meets_a_fixed_dimension_is_locked(atoms):
    dim = atoms.new(3)
    atoms.unify(dim, fixed(3), WHY)
    assert not atoms.is_live(dim)


def test_a_lock_reaches_what_was_unified_before(atoms):
    left, right = atoms.new(2), atoms.new(2)
    atoms.unify(left, right, WHY)
    atoms.lock(left, WHY)
    assert not atoms.is_live(right)


def test_a_lock_reaches_what_is_unified_later(atoms):
    left, right = atoms.new(2), atoms.new(2)
    atoms.lock(left, WHY)
    atoms.unify(right, left, WHY)
    assert not atoms.is_live(right)


def test_a_lock_tells_its_first_cause(atoms):
    left, right = atoms.new(2), atoms.new(2)
    atoms.lock(left, Reason("first", "a.py:1"))
    atoms.unify(right, left, Reason("second", "b.py:2"))
    assert atoms.reason(int(right[0, 0])) == Reason("first", "a.py:1")


def test_one_position_may_be_locked_alone(atoms):
    dim = atoms.new(3)
    atoms.lock(dim[1:2], WHY)
    assert (atoms.live(dim)[:, 0] >= 0).tolist() == [True, False, True]


def test_a_split_refines_every_position_into_row_and_column(atoms):
    dim = atoms.new(6)
    rows, columns = atoms.split(dim, [2, 3], WHY)
    expected = [r | c for r in labels(atoms, rows) for c in labels(atoms, columns)]
    assert labels(atoms, dim) == expected


def test_a_split_after_a_split_finds_the_same_factors(atoms):
    dim = atoms.new(6)
    first, second = atoms.split(dim, [2, 3], WHY), atoms.split(dim, [2, 3], WHY)
    assert [labels(atoms, d) for d in first] == [labels(atoms, d) for d in second]


def test_a_product_split_again_gives_its_factors(atoms):
    outer, inner = atoms.new(2), atoms.new(3)
    rows, columns = atoms.split(product(outer, inner), [2, 3], WHY)
    assert labels(atoms, rows) == labels(atoms, outer)
    assert labels(atoms, columns) == labels(atoms, inner)


def test_axes_of_size_one_are_fixed_by_a_split(atoms):
    dim = atoms.new(4)
    one, all_of_it = atoms.split(dim, [1, 4], WHY)
    assert one.shape == (1, 0)
    assert labels(atoms, all_of_it) == labels(atoms, dim)


def test_refined_and_plain_dimensions_unify_by_refining_the_plain_one(atoms):
    whole = atoms.new(6)
    rows, columns = atoms.new(2), atoms.new(3)
    atoms.unify(whole, product(rows, columns), WHY)
    assert labels(atoms, whole) == labels(atoms, product(rows, columns))


def test_labels_of_two_and_of_three_atoms_lock_each_other(atoms):
    two, three = product(atoms.new(1), atoms.new(1)), product(atoms.new(1), atoms.new(1))
    atoms.unify(two, product(three, atoms.new(1)), WHY)
    assert not atoms.is_live(two)
    assert not atoms.is_live(three)


def test_a_label_that_spans_a_whole_axis_cannot_be_factored(atoms):
    dim = atoms.new(1)
    repeated = np.repeat(dim, 4, axis=0)
    atoms.factor(objects(repeated, (2, 2)), WHY)
    assert not atoms.is_live(dim)


def test_marks_pass_on_to_the_parts_of_a_refined_atom(atoms):
    dim = atoms.new(4)
    atoms.mark_normalised(dim)
    rows, columns = atoms.split(dim, [2, 2], WHY)
    parts = atoms.resolve(np.concatenate([rows, columns]))
    assert all(atoms.is_normalised(int(a)) for a in parts[:, 0])


def test_marks_pass_on_by_unification(atoms):
    left, right = atoms.new(2), atoms.new(2)
    atoms.mark_stream(left)
    atoms.unify(left, right, WHY)
    assert all(atoms.is_stream(int(a)) for a in atoms.resolve(right)[:, 0])


def test_a_lock_reaches_the_parts_of_a_refined_atom(atoms):
    dim = atoms.new(4)
    rows, columns = atoms.split(dim, [2, 2], WHY)
    atoms.lock(dim, WHY)
    assert not atoms.is_live(rows)
    assert not atoms.is_live(columns)


def test_an_atom_locked_before_its_split_stays_locked(atoms):
    dim = atoms.new(4)
    atoms.lock(dim, WHY)
    rows, columns = atoms.split(dim, [2, 2], WHY)
    assert not atoms.is_live(rows)
    assert not atoms.is_live(columns)


def test_joined_dimensions_keep_their_labels_in_order(atoms):
    plain, refined = atoms.new(2), product(atoms.new(1), atoms.new(2))
    assert labels(atoms, join([plain, fixed(1), refined])) == [
        *labels(atoms, plain),
        set(),
        *labels(atoms, refined),
    ]


def test_packed_labels_are_padded():
    assert pack([(1, 2), (), (3,)]).tolist() == [[1, 2], [-1, -1], [3, -1]]


def test_an_empty_dimension_has_no_labels(atoms):
    assert atoms.live(fixed(0)).shape == (0, 0)


def test_a_product_is_one_array_whenever_it_is_merged(atoms):
    outer, inner = atoms.new(2), atoms.new(3)
    assert atoms.merged([outer, inner]) is atoms.merged([outer, inner])


def test_a_product_keeps_the_place_of_its_free_axes_when_one_is_locked(atoms):
    outer, inner = atoms.new(2), atoms.new(3)
    dim = atoms.merged([outer, inner])
    atoms.lock(outer, WHY)
    assert [(tile.outer, tile.inner, len(tile.atoms)) for tile in atoms.tiles(dim)] == [(2, 1, 3)]


def test_a_flattened_map_ties_the_columns_of_one_channel(atoms):
    channels, columns = atoms.new(2), atoms.new(6)
    atoms.unify(columns, atoms.merged([channels, fixed(3)]), WHY)
    assert labels(atoms, columns) == [one for one in labels(atoms, channels) for _ in range(3)]


def test_a_dimension_of_which_one_position_changed_alone_has_no_tiles(atoms):
    dim = atoms.new(3)
    atoms.unify(dim[:1], atoms.new(1), WHY)
    assert atoms.tiles(dim) is None


def test_a_dimension_is_whole_again_once_all_its_positions_are_locked(atoms):
    dim = atoms.new(2)
    for position in range(2):
        atoms.lock_position(dim, position, lambda: WHY)
    assert list(atoms.tiles(dim)) == []

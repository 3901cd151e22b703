"""Sizes by units kept are the sizes of the cut."""

from __future__ import annotations

import pytest
from tests.graph.sketches import SKETCHES, network, random_drop, smallest_drop

from penjing.graph.sizing import Sizing


@pytest.mark.parametrize("name", SKETCHES)
def test_sizes_by_counts_are_those_of_the_cut(name):
    net = network(name)
    sizing = Sizing(net)
    for drop in (random_drop(net, 0), random_drop(net, 1), smallest_drop(net)):
        cut = net.cut(net.plan(drop))
        shapes = sizing.shapes({g.name: g.units - len(drop[g.name]) for g in net.groups})
        assert shapes == {node: cut.shape(node) for node in shapes}


@pytest.mark.parametrize("name", SKETCHES)
def test_no_dimension_runs_empty(name):
    net = network(name)
    cut = net.cut(net.plan(smallest_drop(net)))
    assert all(0 not in cut.shape(node) for node in Sizing(net).shapes({}))

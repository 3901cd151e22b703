"""Where positions come from: strides against a run on numbers, and each situation tried once."""

import pytest
import torch
from torch import nn

from penjing.graph.call import Call
from penjing.graph.capture import capture
from penjing.graph.movement import movable
from penjing.graph.network import Network
from penjing.graph.routes import by_numbers, by_strides
from penjing.graph.trials import Trials, _Rehearsal

SHAPE = (4, 6, 10)
aten = torch.ops.aten
VIEWS = {
    "split": (aten.view.default, ([4, 2, 3, 10],)),
    "merge": (aten.view.default, ([24, 10],)),
    "across": (aten.view.default, ([8, 30],)),
    "flat": (aten.reshape.default, ([-1],)),
    "permute": (aten.permute.default, ([2, 0, 1],)),
    "slice": (aten.slice.Tensor, (1, 1, 6, 2)),
    "select": (aten.select.int, (2, 3)),
    "expand": (aten.expand.default, ([5, 4, 6, 10],)),
    "unfold": (aten.unfold.default, (2, 4, 2)),
    "diagonal": (aten.diagonal.default, (0, 0, 1)),
    "chunk": (aten.chunk.default, (3, 1)),
}


def call(name):
    graph, value = torch.fx.Graph(), torch.empty(SHAPE)
    x = graph.placeholder("x")
    x.meta["val"] = value
    target, args = VIEWS[name]
    node = graph.call_function(target, (x, *args))
    node.meta["val"] = target(value, *args)
    return Call(node)


def shape(node):
    return tuple(node.meta["val"].shape)


def nothing(node):
    raise KeyError(node)


@pytest.mark.parametrize("name", VIEWS)
def test_strides_tell_what_a_run_on_numbers_tells(name):
    view = call(name)
    strided = by_strides(view, shape, nothing)
    listed = by_numbers(view, movable(view), shape, nothing)
    if strided is None:  # a position depends on several axes at once: only a run can tell
        assert name in {"across", "unfold", "diagonal"}
        return
    for one, other in zip(strided, listed, strict=True):
        for dim in range(len(SHAPE)):
            here, there = one.trace(0, dim), other.trace(0, dim)
            assert (here.axes, here.core.tolist()) == (there.axes, there.core.tolist())


def test_an_op_that_writes_is_no_view():
    graph, value = torch.fx.Graph(), torch.ones(SHAPE)
    x = graph.placeholder("x")
    x.meta["val"] = value
    node = graph.call_function(aten.neg_.default, (x,))
    node.meta["val"] = value
    assert by_strides(Call(node), shape, nothing) is None


def test_blocks_alike_are_tried_once(monkeypatch):
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)]
    tried = []

    class Counted(_Rehearsal):
        def __init__(self, analysis, node):
            tried.append(node.name)
            super().__init__(analysis, node)

    monkeypatch.setattr("penjing.graph.trials._Rehearsal", Counted)
    counts = []
    for depth in (2, 4):
        tried.clear()
        model = nn.Sequential(nn.Linear(5, 8), *layers[:depth], nn.Linear(8, 3)).eval()
        network = Network(capture(model, torch.randn(2, 7, 5)))
        counts.append(len(tried))
        assert not Trials(network.analysis).failed([*network._units.values()])
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("name", "parts", "axes"),
    [
        ("split", [(4,), (2, 3), (10,)], [[(0, 0)], [(1, 0)], [(1, 1)], [(2, 0)]]),
        ("merge", [(4,), (6,), (10,)], [[(0, 0), (1, 0)], [(2, 0)]]),
        ("permute", [(4,), (6,), (10,)], [[(2, 0)], [(0, 0)], [(1, 0)]]),
        ("select", [(4,), (6,), ()], [[(0, 0)], [(1, 0)]]),
    ],
)
def test_a_view_of_whole_parts_is_a_tiling(name, parts, axes):
    (route,) = by_strides(call(name), shape, nothing)
    tiling = route.tiling
    assert (list(tiling.parts), [list(axis) for axis in tiling.axes]) == (parts, axes)


@pytest.mark.parametrize("name", ["slice", "expand", "chunk"])
def test_a_view_that_leaves_out_or_repeats_is_no_tiling(name):
    assert all(route.tiling is None for route in by_strides(call(name), shape, nothing))

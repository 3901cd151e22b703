"""What holds for every network and every plan, tried on random small ones."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.graph.form import graph_form
from penjing.graph.network import Network
from penjing.graph.sizing import Sizing
from penjing.plan import Plan
from penjing.pruning.result import make
from penjing.pruning.surgery import cut_module
from penjing.pruning.verify import prove
from penjing.testing._steps import ON_MAPS, ON_TOKENS
from penjing.testing.random_networks import check, draw_steps
from penjing.testing.tiny import randomise

EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True, database=None)
FEW = settings(EXAMPLES, max_examples=4)  # where one network proves as much as another
CHANNELS = st.sampled_from([2, 4, 6])
STEP = st.one_of(
    st.tuples(st.just("conv"), CHANNELS),
    st.tuples(st.just("norm"), st.just(0)),
    st.tuples(st.just("relu"), st.just(0)),
    st.tuples(st.just("pool"), st.just(0)),
    st.tuples(st.just("residual"), CHANNELS),
    st.tuples(st.just("concat"), CHANNELS),
    st.tuples(st.just("split"), st.just(0)),
    st.tuples(st.just("depthwise"), st.just(0)),
    st.tuples(st.just("grouped"), st.just(0)),
    st.tuples(st.just("shuffle"), st.just(0)),
    st.tuples(st.just("gate"), CHANNELS),
)
STEPS = st.lists(STEP, min_size=2, max_size=7)


class RandomNet(nn.Module):
    """A stem, the given steps, a head."""

    def __init__(self, steps, seed=0):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.steps, channels, parts = steps, 4, []
        for kind, width in steps:
            part, channels = _part(kind, channels, width)
            parts.append(part)
        self.parts = nn.ModuleList(parts)
        self.fc = nn.Linear(channels, 3)
        randomise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for (kind, _), part in zip(self.steps, self.parts, strict=True):
            y = _step(kind, part, y)
        return self.fc(y.mean((2, 3)))


def _conv(inputs, outputs, groups=1):
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def _part(kind, channels, width):
    """The layers of a step, and the channels after it."""
    makers = {
        "conv": lambda: (_conv(channels, width), width),
        "norm": lambda: (nn.BatchNorm2d(channels), channels),
        "residual": lambda: (
            nn.ModuleList([_conv(channels, width), _conv(width, channels)]),
            channels,
        ),
        "concat": lambda: (_conv(channels, width), channels + width),
        "split": lambda: (_conv(channels // 2, channels // 2), channels),
        "depthwise": lambda: (_conv(channels, channels, channels), channels),
        "grouped": lambda: (_conv(channels, channels, 2), channels),
        "gate": lambda: (
            nn.ModuleList([nn.Linear(channels, width), nn.Linear(width, channels)]),
            channels,
        ),
    }
    return makers.get(kind, lambda: (nn.Identity(), channels))()


def _step(kind, part, y):
    if kind == "relu":
        return F.relu(y)
    if kind == "pool":
        return F.max_pool2d(y, 2, ceil_mode=True)
    if kind == "residual":
        return y + part[1](F.relu(part[0](y)))
    if kind == "concat":
        return torch.cat([y, part(y)], 1)
    if kind == "split":
        left, right = y.chunk(2, 1)
        return torch.cat([left, part(right)], 1)
    if kind == "shuffle":
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    if kind == "gate":
        return y * torch.sigmoid(part[1](F.relu(part[0](y.mean((2, 3))))))[:, :, None, None]
    return part(y)


def analysed(steps):
    model = RandomNet(steps)
    return model, Network.of(model, torch.ones(2, 3, 6, 6))


def draw_drop(data, net):
    """Some units of some groups, never all of one."""
    return {
        group.name: sorted(
            data.draw(
                st.sets(st.integers(0, group.units - 1), max_size=group.units - 1),
                label=group.name,
            )
        )
        for group in net.groups
    }


def fresh_input():
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@EXAMPLES
@given(STEPS, st.data())
def test_the_cut_network_equals_the_masked_one(steps, data):
    model, net = analysed(steps)
    cut = net.cut(net.plan(draw_drop(data, net)))
    assert prove(cut).error < 1e-9  # float64
    masked = copy.deepcopy(model)
    masked.load_state_dict({**model.state_dict(), **cut.masked()})
    with torch.no_grad():
        # float32: kernels for other widths add up in another order
        torch.testing.assert_close(
            make(model, cut).model(fresh_input()), masked(fresh_input()), atol=1e-4, rtol=1e-3
        )


@EXAMPLES
@given(STEPS, st.data())
def test_the_module_equals_the_graph_form(steps, data):
    model, net = analysed(steps)
    cut = net.cut(net.plan(draw_drop(data, net)))
    made, form = make(model, cut), graph_form(cut.program)
    assert list(made.model.state_dict()) == list(form.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            made.model(fresh_input()), form(fresh_input()), atol=1e-5, rtol=1e-4
        )


@FEW
@given(STEPS, st.data())
def test_a_plan_from_json_cuts_alike(steps, data):
    _, net = analysed(steps)
    plan = net.plan(draw_drop(data, net))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    shapes = [
        {n: tuple(t.shape) for n, t in net.cut(p).program.tensors.items()} for p in (plan, again)
    ]
    assert shapes[0] == shapes[1]


@EXAMPLES
@given(STEPS, st.data())
def test_sizes_by_counts_are_those_of_the_cut(steps, data):
    _, net = analysed(steps)
    drop = draw_drop(data, net)
    cut = net.cut(net.plan(drop))
    shapes = Sizing(net).shapes({g.name: g.units - len(drop[g.name]) for g in net.groups})
    assert shapes == {node: cut.shape(node) for node in shapes}


@EXAMPLES
@given(STEPS, st.data())
def test_cutting_twice_is_cutting_once_by_the_union(steps, data):
    _, net = analysed(steps)
    first = net.cut(net.plan(draw_drop(data, net)))
    smaller = Network.of(graph_form(first.program), torch.ones(2, 3, 6, 6))
    names = {group.places: group.name for group in smaller.groups}
    drawn, union, second = draw_drop(data, smaller), dict(first.plan.drop), {}
    for group in net.groups:
        name = names.get(first.group(group).places)
        if name is None:  # one unit is left
            continue
        kept = first.plan.kept(group.name)
        second[name] = drawn[name]
        union[group.name] = sorted({*union.get(group.name, ()), *(kept[u] for u in drawn[name])})
    twice = smaller.cut(smaller.plan(second)).program.tensors
    once = net.cut(net.plan(union)).program.tensors
    assert twice.keys() == once.keys()
    assert all(torch.equal(twice[name], once[name]) for name in once)


@FEW
@given(STEPS)
def test_a_network_cut_by_nothing_is_the_network(steps):
    model, net = analysed(steps)
    shrunk = cut_module(model, net.cut(net.plan({})))
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in shrunk.state_dict().items())


@FEW
@given(
    st.lists(st.sampled_from(sorted(ON_MAPS)), max_size=4),
    st.lists(st.sampled_from(sorted(ON_TOKENS)), max_size=3),
    st.integers(0, 999),
)
def test_every_invariant_holds_on_maps_and_tokens(maps, tokens, seed):
    assert check(maps, tokens, seed).failures == ()


@pytest.mark.parametrize("name", sorted(ON_MAPS))
def test_a_network_with_a_step_on_maps_is_cut_right(name):
    assert check([name, "conv"], [], seed=1).failures == ()


@pytest.mark.parametrize("name", sorted(ON_TOKENS))
def test_a_network_with_a_step_on_tokens_is_cut_right(name):
    assert check([], ["linear", name], seed=1).failures == ()


@pytest.mark.parametrize("seed", [44, 285, 461])
def test_a_scale_that_random_weights_hardly_show_is_folded(seed):
    assert check(*draw_steps(seed), seed).failures == ()

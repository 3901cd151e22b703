"""Whole layers as units: all branches of a layer go together, and the stream passes by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.capture import capture
from penjing.graph.whole import find_layers
from penjing.plan import Plan

WIDTH, LAYERS = 8, 4


class Layer(nn.Module):
    """Two branches, their norms before or behind them."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.mix, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 16)
        self.down, self.norm_first = nn.Linear(16, WIDTH), norm_first
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.mix(self.norm1(x))
            return x + self.down(F.relu(self.up(self.norm2(x))))
        x = self.norm1(x + self.mix(x))
        return self.norm2(x + self.down(F.relu(self.up(x))))


class Encoder(nn.Module):
    """Layers, of which the second hardly changes the stream where norms come first."""

    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.read = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList([Layer(norm_first=norm_first) for _ in range(LAYERS)])
        with torch.no_grad():
            for part in (self.layers[1].mix, self.layers[1].down):
                part.weight.mul_(1e-3)
                part.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for layer in self.layers:
            x = layer(x)
        return self.read(x)


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
DATA = torch.randn(64, 5, 6, generator=torch.Generator().manual_seed(2))


def shallow(model: nn.Module, **how: object) -> pj.Pruned:
    return pj.prune(model, X, **{"calibration": [DATA], "scope": {"layers"}, **how})


def passed_by(model: Encoder, gone: int) -> Tensor:
    with torch.no_grad():
        x = model.start(DATA)
        for number, layer in enumerate(model.layers):
            x = x if number == gone else layer(x)
        return model.read(x)


@pytest.mark.parametrize("norm_first", [True, False])
def test_every_layer_of_a_list_is_one_unit(norm_first: bool) -> None:
    program = capture(Encoder(norm_first=norm_first).eval(), X)
    assert [layer.name for layer in find_layers(program)] == [f"layers.{i}" for i in range(LAYERS)]


def test_the_layer_that_is_missed_least_goes_first() -> None:
    assert shallow(Encoder().eval(), pruning_ratio=0.25).plan.drop == {"layers": (1,)}


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_result_is_the_original_that_passes_the_layer_by(norm_first: bool) -> None:
    model = Encoder(norm_first=norm_first).eval()
    pruned = shallow(model, pruning_ratio=0.25, repair=None)
    (gone,) = pruned.plan.drop["layers"]
    torch.testing.assert_close(pruned.model(DATA), passed_by(model, gone))


def test_the_class_stays_and_all_parameters_of_the_layer_go() -> None:
    model = Encoder().eval()
    made = shallow(model, pruning_ratio=0.25).model
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, made)]
    layer = sum(p.numel() for p in model.layers[1].parameters())
    assert (type(made), counts[0] - counts[1]) == (Encoder, layer)


def test_repair_makes_up_for_what_is_gone() -> None:
    model, errors = Encoder(norm_first=False).eval(), []
    for repair in (None, "auto"):
        made = shallow(model, pruning_ratio=0.5, repair=repair).model
        with torch.no_grad():
            errors.append(float((made(DATA) - model(DATA)).square().mean()))
    assert errors[1] < errors[0]


def test_a_layer_that_is_ignored_stays() -> None:
    pruned = shallow(Encoder().eval(), pruning_ratio=0.25, ignored_layers=["layers.1.mix"])
    assert 1 not in pruned.plan.drop["layers"]


def test_their_number_is_rounded_like_that_of_other_units() -> None:
    pruned = shallow(Encoder().eval(), pruning_ratio=0.3, round_to={"blocks": 2})
    assert len(pruned.plan.drop.get("layers", ())) in {0, 2}


def test_they_have_a_ratio_of_their_own_beside_widths() -> None:
    pruned = shallow(
        Encoder().eval(),
        pruning_ratio=0.5,
        scope={"inner", "layers"},
        pruning_ratio_dict={"kind:blocks": 0.25},
        allocation="uniform",
    )
    assert len(pruned.plan.drop["layers"]) == 1
    assert pruned.model.layers[0].up.out_features == 8


def test_a_stored_plan_removes_the_same_layers() -> None:
    first = shallow(Encoder().eval(), pruning_ratio=0.25, repair=None)
    plan = Plan.from_json(first.plan.to_json())
    again = pj.prune(Encoder().eval(), X, plan=plan)
    torch.testing.assert_close(again.model(DATA), first.model(DATA))


class Block(nn.Module):
    """Of a residual network: one branch, and an activation behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def test_a_block_of_a_residual_network_goes_with_its_activation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Sequential(*[Block() for _ in range(3)])
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    pruned = pj.prune(
        net, x, pruning_ratio=0.3, scope={"layers"}, calibration=[x.repeat(8, 1, 1, 1)], repair=None
    )
    (gone,) = pruned.plan.drop["layers"]
    kept = nn.Sequential(net[0], net[1], *[b for i, b in enumerate(net[2]) if i != gone])
    torch.testing.assert_close(pruned.model(x), kept(x))


def test_single_branches_and_whole_layers_at_once_are_refused() -> None:
    with pytest.raises(StrategyError, match="give one of them"):
        shallow(Encoder(), pruning_ratio=0.5, scope={"depth", "layers"})


def test_a_network_without_layers_says_what_is_missing() -> None:
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(StrategyError, match="fewer than two modules in a list"):
        shallow(plain, pruning_ratio=0.5)

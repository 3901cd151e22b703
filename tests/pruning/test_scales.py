"""Scores whose scale follows the dimensions that are left: the ratio goes into the queries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import penjing as pj
from penjing.graph.network import Network
from penjing.pruning.scales import folded, scale_folds

KINDS = ["sdpa", "runtime", "attribute", "fused"]


class Attention(nn.Module):
    """Three heads of eight dimensions, scaled in one of four ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.head_dim = kind, 3, 8
        if kind == "fused":
            self.qkv = nn.Linear(24, 72)
        else:
            self.q, self.k, self.v = (nn.Linear(24, 24) for _ in range(3))
        self.out = nn.Linear(24, 24)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.kind == "fused":
            parts = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            return parts[0], parts[1], parts[2]
        width = self.head_dim if self.kind == "attribute" else -1
        q, k, v = (
            f(x).view(*x.shape[:2], self.heads, width).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        if self.kind in {"sdpa", "fused"}:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            width = self.head_dim if self.kind == "attribute" else q.shape[-1]
            mixed = ((q @ k.transpose(-1, -2)) / math.sqrt(width)).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, kind: str = "sdpa") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.attention, self.read = nn.Linear(5, 24), Attention(kind), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.attention(self.start(x)).mean(1))


X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
DATA = torch.randn(64, 7, 5, generator=torch.Generator().manual_seed(1))


def cut(kind: str, **how: object) -> pj.Pruned:
    return pj.prune(Net(kind).eval(), X, pruning_ratio=0.25, scope={"head dims"}, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_stays_when_its_scale_follows_the_dimensions(kind: str) -> None:
    pruned = cut(kind)
    assert (type(pruned.model), pruned.report.data.proof.form) == (Net, "module")


@pytest.mark.parametrize("kind", ["sdpa", "fused"])
def test_the_outputs_are_those_of_the_masked_original(kind: str) -> None:
    model = Net(kind).eval()
    pruned = cut(kind)
    groups = pj.find_groups(model, X)
    with torch.no_grad():
        for name, units in pruned.plan.drop.items():
            for part in groups[name].slices:
                at = [p for u in units for p in part.positions(u)]
                model.get_parameter(part.tensor).index_fill_(part.dim, torch.tensor(at), 0.0)
    torch.testing.assert_close(pruned.model(DATA), model(DATA))


def test_only_queries_that_lose_dimensions_take_on_a_factor() -> None:
    network = Network.of(Net().eval(), X)
    drops = [network.plan({}), cut("sdpa").plan]
    names = [set(scale_folds(network.cut(plan))) for plan in drops]
    assert names == [set(), {"attention.q.weight", "attention.q.bias"}]


def test_repair_is_written_with_the_ratio() -> None:
    model = Net("sdpa").eval()
    errors = []
    for repair in (None, "auto"):
        made = cut("sdpa", repair=repair, calibration=[DATA], allocation="uniform").model
        with torch.no_grad():
            errors.append(float((made(DATA) - model(DATA)).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_in_place_the_network_has_the_ratio_too() -> None:
    model = Net("sdpa").eval()
    pj.prune(model, X, pruning_ratio=0.25, scope={"head dims"}, inplace=True)
    torch.testing.assert_close(model(DATA), cut("sdpa").model(DATA))


def test_what_is_saved_has_the_ratio_once(tmp_path: Path) -> None:
    pruned = cut("sdpa")
    pj.save(pruned.model, tmp_path)
    torch.testing.assert_close(pj.load(tmp_path, model=Net)(DATA), pruned.model(DATA))


def test_factors_multiply_rows_in_the_dtype_of_the_tensor() -> None:
    halves = torch.ones(2, 3, dtype=torch.float16)
    found = folded({"w": halves, "b": torch.ones(2)}, {"w": torch.tensor([1.0, 0.5])})
    assert found["w"].dtype == torch.float16
    assert found["w"][:, 0].tolist() == [1.0, 0.5]
    assert torch.equal(found["b"], torch.ones(2))

"""Units chosen, rated, rounded and left alone by what they are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import BudgetError, StrategyError


class Layer(nn.Module):
    """Attention and an MLP on a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.read = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.read(x + self.down(F.gelu(self.up(x))))


EXAMPLE = torch.randn(2, 5, 16)


def kept(**how: object) -> dict[str, set[int]]:
    """Units that stay, by kind."""
    model = Layer().eval()
    pruned = pj.prune(model, EXAMPLE, repair=None, **how)
    counts = {g.name: g.kept for g in pruned.report.data.groups}
    found: dict[str, set[int]] = {}
    for group in pj.find_groups(model, EXAMPLE):
        found.setdefault(group.kind, set()).add(counts[group.name])
    return found


def test_a_scope_of_kinds_leaves_the_other_kinds_alone() -> None:
    assert kept(pruning_ratio=0.5, scope={"neurons"}) == {
        "heads": {4},
        "head dims": {4},
        "neurons": {20},
    }


def test_a_kind_has_a_ratio_of_its_own() -> None:
    ratios = {"kind:heads": 0.25, "kind:neurons": 0.5}
    found = kept(pruning_ratio_dict=ratios, ignored_layers="kind:head dims")
    assert found == {"heads": {3}, "head dims": {4}, "neurons": {20}}


def test_a_kind_is_rounded_on_its_own() -> None:
    found = kept(pruning_ratio=0.45, round_to={"neurons": 16})
    assert (found["neurons"], found["heads"]) == ({32}, {2})


@pytest.mark.parametrize("key", ["ignored_layers", "pruning_ratio_dict"])
def test_a_kind_that_is_not_there_is_refused_with_those_that_are(key: str) -> None:
    choice = "kind:channels" if key == "ignored_layers" else {"kind:channels": 0.5}
    with pytest.raises(StrategyError, match="kinds are kind:head dims, kind:heads"):
        kept(pruning_ratio=0.5, **{key: choice})


def test_rounding_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BudgetError, match="by kind they are among"):
        kept(pruning_ratio=0.5, round_to={"head": 2})


def test_a_scope_that_is_neither_place_nor_kind_is_refused() -> None:
    with pytest.raises(StrategyError, match="places"):
        kept(pruning_ratio=0.5, scope={"head"})

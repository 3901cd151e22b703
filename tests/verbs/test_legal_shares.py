"""Shares that a group's units do not allow: the nearest one is taken, and said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import penjing as pj

HEADS, SHARED, DIMS = 4, 2, 6
X = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))


class Grouped(nn.Module):
    """Four query heads over two heads of keys and values; with pairs turned, or not."""

    def __init__(self, *, rotary: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rotary = rotary
        self.start, self.q = nn.Linear(5, 24), nn.Linear(24, HEADS * DIMS)
        self.k, self.v = nn.Linear(24, SHARED * DIMS), nn.Linear(24, SHARED * DIMS)
        self.out, self.read = nn.Linear(24, 24), nn.Linear(24, 3)

    def turned(self, x: Tensor) -> Tensor:
        if not self.rotary:
            return x
        angle = torch.arange(x.shape[2]).to(x)[:, None] * torch.tensor([1.0, 0.5, 0.25]).to(x)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        return x * cos + torch.cat([-x[..., 3:], x[..., :3]], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        q = self.turned(self.q(h).unflatten(-1, (HEADS, DIMS)).transpose(1, 2))
        k = self.turned(self.k(h).unflatten(-1, (SHARED, DIMS)).transpose(1, 2))
        v = self.v(h).unflatten(-1, (SHARED, DIMS)).transpose(1, 2)
        k, v = (t.repeat_interleave(HEADS // SHARED, 1) for t in (k, v))
        mixed = ((q @ k.transpose(-1, -2)) * 0.4).softmax(-1) @ v
        return self.read(self.out(mixed.transpose(1, 2).flatten(2)).mean(1))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.Conv2d(12, 24, 3, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


NETWORKS = {
    "shared keys": (Grouped, X),
    "rotary pairs": (lambda: Grouped(rotary=True), X),
    "grouped convolution": (convolutions, torch.randn(2, 3, 8, 8)),
}


def cut(name: str, **how: object) -> tuple[dict[str, tuple[int, int]], str]:
    """Units before and after by group, and what the report says of the nearest share."""
    make, x = NETWORKS[name]
    data = pj.prune(make().eval(), x, **how).report.data
    said = " ".join(note for note in data.notes if "nearest share" in note)
    return {g.name: (g.units, g.kept) for g in data.groups}, said


def test_query_heads_go_with_the_keys_that_they_share() -> None:
    rows, said = cut("shared keys", pruning_ratio_dict={"kind:heads": 0.9})
    assert rows["q"] == (2, 1)
    assert (
        "'q' 0.5 of its 2 units (asked 0.9; a unit is 12 positions in dim 0 of 'q.weight')" in said
    )


def test_rotary_dimensions_go_in_pairs_of_every_head() -> None:
    rows, said = cut("rotary pairs", pruning_ratio=0.9)
    assert rows["q#2"] == (3, 1)
    assert (
        f"'q#2' 0.667 of its 3 units (asked 0.9; a unit is {2 * HEADS} positions in dim 0" in said
    )


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_share_too_large_for_a_group_leaves_it_one_unit_and_names_the_share(name: str) -> None:
    rows, said = cut(name, pruning_ratio=0.9)
    small = {n for n, (units, kept) in rows.items() if kept == 1 and units < 6}
    assert small
    assert sum(f"{n!r} " in said for n in small) or "more" in said


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_multiple_that_a_group_cannot_keep_leaves_it_whole_and_says_so(name: str) -> None:
    rows, said = cut(name, pruning_ratio=0.5, round_to=4)
    whole = [n for n, (units, kept) in rows.items() if units <= 4 and kept == units]
    assert whole
    assert f"{whole[0]!r} 0 of its {rows[whole[0]][0]} units" in said


def test_shares_that_are_legal_say_nothing() -> None:
    assert cut("shared keys", pruning_ratio=0.5)[1] == ""

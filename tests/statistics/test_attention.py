"""Attention scores: which are found, and the basis that keeps most of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.graph.capture import capture
from penjing.statistics.attention import Head, Product, Scores, products, rebased
from penjing.statistics.grams import layers

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Separate projections; `variant` changes what lies between them and the product."""

    def __init__(self, variant: str = "plain") -> None:
        super().__init__()
        self.variant = variant
        keys = WIDTH // HEADS if variant == "shared keys" else WIDTH
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, keys)
        self.v, self.out = nn.Linear(WIDTH, keys), nn.Linear(WIDTH, WIDTH)
        self.fused = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "fused":
            q, k, v = self.fused(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            scores = (q * 0.5) @ k.transpose(-2, -1)
            return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        size = WIDTH // HEADS
        q, k, v = (
            layer(x).unflatten(-1, (-1, size)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        extra = 0.0
        if self.variant == "rotary":
            q, k = (torch.cat([-t[..., 2:], t[..., :2]], -1) * x.mean() + t for t in (q, k))
        if self.variant == "seen twice":
            extra = q.mean()
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.variant == "shared keys")
        return self.out(mixed.transpose(1, 2).flatten(2)) + extra


def found_in(variant: str) -> list[Product]:
    program = capture(Attention(variant).eval(), torch.randn(2, 5, WIDTH))
    return products(program, layers(program)[0])


def test_the_heads_of_separate_projections_are_found() -> None:
    (product,) = found_in("plain")
    assert product.heads[1] == Head(((4, 5, 6, 7),), (4, 5, 6, 7))


def test_fused_projections_are_told_apart() -> None:
    (product,) = found_in("fused")
    assert product.heads[1] == Head(((4, 5, 6, 7),), (16, 17, 18, 19))


def test_a_softmax_behind_the_product_makes_the_mean_of_the_keys_irrelevant() -> None:
    assert found_in("fused")[0].centred


def test_query_heads_that_share_keys_are_one_head() -> None:
    (product,) = found_in("shared keys")
    assert [len(head.queries) for head in product.heads] == [HEADS]


@pytest.mark.parametrize("variant", ["rotary", "seen twice"])
def test_a_basis_that_something_else_sees_is_left_alone(variant: str) -> None:
    assert found_in(variant) == []


def some_scores() -> tuple[Scores, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (30, 40))
    sums = Scores.zeros(4)
    sums.add(Head(((0, 1, 2, 3),), (0, 1, 2, 3)), q, k)
    return sums, q, k


def test_the_basis_gives_the_nearest_scores_of_its_rank() -> None:
    sums, q, k = some_scores()
    query, key, _ = sums.basis(2, centred=False)
    u, s, vh = torch.linalg.svd(q @ k.T, full_matrices=False)
    best = u[:, :2] * s[:2] @ vh[:2]
    torch.testing.assert_close(q @ query @ (k @ key).T, best, rtol=1e-5, atol=1e-5)  # the ridge


def test_what_the_basis_says_is_lost_is_lost() -> None:
    sums, q, k = some_scores()
    query, key, lost = sums.basis(2, centred=False)
    wrong = (q @ k.T - q @ query @ (k @ key).T).square().sum() / (q @ k.T).square().sum()
    assert lost == pytest.approx(float(wrong), rel=1e-5)


def test_what_leaving_dimensions_out_loses_is_known() -> None:
    sums, q, k = some_scores()
    wrong = (q[:, 1:3] @ k[:, 1:3].T).square().sum() / (q @ k.T).square().sum()
    assert sums.lost([1, 2], centred=False) == pytest.approx(float(wrong))


def test_columns_outside_every_head_keep_their_place() -> None:
    matrix = rebased(4, [0, 2, 3], [((0, 1), torch.ones(2, 1, dtype=torch.float64))])
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]

"""What the units of a group are called."""

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.plan import Groups


class Encoder(nn.Module):
    """Tokens, one layer of attention, one MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.norm, self.end = nn.LayerNorm(12), nn.LayerNorm(12)
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.up, self.down, self.read = nn.Linear(12, 30), nn.Linear(30, 12), nn.Linear(12, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        y = self.norm(x)
        q, k, v = (f(y).unflatten(-1, (3, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.read(self.end(x + self.down(self.up(x).relu())))


@pytest.fixture(scope="module")
def groups() -> Groups:
    return pj.find_groups(Encoder().eval(), torch.randint(20, (2, 5)))


@pytest.mark.parametrize(
    ("units", "kinds"),
    [(12, {"embedding"}), (3, {"heads"}), (4, {"head dims"}), (30, {"neurons"})],
    ids=["embedding", "heads", "head dims", "neurons"],
)
def test_the_parts_of_a_transformer_have_their_names(
    groups: Groups, units: int, kinds: set[str]
) -> None:
    assert {g.kind for g in groups if g.units == units} == kinds


def test_the_table_of_groups_shows_kinds(groups: Groups) -> None:
    assert "head dims" in str(groups)


def test_convolutions_make_channels() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    assert [g.kind for g in pj.find_groups(net, torch.randn(1, 3, 8, 8))] == ["channels"]


def test_a_stream_that_convolutions_read_is_of_channels() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.last = nn.LayerNorm(8), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.last(x + self.inner(y))

    found = pj.find_groups(Residual().eval(), torch.randn(1, 3, 8, 8))
    assert [(g.scope, g.kind) for g in found] == [("residual", "channels")]


def test_recurrent_layers_make_hidden_units() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.read = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.rnn(x)[0][:, -1])

    found = pj.find_groups(Reader().eval(), torch.randn(2, 5, 4))
    assert {g.kind for g in found} <= {"hidden units"}


@pytest.mark.parametrize("key_heads", [3, 1], ids=["own keys", "shared keys"])
def test_dims_that_are_rotated_are_dims_of_heads(key_heads: int) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(12, 4 * n) for n in (3, key_heads, key_heads))
            self.out, self.read = nn.Linear(12, 12), nn.Linear(12, 2)
            angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def turned(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, -1)
            return x * self.cos + torch.cat([-right, left], -1) * self.sin

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            k, v = (t.repeat_interleave(3 // t.shape[1], 1) for t in (k, v))
            mixed = nn.functional.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
            return self.read(x + self.out(mixed.transpose(1, 2).flatten(2)))

    found = pj.find_groups(Rotary().eval(), torch.randn(2, 5, 12))
    pairs = [g for g in found if g.units == 2]
    assert [(g.name.partition("#")[0], g.kind) for g in pairs] == [("q", "head dims")]

"""The steps of random networks: small modules, and how each draws its sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 4  # height and width of the maps
TOKENS = SIZE * SIZE


class Residual(nn.Module):
    """A branch added to its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.body(x)
        return made


class Concat(nn.Module):
    """A branch beside its input, along `dim`."""

    def __init__(self, body: nn.Module, dim: int) -> None:
        super().__init__()
        self.body, self.dim = body, dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], self.dim)


class Halves(nn.Module):
    """One half goes through a layer, the other around it."""

    def __init__(self, body: nn.Module, dim: int) -> None:
        super().__init__()
        self.body, self.dim = body, dim

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, self.dim)
        return torch.cat([right, self.body(left)], self.dim)


class Shuffle(nn.Module):
    """Interleaves two halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Folded(nn.Module):
    """Pixels into channels, a pointwise layer, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4 * channels, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mix(F.pixel_unshuffle(x, 2)), 2)


class Gate(nn.Module):
    """Channel attention."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Twice(nn.Module):
    """One layer used twice."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(torch.relu(self.body(x)))
        return made


class ChannelNorm(nn.Module):
    """Layer norm over the channels of maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return made


class Gated(nn.Module):
    """A gated linear unit from one wide layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.wide(x).chunk(2, -1)
        made: Tensor = self.out(value * F.silu(gate))
        return made


class Attention(nn.Module):
    """Self-attention: fused or apart, fewer key heads than query heads, by sdpa or written out."""

    def __init__(self, width: int, heads: int, shared: int, size: int, style: str) -> None:
        super().__init__()
        self.heads, self.shared, self.size, self.style = heads, shared, size, style
        self.q = nn.Linear(width, heads * size)
        self.kv = nn.Linear(width, 2 * shared * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, self.shared, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.style == "gqa":
            made = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            times = self.heads // self.shared
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
            made = self._written_out(q, k, v)
        joined: Tensor = self.out(made.transpose(1, 2).reshape(n, t, -1))
        return joined

    def _written_out(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.style == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.size**0.5
            return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
        if self.style == "matmul":
            scores = q @ k.transpose(-2, -1) / self.size**0.5
            made: Tensor = scores.softmax(-1) @ v
            return made
        return F.scaled_dot_product_attention(q, k, v)


class Recurrent(nn.Module):
    """A recurrent layer of torch back to the width of its input."""

    def __init__(
        self, layer: Callable[..., nn.Module], width: int, hidden: int, both: bool
    ) -> None:
        super().__init__()
        self.layer = layer(width, hidden, batch_first=True, bidirectional=both)
        self.out = nn.Linear(hidden * (2 if both else 1), width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.layer(x)[0])
        return made


class MixTokens(nn.Module):
    """A linear layer over tokens."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, tokens))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x.transpose(1, 2)).transpose(1, 2)
        return made


class Scaled(nn.Module):
    """A bare parameter times, and another plus."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class AsTokens(nn.Module):
    """Maps as tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


Made = tuple[nn.Module, int]
Maker = Callable[[int, random.Random], Made]


def plain_conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """A convolution of 3 x 3 that keeps the size of the map."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def even(pick: random.Random) -> int:
    """An even number of channels."""
    return pick.choice((4, 6, 8))


def _branch(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(plain_conv(channels, hidden), nn.ReLU(), plain_conv(hidden, channels))


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def _attention(style: str) -> Maker:
    def make_one(width: int, pick: random.Random) -> Made:
        heads, shared = pick.choice(((2, 2), (4, 2), (2, 1), (3, 3)))
        body = Attention(width, heads, shared, pick.choice((2, 3, 4)), style)
        return Residual(nn.Sequential(nn.LayerNorm(width), body)), width

    return make_one


def _recurrent(layer: Callable[..., nn.Module]) -> Maker:
    def make_one(width: int, pick: random.Random) -> Made:
        return Residual(Recurrent(layer, width, even(pick), pick.random() < 0.5)), width

    return make_one


def _grown(body: Callable[[int, int], nn.Module], dim: int) -> Maker:
    def make_one(channels: int, pick: random.Random) -> Made:
        more = even(pick)
        return Concat(body(channels, more), dim), channels + more

    return make_one


def _changed(body: Callable[[int, int], nn.Module]) -> Maker:
    def make_one(channels: int, pick: random.Random) -> Made:
        made = even(pick)
        return body(channels, made), made

    return make_one


def _kept(body: Callable[[int], nn.Module]) -> Maker:
    return lambda channels, _pick: (body(channels), channels)


def _hidden(body: Callable[[int, int], nn.Module]) -> Maker:
    return lambda channels, pick: (body(channels, even(pick)), channels)


ON_MAPS: Mapping[str, Maker] = {
    "conv": _changed(plain_conv),
    "transposed": _changed(lambda i, o: nn.ConvTranspose2d(i, o, 3, padding=1)),
    "batch_norm": _kept(nn.BatchNorm2d),
    "group_norm": _kept(lambda c: nn.GroupNorm(2, c)),
    "channel_norm": _kept(ChannelNorm),
    "relu": _kept(lambda _c: nn.ReLU()),
    "prelu": _kept(nn.PReLU),
    "pool": _kept(lambda _c: nn.MaxPool2d(3, 1, 1)),
    "residual": _hidden(lambda c, h: Residual(_branch(c, h))),
    "concat": _grown(plain_conv, 1),
    "split": _kept(lambda c: Halves(plain_conv(c // 2, c // 2), 1)),
    "depthwise": _kept(lambda c: plain_conv(c, c, c)),
    "grouped": _kept(lambda c: plain_conv(c, c, 2)),
    "shuffle": _kept(lambda _c: Shuffle()),
    "folded": _kept(Folded),
    "gate": _hidden(Gate),
    "twice": _kept(lambda c: Twice(plain_conv(c, c))),
}
"""Steps on maps by name."""

ON_TOKENS: Mapping[str, Maker] = {
    "linear": _changed(nn.Linear),
    "layer_norm": _kept(nn.LayerNorm),
    "rms_norm": _kept(nn.RMSNorm),
    "gelu": _kept(lambda _c: nn.GELU()),
    "mlp": _hidden(lambda c, h: Residual(_mlp(c, h))),
    "gated": _hidden(lambda c, h: Residual(Gated(c, h))),
    "attention": _attention("sdpa"),
    "attention_gqa": _attention("gqa"),
    "attention_einsum": _attention("einsum"),
    "attention_matmul": _attention("matmul"),
    "gru": _recurrent(nn.GRU),
    "lstm": _recurrent(nn.LSTM),
    "rnn": _recurrent(nn.RNN),
    "mix_tokens": _hidden(lambda _c, h: Residual(MixTokens(TOKENS, h))),
    "joined": _grown(nn.Linear, -1),
    "halves": _kept(lambda c: Halves(nn.Linear(c // 2, c // 2), -1)),
    "scaled": _kept(Scaled),
    "shared": _kept(lambda c: Twice(nn.Linear(c, c))),
}
"""Steps on tokens by name."""

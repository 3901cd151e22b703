"""Attention, windows and mixers written out: torch's own layers and papers' blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import SqueezeExcite, conv_bn_act


class Mlp(nn.Sequential):
    """Two linear layers with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class WindowAttention(nn.Module):
    """Heads inside windows with a learned bias by relative position (arXiv:2103.14030)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid([torch.arange(window)] * 2, indexing="ij")).flatten(1)
        away = (grid[:, :, None] - grid[:, None]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", away[..., 0] * (2 * window - 1) + away[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1) + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


def windows(x: Tensor, size: int) -> Tensor:
    """Maps (N, H, W, C) as windows (N * count, size * size, C)."""
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(-1, size * size, c)


def maps(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """What `windows` took apart."""
    x = x.view(-1, height // size, width // size, size, size, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


class SwinBlock(nn.Module):
    """Shifted windows by a roll there and back."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.attention = nn.LayerNorm(width), WindowAttention(width, heads, window)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = maps(self.attention(windows(y, self.window)), self.window, x.shape[1], x.shape[2])
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Two stages with patch merging between them."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.one = nn.Sequential(SwinBlock(width, 2, 4, 0), SwinBlock(width, 2, 4, 2))
        self.norm = nn.LayerNorm(4 * width)
        self.merge = nn.Linear(4 * width, 2 * width, bias=False)
        self.two = nn.Sequential(SwinBlock(2 * width, 4, 4, 0), SwinBlock(2 * width, 4, 4, 2))
        self.last, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.patches(x).permute(0, 2, 3, 1))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.two(self.merge(self.norm(torch.cat(corners, -1))))
        return self.head(self.last(x).mean((1, 2)))


class MaxViTBlock(nn.Module):
    """Inverted bottleneck, attention in blocks, attention over a grid (arXiv:2204.01697)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), conv_bn_act(width, hidden, 1, activation=nn.GELU),
            conv_bn_act(hidden, hidden, 3, 1, hidden, activation=nn.GELU),
            SqueezeExcite(hidden, width // 4, nn.SiLU), nn.Conv2d(hidden, width, 1),
        )  # fmt: skip
        self.window = window
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.block = WindowAttention(width, heads, window)
        self.grid = WindowAttention(width, heads, window)
        self.mlps = nn.ModuleList(Mlp(width, 2 * width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = (x + self.body(x)).permute(0, 2, 3, 1)
        size, (_, h, w, _) = self.window, y.shape
        y = y + maps(self.block(windows(self.norms[0](y), size)), size, h, w)
        y = y + self.mlps[0](self.norms[1](y))
        y = y + self._over_grid(self.norms[2](y))
        return (y + self.mlps[1](self.norms[3](y))).permute(0, 3, 1, 2)

    def _over_grid(self, x: Tensor) -> Tensor:
        size, (n, h, w, c) = self.window, x.shape
        y = x.view(n, size, h // size, size, w // size, c).permute(0, 2, 4, 1, 3, 5)
        y = self.grid(y.reshape(-1, size * size, c))
        y = y.view(n, h // size, w // size, size, size, c).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(n, h, w, c)


class MaxViT(nn.Module):
    """A stem of convolutions and two blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_act(3, width, 3, 2), nn.Conv2d(width, width, 3, 2, 1))
        self.blocks = nn.Sequential(MaxViTBlock(width, 2, 4), MaxViTBlock(width, 2, 4))
        self.tail = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width), nn.Linear(width, width),
            nn.Tanh(), nn.Linear(width, 10, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.blocks(self.stem(x)))


class VisionTransformer(nn.Module):
    """Patches, class token, torch's own encoder layers (arXiv:2010.11929)."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.body(x))[:, 0])


class Sequences(nn.Module):
    """`nn.Transformer`: encoder, decoder with crossing attention, causal mask."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, width), nn.Embedding(40, width)
        self.body = nn.Transformer(width, 4, 1, 1, 48, batch_first=True)
        self.head = nn.Linear(width, 40)
        self.register_buffer("mask", torch.triu(torch.ones(6, 6), 1).bool())

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        made = self.body(
            self.source(source), self.target(target), tgt_mask=self.mask, tgt_is_causal=True
        )
        return self.head(made)


class GroupedQueries(nn.Module):
    """Rotary positions, two key heads for four query heads, gated MLP, RMS norm."""

    def __init__(self, width: int = 32, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.embed, self.heads, self.shared = nn.Embedding(50, width), heads, shared
        self.size = width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * shared * self.size)
        self.out, self.gate = nn.Linear(width, width), nn.Linear(width, 128)
        self.down, self.head = nn.Linear(64, width), nn.Linear(width, 50)
        turns = torch.arange(64)[:, None] / 100.0 ** (torch.arange(0, self.size, 2) / self.size)
        self.register_buffer("cos", turns.cos().repeat(1, 2))
        self.register_buffer("sin", turns.sin().repeat(1, 2))

    def turned(self, x: Tensor) -> Tensor:
        """Rotate pairs of dimensions by position."""
        left, right = x.chunk(2, -1)
        length = x.shape[2]
        return x * self.cos[:length] + torch.cat([-right, left], -1) * self.sin[:length]

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        n, t, _ = x.shape
        y = self.norm1(x)
        q = self.q(y).view(n, t, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(y).view(n, t, 2, self.shared, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        made = F.scaled_dot_product_attention(
            self.turned(q), self.turned(k), v, is_causal=True, enable_gqa=True
        )
        x = x + self.out(made.transpose(1, 2).reshape(n, t, -1))
        value, gate = self.gate(self.norm2(x)).chunk(2, -1)
        return self.head(x + self.down(value * F.silu(gate)))


class LinearBias(nn.Module):
    """Causal attention with a bias by distance (ALiBi, arXiv:2108.12409), by einsum."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.heads = nn.Embedding(50, width), heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.mlp, self.head = Mlp(width, 64), nn.Linear(width, 50)
        self.register_buffer("slopes", 0.5 ** torch.arange(1.0, heads + 1))

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, c // self.heads).unbind(2)
        steps = torch.arange(t)
        away = (steps[None] - steps[:, None]).to(x.dtype)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / (c // self.heads) ** 0.5
        scores = scores + self.slopes[:, None, None] * away
        scores = scores.masked_fill(away > 0, float("-inf")).softmax(-1)
        x = x + self.out(torch.einsum("bhij,bjhd->bihd", scores, v).reshape(n, t, c))
        return self.head(x + self.mlp(x))


class MixerBlock(nn.Module):
    """One MLP over tokens, one over channels (arXiv:2105.01601)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens, self.channels = Mlp(tokens, 2 * tokens), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches and two blocks of a given kind."""

    def __init__(self, block: type[nn.Module] = MixerBlock, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.Sequential(block(16, width), block(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class GatedTokens(nn.Module):
    """Half of the channels gate the other half over tokens (gMLP, arXiv:2105.08050)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm, self.entry = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.inner, self.space = nn.LayerNorm(2 * width), nn.Conv1d(tokens, tokens, 1)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.entry(self.norm(x))).chunk(2, -1)
        return x + self.out(u * self.space(self.inner(v)))


class AffineBlock(nn.Module):
    """No norm but a scale and a shift (ResMLP, arXiv:2105.03404)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        self.tokens, self.channels = nn.Linear(tokens, tokens), Mlp(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens((self.alpha * x + self.beta).transpose(1, 2)).transpose(1, 2)
        x = x + self.scale * y
        return x + self.channels(x)


def conv_mixer(width: int = 24, depth: int = 2) -> nn.Module:
    """Depthwise and pointwise in turn (arXiv:2201.09792)."""

    class Plus(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    def after() -> tuple[nn.Module, nn.Module]:
        return nn.GELU(), nn.BatchNorm2d(width)

    blocks = [
        nn.Sequential(
            Plus(nn.Sequential(nn.Conv2d(width, width, 5, padding=2, groups=width), *after())),
            nn.Conv2d(width, width, 1), *after(),
        )
        for _ in range(depth)
    ]  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 4), *after(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    )  # fmt: skip


class Perceiver(nn.Module):
    """A few learned latents read the input by `nn.MultiheadAttention` (arXiv:2103.03206)."""

    def __init__(self, width: int = 32, latents: int = 6) -> None:
        super().__init__()
        self.entry = nn.Linear(5, 20)
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.read = nn.MultiheadAttention(width, 4, batch_first=True, kdim=20, vdim=20)
        self.think = nn.TransformerEncoderLayer(width, 4, 48, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        state = self.latents.expand(len(x), -1, -1)
        state = state + self.read(state, x, x, need_weights=False)[0]
        return self.head(self.think(state).mean(1))


class GraphConvolution(nn.Module):
    """Two steps over an adjacency given as input (arXiv:1609.02907)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(7, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = F.relu(edges @ self.one(x))
        return self.head(F.relu(edges @ self.two(x)))


class PointNet(nn.Module):
    """A shared MLP over points, the largest over all of them (arXiv:1612.00593)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.turn = nn.Sequential(nn.Conv1d(3, w, 1), nn.BatchNorm1d(w), nn.ReLU())
        self.place = nn.Linear(w, 9)
        self.body = nn.Sequential(
            nn.Conv1d(3, w, 1), nn.BatchNorm1d(w), nn.ReLU(), nn.Conv1d(w, 2 * w, 1), nn.ReLU()
        )
        self.points = nn.Sequential(nn.Conv1d(4 * w, w, 1), nn.ReLU(), nn.Conv1d(w, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.place(self.turn(x).amax(-1)).view(-1, 3, 3) @ x
        local = self.body(turned)
        whole = local.amax(-1, keepdim=True).expand(-1, -1, x.shape[-1])
        return self.points(torch.cat([local, whole], 1))

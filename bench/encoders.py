"""Two small transformers in plain PyTorch: a vision transformer and a text encoder.

Suffixes: B = batch, T = tokens, D = width, H = heads, E = head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROPOUT = 0.2  # of the text encoder, in training


class Attention(nn.Module):
    """Multi-head self-attention with separate projections.

    Args:
        width: Of the stream.
        heads: Number of heads; the head dim follows from the projections.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm encoder layer: attention, then an MLP, each on a residual branch.

    Args:
        width: Of the stream.
        heads: Number of heads.
        hidden: Neurons of the MLP.
        dropout: Share of the branch's outputs dropped in training.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class VisionTransformer(nn.Module):
    """ViT for 32x32 images with a convolutional stem (Xiao et al. 2021): 64 tokens.

    Args:
        width: Of the stream.
        heads: Per layer.
        hidden: Neurons of each MLP.
        depth: Layers.
        classes: Outputs.
    """

    def __init__(
        self,
        width: int = 128,
        heads: int = 4,
        hidden: int = 512,
        depth: int = 4,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, width, 3, 2, 1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.layers = nn.ModuleList([Layer(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class TextEncoder(nn.Module):
    """A small encoder over token ids; 0 is padding, position 0 the token that is read out.

    Args:
        vocabulary: Number of ids.
        length: Most tokens.
        width: Of the stream.
        heads: Per layer.
        hidden: Neurons of each MLP.
        depth: Layers.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 48,
        width: int = 96,
        heads: int = 4,
        hidden: int = 384,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(1, length, width))
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList([Layer(width, heads, hidden, DROPOUT) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0)[:, None, None, :]
        x = self.dropout(self.embedding(tokens) + self.position)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x)[:, 0])

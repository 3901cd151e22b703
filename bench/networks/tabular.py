"""Recommenders and tables: embeddings, crossings, multilayer perceptrons, mixtures."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def tower(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DLRM(nn.Module):
    """Tables and a bottom tower meet in pairwise products (Naumov et al., arXiv:1906.00091)."""

    def __init__(self, width: int = 16, tables: int = 3) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(30, width) for _ in range(tables))
        self.bottom, pairs = tower(8, 32, width), (tables + 1) * tables // 2
        self.top = tower(width + pairs, 32, 1)
        first, second = torch.triu_indices(tables + 1, tables + 1, 1)
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        looked = [table(sparse[:, i]) for i, table in enumerate(self.tables)]
        every = torch.stack([x, *looked], 1)
        products = every @ every.transpose(1, 2)
        return self.top(torch.cat([x, products[:, self.first, self.second]], 1))


class WideAndDeep(nn.Module):
    """A linear part beside a deep one (Cheng et al. 2016, arXiv:1606.07792)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, width), nn.Embedding(50, width)
        self.deep, self.wide = tower(2 * width + 6, 48, 24, 1), nn.Linear(6, 1)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        looked = torch.cat([self.users(ids[:, 0]), self.items(ids[:, 1]), x], 1)
        return torch.sigmoid(self.deep(looked) + self.wide(x))


class NeuralFactors(nn.Module):
    """Products of embeddings beside a tower over them (He et al. 2017, arXiv:1708.05031)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, width), nn.Embedding(50, width)
        self.deep_users, self.deep_items = nn.Embedding(30, width), nn.Embedding(50, width)
        self.deep, self.head = tower(2 * width, 32, 16), nn.Linear(width + 16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = self.users(user) * self.items(item)
        deep = self.deep(torch.cat([self.deep_users(user), self.deep_items(item)], -1))
        return self.head(torch.cat([product, F.relu(deep)], -1))


class FactorisationMachine(nn.Module):
    """Second-order crossings of the fields beside a tower (DeepFM, arXiv:1703.04247)."""

    def __init__(self, width: int = 8, fields: int = 4) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(60, width), nn.Embedding(60, 1)
        self.deep = tower(fields * width, 32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        looked = self.table(ids)
        crossed = looked.sum(1).square() - looked.square().sum(1)
        return (
            self.linear(ids).sum(1)
            + 0.5 * crossed.sum(1, keepdim=True)
            + self.deep(looked.flatten(1))
        )


class Crossing(nn.Module):
    """Explicit crossings with the input (DCN v2, arXiv:2008.13535)."""

    def __init__(self, width: int = 8, fields: int = 3) -> None:
        super().__init__()
        self.table, total = nn.Embedding(60, width), fields * width
        self.crosses = nn.ModuleList(nn.Linear(total, total) for _ in range(2))
        self.deep, self.head = tower(total, 32, 16), nn.Linear(total + 16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        start = x = self.table(ids).flatten(1)
        for cross in self.crosses:
            x = start * cross(x) + x
        return self.head(torch.cat([x, self.deep(start)], 1))


class TwoTowers(nn.Module):
    """Scores are products of two normalised towers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.bags = nn.Embedding(60, width)
        self.user, self.item = tower(width, 32, 12), tower(6, 32, 12)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        user = F.normalize(self.user(self.bags(history).mean(1)), dim=-1)
        return (user * F.normalize(self.item(item), dim=-1)).sum(-1)


class ExpertMixture(nn.Module):
    """Several towers, one gate for each task (MMoE, KDD 2018)."""

    def __init__(self, width: int = 16, experts: int = 3) -> None:
        super().__init__()
        self.experts = nn.ModuleList(tower(10, 32, width) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(10, experts) for _ in range(2))
        self.heads = nn.ModuleList(tower(width, 12, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        made = torch.stack([expert(x) for expert in self.experts], 1)
        mixes = [torch.softmax(gate(x), -1).unsqueeze(1) @ made for gate in self.gates]
        return [head(mix.squeeze(1)) for head, mix in zip(self.heads, mixes, strict=True)]


class ResidualTable(nn.Module):
    """Pre-norm residual blocks of linear layers (arXiv:2106.11959)."""

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.entry = nn.Linear(10, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(0.1),
                nn.Linear(2 * width, width),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.tail = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            x = x + block(x)
        return self.tail(x)


class FieldTransformer(nn.Module):
    """Every column becomes a token (FT-Transformer, arXiv:2106.11959)."""

    def __init__(self, width: int = 16, columns: int = 6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(columns, width))
        self.bias = nn.Parameter(torch.randn(columns, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 32, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(-1) * self.weight + self.bias
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.body(tokens)[:, 0])

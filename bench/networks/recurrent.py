"""Recurrent networks: layers of torch, cells in a loop, and convolutions before them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import conv_bn_act


class Tagger(nn.Module):
    """A recurrent layer of torch between an embedding and a linear layer, one answer a step."""

    def __init__(self, layer: type[nn.Module], width: int = 24, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.layer = layer(16, width, batch_first=True, **options)
        made = options.get("proj_size") or width
        self.head = nn.Linear(made * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(words))[0])


class LastState(nn.Module):
    """Classifies the state after the last step of a stack of recurrent layers."""

    def __init__(self, layer: type[nn.Module] = nn.GRU, width: int = 24) -> None:
        super().__init__()
        self.layer = layer(8, width, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        state = self.layer(x)[1]
        state = state[0] if isinstance(state, tuple) else state
        return self.head(state[-1])


class CellLoop(nn.Module):
    """One cell of torch, called step by step."""

    def __init__(self, cell: type[nn.Module], width: int = 20) -> None:
        super().__init__()
        self.entry, self.cell = nn.Linear(6, 12), cell(12, width)
        self.width, self.head = width, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.entry(x))
        hidden = x.new_zeros(x.shape[0], self.width)
        state: Any = (hidden, hidden) if isinstance(self.cell, nn.LSTMCell) else hidden
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class OwnGates(nn.Module):
    """A gated recurrent unit written out: one linear layer for all gates, then chunks."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Linear(6 + width, 2 * width)
        self.candidate = nn.Linear(6 + width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.width)
        for step in x.unbind(1):
            update, reset = torch.sigmoid(self.gates(torch.cat([step, state], 1))).chunk(2, 1)
            new = torch.tanh(self.candidate(torch.cat([step, reset * state], 1)))
            state = (1 - update) * state + update * new
        return self.head(state)


class Speech(nn.Module):
    """Strided convolutions, a bidirectional recurrent layer, letters (arXiv:1512.02595)."""

    def __init__(self, layer: type[nn.Module] = nn.GRU, width: int = 12) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_bn_act(1, width, 3, 2, activation=nn.Hardtanh),
            conv_bn_act(width, width, 3, 2, activation=nn.Hardtanh),
        )
        self.recur = layer(width * 4, 24, 2, batch_first=True, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)
        n, c, h, w = y.shape
        y = y.permute(0, 3, 1, 2).reshape(n, w, c * h)
        return self.head(self.norm(self.recur(y)[0])).log_softmax(-1)


class KeywordCRNN(nn.Module):
    """One convolution, two recurrent layers, the last state (Arik et al. 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, (5, 10), (2, 5))
        self.recur = nn.GRU(width * 7, 24, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.recur(y)[0][:, -1])


class Translator(nn.Module):
    """Encoder, attention over its states, decoder (Luong et al. 2015, arXiv:1508.04025)."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 16), nn.Embedding(40, 16)
        self.encoder = nn.LSTM(16, width, batch_first=True)
        self.decoder = nn.LSTM(16, width, batch_first=True)
        self.combine, self.head = nn.Linear(2 * width, width), nn.Linear(width, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        states, last = self.encoder(self.source(source))
        asked, _ = self.decoder(self.target(target), last)
        weights = torch.softmax(asked @ states.transpose(1, 2), -1)
        return self.head(torch.tanh(self.combine(torch.cat([weights @ states, asked], -1))))


class RecurrentAutoencoder(nn.Module):
    """Squeezes a sequence into the last state and writes it out again."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.encoder = nn.GRU(5, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)[0][:, -1:]
        return self.head(self.decoder(code.expand(-1, x.shape[1], -1))[0])


class ConvolutionalCell(nn.Module):
    """A recurrent cell whose products are convolutions (ConvLSTM, arXiv:1506.04214)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(2 + width, 4 * width, 3, padding=1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, _, h, w = x.shape
        hidden = cell = x.new_zeros(n, self.width, h, w)
        for frame in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(hidden)

"""Small networks, one per family of ops, with their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Calls(nn.Module):
    """A function of some layers and the inputs."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*self.layers, *inputs)


def _pools(x):
    return (
        F.max_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, ceil_mode=True),
        F.max_pool2d(x, 2, 2, ceil_mode=True, dilation=2),
        F.adaptive_avg_pool2d(x, (3, 2)),
        F.adaptive_max_pool2d(x, 1),
        F.avg_pool2d(x, 2, divisor_override=3),
    )


def _activations(x):
    positive = x.abs() + 0.1
    return (
        F.relu(x), F.relu6(4 * x), x.sigmoid(), x.tanh(), F.silu(x), F.gelu(x),
        F.gelu(x, approximate="tanh"), F.hardswish(x), F.hardsigmoid(x), F.hardtanh(x),
        F.hardshrink(x), F.softshrink(x, 0.3), F.threshold(x, 0.1, 2.0), F.tanhshrink(x),
        F.leaky_relu(x, 0.1), F.elu(x), F.selu(x), F.softplus(x), F.mish(x), F.softsign(x),
        x.exp(), positive.log(), x.erf(), x.sin(), x.round(), x.sign(), positive.sqrt(),
        positive.rsqrt(), x**3, x.clamp(-0.5, 0.5), F.logsigmoid(x), torch.log1p(positive),
    )  # fmt: skip


def _pairs(x, y):
    return (
        x + y * 2 - 1, x / (y.abs() + 1), torch.maximum(x, y), torch.where(x > y, x, y),
        (x > 0) & (y > 0), x.masked_fill(y > 0, -1.0), torch.addcmul(x, y, y), 3 - x,
        x.pow(2) + y[:, :1], x * y[0],
    )  # fmt: skip


def _moves(x):
    return (
        x.transpose(1, 2).reshape(2, -1), x.flip(2), x.roll(1, 2), F.pixel_shuffle(x, 2),
        x.unfold(2, 3, 2), torch.cat([x, x * 2], 1), torch.stack([x, x + 1], 2), x[:, ::2, 1:],
        x.permute(0, 2, 3, 1).contiguous().view(2, -1, 2), F.pad(x, (1, 2, 0, 1), value=3.0),
        x.repeat(1, 1, 2, 1), F.pad(x, (1, 1, 1, 1), mode="reflect"), x.chunk(2, 1)[1],
        x.unbind(1)[2], x[:, torch.tensor([2, 0, 1])],
    )  # fmt: skip


def _reductions(x):
    return (
        x.mean((2, 3)), x.sum(1, keepdim=True), x.amax(2), x.amin((1, 3)), x.var(1),
        x.std((1, 2)), x.softmax(1), x.log_softmax(-1), x.argmax(1), x.norm(dim=1), x.mean(),
    )  # fmt: skip


def _products(a, b):
    return a @ b, a @ b[0], torch.einsum("bij,bjk->bki", a, b), torch.baddbmm(a @ b, a, b)


def _attentions(q, k):
    attend = F.scaled_dot_product_attention
    mask = torch.ones(5, 5).tril().bool()
    return (
        attend(q, k, k),
        attend(q, k, k, is_causal=True),
        attend(q, k, k, attn_mask=mask),
        attend(q, k[:, :1], k[:, :1], enable_gqa=True),
    )


def _masked(attention, x, padding):
    y = attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    return torch.where(padding[..., None], torch.full_like(y, -1.0), y + torch.ones_like(y))


def _cells(lstm, gru, rnn, x, h):
    return *lstm(x, (h, 2 * h)), gru(x, h), rnn(x, h)


def _resizes(x):
    return (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(7, 9), mode="bilinear"),
        F.interpolate(x, scale_factor=(2, 1.5), mode="bilinear", align_corners=True),
    )


def _odd(conv, x):
    y = F.relu(x)
    return conv(y) + y + x, x, x[0], x.view(-1), torch.ones(2)


def _dense(a, b, c, x):
    first = torch.cat([x, a(x)], 1)
    return c(torch.cat([first, b(first)], 1))


def _split(a, b, x):
    return torch.cat([a(x[:, :2]), b(x[:, 2:])], 1)


def networks() -> Mapping[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Name -> network in eval mode, inputs."""
    r = torch.randn
    torch.manual_seed(0)
    found = {
        "transposed": (
            nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
                nn.BatchNorm2d(6),
                nn.ReLU(),
            ),
            (r(1, 3, 8, 8),),
        ),
        "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, stride=3, dilation=2), (r(2, 4, 7),)),
        "3d": (
            nn.Sequential(
                nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 1)), nn.GELU(), nn.MaxPool3d(2)
            ),
            (r(1, 2, 6, 7, 8),),
        ),
        "strided, dilated, depthwise": (
            nn.Sequential(
                nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
                nn.SiLU(),
                nn.Conv2d(8, 8, 3, padding="same", groups=8),
                nn.Hardswish(),
            ),
            (r(2, 4, 9, 11),),
        ),
        "pools": (Calls(_pools), (r(2, 3, 9, 7),)),
        "activations": (Calls(_activations), (3 * r(3, 40),)),
        "pairs": (Calls(_pairs), (r(3, 4), r(3, 4))),
        "moves": (Calls(_moves), (r(2, 4, 4, 4),)),
        "reductions": (Calls(_reductions), (r(2, 3, 4, 5),)),
        "norms": (
            nn.Sequential(
                nn.GroupNorm(2, 4),
                nn.LayerNorm((5, 6)),
                nn.InstanceNorm2d(4, affine=True),
                nn.RMSNorm(6),
            ),
            (r(2, 4, 5, 6),),
        ),
        "products": (Calls(_products), (r(2, 3, 4), r(2, 4, 5))),
        "attention": (Calls(_attentions), (r(2, 2, 5, 8), r(2, 2, 5, 8))),
        "encoder": (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1),
            (r(1, 5, 16),),
        ),
        "gru": (nn.GRU(4, 8, 2, batch_first=True, bidirectional=True), (r(2, 5, 4),)),
        "lstm": (nn.LSTM(4, 8, 2), (r(5, 2, 4),)),
        "rnn": (nn.RNN(4, 8, nonlinearity="relu", bias=False), (r(5, 2, 4),)),
        "attention with padding": (
            Calls(_masked, nn.MultiheadAttention(12, 3, batch_first=True)),
            (r(2, 4, 12), torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]]).bool()),
        ),
        "cells": (
            Calls(_cells, nn.LSTMCell(4, 6), nn.GRUCell(4, 6), nn.RNNCell(4, 6, bias=False)),
            (r(2, 4), r(2, 6)),
        ),
        "embedding": (
            nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 3)),
            (torch.randint(0, 10, (2, 5)),),
        ),
        "resize": (Calls(_resizes), (r(1, 3, 5, 6),)),
        "inputs and constants as outputs": (
            Calls(_odd, nn.Conv2d(4, 4, 3, padding=1)),
            (r(1, 4, 6, 6),),
        ),
        "concatenations in concatenations": (
            Calls(
                _dense,
                *(nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (6, 4), (10, 4))),
            ),
            (r(1, 2, 6, 6),),
        ),
        "split channels": (
            Calls(_split, nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)),
            (r(1, 4, 6, 6),),
        ),
    }
    for name in found:
        found[name][0].eval()
    return found

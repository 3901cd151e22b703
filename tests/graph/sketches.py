"""Small networks, one per way in which labels move, with the groups and locks they must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.graph.network import Network

IMAGE = (2, 3, 8, 8)


class Net(nn.Module):
    """Parts by name and a function that is its forward."""

    def __init__(self, forward, parts):
        super().__init__()
        self.function = forward
        for name, make in parts.items():
            part = make()
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


@dataclass(frozen=True)
class Sketch:
    """A network with what must be found in it.

    `groups`: units by group name. `inexact`: groups whose units statistics run over. `locked`:
    tensor -> how the reason begins. `streams`: groups in the residual scope.
    """

    forward: Callable[..., Any]
    parts: Mapping[str, Callable[[], Any]]
    example: Callable[[], Any]
    groups: Mapping[str, int]
    inexact: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    locked: Mapping[str, str] = field(default_factory=dict)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Net(self.forward, self.parts).eval()


SKETCHES: dict[str, Sketch] = {}


def sketch(groups, example=IMAGE, inexact=(), streams=(), locked=None, **parts):
    """Register the decorated forward as a sketch."""

    def register(forward):
        shaped = partial(torch.randn, example) if isinstance(example, tuple) else example
        SKETCHES[forward.__name__] = Sketch(
            forward,
            parts,
            shaped,
            groups,
            frozenset(inexact),
            frozenset(streams),
            locked or {},
        )
        return forward

    return register


@cache
def network(name: str) -> Network:
    """The analysed network of a sketch; read only."""
    return Network.of(SKETCHES[name].model(), SKETCHES[name].example())


def random_drop(net: Network, seed: int) -> dict[str, list[int]]:
    """Some units of every group, at least one and never all."""
    rng = np.random.default_rng(seed)
    return {
        g.name: rng.permutation(g.units)[: rng.integers(1, g.units - g.least + 1)].tolist()
        for g in net.groups
    }


def smallest_drop(net: Network) -> dict[str, list[int]]:
    """All units of every group but those that must stay."""
    return {g.name: list(range(g.least, g.units)) for g in net.groups}


def conv(inputs, outputs, size=3, **settings):
    return partial(nn.Conv2d, inputs, outputs, size, padding=size // 2, **settings)


def linear(inputs, outputs=4):
    return partial(nn.Linear, inputs, outputs)


def weight(*shape):
    return lambda: nn.Parameter(torch.randn(shape))


def mean(x):
    return x.mean((2, 3))


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


# ---------------------------------------------------------------- layers


@sketch({"a": 8, "b": 6}, a=conv(3, 8), n=partial(nn.BatchNorm2d, 8), b=conv(8, 6), fc=linear(6))
def plain(net, x):
    return net.fc(mean(F.relu(net.b(F.relu(net.n(net.a(x)))))))


@sketch({"a": 8}, a=conv(3, 8), d=conv(8, 8, groups=8), fc=linear(8))
def depthwise(net, x):
    return net.fc(mean(net.d(net.a(x))))


@sketch({"a": 4, "b": 3}, a=conv(3, 4), b=conv(4, 12, groups=4), fc=linear(12))
def depthwise_multiplier(net, x):
    return net.fc(mean(net.b(net.a(x))))


@sketch({"a": 4, "a#2": 2, "b": 3}, a=conv(3, 8), b=conv(8, 12, groups=4), fc=linear(12))
def grouped(net, x):
    return net.fc(mean(net.b(net.a(x))))


@sketch(
    {"a": 6, "b": 5},
    example=(2, 2, 4, 4, 4),
    a=partial(nn.Conv3d, 2, 6, 3, padding=1),
    n=partial(nn.BatchNorm3d, 6),
    b=partial(nn.Conv3d, 6, 5, 1),
    fc=linear(5),
)
def conv3d(net, x):
    return net.fc(net.b(F.relu(net.n(net.a(x)))).mean((2, 3, 4)))


@sketch(
    {"a": 8, "b": 6},
    example=(2, 2, 9),
    a=partial(nn.Conv1d, 2, 8, 3),
    b=partial(nn.ConvTranspose1d, 8, 6, 2, stride=2),
    fc=linear(6),
)
def transposed_1d(net, x):
    return net.fc(net.b(net.a(x)).mean(2))


@sketch(
    {"a": 2, "a#2": 4, "b": 3},
    a=conv(3, 8),
    b=partial(nn.ConvTranspose2d, 8, 6, 2, stride=2, groups=2),
    fc=linear(6),
)
def transposed_grouped(net, x):
    return net.fc(mean(net.b(net.a(x))))


@sketch(
    {"e": 8, "a": 6},
    example=lambda: torch.randint(0, 10, (2, 5)),
    e=partial(nn.Embedding, 10, 8),
    a=linear(8, 6),
    fc=linear(6),
    locked={"fc.weight": "network output"},
)
def embedding(net, x):
    return net.fc(F.relu(net.a(net.e(x))).mean(1))


@sketch({"a": 8, "w": 5}, example=(2, 6), a=linear(6, 8), b=weight(5), w=weight(8, 5), fc=linear(5))
def addmm(net, x):
    return net.fc(torch.addmm(net.b, net.a(x), net.w))


@sketch({"a": 8, "w": 6}, a=conv(3, 8), w=weight(6, 8), fc=linear(6))
def einsum(net, x):
    return net.fc(torch.einsum("nchw,kc->nk", net.a(x), net.w))


@sketch({"stem": 6}, stem=conv(3, 6), twice=conv(6, 6), fc=linear(6))
def module_used_twice(net, x):
    return net.fc(mean(net.twice(F.relu(net.twice(net.stem(x))))))


@sketch({"a": 8}, example=(2, 6), a=linear(6, 8), fc=linear(6))
def weight_tied_to_its_transpose(net, x):
    return net.fc(F.linear(F.relu(net.a(x)), net.a.weight.t()))


@sketch(
    {"a": 8},
    a=conv(3, 8),
    unread=conv(3, 8),
    fc=linear(8),
    locked={"unread.weight": "not read in eval mode"},
)
def layer_of_training_alone(net, x):
    y = net.a(x)
    if net.training:
        y = y + net.unread(x)
    return net.fc(mean(y))


# ---------------------------------------------------------------- norms


@sketch({"a": 8}, a=conv(3, 8), n=partial(nn.InstanceNorm2d, 8, affine=True), fc=linear(8))
def instance_norm(net, x):
    return net.fc(mean(F.relu(net.n(net.a(x)))))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6), inexact={"a"})
def standardised_weight(net, x):
    kernel = net.b.weight
    flat = F.batch_norm(kernel.reshape(1, kernel.shape[0], -1), None, None, training=True)
    return net.fc(mean(F.conv2d(net.a(x), flat.reshape_as(kernel))))


@sketch(
    {"a": 4, "a#2": 2},
    inexact=("a#2",),
    a=conv(3, 8),
    n=partial(nn.GroupNorm, 4, 8),
    fc=linear(8),
)
def group_norm(net, x):
    return net.fc(mean(F.relu(net.n(net.a(x)))))


@sketch({"a": 8}, inexact=("a",), a=conv(3, 8), n=partial(nn.GroupNorm, 1, 8), fc=linear(8))
def group_norm_of_one_group(net, x):
    return net.fc(mean(F.relu(net.n(net.a(x)))))


@sketch(
    {"a": 8},
    example=(2, 6),
    inexact=("a",),
    a=linear(6, 8),
    n=partial(nn.LayerNorm, 8),
    fc=linear(8),
)
def layer_norm(net, x):
    return net.fc(net.n(net.a(x)))


@sketch({"a": 8}, inexact=("a",), a=conv(3, 8), n=partial(nn.LayerNorm, [8, 8, 8]), fc=linear(8))
def layer_norm_over_a_map(net, x):
    return net.fc(mean(net.n(net.a(x))))


@sketch(
    {"a": 8}, example=(2, 6), inexact=("a",), a=linear(6, 8), n=partial(nn.RMSNorm, 8), fc=linear(8)
)
def rms_norm(net, x):
    return net.fc(net.n(net.a(x)))


@sketch(
    {"a.parametrizations.weight.original1": 8, "b.parametrizations.weight.original1": 6},
    inexact=("a.parametrizations.weight.original1",),
    a=lambda: nn.utils.parametrizations.weight_norm(conv(3, 8)()),
    b=lambda: nn.utils.parametrizations.weight_norm(conv(8, 6)()),
    fc=linear(6),
)
def weight_norm(net, x):
    return net.fc(mean(net.b(F.relu(net.a(x)))))


@sketch({"a": 8}, inexact=("a",), a=conv(3, 8), fc=linear(8))
def centred_over_channels(net, x):
    y = net.a(x)
    return net.fc(mean((y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1)))


@sketch({"a": 8}, inexact=("a",), a=conv(3, 8), gate=conv(2, 1, 7), fc=linear(8))
def gated_by_channel_statistics(net, x):
    y = net.a(x)
    seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return net.fc(mean(y * torch.sigmoid(net.gate(seen))))


# ---------------------------------------------------------------- branches


@sketch({"a": 8, "b": 6}, streams=("a",), a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), fc=linear(8))
def residual(net, x):
    y = net.a(x)
    return net.fc(mean(y + net.c(F.relu(net.b(y)))))


@sketch(
    {"a": 4, "b": 8, "c": 4},
    streams=("a", "c"),
    a=conv(3, 4),
    b=conv(4, 8),
    c=conv(8, 8),
    fc=linear(8),
)
def residual_padded(net, x):
    y = net.a(x)
    padded = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return net.fc(mean(padded + net.c(F.relu(net.b(y)))[:, :, ::2, ::2]))


@sketch({"a": 6, "b": 4}, a=conv(3, 6), b=conv(6, 4), n=partial(nn.BatchNorm2d, 10), fc=linear(10))
def concat(net, x):
    y = net.a(x)
    return net.fc(mean(net.n(torch.cat([y, net.b(y)], dim=-3))))


@sketch({"a": 8, "q": 4}, a=conv(3, 8), q=linear(8, 4), e=linear(4, 8), fc=linear(8))
def squeeze_and_excitation(net, x):
    y = net.a(x)
    return net.fc(mean(y * torch.sigmoid(net.e(F.relu(net.q(mean(y)))))[:, :, None, None]))


@sketch({"a": 8}, a=conv(3, 8), s=weight(1, 8, 1, 1), fc=linear(8))
def broadcast_parameter(net, x):
    y = net.a(x)
    return net.fc(mean(torch.where(y > 0, y, net.s * y)))


@sketch({"a": 8}, a=conv(3, 8), mu=lambda: torch.randn(1, 8, 1, 1), fc=linear(8))
def broadcast_buffer(net, x):
    return net.fc(mean(F.relu(net.a(x) - net.mu)))


@sketch({"a": 8, "w": 5}, a=conv(3, 8), w=weight(1, 8, 5, 1, 1), fc=linear(5))
def broadcast_over_a_new_axis(net, x):
    return net.fc(mean((net.a(x).unsqueeze(2) * net.w).sum(1)))


@sketch(
    {"a": 8},
    streams=("a",),
    a=conv(3, 8),
    b=conv(2, 8),
    fc=linear(8),
    example=lambda: (torch.randn(IMAGE), torch.randn(2, 2, 8, 8)),
)
def two_inputs_and_outputs(net, x, y):
    z = F.relu(net.a(x) + net.b(y))
    return {"logits": net.fc(mean(z)), "echo": y * 2}


@sketch(
    {"a": 8},
    a=conv(3, 8),
    fc=linear(8),
    example=lambda: {"x": torch.randn(IMAGE), "scale": torch.randn(2, 1, 1, 1)},
)
def keyword_inputs(net, x, scale):
    return net.fc(mean(F.relu(net.a(x) * scale)))


@sketch(
    {"a": 8},
    a=conv(3, 8),
    fc=linear(8),
    example=lambda: (torch.randn(IMAGE), 2.0, None, torch.tensor(0.5)),
)
def plain_and_absent_inputs(net, x, factor, mask, shift):
    y = net.a(x) if mask is None else net.a(x * mask)
    return net.fc(mean(F.relu(y * factor + shift)))


# ---------------------------------------------------------------- movement


@sketch({"a": 3, "a#2": 5, "b": 3}, a=conv(3, 8), b=conv(3, 3), fc=linear(8))
def split_by_sizes(net, x):
    left, right = torch.split(net.a(x), [3, 5], dim=-3)
    return net.fc(mean(torch.cat([net.b(left), right], 1)))


@sketch({"a": 3, "a#2": 3, "a#3": 2, "b": 3}, a=conv(3, 8), b=conv(3, 3), fc=linear(8))
def chunks_of_unequal_size(net, x):
    one, two, three = net.a(x).chunk(3, 1)
    return net.fc(mean(torch.cat([net.b(one), two, three], 1)))


@sketch({"a": 3, "a#2": 5, "b": 3}, a=conv(3, 8), b=conv(3, 3), fc=linear(8))
def tensor_split(net, x):
    left, right = torch.tensor_split(net.a(x), (3,), 1)
    return net.fc(mean(torch.cat([net.b(left), right], 1)))


@sketch({"a": 2, "a#2": 6, "b": 6}, a=conv(3, 8), b=conv(6, 6), fc=linear(6))
def slice_from_the_end(net, x):
    return net.fc(mean(net.b(net.a(x)[:, -6:])))


@sketch({"a": 4, "a#2": 4}, a=conv(3, 8), fc=linear(4))
def narrow_counted_from_the_end(net, x):
    return net.fc(mean(net.a(x).narrow(-3, -6, 4)))


@sketch({"a": 4, "a#2": 4}, a=conv(3, 8), fc=linear(8))
def one_half_written_in_place(net, x):
    y = net.a(x)
    y[:, :4] = 0.5
    return net.fc(mean(F.relu_(y)))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def in_place_ops(net, x):
    return net.fc(mean(net.b(net.a(x).relu_()).add_(1.0).clamp_(0, 6)))


@sketch(
    {"a": 2, "a#2": 4, "b": 4},
    a=conv(3, 8),
    b=conv(8, 8, groups=2),
    c=conv(8, 8, groups=8),
    fc=linear(8),
)
def shuffle_by_views(net, x):
    return net.fc(mean(net.c(shuffled(net.b(net.a(x)), 2))))


@sketch(
    {"a": 2, "a#2": 4, "c": 6},
    a=conv(3, 8),
    s=partial(nn.ChannelShuffle, 2),
    c=conv(8, 6),
    fc=linear(6),
)
def shuffle_by_module(net, x):
    return net.fc(mean(net.c(net.s(net.a(x)))))


@sketch({"a": 2, "a#2": 4, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def unflatten(net, x):
    return net.fc(mean(net.b(net.a(x).unflatten(-3, (2, 4)).transpose(1, 2).flatten(1, 2))))


@sketch({"a": 8}, a=conv(3, 8), fc=linear(32))
def flatten_to_linear(net, x):
    return net.fc(F.max_pool2d(net.a(x), 4).flatten(1))


@sketch({"a": 8}, a=conv(3, 8), fc=linear(8))
def squeezed_without_an_axis(net, x):
    return net.fc(F.adaptive_avg_pool2d(net.a(x), 1).squeeze())


@sketch({"a": 8, "b": 4}, a=conv(3, 8), b=conv(8, 4, 1), fc=linear(4))
def squeezed_where_there_is_more_than_one(net, x):
    return net.fc(mean(net.b(net.a(x).squeeze(1))))


@sketch({"a": 8}, a=conv(3, 8), fc=linear(32))
def view_with_a_constant(net, x):
    return net.fc(F.max_pool2d(net.a(x), 4).view(-1, 32))


@sketch({"a": 4, "b": 6}, a=conv(3, 16), s=partial(nn.PixelShuffle, 2), b=conv(4, 6), fc=linear(6))
def pixel_shuffle(net, x):
    return net.fc(mean(net.b(net.s(net.a(x)))))


@sketch(
    {"a": 4, "b": 6}, a=conv(3, 4), s=partial(nn.PixelUnshuffle, 2), b=conv(16, 6), fc=linear(6)
)
def pixel_unshuffle(net, x):
    return net.fc(mean(net.b(net.s(net.a(x)))))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def spatial_padding(net, x):
    return net.fc(mean(net.b(F.pad(net.a(x), (1, 1, 1, 1), mode="reflect"))))


@sketch({"a": 8, "b": 6, "b#2": 4}, a=conv(3, 8), b=conv(12, 6), fc=linear(6))
def channels_padded_by_a_value(net, x):
    return net.fc(mean(net.b(F.pad(net.a(x), (0, 0, 0, 0, 2, 2), value=1.5))))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def upsampling(net, x):
    large = F.interpolate(net.a(x), scale_factor=2, mode="bilinear", align_corners=False)
    return net.fc(mean(net.b(F.interpolate(large, size=(5, 5)))))


@sketch({"a": 8}, a=conv(3, 8), fc=linear(8))
def pooling(net, x):
    y = F.avg_pool2d(F.max_pool2d(net.a(x), 2), 2)
    return net.fc(F.adaptive_max_pool2d(y, 1).flatten(1))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(16, 6), fc=linear(6))
def channels_repeated(net, x):
    return net.fc(mean(net.b(net.a(x).repeat(1, 2, 1, 1))))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), g=weight(8), b=conv(8, 6), fc=linear(6))
def expand_with_minus_one(net, x):
    return net.fc(mean(net.b(net.a(x) * net.g.view(1, -1, 1, 1).expand(x.shape[0], -1, -1, -1))))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def made_of_one_value(net, x):
    y = net.a(x)
    return net.fc(mean(net.b(y + y.new_full((y.shape[0], 8, 1, 1), 2.0))))


@sketch({"a": 4}, a=conv(3, 8), fc=linear(4))
def glu(net, x):
    return net.fc(mean(F.glu(net.a(x), 1)))


@sketch({"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6))
def flip(net, x):
    return net.fc(mean(net.b(torch.flip(net.a(x), (1,)))))


@sketch({"a": 4, "l": 6}, a=conv(3, 4), l=linear(16, 6), fc=linear(6))
def unfold(net, x):
    return net.fc(net.l(F.unfold(net.a(x), 2, stride=2).transpose(1, 2)).mean(1))


@sketch({"a": 4}, example=(2, 5, 6), a=linear(6, 8), fc=linear(8, 3), angle=weight(4))
def turned_as_complex_numbers(net, x):
    pairs = torch.view_as_complex(net.a(x).unflatten(-1, (-1, 2)))
    turns = torch.polar(torch.ones_like(net.angle), net.angle)
    return net.fc(torch.view_as_real(pairs * turns).flatten(-2))


# ---------------------------------------------------------------- chosen among


@sketch({"a": 8}, a=conv(3, 8), fc=linear(8), inexact={"a"})
def softmax_over_channels(net, x):
    return net.fc(mean(net.a(x).softmax(1)))


@sketch({"a": 8}, a=conv(3, 8), fc=linear(64), inexact={"a"})
def maximum_over_channels(net, x):
    return net.fc(net.a(x).max(1).values.flatten(1))


# ---------------------------------------------------------------- left alone


@sketch({}, a=conv(3, 8), fc=linear(8), locked={"a.weight": "sort over it"})
def sort_over_channels(net, x):
    return net.fc(mean(net.a(x).sort(1).values))


@sketch({}, a=conv(3, 8), fc=linear(64), locked={"a.weight": "cdist has no rule"})
def op_without_a_rule(net, x):
    rows = net.a(x).flatten(2)
    return net.fc(torch.cdist(rows, rows).flatten(1))


@sketch({}, a=conv(3, 8), fc=linear(64), locked={"a.weight": "logsumexp over it"})
def sum_in_logarithms_over_channels(net, x):
    return net.fc(torch.logsumexp(net.a(x), 1).flatten(1))


@sketch({"b": 6}, a=conv(3, 8), b=conv(8, 6), fc=linear(6), locked={"a.weight": "roll"})
def roll(net, x):
    return net.fc(mean(net.b(torch.roll(net.a(x), 1, 1))))


@sketch({}, a=conv(3, 8), fc=linear(4), locked={"a.weight": "index with a constant index"})
def constant_index(net, x):
    return net.fc(mean(net.a(x)[:, [0, 2, 4, 6]]))


@sketch({}, a=conv(3, 8), fc=linear(8), locked={"a.weight": "mul meets what never changes"})
def constant_per_channel(net, x):
    return net.fc(mean(net.a(x) * torch.arange(8.0).view(1, 8, 1, 1)))


SEQUENCE = (2, 5, 8)


@sketch(
    {"r.weight_ih_l0": 6},
    example=SEQUENCE,
    r=partial(nn.LSTM, 8, 6, batch_first=True),
    fc=linear(6),
)
def recurrent(net, x):
    return net.fc(net.r(x)[0].mean(1))


@sketch(
    {"a": 7, "r.weight_ih_l0": 6},
    example=SEQUENCE,
    a=partial(nn.Linear, 8, 7),
    r=partial(nn.GRU, 7, 6, num_layers=2, bidirectional=True, batch_first=True),
    fc=linear(12),
)
def recurrent_layers_in_both_directions(net, x):
    return net.fc(net.r(net.a(x))[0][:, -1])


@sketch(
    {"r.weight_hh_l0": 4},
    example=(5, 2, 8),
    locked={"r.weight_ih_l0": "lstm with projections"},
    r=partial(nn.LSTM, 8, 6, num_layers=2, proj_size=4),
    fc=linear(4),
    read=linear(6),
)
def recurrent_with_projections_and_states_read(net, x):
    out, (hidden, cells) = net.r(x)
    return net.fc(out[-1]) + net.fc(hidden[0]) + net.read(cells[-1])


@sketch(
    {"r.weight_ih_l0": 6},
    example=SEQUENCE,
    r=partial(nn.RNN, 8, 6, nonlinearity="relu", bias=False, batch_first=True),
    fc=linear(6),
)
def plain_recurrence(net, x):
    return net.fc(net.r(x)[0].mean(1))


@sketch(
    {},
    example=lambda: (torch.randn(SEQUENCE), torch.randn(1, 2, 6)),
    r=partial(nn.GRU, 8, 6, batch_first=True),
    fc=linear(6),
    locked={"r.weight_ih_l0": "network input"},
)
def recurrence_from_a_state_that_is_given(net, x, state):
    return net.fc(net.r(x, state)[0].mean(1))


@sketch(
    {"c.weight_ih": 6},
    example=SEQUENCE,
    c=partial(nn.LSTMCell, 8, 6),
    fc=linear(6),
)
def cells_in_a_loop(net, x):
    hidden = cells = x.new_zeros(len(x), net.c.hidden_size)
    for step in range(x.shape[1]):
        hidden, cells = net.c(x[:, step], (hidden, cells))
    return net.fc(hidden)


@sketch({"c.weight_ih": 6}, example=SEQUENCE, c=partial(nn.GRUCell, 8, 6), fc=linear(6))
def gated_cells(net, x):
    hidden = net.c(x[:, 0])
    return net.fc(net.c(x[:, 1], hidden))


# ---------------------------------------------------------------- sequences


@sketch(
    {"q": 2, "q#2": 2, "q#3": 4, "v": 4},
    example=SEQUENCE,
    q=linear(8, 16),
    k=linear(8, 8),
    v=linear(8, 8),
    fc=linear(16),
)
def query_heads_that_share_keys(net, x):
    q, k, v = (
        part(x).view(*x.shape[:2], heads, 4).transpose(1, 2)
        for part, heads in ((net.q, 4), (net.k, 2), (net.v, 2))
    )
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return net.fc(y.transpose(1, 2).flatten(2).mean(1))


@sketch({"a": 6}, example=SEQUENCE, a=linear(8, 6), fc=linear(6))
def product_with_an_ellipsis(net, x):
    y = net.a(x)
    return net.fc(torch.einsum("...i,...i->...i", y, y).mean(1))


@sketch({"a": 6}, example=SEQUENCE, a=linear(8, 6), fc=linear(6), inexact={"a"})
def moments_over_channels(net, x):
    y = net.a(x)
    variance, mean_ = torch.var_mean(y, -1, keepdim=True)
    return net.fc(((y - mean_) / (variance + 1).sqrt()).mean(1))


@sketch({"a": 6}, example=SEQUENCE, a=linear(8, 6), fc=linear(6))
def spectrum_along_time(net, x):
    return net.fc(torch.fft.fft(net.a(x), dim=1).real.sum(1))


@sketch(
    {"a": 4, "b": 6},
    example=SEQUENCE,
    streams={"a"},
    a=partial(nn.Linear, 8, 8),
    b=partial(nn.Linear, 8, 6),
    fc=linear(6),
)
def every_second_channel_turned_against_its_neighbour(net, x):
    y = net.a(x)
    first, second = y[..., ::2], y[..., 1::2]
    turned = torch.stack([first - second, first + second], -1).flatten(-2)
    return net.fc(net.b(turned).mean(1))

"""Quantized networks in integers: what the reference computes is what the simulation says."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.codegen.build import run_compiler
from penjing.codegen.int8 import compile_integers
from penjing.errors import ExportError, InputError, StrategyError
from penjing.graph.capture import capture
from penjing.quantization.lowering import integers
from penjing.quantization.module import QuantizedModule
from penjing.quantization.ptq import quantize_program
from penjing.quantization.reference import execute, run
from penjing.task import Calibration


class Residual(nn.Module):
    """Convolutions, a residual, a gate, pools and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.Hardswish())
        self.gate = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.wide = nn.Conv2d(16, 10, 1)
        self.head = nn.Linear(10 * 9, 5)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu6(x + self.body(x))
        x = self.deep(x)
        x = x * self.gate(F.adaptive_avg_pool2d(x, 1))
        x = self.wide(torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1))
        return self.head(F.max_pool2d(x, 2).flatten(1)).softmax(1)


class Sequence(nn.Module):
    """Convolutions over time, then linear layers on every step."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 5, stride=2, padding=2)
        self.depth = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.linear = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.depth(F.relu(self.conv(x))))
        return self.head(torch.tanh(self.linear(x.transpose(1, 2))).mean(1))


class OptionA(nn.Module):
    """A shortcut that subsamples and pads channels, as in residual networks for CIFAR."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        return F.relu(shortcut + self.second(F.relu(self.first(x))))


class Encoder(nn.Module):
    """Attention with two heads, norms, a stored position and a token that is selected."""

    def __init__(self):
        super().__init__()
        self.mixed, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x):
        x = x + self.position
        batch, length, width = x.shape
        parts = self.mixed(self.norm(x)).view(batch, length, 3, width).unbind(2)
        q, k, v = (p.view(batch, length, 2, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.out(mixed.reshape(batch, length, width))
        return self.head(self.last(x)[:, 0])


class Causal(nn.Module):
    """Attention that looks back, attention that sees only neighbours, and RMS norms."""

    def __init__(self):
        super().__init__()
        self.mixed, self.again, self.head = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(8, 3)
        self.norm, self.plain = nn.RMSNorm(8), nn.RMSNorm(8, elementwise_affine=False)
        near = torch.arange(6)[:, None] - torch.arange(6)
        self.register_buffer("near", near.abs() <= 1)

    def forward(self, x):
        q, k, v = self.mixed(self.norm(x)).chunk(3, 2)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        q, k, v = (
            p.unflatten(2, (2, 4)).transpose(1, 2) for p in self.again(self.plain(x)).chunk(3, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.near)
        return self.head(y.transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    """Transposed convolutions, resizing, and moves between them."""

    def __init__(self):
        super().__init__()
        self.down, self.mix = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(9, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1)
        self.wide = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, groups=2)

    def forward(self, x):
        y = self.mix(torch.cat([F.relu(self.up(F.relu(self.down(x)))), x], 1))
        one, other = F.channel_shuffle(y, 2).chunk(2, 1)
        y = F.interpolate(one - other, scale_factor=2).flip(2)
        y = F.interpolate(y, size=(7, 9), mode="bilinear", align_corners=False)
        y = self.wide(y)
        return torch.cat([y, y], 2)


def quantized(model, example):
    return quantize_program(capture(model.eval(), example), Calibration.of(example))


CASES = {
    "residual": (Residual, (8, 3, 15, 15)),
    "sequence": (Sequence, (8, 4, 20)),
    "option A": (OptionA, (8, 3, 9, 9)),
    "attention": (Encoder, (8, 5, 8)),
    "masks": (Causal, (8, 6, 8)),
    "decoder": (Decoder, (4, 3, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)), (8, 9)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    make, shape = CASES[request.param]
    torch.manual_seed(0)
    x = torch.randn(shape)
    return quantized(make(), x), x


def test_the_reference_is_within_two_steps_of_the_simulation(case):
    """Where a sum lies just between two integers, layers may differ by one step each."""
    network, x = case
    net = integers(network)
    found = run(net, x.numpy())[0]
    step = net.tensors[net.outputs[0]].scale
    assert np.abs(found - QuantizedModule(network)(x).numpy()).max() <= 2.01 * step


def test_the_program_gives_the_bits_of_the_reference(case):
    network, x = case
    net = integers(network)
    np.testing.assert_array_equal(compile_integers(net)(x.numpy()), run(net, x.numpy())[0])


def test_a_position_that_is_hidden_has_no_share():
    """Changing the last step of a sequence leaves what was before it as it is."""
    torch.manual_seed(0)
    x = torch.randn(8, 6, 8)
    network = quantized(Causal(), x)
    net, other = integers(network), x.clone()
    other[:, -1] = 0
    one, two = (
        execute(net, net.tensors[net.inputs[0]].quantize(v.numpy())[:, None]) for v in (x, other)
    )
    name = next(la.output for la in net.layers if la.kind == "softmax")
    assert (one[name][..., :-1, :] == two[name][..., :-1, :]).all()


def test_zeros_around_an_image_are_fused_with_the_convolution():
    x = torch.randn(4, 3, 8, 8)
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3))
    assert [la.kind for la in integers(quantized(model, x)).layers] == ["conv"]


def test_a_channel_with_a_bias_far_above_its_weights_still_fits_32_bits():
    model, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 6, 6)
    with torch.no_grad():
        model.weight[1] *= 1e-12
        model.bias[1] = 1.0
    network = quantized(model, x)
    found = run(integers(network), x.numpy())[0]
    assert np.abs(found[:, 1] - 1.0).max() < 0.05


@pytest.mark.parametrize(
    ("options", "text"),
    [({"divisor_override": 3}, "divisor"), ({"ceil_mode": True, "padding": 1}, "ceil_mode")],
)
def test_a_pool_that_no_kernel_computes_is_refused(options, text):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(3, 2, **options)).eval()
    x = torch.randn(8, 3, 6, 6)
    with pytest.raises(ExportError, match=text):
        integers(pj.quantize(net, x[:1], calibration=[x]).model.network)


def test_an_op_without_an_integer_form_is_refused_with_its_line_and_the_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.cumsum(self.conv(x), 1)

    network = quantized(Odd(), torch.randn(4, 3, 6, 6))
    with pytest.raises(ExportError, match=r"cumsum.*test_integer_lowering.py.*no integer form"):
        integers(network)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.MaxPool2d(2, dilation=2), r"max_pool2d.*\(pooling.py:\d+\).*dilated"),
        (nn.AdaptiveAvgPool2d(4), r"adaptive_avg_pool2d.*differ in size, from 6x6 to 4x4"),
        (nn.AdaptiveMaxPool2d(4), r"adaptive_max_pool2d.*differ in size, from 6x6 to 4x4"),
    ],
)
def test_a_pool_of_unlike_windows_is_refused_with_its_line(model, text):
    network = quantized(nn.Sequential(nn.Conv2d(3, 4, 1), model), torch.randn(4, 3, 6, 6))
    with pytest.raises(ExportError, match=text):
        integers(network)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_that_are_not_finite_are_refused_by_name(part):
    network = quantized(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(4, 3, 6, 6))
    with torch.no_grad():
        network.program.tensors[f"0.{part}"].view(-1)[1] = torch.nan
    with pytest.raises(ExportError, match=rf"conv2d.*'0\.{part}' holds .* NaN or infinite"):
        integers(network)


def test_quantizing_refuses_weights_that_are_not_finite():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        model[0].weight[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"'0\.weight' holds 1 of 108 values that are NaN"):
        pj.quantize(model, x, calibration=x)


def test_an_average_with_its_own_divisor_is_refused():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return F.avg_pool2d(self.conv(x), 2, divisor_override=1)

    network = quantized(Sums(), torch.randn(4, 3, 6, 6))
    with pytest.raises(ExportError, match=r"avg_pool2d.*divisor of its own"):
        integers(network)


def test_compile_makes_integers_of_a_quantized_network(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 9)
    model = QuantizedModule(quantized(CASES["linear"][0](), x))
    program = pj.compile(model, x, out=tmp_path)
    np.testing.assert_array_equal(program(x).numpy(), run(program.net, x.numpy())[0])


@pytest.fixture(scope="module")
def small():
    """A quantized network with its inputs."""
    torch.manual_seed(0)
    x = torch.randn(8, 9)
    return QuantizedModule(quantized(CASES["linear"][0](), x)), x


def test_two_integer_programs_of_different_names_link_into_one(small, tmp_path):
    for name in ("kws", "vww"):
        pj.compile(*small, out=tmp_path, name=name)
    calls = "".join(
        f"static signed char {n}[{n.upper()}_ARENA_BYTES] __attribute__((aligned(8)));"
        for n in ("kws", "vww")
    )
    (tmp_path / "both.c").write_text(
        f'#include "kws.h"\n#include "vww.h"\n{calls}\n'
        "int main(void) { kws_run(kws); vww_run(vww); return 0; }\n"
    )
    assert run_compiler(["cc", "both.c", "kws.c", "vww.c", "-o", "both"], tmp_path) == ""


def test_the_files_of_a_named_integer_program_say_nothing_of_another_name(small):
    files = pj.compile(*small, name="kws").files
    assert not [n for n, text in files.items() if "net_run" in text or "NET_" in n + text]


def test_the_folder_of_a_named_integer_program_checks_itself(small, tmp_path):
    pj.compile(*small, out=tmp_path, name="kws")
    done = subprocess.run(
        ["make", "check", "CFLAGS=-O1 -std=c99"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "penjing: equal yes" in done.stdout


def test_measure_reports_the_memory_that_an_integer_program_has(small):
    program = pj.compile(*small)
    figures = pj.measure(*small, runtime="c", n=1)
    assert (figures.ram_bytes, figures.size_bytes) == (program.arena_bytes, program.flash_bytes)


def test_the_table_of_an_integer_program_has_nonzeros_and_encodings(small):
    headings, first, *_ = pj.compile(*small).table.splitlines()
    assert headings.split() == ["layer", "kernel", "nonzeros", "bytes", "encoding"]
    assert first.endswith("dense")


@pytest.mark.parametrize("kind", [torch.float64, torch.uint8])
def test_an_integer_program_takes_float32_only(small, kind):
    model, x = small
    with pytest.raises(InputError, match=f"{str(kind).removeprefix('torch.')}.*float32"):
        pj.compile(model, x)(x.to(kind))


def test_an_integer_program_refuses_what_it_cannot_be():
    x = torch.randn(8, 9)
    model = QuantizedModule(quantized(CASES["linear"][0](), x))
    with pytest.raises(StrategyError, match="one sample after the other"):
        pj.compile(model, x, batch=8)


class Blind(nn.Module):
    """Attention in which one query sees nothing, for which torch answers zeros."""

    def __init__(self):
        super().__init__()
        self.mixed, seen = nn.Linear(8, 24), torch.ones(6, 6, dtype=torch.bool)
        seen[2] = False
        self.register_buffer("seen", seen)

    def forward(self, x):
        q, k, v = self.mixed(x).chunk(3, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen)


def test_attention_of_a_query_that_sees_nothing_stays_in_floats():
    network = quantized(Blind(), torch.randn(8, 6, 8))
    assert list(network.fallbacks) == ["scaled_dot_product_attention"]


class Spread(nn.Module):
    """The same scores behind several masks."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(8, 6)
        self.register_buffer("hidden", torch.eye(6).bool().expand(3, 6, 6))

    def forward(self, x):
        return self.scores(x)[:, None].masked_fill(self.hidden, -torch.inf).softmax(-1)


def test_a_mask_of_more_positions_than_scores_is_refused():
    with pytest.raises(ExportError, match="its mask has more positions"):
        integers(quantized(Spread(), torch.randn(8, 6, 8)))


def test_a_norm_whose_squares_leave_32_bits_is_refused():
    with pytest.raises(ExportError, match="over 40000 values"):
        integers(quantized(nn.RMSNorm(40000), torch.randn(2, 40000)))

"""Streams of integers: pieces one after the other give the bits that the whole sequence gives."""

from __future__ import annotations

import shutil

import pytest
import torch
from tests.codegen.networks import Calls
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.codegen import emulator
from penjing.codegen.targets import TARGETS
from penjing.errors import (
    ExportError,
    InputError,
    StrategyError,
    UnavailableError,
    VerificationError,
)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

PIECE = (1, 3, 8)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def causal() -> nn.Module:
    def run(first, second, x):
        return second(F.pad(F.relu(first(F.pad(x, (4, 0)))), (2, 0)))

    return Calls(run, nn.Conv1d(3, 8, 3, dilation=2), nn.Conv1d(8, 8, 4, stride=2))


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    layer = kind(3, 8, 2, batch_first=True)
    return Calls(lambda g, f, x: f(g(x.transpose(1, 2))[0]), layer, nn.Linear(8, 3))


NETS = {
    "convolutions": causal,
    "gru": lambda: recurrent(nn.GRU),
    "lstm": lambda: recurrent(nn.LSTM),
    "rnn": lambda: recurrent(nn.RNN),
}


def quantized(model: nn.Module) -> nn.Module:
    return pj.quantize(model.eval(), torch.randn(PIECE), calibration=torch.randn(16, 3, 8)).model


@pytest.mark.parametrize("name", NETS)
def test_pieces_give_the_bits_of_the_whole(name):
    """`compile` compares them with the whole sequence and refuses others; here the floats."""
    torch.manual_seed(0)
    model = NETS[name]()
    program = pj.compile(quantized(model), torch.randn(PIECE), stream_dim=2)
    pieces, stream = [torch.randn(PIECE) for _ in range(3)], program.stream()
    axis = 2 if name == "convolutions" else 1
    got = torch.cat([stream(piece) for piece in pieces], axis)
    want = model.eval()(torch.cat(pieces, 2)).detach()
    assert (got - want).abs().max() <= 0.15 * want.abs().max()


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return pj.compile(quantized(causal()), torch.randn(PIECE), stream_dim=2)


def test_two_streams_do_not_meet(program):
    piece, first, second = torch.randn(PIECE), program.stream(), program.stream()
    first(torch.randn(PIECE))
    assert torch.equal(second(piece), program.stream()(piece))


def test_a_stream_that_is_reset_begins_again(program):
    piece, stream = torch.randn(PIECE), program.stream()
    before = stream(piece)
    stream.reset()
    assert torch.equal(stream(piece), before)


def test_a_stream_is_not_called_without_its_state(program):
    with pytest.raises(StrategyError, match="stream"):
        program(torch.randn(PIECE))


def test_a_stream_takes_one_sample(program):
    with pytest.raises(InputError, match="one sample, 2 were given"):
        program.stream()(torch.randn(2, 3, 8))


def test_the_state_counts_as_memory(program):
    assert program.ram_bytes == program.arena_bytes + program.state_bytes > program.arena_bytes


def test_the_first_piece_is_checked_by_main(program):
    assert program.check().equal


def test_a_board_streams_the_same_bits():
    target = TARGETS["cortex-m4"]
    if emulator.missing(target):
        pytest.skip(emulator.missing(target))
    model, piece = quantized(recurrent(nn.GRU)), torch.randn(PIECE)
    stream = pj.compile(model, piece, target=target, stream_dim=2)
    with pytest.raises(UnavailableError, match="stream"):
        stream.flash()


def test_a_convolution_that_looks_ahead_is_refused():
    model = quantized(nn.Conv1d(3, 4, 3, padding=1))
    with pytest.raises(ExportError, match=r"conv1d \(conv\): padded by \(1, 1\)"):
        pj.compile(model, torch.randn(PIECE), stream_dim=2)


def test_a_mean_over_time_is_refused():
    model = nn.Sequential(causal(), nn.AdaptiveAvgPool1d(1))
    with pytest.raises(VerificationError, match="pool"):
        pj.compile(quantized(model), torch.randn(PIECE), stream_dim=2)


def test_a_network_without_memory_is_refused():
    with pytest.raises(ExportError, match="nothing to stream"):
        pj.compile(quantized(nn.Conv1d(3, 4, 1)), torch.randn(PIECE), stream_dim=2)


def test_samples_on_two_threads_have_the_bits_of_one():
    torch.manual_seed(0)
    model, x = quantized(nn.Conv1d(3, 4, 3)), torch.randn(5, 3, 8)
    one, two = (pj.compile(model, x, threads=n) for n in (1, 2))
    assert torch.equal(one(x), two(x))

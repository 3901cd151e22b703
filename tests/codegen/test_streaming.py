"""Streams: pieces one after the other give what the whole sequence gives."""

from __future__ import annotations

import shutil

import pytest
import torch
from tests.codegen.networks import Calls
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import ExportError, InputError, StrategyError, VerificationError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def gru() -> nn.Module:
    return Calls(lambda g, f, x: f(g(x)[0]), nn.GRU(4, 8, 2, batch_first=True), nn.Linear(8, 3))


def causal() -> nn.Module:
    def run(first, second, x):
        return second(F.pad(F.relu(first(F.pad(x, (4, 0)))), (2, 0)))

    return Calls(run, nn.Conv1d(3, 8, 3, dilation=2), nn.Conv1d(8, 8, 4, stride=2))


@pytest.mark.parametrize(
    ("make", "shape", "dim"),
    [(gru, (1, 5, 4), 1), (causal, (1, 3, 8), 2)],
    ids=["recurrent", "causal convolutions"],
)
def test_pieces_give_what_the_whole_gives(make, shape, dim):
    torch.manual_seed(0)
    network = make().eval()
    pieces = [torch.randn(shape) for _ in range(3)]
    stream = pj.compile(network, pieces[0], stream_dim=dim).stream()
    whole = network(torch.cat(pieces, dim)).detach()
    got = torch.cat([stream(piece) for piece in pieces], dim)
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-5)


def test_two_streams_do_not_meet():
    network, piece = gru().eval(), torch.randn(1, 5, 4)
    program = pj.compile(network, piece, stream_dim=1)
    first, second = program.stream(), program.stream()
    first(torch.randn(1, 5, 4))
    torch.testing.assert_close(second(piece), network(piece).detach(), rtol=1e-5, atol=1e-5)


def test_a_stream_that_is_reset_begins_again():
    piece = torch.randn(1, 5, 4)
    stream = pj.compile(gru().eval(), piece, stream_dim=1).stream()
    before = stream(piece)
    stream.reset()
    assert torch.equal(stream(piece), before)


def test_a_program_with_state_is_not_called_without_it():
    program = pj.compile(gru().eval(), torch.randn(1, 5, 4), stream_dim=1)
    with pytest.raises(StrategyError, match="stream"):
        program(torch.randn(1, 5, 4))


def test_a_piece_of_another_length_is_refused():
    stream = pj.compile(gru().eval(), torch.randn(1, 5, 4), stream_dim=1).stream()
    with pytest.raises(InputError, match="pieces"):
        stream(torch.randn(1, 6, 4))


def test_a_convolution_that_looks_ahead_is_refused():
    with pytest.raises(ExportError, match=r"padded by \(1, 1\)"):
        pj.compile(nn.Conv1d(3, 4, 3, padding=1).eval(), torch.randn(1, 3, 8), stream_dim=2)


def test_pooling_over_time_is_refused():
    network = nn.Sequential(causal(), nn.AdaptiveAvgPool1d(1))
    with pytest.raises(VerificationError, match="pool"):
        pj.compile(network.eval(), torch.randn(1, 3, 8), stream_dim=2)


def test_a_network_without_memory_is_refused():
    with pytest.raises(ExportError, match="nothing to stream"):
        pj.compile(nn.Linear(3, 2).eval(), torch.randn(1, 3), stream_dim=0)

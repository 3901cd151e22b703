"""Patterns: what they mean, where they lie, what they refuse."""

import pytest
import torch

from penjing.errors import StrategyError
from penjing.pruning.patterns import Pattern, Tiling


@pytest.mark.parametrize("name", ["element", "2:4", "1:16", "block:1x8", "block:4x2", "kernel"])
def test_a_pattern_is_read_as_it_is_called(name):
    assert Pattern.parse(name).name == name


@pytest.mark.parametrize("text", ["4:2", "0:4", "block:0x4", "blocks", "2:4:8", ""])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(StrategyError):
        Pattern.parse(text)


@pytest.mark.parametrize("name", ["element", "2:4", "block:1x4", "block:2x4", "kernel"])
@pytest.mark.parametrize(("outputs", "channels"), [(4, 8), (5, 6)])
def test_blocks_of_a_matrix_hold_every_weight_once(name, outputs, channels):
    tiling = Tiling(Pattern.parse(name), 2, outputs, 3, channels)
    weight = torch.rand(2, outputs, 3 * channels) + 1
    blocks = tiling.blocks(weight)
    assert float(tiling.sizes.sum()) == weight.numel() == int((blocks != 0).sum())


def test_a_block_that_goes_takes_consecutive_channels_of_one_tap():
    tiling = Tiling(Pattern.parse("block:2x2"), 1, 4, 2, 4)
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[1, 2] = False
    gone = (~tiling.spread(kept)).nonzero().tolist()
    assert gone == [[0, 2, 4], [0, 2, 5], [0, 3, 4], [0, 3, 5]]


def test_a_kernel_that_goes_takes_one_channel_of_every_tap():
    tiling = Tiling(Pattern.parse("kernel"), 1, 1, 3, 4)
    kept = torch.tensor([[True, False, True, True]])
    assert (~tiling.spread(kept)).nonzero()[:, 2].tolist() == [1, 5, 9]


def test_exactly_n_of_every_m_stay():
    tiling = Tiling(Pattern.parse("2:4"), 1, 3, 2, 8)
    mask = tiling.keep(torch.rand(3, 16), 0.5)
    assert (mask.view(3, 4, 4).sum(2) == 2).all()


def test_a_short_last_run_loses_what_it_lacks_first():
    tiling = Tiling(Pattern.parse("2:4"), 1, 1, 1, 6)
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0, 2.0, 1.0, 0.0, 0.0]])
    assert tiling.keep(scores, 0.5)[0, 0].tolist() == [True, True, False, False, True, True]


def test_no_more_than_the_asked_share_goes():
    tiling = Tiling(Pattern.parse("block:1x4"), 1, 2, 1, 8)
    mask = tiling.keep(torch.rand(2, 2), 0.6)
    assert int((~mask).sum()) == 8

"""Residual branches: which can be removed, and what is left without them."""

import torch
from torch import Tensor, nn

from penjing.graph.blocks import find_blocks, silenced, without
from penjing.graph.capture import Program, capture


class Net(nn.Module):
    """Two branches; `variant` spoils the second."""

    def __init__(self, variant: str = "plain") -> None:
        super().__init__()
        self.variant = variant
        self.first, self.second, self.read = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.way = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.way(x)
        x = x + self.first(x).relu()
        y = self.second(x)
        if self.variant == "read elsewhere":
            return self.read(x + y) + y.mean()
        if self.variant == "two ways":
            return self.read(self.way(x) + y)
        if self.variant == "shared":
            return self.read(x + self.first(x))
        return self.read(x + y)


def captured(variant: str = "plain") -> Program:
    return capture(Net(variant).eval(), torch.randn(3, 4))


def names(variant: str = "plain") -> list[str]:
    return [block.name for block in find_blocks(captured(variant))]


def test_branches_are_named_after_the_layer_that_ends_them() -> None:
    assert names() == ["first", "second"]


def test_a_branch_that_something_else_reads_stays() -> None:
    assert names("read elsewhere") == ["first"]


def test_a_sum_of_two_ways_is_no_block() -> None:
    assert names("two ways") == ["first"]


def test_a_branch_whose_weights_serve_twice_stays() -> None:
    assert names("shared") == []


def test_a_network_without_a_block_is_the_one_whose_block_adds_zero() -> None:
    program, x = captured(), torch.randn(5, 4)
    block = find_blocks(program)[:1]
    torch.testing.assert_close(without(program, block).run([x]), silenced(program, block).run([x]))


def test_the_parameters_of_a_block_are_gone() -> None:
    program = captured()
    left = without(program, find_blocks(program)[:1])
    assert set(program.tensors) - set(left.tensors) == {"first.weight", "first.bias"}

"""Samples in lockstep: the right values, no more memory than allowed, nothing twice."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.errors import InputError
from penjing.graph.capture import capture
from penjing.graph.network import Network
from penjing.statistics.grams import Gram, Rows, layers, patches
from penjing.statistics.stream import MEGABYTE, Stream
from penjing.task import Calibration
from penjing.testing import tiny


class Pyramid(nn.Module):
    """Maps shrink: large ones first."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 3, 4, 1),
            nn.Conv2d(8, 4, 3),
        )

    def forward(self, x):
        return self.third(F.relu(self.second(F.relu(self.first(x)))))


class Constants(nn.Module):
    """A table that depends on stored values alone, and a second input of integers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.out = nn.Linear(4, 2)

    def forward(self, x, index):
        table = self.table.softmax(1).cumsum(0)
        return self.out(x + table[index])


def stream_of(model, inputs, memory_mb=2048.0):
    program = capture(model, inputs[:2] if isinstance(inputs, torch.Tensor) else inputs)
    return Stream([program], Calibration.of([inputs]), memory_mb), program


def gram_at(stream, program, node):
    layer = layers(program)[0][node]
    chunks = stream.advance(node)
    gram = Gram.zeros(1, layer.matrix(program.tensors[layer.weight]).shape[2])
    for chunk in chunks:
        gram.add(Rows(None).inputs(layer, patches(layer, stream.value(chunk, layer.source))))
    return gram


def test_the_end_of_the_stream_is_the_output_of_the_network():
    x = torch.randn(23, 3, 16, 16)
    model = Pyramid()
    stream, _ = stream_of(model, x)
    outputs = [stream.value(chunk, "output")[0] for chunk in stream.advance("output")]
    torch.testing.assert_close(torch.cat(outputs), model(x).detach())


def test_several_inputs_and_constants_give_the_output_of_the_network():
    model, inputs = Constants(), (torch.randn(12, 4), torch.randint(0, 5, (12,)))
    program = capture(model, inputs)
    stream = Stream([program], _Fixed([inputs]), 64)
    outputs = [stream.value(chunk, "output")[0] for chunk in stream.advance("output")]
    torch.testing.assert_close(torch.cat(outputs), model(*inputs).detach())


@dataclasses.dataclass
class _Fixed:
    """Tuples of several inputs as calibration data."""

    data: list

    @property
    def samples(self):
        return sum(len(batch[0]) for batch in self.data)

    def batches(self, size):
        for batch in self.data:
            yield from zip(*(part.split(size) for part in batch), strict=True)


def test_samples_are_held_within_the_memory():
    stream, _ = stream_of(Pyramid(), torch.randn(100, 3, 32, 32), memory_mb=1.0)
    stream.advance("conv2d_1")
    assert stream.peak_bytes <= MEGABYTE


def test_more_samples_are_held_where_maps_are_smaller():
    stream, _ = stream_of(Pyramid(), torch.randn(100, 3, 32, 32), memory_mb=1.0)
    stream.advance("conv2d_1")
    early = stream.held
    stream.advance("conv2d_2")
    assert early < stream.held == 100


def test_widening_gives_the_same_gram_as_holding_everything():
    model, x = Pyramid(), torch.randn(60, 3, 32, 32)
    grams = []
    for memory_mb in (1.0, 2048.0):
        stream, program = stream_of(model, x, memory_mb)
        stream.advance("conv2d_1")
        grams.append(gram_at(stream, program, "conv2d_2").xx)
    torch.testing.assert_close(
        grams[0], grams[1], rtol=1e-5, atol=1e-3
    )  # float32 sums in other pieces


def test_what_no_later_node_reads_is_forgotten():
    stream, _ = stream_of(Pyramid(), torch.randn(10, 3, 16, 16))
    chunk = stream.advance("conv2d_2")[0]
    assert set(chunk.values[0]) == {"relu_1"}


def test_a_second_program_gives_its_own_output():
    network = Network.of(tiny.make("residual"), tiny.example("residual"))
    cut = network.cut(network.plan({g.name: [0] for g in network.groups}))
    x = tiny.example("residual", 4)
    stream = Stream([network.program, cut.program], Calibration.of([x]))
    outputs = [stream.value(chunk, "output", 1)[0] for chunk in stream.advance("output")]
    torch.testing.assert_close(torch.cat(outputs), cut.program.run([x])[0].detach())


def test_replaced_tensors_are_used_from_there_on():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(8, 3)
    stream, _ = stream_of(model, x)
    stream.advance("linear_1")
    stream.replace(0, {"2.weight": torch.zeros(2, 3)})
    outputs = torch.cat([stream.value(c, "output")[0] for c in stream.advance("output")])
    torch.testing.assert_close(outputs, model[2].bias.detach().expand(8, 2))


def test_a_fixed_batch_that_the_data_cannot_fill_is_an_error():
    program = dataclasses.replace(capture(nn.Linear(3, 2), torch.ones(4, 3)), dynamic_batch=False)
    with pytest.raises(InputError, match="fixed batch of 4"):
        Stream([program], Calibration.of([torch.ones(3, 3)]))

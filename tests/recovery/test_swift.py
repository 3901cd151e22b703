"""What gradient steps run computes what the network does, with gradients for all its parameters."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from penjing.graph.capture import capture
from penjing.recovery.swift import Swift

X = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """An addition, a slice and a flattening of a map, whose layout in memory matters."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.last = nn.Linear(6 * 25, 4)

    def forward(self, x):
        x = self.norms[0](self.first(x)).relu()
        return self.last((x + self.norms[1](self.second(x)))[:, :, ::2, ::2].relu().flatten(1))


class Strided(nn.Module):
    """A view that counts in memory."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        x = self.first(x).contiguous()
        return x.as_strided((x.shape[0], 6, 49), (294, 49, 1)).mean(2)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for norm in model.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 2)
    return capture(model.eval().requires_grad_(False), X[:2])


def parameters(program):
    """Fresh values of the parameters, moved off those that are stored."""
    torch.manual_seed(1)
    return {
        name: tensor.detach() + 0.1 * torch.randn_like(tensor)
        for name, tensor in program.tensors.items()
        if name in program.parameters
    }


def gradients(run, values):
    values = {name: tensor.clone().requires_grad_() for name, tensor in values.items()}
    run(values).square().sum().backward()
    return {name: tensor.grad for name, tensor in values.items()}


@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-5), (True, 0.03)])
def test_outputs_are_those_of_the_network(program, bfloat16, tolerance):
    values = parameters(program)
    with torch.no_grad():
        (given,), _ = Swift(program, bfloat16).run([X], (), values)
        (wanted,) = program.run([X], values)
    torch.testing.assert_close(given, wanted, rtol=0, atol=tolerance * float(wanted.std()))


def test_exact_outputs_are_so_in_spite_of_bfloat16(program):
    (given,), _ = Swift(program, True).run([X], (), None, exact=True)
    torch.testing.assert_close(given, program.run([X])[0], rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_network(program):
    values, swift = parameters(program), Swift(program, False)
    given = gradients(lambda new: swift.run([X], (), new)[0][0], values)
    wanted = gradients(lambda new: program.run([X], new)[0], values)
    assert all(torch.allclose(given[name], wanted[name], 1e-3, 1e-3) for name in wanted)


def test_inner_values_are_those_of_the_network(program):
    _, given = Swift(program, False).run([X], ("add",))
    torch.testing.assert_close(given["add"], program.inner([X], ("add",))[1]["add"])


def test_values_behind_a_folded_norm_are_told(program):
    assert Swift(program, False).layers == {"conv2d", "conv2d_1"}


def test_a_network_in_double_precision_stays_in_it(program):
    tensors = {name: tensor.double() for name, tensor in program.tensors.items()}
    double = replace(program, tensors=tensors, example=[v.double() for v in program.example])
    (given,), _ = Swift(double, False).run([X.double()])
    torch.testing.assert_close(given, double.run([X.double()])[0])


def test_views_that_count_in_memory_read_what_they_did():
    torch.manual_seed(0)
    program = capture(Strided().eval().requires_grad_(False), X[:2])
    (given,), _ = Swift(program, bfloat16=False).run([X])
    torch.testing.assert_close(given, program.run([X])[0])


def test_parameters_are_left_without_hooks():
    swift = Swift(capture(nn.Conv2d(3, 6, 3).eval(), X[:2]), bfloat16=False)
    weight = swift.laid(torch.randn(6, 3, 3, 3)).requires_grad_()
    swift.run([X], (), {"weight": weight})
    assert not weight._backward_hooks

"""White coordinates: equal steps in them move a layer's outputs alike, and zeros stay zero."""

import pytest
import torch
from torch import nn

from penjing.graph.capture import capture
from penjing.recovery.white import DAMPING, WhiteAdam, whitened

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(32, 4, 5, 5, generator=torch.Generator().manual_seed(1)).cumsum(3)


def roots(model, x, *names):
    program = capture(model.eval(), x[:2])
    return whitened(program, [[x]], names, len(x))


def test_the_root_is_that_of_the_damped_moments_of_the_inputs():
    torch.manual_seed(0)
    x = X @ torch.randn(6, 6) + 1
    root = roots(nn.Linear(6, 3), x, "weight")["weight"].root[0].double()
    moments = (x.T @ x).double() / len(x)
    mean = moments.diagonal().mean()
    damped = (moments + DAMPING * mean * torch.eye(6)) / ((1 + DAMPING) * mean)
    torch.testing.assert_close(
        root @ damped @ root, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
    ],
    ids=["plain", "grouped", "depthwise", "transposed"],
)
def test_a_gradient_of_coordinates_is_the_derivative_along_them(layer):
    white = roots(layer, IMAGES, "weight")["weight"]
    weight = layer.weight.detach()
    coordinates = torch.zeros_like(white.gradient(weight)).requires_grad_()
    moved = torch.func.functional_call(
        layer, {"weight": weight + white.offset(coordinates)}, (IMAGES,)
    )
    moved.square().sum().backward()
    layer(IMAGES).square().sum().backward()
    torch.testing.assert_close(
        white.gradient(layer.weight.grad), coordinates.grad, rtol=1e-3, atol=0.1
    )


def test_weights_of_two_layers_too_large_ones_and_inputs_that_are_not_finite_are_left_out(
    monkeypatch,
):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.wide, self.last = nn.Linear(6, 6), nn.Linear(6, 9), nn.Linear(9, 2)

        def forward(self, x):
            return self.last(self.wide(self.same(self.same(x))).log())

    monkeypatch.setattr("penjing.recovery.white.LARGEST", 6)
    names = ("same.weight", "wide.weight", "last.weight")
    assert set(roots(Twice(), X, *names)) == {"wide.weight"}
    monkeypatch.setattr("penjing.recovery.white.LARGEST", 9)
    assert set(roots(Twice(), X, *names)) == {"wide.weight"}  # the logarithm of what is below 0


def steps(white, x, wanted, count):
    """Error after some steps of Adam on one linear layer."""
    weight = torch.zeros(1, x.shape[1], requires_grad=True)
    how = roots(nn.Linear(x.shape[1], 1, bias=False), x, "weight") if white else {}
    adam = WhiteAdam({"weight": weight}, how, {"weight": torch.arange(x.shape[1])[None] == 0})
    for _ in range(count):
        (x @ weight.T - wanted).square().mean().backward()
        adam.step(0.05)
    found = weight.detach()
    return found, float((x @ found.T - wanted).square().mean())


def test_steps_in_white_coordinates_come_nearer():
    torch.manual_seed(0)
    x = X @ torch.diag(torch.logspace(0, -2, 6)) @ torch.linalg.qr(torch.randn(6, 6))[0] + 1
    wanted = x[:, 1:] @ torch.randn(5, 1)
    (_, white), (_, plain) = (steps(how, x, wanted, 100) for how in (True, False))
    assert white < 0.2 * plain


def test_zeros_stay_zero_in_white_coordinates():
    weight, _ = steps(True, X, X.sum(1, keepdim=True), 20)
    assert weight[0, 0] == 0
    assert (weight[0, 1:] != 0).all()

"""Patches, matrices and Gram sums against the layers themselves, in float64."""

import pytest
import torch
from torch import nn

from penjing.graph.capture import capture
from penjing.statistics.grams import Gram, Rows, layers, patches

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), (2, 1)), (2, 4, 8, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, 1, 1), (2, 2, 4, 3, 5)),
    "same padding": (lambda: nn.Conv2d(4, 6, (2, 4), padding="same"), (2, 4, 6, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 6, 6)),
    "linear": (lambda: nn.Linear(5, 3), (2, 5)),
    "linear on sequences": (lambda: nn.Linear(5, 3), (2, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (2, 4, 5, 4)),
    "transposed 1d, cropped": (lambda: nn.ConvTranspose1d(4, 6, 2, 3, 2, 0, 1, True, 2), (2, 4, 7)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 0, 0, 2), (2, 4, 5, 4)),
}


def layer_of(name):
    make, shape = LAYERS[name]
    module, x = make().double(), torch.randn(shape, dtype=torch.float64)
    program = capture(module, x)
    (layer,) = layers(program)[0].values()
    return layer, module, x


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_the_matrix_are_the_layer(name):
    layer, module, x = layer_of(name)
    rows = Rows(None)
    out = rows.inputs(layer, patches(layer, x)) @ layer.matrix(module.weight.detach()).mT
    wanted = rows.outputs(layer, module(x).detach())
    bias = module.bias.detach().view(layer.groups, 1, -1)
    torch.testing.assert_close(out + bias, wanted)


@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_survives_the_way_to_a_matrix_and_back(name):
    layer, module, _ = layer_of(name)
    assert torch.equal(layer.tensor(layer.matrix(module.weight)), module.weight)


@pytest.mark.parametrize("name", ["conv2d", "grouped", "linear", "linear on sequences"])
def test_chosen_rows_of_inputs_and_outputs_belong_together(name):
    layer, module, x = layer_of(name)
    view = patches(layer, x)
    lead = view.shape[: view.dim() - len(layer.kernel) - 1]
    rows = Rows.choose(lead, 3, torch.Generator().manual_seed(1))
    out = rows.inputs(layer, view) @ layer.matrix(module.weight.detach()).mT
    wanted = rows.outputs(layer, module(x).detach()) - module.bias.detach().view(
        layer.groups, 1, -1
    )
    torch.testing.assert_close(out, wanted)


def test_rows_are_spread_evenly_over_the_samples():
    rows = Rows.choose((5, 4, 4), 3, torch.Generator().manual_seed(0))
    assert torch.bincount(rows.index[0]).tolist() == [3] * 5


def test_columns_of_a_channel_are_those_that_it_multiplies():
    layer, module, _ = layer_of("conv2d")
    with torch.no_grad():
        module.weight.zero_()
        module.weight[:, 2] = 1
    touched = layer.matrix(module.weight)[0].abs().sum(0).nonzero().flatten().tolist()
    assert sorted(layer.columns([2], 4)) == touched


def test_a_gram_adds_up_over_pieces():
    x, y = torch.randn(1, 9, 4), torch.randn(1, 9, 2)
    whole, parts = Gram.zeros(1, 4, 2), Gram.zeros(1, 4, 2)
    whole.add(x, y)
    parts.add(x[:, :5], y[:, :5])
    parts.add(x[:, 5:], y[:, 5:])
    torch.testing.assert_close(parts.xy, whole.xy, atol=1e-5, rtol=1e-5)  # float32 products


def test_squared_error_is_that_of_the_prediction():
    x, y = (torch.randn(1, 50, n, dtype=torch.float64) for n in (4, 2))
    weight, bias = (torch.randn(*s, dtype=torch.float64) for s in ((1, 2, 4), (1, 2)))
    gram = Gram.zeros(1, 4, 2)
    gram.add(x, y)
    wanted = (x @ weight.mT + bias[:, None] - y).square().sum(1)
    torch.testing.assert_close(gram.squared_error(weight, bias), wanted)


def test_a_computed_weight_is_refused_with_its_reason():
    net = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    found, refused = layers(capture(net, torch.ones(2, 3)))
    assert not found
    assert "computed" in next(iter(refused.values()))

"""Single ops from floats to integers in C: near the floats, and the bits of the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.codegen.networks import Calls
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.codegen.int8 import compile_integers
from penjing.codegen.targets import HOST
from penjing.errors import ExportError, InputError
from penjing.graph.capture import capture
from penjing.quantization.lowering import integers
from penjing.quantization.ptq import quantize_program
from penjing.quantization.reference import run
from penjing.task import Calibration

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def after(*layers: nn.Module, make: nn.Module | None = None) -> nn.Module:
    """Layers behind a convolution, whose results have a grid of their own."""
    return nn.Sequential(nn.Conv2d(3, 4, 1) if make is None else make, *layers)


def slopes(layer: nn.PReLU) -> nn.Module:
    """Slopes of every kind."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 1.5]))
    return layer


def recurrent() -> nn.Module:
    return nn.GRU(16, 6, 2, batch_first=True, bidirectional=True)


class Token(nn.Module):
    """A stored token in front of those of every sample, as vision transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.token = nn.Linear(16, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 6, 8))

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(len(x), -1, -1)
        return torch.cat([token, self.inside(x)], 1) + self.place


class Places(nn.Module):
    """Steps before samples, and a stored number for each."""

    def __init__(self):
        super().__init__()
        self.inside, self.place = nn.Linear(16, 8), nn.Parameter(torch.randn(5, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.transpose(0, 1)) + self.place


def called(function: Callable[..., Tensor], make: nn.Module | None = None) -> nn.Module:
    """A function of what a convolution gives."""
    return Calls(lambda layer, x: function(layer(x)), make or nn.Conv2d(3, 4, 1))


QUICK = replace(HOST, flags=("-O1",))
IMAGE, LINE, VOLUME, STEPS = (4, 3, 6, 8), (4, 3, 9), (4, 2, 5, 6, 7), (4, 5, 16)
VOLUMES = {
    "conv3d": nn.Conv3d(2, 4, (2, 3, 1), stride=(2, 1, 1), padding=(0, 1, 0)),
    "grouped conv3d": nn.Conv3d(2, 6, 3, padding="same", dilation=(2, 1, 1), groups=2),
    "max_pool3d": nn.Sequential(nn.Conv3d(2, 3, 1), nn.MaxPool3d(2, (2, 1, 2), 1)),
    "avg_pool3d": nn.Sequential(nn.Conv3d(2, 3, 1), nn.AvgPool3d((2, 3, 2))),
    "mean of a volume": nn.Sequential(nn.Conv3d(2, 3, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    "zeros around a volume": called(lambda y: F.pad(y, (1, 0, 0, 2, 1, 1)), nn.Conv3d(2, 3, 1)),
}
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{name: (model, VOLUME) for name, model in VOLUMES.items()},
    "adaptive maximum": (after(nn.AdaptiveMaxPool2d((1, 2))), IMAGE),
    "adaptive mean": (after(nn.AdaptiveAvgPool2d((3, 2))), IMAGE),
    "ceil_mode": (after(nn.MaxPool2d(3, 2, ceil_mode=True)), IMAGE),
    "amax": (called(lambda y: y.amax((1, 3))), IMAGE),
    "mean over channels": (called(lambda y: y.mean(1, keepdim=True)), IMAGE),
    "mean over channels that fall away": (called(lambda y: y.mean(1)), IMAGE),
    "mean before a layer": (Calls(lambda c, x: c(x.mean(2)), nn.Conv1d(3, 4, 3)), IMAGE),
    "amax before a layer": (Calls(lambda c, x: c(x.amax(2)), nn.Conv1d(3, 4, 3)), IMAGE),
    "places with the steps first": (Places(), (4, 5, 16)),
    "sum": (called(lambda y: y.sum(-1)), IMAGE),
    "stack": (called(lambda y: torch.stack([y[:, 1:], y[:, :-1]], 2)), IMAGE),
    "roll": (called(lambda y: y.roll(2, 3)), IMAGE),
    "reflection": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    "circle": (nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), LINE),
    "prelu": (after(slopes(nn.PReLU(4))), IMAGE),
    "prelu of one slope": (after(nn.PReLU()), IMAGE),
    "group norm": (after(nn.GroupNorm(2, 4)), IMAGE),
    "instance norm": (after(nn.InstanceNorm1d(4, affine=True), make=nn.Conv1d(3, 4, 2)), LINE),
    "norm over two dimensions": (nn.LayerNorm([6, 8]), IMAGE),
    "all last states": (Calls(lambda g, x: g(x)[1], recurrent()), STEPS),
    "last states, joined": (Calls(lambda g, x: torch.cat([*g(x)[1]], 1), recurrent()), STEPS),
    "steps first": (Calls(lambda g, x: g(x.transpose(1, 2).movedim(1, 0))[0], nn.GRU(3, 6)), LINE),
    "class token": (Token(), STEPS),
    "encoder layer": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), STEPS),
}


@pytest.mark.parametrize("name", CASES)
def test_an_op_gives_the_bits_of_the_reference_near_the_floats(name):
    """Near: within a tenth of the largest value, several times what 8 bits lose here."""
    torch.manual_seed(0)
    model, shape = CASES[name]
    x = torch.randn(shape)
    net = integers(quantize_program(capture(model.eval(), x), Calibration.of(x)))
    want, found = model(x).detach().numpy(), run(net, x.numpy())[0]
    np.testing.assert_array_equal(compile_integers(net, QUICK)(x.numpy()), found)
    assert found.shape == want.shape
    assert np.abs(found - want).max() <= 0.1 * np.abs(want).max()


def test_embeddings_give_the_bits_of_the_reference_near_the_floats():
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)), torch.randint(0, 20, (4, 6))
    net = integers(quantize_program(capture(model.eval(), ids), Calibration.of(ids)))
    want, found = model(ids).detach().numpy(), run(net, ids.numpy())[0]
    np.testing.assert_array_equal(compile_integers(net, QUICK)(ids.numpy()), found)
    assert np.abs(found - want).max() <= 0.1 * np.abs(want).max()


@pytest.fixture(scope="module")
def table():
    """A network that takes numbers."""
    model, ids = nn.Embedding(20, 8).eval(), torch.randint(0, 5, (4, 6))
    return integers(quantize_program(capture(model, ids), Calibration.of(ids)))


@pytest.fixture(scope="module")
def rows(table):
    return compile_integers(table, QUICK)


def test_rows_that_calibration_did_not_show_are_there(rows):
    assert len(np.unique(rows(np.arange(18).reshape(3, 6)).reshape(18, 8), axis=0)) == 18


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (np.full((1, 6), 20), "from 20 to 20.*has 20, 0 to 19"),
        (np.full((1, 6), -1), "from -1"),
        (np.zeros((1, 6), np.float32), "float32; it holds int64"),
    ],
)
def test_numbers_of_no_row_are_refused(rows, ids, text):
    with pytest.raises(InputError, match=text):
        rows(ids)


@pytest.mark.parametrize("number", [20, -1])
def test_the_reference_refuses_numbers_of_no_row_too(table, number):
    with pytest.raises(InputError, match=f"from {number} to {number}; its table has rows 0 to 19"):
        run(table, np.full((1, 6), number))


def test_the_header_says_how_many_numbers_there_are(rows):
    assert "#define NET_INPUT_0_NUMBERS 20" in rows.header


def test_the_program_of_numbers_checks_itself(rows):
    assert rows.check().equal


def test_the_reason_for_floats_is_said_where_they_begin():
    model, x = nn.LSTM(3, 4, batch_first=True).eval(), torch.randn(4, 5, 3)
    network = quantize_program(capture(model, x), Calibration.of(x))
    with pytest.raises(ExportError, match=r"lstm 'lstm' \(.*:\d+\).*cell state is read"):
        integers(network)


@pytest.mark.parametrize(
    "op",
    [
        nn.GroupNorm(1, 3),
        nn.PReLU(3),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
    ids=lambda op: type(op).__name__,
)
def test_frames_that_are_no_samples_are_refused(op):
    model, x = Calls(lambda op, x: op(x.flatten(0, 1)), op), torch.randn(2, 5, 3, 4, 4)
    network = quantize_program(capture(model.eval(), x), Calibration.of(x))
    with pytest.raises(ExportError, match="each of its images is a part of a sample"):
        integers(network)


def test_a_norm_over_the_samples_is_refused():
    model = Calls(lambda norm, x: norm(x.transpose(0, 1)), nn.LayerNorm([3, 2, 6])).eval()
    x = torch.randn(2, 3, 6)
    network = quantize_program(capture(model, x), Calibration.of(x))
    with pytest.raises(ExportError, match="holds the samples"):
        integers(network)


def test_an_input_without_samples_is_refused():
    model, x = nn.Linear(5, 3).eval(), torch.randn(5)
    network = quantize_program(capture(model, x), Calibration.of(torch.randn(5)))
    with pytest.raises(ExportError, match="works on holds the samples"):
        integers(network)


def test_an_encoder_whose_samples_are_not_first_takes_and_gives_them_there():
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(16, 2, 32).eval(), torch.randn(5, 4, 16)
    net = integers(quantize_program(capture(model, x), Calibration.of(x, dims=(1,))))
    want = model(x).detach().numpy()
    assert np.abs(compile_integers(net, QUICK)(x.numpy()) - want).max() <= 0.1 * np.abs(want).max()

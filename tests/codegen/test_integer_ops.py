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
    "sum": (called(lambda y: y.sum(-1)), IMAGE),
    "stack": (called(lambda y: torch.stack([y[:, 1:], y[:, :-1]], 2)), IMAGE),
    "roll": (called(lambda y: y.roll(2, 3)), IMAGE),
    "reflection": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    "circle": (nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), LINE),
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


def test_an_encoder_whose_samples_are_not_first_takes_and_gives_them_there():
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(16, 2, 32).eval(), torch.randn(5, 4, 16)
    net = integers(quantize_program(capture(model, x), Calibration.of(x, dims=(1,))))
    want = model(x).detach().numpy()
    assert np.abs(compile_integers(net, QUICK)(x.numpy()) - want).max() <= 0.1 * np.abs(want).max()

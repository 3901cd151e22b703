"""Files that are no int8 network are refused; fixed-point softmax is TensorFlow Lite's."""

from __future__ import annotations

import numpy as np
import pytest

from penjing.errors import SourceError
from penjing.quantization.integers import IntegerLayer, IntegerNet, IntegerTensor, softmax_scales
from penjing.quantization.reference import execute
from penjing.quantization.tflite import read_tflite

GOLDEN_SCALE = 0.17185351252555847
GOLDEN = (
    [
        [-15, -13, -62, -24, -14, -7, -72, 10, -95, -18],
        [-37, 10, -8, -1, -22, -34, -15, -30, -9, -2],
        [-22, -29, -6, -1, 10, -12, -8, -15, -44, -17],
    ],
    [
        [-125, -124, -128, -127, -124, -116, -128, 102, -128, -126],
        [-128, 57, -120, -100, -127, -128, -125, -128, -121, -104],
        [-127, -128, -116, -99, 67, -124, -119, -125, -128, -126],
    ],
)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a network at all", "no TensorFlow Lite"), (b"\x08\0\0\0TFL3", "damaged")],
)
def test_a_file_that_is_no_network_is_refused(tmp_path, content, message):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_tflite(path)


def test_softmax_gives_the_bits_of_tensorflow_lite():
    """Logits and results of the MLPerf Tiny ResNet-8 in TensorFlow Lite Micro."""
    logits, expected = GOLDEN
    shape = (1, 1, len(logits[0]))
    tensors = {
        "x": IntegerTensor("x", shape, GOLDEN_SCALE, 0, shape[2:], False),
        "y": IntegerTensor("y", shape, 1 / 256, -128, shape[2:], False),
    }
    layer = IntegerLayer("softmax", "softmax", ("x",), "y", softmax_scales(GOLDEN_SCALE))
    net = IntegerNet(("x",), ("y",), (layer,), tensors)
    given = np.array(logits, np.int8).reshape(-1, *shape)
    assert execute(net, given)["y"].reshape(-1, shape[2]).tolist() == expected

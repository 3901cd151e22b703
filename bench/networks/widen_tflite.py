"""An int8 .tflite file with 16-bit activations instead: the same weights, biases of 64 bits.

    PENJING_TFLM_PYTHON widen_tflite.py in.tflite out.tflite

It is run by the Python that has `tflite-micro`, whose schema it uses; see `same_bits.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

INT8, INT16, INT32, INT64 = (
    schema.TensorType.INT8, schema.TensorType.INT16, schema.TensorType.INT32,
    schema.TensorType.INT64,
)  # fmt: skip
SHARE = 2.0**-15  # step of what a softmax gives


def widen(model: schema.ModelT) -> None:
    """Change tensors and biases in place."""
    graph = model.subgraphs[0]
    stored = {i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    before = {i: float(t.quantization.scale[0]) for i, t in enumerate(graph.tensors) if scaled(t)}
    for i, tensor in enumerate(graph.tensors):
        if tensor.type == INT8 and i not in stored:
            grid = tensor.quantization
            zero = int(grid.zeroPoint[0])
            tensor.type, grid.zeroPoint = INT16, [0]
            grid.scale = [float(np.float32(max(128 + zero, 127 - zero) * before[i] / 32767))]
    for op in graph.operators:
        codes = model.operatorCodes[op.opcodeIndex]
        code = max(codes.builtinCode, codes.deprecatedBuiltinCode)
        result = graph.tensors[op.outputs[0]]
        if code == schema.BuiltinOperator.SOFTMAX:
            result.quantization.scale = [SHARE]
        if code in {schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.AVERAGE_POOL_2D}:
            result.quantization.scale = graph.tensors[op.inputs[0]].quantization.scale
    widen_biases(model, graph)


def scaled(tensor: schema.TensorT) -> bool:
    """Whether a tensor has a grid."""
    grid = tensor.quantization
    return grid is not None and grid.scale is not None and len(grid.scale) > 0


def widen_biases(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Biases on the grid of the new sums, in 64 bits."""
    for op in graph.operators:
        inputs = [int(i) for i in op.inputs]
        if len(inputs) < 3 or inputs[2] < 0 or graph.tensors[inputs[2]].type != INT32:
            continue
        source, weight, bias = (graph.tensors[i] for i in inputs)
        raw = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32)
        real = raw * np.asarray(bias.quantization.scale, np.float64)
        step = float(source.quantization.scale[0]) * np.asarray(weight.quantization.scale)
        wide = np.round(real / step).astype(np.int64)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(wide.tobytes(), np.uint8)
        bias.buffer, bias.type = len(model.buffers) - 1, INT64
        bias.quantization.scale = [float(s) for s in np.broadcast_to(step, raw.shape)]
        bias.quantization.zeroPoint = [0] * len(raw)


def main() -> None:
    model = schema.ModelT.InitFromPackedBuf(Path(sys.argv[1]).read_bytes(), 0)
    widen(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    Path(sys.argv[2]).write_bytes(bytes(builder.Output()))


if __name__ == "__main__":
    main()

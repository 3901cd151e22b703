"""Latency of single layers, in place: what ONNX Runtime's profiler says of whole networks.

A layer timed in a session of its own would pay for the session. Here the files of one network, in
floats and in integers, are run whole and in turns, and each node's median is put down to the layer
it computes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from penjing.exporters.session import runtime_errors
from penjing.figures import LayerLatency
from penjing.graph.call import op_name
from penjing.graph.folding import layer_nodes, stored_names
from penjing.latency.onnxruntime import Feeds
from penjing.quantization.network import QuantizedNetwork

RUNS = 30
WARMUP = 5

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FUSED_BEHIND = frozenset({"Add", "BatchNormalization", "Clip", "Relu", "LeakyRelu", "Sigmoid"})
_SUFFIX = re.compile(r"(_nchwc|_token_\d+)+$")
REST = "everything else"


def layer_latencies(
    integers: Path, floats: Path, network: QuantizedNetwork, feeds: Feeds
) -> tuple[LayerLatency, ...]:
    """Milliseconds of every layer in integers and in floats.

    Args:
        integers: File of the network in integers.
        floats: File of the same network in floats.
        network: What `integers` was written from.
        feeds: Inputs of both.

    Returns:
        A row per layer that is found in both files, in the order of the network, and one of
        everything else: other ops, conversions of layouts and of grids.

    Raises:
        ExportError: ONNX Runtime cannot run one of the files.
    """
    of_integers, of_floats = _profiled((integers, floats), feeds)
    mine = _by_layer(of_integers, _integer_names(network))
    theirs = _by_layer(of_floats, _float_names(floats))
    both = [name for name in network.layer_bits if name in mine and name in theirs]
    rows = [LayerLatency(n, theirs[n][1], mine[n][1], mine[n][0]) for n in both]
    spent = [sum(ms for _, ms in side.values()) for side in (theirs, mine)]
    rest = LayerLatency(REST, spent[0], spent[1], "")
    for row in rows:
        left = (rest.floats_ms - row.floats_ms, rest.integers_ms - row.integers_ms)
        rest = replace(rest, floats_ms=left[0], integers_ms=left[1])
    return (*rows, rest)


def _profiled(paths: Sequence[Path], feeds: Feeds) -> list[dict[str, tuple[str, float]]]:
    """Op and median milliseconds of every node of each file; the files are run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = [_profiling(path, Path(folder)) for path in paths]
        own = [{needed.name: feeds[needed.name] for needed in s.get_inputs()} for s in sessions]
        for _ in range(WARMUP + RUNS):
            for path, session, inputs in zip(paths, sessions, own, strict=True):
                with runtime_errors(path):
                    session.run(None, inputs)
        written = [Path(session.end_profiling()).read_text() for session in sessions]
    return [_medians(json.loads(text)) for text in written]


def _profiling(path: Path, folder: Path) -> Any:
    """A session that writes down how long every node takes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / path.stem)
    with runtime_errors(path):
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _medians(events: Sequence[Any]) -> dict[str, tuple[str, float]]:
    """Op and median milliseconds of every node, from the profiler's events."""
    times: dict[str, list[float]] = defaultdict(list)
    ops: dict[str, str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node = name.removesuffix("_kernel_time")
            times[node].append(event["dur"] / 1e3)
            ops[node] = str(event["args"].get("op_name", ""))
    return {node: (ops[node], float(np.median(ms[WARMUP:]))) for node, ms in times.items()}


def _by_layer(
    nodes: Mapping[str, tuple[str, float]], names: Mapping[str, str]
) -> dict[str, tuple[str, float]]:
    """Nodes under the names of their layers; others keep their own."""
    found: dict[str, tuple[str, float]] = {}
    for node, (op, ms) in nodes.items():
        layer = names.get(_SUFFIX.sub("", node), f"node {node}")
        before = found.get(layer, (op, 0.0))
        found[layer] = (before[0], before[1] + ms)
    return found


def _integer_names(network: QuantizedNetwork) -> dict[str, str]:
    """Node of the integer file -> layer: layers are written in the order of the network."""
    found: dict[str, str] = {}
    count: dict[str, int] = defaultdict(int)
    for node in layer_nodes(network.program):
        kind, weight = op_name(node), stored_names(network.program, node).get("weight", "")
        suffix = f"_{count[kind]}" if count[kind] else ""
        found[f"node_{kind}{suffix}"] = weight.rpartition(".")[0]
        count[kind] += 1
    return found


def _float_names(path: Path) -> dict[str, str]:
    """Node or value of the file in floats -> layer whose op ends in it after fusion."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    layer_of: dict[str, str] = {}
    for node in graph.node:
        layer = ""
        if node.op_type in _LAYERS:
            weight = next((n for n in node.input if n in stored and n.endswith(".weight")), "")
            layer = weight.removesuffix(".weight")
        elif node.op_type in _FUSED_BEHIND:
            read = [layer_of[n] for n in node.input if n in layer_of]
            layer = read[0] if len(read) == 1 else ""
        if layer:
            layer_of.update({str(node.name): layer, **dict.fromkeys(node.output, layer)})
    return layer_of

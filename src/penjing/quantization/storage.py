"""Storage: a quantized network as JSON content and packed tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from penjing.decode import decode
from penjing.errors import CaptureError, CheckpointError, InputError
from penjing.graph.call import op_name
from penjing.graph.capture import Example, Program, capture
from penjing.graph.codec import from_json, tensors_of, to_json
from penjing.graph.form import graph_form
from penjing.quantization.formats import Grid
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.packing import PLACES, Integers, read
from penjing.task.randomness import random_kept


def to_storage(network: QuantizedNetwork) -> tuple[Any, Any, dict[str, Tensor]]:
    """Describe a quantized network.

    Args:
        network: The network.

    Returns:
        The folded graph as JSON content, the grids as JSON content, and the tensors by qualified
        name: weights as packed integers, the rest in floats.

    Raises:
        CheckpointError: The graph holds something that the format does not know.
    """
    program = network.program
    form = graph_form(program)
    tensors = dict(tensors_of(form))
    held = {f: Integers.of(network.integers(f), g.bits) for f, g in network.weights.items()}
    for fqn in set(held) & set(tensors):
        tensors[fqn] = held[fqn].values
        if (places := held[fqn].places) is not None:
            tensors[fqn + PLACES] = places
    content = {
        "scheme": network.scheme,
        "nodes": [[n.name, op_name(n)] for n in _computed(program)],
        "inputs": list(program.inputs),
        "activations": {name: grid.to_json() for name, grid in network.activations.items()},
        "weights": {
            fqn: {**grid.to_json(), **held[fqn].entry, "shape": list(program.tensors[fqn].shape)}
            for fqn, grid in network.weights.items()
        },
        "fallbacks": dict(network.fallbacks),
        "notes": list(network.notes),
        "cell_bits": dict(network.cell_bits),
    }
    return to_json(form), content, tensors


def from_storage(
    graph: Any, content: Any, tensors: Mapping[str, Tensor], example: Example
) -> QuantizedNetwork:
    """The network that `to_storage` described.

    Args:
        graph: Its graph, as JSON content from any source.
        content: Its grids.
        tensors: Its tensors.
        example: Example inputs.

    Returns:
        An equal network.

    Raises:
        CheckpointError: The content is damaged, or this torch captures the graph differently.
    """
    try:
        weights = {str(k): Grid.from_json(v) for k, v in content["weights"].items()}
        activations = {str(k): Grid.from_json(v) for k, v in content["activations"].items()}
        floats = dict(tensors)
        for fqn, grid in weights.items():
            entry = content["weights"][fqn]
            shape = decode(tuple[int, ...], entry["shape"], f"{fqn}.shape")
            q = read(tensors[fqn], floats.pop(fqn + PLACES, None), entry, grid.bits, shape)
            floats[fqn] = grid.dequantize(q, torch.float64).float()
        form = from_json(graph, floats)
        with random_kept():
            program = _renamed(capture(form, example), content["nodes"], content["inputs"])
        fallbacks = {str(k): str(v) for k, v in content["fallbacks"].items()}
        notes = tuple(str(note) for note in content.get("notes", ()))  # none in older files
        cells = decode(dict[str, int], content.get("cell_bits", {}), "cell_bits")
        scheme = str(content["scheme"])
        return QuantizedNetwork(program, activations, weights, fallbacks, scheme, notes, cells)
    except (KeyError, TypeError, ValueError, RuntimeError, InputError, CaptureError) as error:
        raise CheckpointError(
            f"this is not a quantized network that penjing wrote: {type(error).__name__}: {error}"
        ) from error


def _computed(program: Program) -> list[fx.Node]:
    """Nodes that compute tensors: what a capture of the graph form holds in the same order."""
    return [n for n in program.graph.nodes if n.op == "call_function" and _is_tensor_op(n)]


def _is_tensor_op(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) for v in values)


def _renamed(program: Program, nodes: Any, inputs: Any) -> Program:
    """The program with the names that its nodes had when it was saved."""
    found = _computed(program)
    seen, wanted = [op_name(n) for n in found], [str(op) for _, op in nodes]
    if seen != wanted or len(inputs) != len(program.inputs):
        raise CheckpointError(
            f"this torch {torch.__version__} captures the saved graph as {len(seen)} ops where it "
            f"had {len(wanted)}; quantize the network again"
        )
    new = dict(zip((n.name for n in found), (str(name) for name, _ in nodes), strict=True))
    new.update(zip(program.inputs, map(str, inputs), strict=True))
    taken = set(new.values())

    def name_of(old: str) -> str:
        return new.get(old, f"{old}_saved" if old in taken else old)

    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        twin = twins[node] = graph.node_copy(node, lambda n: twins[n])
        twin.name, twin.meta = name_of(node.name), dict(node.meta)
    return replace(
        program,
        graph_module=fx.GraphModule(program.graph_module, graph),
        stored={name_of(name): fqn for name, fqn in program.stored.items()},
        inputs=tuple(map(str, inputs)),
    )

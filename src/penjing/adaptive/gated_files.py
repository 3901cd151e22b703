"""Networks with gated blocks on ONNX Runtime: a block is inside an `If`, and not run when skipped.

The file is written with every block run and a `Where` behind it, as the network is in a capture.
For one sample at a time the condition is a single truth, and a `Where` of one is an `If`: the nodes
that only one of its sides needs go into that side's branch.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing import files
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.gated import GatedNetwork
from penjing.errors import ExportError, VerificationError
from penjing.exporters import Exported, write_program
from penjing.exporters._fresh import fresh_inputs
from penjing.exporters._onnx import difference_of, tolerance_of
from penjing.exporters.session import open_session, runtime_errors
from penjing.graph.capture import Example, Program, capture
from penjing.task import evaluating

SAMPLES = 3  # random inputs on which a file is compared, as it is and with every gate turned round


def write_gated(network: GatedNetwork, example_inputs: Example, path: str | Path) -> Exported:
    """Write one file for one sample at a time, in which a skipped block is not run.

    It is compared with the network on random inputs, and before it a file of the same network with
    every gate turned round, so that both branches of every condition are run.

    Args:
        network: Only read.
        example_inputs: As the original network takes them.
        path: File to write.

    Returns:
        The file and how it compared.

    Raises:
        ExportError: ONNX cannot express the network.
        VerificationError: The file computes something else; nothing was written.
        OSError: The disk is full or the folder cannot be written.
    """
    import onnx

    program = capture(network, example_inputs)
    differences: list[float] = []

    def fill(part: Path, made: GatedNetwork) -> Exported:
        written = write_program(capture(made, example_inputs), part)
        model = conditional(onnx.load(part))
        _check_conditions(model, made)
        onnx.save(model, part)
        differences.append(compare(part, made, program))
        return written

    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "turned.onnx", _turned(network))
    found: list[Exported] = []
    target = files.write_with(path, lambda part: found.append(fill(part, network)))
    return replace(
        found[0],
        path=target,
        size_bytes=target.stat().st_size,
        difference=max(differences),
        batches=(1,),
    )


def conditional(model: Any) -> Any:
    """The same model for batch one, with every `Where` of one truth as an `If`.

    Args:
        model: An ONNX model; not changed.

    Returns:
        A model in which only one side of each is run.
    """
    from onnx import shape_inference

    made = copy.deepcopy(model)
    for one in (*made.graph.input, *made.graph.output):
        for size in one.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = 1
    made = shape_inference.infer_shapes(made, data_prop=True)
    _lazily(made.graph, _known(made.graph))
    del made.graph.value_info[:]
    return made


def _check_conditions(model: Any, network: GatedNetwork) -> None:
    """Refuse a file in which a block is always run.

    Raises:
        ExportError: There are fewer conditions than gates.
    """
    found = sum(node.op_type == "If" for node in model.graph.node)
    if found < len(network.sites):
        raise ExportError(
            f"{len(network.sites)} blocks have gates and only {found} were put into a condition: "
            "ONNX does not tell the shapes of the others. Export the parts of the network instead"
        )


Known = Mapping[str, tuple[int, tuple[int, ...]]]
"""Name of a value -> its type and its sizes; 0 is a size that is not known."""


def _known(graph: Any) -> Known:
    """What was inferred about values."""
    found = {}
    for one in (*graph.input, *graph.value_info, *graph.output):
        kind = one.type.tensor_type
        if kind.HasField("shape"):
            sizes = tuple(size.dim_value for size in kind.shape.dim)
            found[one.name] = (kind.elem_type, sizes)
    return found


def _chooses(node: Any, known: Known) -> bool:
    """Whether a node takes one of two values whole."""
    if node.op_type != "Where" or any(name not in known for name in node.input):
        return False
    truth, first, second = (known[name] for name in node.input)
    return prod(truth[1]) == 1 and first == second and prod(first[1]) > 0


def _lazily(graph: Any, known: Known) -> None:
    """Make each choice an `If` that holds the nodes and weights that only its sides need."""
    order = list(graph.node)  # held, so that each node is one object throughout
    readers: dict[str, list[Any]] = {}
    for node in order:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for one in graph.output:
        readers.setdefault(one.name, []).append(None)
    gone: set[int] = set()
    for place in reversed(range(len(order))):  # what is inside one cannot be inside an earlier one
        node = order[place]
        if id(node) in gone or not _chooses(node, known):
            continue
        sides = [_needed_for(name, node, order[:place], readers) for name in node.input[1:]]
        gone |= {id(one) for side in sides for one in side}
        kind, _ = known[node.input[1]]
        order[place] = _choice(graph, node, sides, kind, readers)
    kept = [copy.deepcopy(node) for node in order if id(node) not in gone]
    del graph.node[:]
    graph.node.extend(kept)


def _needed_for(
    name: str, choice: Any, before: Sequence[Any], readers: Mapping[str, list[Any]]
) -> list[Any]:
    """Nodes that nothing but one side of a choice needs, in order."""
    found: list[Any] = []
    inside: set[int] = set()
    for node in reversed(before):
        users = [user for made in node.output for user in readers.get(made, ())]
        last = name in node.output and users == [choice]
        if last or (users and all(id(user) in inside for user in users)):
            inside.add(id(node))
            found.append(node)
    return found[::-1]


def _choice(
    graph: Any,
    node: Any,
    sides: Sequence[Sequence[Any]],
    kind: int,
    readers: Mapping[str, list[Any]],
) -> Any:
    """An `If` for a `Where`; weights go inside too, since only there they are laid out for it."""
    from onnx import helper

    branches = []
    for label, name, side in zip(("then", "else"), node.input[1:], sides, strict=True):
        given = f"{node.output[0]}/{label}"
        value = helper.make_tensor_value_info(given, kind, None)
        nodes = [*side, helper.make_node("Identity", [name], [given])]
        inside = {id(one) for one in side}
        weights = [
            one
            for one in graph.initializer
            if inside.issuperset(map(id, readers.get(one.name, [None])))
        ]
        branches.append(helper.make_graph(nodes, given, [], [value], weights))
        for weight in weights:
            graph.initializer.remove(weight)
    outputs = list(node.output)
    first, second = branches
    return helper.make_node("If", [node.input[0]], outputs, then_branch=first, else_branch=second)


class Turned(nn.Module):
    """A gate that opens where another one shuts.

    Args:
        gate: The other one.
    """

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, stream: Tensor) -> Tensor:
        """Below 0 where the other logit is above, else above 0.

        Args:
            stream: As the other takes it.
        """
        logits: Tensor = self.gate(stream)
        return torch.where(logits > 0, -1.0, 1.0)  # the negative of 0 would decide as 0 does


def _turned(network: GatedNetwork) -> GatedNetwork:
    """A copy of which every gate decides the other way."""
    made = copy.deepcopy(network)
    for index, gate in enumerate(made.gates):
        made.gates[index] = Turned(gate)
    return made


def compare(path: Path, network: GatedNetwork | ChannelGatedNetwork, program: Program) -> float:
    """Run the file and the network on fresh inputs, one at a time.

    Args:
        path: The file.
        network: What it must give, by `infer`.
        program: A capture that takes the same inputs.

    Returns:
        Largest difference, relative to the largest value.

    Raises:
        VerificationError: They differ.
    """
    session = open_session(path)
    names = [one.name for one in session.get_inputs()]
    generator = torch.Generator().manual_seed(0)
    here = copy.deepcopy(network).cpu()
    worst = 0.0
    for _ in range(SAMPLES):
        inputs = fresh_inputs(program, 1, generator)
        given = iter(inputs)
        flat = [next(given) if isinstance(v, Tensor) else v for v in program.example]
        args, kwargs = pytree.tree_unflatten(flat, program.in_spec)
        with evaluating(here):
            wanted = pytree.tree_leaves(here.infer(*args, **kwargs).outputs)
        with runtime_errors(path):
            got = session.run(None, dict(zip(names, (v.numpy() for v in inputs), strict=True)))
        tensors = [one for one in wanted if isinstance(one, Tensor)]
        for one, other in zip(got, tensors, strict=True):
            apart, allowed = difference_of(torch.from_numpy(one), other), tolerance_of(other.dtype)
            if not apart <= allowed:
                raise VerificationError(
                    f"the ONNX file that skips differs from the network by {apart:.1e} of its "
                    f"largest value (allowed {allowed:.0e}); nothing was written"
                )
            worst = max(worst, apart)
    return worst

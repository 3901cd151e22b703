"""Networks with early exits on ONNX Runtime.

For one sample at a time a single file, in which everything behind an exit is inside an `If` and is
not run when the sample leaves. For batches one file per stage, between which a few lines of Python
let go the samples that are done.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing import files
from penjing.adaptive.criteria import NEVER, ExitPolicy
from penjing.adaptive.exits import EarlyExitNetwork, Exited
from penjing.errors import ExportError, VerificationError
from penjing.exporters import Exported, write_program
from penjing.exporters._fresh import fresh_inputs
from penjing.exporters._onnx import difference_of, tolerance_of
from penjing.exporters.session import open_session, runtime_errors, runtime_name
from penjing.graph.capture import Example, Program, capture
from penjing.task import evaluating
from penjing.task.batches import call

SAMPLES = 3  # random inputs per exit on which a file is compared

SCORES, EXIT = "scores", "exit"
"""Outputs of the single file."""


def stage_name(index: int) -> str:
    """File name of a stage."""
    return f"stage_{index}.onnx"


def write_stages(
    network: EarlyExitNetwork, example_inputs: Example, folder: str | Path
) -> tuple[Exported, ...]:
    """Write one file per stage; each is compared before it is put in place.

    A stage takes what the stage before gave, and gives class scores, who leaves, and what the next
    one takes; the last gives class scores alone.

    Args:
        network: With its policy; only read.
        example_inputs: As the original network takes them.
        folder: Where to.

    Returns:
        The files in order.

    Raises:
        ExportError: ONNX cannot express a stage.
        VerificationError: A file computes something else.
        OSError: The folder cannot be written.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    programs = stage_programs(network, example_inputs)
    return tuple(
        write_program(program, place / stage_name(index)) for index, program in enumerate(programs)
    )


def stage_programs(network: EarlyExitNetwork, example_inputs: Example) -> list[Program]:
    """Every stage, captured."""
    programs: list[Program] = []
    given: Any = example_inputs
    for index in range(len(network.segments)):
        stage = network.stage(index)
        programs.append(capture(stage, given))
        if index < len(network.heads):
            with evaluating(stage), torch.no_grad():
                made = call(stage, given)
            _logits, _leaves, *passed = made
            given = tuple(passed[_forgotten(network, index) :])
    return programs


def _forgotten(network: EarlyExitNetwork, index: int) -> int:
    """How many of the things that a stage remembers the next one has no use for."""
    remembers = 2 if network.policy.criterion == "patience" else 0
    return remembers - network.stage(index + 1).remembered


class StageRunner:
    """Runs stage files on batches of any size; a sample that leaves is not computed further.

    Args:
        folder: Where `write_stages` wrote them.
        threads: Of the runtime.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        paths: list[Path] = []
        while (path := Path(folder) / stage_name(len(paths))).is_file():
            paths.append(path)
        if len(paths) < 2:
            raise ExportError(f"{folder} holds no stages of a network with early exits")
        self.sessions = [open_session(path, threads) for path in paths]
        self.inputs = [[one.name for one in session.get_inputs()] for session in self.sessions]

    def __call__(self, *inputs: NDArray[Any]) -> Exited:
        """Answer a batch.

        Args:
            inputs: As the first stage takes them.

        Returns:
            Scores and exits.
        """
        scores, exits, values = np.empty(0), np.empty(0, np.int64), list(inputs)
        alive = np.arange(len(inputs[0]))
        for index, session in enumerate(self.sessions):
            names = self.inputs[index]
            logits, *rest = session.run(
                None, dict(zip(names, values[len(values) - len(names) :], strict=True))
            )
            if index == 0:
                scores = np.empty_like(logits)
                exits = np.full(len(logits), len(self.sessions) - 1)
            if not rest:
                scores[alive] = logits
                break
            leaves, *values = rest
            scores[alive[leaves]], exits[alive[leaves]] = logits[leaves], index
            alive = alive[~leaves]
            if not len(alive):
                break
            if leaves.any():
                values = [value[~leaves] for value in values]
        return Exited(torch.from_numpy(scores), torch.from_numpy(exits))


def write_conditional(
    network: EarlyExitNetwork, example_inputs: Example, path: str | Path
) -> Exported:
    """Write one file for one sample at a time; what lies behind an exit is inside an `If`.

    Its outputs are the class scores and the number of the exit that was taken. It is compared with
    the network on random inputs, with every exit forced in turn and as it is.

    Args:
        network: With its policy; only read.
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

    programs = stage_programs(network, example_inputs)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / stage_name(index) for index in range(len(programs))]
        written = [write_program(*both) for both in zip(programs, paths, strict=True)]
        stages = [onnx.load(stage) for stage in paths]
        names = _input_names(network)
        compared: list[float] = []
        for forced in range(len(programs)):
            trial = Path(folder) / "forced.onnx"
            onnx.save(assemble(stages, names, forced), trial)
            compared.append(_compare(trial, network, programs[0], forced))
    found: list[Exported] = []

    def fill(part: Path) -> None:
        onnx.save(assemble(stages, names), part)
        compared.append(_compare(part, network, programs[0], None))
        session = open_session(part)
        found.append(
            Exported(
                path=part,
                size_bytes=part.stat().st_size,
                difference=max(compared),
                tolerance=written[-1].tolerance,
                batches=(1,),
                runtime=runtime_name(),
                inputs=tuple(one.name for one in session.get_inputs()),
                outputs=tuple(one.name for one in session.get_outputs()),
            )
        )

    target = files.write_with(path, fill)
    return replace(found[0], path=target)


def assemble(stages: Sequence[Any], inputs: Sequence[str], forced: int | None = None) -> Any:
    """Stage models as one, each but the first in the else branch of the one before.

    Args:
        stages: ONNX models.
        inputs: Names for the inputs of the first.
        forced: The exit that is taken whatever the scores say; None for what they say.

    Returns:
        An ONNX model for batch one.
    """
    from onnx import helper

    first = stages[0].graph
    names = {one.name: name for one, name in zip(first.input, inputs, strict=True)}
    nodes, weights, outputs = _branch(stages, 0, names, forced)
    given = []
    for one, name in zip(first.input, inputs, strict=True):
        kind = one.type.tensor_type
        sizes = [size.dim_value for size in kind.shape.dim]
        given.append(helper.make_tensor_value_info(name, kind.elem_type, [1, *sizes[1:]]))
    graph = helper.make_graph(nodes, "early_exits", given, outputs, weights)
    opsets = {(o.domain, o.version) for model in stages for o in model.opset_import}
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in sorted(opsets)])
    made.ir_version = stages[0].ir_version
    return made


def _branch(
    stages: Sequence[Any], index: int, names: Mapping[str, str], forced: int | None
) -> tuple[list[Any], list[Any], list[Any]]:
    """Nodes, weights and outputs of a stage and of everything behind it.

    Args:
        stages: ONNX models.
        index: Of the stage.
        names: Of its inputs, as they are called outside.
        forced: The exit that is taken, if any.
    """
    from onnx import TensorProto, helper

    graph = stages[index].graph
    nodes, weights = _renamed(stages[index], index, names)
    said = [names.get(one.name, f"{index}/{one.name}") for one in graph.output]
    outputs = [
        helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, None),
        helper.make_tensor_value_info(EXIT, TensorProto.INT64, [1]),
    ]
    outputs[0].CopyFrom(graph.output[0])
    outputs[0].name = SCORES
    outputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    if index == len(stages) - 1:
        leaving = _leaving(said[0], index, SCORES, EXIT)
        return [*nodes, *leaving], weights, outputs
    behind = stages[index + 1].graph.input
    later = dict(zip((one.name for one in behind), said[len(said) - len(behind) :], strict=True))
    branches = []
    for suffix, (inner, inner_weights) in {
        "leave": (_leaving(said[0], index, SCORES, EXIT), []),
        "stay": _branch(stages, index + 1, later, forced)[:2],
    }.items():
        branches.append(helper.make_graph(inner, f"{suffix}_{index}", [], outputs, inner_weights))
    # a branch names its outputs as it likes; where both graphs meet they need names of their own
    branches = [_outputs_suffixed(branch, f"{index}/{n}") for n, branch in enumerate(branches)]
    condition = said[1]
    if forced is not None:
        condition = f"{index}/forced"
        value = helper.make_tensor(condition, TensorProto.BOOL, [1], [index == forced])
        weights.append(value)
    choice = helper.make_node(
        "If",
        [condition],
        [SCORES, EXIT],
        name=f"exit_{index}",
        then_branch=branches[0],
        else_branch=branches[1],
    )
    return [*nodes, choice], weights, outputs


def _outputs_suffixed(graph: Any, suffix: str) -> Any:
    """The graph with other names for its outputs, in place."""
    mine = {one.name: f"{one.name}/{suffix}" for one in graph.output}
    for one in graph.output:
        one.name = mine[one.name]
    for node in graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = mine.get(name, name)
    return graph


def _leaving(scores: str, index: int, *outputs: str) -> list[Any]:
    """Nodes that give a stage's scores and its number."""
    from onnx import TensorProto, helper

    number = helper.make_tensor("number", TensorProto.INT64, [1], [index])
    return [
        helper.make_node("Identity", [scores], [outputs[0]]),
        helper.make_node("Constant", [], [outputs[1]], value=number),
    ]


def _renamed(model: Any, index: int, names: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
    """Nodes and weights of a stage under names that no other stage has.

    Raises:
        ExportError: The stage has functions or branches of its own.
    """
    import onnx

    def called(name: str) -> str:
        return names.get(name, f"{index}/{name}") if name else ""

    nodes, weights = [], []
    inner = any(a.HasField("g") for node in model.graph.node for a in node.attribute)
    if model.functions or inner:
        raise ExportError(
            f"stage {index} has branches or functions of its own, which are not put into one "
            "file; write_stages writes a file per stage"
        )
    for node in model.graph.node:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{index}/{node.name}"
        twin.input[:] = [called(name) for name in node.input]
        twin.output[:] = [called(name) for name in node.output]
        nodes.append(twin)
    for weight in model.graph.initializer:
        held = onnx.TensorProto()
        held.CopyFrom(weight)
        held.name = called(weight.name)
        weights.append(held)
    return nodes, weights


def _compare(path: Path, network: EarlyExitNetwork, program: Program, forced: int | None) -> float:
    """Run the file and the network on fresh inputs, one at a time.

    Raises:
        VerificationError: They differ.
    """
    session = open_session(path)
    names = [one.name for one in session.get_inputs()]
    worst = 0.0
    for inputs, wanted in _wanted(network, program, forced):
        with runtime_errors(path):
            scores, exits = session.run(
                None, dict(zip(names, (v.numpy() for v in inputs), strict=True))
            )
        apart = difference_of(torch.from_numpy(scores), wanted.outputs)
        allowed = tolerance_of(wanted.outputs.dtype)
        if exits.tolist() != wanted.exits.tolist() or not apart <= allowed:
            raise VerificationError(
                f"the ONNX file leaves at exit {exits.tolist()} and differs by {apart:.1e}; the "
                f"network leaves at {wanted.exits.tolist()} (allowed {allowed:.0e}); nothing "
                "was written"
            )
        worst = max(worst, apart)
    return worst


def _wanted(
    network: EarlyExitNetwork, program: Program, forced: int | None
) -> list[tuple[list[Tensor], Exited]]:
    """Fresh inputs and what a copy of the network says to them."""
    generator = torch.Generator().manual_seed(0 if forced is None else forced)
    here, found = copy.deepcopy(network).cpu(), []
    with evaluating(here), _opened(here, forced):
        for _ in range(SAMPLES):
            inputs = fresh_inputs(program, 1, generator)
            given = iter(inputs)
            flat = [next(given) if isinstance(v, Tensor) else v for v in program.example]
            args, kwargs = torch.utils._pytree.tree_unflatten(flat, program.in_spec)
            found.append((inputs, here.infer(*args, **kwargs)))
    return found


@contextmanager
def _opened(network: EarlyExitNetwork, forced: int | None) -> Iterator[None]:
    """All samples take one exit inside; None leaves the policy."""
    kept = network.policy
    if forced is not None:
        opened = (0.0 if k == forced else NEVER for k in range(len(network.heads)))
        network.policy = ExitPolicy(thresholds=tuple(opened))
    try:
        yield
    finally:
        network.policy = kept


def _input_names(network: EarlyExitNetwork) -> list[str]:
    """Names of the original network's tensor inputs."""
    form = network.segments[0]
    assert isinstance(form, fx.GraphModule)  # as `EarlyExitNetwork.of` and the checkpoint make it
    return [node.name for node in form.graph.nodes if node.op == "placeholder"]

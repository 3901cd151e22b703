"""ONNX: written by torch's exporter, run by ONNX Runtime, compared, then put in place."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from penjing import files
from penjing.errors import ExportError, VerificationError
from penjing.exporters._fresh import fresh_inputs
from penjing.exporters.exported import Exported
from penjing.exporters.saturation import saturation_notes
from penjing.exporters.session import open_session, runtime_errors, runtime_name
from penjing.graph.capture import Example, Program, capture, quiet_eval
from penjing.graph.form import graph_form
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.simulation import simulate

Reference = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Flat tensor inputs to flat tensor outputs."""

BATCHES = (1, 3)
"""Batch sizes that are compared where the batch is dynamic."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest relative difference by dtype: float32 sums in another order differ by some 1e-6 per
layer; 1e-4 leaves room for deep networks and is far below any change of meaning."""

INTEGER_TOLERANCE = 0.05
"""The same for integers: a sum between two numbers may be rounded either way, in each layer anew;
of 256 steps that is 12 at the end, and far from what a wrong grid does."""

_HALF_TOLERANCE = 2e-2
_MAX_BYTES = 2 * 1024**3 - 1  # of a protobuf message, and so of a file with all its weights inside


def write_onnx(model: nn.Module, example_inputs: Example, path: str | Path) -> Exported:
    """Export to ONNX, load the file again, compare, and only then put it at `path`.

    The batch is dynamic where the network allows it, all weights are inside the file.

    Args:
        model: Network to export; only read. Exported in eval mode.
        example_inputs: A tensor, a tuple or a dict, on the device of the network.
        path: File to write; an older one stays as it is until the new one was found equal.

    Returns:
        The file and how it compared.

    Raises:
        InputError: The network does not run on `example_inputs`.
        CaptureError: The network does not export.
        ExportError: ONNX or ONNX Runtime cannot express the network.
        VerificationError: ONNX Runtime computes something else.
    """
    program = capture(model, example_inputs)
    device = next((p.device.type for p in model.parameters()), "cpu")
    eager = _eager(model, program) if device == "cpu" else None  # a GPU rounds in its own way
    return write_program(program, path, eager)


def write_program(
    program: Program, path: str | Path, reference: Reference | None = None
) -> Exported:
    """Export a captured network as `write_onnx` does.

    Args:
        program: A captured network.
        path: File to write.
        reference: What the file is compared with; None for the graph of the program.

    Returns:
        The file and how it compared.

    Raises:
        ExportError: ONNX or ONNX Runtime cannot express the network.
        VerificationError: ONNX Runtime computes something else.
    """
    module = _flat(program).cpu()
    converted = _convert_module(module, program)
    found: list[Exported] = []

    def fill(part: Path) -> None:
        converted.save(part, external_data=False)
        found.append(_compare(part, program, reference or (lambda inputs: module(*inputs))))

    target = files.write_with(path, fill)
    return replace(found[0], path=target, size_bytes=target.stat().st_size)


def write_integers(network: QuantizedNetwork, path: str | Path) -> Exported:
    """Export a quantized network, load the file again and compare it with the simulation.

    Args:
        network: The quantized network.
        path: File to write; an older one stays as it is until the new one was found alike.

    Returns:
        The file and how it compared.

    Raises:
        ExportError: ONNX Runtime cannot express the network, or has no integer kernels for it.
        VerificationError: ONNX Runtime computes something else.
    """
    from penjing.exporters._qdq import QdqModule, check_expressible

    check_expressible(network)
    network = network.without_recurrence("ONNX Runtime has no integer form of it")
    program = network.program
    converted = _convert_module(QdqModule(network).eval(), program)
    simulation, found = simulate(network), list[Exported]()

    def reference(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = iter(inputs)
        flat = [next(given) if isinstance(v, Tensor) else v for v in program.example]
        return [v for v in simulation.run(flat) if isinstance(v, Tensor)]

    def fill(part: Path) -> None:
        converted.save(part, external_data=False)
        try:
            found.append(_compare(part, program, reference, INTEGER_TOLERANCE))
        except VerificationError as error:
            why = "; ".join(saturation_notes(network))
            raise VerificationError(f"{error} {why}".strip()) from error

    target = files.write_with(path, fill)
    return replace(found[0], path=target, size_bytes=target.stat().st_size)


def onnx_feeds(program: Program, batch: int, seed: int = 0) -> dict[str, Any]:
    """Fresh random inputs for the file that `write_program` makes of a program.

    Args:
        program: A captured network.
        batch: Samples; without effect where the program's sizes are fixed.
        seed: The same seed gives the same values.

    Returns:
        Input name -> numpy array.
    """
    values = fresh_inputs(program, batch, torch.Generator().manual_seed(seed))
    return {n: v.numpy() for n, v in zip(_input_names(program), values, strict=True)}


def _eager(model: nn.Module, program: Program) -> Reference:
    """The network itself as a function of its flat tensor inputs."""

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = iter(inputs)
        leaves = [next(given) if isinstance(v, Tensor) else v for v in program.example]
        args, kwargs = pytree.tree_unflatten(leaves, program.in_spec)
        with quiet_eval(model):
            return [v for v in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(v, Tensor)]

    return run


def _flat(program: Program) -> fx.GraphModule:
    """The graph form with positional tensors in and a tuple of tensors out."""
    form = graph_form(program)
    plain = {
        n for n, v in zip(program.inputs, program.example, strict=True) if not isinstance(v, Tensor)
    }
    for node in list(form.graph.nodes):
        if node.op == "placeholder" and node.name in plain:
            for user in list(node.users):
                form.graph.erase_node(user)  # its only users check that it is as captured
            form.graph.erase_node(node)
        elif node.op == "output":
            node.args = (tuple(v for v in node.args[0] if isinstance(v, fx.Node)),)
    form.graph.set_codegen(CodeGen())
    form.recompile()
    return form


def _input_names(program: Program) -> list[str]:
    given = zip(program.inputs, program.example, strict=True)
    return [name for name, value in given if isinstance(value, Tensor)]


def _output_names(program: Program, taken: Sequence[str]) -> list[str]:
    """Names from the structure of the outputs: keys of dicts and fields, else numbers."""
    (result,) = next(n for n in program.graph.nodes if n.op == "output").args
    tree = program.unflatten_outputs(list(range(len(result))))
    names: list[str] = []
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        if isinstance(result[leaf], fx.Node):
            parts = [
                str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", "")))) for p in path
            ]
            name = "_".join(parts) or "output"
            name = f"output_{name}" if name[0].isdigit() else name
            while name in {*taken, *names}:
                name += "_out"
            names.append(name)
    return names


def _convert_module(module: nn.Module, program: Program, probes: Sequence[str] = ()) -> Any:
    """An ONNX program of a module that takes flat tensors; `probes` name further outputs."""
    inputs = _input_names(program)
    places = list(zip(program.example, program.batch_dims, strict=True))
    example = tuple(v.cpu() for v, _ in places if isinstance(v, Tensor))
    batch = torch.export.Dim("batch") if program.dynamic_batch else None
    free: tuple[Any, ...] = tuple(
        {} if d is None else {d: batch} for v, d in places if isinstance(v, Tensor)
    )
    if not isinstance(module, fx.GraphModule):  # its forward takes any number of tensors
        free = (free,)
    try:
        with _quiet(), torch.no_grad():
            converted = torch.onnx.export(
                module,
                example,
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=[*_output_names(program, inputs), *probes],
                dynamic_shapes=free if batch is not None else None,
            )
    except (torch.onnx.OnnxExporterError, ValueError) as error:
        cause = error.__cause__ or error
        line = str(cause).strip().splitlines() or [type(cause).__name__]
        raise ExportError(
            f"torch.onnx cannot express the network: {line[0][:300]}. To mend it, replace the op "
            "it names in forward, or keep the network in PyTorch"
        ) from error
    if sum(t.numel() * t.element_size() for t in program.tensors.values()) > _MAX_BYTES:
        raise ExportError(
            "the weights have more than 2 GB, the most that one .onnx file holds; make them float16"
        )
    _strip(converted)
    return converted


def _strip(converted: Any) -> None:
    """Remove what no runtime reads: stack traces, and the shapes between the nodes."""
    graph = converted.model.graph
    kept = {id(v) for v in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.shape = value.type = None
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    converted.model.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no notes of torch's exporter inside."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(path: Path, program: Program, reference: Reference, at_least: float = 0.0) -> Exported:
    """Run the file and the network on fresh inputs.

    Raises:
        ExportError: ONNX Runtime refuses the file.
        VerificationError: They differ.
    """
    session = open_session(path)
    inputs = [i.name for i in session.get_inputs()]
    names = [o.name for o in session.get_outputs()]
    known = dict(zip(_input_names(program), range(len(program.inputs)), strict=False))
    batches = BATCHES if program.dynamic_batch else (1,)
    generator = torch.Generator().manual_seed(0)
    difference, tolerance = 0.0, 0.0
    for batch in batches:
        values = fresh_inputs(program, batch, generator)
        with torch.no_grad():
            wanted = reference(values)
        with runtime_errors(path):
            got = session.run(None, {name: values[known[name]].numpy() for name in inputs})
        for name, one, other in zip(names, got, wanted, strict=True):
            allowed = max(tolerance_of(other.dtype), at_least)
            apart = difference_of(torch.from_numpy(one), other)
            if not apart <= allowed:
                raise VerificationError(
                    f"output {name!r} of the ONNX file differs from the network by {apart:.1e} of "
                    f"its largest value at batch {batch} (allowed {allowed:.0e}); nothing was "
                    "written. Does forward depend on more than its inputs?"
                )
            difference, tolerance = max(difference, apart), max(tolerance, allowed)
    return Exported(
        path=path,
        size_bytes=path.stat().st_size,
        difference=difference,
        tolerance=tolerance,
        batches=tuple(batches),
        runtime=runtime_name(),
        inputs=tuple(inputs),
        outputs=tuple(names),
    )


def tolerance_of(dtype: torch.dtype) -> float:
    """Largest relative difference that an output may have; none where it is no floating one."""
    return TOLERANCE.get(dtype, _HALF_TOLERANCE if dtype.is_floating_point else 0.0)


def difference_of(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest magnitude; infinite where shapes or NaN differ."""
    if one.shape != other.shape:
        return float("inf")
    one, other = one.double(), other.detach().cpu().double()
    finite = one.isfinite()
    same = (one == other) | (one.isnan() & other.isnan())
    if not bool((finite | same).all()):
        return float("inf")
    one, other = one[finite], other[finite]
    scale = other.abs().max().item() if other.numel() else 0.0
    apart = (one - other).abs().max().item() if other.numel() else 0.0
    return apart / scale if scale else apart

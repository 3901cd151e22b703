"""From a captured network to the files of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor

from penjing.codegen.arena import plan
from penjing.codegen.choice import Optimize, choose
from penjing.codegen.emit import Files, write_files
from penjing.codegen.fusion import fuse
from penjing.codegen.ir import Net
from penjing.codegen.kernel import Kernel
from penjing.codegen.layout import lay_out
from penjing.codegen.lower import lower
from penjing.codegen.reference import reference_kernels
from penjing.codegen.targets import HOST, Target
from penjing.errors import InputError
from penjing.graph.capture import Program as Captured


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to compile.

    Args:
        target: What for.
        optimize: "latency", "flash" or "ram".
        tune: With "latency", measure the promising kernels of each layer on this machine.
        name: Prefix of files and public names, a C identifier.
        kernels: More kernels, preferred where they cost less.
        notes: What the header says of inputs and outputs.
    """

    target: Target = HOST
    optimize: Optimize = "latency"
    tune: bool = False
    name: str = "net"
    kernels: Sequence[Kernel] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def example_of(captured: Captured, batch: int | None) -> list[Any]:
    """Flat inputs at the batch to compile for.

    Args:
        captured: The network.
        batch: Samples; None for the example's own.

    Returns:
        Tensors on the CPU, and what else the network is given.

    Raises:
        InputError: The network takes one batch size only, another than `batch`.
    """
    tensors = [v for v in captured.example if isinstance(v, TorchTensor) and v.dim()]
    given = len(tensors[0]) if tensors else 1
    if batch is None or batch == given:
        return [v.cpu() if isinstance(v, TorchTensor) else v for v in captured.example]
    if not captured.dynamic_batch:
        raise InputError(
            f"the network takes batches of {given} only, as its export has found; batch={batch} "
            "cannot be compiled. Give example inputs of that batch"
        )

    def cut(value: Any) -> Any:
        if not isinstance(value, TorchTensor) or not value.dim():
            return value
        times = -(-batch // len(value))
        return value.cpu().repeat(times, *([1] * (value.dim() - 1)))[:batch]

    return [cut(v) for v in captured.example]


def compile_captured(captured: Captured, values: Sequence[Any], settings: Settings) -> Files:
    """Compile a captured network.

    Args:
        captured: The network.
        values: Flat inputs at the batch to compile for; they become the test vector.
        settings: How.

    Returns:
        The files, not yet on disk.

    Raises:
        ExportError: An op cannot be compiled.
        InputError: A type that is not compiled.
    """
    net = fuse(lower(captured, values))
    with torch.no_grad():
        outputs = [v for v in captured.run(values) if isinstance(v, TorchTensor)]
    inputs = [v for v in values if isinstance(v, TorchTensor)]
    vectors = ([_plain(v) for v in inputs], [_plain(v) for v in outputs])
    return compile_net(net, vectors, settings)


def compile_net(
    net: Net, vectors: tuple[Sequence[np.ndarray], Sequence[np.ndarray]], settings: Settings
) -> Files:
    """Compile a net: choose kernels, plan layout and memory, write the files.

    Args:
        net: Fused.
        vectors: Example inputs and expected outputs.
        settings: How.

    Returns:
        The files, not yet on disk.
    """
    target = settings.target
    plain = reference_kernels()
    kernels = choose(
        net, [*settings.kernels, *plain], target, settings.optimize, tune=settings.tune
    )
    copier = next(k for k in plain if k.kind == "copy")  # type: ignore[attr-defined] # one of ours
    laid = lay_out(net, kernels, copier, target)
    return write_files(plan(laid, target), target, settings.name, vectors, settings.notes)


def _plain(value: TorchTensor) -> np.ndarray:
    """A tensor as the program takes it: integers in 32 bits, truth as bytes."""
    array = value.detach().cpu().numpy()
    if array.dtype == np.int64:
        return array.clip(-(2**31), 2**31 - 1).astype(np.int32)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return np.ascontiguousarray(array)

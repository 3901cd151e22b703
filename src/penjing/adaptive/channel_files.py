"""Networks with gated channels on ONNX Runtime: weights are gathered for each sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch.utils import _pytree as pytree

from penjing import files
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.gated_files import compare
from penjing.exporters import Exported, write_program
from penjing.graph.capture import Example, Program, capture


def write_channels(
    network: ChannelGatedNetwork, example_inputs: Example, path: str | Path
) -> Exported:
    """Write one file for one sample at a time, in which channels left out are not computed.

    It is compared on random inputs with the network that masks them.

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
    whole = capture(network.original(), example_inputs)
    program = single_program(network, whole)
    found: list[Exported] = []

    def fill(part: Path) -> None:
        written = write_program(program, part)
        found.append(replace(written, difference=compare(part, network, whole)))

    target = files.write_with(path, fill)
    return replace(found[0], path=target, size_bytes=target.stat().st_size, batches=(1,))


def single_program(network: ChannelGatedNetwork, whole: Program) -> Program:
    """The network for one sample, captured.

    Args:
        network: Only read.
        whole: Its original, captured.
    """
    args, kwargs = pytree.tree_unflatten(whole.head(whole.example, 1), whole.in_spec)
    return capture(network.single(), kwargs if kwargs and not args else args)

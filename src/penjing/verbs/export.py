"""`penjing.export`: a network as a file for another runtime."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from penjing.adaptive.channel_files import write_channels
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.exit_files import write_conditional
from penjing.adaptive.exits import EarlyExitNetwork
from penjing.adaptive.gated import GatedNetwork
from penjing.adaptive.gated_files import write_gated
from penjing.errors import ExportError
from penjing.exporters import Exported, write
from penjing.graph.capture import Example
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite


@arguments_checked
def export(model: nn.Module, example_inputs: Example, path: str | Path) -> Exported:
    """Export a network; the file is loaded again and compared before it is put at `path`.

    Args:
        model: Network to export; only read. Exported in eval mode, its batch free where it can be.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        path: File to write. The suffix names the format: `.onnx`, or `.c` (its batch is the
            example's, its header lies beside it). A network with early exits or gated blocks
            becomes an `.onnx` for one sample at a time, in which what a sample does not need is not
            run.

    Returns:
        Path, size, and the largest difference between the file and the network on fresh random
        inputs.

    Raises:
        UnavailableError: The format belongs to a later version (`.pte`, `.tflite`, `.pt2`).
        ExportError: The format is unknown, or cannot express the network.
        VerificationError: The file computes something else; nothing was written.
        InputError: The network does not run on `example_inputs`, or holds NaN or infinite weights.
        CaptureError: The network does not export.
        OSError: The disk is full or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = export(nn.Linear(2, 3), torch.ones(1, 2), f"{folder}/net.onnx")
        >>> done.batches
        (1, 3)
    """
    check_finite(model)
    if isinstance(model, EarlyExitNetwork):
        _check_suffix(path, "early exits", "model.segments[k] and model.heads[k]")
        return write_conditional(model, example_inputs, path)
    if isinstance(model, GatedNetwork):
        _check_suffix(path, "gated blocks", "model.trunk[k], model.gates[k] and model.branches[k]")
        return write_gated(model, example_inputs, path)
    if isinstance(model, ChannelGatedNetwork):
        _check_suffix(path, "gated channels", "model.original() and model.gates[k]")
        return write_channels(model, example_inputs, path)
    return write(model, example_inputs, path)


def _check_suffix(path: str | Path, what: str, parts: str) -> None:
    """Refuse formats that have no conditions.

    Raises:
        ExportError: Another format than ONNX.
    """
    if Path(path).suffix.lower() != ".onnx":
        raise ExportError(
            f"{Path(path).name!r}: a network with {what} is written as .onnx; for other formats "
            f"export its parts, {parts}, and decide between them"
        )

"""`convert`: the integers of a network that was trained for them."""

from __future__ import annotations

from torch import nn

from penjing.errors import InputError
from penjing.quantization.aware import QuantizationAware
from penjing.quantization.module import QuantizedModule
from penjing.record import attach, record_of
from penjing.report import Report, ReportData, environment
from penjing.verbs.quantize import Quantized, notes_of, quantized_figures
from penjing.verbs.soundness import check_finite


def convert(model: nn.Module) -> Quantized:
    """Make integers of a network that was prepared and trained.

    Args:
        model: The network of `prepare`, usually trained by `finetune`; only read.

    Returns:
        The network in integers, on the CPU, and the report. Its simulation computes what `model`
        does in eval mode.

    Raises:
        InputError: The network was not prepared, or holds values that are not finite.

    Example:
        >>> import torch
        >>> from penjing.verbs.prepare import prepare
        >>> net, x = nn.Linear(4, 2), torch.randn(64, 4)
        >>> prepared = prepare(net, x[:1], calibration=[x]).model
        >>> torch.equal(convert(prepared).model(x), prepared(x))
        True
    """
    if not isinstance(model, QuantizationAware):
        raise InputError(
            f"{type(model).__name__} was not prepared for quantization-aware training: "
            "pj.quantize makes integers of a network in floats; or prepare it and train it first"
        )
    check_finite(model)
    network = model.quantized()
    result = QuantizedModule(network)
    if (record := record_of(model)) is not None:
        attach(result, record)
    before = model.origin.figures
    data = ReportData(
        kind="quantize",
        title=type(model.origin.parent).__name__,
        before=before,
        after=quantized_figures(network, before),
        choices={"scheme": network.scheme, "steps": model.steps},
        environment=environment(),
        notes=notes_of(network),
    )
    return Quantized(result, Report(data))

"""Tensors of one number that have the sizes of another: constants, whatever the other holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _filled(number: float | None) -> Rule:
    """A constant of the result's sizes; without a number, of the one that is given."""

    def rule(trace: Trace, op: Op) -> Value:
        given = op.arguments["fill_value"] if number is None else number
        if isinstance(given, Value):
            op.refuse("with a number that depends on the inputs")
        found = op.results[0]
        dtype = trace.result(op).dtype
        constant = torch.full(tuple(found.shape), given, dtype=found.dtype)
        return Value("", tuple(found.shape), dtype, constant)

    return rule


RULES: Mapping[str, Rule] = {
    "zeros_like": _filled(0),
    "ones_like": _filled(1),
    "full_like": _filled(None),
    "new_zeros": _filled(0),
    "new_ones": _filled(1),
    "new_full": _filled(None),
}

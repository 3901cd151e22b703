"""Rows of a table by integer positions."""

from __future__ import annotations

from collections.abc import Mapping

from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _embedding(trace: Trace, op: Op) -> Value:
    table = op.array("weight")
    return trace.add("embedding", op, [trace.hold(op.get("indices"))], weights={"weight": table})


RULES: Mapping[str, Rule] = {"embedding": _embedding}

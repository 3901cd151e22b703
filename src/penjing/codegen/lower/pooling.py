"""Pooling over the last dimensions, by window or to a fixed output size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penjing.codegen.lower.trace import Missing, Op, Rule, Trace, Value


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(n) for n in (numbers * rank if len(numbers) == 1 else numbers))


def _pool(trace: Trace, op: Op, mode: str, rank: int) -> Value:
    x = trace.hold(op.get("self", op.get("input")))
    kernel = _spread(op.get("kernel_size"), rank)
    stride = _spread(op.get("stride", ()) or kernel, rank)
    padding = _spread(op.get("padding", 0), rank)
    dilation = _spread(op.get("dilation", 1), rank)
    return trace.add(
        "pool",
        op,
        [x],
        mode=mode,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        divisor=op.get("divisor_override"),
        count_padding=bool(op.get("count_include_pad", True)),
    )


def _max(rank: int) -> Rule:
    return lambda trace, op: _pool(trace, op, "max", rank)


def _average(rank: int) -> Rule:
    return lambda trace, op: _pool(trace, op, "average", rank)


def _adaptive(mode: str, rank: int) -> Rule:
    def rule(trace: Trace, op: Op) -> Value | list[Value | Missing]:
        x = trace.hold(op.get("self", op.get("input")))
        inner, outer = x.shape[-rank:], op.shape[-rank:]
        if outer == (1,) * rank:
            dims = tuple(range(len(x.shape) - rank, len(x.shape)))
            kind = "max" if mode == "max" else "mean"
            made = trace.add("reduce", op, [x], [trace.result(op)], mode=kind, dims=dims)
        elif all(i % o == 0 for i, o in zip(inner, outer, strict=True)):
            window = tuple(i // o for i, o in zip(inner, outer, strict=True))
            made = trace.add(
                "pool",
                op,
                [x],
                [trace.result(op)],
                mode=mode,
                kernel=window,
                stride=window,
                padding=(0,) * rank,
                dilation=(1,) * rank,
                divisor=None,
                count_padding=True,
            )
        else:
            made = trace.add("adaptive_pool", op, [x], [trace.result(op)], mode=mode, rank=rank)
        if len(op.results) == 1:
            return made
        return [made, Missing(op)]  # positions of the maxima

    return rule


RULES: Mapping[str, Rule] = {
    **{f"max_pool{r}d": _max(r) for r in (1, 2, 3)},
    **{f"avg_pool{r}d": _average(r) for r in (1, 2, 3)},
    **{f"adaptive_avg_pool{r}d": _adaptive("average", r) for r in (1, 2, 3)},
    **{f"adaptive_max_pool{r}d": _adaptive("max", r) for r in (1, 2, 3)},
}

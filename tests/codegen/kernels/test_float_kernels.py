"""Every float kernel gives what a reference in double precision gives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.codegen.kernels.layers import (
    WARNINGS,
    Case,
    Conv,
    build,
    conv_case,
    linear_case,
    mean_case,
)

from penjing.codegen.encodings import INDICES
from penjing.codegen.ir import Activation
from penjing.codegen.kernels import (
    BlockLinear,
    ColumnLinear,
    DenseConv,
    DenseLinear,
    Depthwise,
    DepthwisePlane,
    KernelConv,
    PointwiseBatch,
    RunLinear,
    SparseConv,
    Style,
    WindowLinear,
)
from penjing.codegen.targets import HOST

TOLERANCE = 2e-6  # of the largest value: single precision sums of at most some hundred terms

SHAPES = {
    "plain": Conv(),
    "wide_rows": Conv(size=(5, 37), channels=3),
    "many_rows": Conv(size=(33, 8)),
    "two_vectors": Conv(size=(6, 32), kernel=(5, 5), padding=2, channels=3),
    "whole_dilated": Conv(size=(7, 16), dilation=3, padding=3, channels=3),
    "half_vectors": Conv(size=(8, 8), channels=40, filters=3),
    "narrow": Conv(size=(4, 3)),
    "one_pixel": Conv(size=(1, 1), kernel=(1, 1), padding=0),
    "pointwise": Conv(size=(7, 7), kernel=(1, 1), padding=0, channels=20),
    "pointwise_long": Conv(size=(19, 24), kernel=(1, 1), padding=0),
    "pointwise_stride": Conv(size=(9, 14), kernel=(1, 1), padding=0, stride=2),
    "stride": Conv(size=(17, 20), stride=2),
    "stride_three": Conv(size=(20, 23), stride=3, kernel=(5, 5), padding=2),
    "dilated": Conv(size=(12, 13), dilation=2, padding=2),
    "grouped": Conv(channels=6, filters=4, groups=2),
    "one_dimension": Conv(size=(50,), kernel=(9,), padding=4),
    "far_places": Conv(size=(40000,), kernel=(3,), channels=3, filters=2),
    "one_dimension_stride": Conv(size=(50,), kernel=(4,), padding=1, stride=2),
    "batch": Conv(batch=3),
    "no_bias": Conv(bias=False, activation=None),
    "residual": Conv(residual=True, size=(8, 12)),
    "empty_rows": Conv(empty_rows=True),
    "all_zero": Conv(sparsity=1.0),
    "fully_dense": Conv(sparsity=0.0, channels=9),
    "leaky": Conv(activation=Activation("leaky_relu", (0.1,))),
    "function": Conv(activation=Activation("silu"), size=(6, 7)),
    "hardswish": Conv(activation=Activation("hardswish"), size=(6, 7)),
    "hardsigmoid": Conv(activation=Activation("hardsigmoid"), size=(6, 7)),
}
DEPTHWISE = {
    "plain": Conv(channels=6, filters=6, groups=6, sparsity=0.0),
    "stride": Conv(channels=4, filters=4, groups=4, size=(15, 18), stride=2, sparsity=0.0),
    "twice": Conv(channels=3, filters=6, groups=3, size=(10, 20), sparsity=0.0),
    "residual": Conv(channels=3, filters=3, groups=3, residual=True, size=(25, 5)),
    "five": Conv(channels=3, filters=3, groups=3, kernel=(5, 5), padding=2, size=(33, 40)),
    "dilated": Conv(channels=2, filters=2, groups=2, size=(9, 7), dilation=2, padding=2, batch=2),
    "narrow": Conv(channels=3, filters=3, groups=3, size=(6, 2), activation=None),
    "line": Conv(channels=3, filters=3, groups=3, kernel=(5,), padding=2, size=(40,)),
}
SPARSE = {
    "direct": Style(vectors=8),
    "staged": Style(staged=True, vectors=12),
    "blocks": Style(staged=True, vectors=4, cache_bytes=2000),
    "flat": Style(flat=True, vectors=5),
    "flat_blocks": Style(flat=True, vectors=2, cache_bytes=2000),
}
DENSE = {
    "direct": DenseConv(filters=4, style=Style(vectors=3)),
    "staged": DenseConv(filters=3, style=Style(vectors=4, staged=True, cache_bytes=4000)),
    "flat": DenseConv(filters=4, style=Style(vectors=3, flat=True)),
}
BLOCKS = {
    "plain": Conv(filters=8, pattern="4x1"),
    "wide": Conv(filters=12, channels=8, size=(6, 37), pattern="4x2", residual=True),
    "stride": Conv(filters=8, size=(17, 20), stride=2, pattern="4x1"),
    "grouped": Conv(channels=6, filters=16, groups=2, pattern="4x1"),
    "pointwise": Conv(filters=8, channels=20, size=(7, 7), kernel=(1, 1), padding=0),
    "all_zero": Conv(filters=4, sparsity=1.0),
    "fully_dense": Conv(filters=4, sparsity=0.0),
    "one_dimension": Conv(filters=4, size=(50,), kernel=(9,), padding=4, dilation=2),
}
BUNDLES = {
    "direct": SparseConv(style=Style(vectors=4), bundle=4),
    "staged": SparseConv(style=Style(vectors=2, staged=True, cache_bytes=2000), bundle=4),
}
KERNELS = {
    "kernel": Conv(pattern="kernel", channels=9, sparsity=0.6),
    "shapes": Conv(pattern="shapes", channels=9, size=(11, 19), residual=True),
    "element": Conv(sparsity=0.5),
    "fully_dense": Conv(sparsity=0.0),
    "all_zero": Conv(sparsity=1.0),
    "stride": Conv(pattern="kernel", stride=2, size=(17, 20)),
    "dilated": Conv(pattern="kernel", dilation=2, padding=2, size=(12, 13)),
    "grouped": Conv(pattern="kernel", channels=6, filters=4, groups=2),
    "rectangular": Conv(kernel=(2, 3), pattern="shapes", padding=2, batch=2),
    "line": Conv(kernel=(5,), size=(40,), padding=2),
    "empty_rows": Conv(pattern="kernel", empty_rows=True),
}
WRITTEN = {
    "plain": Conv(),
    "far": Conv(channels=40, sparsity=0.99, filters=3),
    "pointwise": Conv(size=(7, 7), kernel=(1, 1), padding=0, channels=40),
    "grouped": Conv(channels=6, filters=4, groups=2),
    "all_zero": Conv(sparsity=1.0),
    "fully_dense": Conv(sparsity=0.0, size=(1, 2)),
}
POINTWISE = {
    "small": Conv(batch=5, size=(3, 3), kernel=(1, 1), padding=0, channels=9),
    "residual": Conv(batch=3, size=(5, 4), kernel=(1, 1), padding=0, residual=True),
    "line": Conv(batch=4, size=(11,), kernel=(1,), padding=0, activation=Activation("silu")),
    "grouped": Conv(
        batch=2, size=(6, 6), kernel=(1, 1), padding=0, channels=6, groups=2, filters=4
    ),
}
LINEAR = [(1, 64, 33), (1, 20, 5), (3, 100, 48), (17, 33, 40), (6, 300, 17)]


def _convolutions() -> list[Case]:
    found = []
    for shape, conv in SHAPES.items():
        for style, choice in SPARSE.items():
            if conv.stride == 1 or choice.staged or choice.flat or shape == "stride":
                found.append(conv_case(f"sparse_{style}_{shape}", SparseConv(style=choice), conv))
        if conv.groups == 1:
            for style, kernel in DENSE.items():
                found.append(conv_case(f"dense_{style}_{shape}", kernel, conv))
    return found


def _patterns() -> list[Case]:
    """Convolutions in blocks, of whole kernels or a few shapes, in every encoding, depthwise."""
    found = []
    for shape, conv in BLOCKS.items():
        for style, kernel in BUNDLES.items():
            found.append(conv_case(f"block_{style}_{shape}", kernel, conv))
    for shape, conv in KERNELS.items():
        for style, choice in SPARSE.items():
            found.append(conv_case(f"kernel_{style}_{shape}", KernelConv(style=choice), conv))
    for shape, conv in POINTWISE.items():
        choices = [SparseConv(style=SPARSE[style]) for style in ("direct", "staged", "blocks")]
        for i, inner in enumerate([*choices, DENSE["direct"]][: 3 if conv.groups > 1 else 4]):
            found.append(conv_case(f"batch_{i}_{shape}", PointwiseBatch(conv=inner), conv))
    for shape, conv in WRITTEN.items():
        found += _written(shape, conv)
    for shape, conv in DEPTHWISE.items():
        found.append(conv_case(f"depthwise_{shape}", Depthwise(vectors=6), conv))
        if conv.stride == 1:
            kernel = DepthwisePlane(vectors=3)
            found.append(conv_case(f"depthwise_plane_{shape}", kernel, conv))
        found.append(conv_case(f"depthwise_flat_{shape}", Depthwise(vectors=3, flat=True), conv))
    return found


def _written(shape: str, conv: Conv) -> list[Case]:
    """A layer in every encoding, staged in blocks and in place, also with few values."""
    found = []
    for style in ("direct", "blocks"):
        for index in INDICES:
            kernel = SparseConv(style=SPARSE[style], index=index)
            found.append(conv_case(f"{index}_{style}_{shape}", kernel, conv))
            coded, few = replace(kernel, codebook=True), replace(conv, values=5)
            found.append(conv_case(f"{index}_codes_{style}_{shape}", coded, few))
    return found


def _structured() -> list[Case]:
    """Linear layers in blocks and with as many zeros everywhere."""
    found = []
    for i, (rows, ins, outs) in enumerate([(1, 64, 48), (5, 80, 32), (4, 33, 7)]):
        for pattern in ("2:4", "4x1", "1x16"):
            kernels = [RunLinear(rows=min(rows, 4)), RunLinear(rows=1)]
            for n in (4, 16):
                kernels += [BlockLinear(lanes=n), BlockLinear(lanes=n, rows=min(rows, 3))]
                kernels += [BlockLinear(lanes=n, along=True, rows=min(rows, 2))]
            for j, kernel in enumerate(kernels):
                name = f"structured_{i}_{j}_{pattern.replace(':', '_')}"
                sizes, residual = (rows, ins, outs), i % 2 == 1
                case = linear_case(name, kernel, sizes, 0.7, residual=residual, pattern=pattern)
                if kernel.takes(case.net, case.layer, HOST):
                    found.append(case)
    return found


def _linear() -> list[Case]:
    found = []
    for i, sizes in enumerate(LINEAR):
        for sparsity in (0.0, 0.9, 1.0):
            name, residual = f"{i}_{int(10 * sparsity)}", i % 2 == 1
            kernels = {
                "window": WindowLinear(),
                "dense": DenseLinear(rows=min(2, sizes[0]), vectors=2),
                "column": ColumnLinear(conv=SparseConv(style=Style(vectors=8))),
                "staged": ColumnLinear(conv=SparseConv(style=SPARSE["blocks"])),
            }
            for kind, kernel in kernels.items():
                case = linear_case(f"{kind}_{name}", kernel, sizes, sparsity, residual=residual)
                found.append(case)
    return found


MEANS = [
    mean_case("mean_map", (2, 5, 25, 5), "mean"),
    mean_case("mean_line", (1, 7, 40), "sum"),
    mean_case("mean_small", (3, 4, 2, 3), "mean"),
]
CASES = [*_convolutions(), *_patterns(), *_linear(), *_structured(), *MEANS]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Of every case, built for this machine."""
    folder = tmp_path_factory.mktemp("kernels")
    return build(CASES, folder, ["-O1", "-march=native", "-ffp-contract=fast", *WARNINGS])


@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_a_kernel_equals_the_reference(name: str, differences: dict[str, float]) -> None:
    assert differences[name] < TOLERANCE


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
def test_kernels_are_plain_c_that_runs_without_wide_vectors(tmp_path: Path) -> None:
    few = CASES[::13]
    worst = max(build(few, tmp_path, ["-O1", *WARNINGS], "clang").values())
    assert worst < TOLERANCE

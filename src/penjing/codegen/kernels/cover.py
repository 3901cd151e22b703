"""What the convolutions share: a tile of output pixels in registers, and where its input lies.

A `Frame` says how tiles cover the output and where the input of a tile is read: in place, or from
scratch memory into which the rows were copied ("staged") once per tap column, shifted so that every
load is aligned and, with a stride, so that neighbouring lanes are neighbouring output pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from penjing.codegen.ir import Activation
from penjing.codegen.kernel import Place, Site
from penjing.codegen.kernels.geometry import (
    Geometry,
    Piece,
    Tiling,
    strides4,
    tiling,
)
from penjing.codegen.kernels.vectors import activated, even, keep, types

SLACK = 64
"""Elements that a vector may read behind the last row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a convolution goes through memory.

    Args:
        staged: Copy the input of a tile for aligned loads; strided layers always do.
        flat: Staged rows touch, so that a vector goes on in the next row; see `flat`.
        vectors: Accumulators per tile and filter.
        cache_bytes: Staged bytes per block of input channels.
    """

    staged: bool = False
    flat: bool = False
    vectors: int = 8
    cache_bytes: int = 40 << 10


@dataclass(frozen=True)
class Frame:
    """One convolution on one machine in one style.

    Args:
        g: Sizes.
        style: How it goes through memory.
        lanes: Of the machine.
    """

    g: Geometry
    style: Style
    lanes: int

    @cached_property
    def tiles(self) -> Tiling:
        """How the output is cut."""
        return tiling(self.g.out, self.lanes, self.style.vectors)

    @property
    def staged(self) -> bool:
        """Whether input is copied."""
        return self.style.staged or self.g.stride[1] != 1

    @property
    def row_step(self) -> int:
        """Input rows in scratch from one output row to the next."""
        return 1 if self.g.kernel[0] == 1 else self.g.stride[0]

    @property
    def stage_rows(self) -> int:
        """Input rows that a tile needs."""
        return (
            (self.tiles.rows - 1) * self.row_step + (self.g.kernel[0] - 1) * self.g.dilation[0] + 1
        )

    @property
    def stage_channel(self) -> int:
        """Staged elements per input channel."""
        return self.g.kernel[1] * self.stage_rows * self.tiles.pitch

    @property
    def block(self) -> int:
        """Input channels at a time."""
        if not self.staged:
            return self.g.channels
        most = max(1, self.style.cache_bytes // (4 * self.stage_channel))
        return ceil(self.g.channels / ceil(self.g.channels / min(self.g.channels, most)))

    @property
    def blocks(self) -> int:
        """Blocks of input channels."""
        return ceil(self.g.channels / self.block)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of staged input."""
        return 4 * (self.block * self.stage_channel + SLACK) if self.staged else 0

    @property
    def stage_vectors(self) -> int:
        """Vectors copied per image."""
        if not self.staged:
            return 0
        tile = self.g.channels * self.g.kernel[1] * self.stage_rows * len(self.tiles.pieces)
        return tile * self.tiles.tiles


@dataclass(frozen=True)
class Job:
    """A frame with the memory of one layer.

    Args:
        frame: See there.
        site: From the compiler.
        activation: What the vectors apply; None where a later loop does.
    """

    frame: Frame
    site: Site
    activation: Activation | None

    @cached_property
    def x(self) -> tuple[int, int, int, int]:
        """Strides of the input."""
        return self._strides(self.site.inputs[0])

    @cached_property
    def y(self) -> tuple[int, int, int, int]:
        """Strides of the output."""
        return self._strides(self.site.outputs[0])

    @cached_property
    def residual(self) -> tuple[int, int, int, int] | None:
        """Strides of the residual."""
        return self._strides(self.site.inputs[1]) if len(self.site.inputs) > 1 else None

    def _strides(self, place: Place) -> tuple[int, int, int, int]:
        return strides4(place)

    def tap(self, channel: int, row: int, column: int) -> int:
        """Elements from the start of a tile's input to a tap; the channel counts in its block."""
        f, g = self.frame, self.frame.g
        if f.staged:
            at = (channel * g.kernel[1] + column) * f.stage_rows + row * g.dilation[0]
            return at * f.tiles.pitch
        _, plane, pitch, _ = self.x
        return channel * plane + row * g.dilation[0] * pitch + column * g.dilation[1]

    def load(self, row: int, piece: Piece) -> str:
        """Elements from a tap to the input of a piece."""
        f = self.frame
        pitch = f.tiles.pitch if f.staged else self.x[2]
        step = f.row_step if f.staged else f.g.stride[0]
        return str(row * step * pitch + piece.column)

    def vectors(self) -> list[tuple[int, int, Piece]]:
        """Number, row and piece of every accumulator."""
        found = [(r, p) for r in range(self.frame.tiles.rows) for p in self.frame.tiles.pieces]
        return [(i, r, p) for i, (r, p) in enumerate(found)]

    def finish(self, name: str, row: int, piece: Piece, *, residual: str, y: str) -> str:
        """Statements that add the residual, activate and store an accumulator."""
        n, text = piece.lanes, ""
        if self.residual is not None:
            at = row * self.residual[2] + piece.column
            text += f"{name} += *(const pj_vf{n} *)({residual} + {at}); "
        text += activated(self.activation, n, name) or ""
        return text + self.store(name, row, piece, y)

    def store(self, name: str, row: int, piece: Piece, y: str) -> str:
        """Statement that stores an accumulator."""
        at = f"{y} + {row * self.y[2] + piece.column}"
        if piece.keep < piece.lanes:
            return f"pj_keep{piece.lanes}_{piece.keep}({at}, &{name});"
        return f"*(pj_vf{piece.lanes} *)({at}) = {name};"

    def functions(self) -> dict[str, str]:
        """Vector types and partial stores."""
        found: dict[str, str] = {}
        for lanes in self.frame.tiles.lanes:
            found |= types(lanes)
            if self.frame.g.stride[1] == 2:
                found |= even(lanes)
        for p in self.frame.tiles.pieces:
            if p.keep < p.lanes:
                found |= keep(p.lanes, p.keep)
        return found

    def stage(self) -> tuple[str, str]:
        """Name and text of the function that copies the input of a tile."""
        f, g = self.frame, self.frame.g
        _, plane, pitch, _ = self.x
        step = g.stride[0] if g.kernel[0] == 1 else 1
        copies = []
        for column in range(g.kernel[1]):
            start = column * g.dilation[1]
            to = column * f.stage_rows * f.tiles.pitch
            for p in f.tiles.pieces:
                source, goal = f"r + {start + p.column * g.stride[1]}", f"s + {to + p.column}"
                if g.stride[1] <= 2:
                    value = pixels(p.lanes, source, g.stride[1])
                    copies.append(f"*(pj_vf{p.lanes} *)({goal}) = {value};")
                else:
                    copies.append(
                        f"for (int i = 0; i < {p.keep}; i++) "
                        f"({goal})[i] = ({source})[{g.stride[1]} * i];"
                    )
        lines = "\n            ".join(copies)
        return named(
            "pj_stage",
            f"""
static void @NAME@(const float *PJ_RESTRICT x, float *PJ_RESTRICT e, int channels) {{
    for (int c = 0; c < channels; c++, x += {plane}, e += {f.stage_channel}) {{
        for (int i_r = 0; i_r < {f.stage_rows}; i_r++) {{
            const float *r = x + i_r * {step * pitch};
            float *s = e + i_r * {f.tiles.pitch};
            {lines}
        }}
    }}
}}
""",
        )

    def blocks(self, tile: str, parts: list[str]) -> tuple[str, dict[str, str]]:
        """Calls of `tile` for every image, tile and block of input channels.

        Args:
            tile: Function of (x, y, residual?, bias, what `parts` says, first?, last?).
            parts: Per block the weights.
        """
        f, name = self.frame, self.site.layer.name
        ends = f"y, {'' if self.residual is None else 'z, '}{name}_b"
        if not f.staged:
            return self.loops(f"{tile}(x, {ends}, {parts[0]});"), {}
        stage, text = self.stage()
        lines = []
        for i, part in enumerate(parts):
            width = min(f.block, f.g.channels - i * f.block)
            flags = f", {int(i == 0)}, {int(i == f.blocks - 1)}" if f.blocks > 1 else ""
            lines += [
                self.stage_call(stage, i * f.block, width),
                f"{tile}({self.staged_at}, {ends}, {part}{flags});",
            ]
        return self.loops("\n    ".join(lines)), {stage: text}

    @property
    def scratch(self) -> str:
        """The staged input, in C."""
        memory = f"(float *)({self.site.scratch})"
        own = f" + PJ_THREAD * {self.frame.scratch_bytes // 4}" if self.threads > 1 else ""
        return f"({memory}{own})"

    @property
    def threads(self) -> int:
        """How many may work at the same time: on tiles that do not overlap, else on images."""
        apart = self.frame.tiles.tiles if self.frame.tiles.apart else 1
        return min(self.site.target.threads, self.frame.g.batch * apart)

    @property
    def staged_at(self) -> str:
        """The first pixel of a tile in it."""
        return self.scratch

    def stage_call(self, stage: str, channel: int, count: int) -> str:
        """Statement that stages so many channels of a tile."""
        return f"{stage}(x + {channel * self.x[1]}, {self.scratch}, {count});"

    @property
    def corner(self) -> tuple[int, str]:
        """Elements from the border to the first pixel; of a tile, in C, from there."""
        g = self.frame.g
        back = g.padding[0] * self.x[2] + g.padding[1]
        return back, f" + top * {g.stride[0] * self.x[2]} + left * {g.stride[1]}"

    def loops(self, inner: str) -> str:
        """`inner` for every image and tile; it may use `x`, `y` and `z` (the residual)."""
        f = self.frame
        t = f.tiles
        back, start = self.corner
        x = f"x0 + n * {self.x[0]}{start}"
        lines = [f"const float *x0 = {self.site.inputs[0].pointer} - {back};"]
        lines.append(f"float *y0 = {self.site.outputs[0].pointer};")
        z = ""
        if self.residual is not None:
            lines.append(f"const float *z0 = {self.site.inputs[1].pointer};")
            zs = self.residual
            z = f"const float *z = z0 + n * {zs[0]} + top * {zs[2]} + left;"
        lines += [
            *([f"PJ_THREADS({self.threads})"] if self.threads > 1 else []),
            *self._tiles(),
            f"    const int top = {position('i_top', t.tops)};",
            f"    const int left = {position('i_left', t.lefts)};",
            f"    const float *x = {x};",
            f"    float *y = y0 + n * {self.y[0]} + top * {self.y[2]} + left; {z}",
            f"    {inner}",
            "}",
        ]
        return "\n".join(lines)

    def _tiles(self) -> list[str]:
        """The head of a loop over images and tiles; as one where threads share the tiles."""
        t, batch = self.frame.tiles, self.frame.g.batch
        tops, lefts = len(t.tops), len(t.lefts)
        if self.threads > 1 and t.apart:
            return [
                f"for (int i_tile = 0; i_tile < {batch * t.tiles}; i_tile++) {{",
                f"    const int n = i_tile / {t.tiles}, i_top = i_tile / {lefts} % {tops};",
                f"    const int i_left = i_tile % {lefts};",
                "    (void)i_top, (void)i_left;",
            ]
        return [
            f"for (int n = 0; n < {batch}; n++)",
            f"for (int i_top = 0; i_top < {tops}; i_top++)",
            f"for (int i_left = 0; i_left < {lefts}; i_left++) {{",
        ]


def position(index: str, starts: tuple[int, ...]) -> str:
    """The start of a tile: equal steps, the last one moved back so that it fits."""
    if len(starts) == 1:
        return str(starts[0])
    step, last = starts[1] - starts[0] if len(starts) > 2 else starts[-1], starts[-1]
    return f"{index} * {step} < {last} ? {index} * {step} : {last}"


def pixels(lanes: int, at: str, stride: int) -> str:
    """A vector of input pixels that are one or two apart."""
    return f"*(const pj_vf{lanes} *)({at})" if stride == 1 else f"pj_even{lanes}({at})"


def named(prefix: str, text: str) -> tuple[str, str]:
    """A function's name, made from its text, and the text with the name in it."""
    name = f"{prefix}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return name, text.replace("@NAME@", name)


def merged(*many: Mapping[str, str]) -> dict[str, str]:
    """Functions of several origins, in order."""
    return {k: v for one in many for k, v in one.items()}


def flat_form(g: Geometry, site: Site) -> Geometry:
    """All rows as one, where neighbouring rows touch in every tensor."""
    if not g.pointwise:
        return g
    rows = [(strides4(p)[2], g.size[1]) for p in (*site.inputs, *site.outputs)]
    return g.flat() if g.size[0] == 1 or all(a == b for a, b in rows) else g

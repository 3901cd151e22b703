"""Convolution over maps whose rows are shorter than a vector, or no multiple of it.

The input of a tile is staged once per tap column as in `cover`, but rows touch: a vector goes on in
the next row, so that all its lanes work whatever the width of the map. Padding is written while
staging, tensors need no border, and output rows touch as well. With a stride the rows of every
phase lie together, so that neighbouring output rows are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from penjing.codegen.kernels.cover import Frame, Job, named, pixels
from penjing.codegen.kernels.geometry import Geometry, Piece, Tiling, row_pieces, tiling
from penjing.codegen.kernels.vectors import even, mix, types

LINE = 16
"""Floats of a cache line: planes begin at one, and a vector may run as far over the end."""
MOST_SHIFTED = 8
"""Vectors of a row that are shifted in registers."""
FAR_BYTES, AHEAD = 1 << 20, 2
"""Larger inputs are fetched so many channels ahead."""


@dataclass(frozen=True)
class FlatFrame(Frame):
    """A frame of touching rows."""

    @cached_property
    def tiles(self) -> Tiling:
        """Pieces of the map as one row."""
        return tiling((1, self.g.pixels), self.lanes, self.style.vectors)

    @property
    def staged(self) -> bool:
        """Always."""
        return True

    @cached_property
    def phases(self) -> tuple[int, ...]:
        """Input rows modulo the stride that taps read."""
        g = self.g
        return tuple(sorted({r * g.dilation[0] % g.stride[0] for r in range(g.kernel[0])}))

    @cached_property
    def stage_rows(self) -> int:
        """Rows per phase that any tile needs."""
        g, t = self.g, self.tiles
        last = max(p.column + p.keep for p in t.pieces) - 1
        spans = [(left + last) // g.out[1] - left // g.out[1] + 1 for left in t.lefts]
        return max(spans) + (g.kernel[0] - 1) * g.dilation[0] // g.stride[0]

    @property
    def plane(self) -> int:
        """Elements per tap column and phase."""
        return ceil((self.stage_rows * self.g.out[1] + LINE - 1) / LINE) * LINE

    @property
    def stage_channel(self) -> int:
        """Staged elements per input channel."""
        return self.g.kernel[1] * len(self.phases) * self.plane

    @property
    def stage_vectors(self) -> int:
        """Vectors copied per image."""
        rows = self.g.channels * self.g.kernel[1] * len(self.phases) * self.stage_rows
        return rows * len(row_pieces(self.g.out[1], self.lanes)) * self.tiles.tiles


@dataclass(frozen=True)
class FlatJob(Job):
    """A flat frame with the memory of one layer."""

    frame: FlatFrame

    def tap(self, channel: int, row: int, column: int) -> int:
        """Elements from the start of a tile's input to a tap; the channel counts in its block."""
        f, g = self.frame, self.frame.g
        down, phase = divmod(row * g.dilation[0], g.stride[0])
        plane = (channel * g.kernel[1] + column) * len(f.phases) + f.phases.index(phase)
        return plane * f.plane + down * g.out[1]

    def load(self, row: int, piece: Piece) -> str:  # noqa: ARG002 - all is one row
        """Elements from a tap to the input of a piece."""
        return str(piece.column)

    @property
    def staged_at(self) -> str:
        """The first pixel of a tile: staged is whole rows."""
        width = self.frame.g.out[1]
        return f"{self.scratch} + left % {width}"

    @property
    def corner(self) -> tuple[int, str]:
        """Staging begins at the first pixel, whatever the tile."""
        return 0, ""

    def stage_call(self, stage: str, channel: int, count: int) -> str:
        """Statement that stages so many channels of a tile."""
        row = f"left / {self.frame.g.out[1]}"
        return f"{stage}(x + {channel * self.x[1]}, {self.scratch}, {row}, {count});"

    def functions(self) -> dict[str, str]:
        """Vector types and partial stores, those of staging too."""
        found: dict[str, str] = {}
        if self._whole:
            lanes = self._whole[0].lanes
            found |= {**types(lanes), **mix(lanes)}
        for lanes in {p.lanes for _, _, pieces in self._columns() for p in pieces}:
            found |= types(lanes)
            if self.frame.g.stride[1] == 2:
                found |= even(lanes)
        for p in row_pieces(self.frame.g.out[1], self.frame.lanes):
            found |= types(p.lanes)
        return {**found, **super().functions()}

    def stage(self) -> tuple[str, str]:
        """Name and text of the function that copies the input of a tile, padding included."""
        f, g = self.frame, self.frame.g
        phases = "\n            ".join(
            self._phase(phase, i * f.plane) for i, phase in enumerate(f.phases)
        )
        return named(
            "pj_flat",
            f"""
static void @NAME@(const float *PJ_RESTRICT x, float *PJ_RESTRICT e, int row, int channels) {{
    for (int c = 0; c < channels; c++, x += {self.x[1]}, e += {f.stage_channel}) {{
        for (int i_r = 0; i_r < {f.stage_rows}; i_r++) {{
            float *s = e + i_r * {g.out[1]};
            {phases}
        }}
    }}
}}
""",
        )

    def _phase(self, phase: int, to: int) -> str:
        """One row of one phase, for every tap column."""
        f, g = self.frame, self.frame.g
        goals = [f"s + {i * len(f.phases) * f.plane + to}" for i in range(g.kernel[1])]
        zeros = [
            f"*(pj_vf{p.lanes} *)({goal} + {p.column}) = (pj_vf{p.lanes}){{0}};"
            for goal in goals
            for p in row_pieces(g.out[1], f.lanes)
        ]
        copies = self._ahead() + (self._shifted(goals) if self._whole else self._copied(goals))
        joined = ["\n                ".join(lines) for lines in (zeros, copies)]
        from_row = f"(row + i_r) * {g.stride[0]} + {phase - g.padding[0]}"
        return f"""{{ const int from = {from_row};
            if (from < 0 || from >= {g.size[0]}) {{
                {joined[0]}
            }} else {{
                const float *r = x + from * {self.x[2]};
                {joined[1]}
            }} }}"""

    def _copied(self, goals: list[str]) -> list[str]:
        """Statements that copy a row for every tap column, and the padding at its ends."""
        g, lines = self.frame.g, []
        for column, (first, last, pieces) in enumerate(self._columns()):
            goal, start = goals[column], column * g.dilation[1] - g.padding[1]
            for p in pieces:
                at = first + p.column
                lines.append(self._copy(p, f"{goal} + {at}", f"r + {at * g.stride[1] + start}"))
            edge = [*range(first), *range(last, g.out[1])]
            lines += [f"({goal})[{j}] = 0.0f;" for j in edge]
        return lines

    @cached_property
    def _whole(self) -> tuple[Piece, ...]:
        """The vectors of a row, if it is nothing but whole ones that shift against each other."""
        g = self.frame.g
        pieces = row_pieces(g.out[1], self.frame.lanes)
        lanes = pieces[0].lanes
        shifts = [column * g.dilation[1] - g.padding[1] for column in range(g.kernel[1])]
        able = (
            g.stride[1] == 1
            and g.out[1] == g.size[1] == lanes * len(pieces)
            and len(pieces) <= MOST_SHIFTED
            and all(abs(shift) < lanes for shift in shifts)
        )
        return pieces if able else ()

    def _shifted(self, goals: list[str]) -> list[str]:
        """As `_copied`, shifted in registers: what straddles cache lines costs several times."""
        g, pieces = self.frame.g, self._whole
        n, vf = pieces[0].lanes, f"pj_vf{pieces[0].lanes}"
        names = ["o", *(f"v{i}" for i in range(len(pieces))), "o"]
        lines = [f"const {vf} o = {{0}}; (void)o;"]
        lines += [f"const {vf} v{i} = *(const {vf} *)(r + {i * n});" for i in range(len(pieces))]
        for column, goal in enumerate(goals):
            shift = column * g.dilation[1] - g.padding[1]
            lanes = ", ".join(str(shift % n + i) for i in range(n))
            for i, p in enumerate(pieces):
                pair = names[i + (shift >= 0)], names[i + 1 + (shift >= 0)]
                value = pair[0] if shift == 0 else f"pj_mix{n}({pair[0]}, {pair[1]}, {lanes})"
                lines.append(f"*({vf} *)({goal} + {p.column}) = {value};")
        return lines

    def _ahead(self) -> list[str]:
        """Fetch a row of a channel to come, where tensors are too large to wait in the cache.

        Planes begin at pages of their own, which the processor does not look ahead to.
        """
        g = self.frame.g
        if 4 * g.batch * g.channels * g.size[0] * g.size[1] < FAR_BYTES:
            return []
        at = range(0, g.size[1], LINE)
        return [f"__builtin_prefetch(r + {AHEAD * self.x[1] + i});" for i in at]

    def _copy(self, p: Piece, goal: str, source: str) -> str:
        step = self.frame.g.stride[1]
        if step <= 2:
            return f"*(pj_vf{p.lanes} *)({goal}) = {pixels(p.lanes, source, step)};"
        return f"for (int i = 0; i < {p.keep}; i++) ({goal})[i] = ({source})[{step} * i];"

    def _columns(self) -> list[tuple[int, int, tuple[Piece, ...]]]:
        """Per tap column the output columns whose input is there, and vectors that cover them."""
        g: Geometry = self.frame.g
        found = []
        for column in range(g.kernel[1]):
            start = column * g.dilation[1] - g.padding[1]
            first = min(g.out[1], max(0, ceil(-start / g.stride[1])))
            last = max(first, min(g.out[1], (g.size[1] - 1 - start) // g.stride[1] + 1))
            pieces = row_pieces(last - first, self.frame.lanes) if last > first else ()
            found.append((first, last, pieces))
        return found

"""The nonzeros of a convolution in the order in which a tile multiplies them, and C to read them.

Filters are taken one by one or in bundles that share their taps; input channels in blocks, where
the frame says so. A column is a tap of a channel of its block: (channel, row, column of the
kernel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from penjing.codegen.encodings import WORD, Encoded, Index, encode, narrowest
from penjing.codegen.kernel import Blob
from penjing.codegen.kernels.cover import Job
from penjing.codegen.kernels.geometry import Geometry

WIDE = 64
"""Bits of a word of places."""
READ_AT_ONCE = {
    "PJ_NTH": f"""
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define PJ_NTH(word, i, bits) ((word) >> ({WIDE} - (bits) - (bits) * (i)))
#else
#define PJ_NTH(word, i, bits) ((word) >> ((bits) * (i)))
#endif
"""
}
"""The macro that `places_ahead` uses; name -> text."""


def by_column(weight: np.ndarray, g: Geometry) -> np.ndarray:
    """A weight as a matrix of filters and taps of all channels, those of other groups zero."""
    if g.groups == 1:
        return weight.reshape(g.filters, -1)
    wide = np.zeros((g.groups, g.filters // g.groups, g.groups, weight[0].size), weight.dtype)
    each = np.arange(g.groups)
    wide[each, :, each] = weight.reshape(g.groups, g.filters // g.groups, -1)
    return wide.reshape(g.filters, -1)


@dataclass(frozen=True)
class Lists:
    """The nonzeros of one layer.

    Args:
        job: Where they are used.
        blocks: Per block of input channels.
        bundle: Filters that share their taps.
    """

    job: Job
    blocks: tuple[Encoded, ...]
    bundle: int

    @classmethod
    def of(
        cls, job: Job, weight: np.ndarray, index: Index, *, bundle: int, codebook: bool
    ) -> Lists:
        """The lists of a layer at its site."""
        g = job.frame.g
        matrix = by_column(weight, g)
        wide = job.frame.block * prod(g.kernel)
        whole = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % wide)))
        encoded = [
            encode(whole[:, at : at + wide], index, rows=bundle)
            for at in range(0, whole.shape[1], wide)
        ]
        if codebook:
            encoded = _coded(encoded)
        return cls(job, tuple(encoded), bundle)

    @property
    def index(self) -> Index:
        """How places are written."""
        return self.blocks[0].index

    @property
    def book(self) -> np.ndarray | None:
        """What codes stand for."""
        return self.blocks[0].book

    @property
    def entries(self) -> int:
        """Taps in all lists."""
        return sum(len(e.values) for e in self.blocks)

    @property
    def bundles(self) -> int:
        """Lists per block."""
        return len(self.blocks[0].counts)

    @cached_property
    def table(self) -> np.ndarray:
        """Elements from a tile's first pixel to each column."""
        g, f = self.job.frame.g, self.job.frame
        rows, columns = (range(n) for n in g.kernel)
        taps = np.array([self.job.tap(0, r, c) for r in rows for c in columns])
        channels = np.arange(f.block) * self.job.tap(1, 0, 0)
        return narrowest((channels[:, None] + taps).ravel())

    @cached_property
    def places(self) -> np.ndarray:
        """What the lists say of places."""
        written = [e.places for e in self.blocks]
        if self.index == "csr":
            written = [self.table[e.places] for e in self.blocks]
        return np.concatenate(written)

    @cached_property
    def counts(self) -> np.ndarray:
        """Entries per block and bundle."""
        return narrowest(np.concatenate([e.counts for e in self.blocks]))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By suffix of their name, in the order of the tile's arguments."""
        found = {"w": np.concatenate([e.values.ravel() for e in self.blocks]), "at": self.places}
        if self.index != "bitmap":
            found["n"] = self.counts
        if self._looks_up:
            found["t"] = self.table
        if self.book is not None:
            found["book"] = self.book
        return found

    @property
    def size_bytes(self) -> int:
        """Of all arrays."""
        return sum(a.nbytes for a in self.arrays.values())

    @property
    def _looks_up(self) -> bool:
        """Whether a table turns columns into places: not where they are a multiple."""
        return self.index != "csr" and prod(self.job.frame.g.kernel) > 1

    def blobs(self, name: str) -> list[Blob]:
        """The arrays as constants."""
        roles = {"w": "weight", "book": "weight"}
        return [
            Blob(f"{name}_{key}", _some(array), roles.get(key, "index"))
            for key, array in self.arrays.items()
        ]

    def parts(self, name: str) -> list[str]:
        """Arguments for the tile, per block."""
        entries = _starts([len(e.values) for e in self.blocks])
        starts = {
            "w": [self.bundle * n for n in entries],
            "at": _starts([len(e.places) for e in self.blocks]),
            "n": [i * self.bundles for i in range(len(self.blocks))],
        }
        return [
            ", ".join(
                f"{name}_{key} + {starts[key][i]}" if key in starts else f"{name}_{key}"
                for key in self.arrays
            )
            for i in range(len(self.blocks))
        ]

    @property
    def parameters(self) -> str:
        """Of the tile, in C."""
        return ", ".join(f"const {_c(a)} *{key}" for key, a in self.arrays.items())

    def values(self, entry: int = 0) -> str:
        """Declarations of the values of an entry ahead: `c` and its number, filter by filter."""
        at = [entry * self.bundle + o for o in range(self.bundle)]
        read = "w[{}]" if self.book is None else "book[w[{}]]"
        return " ".join(f"const float c{i} = {read.format(i)};" for i in at)

    def places_ahead(self, count: int) -> str:
        """Declarations of the places of the next entries of csr: `t` and their number.

        The entries are read in words: processors load less often than they shift.
        """
        bits = 8 * self.places.itemsize
        each = WIDE // bits
        lines = []
        for word in range(-(-count // each)):
            lines.append(f"uint64_t p{word}; memcpy(&p{word}, at + {word * each}, {WIDE // 8});")
            lines += [
                f"const float *t{j} = x + (uint{bits}_t)PJ_NTH(p{word}, {j % each}, {bits});"
                for j in range(word * each, min(count, (word + 1) * each))
            ]
        return " ".join(lines)

    def loop(self, body: str) -> str:
        """C that runs `body` for every entry of one list, with `t0` and the values declared."""
        inside = f"{self.values()} w += {self.bundle};\n            {body}"
        if self.index == "bitmap":
            place = self._place("c")
            return f"""for (unsigned i_word = 0; i_word < {self.blocks[0].words}; i_word++) {{
        for (uint32_t bits = *at++; bits; bits &= bits - 1u) {{
            const unsigned c = {WORD}u * i_word + (unsigned)__builtin_ctz(bits);
            const float *t0 = x + {place};
            {inside}
        }}
        }}"""
        step = "x + *at++" if self.index == "csr" else f"x + {self._place('c')}"
        count = "c += *at++; " if self.index == "delta" else ""
        return f"""for (; k; k--) {{
            {count}const float *t0 = {step};
            {inside}
        }}"""

    @property
    def before(self) -> str:
        """Declarations in front of a list's loop."""
        counted = "" if self.index == "bitmap" else "unsigned k = *n++; "
        return counted + ("unsigned c = 0; " if self.index == "delta" else "")

    def _place(self, column: str) -> str:
        return f"t[{column}]" if self._looks_up else f"{column} * {self.job.tap(1, 0, 0)}u"


def _coded(blocks: Sequence[Encoded]) -> list[Encoded]:
    """All blocks with one codebook."""
    book = np.unique(np.concatenate([e.values.ravel() for e in blocks]))
    return [
        Encoded(
            e.index, e.places, e.counts, np.searchsorted(book, e.values).astype(np.uint8), book,
            e.columns,
        )
        for e in blocks
    ]  # fmt: skip


def _starts(lengths: Sequence[int]) -> list[int]:
    return [int(n) for n in np.cumsum([0, *lengths[:-1]])]


def _some(values: np.ndarray) -> np.ndarray:
    """C has no empty arrays."""
    return values if len(values) else np.zeros(1, values.dtype)


def _c(array: np.ndarray) -> str:
    return "float" if array.dtype == np.float32 else f"{array.dtype.name}_t"

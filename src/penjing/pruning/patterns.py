"""Patterns: which weights become zero together.

A layer is seen as matrices of outputs by inputs, the inputs of a convolution being kernel positions
times channels, channels fastest (`statistics.grams.Layer.matrix`). A pattern tiles each matrix.

Suffixes: G = convolution groups, V = outputs of a group, U = inputs of an output, N = bundles of
outputs that share their zeros, R = outputs of a bundle, B = blocks of a bundle, M = inputs of a
block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from penjing.errors import StrategyError

Indivisible = Literal["error", "pad", "skip"]

ELSEWHERE = {
    **dict.fromkeys(("unstructured", "fine-grained", "weight"), "single weights are 'element'"),
    "connection": "all weights between one input and one output channel are 'kernel'",
    **dict.fromkeys(
        ("channel", "filter", "neuron", "head", "unit", "structured"),
        "whole units are for penjing.prune, or train(pruning_ratio=...)",
    ),
    "layer": "whole layers are for penjing.prune(scope={'layers'})",
}
"""Names by which papers and other tools know a pattern."""

_NM = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"block:(\d+)x(\d+)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The shape of sparsity.

    Args:
        rows: Consecutive outputs that share their zeros.
        columns: Consecutive input channels, at one kernel position, that go together.
        kernel: Whether all kernel positions of an output and input channel go together.
        keep: Weights kept of every `of` consecutive input channels; None leaves the number free.
        of: Length of those runs.

    Raises:
        StrategyError: Sizes that make no pattern.
    """

    rows: int = 1
    columns: int = 1
    kernel: bool = False
    keep: int | None = None
    of: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise StrategyError(
                f"a block of {self.rows}x{self.columns} weights is empty; give sizes from 1"
            )
        if (self.keep is None) != (self.of is None):
            raise StrategyError("an n:m pattern needs both n (keep) and m (of)")
        if self.keep is not None and self.of is not None and not 0 < self.keep < self.of:
            raise StrategyError(
                f"pattern {self.keep}:{self.of} keeps {self.keep} of every {self.of} weights; "
                "n must be at least 1 and below m"
            )

    @classmethod
    def parse(cls, text: str | Pattern) -> Pattern:
        """The pattern that a text stands for.

        Args:
            text: "element", "n:m" such as "2:4", "block:RxC" (outputs x input channels) or
                "kernel"; a pattern is returned as it is.

        Returns:
            The pattern.

        Raises:
            StrategyError: The text means no pattern.

        Example:
            >>> Pattern.parse("2:4").name, Pattern.parse("block:1x8").columns
            ('2:4', 8)
        """
        if isinstance(text, Pattern):
            return text
        found = str(text).strip().lower()
        if found == "element":
            return cls()
        if found == "kernel":
            return cls(kernel=True)
        if match := _NM.fullmatch(found):
            return cls(keep=int(match[1]), of=int(match[2]))
        if match := _BLOCK.fullmatch(found):
            return cls(rows=int(match[1]), columns=int(match[2]))
        hint = f": {ELSEWHERE[found]}. Known" if found in ELSEWHERE else "; known"
        raise StrategyError(
            f"no pattern is called {text!r}{hint} are 'element', 'n:m' such as '2:4', 'block:RxC' "
            "such as 'block:1x8', and 'kernel'"
        )

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        if self.keep is not None:
            return f"{self.keep}:{self.of}"
        if self.kernel:
            return "kernel"
        return "element" if self.is_element else f"block:{self.rows}x{self.columns}"

    @property
    def is_element(self) -> bool:
        """Whether every weight stands alone."""
        return self.rows == self.columns == 1 and not self.kernel and self.keep is None

    @property
    def sparsity(self) -> float | None:
        """Share of zeros that the pattern itself fixes; None when it is free."""
        return None if self.keep is None or self.of is None else 1 - self.keep / self.of

    def obstacle(self, outputs: int, channels: int) -> str:
        """Why the pattern does not divide a layer's matrix; empty when it does.

        Args:
            outputs: Outputs of one convolution group.
            channels: Input channels of one convolution group.

        Example:
            >>> Pattern.parse("2:4").obstacle(16, 3)
            '3 input channels are no multiple of 4'
        """
        run = self.of or self.columns
        if channels % run:
            return f"{channels} input channels are no multiple of {run}"
        if outputs % self.rows:
            return f"{outputs} outputs are no multiple of {self.rows}"
        return ""


@dataclass(frozen=True, eq=False)
class Tiling:
    """A pattern laid over the matrices of one layer.

    Args:
        pattern: The pattern.
        groups: Convolution groups.
        outputs: Outputs of one group.
        taps: Kernel positions.
        channels: Input channels of one group.
    """

    pattern: Pattern
    groups: int
    outputs: int
    taps: int
    channels: int

    @classmethod
    def of(cls, pattern: Pattern, matrix: Tensor, taps: int) -> Self:
        """The tiling of a weight.

        Args:
            pattern: The pattern.
            matrix: The layer's weight as matrices `(G, V, U)`.
            taps: Kernel positions.
        """
        groups, outputs, unknowns = matrix.shape
        return cls(pattern, groups, outputs, taps, unknowns // taps)

    @cached_property
    def index(self) -> Tensor:
        """Input of every place of every block, `(B, M)` int64; -1 where a block sticks out."""
        taps = torch.arange(self.taps)[:, None] * self.channels
        if self.pattern.kernel:
            return (taps + torch.arange(self.channels)).T.contiguous()
        run = self.pattern.of or self.pattern.columns
        padded = -(-self.channels // run) * run
        channel = torch.arange(padded)
        index = torch.where(channel < self.channels, taps + channel, -1).flatten()
        return index.reshape(-1, self.pattern.columns)

    @cached_property
    def real(self) -> Tensor:
        """Places of `index` that are inputs, `(B, M)` bool."""
        return self.index >= 0

    @property
    def bundles(self) -> int:
        """Bundles of one group."""
        return -(-self.outputs // self.pattern.rows)

    @cached_property
    def sizes(self) -> Tensor:
        """Weights in every block of every bundle, `(N, B)` float64."""
        last = self.outputs - (self.bundles - 1) * self.pattern.rows
        rows = torch.full((self.bundles,), float(self.pattern.rows), dtype=torch.float64)
        rows[-1] = last
        return (rows[:, None] * self.real.sum(1)).repeat(self.groups, 1)

    def blocks(self, matrix: Tensor) -> Tensor:
        """A matrix `(G, V, U)` cut into its blocks `(N, R, B, M)`, zeros where they stick out."""
        wide = torch.cat([matrix, matrix.new_zeros(*matrix.shape[:2], 1)], 2)
        tiles = wide[:, :, self.index]
        missing = self.bundles * self.pattern.rows - self.outputs
        if missing:
            tiles = torch.cat([tiles, tiles.new_zeros(self.groups, missing, *tiles.shape[2:])], 1)
        return tiles.reshape(-1, self.pattern.rows, *self.index.shape)

    def empty(self, matrix: Tensor) -> Tensor:
        """Blocks of a matrix `(G, V, U)` that are all zero, `(N, B)` bool."""
        return (self.blocks(matrix).count_nonzero((1, 3)) == 0) & (self.sizes > 0)

    def spread(self, kept: Tensor) -> Tensor:
        """Blocks that stay `(N, B)` as weights that stay `(G, V, U)`, both bool."""
        rows = kept.view(self.groups, self.bundles, -1).repeat_interleave(self.pattern.rows, 1)
        rows = rows[:, : self.outputs]
        inputs = self.taps * self.channels
        mask = torch.zeros(self.groups, self.outputs, inputs, dtype=torch.bool, device=kept.device)
        places = self.real.nonzero()
        mask[:, :, self.index[self.real]] = rows[:, :, places[:, 0]]
        return mask

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:
        """The mask `(G, V, U)` that drops the lowest-scored blocks.

        Args:
            scores: `(N, B)`; the lowest go first.
            sparsity: Share of the weights to drop, rounded down to whole blocks; an n:m pattern
                has its own.
        """
        if self.pattern.keep is not None and self.pattern.of is not None:
            runs = scores.view(len(scores), -1, self.pattern.of)
            best = runs.argsort(dim=2, descending=True, stable=True)[:, :, : self.pattern.keep]
            kept = torch.zeros_like(runs, dtype=torch.bool).scatter_(2, best, True)
            return self.spread(kept.view_as(scores))
        order = scores.flatten().argsort(stable=True)
        gone = self.sizes.flatten()[order].cumsum(0) <= sparsity * float(self.sizes.sum()) + 1e-6
        kept = torch.ones(scores.numel(), dtype=torch.bool)
        kept[order[gone]] = False
        return self.spread(kept.view_as(scores))

"""A saliency of single elements as an importance of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.pruning.patterns import Tiling
from penjing.pruning.saliency import Saliency
from penjing.pruning.weights.protocol import Matrix, Target, WeightImportance
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """Mean of a saliency over the weights of each block.

    Where values are signed, all of them are raised by the same amount, so that the lowest is 0.

    Args:
        saliency: `Fisher`, `Snip`, `Grasp`, `Movement`, `SynFlow` or one of your own.
    """

    saliency: Saliency

    @property
    def needs_data(self) -> bool:
        """As the saliency."""
        return self.saliency.needs_data

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: a saliency looks at the whole network.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise StrategyError(
            f"{type(self.saliency).__name__} judges a whole network; call prepare(program, "
            "targets, calibration) first"
        )

    def prepare(
        self, program: Program, targets: Sequence[Target], calibration: Calibration | None
    ) -> WeightImportance:
        """Judge every weight that may become sparse.

        Args:
            program: The captured network; not changed.
            targets: What may become sparse.
            calibration: Samples; None where the saliency needs none.

        Returns:
            An importance for these weights.
        """
        weights = {t.weight: program.tensors[t.weight].detach() for t in targets}
        values = self.saliency.elements(program, weights, calibration)
        lowest = min((float(v.min()) for v in values.values()), default=0.0)
        shift = min(lowest, 0.0)
        return _Judged({t.weight: t.matrix(values[t.weight]) - shift for t in targets})


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Values of every weight as matrices `(G, V, U)`, by name."""

    values: Mapping[str, Tensor]

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        own = tiling.blocks(self.values[layer.name])
        return own.sum((1, 3)) / tiling.sizes.clamp_min(1)

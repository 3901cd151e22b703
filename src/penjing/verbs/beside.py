"""What one allocation decides beside widths: the zeros of layers, and the bits of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from penjing.counts.macs import Counter
from penjing.counts.sizes import Shape
from penjing.errors import BudgetError
from penjing.plan import BITS, WEIGHTS, Group
from penjing.pruning.density import COSTS as OF_ZEROS
from penjing.pruning.density import Densities
from penjing.quantization.precision import COSTS as OF_BITS
from penjing.quantization.precision import Precisions
from penjing.task import Calibration


@dataclass(frozen=True, eq=False)
class Beside:
    """Groups that are no units: parts of weights that become zero, and bits.

    Args:
        densities: Layers that may have zeros; None where zeros are not in scope.
        precisions: Layers that may have few bits; None where bits are not in scope.
    """

    densities: Densities | None = None
    precisions: Precisions | None = None

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups of both."""
        thin = () if self.densities is None else self.densities.groups
        few = () if self.precisions is None else self.precisions.groups
        return (*thin, *few)

    def errors(self, calibration: Calibration) -> dict[str, Tensor]:
        """Error by parts or bits that are gone, by group.

        Args:
            calibration: Unlabelled samples.
        """
        thin = {} if self.densities is None else self.densities.errors(calibration)
        few = {} if self.precisions is None else self.precisions.errors(calibration)
        return {**thin, **few}

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of what zeros or bits save."""
        thin = () if self.densities is None else OF_ZEROS
        few = () if self.precisions is None else OF_BITS
        return tuple(dict.fromkeys((*thin, *few)))

    def values(self, counter: Counter, shape: Shape, kept: Mapping[str, int]) -> dict[str, float]:
        """Every one of these costs.

        Args:
            counter: Of the program, or of what is left of it.
            shape: Shapes after a cut.
            kept: Units, parts and bits by group; the network in floats where there are none.
        """
        found = dict[str, float]()
        if self.densities is not None:
            found |= zip(OF_ZEROS, self.densities.costs(counter, shape, kept), strict=True)
        if self.precisions is not None:
            found |= zip(OF_BITS, self._in_integers(counter, shape, kept), strict=True)
        return found

    def _in_integers(
        self, counter: Counter, shape: Shape, kept: Mapping[str, int]
    ) -> tuple[float, float]:
        assert self.precisions is not None  # the caller has looked
        if not kept:
            return self.precisions.in_floats(counter, shape)
        thin = self.densities
        shares = {} if thin is None else thin.shares(kept)

        def left(name: str, elements: int) -> float:
            return elements if thin is None else thin.left(name, elements, shares.get(name, 1.0))

        return self.precisions.costs(counter, shape, kept, left)

    def check(self, budgets: Mapping[str, float]) -> None:
        """Refuse budgets under which zeros or bits would save nothing.

        Raises:
            BudgetError: Names those that count them.
        """
        for what, part, counted in (
            (WEIGHTS, self.densities, self.costs),
            (BITS, self.precisions, OF_BITS),
        ):
            if part is not None and not set(budgets) & set(counted):
                raise BudgetError(
                    f"scope holds {what!r} and no budget counts "
                    f"{'zeros' if what == WEIGHTS else 'bits'}; give constraints for one of "
                    f"{', '.join(counted)}"
                )

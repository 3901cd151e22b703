"""What an importance is: a score per unit, with or without data, with or without error curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from penjing.graph.network import Network
from penjing.plan import Group
from penjing.task import Calibration


class Importance(Protocol):
    """Rank the units of a group. Any callable of this shape is an importance."""

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:
        """Return one finite, non-negative value per unit; the lowest is cut first.

        Args:
            model: The user's network; read, never changed.
            group: Coupled units; `group.slices` names the tensors.

        Returns:
            Scores, shape `(group.units,)`.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """An importance that must see the whole network first, most often on data.

    One that reads no data has an attribute `needs_data` that is False.
    """

    def prepare(self, network: Network, calibration: Calibration | None) -> Importance:
        """Look at the data once, for all groups.

        Args:
            network: The captured network and its groups; the model behind it is not changed.
            calibration: Samples, with labels where the importance needs them; None only for one
                that needs no data.

        Returns:
            An importance for the groups of `network`.
        """
        ...


@runtime_checkable
class HasErrors(Protocol):
    """An importance that knows what dropping the lowest units costs."""

    def errors(self, group: Group, /) -> Tensor:
        """Relative output error after dropping the k lowest units.

        Args:
            group: A group of the network it was prepared for.

        Returns:
            Shape `(units + 1,)`, starting at 0, non-decreasing.
        """
        ...


@runtime_checkable
class HasReasons(Protocol):
    """An importance that judges some groups in a simpler way than its own, and says so."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why, by group name; groups that are judged in its own way are left out."""
        ...

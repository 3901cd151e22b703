"""Sensitivity: what is lost by dropping more and more of a group, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance.curves import curve_through
from penjing.pruning.importance.protocol import HasReasons, Importance, Prepares
from penjing.pruning.importance.scores import without_data
from penjing.pruning.masked import Losses, zeroed
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The order of another importance, with error curves that are measured on the whole network.

    For every group the lowest-scored units are set to zero, more and more of them, and the
    divergence of the outputs is noted; between the points the curve is straight. Groups are tried
    alone, so the curves know nothing of one another. Allocations that read errors ("dp",
    "sensitivity", "netadapt") then spend these.

    Args:
        order: The importance that ranks the units within a group.
        points: Numbers of units that are tried per group, evenly spread.
        samples: Samples at most, the first ones of the calibration data.

    Raises:
        StrategyError: A setting is below 1.

    Source:
        Sensitivity analysis of single layers of Han et al. 2015, arXiv:1506.02626, and Li et al.
        2017, arXiv:1608.08710, by the divergence of the outputs instead of the accuracy.
    """

    order: Importance | Prepares
    points: int = 8
    samples: int = 64

    def __post_init__(self) -> None:
        if self.points < 1 or self.samples < 1:
            raise StrategyError(
                f"sensitivity: points is {self.points} and samples {self.samples}; both are at "
                "least 1"
            )

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: nothing is measured without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise without_data("sensitivity")

    def prepare(self, network: Network, calibration: Calibration) -> Measured:
        """Let the order see its data; curves are measured when they are first asked for.

        Args:
            network: The captured network; the model behind it is not changed.
            calibration: Samples, with labels where the importance behind the order needs them.

        Returns:
            An importance for the groups of `network`, with error curves.
        """
        judge = self.order
        if isinstance(judge, Prepares):
            judge = judge.prepare(network, calibration)
        return Measured(judge, Losses(network.program, calibration, self.samples), self.points)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The order of one network's units, and curves that are measured on it.

    Args:
        judge: Ranks the units.
        losses: Measures.
        points: Numbers of units that are tried per group.
    """

    judge: Importance
    losses: Losses
    points: int
    _orders: dict[str, list[int]] = field(default_factory=dict)
    _curves: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[str, str]:
        """As the judge."""
        return self.judge.reasons if isinstance(self.judge, HasReasons) else {}

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:
        """Scores of `group`, shape `(group.units,)`.

        Args:
            model: Read by the importance behind the order.
            group: A group of the network that was prepared.

        Returns:
            Its scores.
        """
        scores = self.judge(model, group)
        self._orders[group.name] = scores.detach().cpu().double().argsort(stable=True).tolist()
        return scores

    def errors(self, group: Group, /) -> Tensor:
        """Measured loss after dropping the k lowest units.

        Args:
            group: A group whose scores were asked for before.

        Returns:
            `(units + 1,)` float64, non-decreasing, 0 first.

        Raises:
            StrategyError: Its scores were not asked for.
        """
        if group.name not in self._orders:
            raise StrategyError(
                f"sensitivity measures along an order, and group {group.name!r} has none yet; ask "
                "for its scores first"
            )
        if group.name not in self._curves:
            self._curves[group.name] = self._measured(group)
        return self._curves[group.name]

    def _measured(self, group: Group) -> Tensor:
        order = self._orders[group.name]
        shares = torch.linspace(0, group.units, self.points + 2)[1:-1].round().int().tolist()
        counts = sorted({int(count) for count in shares} - {0, group.units})
        lost = self.losses.of([zeroed(self.losses.program, group, order[:c]) for c in counts])
        return curve_through(counts, lost, group.units)

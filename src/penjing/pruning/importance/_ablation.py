"""Direct ablation: what is lost without a unit, measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.gradients import Loss
from penjing.pruning.importance.scores import Scores, without_data
from penjing.pruning.masked import Losses, zeroed
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What the outputs lose when a unit alone is set to zero.

    Without a loss it is the mean Kullback-Leibler divergence between the prediction before and
    after (the squared change of outputs that are no scores of classes), and no labels are needed.
    With one it is the rise of the mean loss; a unit whose removal helps goes first. Only what lies
    behind the unit is run again, still once per unit: the dearest criterion of all.

    Args:
        samples: Samples at most, the first ones of the calibration data.
        loss: `loss(outputs, labels)`, a mean over samples.

    Raises:
        StrategyError: `samples` is below 1.

    Source:
        The oracle of Molchanov et al. 2017, arXiv:1611.06440, section 2.2; by the divergence as in
        Men et al. 2024, arXiv:2403.03853, does with layers by their similarity. Where a norm runs
        over the units, its statistics still count the zeros.
    """

    samples: int = 64
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise StrategyError(f"ablation: samples is {self.samples}; it must be at least 1")

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: nothing is lost without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise without_data("ablation")

    def prepare(self, network: Network, calibration: Calibration) -> Scores:
        """Leave out every unit of every group, one at a time.

        Args:
            network: The captured network; the model behind it is not changed.
            calibration: Samples, with labels when there is a loss.

        Returns:
            An importance for the groups of `network`.

        Raises:
            StrategyError: Labels are missing.
        """
        losses = Losses(network.program, calibration, self.samples, self.loss)
        scores = {
            g.name: losses.of([zeroed(network.program, g, [u]) for u in range(g.units)])
            for g in network.groups
        }
        lowest = min((float(s.min()) for s in scores.values()), default=0.0)
        return Scores("ablation", {n: (s - min(lowest, 0.0)).float() for n, s in scores.items()})

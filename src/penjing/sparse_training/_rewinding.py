"""Lottery tickets: train, prune, go back, and train again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from penjing.errors import BudgetError, StrategyError
from penjing.pruning.sparsity import resolve
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.sparse_training.protocol import Moment

Rewind = Literal["weights", "rate"]
DONE = "passes done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewinding:
    """Several passes in one run; before each but the first the smallest weights go.

    The run is cut into `rounds + 1` equal passes. `penjing.train` lets the learning rate begin each
    of them where it was at `to`; in a loop of your own, `restarted` does that to a schedule.

    Args:
        sparsity: Share of zeros at the end, in (0, 1); every round drops the same share of what is
            left.
        rounds: How often weights are dropped, at least 1.
        rewind: "weights" also puts the weights that stay, and all else, back to what they were at
            `to` (lottery ticket); "rate" keeps them, only the learning rate goes back.
        to: Share of the first pass after which the weights are noted, in [0, 1).
        allocation: How zeros are spread over layers.

    Raises:
        BudgetError: A sparsity outside its range.
        StrategyError: Another value outside its range.

    Source:
        Frankle & Carbin 2019, arXiv:1803.03635; rewinding to an early step as in Frankle et al.
        2020, arXiv:1912.05671; of the rate as in Renda et al. 2020, arXiv:2003.02389.
    """

    sparsity: float
    rounds: int = 3
    rewind: Rewind = "weights"
    to: float = 0.1
    allocation: str | SparsityAllocation = "global"

    def __post_init__(self) -> None:
        resolve(self.allocation)
        if not 0 < self.sparsity < 1:
            raise BudgetError(f"sparsity is {self.sparsity}; it is a share of weights in (0, 1)")
        if self.rewind not in get_args(Rewind):
            raise StrategyError(f"rewind is {self.rewind!r}; known are {get_args(Rewind)}")
        if self.rounds < 1 or not 0 <= self.to < 1:
            raise StrategyError(
                f"rounds is {self.rounds} and to {self.to}; at least one round, and a share of a "
                "pass in [0, 1)"
            )

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return self.sparsity

    @property
    def complete_at(self) -> float:
        """The beginning of the last pass."""
        return self.rounds / (self.rounds + 1)

    def restarted(self, schedule: Callable[[float], float]) -> Callable[[float], float]:
        """A schedule of one pass as that of the whole run."""

        def restarted(progress: float) -> float:
            place = progress * (self.rounds + 1)
            number = min(int(place), self.rounds)
            begin = self.to if number else 0.0
            return schedule(begin + (1 - begin) * min(place - number, 1.0))

        return restarted

    def on_gradients(self, moment: Moment, /) -> None:
        """Note the state that later passes go back to, before the step that leaves it."""
        early = moment.progress * (self.rounds + 1) < self.to
        if self.rewind == "weights" and DONE not in moment.memory and not early:
            moment.memory.update(
                {f"then {name}": t.detach().clone() for name, t in _tensors(moment).items()}
            )
            moment.memory[DONE] = torch.zeros(())

    def on_weights(self, moment: Moment, /) -> None:
        """At the edge of a pass: drop, and go back."""
        number = min(int(moment.progress * (self.rounds + 1)), self.rounds)
        done = int(moment.memory.get(DONE, torch.zeros(())))
        if number <= done:
            return
        scores = {n: w.detach().square() for n, w in moment.masks.weights.items()}
        share = 1 - (1 - self.sparsity) ** (number / self.rounds)
        moment.masks.choose(scores, share, resolve(self.allocation))
        if self.rewind == "weights":
            with torch.no_grad():
                for name, tensor in _tensors(moment).items():
                    tensor.copy_(moment.memory[f"then {name}"])
        moment.memory[DONE] = torch.tensor(float(number))
        moment.restarts = True


def _tensors(moment: Moment) -> dict[str, Tensor]:
    """All that training moves."""
    model = moment.masks.model
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

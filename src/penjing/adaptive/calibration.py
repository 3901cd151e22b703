"""Thresholds of exits, chosen on validation data: the cheapest within a drop, the best in a budget.

Every exit's outputs are computed once; a candidate policy is then a matter of indexing.

Suffixes: N = samples, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from penjing.adaptive.criteria import NEVER, Criterion, ExitPolicy, certainty, decision
from penjing.adaptive.exits import EarlyExitNetwork
from penjing.errors import InfeasibleError, InputError
from penjing.task import Task, evaluating, random_kept
from penjing.task.definition import Split
from penjing.task.metrics import Scores
from penjing.task.randomness import device_of

LEVELS = 40  # thresholds tried per exit: quantiles of how sure it is
ROUNDS = 10  # of coordinate descent; it ends when none of the thresholds moves


@dataclass(frozen=True, eq=False)
class Answers:
    """What every exit says of a split.

    Args:
        logits: Per exit `(N, C)`, on the CPU, the network's own end last.
        labels: Or None.
        task: What quality is.
    """

    logits: tuple[Tensor, ...]
    labels: Tensor | None
    task: Task

    @classmethod
    def of(cls, network: EarlyExitNetwork, task: Task, split: Split = "val") -> Answers:
        """Run the network over a split.

        Raises:
            InputError: There is no such data, or it gives no batches.
        """
        device, rows, labels = device_of(network), list[list[Tensor]](), list[Tensor]()
        data = task.data(split)
        with evaluating(network), random_kept(data), torch.inference_mode():
            for batch in task.batches(split):
                said = task.predict(network, batch.to(device).inputs)
                rows.append([one.float().cpu() for one in said])
                if isinstance(batch.labels, Tensor):
                    labels.append(batch.labels.cpu())
        if not rows:
            raise InputError(f"{split} gave no batches; is the loader empty?")
        logits = tuple(torch.cat(column) for column in zip(*rows, strict=True))
        known = len(labels) == len(rows)
        return cls(logits, torch.cat(labels) if known else None, task)

    @property
    def exits(self) -> int:
        """Outputs, the network's own end included."""
        return len(self.logits)

    @cached_property
    def stacked(self) -> Tensor:
        """`(exits, N, C)`."""
        return torch.stack(self.logits)

    @property
    def judged_by(self) -> str:
        """What quality is, in words."""
        labelled = self.labels is not None and self.task.metrics
        return self.task.headline if labelled else "agreement with the network's own end"

    @cached_property
    def _sign(self) -> int:
        """1 where a higher figure is better."""
        labelled = self.labels is not None and self.task.metrics
        return 1 if not labelled or self.task.maximise else -1

    def quality(self, taken: Tensor) -> float:
        """The first metric when each sample answers at the exit that it takes."""
        outputs = self.stacked[taken, torch.arange(len(taken))]
        if self.labels is None or not self.task.metrics:
            alike = decision(outputs) == decision(self.logits[-1])
            return float(alike.double().mean())
        name = self.task.headline
        scores = Scores({name: self.task.metrics[name]}, torch.device("cpu"))
        scores.update(outputs, self.labels)
        return scores.compute()[name]

    @cached_property
    def reference(self) -> float:
        """Quality of the network's own end."""
        return self.quality(torch.full((len(self.logits[0]),), self.exits - 1))

    def drop(self, quality: float) -> float:
        """How much worse than the network's own end, never mind the metric's direction."""
        return self._sign * (self.reference - quality)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy and what it comes to on the validation data.

    Args:
        policy: Who leaves where.
        cost: Mean over the samples.
        quality: The first metric.
        drop: How much worse than the network's own end, absolute.
        shares: Of the samples, per exit.
    """

    policy: ExitPolicy
    cost: float
    quality: float
    drop: float
    shares: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Searches thresholds of one criterion.

    Args:
        answers: Of every exit on validation data.
        costs: What a sample costs that leaves at each exit, everything before included.
        criterion: Of leaving.
    """

    answers: Answers
    costs: tuple[float, ...]
    criterion: Criterion

    def candidate(self, policy: ExitPolicy) -> Candidate:
        """What a policy comes to."""
        taken = policy.route(self.answers.logits)
        counts = torch.bincount(taken, minlength=self.answers.exits).double()
        shares = counts / counts.sum()
        quality = self.answers.quality(taken)
        cost = float(shares @ torch.tensor(self.costs, dtype=torch.float64))
        drop = self.answers.drop(quality)
        return Candidate(policy, cost, quality, drop, tuple(shares.tolist()))

    def curve(self) -> list[Candidate]:
        """Candidates with one threshold for all exits, the cheapest first."""
        found = [self.candidate(policy) for policy in self._shared()]
        return sorted(found, key=lambda one: (one.cost, one.drop))

    def within_drop(self, max_drop: float) -> Candidate:
        """The cheapest policy that loses at most `max_drop`."""
        return self._descend(
            lambda one: (one.drop > max_drop, one.cost if one.drop <= max_drop else one.drop)
        )

    def within_cost(self, budget: float) -> Candidate:
        """The policy that loses least at a mean cost of at most `budget`.

        Raises:
            InfeasibleError: Leaving at the first exit costs more.
        """
        best = self._descend(
            lambda one: (one.cost > budget, one.drop if one.cost <= budget else one.cost, one.cost)
        )
        if best.cost > budget:
            raise InfeasibleError(
                f"a mean cost of {budget:g} is below {best.cost:g}, what it takes when every "
                "sample leaves as early as it can; attach an earlier exit",
                {"cost": best.cost},
            )
        return best

    def _descend(self, order: Callable[[Candidate], tuple[float, ...]]) -> Candidate:
        """From the best shared threshold, one exit's threshold at a time until none moves."""
        best = min(self.curve(), key=order)
        if self.criterion == "patience":
            return best
        for _ in range(ROUNDS):
            start = best
            for place, levels in enumerate(self._levels):
                given = best.policy.thresholds
                others = (
                    ExitPolicy(
                        criterion=self.criterion,
                        thresholds=(*given[:place], level, *given[place + 1 :]),
                    )
                    for level in levels
                )
                best = min([best, *map(self.candidate, others)], key=order)
            if best is start:
                break
        return best

    def _shared(self) -> Iterator[ExitPolicy]:
        early = self.answers.exits - 1
        if self.criterion == "patience":
            values: Sequence[float] = [*range(1, early + 1), NEVER]
        else:
            values = sorted({level for levels in self._levels for level in levels})
        for value in values:
            yield ExitPolicy(criterion=self.criterion, thresholds=(float(value),) * early)

    @cached_property
    def _levels(self) -> list[list[float]]:
        """Per early exit the thresholds to try: 0 lets all leave."""
        at = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
        found = []
        for logits in self.answers.logits[:-1]:
            sure = certainty(self.criterion, logits).double()
            found.append([0.0, *dict.fromkeys(sure.quantile(at).tolist()), NEVER])
        return found

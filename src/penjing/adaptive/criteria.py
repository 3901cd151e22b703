"""When a sample leaves: by how sure an exit is, or by how many exits in a row agree.

Suffixes: N = samples, C = classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.errors import CheckpointError, StrategyError

Criterion = Literal["confidence", "entropy", "patience"]
NEVER = math.inf
"""Threshold of an exit that no sample takes."""

Memory = tuple[Tensor, ...]
"""What later exits must know of earlier ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitPolicy:
    """Who leaves at which exit.

    Args:
        criterion: "confidence": the probability of the likeliest class; "entropy": one minus the
            entropy of the probabilities as a share of the largest that it can be; "patience": how
            many exits in a row have given the same class.
        thresholds: Per early exit, how much it takes to leave there; `NEVER` closes an exit.

    Raises:
        StrategyError: An unknown criterion, or a threshold that makes no sense.

    Source:
        Teerapittayanon et al. 2016, arXiv:1709.01686 (entropy; here normalised and turned round);
        Huang et al. 2018, arXiv:1703.09844 (confidence); Zhou et al. 2020, arXiv:2006.04152
        (patience).
    """

    criterion: Criterion = "confidence"
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.criterion not in get_args(Criterion):
            known = ", ".join(get_args(Criterion))
            raise StrategyError(f"unknown criterion {self.criterion!r}; known are {known}")
        for number in self.thresholds:
            if math.isnan(number) or number < 0:
                raise StrategyError(f"a threshold is {number}; it must be 0 or more, or NEVER")

    @classmethod
    def closed(cls, exits: int) -> Self:
        """Every sample goes through the whole network."""
        return cls(thresholds=(NEVER,) * exits)

    def leaving(self, index: int, logits: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Which samples leave at an exit.

        Args:
            index: Number of the exit.
            logits: Its class scores, `(N, C)`; one column is the logit of a binary decision.
            memory: What the exit before gave, for the same samples.

        Returns:
            A mask `(N,)`, and what the next exit must know.
        """
        if self.criterion != "patience":
            return certainty(self.criterion, logits) >= self.thresholds[index], ()
        decided = decision(logits)
        agreed = torch.ones_like(decided)
        if memory:
            before, run = memory
            agreed = torch.where(decided == before, run + 1, agreed)
        return agreed >= self._wanted(index), (decided, agreed)

    def _wanted(self, index: int) -> int:
        """Exits in a row that must agree; more than there are where none may leave.

        A whole number, since ONNX compares whole numbers with whole ones, and none is infinite.
        """
        most = len(self.thresholds) + 1
        return min(math.ceil(min(self.thresholds[index], most)), most)

    def route(self, logits: Sequence[Tensor]) -> Tensor:
        """The exit of every sample, given what every exit would say.

        Args:
            logits: Of every exit, the network's own end last, `(N, C)` each.

        Returns:
            Numbers of exits, int64, `(N,)`.
        """
        taken = torch.full((len(logits[0]),), len(logits) - 1, device=logits[0].device)
        memory: Memory = ()
        for index, scores in enumerate(logits[:-1]):
            leaves, memory = self.leaving(index, scores, memory)
            taken = torch.where(leaves & (taken == len(logits) - 1), index, taken)
        return taken

    def to_json(self) -> dict[str, Any]:
        """JSON content."""
        return {"criterion": self.criterion, "thresholds": [str(t) for t in self.thresholds]}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read what `to_json` gave.

        Raises:
            CheckpointError: It is something else.
        """
        try:
            thresholds = tuple(float(text) for text in content["thresholds"])
            return cls(criterion=content["criterion"], thresholds=thresholds)
        except (KeyError, TypeError, ValueError, StrategyError) as error:
            raise CheckpointError(f"this does not say when samples leave: {error}") from error


def certainty(criterion: Criterion, logits: Tensor) -> Tensor:
    """How sure an exit is of each sample, in [0, 1].

    Args:
        criterion: "confidence" or "entropy".
        logits: `(N, C)`.

    Returns:
        `(N,)`, float32, or float64 of such logits.
    """
    if logits.dtype in {torch.float16, torch.bfloat16}:  # which have nothing between 0.9995 and 1
        logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], 1)
    if criterion == "confidence":
        return F.softmax(logits, 1).amax(1)
    logs = F.log_softmax(logits, 1)
    return 1 + (logs.exp() * logs).sum(1) / math.log(logits.shape[1])


def decision(logits: Tensor) -> Tensor:
    """The class of each sample, int64."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)

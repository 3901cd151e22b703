"""Random local search: small exchanges between groups, kept when the outputs lose less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penjing.pruning.allocation.searching import Searching
from penjing.pruning.allocation.space import Candidate
from penjing.pruning.allocation.trying import Proxy, Trials

MISSES = 4  # exchanges per trial, since some lead to what was tried before
REACH = 3  # one raise takes at most this part of the room above


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearch(Searching):
    """Improve the solver's answer by random exchanges between groups.

    One group is raised, others pay for it; the new candidate replaces the old where the outputs
    lose less.

    Settings are those of `Searching`.

    Source:
        Random hill climbing as in the coefficient search of Frantar and Alistarh 2022 (SPDY),
        arXiv:2201.13096, section 3.3; there over the coefficients of the errors.
    """

    name: ClassVar[str] = "local_search"

    evaluations: int = 60
    proxy: Proxy = "repaired"

    def _search(self, trials: Trials) -> Candidate:
        rng = np.random.default_rng(self.seed)
        best = trials.solver.solve()
        trials(best)
        for _ in range(MISSES * self.evaluations):
            if not trials.left:
                break
            new = _exchanged(trials, best, rng)
            if trials(new) < trials(best):
                best = new
        return best


def _exchanged(trials: Trials, point: Candidate, rng: np.random.Generator) -> Candidate:
    """One group raised by chance, another lowered until the budgets are met."""
    options = trials.space.options
    up, down = rng.permutation(len(point))[:2].tolist() if len(point) > 1 else (0, 0)
    new = list(point)
    room = len(options[up]) - 1 - new[up]
    new[up] += int(rng.integers(1, max(2, room // REACH + 1))) if room else 0
    while new[down] and not trials.space.feasible(tuple(new)):
        new[down] -= 1
    return trials.fitted(tuple(new), rng)

"""Genetic search: candidates that breed within the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penjing.pruning.allocation._uniform import smallest_share
from penjing.pruning.allocation.searching import Searching
from penjing.pruning.allocation.space import Candidate
from penjing.pruning.allocation.trying import Proxy, Trials

ELITE = 2  # candidates that live on
TOURNAMENT = 3  # candidates drawn for a parent
HALF = 0.5
MUTATION = 0.15  # share of the groups that move
SPREAD = 0.15  # of a step, as a share of a group's options
MISSES = 4  # generations per trial budget, since some children were tried before


@dataclass(frozen=True, slots=True, kw_only=True)
class Genetic(Searching):
    """Breed candidates: parents by tournament, groups from either, a few mutated, all fitted.

    The first population is the solver's answer, the uniform one and mutations of both; the best
    two of every generation live on.

    Settings are those of `Searching`, and one more.

    Args:
        population: Candidates of one generation.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Evolutionary search over widths within a constraint as in Guo et al. 2020, arXiv:1904.00420,
        section 3.4.
    """

    name: ClassVar[str] = "genetic"

    evaluations: int = 120
    population: int = 20
    proxy: Proxy = "masked"

    def _search(self, trials: Trials) -> Candidate:
        rng = np.random.default_rng(self.seed)
        first = [trials.solver.solve(), smallest_share(trials.space, 0.0)]
        crowd = [*first]
        while len(crowd) < self.population:
            crowd.append(_mutated(trials, first[len(crowd) % 2], rng))
        for _ in range(MISSES * self.evaluations // self.population + 1):
            crowd.sort(key=lambda c: (trials(c), c))
            if not trials.left:
                break
            children = [
                _mutated(trials, _crossed(*_parents(trials, crowd, rng), rng), rng)
                for _ in range(self.population - ELITE)
            ]
            crowd = [*crowd[:ELITE], *children]
        return trials.best


def _parents(
    trials: Trials, crowd: Sequence[Candidate], rng: np.random.Generator
) -> tuple[Candidate, Candidate]:
    """Two winners of small tournaments."""

    def winner() -> Candidate:
        drawn = rng.integers(len(crowd), size=TOURNAMENT)
        return min((crowd[int(i)] for i in drawn), key=trials)

    return winner(), winner()


def _crossed(one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
    """Every group from either parent."""
    mine = rng.random(len(one)) < HALF
    return tuple(a if own else b for a, b, own in zip(one, other, mine, strict=True))


def _mutated(trials: Trials, point: Candidate, rng: np.random.Generator) -> Candidate:
    """Some groups moved by a normal step, then fitted into the budgets."""
    sizes = np.array([len(options) for options in trials.space.options])
    moved = rng.random(len(point)) < max(MUTATION, 1 / max(len(point), 1))
    step = np.rint(rng.normal(size=len(point)) * SPREAD * sizes) * moved
    new = np.clip(np.array(point) + step.astype(int), 0, sizes - 1)
    return trials.fitted(tuple(int(n) for n in new), rng)

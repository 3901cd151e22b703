"""Reinforcement: an agent that walks through the groups and learns how much to keep of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch

from penjing.pruning.allocation.ddpg import Agent
from penjing.pruning.allocation.searching import Searching
from penjing.pruning.allocation.space import Candidate
from penjing.pruning.allocation.trying import Proxy, Trials
from penjing.task.randomness import random_kept

STATE = 6  # numbers that the agent sees
NOISE = 0.5  # deviation of the exploration, as in AMC
DECAY = 0.95  # of the noise, per episode after the random ones
LARGE = 10.0  # logarithm of a group of 22 000 units
TINY = 1e-12  # keeps logarithms finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforcement(Searching):
    """Let an agent choose the share of every group in turn, rewarded by what the outputs lose.

    It sees where it is, how large the group is and what it costs, what is saved already, what the
    groups ahead cost, and its last choice. A share is cut to what still leaves the budgets within
    reach, so every episode ends within them; one episode is one trial. The first quarter is played
    at random.

    Settings are those of `Searching`.

    Source:
        He et al. 2018, arXiv:1802.03494 (AMC), algorithm 1 and section 3; DDPG of Lillicrap et al.
        2016, arXiv:1509.02971, with the reward less its moving average. Layers' shapes are not in
        the state, their costs are.
    """

    name: ClassVar[str] = "reinforcement"

    evaluations: int = 200
    proxy: Proxy = "masked"

    def _search(self, trials: Trials) -> Candidate:
        with random_kept(), torch.enable_grad():
            torch.manual_seed(self.seed)
            return _learned(trials, np.random.default_rng(self.seed), self.evaluations)


def _learned(trials: Trials, rng: np.random.Generator, episodes: int) -> Candidate:
    """Play and learn; the best candidate that was tried."""
    trials(trials.space.smallest)  # feasible, whatever else is
    agent, walk = Agent(STATE, rng), _Walk.of(trials)
    for episode in range(episodes):
        noise = NOISE * DECAY ** max(0, episode - episodes // 4)
        random = episode < max(1, episodes // 4)
        candidate, states, actions = walk.played(agent, rng, noise, random)
        if trials.left < 1 and candidate not in trials.tried:
            break
        agent.remember(states, actions, -math.log(trials(candidate) + TINY))
        if not random:
            agent.learn(len(actions))
    return trials.best


@dataclass(frozen=True, eq=False)
class _Walk:
    """One demand as a walk from group to group.

    Args:
        trials: What may be kept, and what is tried.
        prices: Usage that each group could free at most, as shares of all of it.
    """

    trials: Trials
    prices: tuple[float, ...]

    @classmethod
    def of(cls, trials: Trials) -> Self:
        space = trials.space
        full = float(space.usage(space.largest).max())
        alone = [
            full - float(space.usage((*space.largest[:g], 0, *space.largest[g + 1 :])).max())
            for g in range(len(space.options))
        ]
        return cls(trials, tuple(price / (sum(alone) or 1.0) for price in alone))

    def played(
        self, agent: Agent, rng: np.random.Generator, noise: float, random: bool
    ) -> tuple[Candidate, list[list[float]], list[float]]:
        """One episode: the candidate, the states and what was done in them."""
        space = self.trials.space
        chosen: list[int] = []
        states: list[list[float]] = []
        actions: list[float] = [1.0]
        saved = 0.0
        for group, options in enumerate(space.options):
            states.append(
                [
                    group / len(space.options),
                    math.log(space.groups[group].units) / LARGE,
                    self.prices[group],
                    saved,
                    sum(self.prices[group + 1 :]),
                    actions[-1],
                ]
            )
            share = rng.random() if random else agent.act(states[-1], noise)
            top = len(options) - 1
            option = min(round(share * top), self._most(tuple(chosen)))
            chosen.append(option)
            actions.append(option / top if top else 1.0)
            saved += self.prices[group] * (1 - actions[-1])
        return tuple(chosen), states, actions[1:]

    def _most(self, chosen: Candidate) -> int:
        """The largest option of the next group that the groups ahead can make up for."""
        space = self.trials.space
        ahead = (0,) * (len(space.options) - len(chosen) - 1)
        low, high = 0, len(space.options[len(chosen)]) - 1
        while low < high:
            middle = (low + high + 1) // 2
            fits = space.feasible((*chosen, middle, *ahead))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

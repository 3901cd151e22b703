"""A small actor and critic for one action in [0, 1]: deep deterministic policy gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

WIDTH = 64  # of both hidden layers
ACTOR_RATE, CRITIC_RATE = 1e-3, 5e-3
FOLLOW = 0.01  # share of the new weights that the slow copies take in
MEMORY = 4000  # transitions
BATCH = 64
AVERAGE = 0.95  # of the reward's moving average


class Agent:
    """Chooses a number in [0, 1] from a state, and learns from the reward at the end of a walk.

    Args:
        states: Numbers in a state.
        rng: Of exploration and replay.

    Source:
        Lillicrap et al. 2016, arXiv:1509.02971; the reward of an episode given to all its steps,
        no discount, and a moving average taken off, as in He et al. 2018, arXiv:1802.03494.
    """

    def __init__(self, states: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.actor = nn.Sequential(*_layers(states), nn.Sigmoid())
        self.critic = nn.Sequential(*_layers(states + 1))
        self._slow_actor, self._slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), lr=ACTOR_RATE)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE)
        self._memory: list[tuple[list[float], float, float, list[float], float]] = []
        self._average: float | None = None

    @torch.no_grad()
    def act(self, state: Sequence[float], noise: float) -> float:
        """A choice, with exploration cut to [0, 1].

        Args:
            state: What is seen.
            noise: Deviation of the exploration.
        """
        choice = float(self.actor(torch.tensor([state])))
        return float(np.clip(choice + noise * self._rng.normal(), 0.0, 1.0))

    def remember(
        self, states: Sequence[list[float]], actions: Sequence[float], reward: float
    ) -> None:
        """Keep one walk.

        Args:
            states: Of every step.
            actions: Taken in them.
            reward: Of the whole walk.
        """
        known = reward if self._average is None else self._average
        self._average = AVERAGE * known + (1 - AVERAGE) * reward
        for step, (state, action) in enumerate(zip(states, actions, strict=True)):
            last = step + 1 == len(states)
            after = state if last else states[step + 1]
            self._memory.append((state, action, reward, after, 0.0 if last else 1.0))
        del self._memory[:-MEMORY]

    def learn(self, steps: int) -> None:
        """Take gradient steps on transitions drawn from memory.

        Args:
            steps: How many.
        """
        for _ in range(steps):
            drawn = self._rng.integers(len(self._memory), size=min(BATCH, len(self._memory)))
            columns = zip(*(self._memory[int(i)] for i in drawn), strict=True)
            state, action, reward, after, goes_on = (
                torch.tensor(column, dtype=torch.float32) for column in columns
            )
            self._critic_step(
                state, action[:, None], reward - (self._average or 0.0), after, goes_on
            )
            self._actor_step(state)
            for slow, fast in ((self._slow_actor, self.actor), (self._slow_critic, self.critic)):
                for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                    old.data.lerp_(new.data, FOLLOW)

    def _critic_step(
        self, state: Tensor, action: Tensor, reward: Tensor, after: Tensor, goes_on: Tensor
    ) -> None:
        with torch.no_grad():
            ahead = self._slow_critic(torch.cat([after, self._slow_actor(after)], 1))[:, 0]
            wanted = torch.where(goes_on > 0, ahead, reward)
        got = self.critic(torch.cat([state, action], 1))[:, 0]
        self._critic_steps.zero_grad()
        (got - wanted).square().mean().backward()
        self._critic_steps.step()

    def _actor_step(self, state: Tensor) -> None:
        self._actor_steps.zero_grad()
        value: Tensor = self.critic(torch.cat([state, self.actor(state)], 1))
        (-value.mean()).backward()
        self._actor_steps.step()


def _layers(inputs: int) -> list[nn.Module]:
    return [
        nn.Linear(inputs, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 1),
    ]

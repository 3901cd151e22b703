"""The density of gated channels while a network trains: from all of them down to a target."""

from __future__ import annotations

from typing import Any

from penjing.adaptive.channels import ChannelGatedNetwork, check_channels
from penjing.errors import StrategyError
from penjing.training import Callback, Run


class ChannelDensity(Callback):
    """Lowers the share of channels that run from 1 to a target, step by step, then holds it.

    Epochs are judged at the target, where the network will run.

    Args:
        target: Share of the channels of each gated layer, in (0, 1].
        ramp: Share of the run in which it is lowered, in [0, 1).

    Raises:
        StrategyError: A value outside its range.

    Source:
        Gao et al. 2019, arXiv:1810.05331 (there the target holds from the first step, and the
        saliencies have an L1 penalty of 1e-8, which is left out here).
    """

    def __init__(self, target: float, ramp: float = 0.5) -> None:
        if not 0 < target <= 1:
            raise StrategyError(f"target is {target}; it is a share of the channels in (0, 1]")
        if not 0 <= ramp < 1:
            raise StrategyError(f"ramp is {ramp}; it is a share of the run in [0, 1)")
        self.target, self.ramp = target, ramp
        self._network: ChannelGatedNetwork | None = None

    def on_start(self, run: Run, /) -> None:
        """Begin with all channels.

        Raises:
            InputError: The network has no gates of channels.
        """
        self._network = check_channels(run.model).set_density(self.density(0.0))

    def on_step(self, run: Run, /) -> None:
        """The density of the next step."""
        self._set(run)

    def on_judge(self, run: Run, /) -> None:
        """Judge at the target."""
        check_channels(run.model).set_density(self.target)

    def on_epoch(self, run: Run, /) -> None:
        """Back to the density of the next step."""
        self._set(run)

    def on_end(self, run: Run, /) -> None:
        """The network runs at the target from now on."""
        check_channels(run.model).set_density(self.target)

    def identity(self) -> str:
        """The target and the ramp."""
        return f"ChannelDensity({self.target}, {self.ramp})"

    def state_dict(self) -> dict[str, Any]:
        """The density now."""
        assert self._network is not None  # on_start comes first
        return {"density": self._network.density}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Back to the density of the checkpoint."""
        assert self._network is not None  # on_start comes first
        self._network.set_density(state["density"])

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Hold the network no longer."""
        self._network = None

    def density(self, progress: float) -> float:
        """The share of channels at some progress of the run, in [0, 1]."""
        done = 1.0 if progress >= self.ramp else progress / self.ramp
        return 1 + done * (self.target - 1)

    def _set(self, run: Run) -> None:
        check_channels(run.model).set_density(self.density(run.progress))

"""Quantization-aware training in the training loop: grids stay where they are near its end."""

from __future__ import annotations

from typing import Any

from torch import nn

from penjing.errors import InputError
from penjing.quantization.aware import QuantizationAware
from penjing.quantization.module import QuantizedModule
from penjing.quantization.steps import LearnedGrid
from penjing.training import Callback, Run


class FreezeGrids(Callback):
    """Freezes the grids of a prepared network when its share of the run is over.

    Norms need no such schedule: they were folded, or keep their statistics.

    Args:
        at: Share of the run in [0, 1].

    Raises:
        InputError: `at` lies outside its range.
    """

    def __init__(self, at: float) -> None:
        self.at = checked(at)
        self._model: QuantizationAware | None = None
        self._frozen = False

    def on_start(self, run: Run, /) -> None:
        """Check that the optimizer has the steps; freeze at once where no share is left.

        Raises:
            InputError: The network is not prepared, or the optimizer lacks steps.
        """
        self._model = _prepared(run.model)
        check_optimizer(self._model, run.optimizer)
        self._freeze(frozen=self.at == 0)

    def on_backward(self, run: Run, /) -> None:
        """Freeze when it is time; from this very step on."""
        if not self._frozen and run.progress >= self.at:
            self._freeze(frozen=True)

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Let grids move again in the next run."""
        self._freeze(frozen=False)
        self._model = None

    def identity(self) -> str:
        """The share."""
        return f"FreezeGrids({self.at})"

    def state_dict(self) -> dict[str, Any]:
        """Whether it was time."""
        return {"frozen": self._frozen}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Freeze again what was frozen."""
        self._freeze(frozen=bool(state["frozen"]))

    def _freeze(self, *, frozen: bool) -> None:
        self._frozen = frozen
        if self._model is not None:
            self._model.freeze(frozen=frozen)
            for ratio in learned(self._model).values():
                ratio.grad = None


def callbacks_of(model: nn.Module) -> list[Callback]:
    """What the training loop needs for a network: nothing, or the schedule of a prepared one.

    Args:
        model: To be trained.

    Returns:
        Callbacks.

    Raises:
        InputError: The network is in integers.
    """
    if isinstance(model, QuantizedModule):
        raise InputError(
            "the network is in integers, which are constants; train it before `quantize`, or "
            "`prepare` the network in floats, train that and `convert` it"
        )
    return [FreezeGrids(model.freeze_at)] if isinstance(model, QuantizationAware) else []


def learned(model: QuantizationAware) -> dict[str, nn.Parameter]:
    """The steps that are learned, by name."""
    found = ((n, m) for n, m in model.named_modules() if isinstance(m, LearnedGrid))
    return {f"{name}.ratio": module.ratio for name, module in found}


def check_optimizer(model: QuantizationAware, optimizer: object) -> None:
    """Refuse an optimizer that was made before the network was prepared.

    Args:
        model: The prepared network.
        optimizer: Anything with `param_groups`.

    Raises:
        InputError: It lacks learned steps.
    """
    groups = getattr(optimizer, "param_groups", [])
    held = {id(parameter) for group in groups for parameter in group["params"]}
    steps = learned(model)
    lacking = [name for name, ratio in steps.items() if id(ratio) not in held]
    if lacking:
        raise InputError(
            f"the optimizer does not have {len(lacking)} of {len(steps)} learned steps, such as "
            f"{lacking[0]!r}; make it from the parameters of the prepared network, or prepare "
            'with steps="observed"'
        )


def checked(share: float) -> float:
    """A share of a run.

    Raises:
        InputError: It is none.
    """
    if not 0 <= share <= 1:
        raise InputError(f"freeze_at is {share!r}; it is a share of the run in [0, 1]")
    return share


def _prepared(model: nn.Module) -> QuantizationAware:
    if not isinstance(model, QuantizationAware):
        raise InputError(
            f"{type(model).__name__} has no grids to freeze; give the model of pj.prepare"
        )
    return model

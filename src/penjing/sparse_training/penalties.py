"""Penalties that draw weights or whole units to zero while a network trains.

Each is used in three ways: a callback of the training loop (`Penalised`), a term of your own loss
(`penalty.term(model)`), or a proximal step after each step of any optimizer (`attach`).

Suffixes: U = units of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from penjing.errors import StrategyError
from penjing.plan import Group, Groups, Slice
from penjing.pruning.importance.sums import by_unit
from penjing.sparse_training.parts import without_directions
from penjing.training import Callback, Run

Way = Literal["proximal", "loss"]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class Penalty(Protocol):
    """What draws weights to zero. Any object of this shape is one."""

    def term(self, model: nn.Module, /) -> Tensor:
        """A scalar to add to a loss."""
        ...

    def shrink(self, model: nn.Module, lr: float, /) -> None:
        """The proximal step of the same term at learning rate `lr`, in place."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class L1:
    """`strength * sum |w|` over matrices and kernels, with an L2 part if wanted.

    Args:
        strength: Weight of the term, above 0.
        l2: Weight of `sum w² / 2` on top, 0 or more.

    Raises:
        StrategyError: A value outside its range.

    Source:
        Tibshirani 1996; Zou & Hastie 2005 with `l2`.
    """

    strength: float
    l2: float = 0.0

    def __post_init__(self) -> None:
        _check(self.strength)
        if self.l2 < 0:
            raise StrategyError(f"l2 is {self.l2}; it is 0 or more")

    def term(self, model: nn.Module, /) -> Tensor:
        """The term, with its gradient."""
        sums = [
            self.strength * p.abs().sum() + self.l2 / 2 * p.square().sum() for p in _matrices(model)
        ]
        return torch.stack(sums).sum()

    @torch.no_grad()
    def shrink(self, model: nn.Module, lr: float, /) -> None:
        """Soft threshold by `lr * strength`."""
        for p in _matrices(model):
            p.copy_(p.sign() * (p.abs() - lr * self.strength).clamp_min(0) / (1 + lr * self.l2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slimming:
    """`strength * sum |γ|` over the scales of norms: channels that a network can do without.

    Args:
        strength: Weight of the term, above 0; 1e-4 to 1e-5 in the paper.

    Raises:
        StrategyError: `strength` is not above 0.

    Source:
        Liu et al. 2017, arXiv:1708.06519.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.strength)

    def term(self, model: nn.Module, /) -> Tensor:
        """The term, with its gradient."""
        return self.strength * torch.stack([p.abs().sum() for p in _scales(model)]).sum()

    @torch.no_grad()
    def shrink(self, model: nn.Module, lr: float, /) -> None:
        """Soft threshold by `lr * strength`."""
        for p in _scales(model):
            p.copy_(p.sign() * (p.abs() - lr * self.strength).clamp_min(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLasso:
    """`strength * sum sqrt(n) |w_unit|` over the units of coupled groups: whole units go.

    Args:
        groups: Of `penjing.find_groups` on this network.
        strength: Weight of the term, above 0.

    Raises:
        StrategyError: `strength` is not above 0.

    Source:
        Yuan & Lin 2006; on coupled channels as in Fang et al. 2023, arXiv:2301.12900. n is the
        number of weights that a unit has in all tensors that it cuts.
    """

    groups: Groups | Sequence[Group]
    strength: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.strength)

    def term(self, model: nn.Module, /) -> Tensor:
        """The term, with its gradient."""
        return (
            self.strength * torch.stack([self._norms(model, g)[0].sum() for g in self.groups]).sum()
        )

    @torch.no_grad()
    def shrink(self, model: nn.Module, lr: float, /) -> None:
        """Scale every unit by `1 - lr * strength * sqrt(n) / |w_unit|`, or to zero."""
        for group in self.groups:
            scaled_U, root_U = self._norms(model, group)
            norm_U = scaled_U / root_U.clamp_min(1e-12)
            factor_U = (1 - lr * self.strength * root_U / norm_U.clamp_min(1e-12)).clamp_min(0)
            for piece, weight in _pieces(model, group):
                _scale(weight, piece, factor_U)

    def _norms(self, model: nn.Module, group: Group) -> tuple[Tensor, Tensor]:
        """`sqrt(n) * norm` and `sqrt(n)` of every unit."""
        squares_U = torch.zeros(group.units)
        count_U = torch.zeros(group.units)
        for piece, weight in _pieces(model, group):
            flat = weight.movedim(piece.dim, 0).reshape(weight.shape[piece.dim], -1)
            squares_U = squares_U.to(flat.device) + by_unit(
                flat.square().sum(1), piece, group.units
            )
            ones = torch.full_like(flat[:, 0], float(flat.shape[1]))
            count_U = count_U.to(flat.device) + by_unit(ones, piece, group.units)
        root_U = count_U.sqrt()
        return root_U * (squares_U + 1e-24).sqrt(), root_U


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """An L2 penalty on chosen units that grows until they vanish; then they can be cut unnoticed.

    Args:
        groups: Of `penjing.find_groups` on this network.
        drop: Units that shall vanish, by group name, as `Plan.drop` has them.
        strength: Weight of the penalty at progress 1, above 0.

    Raises:
        StrategyError: `strength` is not above 0, or `drop` names what the groups do not have.

    Source:
        Wang et al. 2021, arXiv:2012.09243 (GReg-1). Deviation: the penalty grows with the
        progress of the run, where the paper adds a constant every few iterations.
    """

    groups: Groups | Sequence[Group]
    drop: dict[str, tuple[int, ...]]
    strength: float = 1.0
    _progress: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.strength)
        units = {group.name: group.units for group in self.groups}
        for name, drop in self.drop.items():
            if name not in units:
                raise StrategyError(f"drop names {name!r}, which is none of the groups")
            if wrong := [unit for unit in drop if not 0 <= unit < units[name]]:
                raise StrategyError(
                    f"drop names unit {wrong[0]} of {name!r}, whose units are 0 to "
                    f"{units[name] - 1}"
                )

    def at(self, progress: float) -> None:
        """Say how much of the run is done, in [0, 1]; `Penalised` and `attach` do it."""
        self._progress[:] = [progress]

    def _strength_now(self) -> float:
        if not self._progress:
            raise StrategyError(
                "Growing grows with the run and was not told where it is: give total_steps to "
                "attach, or call growing.at(step / steps) before each step"
            )
        return self.strength * self._progress[0]

    def term(self, model: nn.Module, /) -> Tensor:
        """The term, with its gradient.

        Raises:
            StrategyError: It was not told where the run is.
        """
        strength = self._strength_now()
        total = torch.zeros(())
        for group in self._chosen():
            for piece, weight in _pieces(model, group):
                flat = weight.movedim(piece.dim, 0).reshape(weight.shape[piece.dim], -1)
                units_U = by_unit(flat.square().sum(1), piece, group.units)
                total = total.to(units_U.device) + units_U[list(self.drop[group.name])].sum()
        return strength / 2 * total

    @torch.no_grad()
    def shrink(self, model: nn.Module, lr: float, /) -> None:
        """Decay of the chosen units.

        Raises:
            StrategyError: It was not told where the run is.
        """
        strength = self._strength_now()
        for group in self._chosen():
            factor_U = torch.ones(group.units)
            factor_U[list(self.drop[group.name])] = 1 / (1 + lr * strength)
            for piece, weight in _pieces(model, group):
                _scale(weight, piece, factor_U)

    def _chosen(self) -> list[Group]:
        return [group for group in self.groups if self.drop.get(group.name)]


class Penalised(Callback):
    """A penalty in the training loop.

    Args:
        penalty: What draws weights to zero.
        way: "proximal" shrinks after each step, at its learning rate, and reaches exact zeros;
            "loss" adds the term to the loss.

    Raises:
        StrategyError: An unknown way.
    """

    def __init__(self, penalty: Penalty, way: Way = "proximal") -> None:
        if way not in get_args(Way):
            raise StrategyError(f"way is {way!r}; known are {', '.join(get_args(Way))}")
        self.penalty = penalty
        self.way = way

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The loss with the term on top; nothing where there is no loss to add to."""
        if isinstance(self.penalty, Growing):
            self.penalty.at(run.progress)
        if self.way == "proximal" or loss is None:
            return loss
        return loss + self.penalty.term(run.model)

    def on_step(self, run: Run, /) -> None:
        """The proximal step."""
        if self.way == "proximal":
            self.penalty.shrink(run.model, float(run.optimizer.param_groups[0]["lr"]))

    def identity(self) -> str:
        """The penalty and the way."""
        strength = getattr(self.penalty, "strength", "")
        return f"Penalised({type(self.penalty).__name__} {strength}, {self.way})"


def attach(
    penalty: Penalty, optimizer: Optimizer, model: nn.Module, *, total_steps: int | None = None
) -> RemovableHandle:
    """Let every step of an optimizer end with the proximal step of a penalty.

    Args:
        penalty: What draws weights to zero.
        optimizer: Of your own loop.
        model: Whose weights it moves.
        total_steps: Steps of the whole run, which `Growing` has to know.

    Returns:
        A handle; `.remove()` takes the penalty off again.

    Raises:
        StrategyError: `Growing` without `total_steps`.
    """
    if isinstance(penalty, Growing) and not total_steps:
        raise StrategyError("Growing grows with the run; give total_steps, its optimizer steps")
    taken = 0

    def hook(stepped: Optimizer, _args: object, _kwargs: object) -> None:
        nonlocal taken
        taken += 1
        if isinstance(penalty, Growing) and total_steps:
            penalty.at(min(taken / total_steps, 1.0))
        penalty.shrink(model, float(stepped.param_groups[0]["lr"]))

    return optimizer.register_step_post_hook(hook)


def _check(strength: float) -> None:
    if not strength > 0:
        raise StrategyError(f"strength is {strength}; it must be above 0")


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() > 1]


def _scales(model: nn.Module) -> list[nn.Parameter]:
    found = [m.weight for m in model.modules() if isinstance(m, _NORMS) and m.weight is not None]
    if not found:
        raise StrategyError(
            f"{type(model).__name__} has no norm with a scale; take L1 or GroupLasso"
        )
    return found


def _pieces(model: nn.Module, group: Group) -> list[tuple[Slice, nn.Parameter]]:
    """Parameters that a group cuts, with gradient.

    Raises:
        StrategyError: The network has none of them.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    slices = without_directions(model, group.slices)
    found = [(piece, known[piece.tensor]) for piece in slices if piece.tensor in known]
    if not found:
        raise StrategyError(
            f"group {group.name!r} cuts no parameter of this network; find the groups anew"
        )
    return found


def _scale(weight: Tensor, piece: Slice, factor_U: Tensor) -> None:
    """Multiply the positions of each unit by its factor, in place."""
    along = torch.ones(weight.shape[piece.dim], device=weight.device)
    for unit, factor in enumerate(factor_U.tolist()):
        along[list(piece.positions(unit))] = factor
    shape = [1] * weight.dim()
    shape[piece.dim] = -1
    weight.mul_(along.view(shape))

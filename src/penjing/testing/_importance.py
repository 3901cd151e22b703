"""What every importance must keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import PenjingError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance import resolve
from penjing.pruning.importance.protocol import HasErrors, Importance, Prepares
from penjing.task import Calibration
from penjing.testing import tiny

NAMES = ("plain", "residual", "concat", "depthwise", "mlp", "flatten")
SAMPLES = 96  # enough for the Gram matrix of every tiny network


def check_importance(strategy: str | Importance | Prepares | type) -> None:
    """Run an importance on tiny networks and fail where it breaks the contract.

    Scores have shape `(units,)`, are finite and not negative, are the same when asked again and in
    another order; error curves have shape `(units + 1,)`, start at 0 and do not fall; the model,
    its mode and gradients and the random state are as before.

    Args:
        strategy: A name, "module:thing", a class or an object, as `prune(importance=)` takes it.
            One that has `prepare` is given calibration data, with labels of two classes.

    Raises:
        AssertionError: A promise is broken; the message says which, where and by what values.

    Example:
        >>> check_importance("l2")
    """
    for name in NAMES:
        _check(resolve(strategy), name)


def _check(strategy: Importance | Prepares, name: str) -> None:
    model = tiny.make(name)
    network = Network.of(model, tiny.example(name))
    before, generator = _state(model), torch.get_rng_state()
    scorer = _prepared(strategy, network, name)
    groups = list(network.groups)
    scores = {group.name: scorer(model, group) for group in groups}
    again = {group.name: scorer(model, group) for group in reversed(groups)}
    for group in groups:
        place = f"{name}, group {group.name!r}"
        _check_scores(scores[group.name], group, place)
        same = torch.equal(scores[group.name], again[group.name])
        _require(same, place, "scores differ when they are asked for again in another order")
        if isinstance(scorer, HasErrors):
            _check_errors(scorer.errors(group), group, place)
    _require(
        torch.equal(generator, torch.get_rng_state()), name, "it moved the global random state"
    )
    _check_untouched(model, before, name)


def _prepared(strategy: Importance | Prepares, network: Network, name: str) -> Importance:
    if not isinstance(strategy, Prepares):
        return strategy
    labels = torch.arange(SAMPLES // 2) % 2
    samples = [(tiny.example(name, SAMPLES // 2, seed), labels) for seed in (1, 2)]
    try:
        return strategy.prepare(network, Calibration.of(samples))
    except PenjingError as error:
        raise AssertionError(
            f"{name}: prepare refused {SAMPLES} labelled samples: {error}"
        ) from error


def _check_scores(scores: Any, group: Group, place: str) -> None:
    _require(
        isinstance(scores, Tensor), place, f"it returned {type(scores).__name__}, not a tensor"
    )
    shape = tuple(scores.shape)
    _require(shape == (group.units,), place, f"scores have shape {shape}, not ({group.units},)")
    _require(scores.is_floating_point(), place, f"scores are {scores.dtype}, not floating")
    _require(bool(torch.isfinite(scores).all()), place, f"scores are not finite: {scores}")
    _require(bool((scores >= 0).all()), place, f"scores are negative: {scores}")
    _require(not scores.requires_grad, place, "scores carry a gradient; detach them")


def _check_errors(errors: Tensor, group: Group, place: str) -> None:
    shape = tuple(errors.shape)
    _require(
        shape == (group.units + 1,), place, f"errors have shape {shape}, not ({group.units + 1},)"
    )
    _require(float(errors[0]) == 0, place, f"errors start at {float(errors[0])}, not at 0")
    _require(not bool(errors.isnan().any()), place, f"errors have NaN: {errors}")
    _require(bool((errors[1:] >= errors[:-1]).all()), place, f"errors fall: {errors}")


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


def _check_untouched(model: nn.Module, before: Mapping[str, Any], place: str) -> None:
    after = _state(model)
    for name, tensor in before["tensors"].items():
        same = torch.equal(tensor, after["tensors"][name])
        _require(same, place, f"it changed {name!r} of the model")
    _require(before["modes"] == after["modes"], place, "it changed the train/eval mode")
    _require(before["hooks"] == after["hooks"], place, "it left hooks behind")
    same = all(
        a[0] == b[0] and a[1] is b[1]
        for a, b in zip(before["gradients"], after["gradients"], strict=True)
    )
    _require(same, place, "it changed requires_grad or left gradients behind")


def _require(holds: bool, place: str, message: str) -> None:
    if not holds:
        raise AssertionError(f"{place}: {message}")

"""Activation sparsity: small inputs of layers become zero, to a share found on unlabelled samples.

The layers keep their weights; a hook in front of each sets what is small to zero. It is part of the
network: it is exported, copied and trained through, and gradients flow where something was kept.

Suffixes: N = samples, C = input channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from penjing.errors import InputError, StrategyError
from penjing.pruning.selection import Key, matches, several
from penjing.task import Calibration, agreement, evaluating
from penjing.task.batches import Batch, call
from penjing.task.randomness import device_of

Rule = Literal["threshold", "topk"]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH = 128
DRAWN = 2**20  # values of a layer that a threshold is read from


@dataclass(slots=True)
class Threshold:
    """Values of at most so large a size become zero.

    Args:
        bound: The largest size that becomes zero.
    """

    bound: float

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The inputs of a layer, small ones zero."""
        x, *rest = inputs
        return torch.where(x.abs() > self.bound, x, torch.zeros_like(x)), *rest


@dataclass(slots=True)
class TopK:
    """All but the largest values of every position become zero.

    Args:
        keep: Values kept along the channels.
        dim: Dimension of the channels.
    """

    keep: int
    dim: int

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The inputs of a layer, all but the largest zero."""
        x, *rest = inputs
        least = x.abs().topk(self.keep, dim=self.dim).values.amin(self.dim, keepdim=True)
        return torch.where(x.abs() >= least, x, torch.zeros_like(x)), *rest


@dataclass(frozen=True, slots=True)
class Quieted:
    """A network with sparse activations.

    Args:
        model: A copy with a hook in front of every layer that was named.
        before: Share of zeros among the inputs of each layer, by name, before.
        after: The same now, on the same samples.
        rules: What is in front of each layer.
    """

    model: nn.Module
    before: Mapping[str, float]
    after: Mapping[str, float]
    rules: Mapping[str, Threshold | TopK] = field(repr=False)


def quiet(
    model: nn.Module,
    calibration: Any,
    *,
    sparsity: float | Mapping[Key, float],
    layers: Iterable[Key] | Key | None = None,
    rule: Rule = "threshold",
) -> Quieted:
    """Make small inputs of linear and convolutional layers zero, without labels.

    Layers are set one after the other in the order in which they run, each on what reaches it
    behind those before it.

    Args:
        model: Left alone.
        calibration: Batches of inputs.
        sparsity: Share of zeros among the inputs of a layer, 0 <= x < 1, or by layer; where zeros
            are more than that already nothing changes.
        layers: Modules, names, globs or types; None is all linear and convolutional ones.
        rule: "threshold": one bound on the size per layer, a share on average. "topk": the same
            number of channels at every position of every sample.

    Returns:
        The network and what was measured.

    Raises:
        InputError: Bad calibration data.
        StrategyError: An unknown rule, a share outside its range, or layers that match nothing.

    Source:
        Kurtz et al. 2020, ICML (thresholds on activations); Ahmad and Scheinkman 2019,
        arXiv:1903.11257 (k winners).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> quieted = quiet(net, [torch.randn(64, 4)], sparsity=0.5, layers="1", rule="topk")
        >>> quieted.after
        {'1': 0.5}
    """
    if rule not in get_args(Rule):
        raise StrategyError(f"rule is {rule!r}; known are {', '.join(get_args(Rule))}")
    samples = Calibration.of(calibration)
    made = copy.deepcopy(model)
    shares = _shares(model, sparsity, None if layers is None else several(layers))
    order = _in_order(made, shares, samples)
    before = zero_shares(made, order, samples)
    rules: dict[str, Threshold | TopK] = {}
    for name in order:
        rules[name] = _rule(made, name, shares[name], samples, rule)
        made.get_submodule(name).register_forward_pre_hook(rules[name])
    return Quieted(made, before, zero_shares(made, order, samples), rules)


def curve(
    model: nn.Module, calibration: Any, sparsities: Sequence[float], **options: Any
) -> dict[float, float]:
    """Agreement with the original at several shares of zeros.

    Args:
        model: Left alone.
        calibration: Batches of inputs; agreement is measured on each fourth sample, thresholds are
            found on the others.
        sparsities: As of `quiet`.
        **options: As of `quiet`.

    Returns:
        Sparsity -> share of samples with the same decision, or likeness of values.
    """
    whole = Calibration.of(calibration)
    held = torch.arange(whole.samples) % 4 == 3
    seen, judged = whole.those(~held), whole.those(held)
    return {
        share: agreement(quiet(model, seen, sparsity=share, **options).model, model, judged)
        for share in sparsities
    }


def zero_shares(
    model: nn.Module, layers: Iterable[str], calibration: Calibration
) -> dict[str, float]:
    """Share of zeros among what each layer reads, behind its own hooks.

    Args:
        model: Read, never changed.
        layers: Names of modules with one input.
        calibration: Samples.

    Returns:
        By name, in the order given.
    """
    counts = {name: [0, 0] for name in layers}
    for name, x in _inputs(model, list(counts), calibration):
        counts[name][0] += int((x == 0).sum())
        counts[name][1] += x.numel()
    return {name: zeros / max(whole, 1) for name, (zeros, whole) in counts.items()}


def _inputs(
    model: nn.Module, layers: Sequence[str], calibration: Calibration
) -> Iterator[tuple[str, Tensor]]:
    """What layers read, batch by batch, in the order in which they run."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((name, inputs[0].detach()))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in layers
    ]
    try:
        with evaluating(model), torch.no_grad():
            for inputs in calibration.batches(BATCH):
                call(model, Batch(inputs).to(device_of(model)).inputs)
                yield from seen
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()


def _in_order(model: nn.Module, layers: Iterable[str], calibration: Calibration) -> list[str]:
    """Layers in the order in which they first run; those that never run are left out."""
    few = Calibration.of(calibration, limit=1)
    return list(dict.fromkeys(name for name, _ in _inputs(model, list(layers), few)))


def _shares(
    model: nn.Module, sparsity: float | Mapping[Key, float], layers: Sequence[Key] | None
) -> dict[str, float]:
    """Share of zeros by name of the layer; the first key that matches counts."""
    if layers is None:
        layers = [name for name, m in model.named_modules() if name and isinstance(m, LAYERS)]
    wanted = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(layers, sparsity)
    found: dict[str, float] = {}
    for key, share in wanted.items():
        if not 0 <= share < 1:
            raise StrategyError(
                f"sparsity is {share}; it is a share of activations in [0, 1), so 90 percent is 0.9"
            )
        names = matches(model, key)
        for name, module in model.named_modules():
            if isinstance(module, LAYERS) and name in names:
                found.setdefault(name, share)
    if not found:
        raise StrategyError("layers match no linear or convolutional layer")
    return found


def _rule(
    model: nn.Module, name: str, share: float, samples: Calibration, rule: Rule
) -> Threshold | TopK:
    """What makes a share of the inputs of a layer zero."""
    layer = model.get_submodule(name)
    dim = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type] # of a convolution
    values = [x for _, x in _inputs(model, [name], samples)]
    if rule == "topk":
        channels = values[0].shape[dim]
        return TopK(max(1, channels - int(share * channels + 1e-9)), dim)
    sizes = torch.cat([x.abs().flatten() for x in values])
    if not bool(sizes.isfinite().all()):
        raise InputError(f"what layer {name!r} reads holds values that are not finite")
    drawn = _spread(sizes, DRAWN).sort().values
    return Threshold(float(drawn[int(share * len(drawn)) - 1]) if share * len(drawn) >= 1 else -1.0)


def _spread(values: Tensor, most: int) -> Tensor:
    """Values at even distances, all where there are not more than `most`."""
    count = min(most, len(values))
    return values[torch.arange(count) * len(values) // max(count, 1)]

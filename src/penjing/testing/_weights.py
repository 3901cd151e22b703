"""What every importance of weights, and every allocation of sparsity, must keep."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.graph.capture import capture
from penjing.pruning.patterns import Pattern, Tiling
from penjing.pruning.sparsity import Removal, Scored
from penjing.pruning.sparsity import resolve as resolve_allocation
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.pruning.weights import Matrix
from penjing.pruning.weights import resolve as resolve_importance
from penjing.pruning.weights.protocol import PreparesWeights, WeightImportance
from penjing.pruning.weights.survey import matrix_of
from penjing.pruning.weights.targets import Wanted, find_targets
from penjing.statistics.grams import Gram
from penjing.statistics.outlets import Outlet
from penjing.task import Calibration
from penjing.testing import tiny

PATTERNS = ("element", "2:4", "block:1x4", "block:2x2", "kernel")
SHAPES = ((1, 4, 2, 8), (2, 6, 9, 4))  # groups, outputs, kernel positions, channels
NETWORK = "residual"  # for those that look at a whole network
SAMPLES = 48
ROWS = 400  # enough for the Gram matrices
CLOSE = 1e-6


def check_weight_importance(strategy: str | WeightImportance | type) -> None:
    """Run an importance of weights on small layers and fail where it breaks the contract.

    Scores have a value per block, are not negative and not NaN (infinite only where an n:m pattern
    keeps a block), are the same when asked again; the layer and the random state are as before.

    Args:
        strategy: A name, "module:thing", a class or an object, as `sparsify(importance=)` takes
            it.

    Raises:
        AssertionError: A promise is broken; the message says which and where.

    Example:
        >>> check_weight_importance("magnitude")
    """
    importance = resolve_importance(strategy)
    if isinstance(importance, PreparesWeights):
        _check_prepared(importance)
        return
    for groups, outputs, taps, channels in SHAPES:
        layer = _layer(groups, outputs, taps * channels)
        before = (layer.weight.clone(), torch.get_rng_state())
        for name in PATTERNS:
            tiling = Tiling(Pattern.parse(name), groups, outputs, taps, channels)
            place = f"pattern {name}, {groups} x {outputs} x {taps * channels} weights"
            scores, again = importance(layer, tiling), importance(layer, tiling)
            _check_scores(scores, again, tiling, place)
            _require(torch.equal(layer.weight, before[0]), place, "it changed the weight")
            _require(
                torch.equal(torch.get_rng_state(), before[1]), place, "it moved the random state"
            )


def _check_prepared(importance: PreparesWeights) -> None:
    """The same for one that looks at a whole network first; it is given labels of two classes."""
    model, inputs = tiny.make(NETWORK), tiny.example(NETWORK, SAMPLES, 1)
    program = capture(model, tiny.example(NETWORK))
    data = Calibration.of([(inputs, torch.arange(SAMPLES) % 2)])
    before = ({n: t.clone() for n, t in program.tensors.items()}, torch.get_rng_state())
    for name in PATTERNS:
        wanted = Wanted(pattern=Pattern.parse(name), keep_dense=(), indivisible="pad")
        targets, _ = find_targets(model, program, wanted)
        judge, twice = (importance.prepare(program, targets, data) for _ in range(2))
        for target in targets:
            place = f"pattern {name}, {target.weight!r} of network {NETWORK!r}"
            layer = matrix_of(program.tensors, target, Outlet(), None)
            scores, again = judge(layer, target.tiling), twice(layer, target.tiling)
            _check_scores(scores, again, target.tiling, place)
    same = all(torch.equal(before[0][n], t) for n, t in program.tensors.items())
    _require(same, NETWORK, "it changed a tensor")
    _require(torch.equal(torch.get_rng_state(), before[1]), NETWORK, "it moved the random state")


def _check_scores(scores: Tensor, again: Tensor, tiling: Tiling, place: str) -> None:
    _require(scores.shape == tiling.sizes.shape, place, f"it gave {tuple(scores.shape)}")
    _require(bool((scores >= 0).all()), place, "a score is negative or NaN")
    finite = tiling.pattern.keep is not None or bool(scores.isfinite().all())
    _require(finite, place, "a score is infinite")
    _require(torch.equal(scores, again), place, "scores differ when asked for again")


def check_sparsity_allocation(strategy: str | SparsityAllocation) -> None:
    """Run an allocation of sparsity on a few layers and fail where it breaks the contract.

    Every layer gets a sparsity in [0, max_sparsity]; what goes is at most what was asked for, and
    short of it by no more than a block where the bound on single layers leaves room.

    Args:
        strategy: A name, "module:thing" or an object, as `sparsify(allocation=)` takes it.

    Raises:
        AssertionError: A promise is broken; the message says which and where.

    Example:
        >>> check_sparsity_allocation("erk")
    """
    allocation = resolve_allocation(strategy)
    layers = [_scored(number, shape) for number, shape in enumerate([(8, 4, 9), (16, 8, 1)])]
    whole = sum(layer.cost * layer.weights for layer in layers)
    for share, most in ((0.0, 1.0), (0.5, 1.0), (0.9, 1.0), (0.5, 0.6)):
        place = f"{share:g} of all with max_sparsity {most:g}"
        found = allocation(layers, Removal(amount=share * whole, max_sparsity=most))
        _require(set(found) == {layer.name for layer in layers}, place, f"it names {set(found)}")
        inside = all(0 <= value <= most + CLOSE for value in found.values())
        _require(inside, place, f"a sparsity is outside [0, {most:g}]: {found}")
        gone = sum(found[layer.name] * layer.cost * layer.weights for layer in layers)
        block = max(layer.cost * float(layer.sizes.max()) for layer in layers)
        _require(gone <= share * whole * (1 + CLOSE), place, f"{gone:g} goes, too much")
        _require(gone >= share * whole - block - CLOSE, place, f"{gone:g} goes, too little")


def _layer(groups: int, outputs: int, inputs: int) -> Matrix:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(groups, outputs, inputs, dtype=torch.float64, generator=generator)
    gram = Gram.zeros(groups, inputs)
    gram.add(torch.randn(groups, ROWS, inputs, generator=generator).double() + 0.5)
    scale = torch.rand(groups, outputs, dtype=torch.float64, generator=generator) + 0.5
    return Matrix(name="layer.weight", weight=weight, scale=scale, gram=gram, free=True, energy=1e4)


def _scored(number: int, shape: tuple[int, int, int]) -> Scored:
    generator = torch.Generator().manual_seed(number)
    blocks = (shape[0], shape[1] * shape[2])
    return Scored(
        name=f"layer{number}",
        scores=torch.rand(blocks, dtype=torch.float64, generator=generator),
        sizes=torch.ones(blocks, dtype=torch.float64),
        shape=shape,
        cost=float(1 + 3 * number),
    )


def _require(holds: bool, place: str, message: str) -> None:
    if not holds:
        raise AssertionError(f"{place}: {message}")

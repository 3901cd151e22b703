"""Tuning: a few hundred gradient steps that bring a cut or sparse network nearer to the whole one.

No labels: the target is what the whole network gives, at its outputs and behind its additions.
Zeros stay zero; frozen parameters and running statistics of norms stay as they are.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.figures import RepairFigures
from penjing.graph.capture import Program
from penjing.graph.form import identity
from penjing.recovery.reconstruct import Changed, Reconstruct, loses_rows
from penjing.recovery.swift import Swift, multiplies_bfloat16
from penjing.recovery.white import White, WhiteAdam, whitened
from penjing.statistics.grams import layers
from penjing.statistics.outlets import outlets
from penjing.statistics.stream import Samples
from penjing.task.outputs import Outputs
from penjing.training.settings import Precision

TINY = 1e-12
LOOKS = 8  # at the held-out samples, evenly over the steps
FEATURES = 30.0  # 1, 3, 10, 30 take 17, 20, 24, 25 % off the error of ResNet-20 on held-out images
# Step size times layers: 0.03, 0.06, 0.12 take 38, 41, 44 % off the same error in 120 steps, and of
# ResNet-56 in 60 steps 0.06 and 0.12 take as much.
REACH = 0.06
LARGEST_STEP = 0.003  # of shallow networks: it takes 16 % off that of ResNet-8, and 0.006 nothing
WHITENING = 128  # samples that tell the moments of what layers read
WARM_UP = 0.1  # share of the steps in which the step size grows to its full
DECAY = 0.01  # share of the step size that is left at the end
TUNED = "outputs, tuned"  # the row of the repair that tells of it
ALL_FROZEN = (
    "nothing is left to tune: every parameter has requires_grad=False; unfreeze what may change, "
    "or use repair='least_squares', which needs no gradients"
)
Augment = Callable[[Any], Any]
Values = tuple[list[Any], dict[str, Any]]
"""Outputs of a program, and inner values by node name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tune:
    """Settings of the tuning.

    Args:
        first: The least squares before it.
        first_samples: Samples that the least squares looks at, at most.
        steps: Gradient steps.
        batch: Samples of one step.
        lr: Largest step size of Adam, after a warm-up and before it falls as a cosine; None for
            0.06 over the number of layers, since what they change adds up along the depth; half
            of that without `whiten`, and at most 0.003.
        features: Weight of the error behind additions beside that of the outputs; 0 leaves it out.
        divergence: Weight of the Kullback-Leibler divergence of softmaxed outputs beside their
            squared error, for classifiers; 0 leaves it out.
        whiten: Take the steps on weights of linear layers and convolutions in coordinates in which
            what they read is white (`penjing.recovery.white`).
        hold_out: Share of the samples that neither the least squares nor the steps see; they say
            how long to go on and whether to keep the result.
        augment: Changes the inputs of one call at random, such as flips where they are natural;
            None changes nothing. It must draw from torch's own random state.
        precision: "bf16" computes products in bfloat16, "fp32" does not; None is "bf16" on
            processors that multiply in it, for networks that run in it. The parameters and what
            held-out samples say of them are in the network's own precision either way.
        minutes: Wall-clock limit; the steps that were done by then count.
        seed: Of the order of samples and of `augment`.

    Raises:
        StrategyError: A setting is outside its range.
    """

    first: Reconstruct = field(default_factory=Reconstruct)
    first_samples: int = 4000
    steps: int = 300
    batch: int = 64
    lr: float | None = None
    features: float = FEATURES
    divergence: float = 0.0
    whiten: bool = True
    hold_out: float = 0.1
    augment: Augment | None = None
    precision: Precision | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("first_samples", "steps", "batch", "lr", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise StrategyError(f"tune: {name} is {value}; it must be above 0")
        for name in ("features", "divergence"):
            if getattr(self, name) < 0:
                raise StrategyError(f"tune: {name} is {getattr(self, name)}; it is at least 0")
        if self.precision not in {None, *get_args(Precision)}:
            raise StrategyError(
                f"tune: precision is {self.precision!r}; it is 'fp32', 'bf16' or None"
            )
        if not 0 < self.hold_out < 1:
            raise StrategyError(f"tune: hold_out is {self.hold_out}; it lies between 0 and 1")


def tune(
    changed: Changed, calibration: Samples, held: Samples, settings: Tune | None = None
) -> tuple[dict[str, Tensor], RepairFigures]:
    """Tune the parameters of a cut or sparse network.

    Args:
        changed: A network and its changed form, repaired as far as it goes; neither is changed.
        calibration: Unlabelled samples.
        held: Others, that no repair has seen.
        settings: How; the defaults when None.

    Returns:
        New values by qualified name of parameters that are not frozen, none where held-out samples
        did not come nearer; and a row whose errors are those of the outputs on held-out samples.

    Raises:
        StrategyError: The network does not run in the precision that was asked for.

    Source:
        Nahshan et al. 2021 (AdaPrune, end to end) and Hinton et al. 2015, arXiv:1503.02531, on
        unlabelled data; squared error of outputs after Kim et al. 2021, arXiv:2105.08919. Features
        as in FitNets, Romero et al. 2015, arXiv:1412.6550, without a regressor. Here with errors
        relative to the variance of what is matched, and with zeros kept.
    """
    return _Tuning(changed, calibration, held, settings or Tune()).run()


class _Tuning:
    """One tuning at work."""

    def __init__(
        self, changed: Changed, calibration: Samples, held: Samples, settings: Tune
    ) -> None:
        self.changed, self.settings = changed, settings
        self.inputs = _joined(changed.program, calibration)
        self.held = _joined(changed.program, held)
        self.samples, self.held_samples = calibration.samples, held.samples
        program = changed.program
        self.dense, self.swift = _swift(changed, settings.precision)
        self.values = _values(changed, self.swift)
        zeros = {name: t == 0 for name, t in self.values.items() if t.dim() > 1}
        self.zeros = {name: zero for name, zero in zeros.items() if bool(zero.any())}
        unlike = self.dense.layers ^ self.swift.layers
        features = _features(changed.dense) if settings.features else ()
        self.features = [f for f in features if f not in unlike and not loses_rows(changed, f)]
        self.judge = self._held_targets()
        self.scales = self._scales()
        reach = REACH if self.settings.whiten else REACH / 2
        usual = min(LARGEST_STEP, reach / max(1, len(layers(program)[0])))
        self.lr = self.settings.lr or usual
        self.random = torch.Generator().manual_seed(settings.seed)

    def run(self) -> tuple[dict[str, Tensor], RepairFigures]:
        """All steps, with a look at the held-out samples now and then."""
        steps, began = self.settings.steps, time.perf_counter()
        before = least = self._held_error()
        best: dict[str, Tensor] = {}
        tuned = {name: t for name, t in self.values.items() if t.requires_grad}
        if not tuned:
            return {}, RepairFigures(TUNED, before, before, None, ALL_FROZEN)
        optimizer = WhiteAdam(tuned, self._white(tuned), self.zeros)
        ended = False
        for step, chosen in enumerate(self._batches(steps), 1):
            self._backward(chosen)
            optimizer.step(self.lr * _pace(step / steps))
            ended = step == steps or self._late(began)
            if ended or step % max(1, steps // LOOKS) == 0:
                error = self._held_error()
                if error < least:
                    least, best = error, self._copied()
            if ended:
                break
        reason = "" if best else "tuning brought held-out samples no nearer"
        return best, RepairFigures(TUNED, before, least, None, reason)

    def _copied(self) -> dict[str, Tensor]:
        """The values as they are now, laid out as torch does by default."""
        return {
            name: t.detach().clone(memory_format=torch.contiguous_format)
            for name, t in self.values.items()
            if t.requires_grad
        }

    def _late(self, began: float) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.perf_counter() - began > 60 * minutes

    def _batches(self, steps: int) -> list[Tensor]:
        """Indices of the samples of every step: each sample once before any comes again."""
        size = min(self._size, self.samples)
        out: list[Tensor] = []
        while len(out) < steps:
            order = torch.randperm(self.samples, generator=self.random)
            out += [b for b in order.split(size) if len(b) == size]
        return out[:steps]

    @property
    def _size(self) -> int:
        """Samples of one call."""
        program = self.changed.program
        return self.settings.batch if program.dynamic_batch else program.batch

    def _white(self, tuned: Mapping[str, Tensor]) -> dict[str, White]:
        """White coordinates of weights, from the first samples."""
        if not self.settings.whiten:
            return {}
        names = Counter(id(t) for t in tuned.values())
        single = [name for name, t in tuned.items() if t.dim() > 1 and names[id(t)] == 1]
        size = min(self._size, self.samples)
        few = torch.arange(min(max(WHITENING, size), self.samples)).split(size)
        calls = [c for c in few if len(c) == size]
        program = self.changed.program
        inputs = [_rows(program, self.inputs, chosen) for chosen in calls]
        return whitened(program, inputs, single, size * len(calls))

    def _backward(self, chosen: Tensor) -> None:
        """Gradients of the loss on some samples."""
        flat = _rows(self.changed.program, self.inputs, chosen)
        if self.settings.augment is not None:
            seed = int(torch.randint(2**31, (), generator=self.random))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                flat = _augmented(self.changed.program, flat, self.settings.augment)
        with torch.no_grad():
            wanted = self.dense.run(flat, self.features)
        with torch.enable_grad():
            loss = self._loss(self.swift.run(flat, self.features, self.values), wanted)
            loss.backward()

    def _loss(self, given: Values, wanted: Values) -> Tensor:
        (given_outputs, given_inner), (wanted_outputs, wanted_inner) = given, wanted
        loss = sum((_relative(a, b) for a, b in _pairs(given_outputs, wanted_outputs)), _zero())
        if self.settings.divergence:
            read = Outputs().read(self.changed.dense.unflatten_outputs(wanted_outputs))
            for out, (a, b) in zip(read, _pairs(given_outputs, wanted_outputs), strict=True):
                if out.kind == "classes":
                    apart = _divergence(out.scores(a), out.scores(b))
                    loss = loss + self.settings.divergence * apart
        for name, scale in self.scales.items():
            value, target = given_inner[name], wanted_inner[name]
            square = _Square.apply(value, self.changed.slice_like(name, target))  # type: ignore[no-untyped-call] # torch's own
            loss = loss + square * (scale / max(value.numel(), 1))
        return loss

    @torch.no_grad()
    def _held_error(self) -> float:
        """Mean relative squared error of the outputs on held-out samples."""
        errors = []
        for flat, wanted in self.judge:
            given, _ = self.swift.run(flat, (), self.values, exact=True)
            errors.append(float(sum((_relative(a, b) for a, b in _pairs(given, wanted)), _zero())))
        return sum(errors) / max(len(errors), 1)

    @torch.no_grad()
    def _held_targets(self) -> list[tuple[list[Any], list[Any]]]:
        """Held-out inputs and what the whole network gives for them, call by call."""
        size = min(self._size, self.held_samples)
        calls = [c for c in torch.arange(self.held_samples).split(size) if len(c) == size]
        inputs = [_rows(self.changed.program, self.held, chosen) for chosen in calls]
        return [(flat, self.dense.run(flat, (), None, exact=True)[0]) for flat in inputs]

    @torch.no_grad()
    def _scales(self) -> dict[str, float]:
        """Weight of every feature's squared error: over the variance of what is wanted."""
        chosen = torch.arange(min(self._size, self.samples))
        flat = _rows(self.changed.dense, self.inputs, chosen)
        _, inner = self.dense.run(flat, self.features, None, exact=True)
        share = self.settings.features / max(len(inner), 1)
        wanted = {name: self.changed.slice_like(name, value) for name, value in inner.items()}
        return {name: share / _variance(value) for name, value in wanted.items()}


def _swift(changed: Changed, precision: Precision | None) -> tuple[Swift, Swift]:
    """Both networks for gradient steps: in bfloat16 as asked for, else where it is faster and runs.

    Raises:
        StrategyError: The network does not run in the bfloat16 that was asked for.
    """
    device = next((t.device for t in changed.program.tensors.values()), torch.device("cpu"))
    if precision == "bf16" or (precision is None and multiplies_bfloat16(device)):
        pair = Swift(changed.dense, bfloat16=True), Swift(changed.program, bfloat16=True)
        refusal = pair[0].refusal() or pair[1].refusal()
        if not refusal:
            return pair
        if precision is not None:
            raise StrategyError(
                f"tune: the network does not run in precision 'bf16': {refusal}; give 'fp32'"
            )
    return Swift(changed.dense, bfloat16=False), Swift(changed.program, bfloat16=False)


def _values(changed: Changed, swift: Swift) -> dict[str, Tensor]:
    """The parameters to tune, by name; the names of one tensor share it."""
    made: dict[tuple[object, ...], Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, tensor in changed.program.tensors.items():
        if name not in changed.program.parameters:
            continue
        key = identity(changed.dense.tensors.get(name, tensor))
        if key not in made or not torch.equal(made[key], tensor):
            fresh: Tensor = swift.laid(tensor.detach()).clone()
            trains = changed.dense.tensors.get(name, tensor).requires_grad
            made[key] = fresh.requires_grad_(trains and tensor.is_floating_point())
        values[name] = made[key]
    return values


def _features(program: Program) -> tuple[str, ...]:
    """Additions behind layers; of a network without any, the layers themselves."""
    known, _ = layers(program)
    added = [out.add for out in outlets(program, known).values() if out.add is not None]
    return tuple(dict.fromkeys(added or known))


def _joined(program: Program, calibration: Samples) -> list[Any]:
    """Flat inputs of all samples together."""
    (batch,) = list(calibration.batches(calibration.samples))
    return program.flatten_inputs(batch)


def _rows(program: Program, inputs: list[Any], chosen: Tensor) -> list[Any]:
    pairs = zip(inputs, program.batch_dims, strict=True)
    return [v if dim is None else v.index_select(dim, chosen) for v, dim in pairs]


def _augmented(program: Program, flat: list[Any], augment: Augment) -> list[Any]:
    args, kwargs = torch.utils._pytree.tree_unflatten(flat, program.in_spec)
    given = kwargs or (args[0] if len(args) == 1 else args)
    return program.flatten_inputs(augment(given))


def _pairs(given: Sequence[Any], wanted: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    """Outputs that can be compared: floating tensors."""
    return [
        (a, b)
        for a, b in zip(given, wanted, strict=True)
        if isinstance(a, Tensor) and a.is_floating_point()
    ]


def _relative(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the variance of what is wanted."""
    return (given - wanted).square().mean() / wanted.var(correction=0).clamp_min(TINY)


class _Square(torch.autograd.Function):
    """Sum of squared differences, whose gradient lies in memory as the values do."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, wanted: Tensor) -> Tensor:
        apart = given - wanted
        ctx.save_for_backward(apart)
        length: Tensor = torch.linalg.vector_norm(apart)
        return length.float().square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (apart,) = ctx.saved_tensors
        return apart * (2 * gradients[0]).to(apart.dtype), None


def _variance(value: Tensor) -> float:
    return max(float(value.float().var(correction=0)), TINY)


def _divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax over the last dimension."""
    target = wanted.log_softmax(-1)
    return (target.exp() * (target - given.log_softmax(-1))).sum(-1).mean()


def _zero() -> Tensor:
    return torch.zeros(())


def _pace(done: float) -> float:
    """Share of the step size, from the share of steps that were done."""
    if done < WARM_UP:
        return done / WARM_UP
    falling = (done - WARM_UP) / (1 - WARM_UP)
    return DECAY + (1 - DECAY) * (1 + math.cos(math.pi * falling)) / 2

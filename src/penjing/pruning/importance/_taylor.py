"""First-order Taylor importance, per-sample squares: the Fisher form.

Suffixes: B = samples, P = positions of the dimension that is cut, U = units.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance.sums import by_unit
from penjing.task import Calibration

LARGEST_CHUNK = 64  # samples whose gradients are held at once; more gains no speed on a CPU
COPIES = (
    3  # of a sample's gradients: the gradient, its product with the weight, what autograd holds
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taylor:
    """Mean square, over samples, of the first-order change that zeroing a unit would cause.

    For every sample the products of gradient and weight are summed over all that the unit cuts,
    then squared: E_x[(sum g w)^2]. With `loss` and labels, g is the gradient of the sample's loss.
    Without a loss no labels are needed: the change is that of the network's own prediction, to
    second order the KL divergence between the prediction before and after, by one random projection
    of the output per sample (the gradient of that divergence itself is zero, so it cannot be used).

    Args:
        samples: Samples at most, the first ones of the calibration data; below 1000 scores are
            noisy.
        loss: `loss(outputs, labels) -> scalar`, called with one sample as a batch.
        outputs: Without a loss: "logits" (softmax over dimension 1, as cross-entropy has it; a
            single logit counts as a value) or "values" (squared change).
        memory_mb: Bound on gradients and activations held at once, in MiB.
        seed: Of the projections.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Molchanov et al. 2019, arXiv:1906.10771, eq. 8, summed over coupled slices before squaring.
        The label-free form is ours: its expectation is the diagonal Fisher form of the same paper
        with labels drawn from the network.
    """

    samples: int = 1000
    loss: Callable[[Any, Any], Tensor] | None = None
    outputs: Literal["logits", "values"] = "logits"
    memory_mb: float = 512.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise StrategyError(f"taylor: samples is {self.samples}; it must be at least 1")
        if self.outputs not in ("logits", "values"):
            raise StrategyError(f"taylor: outputs is {self.outputs!r}; give 'logits' or 'values'")
        if not self.memory_mb > 0:
            raise StrategyError(f"taylor: memory_mb is {self.memory_mb}; it must be above 0")

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: there is no gradient without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise StrategyError(
            "taylor needs calibration data: pass calibration=, or call prepare(network, "
            "calibration)"
        )

    def prepare(self, network: Network, calibration: Calibration) -> TaylorScores:
        """Score the units of every group from one pass over the data.

        Args:
            network: The captured network, in eval mode; the model itself is not touched.
            calibration: Samples, with labels when there is a loss.

        Returns:
            An importance for the groups of `network`.

        Raises:
            StrategyError: Labels are missing, or the network takes no single samples.
        """
        program = network.program
        _refuse_fixed_batch(program)
        gradients = _Gradients(self, program, _cut_parameters(network))
        scores = {g.name: torch.zeros(g.units, dtype=torch.float64) for g in network.groups}
        seen = 0
        for inputs, labels in self._chunks(program, calibration, gradients.chunk()):
            terms = _first_order(gradients(inputs, labels), gradients.weights, network.groups)
            for name, terms_BU in terms.items():
                scores[name] += terms_BU.double().square().sum(dim=0).cpu()
            seen += _samples(inputs)
        return TaylorScores({name: (total / seen).float() for name, total in scores.items()})

    def _chunks(
        self, program: Program, calibration: Calibration, size: int
    ) -> Iterator[tuple[list[Any], Any]]:
        """Flat inputs and labels, at most `size` samples each, `samples` in all."""
        left = self.samples
        for batch, labels in zip(calibration.inputs, calibration.labels, strict=True):
            flat = program.flatten_inputs(batch)
            if self.loss is not None and labels is None:
                raise StrategyError(
                    "taylor has a loss and the calibration data has no labels; give batches of "
                    "(inputs, labels), or leave the loss out"
                )
            total = min(_samples(flat), left)
            for start in range(0, total, size):
                stop = min(start + size, total)
                yield _rows((flat, labels if self.loss else None), start, stop)
            left -= total


@dataclass(frozen=True, slots=True)
class TaylorScores:
    """Scores of one network's groups, as `Taylor.prepare` made them.

    Args:
        scores: Per group, shape `(units,)`, float32, on the CPU.
    """

    scores: Mapping[str, Tensor]

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Scores of `group`, shape `(group.units,)`.

        Args:
            model: Not read.
            group: A group of the network that was prepared.

        Returns:
            Mean squared first-order term per unit.

        Raises:
            StrategyError: The group is not one of that network.
        """
        scores = self.scores.get(group.name)
        if scores is None or scores.shape != (group.units,):
            raise StrategyError(
                f"taylor was prepared for another network: group {group.name!r} with {group.units} "
                "units is not among its groups; call prepare again"
            )
        return scores.clone()


class _Gradients:
    """Per-sample gradients of the objective in the parameters that are cut."""

    def __init__(self, taylor: Taylor, program: Program, weights: Mapping[str, Tensor]) -> None:
        self.taylor, self.program, self.weights = taylor, program, dict(weights)
        self._generator = torch.Generator().manual_seed(taylor.seed)
        self._batched = True
        self._fixed = {name: t.detach() for name, t in program.tensors.items()}
        self._device = next(iter(program.tensors.values())).device if program.tensors else "cpu"

    def chunk(self) -> int:
        """Samples whose gradients fit in the memory bound."""
        weights = sum(w.numel() for w in self.weights.values())
        nodes = [n for n in self.program.graph.nodes if n.op == "call_function"]
        shapes = [self.program.shape(n) for n in nodes if isinstance(n.meta.get("val"), Tensor)]
        batch = max(_samples(self.program.example), 1)
        activations = sum(math.prod(shape) for shape in shapes) / batch
        fitting = self.taylor.memory_mb * 2**20 / (4 * (COPIES * weights + 2 * activations) or 1)
        return int(min(max(fitting, 1), LARGEST_CHUNK))

    def __call__(self, inputs: Sequence[Any], labels: Any) -> dict[str, Tensor]:
        """Gradients by parameter, each of shape (B, *parameter)."""
        placed, labels = pytree.tree_map(self._placed, (list(inputs), labels))
        noise = self._noise(placed)
        if self._batched:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that an op is batched slowly
                    return self._vmapped(placed, labels, noise)
            except RuntimeError:  # an op that cannot be batched: one sample at a time, same numbers
                self._batched = False
        return self._looped(placed, labels, noise)

    def _vmapped(self, inputs: list[Any], labels: Any, noise: list[Tensor]) -> dict[str, Tensor]:
        leaves, structure = pytree.tree_flatten((inputs, labels, noise))
        mapped = [0 if isinstance(leaf, Tensor) else None for leaf in leaves]

        def one(weights: dict[str, Tensor], *sample: Any) -> Tensor:
            sample = tuple(v.unsqueeze(0) if isinstance(v, Tensor) else v for v in sample)
            return self._objective(weights, *pytree.tree_unflatten(list(sample), structure))

        gradients = torch.func.vmap(torch.func.grad(one), in_dims=(None, *mapped))
        found: dict[str, Tensor] = gradients(self.weights, *leaves)
        return found

    def _looped(self, inputs: list[Any], labels: Any, noise: list[Tensor]) -> dict[str, Tensor]:
        rows = []
        for row in range(_samples(inputs)):
            sample = _rows((inputs, labels, noise), row, row + 1)
            with torch.enable_grad():
                weights = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
                value = self._objective(weights, *sample)
                found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            rows.append(
                [
                    torch.zeros_like(w) if g is None else g
                    for g, w in zip(found, weights.values(), strict=True)
                ]
            )
        stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
        return dict(zip(self.weights, stacked, strict=True))

    def _objective(
        self,
        weights: Mapping[str, Tensor],
        inputs: Sequence[Any],
        labels: Any,
        noise: Sequence[Tensor],
    ) -> Tensor:
        """What is differentiated, for one sample as a batch."""
        outputs = self.program.run(inputs, {**self._fixed, **weights})
        if self.taylor.loss is not None:
            return self.taylor.loss(self.program.unflatten_outputs(outputs), labels)
        values = [out for out in outputs if _is_float(out)]
        pairs = zip(values, noise, strict=True)
        return torch.stack(
            [(out * self._projection(out.detach(), n)).sum() for out, n in pairs]
        ).sum()

    def _projection(self, output: Tensor, noise: Tensor) -> Tensor:
        """A random direction whose covariance is the Fisher information of the prediction."""
        if self.taylor.outputs == "values" or output.dim() < 2 or output.shape[1] == 1:
            return noise
        share = output.softmax(dim=1)
        root = share.sqrt() * noise
        return root - share * root.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def _noise(self, inputs: list[Any]) -> list[Tensor]:
        """Standard normal numbers for every floating output of every sample."""
        if self.taylor.loss is not None:
            return []
        outputs = self.program.run(_rows(inputs, 0, 1))
        return [
            torch.randn((_samples(inputs), *out.shape[1:]), generator=self._generator).to(out)
            for out in outputs
            if _is_float(out)
        ]

    def _placed(self, leaf: Any) -> Any:
        return leaf.to(self._device) if isinstance(leaf, Tensor) else leaf


def _first_order(
    gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], groups: Iterable[Group]
) -> dict[str, Tensor]:
    """Per group the sum of gradient times weight over all that each unit cuts, shape (B, U)."""
    sums: dict[tuple[str, int], Tensor] = {}
    terms: dict[str, Tensor] = {}
    for group in groups:
        for piece in group.slices:
            if piece.tensor not in weights:
                continue
            place = (piece.tensor, piece.dim)
            if place not in sums:
                product = (gradients[piece.tensor] * weights[piece.tensor]).movedim(
                    piece.dim + 1, 1
                )
                sums[place] = (
                    product.flatten(start_dim=2).sum(dim=2) if product.dim() > 2 else product
                )
            units_BU = by_unit(sums[place], piece, group.units)
            terms[group.name] = terms[group.name] + units_BU if group.name in terms else units_BU
    return terms


def _cut_parameters(network: Network) -> dict[str, Tensor]:
    """Floating parameters that at least one group cuts, detached."""
    program = network.program
    names = {piece.tensor for group in network.groups for piece in group.slices}
    return {
        name: program.tensors[name].detach()
        for name in sorted(names & program.parameters)
        if program.tensors[name].is_floating_point()
    }


def _refuse_fixed_batch(program: Program) -> None:
    batch = _samples(program.example)
    if not program.dynamic_batch and batch > 1:
        raise StrategyError(
            "taylor looks at one sample at a time and the network was captured with a fixed batch "
            "of "
            f"{batch}; give example_inputs of one sample, or use 'l2'"
        )


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _samples(leaves: Sequence[Any]) -> int:
    return next((int(v.shape[0]) for v in leaves if isinstance(v, Tensor) and v.dim()), 0)


def _rows(tree: Any, start: int, stop: int) -> Any:
    """Samples `start` to `stop` of every tensor in a tree."""
    return pytree.tree_map(
        lambda v: v[start:stop] if isinstance(v, Tensor) and v.dim() else v, tree
    )

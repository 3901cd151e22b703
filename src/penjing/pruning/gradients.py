"""Gradients in the parameters of a captured network: sample by sample, and of a mean loss.

Suffixes: B = samples, W = parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Program
from penjing.task import Batch, Calibration
from penjing.task.batches import describe, prediction
from penjing.task.outputs import Output, Outputs
from penjing.task.samples import label_dim

LARGEST_CHUNK = 64  # samples whose gradients are held at once; more gains no speed on a CPU
TINY = 1e-12  # variance of what does not vary
COPIES = (
    3  # of a sample's gradients: the gradient, its product with the weight, what autograd holds
)

Loss = Callable[[Any, Any], Tensor]
"""`loss(outputs, labels)`, a mean over samples."""


def class_loss(outputs: Any, labels: Any) -> Tensor:
    """Mean cross-entropy of class scores: the loss of criteria that are given none.

    Args:
        outputs: Scores, or a structure with `logits`; where their classes are, the labels say, else
            `penjing.task.outputs`.
        labels: Class numbers, or class probabilities of the outputs' shape.

    Returns:
        A scalar.

    Raises:
        StrategyError: The outputs are no scores of those labels.
    """
    outputs = prediction(outputs)
    if isinstance(outputs, Tensor) and isinstance(labels, Tensor):
        try:
            (read,) = Outputs("classes").at(outputs, labels).read(outputs)
            shares = labels.is_floating_point() and labels.shape == outputs.shape
            wanted = read.scores(labels).movedim(-1, 1) if shares else labels
            return F.cross_entropy(read.scores(outputs).movedim(-1, 1), wanted)
        except (InputError, RuntimeError, IndexError, ValueError) as error:
            raise StrategyError(
                f"the cross-entropy of outputs {describe(outputs)} and labels {describe(labels)} "
                f"cannot be taken ({error}); give a loss of your own, such as "
                "importance.Elementwise(saliency=Snip(loss=...))"
            ) from error
    raise StrategyError(
        f"the cross-entropy is of one tensor of scores and one of labels; got "
        f"{describe(outputs)} and {describe(labels)}. Give a loss of your own, such as "
        "importance.Elementwise(saliency=Snip(loss=...))"
    )


Read = Literal["logits", "values"] | Outputs
"""What outputs are: as the calibration data says or as they look, all values, or in full."""


def as_read(outputs: Read, calibration: Calibration) -> Outputs:
    """What outputs are, in full."""
    if isinstance(outputs, Outputs):
        return outputs
    return Outputs("values") if outputs == "values" else calibration.outputs


def check_read(name: str, outputs: Read) -> None:
    """Refuse what does not say what outputs are.

    Raises:
        StrategyError: Names the strategy.
    """
    if outputs not in ("logits", "values") and not isinstance(outputs, Outputs):
        raise StrategyError(
            f"{name}: outputs is {outputs!r}; give 'logits', 'values' or Outputs(kind=, class_dim=)"
        )


class Objective(Protocol):
    """What is differentiated for every sample."""

    @property
    def loss(self) -> Loss | None:
        """Called with one sample as a batch; None projects the outputs at random."""
        ...

    @property
    def outputs(self) -> Read:
        """What the outputs are, where there is no loss."""
        ...

    @property
    def memory_mb(self) -> float:
        """Bound on gradients and activations held at once, in MiB."""
        ...

    @property
    def seed(self) -> int:
        """Of the projections."""
        ...


def sample_chunks(
    program: Program,
    calibration: Calibration,
    size: int,
    samples: int | None = None,
    labelled_for: str = "",
) -> Iterator[tuple[list[Any], Any]]:
    """Flat inputs and labels in pieces.

    Args:
        program: Says how inputs are flattened.
        calibration: The samples.
        size: Samples of a piece at most.
        samples: Samples in all at most.
        labelled_for: What needs labels; empty gives None for them.

    Yields:
        Flat inputs and the labels that belong to them.

    Raises:
        StrategyError: Labels are needed and are not there.
    """
    left = calibration.samples if samples is None else samples
    for piece in calibration.pieces(size):
        if left < 1:
            return
        if labelled_for and piece.labels is None:
            raise StrategyError(
                f"{labelled_for} ranks by labels and batch {calibration.labels.index(None)} of the "
                "calibration data has none; give batches of (inputs, labels), or a criterion "
                "without a loss"
            )
        own = piece.part(0, left)
        yield program.flatten_inputs(own.inputs), own.labels if labelled_for else None
        left -= piece.samples


def whole_chunks(
    program: Program,
    calibration: Calibration,
    size: int,
    samples: int,
    labelled_for: str = "",
) -> Iterator[tuple[list[Any], Any]]:
    """Flat inputs and labels in pieces that the network takes: of a fixed batch, only whole ones.

    Args:
        program: The network.
        calibration: The samples.
        size: Samples of a piece at most, where the batch is free.
        samples: Samples in all at most; of a fixed batch, one batch at least.
        labelled_for: What needs labels; empty gives None for them.

    Yields:
        Flat inputs and the labels that belong to them.

    Raises:
        StrategyError: Labels are needed and are not there, or no batch is as large as a fixed one.
    """
    if program.dynamic_batch:
        yield from sample_chunks(program, calibration, size, samples, labelled_for)
        return
    fixed = program.batch
    found = False
    for piece in sample_chunks(program, calibration, fixed, max(samples, fixed), labelled_for):
        if program.samples(piece[0]) == fixed:
            found = True
            yield piece
    if not found:
        raise StrategyError(
            f"the network takes batches of exactly {fixed}, and the largest batch of the "
            f"{calibration.samples} calibration samples that are looked at has "
            f"{max(calibration.sizes)}; give batches of at least {fixed}"
        )


def refuse_fixed_batch(program: Program, name: str) -> None:
    """Refuse a network that takes no single samples.

    Args:
        program: The network.
        name: What looks at one sample at a time, for the message.

    Raises:
        StrategyError: Its batch is fixed, and of more than one sample.
    """
    batch = program.batch
    if not program.dynamic_batch and batch > 1:
        raise StrategyError(
            f"{name} looks at one sample at a time and the network was captured with a fixed batch "
            f"of {batch}; give example_inputs of one sample, or use 'l2'"
        )


class SampleGradients:
    """Gradients of an objective in some parameters, one for every sample.

    Args:
        objective: What is differentiated.
        program: The network.
        weights: Parameters by qualified name, detached.
        outputs: What its outputs are, where there is no loss.
    """

    def __init__(
        self,
        objective: Objective,
        program: Program,
        weights: Mapping[str, Tensor],
        outputs: Outputs,
    ) -> None:
        self.objective, self.program, self.weights = objective, program, dict(weights)
        self.outputs = outputs
        self._scales: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(objective.seed)
        self._batched = True
        self._fixed = {name: t.detach() for name, t in program.tensors.items()}
        self._device = next(iter(program.tensors.values())).device if program.tensors else "cpu"

    def chunk(self) -> int:
        """Samples whose gradients fit in the memory bound."""
        weights = sum(w.numel() for w in self.weights.values())
        nodes = [n for n in self.program.graph.nodes if n.op == "call_function"]
        shapes = [self.program.shape(n) for n in nodes if isinstance(n.meta.get("val"), Tensor)]
        activations = sum(math.prod(shape) for shape in shapes) / self.program.batch
        fitting = self.objective.memory_mb * 2**20 / (4 * (COPIES * weights + 2 * activations) or 1)
        return int(min(max(fitting, 1), LARGEST_CHUNK))

    def __call__(self, inputs: Sequence[Any], labels: Any) -> dict[str, Tensor]:
        """Gradients of a few samples.

        Args:
            inputs: Flat inputs.
            labels: Read where the objective has a loss.

        Returns:
            By parameter, each of shape (B, *parameter).
        """
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
        dims = self.program.batch_dims
        places = [*dims, *(label_dim(v, inputs, dims) for v in pytree.tree_leaves(labels))]
        leaves, structure = pytree.tree_flatten((inputs, labels))

        def one(weights: dict[str, Tensor], noise: list[Tensor], *sample: Any) -> Tensor:
            batch = (
                v if d is None else v.unsqueeze(d) for v, d in zip(sample, places, strict=True)
            )
            own, told = pytree.tree_unflatten(list(batch), structure)
            return self._value(weights, own, told, noise)

        gradients = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, *places))
        found: dict[str, Tensor] = gradients(self.weights, noise, *leaves)
        return found

    def _looped(self, inputs: list[Any], labels: Any, noise: list[Tensor]) -> dict[str, Tensor]:
        found_BW = []
        batch = Batch(inputs, labels, self.program.batch_dims)
        for at in range(batch.samples):
            sample = batch.part(at, at + 1)
            with torch.enable_grad():
                weights = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
                own = [n[at] for n in noise]
                value = self._value(weights, sample.inputs, sample.labels, own)
                found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            found_BW.append(
                [
                    torch.zeros_like(w) if g is None else g
                    for g, w in zip(found, weights.values(), strict=True)
                ]
            )
        stacked = [torch.stack(column) for column in zip(*found_BW, strict=True)]
        return dict(zip(self.weights, stacked, strict=True))

    def _value(
        self,
        weights: Mapping[str, Tensor],
        inputs: Sequence[Any],
        labels: Any,
        noise: Sequence[Tensor],
    ) -> Tensor:
        """What is differentiated, for one sample as a batch."""
        flat = self.program.run(inputs, {**self._fixed, **weights})
        outputs = self.program.unflatten_outputs(flat)
        if self.objective.loss is not None:
            return self.objective.loss(outputs, labels)
        read = self.outputs.read(outputs)
        parts = zip(read, noise, self._scales, strict=True)
        return torch.stack(
            [(out.scores(out.value) * _projection(out, n)).sum() / s for out, n, s in parts]
        ).sum()

    @torch.no_grad()
    def _noise(self, inputs: list[Any]) -> list[Tensor]:
        """Standard normal numbers for every floating output of every sample."""
        if self.objective.loss is not None:
            return []
        if not self._scales:
            whole = self.program.unflatten_outputs(self.program.run(inputs))
            self._scales = [s.sqrt() for s in energies(self.outputs.read(whole))]
        single = self.program.unflatten_outputs(self.program.run(self.program.head(inputs, 1)))
        samples = self.program.samples(inputs)
        found = []
        for out in self.outputs.read(single):
            shape = (samples, *out.scores(out.value).shape)
            found.append(torch.randn(shape, generator=self._generator).to(out.value))
        return found

    def _placed(self, leaf: Any) -> Any:
        return leaf.to(self._device) if isinstance(leaf, Tensor) else leaf


def _projection(out: Output, noise: Tensor) -> Tensor:
    """A random direction whose covariance is the Fisher information of the prediction."""
    if out.kind == "values":
        return noise
    share = out.scores(out.value.detach()).softmax(-1)
    root = share.sqrt() * noise
    return root - share * root.sum(-1, keepdim=True)


def energies(read: Sequence[Output]) -> list[Tensor]:
    """By what squared changes are divided: the variance of values beside other outputs, else 1.

    Args:
        read: The outputs on some samples.

    Returns:
        One number per output.
    """
    return [
        out.value.var(correction=0).clamp_min(TINY)
        if out.kind == "values" and len(read) > 1
        else torch.ones(())
        for out in read
    ]


def mean_gradient(
    program: Program,
    weights: Mapping[str, Tensor],
    pieces: Sequence[tuple[list[Any], Any]],
    loss: Loss,
    along: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Gradient of the mean loss over all samples, or the Hessian times a direction.

    Args:
        program: The network.
        weights: Parameters by qualified name, detached.
        pieces: Flat inputs and labels.
        loss: A mean over the samples of a piece.
        along: Direction by parameter: then the result is the Hessian of the mean loss times it.

    Returns:
        By parameter, in its own shape; zeros where the loss does not depend on it.
    """
    fixed = {name: t.detach() for name, t in program.tensors.items()}
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    whole = sum(program.samples(inputs) for inputs, _ in pieces)
    for inputs, labels in pieces:
        # fused attention is differentiable once only
        twice = nullcontext() if along is None else sdpa_kernel(SDPBackend.MATH)
        with torch.enable_grad(), twice:
            own = {name: w.clone().requires_grad_() for name, w in weights.items()}
            outputs = program.unflatten_outputs(program.run(inputs, {**fixed, **own}))
            value = loss(outputs, labels)
            found = _derivative(value, own, curved=along is not None)
            if along is not None:
                slope = sum((found[name] * along[name]).sum() for name in found)
                found = _derivative(slope, own)
        share = program.samples(inputs) / whole
        for name, gradient in found.items():
            total[name] += share * gradient.detach()
    return total


def _derivative(
    value: Tensor | int, weights: Mapping[str, Tensor], *, curved: bool = False
) -> dict[str, Tensor]:
    """Derivative in every weight that `value` depends on; nothing where it depends on none."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return {}
    found = torch.autograd.grad(
        value, list(weights.values()), create_graph=curved, allow_unused=True
    )
    return {n: g for n, g in zip(weights, found, strict=True) if g is not None}

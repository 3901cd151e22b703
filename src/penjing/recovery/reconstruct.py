"""Reconstruction: re-solve each layer of a cut network by least squares, so that it answers as the whole one did.

Layers are taken in the order of the graph. Each is fitted on what really reaches it, so it also makes up for what the
layers before it left over. No labels, no gradients.

Suffixes: G = convolution groups, U = unknowns of a group, V = outputs of a group, O = G x V outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.figures import RepairFigures
from penjing.graph.capture import Program
from penjing.statistics.grams import Gram, Layer, Rows, layers, patches, rows_per_sample
from penjing.statistics.outlets import Norm, Outlet, outlets, per_channel, tied
from penjing.statistics.stream import Chunk, Samples, Stream, differing

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # shares of the mean diagonal; held-out samples choose among them
HOLD_OUT = 5  # one chunk in so many chooses the damping and judges the result
NEGLIGIBLE = 1e-6  # a norm's scale below this share of its largest passes nothing on that could be solved for


class _Network(Protocol):
    @property
    def program(self) -> Program: ...


class Cut(Protocol):
    """A cut network as this module needs it."""

    @property
    def network(self) -> _Network: ...

    @property
    def program(self) -> Program: ...

    def keep(self, node: str, dim: int) -> Tensor | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruct:
    """Settings of the reconstruction.

    Args:
        solve: "cut" re-solves the layers that lost inputs; "all" also those behind them whose inputs merely changed.
        dampings: Ridge strengths to choose from, as shares of the mean diagonal of the Gram matrix.
        rows_per_unknown: Output positions looked at per unknown of a layer, drawn over all samples.
        memory_mb: Bound on the activations held, in MiB.
        largest: Unknowns of a layer beyond which it is left alone.
        seed: Of the choice of output positions.
    """

    solve: Literal["cut", "all"] = "all"
    dampings: tuple[float, ...] = DAMPINGS
    rows_per_unknown: float = 30.0
    memory_mb: float = 2048.0
    largest: int = 4700
    seed: int = 0
    prior: str = "zero"
    correct: bool = True

    def __post_init__(self) -> None:
        if self.solve not in {"cut", "all"}:
            raise StrategyError(f"solve is {self.solve!r}; it is 'cut' or 'all'")
        if not self.dampings or min(self.dampings) <= 0:
            raise StrategyError(f"dampings are {self.dampings}; give at least one, all greater than 0")
        for name in ("rows_per_unknown", "memory_mb", "largest"):
            if not getattr(self, name) > 0:
                raise StrategyError(f"{name} is {getattr(self, name)}; it must be greater than 0")


def reconstruct(
    cut: Cut, calibration: Samples, settings: Reconstruct | None = None
) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """Re-solve the layers of a cut network.

    Args:
        cut: A network and its cut form; neither is changed.
        calibration: Unlabelled samples.
        settings: How; the defaults when None.

    Returns:
        New values by qualified name for tensors of the cut network, and one row per layer that was looked at.

    Source:
        He et al. 2017, arXiv:1707.06168, eq. 4: least squares of the next layer against the dense output, on the inputs of
        the pruned network. Here with intercept, with the other operand of a following addition in the target, for any
        reader, and with the damping chosen by held-out samples.
    """
    work = _Reconstruction(cut, settings or Reconstruct())
    work.run(calibration)
    return work.solved, work.rows


@dataclass(eq=False, slots=True)
class _Reconstruction:
    cut: Cut
    settings: Reconstruct
    solved: dict[str, Tensor] = field(default_factory=dict)
    rows: list[RepairFigures] = field(default_factory=list)
    peak_bytes: int = 0

    @torch.no_grad()
    def run(self, calibration: Samples) -> None:
        dense, cut = self.cut.network.program, self.cut.program
        chosen, outlet_of = self._choose()
        changing = [*chosen, *(o.norm.node for n, o in outlet_of.items() if n in chosen and o.norm is not None)]
        stream = Stream([dense, cut], calibration, self.settings.memory_mb, changing)
        generator = torch.Generator().manual_seed(self.settings.seed)
        for layer in chosen.values():
            chunks = stream.advance(layer.node)
            new = self._repair(stream, chunks, layer, outlet_of[layer.node], generator)
            self.solved.update(new)
            stream.replace(1, new)
        self.peak_bytes = stream.peak_bytes

    def _choose(self) -> tuple[dict[str, Layer], dict[str, Outlet]]:
        """Layers to solve; rows for those that cannot be."""
        dense, cut = self.cut.network.program, self.cut.program
        known, refused = layers(cut)
        ties, differ = tied(dense), differing(dense, cut)
        chosen = {}
        for node, layer in known.items():
            if layer.source not in differ:
                continue
            lost = dense.tensors[layer.weight].shape[layer.input_dim] != cut.tensors[layer.weight].shape[layer.input_dim]
            if self.settings.solve == "cut" and not lost:
                continue
            reason = self._obstacle(layer, ties)
            if reason:
                self._skip(layer.weight, reason)
            else:
                chosen[node] = layer
        for node, reason in refused.items():
            if any(n.name in differ for n in cut.nodes[node].all_input_nodes):
                self._skip(node, reason)
        return chosen, outlets(dense, known)

    def _obstacle(self, layer: Layer, ties: frozenset[str]) -> str:
        """Why a layer cannot be solved; empty when it can."""
        unknowns = layer.matrix(self.cut.program.tensors[layer.weight]).shape[2]
        if layer.weight in ties or layer.bias in ties:
            return "its weight is used more than once"
        if unknowns > self.settings.largest:
            return f"its Gram matrix is too large: {unknowns} unknowns, at most {self.settings.largest}"
        return ""

    def _skip(self, name: str, reason: str) -> None:
        self.rows.append(RepairFigures(name.removesuffix(".weight"), None, None, None, reason))

    def _repair(
        self, stream: Stream, chunks: Sequence[Chunk], layer: Layer, out: Outlet, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Gather, fit and write back one layer; nothing when it cannot be made better."""
        tensors = self.cut.program.tensors
        start = _Start.of(layer, out.norm, tensors)
        fitted, held = self._gather(stream, chunks, layer, out, start, generator)
        solution = _fit(fitted, held, start, self.settings)
        self.rows.append(
            RepairFigures(
                layer.weight.removesuffix(".weight"), solution.before, solution.after, solution.damping, solution.reason
            )
        )
        if solution.weight is None or solution.intercept is None:
            return {}
        return _write_back(layer, out.norm, tensors, start, solution, fitted + held)

    def _gather(
        self,
        stream: Stream,
        chunks: Sequence[Chunk],
        layer: Layer,
        out: Outlet,
        start: _Start,
        generator: torch.Generator,
    ) -> tuple[Gram, Gram]:
        """Sums over the chunks to fit on and over those held out."""
        groups, outputs, unknowns = start.weight.shape
        grams = [Gram.zeros(groups, unknowns, outputs, device=start.weight.device) for _ in range(2)]
        each = rows_per_sample(unknowns, stream.held, self.settings.rows_per_unknown)
        for chunk in chunks:
            view = patches(layer, stream.value(chunk, layer.source, 1))
            rows = Rows.choose(view.shape[: view.dim() - len(layer.kernel) - 1], each, generator)
            target = self._target(stream, chunk, layer, out, start)
            gram = grams[chunk.index % HOLD_OUT == HOLD_OUT - 1]
            gram.add(rows.inputs(layer, view), rows.outputs(layer, target))
        return grams[0], grams[1]

    def _target(self, stream: Stream, chunk: Chunk, layer: Layer, out: Outlet, start: _Start) -> Tensor:
        """What the layer should give, times the scale of its norm."""
        value: Tensor = stream.value(chunk, layer.node)
        value = self._kept(value, layer.node)
        value = value * per_channel(start.scale.to(value.dtype), layer, value.dim())
        order = stream.place
        if out.other is None or order[out.other] >= order[layer.node] or not self.settings.correct:
            return value
        missing = self._kept(stream.value(chunk, out.other), out.other) - stream.value(chunk, out.other, 1)
        return value + missing

    def _kept(self, value: Tensor, node: str) -> Tensor:
        """The part of a dense value that the cut network still has."""
        for dim in range(value.dim()):
            keep = self.cut.keep(node, dim)
            if keep is not None:
                value = value.index_select(dim, keep.to(value.device))
        return value


@dataclass(frozen=True, slots=True)
class _Start:
    """A layer before its repair, in units of its norm's output: `scale * layer(x)`, without the norm's shift.

    Args:
        weight: `(G, V, U)`, float64.
        intercept: `(G, V)`.
        scale: Scale of the norm per output `(O,)`, ones without one.
        free: Whether an intercept can be written back.
    """

    weight: Tensor
    intercept: Tensor
    scale: Tensor
    free: bool

    @classmethod
    def of(cls, layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor]) -> _Start:
        weight = layer.matrix(tensors[layer.weight].double())
        groups, outputs, _ = weight.shape
        scale = torch.ones(groups * outputs, dtype=torch.float64, device=weight.device)
        if norm is not None:
            scale = norm.affine(tensors)[0]
        bias = torch.zeros_like(scale) if layer.bias is None else tensors[layer.bias].double()
        scale_GV = scale.view(groups, outputs)
        free = norm is not None or layer.bias is not None
        return cls(weight * scale_GV[:, :, None], bias.view(groups, outputs) * scale_GV, scale, free)


@dataclass(frozen=True, slots=True)
class _Solution:
    """A fit in units of the norm's output; no weight when the layer is better left alone."""

    before: float
    after: float
    damping: float | None
    weight: Tensor | None = None
    intercept: Tensor | None = None
    reason: str = ""


def _fit(fitted: Gram, held: Gram, start: _Start, settings: Reconstruct) -> _Solution:
    """Choose the damping on held-out samples, then fit on all."""
    judge = held if held.rows else fitted
    energy = float(judge.centred().yy.sum()) if start.free else float(judge.yy.sum())
    energy = max(energy, 1e-30)

    def error(weight: Tensor, intercept: Tensor) -> float:
        return float(judge.squared_error(weight, intercept).sum()) / energy

    before = error(start.weight, start.intercept)
    best, damping = before, None
    for share in settings.dampings:
        candidate = _ridge(fitted, start, share, settings.prior)
        if candidate is not None and error(*candidate) < best:
            best, damping = error(*candidate), share
    if damping is None:
        return _Solution(before, before, None, reason="no fit is better than the layer as it was on held-out samples")
    final = _ridge(fitted + held, start, damping, settings.prior)
    if final is None:
        return _Solution(before, before, None, reason="its Gram matrix is singular")
    return _Solution(before, best, damping, *final)


def _ridge(gram: Gram, start: _Start, share: float, prior: str) -> tuple[Tensor, Tensor] | None:
    """Weight `(G, V, U)` and intercept `(G, V)` of a ridge fit; None when the Gram is singular."""
    sums = gram.centred() if start.free else gram
    diagonal = sums.xx.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(sums.xx.shape[1], dtype=sums.xx.dtype, device=sums.xx.device)
    factor, info = torch.linalg.cholesky_ex(sums.xx + (share * diagonal)[:, None, None] * eye)
    if bool(info.any()):
        return None
    if prior == "zero":
        weight = torch.cholesky_solve(sums.xy, factor).mT
    else:
        weight = start.weight + torch.cholesky_solve(sums.xy - sums.xx @ start.weight.mT, factor).mT
    if not bool(weight.isfinite().all()):
        return None
    if not start.free:
        return weight, torch.zeros_like(start.intercept)
    rows = max(gram.rows, 1)
    return weight, (gram.y - torch.einsum("gvu,gu->gv", weight, gram.x)) / rows


def _write_back(
    layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor], start: _Start, solution: _Solution, gram: Gram
) -> dict[str, Tensor]:
    """New tensors of the layer and its norm; running statistics become the moments of the repaired layer."""
    assert solution.weight is not None and solution.intercept is not None  # noqa: PT018 - both or neither
    new: dict[str, Tensor] = {}
    groups, outputs, _ = start.weight.shape
    scale = start.scale
    passes = scale.abs() > NEGLIGIBLE * scale.abs().max()
    divisor = torch.where(passes, scale, 1.0).view(groups, outputs)
    before = layer.matrix(tensors[layer.weight].double())
    weight = torch.where(passes.view(groups, outputs, 1), solution.weight / divisor[:, :, None], before)
    new[layer.weight] = layer.tensor(weight)
    intercept = solution.intercept.flatten()
    if norm is None:
        if layer.bias is not None:
            new[layer.bias] = intercept
    else:
        bias = torch.zeros_like(scale) if layer.bias is None else tensors[layer.bias].double()
        _, old_shift = norm.affine(tensors)
        mean, var = _moments(gram, weight, bias)
        new.update(_norm_for(norm, tensors, scale, old_shift + intercept - scale * bias, mean, var))
    return {fqn: value.to(tensors[fqn].dtype) for fqn, value in new.items()}


def _moments(gram: Gram, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the layer's output per channel."""
    rows = max(gram.rows, 1)
    mean = torch.einsum("gvu,gu->gv", weight, gram.x) / rows
    var = ((weight @ gram.centred().xx) * weight).sum(2).clamp_min(0) / rows
    return mean.flatten() + bias, var.flatten()


def _norm_for(
    norm: Norm, tensors: Mapping[str, Tensor], scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor
) -> dict[str, Tensor]:
    """Tensors with which a norm on inputs of these moments is `scale * x + shift`."""
    new: dict[str, Tensor] = {}
    if norm.bias is None:  # only the running mean can carry the shift
        new[norm.mean] = torch.where(scale != 0, -shift / torch.where(scale != 0, scale, 1.0), tensors[norm.mean].double())
        return new
    new[norm.mean] = mean
    new[norm.bias] = shift + scale * mean
    if norm.weight is not None:
        new[norm.var] = var
        new[norm.weight] = scale * (var.to(tensors[norm.var].dtype).double() + norm.eps).sqrt()
    return new

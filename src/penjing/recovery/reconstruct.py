"""Reconstruction: layers of a cut network re-solved to answer as those of the whole one.

Layers are taken in the order of the graph. Each is fitted on what really reaches it, so it also
makes up for what the layers before it left over. No labels, no gradients.

Suffixes: G = convolution groups, R = rows, U = unknowns of a group, V = outputs of a group.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.figures import RepairFigures
from penjing.graph.analysis import open_sizes
from penjing.graph.capture import Program, concrete_shape
from penjing.graph.network import Cut
from penjing.graph.norms import Norm
from penjing.pruning.standing import standing
from penjing.recovery.choice import Choice
from penjing.recovery.mixtures import Experts, mixtures
from penjing.recovery.moments import Fit, Moments, match
from penjing.recovery.rebase import Rebase, rebases, untouched
from penjing.recovery.ridge import Solution, Start, fit, ridge_of
from penjing.recovery.write_back import gram_moments, write_back
from penjing.recovery.zeros import KEPT
from penjing.statistics.grams import Gram, Layer, Rows, layers, patches, rows_per_sample
from penjing.statistics.outlets import Outlet, outlets, per_channel, tied
from penjing.statistics.stream import MEGABYTE, Chunk, Samples, Stream, differing

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # decades; held-out samples choose among them
HOLD_OUT = 5  # one chunk in so many chooses the damping and judges the result
ROWS_SHARE = 0.25  # of the memory that the rows of one layer may take, else they are gathered again
FULL_DAMPING = 1e-3  # of the weight without zeros that says which ones are to become zero
FROZEN = "its parameters are frozen (requires_grad=False)"
SPARSE = "its zeros stay, and a new basis has none"


class Changed(Protocol):
    """A network and a changed form of it, such as a `Cut`."""

    @property
    def dense(self) -> Program:
        """The network as it was."""
        ...

    @property
    def program(self) -> Program:
        """The changed form, with the same node names."""
        ...

    def slice_like(self, node: str, value: Tensor) -> Tensor:
        """What is left of a tensor that has the original shape of a node's first output."""
        ...


def loses_rows(changed: Changed, node: str) -> bool:
    """Whether a node's batch has a row for each unit of a sample, and some of them go.

    Args:
        changed: A network and its changed form.
        node: Name of a node with one tensor.
    """
    dense, cut = (program.nodes[node].meta["val"] for program in (changed.dense, changed.program))
    sizes = zip(dense.shape, concrete_shape(dense), concrete_shape(cut), strict=True)
    return any(not isinstance(size, int) and before != after for size, before, after in sizes)


class Support(Protocol):
    """Which weights of some layers may be other than zero."""

    def __contains__(self, weight: str) -> bool:
        """Whether the layer of a weight has zeros."""
        ...

    def choose(
        self, layer: Layer, gram: Gram, free: bool, full: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """Weights that stay, `(G, V, U)` bool.

        Args:
            layer: The layer.
            gram: Sums over what reaches it.
            free: Whether an intercept is free.
            full: Solves for the best weight without zeros, but for those outside a mask,
                `(G, V, U)`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruct:
    """Settings of the reconstruction.

    Args:
        fit: What is fitted: "least_squares" all weights; "variance" only mean and variance of every
            channel, which asks for no Gram matrix; "bias" only the mean.
        solve: "cut" re-solves the layers that lost inputs; "all" also those behind them.
        dampings: Ridge strengths to choose from, as shares of the mean diagonal of the Gram matrix.
        rows_per_unknown: Output positions looked at per unknown of a layer, drawn over all samples.
        rounds: Corrections of the target for what a ReLU behind the layer hides; 0 for none.
        memory_mb: Bound on the activations held, in MiB.
        largest: Unknowns of a layer beyond which only its mean and variance are matched.
        keep_frozen: Leave layers alone of which a parameter, or one of the norm behind them, has
            `requires_grad=False`.
        seed: Of the choice of output positions.

    Raises:
        StrategyError: A setting is outside its range.
    """

    fit: Fit = "least_squares"
    solve: Literal["cut", "all"] = "all"
    dampings: tuple[float, ...] = DAMPINGS
    rows_per_unknown: float = 200.0
    rounds: int = 5
    memory_mb: float = 2048.0
    largest: int = 4700
    keep_frozen: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise StrategyError(
                f"reconstruct: fit is {self.fit!r}; known are {', '.join(map(repr, get_args(Fit)))}"
            )
        if self.solve not in ("cut", "all"):
            raise StrategyError(f"reconstruct: solve is {self.solve!r}; it is 'cut' or 'all'")
        if not self.dampings or min(self.dampings) <= 0:
            raise StrategyError(
                f"reconstruct: dampings are {self.dampings}; give at least one, all above 0"
            )
        if self.rounds < 0:
            raise StrategyError(f"reconstruct: rounds is {self.rounds}; it must be 0 or more")
        for name in ("rows_per_unknown", "memory_mb", "largest"):
            if not getattr(self, name) > 0:
                value = getattr(self, name)
                raise StrategyError(f"reconstruct: {name} is {value}; it must be above 0")


def reconstruct(
    cut: Changed,
    calibration: Samples,
    settings: Reconstruct | None = None,
    support: Support | None = None,
) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """Re-solve the layers of a cut or sparse network.

    Args:
        cut: A network and its changed form; neither is changed.
        calibration: Unlabelled samples.
        settings: How; the defaults when None.
        support: Layers with zeros that stay zero, and where; other layers keep the zeros that they
            have, where `pruning.standing` finds them meant.

    Returns:
        New values by qualified name for tensors of the cut network, and one row per layer that was
        looked at.

    Source:
        He et al. 2017, arXiv:1707.06168, eq. 4: least squares of the next layer against the dense
        output, on the inputs of the pruned network. Here with intercept, with the other operand of
        a following addition in the target, for any reader, and with the damping chosen by held-out
        samples. Targets behind a ReLU: Zhang et al. 2015, arXiv:1505.06798, section 2.2, as a
        majorisation with momentum: where the dense value is clipped, any clipped value is right.
    """
    work = Reconstruction(cut, settings or Reconstruct(), support)
    work.run(calibration)
    return work.solved, work.rows + (untouched(cut) if isinstance(cut, Cut) else [])


@dataclass(eq=False, slots=True)
class Reconstruction:
    """One reconstruction at work.

    Args:
        cut: A network and its cut form.
        settings: How.
        support: Layers with zeros, and where.
        solved: New values by qualified name.
        rows: One per layer that was looked at.
        turned: By layer node what its outputs are in terms of the original's, `(before, after)`,
            where they have a new basis.
        choices: By layer node what decides on its rows, where their number depends on the data.
        peak_bytes: Most activation memory held.
    """

    cut: Changed
    settings: Reconstruct
    support: Support | None = None
    solved: dict[str, Tensor] = field(default_factory=dict)
    rows: list[RepairFigures] = field(default_factory=list)
    turned: dict[str, Tensor] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    peak_bytes: int = 0

    @torch.no_grad()
    def run(self, calibration: Samples) -> None:
        """Go through the network once."""
        dense, cut = self.cut.dense, self.cut.program
        chosen, outlet_of = self._choose()
        norms = [outlet_of[name].norm for name in chosen]
        attentions = self._choose_attentions()
        experts = self._choose_experts()
        turning = [layer.node for a in attentions for layer in a.layers]
        changing = [*chosen, *turning, *(norm.node for norm in norms if norm is not None)]
        changing += [e.changing for e in experts.values()]
        if not changing:
            return
        reads = {node: e.reads for node, e in experts.items()}
        reads |= {node: choice.reads for node, choice in self.choices.items()}
        stream = Stream([dense, cut], calibration, self.settings.memory_mb, changing, reads)
        first = {a.first(stream.place): a for a in attentions}
        for node in sorted({*chosen, *first, *experts}, key=lambda name: stream.place[name]):
            stream.advance(node)
            if node in first:
                self._replace(stream, self._turn(stream, first[node]))
            if node in chosen:
                self._replace(stream, self._repair(stream, chosen[node], outlet_of[node]))
            if node in experts:
                self._replace(stream, self._solve(stream, experts[node]))
                experts[node].forget(stream)
        self.peak_bytes = stream.peak_bytes

    def _replace(self, stream: Stream, new: Mapping[str, Tensor]) -> None:
        self.solved.update(new)
        stream.replace(1, new)

    def _turn(self, stream: Stream, attention: Rebase) -> dict[str, Tensor]:
        """Give queries and keys the basis in which what is cut matters least."""
        for chunk in stream.chunks:
            attention.look({n.node: stream.value(chunk, n.node) for n in attention.layers})
        basis = attention.turn()
        self.turned.update(basis.turned)
        self.rows.append(basis.row)
        return basis.tensors

    def _solve(self, stream: Stream, experts: Experts) -> dict[str, Tensor]:
        """Fit the matrices of stacked experts."""
        how = self.settings
        seed = how.seed + stream.place[experts.layer.node] * len(stream.place)
        sums = experts.moments(stream, how.rows_per_unknown, seed, HOLD_OUT)
        new, row = experts.solve(*sums, how.dampings)
        self.rows.append(row)
        return new

    def _choose_attentions(self) -> list[Rebase]:
        """Attentions whose queries and keys get a new basis; rows for those that keep theirs."""
        if not isinstance(self.cut, Cut) or self.settings.fit != "least_squares":
            return []
        chosen = []
        for attention in rebases(self.cut, tied(self.cut.dense)):
            names = [name for layer in attention.layers for name in (layer.weight, layer.bias)]
            weights = [self.cut.program.tensors[layer.weight] for layer in attention.layers]
            sparse = any(standing(weight) is not None for weight in weights)
            if reason := FROZEN if self._frozen(*names) else SPARSE if sparse else "":
                self._skip(attention.layers[0].weight, reason)
            else:
                chosen.append(attention)
        return chosen

    def _choose_experts(self) -> dict[str, Experts]:
        """Products with stacked experts to solve; rows for those that cannot be."""
        if not isinstance(self.cut, Cut) or self.settings.fit != "least_squares":
            return {}
        found, refused = mixtures(self.cut)
        differ = differing(self.cut.dense, self.cut.program)
        chosen = {}
        for node, experts in found.items():
            if experts.layer.source not in differ:
                continue
            if self.settings.solve == "cut" and not experts.loses_inputs:
                continue
            frozen = FROZEN if self._frozen(experts.name) else ""
            if reason := frozen or experts.obstacle(self.settings.memory_mb):
                self._skip(experts.name, reason)
            else:
                chosen[node] = experts
        for node, reason in refused.items():
            if node in differ:
                self._skip(node, reason)
        return chosen

    def _choose(self) -> tuple[dict[str, Layer], dict[str, Outlet]]:
        """Layers to solve; rows for those that cannot be."""
        dense, cut = self.cut.dense, self.cut.program
        known, refused = layers(cut)
        ties, differ = tied(dense), differing(dense, cut)
        found = outlets(dense, known)
        chosen = {}
        for node, layer in known.items():
            dim = layer.input_dim
            lost = dense.tensors[layer.weight].shape[dim] != cut.tensors[layer.weight].shape[dim]
            lost = lost or self._has_zeros(layer)
            reached = layer.source in differ or self._has_zeros(layer)
            if not reached or (self.settings.solve == "cut" and not lost):
                continue
            reason = self._obstacle(layer, found[node].norm, ties) or self._rows_obstacle(node)
            if reason:
                self._skip(layer.weight, reason)
            else:
                chosen[node] = layer
        for node, reason in refused.items():
            if any(n.name in differ for n in cut.nodes[node].all_input_nodes):
                self._skip(node, reason)
        # what is added to rows that the original chooses otherwise is not known for them
        alone = {node: Outlet(norm=found[node].norm) for node in self.choices if found[node].add}
        return chosen, {**found, **alone}

    def _rows_obstacle(self, node: str) -> str:
        """Why the rows of a layer cannot be those of the original; notes what decides on them."""
        if loses_rows(self.cut, node):
            return "some of its rows, one for each unit of a sample, go with the units"
        if not open_sizes(self.cut.dense.nodes[node]):
            return ""
        choice = Choice.of_rows(self.cut.dense, node)
        if choice is None:
            return "several choices by data decide on its rows"
        self.choices[node] = choice
        return ""

    def _has_zeros(self, layer: Layer) -> bool:
        return self.support is not None and layer.weight in self.support

    def _obstacle(self, layer: Layer, norm: Norm | None, ties: frozenset[str]) -> str:
        """Why a layer cannot be solved; empty when it can."""
        if self._frozen(layer.weight, layer.bias, *(() if norm is None else norm.names)):
            return FROZEN
        if layer.weight in ties or layer.bias in ties:
            return "its weight is used more than once"
        return ""

    def _frozen(self, *names: str | None) -> bool:
        """Whether a parameter among tensors is frozen and is to stay as it is."""
        tensors, parameters = self.cut.dense.tensors, self.cut.dense.parameters
        mine = [tensors[name] for name in names if name in parameters]
        return self.settings.keep_frozen and not all(t.requires_grad for t in mine)

    def _skip(self, name: str, reason: str) -> None:
        row = RepairFigures(name.removesuffix(".weight"), None, None, None, reason)
        self.rows.append(row)

    def _repair(self, stream: Stream, layer: Layer, out: Outlet) -> dict[str, Tensor]:
        """Gather, fit and write back one layer; nothing when it cannot be made better."""
        tensors = ChainMap(self.solved, dict(self.cut.program.tensors))
        start = Start.of(layer, out.norm, tensors)
        turned = self.turned.get(layer.node)
        gathered = _Gathered(
            self.cut, stream, layer, out, start, self.settings, turned,
            self.choices.get(layer.node),
        )  # fmt: skip
        note = self._too_wide(start)
        if note or self.settings.fit != "least_squares":
            return self._match(gathered, tensors, note)
        fitted, held = gathered.grams()
        start = replace(start, support=self._stays(layer, start, tensors, fitted + held))
        solution = fit(fitted, held, start, self.settings.dampings)
        if solution.damping is not None and gathered.clips and self.settings.rounds:
            solution = _clipped_fit(gathered, fitted + held, start, solution, self.settings.rounds)
        kept = start.support is not None and not self._has_zeros(layer)
        self._tell(layer, solution, KEPT if kept else "")
        if solution.damping is None:
            return {}
        of = partial(gram_moments, fitted + held)
        return write_back(layer, out.norm, tensors, start, solution, of)

    def _too_wide(self, start: Start) -> str:
        """What to say of a layer whose Gram matrix would be too large; empty where it is not."""
        unknowns = start.weight.shape[2]
        if self.settings.fit != "least_squares" or unknowns <= self.settings.largest:
            return ""
        return (
            f"its Gram matrix would be too large ({unknowns} unknowns of {self.settings.largest}), "
            "so only mean and variance of its channels were matched"
        )

    def _match(
        self, gathered: _Gathered, tensors: Mapping[str, Tensor], note: str
    ) -> dict[str, Tensor]:
        """Match mean and variance of the channels of one layer; zeros stay zero."""
        layer, start, norm = gathered.layer, gathered.start, gathered.out.norm
        fitted, held = gathered.moments()
        inputs = fitted.scaled(start.scale), held.scaled(start.scale)
        solution, gain = match(*inputs, start, self.settings.fit)
        self._tell(layer, replace(solution, damping=None), note)
        if solution.damping is None:
            return {}
        whole = fitted + held

        def moments(_: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            return whole.after(gain, bias)

        return write_back(layer, norm, tensors, start, solution, moments)

    def _tell(self, layer: Layer, solution: Solution, note: str) -> None:
        name = layer.weight.removesuffix(".weight")
        found = (solution.before, solution.after, solution.damping, solution.reason, note)
        self.rows.append(RepairFigures(name, *found))

    def _stays(
        self, layer: Layer, start: Start, tensors: Mapping[str, Tensor], gram: Gram
    ) -> Tensor | None:
        """Weights that may be other than zero: those chosen, or those that were before the cut."""
        if self.support is None or layer.weight not in self.support:
            return standing(layer.matrix(tensors[layer.weight]))

        def full(stays: Tensor | None) -> Tensor:
            ridge = ridge_of(gram, replace(start, support=stays), FULL_DAMPING)
            return ridge.solve(gram.xy, gram.y)[0] if ridge.regular else start.weight

        return self.support.choose(layer, gram, start.free, full)


class _Piece(NamedTuple):
    """Rows of one chunk.

    Args:
        x: Inputs `(G, R, U)`.
        y: Wanted outputs `(G, R, V)`.
        rest: What is added to the outputs before the activation; None when not known.
        held: Whether the chunk is held out.
    """

    x: Tensor
    y: Tensor
    rest: Tensor | None
    held: bool


@dataclass(eq=False, slots=True)
class _Gathered:
    """The rows of one layer, chunk by chunk: kept when they fit, else gathered again each time."""

    cut: Changed
    stream: Stream
    layer: Layer
    out: Outlet
    start: Start
    settings: Reconstruct
    turned: Tensor | None = None
    choice: Choice | None = None
    _kept: list[_Piece] = field(default_factory=list)

    @property
    def corrects(self) -> bool:
        """Whether the other operand of a following addition is known by now."""
        place = self.stream.place
        return self.out.other is not None and place[self.out.other] < place[self.layer.node]

    @property
    def clips(self) -> bool:
        """Whether an activation that hides values follows, and everything it reads is known."""
        return self.out.clips and (self.out.add is None or self.corrects)

    def __iter__(self) -> Iterator[_Piece]:
        if self._kept:
            yield from self._kept
            return
        fits = self._bytes() <= self.settings.memory_mb * MEGABYTE * ROWS_SHARE and self.clips
        for chunk in self.stream.chunks:
            piece = self._piece(chunk)
            if fits:
                self._kept.append(piece)
            yield piece

    def grams(self) -> tuple[Gram, Gram]:
        """Sums over the rows to fit on and over those held out."""
        groups, outputs, unknowns = self.start.weight.shape
        device = self.start.weight.device
        sums = [Gram.zeros(groups, unknowns, outputs, device) for _ in range(2)]
        for piece in self:
            sums[piece.held].add(piece.x, piece.y)
        return sums[0], sums[1]

    def moments(self) -> tuple[Moments, Moments]:
        """Sums per channel over all positions to fit on, and over those held out."""
        channels, device = self.start.scale.numel(), self.start.weight.device
        sums = [Moments.zeros(channels, device) for _ in range(2)]
        for chunk in self.stream.chunks:
            mine = self.stream.fresh(chunk, self.layer.node, 1)
            both = (mine, self._target(chunk)[0])
            sums[_is_held(chunk)].add(*(self._by_channel(value) for value in both))
        return sums[0], sums[1]

    def _by_channel(self, value: Tensor) -> Tensor:
        """Values `(C, R)` of an output of the layer."""
        return value.movedim(self.layer.channel_dim, 0).flatten(1)

    def _bytes(self) -> float:
        groups, outputs, unknowns = self.start.weight.shape
        width = groups * (unknowns + 2 * outputs)
        return self.settings.rows_per_unknown * unknowns * width * self.start.weight.itemsize / 2

    def _piece(self, chunk: Chunk) -> _Piece:
        layer, stream = self.layer, self.stream
        view = patches(layer, stream.value(chunk, layer.source, 1))
        unknowns = self.start.weight.shape[2]
        each = rows_per_sample(unknowns, stream.held, self.settings.rows_per_unknown)
        seed = self.settings.seed + stream.place[layer.node] * len(stream.place) + chunk.index
        lead = view.shape[: view.dim() - len(layer.kernel) - 1]
        rows = Rows.choose(lead, each, torch.Generator().manual_seed(seed))
        target, rest = self._target(chunk)
        rest_GRV = None if rest is None else rows.outputs(layer, rest)
        found = rows.inputs(layer, view), rows.outputs(layer, target)
        return _Piece(*found, rest_GRV, _is_held(chunk))

    def _target(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """What the layer should give, times the scale of its norm; and what is added to it."""
        layer, out, stream = self.layer, self.out, self.stream
        value: Tensor = (
            stream.value(chunk, layer.node)
            if self.choice is None
            else self.choice.value(stream, chunk, layer.node, self.cut)
        )
        value = (
            self.cut.slice_like(layer.node, value)
            if self.turned is None
            else value @ self.turned.to(value)
        )
        value = value * per_channel(self.start.scale.to(value.dtype), layer, value.dim())
        rest = None
        if self.clips:
            shift = self.start.shift.to(value.dtype)
            rest = per_channel(shift, layer, value.dim()).expand_as(value)
        if out.other is not None and self.corrects:
            mine = stream.value(chunk, out.other, 1)
            value = value + self.cut.slice_like(out.other, stream.value(chunk, out.other)) - mine
            rest = None if rest is None else rest + mine
        return value, rest


def _is_held(chunk: Chunk) -> bool:
    """Whether a chunk is held out."""
    return chunk.index % HOLD_OUT == HOLD_OUT - 1


def _clipped_fit(
    gathered: _Gathered, gram: Gram, start: Start, plain: Solution, rounds: int
) -> Solution:
    """Refine a fit for what is seen behind a clipping activation.

    Where the dense value is clipped, the target follows the prediction as far as that is clipped
    too. Each round is a least squares with the same matrix, extrapolated as Nesterov does.
    """
    assert plain.damping is not None  # the caller has looked
    ridge = ridge_of(gram, start, plain.damping)
    now = last = (plain.weight, plain.intercept)
    for step in range(rounds):
        momentum = step / (step + 3)
        weight, intercept = (a + momentum * (a - b) for a, b in zip(now, last, strict=True))
        last, now = now, ridge.solve(*_clipped_sums(gathered, gram, weight, intercept))
    before = _clipped_error(gathered, start.weight, start.intercept)
    without = _clipped_error(gathered, plain.weight, plain.intercept)
    after = _clipped_error(gathered, *now)
    if after < without:
        return Solution(before, after, plain.damping, *now)
    return replace(plain, before=before, after=without)


def _clipped_sums(
    gathered: _Gathered, gram: Gram, weight: Tensor, intercept: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of the corrected target: with the inputs, and alone."""
    out, xy, y = gathered.out, torch.zeros_like(gram.xy), torch.zeros_like(gram.y)
    for piece in gathered:
        seen, wanted = _both(piece, weight, intercept)
        target = torch.where(wanted < out.low, seen.clamp_max(out.low), wanted)
        target = torch.where(wanted > out.high, seen.clamp_min(out.high), target)
        target = target if piece.rest is None else target - piece.rest
        xy += (piece.x.mT @ target).double()
        y += target.double().sum(1)
    return xy, y


def _clipped_error(gathered: _Gathered, weight: Tensor, intercept: Tensor) -> float:
    """Relative squared error behind the activation, on held-out rows (all when none are)."""
    out, wrong, energy = gathered.out, 0.0, 0.0
    pieces = [p.held for p in gathered]
    for piece in gathered:
        if piece.held or not any(pieces):
            seen, wanted = (v.clamp(out.low, out.high) for v in _both(piece, weight, intercept))
            wrong += float((seen - wanted).double().square().sum())
            energy += float((wanted - wanted.mean(1, keepdim=True)).double().square().sum())
    return wrong / max(energy, 1e-30)


def _both(piece: _Piece, weight: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """What the activation reads from this fit, and what it should."""
    assert piece.rest is not None  # only asked for where the activation's input is known
    seen = piece.x @ weight.mT.to(piece.x.dtype) + intercept[:, None, :].to(piece.x.dtype)
    return seen + piece.rest, piece.y + piece.rest

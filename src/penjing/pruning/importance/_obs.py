"""Structured optimal brain surgeon: which units the rest can make up for.

Suffixes: G = convolution groups of a reader, U = its unknowns per group, V = its outputs per group,
A = units still there, M = unknowns that one unit owns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance._silent import trials, tried
from penjing.pruning.importance.sums import squared_norms
from penjing.statistics.attention import products
from penjing.statistics.grams import Gram, Layer, add_inputs, layers, rows_per_sample
from penjing.statistics.outlets import Outlet, energy_per_position, outlets
from penjing.statistics.stream import Chunk, Samples, Stream

TINY = 1e-30  # keeps quotients finite
STEPS = 64  # at least, in which the units of a group go; exactly one by one up to twice as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Obs:
    """Order units by the error left after the best linear compensation, without labels.

    For every layer that reads the units, the Gram matrix of its input patches gives the exact
    increase of its squared output error when a unit's columns go and the other columns are
    re-solved. Increases are summed over the readers, each relative to the energy of what it feeds,
    and units are removed greedily with exact updates of the inverse.

    Args:
        damping: Ridge strength as a share of the mean diagonal of the Gram matrix.
        rows_per_unknown: Output positions looked at per unknown of a layer, drawn over all samples.
        memory_mb: Bound on the activations held, in MiB.
        largest: Unknowns of a layer beyond which units are judged one by one without compensation.
        seed: Of the choice of output positions.

    Source:
        Kurtic et al. 2023, arXiv:2302.04089 (ZipLM), eq. 3 to 5. Here also for convolutions by
        patches, several readers of one group, and centred: a reader's intercept is free, as in
        repair.
    """

    damping: float = 1e-3
    rows_per_unknown: float = 30.0
    memory_mb: float = 2048.0
    largest: int = 4700
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("damping", "rows_per_unknown", "memory_mb", "largest"):
            if not getattr(self, name) > 0:
                raise StrategyError(
                    f"obs: {name} is {getattr(self, name)}; it must be greater than 0"
                )

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: there is no order without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise StrategyError(
            "obs needs calibration data: pass calibration=, or call prepare(network, calibration)"
        )

    def prepare(self, network: Network, calibration: Samples) -> PreparedObs:
        """Stream the calibration data once and order the units of every group.

        Args:
            network: Captured network with its groups.
            calibration: Unlabelled samples.

        Returns:
            An importance for the groups of this network, with error curves.
        """
        known, _ = layers(network.program)
        readers = {g.name: _readers(network.program, known, g) for g in network.groups}
        survey = _Survey(self, network.program, readers)
        orders = survey.run(calibration)
        silent = [group for group in network.groups if not readers[group.name]]
        orders |= _tried(network.program, known, calibration, silent)
        for group in silent:
            if group.name not in orders:
                orders[group.name] = _by_magnitude(network.program, group)
        return PreparedObs(
            orders={name: order for name, (order, _, _) in orders.items()},
            curves={name: curve for name, (_, curve, _) in orders.items()},
            reasons={name: reason for name, (_, _, reason) in orders.items() if reason},
            peak_bytes=survey.peak_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedObs:
    """Removal orders and error curves of one network's groups.

    Args:
        orders: Per group the units, first to go first.
        curves: Per group the relative error after dropping that many, `(units + 1,)` float64.
        reasons: Groups judged in a simpler way, and why.
        peak_bytes: Most activation memory held while streaming.
    """

    orders: Mapping[str, Tensor]
    curves: Mapping[str, Tensor]
    reasons: Mapping[str, str]
    peak_bytes: int = 0

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Error accumulated when each unit goes, strictly rising in the order of removal.

        Args:
            model: Not read.
            group: One of the groups this was prepared for.

        Returns:
            One value per unit, `(units,)` float64.

        Raises:
            StrategyError: Prepared for another network.
        """
        order = self._known(self.orders, group)
        scores = torch.empty(group.units, dtype=torch.float64)
        scores[order] = _strictly_rising(self.curves[group.name][1:])
        return scores

    def errors(self, group: Group, /) -> Tensor:
        """Relative output error after dropping the k lowest units.

        Args:
            group: One of the groups this was prepared for.

        Returns:
            `(units + 1,)` float64, non-decreasing, 0 first.

        Raises:
            StrategyError: Prepared for another network.
        """
        return self._known(self.curves, group)

    def _known(self, values: Mapping[str, Tensor], group: Group) -> Tensor:
        if group.name not in values or len(self.curves[group.name]) != group.units + 1:
            raise StrategyError(
                f"obs was not prepared for group {group.name!r} with {group.units} units; "
                "call prepare again"
            )
        return values[group.name]


@dataclass(frozen=True, slots=True)
class _Reader:
    """A weight that reads a group: all layers that use it, and per unit its columns."""

    weight: str
    layers: tuple[Layer, ...]
    columns_AM: Tensor


@dataclass(slots=True)
class _Sums:
    """What has been gathered for one weight."""

    gram: Gram
    energy: float = 0.0
    scale: Tensor | None = None


@dataclass(eq=False, slots=True)
class _Survey:
    """One pass over the data: Grams are gathered at layers, dropped with their last group."""

    settings: Obs
    program: Program
    readers: Mapping[str, Sequence[_Reader]]
    sums: dict[str, _Sums] = field(default_factory=dict)
    peak_bytes: int = 0

    @torch.no_grad()
    def run(self, calibration: Samples) -> dict[str, tuple[Tensor, Tensor, str]]:
        """Order every group: order, error curve and a reason per group."""
        layer_of = {
            layer.node: layer
            for readers in self.readers.values()
            for r in readers
            for layer in r.layers
        }
        outlet_of = outlets(self.program, layer_of)
        stops: dict[str, list[Layer]] = {}
        for node, layer in layer_of.items():
            stops.setdefault(node, [])
            stops.setdefault(outlet_of[node].add or node, []).append(layer)
        stream = Stream([self.program], calibration, self.settings.memory_mb)
        generator = torch.Generator().manual_seed(self.settings.seed)
        waiting = {
            name: {layer.node for r in readers for layer in r.layers}
            for name, readers in self.readers.items()
        }
        found: dict[str, tuple[Tensor, Tensor, str]] = {}
        for stop in (name for name in self.program.nodes if name in stops):
            chunks = stream.advance(stop)
            if stop in layer_of:
                self._gather(stream, chunks, layer_of[stop], outlet_of[stop], generator)
            for layer in stops[stop]:
                self._weigh(stream, chunks, stop, layer, outlet_of[layer.node])
                for name, nodes in waiting.items():
                    nodes.discard(layer.node)
                    if not nodes and self.readers[name] and name not in found:
                        found[name] = self._order(self.readers[name])
            self._forget(found)
        self.peak_bytes = stream.peak_bytes
        return found

    def _gather(
        self,
        stream: Stream,
        chunks: Sequence[Chunk],
        layer: Layer,
        out: Outlet,
        generator: torch.Generator,
    ) -> None:
        """Add the patches of one layer."""
        weight = self.program.tensors[layer.weight]
        unknowns = layer.matrix(weight).shape[2]
        each = rows_per_sample(unknowns, stream.held, self.settings.rows_per_unknown)
        sums = self.sums.setdefault(
            layer.weight, _Sums(Gram.zeros(layer.groups, unknowns, device=weight.device))
        )
        if sums.scale is None and out.norm is not None:
            sums.scale = out.norm.affine(self.program.tensors)[0]
        values = (stream.value(chunk, layer.source) for chunk in chunks)
        add_inputs(sums.gram, layer, values, each, generator)

    def _weigh(
        self, stream: Stream, chunks: Sequence[Chunk], stop: str, layer: Layer, out: Outlet
    ) -> None:
        """Note the energy per position of what the layer feeds: a sum, or its own output."""
        values = (stream.value(chunk, stop) for chunk in chunks)
        norm = out.norm if stop == layer.node else None
        energy = energy_per_position(values, layer, norm, self.program.tensors)
        self.sums[layer.weight].energy += energy / len(self._users(layer.weight))

    def _users(self, weight: str) -> tuple[Layer, ...]:
        return next(
            r.layers for readers in self.readers.values() for r in readers if r.weight == weight
        )

    def _forget(self, found: Mapping[str, object]) -> None:
        needed = {
            r.weight for name, readers in self.readers.items() if name not in found for r in readers
        }
        for weight in set(self.sums) - needed:
            del self.sums[weight]

    def _order(self, readers: Sequence[_Reader]) -> tuple[Tensor, Tensor, str]:
        """Order one group whose Grams are complete."""
        too_large = [
            r.weight
            for r in readers
            if self.sums[r.weight].gram.xx.shape[1] > self.settings.largest
        ]
        if too_large:
            parts = [_alone(_term(self, reader, diagonal_only=True)) for reader in readers]
            costs = torch.stack(parts).sum(0)
            order = torch.argsort(costs, stable=True)
            limit = self.settings.largest
            reason = f"{too_large[0]} has more than {limit} unknowns; units judged one by one"
            return order, torch.cat([costs.new_zeros(1), costs[order].cumsum(0)]), reason
        order, curve = removal_order([_term(self, reader) for reader in readers])
        return order, curve, ""


@dataclass(slots=True)
class Term:
    """One reader in the greedy removal.

    Args:
        inverse: Inverse of its damped Gram matrix `(G, U, U)`, per row of data; changed in place.
        weight: Its weight `(G, V, U)`, scaled so that squared errors are relative; changed in
            place.
        columns: Columns of each unit `(A, M)`.
    """

    inverse: Tensor
    weight: Tensor
    columns: Tensor

    def costs(self, units: Tensor) -> Tensor:
        """Error increase of removing each unit alone."""
        columns = self.columns[units]
        blocks = torch.linalg.inv(self.inverse[:, columns[:, :, None], columns[:, None, :]])
        w_GAVM = self.weight[:, :, columns].permute(0, 2, 1, 3)
        errors: Tensor = ((w_GAVM @ blocks) * w_GAVM).sum((0, 2, 3))
        return errors

    def remove(self, units: Tensor) -> float:
        """Take units out together and compensate; returns the error increase."""
        columns = self.columns[units].flatten()
        rows_GMU = self.inverse[:, columns, :].clone()
        block_GMM = torch.linalg.inv(rows_GMU[:, :, columns])
        update_GMU = block_GMM @ rows_GMU
        w_GVM = self.weight[:, :, columns].clone()
        self.weight -= w_GVM @ update_GMU
        self.inverse -= rows_GMU.mT @ update_GMU
        return float(((w_GVM @ block_GMM) * w_GVM).sum())

    def shrink(self, gone: Tensor) -> None:
        """Forget the columns of units that went; their entries in `columns` become void."""
        stays = torch.ones(self.inverse.shape[1], dtype=torch.bool, device=self.inverse.device)
        stays[self.columns[gone].flatten()] = False
        self.inverse = self.inverse[:, stays][:, :, stays]
        self.weight = self.weight[:, :, stays]
        self.columns = (stays.cumsum(0) - 1)[self.columns].clamp_min(0)


def removal_order(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """Greedy structured OBS: one unit at a time, in large groups a few.

    Args:
        terms: Readers of the group; used up.

    Returns:
        Units in the order of removal, and the accumulated error `(units + 1,)`.
    """
    units = len(terms[0].columns)
    at_once = max(1, units // STEPS)
    alive = torch.arange(units)
    order: list[int] = []
    total = [0.0]
    carried = 0  # units whose columns were forgotten
    while len(alive):
        costs = torch.stack([term.costs(alive) for term in terms]).sum(0).clamp_min(0)
        rank = costs.argsort(stable=True)
        going, share = rank[:at_once], costs[rank[:at_once]].cumsum(0)
        increase = max(sum(term.remove(alive[going]) for term in terms), 0.0)
        steps = (share / share[-1].clamp_min(1e-300)).tolist()
        total.extend([total[-1] + increase * step for step in steps])
        order.extend(alive[going].tolist())
        alive = alive[rank[at_once:].sort().values]
        if len(order) - carried >= len(alive) > 0:
            for term in terms:
                term.shrink(torch.tensor(order[carried:]))
            carried = len(order)
    return torch.tensor(order), torch.tensor(total, dtype=torch.float64)


def _term(survey: _Survey, reader: _Reader, *, diagonal_only: bool = False) -> Term:
    """Matrices of one reader; with `diagonal_only` the Gram itself in place of its inverse."""
    sums = survey.sums[reader.weight]
    gram = sums.gram.centred()
    layer = reader.layers[0]
    weight = survey.program.tensors[reader.weight].double()
    if sums.scale is not None:
        shape = [1] * weight.dim()
        shape[1 - layer.input_dim] = -1
        weight = weight * sums.scale.view(shape)
    gram.xx.div_(max(gram.rows, 1))
    diagonal = gram.xx.diagonal(dim1=1, dim2=2)
    diagonal += survey.settings.damping * diagonal.mean().clamp_min(TINY)
    w_GVU = (layer.matrix(weight) / max(sums.energy, TINY) ** 0.5).clone()
    matrix = gram.xx if diagonal_only else _inverse(gram.xx)
    return Term(matrix, w_GVU, reader.columns_AM.to(matrix.device))


def _inverse(xx_GUU: Tensor) -> Tensor:
    """Inverse of damped Gram matrices; those that rounding made indefinite in the general way."""
    factor, info = torch.linalg.cholesky_ex(xx_GUU)
    return torch.linalg.inv(xx_GUU) if bool(info.any()) else torch.cholesky_inverse(factor)


def _alone(term: Term) -> Tensor:
    """Error of removing each unit without compensation; `term.inverse` holds the Gram itself."""
    blocks = term.inverse[:, term.columns[:, :, None], term.columns[:, None, :]]
    w_GAVM = term.weight[:, :, term.columns].permute(0, 2, 1, 3)
    return ((w_GAVM @ blocks) * w_GAVM).sum((0, 2, 3)).clamp_min(0).cpu()


def _readers(program: Program, known: Mapping[str, Layer], group: Group) -> list[_Reader]:
    """Layers that read the units of a group through their input channels."""
    readers = []
    for piece in group.slices:
        using = tuple(
            layer
            for layer in known.values()
            if layer.weight == piece.tensor and layer.input_dim == piece.dim
        )
        if not using or (using[0].transposed and using[0].groups > 1):
            continue
        channels = program.tensors[piece.tensor].shape[piece.dim]
        columns = [using[0].columns(piece.positions(unit), channels) for unit in range(group.units)]
        readers.append(_Reader(piece.tensor, using, torch.tensor(columns)))
    return readers


def _tried(
    program: Program, known: Mapping[str, Layer], calibration: Samples, silent: Sequence[Group]
) -> dict[str, tuple[Tensor, Tensor, str]]:
    """Order what no layer reads by what its loss does downstream, where that can be seen."""
    todo = trials(program, known, outlets(program, known), products(program, known), silent)
    return tried(program, calibration, todo)


def _by_magnitude(program: Program, group: Group) -> tuple[Tensor, Tensor, str]:
    """Order a group that no layer reads by the squared L2 norm over all its slices."""
    norms = squared_norms(program, group)
    order = torch.argsort(norms, stable=True)
    curve = torch.cat([norms.new_zeros(1), norms[order].cumsum(0)])
    return (
        order,
        curve / curve[-1].clamp_min(1e-30),
        "no layer with a stored weight reads these units; ordered by magnitude",
    )


def _strictly_rising(curve: Tensor) -> Tensor:
    """The curve with ties broken upwards by the smallest steps."""
    values = curve.tolist()
    for i in range(1, len(values)):
        floor = float(
            torch.nextafter(
                torch.tensor(values[i - 1], dtype=torch.float64),
                torch.tensor(torch.inf, dtype=torch.float64),
            )
        )
        values[i] = max(values[i], floor)
    return torch.tensor(values, dtype=torch.float64)

"""Networks of which each sample runs its own channels: feature boosting and suppression.

In front of a layer a gate looks at what the layer reads and gives every channel that the layer
would make a saliency; the most salient ones are made, times their saliency, and the others are
left out as if they were zero. A group of coupled units says what goes with a channel: its rows of
the layer, its norm, its columns of the next layer. One sample at a time, the network is cut to its
own channels: the graph is that of the cut network, and its weights are rows chosen while it runs.
In training and for batches all channels are made and multiplied by zero, which gives the same.

Suffixes: B = batch, U = units of one gate.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from penjing.adaptive.exits import put
from penjing.adaptive.gated import Skipped
from penjing.adaptive.heads import Head, layout_of, make_head
from penjing.adaptive.slimmable import dtype_of, following, named_tensors
from penjing.counts.macs import count_macs
from penjing.errors import InputError, StrategyError
from penjing.graph.call import op_name
from penjing.graph.capture import MIN_BATCH, Example, capture
from penjing.graph.form import graph_form
from penjing.graph.network import Network
from penjing.graph.parts import Flow, has_batch, is_size
from penjing.plan import Group

FRESH = 0.01
"""Standard deviation of the weights of a fresh gate, whose bias is 1: training begins with all
saliencies near 1, which is the network as it was."""

GATED_KINDS = ("channels", "neurons")
GATES, PICKS = "channel_gates", "channel_picks"
"""Names of the gates in the two graphs."""


@dataclass(frozen=True, slots=True)
class ChannelSite:
    """A layer that makes the channels that each sample needs.

    Args:
        name: Of the group of its channels.
        units: How many there are.
        dims: Stored tensors and the dimension of each in which the channels are.
        first: Node of the layer.
        feature: Node that it reads, and the gate with it.
        shape: Of the feature without the batch.
        last: The node of the channels that all their readers read.
        at: Dimension of `last` in which the channels are.
        rank: Of `last`.
        macs: Of making and reading all of them, for one sample.
    """

    name: str
    units: int
    dims: tuple[tuple[str, int], ...]
    first: str
    feature: str
    shape: tuple[int, ...]
    last: str
    at: int
    rank: int
    macs: int = 0


class ChannelGate(nn.Module):
    """Saliencies of the most salient channels, and 0 for the others.

    Args:
        head: Of the features one number per channel; below 0 counts as 0.
        density: Share of the channels that run, in (0, 1].
    """

    def __init__(self, head: nn.Module, density: float) -> None:
        super().__init__()
        self.head, self.density = head, density

    def salient(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Saliencies `(B, k)` of the channels that run, and their numbers."""
        scores_BU = self._scores(features)
        values, index = scores_BU.topk(kept_of(scores_BU.shape[1], self.density), dim=1)
        return values, index

    def runs(self, features: Tensor) -> Tensor:
        """Which channels run, `(B, U)` bool: some of them with a saliency of 0."""
        return self._mask(self._scores(features)) > 0

    def forward(self, features: Tensor) -> Tensor:
        """Saliencies `(B, U)`, most of them 0.

        Args:
            features: What the layer reads.
        """
        scores_BU = self._scores(features)
        return scores_BU.mul(self._mask(scores_BU))

    def _scores(self, features: Tensor) -> Tensor:
        scores_BU: Tensor = self.head(features).relu()
        return scores_BU

    def _mask(self, scores_BU: Tensor) -> Tensor:
        _, index = scores_BU.topk(kept_of(scores_BU.shape[1], self.density), dim=1)
        return torch.zeros_like(scores_BU).scatter(1, index, 1.0)


class Pick(nn.Module):
    """The same for one sample: saliencies `(1, k)` and numbers `(k,)` of the channels that run.

    Args:
        gate: Shared, not copied.
    """

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Choose.

        Args:
            features: Of one sample.
        """
        values, index = self.gate.salient(features)
        return values, index.reshape(values.shape[1])  # which a batch of two does not fit into


class ChannelGatedNetwork(nn.Module):
    """A network of which each sample runs the channels that its gates choose.

    Args:
        model: With its batch free; not changed, its tensors are copied.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        names: Groups whose channels are gated.
        gate: What kind; or a list of the heads themselves, one per group.
        density: Share of the channels of each group that run, in (0, 1].
        seed: Of the weights of fresh gates.

    Raises:
        StrategyError: A density outside its range, or other heads than groups.
        InputError: A group that cannot be gated.

    Source:
        Gao et al. 2019, arXiv:1810.05331. There the saliency takes the place of the scale of a
        batch norm and is applied before the ReLU; here the scale stays, and the saliency, which is
        not negative, is applied behind whatever follows the layer, with the same result. The gate
        reads means, there means of magnitudes, which are the same behind a ReLU.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Example,
        names: Sequence[str],
        gate: Head | list[nn.Module] = "linear",
        density: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        network = Network.of(model, example_inputs)
        known = {site.name: site for site in channel_sites(network)}
        if missing := [name for name in names if name not in known]:
            raise InputError(
                f"{missing[0]!r} has no channels that a gate can choose from; those of "
                f"{', '.join(known) or 'no layer'} can be"
            )
        wanted = (site for name, site in known.items() if name in set(names))
        self.sites = tuple(replace(site, macs=_macs_of(network, site)) for site in wanted)
        self._example_inputs, self._dtype = example_inputs, dtype_of(model)
        self.macs = count_macs(network.program)
        self.model = graph_form(network.program)
        heads = list(gate) if isinstance(gate, list) else _fresh(network, self.sites, gate, seed)
        if len(heads) != len(self.sites):
            raise StrategyError(f"{len(heads)} heads were given for {len(self.sites)} gates")
        self.gates = nn.ModuleList(ChannelGate(head, density) for head in heads)
        masked = self._template(graph_form(network.program), GATES, self.sites)
        self._forms = (masked,)  # no part of it
        self._single: tuple[float, fx.GraphModule, int] | None = None
        self.set_density(density)
        self.eval()

    @property
    def _masked(self) -> fx.GraphModule:
        """The graph in which all channels are made; its tensors are placeholders."""
        return self._forms[0]

    @property
    def example_inputs(self) -> Example:
        """The example where the network is now; what was of the weights' dtype follows it."""
        return following(self._example_inputs, self, self._dtype)

    @property
    def density(self) -> float:
        """Share of the channels of each gated layer that run."""
        return self._density

    def set_density(self, density: float) -> Self:
        """Run this share of the channels from now on, in place.

        Args:
            density: In (0, 1]; at least one channel of each layer runs.

        Returns:
            Itself.

        Raises:
            StrategyError: It is outside its range.
        """
        if not 0 < density <= 1:
            raise StrategyError(f"density is {density}; it is a share of the channels in (0, 1]")
        self._density = float(density)
        for gate in (*self.gates, *getattr(self._masked, GATES)):
            gate.density = self._density
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, of all its forms.

        Args:
            mode: Training or not.

        Returns:
            Itself.
        """
        super().train(mode)
        self._masked.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives with the channels that its gates choose.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            As the original network. In eval mode a single sample is computed with its channels
            alone.
        """
        exporting = torch.compiler.is_exporting()
        if not (self.training or exporting) and _samples(args, kwargs) == 1:
            return functional_call(self._one(), self._tensors(PICKS), args, kwargs)
        return functional_call(self._masked, self._tensors(GATES), args, kwargs)

    @torch.no_grad()
    def infer(self, *args: Any, **kwargs: Any) -> Skipped:
        """Answers, and which sample ran which channel, computed with masks; run this in eval mode.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Outputs, and who ran what, `(B, channels of all gated layers)`.

        Raises:
            StrategyError: The network is in training mode.
        """
        if self.training:
            raise StrategyError("the network is in training mode; call .eval() before .infer()")
        heard: list[Tensor] = []
        gates = getattr(self._masked, GATES)
        hooks = [
            gate.register_forward_hook(lambda gate, read, _: heard.append(gate.runs(*read)))
            for gate in gates
        ]
        try:
            outputs = functional_call(self._masked, self._tensors(GATES), args, kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return Skipped(outputs, torch.cat(heard, 1))

    def shares(self, opened: Tensor) -> list[float]:
        """Mean share of the channels that ran, of each gated layer.

        Args:
            opened: As `infer` gives it.
        """
        parts = opened.double().split([site.units for site in self.sites], 1)
        return [float(part.mean()) for part in parts]

    def macs_of(self, opened: Tensor) -> Tensor:
        """MACs of each sample, which are the same for all: each runs as many channels.

        Args:
            opened: As `infer` gives it.

        Returns:
            float64, `(B,)`; those of the gates are in it.
        """
        self._one()
        assert self._single is not None  # made just now
        return opened.new_full((len(opened),), self._single[2], dtype=torch.float64)

    def original(self) -> nn.Module:
        """The network without gates, its parts shared."""
        return self.model

    def single(self) -> nn.Module:
        """The network for one sample at a time, which chooses rows of weights while it runs."""
        form = copy.deepcopy(self._one())
        for name, tensor in self._tensors(PICKS).items():
            owner, _, field = name.rpartition(".")
            put(form.get_submodule(owner), field, tensor)
        return form

    def _one(self) -> fx.GraphModule:
        """The graph for one sample, at the present density; its tensors are placeholders."""
        if self._single is None or self._single[0] != self._density:
            network = Network.of(self.model, self.example_inputs)
            kept = {site.name: kept_of(site.units, self._density) for site in self.sites}
            plan = network.plan({s.name: range(kept[s.name], s.units) for s in self.sites})
            program = network.cut(plan).program
            again = {site.name: site for site in channel_sites(network)}  # nodes have other names
            form = self._template(graph_form(program), PICKS, [again[name] for name in kept])
            macs = count_macs(program) + sum(map(_macs_of_gate, self._each(), self.sites))
            self._single = self._density, form.eval(), macs
        return self._single[1]

    def _template(
        self, form: fx.GraphModule, kind: str, sites: Sequence[ChannelSite]
    ) -> fx.GraphModule:
        """A graph with gates in it; its tensors are placeholders."""
        form = form.to("meta")
        gates = [copy.deepcopy(gate).to("meta") for gate in self._each()]
        made = gates if kind == GATES else [Pick(gate) for gate in gates]
        form.add_module(kind, nn.ModuleList(made))
        stored = {str(node.target): node for node in form.graph.nodes if node.op == "get_attr"}
        for index, site in enumerate(sites):
            if kind == GATES:
                _mask(form.graph, site, f"{kind}.{index}")
            else:
                _choose(form.graph, site, f"{kind}.{index}", stored)
        form.graph.lint()
        form.recompile()
        return form

    def _each(self) -> list[ChannelGate]:
        return [gate for gate in self.gates if isinstance(gate, ChannelGate)]  # as all of them are

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        """Stored tensors of the network and of its gates, by their names in a graph."""
        inside = ".gate." if kind == PICKS else "."
        found = named_tensors(self.model)
        for index, gate in enumerate(self.gates):
            found.update({f"{kind}.{index}{inside}{n}": t for n, t in named_tensors(gate).items()})
        return found


def kept_of(units: int, density: float) -> int:
    """How many channels of a layer run.

    Example:
        >>> kept_of(64, 0.5), kept_of(3, 0.1)
        (32, 1)
    """
    return max(1, round(units * density))


def channel_sites(network: Network) -> tuple[ChannelSite, ...]:
    """Layers whose channels a gate can choose from, in the order of the network.

    The channels are a group inside one branch. One layer makes them, of one value per sample, and
    whatever reads them reads one value. Where a gate would read channels that another gate has
    chosen, it is left out: it would not know which of them it sees.

    Args:
        network: Captured and analysed.
    """
    flow = Flow(network.program)
    found = []
    for group in network.groups:
        if (site := _site(network, flow, group)) is not None:
            found.append(site)
    nodes = network.program.nodes
    found.sort(key=lambda one: flow.position[nodes[one.first]])
    chosen: list[ChannelSite] = []
    for site in found:
        read = nodes[site.feature]
        if not any(read in _carriers(network, flow, other.name) for other in chosen):
            chosen.append(site)
    return tuple(chosen)


def _site(network: Network, flow: Flow, group: Group) -> ChannelSite | None:
    plain = group.exact and group.least == 1 and all(p.index is None for p in group.slices)
    if group.scope != "inner" or group.kind not in GATED_KINDS or not plain:
        return None
    carriers = _carriers(network, flow, group.name)
    roots = [node for node in carriers if not carriers & set(node.all_input_nodes)]
    ends = [n for n in carriers if any(u not in carriers and not is_size(u) for u in n.users)]
    if len(roots) != 1 or len(ends) != 1 or any(_summed(network, n, group.name) for n in carriers):
        return None
    (first,), (last,) = roots, ends
    read = [node for node in first.all_input_nodes if node in flow.moving]
    at = _where(network, last, group.name)
    if len(read) != 1 or at is None or not (has_batch(read[0]) and has_batch(last)):
        return None
    dims = tuple((part.tensor, part.dim) for part in group.slices)
    if not _only_behind(network, flow, first, {tensor for tensor, _ in dims}):
        return None
    shape, rank = network.program.shape(read[0])[1:], len(network.program.shape(last))
    return ChannelSite(
        group.name, group.units, dims, first.name, read[0].name, tuple(shape), last.name, at, rank
    )


def _carriers(network: Network, flow: Flow, name: str) -> set[fx.Node]:
    """Values in which the first channel of a group is, the others with it."""
    atoms, analysis = network.atoms(name), network.analysis
    return {
        node
        for node in flow.moving
        if node.op == "call_function"
        and any((analysis.atoms.resolve(d) == atoms[0]).any() for d in analysis.labels(node))
    }


def _where(network: Network, node: fx.Node, name: str) -> int | None:
    """The dimension whose positions are the channels of a group, behind the batch."""
    atoms, analysis = network.atoms(name), network.analysis
    for at, dim in enumerate(analysis.labels(node)):
        labels = analysis.atoms.resolve(dim)
        if at > 0 and len(labels) == len(atoms) and (labels == atoms[:, None]).any(1).all():
            return at
    return None


def _summed(network: Network, node: fx.Node, name: str) -> bool:
    """Whether channels are added up one behind the other, so that their order counts."""
    if not op_name(node).startswith("cumsum"):
        return False
    dim = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    assert isinstance(dim, int)  # as torch's schema says
    return dim % len(network.program.shape(node)) == _where(network, node, name)


def _only_behind(network: Network, flow: Flow, first: fx.Node, tensors: set[str]) -> bool:
    """Whether stored tensors are read by the layer and behind it alone."""
    nodes = [
        network.program.nodes[n] for n, fqn in network.program.stored.items() if fqn in tensors
    ]
    return all(flow.position[user] >= flow.position[first] for n in nodes for user in n.users)


def _fresh(
    network: Network, sites: Sequence[ChannelSite], gate: Head, seed: int
) -> list[nn.Module]:
    """A head for each gate, all of whose saliencies are near 1."""
    program, heads = network.program, []
    _, values = program.inner(program.example, [site.feature for site in sites])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for site in sites:
            feature = values[site.feature]
            made = make_head(gate, feature, layout_of(program.nodes[site.feature]), site.units)
            layers = [module for module in made.modules() if isinstance(module, nn.Linear)]
            if layers and layers[-1].bias is not None:
                nn.init.normal_(layers[-1].weight, std=FRESH)
                nn.init.ones_(layers[-1].bias)
            heads.append(made.to(feature.device, feature.dtype))
    return heads


def _macs_of(network: Network, site: ChannelSite) -> int:
    """MACs that all channels of a layer are: what all but one of them save, and that one."""
    less = network.cut(network.plan({site.name: range(1, site.units)})).program
    saved = count_macs(network.program) - count_macs(less)
    return saved * site.units // (site.units - 1)


def _macs_of_gate(gate: ChannelGate, site: ChannelSite) -> int:
    weight = next(iter(gate.parameters()), torch.empty(0))
    example = torch.zeros(MIN_BATCH, *site.shape, dtype=weight.dtype, device=weight.device)
    return count_macs(capture(gate.head, example))


def _mask(graph: fx.Graph, site: ChannelSite, gate: str) -> None:
    """Multiply all channels by their saliencies, in place."""
    nodes = _nodes(graph)
    with graph.inserting_before(nodes[site.first]):  # later ops may change the feature in place
        saliency = graph.call_module(gate, (nodes[site.feature],))
    _scale(graph, nodes[site.last], saliency, site)


def _choose(graph: fx.Graph, site: ChannelSite, pick: str, stored: dict[str, fx.Node]) -> None:
    """Take the rows of weights that make and read the chosen channels, in place."""
    nodes = _nodes(graph)
    with graph.inserting_before(nodes[site.first]):
        pair = graph.call_module(pick, (nodes[site.feature],))
        values, index = (graph.call_function(getitem, (pair, place)) for place in (0, 1))
        for name, dim in site.dims:
            whole = stored[name]
            rows = graph.call_function(chosen, (whole, dim, index))
            _read_instead(whole, rows)
            stored[name] = rows
    _scale(graph, nodes[site.last], values, site)


def _nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """By the names that they had in the capture; inputs called like a builtin have another now."""
    return {str(n.target) if n.op == "placeholder" else n.name: n for n in graph.nodes}


def _scale(graph: fx.Graph, last: fx.Node, saliency: fx.Node, site: ChannelSite) -> None:
    with graph.inserting_before(last.next):
        wide = graph.call_function(along, (saliency, site.at, site.rank))
        scaled = graph.call_function(torch.mul, (last, wide))
    _read_instead(last, scaled)


def _read_instead(old: fx.Node, new: fx.Node) -> None:
    """Let all readers of a node read another one that is made of it; device and dtype stay."""
    old.replace_all_uses_with(new, lambda user: user is not new and user.target is not getattr)


def chosen(weight: Tensor, dim: int, index: Tensor) -> Tensor:
    """Positions of one dimension of a stored tensor.

    Columns of a matrix are taken as rows of its transpose, which a file holds: ONNX Runtime would
    copy them number by number, and the product wants them transposed anyway.
    """
    if weight.dim() == 2 and dim == 1:
        return weight.t().index_select(0, index).t()
    return weight.index_select(dim, index)


def along(saliency: Tensor, at: int, rank: int) -> Tensor:
    """Saliencies `(B, U)` in the shape of maps or tokens, units in dimension `at`."""
    return saliency.reshape(-1, *[1] * (at - 1), saliency.shape[1], *[1] * (rank - at - 1))


def _samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Samples of a call: the batch is dimension 0 of the first tensor."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return next((len(v) for v in leaves if isinstance(v, Tensor) and v.dim() > 0), None)


def check_channels(model: object) -> ChannelGatedNetwork:
    """Refuse any other network.

    Raises:
        InputError: Its channels have no gates.
    """
    if not isinstance(model, ChannelGatedNetwork):
        raise InputError(
            f"{type(model).__name__} has no gates of channels; pj.gate_channels puts them there"
        )
    return model

"""One plan carried out: surgery, proof and repair, and all that a report tells of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from penjing.counts.figures import program_figures
from penjing.counts.reach import with_reach
from penjing.errors import VerificationError
from penjing.figures import Proof, RepairFigures, SparsityFigures
from penjing.graph.network import Cut, Network
from penjing.plan import LAYERS, Plan
from penjing.pruning.density import choose_zeros
from penjing.pruning.depth import Shortened, make_short
from penjing.pruning.importance import OBS
from penjing.pruning.patterns import Pattern
from penjing.pruning.result import Made, make, with_tensors
from penjing.pruning.standing import standing_in
from penjing.pruning.verify import Mismatch
from penjing.quantization.mixed import words
from penjing.recovery.repair import notable, repair, zeroed
from penjing.recovery.zeros import supporting
from penjing.report import Coupling, Histogram, ReportData, environment
from penjing.task import Calibration
from penjing.verbs.enough import too_few_samples
from penjing.verbs.preparation import Preparation

BINS = 41  # of a weight histogram, odd so that zero has a bin of its own
HISTOGRAMS = 6  # the largest weights are drawn
REASONS = 3  # that a note names


@dataclass(frozen=True, eq=False)
class Work:
    """A pruned network on the CPU with everything a report tells.

    Args:
        model: The result.
        preparation: The original network, and what is known of it.
        cut: What went.
        proof: That the cut is right.
        repair: What repair did, layer by layer.
        tensors: Tensors of the result by name.
        zeros: Layers with zeros.
        notes: What the reader of the report must know.
        given: Whether the plan was given, and not made here.
    """

    model: nn.Module
    preparation: Preparation
    cut: Cut
    proof: Proof
    repair: tuple[RepairFigures, ...]
    tensors: Mapping[str, Tensor]
    zeros: tuple[SparsityFigures, ...] = ()
    notes: tuple[str, ...] = ()
    given: bool = False

    @property
    def plan(self) -> Plan:
        """The plan that was carried out."""
        return self.cut.plan

    def _decided(self, name: str) -> str:
        """Strategies that decided what goes; none did where a plan was given."""
        return "a plan was given" if self.given else name

    @property
    def network(self) -> Network:
        """The original network, analysed."""
        return self.preparation.network

    def report_data(self, original: nn.Module, samples: Calibration | None) -> ReportData:
        """Everything that can be told without timing or labels."""
        choices, strategies = self.preparation.choices, self.preparation.strategies
        agreement = None
        batches = [] if samples is None else self.preparation.telling_batches(samples)
        if batches:
            from penjing.task import agreement as share_alike

            agreement = share_alike(self.model, original, batches)
        found = with_reach(self.network)
        return ReportData(
            kind="prune",
            title=type(original).__name__,
            before=program_figures(self.network.program),
            after=program_figures(with_tensors(self.cut.program, self.tensors)),
            agreement=agreement,
            groups=self.preparation.group_figures(self.cut.plan),
            sparsity=self.zeros,
            repair=self.repair,
            histograms=histograms(self.network, self.tensors),
            locked=found.locked,
            coupling=Coupling.of(found),
            proof=self.proof,
            choices={
                "importance": self._decided(strategies.importance_name),
                "allocation": self._decided(strategies.allocation_name),
                "repair": strategies.repair_name,
                "scope": ", ".join(sorted(choices.scope)),
                "round_to": str(choices.round_to or 1),
                "max_pruning_ratio": str(choices.max_pruning_ratio),
                "calibration samples": str(samples.samples if samples else 0),
                "seed": str(choices.seed),
            },
            environment=environment(),
            notes=self.notes,
        )


def one_cut(preparation: Preparation, plan: Plan, *, given: bool = False) -> Work:
    """Carry out one plan: surgery, proof, repair.

    Args:
        preparation: What the plan was made from.
        plan: What goes.
        given: Whether the caller gave the plan, so that no unit was judged.

    Returns:
        The result on the CPU.

    Raises:
        VerificationError: The cut or the repaired network is not what it should be.
    """
    cut = preparation.cut(plan)
    try:
        made = _made(preparation, cut)
    except Mismatch as error:
        raise VerificationError(
            f"{error}. Leave the layers of that node out with ignored_layers=, and please report "
            "the network"
        ) from error
    tensors, rows = repaired(preparation, cut)
    made.write(tensors)
    after = {**cut.program.tensors, **tensors}
    return Work(
        model=made.model,
        preparation=preparation,
        cut=cut,
        proof=made.proof,
        repair=tuple(rows),
        tensors=after,
        zeros=tuple(_zeros_of(name, plan, after) for name in plan.sparsity),
        notes=(*_notes(preparation, cut, given), *notable(rows)),
        given=given,
    )


def unrepaired(preparation: Preparation, plan: Plan) -> nn.Module:
    """The network of a plan as it is before repair, in eval mode, on the CPU.

    Raises:
        Mismatch: The cut network is not what it should be.
    """
    bare = replace(preparation, choices=replace(preparation.choices, repair=None))
    cut = bare.cut(plan)
    made = _made(bare, cut)
    made.write(repaired(bare, cut)[0])
    return made.model.eval()


def _zeros_of(name: str, plan: Plan, tensors: Mapping[str, Tensor]) -> SparsityFigures:
    """What became zero in one layer."""
    weight = tensors[name]
    layer = name.removesuffix(".weight")
    return SparsityFigures(layer, weight.numel(), int(weight.count_nonzero()), plan.pattern)


def _made(preparation: Preparation, cut: Cut) -> Made:
    """The cut network; a copy where nothing goes."""
    if isinstance(cut, Shortened):
        return make_short(preparation.model, cut, preparation.choices.seed)
    if cut.plan.drop:
        return make(preparation.model, cut, preparation.choices.seed)
    return Made(copy.deepcopy(preparation.model), Proof(0.0, 0.0, 0.0, 0, "module"))


def _notes(preparation: Preparation, cut: Cut, given: bool) -> tuple[str, ...]:
    """What the reader must know of what went, of what could not, and of bits."""
    bits = cut.plan.bits
    chosen = (f"bits for quantize(weight_bits_dict=plan.bits): {words(bits)}",) if bits else ()
    return (*chosen, *_gone(preparation, cut), *_short_of_data(preparation, cut, given))


def _gone(preparation: Preparation, cut: Cut) -> tuple[str, ...]:
    if isinstance(cut, Shortened):
        names = ", ".join(block.name for block in cut.blocks)
        if LAYERS in cut.plan.drop:
            return (f"whole layers were removed: {names}",)
        return (f"whole branches were removed, these layers and all before them in it: {names}",)
    if not preparation.groups and not cut.plan.sparsity and not cut.plan.bits:
        return (f"nothing was cut: the network has no group in scope{_locks(preparation)}",)
    removable = preparation.removable
    if removable.branches is not None and not removable.shortens:
        return (removable.no_branch,)
    return ()


def _locks(preparation: Preparation) -> str:
    """Why a network without any group has none: the reasons that lock most of its parameters."""
    known = preparation.network.groups
    if known.groups or not known.locked:
        return ""
    reasons = dict.fromkeys(lock.reason for lock in known.locked)
    return f"; all is locked: {'; '.join(list(reasons)[:REASONS])}"


def _short_of_data(preparation: Preparation, cut: Cut, given: bool) -> tuple[str, ...]:
    """That calibration data is too little for the matrices that were made of it."""
    strategies, samples = preparation.strategies, preparation.calibration
    judges = isinstance(strategies.importance, OBS) and not given
    solves = strategies.repair_name in {"least_squares", "tune"} or bool(cut.plan.sparsity)
    if samples is None or not (judges or solves) or cut.plan.is_empty:
        return ()
    told = too_few_samples(preparation.network.program, samples)
    return (told,) if told else ()


def repaired(preparation: Preparation, cut: Cut) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for the tensors of a cut network.

    Args:
        preparation: Says which repair, and holds the samples.
        cut: What goes.

    Returns:
        Qualified name -> value, and a row per layer.
    """
    samples, how = preparation.calibration, preparation.strategies.repair
    if cut.plan.sparsity:
        return _thinned(preparation, cut)
    if how is None or samples is None or not repairs(preparation, cut.plan):
        return {}, []
    return repair(cut, samples, how)


def repairs(preparation: Preparation, plan: Plan) -> bool:
    """Whether what a plan leaves is repaired.

    Args:
        preparation: Says which repair, and holds the samples.
        plan: What goes.
    """
    known = preparation.strategies.repair is not None and preparation.calibration is not None
    return known and bool(plan.drop or plan.sparsity)


def _thinned(preparation: Preparation, cut: Cut) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for a cut network of which weights become zero as well."""
    plan, samples, how = cut.plan, preparation.calibration, preparation.strategies.repair
    pattern = Pattern.parse(plan.pattern)
    targets, kept, judge = choose_zeros(
        preparation.model, cut.program, plan.sparsity, pattern, samples
    )
    changed = zeroed(cut, {name: t.tensor(kept[name]) for name, t in targets.items()})
    tensors = {name: changed.program.tensors[name] for name in targets}
    if how is None or samples is None:
        return tensors, []
    stays = standing_in(targets.values(), cut.program.tensors)
    support = supporting(kept, targets, judge, plan.sparsity, stays)
    solved, rows = repair(changed, samples, how, support)
    return {**tensors, **solved}, rows


def histograms(network: Network, tensors: Mapping[str, Tensor]) -> tuple[Histogram, ...]:
    """Weights before and after, of the largest tensors that changed."""
    names = [
        n
        for n in network.program.parameters
        if n in tensors and network.program.tensors[n].dim() > 1
    ]
    names.sort(key=lambda n: (-network.program.tensors[n].numel(), n))
    out = []
    for name in names[:HISTOGRAMS]:
        before, after = (
            network.program.tensors[name].detach().float(),
            tensors[name].detach().float(),
        )
        limit = max(float(before.abs().max()), float(after.abs().max()), 1e-12)
        edges = torch.linspace(-limit, limit, BINS + 1)
        counts = [torch.histogram(t.flatten(), edges).hist.int().tolist() for t in (before, after)]
        out.append(Histogram(name, tuple(edges.tolist()), tuple(counts[0]), tuple(counts[1])))
    return tuple(out)

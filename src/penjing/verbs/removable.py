"""What may go from a network: units of its groups, whole branches, single weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from penjing.errors import StrategyError
from penjing.graph.blocks import Block
from penjing.graph.network import Network
from penjing.plan import BITS, BLOCKS, LAYERS, WEIGHTS, Group, Groups, Plan
from penjing.pruning.ablation import Branches
from penjing.pruning.density import Densities
from penjing.pruning.depth import with_branches
from penjing.pruning.importance import even
from penjing.pruning.selection import (
    ignored_groups,
    is_kind,
    kept_whole,
    of_kind,
    ratios_by_group,
)
from penjing.pruning.weights.targets import Wanted
from penjing.quantization.mixed import checked_bits
from penjing.quantization.precision import Precisions
from penjing.task import Calibration
from penjing.verbs.beside import Beside
from penjing.verbs.choices import ALONE, PLACES, SHORTER, WIDTHS, Choices

NO_LAYER = (
    "no whole layer can be removed: the network has fewer than two modules in a list that hold a "
    "residual branch and hand one tensor of the same shape on, or all of them are ignored"
)
NO_BRANCH = (
    "no branch can go whole: there is no `x + f(x)`, or one alone, whose f nothing else reads and "
    "that holds no layer to be left as it is"
)


@dataclass(frozen=True, eq=False)
class Removable:
    """What may go from a network, as the choices say.

    Args:
        model: The user's network, for the names of its layers.
        network: Its capture and groups.
        calibration: Unlabelled samples, by which whole branches are judged; None when there are
            none.
        choices: How to prune.
    """

    model: nn.Module
    network: Network
    calibration: Calibration | None
    choices: Choices

    def check(self) -> None:
        """Match every name before the first expensive step.

        Raises:
            StrategyError: Layers that match nothing, or nothing whole where only that may go.
        """
        _ = self.groups, self.ratios
        if not self.choices.widths and not self.shortens and len(self.choices.beside) < len(ALONE):
            raise StrategyError(
                f"{self.no_branch}; cut widths instead, scope={{'inner', 'residual'}}"
            )

    @cached_property
    def known(self) -> Groups:
        """All groups of the network, whole branches among them where they may go."""
        return with_branches(self.network.groups, self.branches)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups that may be cut: in scope and not ignored."""
        ignored = ignored_groups(self.model, self.known, self.choices.ignored_layers)
        widths = self.choices.widths
        places = widths & set(PLACES) or set(PLACES)
        kinds = widths & set(WIDTHS) or set(WIDTHS)
        return tuple(
            g
            for g in self.known
            if g.name not in ignored
            and (g.kind == BLOCKS or (widths and g.scope in places and g.kind in kinds))
        )

    @property
    def widths(self) -> list[Group]:
        """The groups of units among them."""
        return [g for g in self.groups if g.kind != BLOCKS]

    @cached_property
    def branches(self) -> Branches | None:
        """Whole branches, or layers; None where they are not in scope."""
        if not self.choices.scope & set(SHORTER):
            return None
        name = LAYERS if LAYERS in self.choices.scope else BLOCKS
        untouched = kept_whole(self.model, self.choices.ignored_layers)
        evenly = self.choices.importance in ("even", even)
        program = self.network.program
        return Branches.of(program, untouched, self.calibration, name, evenly=evenly)

    @cached_property
    def shortens(self) -> bool:
        """Whether whole branches may go."""
        return any(g.kind == BLOCKS for g in self.groups)

    @property
    def no_branch(self) -> str:
        """Why nothing whole can be removed, where that was asked for."""
        return NO_LAYER if LAYERS in self.choices.scope else NO_BRANCH

    def gone(self, kept: Mapping[str, int]) -> tuple[Block, ...]:
        """Branches that go when so many units stay.

        Args:
            kept: Units kept by group.
        """
        if self.branches is None or self.branches.name not in kept:
            return ()
        return self.branches.gone(kept)

    @cached_property
    def beside(self) -> Beside:
        """Zeros of weights and their bits, as far as they are in scope."""
        chosen, program = self.choices, self.network.program
        ignored = tuple(k for k in chosen.ignored_layers if not is_kind(k))
        thin, few = None, None
        if WEIGHTS in chosen.scope:
            wanted = Wanted(pattern=chosen.pattern, ignored_layers=ignored, indivisible="skip")
            thin = Densities.of(self.model, program, wanted, chosen.seed)
        if BITS in chosen.scope:
            allowed = checked_bits(chosen.weight_bits)
            few = Precisions.of(self.model, program, allowed, ignored, chosen.seed)
        return Beside(thin, few)

    @cached_property
    def ratios(self) -> dict[str, float]:
        """Ratios of single groups, by name."""
        given = self.choices.pruning_ratio_dict
        layers = {k: v for k, v in given.items() if not is_kind(k) or k != f"kind:{BLOCKS}"}
        found = ratios_by_group(self.model, self.widths, layers)
        if len(layers) < len(given):
            (name,) = of_kind(self.groups, f"kind:{BLOCKS}")
            found[name] = given[f"kind:{BLOCKS}"]
        return found

    @property
    def steps(self) -> dict[str, int]:
        """Multiples of single groups: as given by kind, and one where no width is rounded."""
        given = self.choices.round_to
        whole = (g for g in self.groups if g.kind == BLOCKS)
        parts = {g.name: 1 for g in (*self.beside.groups, *whole)}
        if not isinstance(given, Mapping):
            return parts
        return {**parts, **{g.name: given[g.kind] for g in self.groups if g.kind in given}}

    def plan(self, drop: Mapping[str, list[int]]) -> Plan:
        """A plan of units and branches; what is inside a branch that goes is not cut before.

        Args:
            drop: Units that go, by group.
        """
        name = "" if self.branches is None else self.branches.name
        gone = () if self.branches is None else self.branches.every
        owned = {fqn for number in drop.get(name, ()) for fqn in gone[number].owned}
        inside = {g.name for g in self.groups if g.slices and {s.tensor for s in g.slices} <= owned}
        chosen = {n: tuple(sorted(u)) for n, u in drop.items() if u and n not in inside}
        return Plan(chosen, {g.name: g.units for g in self.known}, self.known.fingerprint)

    def thinned(self, plan: Plan, kept: Mapping[str, int]) -> Plan:
        """A plan with zeros and bits of an allocation; layers that go as a whole get none.

        Args:
            plan: Of units and branches.
            kept: Units, parts of weights and bits kept by group.
        """
        thin, few = self.beside.densities, self.beside.precisions
        if thin is not None:
            gone = {fqn for block in self.gone(kept) for fqn in block.owned}
            zeros = thin.sparsities(kept)
            sparsity = {name: share for name, share in zeros.items() if name not in gone}
            plan = replace(plan, sparsity=sparsity, pattern=self.choices.pattern.name)
        return plan if few is None else replace(plan, bits=few.bits(kept))

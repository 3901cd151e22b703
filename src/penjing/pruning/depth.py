"""Depth: whole residual branches removed, proved and carried out on the user's own class.

In a module of the user's class the layers of a removed branch make way for parts without
parameters: `Skip` hands on what it is given, `Nothing` adds zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import VerificationError
from penjing.figures import Proof
from penjing.graph.blocks import Block, silenced, without
from penjing.graph.capture import Program
from penjing.graph.form import graph_form
from penjing.graph.network import Cut, Network
from penjing.plan import WHOLE, Groups, Plan
from penjing.pruning.ablation import Branches
from penjing.pruning.result import (
    FAILURES,
    Made,
    folds_of,
    make,
    module_difference,
    shrink_whole,
    wide_difference,
)
from penjing.pruning.scales import Folds
from penjing.pruning.surgery import write_tensors
from penjing.pruning.verify import TOLERANCE, random_like, randomised, relative_difference

REAL_TOLERANCE = 1e-4  # float32, between forms on the real weights


class Skip(nn.Module):
    """In place of a layer of a removed branch: gives its first input back."""

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """The first input."""
        return x


class Nothing(nn.Module):
    """In place of the last layer of a removed branch: zeros like its first input."""

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class Shortened(Cut):
    """One plan applied to the graph of a network: units go, and whole branches.

    Args:
        blocks: The branches.
    """

    blocks: tuple[Block, ...]

    @cached_property
    def widths(self) -> Cut:
        """The cut of the units alone."""
        drop = {name: units for name, units in self.plan.drop.items() if name not in WHOLE}
        return Cut(self.network, replace(self.plan, drop=drop))

    @property
    def kept(self) -> Any:
        """Positions of a dimension that stay."""
        return self.widths.kept

    @cached_property
    def program(self) -> Program:
        """The cut program without the branches; node names stay."""
        return without(self.widths.program, self.blocks)


@dataclass(frozen=True, eq=False)
class Shallower:
    """A network and the same without some blocks.

    Args:
        dense: The network as it was.
        blocks: What goes.
    """

    dense: Program
    blocks: tuple[Block, ...]

    @cached_property
    def program(self) -> Program:
        """The network without the blocks; node names stay."""
        return without(self.dense, self.blocks)


def with_branches(groups: Groups, branches: Branches | None) -> Groups:
    """The groups of a network, whole branches among them where some may go."""
    if branches is None or not branches.removable:
        return groups
    return replace(groups, groups=(*groups.groups, branches.group))


def cut_by(network: Network, plan: Plan) -> Cut:
    """Apply a plan to the graph of a network; no module is touched.

    Args:
        network: The network.
        plan: What goes; whole branches too where it names them.

    Returns:
        The cut, a `Shortened` where branches go.

    Raises:
        PlanError: The plan was made for another network.
    """
    name = next((name for name in WHOLE if name in plan.units), None)
    branches = None if name is None else Branches.of(network.program, name=name)
    plan.check(with_branches(network.groups, branches))
    if branches is None or not plan.drop.get(branches.name):
        return Cut(network, plan)
    return Shortened(network, plan, branches.chosen(plan))


def shorten_whole(model: nn.Module, cut: Cut) -> None:
    """Cut a network in place by a plan that is known to keep its class.

    Args:
        model: The network that `cut` was made from.
        cut: What goes.
    """
    if not isinstance(cut, Shortened):
        shrink_whole(model, cut)
        return
    if cut.widths.plan.drop:
        shrink_whole(model, cut.widths)
    folds = folds_of(model, cut.widths)
    change = Shallower(cut.widths.program, cut.blocks)
    remove_blocks(model, make_shallow(model, change, folds=folds).model)


def make_short(model: nn.Module, cut: Shortened, seed: int = 0) -> Made:
    """Cut units and remove blocks, prove both, and choose the form.

    Args:
        model: The user's network, on the CPU; not changed.
        cut: What goes.
        seed: Of the random weights and inputs of the proofs.

    Returns:
        The module, and one proof of both steps.

    Raises:
        VerificationError: The result is not what it should be.
    """
    change = Shallower(cut.widths.program, cut.blocks)
    if not cut.widths.plan.drop:
        return make_shallow(model, change, seed)
    narrow = make(model, cut.widths, seed)
    if not cut.blocks:
        return narrow
    made = make_shallow(narrow.model, change, seed, narrow.folds)
    first, second = narrow.proof, made.proof
    proof = replace(
        second,
        error=max(first.error, second.error),
        moved=min(first.moved, second.moved),
        nodes=first.nodes + second.nodes,
        reason=first.reason or second.reason,
    )
    return Made(made.model, proof, made.folds)


def make_shallow(
    model: nn.Module, change: Shallower, seed: int = 0, folds: Folds | None = None
) -> Made:
    """Remove blocks from a network, prove it, and choose the form.

    Args:
        model: The user's network, on the CPU; not changed.
        change: What goes.
        seed: Of the random weights and inputs of the proof.
        folds: Factors that the model's queries have beside the program's.

    Returns:
        A module of the user's class where its outputs are right, else the graph form. The
        parameters of the blocks are gone from either.

    Raises:
        VerificationError: The network without the blocks is not the one whose blocks add zero, or
            the blocks add nothing as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    dense, program = change.dense, change.program
    tensors = randomised(dense, generator)
    inputs = [random_like(v, generator) for v in dense.example]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = [
                p.run(inputs, {n: t for n, t in tensors.items() if n in p.tensors})
                for p in (dense, silenced(dense, change.blocks), program)
            ]
    finally:
        torch.set_default_dtype(default)
    error, moved = _largest(outputs[2], outputs[1]), _largest(outputs[1], outputs[0])
    if error > TOLERANCE:
        raise VerificationError(
            f"without {change.blocks[0].name!r} the outputs differ from those of the original "
            f"whose blocks add zero by {error:.1e} (relative); the removal is refused"
        )
    if not moved:
        raise VerificationError(
            f"the blocks {[b.name for b in change.blocks][:3]} do not move the outputs on the "
            "example inputs, so their removal cannot be proved"
        )
    left = {name: t for name, t in tensors.items() if name in program.tensors}
    folds = folds or {}
    made = _of_own_class(model, change, inputs, (left, folds))
    reason = "" if made is not None else "no part of the class is the branch alone"
    if made is None:
        folds, made = {}, graph_form(program)
        origin = getattr(model, "meta", {}).get("original", type(model).__name__)
        made.meta.update(original=origin, reason=reason)
    made.train(model.training)
    real = module_difference(made, program, list(program.example))
    if real > REAL_TOLERANCE:
        raise VerificationError(
            f"the network without its blocks differs from the graph by {real:.1e} (relative) on "
            "the example inputs; the removal is refused"
        )
    form = "graph" if reason else "module"
    return Made(made, Proof(error, moved, real, len(program.nodes), form, reason), folds)


def _largest(got: Sequence[Any], want: Sequence[Any]) -> float:
    pairs = zip(got, want, strict=True)
    return max((relative_difference(g, w) for g, w in pairs if isinstance(w, Tensor)), default=0.0)


def _of_own_class(
    model: nn.Module,
    change: Shallower,
    inputs: list[Any],
    held: tuple[Mapping[str, Tensor], Folds],
) -> nn.Module | None:
    """A copy of the model without the blocks, where parts of it can be swapped for nothing."""
    if isinstance(model, fx.GraphModule):
        return None
    for swap in (_whole, _largest_parts, _leaves):
        made = copy.deepcopy(model)
        try:
            for block in change.blocks:
                swap(made, block)
            difference = wide_difference(made, change.program, inputs, *held)
        except FAILURES:
            continue
        if difference <= TOLERANCE and not _owns(made, change.blocks):
            return made
    return None


def _owns(model: nn.Module, blocks: Sequence[Block]) -> bool:
    """Whether a tensor of a block is still there."""
    named = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    return any(fqn in named for block in blocks for fqn in block.owned)


def _whole(model: nn.Module, block: Block) -> None:
    """The block is a module with its own addition, which gives its input back from now on."""
    for name in _parts(model, block):
        _swap(model, name, Skip)


def _largest_parts(model: nn.Module, block: Block) -> None:
    """The last of the largest modules that the block owns gives zeros, those before it nothing."""
    for name in _parts(model, block):
        last = f"{block.name}.".startswith(f"{name}.")
        _swap(model, name, Nothing if last else Skip)


def _leaves(model: nn.Module, block: Block) -> None:
    """The same with single layers; a norm behind the last layer is the one that gives zeros."""
    owners = list(dict.fromkeys(fqn.rpartition(".")[0] for fqn in block.owned))
    order = [name for name, _ in model.named_modules() if name in owners]
    last = order.index(block.name) if block.name in order else len(order) - 1
    behind = order[last + 1 :]
    for name in order:
        final = name == (behind[-1] if behind else block.name)
        _swap(model, name, Nothing if final else Skip)


def _parts(model: nn.Module, block: Block) -> Iterator[str]:
    """The largest modules all of whose tensors a block owns."""
    own = set(block.owned)
    taken: list[str] = []
    for name, module in list(model.named_modules()):
        held = {n for n, _ in module.named_parameters(name)} | {
            n for n, _ in module.named_buffers(name)
        }
        inside = any(name.startswith(f"{other}.") for other in taken)
        if name and not inside and held & own and _only(held, own):
            taken.append(name)
            yield name


def _only(held: set[str], own: set[str]) -> bool:
    """Whether everything that matters is owned; a counter of training batches does not."""
    return all(n in own or n.endswith("num_batches_tracked") for n in held)


def _swap(model: nn.Module, name: str, part: Callable[[], nn.Module]) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, part())


def remove_blocks(model: nn.Module, made: nn.Module) -> None:
    """Make `model` shallow as `made` is, in place: the same parts swapped, the same tensors.

    Args:
        model: The network that `made` was made from.
        made: What `make_shallow` gave, of the same class.
    """
    for name, part in made.named_modules():
        if isinstance(part, (Skip, Nothing)):
            _swap(model, name, type(part))
    values = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    write_tensors(model, values)

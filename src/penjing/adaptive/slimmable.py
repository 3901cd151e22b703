"""Slimmable networks: one set of weights, several widths.

A narrower network has the first units of every group in order of importance. Its weights are
slices of the full ones; its batch norms are its own, since sums over fewer units have other means
and variances. What it computes is the cut graph of that width, on those slices, so it does as much
less work as the cut network does, and gives what the cut network gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from penjing.errors import InputError, PlanError, StrategyError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Example
from penjing.graph.form import graph_form, skeleton
from penjing.graph.network import Cut, Network
from penjing.plan import Plan
from penjing.pruning.result import make
from penjing.task.randomness import device_of

FULL = 1.0
Positions = tuple[tuple[int, Tensor], ...]
"""Dimension and the positions of it that stay, for every dimension that loses some."""


@dataclass(frozen=True, slots=True)
class Width:
    """One width below the full one.

    Args:
        share: Of the units of every group that stay.
        plan: What goes.
        form: The cut graph; its tensors are placeholders.
        kept: Stored tensor -> what stays of it.
        own: Stored tensors of which this width has its own.
    """

    share: float
    plan: Plan
    form: fx.GraphModule
    kept: Mapping[str, Positions]
    own: frozenset[str]


class SlimmableNetwork(nn.Module):
    """A network that runs at several widths.

    Args:
        model: The full network; held, not copied.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        plans: What goes at each width below the full one, by the share of units that stays.

    Raises:
        PlanError: A plan is for another network, or a narrow network has units that a wider one
            does not have.
        StrategyError: A width outside (0, 1).
    """

    def __init__(
        self, model: nn.Module, example_inputs: Example, plans: Mapping[float, Plan]
    ) -> None:
        super().__init__()
        _check_nested(plans)
        self.model = model
        self._example_inputs, self._dtype = example_inputs, dtype_of(model)
        network = Network.of(model, example_inputs)
        shares = sorted(plans)
        cuts = {share: network.cut(plans[share]) for share in shares}
        self._widths = {share: _width(share, cut) for share, cut in cuts.items()}
        self.own = nn.ModuleList(_own_tensors(cuts[s], self._widths[s]) for s in shares)
        self.width = FULL
        self.train(model.training)

    @property
    def widths(self) -> tuple[float, ...]:
        """All widths, ascending; the last is the full one."""
        return (*sorted(self._widths), FULL)

    @property
    def plans(self) -> dict[float, Plan]:
        """What goes at each width below the full one."""
        return {share: width.plan for share, width in self._widths.items()}

    def set_width(self, width: float) -> Self:
        """Run at this width from now on, in place.

        Args:
            width: One of `widths`.

        Returns:
            Itself.

        Raises:
            StrategyError: There is no such width.
        """
        if width not in self.widths:
            known = ", ".join(f"{one:g}" for one in self.widths)
            raise StrategyError(f"there is no width {width!r}; there are {known}")
        self.width = float(width)
        return self

    @contextmanager
    def at(self, width: float) -> Iterator[Self]:
        """Run at this width inside.

        Args:
            width: One of `widths`.
        """
        before = self.width
        try:
            yield self.set_width(width)
        finally:
            self.width = before

    def train(self, mode: bool = True) -> Self:
        """Training mode, of every width.

        Args:
            mode: Training or not.

        Returns:
            Itself.
        """
        super().train(mode)
        for width in self._widths.values():
            width.form.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network of the present width gives.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            As the original network.
        """
        if self.width == FULL:
            return self.model(*args, **kwargs)
        form = self._widths[self.width].form
        return functional_call(form, self.tensors(self.width), args, kwargs)

    def tensors(self, width: float) -> dict[str, Tensor]:
        """Stored tensors of one width below the full one: slices, and what it has of its own.

        Args:
            width: One of `widths`.

        Returns:
            By qualified name; gradients reach the full weights through the slices.
        """
        chosen = self._widths[width]
        own = named_tensors(self.own[sorted(self._widths).index(width)])
        full = named_tensors(self.model)
        return {
            name: own[name] if name in chosen.own else _slice(full[name], positions)
            for name, positions in chosen.kept.items()
        }

    def at_width(self, width: float) -> nn.Module:
        """The network of one width by itself, really cut.

        Args:
            width: One of `widths`.

        Returns:
            A copy: of the original class where its forward allows it, else a graph form; proved
            against the masked original.

        Raises:
            StrategyError: There is no such width.
            VerificationError: The cut network is not equal to this one.
        """
        with self.at(width):  # which refuses one that is not there
            if width == FULL:
                return copy.deepcopy(self.model)
            cut = Network.of(self.model, self.example_inputs).cut(self._widths[width].plan)
            made = make(self.model, cut)
            made.write({name: tensor.detach() for name, tensor in self.tensors(width).items()})
            return made.model.train(self.training)

    @property
    def example_inputs(self) -> Example:
        """The example where the network is now; what was of the weights' dtype follows it."""
        return following(self._example_inputs, self, self._dtype)


def following(example: Example, model: nn.Module, dtype: torch.dtype | None) -> Example:
    """An example on the device of a network, and in its dtype what was in an earlier one of it.

    Args:
        example: Of its inputs.
        model: As it is now.
        dtype: Of its floating weights when the example was made.
    """
    home, now = device_of(model), dtype_of(model)

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(home, now if leaf.dtype == dtype else leaf.dtype)

    moved_example: Example = pytree.tree_map(moved, example)
    return moved_example


def norm_tensors(network: Network) -> frozenset[str]:
    """Scales, shifts, statistics and counters of batch norms that keep statistics."""
    program = network.program
    fqn = {program.nodes[name]: stored for name, stored in program.stored.items()}
    found: set[str] = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and op_name(node) == "batch_norm":
            call = Call(node)
            if call.arg("running_mean") is None:
                continue
            parts = ("weight", "bias", "running_mean", "running_var")
            held = {fqn[n] for part in parts if (n := call.arg(part)) in fqn}
            owner = fqn[call.arg("running_mean")].rpartition(".")[0]
            found |= held | {f"{owner}.num_batches_tracked".lstrip(".")}
    return frozenset(found & set(fqn.values()))


def _width(share: float, cut: Cut) -> Width:
    if not 0 < share < FULL:
        raise StrategyError(f"a width is {share}; widths below the full one lie between 0 and 1")
    network = cut.network
    program = network.program
    named = {*program.parameters, *program.buffers}
    kept = {}
    for name, fqn in program.stored.items():
        dims = network.analysis.labels(program.nodes[name])
        places = ((axis, cut.kept(dim)) for axis, dim in enumerate(dims))
        kept[fqn] = tuple((axis, at) for axis, at in places if at is not None)
    constants = frozenset(fqn for fqn in program.stored.values() if fqn not in named)
    form = graph_form(cut.program).to("meta")
    return Width(share, cut.plan, form, kept, norm_tensors(network) | constants)


def _own_tensors(cut: Cut, width: Width) -> nn.Module:
    """What a width does not share, as a module."""
    program = cut.program
    held = {name: program.tensors[name].detach().clone() for name in sorted(width.own)}
    constants = frozenset(held) - program.parameters - program.buffers
    return skeleton(held, program.parameters & frozenset(held), constants)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Of the floating weights; None where there are none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _slice(tensor: Tensor, positions: Positions) -> Tensor:
    for axis, at in positions:
        tensor = tensor.index_select(axis, at.to(tensor.device))
    return tensor


def _check_nested(plans: Mapping[float, Plan]) -> None:
    """Refuse widths of which one is not part of the next."""
    if not plans:
        raise StrategyError("there is no width below the full one; give widths=(0.25, 0.5, 0.75)")
    ordered: Sequence[tuple[float, Plan]] = sorted(plans.items())
    for (narrow, less), (wide, more) in pairwise(ordered):
        for group, gone in more.drop.items():
            if not set(gone) <= set(less.drop.get(group, ())):
                raise PlanError(
                    f"width {narrow:g} has units of group {group!r} that width {wide:g} does not "
                    "have; plans of one network come from one order of its units"
                )


def check_slimmable(model: object) -> SlimmableNetwork:
    """Refuse any other network.

    Raises:
        InputError: It has one width.
    """
    if not isinstance(model, SlimmableNetwork):
        raise InputError(
            f"{type(model).__name__} has one width; pj.slimmable makes a network with several"
        )
    return model
